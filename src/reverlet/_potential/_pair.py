import abc
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._box import AbstractBox
from .._misc import cast_floats, require_positive
from .._neighbors import Neighbors
from ._base import AbstractPotential
from ._pair_sum import by_atom, first_slope, one_if_usable, pair_sum, per_tile, row_sum
from ._terms import require_atoms
from ._truncation import AbstractTruncation

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


class AbstractPairPotential(AbstractPotential):
    """A sum over all pairs of atoms nearer than a cutoff, U = Σ_{i<j} u(r_ij).

    A subclass gives `pair_energy`, the formula for one pair; periodic images, the cutoff, sums over pairs and fast
    derivatives are written here once. With s = r², d = r_i - r_j and e = w_i - w_j,

        ∂U/∂r_i = Σ_j 2u′(s) d,    (H w)_i = Σ_j 2u′(s) e + 4u″(s) (d·e) d,
        ∂U/∂strain = Σ_{i<j} 2u′(s) d⊗d

    are evaluated in this closed form (u′ and u″ by automatic differentiation of the formula), which is several times
    faster than automatic differentiation of the sum, since the sum over j alone is enough by symmetry. All orders and
    modes of differentiation stay correct.
    """

    cutoff: AbstractVar[float]  # pyright: ignore[reportIncompatibleVariableOverride]
    truncation: AbstractVar[AbstractTruncation]

    def __check_init__(self):
        require_positive("cutoff", self.cutoff, "nm")
        self.truncation.check(self.cutoff)

    @abc.abstractmethod
    def pair_energy(self, r2: Float[Array, ""], i: Int[Array, ""], j: Int[Array, ""]) -> Float[Array, ""]:
        """The energy (kJ/mol) of atoms `i` and `j` at a squared distance `r2` (nm²), before truncation. The same with
        `i` and `j` exchanged; finite for every 0 < r2 <= cutoff²."""

    def energy(self, positions, box, *, neighbors=None):
        require_atoms(self, positions.shape[0])
        dtype = positions.dtype
        energy = pair_sum(cast_floats(self, dtype), None, positions, box.astype(dtype), neighbors)
        return energy * one_if_usable(self, positions, box, neighbors)


def heat_flow(
    potential: AbstractPairPotential,
    positions: Float[Array, "atoms 3"],
    velocities: Float[Array, "atoms 3"],
    box: AbstractBox,
    neighbors: Neighbors | None,
) -> tuple[Float[Array, " atoms"], Float[Array, "3"]]:
    """Every atom's half of its pair energies, kJ/mol, and what pairs carry, ½ Σ_{i<j} F_ij·(v_i + v_j) r_ij, in
    kJ/mol nm/ps. F_ij is the force on i, r_ij = r_i - r_j."""
    require_atoms(potential, positions.shape[0])
    dtype = positions.dtype
    potential, box = cast_floats(potential, dtype), box.astype(dtype)

    def of_tile(tile):
        d, r2, counts = tile.geometry(potential, positions, box)
        u = tile.pair_function(potential)
        energies = 0.5 * row_sum(jnp.where(counts, u(r2), 0))
        v = [a + b for a, b in zip(tile.rows(velocities), tile.columns(velocities), strict=True)]
        power = first_slope(u, r2, counts) * (d[0] * v[0] + d[1] * v[1] + d[2] * v[2])
        # a quarter, since every pair is met twice
        return energies, jnp.stack([-0.25 * jnp.sum(row_sum(power * dk)) for dk in d])

    energies, flows = per_tile(of_tile, positions.shape[0], neighbors)
    one = one_if_usable(potential, positions, box, neighbors)
    return by_atom(energies, neighbors) * one, jnp.sum(flows, axis=0) * one
