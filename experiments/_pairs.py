"""Liquids of pairs: how they are simulated, their radial distribution functions, and the pair potential to be learned.

In reduced units: 1 nm is σ, 1 kJ/mol is ε and 1 u the mass, which makes 1 ps the unit of time √(mσ²/ε).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import reverlet as rv

KT = 1 / rv.units.BOLTZMANN
"""The temperature (K) whose kT is 1 kJ/mol."""


class Point(eqx.Module):
    """A state point: of several, arrays lead with `points`."""

    kt: Float[Array, "*points"]
    """kJ/mol."""
    length: Float[Array, "*points"]
    """Of the cubic box, nm."""
    species: Int[Array, "*points atoms"]


class Structure(eqx.Module):
    """Radial distribution functions of all pairs of species, smeared, of one configuration.

    As `rv.RDF.partials` has them; but species are data here, so that compositions go into one batch. A species of one
    atom has none, and gets zeros.
    """

    r_max: float = eqx.field(static=True)
    bins: int = eqx.field(static=True)
    width: float = eqx.field(static=True)
    kinds: int = eqx.field(static=True, default=1)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Of species."""
        return list(itertools.combinations_with_replacement(range(self.kinds), 2))

    @property
    def rdf(self) -> rv.RDF:
        """The same for all atoms, as the library has it."""
        return rv.RDF(self.r_max, self.bins, self.width)

    @property
    def centers(self) -> Float[np.ndarray, " bins"]:
        """nm."""
        return (np.arange(self.bins) + 0.5) * self.r_max / self.bins

    def __call__(self, point: Point, x: Float[Array, "atoms 3"]) -> tuple[Float[Array, "pairs bins"], Float[Array, ""]]:
        """g, and the smallest distance."""
        i, j = np.triu_indices(len(x), 1)
        d = x[i] - x[j]
        d = d - point.length * jnp.round(d / point.length)
        r = jnp.sqrt(jnp.sum(d * d, axis=1))
        edges = jnp.linspace(0, self.r_max, self.bins + 1, dtype=x.dtype)
        below = 0.5 * jax.lax.erf((edges[:, None] - r) / (2**0.5 * self.width))
        a, b = point.species[i], point.species[j]
        alike = [((a == k) & (b == l)) | ((a == l) & (b == k)) for k, l in self.pairs]
        counts = jnp.diff(below @ jnp.stack(alike, axis=1).astype(x.dtype), axis=0).T
        shells = jnp.asarray(self._shells(), x.dtype)
        number = jnp.maximum(jnp.stack([jnp.sum(chosen) for chosen in alike]), 1)[:, None]
        return counts * point.length**3 / (number * shells), jnp.min(r)

    @functools.cache  # noqa: B019
    def _shells(self):
        with jax.ensure_compile_time_eval():
            return np.asarray(self.rdf._shells(self.rdf.edges), float)


class Liquid(eqx.Module):
    """What all methods share: atoms, state points, how they move, and what is seen of them.

    **Arguments:** `points`; `positions` (points, atoms, 3), lattices; `structure`; `dt` and the thermostats' `period`,
    ps; `every`, the time steps between two looks; `mass`, u.
    """

    points: Point
    positions: Float[Array, "points atoms 3"]
    structure: Structure
    dt: float = eqx.field(static=True)
    period: float = eqx.field(static=True)
    every: int = eqx.field(static=True)
    mass: float = eqx.field(static=True, default=1.0)

    @property
    def topology(self) -> rv.Topology:
        """All state points have it."""
        n = self.positions.shape[1]
        return rv.Topology.from_elements(["Ar"] * n, masses=np.full(n, self.mass))

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, k: int) -> Point:
        """One of the state points."""
        return jax.tree.map(lambda x: x[k], self.points)

    def thermostats(self, kt: Array, factor: float = 1.0) -> rv.NoseHooverChain:
        """Chains of five."""
        return rv.NoseHooverChain(factor * KT * kt, self.period, length=5)

    def start(self, replicas: int, key: Any) -> rv.State:
        """Replicas on the lattices, with velocities; arrays lead with (points, replicas)."""

        def one(point, x, key):
            v = rv.maxwell_boltzmann(self.topology, KT * point.kt, key=key).astype(x.dtype)
            box = rv.OrthorhombicBox(jnp.broadcast_to(point.length, 3))
            return rv.State(x, v, box, self.thermostats(point.kt).bath(x.dtype))

        keys = jax.random.split(key, (len(self), replicas))
        many = jax.vmap(jax.vmap(one, (None, None, 0)))
        return many(self.points, self.positions, keys)

    def run(
        self,
        potential: Callable[[Point], rv.AbstractPotential],
        states: rv.State,
        steps: int,
        *,
        record: Callable[[Point, rv.State], Any] | None = None,
        factor: float = 1.0,
        throw: bool = True,
    ) -> tuple[Any, rv.State]:
        """All state points and replicas in one batch, from `states`: what was recorded after the first instant,
        (points, replicas, frames, ...), and the ends. By default g and the smallest distance are."""
        see = (lambda p, s: self.structure(p, s.positions)) if record is None else record

        def one(point, states):
            run = rv.nve(
                rv.System(self.topology, potential(point)),
                states,
                self.thermostats(point.kt, factor),
                dt=self.dt,
                num_steps=steps,
                save_every=self.every,
                record=_At(point, see),
                batch=len(states.positions),
                throw=throw,
            )
            return jax.tree.map(lambda x: x[:, 1:], run.records), run.final

        return jax.vmap(one)(self.points, states)


class _At(eqx.Module):
    """What is recorded at a state point."""

    point: Point
    see: Callable[[Point, rv.State], Any] = eqx.field(static=True)

    def __call__(self, system, state, initial):
        del system, initial
        return self.see(self.point, state)


class Learned(eqx.Module):
    """What is learned: coefficients of curves that are added to tables, all of it one table for simulations."""

    coefficients: Float[Array, " modes"]
    base: Float[Array, "pairs knots"]
    """kJ/mol, of all pairs of species, at equally spaced distances from `first` to `cutoff`."""
    modes: Float[Array, "pairs knots modes"]
    first: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def values(self) -> Float[Array, "pairs knots"]:
        """kJ/mol."""
        return self.base + jnp.matmul(self.modes, self.coefficients, precision=jax.lax.Precision.HIGHEST)

    def from_here(self, modes: Float[Array, "pairs knots modes"]) -> "Learned":
        """The same potential, with these curves to be added and the modes' coefficients at zero."""
        return Learned(jnp.zeros(modes.shape[2], modes.dtype), self.values(), modes, self.first, self.cutoff)

    def table(self, point: Point) -> rv.TabulatedPair:
        """Smooth curves through them."""
        return Curves(self.values(), self.first, self.cutoff)(point)


class Curves(eqx.Module):
    """Smooth curves through values for all pairs of species, kJ/mol: a potential at every state point."""

    values: Float[Array, "pairs knots"]
    first: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def __call__(self, point: Point) -> rv.TabulatedPair:
        values, species = self.values[0], None
        if len(self.values) > 1:
            values, species = self.values[_rows(len(self.values))], point.species
        spline = rv.splines.NaturalSpline()
        return rv.TabulatedPair(values, first=self.first, cutoff=self.cutoff, species=species, interpolation=spline)


def _rows(pairs: int) -> Int[np.ndarray, "kinds kinds"]:
    """The index of a pair of species among all pairs."""
    kinds = round((2 * pairs + 0.25) ** 0.5 - 0.5)
    i, j = np.triu_indices(kinds)
    row = np.zeros((kinds, kinds), int)
    row[i, j] = row[j, i] = np.arange(pairs)
    return row


class Everywhere(eqx.Module):
    """One potential at every state point."""

    potential: rv.AbstractPotential

    def __call__(self, point: Point) -> rv.AbstractPotential:
        del point
        return self.potential


def hats(knots: np.ndarray, start: float, cutoff: float, spacing: float) -> np.ndarray:
    """Smooth curves (knots, curves), each one at a coarser knot and zero at the others and at the cutoff; inwards of
    `start`, further than where no pair tells of the potential, they go on as they are there."""
    coarse = np.linspace(start, cutoff, max(4, round((cutoff - start) / spacing) + 1))
    each = [
        rv.splines.CubicSpline(row, first=start, last=cutoff, interpolation=rv.splines.NaturalSpline())
        for row in np.eye(len(coarse))[:-1]
    ]
    x = jnp.asarray(np.maximum(knots, start))
    return np.stack([np.asarray(curve(x), float) for curve in each], axis=1)


def lattice(atoms: int, length: float) -> np.ndarray:
    """Atoms on sites of a face-centered cubic lattice, of which there are as many or more, (atoms, 3), nm."""
    cells = int(np.ceil((atoms / 4) ** (1 / 3) - 1e-9))
    sites = np.asarray(rv.fcc("Ar", cells, spacing=length / cells)[1].positions)
    return sites[np.linspace(0, len(sites) - 1, atoms).astype(int)] + 0.25 * length / cells
