import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._ensemble import AbstractEnsemble, require_ensemble
from .._fields import AbstractChecked
from .._misc import as_array, is_concrete, require_count, require_instance, require_key
from .._state import State, maxwell_boltzmann
from .._statistics import Blocks, blocks_of, require_chain
from .._system import System
from .._topology import Topology


class Pool(eqx.Module):
    """What MBAR found of a pool of samples from several states: see `mbar`."""

    free_energies: Float[Array, " states"]
    """f_k = -ln Z_k, without unit, relative to the first state."""
    free_energy_errors: Float[Array, " states"]
    """Their standard errors."""
    overlap: Float[Array, "states states"]
    """Of two states, how much of what one drew could have come from the other; rows sum to one (Klimovich, Shirts and
    Mobley, J. Comput. Aided Mol. Des. 29, 397 (2015)). Neighbors below 0.03 hold on to one another badly."""
    effective_samples: Float[Array, " states"]
    """Kish's effective number of samples that all of the pool has for every state."""
    counts: Float[Array, " states"]
    """How many samples each state drew."""
    shares: Float[Array, "samples states"]
    """N_k exp(f_k - u_k(x_i)) over its sum over k: how probable it is that sample i came from state k."""
    state: Int[Array, " samples"]
    """Which state drew it."""
    ensembles: tuple[AbstractEnsemble, ...]
    """Of every state."""

    def some(self, index: Any) -> tuple["Pool", Float[Array, " samples"]]:
        """The pool of some of the samples, and what is added to the logarithms of their densities: that of a mixture of
        fewer of each state. The f_k and their errors are still those of all."""
        shares, state = self.shares[index], self.state[index]
        counts = jnp.zeros_like(self.counts).at[state].add(1)
        shares = shares * (counts / self.counts)
        total = jnp.sum(shares, axis=1)
        places = lambda p: (p.shares, p.state, p.counts)
        return eqx.tree_at(places, self, (shares / total[:, None], state, counts)), jnp.log(total)

    def spread(self, contributions: Float[Array, "samples *shape"]) -> Float[Array, "samples *shape"]:
        """Contributions of samples to a mean with fixed f_k, with what each contributes through the f_k added.

        With p the shares and M = diag(N) - pᵀp, which the f_k move along (M df = …), sample i in state k adds
        h_k - Σ_l p_il h_l, where M h = -pᵀ c.
        """
        flat = contributions.reshape(len(contributions), -1)
        p = self.shares.astype(flat.dtype)
        precise = jax.lax.Precision.HIGHEST
        information = jnp.diag(self.counts.astype(flat.dtype)) - jnp.matmul(p.T, p, precision=precise)
        # singular, since only differences of the f_k mean anything; what it is applied to sums to zero
        h = jnp.matmul(jnp.linalg.pinv(information, hermitian=True), -jnp.matmul(p.T, flat, precision=precise))
        through = h[self.state] - jnp.matmul(p, h, precision=precise)
        return (flat + through).reshape(contributions.shape)


class Samples(AbstractChecked):
    """Configurations drawn from an ensemble, and what is needed to reweight them to another.

    With u(x) the reduced energy of the ensemble asked for (`AbstractEnsemble.reduced_energy`), sample i has the weight
    exp(-u(x_i)) over the density it was drawn from: log w_i = -u(x_i) - log_density_i. For one ensemble the density is
    its exp(-u); for a pool of several it is their mixture (MBAR). Samples are constants: no derivative passes
    through how they were drawn.

    `samples[:4]`, with a slice or an array of indices, are some of them.

    **Errors:** `ValueError` where the numbers of states, densities and chains differ.
    """

    states: State
    """Leaves lead with `samples`."""
    log_density: Float[Array, " samples"]
    """The logarithm of the density each was drawn from, up to one constant for all."""
    chain: Int[Array, " samples"]
    """Which chain drew it, in the order of time along each: errors are over chains, not over frames."""
    ensemble: AbstractEnsemble | None = None
    """What they were drawn from, where that is one ensemble; what is measured is in this one unless another is asked
    for."""
    pool: Pool | None = None
    """Of samples that `mbar` put together."""

    def __check_init__(self):
        shapes = [jnp.shape(x) for x in (self.log_density, self.chain)]
        n = jnp.shape(self.states.positions)[:1]
        if jnp.ndim(self.states.positions) != 3 or any(shape != n for shape in shapes):
            raise ValueError(
                f"`Samples` got positions of shape {jnp.shape(self.states.positions)}, `log_density` of shape"
                f" {shapes[0]} and `chain` of shape {shapes[1]}; wanted (samples, atoms, 3) and twice (samples,). Of a"
                " system and an ensemble: `rv.Samples.of(system, ensemble, states)`."
            )

    @classmethod
    def of(
        cls,
        system: System,
        ensemble: AbstractEnsemble,
        states: State,
        chain: Int[Array, " samples"] | None = None,
    ) -> "Samples":
        """Samples of which it is known that they were drawn from an ensemble of a system, such as frames of a file.

        **Arguments:** `states`, whose leaves lead with `samples`; `chain`, which chain drew each, by default each by
        itself, which means that all are independent.

        **Errors:** `ValueError` or `TypeError` for a `chain` of other numbers than whole ones from 0; as for
        `System.check` for states of other atoms, or in boxes too small for the cutoff.
        """
        require_instance("system", system, System)
        require_instance("ensemble", ensemble, AbstractEnsemble)
        require_instance("states", states, State)
        if chain is not None:
            chain = as_array(chain)
            require_chain(chain)
        states = system.check_shape_and_cutoff(states)
        density = -_reduced_energies(ensemble, system, states)
        chain = jnp.arange(len(density)) if chain is None else chain
        return cls(*jax.lax.stop_gradient((states, density)), chain, ensemble)

    def __len__(self) -> int:
        return self.log_density.shape[0]

    def __str__(self) -> str:
        chains = f" of {len(np.unique(np.asarray(self.chain)))} chains" if is_concrete(self.chain) else ""
        ensembles = (self.ensemble,) if self.pool is None else self.pool.ensembles
        drawn = ", ".join(str(each) for each in ensembles if each is not None)
        return (
            f"Samples({len(self)}{chains}, {self.states.positions.shape[1]} atoms, {drawn or 'of no known ensemble'})"
        )

    def __getitem__(self, index: Any) -> "Samples":
        if isinstance(index, int | np.integer):
            raise TypeError(
                f"`samples[{index}]` is a single one; wanted a slice or an array of indices, such as"
                f" `samples[{index}:{int(index) + 1}]`."
            )
        own = (self.states, self.log_density, self.chain)
        states, density, chain = jax.tree.map(lambda x: x[index], own)
        if self.pool is None:
            return Samples(states, density, chain, self.ensemble)
        pool, mixture = self.pool.some(index)
        return Samples(states, density + mixture.astype(density.dtype), chain, self.ensemble, pool)

    def with_velocities(
        self, topology: Topology, *, key: PRNGKeyArray, ensemble: AbstractEnsemble | None = None
    ) -> "Samples":
        """The same configurations with new velocities, Maxwell–Boltzmann's at the temperature of the ensemble, without
        motion of the center of mass.

        **Arguments:** `topology`, for the masses; `ensemble`, by default that of the samples: give it where they are to
        be reweighted to another temperature, and for pools of several.

        **Errors:** `ValueError` for samples that came from no ensemble, without another.
        """
        require_instance("topology", topology, Topology)
        require_key("key", key)
        known = self.ensemble if ensemble is None else ensemble
        temperature = require_ensemble(known, "with_velocities").temperature
        draw = lambda k: maxwell_boltzmann(topology, temperature, key=k)
        velocities = jax.vmap(draw)(jax.random.split(key, len(self))).astype(self.states.positions.dtype)
        return eqx.tree_at(lambda s: s.states, self, self.states.with_velocities(velocities))

    @property
    def blocks(self) -> Blocks:
        """The runs of samples that errors are over."""
        return blocks_of(self.chain, None if self.pool is None else self.pool.state)

    def error_of_sum(self, contributions: Float[Array, "samples *shape"]) -> Float[Array, "*shape"]:
        """The standard error of a weighted mean, from what every sample contributes to its deviation: over chains or
        blocks of them and, in a pool, with the uncertainty of the f_k."""
        if self.pool is not None:
            contributions = self.pool.spread(contributions)
        return self.blocks.error(contributions)

    def covariance_of_sum(self, contributions: Float[np.ndarray, "samples size"]) -> Float[np.ndarray, "size size"]:
        """The covariance of a vector of weighted means, likewise, in NumPy's double precision."""
        if self.pool is not None:
            contributions = np.asarray(self.pool.spread(jnp.asarray(contributions)), float)
        return self.blocks.covariance(contributions)


@eqx.filter_jit
def _reduced_energies(ensemble, system, states):
    # one after the other, in the memory of one
    return jax.lax.map(lambda state: ensemble.reduced_energy(system, state), states)


class CellMoves(eqx.Module):
    """How the cells of chains under a barostat moved. Leaves lead with `chains`."""

    tried: Int[Array, "*chains"]
    """How many moves there were, since their size changed last."""
    accepted: Int[Array, "*chains"]
    """How many of them were."""
    rounds: Int[Array, "*chains"]
    """How many samples each chain has given under its barostat."""
    size: Any = None
    """How large moves may be, of ln V, of every chain, where that is adapted."""

    @property
    def acceptance(self) -> Float[Array, "*chains"]:
        """Which part of the moves was accepted; NaN where there were none yet."""
        return self.accepted / self.tried


class Chains(AbstractChecked):
    """Where the chains of a sampler stopped, with all that it takes to go on exactly as if they had not.

    With the same key, `sample` of ten samples and then of ten more from where they ended draws the same as `sample` of
    twenty; not so with `OpenMMSampler`, whose integrator starts anew.
    """

    states: State
    """Leaves lead with `chains`."""
    # an array, since a fit that carries chains would compile every update anew for another Python number
    rounds: Int[Array, ""] = eqx.field(converter=jnp.asarray, default=0)
    """How many samples each chain has given."""
    cell: CellMoves | None = None
    """How their cells moved, of chains under a barostat."""

    def __len__(self) -> int:
        return self.states.positions.shape[0]


class AbstractSampler(AbstractChecked):
    """Draws configurations from an ensemble."""

    @abc.abstractmethod
    def sample(
        self,
        system: System,
        chains: State | Chains,
        num_samples: int,
        *,
        progress: bool = True,
        key: PRNGKeyArray,
    ) -> tuple[Samples, Chains]:
        """Runs many chains at once, and keeps `num_samples` configurations of all together.

        **Arguments:** `chains`, where they start: what an earlier call returned, to go on; or states whose leaves lead
        with `chains` (see `State.repeat`). `num_samples`, a multiple of the number of chains: every chain gives the
        same number. All samples of one instant come first. `progress`: whether to show on a terminal how much is done,
        and how long the rest will take.

        **Returns:** the samples, and the chains to go on from.

        **Errors:** `ValueError` where shapes or numbers do not fit, `SimulationError` when a chain explodes.
        """


def as_chains(chains: State | Chains, num_samples: int) -> tuple[Chains, int]:
    """The chains, and how many samples each has to give; refuses numbers that do not fit."""
    require_instance("chains", chains, State | Chains)
    require_count("num_samples", num_samples)
    chains = Chains(chains) if isinstance(chains, State) else chains
    shape = chains.states.positions.shape
    if len(shape) != 3:
        raise ValueError(
            f"The chains have positions of shape {shape}; wanted (chains, atoms, 3). For chains that all start from one"
            " configuration: `state.repeat(chains)`."
        )
    if num_samples % shape[0] != 0:
        raise ValueError(
            f"`num_samples` is {num_samples} of {shape[0]} chains; wanted a multiple of the chains, such as"
            f" {max(1, round(num_samples / shape[0])) * shape[0]}."
        )
    return chains, num_samples // shape[0]
