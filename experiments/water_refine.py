"""Refine a neural potential of water until its infrared spectrum and its pressure agree with a target.

The spectrum is differentiated through trajectories in both directions of time, the pressure at the experimental density
by reweighting; both losses are reduced together (Han & Yu 2025, case 2 of the infrared section). The dipole surface is
held fixed. The result is judged by samples that no update saw, by the spectrum from long correlation times, and by what
was not fitted: diffusion and structure.

`--preset self` starts from a potential whose last layer is perturbed, and aims at the spectrum and pressure of the
unperturbed one, so that the best possible result is known. `quick` and `paper` aim at experiment.

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
import tyro

import reverlet as rv

from . import _processes, _refine, _run
from ._chains import Chains, arrays_of, states_of, watched
from ._errors import BadInput, refusing
from ._fields import Check, above_zero, at_least, nm, not_negative, ps, require
from ._measured_spectrum import Quantity, measured
from ._measured_water import read_rdfs
from ._neural_water import Grids, NeuralWater, load_moment, load_surface
from ._refine_targets import Aim
from ._trials import several
from ._water import packed, read_structure
from ._water_refine_fit import Updates, fit
from ._water_refine_start import experimental, perturbed, start_stage
from ._water_refine_summary import DIFFUSION, measured_of, summarize, told
from ._water_watch import memory_of, wanted_of, watch_of
from .pretrain_water import weights_of

Targets = Literal["density,ir", "density", "ir", "ir,diffusion"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(_refine.AbstractConfig):
    """Everything that makes a run what it is."""

    preset: Literal["self", "quick", "paper", "smoke"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Where all other defaults come from: self (two cores, a known answer), quick (two cores, experiment), paper (one
    GPU), smoke (no physics)."""
    targets: Targets
    """The targets that the potential is refined by."""
    waters: Annotated[int, above_zero(64)]
    """How many molecules, without --structure."""
    density: Annotated[float, above_zero(0.997)]
    """The density (g/cm³) at which the pressure should be that of the target, without --structure."""
    potential: Path | None
    """The potential to start from, an archive that `rv.EANN.from_npz` reads. None: the one that comes with the
    project."""
    cutoff: Annotated[float | None, nm(0.6)]
    """The cutoff of the potential, nm, which archives do not hold. None: that of the project's potential; 0.6 for
    others."""
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
    """The pressure to aim at, bar; not in `self`, which aims at that of the unperturbed potential."""
    diffusion: Annotated[float | None, above_zero(9)]
    """What a third of the integral of the velocity autocorrelation up to --reach is fitted to, 1e-9 m²/s, with
    --targets ir,diffusion; not in `self`, which aims at that of the unperturbed potential."""
    diffusion_scale: Annotated[float, above_zero(5)]
    """The difference that counts as much as a spectrum that is off by all its intensity, 1e-9 m²/s."""
    forgetting: Annotated[float, not_negative(0.1)]
    """Weight of the mean squared error of forces, relative to the mean square of these, on some of the labels that the
    potential was trained on; with --potential, on its own forces at the start. With --method newton an error of 4 %
    counts as one standard error. 0: none."""
    perturbation: Annotated[float, not_negative(0.12)]
    """Random changes to the last layer at the start, of a size that changes forces by this fraction (`self`). 0: no
    changes."""

    method: Literal["newton", "adam"]
    """How the potential is updated. newton: by Gauss–Newton steps along the combinations of parameters that change
    forces or motions most; adam: by Adam along the sum of the gradients, as in the original."""
    rate: Annotated[float, above_zero(5e-5)]
    """The learning rate of Adam, or the fraction of Newton's step that is taken."""
    longest: Annotated[float, above_zero(0.1)]
    """The largest fraction by which an update of --method newton may change what --combinations names."""
    directions: Annotated[int, at_least(1, 12)]
    """How many combinations of parameters --method newton fits."""
    combinations: Literal["forces", "motions"]
    """Which these are: those that change the forces on atoms most, which are mostly those within molecules; or what
    moves a molecule, turns it, stretches its bonds and bends it, each relative to its own size."""
    expected: Annotated[float, above_zero(0.05)]
    """How far the amount of the first combination is expected to be off, as the fraction by which it changes what
    --combinations names; those of others less, as the root of what they change."""
    blur: Annotated[float, not_negative(180)]
    """How broadly (1/cm) deviations of spectra are blurred in the first step of --method newton, so that it sees bands
    that are far off; 14 % less in each later step."""
    trainable: tuple[str, ...]
    """The parts of the potential that are fitted, by name, such as layers[1] last. Nothing: all parameters."""
    low_weight: Annotated[float, above_zero(10)]
    """The weight of wavenumbers below 1000 1/cm, relative to the others."""
    pressure_scale: Annotated[float, above_zero(3000)]
    """The error of the pressure (bar) that counts as much as a spectrum with a relative error of one."""

    correlation: Annotated[float, ps(0.1)]
    """Where the correlation function of the current is cut off in the loss, ps."""
    reach: Annotated[float, ps(0.1)]
    """How long trajectories run in each direction of time, ps: at least half of --correlation."""
    highest: Annotated[float, above_zero(4000)]
    """Where the spectra end, 1/cm."""
    spacing: Annotated[float, above_zero(10)]
    """The spacing of wavenumbers, 1/cm."""
    frames: Annotated[int, at_least(1, 16)]
    """Samples of every chain for the pressure, per update."""
    starts: Annotated[int, at_least(1, 4)]
    """How many of these samples trajectories begin from that tell --method newton how far spectrum and diffusion are
    off; derivatives are those of one."""
    nvt: Annotated[float, ps(10)]
    """The length of the q-SPC/Fw chain that all others start from, ps: the first half equilibrates it, and the others
    start along the second."""
    validation: Annotated[float, ps(0.5)]
    """Where correlation functions end in evaluations, ps; the Gaussian window is a third as wide, and trajectories are
    twice as long."""
    watch: Annotated[int, not_negative(10)]
    """How often, in updates, the potential is kept, to be evaluated after the fit: this shows what happens to
    properties that are not fitted. 0: never."""
    watch_every: Annotated[int, not_negative(5)]
    """How often, in updates, diffusion, structure and the dielectric constant are measured from the samples of the
    update. 0: never."""
    rdf: Path | None
    """Measured g(r) to compare with, as in `validate_water`. None: that of the target, where it is known."""
    stop: Literal["last", "diffusion"]
    """Which potential is judged: the last; or, of the last and those that --watch keeps, the one with the diffusion
    coefficient nearest the target's or experiment's, to which nothing is fitted (the rule of the original)."""
    average: Annotated[int, Check(lambda x: x >= 1, "1 or more", 5)]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Over about how many last updates the parameters that are judged are averaged (exponentially)."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("structure", "potential", "dipole", "hyperparameters", "spectrum", "rdf"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise BadInput(f"--{name} is {path}, which is not there; wanted a file.")
        for name in ("correlation", "validation", "reach"):
            self.require_frames(name, getattr(self, name))
        fine = self.correlation <= 2 * self.reach * (1 + 1e-9)
        require(fine, "correlation", self.correlation, "at most twice --reach, the length of a trajectory", self.reach)
        steps = self.interval / self.frames / self.dt
        fine = abs(steps - round(steps)) < 1e-6 and round(steps) >= 1
        require(fine, "interval", self.interval, "a multiple of --frames time steps", self.frames * self.dt * 25)
        fine = self.frames % self.starts == 0
        require(fine, "starts", self.starts, f"a divisor of --frames, which is {self.frames}", 1)
        fine = self.perturbation > 0 if self.preset == "self" else True
        require(fine, "perturbation", self.perturbation, "a number above zero, to start somewhere else", 0.12)
        if self.stop == "diffusion" and not self.watch:
            raise BadInput(
                "--stop diffusion came with --watch 0, which keeps no surface to choose from; wanted --watch 10."
            )
        fits = "diffusion" in self.targets.split(",")
        if fits and self.stop == "diffusion":
            raise BadInput("--stop diffusion came with --targets ir,diffusion, which fits it; wanted --stop last.")
        if fits and self.diffusion is None and not self.perturbation:
            raise BadInput(
                "--targets ir,diffusion came without --diffusion; wanted a third of the integral of the velocity"
                f" correlation up to {self.reach:g} ps, in 1e-9 m²/s, such as that of another model. The measured"
                " 2.3 is that of the integral to the end, which is another number."
            )
        if self.diffusion is not None and (self.perturbation or not fits):
            raise BadInput(
                f"--diffusion is {self.diffusion:g}, and nothing is fitted to it; wanted --targets ir,diffusion in a"
                " preset that aims at experiment."
            )


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
    diffusion=None,
    diffusion_scale=5.0,
    forgetting=0.0,
    perturbation=0.12,
    gradient="dynamical",
    updates=12,
    method="newton",
    rate=1.0,
    longest=0.1,
    directions=16,
    combinations="forces",
    expected=0.05,
    blur=180.0,
    trainable=("last",),
    final_rate=1.0,
    momentum=0.0,
    watch=0,
    watch_every=0,
    rdf=None,
    stop="last",
    average=2,
    low_weight=1.0,
    pressure_scale=3000.0,
    trajectories=8,
    time_step=1.0,
    save_every=4,
    correlation=0.16,
    reach=0.1,
    highest=4000.0,
    spacing=10.0,
    friction=5.0,
    interval=1.0,
    frames=20,
    starts=10,
    nvt=10.0,
    equilibration=1.0,
    validation=0.5,
    reference_samples=64,
    final_samples=64,
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
        updates=8,
        directions=8,
        combinations="motions",
        expected=0.2,
        longest=0.15,
        watch_every=4,
        time_step=0.5,
        correlation=0.1,
        reach=0.05,
        highest=4500.0,
        interval=0.5,
        frames=20,
        starts=4,
        final_samples=16,
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
        momentum=0.9,
        updates=100,
        watch=20,
        watch_every=10,
        stop="diffusion",
        average=20,
        trajectories=320,
        time_step=0.5,
        highest=4500.0,
        correlation=0.2,
        reach=0.2,
        interval=0.2,
        frames=16,
        starts=1,
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
        directions=3,
        combinations="motions",
        watch=1,
        watch_every=2,
        forgetting=0.1,
        stop="diffusion",
        average=1,
        trajectories=2,
        time_step=0.5,
        correlation=0.004,
        reach=0.004,
        spacing=100.0,
        interval=0.004,
        frames=2,
        starts=2,
        nvt=0.04,
        equilibration=0.004,
        validation=0.004,
        reference_samples=2,
        final_samples=2,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(_refine.AbstractCommand):
    """Refine a neural potential of water until its infrared spectrum and its pressure agree with a target.

    Defaults are those of the preset. Length is in nm, time in ps (time steps in fs), energy in kJ/mol, temperature
    in K, pressure in bar, wavenumbers in 1/cm. Writes eann.npz, the refined surface.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    trials: Annotated[int, at_least(1, 5)] = 1
    """How many runs, each with the next --seed and in a folder of its own in --out."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("water_refine", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with five lines on the standard output."""
    if command.trials > 1:
        return several("water_refine", command, run)
    started = time.perf_counter()
    config = command.config
    mesh = _processes.mesh_for(command, config.trajectories, cores=True)
    keys = [jax.random.fold_in(jax.random.key(config.seed), stage) for stage in range(8)]
    with refusing():
        state = read_structure(config.structure) if config.structure else packed(config.waters, config.density, keys[0])
        water, surface = liquid(config, state, mesh)
        reference = None if config.perturbation else measured(config.spectrum, config.quantity)
        rdfs = None if config.rdf is None else read_rdfs(config.rdf)
    surface = _processes.on_all(surface, mesh)
    folder = _refine.open_folder("water_refine", command)
    chains_of = lambda arrays: _processes.on_all(states_of(arrays, state.box), mesh)
    chains = chains_of(folder.array_stage("start.npz", lambda: start_stage(config, water, state, keys[2])))
    start = _processes.on_all(perturbed(surface, config.perturbation, chains, keys[1]), mesh)

    def evaluated(potential, chains, samples, key, when):
        keys, sampling = jax.random.split(key), water.sampling
        with watched(folder / "blown_up.extxyz", sampling.topology, chains, f"measuring {when}"):
            chains = sampling.equilibrate(potential, chains, config.equilibration, keys[0], f"equilibrating {when}")
            return {**arrays_of(chains), **water.evaluate(potential, chains, samples, keys[1], when)}

    if reference is None:
        compute = lambda: evaluated(surface, chains, config.reference_samples, keys[3], "the target")
    else:
        compute = lambda: experimental(water, reference, config.pressure)
    target = folder.array_stage("reference.npz", compute)
    aim = aim_of(config, target)
    before = folder.array_stage("before.npz", lambda: evaluated(start, chains, config.final_samples, keys[4], "before"))
    watch = watch_of(config.watch_every, water, target, rdfs)
    remembered = _processes.on_all(memory_of(config, start), mesh)
    fitted = fit(config, water, aim, start, chains_of(before), chains, folder, keys[5], watch, remembered)
    last, surface_after = fitted.carry.chains, eqx.combine(averaged(config, fitted), start)
    final = folder.array_stage(
        _refine.FINAL, lambda: evaluated(surface_after, last, config.final_samples, keys[6], "after")
    )
    seen = [Seen(config.updates, surface_after, final)]
    for update, arrays in fitted.carry.kept.surfaces().items():
        if update < config.updates:
            of, key = eqx.combine(arrays, start), jax.random.fold_in(keys[7], update)
            compute = lambda of=of, key=key: evaluated(of, last, config.final_samples, key, "what was watched")
            seen.append(Seen(update, of, folder.array_stage(f"watched-{update}.npz", compute)))
    chosen = chosen_of(config, seen, target)
    surface_after, final = chosen.surface, chosen.arrays
    if not _processes.leads():
        return
    write_surface(folder / "eann.npz", surface_after)
    history = Updates().lines(fitted.history)
    moved = how_far(start, surface_after)
    summary = summarize(config, aim, len(state.positions) // 3, history, moved, target, before, final)
    summary |= {"chosen": chosen.update, "watched": {s.update: measured_of(s.arrays) for s in seen}}
    summary["wanted_diffusion"] = DIFFUSION * wanted_diffusion(target)
    summary["wanted_along"] = wanted_of(water, target)
    _refine.close(command, folder, told(config, summary), started)


# ---- the liquid


def liquid(config: Config, state: rv.State, mesh: jax.sharding.Mesh | None) -> tuple[NeuralWater, rv.EANN]:
    """Water in the box of a state, which is checked, and the surface of the files."""
    topology = rv.qspcfw(len(state.positions) // 3, state.box).topology
    surface = load_surface(config.potential, topology, config.cutoff)
    moment = load_moment(config.dipole, config.hyperparameters, topology, state.positions)
    # a CPU is fastest with one liquid at a time
    batch = 1 if jax.default_backend() == "cpu" else None
    sampling = Chains(topology, config.temperature, config.friction, config.dt, config.interval, mesh, batch)
    lengths = config.correlation, config.validation, config.reach, config.frames
    grids = Grids(config.save_every, config.highest, config.spacing, *lengths)
    water = NeuralWater(sampling, state.box, moment, grids)
    water.system(surface).check(state)
    return water, surface


def how_far(start: rv.EANN, end: rv.EANN) -> dict[str, float]:
    """How far each array of a surface has moved, over its size at the start: both as root mean squares."""
    arrays = lambda model: jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_inexact_array))
    rms = lambda x: float(jnp.sqrt(jnp.mean(x**2)))
    pairs = zip(arrays(start), arrays(end), strict=True)
    return {jax.tree_util.keystr(at)[1:]: rms(b - a) / (rms(a) or 1.0) for (at, a), (_, b) in pairs}


def averaged(config: Config, fitted: rv.FitState) -> Any:
    """The exponential mean of the parameters, those after the last update included."""
    last = eqx.filter(fitted.model, eqx.is_inexact_array)
    return jax.tree.map(lambda m, x: m + (x - m) / config.average, fitted.carry.mean, last)


def write_surface(path: Path, surface: rv.EANN) -> None:
    """As `rv.EANN.from_npz` reads it."""
    np.savez(path, **weights_of(surface, 0.0))  # pyright: ignore[reportArgumentType]


# ---- stages


def aim_of(config: Config, target: dict[str, np.ndarray]) -> Aim:
    """What the target stage has of spectrum and pressure."""
    spectrum, pressure = target["low"].astype(float).mean((0, 1)), float(target["pressure"].mean())
    diffusion = None
    if "diffusion" in config.targets.split(","):
        known = target["diffusion_cut"].mean() if config.diffusion is None else config.diffusion / DIFFUSION
        diffusion = float(known)
    scale = config.diffusion_scale / DIFFUSION
    return Aim(spectrum, config.low_weight, pressure, config.pressure_scale, diffusion, scale)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A surface after an `update`, and what was measured of it."""

    update: int
    surface: rv.EANN
    arrays: dict[str, np.ndarray]


def wanted_diffusion(target: dict[str, np.ndarray]) -> float:
    """nm²/ps: the target's, or that of experiment (Holz, Heil, Sacco 2000, at 298.15 K)."""
    return float(target["diffusion"].mean()) if "diffusion" in target else 2.299e-3


def chosen_of(config: Config, seen: list[Seen], target: dict[str, np.ndarray]) -> Seen:
    """The last, which comes first, or that whose diffusion is nearest the target's or experiment's."""
    if config.stop == "last":
        return seen[0]
    return min(seen, key=lambda s: abs(s.arrays["diffusion"].mean() - wanted_diffusion(target)))
