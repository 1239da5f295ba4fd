import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._fields import checked, count, indices, optional, positive_number
from .._misc import as_array, as_float_array, is_concrete, require_flag, require_positive, require_shape
from .._state import State
from .._statistics import weighted_mean
from .._verdict import raise_if
from ._base import AbstractObservable
from ._select import Species, chosen, counted, fraction_below, species_rule
from ._spectroscopy import require_volume

_PAIR = optional(species_rule(2, '("O", "H")'))


class RDF(AbstractObservable):
    """The radial distribution function g(r): how many pairs of atoms there are at a distance, over those of an ideal
    gas.

    By default a histogram, as in most analyses. It has no derivative along a trajectory, and refuses to be asked for
    one (thermodynamic gradients need none). With a `width`, distances are counted with a Gaussian of that standard
    deviation instead of a step: a count is the part of the Gaussian that lies in the bin. This flattens peaks that are
    not much broader; `smeared` does the same to a g(r) to compare with, such as a measured one.

    **Arguments:** `r_max` (nm), at most half the smallest height of the box; `num_bins`; `width` (nm), without which
    there is no derivative; `pair`, two kinds of atoms, each the symbol of an element or indices of atoms, all atoms by
    default; `intermolecular`, whether pairs of the same molecule are left out, and of the ideal gas's too, so that g
    still goes to one.

    Of a mixture, one for every two species: `RDF.partials`.

    **Errors:** `ValueError` for unknown elements and atoms that do not exist; in use for an open box, which has no
    density; `SimulationError` in use for a box that is too small, and where there is no such pair of atoms.

    **Returns** (of `reduce`): g at `self.centers`.

    **Reference:** the differentiable histogram of S. Thaler and J. Zavadlav, Nat. Commun. 12, 6884 (2021).
    """

    r_max: float = checked(positive_number("nm"), static=True)
    num_bins: int = checked(count(), static=True)
    width: float | None = checked(optional(positive_number("nm")), static=True, default=None)
    pair: tuple[Species, Species] | None = checked(_PAIR, static=True, default=None, kw_only=True)
    intermolecular: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self):
        require_flag("intermolecular", self.intermolecular)

    @classmethod
    def partials(cls, species: ArrayLike, r_max: float, num_bins: int, width: float | None = None) -> tuple["RDF", ...]:
        """One for every two species a ≤ b of a mixture, (0, 0), (0, 1), …, (1, 1), …

        **Arguments:** `species`, the index of every atom's, as pair potentials have it; the others as for `RDF`.

        **Errors:** `ValueError` for indices that are negative, and for a species of fewer than two atoms.
        """
        if not is_concrete(species):
            raise ValueError("`species` is traced; wanted known indices, since they say how many functions there are.")
        with jax.ensure_compile_time_eval():
            indices().require("species", as_array(species))
        kinds = np.asarray(species)
        counts = np.bincount(kinds)
        if np.any(counts < 2):
            k = int(np.argmax(counts < 2))
            raise ValueError(
                f"`species` has {counts[k]} atoms of species {k}; wanted at least two of each from 0 to"
                f" {len(counts) - 1}, of which there are pairs."
            )
        atoms = [tuple(np.flatnonzero(kinds == k).tolist()) for k in range(len(counts))]
        pairs = itertools.combinations_with_replacement(atoms, 2)
        return tuple(cls(r_max, num_bins, width, pair=pair) for pair in pairs)

    @property
    def edges(self) -> Float[Array, " edges"]:
        """The edges of the bins, nm."""
        return jnp.linspace(0, self.r_max, self.num_bins + 1)

    @property
    def centers(self) -> Float[Array, " bins"]:
        """The centers of the bins, nm."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def record(self, system, state, initial):
        del initial
        x, volume = state.positions, require_volume(state)
        edges = self.edges.astype(x.dtype)
        in_bins = lambda r: counted(r, edges, self.width, _REFUSAL)
        counts, pairs, _ = _over_pairs(self, system, state, self.r_max, in_bins)
        g = counts * volume / (pairs * self._shells(edges))
        g = raise_if(pairs <= 0, _NoPair("RDF", self.pair), guard=g)
        return within_box(self.r_max, _R_MAX_TOO_FAR, state, g)

    def _shells(self, edges):
        """What an ideal gas would put into the bins: 4π/3 r³, or smeared ∫ 4πr² Φ((e - r)/w) dr from zero on."""
        if self.width is None:
            filled = edges**3 / 3
        else:
            z = edges / self.width
            phi, density = jax.scipy.stats.norm.cdf(z), jax.scipy.stats.norm.pdf(z)
            filled = self.width**3 * ((z**3 / 3 + z) * phi + (z**2 + 2) / 3 * density)
        return 4 * jnp.pi * (filled[1:] - filled[:-1])

    def smeared(self, r: ArrayLike, g: ArrayLike) -> Float[Array, " bins"]:
        """A g(r) that comes from elsewhere as this observable would see it: averaged over its bins, and smeared alike.

        **Arguments:** distances `r` (nm), increasing, and `g` there; between them it is taken to be linear.

        **Errors:** `ValueError` for distances that do not increase or end too early, and shapes that do not fit.
        """
        r, g = np.asarray(as_float_array(r), float), np.asarray(as_float_array(g), float)
        require_shape("r", r, (None,), "Distances.")
        require_shape("g", g, r.shape, "One value for every distance.")
        reach = self.r_max + 5 * (self.width or 0)
        if len(r) < 2 or np.any(np.diff(r) <= 0) or r[-1] < reach:
            raise ValueError(
                f"`r` has {len(r)} distances up to {r.max(initial=0)} nm; wanted increasing ones to at least"
                f" {reach:.4g} nm, the last bin and five times the width of the smearing."
            )
        edges = np.linspace(0, self.r_max, self.num_bins + 1)
        fine = min(self.r_max / self.num_bins, self.width or np.inf) / 32
        s = (np.arange(np.ceil(reach / fine)) + 0.5) * fine
        shells = s**2 * np.asarray(counted(jnp.asarray(s), jnp.asarray(edges), self.width, _REFUSAL))
        return jnp.asarray(shells @ np.interp(s, r, g) / np.sum(shells, axis=1))

    def running_coordination(self, g: Float[Array, " bins"], density: ArrayLike) -> Float[Array, " bins"]:
        """How many atoms of the second kind are nearer to one of the first than the end of every bin, at `edges[1:]`:
        ρ Σ g times the volumes of the shells.

        **Arguments:** `g`, as `reduce` returns it; `density` ρ, how many of the second kind there are in a nm³. Of
        pairs of the same kind without the atom itself, (N - 1)/V; of `intermolecular` ones without those of its
        molecule.

        **Errors:** `ValueError` for another shape, and a density that is not positive.
        """
        require_shape("g", g, (self.num_bins,), "One value for every bin.")
        require_positive("density", density, "1/nm³")
        return jnp.asarray(density) * jnp.cumsum(g * self._shells(self.edges.astype(g.dtype)))

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


@dataclasses.dataclass(frozen=True)
class _NoPair:
    """Says that there is nothing to count."""

    of: str
    pair: tuple[Species, Species] | None

    def __call__(self):
        named = lambda k: k if isinstance(k, str) else f"atoms {k[:3]}"
        a, b = map(named, self.pair or ("any atom", "another"))
        return (
            f"`{self.of}` found no pair of {a} and {b} in the system; wanted two kinds that it has, and in two"
            " molecules where pairs are `intermolecular`."
        )


_REFUSAL = (
    "`RDF` is a histogram, which has no derivative along a trajectory; wanted a `width`, such as"
    " `RDF(r_max, num_bins, width=0.01)`, or in `rv.expectation` no dynamical gradient, `dynamical=False`."
)


class CoordinationNumber(AbstractObservable):
    """How many atoms of the second kind are within a radius of one of the first, on average.

    By default a whole number for every atom, without derivative along a trajectory. With a `width` a neighbor at a
    distance r counts ½ erfc((r - radius)/(√2 width)): the same Gaussian that `RDF` smears distances with. Up to every
    radius at once, from a g(r): `RDF.running_coordination`.

    **Arguments:** `radius` (nm); `width` (nm); `pair` and `intermolecular` as for `RDF`.

    **Errors:** as for `RDF`; in an open box the radius may be of any length.
    """

    radius: float = checked(positive_number("nm"), static=True)
    width: float | None = checked(optional(positive_number("nm")), static=True, default=None)
    pair: tuple[Species, Species] | None = checked(_PAIR, static=True, default=None, kw_only=True)
    intermolecular: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self):
        require_flag("intermolecular", self.intermolecular)

    def record(self, system, state, initial):
        del initial
        edge = jnp.asarray(self.radius, state.positions.dtype)
        near = lambda r: fraction_below(r, edge, self.width, _NOT_SMOOTH)[None]
        counts, pairs, atoms = _over_pairs(self, system, state, self.radius, near)
        number = raise_if(pairs <= 0, _NoPair("CoordinationNumber", self.pair), guard=counts[0] / atoms)
        return within_box(self.radius, _RADIUS_TOO_FAR, state, number)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


_NOT_SMOOTH = (
    "`CoordinationNumber` counts neighbors as whole numbers, which have no derivative along a trajectory; wanted a"
    " `width`, such as `CoordinationNumber(radius, width=0.01)`, or in `rv.expectation` no dynamical gradient,"
    " `dynamical=False`."
)


def _over_pairs(observable, system, state, reach, measure):
    """The sum over ordered pairs of a function of their distances, the number of pairs, and that of first atoms."""
    x = state.positions
    atoms = jnp.arange(len(x))
    kinds = (None, None) if observable.pair is None else observable.pair
    first, second = (chosen(kind, system, x) for kind in kinds)

    def one_atom(i):  # one row of pairs at a time, since pairs times bins is large
        d = jnp.stack(state.box.minimum_image(*(x - x[i]).T))
        other = atoms != i
        if observable.intermolecular:
            other &= system.topology.molecules != system.topology.molecules[i]
        r = jnp.sqrt(jnp.where(other, jnp.sum(d**2, axis=0), reach**2))
        counts = jnp.sum(jnp.where(other, second * measure(r), 0), axis=1)
        return first[i] * counts, first[i] * jnp.sum(jnp.where(other, second, 0))

    counts, pairs = jax.lax.map(one_atom, atoms, batch_size=16)
    return jnp.sum(counts, axis=0), jnp.sum(pairs), jnp.sum(first)


def room_of(state: State) -> Float[Array, ""]:
    """Half the smallest height of the box, nm: up to where every atom has one image. Infinite for an open box."""
    return jax.lax.stop_gradient(jnp.min(state.box.heights).astype(state.positions.dtype) / 2)


def within_box(length: float, describe: Callable[..., str], state: State, guard: Array) -> Array:
    """`guard`, unless a length is more than the box has room for."""
    room = room_of(state)
    # room for lengths rounded to float32
    return raise_if(length > room * (1 + 1e-6), describe, length, room, guard=guard)


def too_far(name: str, of: str, length: Any, room: Any) -> str:
    """What is wrong with a length that a box has no room for."""
    return (
        f"`{name}` of `{of}` is {length:.6g} nm; wanted at most half the smallest height of the box, which is"
        f" {room:.6g} nm."
    )


# made once, so that nothing is compiled twice
_R_MAX_TOO_FAR = functools.partial(too_far, "r_max", "RDF")
_RADIUS_TOO_FAR = functools.partial(too_far, "radius", "CoordinationNumber")
