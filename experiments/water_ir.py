"""Recover a force field of water from its infrared spectrum.

The charge of hydrogen, the size of oxygen and the stiffness of bonds and angle of q-SPC/Fw water are perturbed; the
target is the spectrum at the values of the model, cut at a short time of correlation. Trajectories at constant energy
run from samples into both directions of time, are differentiated, and the parameters stepped, until the spectra agree
(Han & Yu 2025, case 1 of the infrared section). What is found is judged by the spectrum at long times, which was not
fitted.

Where this differs from the original: many chains run at once, one sample each per update, and go on from where the last
update left them; velocities are drawn anew for each trajectory; the loss has no bias from the noise of the spectrum;
the logarithms of the parameters are optimized, so that learning rates are relative; and the parameters reported are the
mean of the last updates, measured once more by an independent evaluation.

Single precision: trajectories as short as those of the loss are walked back well within the noise of the gradient, in
less time. The check against finite differences is in double precision.

On-step velocities and steps of 0.5 fs are used throughout, for the target too: the line of the stretch lies 17 cm⁻¹ too
high and has 3 % less intensity than with infinitely short steps.
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
from jaxtyping import Array, Float, PRNGKeyArray

import reverlet as rv

from . import _processes, _run, _water, _water_figures
from ._chains import Chains, WithTemperature, bar
from ._errors import refusing, require
from ._folder import Folder, digest, free_folder, write_json

NAMES = ("charge", "sigma", "bond", "angle")
FITS = {"pair": ("charge", "sigma"), "all": NAMES}
"""What each fit is free to move; all else is as in the target."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that makes a run what it is. The defaults are those of `--preset quick`."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds, no physics)."""
    seed: int = 0
    """Of all random numbers: the same seed on the same machine gives the same numbers."""

    structure: Path | None = None
    """Start from this file (PDB or extxyz, water as O, H, H, with a periodic box) instead of a packed box."""
    waters: int = 32
    """How many molecules, without --structure."""
    density: float = 1.008
    """g/cm³, without --structure."""
    temperature: float = 298.15
    """K."""

    fits: Literal["pair", "all", "both"] = "all"
    """Fit charge and sigma with bonds and angle as in the target (pair), all four parameters (all), or one after the
    other."""
    charge: float = 0.45
    """Where the charge of hydrogen starts, e; the model has 0.42."""
    sigma: float = 0.33
    """Where σ of oxygen starts, nm; the model has 0.3165."""
    bond: float = 478_000.0
    """Where the stiffness of bonds starts, kJ/mol/nm²; the model has 443 153."""
    angle: float = 343.0
    """Where the stiffness of the angle starts, kJ/mol/rad²; the model has 317.6."""

    gradient: Literal["total", "dynamical"] = "dynamical"
    """What to descend along: through trajectories and ensemble, or through the trajectories alone."""
    updates: int = 50
    """How many steps of Adam, of each fit."""
    charge_rate: float = 0.004
    """The learning rate of the charge, relative: the logarithms of the parameters are optimized."""
    sigma_rate: float = 0.003
    """The relative learning rate of σ."""
    bond_rate: float = 0.004
    """The relative learning rate of the stiffness of bonds."""
    angle_rate: float = 0.004
    """The relative learning rate of the stiffness of the angle."""
    final_rate: float = 0.1
    """Learning rates fall to this part of their first value, along a cosine. 1: they stay."""
    momentum: float = 0.7
    """Adam's first decay rate."""
    average: int = 12
    """The final parameters are the (geometric) mean of this many last updates."""

    trajectories: int = 32
    """How many per update, each from a chain of its own; all run as one batch."""
    time_step: float = 0.5
    """Of chains and trajectories, fs."""
    save_every: int = 4
    """Time steps between two recorded points."""
    correlation: float = 0.1
    """Where correlation functions are cut in the loss, ps, and how long trajectories run into each direction."""
    highest: float = 5000.0
    """The spectra end here, 1/cm."""
    spacing: float = 10.0
    """Of the wavenumbers, 1/cm."""
    friction: float = 1.0
    """Of the Langevin chains, 1/ps."""
    interval: float = 0.1
    """How long the chains run between updates (and between samples), ps."""
    nvt: float = 64.0
    """The chain that all others start from is so long, ps; a quarter as long before."""
    equilibration: float = 2.0
    """How long the chains run with new parameters before they are measured, ps."""

    validation: float = 1.0
    """Where correlation functions of the evaluations end, ps, in a Gaussian window of a third of it; their trajectories
    are twice as long."""
    reference_samples: int = 128
    """Trajectories of the reference simulation."""
    final_samples: int = 64
    """Trajectories of the evaluations before and after the fit."""
    check: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    """Correlation times at which the gradient is checked against finite differences, ps. Empty: no check."""
    check_trajectories: int = 2
    """How many trajectories that is done with."""

    def __post_init__(self):
        def check(fine: bool, name: str, wanted: str, fits: Any = None) -> None:
            require(fine, name, getattr(self, name), wanted, Config.__dict__[name] if fits is None else fits)

        positive = ("waters", "density", "temperature", *NAMES, "time_step", "correlation", "highest", "spacing")
        for name in (*positive, "interval", "nvt", "validation"):
            check(getattr(self, name) > 0, name, "a number above zero")
        for name in ("friction", "equilibration", *(f"{n}_rate" for n in NAMES)):
            check(getattr(self, name) >= 0, name, "zero or more")
        for name in ("updates", "average", "save_every", "reference_samples", "final_samples"):
            check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("trajectories", "check_trajectories"):
            check(getattr(self, name) >= 2, name, "at least 2, since only products of different ones have no bias")
        check(0 < self.final_rate <= 1, "final_rate", "more than 0, at most 1")
        check(0 <= self.momentum < 1, "momentum", "zero or more, less than 1")
        check(self.seed >= 0, "seed", "zero or more")

        frame = self.dt * self.save_every
        aliased = 0.01 * rv.units.METER / (2 * rv.units.SPEED_OF_LIGHT * frame)
        check(self.highest <= aliased, "highest", f"what frames {frame:g} ps apart resolve, at most", aliased)
        for name in ("correlation", "validation", "check"):
            for length in np.atleast_1d(getattr(self, name)):
                points = length / frame
                fine = round(points) >= 1 and abs(points - round(points)) < 1e-6
                wanted = f"multiples of {frame:g} ps, which is save_every time steps"
                check(fine, name, wanted, max(1, round(points)) * frame)
        check(max(self.check, default=0) <= self.validation, "check", "at most --validation", self.validation)
        shortest = self.trajectories * self.interval
        check(self.nvt >= shortest * (1 - 1e-9), "nvt", "at least an interval for every trajectory", shortest)

    @property
    def dt(self) -> float:
        """ps."""
        return self.time_step * rv.units.FEMTOSECOND

    def frames(self, duration: float) -> int:
        """How many frames are so many ps."""
        return round(duration / self.dt / self.save_every)


PRESETS = {
    "quick": Config(),
    "paper": Config(
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
    "smoke": Config(
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


@dataclasses.dataclass(frozen=True)
class Command:
    """Recover the charge, size and stiffness of water from its infrared spectrum.

    Defaults are those of the preset. Length is in nm, time in ps (time steps in fs), energy in kJ/mol, temperature
    in K, charge in e, wavenumbers in 1/cm.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/water_ir, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""
    devices: str | None = None
    """Spread the trajectories over so many devices of each process, or "all". None: all cores of a CPU, or one GPU."""
    distributed: str | None = None
    """Run in several processes, one command each: "auto" under SLURM or Open MPI, otherwise HOST:PORT,ID,COUNT."""
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
            state = _water.read_structure(config.structure)
        else:
            state = _water.packed(config.waters, config.density, keys[0])
        water = Water(config, state.box, len(state.positions) // 3, mesh)
        rv.System(water.topology, water.target).check(state)

    described = {**dataclasses.asdict(config), "structure": config.structure and str(config.structure)}
    described["structure_sha256"] = config.structure and digest(config.structure)
    out = command.out or free_folder(Path("results/water_ir"))
    folder = Folder(out, {"experiment": "water_ir", **described}, resume=command.resume)

    chains_of = lambda a: _processes.on_all(
        jax.vmap(lambda x, v: rv.State(x, v, state.box))(a["positions"], a["velocities"]), mesh
    )
    chains = chains_of(folder.array_stage("start.npz", lambda: start_stage(water, state, keys[1])))
    target = folder.array_stage("reference.npz", lambda: reference_stage(water, chains, keys[2]))
    fitted = {}
    if config.fits != "all":
        files = folder / "checkpoint-pair.eqx", folder / "history-pair.jsonl"
        fitted["pair"] = fit(water, "pair", chains, target["low"].mean((0, 1)), *files, keys[3])
    first = water.first("pair" if config.fits == "pair" else "all")
    before = folder.array_stage("before.npz", lambda: before_stage(water, first, chains, keys[4]))
    if config.fits != "pair":
        files = folder.checkpoint, folder / "history.jsonl"
        fitted["all"] = fit(water, "all", chains_of(before), target["low"].mean((0, 1)), *files, keys[5])
    last = fitted["pair" if config.fits == "pair" else "all"]
    final_parameters = mean_parameters(report_lines(last.history)[-config.average :])
    final = folder.array_stage("final.npz", lambda: final_stage(water, final_parameters, last.carry, keys[6]))
    check = {}
    if config.check:
        check = folder.array_stage("check.npz", lambda: check_stage(water, first, chains_of(before), target, keys[7]))

    if not _processes.leads():
        return
    if command.trajectory is not None:
        write_trajectory(water, final_parameters, last.carry, command.trajectory)
    lines = {name: report_lines(state.history) for name, state in fitted.items()}
    summary = summarize(config, water, lines, target, before, final, check)
    seconds = lambda: {"seconds": time.perf_counter() - started}
    write_json(folder / "summary.json", {**summary, "timing": seconds()})
    figures = _water_figures.draw(folder.path)
    write_json(folder / "summary.json", {**summary, "timing": seconds()})
    for line in five_lines(config, summary, seconds()["seconds"], folder.path, figures):
        print(line)


# ---- the liquid


class Parameters(eqx.Module):
    """What is fitted."""

    charge: Float[Array, ""]
    """Of hydrogen, e."""
    sigma: Float[Array, ""]
    """Of oxygen, nm."""
    bond: Float[Array, ""]
    """The stiffness of O-H, kJ/mol/nm²."""
    angle: Float[Array, ""]
    """The stiffness of H-O-H, kJ/mol/rad²."""

    @classmethod
    def of(cls, potential: Any) -> "Parameters":
        """Those of a potential, or of a tree like one."""
        charges, *others = _places(potential)
        return cls(charges[0], *others)

    def put_into(self, potential: rv.Sum) -> rv.Sum:
        """The potential with these parameters."""
        new = (self.charge[None], self.sigma, self.bond, self.angle)
        return eqx.tree_at(_places, potential, new)

    def each(self) -> dict[str, Float[Array, ""]]:
        """By name."""
        return {name: getattr(self, name) for name in NAMES}


def _places(potential: Any):
    return (
        potential.part(rv.Ewald).charges.charges,
        potential.part(rv.Among).potential.sigma,
        potential.part(rv.HarmonicBond).stiffness,
        potential.part(rv.HarmonicAngle).stiffness,
    )


class SpectralLoss(rv.AbstractObservable):
    """How far a spectrum is from a target: Σ (I - I*)² / Σ I*², over the wavenumbers.

    A mean over trajectories i has noise, and the square of noise is not zero on average: it grows like the square of
    the intensity, and would draw charges to zero. So only products of different trajectories count,
    Σ_{i≠j} w_i w_j (I_i - I*)·(I_j - I*) / (1 - Σ w_i²), which has no bias and may be negative.
    """

    spectrum: rv.InfraredSpectrum
    target: Float[Array, " frequencies"]

    def record(self, system, state, initial):
        return self.spectrum.record(system, state, initial)

    def reduce(self, times, records, weights):
        away = spectra_of(self.spectrum, times, records) - self.target
        mean = jnp.sum(weights[:, None] * away, axis=0)
        own = jnp.sum(weights[:, None] ** 2 * away**2, axis=0)
        return jnp.sum(mean**2 - own) / (1 - jnp.sum(weights**2)) / jnp.sum(self.target**2)


def spectra_of(
    spectrum: rv.InfraredSpectrum, times: Float[Array, " frames"], records: Float[Array, "samples frames 3"]
) -> Float[Array, "samples frequencies"]:
    """The spectrum of each trajectory alone."""
    return jax.vmap(lambda r: spectrum.reduce(times, r[None], jnp.ones(1, r.dtype)))(records)


class Water:
    """How this run samples its liquid and measures spectra."""

    def __init__(
        self,
        config: Config,
        box: rv.AbstractBox,
        num: int,
        mesh: jax.sharding.Mesh | None = None,
        accuracy: float = 1e-4,
    ):
        self.config = config
        system = _water.water(num, box, accuracy)
        self.topology = system.topology
        assert isinstance(system.potential, rv.Sum)
        self.target = system.potential
        self.chains = Chains(self.topology, config.temperature, config.friction, config.dt, config.interval, mesh)
        self.low = self.spectrum(rv.spectra.CutoffWindow(config.correlation), config.correlation)
        gaussian = rv.spectra.GaussianWindow(config.validation / 3)  # pyright: ignore[reportCallIssue]
        self.full = self.spectrum(gaussian, config.validation)
        self.dynamics = self.trajectories(config.correlation, mesh)
        self.long = rv.Dynamics(
            config.dt, config.frames(2 * config.validation) * config.save_every, config.save_every, mesh=mesh
        )

    def trajectories(self, length: float, mesh: jax.sharding.Mesh | None = None) -> rv.Dynamics:
        """As long as `length` (ps) into each direction of time."""
        c = self.config
        return rv.Dynamics(c.dt, c.frames(length) * c.save_every, c.save_every, both_directions=True, mesh=mesh)

    def spectrum(self, window: rv.spectra.AbstractWindow, length: float) -> rv.InfraredSpectrum:
        """With correlation functions that end at `length` (ps)."""
        c = self.config
        wavenumbers = np.arange(0, c.highest * (1 + 1e-9), c.spacing)
        lags = c.frames(length) + 1
        return rv.InfraredSpectrum(rv.PointCharges.of, c.temperature, wavenumbers, window, num_lags=lags)

    def first(self, fit: str) -> rv.Sum:
        """The potential that a fit starts from."""
        values = Parameters.of(self.target)
        moved = {n: jnp.asarray(getattr(self.config, n), values.charge.dtype) for n in FITS[fit]}
        return Parameters(**{**values.each(), **moved}).put_into(self.target)

    def evaluate(
        self, potential: rv.Sum, chains: rv.State, samples: int, key: PRNGKeyArray, label: str
    ) -> dict[str, np.ndarray]:
        """Spectra of at least `samples` trajectories, without derivatives of theirs.

        **Returns:** arrays that lead with rounds and chains: `low` and `full` spectra (1/cm) and `temperature` (K), and
        `check`, the spectra cut at the times of the check; and `wavenumbers` (1/cm).
        """
        c, rounds = self.config, []
        spectra = [self.low, self.full, *(self.spectrum(rv.spectra.CutoffWindow(t), t) for t in c.check)]
        system = rv.System(self.topology, potential)
        for k in bar(-(-samples // len(chains.positions)), label):
            drawn = self.chains.draw(potential, chains, jax.random.fold_in(key, k))
            chains = drawn.last
            rounds.append(jax.tree.map(np.asarray, _measure(spectra, system, drawn, self.long)))
        (low, full, *check), temperature = jax.tree.map(lambda *r: np.stack(r), *rounds)
        wavenumbers = np.asarray(self.low.wavenumbers)
        cut = {"check": np.stack([s.mean((0, 1)) for s in check])} if check else {}
        return {"low": low, "full": full, "temperature": temperature, "wavenumbers": wavenumbers, **cut}


@eqx.filter_jit
def _measure(spectra, system, samples, dynamics):
    estimate = rv.expectation(WithTemperature(spectra[0]), system, samples, dynamics=dynamics)
    records, temperature = estimate.records
    return [spectra_of(s, estimate.times, records) for s in spectra], jnp.mean(temperature, axis=1)


# ---- stages


def start_stage(water: Water, state: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """Chains from one long one with the target's parameters."""
    c, keys = water.config, jax.random.split(key, 4)
    chains = dataclasses.replace(water.chains, mesh=None)  # a single one
    one = chains.with_new_velocities(state.repeat(1), keys[0])
    one = chains.equilibrate(water.target, one, c.nvt / 4, keys[1], "equilibrating")
    parts = []
    for k in range(c.trajectories):
        label = f"start {k + 1} of {c.trajectories}"
        one = chains.equilibrate(water.target, one, c.nvt / c.trajectories, jax.random.fold_in(keys[2], k), label)
        parts.append(one)
    states = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    return _arrays(water.chains.with_new_velocities(states, keys[3]))


def _arrays(states: rv.State) -> dict[str, np.ndarray]:
    return {"positions": np.asarray(states.positions), "velocities": np.asarray(states.velocities)}


def reference_stage(water: Water, chains: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """The spectra of the target."""
    return water.evaluate(water.target, chains, water.config.reference_samples, key, "reference")


def before_stage(water: Water, potential: rv.Sum, chains: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """The spectra at the first parameters, and chains equilibrated with them."""
    c, keys = water.config, jax.random.split(key)
    chains = water.chains.equilibrate(potential, chains, c.equilibration, keys[0], "equilibrating the start")
    return {**_arrays(chains), **water.evaluate(potential, chains, c.final_samples, keys[1], "before the fit")}


def fit(
    water: Water, name: str, chains: rv.State, target: np.ndarray, checkpoint: Path, history: Path, key: PRNGKeyArray
) -> rv.FitState:
    """Steps the parameters; writes checkpoint and history after every update."""
    c = water.config
    loss = SpectralLoss(water.low, jnp.asarray(target))

    def loss_fn(parameters, chains, key):
        # all of this is measured, not traced: its derivative is put in by `linearize`
        measured = jax.lax.stop_gradient(parameters)
        potential = measured.put_into(water.target)
        samples = water.chains.draw(potential, chains, key)
        system = rv.System(water.topology, potential)
        estimate, parts = rv.expectation_gradients(loss, system, samples, dynamics=water.dynamics)
        gradient = Parameters.of(parts.total if c.gradient == "total" else parts.dynamical)
        relative = lambda tree: jax.tree.map(jnp.multiply, measured, Parameters.of(tree)).each()
        errors = {f"{n}_error": x for n, x in relative(parts.thermodynamic_error).items()}
        report = {
            **measured.each(),
            "loss": estimate.value,
            "loss_error": estimate.error,
            "dynamical": relative(parts.dynamical),  # the error of a square's is not known in reverse mode
            "thermodynamic": {**relative(parts.thermodynamic), **errors},
        }
        return rv.linearize(estimate.value, gradient, parameters), (samples.last, report)

    start = _processes.on_all(Parameters.of(water.first(name)), water.chains.mesh)
    rates = Parameters(*(getattr(c, f"{n}_rate") if n in FITS[name] else 0.0 for n in NAMES))  # pyright: ignore
    adam = lambda rate: optax.adam(optax.cosine_decay_schedule(rate, c.updates, c.final_rate), b1=c.momentum)
    show = lambda line: f"loss {line['loss']:.2e}, " + ", ".join(f"{n} {line[n]:.4g}" for n in NAMES)
    return _run.fit(
        loss_fn,
        start,
        rv.per_parameter(adam, rates),
        updates=c.updates,
        key=key,
        carry=chains,
        checkpoint=checkpoint,
        history=history,
        lines=report_lines,
        show=show,
        positive=lambda p: tuple(p.each().values()),
    )


def mean_parameters(lines: list[dict[str, Any]]) -> dict[str, float]:
    """The geometric mean of the parameters of some updates."""
    return {n: float(np.exp(np.mean([np.log(line[n]) for line in lines]))) for n in NAMES}


def _potential(water: Water, values: dict[str, float]) -> rv.Sum:
    return Parameters(**{n: jnp.asarray(v, water.low.wavenumbers.dtype) for n, v in values.items()}).put_into(
        water.target
    )


def final_stage(water: Water, values: dict[str, float], chains: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """An independent evaluation of the final parameters."""
    c, keys = water.config, jax.random.split(key)
    potential = _potential(water, values)
    chains = water.chains.equilibrate(potential, chains, c.equilibration, keys[0], "equilibrating the result")
    return water.evaluate(potential, chains, c.final_samples, keys[1], "after the fit")


def check_stage(
    water: Water, potential: rv.Sum, chains: rv.State, target: dict[str, np.ndarray], key: PRNGKeyArray
) -> dict[str, np.ndarray]:
    """The dynamical gradient of the loss against central differences, from the same samples, in double precision.

    **Returns:** `times` (ps), and arrays (times, parameters): `adjoint` and `difference`, dL/d ln θ.
    """
    c = water.config
    values = [float(x) for x in Parameters.of(potential).each().values()]
    states = jax.tree.map(lambda x: np.asarray(x, float), chains)
    states = jax.tree.map(lambda x: x[: c.check_trajectories], states)
    with jax.enable_x64(True):
        states = jax.tree.map(jnp.asarray, water.chains.with_new_velocities(states, key))
        states = jax.tree.map(lambda x: jnp.asarray(x, float), states)
        box = jax.tree.map(lambda x: x[0], states.box)
        # the force of Ewald's sum jumps at its cutoff by its accuracy: at 1e-4 differences are off by some percent
        exact = Water(c, box, water.topology.num_atoms // 3, accuracy=1e-10)
        losses = [
            SpectralLoss(exact.spectrum(rv.spectra.CutoffWindow(t), t), jnp.asarray(cut, float))
            for t, cut in zip(c.check, target["check"], strict=True)
        ]
        lengths = [c.frames(t) for t in c.check]
        dynamics = exact.trajectories(max(c.check))
        arguments = (losses, lengths, exact.topology, exact.target, states, dynamics)
        adjoint = _adjoint_gradients(jnp.array(values), *arguments)
        step = 1e-5  # relative: truncation and rounding then are both below 1e-6
        moved = np.array(
            [[v * np.exp(s * step * (j == k)) for j, v in enumerate(values)] for k in range(4) for s in (1, -1)]
        )
        found = np.asarray(_losses_at(jnp.asarray(moved), *arguments)).reshape(4, 2, -1)
        difference = ((found[:, 0] - found[:, 1]) / (2 * step)).T
        return {"times": np.array(c.check), "adjoint": np.asarray(adjoint) * values, "difference": difference}


def _records(values, losses, topology, base, states, dynamics):
    potential = Parameters(*values).put_into(base)
    run = lambda s: dynamics.run(rv.System(topology, potential), s, losses[0].record, throw=False)
    trajectory = jax.vmap(run)(states)
    return trajectory.records, trajectory.times[0]


def _all_losses(records, times, losses, lengths):
    """Of the parts of trajectories that are as long as each check asks for."""
    middle, weights = records.shape[1] // 2, jnp.full(len(records), 1 / len(records))
    parts = (slice(middle - n, middle + n + 1) for n in lengths)
    return jnp.stack([loss.reduce(times[p], records[:, p], weights) for loss, p in zip(losses, parts, strict=True)])


@eqx.filter_jit
def _adjoint_gradients(values, losses, lengths, topology, base, states, dynamics):
    records, pull, times = jax.vjp(
        lambda v: _records(v, losses, topology, base, states, dynamics), values, has_aux=True
    )
    found, pull_losses = jax.vjp(lambda r: _all_losses(r, times, losses, lengths), records)
    cotangents = jax.vmap(lambda row: pull_losses(row)[0])(jnp.eye(len(found)))
    return jax.lax.map(lambda cotangent: pull(cotangent)[0], cotangents)


@eqx.filter_jit
def _losses_at(values, losses, lengths, topology, base, states, dynamics):
    one = lambda v: _all_losses(*_records(v, losses, topology, base, states, dynamics), losses, lengths)
    return jax.lax.map(one, values)


def write_trajectory(water: Water, values: dict[str, float], chains: rv.State, path: Path) -> None:
    """Writes 1 ps of the first chain at constant energy."""
    system = rv.System(water.topology, _potential(water, values))
    state = jax.tree.map(lambda x: x[0], chains)
    rv.io.write(path, water.topology, rv.nve(system, state, dt=water.config.dt, num_steps=2000, save_every=4))


# ---- what is told


UNITS = {
    "charge": "e",
    "sigma": "nm",
    "bond": "kJ/mol/nm^2",
    "angle": "kJ/mol/rad^2",
    "loss": "sum (I - I*)^2 / sum I*^2 of the spectrum cut at the correlation time, without the bias of its noise",
    "dynamical, thermodynamic": "dL/d ln(parameter)",
    "seconds, wall_time": "s",
}


def report_lines(history: Any) -> list[dict[str, Any]]:
    """The history of a fit as one record per update."""
    if history is None:
        return []
    pick = lambda k: jax.tree.map(lambda h: float(h[k]), history)
    order = (*NAMES, "loss", "loss_error", "dynamical", "thermodynamic")
    lines = (pick(k) for k in range(len(history["loss"])))
    return [{"update": k + 1, **{name: line[name] for name in order}} for k, line in enumerate(lines)]


def distance(curves: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The relative L2 distance of two mean spectra, of all trajectories `rounds chains frequencies`, and the part of it
    that is noise, from the scatter between chains."""
    mean = lambda x: x.astype(float).mean(0)
    squared = lambda x: float(np.sum(x**2))
    noise = sum(squared(mean(x).std(0, ddof=1)) / x.shape[1] for x in (curves, target))
    away, size = squared(mean(curves).mean(0) - mean(target).mean(0)), squared(mean(target).mean(0))
    return {"relative_l2": float(np.sqrt(away / size)), "noise": float(np.sqrt(noise / size))}


def summarize(config, water, lines, target, before, final, check) -> dict[str, Any]:
    """All numbers of `summary.json` but the timing: the same for a run left alone and one that was resumed."""
    true = {n: float(x) for n, x in Parameters.of(water.target).each().items()}
    fits = {}
    for name, history in lines.items():
        last = mean_parameters(history[-config.average :])
        start = {n: float(x) for n, x in Parameters.of(water.first(name)).each().items()}
        fits[name] = {
            "initial": start,
            "final": last,
            "recovered": {n: 1 - (last[n] - true[n]) / (start[n] - true[n]) for n in FITS[name]},
            "updates": len(history),
        }
    spectra = {
        kind: {"before": distance(before[kind], target[kind]), "after": distance(final[kind], target[kind])}
        for kind in ("low", "full")
    }
    runs = {"target": target, "before": before, "final": final}
    summary = {
        "units": UNITS,
        "waters": water.topology.num_atoms // 3,
        "target": true,
        "fits": fits,
        "parameters_are": f"the geometric mean of the last {config.average} updates",
        "spectra": spectra,
        "temperature": {name: float(arrays["temperature"].mean()) for name, arrays in runs.items()},
        "gradient": config.gradient,
    }
    if check:
        error = np.abs(check["adjoint"] / check["difference"] - 1)
        summary["gradient_check"] = [
            {"time": float(t), **dict(zip(NAMES, map(float, e), strict=True))}
            for t, e in zip(check["times"], error, strict=True)
        ]
    return summary


def five_lines(config, summary, seconds, folder, figures) -> list[str]:
    """What was fitted, from where to where, how well, how long, where the figures are."""
    fits, spectra = summary["fits"], summary["spectra"]
    name = "all" if "all" in fits else "pair"
    last = fits[name]
    moves = ", ".join(f"{n} {last['initial'][n]:.4g} -> {last['final'][n]:.4g}" for n in last["recovered"])
    back = ", ".join(f"{n} {r:.0%}" for n, r in last["recovered"].items())
    aims = ", ".join(f"{summary['target'][n]:.4g}" for n in last["recovered"])
    a, b = spectra["full"]["before"], spectra["full"]["after"]
    devices = ", ".join(sorted({d.device_kind for d in jax.devices()}))
    return [
        f"Fitted: {', '.join(last['recovered'])} of {summary['waters']} q-SPC/Fw waters at {config.temperature:g} K to"
        f" their infrared spectrum cut at {config.correlation:g} ps, by the {config.gradient} gradient.",
        f"From, to: {moves} (target {aims}).",
        f"How well: of the way back {back}; relative L2 of the uncut spectrum {a['relative_l2']:.3f} ->"
        f" {b['relative_l2']:.3f} (noise {b['noise']:.3f}), {a['relative_l2'] / b['relative_l2']:.1f} times less.",
        f"How long: {seconds:.0f} s; {last['updates']} updates with {config.trajectories} trajectories of"
        f" {config.correlation:g} ps each way, on {devices}.",
        f"Figures: {len(figures)} in {folder}/ ({', '.join(p.name for p in figures)}).",
    ]
