"""What a solve calls, with everything it closes over made explicit."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from diffrax._term import WrapTerm
from jaxtyping import Array, Float, PyTree

from .._solver import AbstractPreparation, AbstractStagedSolver, ConservativeTerm, CountedTerm, Kick, power


class _EqualStep(diffrax.AbstractTerm):
    """A term on the solver's clock, whose control is the same for every step to the last bit.

    The difference of two times is not: 49 steps of one `dt0` have several different lengths in floating point.
    """

    term: diffrax.AbstractTerm
    direction: Any
    """1, or -1 where time runs backward."""
    h: Float[Array, ""]
    unit: Any = 1.0
    """Of the solver's clock, in the term's."""

    def vf(self, t, y, args):
        term, args = self.ready(args)
        return term.vf(self.time(t), y, args)

    def time(self, t):
        """Of the term."""
        return t * self.direction * self.unit

    def ready(self, args):
        """The term with what was prepared for it, and its own args."""
        if isinstance(args, _Prepared):
            return _with_prepared(self.term, args.prepared), args.args
        return self.term, args

    def contr(self, t0, t1, **kwargs):
        del t0, t1, kwargs
        return self.h * self.direction

    def prod(self, vf, control):
        return self.term.prod(vf, control)


class _Prepared(NamedTuple):
    """How what a preparation made reaches the terms: with the args."""

    args: PyTree
    prepared: PyTree


def _with_prepared(term, prepared):
    if isinstance(term, ConservativeTerm) and term.preparation is not None:
        return dataclasses.replace(term, prepared=prepared)
    return term


def _preparation(terms) -> AbstractPreparation | None:
    """That of the terms; of several terms with one, the first, which then serves all."""
    terms = jax.tree.leaves(terms, is_leaf=lambda x: isinstance(x, ConservativeTerm))
    found = [t.preparation for t in terms if isinstance(t, ConservativeTerm) and t.preparation is not None]
    return found[0] if found else None


def _equal_step(wrapped: WrapTerm, h) -> diffrax.AbstractTerm:
    if isinstance(wrapped.term, diffrax.MultiTerm):
        return diffrax.MultiTerm(*(_equal_step(WrapTerm(part, wrapped.direction), h) for part in wrapped.term.terms))
    if isinstance(wrapped.term, CountedTerm):
        return _EqualStep(wrapped.term.term, wrapped.direction, h * wrapped.term.h, wrapped.term.h)
    if not isinstance(wrapped.term, diffrax.ODETerm | ConservativeTerm):
        raise ValueError(
            f"`rv.ReversibleAdjoint()` got a `{type(wrapped.term).__name__}`; wanted `diffrax.ODETerm` or"
            " `rv.ConservativeTerm`, whose control is time."
        )
    return _EqualStep(wrapped.term, wrapped.direction, h)


class Functions(NamedTuple):
    """What the solve calls, with every array they close over made explicit, so that cotangents can reach it.

    Solvers in stages go by their flows: of a kick its `power` w · a(x), all of whose derivatives are wanted, of
    others what they do to the state. Other solvers go by `step` and, backward, `init` and `backward_step`. Where there
    is a preparation, it is made `every` so many steps.
    """

    saves: list[Callable]
    every: int | None = None
    prepare: Callable | None = None
    unprepared: PyTree = None
    wear: Callable | None = None
    worn_out: Callable | None = None
    unworn: PyTree = None
    flows: tuple[Callable, ...] = ()
    step: Callable | None = None
    init: Callable | None = None
    backward_step: Callable | None = None


def explicit(terms, solver, fns, t, h, y, args, solver_state) -> Functions:
    convert = eqx.filter_closure_convert
    terms = jax.tree.map(lambda term: _equal_step(term, h), terms, is_leaf=lambda x: isinstance(x, WrapTerm))
    preparation = _preparation(terms)
    if preparation is None:
        functions = Functions([convert(fn, t, y, args) for fn in fns])
    else:
        x = y[0]
        unworn = preparation.unworn(x)
        prepare = convert(preparation.make, x, args)
        shapes = eqx.filter_eval_shape(prepare, x, args)
        zeros = lambda s: jnp.zeros(s.shape, s.dtype) if isinstance(s, jax.ShapeDtypeStruct) else s
        prepared = jax.tree.map(zeros, shapes)
        given = lambda fn: lambda t, y, args: fn(t, y, preparation.given(args.args, args.prepared))
        functions = Functions(
            [convert(given(fn), t, y, _Prepared(args, prepared)) for fn in fns],
            every=preparation.every,
            prepare=prepare,
            unprepared=prepared,
            wear=convert(preparation.wear, unworn, x, prepared),
            worn_out=convert(preparation.worn_out, unworn),
            unworn=unworn,
        )
    args = ready(args, functions.unprepared)
    if isinstance(solver, AbstractStagedSolver):
        return functions._replace(flows=tuple(_explicit_flow(flow, t, h, y, args) for flow in solver.flows(terms)))

    def step(t, y, args, state):
        y, _, _, state, result = solver.step(terms, t, t + h, y, args, state, False)
        return y, state, result

    def backward_step(t, y, args, state):
        y, _, state = solver.backward_step(terms, t, t + h, y, args, state, False)
        return y, state

    def init(t, y, args):
        return solver.init(terms, t, t + h, y, args)

    return functions._replace(
        step=convert(step, t, y, args, solver_state),
        init=convert(init, t, y, args),
        backward_step=convert(backward_step, t, y, args, solver_state),
    )


def _explicit_flow(flow, t, h, y, args):
    """`f(t, y, args, h)`, or of a kick its power, `f(t, x, args, w)`."""
    if not isinstance(flow, Kick):
        apply = lambda t, y, args, h: flow.apply(t, y, args.args if isinstance(args, _Prepared) else args, h)
        return eqx.filter_closure_convert(apply, t, y, args, h)
    kick: Any = flow.term

    def work(t, x, args, w):
        term, args = kick.ready(args)
        return power(term, kick.time(t), x, args, w)

    x, v, *_ = y
    return eqx.filter_closure_convert(work, t, x, args, v)


def prepare(functions, y, args):
    return None if functions.prepare is None else jax.lax.stop_gradient(functions.prepare(y[0], args))


def refreshed(functions, due, i, y, args, prepared):
    """What was prepared, or made anew where it is `due` and at every so many steps."""
    if functions.prepare is None:
        return None
    # not batched by `jax.vmap` over trajectories, so that it stays a choice: steps are counted alike in all
    due = due | (i % functions.every == 0)
    return jax.lax.cond(due, lambda: prepare(functions, y, args), lambda: prepared)


def ready(args, prepared):
    return args if prepared is None else _Prepared(args, prepared)
