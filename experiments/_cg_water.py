"""The coarse-grained water of `cg_water`: how it is simulated, what it is to reach, and how it is measured."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import reverlet as rv
from reverlet import coarse_graining

from ._argon import crystal
from ._cg_water_step import FIRST, Beads, Step
from ._errors import BadInput
from ._fields import above_zero, at_least, check_fields, nm, not_negative, step_ps
from ._folder import Folder
from ._reweighted import Redrawn

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
    dt: Annotated[float, step_ps(0.005)] = 0.005
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
    cutoff: Annotated[float, nm(0.6)] = 0.6
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
