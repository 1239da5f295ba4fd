import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from .._dynamics import Reporter, Trajectory
from .._misc import as_number, require_count, require_instance
from .._state import State
from .._timeseries import Times
from .._topology import Topology
from ._dcd import dcd_writer, read_dcd
from ._frames import Frames, Request, merged
from ._gro import gro_writer, read_gro
from ._h5md import read_h5md
from ._h5md_write import h5md_writer
from ._pdb import read_pdb
from ._pdb_write import pdb_writer
from ._trr import read_trr, trr_writer
from ._xtc import read_xtc, xtc_writer
from ._xyz import extxyz_writer, read_xyz, xyz_writer

_Writer = Callable[[Path, Topology], contextlib.AbstractContextManager[Callable[[Frames], None]]]


class _Format(NamedTuple):
    name: str
    read: Callable[[Path, Request], Iterator[Frames]]
    writer: _Writer


_FORMATS = {
    ".extxyz": _Format("extxyz", read_xyz, extxyz_writer),
    ".xyz": _Format("XYZ", read_xyz, xyz_writer),
    ".pdb": _Format("PDB", read_pdb, pdb_writer),
    ".dcd": _Format("DCD", read_dcd, dcd_writer),
    ".h5": _Format("HDF5 (H5MD)", read_h5md, h5md_writer),
    ".h5md": _Format("HDF5 (H5MD)", read_h5md, h5md_writer),
    ".xtc": _Format("XTC", read_xtc, xtc_writer),
    ".trr": _Format("TRR", read_trr, trr_writer),
    ".gro": _Format("GRO", read_gro, gro_writer),
}
_CHUNK = 1000
"""Frames at a time, where all are wanted."""


def read(
    path: Path | str,
    *,
    topology: Topology | None = None,
    stride: int = 1,
    time_unit: float | None = None,
    velocity_unit: float | None = None,
    interval: float | None = None,
) -> tuple[Topology, Trajectory]:
    """A structure or trajectory from a file: extxyz, XYZ, PDB, DCD, HDF5 (H5MD), XTC, TRR or GRO, by its suffix.

    The records of the trajectory are one `State` whose arrays lead with `frames`. Velocities that a file does not have
    are absent, and so are times (not a number), unless `interval` says them. Numbers have JAX's default precision,
    from HDF5 that of the file; times are NumPy's, in double precision. Molecules are what bonds hold together, in a PDB
    file every residue besides.

    **Arguments:** `topology`, what the atoms are; needed for DCD, XTC, TRR and GRO, and for files that do not name
    elements. With it the atoms in the file are checked against it, and it is returned. `stride`: every how many frames,
    from the first on. `time_unit` (ps) and `velocity_unit` (nm/ps): those of times and velocities whose units the file
    does not say. `interval` (ps): between the frames of a file that has no times, whatever the stride.

    **Errors:** `ValueError`, which names the file, for one that is missing, damaged, of another format or suffix, or
    does not fit `topology`; `ImportError` if the package that reads it is missing.
    """
    request = _request(topology, stride, _CHUNK, time_unit, velocity_unit, interval)
    chunks = list(_frames(Path(path), request))
    with _naming_the_file(Path(path)):
        frames = merged(chunks)
        return frames.topology, frames.trajectory()


def stream(
    path: Path | str,
    *,
    chunk: int,
    topology: Topology | None = None,
    stride: int = 1,
    time_unit: float | None = None,
    velocity_unit: float | None = None,
    interval: float | None = None,
) -> Iterator[tuple[Topology, Trajectory]]:
    """The same as `read` in parts of `chunk` frames, of which one at a time is in memory."""
    request = _request(topology, stride, chunk, time_unit, velocity_unit, interval)
    require_count("chunk", chunk)
    for frames in _frames(Path(path), request):
        with _naming_the_file(Path(path)):
            found = frames.topology, frames.trajectory()
        yield found


def read_structure(
    path: Path | str,
    *,
    topology: Topology | None = None,
    time_unit: float | None = None,
    velocity_unit: float | None = None,
) -> tuple[Topology, State]:
    """The first configuration of a file, as for `read`; what is behind it is not read."""
    parts = stream(path, chunk=1, topology=topology, time_unit=time_unit, velocity_unit=velocity_unit)
    with contextlib.closing(parts):  # pyright: ignore[reportArgumentType]
        topology, trajectory = next(parts)
    return topology, jax.tree.map(lambda x: x[0], trajectory.records)


def write(path: Path | str, topology: Topology, trajectory: Trajectory | State) -> None:
    """Writes a trajectory, or a single configuration, in the format that the suffix of `path` says.

    The file appears when it is complete, in the place of one of that name. Formats lose what they have no room for: see
    the table in the documentation.

    **Arguments:** `trajectory`, one whose records are whole states, such as that of `nve` without `record`. States
    alone have no times.

    **Errors:** `ValueError` for other records, several trajectories at once, atoms that are not those of the topology,
    numbers that are not finite, what the format cannot hold (with one that can), a suffix or a folder that is not
    there; `ImportError` if the package that writes it is missing.
    """
    path = Path(path)
    writer = _writer(path)
    frames = Frames.from_trajectory(topology, trajectory)
    # in the same folder, since only there renaming is one step; with the same suffix, which some writers go by
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with _naming_the_extra(), writer(unfinished, topology) as append:
            append(frames)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def reporting(path: Path | str, topology: Topology) -> Iterator[Reporter]:
    """A `reporter` for `nve` that writes the frames while they are made, in the format that the suffix of `path` says.

    What is written is in the file at once, so that it can be looked at, and stays there when the run is killed.

    **Errors:** as for `write`, and `ValueError` for a file that is there already.
    """
    path = Path(path)
    writer = _writer(path)
    if path.exists():
        raise ValueError(f"There is a file {path} already, which `reporting` would write over; wanted another name.")
    with _naming_the_extra(), writer(path, topology) as append:

        def report(times: Times, states: State) -> None:
            append(Frames.from_trajectory(topology, Trajectory(times, states, states)))

        yield report


def _request(topology, stride, chunk, time_unit, velocity_unit, interval):
    require_count("stride", stride)
    require_instance("topology", topology, Topology | None)
    time_unit, velocity_unit, interval = as_number(time_unit), as_number(velocity_unit), as_number(interval)
    for name, value in (("time_unit", time_unit), ("velocity_unit", velocity_unit), ("interval", interval)):
        if value is not None and not (isinstance(value, float) and np.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` is {value!r}; wanted a positive number, such as `rv.units.FEMTOSECOND`.")
    return Request(topology, stride, chunk, time_unit, velocity_unit, interval)


def _frames(path, request):
    kind = _format(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; wanted one of {kind.name}.")
    with _naming_the_extra():
        chunks, count = kind.read(path, request), 0
        while True:
            with _naming_the_file(path):  # not around the caller's code
                frames = next(chunks, None)
                if frames is None:
                    return
                frames = _timed(frames, count, request)
                count += len(frames.positions)
            yield frames


def _timed(frames, count, request):
    """With the times that `interval` says, from those before on."""
    if request.interval is None:
        return frames
    if frames.times is not None:
        raise ValueError("It has times, and `interval` says others: leave it out.")
    every = request.stride * request.interval
    return frames._replace(times=every * np.arange(count, count + len(frames.positions)))


@contextlib.contextmanager
def _naming_the_file(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # readers raise whatever they stumble over
        name = _format(path).name
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"The file {path} cannot be read as {name}: {reason.strip() or 'no reason given'} Wanted an undamaged"
            f" {name} file."
        ) from None


def _writer(path: Path) -> _Writer:
    kind = _format(path)
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to; wanted one that exists.")
    return kind.writer


def _format(path: Path) -> _Format:
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"`path` is {path}; wanted a name that ends in {', '.join(_FORMATS)}.")
    return _FORMATS[path.suffix.lower()]


@contextlib.contextmanager
def _naming_the_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}. `reverlet.io` needs the extra `io`: `pip install ase h5py mdtraj`.") from error
