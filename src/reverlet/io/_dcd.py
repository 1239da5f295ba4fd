"""DCD (CHARMM, NAMD): Å in single precision, no velocities, no times, no elements.

Written by MDTraj; read here, since its reader prints to the standard output, and believes a damaged header.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import units
from .._topology import Topology
from ._cell import lengths_and_angles, vectors_of
from ._frames import Frames, Request, parts

_WITH_ANGLES = (b"Created by DCD plugin", b"CREATED BY NAMD", b"OpenMM", b"LAMMPS", b"MDAnalysis", b"MDTraj")
"""In the titles of programs (the first is VMD's and MDTraj's) whose cells have cosines or degrees."""


def read_dcd(path: Path, request: Request) -> Iterator[Frames]:
    if request.topology is None:
        raise ValueError("It does not say what its atoms are: give `topology`, such as `rv.io.read('start.pdb')[0]`.")
    title, body, lengths = _records(path, request.topology.num_atoms)
    for part in parts(len(body), request):
        *cell, x, y, z = _columns(body[part], lengths)
        positions = np.stack([x, y, z], axis=-1).view("<f4").astype(float) * units.ANGSTROM
        vectors = _vectors(np.ascontiguousarray(cell[0]).view("<f8"), title) if cell else None
        yield Frames(request.topology, positions, None, vectors, None)


def _vectors(cells, title):
    """Three lengths and angles, these as degrees or cosines; or none at all.

    CHARMM writes the symmetric matrix of the shape instead, XX XY YY XZ YZ ZZ. Of right angles that is the same; others
    cannot be told from cosines or degrees by their numbers, hence by the title.
    """
    a, gamma, b, beta, alpha, c = cells.T
    lengths, angles = np.stack([a, b, c], axis=-1), np.stack([alpha, beta, gamma], axis=-1)
    if np.all(lengths == 0):  # programs without a box write zeros
        return None
    if np.any((angles != 0) & (angles != 90)) and not any(name in title for name in _WITH_ANGLES):
        raise ValueError(
            f"Its cell has {angles[np.any((angles != 0) & (angles != 90), axis=1)][0]} beside its edges, and its title"
            " does not say whether these are degrees, cosines, or CHARMM's shape matrix; wanted a title of VMD, MDTraj,"
            " MDAnalysis, NAMD, OpenMM or LAMMPS: convert the file by one of these."
        )
    if np.all(np.abs(angles) <= 1):  # NAMD and newer CHARMM write cosines
        angles = np.degrees(np.arccos(angles))
    return vectors_of(lengths * units.ANGSTROM, angles)


def _records(path, num_atoms):
    """The title; the frames as words of four bytes, still in the file; and how long their records are.

    The layout is that of Fortran's unformatted records, each between two copies of its length: a header of 84 bytes, a
    title, the number of atoms, and for every frame the cell and three coordinates.
    """
    if path.stat().st_size % 4 != 0 or path.stat().st_size < 92:
        raise ValueError(f"It has {path.stat().st_size} bytes, which is no number of whole records.")
    words = np.memmap(path, dtype="<i4", mode="r")
    if not (words[0] == words[22] == 84 and words[1].tobytes() == b"CORD"):
        raise ValueError("It does not begin as a DCD file of positions in little-endian order.")
    num_frames, charmm = int(words[2]), words[21] != 0
    has_cell, four_dimensional = bool(charmm and words[12]), bool(charmm and words[13])
    if words[10] != 0 or four_dimensional:
        raise ValueError("It has fixed atoms or a fourth dimension; wanted all three coordinates of every atom.")
    title = int(words[23]) if len(words) > 23 else -1
    end = 24 + title // 4
    if not (title >= 0 and title % 4 == 0 and end + 4 <= len(words) and words[end] == title):
        raise ValueError("Its title is damaged.")
    if not (words[end + 1] == words[end + 3] == 4):
        raise ValueError("Its number of atoms is damaged.")
    if words[end + 2] != num_atoms:
        raise ValueError(f"It has {words[end + 2]} atoms, `topology` has {num_atoms}.")
    lengths = ([48] if has_cell else []) + [4 * num_atoms] * 3
    size = sum(lengths) // 4 + 2 * len(lengths)
    body = words[end + 4 :]
    if num_frames < 1 or len(body) != num_frames * size:
        raise ValueError(f"It says that it has {num_frames} frames, but holds {len(body) / size:g}.")
    return words[24:end].tobytes(), body.reshape(num_frames, size), lengths


def _columns(body, lengths):
    """Every record of some frames."""
    at, records = 0, []
    for length in lengths:
        if np.any(body[:, at] != length) or np.any(body[:, at + 1 + length // 4] != length):
            raise ValueError("A frame is damaged: the lengths of its records are wrong.")
        records.append(body[:, at + 1 : at + 1 + length // 4])
        at += 2 + length // 4
    return records


@contextlib.contextmanager
def dcd_writer(path: Path, topology: Topology):
    from mdtraj.formats import DCDTrajectoryFile

    del topology
    with DCDTrajectoryFile(str(path), mode="w") as file:

        def append(frames: Frames) -> None:
            lengths, angles = None, None
            if frames.vectors is not None:
                lengths, angles = lengths_and_angles(frames.vectors)
                lengths, angles = (lengths / units.ANGSTROM).astype(np.float32), angles.astype(np.float32)
            file.write((frames.positions / units.ANGSTROM).astype(np.float32), lengths, angles)

        yield append
