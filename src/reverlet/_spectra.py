"""From a correlation function at equal lags to a spectrum: windows, cosine integrals. No physics here."""

import abc
import math

import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float

from ._fields import AbstractChecked, positive_scalar
from ._misc import is_concrete, require_array, require_count, require_instance, require_number, require_positive


class AbstractWindow(AbstractChecked):
    """What a correlation function is multiplied by before it is transformed: one at lag zero, and even in time.

    In the spectrum it is a convolution, which sets the resolution. Not to be confused with `rv.controls.ResetEvery`,
    which acts on cotangents. Two windows are joined by `a * b`.
    """

    length: AbstractVar[float]
    """The lag beyond which it is zero, ps; may be infinite."""

    @abc.abstractmethod
    def __call__(self, lags: Float[Array, " lags"]) -> Float[Array, " lags"]:
        """The factor at each lag (ps, not negative)."""

    def __mul__(self, other: "AbstractWindow") -> "WindowProduct":
        return WindowProduct(self, other)  # pyright: ignore[reportCallIssue]


class GaussianWindow(AbstractWindow):
    """exp(-(t/σ)²/2): a Gaussian resolution of 2√(2 ln 2)/(2πcσ), full width at half maximum.

    It has no end, so nothing refuses a trajectory too short for it: what is left of it there is cut off, and leaves
    ripples. Multiply by a `CutoffWindow` to say so.

    **Arguments:** `width` σ, ps; 1/3 ps makes lines 37.5 cm⁻¹ wide.
    """

    width: float = positive_scalar("ps")

    @property
    def length(self) -> float:
        return math.inf

    def __call__(self, lags):
        return jnp.exp(-0.5 * (lags / self.width) ** 2)


class HannWindow(AbstractWindow):
    """cos²(πt/2T) up to T, and zero beyond: without a jump, and with side lobes of 3 %.

    **Arguments:** `length` T, ps.

    **Reference:** F. J. Harris, Proc. IEEE 66, 51 (1978), also for `BlackmanWindow`.
    """

    length: float = positive_scalar("ps")

    def __call__(self, lags):
        return jnp.where(lags < self.length, jnp.cos(0.5 * jnp.pi * lags / self.length) ** 2, 0)


class BlackmanWindow(AbstractWindow):
    """0.42 + 0.5 cos(πt/T) + 0.08 cos(2πt/T) up to T, and zero beyond: wider lines than Hann's, side lobes of 0.1 %.

    **Arguments:** `length` T, ps.
    """

    length: float = positive_scalar("ps")

    def __call__(self, lags):
        x = jnp.pi * lags / self.length
        return jnp.where(lags < self.length, 0.42 + 0.5 * jnp.cos(x) + 0.08 * jnp.cos(2 * x), 0)


class CutoffWindow(AbstractWindow):
    """One up to T, and zero beyond: a low-pass that leaves short times as they are, at the price of ripples.

    A lag at T itself counts half, as is right for the trapezoid rule at a jump.

    **Arguments:** `length` T, ps.
    """

    length: float = positive_scalar("ps")

    def __call__(self, lags):
        at_end = jnp.abs(lags - self.length) < 1e-5 * self.length  # lags are multiples of a rounded step
        return jnp.where(at_end, 0.5, jnp.where(lags < self.length, 1, 0)).astype(lags.dtype)


class WindowProduct(AbstractWindow):
    """The product of two windows; what `a * b` makes."""

    first: AbstractWindow
    second: AbstractWindow

    @property
    def length(self) -> float | Array:  # pyright: ignore[reportIncompatibleVariableOverride]
        return jnp.minimum(self.first.length, self.second.length)

    def __call__(self, lags):
        return self.first(lags) * self.second(lags)


class AbstractQuadrature(AbstractChecked):
    """A rule for cosine integrals of a function known at equal steps."""

    @abc.abstractmethod
    def cosine_integral(
        self, values: Float[Array, " points"], step: Float[Array, ""], frequencies: Float[Array, " frequencies"]
    ) -> Float[Array, " frequencies"]:
        """∫ f(t) cos(ωt) dt from 0 to T, from f at 0, `step`, …, T; angular frequencies in the inverse unit."""


class Trapezoid(AbstractQuadrature):
    """The trapezoid rule: for what has decayed at T exact up to aliasing, that is to terms of f at ω ± 2π/step.

    So nothing is gained by a higher order on correlation functions that a window ends smoothly. At a jump at T its
    error is of second order in ω step. It is what a fast Fourier transform computes.
    """

    def cosine_integral(self, values, step, frequencies):
        weights = jnp.full(len(values), step, values.dtype).at[jnp.array([0, -1])].mul(0.5)
        return _dot(_cosines(len(values), step, frequencies), weights * values)


class Filon(AbstractQuadrature):
    """Filon's rule: the integral of parabolas times the cosine, exact for parabolas at any ω step.

    Slightly wrong where the trapezoid rule is not: its weights of even and odd points differ, which puts an image of
    the spectrum at π/step - ω. Coefficients at small ω step are by their series, since the formula cancels: in float32
    it would be wrong by percents.

    **Errors:** `ValueError` (of `cosine_integral`) for an even number of points.

    **Reference:** L. N. G. Filon, Proc. R. Soc. Edinburgh 49, 38 (1928).
    """

    def cosine_integral(self, values, step, frequencies):
        n = len(values)
        if n % 2 == 0:
            raise ValueError(f"`Filon` got {n} points; wanted an odd number, such as {n - 1}: intervals go in pairs.")
        alpha, beta, gamma = filon_coefficients(frequencies * step)
        cosines = _cosines(n, step, frequencies)
        # the ends count half among the even points
        even = _dot(cosines[:, ::2], values[::2].at[jnp.array([0, -1])].mul(0.5))
        odd = _dot(cosines[:, 1::2], values[1::2])
        end = values[-1] * jnp.sin(frequencies * step * (n - 1))
        return step * (alpha * end + beta * even + gamma * odd)


def filon_coefficients(
    angles: Float[Array, " frequencies"],
) -> tuple[Float[Array, " frequencies"], Float[Array, " frequencies"], Float[Array, " frequencies"]]:
    """α, β and γ of Filon's rule at θ = ω step.

    α = 1/θ + sin 2θ/2θ² - 2 sin²θ/θ³, β = 2[(1 + cos²θ)/θ² - sin 2θ/θ³], γ = 4[sin θ/θ³ - cos θ/θ²].
    """
    small = jnp.abs(angles) < 0.7  # there ten terms are exact to rounding, and above the formulas lose one digit
    x = jnp.where(small, 1, angles)
    s, c = jnp.sin(x), jnp.cos(x)
    formulas = (
        (x**2 + x * s * c - 2 * s**2) / x**3,
        2 * (x * (1 + c**2) - 2 * s * c) / x**3,
        4 * (s - x * c) / x**3,
    )
    y = jnp.where(small, angles, 0)
    terms = range(10)
    sign = lambda k: (-1) ** k
    series = (
        y * _polynomial([-sign(k) * 4 ** (k + 1) * 2 * k / math.factorial(2 * k + 4) for k in terms], y**2),
        _polynomial([-sign(k) * 4 ** (k + 1) * (2 * k - 1) / math.factorial(2 * k + 3) for k in terms], y**2),
        _polynomial([sign(k) * 8 * (k + 1) / math.factorial(2 * k + 3) for k in terms], y**2),
    )
    alpha, beta, gamma = (jnp.where(small, a, b) for a, b in zip(series, formulas, strict=True))
    return alpha, beta, gamma


def _polynomial(coefficients, x):
    value = jnp.zeros_like(x)
    for c in reversed(coefficients):
        value = value * x + c
    return value


def _cosines(num, step, frequencies):
    # a direct sum and not an FFT: any grid of frequencies, and the same for tabulated spectra
    return jnp.cos((frequencies * step)[:, None] * jnp.arange(num, dtype=frequencies.dtype))


def _dot(matrix, vector):
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def spectral_density(
    correlation: Float[Array, " lags"],
    step: Float[Array, ""],
    frequencies: Float[Array, " frequencies"],
    window: AbstractWindow,
    quadrature: AbstractQuadrature = Trapezoid(),
) -> Float[Array, " frequencies"]:
    """S(ω) = ∫ w(t) C(t) exp(-iωt) dt over all times, of a correlation function even in time.

    **Arguments:** `correlation` at lags 0, `step` (ps), …; `frequencies` ω, rad/ps.

    **Returns:** S in the unit of C times ps.

    **Errors:** `ValueError` for a step that is not positive.
    """
    require_array("correlation", correlation)
    require_array("frequencies", frequencies)
    require_number("step", step)
    require_positive("step", step, "ps")
    require_instance("window", window, AbstractWindow)
    require_instance("quadrature", quadrature, AbstractQuadrature)
    lags = step * jnp.arange(len(correlation), dtype=correlation.dtype)
    return 2 * quadrature.cosine_integral(window(lags) * correlation, step, frequencies)


def correlation_of_density(
    frequencies: Float[Array, " frequencies"],
    density: Float[Array, " frequencies"],
    step: Float[Array, ""],
    num_lags: int,
) -> Float[Array, " lags"]:
    """C(t) = (1/π) ∫ S(ω) cos(ωt) dω over the frequencies (rad/ps) that S is known at: the inverse of
    `spectral_density`.

    By the trapezoid rule, on any increasing frequencies. S counts as zero outside. Exactly the inverse of the
    trapezoid rule on the frequencies of a Fourier transform, kπ/(n-1)/step for k = 0 … n-1.

    **Errors:** `ValueError` for a step that is not positive, and frequencies that decrease.
    """
    require_array("frequencies", frequencies)
    require_array("density", density)
    require_number("step", step)
    require_positive("step", step, "ps")
    require_count("num_lags", num_lags)
    if is_concrete(frequencies) and np.any(np.diff(np.asarray(frequencies)) < 0):
        raise ValueError("`frequencies` decrease somewhere; wanted increasing ones, in rad/ps.")
    gaps = jnp.diff(frequencies)
    weights = 0.5 * (jnp.pad(gaps, (0, 1)) + jnp.pad(gaps, (1, 0)))
    return _dot(_cosines(num_lags, step, frequencies).T, weights * density) / jnp.pi
