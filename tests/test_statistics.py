import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, few
from hypothesis import given

import reverlet as rv

N = 50


def weights_and_values(seed):
    rng = np.random.default_rng(seed)
    w = rng.exponential(size=N)
    return jnp.asarray(w / w.sum()), jnp.asarray(rng.normal(size=(N, 4)))


@given(seed=SEEDS)
@few
def test_effective_sample_size(seed):
    w, _ = weights_and_values(seed)
    assert 1 <= rv.statistics.effective_sample_size(w) <= N
    np.testing.assert_allclose(
        rv.statistics.effective_sample_size(7 * w), rv.statistics.effective_sample_size(w), rtol=1e-14
    )
    np.testing.assert_allclose(rv.statistics.effective_sample_size(jnp.ones(N)), N, rtol=1e-14)
    np.testing.assert_allclose(rv.statistics.effective_sample_size(jnp.eye(N)[3]), 1, rtol=1e-14)


@given(seed=SEEDS)
@few
def test_weighted_mean(seed):
    w, x = weights_and_values(seed)
    np.testing.assert_allclose(rv.statistics.weighted_mean(3 * w, x), np.average(x, axis=0, weights=w), atol=1e-13)
    # a ratio: scaling all weights changes nothing, so the derivative along the weights is zero
    slope = jax.jvp(lambda w: rv.statistics.weighted_mean(w, x), (w,), (w,))[1]
    np.testing.assert_allclose(slope, 0, atol=1e-13)


@given(seed=SEEDS)
@few
def test_errors_of_a_mean(seed):
    w, x = weights_and_values(seed)
    equal = jnp.full(N, 1 / N)
    np.testing.assert_allclose(
        rv.statistics.weighted_mean_error(equal, x), np.std(x, axis=0, ddof=1) / np.sqrt(N), rtol=1e-12
    )
    # the infinitesimal jackknife is exact for means: rounding
    for weights in (w, equal):
        got = rv.statistics.infinitesimal_jackknife(lambda w: rv.statistics.weighted_mean(w, x), weights)
        np.testing.assert_allclose(got, rv.statistics.weighted_mean_error(weights, x), rtol=1e-12)
    # also where the estimator counts on weights that sum to one
    got = rv.statistics.infinitesimal_jackknife(lambda w: w @ x, w)
    np.testing.assert_allclose(got, rv.statistics.weighted_mean_error(w, x), rtol=1e-12)


def test_jackknife_of_a_tree():
    w, x = weights_and_values(0)
    got = rv.statistics.infinitesimal_jackknife(lambda w: {"mean": w @ x, "square": (w @ x[:, 0]) ** 2}, w)
    assert got["mean"].shape == (4,)
    slope = 2 * abs(float(w @ x[:, 0]))
    np.testing.assert_allclose(got["square"], slope * got["mean"][0], rtol=1e-12)  # the chain rule


@pytest.mark.parametrize("outputs", [3, 2 * N])  # fewer and more than samples: derivatives in one mode or the other
def test_jackknife_of_many_outputs(outputs):
    w, x = weights_and_values(1)
    t = jnp.linspace(0, 1, outputs)
    estimator = lambda w: jnp.exp(t * rv.statistics.weighted_mean(w, x[:, 0]))
    error = rv.statistics.weighted_mean_error(w, x[:, 0])
    wanted = t * estimator(w) * error  # the chain rule
    np.testing.assert_allclose(rv.statistics.infinitesimal_jackknife(estimator, w), wanted, rtol=1e-12)


def test_jackknife_of_mixed_precisions():
    w, x = weights_and_values(2)
    mixed = lambda w: {
        "a": rv.statistics.weighted_mean(w, x[:, 0]),
        "b": rv.statistics.weighted_mean(w, x[:, 1]).astype(jnp.float32),
    }
    got = rv.statistics.infinitesimal_jackknife(mixed, w)
    np.testing.assert_allclose(got["a"], rv.statistics.weighted_mean_error(w, x[:, 0]), rtol=1e-12)
    np.testing.assert_allclose(got["b"], rv.statistics.weighted_mean_error(w, x[:, 1]), rtol=1e-5)
    assert got["b"].dtype == jnp.float32


def test_one_sample_says_nothing_of_its_error():
    assert jnp.isnan(rv.statistics.weighted_mean_error(jnp.ones(1), jnp.ones(1)))


@pytest.mark.parametrize("weighted", [False, True])
def test_calibrated_against_repeated_draws(weighted):
    """The error that one draw states is how much the estimate scatters over draws."""
    draws, n = 2000, 200

    def one(key):
        x = jax.random.normal(key, (n, 2))
        w = jnp.exp(0.7 * x[:, 0]) if weighted else jnp.ones(n)
        w = w / jnp.sum(w)
        estimator = lambda w: jnp.exp(rv.statistics.weighted_mean(w, x[:, 1] + x[:, 0]))
        return estimator(w), rv.statistics.infinitesimal_jackknife(estimator, w)

    values, errors = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws))
    scatter = jnp.std(values)
    # the scatter is known to 1/sqrt(2 draws) = 1.6 %; a bias of order 1/n of the error adds some per cent with weights
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(errors**2)), scatter, rtol=0.06 if not weighted else 0.1)


@pytest.mark.parametrize(("chains", "correlation"), [(40, 50.0), (2, 3.0), (1, 3.0)])
def test_chains_that_go_on_from_one_stratum_to_the_next(chains, correlation):
    """An autoregression of four strata of 25 samples of each of `chains` chains: the error of the mean by its closed
    form, over as many chains as there may be, or over parts of few, and for every stratum and for all."""
    samples, strata = 25 * max(1, 40 // chains), 4
    steps = strata * samples
    factor = float(np.exp(-1 / correlation))
    rng = np.random.default_rng(0)
    contributions = np.zeros((steps, 200, chains))
    contributions[0] = rng.normal(size=contributions.shape[1:])
    for k in range(1, steps):
        noise = rng.normal(size=contributions.shape[1:])
        contributions[k] = factor * contributions[k - 1] + np.sqrt(1 - factor**2) * noise
    contributions = contributions.transpose(0, 2, 1).reshape(steps * chains, 200) / (steps * chains)
    chain, stratum = np.tile(np.arange(chains), steps), np.repeat(np.arange(strata), samples * chains)
    blocks = rv.statistics.blocks_of(jnp.asarray(chain), jnp.asarray(stratum))
    assert 32 <= blocks.number <= 40
    said = np.sqrt(np.mean(np.asarray(blocks.error(jnp.asarray(contributions))) ** 2))
    lags = np.arange(1, steps)
    true = np.sqrt((1 + 2 * np.sum((1 - lags / steps) * factor**lags)) / (steps * chains))
    np.testing.assert_allclose(said, true, rtol=0.1)
    if chains == 40:  # a block is a whole chain: in any order of the samples, whatever the numbers
        order = rng.permutation(len(chain))
        other = rv.statistics.blocks_of(jnp.asarray(7 * chain[order]), jnp.asarray(3 * stratum[order]))
        np.testing.assert_allclose(other.error(contributions[order]), blocks.error(contributions), rtol=1e-12)
    covariance = blocks.covariance(contributions[:, :1])
    np.testing.assert_allclose(np.sqrt(covariance[0]), blocks.error(contributions[:, :1]), rtol=1e-10)
