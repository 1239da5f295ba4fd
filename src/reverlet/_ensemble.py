import abc

import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float

from . import units
from ._box import AbstractBox, OpenBox
from ._fields import AbstractChecked, Parameter, finite, positive
from ._potential import TemperatureDependent, parts_of
from ._state import State
from ._system import System
from ._verdict import raise_if


class AbstractEnsemble(AbstractChecked):
    """What is held constant, and so how probable every configuration is: p(x) ∝ exp(-u(x)), u the reduced energy."""

    temperature: AbstractVar[Float[Array, ""]]
    """K."""

    @abc.abstractmethod
    def reduced(self, energy: Float[Array, ""], box: AbstractBox) -> Float[Array, ""]:
        """u of a configuration with this potential energy (kJ/mol) in this box, without unit, up to a constant."""

    def reduced_energy(self, system: System, state: State) -> Float[Array, ""]:
        """u of one configuration, without unit: U/kT, (U + pV)/kT; up to a constant that is the same for all.

        **Errors:** `SimulationError` for a surface that is `TemperatureDependent` and of another temperature.
        """
        energy = system.potential_energy(state.positions, state.box)
        energy = at_one_temperature(self, system, energy)
        return self.reduced(energy, state.box)

    def thermal_energy(self, like: Float[Array, "..."]) -> Float[Array, ""]:
        """kT, kJ/mol, in the dtype of an array."""
        return units.BOLTZMANN * self.temperature.astype(like.dtype)


class NVT(AbstractEnsemble):
    """Constant number of atoms, volume and temperature (canonical): u = U/kT.

    **Arguments:** `temperature`, K.

    **Errors:** `ValueError` for a temperature that is not positive.
    """

    temperature: Parameter = positive("K")

    def reduced(self, energy, box):
        del box
        return energy / self.thermal_energy(energy)


class NPT(AbstractEnsemble):
    """Constant number of atoms, pressure and temperature (isothermal-isobaric): u = (U + pV)/kT.

    The density is that of positions and volume together, p(x, V) ∝ exp(-u); in coordinates relative to the box there
    would be a factor V^N. Where the box changes its shape too, V and the shape have the measure that
    `StochasticCellRescaling` names.

    **Arguments:** `temperature`, K; `pressure`, kJ/mol/nm³, such as `1 * units.BAR`.

    **Errors:** `ValueError` for a temperature that is not positive, a pressure that is not finite, and, when used, an
    open box.
    """

    temperature: Parameter = positive("K")
    pressure: Parameter = finite("kJ/mol/nm³")

    def reduced(self, energy, box):
        if isinstance(box, OpenBox):
            raise ValueError("`NPT` got an `OpenBox`, which has no volume; wanted a periodic box, or `NVT`.")
        work = self.pressure.astype(energy.dtype) * box.volume.astype(energy.dtype)
        return (energy + work) / self.thermal_energy(energy)


def require_ensemble(ensemble: AbstractEnsemble | None, name: str) -> AbstractEnsemble:
    """Refuses to go on without an ensemble, in the name of what needs its temperature."""
    if ensemble is None:
        raise ValueError(
            f"`{name}` needs the temperature of an ensemble, and there is none: these samples do not say which one they"
            " were drawn from. Wanted `ensemble=rv.NVT(300.0)` in `expectation`, or as the last argument of `reduce`."
        )
    return ensemble


def require_constant_pressure(ensemble: AbstractEnsemble | None, name: str) -> NPT:
    """Refuses another ensemble than one of constant pressure, in the name of what needs it."""
    ensemble = require_ensemble(ensemble, name)
    if not isinstance(ensemble, NPT):
        raise ValueError(
            f"`{name}` got an ensemble of {type(ensemble).__name__}; wanted constant pressure, `rv.NPT(temperature,"
            " pressure)`, and samples of it."
        )
    return ensemble


def at_one_temperature(ensemble: AbstractEnsemble, system: System, guard: Array) -> Array:
    """`guard`, unless a surface of the system is of another temperature than the ensemble."""
    for part in parts_of(system.potential, TemperatureDependent):
        own, wanted = (jax.lax.stop_gradient(t) for t in (part.temperature, ensemble.temperature))
        # room for temperatures rounded to float32
        guard = raise_if(jnp.abs(own - wanted) > 1e-6 * wanted, _describe_temperatures, own, wanted, guard=guard)
    return guard


def _describe_temperatures(own, wanted):
    return (
        f"The potential has a `TemperatureDependent` part at {own:.6g} K, but the ensemble is at {wanted:.6g} K; wanted"
        f" both the same: `rv.pairs.at_temperature(system, {wanted:.6g})`."
    )
