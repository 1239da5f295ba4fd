"""What every experiment needs of a run: its folder, what is written there and how, and errors as exit statuses."""

import argparse
import contextlib
import datetime
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from jax.experimental import multihost_utils
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

import reverlet as rv


class BadInput(ValueError):
    """Input that no run can be made of: says what was got, what was wanted, and what would fit."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turns the library's refusals while a run is set up into bad input, and lets defects of later stages show."""
    try:
        yield
    except (ValueError, TypeError, FloatingPointError) as error:
        raise BadInput(str(error)) from error


def exit_status(run: Callable[[], None]) -> int:
    """Runs an experiment: 0; 2 for bad input; 1 for a run that failed; 130 for one that was interrupted."""
    # an error raised on the host from a compiled program is reported below, not by a traceback of JAX's as well
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    try:
        run()
    except (BadInput, rv.CheckpointError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return _leave(2)
    except (FloatingPointError, jax.errors.JaxRuntimeError) as error:
        # an error raised while a compiled program runs comes wrapped
        _, found, message = str(error).rpartition("FloatingPointError: ")
        if isinstance(error, jax.errors.JaxRuntimeError) and not found:
            return _unexpected(error)
        print(f"The run failed: {message.strip()}\nAll files written so far were kept.", file=sys.stderr)
        return _leave(1)
    except KeyboardInterrupt:
        print(
            "Interrupted. All files written so far were kept: the same command with --resume goes on.", file=sys.stderr
        )
        return _leave(130)
    except Exception as error:
        return _unexpected(error)
    return 0


def _unexpected(error: Exception) -> int:
    """Raises it again; but where there are other processes, it may be the loss of one of them: says so, and leaves."""
    if jax.process_count() == 1:
        raise error
    traceback.print_exception(error)
    print(
        f"Process {jax.process_index()} of {jax.process_count()} failed or lost another one"
        f" ({' '.join(str(error).split())[:200]}). All files written so far were kept: start all processes again, with"
        " the same command and --resume.",
        file=sys.stderr,
    )
    return _leave(1)


def _leave(status: int) -> int:
    """The exit status; of several processes, one that fails ends at once instead of waiting for the others to finish,
    which wait for it."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def require(fine: bool, name: str, got: Any, wanted: str, fits: Any) -> None:
    """Refuses the value of the flag of a field `name`, unless it is `fine`; NaN never is."""
    if not fine:
        raise BadInput(f"--{name.replace('_', '-')} is {got}; wanted {wanted}, such as {fits:g}.")


HEARTBEAT = 30
"""Seconds without a sign of life after which JAX's runtime takes a process for lost, and ends the others."""


def join(devices: str | None, distributed: str | None) -> jax.sharding.Mesh | None:
    """The devices of the flags `--devices` and `--distributed`; `None` for neither. To be called before any array is
    made.

    **Arguments:** `devices`, how many of every process, or "all"; `distributed`, "auto" for what SLURM or Open MPI says
    of the processes, or "HOST:PORT,ID,COUNT": where process 0 listens, which process this is, of how many.
    """
    if distributed is not None:
        where: tuple[Any, ...] = ()
        if distributed != "auto":
            address, *numbers = distributed.split(",")
            if ":" not in address or len(numbers) != 2 or not all(n.isdigit() for n in numbers):
                raise BadInput(
                    f"--distributed is {distributed!r}; wanted auto, or HOST:PORT,ID,COUNT such as 10.0.0.1:1234,0,2"
                    " for the first of two processes."
                )
            where = (address, int(numbers[1]), int(numbers[0]))
        try:
            jax.distributed.initialize(*where, heartbeat_timeout_seconds=HEARTBEAT)  # pyright: ignore
        except (ValueError, RuntimeError) as error:
            raise BadInput(f"--distributed {distributed} found no other processes to join: {error}") from error
    if devices is None and distributed is None:
        return None
    if devices is not None and devices != "all" and not devices.isdigit():
        raise BadInput(f"--devices is {devices!r}; wanted all, or how many, such as 2.")
    with refusing():
        return rv.device_mesh(None if devices in (None, "all") else int(devices))


def mesh_for(command: Any, trajectories: int, *, cores: bool = False) -> jax.sharding.Mesh | None:
    """The devices of a command with `out`, `resume`, `devices` and `distributed`, for so many trajectories.

    **Arguments:** `cores`, whether without `devices` every core of a CPU is one: a small system keeps one core busy,
    and no more, however many of it there are.
    """
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    if cores and command.devices is None and command.distributed is None:
        return _cores(trajectories)
    mesh = join(command.devices, command.distributed)
    if mesh is not None and trajectories % mesh.size != 0:
        raise BadInput(
            f"--trajectories is {trajectories} for {mesh.size} devices; wanted a multiple of the devices, such"
            f" as {-(-trajectories // mesh.size) * mesh.size}."
        )
    return mesh


def _cores(trajectories: int) -> jax.sharding.Mesh | None:
    """As many cores as divide the trajectories, each a device."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(n for n in range(1, available + 1) if trajectories % n == 0)
    with contextlib.suppress(RuntimeError):  # JAX has counted its devices already
        jax.config.update("jax_num_cpu_devices", count)
    if jax.default_backend() != "cpu" or jax.device_count() != count or count == 1:
        return None
    return rv.device_mesh()


def on_all(tree: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Arrays on every device, as updates return them: what was compiled for others would be compiled again."""
    if mesh is None:
        return tree
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def leads() -> bool:
    """Whether this is the process that writes and talks: the first, or the only one."""
    return jax.process_index() == 0


def _meet(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _agreed(fact: bool) -> bool:
    """What the first process says: another may look at a file a moment later."""
    return bool(multihost_utils.broadcast_one_to_all(fact)) if jax.process_count() > 1 else fact


def command_line(name: str, presets: dict[str, Any], command: Callable[[Any], Any], arguments: list[str]) -> Any:
    """The command of a command line: `command` of the preset, which makes the defaults of all other flags."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="quick")
    preset = first.parse_known_args(arguments)[0].preset
    if preset not in presets:
        raise BadInput(f"--preset is {preset!r}; wanted one of {', '.join(presets)}.")
    default = command(presets[preset])
    return tyro.cli(
        type(default),
        default=default,
        args=arguments,
        prog=f"python -m experiments {name}",
        config=(tyro.conf.OmitArgPrefixes,),
    )


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
        _meet("the folder is free")
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
        if not _agreed((self / name).exists()):
            write_json(self / name, compute())
            _meet(f"{name} is written")
        return read_json(self / name)

    def array_stage(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The same with arrays."""
        if not _agreed((self / name).exists()):
            buffer = io.BytesIO()
            np.savez(buffer, **compute())  # pyright: ignore[reportArgumentType]
            write_atomically(self / name, buffer.getvalue())
            _meet(f"{name} is written")
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


def fit(
    loss_fn: Callable[..., Any],
    model: Any,
    optimizer: optax.GradientTransformation,
    *,
    updates: int,
    key: PRNGKeyArray,
    carry: Any,
    checkpoint: Path,
    history: Path,
    lines: Callable[[Any], list[dict[str, Any]]],
    show: Callable[[dict[str, Any]], str],
    check: Callable[[rv.FitState], None] = lambda state: None,
    positive: Callable[[Any], Any] | None = None,
) -> rv.FitState:
    """`rv.fit`, going on from the checkpoint if there is one, with a line in `history` for every update.

    **Arguments:** `lines`, from the history of a fit to what is written of every update; `show`, from the last of these
    to what stands beside the progress bar; `check`, which may refuse to go on.
    """
    file = History(history)
    resume = checkpoint if checkpoint.exists() else None
    bar = tqdm(total=updates, desc="update", unit="", file=sys.stderr, disable=not leads())

    def note(state: rv.FitState) -> None:
        file.tick(state.step)
        written = lines(state.history)
        file.write(written)
        if leads():
            bar.initial = bar.initial or (state.step - 1 if resume else 0)
        bar.set_postfix_str(show(written[-1]), refresh=False)
        bar.update(state.step - bar.n)
        check(state)

    with bar:
        fitted = rv.fit(
            loss_fn,
            model,
            optimizer,
            num_steps=updates,
            key=key,
            carry=carry,
            positive=positive,
            callback=note,
            checkpoint=checkpoint,
            resume=resume,
        )
    file.write(lines(fitted.history))
    return fitted


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
