"""Refine a foundation potential by the Raman line of diamond, through trajectories.

With published weights of Nequix the two sublattices of diamond vibrate against each other at 1213 1/cm at 300 K;
experiment has 1332.5. That one number is fitted: trajectories of the cell of two atoms are differentiated with respect
to low-rank adapters of
the network's matrices. What else the potential knows is watched but not fitted: vibrations at the zone boundary, and
energies, forces and stresses of eight crystals, compared with those of the published weights.

Many parameters are fitted to one number, so each step is the shortest that should bring the number nearer by a given
part of what is missing: rate (ν* - ν) g/|g|², with the gradient g of ν.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tqdm import tqdm

import reverlet as rv

from . import _run
from ._chains import Chains, arrays_of, states_of
from ._crystals import (
    AbstractFoundation,
    Cell,
    Crystal,
    Line,
    Nequix,
    StandIn,
    doubled_diamond,
    face_centered,
    graphene,
    hessian,
    labels,
    neighbors,
    rocksalt,
    vibrations_of_diamond,
    zincblende,
)
from ._errors import BadInput
from ._fields import Check, above_zero, at_least, check_fields, not_negative, ps, require, step_fs
from ._folder import Folder, History, digest, free_folder, write_json
from ._goals import Goal, at_most, in_time, judged, told
from ._processes import mesh_for, on_all
from ._refine_foundation_figures import draw

EDGE = 0.35668
"""nm, of diamond's cubic cell at 300 K."""
TEMPERATURE = 300.0
"""The temperature, K."""
RAMAN = 1332.5
"""1/cm, of diamond at 300 K: S. A. Solin and A. K. Ramdas, Phys. Rev. B 1, 1687 (1970)."""
BOUNDARY = {"TA(X)": 807.0, "TO(X)": 1072.0, "L(X)": 1184.0}
"""1/cm, by neutrons: J. L. Warren et al., Phys. Rev. 158, 805 (1967)."""
OTHERS = {
    "diamond": zincblende(EDGE, "C", "C"),
    "graphene": graphene(0.2462),
    "SiC": zincblende(0.43596, "Si", "C"),
    "Si": zincblende(0.54310, "Si", "Si"),
    "Ge": zincblende(0.56579, "Ge", "Ge"),
    "MgO": rocksalt(0.42112, "Mg", "O"),
    "NaCl": rocksalt(0.56402, "Na", "Cl"),
    "Al": face_centered(0.40496, "Al"),
}
"""At their experimental lattice constants at 300 K. The first is what is refined, the second its other form."""
STRAINS = (0.0, -0.03, 0.0, 0.03)
"""Of the configurations of every crystal; in the first, atoms are at their sites."""
SHAKEN = 0.01
"""nm, of every coordinate in the other configurations."""
GPA = 1e4 * rv.units.BAR


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, half an hour), paper (one GPU), smoke (no weights)."""
    seed: Annotated[int, not_negative(0)] = 0
    """The seed of all random numbers."""
    weights: Path | None = None
    """The file with the weights of a model of the package `nequix`; required except for smoke runs."""
    target: Annotated[float, above_zero(RAMAN)] = RAMAN
    """The wavenumber that the line should have, 1/cm."""
    rank: Annotated[int, at_least(1, 4)] = 4
    """The rank of the adapters."""
    gradient: Literal["total", "dynamical"] = "total"
    """What to descend along: through trajectories and ensemble, or through the trajectories alone."""
    updates: Annotated[int, at_least(1, 4)] = 4
    """How many updates."""
    rate: Annotated[float, Check(lambda x: 0 < x <= 1, "more than 0, at most 1", 0.7)] = 0.7
    """The part of the way to the target that the first step should go."""
    final_rate: Annotated[float, Check(lambda x: 0 < x <= 1, "more than 0, at most 1", 0.3)] = 0.3
    """Steps fall to this part of it, along a cosine."""
    trajectories: Annotated[int, at_least(2, 2, "since errors are told from the scatter of them")] = 2
    """How many trajectories per update, each from a chain of its own."""
    batch: Annotated[int, at_least(1, 1)] = 1
    """How many trajectories to run at a time, on each device."""
    time_step: Annotated[float, step_fs(1)] = 1.0
    """The time step of chains and trajectories, fs."""
    steps: Annotated[int, at_least(4, 24)] = 24
    """Time steps of a trajectory."""
    lag: Annotated[int, at_least(1, 6)] = 6
    """The time τ of the formula for the line, in time steps: about a quarter of a period."""
    check_steps: Annotated[int, at_least(4, 60)] = 60
    """Time steps of the trajectories before and after the fit."""
    check_samples: Annotated[int, at_least(2, 2)] = 2
    """How many trajectories there are before and after the fit."""
    friction: Annotated[float, above_zero(50)] = 50.0
    """The friction of the Langevin chains, 1/ps."""
    interval: Annotated[float, ps(0.1)] = 0.02
    """How long the chains run between updates, ps."""
    equilibration: Annotated[float, ps(0.1, zero=True)] = 0.02
    """How long the chains run before the first measurement, ps."""

    def __post_init__(self):
        check_fields(self)
        require(2 * self.lag < min(self.steps, self.check_steps), "lag", self.lag, "less than half of --steps", 6)

    @property
    def dt(self) -> float:
        """ps."""
        return self.time_step * rv.units.FEMTOSECOND


PRESETS = {
    "quick": Config(),
    "paper": Config(
        preset="paper", updates=20, trajectories=32, batch=32, steps=100, check_steps=2000, check_samples=64,
        equilibration=0.5, interval=0.1,
    ),
    "smoke": Config(
        preset="smoke", rank=2, updates=2, rate=1e-3, steps=16, check_steps=32, check_samples=2, interval=2e-3,
        equilibration=4e-3,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Refine a foundation potential by the Raman line of diamond.

    Writes before.npz and after.npz, the line before and after the fit; history.jsonl; crystals.json, predictions for
    other crystals and the zone boundary, before and after; the refined weights, in the file format of the published
    ones (refined.nqx; refined.npz for a smoke run); and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/refine_foundation, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""
    devices: str | None = None
    """Spread the trajectories over this many devices, or "all". None: one."""
    distributed: str | None = None
    """Run in several processes, one command each: "auto" under SLURM or Open MPI, otherwise HOST:PORT,ID,COUNT."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("refine_foundation", PRESETS, Command, arguments)))


# ---- the run


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began, config = time.perf_counter(), command.config
    mesh = mesh_for(command, config.trajectories)
    cell = OTHERS["diamond"]
    start = adapted(config, cell.crystal(load(config, cell.elements)))
    described = {"experiment": "refine_foundation", **dataclasses.asdict(config)}
    if config.weights is not None:
        described |= {"weights": str(config.weights), "weights_sha256": digest(config.weights)}
    folder = Folder(command.out or free_folder(Path("results/refine_foundation")), described, resume=command.resume)
    sampling = Chains(cell.topology, TEMPERATURE, config.friction, config.dt, config.interval, mesh)
    measure = lambda potential, stage: measured(config, sampling, cell, potential, _key(config, stage))
    before = folder.array_stage("before.npz", lambda: measure(start, 1))
    chains = states_of(before, cell.box)
    fitted = fit(config, folder, sampling, start, chains).model
    after = folder.array_stage("after.npz", lambda: measure(fitted, 2))
    refined = fitted.adapted.merged().model
    if not (folder / (name := f"refined.{'npz' if config.weights is None else 'nqx'}")).exists():
        refined.write(folder / name)
    crystals = folder.json_stage("crystals.json", lambda: compared(start.adapted.model.model, refined))
    history = History(folder / "history.jsonl")
    of_updates = sum(s for s in history.seconds.values() if s is not None)
    summary: dict[str, Any] = {
        "target": config.target,
        "boundary": BOUNDARY,
        "adapters": sum(x.size for x in jax.tree.leaves(start.adapted.adapters)),
        "weights": sum(x.size for x in jax.tree.leaves(eqx.filter(refined, eqx.is_inexact_array))),
        "moved": moved(start.adapted.model.model, refined),
        "before": {name: float(before[name]) for name in ("line", "line_error")},
        "after": {name: float(after[name]) for name in ("line", "line_error")},
        "crystals": crystals,
    }

    def write() -> tuple[list[dict[str, Any]], float]:
        seconds = time.perf_counter() - began
        goals = judged(_goals(summary, seconds, command), config.preset)
        timing = {"seconds": seconds, "seconds_of_updates": of_updates}
        write_json(folder / "summary.json", {**summary, "timing": timing, "goals": goals})
        return goals, seconds

    write()  # which the figures are drawn from
    figures = draw(folder.path)
    goals, seconds = write()
    first, last = summary["before"], summary["after"]
    worst = max((c["forces"] for n, c in crystals["of"].items() if n not in ("diamond", "graphene")), default=0.0)
    print(
        f"Line: {first['line']:.0f} ± {first['line_error']:.0f} before, {last['line']:.0f} ± {last['line_error']:.0f}"
        f" 1/cm after; wanted {config.target:g}. By {summary['adapters']} numbers of adapters of {summary['weights']}"
        f" weights, which moved by {100 * summary['moved']:.2f} %.",
        "Not fitted, 1/cm: "
        + "; ".join(
            f"{name} {crystals['before'][name]:.0f} → {crystals['after'][name]:.0f}, wanted {wanted:g}"
            for name, wanted in BOUNDARY.items()
        )
        + ".",
        f"Forgotten: forces of crystals of other elements off by at most {100 * worst:.1f} % of their size.",
        told(goals, config.preset),
        f"How long: {seconds:.0f} s; {of_updates:.0f} s of {len(history.seconds)} updates.",
        f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)}).",
        sep="\n",
    )


STAGES = ("before", "after")


def _key(config: Config, stage: int) -> Any:
    return jax.random.fold_in(jax.random.key(config.seed), stage)


def load(config: Config, elements: tuple[str, ...]) -> AbstractFoundation:
    """The potential of the weights, or what stands in for it."""
    if config.weights is not None:
        return Nequix.load(config.weights, elements)
    if config.preset != "smoke":
        raise BadInput(
            "--weights is missing; wanted the weights of a Nequix model, such as nequix-oam-1-pft.nqx from the"
            " repository of the package `nequix` (docs/a-foundation-potential.md). Only --preset smoke needs none."
        )
    return StandIn.fresh(elements, _key(config, 5))


def adapted(config: Config, crystal: Crystal) -> rv.AdaptedPotential:
    """The crystal with adapters of the matrices of its network."""
    return rv.AdaptedPotential(rv.low_rank(crystal, config.rank, key=_key(config, 0)))  # pyright: ignore


def measured(
    c: Config, sampling: Chains, cell: Cell, potential: rv.AdaptedPotential, key: Any
) -> dict[str, np.ndarray]:
    """The line and its standard error (1/cm), what was recorded (samples, frames, 3), and chains that have forgotten
    their sites (nm, nm/ps)."""
    keys, line = jax.random.split(key, 3), Line(c.lag)  # pyright: ignore[reportCallIssue]
    dynamics = rv.Dynamics(c.dt, c.check_steps, 1, batch=c.batch, mesh=sampling.mesh)
    chains = sampling.with_new_velocities(cell.state.repeat(c.trajectories), keys[0])
    chains = sampling.equilibrate(potential, chains, c.equilibration, keys[1], "equilibrating")
    of_round = lambda system, samples: rv.expectation(line, system, samples, dynamics=dynamics)
    found = sampling.measure(potential, chains, c.check_samples, keys[2], "measuring", eqx.filter_jit(of_round))
    records = jnp.asarray(found.records.reshape(-1, *found.records.shape[2:]))
    alone = jax.vmap(lambda r: line.reduce(found.times[0], r[None], jnp.ones(1, r.dtype)))(records)
    value = line.reduce(found.times[0], records, jnp.full(len(records), 1 / len(records), records.dtype))
    arrays = {"line": value, "line_error": jnp.std(alone, ddof=1) / len(alone) ** 0.5, "records": records}
    return {name: np.asarray(x) for name, x in {**arrays, "times": found.times[0], **arrays_of(chains)}.items()}


def fit(c: Config, folder: Folder, sampling: Chains, start: rv.AdaptedPotential, chains: rv.State) -> rv.FitState:
    """Steps the adapters; the carry is the chains."""
    line = Line(c.lag)  # pyright: ignore[reportCallIssue]
    dynamics = rv.Dynamics(c.dt, c.steps, 1, batch=c.batch, mesh=sampling.mesh)

    def loss_fn(model, chains, key):
        # all of this is measured, not traced: its derivative is put in by `linearize`
        fixed = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, model)
        samples, chains = sampling.draw(fixed, chains, key)
        system = rv.System(sampling.topology, fixed)
        estimate, parts = rv.expectation_gradients(line, system, samples, dynamics=dynamics)
        gradient = (parts.total if c.gradient == "total" else parts.dynamical).potential
        off = estimate.value - c.target
        square = sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient))
        # the whole way to the target, were the line linear in the parameters
        value = rv.linearize(off**2, jax.tree.map(lambda g: off * g / square, gradient), model)
        report = {"line": estimate.value, "line_error": estimate.error, "slope": jnp.sqrt(square)}
        return value, (chains, report)

    history, name = History(folder / "history.jsonl"), "adapted.adapters"
    optimizer = optax.sgd(optax.cosine_decay_schedule(c.rate, c.updates, c.final_rate))
    bar = tqdm(total=c.updates, desc="update", unit="", file=sys.stderr)

    def lines(state: rv.FitState) -> list[dict[str, Any]]:
        if state.history is None:
            return []
        columns = {name: np.asarray(x, float).tolist() for name, x in state.history.items()}
        return [{"update": k + 1, **{n: x[k] for n, x in columns.items()}} for k in range(state.step)]

    def note(state: rv.FitState) -> None:
        history.tick(state.step)
        history.write(lines(state))
        bar.initial = bar.initial or state.step - 1
        bar.set_postfix_str(f"line {lines(state)[-1]['line']:.0f} 1/cm", refresh=False)
        bar.update(state.step - bar.n)

    with bar:
        fitted = rv.fit(
            loss_fn, on_all(start, sampling.mesh), optimizer, num_steps=c.updates, key=_key(c, 3),
            carry=on_all(chains, sampling.mesh), trainable=name, callback=note, checkpoint=folder.checkpoint,
            resume="auto",
        )  # fmt: skip
    history.write(lines(fitted))
    return fitted


# ---- what else the potential knows


def compared(before: AbstractFoundation, after: AbstractFoundation) -> dict[str, Any]:
    """What both say of the crystals (see `changes`), and of diamond's harmonic vibrations, 1/cm."""
    frames = {name: configurations(cell, k) for k, (name, cell) in enumerate(OTHERS.items())}
    room = max(len(j) for cells in frames.values() for c, _ in cells for j in neighbors(c, before.cutoff + 0.03)[0])
    of: dict[str, Any] = {}
    for name, configured in frames.items():
        told_by = [
            [tuple(np.asarray(x, float) for x in labels(cell.crystal(m, room), state)) for cell, state in configured]
            for m in (before, after)
        ]
        of[name] = changes(*told_by)
    cell, vibrations = doubled_diamond(EDGE), {}
    for name, model in zip(STAGES, (before, after), strict=True):
        found = vibrations_of_diamond(hessian(cell.crystal(model), cell))
        vibrations[name] = {mode: float(np.mean(x)) for mode, x in found.items()}
    return {"of": of, **vibrations}


def configurations(cell: Cell, seed: int) -> list[tuple[Cell, rv.State]]:
    """The crystal at its sites, and strained and shaken."""
    draw, found = np.random.default_rng(seed), []
    for k, strain in enumerate(STRAINS):
        scaled = cell.scaled(1 + strain)
        away = SHAKEN * draw.standard_normal(cell.sites.shape) if k else np.zeros_like(cell.sites)
        x = jnp.asarray(scaled.sites + away, jnp.float32)
        found.append((scaled, rv.State(x, jnp.zeros_like(x), scaled.box)))
    return found


def changes(before: list[Any], after: list[Any]) -> dict[str, float]:
    """How much the labels of a crystal's configurations changed: `energy` per atom of the first (kJ/mol), `relative`
    energies of the others to it (kJ/mol per atom, root mean square), and those before; `forces` over their size;
    `stress` (GPa) and its size; and `pressure`, of the first, before and after (GPa)."""
    energy, forces, stress = (np.stack(x) for x in zip(*before, strict=True))
    energy2, forces2, stress2 = (np.stack(x) for x in zip(*after, strict=True))
    rms, atoms = lambda x: float(np.sqrt(np.mean(x**2))), forces.shape[1]
    relative = lambda e: (e[1:] - e[0]) / atoms
    pressure = lambda s: float(-np.trace(s[0]) / 3 / GPA)
    return {
        "energy": float((energy2[0] - energy[0]) / atoms),
        "energy_before": float(energy[0] / atoms),
        "relative": rms(relative(energy2) - relative(energy)),
        "relative_before": rms(relative(energy)),
        "forces": rms(forces2 - forces) / rms(forces),
        "stress": rms(stress2 - stress) / GPA,
        "stress_before": rms(stress) / GPA,
        "pressure_before": pressure(stress),
        "pressure_after": pressure(stress2),
    }


def moved(before: AbstractFoundation, after: AbstractFoundation) -> float:
    """How far all weights moved together, over their size."""
    arrays = lambda model: jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    size = lambda xs: float(np.sqrt(sum(float(jnp.sum(x**2)) for x in xs)))
    return size([b - a for a, b in zip(arrays(before), arrays(after), strict=True)]) / size(arrays(before))


def _goals(summary: dict[str, Any], seconds: float, command: Command) -> list[Goal]:
    after, of = summary["after"], summary["crystals"]["of"]
    off = abs(after["line"] / summary["target"] - 1)
    boundary = summary["boundary"].items()
    mean_off = lambda stage: statistics.fmean(abs(summary["crystals"][stage][n] / x - 1) for n, x in boundary)
    return [
        at_most("line, apart from its target, %", 100 * off, 1, 100 * after["line_error"] / summary["target"]),
        at_most(
            "mean distance of vibrations at X from experiment, of that before",
            mean_off("after") / mean_off("before"),
            1,
        ),
        *(
            at_most(f"forces of {name}, changed by, %", 100 * of[name]["forces"], 5)
            for name in of
            if name not in ("diamond", "graphene")
        ),
        in_time(seconds, 30, resumed=command.resume),
    ]
