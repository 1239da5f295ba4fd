"""The bonds of a PDB file: those it names, and those that standard residues have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._pdb import Atom


def bonds_of(
    atoms: "Sequence[Atom]", residues: np.ndarray, records: Sequence[tuple[int, str]]
) -> list[tuple[int, int]]:
    """Pairs of atoms. Refused where a record names an atom that is not there, or more than one."""
    bonds = standard_bonds([a.name for a in atoms], [a.residue[0] for a in atoms], residues, [a.chain for a in atoms])
    by_serial: dict[str, list[int]] = {}
    by_name: dict[tuple[str, ...], list[int]] = {}
    if records:
        for k, atom in enumerate(atoms):
            by_serial.setdefault(atom.serial, []).append(k)
            name, chain, number, _ = atom.residue
            by_name.setdefault((atom.name, name, chain, number), []).append(k)
    for line, text in records:
        if text.startswith("CONECT"):
            serials = [w for w in (text[k : k + 5].strip() for k in range(6, 31, 5)) if w]
            found = [(f"serial number {serial}", by_serial.get(serial)) for serial in serials]
            ends = [(found[0], other) for other in found[1:]]
        else:
            ends = [_named(text, by_name)]
        for first, second in ends:
            bonds.append((_only(*first, atoms, line), _only(*second, atoms, line)))
    return [(i, j) for i, j in bonds if i != j]  # a residue may be linked to its own image


def _named(text, by_name):
    """The two ends of an SSBOND, which is of sulphurs, or a LINK."""
    if text.startswith("SSBOND"):
        keys = [
            ("SG", text[at : at + 4].strip(), text[at + 4].strip(), text[at + 6 : at + 11].strip()) for at in (11, 25)
        ]
    else:
        spans = ((0, 4), (5, 9), (9, 10), (10, 15))
        keys = [tuple(text[at + a : at + b].strip() for a, b in spans) for at in (12, 42)]
    return [(f"atom {' '.join(key)}", by_name.get(key)) for key in keys]


def _only(what, found, atoms, line):
    if not found:
        raise ValueError(f"Line {line} names {what}, which no atom has.")
    if len(found) > 1:
        raise ValueError(
            f"Line {line} names {what}, which the atoms of lines {atoms[found[0]].line} and {atoms[found[1]].line} both"
            " have, since numbers start again; wanted a number of its own for every bonded atom, or `topology`."
        )
    return found[0]


def standard_bonds(
    names: Sequence[str], residue_names: Sequence[str], residues: np.ndarray, chains: Sequence[int]
) -> list[tuple[int, int]]:
    """Those of water, amino acids and nucleotides, by MDTraj's table; chains of these are bonded, too."""
    from mdtraj import Topology as MDTrajTopology
    from mdtraj.formats import PDBTrajectoryFile

    PDBTrajectoryFile._loadNameReplacementTables()
    known, aliases = PDBTrajectoryFile._residueNameReplacements, PDBTrajectoryFile._atomNameReplacements
    out: Any = MDTrajTopology()
    chain: Any = None
    residue: Any = None
    last = (-1, -1)
    for name, residue_name, number, part in zip(names, residue_names, residues, chains, strict=True):
        if part != last[0]:
            chain = out.add_chain()
        if (part, number) != last:
            residue = out.add_residue(known.get(residue_name, residue_name), chain)
            last = (part, number)
        out.add_atom(aliases.get(residue.name, {}).get(name, name), None, residue)
    out.create_standard_bonds()
    return [(a.index, b.index) for a, b in out.bonds]
