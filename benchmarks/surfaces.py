"""What networks and many-body surfaces cost: energy and force, second order, trajectories and their gradients.

`python -m benchmarks surfaces` measures CPU time of the whole process, in single precision unless told otherwise, of
64, 32 and 216 waters with an EANN of 14,283 parameters and a Deep Dipole, and of 1,000 atoms of silicon, beside 346
argon atoms as the unit. The networks are fresh ones: what they cost does not depend on their weights. Medians of
several runs, taken in turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import reverlet as rv

from . import _common, gradient_cost
from .large_systems import SKIN

LENGTH, DT, EVERY = 1.2385, 0.0005, 4


def waters(number: int, dtype: jnp.dtype) -> tuple[rv.EANN, rv.State]:
    """An EANN of the published size, and waters at 1.008 g/cm³."""
    box = rv.OrthorhombicBox(jnp.full(3, LENGTH * (number / 64) ** (1 / 3), dtype))
    molecule = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
    shape = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]], dtype)
    topology, state = rv.pack(molecule, shape, number, box=box, key=jax.random.key(0))
    return rv.EANN.fresh(topology, key=jax.random.key(1)), state


def cpu(program: Callable[[], Any]) -> float:
    """Seconds of all threads of the process."""
    start = time.process_time()
    jax.block_until_ready(program())
    return time.process_time() - start


def medians(programs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """As those of `_common`, of CPU time, in milliseconds."""
    for program in programs.values():
        cpu(program)
    times = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(1e3 * cpu(program))
    return {name: statistics.median(t) for name, t in times.items()}


def force(potential: rv.AbstractPotential, state: rv.State, neighbors=None) -> tuple[Callable, Callable]:
    """Programs of energy and force; and of the force, and the derivative of a force along a direction with respect to
    positions and all parameters, as a step back needs them."""
    box = state.box
    moving, fixed = eqx.partition(potential, eqx.is_inexact_array)
    energy = lambda m, x, n: eqx.combine(m, fixed).energy(x, box, neighbors=n)
    power = lambda m, x, w, n: jax.jvp(lambda x: energy(m, x, n), (x,), (w,))[1]
    w = jax.random.normal(jax.random.key(2), state.positions.shape, state.positions.dtype)
    once, twice = jax.jit(jax.value_and_grad(energy, 1)), jax.jit(jax.grad(power, (0, 1, 2)))
    return lambda: once(moving, state.positions, neighbors), lambda: twice(moving, state.positions, w, neighbors)


def trajectory(potential, state, topology, steps, record=None):
    """Compiled programs of a trajectory, and of its value and gradient by all parameters; the seconds of CPU time that
    tracing and compiling the second took, and its temporary memory, MB."""
    moving, fixed = eqx.partition(potential, eqx.is_inexact_array)

    def loss(moving, state):
        system = rv.System(topology, eqx.combine(moving, fixed))
        options = {} if record is None else {"record": record, "save_every": EVERY}
        run = rv.nve(system, state, dt=DT, num_steps=steps, throw=False, **options)
        final = jnp.sum(run.final.positions**2)
        return final if record is None else final + jnp.sum(run.records**2)

    forward = jax.jit(loss).lower(moving, state).compile()
    start = time.process_time()
    gradient = jax.jit(jax.value_and_grad(loss)).lower(moving, state).compile()
    seconds = time.process_time() - start
    memory = gradient.memory_analysis().temp_size_in_bytes / 1e6
    return lambda: forward(moving, state), lambda: gradient(moving, state), seconds, memory


def measure(dtype: jnp.dtype, steps: int, repeats: int) -> dict[str, Any]:
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)
    system, argon = gradient_cost.argon(dtype)
    unit = force(system.potential, argon)
    programs = {"argon, 346 atoms: energy and force": unit[0], "argon, 346 atoms: force and second order": unit[1]}
    numbers = {}
    for number in (64, 32):
        potential, state = waters(number, dtype)
        potential, topology = cast(potential), rv.Topology.from_elements(["O", "H", "H"] * number)
        name = f"EANN, {number} waters"
        programs[f"{name}: energy and force"], programs[f"{name}: force and second order"] = force(potential, state)
        forward, gradient, seconds, memory = trajectory(potential, state, topology, steps)
        programs |= {f"{name}: trajectory": forward, f"{name}: value and gradient": gradient}
        numbers |= {f"{name}: tracing and compiling, s": seconds, f"{name}: temporary memory, MB": memory}
    potential, state = waters(216, dtype)
    potential = cast(potential)
    found = rv.CellList.fit(state.positions, state.box, cutoff=potential.cutoff, skin=SKIN, per_atom=True)
    programs["EANN, 216 waters, lists: energy and force"] = force(
        potential, state, found.find(state.positions, state.box)
    )[0]
    silicon, crystal = cast(rv.StillingerWeber.silicon()), diamond(5, dtype)
    found = rv.CellList.fit(crystal.positions, crystal.box, cutoff=silicon.cutoff, skin=SKIN, per_atom=True)
    once, twice = force(silicon, crystal, found.find(crystal.positions, crystal.box))
    programs |= {"Stillinger-Weber, 1,000 atoms, lists: energy and force": once}
    programs |= {"Stillinger-Weber, 1,000 atoms, lists: force and second order": twice}
    return {"ms": medians(programs, repeats), **numbers}


def diamond(cells: int, dtype: jnp.dtype) -> rv.State:
    """Silicon, 8 atoms a cell, somewhat shaken."""
    basis = jnp.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    both = jnp.concatenate([basis, basis + 0.25])
    corners = jnp.stack(jnp.meshgrid(*[jnp.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    positions = 0.5431 * (corners + both).reshape(-1, 3)
    positions = positions + 0.005 * jax.random.normal(jax.random.key(0), positions.shape)
    box = rv.OrthorhombicBox(jnp.full(3, 0.5431 * cells, dtype))
    return rv.State(positions.astype(dtype), jnp.zeros_like(positions, dtype), box)


RATIOS = {
    "EANN, 64 waters: energy and force / 346 argon atoms": (
        "EANN, 64 waters: energy and force",
        "argon, 346 atoms: energy and force",
    ),
    **{
        f"{name}: {a} / {b}": (f"{name}: {a}", f"{name}: {b}")
        for name, a, b in (
            ("EANN, 64 waters", "force and second order", "energy and force"),
            ("EANN, 64 waters", "value and gradient", "trajectory"),
            ("EANN, 32 waters", "value and gradient", "trajectory"),
            ("Stillinger-Weber, 1,000 atoms, lists", "force and second order", "energy and force"),
        )
    },
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks surfaces", description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="of everything")
    parser.add_argument("--steps", type=int, default=40, help="length of the trajectories")
    parser.add_argument("--repeats", type=int, default=7, help="how many runs the medians are of")
    parser.add_argument("--out", type=Path, default=Path("results/surfaces.json"), help="JSON file to write")
    args = parser.parse_args(argv)
    with jax.enable_x64(args.dtype == "float64"):
        found = measure(jnp.dtype(args.dtype), args.steps, args.repeats)
    ms = found["ms"]
    found["ratios"] = {name: ms[a] / ms[b] for name, (a, b) in RATIOS.items()}
    for name in ("EANN, 64 waters", "EANN, 32 waters"):
        found["ms"] |= {
            f"{name}: {k}, per step": ms[f"{name}: {k}"] / args.steps for k in ("trajectory", "value and gradient")
        }
    walk = (
        found["ms"]["EANN, 64 waters: value and gradient, per step"]
        - found["ms"]["EANN, 64 waters: trajectory, per step"]
    )
    found["ratios"]["EANN, 64 waters: a step back / stand-alone force and second order"] = (
        walk / ms["EANN, 64 waters: force and second order"]
    )
    _common.write(args.out, {"dtype": args.dtype, "repeats": args.repeats, "steps": args.steps, **found})
    print("| what | CPU time, ms |\n|---|---|")
    for name, value in ms.items():
        print(f"| {name} | {value:.2f} |")
    print("\n| ratio | |\n|---|---|")
    for name, value in found["ratios"].items():
        print(f"| {name} | {value:.2f} |")
    for name, value in found.items():
        if isinstance(value, float):
            print(f"{name}: {value:.1f}")
    print(f"Medians of {args.repeats} runs; {args.dtype}.")
