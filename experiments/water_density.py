"""Fit a flexible water to its density along an isobar, its heat of vaporization and its dielectric constant, by
reweighting.

Targets are read from a file; OpenMM samples at constant pressure, and reweighting gives Gauss–Newton steps. The initial
and the fitted model are both measured in separate runs, which the fit has not seen.
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
from ._errors import BadInput, refusing
from ._fields import above_zero, at_least, check_fields, nm, not_negative, step_ps
from ._folder import Folder, digest, free_folder, write_json
from ._goals import Goal, agrees, at_most, in_time, judged, told
from ._target_fits import fitted, predicted
from ._water import packed
from ._water_isobar_figures import draw

TARGETS = Path(__file__).parent / "reference/water_isobar/targets.toml"
GRAM = rv.units.GRAM_PER_CUBIC_CENTIMETER
MOVED = ("charge", "sigma", "epsilon")
"""What is fitted of a `rv.WaterModel`."""
KINDS = ("density", "heat_of_vaporization", "dielectric_constant")
"""What there may be targets of."""

_LEAST = 0.3
"""The part of the samples that must count. One percent of the charge changes the energy of 64 waters by many kT: a fit
that wants a half takes many short steps."""
_ACTIVATION = 22.0
"""kJ/mol, about that of how fast volumes change in this water: so much longer it takes where it is colder."""
_ROOM = 298.15
_ACCURACY = 5e-4
"""Of the forces of the charges, OpenMM's default."""
_MASS = 18.015
"""u, of a molecule."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds)."""
    seed: int = 0
    """The seed of all random numbers."""
    targets: Path = TARGETS
    """The file of targets: densities of water at constant pressure and, if wanted, heats of vaporization into `gas` and
    dielectric constants at some of the same temperatures."""
    charge: Annotated[float, above_zero(0.42)] = 0.42
    """The initial charge of hydrogen, e. By default this and the next two are those of q-SPC/Fw, whose bonds and angles
    are kept."""
    sigma: Annotated[float, nm(0.3165492)] = 0.3165492
    """The initial σ, nm."""
    epsilon: Annotated[float, above_zero(0.6503)] = 0.6502990
    """The initial ε, kJ/mol."""
    polarization: Annotated[float, not_negative(5.22)] = 5.22
    """The energy (kJ/mol) of polarizing a molecule in the liquid, which fixed charges leave out; it is subtracted from
    the heat of vaporization. The default is that of SPC/E (Berendsen, Grigera and Straatsma, J. Phys. Chem. 91, 6269
    (1987))."""

    waters: Annotated[int, at_least(8, 64)] = 64
    """How many molecules the liquid has; the gas has as many, which do not interact."""
    cutoff: Annotated[float, nm(0.55)] = 0.55
    """The cutoff (nm) of all but the reciprocal part of Ewald's sum. Lennard-Jones energies fall to zero over its last
    15 %, and a tail correction replaces what is left out."""
    chains: Annotated[int, at_least(2, 2)] = 2
    """How many chains there are at every temperature."""
    dt: Annotated[float, step_ps(0.0015)] = 0.0015
    """Time step, ps."""
    interval: Annotated[int, at_least(1, 333)] = 333
    """Time steps between samples; more at temperatures below 298.15 K."""
    longer: Annotated[int, at_least(1, 2)] = 2
    """How many times more at temperatures with a dielectric constant, which needs the most sampling."""
    settling: Annotated[int, at_least(1, 16)] = 16
    """Samples of every chain that are thrown away at the very beginning."""
    samples: Annotated[int, at_least(8, 160)] = 160
    """Samples at every temperature whenever the fit draws new ones: a multiple of the chains."""
    equilibration: Annotated[int, at_least(1, 8)] = 8
    """Samples of every chain that are thrown away whenever the fit draws new ones."""
    updates: Annotated[int, at_least(1, 6)] = 6
    """The most updates; the fit ends earlier when a step is within its noise."""
    before: Annotated[int, at_least(8, 64)] = 64
    """Samples at every temperature for measuring the initial model."""
    check: Annotated[int, at_least(8, 144)] = 144
    """Samples at every temperature for measuring the fitted model."""

    def __post_init__(self):
        check_fields(self)
        for name in ("samples", "before", "check"):
            if getattr(self, name) % self.chains:
                raise BadInput(f"--{name} is {getattr(self, name)}; wanted a multiple of --chains, {self.chains}.")
        if self.cutoff > 0.45 * self.length:
            raise BadInput(
                f"--cutoff is {self.cutoff:g}; wanted at most 0.45 of the box of {self.waters} waters, since it"
                f" fluctuates: {0.45 * self.length:.3g} nm. More waters have a larger box."
            )

    @property
    def length(self) -> float:
        """Of a cube of the liquid at 1 g/cm³, nm."""
        return (self.waters * _MASS / GRAM) ** (1 / 3)


PRESETS = {
    "quick": Config(),
    "paper": Config(
        preset="paper", waters=216, cutoff=0.8, chains=8, samples=1600, before=1600, check=16000, updates=10, longer=4
    ),
    # as many chains as samples that the fit wants to be independent
    "smoke": Config(
        preset="smoke",
        waters=8,
        cutoff=0.25,
        chains=12,
        interval=4,
        longer=1,
        settling=8,
        samples=24,
        equilibration=1,
        updates=1,
        before=24,
        check=24,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Fit a flexible water to densities along an isobar, a heat of vaporization and a dielectric constant.

    Writes before.npz and after.npz, the measured properties of the initial and the fitted model; fit.txt, with errors,
    covariance and sensitivities; and summary.json. Sampling is done by OpenMM, which must be installed.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/water_density, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("water_density", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    started, processor = time.perf_counter(), time.process_time()
    config = command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    with refusing():
        isobar = Isobar.of(config)
    out = command.out or free_folder(Path("results/water_density"))
    described = {**dataclasses.asdict(config), "targets": str(config.targets), "sha256": digest(config.targets)}
    folder = Folder(out, {"experiment": "water_density", **described}, resume=command.resume)

    start = dataclasses.replace(rv.WaterModel.qspcfw(), **{name: getattr(config, name) for name in MOVED})
    liquid = isobar.packed(folder)
    first = lambda: isobar.measured(start, isobar.starts(liquid), config.settling, config.before, 1)
    before = folder.array_stage("before.npz", first)
    starts = isobar.starts(liquid, before)
    found = fit(isobar, start, starts, folder)
    last = lambda: isobar.measured(found.model, starts, config.equilibration, config.check, 2)
    after = folder.array_stage("after.npz", last)
    (folder / "fit.txt").write_text(f"{found}\n\n{found.sensitivities}\n")

    summary: dict[str, Any] = {
        "waters": config.waters,
        "parameters": [
            {"name": name, "unit": unit, "start": float(getattr(start, name)), "fitted": float(value), "error": error}
            for name, unit, value, error in zip(
                MOVED, ("e", "nm", "kJ/mol"), found.values, map(float, found.errors), strict=True
            )
        ],
        "targets": isobar.compared(before, after, predicted(found)),
        "energies_apart": isobar.apart(found.model, after),
        "updates": len(found.state.history.loss),
        "ended": bool(found.state.history.ended[-1]),
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
    }
    summary["goals"] = judged(goals(summary, resumed=command.resume), config.preset)
    write_json(folder / "summary.json", summary)
    figures = draw(folder.path)
    for line in [*report(summary), told(summary["goals"], config.preset), f"{len(figures)} figures in {folder.path}"]:
        print(line)


class MirroredDielectricConstant(rv.AbstractObservable):
    """ε of a liquid, whose mean dipole is zero: of every configuration the mirror image, with -M, is as probable.

    `rv.DielectricConstant` subtracts the square of the mean that is found. In runs of so few ps that is noise, and
    makes ε too small, by about the correlation time over the length of the run: a
    tenth.
    """

    def record(self, system, state, initial):
        return rv.DielectricConstant().record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        both, halves = jnp.concatenate([records, -records]), jnp.concatenate([weights, weights]) / 2
        return rv.DielectricConstant().reduce(times, both, halves, ensemble)


@dataclasses.dataclass(frozen=True)
class Isobar:
    """What is simulated, and the targets."""

    config: Config
    file: targets.TargetFile
    points: tuple[rv.StatePoint, ...]
    """The liquid at every temperature, then its gas where there are heats of vaporization."""

    @classmethod
    def of(cls, config: Config) -> "Isobar":
        """From the file of the targets."""
        try:
            import openmm  # noqa: F401
        except ImportError:
            raise BadInput("This samples with OpenMM, which is not installed; wanted `pip install openmm`.") from None
        if not config.targets.is_file():
            raise BadInput(f"There is no file {config.targets}; wanted targets of water in TOML.")
        file = targets.read(config.targets)
        for record in file.targets:
            if record.kind not in KINDS or record.pressure is None or record.phase != "liquid":
                raise BadInput(
                    f"{config.targets} has a target of {record.kind} of {record.conditions}; wanted {', '.join(KINDS)}"
                    " of `liquid` at a pressure."
                )
        missing = {r.conditions for r in file.targets} - {r.conditions for r in file.targets if r.kind == "density"}
        if missing:
            raise BadInput(f"{config.targets} has no density of {', '.join(sorted(missing))}; wanted one there.")
        box = rv.OrthorhombicBox(jnp.full(3, config.length))

        def liquid(model: rv.WaterModel) -> rv.System:
            return model.system(config.waters, box, cutoff=config.cutoff, accuracy=_ACCURACY, tail=True)

        waters = liquid(rv.WaterModel.qspcfw()).topology

        def gas(model: rv.WaterModel) -> rv.System:
            bonds = rv.HarmonicBond(waters.bonds, model.stiffness, model.length)
            return rv.System(waters, bonds + rv.HarmonicAngle(waters.angles, model.angle_stiffness, model.angle))

        phases = [targets.Phase("liquid", liquid)]
        phases += [targets.Phase(name, gas) for name in sorted({r.gas for r in file.targets} - {""})]

        def observable(record: targets.TargetRecord) -> Any:
            if record.kind == "heat_of_vaporization":
                return rv.HeatOfVaporization(gas=record.gas_conditions, correction=-config.polarization)
            if record.kind == "dielectric_constant":
                return MirroredDielectricConstant()
            return targets.observable_of(record)

        return cls(config, file, file.state_points(tuple(phases), observable=observable))

    @property
    def samplers(self) -> list[rv.AbstractSampler]:
        """OpenMM's Langevin dynamics of every point, at constant pressure where there is one."""
        c = self.config
        made = []
        for point in self.points:
            t = float(point.ensemble.temperature)
            steps = c.interval * max(1.0, np.exp(_ACTIVATION / rv.units.BOLTZMANN * (1 / t - 1 / _ROOM)))
            if any(isinstance(target.observable, MirroredDielectricConstant) for target in point.targets):
                steps *= c.longer
            pressure = point.ensemble.pressure if isinstance(point.ensemble, rv.NPT) else None
            # so much friction, and so many moves of the volume, since energy and volume forget faster that way
            made.append(
                rv.openmm.OpenMMSampler(t, 5.0, dt=c.dt, num_steps=max(1, round(steps)), pressure=pressure, every=10)
            )
        return made

    def key(self, stage: int) -> Any:
        """Of one stage of the run."""
        return jax.random.fold_in(jax.random.key(self.config.seed), stage)

    def packed(self, folder: Folder) -> rv.State:
        """Molecules packed into the box, relaxed, at rest."""
        c = self.config
        make = lambda: {"positions": np.asarray(packed(c.waters, 1.0, self.key(0)).positions)}
        positions = jnp.asarray(folder.array_stage("packed.npz", make)["positions"], jnp.float32)
        return rv.State(positions, jnp.zeros_like(positions), rv.OrthorhombicBox(jnp.full(3, c.length, jnp.float32)))

    def starts(self, liquid: rv.State, known: dict[str, np.ndarray] | None = None) -> list[rv.State]:
        """Chains of all points: where the `known` ones of a measurement have stopped, or of packed molecules. Those of
        a gas, which do not see one another, may be anywhere."""
        made = []
        for k, point in enumerate(self.points):
            system, t = point.system(rv.WaterModel.qspcfw()), point.ensemble.temperature
            draw = lambda key, system=system, t=t: rv.maxwell_boltzmann(system.topology, t, key=key)
            keys = jax.random.split(jax.random.fold_in(self.key(4), k), self.config.chains)
            velocities = jax.vmap(draw)(keys).astype(liquid.positions.dtype)
            box = liquid.box if point.targets else rv.OpenBox()  # pyright: ignore[reportCallIssue]
            state = rv.State(liquid.positions, liquid.velocities, box).repeat(self.config.chains)
            if known is not None and point.targets:
                where = lambda s: (s.positions, s.box.lengths)
                state = eqx.tree_at(
                    where, state, (jnp.asarray(known["positions"][k]), jnp.asarray(known["lengths"][k]))
                )
            made.append(state.with_velocities(velocities))
        return made

    def measured(
        self, model: rv.WaterModel, starts: list[rv.State], equilibration: int, samples: int, stage: int
    ) -> dict[str, np.ndarray]:
        """From samples of their own: `value` and `error` of density (g/cm³), dielectric constant and molar energy
        (kJ/mol; of a gas it is alone) of all points, and `positions` and `lengths` where the chains of liquids
        stopped (nm)."""
        c, rows, ends = self.config, [], []
        points = list(zip(self.points, self.samplers, starts, strict=True))
        for k, (point, sampler, start) in enumerate(tqdm(points, desc=f"measuring, {('before', 'after')[stage - 1]}")):
            system = point.system(model)
            keys = jax.random.split(jax.random.fold_in(self.key(stage), k))
            _, chains = sampler.sample(system, start, c.chains * equilibration, key=keys[0])
            drawn, chains = sampler.sample(system, chains, samples, key=keys[1])
            energy = rv.HeatOfVaporization(gas="").observables[0 if point.targets else 1]
            of_liquid = (rv.Density(), MirroredDielectricConstant()) if point.targets else ()
            found = _measure(rv.Joint((*of_liquid, energy)), system, drawn)
            scale = np.array([GRAM, 1.0, 1.0])[-len(found[0]) :]
            rows.append([np.pad(np.array(x) / scale, (3 - len(x), 0), constant_values=np.nan) for x in found])
            if point.targets:
                assert isinstance(chains.states.box, rv.OrthorhombicBox)  # as it was
                ends.append((np.asarray(chains.states.positions), np.asarray(chains.states.box.lengths)))
        value, error = (np.array(x, float) for x in zip(*rows, strict=True))
        positions, lengths = map(np.stack, zip(*ends, strict=True))
        return {"value": value, "error": error, "positions": positions, "lengths": lengths}

    def compared(
        self, before: dict[str, np.ndarray], after: dict[str, np.ndarray], fit: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """A row for every target, in the unit of the file: what is wanted, and what both waters were measured to be."""
        names = [point.name for point in self.points]
        rows, k = [], 0
        for point in self.points:
            for record in (r for r in self.file.targets if r.conditions == point.name and r.weight > 0):
                row = {"kind": record.kind, "temperature": float(record.temperature.value), **fit[k]}
                for when, found in (("before", before), ("after", after)):
                    p = names.index(point.name)
                    column = ("density", "dielectric_constant").index(record.kind) if not record.gas else 2
                    value, error = found["value"][p, column], found["error"][p, column]
                    if record.gas:
                        q, kT = names.index(record.gas_conditions), point.ensemble.thermal_energy(jnp.ones(()))
                        value = found["value"][q, 2] + float(kT) - value - self.config.polarization
                        error = np.hypot(error, found["error"][q, 2])
                    elif record.kind == "density":
                        value, error = (x * GRAM / float(targets.Quantity(1, record.value.unit).value)
                                        for x in (value, error))  # fmt: skip
                    row |= {when: float(value), f"{when}_error": float(error)}
                rows.append(row)
                k += 1
        return rows

    def apart(self, model: rv.WaterModel, known: dict[str, np.ndarray]) -> float:
        """How far our energies and OpenMM's are apart, but for a constant: the standard deviation over the last
        configurations of all chains, in kT of each. It is what the weights are wrong by."""
        import openmm

        found = []
        for k, point in enumerate(self.points):
            if not point.targets:
                continue
            system = point.system(model)
            for x, lengths in zip(known["positions"][k], known["lengths"][k], strict=True):
                box = rv.OrthorhombicBox(jnp.asarray(lengths))
                theirs = openmm.Context(rv.openmm.to_system(system, box), openmm.VerletIntegrator(0.001))
                theirs.setPositions(x.astype(float))
                energy = theirs.getState(getEnergy=True).getPotentialEnergy()._value
                kT = rv.units.BOLTZMANN * float(point.ensemble.temperature)
                found.append((float(system.potential_energy(jnp.asarray(x), box)) - energy) / kT)
        return float(np.std(found, ddof=1))


@eqx.filter_jit
def _measure(observable, system, samples):
    estimate = rv.expectation(observable, system, samples)
    return estimate.value, estimate.error


def fit(isobar: Isobar, start: rv.WaterModel, starts: list[rv.State], folder: Folder) -> reweighting.TargetFit:
    """Charge, σ and ε."""
    c = isobar.config
    return fitted(
        start,
        isobar.points,
        isobar.samplers,
        starts,
        folder,
        updates=c.updates,
        samples=c.samples,
        equilibration=c.equilibration,
        least=_LEAST,
        parameters=MOVED,
        key=isobar.key(3),
    )


def deviation(summary: dict[str, Any], when: str) -> tuple[float, float]:
    """The root mean square deviation of densities along the isobar, and what noise alone would make of it, %."""
    rows = [row for row in summary["targets"] if row["kind"] == "density"]
    share = lambda of: 100 * float(np.sqrt(np.mean([(of(row) / row["target"]) ** 2 for row in rows])))
    return share(lambda row: row[when] - row["target"]), share(lambda row: row[f"{when}_error"])


def goals(summary: dict[str, Any], *, resumed: bool) -> list[Goal]:
    """What the model should reach in runs that the fit has not seen."""
    rms, noise = deviation(summary, "after")
    each = [agrees(_told(row), row["after"], row["target"], row["after_error"]) for row in summary["targets"]]
    return [
        at_most("deviation of densities after the fit, %", rms, 1.0, noise),
        *each,
        at_most("our energies and OpenMM's apart, kT", summary["energies_apart"], 0.1),
        in_time(summary["seconds"], 15, resumed=resumed),
    ]


def _told(row: dict[str, Any]) -> str:
    """What a target is called, with its unit."""
    return f"{row['kind'].replace('_', ' ')} at {row['temperature']:g} K" + (f", {row['unit']}" if row["unit"] else "")


def report(summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    rms = lambda when: "{:.2f} ± {:.2f} %".format(*deviation(summary, when))
    ended = "within the noise of a step" if summary["ended"] else "not yet within the noise of a step"
    values = ", ".join(f"{p['name']} {p['start']:.5g} to {p['fitted']:.5g} ± {p['error']:.1g} {p['unit']}"
                       for p in summary["parameters"])  # fmt: skip
    others = [f"{_told(row)}: {row['before']:.4g} ± {row['before_error']:.1g} before, {row['after']:.4g} ±"
              f" {row['after_error']:.1g} after, wanted {row['target']:g}."
              for row in summary["targets"] if row["kind"] != "density"]  # fmt: skip
    return [
        f"Densities: {rms('before')} off before the fit, {rms('after')} after.",
        *others,
        f"Fitted in {summary['updates']} updates, {ended}: {values}.",
        f"How long: {summary['seconds']:.0f} s, {summary['processor_seconds']:.0f} s of processor time.",
    ]
