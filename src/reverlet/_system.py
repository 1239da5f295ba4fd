from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._misc import cast_floats, is_concrete, raise_if_wrong
from ._potential import AbstractPotential
from ._state import State
from ._topology import Topology


class System(eqx.Module):
    """Atoms and the surface they move on."""

    topology: Topology
    potential: AbstractPotential

    def kinetic_energy(self, velocities: Float[Array, "atoms 3"]) -> Float[Array, ""]:
        """Σ m v²/2, kJ/mol."""
        masses = self.topology.masses.astype(velocities.dtype)
        return 0.5 * jnp.sum(masses[:, None] * velocities**2)

    def astype(self, dtype: Any) -> "System":
        """The system with its floating-point arrays in another precision."""
        return cast_floats(self, dtype)

    def check(self, state: State) -> None:
        """Refuses a state that this system cannot start from.

        **Errors:** `ValueError` where the number of atoms differs or the cutoff is larger than half the smallest
        height of the box; `FloatingPointError` if the energy is not finite, with the nearest two atoms. At once where
        values are known, from the compiled program where they are traced.
        """
        n = self.topology.num_atoms
        if state.positions.shape != (n, 3):
            raise ValueError(
                f"`state` has positions of shape {state.positions.shape}; wanted {(n, 3)} as the topology has {n}"
                f" atoms."
                " For many configurations, `jax.vmap` over the states."
            )
        cutoff = self.potential.cutoff
        if cutoff is not None:
            _check_cutoff(cutoff, state.box.heights)
        energy = self.potential.energy(state.positions, state.box)
        raise_if_wrong(_describe_overlap, energy, state.positions, state.box.vectors)


def _check_cutoff(cutoff: float, heights: Float[Array, "3"]) -> None:
    def message(heights):
        half = 0.5 * np.min(heights)
        if cutoff > half * (1 + 1e-6):  # room for lengths rounded to float32
            return (
                f"The cutoff is {cutoff} nm; wanted at most half the smallest height of the box, which is {half:.6g}"
                f" nm here."
                f" Use a cutoff up to that, or a larger box."
            )
        return None

    if is_concrete(heights):
        found = message(np.asarray(heights))
        if found is not None:
            raise ValueError(found)
    else:
        raise_if_wrong(message, heights)


def _describe_overlap(energies, positions, vectors):
    """Says which atoms overlap, of one configuration or of the first bad one of a batch."""
    bad = np.flatnonzero(~np.isfinite(energies))
    if len(bad) == 0:
        return None
    x = positions.reshape(-1, *positions.shape[-2:])[bad[0]].astype(float)
    box = np.broadcast_to(vectors, (*positions.shape[:-2], 3, 3)).reshape(-1, 3, 3)[bad[0]].astype(float)
    where = f" of configuration {bad[0]}" if energies.size > 1 else ""
    energy = energies.ravel()[bad[0]]
    if not np.all(np.isfinite(x)):
        return f"The positions{where} are not finite; wanted finite numbers, in nm."
    difference = x[:, None] - x
    if np.all(np.isfinite(box)):
        difference -= np.round(difference @ np.linalg.inv(box)) @ box
    distances = np.linalg.norm(difference, axis=-1) + np.diag(np.full(len(x), np.inf))
    i, j = np.unravel_index(np.argmin(distances), distances.shape)
    return (
        f"The potential energy{where} is {energy} kJ/mol; wanted a finite number. The nearest two atoms are {i} and"
        f" {j},"
        f" {distances[i, j]:.4g} nm apart: atoms that overlap must be moved apart first, and parameters must be finite."
    )
