"""Boltzmann inversion and relative entropy, where closed forms are known: two atoms alone, an ideal gas, a spring."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv
from reverlet import _coarse_graining as inner
from reverlet.coarse_graining import boltzmann_inversion, iterative_boltzmann_inversion, relative_entropy_step

KT = rv.units.BOLTZMANN * 300.0
BOX = rv.OrthorhombicBox(jnp.full(3, 2.0))
RDF = rv.RDF(0.9, 90)
TRUE = lambda r: KT * 1.5 * np.cos(np.pi * r / 0.8) * (r < 0.8) * (1 - r / 0.8)
KNOTS = {"first": 0.1, "cutoff": 0.8}


class Uniform(rv.AbstractSampler):
    """An ideal gas, drawn at once."""

    def sample(self, system, chains, num_samples, *, key):
        chains = chains if isinstance(chains, rv.Chains) else rv.Chains(chains)
        shape = (num_samples, *chains.states.positions.shape[1:])
        x = jax.random.uniform(key, shape, maxval=2.0)
        states = jax.vmap(lambda x: rv.State(x, 0 * x, BOX))(x)
        some = jax.tree.map(lambda a: a[: len(chains)], states)
        density = jnp.zeros(num_samples)
        return rv.Samples(states, density, jnp.arange(num_samples), rv.NVT(300.0)), rv.Chains(some)


def test_a_dilute_gas_at_once():
    """u = -kT ln g of two atoms alone, whatever g is normalized to."""
    r = np.asarray(RDF.centers)
    g = 0.97 * np.exp(-TRUE(r) / KT)
    values = boltzmann_inversion(RDF, g, temperature=300.0, num_knots=29, **KNOTS)
    knots = np.linspace(0.1, 0.8, 29)
    np.testing.assert_allclose(values, TRUE(knots), atol=0.015 * KT)  # averaged about each knot
    core = np.where(r < 0.3, 0.0, g)
    values = boltzmann_inversion(RDF, core, temperature=300.0, num_knots=29, **KNOTS)
    assert np.all(np.diff(values[knots < 0.29]) <= -50 * KT * (knots[1] - knots[0]) * (1 - 1e-9))
    np.testing.assert_allclose(values[knots > 0.32], TRUE(knots[knots > 0.32]), atol=0.03 * KT)


def test_one_iteration_from_nothing_with_two_species(tmp_path):
    """From an ideal gas, which has g = 1, to -kT ln g* of every two species; on from a checkpoint."""
    species = np.array([0, 0, 0, 1, 1, 1])
    table = rv.TabulatedPair(np.zeros((2, 2, 15)), species=species, **KNOTS)
    prior = rv.LennardJones(0.1, 1e-9, cutoff=0.5)
    system = rv.System(rv.Topology.from_elements(["O", "O", "O", "H", "H", "H"]), prior + table)
    rdfs = [rv.RDF(0.9, 30, pair=pair) for pair in (("O", "O"), ("O", "H"), ("H", "H"))]
    r = np.asarray(rdfs[0].centers)
    targets = [np.exp(-scale * TRUE(r) / KT) for scale in (1.0, 0.5, -0.5)]
    start = rv.State(jnp.ones((6, 3)), jnp.zeros((6, 3)), BOX).repeat(2)
    run = lambda n, **o: iterative_boltzmann_inversion(
        system, rdfs, targets, Uniform(), start, num_iterations=n, num_samples=6000, most=5.0, key=jax.random.key(0),
        checkpoint=tmp_path / "ibi", **o,
    )  # fmt: skip
    found = run(1)
    values = found.potential.part(rv.TabulatedPair).values
    knots = table.knots
    for (a, b), scale in (((0, 0), 1.0), ((0, 1), 0.5), ((1, 0), 0.5), ((1, 1), -0.5)):
        # of at least 18000 pairs 4πr²Δr/V are in a bin: 8 % at 0.4 nm
        np.testing.assert_allclose(values[a, b, 6:], scale * TRUE(knots[6:]), atol=0.2 * KT)
    assert found.simulations == 1
    assert found.potential.part(rv.LennardJones) == prior
    np.testing.assert_allclose(
        found.history.squared_errors[0], [np.mean((found.history.rdfs[k][0] - targets[k]) ** 2) for k in range(3)]
    )
    again = run(2, resume="auto")
    assert again.simulations == 2
    assert np.array_equal(again.history.rdfs[0][0], found.history.rdfs[0][0])
    other = [targets[0], targets[1], targets[1]]
    with pytest.raises(rv.CheckpointError, match="of another fit"):
        iterative_boltzmann_inversion(
            system, rdfs, other, Uniform(), start, num_iterations=3, num_samples=6000, most=5.0,
            key=jax.random.key(0), checkpoint=tmp_path / "ibi", resume="auto",
        )  # fmt: skip


def test_the_ramp_makes_up_for_the_pressure():
    """At the same configurations, by the virial of the potential with it."""
    x = jax.random.uniform(jax.random.key(1), (4, 30, 3), maxval=2.0)
    states = jax.vmap(lambda x: rv.State(x, 0 * x, BOX))(x)
    table = rv.TabulatedPair(np.zeros((2, 2, 15)), species=np.arange(30) % 2, **KNOTS)
    topology = rv.Topology.from_elements(["O", "H"] * 15)
    rdfs = [rv.RDF(0.8, 200, pair=pair) for pair in (("O", "O"), ("O", "H"), ("H", "H"))]
    samples = rv.Samples(states, jnp.zeros(4), jnp.arange(4), rv.NVT(300.0))
    measure = lambda potential, *o: (
        rv.expectation(
            rv.Joint((*o, rv.Pressure())), rv.System(topology, potential), samples, thermodynamic=False
        ).value
    )
    *g, before = eqx.filter_jit(measure)(table, *rdfs)
    missing = 0.3
    height = inner._ramp(table, rdfs, g, 30, 8.0, missing)
    moved = eqx.tree_at(lambda t: t.values, table, table.values + height * (1 - table.knots / table.cutoff))
    after = jnp.mean(jax.vmap(rv.System(topology, moved).pressure)(states))
    np.testing.assert_allclose(after - before, missing, rtol=2e-3)  # distances are those of bins of 0.004 nm


SPRING = lambda k, x, box: 0.5 * k * jnp.sum(x**2)


def test_relative_entropy_of_a_spring():
    """Its best stiffness is kT/⟨x²⟩ of the target; gradient and step are those of the moments."""
    topology = rv.Topology.from_elements(["Ar"])
    box = rv.OpenBox()
    drawn = lambda k, seed: (KT / k) ** 0.5 * jax.random.normal(jax.random.key(seed), (4000, 1, 3))
    states = lambda x: jax.vmap(lambda x: rv.State(x, 0 * x, box))(x)
    target, k = drawn(300.0, 0), 200.0
    best = 3 * KT / np.mean(np.sum(np.asarray(target) ** 2, axis=(1, 2)))
    for seed in (1, 2, 3, 4):
        system = rv.System(topology, rv.FunctionPotential(SPRING, jnp.asarray(k)))
        x = drawn(k, seed)
        samples = rv.Samples.of(system, rv.NVT(300.0), states(x))
        step = relative_entropy_step(system, states(target), samples, ridge=0.0)
        half = 0.5 * np.sum(np.asarray(x) ** 2, axis=(1, 2))
        gradient = (0.5 * np.mean(np.sum(np.asarray(target) ** 2, axis=(1, 2))) - half.mean()) / KT
        np.testing.assert_allclose(step.gradient, [gradient], rtol=1e-9)
        np.testing.assert_allclose(step.curvature, [[half.var() / KT**2]], rtol=1e-9)
        np.testing.assert_allclose(step.potential.parameters, k - gradient * KT**2 / half.var(), rtol=1e-9)
        np.testing.assert_allclose(step.gradient_error, half.std() / KT / 4000**0.5, rtol=0.01)
        k = float(step.potential.parameters)
    np.testing.assert_allclose(k, best, rtol=0.05)  # 4000 samples of 3 squares: 1.3 % twice
    assert 0 <= step.decrease < 0.01
    apart = lambda p, x, box: 0.5 * (p[0] * jnp.sum(x[:, 0] ** 2) + 1e6 * p[1] * jnp.sum(x[:, 1:] ** 2))
    system = rv.System(topology, rv.FunctionPotential(apart, (jnp.asarray(k), jnp.asarray(1e-6 * k))))
    samples = rv.Samples.of(system, rv.NVT(300.0), states(x))
    along, across = relative_entropy_step(system, states(target), samples).potential.parameters
    np.testing.assert_allclose([along, 1e6 * across], best, rtol=0.1)  # whatever their units


@pytest.mark.slow
def test_inversion_of_a_liquid():
    """The g(r) of a Lennard-Jones liquid is met, and so is its pressure, from a first guess by inversion."""
    topology = rv.Topology.from_elements(["Ar"] * 108)
    cell = rv.OrthorhombicBox(jnp.full(3, 1.75, jnp.float32))
    sites = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    x = jnp.asarray((sites + basis).reshape(-1, 3) * 1.75 / 3, jnp.float32)
    velocities = rv.maxwell_boltzmann(topology, 120.0, key=jax.random.key(0)).astype(jnp.float32)
    start = rv.State(x, velocities, cell).repeat(2)
    sampler = rv.LangevinBAOAB(120.0, 2.0, dt=0.005, num_steps=40)
    rdf = rv.RDF(0.85, 85)
    measured = rv.Joint((rdf, rv.Pressure()))

    def run(system, chains, num, key):
        samples, chains = sampler.sample(system, chains, num, key=key)
        return rv.expectation(measured, system, samples), chains

    run = eqx.filter_jit(run)
    liquid = rv.System(topology, rv.LennardJones(0.34, 1.0, cutoff=0.85, truncation=rv.SmoothSwitch(0.75)))
    _, melted = run(liquid, rv.Chains(start), 40, jax.random.key(1))
    wanted, _ = run(liquid, melted, 200, jax.random.key(2))
    g, pressure = wanted.value
    values = boltzmann_inversion(rdf, g, temperature=120.0, first=0.25, cutoff=0.85, num_knots=40)
    system = rv.System(topology, rv.TabulatedPair(jnp.asarray(values, jnp.float32), first=0.25, cutoff=0.85))
    options = {"num_samples": 60, "equilibration": 10, "pressure": float(pressure), "key": jax.random.key(3)}
    found = iterative_boltzmann_inversion(system, [rdf], [g], sampler, melted, num_iterations=12, **options)
    errors = found.history.squared_errors[:, 0]
    assert errors[-3:].mean() < 0.1 * errors[0]
    assert errors[-3:].mean() < 2e-3
    off = np.abs(found.history.pressure - float(pressure))
    assert off[-3:].mean() < 0.3 * off[0]


@pytest.mark.usefixtures("without_type_checks")
def test_bad_input():
    table = rv.TabulatedPair(np.zeros((2, 2, 15)), species=np.array([0, 1]), **KNOTS)
    system = rv.System(rv.Topology.from_elements(["O", "H"]), table)
    start = rv.State(jnp.ones((2, 3)), jnp.zeros((2, 3)), BOX).repeat(1)
    ones, short = np.ones(90), rv.RDF(0.7, 90)
    run = lambda system=system, rdfs=(RDF,) * 3, targets=(ones,) * 3, **o: iterative_boltzmann_inversion(
        system, rdfs, targets, Uniform(), start,
        **{"num_iterations": 1, "num_samples": 4, "key": jax.random.key(0), **o},
    )  # fmt: skip
    lj = rv.System(system.topology, rv.LennardJones(0.3, 1.0, cutoff=0.5))
    for call, match in (
        (lambda: run(rdfs=(RDF,)), r"1 `rdfs` and 3 `targets` for a table of 2 species; wanted 3 of each"),
        (lambda: run(targets=(ones[:4],) * 3), r"`targets` has shape \(4,\)"),
        (lambda: run(targets=(-ones,) * 3), "`targets` is -1.0"),
        (lambda: run(rdfs=(short,) * 3), "end at 0.7 nm, before the cutoff of 0.8 nm"),
        (lambda: run(lj), "`potential` is"),
        (lambda: run(rv.System(system.topology, lj.potential + lj.potential)), "0 parts of type `TabulatedPair`"),
        (lambda: run(damping=0.0), "`damping` is 0.0"),
        (lambda: run(pressure=np.nan), "`pressure` is nan"),
        (lambda: boltzmann_inversion(RDF, 0 * ones, temperature=300.0, num_knots=9, **KNOTS), "nowhere above zero"),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            call()
