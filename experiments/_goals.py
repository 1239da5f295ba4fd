"""What a run was to reach, and whether it did."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Goal:
    """A figure of a run beside what was wanted of it.

    **Arguments:** `name`, with the unit; `value`, and its standard error where one is known; `wanted`, in words; `met`,
    `None` where a run cannot tell.
    """

    name: str
    value: float | None
    error: float | None
    wanted: str
    met: bool | None


def at_least(name: str, value: float, limit: float, error: float | None = None) -> Goal:
    """A figure that should not be smaller."""
    return _goal(name, value, error, f"at least {limit:g}", value >= limit)


def at_most(name: str, value: float, limit: float, error: float | None = None) -> Goal:
    """A figure that should not be larger."""
    return _goal(name, value, error, f"at most {limit:g}", value <= limit)


def agrees(name: str, value: float, target: float, error: float, errors: float = 2) -> Goal:
    """A figure that should be the target within so many of its standard errors, those of both together."""
    return _goal(
        name, value, error, f"{target:.4g}, within {errors:g} standard errors", abs(value - target) <= errors * error
    )


TIME = "time of the whole run, minutes"
"""The name of the only goal that two equal runs need not agree on."""


def in_time(seconds: float, minutes: float, *, resumed: bool) -> Goal:
    """How long the whole run took; one that was resumed does not know what was spent before."""
    goal = at_most(TIME, seconds / 60, minutes)
    return dataclasses.replace(goal, value=None, met=None) if resumed else goal


def _goal(name: str, value: float, error: float | None, wanted: str, met: bool) -> Goal:
    """JSON has no NaN: what is not finite is no figure, and reaches nothing."""
    finite = math.isfinite(value)
    known = float(error) if error is not None and math.isfinite(error) else None
    return Goal(name, float(value) if finite else None, known, wanted, finite and bool(met))


def judged(goals: Sequence[Goal], preset: str) -> list[dict[str, Any]]:
    """The entry `goals` of `summary.json`. A smoke run has no physics: nobody judges its figures."""
    smoke = preset == "smoke"
    return [dataclasses.asdict(dataclasses.replace(g, met=None) if smoke else g) for g in goals]


def told(goals: list[dict[str, Any]], preset: str) -> str:
    """What the closing lines say of the goals."""
    if preset == "smoke":
        return "This smoke run has no physics: its goals are not judged."
    missed = [g for g in goals if g["met"] is not True]
    listing = "; ".join(f"{g['name']}: {_number(g['value'])}, wanted {g['wanted']}" for g in missed)
    return f"Goals met: {len(goals) - len(missed)} of {len(goals)}." + (f" Missed: {listing}." if missed else "")


def _number(value: float | None) -> str:
    return "no figure" if value is None else f"{value:.3g}"
