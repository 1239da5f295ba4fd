"""HDF5 as other programs write it, in H5MD's layout and in MDTraj's: read as it was meant, or refused by name."""

import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv
from reverlet.io._frames import Request, merged
from reverlet.io._h5md import frames_of
from reverlet.io._hdf5 import hdf5_file, hdf5_server

pytest.importorskip("mdtraj")
h5py = pytest.importorskip("h5py")

ARGON = rv.Topology.from_elements(["Ar", "Ar"])


@pytest.fixture(scope="module")
def read():
    """As `rv.io.read`, but in one process for all files, which starts once; of copies, since it keeps them open."""
    number = itertools.count()
    with hdf5_server() as server:

        def read(path, topology=None):
            file = hdf5_file(server, shutil.copy(path, path.with_name(f"{next(number)}.h5")))
            frames = merged(list(frames_of(file, Request(topology, 1, 1000, None, None, None))))
            return frames.topology, frames.trajectory()

        yield read


def h5md(path, *, species=(1, 2), mass=None, creator=None, **more):
    with h5py.File(path, "w") as file:
        if creator is not None:
            file.create_group("h5md/creator").attrs["name"] = creator
        atoms = file.create_group("particles/all")
        atoms["position/value"] = np.array([[[1.9, 1, 1], [0.5, 1, 1]], [[0.1, 1, 1], [0.5, 1, 1]]])
        atoms["position/value"].attrs["unit"] = "nm"
        box = atoms.create_group("box")
        box.attrs["boundary"] = ["periodic"] * 3
        box["edges"] = [2.0, 2.0, 2.0]
        box["edges"].attrs["unit"] = "nm"
        atoms["species"] = species
        if mass is not None:
            atoms["mass"] = np.array(mass)
            atoms["mass"].attrs["unit"] = "u"
        for name, values in more.items():
            atoms[name.replace("_", "/")] = values
    return path


def test_species_that_are_types_of_atoms(tmp_path, read):
    path = tmp_path / "a.h5"
    for masses in (None, (15.999, 1.008)):
        with pytest.raises(ValueError, match=r"\[1, 2\], which may be atomic numbers or types of atoms"):
            read(h5md(path, mass=masses))
    assert read(path, topology=rv.Topology.from_elements(["O", "H"]))[0].elements == ("O", "H")
    for masses in ((1.008, 4.0026), (2.014, 4.0026)):
        assert read(h5md(path, mass=masses))[0].elements == ("H", "He")
    assert read(h5md(path, element=[b"O", b"H"]))[0].elements == ("O", "H")
    assert read(h5md(path, species=[b"O", b"H"]))[0].elements == ("O", "H")
    names = h5py.enum_dtype({"O": 1, "H": 2})
    assert read(h5md(path, species=np.array([1, 2], names)))[0].elements == ("O", "H")
    with pytest.raises(ValueError, match="atom 0 is O, that of `topology` H"):
        read(path, topology=rv.Topology.from_elements(["H", "H"]))


def test_atoms_in_another_order_are_refused(tmp_path, read):
    """As parallel programs leave them, with an identifier: than in other frames, or than in `topology`."""
    path, two = tmp_path / "a.h5", {"element": [b"Ar", b"Ar"]}
    read(h5md(path, id_value=np.array([[3, 7], [3, 7]])), topology=ARGON)
    with pytest.raises(ValueError, match="atoms are in another order in some frames"):
        read(h5md(path, id_value=np.array([[3, 7], [7, 3]])), topology=ARGON)
    for ids in ({"id": [7, 3]}, {"id": np.array([7, 3], np.uint64)}, {"id_value": np.array([[7, 3], [7, 3]])}):
        read(h5md(path, **two, **ids))
        with pytest.raises(ValueError, match="atoms 0 and 1 have the `id` 7 and 3, and `topology` may"):
            read(path, topology=ARGON)


def test_bonds_name_atoms_by_their_identifiers(tmp_path, read):
    """Where there are any, as H5MD has it; else by their places."""
    path, two = tmp_path / "a.h5", {"element": [b"Ar", b"Ar"]}
    for more, bond, wanted in (
        ({}, (0, 1), [[0, 1]]),
        ({"id": [7, 3]}, (3, 7), [[0, 1]]),
        ({"id": [7, 3]}, (0, 1), None),
    ):
        h5md(path, **two, **more)
        with h5py.File(path, "a") as file:
            file["connectivity/bonds"] = np.array([bond])
        if wanted is not None:
            assert read(path)[0].bonds.tolist() == wanted
        else:
            with pytest.raises(ValueError, match="name atom 0, which is no `id`"):
                read(path)
    with h5py.File(path, "a") as file:
        file.move("connectivity/bonds", "connectivity/atoms/value")  # as ESPResSo has it
    with pytest.raises(ValueError, match="`/connectivity/atoms/value` may be bonds"):
        read(path)


@pytest.mark.parametrize("name", ["velocity", "image", "box/edges"])
@pytest.mark.parametrize(
    ("positions", "others", "same"),  # values, of a single number what frames are apart; its offset; its unit
    [
        (([0, 10], None, "ps"), ([5, 15], None, "ps"), ()),
        (([0, 10], None, "ps"), (10, None, "ps"), ("step", "time")),
        ((10, None, "ps"), (20, None, "ps"), ()),
        ((10.0, 20.0, "ps"), (10.0, 20.005, "ps"), ()),
        ((10, 0, "ps"), (10, None, "ps"), ("step", "time")),
        (([20, 30], None, "ps"), (10, 20, "ps"), ("step", "time")),
        ((10, None, "ps"), (10, None, "fs"), ("step",)),
        (([0, 10], None, "ps"), (10_000, None, "fs"), ("time",)),
        ((10, None, "ps"), (10, None, None), ("step",)),
    ],
)
def test_what_is_of_other_frames_is_refused(tmp_path, read, name, positions, others, same):
    """Whether steps or only times say so, each as a number for every frame or as their interval (H5MD 1.1)."""
    whole = {"velocity": np.ones((2, 2, 3)), "image": np.zeros((2, 2, 3), int), "box/edges": np.full((2, 3), 2.0)}
    path = h5md(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        atoms = file["particles/all"]
        if name in atoms:
            del atoms[name]
        atoms[f"{name}/value"] = whole[name]
        atoms[f"{name}/value"].attrs["unit"] = "nm ps-1" if name == "velocity" else "nm"
    for what in ("step", "time"):
        with h5py.File(path, "a") as file:
            for element, (values, offset, unit) in (("position", positions), (name, others)):
                group = file["particles/all"][element]
                group.pop("step", None)
                group[what] = values
                for key, value in (("offset", offset), ("unit", unit if what == "time" else None)):
                    if value is not None:
                        group[what].attrs[key] = value
        if what in same:
            read(path, topology=ARGON)
        else:
            with pytest.raises(ValueError, match=rf"of other steps than the positions \(`{what}`\)|unit of .* is None"):
                read(path, topology=ARGON)


def test_steps_of_one_and_times_of_the_other(tmp_path, read):
    with h5py.File(h5md(tmp_path / "a.h5", velocity_value=np.ones((2, 2, 3))), "a") as file:
        file["particles/all/position/step"], file["particles/all/velocity/time"] = 10, 20.0
    with pytest.raises(ValueError, match="says its time, its positions step: whether these are of the same frames"):
        read(tmp_path / "a.h5", topology=ARGON)


def test_names_that_would_be_passed_over(tmp_path, read):
    """H5MD 1.1 knows `velocity` and `mass`."""
    for name in ("velocities_value", "momentum_value", "masses"):
        path = h5md(tmp_path / "a.h5", element=[b"Ar", b"Ar"], **{name: np.ones((2, 2, 3))})
        with pytest.raises(
            ValueError, match=f"has `{name.split('_')[0]}`, which is none of .* and would be passed over"
        ):
            read(path)
    read(path, topology=ARGON)  # whose masses count


def test_images_are_unwrapped(tmp_path, read):
    """An atom that has left the box on its right has an image of 1."""
    image = np.array([[[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]])
    _, got = read(h5md(tmp_path / "a.h5", image_value=image), topology=ARGON)
    np.testing.assert_allclose(got.records.positions[:, 0, 0], [1.9, 2.1])
    with pytest.raises(ValueError, match="image` has shape"):
        read(h5md(tmp_path / "a.h5", image_value=image[:1]), topology=ARGON)


def test_hdf5_of_mdtraj(tmp_path, read):
    """As MDTraj's own source lays it out; its reader and writer need PyTables, which need not be here."""
    atom = lambda k, element: {"index": k, "name": element, "element": element}
    residues = [{"index": 0, "name": "HOH", "resSeq": 1, "atoms": [atom(0, "O"), atom(1, "H"), atom(2, "H")]}]
    residues.append({"index": 1, "name": "AR", "resSeq": 2, "atoms": [atom(3, "Ar")]})
    found = {"chains": [{"index": 0, "residues": residues}], "bonds": [[0, 1], [0, 2]]}
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values, unit in (
            ("coordinates", x, "nanometers"),
            ("time", np.array([1.0, 1.5], "f4"), "picoseconds"),
            ("cell_lengths", np.full((2, 3), 3.0, "f4"), "nanometers"),
            ("cell_angles", np.full((2, 3), 90.0, "f4"), "degrees"),
        ):
            file[name] = values
            file[name].attrs["units"] = np.bytes_(unit)
        file["topology"] = np.array([json.dumps(found)], "S")
    topology, got = read(tmp_path / "a.h5")
    assert topology.elements == ("O", "H", "H", "Ar")
    assert topology.bonds.tolist() == [[0, 1], [0, 2]]
    assert topology.molecules.tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(got.records.positions, x)
    np.testing.assert_array_equal(got.times, [1.0, 1.5])
    np.testing.assert_allclose(got.records.box.lengths, 3.0)
    assert not got.records.has_velocities
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["coordinates"].attrs["units"] = np.bytes_("angstroms")
    with pytest.raises(ValueError, match="units of `/coordinates` are 'angstroms'"):
        read(tmp_path / "a.h5")


def test_boxes_of_other_frames_are_refused(tmp_path, read):
    """As many as the positions, or few of them: which belong together would be a guess."""
    path = tmp_path / "a.h5"
    states = jax.vmap(lambda a: rv.State(jnp.ones((2, 3)), None, rv.OrthorhombicBox(a * jnp.ones(3))))(
        jnp.arange(3.0, 6)
    )
    rv.io.write(path, ARGON, states)
    with h5py.File(path, "a") as file:
        edges = file["particles/all/box/edges"]
        del edges["step"]
        edges["step"] = [0, 2, 4]
    with pytest.raises(ValueError, match="box/edges` is of other steps than the positions"):
        read(path)
    with h5py.File(path, "a") as file:
        edges = file["particles/all/box/edges/value"]
        edges.resize(1, axis=0)
    with pytest.raises(ValueError, match=r"edges of shape \(1, 3, 3\) for 3 frames|of other steps"):
        read(path)
