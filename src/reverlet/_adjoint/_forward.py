"""The way forward."""

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._solver import AbstractStagedSolver
from ._functions import Functions, prepare, ready, refreshed
from ._grid import Grid


class Progress(NamedTuple):
    meter: diffrax.AbstractProgressMeter
    state: PyTree


class Outcome(NamedTuple):
    """What a solve ends with."""

    ys: PyTree
    """What was saved."""
    y: PyTree
    solver_state: PyTree
    progress: PyTree
    result: diffrax.RESULTS
    wear: PyTree


def at_due_steps(grid: Grid, k: int, i, pointer, carry, function, *, backward: bool = False):
    """`function(slot, carry)` for every slot of output `k` that wants step `i`, of those that are left at `pointer`."""
    slots = grid.slots[k]
    at = lambda p: jnp.where(p > 0, p - 1, -1) if backward else jnp.where(p < len(slots), p, -1)

    def due(state):
        slot = at(state[0])
        return (slot >= 0) & (slots[jnp.maximum(slot, 0)] == i)

    def once(state):
        pointer, carry = state
        return (pointer - 1 if backward else pointer + 1), function(at(pointer), carry)

    # `while`, since several slots may want the same step; inside `cond`, or the compiler takes what depends on the
    # state alone out of the loop, which is most of a record, and computes it at every step
    state = (pointer, carry)
    return jax.lax.cond(due(state), lambda s: jax.lax.while_loop(due, once, s), lambda s: s, state)


def _save(functions, grid, i, y, args, pointers, buffers):
    pointers, buffers = list(pointers), list(buffers)
    for k, fn in enumerate(functions.saves):

        def write(slot, buffer, fn=fn):
            value = fn(grid.time(i), y, args)
            return jax.tree.map(lambda b, v: b.at[slot].set(v), buffer, value)

        pointers[k], buffers[k] = at_due_steps(grid, k, i, pointers[k], buffers[k], write)
    return pointers, buffers


def solve_staged(solver: AbstractStagedSolver, functions: Functions, grid: Grid, y, args, empty, progress) -> Outcome:
    """From grid point to grid point: at each the last kicks of the step before it and the first of the step after,
    which share their forces; so that there is one place in the program where these are computed."""
    layout, num_steps = solver.layout(), grid.num_steps
    kicks = sorted({stage.flow for stage in layout.first if stage.flow in solver.kick_flows()})

    def walk(stages, t, y, args, known):
        known = dict(known)
        for flow, weight, at in stages:
            time = t if at in (0, 1) else t + at * grid.h
            if flow in solver.kick_flows():
                if flow not in known:
                    known[flow] = acceleration(functions.flows[flow], time, y, args)
                y = push(y, known[flow], weight * grid.span)
            else:
                y = functions.flows[flow](time, y, args, weight * grid.span)
            if flow == 0:
                known = {}
        return y

    def body(i, carry):
        y, _, pointers, buffers, meter_state, prepared, wear = carry
        prepared = refreshed(functions, i == num_steps, i, y, args, prepared)
        wear = wear if functions.wear is None else functions.wear(wear, y[0], prepared)
        own, t = ready(args, prepared), grid.time(i)
        known = {k: acceleration(functions.flows[k], t, y, own) for k in kicks}
        y = choose(i > 0, walk(layout.last, t, y, own, known), y)
        pointers, buffers = _save(functions, grid, i, y, own, pointers, buffers)
        # as far as the step just done
        meter_state = progress.meter.step(meter_state, i / jnp.maximum(num_steps, 1))
        step = lambda y: walk([*layout.first, *layout.middle], t, y, own, known)
        y = if_there_is(i < num_steps, layout, solver, step, y)
        return y, [known[k] for k in kicks], pointers, buffers, meter_state, prepared, wear

    still = [jax.tree.map(jnp.zeros_like, y[1]) for _ in kicks]
    carry = (y, still, [jnp.zeros((), jnp.int32)] * len(empty), empty, progress.state)
    carry = (*carry, functions.unprepared, functions.unworn)
    y, last, _, buffers, meter_state, _, wear = jax.lax.fori_loop(0, num_steps + 1, body, carry)
    result = _unless_worn_out(functions, wear, diffrax.RESULTS.successful)
    state = tuple(last[kicks.index(k)] if k in kicks else None for k in range(len(functions.flows)))
    return Outcome(buffers, y, state, meter_state, result, wear)


def acceleration(power, t, y, args):
    """The kick whose power is given: its derivative with respect to w, in which it is linear."""
    return jax.grad(lambda w: power(t, y[0], args, w))(jax.tree.map(jnp.zeros_like, y[1]))


def push(y, acceleration, h):
    """Velocities changed by an acceleration in a time `h`."""
    x, v, *rest = y
    return (x, jax.tree.map(lambda v, a: v + h * a, v, acceleration), *rest)


def if_there_is(more, layout, solver: AbstractStagedSolver, step, y):
    """`step(y)` where there is `more` to come, `y` where not."""
    if any(stage.flow in solver.kick_flows() for stage in layout.middle):
        return jax.lax.cond(more, step, lambda y: y, y)
    return choose(more, step(y), y)  # nothing in it costs as much as a choice does


def choose(which, a, b):
    """`a` or `b`, both trees."""
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), a, b)


def solve_any(functions: Functions, grid: Grid, y, args, empty, solver_state, progress) -> Outcome:
    """Step after step, whatever the solver."""
    step: Any = functions.step

    def body(i, carry):
        y, state, pointers, buffers, meter_state, result, prepared, wear = carry
        prepared = refreshed(functions, False, i, y, args, prepared)
        y, state, step_result = step(grid.time(i), y, ready(args, prepared), state)
        wear = wear if functions.wear is None else functions.wear(wear, y[0], prepared)
        result = diffrax.RESULTS.where(result == diffrax.RESULTS.successful, step_result, result)  # the first failure
        pointers, buffers = _save(functions, grid, i + 1, y, ready(args, prepared), pointers, buffers)
        meter_state = progress.meter.step(meter_state, (i + 1) / grid.num_steps)
        return y, state, pointers, buffers, meter_state, result, prepared, wear

    prepared = prepare(functions, y, args)
    none = [jnp.zeros((), jnp.int32)] * len(empty)
    pointers, buffers = _save(functions, grid, 0, y, ready(args, prepared), none, empty)
    carry = (y, solver_state, pointers, buffers, progress.state, diffrax.RESULTS.successful)
    carry = (*carry, prepared, functions.unworn)
    y, state, _, buffers, meter_state, result, _, wear = jax.lax.fori_loop(0, grid.num_steps, body, carry)
    if functions.wear is not None:
        # with the preparation that the way back will begin with
        wear = functions.wear(wear, y[0], prepare(functions, y, args))
    return Outcome(buffers, y, state, meter_state, _unless_worn_out(functions, wear, result), wear)


def _unless_worn_out(functions, wear, result):
    if functions.wear is None:
        return result
    bad = (result == diffrax.RESULTS.successful) & functions.worn_out(wear)
    failed = diffrax.RESULTS.nonfinite  # inherited from Optimistix's
    return diffrax.RESULTS.where(bad, failed, result)  # pyright: ignore[reportArgumentType]
