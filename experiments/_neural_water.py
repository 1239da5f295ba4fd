"""Liquid water on a neural surface: where simulations start, how spectrum, pressure and structure are measured."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import reverlet as rv

from ._chains import Chains, bar, write_atoms
from ._errors import BadInput
from ._water import spectra_of
from .pretrain_water import EANN, load_dipole

OWN_CUTOFF = 0.4922812
"""nm, of the surface that comes with the project."""
PAIRS = {"OO": ("O", "O"), "OH": ("O", "H"), "HH": ("H", "H")}
BOND = 0.15
"""nm: an O-H distance beyond which a molecule of water has come apart."""


def load_surface(path: Path | None, topology: rv.Topology, cutoff: float | None) -> rv.EANN:
    """The surface of a file, by default the one that comes with the project, in single precision where that is the
    default of JAX."""
    known = OWN_CUTOFF if path is None else 0.6
    return rv.EANN.from_npz(path or EANN, topology, cutoff=known if cutoff is None else cutoff)


def load_moment(path: Path | None, hyperparameters: Path | None, topology: rv.Topology, positions) -> rv.DeepDipole:
    """The dipole surface of a file: a published one with its hyperparameters beside it, or one of `pretrain_water`, by
    default the one that comes with the project."""
    if path is None:
        return load_dipole(topology, positions)
    if hyperparameters is None:
        try:
            return load_dipole(topology, positions, path)
        except KeyError as error:
            raise BadInput(
                f"--dipole is {path}, which has no {error} and so is not of `pretrain_water`; wanted one that is, or"
                " beside it --hyperparameters, the JSON file of a published model."
            ) from error
    return rv.DeepDipole.from_npz(path, hyperparameters, topology)


@dataclasses.dataclass(frozen=True)
class Grids:
    """What is recorded and at which points.

    **Arguments:** time steps between two frames, `save_every`; where spectra end and the `spacing` of their points
    (1/cm); the lengths of correlation functions (ps), `correlation` in the loss and `validation` in evaluations; how
    long the trajectories of the loss run in each direction of time, `reach` (ps); how many `frames` every chain gives
    per interval.
    """

    save_every: int
    highest: float
    spacing: float
    correlation: float
    validation: float
    reach: float
    frames: int


class MolecularPressure(rv.AbstractObservable):
    """The pressure by the forces between molecules: N kT/V - (1/3V) dU/ds, where s scales the box and the centers of N
    molecules. It has the mean of that of all atoms, `rv.Pressure`, and not the noise of their bonds.

    **Arguments:** `thermal_energy`, kT (kJ/mol).
    """

    thermal_energy: float

    def record(self, system, state, initial):
        del initial
        box = state.box
        inside = _from_center(_from_oxygen(box, state.positions), system.topology)

        def energy(strain, x):
            return system.potential.strained_energy(strain * jnp.eye(3, dtype=x.dtype), x, box)

        zero = jnp.zeros((), state.positions.dtype)
        all_atoms, slopes = jax.grad(energy, (0, 1))(zero, state.positions)
        between = all_atoms - jnp.sum(slopes.reshape(-1, 3, 3) * inside)
        return (len(inside) * self.thermal_energy - between / 3) / box.volume

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return jnp.sum(weights * jnp.mean(records, axis=1)) / jnp.sum(weights)


class NeuralWater:
    """How a run samples its liquid in a `box` and measures it.

    **Arguments:** `sampling`, whose interval is that between updates; `moment`, the dipole surface, held fixed.
    """

    def __init__(self, sampling: Chains, box: rv.AbstractBox, moment: rv.AbstractDipole, grids: Grids):
        self.sampling, self.box, self.moment, self.grids = sampling, box, moment, grids
        self.ensemble = rv.NVT(sampling.temperature)
        self.pressure = MolecularPressure(rv.units.BOLTZMANN * sampling.temperature)
        self.frame = sampling.dt * grids.save_every
        self.low = self._spectrum(rv.spectra.CutoffWindow(grids.correlation), grids.correlation)
        gaussian = rv.spectra.GaussianWindow(grids.validation / 3)  # pyright: ignore[reportCallIssue]
        self.full = self._spectrum(gaussian, grids.validation)
        self.short = dataclasses.replace(self._dynamics(grids.reach), both_directions=True, batch=sampling.batch)
        self.long = self._dynamics(2 * grids.validation)
        edge = float(np.floor(50 * float(jnp.min(box.heights))) / 100)
        self.structure = {name: rv.RDF(edge, round(edge / 0.005), pair=pair) for name, pair in PAIRS.items()}

    def system(self, potential: rv.AbstractPotential) -> rv.System:
        """The liquid on this surface."""
        return rv.System(self.sampling.topology, potential)

    def motions(self, positions: Float[Array, "atoms 3"], forces: Float[Array, "atoms 3"]) -> list[Array]:
        """Forces by the motions of molecules: what moves each (kJ/mol/nm) and turns it (kJ/mol), along its bonds
        (kJ/mol/nm), and across them in its plane (kJ/mol/nm)."""
        of_molecules = forces.reshape(-1, 3, 3)  # each as O, H, H
        from_oxygen = _from_oxygen(self.box, positions)
        arms = _from_center(from_oxygen, self.sampling.topology)
        bonds, on_hydrogens = from_oxygen[:, 1:], of_molecules[:, 1:]
        along = bonds / jnp.linalg.norm(bonds, axis=2, keepdims=True)
        # away from the other bond
        across = along * jnp.sum(along[:, 0] * along[:, 1], axis=1)[:, None, None] - along[:, ::-1]
        across = across / jnp.linalg.norm(across, axis=2, keepdims=True)
        moves, turns = jnp.sum(of_molecules, axis=1), jnp.sum(jnp.cross(arms, of_molecules), axis=1)
        return [moves, turns, jnp.sum(on_hydrogens * along, axis=2), jnp.sum(on_hydrogens * across, axis=(1, 2))]

    def _dynamics(self, length: float) -> rv.Dynamics:
        steps = round(length / self.frame) * self.grids.save_every
        return rv.Dynamics(self.sampling.dt, steps, self.grids.save_every, mesh=self.sampling.mesh)

    def _spectrum(self, window: rv.spectra.AbstractWindow, length: float) -> rv.InfraredSpectrum:
        g = self.grids
        wavenumbers = np.arange(0, g.highest * (1 + 1e-9), g.spacing)
        lags = round(length / self.frame) + 1
        return rv.InfraredSpectrum(wavenumbers, window, dipole=self.moment, num_lags=lags)

    def draw(
        self, potential: rv.AbstractPotential, chains: rv.State, key: PRNGKeyArray
    ) -> tuple[rv.Samples, rv.Samples, rv.State]:
        """One interval of all chains.

        **Returns:** `frames` samples of every chain, one after another; the last of every chain, with fresh velocities;
        and where the chains stopped.
        """
        keys, n, topology = jax.random.split(key), len(chains.positions), self.sampling.topology
        samples, ends = self._sampler().sample(self.system(potential), chains, n * self.grids.frames, key=keys[0])
        frames = samples.with_velocities(topology, key=keys[1])
        return frames, frames[-n:], ends.states

    def _sampler(self) -> rv.LangevinBAOAB:
        steps = max(1, round(self.sampling.interval / self.grids.frames / self.sampling.dt))
        return dataclasses.replace(self.sampling.sampler(), num_steps=steps)

    def look(self, potential: rv.AbstractPotential, chains: rv.State, key: PRNGKeyArray, file: Path) -> str:
        """Draws an interval again, frame by frame, until a chain comes apart: writes the frames of that one until then
        to a file, to be looked at, and says which it is, and when it was."""
        system, sampler, topology = self.system(potential), self._sampler(), self.sampling.topology
        sample_key, ends, frames, ended = jax.random.split(key)[0], rv.Chains(chains), [chains], False
        while len(frames) <= self.grids.frames and not ended:
            try:
                with rv.SimulationError.unwrapped():
                    drawn = sampler.sample(system, ends, len(chains.positions), key=sample_key)
                    _, ends = jax.block_until_ready(drawn)
            except rv.SimulationError:
                ended = True
            else:
                frames.append(ends.states)
                ended = bool(np.any(self._longest_bonds(ends.states) > BOND))
        bonds = self._longest_bonds(frames[-1])
        chain, step = int(np.argmax(bonds)), len(frames) * sampler.num_steps
        if bonds[chain] > BOND:
            step -= sampler.num_steps
        write_atoms(file, topology, jax.tree.map(lambda *x: jnp.stack([y[chain] for y in x]), *frames))
        if not ended:
            return f"The chains hold until their trajectories begin; the one with the longest O-H bond is in {file}."
        return (
            f"Chain {chain} of {len(chains.positions)} comes apart by step {step} of this interval, frame"
            f" {step // sampler.num_steps} of {self.grids.frames}; {len(frames)} frames of it are in {file}, where an"
            f" O-H bond is {bonds[chain]:.3f} nm long at the end."
        )

    def _longest_bonds(self, states: rv.State) -> np.ndarray:
        longest = lambda x: jnp.max(bond_lengths(self.sampling.topology, self.box, x))
        return np.asarray(jax.vmap(longest)(states.positions))

    def evaluate(
        self, potential: rv.AbstractPotential, chains: rv.State, samples: int, key: PRNGKeyArray, label: str
    ) -> dict[str, np.ndarray]:
        """What of the liquid is told: no derivative of it is taken.

        **Returns:** arrays that lead with rounds and chains: `low` and `full` spectra (1/cm) of at least `samples`
        trajectories, and of these `temperature` (K) and `diffusion` (nm²/ps), and `diffusion_cut`, by velocity
        correlations that end where those of the loss do; `pressure` (bar), the mean over an
        interval and the trajectory after it; `g_OO`, `g_OH`, `g_HH` over the interval, and `whole`, whether every
        hydrogen is near an oxygen; besides, `wavenumbers` (1/cm) and `r` (nm).
        """
        found = []
        for k in bar(-(-samples // len(chains.positions)), label):
            of_round, chains = _measure(self, potential, chains, jax.random.fold_in(key, k))
            found.append(jax.tree.map(np.asarray, of_round))
        arrays = jax.tree.map(lambda *rounds: np.stack(rounds), *found)
        grids = {"wavenumbers": np.asarray(self.low.wavenumbers), "r": np.asarray(self.structure["OO"].centers)}
        return {**arrays, **grids}


@eqx.filter_jit
def _measure(water: NeuralWater, potential, chains, key):
    frames, starts, chains = water.draw(potential, chains, key)
    system, n = water.system(potential), len(chains.positions)
    diffusion = rv.SelfDiffusion()
    joint = rv.Joint((water.low, rv.Temperature(), diffusion, water.pressure))
    estimate = rv.expectation(joint, system, starts, dynamics=water.long)
    current, temperature, correlation, along = estimate.records
    one = jnp.ones(1, current.dtype)
    still = rv.expectation(rv.Joint((water.pressure, *water.structure.values())), system, frames)
    of_chains = lambda x: jnp.mean(x[:, 0].reshape(-1, n, *x.shape[2:]), axis=0)
    pressure, *g = (of_chains(x) for x in still.records)
    interval, trajectory = water.sampling.interval, 2 * water.grids.validation
    pressure = (interval * pressure + trajectory * jnp.mean(along, axis=1)) / (interval + trajectory)
    spectrum = lambda s: spectra_of(s, estimate.times, current, starts.ensemble)

    def diffuses(count):
        return jax.vmap(lambda c: diffusion.reduce(estimate.times[:count], c[None, :count], one))(correlation)

    measured = {
        "low": spectrum(water.low),
        "full": spectrum(water.full),
        "temperature": jnp.mean(temperature, axis=1),
        "diffusion": diffuses(len(estimate.times)),
        "diffusion_cut": diffuses(round(water.grids.reach / water.frame) + 1),
        "pressure": pressure / rv.units.BAR,
        "whole": jax.vmap(lambda x: all_whole(water.sampling.topology, water.box, x))(chains.positions),
    }
    return {**measured, **{f"g_{name}": x for name, x in zip(water.structure, g, strict=True)}}, chains


def _from_oxygen(box, positions):
    """Where the atoms of each molecule, O, H, H, are from its oxygen."""
    molecules = positions.reshape(-1, 3, 3)
    return jax.vmap(jax.vmap(box.displacement, (None, 0)))(molecules[:, 0], molecules)


def _from_center(from_oxygen, topology):
    """The same from the center of mass of each molecule."""
    masses = topology.masses[:3, None]
    return from_oxygen - jnp.sum(masses * from_oxygen, axis=1, keepdims=True) / jnp.sum(masses)


def all_whole(topology: rv.Topology, box: rv.AbstractBox, positions: Float[Array, "atoms 3"]) -> Array:
    """Whether every atom is still where the bonds of the topology have it."""
    return jnp.all(bond_lengths(topology, box, positions) < BOND)


def bond_lengths(
    topology: rv.Topology, box: rv.AbstractBox, positions: Float[Array, "atoms 3"]
) -> Float[Array, " bonds"]:
    """nm, to the nearest image."""
    i, j = topology.bonds.T
    return jnp.linalg.norm(jax.vmap(box.displacement)(positions[i], positions[j]), axis=-1)
