"""What a step costs as systems grow: argon from 346 to 50,000 atoms, by all pairs, by lists, and in OpenMM.

`python -m benchmarks large_systems` measures, in float32: milliseconds per step of constant-energy dynamics with all
pairs, with neighbor lists (the making of the lists included) and on OpenMM's CPU platform with as many threads as there
are cores; and of value and gradient with respect to σ and ε, with lists. Medians of several runs, taken in turns.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import reverlet as rv

from . import _common

SIGMA, EPSILON, CUTOFF, TEMPERATURE, MASS = 0.338, 0.893795, 1.0, 94.4, 39.948
DENSITY = 346 / 2.5562**3  # 1/nm³
DT, SKIN, EVERY = 0.001, 0.1, 40
SIZES = (346, 864, 2048, 5324, 10976, 19652, 48668)
STEPS = {346: 400, 864: 200, 2048: 200}
"""Of sizes where a step is short; others run twice the life of a list."""


def crystal(atoms: int) -> tuple[np.ndarray, float]:
    """A face-centered crystal at the density of the liquid, some sites of it empty where they are too many, nm."""
    cells = int(np.ceil((atoms / 4) ** (1 / 3) - 1e-9))
    length = (atoms / DENSITY) ** (1 / 3)
    basis = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    corners = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    sites = (corners + basis).reshape(-1, 3) * length / cells
    rng = np.random.default_rng(0)
    return rng.permutation(sites)[:atoms] + 0.01 * rng.normal(size=(atoms, 3)), length


def melted(atoms: int) -> tuple[rv.System, rv.State]:
    """A liquid: a crystal after a while of hot dynamics with friction."""
    positions, length = crystal(atoms)
    box = rv.OrthorhombicBox(jnp.full(3, length, jnp.float32))
    topology = rv.Topology.from_elements(["Ar"] * atoms)
    potential = rv.LennardJones(SIGMA, EPSILON, cutoff=CUTOFF)
    positions = jnp.asarray(positions, jnp.float32)
    # hot atoms move far, and a crystal that melts changes: short lists with room
    search = rv.CellList.fit(positions, box, cutoff=CUTOFF, skin=SKIN, every=5, room=1.6)
    system = rv.System(topology, potential, search=search if atoms > 1000 else None).astype(jnp.float32)
    state = rv.State(positions, rv.maxwell_boltzmann(system.topology, TEMPERATURE, key=jax.random.key(0)), box)
    for temperature, steps in ((3 * TEMPERATURE, 300), (TEMPERATURE, 300)):
        sampler = rv.LangevinBAOAB(temperature, 5.0, dt=0.004, num_steps=steps)
        state = jax.tree.map(
            lambda x: x[0], sampler.sample(system, state.repeat(1), 1, key=jax.random.key(1))[1].states
        )
    return system, state


def correlation(system, state, initial):
    del system
    return jnp.mean(jnp.sum(state.velocities * initial.velocities, axis=-1))


def programs(system: rv.System, state: rv.State, num_steps: int) -> tuple[Callable, Callable]:
    """The trajectory, and its value and gradient, compiled."""

    def diffusion(potential):
        moved = rv.System(system.topology, potential, search=system.search)
        # errors of the lists are raised; that of a start with overlapping atoms was looked for when it was made
        trajectory = rv.nve(moved, state, dt=DT, num_steps=num_steps, save_every=num_steps // 4, record=correlation)
        return jnp.trapezoid(trajectory.records, trajectory.times) / 3

    forward = jax.jit(diffusion).lower(system.potential).compile()
    both = jax.jit(jax.value_and_grad(diffusion)).lower(system.potential).compile()
    return lambda: forward(system.potential), lambda: both(system.potential)


def openmm_program(state: rv.State, num_steps: int) -> Callable:
    import openmm

    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*np.asarray(state.box.vectors, float))
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(CUTOFF)
    force.setUseDispersionCorrection(False)
    for _ in range(len(state.positions)):
        system.addParticle(MASS)
        force.addParticle(0.0, SIGMA, EPSILON)
    system.addForce(force)
    integrator = openmm.VerletIntegrator(DT)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, integrator, platform, {"Threads": str(os.cpu_count())})
    context.setPositions(np.asarray(state.positions, float))
    context.setVelocities(np.asarray(state.velocities, float))

    def run():
        integrator.step(num_steps)
        context.getState(getEnergy=True)

    return run


def measure(atoms: int, all_pairs_up_to: int, repeats: int) -> dict:
    system, state = melted(atoms)
    num_steps = STEPS.get(atoms, 2 * EVERY)
    search = rv.CellList.fit(state.positions, state.box, cutoff=CUTOFF, skin=SKIN, every=EVERY)
    turns = {}
    with_lists = rv.System(system.topology, system.potential, search=search)
    turns["lists"], turns["lists_gradient"] = programs(with_lists, state, num_steps)
    if atoms <= all_pairs_up_to:
        without = rv.System(system.topology, system.potential)
        turns["all_pairs"], turns["all_pairs_gradient"] = programs(without, state, num_steps)
    turns["openmm"] = openmm_program(state, num_steps)
    times = _common.medians(turns, repeats)
    row = {"atoms": atoms, "steps": num_steps, "capacity": search.capacity}
    return row | {f"{name}_ms_per_step": s / num_steps * 1e3 for name, s in times.items()}


def table(rows: list[dict]) -> str:
    lines = [
        "| atoms | all pairs | lists | OpenMM | lists / OpenMM | lists, μs per atom | gradient, all pairs |"
        " gradient, lists | gradient / forward, lists |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        ms = lambda name, r=r: r.get(f"{name}_ms_per_step")
        show = lambda x: "" if x is None else f"{x:.3g}"
        ratio, per_atom = ms("lists") / ms("openmm"), 1e3 * ms("lists") / r["atoms"]
        lines.append(
            f"| {r['atoms']} | {show(ms('all_pairs'))} | {show(ms('lists'))} | {show(ms('openmm'))} | {ratio:.2f} |"
            f" {per_atom:.2f} | {show(ms('all_pairs_gradient'))} | {show(ms('lists_gradient'))} |"
            f" {ms('lists_gradient') / ms('lists'):.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks large_systems", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of atoms")
    parser.add_argument("--all-pairs", type=int, default=2048, help="the largest system for all pairs")
    parser.add_argument("--repeats", type=int, default=5, help="how many runs the medians are of")
    parser.add_argument("--out", type=Path, default=Path("results/large_systems.json"), help="JSON file to write")
    args = parser.parse_args(argv)
    rows = []
    for atoms in args.sizes:
        print(f"{atoms} atoms …", flush=True)
        rows.append(measure(atoms, args.all_pairs, args.repeats))
        _common.write(args.out, {"repeats": args.repeats, "rows": rows})
    print(table(rows))
    print(f"Milliseconds per step in float32, medians of {args.repeats} runs.")
