"""How a run ends that cannot be made, or not be written, or whose samples are refused."""

import contextlib
import traceback
from collections.abc import Iterator


class BadInput(ValueError):
    """Input that no run can be made of: says what was got, what was wanted, and what would fit."""


class NotWritten(RuntimeError):
    """A file of a run that cannot be written, as on a full disk."""


def is_refusal(error: Exception) -> bool:
    """Whether the library itself raised it, as it does for samples that nothing should be made of: its words say what
    was got and what would help. A `ValueError` from elsewhere is a defect."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return (
        isinstance(error, ValueError)
        and bool(frames)
        and str(frames[-1][0].f_globals.get("__name__")).startswith("reverlet.")
    )


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turns the library's refusals while a run is set up into bad input, and lets defects of later stages show."""
    import reverlet as rv  # here, so that `--help` does not wait for JAX

    try:
        yield
    except (ValueError, TypeError, rv.SimulationError) as error:
        raise BadInput(str(error)) from error
