"""A model fitted to many targets at many state points, by reweighting."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray, PyTree

from ._ensemble import AbstractEnsemble
from ._expectation import Measurement
from ._fields import AbstractChecked
from ._fit import Fine, FitState, Moved, descend, step as optimizer_step
from ._gauss_newton import Curvature, GaussNewton
from ._misc import require_callable, require_count, require_instance, require_key
from ._per_parameter import Pick
from ._pools import blank
from ._residuals import AbstractLoss, LogPrior, Prior, SquaredLoss, prior_residuals
from ._sampler import AbstractSampler, CellMoves, Chains, Samples
from ._sensitivity import (
    Linearized,
    Wanted,
    linearized,
    parameter_names,
    parameter_values,
    sensitivity_table,
)
from ._state import State
from ._statistics import infinitesimal_jackknife
from ._target_draws import Carry, Draw
from ._target_report import MOST_DERIVATIVES, Prediction, TargetFit, TargetUpdate
from ._targets import StatePoint

M = TypeVar("M", bound=PyTree)


_PATIENCE = 3
"""How many steps of an optimizer, which has momentum, must be within their noise one after the other."""


class _Settings(AbstractChecked):
    """What else makes a fit what it is."""

    ensembles: tuple[AbstractEnsemble, ...]
    targets: Any
    loss: AbstractLoss
    priors: Any
    numbers: Any
    step: Any


def fit_targets(
    model: M,
    points: Sequence[StatePoint],
    sampler: Callable[[AbstractEnsemble], AbstractSampler] | Sequence[AbstractSampler],
    starts: Sequence[State],
    *,
    num_updates: int,
    num_samples: int,
    step: optax.GradientTransformation | GaussNewton = GaussNewton(),
    loss: AbstractLoss = SquaredLoss(),
    priors: Sequence[Prior | LogPrior] = (),
    equilibration: int = 10,
    least: float = 0.5,
    most_samples: int | None = None,
    share: bool = False,
    positive: Pick | None = None,
    trainable: Pick | None = None,
    callback: Callable[[FitState[M]], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: str | os.PathLike | None = None,
    accept_changes: bool = False,
    key: PRNGKeyArray,
) -> TargetFit[M]:
    """Fits the parameters of a model to targets at one or many state points; samples are used as long as they are worth
    something, and then drawn anew from where the chains are.

    Minimizes Σ ρ(z²) over all entries of targets and priors, z their deviation over the uncertainty; the entries of a
    target of many count together as one. In every update each state point has a `SamplePool`; where fewer than
    `least` of `num_samples` count at the current parameters (Kish), the chains run on: `equilibration` samples of each
    are thrown away, `num_samples` kept, and judged. Samples that drift are thrown away as equilibration, and where too
    few are independent as many again are added, twice at most.

    A fit ends, or draws twice as many samples up to `most_samples`, when its step is smaller than its own noise. With
    `GaussNewton` that is where the undamped step over its standard error, which comes from the errors of targets and
    gradients, is less than one as a root mean square over parameters; with Optax where the change of the loss along
    the step is less than its standard error in three updates running, which ends a fit of very many parameters late.

    **Arguments:**

    - `points`: at least one with targets; of differences of two phases the others are found by their names.
    - `sampler`: from an ensemble to a sampler, or one for every point.
    - `starts`: of every point, states whose leaves lead with `chains`.
    - `step`: `GaussNewton()` for few parameters, or an optimizer of Optax.
    - `num_updates`, `positive`, `trainable`, `callback`, `checkpoint`, `resume`, `accept_changes`: as `num_steps` and
      so on of `fit`. The checkpoint holds the samples.
    - `equilibration`: samples of each chain, thrown away whenever new ones are drawn.
    - `share`: whether points of equal systems and kinds of ensembles, such as those of an isobar, use each other's
      samples; every sample is then measured at every point.

    **Errors:** `ValueError` for names that are not known or not unique, for samples that stay without equilibrium or
    are too few, with the state point and what would help, and, with `GaussNewton`, for parameters that change nothing
    and have no prior; as for `fit`.
    """
    require_count("num_updates", num_updates)
    require_count("num_samples", num_samples)
    require_count("equilibration", equilibration, least=0)
    require_instance("step", step, optax.GradientTransformation | GaussNewton)
    require_instance("loss", loss, AbstractLoss)
    require_key("key", key)
    if not 0 < least <= 1:
        raise ValueError(f"`least` is {least}; wanted a part of the samples, more than 0 and at most 1.")
    if callback is not None:
        require_callable("callback", callback, "`lambda state: print(state.step)`")
    wanted, moved = Wanted.of(points), Moved.of(model, positive, trainable)
    starts, samplers = tuple(starts), _samplers(sampler, wanted.points)
    if len(starts) != len(wanted.points):
        raise ValueError(f"`starts` are {len(starts)}, and `points` {len(wanted.points)}; wanted states for each.")
    most = num_samples if most_samples is None else most_samples
    if most < num_samples:
        raise ValueError(f"`most_samples` is {most}; wanted at least `num_samples`, which is {num_samples}.")
    pools = _groups(wanted.points, model, starts) if share else tuple(range(len(starts)))
    draw = Draw(wanted.points, samplers, pools, equilibration, least)
    task = _Task(wanted, moved, pools, loss, tuple(priors), draw, most)
    own = _multiples(num_samples, starts)
    carry = Carry((None,) * (max(pools) + 1), tuple(map(Chains, starts)), own, np.zeros((), int))
    if isinstance(step, GaussNewton):
        optimizer, update = step.transformation, functools.partial(_newton_update, task, step)
    else:
        optimizer, update = step, functools.partial(_optax_update, task, step)
    settings = _Settings(
        tuple(p.ensemble for p in wanted.points),
        tuple((t.value, t.error) for t in wanted.targets),
        loss,
        tuple(priors),
        np.array([num_samples, equilibration, least, most, share], float),
        step if isinstance(step, GaussNewton) else None,
    )  # pyright: ignore[reportCallIssue]
    state = descend(
        update,
        moved,
        optimizer,
        carry,
        _report(wanted, None),
        num_steps=num_updates,
        key=key,
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
        accept_changes=accept_changes,
        # numbers of NumPy are told by their values, those of JAX by their shapes
        beside=jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, settings),
        ended=lambda state: state.history is not None and bool(state.history.ended[-1]),
        grow=lambda names: _grown(names, wanted.points, model, starts, pools, carry),
    )
    return _result(task, state, key)


class _Task(eqx.Module):
    wanted: Wanted
    moved: Moved
    pools: tuple[int, ...]
    loss: AbstractLoss
    priors: tuple
    draw: Draw
    most: int

    def prior(self, flat: np.ndarray, unravel) -> tuple[np.ndarray, np.ndarray]:
        """Residuals of the priors and their derivatives."""
        of = lambda p: prior_residuals(self.priors, self.moved.to_model(unravel(p)))
        x = jnp.asarray(flat)
        return np.asarray(of(x), float), np.asarray(jax.jacfwd(of)(x), float).reshape(-1, x.size)

    def cost(self, residuals, priors) -> float:
        """The loss."""
        return float(np.sum(np.asarray(self.loss.cost(jnp.asarray(residuals) ** 2), float)) + np.sum(priors**2))


def _values_at(point, joint, moved, parameters, samples, weights):
    """What is measured with known weights: no energy is evaluated."""
    # as in `slopes_at`
    return _values_of(point.system, point.ensemble, point.dynamics, joint, moved, parameters, samples, weights)


@eqx.filter_jit
def _values_of(system, ensemble, dynamics, joint, moved, parameters, samples, weights):
    measurement = Measurement.of(joint, samples, ensemble, dynamics, None, None, True)
    return measurement.reduce(*measurement.run(system(moved.to_model(parameters))), weights)


def _newton_update(task: _Task, newton: GaussNewton, parameters, optimizer_state, carry, key):
    model = task.moved.to_model(parameters)
    carry, drawn = task.draw.ready(model, carry, key)
    samples = task.draw.samples(carry.pools)
    found = linearized(task.wanted, task.moved, parameters, samples, task.pools)
    flat, unravel = ravel_pytree(parameters)
    priors, prior_jacobian = task.prior(np.asarray(flat), unravel)
    _refuse_idle(parameters, found, prior_jacobian)
    value = task.cost(found.residuals, priors)
    curvature = Curvature.of(found, task.loss, priors, prior_jacobian)
    ratio = curvature.step_over_noise(found)
    carry, ended = _lengthened(task, carry, ratio, 1)
    report = _report(task.wanted, (value, task.wanted.values(found.values), task.draw.fitness(carry.pools),
                                   carry, task.pools, drawn, ratio, ended))  # fmt: skip
    damping, taken = float(optimizer_state[0]), jnp.asarray(flat)
    for _ in range(newton.attempts):
        trial = flat + jnp.asarray(curvature.step(damping), flat.dtype)
        tried = _tried(task, carry, unravel(trial), samples, value)
        if tried is not None:
            damping, taken, carry = max(damping / 3, 1e-9), trial, tried
            break
        damping = min(4 * max(damping, 1e-3), 1e9)
    after, state = unravel(taken), (jnp.asarray(damping, optimizer_state[0].dtype),)
    fine = Fine.of(task.moved, jnp.asarray(value), jnp.asarray(curvature.gradient), after, (None, None), (None, None))
    return after, state, carry, report, jnp.asarray(value), fine


def _tried(task, carry, parameters, samples, value):
    """The pools at other parameters, if the loss is less there and they are still worth something."""
    model = task.moved.to_model(parameters)
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))):
        return None
    pools = tuple(pool.at(model) for pool in carry.pools)
    # half of what is wanted there: with less, the next update draws anew anyway
    sizes = [f.effective_samples for f in task.draw.fitness(pools)]
    if any(not s >= task.draw.least * n / 2 for s, n in zip(sizes, carry.wanted, strict=True)):
        return None
    measured = []
    for q, (point, joint) in enumerate(zip(task.wanted.points, task.wanted.joints, strict=True)):
        w = jnp.asarray(pools[task.pools[q]].weights(point.ensemble), samples[q].log_density.dtype)
        measured.append(_values_at(point, joint, task.moved, parameters, samples[q], w))
    residuals = np.asarray(task.wanted.residuals(measured), float)
    cost = task.cost(residuals, np.asarray(prior_residuals(task.priors, model), float))
    return Carry(pools, carry.chains, carry.wanted, carry.quiet) if cost < value else None


def _optax_update(task: _Task, optimizer, parameters, optimizer_state, carry, key):
    carry, drawn = task.draw.ready(task.moved.to_model(parameters), carry, key)
    samples = task.draw.samples(carry.pools)
    value, measured, gradient, after, state, change, parts = _descent(
        task.wanted, task.moved, task.loss, task.priors, optimizer, parameters, optimizer_state, samples
    )
    by_pool = {}
    for q, (own, part) in enumerate(zip(samples, parts, strict=True)):
        g = task.pools[q]
        by_pool[g] = (own, part + by_pool[g][1] if g in by_pool else part)
    noise = np.sqrt(sum(float(own.error_of_sum(part)) ** 2 for own, part in by_pool.values()))
    ratio = abs(float(change)) / max(noise, np.finfo(float).tiny)
    carry, ended = _lengthened(task, carry, ratio, _PATIENCE)
    report = _report(task.wanted, (float(value), task.wanted.values(measured), task.draw.fitness(carry.pools),
                                   carry, task.pools, drawn, ratio, ended))  # fmt: skip
    fine = Fine.of(task.moved, value, gradient, after, (optimizer_state, None), (state, None))
    return after, state, carry, report, value, fine


@eqx.filter_jit
def _descent(wanted, moved, loss, priors, optimizer, parameters, optimizer_state, samples):
    """One step of an optimizer, and what every sample contributes to the change of the loss along it."""
    measurements = [
        Measurement.of(joint, own, point.ensemble, point.dynamics, None, None, True)
        for point, joint, own in zip(wanted.points, wanted.joints, samples, strict=True)
    ]

    def run(p):
        systems = [point.system(moved.to_model(p)) for point in wanted.points]
        return tuple(m.run_all(s) for m, s in zip(measurements, systems, strict=True))

    def of_targets(measured):
        return jnp.sum(loss.cost(wanted.residuals(measured) ** 2))

    def total(p):
        found, weights = run(p), []
        measured = []
        for m, ((log_weights, records), times) in zip(measurements, found, strict=True):
            w = jax.nn.softmax(log_weights)
            weights.append(m.judged(jax.lax.stop_gradient(w), jax.lax.stop_gradient(w)))
            measured.append(m.reduce(times, records, w))
        cost = of_targets(measured) + jnp.sum(prior_residuals(priors, moved.to_model(p)) ** 2)
        return cost, (tuple(measured), weights)

    (value, (measured, weights)), gradient = jax.value_and_grad(total, has_aux=True)(parameters)
    after, state = optimizer_step(optimizer, gradient, optimizer_state, parameters)
    along = jax.tree.map(jnp.subtract, after, parameters)
    change = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))
    only = lambda p: tuple(inner for inner, _ in run(p))
    found, slopes = jax.jvp(only, (parameters,), (along,))
    times = [jnp.zeros(1)] * len(measurements) if all(p.dynamics is None for p in wanted.points) else None
    times = [t for _, t in run(parameters)] if times is None else times

    def part(q):
        (_, records), (s, tangent) = found[q], slopes[q]

        def moves(w):
            reduce = lambda r, w: measurements[q].reduce(times[q], r, w)
            now, moved_by = jax.jvp(reduce, (records, w), (tangent, w * (s - w @ s)))
            of = lambda own: of_targets([own if k == q else jax.lax.stop_gradient(m) for k, m in enumerate(measured)])
            return jax.jvp(of, (now,), (moved_by,))[1]

        return infinitesimal_jackknife(moves, weights[q], lambda contributions: contributions)

    return value, measured, gradient, after, state, change, [part(q) for q in range(len(measurements))]


def _lengthened(task, carry, ratio, patience):
    """More samples where the step stays within its noise and there may be more; else the end."""
    quiet = carry.quiet + 1 if ratio < 1 else np.zeros((), int)
    wanted, ended = carry.wanted, False
    if quiet >= patience:
        longer = 2 * wanted <= task.most
        ended, quiet, wanted = not np.any(longer), np.zeros((), int), np.where(longer, 2, 1) * wanted
    return Carry(carry.pools, carry.chains, wanted, np.asarray(quiet)), ended


def _report(wanted, found):
    n = len(wanted.points)
    shapes = TargetUpdate(
        np.zeros(()), tuple(np.zeros(t.value.shape) for t in wanted.targets), np.zeros(n), np.zeros(n),
        np.zeros(n, int), np.zeros(n, int), np.zeros(()), np.zeros((), bool),
    )  # fmt: skip
    if found is None:
        return shapes
    loss, values, fitness, carry, pools, drawn, ratio, ended = found
    return TargetUpdate(
        np.asarray(loss, float),
        tuple(np.asarray(v, float) for v in values),
        np.array([f.effective_samples for f in fitness]),
        np.array([f.effective_samples_by_entropy for f in fitness]),
        np.array([len(carry.pools[g]) for g in pools]),
        drawn,
        np.asarray(ratio, float),
        np.asarray(ended),
    )


def _result(task: _Task, state: FitState, key: PRNGKeyArray) -> TargetFit:
    """What there is to say of the final parameters."""
    model = state.model
    # what is poor is told by the verdicts: a refusal would lose the fit
    carry, _ = task.draw.ready(model, state.carry, jax.random.fold_in(key, 2**32 - 1), refuse=False)
    samples = task.draw.samples(carry.pools)
    pools = [pool for pool in carry.pools if pool is not None]
    verdicts = [task.draw.verdict(q, pools[g]) for q, g in enumerate(task.pools)]
    flat, unravel = ravel_pytree(state.parameters)
    values, chain = parameter_values(task.moved, state.parameters)
    covariance = sensitivities = None
    targets = task.wanted.targets
    scale = [np.asarray(t.error, float) * np.ones(t.value.shape) * t.value.size**0.5 for t in targets]
    lengths = np.cumsum([s.size for s in scale])[:-1]
    nothing = np.full(sum(s.size for s in scale), np.nan)
    if flat.size * nothing.size <= MOST_DERIVATIVES:
        found = linearized(task.wanted, task.moved, state.parameters, samples, task.pools)
        priors, prior_jacobian = task.prior(np.asarray(flat), unravel)
        moved_covariance = Curvature.of(found, task.loss, priors, prior_jacobian).covariance(found)
        covariance = moved_covariance / np.outer(chain, chain)
        sensitivities = sensitivity_table(task.wanted, task.moved, state.parameters, found)
        measured, errors = found.values, found.error(lambda r, j: r)
        variances = np.einsum("ep,pq,eq->e", found.jacobian, moved_covariance, found.jacobian)
        predicted = np.sqrt(np.maximum(variances, 0))
    else:
        weights = [pools[g].weights(p.ensemble) for g, p in zip(task.pools, task.wanted.points, strict=True)]
        measured = [
            _values_at(p, j, task.moved, state.parameters, s, jnp.asarray(w, s.log_density.dtype))
            for p, j, s, w in zip(task.wanted.points, task.wanted.joints, samples, weights, strict=True)
        ]
        errors = predicted = nothing
    split = lambda x: [part.reshape(s.shape) * s for part, s in zip(np.split(x, lengths), scale, strict=True)]
    predictions = tuple(
        Prediction(
            name, t.unit, t.scale, *map(np.asarray, (t.value, jnp.broadcast_to(t.error, t.value.shape), v, e, b))
        )
        for name, t, v, e, b in zip(
            task.wanted.names, targets, task.wanted.values(measured), split(errors), split(predicted), strict=True
        )
    )
    names = parameter_names(state.parameters)
    return TargetFit(model, state, predictions, names, values, covariance, sensitivities, tuple(verdicts), samples)


def _refuse_idle(parameters, found: Linearized, prior_jacobian):
    idle = ~np.any(found.jacobian, axis=0) & ~np.any(prior_jacobian, axis=0)
    if np.any(idle):
        names = [n for n, is_idle in zip(parameter_names(parameters), idle, strict=True) if is_idle]
        raise ValueError(
            f"The parameters {', '.join(names)} change no target and have no prior; wanted targets that depend on"
            " them, a `Prior`, or `trainable` without them."
        )


def _samplers(sampler, points):
    if callable(sampler):
        return tuple(sampler(p.ensemble) for p in points)
    samplers = tuple(sampler)
    if len(samplers) != len(points) or not all(isinstance(s, AbstractSampler) for s in samplers):
        raise ValueError(
            f"`sampler` is {samplers!r}; wanted one for each of {len(points)} points, or a function such as"
            " `lambda ensemble: rv.LangevinBAOAB(ensemble.temperature, 2.0, dt=0.001, num_steps=100)`."
        )
    return samplers


def _groups(points, model, starts):
    """Which points may have one pool."""
    first: list[int] = []
    found = []
    for q, point in enumerate(points):
        alike = [g for g, p in enumerate(first) if _alike(points[p], point, model, starts[p], starts[q])]
        if not alike:
            first.append(q)
        found.append(alike[0] if alike else len(first) - 1)
    return tuple(found)


def _alike(a, b, model, start_a, start_b):
    boxes = lambda s: jax.tree.map(lambda x: x[0], s.box)
    fixed = type(a.ensemble).__name__ == "NVT"
    return (
        type(a.ensemble) is type(b.ensemble)
        and type(start_a.box) is type(start_b.box)
        and bool(eqx.tree_equal(a.system(model), b.system(model)))
        and not (fixed and not bool(eqx.tree_equal(boxes(start_a), boxes(start_b))))
    )


def _multiples(num_samples, starts):
    for q, start in enumerate(starts):
        require_instance("starts", start, State)
        chains = start.positions.shape[0]
        if start.positions.ndim != 3 or num_samples % chains != 0:
            raise ValueError(
                f"`starts` of point {q} have positions of shape {start.positions.shape} for {num_samples} samples;"
                " wanted (chains, atoms, 3), and a multiple of the chains for `num_samples`."
            )
    return np.full(len(starts), num_samples)


def _grown(names, points, model, starts, pools, carry):
    """The structure of what a checkpoint with these leaves carries."""
    made = []
    for g in range(max(pools) + 1):
        found = {int(m[1]) for name in names if (m := re.match(rf"\['carry'\]\.pools\[{g}\]\.sets\[(\d+)\]", name))}
        if not found:
            made.append(None)
            continue
        q = pools.index(g)
        none = jax.tree.map(lambda x: x[:0], starts[q])
        size = none.positions.dtype
        empty = Samples(none, jnp.zeros(0, size), jnp.zeros(0, jnp.int32), points[q].ensemble)
        made.append(blank(points[q].system, model, [empty] * (max(found) + 1)))
    chains = tuple(_with_cell(names, q, own) for q, own in enumerate(carry.chains))
    return Carry(tuple(made), chains, carry.wanted, carry.quiet)


def _with_cell(names, q, chains):
    """Chains whose cells have moved, where those of a checkpoint have."""
    place = f"['carry'].chains[{q}].cell."
    if f"{place}tried" not in names:
        return chains
    none = jnp.zeros(len(chains), jnp.int32)
    size = none.astype(chains.states.positions.dtype) if f"{place}size" in names else None
    return dataclasses.replace(chains, cell=CellMoves(none, none, none, size))
