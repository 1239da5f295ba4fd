"""Solvers that are a sequence of flows."""

import abc
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._misc import tree_add
from ._base import AbstractReversibleSolver
from ._flows import AbstractFlow, Kick

_Time = Any  # a scalar; Diffrax has no public name for its type


class Stage(NamedTuple):
    """One flow of a step."""

    flow: int
    """Which of the solver's flows."""
    weight: float
    """For how much of the step."""


class TimedStage(NamedTuple):
    """A stage, and when it acts: as a part of the step, in its middle."""

    flow: int
    weight: float
    at: float


class Layout(NamedTuple):
    """The stages of a step. Those of `first` and `last` act at the positions of its beginning and of its end, so that
    the last of one step share forces with the first of the next."""

    first: list[TimedStage]
    middle: list[TimedStage]
    last: list[TimedStage]


class AbstractStagedSolver(AbstractReversibleSolver):
    """A step is a sequence of flows that reads the same forward and backward: so it is reversible.

    Kicks at the same positions share one evaluation, from one step to the next as well. A concrete method is its flows
    and their sequence.
    """

    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    @abc.abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The sequence."""

    @abc.abstractmethod
    def flows(self, terms: PyTree[diffrax.AbstractTerm]) -> tuple[AbstractFlow, ...]:
        """The flows, of these terms. The first is the `Drift`, and the only one that changes positions."""

    @abc.abstractmethod
    def kick_flows(self) -> frozenset[int]:
        """Which of the flows are a `Kick`."""

    def layout(self) -> Layout:
        """The stages with their times."""
        timed, t = [], 0.0
        for flow, weight in self.stages():
            half = 0.5 * weight if flow == 0 else 0.0
            timed.append(TimedStage(flow, weight, t + half))
            t += 2 * half
        drifts = [k for k, stage in enumerate(timed) if stage.flow == 0]
        begin, end = drifts[0], drifts[-1] + 1
        # to the last bit, whatever the sum of the coefficients rounds to
        last = [stage._replace(at=1.0) for stage in timed[end:]]
        return Layout(timed[:begin], timed[begin:end], last)

    def init(self, terms, t0, t1, y0, args):
        del t1
        first = {stage.flow for stage in self.layout().first}
        return tuple(
            flow.acceleration(t0, y0, args) if isinstance(flow, Kick) and k in first else None
            for k, flow in enumerate(self.flows(terms))
        )

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        y1, state = self._walk(terms, t0, t1, y0, args, solver_state, sign=1)
        return y1, None, {"y0": y0, "y1": y1}, state, diffrax.RESULTS.successful

    def backward_step(self, terms, t0, t1, y1, args, solver_state, made_jump):
        del made_jump
        y0, state = self._walk(terms, t0, t1, y1, args, solver_state, sign=-1)
        return y0, {"y0": y0, "y1": y1}, state

    def func(self, terms, t0, y0, args):
        flows: Any = self.flows(terms)
        slopes = [flows[k].acceleration(t0, y0, args) for k in sorted(self.kick_flows())]
        still = jax.tree.map(jnp.zeros_like, y0[2:])
        field = (flows[0].term.vf(t0, y0[1], args), functools.reduce(tree_add, slopes), *still)
        for k in set(range(1, len(flows))) - self.kick_flows():
            zero, one = jnp.zeros_like(t0), jnp.ones_like(t0)
            after = lambda h, k=k: flows[k].apply(t0, y0, args, h)
            field = tree_add(field, jax.jvp(after, (zero,), (one,))[1])
        return field

    def _walk(self, terms, t0, t1, y, args, known, *, sign):
        """All stages, backward if `sign` is -1; `known` are the accelerations at the positions of `y`."""
        flows: Any = self.flows(terms)
        layout, kicks = self.layout(), self.kick_flows()
        stages = [*layout.first, *layout.middle, *layout.last]
        known, control = list(known), flows[0].term.contr(t0, t1)
        for flow, weight, at in stages if sign == 1 else reversed(stages):
            t = t0 if at == 0 else (t1 if at == 1 else t0 + at * (t1 - t0))
            h = jax.tree.map(lambda c, w=sign * weight: w * c, control)
            if flow in kicks:
                if known[flow] is None:
                    known[flow] = flows[flow].acceleration(t, y, args)
                y = flows[flow].push(y, known[flow], h)
            else:
                y = flows[flow].apply(t, y, args, h)
            if flow == 0:
                known = [None] * len(flows)
        return y, tuple(known)
