"""How long trajectories may be before the gradient of the diffusion coefficient is noise: liquid argon.

One run in forward mode from independent samples gives D, its derivatives by σ and ε and their standard errors for
trajectories of every length; another the largest Lyapunov exponent (`rv.gradient_horizon`).
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import numpy as np
import tyro

import reverlet as rv

from . import _horizon_figure, _run
from ._argon import SI, Liquid, crystal
from ._chains import Chains
from ._errors import BadInput, refusing
from ._fields import above_zero, at_least, check_fields, nm, not_negative, ps, require_frames, step_fs
from ._folder import Folder, free_folder, write_json
from ._goals import Goal, at_least as no_less, at_most, judged, told


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that makes a run what it is. The defaults are those of `--preset quick`."""

    preset: Literal["quick", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), smoke (seconds, no physics)."""
    seed: Annotated[int, not_negative(0)] = 0
    """Of all random numbers: the same seed on the same machine gives the same numbers."""
    atoms: Annotated[int, at_least(2, 108)] = 108
    """How many argon atoms."""
    box_length: Annotated[float, above_zero(1.73405)] = 1.73405
    """Of the cubic box, nm."""
    temperature: Annotated[float, above_zero(94.4)] = 94.4
    """K."""
    sigma: Annotated[float, nm(0.338)] = 0.338
    """σ, nm."""
    epsilon: Annotated[float, above_zero(0.893795)] = 0.893795
    """ε, kJ/mol."""
    trajectories: Annotated[int, at_least(2, 128)] = 128
    """How many, each from a chain of its own."""
    time_step: Annotated[float, step_fs(5)] = 5.0
    """Of chains and trajectories, fs."""
    horizon: Annotated[float, ps(6)] = 6.0
    """The longest trajectories, ps."""
    save_every: Annotated[int, at_least(1, 4)] = 4
    """Time steps between two recorded points."""
    horizons: int = 60
    """How many lengths of trajectories are compared."""
    threshold: Annotated[float, above_zero(3)] = 3.0
    """The least signal-to-noise ratio of a horizon that is proposed."""
    melt: Annotated[float, ps(4, zero=True)] = 4.0
    """How long the crystal is kept at three times the temperature to melt, ps."""
    equilibration: Annotated[float, ps(16, zero=True)] = 16.0
    """How long the chains run before the trajectories start, ps."""

    def __post_init__(self):
        check_fields(self)
        require_frames("horizon", self.horizon, self.horizon, self.dt * self.save_every)
        frames = round(self.horizon / self.dt) // self.save_every
        if self.horizons < 4 or frames % self.horizons != 0:
            raise BadInput(
                f"--horizons is {self.horizons}; wanted at least 4, and a divisor of {frames}, the number of recorded"
                f" points, such as {frames}."
            )

    @property
    def dt(self) -> float:
        """ps."""
        return self.time_step * rv.units.FEMTOSECOND


PRESETS = {
    "quick": Config(),
    "smoke": Config(
        preset="smoke",
        atoms=32,
        box_length=1.1561,
        trajectories=8,
        horizon=0.4,
        save_every=2,
        horizons=8,
        melt=0.4,
        equilibration=0.4,
    ),
}


@dataclasses.dataclass(frozen=True)
class Command:
    """How long trajectories may be before the gradient of the diffusion coefficient of liquid argon is noise.

    Defaults are those of the preset. Length is in nm, time in ps (time steps in fs), energy in kJ/mol, temperature
    in K.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/gradient_horizon, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("gradient_horizon", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with four lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    with refusing():
        topology, state = crystal(config.atoms, config.box_length, config.seed)
        potential = rv.LennardJones(config.sigma, config.epsilon, cutoff=min(1.0, 0.49 * config.box_length))
        rv.System(topology, potential).check(state)
    out = command.out or free_folder(Path("results/gradient_horizon"))
    folder = Folder(out, {"experiment": "gradient_horizon", **dataclasses.asdict(config)}, resume=command.resume)

    arrays = folder.array_stage("horizon.npz", lambda: horizon_stage(config, topology, state, potential))
    summary = summarize(config, arrays)
    write_json(folder / "summary.json", summary)
    figure = _horizon_figure.draw(folder.path)
    seconds = time.perf_counter() - started
    found = judged(goals(config, summary), config.preset)
    write_json(folder / "summary.json", {**summary, "timing": {"seconds": seconds}, "goals": found})
    for line in [*three_lines(config, summary, seconds, figure), told(found, config.preset)]:
        print(line)


def horizon_stage(
    config: Config, topology: rv.Topology, state: rv.State, potential: rv.LennardJones
) -> dict[str, np.ndarray]:
    """All fields of the diagnosis, from freshly equilibrated chains."""
    sampling = Chains(topology, config.temperature, friction=1.0, dt=config.dt, interval=1.0)
    liquid = Liquid(potential, sampling, config.horizon, config.save_every)
    keys = jax.random.split(jax.random.key(config.seed), 5)
    chains = liquid.melted(state, config.trajectories, config.melt, config.equilibration, keys)
    samples, _ = sampling.draw(potential, chains, keys[3])
    print("gradients against the integration time ...", file=sys.stderr)
    diagnosis = eqx.filter_jit(rv.gradient_horizon)(
        rv.SelfDiffusion(),
        rv.System(topology, potential),
        samples,
        liquid.dynamics,
        num_horizons=config.horizons,
        threshold=config.threshold,
        key=keys[4],
    )
    fields = {f.name: np.asarray(getattr(diagnosis, f.name)) for f in dataclasses.fields(diagnosis)}
    return {**fields, "signal_to_noise": np.asarray(diagnosis.signal_to_noise)}


def summarize(config: Config, a: dict[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of `summary.json`."""
    time = lambda t: round(float(t), 6) if np.isfinite(t) else None  # single precision has no more digits
    ratio = a["signal_to_noise"].min(axis=1)
    proposed = float(a["proposed"])
    at = int(np.nanargmin(abs(a["horizons"] - proposed))) if np.isfinite(proposed) else len(ratio) - 1

    def last_above(level: float) -> float | None:
        """The length up to which the ratio is at least `level` without a break, once it has been."""
        above = ratio >= level
        if not above.any():
            return None
        first = int(np.argmax(above))
        broken = np.flatnonzero(~above[first:])
        return time(a["horizons"][first + broken[0] - 1 if len(broken) else -1])

    with_error = lambda name: {"value": float(a[name]), "error": float(a[f"{name}_error"])}
    return {
        "units": {
            "times": "ps",
            "diffusion": "m^2/s",
            "gradient": "dD/dsigma in nm/ps, dD/depsilon in nm^2/ps per kJ/mol",
            "lyapunov": "1/ps",
        },
        "atoms": config.atoms,
        "trajectories": config.trajectories,
        "proposed_horizon": time(proposed),
        "correlation_decay": time(a["decay"]),
        "value_settled": time(a["settled"]),
        "signal_to_noise_at_least": {str(level): last_above(level) for level in (10, 3, 1)},
        "lyapunov": with_error("lyapunov"),
        "noise_growth_rate": noise_growth(a),
        "at_horizon": {
            "horizon": time(a["horizons"][at]),
            "signal_to_noise": float(ratio[at]),
            "diffusion": float(a["value"][at] / SI),
            "diffusion_error": float(a["value_error"][at] / SI),
            **{
                name.removeprefix("potential."): {"gradient": float(g), "error": float(e)}
                for name, g, e in zip(a["names"], a["gradient"][at], a["gradient_error"][at], strict=True)
            },
        },
    }


def goals(config: Config, summary: dict[str, Any]) -> list[Goal]:
    """What is claimed of the horizon that is proposed: there is a signal, and nothing to integrate beyond; and of the
    noise: it grows as perturbations do."""
    proposed = summary["proposed_horizon"]
    ratio = summary["at_horizon"]["signal_to_noise"] if proposed is not None else np.nan
    decay = np.inf if summary["correlation_decay"] is None else summary["correlation_decay"]
    over = max(decay, summary["value_settled"])
    chaos, noise = summary["lyapunov"], summary["noise_growth_rate"]
    # slopes over half of the time, of a noise that is itself estimated from the same trajectories
    away = abs(noise / chaos["value"] - 1)
    return [
        no_less("signal-to-noise ratio at the proposed horizon", ratio, config.threshold),
        no_less("proposed horizon, over when correlation and value have converged", (proposed or np.nan) / over, 1),
        at_most("growth of the gradient's noise against the Lyapunov exponent, relative", away, 0.1),
    ]


def noise_growth(a: dict[str, np.ndarray]) -> float:
    """The slope of the logarithm of the gradient's standard error over the second half of the time, 1/ps: the mean."""
    late = a["horizons"] >= 0.5 * a["horizons"][-1]
    return float(np.polyfit(a["horizons"][late].astype(float), np.log(a["gradient_error"][late]), 1)[0].mean())


def three_lines(config: Config, summary: dict[str, Any], seconds: float, figure: Path) -> list[str]:
    """What was found, how, and where the figure is."""
    s, at = summary, summary["at_horizon"]
    proposed = "none" if s["proposed_horizon"] is None else f"{s['proposed_horizon']:.2f} ps"
    decay = "later" if s["correlation_decay"] is None else f"by {s['correlation_decay']:.2f} ps"
    return [
        f"Proposed horizon: {proposed}; the correlation has decayed {decay}, D has settled by"
        f" {s['value_settled']:.2f} ps, the Lyapunov exponent is"
        f" {s['lyapunov']['value']:.2f} ± {s['lyapunov']['error']:.2f} 1/ps, the gradient's noise grows by"
        f" {s['noise_growth_rate']:.2f} 1/ps.",
        f"At {at['horizon']:.2f} ps: D {at['diffusion'] * 1e9:.3f} ± {at['diffusion_error'] * 1e9:.3f} 1e-9 m²/s,"
        f" {s['trajectories']} trajectories of {s['atoms']} argon atoms at {config.temperature:g} K.",
        f"Figure: {figure}, after {seconds:.0f} s.",
    ]
