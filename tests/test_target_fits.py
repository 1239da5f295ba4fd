"""Fits to targets by reweighting: wells, whose every mean, covariance and weight is known."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import Well

import reverlet as rv
from reverlet import reweighting

K, T = 250.0, (300.0, 360.0)
TOPOLOGY = rv.Topology.from_elements(["Ar"])
WANTED = 1.3 * K


class Square(rv.AbstractObservable):
    """⟨x²⟩ over components, which is kT/k."""

    def record(self, system, state, initial):
        return jnp.mean(state.positions**2)

    def reduce(self, times, records, weights, ensemble=None):
        return rv.statistics.weighted_mean(weights, records[:, 0])


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

    def advance(self):
        """Compiled."""


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
