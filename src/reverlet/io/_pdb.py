"""Reading PDB, as wwPDB's format 3.30 has it and programs write it: Å, no velocities, boxes by edges and angles."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import units
from .._topology import Topology
from ._cell import vectors_of
from ._frames import (
    Frames,
    Request,
    Snapshot,
    gathered,
    require_elements,
    require_names,
    require_symbols,
    topology_of,
)
from ._numbers import numbers
from ._pdb_bonds import bonds_of

_RECORDS = set(
    "HEADER OBSLTE TITLE SPLIT CAVEAT COMPND SOURCE KEYWDS EXPDTA NUMMDL MDLTYP AUTHOR REVDAT SPRSDE JRNL REMARK DBREF"
    " DBREF1 DBREF2 SEQADV SEQRES MODRES HET HETNAM HETSYN FORMUL HELIX SHEET TURN SSBOND LINK CISPEP SITE CRYST1"
    " ORIGX1 ORIGX2 ORIGX3 SCALE1 SCALE2 SCALE3 MTRIX1 MTRIX2 MTRIX3 TVECT MODEL ATOM ANISOU SIGATM SIGUIJ TER HETATM"
    " ENDMDL CONECT MASTER USER END".split()
)
_BONDS = ("CONECT", "SSBOND", "LINK")
_P1 = re.compile(r"\s*(P[\s1]*)?", re.IGNORECASE)
"""The space group of a box that is the whole cell, or none."""
_COORDINATE = re.compile(r" *[+-]?\d*\.\d+", re.ASCII)


class Atom(NamedTuple):
    """One ATOM or HETATM of a file."""

    line: int
    serial: str
    name: str
    location: str
    residue: tuple[str, ...]
    """Name, chain, number and insertion code, segment."""
    element: str
    chain: int
    """Counts up at every TER."""


class _Model(NamedTuple):
    atoms: list[Atom]
    snapshot: Snapshot


def read_pdb(path: Path, request: Request) -> Iterator[Frames]:
    with open(path, encoding="utf-8") as file:
        bonds = [(n, line) for n, line in enumerate(file, 1) if line.startswith(_BONDS)]
        file.seek(0)
        models = _models(file)
        first = next(models, None)
        if first is None:
            raise ValueError("It has no atoms; wanted ATOM or HETATM records of at least one.")
        topology = _topology(first.atoms, bonds, request)
        yield from gathered(topology, _snapshots(first, models), request)


def _snapshots(first, models):
    identity = [(a.name, a.element) for a in first.atoms]
    yield first.snapshot
    for k, model in enumerate(models, 1):
        if len(model.atoms) != len(identity):
            raise ValueError(
                f"Its models have {sorted({len(model.atoms), len(identity)})} atoms (model {k} begins in line"
                f" {model.snapshot.line}), wanted as many in all."
            )
        for atom, wanted in zip(model.atoms, identity, strict=True):
            if (atom.name, atom.element) != wanted:
                raise ValueError(
                    f"Line {atom.line} has atom {atom.name} ({atom.element or 'no element'}), where the first model has"
                    f" {wanted[0]} ({wanted[1] or 'no element'})."
                )
        yield model.snapshot


def _models(file) -> Iterator[_Model]:
    """Frames between MODEL and ENDMDL or, as VMD and CP2K write them, up to END."""
    box, boxed, in_model, chain, num_boxes, num_models = None, 0, 0, 0, 0, 0
    atoms: list[Atom] = []
    words: list[str] = []
    scale: list[str] = []

    def finished():
        if num_boxes > 1 and num_boxes != num_models + 1:
            raise ValueError(
                f"Some frames have a CRYST1 of their own and others up to line {atoms[-1].line} have not;"
                " wanted one in every frame, or one before all."
            )
        _require_upright(box, scale)
        places = lambda k: f"Line {atoms[k // 3].line}, column {31 + 8 * (k % 3)},"
        positions = numbers(words, places).reshape(-1, 3) * units.ANGSTROM
        return _Model(atoms, Snapshot(atoms[0].line, positions, None, box, None))

    for number, line in enumerate(file, 1):
        line = line.rstrip("\n")
        record = line[:6].strip()
        if record and record not in _RECORDS:
            raise ValueError(f"Line {number} is {line[:40]!r}, which is no record of a PDB file.")
        if record in ("ATOM", "HETATM"):
            atoms.append(_atom(line, number, chain))
            words.extend(_coordinates(line, number))
        elif record == "TER":
            chain += 1
        elif record == "CRYST1":
            if atoms:
                raise ValueError(
                    f"Line {number} is a CRYST1 behind atoms: of these, or of a frame that has no beginning? Wanted it"
                    " before them, and END or ENDMDL between frames."
                )
            if boxed > 0:
                raise ValueError(f"Line {number} is a second CRYST1 (after line {boxed}) of the same atoms.")
            box, boxed, num_boxes, scale = _box(line, number), number, num_boxes + 1, []
        elif record.startswith("SCALE"):
            scale.extend(numbers([line[10:20], line[20:30], line[30:40]], lambda k, n=number: f"Line {n}, SCALE,"))
        elif record.startswith("MTRIX") and line[59:60] != "1":
            raise ValueError(f"Line {number} is an MTRIX of a copy that is not in the file; wanted all atoms.")
        elif record == "MODEL":
            if in_model or atoms:
                raise ValueError(f"Line {number} begins a model where the last one has no end.")
            in_model = number
        elif record in ("ENDMDL", "END"):
            if in_model and not (record == "ENDMDL" and atoms):
                raise ValueError(f"Line {number} ends the model of line {in_model} without ENDMDL or atoms.")
            if record == "ENDMDL" and not in_model:
                raise ValueError(f"Line {number} ends a model that has no beginning.")
            if atoms:
                yield finished()
                num_models += 1
            atoms, words, in_model, boxed, chain = [], [], 0, 0, 0
    if in_model:
        raise ValueError("It ends in the middle of a model.")
    if atoms:
        yield finished()


def _atom(line, number, chain):
    if len(line) < 54:
        raise ValueError(f"Line {number} is {line!r}, an atom without all three coordinates.")
    if line[78:79].isalpha() or (line[75:76].isalpha() and line[72:75].isspace() and line[77:78].isspace()):
        raise ValueError(
            f"Line {number} has {line[72:80].strip()!r} beside columns 77 and 78, wanted an element in these."
        )
    return Atom(
        number,
        line[6:11].strip(),
        line[12:16].strip(),
        line[16].strip(),
        (line[17:21].strip(), line[21].strip(), line[22:27].strip(), line[72:76].strip()),
        line[76:78].strip().capitalize(),
        chain,
    )


def _coordinates(line, number):
    """Eight columns each, the last a decimal: a line that has slipped by a column is noticed."""
    words = (line[30:38], line[38:46], line[46:54])
    for k, word in enumerate(words):
        if not _COORDINATE.fullmatch(word):
            raise ValueError(
                f"Line {number} has {word!r} in columns {31 + 8 * k} to {38 + 8 * k}, wanted a coordinate whose"
                f" decimals end in column {38 + 8 * k}."
            )
    return words


def _box(line, number):
    """None for zeros, as VMD writes them, and a cube of 1 Å (wwPDB format 3.30, section 8), which say there is none."""
    words = [line[6:15], line[15:24], line[24:33], line[33:40], line[40:47], line[47:54]]
    cell = numbers(words, lambda k: f"Line {number}, CRYST1,")
    if len(line) < 54:
        raise ValueError(f"Line {number} is a CRYST1 cut off in its last angle.")
    if np.all(cell[:3] == 0) or np.array_equal(cell, [1, 1, 1, 90, 90, 90]):
        return None
    if not _P1.fullmatch(line[54:66]):
        raise ValueError(
            f"Line {number} has the space group {line[54:66].strip()}, of whose cell a file has a part only; wanted all"
            " atoms of the cell and P 1, as of ChimeraX's or PyMOL's symmetry mates, or no CRYST1."
        )
    return vectors_of(cell[:3] * units.ANGSTROM, cell[3:])


def _require_upright(box, scale):
    """Refused where SCALE, which gives positions in units of the cell, says that the box lies in another way."""
    if box is not None and len(scale) == 9:
        wanted = np.linalg.inv(box.T) * units.ANGSTROM
        # six decimals, and those of CRYST1
        if np.any(abs(np.reshape(scale, (3, 3)) - wanted) > 1e-5 + 1e-3 * np.max(abs(wanted))):
            raise ValueError(
                "By its SCALE1 to SCALE3 the box does not lie with its first edge along x and its second in the xy"
                " plane; wanted positions in that frame, or no SCALE."
            )


def _topology(atoms: list[Atom], bonds: list[tuple[int, str]], request: Request) -> Topology:
    if request.topology is not None:
        topology = require_elements(request.topology, [a.element or None for a in atoms])
        names = [None if a.element else a.name for a in atoms]
        require_names(topology, names, lambda k: f"Line {atoms[k].line}")
        return topology
    for atom in atoms:
        if not atom.element:
            raise ValueError(
                f"Line {atom.line}, atom {atom.name} of {' '.join(atom.residue).strip()}, has no element in columns 77"
                " and 78, and names are ambiguous; wanted one there, or `topology`."
            )
    require_symbols([a.element for a in atoms], lambda k: f"Line {atoms[k].line}, columns 77 and 78")
    residues = _residues(atoms)
    return topology_of(
        [a.element for a in atoms], molecules=residues, bonds=np.array(bonds_of(atoms, residues, bonds)).reshape(-1, 2)
    )


def _residues(atoms):
    """The residue of every atom, which changes with any of what names one: numbers start again in long files."""
    for one, other in pairwise(atoms):
        if one.location != other.location and one.location and other.location and one.residue[1:] == other.residue[1:]:
            raise ValueError(
                f"Lines {one.line} and {other.line} are alternate locations {one.location} and {other.location} of one"
                " residue; wanted one of these."
            )
    marks = [(a.residue, a.chain) for a in atoms]
    residues = np.cumsum([0] + [int(here != before) for before, here in pairwise(marks)])
    seen: dict[tuple[int, str], Atom] = {}
    for residue, atom in zip(residues, atoms, strict=True):
        other = seen.setdefault((int(residue), atom.name), atom)
        if other is not atom:
            what = "alternate locations" if other.location or atom.location else "two atoms"
            raise ValueError(
                f"Lines {other.line} and {atom.line} are {what} of the name {atom.name} in one residue"
                f" ({' '.join(atom.residue).strip()}); wanted one, and a number of its own for every residue. With"
                " `topology` names do not matter."
            )
    return residues
