"""Gradients of means over Langevin trajectories: against the exact moments of linear systems, and one another."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MASS
from jaxtyping import Array

import reverlet as rv

T, GAMMA, DT, STEPS, EVERY, ATOMS, N = 120.0, 1.5, 0.06, 24, 6, 3, 600
KT = rv.units.BOLTZMANN * T
TOPOLOGY = rv.Topology.from_elements(["Ar"] * ATOMS)
KEY = jax.random.key(3)
PATHS = rv.langevin.LangevinPaths(T, GAMMA, dt=DT, num_steps=STEPS, save_every=EVERY)
CHAIN = np.array([[1.0, -1, 0], [-1, 2, -1], [0, -1, 1]])
SPRINGS = {"wells": (np.eye(3), np.zeros((3, 3))), "chain": (CHAIN, 60.0 * np.eye(3))}


class Springs(rv.AbstractPotential):
    """U = Σ x·(k L + P)·x/2 over the three directions of space, L and P those of `SPRINGS`."""

    k: Array
    number: Array
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        coupling, pins = (jnp.stack(m)[self.number] for m in zip(*SPRINGS.values(), strict=True))
        return 0.5 * jnp.sum(positions * ((self.k * coupling + pins) @ positions))


class Moments(rv.AbstractObservable):
    """x² and v(0)·v(t) of every atom, means over directions."""

    def record(self, system, state, initial):
        return jnp.stack([state.positions**2, state.velocities * initial.velocities], -1).mean(axis=1)

    def reduce(self, times, records, weights, ensemble=None):
        return rv.statistics.weighted_mean(weights, records)[-1].mean(axis=0) @ jnp.array([1.0, 0.3])


def springs(name, k=200.0):
    return rv.System(TOPOLOGY, Springs(jnp.asarray(k), jnp.array(list(SPRINGS).index(name))))


def starts(system, n=N):
    x, v = (jax.random.normal(jax.random.key(i), (n, ATOMS, 3)) for i in (0, 1))
    states = jax.vmap(lambda x, v: rv.State(x, v, rv.OpenBox()))(x * 0.06, v * 0.15)
    return rv.Samples.of(system, rv.NVT(T), states)


@functools.partial(jax.jit, static_argnums=0)
def exact(name, k):
    """The moments of `Moments` at every frame: one step is linear, and so is what it makes of covariances."""
    matrix = k * SPRINGS[name][0] + SPRINGS[name][1]
    one, zero, h = jnp.eye(ATOMS), jnp.zeros((ATOMS, ATOMS)), DT
    decay, spread = jnp.exp(-GAMMA * h), jnp.sqrt(KT / MASS * (1 - jnp.exp(-2 * GAMMA * h)))
    kick = jnp.block([[one, zero], [-0.5 * h * matrix / MASS, one]])
    drift = jnp.block([[one, 0.5 * h * one], [zero, one]])
    damp = jnp.block([[one, zero], [zero, decay * one]])
    step, noise = kick @ drift @ damp @ drift @ kick, kick @ drift @ jnp.vstack([zero, spread * one])
    covariance = jnp.diag(jnp.array([0.06**2] * ATOMS + [0.15**2] * ATOMS))
    with_start, found = covariance, []
    # starts are drawn, so that their covariances are those of the distribution only on average
    for n in range(STEPS + 1):
        if n % EVERY == 0:
            found.append(jnp.stack([jnp.diag(covariance)[:ATOMS], jnp.diag(with_start)[ATOMS:]], -1))
        covariance, with_start = step @ covariance @ step.T + noise @ noise.T, step @ with_start
    return jnp.stack(found)


class Squares(rv.AbstractObservable):
    """What a mean over records does not tell: squares of single ones."""

    def record(self, system, state, initial):
        return jnp.mean(state.positions, axis=0)[:2]

    def reduce(self, times, records, weights, ensemble=None):
        return jnp.mean(rv.statistics.weighted_mean(weights, records**2))


@eqx.filter_jit
def tangents(system, feedback, credit=rv.langevin.AllNoise()):
    return rv.langevin.path_tangents(Moments(), system, starts(system), PATHS, feedback, credit, key=KEY)


FEEDBACKS = {
    "pathwise": rv.langevin.Pathwise(),
    "weak": rv.langevin.PathKernel(0.3),
    "medium": rv.langevin.PathKernel(2.0),
    "late": rv.langevin.PathKernel(4.0, onset=0.6),
    "spring": rv.langevin.PathKernel(4.0, 20.0),
    "strong": rv.langevin.PathKernel(20.0),
    "likelihood ratio": rv.langevin.LikelihoodRatio(),
}


@pytest.mark.parametrize("name", SPRINGS)
def test_every_strength_gives_the_exact_derivatives(name):
    values, slopes = jax.jvp(lambda k: exact(name, k), (jnp.array(200.0),), (jnp.ones(()),))
    worst = {}
    for label, feedback in FEEDBACKS.items():
        got = tangents(springs(name), feedback)
        for samples, wanted in ((got.records, values), (got.tangents[0], slopes)):
            error = np.std(samples, axis=0) / np.sqrt(N)
            away = np.abs(np.mean(samples, axis=0) - wanted)[1:] / error[1:]
            assert np.all(away < 3), (label, away)
            assert np.mean(away**2) < 2, (label, away)  # 24 numbers, not independent
        worst[label] = error[-1, 0]
    # what the trajectory says by itself has the least noise where nothing explodes, the weights alone have the most
    assert np.all(worst["pathwise"] < worst["medium"])
    assert np.all(worst["medium"] < worst["likelihood ratio"])


def test_of_independent_atoms_their_own_noise_says_all_with_less_of_it():
    medium = FEEDBACKS["strong"]
    slopes = jax.jvp(lambda k: exact("wells", k), (jnp.array(200.0),), (jnp.ones(()),))[1]
    own = tangents(springs("wells"), medium, rv.langevin.OwnNoise()).tangents[0]
    error = np.std(own, axis=0) / np.sqrt(N)
    assert np.all(np.abs(own.mean(axis=0) - slopes)[1:] < 3 * error[1:])
    of_all = tangents(springs("wells"), medium).tangents[0]
    assert np.all(error[1:] < np.std(of_all, axis=0)[1:] / np.sqrt(N))


def test_noise_within_any_distance_is_all_noise():
    far, of_all = rv.langevin.NoiseWithin(100.0), rv.langevin.AllNoise()
    pair = [tangents(springs("chain"), FEEDBACKS["medium"], credit).tangents for credit in (far, of_all)]
    np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-12)


@eqx.filter_jit
def gradient(feedback, credit, forward, observable=Moments()):
    system = springs("chain")
    return rv.langevin.path_gradient(
        observable, system, starts(system, 40), PATHS, feedback, credit, forward=forward, key=KEY
    )


def test_both_modes_agree_sample_by_sample():
    credit = rv.langevin.OwnNoise(window=0.7)
    forward, back = (gradient(FEEDBACKS["spring"], credit, way) for way in (True, False))
    for name in ("value", "value_error", "gradient", "gradient_error", "contributions"):
        pair = [getattr(g, name) for g in (forward, back)]
        pair = [getattr(p, "potential", p) for p in pair]
        for a, b in zip(*map(jax.tree.leaves, pair), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13, err_msg=name)
    each = forward.contributions.potential.k
    np.testing.assert_allclose(np.std(40 * each, ddof=1) / np.sqrt(40), forward.gradient_error.potential.k, rtol=1e-6)


def test_without_feedback_it_is_the_derivative_of_what_the_sampler_runs():
    """Of the sampler's own steps with the same random numbers; and a vanishing feedback is none."""
    sampler, few = rv.LangevinBAOAB(T, GAMMA, dt=DT, num_steps=STEPS), 5

    def ends(k):
        system = springs("chain", k)

        def end(state, key):
            def step(carry, i):
                return sampler.step(system, *carry, jax.random.fold_in(key, i)), None

            (last, _), _ = jax.lax.scan(step, sampler.start(system, state), jnp.arange(STEPS))
            return Moments().record(system, last, state)

        keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(few))
        return jax.vmap(end)(starts(springs("chain"))[:few].states, keys)

    values, slopes = jax.jit(lambda k: jax.jvp(ends, (k,), (jnp.ones(()),)))(jnp.array(200.0))
    got = tangents(springs("chain"), rv.langevin.Pathwise())
    np.testing.assert_allclose(got.records[:few, -1], values, rtol=1e-12)
    np.testing.assert_allclose(got.tangents[0, :few, -1], slopes, rtol=1e-10)
    weak = tangents(springs("chain"), rv.langevin.PathKernel(1e-9))
    np.testing.assert_allclose(weak.tangents[0, :few, -1], slopes, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("without_type_checks")
def test_bad_input():
    paths = lambda **more: rv.langevin.LangevinPaths(T, GAMMA, **{"dt": DT, "num_steps": 3, "save_every": 1, **more})
    with pytest.raises(ValueError, match=r"`num_steps` is 3, which `save_every` 2 does not divide"):
        paths(save_every=2)
    system = springs("wells")

    @eqx.filter_jit
    def run(system, observable, credit=rv.langevin.AllNoise()):
        samples = starts(springs("wells"), 4)
        return rv.langevin.path_gradient(
            observable, system, samples, paths(), rv.langevin.Pathwise(), credit, forward=True, key=KEY
        )

    system = springs("wells")
    with pytest.raises(ValueError, match=r"what is recorded has shape \(2,\); wanted arrays that lead with the 3 "):
        run(system, Squares(), rv.langevin.OwnNoise())
    with pytest.raises(ValueError, match=r"have 33 parameters; wanted 1 to 32 in forward mode"):
        run(springs("wells", np.ones(33)), Squares())
    with rv.SimulationError.unwrapped(), pytest.raises(Exception, match=r"looks at more .* that records the products"):
        jax.block_until_ready(run(system, Squares()))
