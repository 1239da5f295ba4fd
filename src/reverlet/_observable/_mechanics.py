import jax.numpy as jnp

from .._statistics import weighted_mean
from ._base import AbstractObservable
from ._spectroscopy import require_volume


class Pressure(AbstractObservable):
    """The pressure, kJ/mol/nm³ (divide by `units.BAR`), averaged over samples and frames; see `System.pressure`.

    **Errors:** `ValueError` for an open box.
    """

    unit = "kJ/mol/nm³"

    def record(self, system, state, initial):
        del initial
        require_volume(state)
        return system.pressure(state)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


class Stress(AbstractObservable):
    """The stress tensor with its kinetic part, kJ/mol/nm³, averaged over samples and frames; tension is positive.

    Minus `System.pressure_tensor`. Not to be confused with `AbstractPotential.stress`, its potential part.

    **Errors:** `ValueError` for an open box.
    """

    unit = "kJ/mol/nm³"

    def record(self, system, state, initial):
        del initial
        require_volume(state)
        return -system.pressure_tensor(state)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))
