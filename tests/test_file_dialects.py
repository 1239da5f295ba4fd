"""Files as other programs write them: each read as it was meant, or refused by name."""

import contextlib
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv
from reverlet._observable._spectroscopy import require_equal_steps
from reverlet.io._files import _FORMATS
from reverlet.io._frames import Request, require_order
from reverlet.io._xyz_comment import comment_of

pytest.importorskip("mdtraj")
h5py = pytest.importorskip("h5py")

REQUEST = Request(None, 1, 10, 1.0, None, None)
ARGON = rv.Topology.from_elements(["Ar", "Ar"])


def atom(serial, name, residue, number, x, element="", record="ATOM  ", chain="A"):
    return (
        f"{record}{serial:>5} {name:<4} {residue:<3} {chain}{number:>4}    {x:8.3f}{2:8.3f}{3:8.3f}  1.00  0.00"
        f"          {element:>2}\n"
    )


def cryst(a):
    return f"CRYST1{a:9.3f}{a:9.3f}{a:9.3f}  90.00  90.00  90.00 P 1           1\n"


def read(tmp_path, text, suffix, **options):
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    return rv.io.read(path, **options)


def refused(tmp_path, text, suffix, message, **options):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, suffix, **options)


TWO = atom(1, " AR", "AR", 1, 1, "AR") + atom(2, " AR", "AR", 2, 6, "AR")


@pytest.mark.parametrize(
    "frame", ["MODEL     {k:4d}\n{cell}{two}ENDMDL\n", "{cell}{two}END\n", "REMARK\n{cell}{two}TER\nEND\n"]
)
def test_a_box_for_every_frame(tmp_path, frame):
    """Between MODEL and ENDMDL, and as VMD and CP2K write them, up to END."""
    text = "".join(frame.format(k=k, cell=cryst(20 + k), two=TWO) for k in range(3))
    _, got = read(tmp_path, text, ".pdb")
    np.testing.assert_allclose(got.records.box.lengths[:, 0], [2.0, 2.1, 2.2], atol=1e-6)


def test_one_box_before_all_models_is_of_all(tmp_path):
    models = "".join(f"MODEL     {k:4d}\n{TWO}ENDMDL\n" for k in range(2))
    _, got = read(tmp_path, cryst(20) + models + "END\n", ".pdb")
    np.testing.assert_allclose(got.records.box.lengths, 2.0)


def test_frames_that_nothing_divides_are_refused(tmp_path):
    """Two of two atoms would be one of four. TER ends a chain, not a frame."""
    for between in ("", "TER\n"):
        text = cryst(20) + TWO + between + cryst(21) + TWO
        refused(tmp_path, text, ".pdb", f"Line {4 + bool(between)} is a CRYST1 behind atoms")
    refused(tmp_path, cryst(20) + cryst(20) + TWO, ".pdb", "Line 2 is a second CRYST1")


def test_elements_that_have_slipped(tmp_path):
    """By a column, CO is oxygen or carbon."""
    for there in ("         CO ", "           CO"):
        refused(tmp_path, TWO.replace("          AR", there, 1), ".pdb", "Line 1 has .*CO.* beside columns 77 and 78")
    for there in ("      SEGA O ", "           O1-", "      SEGAO  "):
        assert read(tmp_path, TWO.replace("          AR", there, 1), ".pdb")[0].elements == ("O", "Ar")


def test_boxes_of_some_frames(tmp_path):
    """Whether the others have the box before them cannot be told."""
    for cells in ((20, 0, 21), (20, 21, 0)):
        text = "".join((cryst(a) if a else "") + TWO + "END\n" for a in cells)
        refused(tmp_path, text, ".pdb", "Some frames have a CRYST1 of their own and others up to line [0-9]+ have not")


def test_parts_of_a_cell_are_refused(tmp_path):
    """Crystals (wwPDB format 3.30, section 8): the group stands in columns 56-66, the number of units in 67-70."""
    for group in ("P 1           1", "P 1           4", "P1", "", "P 1 1 1", "p 1"):
        _, got = read(tmp_path, cryst(20).replace("P 1           1", group) + TWO, ".pdb")
        np.testing.assert_allclose(got.records.box.lengths, 2.0)
    for group in ("P 21 21 21    4", "P -1          2", "C 1 2 1", "P 1 21 1", "R 3 2"):
        text = cryst(20).replace("P 1           1", group) + TWO
        refused(tmp_path, text, ".pdb", f"Line 1 has the space group {group[:10].strip()}")
    for given, fine in (("1", True), (" ", False)):
        text = cryst(20) + f"MTRIX1   2 -1.000000  0.000000  0.000000        0.00000    {given}\n" + TWO
        read(tmp_path, text, ".pdb") if fine else refused(tmp_path, text, ".pdb", "Line 2 is an MTRIX of a copy")


def test_boxes_that_lie_in_another_way(tmp_path):
    scale = lambda *rows: "".join(
        f"SCALE{k}    " + "".join(f"{x:10.6f}" for x in row) + "        0.00000\n" for k, row in enumerate(rows, 1)
    )
    text = cryst(20) + scale((0.05, 0, 0), (0, 0.05, 0), (0, 0, 0.05)) + TWO
    np.testing.assert_allclose(read(tmp_path, text, ".pdb")[1].records.box.lengths, 2.0)
    text = cryst(20) + scale((0, 0.05, 0), (-0.05, 0, 0), (0, 0, 0.05)) + TWO
    refused(tmp_path, text, ".pdb", "By its SCALE1 to SCALE3 the box does not lie")


def test_alternate_residues_are_refused(tmp_path):
    """Two that are in one place by turns, each with names of its own atoms: not only two atoms of one name."""
    rows = (atom(1, " AR", "SER", 1, 1, "AR"), atom(2, " AR", "THR", 1, 6, "AR"))
    text = "".join(f"{row[:16]}{where}{row[17:]}" for row, where in zip(rows, "AB", strict=True))
    refused(tmp_path, text, ".pdb", "Lines 1 and 2 are alternate locations A and B")


@pytest.mark.parametrize("cell", [cryst(0), cryst(1), ""])
def test_boxes_that_are_none(tmp_path, cell):
    assert isinstance(read(tmp_path, cell + TWO, ".pdb")[1].records.box, rv.OpenBox)


# names of CHARMM and others: what is of that element, and what is not
NAMES = [("SOD ", "Na", "O"), ("POT ", "K", "C"), ("HG2 ", "H", "C"), (" CA ", "C", "H"), (" NB ", "N", "Br")]
NAMES += [(" CL ", "Cl", "K"), ("CD1 ", "C", "Ar"), ("1HB ", "H", "N"), (" CA ", "Ca", "O"), ("ZN  ", "Zn", "C")]


@pytest.mark.parametrize(("name", "right", "wrong"), NAMES)
def test_elements_are_not_guessed_from_names(tmp_path, name, right, wrong):
    """But names that contradict `topology` are refused, in PDB without elements and in GRO."""
    row = f"    1MOL  {name:>5}    1   0.100   0.200   0.300\n"
    for suffix, text in ((".pdb", atom(1, name, "LIG", 1, 1)), (".gro", f"one\n    1\n{row}   0.0   0.0   0.0\n")):
        line = 1 if suffix == ".pdb" else 3
        of = lambda element, **more: rv.Topology.from_elements([element], **more)
        assert read(tmp_path, text, suffix, topology=of(right))[0].elements == (right,)
        message = f"Line {line} is of an atom {name.strip()}, that of `topology` is {wrong}"
        refused(tmp_path, text, suffix, message, topology=of(wrong))
        if wrong != "H":
            read(
                tmp_path, text, suffix, topology=of(wrong, masses=np.array([72.0 if wrong != "Br" else 45.0]))
            )  # beads
    refused(tmp_path, atom(1, name, "LIG", 1, 1), ".pdb", "Line 1, atom .* no element in columns 77")
    assert read(tmp_path, atom(1, name, "LIG", 1, 1, "CL"), ".pdb")[0].elements == ("Cl",)


@pytest.mark.parametrize(
    ("old", "new"),  # columns 22 (chain), 27 (insertion code), 73 (segment), and the name of the residue
    [("MOL A", "MOL B"), ("A   1 ", "A   1A"), ("          AR", "      S2  AR"), ("MOL", "LIG")],
)
def test_whatever_names_a_residue_ends_it(tmp_path, old, new):
    one, other = atom(1, " AR1", "MOL", 1, 1, "AR"), atom(2, " AR1", "MOL", 1, 5, "AR")
    refused(tmp_path, one + other, ".pdb", "Lines 1 and 2 are two atoms of the name AR1")
    assert read(tmp_path, one + other.replace(old, new), ".pdb")[0].molecules.tolist() == [0, 1]


def water(serial, number, x):
    return "".join(
        atom(serial + k, n, "HOH", number, x + k, n.strip()[0]) for k, n in enumerate((" O  ", " H1 ", " H2 "))
    )


def test_residue_numbers_that_start_again(tmp_path):
    """Two waters of one number in a row are two atoms of one name in a residue, unless something is between them."""
    topology, _ = read(tmp_path, water(1, 9999, 1) + water(4, 0, 5) + "TER\n" + water(7, 0, 9), ".pdb")
    np.testing.assert_array_equal(topology.molecules, np.repeat([0, 1, 2], 3))
    assert len(topology.bonds) == 6
    refused(
        tmp_path, water(1, 1, 1) + water(4, 1, 5), ".pdb", "Lines 1 and 4 are two atoms of the name O in one residue"
    )


@pytest.mark.parametrize(
    "record",
    [
        "CONECT    1    2\n",
        "LINK         AR   AR A   1                 AR   AR A   1\n",
        "SSBOND   1 CYS A    1    CYS A    1\n",
    ],
)
def test_bonds_between_atoms_of_one_number_are_refused(tmp_path, record):
    two = atom(1, " SG", "CYS", 1, 1, "S") + atom(2, " SG", "CYS", 2, 6, "S") if record.startswith("SSBOND") else TWO
    text = two + "TER\n" + two + record
    refused(tmp_path, text, ".pdb", "Line 6 names .*, which the atoms of lines 1 and 4 both have")
    refused(tmp_path, TWO + "CONECT    1   99\n", ".pdb", "Line 3 names serial number 99, which no atom has")
    assert read(tmp_path, TWO + "CONECT    1    2\n", ".pdb")[0].bonds.tolist() == [[0, 1]]


@pytest.mark.parametrize("frames", [1, 3])
def test_others_read_as_many_frames_of_ours(tmp_path, frames):
    ase, mdtraj, openmm = (pytest.importorskip(name) for name in ("ase.io", "mdtraj", "openmm.app"))
    box = rv.OrthorhombicBox(jnp.full(3, 2.0))
    state = rv.State(jnp.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]]), None, box)
    rv.io.write(tmp_path / "a.pdb", ARGON, jax.tree.map(lambda x: jnp.stack([x] * frames), state))
    found = ase.read(tmp_path / "a.pdb", index=":")
    assert len(found) == frames
    np.testing.assert_allclose([a.cell.lengths() for a in found], 20, atol=1e-3)
    assert mdtraj.load(tmp_path / "a.pdb").n_frames == frames
    assert openmm.PDBFile(str(tmp_path / "a.pdb")).getNumFrames() == frames


@pytest.mark.parametrize(("symbol", "mass"), [("D", 2.014), ("T", 3.016)])
def test_heavy_hydrogen(tmp_path, symbol, mass):
    for topology in (
        rv.Topology.from_elements([symbol]),
        read(tmp_path, f"1\n\n{symbol} 1 2 3\n", ".xyz")[0],
        read(tmp_path, atom(1, f" {symbol}1", "DOD", 1, 1, symbol), ".pdb")[0],
    ):
        assert topology.elements == ("H",)
        np.testing.assert_allclose(topology.masses, mass, atol=1e-3)


@pytest.mark.parametrize("suffix", [".xyz", ".extxyz", ".pdb", ".gro"])
@pytest.mark.parametrize("symbol", ["D", "T"])
def test_heavy_hydrogen_is_written(tmp_path, suffix, symbol):
    """As its mass, or as its symbol; hydrogens made heavier (3.024 u) for longer steps are none of it."""
    heavy, path = rv.Topology.from_elements(["O", symbol, "H"], molecules=[0, 0, 0]), tmp_path / f"a{suffix}"
    rv.io.write(path, heavy, rv.State(jnp.ones((3, 3)), None, rv.OpenBox()))
    _, got = rv.io.read(path, topology=heavy)
    assert got.records.positions.shape == (1, 3, 3)
    if suffix != ".gro":
        np.testing.assert_allclose(rv.io.read(path)[0].masses, heavy.masses, rtol=1e-6)
        message = "has a mass of|Its atom 1 is ., that of `topology` H of 1.008 u"
        with pytest.raises(ValueError, match=message):
            rv.io.read(path, topology=rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0]))
    if suffix == ".xyz":
        slow = rv.Topology.from_elements(["O", "H", "H"], masses=np.array([13.983, 3.024, 3.024]))
        rv.io.write(path, slow, got.final)
        assert rv.io.read(path)[0].masses.tolist() == pytest.approx([15.999, 1.008, 1.008])


def test_xyz_of_cp2k(tmp_path):
    """`time = ` in fs, and nothing between."""
    rows = "Ar 1 2 3\nAr 5 2 3\n"
    text = "".join(f"2\n i = {5 * k:8d}, time = {2.5 * k:12.3f}, E =   -17.16\n{rows}" for k in range(3))
    np.testing.assert_allclose(read(tmp_path, text, ".xyz")[1].times, [0, 0.0025, 0.005], rtol=1e-12)
    _, plain = read(tmp_path, f"2\n i = 1, E = -17.16\n{rows}", ".xyz")
    assert np.all(np.isnan(plain.times))


@pytest.mark.parametrize(("unit", "nm"), [("atomic_unit", 0.0529177210544), ("angstrom", 0.1)])  # CODATA 2022
def test_xyz_of_ipi(tmp_path, unit, nm):
    comment = (
        f"# CELL(abcABC): 20.0 21.0 22.0 90.0 90.0 90.0  Step: 0  Bead: 0 positions{{{unit}}}  cell{{atomic_unit}}"
    )
    _, got = read(tmp_path, f"1\n{comment}\nAr 1 2 3\n", ".xyz")
    np.testing.assert_allclose(got.records.positions[0, 0], nm * np.array([1, 2, 3]), rtol=1e-6)
    np.testing.assert_allclose(got.records.box.lengths[0], 0.0529177210544 * np.array([20, 21, 22]), rtol=1e-6)
    refused(tmp_path, f"1\n{comment.replace('positions', 'velocities')}\nAr 1 2 3\n", ".xyz", "Line 2 .* wanted six")
    for old, new in (("(abcABC)", "{H}"), ("(abcABC)", "[GENH]"), ("CELL(abcABC):", "")):
        refused(tmp_path, f"1\n{comment.replace(old, new)}\nAr 1 2 3\n", ".xyz", r"Line 2 .* wanted CELL\(abcABC\)")
    _, other = read(tmp_path, f"1\n{comment.replace('(abcABC)', '{abcABC}')}\nAr 1 2 3\n", ".xyz")
    np.testing.assert_array_equal(other.records.positions, got.records.positions)


LATTICE = 'Lattice="20 0 0 0 20 0 0 0 20" Properties=species:S:1:pos:R:3'


def test_columns_by_their_usual_names(tmp_path):
    topology, _ = read(tmp_path, f"1\n{LATTICE}:mass:R:1\nH 1 2 3 2.014\n", ".extxyz")
    np.testing.assert_allclose(topology.masses, 2.014)
    np.testing.assert_allclose(read(tmp_path, f"1\n{LATTICE}:Masses:R:1\nH 1 2 3 3\n", ".extxyz")[0].masses, 3)
    for name in ("Velocity", "vel", "velo", "velocity", "velocities"):
        text = f"1\n{LATTICE}:{name}:R:3\nAr 1 2 3 7 0 0\n"
        refused(tmp_path, text, ".extxyz", "Line 2 has velocities of unknown unit")
        _, got = read(tmp_path, text, ".extxyz", velocity_unit=rv.units.ANGSTROM / rv.units.FEMTOSECOND)
        np.testing.assert_allclose(got.records.velocities[0, 0], [700, 0, 0])
    for name in ("v", "vx", "vel_x", "atom_velocity", "momentum", "mass_u", "molecule_id"):
        text = f"1\n{LATTICE}:{name}:I:{3 if name == 'v' else 1}\nAr 1 2 3 7{' 7 7' if name == 'v' else ''}\n"
        refused(
            tmp_path,
            text,
            ".extxyz",
            f"Line 2 has `{name}`, which is none of .* and would be passed over; wanted one of these",
        )
    others = ("level", "magmom", "angular_momentum", "dipole_moment", "molar")  # which are none
    for name in (*others, "dipole_momentum", "local_mass_density", "mol", "m", "v", "ang_vel"):
        read(tmp_path, f"1\n{LATTICE}:{name}:R:1\nAr 1 2 3 7\n", ".extxyz")
    refused(tmp_path, f"1\n{LATTICE}:masses:R:1:mass:R:1\nH 1 2 3 2 1\n", ".extxyz", "masses and mass")
    refused(tmp_path, f"1\n{LATTICE}:mass:R:1\nH 1 2 3 -1\n", ".extxyz", "Line 3 has a mass of -1.0 u")
    moving = f"1\n{LATTICE}:mass:R:1:momenta:R:3\nH 1 2 3 2.014 1 0 0\n"  # whose velocities depend on the mass
    hydrogen, deuterium = (rv.Topology.from_elements([symbol]) for symbol in "HD")
    refused(tmp_path, moving, ".extxyz", "Line 3 has a mass of 2.014 u, `topology` one of 1.00", topology=hydrogen)
    assert read(tmp_path, moving, ".extxyz", topology=deuterium)[1].records.has_velocities


def test_atoms_in_another_order_are_refused(tmp_path):
    frame = f"2\n{LATTICE}:id:I:1\nAr 1 2 3 {{}}\nAr 4 5 6 {{}}\n"
    read(tmp_path, frame.format(7, 3) * 2, ".extxyz")
    refused(tmp_path, frame.format(7, 3) + frame.format(3, 7), ".extxyz", "frame 1 are not those .*line 5: `id`")

    unsorted = frame.format(7, 3)
    refused(tmp_path, unsorted, ".extxyz", "atoms 0 and 1 have the `id` 7 and 3, and `topology` may", topology=ARGON)
    with pytest.raises(ValueError, match="atoms 0 and 1 have the `id` 2 and 1"):  # whose differences wrap
        require_order(np.array([2, 1, 3], np.uint64), REQUEST._replace(topology=ARGON))


@pytest.mark.parametrize(
    ("name", "right", "wrong"), [("Z:I", "1", "8"), ("element:S", "H", "O"), ("numbers:I", "1", "2")]
)
def test_elements_by_other_columns(tmp_path, name, right, wrong):
    """Besides `species` they have to agree, and alone they are as good. Deuterium is hydrogen."""
    for symbol in ("H", "D"):
        both = f"1\n{LATTICE}:{name}:1\n{symbol} 1 2 3 {{}}\n"
        if (symbol, right) != ("D", "H"):
            np.testing.assert_allclose(
                read(tmp_path, both.format(right), ".extxyz")[0].masses, {"H": 1.008, "D": 2.0141}[symbol], 1e-5
            )
        refused(tmp_path, both.format(wrong), ".extxyz", f"Line 3 is of {symbol} by its species and of ")
    alone = f"1\n{LATTICE.replace('species:S:1:', '')}:{name}:1\n1 2 3 {right}\n"
    assert read(tmp_path, alone, ".extxyz")[0].elements == ("H",)
    refused(tmp_path, alone, ".extxyz", "atom 0 is H, that of `topology` O", topology=rv.Topology.from_elements(["O"]))


def test_labels_in_the_place_of_elements(tmp_path):
    text = f"2\n{LATTICE}:element:S:1\nC 1 2 3 C\nC1 4 5 6 C\n"
    refused(tmp_path, text, ".extxyz", "Line 4 is of C1 .*`species` are labels, .* under another name, such as `label`")
    text = text.replace("species", "label")
    assert read(tmp_path, text, ".extxyz")[0].elements == ("C", "C")


def test_boxes_and_units_by_other_names(tmp_path):
    for more in ('name="SrTiO3 (Pm-3m)"', 'units="eV A"', 'name="coordinates in bohr"'):  # which say none
        read(tmp_path, f"1\n{LATTICE} {more}\nAr 1 2 3\n", ".extxyz")
    for more, message in (
        ("cell='9 0 0 0 9 0 0 0 9'", "`cell` and no `Lattice`"),
        ("units=bohr", "units=bohr.* is in Å"),
        ("length_unit='nm'", "length_unit='nm.* is in Å"),
    ):
        text = f"1\n{more} Properties=species:S:1:pos:R:3\nAr 1 2 3\n"
        refused(tmp_path, text, ".extxyz", f"Line 2 (has|says) .*{message}")


@pytest.mark.parametrize(
    "comment",
    [
        *("water box, 64 molecules", "box of 64 waters", "Unit cell: NaCl", "2x2x2 supercell", "water box 2 nm wide"),
        *("generated by VMD", "Atoms. Timestep: 0", "-76.4", "0 1", "energy: -5.07 gnorm: 0.0005 xtb: 6.4.1"),
        *("gradient 0.001 Eh/bohr", "E = -17.1 a.u.", "lattice energy = -5.2", "units=angstrom", "units: A"),
        *("box 0.0 0.0 0.0", 'energy_units=au pbc="F F F"', "SrTiO3 (Pm-3m)", "spacegroup in Pm-3m", "geometry: Au"),
        *("units=metal", "energy=-1.0 units=eV", "Energy unit=Hartree", "units=kcal/mol", "units=Angs", "Au"),
        *("dipole x= 0.1 y= 0.2 z= 0.3", "x=1, y=2, z=3", "Cu surface 1 1 1", "surface: 111", "-76.1 0.1 0.2"),
        *("box: 1 (replica)", "cell: 2", "cutoff in nm: 1.2", "wavelength (nm) 500", "g(r) in nm^3", "0.0 0.0 0.0"),
        *('name="in bohr" pbc="F F F"', "coordinates in eV/nm", "energy in a.u.", "crystal 1 1 1", "dimensions: 3"),
    ],
)
def test_comments_that_are_only_words(tmp_path, comment):
    _, got = read(tmp_path, f"1\n{comment}\nAr 1 2 3\n", ".xyz")
    np.testing.assert_allclose(got.records.positions[0, 0], [0.1, 0.2, 0.3])
    assert isinstance(got.records.box, rv.OpenBox)


@pytest.mark.parametrize(
    "comment",
    [
        *(
            "units=bohr",
            "units = nm",
            "units: atomic",
            "coordinates in bohr",
            "positions (nm)",
            "length_units=nm time=1",
        ),
        *("box=24.8", "box: 24", "water box 24.8", "cell 10 10 10", "cell parameters 10 10 10 90 90 90", "pbc: T T T"),
        *(
            "Box size (Å) 24.8",
            "box of 20x20x20",
            "periodic 10 10 10",
            "unitcell [10 10 10 90 90 90]",
            "CRYST1 9.0 9 9",
        ),
        *("a=10 b=10 c=10", "Lx=10.0, Ly=10.0, Lz=10.0", "9.0 9.0 9.0", "9 0 0 0 9 0 0 0 9", "i = 5, box = 10 10 10"),
        *("Box dimensions are 3 3 3", "crystal 10.0 10.0 10.0 90 90 90", "dimensions 10 10 10", "simbox 3 3 3"),
        *("a = 3.0 Å, b = 3.0 Å, c = 3 Å", "box in nm: 3 3 3", "nm", "Bohr", "au", "atomic units", "(a.u.)"),
        *("coordinates, bohr", "bohr coordinates", "length unit is nm", "coordinates given in atomic units"),
        *("XYZ (a.u.)", "distances: nm", "Argon, in nm", "Argon (bohr), relaxed", "units=lj", "ATOMIC_POSITIONS bohr"),
        *('pbc="F F F" units="bohr"', "cell : 10 10 10", "box (nm) = 3", "box:2.5", "units atomic"),
    ],
)
def test_comments_that_say_a_unit_or_a_box(tmp_path, comment):
    """Not read as Å in an open box. PLUMED writes numbers alone, in nm; BigDFT `periodic`, Jmol `unitcell`."""
    refused(
        tmp_path,
        f"1\n{comment}\nAr 1 2 3\n",
        ".xyz",
        "Line 2 (says|has) .*wanted (it as extended|positions in)",
        time_unit=1.0,
    )


def test_comments_of_any_length_take_no_time():
    """100 kB of one thing, behind a beginning: in linear time."""
    start = time.process_time()
    for begin, part in (
        *(("box ", " "), ("box ", "("), ("box=", "0"), ("", "box size "), ("", "coordinates is "), ("", "in is ")),
        *(("H ", "1"), ("", "1 "), ("", "time="), ("", "time=1 "), ("", "nm "), ("", "a=1 "), ("name=", "'a='")),
    ):
        with contextlib.suppress(ValueError):
            comment_of(begin + part * (100_000 // len(part)) + "?", 2, REQUEST)
    assert time.process_time() - start < 10


def test_what_only_some_frames_have(tmp_path):
    bare = f"1\n{LATTICE}\nAr 1 2 3\n"
    for more, what in (
        (f"1\n{LATTICE}:momenta:R:3\nAr 1 2 3 1 0 0\n", "velocities"),
        (bare.replace("Prop", "time=1 time_unit=ps Prop"), "a time"),
        ("1\n\nAr 1 2 3\n", "a box"),
    ):
        refused(tmp_path, more + bare, ".extxyz", f"Frame . has {what} and frame . has not .* line 4")
        refused(tmp_path, bare + more, ".extxyz", f"Frame . has {what} and frame . has not .* line 4")


@pytest.mark.parametrize("name", ["time_unit", "velocity_unit", "interval"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_units_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"`{name}` is .*wanted a positive number"):
        rv.io.read("none.xyz", **{name: value})


def test_times_of_unknown_unit(tmp_path):
    text = f"1\ntime=3 {LATTICE}\nAr 1 2 3\n"
    refused(tmp_path, text, ".extxyz", "Line 2 has a time of unknown unit")
    np.testing.assert_allclose(read(tmp_path, text, ".extxyz", time_unit=1e-3)[1].times, 3e-3)
    for said in ("time=3 fs", "time=3 time_units=fs"):  # which count more than what is given
        _, got = read(tmp_path, text.replace("time=3", said), ".extxyz", time_unit=1.0)
        np.testing.assert_allclose(got.times, 3e-3)
    text = f"1\nmomenta_unit=au {LATTICE}:momenta:R:3\nAr 1 2 3 4 5 6\n"
    refused(tmp_path, text, ".extxyz", "Line 2 has momenta_unit=au; momenta are in √")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("Ar 1 9 2 3\nAr 4 5 6", "Line 3 has 5 columns, wanted 4"),
        ("Ar 1 2 3\nAr 4 5", "Line 4 has 3 columns, wanted 4"),
        ("Ar 1_000 2 3\nAr 4 5 6", "Line 3, column `pos`, has '1_000'"),
        ("Ar 1 2 3\nAr ٣ 5 6", "Line 4, column `pos`, has '٣'"),
        ("Ar 1 2 3\nAr inf 5 6", "Line 4, column `pos`, has 'inf'"),
        ("Ar 1 2 3\nAr 1e40 5 6", "Line 4, column `pos`, has '1e40'"),
        ("Ar 1 2 3\nAr 1.0D0 5 6", "Line 4, column `pos`, has '1.0D0'"),
    ],
)
def test_rows_of_something_else(tmp_path, rows, message):
    refused(tmp_path, f"2\n{LATTICE}\n{rows}\n", ".extxyz", message)
    refused(tmp_path, f"2\n\n{rows}\n", ".xyz", message)


def test_numbers_of_pdb_are_strict(tmp_path):
    for old, new in (
        ("   1.000", "   1_000"),
        ("   1.000", "   1.00 "),
        ("   1.000", "     nan"),
        ("   1.000", "   ٣.000"),
    ):
        refused(tmp_path, TWO.replace(old, new, 1), ".pdb", "Line 1 has .* in columns 31 to 38")
    refused(tmp_path, cryst(20).replace("20.000", "2_.000", 1) + TWO, ".pdb", "Line 1, CRYST1, has '   2_.000'")


@pytest.mark.parametrize("suffix", [".extxyz", ".xyz", ".pdb", ".dcd", ".h5"])
def test_streaming_is_reading_in_parts(tmp_path, suffix):
    x = jnp.arange(42.0).reshape(7, 2, 3) / 10
    states = jax.vmap(lambda x: rv.State(x, None, rv.OrthorhombicBox(jnp.full(3, 9.0))))(x)
    rv.io.write(tmp_path / f"a{suffix}", ARGON, states)
    for stride, chunk in ((1, 3), (2, 2)):
        parts = list(rv.io.stream(tmp_path / f"a{suffix}", chunk=chunk, stride=stride, topology=ARGON))
        _, whole = rv.io.read(tmp_path / f"a{suffix}", stride=stride, topology=ARGON)
        assert len(parts) == -(-len(x[::stride]) // chunk)
        got = jnp.concatenate([t.records.positions for _, t in parts])
        np.testing.assert_array_equal(got, whole.records.positions)
        np.testing.assert_allclose(got, x[::stride], atol=1e-6)
    with pytest.raises(ValueError, match="`stride` is 0"):
        rv.io.read(tmp_path / f"a{suffix}", stride=0)


SPRING = rv.System(ARGON, rv.HarmonicBond([(0, 1)], 100.0, 0.3))
START = rv.State(jnp.array([[0.1, 0.2, 0.3], [0.5, 0.2, 0.3]]), jnp.ones((2, 3)), rv.OrthorhombicBox(jnp.full(3, 2.0)))


def speed(system, state, initial):
    return jnp.sum(state.velocities * initial.velocities) + 0 * system.kinetic_energy(state.velocities)


@pytest.mark.parametrize("suffix", [".h5", ".extxyz"])
def test_what_is_reported_is_the_trajectory(tmp_path, suffix):
    run = lambda **more: rv.nve(SPRING, START, dt=0.001, num_steps=500, save_every=2, **more)  # 250 frames: 2.5 pieces
    whole, path = run(record=lambda *a: (a[1], speed(*a))), tmp_path / f"a{suffix}"
    with rv.io.reporting(path, ARGON) as reporter:
        got = run(record=speed, reporter=reporter)
    np.testing.assert_allclose(got.records, whole.records[1], rtol=1e-10)
    np.testing.assert_allclose(got.final.positions, whole.final.positions, rtol=1e-10)
    np.testing.assert_array_equal(got.times, whole.times)
    _, written = rv.io.read(path)
    np.testing.assert_allclose(written.times, whole.times, rtol=1e-12)
    np.testing.assert_allclose(written.records.positions, whole.records[0].positions, atol=1e-9)
    with pytest.raises(ValueError, match="There is a file"), rv.io.reporting(path, ARGON):
        pass


@pytest.mark.parametrize("suffix", [".h5", ".extxyz", ".dcd", ".pdb", ".xyz", ".gro", ".trr", ".xtc"])
def test_a_run_that_ends_early_leaves_its_frames(tmp_path, suffix):
    def interrupted():
        with rv.io.reporting(tmp_path / f"a{suffix}", ARGON) as reporter:
            for k in range(3):
                reporter(jnp.array([float(k)]), jax.tree.map(lambda x: x[None], START))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    _, got = rv.io.read(tmp_path / f"a{suffix}", topology=ARGON)
    np.testing.assert_allclose(got.records.positions, [START.positions] * 3, atol=5.1e-4)


def test_reporters_of_what_cannot_be_reported():
    run = lambda state, **more: rv.nve(
        SPRING, state, dt=0.001, num_steps=2, reporter=lambda times, states: None, **more
    )
    with pytest.raises(ValueError, match="both directions, or many"):
        run(START, both_directions=True)
    with pytest.raises(ValueError, match="both directions, or many"):
        run(START.repeat(2), batch=1)
    with pytest.raises(ValueError, match="traced arrays"):
        jax.jit(lambda x: run(rv.State(x, START.velocities, START.box)).final.positions)(START.positions)


@pytest.mark.parametrize("vectors", [2 * np.eye(3), np.array([[2.0, 0, 0], [0.7, 1.8, 0], [-0.5, 0.4, 2.2]])])
def test_unwrapping_by_minimum_motion(vectors):
    """Of walks whose steps are short, wrapped and unwrapped: the walks, from where the first frame is."""
    walk = np.cumsum(np.random.default_rng(0).uniform(-0.3, 0.35, (60, 2, 3)), axis=0)
    inside = np.linalg.solve(vectors.T, walk.reshape(-1, 3).T).T
    wrapped = ((inside - np.floor(inside)) @ vectors).reshape(walk.shape)
    assert np.max(np.abs(wrapped - walk)) > 1.0
    box = rv.TriclinicBox(jnp.asarray(vectors))
    states = jax.vmap(lambda x: rv.State(x, None, box))(jnp.asarray(wrapped))
    got = rv.io.unwrap(rv.Trajectory(np.arange(60.0), states, jax.tree.map(lambda x: x[-1], states)))
    np.testing.assert_allclose(got.records.positions, walk - walk[0] + wrapped[0], atol=1e-12)
    np.testing.assert_array_equal(got.final.positions, got.records.positions[-1])


@pytest.mark.parametrize("suffix", [".dcd", ".pdb", ".xyz", ".extxyz", ".h5"])
def test_times_that_a_file_lacks_are_absent(tmp_path, suffix):
    """Not 0, 1, 2 ps: a spectrum would be of other wavenumbers."""
    path = tmp_path / f"a{suffix}"
    states = jax.vmap(lambda x: rv.State(x, None, rv.OrthorhombicBox(jnp.full(3, 9.0))))(jnp.ones((7, 2, 3)))
    rv.io.write(path, ARGON, states)
    _, got = rv.io.read(path, topology=ARGON)
    assert np.all(np.isnan(got.times))
    vdos = rv.VDOS(jnp.arange(1.0, 9.0), rv.spectra.HannWindow(0.1), num_lags=3)
    for needs in (rv.GreenKubo().diffusion, rv.Einstein().diffusion, lambda *a: vdos.reduce(*a, jnp.ones(1))):
        with pytest.raises(ValueError, match=r"no times.* wanted `rv.io.read\(..., interval=...\)`"):
            needs(got.times, jnp.ones((1, 7, 6)))
    _, got = rv.io.read(path, topology=ARGON, interval=0.5, stride=2)
    np.testing.assert_array_equal(got.times, [0, 1, 2, 3])
    parts = [p.times for _, p in rv.io.stream(path, topology=ARGON, interval=0.5, stride=2, chunk=3)]
    np.testing.assert_array_equal(np.concatenate(parts), [0, 1, 2, 3])
    rv.io.write(tmp_path / "b.h5", ARGON, got)
    with pytest.raises(ValueError, match="It has times, and `interval` says others"):
        rv.io.read(tmp_path / "b.h5", interval=0.5)


@pytest.mark.parametrize("suffix", [s for s in _FORMATS if s != ".h5md"])
def test_long_trajectories_are_never_all_in_memory(tmp_path, suffix):
    """Five times as many frames take no more memory: less than a tenth of what they hold."""
    state = rv.State(jnp.ones((50, 3)), None, rv.OrthorhombicBox(jnp.full(3, 9.0)))
    topology, peaks = rv.Topology.from_elements(["Ar"] * 50), []
    for frames in (20, 20, 100):  # the first has what is loaded once
        states = jax.tree.map(lambda x, n=frames: np.broadcast_to(x, (n, *x.shape)), state)
        rv.io.write(tmp_path / f"a{suffix}", topology, rv.Trajectory(np.arange(float(frames)), states, state))
        tracemalloc.start()
        parts = _FORMATS[suffix].read(tmp_path / f"a{suffix}", Request(topology, 1, 10, None, None, None))
        assert sum(len(p.positions) for p in parts) == frames
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 80 * 50 * 3 * 8 / 10


def test_cells_of_dcd_that_cannot_be_told(tmp_path):
    """CHARMM writes the shape matrix where others write angles: in its numbers they do not differ."""
    path = tmp_path / "a.dcd"

    def reading(title, vectors):
        rv.io.write(path, ARGON, rv.State(jnp.ones((2, 3)), None, rv.TriclinicBox(jnp.asarray(vectors))))
        content = bytearray(path.read_bytes())
        length = int(np.frombuffer(content[92:96], "<i4")[0])  # behind a header of 84 bytes
        content[100 : 96 + length] = title.ljust(length - 4)
        path.write_bytes(content)
        return rv.io.read(path, topology=ARGON)[1].records.box

    skewed = np.array([[2.0, 0, 0], [0.01, 2, 0], [0, 0.01, 2]])
    for title in (b"WRITTEN BY CHARMM", b""):
        with pytest.raises(ValueError, match="does not say whether these are degrees, cosines, or CHARMM's"):
            reading(title, skewed)
        np.testing.assert_allclose(reading(title, 2 * np.eye(3)).lengths, 2.0)  # zeros, or 90 degrees
    np.testing.assert_allclose(reading(b"CREATED BY NAMD", skewed).vectors[0], skewed, atol=1e-6)


@pytest.mark.parametrize("suffix", [".h5", ".extxyz", ".gro", ".trr"])
@pytest.mark.parametrize("begin", [0.0, 1e6])
def test_missing_frames_are_noticed_at_any_time(tmp_path, suffix, begin):
    """2 fs apart, from zero and from 1 µs on."""
    times = begin + 0.002 * np.arange(9)
    for keep, steps in ((np.arange(9), [0.002] * 8), (np.delete(np.arange(9), 4), [0.002] * 3 + [0.004] + [0.002] * 3)):
        states = jax.vmap(lambda x: rv.State(x, None, rv.OpenBox()))(jnp.ones((len(keep), 2, 3)))
        rv.io.write(tmp_path / f"a{suffix}", ARGON, rv.Trajectory(times[keep], states, states))
        got = rv.io.read(tmp_path / f"a{suffix}", topology=ARGON)[1].times
        np.testing.assert_allclose(np.diff(got), steps, rtol=1e-6)
        if len(keep) < 9:
            with pytest.raises(ValueError, match=r"from 0.002 to 0.004 ps apart"):
                require_equal_steps(got)
