from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import units
from .._ensemble import require_constant_pressure
from .._state import relative_to_center_of_mass
from .._statistics import weighted_mean
from .._topology import Topology
from ._base import AbstractObservable
from ._spectroscopy import require_volume


class Temperature(AbstractObservable):
    """The kinetic temperature 2K / (k N_f), K, averaged over samples and frames.

    The motion of the center of mass is left out, and with it three degrees of freedom: N_f = 3N-3. One atom, in an
    outer field, has all three.
    """

    unit = "K"

    def record(self, system, state, initial):
        del initial
        degrees = max(3 * system.topology.num_atoms - 3, 3)
        kinetic = system.kinetic_energy(relative_to_center_of_mass(system.topology, state.velocities))
        return 2 * kinetic / (units.BOLTZMANN * degrees)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


class TotalEnergy(AbstractObservable):
    """Kinetic and potential energy, kJ/mol, averaged over samples and frames."""

    unit = "kJ/mol"

    def record(self, system, state, initial):
        del initial
        return system.kinetic_energy(state.velocities) + system.potential_energy(state.positions, state.box)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


class Density(AbstractObservable):
    """Mass over volume, u/nm³ (divide by `units.GRAM_PER_CUBIC_CENTIMETER`), averaged over samples and frames.

    At constant volume it is what it is; at constant pressure, what the potential makes of it.

    **Errors:** `ValueError` for an open box.
    """

    unit = "u/nm³"

    def record(self, system, state, initial):
        del initial
        volume = require_volume(state)
        return jnp.sum(system.topology.masses.astype(volume.dtype)) / volume

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


class Enthalpy(AbstractObservable):
    """⟨U⟩ + p⟨V⟩ + 3/2 N k T, kJ/mol, at constant pressure: the pressure is that of the ensemble.

    **Arguments:** `kinetic`, whether the last part is in: the energy of the velocities of N atoms, by equipartition at
    the temperature of the ensemble rather than from the velocities of the samples; `per_molecule`, whether to divide
    by the number of molecules: kJ of a mole of them.

    **Errors:** `ValueError` for an open box; of `reduce`, without an ensemble of constant pressure.
    """

    unit = "kJ/mol"

    kinetic: bool = eqx.field(static=True, default=True, kw_only=True)
    per_molecule: bool = eqx.field(static=True, default=False, kw_only=True)

    def record(self, system, state, initial):
        del initial
        volume = require_volume(state)
        parts = num_molecules(system.topology, volume.dtype) if self.per_molecule else jnp.ones((), volume.dtype)
        energy = system.potential_energy(state.positions, state.box)
        return jnp.stack([energy, volume, jnp.asarray(system.topology.num_atoms, volume.dtype)]) / parts

    def reduce(self, times, records, weights, ensemble=None):
        del times
        ensemble = require_constant_pressure(ensemble, "Enthalpy")
        energy, volume, atoms = weighted_mean(weights, jnp.mean(records, axis=1))
        kinetic = 1.5 * atoms * ensemble.thermal_energy(energy) if self.kinetic else 0
        return energy + ensemble.pressure.astype(energy.dtype) * volume + kinetic


def num_molecules(topology: Topology, dtype: Any) -> Float[Array, ""]:
    """How many different molecules there are, also where they are traced."""
    return (jnp.sum(jnp.diff(jnp.sort(topology.molecules)) != 0) + 1).astype(dtype)
