"""Gradients of means over Langevin trajectories, by estimators that do not explode."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._batches import map_samples
from ._ensemble import AbstractEnsemble
from ._expectation import Measurement
from ._fields import function
from ._gradients import along, dynamical_error, dynamical_part, slopes_of
from ._langevin_paths import AbstractCredit, AbstractFeedback, AllNoise, LangevinPaths, run_path
from ._misc import require_flag, require_instance, require_key, tree_dot
from ._observable import AbstractObservable
from ._sampler import Samples
from ._solver import VelocityVerlet
from ._state import State, relative_to_center_of_mass
from ._statistics import infinitesimal_jackknife, weighted_mean
from ._system import Surfaces, System
from ._timeseries import Times
from ._verdict import raise_if

_MOST_TANGENTS = 32


class VelocityProducts(eqx.Module):
    """v(0)·v(t) of every atom, nm²/ps², without the motion of the center of mass."""

    def __call__(self, system: System, state: State, initial: State) -> Float[Array, " atoms"]:
        own = lambda s: relative_to_center_of_mass(system.topology, s.velocities)
        return jnp.sum(own(state) * own(initial), axis=1)


class Atomwise(AbstractObservable):
    """An observable that records a mean over atoms, with what every atom has to it: for credit to an atom's own noise.

        rv.langevin.Atomwise(rv.SelfDiffusion(), rv.langevin.VelocityProducts())

    **Arguments:** `observable`, whose `reduce` takes means over atoms; `of_atoms(system, state, initial)`, whose arrays
    lead with `atoms` and whose mean over these is what it records.
    """

    observable: AbstractObservable
    of_atoms: Callable[[System, State, State], PyTree[Array]] = function("`rv.langevin.VelocityProducts()`")

    def record(self, system, state, initial):
        return self.of_atoms(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        means = jax.tree.map(lambda r: jnp.mean(r, axis=2), records)
        return self.observable.reduce(times, means, weights, ensemble)


class PathGradient(eqx.Module):
    """A mean over Langevin trajectories and its gradient: see `path_gradient`."""

    times: Times
    """Of the frames, ps."""
    value: Float[Array, ""]
    """Of the observable."""
    value_error: Float[Array, ""]
    """Its standard error."""
    gradient: Surfaces
    """The derivative of the value, a tree like `System.surfaces`."""
    gradient_error: Surfaces
    """Its standard error; NaN where it is not known: in reverse mode, unless the value is a mean over samples."""
    contributions: Surfaces
    """What every sample contributes to the gradient: leaves lead with `samples`."""


class PathTangents(eqx.Module):
    """Records of Langevin trajectories and their derivatives, to be reduced over any part of the frames."""

    times: Times
    """Of the frames, ps."""
    records: PyTree
    """Leaves lead with `samples frames`."""
    tangents: PyTree
    """The derivative of the mean of every record, sample by sample: what the trajectory says, and what the weights of
    the noise do. Leaves lead with `parameters samples frames`."""


def path_gradient(
    observable: AbstractObservable,
    system: System,
    samples: Samples,
    paths: LangevinPaths,
    feedback: AbstractFeedback,
    credit: AbstractCredit = AllNoise(),
    *,
    ensemble: AbstractEnsemble | None = None,
    forward: bool = False,
    throw: bool = True,
    key: PRNGKeyArray,
) -> PathGradient:
    """The mean of an observable over Langevin trajectories, and its dynamical gradient.

    d⟨Φ⟩/dθ = ⟨Φ'·δ + ∂Φ/∂θ⟩ + ⟨(Φ - b) Σ u·ξ/s⟩, of every record by itself, with the noise before it: δ is the
    derivative of the trajectory under the `feedback` u, b the mean of the other samples. With `AllNoise()` without a
    window it is right on average whatever the feedback; with less credit it is biased.

    The samples stay where they are: this is the dynamical part alone, at fixed starts. It needs no
    `rv.controls`, which bias. The guide "Which gradient should I use?" compares.

    **Arguments:**

    - `observable`: reduces to a scalar, and looks at means of its records over samples only, as time correlations
      from a fixed origin do. One that multiplies records of a sample, as `InfraredSpectrum` with its many origins, has
      to record the products.
    - `forward`: carry a tangent for every scalar parameter, up to 32; else go back, in the memory of the frames, with
      the steps between them run again. Both give the same numbers.
    - `throw`: as for `nve`.

    **Errors:** `ValueError` for an observable that is no scalar, records without atoms where credit is to atoms, too
    many parameters; `SimulationError` where the trajectories explode, and for observables of other than means.
    """
    require_flag("forward", forward)
    measurement = _measurement(observable, system, samples, paths, feedback, credit, ensemble, throw, key)
    parameters = eqx.filter(system.surfaces, eqx.is_inexact_array)
    if forward:
        _require_few(parameters)
    run = lambda copies: _run(measurement, system, paths, feedback, credit, copies, throw, key)
    times, weights = paths.times(samples.states.positions.dtype), _weights(measurement, system)
    reduce = lambda r, w: measurement.reduce(times, r, w)
    if forward:
        records, tangents, unravel = _tangents(run, weights, parameters, len(samples))
        value, _, bar = slopes_of(reduce, records, weights)
        parts = jax.vmap(lambda t: jax.vmap(tree_dot)(bar, t), out_axes=1)(tangents)
        error = infinitesimal_jackknife(dynamical_part(reduce, records, tangents), weights, samples.error_of_sum)
        contributions, error = jax.vmap(unravel)(parts), unravel(error)
    else:
        (records, scores), pull = jax.vjp(run, _copies(parameters, len(samples)))
        value, _, bar = slopes_of(reduce, records, weights)
        (contributions,) = pull((bar, _score_slopes(bar, _less_baseline(records, weights), scores)))
        error = dynamical_error(reduce, records, weights, contributions, samples.error_of_sum)
    value_error = infinitesimal_jackknife(lambda w: reduce(records, w), weights, samples.error_of_sum)
    if throw:
        value = _of_means(reduce, records, weights, value, value_error)
    gradient = jax.tree.map(lambda x: jnp.sum(x, axis=0), contributions)
    return PathGradient(times, value, value_error, gradient, error, contributions)


def path_tangents(
    observable: AbstractObservable,
    system: System,
    samples: Samples,
    paths: LangevinPaths,
    feedback: AbstractFeedback,
    credit: AbstractCredit = AllNoise(),
    *,
    throw: bool = True,
    key: PRNGKeyArray,
) -> PathTangents:
    """What `path_gradient` reduces in forward mode, before it is reduced: to look at every horizon at once.

    Along a mean of records every derivative is the mean of `tangents` over samples.

    **Arguments:** as for `path_gradient`; the observable need not be a scalar.

    **Errors:** as for `path_gradient`.
    """
    measurement = _measurement(observable, system, samples, paths, feedback, credit, None, throw, key)
    parameters = eqx.filter(system.surfaces, eqx.is_inexact_array)
    _require_few(parameters)
    run = lambda copies: _run(measurement, system, paths, feedback, credit, copies, throw, key)
    records, tangents, _ = _tangents(run, _weights(measurement, system), parameters, len(samples))
    return PathTangents(paths.times(samples.states.positions.dtype), records, tangents)


def _measurement(observable, system, samples, paths, feedback, credit, ensemble, throw, key):
    require_instance("system", system, System)
    require_instance("paths", paths, LangevinPaths)
    require_instance("feedback", feedback, AbstractFeedback)
    require_instance("credit", credit, AbstractCredit)
    require_flag("throw", throw)
    require_key("key", key)
    require_instance("observable", observable, AbstractObservable)
    return Measurement.of(observable, samples, ensemble, None, paths.batch, None, throw)


def _require_few(parameters):
    size = sum(x.size for x in jax.tree.leaves(parameters))
    if not 1 <= size <= _MOST_TANGENTS:
        raise ValueError(
            f"The surfaces have {size} parameters; wanted 1 to {_MOST_TANGENTS} in forward mode, which carries a"
            " tangent for each. For more, `forward=False`."
        )


def _weights(measurement, system):
    return jax.lax.stop_gradient(jax.nn.softmax(measurement.log_weights(system)))


def _copies(parameters, n):
    return jax.tree.map(lambda p: jnp.broadcast_to(p, (n, *p.shape)), parameters)


def _run(measurement, system, paths, feedback, credit, copies, throw, key):
    """Records and weights of the noise of all samples, with the parameters of every one."""
    states = measurement.samples.states
    if throw:
        states = system.check_shape_and_cutoff(states)
    keys = jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(len(measurement.samples)))
    shared = (paths, feedback, credit, system, measurement.observable.record)
    records, scores, health = map_samples(run_path, shared, (states, copies, keys), batch=paths.batch)
    every = paths.save_every * paths.dt.astype(scores.dtype)
    scores = jax.vmap(lambda s: credit.windowed(s, every))(scores)
    if scores.ndim == 3:
        _require_atoms(records, scores)
    if not throw:
        return records, scores
    return health.require(system.search, states, VelocityVerlet(), paths.dt, paths.save_every, guard=(records, scores))


def _tangents(run, weights, parameters, n):
    """Records, their derivatives by every parameter with what the weights add, and what makes trees of parameters."""
    flat, unravel = ravel_pytree(parameters)
    moved = lambda p: (run(_copies(unravel(p), n)), None)
    (records, _), (tangents, scores), _ = along(moved, flat, jnp.eye(flat.size, dtype=flat.dtype))
    deviations = _less_baseline(records, weights)
    add = lambda t, d: t + d * jnp.expand_dims(scores, tuple(range(scores.ndim, t.ndim)))
    return records, jax.tree.map(add, tangents, deviations), unravel


def _less_baseline(records, weights):
    """Records less the mean of those of the other samples, which know nothing of the noise of this."""

    def less(r):
        w = jnp.expand_dims(weights, tuple(range(1, r.ndim)))
        # alone, a sample has nothing to compare with
        rest = jnp.where(w < 1, 1 - w, 1)
        return r - (jnp.sum(w * r, axis=0) - w * r) / rest

    return jax.tree.map(less, records)


def _score_slopes(bar, deviations, like):
    """The derivative of the value by the weights of the noise."""
    own = lambda b, d: jnp.sum(b * d, axis=tuple(range(like.ndim, b.ndim)))
    return sum(jax.tree.leaves(jax.tree.map(own, bar, deviations)), jnp.zeros_like(like))


def _require_atoms(records, scores):
    for leaf in jax.tree.leaves(records):
        if leaf.shape[:3] != scores.shape:
            raise ValueError(
                f"`credit` is to atoms, but what is recorded has shape {leaf.shape[2:]}; wanted arrays that lead with"
                f" the {scores.shape[2]} atoms, such as `rv.langevin.Atomwise(rv.SelfDiffusion(),"
                " rv.langevin.VelocityProducts())`, or `rv.langevin.AllNoise()`."
            )


def _of_means(reduce, records, weights, value, error):
    """`value`, unless it changes where every sample has the mean of all for its records."""
    means = jax.tree.map(lambda r: jnp.broadcast_to(weighted_mean(weights, r), r.shape), records)
    other = reduce(means, weights)
    # rounding is far less; what a product of records adds is of the order of their variance, error times sqrt(n)
    apart = jnp.abs(other - value) > 1e-3 * (jnp.abs(value) + jnp.abs(other)) + 0.1 * error
    return raise_if(apart & jnp.isfinite(error), _describe_products, value, other, guard=value)


def _describe_products(value, other):
    return (
        f"The observable is {float(np.asarray(value)):.6g}, and {float(np.asarray(other)):.6g} of the means of its"
        " records: it looks at more than these. Wanted one that records the products it takes means of, such as"
        " correlations from a fixed origin."
    )
