"""Several observables of one run, distances without the bias of noise, and losses over state points."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Position, gaussian_samples, well

import reverlet as rv

K, T = 250.0, 300.0
KT = rv.units.BOLTZMANN * T
TOPOLOGY = rv.Topology.from_elements(["Ar"])


class Square(rv.AbstractObservable):
    """⟨x²⟩ over components, which is kT/k."""

    def record(self, system, state, initial):
        return jnp.mean(state.positions**2)

    def reduce(self, times, records, weights, ensemble=None):
        return rv.statistics.weighted_mean(weights, records[:, 0])


def test_joint_is_each_by_itself():
    samples, system = gaussian_samples(0, 50, K, T), rv.System(TOPOLOGY, well(1.1 * K))
    both = rv.expectation(rv.Joint((Position(), Square())), system, samples)
    for got, error, observable in zip(both.value, both.error, (Position(), Square()), strict=True):
        alone = rv.expectation(observable, system, samples)
        np.testing.assert_allclose(got, alone.value, rtol=1e-12)
        np.testing.assert_allclose(error, alone.error, rtol=1e-10)


def test_the_squared_distance_has_no_bias_from_noise():
    """At the target itself its mean is zero, where that of the plain square is the variance of the mean."""
    samples, repeats = 4, 6000
    records = jax.random.normal(jax.random.key(0), (repeats, samples, 1)) ** 2  # of mean one
    weights = jnp.full(samples, 1 / samples)
    distance = rv.SquaredDistance(Square(), 1.0, 0.5)
    found = np.asarray(jax.vmap(lambda r: distance.reduce(jnp.zeros(1), r, weights))(records))
    plain = ((np.mean(np.asarray(records), axis=(1, 2)) - 1) / 0.5) ** 2
    np.testing.assert_allclose(plain.mean(), 2 / samples / 0.25, rtol=0.1)  # the variance of a square is two
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(repeats)
    # away from it, what is left is the distance, in units of the scale
    away = rv.SquaredDistance(Square(), 3.0, 0.5)
    found = np.asarray(jax.vmap(lambda r: away.reduce(jnp.zeros(1), r, weights))(records))
    np.testing.assert_allclose(found.mean(), (2 / 0.5) ** 2, atol=4 * found.std() / np.sqrt(repeats))


def points(n=4000):
    """Two state points of one model k, at two temperatures, whose targets are those of k = 1.05 K."""
    made = []
    for seed, t in enumerate((T, 1.1 * T)):
        samples = gaussian_samples(seed, n, K, t)
        wanted = rv.units.BOLTZMANN * t / (1.05 * K)
        target = rv.Target(Square(), wanted, 0.02 * wanted, unit="nm²", citation="kT/k")
        made.append((rv.StatePoint(lambda k: rv.System(TOPOLOGY, well(k)), rv.NVT(t), (target,)), samples))
    return made


def test_a_loss_over_state_points_is_the_sum_of_theirs():
    """χ² = Σ ((kT/k - A*)/s)², here ((1.05 K/k - 1)/0.02)² each; its gradient by finite differences, and a fit."""
    known = points()

    @eqx.filter_jit
    def loss(k):
        return sum(point.loss(k, samples)[0] for point, samples in known)

    at = jnp.asarray(1.2 * K)
    wanted = 2 * ((1.05 / 1.2 - 1) / 0.02) ** 2
    # ⟨x²⟩ is known to 1.3 % of 4000 samples of three, and the distance is 12.5 %
    np.testing.assert_allclose(loss(at), wanted, rtol=0.35)
    slope = jax.grad(loss)(at)
    np.testing.assert_allclose(slope, (loss(at + 1e-3) - loss(at - 1e-3)) / 2e-3, rtol=1e-7)
    k = at
    for _ in range(8):  # Newton's steps to the minimum, of least squares
        k = k - jax.grad(loss)(k) / jax.grad(jax.grad(loss))(k)
    np.testing.assert_allclose(k, 1.05 * K, rtol=0.03)
    _, estimate = known[0][0].loss(at, known[0][1])
    (distance,), (value,) = estimate.value
    np.testing.assert_allclose(value, KT / (1.2 * K), rtol=0.06)
    assert distance > 0


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_no_target():
    with pytest.raises(TypeError, match="wanted a tuple of observables"):
        rv.Joint([Square()])
    with pytest.raises(ValueError, match="`error` is 0"):
        rv.Target(Square(), 1.0, 0.0, unit="nm²")
    with pytest.raises(ValueError, match="`value` holds 1 values that are not finite"):
        rv.Target(Square(), np.array([1.0, np.nan]), 1.0)
    with pytest.raises(ValueError, match=r"`targets` is \(\)"):
        rv.StatePoint(lambda k: rv.System(TOPOLOGY, well(k)), rv.NVT(T), ())
    with pytest.raises(ValueError, match="one sample; wanted two or more"):
        rv.SquaredDistance(Square(), 1.0).reduce(jnp.zeros(1), jnp.ones((1, 1)), jnp.ones(1))


class Difference(rv.AbstractPhaseDifference):
    """Of ⟨x²⟩ here and there, nm²."""

    other: str

    @property
    def observables(self):
        return Square(), Square()

    def combine(self, here, there, ensemble_here, ensemble_there):
        return here - there


def test_a_difference_of_phases_needs_the_other_state_point():
    target = rv.Target(Difference("hot"), 0.0, 1.0, name="gap")
    point = rv.StatePoint(lambda k: rv.System(TOPOLOGY, well(k)), rv.NVT(T), (target,), name="cold")
    with pytest.raises(ValueError, match="gap is a difference to the state point 'hot'"):
        point.loss(jnp.asarray(K), gaussian_samples(0, 10, K, T))
    assert rv.StatePoint(point.system, rv.NVT(T), (), name="hot").targets == ()
