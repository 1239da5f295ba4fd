import abc

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._state import State
from .._system import System


class Samples(eqx.Module):
    """Configurations drawn from the ensemble of a potential, and what is needed to reweight them to another.

    Samples are constants: no derivative passes through how they were drawn.
    """

    states: State
    """Leaves lead with `samples`."""
    energies: Float[Array, " samples"]
    """The potential energy of each under the potential it was drawn with, kJ/mol."""
    temperature: Float[Array, ""]
    """K."""
    last: State
    """Where every chain stopped, to go on from. Leaves lead with `chains`."""


class AbstractSampler(eqx.Module):
    """Draws configurations from an ensemble."""

    @abc.abstractmethod
    def sample(self, system: System, states: State, num_samples: int, *, key: PRNGKeyArray) -> Samples:
        """Runs many chains at once, and keeps `num_samples` configurations of all together.

        **Arguments:** `states`, where the chains start; leaves lead with `chains` (see `State.repeat`).
        `num_samples`, a multiple of the number of chains: every chain gives the same number. All samples of one
        instant come first.

        **Errors:** `ValueError` where shapes or numbers do not fit, `FloatingPointError` when a chain explodes.
        """
