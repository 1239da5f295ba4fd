"""The way back."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._controls import AbstractCotangentControl
from .._misc import tied_to, tree_add
from ._forward import acceleration, at_due_steps, choose, if_there_is, push
from ._functions import prepare, ready, refreshed
from ._grid import Grid


class Walk(NamedTuple):
    """What the walks backward share. `moving` are the arrays of (args, functions) whose derivatives are wanted."""

    solver: Any
    controls: tuple[AbstractCotangentControl, ...]
    grid: Grid
    ys_bar: PyTree
    moving: PyTree
    fixed: PyTree

    def parts(self, moving):
        return eqx.combine(moving, self.fixed)

    def start(self, y):
        """Zero cotangents of y and of what moves, and the number of filled slots of each output."""
        zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
        return zeros(y), zeros(self.moving), [jnp.sum(s <= self.grid.num_steps) for s in self.grid.slots]

    def tied_to(self, x):
        """The same for one step, and `x`.

        Otherwise the compiler takes what depends on parameters alone, such as σ² and 1/L, out of the loop, and once for
        every place where it is used; back in the loop it cannot know that these are the same, and computes the
        distances of all pairs four times instead of once.
        """
        x, (moving, fixed) = tied_to(x, (self.moving, self.fixed))
        return self._replace(moving=moving, fixed=fixed), x

    def refreshed(self, due, i, y, prepared):
        args, functions = self.parts(self.moving)
        return refreshed(functions, due, i, y, args, prepared)

    @property
    def length(self):
        """Of a step, in the time of the terms: the clock may count steps."""
        return jnp.abs(self.grid.span)

    def control(self, i, state_bar):
        """What is left of the cotangent of the state when the step to `i` has been undone."""
        for control in self.controls:
            state_bar = control.step((i - 1) * self.length, self.length, state_bar)
        return state_bar

    def entering(self, i, ys_bar):
        """What is left of the cotangent of what was saved at step `i`."""
        for control in self.controls:
            ys_bar = control.record(i * self.length, self.length, ys_bar)
        return ys_bar

    def asked(self, i):
        """Whether anything saved at step `i` has a cotangent."""
        wanted = [s for s, bar in zip(self.grid.slots, self.ys_bar, strict=True) if len(jax.tree.leaves(bar)) > 0]
        return jnp.any(jnp.array([jnp.any(slots == i) for slots in wanted]))

    @property
    def records_are_rare(self):
        """Whether so few steps are saved with a cotangent that these may compute their force twice.

        One evaluation for force and pullback needs the cotangent first, and so a record that sees the velocity a force
        of its own. Where a list is swept, a force and a pullback one after the other are two sweeps. Elsewhere the
        compiler shares most of the two, and a force that is not shared costs more than what is gained.
        """
        known = [n for n, bar in zip(self.grid.intervals, self.ys_bar, strict=True) if len(jax.tree.leaves(bar)) > 0]
        swept = self.parts(self.moving)[1].prepare is not None
        return all(n is None or n >= (2 if swept else 8) for n in known)

    def records(self, i, y, y_bar, moving_bar, pointers, prepared):
        """Adds the cotangents of what was saved at step `i`."""
        pointers = list(pointers)
        for k, ys_bar in enumerate(self.ys_bar):
            if len(jax.tree.leaves(ys_bar)) == 0:  # nobody asks for the derivative of this output
                continue

            def pull(slot, carry, k=k, ys_bar=ys_bar):
                y_bar, moving_bar = carry

                def saved(y, moving):
                    args, functions = self.parts(moving)
                    out = functions.saves[k](self.grid.time(i), y, ready(args, prepared))
                    return jax.tree.map(lambda bar, o: None if bar is None else o, ys_bar, out, is_leaf=_is_none)

                _, pull_back = jax.vjp(saved, y, self.moving)
                dy, dmoving = pull_back(self.entering(i, jax.tree.map(lambda bar: bar[slot], ys_bar)))
                return tree_add(y_bar, dy), tree_add(moving_bar, dmoving)

            carry = (y_bar, moving_bar)
            pointers[k], (y_bar, moving_bar) = at_due_steps(self.grid, k, i, pointers[k], carry, pull, backward=True)
        return y_bar, moving_bar, pointers


def _is_none(x):
    return x is None


class _Place(NamedTuple):
    """A walk at one position: with what was prepared for it, and at what time."""

    walk: Walk
    t: Any
    prepared: PyTree

    def acceleration(self, flow, y):
        args, functions = self.walk.parts(self.walk.moving)
        return acceleration(functions.flows[flow], self.t, y, ready(args, self.prepared))

    def kick(self, flow, x, w):
        """The acceleration, and the pullback of its cotangent `w` to the positions and to what moves."""

        def function(w, x, moving):
            args, functions = self.walk.parts(moving)
            return functions.flows[flow](self.t, x, ready(args, self.prepared), w)

        acceleration, dx, dmoving = jax.grad(function, argnums=(0, 1, 2))(w, x, self.walk.moving)
        return acceleration, (dx, dmoving)

    def undo(self, flow, h, y, y_bar, moving_bar):
        """The state before a flow that is no kick, and its cotangent."""

        def function(y, moving):
            args, functions = self.walk.parts(moving)
            return functions.flows[flow](self.t, y, ready(args, self.prepared), h)

        args, functions = self.walk.parts(self.walk.moving)
        y = functions.flows[flow](self.t, y, ready(args, self.prepared), -h)
        dy, dmoving = jax.vjp(function, y, self.walk.moving)[1](y_bar)
        return y, dy, tree_add(moving_bar, dmoving)


def _meeting(grid, i):
    """How long the first stages of the step after `i` last, and the last of the step before: none at the ends."""
    span = lambda there_is: jnp.where(there_is, grid.span, jnp.zeros_like(grid.span))
    return span(i < grid.num_steps), span(i > 0)


def _only_kicks_meet(place, i, layout, kicks, y0, y, y_bar, moving_bar, pointers):
    """Records and merged kicks at step `i`. The walk comes from after the first stages of the step that follows, and
    goes on from before the last of the step that led here.

    Kicks leave the cotangent of velocities as it is, so that the cotangent of their acceleration is known before the
    acceleration: one evaluation gives it and its pullback.
    """
    after, before = _meeting(place.walk.grid, i)
    sum_of = lambda stages, k: sum(stage.weight for stage in stages if stage.flow == k)
    # but what is saved may see the velocity, for which the acceleration is needed first
    asked, seen = place.walk.asked(i), y
    for k in kicks:
        nothing = lambda: jax.tree.map(jnp.zeros_like, y[1])
        known = jax.lax.cond(asked, lambda k=k: place.acceleration(k, y), nothing)
        seen = push(seen, known, -after * sum_of(layout.first, k))
    seen, v_bar_after = choose(i == 0, y0, seen), y_bar[1]
    y_bar, moving_bar, pointers = place.walk.records(i, seen, y_bar, moving_bar, pointers, place.prepared)
    changes = []
    for k in kicks:
        first, last = after * sum_of(layout.first, k), before * sum_of(layout.last, k)
        w = jax.tree.map(lambda a, b, f=first, l=last: f * a + l * b, v_bar_after, y_bar[1])
        a, change = place.kick(k, y[0], w)
        y = push(y, a, -(first + last))
        changes.append(change)
    for dx, dmoving in changes:
        y_bar, moving_bar = (tree_add(y_bar[0], dx), *y_bar[1:]), tree_add(moving_bar, dmoving)
    return y, y_bar, moving_bar, pointers


def _others_meet(place, i, layout, kicks, y0, y, y_bar, moving_bar, pointers):
    """The same by the acceleration first, and then its pullback: where other flows come between the kicks, through
    which no cotangent passes without the velocities, and where records are many."""
    after, before = _meeting(place.walk.grid, i)
    known = {k: place.acceleration(k, y) for k in kicks}
    w = {k: jax.tree.map(jnp.zeros_like, y[1]) for k in kicks}

    def undo(stages, span, y, y_bar, moving_bar):
        for flow, weight, _ in reversed(stages):
            h = weight * span
            if flow in known:
                y = push(y, known[flow], -h)
                w[flow] = jax.tree.map(lambda a, b, h=h: a + h * b, w[flow], y_bar[1])
            else:
                y, y_bar, moving_bar = place.undo(flow, h, y, y_bar, moving_bar)
        return y, y_bar, moving_bar

    y, y_bar, moving_bar = undo(layout.first, after, y, y_bar, moving_bar)
    seen = choose(i == 0, y0, y)
    y_bar, moving_bar, pointers = place.walk.records(i, seen, y_bar, moving_bar, pointers, place.prepared)
    y, y_bar, moving_bar = undo(layout.last, before, y, y_bar, moving_bar)
    for k in kicks:
        _, (dx, dmoving) = place.kick(k, y[0], w[k])
        y_bar, moving_bar = (tree_add(y_bar[0], dx), *y_bar[1:]), tree_add(moving_bar, dmoving)
    return y, y_bar, moving_bar, pointers


def _back_to(walk, i, layout, is_kick, y, y_bar, moving_bar, prepared):
    """From the end of the last drift of the step from `i` to before its first."""
    for stage in reversed(layout.middle):
        place = _Place(walk, walk.grid.time(i) + stage.at * walk.grid.h, prepared)
        if stage.flow in is_kick:
            h = stage.weight * walk.grid.span
            a, (dx, dmoving) = place.kick(stage.flow, y[0], jax.tree.map(lambda b: h * b, y_bar[1]))  # noqa: B023
            y, y_bar = push(y, a, -h), (tree_add(y_bar[0], dx), *y_bar[1:])
            moving_bar = tree_add(moving_bar, dmoving)
        else:
            y, y_bar, moving_bar = place.undo(stage.flow, stage.weight * walk.grid.span, y, y_bar, moving_bar)
    return y, y_bar, moving_bar


def walk_staged(walk: Walk, y0, y1):
    """Backward through a solver in stages: at every position, one kick and one pullback per term that kicks there.

    At a grid point the last kick of the step before and the first of the step after act at the same positions: their
    pullbacks are one.
    """
    layout, is_kick, grid = walk.solver.layout(), walk.solver.kick_flows(), walk.grid
    meeting = {stage.flow for stage in (*layout.first, *layout.last)}
    kicks = sorted(meeting & is_kick)
    at_once = meeting <= is_kick and walk.records_are_rare
    at_grid_point = _only_kicks_meet if at_once else _others_meet

    def body(k, carry):
        i = grid.num_steps - k
        y, y_bar, moving_bar, pointers, prepared = carry
        y = (choose(i == 0, y0[0], y[0]), *y[1:])  # the start is known exactly
        here, y = walk.tied_to(y)
        prepared = here.refreshed(k == 0, i, y, prepared)
        place = _Place(here, grid.time(i), prepared)
        y, y_bar, moving_bar, pointers = at_grid_point(place, i, layout, kicks, y0, y, y_bar, moving_bar, pointers)

        def step(state):
            y, y_bar, moving_bar = state
            y, y_bar, moving_bar = _back_to(here, i - 1, layout, is_kick, y, y_bar, moving_bar, prepared)
            return y, here.control(i, y_bar), moving_bar

        y, y_bar, moving_bar = if_there_is(i > 0, layout, walk.solver, step, (y, y_bar, moving_bar))
        return y, y_bar, moving_bar, pointers, prepared

    y_bar, moving_bar, pointers = walk.start(y1)
    unprepared = walk.parts(walk.moving)[1].unprepared
    carry = (y1, y_bar, moving_bar, pointers, unprepared)
    _, y_bar, moving_bar, *_ = jax.lax.fori_loop(0, grid.num_steps + 1, body, carry)
    return y_bar, moving_bar


def walk_any(walk: Walk, y0, y1, state1):
    """Backward through any reversible solver: undo a step, then differentiate it."""
    grid = walk.grid

    def body(k, carry):
        i = grid.num_steps - k
        y, state, y_bar, state_bar, moving_bar, pointers, prepared = carry
        here, y = walk.tied_to(y)
        args, functions = here.parts(here.moving)
        prepared = here.refreshed(k == 0, i, y, prepared)
        y_bar, moving_bar, pointers = here.records(i, y, y_bar, moving_bar, pointers, prepared)
        y, state = functions.backward_step(grid.time(i - 1), y, ready(args, prepared), state)

        def step(y, state, moving):
            args, functions = here.parts(moving)
            y, state, _ = functions.step(grid.time(i - 1), y, ready(args, prepared), state)
            return y, eqx.filter(state, eqx.is_inexact_array)

        exact, rest = eqx.partition(state, eqx.is_inexact_array)
        _, pull = jax.vjp(lambda y, s, m: step(y, eqx.combine(s, rest), m), y, exact, here.moving)
        y_bar, state_bar, dmoving = pull((y_bar, state_bar))
        y_bar, state_bar = here.control(i, (y_bar, state_bar))
        return y, state, y_bar, state_bar, tree_add(moving_bar, dmoving), pointers, prepared

    args, functions = walk.parts(walk.moving)
    y_bar, moving_bar, pointers = walk.start(y1)
    state_bar = jax.tree.map(jnp.zeros_like, eqx.filter(state1, eqx.is_inexact_array))
    carry = (y1, state1, y_bar, state_bar, moving_bar, pointers, functions.unprepared)
    _, _, y_bar, state_bar, moving_bar, pointers, _ = jax.lax.fori_loop(0, grid.num_steps, body, carry)

    prepared = prepare(functions, y0, args)

    def init(y, moving):
        args, functions = walk.parts(moving)
        return eqx.filter(functions.init(grid.t0, y, ready(args, prepared)), eqx.is_inexact_array)

    dy, dmoving = jax.vjp(init, y0, walk.moving)[1](state_bar)
    y_bar, moving_bar, _ = walk.records(0, y0, tree_add(y_bar, dy), tree_add(moving_bar, dmoving), pointers, prepared)
    return y_bar, moving_bar
