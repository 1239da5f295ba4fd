"""What names atoms by their number: checks of the indices, and terms of a few atoms each."""

import abc
import itertools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from .._box import AbstractBox
from .._fields import AbstractChecked, Rule
from .._misc import as_array, is_concrete, require_shape, require_whole

K = TypeVar("K")
Vector = tuple[Float[Array, "*terms"], Float[Array, "*terms"], Float[Array, "*terms"]]


class AbstractAtomIndexed(AbstractChecked):
    """What names atoms by their number, or has an entry for every atom, so that it fits some topologies only."""

    @abc.abstractmethod
    def require_atoms(self, num_atoms: int) -> None:
        """Refuses, by a `ValueError`, to be used with so many atoms. What is made of parts asks them as well."""


def require_atoms(tree: PyTree, num_atoms: int) -> None:
    """Refuses a potential, or any other tree, of which a part does not fit so many atoms."""
    for part in parts_of(tree, AbstractAtomIndexed):
        part.require_atoms(num_atoms)


def parts_of(tree: PyTree, kind: type[K]) -> list[K]:
    """What of a tree is of a class, the outermost of each branch."""
    wanted = lambda x: isinstance(x, kind)
    return list(filter(wanted, jax.tree.leaves(tree, is_leaf=wanted)))


def require_indices(owner: AbstractAtomIndexed, indices: Int[Array, "..."], num_atoms: int) -> None:
    """Refuses indices of atoms that there are not; traced ones are let through."""
    if is_concrete(indices):
        last = int(np.max(np.asarray(indices), initial=-1))
        if last >= num_atoms:
            raise ValueError(
                f"`{type(owner).__name__}` names atom {last}; wanted indices from 0 to {num_atoms - 1}, as there are"
                f" {num_atoms} atoms."
            )


def as_pairs(pairs: ArrayLike | None) -> Int[Array, "pairs 2"]:
    """Pairs of atoms, none by default."""
    return jnp.zeros((0, 2), int) if pairs is None or np.size(pairs) == 0 else as_array(pairs)


def steps_between(
    positions: Float[Array, "atoms 3"], atoms: Int[Array, "terms each"], box: AbstractBox
) -> tuple[Vector, ...]:
    """The nearest images of the steps (nm) from each atom of a term to the next, of all terms."""
    # components travel separately: the derivative of gathering rows of three is three times slower on a CPU. An atom
    # that does not exist is at NaN
    gather = lambda x, k: x.at[k].get(mode="fill", wrap_negative_indices=False)
    places = [[gather(positions[:, k], atoms[:, m]) for k in range(3)] for m in range(atoms.shape[1])]
    return tuple(
        box.nearest_image(*(b - a for a, b in zip(here, there, strict=True)))
        for here, there in itertools.pairwise(places)
    )


def entry(table: Float[Array, "..."], *index: Int[Array, "..."]) -> Float[Array, "..."]:
    """The entries of a table of parameters; NaN, and not another one's, where there are none."""
    return table.at[index].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def of_kind(parameter: Float[Array, "..."], kind: Int[Array, ""] | None) -> Float[Array, ""]:
    """The parameter of one kind of term."""
    return parameter if parameter.ndim == 0 or kind is None else entry(parameter, kind)


def terms(each: int) -> Any:
    """Index arrays of terms of so many atoms each."""
    return Rule(as_array, lambda name, x: require_terms(name, x, each))


def require_terms(name: str, atoms: Array, each: int) -> None:
    """Refuses index arrays of the wrong shape, negative indices, and terms that name an atom twice."""
    require_shape(name, atoms, (None, each), f"{each} atom indices per term.")
    require_whole(name, atoms, "the indices of atoms")
    if not is_concrete(atoms) or not atoms.size:
        return
    rows = np.asarray(atoms)
    if rows.min() < 0:
        raise ValueError(f"`{name}` names atom {rows.min()}; wanted indices from 0.")
    ordered = np.sort(rows, axis=1)
    twice = np.flatnonzero(np.any(ordered[:, 1:] == ordered[:, :-1], axis=1))
    if len(twice) > 0:
        raise ValueError(
            f"`{name}` has {rows[twice[0]].tolist()} at index {twice[0]}; wanted {each} different atoms in every term."
        )


def require_kinds(kinds: Int[Array, " terms"] | None, num_terms: int, *parameters: tuple[str, Array]) -> None:
    """Refuses parameters that are neither scalars nor one per kind, and kinds that have no parameters."""
    if not parameters:
        return
    lengths = {len(x) for _, x in parameters if x.ndim == 1}
    shapes = ", ".join(f"`{name}` {x.shape}" for name, x in parameters)
    if any(x.ndim > 1 for _, x in parameters) or len(lengths) > 1:
        raise ValueError(f"The parameters have shapes {shapes}; wanted scalars, or one number per kind of all.")
    if (kinds is None) != (not lengths):
        raise ValueError(
            f"The parameters have shapes {shapes} but `kinds` is {'missing' if kinds is None else 'given'}; wanted"
            " `kinds` (one index per term) exactly when there are parameters per kind. If every term has its own:"
            " `kinds=jnp.arange(len(stiffness))`."
        )
    if kinds is None:
        return
    require_shape("kinds", kinds, (num_terms,), "One per term.")
    if is_concrete(kinds) and kinds.size:
        low, high, num = int(np.min(np.asarray(kinds))), int(np.max(np.asarray(kinds))), max(lengths)
        if low < 0 or high >= num:
            raise ValueError(f"`kinds` has indices from {low} to {high}; wanted from 0 to {num - 1}.")


def dot(a: Vector, b: Vector) -> Float[Array, ""]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def length_of(a: Vector) -> Float[Array, ""]:
    """|a| (nm), which is never zero, but 10⁻¹⁰ nm: its derivatives, and those of a function of it, are finite there."""
    return jnp.sqrt(dot(a, a) + 1e-20)


def cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
