"""Water as one bead per molecule, from its structure and its pressure, by reweighting: the third case of DiffTRe.

A target of an atomistic simulation: the radial distribution of oxygens, the distribution of the angles between close
ones, and a pressure of 1 bar at the density of water. The model: mW, which has pairs and triples, and a table on its
pairs. Table and triples are fitted by steps of Gauss and Newton, whose derivatives are those of reweighted averages,
and which are as long as reweighting reaches. Beside it iterative Boltzmann inversion, of pairs alone, with as many
simulations. All are measured in longer runs of their own.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tqdm import tqdm

import reverlet as rv
from reverlet import coarse_graining

from . import _run
from ._argon import crystal
from ._cg_water_figures import draw
from ._cg_water_step import FIRST, Beads, Step
from ._errors import BadInput, refusing
from ._fields import above_zero, at_least, check_fields, not_negative
from ._folder import Folder, History, digest, free_folder, write_json
from ._goals import Goal, at_most, judged, told
from ._refine import TIME
from ._reweighted import Redrawn, descended

DATA = Path(__file__).parent / "reference/water_structure.json"
MASS = 18.0154
"""u, of a bead."""
NEAREST = 12
"""How many beads may be within the reach of the angles, where there are four of water."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds)."""
    seed: Annotated[int, not_negative(0)] = 0
    """Of all random numbers."""
    data: Path = DATA
    """The structure to be reached, as `python -m experiments.reference.make_water_structure` writes it."""
    pressure: float = 1.0
    """To be reached at that density, bar."""

    beads: Annotated[int, at_least(32, 64)] = 64
    """Molecules of the coarse-grained liquid."""
    chains: Annotated[int, at_least(2, 8)] = 8
    """Simulations at a time."""
    dt: Annotated[float, above_zero(0.005)] = 0.005
    """Time step, ps."""
    interval: Annotated[int, at_least(1, 40)] = 40
    """Time steps between samples."""
    melting: Annotated[int, at_least(1, 1000)] = 1000
    """Time steps at 600 K, in which a crystal melts."""
    samples: Annotated[int, at_least(8, 640)] = 640
    """Of a simulation, a multiple of the chains."""
    equilibration: Annotated[int, at_least(1, 10)] = 10
    """Samples of every chain that are thrown away before."""
    spacing: Annotated[float, above_zero(0.02)] = 0.02
    """nm, between the knots of tables."""
    cutoff: Annotated[float, above_zero(0.6)] = 0.6
    """nm, of the table that is fitted; that of inversion goes as far as the target."""
    structure_error: Annotated[float, above_zero(0.01)] = 0.01
    """In which deviations of g(r) and of the distribution of angles (1/rad) are counted."""
    pressure_error: Annotated[float, above_zero(100)] = 100.0
    """In which those of the pressure are counted, bar."""
    updates: Annotated[int, at_least(1, 30)] = 30
    """Steps, and simulations."""
    settling: Annotated[int, at_least(1, 20)] = 20
    """The step after which they are made smaller, to the mean over all later ones."""
    reach: Annotated[float, above_zero(0.6)] = 0.6
    """How long a step may be, squared: of so many nats samples are worth less after it."""
    looseness: Annotated[float, above_zero(6)] = 6.0
    """A prior says that parameters are those of mW within so many of their units."""
    check: Annotated[int, at_least(8, 1600)] = 1600
    """Samples that every potential is measured with in the end, a multiple of the chains."""

    def __post_init__(self):
        check_fields(self)
        for name in ("samples", "check"):
            if getattr(self, name) % self.chains:
                raise BadInput(f"--{name} is {getattr(self, name)}; wanted a multiple of --chains, {self.chains}.")


PRESETS = {
    "quick": Config(),
    "paper": Config(
        preset="paper",
        beads=125,
        chains=32,
        samples=6400,
        check=64000,
        spacing=0.01,
        pressure_error=20.0,
        updates=60,
        settling=30,
    ),
    "smoke": Config(
        preset="smoke",
        beads=32,
        chains=4,
        interval=4,
        melting=40,
        samples=8,
        equilibration=1,
        spacing=0.05,
        cutoff=0.45,
        updates=3,
        settling=2,
        check=16,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Water as one bead per molecule, from its structure and its pressure.

    Writes history.jsonl, of the fit; history-inversion.jsonl, of iterative Boltzmann inversion; structure.npz, what all
    potentials were measured to give, beside the target; potentials.npz; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/cg_water, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("cg_water", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began = time.perf_counter()
    config = command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    with refusing():
        water = Water.of(config)
        prior = water.prior().potential
    out = command.out or free_folder(Path("results/cg_water"))
    described = {**dataclasses.asdict(config), "data": str(config.data), "data_sha256": digest(config.data)}
    folder = Folder(out, {"experiment": "cg_water", **described}, resume=command.resume)

    melted = water.melted(folder, prior)
    fitted = fit(water, melted, folder)
    inverted = invert(water, melted, folder)
    found = {"prior": prior, "inversion": inverted.potential, "fitted": fitted.model.potential}
    structure = folder.array_stage("structure.npz", lambda: water.measured(found, melted))
    folder.array_stage("potentials.npz", lambda: water.curves(found))

    triples = found["fitted"].part(rv.StillingerWeber)
    summary: dict[str, Any] = {
        "beads": config.beads,
        "box_nm": float(water.state.box.heights[0]),
        "reach_nm": water.rdf.r_max,
        "pressure": config.pressure,
        **{name: water.errors(structure, name) for name in found},
        "noise_of_target": {name: float(np.mean(getattr(water, name)[1] ** 2)) for name in ("radial", "angular")},
        "strength": float(triples.strength),
        "decay": float(triples.decay),
        "parameters": sum(x.size for x in jax.tree.leaves(fitted.model)),
        "simulations": config.updates,
    }
    seconds = time.perf_counter() - began
    summary["goals"] = judged(goals(summary, seconds, command), config.preset)
    write_json(folder / "summary.json", {**summary, "timing": {"seconds": seconds}})
    figures = draw(folder.path)
    for line in [*report(summary), told(summary["goals"], config.preset), f"How long: {seconds:.0f} s.",
                 f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)})."]:  # fmt: skip
        print(line)


@dataclasses.dataclass(frozen=True)
class Water:
    """What is simulated and what is to be reached."""

    config: Config
    temperature: float
    """K."""
    topology: rv.Topology
    state: rv.State
    """A crystal at the density of the target."""
    rdf: rv.RDF
    adf: rv.ADF
    radial: tuple[np.ndarray, np.ndarray]
    """g(r) and its error."""
    angular: tuple[np.ndarray, np.ndarray]
    """The distribution of angles and its error, 1/rad."""

    @classmethod
    def of(cls, config: Config) -> "Water":
        """From the file of the target; of g(r) so much as the box has room for."""
        try:
            data = json.loads(config.data.read_text("utf-8"))
            length = data["box_nm"] * (config.beads / data["molecules"]) ** (1 / 3)
            functions = [np.array([data[name][row] for row in ("value", "error")]) for name in ("rdf", "adf")]
            ends = [data[name]["r_max_nm"] for name in ("rdf", "adf")]
            widths = data["rdf"]["width_nm"], data["adf"]["width_rad"]
            temperature = float(data["temperature_K"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{config.data} is no structure of water ({error!r}); wanted a file that `python -m"
                " experiments.reference.make_water_structure` wrote."
            ) from error
        if config.cutoff > length / 2:
            raise BadInput(
                f"--cutoff is {config.cutoff}; wanted at most {length / 2:.4g}, half the box of {config.beads} beads."
            )
        topology, state = crystal(config.beads, length, config.seed)
        topology = rv.Topology.from_elements(["O"] * config.beads, masses=np.full(config.beads, MASS))
        bins = functions[0].shape[1]
        kept = min(bins, int(0.5 * length / ends[0] * bins * (1 - 1e-6)))
        rdf = rv.RDF(ends[0] * kept / bins, kept, widths[0])
        adf = rv.ADF(ends[1], functions[1].shape[1], widths[1], max_neighbors=NEAREST)
        radial, angular = functions[0][:, :kept], functions[1]
        return cls(config, temperature, topology, state, rdf, adf, (radial[0], radial[1]), (angular[0], angular[1]))

    def prior(self) -> Beads:
        """mW as it is."""
        c = self.config
        return Beads(jnp.zeros(self._knots(c.cutoff), jnp.float32), jnp.zeros(2, jnp.float32), c.cutoff)

    def pairs(self) -> rv.TabulatedPair:
        """What inversion starts from: -kT ln g."""
        knots = self._knots(self.rdf.r_max)
        values = coarse_graining.boltzmann_inversion(
            self.rdf, self.radial[0], temperature=self.temperature, first=FIRST, cutoff=self.rdf.r_max, num_knots=knots
        )
        return rv.TabulatedPair(values, first=FIRST, cutoff=self.rdf.r_max, interpolation=rv.splines.NaturalSpline())

    def _knots(self, cutoff: float) -> int:
        return max(4, round((cutoff - FIRST) / self.config.spacing) + 1)

    def system(self, potential: rv.AbstractPotential) -> rv.System:
        """The liquid with this potential."""
        return rv.System(self.topology, potential)

    def step(self) -> Step:
        """Towards what is to be reached."""
        c = self.config
        errors = c.structure_error, c.structure_error, c.pressure_error * rv.units.BAR
        targets = self.radial[0], self.angular[0], np.array(c.pressure * rv.units.BAR)
        return Step(self.topology, (self.rdf, self.adf, rv.Pressure()), targets, errors, c.reach, c.looseness)

    def sampler(self, temperature: Any = None) -> rv.LangevinBAOAB:
        """At the temperature of the target, or another one."""
        c = self.config
        temperature = self.temperature if temperature is None else temperature
        return rv.LangevinBAOAB(temperature, 2.0, dt=c.dt, num_steps=c.interval)

    def key(self, stage: int) -> Any:
        """Of one stage of the run."""
        return jax.random.fold_in(jax.random.key(self.config.seed), stage)

    def melted(self, folder: Folder, potential: rv.AbstractPotential) -> rv.State:
        """Chains of a liquid, all of their own."""
        c = self.config
        chains = self.state.repeat(c.chains)

        def melt():
            hot = dataclasses.replace(self.sampler(600.0), num_steps=c.melting)
            after = _drawn(hot, c.chains, 0, self.system(potential), chains, self.key(0))
            return {"positions": np.asarray(after.states.positions)}

        positions = jnp.asarray(folder.array_stage("melted.npz", melt)["positions"])
        return eqx.tree_at(lambda s: s.positions, chains, positions)

    def measured(self, potentials: dict[str, Any], melted: rv.State) -> dict[str, np.ndarray]:
        """Both functions and the pressure (bar) of every potential with errors, from samples of its own."""
        c = self.config
        arrays = {"r": self.rdf.centers, "angles": self.adf.centers, "rdf_target": self.radial[0],
                  "rdf_target_error": self.radial[1], "adf_target": self.angular[0],
                  "adf_target_error": self.angular[1]}  # fmt: skip
        observable = rv.Joint((self.rdf, self.adf, rv.Pressure()))
        for k, (name, potential) in enumerate(tqdm(potentials.items(), desc="measuring, in the end")):
            system = self.system(potential)
            key = jax.random.fold_in(self.key(3), k)
            samples = _drawn(self.sampler(), c.check, 4 * c.equilibration, system, melted, key)
            value, error = _expected(observable, system, samples)
            for part, x, e in zip(("rdf", "adf", "pressure"), value, error, strict=True):
                unit = rv.units.BAR if part == "pressure" else 1.0
                arrays |= {f"{part}_{name}": x / unit, f"{part}_{name}_error": e / unit}
        return {name: np.asarray(x, float) for name, x in arrays.items()}

    def errors(self, structure: dict[str, np.ndarray], name: str) -> dict[str, float]:
        """Mean squared errors of a potential, what of them is its own noise, and its pressure, bar."""
        mean = lambda x: float(np.mean(x**2))
        found = {}
        for part in ("rdf", "adf"):
            found[f"mse_{part}"] = mean(structure[f"{part}_{name}"] - structure[f"{part}_target"])
            found[f"noise_{part}"] = mean(structure[f"{part}_{name}_error"])
        for part in ("pressure", "pressure_error"):
            found[part] = float(structure[f"pressure_{name}{part.removeprefix('pressure')}"])
        return found

    def curves(self, potentials: dict[str, Any]) -> dict[str, np.ndarray]:
        """Energies of two beads alone, kJ/mol; what triples add depends on the angle."""
        r = np.arange(0.24, self.rdf.r_max, 0.002)
        two = rv.Topology.from_elements(["O", "O"])
        at = lambda r: jnp.zeros((2, 3)).at[1, 0].set(r)
        far: Any = rv.OpenBox()  # pyright: ignore[reportCallIssue]
        of = lambda p: jax.vmap(lambda r: rv.System(two, p).potential_energy(at(r), far))(jnp.asarray(r))
        return {"r": r, **{name: np.asarray(of(p), float) for name, p in potentials.items()}}


@eqx.filter_jit
def _drawn(sampler, num_samples, equilibration, system, states, key):
    return Redrawn(sampler, num_samples, equilibration, 1.0, 1).draw(system, rv.Chains(states), key)[0]


@eqx.filter_jit
def _expected(observable, system, samples):
    estimate = rv.expectation(observable, system, samples)
    return estimate.value, estimate.error


def fit(water: Water, melted: rv.State, folder: Folder) -> rv.FitState:
    """By steps of Gauss and Newton, each from samples of its own."""
    c, step = water.config, water.step()

    def loss(beads, samples):
        change, found = step(beads, samples)
        # descent by one times the gradient of this adds the change
        return -jnp.sum(change.table * beads.table) - jnp.sum(change.triples * beads.triples), found

    def lines(found):
        mean = lambda x, target: float(np.mean((np.asarray(x, float) - target[0]) ** 2))
        g, angles, pressure = found
        mse = {"mse_rdf": mean(g, water.radial), "mse_adf": mean(angles, water.angular)}
        return {**mse, "pressure": float(pressure) / rv.units.BAR}

    return descended(
        loss,
        lambda beads: water.system(beads.potential),
        Redrawn(water.sampler(), c.samples, c.equilibration, 1.0, 1),
        water.prior(),
        # whole steps, and then ever smaller ones, which is the mean of where the whole ones lead
        optax.sgd(lambda k: 1 / jnp.maximum(1, k - c.settling + 1)),
        melted,
        updates=c.updates,
        key=water.key(1),
        checkpoint=folder.checkpoint,
        history=folder / "history.jsonl",
        lines=lines,
    )


def invert(water: Water, melted: rv.State, folder: Folder) -> coarse_graining.Inversion:
    """Iterative Boltzmann inversion of pairs alone, with the correction of the pressure."""
    c = water.config
    file = History(folder / "history-inversion.jsonl")

    def lines(history: coarse_graining.InversionUpdate) -> list[dict[str, Any]]:
        rows = zip(np.asarray(history.squared_errors)[:, 0], np.asarray(history.pressure), strict=True)
        return [
            {"update": k + 1, "mse_rdf": float(e), "pressure": float(p / rv.units.BAR)} for k, (e, p) in enumerate(rows)
        ]

    with tqdm(total=c.updates, desc="inversion", unit="") as bar:

        def note(state: rv.FitState) -> None:
            file.tick(state.step)
            file.write(lines(state.history))
            bar.update(state.step - bar.n)

        found = coarse_graining.iterative_boltzmann_inversion(
            water.system(water.pairs()),
            [water.rdf],
            [water.radial[0]],
            water.sampler(),
            melted,
            num_iterations=c.updates,
            num_samples=c.samples,
            equilibration=c.equilibration,
            pressure=c.pressure * rv.units.BAR,
            callback=note,
            checkpoint=folder / "checkpoint-inversion.eqx",
            resume="auto",
            key=water.key(2),
        )
    file.write(lines(found.history))
    return found


def goals(summary: dict[str, Any], seconds: float, command: Command) -> list[Goal]:
    """What the fitted potential was to reach in a run that the fit has not seen."""
    fitted, paper = summary["fitted"], command.config.preset == "paper"
    away = abs(fitted["pressure"] - summary["pressure"])
    in_time = at_most(TIME, seconds / 60, 60 if paper else 15)
    structure = (
        [at_most("mean squared errors of RDF and ADF together", fitted["mse_rdf"] + fitted["mse_adf"], 1.4e-4)]
        if paper
        else [
            at_most("mean squared error of the RDF", fitted["mse_rdf"], 2e-3),
            at_most("mean squared error of the ADF", fitted["mse_adf"], 2e-3),
        ]
    )
    return [
        *structure,
        at_most("deviation of the pressure, bar", away, 20 if paper else 100, fitted["pressure_error"]),
        dataclasses.replace(in_time, value=None, met=None) if command.resume else in_time,
    ]


def report(summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    names = {"prior": "Prior, mW", "inversion": "Boltzmann inversion of pairs", "fitted": "Fitted"}
    measured = [
        f"{label}: mean squared error {of['mse_rdf']:.2g} of g(r), {of['mse_adf']:.2g} of angles,"
        f" {of['pressure']:.0f} ± {of['pressure_error']:.0f} bar."
        for label, of in ((label, summary[name]) for name, label in names.items())
    ]
    return [
        f"Water of {summary['beads']} beads: {summary['parameters']} parameters,"
        f" {summary['simulations']} simulations; as many for the inversion.",
        *measured,
    ]
