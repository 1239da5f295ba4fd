import abc

import equinox as eqx
import jax
from jaxtyping import Array, Float

from . import units
from ._sampler import Samples
from ._system import System


class AbstractReweighting(eqx.Module):
    """How samples of one potential stand for the ensemble of another."""

    @abc.abstractmethod
    def log_weights(self, system: System, samples: Samples) -> Float[Array, " samples"]:
        """Logarithms of the weights, up to a constant. Each depends on its own sample alone."""


class Boltzmann(AbstractReweighting):
    """Reweighting from the potential the samples were drawn with, log w_i = -(U(x_i) - U_drawn(x_i)) / kT + const.

    Its derivative is the thermodynamic gradient of an ensemble mean, -cov(A, ∂U/∂θ)/kT, also at equal potentials,
    where all weights are the same. Known as DiffTRe when used for training.

    Trust it while the effective sample size is most of the samples; draw new ones otherwise.

    **Reference:** R. W. Zwanzig, J. Chem. Phys. 22, 1420 (1954); S. Thaler and J. Zavadlav, Nat. Commun. 12, 6884
    (2021).
    """

    def log_weights(self, system, samples):
        energies = jax.vmap(system.potential_energy)(samples.states.positions, samples.states.box)
        temperature = samples.temperature.astype(energies.dtype)
        return -(energies - samples.energies) / (units.BOLTZMANN * temperature)
