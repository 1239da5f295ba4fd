"""What steps are made of: parts of the motion that are followed one after the other."""

import abc
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._misc import tree_dot
from ._terms import ConservativeTerm

_Time = Any  # a scalar; Diffrax has no public name for its type


class AbstractFlow(eqx.Module):
    """A part of the motion that can be followed by itself.

    The state is `y = (positions, velocities, ...)`; what comes after these two belongs to thermostats. A solver is a
    sequence of flows, and so is a step of a sampler.
    """

    @abc.abstractmethod
    def apply(self, t: _Time, y: tuple[PyTree[Array], ...], args: PyTree, h: PyTree) -> tuple[PyTree[Array], ...]:
        """`y` after a time `h`; with `-h`, what it was so long before, unless there is noise.

        **Arguments:** `t`, the time in the middle; `h`, a time, or the control of a Diffrax term.
        """


class Drift(AbstractFlow):
    """Positions at constant velocities: x += h v."""

    term: diffrax.AbstractTerm
    """Its vector field takes velocities."""

    def apply(self, t, y, args, h):
        x, v, *rest = y
        return (_add(x, self.term.prod(self.term.vf(t, v, args), h)), v, *rest)


class Kick(AbstractFlow):
    """Velocities at constant positions: v += h a(x)."""

    term: diffrax.AbstractTerm
    """Its vector field takes positions."""

    def apply(self, t, y, args, h):
        return self.push(y, self.acceleration(t, y, args), h)

    def acceleration(self, t: _Time, y: tuple[PyTree[Array], ...], args: PyTree) -> PyTree[Array]:
        """What it costs: kicks at the same positions may share it."""
        return self.term.vf(t, y[0], args)

    def push(self, y: tuple[PyTree[Array], ...], acceleration: PyTree[Array], h: PyTree) -> tuple[PyTree[Array], ...]:
        """`y` with the velocities changed by an acceleration at its positions."""
        x, v, *rest = y
        return (x, _add(v, self.term.prod(acceleration, h)), *rest)


class OrnsteinUhlenbeck(AbstractFlow):
    """Friction and noise, solved exactly: v ← e^(-γh) v + √((kT/m)(1 - e^(-2γh))) ξ.

    `args` are the masses (u), broadcasting with the velocities, and ξ, standard normal numbers. There is no way back.

    **Arguments:** `friction` γ, 1/ps; `thermal_energy` kT, kJ/mol.
    """

    friction: Float[Array, ""]
    thermal_energy: Float[Array, ""]

    def apply(self, t, y, args, h):
        del t
        masses, noise = args
        x, v, *rest = y
        decay, spread = jnp.exp(-self.friction * h), -jnp.expm1(-2 * self.friction * h)
        new = jax.tree.map(lambda v, xi: decay * v + jnp.sqrt(self.thermal_energy / masses * spread) * xi, v, noise)
        return (x, new, *rest)


def power(kick: diffrax.AbstractTerm, t: _Time, x: PyTree[Array], args: PyTree, w: PyTree[Array]) -> Float[Array, ""]:
    """w · kick(t, x): its derivatives with respect to `x` and `args` are the pullbacks of the cotangent `w`, that with
    respect to `w` is the kick."""
    if isinstance(kick, ConservativeTerm):
        return kick.power(x, args, w)
    return tree_dot(kick.vf(t, x, args), w)


def _add(y, change):
    return jax.tree.map(lambda a, b: a + b, y, change)
