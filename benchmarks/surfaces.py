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


def waters(number: int, dtype: jnp.dtype) -> tuple[rv.Topology, rv.State]:
    """Waters at 1.008 g/cm³."""
    box = rv.OrthorhombicBox(jnp.full(3, LENGTH * (number / 64) ** (1 / 3), dtype))
    molecule = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
    shape = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]], dtype)
    return rv.pack(molecule, shape, number, box=box, key=jax.random.key(0))


def current(system, state, initial):
    del initial
    return system.dipole.current(state.positions, state.velocities, state.box)


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


def trajectory(system: rv.System, state: rv.State, steps: int, *, record: Callable | None = None):
    """Compiled programs of a trajectory, and of its value and gradient by all parameters of the potential; the seconds
    of CPU time that tracing and compiling the second took, and its temporary memory, MB."""
    moving, fixed = eqx.partition(system.potential, eqx.is_inexact_array)

    def loss(moving, state):
        changed = eqx.tree_at(lambda s: s.potential, system, eqx.combine(moving, fixed))
        run = rv.nve(changed, state, dt=DT, num_steps=steps, save_every=EVERY, record=record, throw=False)
        return jnp.sum(run.final.positions**2) + (0.0 if record is None else jnp.sum(run.records**2))

    forward = jax.jit(loss).lower(moving, state).compile()
    start = time.process_time()
    gradient = jax.jit(jax.value_and_grad(loss)).lower(moving, state).compile()
    seconds = time.process_time() - start
    memory = gradient.memory_analysis().temp_size_in_bytes / 1e6
    return lambda: forward(moving, state), lambda: gradient(moving, state), seconds, memory


def measure(dtype: jnp.dtype, steps: int, repeats: int) -> dict[str, Any]:
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)
    system, argon = gradient_cost.argon(dtype)
    programs, numbers = {}, {}

    def add(name, potential, state, neighbors=None):
        names = f"{name}: energy and force", f"{name}: force and second order"
        programs.update(zip(names, force(cast(potential), state, neighbors), strict=True))

    def add_trajectory(name, system, state, record=None):
        forward, gradient, seconds, memory = trajectory(system, state, steps, record=record)
        programs.update({f"{name}: a step": forward, f"{name}: a step and its gradient": gradient})
        numbers.update({f"{name}: tracing and compiling, s": seconds, f"{name}: temporary memory, MB": memory})

    add("argon, 346 atoms", system.potential, argon)
    topology, state = waters(32, dtype)
    eann = rv.EANN.fresh(topology, key=jax.random.key(1), cutoff=0.49)
    add("EANN, 32 waters", eann, state)
    add_trajectory("EANN, 32 waters", cast(rv.System(topology, eann)), state)
    topology, liquid = waters(64, dtype)
    eann = rv.EANN.fresh(topology, key=jax.random.key(1))
    add("EANN, 64 waters", eann, liquid)
    add("message passing, 64 waters", rv.MessagePassing.fresh(topology, key=jax.random.key(1), cutoff=0.5), liquid)
    dipole = rv.DeepDipole.fresh(
        topology, liquid.positions, liquid.box, elements=["O", "H"], charges=[-2.0, 1.0], centers=["O"], onset=0.58,
        key=jax.random.key(2),
    )  # fmt: skip
    both = cast(rv.System(topology, eann, dipole))
    once = jax.jit(current)
    programs["Deep Dipole, 64 waters: current"] = lambda: once(both, liquid, None)
    add_trajectory("EANN, 64 waters", both, liquid)
    add_trajectory("EANN and Deep Dipole's current every 4th step, 64 waters", both, liquid, current)
    topology, state = waters(216, dtype)
    eann = rv.EANN.fresh(topology, key=jax.random.key(1))
    search = rv.CellList.fit(state.positions, state.box, cutoff=eann.cutoff, skin=SKIN, per_atom=True)
    add("EANN, 216 waters, lists", eann, state, search.find(state.positions, state.box))
    silicon, crystal = rv.StillingerWeber.silicon(), diamond(5, dtype)
    search = rv.CellList.fit(crystal.positions, crystal.box, cutoff=silicon.cutoff, skin=SKIN, per_atom=True)
    add("Stillinger-Weber, 1,000 atoms, lists", silicon, crystal, search.find(crystal.positions, crystal.box))
    ms = medians(programs, repeats)
    return {"ms": {k: v / (steps if ": a step" in k else 1) for k, v in ms.items()}, **numbers}


def diamond(cells: int, dtype: jnp.dtype) -> rv.State:
    """Silicon, 8 atoms a cell, somewhat shaken."""
    basis = jnp.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    both = jnp.concatenate([basis, basis + 0.25])
    corners = jnp.stack(jnp.meshgrid(*[jnp.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    positions = 0.5431 * (corners + both).reshape(-1, 3)
    positions = positions + 0.005 * jax.random.normal(jax.random.key(0), positions.shape)
    box = rv.OrthorhombicBox(jnp.full(3, 0.5431 * cells, dtype))
    return rv.State(positions.astype(dtype), jnp.zeros_like(positions, dtype), box)


RATIOS = [
    ("EANN, 64 waters: energy and force", "argon, 346 atoms: energy and force"),
    ("EANN, 64 waters: force and second order", "EANN, 64 waters: energy and force"),
    ("EANN, 64 waters: a step and its gradient", "EANN, 64 waters: a step"),
    ("EANN, 32 waters: a step and its gradient", "EANN, 32 waters: a step"),
    ("Deep Dipole, 64 waters: current", "EANN, 64 waters: energy and force"),
    ("EANN and Deep Dipole's current every 4th step, 64 waters: a step", "EANN, 64 waters: a step"),
    ("Stillinger-Weber, 1,000 atoms, lists: energy and force", "argon, 346 atoms: energy and force"),
    ("Stillinger-Weber, 1,000 atoms, lists: force and second order",
     "Stillinger-Weber, 1,000 atoms, lists: energy and force"),
]  # fmt: skip
WALK = "EANN, 64 waters: a step back / EANN, 64 waters: force and second order"


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
    back = ms["EANN, 64 waters: a step and its gradient"] - ms["EANN, 64 waters: a step"]
    ratios = {f"{a} / {b}": ms[a] / ms[b] for a, b in RATIOS}
    ratios[WALK] = back / ms["EANN, 64 waters: force and second order"]
    found["ratios"] = ratios
    _common.write(args.out, {"dtype": args.dtype, "repeats": args.repeats, "steps": args.steps, **found})
    print("| what | CPU time, ms |\n|---|---|")
    for name, value in ms.items():
        print(f"| {name} | {value:.2f} |")
    print("\n| what is how much more | times |\n|---|---|")
    for name, value in ratios.items():
        print(f"| {name} | {value:.2f} |")
    print()
    for name, value in found.items():
        if isinstance(value, float):
            print(f"{name}: {value:.1f}")
    print(f"Medians of {args.repeats} runs; {args.dtype}.")
