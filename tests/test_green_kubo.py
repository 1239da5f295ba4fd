"""Viscosity and thermal conductivity: their fluxes by independent formulas, their integrals by a closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    CUTOFF,
    EPSILON,
    SEEDS,
    SIGMA,
    SWITCHED,
    TEMPERATURE,
    argon_box,
    argon_positions,
    argon_state,
    argon_topology,
    central_difference,
    pair_sum,
    very_few,
    well,
)
from hypothesis import given

import reverlet as rv
from reverlet import units
from reverlet._observable._green_kubo import heat_current

SYSTEM = rv.System(argon_topology(), SWITCHED)
KT = units.BOLTZMANN * TEMPERATURE
ENSEMBLE = rv.NVT(TEMPERATURE)
OBSERVABLES = [rv.Viscosity(1.0), rv.ThermalConductivity(1.0)]
IDS = ["viscosity", "conductivity"]


def state_of(seed, dtype=None):
    return argon_state(seed=seed, dtype=dtype)


@jax.jit
def slopes_of_pairs(r):
    return jax.grad(lambda r: jnp.sum(jax.vmap(pair_of)(r)))(r)


viscous_flux = jax.jit(lambda s: rv.Viscosity(1.0).record(SYSTEM, s, s))


@given(SEEDS)
@very_few
def test_viscous_flux_by_forces_and_pairs(seed):
    """The virial by a plain sum over pairs: P = (Σ m v v + Σ_{i<j} r_ij F_ij)/V."""
    state = state_of(seed)
    x, v, m = state.positions, state.velocities, SYSTEM.topology.masses
    lengths = state.box.lengths
    i, j = np.triu_indices(len(x), 1)
    d = x[i] - x[j]
    d = d - lengths * jnp.round(d / lengths)
    slope = slopes_of_pairs(jnp.sqrt(jnp.sum(d**2, axis=1)))
    force = -(slope / jnp.sqrt(jnp.sum(d**2, axis=1)))[:, None] * d
    v = v - jnp.sum(m[:, None] * v, axis=0) / jnp.sum(m)
    pressure = (np.einsum("i,ia,ib->ab", m, v, v) + np.einsum("ia,ib->ab", d, force)) / state.box.volume
    traceless = pressure - np.trace(pressure) / 3 * np.eye(3)
    wanted = traceless * np.sqrt(float(state.box.volume) / 10)
    got = viscous_flux(state)
    # rounding, of a virial that is a sum of large terms of both signs
    np.testing.assert_allclose(got, wanted, atol=1e-11 * np.abs(pressure).max(), rtol=1e-10)
    assert abs(np.trace(got)) < 1e-12 * np.abs(got).max()


def pair_of(r):
    """The switched Lennard-Jones energy of one pair."""
    return pair_sum(jnp.stack([jnp.zeros(3), jnp.stack([r, 0.0 * r, 0.0 * r])]), None, SIGMA, EPSILON, CUTOFF, 0.4)


current = eqx.filter_jit(heat_current)
forces_in_the_open = jax.jit(lambda x: SWITCHED.forces(x, rv.OpenBox()))


@jax.jit
def moment_of_energy(x, v, m):
    i, j = np.triu_indices(len(x), 1)
    u = jax.vmap(pair_of)(jnp.sqrt(jnp.sum((x[i] - x[j]) ** 2, axis=1)))
    e = jnp.zeros(len(x)).at[i].add(0.5 * u).at[j].add(0.5 * u) + 0.5 * m[:, 0] * jnp.sum(v**2, axis=1)
    return jnp.sum(e[:, None] * x, axis=0)


@given(SEEDS)
@very_few
def test_heat_current_is_how_the_center_of_energy_moves(seed):
    """J = d/dt Σ e_i r_i in an open box, by finite differences along the true motion."""
    x = jnp.asarray(argon_positions(seed=seed))
    topology = SYSTEM.topology
    v = rv.maxwell_boltzmann(topology, 300.0, key=jax.random.key(seed))
    system, box = SYSTEM, rv.OpenBox()
    m, force = topology.masses[:, None], forces_in_the_open(x)

    def moment(t):  # to first order in t the motion is exact, and a central difference sees no more
        return moment_of_energy(x + t * v, v + t * force / m, m)

    wanted = central_difference(moment, jnp.asarray(0.0), 1.0, 1e-5)
    got = current(system, rv.State(x, v, box))
    # a step of 1e-5 ps moves atoms by 1e-6 of σ: an error of its square, and rounding 1e-16/1e-5 of the moment
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * float(jnp.max(jnp.abs(wanted))))


@pytest.mark.parametrize("observable", OBSERVABLES, ids=IDS)
def test_flux_in_a_moving_frame_wrapped_with_lists_and_in_single_precision(observable):
    state = argon_state(3)
    topology = argon_topology(3)
    compiled = eqx.filter_jit(lambda system, s: observable.record(system, s, s))
    record = lambda system, s: np.asarray(compiled(system, s))
    plain = record(rv.System(topology, SWITCHED), state)
    scale = np.abs(plain).max()
    moving = rv.State(state.positions, state.velocities + jnp.array([1.0, -2.0, 3.0]), state.box)
    wrapped = rv.State(jax.vmap(state.box.wrap)(state.positions + 7.7), state.velocities, state.box)
    for other in (moving, wrapped):  # rounding: the drift's energy, which cancels, is a hundred times the thermal one
        np.testing.assert_allclose(record(rv.System(topology, SWITCHED), other), plain, atol=1e-11 * scale)
    search = rv.CellList.fit(state.positions, state.box, cutoff=CUTOFF, skin=0.05, every=1)
    np.testing.assert_allclose(record(rv.System(topology, SWITCHED, search=search), state), plain, atol=1e-11 * scale)
    single = record(rv.System(topology, SWITCHED).astype(jnp.float32), argon_state(3, dtype=jnp.float32))
    assert single.dtype == np.float32
    # 1e-7 of forces that cancel in the sum over 108 atoms by two orders of magnitude
    np.testing.assert_allclose(single, plain, atol=2e-4 * scale)


@pytest.mark.parametrize("observable", OBSERVABLES, ids=IDS)
def test_ideal_gas_flux_fluctuates_as_known(observable):
    """The mean squares of the fluxes of free atoms, from moments of Gaussian velocities: every prefactor."""
    n, draws = 16, 4000
    topology = rv.Topology.from_elements(["Ar"] * n)
    box = rv.OrthorhombicBox(jnp.full(3, 2.0))
    free = rv.LennardJones(SIGMA, 1e-30, cutoff=0.1)  # a pair potential that does nothing
    x = jnp.asarray(argon_positions())[:n]
    record = lambda key: observable.record(
        rv.System(topology, free), rv.State(x, rv.maxwell_boltzmann(topology, TEMPERATURE, key=key), box), None
    )
    flux = jax.lax.map(record, jax.random.split(jax.random.key(0), draws))
    got = observable.factor(ENSEMBLE) * jnp.mean(jnp.sum(flux.reshape(draws, -1) ** 2, axis=1))
    # Relative to the center of mass ⟨v_a v_a⟩ is kT/m times s for one atom and c for two. By Isserlis' theorem, with u
    # and w two such vectors, the traceless part of uu has a mean square of 10 s², that of |u|²u is 105 s³, and the
    # products of those of two atoms are 10 c² and 75 s²c + 30 c³.
    s, c = 1 - 1 / n, -1 / n
    m, volume = float(topology.masses[0]), float(box.volume)
    if isinstance(observable, rv.Viscosity):
        stress = KT**2 * (n * 10 * s**2 + n * (n - 1) * 10 * c**2) / volume**2
        wanted = volume / (10 * KT) * stress
    else:
        current = m**2 / 4 * (KT / m) ** 3 * (n * 105 * s**3 + n * (n - 1) * (75 * s**2 * c + 30 * c**3))
        wanted = current / (3 * volume * units.BOLTZMANN * TEMPERATURE**2)
    # 4000 squares that scatter by at most 1.5 times their mean: tails of sixth powers included
    assert abs(got / wanted - 1) < 4 * 1.5 / np.sqrt(draws)


@pytest.mark.parametrize("observable", OBSERVABLES, ids=IDS)
def test_integral_of_an_ornstein_uhlenbeck_flux(observable):
    """⟨J(0)·J(t)⟩ = 3 c exp(-t/τ) of three components: ∫ to T is 3 c τ (1 - exp(-T/τ))."""
    c, tau, h, samples, frames = 0.7, 0.2, 0.02, 400, 400
    rng = np.random.default_rng(1)
    a = np.exp(-h / tau)
    flux = np.empty((samples, frames, 3))
    flux[:, 0] = np.sqrt(c) * rng.normal(size=(samples, 3))
    for k in range(1, frames):
        flux[:, k] = a * flux[:, k - 1] + np.sqrt(c * (1 - a**2)) * rng.normal(size=(samples, 3))
    times, weights = h * jnp.arange(frames), jnp.full(samples, 1 / samples)
    observable = type(observable)(max_time=0.6)
    got = observable.reduce(times, jnp.asarray(flux), weights, ENSEMBLE)
    # V/(10 kT) and 1/(3 V kT²), the volume aside
    factor = 1 / KT if isinstance(observable, rv.Viscosity) else 1 / (KT * TEMPERATURE)
    lags = h * np.arange(31)
    wanted = factor * np.trapezoid(
        3 * c * np.exp(-lags / tau), lags
    )  # the trapezoid rule adds (h/τ)²/12, which is tested below
    assert wanted == pytest.approx(factor * 3 * c * tau * (1 - np.exp(-3)), rel=1e-3)
    error = rv.statistics.infinitesimal_jackknife(
        lambda w: observable.reduce(times, jnp.asarray(flux), w, ENSEMBLE), weights
    )
    assert error < 0.03 * wanted
    assert abs(got - wanted) < 4 * error
    running = observable.running(times, jnp.asarray(flux), weights, ENSEMBLE)
    np.testing.assert_allclose(running[30], got, rtol=1e-12)  # the very lag
    # both directions: the same records on times from -T to T
    shifted = observable.reduce(times - times[-1] / 2, jnp.asarray(flux), weights, ENSEMBLE)
    np.testing.assert_allclose(shifted, got, rtol=1e-9)  # rounding of the lags


@pytest.mark.parametrize(
    "observable", [pytest.param(OBSERVABLES[0], marks=pytest.mark.slow), *OBSERVABLES[1:]], ids=IDS
)
def test_gradient_against_finite_differences(observable):
    observable = type(observable)(max_time=0.04)
    states = jax.vmap(lambda k: rv.State(argon_positions_of(k), velocities_of(k), argon_box()))(
        jax.random.split(jax.random.key(0), 2)
    )
    samples = rv.Samples.of(SYSTEM, ENSEMBLE, states)
    dynamics = rv.Dynamics(dt=0.005, num_steps=8, save_every=2)

    @jax.jit
    def value(parameters):
        potential = rv.LennardJones(parameters[0], parameters[1], cutoff=CUTOFF, truncation=rv.SmoothSwitch(0.4))
        return rv.expectation(observable, rv.System(SYSTEM.topology, potential), samples, dynamics=dynamics).value

    at = jnp.array([SIGMA, EPSILON])
    got = jax.grad(value)(at)
    for k, step in enumerate((1e-6, 1e-5)):  # steps of 3e-6 and 1e-5: error of their square, rounding 1e-16/1e-6
        wanted = central_difference(value, at, jnp.zeros(2).at[k].set(1.0), step)
        np.testing.assert_allclose(got[k], wanted, rtol=1e-6)


def argon_positions_of(key):
    return jnp.asarray(argon_positions(jitter=0)) + 0.02 * jax.random.normal(key, (32, 3))


def velocities_of(key):
    return rv.maxwell_boltzmann(SYSTEM.topology, TEMPERATURE, key=key)


def test_units_by_dimension():
    # liquid argon near its triple point: 2.8e-4 Pa s and 0.13 W/m/K (NIST); what they are inside
    assert units.PASCAL_SECOND * 2.8e-4 == pytest.approx(2.8e-4 / 1e3 * 6.02214076e23 * 1e-27 * 1e12)
    # (kJ/mol nm/ps)² ps / (nm³ kJ/mol/K K²) = kJ/mol/nm/ps/K
    joule, second, meter = 6.02214076e23 / 1e3, 1e12, 1e9
    assert joule / second / meter == pytest.approx(units.WATT_PER_METER_KELVIN)


def test_a_time_of_numpy_is_a_number():
    for observable in (rv.Viscosity, rv.ThermalConductivity):
        assert type(observable(np.float64(0.1)).max_time) is float


def test_refusals():
    state = argon_state()
    opened = rv.State(state.positions, state.velocities, rv.OpenBox())
    for observable in OBSERVABLES:
        with pytest.raises(ValueError, match="OpenBox"):
            observable.record(SYSTEM, opened, opened)
        with pytest.raises(ValueError, match="single frame"):
            observable.reduce(jnp.zeros(1), jnp.ones((1, 1, 3)), jnp.ones(1), ENSEMBLE)
        with pytest.raises(ValueError, match="needs the temperature of an ensemble"):
            observable.reduce(jnp.arange(3.0), jnp.ones((1, 3, 3)), jnp.ones(1))
        with pytest.raises(ValueError, match=r"`max_time` is -1\.0"):
            type(observable)(max_time=-1.0)
        with pytest.raises(FloatingPointError, match=r"`max_time` is 3 ps, .* 2 ps long"):
            type(observable)(max_time=3.0).reduce(jnp.arange(3.0), jnp.ones((1, 3, 3)), jnp.ones(1), ENSEMBLE)
    for potential, name in (
        (well(), "Well"),
        (rv.TailCorrected(SWITCHED), "TailCorrected"),
        (SWITCHED + well(), "Sum"),
    ):
        with pytest.raises(TypeError, match=f"got a `{name}`; wanted an `AbstractPairPotential`"):
            rv.ThermalConductivity(1.0).record(rv.System(SYSTEM.topology, potential), state, state)
