"""How far back a trajectory of a Lennard-Jones liquid can be walked: float32, float64, and fixed-point numbers.

It takes a number of steps forward and as many backward, and measures how far from the start that ends: with velocity
Verlet in both precisions, and with `BitReversibleVerlet` in JAX's default 32-bit mode. The same process measures what a
step and a gradient cost with either solver.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro

import reverlet as rv

from . import _run
from ._fields import Check, above_zero, at_least, check_fields, not_negative, ps, step_fs
from ._figures import DYNAMICAL, STYLE, TARGET, THERMODYNAMIC, save_figure
from ._folder import Folder, free_folder, write_json
from ._goals import Goal, at_least as no_less, at_most, judged, told

matplotlib.use("Agg")
import diffrax
import matplotlib.pyplot as plt

_FURTHER = Check(lambda steps: all(n >= 1 for n in steps), "numbers above 0", 30000)
_COUNTS = Check(lambda steps: len(steps) > 0 and all(n >= 1 for n in steps), "numbers above 0, at least one", 1000)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that makes a run what it is. The defaults are those of `--preset quick`."""

    preset: Literal["quick", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, two minutes), smoke (seconds)."""
    seed: Annotated[int, not_negative(0)] = 0
    """The seed of all random numbers."""
    cells: Annotated[int, at_least(1, 3)] = 3
    """The box has this many face-centered cells a side, of four argon atoms each, at the density of the liquid."""
    temperature: Annotated[float, above_zero(94.4)] = 94.4
    """The temperature, K."""
    equilibration: Annotated[float, ps(20)] = 20.0
    """How long the crystal melts and equilibrates, ps."""
    time_step: Annotated[float, step_fs(5)] = 5.0
    """fs."""
    trajectories: Annotated[int, at_least(1, 4)] = 4
    """How many starting points; reported are medians over them."""
    steps: Annotated[tuple[int, ...], _COUNTS] = (
        10,
        30,
        100,
        200,
        400,
        700,
        1000,
        1500,
        2000,
        3000,
        4000,
        5000,
        7000,
        10000,
    )
    """The numbers of steps forward and back."""
    further: Annotated[tuple[int, ...], _FURTHER] = (30000,)
    """Further numbers of steps, for the fixed-point numbers alone."""
    timed_steps: Annotated[int, at_least(1, 200)] = 200
    """Time steps of the trajectories whose cost is measured."""
    repeats: Annotated[int, at_least(1, 7)] = 7
    """How often the cost is measured; reported are medians."""

    def __post_init__(self):
        check_fields(self)

    @property
    def dt(self) -> float:
        """ps."""
        return self.time_step * rv.units.FEMTOSECOND


PRESETS = {
    "quick": Config(),
    "smoke": Config(
        preset="smoke",
        cells=2,
        equilibration=0.2,
        trajectories=2,
        steps=(10, 40),
        further=(80,),
        timed_steps=10,
        repeats=2,
    ),
}


@dataclasses.dataclass(frozen=True)
class Command:
    """How far back a trajectory of a Lennard-Jones liquid can be walked.

    Writes config.json, summary.json with all numbers, and reversal_error.png.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The folder to write into, new or empty; results/reversal_error where that is free."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("reversal_error", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment."""
    started = time.perf_counter()
    config = command.config
    out = command.out or free_folder(Path("results/reversal_error"))
    folder = Folder(out, {"experiment": "reversal_error", **dataclasses.asdict(config)}, resume=False)

    system, states, neighbors = liquid(config)
    methods = {
        "float32": (rv.VelocityVerlet(), False, config.steps),
        "float64": (rv.VelocityVerlet(), True, config.steps),
        "bit_reversible": (rv.BitReversibleVerlet(), False, config.steps + config.further),
    }
    errors, exact = {}, {}
    for name, (solver, double, steps) in methods.items():
        with jax.enable_x64(double):
            matter, starts, dt = cast((system, states, config.dt), jnp.float64 if double else jnp.float32)
            walk = lambda n: reversal(solver, matter, starts, dt, jnp.asarray(n))  # noqa: B023
            lost = {n: [np.asarray(a) for a in walk(n)] for n in steps}
        errors[name] = {n: np.median(distance) for n, (distance, _) in lost.items()}
        exact[name] = bool(all(np.all(same) for _, same in lost.values()))
    table = [
        {"steps": n, "time": n * config.dt, **{k: float(e[n]) for k, e in errors.items() if n in e}}
        for n in sorted({*config.steps, *config.further})
    ]
    summary = {
        "atoms": system.topology.num_atoms,
        "neighbor_distance": neighbors,
        "table": table,
        "bitwise_equal": exact,
        "cost": cost(config, system, jax.tree.map(lambda x: x[0], states)),
    }
    summary["seconds"] = time.perf_counter() - started
    summary["goals"] = judged(goals(summary), config.preset)
    write_json(folder / "summary.json", summary)
    figure = draw(config, summary)
    save_figure(folder / "reversal_error.png", figure)
    for line in [*report(summary, folder.path), told(summary["goals"], config.preset)]:
        print(line)


def liquid(config: Config) -> tuple[rv.System, rv.State, float]:
    """Liquid argon, several configurations of it, and the typical distance of two neighbors, nm."""
    atoms = 4 * config.cells**3
    volume = atoms * 2.5562**3 / 346  # nm³, at 1.374 g/cm³
    length = volume ** (1 / 3)
    topology, crystal = rv.fcc("Ar", config.cells, spacing=1.0)
    positions = jnp.asarray(np.asarray(crystal.positions, float) * length / config.cells, jnp.float32)
    potential = rv.LennardJones(0.34, 0.993795, cutoff=min(0.85, 0.49 * length))
    system = rv.System(topology, potential)
    start_key, chain_key = jax.random.split(jax.random.key(config.seed))
    velocities = rv.maxwell_boltzmann(topology, 2 * config.temperature, key=start_key).astype(jnp.float32)
    start = rv.State(positions, velocities, rv.OrthorhombicBox(jnp.full(3, length, jnp.float32)))
    sampler = rv.LangevinBAOAB(config.temperature, 1.0, dt=0.002, num_steps=round(config.equilibration / 0.002))
    samples, _ = sampler.sample(system, start.repeat(config.trajectories), config.trajectories, key=chain_key)
    # few enough digits that both precisions and the lattice hold them
    states = jax.tree.map(lambda x: jnp.round(x * 2.0**18) / 2.0**18, samples.states)
    return system, states, (volume / atoms) ** (1 / 3)


def cast(tree, dtype):
    """The tree with its floating-point numbers in another precision."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if eqx.is_inexact_array_like(x) else x, tree)


@eqx.filter_jit
def reversal(solver, system, states, dt, num_steps):
    """How far from every start `num_steps` forward and back lead (RMS, nm), and whether every bit is as it was."""
    terms = (diffrax.ODETerm(velocity), rv.ConservativeTerm(energy, masses))
    zero = jnp.zeros_like(dt)

    def one(state):
        args = (system, state.box)
        y = (state.positions, state.velocities)
        start = (y, solver.init(terms, zero, dt, y, args))
        forward = lambda _, c: solver.step(terms, zero, dt, c[0], args, c[1], False)[::3]
        backward = lambda _, c: solver.backward_step(terms, zero, dt, c[0], args, c[1], False)[::2]
        back = jax.lax.fori_loop(0, num_steps, backward, jax.lax.fori_loop(0, num_steps, forward, start))
        same = [jnp.all(a == b) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(start), strict=True)]
        return jnp.sqrt(jnp.mean(jnp.sum((back[0][0] - y[0]) ** 2, -1))), jnp.all(jnp.array(same))

    return jax.vmap(one)(states)


def velocity(t, v, args):
    """dx/dt."""
    del t, args
    return v


def energy(x, args):
    """The potential energy, kJ/mol."""
    system, box = args
    return system.potential.energy(x, box)


def masses(args):
    """u."""
    system, box = args
    return system.topology.masses.astype(box.vectors.dtype)[:, None]


def cost(config: Config, system: rv.System, state: rv.State) -> dict[str, dict[str, float]]:
    """Milliseconds per step of a trajectory in float32, and of its value with gradient; the solvers take turns."""
    solvers = {"velocity_verlet": rv.VelocityVerlet(), "bit_reversible": rv.BitReversibleVerlet()}

    def correlation(potential, solver):
        moving = rv.System(system.topology, potential)
        n = config.timed_steps
        run = rv.nve(
            moving, state, solver, dt=config.dt, num_steps=n, save_every=n, record=rv.VACF().record, throw=False
        )
        return run.records[-1]

    functions = {
        "forward": eqx.filter_jit(correlation),
        "gradient": eqx.filter_jit(eqx.filter_value_and_grad(correlation)),
    }
    seconds = {(s, f): [] for s in solvers for f in functions}
    for repeat in range(config.repeats + 1):
        for s, f in seconds:
            before = time.perf_counter()
            jax.block_until_ready(functions[f](system.potential, solvers[s]))
            if repeat > 0:  # the first compiles
                seconds[s, f].append(time.perf_counter() - before)
    scale = 1e3 / config.timed_steps
    return {s: {f: scale * float(np.median(seconds[s, f])) for f in functions} for s in solvers}


def goals(summary: dict[str, Any]) -> list[Goal]:
    """What is claimed of fixed-point numbers, and how far back rounding was said to allow in floating point."""
    table, exact = summary["table"], summary["bitwise_equal"]["bit_reversible"]
    farthest = max(row["bit_reversible"] for row in table)

    def held(name: str) -> float:
        """The most steps after which the start is found within a tenth of the distance of neighbors."""
        found = [row["steps"] for row in table if name in row]
        lost = [row["steps"] for row in table if name in row and row[name] > 0.1 * summary["neighbor_distance"]]
        return max([n for n in found if n < min(lost, default=np.inf)], default=0)

    return [
        at_most("distance from the start after any number of steps, bit-reversible, nm", farthest, 0),
        no_less("every bit as at the start, bit-reversible (1 is yes)", float(exact), 1),
        no_less("steps that can be walked back in float32", held("float32"), 1000),
        no_less("steps that can be walked back in float64", held("float64"), 2000),
    ]


def draw(config: Config, summary: dict[str, Any]):
    """Reversal error against the number of steps."""
    table, exact, floor = summary["table"], summary["bitwise_equal"]["bit_reversible"], 1e-18
    curves = (
        ("float32", THERMODYNAMIC, "o", "velocity Verlet, float32"),
        ("float64", DYNAMICAL, "s", "velocity Verlet, float64"),
        ("bit_reversible", TARGET, "D", "bit-reversible, 32-bit" + (": zero" if exact else "")),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.8, 3.8))
        for name, color, marker, label in curves:
            rows = [(row["steps"], row[name]) for row in table if name in row]
            steps, error = np.array(rows).T
            axes.plot(
                steps,
                np.maximum(error, floor),
                marker=marker,
                ms=4,
                lw=1,
                color=color,
                label=label,
                clip_on=False,
                zorder=5,
            )
        axes.axhline(summary["neighbor_distance"], color="0.6", lw=0.8, ls="--")
        axes.text(
            table[0]["steps"], 1.3 * summary["neighbor_distance"], "distance of neighbors", color="0.4", fontsize=8
        )
        axes.set(
            xscale="log",
            yscale="log",
            ylim=(floor, 100),
            xlabel=f"steps of {config.time_step:g} fs forward, and as many back",
            ylabel="distance from the start, RMS / nm",
            title=f"{summary['atoms']} Ar, {config.temperature:g} K: forward and back",
        )
        ticks = [10.0**k for k in range(-15, 1, 3)]
        axes.set_yticks([floor, *ticks], ["0", *(f"$10^{{{k}}}$" for k in range(-15, 1, 3))])
        axes.minorticks_off()
        axes.legend(loc="center left", bbox_to_anchor=(0.0, 0.72))
    return figure


def report(summary: dict[str, Any], folder: Path) -> list[str]:
    """What is printed: the table, the cost and where the files are."""
    number = lambda row, name: f"{row[name]:.0e}" if name in row else ""
    names = ("float32", "float64", "bit_reversible")
    lines = ["| steps | time, ps | float32, nm | float64, nm | bit-reversible, nm |", "|---|---|---|---|---|"]
    for row in summary["table"]:
        lines.append(f"| {row['steps']} | {row['time']:g} | " + " | ".join(number(row, n) for n in names) + " |")
    plain, exact = summary["cost"]["velocity_verlet"], summary["cost"]["bit_reversible"]
    for kind in ("forward", "gradient"):
        ratio = exact[kind] / plain[kind]
        lines.append(f"{kind}: {plain[kind]:.4f} ms/step, bit-reversible {exact[kind]:.4f} ({ratio:.2f} times)")
    lines.append("every bit as at the start: " + ", ".join(f"{k} {v}" for k, v in summary["bitwise_equal"].items()))
    lines.append(f"{summary['seconds']:.0f} s; files in {folder}")
    return lines
