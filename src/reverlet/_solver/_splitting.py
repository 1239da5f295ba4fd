import abc
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
from equinox import AbstractVar
from jaxtyping import Array, Bool, Float, PyTree

from .._misc import tree_add, tree_dot
from ._base import AbstractReversibleSolver

_Leaf = Float[Array, "..."]
_Kick = float | tuple[float, ...]
_Time = Any  # a scalar; Diffrax has no public name for its type
_ROUNDING = 1e-12  # of published coefficients, some of which have fourteen digits


class AbstractPreparation(eqx.Module):
    """What a potential looks up for some steps before it is made anew, such as a neighbor list.

    It is no part of the mathematics: the potential is the same with any preparation that is fresh enough, so that no
    derivative passes through it.
    """

    every: AbstractVar[int]
    """How many steps one preparation is used for."""

    @abc.abstractmethod
    def make(self, x: PyTree[Array], args: PyTree) -> PyTree[Array]:
        """The preparation at `x`."""

    @abc.abstractmethod
    def unworn(self, x: PyTree[Array]) -> PyTree[Array]:
        """The wear of no preparation at all."""

    @abc.abstractmethod
    def wear(self, worst: PyTree[Array], x: PyTree[Array], prepared: PyTree[Array]) -> PyTree[Array]:
        """The worst wear so far, with that of a preparation in use at `x`."""

    @abc.abstractmethod
    def worn_out(self, worst: PyTree[Array]) -> Bool[Array, ""]:
        """Whether that is too much: the solve is then not successful."""


class ConservativeTerm(diffrax.AbstractTerm):
    """The kick of Newton's equations, dv/dt = -(1/m) ∂U(x, args)/∂x, for a force that has a potential.

    The same vector field in a `diffrax.ODETerm` gives the same numbers. Knowing the potential, `ReversibleAdjoint`
    pulls cotangents back by reverse-over-forward differentiation of U, which is cheaper than differentiating its
    gradient again.

    **Arguments:** `potential(x, args)`, a scalar energy; `masses(args)`, in the shape of `x` or broadcasting with it.
    Both take what they need from `args`. With a `preparation`, `potential(x, args, prepared)`: `ReversibleAdjoint`
    makes it anew every so many steps, both ways; elsewhere it is made at every evaluation.
    """

    potential: Callable[..., Float[Array, ""]]
    masses: Callable[[PyTree], Array]
    preparation: AbstractPreparation | None = None
    prepared: PyTree[Array] = None

    def energy(self, y: PyTree[Array], args: PyTree) -> Float[Array, ""]:
        """The potential at `y`, with what was prepared or with a preparation of its own."""
        if self.preparation is None:
            return self.potential(y, args)
        if self.prepared is not None:
            return self.potential(y, args, self.prepared)
        return self.potential(y, args, jax.lax.stop_gradient(self.preparation.make(jax.lax.stop_gradient(y), args)))

    def vf(self, t, y, args):
        del t
        masses = self.masses(args)
        return jax.tree.map(lambda g: -g / masses, jax.grad(self.energy)(y, args))

    def contr(self, t0, t1, **kwargs):
        del kwargs
        return t1 - t0

    def prod(self, vf, control):
        return jax.tree.map(lambda v: control * v, vf)

    def power(self, y: PyTree[Array], args: PyTree, w: PyTree[Array]) -> Float[Array, ""]:
        """w · vf(y), without forming vf."""
        masses = self.masses(args)
        direction = jax.tree.map(lambda v: -v / masses, w)
        return jax.jvp(lambda x: self.energy(x, args), (y,), (direction,))[1]


def power(kick: diffrax.AbstractTerm, t: Array, x: PyTree[Array], args: PyTree, w: PyTree[Array]) -> Float[Array, ""]:
    """w · kick(t, x): its derivatives with respect to `x` and `args` are the pullbacks of the cotangent `w`."""
    if isinstance(kick, ConservativeTerm):
        return kick.power(x, args, w)
    return tree_dot(kick.vf(t, x, args), w)


class AbstractSplittingSolver(AbstractReversibleSolver):
    """Drifts and kicks in turn: a concrete method is its table of coefficients.

    For y = (x, v) with the terms (drift, kick), dx/dt = drift(t, v) and dv/dt = kick(t, x), a step of length h is

        v += kicks[0] h kick(x);  then for every k:  x += drifts[k] h drift(v);  v += kicks[k+1] h kick(x)

    A force in several parts has a term for each, (drift, MultiTerm(kick_1, kick_2, ...)), and every entry of `kicks` is
    then a tuple of their coefficients.

    A coefficient of zero costs nothing. The vector fields of the kicks at the end of a step are kept as solver state
    for the next, so that no kick is evaluated twice at the same positions. Reversible and, where every part of the
    force has a potential, symplectic.

    **Errors:** `ValueError` for a table whose lengths do not fit, that is not consistent (the drifts and the kicks of
    every term sum to one), or that is not palindromic.
    """

    kicks: AbstractVar[tuple[_Kick, ...]]
    """One more than there are drifts. Each is a number, or a tuple with a number for every kick term."""
    drifts: AbstractVar[tuple[float, ...]]

    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def __check_init__(self):
        name, rows = f"`{type(self).__name__}`", _rows(self.kicks)
        if len(self.drifts) == 0 or len(rows) != len(self.drifts) + 1:
            raise ValueError(
                f"{name} has {len(rows)} kicks and {len(self.drifts)} drifts; wanted at least one drift, and one kick"
                " more than drifts: before, between and after them. Where there is no kick, write 0.0."
            )
        lengths = sorted({len(row) for row in rows})
        if len(lengths) != 1 or lengths[0] == 0:
            raise ValueError(
                f"{name} has kicks of {' and '.join(map(str, lengths))} coefficients; wanted one for every kick term,"
                " the same number of them at every position. Where a term has no kick, write 0.0."
            )
        columns = zip(*rows, strict=True)
        for what, column in [("drifts", self.drifts), *((f"kicks of term {m}", c) for m, c in enumerate(columns, 1))]:
            total = math.fsum(column)
            if not abs(total - 1) <= _ROUNDING:
                raise ValueError(
                    f"The {what} of {name} sum to {total!r}; wanted 1, or a step would not be as long as it says."
                    " Compute one coefficient from the others, so that the sum is right to the last digit."
                )
            for k, (a, b) in enumerate(zip(column, reversed(column), strict=True)):
                if not abs(a - b) <= _ROUNDING:
                    even = tuple(0.5 * (p + q) for p, q in zip(column, reversed(column), strict=True))
                    raise ValueError(
                        f"The {what} of {name} are {tuple(column)}, not palindromic: number {k} is {a!r}, and number"
                        f" {k} from the end {b!r}; wanted the same forward and backward, for time reversal. {even}"
                        " would fit."
                    )

    @property
    def kick_rows(self) -> tuple[tuple[float, ...], ...]:
        """`kicks` with a tuple at every position: one coefficient for every kick term."""
        rows = _rows(self.kicks)
        # the second half is the first to the last bit, since the end of a step meets the start of the next
        return tuple(rows[min(k, len(rows) - 1 - k)] for k in range(len(rows)))

    @property
    def term_structure(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        kicks = (diffrax.AbstractTerm,) * len(self.kick_rows[0])
        several = diffrax.MultiTerm[tuple[kicks]]  # pyright: ignore[reportInvalidTypeArguments]
        return (diffrax.AbstractTerm, diffrax.AbstractTerm if len(kicks) == 1 else several)

    def split(self, terms: tuple[diffrax.AbstractTerm, diffrax.AbstractTerm]) -> tuple[diffrax.AbstractTerm, ...]:
        """Drift and kick terms, one after the other: (drift, kick_1, kick_2, ...)."""
        drift, kick = terms
        if len(self.kick_rows[0]) == 1:
            return drift, kick
        if isinstance(kick, diffrax.MultiTerm):
            return drift, *kick.terms
        # Diffrax wraps every term in another that knows the direction of time: here, wrap every part alike
        wrapper: Any = kick
        return drift, *(eqx.tree_at(lambda w: w.term, wrapper, part) for part in wrapper.term.terms)

    def init(self, terms, t0, t1, y0, args):
        del t1
        _, *kicks = self.split(terms)
        return _accelerations(kicks, self.kick_rows[0], t0, y0[0], args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        drift, *kicks = self.split(terms)
        x, v = y0
        rows, accelerations = self.kick_rows, solver_state
        v = _kick(kicks, rows[0], accelerations, v, t0, t1)
        for (start, end), weight, row in zip(self.drift_times(t0, t1), self.drifts, rows[1:], strict=True):
            x = self.drift(drift, start, end, x, v, args, weight, t0, t1)
            accelerations = _accelerations(kicks, row, end, x, args)
            v = _kick(kicks, row, accelerations, v, t0, t1)
        return (x, v), None, {"y0": y0, "y1": (x, v)}, accelerations, diffrax.RESULTS.successful

    def backward_step(self, terms, t0, t1, y1, args, solver_state, made_jump):
        del made_jump
        drift, *kicks = self.split(terms)
        x, v = y1
        rows, accelerations = self.kick_rows, solver_state
        v = _kick(kicks, rows[-1], accelerations, v, t0, t1, sign=-1)
        stages = list(zip(self.drift_times(t0, t1), self.drifts, rows[:-1], strict=True))
        for (start, end), weight, row in reversed(stages):
            x = self.drift(drift, start, end, x, v, args, -weight, t0, t1)
            accelerations = _accelerations(kicks, row, start, x, args)
            v = _kick(kicks, row, accelerations, v, t0, t1, sign=-1)
        return (x, v), {"y0": (x, v), "y1": y1}, accelerations

    def func(self, terms, t0, y0, args):
        drift, *kicks = self.split(terms)
        x, v = y0
        return drift.vf(t0, v, args), functools.reduce(tree_add, [kick.vf(t0, x, args) for kick in kicks])

    def drift_times(self, t0: _Time, t1: _Time) -> list[tuple[_Time, _Time]]:
        """When every drift of the step from `t0` to `t1` begins and ends."""
        ends = [t0]
        for weight in self.drifts:
            ends.append(ends[-1] + weight * (t1 - t0))
        ends[-1] = t1  # to the last bit, whatever the sum of the coefficients rounds to
        return list(itertools.pairwise(ends))

    def drift(
        self,
        term: diffrax.AbstractTerm,
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
        return _push(x, weight, term.vf(0.5 * (start + end), v, args), term, t0, t1)


def _push(y, weight, vf, term, t0, t1):
    return jax.tree.map(lambda a, b: a + weight * b, y, term.prod(vf, term.contr(t0, t1)))


def _rows(kicks):
    return tuple(row if isinstance(row, tuple) else (row,) for row in kicks)


def _accelerations(kicks, row, t, x, args):
    """What every kick term says at `x`; `None` where its coefficient is zero."""
    return tuple(kick.vf(t, x, args) if weight != 0 else None for kick, weight in zip(kicks, row, strict=True))


def _kick(kicks, row, accelerations, v, t0, t1, *, sign=1):
    for kick, weight, acceleration in zip(kicks, row, accelerations, strict=True):
        if weight != 0:
            v = _push(v, sign * weight, acceleration, kick, t0, t1)
    return v
