"""Properties that are fluctuations of energy and volume. Both parts of their gradients follow from the records and the
weights: of U(θ) in what is squared, and of how probable every sample is."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import units
from .._box import AbstractBox
from .._ensemble import AbstractEnsemble, require_constant_pressure, require_ensemble
from .._statistics import weighted_mean
from ._base import AbstractObservable
from ._spectroscopy import require_volume
from ._thermodynamics import num_molecules


class HeatCapacity(AbstractObservable):
    """The heat capacity from the fluctuations of the energy, kJ/mol/K.

        C = k (⟨u²⟩ - ⟨u⟩²) + 3/2 N k

    with the reduced energy u of the ensemble: U/kT at constant volume, which makes C_V, and (U + pV)/kT at constant
    pressure, which makes C_p. The second part is that of the velocities, of all 3N degrees of freedom of N atoms. All
    is classical: in nature bonds with hydrogen contribute less.

    **Arguments:** `per_molecule`, whether to divide by the number of molecules: kJ/K of a mole of them.

    **Errors:** `ValueError`, of `reduce`, without an ensemble; at constant pressure, for an open box.

    **Reference:** M. P. Allen and D. J. Tildesley, Computer Simulation of Liquids, 2nd ed., Oxford (2017), sec. 2.5.
    """

    unit = "kJ/mol/K"

    per_molecule: bool = eqx.field(static=True, default=False, kw_only=True)

    def record(self, system, state, initial):
        del initial
        energy = system.potential_energy(state.positions, state.box)
        parts = num_molecules(system.topology, energy.dtype) if self.per_molecule else jnp.ones((), energy.dtype)
        return energy, state.box, jnp.asarray(system.topology.num_atoms, energy.dtype), parts

    def reduce(self, times, records, weights, ensemble=None):
        del times
        energies, box, atoms, parts = records
        ensemble = require_ensemble(ensemble, "HeatCapacity")
        reduced = reduced_energies(ensemble, energies, box)
        return units.BOLTZMANN * (covariance(weights, reduced, reduced) + 1.5 * atoms[0, 0]) / parts[0, 0]


class IsothermalCompressibility(AbstractObservable):
    """κ_T = -(1/V) ∂V/∂p at constant temperature, (⟨V²⟩ - ⟨V⟩²)/(kT ⟨V⟩), nm³ mol/kJ; times `units.BAR` it is in 1/bar.

    Needs samples at constant pressure, whose whole volume fluctuates. For one phase: where two coexist, it measures
    the change from one to the other.

    **Errors:** `ValueError` for an open box; of `reduce`, without an ensemble of constant pressure.

    **Reference:** as for `HeatCapacity`.
    """

    unit = "nm³ mol/kJ"

    def record(self, system, state, initial):
        del system, initial
        return require_volume(state)

    def reduce(self, times, records, weights, ensemble=None):
        del times
        ensemble = require_constant_pressure(ensemble, "IsothermalCompressibility")
        volume = weighted_mean(weights, jnp.mean(records, axis=1))
        return covariance(weights, records, records) / (ensemble.thermal_energy(records) * volume)


class ThermalExpansion(AbstractObservable):
    """α = (1/V) ∂V/∂T at constant pressure, of the volume, 1/K.

    (⟨V H⟩ - ⟨V⟩⟨H⟩)/(kT² ⟨V⟩) with H = U + pV; a third of it is that of a length, in an isotropic substance.

    **Errors:** as for `IsothermalCompressibility`.

    **Reference:** as for `HeatCapacity`.
    """

    unit = "1/K"

    def record(self, system, state, initial):
        del initial
        require_volume(state)
        return system.potential_energy(state.positions, state.box), state.box

    def reduce(self, times, records, weights, ensemble=None):
        del times
        ensemble = require_constant_pressure(ensemble, "ThermalExpansion")
        energies, box = records
        volumes = jax.vmap(jax.vmap(lambda b: b.volume.astype(energies.dtype)))(box)
        both = covariance(weights, volumes, reduced_energies(ensemble, energies, box))
        temperature = ensemble.temperature.astype(energies.dtype)
        return both / (temperature * weighted_mean(weights, jnp.mean(volumes, axis=1)))


def reduced_energies(
    ensemble: AbstractEnsemble, energies: Float[Array, "samples frames"], box: AbstractBox
) -> Float[Array, "samples frames"]:
    """Of all energies (kJ/mol), each in its own box."""
    return jax.vmap(jax.vmap(ensemble.reduced))(energies, box)


def covariance(
    weights: Float[Array, " samples"],
    a: Float[Array, "samples frames *shape"],
    b: Float[Array, "samples frames *shape"],
) -> Float[Array, "*shape"]:
    """⟨a b⟩ - ⟨a⟩⟨b⟩."""
    # around constants near the means, which change nothing but the rounding
    a, b = a - jax.lax.stop_gradient(a[0, 0]), b - jax.lax.stop_gradient(b[0, 0])
    mean = lambda x: weighted_mean(weights, jnp.mean(x, axis=1))
    return mean(a * b) - mean(a) * mean(b)
