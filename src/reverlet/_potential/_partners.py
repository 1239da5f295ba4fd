"""Pairs of atoms that are named, laid out for a look into each pair that is met."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, ArrayLike, Bool, Int

from .._fields import Rule
from .._misc import is_concrete, require_count
from ._terms import as_pairs, require_terms


class NamedPairs(eqx.Module):
    """Pairs of atoms, and the partners of each atom in them, -1 where there is none.

    Both are parts of one array, so that none can be replaced without the other.
    """

    layout: Int[Array, " numbers"]
    num_pairs: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    @property
    def pairs(self) -> Int[Array, "pairs 2"]:
        return self._part(slice(2 * self.num_pairs), 2)

    @property
    def partners(self) -> Int[Array, "rows width"]:
        """As wide as the longest row, with a last one for atoms beyond, which have none."""
        if self.width == 0:
            return jnp.zeros((1, 0), self.layout.dtype)
        return self._part(slice(2 * self.num_pairs, None), self.width)

    def _part(self, part, width):
        if not is_concrete(self.layout):
            return self.layout[part].reshape(-1, width)
        with jax.ensure_compile_time_eval():  # what is known stays known in a function that is compiled
            return self.layout[part].reshape(-1, width)

    def __len__(self) -> int:
        return self.num_pairs


class AbstractSparing(eqx.Module):
    """The formula of pairs of which some are left out of its sum."""

    left_out: AbstractVar[tuple[Int[Array, "_ _"], ...]]
    """Tables of partners."""


if TYPE_CHECKING:

    class Named:
        """The type of a field of named pairs, which may be given as an array, or left out."""

        def __get__(self, instance: object, owner: Any) -> NamedPairs: ...

        def __set__(self, instance: object, value: ArrayLike | NamedPairs | None) -> None: ...

else:
    Named = NamedPairs


def named_pairs() -> Any:
    """A field of named pairs of atoms, none by default."""
    return Rule(_named, _require_named)


def _named(pairs):
    """Named pairs, or what was given where it cannot be any."""
    if isinstance(pairs, NamedPairs):
        return pairs
    with jax.ensure_compile_time_eval():
        pairs = as_pairs(pairs)
    usable = (
        isinstance(pairs, Array)
        and is_concrete(pairs)
        and pairs.shape[1:] == (2,)
        and jnp.issubdtype(pairs.dtype, jnp.integer)
        and np.asarray(pairs).min(initial=0) >= 0
    )
    return _laid_out(np.asarray(pairs), None) if usable else pairs


def _require_named(name, pairs):
    if isinstance(pairs, NamedPairs):
        require_terms(name, pairs.pairs, 2)
    else:
        _known(name, pairs)


def _known(name, pairs):
    """Pairs as an array that is known, or refused."""
    if not is_concrete(pairs):
        raise ValueError(f"`{name}` are traced; wanted known indices, since an array is laid out by them.")
    with jax.ensure_compile_time_eval():  # parameters may be traced, in a loss that is compiled
        pairs = as_pairs(pairs)
    require_terms(name, pairs, 2)
    return np.asarray(pairs)


def as_named(name: str, pairs: ArrayLike | NamedPairs) -> NamedPairs:
    """Named pairs, also where an array was put in their place after construction.

    **Errors:** `ValueError` for pairs that are traced, and that are none.
    """
    return pairs if isinstance(pairs, NamedPairs) else _laid_out(_known(name, pairs), None)


def each_once(pairs: ArrayLike, num_atoms: int | None) -> NamedPairs:
    """Pairs of atoms, each once even where it is given twice.

    **Errors:** `ValueError` for pairs that are traced, that are none, and of atoms from `num_atoms` on.
    """
    if num_atoms is not None:
        require_count("num_atoms", num_atoms)
    return _laid_out(np.unique(np.sort(_known("pairs", pairs), axis=1), axis=0), num_atoms)


def is_partner(partners: Int[Array, "rows width"], i: Int[Array, ""], j: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether atoms i and j are one of the pairs."""
    # one by one, which the compiler fuses with the formula; an atom beyond the table has the last row
    row = partners.at[i].get(mode="clip", wrap_negative_indices=False)
    found = jnp.zeros((), bool)
    for k in range(partners.shape[1]):
        found |= row[k] == j
    return found


def _laid_out(pairs: np.ndarray, num_atoms: int | None) -> NamedPairs:
    needed = int(np.max(pairs, initial=-1)) + 1
    if num_atoms is not None and needed > num_atoms:
        raise ValueError(f"`pairs` name atom {needed - 1}; wanted indices from 0 to {num_atoms - 1}.")
    both = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    counts = np.bincount(both[:, 0], minlength=(num_atoms or needed) + 1)
    table = np.full((len(counts), np.max(counts, initial=0)), -1)
    table[both[:, 0], np.arange(len(both)) - np.repeat(np.cumsum(counts) - counts, counts)] = both[:, 1]
    with jax.ensure_compile_time_eval():
        return NamedPairs(jnp.asarray(np.concatenate([pairs.ravel(), table.ravel()])), len(pairs), table.shape[1])
