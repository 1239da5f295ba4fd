"""Recover a force field of water from its infrared spectrum.

The charge of hydrogen, the size of oxygen and the stiffness of bonds and angle of q-SPC/Fw water are perturbed; the
target is the spectrum of the unperturbed model, with its correlation function cut off at a short time. Trajectories at
constant energy run from samples in both directions of time and are differentiated, and the parameters are stepped until
the spectra agree (Han & Yu 2025, case 1 of the infrared section). The result is judged by the spectrum from long
correlation times, which was not fitted.

Where this differs from the original: many chains run at once, each with one sample per update, and go on from where the
last update left them; velocities are drawn anew for each trajectory; the loss has no bias from the noise of the
spectrum;
the logarithms of the parameters are optimized, so that learning rates are relative; and the parameters reported are the
mean of the last updates, measured once more by an independent evaluation.

Single precision: trajectories as short as those of the loss are walked back well within the noise of the gradient, in
less time. The check against finite differences is in double precision.

Velocities at full steps of 0.5 fs are used throughout, for the target, too: the stretching band lies 17 cm⁻¹ too high
and has 3 % less intensity than with infinitely short steps.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import PRNGKeyArray

import reverlet as rv

from . import _processes, _refine, _run
from ._chains import Chains, arrays_of, states_of
from ._errors import refusing
from ._fields import above_zero, at_least, nm, not_negative, ps, require
from ._folder import Folder
from ._water import FIELDS, NAMES, Grids, Water, by_name, packed, read_structure, spectral_loss, with_values
from ._water_check import gradient_check
from ._water_summary import FITS, mean_parameters, summarize, told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(_refine.AbstractConfig):
    """Everything that makes a run what it is."""

    waters: Annotated[int, above_zero(32)]
    """How many molecules, without --structure."""
    density: Annotated[float, above_zero(1.008)]
    """The density, g/cm³, without --structure."""

    fits: Literal["pair", "all", "both"]
    """Fit charge and sigma with bonds and angle as in the target (pair), all four parameters (all), or one after the
    other."""
    charge: Annotated[float, above_zero(0.45)]
    """The initial charge of hydrogen, e; the target has 0.42."""
    sigma: Annotated[float, nm(0.33)]
    """The initial σ of oxygen, nm; the target has 0.3165."""
    bond: Annotated[float, above_zero(478_000)]
    """The initial stiffness of bonds, kJ/mol/nm²; the target has 443 153."""
    angle: Annotated[float, above_zero(343)]
    """The initial stiffness of the angle, kJ/mol/rad²; the target has 317.6."""
    charge_rate: Annotated[float, not_negative(0.004)]
    """The learning rate of the charge, relative: the logarithms of the parameters are optimized."""
    sigma_rate: Annotated[float, not_negative(0.003)]
    """The relative learning rate of σ."""
    bond_rate: Annotated[float, not_negative(0.004)]
    """The relative learning rate of the stiffness of bonds."""
    angle_rate: Annotated[float, not_negative(0.004)]
    """The relative learning rate of the stiffness of the angle."""

    correlation: Annotated[float, ps(0.1)]
    """Where correlation functions are cut off in the loss, ps, and how long trajectories run in each direction of
    time."""
    highest: Annotated[float, above_zero(5000)]
    """Where the spectra end, 1/cm."""
    spacing: Annotated[float, above_zero(10)]
    """The spacing of wavenumbers, 1/cm."""
    nvt: Annotated[float, ps(64)]
    """The length of the chain that all others start from, ps; it equilibrates for a quarter as long before."""
    validation: Annotated[float, ps(1)]
    """Where correlation functions end in evaluations, ps; the Gaussian window is a third as wide, and trajectories are
    twice as long. As many trajectories are measured before the fit as after it."""
    check: tuple[float, ...]
    """Correlation times at which the gradient is checked against finite differences, ps. Empty: no check."""
    check_trajectories: Annotated[int, at_least(2, 2, "since only products of different ones have no bias")]
    """How many trajectories that check takes."""

    def __post_init__(self):
        super().__post_init__()
        aliased = 0.01 * rv.units.METER / (2 * rv.units.SPEED_OF_LIGHT * self.frame)
        fine = self.highest <= aliased
        require(fine, "highest", self.highest, f"what frames {self.frame:g} ps apart resolve, at most", aliased)
        for name in ("correlation", "validation", "check"):
            for length in np.atleast_1d(getattr(self, name)):
                self.require_frames(name, float(length))
        fine = max(self.check, default=0) <= self.validation
        require(fine, "check", self.check, "at most --validation", self.validation)
        shortest = self.trajectories * self.interval
        fine = self.nvt >= shortest * (1 - 1e-9)
        require(fine, "nvt", self.nvt, "at least an interval for every trajectory", shortest)


QUICK = Config(
    preset="quick",
    seed=0,
    structure=None,
    waters=32,
    density=1.008,
    temperature=298.15,
    fits="all",
    charge=0.45,
    sigma=0.33,
    bond=478_000.0,
    angle=343.0,
    gradient="dynamical",
    updates=50,
    charge_rate=0.004,
    sigma_rate=0.003,
    bond_rate=0.004,
    angle_rate=0.004,
    final_rate=0.1,
    momentum=0.7,
    average=12,
    trajectories=32,
    time_step=0.5,
    save_every=4,
    correlation=0.1,
    highest=5000.0,
    spacing=10.0,
    friction=1.0,
    interval=0.1,
    nvt=64.0,
    equilibration=2.0,
    validation=1.0,
    reference_samples=128,
    final_samples=64,
    check=(0.05, 0.1, 0.2, 0.3, 0.5),
    check_trajectories=2,
)


PRESETS = {
    "quick": QUICK,
    "paper": dataclasses.replace(
        QUICK,
        preset="paper",
        waters=64,
        fits="both",
        updates=100,
        average=20,
        trajectories=320,
        correlation=0.2,
        interval=0.2,
        equilibration=10.0,
        validation=2.0,
        reference_samples=960,
        final_samples=640,
        check=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        check_trajectories=8,
    ),
    "smoke": dataclasses.replace(
        QUICK,
        preset="smoke",
        waters=8,
        updates=2,
        average=1,
        trajectories=2,
        correlation=0.008,
        spacing=100.0,
        interval=0.01,
        nvt=0.04,
        equilibration=0.02,
        validation=0.016,
        reference_samples=4,
        final_samples=2,
        check=(),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(_refine.AbstractCommand):
    """Recover the charge, size and stiffness of water from its infrared spectrum.

    Defaults are those of the preset. Length is in nm, time in ps (time steps in fs), energy in kJ/mol, temperature
    in K, charge in e, wavenumbers in 1/cm.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    trajectory: Path | None = None
    """Write a trajectory of 1 ps with the final parameters to this file, in the format of its suffix (.extxyz, .pdb,
    .dcd, .h5)."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("water_ir", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with five lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    mesh = _processes.mesh_for(command, config.trajectories, cores=True)
    keys = [jax.random.fold_in(jax.random.key(config.seed), stage) for stage in range(8)]
    with refusing():
        if config.structure:
            state = read_structure(config.structure)
        else:
            state = packed(config.waters, config.density, keys[0])
        water = liquid(config, state, mesh)
    folder = _refine.open_folder("water_ir", command)

    chains_of = lambda arrays: _processes.on_all(states_of(arrays, state.box), mesh)
    chains = chains_of(folder.array_stage("start.npz", lambda: start_stage(config, water, state, keys[1])))
    reference = lambda: water.evaluate(water.target, chains, config.reference_samples, keys[2], "reference")
    target = folder.array_stage("reference.npz", reference)
    aim = Spectrum(observable=spectral_loss(water.low, target["low"].mean((0, 1))), water=water)
    fitted = {}
    if config.fits != "all":
        fitted["pair"] = fit(config, water, aim, "pair", chains, folder, keys[3])
    first = first_parameters(config, water, "pair" if config.fits == "pair" else "all")
    evaluate = lambda *arguments: evaluation_stage(config, water, *arguments)
    before = folder.array_stage("before.npz", lambda: evaluate(first, chains, keys[4], "before the fit"))
    if config.fits != "pair":
        fitted["all"] = fit(config, water, aim, "all", chains_of(before), folder, keys[5])
    last = fitted["pair" if config.fits == "pair" else "all"]
    best = with_values(water.target, mean_parameters(aim.lines(last.history)[-config.average :]))
    final = folder.array_stage(_refine.FINAL, lambda: evaluate(best, last.carry, keys[6], "after the fit"))
    check = {}
    if config.check:
        some = jax.tree.map(lambda x: x[: config.check_trajectories], chains_of(before))
        compute = lambda: gradient_check(water, first, some, target["check"], keys[7])
        check = folder.array_stage("check.npz", compute)

    if not _processes.leads():
        return
    if command.trajectory is not None:
        write_trajectory(water, best, last.carry, command.trajectory)
    values = lambda model: {n: float(x) for n, x in by_name(model).items()}
    fits = {n: (values(first_parameters(config, water, n)), aim.lines(f.history)) for n, f in fitted.items()}
    runs = {"target": target, "before": before, "final": final}
    summary = summarize(config, len(state.positions) // 3, values(water.target), fits, runs, check)
    _refine.close(command, folder, told(config, summary), started)


# ---- the liquid


def liquid(config: Config, state: rv.State, mesh: jax.sharding.Mesh | None) -> Water:
    """q-SPC/Fw water in the box of a state, which is checked."""
    topology = rv.qspcfw(len(state.positions) // 3, state.box).topology
    sampling = Chains(topology, config.temperature, config.friction, config.dt, config.interval, mesh)
    lengths = config.correlation, config.validation, config.check
    water = Water(sampling, state.box, Grids(config.save_every, config.highest, config.spacing, *lengths))
    water.system(water.target).check(state)
    return water


def first_parameters(config: Config, water: Water, name: str) -> rv.WaterModel:
    """The model that a fit starts from."""
    return with_values(water.target, {n: getattr(config, n) for n in FITS[name]})


# ---- stages


def start_stage(config: Config, water: Water, state: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """Chains that start from points along a long one with the target's parameters."""
    keys = jax.random.split(key, 4)
    single = dataclasses.replace(water.sampling, mesh=None)
    one = single.with_new_velocities(state.repeat(1), keys[0])
    potential = water.system(water.target).potential
    one = single.equilibrate(potential, one, config.nvt / 4, keys[1], "equilibrating")
    parts, count = [], config.trajectories
    for k in range(count):
        label, part_key = f"start {k + 1} of {count}", jax.random.fold_in(keys[2], k)
        one = single.equilibrate(potential, one, config.nvt / count, part_key, label)
        parts.append(one)
    states = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    return arrays_of(water.sampling.with_new_velocities(states, keys[3]))


def evaluation_stage(
    config: Config, water: Water, model: rv.WaterModel, chains: rv.State, key: PRNGKeyArray, when: str
) -> dict[str, np.ndarray]:
    """Chains equilibrated with a model, and spectra from them: an evaluation independent of the fit."""
    keys, potential = jax.random.split(key), water.system(model).potential
    chains = water.sampling.equilibrate(potential, chains, config.equilibration, keys[0], f"equilibrating {when}")
    return {**arrays_of(chains), **water.evaluate(model, chains, config.final_samples, keys[1], when)}


class Spectrum(_refine.AbstractTarget):
    """The spectrum of the reference, cut off as in the loss."""

    observable: rv.SquaredDistance
    water: Water = eqx.field(static=True)
    columns: ClassVar[tuple[str, ...]] = (*NAMES, "loss", "loss_error", "dynamical", "thermodynamic")

    def potential(self, model):
        return self.water.system(model).potential

    def loss(self, value):
        return value

    def report(self, model, estimate, parts):
        _, pull = eqx.filter_vjp(self.potential, model)

        def relative(tree):  # an error goes the same way: every parameter is in one place
            slopes = by_name(pull(tree.potential)[0])
            return {name: slopes[name] * value for name, value in by_name(model).items()}

        errors = {f"{n}_error": x for n, x in relative(parts.thermodynamic_error).items()}
        return {
            **by_name(model),
            "loss": estimate.value,
            "loss_error": estimate.error,
            "dynamical": relative(parts.dynamical),  # the error of a square's is not known in reverse mode
            "thermodynamic": {**relative(parts.thermodynamic), **errors},
        }

    def show(self, line):
        return f"loss {line['loss']:.2e}, " + ", ".join(f"{n} {line[n]:.4g}" for n in NAMES)

    def check(self, state):
        """Nothing to refuse: logarithms are stepped."""


def fit(
    config: Config, water: Water, aim: Spectrum, name: str, chains: rv.State, folder: Folder, key: PRNGKeyArray
) -> rv.FitState:
    """Steps the parameters that the fit `name` is free to move."""
    suffix = "" if name == "all" else f"-{name}"
    files = folder / f"checkpoint{suffix}.eqx", folder / f"history{suffix}.jsonl"
    rates = [(lambda m, n=n: getattr(m, FIELDS[n]), getattr(config, f"{n}_rate")) for n in FITS[name]]
    start, positive = first_parameters(config, water, name), lambda m: tuple(by_name(m).values())
    arguments = water.sampling, water.dynamics, start, rates, chains, key, *files
    return _refine.fit(aim, config, *arguments, positive=positive, accept_changes=folder.changed)


def write_trajectory(water: Water, model: rv.WaterModel, chains: rv.State, path: Path) -> None:
    """Writes 1 ps of the first chain at constant energy."""
    system, state = water.system(model), jax.tree.map(lambda x: x[0], chains)
    trajectory = rv.nve(system, state, dt=water.sampling.dt, num_steps=2000, save_every=4)
    rv.io.write(path, system.topology, trajectory)
