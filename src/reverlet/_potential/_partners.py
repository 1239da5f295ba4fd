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
    """Pairs of atoms, and the partners of each atom in them, -1 where there is none."""

    pairs: Int[Array, "pairs 2"]
    partners: Int[Array, "rows width"]

    def __len__(self) -> int:
        return len(self.pairs)


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
    return Rule(lambda x: x if isinstance(x, NamedPairs) else _named(x), _require_named)


def _named(pairs):
    """Named pairs, or what was given where it cannot be any."""
    with jax.ensure_compile_time_eval():
        pairs = as_pairs(pairs)
    usable = (
        isinstance(pairs, Array)
        and is_concrete(pairs)
        and pairs.shape[1:] == (2,)
        and jnp.issubdtype(pairs.dtype, jnp.integer)
        and np.asarray(pairs).min(initial=0) >= 0
    )
    return NamedPairs(pairs, _table(pairs, None)) if usable else pairs


def _require_named(name, pairs):
    named = isinstance(pairs, NamedPairs)
    require_terms(name, pairs.pairs if named else pairs, 2)
    if not named:
        _require_known(name, pairs)


def _require_known(name, pairs):
    if not is_concrete(pairs):
        raise ValueError(f"`{name}` are traced; wanted known indices, since an array is laid out by them.")


def partner_table(pairs: ArrayLike, num_atoms: int | None) -> Int[Array, "rows width"]:
    """The partners of every atom, as wide as the longest row, and a last row without any for atoms beyond.

    **Errors:** `ValueError` for pairs that are traced, that are none, and of atoms from `num_atoms` on.
    """
    _require_known("pairs", pairs)
    if num_atoms is not None:
        require_count("num_atoms", num_atoms)
    with jax.ensure_compile_time_eval():  # parameters may be traced, in a loss that is compiled
        pairs = as_pairs(pairs)
    require_terms("pairs", pairs, 2)
    return _table(pairs, num_atoms)


def is_partner(partners: Int[Array, "rows width"], i: Int[Array, ""], j: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether atoms i and j are one of the pairs."""
    # one by one, which the compiler fuses with the formula; an atom beyond the table has the last row
    row = partners.at[i].get(mode="clip", wrap_negative_indices=False)
    found = jnp.zeros((), bool)
    for k in range(partners.shape[1]):
        found |= row[k] == j
    return found


def _table(pairs, num_atoms):
    pairs = np.asarray(pairs)
    needed = int(np.max(pairs, initial=-1)) + 1
    if num_atoms is not None and needed > num_atoms:
        raise ValueError(f"`pairs` name atom {needed - 1}; wanted indices from 0 to {num_atoms - 1}.")
    both = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    counts = np.bincount(both[:, 0], minlength=(num_atoms or needed) + 1)
    table = np.full((len(counts), np.max(counts, initial=0)), -1)
    table[both[:, 0], np.arange(len(both)) - np.repeat(np.cumsum(counts) - counts, counts)] = both[:, 1]
    with jax.ensure_compile_time_eval():
        return jnp.asarray(table)
