"""Langevin chains that give one sample each per update, and go on from where the last update left them."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

import reverlet as rv

from . import _processes


@dataclasses.dataclass(frozen=True)
class Chains:
    """How a run samples its liquid.

    **Arguments:** `temperature` (K), `friction` (1/ps), the time step `dt` (ps), the `interval` between two samples of
    a chain (ps); how many chains each device of the `mesh` runs at a time, `batch`, by default all.
    """

    topology: rv.Topology
    temperature: float
    friction: float
    dt: float
    interval: float
    mesh: jax.sharding.Mesh | None = None
    batch: int | None = None

    def sampler(self, factor: float = 1.0) -> rv.LangevinBAOAB:
        """Chains at `factor` times the temperature; one interval between samples."""
        steps = max(1, round(self.interval / self.dt))
        return rv.LangevinBAOAB(
            factor * self.temperature, self.friction, dt=self.dt, num_steps=steps, mesh=self.mesh, batch=self.batch
        )

    def draw(self, potential: rv.AbstractPotential, chains: rv.State, key: PRNGKeyArray) -> tuple[rv.Samples, rv.State]:
        """One sample of every chain, with fresh velocities without motion of the center of mass, and where the chains
        stopped."""
        chain_key, velocity_key = jax.random.split(key)
        n = len(chains.positions)
        samples, ends = self.sampler().sample(rv.System(self.topology, potential), chains, n, key=chain_key)
        return samples.with_velocities(self.topology, key=velocity_key), ends.states

    def with_new_velocities(self, states: rv.State, key: PRNGKeyArray) -> rv.State:
        """The states with velocities from the Maxwell–Boltzmann distribution, without motion of the center of mass."""
        draw = lambda k: rv.maxwell_boltzmann(self.topology, self.temperature, key=k)
        velocities = jax.vmap(draw)(jax.random.split(key, len(states.positions)))
        return states.with_velocities(velocities.astype(states.positions.dtype))

    def equilibrate(
        self,
        potential: rv.AbstractPotential,
        chains: rv.State,
        duration: float,
        key: PRNGKeyArray,
        label: str,
        factor: float = 1.0,
    ) -> rv.State:
        """The chains after `duration` (ps) at `factor` times the temperature."""
        system, sampler = rv.System(self.topology, potential), self.sampler(factor)
        for k in bar(round(duration / self.interval), label):
            _, ends = sampler.sample(system, chains, len(chains.positions), key=jax.random.fold_in(key, k))
            chains = ends.states
        return chains

    def measure(
        self,
        potential: rv.AbstractPotential,
        chains: rv.State,
        samples: int,
        key: PRNGKeyArray,
        label: str,
        measure: Callable[[rv.System, rv.Samples], Any],
    ) -> Any:
        """What `measure` makes of one sample of every chain, again and again until there are at least `samples`: a
        tree of arrays that lead with rounds."""
        system, rounds = rv.System(self.topology, potential), []
        for k in bar(-(-samples // len(chains.positions)), label):
            drawn, chains = self.draw(potential, chains, jax.random.fold_in(key, k))
            rounds.append(jax.tree.map(np.asarray, measure(system, drawn)))
        return jax.tree.map(lambda *r: np.stack(r), *rounds)


def arrays_of(chains: rv.State) -> dict[str, np.ndarray]:
    """What the file of a stage has of chains in one box."""
    return {"positions": np.asarray(chains.positions), "velocities": np.asarray(chains.velocities)}


def states_of(arrays: dict[str, np.ndarray], box: rv.AbstractBox) -> rv.State:
    """The chains of the file of a stage."""
    return jax.vmap(lambda x, v: rv.State(x, v, box))(arrays["positions"], arrays["velocities"])


@contextlib.contextmanager
def watched(file: Path, topology: rv.Topology, states: rv.State, doing: str) -> Iterator[None]:
    """Writes the atoms that a simulation on a surface went wrong from, to be looked at."""
    try:
        with rv.SimulationError.unwrapped():
            yield
    except rv.SimulationError as error:
        found, when = states, "as they were before"
        if isinstance(error.chains, rv.State):
            found, when = error.chains, "as they are now"
        if _processes.leads():
            write_atoms(file, topology, found)
        raise rv.SimulationError(
            f"The surface does not hold liquid water together, {doing}: {error} The chains {when} are in {file}."
        ) from error


def write_atoms(path: Path, topology: rv.Topology, states: rv.State) -> Path:
    """The atoms of all chains, one frame each."""
    times = jnp.arange(len(states.positions), dtype=states.positions.dtype)
    last = jax.tree.map(lambda x: x[-1], states)
    rv.io.write(path, topology, rv.Trajectory(times, states, last))
    return path


def mean_over_chains(values: np.ndarray) -> tuple[float, float]:
    """The mean of values (rounds, chains), and its standard error over the means of the chains: chains are independent,
    samples of one are not."""
    chains = np.mean(values.astype(float), axis=0)
    return float(np.mean(chains)), float(np.std(chains, ddof=1) / np.sqrt(len(chains)))


def bar(n: int, label: str) -> Iterator[int]:
    """The numbers below `n`, with a progress bar."""
    return iter(tqdm(range(n), desc=label, unit="", file=sys.stderr, leave=False, disable=not _processes.leads()))
