"""Files: what is written is read back, by others too; and damaged files are refused."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BOXES, SEEDS, SHARED, few
from hypothesis import given, settings

import reverlet as rv

pytest.importorskip("ase")
pytest.importorskip("mdtraj")
h5py = pytest.importorskip("h5py")

ELEMENTS = ["O", "H", "H", "Ar", "H", "O", "H", "C", "N"]
TOPOLOGY = rv.Topology.from_elements(
    ELEMENTS,
    masses=np.array([16.5, 1, 2, 39.948, 1, 16, 1, 12, 14]),
    molecules=[0, 0, 0, 1, 2, 2, 2, 3, 3],
    bonds=[(0, 1), (0, 2), (5, 4), (5, 6), (7, 8)],
)
SUFFIXES = (".extxyz", ".xyz", ".pdb", ".dcd", ".h5")
STANDARD = ("open", "orthorhombic", "triclinic, right angles", "triclinic", "hexagonal")
"""Boxes that three lengths and three angles describe."""
# nm, of numbers up to a few nm: half of the last of 8 decimals in Å, of 3 decimals in Å, and single precision
POSITION_ERROR = {".extxyz": 5.1e-10, ".xyz": 5.1e-10, ".pdb": 5.1e-5, ".dcd": 5e-7, ".h5": 0.0}
# PDB has angles to 0.005 degrees, 9e-5 of an edge of up to 2.3 nm; lengths to 5e-5 nm
BOX_ERROR = {".extxyz": 1e-14, ".pdb": 5e-4, ".dcd": 1e-6, ".h5": 0.0}


def trajectory(box, frames, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=(2, frames, len(ELEMENTS), 3)).astype(dtype)
    states = jax.vmap(lambda x, v: rv.State(x, v, box.astype(dtype)))(jnp.asarray(x), jnp.asarray(v))
    times = 0.25 * jnp.arange(frames).astype(dtype) - 1
    return rv.Trajectory(times, states, jax.tree.map(lambda a: a[-1], states))


def vectors(states):
    return np.asarray(jax.vmap(lambda box: box.vectors)(states.box))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(st.sampled_from(STANDARD), st.sampled_from([1, 3]), st.sampled_from([np.float32, np.float64]), SEEDS)
@settings(few, max_examples=8)
def test_round_trip(suffix, box, frames, dtype, seed):
    written = trajectory(BOXES[box], frames, seed, dtype)
    rounding = 4 * np.finfo(dtype).eps  # of a unit's conversion, there and back, of numbers up to 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        rv.io.write(path, TOPOLOGY, written)
        assert [p.name for p in Path(folder).iterdir()] == [path.name]
        topology, got = rv.io.read(path, topology=TOPOLOGY if suffix == ".dcd" else None)
        if frames == 1:
            _, state = rv.io.read_structure(path, topology=topology)
            np.testing.assert_array_equal(state.positions, got.records.positions[0])
    assert topology.elements == tuple(ELEMENTS)
    np.testing.assert_allclose(
        got.records.positions, written.records.positions, rtol=0, atol=POSITION_ERROR[suffix] + 4 * rounding
    )
    if suffix == ".h5":
        assert got.records.positions.dtype == dtype
        np.testing.assert_array_equal(got.records.positions, written.records.positions)
        np.testing.assert_array_equal(got.records.velocities, written.records.velocities)
    if suffix in (".extxyz", ".h5"):
        # momenta have 8 decimals in ASE's units, one of which is 98 nm/ps u: 5e-7 nm/ps for the lightest atom
        atol = 5.1e-7 if suffix == ".extxyz" else 0.0
        np.testing.assert_allclose(
            got.records.velocities, written.records.velocities, rtol=0, atol=atol + 4 * rounding * (atol > 0)
        )
        np.testing.assert_array_equal(got.times, written.times)
        np.testing.assert_allclose(topology.masses, TOPOLOGY.masses, rtol=1e-7)
    else:
        assert not got.records.has_velocities
        assert np.all(np.isnan(got.times))  # absent
    if suffix != ".xyz":
        np.testing.assert_array_equal(topology.molecules, TOPOLOGY.molecules)
        assert isinstance(got.records.box, rv.OpenBox) == (box == "open")
        if box != "open":
            np.testing.assert_allclose(
                vectors(got.records), vectors(written.records), rtol=0, atol=BOX_ERROR[suffix] + rounding
            )
            upright = box in ("orthorhombic", "triclinic, right angles")
            assert isinstance(got.records.box, rv.OrthorhombicBox if upright else rv.TriclinicBox)
    if suffix in (".pdb", ".h5"):
        sets = [{frozenset(map(int, b)) for b in t.bonds} for t in (topology, TOPOLOGY)]
        assert sets[0] == sets[1]


@pytest.mark.parametrize("suffix", [".extxyz", ".h5"])
def test_boxes_of_any_orientation_that_change(tmp_path, suffix):
    states = trajectory(BOXES["left-handed"], 3).records
    growing = jax.vmap(lambda s, f: rv.State(s.positions, s.velocities, s.box.deform(f * jnp.eye(3))))(
        states, jnp.array([1.0, 1.01, 1.02])
    )
    rv.io.write(tmp_path / f"a{suffix}", TOPOLOGY, growing)
    _, got = rv.io.read(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(vectors(got.records), vectors(growing), rtol=1e-14)
    for other in (".pdb", ".dcd"):
        with pytest.raises(ValueError, match=r"extxyz|`\.h5`"):
            rv.io.write(tmp_path / f"a{other}", TOPOLOGY, growing)
        assert not (tmp_path / f"a{other}").exists()


@pytest.mark.parametrize("box", ["orthorhombic", "triclinic"])
def test_other_programs_read_the_same(tmp_path, box):
    import ase.io
    import ase.units
    import mdtraj
    from openmm.app import PDBFile
    from openmm.unit import nanometer

    written = trajectory(BOXES[box], 2)
    for suffix in SUFFIXES:
        rv.io.write(tmp_path / f"a{suffix}", TOPOLOGY, written)
    x, cell = np.asarray(written.records.positions), np.asarray(vectors(written.records)[0])
    frames = ase.io.read(tmp_path / "a.extxyz", index=":")
    np.testing.assert_allclose([a.positions for a in frames], 10 * x, atol=5.1e-9)
    np.testing.assert_allclose(frames[0].cell, 10 * cell, atol=1e-12)
    # by energy, which needs no velocity units: eV against kJ/mol; ASE's constants are of CODATA 2014
    kinetic = rv.System(TOPOLOGY, rv.LennardJones(0.3, 1.0, cutoff=0.4)).kinetic_energy(written.records.velocities[0])
    np.testing.assert_allclose(frames[0].get_kinetic_energy() / (ase.units.kJ / ase.units.mol), kinetic, rtol=1e-6)
    np.testing.assert_allclose(ase.io.read(tmp_path / "a.pdb", index=0).positions, 10 * x[0], atol=5.1e-4)
    np.testing.assert_allclose(ase.io.read(tmp_path / "a.xyz", index=1).positions, 10 * x[1], atol=5.1e-9)
    pdb = mdtraj.load(tmp_path / "a.pdb")
    assert [r.name for r in pdb.topology.residues] == ["HOH", "MOL", "HOH", "MOL"]
    dcd = mdtraj.load(tmp_path / "a.dcd", top=pdb.topology)
    np.testing.assert_allclose(dcd.xyz, x, atol=1e-6)
    np.testing.assert_allclose(dcd.unitcell_vectors[0], cell, atol=1e-6)
    opened = PDBFile(str(tmp_path / "a.pdb"))
    positions = np.array(opened.getPositions(asNumpy=True).value_in_unit(nanometer))
    np.testing.assert_allclose(positions, x[0], atol=5.1e-5)
    assert [a.element.symbol for a in opened.topology.atoms()] == ELEMENTS
    assert len(list(opened.topology.bonds())) == 5
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file["h5md"].attrs["version"]) == [1, 1]
        assert file["particles/all/position/value"].attrs["unit"] == b"nm"
        assert file["particles/all/position/time"] == file["particles/all/velocity/time"]


def test_dcd_of_angles_in_degrees(tmp_path):
    path = tmp_path / "a.dcd"
    written = trajectory(BOXES["triclinic"], 2)
    rv.io.write(path, TOPOLOGY, written)
    words = np.fromfile(path, "<i4")
    start = 23 + 2 + words[23] // 4 + 3
    size = 14 + 3 * (len(ELEMENTS) + 2)
    for k in range(2):
        cell = words[start + k * size + 1 : start + k * size + 13].view("<f8")
        cell[[1, 3, 4]] = np.degrees(np.arccos(cell[[1, 3, 4]]))  # MDTraj has written cosines
    words.tofile(path)
    _, got = rv.io.read(path, topology=TOPOLOGY)
    np.testing.assert_allclose(vectors(got.records), vectors(written.records), atol=1e-6)


def test_h5md_of_other_units_and_fixed_boxes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        atoms = file.create_group("particles/trajectory")
        atoms["position/value"] = np.full((2, 1, 3), 5.0)
        atoms["position/value"].attrs["unit"] = "Angstrom"
        atoms["position/time"] = 500.0
        atoms["position/time"].attrs["unit"] = "fs"
        atoms["velocity/value"] = np.ones((2, 1, 3))
        atoms["velocity/value"].attrs["unit"] = np.bytes_("Angstrom fs-1")
        box = atoms.create_group("box")
        box.attrs["boundary"] = np.array([b"periodic"] * 3)
        box["edges"] = np.array([20.0, 30, 40])
        box["edges"].attrs["unit"] = "Angstrom"
    with pytest.raises(ValueError, match="no `species`: give `topology`"):
        rv.io.read(tmp_path / "a.h5")
    _, got = rv.io.read(tmp_path / "a.h5", topology=rv.Topology.from_elements(["Ar"]))
    np.testing.assert_allclose(got.records.positions, 0.5)
    np.testing.assert_allclose(got.records.velocities, 100)
    np.testing.assert_allclose(got.times, [0, 0.5])
    np.testing.assert_allclose(got.records.box.lengths, [[2, 3, 4]] * 2)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["particles/trajectory/position/value"].attrs["unit"] = "parsec"
    with pytest.raises(ValueError, match=r"unit of `/particles/.*/value` is 'parsec', wanted one of \['nm'"):
        rv.io.read(tmp_path / "a.h5", topology=rv.Topology.from_elements(["Ar"]))


def test_water_of_a_pdb_file():
    path = SHARED / "data" / "water" / "water64.pdb"
    if not path.exists():
        pytest.skip("the box of water is not here")
    topology, state = rv.io.read_structure(path)
    assert topology.elements == ("O", "H", "H") * 64
    np.testing.assert_array_equal(topology.molecules, np.repeat(np.arange(64), 3))
    assert len(topology.bonds) == 128
    np.testing.assert_allclose(state.box.lengths, 1.2385)
    np.testing.assert_allclose(state.positions[0], [0.9762, 0.7345, 0.2343])


def read_bytes(suffix, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged{suffix}"
        path.write_bytes(content)
        try:
            return rv.io.read(path, topology=TOPOLOGY)[1]
        except ValueError as caught:
            message = str(caught)
    assert str(path) in message
    assert "Wanted" in message
    return None


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(st.binary(max_size=400))
@few
def test_noise_is_refused(suffix, content):
    assert read_bytes(suffix, content) is None


XYZ = '2\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3\nH 0 0 0\nH 1 1 1\n'
PDB = "CRYST1   12.000   12.000   12.000  90.00  90.00  90.00 P 1           1 \n"
ATOM = "ATOM  {0:5d}  H{0}  MOL A   1    {1:8.3f}   0.000   0.000  1.00  0.00           H  \n"
TWO = PDB + ATOM.format(1, 1.0) + ATOM.format(2, 2.0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xyz", "", "Line 1 is '', wanted the number of atoms"),
        ("a.xyz", "two\n", "Line 1 is 'two', wanted the number"),
        ("a.xyz", "0\n\n", "Line 1 is '0', wanted the number"),
        ("a.xyz", "3\n\nH 0 0 0\nH 1 1 1\n", "frame of 3 atoms follows, but the file ends 2 atoms later"),
        ("a.xyz", "99999999999\n\nH 0 0 0\n", "frame of 99999999999 atoms follows"),
        ("a.xyz", "1\nH 0 0 0\nH 0 0 0\n", "Line 2 is .*, an atom in the place of the comment"),
        ("a.xyz", "1\n\nX 0 0 0\n", "Line 3: 'X' is not the symbol of an element"),
        ("a.xyz", "1\n\nH 0 0 nan\n", "Line 3, column `pos`, has 'nan'"),
        ("a.xyz", "1\n\nH 0 0\n", "cannot be read"),
        ("a.xyz", "1\n\nH 0 0 0\n1\n\nO 0 0 0\n", "frame 1 are not those of frame 0"),
        ("a.extxyz", XYZ.replace("Properties", 'pbc="T T F" Properties'), "wanted all T or all F"),
        ("a.extxyz", XYZ.replace('Lattice="9 0 0 0 9 0 0 0 9"', 'pbc="T T T"'), "and no Lattice"),
        ("a.extxyz", XYZ.replace("9 0 0 0 9", "9 0 0 9 0"), "volume"),
        ("a.extxyz", XYZ.replace("9 0 0 0 9 0", "9 0 0 8 9 0"), "too skewed"),
        ("a.extxyz", XYZ.replace("9 0 0 0 9 0", "9 0 0 0 nan 0"), "Line 2 has 'nan'"),
        ("a.pdb", "", "at least one"),
        ("a.pdb", PDB, "at least one"),
        ("a.pdb", TWO[:-30], "atom without all three coordinates"),
        ("a.pdb", TWO.replace("ATOM      2", "AXOM      2"), "Line 3 .* no record of a PDB file"),
        ("a.pdb", "MODEL     1\n" + TWO, "ends in the middle of a model"),
        ("a.pdb", f"MODEL     1\n{TWO}ENDMDL\nMODEL     2\n{ATOM.format(1, 1)}ENDMDL\n", r"models have \[1, 2\] atoms"),
        ("a.pdb", TWO.replace("  1.000   0.000", "  one     0.000"), "cannot be read"),
        ("a.pdb", TWO.replace("12.000   12.000  90.00", "12.000   -2.000  90.00"), "make no box"),
        ("a.pdb", TWO.replace("90.00 P", " 0.00 P"), "make no box"),
        ("a.h5", "", "cannot be read"),
        ("a.cif", "", "wanted a name that ends in .extxyz"),
    ],
)
def test_malformed_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        rv.io.read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_what_does_not_fit(tmp_path):
    written = trajectory(BOXES["orthorhombic"], 2)
    argon = rv.Topology.from_elements(["Ar"])
    with pytest.raises(ValueError, match=r"There is no file .*none\.pdb"):
        rv.io.read(tmp_path / "none.pdb")
    with pytest.raises(ValueError, match="There is no folder"):
        rv.io.write(tmp_path / "none" / "a.pdb", TOPOLOGY, written)
    with pytest.raises(ValueError, match="of 9 atoms; wanted the topology's 1"):
        rv.io.write(tmp_path / "a.h5", argon, written)
    with pytest.raises(ValueError, match="wanted whole states"):
        rv.io.write(tmp_path / "a.h5", TOPOLOGY, rv.Trajectory(written.times, written.times, written.final))
    with pytest.raises(ValueError, match="one trajectory"):
        rv.io.write(tmp_path / "a.h5", TOPOLOGY, jax.tree.map(lambda x: x[None], written))
    bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), written.records)
    with pytest.raises(ValueError, match="not finite"):
        rv.io.write(tmp_path / "a.h5", TOPOLOGY, bad)
    far = jax.tree.map(lambda x: 1e5 * x, trajectory(rv.OpenBox(), 1))
    with pytest.raises(ValueError, match="PDB has room"):
        rv.io.write(tmp_path / "a.pdb", TOPOLOGY, far)
    assert not list(tmp_path.iterdir())  # nothing half written is left
    rv.io.write(tmp_path / "a.dcd", TOPOLOGY, written)
    with pytest.raises(ValueError, match="give `topology`"):
        rv.io.read(tmp_path / "a.dcd")
    with pytest.raises(ValueError, match="It has 9 atoms, `topology` has 1"):
        rv.io.read(tmp_path / "a.dcd", topology=argon)
    rv.io.write(tmp_path / "a.pdb", TOPOLOGY, written.final)
    with pytest.raises(ValueError, match="Its atom 0 is O, that of `topology` Ar"):
        rv.io.read(tmp_path / "a.pdb", topology=rv.Topology.from_elements(["Ar"] * 9))


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    written = trajectory(BOXES["orthorhombic"], 2)
    rv.io.write(tmp_path / "a.pdb", TOPOLOGY, written)
    before = (tmp_path / "a.pdb").read_bytes()
    with pytest.raises(ValueError, match="PDB has no room for a box"):
        rv.io.write(tmp_path / "a.pdb", TOPOLOGY, jax.tree.map(lambda x: 1e5 * x, written.final))
    assert [p.name for p in tmp_path.iterdir()] == ["a.pdb"]
    assert (tmp_path / "a.pdb").read_bytes() == before


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install ase"):
        rv.io.write(tmp_path / "a.h5", TOPOLOGY, trajectory(rv.OpenBox(), 1))
