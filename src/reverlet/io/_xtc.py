"""XTC (GROMACS): nm to three decimals, packed, without velocities and elements. Packed and unpacked by MDTraj.

Where frames are, and whether they can be what they say, is found here; a process of its own unpacks them
(`_xtc_server`), since what unpacks them believes damaged ones.
"""

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .._topology import Topology
from ._frames import Frames, Request, parts
from ._gromacs import (
    boxes_to_write,
    headers_of,
    require_num_atoms,
    require_topology,
    times_of,
    times_to_write,
    vectors_at,
)
from ._server import Server

_FIXED = struct.Struct(">iiif36xi")
"""What a frame begins with: 1995, atoms, step, time, its box, and atoms once more."""
_PACKING = struct.Struct(">f8i")
"""What positions begin with: precision, least and largest coordinates, sizes of a small difference and of it all."""
_LONG = 2023
"""What frames of more than 298 million atoms begin with."""
_FEW = 9
"""So many atoms are not packed."""
_PIECE = 1 << 24
"""Bytes to unpack at a time."""


def xtc_server() -> Server:
    """Unpacks frames of one file after the other."""
    return Server("_xtc_server.py")


def read_xtc(path: Path, request: Request) -> Iterator[Frames]:
    with xtc_server() as server:
        yield from xtc_frames(server, path, request)


def xtc_frames(server: Server, path: Path, request: Request) -> Iterator[Frames]:
    """Of a file, which the server unpacks."""
    topology = require_topology(request)
    if path.stat().st_size == 0:
        raise ValueError("It is empty.")
    data = np.memmap(path, np.uint8, "r")
    headers = headers_of(_headers(data, topology))
    times, most = times_of(headers, 4), max(1, min(1000, _PIECE // (12 * topology.num_atoms)))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "a.xtc"  # of frames that are wanted: MDTraj goes through a whole file to find them
        for part in parts(len(headers), request):
            picked, pieces = headers[part], []
            for k in range(0, len(picked), most):
                some = picked[k : k + most]
                copy.write_bytes(b"".join(data[at : at + size].tobytes() for at, size in some[["at", "size"]].tolist()))
                pieces.append(_unpacked(server, copy, len(some), topology))
                _require_extremes(data, some["at"], pieces[-1])
            positions = np.concatenate(pieces).astype(float)
            yield Frames(topology, positions, None, vectors_at(data, picked, 4), times[part])


def _unpacked(server, path, num_frames, topology):
    header, content = server.ask({"path": str(path)})
    if header["shape"] != [num_frames, topology.num_atoms, 3]:
        raise ValueError(f"It gives positions of shape {header['shape']} for {num_frames} frames: it is damaged.")
    return np.frombuffer(content, "<f4").reshape(header["shape"])


def _require_extremes(data, places, positions):
    """Refused unless positions reach as far as is said before them: nothing else can tell that they are damaged."""
    if positions.shape[1] <= _FEW:
        return
    packing = np.array([_PACKING.unpack_from(data, at + _FIXED.size)[:7] for at in places.tolist()], float)
    precision = packing[:, :1, None]
    said = packing[:, 1:].reshape(-1, 2, 3) / precision
    found = np.stack([positions.min(axis=1), positions.max(axis=1)], axis=1).astype(float)
    bad = ~np.all(abs(found - said) <= 0.1 / precision + 1e-6 * abs(said), axis=(1, 2))
    if np.any(bad):
        k = np.argmax(bad)
        raise ValueError(
            f"The frame at byte {places[k]} reaches from {found[k, 0]} to {found[k, 1]} nm, wanted {said[k, 0]} to"
            f" {said[k, 1]} nm, as is said there: it is damaged."
        )


def _headers(data, topology):
    at, number = 0, 0
    while at < len(data):
        if at + _FIXED.size > len(data):
            raise ValueError(f"Frame {number} is cut off.")
        kind, num_atoms, step, time, again = _FIXED.unpack_from(data, at)
        if kind == _LONG:
            raise ValueError("It is of the kind for more than 298 million atoms, which is not read.")
        if kind != 1995 or num_atoms != again:
            raise ValueError(f"Frame {number} does not begin as one of an XTC file: it is damaged.")
        require_num_atoms(num_atoms, topology)
        size = _FIXED.size + (12 * num_atoms if num_atoms <= _FEW else _packed_size(data, at + _FIXED.size, number))
        if at + size > len(data):
            raise ValueError(f"Frame {number} is cut off.")
        yield at, size, at + 16, step, time, bool(np.any(data[at + 16 : at + 52]))
        at, number = at + size, number + 1


def _packed_size(data, at, number):
    if at + _PACKING.size > len(data):
        raise ValueError(f"Frame {number} is cut off.")
    precision, *extremes, small, size = _PACKING.unpack_from(data, at)
    fine = precision > 0 and np.isfinite(precision) and np.all(np.array(extremes[:3]) <= extremes[3:])
    if not (fine and 9 <= small <= 72 and size > 0):
        raise ValueError(f"The packing of frame {number} is damaged.")
    return _PACKING.size + 4 * -(-size // 4)


@contextlib.contextmanager
def xtc_writer(path: Path, topology: Topology):
    from mdtraj.formats import XTCTrajectoryFile

    del topology
    count = 0
    with XTCTrajectoryFile(str(path), mode="w") as file:

        def append(frames: Frames) -> None:
            nonlocal count
            steps = np.arange(count, count + len(frames.positions), dtype=np.int32)
            most = np.max(abs(frames.positions))
            if most >= 4000:  # where single precision, which they are packed from, has no three decimals
                raise ValueError(f"XTC has no room for positions of {most:.6g} nm; wanted `.h5` or `.trr`.")
            single = lambda values: np.ascontiguousarray(values, np.float32)
            file.write(
                single(frames.positions),
                time=single(times_to_write(frames, count, 4)),
                step=steps,
                box=single(boxes_to_write(frames)),
            )
            file.flush()
            count += len(steps)

        yield append
