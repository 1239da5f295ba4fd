"""Refine a neural potential of water until its infrared spectrum and its pressure agree with a target.

The spectrum is differentiated through trajectories into both directions of time, the pressure at the experimental
volume by reweighting; both losses are descended along together (Han & Yu 2025, case 2 of the infrared section). The
dipole surface is held fixed. What is found is judged by samples that no update saw, by the spectrum at long times, and
by what was not fitted: diffusion and structure.

`--preset self` starts from a surface whose last layer is perturbed, and aims at the spectrum and pressure of the
surface itself: so one knows what a fit can reach. `quick` and `paper` aim at experiment.

Where this differs from the original: instead of the density in a box that breathes, the pressure in one that does not,
which needs no barostat; a loss without the bias of noise; chains that go on from update to update; and an exponential
mean over the last updates is what is judged.
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
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray, PyTree

import reverlet as rv

from . import _processes, _refine, _run
from ._chains import Chains, arrays_of, states_of
from ._errors import BadInput, refusing
from ._fields import Check, above_zero, at_least, not_negative, require
from ._folder import Folder
from ._measured_spectrum import Quantity, measured
from ._neural_water import Grids, NeuralWater, all_whole, load_moment, load_surface
from ._refine_targets import Aim, cosine, pressure_part, size_and_noise, smallest_step, spectrum_part
from ._water import cutoff_in, packed, read_structure
from ._water_refine_summary import summarize, told
from .pretrain_water import weights_of

Targets = Literal["density,ir", "density", "ir"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(_refine.AbstractConfig):
    """Everything that makes a run what it is."""

    preset: Literal["self", "quick", "paper", "smoke"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Where all other defaults come from: self (two cores, a known answer), quick (two cores, experiment), paper (one
    GPU), smoke (no physics)."""
    targets: Targets
    """What the surface is refined by."""
    waters: Annotated[int, above_zero(64)]
    """How many molecules, without --structure."""
    density: Annotated[float, above_zero(0.997)]
    """g/cm³, without --structure; where the pressure shall be that of the target."""
    potential: Path | None
    """The surface to start from, an archive as `rv.EANN.from_npz` reads it. None: the one that comes with the
    project."""
    cutoff: Annotated[float | None, above_zero(0.6)]
    """Of the surface, nm, which archives do not tell. None: that of the project's surface, 0.6 of others."""
    dipole: Path | None
    """The dipole surface, held fixed: what `pretrain_water` writes, or the archive of a published model. None: the one
    that comes with the project."""
    hyperparameters: Path | None
    """The JSON file beside the archive of a published dipole model."""
    spectrum: Path | None
    """The spectrum to aim at, two columns: wavenumber (1/cm) and --quantity. None: that of Segelstein (1981)."""
    quantity: Quantity
    """What the second column is: n·α (1/cm) or ε″."""
    pressure: float
    """The pressure to aim at, bar; in `self`, that of the surface is."""
    perturbation: Annotated[float, not_negative(0.15)]
    """How much every number of the last layer is off at the start, relative (`self`). 0: not at all."""

    method: Literal["smallest", "adam"]
    """How the surface is stepped. smallest: by the least change that to first order takes every loss to zero; adam: by
    Adam, along the sum of the gradients, as in the original."""
    rate: Annotated[float, above_zero(5e-5)]
    """The learning rate of Adam, or the part of the least change that is gone."""
    longest: Annotated[float, above_zero(0.05)]
    """The norm of an update of --method smallest is at most this."""
    trainable: tuple[str, ...]
    """What of the surface is fitted, by name, such as layers[1] last. Nothing: all parameters."""
    low_weight: Annotated[float, above_zero(10)]
    """How much more wavenumbers below 1000 1/cm weigh."""
    pressure_scale: Annotated[float, above_zero(3000)]
    """bar: off by so much counts as much as a spectrum that is off by all its intensity."""

    correlation: Annotated[float, above_zero(0.1)]
    """Where correlation functions are cut in the loss, ps, and how long trajectories run into each direction."""
    highest: Annotated[float, above_zero(4000)]
    """The spectra end here, 1/cm."""
    spacing: Annotated[float, above_zero(10)]
    """Of the wavenumbers, 1/cm."""
    frames: Annotated[int, at_least(1, 16)]
    """Samples of every chain for the pressure, per update."""
    nvt: Annotated[float, above_zero(10)]
    """A chain of q-SPC/Fw water that all others start from, ps: half to equilibrate it, half from the first start to
    the last."""
    validation: Annotated[float, above_zero(0.5)]
    """Where correlation functions of the evaluations end, ps, in a Gaussian window of a third of it; their trajectories
    are twice as long."""
    average: Annotated[int, Check(lambda x: x >= 1, "1 or more", 5)]  # pyright: ignore[reportIncompatibleVariableOverride]
    """The parameters that are judged are an exponential mean over about so many updates."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("structure", "potential", "dipole", "hyperparameters", "spectrum"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise BadInput(f"--{name} is {path}, which is not there; wanted a file.")
        for name in ("correlation", "validation"):
            self.require_frames(name, getattr(self, name))
        steps = self.interval / self.frames / self.dt
        fine = abs(steps - round(steps)) < 1e-6 and round(steps) >= 1
        require(fine, "interval", self.interval, "a multiple of --frames time steps", self.frames * self.dt * 25)
        fine = self.perturbation > 0 if self.preset == "self" else True
        require(fine, "perturbation", self.perturbation, "a number above zero, to start somewhere else", 0.15)


SELF = Config(
    preset="self",
    seed=0,
    structure=None,
    temperature=298.15,
    targets="density,ir",
    waters=32,
    density=0.997,
    potential=None,
    cutoff=None,
    dipole=None,
    hyperparameters=None,
    spectrum=None,
    quantity="n_alpha",
    pressure=1.0,
    perturbation=0.3,
    gradient="dynamical",
    updates=10,
    method="smallest",
    rate=0.8,
    longest=0.05,
    trainable=("layers[1]", "last"),
    final_rate=0.3,
    momentum=0.0,
    average=3,
    low_weight=1.0,
    pressure_scale=3000.0,
    trajectories=8,
    time_step=0.5,
    save_every=4,
    correlation=0.1,
    highest=4500.0,
    spacing=10.0,
    friction=5.0,
    interval=0.3,
    frames=24,
    nvt=10.0,
    equilibration=1.0,
    validation=0.5,
    reference_samples=32,
    final_samples=16,
)


PRESETS = {
    "self": SELF,
    "quick": dataclasses.replace(
        SELF,
        preset="quick",
        waters=64,
        perturbation=0.0,
        trainable=(),
        low_weight=10.0,
    ),
    "paper": dataclasses.replace(
        SELF,
        preset="paper",
        waters=64,
        perturbation=0.0,
        trainable=(),
        low_weight=10.0,
        method="adam",
        rate=5e-5,
        final_rate=1.0,
        momentum=0.9,
        updates=100,
        average=20,
        trajectories=320,
        correlation=0.2,
        interval=0.2,
        frames=16,
        nvt=160.0,
        equilibration=5.0,
        validation=2.0,
        reference_samples=320,
        final_samples=320,
    ),
    "smoke": dataclasses.replace(
        SELF,
        preset="smoke",
        waters=32,
        updates=2,
        average=1,
        trajectories=2,
        correlation=0.004,
        spacing=100.0,
        interval=0.004,
        frames=2,
        nvt=0.04,
        equilibration=0.004,
        validation=0.004,
        reference_samples=2,
        final_samples=2,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(_refine.AbstractCommand):
    """Refine a neural potential of water by its infrared spectrum and its pressure.

    Defaults are those of the preset. Length is in nm, time in ps (time steps in fs), energy in kJ/mol, temperature
    in K, pressure in bar, wavenumbers in 1/cm. Writes eann.npz, the refined surface.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("water_refine", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with five lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    mesh = _processes.mesh_for(command, config.trajectories, cores=True)
    keys = [jax.random.fold_in(jax.random.key(config.seed), stage) for stage in range(8)]
    with refusing():
        state = read_structure(config.structure) if config.structure else packed(config.waters, config.density, keys[0])
        water, surface = liquid(config, state, mesh)
        reference = None if config.perturbation else measured(config.spectrum, config.quantity)
        start = perturbed(surface, config.perturbation, keys[1])
    surface, start = _processes.on_all((surface, start), mesh)
    folder = _refine.open_folder("water_refine", command)
    chains_of = lambda arrays: _processes.on_all(states_of(arrays, state.box), mesh)
    chains = chains_of(folder.array_stage("start.npz", lambda: start_stage(config, water, state, keys[2])))

    def evaluated(potential, chains, samples, key, when):
        keys = jax.random.split(key)
        chains = water.sampling.equilibrate(potential, chains, config.equilibration, keys[0], f"equilibrating {when}")
        return {**arrays_of(chains), **water.evaluate(potential, chains, samples, keys[1], when)}

    if reference is None:
        compute = lambda: evaluated(surface, chains, config.reference_samples, keys[3], "the target")
    else:
        compute = lambda: experimental(water, reference, config.pressure)
    target = folder.array_stage("reference.npz", compute)
    aim = aim_of(config, target)
    before = folder.array_stage("before.npz", lambda: evaluated(start, chains, config.final_samples, keys[4], "before"))
    fitted = fit(config, water, aim, start, chains_of(before), folder, keys[5])
    best, last = fitted.carry[1], fitted.carry[0]
    surface_after = eqx.combine(best, start)
    final = folder.array_stage(
        _refine.FINAL, lambda: evaluated(surface_after, last, config.final_samples, keys[6], "after")
    )
    if not _processes.leads():
        return
    write_surface(folder / "eann.npz", surface_after)
    history = _refine.lines_of(fitted.history)
    moved = how_far(start, surface_after)
    summary = summarize(config, aim, len(state.positions) // 3, history, moved, target, before, final)
    _refine.close(command, folder, told(config, summary), started)


# ---- the liquid


def liquid(config: Config, state: rv.State, mesh: jax.sharding.Mesh | None) -> tuple[NeuralWater, rv.EANN]:
    """Water in the box of a state, which is checked, and the surface of the files."""
    topology = rv.qspcfw(len(state.positions) // 3, state.box).topology
    surface = load_surface(config.potential, topology, config.cutoff)
    moment = load_moment(config.dipole, config.hyperparameters, topology, state.positions)
    sampling = Chains(topology, config.temperature, config.friction, config.dt, config.interval, mesh)
    lengths = config.correlation, config.validation, config.frames
    grids = Grids(config.save_every, config.highest, config.spacing, *lengths)
    water = NeuralWater(sampling, state.box, moment, grids)
    water.system(surface).check(state)
    return water, surface


def perturbed(surface: rv.EANN, size: float, key: PRNGKeyArray) -> rv.EANN:
    """The surface with every number of its last layer off by a normal deviate of this relative size."""
    leaves, tree = jax.tree.flatten(surface.last)
    keys = jax.random.split(key, len(leaves))
    moved = [x * (1 + size * jax.random.normal(k, x.shape, x.dtype)) for x, k in zip(leaves, keys, strict=True)]
    return eqx.tree_at(lambda model: model.last, surface, jax.tree.unflatten(tree, moved))


def how_far(start: rv.EANN, end: rv.EANN) -> dict[str, float]:
    """How far each array of a surface has moved, over its size at the start: both as root mean squares."""
    arrays = lambda model: jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_inexact_array))
    rms = lambda x: float(jnp.sqrt(jnp.mean(x**2)))
    pairs = zip(arrays(start), arrays(end), strict=True)
    return {jax.tree_util.keystr(at)[1:]: rms(b - a) / (rms(a) or 1.0) for (at, a), (_, b) in pairs}


def write_surface(path: Path, surface: rv.EANN) -> None:
    """As `rv.EANN.from_npz` reads it."""
    np.savez(path, **weights_of(surface, 0.0))  # pyright: ignore[reportArgumentType]


# ---- stages


def start_stage(config: Config, water: NeuralWater, state: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """Chains from one long one of q-SPC/Fw water, which costs little."""
    keys = jax.random.split(key, 3)
    single = dataclasses.replace(water.sampling, mesh=None, interval=min(0.1, config.nvt / 4))
    potential = rv.qspcfw(len(state.positions) // 3, state.box, cutoff=cutoff_in(state.box)).potential
    one = single.with_new_velocities(state.repeat(1), keys[0])
    one = single.equilibrate(potential, one, config.nvt / 2, keys[1], "equilibrating")
    parts = []
    for k in range(config.trajectories):
        part_key = jax.random.fold_in(keys[2], k)
        one = single.equilibrate(potential, one, config.nvt / 2 / config.trajectories, part_key, f"start {k + 1}")
        parts.append(one)
    return arrays_of(jax.tree.map(lambda *x: jnp.concatenate(x), *parts))


def experimental(water: NeuralWater, reference: Any, pressure: float) -> dict[str, np.ndarray]:
    """The arrays of an evaluation, of experiment: one chain that has no noise."""
    nu = np.asarray(water.low.wavenumbers)
    grid = np.arange(max(1.0, np.ceil(reference.wavenumbers[0])), min(nu[-1], reference.wavenumbers[-1]) + 1e-9)
    cut = lambda s: np.asarray(s.filtered(grid, reference.at(grid), water.ensemble, step=water.frame))
    spectra = {"low": cut(water.low)[None, None], "full": cut(water.full)[None, None]}
    return {**spectra, "pressure": np.full((1, 1), pressure), "wavenumbers": nu}


def aim_of(config: Config, target: dict[str, np.ndarray]) -> Aim:
    """What the target stage has of spectrum and pressure."""
    spectrum, pressure = target["low"].astype(float).mean((0, 1)), float(target["pressure"].mean())
    return Aim(spectrum, config.low_weight, pressure, config.pressure_scale)


# ---- the fit


class Updates:
    """What is told of the updates."""

    def lines(self, history: Any) -> list[dict[str, Any]]:
        return _refine.lines_of(history)

    def show(self, line: dict[str, Any]) -> str:
        return ", ".join(f"{name} {line[name]:.3g}" for name in ("loss", "ir", "density") if name in line)

    def check(self, state: rv.FitState) -> None:
        whole = float(state.history["whole"][-1])
        if whole <= 0.5:
            raise rv.SimulationError(
                f"In update {state.step} of the fit, molecules came apart in {1 - whole:.0%} of the chains: a hydrogen"
                " is farther than 0.15 nm from its oxygen. Wanted liquid water: a smaller --rate, a shorter --interval,"
                " or a surface trained on more labels."
            )


def fit(
    config: Config, water: NeuralWater, aim: Aim, start: rv.EANN, chains: rv.State, folder: Folder, key: PRNGKeyArray
) -> rv.FitState:
    """Steps the surface. The carry is the chains, and the exponential mean of the parameters.

    A chain in which a molecule came apart begins again where the fit began.
    """
    names, n = config.targets.split(","), config.trajectories
    distance = aim.distance(water)
    arrays = lambda model: eqx.filter(model, eqx.is_inexact_array)
    first, unravel = chains, ravel_pytree(arrays(start))[1]

    def loss_fn(model, carry, key):
        # all of this is measured, not traced: its derivative is put in by `linearize`
        chains, mean = carry
        surface = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, model)
        frames, starts, chains = water.draw(surface, chains, key)
        system, parts = water.system(surface), {}
        if "ir" in names:
            parts["ir"] = spectrum_part(distance, water, system, starts, config.gradient)
        if "density" in names:
            parts["density"] = pressure_part(aim, system, frames, n)
        told_of = {name: size_and_noise(only(config.trainable, part.by_chain)) for name, part in parts.items()}
        whole = jax.vmap(lambda x: all_whole(water.sampling.topology, water.box, x))(chains.positions)
        back = lambda now, then: jnp.where(whole.reshape(-1, *[1] * (now.ndim - 1)), now, then)
        chains = jax.tree.map(back, chains, first)
        losses = {name: part.loss for name, part in parts.items()}
        report: dict[str, Any] = {
            "loss": sum(losses.values()),
            **losses,
            "norms": {name: t[0] for name, t in told_of.items()},
            "noises": {name: t[1] for name, t in told_of.items()},
            "whole": jnp.mean(whole.astype(starts.states.positions.dtype)),
        }
        if len(parts) == 2:
            report["cosine"] = cosine(told_of["ir"][2], told_of["density"][2])
        mean = jax.tree.map(lambda m, x: m + (x - m) / config.average, mean, arrays(surface))
        gradients = jnp.stack([t[2] for t in told_of.values()])
        adam = config.method == "adam"
        away = jnp.sum(gradients, axis=0) if adam else -smallest_step(jnp.stack([*losses.values()]), gradients)
        value = rv.linearize(report["loss"], unravel(away), model)
        return value, ((chains, mean), report)

    schedule = optax.cosine_decay_schedule(config.rate, config.updates, config.final_rate)
    by_sizes = optax.chain(optax.sgd(schedule), optax.clip_by_global_norm(config.longest))
    optimizer = optax.adam(schedule, b1=config.momentum) if config.method == "adam" else by_sizes
    files = _refine.Files(folder.checkpoint, folder / "history.jsonl", folder.changed)
    carry = (chains, arrays(start))
    mesh, trainable = water.sampling.mesh, list(config.trainable) or None
    return _refine.descend(loss_fn, Updates(), config, mesh, optimizer, start, carry, key, files, trainable=trainable)


def only(names: tuple[str, ...], by_chain: PyTree) -> PyTree:
    """Contributions to a gradient, with zeros where parameters are not of these names; all, where there are none."""
    keep = lambda path, x: x if not names or jax.tree_util.keystr(path)[1:].startswith(names) else jnp.zeros_like(x)
    return jax.tree_util.tree_map_with_path(keep, by_chain)
