"""What `gradient_methods` takes derivatives of: four observables of small liquids, each by one parameter."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import reverlet as rv

ATOMS, LENGTH, TEMPERATURE = 32, 1.1561, 94.4
CUTOFF = 0.57
SWITCH = rv.SmoothSwitch(0.5)
"""Where forces jump, at a plain cutoff, derivatives of a path miss what atoms gain as they cross it."""
SIGMA, EPSILON = 0.338, 0.893795
SITES = np.arange(ATOMS).reshape(-1, 2)
"""The two atoms of every dimer."""


class OneParameter(rv.AbstractPotential):
    """A potential by one of its parameters alone."""

    theta: Array
    build: Callable[[Array], rv.AbstractPotential] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def energy(self, positions, box, *, neighbors=None):
        del neighbors
        return self.build(self.theta).energy(positions, box)


class NearDistance(eqx.Module):
    """g(r) at one distance as every atom sees it, smeared by a Gaussian."""

    distance: float = eqx.field(static=True)
    width: float = eqx.field(static=True)

    def __call__(self, system, state, initial):
        del system, initial
        x, n = state.positions, ATOMS
        displacement = jax.vmap(jax.vmap(state.box.displacement, (None, 0)), (0, None))(x, x)
        r = jnp.sqrt(jnp.sum(displacement**2, axis=-1) + jnp.eye(n, dtype=x.dtype))
        density = (n - 1) / state.box.volume
        seen = jnp.exp(-0.5 * ((r - self.distance) / self.width) ** 2) / (self.width * jnp.sqrt(2 * jnp.pi))
        others = jnp.where(jnp.eye(n, dtype=bool), 0, seen)
        return jnp.sum(others, axis=1) / (4 * jnp.pi * self.distance**2 * density)


class CurrentProducts(eqx.Module):
    """J(0)·J(t)/V, e²/(nm ps²), with what every atom carries at time t; its mean over atoms is the whole."""

    charge: float = eqx.field(static=True)

    def __call__(self, system, state, initial):
        del system
        charges = self.charge * jnp.where(jnp.arange(ATOMS) % 2 == 0, 1, -1)[:, None]
        start = jnp.sum(charges * initial.velocities, axis=0)
        return ATOMS * jnp.sum(charges * state.velocities * start, axis=1) / state.box.volume


class Curve(rv.AbstractObservable):
    """The mean over samples at every frame."""

    def record(self, system, state, initial):
        raise NotImplementedError("Records come from `Atomwise`.")

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return rv.statistics.weighted_mean(weights, records)


class Linear(rv.AbstractObservable):
    """A sum over frames of means over atoms and samples."""

    of_atoms: Callable[[rv.System, rv.State, rv.State], Array]
    weights: Array

    def record(self, system, state, initial):
        return jnp.mean(self.of_atoms(system, state, initial))

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return rv.statistics.weighted_mean(weights, records) @ self.weights


@dataclasses.dataclass(frozen=True)
class Case:
    """An observable of a liquid and a parameter.

    **Arguments:** `build`, the potential of a parameter, which is `theta`; `of_atoms`, what every atom records;
    `weigh(times)`, the weights of frames whose running sum the observable is, or `None` where it is the last frame
    alone; `horizons`, ps; `radius`, within which noise has local credit, nm, `None` for an atom's own.
    """

    name: str
    what: str
    theta: float
    build: Callable[[Array], rv.AbstractPotential]
    of_atoms: Any
    weigh: Callable[[np.ndarray], np.ndarray] | None
    horizons: tuple[float, ...]
    radius: float | None
    unit: str

    @property
    def static(self) -> bool:
        """Whether it is a property of single configurations."""
        return self.weigh is None

    @property
    def observable(self) -> rv.AbstractObservable:
        """Which records every atom."""
        return rv.langevin.Atomwise(Curve(), self.of_atoms)

    def system(self, theta: float | Array | None = None) -> rv.System:
        """Of a parameter."""
        topology = rv.Topology.from_elements(["Ar"] * ATOMS)
        value = jnp.asarray(self.theta if theta is None else theta, jnp.float32)
        return rv.System(topology, OneParameter(value, self.build, CUTOFF))

    def frame_weights(self, times: np.ndarray) -> np.ndarray:
        """The observable of trajectories that end at the last of the times is this sum over their frames."""
        if self.weigh is None:
            return (np.arange(len(times)) == len(times) - 1).astype(float)
        weights = self.weigh(times)
        weights[[0, -1]] *= 0.5  # a trapezoid
        return weights

    def at_horizons(self, times: np.ndarray, records: np.ndarray) -> np.ndarray:
        """The observable at every horizon, (samples, horizons), from records (samples, frames) or from derivatives of
        theirs, since it is linear in them."""
        ends = [int(np.argmin(abs(times - t))) + 1 for t in self.horizons]
        columns = [records[:, :end] @ self.frame_weights(times[:end]) for end in ends]
        return np.stack(columns, axis=1)


def _argon(epsilon):
    return rv.LennardJones(SIGMA, epsilon, cutoff=CUTOFF, truncation=SWITCH)


_ENTROPIC = rv.pairs.TemperatureDependent(
    _argon(EPSILON), rv.pairs.GaussianCore(0.36, 1.0, cutoff=CUTOFF, truncation=SWITCH), TEMPERATURE
)
_DIMERS = rv.Excluding(_argon(EPSILON), SITES) + rv.HarmonicBond(SITES, 1.0, 0.34)


def _soft(strength):
    return eqx.tree_at(lambda p: p.entropy_part.epsilon, _ENTROPIC, strength)


def _dimers(stiffness):
    return eqx.tree_at(lambda p: p.parts[1].stiffness, _DIMERS, stiffness)


def _band(times):
    """2 w(t) cos(ωt) dt, at 100 cm⁻¹ through a Gaussian window of 0.4 ps."""
    omega = 100 * rv.units.WAVENUMBER
    return 2 * np.exp(-0.5 * (times / 0.4) ** 2) * np.cos(omega * times) * (times[1] - times[0])


CASES = (
    Case("diffusion", "D of argon by ε", EPSILON, _argon, rv.langevin.VelocityProducts(),
         lambda t: np.full(len(t), (t[1] - t[0]) / 3), (1.0, 1.5, 2.0, 2.5, 3.0, 3.75, 5.0), None,
         "nm²/ps per kJ/mol"),
    Case("rdf", "g(0.36 nm) of argon by ε", EPSILON, _argon, NearDistance(0.36, 0.015), None,
         (0.5, 1.0, 2.0, 3.0), 0.45, "per kJ/mol"),
    Case("infrared", "infrared band of dimers at 100 cm⁻¹ by the stiffness of bonds", 7000.0, _dimers,
         CurrentProducts(0.3), _band, (0.5, 1.0, 1.5), 0.45, "e²/(nm ps) per kJ/mol/nm²"),
    Case("temperature", "g(0.36 nm) by the entropy's strength in u(r, T)", 0.5, _soft, NearDistance(0.36, 0.015), None,
         (0.5, 1.0, 2.0, 3.0), 0.45, "per k"),
)  # fmt: skip
