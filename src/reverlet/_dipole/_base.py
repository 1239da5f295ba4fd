import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._box import AbstractBox


class AbstractDipole(eqx.Module):
    """A dipole surface: the total dipole moment of a configuration.

    A subclass gives `moment`; the current and the Born charges are its derivatives.
    """

    @abc.abstractmethod
    def moment(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Float[Array, "3"]:
        """The dipole moment, e nm, in the dtype of `positions` (nm, whole molecules, not wrapped along a trajectory).

        In a periodic box it is defined up to charge times lattice vector, since which image of an atom is meant is a
        choice; its derivatives are not affected. Of a charged system it depends on the origin.
        """

    def current(
        self, positions: Float[Array, "atoms 3"], velocities: Float[Array, "atoms 3"], box: AbstractBox
    ) -> Float[Array, "3"]:
        """dM/dt = Σ_a ∂M/∂x_a · v_a, e nm/ps, at fixed box; does not jump when an atom is wrapped.

        **Arguments:** `positions` (nm) and `velocities` (nm/ps).
        """
        return jax.jvp(lambda x: self.moment(x, box), (positions,), (velocities,))[1]

    def born_charges(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Float[Array, "atoms 3 3"]:
        """Z[a, b, c] = ∂M_b/∂x_ac, e: first the atom, then the component of the dipole, then that of the displacement.

        So `Z[a] @ dx` is what moving atom `a` by `dx` (nm) does. They sum to the total charge times the unit matrix.
        """
        return jnp.swapaxes(jax.jacrev(lambda x: self.moment(x, box))(positions), 0, 1)


class AbstractPolarizability(eqx.Module):
    """A polarizability surface: the total static electronic polarizability of a configuration."""

    @abc.abstractmethod
    def polarizability(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Float[Array, "3 3"]:
        """The polarizability tensor, nm³ (a volume: α/4πε₀), symmetric, in the dtype of `positions` (nm)."""

    def rate(
        self, positions: Float[Array, "atoms 3"], velocities: Float[Array, "atoms 3"], box: AbstractBox
    ) -> Float[Array, "3 3"]:
        """dα/dt, nm³/ps, at fixed box, of `positions` (nm) and `velocities` (nm/ps)."""
        return jax.jvp(lambda x: self.polarizability(x, box), (positions,), (velocities,))[1]
