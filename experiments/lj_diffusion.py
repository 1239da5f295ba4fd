"""Refine a Lennard-Jones potential until the liquid diffuses as it should.

Measure D from trajectories at constant energy, differentiate it through them and through the ensemble, step σ and ε,
repeat (Han & Yu 2025, fig. 2). Where this differs from the original: instead of one long chain many chains run at once,
each with one sample per update, and go on from where the last update left them; velocities are drawn at full steps;
every number has an error bar; and the parameters reported are the mean of the last updates, moved onto the line D = D*
by one Newton step with their mean D and gradient, and measured once more by an independent evaluation.

D alone cannot determine two parameters: the result is a point on the line D = D*.
"""

import dataclasses
import time
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, PRNGKeyArray

import reverlet as rv

from . import _processes, _refine, _run
from ._argon import SI, Liquid, crystal, diffusion_of, read_structure
from ._chains import Chains, arrays_of, mean_over_chains, states_of
from ._errors import BadInput, refusing
from ._fields import Check, above_zero, at_least, nm, not_negative, ps
from ._lj_summary import summarize, told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(_refine.AbstractConfig):
    """Everything that makes a run what it is."""

    atoms: Annotated[int, at_least(2, 108)]
    """How many argon atoms, without --structure."""
    box_length: Annotated[float, above_zero(1.73405)]
    """The edge of the cubic box, nm, without --structure."""
    cutoff: Annotated[float | None, nm(1.0)]
    """Plain cutoff, nm. None: 1.0, or 0.49 of the smallest height of the box where that is less."""

    sigma: Annotated[float, nm(0.338)]
    """The initial σ, nm."""
    epsilon: Annotated[float, above_zero(0.893795)]
    """The initial ε, kJ/mol."""
    target: Annotated[float | None, Check(lambda x: x > 0, "D* above zero, in m²/s", 2.36e-9)]
    """D*, m²/s, such as 2.36e-9. None: D* is measured by a reference simulation with the target parameters."""
    target_error: Annotated[float, not_negative(5e-11)]
    """The standard error of --target, m²/s."""
    target_sigma: Annotated[float, nm(0.34)]
    """σ of the reference simulation, nm."""
    target_epsilon: Annotated[float, above_zero(0.993795)]
    """ε of the reference simulation, kJ/mol."""

    sigma_rate: Annotated[float, not_negative(4e-4)]
    """The learning rate of σ, nm."""
    epsilon_rate: Annotated[float, not_negative(2e-2)]
    """The learning rate of ε, kJ/mol."""
    horizon: Annotated[float, ps(1.5)]
    """The length of a trajectory, and the upper limit of the integral of v(0)·v(t), ps."""
    melt: Annotated[float, ps(4, zero=True)]
    """How long a crystal is kept at three times the temperature to melt, ps, without --structure."""

    def __post_init__(self):
        super().__post_init__()
        if self.target is not None and not 1e-12 < self.target < 1e-5:
            raise BadInput(f"--target is {self.target}; wanted m²/s, such as 2.36e-9, between 1e-12 and 1e-5.")
        self.require_frames("horizon", self.horizon)


QUICK = Config(
    preset="quick",
    seed=0,
    structure=None,
    atoms=108,
    box_length=1.73405,
    temperature=94.4,
    cutoff=None,
    sigma=0.338,
    epsilon=0.893795,
    target=None,
    target_error=0.0,
    target_sigma=0.340,
    target_epsilon=0.993795,
    gradient="total",
    updates=40,
    sigma_rate=4e-4,
    epsilon_rate=2e-2,
    final_rate=0.3,
    momentum=0.7,
    average=30,
    trajectories=64,
    time_step=5.0,
    horizon=1.5,
    save_every=2,
    friction=1.0,
    interval=1.0,
    melt=4.0,
    equilibration=16.0,
    reference_samples=1920,
    final_samples=1280,
)


PRESETS = {
    "quick": QUICK,
    "paper": dataclasses.replace(
        QUICK,
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
    "smoke": dataclasses.replace(
        QUICK,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(_refine.AbstractCommand):
    """Refine a Lennard-Jones potential until the liquid diffuses as it should: σ and ε from the self-diffusion D*.

    Defaults are those of the preset. Length is in nm, time in ps (time steps in fs), energy in kJ/mol, temperature
    in K, diffusion in m²/s.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("lj_diffusion", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with five lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    mesh = _processes.mesh_for(command, config.trajectories)
    with refusing():
        if config.structure:
            topology, state = read_structure(config.structure)
        else:
            topology, state = crystal(config.atoms, config.box_length, config.seed)
        half = 0.5 * float(jnp.min(state.box.heights))
        cutoff = min(1.0, 0.98 * half) if config.cutoff is None else config.cutoff
        potential = rv.LennardJones(config.sigma, config.epsilon, cutoff=cutoff)
        rv.System(topology, potential).check(state)
    sampling = Chains(topology, config.temperature, config.friction, config.dt, config.interval, mesh)
    liquid = Liquid(potential, sampling, config.horizon, config.save_every)
    folder = _refine.open_folder("lj_diffusion", command)

    keys = [jax.random.fold_in(jax.random.key(config.seed), stage) for stage in range(5)]
    start = folder.array_stage("start.npz", lambda: start_stage(config, liquid, state, keys[0]))
    chains = states_of(start, state.box)
    target = folder.json_stage("reference.json", lambda: reference_stage(config, liquid, chains, keys[1]))
    aim = Diffusion(target=jnp.asarray(target["diffusion"] * SI))
    rates = [(lambda p: p.sigma, config.sigma_rate), (lambda p: p.epsilon, config.epsilon_rate)]
    arguments = sampling, liquid.dynamics, potential, rates, chains, keys[2]
    fitted = _refine.fit(
        aim, config, *arguments, folder.checkpoint, folder / "history.jsonl", accept_changes=folder.changed
    )
    history = aim.lines(fitted.history)

    parameters = final_parameters(config, history, target["diffusion"])
    best = liquid.with_parameters(*parameters)
    final = folder.array_stage(_refine.FINAL, lambda: final_stage(config, liquid, best, fitted.carry, keys[3]))
    folder.array_stage("gradient.npz", lambda: liquid.derivative_curves(best, fitted.carry, keys[4]))
    if _processes.leads():
        summary = summarize(config, liquid, start, target, history, parameters, final)
        _refine.close(command, folder, told(config, summary), started)


# ---- stages


def start_stage(config: Config, liquid: Liquid, state: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """Equilibrated chains with the first parameters, and D before the fit."""
    keys = jax.random.split(key, 4)
    melt = 0.0 if config.structure else config.melt
    chains = liquid.melted(state, config.trajectories, melt, config.equilibration, keys)
    curves = liquid.evaluate(liquid.potential, chains, max(1, config.final_samples // 4), keys[3], "before the fit")
    return {**arrays_of(chains), **curves}


def reference_stage(config: Config, liquid: Liquid, chains: rv.State, key: PRNGKeyArray) -> dict[str, Any]:
    """D* and its error: those given, or measured with the target parameters."""
    if config.target is not None:
        return {"diffusion": config.target, "diffusion_error": config.target_error, "source": "given"}
    potential = liquid.with_parameters(config.target_sigma, config.target_epsilon)
    keys = jax.random.split(key)
    sampling = liquid.sampling
    chains = sampling.equilibrate(potential, chains, config.equilibration, keys[0], "equilibrating the reference")
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


class WithTemperature(rv.AbstractObservable):
    """An observable, and the temperature recorded beside it along the same trajectories.

    Unlike a `rv.Joint` of both, it reduces to a scalar, which has a gradient.
    """

    observable: rv.AbstractObservable
    temperature: rv.Temperature = rv.Temperature()

    def record(self, system, state, initial):
        return self.observable.record(system, state, initial), self.temperature.record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        return self.observable.reduce(times, records[0], weights, ensemble)


class Diffusion(_refine.AbstractTarget):
    """D*, nm²/ps; the loss is 1e6 (D - D*)²."""

    target: Float[Array, ""]
    observable: WithTemperature = WithTemperature(rv.SelfDiffusion())
    columns: ClassVar[tuple[str, ...]] = (
        *("sigma", "epsilon", "diffusion", "diffusion_error", "loss", "dynamical", "thermodynamic"),
        *("effective_samples", "temperature", "temperature_error"),
    )

    def potential(self, model):
        return model

    def loss(self, value):
        return 1e6 * (value - self.target) ** 2

    def report(self, model, estimate, parts):
        temperature = jnp.mean(estimate.records[1], axis=1)
        return {
            "sigma": model.sigma,
            "epsilon": model.epsilon,
            "diffusion": estimate.value / SI,
            "diffusion_error": estimate.error / SI,
            "loss": self.loss(estimate.value),
            "dynamical": _pairs(parts.dynamical.potential, parts.dynamical_error.potential),
            "thermodynamic": _pairs(parts.thermodynamic.potential, parts.thermodynamic_error.potential),
            "effective_samples": estimate.effective_samples,
            "temperature": rv.statistics.weighted_mean(estimate.weights, temperature),
            "temperature_error": rv.statistics.weighted_mean_error(estimate.weights, temperature),
        }

    def show(self, line):
        d, error, target = line["diffusion"] * 1e9, line["diffusion_error"] * 1e9, float(self.target) / SI * 1e9
        return f"loss {line['loss']:.2e}, D {d:.3f} ± {error:.3f} (target {target:.3f}) 1e-9 m²/s"

    def check(self, state):
        sigma, epsilon = float(state.model.sigma), float(state.model.epsilon)
        if not (sigma > 0 and epsilon > 0):  # the energy knows only even powers of σ, and would go on without a sign
            raise rv.SimulationError(
                f"Update {state.step}: σ has become {sigma:.4g} nm and ε {epsilon:.4g} kJ/mol; wanted both above"
                " zero. Try a smaller --sigma-rate or --epsilon-rate."
            )


def _pairs(value: Any, error: Any) -> dict[str, Float[Array, ""]]:
    kinds = {"": value, "_error": error}
    return {f"{n}{kind}": getattr(tree, n) / SI for n in ("sigma", "epsilon") for kind, tree in kinds.items()}


def final_parameters(config: Config, history: list[dict[str, Any]], target: float) -> tuple[float, float]:
    """The mean of σ (nm) and ε (kJ/mol) over the last updates, moved by one Newton step to D = D*.

    The mean alone lags behind the iterates; the mean D of the same updates says by how much. The shortest of all steps
    to the line is taken, with lengths in units of the learning rates; a step is cut at five of these.
    """
    last = history[-config.average :]
    mean = lambda pick: np.mean([pick(line) for line in last])
    parts = ("dynamical", "thermodynamic") if config.gradient == "total" else ("dynamical",)
    rates = np.array([config.sigma_rate, config.epsilon_rate])
    slopes = [mean(lambda line, n=n: sum(line[part][n] for part in parts)) for n in ("sigma", "epsilon")]
    slope = rates * np.array(slopes)
    steps = slope * (target - mean(lambda line: line["diffusion"])) / max(float(slope @ slope), 1e-300)
    steps = steps * min(1.0, 5 / max(float(np.max(abs(steps))), 1e-300))
    sigma, epsilon = rates * steps + [mean(lambda line, n=n: line[n]) for n in ("sigma", "epsilon")]
    return float(sigma), float(epsilon)


def final_stage(
    config: Config, liquid: Liquid, potential: rv.LennardJones, chains: rv.State, key: PRNGKeyArray
) -> dict[str, np.ndarray]:
    """An independent evaluation of the final parameters."""
    keys, time = jax.random.split(key), config.equilibration / 2
    chains = liquid.sampling.equilibrate(potential, chains, time, keys[0], "equilibrating the result")
    return liquid.evaluate(potential, chains, config.final_samples, keys[1], "after the fit")
