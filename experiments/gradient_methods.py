"""Which gradient to use: bias, noise and cost of every estimator there is, side by side on small liquids.

Four observables: the diffusion coefficient of argon, its g(r) at one distance, an infrared band of dimers, and g(r)
with a pair potential that depends on the temperature; each by one parameter, from the same starts.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

import reverlet as rv

from . import _gradient_figures, _run
from ._argon import crystal
from ._chains import Chains, mean_over_chains
from ._errors import BadInput
from ._fields import above_zero, at_least, check_fields, not_negative
from ._folder import Folder, free_folder, write_json
from ._goals import Goal, agrees, at_most, judged, told
from ._gradient_cases import ATOMS, CASES, LENGTH, TEMPERATURE, Case
from ._gradient_estimators import Setting, all_of, covariance_of_all, values_and_slopes
from ._gradient_table import summarize, table


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that makes a run what it is. The defaults are those of `--preset quick`."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (a GPU), smoke (seconds, no physics)."""
    seed: Annotated[int, not_negative(0)] = 0
    """Of all random numbers."""
    only: Literal["all", "diffusion", "rdf", "infrared", "temperature"] = "all"
    """Which of the four observables."""
    trajectories: Annotated[int, at_least(4, 192)] = 192
    """How many, each from a chain of its own, for every estimator."""
    rounds: Annotated[int, at_least(2, 24)] = 24
    """Samples of every chain for the reference of static properties, by reweighting."""
    time_step: Annotated[float, above_zero(5)] = 5.0
    """fs."""
    save_every: Annotated[int, at_least(1, 10)] = 10
    """Time steps between two recorded points."""
    friction: Annotated[float, above_zero(1)] = 1.0
    """Of Langevin dynamics, 1/ps."""
    rate: Annotated[float, above_zero(1)] = 1.0
    """Of the path kernel, 1/ps."""
    spring: Annotated[float, not_negative(10)] = 10.0
    """Of the path kernel, 1/ps²."""
    window: Annotated[float, above_zero(0.75)] = 0.75
    """How old the noise is that counts where only late noise does, ps."""
    difference: Annotated[float, above_zero(0.02)] = 0.02
    """Half the step of finite differences, of the parameter."""
    longest: Annotated[float, above_zero(5)] = 5.0
    """Horizons beyond it are left out, ps."""
    melt: Annotated[float, not_negative(4)] = 4.0
    """How long the crystal is kept at three times the temperature to melt, ps."""
    equilibration: Annotated[float, not_negative(12)] = 12.0
    """How long the chains run before the trajectories start, ps."""

    def __post_init__(self):
        check_fields(self)
        if self.longest < 0.5:
            raise BadInput(f"--longest is {self.longest}; wanted at least 0.5 ps, the shortest horizon.")

    @property
    def dt(self) -> float:
        """ps."""
        return self.time_step * rv.units.FEMTOSECOND

    @property
    def setting(self) -> Setting:
        """How trajectories run."""
        c = self
        return Setting(c.dt, c.friction, c.save_every, c.rate, c.spring, c.window, c.difference)

    @property
    def cases(self) -> tuple[Case, ...]:
        """With the horizons that are left."""
        kept = lambda case: tuple(t for t in case.horizons if t <= self.longest) or case.horizons[:1]
        return tuple(
            dataclasses.replace(case, horizons=kept(case)) for case in CASES if self.only in ("all", case.name)
        )


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", trajectories=8192),
    "smoke": Config(preset="smoke", only="rdf", trajectories=4, rounds=2, longest=0.5, melt=0.0, equilibration=1.0),
}


@dataclasses.dataclass(frozen=True)
class Command:
    """Bias, noise and cost of every estimator of a gradient, on small liquids.

    Defaults are those of the preset. Time is in ps (time steps in fs).
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/gradient_methods, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("gradient_methods", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with three lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    out = command.out or free_folder(Path("results/gradient_methods"))
    folder = Folder(out, {"experiment": "gradient_methods", **dataclasses.asdict(config)}, resume=command.resume)
    summary = {}
    for k, case in enumerate(config.cases):
        arrays = folder.array_stage(f"{case.name}.npz", lambda case=case, k=k: case_stage(config, case, k))
        summary[case.name] = summarize(case, arrays)
    found = judged(goals(summary) if config.longest >= 5 and "diffusion" in summary else [], config.preset)
    seconds = time.perf_counter() - started
    write_json(folder / "summary.json", {"cases": summary, "timing": {"seconds": seconds}, "goals": found})
    (folder / "table.md").write_text(table(config.cases, summary))
    figure = _gradient_figures.draw(folder.path)
    print(f"{config.trajectories} trajectories for every estimator of {len(summary)} gradients: {folder / 'table.md'}.")
    print(f"Figure: {figure}, after {seconds:.0f} s.")
    print(told(found, config.preset))


def case_stage(config: Config, case: Case, number: int) -> dict[str, np.ndarray]:
    """Every estimator of one case, from freshly equilibrated chains."""
    topology, state = crystal(ATOMS, LENGTH, 0)
    sampling = Chains(topology, TEMPERATURE, friction=1.0, dt=config.dt, interval=1.0)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), 5)
    potential = case.system().potential
    chains = sampling.with_new_velocities(state.repeat(config.trajectories), keys[0])
    chains = sampling.equilibrate(potential, chains, config.melt, keys[1], f"{case.name}: melting", factor=3.0)
    chains = sampling.equilibrate(potential, chains, config.equilibration, keys[2], f"{case.name}: equilibrating")
    samples, chains = sampling.draw(potential, chains, keys[3])
    print(f"{case.name}: {len(samples)} starts", file=sys.stderr)
    found = list(all_of(case, config.setting, samples, keys[4]))
    if case.static:
        measure = lambda _, drawn: values_and_slopes(case, drawn.states)
        size = config.rounds * config.trajectories
        later = sampling.measure(potential, chains, size, keys[0], f"{case.name}: reference", measure)
        reference = np.array(mean_over_chains(covariance_of_all(*later)))
    else:
        reference = np.full(2, np.nan)
    return {
        "names": np.array([f.name for f in found]),
        "exact": np.array([f.exact for f in found]),
        "each": np.stack([f.each for f in found]),
        "seconds": np.stack([f.seconds for f in found]),
        "horizons": np.array(case.horizons),
        "reference": reference,
    }


def goals(summary: dict[str, Any]) -> list[Goal]:
    """Of the diffusion of argon beyond the horizon: a third of the pathwise error at equal compute, and no bias where
    the pathwise derivative knows better."""
    rows = summary["diffusion"]["estimators"]
    kernel, pathwise, energy = (rows[n] for n in ("kernel, near noise", "pathwise, Langevin", "forward mode"))
    horizons, found = summary["diffusion"]["horizons"], []
    error = lambda row, k: row["error"][k] * np.sqrt(row["seconds"][k])
    for t in (2.5, 3.75, 5.0):
        k = horizons.index(t)
        ratio = error(kernel, k) / error(pathwise, k)
        found.append(at_most(f"error of the kernel over the pathwise at equal CPU time, {t:g} ps", ratio, 1 / 3))
    k = horizons.index(2.0)
    both = float(np.hypot(kernel["error"][k], pathwise["error"][k]))
    name = "dD/depsilon at 2 ps by the kernel and pathwise, nm^2/ps per kJ/mol"
    found.append(agrees(name, kernel["gradient"][k], pathwise["gradient"][k], both))
    k = horizons.index(1.5)
    both = float(np.hypot(energy["error"][k], pathwise["error"][k]))
    name = "dD/depsilon at 1.5 ps with friction and at constant energy, nm^2/ps per kJ/mol"
    found.append(agrees(name, pathwise["gradient"][k], energy["gradient"][k], both))
    return found
