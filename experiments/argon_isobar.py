"""Fit a Lennard-Jones potential to densities and enthalpies of vaporization of liquid argon, by reweighting.

The smallest fit to thermodynamic data: a `data.csv` as ForceBalance writes it, two parameters, samples at constant
pressure, Gauss–Newton steps. Both the potential at the start and the fitted one are then measured in runs of their own,
which the fit has not seen.
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
from tqdm import tqdm

import reverlet as rv
from reverlet import reweighting, targets

from . import _run
from ._argon import crystal
from ._errors import BadInput, refusing
from ._fields import above_zero, at_least, check_fields, nm, step_ps
from ._folder import Folder, digest, free_folder, write_json
from ._goals import Goal, at_most, in_time, judged, told
from ._isobar_figures import draw
from ._target_fits import fitted, predicted

DATA = Path(__file__).parent / "reference/argon_isobar/data.csv"
GRAM = rv.units.GRAM_PER_CUBIC_CENTIMETER
_LOOSE = 1.25
"""g/cm³, at which a crystal is melted."""

_LEAST = 0.25
"""The part of the samples that must count: of 108 atoms a step of σ by 1 % leaves less than a half, and a fit that
wants a half takes many short steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds)."""
    seed: int = 0
    """Of all random numbers."""
    data: Path = DATA
    """Densities and enthalpies of vaporization of argon at constant pressure, as ForceBalance's data.csv."""
    sigma: Annotated[float, nm(0.345)] = 0.345
    """nm, at the start."""
    epsilon: Annotated[float, above_zero(0.94)] = 0.94
    """kJ/mol, at the start."""

    atoms: Annotated[int, at_least(32, 108)] = 108
    """Of the liquid."""
    cutoff: Annotated[float, nm(0.75)] = 0.75
    """nm; what is beyond is a tail correction. Energies fall to zero from 0.1 nm before."""
    chains: Annotated[int, at_least(2, 8)] = 8
    """At every temperature."""
    dt: Annotated[float, step_ps(0.01)] = 0.01
    """Time step, ps."""
    interval: Annotated[int, at_least(20, 100)] = 100
    """Time steps between samples, a multiple of 20."""
    melting: Annotated[int, at_least(1, 2000)] = 2000
    """Time steps at 250 K, in which the crystal melts."""
    samples: Annotated[int, at_least(8, 320)] = 320
    """Of every temperature whenever the fit draws new ones, a multiple of the chains."""
    equilibration: Annotated[int, at_least(1, 20)] = 20
    """Samples of every chain that are thrown away before."""
    updates: Annotated[int, at_least(1, 16)] = 16
    """Steps at most; the fit ends when they are within their noise."""
    check: Annotated[int, at_least(8, 640)] = 640
    """Samples of every temperature that the potential is measured with, before and after."""

    def __post_init__(self):
        check_fields(self)
        for name in ("samples", "check"):
            if getattr(self, name) % self.chains:
                raise BadInput(f"--{name} is {getattr(self, name)}; wanted a multiple of --chains, {self.chains}.")
        if self.interval % 20:
            raise BadInput(f"--interval is {self.interval}; wanted a multiple of 20, which is when the cell moves.")


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", atoms=500, cutoff=1.1, chains=16, samples=3200, check=16000, updates=30),
    # as many chains as samples that the fit wants to be independent
    "smoke": Config(
        preset="smoke",
        atoms=32,
        cutoff=0.5,
        chains=24,
        interval=40,
        melting=400,
        samples=96,
        equilibration=20,
        updates=1,
        check=48,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Fit a Lennard-Jones potential to densities and enthalpies of vaporization of liquid argon.

    Writes targets.toml, the targets as the library has them; before.json and after.json, what both potentials were
    measured to be; fit.txt, with errors, covariance and sensitivities; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/argon_isobar, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("argon_isobar", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    with refusing():
        isobar = Isobar.of(config)
    out = command.out or free_folder(Path("results/argon_isobar"))
    described = {**dataclasses.asdict(config), "data": str(config.data), "data_sha256": digest(config.data)}
    folder = Folder(out, {"experiment": "argon_isobar", **described}, resume=command.resume)
    targets.write(folder / "targets.toml", isobar.file)

    melted = isobar.melted(folder, isobar.potential(config.sigma, config.epsilon))
    start = isobar.potential(config.sigma, config.epsilon)
    before = folder.json_stage("before.json", lambda: isobar.measured(start, melted, 1))
    found = fit(isobar, start, melted, folder)
    after = folder.json_stage("after.json", lambda: isobar.measured(found.model, melted, 2))
    (folder / "fit.txt").write_text(f"{found}\n\n{found.sensitivities}\n")

    summary: dict[str, Any] = {
        "atoms": config.atoms,
        "points": isobar.described(),
        "before": {"sigma": config.sigma, "epsilon": config.epsilon, **before},
        "after": {
            "sigma": float(found.model.sigma),
            "epsilon": float(found.model.epsilon),
            "sigma_error": float(found.errors[0]),
            "epsilon_error": float(found.errors[1]),
            **after,
        },
        "fit": predicted(found),
        "updates": len(found.state.history.loss),
        "ended": bool(found.state.history.ended[-1]),
        "seconds": time.perf_counter() - started,
    }
    summary["goals"] = judged(goals(summary, resumed=command.resume), config.preset)
    write_json(folder / "summary.json", summary)
    figures = draw(folder.path)
    for line in [*report(summary), told(summary["goals"], config.preset), f"{len(figures)} figures in {folder.path}"]:
        print(line)


@dataclasses.dataclass(frozen=True)
class Isobar:
    """What is simulated and what is to be reached."""

    config: Config
    file: targets.TargetFile
    points: tuple[rv.StatePoint, ...]
    """The liquid at every temperature, then its gas."""

    @classmethod
    def of(cls, config: Config) -> "Isobar":
        """From the file of the targets."""
        if not config.data.is_file():
            raise BadInput(f"There is no file {config.data}; wanted ForceBalance's data.csv of argon.")
        file = targets.read_forcebalance(config.data).target_file()
        found = {record.kind for record in file.targets}
        if found != {"density", "heat_of_vaporization"}:
            raise BadInput(f"{config.data} has targets of {', '.join(sorted(found))}; wanted Rho and Hvap.")
        liquid, _ = crystal(config.atoms, 1.0, config.seed)
        gas = rv.Topology.from_elements(["Ar"])
        phases = (
            targets.Phase("liquid", lambda model: rv.System(liquid, rv.TailCorrected(model))),
            targets.Phase("gas", lambda model: rv.System(gas, model)),
        )
        return cls(config, file, file.state_points(phases))

    @property
    def liquids(self) -> list[rv.StatePoint]:
        """Those with targets."""
        return [point for point in self.points if point.targets]

    def potential(self, sigma: float, epsilon: float) -> rv.LennardJones:
        """With these parameters (nm, kJ/mol)."""
        switch = rv.SmoothSwitch(self.config.cutoff - 0.1)
        return rv.LennardJones(sigma, epsilon, cutoff=self.config.cutoff, truncation=switch)

    def sampler(self, ensemble: rv.AbstractEnsemble) -> rv.AbstractSampler:
        """Langevin dynamics, at constant pressure where there is one."""
        c = self.config
        thermostat = rv.LangevinBAOAB(ensemble.temperature, 1.0, dt=c.dt, num_steps=c.interval)
        if not isinstance(ensemble, rv.NPT):
            return thermostat
        # about the compressibility of the liquid
        return rv.StochasticCellRescaling(
            thermostat, ensemble.pressure, period=0.5, compressibility=2e-4 / rv.units.BAR, every=20
        )

    def key(self, stage: int) -> Any:
        """Of one stage of the run."""
        return jax.random.fold_in(jax.random.key(self.config.seed), stage)

    def melted(self, folder: Folder, potential: rv.LennardJones) -> rv.State:
        """Chains of a liquid, all of their own, at a density that any temperature starts from."""
        c = self.config
        topology, state = crystal(c.atoms, (c.atoms * 39.948 / (_LOOSE * GRAM)) ** (1 / 3), c.seed)
        chains = state.repeat(c.chains)

        def melt():
            hot = rv.LangevinBAOAB(250.0, 2.0, dt=c.dt, num_steps=c.melting)
            _, after = hot.sample(rv.System(topology, potential), chains, c.chains, key=self.key(0))
            return {"positions": np.asarray(after.states.positions)}

        positions = jnp.asarray(folder.array_stage("melted.npz", melt)["positions"])
        return eqx.tree_at(lambda s: s.positions, chains, positions)

    def starts(self, melted: rv.State) -> list[rv.State]:
        """Of all points."""
        one = jnp.zeros((1, 3), melted.positions.dtype)
        gas = rv.State(one, one, rv.OpenBox()).repeat(self.config.chains)  # pyright: ignore[reportCallIssue]
        return [melted if point.targets else gas for point in self.points]

    def measured(self, potential: rv.LennardJones, melted: rv.State, stage: int) -> dict[str, Any]:
        """Densities (g/cm³) and heats of vaporization (kJ/mol) of the liquids, from samples of its own."""
        c = self.config
        observable = rv.Joint((rv.Density(), rv.Enthalpy(kinetic=False, per_molecule=True)))
        rows = []
        for k, point in enumerate(tqdm(self.liquids, desc=f"measuring, {('before', 'after')[stage - 1]}")):
            system = point.system(potential)
            sampler = self.sampler(point.ensemble)
            keys = jax.random.split(jax.random.fold_in(self.key(stage), k))
            _, chains = _sample(sampler, system, rv.Chains(melted), c.chains * c.equilibration, keys[0])
            samples, _ = _sample(sampler, system, chains, c.check, keys[1])
            (density, enthalpy), (density_error, enthalpy_error) = _measure(observable, system, samples)
            kT = rv.units.BOLTZMANN * float(point.ensemble.temperature)
            rows.append([density / GRAM, density_error / GRAM, kT - enthalpy, enthalpy_error])
        names = ("density", "density_error", "hvap", "hvap_error")
        return {name: [float(row[j]) for row in rows] for j, name in enumerate(names)}

    def described(self) -> dict[str, Any]:
        """Temperatures (K) and what is to be reached, g/cm³ and kJ/mol."""
        of = lambda kind: [r for r in self.file.targets if r.kind == kind]
        return {
            "temperature": [float(r.temperature.value) for r in of("density")],
            "density": [float(r.value.value) / GRAM for r in of("density")],
            "hvap": [float(r.value.value) for r in of("heat_of_vaporization")],
        }


@eqx.filter_jit
def _sample(sampler, system, chains, n, key):
    return sampler.sample(system, chains, n, key=key)


@eqx.filter_jit
def _measure(observable, system, samples):
    estimate = rv.expectation(observable, system, samples)
    return estimate.value, estimate.error


def fit(isobar: Isobar, start: rv.LennardJones, melted: rv.State, folder: Folder) -> reweighting.TargetFit:
    """σ and ε."""
    c = isobar.config
    return fitted(
        start,
        isobar.points,
        isobar.sampler,
        isobar.starts(melted),
        folder,
        updates=c.updates,
        samples=c.samples,
        equilibration=c.equilibration,
        least=_LEAST,
        parameters=("sigma", "epsilon"),
        key=isobar.key(3),
    )


def deviation(summary: dict[str, Any], when: str, kind: str) -> float:
    """The root mean square over temperatures of what is measured over what is wanted, less one."""
    found, wanted = (np.array(summary[part][kind]) for part in (when, "points"))
    return float(np.sqrt(np.mean((found / wanted - 1) ** 2)))


def goals(summary: dict[str, Any], *, resumed: bool) -> list[Goal]:
    """What the potential was to reach in runs that the fit has not seen."""
    # the fit's own words against another run, in units of both errors
    apart = []
    for kind, unit, size in (("density", "kg/m^3", 1e3), ("hvap", "kJ/mol", 1.0)):
        found, errors = summary["after"][kind], summary["after"][f"{kind}_error"]
        own = [(p["value"] / size, p["error"] / size) for p in summary["fit"] if p["unit"] == unit]
        apart += [(v - x) / np.hypot(e, s) for (v, e), x, s in zip(own, found, errors, strict=True)]
    share = lambda kind: 100 * deviation(summary, "after", kind)
    return [
        at_most("deviation of densities after the fit, %", share("density"), 1.0),
        at_most("deviation of enthalpies of vaporization after the fit, %", share("hvap"), 1.5),
        at_most("what the fit says against runs of their own, in errors", float(np.sqrt(np.mean(np.square(apart)))), 2),
        in_time(summary["seconds"], 5, resumed=resumed),
    ]


def report(summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    after = summary["after"]
    both = lambda when: (
        f"{100 * deviation(summary, when, 'density'):.2f} % in density, {100 * deviation(summary, when, 'hvap'):.2f} %"
        " in enthalpy of vaporization"
    )
    ended = "within the noise of a step" if summary["ended"] else "not yet within the noise of a step"
    return [
        f"Start: σ = {summary['before']['sigma']:g} nm, ε = {summary['before']['epsilon']:g} kJ/mol: {both('before')}.",
        f"Fitted in {summary['updates']} updates, {ended}: σ = {after['sigma']:.5f} ± {after['sigma_error']:.1g} nm,"
        f" ε = {after['epsilon']:.4f} ± {after['epsilon_error']:.1g} kJ/mol: {both('after')}.",
        f"How long: {summary['seconds']:.0f} s.",
    ]
