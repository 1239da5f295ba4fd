"""Liquid water on a neural surface: where simulations start, how spectrum, pressure and structure are measured."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import reverlet as rv

from ._chains import Chains, bar
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
    many `frames` every chain gives per interval.
    """

    save_every: int
    highest: float
    spacing: float
    correlation: float
    validation: float
    frames: int


class NeuralWater:
    """How a run samples its liquid in a `box` and measures it.

    **Arguments:** `sampling`, whose interval is that between updates; `moment`, the dipole surface, held fixed.
    """

    def __init__(self, sampling: Chains, box: rv.AbstractBox, moment: rv.AbstractDipole, grids: Grids):
        self.sampling, self.box, self.moment, self.grids = sampling, box, moment, grids
        self.ensemble = rv.NVT(sampling.temperature)
        self.frame = sampling.dt * grids.save_every
        self.low = self._spectrum(rv.spectra.CutoffWindow(grids.correlation), grids.correlation)
        gaussian = rv.spectra.GaussianWindow(grids.validation / 3)  # pyright: ignore[reportCallIssue]
        self.full = self._spectrum(gaussian, grids.validation)
        self.short = dataclasses.replace(self._dynamics(grids.correlation), both_directions=True)
        self.long = self._dynamics(2 * grids.validation)
        edge = float(np.floor(50 * float(jnp.min(box.heights))) / 100)
        self.structure = {name: rv.RDF(edge, round(edge / 0.005), pair=pair) for name, pair in PAIRS.items()}

    def system(self, potential: rv.AbstractPotential) -> rv.System:
        """The liquid on this surface."""
        return rv.System(self.sampling.topology, potential)

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
        steps = max(1, round(self.sampling.interval / self.grids.frames / self.sampling.dt))
        sampler = dataclasses.replace(self.sampling.sampler(), num_steps=steps)
        samples, ends = sampler.sample(self.system(potential), chains, n * self.grids.frames, key=keys[0])
        frames = samples.with_velocities(topology, key=keys[1])
        return frames, frames[-n:], ends.states

    def evaluate(
        self, potential: rv.AbstractPotential, chains: rv.State, samples: int, key: PRNGKeyArray, label: str
    ) -> dict[str, np.ndarray]:
        """What of the liquid is told: no derivative of it is taken.

        **Returns:** arrays that lead with rounds and chains: `low` and `full` spectra (1/cm) of at least `samples`
        trajectories, and of these `temperature` (K) and `diffusion` (nm²/ps); `pressure` (bar), the mean over the
        frames of an interval, `g_OO`, `g_OH`, `g_HH`, and `whole`, whether every hydrogen is near an oxygen; besides,
        `wavenumbers` (1/cm) and `r` (nm).
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
    joint = rv.Joint((water.low, rv.Temperature(), diffusion))
    estimate = rv.expectation(joint, system, starts, dynamics=water.long)
    current, temperature, correlation = estimate.records
    one = jnp.ones(1, current.dtype)
    still = rv.expectation(rv.Joint((rv.Pressure(), *water.structure.values())), system, frames)
    of_chains = lambda x: jnp.mean(x[:, 0].reshape(-1, n, *x.shape[2:]), axis=0)
    pressure, *g = (of_chains(x) for x in still.records)
    spectrum = lambda s: spectra_of(s, estimate.times, current, starts.ensemble)
    measured = {
        "low": spectrum(water.low),
        "full": spectrum(water.full),
        "temperature": jnp.mean(temperature, axis=1),
        "diffusion": jax.vmap(lambda c: diffusion.reduce(estimate.times, c[None], one))(correlation),
        "pressure": pressure / rv.units.BAR,
        "whole": jax.vmap(lambda x: all_whole(water.sampling.topology, water.box, x))(chains.positions),
    }
    return {**measured, **{f"g_{name}": x for name, x in zip(water.structure, g, strict=True)}}, chains


def all_whole(topology: rv.Topology, box: rv.AbstractBox, positions: Float[Array, "atoms 3"]) -> Array:
    """Whether every atom is still where the bonds of the topology have it."""
    i, j = topology.bonds.T
    away = jax.vmap(box.displacement)(positions[i], positions[j])
    return jnp.all(jnp.linalg.norm(away, axis=-1) < BOND)
