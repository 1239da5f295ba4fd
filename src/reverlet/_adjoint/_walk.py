"""The way back."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._controls import AbstractCotangentControl
from .._misc import tree_add
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
        """The same for one step, and `x`: parameters as if they changed with it.

        Otherwise the compiler takes what depends on parameters alone, such as σ² and 1/L, out of the loop, and once for
        every place where it is used; back in the loop it cannot know that these are the same, and computes the
        distances of all pairs four times instead of once.
        """
        arrays, rest = eqx.partition((self.moving, self.fixed), eqx.is_array)
        arrays, x = jax.lax.optimization_barrier((arrays, x))
        moving, fixed = eqx.combine(arrays, rest)
        return self._replace(moving=moving, fixed=fixed), x

    def prepare(self, y):
        return prepare(self.parts(self.moving)[1], y, self.parts(self.moving)[0])

    def refreshed(self, due, i, y, prepared):
        args, functions = self.parts(self.moving)
        return refreshed(functions, due, i, y, args, prepared)

    def control(self, i, state_bar):
        """What is left of the cotangent of the state when the step to `i` has been undone."""
        for control in self.controls:
            state_bar = control.step((i - 1) * self.grid.h, self.grid.h, state_bar)
        return state_bar

    def entering(self, i, ys_bar):
        """What is left of the cotangent of what was saved at step `i`."""
        for control in self.controls:
            ys_bar = control.record(i * self.grid.h, self.grid.h, ys_bar)
        return ys_bar

    def records(self, i, y, y_bar, moving_bar, pointers):
        """Adds the cotangents of what was saved at step `i`."""
        pointers = list(pointers)
        for k, (slots, ys_bar) in enumerate(zip(self.grid.slots, self.ys_bar, strict=True)):
            if len(jax.tree.leaves(ys_bar)) == 0:  # nobody asks for the derivative of this output
                continue

            def due(carry, slots=slots):
                p, _, _ = carry
                return (p > 0) & (slots[jnp.maximum(p, 1) - 1] == i)

            def pull(carry, k=k, ys_bar=ys_bar):
                p, y_bar, moving_bar = carry

                def saved(y, moving):
                    args, functions = self.parts(moving)
                    out = functions.saves[k](self.grid.time(i), y, args)
                    return jax.tree.map(lambda bar, o: None if bar is None else o, ys_bar, out, is_leaf=_is_none)

                _, pull_back = jax.vjp(saved, y, self.moving)
                dy, dmoving = pull_back(self.entering(i, jax.tree.map(lambda bar: bar[p - 1], ys_bar)))
                return p - 1, tree_add(y_bar, dy), tree_add(moving_bar, dmoving)

            pointers[k], y_bar, moving_bar = jax.lax.while_loop(due, pull, (pointers[k], y_bar, moving_bar))
        return y_bar, moving_bar, pointers


def _is_none(x):
    return x is None


def walk_splitting(walk: Walk, y0, y1):
    """Backward through a splitting method: at every position, one kick and one pullback per term that kicks there.

    At a grid point the last kick of the step before and the first of the step after act at the same positions: their
    pullbacks are one. `v` in the carry is the velocity after that first kick, where the walk comes from.
    """
    rows, drifts, grid = walk.solver.kick_rows, walk.solver.drifts, walk.grid
    # which terms kick at every position, and with what coefficients
    acting = [[(m, weight) for m, weight in enumerate(row) if weight != 0] for row in rows]
    axpy = lambda a, x, y: jax.tree.map(lambda x, y: y + a * x, x, y)

    def kick(walk, m, t, x, prepared):
        args, functions = walk.parts(walk.moving)
        return functions.kicks[m](t, x, ready(args, prepared))

    def pull_kick(walk, m, t, x, w, prepared):
        def function(x, moving):
            args, functions = walk.parts(moving)
            return functions.powers[m](t, x, ready(args, prepared), w)

        return jax.grad(function, argnums=(0, 1))(x, walk.moving)

    def drift_and_pull(walk, t, v, x_bar, prepared):
        def function(v, moving):
            args, functions = walk.parts(moving)
            return functions.drift(t, v, ready(args, prepared))

        out, pull = jax.vjp(function, v, walk.moving)
        return out, pull(x_bar)

    def at_grid_point(walk, i, x, v, x_bar, v_bar, moving_bar, pointers, prepared, *, after):
        """Records and merged kicks at step `i`; `after` is one where a step comes after it, and zero at the end."""
        t = grid.time(i)
        pushed = {m: kick(walk, m, t, x, prepared) for m, _ in acting[0]}
        for m, weight in acting[0]:
            v = axpy(-after * weight, pushed[m], v)
        v_bar_after = v_bar
        (x_bar, v_bar), moving_bar, pointers = walk.records(i, (x, v), (x_bar, v_bar), moving_bar, pointers)
        w = jax.tree.map(lambda a, b: after * a + b, v_bar_after, v_bar)
        for m, weight in acting[0]:
            dx, dmoving = pull_kick(walk, m, t, x, jax.tree.map(lambda a: weight * a, w), prepared)  # noqa: B023
            x_bar, moving_bar = tree_add(x_bar, dx), tree_add(moving_bar, dmoving)
            v = axpy(-weight, pushed[m], v)
        return v, x_bar, v_bar, moving_bar, pointers

    def body(k, carry):
        i = grid.num_steps - k
        x, v, x_bar, v_bar, moving_bar, pointers, prepared = carry
        here, x = walk.tied_to(x)
        prepared = here.refreshed(k > 0, i, (x, v), prepared)
        after = jnp.where(k == 0, 0.0, 1.0).astype(grid.h.dtype)
        v, x_bar, v_bar, moving_bar, pointers = at_grid_point(
            here, i, x, v, x_bar, v_bar, moving_bar, pointers, prepared, after=after
        )
        times = here.solver.drift_times(grid.time(i - 1), grid.time(i))
        for j in reversed(range(len(drifts))):
            start, end = times[j]
            moved, (dv, dmoving) = drift_and_pull(here, 0.5 * (start + end), v, x_bar, prepared)
            x = axpy(-drifts[j], moved, x)
            v_bar = axpy(drifts[j], dv, v_bar)
            moving_bar = axpy(drifts[j], dmoving, moving_bar)
            for m, weight in acting[j] if j > 0 else ():
                pushed = kick(here, m, start, x, prepared)
                dx, dmoving = pull_kick(here, m, start, x, jax.tree.map(lambda b: weight * b, v_bar), prepared)  # noqa: B023
                x_bar, moving_bar = tree_add(x_bar, dx), tree_add(moving_bar, dmoving)
                v = axpy(-weight, pushed, v)
        x_bar, v_bar = here.control(i, (x_bar, v_bar))
        return x, v, x_bar, v_bar, moving_bar, pointers, prepared

    (x_bar, v_bar), moving_bar, pointers = walk.start(y1)
    carry = (*y1, x_bar, v_bar, moving_bar, pointers, walk.prepare(y1))
    *_, x_bar, v_bar, moving_bar, pointers, prepared = jax.lax.fori_loop(0, grid.num_steps, body, carry)
    # at the start the state is known exactly, and there is only the first kick, unless no step was taken
    x, v = y0
    after = jnp.where(grid.num_steps == 0, 0.0, 1.0).astype(grid.h.dtype)
    for m, weight in acting[0]:
        w = jax.tree.map(lambda b: after * weight * b, v_bar)  # noqa: B023
        dx, dmoving = pull_kick(walk, m, grid.t0, x, w, prepared)
        x_bar, moving_bar = tree_add(x_bar, dx), tree_add(moving_bar, dmoving)
    y_bar, moving_bar, _ = walk.records(0, (x, v), (x_bar, v_bar), moving_bar, pointers)
    return y_bar, moving_bar


def walk_any(walk: Walk, y0, y1, state1):
    """Backward through any reversible solver: undo a step, then differentiate it."""
    grid = walk.grid

    def body(k, carry):
        i = grid.num_steps - k
        y, state, y_bar, state_bar, moving_bar, pointers, prepared = carry
        here, y = walk.tied_to(y)
        y_bar, moving_bar, pointers = here.records(i, y, y_bar, moving_bar, pointers)
        args, functions = here.parts(here.moving)
        prepared = here.refreshed(k > 0, i, y, prepared)
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

    y_bar, moving_bar, pointers = walk.start(y1)
    state_bar = jax.tree.map(jnp.zeros_like, eqx.filter(state1, eqx.is_inexact_array))
    carry = (y1, state1, y_bar, state_bar, moving_bar, pointers, walk.prepare(y1))
    _, _, y_bar, state_bar, moving_bar, pointers, prepared = jax.lax.fori_loop(0, grid.num_steps, body, carry)

    def init(y, moving):
        args, functions = walk.parts(moving)
        return eqx.filter(functions.init(grid.t0, y, ready(args, prepared)), eqx.is_inexact_array)

    dy, dmoving = jax.vjp(init, y0, walk.moving)[1](state_bar)
    y_bar, moving_bar, _ = walk.records(0, y0, tree_add(y_bar, dy), tree_add(moving_bar, dmoving), pointers)
    return y_bar, moving_bar
