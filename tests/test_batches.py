"""Trajectories in micro-batches: the same numbers, in less memory."""

import diffrax
import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, argon_topology, assert_trees_close, central_difference, few, very_few, well

import reverlet as rv
from reverlet._batches import map_samples

ATOMS, N, DT, STEPS = 32, 7, 0.01, 12
SYSTEM = rv.System(argon_topology(), well(250.0))


def states(seed=0, n=N):
    kx, kv = jax.random.split(jax.random.key(seed))
    x, v = 0.06 * jax.random.normal(kx, (n, ATOMS, 3)), 0.15 * jax.random.normal(kv, (n, ATOMS, 3))
    return jax.vmap(lambda x, v: rv.State(x, v, rv.OpenBox()))(x, v)


def record(system, state, initial):
    return system.potential.k * jnp.sum(state.positions * initial.velocities)


def run(k, start, batch):
    system = eqx.tree_at(lambda s: s.potential.k, SYSTEM, k)
    return rv.nve(system, start, dt=DT, num_steps=STEPS, save_every=3, record=record, batch=batch)


@eqx.filter_jit
def one_by_one(k, start):
    system = eqx.tree_at(lambda s: s.potential.k, SYSTEM, k)
    each = lambda s: rv.nve(system, s, dt=DT, num_steps=STEPS, save_every=3, record=record)
    return jax.vmap(each)(start)


def cubic(shared, sample):
    return {"y": jnp.outer(shared**3, sample), "n": jnp.sum(sample)}


@few
@hypothesis.given(SEEDS, st.sampled_from([1, 2, 3, 5, 7, 100]))
def test_parts_make_the_whole(seed, batch):
    """Against a product written out in NumPy, and its derivatives by hand."""
    rng = np.random.default_rng(seed)
    shared, samples = rng.normal(size=2), rng.normal(size=(7, 3))
    got = map_samples(cubic, shared, samples, batch=batch)
    np.testing.assert_allclose(got["y"], np.einsum("i,nj->nij", shared**3, samples), rtol=1e-14)
    np.testing.assert_allclose(got["n"], samples.sum(1), rtol=1e-13, atol=1e-14)
    loss = lambda s, x: jnp.sum(map_samples(cubic, s, x, batch=batch)["y"])
    slopes = jax.grad(loss, (0, 1))(jnp.asarray(shared), jnp.asarray(samples))
    # a few roundings of sums of 21 numbers, which may cancel
    np.testing.assert_allclose(slopes[0], 3 * shared**2 * samples.sum(), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(slopes[1], np.full((7, 3), (shared**3).sum()), rtol=1e-13, atol=1e-14)


@very_few
@hypothesis.given(SEEDS)
def test_trajectories_do_not_depend_on_the_batch(seed):
    start, k = states(seed), jnp.array(250.0)
    wanted = one_by_one(k, start)
    wanted = eqx.tree_at(lambda t: t.times, wanted, wanted.times[0])
    for batch in (1, 3, 100):  # 3: with a part to fill up
        # the same operations, perhaps fused in another way: some ten roundings of float64
        assert_trees_close(run(k, start, batch), wanted, rtol=1e-13)


LOSS = eqx.filter_jit(lambda k, start: jnp.sum(jnp.sin(run(k, start, 3).records)))


@very_few
@hypothesis.given(SEEDS)
def test_gradient_in_parts(seed):
    start, k = states(seed), jnp.array(250.0)
    loss = lambda k, x: LOSS(k, eqx.tree_at(lambda s: s.positions, start, x))
    whole = lambda k, x: jnp.sum(jnp.sin(one_by_one(k, eqx.tree_at(lambda s: s.positions, start, x)).records))
    got = jax.grad(loss, (0, 1))(k, start.positions)
    assert_trees_close(got, jax.grad(whole, (0, 1))(k, start.positions), rtol=1e-11)
    step = 1e-4
    wanted = central_difference(lambda k: loss(k, start.positions), k, jnp.array(1.0), step)
    # step² of a third derivative, and rounding 1e-16/step of sums of order one
    np.testing.assert_allclose(got[0], wanted, rtol=1e-6, atol=1e-8)


class Product(rv.AbstractObservable):
    """Σ k x(t)·v(0), averaged."""

    def record(self, system, state, initial):
        return record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        del times
        return rv.statistics.weighted_mean(weights, jnp.sum(records, axis=1))


def test_expectation_in_parts():
    start = states()
    samples = rv.Samples.of(SYSTEM, rv.NVT(300.0), start)
    k = jnp.array(251.0)  # not as drawn, so that the weights differ

    @eqx.filter_jit
    def estimate(k, batch):
        system = eqx.tree_at(lambda s: s.potential.k, SYSTEM, k)
        dynamics = rv.Dynamics(dt=DT, num_steps=STEPS, save_every=3, batch=batch)
        value = rv.expectation(Product(), system, samples, dynamics=dynamics)
        return value, rv.expectation_gradients(Product(), system, samples, dynamics=dynamics)

    got, wanted = estimate(k, 3), estimate(k, None)
    assert_trees_close(got, wanted, rtol=1e-11)
    slope = jax.jit(jax.grad(lambda k: estimate(k, 3)[0].value))(k)
    np.testing.assert_allclose(slope, got[1][1].total.potential.k, rtol=1e-10)


def test_expectation_of_samples_alone_in_parts():
    """Without dynamics, and by the arguments of `expectation` itself."""
    samples = rv.Samples.of(SYSTEM, rv.NVT(300.0), states())
    system = eqx.tree_at(lambda s: s.potential.k, SYSTEM, jnp.array(251.0))
    measure = lambda batch: (
        rv.expectation(Product(), system, samples, batch=batch),
        rv.expectation_gradients(Product(), system, samples, batch=batch),
    )
    assert_trees_close(measure(3), measure(None), rtol=1e-11)


def test_sampler_in_parts():
    draw = lambda batch: rv.LangevinBAOAB(300.0, 1.0, dt=DT, num_steps=5, batch=batch).sample(
        SYSTEM, states(), 2 * N, key=jax.random.key(0)
    )
    assert_trees_close(draw(3), draw(None), rtol=1e-13)


def needed(batch, n):
    """Bytes of a compiled gradient of `n` trajectories."""
    grad = eqx.filter_jit(eqx.filter_grad(lambda k, s: jnp.sum(run(k, s, batch).records)))
    memory = grad.lower(jnp.array(250.0), states(n=n)).compile().compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes


@pytest.mark.slow
def test_memory_of_a_gradient_is_that_of_a_batch():
    # of 64 trajectories: what is kept of every one, and some more for each of those that run at once
    sizes = [needed(batch, 64) for batch in (2, 16, 64)]
    assert sizes[0] < sizes[1] < sizes[2]
    # twice the trajectories, twice of what is kept, but no more
    assert needed(2, 128) < 2.1 * sizes[0]


@pytest.mark.slow
def test_memory_budget():
    tight, loose = (rv.MemoryBudget(size) for size in (550_000, 5_000_000))
    assert needed(tight, 64) <= tight.bytes
    assert needed(loose, 64) == needed(64, 64)


def test_progress(capsys):
    meter = diffrax.TextProgressMeter()
    trajectory = rv.nve(SYSTEM, states(), dt=DT, num_steps=STEPS, batch=3, progress_meter=meter)
    jax.block_until_ready(trajectory.final)
    jax.effects_barrier()
    assert capsys.readouterr().out.split() == ["0.00%", "33.33%", "66.67%", "100.00%"]


@pytest.mark.parametrize("batch", [0, -1, True, 1.5])
def test_bad_batch(without_type_checks, batch):
    for refused in (
        lambda: run(jnp.array(250.0), states(), batch),
        lambda: rv.Dynamics(dt=DT, num_steps=STEPS, batch=batch),
        lambda: rv.LangevinBAOAB(300.0, 1.0, dt=DT, num_steps=5, batch=batch),
    ):
        with pytest.raises(ValueError, match=f"`batch` is {batch}; wanted a whole number of trajectories"):
            refused()


def test_budget_too_small():
    with pytest.raises(ValueError, match=r"budget is 1000 bytes, and 7 samples take \d+ .* even one at a time"):
        run(jnp.array(250.0), states(), rv.MemoryBudget(1000))


def test_one_configuration_is_no_batch():
    one = jax.tree.map(lambda x: x[0], states())
    with pytest.raises(ValueError, match=r"shape \(32, 3\); with `batch` or `mesh` wanted \(samples"):
        run(jnp.array(250.0), one, 2)


def test_failures_name_the_trajectory():
    start = states()
    fast = eqx.tree_at(lambda s: s.positions, start, start.positions.at[4].multiply(1e3))
    with pytest.raises(FloatingPointError, match="Of 7 trajectories, number 4: The trajectory exploded by step"):
        run(jnp.array(250.0), fast, 3)
    nowhere = eqx.tree_at(lambda s: s.positions, start, start.positions.at[5].set(jnp.inf))
    with pytest.raises(FloatingPointError, match="positions of configuration 5 are not finite"):
        run(jnp.array(250.0), nowhere, 3)
