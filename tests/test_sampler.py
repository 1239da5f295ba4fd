import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SWITCHED, argon_state, argon_topology, assert_trees_close, well

import reverlet as rv

K, MASS, T = 250.0, 39.948, 120.0
KT = rv.units.BOLTZMANN * T
ATOMS, CHAINS, ROUNDS = 32, 64, 20
OMEGA = np.sqrt(K / MASS)
SYSTEM = rv.System(rv.Topology.from_elements(["Ar"] * ATOMS), well(K))
START = rv.State(jnp.zeros((ATOMS, 3)), jnp.zeros((ATOMS, 3)), rv.OpenBox()).repeat(CHAINS)


@pytest.mark.parametrize("angle", [0.1, 1.0, 1.6])
def test_harmonic_well(angle):
    """BAOAB samples the positions of a harmonic well exactly, at any stable time step."""
    dt = angle / OMEGA
    sampler = rv.LangevinBAOAB(T, OMEGA, dt=dt, num_steps=round(16 / angle))  # many damping times apart
    warm = sampler.sample(SYSTEM, START, CHAINS, key=jax.random.key(0))
    samples = sampler.sample(SYSTEM, warm.last, CHAINS * ROUNDS, key=jax.random.key(1))
    x, v = np.asarray(samples.states.positions), np.asarray(samples.states.velocities)
    # 1.2e5 nearly independent numbers: a variance is known to sqrt(2/1.2e5) = 0.4 %, five of which are 2 %
    np.testing.assert_allclose(x.var(), KT / K, rtol=0.02)
    np.testing.assert_allclose(np.mean(x**4), 3 * (KT / K) ** 2, rtol=0.05)
    assert abs(x.mean()) < 5 * np.sqrt(KT / K / x.size)
    # velocities are right to second order only, and known in closed form
    np.testing.assert_allclose(v.var(), KT / MASS * (1 - angle**2 / 4), rtol=0.02)
    assert abs(np.mean(x * v)) < 5 * np.sqrt(KT / K * KT / MASS / x.size)
    np.testing.assert_allclose(samples.energies, 0.5 * K * np.sum(x**2, axis=(1, 2)), rtol=1e-12)


def test_shapes_and_order():
    sampler = rv.LangevinBAOAB(T, 1.0, dt=0.01, num_steps=2)
    samples = sampler.sample(SYSTEM, START, 3 * CHAINS, key=jax.random.key(0))
    assert samples.states.positions.shape == (3 * CHAINS, ATOMS, 3)
    assert samples.energies.shape == (3 * CHAINS,)
    assert samples.temperature == T
    # all samples of one instant come first, so the chains' ends are the last ones
    np.testing.assert_array_equal(samples.last.positions, samples.states.positions[-CHAINS:])
    np.testing.assert_array_equal(samples.last.velocities, samples.states.velocities[-CHAINS:])


def test_chains_are_independent_and_deterministic():
    sampler = rv.LangevinBAOAB(T, 1.0, dt=0.01, num_steps=50)
    draw = lambda seed: sampler.sample(SYSTEM, START, CHAINS, key=jax.random.key(seed))
    one = draw(0)
    assert_trees_close(draw(0), one, rtol=0)
    flat = np.asarray(one.states.positions).reshape(CHAINS, -1)
    correlation = np.corrcoef(flat) - np.eye(CHAINS)
    assert np.max(np.abs(correlation)) < 6 / np.sqrt(flat.shape[1])  # 2000 pairs of chains of 96 numbers
    assert not np.array_equal(draw(1).states.positions, one.states.positions)


def test_without_friction_it_is_verlet():
    """No noise and no damping: two half drifts around nothing."""
    state = argon_state()
    system = rv.System(argon_topology(), SWITCHED)
    sampler = rv.LangevinBAOAB(94.4, 0.0, dt=0.002, num_steps=5)
    samples = sampler.sample(system, state.repeat(2), 4, key=jax.random.key(0))
    run = rv.nve(system, state, dt=0.002, num_steps=10, save_every=5).records
    # rounding, in another order of additions
    np.testing.assert_allclose(samples.states.positions[::2], run.positions[1:], atol=1e-12)
    np.testing.assert_allclose(samples.states.velocities[::2], run.velocities[1:], atol=1e-11)


def test_liquid_in_its_box():
    state = argon_state(dtype=jnp.float32)
    system = rv.System(argon_topology(), SWITCHED)
    chains = state.repeat(8)
    samples = rv.LangevinBAOAB(94.4, 5.0, dt=0.004, num_steps=250).sample(system, chains, 16, key=jax.random.key(0))
    assert samples.states.positions.dtype == samples.energies.dtype == jnp.float32
    assert samples.states.box.lengths.shape == (16, 3)
    kinetic = jax.vmap(system.kinetic_energy)(samples.states.velocities)
    # 16 samples of 96 degrees of freedom: sqrt(2/1536) = 3.6 %, five of which are 18 %
    np.testing.assert_allclose(jnp.mean(kinetic), 96 / 2 * rv.units.BOLTZMANN * 94.4, rtol=0.18)
    wanted = jax.vmap(SWITCHED.energy)(samples.states.positions, samples.states.box)
    np.testing.assert_allclose(samples.energies, wanted, rtol=1e-5)  # float32


def test_samples_are_constants():
    sampler = rv.LangevinBAOAB(T, 1.0, dt=0.01, num_steps=3)

    def mean(k):
        system = rv.System(SYSTEM.topology, well(k))
        samples = sampler.sample(system, START, CHAINS, key=jax.random.key(0))
        return jnp.sum(samples.states.positions**2) + jnp.sum(samples.energies)

    assert jax.grad(mean)(K) == 0
