"""A Lennard-Jones liquid, as argon: where its simulation starts, and how its diffusion is measured."""

import dataclasses
import sys
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

import reverlet as rv

from . import _processes
from ._chains import Chains, mean_over_chains
from ._errors import BadInput

SI = rv.units.SQUARE_METER_PER_SECOND
"""1 m²/s in nm²/ps: files and flags have D in m²/s."""


def crystal(atoms: int, box_length: float, seed: int) -> tuple[rv.Topology, rv.State]:
    """Atoms on sites of a face-centered cubic lattice that fills the box; the sites that are too many stay empty."""
    cells = int(np.ceil((atoms / 4) ** (1 / 3) - 1e-9))
    _, full = rv.fcc("Ar", cells, spacing=1.0)
    sites = (np.asarray(full.positions, float) + 0.25) * box_length / cells
    kept = np.sort(np.random.default_rng(seed).permutation(len(sites))[:atoms])
    positions = jnp.asarray(sites[kept], jnp.float32)
    box = rv.OrthorhombicBox(jnp.full(3, box_length, jnp.float32))
    return rv.Topology.from_elements(["Ar"] * atoms), rv.State(positions, jnp.zeros_like(positions), box)


def read_structure(path: Path) -> tuple[rv.Topology, rv.State]:
    """The first configuration of a PDB or extxyz file, at rest and in single precision."""
    if not path.is_file():
        raise BadInput(f"There is no structure file {path}; wanted a PDB or extxyz file.")
    topology, state = rv.io.read_structure(path)
    counts = {e: topology.elements.count(e) for e in sorted(set(topology.elements))}
    if len(counts) != 1 or topology.num_atoms < 2:
        found = ", ".join(f"{n} {e}" for e, n in counts.items())
        raise BadInput(f"The structure file {path} has {found}; wanted at least two atoms of one element, as argon.")
    if isinstance(state.box, rv.OpenBox):
        raise BadInput(
            f'The structure file {path} has no periodic box; wanted one: CRYST1 in a PDB, Lattice="..." in an extxyz'
            " file."
        )
    positions = state.positions.astype(jnp.float32)
    box = state.box.astype(jnp.float32)
    return rv.Topology.from_elements(topology.elements), rv.State(positions, jnp.zeros_like(positions), box)


@dataclasses.dataclass(frozen=True)
class Liquid:
    """How a run samples its liquid and measures D.

    **Arguments:** the `potential` at the start, `sampling`, the `horizon` of trajectories (ps), and the time steps
    between two frames.
    """

    potential: rv.LennardJones
    sampling: Chains
    horizon: float
    save_every: int
    observable = rv.Joint((rv.SelfDiffusion(), rv.Temperature()))

    @property
    def topology(self) -> rv.Topology:
        """Of all atoms."""
        return self.sampling.topology

    @property
    def dynamics(self) -> rv.Dynamics:
        """Trajectories up to the horizon."""
        c = self.sampling
        return rv.Dynamics(dt=c.dt, num_steps=self.num_steps, save_every=self.save_every, mesh=c.mesh)

    @property
    def tangents(self) -> rv.Dynamics:
        """Trajectories to twice the horizon in forward mode, which for two parameters gives the derivative of every
        point of a curve at once."""
        adjoint = diffrax.ForwardMode()
        return rv.Dynamics(self.sampling.dt, 2 * self.num_steps, self.save_every, adjoint=adjoint)

    @property
    def num_steps(self) -> int:
        """Time steps up to the horizon."""
        return round(self.horizon / self.sampling.dt)

    def with_parameters(self, sigma: float, epsilon: float) -> rv.LennardJones:
        """The potential with other parameters."""
        return rv.LennardJones(sigma, epsilon, cutoff=self.potential.cutoff)

    def melted(
        self, state: rv.State, trajectories: int, melt: float, equilibration: float, keys: PRNGKeyArray
    ) -> rv.State:
        """Equilibrated chains, from one crystal that is first kept at three times the temperature for `melt` (ps)."""
        chains = self.sampling.with_new_velocities(state.repeat(trajectories), keys[0])
        chains = self.sampling.equilibrate(self.potential, chains, melt, keys[1], "melting", factor=3.0)
        return self.sampling.equilibrate(self.potential, chains, equilibration, keys[2], "equilibrating")

    def evaluate(
        self, potential: rv.LennardJones, chains: rv.State, samples: int, key: PRNGKeyArray, label: str
    ) -> dict[str, np.ndarray]:
        """Correlation functions of at least `samples` trajectories, without derivatives of theirs.

        **Returns:** arrays that lead with rounds and chains: `correlation` (nm²/ps²), `temperature` (K), `sigma_energy`
        and `epsilon_energy` (the derivatives of the samples' energies); and `times` (ps).
        """

        def measure(system, drawn):
            estimate = _measure(self.observable, system, drawn, self.dynamics)
            slope = _energy_slopes(potential, drawn.states)
            correlation, temperature = estimate.records
            return {
                "correlation": correlation,
                "temperature": jnp.mean(temperature, axis=1),
                "sigma_energy": slope.sigma,
                "epsilon_energy": slope.epsilon,
                "times": estimate.times,
            }

        curves = self.sampling.measure(potential, chains, samples, key, label, measure)
        return {**curves, "times": curves["times"][0]}

    def derivative_curves(
        self, potential: rv.LennardJones, chains: rv.State, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """D of every trajectory and its derivatives against the integration time, to twice the horizon.

        **Returns:** `times` (ps) and arrays (trajectories, frames): `diffusion` (nm²/ps), `sigma` and `epsilon` (its
        derivatives).
        """
        if _processes.leads():
            print("gradients against the integration time ...", file=sys.stderr)
        samples, _ = self.sampling.draw(potential, chains, key)
        curves = _curves(rv.SelfDiffusion(), self.tangents, self.topology, potential, samples)
        return dict(zip(("times", "diffusion", "sigma", "epsilon"), map(np.asarray, curves), strict=True))


@eqx.filter_jit
def _measure(observable, system, samples, dynamics):
    return rv.expectation(observable, system, samples, dynamics=dynamics)


@eqx.filter_jit
def _energy_slopes(potential, states):
    return jax.vmap(lambda s: eqx.filter_grad(lambda p: p.energy(s.positions, s.box))(potential))(states)


def diffusion_of(curves: dict[str, np.ndarray]) -> tuple[float, float]:
    """D and its standard error, m²/s, of what `evaluate` returned: chains are independent, samples of one are not."""
    final = np.trapezoid(curves["correlation"].astype(float), curves["times"].astype(float), axis=-1) / 3 / SI
    return mean_over_chains(final)


@eqx.filter_jit
def _curves(observable, dynamics, topology, potential, samples):
    def curve(sigma, epsilon, state):
        moved = eqx.tree_at(lambda p: (p.sigma, p.epsilon), potential, (sigma, epsilon))
        trajectory = dynamics.run(rv.System(topology, moved), state, observable.record, throw=False)
        return rv.statistics.running_integral(trajectory.times, trajectory.records) / 3, trajectory.times

    def derivatives(state):
        primals, one = (potential.sigma, potential.epsilon), jnp.ones_like(potential.sigma)
        along = lambda dots: jax.jvp(lambda s, e: curve(s, e, state), primals, dots)
        (value, times), (sigma, _) = along((one, jnp.zeros_like(one)))
        _, (epsilon, _) = along((jnp.zeros_like(one), one))
        return times, value, sigma, epsilon

    return jax.vmap(derivatives, out_axes=(None, 0, 0, 0))(samples.states)
