"""A pair potential that a network makes of the distance."""

import math
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._fields import Kinds, Parameter, checked, finite, indices, optional, positive_number
from .._misc import as_array, is_concrete, require_constant, require_count, require_key, require_positive
from .._splines import AbstractInterpolation, NaturalSpline
from ._forms import AbstractSpeciesPairPotential
from ._tabulated import TabulatedPair
from ._terms import entry
from ._truncation import AbstractTruncation, SmoothSwitch, truncation_rule


class NeuralPair(AbstractSpeciesPairPotential):
    """A pair potential learned by a network: Gaussians of the distance, then layers of neurons, then a number,

        g_n(r) = exp(-½ ((r - c_n)/w_n)²),    h ← σ(W h),    u(r) = v·h,    σ(x) = SiLU(x + b) - SiLU(b)

    where centers, widths, weights and biases are all trained. Zero where all Gaussians are, and infinitely smooth;
    `truncation` says how it ends at the cutoff. For several species h is common to all pairs, and v is a matrix of
    vectors, (species, species, features).

    It knows no core: where no pair of the training comes, it is anything. So it is best added to a prior that repels,

        network = rv.pairs.NeuralPair.fresh(cutoff=0.9, key=key)
        potential = rv.Mie(0.3, 1.0, 9.0, 6.0, cutoff=0.9) + network

    The network runs once for every pair. For trajectories `tabulated`, a curve through its values that has gradients
    for all weights, is far cheaper: then it runs once for every knot.

    Made by `NeuralPair.fresh`.

    **Reference:** the pair networks of W. Wang, Z. Wu, J. C. B. Dietschreit and R. Gómez-Bombarelli, J. Chem. Phys.
    158, 044113 (2023), whose ELU has a second derivative that jumps; SiLU has none.
    """

    readout: Parameter = finite("kJ/mol")
    """v, (features,) or (species, species, features)."""
    basis: "_Gaussians" = eqx.field(kw_only=True)
    layers: tuple["_Layer", ...] = eqx.field(kw_only=True)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)
    has_curves: ClassVar[bool] = True

    @classmethod
    def fresh(
        cls,
        *,
        key: PRNGKeyArray,
        cutoff: float,
        species: ArrayLike | None = None,
        num_basis: int = 24,
        neurons: Sequence[int] = (64, 64, 24),
        scale: float = 0.1,
        truncation: AbstractTruncation | None = None,
    ) -> "NeuralPair":
        """A network to be trained, none of whose gradients vanish.

        **Arguments:** `key`; `cutoff`, nm; `species`, the index of every atom's, where there are several; `num_basis`,
        how many Gaussians, equally spaced up to the cutoff and as wide as their spacing; `neurons` of each layer;
        `scale`, how large energies are at first, kJ/mol; `truncation`, by default a `SmoothSwitch` over the last fifth.

        **Errors:** `ValueError` for numbers that are not positive, and species that are no indices.
        """
        require_key("key", key)
        require_constant("cutoff", cutoff)
        require_positive("cutoff", cutoff, "nm")
        require_count("num_basis", num_basis, least=2)
        require_positive("scale", scale, "kJ/mol")
        neurons = tuple(neurons)
        if not neurons:
            raise ValueError("`neurons` is empty; wanted how many each layer has, such as (64, 64, 24).")
        for n in neurons:
            require_count("neurons", n)
        num = None
        if species is not None:
            if not is_concrete(species):
                raise ValueError("`species` is traced; wanted known indices, since they say how many kinds there are.")
            with jax.ensure_compile_time_eval():
                indices().require("species", as_array(species))
            num = int(np.max(np.asarray(species), initial=0)) + 1
        keys = iter(jax.random.split(key, 2 * len(neurons) + 1))
        layers, inputs = [], num_basis
        for n in neurons:
            # SiLU halves what is small
            weights = jax.random.normal(next(keys), (inputs, n)) * (2 / math.sqrt(inputs))
            layers.append(_Layer(weights, 0.5 * jax.random.normal(next(keys), (n,))))
            inputs = n
        readout = jax.random.normal(next(keys), (inputs,) if num is None else (num, num, inputs))
        if num is not None:
            readout = 0.5 * (readout + jnp.swapaxes(readout, 0, 1))
        spacing = cutoff / (num_basis - 1)
        return cls(
            readout * (scale / math.sqrt(inputs)),
            basis=_Gaussians(jnp.linspace(0.0, cutoff, num_basis), jnp.full(num_basis, spacing)),
            layers=tuple(layers),
            cutoff=cutoff,
            species=species,
            truncation=SmoothSwitch(0.8 * cutoff) if truncation is None else truncation,
        )

    def pair_energy(self, r2, i, j):
        energies = self._energies(r2)
        return energies if self.species is None else entry(energies, self.species[i], self.species[j])

    def _energies(self, r2):
        """Of the one pair, or of all pairs of species."""
        h = self.basis(jnp.sqrt(r2))
        for layer in self.layers:
            h = layer(h)
        energies = jnp.matmul(self.readout, h, precision=jax.lax.Precision.HIGHEST)
        # symmetrized, so that an update moves both halves alike
        return energies if self.species is None else 0.5 * (energies + energies.T)

    def tabulated(
        self, first: float, num_knots: int, interpolation: AbstractInterpolation = NaturalSpline()
    ) -> TabulatedPair:
        """The curve through its values, truncated, at equally spaced distances from `first` (nm) to the cutoff.

        Differentiable by everything that is trained, so that a loss may make it from the network every time:

            system = rv.System(topology, prior + network.tabulated(0.2, 100))

        At the cutoff it ends with the value there, zero for a `SmoothSwitch`; below `first` it is a straight line. A
        `NaturalSpline` has an error of at most 5/384 h⁴ max|u⁗| for a spacing h, but at its ends.
        """
        require_constant("first", first)
        require_positive("first", first, "nm")
        require_count("num_knots", num_knots, least=4)
        knots = jnp.linspace(first, self.cutoff, num_knots, dtype=self.readout.dtype)
        at = lambda r: self.truncation.truncate(self._energies, r * r, self.cutoff)
        values = jax.vmap(at, out_axes=-1)(knots)
        return TabulatedPair(values, first=first, cutoff=self.cutoff, species=self.species, interpolation=interpolation)


class _Gaussians(eqx.Module):
    """Bells, of trained centers and widths, nm."""

    centers: Float[Array, " basis"]
    widths: Float[Array, " basis"]

    def __call__(self, r: Float[Array, ""]) -> Float[Array, " basis"]:
        return jnp.exp(-0.5 * ((r - self.centers) / self.widths) ** 2)


class _Layer(eqx.Module):
    """Neurons that are at zero where all their inputs are."""

    weights: Float[Array, "inputs neurons"]
    bias: Float[Array, " neurons"]

    def __call__(self, h: Float[Array, " inputs"]) -> Float[Array, " neurons"]:
        sums = jnp.matmul(h, self.weights, precision=jax.lax.Precision.HIGHEST)
        return jax.nn.silu(sums + self.bias) - jax.nn.silu(self.bias)
