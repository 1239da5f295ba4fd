from typing import TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ._batches import map_samples, replicate
from ._dynamics import Dynamics
from ._misc import tree_dot
from ._observable import AbstractObservable
from ._potential import AbstractPotential
from ._reweighting import AbstractReweighting, Boltzmann
from ._sampler import Samples
from ._statistics import effective_sample_size, infinitesimal_jackknife, standard_error_of_sum
from ._system import System

M = TypeVar("M", bound=PyTree)


class Estimate(eqx.Module):
    """An ensemble mean with its error."""

    value: PyTree[Array]
    """What the observable reduces to."""
    error: PyTree[Array]
    """Its standard error over independent samples, by the infinitesimal jackknife. Correlated samples make it too
    small."""
    effective_samples: Float[Array, ""]
    """Kish's effective sample size of the weights."""
    times: Float[Array, " frames"]
    """Of the frames, ps."""
    records: PyTree[Array]
    """What was recorded: leaves lead with `samples frames`."""
    weights: Float[Array, " samples"]
    """They sum to one."""


def expectation(
    observable: AbstractObservable,
    system: System,
    samples: Samples,
    *,
    reweighting: AbstractReweighting = Boltzmann(),
    dynamics: Dynamics | None = None,
    thermodynamic: bool = True,
    dynamical: bool = True,
    throw: bool = True,
) -> Estimate:
    """The mean of an observable in the ensemble of `system`, from samples of a nearby one.

    ⟨A⟩ = Σ_i w_i(θ) A(trajectory from x_i; θ). Its gradient with respect to `system` has two parts: the thermodynamic
    one, through the weights, and the dynamical one, through the trajectories (or, without dynamics, through what is
    recorded); each is left out by setting its argument to `False`, which does not change the value.

    **Arguments:** `dynamics`, how to run trajectories from the samples' positions and velocities; without it, the
    samples themselves are single frames. In micro-batches and over many devices if the dynamics is: everything in the
    result is then on every device and process. `throw`, as for `nve`.

    **Errors:** as of `nve`.
    """
    weights = jax.nn.softmax(_log_weights(reweighting, system, samples, dynamics))
    if not thermodynamic:
        weights = jax.lax.stop_gradient(weights)
    moving = system if dynamical else _frozen(system)
    times, records = _run(observable, moving, samples.states, dynamics, throw)
    value = observable.reduce(times, records, weights)
    error = _error(observable, times, records, weights)
    estimate = Estimate(value, error, effective_sample_size(weights), times, records, weights)
    return replicate(estimate, None if dynamics is None else dynamics.mesh)


class Gradients(eqx.Module):
    """The two parts of the gradient of an ensemble mean, each with its standard error; trees like the potential."""

    thermodynamic: AbstractPotential
    thermodynamic_error: AbstractPotential
    dynamical: AbstractPotential
    dynamical_error: AbstractPotential
    """NaN where it is not known: in reverse mode, unless what is measured is a mean over samples."""
    thermodynamic_samples: AbstractPotential | None = None
    """What every sample contributes, if asked for: leaves lead with `samples`, and their sum is `thermodynamic`."""
    dynamical_samples: AbstractPotential | None = None
    """The same of `dynamical`."""

    @property
    def total(self) -> AbstractPotential:
        """The sum of both."""
        return jax.tree.map(jnp.add, self.thermodynamic, self.dynamical)


def expectation_gradients(
    observable: AbstractObservable,
    system: System,
    samples: Samples,
    *,
    reweighting: AbstractReweighting = Boltzmann(),
    dynamics: Dynamics | None = None,
    keep_samples: bool = False,
    throw: bool = True,
) -> tuple[Estimate, Gradients]:
    """An ensemble mean, and both parts of its gradient with respect to the potential with the standard error of each.

    The parts add up to `jax.grad` of `expectation`. They are computed sample by sample in one pass, each sample with
    its own copy of the parameters: for large models that is memory for as many copies. To train on the result, see
    `linearize`. With `dynamics` of `rv.ForwardMode()` one tangent is carried along for every scalar parameter instead:
    for a few parameters cheaper than going back, and without rounding that grows on the way back.

    Errors are by the infinitesimal jackknife. Where the observable is not a mean over samples, as a squared deviation
    is not, that of the dynamical part takes the derivatives of all records. Reverse mode has those of one sum only, and
    the error is NaN then; `rv.ForwardMode()` knows it.

    **Arguments:** as of `expectation`. `keep_samples`, whether to keep what every sample contributes, to study the
    noise of the gradient.

    **Errors:** `ValueError` unless the observable reduces to a scalar; as of `nve`.
    """
    parameters = eqx.filter(system.potential, eqx.is_inexact_array)
    forward = dynamics is not None and isinstance(dynamics.adjoint, diffrax.ForwardMode)
    parts_by = _forward_parts if forward else _reverse_parts
    times, value, records, weights, parts, errors = parts_by(
        parameters, observable, system, samples, reweighting, dynamics, throw
    )
    thermodynamic, dynamical = parts
    gradients = Gradients(
        _total(thermodynamic),
        errors[0],
        _total(dynamical),
        errors[1],
        thermodynamic if keep_samples else None,
        dynamical if keep_samples else None,
    )
    error = _error(observable, times, records, weights)
    estimate = Estimate(value, error, effective_sample_size(weights), times, records, weights)
    return replicate((estimate, gradients), None if dynamics is None else dynamics.mesh)


def _reverse_parts(parameters, observable, system, samples, reweighting, dynamics, throw):
    """The contributions of all samples to both parts, as trees whose leaves lead with `samples`: in reverse mode."""
    n = samples.energies.shape[0]
    copies = jax.tree.map(lambda p: jnp.broadcast_to(p, (n, *p.shape)), parameters)
    log_weights, pull_weights = jax.vjp(
        lambda copies: _log_weights(reweighting, system, samples, dynamics, copies), copies
    )
    weights = jax.nn.softmax(log_weights)

    def run(copies):
        times, records = _run(observable, system, samples.states, dynamics, throw, copies)
        return records, times

    records, pull_records, times = jax.vjp(run, copies, has_aux=True)
    value, slopes, records_bar = slopes_of(observable, times, records, weights)
    (dynamical,) = pull_records(records_bar)
    (sensitivities,) = pull_weights(jnp.ones(n, log_weights.dtype))
    thermodynamic = jax.tree.map(lambda b: covariances(weights, slopes, b), sensitivities)
    part = thermodynamic_part(observable, times, records, sensitivities)
    errors = infinitesimal_jackknife(part, weights), _dynamical_error(observable, times, records, weights, dynamical)
    return times, value, records, weights, (thermodynamic, dynamical), errors


def _forward_parts(parameters, observable, system, samples, reweighting, dynamics, throw):
    """The same in forward mode, with one tangent for every scalar parameter."""
    flat, unravel = ravel_pytree(parameters)
    moved = lambda p: _with_parameters(system, unravel(p))
    run = lambda p: run_all(observable, moved(p), samples, reweighting, dynamics, throw)
    (log_weights, records), (sensitivities, tangents), times = along(run, flat, jnp.eye(flat.size, dtype=flat.dtype))
    weights = jax.nn.softmax(log_weights)
    value, slopes, records_bar = slopes_of(observable, times, records, weights)
    thermodynamic = covariances(weights, slopes, sensitivities.T)
    dynamical = jax.vmap(lambda tangent: jax.vmap(tree_dot)(records_bar, tangent), out_axes=1)(tangents)
    split = jax.vmap(unravel)
    errors = tuple(
        unravel(infinitesimal_jackknife(part, weights))
        for part in (
            thermodynamic_part(observable, times, records, sensitivities.T),
            dynamical_part(observable, times, records, tangents),
        )
    )
    return times, value, records, weights, (split(thermodynamic), split(dynamical)), errors


def run_all(observable, system, samples, reweighting, dynamics, throw):
    """Logarithms of the weights and records of all samples, and the times of the frames."""
    log_weights = _log_weights(reweighting, system, samples, dynamics)
    times, records = _run(observable, system, samples.states, dynamics, throw)
    return (log_weights, records), times


def along(function, x, directions):
    """`function(x)`, which returns a tree and something constant, with its derivatives along all `directions`."""
    one = lambda direction: jax.jvp(function, (x,), (direction,), has_aux=True)
    return jax.vmap(one, out_axes=(None, 0, None))(directions)


def slopes_of(observable, times, records, weights):
    """What the observable reduces to, and its derivatives with respect to the weights and the records."""
    value, (slopes, records_bar) = jax.value_and_grad(
        lambda w, r: _scalar(observable.reduce(times, r, w)), argnums=(0, 1)
    )(weights, records)
    return value, slopes, records_bar


def covariances(weights, slopes, sensitivities):
    """Contributions to the thermodynamic part, from derivatives of the logarithms of weights, `samples *shape`."""
    influence = weights * (slopes - jnp.sum(weights * slopes))
    mean = jnp.tensordot(weights, sensitivities, axes=1, precision=jax.lax.Precision.HIGHEST)
    # centered, which changes no sum but makes the parts those of a covariance
    return _column(influence, sensitivities) * (sensitivities - mean)


def thermodynamic_part(observable, times, records, sensitivities):
    """The gradient through the weights, as a function of these, from derivatives of their logarithms, `samples …`."""

    def part(weights):
        slopes = jax.grad(lambda w: observable.reduce(times, records, w))(weights)
        return _total(jax.tree.map(lambda b: covariances(weights, slopes, b), sensitivities))

    return part


def dynamical_part(observable, times, records, tangents):
    """The gradient through the records, as a function of the weights, from their derivatives, `params samples …`."""

    def part(weights):
        reduce = lambda r: observable.reduce(times, r, weights)
        return jax.vmap(lambda tangent: jax.jvp(reduce, (records,), (tangent,))[1])(tangents)

    return part


def _dynamical_error(observable, times, records, weights, parts):
    """From the contributions of all samples: right if none depends on the records of another sample, else NaN."""
    known = _is_mean_over_samples(observable, times, records, weights)

    def error(x):
        deviations = x - _column(weights, x) * jnp.sum(x, axis=0)
        return jnp.where(known, standard_error_of_sum(deviations), jnp.nan)

    return jax.tree.map(error, parts)


def _is_mean_over_samples(observable, times, records, weights):
    """Whether the derivative by the records of a sample, over its weight, stays when the other weights change."""
    slope = lambda w: jax.grad(lambda r: observable.reduce(times, r, w))(records)
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


def _run(observable, system, states, dynamics, throw, copies=None):
    """Times and records of the trajectories from all samples; without dynamics, each sample as its only frame.

    `copies` of the potential's parameters, one for each sample, take their place.
    """
    if dynamics is not None and (dynamics.batch is not None or dynamics.mesh is not None):
        trajectory = dynamics.run_many(system, states, observable.record, copies=copies, throw=throw)
        return trajectory.times, trajectory.records

    def one(state, copy):
        moved = _with_parameters(system, copy)
        if dynamics is None:
            records = observable.record(moved, state, state)
            return jnp.zeros(1, state.positions.dtype), jax.tree.map(lambda r: jnp.asarray(r)[None], records)
        trajectory = dynamics.run(moved, state, observable.record, throw=throw)
        return trajectory.times, trajectory.records

    return jax.vmap(one, out_axes=(None, 0))(states, copies)


def _log_weights(reweighting, system, samples, dynamics, copies=None):
    """Of all samples, in the parts the dynamics runs in; each with its own `copies` of the parameters if there are."""
    batch, mesh = (None, None) if dynamics is None else (dynamics.batch, dynamics.mesh)
    if copies is None and batch is None and mesh is None:
        return reweighting.log_weights(system, samples)
    shared = (reweighting, system, samples.temperature, samples.last)
    own = (samples.states, samples.energies, copies)
    return replicate(map_samples(_log_weight, shared, own, batch=batch, mesh=mesh), mesh)


def _log_weight(shared, sample):
    reweighting, system, temperature, last = shared
    state, energy, copy = sample
    # a batch of one: all samples share temperature and last states
    one = Samples(jax.tree.map(lambda x: x[None], state), energy[None], temperature, last)
    return reweighting.log_weights(_with_parameters(system, copy), one)[0]


def _with_parameters(system, copy):
    if copy is None:
        return system
    return eqx.tree_at(lambda s: s.potential, system, eqx.combine(copy, system.potential))


def _frozen(system):
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, system)


def _error(observable, times, records, weights):
    times, records, weights = jax.lax.stop_gradient((times, records, weights))
    return infinitesimal_jackknife(lambda w: observable.reduce(times, records, w), weights)


def _scalar(value):
    if jnp.shape(value) != ():
        raise ValueError(
            f"`expectation_gradients` got an observable that reduces to shape {jnp.shape(value)}; wanted a scalar."
            f" Wrap it in"
            " one that reduces to the number you fit, or differentiate `expectation` itself."
        )
    return value
