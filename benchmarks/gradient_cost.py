"""What a gradient through a trajectory costs: 346 argon atoms, their diffusion, four ways and with thermostats.

`python -m benchmarks gradient_cost` measures, in float32 and float64: compile time of value-and-gradient,
milliseconds per step forward and of value-and-gradient (gradient with respect to σ and ε), their ratio, and XLA's
temporary memory at two lengths. Every number is the median of several runs, taken in turns, so that a busy machine is
busy for all.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp

import reverlet as rv

from . import _common

ATOMS, LENGTH, DT, EVERY = 346, 2.5562, 0.001, 2
METHODS = ("ReversibleAdjoint", "NoseHooverChain", "RecursiveCheckpointAdjoint", "DirectAdjoint", "lax.scan")


def argon(dtype: jnp.dtype) -> tuple[rv.System, rv.State]:
    """346 argon atoms at 94.4 K near liquid density: a cubic lattice of 7³ sites and three more, shaken and melted."""
    topology = rv.Topology.from_elements(["Ar"] * ATOMS)
    potential = rv.LennardJones(sigma=0.338, epsilon=0.893795, cutoff=1.0)
    system = rv.System(topology, potential).astype(dtype)
    box = rv.OrthorhombicBox(jnp.full(3, LENGTH, dtype))
    spacing = LENGTH / 7
    sites = spacing * jnp.stack(jnp.meshgrid(*[jnp.arange(7.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    extra = spacing * (jnp.array([[0.0, 0, 0], [3, 3, 3], [5, 1, 4]]) + 0.5)
    positions = jnp.concatenate([sites, extra]).astype(dtype)
    velocities = rv.maxwell_boltzmann(system.topology, 94.4, key=jax.random.key(0))
    state = rv.State(positions, velocities, box)
    # strong friction at a short step takes up the heat of the three atoms squeezed in
    for friction, dt, steps in ((50.0, 0.0005, 2000), (5.0, 0.002, 2500)):
        sampler = rv.LangevinBAOAB(94.4, friction, dt=dt, num_steps=steps)
        state = jax.tree.map(
            lambda x: x[0], sampler.sample(system, state.repeat(1), 1, key=jax.random.key(1))[1].states
        )
    return system, state


def with_nve(
    adjoint: diffrax.AbstractAdjoint, num_steps: int, solver: diffrax.AbstractSolver = rv.VelocityVerlet()
) -> Callable:
    """D of one trajectory by `rv.nve`."""

    def diffusion(potential, system, state):
        trajectory = rv.nve(
            rv.System(system.topology, potential),
            state,
            solver,
            dt=DT,
            num_steps=num_steps,
            save_every=EVERY,
            record=correlation,
            adjoint=adjoint,
            throw=False,
        )
        return jnp.trapezoid(trajectory.records, trajectory.times) / 3

    return diffusion


def correlation(system, state, initial):
    del system
    return jnp.mean(jnp.sum(state.velocities * initial.velocities, axis=-1))


def with_scan(num_steps: int) -> Callable:
    """D of one trajectory by velocity Verlet as a plain `lax.scan` over steps, differentiated by JAX."""

    def diffusion(potential, system, state):
        acceleration = lambda x: potential.forces(x, state.box) / system.topology.masses[:, None]

        def step(carry, _):
            x, v, a = carry
            v = v + 0.5 * DT * a
            x = x + DT * v
            a = acceleration(x)
            v = v + 0.5 * DT * a
            return (x, v, a), None

        def frame(carry, _):
            carry, _ = jax.lax.scan(step, carry, length=EVERY)
            return carry, jnp.mean(jnp.sum(carry[1] * state.velocities, axis=-1))

        start = (state.positions, state.velocities, acceleration(state.positions))
        _, records = jax.lax.scan(frame, start, length=num_steps // EVERY)
        first = jnp.mean(jnp.sum(state.velocities**2, axis=-1))
        return jnp.trapezoid(jnp.concatenate([first[None], records]), dx=EVERY * DT) / 3

    return diffusion


def diffusion_by(method: str, num_steps: int) -> Callable:
    match method:
        case "ReversibleAdjoint":
            return with_nve(rv.ReversibleAdjoint(), num_steps)
        case "NoseHooverChain":
            return with_nve(rv.ReversibleAdjoint(), num_steps, rv.NoseHooverChain(94.4, 0.5))
        case "RecursiveCheckpointAdjoint":
            return with_nve(diffrax.RecursiveCheckpointAdjoint(), num_steps)
        case "DirectAdjoint":
            return with_nve(diffrax.DirectAdjoint(), num_steps)
        case _:
            return with_scan(num_steps)


def compiled(function: Callable, *args) -> tuple[Callable, float]:
    """The function compiled for these arguments, and how long that took, s."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    return program, time.perf_counter() - start


def measure(dtype: str, short: int, long: int, repeats: int) -> list[dict]:
    """One row per method."""
    with jax.enable_x64(dtype == "float64"):
        system, state = argon(jnp.dtype(dtype))
        args = (system.potential, system, state)
        programs, rows = {}, []
        for method in METHODS:
            print(f"compiling {method} in {dtype} …", flush=True)
            forward, _ = compiled(diffusion_by(method, short), *args)
            both, compile_s = compiled(jax.value_and_grad(diffusion_by(method, short)), *args)
            longer, _ = compiled(jax.value_and_grad(diffusion_by(method, long)), *args)
            programs[method] = (forward, both)
            value, gradient = both(*args)  # and warm up
            forward(*args)
            rows.append(
                {
                    "method": method,
                    "dtype": dtype,
                    "compile_s": compile_s,
                    f"temporary_MB_{short}": both.memory_analysis().temp_size_in_bytes / 1e6,
                    f"temporary_MB_{long}": longer.memory_analysis().temp_size_in_bytes / 1e6,
                    "D_nm2_per_ps": float(value),
                    "dD_dsigma": float(gradient.sigma),
                }
            )
        times = {method: ([], []) for method in METHODS}
        # in turns, but the scan by itself: the gigabytes it leaves to clean up slow down whatever runs next
        for turn in (METHODS[:-1], METHODS[-1:]):
            for _ in range(repeats):
                for method in turn:
                    forward, both = programs[method]
                    times[method][0].append(_common.seconds(lambda: forward(*args)))  # noqa: B023
                    times[method][1].append(_common.seconds(lambda: both(*args)))  # noqa: B023
        for row in rows:
            forward_s, both_s = times[row["method"]]
            row["forward_ms_per_step"] = statistics.median(forward_s) / short * 1e3
            row["gradient_ms_per_step"] = statistics.median(both_s) / short * 1e3
            # of pairs measured one after the other, which a busy machine slows alike
            row["ratio"] = statistics.median(b / f for f, b in zip(forward_s, both_s, strict=True))
    return rows


def table(rows: list[dict], short: int, long: int) -> str:
    lines = [
        f"| {'method':26} | dtype   | compile, s | forward, ms/step | value and gradient, ms/step | ratio |"
        f" temporary MB, {short} steps | {long} steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['method']:26} | {r['dtype']} | {r['compile_s']:10.1f} | {r['forward_ms_per_step']:16.3f} |"
            f" {r['gradient_ms_per_step']:27.3f} | {r['ratio']:5.2f} |"
            f" {r[f'temporary_MB_{short}']:.2f} | {r[f'temporary_MB_{long}']:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gradient_cost", description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "float64"], help="one precision instead of both")
    parser.add_argument("--steps", type=int, default=200, help="length of the timed trajectories")
    parser.add_argument("--long", type=int, default=2000, help="length of the second memory measurement")
    parser.add_argument("--repeats", type=int, default=7, help="how many runs the medians are of")
    parser.add_argument("--out", type=Path, default=Path("results/gradient_cost.json"), help="JSON file to write")
    args = parser.parse_args(argv)
    dtypes = [args.dtype] if args.dtype else ["float32", "float64"]
    rows = [row for dtype in dtypes for row in measure(dtype, args.steps, args.long, args.repeats)]
    _common.write(args.out, {"repeats": args.repeats, "rows": rows})
    print(table(rows, args.steps, args.long))
    print(f"Medians of {args.repeats} runs.")
