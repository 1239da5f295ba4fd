import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._fields import Indices, indices
from .._misc import is_concrete
from .._neighbors import Neighbors
from ._base import AbstractPotential, energy_of
from ._terms import AbstractAtomIndexed, require_atoms, require_indices


class Among(AbstractPotential, AbstractAtomIndexed):
    """A potential among some of the atoms, which sees no others: U(x) = u(x[atoms]).

    So the Lennard-Jones interaction of n waters costs n² pairs of oxygens rather than 9 n² pairs of atoms, and needs no
    exclusions. Indices inside the potential, such as its `species`, count the atoms that are chosen.

    Without a neighbor list this is where the time is saved. With one it is right as well, but the list is of all atoms,
    and all its pairs are looked at.

    **Arguments:** `potential`; `atoms`, their indices, each once.

    **Errors:** `ValueError` for indices that are negative or come twice, and for a potential of another number of
    atoms.
    """

    potential: AbstractPotential
    atoms: Indices = indices("One index per atom.")

    def __check_init__(self):
        if is_concrete(self.atoms):
            values, counts = np.unique(np.asarray(self.atoms), return_counts=True)
            if np.any(counts > 1):
                raise ValueError(f"`atoms` names atom {values[counts > 1][0]} more than once; wanted each once.")
        require_atoms(self.potential, len(self.atoms))

    @property
    def cutoff(self) -> float | None:
        return self.potential.cutoff

    def require_atoms(self, num_atoms):
        require_indices(self, self.atoms, num_atoms)

    def energy(self, positions, box, *, neighbors=None):
        if neighbors is not None:
            neighbors = _chosen(neighbors, self.atoms, len(positions))
        # components travel separately: see `AbstractBondedPotential`. An atom that does not exist is at NaN
        gather = lambda x: x.at[self.atoms].get(mode="fill", wrap_negative_indices=False, unique_indices=True)
        chosen = jnp.stack([gather(positions[:, k]) for k in range(3)], axis=1)
        return energy_of(self.potential, chosen, box, neighbors)


def _chosen(neighbors: Neighbors, atoms: Int[Array, " chosen"], num_atoms: int) -> Neighbors:
    """The list as one of the chosen atoms only: the places of all others are empty."""
    num = len(atoms)
    new = jnp.full(num_atoms + 1, num, neighbors.rows.dtype).at[atoms].set(jnp.arange(num, dtype=neighbors.rows.dtype))
    return Neighbors(
        new[neighbors.rows],
        new[neighbors.columns],
        neighbors.slots[atoms],
        neighbors.positions[atoms],
        neighbors.box,
        neighbors.needed,
        neighbors.complete,
        neighbors.cutoff,
        neighbors.skin,
        None if neighbors.of_atom is None else new[neighbors.of_atom[atoms]],
    )
