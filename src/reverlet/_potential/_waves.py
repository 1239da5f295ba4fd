"""The reciprocal part of Ewald's sum, and its derivatives in closed form."""

import functools
import itertools
import math
from typing import NamedTuple

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


def _grid(waves):
    """The multiples of all waves, [signs, of the first, of the second, of the third, 3], and how often each counts."""
    m = np.stack(np.meshgrid(*(np.arange(n + 1) for n in waves), indexing="ij"), axis=-1)
    m = m * np.concatenate([np.ones((4, 1), int), _SIGNS], axis=1)[:, None, None, None]
    zero_once = ((_SIGNS[:, None, None, None] > 0) | (m[..., 1:] != 0)).all(axis=-1)
    return m, np.where(m[..., 0] > 0, 2, 1) * (zero_once & np.any(m != 0, axis=-1))


class _Tables(NamedTuple):
    """Cosines and sines of the multiples of the phases of all atoms, [multiples, cosines then sines, atoms].

    exp(ik·x) is a product of one factor for each lattice vector, whence S is a product of two matrices: of the
    products of the first two, and of the third. Atoms come last: a processor with vector units is several times slower
    in the other order.
    """

    first: Float[Array, "first atoms"]
    second: Float[Array, "second atoms"]
    third: Float[Array, "third atoms"]

    @classmethod
    def of(cls, s, weights):
        counts = weights.shape[1:]
        # one table for all three: what is used in several places is stored, and sines are not computed again for every
        # product of them, which made the energy cost five forces
        phases = 2 * math.pi * jnp.arange(max(counts), dtype=s.dtype)[:, None, None] * s
        table = jnp.stack([jnp.cos(phases), jnp.sin(phases)])
        return cls(*(table[:, :n, k].reshape(2 * n, -1) for k, n in enumerate(counts)))

    def turned(self):
        """The derivatives by the phases over 2π, s."""

        def turn(table):
            n = len(table) // 2
            multiples = 2 * math.pi * jnp.arange(n, dtype=table.dtype)[:, None]
            return jnp.concatenate([-multiples * table[n:], multiples * table[:n]])

        return _Tables(*map(turn, self))


def _outer(first, second):
    """Products of the first two tables, [both multiples, atoms]."""
    return (first[:, None] * second).reshape(-1, first.shape[-1])


def _contracted(field, second):
    """Σ over the second multiples, [first multiples, atoms]."""
    return jnp.sum(field.reshape(-1, *second.shape) * second, axis=1)


def _energy(parts, weights):
    """Σ weights |S|², of products of cosines and sines summed over all charges."""
    n1, n2, n3 = weights.shape[1:]
    # [cosine or sine of the first, of the second, of the third, then the multiples]
    parts = parts.reshape(2, n1, 2, n2, 2, n3).transpose(0, 2, 4, 1, 3, 5)
    ((ccc, ccs), (csc, css)), ((scc, scs), (ssc, sss)) = parts
    # signs come last, in the small space of waves
    y, z = jnp.asarray(_SIGNS.T, parts.dtype)[:, :, None, None, None]
    real = ccc - y * z * css - y * ssc - z * scs
    imag = scc + y * csc + z * ccs - y * z * sss
    return jnp.sum(weights * (real * real + imag * imag))


def _power(parts, weights, motion, change):
    """The derivative of `_energy` along a `motion` of the parts and a `change` of the weights."""
    return jax.jvp(_energy, (parts, weights), (motion, change))[1]


# Two nested rules, as for pair sums. With the potential of all waves φ = Σ_k W (S* e^{ik·x} + c.c.), charges p that are
# added and steps w, the derivative of the energy is D = Σ_i p_i φ(x_i) + q_i w_i·∇φ(x_i); and with ψ, the same of S′,
# by which these change S,
#
#     ∂D/∂q_i = ψ(x_i) + w_i·∇φ(x_i),    ∂D/∂x_i = p_i ∇φ(x_i) + q_i (∇ψ(x_i) + w_i·∇∇φ(x_i)).
#
# Automatic differentiation of the sum does no more, but computes what the force has in common with its pullback twice.


@eqx.filter_custom_jvp
def _wave_sum(q, s, weights):
    """The energy of charges at phases over 2π `s`, [3, atoms]."""
    tables = _Tables.of(s, weights)
    return _energy(_parts(tables, q), weights)


@_wave_sum.def_jvp
def _wave_sum_jvp(primals, tangents):
    return _wave_sum(*primals), _directional(*primals, *tangents)


def _parts(tables, q):
    return _dot(_outer(tables.first, tables.second), (q * tables.third).T)


@eqx.filter_custom_jvp
def _directional(q, s, weights, added, steps, change):
    """The derivative of the energy by charges that are added, steps, and a change of the weights; each may be none."""
    # as products with the derivatives, so that transposing with respect to these is in closed form
    tables = _Tables.of(s, weights)
    parts = _parts(tables, q)
    of_parts, of_weights = jax.grad(_energy, argnums=(0, 1))(parts, weights)
    out = jnp.zeros((), s.dtype)
    potential, gradient = _field(tables, of_parts)
    if added is not None:
        out = out + jnp.sum(potential * added)
    if steps is not None:
        out = out + jnp.sum(q * gradient * steps)
    return out if change is None else out + jnp.sum(of_weights * change)


def _field(tables, of_parts):
    """The potential at all atoms, and its gradient by s."""
    turned = tables.turned()
    left = _outer(tables.first, tables.second)
    on_third = _dot(of_parts.T, left)
    field = _dot(of_parts, tables.third)
    on_first = _contracted(field, tables.second)
    gradient = [
        jnp.sum(turned.first * on_first, axis=0),
        jnp.sum(tables.first * _contracted(field, turned.second), axis=0),
        jnp.sum(turned.third * on_third, axis=0),
    ]
    return jnp.sum(tables.first * on_first, axis=0), jnp.stack(gradient)


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
    x, y, z = jnp.zeros_like(s) if steps is None else steps
    change = jnp.zeros_like(weights) if change is None else change
    tables = _Tables.of(s, weights)
    turned = tables.turned()
    curved = turned.turned()
    left = _outer(tables.first, tables.second)
    moved = _outer(x * turned.first, tables.second) + _outer(y * tables.first, turned.second)
    parts = _parts(tables, q)
    motion = _dot(moved, (q * tables.third).T) + _dot(left, (q * z * turned.third + added * tables.third).T)
    of_parts = jax.grad(_energy)(parts, weights)
    of_motion, of_weights = jax.grad(_power, argnums=(0, 1))(parts, weights, motion, change)
    _, gradient = _field(tables, of_parts)
    # ψ and w·∇φ together, as a function of the place, are of_motion·(left × third) + of_parts·(moved × third + left ×
    # z third′)
    field = _dot(of_parts, tables.third)
    changed = _dot(of_motion, tables.third) + z * _dot(of_parts, turned.third)
    on_third = _dot(of_parts.T, left)
    changed_on_third = _dot(of_motion.T, left) + _dot(of_parts.T, moved)
    on_first, on_turned = _contracted(field, tables.second), _contracted(field, turned.second)
    changed_on_first = _contracted(changed, tables.second)
    total = lambda *products: functools.reduce(jnp.add, (jnp.sum(a * b, axis=0) for a, b in products))
    second = jnp.stack(
        [
            total((turned.first, changed_on_first + y * on_turned), (curved.first, x * on_first)),
            total(
                (tables.first, _contracted(changed, turned.second) + y * _contracted(field, curved.second)),
                (turned.first, x * on_turned),
            ),
            total((turned.third, changed_on_third), (curved.third, z * on_third)),
        ]
    )
    # the first sum has w·∇φ without its third component, and z times it
    of_q = total((tables.first, changed_on_first + y * on_turned), (turned.first, x * on_first))
    return of_q, added * gradient + q * second, of_weights
