"""Windows, quadratures and transforms: arrays only, no physics."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, central_difference, few
from hypothesis import given
from scipy.integrate import quad

import reverlet as rv
from reverlet._spectra import filon_coefficients

WINDOWS = {
    "gaussian": rv.spectra.GaussianWindow(0.15),
    "hann": rv.spectra.HannWindow(0.3),
    "blackman": rv.spectra.BlackmanWindow(0.3),
    "cutoff": rv.spectra.CutoffWindow(0.3),
    "product": rv.spectra.GaussianWindow(0.15) * rv.spectra.CutoffWindow(0.3),
}
all_windows = pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)


@all_windows
def test_windows_are_one_at_zero_and_fall(window):
    lags = jnp.linspace(0, 0.6, 601)
    values = np.asarray(window(lags))
    assert values[0] == pytest.approx(1, abs=1e-15)
    assert np.all(np.diff(values) <= 1e-15)
    assert np.all(values >= -1e-15)  # Blackman's ends in 0.42 - 0.5 + 0.08
    assert np.all(values[np.asarray(lags) > window.length] == 0)
    assert window(lags.astype(jnp.float32)).dtype == jnp.float32


def test_windows_at_a_point():
    t = jnp.array([0.0, 0.15, 0.3])
    np.testing.assert_allclose(WINDOWS["gaussian"](t), np.exp([0, -0.5, -2]), rtol=1e-14)
    np.testing.assert_allclose(WINDOWS["hann"](t), [1, 0.5, 0], atol=1e-14)
    np.testing.assert_allclose(WINDOWS["blackman"](t), [1, 0.34, 0], atol=1e-14)
    np.testing.assert_allclose(WINDOWS["cutoff"](t), [1, 1, 0.5], atol=1e-14)  # the jump itself counts half
    np.testing.assert_allclose(WINDOWS["product"](t), np.exp([0, -0.5, -2]) * [1, 1, 0.5], rtol=1e-14)


def test_filon_coefficients_are_of_the_formulas():
    """On both sides of where the series ends; formulas in 60 digits would be the same to rounding."""
    theta = np.array([0.6999999, 0.7, 0.7000001, 1.5, 3.0])
    s, c = np.sin(theta), np.cos(theta)
    alpha = (theta**2 + theta * s * c - 2 * s**2) / theta**3
    beta = 2 * (theta * (1 + c**2) - 2 * s * c) / theta**3
    gamma = 4 * (s - theta * c) / theta**3
    for got, wanted in zip(filon_coefficients(jnp.asarray(theta)), (alpha, beta, gamma), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-13)  # the formulas lose two digits at 0.7
    small = jnp.array([0.0, 1e-4, 1e-2])
    a, b, g = filon_coefficients(small)
    # Allen and Tildesley, Computer Simulation of Liquids, appendix D: the leading terms
    np.testing.assert_allclose(a, 2 * small**3 / 45 - 2 * small**5 / 315, rtol=1e-8, atol=1e-30)
    np.testing.assert_allclose(b, 2 / 3 + 2 * small**2 / 15 - 4 * small**4 / 105, rtol=1e-13)
    np.testing.assert_allclose(g, 4 / 3 - 2 * small**2 / 15 + small**4 / 210, rtol=1e-13)


@given(a=st.floats(-2, 2), b=st.floats(-2, 2), omega=st.floats(0, 60))
@few
def test_filon_is_exact_for_parabolas(a, b, omega):
    t = jnp.linspace(0, 1, 11)  # up to six radians a step
    got = rv.spectra.Filon().cosine_integral(1 + a * t + b * t**2, jnp.asarray(0.1), jnp.array([omega]))[0]
    # SciPy's own rule for cosine weights, to its 1.5e-8
    wanted = quad(lambda t: 1 + a * t + b * t**2, 0, 1, weight="cos", wvar=omega)[0]
    np.testing.assert_allclose(got, wanted, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("quadrature", [rv.spectra.Trapezoid(), rv.spectra.Filon()], ids=["trapezoid", "Filon"])
def test_a_gaussian_becomes_a_gaussian(quadrature, dtype):
    """In float32 in the first bins too, where Filon's formulas cancel."""
    width, step = 0.05, 0.0005
    t = jnp.arange(1001, dtype=dtype) * step
    omega = jnp.concatenate([jnp.array([0, 1e-3, 0.1, 1]), jnp.linspace(2, 80, 200)]).astype(dtype)
    got = rv.spectra.spectral_density(
        jnp.ones_like(t), jnp.asarray(step, dtype), omega, rv.spectra.GaussianWindow(width), quadrature
    )
    wanted = width * np.sqrt(2 * np.pi) * np.exp(-0.5 * (width * np.asarray(omega, float)) ** 2)
    assert got.dtype == dtype
    # float32: rounding of phases up to 40 radians, 4e-6, in a sum that is mostly positive. float64: the trapezoid rule
    # is exact to rounding here; Filon's is of fourth order, (ωh)⁴/45 < 6e-8
    tolerance = {jnp.float32: 3e-6, jnp.float64: 1e-12 if isinstance(quadrature, rv.spectra.Trapezoid) else 1e-7}[dtype]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * wanted[0])


@all_windows
@given(seed=SEEDS)
@few
def test_there_and_back(window, seed):
    """On the frequencies of a Fourier transform the trapezoid rule is inverted to rounding."""
    n, step = 401, 0.001
    correlation = jnp.asarray(np.random.default_rng(seed).normal(size=n))
    omega = np.pi / step * jnp.arange(n) / (n - 1)
    flat = rv.spectra.CutoffWindow(1e3)
    density = rv.spectra.spectral_density(correlation, jnp.asarray(step), omega, flat)
    back = rv.spectra.correlation_of_density(omega, density, jnp.asarray(step), n)
    np.testing.assert_allclose(back, correlation, atol=1e-11)
    wanted = rv.spectra.spectral_density(correlation, jnp.asarray(step), omega, window)
    np.testing.assert_allclose(rv.spectra.spectral_density(back, jnp.asarray(step), omega, window), wanted, atol=1e-13)


def test_first_origins():
    a, b = np.random.default_rng(0).normal(size=(2, 20, 3))
    wanted = [np.sum(a[:8] * b[k : k + 8]) / 8 for k in range(13)]
    got = rv.statistics.correlation_first_origins(jnp.asarray(a), jnp.asarray(b), 8)
    np.testing.assert_allclose(got, wanted, atol=1e-13)
    with pytest.raises(ValueError, match="wanted 1 to 20"):
        rv.statistics.correlation_first_origins(jnp.asarray(a), jnp.asarray(b), 21)


@pytest.mark.parametrize("quadrature", [rv.spectra.Trapezoid(), rv.spectra.Filon()], ids=["trapezoid", "Filon"])
def test_derivative_of_a_density(quadrature):
    """With respect to the correlation function, at a frequency of zero too."""
    c, d = np.random.default_rng(1).normal(size=(2, 41))
    omega = jnp.array([0.0, 0.3, 20.0])
    density = lambda c: jnp.sum(
        jnp.sin(
            1e3 * rv.spectra.spectral_density(c, jnp.asarray(0.001), omega, rv.spectra.HannWindow(0.04), quadrature)
        )
    )
    slope = jnp.sum(jax.grad(density)(jnp.asarray(c)) * d)
    np.testing.assert_allclose(slope, central_difference(density, jnp.asarray(c), d, 1e-6), rtol=1e-7)


def test_bad_input():
    with pytest.raises(ValueError, match=r"`Filon` got 4 points; wanted an odd number, such as 3"):
        rv.spectra.Filon().cosine_integral(jnp.ones(4), jnp.asarray(0.1), jnp.zeros(1))
    for window in (
        rv.spectra.GaussianWindow,
        rv.spectra.HannWindow,
        rv.spectra.BlackmanWindow,
        rv.spectra.CutoffWindow,
    ):
        with pytest.raises(ValueError, match="wanted a finite number more than zero, in ps"):
            window(0.0)
