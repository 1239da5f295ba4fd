import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, Position, few, gaussian_samples, well
from hypothesis import given, strategies as st

import reverlet as rv

T, K, N = 120.0, 250.0, 20_000
KT = rv.units.BOLTZMANN * T
TOPOLOGY = rv.Topology.from_elements(["Ar"])


@jax.jit
def means(k, center, samples, ensemble=None):
    return rv.expectation(Position(), rv.System(TOPOLOGY, well(k, center)), samples, ensemble=ensemble)


@given(seed=SEEDS, scale=st.floats(0.8, 1.25))
@few
def test_weights(seed, scale):
    """Of Boltzmann reweighting in closed form; the identity at equal potentials; of some samples as of all."""
    samples = gaussian_samples(seed, 500, K, T)
    np.testing.assert_allclose(means(K, 0.0, samples).weights, 1 / 500, rtol=1e-12)
    got = np.log(means(scale * K, 0.0, samples).weights)
    wanted = (scale - 1) * np.asarray(samples.log_density)
    np.testing.assert_allclose(got - got[0], wanted - wanted[0], atol=1e-11)
    # another temperature is another potential
    hot = means(K, 0.0, samples, rv.NVT(T / scale)).weights
    np.testing.assert_allclose(hot, means(scale * K, 0.0, samples).weights, rtol=1e-10)


@pytest.mark.parametrize(("k", "center"), [(K, 0.0), (1.2 * K, 0.0), (0.9 * K, 0.0), (K, 0.03), (1.1 * K, -0.02)])
def test_mean_and_derivatives_at_a_neighboring_well(k, center):
    """Gaussian wells: ⟨x⟩ = c, ⟨x²⟩ = c² + kT/k, and their derivatives with respect to k and c."""
    samples = gaussian_samples(0, N, K, T)
    estimate = means(k, center, samples)
    variance = KT / k
    wanted = np.array([center, center**2 + variance])
    assert np.all(np.abs(estimate.value - wanted) < 4.5 * estimate.error)  # the error it states
    assert 0 < estimate.effective_samples <= estimate.effective_samples_by_entropy * (1 + 1e-12) <= N * (1 + 1e-11)
    if (k, center) == (K, 0.0):
        np.testing.assert_allclose(estimate.effective_samples, N, rtol=1e-12)
    # derivatives by covariances: of N samples, to several per cent where weights differ
    jacobian = np.stack(jax.jacrev(lambda p: means(*p, samples).value)((k, jnp.array(center))), axis=1)
    wanted = np.array([[0, 1], [-variance / k, 2 * center]])
    scale = np.array([[np.sqrt(variance) / k, 1], [variance / k, np.sqrt(variance)]])
    np.testing.assert_allclose(jacobian / scale, wanted / scale, atol=0.12)


def test_effective_sample_size_falls_with_distance():
    samples = gaussian_samples(1, N, K, T)
    sizes = [float(means(K, c, samples).effective_samples) for c in (0.0, 0.02, 0.04, 0.08)]
    assert sizes == sorted(sizes, reverse=True)
    # ⟨w⟩²/⟨w²⟩ = exp(-3 k c²/kT), up to chance
    np.testing.assert_allclose(sizes[1] / N, np.exp(-3 * K * 0.02**2 / KT), rtol=0.05)
    with pytest.raises(FloatingPointError, match=r"effective sample size is 1.* of 20000: nearly all"):
        rv.expectation(Position(), rv.System(TOPOLOGY, well(K, 0.9)), samples)


def test_some_of_the_samples():
    samples = gaussian_samples(0, 10, K, T)
    some = samples[2:4]
    assert len(some) == 2
    np.testing.assert_array_equal(some.states.positions, samples.states.positions[2:4])
    np.testing.assert_array_equal(samples[np.array([3, 2])].chain, samples.chain[jnp.array([3, 2])])
    with pytest.raises(TypeError, match=r"wanted a slice .* `samples\[3:4\]`"):
        samples[3]


def test_new_velocities():
    """Of the temperature of the ensemble, at rest as a whole."""
    topology = rv.Topology.from_elements(["Ar", "He"])
    samples = gaussian_samples(0, 4000, K, T, atoms=2).with_velocities(topology, key=jax.random.key(0))
    masses, v = np.asarray(topology.masses)[:, None], np.asarray(samples.states.velocities)
    assert np.max(np.abs(np.sum(masses * v, axis=1))) < 1e-12
    # 3 degrees of freedom each: 12,000 squares are known to sqrt(2/12000) = 1.3 %
    np.testing.assert_allclose(np.mean(np.sum(masses * v**2, axis=(1, 2))), 3 * KT, rtol=0.05)
    nowhere = rv.Samples(samples.states, samples.log_density, samples.chain)
    with pytest.raises(ValueError, match="needs the temperature of an ensemble"):
        nowhere.with_velocities(topology, key=jax.random.key(0))
    with pytest.raises(ValueError, match="do not say from which they were drawn"):
        rv.expectation(Position(), rv.System(topology, well(K)), nowhere)
    with pytest.raises(ValueError, match="`ensemble` is NPT, but the samples are of NVT"):
        rv.expectation(Position(), rv.System(topology, well(K)), samples, ensemble=rv.NPT(T, 1.0))


@pytest.mark.usefixtures("without_type_checks")
def test_numbers_that_do_not_fit():
    samples = gaussian_samples(0, 4, K, T)
    with pytest.raises(ValueError, match=r"wanted \(samples, atoms, 3\) and twice \(samples,\)"):
        rv.Samples(samples.states, samples.log_density[1:], samples.chain)
