"""How an experiment is started from a command line, and how it ends: errors as exit statuses."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
import tyro

import reverlet as rv

from ._errors import BadInput, NotWritten


def exit_status(run: Callable[[], None]) -> int:
    """Runs an experiment: 0; 2 for bad input; 1 for a run that failed; 130 for one that was interrupted."""
    # an error raised on the host from a compiled program is reported below, not by a traceback of JAX's as well
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    try:
        with rv.SimulationError.unwrapped():
            run()
    except (BadInput, rv.CheckpointError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return _leave(2)
    except rv.SimulationError as error:
        print(f"The run failed: {error}\nAll files written so far were kept.", file=sys.stderr)
        return _leave(1)
    except NotWritten as error:
        print(
            f"The run stopped: {error}\nAll files written so far were kept: make room, and the same command with"
            " --resume goes on.",
            file=sys.stderr,
        )
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


def command_line(name: str, presets: dict[str, Any], command: Callable[..., Any], arguments: list[str]) -> Any:
    """The command of a command line: `command` of the preset, which makes the defaults of all other flags."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="quick")
    preset = first.parse_known_args(arguments)[0].preset
    if preset not in presets:
        raise BadInput(f"--preset is {preset!r}; wanted one of {', '.join(presets)}.")
    default = command(config=presets[preset])
    return tyro.cli(
        type(default),
        default=default,
        args=arguments,
        prog=f"python -m experiments {name}",
        config=(tyro.conf.OmitArgPrefixes,),
    )
