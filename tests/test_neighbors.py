"""Neighbor lists against all pairs."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, few
from hypothesis import given
from hypothesis import strategies as st

import reverlet as rv

ATOMS, CUTOFF, SKIN = 300, 0.55, 0.05
SHAPES = {
    "cube": rv.OrthorhombicBox(jnp.full(3, 2.5)),
    "slab": rv.OrthorhombicBox(jnp.array([4.1, 1.3, 2.9])),
    "triclinic": rv.TriclinicBox(jnp.array([[2.4, 0.0, 0.0], [0.9, 2.6, 0.0], [-0.7, 0.8, 2.5]])),
    "left-handed": rv.TriclinicBox(jnp.array([[0.9, 2.6, 0.0], [2.4, 0.0, 0.0], [-0.7, 0.8, 2.5]])),
}
SMOOTH = rv.LennardJones(0.2, 0.8, cutoff=CUTOFF, truncation=rv.SmoothSwitch(0.4))
MIXTURE = rv.LennardJones(
    jnp.array([0.2, 0.15]), jnp.array([0.8, 0.5]), cutoff=CUTOFF, species=np.arange(ATOMS) % 2,
    truncation=rv.SmoothSwitch(0.4),
)  # fmt: skip
POTENTIALS = {"one species": SMOOTH, "mixture": MIXTURE, "sum": SMOOTH + MIXTURE}


def scattered(seed, box, atoms=ATOMS):
    """Positions anywhere, also far outside the box, as trajectories are not wrapped; uneven, with empty corners."""
    rng = np.random.default_rng(seed)
    fractions = rng.beta(0.8, 1.3, size=(atoms, 3)) + rng.integers(-2, 3, size=(atoms, 3))
    return jnp.asarray(fractions) @ box.vectors


def liquid(seed, box, atoms=ATOMS):
    """The same, at least 0.1 nm apart, so that energies can be compared."""
    x = np.asarray(scattered(seed, box, 4 * atoms))
    kept = []
    for candidate in x:
        if all(np.linalg.norm(box.displacement(candidate, other)) > 0.1 for other in kept):
            kept.append(candidate)
        if len(kept) == atoms:
            return jnp.asarray(np.array(kept))
    raise AssertionError("too dense")


def brute_force_pairs(x, box, reach):
    d = jax.vmap(lambda a: jax.vmap(lambda b: box.displacement(a, b))(x))(x)
    near = np.asarray(jnp.sum(d**2, axis=-1)) < reach**2
    return {(i, j) for i, j in np.argwhere(near) if i != j}


def listed_pairs(neighbors, atoms):
    rows, columns = np.asarray(neighbors.rows), np.asarray(neighbors.columns)
    pairs = [(i, j) for row, column in zip(rows, columns, strict=True) for i in row for j in column]
    pairs = [(i, j) for i, j in pairs if i < atoms and j < atoms and i != j]
    assert len(pairs) == len(set(pairs))  # none twice
    return set(pairs)


_search = {}


def search_for(shape, block):
    """One search a shape, so that it is compiled once."""
    if (shape, block) not in _search:
        box = SHAPES[shape]
        worst = jnp.stack([scattered(seed, box) for seed in range(8)])
        _search[shape, block] = rv.CellList.fit(worst, box, cutoff=CUTOFF, skin=SKIN, block=block, room=1.5)
    return _search[shape, block]


find = eqx.filter_jit(lambda search, x, box: search.find(x, box))


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("shape", SHAPES)
@given(seed=SEEDS)
@few
def test_has_all_pairs_within_reach(shape, block, seed):
    box, search = SHAPES[shape], search_for(shape, block)
    x = scattered(seed, box)
    neighbors = find(search, x, box)
    assert np.all(neighbors.needed <= search.room())
    listed, wanted = listed_pairs(neighbors, ATOMS), brute_force_pairs(x, box, CUTOFF + SKIN)
    assert wanted <= listed
    if block == 1:
        assert listed == wanted
    flat = np.asarray(neighbors.rows).ravel()
    np.testing.assert_array_equal(flat[np.asarray(neighbors.slots)], np.arange(ATOMS))


@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_same_energy_and_derivatives_as_all_pairs(shape, name):
    box, potential, search = SHAPES[shape], POTENTIALS[name], search_for(shape, 8)
    x = liquid(1, box)
    w = jnp.asarray(np.random.default_rng(2).normal(size=x.shape))
    neighbors = find(search, x, box)

    def both(x, potential, box, neighbors):
        energy = lambda x, potential, box: potential.energy(x, box, neighbors=neighbors)
        work = lambda x, potential, box: jax.jvp(lambda x: energy(x, potential, box), (x,), (w,))[1]
        gradients = lambda f: eqx.filter_grad(lambda z: f(*z))((x, potential, box))
        return energy(x, potential, box), gradients(energy), gradients(work)

    got = eqx.filter_jit(both)(x, potential, box, neighbors)
    wanted = eqx.filter_jit(both)(x, potential, box, None)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11 * float(jnp.max(jnp.abs(b))))  # order of the sums


def test_the_same_positions_make_the_same_list():
    box, search = SHAPES["cube"], search_for("cube", 8)
    x = scattered(0, box)
    a, b = find(search, x, box), search.find(x, box)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@given(seed=SEEDS, short=st.sampled_from(["capacity", "window"]))
@few
def test_says_how_much_room_it_needs(seed, short):
    box, search = SHAPES["cube"], search_for("cube", 8)
    x = scattered(seed, box)
    neighbors = find(search, x, box)
    small = dataclasses.replace(search, **{short: 3})
    for _ in range(2):
        needed = find(small, x, box).needed
        assert np.any(needed > small.room())
        small = small.enlarged(needed)
        if np.all(find(small, x, box).needed <= small.room()):
            break
    assert listed_pairs(find(small, x, box), ATOMS) == listed_pairs(neighbors, ATOMS)


def test_refusals():
    box = SHAPES["cube"]
    x = scattered(0, box)
    with pytest.raises(ValueError, match=r"`skin` is 0\.0"):
        rv.CellList.fit(x, box, cutoff=CUTOFF, skin=0.0)
    with pytest.raises(ValueError, match="at most half the smallest height"):
        rv.CellList.fit(x, box, cutoff=1.2, skin=0.1)
    with pytest.raises(ValueError, match="open box"):
        rv.CellList.fit(x, rv.OpenBox(), cutoff=CUTOFF)
    with pytest.raises(ValueError, match="outside `jax"):
        jax.jit(lambda x: rv.CellList.fit(x, box, cutoff=CUTOFF).find(x, box))(x)
    with pytest.raises(ValueError, match="`block` is 0"):
        rv.CellList.fit(x, box, cutoff=CUTOFF, block=0)
    search = search_for("cube", 8)
    topology = rv.Topology.from_elements(["Ar"] * ATOMS)
    with pytest.raises(ValueError, match=r"up to 0\.55 nm, but the potential reaches 0\.6 nm"):
        rv.System(topology, rv.LennardJones(0.2, 0.8, cutoff=0.6), search)
    system = rv.System(topology, SMOOTH, search)
    small = rv.OrthorhombicBox(jnp.full(3, 1.5))
    with pytest.raises(ValueError, match="made for a larger box"):
        system.check(rv.State(liquid(0, box), jnp.zeros_like(x), small))
