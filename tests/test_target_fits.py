"""Fits to targets by reweighting: wells, whose every mean, covariance and weight is known."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Well, gaussian_samples, very_few
from hypothesis import given, strategies as st
from test_pools import PRESSURE, drawn

import reverlet as rv
from reverlet import reweighting
from reverlet._gauss_newton import Curvature
from reverlet._sensitivity import Linearized

K, T = 250.0, (300.0, 360.0)
TOPOLOGY = rv.Topology.from_elements(["Ar"])
WANTED = 1.3 * K


class Square(rv.AbstractObservable):
    """⟨x²⟩ over components, which is kT/k."""

    def record(self, system, state, initial):
        return jnp.mean(state.positions**2)

    def reduce(self, times, records, weights, ensemble=None):
        return rv.statistics.weighted_mean(weights, records[:, 0])


class Nowhere(Square):
    """What is no number."""

    def reduce(self, times, records, weights, ensemble=None):
        return jnp.log(-super().reduce(times, records, weights))


def system(k):
    return rv.System(TOPOLOGY, Well(k, jnp.zeros(())))


def square(t, k=WANTED):
    return rv.units.BOLTZMANN * t / k


class Exact(rv.AbstractSampler):
    """Independent draws in a well, of chains that remember nothing."""

    temperature: jax.Array

    def sample(self, system, chains, num_samples, *, key):
        chains = chains if isinstance(chains, rv.Chains) else rv.Chains(chains)
        width = jnp.sqrt(rv.units.BOLTZMANN * self.temperature / system.potential.k)
        key = jax.random.fold_in(key, chains.rounds)
        x = width * jax.random.normal(key, (num_samples, 1, 3))
        states = jax.vmap(lambda x: rv.State(x, jnp.zeros_like(x), rv.OpenBox()))(x)
        density = -0.5 * jnp.sum((x / width) ** 2, axis=(1, 2))
        chain = jnp.arange(num_samples) % len(chains)
        samples = rv.Samples(states, density, chain, rv.NVT(self.temperature))
        ends = jax.tree.map(lambda s: s[-len(chains) :], states)
        return samples, rv.Chains(ends, chains.rounds + num_samples // len(chains))


def points(error=0.02, temperatures=T):
    return [
        rv.StatePoint(
            system, rv.NVT(t), (rv.Target(Square(), square(t), error * square(t), unit="nm²", name="spread"),),
            name=f"{t:g} K",
        )
        for t in temperatures
    ]  # fmt: skip


STARTS = [rv.State(jnp.zeros((1, 3)), jnp.zeros((1, 3)), rv.OpenBox()).repeat(50)] * 2
RUN = {"num_samples": 2000, "equilibration": 1, "key": jax.random.key(0)}


def exact(ensemble):
    return Exact(ensemble.temperature)


def test_a_stiffness_of_two_temperatures_by_gauss_newton():
    """k within its error in few updates; its covariance in closed form: (k s)²/2 by the targets, and 2/(3 n) relative
    of each mean of squares by the samples."""
    fitted = reweighting.fit_targets(
        jnp.asarray(K), points(), exact, STARTS, num_updates=12, positive=lambda k: k, **RUN
    )
    history = fitted.state.history
    assert len(history.loss) < 12
    assert history.ended[-1]
    wanted = np.sqrt((0.02**2 + 2 / 3 / 2000) / 2) * fitted.values[0]
    np.testing.assert_allclose(fitted.errors[0], wanted, rtol=0.1)
    assert abs(fitted.values[0] - WANTED) < 4 * np.sqrt(2 / 3 / 2000 / 2) * WANTED


def test_a_killed_fit_goes_on_to_the_same_numbers(tmp_path):
    """With the samples, their energies and free energies as they were, of pools that have grown in the meantime."""

    class Killed(Exception):
        pass

    def kill(state):
        if state.step == 2:
            raise Killed

    options = {"num_updates": 4, "step": optax.adam(0.1), "positive": lambda k: k, "least": 0.99, **RUN}

    def run(error=0.02, **more):
        return reweighting.fit_targets(jnp.asarray(K), points(error), exact, STARTS, **options, **more)

    left_alone = run()
    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "fit", callback=kill)
    resumed = run(checkpoint=tmp_path / "fit", resume="auto")
    assert int(np.sum(left_alone.state.history.drawn > 0)) > 2  # more than at the start
    jax.tree.map(np.testing.assert_array_equal, left_alone.state.history, resumed.state.history)
    np.testing.assert_array_equal(left_alone.values, resumed.values)
    np.testing.assert_array_equal(left_alone.covariance, resumed.covariance)
    with pytest.raises(rv.CheckpointError, match="another fit"):
        run(0.03, checkpoint=tmp_path / "fit", resume="auto")


COUNTED = []


class Counting(rv.AbstractPotential):
    """A well that counts its evaluations."""

    k: jax.Array
    cutoff: None = None

    def energy(self, positions, box, *, neighbors=None):
        jax.debug.callback(lambda: COUNTED.append(1))
        return 0.5 * self.k * jnp.sum(positions**2)


def counting(k):
    return rv.System(TOPOLOGY, Counting(k))


def evaluations():
    jax.effects_barrier()
    return len(COUNTED)


def test_no_energy_is_evaluated_twice():
    first, second = (jnp.asarray(k) for k in (K, 1.1 * K))
    a, b = gaussian_samples(0, 30, K, T[0]), gaussian_samples(1, 20, 1.1 * K, T[0])
    COUNTED.clear()
    pool = rv.SamplePool(counting, first, a)
    assert evaluations() == 30
    pool = pool.at(second)
    assert evaluations() == 60
    assert pool.at(second).fitness(rv.NVT(T[0])).samples == 30
    pool = pool.add(second, b)
    assert evaluations() == 60 + 2 * 20
    pool = pool.at(first).at(second).keep([True, True])
    pool.samples()
    assert evaluations() == 100
    # as `mbar`, which evaluates them itself
    whole = rv.mbar([(system(first), a), (system(second), b)])
    got = pool.samples()
    np.testing.assert_allclose(got.log_density, whole.log_density, rtol=1e-12)
    np.testing.assert_allclose(pool.weights(rv.NVT(T[0])), jax.nn.softmax(
        jax.vmap(lambda s: -rv.NVT(T[0]).reduced_energy(system(second), s))(whole.states) - whole.log_density
    ), rtol=1e-10)  # fmt: skip


def test_a_pool_is_read_as_it_was_written(tmp_path):
    a, b = gaussian_samples(0, 30, K, T[0]), gaussian_samples(1, 20, 1.1 * K, T[0])
    pool = rv.SamplePool(system, jnp.asarray(K), a).add(jnp.asarray(1.1 * K), b)
    pool.save(tmp_path / "pool")
    found = rv.SamplePool(system, jnp.asarray(K), a[:3]).load(tmp_path / "pool")
    jax.tree.map(np.testing.assert_array_equal, found._arrays(), pool._arrays())
    assert [s.model for s in found.sets] == [s.model for s in pool.sets]


def test_a_pool_at_constant_pressure():
    """An ideal gas's volumes: the mean volume at another pressure is kT/p, and volumes are judged as energies are."""
    volume = lambda p, samples: rv.expectation(Volume(), system(jnp.asarray(K)), samples, ensemble=rv.NPT(T[0], p))
    pool = rv.SamplePool(system, jnp.asarray(K), drawn(0, 2000, K, T[0], PRESSURE))
    pool = pool.add(jnp.asarray(K), drawn(1, 2000, K, T[0], 1.4 * PRESSURE))
    assert pool.energies.shape == (4000, 1)  # one model, of which every energy is known once
    p = 1.2 * PRESSURE
    found = volume(jnp.asarray(p), pool.samples())
    assert abs(found.value - rv.units.BOLTZMANN * T[0] / p) < 4 * found.error
    assert found.effective_samples > 3000
    np.testing.assert_allclose(pool.fitness(rv.NPT(T[0], p)).effective_samples, found.effective_samples, rtol=1e-9)
    h, value = 1e-3, lambda p: volume(p, pool.samples()).value
    slope = (value(p + h) - value(p - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(value)(p), slope, rtol=1e-6)
    verdict = reweighting.pool_verdict(pool.sets[0].samples, pool.energies[:2000, 0], name="gas")
    assert [s.name for s in verdict.series] == ["energy, kJ/mol", "volume, nm³"]
    assert verdict.is_good


class Volume(rv.AbstractObservable):
    """nm³."""

    def record(self, system, state, initial):
        return state.box.volume

    def reduce(self, times, records, weights, ensemble=None):
        return rv.statistics.weighted_mean(weights, records[:, 0])


PYMBAR = """
import json, sys
import numpy as np
from pymbar import timeseries
series = [np.array(s) for s in json.load(sys.stdin)]
both = timeseries.statistical_inefficiency(series[0]), timeseries.statistical_inefficiency_multiple(series)
print(json.dumps(both))
"""


@pytest.mark.slow
def test_statistical_inefficiency_as_pymbar():
    pytest.importorskip("pymbar")
    series = np.cumsum(np.asarray(jax.random.normal(jax.random.key(0), (3, 500))), axis=1)
    series = series - 0.9 * np.roll(series, 1, axis=1)
    done = subprocess.run([sys.executable, "-c", PYMBAR], input=json.dumps(series.tolist()), capture_output=True,
                          text=True, check=True)  # fmt: skip
    wanted = json.loads(done.stdout.splitlines()[-1])
    found = [reweighting.statistical_inefficiency(s) for s in (series[:1], series)]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_sets_that_no_longer_help_are_dropped():
    pool = rv.SamplePool(system, jnp.asarray(K), gaussian_samples(0, 400, K, T[0]))
    pool = pool.add(jnp.asarray(2 * K), gaussian_samples(1, 400, 2 * K, T[0]))
    pool = pool.at(jnp.asarray(400 * K))
    fitness = pool.fitness(rv.NVT(T[0]))
    assert fitness.effective_samples < 40
    assert fitness.effective_samples <= fitness.effective_samples_by_entropy
    kept = pool.at(jnp.asarray(2 * K)).without_idle([rv.NVT(T[0])], least=0.45)
    assert len(kept.sets) == 1
    np.testing.assert_array_equal(kept.sets[0].samples.log_density, pool.sets[1].samples.log_density)


class Gap(rv.AbstractPhaseDifference):
    """⟨x²⟩ there less that here, nm²."""

    other: str

    @property
    def observables(self):
        return Square(), Square()

    def combine(self, here, there, ensemble_here, ensemble_there):
        return there - here


def test_a_difference_of_two_points_and_one_pool_for_both():
    """Two exact samplers whose samples are used at both temperatures: gradients by finite differences, and a fit."""
    gap = square(T[1]) - square(T[0])
    cold = rv.StatePoint(system, rv.NVT(T[0]), (rv.Target(Gap("hot"), gap, 0.05 * gap, name="gap"),), name="cold")
    hot = rv.StatePoint(system, rv.NVT(T[1]), (), name="hot")
    fitted = reweighting.fit_targets(
        jnp.asarray(K), (cold, hot), exact, STARTS, num_updates=4, share=True, positive=lambda k: k, **RUN
    )
    assert len(fitted.samples[0]) == len(fitted.samples[1])
    drew = [set(np.asarray(fitted.samples[0].chain)[np.asarray(fitted.samples[0].pool.state) == k]) for k in (0, 1)]
    assert not set.intersection(*drew)  # chains of two temperatures, whatever their numbers
    assert abs(fitted.values[0] / WANTED - 1) < 4 * fitted.errors[0] / WANTED
    found = reweighting.sensitivities(fitted.model, (cold, hot), fitted.samples)
    value = lambda k: sum(
        s * rv.expectation(Square(), system(k), own, ensemble=p.ensemble).value
        for s, p, own in zip((-1, 1), (cold, hot), fitted.samples, strict=True)
    )
    h = 1e-3
    np.testing.assert_allclose(
        found.derivatives[0, 0], (value(fitted.model + h) - value(fitted.model - h)) / (2 * h), rtol=1e-6
    )
    assert "gap (cold)" in str(fitted)


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_refused():
    k, two = jnp.asarray(K), {"k": jnp.asarray(K), "idle": jnp.asarray(1.0)}
    run = lambda model, points, starts=STARTS, **more: reweighting.fit_targets(
        model, points, more.pop("sampler", exact), starts, num_updates=1, **{**RUN, **more}
    )
    by_name = lambda p: rv.StatePoint(lambda m: system(m["k"]), p.ensemble, p.targets, name=p.name)
    with pytest.raises(ValueError, match=r"idle.* change no target"):
        run(two, [by_name(p) for p in points()])
    held = run(two, [by_name(p) for p in points()], priors=[reweighting.Prior(lambda m: m["idle"], 2.0, 0.1)])
    np.testing.assert_allclose(held.values[held.parameters.index("['idle']")], 2.0, rtol=1e-2)
    with pytest.raises(ValueError, match="several have the names"):
        run(k, points(temperatures=(300.0, 300.0)))
    lonely = rv.StatePoint(system, rv.NVT(300.0), (rv.Target(Gap("gas"), 1.0, 1.0),), name="liquid")
    with pytest.raises(ValueError, match="'gas', which there is not"):
        run(k, [lonely], STARTS[:1])
    few = [jax.tree.map(lambda x: x[:5], s) for s in STARTS]
    with pytest.raises(ValueError, match=r"'300 K'(.|\n)*TOO FEW(.|\n)*num_samples"):
        run(k, points(), few, num_samples=5)
    assert np.all(run(k, points(), few, num_samples=10).state.history.drawn >= 20)
    nowhere = [rv.StatePoint(system, rv.NVT(300.0), (rv.Target(Nowhere(), 1.0, 1.0, name="depth"),), name="300 K")]
    with pytest.raises(rv.SimulationError, match=r"value of depth.* not finite"):
        run(k, nowhere, STARTS[:1])
    with pytest.raises(ValueError, match="draws from"):
        run(k, points(), sampler=[Exact(jnp.asarray(310.0))] * 2)
    with pytest.raises(ValueError, match="wanted states for each"):
        run(k, points(), STARTS[:1])
    drifting = gaussian_samples(0, 400, K, T[0])
    chain = jnp.arange(400) % 20
    energies = np.asarray(jnp.arange(400) // 20 * 0.3 + jax.random.normal(jax.random.key(1), (400,)))
    drifting = rv.Samples(drifting.states, drifting.log_density, chain, drifting.ensemble)
    verdict = reweighting.pool_verdict(drifting, energies, name="melt")
    assert not verdict.is_equilibrated
    short = rv.Samples(drifting.states, drifting.log_density, jnp.arange(400) % 200, drifting.ensemble)
    assert not reweighting.pool_verdict(short, np.arange(400) // 200 * 100.0 + energies).is_equilibrated
    assert "'melt': NOT" in str(verdict)
    assert "longer `equilibration`" in str(verdict)
    pool = rv.SamplePool(system, k, gaussian_samples(0, 50, K, T[0]))
    with pytest.raises(ValueError, match="of 2 atoms"):
        pool.add(k, gaussian_samples(0, 50, K, T[0], atoms=2))
    with pytest.raises(ValueError, match="another density"):
        pool.add(jnp.asarray(2 * K), gaussian_samples(0, 50, K, T[0]))
    other = gaussian_samples(0, 50, K, T[0])
    other = rv.Samples(other.states, other.log_density, other.chain, rv.NPT(T[0], 1.0))
    with pytest.raises(ValueError, match=r"NPT and NVT|NVT and NPT"):
        pool.add(k, other)


def test_a_step_is_judged_in_all_directions():
    """Of two parameters whose sum is known and whose difference is not, a sum that is off is no noise, although the
    noise of each of them is larger than the step."""
    n = 64
    samples = gaussian_samples(0, n, K, T[0])
    jacobian = np.array([[1.0, 1.0], [0.01, -0.01]])
    deviations = np.random.default_rng(0).normal(size=(n, 2)) / np.sqrt(n)  # their sum has a standard deviation of one
    for off, least, most in ((5.0, 3.0, 4.0), (0.0, 0.0, 1e-6)):
        group = (samples, deviations, np.zeros((n, 2, 2)))
        for units in ([1.0, 1.0], [1e-12, 1e9]):
            found = Linearized(np.array([off, 0.0]), jacobian * units, (group,), ())
            curvature = Curvature.of(found, reweighting.SquaredLoss(), np.zeros(1), np.zeros((1, 2)))
            assert least <= curvature.step_over_noise(found) <= most
            np.testing.assert_allclose(jacobian * units @ curvature.step(0.0), [-off, 0.0], atol=1e-9)
            assert np.all(np.sqrt(np.diag(curvature.covariance(found))) * units > 1.0)


@very_few
@given(seed=st.integers(0, 10**6), chains=st.sampled_from([2, 40]))
def test_covariances_of_sums(seed, chains):
    """They are those of errors, no combination has less than none, and it does not matter which combinations, in which
    units, are looked at."""
    rng = np.random.default_rng(seed)
    x = np.array([1e-6, 1.0, 1e4]) * (rng.normal(size=(160, 1)) + 1e-3 * rng.normal(size=(160, 3)))
    x[1:] += 0.9 * x[:-1]
    samples = gaussian_samples(0, 160, K, T[0])
    samples = rv.Samples(samples.states, samples.log_density, jnp.arange(160) % chains, samples.ensemble)
    covariance = samples.covariance_of_sum(x)
    for k in range(3):
        alone = samples.covariance_of_sum(x[:, [k]])[0, 0]
        np.testing.assert_allclose(alone, float(samples.error_of_sum(jnp.asarray(x[:, k]))) ** 2, rtol=1e-4)
        assert covariance[k, k] >= alone * (1 - 1e-9)
    assert np.all(np.isnan(samples.covariance_of_sum(np.where(np.arange(160)[:, None] == 7, np.nan, x))))
    scales = np.sqrt(np.diag(covariance))
    assert np.linalg.eigvalsh(covariance / np.outer(scales, scales))[0] > 0
    other = rng.normal(size=(3, 3)) / np.array([1e-6, 1.0, 1e4])
    expected = other @ covariance @ other.T
    np.testing.assert_allclose(
        samples.covariance_of_sum(x @ other.T), expected, rtol=1e-4, atol=1e-8 * np.max(expected)
    )


def test_statistical_inefficiency_of_an_autoregression():
    """g = (1 + c)/(1 - c); of independent numbers one."""
    c, noise = 0.8, np.asarray(jax.random.normal(jax.random.key(0), (20000, 8)))
    x = np.zeros_like(noise)
    x[0] = noise[0]
    for t in range(1, len(x)):
        x[t] = c * x[t - 1] + np.sqrt(1 - c**2) * noise[t]
    np.testing.assert_allclose(reweighting.statistical_inefficiency(x.T), (1 + c) / (1 - c), rtol=0.05)
    assert reweighting.statistical_inefficiency(noise.T) < 1.05


@pytest.mark.parametrize("loss", [reweighting.HuberLoss(), reweighting.CauchyLoss(), reweighting.SoftL1Loss()])
def test_robust_losses_begin_as_squares_and_pull_less(loss):
    np.testing.assert_allclose(loss.cost(jnp.array([0.0, 1e-6])), [0, 1e-6], rtol=1e-5)
    slope = jax.vmap(jax.grad(lambda s: loss.cost(s[None])[0]))
    assert jnp.all(jnp.diff(slope(jnp.linspace(0.0, 100, 50))) <= 1e-12)
    assert slope(jnp.array([100.0]))[0] < 0.2


def test_a_fit_within_its_noise_draws_more_before_it_ends():
    """Twice as many samples, up to `most_samples`; only then is it over."""
    fitted = reweighting.fit_targets(
        jnp.asarray(WANTED), points(temperatures=T[:1]), exact, STARTS[:1], num_updates=9, most_samples=4000,
        positive=lambda k: k, **RUN
    )  # fmt: skip
    history = fitted.state.history
    drawn = np.asarray(history.drawn)[:, 0]
    assert history.ended[-1]
    assert not np.any(history.ended[:-1])
    assert list(drawn[drawn > 0]) == [2000, 4000]


@pytest.mark.slow
def test_sensitivities_are_differences_of_separate_simulations():
    """Of density and energy of a liquid at constant pressure, within errors, and more than four of these off zero."""
    topology, start = rv.fcc("Ar", 2, density=800.0)  # u/nm³
    ensemble = rv.NPT(130.0, 400 * rv.units.BAR)
    langevin = rv.LangevinBAOAB(130.0, 5.0, dt=0.005, num_steps=40)
    sampler = rv.StochasticCellRescaling(langevin, ensemble.pressure, period=1.0, compressibility=0.003)
    argon = lambda epsilon: rv.LennardJones(0.34, epsilon, cutoff=0.5, truncation=rv.SmoothSwitch(0.45))
    to_system = lambda potential: rv.System(topology, potential)
    targets = tuple(
        rv.Target(o, v, 0.01 * abs(v), unit=o.unit) for o, v in ((rv.Density(), 800.0), (rv.TotalEnergy(), -100.0))
    )
    point = rv.StatePoint(to_system, ensemble, targets)

    def run(epsilon, num, key):
        model = argon(epsilon)
        _, chains = sampler.sample(to_system(model), start.repeat(32), 32 * 40, key=key)
        return model, sampler.sample(to_system(model), chains, 32 * num, key=jax.random.fold_in(key, 1))[0]

    keys = jax.random.split(jax.random.key(3), 3)
    model, samples = run(1.0, 200, keys[0])
    table = reweighting.sensitivities(model, [point], [samples], trainable="epsilon")
    h = 0.04
    up, down = (run(1 + s * h, 100, k) for s, k in zip((1, -1), keys[1:], strict=True))
    measure = lambda run: rv.measure([t.observable for t in targets], to_system(run[0]), run[1])
    for k, (a, b) in enumerate(zip(measure(up), measure(down), strict=True)):
        difference, error = (a.value - b.value) / (2 * h), np.hypot(a.error, b.error) / (2 * h)
        slope, own = table.derivatives[k, 0], table.errors[k, 0]
        assert abs(slope - difference) < 4 * np.hypot(error, own)
        assert abs(difference) > 4 * error
