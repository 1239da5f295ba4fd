"""Flags that say which values they take: a field's check stands where the field is declared.

updates: Annotated[int, at_least(1, such_as=40)]
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from ._errors import BadInput


@dataclasses.dataclass(frozen=True)
class Slip:
    """A number that was likely meant in another unit: it would then be `factor` times as large as in `unit`, and is off
    by more than `limit` in that direction."""

    unit: str
    other: str
    factor: float
    limit: float


@dataclasses.dataclass(frozen=True)
class Check:
    """What a field takes: whether a value is `fine`, what is `wanted` in words, a value that would fit, and the unit
    that it is likely to be confused with."""

    fine: Callable[[Any], bool]
    wanted: str
    such_as: float
    slip: Slip | None = None

    def require(self, name: str, value: Any) -> None:
        """Refuses another value of the flag of a field `name`; NaN never is fine."""
        require(self.fine(value), name, value, self.wanted, self.such_as)
        if self.slip is not None and value > 0:
            require_unit(name, value, self.such_as, self.slip)


def require_unit(name: str, value: float, usual: float, slip: Slip) -> None:
    """Refuses a value of the flag of a field `name` that is far from the usual one, and near to it in another unit."""
    far = value / usual if slip.factor > 1 else usual / value
    if far > slip.limit:
        raise BadInput(
            f"--{name.replace('_', '-')} is {value:g} {slip.unit}; did you mean {value / slip.factor:g}? It is in"
            f" {slip.unit}, not in {slip.other}; usual are values around {usual:g}."
        )


def nm(such_as: float) -> Check:
    """A distance between atoms, or a cutoff."""
    return Check(lambda x: x > 0, "a distance above zero, in nm", such_as, Slip("nm", "Å", 10.0, 5.0))


def ps(such_as: float, *, zero: bool = False) -> Check:
    """How long something runs; `zero`, whether it need not."""
    wanted = f"{'zero or more' if zero else 'a number above zero'}, in ps"
    return Check(lambda x: x >= 0 if zero else x > 0, wanted, such_as, Slip("ps", "fs", 1000.0, 300.0))


def step_ps(such_as: float) -> Check:
    """A time step."""
    return Check(lambda x: x > 0, "a number above zero, in ps", such_as, Slip("ps", "fs", 1000.0, 50.0))


def step_fs(such_as: float) -> Check:
    """A time step."""
    return Check(lambda x: x > 0, "a number above zero, in fs", such_as, Slip("fs", "ps", 1e-3, 50.0))


def above_zero(such_as: float) -> Check:
    """A number above zero."""
    return Check(lambda x: x > 0, "a number above zero", such_as)


def not_negative(such_as: float) -> Check:
    """Zero or more."""
    return Check(lambda x: x >= 0, "zero or more", such_as)


def at_least(least: int, such_as: float, why: str = "") -> Check:
    """So many, or more."""
    return Check(lambda x: x >= least, f"at least {least}{why and ', ' + why}", such_as)


def require(fine: bool, name: str, got: Any, wanted: str, such_as: float) -> None:
    """Refuses the value of the flag of a field `name`, unless it is `fine`."""
    if not fine:
        raise BadInput(f"--{name.replace('_', '-')} is {got}; wanted {wanted}, such as {such_as:g}.")


def require_frames(name: str, got: Any, length: float, frame: float) -> None:
    """Refuses a length of time (ps) in the field `name` that is not a whole number of frames."""
    points = length / frame
    fine = round(points) >= 1 and abs(points - round(points)) < 1e-6
    wanted = f"a multiple of {frame:g} ps, which is save_every time steps"
    require(fine, name, got, wanted, max(1, round(points)) * frame)


def check_fields(config: Any) -> None:
    """Every field against what it is declared to take; `None` stands for a choice of the program's own."""
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        for check in getattr(hint, "__metadata__", ()):
            if isinstance(check, Check) and value is not None:
                check.require(name, value)
