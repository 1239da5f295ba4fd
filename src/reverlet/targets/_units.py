"""Units as people write them, and which quantities they can be of."""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import units

Numbers = float | int | Sequence["Numbers"]
"""A number, or rows of numbers, as a record keeps them."""

_ATMOSPHERE = 101325 * units.PASCAL  # by definition
_PRESSURES = {
    "bar": units.BAR,
    "kbar": 1e3 * units.BAR,
    "atm": _ATMOSPHERE,
    "Pa": units.PASCAL,
    "kPa": 1e3 * units.PASCAL,
    "MPa": 1e6 * units.PASCAL,
    "GPa": 1e9 * units.PASCAL,
}
_ENERGIES = {
    "kJ/mol": 1.0,
    "J/mol": units.JOULE_PER_MOLE,
    "kcal/mol": units.KILOCALORIE_PER_MOLE,
    "cal/mol": 1e-3 * units.KILOCALORIE_PER_MOLE,
}
_DENSITY = units.GRAM_PER_CUBIC_CENTIMETER
_DIFFUSION = units.SQUARE_METER_PER_SECOND

UNITS: dict[str, dict[str, float]] = {
    "no unit": {"": 1.0},
    "temperature": {"K": 1.0},
    "pressure": _PRESSURES,
    "length": {"nm": 1.0, "angstrom": units.ANGSTROM, "pm": 1e-3},
    "angle": {"rad": 1.0, "deg": math.pi / 180},
    "inverse angle": {"1/rad": 1.0, "1/deg": 180 / math.pi},
    "density": {"g/cm^3": _DENSITY, "g/mL": _DENSITY, "kg/L": _DENSITY, "kg/m^3": 1e-3 * _DENSITY},
    "molar energy": _ENERGIES,
    "molar heat capacity": {f"{unit}/K": size for unit, size in _ENERGIES.items()},
    "inverse temperature": {"1/K": 1.0, "1e-4/K": 1e-4, "1e-3/K": 1e-3},
    "inverse pressure": {f"1/{unit}": 1 / size for unit, size in _PRESSURES.items()} | {"1e-6/bar": 1e-6 / units.BAR},
    "diffusion": {
        "m^2/s": _DIFFUSION,
        "cm^2/s": 1e-4 * _DIFFUSION,
        "1e-5 cm^2/s": 1e-9 * _DIFFUSION,
        "1e-9 m^2/s": 1e-9 * _DIFFUSION,
        "nm^2/ps": 1.0,
    },
}
"""What each unit is in those of reverlet, by what it is a unit of."""

_DIMENSIONS = {unit: dimension for dimension, known in UNITS.items() for unit in known}


def nearest(word: str, known: Iterable[str]) -> str:
    """What would have fit: the most similar name first, where there is one, and all of them."""
    known = list(known)
    close = difflib.get_close_matches(word.lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    named = next((f"did you mean {k!r}? " for k in known if close and k.lower() == close[0]), "")
    return named + "Known are " + ", ".join(repr(k) for k in known) + "."


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number, or rows of numbers, with its unit, as it was written.

    **Errors:** `ValueError` for a unit that is not known, and numbers that are not finite; `TypeError` for what is no
    number.
    """

    number: Numbers
    unit: str

    def __post_init__(self):
        if not isinstance(self.unit, str):
            raise TypeError(f"The unit is {self.unit!r}; wanted a text, such as 'g/cm^3'.")
        if self.unit not in _DIMENSIONS:
            raise ValueError(f"The unit {self.unit!r} is not known; {nearest(self.unit, _DIMENSIONS)}")
        object.__setattr__(self, "number", _frozen(self.number))

    @property
    def dimension(self) -> str:
        """What it is a quantity of, such as `density`."""
        return _DIMENSIONS[self.unit]

    @property
    def value(self) -> np.ndarray:
        """In reverlet's units: nm, ps, u, kJ/mol, e, K."""
        return np.asarray(np.asarray(self.number, float) * UNITS[self.dimension][self.unit])

    @classmethod
    def parse(cls, text: str, dimension: str) -> "Quantity":
        """From a text such as "1 bar".

        **Errors:** `ValueError` for what is no number with a unit of this dimension.
        """
        words = text.split(maxsplit=1) if isinstance(text, str) else []
        example = f"'1 {next(iter(UNITS[dimension]))}'"
        if len(words) != 2:
            raise ValueError(f"it is {text!r}; wanted a text of a number and a unit, such as {example}.")
        try:
            number = float(words[0])
        except ValueError:
            raise ValueError(f"it is {text!r}, which starts with no number; wanted such as {example}.") from None
        return cls(number, words[1]).of(dimension)

    def of(self, dimension: str) -> "Quantity":
        """Itself, where it is of that dimension.

        **Errors:** `ValueError` where it is not.
        """
        if self.dimension != dimension:
            raise ValueError(
                f"its unit is {self.unit!r}, which is one of {self.dimension}; wanted one of {dimension}:"
                f" {', '.join(repr(u) for u in UNITS[dimension])}."
            )
        return self

    def __str__(self) -> str:
        return f"{self.number!r} {self.unit}".strip()


def _frozen(x: Any) -> Numbers:
    """Numbers in tuples, all of them finite; rows of one length."""
    try:
        array = np.asarray(x)
    except ValueError:  # rows of different lengths
        array = np.asarray(x, object)
    if array.dtype.kind not in "iuf" or array.size == 0:
        raise TypeError(f"The number is {x!r}; wanted a number, or rows of as many numbers.")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"The number is {x!r}; wanted finite ones.")

    def rows(a):
        return tuple(map(rows, a)) if isinstance(a, list) else float(a)

    return rows(array.tolist())
