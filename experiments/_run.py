"""How an experiment is started from a command line, and how it ends: errors as exit statuses. And its fit."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
import tyro
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

import reverlet as rv

from ._errors import BadInput
from ._folder import History
from ._processes import leads


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
