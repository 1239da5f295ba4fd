import jax
import jax.numpy as jnp

from .._potential import AbstractCharges, AbstractPotential
from .._potential._charges import Charges, charges_rule
from ._base import AbstractDipole


class PointCharges(AbstractDipole):
    """The dipole of charges at the atoms, M = Σ q_a x_a.

    **Arguments:** `charges`, one for each atom (e), or an `AbstractCharges`. To share those of a potential, so that one
    parameter has two uses and one gradient: `PointCharges.of(potential)`.
    """

    charges: Charges = charges_rule()

    @classmethod
    def of(cls, potential: AbstractPotential) -> "PointCharges":
        """The dipole of the charges that are in a potential; the same arrays, not copies.

        An observable takes this very function as its dipole, and calls it with the potential of the system that it
        records: then gradients with respect to the potential include what the charges do to the dipole.

        **Errors:** `ValueError` unless exactly one `AbstractCharges` is in the potential. With several, of which
        training would move one and not the other, pass a function of your own that picks.
        """
        is_charges = lambda x: isinstance(x, AbstractCharges)
        found = [x for x in jax.tree.leaves(potential, is_leaf=is_charges) if is_charges(x)]
        if len(found) != 1:
            raise ValueError(
                f"`PointCharges.of` found {len(found)} sets of charges in a `potential` of type"
                f" `{type(potential).__name__}`; wanted one. Give the charges themselves, `PointCharges(charges)`, or a"
                " function that picks them, such as `lambda u: rv.PointCharges(u.parts[0].charges)`."
            )
        return cls(found[0])

    def moment(self, positions, box, *, neighbors=None):
        del box, neighbors
        charges = self.charges.values.astype(positions.dtype)
        if charges.shape != positions.shape[:1]:
            raise ValueError(
                f"`charges` are of {len(charges)} atoms, but there are {len(positions)}; wanted one for each."
            )
        # elementwise: a matrix product may run in lower precision on a GPU
        return jnp.sum(charges[:, None] * positions, axis=0)
