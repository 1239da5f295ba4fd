"""The kick of a potential, and what potentials have prepared for them."""

import abc
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
from equinox import AbstractVar
from jaxtyping import Array, Bool, Float, PyTree


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
    def given(self, args: PyTree, prepared: PyTree[Array]) -> PyTree:
        """`args` with the preparation in use, as what is saved along the way may see them."""

    @abc.abstractmethod
    def unworn(self, x: PyTree[Array]) -> PyTree[Array]:
        """The wear of no preparation at all."""

    @abc.abstractmethod
    def wear(self, worst: PyTree[Array], x: PyTree[Array], prepared: PyTree[Array]) -> PyTree[Array]:
        """The worst wear so far, with that of a preparation in use at `x`."""

    @abc.abstractmethod
    def worn_out(self, worst: PyTree[Array]) -> Bool[Array, ""]:
        """Whether that is too much: the solve is then not successful."""


class CountedTerm(diffrax.AbstractTerm):
    """A term on a clock that counts steps, each of a length `h`.

    Whole numbers are exact in floating point, up to 2²⁴ in single precision. Times are not: late in a long run the
    differences between those of single precision, by which solvers step, are some percent longer or shorter than `h`.
    """

    term: diffrax.AbstractTerm
    h: Float[Array, ""]

    def vf(self, t, y, args):
        return self.term.vf(t * self.h, y, args)

    def contr(self, t0, t1, **kwargs):
        del kwargs
        return (t1 - t0) * self.h

    def prod(self, vf, control):
        return self.term.prod(vf, control)


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
