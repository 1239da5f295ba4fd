import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

TOPOLOGY = rv.Topology.from_elements(["O", "H", "H", "Ar"])
DRAWS, T = 20_000, 300.0
M = np.asarray(TOPOLOGY.masses)
KT = rv.units.BOLTZMANN * T


def draw(remove_center_of_mass):
    one = lambda key: rv.maxwell_boltzmann(TOPOLOGY, T, remove_center_of_mass=remove_center_of_mass, key=key)
    return np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), DRAWS)))


@pytest.mark.parametrize("remove", [True, False])
def test_moments(remove):
    v = draw(remove)
    # the covariance of what is left when the mean velocity, weighted by mass, is taken out
    wanted = KT * (np.diag(1 / M) - remove / M.sum())
    got = np.einsum("naf,nbf->ab", v, v) / (3 * DRAWS)
    sizes = np.sqrt((np.outer(np.diag(wanted), np.diag(wanted)) + wanted**2) / (3 * DRAWS))
    assert np.all(np.abs(got - wanted) < 4.5 * sizes)  # Wick's standard errors; 4.5 of them, for 16 entries
    assert np.all(np.abs(v.mean(axis=(0, 2))) < 4.5 * np.sqrt(np.diag(wanted) / (3 * DRAWS)))
    kinetic = 0.5 * np.sum(M[:, None] * v**2, axis=(1, 2))
    degrees = 12 - 3 * remove
    # a χ² with that many degrees of freedom: no rescaling, so that the temperature fluctuates
    np.testing.assert_allclose(kinetic.mean(), degrees * KT / 2, rtol=4.5 * np.sqrt(2 / degrees / DRAWS))
    np.testing.assert_allclose(kinetic.var(), degrees * KT**2 / 2, rtol=0.08)  # its standard error is about 0.015


def test_momentum_is_removed():
    momentum = np.sum(M[:, None] * draw(True), axis=1)
    assert np.max(np.abs(momentum)) < 1e-12 * M.sum() * np.sqrt(KT)  # rounding


def test_precision_and_determinism():
    key = jax.random.key(1)
    single = jax.tree.map(lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, TOPOLOGY)
    assert rv.maxwell_boltzmann(single, T, key=key).dtype == jnp.float32
    np.testing.assert_array_equal(
        rv.maxwell_boltzmann(TOPOLOGY, T, key=key), rv.maxwell_boltzmann(TOPOLOGY, T, key=key)
    )
    assert jnp.all(rv.maxwell_boltzmann(TOPOLOGY, 0.0, key=key) == 0)


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_refuses(temperature):
    with pytest.raises(ValueError, match="`temperature` is"):
        rv.maxwell_boltzmann(TOPOLOGY, temperature, key=jax.random.key(0))
