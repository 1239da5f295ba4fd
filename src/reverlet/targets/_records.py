"""What a file of targets says, before it is of any model."""

import dataclasses
from typing import NamedTuple

import numpy as np

from ._units import Quantity, nearest


class Property(NamedTuple):
    """What there may be a target of."""

    dimension: str
    """Of its value."""
    axis: str = ""
    """Of what it is a function of, for a curve."""
    elements: int = 0
    """How many it is told by: two of a pair."""


PROPERTIES = {
    "density": Property("density"),
    "enthalpy": Property("molar energy"),
    "heat_of_vaporization": Property("molar energy"),
    "heat_capacity": Property("molar heat capacity"),
    "thermal_expansion": Property("inverse temperature"),
    "isothermal_compressibility": Property("inverse pressure"),
    "dielectric_constant": Property("no unit"),
    "self_diffusion": Property("diffusion"),
    "pressure": Property("pressure"),
    "stress": Property("pressure"),
    "elastic_constants": Property("pressure"),
    "coordination_number": Property("no unit", elements=2),
    "tetrahedral_order": Property("no unit", elements=1),
    "rdf": Property("no unit", "length", elements=2),
    "adf": Property("inverse angle", "angle", elements=3),
}
"""Every property that a file may name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetRecord:
    """One measured value with its conditions, as a file has it.

    **Arguments:** `kind`, the property, such as `density`; `value`, of a curve one number for each of `axis`;
    `uncertainty`, its standard error, one for all numbers or one for each, in any unit of the same kind; `temperature`;
    `pressure`, without which the volume is constant; `phase`, the name of what is simulated there; `gas`, for a heat of
    vaporization the name of the other phase; `elements`, of a pair or an angle; `weight`, by which the square of the
    distance is multiplied; `citation`, where it was measured.

    **Errors:** `ValueError` for properties that are not known, units that are not of the property, shapes that do not
    fit, and uncertainties and temperatures that are not positive.
    """

    kind: str
    value: Quantity
    uncertainty: Quantity
    temperature: Quantity
    pressure: Quantity | None = None
    axis: Quantity | None = None
    phase: str = "liquid"
    gas: str = ""
    elements: tuple[str, ...] = ()
    weight: float = 1.0
    citation: str = ""

    def __post_init__(self):
        if self.kind not in PROPERTIES:
            raise ValueError(f"`property` is {self.kind!r}; {nearest(str(self.kind), PROPERTIES)}")
        known = PROPERTIES[self.kind]
        self._require("value", known.dimension)
        self._require("uncertainty", known.dimension, positive=True)
        self._require("temperature", "temperature", positive=True)
        if self.pressure is not None:
            self._require("pressure", "pressure")
        if (self.axis is not None) != bool(known.axis):
            raise ValueError(f"`axis` is {self.axis}; wanted {f'one of {known.axis}' if known.axis else 'none'}.")
        if self.axis is not None:
            self._require("axis", known.axis)
            if np.ndim(self.axis.value) != 1 or np.any(np.diff(self.axis.value) <= 0):
                raise ValueError("`axis` does not increase; wanted a list of increasing numbers.")
            if np.shape(self.value.value) != np.shape(self.axis.value):
                raise ValueError(
                    f"`value` has shape {np.shape(self.value.value)} and `axis` {np.shape(self.axis.value)}; wanted one"
                    " value for each."
                )
        if np.shape(self.uncertainty.value) not in ((), np.shape(self.value.value)):
            raise ValueError(
                f"`uncertainty` has shape {np.shape(self.uncertainty.value)}; wanted one number, or one for each value:"
                f" {np.shape(self.value.value)}."
            )
        if not self.gas and self.kind == "heat_of_vaporization":
            raise ValueError("`heat_of_vaporization` has no `gas`; wanted the name of the phase that it goes to.")
        if len(self.elements) not in (0, known.elements):
            raise ValueError(f"`elements` is {list(self.elements)}; wanted {known.elements or 'none'} of them.")
        if self.gas and self.kind != "heat_of_vaporization":
            raise ValueError(f"`gas` is {self.gas!r} of `{self.kind}`; wanted it of `heat_of_vaporization` only.")
        if not (isinstance(self.weight, int | float) and 0 <= self.weight < np.inf):
            raise ValueError(f"`weight` is {self.weight!r}; wanted a finite number, zero or more.")

    def _require(self, name, dimension, positive=False):
        quantity = getattr(self, name)
        if not isinstance(quantity, Quantity):
            raise TypeError(f"`{name}` is {quantity!r}; wanted a `Quantity`.")
        try:
            quantity.of(dimension)
        except ValueError as error:
            raise ValueError(f"`{name}` of `{self.kind}`: {error}") from None
        if positive and not np.all(quantity.value > 0):
            raise ValueError(f"`{name}` is {quantity}; wanted more than zero.")

    @property
    def conditions(self) -> str:
        """The name of the state point: phase, temperature and pressure, such as `liquid 298.15 K 1 bar`."""
        return state_name(self.phase, self.temperature, self.pressure)

    @property
    def gas_conditions(self) -> str:
        """The name of the state point of its gas, at the same temperature and constant volume."""
        return state_name(self.gas, self.temperature, None)


def state_name(phase: str, temperature: Quantity, pressure: Quantity | None) -> str:
    """The name of a state point, the same for equal conditions in different units."""
    parts = [phase, f"{float(temperature.value):.6g} K"]
    if pressure is not None:
        parts.append(f"{float(pressure.value) / float(Quantity(1, 'bar').value):.6g} bar")
    return " ".join(filter(None, parts))
