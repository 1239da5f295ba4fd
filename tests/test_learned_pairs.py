"""Pair potentials that are learned, and surfaces that depend on the temperature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    CUTOFF,
    Position,
    argon_box,
    argon_positions,
    assert_trees_close,
    central_difference,
    gaussian_samples,
    lennard_jones,
    random_like,
    well,
)

import reverlet as rv

BOX, X = argon_box(), jnp.asarray(argon_positions(jitter=0.015))
SPECIES = np.arange(32) % 3 // 2
NETWORK = rv.pairs.NeuralPair.fresh(
    cutoff=CUTOFF, species=SPECIES, num_basis=6, neurons=(5, 4), scale=2.0, key=jax.random.key(0)
)


def formula(network, r, a, b):
    """In NumPy, of one distance."""
    silu = lambda x: x / (1 + np.exp(-x))
    h = np.exp(-0.5 * ((r - np.asarray(network.basis.centers)) / np.asarray(network.basis.widths)) ** 2)
    for layer in network.layers:
        bias = np.asarray(layer.bias)
        h = silu(h @ np.asarray(layer.weights) + bias) - silu(bias)
    t = np.clip((r / CUTOFF - 0.8) / 0.2, 0, 1)
    return h @ np.asarray(network.readout[a, b]) * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5)


def test_a_network_against_a_plain_sum():
    lengths = np.diagonal(np.asarray(BOX.vectors))
    d = np.asarray(X)[:, None] - np.asarray(X)[None]
    r = np.linalg.norm(d - lengths * np.round(d / lengths), axis=-1)
    near = [(i, j) for i in range(32) for j in range(i) if r[i, j] < CUTOFF]
    wanted = sum(formula(NETWORK, r[i, j], SPECIES[i], SPECIES[j]) for i, j in near)
    np.testing.assert_allclose(NETWORK.energy(X, BOX), wanted, rtol=1e-12)
    # zero far away, whatever the truncation
    assert NETWORK.pair_energy(jnp.asarray(25.0), jnp.asarray(0), jnp.asarray(1)) == 0
    # the other half of the matrix counts alike, to the last bit, as tables want it
    lopsided = eqx.tree_at(lambda p: p.readout, NETWORK, NETWORK.readout.at[0, 1].add(1.0))
    u = lambda i, j: lopsided.pair_energy(jnp.asarray(0.1), jnp.asarray(i), jnp.asarray(j))
    assert u(0, 2) == u(2, 0) != NETWORK.pair_energy(jnp.asarray(0.1), jnp.asarray(0), jnp.asarray(2))
    assert lopsided.tabulated(0.2, 10).num_species == 2
    alone = rv.pairs.NeuralPair.fresh(cutoff=CUTOFF, num_basis=6, neurons=(5, 4), key=jax.random.key(0))
    assert alone.readout.shape == (4,)
    assert jnp.isfinite(alone.energy(X, BOX))


@pytest.mark.parametrize("table", [False, True])
def test_derivatives_by_all_weights(table):
    """Of a work of forces, of the network itself and through its table; against finite differences."""
    x = X[:9]
    network = eqx.tree_at(lambda p: p.species, NETWORK, jnp.asarray(SPECIES[:9]))
    parameters, rest = eqx.partition(network, eqx.is_inexact_array)
    w = random_like(x, 0)

    @jax.jit
    def work(parameters):
        network = eqx.combine(parameters, rest)
        return jnp.sum((network.tabulated(0.25, 12) if table else network).forces(x, BOX) * w)

    slopes = jax.jit(jax.grad(work))(parameters)
    along = random_like(parameters, 1)
    got = sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (slopes, along)), strict=True))
    # the step squared times a third derivative, which Gaussians of 0.1 nm make large
    np.testing.assert_allclose(got, central_difference(work, parameters, along, 1e-6), rtol=1e-6)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(slopes))


def test_a_table_of_a_network():
    """Its error falls with the fourth power of the spacing, away from the ends and from where the switch begins."""
    r = np.linspace(0.25, 0.4, 60)
    wanted = np.array([formula(NETWORK, one, 0, 1) for one in r])

    def worst(num_knots):
        table = NETWORK.tabulated(0.15, num_knots)
        at = jax.jit(jax.vmap(lambda r: table.pair_energy(r * r, jnp.asarray(0), jnp.asarray(2))))
        return np.max(np.abs(at(jnp.asarray(r)) - wanted))

    coarse, fine = worst(41), worst(81)
    assert 12 < coarse / fine < 20
    assert fine < 1e-5


@pytest.mark.usefixtures("without_type_checks")
def test_networks_that_are_refused():
    make = lambda **o: rv.pairs.NeuralPair.fresh(**{"cutoff": CUTOFF, "key": jax.random.key(0), **o})
    for options, told in (
        ({"neurons": ()}, "`neurons` is empty"),
        ({"neurons": (4, 0)}, "`neurons` is 0"),
        ({"species": np.array([0, -1])}, "`species` has -1"),
        ({"truncation": rv.SmoothSwitch(0.6)}, "`onset` is 0.6 nm"),
    ):
        with pytest.raises(ValueError, match=told):
            make(**options)
    with pytest.raises(ValueError, match="has 32 entries; wanted one for each of 4 atoms"):
        rv.System(rv.Topology.from_elements(["Ar"] * 4), NETWORK)
    with pytest.raises(ValueError, match="`num_knots` is 3"):
        NETWORK.tabulated(0.2, 3)


# --- temperature ---------------------------------------------------------------------------------------------------

COLD, HOT = 300.0, 420.0
KT = lambda temperature: rv.units.BOLTZMANN * temperature
# U = ½ k x² + kT ½ s x²: a well whose reduced width is known at every temperature
SURFACE = rv.pairs.TemperatureDependent(well(500.0), -well(100.0), COLD)
ATOM = rv.Topology.from_elements(["Ar"])
width = lambda temperature: 1 / (500.0 / KT(temperature) + 100.0)


def test_energy_and_forces_at_a_temperature():
    pairs = rv.pairs.TemperatureDependent(lennard_jones(), rv.pairs.GaussianCore(0.3, 2.0, cutoff=0.5), COLD)
    wanted = lambda t: lennard_jones().energy(X, BOX) - KT(t) * pairs.entropy_part.energy(X, BOX)
    hot = rv.pairs.at_temperature(0.5 * pairs + pairs, HOT)
    np.testing.assert_allclose(pairs.energy(X, BOX), wanted(COLD), rtol=1e-13)
    np.testing.assert_allclose(hot.energy(X, BOX), 1.5 * wanted(HOT), rtol=1e-13)
    assert pairs.cutoff == CUTOFF
    # nothing trains the temperature; and both parts are trained
    slopes = eqx.filter_grad(lambda p: p.energy(X, BOX))(pairs)
    assert slopes.temperature == 0
    assert_trees_close(
        slopes.entropy_part,
        jax.tree.map(lambda g: -KT(COLD) * g, eqx.filter_grad(lambda p: p.energy(X, BOX))(pairs.entropy_part)),
        rtol=1e-12,
    )
    # one program for many temperatures
    many = jax.vmap(lambda t: rv.pairs.at_temperature(pairs, t).energy(X, BOX))(jnp.array([COLD, HOT]))
    np.testing.assert_allclose(many, [wanted(COLD), wanted(HOT)], rtol=1e-13)
    nested = rv.pairs.TemperatureDependent(pairs, pairs, COLD)
    assert rv.pairs.at_temperature(nested, HOT).entropy_part.temperature == HOT


def test_reweighting_to_another_temperature():
    """Against the closed form, and refused where the surface stays at the old temperature."""
    cold, hot = (rv.System(ATOM, rv.pairs.at_temperature(SURFACE, t)) for t in (COLD, HOT))
    drawn = gaussian_samples(0, 20000, 500.0 + 100.0 * KT(COLD), COLD)
    samples = rv.Samples.of(cold, rv.NVT(COLD), drawn.states)
    found = rv.expectation(Position(), hot, samples, ensemble=rv.NVT(HOT))
    assert abs(found.value[1] - width(HOT)) < 4 * found.error[1]
    assert found.error[1] < 0.02 * width(HOT)
    assert width(HOT) > 1.1 * width(COLD)
    # MBAR of both temperatures
    there = gaussian_samples(1, 20000, 500.0 + 100.0 * KT(HOT), HOT)
    pool = rv.mbar([(cold, samples), (hot, rv.Samples.of(hot, rv.NVT(HOT), there.states))])
    middle = 360.0
    found = rv.expectation(
        Position(), rv.System(ATOM, rv.pairs.at_temperature(SURFACE, middle)), pool, ensemble=rv.NVT(middle)
    )
    assert abs(found.value[1] - width(middle)) < 4 * found.error[1]
    told = r"(?s)part at 300 K, but the ensemble is at 420 K; wanted.*at_temperature\(system, 420\)"
    for call in (
        lambda: rv.expectation(Position(), cold, samples, ensemble=rv.NVT(HOT)),
        lambda: rv.mbar([(cold, rv.Samples.of(hot, rv.NVT(HOT), there.states))]),
    ):
        with pytest.raises(rv.SimulationError, match=told), rv.SimulationError.unwrapped():
            jax.block_until_ready(call())


# --- elsewhere -----------------------------------------------------------------------------------------------------


def test_sums_in_tables_for_lammps_and_openmm(tmp_path):
    """A prior, a network and a part that depends on the temperature, of two species: one table for every two of them,
    read back, and compared with the potential itself."""
    switch, sigmas = rv.SmoothSwitch(0.4), np.array([[0.33, 0.32], [0.32, 0.3]])
    entropy = rv.pairs.GaussianCore(0.3, 2.0, cutoff=0.5, truncation=switch)  # ends before the others do

    def of(species):
        prior = rv.LennardJones(sigmas, 0.5 * sigmas, cutoff=CUTOFF, species=species, truncation=switch)
        network = eqx.tree_at(lambda p: p.species, NETWORK, species)
        return prior + 0.5 * network + rv.pairs.TemperatureDependent(0.1 * prior, entropy, COLD)

    @jax.jit
    @jax.vmap
    def energy_and_slope(species, r):
        along = lambda r: jnp.zeros((2, 3)).at[1, 0].set(r)
        return jax.value_and_grad(lambda r: of(species).energy(along(r), rv.OpenBox()))(r)

    potential = of(jnp.asarray(SPECIES))
    names = rv.export.write_lammps_table(tmp_path / "a.table", potential, nearest=0.24, num_points=200)
    assert names == ("PAIR_1_1", "PAIR_1_2", "PAIR_2_2")
    assert "LennardJones + NeuralPair + LennardJones + GaussianCore" in (tmp_path / "a.table").read_text("utf-8")
    sections = rv.export.read_lammps_table(tmp_path / "a.table")
    for section, kinds in zip(sections, ((0, 0), (0, 1), (1, 1)), strict=True):
        r = jnp.asarray(section.r[:-1])  # at the cutoff itself no pair counts
        energies, slopes = energy_and_slope(jnp.tile(jnp.asarray(kinds), (len(r), 1)), r)
        np.testing.assert_allclose(section.energy[:-1], energies, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(section.force[:-1], -slopes, rtol=1e-10, atol=1e-10)
        assert abs(section.energy[-1]) < 1e-12
    openmm = pytest.importorskip("openmm")
    force = rv.openmm.tabulated_pair(potential, 32, nearest=0.24, num_points=3000)
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(force))
    system = openmm.System()
    for _ in X:
        system.addParticle(1.0)
    system.addForce(again)
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*map(float, v)) for v in BOX.vectors))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(X))
    state = context.getState(getEnergy=True, getForces=True)
    energy, slope = jax.jit(jax.value_and_grad(lambda x: potential.energy(x, BOX)))(X)
    # natural splines through 3000 points
    np.testing.assert_allclose(state.getPotentialEnergy()._value, energy, rtol=1e-8)
    np.testing.assert_allclose(state.getForces(asNumpy=True)._value, -slope, atol=1e-5 * np.abs(slope).max())
