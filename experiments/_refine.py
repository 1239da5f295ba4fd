"""What the experiments that refine a liquid share: flags, how a run begins and ends, and the fit.

Such an experiment measures its liquid along trajectories at constant energy, differentiates what it measured through
them and through the ensemble, steps the parameters, and repeats. What is its own is the liquid, the target (an
`AbstractTarget`), its stages before and after the fit, and its figures.
"""

import abc
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import equinox as eqx
import jax
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm import tqdm

import reverlet as rv

from ._chains import Chains
from ._errors import BadInput
from ._fields import Check, above_zero, at_least, check_fields, not_negative, ps, require_frames, step_fs
from ._folder import Folder, History, digest, free_folder, write_json
from ._goals import Goal, in_time, judged, told
from ._processes import leads, on_all

# ---- flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractConfig:
    """Everything that makes a run what it is. Presets have all values: a field has no default of its own."""

    preset: Literal["quick", "paper", "smoke"]
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds, no physics)."""
    seed: Annotated[int, not_negative(0)]
    """The seed of all random numbers: the same seed on the same machine gives the same results."""
    structure: Path | None
    """Start from the liquid in this file (PDB or extxyz, with a periodic box) instead of one made by the experiment."""
    temperature: Annotated[float, above_zero(100)]
    """The temperature, K."""

    gradient: Literal["total", "dynamical"]
    """What to descend along: through trajectories and ensemble, or through the trajectories alone."""
    updates: Annotated[int, at_least(1, 40)]
    """How many updates each fit makes."""
    final_rate: Annotated[float, Check(lambda x: 0 < x <= 1, "more than 0, at most 1", 0.3)]
    """Learning rates fall to this fraction of their first value, along a cosine. 1: they stay constant."""
    momentum: Annotated[float, Check(lambda x: 0 <= x < 1, "zero or more, less than 1", 0.7)]
    """Adam's first decay rate: at the usual 0.9, paths overshoot and return slowly."""
    average: Annotated[int, at_least(1, 20)]
    """The final parameters are made from the mean over this many last updates."""

    trajectories: Annotated[int, at_least(2, 64, "since errors are told from the scatter of them")]
    """How many trajectories per update, each from a chain of its own; all run as one batch."""
    time_step: Annotated[float, step_fs(1)]
    """The time step of chains and trajectories, fs."""
    save_every: Annotated[int, at_least(1, 2)]
    """Time steps between two recorded points."""
    friction: Annotated[float, not_negative(1)]
    """The friction of the Langevin chains, 1/ps."""
    interval: Annotated[float, ps(1)]
    """How long the chains run between updates (and between samples in evaluations), ps."""
    equilibration: Annotated[float, ps(10, zero=True)]
    """How long the chains run with new parameters before they are measured, ps."""
    reference_samples: Annotated[int, at_least(1, 64)]
    """Trajectories of the reference simulation."""
    final_samples: Annotated[int, at_least(1, 64)]
    """Trajectories of the evaluation of the final parameters."""

    def __post_init__(self):
        check_fields(self)

    @property
    def dt(self) -> float:
        """ps."""
        return self.time_step * rv.units.FEMTOSECOND

    @property
    def frame(self) -> float:
        """The time between two recorded points, ps."""
        return self.dt * self.save_every

    def frames(self, duration: float) -> int:
        """How many frames are so many ps."""
        return round(duration / self.dt / self.save_every)

    def require_frames(self, name: str, length: float) -> None:
        """Refuses a length of time (ps) in the field `name` that is not a whole number of frames."""
        require_frames(name, getattr(self, name), length, self.frame)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractCommand:
    """Where a run goes and what it runs on: nothing here changes its results except in their last digits."""

    config: Annotated[AbstractConfig, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/ and the experiment's name, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""
    accept_changes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --resume, before the fit has ended: go on with other learning rates or momentum, as after an explosion. What
    changed is kept in config.json and the checkpoint; later resumes take the new values."""
    devices: str | None = None
    """Spread the trajectories over this many devices of each process, or "all". None: one, or all if distributed; in
    water_ir all cores of a CPU."""
    distributed: str | None = None
    """Run in several processes, one command each: "auto" under SLURM or Open MPI, otherwise HOST:PORT,ID,COUNT."""


# ---- how a run begins and ends


def open_folder(name: str, command: AbstractCommand) -> Folder:
    """The output folder of a run of the experiment `name`."""
    config = command.config
    described = dataclasses.asdict(config)
    for field, value in dataclasses.asdict(config).items():
        if isinstance(value, Path):
            described |= {field: str(value), f"{field}_sha256": digest(value)}
    out = command.out or free_folder(Path("results") / name)
    if command.accept_changes and not command.resume:
        raise BadInput("--accept-changes is given without --resume; wanted a run to go on with.")
    if command.accept_changes and (out / FINAL).exists():
        raise BadInput(
            f"The fit in {out} has ended; wanted one to go on with by other rates. Leave --accept-changes out."
        )
    rates = [k for k in described if k.endswith("rate") or k == "momentum"] if command.accept_changes else []
    return Folder(out, {"experiment": name, **described}, resume=command.resume, changeable=rates)


FINAL = "final.npz"
"""The first stage after the fit."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What there is to tell of a run.

    **Arguments:** `summary`, all numbers but timing and goals, the same for a run left alone and one that was resumed;
    `goals`; `minutes`, how long a `quick` run may take on two cores; the closing lines: `fitted`, what to what; from
    where to where the parameters `moved`; how `well`; `trajectories`, of what kind; `draw`, which draws the figures
    into a folder and returns their files.
    """

    summary: dict[str, Any]
    goals: Sequence[Goal]
    minutes: float
    fitted: str
    moved: str
    well: str
    trajectories: str
    draw: Callable[[Path], list[Path]]


def close(command: AbstractCommand, folder: Folder, outcome: Outcome, started: float) -> None:
    """Writes `summary.json`, draws the figures, and prints the five closing lines."""
    config = command.config
    seconds_of = History(folder / "history.jsonl").seconds or History(folder / "history-pair.jsonl").seconds
    of_updates = sum(s for s in seconds_of.values() if s is not None)

    def write() -> tuple[float, list[dict[str, Any]]]:
        seconds = time.perf_counter() - started
        goals = judged([*outcome.goals, *_in_time(command, outcome, seconds)], config.preset)
        timing = {"seconds": seconds, "seconds_of_updates": of_updates}
        write_json(folder / "summary.json", {**outcome.summary, "timing": timing, "goals": goals})
        return seconds, goals

    write()  # which the figures are drawn from
    figures = outcome.draw(folder.path)
    seconds, goals = write()
    devices = ", ".join(sorted({d.device_kind for d in jax.devices()}))
    print(
        f"Fitted: {outcome.fitted}, by the {config.gradient} gradient.",
        f"From, to: {outcome.moved}",
        f"How well: {outcome.well} {told(goals, config.preset)}",
        f"How long: {seconds:.0f} s; {of_updates:.0f} s of updates, {len(seconds_of)} with {config.trajectories}"
        f" trajectories {outcome.trajectories}, on {devices}.",
        f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)}).",
        sep="\n",
    )


def _in_time(command: AbstractCommand, outcome: Outcome, seconds: float) -> list[Goal]:
    """The goal for the time of a run, except with `paper`."""
    if command.config.preset == "paper":
        return []
    return [in_time(seconds, outcome.minutes, resumed=command.resume)]


# ---- the fit


class AbstractTarget(eqx.Module):
    """What a fit is after: the observable whose gradient is followed, and how it makes a loss of parameters."""

    observable: eqx.AbstractVar[rv.AbstractObservable]
    columns: ClassVar[tuple[str, ...]]
    """What `report` has, in the order of a line of the history."""

    @abc.abstractmethod
    def potential(self, model: Any) -> rv.AbstractPotential:
        """With the parameters of the model."""

    @abc.abstractmethod
    def loss(self, value: Float[Array, ""]) -> Float[Array, ""]:
        """Of the observable's value."""

    @abc.abstractmethod
    def report(self, model: Any, estimate: rv.Estimate, parts: rv.Gradients) -> dict[str, Any]:
        """What is written of an update."""

    @abc.abstractmethod
    def show(self, line: dict[str, Any]) -> str:
        """What stands beside the progress bar after an update."""

    @abc.abstractmethod
    def check(self, state: rv.FitState) -> None:
        """Raises `SimulationError` for parameters that no update can go on from."""

    def lines(self, history: Any) -> list[dict[str, Any]]:
        """The history of a fit as one record per update."""
        return [{name: line[name] for name in ("update", *self.columns)} for line in lines_of(history)]


def lines_of(history: Any) -> list[dict[str, Any]]:
    """All that a history of numbers has, as one record per update."""
    if history is None:
        return []
    pick = lambda k: jax.tree.map(lambda h: float(h[k]), history)
    return [{"update": k + 1, **pick(k)} for k in range(len(history["loss"]))]


def fit(
    target: AbstractTarget,
    config: AbstractConfig,
    sampling: Chains,
    dynamics: rv.Dynamics,
    model: Any,
    rates: Any,
    chains: rv.State,
    key: PRNGKeyArray,
    checkpoint: Path,
    history: Path,
    *,
    positive: Callable[[Any], Any] | None = None,
    accept_changes: bool = False,
) -> rv.FitState:
    """Steps the model by Adam, going on from the checkpoint if there is one; writes the checkpoint, and a line of
    `history` for every update. Of an update that no other can go on from, the checkpoint is taken back.

    **Arguments:** `rates`, as for `rv.per_parameter`; `positive` and `accept_changes`, as for `rv.fit`.
    """

    def loss_fn(model, chains, key):
        # all of this is measured, not traced: its derivative is put in by `linearize`
        measured = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, model)
        potential = target.potential(measured)
        samples, chains = sampling.draw(potential, chains, key)
        system = rv.System(sampling.topology, potential)
        estimate, parts = rv.expectation_gradients(target.observable, system, samples, dynamics=dynamics)
        gradient = parts.total if config.gradient == "total" else parts.dynamical
        value = rv.linearize(estimate.value, gradient.potential, target.potential(model))
        return target.loss(value), (chains, target.report(measured, estimate, parts))

    schedule = lambda rate: optax.cosine_decay_schedule(rate, config.updates, config.final_rate)
    optimizer = rv.per_parameter(lambda rate: optax.adam(schedule(rate), b1=config.momentum), rates)
    files = Files(checkpoint, history, accept_changes)
    return descend(loss_fn, target, config, sampling.mesh, optimizer, model, chains, key, files, positive=positive)


@dataclasses.dataclass(frozen=True)
class Files:
    """Where a fit goes on from, if there is something, and what it writes after every update."""

    checkpoint: Path
    history: Path
    accept_changes: bool = False


class Told(Protocol):
    """What a fit says of its updates."""

    def lines(self, history: Any) -> list[dict[str, Any]]:
        """The history of a fit as one record per update."""
        ...

    def show(self, line: dict[str, Any]) -> str:
        """What stands beside the progress bar after an update."""
        ...

    def check(self, state: rv.FitState) -> None:
        """Raises `SimulationError` for parameters that no update can go on from."""
        ...


def descend(
    loss_fn: Callable[..., Any],
    told_by: Told,
    config: AbstractConfig,
    mesh: jax.sharding.Mesh | None,
    optimizer: optax.GradientTransformation,
    model: Any,
    carry: Any,
    key: PRNGKeyArray,
    files: Files,
    *,
    positive: Callable[[Any], Any] | None = None,
    trainable: Any = None,
) -> rv.FitState:
    """As `rv.fit` does, with a checkpoint, a line of the history and a step of a progress bar for every update."""
    # where updates leave it: elsewhere, it would compile the update twice
    placed = lambda params: on_all(optimizer.init(params), mesh)
    file = History(files.history)
    bar = tqdm(total=config.updates, desc="update", unit="", file=sys.stderr, disable=not leads())

    def note(state: rv.FitState) -> None:
        file.tick(state.step)
        written = told_by.lines(state.history)
        file.write(written)
        if leads():
            bar.initial = bar.initial or state.step - 1
        bar.set_postfix_str(told_by.show(written[-1]), refresh=False)
        bar.update(state.step - bar.n)
        try:
            told_by.check(state)
        except rv.SimulationError:
            file.write(written[:-1])
            if leads():
                try:  # in one step, so that a kill leaves one of them
                    os.replace(files.checkpoint.with_name(f"{files.checkpoint.name}.previous"), files.checkpoint)
                except FileNotFoundError:  # of the first update
                    files.checkpoint.unlink()
            raise

    with bar:
        fitted = rv.fit(
            loss_fn,
            on_all(model, mesh),
            optax.GradientTransformation(placed, optimizer.update),
            num_steps=config.updates,
            key=key,
            carry=on_all(carry, mesh),
            positive=positive,
            trainable=trainable,
            callback=note,
            checkpoint=files.checkpoint,
            resume="auto",
            accept_changes=files.accept_changes,
        )
    file.write(told_by.lines(fitted.history))
    return fitted
