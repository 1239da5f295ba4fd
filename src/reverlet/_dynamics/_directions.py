"""Trajectories into the past."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from .._state import State
from ._trajectory import Record


def directed(state, sign):
    """The state whose future is the past of `state`, if `sign` is -1; its own inverse."""
    bath = None if state.bath is None else state.bath.directed(sign)
    return State(state.positions, sign * state.velocities, state.box, bath)


class Directed(eqx.Module):
    """Records along a trajectory with flipped velocities what `record` sees in the true ones."""

    record: Record
    sign: Float[Array, ""]

    def __call__(self, system, state, initial):
        return self.record(system, directed(state, self.sign), directed(initial, self.sign))


def join(both: Shaped[Array, "2 frames *shape"]) -> Shaped[Array, "times *shape"]:
    """One series from those into the past and into the future."""
    return jnp.concatenate([both[0, :0:-1], both[1]])


def both_ways(times):
    return jnp.concatenate([-times[:0:-1], times])
