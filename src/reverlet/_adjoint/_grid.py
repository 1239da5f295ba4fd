"""Where in time the steps of a solve are, and at which of them something is saved."""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_NEVER = jnp.iinfo(jnp.int32).max


def equal_steps(t0, t1, dt0):
    """The number of equal steps from `t0` to `t1`, and their length.

    As `diffrax.ConstantStepSize` does, a `dt0` that does not divide the time is made a little smaller.
    """
    ratio = (t1 - t0) / dt0
    nearest = jnp.round(ratio)
    tolerance = 1e-3 + 8 * jnp.finfo(ratio.dtype).eps * nearest
    num_steps = jnp.where(jnp.abs(ratio - nearest) < tolerance, nearest, jnp.ceil(ratio)).astype(jnp.int32)
    return num_steps, (t1 - t0) / jnp.maximum(num_steps, 1)


class Grid(NamedTuple):
    """Where in time the steps are, and at which of them every slot of every output is filled (in increasing order)."""

    t0: Float[Array, ""]
    h: Float[Array, ""]
    span: Float[Array, ""]
    """Of a step in the time of the terms, which may run backward."""
    num_steps: Int[Array, ""]
    slots: list[Int[Array, " slots"]]
    intervals: list[int | None]
    """How many steps there are from one filled slot to the next; `None` where there are few slots in all."""

    def time(self, i):
        return self.t0 + i * self.h


def interval_of(sub: diffrax.SubSaveAt) -> int | None:
    """How many steps apart a `SubSaveAt` saves; one where times are given, which may be any."""
    return 1 if sub.ts is not None else sub.steps or None


def slots_of(sub: diffrax.SubSaveAt, num_slots: int, t0, h, num_steps) -> Int[Array, " slots"]:
    """The steps at which a `SubSaveAt` saves, in increasing order; a slot that stays empty has a step never reached."""
    steps = []
    if sub.t0:
        steps.append(jnp.zeros(1, jnp.int32))
    if sub.ts is not None:
        position = (sub.ts - t0) / h
        nearest = jnp.round(position)
        tolerance = 1e-3 + 8 * jnp.finfo(position.dtype).eps * nearest
        nearest = eqx.error_if(
            jnp.where(h == 0, 0, nearest).astype(jnp.int32),
            (h != 0) & (jnp.abs(position - nearest) > tolerance),
            "`rv.ReversibleAdjoint()` got a `SaveAt(ts=...)` with times between two steps, which it does not"
            " interpolate."
            " Wanted times t0 + k dt0. Round them to the grid, or save every k steps with `SaveAt(steps=k)`.",
        )
        steps.append(nearest)
    if sub.steps != 0:
        taken = num_slots - sum(len(s) for s in steps)
        multiples = sub.steps * jnp.arange(1, taken + 1, dtype=jnp.int32)
        if sub.t1:
            # the last slot, if there is one to spare, is for an end that is no multiple
            spare = (multiples > num_steps) & (multiples - sub.steps < num_steps)
            multiples = jnp.where(spare, num_steps, jnp.where(multiples > num_steps, _NEVER, multiples))
        steps.append(multiples)
    elif sub.t1:
        steps.append(jnp.broadcast_to(num_steps, (1,)))
    steps = jnp.sort(jnp.concatenate(steps))
    return jnp.where(steps > num_steps, _NEVER, steps)
