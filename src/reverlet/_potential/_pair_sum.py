"""Sums over pairs of atoms, tile by tile, and their derivatives in closed form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._misc import tree_dot
from .._neighbors import Neighbors


def one_if_usable(potential, positions, box, neighbors):
    """A factor, which all derivatives have too: one, or NaN where the list may miss pairs."""
    if neighbors is None:
        return jnp.ones((), positions.dtype)
    if neighbors.cutoff < potential.cutoff:
        raise ValueError(
            f"`neighbors` has the pairs up to {neighbors.cutoff} nm, but the cutoff is {potential.cutoff} nm; wanted a"
            " list with at least that."
        )
    usable = jax.lax.stop_gradient(neighbors.usable(positions, box))
    return jnp.where(usable, 1, jnp.nan).astype(positions.dtype)


class Tile(NamedTuple):
    """Some atoms, the rows, and those they may interact with, the columns: their indices and arrays gathered for them.

    An index that is no atom's pads a row or a column.
    """

    i: Int[Array, " rows"]
    j: Int[Array, " columns"]
    num_atoms: int
    padded: bool

    def rows(self, values: Float[Array, "atoms 3"]) -> list[Float[Array, "rows 1"]]:
        return [self._gathered(values[:, k], self.i)[:, None] for k in range(3)]

    def columns(self, values: Float[Array, "atoms 3"]) -> list[Float[Array, " columns"]]:
        return [self._gathered(values[:, k], self.j) for k in range(3)]

    def _gathered(self, values, indices):
        if not self.padded:  # all atoms, in order
            return values
        return values.at[indices].get(mode="clip", wrap_negative_indices=False)

    def differences(self, values: Float[Array, "atoms 3"]) -> list[Float[Array, "rows columns"]]:
        # components travel separately: an array of (pairs, 3) is several times slower
        return [a - b for a, b in zip(self.rows(values), self.columns(values), strict=True)]

    def geometry(self, potential, positions, box):
        """Displacements; squared distances, harmless where a pair does not count; and which pairs count.

        For derivatives. An atom does not count as its own neighbor since its distance is zero; a comparison of indices
        would be one more array to read, and keep the compiler from sharing these between the force and its pullback.
        Different atoms at the very same place are the business of the energy, which is not finite then.
        """
        d = box.minimum_image(*self.differences(positions))
        r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        if self.padded:
            r2 = r2 + self._far(r2.dtype)
        counts = (r2 < potential.cutoff**2) & (r2 > 0)
        return d, jnp.where(counts, r2, potential.cutoff**2), counts

    def _far(self, dtype):
        far = lambda k: jnp.where(k == self.num_atoms, jnp.asarray(1e30, dtype), 0)
        return far(self.i)[:, None] + far(self.j)

    def pair_function(self, potential):
        """The truncated formula on squared distances of shape (rows, columns)."""

        def one(r2, i, j):
            u = lambda s: potential.pair_energy(s, i, j)
            return potential.truncation.truncate(u, r2, potential.cutoff)

        return lambda r2: jax.vmap(jax.vmap(one, (0, None, 0)), (0, 0, None))(r2, self.i, self.j)

    def energy(self, potential, positions, box):
        d = box.minimum_image(*self.differences(positions))
        r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        if self.padded:
            r2 = r2 + self._far(r2.dtype)
        # negated, so that a distance that is not a number counts, and the energy says so
        counts = ~(r2 >= potential.cutoff**2) & (self.i[:, None] != self.j)
        energies = self.pair_function(potential)(jnp.where(counts, r2, potential.cutoff**2))
        return 0.5 * jnp.sum(row_sum(jnp.where(counts, energies, 0)))

    def gradient(self, potential, positions, box):
        d, r2, counts = self.geometry(potential, positions, box)
        first = first_slope(self.pair_function(potential), r2, counts)
        return jnp.stack([row_sum(first * dk) for dk in d], axis=-1)

    def hessian_vector(self, potential, positions, box, w):
        d, r2, counts = self.geometry(potential, positions, box)
        u = self.pair_function(potential)
        ones = jnp.ones_like(r2)
        slope, curvature = jax.jvp(lambda s: jax.jvp(u, (s,), (ones,))[1], (r2,), (ones,))
        first = jnp.where(counts, 2 * slope, 0)
        e = self.differences(w)
        second = jnp.where(counts, 4 * curvature, 0) * (d[0] * e[0] + d[1] * e[1] + d[2] * e[2])
        # a quotient is what XLA stores for its three readers below; what is cheaper it computes three times
        second = second * r2 / r2
        if self.padded:
            return jnp.stack([row_sum(second * d[k] + first * e[k]) for k in range(3)], axis=-1)
        # Σ_j first (w_i - w_j) as a matrix product, which reads `first` once; many small ones do not pay
        columns = jnp.stack([*self.columns(w), jnp.ones(len(self.j), w.dtype)], axis=-1)
        product = jnp.matmul(first, columns, precision=jax.lax.Precision.HIGHEST)
        return jnp.stack(
            [row_sum(second * d[k]) + self.rows(w)[k][:, 0] * product[:, 3] - product[:, k] for k in range(3)], axis=-1
        )

    def directional(self, potential, positions, box, w):
        d, r2, counts = self.geometry(potential, positions, box)
        first = first_slope(self.pair_function(potential), r2, counts)
        e = self.differences(w)
        return 0.5 * jnp.sum(row_sum(first * (d[0] * e[0] + d[1] * e[1] + d[2] * e[2])))


def row_sum(x):
    # on a CPU a matrix-vector product is vectorized and a sum along a row is not
    return jnp.matmul(x, jnp.ones(x.shape[1], x.dtype), precision=jax.lax.Precision.HIGHEST)


def first_slope(u, r2, counts):
    """2u′ of every pair that counts."""
    slope = jax.jvp(u, (r2,), (jnp.ones_like(r2),))[1]
    return jnp.where(counts, 2 * slope, 0)


_PAIRS_AT_ONCE = 2**16
"""How many pairs of a list a CPU works on at once, so that what it works with stays in its cache."""


def per_tile(function: Callable[[Tile], Any], num_atoms: int, neighbors: Neighbors | None) -> Any:
    """What `function` makes of every tile, along a leading axis; of the one tile of all pairs without a list."""
    if neighbors is None:
        atoms = jnp.arange(num_atoms)
        return jax.tree.map(lambda x: x[None], function(Tile(atoms, atoms, num_atoms, False)))
    rows, columns = neighbors.rows, neighbors.columns
    blocks = len(rows)
    at_once = max(1, _PAIRS_AT_ONCE // (rows.shape[1] * columns.shape[1])) if jax.default_backend() == "cpu" else blocks
    chunks = -(-blocks // at_once)
    at_once = -(-blocks // chunks)
    fill = ((0, chunks * at_once - blocks), (0, 0))
    split = lambda x: jnp.pad(x, fill, constant_values=num_atoms).reshape(chunks, at_once, -1)
    of_one = lambda i_and_j: function(Tile(i_and_j[0], i_and_j[1], num_atoms, True))
    # checkpointed, since the derivative by AD of a parameter would keep every pair
    results = jax.lax.map(jax.checkpoint(jax.vmap(of_one)), (split(rows), split(columns)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:blocks], results)


def by_atom(values: Float[Array, "tiles rows 3"], neighbors: Neighbors | None) -> Float[Array, "atoms 3"]:
    """The rows of all tiles, in the order of the atoms."""
    return values[0] if neighbors is None else values.reshape(-1, 3)[neighbors.slots]


class _Parameters:
    """How the sum of a method (tile, potential, box) moves along the tangents of those leaves that have one.

    The derivative with respect to a few scalars is computed outright, one forward pass each in the same sweep over the
    pairs, and multiplied by their tangents: the transpose of a sum over pairs with respect to a scalar would spread
    the scalar over all pairs first. What is left goes by automatic differentiation of the sum.
    """

    few = 8

    def __init__(self, method, potential, box, tangents):
        self.method = method
        self.leaves, self.treedef = jax.tree.flatten((potential, box))
        self.dots = self.treedef.flatten_up_to(tangents)
        moving = [k for k, dot in enumerate(self.dots) if dot is not None]
        scalars = [k for k in moving if self.leaves[k].ndim == 0]
        self.scalars = scalars if len(scalars) <= self.few else []
        self.others = [k for k in moving if k not in self.scalars]

    def _with(self, tile, which, values):
        full = list(self.leaves)
        for k, value in zip(which, values, strict=True):
            full[k] = value
        return self.method(tile, *jax.tree.unflatten(self.treedef, full))

    def slopes(self, tile):
        """The derivatives of the method with respect to the scalars."""
        one = lambda k: jnp.ones_like(self.leaves[k])
        return [
            jax.jvp(lambda value, k=k: self._with(tile, [k], [value]), (self.leaves[k],), (one(k),))[1]
            for k in self.scalars
        ]

    def tangent(self, slopes, positions, neighbors):
        """Along all tangents, from the slopes of every tile."""
        out = jnp.zeros((), positions.dtype)
        for k, slope in zip(self.scalars, slopes, strict=True):
            out = out + self.dots[k] * jnp.sum(slope)
        if self.others:
            function = lambda values: jnp.sum(
                per_tile(lambda tile: self._with(tile, self.others, values), len(positions), neighbors)
            )
            values, dots = ([leaves[k] for k in self.others] for leaves in (self.leaves, self.dots))
            out = out + jax.jvp(function, (values,), (dots,))[1]
        return out


# Two nested rules. The derivative of the energy along w is a function in its own right, whose own derivative is again
# in closed form: reverse-mode over it gives force, Hessian-vector product and mixed derivatives in a single sweep. A
# rule for the gradient alone could not be transposed without spelling out the (atoms, atoms) Jacobian blocks.


@eqx.filter_custom_jvp
def pair_sum(potential, positions, box, neighbors):
    return jnp.sum(per_tile(lambda tile: tile.energy(potential, positions, box), len(positions), neighbors))


@pair_sum.def_jvp
def _pair_sum_jvp(primals, tangents):
    potential, positions, box, neighbors = primals
    potential_dot, positions_dot, box_dot, _ = tangents
    parameters = _Parameters(lambda tile, p, b: tile.energy(p, positions, b), potential, box, (potential_dot, box_dot))
    slopes = per_tile(parameters.slopes, len(positions), neighbors)
    out = parameters.tangent(slopes, positions, neighbors)
    if positions_dot is not None:
        out = out + _directional(potential, positions, box, neighbors, positions_dot)
    return pair_sum(potential, positions, box, neighbors), out


@eqx.filter_custom_jvp
def _directional(potential, positions, box, neighbors, w):
    """w·∂U/∂x."""
    # as a product with the gradient, so that transposing it with respect to `w` is the gradient, in closed form
    gradient = per_tile(lambda tile: tile.gradient(potential, positions, box), len(positions), neighbors)
    return tree_dot(by_atom(gradient, neighbors), w)


@_directional.def_jvp
def _directional_jvp(primals, tangents):
    potential, positions, box, neighbors, w = primals
    potential_dot, positions_dot, box_dot, _, w_dot = tangents
    parameters = _Parameters(
        lambda tile, p, b: tile.directional(p, positions, b, w), potential, box, (potential_dot, box_dot)
    )

    def sweep(tile):
        product = None if positions_dot is None else tile.hessian_vector(potential, positions, box, w)
        return product, parameters.slopes(tile)

    product, slopes = per_tile(sweep, len(positions), neighbors)
    out = parameters.tangent(slopes, positions, neighbors)
    if positions_dot is not None:
        out = out + tree_dot(by_atom(product, neighbors), positions_dot)
    if w_dot is not None:
        out = out + _directional(potential, positions, box, neighbors, w_dot)
    return _directional(potential, positions, box, neighbors, w), out
