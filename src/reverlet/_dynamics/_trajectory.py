from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._misc import as_array, is_concrete
from .._state import State
from .._system import System
from .._timeseries import Times

Record = Callable[[System, State, State], PyTree[Array]]


def recorded(record: Record, system: System, state: State, initial: State) -> PyTree[Array]:
    """What is kept of an instant, numbers of Python's and NumPy's as arrays.

    **Errors:** `TypeError` for what is no number.
    """
    found = jax.tree.map(as_array, record(system, state, initial))
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        if not isinstance(leaf, Array):
            raise TypeError(
                f"`record` returns {leaf!r}{' at ' + jax.tree_util.keystr(path) if path else ''}, of type"
                f" `{type(leaf).__name__}`; wanted arrays and numbers."
            )
    return found


class Trajectory(eqx.Module):
    """What `nve` returns."""

    times: Times
    """ps, from zero, or from minus the length of the trajectory where both directions were run."""
    records: PyTree
    """What `record` returned at every frame, the initial one included: leaves lead with `frames`, and before that with
    `samples` where there are many trajectories."""
    final: State
    """The configuration at the last of the times, to go on from; of many, arrays lead with `samples`."""

    def __str__(self) -> str:
        kept = self.records if isinstance(self.records, State) else jax.tree.map(jnp.shape, self.records)
        times = f", {float(self.times[0]):.6g} to {float(self.times[-1]):.6g} ps" if is_concrete(self.times) else ""
        return f"Trajectory({len(self.times)} frames{times}, records: {kept})"
