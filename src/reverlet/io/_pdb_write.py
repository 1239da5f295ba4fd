"""Writing PDB so that MDTraj, ASE, OpenMM and VMD read the same frames."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import units
from .._topology import Topology
from ._cell import lengths_and_angles
from ._frames import Frames, joined
from ._labels import labels, runs_of

_MOST_ATOMS = 99_998
"""Serial numbers have five digits, and the end of the chain takes one."""


@contextlib.contextmanager
def pdb_writer(path: Path, topology: Topology):
    if topology.num_atoms > _MOST_ATOMS:
        raise ValueError(
            f"PDB numbers at most {_MOST_ATOMS} atoms, got {topology.num_atoms}; wanted `.extxyz` or `.h5`."
        )
    runs, bonds = runs_of(np.asarray(topology.molecules)), np.asarray(topology.bonds)
    of_run = np.repeat(np.arange(len(runs)), [len(r) for r in runs])
    if np.any(joined(of_run, bonds) != joined(np.asarray(topology.molecules), bonds)):
        raise ValueError(
            "A PDB file would lose a molecule whose atoms neither follow one another nor are bonded; wanted `.extxyz`"
            " or `.h5`."
        )
    before, after = zip(*_rows(topology), strict=True)
    cell, count = None, 0
    with open(path, "w", encoding="ascii") as file:

        def append(frames: Frames) -> None:
            nonlocal cell, count
            for k, positions in enumerate(frames.positions):
                here = None if frames.vectors is None else frames.vectors[k]
                if (count > 0 and (here is None) != (cell is None)) or (
                    here is not None and np.any(here != cell) and count
                ):
                    raise ValueError(
                        "PDB has one box for all frames, but these differ; wanted `.extxyz`, `.dcd` or `.h5`."
                    )
                cell, count = here, count + 1
                # in every model: ASE forgets it at the end of each
                file.write(_cryst1(here) + f"MODEL     {(count - 1) % 9999 + 1:4d}\n")  # of four digits
                file.writelines(
                    f"{b}{xyz}{a}" for b, xyz, a in zip(before, _coordinates(positions), after, strict=True)
                )
                file.write(f"TER   {topology.num_atoms + 1:5d}\nENDMDL\n")
            file.flush()

        yield append
        # without END behind the last ENDMDL, which ASE takes for the end of one frame more
        file.writelines(_conect(bonds))


def _coordinates(positions: np.ndarray) -> Iterator[str]:
    scaled = positions.astype(float) / units.ANGSTROM
    if not (np.all(scaled > -999.999) and np.all(scaled < 9999.999)):
        raise ValueError("PDB has room for positions between -99 and 999 nm; wanted `.extxyz` or `.h5` for these.")
    return (f"{x:8.3f}{y:8.3f}{z:8.3f}" for x, y, z in scaled)


def _cryst1(vectors):
    if vectors is None:
        return ""
    lengths, angles = lengths_and_angles(vectors)
    lengths = lengths / units.ANGSTROM
    if np.any(lengths >= 99999):
        raise ValueError(f"PDB has no room for a box of {lengths} Å; wanted `.extxyz` or `.h5`.")
    edges, corners = "".join(f"{x:9.3f}" for x in lengths), "".join(f"{x:7.2f}" for x in angles)
    return f"CRYST1{edges}{corners} P 1           1\n"


def _rows(topology):
    """What stands before and behind the coordinates of every atom."""
    for k, label in enumerate(labels(topology)):
        name = label.name
        name = name if len(name) == 4 else f"{' ' * (2 - len(label.symbol))}{name:<{2 + len(label.symbol)}}"
        yield (
            f"ATOM  {k + 1:5d} {name} {label.residue_name} A{label.residue % 9999 + 1:4d}    ",
            f"  1.00  0.00          {label.symbol.upper():>2}  \n",
        )


def _conect(bonds):
    partners: dict[int, list[int]] = {}
    for i, j in bonds:
        partners.setdefault(int(i), []).append(int(j))
        partners.setdefault(int(j), []).append(int(i))
    for i, others in sorted(partners.items()):
        for at in range(0, len(others), 4):
            yield f"CONECT{i + 1:5d}" + "".join(f"{j + 1:5d}" for j in others[at : at + 4]) + "\n"
