import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SAMPLERS, SWITCHED, argon_state, argon_topology, assert_trees_close, well

import reverlet as rv

K, MASS, T = 250.0, 39.948, 120.0
KT = rv.units.BOLTZMANN * T
ATOMS, CHAINS, ROUNDS = 32, 64, 20
OMEGA = np.sqrt(K / MASS)
SYSTEM = rv.System(rv.Topology.from_elements(["Ar"] * ATOMS), well(K))
START = rv.State(jnp.zeros((ATOMS, 3)), jnp.zeros((ATOMS, 3)), rv.OpenBox()).repeat(CHAINS)


@pytest.mark.parametrize("angle", [0.1, pytest.param(1.0, marks=pytest.mark.slow), 1.6])
def test_harmonic_well(angle):
    """BAOAB samples the positions of a harmonic well exactly, at any stable time step."""
    dt = angle / OMEGA
    sampler = rv.LangevinBAOAB(T, OMEGA, dt=dt, num_steps=round(16 / angle))  # many damping times apart
    _, warm = sampler.sample(SYSTEM, START, CHAINS, key=jax.random.key(0))
    samples, _ = sampler.sample(SYSTEM, warm, CHAINS * ROUNDS, key=jax.random.key(1))
    x, v = np.asarray(samples.states.positions), np.asarray(samples.states.velocities)
    # 1.2e5 nearly independent numbers: a variance is known to sqrt(2/1.2e5) = 0.4 %, five of which are 2 %
    np.testing.assert_allclose(x.var(), KT / K, rtol=0.02)
    np.testing.assert_allclose(np.mean(x**4), 3 * (KT / K) ** 2, rtol=0.05)
    assert abs(x.mean()) < 5 * np.sqrt(KT / K / x.size)
    # velocities are right to second order only, and known in closed form
    np.testing.assert_allclose(v.var(), KT / MASS * (1 - angle**2 / 4), rtol=0.02)
    assert abs(np.mean(x * v)) < 5 * np.sqrt(KT / K * KT / MASS / x.size)
    np.testing.assert_allclose(samples.log_density, -0.5 * K * np.sum(x**2, axis=(1, 2)) / KT, rtol=1e-12)


def test_rescaled_velocities_are_canonical():
    """The kinetic energy of free atoms, which nothing else changes: the gamma distribution of 3N-3 and of 3N."""
    atoms, chains = 3, 4000
    system = rv.System(rv.Topology.from_elements(["Ar"] * atoms), well(0.0))
    draw = lambda k: rv.maxwell_boltzmann(system.topology, 2 * T, remove_center_of_mass=False, key=k)
    x = jnp.zeros((atoms, 3))
    start = jax.vmap(lambda k: rv.State(x, draw(k), rv.OpenBox()))(jax.random.split(jax.random.key(0), chains))
    for degrees, free in ((None, 6), (9, 9)):
        sampler = rv.CSVR(T, 0.1, dt=0.02, num_steps=50, degrees_of_freedom=degrees)
        samples, _ = sampler.sample(system, start, chains, key=jax.random.key(1))
        kinetic = np.asarray(jax.vmap(system.kinetic_energy)(samples.states.velocities)) / KT
        # mean free/2, variance free/2, of 4000 independent numbers; what was there at first has decayed by e^-10
        np.testing.assert_allclose(kinetic.mean(), free / 2, atol=4.5 * np.sqrt(free / 2 / chains))
        spread = np.sqrt((3 * (free / 2) ** 2 + 6 * free / 2 - (free / 2) ** 2) / chains)  # of the second moment
        np.testing.assert_allclose(kinetic.var(), free / 2, atol=4.5 * spread)
        momentum = np.abs(np.sum(np.asarray(samples.states.velocities), axis=1)).max(axis=1)
        assert (momentum.max() < 1e-12) == (degrees is None)


def test_rescaling_acts_on_the_kinetic_energy_within_its_period():
    """⟨K(t)⟩ of free atoms goes to its mean like exp(-t/τ) (Bussi, Donadio and Parrinello 2007, eq. 7)."""
    atoms, chains, period = 3, 4000, 0.1
    system = rv.System(rv.Topology.from_elements(["Ar"] * atoms), well(0.0))
    velocities = rv.maxwell_boltzmann(system.topology, 10 * T, key=jax.random.key(3))
    start = rv.State(jnp.zeros((atoms, 3)), velocities, rv.OpenBox())
    sampler = rv.CSVR(T, period, dt=0.01, num_steps=10)
    samples, _ = sampler.sample(system, start.repeat(chains), chains, key=jax.random.key(1))
    kinetic = np.asarray(jax.vmap(system.kinetic_energy)(samples.states.velocities))
    wanted = 3 * KT + np.exp(-1.0) * (float(system.kinetic_energy(velocities)) - 3 * KT)
    np.testing.assert_allclose(kinetic.mean(), wanted, atol=4.5 * kinetic.std() / np.sqrt(chains))


@pytest.mark.parametrize("name", SAMPLERS)
def test_going_on_is_not_having_stopped(name):
    """Order of the samples; where the chains stop; and going on from there, to the last bit."""
    system, start = rv.System(argon_topology(), SWITCHED), argon_state().repeat(3)
    draw = lambda start, n: SAMPLERS[name].sample(system, start, n, key=jax.random.key(0))
    whole, ends = draw(start, 12)
    assert whole.states.positions.shape == (12, 32, 3)
    assert whole.log_density.shape == (12,)
    np.testing.assert_array_equal(whole.chain, np.tile(np.arange(3), 4))
    assert whole.ensemble.temperature == 94.4
    # all samples of one instant come first, so the chains' ends are the last ones
    assert_trees_close(ends.states, whole[-3:].states, rtol=0)
    first, chains = draw(start, 6)
    second, again = draw(chains, 6)
    assert_trees_close(first, whole[:6], rtol=0)
    assert_trees_close(second, whole[6:], rtol=0)
    assert_trees_close(again, ends, rtol=0)


def test_chains_are_independent_and_deterministic():
    sampler = rv.LangevinBAOAB(T, 1.0, dt=0.01, num_steps=50)
    draw = lambda seed: sampler.sample(SYSTEM, START, CHAINS, key=jax.random.key(seed))[0]
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
    samples, _ = sampler.sample(system, state.repeat(2), 4, key=jax.random.key(0))
    run = rv.nve(system, state, dt=0.002, num_steps=10, save_every=5).records
    # rounding, in another order of additions
    np.testing.assert_allclose(samples.states.positions[::2], run.positions[1:], atol=1e-12)
    np.testing.assert_allclose(samples.states.velocities[::2], run.velocities[1:], atol=1e-11)


def test_liquid_in_its_box():
    state = argon_state(dtype=jnp.float32)
    system = rv.System(argon_topology(), SWITCHED)
    sampler = rv.LangevinBAOAB(94.4, 5.0, dt=0.004, num_steps=250)
    samples, _ = sampler.sample(system, state.repeat(8), 16, key=jax.random.key(0))
    assert samples.states.positions.dtype == samples.log_density.dtype == jnp.float32
    assert samples.states.box.lengths.shape == (16, 3)
    kinetic = jax.vmap(system.kinetic_energy)(samples.states.velocities)
    # 16 samples of 96 degrees of freedom: sqrt(2/1536) = 3.6 %, five of which are 18 %
    np.testing.assert_allclose(jnp.mean(kinetic), 96 / 2 * rv.units.BOLTZMANN * 94.4, rtol=0.18)
    wanted = jax.vmap(SWITCHED.energy)(samples.states.positions, samples.states.box)
    np.testing.assert_allclose(-samples.log_density * rv.units.BOLTZMANN * 94.4, wanted, rtol=1e-5)  # float32


def test_samples_are_constants():
    sampler = rv.LangevinBAOAB(T, 1.0, dt=0.01, num_steps=3)

    def mean(k):
        system = rv.System(SYSTEM.topology, well(k))
        samples, chains = sampler.sample(system, START, CHAINS, key=jax.random.key(0))
        return jnp.sum(samples.states.positions**2) + jnp.sum(samples.log_density) + jnp.sum(chains.states.positions)

    assert jax.grad(mean)(K) == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("thermostat", [rv.LangevinBAOAB, rv.CSVR])
def test_a_thermostat_hides_no_explosion(thermostat, dtype):
    """Of atoms that a thousandfold time step throws far apart, energies and temperature are fine in the end: at the
    fastest an atom has all of 1000 times its mean energy and that at 1000 K, by which none comes so far."""
    rate = {rv.LangevinBAOAB: 100.0, rv.CSVR: 0.01}[thermostat]
    gas = rv.State(argon_state(dtype=dtype).positions, jnp.zeros((32, 3), dtype), rv.OpenBox()).repeat(2)
    system = rv.System(argon_topology(), SWITCHED)
    draw = lambda dt: thermostat(94.4, rate, dt=dt, num_steps=20).sample(system, gas, 4, key=jax.random.key(0))
    assert jnp.max(jnp.abs(draw(0.002)[0].states.positions)) < 10
    with pytest.raises(rv.SimulationError, match=r"come from chains that exploded: .* atoms as far out as .* nm"):
        draw(1.0)


def test_refused_settings():
    for name in ("temperature", "period"):
        settings = {"temperature": T, "period": 0.1} | {name: 0.0}
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            rv.CSVR(**settings, dt=0.001, num_steps=1)
    with pytest.raises(ValueError, match="`degrees_of_freedom` is 0"):
        rv.CSVR(T, 0.1, dt=0.001, num_steps=1, degrees_of_freedom=0)
