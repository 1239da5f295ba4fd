import jax.numpy as jnp

from .. import units
from .._state import relative_to_center_of_mass
from .._statistics import weighted_mean
from ._base import AbstractObservable


class Temperature(AbstractObservable):
    """The kinetic temperature 2K / (k N_f), K, averaged over samples and frames.

    The motion of the center of mass is left out, and with it three degrees of freedom: N_f = 3N-3. One atom, in an
    outer field, has all three.
    """

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

    def record(self, system, state, initial):
        del initial
        return system.kinetic_energy(state.velocities) + system.potential_energy(state.positions, state.box)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))
