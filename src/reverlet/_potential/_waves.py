"""The reciprocal part of Ewald's sum, and its derivatives in closed form."""

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._box import AbstractBox, reciprocal_vectors

_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def waves_energy(
    q: Float[Array, " atoms"],
    positions: Float[Array, "atoms 3"],
    box: AbstractBox,
    alpha: float,
    waves: tuple[int, int, int],
) -> Float[Array, ""]:
    """(2π/V) Σ_{k≠0} exp(-k²/4α²)/k² |S(k)|² of reduced charges, kJ/mol."""
    reciprocal = reciprocal_vectors(box)
    s = _dot(reciprocal, positions.T)
    s = s - jax.lax.stop_gradient(jnp.floor(s))  # small phases, for their digits
    m, count = _grid(waves)
    k2 = (2 * math.pi) ** 2 * square(jnp.asarray(m, positions.dtype), reciprocal)
    k2 = jnp.where(count > 0, k2, 1)
    weights = 2 * math.pi / box.volume * jnp.asarray(count, positions.dtype) * jnp.exp(-0.25 / alpha**2 * k2) / k2
    return _wave_sum(q, s, weights)


def square(m: Float[Array, "*grid 3"], vectors: Float[Array, "3 3"]) -> Float[Array, "*grid"]:
    """|Σ m_k v_k|² of multiples of three vectors."""
    return jnp.sum(_dot(m, vectors) ** 2, axis=-1)


_SIGNS = np.array(list(itertools.product((1, -1), repeat=2)))
"""Of the second and third multiples; of the first there are none, since waves k and -k have the same |S|²."""

_SIGNED = np.array(
    [
        [part(1j ** (a + b + c)) * y**b * z**c for a, b, c in itertools.product((0, 1), repeat=3)]
        for part in (np.real, np.imag)
        for y, z in _SIGNS
    ]
)
"""What products of cosines and sines have in the real and imaginary parts of (cos + i sin)(cos + iy sin)(cos + iz sin),
for all signs."""


def _grid(waves):
    """The multiples of all waves, [signs, of the first, of the second, of the third, 3], and how often each counts."""
    m = np.stack(np.meshgrid(*(np.arange(n + 1) for n in waves), indexing="ij"), axis=-1)
    m = m * np.concatenate([np.ones((4, 1), int), _SIGNS], axis=1)[:, None, None, None]
    zero_once = ((_SIGNS[:, None, None, None] > 0) | (m[..., 1:] != 0)).all(axis=-1)
    return m, np.where(m[..., 0] > 0, 2, 1) * (zero_once & np.any(m != 0, axis=-1))


def _tables(s, weights):
    """Cosines and sines of the multiples of the phases of all atoms, for each lattice vector, [cosines then sines,
    atoms].

    exp(ik·x) is a product of one factor for each lattice vector, whence all sums over atoms and over waves are products
    of matrices: of one factor, and of the products of the other two. Atoms come last: a processor with vector units is
    several times slower in the other order.
    """
    counts = weights.shape[1:]
    # one table for all three: what is used in several places is stored, and sines are not computed again for every
    # product of them, which made the energy cost five forces
    phases = 2 * math.pi * jnp.arange(max(counts), dtype=s.dtype)[:, None, None] * s
    table = jnp.stack([jnp.cos(phases), jnp.sin(phases)])
    return [table[:, :n, k].reshape(2 * n, -1) for k, n in enumerate(counts)]


def _turned(tables):
    """Their derivatives by the phases over 2π, s."""

    def turn(table):
        multiples = 2 * math.pi * np.diag(np.arange(len(table) // 2))
        # a product, which is stored: of anything else the sines would be computed again wherever it is used
        turning = np.block([[np.zeros_like(multiples), -multiples], [multiples, np.zeros_like(multiples)]])
        return _dot(jnp.asarray(turning, table.dtype), table)

    return [turn(table) for table in tables]


def _others(combine):
    """Of the other two factors, for each."""
    return [combine(1, 2), combine(0, 2), combine(0, 1)]


def _outer(a, b):
    """All products of two factors, [both multiples, atoms]."""
    return (a[:, None] * b).reshape(-1, a.shape[-1])


def _at_atoms(grid, others):
    """What waves have at the atoms, but for one factor, for each of the three."""
    along = lambda k: jnp.moveaxis(grid, k, 0).reshape(grid.shape[k], -1)
    return [_dot(along(k), other) for k, other in enumerate(others)]


def _energy(parts, weights):
    """Σ weights |S|², of products of cosines and sines summed over all charges."""
    n1, n2, n3 = weights.shape[1:]
    # [cosine or sine of the first, of the second, of the third, then the multiples]
    parts = parts.reshape(2, n1, 2, n2, 2, n3).transpose(0, 2, 4, 1, 3, 5).reshape(8, -1)
    # a product, whose derivative is another: that of sums of slices costs as much as all else
    structure = _dot(jnp.asarray(_SIGNED, parts.dtype), parts).reshape(2, *weights.shape)
    return jnp.sum(weights * jnp.sum(structure**2, axis=0))


def _power(parts, weights, motion, change):
    """The derivative of `_energy` along a `motion` of the parts and a `change` of the weights."""
    return jax.jvp(_energy, (parts, weights), (motion, change))[1]


# Two nested rules, as for pair sums. With the potential of all waves φ = Σ_k W (S* e^{ik·x} + c.c.), charges p that are
# added and steps w, the derivative of the energy is D = Σ_i p_i φ(x_i) + q_i w_i·∇φ(x_i); and with ψ, the same of S′,
# by which these change S,
#
#     ∂D/∂q_i = ψ(x_i) + w_i·∇φ(x_i),    ∂D/∂x_i = p_i ∇φ(x_i) + q_i (∇ψ(x_i) + w_i·∇∇φ(x_i)).
#
# Automatic differentiation of the sum does no more, but computes twice what the force has in common with its pullback.


@eqx.filter_custom_jvp
def _wave_sum(q, s, weights):
    """The energy of charges at phases over 2π `s`, [3, atoms]."""
    tables = _tables(s, weights)
    others = _others(lambda k, l: _outer(tables[k], tables[l]))
    return _energy(_parts(q * tables[0], others[0], weights), weights)


@_wave_sum.def_jvp
def _wave_sum_jvp(primals, tangents):
    return _wave_sum(*primals), _directional(*primals, *tangents)


def _parts(first, others, weights):
    """The sum over all atoms, [first multiples, second, third]."""
    return _dot(first, others.T).reshape([2 * n for n in weights.shape[1:]])


@eqx.filter_custom_jvp
def _directional(q, s, weights, added, steps, change):
    """The derivative of the energy by charges that are added, steps, and a change of the weights; each may be none."""
    # as products with the derivatives, so that transposing with respect to these is in closed form
    tables = _tables(s, weights)
    others = _others(lambda k, l: _outer(tables[k], tables[l]))
    parts = _parts(q * tables[0], others[0], weights)
    of_parts, of_weights = jax.grad(_energy, argnums=(0, 1))(parts, weights)
    at_atoms = _at_atoms(of_parts, others)
    out = jnp.zeros((), s.dtype)
    if added is not None:
        out = out + jnp.sum(_total((tables[0], at_atoms[0])) * added)
    if steps is not None:
        out = out + jnp.sum(q * _gradient(tables, at_atoms) * steps)
    return out if change is None else out + jnp.sum(of_weights * change)


def _total(*products):
    """The sum of products over all multiples."""
    return functools.reduce(jnp.add, (jnp.sum(a * b, axis=0) for a, b in products))


def _gradient(tables, at_atoms):
    """Of the potential at all atoms, by s."""
    return jnp.stack([_total(pair) for pair in zip(_turned(tables), at_atoms, strict=True)])


@_directional.def_jvp
def _directional_jvp(primals, tangents):
    q, s, weights, added, steps, change = primals
    q_dot, s_dot, weights_dot, *dots = tangents
    out = jnp.zeros((), s.dtype)
    if any(dot is not None for dot in dots):
        out = out + _directional(q, s, weights, *dots)
    if any(dot is not None for dot in (q_dot, s_dot, weights_dot)):
        of_q, of_s, of_weights = _second(q, s, weights, added, steps, change)
        for derivative, dot in ((of_q, q_dot), (of_s, s_dot), (of_weights, weights_dot)):
            out = out if dot is None else out + jnp.sum(derivative * dot)
    return _directional(*primals), out


def _second(q, s, weights, added, steps, change):
    """The derivatives of `_directional` by charges, phases and weights."""
    added = jnp.zeros_like(q) if added is None else added
    steps = jnp.zeros_like(s) if steps is None else steps
    change = jnp.zeros_like(weights) if change is None else change
    tables = _tables(s, weights)
    turned = _turned(tables)
    curved = _turned(turned)
    moving = [step * table for step, table in zip(steps, turned, strict=True)]
    others = _others(lambda k, l: _outer(tables[k], tables[l]))
    moved = _others(lambda k, l: _outer(moving[k], tables[l]) + _outer(tables[k], moving[l]))
    parts = _parts(q * tables[0], others[0], weights)
    motion = _parts(q * moving[0] + added * tables[0], others[0], weights) + _parts(q * tables[0], moved[0], weights)
    of_parts = jax.grad(_energy)(parts, weights)
    of_motion, of_weights = jax.grad(_power, argnums=(0, 1))(parts, weights, motion, change)
    at_atoms = _at_atoms(of_parts, others)
    # of ψ + w·∇φ, where the factor itself does not move
    changed = [a + b for a, b in zip(_at_atoms(of_motion, others), _at_atoms(of_parts, moved), strict=True)]
    second = jnp.stack([_total((turned[k], changed[k]), (steps[k] * curved[k], at_atoms[k])) for k in range(3)])
    of_q = _total((tables[0], changed[0]), (moving[0], at_atoms[0]))
    return of_q, added * _gradient(tables, at_atoms) + q * second, of_weights
