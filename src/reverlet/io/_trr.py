"""TRR (GROMACS): nm and ps in single or double precision, positions and velocities, no elements.

A frame is a header, a box, positions, velocities and forces, all in big-endian order. Not by MDTraj: its reader gives
whatever is in memory where a frame has no positions, as GROMACS writes them if velocities are kept more often.
"""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._topology import Topology
from ._frames import Frames, Request, parts
from ._gromacs import (
    block,
    boxes_to_write,
    headers_of,
    require_num_atoms,
    require_topology,
    times_of,
    times_to_write,
    vectors_at,
)

_BEGINNING = struct.pack(">iii12s", 1993, 13, 12, b"GMX_trn_file")
_SIZES = struct.Struct(">13i")


class _Kind(NamedTuple):
    """What is alike in all frames."""

    width: int
    """Bytes of a number."""
    moves: bool


def read_trr(path: Path, request: Request) -> Iterator[Frames]:
    topology = require_topology(request)
    if path.stat().st_size == 0:
        raise ValueError("It is empty.")
    data = np.memmap(path, np.uint8, "r")
    kind, *_ = _frame(data, 0, 0, topology)
    headers = headers_of(_headers(data, kind, topology))
    times, arrays = times_of(headers, kind.width), 1 + kind.moves
    for part in parts(len(headers), request):
        picked = headers[part]
        places = picked["at"].tolist()
        values = np.array([block(data, at, kind.width, arrays, topology.num_atoms, 3) for at in places], float)
        velocities = values[:, 1] if kind.moves else None
        yield Frames(topology, values[:, 0], velocities, vectors_at(data, picked, kind.width), times[part])


def _headers(data, kind, topology):
    at, number = 0, 0
    while at < len(data):
        found, size, header = _frame(data, at, number, topology)
        if found != kind:
            what = "velocities" if found.moves != kind.moves else "double precision"
            raise ValueError(f"One of frames 0 and {number} has {what}, the other has not; wanted the same in all.")
        yield header
        at, number = at + size, number + 1


def _frame(data, at, number, topology):
    """Its kind, how many bytes it has, and its header as from `headers_of`."""
    begin = at + len(_BEGINNING) + _SIZES.size
    if begin > len(data) or data[at : at + len(_BEGINNING)].tobytes() != _BEGINNING:
        raise ValueError(f"Frame {number} does not begin as one of a TRR file: it is cut off or damaged.")
    sizes = _SIZES.unpack(data[begin - _SIZES.size : begin].tobytes())
    (box, virial, pressure), (x, v, f), num_atoms, step = sizes[2:5], sizes[7:10], sizes[10], sizes[11]
    require_num_atoms(num_atoms, topology)
    if x == 0:
        raise ValueError(f"Frame {number} has no positions; wanted them in every frame: `gmx trjconv` leaves such out.")
    width = x // (3 * num_atoms)
    fine = width in (4, 8) and x == 3 * num_atoms * width and {v, f} <= {0, x}
    if not (fine and {box, virial, pressure} <= {0, 9 * width} and not any(sizes[:2] + sizes[5:7])):
        raise ValueError(f"The sizes of frame {number} are damaged.")
    cell = begin + 2 * width
    positions = cell + box + virial + pressure
    end = positions + x + v + f
    if end > len(data):
        raise ValueError(f"Frame {number} is cut off.")
    boxed = box > 0 and bool(np.any(block(data, cell, width, 9) != 0))
    header = positions, x + v, cell, step, float(block(data, begin, width, 1)[0]), boxed
    return _Kind(width, v > 0), end - at, header


@contextlib.contextmanager
def trr_writer(path: Path, topology: Topology):
    """In the precision of the positions."""
    count = 0
    with open(path, "wb") as file:

        def append(frames: Frames) -> None:
            nonlocal count
            width = 8 if frames.positions.dtype == np.float64 else 4
            size, moves = 3 * topology.num_atoms * width, frames.velocities is not None
            times = times_to_write(frames, count, width)
            for k, vectors in enumerate(boxes_to_write(frames)):
                sizes = (0, 0, 9 * width, 0, 0, 0, 0, size, size * moves, 0, topology.num_atoms, count, 0)
                arrays = [[times[k], 0.0], vectors, frames.positions[k]]
                if frames.velocities is not None:
                    arrays.append(frames.velocities[k])
                numbers = b"".join(np.asarray(a, f">f{width}").tobytes() for a in arrays)
                file.write(_BEGINNING + _SIZES.pack(*sizes) + numbers)
                count += 1
            file.flush()

        yield append
