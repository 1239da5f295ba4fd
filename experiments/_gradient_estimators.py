"""The estimators that `gradient_methods` compares: each gives one number per trajectory and horizon."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import reverlet as rv

from ._gradient_cases import TEMPERATURE, Case, Linear

KT = rv.units.BOLTZMANN * TEMPERATURE


@dataclasses.dataclass(frozen=True)
class Found:
    """What an estimator made of all trajectories.

    **Arguments:** `each` (samples, horizons), whose mean is the gradient, NaN where it was not run; `seconds` of CPU
    for one trajectory to every horizon; `exact`, whether it is without bias by construction, but for locality.
    """

    name: str
    each: np.ndarray
    seconds: np.ndarray
    exact: bool


@dataclasses.dataclass(frozen=True)
class Setting:
    """How trajectories run.

    **Arguments:** `dt` and the `friction` (ps, 1/ps), steps between frames, `rate`, `spring` and `window` of the path
    kernel (1/ps, 1/ps², ps), the relative `step` of finite differences.
    """

    dt: float
    friction: float
    save_every: int
    rate: float
    spring: float
    window: float
    step: float

    def steps(self, horizon: float) -> int:
        """Up to a horizon (ps), a multiple of those between frames."""
        return max(1, round(horizon / self.dt / self.save_every)) * self.save_every


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """What a compiled function returns, and the CPU seconds it took without compiling."""
    compiled = eqx.filter_jit(function).lower(*args).compile()
    begun = time.process_time()
    out = jax.block_until_ready(compiled(*args))
    return jax.tree.map(np.asarray, out), time.process_time() - begun


def all_of(case: Case, setting: Setting, samples: rv.Samples, key: jax.Array) -> Iterator[Found]:
    """Every estimator that applies to the case."""
    if case.static:
        yield reweighting(case, samples)
    yield forward_mode(case, setting, samples)
    yield from adjoints(case, setting, samples)
    yield finite_differences(case, setting, samples, key)
    yield from family(case, setting, samples, key)


def _along(seconds: float, case: Case, n: int) -> np.ndarray:
    """CPU seconds of a trajectory to every horizon, of those of `n` to the last."""
    return seconds / n * np.asarray(case.horizons) / case.horizons[-1]


@eqx.filter_jit
def _measured(case, theta, states):
    system = case.system(theta)
    slope = lambda s: jax.grad(lambda theta: case.system(theta).potential.energy(s.positions, s.box))(theta)
    return jax.vmap(lambda s: (jnp.mean(case.of_atoms(system, s, s)), -slope(s) / KT))(states)


def values_and_slopes(case: Case, states: rv.State) -> tuple[np.ndarray, np.ndarray]:
    """What the atoms of every sample record at rest, and -∂(U/kT)/∂θ."""
    values, slopes = _measured(case, jnp.float32(case.theta), states)
    return np.asarray(values, float), np.asarray(slopes, float)


def covariance_of_all(values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """What every sample contributes to the covariance, of arrays of any shape."""
    return covariances(values.reshape(-1, 1), slopes.ravel()).reshape(values.shape)


def covariances(values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """What every sample contributes to the covariance of values (samples, horizons) with slopes (samples,)."""
    n = len(slopes)
    return (values - values.mean(axis=0)) * (slopes - slopes.mean())[:, None] * n / (n - 1)


def reweighting(case: Case, samples: rv.Samples) -> Found:
    """-cov(A, ∂U/∂θ)/kT of the samples, without trajectories."""
    values_and_slopes(case, samples.states)  # compiles
    begun = time.process_time()
    each = covariance_of_all(*values_and_slopes(case, samples.states))[:, None]
    seconds = time.process_time() - begun
    shape = (1, len(case.horizons))
    return Found("reweighting", np.tile(each, shape), np.full(shape[1], seconds / len(samples)), True)


def dynamics_of(setting: Setting, horizon: float, adjoint: Any) -> rv.Dynamics:
    """At constant energy."""
    return rv.Dynamics(setting.dt, setting.steps(horizon), setting.save_every, adjoint=adjoint)


def forward_mode(case: Case, setting: Setting, samples: rv.Samples) -> Found:
    """One tangent along every trajectory at constant energy; of static properties with the thermodynamic part."""
    dynamics = dynamics_of(setting, case.horizons[-1], diffrax.ForwardMode())
    record = Linear(case.of_atoms, jnp.ones(1)).record

    def run(theta, states):
        records = lambda theta: dynamics.run_many(case.system(theta), states, record, throw=False).records
        return jax.jvp(records, (theta,), (jnp.ones_like(theta),))

    (records, tangents), seconds = timed(run, jnp.float32(case.theta), samples.states)
    times = setting.dt * setting.save_every * np.arange(records.shape[1])
    each = case.at_horizons(times, tangents.astype(float))
    if case.static:
        _, slopes = values_and_slopes(case, samples.states)
        each = each + covariances(case.at_horizons(times, records.astype(float)), slopes)
    return Found("forward mode", each, _along(seconds, case, len(samples)), True)


def adjoints(case: Case, setting: Setting, samples: rv.Samples) -> Iterator[Found]:
    """The reversible adjoint to some horizons, and with its controls to the last of the dynamical properties."""
    horizons = case.horizons
    chosen = sorted({horizons[0], horizons[len(horizons) // 2]})
    yield _adjoint(case, setting, samples, "reversible adjoint", (), chosen[-1:] if case.static else chosen, True)
    if case.static:
        return
    last = horizons[-1:]
    for name, control in (
        ("dropped after 1 ps", rv.controls.DropAfter(1.0)),
        ("windows of 0.5 ps", rv.controls.ResetEvery(0.5)),
        ("damped, 2/ps", rv.controls.Damp(2.0)),
    ):
        yield _adjoint(case, setting, samples, name, (control,), last, False)


def _adjoint(case, setting, samples, name, controls, horizons, exact):
    each = np.full((len(samples), len(case.horizons)), np.nan)
    seconds = np.full(len(case.horizons), np.nan)
    for horizon in horizons:
        dynamics = dynamics_of(setting, horizon, rv.ReversibleAdjoint(controls=controls))
        frames = dynamics.num_steps // dynamics.save_every + 1
        weights = case.frame_weights(setting.dt * setting.save_every * np.arange(frames))
        observable = Linear(case.of_atoms, jnp.asarray(weights, jnp.float32))

        def run(system, samples, observable=observable, dynamics=dynamics):
            return rv.expectation_gradients(
                observable, system, samples, dynamics=dynamics, keep_samples=True, throw=False
            )[1]

        parts, spent = timed(run, case.system(), samples)
        found = parts.dynamical_samples.potential.theta
        if case.static:
            found = found + parts.thermodynamic_samples.potential.theta
        k = case.horizons.index(horizon)
        each[:, k], seconds[k] = len(samples) * found.astype(float), spent / len(samples)
    return Found(name, each, seconds, exact)


def finite_differences(case: Case, setting: Setting, samples: rv.Samples, key: jax.Array) -> Found:
    """Central differences of two runs from the same starts: with the same random numbers under Langevin dynamics to
    where the start is forgotten, for static properties; at constant energy for dynamical ones."""
    step = setting.step * case.theta
    both = _ends_by_sampling if case.static else _values_at_constant_energy
    of_one, key_args = both(case, setting, samples, key)
    run = lambda theta, *args: (of_one(theta + step, *args), of_one(theta - step, *args))
    (up, down), seconds = timed(run, jnp.float32(case.theta), samples.states, *key_args)
    each = (up.astype(float) - down) / (2 * step)
    if not case.static:
        each = case.at_horizons(setting.dt * setting.save_every * np.arange(each.shape[1]), each)
    return Found("finite differences", each, _along(seconds, case, len(samples)), not case.static)


def _values_at_constant_energy(case, setting, samples, key):
    del samples, key
    dynamics = dynamics_of(setting, case.horizons[-1], rv.ReversibleAdjoint())
    record = Linear(case.of_atoms, jnp.ones(1)).record
    run = lambda theta, states: dynamics.run_many(case.system(theta), states, record, throw=False).records
    return run, ()


def _ends_by_sampling(case, setting, samples, key):
    """Configurations at all horizons are samples of one run."""
    every, n = case.horizons[0], len(samples)
    rounds = round(case.horizons[-1] / every)
    sampler = rv.LangevinBAOAB(TEMPERATURE, setting.friction, dt=setting.dt, num_steps=setting.steps(every))
    kept = np.array([round(t / every) - 1 for t in case.horizons])

    def run(theta, states, key):
        system = case.system(theta)
        ends = sampler.sample(system, states, rounds * n, key=key)[0].states
        measured = jax.vmap(lambda s: jnp.mean(case.of_atoms(system, s, s)))(ends)
        return measured.reshape(rounds, n)[kept].T  # all of one instant come first

    return run, (key,)


def family(case: Case, setting: Setting, samples: rv.Samples, key: jax.Array) -> Iterator[Found]:
    """From the derivative of the path to its likelihood, under Langevin dynamics; the dynamical part alone."""
    num_steps = setting.steps(case.horizons[-1])
    paths = rv.langevin.LangevinPaths(
        TEMPERATURE, setting.friction, dt=setting.dt, num_steps=num_steps, save_every=setting.save_every
    )

    def near(window: float | None) -> rv.langevin.AbstractCredit:
        if case.radius is None:
            return rv.langevin.OwnNoise(window=window)
        return rv.langevin.NoiseWithin(case.radius, window=window)

    kernel, likelihood = rv.langevin.PathKernel(setting.rate, setting.spring), rv.langevin.LikelihoodRatio()
    window, everything = setting.window, rv.langevin.AllNoise()
    members = [
        ("pathwise, Langevin", rv.langevin.Pathwise(), everything, True),
        ("kernel, near noise", kernel, near(None), True),
        ("likelihood ratio, all noise", likelihood, everything, True),
    ]
    if not case.static:
        members += [
            ("kernel, all noise", kernel, everything, True),
            ("kernel, near noise of late", kernel, near(window), False),
            ("likelihood ratio, near noise", likelihood, near(None), False),
        ]
    for k, (name, feedback, credit, exact) in enumerate(members):

        def run(system, samples, feedback, key, credit=credit):
            found = rv.langevin.path_tangents(
                case.observable, system, samples, paths, feedback, credit, throw=False, key=key
            )
            return jnp.mean(found.tangents[0], axis=-1)

        begun = jax.random.fold_in(key, k)
        tangents, seconds = timed(run, case.system(), samples, feedback, begun)
        print(f"{case.name}: {name}, {seconds:.1f} s", file=sys.stderr)
        times = setting.dt * setting.save_every * np.arange(tangents.shape[1])
        each = case.at_horizons(times, tangents.astype(float))
        # where a start is not forgotten, the dynamical part alone is not the whole
        yield Found(name, each, _along(seconds, case, len(samples)), exact and not case.static)
