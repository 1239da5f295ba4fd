"""Both parts of the gradient of an ensemble mean, with errors."""

from typing import TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from ._batches import Batch, replicate
from ._dynamics import Dynamics
from ._ensemble import AbstractEnsemble
from ._expectation import Estimate, Measurement, with_parameters
from ._misc import require_flag, require_instance, tree_dot
from ._observable import AbstractObservable
from ._sampler import Samples
from ._statistics import infinitesimal_jackknife
from ._system import Surfaces, System

M = TypeVar("M", bound=PyTree)


class Gradients(eqx.Module):
    """The two parts of the gradient of an ensemble mean, each with its standard error; trees like `System.surfaces`."""

    thermodynamic: Surfaces
    thermodynamic_error: Surfaces
    dynamical: Surfaces
    dynamical_error: Surfaces
    """NaN where it is not known: in reverse mode, unless what is measured is a mean over samples."""
    thermodynamic_samples: Surfaces | None = None
    """What every sample contributes, if asked for: leaves lead with `samples`, and their sum is `thermodynamic`."""
    dynamical_samples: Surfaces | None = None
    """The same of `dynamical`."""

    @property
    def total(self) -> Surfaces:
        """The sum of both."""
        return jax.tree.map(jnp.add, self.thermodynamic, self.dynamical)


def expectation_gradients(
    observable: AbstractObservable,
    system: System,
    samples: Samples,
    *,
    ensemble: AbstractEnsemble | None = None,
    dynamics: Dynamics | None = None,
    batch: Batch = None,
    mesh: Mesh | None = None,
    keep_samples: bool = False,
    throw: bool = True,
) -> tuple[Estimate, Gradients]:
    """An ensemble mean, and both parts of its gradient with respect to the surfaces of the system, with errors.

    The parts add up to `jax.grad` of `expectation`. They are computed sample by sample in one pass, each sample with
    its own copy of the parameters: for large models that is memory for as many copies. To train on the result, see
    `linearize`. With `dynamics` of `rv.ForwardMode()` one tangent is carried along for every scalar parameter instead:
    for a few parameters cheaper than going back, and without rounding that grows on the way back.

    Errors are by the infinitesimal jackknife. Where the observable is not a mean over samples, as a squared deviation
    is not, that of the dynamical part takes the derivatives of all records. Reverse mode has those of one sum only, and
    the error is NaN then; `rv.ForwardMode()` knows it.

    **Arguments:** as for `expectation`. `keep_samples`, whether to keep what every sample contributes, to study the
    noise of the gradient.

    **Errors:** `ValueError` unless the observable reduces to a scalar; as for `nve`.
    """
    require_instance("system", system, System)
    require_flag("keep_samples", keep_samples)
    measurement = Measurement.of(observable, samples, ensemble, dynamics, batch, mesh, throw)
    parameters = eqx.filter(system.surfaces, eqx.is_inexact_array)
    forward = dynamics is not None and isinstance(dynamics.adjoint, diffrax.ForwardMode)
    parts_by = _forward_parts if forward else _reverse_parts
    times, value, records, weights, parts, errors = parts_by(parameters, measurement, system)
    thermodynamic, dynamical = parts
    gradients = Gradients(
        _total(thermodynamic),
        errors[0],
        _total(dynamical),
        errors[1],
        thermodynamic if keep_samples else None,
        dynamical if keep_samples else None,
    )
    estimate = measurement.estimate(value, times, records, weights)
    return replicate(measurement.judged(weights, (estimate, gradients)), measurement.mesh)


def _reverse_parts(parameters, measurement, system):
    """The contributions of all samples to both parts, as trees whose leaves lead with `samples`: in reverse mode."""
    n = len(measurement.samples)
    copies = jax.tree.map(lambda p: jnp.broadcast_to(p, (n, *p.shape)), parameters)
    log_weights, pull_weights = jax.vjp(lambda copies: measurement.log_weights(system, copies), copies)
    weights = jax.nn.softmax(log_weights)

    def run(copies):
        times, records = measurement.run(system, copies)
        return records, times

    records, pull_records, times = jax.vjp(run, copies, has_aux=True)
    reduce = lambda r, w: measurement.reduce(times, r, w)
    value, slopes, records_bar = slopes_of(reduce, records, weights)
    (dynamical,) = pull_records(records_bar)
    (sensitivities,) = pull_weights(jnp.ones(n, log_weights.dtype))
    thermodynamic = jax.tree.map(lambda b: covariances(weights, slopes, b), sensitivities)
    part = thermodynamic_part(reduce, records, sensitivities)
    error = measurement.samples.error_of_sum
    errors = infinitesimal_jackknife(part, weights, error), dynamical_error(reduce, records, weights, dynamical, error)
    return times, value, records, weights, (thermodynamic, dynamical), errors


def _forward_parts(parameters, measurement, system):
    """The same in forward mode, with one tangent for every scalar parameter."""
    flat, unravel = ravel_pytree(parameters)
    moved = lambda p: with_parameters(system, unravel(p))
    run = lambda p: measurement.run_all(moved(p))
    (log_weights, records), (sensitivities, tangents), times = along(run, flat, jnp.eye(flat.size, dtype=flat.dtype))
    weights = jax.nn.softmax(log_weights)
    reduce = lambda r, w: measurement.reduce(times, r, w)
    value, slopes, records_bar = slopes_of(reduce, records, weights)
    thermodynamic = covariances(weights, slopes, sensitivities.T)
    dynamical = jax.vmap(lambda tangent: jax.vmap(tree_dot)(records_bar, tangent), out_axes=1)(tangents)
    split = jax.vmap(unravel)
    errors = tuple(
        unravel(infinitesimal_jackknife(part, weights, measurement.samples.error_of_sum))
        for part in (
            thermodynamic_part(reduce, records, sensitivities.T),
            dynamical_part(reduce, records, tangents),
        )
    )
    return times, value, records, weights, (split(thermodynamic), split(dynamical)), errors


def along(function, x, directions):
    """`function(x)`, which returns a tree and something constant, with its derivatives along all `directions`."""
    one = lambda direction: jax.jvp(function, (x,), (direction,), has_aux=True)
    return jax.vmap(one, out_axes=(None, 0, None))(directions)


def slopes_of(reduce, records, weights):
    """What `reduce(records, weights)` is, and its derivatives with respect to the weights and the records."""
    value, (slopes, records_bar) = jax.value_and_grad(lambda w, r: _scalar(reduce(r, w)), argnums=(0, 1))(
        weights, records
    )
    return value, slopes, records_bar


def covariances(weights, slopes, sensitivities):
    """Contributions to the thermodynamic part, from derivatives of the logarithms of weights, `samples *shape`."""
    influence = weights * (slopes - jnp.sum(weights * slopes))
    mean = jnp.tensordot(weights, sensitivities, axes=1, precision=jax.lax.Precision.HIGHEST)
    # centered, which changes no sum but makes the parts those of a covariance
    return _column(influence, sensitivities) * (sensitivities - mean)


def thermodynamic_part(reduce, records, sensitivities):
    """The gradient through the weights, as a function of these, from derivatives of their logarithms, `samples …`."""

    def part(weights):
        slopes = jax.grad(lambda w: reduce(records, w))(weights)
        return _total(jax.tree.map(lambda b: covariances(weights, slopes, b), sensitivities))

    return part


def dynamical_part(reduce, records, tangents):
    """The gradient through the records, as a function of the weights, from their derivatives, `params samples …`."""

    def part(weights):
        at = lambda r: reduce(r, weights)
        return jax.vmap(lambda tangent: jax.jvp(at, (records,), (tangent,))[1])(tangents)

    return part


def dynamical_error(reduce, records, weights, parts, error_of_sum):
    """From the contributions of all samples: right if none depends on the records of another sample, else NaN."""
    known = _is_mean_over_samples(reduce, records, weights)

    def error(x):
        deviations = x - _column(weights, x) * jnp.sum(x, axis=0)
        return jnp.where(known, error_of_sum(deviations), jnp.nan)

    return jax.tree.map(error, parts)


def _is_mean_over_samples(reduce, records, weights):
    """Whether the derivative by the records of a sample, over its weight, stays when the other weights change."""
    slope = lambda w: jax.grad(lambda r: reduce(r, w))(records)
    change = jnp.cos(jnp.arange(len(weights), dtype=weights.dtype))  # any relative one that keeps the sum
    change = change - jnp.sum(weights * change)
    records_bar, changed = jax.jvp(slope, (weights,), (weights * change,))
    own = jax.tree.map(lambda x: _column(change, x).astype(x.dtype) * x, records_bar)
    rest = jax.tree.map(jnp.subtract, changed, own)
    return tree_dot(rest, rest) <= 1e-6 * tree_dot(own, own)  # rounding is far less, even in single precision


def _total(tree):
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), tree)


def _column(w, like):
    return jnp.expand_dims(w, tuple(range(1, like.ndim)))


def linearize(value: Float[Array, ""], gradient: M, model: M) -> Float[Array, ""]:
    """`value`, with a gradient with respect to `model` that is already known.

    So that a loss can be written on top of `expectation_gradients` and differentiated as usual: the number is
    `value`, its derivative with respect to the arrays of `model` is `gradient` (a tree like `model`; `None` counts as
    zero).
    """
    arrays = eqx.filter(model, jax.tree.map(lambda g: g is not None, gradient, is_leaf=lambda g: g is None))
    arrays = eqx.filter(arrays, eqx.is_inexact_array)
    deviations = jax.tree.map(lambda x: x - jax.lax.stop_gradient(x), arrays)
    value, gradient = jax.lax.stop_gradient((value, gradient))
    return value + tree_dot(gradient, deviations).astype(value.dtype)


def _scalar(value):
    if jnp.shape(value) != ():
        raise ValueError(
            f"`expectation_gradients` got an observable that reduces to shape {jnp.shape(value)}; wanted a scalar."
            f" Wrap it in"
            " one that reduces to the number you fit, or differentiate `expectation` itself."
        )
    return value
