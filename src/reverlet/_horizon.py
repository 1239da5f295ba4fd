import dataclasses
from collections.abc import Sequence

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from ._batches import map_samples, replicate
from ._dynamics import Dynamics, nve
from ._ensemble import AbstractEnsemble
from ._expectation import Measurement
from ._gradients import along, dynamical_part, slopes_of, thermodynamic_part
from ._misc import (
    require_count,
    require_flag,
    require_instance,
    require_key,
    require_number,
    require_positive,
    tree_dot,
)
from ._observable import VACF, AbstractObservable, Joint
from ._sampler import Samples
from ._state import State
from ._statistics import infinitesimal_jackknife, weighted_mean
from ._system import Surfaces, System

_MOST_DIRECTIONS = 32


class GradientHorizon(eqx.Module):
    """How gradient, noise, correlation and chaos change with the length of trajectories: see `gradient_horizon`."""

    horizons: Float[Array, " horizons"]
    """The lengths of trajectories compared, ps."""
    value: Float[Array, " horizons"]
    """Of the observable."""
    value_error: Float[Array, " horizons"]
    """Its standard error."""
    gradient: Float[Array, "horizons directions"]
    """The derivative of the value along every direction: those of `jax.grad` of `expectation` at that length."""
    gradient_error: Float[Array, "horizons directions"]
    """Its standard error."""
    names: tuple[str, ...] = eqx.field(static=True)
    """Of the directions: where in the surfaces of the system the parameter is."""
    times: Float[Array, " frames"]
    """Of the correlation function, ps."""
    correlation: Float[Array, " frames"]
    """Divided by its value at time zero."""
    correlation_error: Float[Array, " frames"]
    """Its standard error."""
    decay: Float[Array, ""]
    """When the correlation function has decayed, ps; infinite where it has not within the longest horizon."""
    settled: Float[Array, ""]
    """The first horizon after which the value changes no more than its noise, ps; the longest where none is."""
    growth: Float[Array, " horizons"]
    """The mean logarithm of how much a small random perturbation has grown."""
    growth_error: Float[Array, " horizons"]
    """Its standard error."""
    lyapunov: Float[Array, ""]
    """The largest Lyapunov exponent, 1/ps."""
    lyapunov_error: Float[Array, ""]
    """Its standard error."""
    proposed: Float[Array, ""]
    """The horizon to use, ps; NaN where the signal is too weak at all of them."""

    @property
    def signal_to_noise(self) -> Float[Array, "horizons directions"]:
        """The size of the gradient over its standard error."""
        return jnp.abs(self.gradient) / self.gradient_error


def gradient_horizon(
    observable: AbstractObservable,
    system: System,
    samples: Samples,
    dynamics: Dynamics,
    *,
    directions: Sequence[Surfaces] | None = None,
    correlation: AbstractObservable = VACF(),
    ensemble: AbstractEnsemble | None = None,
    thermodynamic: bool = False,
    num_horizons: int = 20,
    threshold: float = 3.0,
    tail: float = 0.02,
    beyond: float = 2.0,
    throw: bool = True,
    key: PRNGKeyArray,
) -> GradientHorizon:
    """How long trajectories should be for the gradient of an ensemble mean to be more signal than noise.

    The noise of the gradient through a chaotic trajectory grows like exp(λt), λ the largest Lyapunov exponent, while
    the correlation functions that properties are made of decay. One run in forward mode gives the derivatives of all
    records, and from them those of the observable over the first part of the trajectory, for every length at once: time
    and memory are those of one run of a tangent for each direction, and of one more for the exponent.

    Proposed is the largest horizon at which the signal-to-noise ratio is at least `threshold` in every direction and
    which is at most `beyond` times the time when the correlation function has decayed and the value has settled. It has
    decayed after the last frame at which its size is, by two standard errors, more than `tail` times that at time zero.
    The value has settled at the first horizon from which on no longer horizon changes it by `threshold` standard errors
    of the change. A proposed horizon shorter than either means a biased property, or more samples: the ratio grows with
    the square root of their number. The noise is that of the gradient with all its cotangents: controls of
    `dynamics.adjoint` are left out.

    Beyond the horizon, `rv.langevin.path_gradient` is one way; the guide "Which gradient should I use?" compares all.

    **Arguments:**

    - `observable`: must reduce to a scalar, over any number of frames. `samples`: at least two, independent.
    - `dynamics`: the longest trajectories; with both directions of time, horizons are cut from both ends.
    - `directions`: trees like `System.surfaces` to differentiate along; by default every scalar parameter, up to 32:
      models with more need directions, such as that of a gradient or a random one. A direction along which the
      derivative vanishes by symmetry never has a signal: leave it out.
    - `correlation`: reduces to one number per frame, at time zero not zero.
    - `thermodynamic`: whether to add the thermodynamic part of the gradient, through the weights.
    - `num_horizons`: how many, at equal distances; must divide the number of frames after the first.
    - `key`: of the random perturbations. The exponent is the slope of their growth over the second half of the time.

    **Errors:** `ValueError` for numbers and trees that do not fit; as for `nve`.

    **Reference:** B. Han and K. Yu, "Refining potential energy surface through dynamical properties via differentiable
    molecular simulation" (2025), for truncation; G. Benettin et al., Meccanica 15, 9 (1980), for the exponent.
    """
    require_instance("system", system, System)
    require_instance("observable", observable, AbstractObservable)
    require_instance("correlation", correlation, AbstractObservable)
    require_instance("samples", samples, Samples)
    require_instance("dynamics", dynamics, Dynamics)
    require_flag("thermodynamic", thermodynamic)
    require_key("key", key)
    num_frames = dynamics.num_steps // dynamics.save_every
    _check(samples, num_frames, num_horizons, threshold, tail, beyond)
    parameters, rest = eqx.partition(system.surfaces, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(parameters)
    names, vectors = _directions(parameters, directions)

    forward = dataclasses.replace(dynamics, adjoint=diffrax.ForwardMode())
    both = Measurement.of(Joint((observable, correlation)), samples, ensemble, forward, None, None, throw)

    def run(flat):
        return both.run_all(system.with_surfaces(eqx.combine(unravel(flat), rest)))

    (log_weights, records), (sensitivities, tangents), times = along(run, flat, vectors)
    weights = jax.nn.softmax(log_weights)
    (records, correlated), (tangents, _) = records, tangents
    middle = num_frames if dynamics.both_directions else 0

    each = num_frames // num_horizons
    lengths = tuple(each * k for k in range(1, num_horizons + 1))
    measured = dataclasses.replace(both, observable=observable)
    value, deviations, gradient, gradient_error = _all_lengths(
        measured, times, records, tangents, weights, sensitivities if thermodynamic else None, middle, lengths
    )
    horizons = times[middle:][each::each]
    settled = _settled(horizons, value, deviations, threshold, samples)

    measured = dataclasses.replace(both, observable=correlation)
    curve, curve_error = _correlation(measured, times, correlated, weights, middle)
    decay = _decay(times[middle:], curve, curve_error, tail)

    own = (samples.states, jax.random.split(key, len(weights)))
    shared = (system, dynamics, num_horizons)
    growth = map_samples(_growth, shared, own, batch=dynamics.batch, mesh=dynamics.mesh, reverse=False)
    growth = replicate(growth, dynamics.mesh)
    exponents = _exponents(horizons, growth)

    clear = jnp.all(jnp.abs(gradient) >= threshold * gradient_error, axis=1)
    clear &= horizons <= beyond * jnp.maximum(decay, settled)
    proposed = jnp.where(jnp.any(clear), jnp.max(jnp.where(clear, horizons, 0)), jnp.nan)
    return GradientHorizon(
        horizons=horizons,
        value=value,
        value_error=jax.vmap(samples.error_of_sum)(deviations),
        gradient=gradient,
        gradient_error=gradient_error,
        names=names,
        times=times[middle:],
        correlation=curve,
        correlation_error=curve_error,
        decay=decay,
        settled=settled,
        growth=weighted_mean(weights, growth),
        growth_error=_mean_error(samples, weights, growth),
        lyapunov=weighted_mean(weights, exponents),
        lyapunov_error=_mean_error(samples, weights, exponents),
        proposed=proposed,
    )


def _mean_error(samples, weights, values):
    return infinitesimal_jackknife(lambda w: weighted_mean(w, values), weights, samples.error_of_sum)


@eqx.filter_jit
def _all_lengths(measured, times, records, tangents, weights, sensitivities, middle, lengths):
    """The value, what every sample contributes to its deviation, and the gradient with its error, over `lengths` frames
    from the start, or from the middle in both directions."""

    def until(n):
        cut = lambda x, axis: jax.lax.slice_in_dim(x, max(middle - n, 0), middle + n + 1, axis=axis)
        part = jax.tree.map(lambda x: cut(x, 1), records)
        reduce = lambda r, w: measured.reduce(cut(times, 0), r, w)
        value, slopes, _ = slopes_of(reduce, part, weights)
        own = weights * (slopes - jnp.sum(weights * slopes))
        tangent = jax.tree.map(lambda x: cut(x, 2), tangents)
        dynamical = dynamical_part(reduce, part, tangent)
        if sensitivities is None:
            gradient = dynamical
        else:
            thermodynamic = thermodynamic_part(reduce, part, sensitivities.T)
            gradient = lambda w: dynamical(w) + thermodynamic(w)
        return (
            value,
            own,
            gradient(weights),
            infinitesimal_jackknife(gradient, weights, measured.samples.error_of_sum),
        )

    rows = [until(n) for n in lengths]
    return tuple(jnp.stack(column) for column in zip(*rows, strict=True))


def _correlation(measured, times, records, weights, middle):
    """The correlation function from time zero on, divided by its value there, and its standard error."""

    def normalized(weights):
        curve = measured.reduce(times, records, weights)
        if jnp.shape(curve) != times.shape:
            raise ValueError(
                f"`correlation` reduces to shape {jnp.shape(curve)}; wanted {times.shape}, one number per frame, as"
                " `rv.VACF()`."
            )
        return curve[middle:] / curve[middle]

    return normalized(weights), infinitesimal_jackknife(normalized, weights, measured.samples.error_of_sum)


def _decay(times, curve, error, tail):
    """The time of the frame after the last at which the curve is, by two standard errors, beyond `tail`."""
    last = jnp.max(jnp.where(jnp.abs(curve) - 2 * error > tail, jnp.arange(1, len(curve) + 1), 0))
    return jnp.where(last < len(curve), times[jnp.minimum(last, len(curve) - 1)], jnp.inf)


def _settled(horizons, value, own, threshold, samples):
    """The first horizon of which no later value differs by `threshold` standard errors of the difference."""

    def changes(k):
        error = jax.vmap(samples.error_of_sum)(own - own[k])
        later = jnp.arange(len(value)) > k
        return jnp.any(later & (jnp.abs(value - value[k]) > threshold * error))

    # one after the other: all pairs of lengths at once are many
    still = jax.lax.map(changes, jnp.arange(len(value)))  # never of the last
    return horizons[jnp.max(jnp.where(still, jnp.arange(1, len(value) + 1), 0))]


def _exponents(horizons, growth):
    """The slope of every sample's growth over the second half of the time."""
    late = slice(len(horizons) // 2 - 1, None)
    t = horizons[late] - jnp.mean(horizons[late])
    return jnp.sum(t * growth[:, late], axis=1) / jnp.sum(t**2)


def _growth(shared, sample):
    """The logarithm of how much a random perturbation of one configuration has grown after every segment.

    Made short again after each, so that no growth is too much for the floating point.
    """
    system, dynamics, num_segments = shared
    state, key = sample
    num_steps = dynamics.num_steps // num_segments

    def end(x, v):
        final = nve(
            system,
            State(x, v, state.box),
            dynamics.solver,
            dt=dynamics.dt,
            num_steps=num_steps,
            save_every=num_steps,
            record=_nothing,
            adjoint=diffrax.ForwardMode(),
            throw=False,
        ).final
        return final.positions, final.velocities

    def shorten(perturbation):
        norm = jnp.sqrt(tree_dot(perturbation, perturbation))
        return jax.tree.map(lambda d: d / norm, perturbation), jnp.log(norm)

    def segment(carry, _):
        y, perturbation = jax.jvp(end, *carry)
        perturbation, grown = shorten(perturbation)
        return (y, perturbation), grown

    x, v = state.positions, state.velocities
    perturbation, _ = shorten(tuple(jax.random.normal(k, x.shape, x.dtype) for k in jax.random.split(key)))
    _, grown = jax.lax.scan(segment, ((x, v), perturbation), None, num_segments)
    return jnp.cumsum(grown)


def _nothing(system, state, initial):
    del system, state, initial


def _directions(parameters, directions):
    """Names, and directions as the rows of a matrix."""
    flat, _ = ravel_pytree(parameters)
    if directions is not None:
        trees = [eqx.filter(d, eqx.is_inexact_array) for d in directions]
        shapes = lambda tree: jax.tree.map(jnp.shape, tree)
        if len(trees) == 0 or any(shapes(t) != shapes(parameters) for t in trees):
            raise ValueError(
                f"`directions` has {len(trees)} trees; wanted at least one, each with the arrays of the surfaces:"
                f" {shapes(parameters)}. A gradient, or `jax.tree.map(jnp.ones_like, system.surfaces)`, is one."
            )
        vectors = jnp.stack([ravel_pytree(t)[0].astype(flat.dtype) for t in trees])
        return tuple(f"direction {k}" for k in range(len(trees))), vectors
    if not 1 <= flat.size <= _MOST_DIRECTIONS:
        raise ValueError(
            f"The surfaces have {flat.size} parameters; wanted 1 to {_MOST_DIRECTIONS}, or `directions` to"
            " differentiate along: trees like `System.surfaces`."
        )
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        name = jax.tree_util.keystr(path).removeprefix(".")
        names += [name] if leaf.ndim == 0 else [f"{name}[{k}]" for k in range(leaf.size)]
    return tuple(names), jnp.eye(flat.size, dtype=flat.dtype)


def _check(samples, num_frames, num_horizons, threshold, tail, beyond):
    for name, value in (("threshold", threshold), ("tail", tail), ("beyond", beyond)):
        require_number(name, value)
    require_positive("threshold", threshold, "units of the standard error")
    require_positive("tail", tail, "units of the correlation at time zero")
    require_positive("beyond", beyond, "units of the decay time")
    require_count("num_horizons", num_horizons)
    if len(samples) < 2:
        raise ValueError(f"`samples` has {len(samples)}; wanted at least 2, of which a spread can be taken.")
    if num_horizons < 4 or num_frames % num_horizons != 0:
        fits = [k for k in range(4, num_frames + 1) if num_frames % k == 0]
        nearest = min(fits, key=lambda k: abs(k - num_horizons), default=None)
        raise ValueError(
            f"`num_horizons` is {num_horizons}; wanted at least 4, and a divisor of the {num_frames} frames after the"
            f" first of `dynamics`" + ("." if nearest is None else f", such as {nearest}.")
        )
