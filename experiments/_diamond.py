"""The crystal of `diamond`: its prior, its network, and what is measured of it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

import reverlet as rv

GPA = 1e4 * rv.units.BAR
TEMPERATURE = 298.15
"""K."""
EDGE = 0.35682
"""nm, of the cubic cell of 8 atoms: 3512 kg/m³."""
BOND = 0.25 * 3**0.5 * EDGE
"""nm."""
PRIOR = rv.StillingerWeber(200.0, 0.14, cutoff=1.8 * 0.14)
REACH = 0.2
"""nm, of the network: it sees the four bonds of an atom, as that of the original does."""


class AngleNetwork(rv.AbstractManyBody):
    """A network of every pair of bonds of an atom: E_i = ε Σ_{j<k} network(x_j + x_k, (x_j - x_k)², y_jk) s_j s_k, with
    the lengths x and the cosine y of the angle relative to those of the lattice, in units of what they reach at most;
    s takes bonds out smoothly between 0.18 nm and the cutoff."""

    network: eqx.nn.MLP
    cutoff: float = eqx.field(static=True)

    def atom_energy(self, i, d, j, mask):
        r = jnp.sqrt(jnp.sum(d * d, axis=1))
        t = jnp.clip((r - 0.18) / (self.cutoff - 0.18), 0, 1)
        s = jnp.where(mask, 1 - t**3 * (10 - 15 * t + 6 * t * t), 0)
        u, x = d / r[:, None], (r - BOND) / 0.03
        cosine = jnp.sum(u[:, None] * u, axis=2)
        first, second = np.triu_indices(len(r), 1)
        sums, differences = x[first] + x[second], x[first] - x[second]
        features = jnp.stack([sums, differences**2, (cosine[first, second] + 1 / 3) / 0.3], axis=1)
        return PRIOR.epsilon.astype(r.dtype) * jnp.sum(jax.vmap(self.network)(features) * s[first] * s[second])


class Bonded(rv.AbstractPotential):
    """A network with a list of its own, of bonds alone: of what the prior looks at, it needs a seventh."""

    network: AngleNetwork
    bonds: rv.Neighbors

    @property
    def cutoff(self):
        return self.network.cutoff

    def energy(self, positions, box, *, neighbors=None):
        return self.network.energy(positions, box, neighbors=self.bonds)


class Elasticity(rv.AbstractObservable):
    """The mean stress with its kinetic part (Voigt's order, tension positive) and c11, c12 and c44, GPa, from the same
    derivatives in strain."""

    constants = rv.CubicElasticConstants()

    def record(self, system, state, initial):
        return self.constants.record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        assert ensemble is not None  # as that of samples
        constants = self.constants.reduce(times, records, weights, ensemble)
        # of velocities the mean is known; the center of mass moves too
        kinetic = records.atoms[0, 0] * ensemble.thermal_energy(weights) / records.volume[0, 0]
        push = kinetic * jnp.asarray([1, 1, 1, 0, 0, 0], weights.dtype)
        stress = weights @ records.stress[:, 0]
        # around their own mean, n samples spread by a part 1/n less than around the true one
        away = records.stress[:, 0] - stress
        spread = self.constants.of(jnp.einsum("s,si,sj->ij", weights, away, away, precision=jax.lax.Precision.HIGHEST))
        missing = spread / (1 / jnp.sum(weights**2) - 1) / (kinetic / records.atoms[0, 0])
        return (stress - push) / GPA, (constants - missing) / GPA


class Diamond(eqx.Module):
    """What is simulated, a box of cubic cells, and how."""

    topology: rv.Topology
    sites: rv.State
    near: rv.Neighbors
    """Of the sites, for the prior. Atoms stay near theirs, so that one list does for all: it is unusable, and the run
    stops, once one is half the skin away."""
    bonds: rv.Neighbors
    sampler: rv.LangevinBAOAB
    batch: int = eqx.field(static=True)

    @classmethod
    def of(cls, cells: int, sampler: rv.LangevinBAOAB, batch: int) -> "Diamond":
        """So many cells along every edge of the box; `batch` samples whose derivatives are taken at a time."""
        topology, crystal = rv.lattices.diamond("C", cells, spacing=1.0)
        x = jnp.asarray(np.asarray(crystal.positions, float) * EDGE, jnp.float32)
        box = rv.OrthorhombicBox(jnp.full(3, cells * EDGE, jnp.float32))
        fitted = lambda cutoff, skin: rv.CellList.fit(x, box, cutoff=cutoff, skin=skin, room=1.0, per_atom=True)
        # bonds end before the second shell, 0.2523 nm, on which the prior does; the third counts as near, 0.2959 nm
        bonds, near = fitted(REACH, 0.05).find(x, box), fitted(PRIOR.cutoff, 0.09).find(x, box)
        return cls(topology, rv.State(x, jnp.zeros_like(x), box), near, bonds, sampler, batch)

    def system(self, network: AngleNetwork) -> rv.System:
        """The crystal in the prior with a network."""
        potential = PRIOR + Bonded(network, self.bonds)  # pyright: ignore[reportCallIssue]
        return rv.System(self.topology, potential, neighbors=self.near)  # pyright: ignore[reportCallIssue]


def fresh(hidden: int, key: PRNGKeyArray) -> AngleNetwork:
    """A network of two hidden layers, whose last weights are zero: at first there is only the prior."""
    network = eqx.nn.MLP(3, "scalar", hidden, 2, jax.nn.silu, dtype=jnp.float32, key=key)
    last = lambda n: (n.layers[-1].weight, n.layers[-1].bias)
    network = eqx.tree_at(last, network, jax.tree.map(jnp.zeros_like, last(network)))
    return AngleNetwork(network, REACH)  # pyright: ignore[reportCallIssue]


@eqx.filter_jit
def elasticity(diamond: Diamond, network: AngleNetwork, samples: rv.Samples) -> dict[str, Array]:
    """Stress and constants with their errors, GPa."""
    found = rv.expectation(Elasticity(), diamond.system(network), samples, batch=diamond.batch)
    names = ("stress", "constants")
    return dict(zip((*names, *(f"{name}_error" for name in names)), (*found.value, *found.error), strict=True))


@eqx.filter_jit
def _drawn(diamond, network, chains, num_samples, key):
    return diamond.sampler.sample(diamond.system(network), chains, num_samples, key=key)


def measured(
    diamond: Diamond, network: AngleNetwork, num_chains: int, num_samples: int, key: PRNGKeyArray
) -> dict[str, Any]:
    """The same in a run of its own from the sites, and where its chains end (nm, nm/ps)."""
    settling = 10 * num_chains
    start = diamond.sites.repeat(num_chains)
    samples, chains = _drawn(diamond, network, start, settling + num_samples, key)
    found = elasticity(diamond, network, samples[settling:])
    ends = {"positions": chains.states.positions, "velocities": chains.states.velocities}
    return {name: np.asarray(x) for name, x in {**found, **ends}.items()}
