"""Neighbor lists against all pairs."""

import dataclasses

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EPSILON, SEEDS, SIGMA, TEMPERATURE, argon_state, argon_topology, few, very_few
from hypothesis import given
from jax.interpreters.partial_eval import dce_jaxpr

import reverlet as rv

ATOMS, CUTOFF, SKIN = 300, 0.55, 0.05
ZERO = jnp.zeros((), int)
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
POTENTIALS = {
    "one species": SMOOTH,
    "mixture": MIXTURE,
    "sum": SMOOTH + MIXTURE,
    "named": rv.Excluding(MIXTURE, np.arange(ATOMS).reshape(-1, 2)) + rv.Among(SMOOTH, np.arange(ATOMS)[::-3]),
}


def scattered(seed, box, atoms=ATOMS):
    """Positions anywhere, also far outside the box, as trajectories are not wrapped; uneven, with empty corners."""
    rng = np.random.default_rng(seed)
    fractions = rng.beta(0.8, 1.3, size=(atoms, 3)) + rng.integers(-2, 3, size=(atoms, 3))
    return jnp.asarray(fractions) @ box.vectors


def liquid(seed, box):
    """Atoms near a lattice of 7³ sites, some of them empty, so that none overlap; nothing sorted or wrapped."""
    rng = np.random.default_rng(seed)
    sites = np.stack(np.meshgrid(*[np.arange(7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    fractions = (rng.permutation(sites)[:ATOMS] + rng.uniform(-0.15, 0.15, size=(ATOMS, 3))) / 7
    return jnp.asarray(fractions + rng.integers(-2, 3, size=(ATOMS, 3))) @ box.vectors


@jax.jit
def distances(x, box):
    one = lambda a, b: jnp.sum(box.displacement(a, b) ** 2)
    return jnp.sqrt(jax.vmap(lambda a: jax.vmap(lambda b: one(a, b))(x))(x))


def brute_force_pairs(x, box, reach):
    near = np.asarray(distances(x, box)) < reach
    return set(np.flatnonzero(near & ~np.eye(len(x), dtype=bool)).tolist())  # i times the atoms, plus j


def listed_pairs(neighbors, atoms):
    rows, columns = np.asarray(neighbors.rows)[:, :, None], np.asarray(neighbors.columns)[:, None, :]
    pairs = (rows * atoms + columns)[(rows < atoms) & (columns < atoms) & (rows != columns)].tolist()
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


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        *[("cube", 1), ("slab", 8), ("triclinic", 8), ("left-handed", 1)],
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("cube", 8), ("slab", 1), ("triclinic", 1), ("left-handed", 8))
        ),
    ],
)
@given(seed=SEEDS)
@very_few
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


energy = eqx.filter_jit(lambda x, box, neighbors: SMOOTH.energy(x, box, neighbors=neighbors))
strained_box = jax.jit(lambda box, deformation: box.deform(deformation))
wear = jax.jit(lambda neighbors, x, box: (neighbors.wear(x, box), neighbors.usable(x, box)))


@pytest.mark.parametrize("shape", [pytest.param("slab", marks=pytest.mark.slow), "triclinic"])
@given(seed=SEEDS, part=st.sampled_from([0.0, 0.5, 0.9]))
@few
def test_serves_as_long_as_strain_and_motion_leave_no_pair_out(shape, seed, part):
    """Sizes at which the list is just good, or just not: all pairs must be there, and no more be refused."""
    box, rng = SHAPES[shape], np.random.default_rng(seed)
    x = scattered(seed, box)
    neighbors = find(search_for(shape, 1), x, box)
    # a strain that takes up `part` of the skin, and a rotation that takes nothing
    strain = rng.normal(size=(3, 3))
    lowest = np.linalg.eigvalsh(strain + strain.T)[0] / 2
    deformation = np.eye(3) + strain * (part * SKIN / (CUTOFF + SKIN) / abs(lowest))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    deformation = turn * np.sign(np.linalg.det(turn)) @ deformation
    smallest = np.linalg.svd(deformation, compute_uv=False)[-1]
    left = 0.5 * (smallest * (CUTOFF + SKIN) - CUTOFF)
    if left < 0:
        return
    now = strained_box(box, jnp.asarray(deformation))
    # all atoms are moved beside the strain, then all together, and some by lattice vectors
    u = rng.normal(size=x.shape)
    u /= np.linalg.norm(u, axis=1)[:, None]
    u -= u.mean(axis=0)
    u /= np.max(np.linalg.norm(u, axis=1))
    drift, wraps = rng.normal(size=3), rng.integers(-1, 2, size=(ATOMS, 3)) @ now.vectors

    for size, wanted in ((0.999 * left, True), (1.001 * left + 1e-9, False)):
        y = x @ deformation.T + size * u + drift + wraps
        used, usable = wear(neighbors, y, now)
        np.testing.assert_allclose(used, size + 0.5 * (1 - smallest) * (CUTOFF + SKIN), atol=1e-12)
        assert usable == wanted
        if wanted:
            assert brute_force_pairs(y, now, CUTOFF) <= listed_pairs(neighbors, ATOMS)


def test_a_strained_box_keeps_its_list_and_another_box_does_not():
    box, search = SHAPES["cube"], search_for("cube", 8)
    x = liquid(0, box)
    neighbors = find(search, x, box)
    for factor in (0.93, 1.1):  # scaled with the box, as barostats do; within the skin, 0.93 of 0.6 nm is beyond 0.55
        scaled = rv.OrthorhombicBox(factor * box.lengths)
        np.testing.assert_allclose(energy(factor * x, scaled, neighbors), energy(factor * x, scaled, None), rtol=1e-11)
    assert np.isnan(energy(0.91 * x, rv.OrthorhombicBox(0.91 * box.lengths), neighbors))
    for other in (rv.OrthorhombicBox(jnp.array([2.3, 2.5, 2.5])), rv.OpenBox(), SHAPES["slab"]):
        assert np.isnan(energy(x, other, neighbors))


@pytest.mark.parametrize("shape", [pytest.param("cube", marks=pytest.mark.slow), "triclinic"])
def test_view_per_atom_equals_brute_force(shape):
    box = SHAPES[shape]
    search = rv.CellList.fit(scattered(0, box), box, cutoff=CUTOFF, skin=SKIN, per_atom=True)
    assert search_for(shape, 8).near is None
    x = scattered(0, box)
    neighbors = find(search, x, box)
    rows, columns = np.nonzero(np.asarray(neighbors.of_atom) < ATOMS)
    pairs = set((rows * ATOMS + np.asarray(neighbors.of_atom)[rows, columns]).tolist())
    assert pairs == brute_force_pairs(x, box, CUTOFF + SKIN)
    small = dataclasses.replace(search, near=3)
    short = find(small, x, box)
    assert not short.complete
    np.testing.assert_array_equal(short.needed, neighbors.needed)
    assert neighbors.needed[2] == max(np.bincount(rows))
    assert find(small.enlarged(short.needed), x, box).complete


def test_edges_make_the_energy_of_pairs():
    box = SHAPES["triclinic"]
    x = liquid(3, box)
    neighbors = find(rv.CellList.fit(x, box, cutoff=CUTOFF, skin=SKIN, per_atom=True), x, box)

    def of_edges(x, neighbors):
        edges = rv.Edges.within(CUTOFF, x, box, neighbors)
        one = lambda r2: SMOOTH.truncation.truncate(lambda s: SMOOTH.pair_energy(s, ZERO, ZERO), r2, CUTOFF)
        return 0.5 * jnp.sum(jnp.where(edges.mask, one(jnp.sum(edges.d**2, axis=-1)), 0))

    both = jax.jit(jax.value_and_grad(of_edges))
    wanted = jax.jit(jax.value_and_grad(lambda x: SMOOTH.energy(x, box)))(x)
    for got in (both(x, neighbors), both(x, None)):
        np.testing.assert_allclose(got[0], wanted[0], rtol=1e-11)  # the order of the sums
        np.testing.assert_allclose(got[1], wanted[1], atol=1e-11 * float(jnp.max(jnp.abs(wanted[1]))))
    assert np.isnan(both(x.at[0, 0].add(SKIN), neighbors)[0])
    with pytest.raises(ValueError, match="no view per atom"):
        rv.Edges.within(CUTOFF, x, box, find(search_for("triclinic", 8), x, box))
    with pytest.raises(ValueError, match="wanted a list with at least that"):
        rv.Edges.within(0.6, x, box, neighbors)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ("triclinic", "named"),  # with a mixture
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("slab", "named"),
                ("triclinic", "mixture"),
                ("cube", "sum"),
                ("left-handed", "sum"),
                ("cube", "one species"),
            )
        ),
    ],
)
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


def test_force_and_pullback_in_one_sweep():
    """As the walk of the adjoint asks for them; and the derivative of that, against all pairs."""
    box, search = SHAPES["cube"], search_for("cube", 8)
    x, rng = liquid(1, box), np.random.default_rng(3)
    w, direction = (jnp.asarray(rng.normal(size=x.shape)) for _ in range(2))

    def both(x, w, potential, neighbors):
        energy = lambda x, potential: potential.energy(x, box, neighbors=neighbors)
        work = lambda x, w, potential: jax.jvp(lambda x: energy(x, potential), (x,), (w,))[1]
        return jax.grad(work, argnums=(0, 1, 2))(x, w, potential)

    def further(x, neighbors):
        return jax.jvp(lambda x: both(x, w, SMOOTH, neighbors), (x,), (direction,))

    neighbors = find(search, x, box)
    closed = jax.make_jaxpr(lambda x, w: both(x, w, SMOOTH, neighbors))(x, w)
    used, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    assert str(used).count("scan[") == 1  # over the blocks of the list
    got, wanted = (eqx.filter_jit(further)(x, list_) for list_ in (neighbors, None))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * float(jnp.max(jnp.abs(b))))  # order of the sums


def test_the_same_positions_make_the_same_list():
    box, search = SHAPES["cube"], search_for("cube", 8)
    x = scattered(0, box)
    a, b = find(search, x, box), search.find(x, box)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("short", ["capacity", "window"])
def test_says_how_much_room_it_needs(short):
    box, search = SHAPES["cube"], search_for("cube", 8)
    x = scattered(0, box)
    neighbors = find(search, x, box)
    small = dataclasses.replace(search, **{short: 3})
    needed = find(small, x, box).needed
    assert np.any(needed > small.room())
    if short == "window":  # which hides neighbors, so that only the window is known now
        np.testing.assert_array_equal(needed[1], neighbors.needed[1])
    else:
        np.testing.assert_array_equal(needed, neighbors.needed)
    small = small.enlarged(needed)
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
        rv.System(topology, rv.LennardJones(0.2, 0.8, cutoff=0.6), search=search)
    narrow = dataclasses.replace(search, cells=(12, 12, 60), reach=(3, 3))  # 0.625 nm of the 0.6 wanted
    narrow.check(box.heights)
    system = rv.System(topology, SMOOTH, search=narrow)
    small = rv.OrthorhombicBox(jnp.full(3, 2.0))
    with pytest.raises(ValueError, match="made for a larger box"):
        system.check(rv.State(liquid(0, small), jnp.zeros_like(x), small))


ARGON = argon_topology(4)  # 256 atoms, in a box of 2.31 nm
NEAR = rv.LennardJones(SIGMA, EPSILON, cutoff=0.6, truncation=rv.SmoothSwitch(0.5))
FULL = rv.LennardJones(SIGMA, EPSILON, cutoff=0.8, truncation=rv.SmoothSwitch(0.7))


def argon_search(every=5, skin=0.06, room=1.3):
    state = argon_state(4)
    return rv.CellList.fit(state.positions, state.box, cutoff=0.8, skin=skin, every=every, room=room)


def correlation(system, state, initial):
    del system
    return jnp.mean(jnp.sum(state.velocities * initial.velocities, axis=-1)) + jnp.mean(state.positions**2)


@eqx.filter_jit
def value_and_gradients(potential, state, search, solver, dynamics):
    def total(potential_and_state):
        potential, state = potential_and_state
        trajectory = rv.nve(
            rv.System(ARGON, potential, search=search), state, solver, dt=0.004, num_steps=22, save_every=11,
            record=correlation, adjoint=dynamics,
        )  # fmt: skip
        return jnp.sum(trajectory.records * jnp.arange(1.0, 4.0))

    return eqx.filter_value_and_grad(total)((potential, state))


@pytest.mark.parametrize(
    ("solver", "potential"),
    [
        (rv.VelocityVerlet(), FULL),
        pytest.param(rv.PositionVerlet(), FULL, marks=pytest.mark.slow),
        pytest.param(rv.Respa(2, fast=(0,)), NEAR + (FULL - NEAR), marks=pytest.mark.slow),
    ],
    ids=["VelocityVerlet", "PositionVerlet", "Respa"],
)
def test_trajectories_and_gradients_as_with_all_pairs(solver, potential):
    state = argon_state(4)
    got = value_and_gradients(potential, state, argon_search(), solver, rv.ReversibleAdjoint())
    wanted = value_and_gradients(potential, state, None, solver, rv.ReversibleAdjoint())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        # the order of the sums, along 22 steps
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * float(jnp.max(jnp.abs(b))))


@pytest.mark.slow
def test_with_other_adjoints():
    state, search = argon_state(4), argon_search()

    def total(sigma, adjoint):
        potential = eqx.tree_at(lambda p: p.sigma, FULL, sigma)
        trajectory = rv.nve(
            rv.System(ARGON, potential, search=search),
            state,
            dt=0.004,
            num_steps=12,
            record=correlation,
            adjoint=adjoint,
        )
        return jnp.sum(trajectory.records)

    reverse = jax.jit(jax.grad(lambda s: total(s, rv.ReversibleAdjoint())))(FULL.sigma)
    forward = jax.jit(lambda s: jax.jvp(lambda s: total(s, rv.ForwardMode()), (s,), (1.0,))[1])(FULL.sigma)
    np.testing.assert_allclose(forward, reverse, rtol=1e-10)  # rounding
    small = rv.System(ARGON, FULL, search=dataclasses.replace(search, capacity=40))
    run = lambda: rv.nve(small, state, dt=0.004, num_steps=1, record=correlation, adjoint=rv.ForwardMode()).records
    with pytest.raises(jax.errors.JaxRuntimeError, match="too small: it had room for 40"):
        jax.block_until_ready(jax.jit(run)())


@pytest.mark.slow
def test_memory_of_a_gradient_does_not_grow_with_the_steps():
    state, search = argon_state(4, dtype=jnp.float32), argon_search(every=20)
    system = rv.System(ARGON, FULL, search=search).astype(jnp.float32)

    def memory(num_steps):
        def end(potential):
            moved = eqx.tree_at(lambda s: s.potential, system, potential)
            return jnp.sum(rv.nve(moved, state, dt=0.002, num_steps=num_steps, save_every=num_steps).final.positions)

        compiled = jax.jit(jax.grad(end)).lower(system.potential).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(10_000) <= 1.01 * memory(100)


def test_a_list_too_small_is_enlarged_or_says_how():
    state, search = argon_state(4), argon_search()
    small = dataclasses.replace(search, capacity=40)
    run = lambda search: rv.nve(
        rv.System(ARGON, FULL, search=search), state, dt=0.004, num_steps=10, record=correlation
    )
    wanted = run(search)
    got = run(small)
    np.testing.assert_allclose(got.records, wanted.records, rtol=1e-12)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"room for 40 neighbors .* wanted \d+"):
        jax.block_until_ready(jax.jit(lambda: run(small).records)())


def test_a_list_used_too_long_says_so():
    state = argon_state(4)
    system = rv.System(ARGON, FULL, search=argon_search(every=400))
    with pytest.raises(FloatingPointError, match=r"moved by .* half the skin, which is 0\.03 nm"):
        rv.LangevinBAOAB(TEMPERATURE, 1.0, dt=0.004, num_steps=100).sample(
            system, state.repeat(2), 2, key=jax.random.key(0)
        )


@pytest.mark.slow
def test_samples_as_with_all_pairs():
    states = argon_state(4).repeat(2)
    sampler = rv.LangevinBAOAB(TEMPERATURE, 1.0, dt=0.004, num_steps=10)
    got, wanted = (
        sampler.sample(rv.System(ARGON, FULL, search=search), states, 4, key=jax.random.key(1))
        for search in (argon_search(), None)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)  # the order of the sums, along 20 steps
    samples, _ = wanted
    again = rv.Samples.of(rv.System(ARGON, FULL, search=argon_search()), samples.ensemble, samples.states)
    np.testing.assert_allclose(again.log_density, samples.log_density, atol=1e-9)


def test_bit_reversible_dynamics_takes_no_list():
    with pytest.raises(ValueError, match="wanted one without"):
        rv.nve(
            rv.System(ARGON, FULL, search=argon_search()),
            argon_state(4),
            rv.BitReversibleVerlet(),
            dt=0.004,
            num_steps=1,
        )


def colliding(search):
    """Two argon atoms that meet and part again."""
    topology = rv.Topology.from_elements(["Ar"] * 2)
    potential = rv.LennardJones(SIGMA, 0.9, cutoff=0.4)
    box = rv.OrthorhombicBox(jnp.full(3, 2.0))
    positions, velocities = jnp.zeros((2, 3)).at[:, 0].set(jnp.array([1.0, 1.42])), jnp.zeros((2, 3))
    state = rv.State(positions, velocities.at[:, 0].set(jnp.array([0.15, -0.15])), box)

    def distance(sigma):
        moved = eqx.tree_at(lambda p: p.sigma, potential, sigma)
        system = rv.System(topology, moved, search=search)
        final = rv.nve(system, state, dt=0.002, num_steps=480, save_every=480, throw=False).final
        return final.positions[1, 0] - final.positions[0, 0]

    return jax.jit(jax.value_and_grad(distance))(potential.sigma)


def test_a_stale_list_on_the_way_back_is_no_silent_error():
    """Forward no atom moves by half the skin; seen from the end of the trajectory, where the way back begins, one does.

    So the value is right, and the derivative must be right or NaN.
    """
    make = lambda every: rv.CellList(0.4, 0.1, every, (2, 2, 20), (1, 1), window=2, capacity=2, block=1)
    value, gradient = colliding(None)
    for every in (480, 40):
        v, g = colliding(make(every))
        np.testing.assert_allclose(v, value, rtol=1e-10)
        if every == 480:
            assert np.isnan(g)
        else:
            np.testing.assert_allclose(g, gradient, rtol=1e-8)


def test_a_list_that_misses_pairs_gives_nan():
    box, search = SHAPES["cube"], search_for("cube", 8)
    x = liquid(0, box)
    for bad in (dataclasses.replace(search, capacity=10), dataclasses.replace(search, window=3)):
        system = rv.System(rv.Topology.from_elements(["Ar"] * ATOMS), SMOOTH, search=bad)
        assert np.isnan(system.potential_energy(x, box))
        assert np.all(np.isnan(SMOOTH.forces(x, box, neighbors=bad.find(x, box))))
    neighbors = find(search, x, box)
    assert np.isfinite(energy(x.at[3, 0].add(0.4 * SKIN), box, neighbors))
    assert np.isnan(energy(x.at[3, 0].add(0.6 * SKIN), box, neighbors))
    # made for a larger box, in a box that is traced
    narrow = dataclasses.replace(search, cells=(12, 12, 60), reach=(3, 3))
    traced = jax.jit(lambda x, length: narrow.find(x, rv.OrthorhombicBox(jnp.full(3, length))).complete)
    assert traced(x, 2.5)
    assert not traced(x, 2.0)
    with pytest.raises(ValueError, match=r"pairs up to 0\.55 nm, but the cutoff is 0\.6 nm"):
        rv.LennardJones(0.2, 0.8, cutoff=0.6).energy(x, box, neighbors=neighbors)


@pytest.mark.slow
def test_a_list_much_too_small_is_enlarged_until_it_fits():
    state, search = argon_state(4), argon_search()
    tiny = dataclasses.replace(search, capacity=20, window=3)
    run = lambda search, state, batch=None: rv.nve(
        rv.System(ARGON, FULL, search=search), state, dt=0.004, num_steps=10, record=correlation, batch=batch
    )
    wanted = run(search, state).records
    np.testing.assert_allclose(run(tiny, state).records, wanted, rtol=1e-12)
    many = run(dataclasses.replace(search, capacity=40), state.repeat(3), batch=2)
    np.testing.assert_allclose(many.records, jnp.stack([wanted] * 3), rtol=1e-12)


def test_an_explosion_is_called_one():
    state = argon_state(4)
    close = rv.State(state.positions.at[0].set(state.positions[1] + 0.08), state.velocities, state.box)
    with pytest.raises(FloatingPointError, match="exploded"):
        rv.nve(rv.System(ARGON, FULL, search=argon_search()), close, dt=0.004, num_steps=20, record=correlation)
