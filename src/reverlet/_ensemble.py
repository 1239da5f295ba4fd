import abc

import equinox as eqx
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, ArrayLike, Float

from . import units
from ._box import AbstractBox, OpenBox
from ._misc import as_float_array, is_concrete, require_positive
from ._state import State
from ._system import System


class AbstractEnsemble(eqx.Module):
    """What is held constant, and so how probable every configuration is: p(x) ∝ exp(-u(x)), u the reduced energy."""

    temperature: AbstractVar[Float[Array, ""]]
    """K."""

    @abc.abstractmethod
    def reduced(self, energy: Float[Array, ""], box: AbstractBox) -> Float[Array, ""]:
        """u of a configuration with this potential energy (kJ/mol) in this box, without unit, up to a constant."""

    def reduced_energy(self, system: System, state: State) -> Float[Array, ""]:
        """u of one configuration, without unit: U/kT, (U + pV)/kT; up to a constant that is the same for all."""
        return self.reduced(system.potential_energy(state.positions, state.box), state.box)

    def thermal_energy(self, like: Float[Array, "..."]) -> Float[Array, ""]:
        """kT, kJ/mol, in the dtype of an array."""
        return units.BOLTZMANN * self.temperature.astype(like.dtype)


class NVT(AbstractEnsemble):
    """Constant number of atoms, volume and temperature (canonical): u = U/kT.

    **Arguments:** `temperature`, K.

    **Errors:** `ValueError` for a temperature that is not positive.
    """

    temperature: Float[Array, ""]

    def __init__(self, temperature: ArrayLike):
        self.temperature = as_float_array(temperature)

    def __check_init__(self):
        require_positive("temperature", self.temperature, "K")

    def reduced(self, energy, box):
        del box
        return energy / self.thermal_energy(energy)


class NPT(AbstractEnsemble):
    """Constant number of atoms, pressure and temperature (isothermal-isobaric): u = (U + pV)/kT.

    The density is that of positions and volume together, p(x, V) ∝ exp(-u); in coordinates relative to the box there
    would be a factor V^N.

    **Arguments:** `temperature`, K; `pressure`, kJ/mol/nm³, such as `1 * units.BAR`.

    **Errors:** `ValueError` for a temperature that is not positive, a pressure that is not finite, and, when used, an
    open box.
    """

    temperature: Float[Array, ""]
    pressure: Float[Array, ""]

    def __init__(self, temperature: ArrayLike, pressure: ArrayLike):
        self.temperature = as_float_array(temperature)
        self.pressure = as_float_array(pressure)

    def __check_init__(self):
        require_positive("temperature", self.temperature, "K")
        if is_concrete(self.pressure) and not jnp.isfinite(self.pressure):
            raise ValueError(f"`pressure` is {self.pressure}; wanted a finite number, in kJ/mol/nm³.")

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
