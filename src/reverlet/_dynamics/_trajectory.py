from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, PyTree

from .._state import State
from .._system import System
from .._timeseries import Times

Record = Callable[[System, State, State], PyTree[Array]]


class Trajectory(eqx.Module):
    """What `nve` returns."""

    times: Times
    """ps, from zero, or from minus the length of the trajectory where both directions were run."""
    records: PyTree
    """What `record` returned at every frame, the initial one included: leaves lead with `frames`, and before that with
    `samples` where there are many trajectories."""
    final: State
    """The configuration at the last of the times, to go on from; of many, arrays lead with `samples`."""
