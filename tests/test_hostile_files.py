"""Damaged files: a clear error or the right data, and neither time nor memory without bound."""

import contextlib
import functools
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv
from reverlet.io._files import _FORMATS
from reverlet.io._frames import Request, merged
from reverlet.io._h5md import frames_of
from reverlet.io._hdf5 import hdf5_file, hdf5_server
from reverlet.io._xtc import xtc_frames, xtc_server

pytest.importorskip("mdtraj")
h5py = pytest.importorskip("h5py")

TOPOLOGY = rv.Topology.from_elements(
    ["O", "H", "H", "Ar", "C"], molecules=[0, 0, 0, 1, 2], bonds=[(0, 1), (0, 2)]
).repeat(2)  # XTC packs more than 9 atoms
POSITIONS = np.random.default_rng(0).normal(size=(3, 10, 3))
HOSTILE = [
    b"1_000",
    b"nan",
    b"1e400",
    "٣".encode(),
    b"-",
    b"99999999999",
    b"\0\0\0\0",
    b"\xff\xff\xff\x7f",
    b" ",
    b"\n",
]


@functools.cache
def good(suffix, folder):
    states = jax.vmap(lambda x: rv.State(x, 2 * x, rv.OrthorhombicBox(jnp.full(3, 9.0))))(jnp.asarray(POSITIONS))
    rv.io.write(folder / f"good{suffix}", TOPOLOGY, rv.Trajectory(np.arange(3.0), states, states))
    return (folder / f"good{suffix}").read_bytes()


def mutated(content, rng):
    """The bytes, and in how many places they have changed; 0 where the end is missing."""
    lines, at = content.splitlines(keepends=True), lambda: int(rng.integers(len(content)))
    kind = rng.integers(7)
    if kind == 0:
        return content[: at()], 0
    if kind == 1:
        del lines[rng.integers(len(lines))]
        return b"".join(lines), 1
    if kind == 2:
        lines.insert(rng.integers(len(lines)), lines[rng.integers(len(lines))])
        return b"".join(lines), 1
    if kind == 3:
        k, what = at(), HOSTILE[rng.integers(len(HOSTILE))]
        return content[:k] + what + content[k + len(what) * rng.integers(2) :], 1 + -(-len(what) // 4)  # single numbers
    if kind == 4:
        k = at()
        return content[:k] + content[k + 1 :], 1
    damaged, places = bytearray(content), int(rng.integers(1, 4))
    for _ in range(places):
        damaged[at()] = rng.integers(256) if kind == 5 else 48 + rng.integers(10)
    return bytes(damaged), places


def require_right(suffix, trajectory, original, places):
    """What is read is the original, but for numbers that were changed in the file; of a shorter one, its beginning."""
    positions, frames = np.asarray(trajectory.records.positions), len(original)
    assert len(positions) == frames or (places == 0 and 0 < len(positions) <= frames)
    assert np.all(np.isfinite(positions))
    wrong = int(np.sum(positions != original[: len(positions)]))
    if suffix == ".xtc":  # what is packed decides on what is behind it, and has no checksum
        return
    assert wrong == 0 if suffix == ".h5" else wrong <= max(places, 1)  # HDF5's have checksums


def fuzz(suffix, num, seed, folder):
    content = good(suffix, folder)
    rng, path = np.random.default_rng(seed), folder / f"damaged{suffix}"
    request = Request(TOPOLOGY, 1, 1000, None, None, None)
    refused, slowest = 0, 0.0
    with hdf5_server() as hdf5, xtc_server() as xtc:  # as `read` does, but in one process for all

        def read():
            if suffix == ".h5":
                return merged(list(frames_of(hdf5_file(hdf5, path), request))).trajectory()
            if suffix == ".xtc":
                return merged(list(xtc_frames(xtc, path, request))).trajectory()
            return rv.io.read(path, topology=TOPOLOGY)[1]

        path.write_bytes(content)
        original = np.asarray(read().records.positions)
        for _ in range(num):
            damaged, places = mutated(content, rng)
            path.write_bytes(damaged)
            before, got = time.process_time(), None
            with contextlib.suppress(ValueError):
                got = read()
            slowest = max(slowest, time.process_time() - before)
            refused += got is None
            if got is not None:
                require_right(suffix, got, original, places)
    assert 0 < refused < num  # both kinds are among them
    assert slowest < 5


def used():
    """Bytes that this process and those it has started have had at most."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


SUFFIXES = tuple(f for f in _FORMATS if f != ".h5md")  # of all that is read


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mutations(suffix, tmp_path):
    before = used()
    fuzz(suffix, 300, 1, tmp_path)
    assert used() - before < 1e9


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_many_mutations(suffix, tmp_path):
    before = used()
    for seed in range(2, 7):
        fuzz(suffix, 300, seed, tmp_path)
    assert used() - before < 1e9


def h5md(path, value=None, **storage):
    """A file of one argon, without its positions if they are to be something else."""
    with h5py.File(path, "w") as file:
        atoms = file.create_group("particles/all")
        atoms.create_group("box").attrs["boundary"] = np.array([b"none"] * 3)
        atoms["element"] = [b"Ar"]
        data = [[[0.1, 0.2, 0.3]]] if value is None and not storage else value
        group = atoms.create_group("position")
        if storage:
            group.create_dataset("value", **storage)
        else:
            group["value"] = data
        if isinstance(group.get("value", getlink=True), h5py.HardLink):
            group["value"].attrs["unit"] = np.bytes_("nm")
    return path


def test_hdf5_of_other_files_and_of_nothing(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(3.0).tobytes())
    h5md(tmp_path / "other.h5")
    layout = h5py.VirtualLayout((1, 1, 3), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "particles/all/position/value", (1, 1, 3))
    huge = (1, 400_000_000, 3)
    cases = [
        ({"value": h5py.ExternalLink("other.h5", "/particles/all/position/value")}, "is a link to somewhere else"),
        ({"value": h5py.SoftLink("/particles/all/element")}, "is a link to somewhere else"),
        ({"shape": (1, 1, 3), "dtype": "f8", "external": [(str(secret), 0, 24)]}, "is stored in another file"),
        ({"shape": huge, "dtype": "f8", "chunks": True}, "has 9600000000 bytes by its shape, of which 0 are"),
        ({"shape": huge, "dtype": "f8", "chunks": True, "compression": "gzip"}, "9600000000 bytes by its shape"),
        ({"data": np.ones((1, 1, 3), "c16")}, "holds complex128, wanted numbers"),
        ({"data": np.ones((1, 1, 3), "f2")}, "holds <f2, wanted numbers"),
        ({"data": np.ones((1, 1))}, r"positions have shape \(1, 1\)"),
    ]
    with hdf5_server() as server:
        read = lambda path: merged(list(frames_of(hdf5_file(server, path), Request(None, 1, 9, None, None, None))))
        assert read(tmp_path / "other.h5").positions.tolist() == [[[0.1, 0.2, 0.3]]]
        for k, (storage, message) in enumerate(cases):
            with pytest.raises(ValueError, match=message):
                read(h5md(tmp_path / f"{k}.h5", **storage))
        with h5py.File(tmp_path / "virtual.h5", "w") as file:
            file.create_virtual_dataset("particles", layout)
        with pytest.raises(ValueError, match="is stored in another file"):
            read(tmp_path / "virtual.h5")


def test_hdf5_that_never_comes_back(tmp_path):
    """Texts of variable length stand in a heap without checksums, whose readers go round in its zeros for ever."""
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        for k in range(6):
            file.attrs[f"unit {k}"] = "nm"
    content = bytearray((tmp_path / "a.h5").read_bytes())
    heap = content.index(b"GCOL") + 16
    content[heap : heap + 70] = bytes(70)
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ValueError, match="does not come back"):
        rv.io.read(tmp_path / "a.h5")
    rv.io.write(tmp_path / "a.h5", TOPOLOGY, rv.State(jnp.asarray(POSITIONS[0]), None, rv.OpenBox()))
    assert b"GCOL" not in (tmp_path / "a.h5").read_bytes()  # ours have none
