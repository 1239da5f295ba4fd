"""Indices that name what there is not, or twice, are refused wherever they are given."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

X = jnp.array([[0.0, 0, 0], [0.1, 0, 0], [0.5, 0.1, 0], [0.5, 0.3, 0.2]])
ARGON = rv.LennardJones(0.34, 1.0, cutoff=1.0)
THREE = rv.LennardJones(jnp.array([0.3, 0.32, 0.34]), jnp.ones(3), cutoff=1.0, species=jnp.arange(3))
FOUR = eqx.tree_at(lambda p: p.species, THREE, jnp.array([0, 1, 2, 0]))


@pytest.mark.parametrize("pairs", [[[0, -1]], [[0, -1], [0, 3]], [[1, 1]], [[0, 1], [1, 0]]])
def test_special_pairs_of_charges(pairs):
    with pytest.raises(ValueError, match=r"atom|once"):
        rv.Coulomb(jnp.ones(4), exclusions=jnp.array(pairs))


def test_special_pairs_that_are_replaced():
    """Pairs and how they are laid out are one array: they cannot contradict one another."""
    pairs = jnp.array([[0, 1], [2, 3]])
    one, other = (rv.Coulomb(jnp.ones(4), exclusions=p) for p in (pairs[:1], pairs))
    with pytest.raises(TypeError, match="not subscriptable"):
        eqx.tree_at(lambda p: p.exclusions.pairs, one, pairs[1:])
    replaced = eqx.tree_at(lambda p: p.exclusions, one, pairs)
    np.testing.assert_array_equal(replaced.energy(X, rv.OpenBox()), other.energy(X, rv.OpenBox()))
    with pytest.raises(ValueError, match="`exclusions` are traced"):
        jax.jit(lambda p: eqx.tree_at(lambda p: p.exclusions, one, p).energy(X, rv.OpenBox()))(pairs)


def test_an_atom_that_does_not_exist_is_not_another():
    # without a `System`, which refuses it
    energy = rv.Coulomb(jnp.ones(4), exclusions=jnp.array([[0, 9]])).energy(X, rv.OpenBox())
    assert jnp.isnan(energy)
    bonds = rv.BondPolarizability(jnp.array([[0, 9]]), 1e-3, 5e-4, 0.0, 0.0, 0.1)
    assert jnp.all(jnp.isnan(bonds.polarizability(X, rv.OpenBox())))


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: FOUR, lambda p: p.species),
        (lambda: eqx.tree_at(lambda p: (p.sigma, p.epsilon), FOUR, (jnp.ones((3, 3)),) * 2), lambda p: p.species),
        (lambda: rv.ListedPairs(THREE, jnp.array([[0, 1]]), kinds=jnp.array([0])), lambda p: p.kinds),
        (lambda: rv.HarmonicBond(jnp.array([[0, 1]]), jnp.ones(2), 0.1, kinds=jnp.array([0])), lambda p: p.kinds),
        (lambda: rv.PeriodicTorsion(jnp.array([[0, 1, 2, 3]]), 1.0, jnp.array([1, 2]), 0.0, kinds=jnp.array([0])),
         lambda p: p.kinds),
        (lambda: rv.Coulomb(rv.AtomCharges(jnp.ones(2), jnp.zeros(4, int))), lambda p: p.charges.kinds),
    ],
)  # fmt: skip
def test_a_kind_that_does_not_exist_is_not_another(make, where):
    """Nor the last one. What is traced cannot be refused, and is no number."""
    for bad in (-5, 7):
        potential = eqx.tree_at(where, make(), replace_fn=lambda x, bad=bad: x.at[-1].set(bad))
        assert jnp.isnan(potential.energy(X, rv.OpenBox()))


def test_more_atoms_than_entries():
    for potential in (THREE, rv.ReactionField(jnp.ones(3), cutoff=1.0), rv.Excluding(THREE, jnp.array([[0, 1]]))):
        with pytest.raises(ValueError, match=r"3 (entries|charges); wanted one for each of 4 atoms"):
            potential.energy(X, rv.OpenBox())


def test_bonds_of_a_polarizability():
    make = lambda bonds, parallel=1e-3, kinds=None: rv.BondPolarizability(
        jnp.array(bonds), parallel, 5e-4, 0.0, 0.0, 0.1, kinds=kinds
    )
    for bonds in ([[0, -1]], [[0, 0]]):
        with pytest.raises(ValueError, match="wanted"):
            make(bonds)
    with pytest.raises(ValueError, match="kinds"):
        make([[0, 1]], jnp.array([1e-3, 2e-3]), jnp.array([7]))


def test_kinds_of_listed_pairs(without_type_checks):
    pairs = jnp.array([[0, 1], [2, 3]])
    rv.ListedPairs(THREE, pairs, kinds=jnp.array([0, 1]))  # not all kinds need be used
    for kinds, wanted in (([2, -1], "wanted indices from 0"), ([0, 3], "wanted from 0 to 2")):
        with pytest.raises(ValueError, match=wanted):
            rv.ListedPairs(THREE, pairs, kinds=jnp.array(kinds))
    with pytest.raises(TypeError, match="integers"):
        rv.ListedPairs(THREE, pairs, kinds=jnp.array([0.0, 1.0]))


def test_no_pairs_to_exclude():
    none = jnp.zeros((0, 2), int)
    wanted = ARGON.energy(X, rv.OpenBox())
    for potential in (rv.Excluding(ARGON, none), rv.Rescaling(ARGON, none, 0.5)):
        np.testing.assert_array_equal(potential.energy(X, rv.OpenBox()), wanted)


def test_bonds_twice():
    with pytest.raises(ValueError, match="more than once"):
        rv.Topology.from_elements(["Ar"] * 2, bonds=[(0, 1), (1, 0)])


def test_numbers_of_waves_may_be_of_numpy(without_type_checks):
    box = rv.OrthorhombicBox(jnp.full(3, 1.2))
    plain = rv.Ewald(jnp.array([1.0, -1, 1, -1]), cutoff=0.6, alpha=5.0, waves=(5, 5, 5))
    other = rv.Ewald(jnp.array([1.0, -1, 1, -1]), cutoff=0.6, alpha=5.0, waves=list(np.full(3, 5)))
    energy = jax.jit(lambda potential: potential.energy(X, box))
    np.testing.assert_array_equal(energy(other), energy(plain))
