"""The folder of a run, and what is written there and how: in one piece, by one process."""

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import io
import json
import operator
import os
import platform
import subprocess
import sys
import time
import weakref
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import reverlet as rv

from . import _report
from ._errors import BadInput, NotWritten
from ._processes import agreed, leads, meet

try:
    import fcntl
except ImportError:  # not on Windows: two runs in one folder are not noticed
    fcntl = None


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file in one piece: a kill or a full disk leaves the old one or the new one, never half of it. Of several
    processes, the first does.

    **Errors:** `NotWritten`.
    """
    if not leads():
        return
    content = content.encode() if isinstance(content, str) else content
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise NotWritten(
            f"{path} cannot be written ({error}); wanted a folder that is there, with room for {len(content)} bytes."
        ) from error
    _report.note(path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file in one piece."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file of a run; a damaged one is bad input."""
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise BadInput(
            f"{path} cannot be read as JSON ({error}); wanted the file that the run wrote. {_RESTORE}"
        ) from error


_RESTORE = "Restore a copy, or start again in another folder."
_SUMS = "checksums.json"


class Folder:
    """The output folder of one run, and nobody else's as long as this object lives.

    **Arguments:** `path`; `config`, everything that makes the run what it is, as JSON; `resume`, whether to go on with
    the run that is there; `changeable`, the fields that may then be others, which is recorded in config.json. Stages
    that are done must not depend on these.

    **Errors:** `BadInput` when there is something else in the folder, another run that still runs, or nothing to
    resume.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool, changeable: Sequence[str] = ()):
        self.path = path
        self.config = config = json.loads(json.dumps(config))  # as it will be read back
        self.changed = False
        if path.exists() and not path.is_dir():
            raise BadInput(f"The output folder {path} is a file; wanted a folder, or a name that is free.")
        files = sorted(p.name for p in path.iterdir() if p.suffix != ".part") if path.is_dir() else []
        known = read_json(self / "config.json") if "config.json" in files else None
        if resume:
            if known is None:
                found = f"holds {_some(files)}" if files else "is empty or does not exist"
                raise BadInput(
                    f"There is no run to resume in {path}: it {found}; wanted a folder with the config.json and"
                    " checkpoint of a run. Start without --resume, or name the folder of the run."
                )
            begun = known.get("config") if isinstance(known, dict) else None
            changes = known.get("changes", []) if isinstance(known, dict) else None
            if not (
                isinstance(begun, dict) and isinstance(changes, list) and all(isinstance(c, dict) for c in changes)
            ):
                raise BadInput(f"{path / 'config.json'} is not a run's; wanted the file that the run wrote. {_RESTORE}")
            different = _differences(path, functools.reduce(operator.or_, changes, begun), config, changeable)
            _require_devices(path, known)
            self._hold()
            if different:
                changes = [*changes, {name: config.get(name) for name in different}]
                write_json(self / "config.json", {**known, "changes": changes})
            self.config, self.changed = begun, bool(changes)  # stages are signed with what the run began with
            for name in files:
                if name.startswith("history") and name.endswith(".jsonl"):
                    _require_checkpoint(self / name)
            return
        if known is not None:
            raise BadInput(
                f"The output folder {path} holds another run ({_some(files)}); wanted an empty folder or a new"
                " name. To go on with that run, add --resume. Nothing was changed."
            )
        if files:
            raise BadInput(
                f"The output folder {path} holds files that are not of a run ({_some(files)}); wanted an empty folder"
                " or a new name. Nothing was changed."
            )
        meet("the folder is free")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._hold()
            write_json(self / "config.json", {"config": config, "environment": environment()})
        except (OSError, NotWritten) as error:
            raise BadInput(f"The output folder {path} cannot be written ({error}); wanted one that can.") from error

    def _hold(self) -> None:
        """Keeps other runs out, and removes what a killed one had half written."""
        if fcntl is None or not leads():
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)  # which lets go of it, as the end of the process does
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"Another run is writing to the output folder {self.path}; wanted one at a time. Wait until it has"
                " ended or stop it, or name another folder."
            ) from None
        except OSError:  # a file system without locks
            return
        for part in self.path.glob("*.part"):
            part.unlink(missing_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoint(self) -> Path:
        """Of the fit."""
        return self / "checkpoint.eqx"

    def json_stage(self, name: str, compute: Callable[[], Any]) -> Any:
        """What the stage `name` of the run computed, from its file where the stage is done already."""
        self._stage(name, lambda: json.dumps(compute(), indent=2).encode() + b"\n")
        return read_json(self / name)

    def array_stage(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The same with arrays."""

        def content() -> bytes:
            buffer = io.BytesIO()
            np.savez(buffer, **compute())  # pyright: ignore[reportArgumentType]
            return buffer.getvalue()

        self._stage(name, content)
        return read_arrays(self / name)

    def _stage(self, name: str, content: Callable[[], bytes]) -> None:
        """Sees to it that the file of a stage is there, and that it is the one that this run wrote."""
        # without a checksum, a kill came between the two: the stage is made anew, the same
        if not agreed((self / name).exists() and name in self._sums()):
            write_atomically(self / name, content())
            if leads():
                write_json(self / _SUMS, {**self._sums(), name: self._sum(name)})
            meet(f"{name} is written")
        if self._sums().get(name) != self._sum(name):
            raise BadInput(
                f"{self / name} is damaged or of another run: its checksum is not that of {_SUMS}; wanted the file that"
                " the run wrote. Restore a copy, or delete it, to have it computed again."
            )

    def _sums(self) -> dict[str, str]:
        sums = read_json(self / _SUMS) if (self / _SUMS).exists() else {}
        if not isinstance(sums, dict):
            raise BadInput(f"{self / _SUMS} is not a run's; wanted the file that the run wrote. {_RESTORE}")
        return sums

    def _sum(self, name: str) -> str:
        """The SHA-256 of a file together with what it belongs to: its name and the configuration of the run."""
        belongs = json.dumps([name, self.config], sort_keys=True).encode()
        try:
            return hashlib.sha256(belongs + (self / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BadInput(f"{self / name} cannot be read ({error}); wanted the file that the run wrote.") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """An npz file of a run; a damaged one is bad input."""
    try:
        with open(path, "rb") as file, np.load(file) as arrays:  # NumPy leaves a damaged file open
            return dict(arrays)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} cannot be read ({error}); wanted the file that the run wrote. {_RESTORE}") from error


class History:
    """`history.jsonl`, a line per update: always all lines, so that it says what the checkpoint says.

    Wall times are the file's own: those of updates before a resume are read from what the killed run left.
    """

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[int, float | None] = {}
        try:
            for line in path.read_text().splitlines() if path.exists() else ():
                entry = json.loads(line)
                seconds = entry["wall_time"]
                self.seconds[int(entry["update"])] = None if seconds is None else float(seconds)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if leads():
                print(
                    f"{path} is torn after {len(self.seconds)} lines ({error}): the times of later updates are lost,"
                    " and written as null. All else is in the checkpoint.",
                    file=sys.stderr,
                )
        self.clock = time.perf_counter()

    def tick(self, update: int) -> None:
        """Notes that an update has ended."""
        now = time.perf_counter()
        self.seconds[update] = now - self.clock
        self.clock = now

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Writes all lines, with wall times in seconds (`null` where a kill came between checkpoint and history)."""
        text = "".join(json.dumps({**line, "wall_time": self.seconds.get(line["update"])}) + "\n" for line in lines)
        write_atomically(self.path, text)


def free_folder(base: Path) -> Path:
    """`base`, or the first of `base-2`, `base-3`, ... that does not exist."""
    path, k = base, 1
    while path.exists():
        k += 1
        path = base.with_name(f"{base.name}-{k}")
    return path


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment() -> dict[str, Any]:
    """Where and with what a run is made."""
    packages = ("reverlet", "jax", "jaxlib", "equinox", "diffrax", "optax", "numpy", "ase", "matplotlib")
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = rv.__version__ if name == "reverlet" else "missing"
    return {
        "versions": versions,
        "devices": _devices(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "git": _git_revision(),
        "command": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _devices() -> list[str]:
    return [str(d.device_kind) for d in jax.devices()]


def _git_revision() -> str | None:
    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(("git", *arguments), cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _require_checkpoint(history: Path) -> None:
    """Refuses a history whose checkpoint is gone: the fit would silently begin anew."""
    checkpoint = history.with_name(history.name.replace("history", "checkpoint")).with_suffix(".eqx")
    if history.stat().st_size and not checkpoint.exists():
        lines = history.read_bytes().count(b"\n")
        raise BadInput(
            f"The checkpoint {checkpoint} is missing, although {history.name} has {lines} updates; wanted the file"
            f" that the run wrote. {_RESTORE}"
        )


def _require_devices(path: Path, known: dict[str, Any]) -> None:
    """Refuses a run that was begun on devices of another kind, which round otherwise: it would end in the numbers of
    neither."""
    environment = known.get("environment")
    there = environment.get("devices") if isinstance(environment, dict) else None
    if isinstance(there, list) and {*map(str, there)} != {*_devices()}:
        raise BadInput(
            f"The run in {path} was begun on {_some(sorted({*map(str, there)}))}; here is"
            f" {_some(sorted({*_devices()}))}, which rounds otherwise. Wanted devices of the same kind, to go on to the"
            " same numbers (for a CPU, JAX_PLATFORMS=cpu), or another folder to start in. Nothing was changed."
        )


def _differences(path: Path, known: dict[str, Any], config: dict[str, Any], changeable: Sequence[str]) -> list[str]:
    """The fields that are others now, all of which may be."""
    different = [k for k in sorted({*known, *config}) if known.get(k) != config.get(k)]
    if not set(different) <= set(changeable):
        listing = "; ".join(f"{k} is {config.get(k)}, there {known.get(k)}" for k in different)
        raise BadInput(
            f"The output folder {path} holds a run with another configuration ({listing}); wanted the same to"
            " resume it. Give the arguments of that run, or another folder. A fit may go on with other learning rates:"
            " with --accept-changes. Nothing was changed."
        )
    return different
