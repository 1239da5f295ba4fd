"""PDB, by MDTraj: Å, no velocities, one box for all frames."""

from pathlib import Path
from typing import Any

import numpy as np

from .. import units
from .._elements import SYMBOLS
from .._topology import Topology
from ._cell import lengths_and_angles, vectors_of
from ._frames import Frames, topology_of

_RECORDS = set(
    "HEADER OBSLTE TITLE SPLIT CAVEAT COMPND SOURCE KEYWDS EXPDTA NUMMDL MDLTYP AUTHOR REVDAT SPRSDE JRNL REMARK DBREF"
    " DBREF1 DBREF2 SEQADV SEQRES MODRES HET HETNAM HETSYN FORMUL HELIX SHEET TURN SSBOND LINK CISPEP SITE CRYST1"
    " ORIGX1 ORIGX2 ORIGX3 SCALE1 SCALE2 SCALE3 MTRIX1 MTRIX2 MTRIX3 TVECT MODEL ATOM ANISOU SIGATM SIGUIJ TER HETATM"
    " ENDMDL CONECT MASTER USER END".split()
)
_MOST_ATOMS = 99_998
"""Serial numbers have five digits, and the end of the chain takes one."""


def read_pdb(path: Path, topology: Topology | None) -> Frames:
    from mdtraj.formats import PDBTrajectoryFile

    del topology
    num_atoms = _check_lines(path)
    with PDBTrajectoryFile(str(path)) as file:
        positions = np.asarray(file.positions, float) * units.ANGSTROM
        found: Any = file.topology
        lengths, angles = file.unitcell_lengths, file.unitcell_angles
    if positions.shape[1:] != (num_atoms, 3):
        raise ValueError(
            f"It has {num_atoms} atoms, of which {positions.shape[1]} differ; alternate locations and atoms that are"
            " there twice must be removed."
        )
    atoms: list[Any] = list(found.atoms)
    unknown = [a for a in atoms if a.element is None or a.element.symbol not in SYMBOLS]
    if unknown:
        raise ValueError(f"The element of atom {unknown[0].index}, {unknown[0]}, is missing, in columns 77 and 78.")
    vectors = None
    # a cube of 1 Å says that there is no cell (wwPDB format 3.30, section 8)
    if lengths is not None and not np.array_equal(lengths, [1, 1, 1]):
        vectors = np.tile(vectors_of(np.array(lengths) * units.ANGSTROM, np.array(angles)), (len(positions), 1, 1))
    return Frames(
        topology_of(
            np.array([SYMBOLS.index(a.element.symbol) + 1 for a in atoms]),
            molecules=np.array([a.residue.index for a in atoms]),
            bonds=np.array([(a.index, b.index) for a, b in found.bonds]).reshape(-1, 2),
        ),
        positions,
        None,
        vectors,
        None,
    )


def write_pdb(path: Path, frames: Frames) -> None:
    from mdtraj.formats import PDBTrajectoryFile

    positions = frames.positions.astype(float) / units.ANGSTROM
    if positions.shape[1] > _MOST_ATOMS:
        raise ValueError(
            f"PDB numbers at most {_MOST_ATOMS} atoms, got {positions.shape[1]}; wanted `.extxyz` or `.h5`."
        )
    if not (np.all(positions > -999.999) and np.all(positions < 9999.999)):
        raise ValueError("PDB has room for positions between -99 and 999 nm; wanted `.extxyz` or `.h5` for these.")
    lengths, angles = None, None
    if frames.vectors is not None:
        if np.any(frames.vectors != frames.vectors[0]):
            raise ValueError("PDB has one box for all frames, but these differ; wanted `.extxyz`, `.dcd` or `.h5`.")
        lengths, angles = lengths_and_angles(frames.vectors[0])
        lengths = lengths / units.ANGSTROM
        if np.any(lengths >= 99999):
            raise ValueError(f"PDB has no room for a box of {lengths} Å; wanted `.extxyz` or `.h5`.")
    topology = _mdtraj_topology(frames.topology)
    with PDBTrajectoryFile(str(path), mode="w") as file:
        for k, frame in enumerate(positions):
            number = k % 9999 + 1 if len(positions) > 1 else None  # of four digits
            file.write(frame, topology, modelIndex=number, unitcell_lengths=lengths, unitcell_angles=angles)


def _mdtraj_topology(topology):
    """Every run of atoms of one molecule is a residue: HOH if it is water, MOL if not."""
    from mdtraj import Topology as MDTrajTopology
    from mdtraj.core.element import get_by_symbol

    out: Any = MDTrajTopology()
    chain = out.add_chain()
    molecules = np.asarray(topology.molecules)
    elements = topology.elements
    runs = np.split(np.arange(len(molecules)), np.flatnonzero(np.diff(molecules)) + 1)
    for number, run in enumerate(runs, 1):
        water = sorted(elements[k] for k in run) == ["H", "H", "O"]
        residue = out.add_residue("HOH" if water else "MOL", chain, number)
        seen: dict[str, int] = {}
        for k in run:
            symbol = elements[k]
            seen[symbol] = seen.get(symbol, 0) + 1
            name = "O" if water and symbol == "O" else f"{symbol}{seen[symbol]}"
            out.add_atom(name, get_by_symbol(symbol), residue)
    atoms = list(out.atoms)
    for i, j in np.asarray(topology.bonds):
        out.add_bond(atoms[i], atoms[j])
    return out


def _check_lines(path):
    """The number of atoms; refused where a file ends too early or has lines that MDTraj would leave out silently."""
    counts, in_model = [0], False
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        record = line[:6].strip()
        if record and record not in _RECORDS:
            raise ValueError(f"Line {number} is {line[:40]!r}, which is no record of a PDB file.")
        if record in ("ATOM", "HETATM"):
            if len(line) < 54:
                raise ValueError(f"Line {number} is {line!r}, an atom without all three coordinates.")
            counts[-1] += 1
        elif record == "MODEL":
            if in_model or (counts[-1] > 0 and len(counts) == 1):
                raise ValueError(f"Line {number} begins a model where the last one has no end.")
            in_model = True
        elif record == "ENDMDL":
            if not in_model:
                raise ValueError(f"Line {number} ends a model that has no beginning.")
            in_model = False
            counts.append(0)
    if in_model:
        raise ValueError("It ends in the middle of a model.")
    if counts[-1] == 0 and len(counts) > 1:
        counts.pop()
    if len(set(counts)) > 1 or counts[0] == 0:
        raise ValueError(f"Its models have {sorted(set(counts))} atoms, wanted as many in all, at least one.")
    return counts[0]
