"""How the samples of a fit to many targets are kept worth something."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from ._pool_verdict import FEWEST, PoolVerdict, pool_verdict, require_good
from ._pools import SamplePool
from ._sampler import AbstractSampler, Chains, Samples
from ._sensitivity import point_name
from ._targets import StatePoint

_ATTEMPTS = 3
"""How often samples are drawn that drift, or of which too few are independent."""


class Carry(eqx.Module):
    pools: tuple[SamplePool | None, ...]
    chains: tuple[Chains, ...]
    wanted: np.ndarray
    """How many samples are drawn at a time at every point."""
    quiet: np.ndarray
    """In how many updates one after the other the step was within its noise."""


class Draw(eqx.Module):
    """How pools are kept worth something."""

    points: tuple[StatePoint, ...]
    samplers: tuple[AbstractSampler, ...]
    pools: tuple[int, ...]
    equilibration: int
    least: float

    def ready(self, model: PyTree, carry: Carry, key: PRNGKeyArray, *, refuse: bool = True) -> tuple[Carry, np.ndarray]:
        """Pools that are worth something for a model, and how many samples were drawn; where `refuse`, none that is
        not to be trusted."""
        pools, chains, drawn = list(carry.pools), list(carry.chains), np.zeros(len(self.points), int)
        for g, pool in enumerate(pools):
            pools[g] = None if pool is None else pool.at(model)
        for q, point in enumerate(self.points):
            g, n = self.pools[q], int(carry.wanted[q])
            pool = pools[g]
            if pool is not None and pool.fitness(point.ensemble).effective_samples >= self.least * n:
                continue
            others = [p.ensemble for k, p in enumerate(self.points) if self.pools[k] == g]
            if pool is not None and max(pool.fitness(e).effective_samples for e in others) < FEWEST:
                pool = None  # nothing of it helps
            grown, chains[q], drawn[q] = self._drawn(q, model, pool, chains[q], n, jax.random.fold_in(key, q), refuse)
            pools[g] = grown.reachable().without_idle(others, most=3 * len(others))
        return Carry(tuple(pools), tuple(chains), carry.wanted, carry.quiet), drawn

    def _drawn(self, q, model, pool, chains, n, key, refuse):
        point, system, kept = self.points[q], self.points[q].system(model), None
        for attempt in range(_ATTEMPTS):
            own = jax.random.fold_in(key, attempt)
            if self.equilibration and kept is None:
                _, chains = self.samplers[q].sample(system, chains, len(chains) * self.equilibration, key=own)
            samples, chains = self.samplers[q].sample(system, chains, n, key=own)
            _require_ensemble(samples, point, q)
            samples = samples if kept is None else _together(kept, samples)
            grown = SamplePool(point.system, model, samples) if pool is None else pool.add(model, samples)
            verdict = self.verdict(q, grown)
            if verdict.is_good or attempt == _ATTEMPTS - 1:
                if refuse:
                    require_good([verdict])
                return grown, chains, len(samples)
            # what drifts is thrown away; what is too few is added to
            kept = samples if verdict.is_equilibrated else None
        raise AssertionError

    def verdict(self, q: int, pool: SamplePool) -> PoolVerdict:
        """On the samples that were drawn last at a point, or in its pool."""
        point, ends = self.points[q], np.cumsum(pool.counts)
        own = [k for k, s in enumerate(pool.sets) if eqx.tree_equal(s.samples.ensemble, point.ensemble)]
        k = own[-1] if own else len(pool.sets) - 1
        energies = pool.energies[ends[k] - pool.counts[k] : ends[k], pool.sets[k].model]
        count = pool.fitness(point.ensemble).effective_samples
        return pool_verdict(
            pool.sets[k].samples, energies, name=point.name or f"number {q}", effective_samples=count, of=len(pool)
        )

    def fitness(self, pools):
        """Of every point."""
        return [pools[g].fitness(p.ensemble) for g, p in zip(self.pools, self.points, strict=True)]

    def samples(self, pools) -> tuple[Samples, ...]:
        """Of every point."""
        return tuple(pools[g].samples(p.ensemble) for g, p in zip(self.pools, self.points, strict=True))


def _together(first: Samples, more: Samples) -> Samples:
    """Of the same chains, one after the other."""
    own = ((s.states, s.log_density, s.chain) for s in (first, more))
    states, density, chain = jax.tree.map(lambda *x: jnp.concatenate(x), *own)
    return Samples(states, density, chain, first.ensemble)


def _require_ensemble(samples, point, q):
    if samples.ensemble is None or not eqx.tree_equal(samples.ensemble, point.ensemble):
        raise ValueError(
            f"The sampler of {point_name(point, q)} draws from {samples.ensemble}, and the state point is at"
            f" {point.ensemble}; wanted the same."
        )
