import abc
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._box import AbstractBox, half_height, reciprocal_vectors
from .._fields import AbstractChecked, checked, count, counts, instance, positive_number
from .._misc import require_constant, require_instance, require_positive
from .._statistics import weighted_mean
from .._topology import Topology
from .._verdict import raise_if
from ._base import AbstractObservable
from ._scattering_tables import LENGTHS, form_factors, scattering_lengths
from ._spectroscopy import require_volume


class AbstractScattering(AbstractChecked):
    """How much every atom scatters."""

    @abc.abstractmethod
    def amplitudes(self, topology: Topology, k: Float[Array, ""]) -> Float[Array, " atoms"]:
        """f_j at a wave number (1/nm), in any unit: `StructureFactor` divides by the square of their mean. Not a number
        for an element that is not known."""


class Nuclei(AbstractScattering):
    """One for every atom: the structure factor of where they are."""

    def amplitudes(self, topology, k):
        return jnp.ones(topology.num_atoms, k.dtype)


class XRays(AbstractScattering):
    """Form factors of free neutral atoms, f(k), up to californium.

    Without anomalous dispersion. Electrons that a bond has moved are not accounted for: hydrogen in water is about half
    as visible as here.

    **Reference:** D. Waasmaier and A. Kirfel, Acta Cryst. A 51, 416 (1995); for water, J. M. Sorenson et al., J. Chem.
    Phys. 113, 9149 (2000).
    """

    def amplitudes(self, topology, k):
        table = form_factors()[:, :, None]
        s2 = (k / (4 * jnp.pi * 10)) ** 2  # 1/Å²
        a, b, c = (jnp.asarray(x, k.dtype) for x in (table[:, :5, 0], table[:, 5:10, 0], table[:, 10, 0]))
        return (c + jnp.sum(a * jnp.exp(-b * s2), axis=1))[topology.atomic_numbers]


class Neutrons(AbstractScattering):
    """Bound coherent scattering lengths, fm, of the natural mixture of isotopes; hydrogen heavier than 1.5 u is
    deuterium, than 2.5 u tritium.

    Real parts alone, which is not enough near the resonances of Cd, Sm, Eu, Gd and Dy. In the mixture of H and D whose
    mean is zero nothing is left to divide by.

    **Reference:** V. F. Sears, Neutron News 3(3), 26 (1992); H. Rauch and W. Waschkowski, in Neutron Data Booklet, 2nd
    ed., ILL (2003).
    """

    def amplitudes(self, topology, k):
        numbers, masses = topology.atomic_numbers, topology.masses
        found = jnp.asarray(scattering_lengths(), k.dtype)[numbers]
        heavy = jnp.where(masses > 2.5, LENGTHS["T"], LENGTHS["D"])
        return jnp.where((numbers == 1) & (masses > 1.5), heavy.astype(k.dtype), found)


class StructureFactor(AbstractObservable):
    """The static structure factor S(k) of an isotropic liquid or a powder, without unit.

    S(k) = 1 + (|Σ_j f_j exp(ik·r_j)|² - Σ_j f_j²) / (N f̄²), f̄ the mean of f over all N atoms: the total structure
    factor of Faber and Ziman, which goes to one at large k; where all f are alike, |Σ_j exp(ik·r_j)|²/N. It is the mean
    over the vectors k of the reciprocal lattice of the box in every bin, a direct sum which needs no g(r) and no
    correction where that ends. What others publish, from S: the intensity per atom I/N = f̄² (S - 1) + Σ f²/N; that of
    Ashcroft and Langreth, normalized by the mean square, N/Σ f² times that.

    Which vectors are in which bin has no derivative, and S as a function of the positions is smooth: so there are
    derivatives along trajectories in a fixed box.

    `StructureFactor.fit(box, k_max, num_bins)` chooses the rest for a box.

    **Arguments:** `k_min`, `k_max` (1/nm), and `num_bins` between; `waves`, how many multiples of each reciprocal
    lattice vector there are, at least k_max · |a|/2π for the lattice vector a; `scattering`, `Nuclei()`, `XRays()` or
    `Neutrons()`.

    **Errors:** `ValueError` for `k_min` beyond `k_max`, and in use for an open box; `SimulationError` in use for a box
    that has grown beyond what `waves` are for, and a bin without a vector. NaN where an element is not known.

    **Returns** (of `reduce`): S at `self.centers`.

    **Reference:** J.-P. Hansen and I. R. McDonald, Theory of Simple Liquids, 4th ed. (2013), section 4.1; T. E. Faber
    and J. M. Ziman, Philos. Mag. 11, 153 (1965).
    """

    k_min: float = checked(positive_number("1/nm"), static=True)
    k_max: float = checked(positive_number("1/nm"), static=True)
    num_bins: int = checked(count(), static=True)
    waves: tuple[int, int, int] = checked(counts(1), static=True)
    scattering: AbstractScattering = checked(instance(AbstractScattering), default=Nuclei(), kw_only=True)

    def __check_init__(self):
        if self.k_min >= self.k_max:
            raise ValueError(f"`k_min` is {self.k_min} 1/nm; wanted less than `k_max`, which is {self.k_max} 1/nm.")

    @classmethod
    def fit(
        cls, box: AbstractBox, k_max: float, num_bins: int, *, scattering: AbstractScattering | None = None
    ) -> "StructureFactor":
        """For boxes up to 5 % larger than this one along every lattice vector, from its smallest k to `k_max` (1/nm).

        **Errors:** `ValueError` for an open box, one that is traced, and one without vectors up to `k_max`.
        """
        require_instance("box", box, AbstractBox)
        require_constant("k_max", k_max)
        require_positive("k_max", k_max, "1/nm")
        if not math.isfinite(half_height(box)):
            raise ValueError("`box` is an `OpenBox`, which has no reciprocal lattice; wanted a periodic one.")
        with jax.ensure_compile_time_eval():
            vectors, reciprocal = np.asarray(box.vectors, float), np.asarray(reciprocal_vectors(box), float)
        lengths = np.linalg.norm(vectors, axis=1)
        along = lambda length: max(1, int(1.05 * k_max * length / (2 * np.pi)))
        waves = along(lengths[0]), along(lengths[1]), along(lengths[2])
        smallest = float(np.min(np.linalg.norm(_half_of(waves) @ reciprocal, axis=1))) * 2 * np.pi
        if smallest >= k_max:
            raise ValueError(
                f"`k_max` is {k_max} 1/nm; wanted more than the smallest of this box, {smallest:.6g} 1/nm."
            )
        return cls(0.95 * smallest, k_max, num_bins, waves, scattering=Nuclei() if scattering is None else scattering)

    @property
    def edges(self) -> Float[Array, " edges"]:
        """The edges of the bins, 1/nm."""
        return jnp.linspace(self.k_min, self.k_max, self.num_bins + 1)

    @property
    def centers(self) -> Float[Array, " bins"]:
        """The centers of the bins, 1/nm."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def record(self, system, state, initial):
        del initial
        require_volume(state)
        x = state.positions
        n = jnp.asarray(_half_of(self.waves), x.dtype)
        reciprocal = 2 * jnp.pi * reciprocal_vectors(state.box).astype(x.dtype)
        # written out: a matrix product may run in lower precision on a GPU
        k = sum(n[:, m, None] * reciprocal[m] for m in range(3))
        length = jax.lax.stop_gradient(jnp.sqrt(jnp.sum(k**2, axis=1)))
        edges = self.edges.astype(x.dtype)
        index = jnp.searchsorted(edges, length, side="right") - 1
        inside = (length >= edges[0]) & (length < edges[-1])

        @jax.checkpoint  # all phases at once are atoms times vectors
        def one(vector):
            k, length = vector
            f = self.scattering.amplitudes(system.topology, length)
            phases = x[:, 0] * k[0] + x[:, 1] * k[1] + x[:, 2] * k[2]
            intensity = jnp.sum(f * jnp.cos(phases)) ** 2 + jnp.sum(f * jnp.sin(phases)) ** 2
            return 1 + (intensity - jnp.sum(f**2)) / (len(x) * jnp.mean(f) ** 2)

        found = jax.lax.map(one, (k, length), batch_size=32)
        put = lambda values: jax.ops.segment_sum(jnp.where(inside, values, 0), index, self.num_bins)
        vectors = put(jnp.ones_like(length))
        lattice = jnp.sqrt(jnp.sum(state.box.vectors.astype(x.dtype) ** 2, axis=1))
        wanted = jax.lax.stop_gradient(self.k_max * lattice / (2 * jnp.pi))
        bad = jnp.any(wanted >= jnp.asarray(self.waves, x.dtype) + 1)
        return raise_if(bad, _describe_waves, wanted, jnp.asarray(self.waves), guard=(put(found), vectors))

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        total, vectors = (weighted_mean(weights, jnp.mean(r, axis=1)) for r in records)
        bounds = (self.edges[:-1], self.edges[1:])
        total = raise_if(vectors == 0, _describe_empty, vectors, *bounds, guard=total)
        return total / vectors


def _half_of(waves):
    """All triples of whole numbers up to these, one of n and -n each, without zero."""
    a, b, c = waves
    n = np.stack(np.meshgrid(np.arange(a + 1), np.arange(-b, b + 1), np.arange(-c, c + 1), indexing="ij"), -1)
    n = n.reshape(-1, 3)
    ahead = (n[:, 0] > 0) | ((n[:, 0] == 0) & ((n[:, 1] > 0) | ((n[:, 1] == 0) & (n[:, 2] > 0))))
    return n[ahead]


def _describe_waves(wanted: Any, waves: Any) -> str:
    return (
        f"`waves` of `StructureFactor` is {tuple(int(w) for w in waves)}; wanted at least"
        f" {tuple(int(w) for w in wanted)} up to `k_max` in a box of this size:"
        " `StructureFactor.fit` with the largest one."
    )


def _describe_empty(vectors: Any, low: Any, high: Any) -> str:
    first = int(np.flatnonzero(vectors == 0)[0])
    return (
        f"No reciprocal lattice vector of the box is between {low[first]:.6g} and {high[first]:.6g} 1/nm, bin {first}"
        " of `StructureFactor`; wanted wider bins, a larger `k_min`, or a larger box."
    )
