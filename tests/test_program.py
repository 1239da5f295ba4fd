"""What is in the program of a trajectory: counted there, since clocks of busy machines tell little."""

import collections
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

import reverlet as rv

TOPOLOGY = rv.Topology.from_elements(["Ar"] * 4)
STATE = rv.State(jnp.arange(12.0).reshape(4, 3), jnp.ones((4, 3)), rv.OpenBox())
BODIES = []


class Marked(rv.AbstractPotential):
    """Whose energy says when it is traced, and has an operation of its own."""

    k: Array
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        del box, neighbors
        BODIES.append(1)
        return self.k * jnp.sum(jnp.arctan2(positions, 1 + positions**2))


def places(function, name, *args):
    """How often a primitive occurs in which loops and choices."""

    def count(jaxpr, path):
        found = collections.Counter()
        for equation in jaxpr.eqns:
            found[path] += equation.primitive.name == name
            inside = (equation.primitive.name,) if equation.primitive.name in ("while", "cond", "scan") else ()
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    found += count(inner, path + inside)
        return found

    return +count(jax.make_jaxpr(function)(*args).jaxpr, ())


def velocity(system, state, initial):
    del system
    return jnp.sum(state.velocities * initial.velocities)


@pytest.mark.parametrize(
    ("solver", "every"),
    [(rv.VelocityVerlet(), 10), (rv.VelocityVerlet(), 1), (rv.NoseHooverChain(300.0, 0.1), 10)],
    ids=["verlet", "verlet, every step", "chain"],
)
def test_a_potential_is_traced_once(solver, every):
    def run(k):
        system = rv.System(TOPOLOGY, Marked(k))
        return rv.nve(system, STATE, solver, dt=0.001, num_steps=20, save_every=every, record=velocity).records[-1]

    BODIES.clear()
    forward = places(run, "atan2", 1.3)
    assert len(BODIES) <= 2
    # one force in the loop; outside, the energy at the start, and Diffrax's start of the solver, which nobody reads
    assert forward[("while",)] == 1
    assert sum(forward.values()) <= 3
    BODIES.clear()
    backward = places(jax.grad(run), "atan2", 1.3)
    assert len(BODIES) <= 3
    # on the way back one second derivative. A record that asks for a velocity takes a force first, where there is one
    # (Verlet); where records are many or thermostats are between kicks, every step does
    every_step = every == 1 or isinstance(solver, rv.NoseHooverChain)
    assert backward[("while",)] == (3 if every_step else 2)
    assert backward[("while", "cond")] == (0 if every_step else 1)
    assert sum(backward.values()) <= 4


def products(system, state, initial):
    del system, initial
    matrix = jnp.outer(jnp.ones(5), jnp.resize(state.positions, 61)).repeat(13, axis=0)[:61]
    for _ in range(2):
        matrix = jnp.sin(matrix) @ matrix
    return jnp.sum(matrix)


@pytest.mark.parametrize("batch", [None, 3])
def test_a_record_costs_only_where_it_is_taken(batch):
    """In the compiled program nothing of a record is where the steps are: the compiler has taken it out of the loop
    over the slots that are due, but not out of the choice whether any is."""
    states = STATE if batch is None else STATE.repeat(3)

    def run(k):
        system = rv.System(TOPOLOGY, Marked(k))
        records = rv.nve(system, states, dt=0.001, num_steps=10, save_every=10, record=products, batch=batch).records
        return jnp.sum(records)

    text = jax.jit(jax.grad(run)).lower(1.3).compile().as_text()
    computations = {
        m[0]: c for c in re.split(r"\n\n", text) if (m := re.search(r"%[\w.\-]+", c.split("{")[0])) is not None
    }

    def products_in(name):  # and in what it always calls
        called = re.findall(r"(?:calls|to_apply)=(%[\w.\-]+)", computations[name])
        own = re.findall(r"= f64\[(?:3,)?61,61\]\S* (?:dot|custom-call)\(", computations[name])
        return len(own) + sum(products_in(other) for other in called)

    # the loops over steps are those that have something to choose or to repeat in them
    bodies = set(re.findall(r"body=(%[\w.\-]+)", text))
    loops = [name for name in bodies if re.search(r" (conditional|while)\(", computations[name])]
    assert sum(products_in(name) for name in computations) >= 6  # two forward, four back
    assert loops
    assert not any(products_in(name) for name in loops)
