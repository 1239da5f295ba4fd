"""What many trajectories cost, and how much memory long ones: 346 argon atoms in float32.

`python -m benchmarks batches` measures: milliseconds per step and trajectory, forward and with the gradient, of one
trajectory and of 100, in micro-batches of several sizes; and the peak memory of a process that differentiates
trajectories of 1,000 and of 100,000 steps, as the operating system counts it, each in a process of its own.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

import reverlet as rv

from . import _common
from .gradient_cost import argon, correlation

DT = 0.001


def diffusion(system, states, num_steps, batch):
    """The mean D of many trajectories."""

    def function(potential):
        moved = rv.System(system.topology, potential)
        trajectories = rv.nve(
            moved,
            states,
            dt=DT,
            num_steps=num_steps,
            save_every=num_steps // 10,
            record=correlation,
            batch=batch,
            throw=False,
        )
        return jnp.mean(jnp.trapezoid(trajectories.records, trajectories.times)) / 3

    return function


def measure(num: int, batches: list[int], num_steps: int, repeats: int) -> list[dict]:
    system, state = argon(jnp.dtype("float32"))
    turns, sizes = {}, [(1, 1)] + [(num, batch) for batch in batches]
    for many, batch in sizes:
        function = diffusion(system, state.repeat(many), num_steps, batch)
        for name, program in (("forward", function), ("gradient", jax.value_and_grad(function))):
            compiled = jax.jit(program).lower(system.potential).compile()
            turns[name, many, batch] = lambda compiled=compiled: compiled(system.potential)
    times = _common.medians(turns, repeats)
    return [
        {
            "trajectories": many,
            "batch": batch,
            **{f"{name}_ms": 1e3 * times[name, many, batch] / many / num_steps for name in ("forward", "gradient")},
        }
        for many, batch in sizes
    ]


def peak(num_steps: int) -> float:
    """The peak memory, MB, of a process that differentiates a trajectory of 32 atoms and so many steps; of several such
    processes the median, since they differ by some 5 %."""
    command = [sys.executable, "-m", "benchmarks.batches", str(num_steps)]
    run = lambda: subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return statistics.median(float(run().split()[-1]) for _ in range(5))


def _differentiate(num_steps: int) -> None:
    topology = rv.Topology.from_elements(["Ar"] * 32)
    potential = rv.LennardJones(0.338, 0.893795, cutoff=0.55)
    system = rv.System(topology, potential)
    sites = jnp.stack(jnp.meshgrid(*[jnp.arange(4.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[::2]
    box = rv.OrthorhombicBox(jnp.full(3, 1.5))
    state = rv.State(0.375 * sites, rv.maxwell_boltzmann(topology, 94.4, key=jax.random.key(0)), box)

    @jax.jit
    def gradient(sigma):
        def end(sigma):
            potential = rv.LennardJones(sigma, 0.893795, cutoff=0.55)
            moved = rv.System(system.topology, potential)
            trajectory = rv.nve(moved, state, dt=DT, num_steps=num_steps, save_every=num_steps // 10, throw=False)
            return jnp.mean(trajectory.records.velocities**2)

        return jax.grad(end)(sigma)

    jax.block_until_ready(gradient(jnp.asarray(0.338)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks batches", description=__doc__)
    parser.add_argument("--trajectories", type=int, default=100, help="how many")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 20, 100], help="sizes of micro-batches")
    parser.add_argument("--steps", type=int, default=40, help="length of the timed trajectories")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 100_000], help="steps, for the peak memory")
    parser.add_argument("--repeats", type=int, default=5, help="how many runs the medians are of")
    parser.add_argument("--out", type=Path, default=Path("results/batches.json"), help="JSON file to write")
    args = parser.parse_args(argv)
    peaks = {str(n): peak(n) for n in args.lengths}
    rows = measure(args.trajectories, args.batches, args.steps, args.repeats)
    print("| trajectories | at a time | forward, ms per step and trajectory | value and gradient |\n|---|---|---|---|")
    for r in rows:
        print(f"| {r['trajectories']} | {r['batch']} | {r['forward_ms']:.3f} | {r['gradient_ms']:.3f} |")
    for n, megabytes in peaks.items():
        print(f"Peak memory of a process that differentiates {n} steps: {megabytes:.1f} MB.")
    _common.write(args.out, {"repeats": args.repeats, "rows": rows, "peak_MB": peaks})


if __name__ == "__main__":
    _differentiate(int(sys.argv[1]))
