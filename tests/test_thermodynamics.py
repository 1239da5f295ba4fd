"""Thermodynamic observables: closed forms, and identities between fluctuations and derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import POTENTIALS, SWITCHED, argon_box, argon_positions, argon_topology, gaussian_samples, well

import reverlet as rv

T, P, ATOMS = 300.0, 40.0, 4
KB = rv.units.BOLTZMANN
TOPOLOGY = rv.Topology.from_elements(["Ar"] * ATOMS, molecules=[0, 0, 1, 1])


class MeanField(rv.AbstractPotential):
    """U = -a/(V + 0.2 nm³): an ideal gas with a little of a liquid."""

    a: jax.Array
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        return -self.a / (box.volume + 0.2) + 0 * jnp.sum(positions)


def volumes():
    """Not samples but a quadrature: boxes of all sizes, and positions integrated to V^N."""
    v = jnp.linspace(1e-4, 4.0, 4001)
    states = jax.vmap(lambda v: rv.State(jnp.zeros((ATOMS, 3)), None, _cube(v)))(v)
    return rv.Samples(states, -ATOMS * jnp.log(v), jnp.arange(len(v)), rv.NPT(T, P))


def _cube(volume):
    return eqx.tree_at(lambda b: b.lengths, rv.OrthorhombicBox(jnp.ones(3)), jnp.full(3, volume ** (1 / 3)))


ALL = rv.Joint(
    (
        rv.Density(), rv.Enthalpy(), rv.Enthalpy(kinetic=False, per_molecule=True), rv.HeatCapacity(),
        rv.HeatCapacity(per_molecule=True), rv.IsothermalCompressibility(), rv.ThermalExpansion(),
        rv.FreeEnergyDifference(rv.System(TOPOLOGY, MeanField(jnp.asarray(0.3)))),
    )
)  # fmt: skip


@eqx.filter_jit
def measured(parameters, samples):
    a, temperature, pressure = parameters
    system = rv.System(TOPOLOGY, MeanField(a))
    return jnp.stack(rv.expectation(ALL, system, samples, ensemble=rv.NPT(temperature, pressure)).value)


slopes = eqx.filter_jit(jax.jacfwd(measured))


def test_at_constant_pressure():
    samples = volumes()
    ideal = measured((jnp.asarray(0.0), jnp.asarray(T), jnp.asarray(P)), samples)
    n, kT = ATOMS, KB * T
    mass = float(np.sum(np.asarray(TOPOLOGY.masses)))
    wanted = [
        mass * P / (n * kT), (2.5 * n + 1) * kT, (n + 1) / 2 * kT, (2.5 * n + 1) * KB, (2.5 * n + 1) / 2 * KB, 1 / P,
        1 / T, -kT * np.log(_partition(0.3) / _partition(0.0)),
    ]  # fmt: skip
    np.testing.assert_allclose(ideal, wanted, rtol=1e-6)

    at = (jnp.asarray(0.5), jnp.asarray(T), jnp.asarray(P))
    density, enthalpy, _, heat, *_, compressibility, expansion, _ = measured(at, samples)
    by_a, by_t, by_p = slopes(at, samples)
    # fluctuations are derivatives of means
    np.testing.assert_allclose(heat, by_t[1], rtol=1e-9)
    volume = lambda p: _moments(*p)[0]
    np.testing.assert_allclose(compressibility, -jax.grad(volume)(at)[2] / volume(at), rtol=1e-6)
    np.testing.assert_allclose(expansion, jax.grad(volume)(at)[1] / volume(at), rtol=1e-6)
    np.testing.assert_allclose(density, mass * _moments(*at)[1], rtol=1e-6)
    # and all derivatives, by parameters and ensemble, those of reweighted means
    for k, (slope, step) in enumerate(zip((by_a, by_t, by_p), (1e-4, 1e-2, 1e-3), strict=True)):
        move = lambda s, k=k: measured(tuple(x + s * (j == k) for j, x in enumerate(at)), samples)
        difference = (8 * (move(step) - move(-step)) - (move(2 * step) - move(-2 * step))) / (12 * step)
        np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-9 * np.max(np.abs(difference)))
    assert float(enthalpy) < wanted[1]


def _grid():
    return jnp.linspace(1e-6, 4.0, 20001)


def _density(v, a, temperature, pressure):
    return v**ATOMS * jnp.exp((a / (v + 0.2) - pressure * v) / (KB * temperature))


def _partition(a):
    return float(jnp.trapezoid(_density(_grid(), a, T, P), _grid()))


def _moments(a, temperature, pressure):
    """⟨V⟩ and ⟨1/V⟩, by another quadrature."""
    v = _grid()
    p = _density(v, a, temperature, pressure)
    return jnp.sum(p * v) / jnp.sum(p), jnp.sum(p / v) / jnp.sum(p)


def test_heat_capacity_of_wells():
    """That of Dulong and Petit, and the derivative of the energy."""
    samples = gaussian_samples(0, 4000, 100.0, T, atoms=ATOMS)
    system = rv.System(TOPOLOGY, well())
    found = eqx.filter_jit(rv.expectation)(rv.HeatCapacity(), system, samples)
    assert abs(found.value - 3 * ATOMS * KB) < 4 * found.error
    assert found.error < 0.05 * found.value


def test_free_energies_of_wells():
    """Through a chain of states, to what is known in closed form; MBAR's own, with its derivatives."""
    ks = [50.0, 100.0, 200.0, 400.0]
    systems = [rv.System(TOPOLOGY, well(k)) for k in ks]
    pool = rv.mbar([(s, gaussian_samples(k, 500, ks[k], T, atoms=ATOMS)) for k, s in enumerate(systems)])

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def difference(ends):
        found = rv.expectation(rv.FreeEnergyDifference(ends[1]), ends[0], pool)
        return found.value, found.error

    (value, error), (a, b) = difference((systems[0], systems[-1]))
    kT = KB * T
    np.testing.assert_allclose(value, kT * (pool.pool.free_energies[-1] - pool.pool.free_energies[0]), rtol=1e-9)
    np.testing.assert_allclose(error, kT * pool.pool.free_energy_errors[-1], rtol=1e-6)
    assert abs(value - 1.5 * ATOMS * kT * np.log(ks[-1] / ks[0])) < 4 * error
    assert error < 0.05 * value
    np.testing.assert_allclose(a.potential.k, -1.5 * ATOMS * kT / ks[0], rtol=0.1)  # of 500 samples: 2 %
    np.testing.assert_allclose(b.potential.k, 1.5 * ATOMS * kT / ks[-1], rtol=0.1)

    # two temperatures, of one sample set: f = -3N/2 ln T + …
    samples = gaussian_samples(7, 4000, 100.0, T, atoms=ATOMS)
    found = eqx.filter_jit(rv.expectation)(rv.FreeEnergyDifference(ensemble=rv.NVT(1.2 * T)), systems[1], samples)
    assert abs(found.value + 1.5 * ATOMS * kT * np.log(1.2)) < 4 * found.error


def test_differences_of_phases():
    samples = gaussian_samples(3, 2000, 100.0, T, atoms=ATOMS)
    systems = rv.System(TOPOLOGY, well(100.0)), rv.System(TOPOLOGY, 2 * well(50.0))
    kT, ensemble = KB * T, rv.NVT(T)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def measure(k, property):
        here, there = (rv.System(TOPOLOGY, p) for p in (well(k), 2 * well(50.0)))
        observables = zip(property.observables, (here, there), strict=True)
        return property.combine(
            *(rv.expectation(o, s, samples).value for o, s in observables), ensemble, ensemble
        )  # fmt: skip

    chemical = rv.PhaseFreeEnergyDifference("there", *systems, 0.7)
    value, slope = measure(jnp.asarray(100.0), chemical)
    np.testing.assert_allclose(value, 0.7, rtol=1e-12)
    np.testing.assert_allclose(slope, -1.5 * 2 * kT / 100, rtol=0.05)  # two atoms in a molecule
    heat = rv.HeatOfVaporization(gas="there", correction=-0.5)
    assert heat.other == "there"
    # both phases have the same energy
    np.testing.assert_allclose(measure(jnp.asarray(100.0), heat)[0], kT - 0.5, rtol=1e-9)
    with pytest.raises(ValueError, match="at 300 K and 310 K; wanted one temperature"):
        heat.combine(value, value, ensemble, rv.NVT(310.0))
    box = rv.OrthorhombicBox(jnp.ones(3))
    states = jax.vmap(lambda x: rv.State(x, None, box))(samples.states.positions[:4])
    dense = rv.Samples.of(systems[0], rv.NPT(T, P), states)
    here = rv.expectation(heat.observables[0], systems[0], dense).value
    energies = jax.vmap(systems[0].potential_energy, (0, None))(states.positions, box)
    np.testing.assert_allclose(here, (jnp.mean(energies) + P) / 2, rtol=1e-9)


def test_elastic_constants_are_curvatures_of_the_free_energy():
    """Of a set of samples, strained together; in rotations of other kinds, which do not count."""
    topology, box = argon_topology(), argon_box()
    x = jnp.stack([jnp.asarray(argon_positions(seed=seed)) for seed in range(6)])
    states = jax.vmap(lambda x: rv.State(x, None, box))(x)
    system = rv.System(topology, SWITCHED)
    samples = rv.Samples.of(system, rv.NVT(T), states)

    @eqx.filter_jit
    def measure(parameters, observable):
        sigma, temperature = parameters
        moved = eqx.tree_at(lambda s: s.potential.sigma, system, sigma)
        return rv.expectation(observable, moved, samples, ensemble=rv.NVT(temperature)).value

    at = (SWITCHED.sigma, jnp.asarray(T))
    matrix = measure(at, rv.ElasticConstants())
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-10, atol=1e-8)

    @jax.jit
    def free_energy(strain):
        deformation = jnp.linalg.cholesky(jnp.eye(3) + 2 * strain, upper=True)
        energy = lambda x: system.potential_energy(x @ deformation.T, box.deform(deformation))
        moved = jax.vmap(energy)(x)
        ideal = -32 * KB * T * jnp.log(jnp.linalg.det(deformation))
        return -KB * T * jax.scipy.special.logsumexp(-moved / (KB * T) - samples.log_density) + ideal

    def along(voigt, h=6e-4):
        xx, yy, zz, yz, xz, xy = voigt
        e = jnp.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
        f = [free_energy(s * h * e) for s in (-2, -1, 0, 1, 2)]
        return (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * h**2) / box.volume

    for way in np.concatenate([np.eye(6)[[0, 3]], np.random.default_rng(0).normal(size=(2, 6))]):
        np.testing.assert_allclose(along(way), way @ matrix @ way, rtol=1e-5)

    cubic = measure(at, rv.CubicElasticConstants())
    np.testing.assert_allclose(cubic[0], np.mean(np.diagonal(matrix)[:3]), rtol=1e-12)
    np.testing.assert_allclose(cubic[1], (matrix[0, 1] + matrix[0, 2] + matrix[1, 2]) / 3, rtol=1e-9)
    np.testing.assert_allclose(cubic[2], np.mean(np.diagonal(matrix)[3:]), rtol=1e-12)
    # by a parameter and by the temperature
    way = (jnp.asarray(1.0), jnp.asarray(200.0))
    slope = eqx.filter_jit(lambda a: jax.jvp(lambda a: measure(a, rv.CubicElasticConstants()), (a,), (way,))[1])(at)
    move = lambda s: measure(jax.tree.map(lambda a, w: a + s * w, at, way), rv.CubicElasticConstants())
    h = 1e-5
    difference = (8 * (move(h) - move(-h)) - (move(2 * h) - move(-2 * h))) / (12 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


def diamond(a, cells=2):
    basis = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    corners = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    x = (corners + np.concatenate([basis, basis + 0.25])).reshape(-1, 3)
    return rv.State(jnp.asarray(x * a), None, rv.OrthorhombicBox(jnp.full(3, cells * a)))


@pytest.mark.slow
def test_elastic_constants_of_silicon_at_zero():
    """As published of its potential: E. R. Cowley, Phys. Rev. Lett. 60, 2379 (1988). Half of c44 is relaxation."""
    silicon = rv.System(rv.Topology.from_elements(["Si"] * 64), rv.StillingerWeber.silicon())
    state = diamond(0.5430950)  # nm, where the stress is zero
    found = rv.CubicElasticConstants().athermal(silicon, state)
    np.testing.assert_allclose(found / (1e4 * rv.units.BAR), [151.4, 76.4, 56.4], atol=0.06)
    # the bulk modulus, from energies alone
    energy = jax.jit(lambda s: silicon.potential_energy(state.positions * s, state.box.deform(s * jnp.eye(3))))
    h = 1e-3
    curvature = (energy(1 + h) - 2 * energy(1.0) + energy(1 - h)) / h**2 / (9 * state.box.volume)
    np.testing.assert_allclose((found[0] + 2 * found[1]) / 3, curvature, rtol=1e-3)
    away = eqx.tree_at(lambda s: s.positions, state, state.positions.at[0, 0].add(0.005))
    with pytest.raises(rv.SimulationError, match="nm from a minimum"), rv.SimulationError.unwrapped():
        jax.block_until_ready(rv.CubicElasticConstants().athermal(silicon, away))


@pytest.mark.slow
def test_elastic_constants_at_zero_have_derivatives():
    """Of a disordered solid, whose minimum moves with the parameters."""
    system = rv.System(argon_topology(), POTENTIALS["mixture"])
    start = rv.State(jnp.asarray(argon_positions(jitter=0.0)), None, argon_box())
    state = rv.minimize(system, start, tolerance=1e-4).state
    way = jnp.array([1.0, -0.5])
    of = lambda sigma: eqx.tree_at(lambda s: s.potential.sigma, system, sigma)
    athermal = rv.ElasticConstants().athermal
    sigma = system.potential.sigma
    slope = jax.jvp(lambda s: athermal(of(s), state), (sigma,), (way,))[1]

    def at(h):
        moved = of(sigma + h * way)
        return athermal(moved, rv.minimize(moved, state, tolerance=1e-5).state)

    h = 2e-5
    difference = (at(h) - at(-h)) / (2 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-5 * np.max(np.abs(difference)))


def test_bad_input():
    one = jnp.ones((2, 1))
    states = jax.vmap(lambda x: rv.State(x, None, rv.OpenBox()))(jnp.zeros((2, ATOMS, 3)))
    system, state = rv.System(TOPOLOGY, well()), rv.State(jnp.zeros((ATOMS, 3)), None, rv.OpenBox())
    for observable in (rv.Enthalpy(), rv.IsothermalCompressibility(), rv.ThermalExpansion()):
        with pytest.raises(ValueError, match=f"`{type(observable).__name__}` got an ensemble of NVT; wanted constant"):
            observable.reduce(jnp.zeros(1), one, jnp.ones(2) / 2, rv.NVT(T))
    for observable in (rv.Density(), rv.Enthalpy(), rv.ThermalExpansion(), rv.ElasticConstants()):
        with pytest.raises(ValueError, match="`OpenBox`, which has no volume"):
            observable.record(system, state, state)
    with pytest.raises(ValueError, match="an ensemble of NPT; wanted constant volume"):
        rv.ElasticConstants().reduce(jnp.zeros(1), (one,) * 4, jnp.ones(2) / 2, rv.NPT(T, P))
    with pytest.raises(ValueError, match="neither `system` nor `ensemble`"):
        rv.FreeEnergyDifference()
    samples = rv.Samples.of(system, rv.NVT(T), states)
    with pytest.raises(ValueError, match="from NVT to NPT, whose densities are over other variables"):
        rv.expectation(rv.FreeEnergyDifference(ensemble=rv.NPT(T, P)), system, samples)
