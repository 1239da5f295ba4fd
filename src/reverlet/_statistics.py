"""Weighted means, their errors, and how many samples the weights leave."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

T = TypeVar("T", bound=PyTree)


def effective_sample_size(weights: Float[Array, " samples"]) -> Float[Array, ""]:
    """Kish's effective number of samples, (Σw)²/Σw² (Kish, Survey Sampling, Wiley 1965): from 1 to `samples`."""
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)


def weighted_mean(weights: Float[Array, " samples"], values: Float[Array, "samples *shape"]) -> Float[Array, "*shape"]:
    """Σ w·x / Σ w over the samples. Weights that sum to one are divided by one: the estimator stays a ratio, so that
    its derivative with respect to the weights is that of a normalized mean."""
    return jnp.tensordot(weights / jnp.sum(weights), values, axes=1, precision=jax.lax.Precision.HIGHEST)


def weighted_mean_error(
    weights: Float[Array, " samples"], values: Float[Array, "samples *shape"]
) -> Float[Array, "*shape"]:
    """The standard error of `weighted_mean` over independent samples: sqrt(n/(n-1) Σ w²(x - x̄)²)."""
    w = weights / jnp.sum(weights)
    deviations = values - weighted_mean(w, values)
    return standard_error_of_sum(jnp.expand_dims(w, tuple(range(1, values.ndim))) * deviations)


def standard_error_of_sum(contributions: Float[Array, "samples *shape"]) -> Float[Array, "*shape"]:
    """The standard error of a sum of independent contributions whose deviations from their means are given."""
    n = contributions.shape[0]
    bessel = n / (n - 1) if n > 1 else jnp.nan  # one sample says nothing of its error
    return jnp.sqrt(bessel * jnp.sum(contributions**2, axis=0))


def infinitesimal_jackknife(estimator: Callable[[Float[Array, " samples"]], T], weights: Float[Array, " samples"]) -> T:
    """The standard error of any smooth function of the weights of independent samples.

    With f the estimator and d_i = ∂f/∂w_i, the error is sqrt(n/(n-1) Σ w_i²(d_i - Σ_j w_j d_j)²): to first order the
    jackknife, and for a mean exactly `weighted_mean_error` (Jaeckel 1972; Efron, The Jackknife, the Bootstrap and Other
    Resampling Plans, SIAM 1982, ch. 6).

    **Arguments:** `estimator`, from weights that sum to one to a tree of arrays; the weights.

    **Returns:** a tree like the estimator's result.
    """
    n = len(weights)
    if sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(estimator, weights))) < n:
        value, pull = jax.vjp(estimator, weights)
        flat, unravel = ravel_pytree(value)
        rows = _along_axes(lambda output: pull(unravel(output))[0], flat.size, flat.dtype)
        slopes = jax.vmap(unravel)(rows.T.astype(flat.dtype))
    else:
        # linearized once: what does not depend on the direction, such as a spectrum's correlations, is kept
        slopes = _along_axes(jax.linearize(estimator, weights)[1], n, weights.dtype)

    def error(d):
        w = jnp.expand_dims(weights, tuple(range(1, d.ndim))).astype(d.dtype)
        return standard_error_of_sum(w * (d - jnp.sum(w * d, axis=0)))

    return jax.tree.map(error, slopes)


def _along_axes(function, size, dtype):
    """A function of every unit vector, one after the other: all at once they may not fit into memory."""
    return jax.lax.map(lambda k: function(jax.nn.one_hot(k, size, dtype=dtype)), jnp.arange(size))
