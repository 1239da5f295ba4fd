"""Input that no run can be made of."""

import contextlib
from collections.abc import Iterator
from typing import Any


class BadInput(ValueError):
    """Input that no run can be made of: says what was got, what was wanted, and what would fit."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turns the library's refusals while a run is set up into bad input, and lets defects of later stages show."""
    try:
        yield
    except (ValueError, TypeError, FloatingPointError) as error:
        raise BadInput(str(error)) from error


def require(fine: bool, name: str, got: Any, wanted: str, fits: Any) -> None:
    """Refuses the value of the flag of a field `name`, unless it is `fine`; NaN never is."""
    if not fine:
        raise BadInput(f"--{name.replace('_', '-')} is {got}; wanted {wanted}, such as {fits:g}.")
