"""Run by `test_devices.py` in processes of its own: prints, as JSON, numbers with and without a mesh.

The argument is `ADDRESS,PROCESS,COUNT` of one of several processes, or `both directions` for those of time alone.
"""

import json
import re
import sys

import jax

jax.config.update("jax_enable_x64", True)
BOTH_DIRECTIONS = sys.argv[1:] == ["both directions"]
if len(sys.argv) > 1 and not BOTH_DIRECTIONS:
    address, process, count = sys.argv[1].split(",")
    jax.distributed.initialize(address, int(count), int(process), heartbeat_timeout_seconds=10)

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from helpers import SWITCHED, TEMPERATURE, argon_state, argon_topology

import reverlet as rv

N = 8
OBSERVABLE = rv.SelfDiffusion()
STATES = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[argon_state(seed=seed) for seed in range(N)])


@eqx.filter_jit
def draw(potential, states, key, mesh):
    sampler = rv.LangevinBAOAB(TEMPERATURE, 1.0, dt=0.002, num_steps=5, mesh=mesh)
    return sampler.sample(rv.System(argon_topology(), potential), states, 2 * N, key=key)


@eqx.filter_jit
def measure(potential, samples, dynamics):
    return rv.expectation_gradients(OBSERVABLE, rv.System(argon_topology(), potential), samples, dynamics=dynamics)


@eqx.filter_jit
def total(potential, samples, dynamics):
    value = lambda p: rv.expectation(OBSERVABLE, rv.System(argon_topology(), p), samples, dynamics=dynamics).value
    return eqx.filter_value_and_grad(value)(potential)


def dynamics(mesh, **more):
    return rv.Dynamics(dt=0.002, num_steps=20, save_every=5, mesh=mesh, **more)


def share(one, many):
    """Operations of one device of many, over those of one alone; a loop's body counts once."""
    return many.compiled.cost_analysis()["flops"] / one.compiled.cost_analysis()["flops"]


def collectives_in_loops(program):
    """How often devices talk in what is not the main function of a compiled program."""
    main, _, _ = program.compiled.as_text().partition("\nENTRY ")
    return len(re.findall(r"= .*(all-gather|all-reduce|all-to-all|collective-permute)", main))


def numbers(mesh):
    """What is drawn, its mean and the gradient of that, and the compiled programs that did it."""
    arguments = SWITCHED, STATES, jax.random.key(0), mesh
    drawing = draw.lower(*arguments).compile()
    samples, chains = drawing(*arguments)
    # one less than a multiple of the devices, so that something must be filled up
    odd = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), samples)[:-1]
    moved = eqx.tree_at(lambda p: p.sigma, SWITCHED, 1.01 * SWITCHED.sigma)  # so that weights differ
    arguments = moved, odd, dynamics(mesh)
    differentiating = total.lower(*arguments).compile()
    value, gradient = differentiating(*arguments)
    wanted = (samples, chains.states, value, gradient)
    leaves = [np.asarray(x).tolist() for x in jax.tree.leaves(eqx.filter(wanted, eqx.is_inexact_array))]
    return leaves, drawing, differentiating


def in_both_directions(mesh, batch=None):
    samples, _ = draw(SWITCHED, STATES, jax.random.key(0), None)
    measured = measure(SWITCHED, samples, dynamics(mesh, batch=batch, both_directions=True))
    return [np.asarray(x).tolist() for x in jax.tree.leaves(eqx.filter(measured, eqx.is_inexact_array))]


def explode(mesh):
    states = STATES.with_velocities(STATES.velocities.at[3].multiply(1e4))
    run = eqx.filter_jit(lambda s: rv.nve(rv.System(argon_topology(), SWITCHED), s, dt=0.002, num_steps=2, mesh=mesh))
    try:
        jax.block_until_ready(run(states))
    except jax.errors.JaxRuntimeError as error:
        return str(error)


def refusal(call):
    try:
        call()
    except ValueError as error:
        return str(error)


MESH = rv.device_mesh()
if BOTH_DIRECTIONS:
    print("RESULT " + json.dumps({"both directions": [in_both_directions(MESH, 2), in_both_directions(None)]}))
    sys.exit()
FOUND, DRAWING, DIFFERENTIATING = numbers(MESH)
RESULT = {
    "mesh": FOUND,
    "devices": MESH.size,
    "process": jax.process_index(),
    "talk in sampling": collectives_in_loops(DRAWING),
    "talk in a gradient": collectives_in_loops(DIFFERENTIATING),
}
if jax.process_count() == 1:
    system = rv.System(argon_topology(), SWITCHED)
    few, six = (jax.tree.map(lambda x, n=n: x[:n], STATES) for n in (3, 6))
    sampler = rv.LangevinBAOAB(TEMPERATURE, 1.0, dt=0.002, num_steps=1, mesh=MESH)
    found, drawing, differentiating = numbers(None)
    RESULT |= {
        "one": found,
        "share of sampling": share(drawing, DRAWING),
        "share of a gradient": share(differentiating, DIFFERENTIATING),
        "too few": refusal(lambda: rv.nve(system, few, dt=0.002, num_steps=2, mesh=MESH)),
        "no multiple": refusal(lambda: sampler.sample(system, six, 6, key=jax.random.key(0))),
        "too many devices": refusal(lambda: rv.device_mesh(5)),
        "explosion": explode(MESH),
    }
print("RESULT " + json.dumps(RESULT))
