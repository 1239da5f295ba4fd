"""Sums over pairs of atoms, tile by tile, and their derivatives in closed form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._box import reciprocal_vectors
from .._misc import tree_dot
from .._neighbors import Neighbors
from ._partners import AbstractSparing


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
        counts = (r2 < potential.cutoff**2) & (r2 > 0) & self._interact(potential)
        return d, jnp.where(counts, r2, potential.cutoff**2), counts

    def _interact(self, potential):
        """Which pairs are none of those that are left out."""
        interact = jnp.ones((), bool)
        for partners in potential.left_out if isinstance(potential, AbstractSparing) else ():
            of_rows = partners.at[self.i].get(mode="clip", wrap_negative_indices=False)
            for k in range(partners.shape[1]):
                interact = interact & (of_rows[:, k, None] != self.j)
        return interact

    def _far(self, dtype):
        far = lambda k: jnp.where(k == self.num_atoms, jnp.asarray(1e30, dtype), 0)
        return far(self.i)[:, None] + far(self.j)

    def pair_function(self, potential):
        """The truncated formula on squared distances of shape (rows, columns)."""

        def one(r2, i, j):
            u = lambda s: potential.pair_energy(s, i, j)
            return potential.truncation.truncate(u, r2, potential.cutoff)

        return lambda r2: jax.vmap(jax.vmap(one, (0, None, 0)), (0, 0, None))(r2, self.i, self.j)

    def sums(self, x, charges):
        """Σ_j x_ij, or where pairs have charges Σ_j x_ij q_j: what is half of a row's, but for its own charge."""
        return row_sum(x) if charges is None else _matvec(x, self._gathered(charges, self.j))

    def of_rows(self, sums, charges):
        """Sums of `sums` with the rows' own charges."""
        return sums if charges is None else self._gathered(charges, self.i) * sums

    def row_sum(self, x, charges):
        return self.of_rows(self.sums(x, charges), charges)

    def total(self, sums, charges):
        """Half the sum over all rows, since every pair is met twice."""
        return 0.5 * jnp.sum(self.of_rows(sums, charges))

    def energies(self, potential, charges, positions, box):
        """Twice every row's share of the energy, but for its own charge."""
        d = box.minimum_image(*self.differences(positions))
        r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        if self.padded:
            r2 = r2 + self._far(r2.dtype)
        # negated, so that a distance that is not a number counts, and the energy says so
        counts = ~(r2 >= potential.cutoff**2) & (self.i[:, None] != self.j) & self._interact(potential)
        energies = self.pair_function(potential)(jnp.where(counts, r2, potential.cutoff**2))
        return self.sums(jnp.where(counts, energies, 0), charges)

    def slopes(self, potential, charges, positions, box, strained):
        """The derivatives of the energy with respect to the rows' positions, and to a strain if that is asked for."""
        d, r2, counts = self.geometry(potential, positions, box)
        first = first_slope(self.pair_function(potential), r2, counts)
        if strained:
            first = _stored(first, r2)
        along = [first * dk for dk in d]
        gradient = jnp.stack([self.row_sum(x, charges) for x in along], axis=-1)
        return gradient, self.symmetric_virial(along, d, charges) if strained else None

    def directional(self, potential, charges, positions, box, w, strain):
        """Twice every row's share, but for its own charge, of the derivative along a motion `w` of the atoms and a
        `strain`."""
        d, r2, counts = self.geometry(potential, positions, box)
        first = first_slope(self.pair_function(potential), r2, counts)
        e = self.motion(d, w, strain)
        return self.sums(first * (d[0] * e[0] + d[1] * e[1] + d[2] * e[2]), charges)

    def motion(self, d, w, strain):
        """How displacements move."""
        e = self.differences(w)
        return e if strain is None else [a + b for a, b in zip(e, _times(d, strain), strict=True)]

    def second_slopes(self, potential, charges, positions, box, w, strain, strained):
        """The derivatives of what `directional` has shares of, as for `slopes`."""
        d, r2, counts = self.geometry(potential, positions, box)
        u = self.pair_function(potential)
        ones = jnp.ones_like(r2)
        slope, curvature = jax.jvp(lambda s: jax.jvp(u, (s,), (ones,))[1], (r2,), (ones,))
        first = jnp.where(counts, 2 * slope, 0)
        e = self.motion(d, w, strain)
        second = jnp.where(counts, 4 * curvature, 0) * (d[0] * e[0] + d[1] * e[1] + d[2] * e[2])
        second = _stored(second, r2)
        if strain is not None:
            e = [a + b for a, b in zip(e, _times(d, strain.T), strict=True)]
        if self.padded or strained or strain is not None:
            each = [second * d[k] + first * e[k] for k in range(3)]
            gradient = jnp.stack([self.row_sum(x, charges) for x in each], axis=-1)
            return gradient, self.virial(each, d, charges) if strained else None
        # Σ_j first (w_i - w_j) as a matrix product, which reads `first` once; many small ones do not pay
        columns = jnp.stack([*self.columns(w), jnp.ones(len(self.j), w.dtype)], axis=-1)
        columns = columns if charges is None else charges[:, None] * columns
        product = jnp.matmul(first, columns, precision=jax.lax.Precision.HIGHEST)
        each = [
            self.sums(second * d[k], charges) + self.rows(w)[k][:, 0] * product[:, 3] - product[:, k] for k in range(3)
        ]
        return jnp.stack([self.of_rows(x, charges) for x in each], axis=-1), None

    def virial(self, forces, d, charges):
        """½ Σ d_k f_l over all pairs of the tile."""
        total = lambda dk, f: 0.5 * jnp.sum(self.row_sum(dk * f, charges))
        return jnp.stack([jnp.stack([total(dk, f) for f in forces]) for dk in d])

    def symmetric_virial(self, forces, d, charges):
        """The same of forces along the displacements."""
        # of all ways to sum over both axes at once, the row sums are the fastest on a CPU
        total = lambda k, l: 0.5 * jnp.sum(self.row_sum(d[k] * forces[l], charges))
        upper = {(k, l): total(k, l) for k in range(3) for l in range(k, 3)}
        return jnp.stack([jnp.stack([upper[min(k, l), max(k, l)] for l in range(3)]) for k in range(3)])


def _stored(x, r2):
    """`x`: a quotient is what XLA stores for several readers; what is cheaper it computes again for each."""
    return x * r2 / r2


def _times(d, matrix):
    """d @ matrix, by components."""
    return [d[0] * matrix[0, k] + d[1] * matrix[1, k] + d[2] * matrix[2, k] for k in range(3)]


def row_sum(x):
    # on a CPU a matrix-vector product is vectorized and a sum along a row is not
    return _matvec(x, jnp.ones(x.shape[1], x.dtype))


def _matvec(x, vector):
    return jnp.matmul(x, vector, precision=jax.lax.Precision.HIGHEST)


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


def by_atom(values: Float[Array, "tiles rows *each"], neighbors: Neighbors | None) -> Float[Array, "atoms *each"]:
    """The rows of all tiles, in the order of the atoms."""
    return values[0] if neighbors is None else values.reshape(-1, *values.shape[2:])[neighbors.slots]


class _Parameters:
    """How the sum of a method (tile, potential) moves along the tangents of those leaves that have one.

    The derivative with respect to a few scalars is computed outright, one forward pass each in the same sweep over the
    pairs, and multiplied by their tangents: the transpose of a sum over pairs with respect to a scalar would spread
    the scalar over all pairs first. What is left goes by automatic differentiation of the sum.
    """

    few = 8

    def __init__(self, method, potential, tangents):
        self.method = method
        self.leaves, self.treedef = jax.tree.flatten(potential)
        self.dots = self.treedef.flatten_up_to(tangents)
        moving = [k for k, dot in enumerate(self.dots) if dot is not None]
        scalars = [k for k in moving if self.leaves[k].ndim == 0]
        self.scalars = scalars if len(scalars) <= self.few else []
        self.others = [k for k in moving if k not in self.scalars]

    def _with(self, tile, which, values):
        full = list(self.leaves)
        for k, value in zip(which, values, strict=True):
            full[k] = value
        return self.method(tile, jax.tree.unflatten(self.treedef, full))

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
                per_tile(lambda tile: self._with(tile, self.others, values), positions.shape[0], neighbors)
            )
            values, dots = ([leaves[k] for k in self.others] for leaves in (self.leaves, self.dots))
            out = out + jax.jvp(function, (values,), (dots,))[1]
        return out


# Two nested rules. The derivative of the energy along a motion w of the atoms and a strain ε of the box is a function
# in its own right, whose own derivative is again in closed form: reverse-mode over it gives force, virial,
# Hessian-vector product and mixed derivatives in a single sweep. A rule for the gradient alone could not be transposed
# without spelling out the (atoms, atoms) Jacobian blocks.
#
# A displacement d = x_i - x_j - n·V, with n whole numbers and V the lattice vectors, moves by
# e = w_i - w_j + d·ε, where ε = V⁻¹ dV and w = dx - x·ε is how atoms move relative to the box. Then
#
#     dU = Σ 2u′ d·e,    d(dU) = Σ e₂·h  with  h = 2u′ (e + ε·d) + 4u″ (d·e) d,
#
# if the displacements move by e₂; for ε = 0 these are force and Hessian-vector product.


@eqx.filter_custom_jvp
def pair_sum(potential, charges, positions, box, neighbors):
    """The energy of all pairs of atoms, Σ_{i<j} u_ij, or Σ_{i<j} q_i q_j u_ij where there are charges.

    Charges are no parameters of the formula for their derivative's sake: with Σ_j q_j u_ij, which is half of the
    energy of a row, the derivative with respect to its charge is known too.
    """
    sums = per_tile(
        lambda tile: tile.total(tile.energies(potential, charges, positions, box), charges),
        positions.shape[0],
        neighbors,
    )
    return jnp.sum(sums)


@pair_sum.def_jvp
def _pair_sum_jvp(primals, tangents):
    potential, charges, positions, box, neighbors = primals
    potential_dot, charges_dot, positions_dot, box_dot, _ = tangents
    of_energy = lambda tile, p: tile.total(tile.energies(p, charges, positions, box), charges)
    parameters = _Parameters(of_energy, potential, potential_dot)

    def sweep(tile):
        shares = None if charges_dot is None else tile.energies(potential, charges, positions, box)
        return shares, parameters.slopes(tile)

    shares, slopes = per_tile(sweep, positions.shape[0], neighbors)
    out = parameters.tangent(slopes, positions, neighbors)
    if charges_dot is not None:
        out = out + jnp.sum(by_atom(shares, neighbors) * charges_dot)
    w, strain = _relative(positions, box, positions_dot, box_dot)
    if w is not None:
        out = out + _directional(potential, charges, positions, box, neighbors, w, strain)
    return pair_sum(potential, charges, positions, box, neighbors), out


def _relative(positions, box, positions_dot, box_dot):
    """How atoms move relative to the box, and how that is strained; `None` for what does not move."""
    if not jax.tree.leaves(box_dot):
        return positions_dot, None
    vectors_dot = eqx.filter_jvp(lambda box: box.vectors, (box,), (box_dot,))[1]
    strain = jnp.matmul(reciprocal_vectors(box).T, vectors_dot, precision=jax.lax.Precision.HIGHEST)
    flow = -jnp.matmul(positions, strain, precision=jax.lax.Precision.HIGHEST)
    return flow if positions_dot is None else positions_dot + flow, strain


@eqx.filter_custom_jvp
def _directional(potential, charges, positions, box, neighbors, w, strain):
    """The derivative of the energy along `w` and `strain`, which may be `None`."""
    # as products with the derivatives, so that transposing with respect to `w` and `strain` is these, in closed form
    sweep = lambda tile: tile.slopes(potential, charges, positions, box, strain is not None)
    return _product(per_tile(sweep, positions.shape[0], neighbors), neighbors, w, strain)


def _product(slopes, neighbors, w, strain):
    """The product of what `slopes` made of all tiles with a motion of the atoms and a strain."""
    gradient, virial = slopes
    out = tree_dot(by_atom(gradient, neighbors), w)
    return out if strain is None else out + tree_dot(jnp.sum(virial, axis=0), strain)


@_directional.def_jvp
def _directional_jvp(primals, tangents):
    potential, charges, positions, box, neighbors, w, strain = primals
    potential_dot, charges_dot, positions_dot, box_dot, _, w_dot, strain_dot = tangents
    shares_of = lambda tile, p: tile.directional(p, charges, positions, box, w, strain)
    parameters = _Parameters(lambda tile, p: tile.total(shares_of(tile, p), charges), potential, potential_dot)
    motion, moved = _relative(positions, box, positions_dot, box_dot)
    along = w_dot is not None or strain_dot is not None
    # force and pullback in one sweep over a list; of all pairs at once the compiler shares what the two have in common
    together = along and motion is not None and neighbors is not None

    def sweep(tile):
        first = tile.slopes(potential, charges, positions, box, strain_dot is not None) if together else None
        shares = None if charges_dot is None else shares_of(tile, potential)
        if motion is None:
            return first, None, shares, parameters.slopes(tile)
        second = tile.second_slopes(potential, charges, positions, box, w, strain, moved is not None)
        return first, second, shares, parameters.slopes(tile)

    first, second, shares, slopes = per_tile(sweep, positions.shape[0], neighbors)
    out = parameters.tangent(slopes, positions, neighbors)
    if charges_dot is not None:
        out = out + jnp.sum(by_atom(shares, neighbors) * charges_dot)
    if motion is not None:
        out = out + _product(second, neighbors, motion, moved)
    if along:
        w_dot = jnp.zeros_like(w) if w_dot is None else w_dot
        if together:
            out = out + _product(first, neighbors, w_dot, strain_dot)
        else:
            out = out + _directional(potential, charges, positions, box, neighbors, w_dot, strain_dot)
    return _directional(potential, charges, positions, box, neighbors, w, strain), out
