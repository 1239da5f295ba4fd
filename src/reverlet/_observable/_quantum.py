import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractQuantumCorrection(eqx.Module):
    """How the spectrum of a classical dipole is made that of a quantum one.

    n(ω) α(ω) ∝ ω (1 - e^{-x}) Q(ω) ∫ e^{-iωt} ⟨M(0)·M(t)⟩ dt with the classical correlation function, x = ħω/kT. Q
    makes up for its being even in time. The harmonic Q = x/(1 - e^{-x}), exact for harmonic oscillators with a linear
    dipole, leaves ⟨Ṁ(0)·Ṁ(t)⟩ without a factor, so the others are given relative to it.

    **Reference:** R. Ramírez, T. López-Ciudad, P. Kumar and D. Marx, J. Chem. Phys. 121, 3973 (2004).
    """

    @abc.abstractmethod
    def factor(self, x: Float[Array, " frequencies"]) -> Float[Array, " frequencies"]:
        """Absorption relative to that with the harmonic correction, (1 - e^{-x}) Q/x, at x = ħω/kT."""


class HarmonicQuantumCorrection(AbstractQuantumCorrection):
    """Q = x/(1 - e^{-x}), factor one. The choice of most work on liquids."""

    def factor(self, x):
        return jnp.ones_like(x)


class StandardQuantumCorrection(AbstractQuantumCorrection):
    """Q = 2/(1 + e^{-x}), factor tanh(x/2)/(x/2): the real part of the quantum correlation is the classical one. Too
    weak at high frequencies."""

    def factor(self, x):
        half = 0.5 * x
        return _divided(jnp.tanh, half)


class SchofieldQuantumCorrection(AbstractQuantumCorrection):
    """Q = e^{x/2}, factor sinh(x/2)/(x/2). Far too strong at high frequencies.

    **Reference:** P. Schofield, Phys. Rev. Lett. 4, 239 (1960).
    """

    def factor(self, x):
        half = 0.5 * x
        return _divided(jnp.sinh, half)


class MixedQuantumCorrection(AbstractQuantumCorrection):
    """Q = √(x/(1 - e^{-x})) e^{x/4}, the geometric mean of the harmonic and Schofield's.

    **Reference:** J. L. Skinner, J. Chem. Phys. 107, 8717 (1997).
    """

    def factor(self, x):
        half = 0.5 * x
        return jnp.sqrt(_divided(jnp.sinh, half))


class NoQuantumCorrection(AbstractQuantumCorrection):
    """Q = 1, factor (1 - e^{-x})/x. Breaks detailed balance; for comparison with older work."""

    def factor(self, x):
        return _divided(lambda x: -jnp.expm1(-x), x)


def _divided(function, x):
    """function(x)/x of an odd function with slope one, or nearly so; at zero its slope."""
    safe = jnp.where(x == 0, 1, x)
    return jnp.where(x == 0, 1, function(safe) / safe)
