import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Bool, Float, Int

from .._box import AbstractBox, OpenBox, reciprocal_vectors
from .._fields import AbstractChecked


class Neighbors(eqx.Module):
    """Which atoms may be near which: blocks of atoms, each with all atoms near any of its own.

    A dense layout: what is summed over a row is gathered, nothing is scattered, so that a sum has the same order
    whenever the list is the same. Atoms are their own neighbors here, as their distance is zero.

    A list serves other boxes as well, as long as nothing that may come within the cutoff was beyond cutoff and skin
    when it was made. Where positions x became y and the lattice vectors H became H F, all that is left of a distance d
    between two atoms, or an atom and an image, is d F + u_i - u_j, with u = y - x F: so pairs come nearer by what the
    strain takes from the distance, and by what both move beside it.

    A potential that is given a list in which pairs may be missing returns NaN, and so do its derivatives.
    """

    rows: Int[Array, "blocks block"]
    """The atoms of every block; the number of atoms where there is none."""
    columns: Int[Array, "blocks capacity"]
    """The atoms near any of them; the number of atoms where there is none."""
    slots: Int[Array, " atoms"]
    """Where each atom is in `rows`, read as one long row."""
    positions: Float[Array, "atoms 3"]
    """Where the atoms were when this was made, nm."""
    box: AbstractBox
    """The box they were in."""
    needed: Int[Array, "3"]
    """How large `capacity`, `window` and `near` of the search would have to be. Pairs are missing where one was
    less."""
    complete: Bool[Array, ""]
    """Whether no pairs were missing when this was made."""
    cutoff: float = eqx.field(static=True)
    """Up to where all pairs are there, nm."""
    skin: float = eqx.field(static=True)
    """nm."""
    of_atom: Int[Array, "atoms near"] | None = None
    """The neighbors of each atom, without itself; the number of atoms where there is none. Only where the search was
    asked for it."""

    def moved(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Float[Array, ""]:
        """How far the atom that moved most has moved since, nm: beside the strain of the box, and beside what all atoms
        moved together. Whole lattice vectors, by which wrapped atoms move, do not count."""
        strain = self._strain(box, positions.dtype)
        u = positions - self.positions - _product(self.positions, strain)
        u = jnp.stack(box.astype(u.dtype).minimum_image(*(u - u[0]).T))
        u = u - jnp.mean(u, axis=1, keepdims=True)
        return jnp.max(u[0] * u[0] + u[1] * u[1] + u[2] * u[2]) ** 0.5

    def approach(self, box: AbstractBox, dtype: Any) -> Float[Array, ""]:
        """How much nearer than cutoff and skin two atoms may be that were not, by the strain of the box alone, nm;
        less than zero where the box grew in all directions."""
        strain = self._strain(box, dtype)
        g = strain + strain.T + _product(strain, strain.T)  # F Fᵀ - 1
        # the smallest eigenvalue of F Fᵀ, in closed form: with the angle of the cubic's roots
        mean = jnp.trace(g) / 3
        deviation = g - mean * jnp.eye(3, dtype=dtype)
        radius = jnp.sqrt(jnp.sum(deviation**2) / 6)
        a, b, c = deviation / jnp.where(radius > 0, radius, 1)
        angle = jnp.arccos(jnp.clip(0.5 * jnp.dot(a, jnp.cross(b, c)), -1, 1)) / 3
        lowest = mean + 2 * radius * jnp.cos(angle + 2 * jnp.pi / 3)
        # 1 - √(1 + λ), without cancellation
        return (self.cutoff + self.skin) * -lowest / (1 + jnp.sqrt(jnp.maximum(1 + lowest, 0)))

    def wear(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Float[Array, ""]:
        """How much of half the skin is used up, nm: by motion, and by half of what strain brings together."""
        return self.moved(positions, box) + 0.5 * self.approach(box, positions.dtype)

    def usable(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Bool[Array, ""]:
        """Whether no pairs within the cutoff can be missing at these positions (nm) in this box."""
        return self.complete & (self.wear(positions, box) <= 0.5 * self.skin)

    def _strain(self, box, dtype):
        """F - 1, exactly zero in the box of the list; NaN between an open box and a periodic one."""
        if isinstance(box, OpenBox) or isinstance(self.box, OpenBox):
            same = isinstance(box, OpenBox) and isinstance(self.box, OpenBox)
            return jnp.full((3, 3), 0.0 if same else jnp.nan, dtype)
        old, new = self.box.vectors.astype(dtype), box.vectors.astype(dtype)
        inverse = reciprocal_vectors(self.box).astype(dtype).T
        return _product(inverse, new - old)


def _product(a: Float[Array, "rows 3"], b: Float[Array, "3 3"]) -> Float[Array, "rows 3"]:
    # written out: a matrix product may run in lower precision on a GPU
    return a[:, 0, None] * b[0] + a[:, 1, None] * b[1] + a[:, 2, None] * b[2]


class AbstractNeighborSearch(AbstractChecked):
    """Finds the pairs of atoms nearer than a cutoff and a skin; a pure function of positions and box.

    A list stays right until an atom has moved by half the skin, in a box that keeps its shape; see `Neighbors`.
    """

    cutoff: AbstractVar[float]
    """nm."""
    skin: AbstractVar[float]
    """nm."""
    every: AbstractVar[int]
    """How many time steps a list is used for."""

    @abc.abstractmethod
    def find(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Neighbors:
        """The list for these positions (nm)."""

    @abc.abstractmethod
    def check(self, heights: Float[Array, "*boxes 3"]) -> None:
        """Refuses boxes (by their heights, nm) that the search does not work in; traced ones are let through."""

    @abc.abstractmethod
    def fits(self, heights: Float[Array, "3"]) -> Bool[Array, ""]:
        """Whether it works in a box of these heights (nm): what `check` asks, of what is traced."""

    @abc.abstractmethod
    def room(self) -> Int[Array, "3"]:
        """What `Neighbors.needed` must not exceed."""

    @abc.abstractmethod
    def enlarged(self, needed: Int[Array, "3"] | Float[Array, "3"]) -> "AbstractNeighborSearch":
        """A search with room for what a list `needed`."""


class Wear(eqx.Module):
    """The worst that happened to the lists of a trajectory."""

    moved: Float[Array, ""]
    """How far an atom moved while a list was in use, with what the strain of the box adds, nm: `Neighbors.wear`."""
    needed: Int[Array, "3"]
    """The most that a list needed."""

    @staticmethod
    def none(dtype: Any) -> "Wear":
        """Of no list."""
        return Wear(jnp.zeros((), dtype), jnp.zeros(3, jnp.int32))

    def and_of(self, positions: Float[Array, "atoms 3"], box: AbstractBox, neighbors: Neighbors) -> "Wear":
        """With a list in use at `positions` (nm) in `box`."""
        # what comes after a failure is NaN, and tells nothing of its cause
        needed = jnp.where(jnp.all(jnp.isfinite(neighbors.positions)), neighbors.needed, 0)
        return Wear(jnp.fmax(self.moved, neighbors.wear(positions, box)), jnp.maximum(self.needed, needed))

    def too_much(self, search: AbstractNeighborSearch) -> Bool[Array, ""]:
        """Whether pairs may have been missed."""
        return (self.moved > 0.5 * search.skin) | jnp.any(self.needed > search.room())
