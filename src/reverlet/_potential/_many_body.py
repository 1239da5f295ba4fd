"""Sums over atoms of energies that depend on an atom's neighborhood."""

import abc
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._box import AbstractBox
from .._misc import cast_floats, require_positive, tied_to
from .._neighbors import Edges, Neighbors
from ._base import AbstractPotential
from ._terms import require_atoms

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


class AbstractGraphPotential(AbstractPotential):
    """A sum over atoms of energies that depend on who is near, U = Σ_i E_i.

    A subclass gives `atom_energies`, a function of all edges between an atom and a neighbor; images, the cutoff and
    neighbor lists are dealt with here. Of one atom at a time: `AbstractManyBody`. The energies must go to zero at the
    cutoff with two continuous derivatives for forces to be smooth.

    With a neighbor list, one with a view per atom (`CellList.fit(..., per_atom=True)`). The energy is NaN where two
    atoms are at one place.
    """

    cutoff: AbstractVar[float]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Up to where neighbors count, nm."""

    def __check_init__(self):
        require_positive("cutoff", self.cutoff, "nm")

    @abc.abstractmethod
    def atom_energies(self, edges: Edges) -> Float[Array, " atoms"]:
        """The energy of every atom, kJ/mol, in the dtype of the displacements."""

    def energy(self, positions, box, *, neighbors=None):
        return jnp.sum(self.energies(positions, box, neighbors=neighbors))

    def energies(
        self, positions: Float[Array, "atoms 3"], box: AbstractBox, *, neighbors: Neighbors | None = None
    ) -> Float[Array, " atoms"]:
        """The energy of every atom, kJ/mol, of which `energy` is the sum."""
        require_atoms(self, positions.shape[0])
        edges = Edges.within(self.cutoff, positions, box, neighbors)
        apart = jnp.all(jnp.any(edges.d != 0, axis=2), axis=1)
        edges, potential = tied_to(edges, cast_floats(self, positions.dtype))
        energies = potential.atom_energies(edges)
        return jnp.where(apart, energies, jnp.nan)


class AbstractManyBody(AbstractGraphPotential):
    """A potential that is a formula for one atom and its neighbors: Stillinger–Weber, Tersoff, networks of descriptors.

    Energies must go to zero at the cutoff; entries where `mask` is false are padding:

        class Squares(rv.AbstractManyBody):
            strength: Array
            cutoff: float = eqx.field(static=True)

            def atom_energy(self, i, d, j, mask):
                near = jnp.where(mask, (1 - jnp.sum(d**2, axis=-1) / self.cutoff**2) ** 3, 0)
                return self.strength * jnp.sum(near) ** 2
    """

    @abc.abstractmethod
    def atom_energy(
        self,
        i: Int[Array, ""],
        d: Float[Array, "near 3"],
        j: Int[Array, " near"],
        mask: Bool[Array, " near"],
    ) -> Float[Array, ""]:
        """The energy (kJ/mol) of atom `i` with its neighbors `j` at displacements `d` from it (nm).

        Where `mask` is false there is no neighbor: a displacement is one cutoff long there, so that nothing need be
        kept from overflowing, and what comes of it must not count.
        """

    def atom_energies(self, edges):
        return jax.vmap(self.atom_energy)(jnp.arange(len(edges.d)), edges.d, edges.j, edges.mask)
