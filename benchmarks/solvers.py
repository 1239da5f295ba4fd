"""How well each solver conserves energy at equal cost: 108 argon atoms near the triple point.

`python -m benchmarks solvers` runs trajectories from the same equilibrated states with every solver, its step as many
times longer as it evaluates the force more often, so that all evaluate it equally often per picosecond. The error is
the standard deviation of the total energy along a trajectory, divided by the kinetic energy; the median over
trajectories. It depends on numbers of evaluations, not on how busy the machine is.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

import reverlet as rv

from . import _common

ATOMS, CUTOFF, ONSET, TEMPERATURE = 108, 0.85, 0.7, 94.4
LENGTH = 2.5562 * (ATOMS / 346) ** (1 / 3)
COSTS = (0.001, 0.002, 0.004, 0.008, 0.016)  # ps between two evaluations, on average
SOLVERS = (
    rv.VelocityVerlet(),
    rv.PositionVerlet(),
    rv.Yoshida4(),
    rv.McLachlan4(),
    rv.BlanesMoan4(),
    rv.Yoshida6(),
)
RESPA, NEAR, NEAR_ONSET = rv.Respa(4), 0.6, 0.45
"""Four steps of the near part to one of the rest. Only whole-range evaluations count: as if the near part were free."""


def lennard_jones(cutoff: float, onset: float) -> rv.LennardJones:
    return rv.LennardJones(0.338, 0.893795, cutoff=cutoff, truncation=rv.SmoothSwitch(onset))


def argon(num_samples: int) -> tuple[rv.System, rv.State]:
    topology = rv.Topology.from_elements(["Ar"] * ATOMS)
    system = rv.System(topology, lennard_jones(CUTOFF, ONSET))
    corners = jnp.stack(jnp.meshgrid(*[jnp.arange(3.0)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    sites = jnp.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    positions = ((corners + sites) * (LENGTH / 3)).reshape(-1, 3)
    velocities = rv.maxwell_boltzmann(topology, TEMPERATURE, key=jax.random.key(0))
    state = rv.State(positions, velocities, rv.OrthorhombicBox(jnp.full(3, LENGTH)))
    sampler = rv.LangevinBAOAB(TEMPERATURE, 1.0, dt=0.002, num_steps=5000)
    samples, _ = sampler.sample(system, state.repeat(num_samples), num_samples, key=jax.random.key(1))
    return system, samples.states


def evaluations(solver: rv.AbstractSplittingSolver) -> int:
    """Of the force per step; of a force in several parts, of its first, slow one."""
    return sum(row[0] != 0 for row in solver.kick_rows[1:])


def energy_error(solver, system: rv.System, states: rv.State, cost: float, time: float) -> float:
    dt = cost * evaluations(solver)
    record = lambda system, state, initial: (
        rv.TotalEnergy().record(system, state, initial),
        system.kinetic_energy(state.velocities),
    )

    @jax.jit
    def run(states):
        one = lambda state: (
            rv.nve(system, state, solver, dt=dt, num_steps=round(time / dt), record=record, throw=False).records
        )
        total, kinetic = jax.vmap(one)(states)
        return jnp.median(jnp.std(total, axis=1) / kinetic[:, 0])

    return float(run(states))


def measure(time: float, num_samples: int) -> list[dict]:
    """One row per solver."""
    system, states = argon(num_samples)
    near = lennard_jones(NEAR, NEAR_ONSET)
    split = rv.System(system.topology, near + (system.potential - near))
    rows = []
    for solver in (*SOLVERS, RESPA):
        name = type(solver).__name__
        print(f"running {name} …", flush=True)
        errors = {
            f"{1e3 * cost:g}": energy_error(solver, split if solver is RESPA else system, states, cost, time)
            for cost in COSTS
        }
        rows.append(
            {"solver": name, "order": solver.order(None), "evaluations": evaluations(solver), "error_by_fs": errors}
        )
    return rows


def table(rows: list[dict]) -> str:
    columns = list(rows[0]["error_by_fs"])
    lines = [
        "| solver | order | evaluations per step | " + " | ".join(f"{c} fs" for c in columns) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for r in rows:
        # an error as large as the kinetic energy, or no number, is no trajectory
        errors = [f"{e:.0e}" if e < 1 else "explodes" for e in r["error_by_fs"].values()]
        lines.append(f"| {r['solver']} | {r['order']} | {r['evaluations']} | " + " | ".join(errors) + " |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks solvers", description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--time", type=float, default=2.0, help="length of every trajectory, ps")
    parser.add_argument("--samples", type=int, default=4, help="how many trajectories the medians are of")
    parser.add_argument("--out", type=Path, default=Path("results/solvers.json"), help="JSON file to write")
    args = parser.parse_args(argv)
    with jax.enable_x64(args.dtype == "float64"):
        rows = measure(args.time, args.samples)
    settings = {"dtype": args.dtype, "time_ps": args.time, "samples": args.samples}
    _common.write(args.out, {**settings, "rows": rows})
    print(table(rows))
    print(f"Medians of {args.samples} trajectories of {args.time:g} ps in {args.dtype}.")
