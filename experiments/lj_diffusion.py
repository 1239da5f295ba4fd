"""Refine a Lennard-Jones potential until the liquid diffuses as it should.

Measure D from trajectories at constant energy, differentiate it through them and through the ensemble, step σ and ε,
repeat (Han & Yu 2025, fig. 2). Where this differs from the original: instead of one long chain many chains run at once,
one sample each per update, and go on from where the last update left them; velocities are drawn on the step; every
number has an error bar; and the parameters reported are the mean of the last updates, moved onto the line D = D* by one
Newton step with their mean D and gradient, and measured once more by an independent evaluation.

D alone cannot fix two parameters: what is found is a point on the line D = D*.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray

import reverlet as rv

from . import _argon, _lj_figures, _processes, _run
from ._chains import Chains, WithTemperature, bar
from ._errors import BadInput, refusing, require
from ._folder import Folder, History, digest, free_folder, write_json

SI = rv.units.SQUARE_METER_PER_SECOND
"""1 m²/s in nm²/ps: files and flags have D in m²/s."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that makes a run what it is. The defaults are those of `--preset quick`."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds, no physics)."""
    seed: int = 0
    """Of all random numbers: the same seed on the same machine gives the same numbers."""

    structure: Path | None = None
    """Start from this file (PDB or extxyz, Å, one element, with a periodic box) instead of a crystal that is melted."""
    atoms: int = 108
    """How many argon atoms, without --structure."""
    box_length: float = 1.73405
    """Of the cubic box, nm, without --structure."""
    temperature: float = 94.4
    """K."""
    cutoff: float | None = None
    """Plain cutoff, nm. None: 1.0, or 0.49 of the smallest height of the box where that is less."""

    sigma: float = 0.338
    """Where σ starts, nm."""
    epsilon: float = 0.893795
    """Where ε starts, kJ/mol."""
    target: float | None = None
    """D*, m²/s, such as 2.36e-9. None: D* is measured by a reference simulation with the target parameters."""
    target_error: float = 0.0
    """The standard error of --target, m²/s."""
    target_sigma: float = 0.340
    """σ of the reference simulation, nm."""
    target_epsilon: float = 0.993795
    """ε of the reference simulation, kJ/mol."""

    gradient: Literal["total", "dynamical"] = "total"
    """What to descend along: through trajectories and ensemble, or through the trajectories alone."""
    updates: int = 40
    """How many steps of Adam."""
    sigma_rate: float = 4e-4
    """The learning rate of σ, nm."""
    epsilon_rate: float = 2e-2
    """The learning rate of ε, kJ/mol."""
    final_rate: float = 0.3
    """Learning rates fall to this part of their first value, along a cosine. 1: they stay."""
    momentum: float = 0.7
    """Adam's first decay rate: at 0.9, usual for it, the path overshoots the line D = D* and returns slowly."""
    average: int = 30
    """The final parameters are made of this many last updates: their mean, and one Newton step to D = D*."""

    trajectories: int = 64
    """How many per update, each from a chain of its own; all run as one batch."""
    time_step: float = 5.0
    """Of chains and trajectories, fs."""
    horizon: float = 1.5
    """How long a trajectory is, and up to where v(0)·v(t) is integrated, ps."""
    save_every: int = 2
    """Time steps between two recorded points."""
    friction: float = 1.0
    """Of the Langevin chains, 1/ps."""
    interval: float = 1.0
    """How long the chains run between updates (and between samples in evaluations), ps."""
    melt: float = 4.0
    """How long a crystal is kept at three times the temperature to melt, ps, without --structure."""
    equilibration: float = 16.0
    """How long the chains run with the first parameters before the first update, ps; as long before the reference."""
    reference_samples: int = 1920
    """Trajectories of the reference simulation."""
    final_samples: int = 1280
    """Trajectories of the evaluation of the final parameters; a quarter as many before the fit."""

    def __post_init__(self):
        for name in (
            "sigma",
            "epsilon",
            "box_length",
            "target_sigma",
            "target_epsilon",
            "time_step",
            "interval",
            "horizon",
        ):
            require(getattr(self, name) > 0, name, getattr(self, name), "a number above zero", Config.__dict__[name])
        require(self.target is None or self.target > 0, "target", self.target, "D* above zero, in m²/s", 2.36e-9)
        if self.target is not None and not 1e-12 < self.target < 1e-5:
            raise BadInput(f"--target is {self.target}; wanted m²/s, as 2.36e-9, between 1e-12 and 1e-5.")
        for name in ("temperature", "target_error", "friction", "melt", "equilibration", "sigma_rate", "epsilon_rate"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "zero or more", Config.__dict__[name])
        require(self.temperature > 0, "temperature", self.temperature, "more than 0 K for a liquid", 94.4)
        require(self.cutoff is None or self.cutoff > 0, "cutoff", self.cutoff, "a distance above zero, in nm", 1.0)
        require(self.atoms >= 2, "atoms", self.atoms, "at least 2", 108)
        require(self.trajectories >= 2, "trajectories", self.trajectories, "at least 2, for an error bar", 64)
        require(self.updates >= 1, "updates", self.updates, "at least 1", 40)
        require(self.save_every >= 1, "save_every", self.save_every, "at least 1", 2)
        require(0 < self.final_rate <= 1, "final_rate", self.final_rate, "more than 0, at most 1", 0.3)
        require(0 <= self.momentum < 1, "momentum", self.momentum, "zero or more, less than 1", 0.9)
        require(self.average >= 1, "average", self.average, "at least 1", 20)
        require(self.seed >= 0, "seed", self.seed, "zero or more", 0)
        for name in ("reference_samples", "final_samples"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1", self.trajectories)
        points = self.horizon / self.dt / self.save_every
        require(
            round(points) >= 1 and abs(points - round(points)) < 1e-6,
            "horizon",
            self.horizon,
            f"a multiple of {self.dt * self.save_every:g} ps, which is save_every time steps",
            max(1, round(points)) * self.dt * self.save_every,
        )

    @property
    def dt(self) -> float:
        """ps."""
        return self.time_step * rv.units.FEMTOSECOND

    def rounds(self, samples: int) -> int:
        """How often all chains give a sample, for at least so many samples."""
        return -(-samples // self.trajectories)


PRESETS = {
    "quick": Config(),
    "paper": Config(
        preset="paper",
        atoms=346,
        box_length=2.5562,
        cutoff=1.0,
        target=2.36e-9,
        updates=50,
        sigma_rate=2e-4,
        epsilon_rate=1e-2,
        final_rate=1.0,
        momentum=0.9,
        average=20,
        trajectories=100,
        time_step=1.0,
        horizon=2.0,
        friction=0.1,
        interval=4.0,
        melt=20.0,
        equilibration=100.0,
        reference_samples=3000,
        final_samples=3000,
    ),
    "smoke": Config(
        preset="smoke",
        atoms=32,
        box_length=1.1561,
        updates=4,
        average=2,
        trajectories=4,
        time_step=4.0,
        horizon=0.16,
        interval=0.04,
        melt=0.4,
        equilibration=0.4,
        reference_samples=16,
        final_samples=16,
    ),
}


@dataclasses.dataclass(frozen=True)
class Command:
    """Refine a Lennard-Jones potential until the liquid diffuses as it should: σ and ε from the self-diffusion D*.

    Defaults are those of the preset. Length is in nm, time in ps (time steps in fs), energy in kJ/mol, temperature
    in K, diffusion in m²/s.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/lj_diffusion, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""
    devices: str | None = None
    """Spread the trajectories over so many devices of each process, or "all". None: one; all, if distributed."""
    distributed: str | None = None
    """Run in several processes, one command each: "auto" under SLURM or Open MPI, otherwise HOST:PORT,ID,COUNT."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(parse(arguments)))


def parse(arguments: list[str]) -> Command:
    """The command line: the preset first, since it makes the defaults of all other flags."""
    return _run.command_line("lj_diffusion", PRESETS, Command, arguments)


def run(command: Command) -> None:
    """The whole experiment; ends with five lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    mesh = _processes.mesh_for(command, config.trajectories)
    with refusing():
        if config.structure:
            topology, state = _argon.read_structure(config.structure)
        else:
            topology, state = _argon.crystal(config.atoms, config.box_length, config.seed)
        half = 0.5 * float(jnp.min(state.box.heights))
        cutoff = min(1.0, 0.98 * half) if config.cutoff is None else config.cutoff
        potential = rv.LennardJones(config.sigma, config.epsilon, cutoff=cutoff)
        rv.System(topology, potential).check(state)
    liquid = Liquid(config, topology, potential, mesh)

    described = {**dataclasses.asdict(config), "structure": config.structure and str(config.structure)}
    described["structure_sha256"] = config.structure and digest(config.structure)
    out = command.out or free_folder(Path("results/lj_diffusion"))
    folder = Folder(out, {"experiment": "lj_diffusion", **described}, resume=command.resume)

    keys = [jax.random.fold_in(jax.random.key(config.seed), stage) for stage in range(5)]
    start = folder.array_stage("start.npz", lambda: start_stage(liquid, state, keys[0]))
    chains = jax.vmap(lambda x, v: rv.State(x, v, state.box))(start["positions"], start["velocities"])
    target = folder.json_stage("reference.json", lambda: reference_stage(liquid, chains, keys[1]))
    fitted = fit(liquid, chains, target["diffusion"] * SI, folder, keys[2])
    history = report_lines(fitted.history)

    sigma, epsilon = final_parameters(config, history, target["diffusion"])
    final_potential = liquid.with_parameters(sigma, epsilon)
    final = folder.array_stage("final.npz", lambda: final_stage(liquid, final_potential, fitted.carry, keys[3]))
    folder.array_stage("gradient.npz", lambda: gradient_stage(liquid, final_potential, fitted.carry, keys[4]))

    if not _processes.leads():
        return
    summary = summarize(config, liquid, start, target, history, (sigma, epsilon), final)
    updates = [s for s in History(folder / "history.jsonl").seconds.values() if s is not None]
    seconds = time.perf_counter() - started
    summary["timing"] = {"seconds": seconds, "seconds_of_updates": sum(updates)}
    write_json(folder / "summary.json", summary)
    figures = _lj_figures.draw(folder.path)
    summary["timing"]["seconds"] = seconds = time.perf_counter() - started
    write_json(folder / "summary.json", summary)
    for line in five_lines(config, liquid, summary, seconds, sum(updates), folder.path, figures):
        print(line)


# ---- the liquid


class Liquid:
    """How this run samples its liquid and measures D."""

    def __init__(
        self, config: Config, topology: rv.Topology, potential: rv.LennardJones, mesh: jax.sharding.Mesh | None = None
    ):
        self.config = config
        self.mesh = mesh
        self.topology = topology
        self.potential = potential
        self.chains = Chains(topology, config.temperature, config.friction, config.dt, config.interval, mesh)
        self.observable = WithTemperature(rv.SelfDiffusion())
        steps = round(config.horizon / config.dt)
        self.dynamics = rv.Dynamics(dt=config.dt, num_steps=steps, save_every=config.save_every, mesh=mesh)
        # forward mode gives the derivative of every point of the curve at once, for two parameters
        self.tangents = rv.Dynamics(
            dt=config.dt, num_steps=2 * steps, save_every=config.save_every, adjoint=diffrax.ForwardMode()
        )

    def with_parameters(self, sigma: float, epsilon: float) -> rv.LennardJones:
        """The potential with other parameters."""
        return rv.LennardJones(sigma, epsilon, cutoff=self.potential.cutoff)

    def evaluate(
        self, potential: rv.LennardJones, chains: rv.State, samples: int, key: PRNGKeyArray, label: str
    ) -> dict[str, np.ndarray]:
        """Correlation functions of at least `samples` trajectories, without derivatives of theirs.

        **Returns:** arrays that lead with rounds and chains: `correlation` (nm²/ps²), `temperature` (K), `sigma_energy`
        and `epsilon_energy` (the derivatives of the samples' energies); and `times` (ps).
        """
        system = rv.System(self.topology, potential)
        rounds = []
        times = np.zeros(0)
        for k in bar(self.config.rounds(samples), label):
            drawn = self.chains.draw(potential, chains, jax.random.fold_in(key, k))
            chains = drawn.last
            estimate = _measure(self.observable, system, drawn, self.dynamics)
            times = np.asarray(estimate.times)
            slope = _energy_slopes(potential, drawn.states)
            correlation, temperature = estimate.records
            rounds.append((correlation, jnp.mean(temperature, axis=1), slope.sigma, slope.epsilon))
        names = ("correlation", "temperature", "sigma_energy", "epsilon_energy")
        return {n: np.stack([np.asarray(r[i]) for r in rounds]) for i, n in enumerate(names)} | {"times": times}


@eqx.filter_jit
def _measure(observable, system, samples, dynamics):
    return rv.expectation(observable, system, samples, dynamics=dynamics)


@eqx.filter_jit
def _energy_slopes(potential, states):
    return jax.vmap(lambda s: eqx.filter_grad(lambda p: p.energy(s.positions, s.box))(potential))(states)


def diffusion_of(curves: dict[str, np.ndarray]) -> tuple[float, float]:
    """D and its standard error, m²/s, of what `evaluate` returned: chains are independent, samples of one are not."""
    final = np.trapezoid(curves["correlation"].astype(float), curves["times"].astype(float), axis=-1) / 3 / SI
    return mean_over_chains(final)


def mean_over_chains(values: np.ndarray) -> tuple[float, float]:
    """The mean of values (rounds, chains), and its standard error over the means of the chains."""
    chains = np.mean(values.astype(float), axis=0)
    return float(np.mean(chains)), float(np.std(chains, ddof=1) / np.sqrt(len(chains)))


# ---- stages


def start_stage(liquid: Liquid, state: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """Equilibrated chains with the first parameters, and D before the fit."""
    config = liquid.config
    keys = jax.random.split(key, 4)
    chains = liquid.chains.with_new_velocities(state.repeat(config.trajectories), keys[0])
    if config.structure is None:
        chains = liquid.chains.equilibrate(liquid.potential, chains, config.melt, keys[1], "melting", factor=3.0)
    chains = liquid.chains.equilibrate(liquid.potential, chains, config.equilibration, keys[2], "equilibrating")
    curves = liquid.evaluate(liquid.potential, chains, max(1, config.final_samples // 4), keys[3], "before the fit")
    return {"positions": np.asarray(chains.positions), "velocities": np.asarray(chains.velocities), **curves}


def reference_stage(liquid: Liquid, chains: rv.State, key: PRNGKeyArray) -> dict[str, Any]:
    """D* and its error: as given, or measured with the target parameters."""
    config = liquid.config
    if config.target is not None:
        return {"diffusion": config.target, "diffusion_error": config.target_error, "source": "given"}
    potential = liquid.with_parameters(config.target_sigma, config.target_epsilon)
    keys = jax.random.split(key)
    chains = liquid.chains.equilibrate(potential, chains, config.equilibration, keys[0], "equilibrating the reference")
    curves = liquid.evaluate(potential, chains, config.reference_samples, keys[1], "reference")
    value, error = diffusion_of(curves)
    temperature, temperature_error = mean_over_chains(curves["temperature"])
    return {
        "diffusion": value,
        "diffusion_error": error,
        "source": "reference simulation",
        "sigma": config.target_sigma,
        "epsilon": config.target_epsilon,
        "samples": int(curves["temperature"].size),
        "temperature": temperature,
        "temperature_error": temperature_error,
    }


def fit(liquid: Liquid, chains: rv.State, target: float, folder: Folder, key: PRNGKeyArray) -> rv.FitState:
    """Steps σ and ε; writes the checkpoint and `history.jsonl` after every update. `target` in nm²/ps."""
    config = liquid.config

    def loss_fn(potential, chains, key):
        # all of this is measured, not traced: its derivative is put in by `linearize`
        measured = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, potential)
        samples = liquid.chains.draw(measured, chains, key)
        system = rv.System(liquid.topology, measured)
        estimate, parts = rv.expectation_gradients(liquid.observable, system, samples, dynamics=liquid.dynamics)
        gradient = parts.total if config.gradient == "total" else parts.dynamical
        diffusion = rv.linearize(estimate.value, gradient, potential)
        temperature = jnp.mean(estimate.records[1], axis=1)
        report = {
            "sigma": measured.sigma,
            "epsilon": measured.epsilon,
            "diffusion": estimate.value / SI,
            "diffusion_error": estimate.error / SI,
            "loss": 1e6 * (estimate.value - target) ** 2,
            "dynamical": _pairs(parts.dynamical, parts.dynamical_error),
            "thermodynamic": _pairs(parts.thermodynamic, parts.thermodynamic_error),
            "effective_samples": estimate.effective_samples,
            "temperature": rv.statistics.weighted_mean(estimate.weights, temperature),
            "temperature_error": rv.statistics.weighted_mean_error(estimate.weights, temperature),
        }
        return 1e6 * (diffusion - target) ** 2, (samples.last, report)

    schedule = lambda rate: optax.cosine_decay_schedule(rate, config.updates, config.final_rate)
    adam = lambda rate: optax.adam(schedule(rate), b1=config.momentum)
    rates = eqx.tree_at(lambda p: (p.sigma, p.epsilon), liquid.potential, (config.sigma_rate, config.epsilon_rate))

    def show(line: dict[str, Any]) -> str:
        d, error = line["diffusion"] * 1e9, line["diffusion_error"] * 1e9
        return f"loss {line['loss']:.2e}, D {d:.3f} ± {error:.3f} (target {target / SI * 1e9:.3f}) 1e-9 m²/s"

    def require_positive(state: rv.FitState) -> None:
        sigma, epsilon = float(state.model.sigma), float(state.model.epsilon)
        if not (sigma > 0 and epsilon > 0):  # the energy knows only even powers of σ, and would go on without a sign
            raise FloatingPointError(
                f"Update {state.step}: σ has become {sigma:.4g} nm and ε {epsilon:.4g} kJ/mol; wanted both more than"
                " zero. Try a smaller --sigma-rate or --epsilon-rate."
            )

    return _run.fit(
        loss_fn,
        liquid.potential,
        rv.per_parameter(adam, rates),
        updates=config.updates,
        key=key,
        carry=chains,
        checkpoint=folder.checkpoint,
        history=folder / "history.jsonl",
        lines=report_lines,
        show=show,
        check=require_positive,
    )


def final_parameters(config: Config, history: list[dict[str, Any]], target: float) -> tuple[float, float]:
    """The mean of σ (nm) and ε (kJ/mol) over the last updates, and one Newton step from it to D = D*.

    The mean alone trails the iterates' random walk; the mean D of the same updates says by how much. Of all steps to
    the line the shortest is taken, lengths counted in learning rates; a step of more than five of them is cut.
    """
    last = history[-config.average :]
    mean = lambda *names: np.mean([_dig(line, names) for line in last])
    parts = ("dynamical", "thermodynamic") if config.gradient == "total" else ("dynamical",)
    rates = np.array([config.sigma_rate, config.epsilon_rate])
    slope = rates * np.array([sum(mean(part, name) for part in parts) for name in ("sigma", "epsilon")])
    steps = slope * (target - mean("diffusion")) / max(float(slope @ slope), 1e-300)
    steps = steps * min(1.0, 5 / max(float(np.max(abs(steps))), 1e-300))
    sigma, epsilon = np.array([mean("sigma"), mean("epsilon")]) + rates * steps
    return float(sigma), float(epsilon)


def _dig(value: Any, names: tuple[str, ...]) -> float:
    for name in names:
        value = value[name]
    return value


def final_stage(
    liquid: Liquid, potential: rv.LennardJones, chains: rv.State, key: PRNGKeyArray
) -> dict[str, np.ndarray]:
    """An independent evaluation of the final parameters."""
    config = liquid.config
    keys = jax.random.split(key)
    chains = liquid.chains.equilibrate(potential, chains, config.equilibration / 2, keys[0], "equilibrating the result")
    return liquid.evaluate(potential, chains, config.final_samples, keys[1], "after the fit")


def gradient_stage(
    liquid: Liquid, potential: rv.LennardJones, chains: rv.State, key: PRNGKeyArray
) -> dict[str, np.ndarray]:
    """D of every trajectory and its derivatives against the integration time, to twice the horizon: forward mode.

    **Returns:** arrays (trajectories, frames): `diffusion` (nm²/ps), `sigma` and `epsilon` (its derivatives).
    """
    samples = liquid.chains.draw(potential, chains, key)
    if _processes.leads():
        print("gradients against the integration time ...", file=sys.stderr)
    times, diffusion, sigma, epsilon = _curves(rv.SelfDiffusion(), liquid.tangents, liquid.topology, potential, samples)
    arrays = {"times": times, "diffusion": diffusion, "sigma": sigma, "epsilon": epsilon}
    return {name: np.asarray(array) for name, array in arrays.items()}


@eqx.filter_jit
def _curves(observable, dynamics, topology, potential, samples):
    def curve(sigma, epsilon, state):
        moved = eqx.tree_at(lambda p: (p.sigma, p.epsilon), potential, (sigma, epsilon))
        trajectory = dynamics.run(rv.System(topology, moved), state, observable.record, throw=False)
        return rv.statistics.running_integral(trajectory.times, trajectory.records) / 3, trajectory.times

    def derivatives(state):
        primals, one = (potential.sigma, potential.epsilon), jnp.ones_like(potential.sigma)
        along = lambda dots: jax.jvp(lambda s, e: curve(s, e, state), primals, dots)
        (value, times), (sigma, _) = along((one, jnp.zeros_like(one)))
        _, (epsilon, _) = along((jnp.zeros_like(one), one))
        return times, value, sigma, epsilon

    return jax.vmap(derivatives, out_axes=(None, 0, 0, 0))(samples.states)


def _pairs(value: Any, error: Any) -> dict[str, Float[Array, ""]]:
    return {
        "sigma": value.sigma / SI,
        "sigma_error": error.sigma / SI,
        "epsilon": value.epsilon / SI,
        "epsilon_error": error.epsilon / SI,
    }


# ---- what is told


UNITS = {
    "sigma": "nm",
    "epsilon": "kJ/mol",
    "diffusion": "m^2/s",
    "dynamical, thermodynamic": "dD/dsigma in m^2/s/nm, dD/depsilon in m^2/s per kJ/mol",
    "loss": "1e6 (D - D*)^2, D in nm^2/ps",
    "temperature": "K",
    "wall_time, seconds": "s",
}


def report_lines(history: Any) -> list[dict[str, Any]]:
    """The history of a fit as one record per update."""
    if history is None:
        return []
    pick = lambda k: jax.tree.map(lambda h: float(h[k]), history)
    order = ("sigma", "epsilon", "diffusion", "diffusion_error", "loss", "dynamical", "thermodynamic")
    order += ("effective_samples", "temperature", "temperature_error")
    lines = (pick(k) for k in range(len(history["loss"])))
    return [{"update": k + 1, **{name: line[name] for name in order}} for k, line in enumerate(lines)]


def local_model(history: list[dict[str, Any]]) -> dict[str, float]:
    """ln D = intercept + slopes·(σ, ε): weighted least squares to every D and gradient of the history."""
    rows, values = [], []
    for line in history:
        d = line["diffusion"]
        rows.append(np.array([1, line["sigma"], line["epsilon"]]) * d / line["diffusion_error"])
        values.append(np.log(d) * d / line["diffusion_error"])
        for k, name in enumerate(("sigma", "epsilon")):
            parts = [line["dynamical"], line["thermodynamic"]]
            error = np.hypot(*(p[f"{name}_error"] for p in parts))
            row = np.zeros(3)
            row[1 + k] = d / error
            rows.append(row)
            values.append(sum(p[name] for p in parts) / error)
    scale = np.array([1, 0.3, 1.0])  # of the columns, for a well-conditioned problem
    solution = np.linalg.lstsq(np.array(rows) / scale, np.array(values), rcond=None)[0] / scale
    return dict(zip(("intercept", "sigma", "epsilon"), map(float, solution), strict=True))


def summarize(config, liquid, start, target, history, parameters, final) -> dict[str, Any]:
    """All numbers of `summary.json` but the timing: the same for a run left alone and one that was resumed."""
    before, before_error = diffusion_of(start)
    after, after_error = diffusion_of(final)
    combined = float(np.hypot(after_error, target["diffusion_error"]))
    last = np.array([line["diffusion"] for line in history[-config.average :]])
    model = local_model(history)
    temperature, temperature_error = mean_over_chains(final["temperature"])
    known = config.structure is None or config.target is None
    excess = after - target["diffusion"]
    return {
        "units": UNITS,
        "initial": {
            "sigma": config.sigma,
            "epsilon": config.epsilon,
            "diffusion": before,
            "diffusion_error": before_error,
        },
        "final": {
            "sigma": parameters[0],
            "epsilon": parameters[1],
            "diffusion": after,
            "diffusion_error": after_error,
            "samples": int(final["temperature"].size),
            "temperature": temperature,
            "temperature_error": temperature_error,
            "parameters_are": f"the mean of the last {len(last)} updates, and one Newton step from it to D*",
        },
        "target": {
            "sigma": config.target_sigma if known else None,
            "epsilon": config.target_epsilon if known else None,
            **{k: target[k] for k in ("diffusion", "diffusion_error", "source")},
        },
        "deviation": {
            "diffusion": excess,
            "combined_error": combined,
            "in_combined_errors": excess / combined if combined > 0 else None,
            "within_two_combined_errors": abs(excess) <= 2 * combined,
        },
        "last_updates": {
            "count": len(last),
            "diffusion": float(np.mean(last)),
            "diffusion_error": float(np.std(last, ddof=1) / np.sqrt(len(last))) if len(last) > 1 else None,
        },
        "log_linear_model": model,
        "distance_to_valley": {
            "meaning": "how far the final parameters are from the line D = D*, along one parameter alone",
            "sigma": -excess / after / model["sigma"],
            "sigma_error": abs(combined / after / model["sigma"]),
            "epsilon": -excess / after / model["epsilon"],
            "epsilon_error": abs(combined / after / model["epsilon"]),
        },
        "gradient": config.gradient,
        "updates": len(history),
        "atoms": liquid.topology.num_atoms,
        "element": liquid.topology.elements[0],
        "cutoff": liquid.potential.cutoff,
    }


def five_lines(config, liquid, summary, seconds, seconds_of_updates, folder, figures) -> list[str]:
    """What was fitted, from where to where, how well, how long, where the figures are."""
    a, b, t, dev = (summary[k] for k in ("initial", "final", "target", "deviation"))
    d = lambda x: f"{x['diffusion'] * 1e9:.3f} ± {x['diffusion_error'] * 1e9:.3f}"
    known = "" if t["sigma"] is None else f" (target {t['sigma'] * 10:.3f} Å, {t['epsilon']:.3f} kJ/mol)"
    times = (
        "" if dev["in_combined_errors"] is None else f", {abs(dev['in_combined_errors']):.1f} combined standard errors"
    )
    devices = ", ".join(sorted({d.device_kind for d in jax.devices()}))
    return [
        f"Fitted: Lennard-Jones sigma and epsilon of {summary['atoms']} {summary['element']} atoms at"
        f" {config.temperature:g} K to D* = {d(t)} 1e-9 m²/s ({t['source']}), by the {config.gradient} gradient.",
        f"From, to: sigma {a['sigma'] * 10:.3f} -> {b['sigma'] * 10:.3f} Å, epsilon {a['epsilon']:.4f} ->"
        f" {b['epsilon']:.4f} kJ/mol{known}; D alone fixes a line of such pairs.",
        f"How well: D {d(a)} -> {d(b)} 1e-9 m²/s; off the target by {dev['diffusion'] / t['diffusion']:+.1%}{times}.",
        f"How long: {seconds:.0f} s; {seconds_of_updates:.0f} s of updates, {summary['updates']} with"
        f" {config.trajectories} trajectories over {config.horizon:g} ps each, on {devices}.",
        f"Figures: {len(figures)} in {folder}/ ({', '.join(p.name for p in figures)}).",
    ]
