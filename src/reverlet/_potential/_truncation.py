"""How a pair potential ends at its cutoff."""

import abc
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import AbstractChecked, Rule, checked, positive_number
from .._misc import require_instance, smooth_step

PairFunction = Callable[[Float[Array, ""]], Float[Array, ""]]


class AbstractTruncation(AbstractChecked):
    """How a pair potential ends at its cutoff."""

    @abc.abstractmethod
    def truncate(self, u: PairFunction, r2: Float[Array, ""], cutoff: float) -> Float[Array, ""]:
        """The truncated pair energy (kJ/mol) at a squared distance `r2` (nm²) below `cutoff` (nm) squared, from the
        pair energy `u` as a function of the squared distance."""

    @abc.abstractmethod
    def start(self, cutoff: float) -> float:
        """From which distance (nm) on the truncated energy is not u any more; zero if it is not anywhere."""

    @abc.abstractmethod
    def check(self, cutoff: float) -> None:
        """Refuses a cutoff that does not fit."""


class PlainCutoff(AbstractTruncation):
    """u(r) as it is, and nothing beyond the cutoff.

    Energy is not conserved when a pair crosses the cutoff, and finite differences of trajectories jump there; dynamics
    and its exact discrete gradients do not mind, since the force is what it is on both sides. A pressure from the
    virial, such as that of `stress`, lacks the impulse of the pairs that cross the cutoff, (2π/3)ρ² r_c³ u(r_c) in a
    liquid without structure there: it is that of the forces, not of the energy. `TailCorrected` accounts for it.
    """

    def truncate(self, u, r2, cutoff):
        del cutoff
        return u(r2)

    def start(self, cutoff):
        return cutoff

    def check(self, cutoff):
        del cutoff


class ShiftedCutoff(AbstractTruncation):
    """u(r) - u(cutoff): continuous energy, the same forces as `PlainCutoff`."""

    def truncate(self, u, r2, cutoff):
        return u(r2) - u(jnp.full_like(r2, cutoff**2))

    def start(self, cutoff):
        del cutoff
        return 0.0

    def check(self, cutoff):
        del cutoff


class SmoothSwitch(AbstractTruncation):
    """u(r) S(r), where S falls from one at `onset` to zero at the cutoff.

    S = 1 - 10 t³ + 15 t⁴ - 6 t⁵ with t = (r - onset) / (cutoff - onset): twice continuously differentiable, so that
    energy is conserved, and finite differences of trajectories agree with gradients.

    **Arguments:** `onset`, nm.
    """

    onset: float = checked(positive_number("nm"), static=True)

    def truncate(self, u, r2, cutoff):
        # the maximum keeps the square root's derivative finite below the onset, where it is not used
        r = jnp.sqrt(jnp.maximum(r2, 0.25 * self.onset**2))
        return u(r2) * smooth_step((r - self.onset) / (cutoff - self.onset))

    def start(self, cutoff):
        del cutoff
        return self.onset

    def check(self, cutoff):
        if not 0 < self.onset < cutoff:
            raise ValueError(f"`onset` is {self.onset} nm; wanted a distance between 0 and the cutoff, {cutoff} nm.")


def truncation_rule() -> Any:
    """A truncation, a plain cutoff by default."""
    plain = lambda x: PlainCutoff() if x is None else x
    return Rule(plain, lambda name, x: require_instance(name, x, AbstractTruncation))
