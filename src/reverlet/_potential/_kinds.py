"""Atoms sorted by kind, so that what differs by kind is a slice and not a gather of parameters."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._elements import SYMBOLS, atomic_number
from .._misc import is_concrete, require_instance
from .._topology import Topology


class SortedKinds(eqx.Module):
    """The kind of every atom, and the order that sorts atoms by kind; how many there are of each is static."""

    of_atom: Int[Array, " atoms"]
    order: Int[Array, " atoms"]
    """The atoms, kind by kind."""
    counts: tuple[int, ...] = eqx.field(static=True)

    @staticmethod
    def of(kinds: Int[Array, " atoms"], num_kinds: int) -> "SortedKinds":
        """**Errors:** `ValueError` for kinds that are traced, or not from 0 to `num_kinds` - 1."""
        if not is_concrete(kinds):
            raise ValueError("`kinds` are traced; wanted known indices, since arrays are laid out by them.")
        known = np.asarray(kinds)
        if np.min(known, initial=0) < 0 or np.max(known, initial=0) >= num_kinds:
            raise ValueError(f"`kinds` are from {known.min()} to {known.max()}; wanted from 0 to {num_kinds - 1}.")
        counts = tuple(int(n) for n in np.bincount(known, minlength=num_kinds))
        with jax.ensure_compile_time_eval():
            return SortedKinds(jnp.asarray(known), jnp.asarray(np.argsort(known, kind="stable")), counts)

    @staticmethod
    def of_elements(topology: Topology, elements: Sequence[str], owner: str) -> "SortedKinds":
        """The place of every atom's element among `elements`.

        **Errors:** `ValueError` for an atom of another element, with the name of the `owner` of the parameters.
        """
        require_instance("topology", topology, Topology)
        numbers = [atomic_number(e) for e in elements]
        present = np.asarray(topology.atomic_numbers)
        foreign = sorted(set(present.tolist()) - set(numbers))
        if foreign:
            raise ValueError(
                f"`{owner}` has parameters of {', '.join(elements)}, but the topology has {SYMBOLS[foreign[0] - 1]};"
                " wanted a topology of these elements alone, or their right order."
            )
        with jax.ensure_compile_time_eval():
            return SortedKinds.of(jnp.asarray([numbers.index(z) for z in present], int), len(numbers))

    def require_atoms(self, owner: str, num_atoms: int) -> None:
        """Refuses another number of atoms, with the name of the `owner` of the parameters."""
        if len(self.of_atom) != num_atoms:
            raise ValueError(
                f"`{owner}` is of {len(self.of_atom)} atoms, but there are {num_atoms}; wanted one made for this"
                " topology."
            )

    def map(
        self, function: Callable[[int, Float[Array, "some *each"]], Float[Array, " some"]], values: Array
    ) -> Float[Array, " atoms"]:
        """What `function(kind, values)` makes of the values of all atoms of a kind, in the order of the atoms."""
        values = values[self.order]
        ends = np.cumsum(self.counts)
        parts = [function(k, values[end - n : end]) for k, (n, end) in enumerate(zip(self.counts, ends, strict=True))]
        return jnp.zeros(len(values), values.dtype).at[self.order].set(jnp.concatenate(parts), unique_indices=True)
