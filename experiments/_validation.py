"""What `validate_water` simulates: the liquid at constant volume and at constant pressure, one molecule, and
clusters."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

import reverlet as rv

from ._chains import Chains, arrays_of, bar, watched, write_atoms
from ._neural_water import PAIRS, all_whole
from ._path_integral import RingPolymers
from ._water import cutoff_in, spectra_of

CLUSTERS = Path(__file__).parent / "reference/water_clusters_pbe0.json"
_BIN = 0.005
"""nm, of radial distribution functions."""


@dataclasses.dataclass(frozen=True)
class Grids:
    """What is recorded and at which points.

    **Arguments:** time steps between two frames, `save_every`; frames between two that structure, energies and
    pressures are of, `every`; the `length` of a piece of a trajectory, and of `correlation` functions (ps); where
    spectra end and the `spacing` of their points (1/cm); where structure factors end, `k_max` (1/nm).
    """

    save_every: int
    every: int
    length: float
    correlation: float
    highest: float
    spacing: float
    k_max: float


class Record(eqx.Module):
    """What is kept of every frame: positions, velocities and the current, over the root of the volume."""

    infrared: rv.InfraredSpectrum

    def __call__(self, system, state, initial):
        return state.positions, state.velocities, self.infrared.record(system, state, initial)


class Liquid:
    """The liquid on a surface, in a `box`; `moment` is the dipole surface."""

    def __init__(
        self,
        sampling: Chains,
        box: rv.AbstractBox,
        surface: rv.EANN,
        moment: rv.AbstractDipole,
        grids: Grids,
        path: Path,
    ):
        self.sampling, self.box, self.grids, self.path = sampling, box, grids, path
        self.system = rv.System(sampling.topology, surface, moment)
        self.ensemble = rv.NVT(sampling.temperature)
        self.frame = sampling.dt * grids.save_every
        nu = np.arange(0, grids.highest * (1 + 1e-9), grids.spacing)
        window = rv.spectra.GaussianWindow(grids.correlation / 3)  # pyright: ignore[reportCallIssue]
        lags = round(grids.correlation / self.frame) + 1
        self.infrared = rv.InfraredSpectrum(nu, window, num_lags=lags)
        self.vibrations = rv.VDOS(nu, window, num_lags=lags)
        steps = round(grids.length / self.frame) * grids.save_every
        self.dynamics = rv.Dynamics(sampling.dt, steps, grids.save_every, mesh=sampling.mesh)
        edge = float(np.floor(50 * float(jnp.min(box.heights))) / 100)
        self.rdfs = {name: rv.RDF(edge, round(edge / _BIN), pair=pair) for name, pair in PAIRS.items()}
        # bins as wide as half the smallest wave vector, so that none is empty
        smallest = 2 * np.pi / float(jnp.min(box.heights))
        bins = max(1, int(2 * (grids.k_max - smallest) / smallest))
        self.scattered = rv.StructureFactor.fit(box, grids.k_max, bins, scattering=rv.scattering.XRays())

    def watched(self, states: rv.State, doing: str) -> contextlib.AbstractContextManager[None]:
        """Writes the atoms that a simulation went wrong from, to be looked at."""
        return watched(self.path / "blown_up.extxyz", self.sampling.topology, states, doing)

    def mended(self, states: rv.State) -> tuple[rv.State, np.ndarray]:
        """The chains with those that came apart put where a whole one is, so that all can go on; and which were whole,
        since no other counts.

        **Errors:** `SimulationError` if fewer than half were, or fewer than two.
        """
        whole = np.asarray(jax.vmap(lambda s: all_whole(self.sampling.topology, s.box, s.positions))(states))
        if np.sum(whole) < max(2, len(whole) / 2):
            raise rv.SimulationError(
                f"molecules came apart in {np.sum(~whole)} of {len(whole)} chains: a hydrogen is farther than 0.15 nm"
                " from its oxygen. Wanted liquid water: a surface trained on more labels, or refined by smaller steps;"
                " or a shorter --length, to look at the water until then.",
                chains=states,
            )
        if not np.all(whole):
            write_atoms(self.path / "came_apart.extxyz", self.sampling.topology, states)
        place = np.where(whole, np.arange(len(whole)), np.argmax(whole))
        return jax.tree.map(lambda x: x[place], states), whole

    def started(self, state: rv.State, chains: int, nvt: float, key: PRNGKeyArray) -> dict[str, np.ndarray]:
        """Chains of q-SPC/Fw water, which costs little, after `nvt` ps."""
        keys = jax.random.split(key)
        box = state.box
        water = rv.qspcfw(len(state.positions) // 3, box, cutoff=cutoff_in(box)).potential
        states = self.sampling.with_new_velocities(state.repeat(chains), keys[0])
        return arrays_of(self.sampling.equilibrate(water, states, nvt, keys[1], "starting"))

    def equilibrated(self, states: rv.State, duration: float, key: PRNGKeyArray) -> dict[str, np.ndarray]:
        """Chains on the surface after so many ps, with fresh velocities."""
        keys = jax.random.split(key)
        with self.watched(states, "equilibrating"):
            states = self.sampling.equilibrate(self.system.potential, states, duration, keys[0], "equilibrating")
            states, whole = self.mended(states)
        return {**arrays_of(self.sampling.with_new_velocities(states, keys[1])), "whole": whole}

    def piece(self, states: rv.State) -> dict[str, np.ndarray]:
        """A piece of the trajectories at constant energy, and where they stopped.

        **Returns:** of every chain `infrared` (1/cm), `vdos` (cm), `temperature` (K), `pressure` (bar),
        `potential` (kJ/mol), `moments` (frames, M over the root of the volume), `energy` (frames, kJ/mol),
        `msd` (lags, nm², of oxygens), `g_OO`, `g_OH`, `g_HH`, `scattered`, and whether it stayed `whole`.
        """
        with self.watched(states, "following trajectories at constant energy"):
            found, final = jax.block_until_ready(_piece(self, states))
            final, whole = self.mended(final)
        # a drift of the box's molecules at once is no diffusion
        oxygens = np.asarray(found.pop("oxygens"), float)
        return {
            **jax.tree.map(np.asarray, found),
            "msd": np.stack([msd(x) for x in oxygens]),
            **arrays_of(final),
            "whole": whole,
        }

    def quantum(
        self, states: rv.State, beads: int, equilibration: float, length: float, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """The density of states of `vibrations` (cm; chains, wavenumbers) of centroids of ring polymers."""
        masses, dt = self.sampling.topology.masses, self.sampling.dt
        every, keys = self.grids.save_every, jax.random.split(key, (3, len(states.positions)))
        one = RingPolymers(masses, self.sampling.temperature, beads, dt)
        damped = dataclasses.replace(one, friction=self.sampling.friction)
        count = lambda duration: max(1, round(duration / self.frame)) * every
        with self.watched(states, "as ring polymers"):
            x, v = jax.vmap(one.at_rest_in)(states.positions, keys[0])
            settle = lambda x, v, k: damped.follow(self._forces, x, v, count(equilibration), count(equilibration), k)
            x, v, *_ = jax.block_until_ready(jax.jit(jax.vmap(settle))(x, v, keys[1]))
            follow = lambda x, v, k: one.follow(self._forces, x, v, count(length) + every, every, k)
            x, _, _, velocities = jax.block_until_ready(jax.jit(jax.vmap(follow))(x, v, keys[2]))
            _, whole = self.mended(eqx.tree_at(lambda s: s.positions, states, jnp.mean(x, axis=1)))
        scaled = jnp.sqrt(masses.astype(x.dtype))[:, None] * velocities
        times, weight = self.frame * jnp.arange(scaled.shape[1]), jnp.ones(1, x.dtype)
        found = [self.vibrations.reduce(times, y[None], weight) for y in scaled]
        return {"vibrations": np.stack(found), "whole": whole}

    def _forces(self, beads):
        return jax.vmap(lambda x: self.system.forces(x, self.box))(beads)

    def breathing(self, states: rv.State, duration: float, pressure: float, key: PRNGKeyArray) -> dict[str, np.ndarray]:
        """The `density` (g/cm³; rounds, chains) at a pressure (bar), of every interval of `duration` ps, and which
        chains stayed `whole`."""
        barostat = rv.StochasticCellRescaling(self.sampling.sampler(), pressure * rv.units.BAR, period=0.5)
        mass, densities = float(jnp.sum(self.sampling.topology.masses)), []
        alive = np.full(len(states.positions), True)
        for k in bar(round(duration / self.sampling.interval), "constant pressure"):
            with self.watched(states, "at constant pressure"):
                key_k = jax.random.fold_in(key, k)
                samples, ends = barostat.sample(self.system, states, len(states.positions), key=key_k)
                states, whole = self.mended(ends.states)
            alive &= whole
            volumes = np.asarray(jax.vmap(lambda s: s.box.volume)(samples.states), float)
            densities.append(mass / volumes / rv.units.GRAM_PER_CUBIC_CENTIMETER)
        return {"density": np.stack(densities), "whole": alive}


@eqx.filter_jit
def _piece(liquid: Liquid, states: rv.State):
    system, grids, topology = liquid.system, liquid.grids, liquid.sampling.topology
    trajectory = liquid.dynamics.run_many(system, states, Record(liquid.infrared))
    x, v, current = trajectory.records
    one = jnp.ones(1, current.dtype)
    spectrum = lambda c: liquid.vibrations.reduce(trajectory.times, c[None], one)
    mass = jnp.sqrt(topology.masses.astype(v.dtype))[:, None]
    at_rest = v - jnp.sum(mass**2 * v, axis=2, keepdims=True) / jnp.sum(mass**2)
    kinetic = 0.5 * jnp.sum((mass * v) ** 2, axis=(2, 3))
    still_x, still_kinetic = x[:, 1 :: grids.every], kinetic[:, 1 :: grids.every]
    found = jax.lax.map(lambda x: jax.lax.map(lambda y: _still(liquid, y), x), still_x)
    few = jax.lax.map(lambda x: jax.lax.map(lambda y: _scattered(liquid, y), x), still_x[:, ::5])
    per_chain = lambda observable, records: jax.vmap(
        lambda r: observable.reduce(trajectory.times, jax.tree.map(lambda y: y[None], r), one)
    )(records)
    potential, pressure, moments, *pairs = found
    n = topology.num_atoms
    ideal = n * liquid.ensemble.thermal_energy(one[0]) / liquid.box.volume
    numbers = np.asarray(topology.atomic_numbers)
    return {
        "infrared": spectra_of(liquid.infrared, jnp.asarray(trajectory.times), current, liquid.ensemble),
        "vdos": jax.lax.map(spectrum, mass * at_rest),
        "temperature": jnp.mean(kinetic, axis=1) / (1.5 * (n - 1) * rv.units.BOLTZMANN),
        "pressure": (jnp.mean(pressure, axis=1) + ideal) / rv.units.BAR,
        "potential": jnp.mean(potential, axis=1),
        "energy": potential + still_kinetic,
        "moments": moments,
        "oxygens": still_x[:, :, numbers == 8],
        "scattered": per_chain(liquid.scattered, few),
        **{f"g_{name}": per_chain(g, r) for (name, g), r in zip(liquid.rdfs.items(), pairs, strict=True)},
    }, trajectory.final


def _still(liquid, positions):
    """Of a configuration: energy, pressure without that of an ideal gas, dipole, and counts of pairs."""
    state = rv.State(positions, jnp.zeros_like(positions), liquid.box)
    # velocities of steps of finite length are too slow for stiff bonds: the ideal part is that of equipartition
    energy = liquid.system.potential_energy(positions, liquid.box)
    observables = (rv.Pressure(), rv.DielectricConstant(), *liquid.rdfs.values())
    return energy, *(o.record(liquid.system, state, state) for o in observables)


def _scattered(liquid, positions):
    state = rv.State(positions, jnp.zeros_like(positions), liquid.box)
    return liquid.scattered.record(liquid.system, state, state)


def msd(positions: np.ndarray) -> np.ndarray:
    """The mean squared displacement (frames, atoms, 3), over all origins, up to half the frames, without the motion of
    all atoms together."""
    x = positions - positions.mean(axis=1, keepdims=True)
    lags = range(len(x) // 2 + 1)
    return np.array([np.mean(np.sum((x[k:] - x[: len(x) - k]) ** 2, axis=-1)) for k in lags])


def one_molecule(
    surface: rv.EANN, topology: rv.Topology, temperature: float, dt: float, duration: float, key: PRNGKeyArray
) -> dict[str, np.ndarray]:
    """The potential `energy` (kJ/mol; rounds, chains) of one molecule on the surface, in half of `duration` ps after
    another, and whether it stayed `whole`."""
    half = np.radians(104.52 / 2)
    shape = 0.09572 * jnp.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]], float)
    state = rv.State(shape, jnp.zeros_like(shape), rv.OpenBox())  # pyright: ignore[reportCallIssue]
    sampling = Chains(topology, temperature, 10.0, dt, 20 * dt)
    keys = jax.random.split(key, 3)
    chains = sampling.with_new_velocities(state.repeat(_MOLECULES), keys[0])
    system, rounds = rv.System(topology, surface), max(1, round(duration / 2 / sampling.interval))
    try:
        with rv.SimulationError.unwrapped():
            sampler = sampling.sampler()
            _, ends = sampler.sample(system, chains, rounds * _MOLECULES, key=keys[1])
            samples, _ = sampler.sample(system, ends, rounds * _MOLECULES, key=keys[2])
            x = samples.states.positions
            energies = jax.vmap(lambda y: system.potential_energy(y, state.box))(x)
    except rv.SimulationError:  # a surface of the liquid may know nothing of a molecule alone
        return {"energy": np.full((1, _MOLECULES), np.nan), "whole": np.zeros(())}
    whole = jnp.all(jax.vmap(lambda y: all_whole(topology, state.box, y))(x))
    order = np.argsort(np.asarray(samples.chain), kind="stable")
    return {"energy": np.asarray(energies)[order].reshape(_MOLECULES, -1).T, "whole": np.asarray(whole, float)}


_MOLECULES = 64
"""Chains of one molecule."""


def clusters() -> dict[str, Any]:
    """The reference energies that come with the project."""
    return json.loads(CLUSTERS.read_text())


def cluster_energies(load: Any) -> dict[str, np.ndarray]:
    """Energies of clusters between molecules (`inter`) and of their deformation (`intra`), kJ/mol, on a surface and of
    the reference, and their `sizes`.

    **Arguments:** `load`, which makes the surface of a topology.
    """
    known = clusters()
    box = rv.OpenBox()  # pyright: ignore[reportCallIssue]

    def energy(positions: Any) -> float:
        x = 0.1 * jnp.asarray(positions)
        topology = rv.Topology.from_elements(["O", "H", "H"] * (len(x) // 3))
        return float(load(topology).energy(x, box))

    zero = {"reference": known["reference"]["energy"], "surface": energy(known["reference"]["positions"])}
    rows = []
    for cluster in known["clusters"]:
        parts = {"reference": cluster["molecules"]}
        parts["surface"] = [energy(x) for x in np.reshape(cluster["positions"], (-1, 3, 3))]
        whole = {"reference": cluster["energy"], "surface": energy(cluster["positions"])}
        row = {f"inter_{name}": whole[name] - sum(parts[name]) for name in zero}
        row |= {f"intra_{name}": sum(parts[name]) - len(parts[name]) * zero[name] for name in zero}
        rows.append({**row, "sizes": len(parts["reference"])})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
