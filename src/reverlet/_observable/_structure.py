import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._box import reciprocal_vectors
from .._elements import atomic_number
from .._fields import Rule, checked, count, optional, positive_number
from .._misc import as_float_array, require_instance, require_shape
from .._statistics import weighted_mean
from .._verdict import raise_if
from ._base import AbstractObservable
from ._spectroscopy import require_volume


def _elements() -> Any:
    def require(name, x):
        require_instance(name, x, tuple)
        if len(x) != 2:
            raise ValueError(f'`{name}` is {x}; wanted the symbols of two elements, such as ("O", "H").')
        for symbol in x:
            require_instance(f"an element of `{name}`", symbol, str)
            atomic_number(symbol)

    return Rule(lambda x: tuple(x) if isinstance(x, list) else x, require)


class RDF(AbstractObservable):
    """The radial distribution function g(r): how many pairs of atoms there are at a distance, over those of an ideal
    gas.

    By default a histogram, as an analysis has it. It has no derivative along a trajectory, and refuses to be asked for
    one (thermodynamic gradients need none). With a `width`, distances are counted with a Gaussian of that standard
    deviation instead of a step: a count is the part of the Gaussian that lies in the bin. This flattens peaks that are
    not much broader; `smeared` does the same to a g(r) to compare with, such as a measured one.

    **Arguments:** `r_max` (nm), at most half the smallest height of the box; `num_bins`; `width` (nm), without which
    there is no derivative; `pair`, the symbols of two elements, all atoms by default.

    **Errors:** `ValueError` for unknown elements; in use for an open box, which has no density; `SimulationError` in
    use for a box that is too small. NaN where there is no such pair.

    **Returns** (of `reduce`): g at `self.centers`.

    **Reference:** the differentiable histogram of S. Thaler and J. Zavadlav, Nat. Commun. 12, 6884 (2021).
    """

    r_max: float = checked(positive_number("nm"), static=True)
    num_bins: int = checked(count(), static=True)
    width: float | None = checked(optional(positive_number("nm")), static=True, default=None)
    pair: tuple[str, str] | None = checked(optional(_elements()), static=True, default=None, kw_only=True)

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
        atoms, edges = jnp.arange(len(x)), self.edges.astype(x.dtype)
        first, second = self._chosen(system, x)

        def one_atom(i):  # one row of pairs at a time, since pairs times bins is large
            d = jnp.stack(state.box.minimum_image(*(x - x[i]).T))
            other = atoms != i
            r = jnp.sqrt(jnp.where(other, jnp.sum(d**2, axis=0), self.r_max**2))
            return first[i] * jnp.sum(jnp.where(other, second * self._counted(r, edges), 0), axis=1)

        counts = jnp.sum(jax.lax.map(one_atom, atoms, batch_size=16), axis=0)
        pairs = jnp.sum(first) * jnp.sum(second) - jnp.sum(first * second)
        g = counts * volume / (pairs * self._shells(edges))
        heights = 1 / jnp.linalg.norm(reciprocal_vectors(state.box), axis=1)
        room = jax.lax.stop_gradient(jnp.min(heights).astype(x.dtype) / 2)
        # room for lengths rounded to float32
        return raise_if(self.r_max > room * (1 + 1e-6), _too_far, self.r_max, room, guard=g)

    def _chosen(self, system, x):
        """One for each atom that may be the first or the second of a pair, and zero for others."""
        if self.pair is None:
            return jnp.ones(len(x), x.dtype), jnp.ones(len(x), x.dtype)
        numbers = system.topology.atomic_numbers
        first, second = ((numbers == atomic_number(symbol)).astype(x.dtype) for symbol in self.pair)
        return first, second

    def _counted(self, r, edges):
        """Which part of each distance is in each bin."""
        if self.width is None:
            below = _below(r, edges)
        else:
            below = 0.5 * (1 + jax.lax.erf((edges[:, None] - r) / (math.sqrt(2) * self.width)))
        return below[1:] - below[:-1]

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
        shells = s**2 * np.asarray(self._counted(jnp.asarray(s), jnp.asarray(edges)))
        return jnp.asarray(shells @ np.interp(s, r, g) / np.sum(shells, axis=1))

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


@jax.custom_jvp
def _below(r, edges):
    """Which distances are below each edge, as numbers."""
    return (r < edges[:, None]).astype(r.dtype)


@_below.defjvp
def _below_jvp(primals, tangents):
    raise ValueError(
        "`RDF` is a histogram, which has no derivative along a trajectory; wanted a `width`, such as"
        " `RDF(r_max, num_bins, width=0.01)`, or in `rv.expectation` no dynamical gradient, `dynamical=False`."
    )


def _too_far(r_max, room):
    return (
        f"`r_max` of `RDF` is {r_max:.6g} nm; wanted at most half the smallest height of the box, which is"
        f" {room:.6g} nm."
    )
