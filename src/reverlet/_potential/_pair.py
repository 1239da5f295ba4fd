import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, ArrayLike, Float, Int

from .._misc import as_float_array, cast_floats, is_concrete, require_positive, tree_dot
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

    def energy(self, positions, box):
        dtype = positions.dtype
        return _energy(cast_floats(self, dtype), positions, box.astype(dtype))


def require_cutoff(cutoff: float, truncation: AbstractTruncation) -> None:
    """Refuses a cutoff that is not a positive number, or that the truncation cannot work with."""
    require_positive("cutoff", cutoff, "nm")
    truncation.check(cutoff)


def _separations(positions, box):
    x, y, z = positions[:, 0], positions[:, 1], positions[:, 2]
    return box.minimum_image(x[:, None] - x, y[:, None] - y, z[:, None] - z)


def _pair_function(potential, n, *, spread=False):
    """The truncated formula on (n, n) squared distances.

    With `spread`, every scalar parameter is spread over the pairs by an outer product, so that the sum over pairs in
    its derivative becomes a matrix-vector product: a plain reduction to a scalar takes longer than the forces.
    """
    i = jnp.arange(n)
    is_scalar = lambda x: eqx.is_inexact_array(x) and x.ndim == 0
    scalars, rest = eqx.partition(potential, is_scalar if spread else False)
    over_pairs = lambda p: jnp.matmul(
        jnp.broadcast_to(p, (n, 1)), jnp.ones((1, n), p.dtype), precision=jax.lax.Precision.HIGHEST
    )

    def one(r2, i, j, scalars):
        full = eqx.combine(scalars, rest)
        u = lambda s: full.pair_energy(s, i, j)
        return full.truncation.truncate(u, r2, full.cutoff)

    spread_scalars = jax.tree.map(over_pairs, scalars)
    return lambda r2: jax.vmap(jax.vmap(one, (0, None, 0, 0)), (0, 0, None, 0))(r2, i, i, spread_scalars)


def _squared_distances(potential, d):
    """Squared distances, made harmless where a pair does not count, and which pairs count: those within the cutoff.

    For derivatives. An atom does not count as its own neighbor since its distance is zero; a mask of the diagonal
    would be one more array to read, and keep the compiler from sharing these between the force and its pullback.
    Different atoms at the very same place are the business of the energy, which is not finite then.
    """
    r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    counts = (r2 < potential.cutoff**2) & (r2 > 0)
    return jnp.where(counts, r2, potential.cutoff**2), counts


def _row_sum(x):
    # on a CPU a matrix-vector product is vectorized and a sum along a row is not
    return jnp.matmul(x, jnp.ones(x.shape[1], x.dtype), precision=jax.lax.Precision.HIGHEST)


def _plain_energy(potential, positions, box):
    n = len(positions)
    d = _separations(positions, box)
    r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    # negated, so that a distance that is not a number counts, and the energy says so
    counts = ~(r2 >= potential.cutoff**2) & ~jnp.eye(n, dtype=bool)
    energies = _pair_function(potential, n, spread=True)(jnp.where(counts, r2, potential.cutoff**2))
    return 0.5 * jnp.sum(_row_sum(jnp.where(counts, energies, 0)))


def _first(u, r2, counts):
    """2u′ of every pair that counts."""
    slope = jax.jvp(u, (r2,), (jnp.ones_like(r2),))[1]
    return jnp.where(counts, 2 * slope, 0)


def _gradient(potential, positions, box):
    d = _separations(positions, box)
    r2, counts = _squared_distances(potential, d)
    first = _first(_pair_function(potential, len(positions)), r2, counts)
    return jnp.stack([_row_sum(first * dk) for dk in d], axis=1)


def _hessian_vector(potential, positions, box, w):
    d = _separations(positions, box)
    r2, counts = _squared_distances(potential, d)
    u = _pair_function(potential, len(positions))
    ones = jnp.ones_like(r2)
    slope, curvature = jax.jvp(lambda s: jax.jvp(u, (s,), (ones,))[1], (r2,), (ones,))
    first = jnp.where(counts, 2 * slope, 0)
    e = [w[:, k][:, None] - w[:, k] for k in range(3)]
    second = jnp.where(counts, 4 * curvature, 0) * (d[0] * e[0] + d[1] * e[1] + d[2] * e[2])
    return jnp.stack([_row_sum(second * dk + first * ek) for dk, ek in zip(d, e, strict=True)], axis=1)


def _plain_directional(potential, positions, box, w):
    d = _separations(positions, box)
    r2, counts = _squared_distances(potential, d)
    first = _first(_pair_function(potential, len(positions), spread=True), r2, counts)
    e = [w[:, k][:, None] - w[:, k] for k in range(3)]
    return 0.5 * jnp.sum(_row_sum(first * (d[0] * e[0] + d[1] * e[1] + d[2] * e[2])))


def _parameter_tangent(function, potential, box, tangents):
    """How a function of (potential, box) moves along the tangents of those leaves that have one; `None` means none."""
    leaves, treedef = jax.tree.flatten((potential, box))
    dots = treedef.flatten_up_to(tangents)
    moving = [k for k, dot in enumerate(dots) if dot is not None]

    def along(values):
        full = list(leaves)
        for k, value in zip(moving, values, strict=True):
            full[k] = value
        return function(*jax.tree.unflatten(treedef, full))

    if not moving:
        return 0.0
    return jax.jvp(along, ([leaves[k] for k in moving],), ([dots[k] for k in moving],))[1]


# Two nested rules. The derivative of the energy along w is a function in its own right, whose own derivative is again
# in closed form: reverse-mode over it gives force, Hessian-vector product and mixed derivatives in a single sweep. A
# rule for the gradient alone could not be transposed without spelling out the (atoms, atoms) Jacobian blocks.


@eqx.filter_custom_jvp
def _energy(potential, positions, box):
    return _plain_energy(potential, positions, box)


@_energy.def_jvp
def _energy_jvp(primals, tangents):
    potential, positions, box = primals
    potential_dot, positions_dot, box_dot = tangents
    out = _parameter_tangent(lambda p, b: _plain_energy(p, positions, b), potential, box, (potential_dot, box_dot))
    if positions_dot is not None:
        out = out + _directional(potential, positions, box, positions_dot)
    return _energy(potential, positions, box), out


@eqx.filter_custom_jvp
def _directional(potential, positions, box, w):
    """w·∂U/∂x."""
    # as a product with the gradient, so that transposing it with respect to `w` is the gradient, in closed form
    return tree_dot(_gradient(potential, positions, box), w)


@_directional.def_jvp
def _directional_jvp(primals, tangents):
    potential, positions, box, w = primals
    potential_dot, positions_dot, box_dot, w_dot = tangents
    function = lambda p, b: _plain_directional(p, positions, b, w)
    out = _parameter_tangent(function, potential, box, (potential_dot, box_dot))
    if positions_dot is not None:
        out = out + tree_dot(_hessian_vector(potential, positions, box, w), positions_dot)
    if w_dot is not None:
        out = out + _directional(potential, positions, box, w_dot)
    return _directional(potential, positions, box, w), out


@jax.custom_jvp
def _inverse(x):
    """1/x, whose derivatives of all orders are products: division's own rule divides again, which is slow."""
    return 1 / x


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    y = _inverse(primals[0])
    return y, -y * y * tangents[0]


class LennardJones(AbstractPairPotential):
    """The 12-6 Lennard-Jones potential, u(r) = 4ε[(σ/r)¹² - (σ/r)⁶].

    One species: scalars `sigma` and `epsilon`. Several: one of each per species, combined by the Lorentz–Berthelot
    rules σ_ij = (σ_i + σ_j)/2, ε_ij = √(ε_i ε_j); or symmetric matrices (species, species) of explicit pair
    parameters. Then `species` has the index of every atom's.

    The default is a plain cutoff without a tail correction; see `truncation` and `TailCorrected`.

    **Arguments:** `sigma` (nm), `epsilon` (kJ/mol), `cutoff` (nm).

    **Errors:** `ValueError` for parameters that are not positive, shapes that do not fit, an asymmetric matrix, a
    cutoff that is not positive or below the switch's onset.

    **Reference:** J. E. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931); D. Berthelot, C. R. Acad. Sci. 126, 1703
    (1898).
    """

    sigma: Float[Array, "*species"]
    epsilon: Float[Array, "*species"]
    cutoff: float = eqx.field(static=True)
    species: Int[Array, " atoms"] | None
    truncation: AbstractTruncation

    def __init__(
        self,
        sigma: ArrayLike,
        epsilon: ArrayLike,
        *,
        cutoff: float,
        species: ArrayLike | None = None,
        truncation: AbstractTruncation | None = None,
    ):
        self.sigma = as_float_array(sigma)
        self.epsilon = as_float_array(epsilon)
        self.cutoff = float(cutoff)
        self.species = None if species is None else jnp.asarray(species)
        self.truncation = PlainCutoff() if truncation is None else truncation

    def __check_init__(self):
        require_positive("sigma", self.sigma, "nm")
        require_positive("epsilon", self.epsilon, "kJ/mol")
        require_cutoff(self.cutoff, self.truncation)
        shape = self.sigma.shape
        if shape != self.epsilon.shape or len(shape) > 2 or (len(shape) == 2 and shape[0] != shape[1]):
            raise ValueError(
                f"`sigma` has shape {shape} and `epsilon` {self.epsilon.shape}; wanted both scalar, both (species,),"
                f" or both"
                " (species, species)."
            )
        if (len(shape) > 0) != (self.species is not None):
            raise ValueError(
                f"`sigma` has shape {shape} but `species` is {'missing' if self.species is None else 'given'}; wanted"
                " `species` (one index per atom) exactly when there are parameters per species."
            )
        if self.species is not None and is_concrete((self.species, self.sigma, self.epsilon)):
            species, num = np.asarray(self.species), len(np.asarray(self.sigma))
            if species.ndim != 1 or species.dtype.kind != "i" or species.min() < 0 or species.max() >= num:
                raise ValueError(f"`species` is {species}; wanted one integer from 0 to {num - 1} for every atom.")
            for name, matrix in (("sigma", np.asarray(self.sigma)), ("epsilon", np.asarray(self.epsilon))):
                if not np.array_equal(matrix, matrix.T):
                    raise ValueError(f"`{name}` is\n{matrix}\nwanted a symmetric matrix: a pair has no order.")

    def pair_energy(self, r2, i, j):
        sigma, epsilon = self._pair_parameters(i, j)
        s2 = sigma * sigma * _inverse(r2)
        s6 = s2 * s2 * s2
        return 4 * epsilon * (s6 * s6 - s6)

    def _pair_parameters(self, i, j):
        if self.species is None:
            return self.sigma, self.epsilon
        a, b = self.species[i], self.species[j]
        if self.sigma.ndim == 1:
            return 0.5 * (self.sigma[a] + self.sigma[b]), jnp.sqrt(self.epsilon[a] * self.epsilon[b])
        # symmetrized, so that an update moves both halves alike
        return 0.5 * (self.sigma[a, b] + self.sigma[b, a]), 0.5 * (self.epsilon[a, b] + self.epsilon[b, a])


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

    def energy(self, positions, box):
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
        return potential.energy(positions, box) + 2 * jnp.pi * jnp.sum(rows) / box.astype(dtype).volume
