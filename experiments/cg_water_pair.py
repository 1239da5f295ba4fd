"""Water of one bead per molecule, whose pair potential is learned from g(r), by three methods on the same target.

The target is g(r) of oxygens of `cg_water`, at 298.15 K; what made it has no pair potential, so that no u(r) is true.
Through the dynamics (`diffsim`), by reweighting (`difftre`) and by iterative Boltzmann inversion (`ibi`), from the
potential of mean force. Runs of their own measure g(r), and the pressure, which nothing was fitted to.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import tyro

import reverlet as rv

from . import _run
from ._cg_pair_figures import draw
from ._cg_water import DATA, MASS
from ._cg_water_step import FIRST
from ._errors import BadInput, refusing
from ._fields import above_zero, at_least
from ._goals import Goal, at_most
from ._pairs import KT, Curves, Liquid, Structure
from ._pairs_room import Pairs, measured, melted, prepared
from ._pairs_run import by_all_methods, closed, opened, stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Pairs):
    """Everything that makes a run what it is."""

    method: tuple[Literal["diffsim", "difftre", "ibi"], ...] = ("diffsim", "difftre", "ibi")
    """Through the dynamics, by reweighting, by iterative Boltzmann inversion."""
    density: tuple[float, ...] = (33.3282,)
    """The density of the target; no other is accepted, 1/nm³."""
    temperature: tuple[float, ...] = (2.47896,)
    """The temperature of the target, as kT; no other is accepted, kJ/mol."""
    atoms: Annotated[int, at_least(32, 125)] = 125
    """Beads of every simulation: as many as the target has molecules; no other number is accepted."""
    bins: Annotated[int, at_least(10, 150)] = 150
    """The bins of the target's g(r); no other number is accepted."""
    width: Annotated[float, above_zero(0.005)] = 0.005
    """The width of the Gaussian that smears distances, that of the target; no other is accepted, nm."""
    reference: Annotated[int, at_least(10, 30000)] = 30000
    """Not used here: the target comes from a file."""
    cutoff: Annotated[float, above_zero(0.75)] = 0.75
    """The cutoff of the potential that is learned, nm."""
    dt: Annotated[float, above_zero(0.005)] = 0.005
    """Time step, ps."""
    chunk: Annotated[int, at_least(1, 40)] = 40
    """Time steps of a chunk of diffsim, which is differentiated."""
    updates: Annotated[int, at_least(1, 320)] = 320
    """Updates of diffsim: one for each chunk."""
    metrics: Annotated[int, at_least(1, 4)] = 4
    """How often diffsim measures the metric that it descends in: at the start, and after equal parts of its updates."""
    spacing: Annotated[float, above_zero(0.02)] = 0.02
    """Distance between the knots of the potential that is learned, nm."""

    def target(self) -> tuple[Liquid, np.ndarray, np.ndarray]:
        """The liquid, and g and its error in the bins of the file.

        In a box of N molecules g is higher by about 1/N than in a large one. A pair potential makes up for one percent
        of its neighbors only by pushing them beyond its cutoff, at tens of thousands of bar.
        """
        data = json.loads(DATA.read_text("utf-8"))
        rdf = data["rdf"]
        found = (self.atoms, self.density[0], self.temperature[0], self.bins, self.width)
        wanted = (data["molecules"], data["molecules"] / data["box_nm"] ** 3, data["temperature_K"] / KT,
                  len(rdf["value"]), rdf["width_nm"])  # fmt: skip
        if not np.allclose(found, wanted, rtol=1e-4):
            told = lambda x: f"{x[0]}, {x[1]:.6g} 1/nm³, {x[2]:.6g} kJ/mol, {x[3]} and {x[4]:g} nm"
            raise BadInput(
                f"--atoms, --density, --temperature, --bins and --width are {told(found)}; wanted those of the target,"
                f" {told(wanted)}: g(r) of another box differs."
            )
        g, error = (np.array(rdf[row]) for row in ("value", "error"))
        structure = Structure(rdf["r_max_nm"], self.bins, self.width)
        return dataclasses.replace(self.liquid(), structure=structure, mass=MASS), g, error


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", replicas=32, check=40000, updates=2000, steps=8000, simulations=30, settling=10),
    "smoke": Config(preset="smoke", method=("ibi",), cutoff=0.45, replicas=2, melting=20, check=40, steps=40,
                    simulations=2, settling=1, spacing=0.05),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Water of one bead per molecule: a pair potential from g(r), by three methods on the same target.

    Writes start.npz, a run with the potential of mean force; history-METHOD.jsonl of every method; potentials.npz;
    structure.npz, what all potentials were measured to give, beside the target; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/cg_water_pair, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("cg_water_pair", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began, c = time.perf_counter(), command.config
    with refusing():
        liquid, g, error = c.target()
    folder, key = opened(command, {"experiment": "cg_water_pair", **dataclasses.asdict(c)}), stages(c)

    knots = round((c.cutoff - FIRST) / 0.01) + 1
    mean_force = rv.coarse_graining.boltzmann_inversion(
        liquid.structure.rdf, g, temperature=float(KT * c.temperature[0]), first=FIRST, cutoff=c.cutoff, num_knots=knots
    )
    curve = lambda values: Curves(jnp.asarray(values, jnp.float32)[None], FIRST, c.cutoff)
    start = folder.array_stage(
        "start.npz", lambda: measured(c, liquid, curve(mean_force), c.melting, key(0), keep=True)
    )
    task, states = prepared(c, liquid, {**start, "g": g[None, None]}, key(1))
    task = dataclasses.replace(task, first=FIRST, knots=knots)
    found, seconds = by_all_methods(c, task, states, folder, key)
    curves = {"r": task.r, "start": np.asarray(mean_force, float), **found}
    curves = folder.array_stage("potentials.npz", lambda: curves)

    def structure():
        runs = {"r": liquid.structure.centers, "target": g, "target_error": error}
        for k, name in enumerate(("start", *found)):
            potential = curve(curves[name])
            of_all = watched(liquid, potential, melted(c, liquid, potential, key(10 + k)), c.check)
            for part, x in zip(("", "pressure_"), of_all, strict=True):
                means = np.mean(np.asarray(x, float)[0], axis=1)
                runs |= {part + name: means.mean(0), f"{part}{name}_error": means.std(0, ddof=1) / c.replicas**0.5}
        return {name: np.squeeze(x) for name, x in runs.items()}

    summary = summarized(c, folder.array_stage("structure.npz", structure))
    closed(folder, command, began, summary, goals(c, summary), report(summary), draw, seconds)


@eqx.filter_jit
def watched(liquid: Liquid, potential: Any, states: rv.State, steps: int) -> tuple[Any, Any]:
    """g and the pressure, bar, of every frame, (points, replicas, frames, ...)."""

    def see(point, state):
        pressure = rv.System(liquid.topology, potential(point)).pressure(state)
        return liquid.structure(point, state.positions)[0], pressure / rv.units.BAR

    return liquid.run(potential, states, steps, record=see)[0]


def summarized(c: Config, runs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of all potentials: errors of g, the pressure (bar), and how many simulations and steps of them each took."""
    forward = c.steps * c.simulations
    # methods with gradients measure their metric first
    steps = {"start": 0, "diffsim": c.metrics * c.steps + c.updates * (c.between + 4 * c.chunk),
             "difftre": c.steps + forward, "ibi": forward}  # fmt: skip
    simulations = {"start": 0, "diffsim": c.metrics, "difftre": c.simulations + 1, "ibi": c.simulations}
    return {
        name: {
            "mse_g": float(np.mean((runs[name] - runs["target"]) ** 2)),
            "noise_g": float(np.mean(runs[f"{name}_error"] ** 2 + runs["target_error"] ** 2)),
            "pressure": float(runs[f"pressure_{name}"]),
            "pressure_error": float(runs[f"pressure_{name}_error"]),
            "simulations": simulations[name],
            "force_evaluations": c.replicas * steps[name],
        }
        for name in ("start", *c.method)
    }


def goals(c: Config, summary: dict[str, Any]) -> list[Goal]:
    """What the methods with gradients are to reach."""
    found = []
    for method in (m for m in c.method if m != "ibi"):
        mse = summary[method]["mse_g"]
        found.append(at_most(f"{method}: mean squared error of g(r)", mse, 1e-3))
        if "ibi" in c.method:
            found.append(at_most(f"{method}: error of g(r) over that of ibi", mse / summary["ibi"]["mse_g"], 1))
    return found


def report(summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    return [
        f"{name}: mean squared error of g(r) {of['mse_g']:.2g} (noise {of['noise_g']:.1g}), {of['pressure']:.0f} ±"
        f" {of['pressure_error']:.0f} bar."
        for name, of in summary.items()
        if isinstance(of, dict)
    ]
