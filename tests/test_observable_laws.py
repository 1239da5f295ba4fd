"""What holds for every observable of the table, on three short trajectories of argon with charges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import OBSERVABLES, SWITCHED, TEMPERATURE, WITH_A_TEMPERATURE, argon_state, argon_topology

import reverlet as rv

ENSEMBLE = rv.NVT(TEMPERATURE)
WEIGHTS = jnp.array([0.5, 0.2, 0.3])


@functools.cache
def measured(dtype):
    """Times, and the records of all observables of one run."""
    system = rv.System(argon_topology(), SWITCHED).astype(dtype)
    states = [argon_state(seed=seed, dtype=dtype) for seed in range(3)]
    joint = rv.Joint(tuple(OBSERVABLES.values()))
    run = rv.nve(
        system, jax.tree.map(lambda *x: jnp.stack(x), *states), dt=0.002, num_steps=8, record=joint.record, batch=3
    )
    return run.times, dict(zip(OBSERVABLES, run.records, strict=True))


def assert_same(got, wanted, rtol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b)))


@pytest.mark.parametrize("name", OBSERVABLES)
def test_laws(name):
    times, records = measured(jnp.float64)
    reduce, own = OBSERVABLES[name].reduce, records[name]
    value = reduce(times, own, WEIGHTS, ENSEMBLE)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(value))
    # the order of samples does not count: rounding of other orders of sums
    order = jnp.array([2, 0, 1])
    turned = jax.tree.map(lambda x: x[order], own)
    assert_same(reduce(times, turned, WEIGHTS[order], ENSEMBLE), value, 1e-11)
    # a sample without weight does not count
    alone = reduce(times, jax.tree.map(lambda x: x[1:2], own), jnp.ones(1), ENSEMBLE)
    assert_same(reduce(times, own, jnp.array([0.0, 1.0, 0.0]), ENSEMBLE), alone, 1e-11)
    # half the temperature is another value where the temperature counts, and there it is asked for
    if name in WITH_A_TEMPERATURE:
        with pytest.raises(ValueError, match=r"needs the temperature of an ensemble.*`ensemble=rv\.NVT\(300\.0\)`"):
            reduce(times, own, WEIGHTS)
        half = jax.tree.leaves(reduce(times, own, WEIGHTS, rv.NVT(0.5 * TEMPERATURE)))
        assert any(np.any(np.abs(a / b - 1) > 1e-3) for a, b in zip(half, jax.tree.leaves(value), strict=True))
    else:
        assert_same(reduce(times, own, WEIGHTS), value, 0)
    # the precision is that of what comes in: to some digits, of sums that cancel
    times, records = measured(jnp.float32)
    single = reduce(times, records[name], WEIGHTS.astype(jnp.float32), ENSEMBLE)
    assert {x.dtype for x in jax.tree.leaves(single)} == {jnp.dtype(jnp.float32)}
    assert_same(single, value, 2e-2)
