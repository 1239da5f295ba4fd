"""A pair potential from radial distribution functions, by three methods on the same target: the case of DiffSim.

The target is simulated with a known potential: Lennard-Jones, one of its family, a Morse potential in a power of the
distance, soft spheres or Yukawa, in reduced units. Three methods start from the potential of mean force. `diffsim`
differentiates thermostatted dynamics, in chunks of one
continuing trajectory; `difftre` takes the derivatives of reweighted means; `ibi` is iterative Boltzmann inversion. All
potentials are measured in separate runs that start from a lattice.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import tyro

import reverlet as rv

from . import _run
from ._errors import refusing
from ._goals import Goal, at_most
from ._pairs import Curves, Everywhere
from ._pairs_figures import draw
from ._pairs_fit import METHODS, Task
from ._pairs_room import Pairs, energies, measured, prepared
from ._pairs_run import by_all_methods, closed, opened, stages

Target = Literal["lj", "family", "morse", "soft", "yukawa"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Pairs):
    """Everything that makes a run what it is."""

    target: Target = "lj"
    """The potential to be found again: Lennard-Jones; 4ε [(σ/r)ⁿ - (σ/r)ᵐ]; Morse in a power of the distance; (σ/r)ⁿ;
    A exp(-κr)/r."""
    exponents: tuple[float, float] = (8.0, 4.0)
    """n and m of the family; n of soft spheres."""
    well: tuple[float, float] = (5.5, 0.44)
    """Steepness a and power φ of the Morse potential."""
    screened: tuple[float, float] = (20.0, 3.0)
    """A and κ of Yukawa, in ε σ and 1/σ."""

    def truth(self) -> Any:
        """The potential of the target."""
        n, m = self.exponents
        match self.target:
            case "lj":
                return rv.LennardJones(1.0, 1.0, cutoff=self.cutoff)
            case "family":
                strength = 4 / (n / (n - m) * (n / m) ** (m / (n - m)))
                return rv.Mie(1.0, strength, n, m, cutoff=self.cutoff)
            case "morse":
                return rv.pairs.GeneralizedMorse(1.0, 1.0, *self.well, cutoff=self.cutoff)
            case "soft":
                return rv.pairs.InversePower(1.0, 1.0, n, cutoff=self.cutoff)
            case "yukawa":
                return rv.pairs.Yukawa(*self.screened, cutoff=self.cutoff)


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", atoms=256, replicas=16, reference=100000, check=20000, updates=2000, steps=4000,
                    simulations=30, settling=10),
    "smoke": Config(preset="smoke", method=("diffsim",), atoms=32, cutoff=1.7, replicas=2, bins=30,
                    melting=20, reference=40, check=40, chunk=20, between=10, updates=2, steps=40, simulations=2,
                    settling=1, spacing=0.1),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A pair potential from radial distribution functions, by three methods on the same target.

    Writes target.npz; history-METHOD.jsonl for every method; potentials.npz; structure.npz, the g(r) that all
    potentials give, beside the target; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/pair_rdf, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("pair_rdf", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began, c = time.perf_counter(), command.config
    with refusing():
        truth, liquid = c.truth(), c.liquid()
    folder, key = opened(command, {"experiment": "pair_rdf", **dataclasses.asdict(c)}), stages(c)

    target = folder.array_stage(
        "target.npz", lambda: measured(c, liquid, Everywhere(truth), c.reference, key(0), keep=True)
    )
    task, states = prepared(c, liquid, target, key(1))
    found, seconds = by_all_methods(c, task, states, folder, key)
    found = {"start": task.base()[0], **found}
    curves = {"r": task.r, "truth": energies(truth, task.r), **found}
    curves = folder.array_stage("potentials.npz", lambda: curves)

    def structure():
        runs = {"r": liquid.structure.centers, "target": target["g"][:, 0], "target_error": target["error"][:, 0]}
        for k, name in enumerate(found):
            potential = Curves(jnp.asarray(curves[name][None], jnp.float32), task.first, c.cutoff)
            one = measured(c, liquid, potential, c.check, key(10 + k))
            runs |= {name: one["g"][:, 0], f"{name}_error": one["error"][:, 0]}
        return runs

    summary = summarized(c, task, curves, folder.array_stage("structure.npz", structure))
    closed(folder, command, began, summary, goals(c, summary), report(summary), draw, seconds)


def summarized(c: Config, task: Task, curves: dict[str, np.ndarray], runs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Errors of all potentials: of g, in separate runs; of u, with both zero at the cutoff, where any g is above
    0.1; and how many steps of how many atoms each method took."""
    names = [n for n in ("start", *METHODS) if n in runs]
    seen = np.max([np.interp(curves["r"], runs["r"], g) for g in runs["target"]], axis=0) > 0.1
    seen &= curves["r"] > curves["r"][np.argmax(seen)] - 1e-9
    level = lambda u: u - u[-1]
    found: dict[str, Any] = {"noise_of_target": float(np.mean(runs["target_error"] ** 2))}
    forward = c.replicas * c.steps * c.simulations
    metric, gradient = c.replicas * c.steps, c.replicas * (c.between + 4 * c.chunk) * c.updates
    effort = {"start": 0, "diffsim": c.metrics * metric + gradient, "difftre": metric + forward, "ibi": forward}
    for name in names:
        off = (level(curves[name]) - level(curves["truth"]))[seen]
        found[name] = {
            "mse_g": float(np.mean((runs[name] - runs["target"]) ** 2)),
            "mse_g_points": np.mean((runs[name] - runs["target"]) ** 2, axis=1).tolist(),
            "noise_g": float(np.mean(runs[f"{name}_error"] ** 2)),
            "u_max": float(np.max(np.abs(off))),
            "u_rms": float(np.sqrt(np.mean(off**2))),
            "force_evaluations": effort[name],
        }
    return found


def goals(c: Config, summary: dict[str, Any]) -> list[Goal]:
    """What the methods with gradients should reach."""
    found = []
    for method in c.method:
        if method != "ibi":
            found.append(at_most(f"{method}: mean squared error of g(r)", summary[method]["mse_g"], 1e-4))
            found.append(at_most(f"{method}: largest error of u(r) where g > 0.1, ε", summary[method]["u_max"], 0.05))
    return found


def report(summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    return [
        f"{name}: mean squared error of g(r) {of['mse_g']:.2g} (noise {of['noise_g']:.1g}), largest error of u(r)"
        f" {of['u_max']:.3f} ε, root mean square {of['u_rms']:.3f} ε."
        for name, of in summary.items()
        if isinstance(of, dict)
    ]
