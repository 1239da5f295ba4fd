"""What went wrong is told wherever it is looked for: by every array of a result, at once, under `jit` and `vmap`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv
from reverlet._verdict import raise_if

TOPOLOGY = rv.Topology.from_elements(["Ar", "Ar"])
SYSTEM = rv.System(TOPOLOGY, rv.HarmonicBond(np.array([[0, 1]]), 1e5, 0.3))
X, V = jnp.array([[0.0, 0, 0], [0.3, 0, 0]]), jnp.array([[1e6, 0, 0], [0, 0, 0]])
FAST = rv.State(X, V, rv.OpenBox())
TORN = eqx.tree_at(lambda s: s.potential.stiffness, SYSTEM, replace_fn=lambda k: k * jnp.nan)  # has no energy


def count(system, state, initial):
    return jnp.sum(state.positions < 1)


def truth(system, state, initial):
    return jnp.any(state.positions < 1)


def nothing(system, state, initial):
    return None


def nve(state, record=nothing, **options):
    return rv.nve(SYSTEM, state, dt=0.5, num_steps=2, record=record, **options)


def sampled(state):
    sampler = rv.LangevinBAOAB(300.0, 1.0, dt=0.5, num_steps=50)
    return sampler.sample(SYSTEM, state.repeat(2), 2, key=jax.random.key(0))


def measured(state):
    samples = rv.Samples(state.repeat(2), jnp.zeros(2), jnp.arange(2), rv.NVT(300.0))
    return rv.expectation(rv.Temperature(), SYSTEM, samples, dynamics=rv.Dynamics(dt=0.5, num_steps=2))


RESULTS = {
    "integers": lambda: nve(FAST, count).records,
    "truth values": lambda: nve(FAST, truth).records,
    "times without records": lambda: nve(FAST).times,
    "the end": lambda: nve(FAST).final.positions,
    "many": lambda: nve(FAST.repeat(2), count, batch=1).records,
    "both directions": lambda: nve(FAST, count, both_directions=True).records,
    "forward": lambda: nve(FAST, count, adjoint=rv.ForwardMode()).records,
    "gradient": lambda: jax.grad(lambda x: jnp.sum(nve(rv.State(x, V, FAST.box)).final.positions))(X),
    "minimum": lambda: rv.minimize(TORN, FAST).num_steps,
    "whether converged": lambda: rv.minimize(TORN, FAST).converged,
    "chain": lambda: sampled(FAST)[0].chain,
    "expectation": lambda: measured(FAST).value,
    "check": lambda: TORN.check(FAST).velocities,
}


@pytest.mark.parametrize("name", RESULTS)
def test_under_jit_every_array_carries_the_verdict(name):
    with pytest.raises(rv.SimulationError), rv.SimulationError.unwrapped():
        jax.block_until_ready(jax.jit(RESULTS[name])())


def describe(x):
    return f"it is {float(x):.0f}"


LEAVES = {
    "float": jnp.ones(2),
    "bfloat16": jnp.ones(2, jnp.bfloat16),
    "complex": jnp.ones(2, complex),
    "int": jnp.arange(2),
    "bool": jnp.array(True),
    "key": jax.random.key(0),
    "numpy": np.ones(2),
}


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_of_all_kinds(name):
    guarded = jax.jit(lambda x, leaf: raise_if(x > 1, describe, x, guard=[leaf, "text", None])[0])
    kept = guarded(0.0, LEAVES[name])
    assert jnp.all(kept == LEAVES[name])
    assert kept.dtype == LEAVES[name].dtype
    with pytest.raises(rv.SimulationError, match="it is 2"), rv.SimulationError.unwrapped():
        jax.block_until_ready(guarded(2.0, LEAVES[name]))


@pytest.mark.parametrize("around", [lambda f: f, jax.jit, eqx.filter_jit, jax.grad, lambda f: jax.jit(jax.grad(f))])
def test_one_type_inside_and_outside_of_jit(around):
    """Also where the program has run before, which JAX reports by another type."""
    f = around(lambda x: raise_if(x > 1, describe, x, guard=2 * x))
    assert jnp.isfinite(f(jnp.array(0.5)))
    with pytest.raises(rv.SimulationError, match=r"^it is 2"), rv.SimulationError.unwrapped():
        jax.block_until_ready(f(jnp.array(2.0)))


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), rv.SimulationError.unwrapped():
        1 / 0  # noqa: B018
    assert rv.SimulationError.within(TypeError("SimulationError: no")) is None
    with pytest.raises(ValueError, match="plain"), rv.SimulationError.unwrapped():
        raise ValueError("plain")


class Corner(rv.AbstractPotential):
    """|x|: a finite energy without a force at zero."""

    cutoff = None

    def energy(self, positions, box, *, neighbors=None):
        return jnp.sqrt(jnp.sum((positions[0] - positions[1]) ** 2))


def test_a_minimum_without_forces_is_none():
    together = rv.State(jnp.zeros((2, 3)), jnp.zeros((2, 3)), rv.OpenBox())
    with pytest.raises(rv.SimulationError, match=r"force on atom 0 is \[nan.*nearest two atoms are 0 and 1, 0 nm"):
        rv.minimize(rv.System(TOPOLOGY, Corner()), together)


def test_weights_that_are_no_numbers():
    samples = rv.Samples(FAST.repeat(2), jnp.zeros(2), jnp.arange(2), rv.NVT(300.0))
    with pytest.raises(rv.SimulationError, match="weight of sample 0 is nan, and so of 2 of 2 samples"):
        rv.expectation(rv.Temperature(), TORN, samples)
    with pytest.raises(rv.SimulationError, match="weight of sample 0 is nan"):
        rv.expectation_gradients(rv.Temperature(), TORN, samples)
