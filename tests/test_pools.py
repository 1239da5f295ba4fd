"""Many reference states as one: against closed forms, another code, and the scatter of repetitions."""

import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHARED, Position, gaussian_samples, well

import reverlet as rv
from reverlet._mbar import solve

K, T = 250.0, 300.0
KT = rv.units.BOLTZMANN * T
TOPOLOGY = rv.Topology.from_elements(["Ar"])
REFERENCE = SHARED / "reference" / "mbar_two_wells.npz"


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference values are not here")
def test_two_wells_as_in_the_reference():
    """Free energies, weights, sizes, a mean and its derivatives, to 1e-10; from single precision states as well."""
    known = dict(np.load(REFERENCE))
    np.testing.assert_allclose(solve(known["u_kn"].T, known["N_k"]), known["f_k"], atol=1e-10)
    # reduced energies of the file: k (x - x0)²/2 over its RT
    temperature = float(known["R"] * known["T"]) / rv.units.BOLTZMANN
    x = jnp.zeros((len(known["x"]), 1, 3)).at[:, 0, 0].set(known["x"])
    states = jax.vmap(lambda x: rv.State(x, jnp.zeros_like(x), rv.OpenBox()))(x)
    first = int(known["N_k"][0])
    pool = []
    for k, part in enumerate((slice(None, first), slice(first, None))):
        system = rv.System(TOPOLOGY, Along(jnp.asarray(known["k"][k]), jnp.asarray(known["x0"][k])))
        own = jax.tree.map(lambda a, part=part: a[part], states)
        pool.append((system, rv.Samples.of(system, rv.NVT(temperature), own)))
    samples = rv.mbar(pool)
    np.testing.assert_allclose(samples.pool.free_energies, known["f_k"], atol=1e-10)

    def mean(k, x0):
        return rv.expectation(Position(), rv.System(TOPOLOGY, Along(k, x0)), samples)

    at = (jnp.asarray(known["k_target"]), jnp.asarray(known["x0_target"]))
    found = mean(*at)
    np.testing.assert_allclose(found.weights, known["weights"], atol=1e-10 * np.max(known["weights"]))
    np.testing.assert_allclose(found.effective_samples, known["ess_total"], rtol=1e-10)
    # the mean is over three components, of which two are zero
    np.testing.assert_allclose(3 * found.value[0], known["mean_x"], rtol=1e-10)
    slopes = jax.grad(lambda p: 3 * mean(*p).value[0])(at)
    np.testing.assert_allclose(slopes, (known["dmeanx_dk"], known["dmeanx_dx0"]), rtol=1e-9)


class Along(rv.AbstractPotential):
    """A harmonic well along x."""

    k: jax.Array
    center: jax.Array
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        return 0.5 * self.k * jnp.sum((positions[:, 0] - self.center) ** 2)


PYMBAR = """
import json, sys
import numpy as np
from pymbar import MBAR
u, counts = (np.array(x) for x in json.load(sys.stdin))
found = MBAR(u.T, counts, solver_protocol=({"method": "adaptive", "tol": 1e-13},))
print(json.dumps([found.f_k.tolist(), found.compute_overlap()["matrix"].tolist(),
                  found.compute_free_energy_differences()["dDelta_f"][0].tolist()]))
"""


@pytest.mark.slow
def test_as_pymbar():
    """Another implementation, in a process of its own, since it changes the precision of the whole process."""
    pytest.importorskip("pymbar")
    pool = pool_of(0, 300)
    samples = rv.mbar(pool)
    columns = [
        jax.vmap(lambda s, own=own, system=system: own.ensemble.reduced_energy(system, s))(samples.states)
        for system, own in pool
    ]
    given = json.dumps([np.stack(columns, 1).tolist(), [len(own) for _, own in pool]])
    done = subprocess.run([sys.executable, "-c", PYMBAR], input=given, capture_output=True, text=True, check=True)
    f, overlap, errors = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(samples.pool.free_energies, f, atol=1e-10)
    np.testing.assert_allclose(samples.pool.overlap, overlap, atol=1e-10)
    # theirs is the asymptotic formula, ours the jackknife, which has noise
    np.testing.assert_allclose(samples.pool.free_energy_errors[1:], errors[1:], rtol=0.25)


PRESSURE = 60.0  # kJ/mol/nm³: volumes near 0.04 nm³
STATES = ((K, T, PRESSURE), (1.4 * K, 1.2 * T, PRESSURE), (K, T, 1.4 * PRESSURE))


def drawn(seed, n, k, temperature, pressure, chains=None, correlation=0.0):
    """Exact samples of an atom in a well, in a box that costs p V and nothing else: V is exponential, of mean kT/p.

    Those of a chain follow an autoregression with this `correlation` between neighbors, each number as if it were
    drawn by itself.
    """
    chains = n if chains is None else chains
    noise = jax.random.normal(jax.random.key(seed), (n // chains, chains, 4))

    def follow(before, new):
        now = correlation * before + jnp.sqrt(1 - correlation**2) * new
        return now, now

    _, rest = jax.lax.scan(follow, noise[0], noise[1:])
    noise = jnp.concatenate([noise[:1], rest]).reshape(n, 4)
    kt = rv.units.BOLTZMANN * temperature
    x = jnp.sqrt(kt / k) * noise[:, None, :3]
    volume = -kt / pressure * jnp.log(jax.scipy.special.ndtr(-noise[:, 3]))
    box = lambda v: rv.OrthorhombicBox(jnp.full(3, jnp.cbrt(v)))
    states = jax.vmap(lambda x, v: rv.State(x, jnp.zeros_like(x), box(v)))(x, volume)
    density = -0.5 * jnp.sum(noise[:, :3] ** 2, axis=1) - pressure * volume / kt
    chain = jnp.tile(jnp.arange(chains), n // chains)
    return rv.Samples(states, density, chain, rv.NPT(temperature, pressure))


def pool_of(seed, n, chains=None, correlation=0.0):
    seeds = 3 * seed + np.arange(3)
    draw = eqx.filter_jit(drawn)
    return [
        (rv.System(TOPOLOGY, well(k)), draw(s, n, k, t, p, chains, correlation))
        for s, (k, t, p) in zip(seeds, STATES, strict=True)
    ]


class SquareAndVolume(rv.AbstractObservable):
    """⟨x²⟩ over all components, and ⟨V⟩."""

    def record(self, system, state, initial):
        return jnp.stack([jnp.mean(state.positions**2), state.box.volume])

    def reduce(self, times, records, weights, ensemble=None):
        return rv.statistics.weighted_mean(weights, records[:, 0])


TARGET = (1.1 * K, 1.05 * T, 1.2 * PRESSURE)


@eqx.filter_jit
def at_target(samples, target=TARGET):
    k, temperature, pressure = target
    system, ensemble = rv.System(TOPOLOGY, well(k)), rv.NPT(temperature, pressure)
    return rv.expectation(SquareAndVolume(), system, samples, ensemble=ensemble, throw=False)


def closed_form(k, temperature, pressure):
    return jnp.stack([rv.units.BOLTZMANN * temperature / k, rv.units.BOLTZMANN * temperature / pressure])


def test_three_states_at_two_temperatures_and_two_pressures():
    """Z = (2πkT/k)^{3/2} kT/p: free energies, means at another state, and the derivatives of these by k, T and p."""
    pool = pool_of(0, 8000)
    samples = rv.mbar(pool)
    minus_f = [1.5 * np.log(t / k) + np.log(t / p) for k, t, p in STATES]
    wanted = minus_f[0] - np.array(minus_f)
    found, errors = samples.pool.free_energies, samples.pool.free_energy_errors
    assert np.all(np.abs(found - wanted) < 4 * errors + 1e-12)
    assert np.all(errors < 0.02)
    np.testing.assert_allclose(np.sum(samples.pool.overlap, axis=1), 1, rtol=1e-12)
    assert np.all(samples.pool.effective_samples > 8000)  # more than each state's own
    estimate = at_target(samples)
    assert np.all(np.abs(estimate.value - closed_form(*TARGET)) < 4 * estimate.error)
    assert np.all(estimate.error < 0.02 * estimate.value)
    slopes = jax.jacrev(lambda target: at_target(samples, target).value)(TARGET)
    relative = np.stack([s * x / estimate.value for s, x in zip(slopes, TARGET, strict=True)], axis=1)
    # ⟨x²⟩ = kT/k and ⟨V⟩ = kT/p; relative errors of a covariance of 24,000: some per cent
    np.testing.assert_allclose(relative, [[-1, 1, 0], [0, 1, -1]], atol=0.06)
    direction = np.array([0.01, -0.02, 0.03]) * np.array(TARGET)
    value = lambda h: at_target(samples, tuple(np.array(TARGET) + h * direction)).value
    numeric = (value(1e-4) - value(-1e-4)) / 2e-4  # error of its square times a third derivative, 1e-11
    np.testing.assert_allclose(sum(s * d for s, d in zip(slopes, direction, strict=True)), numeric, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("chains", "correlation"), [(4, 0.9), (60, 0.0), (40, 0.9)])
def test_stated_errors_are_the_scatter(chains, correlation):
    """Over 64 repetitions: of means by one state, by three, and of free energies; of correlated chains as well."""
    repeats, n = 64, 1200 if correlation else 240

    def one(seed):
        samples = rv.mbar(pool_of(1000 + seed, n, chains, correlation))
        first = pool_of(1000 + seed, n, chains, correlation)[0][1]
        pooled, alone = at_target(samples), at_target(first)
        found = samples.pool
        values = (pooled.value, alone.value, found.free_energies[1:])
        return values, (pooled.error, alone.error, found.free_energy_errors[1:]), pooled.blocks

    values, errors, blocks = jax.tree.map(lambda *x: np.stack(x), *map(one, range(repeats)))
    assert np.all(blocks == 3 * (chains if chains >= 32 else 32))
    for value, error in zip(values, errors, strict=True):
        scatter = np.std(value, axis=0, ddof=1)
        # the scatter itself is known to 1/sqrt(126) = 9 %, and the mean of several to somewhat less
        ratio = np.sqrt(np.mean(error**2, axis=0)) / scatter
        np.testing.assert_allclose(np.mean(ratio), 1, atol=0.2)
        np.testing.assert_allclose(ratio, 1, atol=0.37)


@pytest.mark.slow
def test_errors_of_sets_whose_chains_go_on():
    """Three sets of 40 chains, correlated over two sets: means of the pool scatter by what it says, over 64
    repetitions."""
    repeats, chains, n, states = 64, 40, 400, STATES[0]

    def one(seed):
        drew = eqx.filter_jit(drawn)(seed, 3 * n, *states, chains, float(np.exp(-1 / (2 * n / chains))))
        pool = rv.SamplePool(lambda k: rv.System(TOPOLOGY, well(k)), jnp.asarray(K), drew[:n])
        pool = pool.add(jnp.asarray(K), drew[n : 2 * n]).add(jnp.asarray(K), drew[2 * n :])
        estimate = at_target(pool.samples())
        return estimate.value, estimate.error

    values, errors = map(np.stack, zip(*map(one, range(repeats)), strict=True))
    # the scatter is known to 9 %
    ratio = np.sqrt(np.mean(errors**2, axis=0)) / np.std(values, axis=0, ddof=1)
    np.testing.assert_allclose(ratio, 1, atol=0.25)


def test_some_of_a_pool():
    """A part of a pool, other parts of other states, is a pool of its own: with it, a mean is still right."""
    samples = rv.mbar(pool_of(0, 4000))
    some = samples[np.r_[0:4000, 4000:5000, 8000:10000]]
    np.testing.assert_array_equal(some.pool.counts, [4000, 1000, 2000])
    estimate = at_target(some)
    assert np.all(np.abs(estimate.value - closed_form(*TARGET)) < 4 * estimate.error)
    assert np.all(estimate.error < 0.03 * estimate.value)
    first = at_target(samples[:4000])  # all of one state
    alone = at_target(pool_of(0, 4000)[0][1])
    np.testing.assert_allclose(first.weights, alone.weights, rtol=1e-9)


def test_a_constant_of_the_energy_does_not_matter():
    """Networks have zeros of their own: states a thousand kT apart by that alone."""
    wells = [(K, 0.0), (1.2 * K, 2500.0)]
    systems = [rv.System(TOPOLOGY, well(k) + Offset(jnp.asarray(c))) for k, c in wells]
    drawn_from = [gaussian_samples(i, 400, k, T) for i, (k, _) in enumerate(wells)]
    found = rv.mbar(list(zip(systems, drawn_from, strict=True))).pool.free_energies[1]
    plain = rv.mbar([(rv.System(TOPOLOGY, well(k)), s) for (k, _), s in zip(wells, drawn_from, strict=True)])
    np.testing.assert_allclose(found - 2500 / KT, plain.pool.free_energies[1], atol=1e-9)


class Offset(rv.AbstractPotential):
    """A constant."""

    value: jax.Array
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        return self.value.astype(positions.dtype)


def test_energies_of_large_systems():
    """What all states have in common does not matter, however large and different from sample to sample it is."""
    rng, centers, counts = np.random.default_rng(0), 0.5 * np.arange(3), np.full(3, 500)
    u = 0.5 * (np.repeat(centers, counts)[:, None] + rng.normal(size=(1500, 1)) - centers) ** 2
    np.testing.assert_allclose(solve(u + 1e6 + 300 * rng.normal(size=(1500, 1)), counts), solve(u, counts), atol=1e-8)


def test_one_state_is_boltzmann_reweighting():
    """Its f is zero, and nothing of the error is the uncertainty of a free energy."""
    samples = gaussian_samples(0, 500, K, T)
    system, other = (rv.System(TOPOLOGY, well(k)) for k in (K, 1.1 * K))
    pooled, alone = (rv.expectation(Position(), other, s) for s in (rv.mbar([(system, samples)]), samples))
    np.testing.assert_allclose(pooled.value, alone.value, rtol=1e-12)
    np.testing.assert_allclose(pooled.weights, alone.weights, rtol=1e-11)
    np.testing.assert_allclose(pooled.error, alone.error, rtol=1e-9)


def test_single_precision():
    """The free energies are solved in double precision whatever the default dtype."""
    ks = (250.0, 300.0)
    with jax.enable_x64(False):
        pool = [(rv.System(TOPOLOGY, well(k)), gaussian_samples(i, 500, k, 300.0)) for i, k in enumerate(ks)]
        samples = rv.mbar(pool)
        assert samples.log_density.dtype == samples.pool.shares.dtype == np.float32
    x = np.asarray(samples.states.positions, float)
    energies = 0.5 * np.array(ks) * np.sum(x**2, axis=(1, 2))[:, None]
    wanted = solve(energies / (rv.units.BOLTZMANN * 300.0), np.array([500, 500]))[1]
    got = float(samples.pool.free_energies[1])
    assert abs(got - wanted) < 1e-6  # the energies are single


@pytest.mark.parametrize(
    ("pool", "match"),
    [
        (lambda: [], "empty pool"),
        (lambda: [(SYSTEM, rv.mbar([(SYSTEM, SAMPLES)]))], "State 0 of the pool is a pool itself"),
        (
            lambda: [(SYSTEM, rv.Samples(SAMPLES.states, SAMPLES.log_density, SAMPLES.chain))],
            "state 0 do not know their ensemble",
        ),
        (lambda: [(SYSTEM, SAMPLES), pool_of(0, 40)[0]], "samples of NPT and NVT"),
        (
            lambda: [(SYSTEM, eqx.tree_at(lambda s: s.ensemble, s, rv.NVT(T))) for _, s in pool_of(0, 40)],
            "come from different boxes",
        ),
        (lambda: [(rv.System(TOPOLOGY, well(1.1 * K)), SAMPLES)], "state 0 were drawn from another density"),
        (
            lambda: [(rv.System(TOPOLOGY, well(K, c)), gaussian_samples(0, 40, K, T, c)) for c in (0.0, 3.0)],
            r"States \[1\] of the pool do not overlap with \[0\].*half-way",
        ),
    ],
)
def test_pools_that_are_none(pool, match):
    with pytest.raises(ValueError, match=match):
        rv.mbar(pool())


SYSTEM, SAMPLES = rv.System(TOPOLOGY, well(K)), gaussian_samples(0, 40, K, T)


def test_pools_are_known_numbers():
    with pytest.raises(ValueError, match=r"outside `jax\.jit`"):
        jax.jit(lambda k: rv.mbar([(rv.System(TOPOLOGY, well(k)), SAMPLES)]).log_density)(K)
