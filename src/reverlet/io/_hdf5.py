"""HDF5 files through a process of its own, which ends when it takes too long or too much (`_hdf5_server`)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._server import Server

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PIECE = 1 << 25
"""Bytes at a time."""


def hdf5_server() -> Server:
    """Reads one file after the other."""
    return Server("_hdf5_server.py")


def hdf5_file(server: Server, path: Path) -> "HDF5File":
    """Its objects, all of whose names and attributes have been read."""
    with open(path, "rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise ValueError("It does not begin as an HDF5 file.")
    objects, _ = server.ask({"open": str(path.absolute())})
    return HDF5File(server, objects)


class HDF5File:
    """What is in a file, by the full names of groups and datasets."""

    def __init__(self, server: Server, objects: dict[str, Any]):
        self._server, self._objects = server, objects

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def children(self, name: str) -> list[str]:
        """The names of what a group holds."""
        above = name.rstrip("/") + "/"
        return [
            n[len(above) :] for n in self._objects if n.startswith(above) and "/" not in n[len(above) :] and n != "/"
        ]

    def attribute(self, name: str, attribute: str) -> Any:
        """`None` where there is none."""
        return self.object(name)["attributes"].get(attribute)

    def object(self, name: str) -> dict[str, Any]:
        """What is said of it."""
        if name not in self._objects:
            raise ValueError(f"It has no `{name}`.")
        return self._objects[name]

    def is_dataset(self, name: str) -> bool:
        """Otherwise it is a group, or nothing."""
        return "shape" in self._objects.get(name, {})

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a dataset."""
        if not self.is_dataset(name):
            raise ValueError(f"It has no dataset `{name}`.")
        return tuple(self._objects[name]["shape"])

    def values(self, name: str, kinds: str, rows: slice | None = None) -> np.ndarray:
        """Numbers (kinds "iu", "iuf") or texts ("S") of a dataset, of some rows only or of all."""
        shape = self.shape(name)
        got = self.object(name)["dtype"]
        if ("S" if got == "text" else got[1] if got[:1] in "<>|" else "?") not in kinds or (
            got[2:] == "2" and "f" in got
        ):
            raise ValueError(f"Its `{name}` holds {got}, wanted {'text' if kinds == 'S' else 'numbers'} ({kinds}).")
        if shape == ():
            return self._read(name, (0, 1, 1))
        start, stop, step = (rows or slice(None)).indices(shape[0])
        itemsize = 64 if got == "text" else int(got[2:])
        most = max(1, _PIECE // max(1, int(np.prod(shape[1:], dtype=float)) * itemsize)) * step
        pieces = [self._read(name, (k, min(k + most, stop), step)) for k in range(start, stop, most)]
        return np.concatenate(pieces) if pieces else np.zeros((0, *shape[1:]))

    def _read(self, name, rows):
        header, data = self._server.ask({"read": name, "rows": rows})
        return np.frombuffer(data, header["dtype"]).reshape(header["shape"])


@contextlib.contextmanager
def opened(path: Path) -> Iterator[HDF5File]:
    """A file, for as long as it is read."""
    with hdf5_server() as server:
        yield hdf5_file(server, path)
