from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._batches import map_samples, replicate
from ._dynamics import NVE
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
    dynamics: NVE | None = None,
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
    dynamics: NVE | None = None,
    throw: bool = True,
) -> tuple[Estimate, Gradients]:
    """An ensemble mean, and both parts of its gradient with respect to the potential with the standard error of each.

    The parts add up to `jax.grad` of `expectation`. They are computed sample by sample in one pass, each sample with
    its own copy of the parameters: for large models that is memory for as many copies. To train on the result, see
    `linearize`.

    **Errors:** `ValueError` unless the observable reduces to a scalar; as of `nve`.
    """
    n = samples.energies.shape[0]
    parameters = eqx.filter(system.potential, eqx.is_inexact_array)
    copies = jax.tree.map(lambda p: jnp.broadcast_to(p, (n, *p.shape)), parameters)

    log_weights, pull_weights = jax.vjp(
        lambda copies: _log_weights(reweighting, system, samples, dynamics, copies), copies
    )
    weights = jax.nn.softmax(log_weights)

    def run(copies):
        times, records = _run(observable, system, samples.states, dynamics, throw, copies)
        return records, times

    records, pull_records, times = jax.vjp(run, copies, has_aux=True)
    value, (slopes, records_bar) = jax.value_and_grad(
        lambda w, r: _scalar(observable.reduce(times, r, w)), argnums=(0, 1)
    )(weights, records)

    mean = lambda x: jnp.tensordot(weights, x, axes=1, precision=jax.lax.Precision.HIGHEST)
    column = lambda w, x: jnp.expand_dims(w, tuple(range(1, x.ndim)))
    error_of = lambda parts: standard_error_of_sum(parts - column(weights, parts) * jnp.sum(parts, axis=0))
    (dynamical,) = pull_records(records_bar)
    (sensitivities,) = pull_weights(jnp.ones(n, log_weights.dtype))
    influence = weights * (slopes - jnp.sum(weights * slopes))
    # centered, which changes no sum but makes the parts those of a covariance
    thermodynamic = jax.tree.map(lambda b: column(influence, b) * (b - mean(b)), sensitivities)
    total = lambda tree: jax.tree.map(lambda x: jnp.sum(x, axis=0), tree)
    gradients = Gradients(
        total(thermodynamic), jax.tree.map(error_of, thermodynamic), total(dynamical), jax.tree.map(error_of, dynamical)
    )
    error = _error(observable, times, records, weights)
    estimate = Estimate(value, error, effective_sample_size(weights), times, records, weights)
    return replicate((estimate, gradients), None if dynamics is None else dynamics.mesh)


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
    return (
        eqx.tree_at(lambda s: s.potential, system, eqx.combine(copy, system.potential)) if copy is not None else system
    )


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
