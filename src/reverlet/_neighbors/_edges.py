"""The view per atom: for potentials of an atom and its neighbors, rather than of pairs."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from .._box import AbstractBox
from ._base import Neighbors


class Edges(eqx.Module):
    """Every atom's neighbors within a cutoff: for potentials that are a sum over atoms of a function of the
    neighborhood.

    Where `mask` is false there is no neighbor: a displacement is harmless there, one cutoff long (1 nm without
    cutoff), and has no derivative.
    """

    d: Float[Array, "atoms near 3"]
    """From the atom to its neighbor, the nearest image, nm."""
    j: Int[Array, "atoms near"]
    """Which atom that is; zero where there is none."""
    mask: Bool[Array, "atoms near"]
    listed: bool = eqx.field(static=True)
    """Whether they are of a list; without one, the neighbors of every atom are all atoms in their order."""

    def of_neighbors(self, values: Shaped[Array, "atoms *each"]) -> Shaped[Array, "#atoms near *each"]:
        """What every neighbor has of these values of all atoms, and anything where there is no neighbor.

        One row for all atoms alike where there is no list: much faster, and the derivative so much more.
        """
        return values[self.j] if self.listed else values[None]

    @staticmethod
    def within(
        cutoff: float, positions: Float[Array, "atoms 3"], box: AbstractBox, neighbors: Neighbors | None
    ) -> "Edges":
        """Those up to `cutoff` (nm), of a list with a view per atom; of all pairs without a list.

        Displacements are NaN where the list may miss pairs.

        **Errors:** `ValueError` for a list that has no view per atom, or not up to the cutoff.
        """
        n = positions.shape[0]  # which an export may leave open
        j = jnp.broadcast_to(jnp.arange(n), (n, n)) if neighbors is None else _of_atom(neighbors, cutoff)
        other = (j != n) & (j != jnp.arange(n)[:, None])
        j = jnp.where(other, j, 0)
        box = box.astype(positions.dtype)
        d = box.minimum_image(*(positions[:, k][j] - positions[:, k][:, None] for k in range(3)))
        mask = other & (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < cutoff**2)
        one = jnp.ones((), positions.dtype)
        if neighbors is not None:
            usable = jax.lax.stop_gradient(neighbors.usable(positions, box))
            one = jnp.where(usable, one, jnp.nan)
        harmless = (cutoff if math.isfinite(cutoff) else 1.0, 0.0, 0.0)
        d = jnp.stack([jnp.where(mask, x, h) * one for x, h in zip(d, harmless, strict=True)], axis=-1)
        return Edges(d, j, mask, neighbors is not None)


def _of_atom(neighbors, cutoff):
    if neighbors.of_atom is None:
        raise ValueError(
            "`neighbors` has no view per atom; wanted a list of a search with room for it, such as"
            " `rv.CellList.fit(..., per_atom=True)`."
        )
    if neighbors.cutoff < cutoff:
        raise ValueError(
            f"`neighbors` has the pairs up to {neighbors.cutoff} nm, but the cutoff is {cutoff} nm; wanted a list with"
            " at least that."
        )
    return neighbors.of_atom
