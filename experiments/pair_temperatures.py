"""One pair potential for many temperatures, from their radial distribution functions: how far does it carry?

The target is a Lennard-Jones liquid at one density and several temperatures. One potential is learned of all of them at
once, through the dynamics (`diffsim`) or by reweighting (`difftre`), and by iterative Boltzmann inversion of the first
temperature alone (`ibi`), which is then used at all. Runs of their own measure each at the temperatures that were
trained, and at others between them, beside potentials that were learned of a single temperature each.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from . import _run
from ._errors import BadInput, refusing
from ._fields import at_least
from ._folder import Folder, free_folder, write_json
from ._goals import Goal, at_most, in_time, judged, told
from ._pairs import Curves, Everywhere, Liquid
from ._pairs_room import energies, learned, measured, prepared
from ._temperatures_figures import draw
from .pair_rdf import Config as OneState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(OneState):
    """Everything that makes a run what it is."""

    temperature: tuple[float, ...] = (0.8, 1.2, 1.6)
    """That are trained, ε."""
    unseen: tuple[float, ...] = (1.0, 1.4)
    """That are not, ε."""
    method: tuple[Literal["diffsim", "difftre", "ibi"], ...] = ("difftre", "ibi")
    """Through the dynamics (diffsim), by reweighting (difftre), by iterative Boltzmann inversion of the first
    temperature (ibi)."""
    every: Annotated[int, at_least(1, 20)] = 20
    """Time steps between two looks at g(r)."""
    melting: Annotated[int, at_least(10, 600)] = 600
    """Time steps at three times the temperature, and as many at the temperature."""
    reference: Annotated[int, at_least(10, 6000)] = 6000
    """Time steps of the target."""
    check: Annotated[int, at_least(10, 3000)] = 3000
    """Time steps of every measurement in the end."""
    steps: Annotated[int, at_least(40, 1000)] = 1000
    """Time steps of a simulation of difftre and ibi."""
    simulations: Annotated[int, at_least(1, 10)] = 10
    """Of difftre and ibi."""
    settling: Annotated[int, at_least(1, 4)] = 4
    """The step of difftre after which they become smaller, to the mean over all later ones."""
    single_simulations: Annotated[int, at_least(0, 8)] = 8
    """Of the fits to one temperature each; 0 leaves them out."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.density) != 1:
            raise BadInput(f"--density is {self.density}; wanted one for all temperatures.")
        outside = [t for t in self.unseen if not min(self.temperature) < t < max(self.temperature)]
        if outside:
            raise BadInput(f"--unseen has {outside[0]}; wanted temperatures between those of --temperature.")

    @property
    def all(self) -> tuple[float, ...]:
        """Trained temperatures, then the others."""
        return (*self.temperature, *self.unseen)

    def at(self, temperatures: tuple[float, ...]) -> Liquid:
        """The liquid at these."""
        return dataclasses.replace(self, temperature=temperatures, unseen=()).liquid()


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", method=("diffsim", "difftre", "ibi"), temperature=(0.6, 1.0, 1.4, 2.0),
                    unseen=(0.8, 1.2, 1.7), atoms=256, replicas=16, every=10, melting=1000, reference=100000,
                    check=20000, updates=2000, steps=4000, simulations=30, settling=10, single_simulations=30),
    "smoke": Config(preset="smoke", method=("difftre",), temperature=(1.0, 2.0), unseen=(1.5,), atoms=32, cutoff=1.7,
                    replicas=2, bins=30, melting=20, reference=40, check=40, steps=40, simulations=2, settling=1,
                    spacing=0.1, single_simulations=0),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One pair potential for many temperatures, from their radial distribution functions.

    Writes target.npz; history-METHOD.jsonl of every method and of every fit to one temperature; potentials.npz;
    structure.npz, what all potentials were measured to give at all temperatures; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/pair_temperatures, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("pair_temperatures", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began, c = time.perf_counter(), command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    with refusing():
        truth, everywhere = c.truth(), c.at(c.all)
    out = command.out or free_folder(Path("results/pair_temperatures"))
    folder = Folder(out, {"experiment": "pair_temperatures", **dataclasses.asdict(c)}, resume=command.resume)
    key = lambda stage: jax.random.fold_in(jax.random.key(c.seed), stage)

    target = folder.array_stage(
        "target.npz", lambda: measured(c, everywhere, Everywhere(truth), c.reference, key(0), keep=True)
    )
    whole, _ = prepared(c, everywhere, target, key(1))

    def of(chosen: list[int], method: str, simulations: int, name: str, k: int) -> np.ndarray:
        """What a method makes of some of the temperatures."""
        task, states = prepared(c, c.at(tuple(c.all[i] for i in chosen)), target, key(1), chosen)
        sized = dataclasses.replace(c, simulations=simulations, settling=min(c.settling, simulations))
        return learned(sized, method, task, states, key(k), folder, name)[0]

    trained = list(range(len(c.temperature)))
    found = {}
    for k, method in enumerate(c.method):
        found[method] = of(trained[:1] if method == "ibi" else trained, method, c.simulations, method, 2 + k)
    for i, t in enumerate(c.all if c.single_simulations else ()):
        found[f"single-{t:g}"] = of([i], "difftre", c.single_simulations, f"single-{t:g}", 20 + i)
    curves = {"r": whole.r, "truth": energies(truth, whole.r), **found}
    curves = folder.array_stage("potentials.npz", lambda: curves)

    def structure():
        runs = {"r": everywhere.structure.centers, "target": target["g"][:, 0], "target_error": target["error"][:, 0]}
        curve = lambda name: Curves(jnp.asarray(curves[name][None], jnp.float32), whole.first, c.cutoff)
        for k, method in enumerate(c.method):
            one = measured(c, everywhere, curve(method), c.check, key(40 + k))
            runs |= {method: one["g"][:, 0], f"{method}_error": one["error"][:, 0]}
        if c.single_simulations:
            singles = [
                measured(c, c.at((t,)), curve(f"single-{t:g}"), c.check, key(50 + i)) for i, t in enumerate(c.all)
            ]
            runs["single"] = np.concatenate([one["g"][:, 0] for one in singles])
            runs["single_error"] = np.concatenate([one["error"][:, 0] for one in singles])
        return runs

    runs = folder.array_stage("structure.npz", structure)
    summary = summarized(c, runs)
    total = time.perf_counter() - began
    summary["goals"] = judged(goals(c, summary, total, command), c.preset)
    write_json(folder / "summary.json", {**summary, "timing": {"seconds": total}})
    figures = draw(folder.path)
    for line in [*report(c, summary), told(summary["goals"], c.preset), f"How long: {total:.0f} s.",
                 f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)})."]:  # fmt: skip
        print(line)


def summarized(c: Config, runs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean squared errors of g at all temperatures, less what noise of both runs makes of them, and that noise."""
    noise = lambda name: np.mean(runs[f"{name}_error"] ** 2 + runs["target_error"] ** 2, axis=1)
    found = {}
    for name in (n for n in (*c.method, "single") if n in runs):
        mse = np.mean((runs[name] - runs["target"]) ** 2, axis=1)
        found[name] = {"mse_g": mse.tolist(), "noise_g": noise(name).tolist()}
    return {"temperatures": list(c.all), "trained": len(c.temperature), **found}


def goals(c: Config, summary: dict[str, Any], seconds: float, command: Command) -> list[Goal]:
    """One potential for all is to be nearly as good as one for each, and better than that of one used elsewhere."""
    found = []
    for method in (m for m in c.method if m != "ibi"):
        for k, t in enumerate(c.all if "single" in summary else ()):
            kind = "trained" if k < len(c.temperature) else "not trained"
            name = f"{method}: error of g(r) over that of a fit to kT = {t:g} ε alone ({kind})"
            found.append(at_most(name, summary[method]["mse_g"][k] / summary["single"]["mse_g"][k], 3))
        if "ibi" in c.method:
            against = np.array(summary[method]["mse_g"])[1:] / np.array(summary["ibi"]["mse_g"])[1:]
            found.append(at_most(f"{method}: error of g(r) over that of ibi carried to other temperatures, worst",
                                 float(against.max()), 1))  # fmt: skip
    return [*found, in_time(seconds, 15, resumed=command.resume)]


def report(c: Config, summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    show = lambda values: ", ".join(f"{x:.2g}" for x in values)
    lines = [f"Temperatures, ε: {', '.join(f'{t:g}' for t in c.temperature)} trained;"
             f" {', '.join(f'{t:g}' for t in c.unseen)} not."]  # fmt: skip
    for name in (n for n in (*c.method, "single") if n in summary):
        noise = max(summary[name]["noise_g"])
        lines.append(f"{name}: mean squared error of g(r) {show(summary[name]['mse_g'])} (noise up to {noise:.1g}).")
    return lines
