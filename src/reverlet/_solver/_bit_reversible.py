"""Velocity Verlet on a lattice of fixed-point numbers, where nothing is ever rounded away."""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, PyTree, UInt32

from .._fields import AbstractChecked, Rule, checked
from .._misc import as_number, require_constant, tree_add
from ._base import AbstractReversibleSolver
from ._roles import AbstractFallibleSolver

_POSITION, _VELOCITY, _FORCE = 1, 2, 3


class FixedPoint(eqx.Module):
    """Whole numbers of 64 bits, also where JAX has none: two's complement, in two halves."""

    high: Int32[Array, "..."]
    low: UInt32[Array, "..."]


class BitReversibleState(eqx.Module):
    """The solver state of `BitReversibleVerlet`; positions and velocities have the structure of `y`."""

    positions: PyTree[FixedPoint]
    """In units of the resolution, as are the velocities."""
    velocities: PyTree[FixedPoint]
    acceleration: PyTree[Float[Array, "..."]]
    """At the positions, so that a step costs one force."""
    failure: Int32[Array, ""]
    """What did not fit into the numbers first, as a code for `describe`; zero if everything did."""


def _power_of_two() -> Any:
    def require(name, r):
        require_constant(name, r)
        if not (r > 0 and np.isfinite(r) and np.frexp(r)[0] == 0.5 and 2.0**-90 <= r <= 1):
            near = 2.0 ** np.clip(np.round(np.log2(r)), -90, 0) if r > 0 and np.isfinite(r) else 2.0**-48
            raise ValueError(
                f"`{name}` is {r}; wanted a power of two from 2**-90 to 1, in nm, such as 2**{int(np.log2(near))}."
            )

    return Rule(as_number, require)


class BitReversibleVerlet(AbstractReversibleSolver, AbstractFallibleSolver, AbstractChecked):
    """Velocity Verlet whose steps are undone exactly, to the last bit, however many there are.

    Positions and velocities are 64-bit integers X and V, in units of the resolution r (so x = rX, v = rV), and every
    increment is rounded to an integer before it is added:

        V½ = V + round(h a(x) / 2r);  X′ = X + round(h v½ / r);  V′ = V½ + round(h a(x′) / 2r)

    Each of these adds to one variable a function of the other: subtracting the same undoes it, whatever was rounded. An
    integer is a pair of 32 bits, so that JAX's default 32-bit mode will do; positions are not wrapped, so that boxes do
    not matter. The integers are the solver state, and `y` is their value in floating point. One evaluation of the
    force per step. Second order, time-reversible: with flipped velocities the same steps lead back.

    Gradients are those of velocity Verlet at the states of the lattice: rounding is differentiated as if it were not
    there.

    Not recommended where a trajectory is short enough for floating-point reversal: by `ReversibleAdjoint`, the gradient
    of `VelocityVerlet` is cheaper.

    Reversal is exact for a kick that depends on positions alone, a drift that depends on velocities alone, and a force
    that gives the same bits for the same positions. Not where they depend on time, which is rounded.

    **Arguments:** `resolution`, the distance between neighboring numbers, in nm for positions and nm/ps for velocities:
    a power of two, so that scaling is exact. What is below 2⁶³ times that fits, by default 32768 nm. Float64 holds the
    default's numbers without loss up to 32 nm.

    **Errors:** `ValueError` for a resolution that is no power of two. A value that does not fit, or a force that is not
    finite, makes `y` NaN from there on and the solve unsuccessful: `nve` raises `SimulationError` and says what did
    not fit, `diffeqsolve` raises its own error.

    **Reference:** D. Levesque and L. Verlet, J. Stat. Phys. 72, 519 (1993).
    """

    resolution: float = checked(_power_of_two(), static=True, default=2.0**-48)

    term_structure: ClassVar = (diffrax.AbstractTerm, diffrax.AbstractTerm)
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms):
        del terms
        return 2

    def init(self, terms, t0, t1, y0, args):
        del t1
        _, kick = terms
        x, v = y0
        positions, velocities = self._encode(x), self._encode(v)
        failure = _first_failure(0, [(self._fit(x), _POSITION), (self._fit(v), _VELOCITY)])
        # at the lattice's positions, as the walk back will compute it when it arrives here
        acceleration = _field(kick, t0, self._decode(positions, x), args)
        return BitReversibleState(positions, velocities, acceleration, failure)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        _, kick = terms
        x, v = y0
        state = solver_state

        first = _half_kick(kick, state.acceleration, t0, t1)
        half = _add(state.velocities, self._encode(first))
        v_half = self._decode(half, tree_add(v, first))
        moved = _drift(terms, v_half, args, t0, t1)
        positions = _add(state.positions, self._encode(moved))
        x = self._decode(positions, tree_add(x, moved))
        acceleration = _field(kick, t1, x, args)
        second = _half_kick(kick, acceleration, t0, t1)
        velocities = _add(half, self._encode(second))
        v = self._decode(velocities, tree_add(v_half, second))

        checks = [
            (self._fit(first), _FORCE),
            (_fits_sum(state.velocities, self._encode(first), half), _VELOCITY),
            (self._fit(moved) & _fits_sum(state.positions, self._encode(moved), positions), _POSITION),
            (self._fit(second), _FORCE),
            (_fits_sum(half, self._encode(second), velocities), _VELOCITY),
        ]
        failure = _first_failure(state.failure, checks)
        y1 = _nan_if(failure != 0, (x, v))
        failed = diffrax.RESULTS.nonfinite  # inherited from Optimistix's
        result = diffrax.RESULTS.where(failure == 0, diffrax.RESULTS.successful, failed)  # pyright: ignore[reportArgumentType]
        state = BitReversibleState(positions, velocities, acceleration, failure)
        return y1, None, {"y0": y0, "y1": y1}, state, result

    def backward_step(self, terms, t0, t1, y1, args, solver_state, made_jump):
        del made_jump
        _, kick = terms
        x, v = y1  # for their dtypes alone
        state = solver_state

        half = _subtract(state.velocities, self._encode(_half_kick(kick, state.acceleration, t0, t1)))
        positions = _subtract(state.positions, self._encode(_drift(terms, self._decode(half, v), args, t0, t1)))
        x = self._decode(positions, x)
        acceleration = _field(kick, t0, x, args)
        velocities = _subtract(half, self._encode(_half_kick(kick, acceleration, t0, t1)))

        y0 = _nan_if(state.failure != 0, (x, self._decode(velocities, v)))
        return y0, {"y0": y0, "y1": y1}, BitReversibleState(positions, velocities, acceleration, state.failure)

    def func(self, terms, t0, y0, args):
        drift, kick = terms
        x, v = y0
        return drift.vf(t0, v, args), kick.vf(t0, x, args)

    def require_lists(self, lists):
        if lists:
            raise ValueError(
                "`BitReversibleVerlet` got a system with a neighbor search; wanted one without: lists made at other"
                " positions on the way back would add the same forces in another order, with other last bits."
            )

    def failure(self, solver_state):
        return solver_state.failure

    def scale(self):
        return self.resolution

    @staticmethod
    def describe(failure, scale):
        return _describe_failure(failure, scale)

    def _encode(self, tree: PyTree[Float[Array, "..."]]) -> PyTree[FixedPoint]:
        return jax.tree.map(lambda x: _from_float(x / self.resolution), tree)

    def _decode(self, numbers: PyTree[FixedPoint], smooth: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        """The values of `numbers`, with the dtypes and the derivatives of `smooth`."""
        decode = lambda s, n: _value_and_derivative(_to_float(n, s.dtype) * self.resolution, s)
        return jax.tree.map(decode, smooth, numbers)

    def _fit(self, tree: PyTree[Float[Array, "..."]]) -> Bool[Array, ""]:
        return _all(jax.tree.map(lambda x: jnp.abs(x / self.resolution) < 2.0**63, tree))  # NaN does not


def _describe_failure(failure: int, resolution: float) -> str:
    """What a `BitReversibleState.failure` other than zero says."""
    if failure == _FORCE:
        return (
            "a force is not finite, or a kick as large as the fixed-point numbers. Wanted finite forces: look for atoms"
            " that overlap and parameters that are not finite, or try a shorter time step."
        )
    name, unit = ("position", "nm") if failure == _POSITION else ("velocity", "nm/ps")
    return (
        f"a {name} outgrew the fixed-point numbers, which hold ±{2.0**63 * resolution:.6g} {unit} at a `resolution` of"
        f" 2**{int(np.log2(resolution))}. Wanted values within that: try a shorter time step, a larger `resolution`, or"
        " `positions` nearer to the origin."
    )


def _half_kick(kick, acceleration, t0, t1):
    return jax.tree.map(lambda a: 0.5 * a, kick.prod(acceleration, kick.contr(t0, t1)))


def _drift(terms, v, args, t0, t1):
    drift, _ = terms
    return drift.prod(_field(drift, 0.5 * (t0 + t1), v, args), drift.contr(t0, t1))


def _field(term, t, y, args):
    """The vector field, rounded alike wherever it is compiled into.

    Without barriers it could be fused with its surroundings, which differ between forward and backward, and one product
    contracted into a fused multiply-add changes the last bit.
    """
    arrays, rest = eqx.partition(args, eqx.is_array)
    y, arrays = jax.lax.optimization_barrier((y, arrays))
    return jax.lax.optimization_barrier(term.vf(t, y, eqx.combine(arrays, rest)))


@jax.custom_jvp
def _value_and_derivative(value, smooth):
    """`value`, differentiated as if it were `smooth`."""
    del smooth
    return value


@_value_and_derivative.defjvp
def _value_and_derivative_jvp(primals, tangents):
    return primals[0], tangents[1]


def _nan_if(bad, tree):
    # a product, so that derivatives are NaN as well
    return jax.tree.map(lambda x: x * jnp.where(bad, jnp.nan, 1).astype(x.dtype), tree)


def _first_failure(failure, checks):
    """The failure there was, or the first of the checks `(fine, code)` that is not fine."""
    for fine, code in checks:
        failure = jnp.where((failure == 0) & ~fine, code, failure)
    return jnp.asarray(failure, jnp.int32)


# Arithmetic


def _from_float(x: Float[Array, "..."]) -> FixedPoint:
    """The nearest whole number (halves to even: the same for -x as for x); zero if it does not fit."""
    whole = jnp.round(jax.lax.stop_gradient(x))
    size = jnp.abs(whole)
    size = jnp.where(size < 2.0**63, size, 0)
    high = jnp.floor(size * 2.0**-32)
    low = size - high * 2.0**32  # exact: at most the digits of `size`
    number = FixedPoint(high.astype(jnp.int32), low.astype(jnp.uint32))
    return _where(whole < 0, _negative(number), number)


def _to_float(number: FixedPoint, dtype: Any) -> Float[Array, "..."]:
    """The value to rounding: the same for -n as for n, since flipped velocities must decode to flipped ones."""
    below = number.high < 0
    size = _where(below, _negative(number), number)
    value = size.high.astype(jnp.uint32).astype(dtype) * 2.0**32 + size.low.astype(dtype)
    return jnp.where(below, -value, value)


def _where(condition, a: FixedPoint, b: FixedPoint) -> FixedPoint:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _negative(a: FixedPoint) -> FixedPoint:
    low = ~a.low + jnp.uint32(1)
    return FixedPoint(~a.high + (low == 0), low)


def _plus(a: FixedPoint, b: FixedPoint) -> FixedPoint:
    """The sum modulo 2⁶⁴."""
    low = a.low + b.low
    return FixedPoint(a.high + b.high + (low < b.low), low)


def _is_number(x):
    return isinstance(x, FixedPoint)


def _add(a: PyTree[FixedPoint], b: PyTree[FixedPoint]) -> PyTree[FixedPoint]:
    return jax.tree.map(_plus, a, b, is_leaf=_is_number)


def _subtract(a: PyTree[FixedPoint], b: PyTree[FixedPoint]) -> PyTree[FixedPoint]:
    return jax.tree.map(lambda a, b: _plus(a, _negative(b)), a, b, is_leaf=_is_number)


def _fits_sum(a: PyTree[FixedPoint], b: PyTree[FixedPoint], total: PyTree[FixedPoint]) -> Bool[Array, ""]:
    """Whether no sum has wrapped: a sum of two numbers of one sign has that sign."""
    fits = lambda a, b, c: ((a.high ^ c.high) & (b.high ^ c.high)) >= 0
    return _all(jax.tree.map(fits, a, b, total, is_leaf=_is_number))


def _all(tree: PyTree[Bool[Array, "..."]]) -> Bool[Array, ""]:
    return jnp.all(jnp.array([jnp.all(x) for x in jax.tree.leaves(tree)]))
