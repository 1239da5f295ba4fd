"""Weighted means, their errors, and how many samples the weights leave."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ._misc import is_concrete, require_array, require_callable, require_shape, require_weights, require_whole

T = TypeVar("T", bound=PyTree)


def effective_sample_size(weights: Float[Array, " samples"]) -> Float[Array, ""]:
    """Kish's effective number of samples, (Σw)²/Σw² (Kish, Survey Sampling, Wiley 1965): from 1 to `samples`.

    **Errors:** `ValueError` for weights that are negative, here and wherever there are weights.
    """
    require_weights("weights", weights)
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)


def weighted_mean(weights: Float[Array, " samples"], values: Float[Array, "samples *shape"]) -> Float[Array, "*shape"]:
    """Σ w·x / Σ w over the samples. Weights that sum to one are divided by one: the estimator stays a ratio, so that
    its derivative with respect to the weights is that of a normalized mean."""
    require_weights("weights", weights)
    require_array("values", values)
    return jnp.tensordot(weights / jnp.sum(weights), values, axes=1, precision=jax.lax.Precision.HIGHEST)


def weighted_mean_error(
    weights: Float[Array, " samples"], values: Float[Array, "samples *shape"]
) -> Float[Array, "*shape"]:
    """The standard error of `weighted_mean` over independent samples: sqrt(n/(n-1) Σ w²(x - x̄)²)."""
    require_weights("weights", weights)
    require_array("values", values)
    w = weights / jnp.sum(weights)
    deviations = values - weighted_mean(w, values)
    return standard_error_of_sum(jnp.expand_dims(w, tuple(range(1, values.ndim))) * deviations)


class Blocks(eqx.Module):
    """Runs of samples that may be taken for independent: what a standard error is over.

    Samples of one chain are correlated, those of different chains are not. A block is a whole chain where there are
    many, and a part of one where there are few; what two blocks that follow one another in a chain still have in common
    is added to the error. Of several strata, which differ in how they were drawn (the states of a pool), each has its
    own mean; a chain, and a block of it, may go on from one stratum to the next.

    **Reference:** for blocks, H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989).
    """

    block: Int[Array, " samples"]
    """The number of the block of every sample; blocks of a chain are numbered along it."""
    stratum: Int[Array, " samples"]
    """How every sample was drawn."""
    spread: Int[Array, " samples"]
    """Over how many blocks the stratum of every sample is spread."""
    chain: Int[Array, " samples"]
    """Of every block, the chain it is a part of; -1 where there is no such block."""
    number: Int[Array, ""]
    """How many there are."""

    @eqx.filter_jit
    def error(self, contributions: Float[Array, "samples *shape"]) -> Float[Array, "*shape"]:
        """The standard error of a sum whose contributions vary around zero; NaN for a stratum with a single block."""
        n = len(self.block)
        total = lambda x, k: jax.ops.segment_sum(x, k, n)
        column = lambda w: jnp.expand_dims(w, tuple(range(1, contributions.ndim)))
        samples = total(jnp.ones(n, contributions.dtype), self.stratum)
        means = total(contributions, self.stratum) / column(jnp.maximum(samples, 1))
        # one block says nothing of its error
        spread = self.spread.astype(contributions.dtype)
        factor = column(jnp.where(spread > 1, jnp.sqrt(spread / jnp.maximum(spread - 1, 1)), jnp.nan))
        sums = total(factor * (contributions - means[self.stratum]), self.block)
        follows = (self.chain >= 0) & (self.chain == jnp.roll(self.chain, 1)) & (jnp.arange(n) > 0)
        common = jnp.sum(jnp.where(column(follows), sums * jnp.roll(sums, 1, axis=0), 0), axis=0)
        return jnp.sqrt(jnp.sum(sums**2, axis=0) + 2 * jnp.maximum(common, 0))

    def covariance(self, contributions: Float[np.ndarray, "samples size"]) -> Float[np.ndarray, "size size"]:
        """The covariance of a vector of such sums, positive semidefinite and the same for every linear combination of
        them; for one sum, the square of `error`, and NaN where that is. Of what blocks that follow one another have in
        common, combinations that it would lessen the error of are left out, as there."""
        own, spread = np.asarray(self.stratum), np.asarray(self.spread)
        if np.any(spread == 1) or not np.all(np.isfinite(contributions)):
            return np.full(2 * contributions.shape[1:], np.nan)
        totals = np.stack([np.bincount(own, weights=column) for column in contributions.T], axis=1)
        centered = contributions - (totals / np.maximum(np.bincount(own), 1)[:, None])[own]
        sums = np.zeros((int(self.number), contributions.shape[1]))
        np.add.at(sums, np.asarray(self.block), np.sqrt(spread / (spread - 1))[:, None] * centered)
        scale = np.sqrt(np.sum(sums**2, axis=0))
        scale[scale == 0] = 1.0  # units differ
        sums = sums / scale
        values, vectors = np.linalg.eigh(sums.T @ sums)
        known = values > 1e-12 * values[-1]
        root = vectors[:, known] * np.sqrt(values[known])
        chain = np.asarray(self.chain)[: len(sums)]
        follows = np.flatnonzero(chain[1:] == chain[:-1]) + 1
        # in coordinates in which the blocks themselves have the covariance 1
        white = sums @ (vectors[:, known] / np.sqrt(values[known]))
        common = white[follows].T @ white[follows - 1]
        shared, axes = np.linalg.eigh((common + common.T) / 2)
        root = scale[:, None] * (root @ axes)
        return (root * (1 + 2 * np.maximum(shared, 0))) @ root.T


_FEW_BLOCKS = 32
"""With fewer chains than this, they are divided. More blocks are shorter, and leave more in common."""


def blocks_of(chain: Int[Array, " samples"], stratum: Int[Array, " samples"] | None = None) -> Blocks:
    """The blocks of samples, in the order they were drawn along every chain.

    **Arguments:** `chain`, which chain drew each; `stratum`, how it was drawn: a chain that is in several has gone on
    from one to the next, in the order of their numbers.
    """
    require_chain(chain)
    if stratum is not None:
        require_whole("stratum", stratum)
    return _blocks_of(chain, stratum)


@jax.jit
def _blocks_of(chain, stratum):
    n = len(chain)
    stratum = jnp.zeros(n, jnp.int32) if stratum is None else stratum.astype(jnp.int32)
    stratum = jnp.unique(stratum, return_inverse=True, size=n)[1].astype(jnp.int32)  # from 0
    order = jnp.lexsort((stratum, chain))
    back = jnp.zeros(n, order.dtype).at[order].set(jnp.arange(n))
    along = jnp.arange(n)
    chain, own = chain[order], stratum[order]
    begins = (along == 0) | (chain != jnp.roll(chain, 1))
    enters = begins | (own != jnp.roll(own, 1))
    number = jnp.cumsum(begins) - 1
    length = jax.ops.segment_sum(jnp.ones(n, jnp.int32), number, n)[number]
    chains = jax.ops.segment_sum(enters.astype(jnp.int32), own, n)[own]
    fewest = jax.ops.segment_min(chains, number, n)[number]
    first = jax.lax.cummax(jnp.where(begins, along, 0))
    # a chain alone in a stratum is two blocks there
    stay = jnp.cumsum(enters) - 1
    there = jax.ops.segment_sum(jnp.ones(n, jnp.int32), stay, n)[stay]
    shortest = jax.ops.segment_min(jnp.where(chains == 1, there, n), number, n)[number]
    parts = jnp.clip(jnp.maximum(-(-_FEW_BLOCKS // fewest), -(-2 * length // shortest)), 1, length)
    # equal parts, but for a sample more or less
    part = ((along - first) * parts) // length
    starts = begins | (part != jnp.roll(part, 1))
    block = jnp.cumsum(starts) - 1
    spread = jax.ops.segment_sum((starts | enters).astype(jnp.int32), own, n)
    of_block = jnp.full(n, -1, jnp.int32).at[block].set(number.astype(jnp.int32))
    return Blocks(block[back], stratum, spread[stratum], of_block, block[-1] + 1)


def standard_error_of_sum(contributions: Float[Array, "samples *shape"]) -> Float[Array, "*shape"]:
    """The standard error of a sum of independent contributions whose deviations from their means are given."""
    n = contributions.shape[0]
    bessel = n / (n - 1) if n > 1 else jnp.nan  # one sample says nothing of its error
    return jnp.sqrt(bessel * jnp.sum(contributions**2, axis=0))


def require_chain(chain: Int[Array, " samples"]) -> None:
    """Refuses what are no numbers of chains."""
    require_shape("chain", chain, (None,), "One for every sample.")
    require_whole("chain", chain)
    if is_concrete(chain) and np.min(np.asarray(chain), initial=0) < 0:
        raise ValueError(f"`chain` has {np.min(np.asarray(chain))}; wanted numbers of chains, from 0.")


def entropy_sample_size(weights: Float[Array, " samples"]) -> Float[Array, ""]:
    """exp(-Σ w ln w) of weights that sum to one: the effective number of samples by entropy, from 1 to `samples`.

    Never less than Kish's, which a few large weights lower more (S. Thaler and J. Zavadlav, Nat. Commun. 12, 6884
    (2021), eq. 5).
    """
    require_weights("weights", weights)
    w = weights / jnp.sum(weights)
    # zero has no logarithm, and NaN is not to become zero
    return jnp.exp(-jnp.sum(jnp.where(w == 0, 0, w * jnp.log(jnp.where(w == 0, 1, w)))))


def infinitesimal_jackknife(
    estimator: Callable[[Float[Array, " samples"]], T],
    weights: Float[Array, " samples"],
    error_of_sum: Callable[[Float[Array, "samples *shape"]], Float[Array, "*shape"]] = standard_error_of_sum,
) -> T:
    """The standard error of any smooth function of the weights of samples.

    With f the estimator and d_i = ∂f/∂w_i, the error is sqrt(n/(n-1) Σ w_i²(d_i - Σ_j w_j d_j)²): to first order the
    jackknife, and for a mean exactly `weighted_mean_error` (Jaeckel 1972; Efron, The Jackknife, the Bootstrap and Other
    Resampling Plans, SIAM 1982, ch. 6).

    **Arguments:** `estimator`, from weights that sum to one to a tree of arrays; the weights; `error_of_sum`, how the
    contributions w_i(d_i - Σ_j w_j d_j) add up: by default as those of independent samples, with
    `Samples.error_of_sum` as those of chains.

    **Returns:** a tree like the estimator's result.
    """
    require_callable("estimator", estimator, "`lambda weights: weights @ values`")
    require_weights("weights", weights)
    n = len(weights)
    if sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(estimator, weights))) < n:
        value, pull = jax.vjp(estimator, weights)
        flat, unravel = ravel_pytree(value)
        rows = _along_axes(lambda output: pull(unravel(output))[0], flat.size, flat.dtype)
        slopes = jax.vmap(unravel)(rows.T.astype(flat.dtype))
    else:
        # linearized once: what does not depend on the direction, such as a spectrum's correlations, is kept
        slopes = _along_axes(jax.linearize(estimator, weights)[1], n, weights.dtype)

    return jax.tree.map(lambda d: error_of_sum(_contributions(weights, d)), slopes)


@jax.jit
def _contributions(weights, slopes):
    """Of every sample to a deviation of the estimate: w_i(d_i - Σ_j w_j d_j)."""
    w = jnp.expand_dims(weights, tuple(range(1, slopes.ndim))).astype(slopes.dtype)
    return w * (slopes - jnp.sum(w * slopes, axis=0))


def _along_axes(function, size, dtype):
    """A function of every unit vector, one after the other: all at once they may not fit into memory."""
    return jax.lax.map(lambda k: function(jax.nn.one_hot(k, size, dtype=dtype)), jnp.arange(size))
