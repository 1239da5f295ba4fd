"""Water as one bead per molecule, from its structure and its pressure, by reweighting: the third case of DiffTRe.

A target of an atomistic simulation: the radial distribution of oxygens, the distribution of the angles between close
ones, and a pressure of 1 bar at the density of water. The model: mW, which has pairs and triples, and a table on its
pairs. Table and triples are fitted by steps of Gauss and Newton, whose derivatives are those of reweighted averages,
and which are as long as reweighting reaches. Beside it iterative Boltzmann inversion, of pairs alone, with as many
simulations. All are measured in longer runs of their own.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tqdm import tqdm

import reverlet as rv
from reverlet import coarse_graining

from . import _run
from ._cg_water import PRESETS, Config, Water
from ._cg_water_figures import draw
from ._errors import BadInput, refusing
from ._folder import Folder, History, digest, free_folder, write_json
from ._goals import Goal, at_most, in_time, judged, told
from ._reweighted import Redrawn, descended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Water as one bead per molecule, from its structure and its pressure.

    Writes history.jsonl, of the fit; history-inversion.jsonl, of iterative Boltzmann inversion; structure.npz, what all
    potentials were measured to give, beside the target; potentials.npz; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/cg_water, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("cg_water", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began = time.perf_counter()
    config = command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    with refusing():
        water = Water.of(config)
        prior = water.prior().potential
    out = command.out or free_folder(Path("results/cg_water"))
    described = {**dataclasses.asdict(config), "data": str(config.data), "data_sha256": digest(config.data)}
    folder = Folder(out, {"experiment": "cg_water", **described}, resume=command.resume)

    melted = water.melted(folder, prior)
    fitted = fit(water, melted, folder)
    inverted = invert(water, melted, folder)
    found = {"prior": prior, "inversion": inverted.potential, "fitted": fitted.model.potential}
    structure = folder.array_stage("structure.npz", lambda: water.measured(found, melted))
    folder.array_stage("potentials.npz", lambda: water.curves(found))

    triples = found["fitted"].part(rv.StillingerWeber)
    summary: dict[str, Any] = {
        "beads": config.beads,
        "box_nm": float(water.state.box.heights[0]),
        "reach_nm": water.rdf.r_max,
        "pressure": config.pressure,
        **{name: water.errors(structure, name) for name in found},
        "noise_of_target": {name: float(np.mean(getattr(water, name)[1] ** 2)) for name in ("radial", "angular")},
        "strength": float(triples.strength),
        "decay": float(triples.decay),
        "parameters": sum(x.size for x in jax.tree.leaves(fitted.model)),
        "simulations": config.updates,
    }
    seconds = time.perf_counter() - began
    summary["goals"] = judged(goals(summary, seconds, command), config.preset)
    write_json(folder / "summary.json", {**summary, "timing": {"seconds": seconds}})
    figures = draw(folder.path)
    for line in [*report(summary), told(summary["goals"], config.preset), f"How long: {seconds:.0f} s.",
                 f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)})."]:  # fmt: skip
        print(line)


def fit(water: Water, melted: rv.State, folder: Folder) -> rv.FitState:
    """By steps of Gauss and Newton, each from samples of its own."""
    c, step = water.config, water.step()

    def loss(beads, samples):
        change, found = step(beads, samples)
        # descent by one times the gradient of this adds the change
        return -jnp.sum(change.table * beads.table) - jnp.sum(change.triples * beads.triples), found

    def lines(found):
        mean = lambda x, target: float(np.mean((np.asarray(x, float) - target[0]) ** 2))
        g, angles, pressure = found
        mse = {"mse_rdf": mean(g, water.radial), "mse_adf": mean(angles, water.angular)}
        return {**mse, "pressure": float(pressure) / rv.units.BAR}

    return descended(
        loss,
        lambda beads: water.system(beads.potential),
        Redrawn(water.sampler(), c.samples, c.equilibration, 1.0, 1),
        water.prior(),
        # whole steps, and then ever smaller ones, which is the mean of where the whole ones lead
        optax.sgd(lambda k: 1 / jnp.maximum(1, k - c.settling + 1)),
        melted,
        updates=c.updates,
        key=water.key(1),
        checkpoint=folder.checkpoint,
        history=folder / "history.jsonl",
        lines=lines,
    )


def invert(water: Water, melted: rv.State, folder: Folder) -> coarse_graining.Inversion:
    """Iterative Boltzmann inversion of pairs alone, with the correction of the pressure."""
    c = water.config
    file = History(folder / "history-inversion.jsonl")

    def lines(history: coarse_graining.InversionUpdate) -> list[dict[str, Any]]:
        rows = zip(np.asarray(history.squared_errors)[:, 0], np.asarray(history.pressure), strict=True)
        return [
            {"update": k + 1, "mse_rdf": float(e), "pressure": float(p / rv.units.BAR)} for k, (e, p) in enumerate(rows)
        ]

    with tqdm(total=c.updates, desc="inversion", unit="") as bar:

        def note(state: rv.FitState) -> None:
            file.tick(state.step)
            file.write(lines(state.history))
            bar.update(state.step - bar.n)

        found = coarse_graining.iterative_boltzmann_inversion(
            water.system(water.pairs()),
            [water.rdf],
            [water.radial[0]],
            water.sampler(),
            melted,
            num_iterations=c.updates,
            num_samples=c.samples,
            equilibration=c.equilibration,
            pressure=c.pressure * rv.units.BAR,
            callback=note,
            checkpoint=folder / "checkpoint-inversion.eqx",
            resume="auto",
            key=water.key(2),
        )
    file.write(lines(found.history))
    return found


def goals(summary: dict[str, Any], seconds: float, command: Command) -> list[Goal]:
    """What the fitted potential was to reach in a run that the fit has not seen."""
    fitted, paper = summary["fitted"], command.config.preset == "paper"
    away = abs(fitted["pressure"] - summary["pressure"])
    structure = (
        [at_most("mean squared errors of RDF and ADF together", fitted["mse_rdf"] + fitted["mse_adf"], 1.4e-4)]
        if paper
        else [
            at_most("mean squared error of the RDF", fitted["mse_rdf"], 2e-3),
            at_most("mean squared error of the ADF", fitted["mse_adf"], 2e-3),
        ]
    )
    return [
        *structure,
        at_most("deviation of the pressure, bar", away, 20 if paper else 100, fitted["pressure_error"]),
        in_time(seconds, 60 if paper else 15, resumed=command.resume),
    ]


def report(summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    names = {"prior": "Prior, mW", "inversion": "Boltzmann inversion of pairs", "fitted": "Fitted"}
    measured = [
        f"{label}: mean squared error {of['mse_rdf']:.2g} of g(r), {of['mse_adf']:.2g} of angles,"
        f" {of['pressure']:.0f} ± {of['pressure_error']:.0f} bar."
        for label, of in ((label, summary[name]) for name, label in names.items())
    ]
    return [
        f"Water of {summary['beads']} beads: {summary['parameters']} parameters,"
        f" {summary['simulations']} simulations; as many for the inversion.",
        *measured,
    ]
