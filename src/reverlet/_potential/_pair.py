import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float, Int

from .._box import AbstractBox
from .._misc import cast_floats, require_positive, tree_dot
from .._neighbors import Neighbors
from ._base import AbstractPotential

_PairFunction = Callable[[Float[Array, ""]], Float[Array, ""]]


class AbstractTruncation(eqx.Module):
    """How a pair potential ends at its cutoff."""

    @abc.abstractmethod
    def truncate(self, u: _PairFunction, r2: Float[Array, ""], cutoff: float) -> Float[Array, ""]:
        """The truncated pair energy (kJ/mol) at a squared distance `r2` (nm²) below `cutoff` (nm) squared, from the
        pair energy `u` as a function of the squared distance."""

    @abc.abstractmethod
    def check(self, cutoff: float) -> None:
        """Refuses a cutoff that does not fit."""


class PlainCutoff(AbstractTruncation):
    """u(r) as it is, and nothing beyond the cutoff.

    Energy is not conserved when a pair crosses the cutoff, and finite differences of trajectories jump there;
    dynamics and its exact discrete gradients do not mind, since the force is what it is on both sides.
    """

    def truncate(self, u, r2, cutoff):
        del cutoff
        return u(r2)

    def check(self, cutoff):
        del cutoff


class ShiftedCutoff(AbstractTruncation):
    """u(r) - u(cutoff): continuous energy, the same forces as `PlainCutoff`."""

    def truncate(self, u, r2, cutoff):
        return u(r2) - u(jnp.full_like(r2, cutoff**2))

    def check(self, cutoff):
        del cutoff


class SmoothSwitch(AbstractTruncation):
    """u(r) S(r), where S falls from one at `onset` to zero at the cutoff.

    S = 1 - 10 t³ + 15 t⁴ - 6 t⁵ with t = (r - onset) / (cutoff - onset): twice continuously differentiable, so that
    energy is conserved, and finite differences of trajectories agree with gradients.

    **Arguments:** `onset`, nm.
    """

    onset: float = eqx.field(static=True)

    def truncate(self, u, r2, cutoff):
        # the maximum keeps the square root's derivative finite below the onset, where it is not used
        r = jnp.sqrt(jnp.maximum(r2, 0.25 * self.onset**2))
        t = jnp.clip((r - self.onset) / (cutoff - self.onset), 0, 1)
        return u(r2) * (1 - t**3 * (10 - t * (15 - 6 * t)))

    def check(self, cutoff):
        if not 0 < self.onset < cutoff:
            raise ValueError(f"`onset` is {self.onset} nm; wanted a distance between 0 and the cutoff, {cutoff} nm.")


class AbstractPairPotential(AbstractPotential):
    """A sum over all pairs of atoms nearer than a cutoff, U = Σ_{i<j} u(r_ij).

    A subclass gives `pair_energy`, the formula for one pair; periodic images, the cutoff, sums over pairs and fast
    derivatives are written here once. With s = r², d = r_i - r_j and e = w_i - w_j,

        ∂U/∂r_i = Σ_j 2u′(s) d           (H w)_i = Σ_j 2u′(s) e + 4u″(s) (d·e) d

    and both are evaluated in this closed form (u′ and u″ by automatic differentiation of the formula), which is several
    times faster than automatic differentiation of the sum, since the sum over j alone is enough by symmetry. All orders
    and modes of differentiation stay correct.
    """

    cutoff: AbstractVar[float]  # pyright: ignore[reportIncompatibleVariableOverride]
    truncation: AbstractVar[AbstractTruncation]

    @abc.abstractmethod
    def pair_energy(self, r2: Float[Array, ""], i: Int[Array, ""], j: Int[Array, ""]) -> Float[Array, ""]:
        """The energy (kJ/mol) of atoms `i` and `j` at a squared distance `r2` (nm²), before truncation. The same with
        `i` and `j` exchanged; finite for every 0 < r2 <= cutoff²."""

    def energy(self, positions, box, *, neighbors=None):
        dtype = positions.dtype
        energy = _energy(cast_floats(self, dtype), positions, box.astype(dtype), neighbors)
        return energy * _one_if_usable(self, positions, neighbors)


def heat_flow(
    potential: AbstractPairPotential,
    positions: Float[Array, "atoms 3"],
    velocities: Float[Array, "atoms 3"],
    box: AbstractBox,
    neighbors: Neighbors | None,
) -> tuple[Float[Array, " atoms"], Float[Array, "3"]]:
    """Every atom's half of its pair energies, kJ/mol, and what pairs carry, ½ Σ_{i<j} F_ij·(v_i + v_j) r_ij, in
    kJ/mol nm/ps. F_ij is the force on i, r_ij = r_i - r_j."""
    dtype = positions.dtype
    potential, box = cast_floats(potential, dtype), box.astype(dtype)

    def of_tile(tile):
        d, r2, counts = tile.geometry(potential, positions, box)
        u = tile.pair_function(potential)
        energies = 0.5 * _row_sum(jnp.where(counts, u(r2), 0))
        v = [a + b for a, b in zip(tile.rows(velocities), tile.columns(velocities), strict=True)]
        power = _first(u, r2, counts) * (d[0] * v[0] + d[1] * v[1] + d[2] * v[2])
        # a quarter, since every pair is met twice
        return energies, jnp.stack([-0.25 * jnp.sum(_row_sum(power * dk)) for dk in d])

    energies, flows = _per_tile(of_tile, len(positions), neighbors)
    energies = energies[0] if neighbors is None else energies.reshape(-1)[neighbors.slots]
    one = _one_if_usable(potential, positions, neighbors)
    return energies * one, jnp.sum(flows, axis=0) * one


def _one_if_usable(potential, positions, neighbors):
    """A factor, which all derivatives have too: one, or NaN where the list may miss pairs."""
    if neighbors is None:
        return jnp.ones((), positions.dtype)
    if neighbors.cutoff < potential.cutoff:
        raise ValueError(
            f"`neighbors` has the pairs up to {neighbors.cutoff} nm, but the cutoff is {potential.cutoff} nm; wanted a"
            " list with at least that."
        )
    usable = jax.lax.stop_gradient(neighbors.usable(positions))
    return jnp.where(usable, 1, jnp.nan).astype(positions.dtype)


def as_truncation(truncation: AbstractTruncation | None) -> AbstractTruncation:
    """The truncation, a plain cutoff by default."""
    return PlainCutoff() if truncation is None else truncation


def require_cutoff(cutoff: float, truncation: AbstractTruncation) -> None:
    """Refuses a cutoff that is not a positive number, or that the truncation cannot work with."""
    require_positive("cutoff", cutoff, "nm")
    truncation.check(cutoff)


class _Tile(NamedTuple):
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
        return 0.5 * jnp.sum(_row_sum(jnp.where(counts, energies, 0)))

    def gradient(self, potential, positions, box):
        d, r2, counts = self.geometry(potential, positions, box)
        first = _first(self.pair_function(potential), r2, counts)
        return jnp.stack([_row_sum(first * dk) for dk in d], axis=-1)

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
            return jnp.stack([_row_sum(second * d[k] + first * e[k]) for k in range(3)], axis=-1)
        # Σ_j first (w_i - w_j) as a matrix product, which reads `first` once; many small ones do not pay
        columns = jnp.stack([*self.columns(w), jnp.ones(len(self.j), w.dtype)], axis=-1)
        product = jnp.matmul(first, columns, precision=jax.lax.Precision.HIGHEST)
        return jnp.stack(
            [_row_sum(second * d[k]) + self.rows(w)[k][:, 0] * product[:, 3] - product[:, k] for k in range(3)], axis=-1
        )

    def directional(self, potential, positions, box, w):
        d, r2, counts = self.geometry(potential, positions, box)
        first = _first(self.pair_function(potential), r2, counts)
        e = self.differences(w)
        return 0.5 * jnp.sum(_row_sum(first * (d[0] * e[0] + d[1] * e[1] + d[2] * e[2])))


def _row_sum(x):
    # on a CPU a matrix-vector product is vectorized and a sum along a row is not
    return jnp.matmul(x, jnp.ones(x.shape[1], x.dtype), precision=jax.lax.Precision.HIGHEST)


def _first(u, r2, counts):
    """2u′ of every pair that counts."""
    slope = jax.jvp(u, (r2,), (jnp.ones_like(r2),))[1]
    return jnp.where(counts, 2 * slope, 0)


_PAIRS_AT_ONCE = 2**16
"""How many pairs of a list a CPU works on at once, so that what it works with stays in its cache."""


def _per_tile(function: Callable[[_Tile], Any], num_atoms: int, neighbors: Neighbors | None) -> Any:
    """What `function` makes of every tile, along a leading axis; of the one tile of all pairs without a list."""
    if neighbors is None:
        atoms = jnp.arange(num_atoms)
        return jax.tree.map(lambda x: x[None], function(_Tile(atoms, atoms, num_atoms, False)))
    rows, columns = neighbors.rows, neighbors.columns
    blocks = len(rows)
    at_once = max(1, _PAIRS_AT_ONCE // (rows.shape[1] * columns.shape[1])) if jax.default_backend() == "cpu" else blocks
    chunks = -(-blocks // at_once)
    at_once = -(-blocks // chunks)
    fill = ((0, chunks * at_once - blocks), (0, 0))
    split = lambda x: jnp.pad(x, fill, constant_values=num_atoms).reshape(chunks, at_once, -1)
    of_one = lambda i_and_j: function(_Tile(i_and_j[0], i_and_j[1], num_atoms, True))
    # checkpointed, since the derivative by AD of a parameter would keep every pair
    results = jax.lax.map(jax.checkpoint(jax.vmap(of_one)), (split(rows), split(columns)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:blocks], results)


def _by_atom(values: Float[Array, "tiles rows 3"], neighbors: Neighbors | None) -> Float[Array, "atoms 3"]:
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
                _per_tile(lambda tile: self._with(tile, self.others, values), len(positions), neighbors)
            )
            values, dots = ([leaves[k] for k in self.others] for leaves in (self.leaves, self.dots))
            out = out + jax.jvp(function, (values,), (dots,))[1]
        return out


# Two nested rules. The derivative of the energy along w is a function in its own right, whose own derivative is again
# in closed form: reverse-mode over it gives force, Hessian-vector product and mixed derivatives in a single sweep. A
# rule for the gradient alone could not be transposed without spelling out the (atoms, atoms) Jacobian blocks.


@eqx.filter_custom_jvp
def _energy(potential, positions, box, neighbors):
    return jnp.sum(_per_tile(lambda tile: tile.energy(potential, positions, box), len(positions), neighbors))


@_energy.def_jvp
def _energy_jvp(primals, tangents):
    potential, positions, box, neighbors = primals
    potential_dot, positions_dot, box_dot, _ = tangents
    parameters = _Parameters(lambda tile, p, b: tile.energy(p, positions, b), potential, box, (potential_dot, box_dot))
    slopes = _per_tile(parameters.slopes, len(positions), neighbors)
    out = parameters.tangent(slopes, positions, neighbors)
    if positions_dot is not None:
        out = out + _directional(potential, positions, box, neighbors, positions_dot)
    return _energy(potential, positions, box, neighbors), out


@eqx.filter_custom_jvp
def _directional(potential, positions, box, neighbors, w):
    """w·∂U/∂x."""
    # as a product with the gradient, so that transposing it with respect to `w` is the gradient, in closed form
    gradient = _per_tile(lambda tile: tile.gradient(potential, positions, box), len(positions), neighbors)
    return tree_dot(_by_atom(gradient, neighbors), w)


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

    product, slopes = _per_tile(sweep, len(positions), neighbors)
    out = parameters.tangent(slopes, positions, neighbors)
    if positions_dot is not None:
        out = out + tree_dot(_by_atom(product, neighbors), positions_dot)
    if w_dot is not None:
        out = out + _directional(potential, positions, box, neighbors, w_dot)
    return _directional(potential, positions, box, neighbors, w), out


class TailCorrected(AbstractPotential):
    """A pair potential and the mean energy of what its cutoff leaves out, if the liquid had no structure there.

    U_tail = (1/2V) Σ_{i≠j} ∫ (u - u_truncated) 4πr² dr, from the switch's onset (or the cutoff) to infinity. It acts on
    energy and pressure alone, never on forces. For a potential that falls faster than r⁻³; integrated by Gauss–Legendre
    quadrature in 1/r, which is exact for inverse powers.

    **Arguments:** `potential`, with a plain or a smoothly switched cutoff.

    **Errors:** `ValueError` for a shifted cutoff, whose shift acts at all distances and has no tail correction of
    this kind.

    **Reference:** M. P. Allen and D. J. Tildesley, Computer Simulation of Liquids, 2nd ed. (Oxford 2017), section 2.8;
    M. R. Shirts et al., J. Phys. Chem. B 111, 13052 (2007), for switched potentials.
    """

    potential: AbstractPairPotential

    def __check_init__(self):
        if isinstance(self.potential.truncation, ShiftedCutoff):
            raise ValueError(
                "`TailCorrected` got a potential with a `ShiftedCutoff`; wanted `PlainCutoff` or `SmoothSwitch`."
            )

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    def energy(self, positions, box, *, neighbors=None):
        dtype = positions.dtype
        potential, cutoff = cast_floats(self.potential, dtype), self.potential.cutoff
        truncation = potential.truncation
        onset = truncation.onset if isinstance(truncation, SmoothSwitch) else cutoff
        nodes, weights = (jnp.asarray(a, dtype) for a in np.polynomial.legendre.leggauss(24))

        def tail(i, j):
            u = lambda r: potential.pair_energy(r * r, i, j)

            def left_out(r):
                return u(r) - truncation.truncate(lambda s: potential.pair_energy(s, i, j), r * r, cutoff)

            r = onset + 0.5 * (nodes + 1) * (cutoff - onset)
            switched = 0.5 * (cutoff - onset) * jnp.sum(weights * r**2 * jax.vmap(left_out)(r))
            t = 0.5 * (nodes + 1)  # r = cutoff / t
            beyond = 0.5 * cutoff**3 * jnp.sum(weights * t**-4 * jax.vmap(u)(cutoff / t))
            return switched + beyond

        n = len(positions)
        atoms = jnp.arange(n)
        rows = jax.lax.map(lambda i: jnp.sum(jnp.where(atoms == i, 0, jax.vmap(lambda j: tail(i, j))(atoms))), atoms)
        return (
            potential.energy(positions, box, neighbors=neighbors)
            + 2 * jnp.pi * jnp.sum(rows) / box.astype(dtype).volume
        )
