"""The diagnosis: gradients at every length, exponents with a closed form, and what is proposed."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MASS, argon_box, argon_positions, argon_topology, assert_trees_close, lennard_jones, well

import reverlet as rv
from reverlet import _horizon

T, K, N, DT = 120.0, 250.0, 40, 0.02
TOPOLOGY = rv.Topology.from_elements(["Ar"] * 2)
KEY = jax.random.key(7)


class Product(rv.AbstractObservable):
    """(Σ x(0)·x(t), summed over frames)², with a factor of the potential's own."""

    def record(self, system, state, initial):
        return {"x": system.potential.k * jnp.sum(state.positions * initial.positions)}

    def reduce(self, times, records, weights, ensemble=None):
        return rv.statistics.weighted_mean(weights, jnp.mean(records["x"], axis=1)) ** 2 + 0.1 * times[-1]


class Mean(rv.AbstractObservable):
    """What `Product` squares."""

    def record(self, system, state, initial):
        return Product().record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        return rv.statistics.weighted_mean(weights, jnp.mean(records["x"], axis=1))


def oscillators(k_drawn=K, n=N, dtype=float):
    x, v = (jax.random.normal(jax.random.key(i), (n, 2, 3), dtype) for i in (0, 1))
    states = jax.vmap(lambda x, v: rv.State(x, v, rv.OpenBox()))(x * 0.06, v * 0.15)
    energies = 0.5 * k_drawn * jnp.sum(states.positions**2, axis=(1, 2))
    return rv.Samples(states, -energies / (rv.units.BOLTZMANN * T), jnp.arange(n), rv.NVT(jnp.array(T, dtype)))


DYNAMICS = rv.Dynamics(dt=DT, num_steps=48, save_every=4)
SYSTEM = rv.System(TOPOLOGY, well(1.05 * K, 0.01))


@eqx.filter_jit
def diagnose(system=SYSTEM, samples=None, dynamics=DYNAMICS, num_horizons=6, **more):
    samples = oscillators() if samples is None else samples
    return rv.gradient_horizon(Product(), system, samples, dynamics, num_horizons=num_horizons, key=KEY, **more)


@pytest.mark.parametrize(
    ("both_directions", "thermodynamic"),
    [*(pytest.param(*p, marks=pytest.mark.slow) for p in ((False, False), (True, True))), (False, True)],
)
def test_every_horizon_is_a_run_of_that_length(both_directions, thermodynamic):
    dynamics = dataclasses.replace(DYNAMICS, both_directions=both_directions)
    got = diagnose(dynamics=dynamics, thermodynamic=thermodynamic)
    np.testing.assert_allclose(got.horizons, DT * 8 * np.arange(1, 7), rtol=1e-12)
    assert got.names == ("potential.k", "potential.center")
    for k in (3,) if thermodynamic else (0, 3):
        short = dataclasses.replace(dynamics, num_steps=8 * (k + 1))

        def value(potential, short=short):
            system = rv.System(TOPOLOGY, potential)
            estimate = rv.expectation(
                Product(), system, oscillators(), dynamics=short, thermodynamic=thermodynamic, throw=False
            )
            return estimate.value, estimate

        (wanted, estimate), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(SYSTEM.potential)
        np.testing.assert_allclose(got.value[k], wanted, rtol=1e-11)
        np.testing.assert_allclose(got.value_error[k], estimate.error, rtol=1e-10)
        # reverse and forward mode: rounding that grows along the trajectory
        np.testing.assert_allclose(got.gradient[k], [gradient.k, gradient.center], rtol=1e-9)
        if not thermodynamic:
            run = eqx.filter_jit(lambda d: rv.expectation_gradients(Product(), SYSTEM, oscillators(), dynamics=d))
            error = run(dataclasses.replace(short, adjoint=rv.ForwardMode()))[1].dynamical_error
            np.testing.assert_allclose(got.gradient_error[k], [error.k, error.center], rtol=1e-9)
    np.testing.assert_allclose(got.signal_to_noise, abs(got.gradient) / got.gradient_error, rtol=1e-12)


@pytest.mark.slow
def test_error_of_the_whole_gradient():
    """Both parts of one sample are correlated: the error is that of their sum, here of (m²)' = 2 m m'."""
    run = lambda d: rv.expectation_gradients(Mean(), SYSTEM, oscillators(), dynamics=d, keep_samples=True)
    estimate, parts = eqx.filter_jit(run)(DYNAMICS)
    w = estimate.weights
    each = parts.thermodynamic_samples.potential.k + parts.dynamical_samples.potential.k
    slopes = each - w * np.sum(each)
    means = w * (np.mean(estimate.records["x"], axis=1) - estimate.value)
    influence = 2 * (means * np.sum(each) + estimate.value * slopes)
    wanted = np.sqrt(N / (N - 1) * np.sum(influence**2))
    np.testing.assert_allclose(diagnose(thermodynamic=True).gradient_error[-1, 0], wanted, rtol=1e-9)


@pytest.mark.slow
def test_directions():
    unit = diagnose()
    place = lambda s: (s.potential.k, s.potential.center)
    trees = [eqx.tree_at(place, SYSTEM.surfaces, (jnp.array(a), jnp.array(b)))
             for a, b in ((2.0, 0.0), (0.5, -3.0), (0.0, 1.0))]  # fmt: skip
    got = diagnose(directions=trees)
    assert got.names == ("direction 0", "direction 1", "direction 2")
    wanted = unit.gradient @ np.array([[2.0, 0.5, 0.0], [0.0, -3.0, 1.0]])
    np.testing.assert_allclose(got.gradient, wanted, rtol=1e-10)
    np.testing.assert_allclose(got.gradient_error[:, 2], unit.gradient_error[:, 1], rtol=1e-10)


def diagnose_long(system, samples):
    """One program for all that is here: only numbers differ."""
    return diagnose(system, samples, rv.Dynamics(dt=DT, num_steps=400, save_every=40), num_horizons=10, throw=False)


@pytest.mark.parametrize("k", [100.0, 1600.0])
def test_lyapunov_exponent_of_an_inverted_oscillator(k):
    """sqrt(k/m); with velocity Verlet arcosh(1 + k dt²/2m)/dt. The decaying direction is gone by the second half."""
    got = diagnose_long(rv.System(TOPOLOGY, well(-k)), oscillators(-k, n=5))
    exact = np.arccosh(1 + 0.5 * k * DT**2 / MASS) / DT
    np.testing.assert_allclose(exact, np.sqrt(k / MASS), rtol=2e-3)  # (k/m) dt²/24
    # what is left of the decaying direction after 4 ps, exp(-2 * 1.6 * 4) of the whole at the smaller k
    np.testing.assert_allclose(got.lyapunov, exact, rtol=1e-5)
    assert got.lyapunov_error < 1e-5 * exact
    np.testing.assert_allclose(np.diff(got.growth)[5:], exact * 0.8, rtol=1e-4)


def test_stable_oscillators_have_no_exponent():
    got = diagnose_long(rv.System(TOPOLOGY, well(1.05 * K)), oscillators(n=5))
    # the perturbation goes round an ellipse of axes 1 and ω = 2.5: bounded, so that its slope over 4 ps is small
    assert abs(got.lyapunov) < 0.3 * np.log(np.sqrt(K / MASS))
    assert np.all(got.growth < np.log(np.sqrt(1.05 * K / MASS)) + 1e-6)


class Ramp(rv.AbstractObservable):
    """A correlation function to order: 1 - |x(t) - x(0)| / reach of the first atom, zero from there on."""

    reach: jax.Array

    def record(self, system, state, initial):
        del system
        moved = jnp.sqrt(jnp.sum((state.positions[0] - initial.positions[0]) ** 2) + 1e-30)
        return jnp.maximum(1 - moved / self.reach, 0.0)

    def reduce(self, times, records, weights, ensemble=None):
        del times
        return 3 * rv.statistics.weighted_mean(weights, records)


class Half(rv.AbstractPotential):
    """No force; the value of a parameter is recorded."""

    k: jax.Array
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        del positions, box
        return 0.0 * self.k


class Noisy(rv.AbstractObservable):
    """Its derivative by k is 1, and of sample i ±c exp(2t) besides: a signal to noise ratio of sqrt(n-1) exp(-2t)/c."""

    c: jax.Array

    def record(self, system, state, initial):
        t = jnp.sqrt(jnp.sum((state.positions[0] - initial.positions[0]) ** 2))
        sign = jnp.sign(initial.positions[1, 0])
        return system.potential.k * (1 + self.c * sign * jnp.exp(2 * t))

    def reduce(self, times, records, weights, ensemble=None):
        del times
        return rv.statistics.weighted_mean(weights, records[:, -1])


def free_particles(n=10):
    x = np.zeros((n, 2, 3))
    x[:, 1, 0] = (-1.0) ** np.arange(n)
    v = np.zeros((n, 2, 3))
    v[:, 0, 0] = 1.0  # so that the first atom tells the time
    states = jax.vmap(lambda x, v: rv.State(x, v, rv.OpenBox()))(jnp.asarray(x), jnp.asarray(v))
    return rv.Samples(states, jnp.zeros(n), jnp.arange(n), rv.NVT(T))


@eqx.filter_jit
def propose(system, reach, c, threshold):
    return rv.gradient_horizon(
        Noisy(c), system, free_particles(), rv.Dynamics(dt=0.05, num_steps=24, save_every=2),
        correlation=Ramp(reach), num_horizons=12, threshold=threshold, throw=False, key=KEY,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reach", "c", "threshold", "decay", "proposed"),
    [
        # ratio sqrt(9) exp(-2t)/0.1 > 3 until t = ln(10)/2 = 1.151; correlation below 0.02 from 0.98 of its reach
        (1.0, 0.1, 3.0, 1.0, 1.1),  # the noise comes before twice the decay
        (0.3, 0.1, 3.0, 0.3, 0.6),  # twice the decay comes before the noise
        (0.3, 1 / 3, 3.0, 0.3, 0.5),  # more noise: ln(3)/2 = 0.549
        # more is asked for, which is another program
        pytest.param(0.3, 0.1, 10.0, 0.3, 0.5, marks=pytest.mark.slow),
        (5.0, 0.1, 3.0, np.inf, 1.1),  # has not decayed
        (1.0, 4.0, 3.0, 1.0, np.nan),  # never a signal
    ],
)
def test_what_is_proposed(reach, c, threshold, decay, proposed):
    system = rv.System(TOPOLOGY, Half(jnp.array(2.0)))
    got = propose(system, jnp.array(reach), jnp.array(c), threshold)
    np.testing.assert_allclose(got.signal_to_noise[:, 0], 3 / c * np.exp(-2 * got.horizons), rtol=1e-9)
    np.testing.assert_allclose(got.correlation, np.maximum(1 - got.times / reach, 0), atol=1e-12)
    np.testing.assert_allclose(got.decay, decay, rtol=1e-12)
    np.testing.assert_allclose(got.proposed, proposed, rtol=1e-12)
    assert got.settled == got.horizons[0]  # whatever the length, the value is k


def test_when_a_value_has_settled():
    """It rises to one at 0.5, with a standard error e of every change: changes by less than 3 e are none."""
    samples, t = free_particles(), jnp.arange(1, 11) / 10
    value = jnp.minimum(2 * t, 1.0)
    error = lambda e: e * jnp.sqrt(0.9) * jnp.arange(10)[:, None] * free_particles().states.positions[:, 1, 0] / 10
    for e, wanted in ((0.0, 0.5), (0.04, 0.5), (0.4, 0.1)):
        own = error(e)
        change = jax.vmap(samples.error_of_sum)(own - own[3])
        np.testing.assert_allclose(_horizon._settled(t, value, own, 3.0, samples), wanted, err_msg=str(change))


@pytest.mark.slow
def test_single_precision():
    system = SYSTEM.astype(jnp.float32)
    got = diagnose(system, oscillators(dtype=jnp.float32))
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(jnp.float32)}
    wanted = diagnose(
        samples=jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, oscillators(dtype=jnp.float32))
    )
    # cancellation between samples of both signs, 1e-7 times a hundred
    assert_trees_close(got.value.astype(float), wanted.value, rtol=1e-4)


@pytest.mark.slow
def test_argon():
    """λ of liquid argon near its triple point: about one to two per ps; noise grows at a like rate."""
    cells, n = 2, 16
    topology, potential = argon_topology(cells), lennard_jones()
    system = rv.System(topology, potential)
    state = rv.State(argon_positions(cells), jnp.zeros((32, 3)), argon_box(cells))
    hot, cold = (rv.LangevinBAOAB(t, 1.0, dt=0.004, num_steps=m) for t, m in ((280.0, 1000), (94.4, 3000)))
    _, chains = hot.sample(system, state.repeat(n), n, key=jax.random.key(0))
    samples, _ = cold.sample(system, chains, n, key=jax.random.key(1))
    got = eqx.filter_jit(rv.gradient_horizon)(
        rv.SelfDiffusion(), system, samples, rv.Dynamics(dt=0.004, num_steps=1200, save_every=10), key=KEY
    )
    assert 1 < got.lyapunov < 2.5
    assert got.lyapunov_error < 0.2
    late = got.horizons > 2
    rate = np.polyfit(got.horizons[late], np.log(got.gradient_error[late]), 1)[0]
    np.testing.assert_allclose(rate, got.lyapunov, rtol=0.5)
    assert got.proposed < 3.5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_horizons": 5}, r"`num_horizons` is 5; wanted .* a divisor of the 12 frames .* such as (4|6)"),
        ({"num_horizons": 3}, r"`num_horizons` is 3; wanted at least 4"),
        ({"threshold": 0.0}, r"`threshold` is 0.0; wanted a finite number more than zero"),
        ({"tail": -1.0}, r"`tail` is -1.0; wanted"),
        ({"beyond": float("nan")}, r"`beyond` is nan; wanted"),
        ({"directions": []}, r"`directions` has 0 trees; wanted at least one"),
        ({"directions": [{"k": jnp.array(1.0)}]}, r"each with the arrays of the surfaces"),
        ({"samples": oscillators(n=1)}, r"`samples` has 1; wanted at least 2"),
        ({"correlation": rv.SelfDiffusion()}, r"`correlation` reduces to shape \(\); wanted \(13,\)"),
        ({"system": rv.System(TOPOLOGY, well(np.full(33, 1.0)))}, r"have 34 parameters; wanted 1 to 32"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input(change, match):
    with pytest.raises(ValueError, match=match):
        diagnose(**change)


@pytest.mark.usefixtures("without_type_checks")
def test_observable_must_be_a_scalar():
    with pytest.raises(ValueError, match=r"reduces to shape \(3,\); wanted a scalar"):
        rv.gradient_horizon(rv.VACF(), SYSTEM, oscillators(), DYNAMICS, num_horizons=6, key=KEY)
