"""GROMACS's XTC, TRR and GRO: what is written is read back, by MDTraj too, and what others write as it was meant."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BOXES

import reverlet as rv

mdtraj = pytest.importorskip("mdtraj")

NUM_ATOMS = 12  # up to 9 are not packed in XTC
TOPOLOGY = rv.Topology.from_elements(["O", "H", "H", "Ar"] * 3, molecules=[0, 0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5])
GRO_ROW = "    1SOL     OW    1   0.126  -0.132   0.640  0.0100 -0.0200  0.0300\n"
GRO = f"Water, t=   2.50000 step= 5\n    1\n{GRO_ROW}   1.86206   1.86206   1.86206\n"
OXYGEN = rv.Topology.from_elements(["O"])


def trajectory(box, times, dtype=np.float64):
    x, v = np.random.default_rng(0).normal(size=(2, len(times), NUM_ATOMS, 3)).astype(dtype)
    states = jax.vmap(lambda x, v: rv.State(x, v, box.astype(dtype)))(jnp.asarray(x), jnp.asarray(v))
    return rv.Trajectory(np.asarray(times), states, jax.tree.map(lambda a: a[-1], states))


def vectors(states):
    return np.asarray(jax.vmap(lambda box: box.vectors)(states.box))


# nm, of numbers up to 4 nm: half of the last of 3 decimals (and, packed, single precision besides), or nothing
@pytest.mark.parametrize(("suffix", "atol"), [(".xtc", 5.1e-4), (".trr", 0.0), (".gro", 5.1e-4)])
@pytest.mark.parametrize("box", ["open", "orthorhombic", "triclinic"])
def test_round_trip(tmp_path, suffix, atol, box):
    written = trajectory(BOXES[box], 0.5 * np.arange(5))
    rv.io.write(tmp_path / f"a{suffix}", TOPOLOGY, written)
    _, got = rv.io.read(tmp_path / f"a{suffix}", topology=TOPOLOGY)
    np.testing.assert_allclose(got.records.positions, written.records.positions, rtol=0, atol=atol)
    np.testing.assert_array_equal(got.times, written.times)
    assert got.records.has_velocities == (suffix != ".xtc")
    if suffix != ".xtc":
        np.testing.assert_allclose(got.records.velocities, written.records.velocities, rtol=0, atol=atol / 10)
    assert isinstance(got.records.box, rv.OpenBox) == (box == "open")
    if box != "open":
        np.testing.assert_allclose(
            vectors(got.records), vectors(written.records), rtol=0, atol=1e-6 * (suffix == ".xtc") + 1e-9 * (atol > 0)
        )
    with pytest.raises(ValueError, match="It has 12 atoms, `topology` has 1"):
        rv.io.read(tmp_path / f"a{suffix}", topology=OXYGEN)
    with pytest.raises(ValueError, match="does not say what its atoms are: give `topology`"):
        rv.io.read(tmp_path / f"a{suffix}")
    turned = trajectory(BOXES["left-handed"], [0.0])
    with pytest.raises(ValueError, match="cannot be written in this format"):
        rv.io.write(tmp_path / f"a{suffix}", TOPOLOGY, turned)


@pytest.mark.parametrize("suffix", [".xtc", ".trr", ".gro"])
def test_mdtraj_reads_the_same(tmp_path, suffix):
    written = trajectory(BOXES["triclinic"], 1 + 0.5 * np.arange(3))
    rv.io.write(tmp_path / f"a{suffix}", TOPOLOGY, written)
    rv.io.write(tmp_path / "a.pdb", TOPOLOGY, written.final)
    top = {} if suffix == ".gro" else {"top": tmp_path / "a.pdb"}
    found = mdtraj.load(tmp_path / f"a{suffix}", **top)
    np.testing.assert_allclose(found.xyz, written.records.positions, atol=1e-6 if suffix == ".trr" else 5.1e-4)
    np.testing.assert_allclose(found.unitcell_vectors, vectors(written.records), atol=1e-6)
    np.testing.assert_array_equal(found.time, written.times)
    assert [r.name for r in found.topology.residues] == ["HOH", "MOL"] * 3


@pytest.mark.parametrize("suffix", [".xtc", ".trr", ".gro"])
def test_as_mdtraj_writes_it(tmp_path, suffix):
    """Numbers as they are there, and by `stride` in parts."""
    written = trajectory(BOXES["triclinic"], 1 + 0.5 * np.arange(7))
    rv.io.write(tmp_path / "a.pdb", TOPOLOGY, written.final)
    frames = mdtraj.Trajectory(np.asarray(written.records.positions), mdtraj.load(tmp_path / "a.pdb").topology)
    frames.time, frames.unitcell_vectors = written.times, vectors(written.records)
    frames.save(tmp_path / f"a{suffix}")
    parts = [got for _, got in rv.io.stream(tmp_path / f"a{suffix}", topology=TOPOLOGY, stride=2, chunk=3)]
    assert [len(p.times) for p in parts] == [3, 1]
    got = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    np.testing.assert_array_equal(got.times, written.times[::2])
    theirs = mdtraj.load(tmp_path / f"a{suffix}", top=tmp_path / "a.pdb").xyz[::2]
    np.testing.assert_allclose(got.records.positions, theirs, rtol=0, atol=1e-7)
    np.testing.assert_allclose(vectors(got.records), vectors(written.records)[::2], atol=1e-6)


@pytest.mark.parametrize("suffix", [".xtc", ".trr"])
def test_times_in_single_precision_are_those_of_the_steps(tmp_path, suffix):
    """At 1 µs these are apart by 0.06 ps. Frames that are missing are missed."""
    times = 1e6 + np.delete(0.01 * np.arange(40), 7)
    kind = {".xtc": mdtraj.formats.XTCTrajectoryFile, ".trr": mdtraj.formats.TRRTrajectoryFile}[suffix]
    steps = np.delete(np.arange(40), 7)
    x = np.zeros((39, 1, 3), "f4")
    for more, step in ((0.0, steps), (5.0, steps), (0.0, np.arange(39))):
        single = times.astype("f4")
        single[20] += more
        with kind(str(tmp_path / f"a{suffix}"), "w") as file:
            file.write(x, time=single, step=step.astype("i4"))
        _, got = rv.io.read(tmp_path / f"a{suffix}", topology=OXYGEN)
        if more or step is not steps:  # numbers of frames say nothing of those that are missing
            np.testing.assert_array_equal(got.times, single)  # as they are
        else:
            intervals = np.diff(got.times)
            np.testing.assert_allclose(intervals / intervals[0], np.where(np.arange(38) == 6, 2, 1), rtol=1e-6)


def test_trr_with_forces(tmp_path):
    """These stand behind velocities, and are left out."""
    path, written = tmp_path / "a.trr", trajectory(BOXES["triclinic"], [0.0])
    rv.io.write(path, TOPOLOGY, written)
    content = bytearray(path.read_bytes())
    content[60:64] = content[52:56]  # the size of forces is that of positions
    path.write_bytes((content + bytes(8 * 3 * NUM_ATOMS)) * 2)
    _, got = rv.io.read(path, topology=TOPOLOGY)
    for frame in range(2):
        np.testing.assert_array_equal(got.records.positions[frame], written.final.positions)
        np.testing.assert_array_equal(got.records.velocities[frame], written.final.velocities)


def test_trr_without_positions_or_velocities_in_some_frames(tmp_path):
    """As GROMACS writes them where these are kept every so many steps. MDTraj gives what is in memory."""
    whole = rv.State(jnp.ones((NUM_ATOMS, 3)), jnp.ones((NUM_ATOMS, 3)), rv.OpenBox())
    bare = rv.State(jnp.ones((NUM_ATOMS, 3)), None, rv.OpenBox())
    path, size = tmp_path / "a.trr", 8 * 3 * NUM_ATOMS
    for state in (whole, bare):
        rv.io.write(path, TOPOLOGY, state)
        content = path.read_bytes()
        if state is whole:
            both = content
    path.write_bytes(both + content)
    with pytest.raises(ValueError, match="One of frames 0 and 1 has velocities, the other has not"):
        rv.io.read(path, topology=TOPOLOGY)
    assert content.count(struct.pack(">i", size)) == 1
    path.write_bytes(both + content.replace(struct.pack(">i", size), bytes(4))[:-size])
    with pytest.raises(ValueError, match="Frame 1 has no positions"):
        rv.io.read(path, topology=TOPOLOGY)
    rv.io.write(path, TOPOLOGY, jax.tree.map(lambda x: x.astype(np.float32), bare))
    path.write_bytes(content + path.read_bytes())
    with pytest.raises(ValueError, match="One of frames 0 and 1 has double precision"):
        rv.io.read(path, topology=TOPOLOGY)


def test_gro_of_other_programs(tmp_path):
    path = tmp_path / "a.gro"
    path.write_text(GRO + GRO.replace("2.50000", "3.00000"))
    _, got = rv.io.read(path, topology=OXYGEN)
    np.testing.assert_array_equal(got.times, [2.5, 3.0])
    np.testing.assert_allclose(got.records.positions[0], [[0.126, -0.132, 0.640]])
    np.testing.assert_allclose(got.records.velocities[0], [[0.01, -0.02, 0.03]])
    np.testing.assert_allclose(got.records.box.lengths, 1.86206)
    for title, time in (
        *(("Water t=300 K", None), ("t=300 K, water, t= 2.5", 2.5), ("Water at t=5 K", None), ("dt=0.5", None)),
        *(("t= 2.5, step= 5", 2.5), ("Water t=   0.00000", 0.0), ("t= 2.5 step= 5 of run 3", None)),
        *(("t= 5.0 ps", 5.0), ("Generated, t= 2.5 ps, step= 3", 2.5), ("Water at t=5 ps", 5.0), ("t= 5 psi", None)),
    ):
        path.write_text(GRO.replace(GRO.split("\n")[0], title))
        _, got = rv.io.read(path, topology=OXYGEN)
        np.testing.assert_array_equal(got.times, [np.nan if time is None else time])
    row = "    1SOL     OW    1   0.126123  -0.132123   0.640123\n"  # of more decimals
    path.write_text(f"Water\n1\n{row}1 2 3 0 0 0.5 0 0 0.25\n")
    _, got = rv.io.read(path, topology=OXYGEN)
    np.testing.assert_allclose(got.records.positions[0], [[0.126123, -0.132123, 0.640123]])
    np.testing.assert_allclose(vectors(got.records)[0], [[1, 0, 0], [0.5, 2, 0], [0, 0.25, 3]])
    assert not got.records.has_velocities


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "It is empty"),
        (GRO.replace("    1\n", "    one\n"), "Line 2 is '    one', wanted the number of atoms"),
        (GRO.replace("0.126", "0,126"), "Line 3 .* wanted three positions behind 20 columns"),
        (GRO.replace(" 0.126", "  0.12"), "Line 3 .* wanted three positions behind 20 columns"),
        (GRO.replace("0.640", "  nan"), "Line 3 .* wanted three positions"),
        (GRO.replace("0.0100", "1_0.00"), "Line 3 .* wanted three positions|Line 3 has '1_0.00'|in the place"),
        (GRO.replace("0.0300\n", "0.03\n"), "Line 3 is 66 wide, wanted 68"),
        (GRO.replace("t=   2.5", "t=   1_2.5"), "Line 1, t=, has '1_2.50000'"),
        (GRO.replace("   1.86206\n", "\n"), "Line 4 is .* wanted 3 or 9 numbers of the box"),
        (GRO[: GRO.index("   1.86206")], "The frame of line 1 is cut off"),
        (GRO + GRO.replace("-0.0200", "       ").replace("0.0300", "      "), "Line 7 is|Line 7 has|wanted the same"),
        (GRO + GRO.replace(", t=   2.50000 step= 5", ""), "Frame 0 has a time and frame 1 has not"),
        (GRO + GRO.replace("1.86206", "0.00000"), "Frame 0 has a box and frame 1 has not"),
        (GRO + GRO.replace("OW", "HW"), "Line 7 is of '    1SOL     HW    1', in the frame before of .*OW"),
        (GRO + "\n" + GRO, "Line 5 is empty, and line 6 is not"),
    ],
)
def test_malformed_gro(tmp_path, text, message):
    (tmp_path / "a.gro").write_text(text)
    with pytest.raises(ValueError, match=message):
        rv.io.read(tmp_path / "a.gro", topology=OXYGEN)


def test_what_has_no_room(tmp_path):
    late = trajectory(rv.OpenBox(), 1e6 + np.arange(3), np.float32)
    for suffix in (".xtc", ".trr"):
        with pytest.raises(ValueError, match=r"Single precision would round these times by 0\.0"):
            rv.io.write(tmp_path / f"a{suffix}", TOPOLOGY, rv.Trajectory(late.times + 0.03, late.records, late.final))
    state = rv.State(jnp.full((1, 3), 4e3), None, rv.OpenBox())
    for suffix, message in ((".xtc", "XTC has no room"), (".gro", "GRO has room for positions")):
        with pytest.raises(ValueError, match=message):
            rv.io.write(tmp_path / f"a{suffix}", OXYGEN, state)
    fast = rv.State(jnp.zeros((1, 3)), jnp.full((1, 3), 1e4), rv.OpenBox())
    with pytest.raises(ValueError, match="GRO has room for velocities"):
        rv.io.write(tmp_path / "a.gro", OXYGEN, fast)
    assert not list(tmp_path.iterdir())
