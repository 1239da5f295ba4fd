"""What all formats have in common, in NumPy: from there to a trajectory and back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._box import OpenBox, OrthorhombicBox, TriclinicBox
from .._dynamics import Trajectory
from .._elements import SYMBOLS
from .._misc import is_concrete, require_finite
from .._state import State
from .._topology import Topology


class Frames(NamedTuple):
    """A trajectory in NumPy arrays; lengths in nm, times in ps."""

    topology: Topology
    positions: np.ndarray
    """(frames, atoms, 3)."""
    velocities: np.ndarray | None
    vectors: np.ndarray | None
    """Of the box, (frames, 3, 3); none for an open one."""
    times: np.ndarray | None

    @classmethod
    def from_trajectory(cls, topology: Topology, trajectory: Trajectory | State) -> "Frames":
        """From what a user has; refused unless it is one trajectory of whole, finite states."""
        if isinstance(trajectory, State):
            one = trajectory.positions.ndim == 2
            states = jax.tree.map(lambda x: x[None], trajectory) if one else trajectory
            times = np.arange(states.positions.shape[0], dtype=float)
        else:
            states, times = trajectory.records, np.asarray(trajectory.times)
        if not isinstance(states, State):
            raise ValueError(
                f"The records of the trajectory are of type `{type(states).__name__}`; wanted whole states, as `nve`"
                " keeps without `record`."
            )
        shape = states.positions.shape
        if len(shape) != 3 or shape[0] == 0:
            raise ValueError(
                f"The positions have shape {shape}; wanted (frames, {topology.num_atoms}, 3), one trajectory of at"
                " least one frame. Of many, write one after the other."
            )
        if shape[1] != topology.num_atoms:
            raise ValueError(f"The positions are of {shape[1]} atoms; wanted the topology's {topology.num_atoms}.")
        if not is_concrete((topology, states)):
            raise ValueError("`write` got traced arrays; wanted values: call it outside of `jax.jit`.")
        require_finite("positions", states.positions)
        velocities = np.asarray(states.velocities) if states.has_velocities else None
        if velocities is not None:
            require_finite("velocities", velocities)
        vectors = None
        if not isinstance(states.box, OpenBox):
            vectors = np.asarray(jax.vmap(lambda box: box.vectors)(states.box))
        return cls(topology, np.asarray(states.positions), velocities, vectors, times)

    def of(self, topology: Topology) -> "Frames":
        """The same with another topology; refused if that has other atoms."""
        wanted, got = np.asarray(topology.atomic_numbers), np.asarray(self.topology.atomic_numbers)
        if len(wanted) != len(got):
            raise ValueError(f"It has {len(got)} atoms, `topology` has {len(wanted)}.")
        if np.any(wanted != got):
            first = np.flatnonzero(wanted != got)[0]
            names = [SYMBOLS[z[first] - 1] for z in (got, wanted)]
            raise ValueError(f"Its atom {first} is {names[0]}, that of `topology` {names[1]}.")
        return self._replace(topology=topology)

    def trajectory(self) -> Trajectory:
        """What `read` returns; refused unless it is finite, with boxes that are."""
        positions = jnp.asarray(self.positions)
        if positions.ndim != 3 or 0 in positions.shape:
            raise ValueError(f"It has no atoms or no frames: its positions have shape {positions.shape}.")
        velocities = None if self.velocities is None else jnp.asarray(self.velocities, positions.dtype)
        times = np.arange(len(positions), dtype=float) if self.times is None else np.asarray(self.times, float)
        for name, values in (("positions", positions), ("velocities", velocities), ("times", times)):
            if values is not None:
                require_finite(name, values)
        boxes = self._boxes(positions.dtype)
        # not traced states, which would not be checked: their arrays have been
        states = jax.vmap(State)(positions, velocities, boxes)
        return Trajectory(times, states, jax.tree.map(lambda x: x[-1], states))

    def _boxes(self, dtype):
        if self.vectors is None:
            return OpenBox()  # pyright: ignore[reportCallIssue]
        for one in np.unique(self.vectors, axis=0):
            TriclinicBox(one)  # refuses what is no box
        vectors = jnp.asarray(self.vectors, dtype)
        diagonal = self.vectors * np.eye(3)
        # in text, right angles come out of cosines that are zero to 1e-9
        if np.allclose(self.vectors, diagonal, rtol=0, atol=1e-8) and np.all(diagonal >= 0):
            return jax.vmap(OrthorhombicBox)(jnp.diagonal(vectors, axis1=1, axis2=2))
        return jax.vmap(TriclinicBox)(vectors)


def topology_of(
    atomic_numbers: np.ndarray,
    *,
    masses: np.ndarray | None = None,
    molecules: np.ndarray | None = None,
    bonds: np.ndarray | None = None,
) -> Topology:
    """From what a file says; molecules that are not given, or that bonds join, are those connected by bonds."""
    numbers = np.asarray(atomic_numbers)
    bad = np.flatnonzero((numbers < 1) | (numbers > len(SYMBOLS)))
    if len(numbers) == 0 or len(bad) > 0:
        got = f"atom {bad[0]} has atomic number {numbers[bad[0]]}" if len(bad) else "there are no atoms"
        raise ValueError(f"Elements are missing: {got}, wanted 1 to {len(SYMBOLS)}.")
    bonds = np.zeros((0, 2), int) if bonds is None else np.asarray(bonds)
    return Topology.from_elements(
        [SYMBOLS[z - 1] for z in numbers],
        masses=masses,
        molecules=_joined(np.arange(len(numbers)) if molecules is None else molecules, bonds).tolist(),
        bonds=sorted({(int(min(b)), int(max(b))) for b in bonds}),  # some files have them in both directions
    )


def _joined(molecules, bonds):
    """Molecules renumbered 0, 1, … in the order of their first atoms, those that a bond joins being one."""
    _, parent = np.unique(molecules, return_inverse=True)
    parent = parent.reshape(-1)
    root = np.arange(len(parent))

    def find(k):
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    for i, j in bonds:
        if not (0 <= i < len(parent) and 0 <= j < len(parent)):
            raise ValueError(f"A bond joins atoms {i} and {j}, wanted 0 to {len(parent) - 1}.")
        root[find(parent[i])] = find(parent[j])
    roots = np.array([find(k) for k in parent])
    _, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]
