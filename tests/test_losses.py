"""Losses on structure and correlation: against closed forms and SciPy, and through trajectories."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SWITCHED, argon_state, argon_topology, central_difference
from scipy.spatial.distance import jensenshannon

import reverlet as rv

RNG = np.random.default_rng(0)
SERIES, TARGET, SCALE = RNG.uniform(0.1, 1, (3, 5)), RNG.uniform(0.1, 1, 5), RNG.uniform(0.1, 1, 5)
WEIGHTS = jnp.array([0.5, 0.2, 0.3])
TOPOLOGY, STATE = argon_topology(), argon_state()
SPECIES = np.arange(32) % 3 // 2
reduced = lambda loss, series=SERIES: loss.reduce(jnp.arange(5.0), jnp.asarray(series), WEIGHTS)


def test_closed_forms():
    mean = np.asarray(WEIGHTS) @ SERIES
    plain = rv.losses.MeanSquaredError(rv.VACF(), TARGET)
    np.testing.assert_allclose(reduced(plain), np.mean((mean - TARGET) ** 2), rtol=1e-13)
    weighted = rv.losses.MeanSquaredError(rv.VACF(), TARGET, SCALE)
    np.testing.assert_allclose(reduced(weighted), np.average((mean - TARGET) ** 2, weights=SCALE), rtol=1e-13)
    shapes = rv.losses.JensenShannon(rv.VACF(), TARGET, SCALE)
    np.testing.assert_allclose(reduced(shapes), jensenshannon(SCALE * mean, SCALE * TARGET) ** 2, rtol=1e-12)
    # a factor does not count; what is nowhere together is ln 2 apart; what is alike not at all
    np.testing.assert_allclose(reduced(shapes, 7 * SERIES), reduced(shapes), rtol=1e-12)
    left, right = np.array([1.0, 2, 0, 0, 0]), np.array([0.0, 0, 0, 1, 3])
    apart = rv.losses.JensenShannon(rv.VACF(), right)
    np.testing.assert_allclose(reduced(apart, np.stack([left] * 3)), np.log(2), rtol=1e-14)
    alike = jax.value_and_grad(lambda x: reduced(apart, x))(jnp.stack([right] * 3))
    assert abs(alike[0]) < 1e-15
    np.testing.assert_allclose(alike[1], 0, atol=1e-15)
    # the slope by finite differences, away from zeros
    slope = jax.grad(lambda x: reduced(shapes, x))(jnp.asarray(SERIES))
    along = RNG.normal(size=SERIES.shape)
    numeric = central_difference(lambda x: reduced(shapes, x), jnp.asarray(SERIES), along, 1e-5)
    np.testing.assert_allclose(jnp.sum(slope * along), numeric, rtol=1e-7)


def test_losses_through_a_trajectory():
    """Partial g(r) and the velocity correlation of a mixture, by its parameters; against finite differences."""
    rdfs = rv.RDF.partials(SPECIES, 0.55, 11, 0.03)
    losses = rv.Joint(
        (
            rv.losses.JensenShannon(rdfs[1], jnp.linspace(0, 1, 11), rdfs[1].centers ** 2),
            rv.losses.MeanSquaredError(rdfs[2], jnp.linspace(0, 1, 11)),
            rv.losses.MeanSquaredError(rv.VACF(), 0.05 * jnp.ones(4)),
        )
    )

    @jax.jit
    @jax.value_and_grad
    def loss(sigma):
        potential = rv.LennardJones(sigma, jnp.full(2, 0.9), cutoff=0.55, truncation=SWITCHED.truncation,
                                    species=SPECIES)  # fmt: skip
        run = rv.nve(rv.System(TOPOLOGY, potential), STATE, dt=0.01, num_steps=3, record=losses.record)
        records = jax.tree.map(lambda x: x[None], run.records)
        parts = losses.reduce(run.times, records, jnp.ones(1))
        return parts[0] + parts[1] + 10 * parts[2]  # of about the same size

    sigma, along = jnp.array([0.338, 0.30]), jnp.array([1.0, -0.7])
    numeric = central_difference(lambda s: loss(s)[0], sigma, along, 1e-6)
    assert abs(numeric) > 1e-3
    np.testing.assert_allclose(loss(sigma)[1] @ along, numeric, rtol=1e-6)


def test_partial_functions_add_up():
    """Weighted by their numbers of ordered pairs they are that of all atoms."""
    system = rv.System(TOPOLOGY, SWITCHED)
    a, ab, b = (g.record(system, STATE, STATE) for g in rv.RDF.partials(SPECIES, 0.55, 8))
    n, m = np.sum(SPECIES == 0), np.sum(SPECIES == 1)
    total = rv.RDF(0.55, 8).record(system, STATE, STATE)
    mean = (n * (n - 1) * a + 2 * n * m * ab + m * (m - 1) * b) / (32 * 31)
    np.testing.assert_allclose(mean, total, rtol=1e-12)
    assert len(rv.RDF.partials(np.arange(32) % 3, 0.55, 8)) == 6


def test_bad_input():
    rdf, system = rv.RDF(0.55, 11, 0.03), rv.System(TOPOLOGY, SWITCHED)
    joint = rv.Joint((rv.VACF(),))
    records = (jnp.asarray(SERIES),)
    for call, told in (
        (lambda: reduced(rv.losses.MeanSquaredError(rv.VACF(), np.ones(6))),
         r"reduces to shape \(5,\), a target of shape \(6,\) .*wanted a target on the grid .*rdf.smeared\(r, g\)"),
        (lambda: reduced(rv.losses.JensenShannon(rv.VACF(), np.ones(5), np.ones(4))), r"and weights of shape \(4,\)"),
        (lambda: rv.losses.MeanSquaredError(joint, np.ones(5)).reduce(jnp.arange(5.0), records, WEIGHTS),
         r"got a `Joint`, which reduces to a `tuple`; wanted one array. Of several: `rv.Joint\("),
        (lambda: rv.losses.JensenShannon(rv.VACF(), np.zeros(5)), "`target` is zero everywhere"),
        (lambda: rv.losses.MeanSquaredError(rv.VACF(), 1.0, 0.0), "`weights` is zero everywhere"),
        (lambda: rdf.smeared(np.array([0.0, 0.5, 0.4, 0.9]), np.ones(4)), "wanted increasing ones"),
        (lambda: rv.RDF.partials(np.array([0, 0, 2, 2]), 0.5, 5), "has 0 atoms of species 1; wanted at least two"),
        (lambda: rv.RDF.partials(np.array([0, 0, 1]), 0.5, 5), "has 1 atoms of species 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            call()
    # kinds that the system has not, and lengths beyond half the box: at once, and compiled
    for observable, told in (
        (rv.RDF(0.5, 5, pair=("Ar", "O")), "found no pair of Ar and O in the system"),
        (rv.RDF(0.5, 5, pair=((3,), (3,))), r"no pair of atoms \(3,\) and atoms \(3,\)"),
        (rv.CoordinationNumber(0.5, pair=("O", "Ar")), "found no pair of O and Ar"),
        (rv.losses.MeanSquaredError(rv.RDF(0.6, 5), np.ones(5)), "`r_max` of `RDF` is 0.6 nm; wanted at most half"),
    ):
        with pytest.raises(rv.SimulationError, match=told):
            observable.record(system, STATE, STATE)
    record = eqx.filter_jit(lambda system: rv.RDF(0.5, 5, pair=("Ar", "O")).record(system, STATE, STATE))
    with pytest.raises(rv.SimulationError, match="no pair of Ar and O"), rv.SimulationError.unwrapped():
        jax.block_until_ready(record(system))
