"""DCD (CHARMM, NAMD), by MDTraj: Å in single precision, no velocities, no times, no elements."""

from pathlib import Path

import numpy as np

from .. import units
from .._topology import Topology
from ._cell import lengths_and_angles, vectors_of
from ._frames import Frames


def read_dcd(path: Path, topology: Topology | None) -> Frames:
    from mdtraj.formats import DCDTrajectoryFile

    if topology is None:
        raise ValueError(
            "It does not say what its atoms are: give `topology`, such as of `rv.io.read('start.pdb')[0]`."
        )
    _check_records(path, topology.num_atoms)
    with DCDTrajectoryFile(str(path)) as file:
        positions, lengths, angles = file.read()
    vectors = None
    if lengths is not None and np.any(lengths != 0):  # programs without a box write zeros
        vectors = vectors_of(np.asarray(lengths, float) * units.ANGSTROM, angles)
    return Frames(topology, np.asarray(positions, float) * units.ANGSTROM, None, vectors, None)


def write_dcd(path: Path, frames: Frames) -> None:
    from mdtraj.formats import DCDTrajectoryFile

    lengths, angles = None, None
    if frames.vectors is not None:
        lengths, angles = lengths_and_angles(frames.vectors)
        lengths, angles = (lengths / units.ANGSTROM).astype(np.float32), angles.astype(np.float32)
    with DCDTrajectoryFile(str(path), mode="w") as file:
        file.write((frames.positions / units.ANGSTROM).astype(np.float32), lengths, angles)


def _check_records(path, num_atoms):
    """Refuses a file that is not, to the last word, as long as its header says.

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
    body, at = body.reshape(num_frames, size), 0
    for length in lengths:
        if np.any(body[:, at] != length) or np.any(body[:, at + 1 + length // 4] != length):
            raise ValueError("A frame is damaged: the lengths of its records are wrong.")
        at += 2 + length // 4
