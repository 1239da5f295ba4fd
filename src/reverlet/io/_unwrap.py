import jax
import jax.numpy as jnp
import numpy as np

from .._box import OpenBox
from .._dynamics import Trajectory
from .._misc import require_instance
from .._state import State


def unwrap(trajectory: Trajectory) -> Trajectory:
    """The trajectory with atoms that move on where a file has put them back into the box, as diffusion needs it.

    By minimum motion: from frame to frame every atom is taken to have gone the least number of boxes. Right as long as
    no atom moves half a box between two frames. Where the box changes, it is its motion in the box's own coordinates.
    Files with image flags (`image` of H5MD) are read unwrapped, and stay as they are.

    **Errors:** `ValueError` for other records than whole states of one trajectory.
    """
    require_instance("trajectory", trajectory, Trajectory)
    states = trajectory.records
    if not isinstance(states, State) or states.positions.ndim != 3:
        raise ValueError(
            "`unwrap` got other records; wanted those of one trajectory of whole states, such as that of `rv.io.read`."
        )
    if isinstance(states.box, OpenBox):
        return trajectory
    vectors = np.asarray(jax.vmap(lambda box: box.vectors)(states.box), float)
    inside = np.linalg.solve(vectors.transpose(0, 2, 1), np.asarray(states.positions, float).transpose(0, 2, 1))
    steps = np.diff(inside, axis=0)
    boxes = -np.concatenate([np.zeros_like(inside[:1]), np.cumsum(np.round(steps), axis=0)]).transpose(0, 2, 1)
    positions = jnp.asarray(np.asarray(states.positions, float) + boxes @ vectors, states.positions.dtype)
    velocities = states.velocities if states.has_velocities else None
    # of arrays that have been checked, one by one, as `read` makes them
    states = jax.vmap(State)(positions, velocities, states.box)
    return Trajectory(trajectory.times, states, jax.tree.map(lambda x: x[-1], states))
