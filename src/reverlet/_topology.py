from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from ._elements import MASSES, SYMBOLS, atomic_number
from ._misc import as_float_array, is_concrete, require_positive, require_shape


class Topology(eqx.Module):
    """What of a system does not move: which atoms there are, how heavy, and how they are connected.

    Usually made by `Topology.from_elements`.

    **Errors:** `ValueError` for arrays whose lengths differ, masses that are not positive, or bonds between atoms
    that do not exist.
    """

    atomic_numbers: Int[Array, " atoms"]
    masses: Float[Array, " atoms"]
    """u."""
    molecules: Int[Array, " atoms"]
    """The index of the molecule each atom belongs to."""
    bonds: Int[Array, "bonds 2"]
    """Pairs of bonded atoms."""

    @classmethod
    def from_elements(
        cls,
        elements: Sequence[str],
        *,
        masses: ArrayLike | None = None,
        molecules: Sequence[int] | None = None,
        bonds: Sequence[tuple[int, int]] = (),
    ) -> "Topology":
        """A topology from symbols of elements such as `["O", "H", "H"]`.

        **Arguments:** `masses` (u), standard atomic weights by default; `molecules`, the molecule of each atom, every
        atom its own by default; `bonds`, pairs of atom indices.

        **Errors:** `ValueError` for an unknown element, and as for the class.
        """
        n = len(elements)
        return cls(
            jnp.array([atomic_number(e) for e in elements], dtype=int),
            as_float_array(np.array([MASSES[e] for e in elements]) if masses is None else masses),
            jnp.arange(n) if molecules is None else jnp.asarray(molecules, dtype=int),
            jnp.asarray(bonds, dtype=int) if len(bonds) > 0 else jnp.zeros((0, 2), dtype=int),
        )

    def __check_init__(self):
        n = len(self.atomic_numbers)
        require_shape("masses", self.masses, (n,), "One per atom.")
        require_positive("masses", self.masses, "u")
        require_shape("molecules", self.molecules, (n,), "One per atom.")
        require_shape("bonds", self.bonds, (None, 2), "One pair of atom indices per bond.")
        if (
            self.bonds.size
            and is_concrete(self.bonds)
            and (int(jnp.min(self.bonds)) < 0 or int(jnp.max(self.bonds)) >= n)
        ):
            raise ValueError(f"`bonds` name atoms up to {int(jnp.max(self.bonds))}; wanted indices from 0 to {n - 1}.")

    @property
    def num_atoms(self) -> int:
        """How many atoms there are."""
        return len(self.atomic_numbers)

    @property
    def elements(self) -> tuple[str, ...]:
        """The symbol of every atom."""
        return tuple(SYMBOLS[int(z) - 1] for z in self.atomic_numbers)
