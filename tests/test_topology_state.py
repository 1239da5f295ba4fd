import itertools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, argon_box, argon_positions, argon_state, few
from hypothesis import given

import reverlet as rv


def test_from_elements():
    topology = rv.Topology.from_elements(["O", "H", "H", "Ar"], molecules=[0, 0, 0, 1], bonds=[(0, 1), (0, 2)])
    assert topology.num_atoms == 4
    assert topology.elements == ("O", "H", "H", "Ar")
    np.testing.assert_array_equal(topology.atomic_numbers, [8, 1, 1, 18])
    np.testing.assert_array_equal(topology.masses, [15.999, 1.008, 1.008, 39.948])
    np.testing.assert_array_equal(topology.bonds, [[0, 1], [0, 2]])
    assert jnp.issubdtype(topology.masses.dtype, jnp.floating)


def test_defaults():
    topology = rv.Topology.from_elements(["Ar"] * 3)
    np.testing.assert_array_equal(topology.molecules, [0, 1, 2])
    assert topology.bonds.shape == (0, 2)


def test_masses_against_ase():
    ase_data = pytest.importorskip("ase.data")
    elements = [ase_data.chemical_symbols[z] for z in range(1, 119)]
    topology = rv.Topology.from_elements(elements)
    np.testing.assert_array_equal(topology.atomic_numbers, np.arange(1, 119))
    # conventional values and the midpoints of intervals differ by some 1e-4; artificial elements in their isotope
    np.testing.assert_allclose(topology.masses[:83], ase_data.atomic_masses[1:84], rtol=2e-3)
    np.testing.assert_allclose(topology.masses[83:], ase_data.atomic_masses[84:], atol=4)


def test_own_masses():
    topology = rv.Topology.from_elements(["H", "H"], masses=np.array([2.014, 2]))
    np.testing.assert_array_equal(topology.masses, [2.014, 2])
    slope = jax.grad(lambda m: jnp.sum(rv.Topology.from_elements(["H", "H"], masses=m).masses ** 2))(
        jnp.array([1.0, 3.0])
    )
    np.testing.assert_array_equal(slope, [2.0, 6.0])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.Topology.from_elements(["Ar", "AR"]), "'AR' is not the symbol .* Did you mean 'Ar'"),
        (lambda: rv.Topology.from_elements(["Q"]), "'Q' is not the symbol"),
        (lambda: rv.Topology.from_elements([""]), "'' is not the symbol"),
        (
            lambda: rv.Topology.from_elements(["Ar"] * 2, masses=np.array([1.0])),
            r"`masses` has shape \(1,\); wanted \(2\)",
        ),
        (lambda: rv.Topology.from_elements(["Ar"] * 2, masses=np.array([1.0, 0.0])), "`masses` is 0.0"),
        (lambda: rv.Topology.from_elements(["Ar"] * 2, masses=np.array([1.0, -3.0])), "`masses` is -3.0"),
        (lambda: rv.Topology.from_elements(["Ar"] * 2, masses=np.array([1.0, np.nan])), "`masses` is nan"),
        (lambda: rv.Topology.from_elements(["Ar"] * 2, masses=np.array([1.0, np.inf])), "`masses` is inf"),
        (lambda: rv.Topology.from_elements(["Ar"] * 2, molecules=[0]), "`molecules` has shape"),
        (lambda: rv.Topology.from_elements(["Ar"] * 2, bonds=[(0, 2)]), "from 0 to 1"),
        (lambda: rv.Topology.from_elements(["Ar"] * 2, bonds=[(0, 1), (1, 1)]), "bind atom 1 to itself"),
        (lambda: rv.Topology.concatenate([]), "`concatenate` got no topologies"),
        (lambda: rv.Topology.from_elements(["Ar"]).repeat(0), "`num` is 0; wanted a whole number, at least 1"),
        (lambda: rv.Topology.from_elements(["Ar"]).pairs_within(0), "`num_bonds` is 0"),
        (lambda: rv.Topology.from_elements(["Ar"] * 2, bonds=[(-1, 0)]), "from 0 to 1"),
        (lambda: rv.Topology.from_elements(["Ar"] * 4, bonds=[(0, 1, 2), (1, 2, 3)]), "`bonds` has shape"),
    ],
)
def test_topology_refusals(make, match, without_type_checks):
    with pytest.raises(ValueError, match=match):
        make()


def test_topology_under_jit():
    make = lambda m: rv.Topology.from_elements(["O", "H"], masses=m, bonds=[(0, 1)])
    np.testing.assert_array_equal(jax.jit(make)(jnp.array([16.0, 1.0])).bonds, [[0, 1]])


# butane without hydrogens, cyclopropane and water; answers by hand
CHAIN = rv.Topology.from_elements(["C"] * 4, molecules=[0] * 4, bonds=[(1, 0), (1, 2), (3, 2)])
RING = rv.Topology.from_elements(["C"] * 3, molecules=[0] * 3, bonds=[(0, 1), (1, 2), (2, 0)])
WATER = rv.Topology.from_elements(["O", "H", "H"], molecules=[0] * 3, bonds=[(0, 1), (0, 2)])


def as_set(rows):
    """Of terms, which are the same read backwards."""
    rows = [min(tuple(row), tuple(row[::-1])) for row in np.asarray(rows).tolist()]
    assert len(set(rows)) == len(rows)
    return set(rows)


def test_angles_and_torsions():
    assert as_set(CHAIN.angles) == {(0, 1, 2), (1, 2, 3)}
    assert as_set(CHAIN.torsions) == {(0, 1, 2, 3)}
    assert as_set(RING.angles) == {(0, 1, 2), (1, 2, 0)[::-1], (1, 0, 2)}
    assert RING.torsions.shape == (0, 4)  # three atoms make none
    assert as_set(WATER.angles) == {(1, 0, 2)}
    lonely = rv.Topology.from_elements(["Ar"] * 2)
    assert lonely.angles.shape == (0, 3)
    assert lonely.torsions.shape == (0, 4)
    assert lonely.pairs_within(3).shape == lonely.intramolecular_pairs().shape == (0, 2)


def test_pairs():
    assert as_set(CHAIN.pairs_within(1)) == {(0, 1), (1, 2), (2, 3)}
    assert as_set(CHAIN.pairs_within(2)) == {(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)}
    assert as_set(CHAIN.pairs_within(3)) == as_set(CHAIN.intramolecular_pairs())
    both = rv.Topology.concatenate([WATER, RING])
    assert as_set(both.intramolecular_pairs()) == {(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)}


@given(seed=SEEDS)
@few
def test_paths_against_a_search(seed):
    """Angles, torsions and distances of random graphs, against powers of the matrix of bonds and a plain loop."""
    rng, n = np.random.default_rng(seed), 9
    bonds = np.argwhere(np.triu(rng.random((n, n)) < 0.25, 1))
    bonds = np.where(rng.random((len(bonds), 1)) < 0.5, bonds, bonds[:, ::-1])
    topology = rv.Topology.from_elements(["C"] * n, bonds=[tuple(b) for b in bonds.tolist()])
    bonded = np.zeros((n, n), bool)
    bonded[bonds[:, 0], bonds[:, 1]] = bonded[bonds[:, 1], bonds[:, 0]] = True
    paths = lambda k: {
        min(p, p[::-1])
        for p in itertools.permutations(range(n), k)
        if all(bonded[a, b] for a, b in itertools.pairwise(p))
    }
    assert as_set(topology.angles) == paths(3)
    assert as_set(topology.torsions) == paths(4)
    for distance in (1, 2, 3):
        near = np.linalg.matrix_power(bonded + np.eye(n, dtype=int), distance) > 0
        assert as_set(topology.pairs_within(distance)) == {tuple(p) for p in np.argwhere(np.triu(near, 1)).tolist()}


def test_repeat_and_concatenate():
    pair = rv.Topology.concatenate([WATER, CHAIN])
    assert pair.elements == ("O", "H", "H", "C", "C", "C", "C")
    np.testing.assert_array_equal(pair.molecules, [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(pair.bonds, [[0, 1], [0, 2], [4, 3], [4, 5], [6, 5]])
    for topology, num in ((WATER, 3), (pair, 2)):
        repeated, wanted = topology.repeat(num), rv.Topology.concatenate([topology] * num)
        for got, expected in zip(jax.tree.leaves(repeated), jax.tree.leaves(wanted), strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
    assert len(set(np.asarray(WATER.repeat(5).molecules).tolist())) == 5


def test_ten_thousand_waters():
    """Vectorized: a loop over atoms would take many seconds."""
    start = time.perf_counter()
    box = WATER.repeat(10_000)
    assert box.angles.shape == (10_000, 3)
    assert box.torsions.shape == (0, 4)
    assert box.pairs_within(2).shape == box.intramolecular_pairs().shape == (30_000, 2)
    assert time.perf_counter() - start < 5  # 0.2 s on an idle core


X = jnp.asarray(argon_positions())


@pytest.mark.parametrize(
    ("positions", "velocities", "error", "match"),
    [
        (X[0], X[0], ValueError, r"`positions` has shape \(3,\); wanted \(any, 3\).*vmap"),
        (X[None], X[None], ValueError, r"`positions` has shape \(1, 32, 3\)"),
        (X.T, X.T, ValueError, r"`positions` has shape \(3, 32\)"),
        (X, X[:-1], ValueError, r"`velocities` has shape \(31, 3\); wanted \(32, 3\)"),
        (X.astype(int), X, TypeError, "`positions` has dtype int64; wanted a floating-point"),
        (X, X.astype(int), TypeError, "`velocities` has dtype int64"),
        (X.astype(complex), X, TypeError, "`positions` has dtype complex128"),
        (X, X.astype(jnp.float32), TypeError, "wanted one dtype"),
        (X.at[3, 1].set(jnp.nan), X, ValueError, r"`positions` holds 1 values.*\(3, 1\)"),
        (X.at[3, 1].set(jnp.inf), X, ValueError, r"`positions` holds 1 values.*inf"),
        (X, X.at[0, 2].set(jnp.nan), ValueError, r"`velocities` holds 1 values.*\(0, 2\)"),
    ],
)
def test_state_refusals(positions, velocities, error, match, without_type_checks):
    with pytest.raises(error, match=match):
        rv.State(positions, velocities, argon_box())


def test_state_takes_numpy():
    state = rv.State(argon_positions(), np.zeros((32, 3)), argon_box())
    assert isinstance(state.positions, jax.Array)


def test_repeat():
    state = argon_state()
    repeated = state.repeat(3)
    assert repeated.positions.shape == (3, 32, 3)
    assert repeated.box.lengths.shape == (3, 3)
    for leaf, one in zip(jax.tree.leaves(repeated), jax.tree.leaves(state), strict=True):
        assert jnp.all(leaf == one)


def test_system_in_another_precision():
    system = rv.System(rv.Topology.from_elements(["Ar"]), rv.LennardJones(0.3, 1.0, cutoff=0.5))
    cast = system.astype(jnp.float32)
    assert cast.topology.masses.dtype == cast.potential.sigma.dtype == jnp.float32
    assert cast.topology.bonds.dtype == system.topology.bonds.dtype


def test_kinetic_energy():
    system = rv.System(rv.Topology.from_elements(["O", "H"]), rv.LennardJones(0.3, 1.0, cutoff=0.5))
    v = jnp.array([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    np.testing.assert_allclose(system.kinetic_energy(v), 0.5 * (15.999 * 5 + 1.008 * 9), rtol=1e-15)


def test_surfaces_are_one_tree():
    topology = rv.Topology.from_elements(["Na", "Cl"])
    charges = rv.AtomCharges(np.array([1.0, -1.0]))
    system = rv.System(topology, rv.Coulomb(charges), rv.PointCharges(charges))
    x = jnp.array([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]])

    def product(surfaces):
        moved = system.with_surfaces(surfaces)
        return moved.potential_energy(x, rv.OpenBox()) * moved.dipole.moment(x, rv.OpenBox())[0]

    # U = -k q²/r with one of the surfaces' charges, M = -q r with the other's
    surfaces = system.surfaces
    assert product(surfaces) == pytest.approx(rv.units.COULOMB, rel=1e-12)
    slopes = eqx.filter_grad(product)(surfaces)
    np.testing.assert_allclose(slopes.potential.charges.charges, rv.units.COULOMB * np.array([1.0, -1.0]), rtol=1e-12)
    np.testing.assert_allclose(slopes.dipole.charges.charges, rv.units.COULOMB * np.array([0.0, -1.0]), atol=1e-10)
    tangents = system.with_surfaces(slopes)  # trees of tangents, with `None` for what has none
    assert tangents.surfaces.polarizability is None


@pytest.mark.parametrize(
    ("surfaces", "match"),
    [
        ({"dipole": rv.PointCharges(np.array([1.0, -1.0]))}, "2 charges"),
        ({"polarizability": rv.BondPolarizability(np.array([[0, 3]]), 1.0, 1.0, 0.0, 0.0, 0.1)}, "names atom 3"),
    ],
)
def test_surfaces_of_other_atoms_are_refused(surfaces, match):
    with pytest.raises(ValueError, match=match):
        rv.System(rv.Topology.from_elements(["Ar"] * 3), rv.LennardJones(0.3, 1.0, cutoff=0.5), **surfaces)


def test_absent_velocities_are_not_zero():
    state = rv.State(X, None, argon_box())
    assert not state.has_velocities
    system = rv.System(rv.Topology.from_elements(["Ar"] * len(X)), rv.HarmonicBond([(0, 1)], 1.0, 0.3))
    for use in (
        lambda: system.kinetic_energy(state.velocities),
        lambda: rv.VACF().record(system, state, state),
        lambda: rv.Temperature().record(system, state.repeat(2), state),
        lambda: rv.nve(system, state, dt=0.001, num_steps=1),
    ):
        with pytest.raises(ValueError, match=r"has no velocities.*with_velocities"):
            use()
    assert np.all(np.isfinite(rv.MSD().record(system, state, state)))
    moving = state.repeat(2).with_velocities(jnp.stack([X, X]))
    np.testing.assert_array_equal(moving.velocities[1], X)
    with pytest.raises(ValueError, match="`velocities` has shape"):
        state.with_velocities(X[1:])
    with pytest.raises(TypeError, match="wanted float64"):
        state.with_velocities(X.astype(jnp.float32))
