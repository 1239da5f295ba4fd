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

from . import _argon, _horizon_figure, _run, lj_diffusion
from ._errors import BadInput, refusing
from ._folder import Folder, free_folder, write_json


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that makes a run what it is. The defaults are those of `--preset quick`."""

    preset: Literal["quick", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), smoke (seconds, no physics)."""
    seed: int = 0
    """Of all random numbers: the same seed on the same machine gives the same numbers."""
    atoms: int = 108
    """How many argon atoms."""
    box_length: float = 1.73405
    """Of the cubic box, nm."""
    temperature: float = 94.4
    """K."""
    sigma: float = 0.338
    """σ, nm."""
    epsilon: float = 0.893795
    """ε, kJ/mol."""
    trajectories: int = 128
    """How many, each from a chain of its own."""
    time_step: float = 5.0
    """Of chains and trajectories, fs."""
    horizon: float = 6.0
    """The longest trajectories, ps."""
    save_every: int = 4
    """Time steps between two recorded points."""
    horizons: int = 60
    """How many lengths of trajectories are compared."""
    threshold: float = 3.0
    """The least signal-to-noise ratio of a horizon that is proposed."""
    melt: float = 4.0
    """How long the crystal is kept at three times the temperature to melt, ps."""
    equilibration: float = 16.0
    """How long the chains run before the trajectories start, ps."""

    @property
    def liquid(self) -> lj_diffusion.Config:
        """The same liquid, as the experiment that fits it has it; refuses what it would refuse."""
        names = {f.name for f in dataclasses.fields(lj_diffusion.Config)} - {"preset"}
        return lj_diffusion.Config(**{k: v for k, v in dataclasses.asdict(self).items() if k in names})


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
    """The whole experiment; ends with three lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    with refusing():
        topology, state = _argon.crystal(config.atoms, config.box_length, config.seed)
        potential = rv.LennardJones(config.sigma, config.epsilon, cutoff=min(1.0, 0.49 * config.box_length))
        rv.System(topology, potential).check(state)
    frames = round(config.horizon / config.liquid.dt) // config.save_every
    if config.horizons < 4 or frames % config.horizons != 0:
        raise BadInput(
            f"--horizons is {config.horizons}; wanted at least 4, and a divisor of {frames}, the number of recorded"
            f" points, such as {frames}."
        )
    out = command.out or free_folder(Path("results/gradient_horizon"))
    folder = Folder(out, {"experiment": "gradient_horizon", **dataclasses.asdict(config)}, resume=command.resume)

    arrays = folder.array_stage("horizon.npz", lambda: horizon_stage(config, topology, state, potential))
    summary = summarize(config, arrays)
    write_json(folder / "summary.json", summary)
    figure = _horizon_figure.draw(folder.path)
    seconds = time.perf_counter() - started
    write_json(folder / "summary.json", {**summary, "timing": {"seconds": seconds}})
    for line in three_lines(config, summary, seconds, figure):
        print(line)


def horizon_stage(
    config: Config, topology: rv.Topology, state: rv.State, potential: rv.LennardJones
) -> dict[str, np.ndarray]:
    """All fields of the diagnosis, from freshly equilibrated chains."""
    liquid = lj_diffusion.Liquid(config.liquid, topology, potential)
    keys = jax.random.split(jax.random.key(config.seed), 5)
    chains = liquid.chains.with_new_velocities(state.repeat(config.trajectories), keys[0])
    chains = liquid.chains.equilibrate(potential, chains, config.melt, keys[1], "melting", factor=3.0)
    chains = liquid.chains.equilibrate(potential, chains, config.equilibration, keys[2], "equilibrating")
    samples = liquid.chains.draw(potential, chains, keys[3])
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
        "signal_to_noise_at_least": {str(level): last_above(level) for level in (10, 3, 1)},
        "lyapunov": with_error("lyapunov"),
        "noise_growth_rate": noise_growth(a),
        "at_horizon": {
            "horizon": time(a["horizons"][at]),
            "diffusion": float(a["value"][at] / lj_diffusion.SI),
            "diffusion_error": float(a["value_error"][at] / lj_diffusion.SI),
            **{
                name: {"gradient": float(g), "error": float(e)}
                for name, g, e in zip(a["names"], a["gradient"][at], a["gradient_error"][at], strict=True)
            },
        },
    }


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
        f"Proposed horizon: {proposed}; the correlation has decayed {decay}, the Lyapunov exponent is"
        f" {s['lyapunov']['value']:.2f} ± {s['lyapunov']['error']:.2f} 1/ps, the gradient's noise grows by"
        f" {s['noise_growth_rate']:.2f} 1/ps.",
        f"At {at['horizon']:.2f} ps: D {at['diffusion'] * 1e9:.3f} ± {at['diffusion_error'] * 1e9:.3f} 1e-9 m²/s,"
        f" {s['trajectories']} trajectories of {s['atoms']} argon atoms at {config.temperature:g} K.",
        f"Figure: {figure}, after {seconds:.0f} s.",
    ]
