"""Splines through values, and pair potentials made of them: against SciPy, plain sums, finite differences and hosts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CUTOFF, argon_box, argon_positions, central_difference, lennard_jones
from scipy.interpolate import CubicSpline

import reverlet as rv

BOX, X = argon_box(), jnp.asarray(argon_positions(jitter=0.015))
SPECIES = np.arange(32) % 3 // 2
FIRST, KNOTS = 0.3, 14
R = np.linspace(FIRST, CUTOFF, KNOTS)
CURVES = np.stack([3 * np.cos(20 * (R - FIRST) + phase) * (CUTOFF - R) for phase in (0.0, 0.4, 0.9)])
VALUES = CURVES[np.array([[0, 1], [1, 2]])]
NATURAL = rv.TabulatedPair(
    VALUES, first=FIRST, cutoff=CUTOFF, species=SPECIES, interpolation=rv.splines.NaturalSpline()
)
energy = eqx.filter_jit(lambda potential, x: potential.energy(x, BOX))


@pytest.mark.parametrize("interpolation", [rv.splines.SteffenSpline(), rv.splines.NaturalSpline()])
def test_curves(interpolation):
    """Through all values, with continuous slopes, and as the kinds promise."""
    y = np.random.default_rng(0).normal(size=12)
    spline = rv.splines.CubicSpline(y, first=-1.0, last=2.0, interpolation=interpolation)
    x = np.linspace(-1, 2, 2001)
    np.testing.assert_allclose(spline(jnp.asarray(spline.knots)), y, atol=1e-12)
    outside = jnp.array([-3.0, -2.0, 4.0, 5.0])
    slope = jax.vmap(jax.grad(spline))
    np.testing.assert_allclose(
        slope(jnp.asarray(spline.knots) - 1e-9), slope(jnp.asarray(spline.knots) + 1e-9), atol=1e-6
    )
    np.testing.assert_allclose(slope(outside)[jnp.array([0, 3])], slope(jnp.array([-1.0, 2.0])), rtol=1e-9)
    if isinstance(interpolation, rv.splines.NaturalSpline):
        scipy = CubicSpline(spline.knots, y, bc_type="natural")
        np.testing.assert_allclose(spline(jnp.asarray(x)), scipy(x), atol=1e-12)
    else:
        k = np.minimum((x + 1) / (3 / 11), 10.999).astype(int)
        low, high = np.minimum(y[k], y[k + 1]), np.maximum(y[k], y[k + 1])
        found = np.asarray(spline(jnp.asarray(x)))
        assert np.all((found >= low - 1e-12) & (found <= high + 1e-12))
        # where nothing is limited, slopes are those of parabolas
        bowl = rv.splines.CubicSpline(spline.knots**2 + 6 * spline.knots, first=-1.0, last=2.0)
        np.testing.assert_allclose(bowl(jnp.asarray(x)), x**2 + 6 * x, atol=1e-12)


def test_pairs_against_a_plain_sum():
    curves = [CubicSpline(R, y, bc_type="natural") for y in CURVES]
    d = np.asarray(X)[:, None] - np.asarray(X)[None]
    lengths = np.diagonal(np.asarray(BOX.vectors))
    r = np.linalg.norm(d - lengths * np.round(d / lengths), axis=-1)
    total = sum(curves[SPECIES[i] + SPECIES[j]](r[i, j]) for i in range(32) for j in range(i) if r[i, j] < CUTOFF)
    np.testing.assert_allclose(energy(NATURAL, X), total, rtol=1e-11)
    np.testing.assert_allclose(energy(NATURAL + lennard_jones(), X), total + energy(lennard_jones(), X), rtol=1e-11)


@pytest.mark.parametrize("interpolation", [rv.splines.SteffenSpline(), rv.splines.NaturalSpline()])
def test_derivatives(interpolation):
    """Of the energy by values and positions, and of forces by values; with a switch and a core."""
    switch = rv.SmoothSwitch(0.4)
    table = rv.TabulatedPair(CURVES[1], first=0.36, cutoff=CUTOFF, core=12.0, truncation=switch,
                             interpolation=interpolation)  # fmt: skip
    with_values = lambda v: eqx.tree_at(lambda p: p.values, table, v)
    way = jnp.asarray(np.random.default_rng(1).normal(size=KNOTS))
    along = lambda t: energy(with_values(table.values + t * way), X)
    by_values = jax.jit(jax.grad(lambda v: with_values(v).energy(X, BOX)))(table.values)
    np.testing.assert_allclose(jnp.sum(way * by_values), central_difference(along, 0.0, 1.0, 1e-5), rtol=1e-7)
    step = jnp.asarray(np.random.default_rng(2).normal(size=X.shape))
    forces, pushed = jax.jit(
        lambda v: jax.jvp(lambda v: with_values(v).forces(X, BOX), (v,), (way,))
    )(table.values)  # fmt: skip
    moved = central_difference(lambda t: energy(table, X + t * step), 0.0, 1.0, 1e-6)
    np.testing.assert_allclose(-jnp.sum(forces * step), moved, rtol=1e-6)
    forces = jax.jit(lambda v: with_values(v).forces(X, BOX))
    crossed = central_difference(lambda t: -jnp.sum(step * forces(table.values + t * way)), 0.0, 1.0, 1e-5)
    np.testing.assert_allclose(-jnp.sum(step * pushed), crossed, rtol=1e-7)


def test_below_the_first_knot():
    pair = jnp.zeros(2, int)
    y = 5 * np.exp(-8 * (R - FIRST))
    for core in (None, 12.0):
        table = rv.TabulatedPair(y, first=FIRST, cutoff=CUTOFF, core=core)
        u = lambda r, table=table: table.pair_energy(r * r, *pair)
        slope = jax.grad(u)
        np.testing.assert_allclose(slope(FIRST - 1e-9), slope(FIRST + 1e-9), rtol=1e-6)
        r = jnp.array([0.15, 0.2])
        if core is None:
            np.testing.assert_allclose(jax.vmap(u)(r), y[0] + slope(FIRST) * (r - FIRST), rtol=1e-12)
        else:  # a + b / r¹²
            b = -slope(FIRST) * FIRST**13 / 12
            np.testing.assert_allclose(jax.vmap(u)(r), y[0] + b * (r**-12 - FIRST**-12), rtol=1e-12)
    with pytest.raises(ValueError, match="falls more slowly"):
        rv.TailCorrected(rv.TabulatedPair(y, first=FIRST, cutoff=CUTOFF))
    rv.TailCorrected(rv.TabulatedPair(y - y[-1], first=FIRST, cutoff=CUTOFF))  # nothing beyond


def test_tables_for_lammps_and_openmm(tmp_path):
    """What is exported is the curve itself, of each two species."""
    table = eqx.tree_at(lambda p: p.values, NATURAL, NATURAL.values - NATURAL.values[..., -1:])
    names = rv.export.write_lammps_table(tmp_path / "t.table", table, nearest=0.25, num_points=400)
    read = rv.export.read_lammps_table(tmp_path / "t.table")
    two = eqx.tree_at(lambda p: p.species, table, jnp.arange(2))
    assert len(names) == len(read) == 3
    for (i, j), section in zip(((0, 0), (0, 1), (1, 1)), read, strict=True):
        u = jax.vmap(lambda r, i=i, j=j: two.pair_energy(r * r, i, j))(jnp.asarray(section.r))
        np.testing.assert_allclose(section.energy, u, atol=1e-8)
    openmm = pytest.importorskip("openmm")
    system = openmm.System()
    for _ in X:
        system.addParticle(1.0)
    system.addForce(rv.openmm.tabulated_pair(table, 32, nearest=0.25, num_points=4000))
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*map(float, v)) for v in BOX.vectors))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(X))
    found = context.getState(getEnergy=True).getPotentialEnergy()._value
    np.testing.assert_allclose(found, energy(table, X), rtol=1e-5)  # a spline through the table


@pytest.mark.usefixtures("without_type_checks")
def test_bad_input():
    make = lambda values=VALUES, **o: rv.TabulatedPair(
        values, **{"first": FIRST, "cutoff": CUTOFF, "species": SPECIES, **o}
    )
    for call, match in (
        (lambda: make(VALUES[0]), r"`values` \(2, 14\); wanted all \(knots,\) or all \(species, species, knots\)"),
        (lambda: make(VALUES[..., :3]), r"shape \(2, 2, 3\); wanted at least four knots"),
        (lambda: make(VALUES[[1, 0]]), "wanted a symmetric matrix"),
        (lambda: make(species=None), "but `species` is missing"),
        (lambda: make(VALUES[0, 0]), "but `species` is given"),
        (lambda: make(species=SPECIES + 1), "wanted one integer from 0 to 1"),
        (lambda: make(first=0.6), "`cutoff` is 0.55, and the first knot is at 0.6"),
        (lambda: rv.System(rv.Topology.from_elements(["Ar"] * 4), make()), "has 32 entries; wanted one for each of 4"),
        (lambda: rv.splines.CubicSpline(VALUES[0], first=0.0, last=1.0), r"wanted one value for every knot"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
