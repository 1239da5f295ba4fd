"""Independent harmonic wells, for which velocity Verlet has a closed form."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_trees_close, well

import reverlet as rv

T, K, MASS, DT, STEPS, N = 120.0, 250.0, 39.948, 0.05, 12, 200
KT = rv.units.BOLTZMANN * T
TOPOLOGY = rv.Topology.from_elements(["Ar"] * 2)
DYNAMICS = rv.Dynamics(dt=DT, num_steps=STEPS, save_every=4)
X = np.sqrt(KT / K) * np.asarray(jax.random.normal(jax.random.key(0), (N, 2, 3)))
V = np.sqrt(KT / MASS) * np.asarray(jax.random.normal(jax.random.key(1), (N, 2, 3)))
STATES = jax.vmap(lambda x, v: rv.State(x, v, rv.OpenBox()))(jnp.asarray(X), jnp.asarray(V))
SAMPLES = rv.Samples(STATES, jnp.asarray(-0.5 * K * np.sum(X**2, axis=(1, 2)) / KT), jnp.arange(N), rv.NVT(T))


class Product(rv.AbstractObservable):
    """Σ x(0)·x(t), summed over frames, and a factor of the potential's own."""

    power: int = eqx.field(static=True, default=1)

    def record(self, system, state, initial):
        return system.potential.k * jnp.sum(state.positions * initial.positions)

    def reduce(self, times, records, weights, ensemble=None):
        del times
        return rv.statistics.weighted_mean(weights, jnp.sum(records, axis=1)) ** self.power


def closed_form(k_weights, k, power=1):
    """The expectation with one k in the weights and another in the trajectories."""
    n = 4 * jnp.arange(STEPS // 4 + 1)
    omega2 = k / MASS
    phi = jnp.arccos(1 - omega2 * DT**2 / 2)
    x = (
        X[:, None] * jnp.cos(n * phi)[:, None, None]
        + V[:, None] * DT * (jnp.sin(n * phi) / jnp.sin(phi))[:, None, None]
    )
    values = k * jnp.sum(x * X[:, None], axis=(1, 2, 3))
    weights = jax.nn.softmax(-(k_weights - K) * 0.5 * jnp.sum(X**2, axis=(1, 2)) / KT)
    return jnp.sum(weights * values) ** power


@eqx.filter_jit
def expect(k, power=1, thermodynamic=True, dynamical=True, dynamics=DYNAMICS):
    system = rv.System(TOPOLOGY, well(k))
    return rv.expectation(
        Product(power), system, SAMPLES, dynamics=dynamics, thermodynamic=thermodynamic, dynamical=dynamical
    )


SLOPE = jax.jit(jax.grad(closed_form, (0, 1)), static_argnums=2)
POWERS = [pytest.param(1, marks=pytest.mark.slow), 2]
RTOL = 1e-9  # both exact; rounding grows along the trajectory and cancels in the covariance


@pytest.mark.parametrize(
    ("k", "power"),
    [(1.05 * K, 2), *(pytest.param(*p, marks=pytest.mark.slow) for p in ((K, 1), (K, 2), (1.05 * K, 1)))],
)
def test_value_and_both_gradients(k, power):
    k = jnp.array(k)
    np.testing.assert_allclose(expect(k, power).value, closed_form(k, k, power), rtol=1e-11)
    thermodynamic, dynamical = SLOPE(k, k, power)
    for switches, wanted in [
        ((True, True), thermodynamic + dynamical),
        ((True, False), thermodynamic),
        ((False, True), dynamical),
        ((False, False), 0.0),
    ]:
        got = jax.grad(lambda k, s=switches: expect(k, power, *s).value)(k)
        np.testing.assert_allclose(got, wanted, rtol=RTOL)
        np.testing.assert_allclose(expect(k, power, *switches).value, expect(k, power).value, rtol=1e-13)


@pytest.mark.parametrize("power", POWERS)
def test_gradients_and_their_errors(power):
    k = jnp.array(1.05 * K)
    system = rv.System(TOPOLOGY, well(k))
    estimate, gradients = rv.expectation_gradients(Product(power), system, SAMPLES, dynamics=DYNAMICS)
    thermodynamic, dynamical = SLOPE(k, k, power)
    np.testing.assert_allclose(gradients.thermodynamic.potential.k, thermodynamic, rtol=RTOL)
    np.testing.assert_allclose(gradients.dynamical.potential.k, dynamical, rtol=RTOL)
    total = jax.grad(lambda k: expect(k, power).value)(k)
    np.testing.assert_allclose(gradients.total.potential.k, total, rtol=RTOL)
    wanted = expect(k, power)
    np.testing.assert_allclose(estimate.value, wanted.value, rtol=1e-12)
    np.testing.assert_allclose(estimate.error, wanted.error, rtol=1e-10)
    for part, error in (
        (thermodynamic, gradients.thermodynamic_error.potential.k),
        (dynamical, gradients.dynamical_error.potential.k),
    ):
        if power == 2 and part is dynamical:  # a square is no mean over samples
            assert jnp.isnan(error)
        else:  # of 200 samples: a few to some ten per cent of the gradient
            assert 0.001 * abs(part) < error < abs(part)


def test_errors_are_those_of_independent_samples():
    """The stated standard errors, against the scatter over disjoint sets of samples of the same size."""
    sets, n = 60, 100

    def one(key):
        kx, kv = jax.random.split(key)
        x = np.sqrt(KT / K) * jax.random.normal(kx, (n, 2, 3))
        v = np.sqrt(KT / MASS) * jax.random.normal(kv, (n, 2, 3))
        states = jax.vmap(lambda x, v: rv.State(x, v, rv.OpenBox()))(x, v)
        system = rv.System(TOPOLOGY, well(K))
        samples = rv.Samples.of(system, rv.NVT(T), states)
        estimate, g = rv.expectation_gradients(Product(), system, samples, dynamics=DYNAMICS, throw=False)
        values = (estimate.value, g.thermodynamic.potential.k, g.dynamical.potential.k)
        return values, (estimate.error, g.thermodynamic_error.potential.k, g.dynamical_error.potential.k)

    values, errors = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), sets))
    for value, error in zip(values, errors, strict=True):
        scatter = jnp.std(value, ddof=1)
        # the scatter of 60 sets is known to 1/sqrt(118) = 9 %; four of those
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(error**2)), scatter, rtol=0.37)


class SquaredDeviation(rv.AbstractObservable):
    """(⟨k x⟩ - target)², from products of different samples."""

    target: float

    def record(self, system, state, initial):
        return system.potential.k * state.positions[0, 0]

    def reduce(self, times, records, weights, ensemble=None):
        away = records[:, 0] - self.target
        pairs = jnp.sum(weights * away) ** 2 - jnp.sum(weights**2 * away**2)
        return pairs / (1 - jnp.sum(weights**2))


# k⟨x⟩ is 15: at that target the scatter of the distance from it is all there is
@pytest.mark.parametrize("target", [pytest.param(0.0, marks=pytest.mark.slow), 15.0])
def test_errors_of_the_gradient_of_a_squared_deviation(target):
    """Stated by forward mode, against the scatter over independent sets; reverse mode says that it does not know."""
    n, sets = 50, 400
    topology, still = rv.Topology.from_elements(["Ar"]), rv.Dynamics(dt=1e-6, num_steps=1)

    def one(key, adjoint):
        x = 0.06 + 0.03 * jax.random.normal(key, (n, 1, 3))
        states = jax.vmap(lambda x: rv.State(x, jnp.zeros_like(x), rv.OpenBox()))(x)
        samples = rv.Samples.of(rv.System(topology, well(K)), rv.NVT(T), states)
        dynamics = dataclasses.replace(still, adjoint=adjoint)
        observable = SquaredDeviation(target)
        _, g = rv.expectation_gradients(observable, rv.System(topology, well(K)), samples, dynamics=dynamics)
        return (g.dynamical.potential.k, g.thermodynamic.potential.k), (
            g.dynamical_error.potential.k,
            g.thermodynamic_error.potential.k,
        )

    run = jax.jit(jax.vmap(lambda key: one(key, rv.ForwardMode())))
    for part, error in zip(*run(jax.random.split(jax.random.key(3), sets)), strict=True):
        # the scatter of 400 sets is known to 3.5 %, and to first order in 1/n the linearization is right
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(error**2)), jnp.std(part, ddof=1), rtol=0.2)
    _, (dynamical, thermodynamic) = jax.jit(lambda key: one(key, rv.ReversibleAdjoint()))(jax.random.key(3))
    assert jnp.isnan(dynamical)
    assert thermodynamic > 0


def test_without_dynamics_samples_are_single_frames():
    estimate = expect(jnp.array(K), dynamics=None)
    np.testing.assert_allclose(estimate.value, np.mean(K * np.sum(X**2, axis=(1, 2))), rtol=1e-12)
    assert estimate.times.shape == (1,)
    assert estimate.records.shape == (N, 1)
    np.testing.assert_allclose(jnp.sum(estimate.weights), 1, rtol=1e-14)
    np.testing.assert_allclose(estimate.effective_samples, N, rtol=1e-12)
    squares = K * np.sum(X**2, axis=(1, 2))
    np.testing.assert_allclose(estimate.error, squares.std(ddof=1) / np.sqrt(N), rtol=1e-11)


def test_linearize():
    model = well(2.0, 3.0)
    gradient = eqx.tree_at(lambda m: (m.k, m.center), model, (jnp.array(5.0), None), is_leaf=lambda x: x is None)
    loss = lambda m: rv.linearize(jnp.array(7.0), gradient, m) ** 2
    value, slope = eqx.filter_value_and_grad(loss)(model)
    assert value == 49
    np.testing.assert_allclose(slope.k, 2 * 7 * 5)
    np.testing.assert_allclose(slope.center, 0)


def test_linearized_gradients_train_like_the_expectation():
    k = jnp.array(1.05 * K)

    def direct(potential):
        return (rv.expectation(Product(), rv.System(TOPOLOGY, potential), SAMPLES, dynamics=DYNAMICS).value - 3.0) ** 2

    def linearized(potential):
        frozen = jax.lax.stop_gradient(potential)
        estimate, g = rv.expectation_gradients(Product(), rv.System(TOPOLOGY, frozen), SAMPLES, dynamics=DYNAMICS)
        return (rv.linearize(estimate.value, g.total.potential, potential) - 3.0) ** 2

    got, wanted = (eqx.filter_jit(eqx.filter_value_and_grad(f))(well(k)) for f in (linearized, direct))
    assert_trees_close(jax.tree.leaves(got), jax.tree.leaves(wanted), rtol=RTOL, atol=1e-8)


FORWARD = dataclasses.replace(DYNAMICS, adjoint=rv.ForwardMode())


@pytest.mark.parametrize("power", POWERS)
def test_forward_mode(power):
    k = jnp.array(1.05 * K)
    function = lambda k: expect(k, power, dynamics=FORWARD).value
    thermodynamic, dynamical = SLOPE(k, k, power)
    np.testing.assert_allclose(jax.jacfwd(function)(k), thermodynamic + dynamical, rtol=RTOL)
    value, slope = jax.jvp(function, (k,), (jnp.array(2.0),))
    np.testing.assert_allclose(value, closed_form(k, k, power), rtol=1e-11)
    np.testing.assert_allclose(slope, 2 * (thermodynamic + dynamical), rtol=RTOL)


@pytest.mark.parametrize(
    "dynamics",
    [DYNAMICS, pytest.param(FORWARD, marks=pytest.mark.slow), None],
    ids=["reverse", "forward", "no dynamics"],
)
def test_contributions_of_samples(dynamics):
    """They add up, their scatter is the standard error, and each is what its sample alone gives."""
    k = jnp.array(1.05 * K)
    system = rv.System(TOPOLOGY, well(k, 0.01))
    run = eqx.filter_jit(
        lambda keep: rv.expectation_gradients(Product(), system, SAMPLES, dynamics=dynamics, keep_samples=keep)
    )
    estimate, gradients = run(True)
    w = estimate.weights
    for part in ("thermodynamic", "dynamical"):
        total, error, each = (getattr(gradients, part + s) for s in ("", "_error", "_samples"))
        assert each.potential.k.shape == each.potential.center.shape == (N,)
        assert_trees_close(jax.tree.map(lambda x: jnp.sum(x, 0), each), total, rtol=1e-12)
        scatter = lambda x, t: jnp.sqrt(N / (N - 1) * jnp.sum((x - w * t) ** 2))
        assert_trees_close(jax.tree.map(scatter, each, total), error, rtol=1e-12)

    def one(k, i):
        moved = rv.System(TOPOLOGY, well(k, 0.01))
        state = jax.tree.map(lambda x: x[i], STATES)
        if dynamics is None:
            return Product().record(moved, state, state)
        return jnp.sum(FORWARD.run(moved, state, Product().record).records)

    for i in (0, N - 1):
        wanted = w[i] * jax.jacfwd(one)(k, i)
        np.testing.assert_allclose(gradients.dynamical_samples.potential.k[i], wanted, rtol=RTOL)
    _, without = run(False)
    assert without.thermodynamic_samples is None
    assert without.dynamical_samples is None


@pytest.mark.parametrize("power", POWERS)
def test_gradients_in_forward_mode(power):
    """The same numbers as going back, with two parameters."""
    system = rv.System(TOPOLOGY, well(1.05 * K, 0.01))
    run = eqx.filter_jit(lambda dynamics: rv.expectation_gradients(Product(power), system, SAMPLES, dynamics=dynamics))
    forward, reverse = run(FORWARD), run(DYNAMICS)
    if power == 2:  # what only forward mode knows
        assert_finite = lambda x: np.testing.assert_array_equal(jnp.isfinite(x), True)
        jax.tree.map(assert_finite, forward[1].dynamical_error)
        forward, reverse = (eqx.tree_at(lambda x: x[1].dynamical_error, x, None) for x in (forward, reverse))
    # rounding grows differently on the two ways through the trajectory
    assert_trees_close(jax.tree.leaves(forward), jax.tree.leaves(reverse), rtol=RTOL, atol=1e-9)
