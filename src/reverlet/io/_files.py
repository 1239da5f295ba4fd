import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from .._dynamics import Trajectory
from .._state import State
from .._topology import Topology
from ._dcd import read_dcd, write_dcd
from ._frames import Frames
from ._h5md import read_h5md, write_h5md
from ._pdb import read_pdb, write_pdb
from ._xyz import read_xyz, write_extxyz, write_xyz


class _Format(NamedTuple):
    name: str
    read: Callable[[Path, Topology | None], Frames]
    write: Callable[[Path, Frames], None]


_FORMATS = {
    ".extxyz": _Format("extxyz", read_xyz, write_extxyz),
    ".xyz": _Format("XYZ", read_xyz, write_xyz),
    ".pdb": _Format("PDB", read_pdb, write_pdb),
    ".dcd": _Format("DCD", read_dcd, write_dcd),
    ".h5": _Format("HDF5 (H5MD)", read_h5md, write_h5md),
    ".h5md": _Format("HDF5 (H5MD)", read_h5md, write_h5md),
}


def read(path: Path | str, *, topology: Topology | None = None) -> tuple[Topology, Trajectory]:
    """A structure or trajectory from a file: extxyz, XYZ, PDB, DCD or HDF5 (H5MD), by its suffix.

    The records of the trajectory are one `State` whose arrays lead with `frames`. Velocities that a file does not have
    are absent; where it has no times they are 0, 1, 2, … frames instead of ps. Numbers have JAX's default precision,
    from HDF5 that of the file; times are NumPy's, in double precision. Molecules are
    what bonds hold together, in a PDB file every residue besides.

    **Arguments:** `topology`, what the atoms are; needed for DCD, and for HDF5 without species. With it the atoms in
    the file are checked against it, and it is returned.

    **Errors:** `ValueError`, which names the file, for one that is missing, damaged, of another format or suffix, or
    does not fit `topology`; `ImportError` if the package that reads it is missing.
    """
    path = Path(path)
    kind = _format(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; wanted one of {kind.name}.")
    with _naming_the_extra():
        try:
            frames = kind.read(path, topology)
            if topology is not None:
                frames = frames.of(topology)
            return frames.topology, frames.trajectory()
        except ImportError:
            raise
        except Exception as error:  # readers raise whatever they stumble over
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"The file {path} cannot be read as {kind.name}: {reason.strip() or 'no reason given'} Wanted an"
                f" undamaged {kind.name} file."
            ) from None


def read_structure(path: Path | str, *, topology: Topology | None = None) -> tuple[Topology, State]:
    """The first configuration of a file, as of `read`."""
    topology, trajectory = read(path, topology=topology)
    return topology, jax.tree.map(lambda x: x[0], trajectory.records)


def write(path: Path | str, topology: Topology, trajectory: Trajectory | State) -> None:
    """Writes a trajectory, or a single configuration, in the format that the suffix of `path` says.

    The file appears when it is complete, in the place of one of that name. Formats lose what they have no room for: see
    the table in the documentation.

    **Arguments:** `trajectory`, one whose records are whole states, as of `nve` without `record`.

    **Errors:** `ValueError` for other records, several trajectories at once, atoms that are not those of the topology,
    numbers that are not finite, what the format cannot hold (with one that can), a suffix or a folder that is not
    there; `ImportError` if the package that writes it is missing.
    """
    path = Path(path)
    kind = _format(path)
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to; wanted one that exists.")
    frames = Frames.from_trajectory(topology, trajectory)
    # in the same folder, since only there renaming is one step; with the same suffix, which some writers go by
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with _naming_the_extra():
            kind.write(unfinished, frames)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _format(path: Path) -> _Format:
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"`path` is {path}; wanted a name that ends in {', '.join(_FORMATS)}.")
    return _FORMATS[path.suffix.lower()]


@contextlib.contextmanager
def _naming_the_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}. `reverlet.io` needs the extra `io`: pip install 'reverlet[io]'.") from error
