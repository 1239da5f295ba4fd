import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SKEWED, argon_state, argon_topology, assert_trees_close, central_difference, random_like, well

import reverlet as rv
from reverlet import units

K, MASS = 250.0, 39.948
OMEGA = np.sqrt(K / MASS)
CUBE = rv.OrthorhombicBox(jnp.full(3, 2.0))
FREE = rv.System(rv.Topology.from_elements(["O", "H", "H", "Ar"]), well(0.0))
M = FREE.topology.masses


def free_state(seed, box=CUBE):
    rng = np.random.default_rng(seed)
    return rv.State(jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 3))), box)


def records_of(observable, system, state, dt, num_steps):
    trajectory = rv.nve(system, state, dt=dt, num_steps=num_steps, record=observable.record)
    one = jnp.ones(1)
    return trajectory.times, observable.reduce(trajectory.times, trajectory.records[None], one)


@pytest.mark.parametrize("box", [CUBE, rv.TriclinicBox(2 * jnp.asarray(SKEWED))], ids=["cube", "triclinic"])
def test_ideal_gas_rdf_is_one(box):
    n, draws = 100, 400
    rdf = rv.RDF(0.9, 18)
    record = jax.jit(lambda x: rdf.record(None, rv.State(x, x, box), None))
    fractional = jax.random.uniform(jax.random.key(0), (draws, n, 3))
    records = jax.lax.map(record, fractional @ box.vectors)
    g = rdf.reduce(jnp.zeros(1), records[:, None], jnp.full(draws, 1 / draws))
    edges = np.asarray(rdf.edges)
    shells = edges[1:] ** 3 - edges[:-1] ** 3
    pairs = draws * n * (n - 1) / 2 * 4 / 3 * np.pi * shells / float(box.volume)
    # five of Poisson's standard errors, in the first bins too, where the smearing is as wide as the radius
    assert np.all(np.abs(np.asarray(g) - 1) < 5 / np.sqrt(pairs))
    np.testing.assert_allclose(rdf.centers, 0.5 * (edges[1:] + edges[:-1]))


def test_rdf_is_differentiable():
    state, rdf = argon_state(), rv.RDF(0.55, 11, 0.05)
    value = jax.jit(lambda x: jnp.sum(jnp.sin(rdf.record(None, rv.State(x, x, state.box), None))))
    w = random_like(state.positions, 0)
    slope = jnp.sum(jax.grad(value)(state.positions) * w)
    # truncation: step² over width² of the slope
    np.testing.assert_allclose(slope, central_difference(value, state.positions, w, 1e-6), rtol=1e-6)


def test_rdf_of_a_pair_of_elements_is_a_histogram():
    """Against NumPy's, of like and unlike pairs, in a triclinic box."""
    rng = np.random.default_rng(3)
    topology = rv.Topology.from_elements(["O", "H", "H"] * 20)
    box = rv.TriclinicBox(2 * jnp.asarray(SKEWED))
    x = rng.uniform(size=(60, 3)) @ np.asarray(box.vectors)
    r_max = 0.8
    shells = 4 / 3 * np.pi * np.diff(np.linspace(0, r_max, 9) ** 3)
    images = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ np.asarray(box.vectors)
    distances = np.min(np.linalg.norm(x[:, None, None] - x[None, :, None] + images, axis=-1), axis=2)
    for pair in (None, ("O", "O"), ("O", "H"), ("H", "O")):
        chosen = [np.array([pair is None or e == pair[k] for e in topology.elements]) for k in range(2)]
        pairs = np.outer(*chosen) & ~np.eye(60, dtype=bool)
        wanted = np.histogram(distances[pairs], 8, (0, r_max))[0] * float(box.volume) / (np.sum(pairs) * shells)
        system = rv.System(topology, well(0.0))
        got = rv.RDF(r_max, 8, pair=pair).record(system, rv.State(jnp.asarray(x), jnp.zeros((60, 3)), box), None)
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("width", [None, 0.03])
def test_a_smeared_rdf_is_what_two_atoms_at_its_distances_have(width):
    rdf = rv.RDF(0.8, 8, width)
    fine = (np.arange(4000) + 0.5) * 1e-3 / 4  # to 1 nm, with a share of the ideal gas's pairs in each shell
    g = 1 + np.exp(-(((fine - 0.4) / 0.05) ** 2))
    box = rv.OrthorhombicBox(jnp.full(3, 4.0))
    record = lambda r: rdf.record(None, rv.State(jnp.zeros((2, 3)).at[1, 0].set(r), jnp.zeros((2, 3)), box), None)
    shells = 4 * np.pi * fine**2 * (fine[1] - fine[0]) / float(box.volume)
    wanted = (shells * g) @ np.asarray(jax.lax.map(jax.jit(record), jnp.asarray(fine)))
    np.testing.assert_allclose(rdf.smeared(fine, g), wanted, rtol=2e-3)  # the bins' edges in a grid of 0.25 pm
    np.testing.assert_allclose(rdf.smeared(fine, np.ones(4000)), 1, rtol=1e-12)
    assert abs(float(rdf.smeared(fine, g)[3]) - 2) > 0.1  # of bins of 0.1 nm the peak is flat


def test_what_an_rdf_refuses():
    state = argon_state()
    system = rv.System(argon_topology(), well(0.0))
    with pytest.raises(ValueError, match=r"histogram, which has no derivative.*wanted a `width`"):
        jax.grad(lambda x: jnp.sum(rv.RDF(0.5, 5).record(system, rv.State(x, x, state.box), None)))(state.positions)
    with pytest.raises(rv.SimulationError, match=r"is 0\.7 nm; wanted at most half"), rv.SimulationError.unwrapped():
        jax.block_until_ready(jax.jit(lambda state: rv.RDF(0.7, 5).record(system, state, None))(state))
    with pytest.raises(ValueError, match="OpenBox"):
        rv.RDF(0.5, 5).record(system, rv.State(state.positions, state.velocities, rv.OpenBox()), None)
    for pair in (("O", "Xx"), ("O",)):
        with pytest.raises(ValueError, match=r"Xx|wanted 2 kinds of atoms"):
            rv.RDF(0.5, 5, pair=pair)
    with pytest.raises(ValueError, match=r"wanted increasing ones to at least 0\.5 nm"):
        rv.RDF(0.5, 5).smeared(np.array([0.1, 0.4]), np.ones(2))


def test_one_atom_keeps_its_motion():
    """In an outer field, with three degrees of freedom: against the closed form of an oscillator."""
    system = rv.System(rv.Topology.from_elements(["Ar"]), well(K))
    v = jnp.array([[0.3, -0.2, 0.5]])
    state = rv.State(jnp.zeros((1, 3)), v, rv.OpenBox())
    squared, mass = float(jnp.sum(v**2)), float(system.topology.masses[0])
    temperature = mass * squared / (3 * units.BOLTZMANN)
    np.testing.assert_allclose(rv.Temperature().record(system, state, state), temperature, rtol=1e-12)
    times, msd = records_of(rv.MSD(), system, state, 1e-3, 200)
    omega = np.sqrt(K / mass)
    np.testing.assert_allclose(msd, squared / omega**2 * np.sin(omega * times) ** 2, rtol=1e-4, atol=1e-9)
    drawn = jax.vmap(lambda k: rv.maxwell_boltzmann(system.topology, 300.0, key=k))(
        jax.random.split(jax.random.key(0), 4000)
    )
    np.testing.assert_allclose(jnp.mean(drawn**2) * mass / units.BOLTZMANN, 300, rtol=5 * np.sqrt(2 / 12000))


def test_a_net_charge_in_a_moving_frame_carries_no_current():
    topology = rv.Topology.from_elements(["Na", "Cl", "Na"])
    system = rv.System(topology, well(0.0), rv.PointCharges(jnp.array([1.0, -1.0, 1.0])))
    rng = np.random.default_rng(0)
    x, v = jnp.asarray(rng.normal(size=(2, 3, 3)))
    spectrum = rv.InfraredSpectrum(jnp.array([0.0, 1.0]), rv.spectra.CutoffWindow(1.0))
    for observable in (spectrum, rv.Conductivity(1.0)):
        rest, moving = (
            observable.record(system, rv.State(x, v + frame, CUBE), rv.State(x, v + frame, CUBE))
            for frame in (jnp.zeros(3), jnp.array([2.0, -1.0, 3.0]))
        )
        np.testing.assert_allclose(moving, rest, rtol=1e-12)
        assert np.all(np.abs(rest) > 0)


def test_free_particles():
    state, dt, num_steps = free_state(0), 0.01, 20
    v = np.asarray(state.velocities)
    v = v - np.average(v, axis=0, weights=M)  # the center of mass does not count
    squared = np.mean(np.sum(v**2, axis=1))
    times, msd = records_of(rv.MSD(), FREE, state, dt, num_steps)
    np.testing.assert_allclose(msd, squared * np.asarray(times) ** 2, atol=1e-12)  # rounding
    _, vacf = records_of(rv.VACF(), FREE, state, dt, num_steps)
    np.testing.assert_allclose(vacf, squared, rtol=1e-12)
    _, green_kubo = records_of(rv.SelfDiffusion(), FREE, state, dt, num_steps)
    np.testing.assert_allclose(green_kubo, squared * times[-1] / 3, rtol=1e-12)
    # the least-squares slope of t² over a stretch is twice its middle
    _, einstein = records_of(rv.SelfDiffusion(rv.Einstein(0.5)), FREE, state, dt, num_steps)
    middle = float(jnp.mean(times[10:]))
    np.testing.assert_allclose(einstein, squared * 2 * middle / 6, rtol=1e-10)


def test_pressure_of_springs_in_closed_form():
    """p V = 2K/3 - Σ k (r - r₀) r /3, and the tensor likewise: a spring pulls along its own direction only."""
    state = free_state(2)
    bonds = np.array([[0, 1], [0, 2], [1, 3]])
    system = rv.System(FREE.topology, rv.HarmonicBond(bonds, 100.0, 0.3))
    d = np.asarray(state.positions)[bonds[:, 1]] - np.asarray(state.positions)[bonds[:, 0]]
    d -= 2.0 * np.round(d / 2.0)
    r = np.linalg.norm(d, axis=1)
    v = np.asarray(state.velocities)
    tensor = np.einsum("i,ia,ib->ab", M, v, v) - np.einsum("p,pa,pb->ab", 100.0 * (r - 0.3) / r, d, d)
    _, stress = records_of(rv.Stress(), system, state, 1e-9, 1)  # two frames, as good as one
    np.testing.assert_allclose(stress, -tensor / 8, rtol=1e-5, atol=1e-5)
    _, pressure = records_of(rv.Pressure(), system, state, 1e-9, 1)
    np.testing.assert_allclose(pressure, np.trace(tensor) / 24, rtol=1e-5)
    with pytest.raises(ValueError, match="has no volume"):
        rv.Pressure().record(system, rv.State(state.positions, state.velocities, rv.OpenBox()), state)


def test_motion_of_the_center_of_mass_does_not_count():
    state = free_state(1)
    moved = rv.State(state.positions, state.velocities + jnp.array([3.0, -2.0, 1.0]), state.box)
    for observable in (rv.MSD(), rv.VACF(), rv.SelfDiffusion(), rv.SelfDiffusion(rv.Einstein())):
        a, b = (records_of(observable, FREE, s, 0.01, 10)[1] for s in (state, moved))
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)  # cancellation costs a few digits


def test_one_oscillator():
    """Two atoms in opposite phase in harmonic wells: cos φn, with cos φ = 1 - (ωh)²/2 for velocity Verlet."""
    system = rv.System(rv.Topology.from_elements(["Ar"] * 2), well(K))
    x0, dt = 0.03, 0.05
    v = np.array([[0.4, 0.0, 0.0], [-0.4, 0.0, 0.0]])
    at_rest = rv.State(jnp.zeros((2, 3)), jnp.asarray(v), rv.OpenBox())
    phi = np.arccos(1 - (OMEGA * dt) ** 2 / 2)
    times, vacf = records_of(rv.VACF(), system, at_rest, dt, 60)
    n = np.arange(61)
    np.testing.assert_allclose(vacf, 0.16 * np.cos(n * phi), atol=1e-12)
    # displaced: x = x0 cos φn
    displaced = rv.State(jnp.array([[x0, 0, 0], [-x0, 0, 0]]), jnp.zeros((2, 3)), rv.OpenBox())
    _, msd = records_of(rv.MSD(), system, displaced, dt, 60)
    np.testing.assert_allclose(msd, x0**2 * (1 - np.cos(n * phi)) ** 2, atol=1e-13)
    np.testing.assert_allclose(np.cos(phi / dt * np.asarray(times)), np.cos(n * phi), atol=1e-12)


def test_einstein_and_green_kubo_agree():
    """D of a Langevin particle from both routes, on exact curves of ⟨v·v⟩ and ⟨Δx²⟩."""
    gamma, variance = 2.0, 1.7
    times = jnp.linspace(0, 10, 2001)
    vacf = 3 * variance * jnp.exp(-gamma * times)
    msd = 6 * variance / gamma * (times - (1 - jnp.exp(-gamma * times)) / gamma)
    green_kubo = rv.GreenKubo().diffusion(times, vacf)
    einstein = rv.Einstein(0.6).diffusion(times, msd)
    np.testing.assert_allclose(green_kubo, variance / gamma, rtol=1e-5)  # the trapezoid rule, (γh)²/12
    np.testing.assert_allclose(einstein, variance / gamma, rtol=1e-5)  # e^{-12} of the slope is left


def test_two_routes_on_the_same_trajectories():
    """D(t) from the integral of the correlation function is a sixth of the slope of the mean squared displacement,
    for a stationary ensemble; the sum over n and -n of one trajectory makes it exact for each."""
    state = free_state(3)
    times, msd = records_of(rv.MSD(), FREE, state, 0.01, 100)
    _, vacf = records_of(rv.VACF(), FREE, state, 0.01, 100)
    slope = np.gradient(np.asarray(msd), np.asarray(times))[1:-1] / 6
    np.testing.assert_allclose(rv.statistics.running_integral(times, vacf)[1:-1] / 3, slope, rtol=1e-9)  # a parabola


def test_yeh_hummer():
    temperature, viscosity, length = 94.4, 2e-4, 2.5562e-9  # K, Pa s, m
    boltzmann = 1.380649e-23
    wanted = boltzmann * temperature * 2.837297 / (6 * np.pi * viscosity * length)  # m²/s
    ensemble = rv.NVT(temperature)
    correction = rv.YehHummer(viscosity * units.PASCAL_SECOND, length * units.METER)
    np.testing.assert_allclose(correction.correction(ensemble) / units.SQUARE_METER_PER_SECOND, wanted, rtol=1e-12)
    times, curve = jnp.linspace(0, 1, 11), jnp.ones((1, 11))
    plain = rv.SelfDiffusion().reduce(times, curve, jnp.ones(1))
    corrected = rv.SelfDiffusion(finite_size=correction).reduce(times, curve, jnp.ones(1), ensemble)
    np.testing.assert_allclose(corrected - plain, correction.correction(ensemble), rtol=1e-10)


def test_temperature_and_energy():
    topology, system = argon_topology(), rv.System(argon_topology(), well(K))
    temperature = rv.Temperature()
    x = jnp.zeros((32, 3))
    draw = lambda key: rv.State(x, rv.maxwell_boltzmann(topology, 94.4, key=key), rv.OpenBox())
    states = jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000))
    records = jax.vmap(lambda s: temperature.record(system, s, s))(states)
    mean = temperature.reduce(jnp.zeros(1), records[:, None], jnp.full(2000, 1 / 2000))
    np.testing.assert_allclose(mean, 94.4, rtol=5 * np.sqrt(2 / 93 / 2000))  # five standard errors
    state = rv.State(0.1 + x, 2 + x, rv.OpenBox())
    wanted = 32 * (0.5 * MASS * 12 + 0.5 * K * 0.03)
    np.testing.assert_allclose(rv.TotalEnergy().record(system, state, state), wanted, rtol=1e-13)


def test_reduce_weighs_samples():
    weights, records = jnp.array([0.25, 0.75]), jnp.arange(6.0).reshape(2, 3)
    times = jnp.arange(3.0)
    assert_trees_close(rv.VACF().reduce(times, records, weights), weights @ records, rtol=1e-15)
    assert_trees_close(rv.MSD().reduce(times, records, weights), weights @ records, rtol=1e-15)
    for observable in (rv.Temperature(), rv.TotalEnergy()):
        np.testing.assert_allclose(observable.reduce(times, records, weights), 0.25 * 1 + 0.75 * 4, rtol=1e-15)
