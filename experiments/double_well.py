"""Recover a double well from the density of an ideal gas in it, by reweighting: the first case of DiffTRe.

Particles that do not see each other move in one dimension of a periodic box. Of the potential only a prior is known, a
harmonic well; a monotone spline on it is fitted until the density profile is that of the double well. Since particles
are independent, each is a sample. Beside it, what the gradient of the same loss is when it goes through the simulation:
it grows exponentially with the length of the trajectory.
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
from jaxtyping import Array

import reverlet as rv

from . import _run
from ._double_well_figures import draw
from ._errors import BadInput
from ._fields import Check, above_zero, at_least, check_fields, not_negative
from ._folder import Folder, History, free_folder, write_json
from ._goals import Goal, at_least as more_than, at_most, in_time, judged, told
from ._reweighted import Redrawn, descended

TEMPERATURE = 1 / rv.units.BOLTZMANN
"""K: kT is 1 kJ/mol. With masses of 1 u and lengths of 1 nm, times in ps are then those in the original's units."""
BINS = 101


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is. Energies are in kT, lengths in those of the box."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (more samples), smoke (seconds)."""
    seed: Annotated[int, not_negative(0)] = 0
    """Of all random numbers."""
    particles: Annotated[int, at_least(2, 2000)] = 2000
    """Chains, each of one particle of the ideal gas."""
    samples: Annotated[int, at_least(1, 200)] = 200
    """Of every particle, whenever new ones are drawn."""
    interval: Annotated[float, above_zero(0.2)] = 0.2
    """The time between two samples."""
    equilibration: Annotated[int, not_negative(5)] = 5
    """Samples that are thrown away before."""
    friction: Annotated[float, above_zero(2)] = 2.0
    """Of the Langevin dynamics, per unit of time."""
    time_step: Annotated[float, above_zero(1e-3)] = 1e-3
    """Of it."""
    knots: Annotated[int, at_least(4, 50)] = 50
    """Of the spline."""
    updates: Annotated[int, at_least(1, 200)] = 200
    """Steps of Adam."""
    rate: Annotated[float, above_zero(0.5)] = 0.5
    """Its learning rate at first, in kT."""
    final_rate: Annotated[float, above_zero(0.006)] = 0.006
    """And at last; it falls exponentially."""
    least: Annotated[float, Check(lambda x: 0 < x <= 1, "a part of one", 0.9)] = 0.9
    """The part of the samples that must count, by 1/Σw², for them to be used again."""
    uses: Annotated[int, at_least(1, 10)] = 10
    """How many updates use the same samples at most."""
    final_samples: Annotated[int, at_least(1, 400)] = 400
    """Of every particle, of the final simulation."""
    lengths: tuple[float, ...] = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0)
    """Of the trajectories that gradients are taken through; frames are 0.05 apart."""
    walkers: Annotated[int, at_least(1, 200)] = 200
    """Particles of these trajectories."""

    def __post_init__(self):
        check_fields(self)
        if not self.lengths or not all(x >= 0.05 for x in self.lengths) or sorted(self.lengths) != list(self.lengths):
            raise BadInput(
                f"--lengths is {self.lengths}; wanted increasing times of at least 0.05, such as 5 10 20 40."
            )


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", samples=500, uses=10, final_samples=2000, walkers=2000),
    "smoke": Config(
        preset="smoke", particles=40, samples=4, knots=8, updates=3, final_samples=4, lengths=(0.05, 0.1), walkers=4
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Recover a double well from the density of an ideal gas in it.

    Writes history.jsonl, profiles.npz with profiles and potentials, gradients.npz with norms of gradients through
    simulations, and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/double_well, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("double_well", PRESETS, Command, arguments)))


# ---- the gas


PROFILE = rv.DensityProfile(BINS, 1 / BINS, axis=0)
"""Every particle smeared by a Gaussian of one bin. Of one particle in a box of length 1 it is the density over its
mean."""


def _inside(positions: Array) -> Array:
    return positions[:, 0] - jnp.floor(positions[:, 0])


def prior(x: Any) -> Any:
    """kT."""
    return 75 * (x - 0.5) ** 2


def truth(x: Any) -> Any:
    """The double well, kT."""
    return 2500 * (x - 0.5) ** 6 - 10 * (x - 0.55) ** 2


def _energy(spline, positions, box):
    del box
    x = _inside(positions)
    return jnp.sum(prior(x) + spline(x))


def gas(spline: rv.splines.CubicSpline, particles: int = 1) -> rv.System:
    """Particles in the prior and a spline, whose values are in kJ/mol, which is kT."""
    return rv.System(_topology(particles), rv.FunctionPotential(_energy, spline))  # pyright: ignore[reportCallIssue]


def _topology(particles: int) -> rv.Topology:
    return rv.Topology.from_elements(["H"] * particles, masses=np.ones(particles))


def start(particles: int, chains: int, key: Any, dtype: Any = jnp.float32) -> rv.State:
    """Chains in equilibrium with the prior, spread over the other two directions."""
    keys = jax.random.split(key, 3)
    shape = (chains, particles, 3)
    x = jax.random.uniform(keys[0], shape, dtype)
    x = x.at[..., 0].set(0.5 + jax.random.normal(keys[1], shape[:2], dtype) * 150**-0.5)
    velocities = jax.random.normal(keys[2], shape, dtype)
    box = rv.OrthorhombicBox(jnp.ones(3, dtype))
    return jax.vmap(lambda x, v: rv.State(x, v, box))(x, velocities)


_GRID = (np.arange(200 * BINS) + 0.5) / (200 * BINS)


def exact_profile(potential: np.ndarray) -> np.ndarray:
    """The profile in a potential (kT) known on a fine grid: by quadrature, smeared as the observable does."""
    weights = np.exp(-(potential - potential.min()))
    x = jnp.asarray(np.stack([_GRID, 0 * _GRID, 0 * _GRID], axis=1))
    states = jax.vmap(lambda x: rv.State(x[None], None, rv.OrthorhombicBox(jnp.ones(3, x.dtype))))(x)
    one = lambda state: PROFILE.record(_BARE, state, state)
    return np.asarray(weights / weights.sum() @ np.asarray(jax.lax.map(one, states, batch_size=1000), float))


_BARE = gas(rv.splines.CubicSpline(jnp.zeros(4), first=0.0, last=1.0))


# ---- the run


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began = time.perf_counter()
    config = command.config
    out = command.out or free_folder(Path("results/double_well"))
    folder = Folder(out, {"experiment": "double_well", **dataclasses.asdict(config)}, resume=command.resume)
    target = exact_profile(truth(_GRID))
    fresh = rv.splines.CubicSpline(jnp.zeros(config.knots, jnp.float32), first=0.0, last=1.0)
    fitted = _fit(config, folder, fresh, jnp.asarray(target, jnp.float32))
    profiles = folder.array_stage("profiles.npz", lambda: _profiles(config, fitted.model, target))
    gradients = folder.array_stage("gradients.npz", lambda: _gradients(config, fresh, fitted.model, target))
    losses, drawn = fitted.history["report"]["mse"], fitted.history["drawn"]
    lengths, found = gradients["lengths"], gradients["fitted"]
    error = lambda name: float(np.mean((profiles[name] - target) ** 2))
    weight = profiles["target_fine"] / profiles["target_fine"].sum()
    away = profiles["potential"] - profiles["truth"]
    away = away - weight @ away
    known = profiles["target_fine"] > 0.05
    summary: dict[str, Any] = {
        "mse_before": float(losses[0]),
        "mse_of_prior": float(np.mean((exact_profile(prior(_GRID)) - target) ** 2)),
        "mse_of_last_update": float(losses[-1]),
        "mse_simulated": error("simulated"),
        "mse_of_noise": float(np.mean(profiles["simulated_error"] ** 2)),
        "mse_exact": error("exact"),
        "potential_rms_kT": float(np.sqrt(weight @ away**2)),
        "potential_most_kT": float(np.max(np.abs(away[known]))),
        "updates": int(fitted.step),
        "drawn": int(np.sum(drawn)),
        "gradient_lengths": lengths.tolist(),
        "gradient_norms_fitted": [float(x) for x in found],
        "gradient_norms_prior": [float(x) for x in gradients["prior"]],
        "gradient_norms_reweighted": [float(x) for x in gradients["reweighted"]],
    }
    history = History(folder / "history.jsonl")
    of_updates = sum(s for s in history.seconds.values() if s is not None)
    seconds = time.perf_counter() - began
    timing = {"seconds": seconds, "seconds_of_updates": of_updates}
    told_goals = judged(_goals(summary, seconds, command), config.preset)
    write_json(folder / "summary.json", {**summary, "timing": timing, "goals": told_goals})
    figures = draw(folder.path)
    print(
        f"Fitted: {config.knots} knots to the density profile of {config.particles} particles, {fitted.step} updates of"
        f" which {summary['drawn']} drew samples.",
        f"From, to: mean squared error of the profile {summary['mse_of_prior']:.4g} to {summary['mse_exact']:.3g}"
        f" (exact, of the potential), {summary['mse_of_last_update']:.3g} (last update), {summary['mse_simulated']:.3g}"
        f" (another simulation, whose own noise is {summary['mse_of_noise']:.2g}).",
        f"How well: the potential is {summary['potential_rms_kT']:.3g} kT from the true one as a root mean square over"
        f" the density, at most {summary['potential_most_kT']:.3g} kT where that is above 5 % of its mean."
        f" {told(told_goals, config.preset)}",
        f"Gradients through the simulation: norms {found[0]:.3g} to {found[-1]:.3g} for lengths {lengths[0]:g} to"
        f" {lengths[-1]:g}; by reweighting {gradients['reweighted'].min():.3g} to {gradients['reweighted'].max():.3g}.",
        f"How long: {seconds:.0f} s; {of_updates:.0f} s of updates.",
        f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)}).",
        sep="\n",
    )


def _key(config: Config, stage: int) -> Any:
    return jax.random.fold_in(jax.random.key(config.seed), stage)


def _sampler(config: Config) -> rv.LangevinBAOAB:
    return rv.LangevinBAOAB(
        TEMPERATURE, config.friction, dt=config.time_step, num_steps=round(config.interval / config.time_step)
    )


def _loss(spline, samples, target):
    value = rv.expectation(PROFILE, gas(spline), samples).value
    return jnp.mean((value - target) ** 2)


def _fit(config: Config, folder: Folder, spline: rv.splines.CubicSpline, target: Array) -> rv.FitState:
    def loss(model, samples):
        mse = _loss(model, samples, target)
        return mse, {"mse": mse}

    rate = optax.exponential_decay(config.rate, config.updates, config.final_rate / config.rate)
    return descended(
        loss,
        gas,
        Redrawn(
            _sampler(config), config.particles * config.samples, config.equilibration, config.least, config.uses
        ),
        spline,
        optax.adam(rate),
        start(1, config.particles, _key(config, 0)),
        updates=config.updates,
        key=_key(config, 1),
        checkpoint=folder.checkpoint,
        history=folder / "history.jsonl",
        lines=lambda report: {"mse": float(report["mse"])},
    )  # fmt: skip


def _profiles(config: Config, spline: rv.splines.CubicSpline, target: np.ndarray) -> dict[str, np.ndarray]:
    """Of the fitted potential: in another simulation with the error of its mean, and exact; and the potentials."""
    redrawn = Redrawn(_sampler(config), config.particles * config.final_samples, 20, 1.0, 1)
    chains = rv.Chains(start(1, config.particles, _key(config, 2)))
    samples, _ = eqx.filter_jit(redrawn.draw)(gas(spline), chains, _key(config, 3))
    found = eqx.filter_jit(rv.expectation)(PROFILE, gas(spline), samples)
    fine = prior(_GRID) + np.asarray(spline(jnp.asarray(_GRID, jnp.float32)), float)
    density = np.exp(-(truth(_GRID) - truth(_GRID).min()))
    return {
        "x": (np.arange(BINS) + 0.5) / BINS,
        "target": target,
        "prior": exact_profile(prior(_GRID)),
        "simulated": np.asarray(found.value, float),
        "simulated_error": np.asarray(found.error, float),
        "exact": exact_profile(fine),
        "x_fine": _GRID,
        "target_fine": density / density.mean(),
        "potential": fine,
        "truth": truth(_GRID),
        "prior_potential": prior(_GRID),
    }


def _gradients(
    config: Config, fresh: rv.splines.CubicSpline, fitted: rv.splines.CubicSpline, target: np.ndarray
) -> dict[str, np.ndarray]:
    """Norms of the gradient of the loss through simulations of several lengths, at the prior and at the fitted
    potential, in double precision, since they outgrow single; and by reweighting, of as many samples."""
    lengths, norms = np.asarray(config.lengths), {"prior": [], "fitted": [], "reweighted": []}
    with jax.enable_x64(True):
        cast = lambda spline: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), spline)
        state = jax.tree.map(lambda x: x[0], start(config.walkers, 1, _key(config, 4), jnp.float64))
        for length in lengths:
            frames = round(length / 0.05)
            for name, spline in (("prior", fresh), ("fitted", fitted)):
                steps = round(0.05 / config.time_step)
                gradient = _through(
                    cast(spline), state, jnp.asarray(target), frames, steps, _sampler(config), _key(config, 5)
                )
                norms[name].append(float(jnp.linalg.norm(gradient.values)))
    chains = rv.Chains(start(1, config.walkers, _key(config, 6)))
    for k, length in enumerate(lengths):
        redrawn = Redrawn(_sampler(config), config.walkers * max(1, round(length / config.interval)), 5, 1.0, 1)
        samples, _ = eqx.filter_jit(redrawn.draw)(gas(fitted), chains, jax.random.fold_in(_key(config, 7), k))
        gradient = eqx.filter_jit(eqx.filter_grad(_loss))(fitted, samples, jnp.asarray(target, jnp.float32))
        norms["reweighted"].append(float(jnp.linalg.norm(gradient.values)))
    return {"lengths": lengths, **{name: np.asarray(x) for name, x in norms.items()}}


def _loss_through(spline, state, target, frames, steps, sampler, key):
    """The same loss, of the mean over the frames of one simulation of all particles."""
    system = gas(spline, len(state.positions))

    def step(carry, k):
        return sampler.step(system, *carry, jax.random.fold_in(key, k)), None

    @jax.checkpoint
    def frame(carry, ks):
        carry, _ = jax.lax.scan(step, carry, ks)
        return carry, PROFILE.record(system, carry[0], carry[0]) / len(state.positions)

    _, profiles = jax.lax.scan(frame, sampler.start(system, state), jnp.arange(frames * steps).reshape(frames, steps))
    return jnp.mean((jnp.mean(profiles, axis=0) - target) ** 2)


_through = eqx.filter_jit(eqx.filter_grad(_loss_through))


def _goals(summary: dict[str, Any], seconds: float, command: Command) -> list[Goal]:
    norms = summary["gradient_norms_fitted"]
    return [
        at_most("mean squared error of the profile, last update", summary["mse_of_last_update"], 1.45e-4),
        at_most("mean squared error of the profile, exact", summary["mse_exact"], 1.45e-4),
        at_most("mean squared error of the profile, another simulation", summary["mse_simulated"], 1.45e-4),
        at_most("potential, root mean square over the density, kT", summary["potential_rms_kT"], 0.05),
        more_than("growth of the gradient through the simulation", norms[-1] / norms[0], 1e3),
        in_time(seconds, 15, resumed=command.resume),
    ]
