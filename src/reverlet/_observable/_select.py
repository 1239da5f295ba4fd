"""Which atoms count, and how much of them is in which bin."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._elements import atomic_number
from .._fields import Rule
from .._misc import is_concrete, require_instance
from .._state import State
from .._system import System

Species = str | tuple[int, ...]
"""The symbol of an element, or indices of atoms."""


def species_rule(length: int | None, example: str) -> Any:
    """A field of one kind of atoms, or of `length` kinds: each an element's symbol or indices of atoms."""

    def convert(x):
        if length is None:
            return _as_species(x)
        return tuple(_as_species(k) for k in x) if isinstance(x, list | tuple) else x

    def require(name, x):
        if length is None:
            _require_species(name, x)
            return
        require_instance(name, x, tuple)
        if len(x) != length:
            raise ValueError(
                f"`{name}` is {x}; wanted {length} kinds of atoms, each the symbol of an element or indices of atoms,"
                f" such as {example}."
            )
        for one in x:
            _require_species(name, one)

    return Rule(convert, require)


def _as_species(x):
    if isinstance(x, np.ndarray | jax.Array) and is_concrete(x) and np.issubdtype(x.dtype, np.integer) and x.ndim == 1:
        return tuple(int(k) for k in np.asarray(x))
    if isinstance(x, list | tuple) and all(isinstance(k, int | np.integer) for k in x):
        return tuple(int(k) for k in x)
    return x


def _require_species(name, x):
    if isinstance(x, str):
        atomic_number(x)
        return
    fine = isinstance(x, tuple) and len(x) > 0 and all(isinstance(k, int) and k >= 0 for k in x)
    if not fine:
        raise TypeError(f"`{name}` has {x!r}; wanted the symbol of an element, or indices of atoms from 0.")
    if len(set(x)) < len(x):
        raise ValueError(f"`{name}` has an atom more than once among {x[:10]}; wanted each once.")


def chosen(species: Species | None, system: System | None, like: Float[Array, "atoms 3"]) -> Float[Array, " atoms"]:
    """One for each atom that is of this kind, and zero for others; ones without a kind."""
    if species is None or system is None:
        return jnp.ones(len(like), like.dtype)
    if isinstance(species, str):
        return (system.topology.atomic_numbers == atomic_number(species)).astype(like.dtype)
    if max(species) >= len(like):
        raise ValueError(f"Atom {max(species)} is asked for; wanted indices from 0 to {len(like) - 1}.")
    return jnp.zeros(len(like), like.dtype).at[jnp.asarray(species)].set(1)


def counted(
    x: Float[Array, " values"], edges: Float[Array, " edges"], width: float | None, refusal: str
) -> Float[Array, "bins values"]:
    """Which part of each value is in each bin: of a Gaussian of this width around it, or all or nothing.

    **Arguments:** `refusal`, what is said to who asks for the derivative of the latter.
    """
    below = fraction_below(x, edges[:, None], width, refusal)
    return below[1:] - below[:-1]


def fraction_below(
    x: Float[Array, "..."], edge: Float[Array, "..."], width: float | None, refusal: str
) -> Float[Array, "..."]:
    """Which part of each value is below an edge, as for `counted`."""
    if width is None:
        return without_derivative((x < edge).astype(x.dtype), x, refusal)
    return 0.5 * (1 + jax.lax.erf((edge - x) / (math.sqrt(2) * width)))


def without_derivative(values: Float[Array, "..."], of: Float[Array, "..."], refusal: str) -> Float[Array, "..."]:
    """`values`, which jump where `of` changes: whoever differentiates by that gets a `ValueError` that says so."""

    @jax.custom_jvp
    def same(values, of):
        del of
        return values

    @same.defjvp
    def _(primals, tangents):
        raise ValueError(refusal)

    return same(jax.lax.stop_gradient(values), of)


Row = tuple[Float[Array, "near 3"], Float[Array, " near"], Float[Array, " near"], Int[Array, " near"]]


def neighborhoods(
    system: System, state: State, reach: float, second: Float[Array, " atoms"], most: int
) -> Callable[[Any], Row]:
    """A function from an atom to the `most` atoms nearest to it: displacements (nm), distances, what `second` has of
    them, zero where there is none, and which they are. Candidates are those of a list with a view per atom up to
    `reach`, or all."""
    x, box = state.positions, state.box.astype(state.positions.dtype)
    n = len(x)
    neighbors = system.find_neighbors(x, state.box)
    of_atom, one = None, jnp.ones((), x.dtype)
    if neighbors is not None and neighbors.of_atom is not None and neighbors.cutoff >= reach:
        of_atom = neighbors.of_atom
        one = jnp.where(jax.lax.stop_gradient(neighbors.usable(x, state.box)), one, jnp.nan)
    length = min(most, n if of_atom is None else of_atom.shape[1])
    fixed = jax.lax.stop_gradient((x, box))

    def row(i):
        j = jnp.arange(n) if of_atom is None else of_atom[i]
        weight = jnp.where(j != i, second.at[j].get(mode="fill", fill_value=0), 0)
        # which are nearest has no derivative, and only those are looked at again
        separation = fixed[0].at[j].get(mode="clip") - fixed[0][i]
        r2 = sum(d * d for d in fixed[1].minimum_image(*separation.T))
        shortest, order = jax.lax.top_k(-jnp.where(weight > 0, r2, jnp.inf), length)
        there = jnp.isfinite(shortest)
        near = jnp.where(there, j[order], 0)
        d = jnp.stack(box.minimum_image(*(x[near] - x[i]).T), axis=-1)
        # one nanometer away along x, where there is none
        d = jnp.where(there[:, None], d, jnp.array([1.0, 0.0, 0.0], x.dtype)) * one
        more = most - length
        d = jnp.concatenate([d, jnp.ones((more, 3), x.dtype)])
        weight = jnp.pad(jnp.where(there, weight[order], 0), (0, more))
        return d, jnp.sqrt(jnp.sum(d**2, axis=1)), weight, jnp.pad(near, (0, more))

    return row
