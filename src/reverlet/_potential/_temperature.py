from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, PyTree

from .. import units
from .._fields import Parameter, positive
from .._misc import require_number, require_positive
from ._base import AbstractPotential, energy_of

T = TypeVar("T", bound=PyTree)


class TemperatureDependent(AbstractPotential):
    """A surface that is a free energy of what was averaged away, U(x; T) = E(x) - kT S(x), as between coarse-grained
    beads.

    Of pairs, u(r, T) = E(r) - kT S(r): E and S are pair potentials with parameters of their own, S in units of k, so
    that what its formula calls 1 kJ/mol is k.

        flat = rv.TabulatedPair(np.zeros(60), first=0.2, cutoff=0.9)
        potential = prior + rv.pairs.TemperatureDependent(flat, flat, 300.0)
        hotter = rv.pairs.at_temperature(potential, 320.0)

    The temperature is of the state, not of the model: no derivative is taken by it, and nothing trains it. Thermostats
    and ensembles have theirs; where samples get their weights, an ensemble of another temperature is refused. So
    samples of one temperature are reweighted to another by the system `at_temperature` of that, and its ensemble: their
    reduced energy U/kT = E/kT - S is that of the other state.

    U is no energy; that is U - T ∂U/∂T = E. So `TotalEnergy`, `Enthalpy` and `HeatCapacity`, which take U for one, are
    not those of what was coarse-grained.

    **Arguments:** `energy_part` E, kJ/mol; `entropy_part` S, units of k; `temperature` T, K.

    **Errors:** `ValueError` for a temperature that is not positive.
    """

    energy_part: AbstractPotential
    entropy_part: AbstractPotential
    temperature: Parameter = positive("K")

    @property
    def cutoff(self) -> float | None:
        return max((p.cutoff for p in (self.energy_part, self.entropy_part) if p.cutoff is not None), default=None)

    def energy(self, positions, box, *, neighbors=None):
        kt = units.BOLTZMANN * jax.lax.stop_gradient(self.temperature).astype(positions.dtype)
        of = lambda part: energy_of(part, positions, box, neighbors)
        return of(self.energy_part) - kt * of(self.entropy_part)


def at_temperature(surfaces: T, temperature: ArrayLike) -> T:
    """The same potential, or system, or model, with all that is `TemperatureDependent` at another temperature (K).

    What does not depend on it is as it was.

    **Errors:** `ValueError` for a temperature that is not positive.
    """
    require_number("temperature", temperature)
    require_positive("temperature", temperature, "K")
    is_one = lambda x: isinstance(x, TemperatureDependent)

    def moved(x):
        if not is_one(x):
            return x
        inner = at_temperature((x.energy_part, x.entropy_part), temperature)
        new = (*inner, jnp.asarray(temperature, x.temperature.dtype))
        return eqx.tree_at(lambda p: (p.energy_part, p.entropy_part, p.temperature), x, new)

    return jax.tree.map(moved, surfaces, is_leaf=is_one)
