import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
from equinox import AbstractClassVar
from jaxtyping import Array, Float, PyTree

from .._misc import tree_dot
from ._base import AbstractReversibleSolver

_Leaf = Float[Array, "..."]
_Time = Any  # a scalar; Diffrax has no public name for its type


class ConservativeTerm(diffrax.AbstractTerm):
    """The kick of Newton's equations, dv/dt = -(1/m) ∂U(x, args)/∂x, for a force that has a potential.

    The same vector field in a `diffrax.ODETerm` gives the same numbers. Knowing the potential, `ReversibleAdjoint`
    pulls cotangents back by reverse-over-forward differentiation of U, which is cheaper than differentiating its
    gradient again.

    **Arguments:** `potential(x, args)`, a scalar energy; `masses(args)`, in the shape of `x` or broadcasting with it.
    Both take what they need from `args`.
    """

    potential: Callable[[PyTree[Array], PyTree], Float[Array, ""]]
    masses: Callable[[PyTree], Array]

    def vf(self, t, y, args):
        del t
        masses = self.masses(args)
        return jax.tree.map(lambda g: -g / masses, jax.grad(self.potential)(y, args))

    def contr(self, t0, t1, **kwargs):
        del kwargs
        return t1 - t0

    def prod(self, vf, control):
        return jax.tree.map(lambda v: control * v, vf)

    def power(self, y: PyTree[Array], args: PyTree, w: PyTree[Array]) -> Float[Array, ""]:
        """w · vf(y), without forming vf."""
        masses = self.masses(args)
        direction = jax.tree.map(lambda v: -v / masses, w)
        return jax.jvp(lambda x: self.potential(x, args), (y,), (direction,))[1]


def power(kick: diffrax.AbstractTerm, t: Array, x: PyTree[Array], args: PyTree, w: PyTree[Array]) -> Float[Array, ""]:
    """w · kick(t, x): its derivatives with respect to `x` and `args` are the pullbacks of the cotangent `w`."""
    if isinstance(kick, ConservativeTerm):
        return kick.power(x, args, w)
    return tree_dot(kick.vf(t, x, args), w)


class AbstractSplittingSolver(AbstractReversibleSolver):
    """Drifts and kicks in turn: a concrete method is its table of coefficients.

    For y = (x, v) with the terms (drift, kick), dx/dt = drift(t, v) and dv/dt = kick(t, x), a step of length h is

        v += kicks[0] h kick(x);  then for every k:  x += drifts[k] h drift(v);  v += kicks[k+1] h kick(x)

    The vector field of the kick at the end of a step is kept as solver state for the next, so that a step costs as many
    evaluations as it has drifts. Reversible and symplectic for any palindromic table.
    """

    kicks: AbstractClassVar[tuple[float, ...]]
    drifts: AbstractClassVar[tuple[float, ...]]

    term_structure: ClassVar = (diffrax.AbstractTerm, diffrax.AbstractTerm)
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def init(self, terms, t0, t1, y0, args):
        del t1
        _, kick = terms
        return kick.vf(t0, y0[0], args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        _, kick = terms
        x, v = y0
        acceleration = solver_state
        v = _push(v, self.kicks[0], acceleration, kick, t0, t1)
        for (start, end), weight, kicked in zip(self.drift_times(t0, t1), self.drifts, self.kicks[1:], strict=True):
            x = self.drift(terms, start, end, x, v, args, weight, t0, t1)
            acceleration = kick.vf(end, x, args)
            v = _push(v, kicked, acceleration, kick, t0, t1)
        return (x, v), None, {"y0": y0, "y1": (x, v)}, acceleration, diffrax.RESULTS.successful

    def backward_step(self, terms, t0, t1, y1, args, solver_state, made_jump):
        del made_jump
        _, kick = terms
        x, v = y1
        acceleration = solver_state
        stages = list(zip(self.drift_times(t0, t1), self.drifts, self.kicks[1:], strict=True))
        for (start, end), weight, kicked in reversed(stages):
            v = _push(v, -kicked, acceleration, kick, t0, t1)
            x = self.drift(terms, start, end, x, v, args, -weight, t0, t1)
            acceleration = kick.vf(start, x, args)
        v = _push(v, -self.kicks[0], acceleration, kick, t0, t1)
        return (x, v), {"y0": (x, v), "y1": y1}, acceleration

    def func(self, terms, t0, y0, args):
        drift, kick = terms
        x, v = y0
        return drift.vf(t0, v, args), kick.vf(t0, x, args)

    def drift_times(self, t0: _Time, t1: _Time) -> list[tuple[_Time, _Time]]:
        """When every drift of the step from `t0` to `t1` begins and ends."""
        ends = [t0]
        for weight in self.drifts:
            ends.append(ends[-1] + weight * (t1 - t0))
        ends[-1] = t1  # to the last bit, whatever the sum of the coefficients rounds to
        return list(itertools.pairwise(ends))

    def drift(
        self,
        terms: Any,
        start: _Time,
        end: _Time,
        x: PyTree[_Leaf],
        v: PyTree[_Leaf],
        args: PyTree,
        weight: float,
        t0: _Time,
        t1: _Time,
    ) -> PyTree[_Leaf]:
        """One drift from `start` to `end`, its velocity taken in the middle, so that it looks the same backward."""
        drift, _ = terms
        return _push(x, weight, drift.vf(0.5 * (start + end), v, args), drift, t0, t1)


def _push(y, weight, vf, term, t0, t1):
    return jax.tree.map(lambda a, b: a + weight * b, y, term.prod(vf, term.contr(t0, t1)))
