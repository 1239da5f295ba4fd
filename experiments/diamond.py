"""Learn the stress and the elastic constants of diamond by reweighting: the second case of DiffTRe.

A neural potential on a Stillinger–Weber prior that is far too soft. All that is known of the crystal is that its cell
is without stress, and c11, c12 and c44. What is fitted are means over samples at constant volume, with the fluctuation
of the stress, whose gradient by the parameters of the network passes through the weights of the samples and through
second derivatives in strain. Prior and fitted potential are then measured in longer runs of their own.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float

import reverlet as rv

from . import _run
from ._diamond import GPA, TEMPERATURE, AngleNetwork, Diamond, elasticity, fresh, measured
from ._diamond_figures import draw
from ._errors import BadInput
from ._fields import Check, above_zero, at_least, check_fields, not_negative, step_ps
from ._folder import Folder, History, free_folder, write_json
from ._goals import Goal, at_most, in_time, judged, told
from ._reweighted import Redrawn, descended

NAMES = ("c11", "c12", "c44")
TARGETS = (1079.0, 124.0, 578.0)
"""GPa, at 298 K: H. J. McSkimin and P. Andreatch, J. Appl. Phys. 43, 2944 (1972), as the original has them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds)."""
    seed: Annotated[int, not_negative(0)] = 0
    """Of all random numbers."""
    cells: Annotated[int, at_least(2, 2, "two of its cutoffs fit in no smaller box")] = 2
    """Cubic cells of 8 atoms along every edge of the box."""
    chains: Annotated[int, at_least(2, 8)] = 8
    """That run side by side."""
    dt: Annotated[float, step_ps(1e-3)] = 1e-3
    """Time step, ps."""
    friction: Annotated[float, above_zero(100)] = 100.0
    """1/ps. So much that the stress forgets itself within tens of femtoseconds: dynamics do not matter here."""
    interval: Annotated[int, at_least(1, 20)] = 20
    """Time steps between samples."""
    samples: Annotated[int, at_least(8, 64)] = 64
    """Whenever the fit draws new ones, a multiple of the chains."""
    equilibration: Annotated[int, not_negative(0)] = 0
    """Samples of every chain that are thrown away before: none, since an update moves the potential but little."""
    least: Annotated[float, Check(lambda x: 0 < x <= 1, "a part of one", 0.9)] = 0.9
    """The part of the samples that must count, by 1/Σw², for them to be used again."""
    uses: Annotated[int, at_least(1, 2)] = 2
    """How many updates use the same samples at most."""
    updates: Annotated[int, at_least(1, 300)] = 300
    """Steps of Adam."""
    rate: Annotated[float, above_zero(0.01)] = 0.01
    """Its learning rate at first."""
    final_rate: Annotated[float, above_zero(1e-3)] = 1e-3
    """And at last; it falls exponentially."""
    hidden: Annotated[int, at_least(1, 16)] = 16
    """Units of each of the two hidden layers of the network."""
    check: Annotated[int, at_least(8, 4096)] = 4096
    """Samples that prior and fitted potential are measured with, a multiple of the chains."""
    batch: Annotated[int, at_least(1, 64)] = 64
    """Samples or chains at a time."""

    def __post_init__(self):
        check_fields(self)
        for name in ("samples", "check"):
            if getattr(self, name) % self.chains:
                raise BadInput(f"--{name} is {getattr(self, name)}; wanted a multiple of --chains, {self.chains}.")


PRESETS = {
    "quick": Config(),
    "paper": Config(
        preset="paper", cells=5, chains=64, samples=128, updates=500, final_rate=1e-4, hidden=64, check=16384
    ),
    "smoke": Config(preset="smoke", interval=2, samples=8, updates=2, hidden=4, check=8),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Learn the stress and the elastic constants of diamond by reweighting.

    Writes before.npz and after.npz, what the prior and the fitted potential were measured to be in runs of their own;
    history.jsonl, and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/diamond, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("diamond", PRESETS, Command, arguments)))


# ---- the run


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began = time.perf_counter()
    config = command.config
    out = command.out or free_folder(Path("results/diamond"))
    folder = Folder(out, {"experiment": "diamond", **dataclasses.asdict(config)}, resume=command.resume)
    diamond = Diamond.of(config.cells, _sampler(config), config.batch)
    network = fresh(config.hidden, _key(config, 0))
    measure = lambda network, stage: measured(diamond, network, config.chains, config.check, _key(config, stage))
    before = folder.array_stage("before.npz", lambda: measure(network, 1))
    ends = (jnp.asarray(before[name]) for name in ("positions", "velocities"))
    chains = jax.vmap(lambda x, v: rv.State(x, v, diamond.sites.box))(*ends)
    fitted = _fit(config, folder, diamond, network, chains)
    after = folder.array_stage("after.npz", lambda: measure(fitted.model, 2))
    of_updates = sum(s for s in History(folder / "history.jsonl").seconds.values() if s is not None)
    seconds = time.perf_counter() - began
    summary: dict[str, Any] = {
        "atoms": diamond.topology.num_atoms,
        "parameters": sum(x.size for x in jax.tree.leaves(eqx.filter(fitted.model, eqx.is_inexact_array))),
        "targets": {"stress": 0.0, "constants": TARGETS},
        "before": _listed(before),
        "after": _listed(after),
        "updates": int(fitted.step),
        "drawn": int(np.sum(fitted.history["drawn"])),
    }
    goals = judged(_goals(summary, seconds, command), config.preset)
    timing = {"seconds": seconds, "seconds_of_updates": of_updates}
    write_json(folder / "summary.json", {**summary, "timing": timing, "goals": goals})
    figures = draw(folder.path)
    told_of = lambda found: ", ".join(
        f"{name} {v:.2f} ± {e:.2f}"
        for name, v, e in zip(NAMES, found["constants"], found["constants_error"], strict=True)
    )
    print(
        f"Prior: {told_of(before)} GPa, largest stress {_largest(before):.2f} GPa.",
        f"Fitted: {told_of(after)} GPa, largest stress {_largest(after):.2f} GPa; wanted"
        f" {', '.join(f'{x:g}' for x in TARGETS)} and 0. {summary['parameters']} parameters, {fitted.step} updates of"
        f" which {summary['drawn']} drew samples.",
        told(goals, config.preset),
        f"How long: {seconds:.0f} s; {of_updates:.0f} s of updates.",
        f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)}).",
        sep="\n",
    )


def _largest(found: dict[str, Any]) -> float:
    return float(np.max(np.abs(found["stress"])))


def _listed(found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [float(x) for x in values] for name, values in found.items() if values.ndim == 1}


def _key(config: Config, stage: int) -> Any:
    return jax.random.fold_in(jax.random.key(config.seed), stage)


def _sampler(c: Config) -> rv.LangevinBAOAB:
    return rv.LangevinBAOAB(TEMPERATURE, c.friction, dt=c.dt, num_steps=c.interval, batch=c.batch)


def loss_of(found: dict[str, Array]) -> Float[Array, ""]:
    """The original's: 5e-8 of the mean square of the stress and 1e-10 of that of what the constants are off by, both in
    kJ/mol/nm³."""
    s, wanted = found["stress"], jnp.asarray(TARGETS, found["constants"].dtype)
    of_stress = (jnp.sum(s[:3] ** 2) + 2 * jnp.sum(s[3:] ** 2)) / 9
    return GPA**2 * (5e-8 * of_stress + 1e-10 * jnp.mean((found["constants"] - wanted) ** 2))


def _fit(c: Config, folder: Folder, diamond: Diamond, network: AngleNetwork, chains: rv.State) -> rv.FitState:
    def loss(network, samples):
        found = elasticity(diamond, network, samples)
        value = loss_of(found)
        return value, {"loss": value, **found}

    rate = optax.exponential_decay(c.rate, c.updates, c.final_rate / c.rate)
    return descended(
        loss,
        diamond.system,
        Redrawn(diamond.sampler, c.samples, c.equilibration, c.least, c.uses),
        network,
        optax.adam(rate, b1=0.9, b2=0.99),
        chains,
        updates=c.updates,
        key=_key(c, 3),
        checkpoint=folder.checkpoint,
        history=folder / "history.jsonl",
        lines=lambda report: {name: np.asarray(x, float).round(6).tolist() for name, x in report.items()},
    )


def _goals(summary: dict[str, Any], seconds: float, command: Command) -> list[Goal]:
    # the original's 1 % and 0.1 GPa are for the size of the original
    share, stress = (1.0, 0.1) if command.config.preset == "paper" else (5.0, 1.0)
    after = summary["after"]
    off = [
        at_most(f"{name}, apart from its target, %", 100 * abs(v / wanted - 1), share, 100 * e / wanted)
        for name, v, e, wanted in zip(NAMES, after["constants"], after["constants_error"], TARGETS, strict=True)
    ]
    return [
        *off,
        at_most("largest component of the stress, GPa", _largest(after), stress, max(after["stress_error"])),
        in_time(seconds, 180 if command.config.preset == "paper" else 15, resumed=command.resume),
    ]
