"""How a run ends that cannot be made, or not be written."""

import contextlib
from collections.abc import Iterator


class BadInput(ValueError):
    """Input that no run can be made of: says what was got, what was wanted, and what would fit."""


class NotWritten(RuntimeError):
    """A file of a run that cannot be written, as on a full disk."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turns the library's refusals while a run is set up into bad input, and lets defects of later stages show."""
    import reverlet as rv  # here, so that `--help` does not wait for JAX

    try:
        yield
    except (ValueError, TypeError, rv.SimulationError) as error:
        raise BadInput(str(error)) from error
