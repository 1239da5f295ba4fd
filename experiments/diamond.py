"""Learn the stress and the elastic constants of diamond by reweighting: the second case of DiffTRe.

A neural potential on a Stillinger–Weber prior that is far too soft. All that is known of the crystal is that its cell
is without stress, and c11, c12 and c44. What is fitted are means over samples at constant volume, with the fluctuation
of the stress, whose gradient by the parameters of the network passes through the weights of the samples and through
second derivatives in strain. Prior and fitted potential are then measured in longer runs of their own.
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
from jaxtyping import Array, Float, PRNGKeyArray

import reverlet as rv

from . import _run
from ._diamond_figures import draw
from ._errors import BadInput
from ._fields import Check, above_zero, at_least, check_fields, not_negative
from ._folder import Folder, History, free_folder, write_json
from ._goals import Goal, at_most, judged, told
from ._refine import TIME
from ._reweighted import Redrawn, descended

GPA = 1e4 * rv.units.BAR
TEMPERATURE = 298.15
"""K."""
EDGE = 0.35682
"""nm, of the cubic cell of 8 atoms: 3512 kg/m³."""
NAMES = ("c11", "c12", "c44")
TARGETS = (1079.0, 124.0, 578.0)
"""GPa, at 298 K: H. J. McSkimin and P. Andreatch, J. Appl. Phys. 43, 2944 (1972), as the original has them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds)."""
    seed: Annotated[int, not_negative(0)] = 0
    """Of all random numbers."""
    cells: Annotated[int, at_least(2, 2, "two of its cutoffs fit in no smaller box")] = 2
    """Cubic cells of 8 atoms along every edge of the box."""
    chains: Annotated[int, at_least(2, 8)] = 8
    """That run side by side."""
    dt: Annotated[float, above_zero(1e-3)] = 1e-3
    """Time step, ps."""
    friction: Annotated[float, above_zero(100)] = 100.0
    """1/ps. So much that the stress forgets itself within tens of femtoseconds: dynamics do not matter here."""
    interval: Annotated[int, at_least(1, 20)] = 20
    """Time steps between samples."""
    samples: Annotated[int, at_least(8, 64)] = 64
    """Whenever the fit draws new ones, a multiple of the chains."""
    equilibration: Annotated[int, not_negative(0)] = 0
    """Samples of every chain that are thrown away before: none, since an update moves the potential but little."""
    least: Annotated[float, Check(lambda x: 0 < x <= 1, "a part of one", 0.5)] = 0.5
    """The part of the samples that must count, by 1/Σw², for them to be used again."""
    uses: Annotated[int, at_least(1, 2)] = 2
    """How many updates use the same samples at most."""
    updates: Annotated[int, at_least(1, 80)] = 80
    """Steps of Adam."""
    rate: Annotated[float, above_zero(1e-3)] = 1e-3
    """Its learning rate at first."""
    final_rate: Annotated[float, above_zero(1e-4)] = 1e-4
    """And at last; it falls exponentially."""
    radial: Annotated[int, at_least(1, 4)] = 4
    """Radial functions of the network."""
    hidden: Annotated[int, at_least(1, 16)] = 16
    """Units of its hidden layer."""
    degree: Annotated[int, not_negative(2)] = 2
    """The highest of its angular functions, L."""
    check: Annotated[int, at_least(8, 2048)] = 2048
    """Samples that prior and fitted potential are measured with, a multiple of the chains."""
    batch: Annotated[int, at_least(1, 64)] = 64
    """Samples or chains at a time."""

    def __post_init__(self):
        check_fields(self)
        for name in ("samples", "check"):
            if getattr(self, name) % self.chains:
                raise BadInput(f"--{name} is {getattr(self, name)}; wanted a multiple of --chains, {self.chains}.")


PRESETS = {
    "quick": Config(),
    "paper": Config(
        preset="paper", cells=5, chains=64, samples=512, updates=500, final_rate=1e-4, hidden=64, check=32768, batch=64
    ),
    "smoke": Config(preset="smoke", interval=2, samples=8, updates=2, radial=3, hidden=4, degree=1, check=8),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Learn the stress and the elastic constants of diamond by reweighting.

    Writes before.npz and after.npz, what the prior and the fitted potential were measured to be in runs of their own;
    history.jsonl, and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/diamond, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("diamond", PRESETS, Command, arguments)))


# ---- the crystal


PRIOR = rv.StillingerWeber(200.0, 0.14, cutoff=1.8 * 0.14)
REACH = 0.2
"""nm, of the network: it sees the four bonds of an atom, 0.1545 nm long, as that of the original does."""


class Bonded(rv.AbstractPotential):
    """A network with a list of its own, of bonds alone: of what the prior looks at, it needs a seventh."""

    network: rv.EANN
    bonds: rv.Neighbors

    @property
    def cutoff(self):
        return self.network.cutoff

    def energy(self, positions, box, *, neighbors=None):
        return self.network.energy(positions, box, neighbors=self.bonds)


class Elasticity(rv.AbstractObservable):
    """The mean stress with its kinetic part (Voigt's order, tension positive) and c11, c12 and c44, GPa, from the same
    derivatives in strain."""

    constants = rv.CubicElasticConstants()

    def record(self, system, state, initial):
        return self.constants.record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        assert ensemble is not None  # as that of samples
        constants = self.constants.reduce(times, records, weights, ensemble)
        # of velocities the mean is known; the center of mass moves too
        kinetic = records.atoms[0, 0] * ensemble.thermal_energy(weights) / records.volume[0, 0]
        push = kinetic * jnp.asarray([1, 1, 1, 0, 0, 0], weights.dtype)
        return (weights @ records.stress[:, 0] - push) / GPA, constants / GPA


class Diamond(eqx.Module):
    """What is simulated: a box of cubic cells, and how."""

    topology: rv.Topology
    sites: rv.State
    near: rv.Neighbors
    """Of the sites, for the prior. Atoms stay near theirs, so that one list does for all: it is unusable, and the run
    stops, once one is half the skin away."""
    bonds: rv.Neighbors
    sampler: rv.LangevinBAOAB
    batch: int = eqx.field(static=True)

    @classmethod
    def of(cls, c: Config) -> "Diamond":
        """The crystal of a run."""
        corners = np.stack(np.meshgrid(*[np.arange(c.cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
        face = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
        sites = (corners + np.concatenate([face, face + 0.25])).reshape(-1, 3) * EDGE
        x = jnp.asarray(sites, jnp.float32)
        box = rv.OrthorhombicBox(jnp.full(3, c.cells * EDGE, jnp.float32))
        fitted = lambda cutoff, skin: rv.CellList.fit(x, box, cutoff=cutoff, skin=skin, room=1.0, per_atom=True)
        # bonds end before the second shell, 0.2523 nm, on which the prior does; the third counts as near, 0.2959 nm
        bonds, near = fitted(REACH, 0.05).find(x, box), fitted(PRIOR.cutoff, 0.09).find(x, box)
        sampler = rv.LangevinBAOAB(TEMPERATURE, c.friction, dt=c.dt, num_steps=c.interval, batch=c.batch)
        topology = rv.Topology.from_elements(["C"] * len(sites))
        return cls(topology, rv.State(x, jnp.zeros_like(x), box), near, bonds, sampler, c.batch)

    def network(self, c: Config, key: PRNGKeyArray) -> rv.EANN:
        """What is trained: its last weights are zero, so that there is only the prior at first."""
        made = {"num_radial": c.radial, "max_degree": c.degree, "hidden": (c.hidden,)}
        network = rv.EANN.fresh(self.topology, key=key, cutoff=REACH, **made)
        # a bond is so near the cutoff that densities would be next to nothing
        weight = jnp.cos(0.5 * jnp.pi * 0.25 * 3**0.5 * EDGE / REACH) ** 4
        scaled = (network.amplitudes / weight, jax.tree.map(jnp.zeros_like, network.last))
        return eqx.tree_at(lambda n: (n.amplitudes, n.last), network, scaled)

    def system(self, network: rv.EANN) -> rv.System:
        """The crystal with the prior and, in units of its energy, a network."""
        potential = PRIOR + float(PRIOR.epsilon) * Bonded(network, self.bonds)  # pyright: ignore[reportCallIssue]
        return rv.System(self.topology, potential, neighbors=self.near)  # pyright: ignore[reportCallIssue]


@eqx.filter_jit
def elasticity(diamond: Diamond, network: rv.EANN, samples: rv.Samples) -> dict[str, Array]:
    """Stress and constants with their errors, GPa."""
    found = rv.expectation(Elasticity(), diamond.system(network), samples, batch=diamond.batch)
    (stress, constants), (stress_error, constants_error) = found.value, found.error
    return {
        "stress": stress,
        "stress_error": stress_error,
        "constants": constants,
        "constants_error": constants_error,
    }


@eqx.filter_jit
def _drawn(diamond, network, chains, num_samples, key):
    return diamond.sampler.sample(diamond.system(network), chains, num_samples, key=key)


def measured(diamond: Diamond, c: Config, network: rv.EANN, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """The same in a run of its own from the sites, and where its chains end (nm)."""
    settling = 10 * c.chains
    samples, chains = _drawn(diamond, network, diamond.sites.repeat(c.chains), settling + c.check, key)
    found = elasticity(diamond, network, samples[settling:])
    ends = {"positions": chains.states.positions, "velocities": chains.states.velocities}
    return {name: np.asarray(x) for name, x in {**found, **ends}.items()}


# ---- the run


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    began = time.perf_counter()
    config = command.config
    out = command.out or free_folder(Path("results/diamond"))
    folder = Folder(out, {"experiment": "diamond", **dataclasses.asdict(config)}, resume=command.resume)
    diamond = Diamond.of(config)
    fresh = diamond.network(config, _key(config, 0))
    before = folder.array_stage("before.npz", lambda: measured(diamond, config, fresh, _key(config, 1)))
    ends = (jnp.asarray(before[name]) for name in ("positions", "velocities"))
    chains = jax.vmap(lambda x, v: rv.State(x, v, diamond.sites.box))(*ends)
    fitted = _fit(config, folder, diamond, fresh, chains)
    after = folder.array_stage("after.npz", lambda: measured(diamond, config, fitted.model, _key(config, 2)))
    of_updates = sum(s for s in History(folder / "history.jsonl").seconds.values() if s is not None)
    seconds = time.perf_counter() - began
    summary: dict[str, Any] = {
        "atoms": diamond.topology.num_atoms,
        "parameters": sum(x.size for x in jax.tree.leaves(eqx.filter(fitted.model, eqx.is_inexact_array))),
        "targets": {"stress": 0.0, "constants": TARGETS},
        "before": _listed(before),
        "after": _listed(after),
        "updates": int(fitted.step),
        "drawn": int(np.sum(fitted.history["drawn"])),
    }
    goals = judged(_goals(summary, seconds, command), config.preset)
    timing = {"seconds": seconds, "seconds_of_updates": of_updates}
    write_json(folder / "summary.json", {**summary, "timing": timing, "goals": goals})
    figures = draw(folder.path)
    told_of = lambda found: ", ".join(
        f"{name} {v:.1f} ± {e:.1f}"
        for name, v, e in zip(NAMES, found["constants"], found["constants_error"], strict=True)
    )
    print(
        f"Prior: {told_of(before)} GPa, largest stress {_largest(before):.2f} GPa.",
        f"Fitted: {told_of(after)} GPa, largest stress {_largest(after):.2f} GPa; wanted"
        f" {', '.join(f'{x:g}' for x in TARGETS)} and 0. {summary['parameters']} parameters, {fitted.step} updates of"
        f" which {summary['drawn']} drew samples.",
        told(goals, config.preset),
        f"How long: {seconds:.0f} s; {of_updates:.0f} s of updates.",
        f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)}).",
        sep="\n",
    )


def _largest(found: dict[str, Any]) -> float:
    return float(np.max(np.abs(found["stress"])))


def _listed(found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: [float(x) for x in values] for name, values in found.items() if values.ndim == 1}


def _key(config: Config, stage: int) -> Any:
    return jax.random.fold_in(jax.random.key(config.seed), stage)


def loss_of(found: dict[str, Array]) -> Float[Array, ""]:
    """What is off in units of what may be: 5 % of every constant and 1 GPa of stress."""
    wanted = jnp.asarray(TARGETS, found["constants"].dtype)
    off = (found["constants"] - wanted) / (0.05 * wanted)
    return jnp.mean(off**2) + jnp.mean(found["stress"][:3] ** 2)


def _fit(c: Config, folder: Folder, diamond: Diamond, network: rv.EANN, chains: rv.State) -> rv.FitState:
    def loss(network, samples):
        found = elasticity(diamond, network, samples)
        value = loss_of(found)
        return value, {"loss": value, **found}

    rate = optax.exponential_decay(c.rate, c.updates, c.final_rate / c.rate)
    return descended(
        loss,
        diamond.system,
        Redrawn(diamond.sampler, c.samples, c.equilibration, c.least, c.uses),
        network,
        optax.adam(rate, b1=0.8, b2=0.95),
        chains,
        updates=c.updates,
        key=_key(c, 3),
        checkpoint=folder.checkpoint,
        history=folder / "history.jsonl",
        lines=lambda report: {name: np.asarray(x).tolist() for name, x in report.items()},
    )


def _goals(summary: dict[str, Any], seconds: float, command: Command) -> list[Goal]:
    # the original's 1 % and 0.1 GPa are for the size of the original
    share, stress = (1.0, 0.1) if command.config.preset == "paper" else (5.0, 1.0)
    after = summary["after"]
    off = [
        at_most(f"{name}, apart from its target, %", 100 * abs(v / wanted - 1), share, 100 * e / wanted)
        for name, v, e, wanted in zip(NAMES, after["constants"], after["constants_error"], TARGETS, strict=True)
    ]
    in_time = at_most(TIME, seconds / 60, 180 if command.config.preset == "paper" else 15)
    return [
        *off,
        at_most("largest component of the stress, GPa", _largest(after), stress, max(after["stress_error"])),
        dataclasses.replace(in_time, value=None, met=None) if command.resume else in_time,
    ]
