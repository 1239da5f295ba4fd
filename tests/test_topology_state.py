import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import argon_box, argon_positions, argon_state

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
