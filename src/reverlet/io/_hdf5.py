"""HDF5 files through a process of its own, which ends when it takes too long or too much (`_hdf5_server`)."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PIECE = 1 << 25
"""Bytes at a time."""
_MOST_SECONDS = 60.0
"""On the clock, where the processor's time is not limited, or does not pass."""


class HDF5Server:
    """Starts with the first file, and again where one has ended it. A context manager."""

    def __init__(self):
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "HDF5Server":
        return self

    def __exit__(self, *error) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.communicate(timeout=1)
            self._end()

    def open(self, path: Path) -> "HDF5File":
        """Its objects, all of whose names and attributes have been read."""
        with open(path, "rb") as file:
            if file.read(len(_SIGNATURE)) != _SIGNATURE:
                raise ValueError("It does not begin as an HDF5 file.")
        return HDF5File(self, self._ask({"open": str(path.absolute())}))

    def read(self, name: str, rows: tuple[int, int, int]) -> np.ndarray:
        """Rows of a dataset in the file that was opened last."""
        header = self._ask({"read": name, "rows": rows})
        data = self._receive(lambda: self._out.read(header["bytes"]))
        if len(data) != header["bytes"]:
            self._refuse()
        return np.frombuffer(data, header["dtype"]).reshape(header["shape"])

    @property
    def _out(self) -> Any:
        assert self._process is not None
        return self._process.stdout

    def _ask(self, request: dict[str, Any]) -> Any:
        if self._process is None:
            server = str(Path(__file__).with_name("_hdf5_server.py"))
            pipe = subprocess.PIPE
            # its words on a damaged file are not for the user
            self._process = subprocess.Popen(
                [sys.executable, server], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
            )
            if not self._receive(lambda: self._out.readline()):
                self._end()
                import h5py  # noqa: F401  which says what is missing

                raise ValueError("The process that reads HDF5 does not start.")
        self._process.stdin.write(json.dumps(request).encode() + b"\n")  # pyright: ignore[reportOptionalMemberAccess]
        self._process.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
        line = self._receive(lambda: self._out.readline())
        if not line.endswith(b"\n"):
            self._refuse()
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def _receive(self, read):
        assert self._process is not None
        timer = threading.Timer(_MOST_SECONDS, self._process.kill)
        timer.start()
        try:
            return read()
        finally:
            timer.cancel()

    def _refuse(self):
        self._end()
        raise ValueError("HDF5 does not come back from it within 2 s of work and 1 GB, or crashes: it is damaged.")

    def _end(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
            self._process = None


class HDF5File:
    """What is in a file, by the full names of groups and datasets."""

    def __init__(self, server: HDF5Server, objects: dict[str, Any]):
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
            return self._server.read(name, (0, 1, 1))
        start, stop, step = (rows or slice(None)).indices(shape[0])
        itemsize = 64 if got == "text" else int(got[2:])
        most = max(1, _PIECE // max(1, int(np.prod(shape[1:], dtype=float)) * itemsize)) * step
        pieces = [self._server.read(name, (k, min(k + most, stop), step)) for k in range(start, stop, most)]
        return np.concatenate(pieces) if pieces else np.zeros((0, *shape[1:]))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[HDF5File]:
    """A file, for as long as it is read."""
    with HDF5Server() as server:
        yield server.open(path)
