"""Coordination, angles and tetrahedral order: of lattices, against a plain count, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import argon_box, argon_length, argon_positions, argon_topology

import reverlet as rv

LENGTH = argon_length(3)
FCC = rv.State(jnp.asarray(argon_positions(3, jitter=0.0)), None, argon_box(3))
NEAREST = LENGTH / 3 / 2**0.5
LJ = rv.LennardJones(0.3, 1.0, cutoff=0.5)
IDEAL = rv.System(argon_topology(3), LJ)


def of(observable, system, state):
    records = jax.tree.map(lambda x: x[None, None], observable.record(system, state, state))
    return observable.reduce(jnp.zeros(1), records, jnp.ones(1), rv.NVT(300.0))


def water(seed=0, molecules=20, edge=1.2):
    """Atoms of molecules anywhere."""
    x = np.random.default_rng(seed).uniform(0, edge, (3 * molecules, 3))
    one = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0])
    box = rv.OrthorhombicBox(jnp.full(3, edge))
    return rv.System(one.repeat(molecules), LJ), rv.State(jnp.asarray(x), None, box)


def distances(state):
    x, edge = np.asarray(state.positions), np.asarray(state.box.lengths)
    d = x[:, None] - x
    d -= edge * np.round(d / edge)
    return d, np.linalg.norm(d, axis=-1) + np.diag(np.full(len(x), np.inf))


def test_neighbors_of_a_lattice():
    """A face-centered one: 12 neighbors, and 66 angles between them, 24 of 60°, 12 of 90°, 24 of 120°, 6 of 180°."""
    assert of(rv.CoordinationNumber(1.2 * NEAREST), IDEAL, FCC) == 12
    np.testing.assert_allclose(of(rv.CoordinationNumber(1.2 * NEAREST, 0.01), IDEAL, FCC), 12, rtol=1e-6)
    adf = rv.ADF(1.2 * NEAREST, 6)
    counts = of(rv.ADF(1.2 * NEAREST, 36), IDEAL, FCC) * 66 * np.pi / 36
    near = lambda degrees: counts[np.abs(np.degrees(adf36) - degrees) < 5.1].sum()
    adf36 = np.asarray(rv.ADF(1.2 * NEAREST, 36).centers)
    np.testing.assert_allclose([near(60), near(90), near(120), near(180)], [24, 12, 24, 6], rtol=1e-6)
    np.testing.assert_allclose(np.sum(of(adf, IDEAL, FCC)) * np.pi / 6, 1, rtol=1e-9)
    g = of(rv.RDF(1.4 * NEAREST, 200), IDEAL, FCC)
    running = rv.RDF(1.4 * NEAREST, 200).running_coordination(g, 107 / LENGTH**3)
    np.testing.assert_allclose(running[jnp.array([100, 180])], [0, 12], atol=1e-6)


def test_tetrahedra():
    """One in diamond; around zero, by its definition, for directions at random."""
    basis = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    corners = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    x = (corners + np.concatenate([basis, basis + 0.25])).reshape(-1, 3) * 0.357
    diamond = rv.State(jnp.asarray(x), None, rv.OrthorhombicBox(jnp.full(3, 0.714)))
    carbon = rv.System(rv.Topology.from_elements(["C"] * 64), LJ)
    np.testing.assert_allclose(of(rv.TetrahedralOrder(), carbon, diamond), 1, rtol=1e-12)
    gas = [of(rv.TetrahedralOrder("O"), *water(seed, 100)) for seed in range(4)]
    assert abs(np.mean(gas)) < 4 * np.std(gas)
    system, state = water(7)
    d, r = distances(state)
    wanted = []
    for i in range(0, 60, 3):
        near = [j for j in np.argsort(r[i]) if j % 3 == 0][:4]
        u = d[i, near] / r[i, near][:, None]
        wanted.append(1 - 3 / 8 * np.sum(((u @ u.T + 1 / 3) ** 2)[np.triu_indices(4, 1)]))
    np.testing.assert_allclose(of(rv.TetrahedralOrder("O"), system, state), np.mean(wanted), rtol=1e-10)


def test_kinds_of_atoms_against_a_plain_count():
    system, state = water()
    d, r = distances(state)
    oxygen, molecule = np.arange(60) % 3 == 0, np.arange(60) // 3
    between = molecule[:, None] != molecule
    wanted = np.sum((r < 0.4)[oxygen][:, ~oxygen] & between[oxygen][:, ~oxygen]) / 20
    for pair in (("O", "H"), (np.flatnonzero(oxygen), np.flatnonzero(~oxygen))):
        found = of(rv.CoordinationNumber(0.4, pair=pair, intermolecular=True), system, state)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    counts = np.zeros(9)
    for i in np.flatnonzero(oxygen):
        near = [j for j in np.flatnonzero(~oxygen) if r[i, j] < 0.4]
        u = d[i, near] / r[i, near][:, None]
        counts += np.histogram(np.arccos(np.clip(u @ u.T, -1, 1)[np.triu_indices(len(near), 1)]), 9, (0, np.pi))[0]
    found = of(rv.ADF(0.4, 9, triplet=("H", "O", "H")), system, state)
    np.testing.assert_allclose(found, counts / counts.sum() * 9 / np.pi, rtol=1e-9)
    # g(r) between molecules alone is of pairs of these, and of an ideal gas one
    g = of(rv.RDF(0.6, 3, pair=("O", "H"), intermolecular=True), system, state)
    near = np.histogram(r[oxygen][:, ~oxygen][between[oxygen][:, ~oxygen]], 3, (0, 0.6))[0]
    shells = 4 / 3 * np.pi * np.diff(np.linspace(0, 0.6, 4) ** 3)
    np.testing.assert_allclose(g, near * 1.2**3 / (20 * 38 * shells), rtol=1e-9)


@pytest.mark.parametrize("observable", [rv.CoordinationNumber(0.4, 0.02), rv.ADF(0.4, 5, 0.1, onset=0.3)])
def test_derivatives(observable):
    system, state = water(3, 6, 1.0)
    way = jax.random.normal(jax.random.key(0), state.positions.shape)
    moved = jax.jit(lambda s: of(observable, system, rv.State(state.positions + s * way, None, state.box)))
    slope = jax.jvp(moved, (0.0,), (1.0,))[1]
    h = 1e-6
    difference = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-6 * np.max(np.abs(difference)))


@pytest.mark.usefixtures("without_type_checks")
def test_refusals():
    for observable in (rv.CoordinationNumber(0.4), rv.ADF(0.4, 5), rv.TetrahedralOrder()):
        with pytest.raises(ValueError, match=r"(has|have|and has) no derivative"):
            jax.grad(lambda x, o=observable: jnp.sum(o.record(IDEAL, rv.State(x, None, FCC.box), None)))(FCC.positions)
    with pytest.raises(rv.SimulationError, match="have more than 5 neighbors nearer than `r_max`"):
        rv.ADF(1.2 * NEAREST, 5, max_neighbors=5).record(IDEAL, FCC, FCC)
    with pytest.raises(rv.SimulationError, match="at most half the smallest height"):
        rv.CoordinationNumber(0.6 * LENGTH).record(IDEAL, FCC, FCC)
    with pytest.raises(ValueError, match=r"`onset` is 0\.5 nm; wanted less than `r_max`"):
        rv.ADF(0.4, 5, onset=0.5)
    with pytest.raises(ValueError, match="wanted indices from 0 to 107"):
        rv.CoordinationNumber(0.4, pair=([0], [108])).record(IDEAL, FCC, FCC)
    with pytest.raises(ValueError, match="an atom more than once"):
        rv.TetrahedralOrder([1, 1])
