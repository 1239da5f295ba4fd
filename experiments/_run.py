"""How an experiment is started from a command line, and how it ends: errors as exit statuses."""

import argparse
import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro

import reverlet as rv

from . import _report
from ._errors import BadInput, NotWritten, is_refusal
from ._fields import Slip, require_unit
from ._help import DEFAULT
from ._processes import leads


def exit_status(run: Callable[[], None]) -> int:
    """Runs an experiment: 0; 2 for bad input; 1 for a run that failed; 130 for one that was interrupted. The report of
    the run says how it ended."""
    # an error raised on the host from a compiled program is reported below, not by a traceback of JAX's as well
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    try:
        with rv.SimulationError.unwrapped():
            run()
        _report.end("ended")
    except (BadInput, rv.CheckpointError) as error:
        _report.end(str(error))
        print(f"Error: {error}", file=sys.stderr)
        return _leave(2)
    except rv.SimulationError as error:
        folders = _report.end(f"It failed: {error}")
        print(f"The run failed: {error}\n{_kept(folders)}.", file=sys.stderr)
        return _leave(1)
    except NotWritten as error:
        _report.end(str(error))
        print(
            f"The run stopped: {error}\nAll files written so far were kept: make room, then go on by the same"
            " command with --resume.",
            file=sys.stderr,
        )
        return _leave(1)
    except KeyboardInterrupt:
        _report.end("It was interrupted.")
        print(
            "Interrupted. All files written so far were kept: go on by the same command with --resume.", file=sys.stderr
        )
        return _leave(130)
    except Exception as error:
        folders = _report.end(str(error) if is_refusal(error) else f"It failed: {error!r}")
        if not is_refusal(error):
            return _unexpected(error)
        print(
            f"The run stopped: {error}\n{_kept(folders)}. The same command would end here again: start with other"
            " flags, in another folder (`python -m experiments NAME --help` lists samples, equilibration and chains).",
            file=sys.stderr,
        )
        return _leave(1)
    return 0


def _kept(folders: list[Path]) -> str:
    return "All files written so far were kept" + "".join(f", in {folder}" for folder in folders)


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


def command_line(name: str, presets: dict[str, Any], command: Callable[..., Any], arguments: list[str]) -> Any:
    """The command of a command line: `command` of the preset, which makes the defaults of all other flags."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset", default=DEFAULT)
    first.add_argument("--atoms", type=int)
    try:
        known = first.parse_known_args(arguments)[0]
    except argparse.ArgumentError:  # said below, by all flags together
        known = argparse.Namespace(preset=DEFAULT, atoms=None)
    if known.preset not in presets:
        raise BadInput(f"--preset is {known.preset!r}; wanted one of {', '.join(presets)}.")
    config = presets[known.preset]
    if (known.atoms or 0) > 0 and hasattr(config, "box_length"):
        # so many atoms at the density of the preset, unless a length is given
        length = config.box_length * (known.atoms / config.atoms) ** (1 / 3)
        config = dataclasses.replace(config, box_length=round(length, 6), atoms=known.atoms)
    default = command(config=config)
    parsed = tyro.cli(
        type(default),
        default=default,
        args=arguments,
        prog=f"python -m experiments {name}",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if hasattr(config, "box_length"):
        require_unit("box_length", parsed.config.box_length, config.box_length, Slip("nm", "Å", 10.0, 4.0))
    if known.preset == "smoke" and leads():
        print(
            "A smoke run: seconds, no physics. It shows that the program runs; its numbers mean nothing.",
            file=sys.stderr,
        )
    return parsed
