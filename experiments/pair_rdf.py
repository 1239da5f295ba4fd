"""A pair potential from radial distribution functions, by three methods on the same target: the case of DiffSim.

The target is simulated with a known potential: Lennard-Jones, one of its family, a Morse potential in a power of the
distance, soft spheres or Yukawa, in reduced units. Three methods start from the potential of mean force. `diffsim`:
through the thermostatted dynamics, in chunks that never start anew. `difftre`: by the derivatives of reweighted means.
`ibi`: iterative Boltzmann inversion. All potentials are measured in runs of their own, from a lattice.
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

import reverlet as rv

from . import _run
from ._errors import BadInput, refusing
from ._fields import above_zero, at_least, check_fields, not_negative
from ._folder import Folder, free_folder, write_json
from ._goals import Goal, at_most, in_time, judged, told
from ._pairs import Liquid, Point, Structure, lattice, table
from ._pairs_figures import draw
from ._pairs_fit import METHODS, Chunks, Inversion, Reweighted, Task, whitened

Target = Literal["lj", "family", "morse", "soft", "yukawa"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds)."""
    seed: Annotated[int, not_negative(0)] = 0
    """Of all random numbers."""
    method: tuple[Literal["diffsim", "difftre", "ibi"], ...] = METHODS
    """Through the dynamics, by reweighting, by iterative Boltzmann inversion of the first state point."""
    target: Target = "lj"
    """The potential to be found again: Lennard-Jones; 4ε [(σ/r)ⁿ - (σ/r)ᵐ]; Morse in a power of the distance; (σ/r)ⁿ;
    A exp(-κr)/r."""
    exponents: tuple[float, float] = (8.0, 4.0)
    """n and m of the family, n of soft spheres."""
    well: tuple[float, float] = (5.5, 0.44)
    """Steepness a and power φ of the Morse potential."""
    screened: tuple[float, float] = (20.0, 3.0)
    """A and κ of Yukawa, in ε σ and 1/σ."""
    density: tuple[float, ...] = (0.7,)
    """Of all state points, 1/σ³."""
    temperature: tuple[float, ...] = (1.0,)
    """Of all state points, ε; or one for all."""
    cutoff: Annotated[float, above_zero(2.5)] = 2.5
    """σ, of the target and of what is learned."""
    atoms: Annotated[int, at_least(32, 108)] = 108
    """Of every simulation; 4n³ of them start as a perfect crystal."""
    replicas: Annotated[int, at_least(1, 8)] = 8
    """Simulations at a time, of every state point."""
    dt: Annotated[float, above_zero(0.01)] = 0.01
    """Time step, τ."""
    every: Annotated[int, at_least(1, 10)] = 10
    """Time steps between two looks at g(r)."""
    bins: Annotated[int, at_least(10, 130)] = 130
    """Of g(r), up to half the smallest box."""
    width: Annotated[float, above_zero(0.01)] = 0.01
    """With which distances are smeared, those of the target alike, σ."""
    melting: Annotated[int, at_least(10, 1000)] = 1000
    """Time steps at three times the temperature, and as many at the temperature."""
    reference: Annotated[int, at_least(10, 20000)] = 20000
    """Time steps of the target."""
    check: Annotated[int, at_least(10, 4000)] = 4000
    """Time steps of every measurement in the end."""
    chunk: Annotated[int, at_least(1, 20)] = 20
    """Time steps of a chunk of diffsim."""
    updates: Annotated[int, at_least(1, 400)] = 400
    """Of diffsim: chunks."""
    rate: Annotated[float, above_zero(0.1)] = 0.1
    """Of diffsim, in units in which noise hides all changes alike."""
    steps: Annotated[int, at_least(40, 1500)] = 1500
    """Time steps of a simulation of difftre and ibi."""
    simulations: Annotated[int, at_least(1, 20)] = 20
    """Of difftre and ibi."""
    settling: Annotated[int, at_least(1, 6)] = 6
    """The step of difftre after which they become smaller, to the mean over all later ones."""
    spacing: Annotated[float, above_zero(0.05)] = 0.05
    """Of the knots of what is learned, σ."""

    def __post_init__(self):
        check_fields(self)
        if not self.method or len(set(self.method)) < len(self.method):
            raise BadInput(f"--method is {self.method}; wanted one or more of {', '.join(METHODS)}.")
        points = max(len(self.density), len(self.temperature))
        for name in ("density", "temperature"):
            values = getattr(self, name)
            if len(values) not in (1, points) or not all(x > 0 for x in values):
                raise BadInput(f"--{name} is {values}; wanted one number above zero, or one for each state point.")
        for name in ("chunk", "steps", "melting", "reference", "check"):
            if getattr(self, name) % self.every:
                raise BadInput(f"--{name} is {getattr(self, name)}; wanted a multiple of --every, {self.every}.")
        half = 0.5 * (self.atoms / max(self.density)) ** (1 / 3)
        if self.cutoff > half:
            raise BadInput(f"--cutoff is {self.cutoff}; wanted at most {half:.4g}, half the smallest box.")

    def truth(self) -> Any:
        """The potential that makes the target."""
        n, m = self.exponents
        match self.target:
            case "lj":
                return rv.LennardJones(1.0, 1.0, cutoff=self.cutoff)
            case "family":
                strength = 4 / (n / (n - m) * (n / m) ** (m / (n - m)))
                return rv.Mie(1.0, strength, n, m, cutoff=self.cutoff)
            case "morse":
                return rv.pairs.GeneralizedMorse(1.0, 1.0, *self.well, cutoff=self.cutoff)
            case "soft":
                return rv.pairs.InversePower(1.0, 1.0, n, cutoff=self.cutoff)
            case "yukawa":
                return rv.pairs.Yukawa(*self.screened, cutoff=self.cutoff)

    def liquid(self) -> Liquid:
        """All state points."""
        points = max(len(self.density), len(self.temperature))
        spread = lambda x: np.broadcast_to(np.asarray(x, np.float32), points)
        length = (self.atoms / spread(self.density)) ** (1 / 3)
        species = jnp.zeros((points, self.atoms), jnp.int32)
        positions = np.stack([lattice(self.atoms, x) for x in length])
        point = Point(jnp.asarray(spread(self.temperature)), jnp.asarray(length, jnp.float32), species)
        structure = Structure(float(0.4999 * length.min()), self.bins, self.width)
        return Liquid(point, jnp.asarray(positions, jnp.float32), structure, self.dt, 0.5, self.every)


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", atoms=256, replicas=16, reference=100000, check=20000, updates=2000, steps=4000,
                    simulations=30, settling=10),
    "smoke": Config(preset="smoke", method=("diffsim", "difftre"), atoms=32, cutoff=1.7, replicas=2, bins=30,
                    melting=20, reference=40, check=40, chunk=20, updates=2, steps=40, simulations=2, settling=1,
                    spacing=0.1),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A pair potential from radial distribution functions, by three methods on the same target.

    Writes target.npz; history-METHOD.jsonl of every method; potentials.npz; structure.npz, what all potentials were
    measured to give, beside the target; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/pair_rdf, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("pair_rdf", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began, c = time.perf_counter(), command.config
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    with refusing():
        truth, liquid = c.truth(), c.liquid()
    out = command.out or free_folder(Path("results/pair_rdf"))
    folder = Folder(out, {"experiment": "pair_rdf", **dataclasses.asdict(c)}, resume=command.resume)
    key = lambda stage: jax.random.fold_in(jax.random.key(c.seed), stage)

    target = folder.array_stage("target.npz", lambda: measured(c, liquid, truth, c.reference, key(0), keep=True))
    first = 0.9 * float(target["nearest"])
    task = Task(liquid, target["g"], first, c.cutoff, round((c.cutoff - first) / 0.02) + 1, c.spacing)
    states = liquid.start(c.replicas, key(1))
    states = eqx.tree_at(
        lambda s: (s.positions, s.velocities), states, tuple(map(jnp.asarray, (target["x"], target["v"])))
    )

    found, seconds = {"start": np.asarray(task.base())}, {}
    for k, method in enumerate(c.method):
        entered = time.perf_counter()
        found[method] = learned(c, method, task, states, key(2 + k), folder)
        seconds[method] = time.perf_counter() - entered
    curves = {"r": task.r, "truth": energies(truth, task.r), **found}
    curves = folder.array_stage("potentials.npz", lambda: curves)

    def structure():
        runs = {"r": liquid.structure.centers, "target": target["g"], "target_error": target["error"]}
        for k, name in enumerate(found):
            potential = table(jnp.asarray(curves[name], jnp.float32), first, c.cutoff)
            one = measured(c, liquid, potential, c.check, key(10 + k))
            runs |= {name: one["g"], f"{name}_error": one["error"]}
        return runs

    runs = folder.array_stage("structure.npz", structure)
    summary = summarized(c, task, curves, runs)
    total = time.perf_counter() - began
    summary["goals"] = judged(goals(summary, total, command), c.preset)
    write_json(folder / "summary.json", {**summary, "timing": {"seconds": total, **seconds}})
    figures = draw(folder.path)
    for line in [*report(summary), told(summary["goals"], c.preset), f"How long: {total:.0f} s.",
                 f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)})."]:  # fmt: skip
        print(line)


def measured(
    c: Config, liquid: Liquid, potential: Any, steps: int, key: Any, keep: bool = False
) -> dict[str, np.ndarray]:
    """g of all state points and its error in so many steps, by replicas that start from a lattice; to `keep`, also
    where they end."""
    states = liquid.start(c.replicas, key)
    for factor in (3.0, 1.0):
        _, states = _run_on(liquid, potential, states, c.melting, jnp.asarray(factor), False)
    (g, near), states = _run_on(liquid, potential, states, steps, jnp.asarray(1.0), True)
    means = np.mean(np.asarray(g, float)[:, :, :, 0], axis=2)
    error = (
        np.std(means, axis=1, ddof=1) / means.shape[1] ** 0.5
        if means.shape[1] > 1
        else np.full_like(means[:, 0], np.nan)
    )
    found = {"g": np.mean(means, axis=1), "error": error, "nearest": np.min(np.asarray(near))}
    return {**found, "x": np.asarray(states.positions), "v": np.asarray(states.velocities)} if keep else found


@eqx.filter_jit
def _run_on(liquid, potential, states, steps, factor, see):
    record = None if see else lambda point, state: jnp.zeros(())
    return liquid.run(lambda point: potential, states, steps, factor=factor, record=record)


def learned(
    c: Config, method: str, task: Task, states: rv.State, key: Any, folder: Folder, name: str | None = None
) -> np.ndarray:
    """What a method makes of the target: values of its table, kJ/mol. `name`, of its files, by default the method's."""
    name = name or method
    if method == "ibi":
        found = Inversion(c.simulations, c.steps).fit(task, states, key, folder)
        return np.asarray(found.potential.values, float)
    model, compared, g, states = whitened(task, task.prior(), states, c.steps)
    if method == "difftre":
        fitted = Reweighted(c.simulations, c.steps, c.settling).fit(task, model, compared, states, key, folder, name)
    else:
        fitted = Chunks(c.updates, c.chunk, c.rate).fit(task, model, compared, states, g, key, folder)
    return np.asarray(fitted.model.values(), float)


def energies(potential: Any, r: np.ndarray) -> np.ndarray:
    """Of two atoms alone, kJ/mol, before the cutoff."""
    at = lambda r: jnp.zeros((2, 3)).at[1, 0].set(r)
    far: Any = rv.OpenBox()  # pyright: ignore[reportCallIssue]
    return np.asarray(jax.vmap(lambda r: potential.energy(at(r), far))(jnp.asarray(np.minimum(r, r[-1] * (1 - 1e-6)))))


def summarized(c: Config, task: Task, curves: dict[str, np.ndarray], runs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Errors of all potentials: of g in runs of their own; of u, but for a constant at the cutoff, where any g is above
    0.1; and how many steps of how many atoms each method took."""
    names = [n for n in ("start", *METHODS) if n in runs]
    seen = np.max([np.interp(curves["r"], runs["r"], g) for g in runs["target"]], axis=0) > 0.1
    seen &= curves["r"] > curves["r"][np.argmax(seen)] - 1e-9
    level = lambda u: u - u[-1]
    found: dict[str, Any] = {"noise_of_target": float(np.mean(runs["target_error"] ** 2))}
    forward = c.replicas * c.steps * c.simulations
    first, gradient = c.replicas * c.steps, 4 * c.replicas * c.chunk * c.updates  # the first for the metric
    effort = {"start": 0, "diffsim": first + gradient, "difftre": first + forward, "ibi": forward}
    for name in names:
        off = (level(curves[name]) - level(curves["truth"]))[seen]
        found[name] = {
            "mse_g": float(np.mean((runs[name] - runs["target"]) ** 2)),
            "mse_g_points": np.mean((runs[name] - runs["target"]) ** 2, axis=1).tolist(),
            "noise_g": float(np.mean(runs[f"{name}_error"] ** 2)),
            "u_max": float(np.max(np.abs(off))),
            "u_rms": float(np.sqrt(np.mean(off**2))),
            "force_evaluations": effort[name],
        }
    return found


def goals(summary: dict[str, Any], seconds: float, command: Command) -> list[Goal]:
    """What the methods with gradients were to reach."""
    found = []
    for method in command.config.method:
        if method != "ibi":
            found.append(at_most(f"{method}: mean squared error of g(r)", summary[method]["mse_g"], 1e-4))
            found.append(at_most(f"{method}: largest error of u(r) where g > 0.1, ε", summary[method]["u_max"], 0.05))
    return [*found, in_time(seconds, 15, resumed=command.resume)]


def report(summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    return [
        f"{name}: mean squared error of g(r) {of['mse_g']:.2g} (noise {of['noise_g']:.1g}), largest error of u(r)"
        f" {of['u_max']:.3f} ε, root mean square {of['u_rms']:.3f} ε."
        for name, of in summary.items()
        if isinstance(of, dict)
    ]
