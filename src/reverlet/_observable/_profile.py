import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import OptionalParameter, Rule, checked, count, finite, optional, positive_number
from .._misc import as_count, require_shape
from .._statistics import weighted_mean
from .._verdict import raise_if
from ._base import AbstractObservable
from ._select import Species, chosen, species_rule, without_derivative
from ._spectroscopy import require_volume


def _axis() -> Any:
    def require(name, x):
        if isinstance(x, bool) or x not in (0, 1, 2):
            raise ValueError(f"`{name}` is {x!r}; wanted 0, 1 or 2, the number of a lattice vector.")

    return Rule(as_count, require)


class DensityProfile(AbstractObservable):
    """The density along a lattice vector of a periodic box, in slabs between planes of the two other ones.

    Atoms per nm³ by default; with `per_atom` their masses (u) or charges (e) instead, or anything else that atoms have.
    A histogram, without derivative along a trajectory; with a `width` every atom is smeared by a Gaussian of that
    standard deviation, across the walls of the box too, and the density at the center of every slab is that of the
    Gaussians, which are not cut to slabs.

    Bins are parts of the box, and grow with it. Relative to an origin that is fixed in space: a slab of liquid that
    drifts is smeared.

    **Arguments:** `num_bins`; `width` (nm), at most an eighth of the height of the box; `axis`, 0, 1 or 2; `per_atom`,
    one number for every atom; `species`, the atoms that count: the symbol of an element or indices of atoms.

    **Errors:** `ValueError` for an unknown element and atoms that do not exist, in use for an open box and another
    number of atoms; `SimulationError` in use for a box too small for the width.

    **Returns** (of `reduce`): the density in every slab; `fractions` are their centers, as parts of the box.
    """

    num_bins: int = checked(count(), static=True)
    width: float | None = checked(optional(positive_number("nm")), static=True, default=None)
    axis: int = checked(_axis(), static=True, default=2, kw_only=True)
    per_atom: OptionalParameter = checked(optional(finite("the unit of the profile")), default=None, kw_only=True)
    species: Species | None = checked(optional(species_rule(None, '"O"')), static=True, default=None, kw_only=True)

    @property
    def fractions(self) -> Float[Array, " bins"]:
        """The centers of the slabs along the lattice vector, from 0 to 1."""
        return (jnp.arange(self.num_bins) + 0.5) / self.num_bins

    def record(self, system, state, initial):
        del initial
        x, volume = state.positions, require_volume(state)
        weight = chosen(self.species, system, x)
        if self.per_atom is not None:
            require_shape("per_atom", self.per_atom, (len(x),), "One for every atom.")
            weight = weight * self.per_atom.astype(x.dtype)
        where = jax.vmap(state.box.fractions)(x)[:, self.axis].astype(x.dtype)
        if self.width is None:
            index = jnp.clip((jax.lax.stop_gradient(where) * self.num_bins).astype(int), 0, self.num_bins - 1)
            total = jax.ops.segment_sum(weight, index, self.num_bins)
            return without_derivative(total, where, _REFUSAL) * self.num_bins / volume
        height = state.box.heights[self.axis].astype(x.dtype)
        centers = self.fractions.astype(x.dtype)

        def at(center):  # one after the other, since atoms times bins is large
            away = where - center
            away = (away - jnp.round(away)) * height
            return jnp.sum(weight * jnp.exp(-0.5 * (away / self.width) ** 2))

        total = jax.lax.map(at, centers, batch_size=16)
        known = jax.lax.stop_gradient(height)
        total = raise_if(self.width > known / 8, _describe_wide, jnp.asarray(self.width), known, guard=total)
        return total * height / (math.sqrt(2 * math.pi) * self.width * volume)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


_REFUSAL = (
    "`DensityProfile` is a histogram, which has no derivative along a trajectory; wanted a `width`, such as"
    " `DensityProfile(100, width=0.02)`, or in `rv.expectation` no dynamical gradient, `dynamical=False`."
)


def _describe_wide(width: Any, height: Any) -> str:
    return (
        f"`width` of `DensityProfile` is {float(width):.6g} nm; wanted at most an eighth of the height of the box,"
        f" which is {float(height):.6g} nm: a Gaussian must not reach around it."
    )
