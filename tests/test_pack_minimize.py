"""Boxes to start from: packed, and relaxed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SWITCHED, argon_length, argon_state, argon_topology, lennard_jones, well

import reverlet as rv

ANGLE = np.radians(112.0)
WATER = rv.Topology.from_elements(["O", "H", "H"], molecules=[0] * 3, bonds=[(0, 1), (0, 2)])
SHAPE = 0.1 * jnp.array(
    [[0, 0, 0], [np.sin(ANGLE / 2), np.cos(ANGLE / 2), 0], [-np.sin(ANGLE / 2), np.cos(ANGLE / 2), 0]]
)
ATOM, POINT = rv.Topology.from_elements(["Ar"]), jnp.zeros((1, 3))
GRAM = rv.units.GRAM_PER_CUBIC_CENTIMETER


def water_potential(topology):
    """Bonds, angles, and spheres on all atoms: no charges are needed to keep molecules apart."""
    spheres = rv.LennardJones(
        np.array([0.3165, 0.2]), np.array([0.65, 0.1]), cutoff=0.55, truncation=rv.SmoothSwitch(0.45),
        species=(np.asarray(topology.atomic_numbers) == 1).astype(int),
    )  # fmt: skip
    return (
        rv.HarmonicBond(topology.bonds, 443153.0, 0.1)
        + rv.HarmonicAngle(topology.angles, 317.6, ANGLE)
        + rv.Excluding(spheres, topology.pairs_within(2))
    )


def distances(state):
    """Between all atoms of one configuration; right up to half the height of the box."""
    x = state.positions
    d = state.box.minimum_image(*(x[:, None, k] - x[:, k] for k in range(3)))
    return np.sqrt(sum(np.asarray(c) ** 2 for c in d))


def contact(topology, state):
    """The shortest distance between atoms of different molecules."""
    molecules = np.asarray(topology.molecules)
    return np.min(distances(state)[molecules[:, None] != molecules])


def internal(topology, positions):
    i, j = np.asarray(topology.intramolecular_pairs()).T
    return np.linalg.norm(positions[i] - positions[j], axis=1)


@pytest.fixture(scope="module")
def packed():
    return rv.pack(WATER, SHAPE, 64, density=1.0 * GRAM, key=jax.random.key(0))


def test_water(packed):
    topology, state = packed
    assert topology.elements == ("O", "H", "H") * 64
    assert len(np.unique(topology.molecules)) == 64
    np.testing.assert_array_equal(state.velocities, 0)
    np.testing.assert_allclose(64 * 18.015 * 1.66053906892e-24 / (float(state.box.volume) * 1e-21), 1.0, rtol=1e-9)
    # molecules are moved and turned, not bent: rounding of positions of 1 nm
    np.testing.assert_allclose(
        internal(topology, state.positions).reshape(64, 3), [internal(WATER, SHAPE)] * 64, rtol=1e-12
    )
    assert contact(topology, state) >= 0.8 * 0.2
    # turned at random: the mean of 64 unit vectors is 0.125 long, on average squared
    dipoles = state.positions[1::3] + state.positions[2::3] - 2 * state.positions[::3]
    directions = dipoles / jnp.linalg.norm(dipoles, axis=1, keepdims=True)
    assert jnp.linalg.norm(jnp.mean(directions, axis=0)) < 0.4
    # and spread: every octant has its share of 8
    octants = np.bincount(
        np.floor(2 * np.asarray(state.positions[::3] / state.box.lengths) % 2).astype(int) @ [1, 2, 4]
    )
    assert octants.min() >= 4


def test_water_relaxes(packed):
    topology, state = packed
    system = rv.System(topology, water_potential(topology))
    minimum = rv.minimize(system, state)
    assert minimum.converged
    forces = system.potential.forces(minimum.state.positions, state.box)
    largest = np.max(np.linalg.norm(forces, axis=1))
    assert largest <= 10.0
    np.testing.assert_allclose(minimum.largest_force, largest, rtol=1e-9)
    np.testing.assert_allclose(minimum.energy, system.potential_energy(minimum.state.positions, state.box), rtol=1e-12)
    assert minimum.energy < system.potential_energy(state.positions, state.box)
    assert contact(topology, minimum.state) > 0.15
    assert np.all(np.diag(distances(minimum.state)) == 0)
    bonds = internal(topology, minimum.state.positions).reshape(64, 3)[:, :2]
    np.testing.assert_allclose(bonds, 0.1, atol=0.002)  # forces of some 500 kJ/mol/nm stretch them by 0.001 nm
    rerun = rv.minimize(system, minimum.state)  # a minimum stays where it is
    assert rerun.num_steps == 0
    np.testing.assert_array_equal(rerun.state.positions, minimum.state.positions)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_straight_angle_is_no_minimum(dtype):
    """Its cusp has no force, but all of its energy, and the water is bent afterwards."""
    topology = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
    water = rv.HarmonicBond(topology.bonds, 4e5, 0.1) + rv.HarmonicAngle(topology.angles, 317.0, 1.95)
    x = jnp.array([[0.0, 0, 0], [0.1, 0, 0], [-0.1, 0, 0]], dtype)
    minimum = rv.minimize(rv.System(topology, water).astype(dtype), rv.State(x, None, rv.OpenBox()), tolerance=1.0)
    assert minimum.converged
    assert minimum.energy < 0.01  # (1 kJ/mol/nm · 0.1 nm)² / 2 k and as little in bonds


def test_atoms_on_top_of_each_other_are_moved_apart(packed):
    """Anywhere in the box, as near as chance has it: energies of 1e20, forces that have no square in float32."""
    (topology, state), dtype = packed, jnp.float32
    x = jax.random.uniform(jax.random.key(1), state.positions.shape, dtype) * state.box.lengths[0].astype(dtype)
    x = x.at[9].set(x[3] + 1e-3)
    start = rv.State(x, jnp.zeros_like(x), state.box.astype(dtype))
    system = rv.System(topology, water_potential(topology))
    assert not system.potential_energy(x, start.box) < 1e12
    minimum = rv.minimize(system, start)
    assert minimum.converged
    assert minimum.state.positions.dtype == dtype
    assert contact(topology, minimum.state) > 0.15


def test_exact_minimum():
    """Harmonic wells: the only minimum is known."""
    system = rv.System(argon_topology(), well(k=100.0, center=0.3))
    state = argon_state()
    minimum = rv.minimize(system, state, tolerance=1e-6)
    assert minimum.converged
    np.testing.assert_allclose(minimum.state.positions, 0.3, atol=1.01e-8)  # tolerance / k
    np.testing.assert_array_equal(minimum.state.velocities, state.velocities)
    few = rv.minimize(system, state, max_steps=3, max_move=0.01)
    assert not few.converged
    assert few.num_steps == 3
    assert few.energy < system.potential_energy(state.positions, state.box)
    assert np.max(np.linalg.norm(few.state.positions - state.positions, axis=1)) <= 0.03 * (1 + 1e-12)


def test_crystal_as_scipy_finds_it():
    """Argon from near its lattice: into the same basin as by an independent minimizer."""
    scipy_optimize = pytest.importorskip("scipy.optimize")
    system, state = rv.System(argon_topology(), SWITCHED), argon_state()
    minimum = rv.minimize(system, state, tolerance=1e-4)
    assert minimum.converged
    both = jax.jit(jax.value_and_grad(lambda x: SWITCHED.energy(x.reshape(-1, 3), state.box)))
    found = scipy_optimize.minimize(both, np.asarray(state.positions).ravel(), jac=True, method="BFGS", tol=1e-5)
    # second order in what forces are left: (1e-4)² / 100
    np.testing.assert_allclose(minimum.energy, found.fun, rtol=1e-8)


@pytest.mark.slow
def test_with_neighbor_lists_as_with_all_pairs():
    topology, state = argon_topology(3), argon_state(3, jitter=0.06)
    search = rv.CellList.fit(state.positions, state.box, cutoff=0.55, skin=0.1)
    plain = rv.minimize(rv.System(topology, SWITCHED), state, tolerance=1.0)
    listed = rv.minimize(rv.System(topology, SWITCHED, search=search), state, tolerance=1.0)
    assert plain.num_steps == listed.num_steps
    np.testing.assert_allclose(listed.state.positions, plain.state.positions, atol=1e-9)  # order of the sums
    crowded = rv.System(topology, SWITCHED, search=rv.CellList(0.55, 0.1, 20, search.cells, search.reach, 2, 2))
    with pytest.raises(FloatingPointError, match="A neighbor list was too small"):
        rv.minimize(crowded, state)


def test_under_jit_and_grad():
    system, state = rv.System(argon_topology(), SWITCHED), argon_state()
    outside = rv.minimize(system, state, max_steps=20)
    inside = eqx.filter_jit(lambda s: rv.minimize(system, s, max_steps=20))(state)
    np.testing.assert_allclose(inside.state.positions, outside.state.positions, atol=1e-12)
    slope = jax.grad(lambda x: rv.minimize(system, rv.State(x, state.velocities, state.box), max_steps=2).energy)
    np.testing.assert_array_equal(slope(state.positions), 0)  # by definition: it has no derivative


@pytest.mark.slow
def test_a_mixture_in_a_triclinic_box():
    box = rv.TriclinicBox(jnp.array([[1.3, 0, 0], [0.3, 1.3, 0], [-0.2, 0.3, 1.4]]))
    make = lambda seed: rv.pack([WATER, ATOM], [SHAPE, POINT], [20, 10], box=box, key=jax.random.key(seed))
    topology, state = make(0)
    assert topology.elements == ("O", "H", "H") * 20 + ("Ar",) * 10
    assert contact(topology, state) >= 0.16
    np.testing.assert_allclose(
        internal(topology, state.positions).reshape(20, 3), [internal(WATER, SHAPE)] * 20, rtol=1e-12
    )
    np.testing.assert_array_equal(state.box.vectors, box.vectors)
    # the same key, the same box
    np.testing.assert_array_equal(make(0)[1].positions, state.positions)
    assert not np.allclose(make(1)[1].positions, state.positions, atol=0.1)


@pytest.mark.slow
def test_a_molecule_keeps_its_handedness():
    hand = rv.Topology.from_elements(["C", "F", "Cl", "Br", "H"], molecules=[0] * 5)
    shape = 0.15 * jnp.array([[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-0.6, -0.6, 0.6]], jnp.float32)
    _, state = rv.pack(hand, shape, 8, density=300.0, key=jax.random.key(2))
    assert state.positions.dtype == jnp.float32
    turned = state.positions.reshape(8, 5, 3)
    volume = lambda x: jnp.linalg.det(x[..., 1:4, :] - x[..., :1, :])
    np.testing.assert_allclose(volume(turned), volume(shape), rtol=1e-4)  # float32


@pytest.mark.slow
def test_argon_at_the_density_of_the_liquid():
    topology, state = rv.pack(
        ATOM, POINT, 32, density=32 * 39.95 / argon_length() ** 3, contact=0.3, key=jax.random.key(3)
    )
    assert topology.num_atoms == 32
    assert contact(topology, state) >= 0.24
    assert rv.minimize(rv.System(topology, lennard_jones(rv.SmoothSwitch(0.4))), state, tolerance=50.0).converged


@pytest.mark.slow
def test_a_thousand_waters_by_neighbor_lists():
    topology, state = rv.pack(WATER, SHAPE, 1000, density=1.0 * GRAM, key=jax.random.key(0))
    assert contact(topology, state) >= 0.16


KEY, STATE, SYSTEM = jax.random.key(0), argon_state(), rv.System(argon_topology(), SWITCHED)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.pack(WATER, SHAPE, 8, key=KEY), "`density` is None and `box` is missing; wanted exactly one"),
        (lambda: rv.pack(WATER, SHAPE, 8, density=600.0, box=STATE.box, key=KEY), "wanted exactly one"),
        (lambda: rv.pack(WATER, SHAPE, 8, box=rv.OpenBox(), key=KEY), "`box` is an `OpenBox`"),
        (lambda: rv.pack(WATER, SHAPE, 8, density=-1.0, key=KEY), "`density` is -1.0"),
        (lambda: rv.pack(WATER, SHAPE, 0, density=600.0, key=KEY), "`num` is 0; wanted a whole number"),
        (lambda: rv.pack(WATER, SHAPE, 2.0, density=600.0, key=KEY), "`num` is 2.0; wanted a whole number"),
        (lambda: rv.pack(WATER, SHAPE[:2], 8, density=600.0, key=KEY), r"shape \(2, 3\); wanted \(3, 3\)"),
        (lambda: rv.pack(WATER, SHAPE.at[0].set(jnp.nan), 8, density=600.0, key=KEY), "`positions` holds 3 values"),
        (lambda: rv.pack([WATER], [SHAPE, SHAPE], [1], density=600.0, key=KEY), "1 molecules, 2 arrays of positions"),
        (lambda: rv.pack([], [], [], density=600.0, key=KEY), "0 molecules"),
        (lambda: rv.pack(WATER, SHAPE, 8, density=600.0, contact=0.0, key=KEY), "`contact` is 0.0"),
        (lambda: rv.pack(ATOM, POINT, 27, density=30000.0, key=KEY), "0.33.* nm high.*wanted at least two contacts"),
        (lambda: rv.pack(ATOM, POINT, 64, density=20000.0, key=KEY), "nearer than 0.16 nm.*Wanted a lower density"),
        (lambda: rv.minimize(SYSTEM, STATE, max_steps=0), "`max_steps` is 0"),
        (lambda: rv.minimize(SYSTEM, STATE, tolerance=0.0), "`tolerance` is 0.0"),
        (lambda: rv.minimize(SYSTEM, STATE, max_move=-1.0), "`max_move` is -1.0"),
        (lambda: rv.minimize(rv.System(argon_topology(3), SWITCHED), STATE), r"wanted \(108, 3\)"),
        (lambda: rv.minimize(rv.System(argon_topology(), lennard_jones(cutoff=0.6)), STATE), "cutoff is 0.6 nm"),
    ],
)  # fmt: skip
def test_refusals(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_energies_that_are_not_finite():
    state = argon_state()
    broken = eqx.tree_at(lambda p: p.epsilon, SWITCHED, jnp.array(jnp.nan))
    with pytest.raises(FloatingPointError, match=r"energy is nan.*parameters must be finite"):
        rv.minimize(rv.System(argon_topology(), broken), state)


def test_atoms_at_the_same_place_are_moved_apart():
    """Where springs do not pull and other forces have no direction: bonded ones, with and without repulsion, one of
    them an image."""
    three, box = rv.Topology.from_elements(["Ar"] * 3), rv.OrthorhombicBox(jnp.full(3, 4.0))
    start = rv.State(jnp.array([[1.0, 1, 1], [1, 1, 1], [5, 1, 1]]), jnp.zeros((3, 3)), box)
    springs = rv.HarmonicBond([[0, 1], [1, 2], [0, 2]], 1000.0, 0.15)
    for potential in (springs, springs + rv.LennardJones(0.1, 0.1, cutoff=1.0)):
        minimum = rv.minimize(rv.System(three, potential), start)
        assert minimum.converged
        sides = jax.vmap(box.displacement)(minimum.state.positions, jnp.roll(minimum.state.positions, 1, 0))
        np.testing.assert_allclose(jnp.linalg.norm(sides, axis=1), 0.15, atol=0.01)
    # a spring whose length is zero keeps its atoms together, as that of a Drude particle
    together = rv.System(three, rv.HarmonicBond([[0, 1], [1, 2]], 1000.0, 0.0))
    assert rv.minimize(together, start, tolerance=1e-3).energy < 1e-6
