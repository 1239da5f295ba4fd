"""Whether thermostats sample what they say, by the tests of P. T. Merz and M. R. Shirts, PLoS ONE 13, e0202764 (2018).

In an environment of its own, `nox -s physics`, since `physical_validation` brings `pymbar`, which changes the precision
of the whole process. Liquid argon, 32 atoms with a switched cutoff: 1,600 samples of 16 chains, 2 ps apart, from each
of three thermostats at two temperatures and two time steps; and half as many from two barostats, also at two pressures.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NEAR, SWITCHED, argon_state, argon_topology

import reverlet as rv

pv = pytest.importorskip("physical_validation", reason="in a session of its own: nox -s physics")

ATOMS, CHAINS, ROUNDS, INTERVAL = 32, 16, 100, 2.0  # ps
SYSTEM = rv.System(argon_topology(), SWITCHED)
COLD, HOT = 94.4, 104.4  # K
STEPS = (0.004, 0.008)  # ps
THERMOSTATS = ("LangevinBAOAB", "CSVR", "NoseHooverChain")
FREE = {"LangevinBAOAB": 3 * ATOMS, "CSVR": 3 * ATOMS - 3, "NoseHooverChain": 3 * ATOMS - 3}


def langevin(temperature, dt):
    return rv.LangevinBAOAB(temperature, 2.0, dt=dt, num_steps=round(INTERVAL / dt))


@eqx.filter_jit
def energies(states):
    potential = lambda s: SYSTEM.potential_energy(s.positions, s.box)
    return jax.vmap(potential)(states), jax.vmap(lambda s: SYSTEM.kinetic_energy(s.velocities))(states)


def noses(temperature, dt, states):
    """Chains of Nosé–Hoover trajectories: (chains rounds) energies."""
    dynamics = rv.Dynamics(
        dt=dt,
        num_steps=ROUNDS * round(INTERVAL / dt),
        save_every=round(INTERVAL / dt),
        solver=rv.NoseHooverChain(temperature, 0.5),
    )
    still = lambda v: v - jnp.mean(v, axis=-2, keepdims=True)  # of equal masses
    states = states.with_velocities(still(states.velocities))
    run = eqx.filter_jit(lambda s: dynamics.run_many(SYSTEM, s, energies_of))
    return jax.tree.map(lambda x: x[:, 1:].reshape(-1), run(states).records)


def energies_of(system, state, initial):
    return system.potential_energy(state.positions, state.box), system.kinetic_energy(state.velocities)


@functools.cache
def melted(temperature):
    """Equilibrated chains: 40 ps from a lattice."""
    sampler = langevin(temperature, 0.004)
    key = jax.random.key(int(10 * temperature))
    return sampler.sample(SYSTEM, argon_state().repeat(CHAINS), 20 * CHAINS, key=key)[1].states


@functools.cache
def data(name, temperature, dt):
    """What `physical_validation` takes, of one simulation."""
    states, key = melted(temperature), jax.random.key(THERMOSTATS.index(name))
    if name == "NoseHooverChain":
        potential, kinetic = noses(temperature, dt, states)
    else:
        sampler = langevin(temperature, dt)
        if name == "CSVR":
            sampler = rv.CSVR(temperature, 0.2, dt=dt, num_steps=round(INTERVAL / dt))
        samples, _ = sampler.sample(SYSTEM, states, CHAINS * ROUNDS, key=key)
        potential, kinetic = energies(samples.states)
    potential, kinetic = np.asarray(potential), np.asarray(kinetic)
    return pv.data.SimulationData(
        units=pv.data.UnitData.units("GROMACS"),  # kJ/mol, nm, ps: ours
        dt=dt,
        system=pv.data.SystemData(
            natoms=ATOMS,
            nconstraints=0,
            ndof_reduction_tra=3 * ATOMS - FREE[name],
            ndof_reduction_rot=0,
            mass=np.full(ATOMS, 39.948),
        ),
        ensemble=pv.data.EnsembleData(
            "NVT", natoms=ATOMS, volume=float(argon_state().box.volume), temperature=temperature
        ),
        observables=pv.data.ObservableData(
            kinetic_energy=kinetic, potential_energy=potential, total_energy=kinetic + potential
        ),
    )


@pytest.mark.parametrize("dt", STEPS)
@pytest.mark.parametrize("name", THERMOSTATS)
def test_the_kinetic_energy_is_canonical(name, dt):
    """The mean and the width of its distribution, within three of their standard errors."""
    away = pv.kinetic_energy.distribution(
        data(name, COLD, dt), verbosity=0, bs_repetitions=500, bootstrap_seed=1, data_is_uncorrelated=True
    )
    print(f"{name}, {dt} ps: kinetic temperatures by mean and width {away[0]:.2f}, {away[1]:.2f} standard errors off")
    assert np.all(np.abs(away) < 3)


@pytest.mark.parametrize("dt", STEPS)
@pytest.mark.parametrize("name", THERMOSTATS)
def test_the_ratio_of_two_temperatures(name, dt):
    """ln of the ratio of the potential energy's distributions is linear, with the slope 1/kT - 1/kT'."""
    (away,) = pv.ensemble.check(data(name, COLD, dt), data(name, HOT, dt), verbosity=0, data_is_uncorrelated=True)
    print(f"{name}, {dt} ps: slope of the ratio {away:.2f} standard errors off")
    assert abs(away) < 3


@pytest.mark.parametrize("name", ["VelocityVerlet", "NoseHooverChain"])
def test_what_is_conserved_converges(name):
    """Fluctuations of the conserved quantity fall with the square of the time step: of what has one, without noise."""
    state = jax.tree.map(lambda x: x[0], melted(COLD))
    state = state.with_velocities(state.velocities - jnp.mean(state.velocities, axis=0))
    solver = rv.VelocityVerlet() if name == "VelocityVerlet" else rv.NoseHooverChain(COLD, 0.5)
    total = lambda s: SYSTEM.kinetic_energy(s.velocities) + SYSTEM.potential_energy(s.positions, s.box)
    conserved = total if name == "VelocityVerlet" else lambda s: solver.conserved(SYSTEM, s)
    simulations = []
    for dt in (0.002, 0.004, 0.008):
        states = rv.nve(SYSTEM, state, solver, dt=dt, num_steps=round(16 / dt), save_every=round(0.016 / dt)).records
        simulations.append(
            pv.data.SimulationData(
                units=pv.data.UnitData.units("GROMACS"),
                dt=dt,
                observables=pv.data.ObservableData(constant_of_motion=np.asarray(jax.vmap(conserved)(states))),
            )
        )
    deviation = pv.integrator.convergence(simulations, verbose=False)
    print(f"{name}: ratios of fluctuations up to {deviation:.3f} off those of the squares of the time steps")
    assert deviation < 0.3  # trajectories of different time steps are different, and short


# of a shorter cutoff than half of any box that it comes to, and as dense as a liquid, where argon does not freeze
PRESSED = rv.System(argon_topology(), NEAR)
WARM, WARMER = 150.0, 165.0  # K
LOW, HIGH = 60.0, 80.0  # kJ/mol/nm³
BAROSTATS = ("StochasticCellRescaling", "MonteCarloBarostat")


@functools.cache
def pressed(name, temperature, pressure, dt):
    """What `physical_validation` takes, of one simulation at constant pressure."""
    states, key, num_steps = melted(temperature), jax.random.key(BAROSTATS.index(name)), round(INTERVAL / dt)
    if name == "StochasticCellRescaling":
        fast = {"period": 0.2, "compressibility": 2e-4 / rv.units.BAR}
        barostat = rv.StochasticCellRescaling(langevin(temperature, dt), pressure, every=10, **fast)
    else:
        thermostat = rv.CSVR(temperature, 0.2, dt=dt, num_steps=num_steps)
        barostat = rv.MonteCarloBarostat(thermostat, pressure, every=10, size=0.1)
    _, chains = barostat.sample(PRESSED, states, 10 * CHAINS, key=key)
    samples, ends = barostat.sample(PRESSED, chains, CHAINS * ROUNDS // 2, key=key)
    potential = jax.lax.map(lambda s: NEAR.energy(s.positions, s.box), samples.states)
    potential, volume = np.asarray(potential), np.asarray(samples.states.box.volume)
    print(f"{name}, {temperature} K, {pressure}, {dt} ps: {np.mean(ends.cell.acceptance):.3f} of the moves accepted,"
          f" ⟨V⟩ {volume.mean():.4f}")  # fmt: skip
    return pv.data.SimulationData(
        units=pv.data.UnitData.units("GROMACS"),
        dt=dt,
        system=pv.data.SystemData(natoms=ATOMS, nconstraints=0, ndof_reduction_tra=0, ndof_reduction_rot=0),
        ensemble=pv.data.EnsembleData("NPT", natoms=ATOMS, pressure=pressure / rv.units.BAR, temperature=temperature),
        observables=pv.data.ObservableData(potential_energy=potential, volume=volume),
    )


@pytest.mark.parametrize("dt", STEPS)
@pytest.mark.parametrize("name", BAROSTATS)
def test_the_ratio_of_two_temperatures_at_constant_pressure(name, dt):
    """ln of the ratio of the distributions of U + pV is linear, with the slope 1/kT - 1/kT'."""
    pair = pressed(name, WARM, LOW, dt), pressed(name, WARMER, LOW, dt)
    (away,) = pv.ensemble.check(*pair, verbosity=0, data_is_uncorrelated=True)
    print(f"{name}, {dt} ps: slope of the ratio {away:.2f} standard errors off")
    assert abs(away) < 3


@pytest.mark.parametrize("dt", STEPS)
@pytest.mark.parametrize("name", BAROSTATS)
def test_the_ratio_of_two_pressures(name, dt):
    """ln of the ratio of the distributions of the volume is linear, with the slope (p - p')/kT."""
    pair = pressed(name, WARM, LOW, dt), pressed(name, WARM, HIGH, dt)
    (away,) = pv.ensemble.check(*pair, verbosity=0, data_is_uncorrelated=True)
    print(f"{name}, {dt} ps: slope of the ratio {away:.2f} standard errors off")
    assert abs(away) < 3
