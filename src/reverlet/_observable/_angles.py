import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._fields import checked, count, optional, positive_number
from .._misc import smooth_step
from .._statistics import weighted_mean
from .._verdict import raise_if
from ._base import AbstractObservable
from ._select import Species, chosen, counted, neighborhoods, species_rule, without_derivative
from ._structure import room_of, too_far, within_box


class ADF(AbstractObservable):
    """The angular distribution function: how probable the angle at an atom between two of its neighbors is, per
    radian, with an integral of one from 0 to π.

    Not divided by sin θ: of an ideal gas it is (sin θ)/2. By default a histogram over all neighbors nearer than
    `r_max`, without derivative along a trajectory. That takes two things: a `width`, the standard deviation of the
    Gaussian that angles are counted with, and an `onset`, the distance from where neighbors count less and less, by
    1 - 10t³ + 15t⁴ - 6t⁵, until they do not at `r_max`. What a Gaussian has beyond 0 or π does not count.

    One atom at a time is looked at, with its nearest ones, from a neighbor list with a view per atom where there is
    one.

    **Arguments:** `r_max` (nm), at most half the smallest height of the box; `num_bins`; `width` (rad); `triplet`,
    three kinds of atoms, each the symbol of an element or indices of atoms, with the one at the vertex in the middle,
    all atoms by default; `onset` (nm); `max_neighbors`, how many atoms may be nearer than `r_max`.

    **Errors:** `ValueError` for unknown elements, atoms that do not exist, and an onset beyond `r_max`;
    `SimulationError` in use for a box that is too small, and an atom with more neighbors than `max_neighbors`. NaN
    where there is no such triplet.

    **Returns** (of `reduce`): the density at `self.centers`, 1/rad.

    **Reference:** S. Thaler and J. Zavadlav, Nat. Commun. 12, 6884 (2021), section on coarse-grained water.
    """

    unit = "1/rad"

    r_max: float = checked(positive_number("nm"), static=True)
    num_bins: int = checked(count(), static=True)
    width: float | None = checked(optional(positive_number("rad")), static=True, default=None)
    triplet: tuple[Species, Species, Species] | None = checked(
        optional(species_rule(3, '("H", "O", "H")')), static=True, default=None, kw_only=True
    )
    onset: float | None = checked(optional(positive_number("nm")), static=True, default=None, kw_only=True)
    max_neighbors: int = checked(count(2), static=True, default=24, kw_only=True)

    def __check_init__(self):
        if self.onset is not None and self.onset >= self.r_max:
            raise ValueError(f"`onset` is {self.onset} nm; wanted less than `r_max`, which is {self.r_max} nm.")

    @property
    def edges(self) -> Float[Array, " edges"]:
        """The edges of the bins, rad."""
        return jnp.linspace(0, jnp.pi, self.num_bins + 1)

    @property
    def centers(self) -> Float[Array, " bins"]:
        """The centers of the bins, rad."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def record(self, system, state, initial):
        del initial
        x = state.positions
        edges = self.edges.astype(x.dtype)
        if self.width is None:
            edges = edges.at[-1].set(jnp.inf)  # an angle of π is in the last bin
        kinds = (None, None, None) if self.triplet is None else self.triplet
        left, vertex, right = (chosen(kind, system, x) for kind in kinds)
        either = jnp.maximum(left, right)
        # one more than may be there, to see whether it is
        row = neighborhoods(system, state, self.r_max, either, self.max_neighbors + 1)
        apart = ~jnp.eye(self.max_neighbors, dtype=bool)

        def one_atom(i):
            d, r, there, j = row(i)
            too_many = (vertex[i] > 0) & (there[-1] > 0) & (r[-1] < self.r_max)
            d, r, there, j = d[:-1], r[:-1], there[:-1], j[:-1]
            share = there * self._share(r)
            pairs = jnp.where(apart, (share * left[j])[:, None] * (share * right[j]), 0)
            angles = _angles(d, (share > 0)[:, None] & (share > 0) & apart)
            return vertex[i] * (counted(angles.ravel(), edges, self.width, _REFUSAL) @ pairs.ravel()), too_many

        counts, too_many = jax.lax.map(one_atom, jnp.arange(len(x)))
        total = jnp.sum(counts, axis=0)
        most = jnp.asarray(self.max_neighbors)
        total = raise_if(jnp.any(too_many), _describe_too_many, most, jnp.sum(too_many), guard=total)
        return within_box(self.r_max, _R_MAX_TOO_FAR, state, total)

    def _share(self, r):
        if self.onset is None:
            return without_derivative((r < self.r_max).astype(r.dtype), r, _REFUSAL)
        return smooth_step((r - self.onset) / (self.r_max - self.onset))

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        counts = weighted_mean(weights, jnp.mean(records, axis=1))
        return counts / (jnp.sum(counts) * jnp.pi / self.num_bins)


_R_MAX_TOO_FAR = functools.partial(too_far, "r_max", "ADF")
_REFUSAL = (
    "`ADF` without a `width` and an `onset` is a histogram, which has no derivative along a trajectory; wanted both,"
    " such as `ADF(r_max, num_bins, width=0.02, onset=0.9 * r_max)`, or in `rv.expectation` no dynamical gradient,"
    " `dynamical=False`."
)


def _describe_too_many(most: Any, atoms: Any) -> str:
    return (
        f"{int(atoms)} atoms have more than {int(most)} neighbors nearer than `r_max` of `ADF`; wanted a larger"
        f" `max_neighbors` than {int(most)}, or a smaller `r_max`."
    )


def _angles(d: Float[Array, "near 3"], wanted: Bool[Array, "near near"]) -> Float[Array, "near near"]:
    """The angles between every two vectors, rad: by the arc tangent, which loses nothing near 0 and π."""
    cross = jnp.sum(jnp.cross(d[:, None], d[None]) ** 2, axis=-1)
    dot = jnp.sum(d[:, None] * d[None], axis=-1)
    # in a row the angle has no derivative, nor has the root
    bent = wanted & (cross > 0)
    sine = jnp.where(bent, jnp.sqrt(jnp.where(bent, cross, 1)), 0)
    return jnp.arctan2(sine, jnp.where(wanted, dot, 1))


class TetrahedralOrder(AbstractObservable):
    """The tetrahedral order q = 1 - 3/8 Σ_{j<k} (cos θ_jk + 1/3)² of an atom and its four nearest neighbors, averaged
    over atoms: one for a tetrahedron, zero on average for directions at random.

    Which four are nearest changes abruptly, so that there is no derivative along a trajectory.

    **Arguments:** `species`, the kind of atoms that counts, at the center and as neighbors: the symbol of an element or
    indices of atoms, all by default. Of water, "O".

    **Errors:** `ValueError` for an unknown element and atoms that do not exist; `SimulationError` in use for an atom
    without four neighbors nearer than half the smallest height of the box.

    **Reference:** J. R. Errington and P. G. Debenedetti, Nature 409, 318 (2001).
    """

    species: Species | None = checked(optional(species_rule(None, '"O"')), static=True, default=None)

    def record(self, system, state, initial):
        del initial
        x, room = state.positions, room_of(state)
        which = chosen(self.species, system, x)
        # of all atoms, since it is not known how far a list must reach for four neighbors
        row = neighborhoods(system, state, jnp.inf, which, 4)

        def one_atom(i):
            d, r, there, _ = row(i)
            u = d / r[:, None]
            cosines = jnp.sum(u[:, None] * u[None], axis=-1)
            q = 1 - 3 / 16 * jnp.sum(jnp.where(jnp.eye(4, dtype=bool), 0, (cosines + 1 / 3) ** 2))
            lonely = (which[i] > 0) & ((there[-1] == 0) | (r[-1] > room))
            return which[i] * q, lonely

        q, lonely = jax.lax.map(one_atom, jnp.arange(len(x)), batch_size=16)
        mean = without_derivative(jnp.sum(q) / jnp.sum(which), x, _NOT_SMOOTH)
        return raise_if(jnp.any(lonely), _describe_lonely, jnp.sum(lonely), room, guard=mean)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


_NOT_SMOOTH = (
    "`TetrahedralOrder` jumps where another neighbor becomes one of the four nearest, and has no derivative along a"
    " trajectory; wanted in `rv.expectation` no dynamical gradient, `dynamical=False`, or a smooth `ADF`."
)


def _describe_lonely(atoms: Any, room: Any) -> str:
    return (
        f"{int(atoms)} atoms of `TetrahedralOrder` have no four neighbors within half the smallest height of the box,"
        f" which is {float(room):.6g} nm; wanted five atoms or more, in a larger box."
    )
