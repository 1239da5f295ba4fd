import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, few, well
from hypothesis import given, strategies as st

import reverlet as rv

T, K, N = 120.0, 250.0, 20_000
KT = rv.units.BOLTZMANN * T
TOPOLOGY = rv.Topology.from_elements(["Ar"])
log_weights = jax.jit(lambda potential, samples: rv.Boltzmann().log_weights(rv.System(TOPOLOGY, potential), samples))


def gaussian_samples(seed, n=N, k=K):
    """Exact draws from the well around the origin."""
    x = np.sqrt(KT / k) * jax.random.normal(jax.random.key(seed), (n, 1, 3))
    states = jax.vmap(lambda x: rv.State(x, jnp.zeros_like(x), rv.OpenBox()))(x)
    energies = 0.5 * k * jnp.sum(x**2, axis=(1, 2))
    return rv.Samples(states, energies, jnp.array(T), jax.tree.map(lambda a: a[:1], states))


@given(seed=SEEDS, scale=st.floats(0.8, 1.25))
@few
def test_weights(seed, scale):
    samples = gaussian_samples(seed, 500)
    np.testing.assert_allclose(log_weights(well(K), samples), 0, atol=1e-12)  # identity at equal potentials
    got = log_weights(well(scale * K), samples)
    wanted = -(scale - 1) * samples.energies / KT
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    weights = jax.nn.softmax(got)
    np.testing.assert_allclose(jnp.sum(weights), 1, rtol=1e-14)
    # each depends on its own sample alone
    first = jax.tree.map(lambda x: x[:10], (samples.states, samples.energies))
    np.testing.assert_allclose(
        log_weights(well(scale * K), rv.Samples(*first, samples.temperature, samples.last)), got[:10], atol=1e-14
    )


class Position(rv.AbstractObservable):
    """The mean of x and of x², per component."""

    def record(self, system, state, initial):
        del system, initial
        x = jnp.mean(state.positions)
        return jnp.stack([x, jnp.mean(state.positions**2)])

    def reduce(self, times, records, weights):
        del times
        return rv.statistics.weighted_mean(weights, records[:, 0])


def means(k, center, samples):
    return rv.expectation(Position(), rv.System(TOPOLOGY, well(k, center)), samples)


@pytest.mark.parametrize(("k", "center"), [(K, 0.0), (1.2 * K, 0.0), (0.9 * K, 0.0), (K, 0.03), (1.1 * K, -0.02)])
def test_mean_and_derivatives_at_a_neighboring_well(k, center):
    """Gaussian wells: ⟨x⟩ = c, ⟨x²⟩ = c² + kT/k, and their derivatives with respect to k and c."""
    estimate = means(k, center, gaussian_samples(0))
    variance = KT / k
    wanted = np.array([center, center**2 + variance])
    assert np.all(np.abs(estimate.value - wanted) < 4.5 * estimate.error)  # the error it states
    assert 0 < estimate.effective_samples <= N * (1 + 1e-12)
    if (k, center) == (K, 0.0):
        np.testing.assert_allclose(estimate.effective_samples, N, rtol=1e-12)
    # derivatives by covariances: of N samples, to several per cent where weights differ
    jacobian = np.stack(jax.jacrev(lambda p: means(*p, gaussian_samples(0)).value)((k, jnp.array(center))), axis=1)
    wanted = np.array([[0, 1], [-variance / k, 2 * center]])
    scale = np.array([[np.sqrt(variance) / k, 1], [variance / k, np.sqrt(variance)]])
    np.testing.assert_allclose(jacobian / scale, wanted / scale, atol=0.12)


def test_effective_sample_size_falls_with_distance():
    samples = gaussian_samples(1)
    sizes = [float(means(K, c, samples).effective_samples) for c in (0.0, 0.02, 0.04, 0.08)]
    assert sizes == sorted(sizes, reverse=True)
    # ⟨w⟩²/⟨w²⟩ = exp(-3 k c²/kT), up to chance
    np.testing.assert_allclose(sizes[1] / N, np.exp(-3 * K * 0.02**2 / KT), rtol=0.05)
