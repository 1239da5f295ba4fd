"""Curves through values at equally spaced knots: cubics between them, with one continuous derivative or two."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._fields import AbstractChecked, Parameter, checked, finite, finite_number, instance
from ._misc import cast_floats, require_float


class AbstractInterpolation(AbstractChecked):
    """How a curve goes through values at knots, by cubics between them: which slope it has at every knot."""

    @abc.abstractmethod
    def slopes(self, values: Float[Array, "*curves knots"], spacing: float) -> Float[Array, "*curves knots"]:
        """dy/dx at the knots, of values there and their spacing."""


class SteffenSpline(AbstractInterpolation):
    """A curve that is monotone wherever the values are: between two knots it never leaves the values there.

    With s the slopes of the chords, s = (y_{i+1} - y_i)/h, a knot has the slope of the parabola through its neighbors,
    (s_{i-1} + s_i)/2, but none where s changes its sign, and at most twice the smaller of the two. A value moves the
    curve in four intervals only.

    The first derivative is continuous; the second one jumps at knots. A pair potential made so has continuous forces
    and conserves energy to the order of the time step, but Hessians, and gradients through trajectories, see the jumps:
    for these `NaturalSpline` is smoother. The slopes have kinks as functions of the values, too.

    **Reference:** M. Steffen, Astron. Astrophys. 239, 443 (1990).
    """

    def slopes(self, values, spacing):
        s = jnp.diff(values, axis=-1) / spacing
        a, b = s[..., :-1], s[..., 1:]
        smaller = jnp.minimum(jnp.minimum(jnp.abs(a), jnp.abs(b)), 0.25 * jnp.abs(a + b))
        inner = (jnp.sign(a) + jnp.sign(b)) * smaller
        first, last = _steffen_end(s[..., 0], s[..., 1]), _steffen_end(s[..., -1], s[..., -2])
        return jnp.concatenate([first[..., None], inner, last[..., None]], axis=-1)


def _steffen_end(near, next_to_it):
    parabola = 1.5 * near - 0.5 * next_to_it
    limited = jnp.where(jnp.abs(parabola) > 2 * jnp.abs(near), 2 * near, parabola)
    return jnp.where(parabola * near > 0, limited, 0)


class NaturalSpline(AbstractInterpolation):
    """A curve whose second derivative is continuous, and zero at both ends: the natural cubic spline.

    The smoothest curve through the values, ∫ y″² dx being least; it may overshoot between them, and a value moves it
    everywhere, by less the further away (a factor of 3.7 per knot).
    """

    def slopes(self, values, spacing):
        operator = jnp.asarray(_natural(values.shape[-1]) / spacing, values.dtype)
        return jnp.matmul(values, operator.T, precision=jax.lax.Precision.HIGHEST)


def _natural(num: int) -> np.ndarray:
    """The matrix that makes slopes of values one apart: continuity of y″ is a tridiagonal system."""
    left = 4 * np.eye(num) + np.eye(num, k=1) + np.eye(num, k=-1)
    left[0, 0] = left[-1, -1] = 2
    right = 3 * (np.eye(num, k=1) - np.eye(num, k=-1))
    right[0, 0], right[-1, -1] = -3, 3
    return np.linalg.solve(left, right)


class CubicSpline(AbstractChecked):
    """A curve through values at equally spaced knots, which outside of them goes on as a straight line.

    A function of one number, for external fields and restraints; the values are what is trained:

        spline = rv.splines.CubicSpline(np.zeros(50), first=0.0, last=1.0)
        field = rv.FunctionPotential(lambda spline, x, box: jnp.sum(spline(x[:, 0])), spline)

    **Arguments:** `values` at the knots, at least four; `first` and `last`, where the outermost knots are;
    `interpolation`, `SteffenSpline()`, which stays between the values of neighbors, or `NaturalSpline()`, which is
    smoother.

    **Errors:** `ValueError` for fewer than four values, and knots that do not increase.
    """

    values: Parameter = finite("the unit of the curve")
    first: float = checked(finite_number("the unit of the argument"), static=True, kw_only=True)
    last: float = checked(finite_number("the unit of the argument"), static=True, kw_only=True)
    interpolation: AbstractInterpolation = checked(
        instance(AbstractInterpolation), kw_only=True, default=SteffenSpline()
    )

    def __check_init__(self):
        require_knots("values", self.values, self.first, "last", self.last)
        if self.values.ndim != 1:
            raise ValueError(f"`values` has shape {self.values.shape}; wanted one value for every knot, (knots,).")

    @property
    def knots(self) -> Float[np.ndarray, " knots"]:
        """Where they are."""
        return np.linspace(self.first, self.last, self.values.shape[-1])

    def __call__(self, x: Float[Array, "*points"]) -> Float[Array, "*points"]:
        """The curve, in the dtype of `x`."""
        require_float("x", x)
        values = cast_floats(self, x.dtype).values
        spacing = (self.last - self.first) / (len(values) - 1)
        slopes = self.interpolation.slopes(values, spacing)
        at = lambda table: lambda k: table[k]
        curve = piecewise(at(values), at(slopes), x, self.first, spacing, len(values))
        below, beyond = jnp.where(x < self.first, x - self.first, 0), jnp.where(x > self.last, x - self.last, 0)
        return curve + slopes[0] * below + slopes[-1] * beyond


def require_knots(name: str, values: Array, first: float, end: str, last: float) -> None:
    """Refuses too few values, and ends in the wrong order."""
    num = values.shape[-1] if values.ndim else 0
    if num < 4:
        raise ValueError(f"`{name}` has shape {values.shape}; wanted at least four knots along the last axis.")
    if not first < last:
        raise ValueError(f"`{end}` is {last}, and the first knot is at {first}; wanted the last one beyond it.")


def piecewise(value, slope, x, first: float, spacing: float, num: int):
    """The cubic through two knots with their slopes, given functions from a knot's number to both; outside of all
    knots, the value of the outermost."""
    t = (x - first) / spacing
    # not `jnp.clip`, which has half a derivative at the ends
    t = jnp.where(t < 0, 0, jnp.where(t > num - 1, num - 1, t))
    k = jax.lax.stop_gradient(jnp.clip(jnp.floor(t), 0, num - 2)).astype(int)
    s = t - k
    y0, y1, m0, m1 = value(k), value(k + 1), spacing * slope(k), spacing * slope(k + 1)
    chord = y1 - y0
    # so written, it is exactly y0 and y1 at the ends
    return (1 - s) * y0 + s * y1 + s * (1 - s) * ((1 - s) * (m0 - chord) - s * (m1 - chord))
