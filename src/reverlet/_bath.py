import equinox as eqx
from jaxtyping import Array, Float


class Bath(eqx.Module):
    """The variables of a chain of thermostats, which move with the atoms."""

    positions: Float[Array, " chain"]
    """η, dimensionless. The dynamics does not depend on them; the conserved quantity does."""
    velocities: Float[Array, " chain"]
    """1/ps."""

    def directed(self, sign: float | Float[Array, ""]) -> "Bath":
        """The variables whose future is the past of these, if `sign` is -1; its own inverse."""
        return Bath(self.positions, sign * self.velocities)
