"""The folder of a run, and what is written there and how: in one piece, by one process."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import reverlet as rv

from ._errors import BadInput
from ._processes import agreed, leads, meet


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file in one piece: a kill leaves the old one or the new one, never half of it. Of several processes, the
    first does."""
    if not leads():
        return
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file in one piece."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file of a run; a damaged one is bad input."""
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise BadInput(
            f"{path} cannot be read as JSON ({error}); wanted the file that the run wrote. {_RESTORE}"
        ) from error


_RESTORE = "Restore a copy, or start again in another folder."


class Folder:
    """The output folder of one run, and nobody else's.

    **Arguments:** `path`; `config`, everything that makes the run what it is, as JSON; `resume`, whether to go on with
    the run that is there.

    **Errors:** `BadInput` when there is something else in the folder, or nothing to resume.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool):
        self.path = path
        config = json.loads(json.dumps(config))  # as it will be read back
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
            _require_same(path, known.get("config") if isinstance(known, dict) else None, config)
            lines = (self / "history.jsonl").read_text().splitlines() if "history.jsonl" in files else []
            if lines and not self.checkpoint.exists():
                raise BadInput(
                    f"The checkpoint {self.checkpoint} is missing, although history.jsonl has {len(lines)} updates;"
                    f" wanted the file that the run wrote. {_RESTORE}"
                )
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
            write_json(self / "config.json", {"config": config, "environment": environment()})
        except OSError as error:
            raise BadInput(f"The output folder {path} cannot be written ({error}); wanted one that can.") from error

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoint(self) -> Path:
        """Of the fit."""
        return self / "checkpoint.eqx"

    def json_stage(self, name: str, compute: Callable[[], Any]) -> Any:
        """What the stage `name` of the run computed, from its file where the stage is done already."""
        if not agreed((self / name).exists()):
            write_json(self / name, compute())
            meet(f"{name} is written")
        return read_json(self / name)

    def array_stage(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The same with arrays."""
        if not agreed((self / name).exists()):
            buffer = io.BytesIO()
            np.savez(buffer, **compute())  # pyright: ignore[reportArgumentType]
            write_atomically(self / name, buffer.getvalue())
            meet(f"{name} is written")
        return read_arrays(self / name)


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
        self.seconds: dict[int, float] = {}
        with contextlib.suppress(OSError, ValueError, KeyError):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.seconds[entry["update"]] = entry["wall_time"]
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
        "devices": [str(d.device_kind) for d in jax.devices()],
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "git": _git_revision(),
        "command": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


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


def _require_same(path: Path, known: Any, config: dict[str, Any]) -> None:
    if not isinstance(known, dict):
        raise BadInput(f"{path / 'config.json'} is not a run's; wanted the file that the run wrote. {_RESTORE}")
    different = [k for k in sorted({*known, *config}) if known.get(k) != config.get(k)]
    if different:
        listing = "; ".join(f"{k} is {config.get(k)}, there {known.get(k)}" for k in different)
        raise BadInput(
            f"The output folder {path} holds a run with another configuration ({listing}); wanted the same to"
            " resume it. Give the arguments of that run, or another folder. Nothing was changed."
        )
