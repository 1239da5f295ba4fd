import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import checked, count, positive_number
from .._misc import require_count, require_number
from .._statistics import weighted_mean
from ._base import AbstractObservable


class RDF(AbstractObservable):
    """The radial distribution function g(r) of all pairs of atoms.

    Pair distances are counted in bins with a Gaussian of width `width` instead of a step, so that g is differentiable
    along a trajectory: a count is the part of the Gaussian that lies in the bin. Normalized by the N(N-1)/2 pairs of
    the box, so that g is one for an ideal gas.

    **Arguments:** `r_max` (nm, at most half the smallest height of a periodic box), `num_bins`, `width` (nm; a bin's by
    default).

    **Returns** (of `reduce`): g at `self.centers`.

    **Reference:** the differentiable histogram of S. Thaler and J. Zavadlav, Nat. Commun. 12, 6884 (2021).
    """

    r_max: float = checked(positive_number("nm"), static=True)
    num_bins: int = checked(count(), static=True)
    width: float = checked(positive_number("nm"), static=True)

    def __init__(self, r_max: float, num_bins: int, width: float | None = None):
        self.r_max = r_max
        self.num_bins = num_bins
        require_number("r_max", r_max)
        require_count("num_bins", num_bins)
        self.width = r_max / num_bins if width is None else width

    @property
    def edges(self) -> Float[Array, " edges"]:
        """The edges of the bins, nm."""
        return jnp.linspace(0, self.r_max, self.num_bins + 1)

    @property
    def centers(self) -> Float[Array, " bins"]:
        """The centers of the bins, nm."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def record(self, system, state, initial):
        del system, initial
        x = state.positions
        n = len(x)
        edges = self.edges.astype(x.dtype)

        def one_atom(i):  # one row of pairs at a time, since pairs times bins is large
            d = jnp.stack(state.box.minimum_image(*(x - x[i]).T))
            other = jnp.arange(n) != i
            r = jnp.sqrt(jnp.where(other, jnp.sum(d**2, axis=0), self.r_max**2))
            below = 0.5 * (1 + jax.lax.erf((edges[:, None] - r) / (jnp.sqrt(2.0).astype(x.dtype) * self.width)))
            return jnp.sum(jnp.where(other, below[1:] - below[:-1], 0), axis=1)

        counts = jnp.sum(jax.lax.map(one_atom, jnp.arange(n), batch_size=16), axis=0)
        # what an ideal gas would put into the bins, the smearing included: ∫ 4πr² Φ((e - r)/w) dr from zero to infinity
        z = edges / self.width
        phi, density = jax.scipy.stats.norm.cdf(z), jax.scipy.stats.norm.pdf(z)
        filled = (z**3 / 3 + z) * phi + (z**2 + 2) / 3 * density
        shells = 4 * jnp.pi * self.width**3 * (filled[1:] - filled[:-1])
        return counts * state.box.volume / (n * (n - 1) * shells)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))
