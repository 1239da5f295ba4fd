import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, few
from hypothesis import given, strategies as st

import reverlet as rv
from reverlet._observable._spectroscopy import require_equal_steps


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)])
@given(seed=SEEDS, num_lags=st.sampled_from([None, 1, 7, 25]))
@few
def test_fft_equals_the_direct_sum(shape, seed, num_lags):
    rng = np.random.default_rng(seed)
    n = 25
    a, b = rng.normal(size=(2, n, *shape))
    wanted = [np.sum(a[: n - k] * b[k:]) / (n - k) for k in range(n if num_lags is None else num_lags)]
    got = rv.statistics.correlation_all_origins(jnp.asarray(a), jnp.asarray(b), num_lags)
    np.testing.assert_allclose(got, wanted, atol=1e-12)  # rounding of sums of up to 300 numbers of order one


def test_fixed_origin():
    series = np.random.default_rng(0).normal(size=(5, 4, 3))
    got = rv.statistics.correlation_fixed_origin(jnp.asarray(series[0]), jnp.asarray(series))
    np.testing.assert_allclose(got, np.einsum("fak,ak->f", series, series[0]), atol=1e-14)
    single = rv.statistics.correlation_fixed_origin(jnp.asarray(series[0, 0, 0]), jnp.asarray(series[:, 0, 0]))
    np.testing.assert_allclose(single, series[:, 0, 0] * series[0, 0, 0], atol=1e-15)


def test_refuses_lags_there_are_not():
    with pytest.raises(ValueError, match="wanted 1 to 5"):
        rv.statistics.correlation_all_origins(jnp.ones(5), jnp.ones(5), 6)


def test_precision():
    x = jnp.ones(5, jnp.float32)
    assert rv.statistics.correlation_all_origins(x, x).dtype == jnp.float32
    assert rv.statistics.running_integral(jnp.cumsum(x), x).dtype == jnp.float32


def test_running_integral():
    times = jnp.array([0.0, 0.1, 0.4, 1.0])
    np.testing.assert_allclose(
        rv.statistics.running_integral(times, 2 + 3 * times), 2 * times + 1.5 * times**2, atol=1e-15
    )
    np.testing.assert_allclose(
        rv.statistics.running_integral(times, jnp.stack([times, times**0]))[1], times, atol=1e-15
    )
    assert rv.statistics.running_integral(times[:1], times[:1]).shape == (1,)
    dense = jnp.linspace(0, 1, 1001)
    got = rv.statistics.running_integral(dense, jnp.cos(dense))
    np.testing.assert_allclose(got, jnp.sin(dense), atol=1e-7)  # the trapezoid rule: h²/12


def test_diffusion_of_an_ornstein_uhlenbeck_velocity():
    """⟨v(0)v(t)⟩ = (kT/m) e^{-γt}, so that D = kT/(mγ)."""
    gamma, variance, dt = 2.0, 1.7, 0.02
    frames, atoms, lags = 4000, 256, 400
    rng = np.random.default_rng(0)
    decay = np.exp(-gamma * dt)
    v = np.empty((frames, atoms, 3))
    v[0] = np.sqrt(variance) * rng.normal(size=(atoms, 3))
    for k in range(1, frames):
        v[k] = decay * v[k - 1] + np.sqrt(variance * (1 - decay**2)) * rng.normal(size=(atoms, 3))
    times = dt * jnp.arange(lags)
    vacf = rv.statistics.correlation_all_origins(jnp.asarray(v), jnp.asarray(v), lags) / atoms
    # 256*3 series of 4000*dt*gamma/2 = 80 independent pieces each: standard errors of about 3 variance / sqrt(6e4)
    np.testing.assert_allclose(vacf, 3 * variance * np.exp(-gamma * times), atol=5 * 3 * variance / np.sqrt(6e4))
    diffusion = rv.statistics.running_integral(times, vacf)[-1] / 3
    # the sum over 16 correlation times: about sqrt(2*16/(160*768)) = 1.6 %
    np.testing.assert_allclose(diffusion, variance / gamma, rtol=0.06)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_missing_frames_are_noticed_at_any_time(offset):
    """In double precision; where rounding hides them, times are refused."""
    times = offset + 0.002 * np.arange(400)
    np.testing.assert_allclose(require_equal_steps(times), times - offset, atol=1e-9)
    with pytest.raises(ValueError, match="wanted equal steps"):
        require_equal_steps(np.delete(times, 200))
    with pytest.raises(ValueError, match=r"from -0\.002 to -0\.002 ps apart"):
        require_equal_steps(times[::-1])
    if offset > 0:
        coarse = jnp.asarray(times, jnp.float32)
        with pytest.raises(ValueError, match="rounded to"):
            require_equal_steps(coarse)
        with pytest.raises(rv.SimulationError, match="rounded to"), rv.SimulationError.unwrapped():
            jax.block_until_ready(jax.jit(require_equal_steps)(coarse))
    with pytest.raises(rv.SimulationError, match="wanted equal steps"), rv.SimulationError.unwrapped():
        jax.block_until_ready(jax.jit(require_equal_steps)(jnp.asarray(np.delete(times, 200))))


def test_the_middle_of_time_is_not_told_by_its_sign():
    """Frames of a file may begin at any time: the slope is that of all of them."""
    times, curve = np.arange(9.0) - 1, 6 * 0.25 * jnp.arange(9.0)
    np.testing.assert_allclose(rv.Einstein(start=0.0).diffusion(times, curve), 0.25, rtol=1e-12)
    np.testing.assert_allclose(rv.GreenKubo().diffusion(times, jnp.ones(9)), 8 / 3, rtol=1e-12)
