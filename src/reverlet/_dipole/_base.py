import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._box import AbstractBox
from .._fields import AbstractChecked
from .._neighbors import Neighbors


class AbstractDipole(AbstractChecked):
    """A dipole surface: the total dipole moment of a configuration.

    A subclass gives `moment`; the current and the Born charges are its derivatives.
    """

    @abc.abstractmethod
    def moment(
        self, positions: Float[Array, "atoms 3"], box: AbstractBox, *, neighbors: Neighbors | None = None
    ) -> Float[Array, "3"]:
        """The dipole moment, e nm, in the dtype of `positions` (nm, whole molecules, not wrapped along a trajectory).

        In a periodic box it is defined up to charge times lattice vector, since which image of an atom is meant is a
        choice; its derivatives are not affected. Of a charged system it depends on the origin.

        `neighbors` has all pairs of atoms within a cutoff, and more; a dipole that looks at no pairs leaves it unread.
        """

    def current(
        self,
        positions: Float[Array, "atoms 3"],
        velocities: Float[Array, "atoms 3"],
        box: AbstractBox,
        *,
        neighbors: Neighbors | None = None,
    ) -> Float[Array, "3"]:
        """dM/dt = Σ_a ∂M/∂x_a · v_a, e nm/ps, at fixed box; does not jump when an atom is wrapped.

        **Arguments:** `positions` (nm) and `velocities` (nm/ps).
        """
        return jax.jvp(lambda x: moment_of(self, x, box, neighbors), (positions,), (velocities,))[1]

    def born_charges(
        self, positions: Float[Array, "atoms 3"], box: AbstractBox, *, neighbors: Neighbors | None = None
    ) -> Float[Array, "atoms 3 3"]:
        """Z[a, b, c] = ∂M_b/∂x_ac, e: first the atom, then the component of the dipole, then that of the displacement.

        So `Z[a] @ dx` is what moving atom `a` by `dx` (nm) does. They sum to the total charge times the unit matrix.
        """
        return jnp.swapaxes(jax.jacrev(lambda x: moment_of(self, x, box, neighbors))(positions), 0, 1)


class AbstractPolarizability(AbstractChecked):
    """A polarizability surface: the total static electronic polarizability of a configuration."""

    @abc.abstractmethod
    def polarizability(
        self, positions: Float[Array, "atoms 3"], box: AbstractBox, *, neighbors: Neighbors | None = None
    ) -> Float[Array, "3 3"]:
        """The polarizability tensor, nm³ (a volume: α/4πε₀), symmetric, in the dtype of `positions` (nm).

        `neighbors` as for `AbstractDipole.moment`.
        """

    def rate(
        self,
        positions: Float[Array, "atoms 3"],
        velocities: Float[Array, "atoms 3"],
        box: AbstractBox,
        *,
        neighbors: Neighbors | None = None,
    ) -> Float[Array, "3 3"]:
        """dα/dt, nm³/ps, at fixed box, of `positions` (nm) and `velocities` (nm/ps)."""
        return jax.jvp(lambda x: polarizability_of(self, x, box, neighbors), (positions,), (velocities,))[1]


def moment_of(dipole: AbstractDipole, positions, box, neighbors: Neighbors | None) -> Float[Array, "3"]:
    """The moment, of a dipole that need not know of `neighbors` where there are none."""
    if neighbors is None:
        return dipole.moment(positions, box)
    return dipole.moment(positions, box, neighbors=neighbors)


def polarizability_of(
    surface: AbstractPolarizability, positions, box, neighbors: Neighbors | None
) -> Float[Array, "3 3"]:
    """The polarizability, of a surface that need not know of `neighbors` where there are none."""
    if neighbors is None:
        return surface.polarizability(positions, box)
    return surface.polarizability(positions, box, neighbors=neighbors)
