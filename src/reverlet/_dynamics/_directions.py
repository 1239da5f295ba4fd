"""Trajectories into the past."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._state import State
from ._trajectory import Record, Trajectory


def directed(state, sign):
    """The state whose future is the past of `state`, if `sign` is -1; its own inverse."""
    return State(state.positions, sign * state.velocities, state.box)


class Directed(eqx.Module):
    """Records along a trajectory with flipped velocities what `record` sees in the true ones."""

    record: Record
    sign: Float[Array, ""]

    def __call__(self, system, state, initial):
        return self.record(system, directed(state, self.sign), directed(initial, self.sign))


def join(both: Trajectory) -> Trajectory:
    """One trajectory from those into the past and into the future, which are the two entries of all leading axes."""
    join = lambda x: jnp.concatenate([x[0, :0:-1], x[1]])
    return Trajectory(
        both_ways(both.times[1]), jax.tree.map(join, both.records), jax.tree.map(lambda x: x[1], both.final)
    )


def both_ways(times):
    return jnp.concatenate([-times[:0:-1], times])
