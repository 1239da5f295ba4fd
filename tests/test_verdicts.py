"""What went wrong is told wherever it is looked for: by every array of a result, at once, under `jit` and `vmap`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

import reverlet as rv
from reverlet._verdict import raise_if

TOPOLOGY = rv.Topology.from_elements(["Ar", "Ar"])
SYSTEM = rv.System(TOPOLOGY, rv.HarmonicBond(np.array([[0, 1]]), 1e5, 0.3))
X, V = jnp.array([[0.0, 0, 0], [0.3, 0, 0]]), jnp.array([[1e6, 0, 0], [0, 0, 0]])
FAST = rv.State(X, V, rv.OpenBox())
TORN = eqx.tree_at(lambda s: s.potential.stiffness, SYSTEM, replace_fn=lambda k: k * jnp.nan)  # has no energy


DYNAMICS = rv.Dynamics(dt=0.5, num_steps=2)


def count(system, state, initial):
    return jnp.sum(state.positions < 1)


def nve(state, record=None, **options):
    return rv.nve(SYSTEM, state, dt=0.5, num_steps=2, record=record or (lambda *_: None), **options)


def sampled(state, sampler=rv.LangevinBAOAB):
    return sampler(300.0, 1.0, dt=0.5, num_steps=50).sample(SYSTEM, state.repeat(2), 2, key=jax.random.key(0))


def samples(state):
    return rv.Samples(state.repeat(2), jnp.zeros(2), jnp.arange(2), rv.NVT(300.0))


RESULTS = {
    "nve": lambda s: nve(s, count),
    "nve, without records": nve,
    "nve, many": lambda s: nve(s.repeat(2), count, batch=1),
    "nve, both directions": lambda s: nve(s, count, both_directions=True),
    "nve, forward": lambda s: nve(s, count, adjoint=rv.ForwardMode()),
    "nve, Nosé-Hoover": lambda s: nve(s, count, solver=rv.NoseHooverChain(300.0, 0.1)),
    "gradient": jax.grad(lambda s: jnp.sum(nve(s).final.positions), allow_int=True),
    "Langevin": sampled,
    "CSVR": lambda s: sampled(s, rv.CSVR),
    "expectation": lambda s: rv.expectation(rv.Temperature(), SYSTEM, samples(s)),
    "gradients": lambda s: rv.expectation_gradients(rv.Temperature(), SYSTEM, samples(s), dynamics=DYNAMICS),
    "minimize": lambda s: rv.minimize(SYSTEM, s),
    "check": SYSTEM.check,
}


def silent(function):
    """The arrays of a result that carry no verdict: a program that uses nothing else never asks for it."""
    program, shapes = jax.make_jaxpr(function, return_shape=True)(FAST)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    alone = lambda name: dce_jaxpr(program.jaxpr, [n == name for n in names])[0]
    return [name for name in names if "pure_callback" not in str(alone(name))]


@pytest.mark.parametrize("name", RESULTS)
def test_every_array_carries_the_verdict(name):
    """As the compiler sees it, which drops what no output depends on."""
    assert silent(RESULTS[name]) == []


def test_arrays_without_a_verdict_are_found():
    assert silent(lambda s: (nve(s).times, 2 * s.positions)) == ["[1]"]


RUNS = {
    "integers": lambda s: nve(s, count).records,
    "whether converged": lambda s: rv.minimize(TORN, s).converged,
    "chain": lambda s: sampled(s)[0].chain,
    "gradient": RESULTS["gradient"],
}


@pytest.mark.parametrize("name", RUNS)
def test_under_jit_it_is_raised(name):
    with pytest.raises(rv.SimulationError), rv.SimulationError.unwrapped():
        jax.block_until_ready(jax.jit(RUNS[name])(FAST))


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
    """|x| of the first atom: a finite energy without a force at zero."""

    cutoff = None

    def energy(self, positions, box, *, neighbors=None):
        return jnp.sqrt(jnp.sum(positions[0] ** 2))


def test_a_minimum_without_forces_is_none():
    with pytest.raises(rv.SimulationError, match=r"force on atom 0 is \[nan.*nearest two atoms are 0 and 1, 0.3 nm"):
        rv.minimize(rv.System(TOPOLOGY, Corner()), FAST)


@pytest.mark.parametrize("both", [False, True])
def test_positions_that_get_too_far_out(both):
    """At constant energy: nothing but the place is wrong. In double precision nothing is."""
    free = rv.System(TOPOLOGY, rv.Sum(()))
    start = rv.State(0 * X, 1e-3 * V, rv.OpenBox())
    run = lambda state: rv.nve(free, state, dt=0.25, num_steps=4, both_directions=both).final.positions
    assert float(jnp.max(run(start))) == 1000.0
    with pytest.raises(rv.SimulationError, match=r"By step \d .*, positions reach \d+ nm, where numbers of float32"):
        run(rv.State(start.positions.astype(jnp.float32), start.velocities.astype(jnp.float32), rv.OpenBox()))


def test_weights_that_are_no_numbers():
    with pytest.raises(rv.SimulationError, match="weight of sample 0 is nan, and so of 2 of 2 samples"):
        rv.expectation(rv.Temperature(), TORN, samples(FAST))
    with pytest.raises(rv.SimulationError, match="weight of sample 0 is nan"):
        rv.expectation_gradients(rv.Temperature(), TORN, samples(FAST))
