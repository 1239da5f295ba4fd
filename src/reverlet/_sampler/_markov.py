import abc
from collections.abc import Callable
from typing import TYPE_CHECKING

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._batches import Batch, map_samples, replicate, require_samples
from .._ensemble import AbstractEnsemble
from .._health import check_energies, check_wear, explosion_limit, reach_of, too_far_out
from .._misc import furthest, require_instance, require_key
from .._neighbors import Wear
from .._solver import Drift, Kick
from .._state import State
from .._system import System
from .._verdict import raise_if
from ._base import AbstractSampler, Chains, Samples, as_chains

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar

Force = Callable[[Float[Array, "atoms 3"]], Float[Array, "atoms 3"]]


class Advanced(eqx.Module):
    """What chains came to. Leaves lead with `chains`, and of what was kept then with `rounds`."""

    states: State
    """Kept after every round."""
    energies: Float[Array, "chains rounds"]
    """Theirs, kJ/mol."""
    start: Float[Array, " chains"]
    """The energies of where the chains started."""
    fastest: Float[Array, "chains rounds"] | None = None
    """How far any atom came in a round, over its time, nm/ps."""
    wear: Wear | None = None
    """Of neighbor lists."""


class AbstractMarkovSampler(AbstractSampler):
    """Chains that run side by side, and keep what they come to. What all of them share is here: starts and their
    checks, explosions, samples that know their density. A subclass says how its chains advance."""

    num_steps: AbstractVar[int]
    """Between two samples of a chain."""
    mesh: AbstractVar[Mesh | None]

    @property
    @abc.abstractmethod
    def ensemble(self) -> AbstractEnsemble:
        """What it draws from."""

    @abc.abstractmethod
    def advance(self, system: System, chains: Chains, rounds: int, key: PRNGKeyArray) -> Advanced:
        """Runs all chains for so many rounds of `num_steps`. Nothing of it carries a derivative."""

    def sample(self, system, chains, num_samples, *, key):
        require_instance("system", system, System)
        require_key("key", key)
        chains, rounds = as_chains(chains, num_samples)
        if self.mesh is not None and require_samples(chains.states, self.mesh) % self.mesh.size != 0:
            size = self.mesh.size
            raise ValueError(
                f"There are {len(chains)} chains for {size} devices; wanted a multiple of the devices, such as"
                f" {len(chains) // size * size} or {-(-len(chains) // size) * size} chains."
            )
        states = system.check_shape_and_cutoff(chains.states, mesh=self.mesh)
        out = self.advance(system, eqx.tree_at(lambda c: c.states, chains, states), rounds, key)
        kept = check_energies(states, out.start, guard=out.states, mesh=self.mesh)
        if out.wear is not None:
            kept = check_wear(system.search, out.wear, guard=kept, mesh=self.mesh)
        # all samples of one instant first
        in_time = lambda tree: jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)
        states, energies = in_time(kept), in_time(out.energies)
        # how samples were drawn has no derivative, not by the temperature either
        density = jax.lax.stop_gradient(-jax.vmap(self.ensemble.reduced)(energies, states.box))
        chain = jnp.tile(jnp.arange(len(chains)), rounds)
        samples = Samples(states, density, chain, self.ensemble)
        ends = Chains(jax.tree.map(lambda x: x[:, -1], kept), chains.rounds + rounds)
        fastest = None if out.fastest is None else in_time(out.fastest)
        fine = _refuse_explosions(system, samples, energies, fastest, guard=(samples, ends), mesh=self.mesh)
        # once more: the compiler may spread what was cut out of arrays that every device has, and a loop that goes on
        # from there is compiled twice; of several processes none could write it
        return replicate(fine, self.mesh)


class AbstractFlowSampler(AbstractMarkovSampler):
    """Chains of time steps that are made of forces and random numbers. A subclass gives one step of one chain."""

    dt: AbstractVar[Float[Array, ""]]
    batch: AbstractVar[Batch]

    @abc.abstractmethod
    def start(self, system: System, state: State, force: Force) -> tuple[State, PyTree[Array]]:
        """Where a round of a chain starts, and what it carries from step to step beside its state: no more than follows
        from the state, so that chains go on exactly, and with another potential rightly."""

    @abc.abstractmethod
    def step(
        self, system: System, state: State, memory: PyTree[Array], force: Force, key: PRNGKeyArray
    ) -> tuple[State, PyTree[Array]]:
        """One time step. `force(positions)` is in kJ/mol/nm, with the neighbor list in use."""

    def advance(self, system, chains, rounds, key):
        # samples are constants of whatever they are used for
        fixed = lambda tree: jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, tree)
        keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(jnp.arange(len(chains)))
        shared = fixed((self, system, chains.rounds, jnp.arange(rounds)))
        own = fixed((chains.states, keys))
        out = map_samples(_run_chain, shared, own, batch=self.batch, mesh=self.mesh, reverse=False)
        return Advanced(*replicate(out, self.mesh))


def masses_of(system: System, state: State) -> Float[Array, "atoms 1"]:
    """Of all atoms, u, broadcasting with their velocities."""
    return system.topology.masses.astype(state.positions.dtype)[:, None]


def _velocity(t, v, args):
    del t, args
    return v


def _acceleration(t, x, args):
    del t
    force, masses = args
    return force(x) / masses


DRIFT, KICK = Drift(diffrax.ODETerm(_velocity)), Kick(diffrax.ODETerm(_acceleration))
"""What samplers move atoms by; their args are (force, masses)."""


def _run_chain(shared, own):
    sampler, system, done, rounds = shared
    state, key = own
    search, every = system.search, None if system.search is None else system.search.every
    force_with = lambda box, neighbors: lambda x: system.potential.forces(x, box, neighbors=neighbors)
    energy = lambda state: system.potential_energy(state.positions, state.box)
    find = lambda state: system.find_neighbors(state.positions, state.box)

    def step(k, carry, key):
        state, memory, neighbors, wear = carry
        if search is not None:
            due = (k > 0) & (k % every == 0)
            neighbors = jax.lax.cond(due, lambda: find(state), lambda: neighbors)
        key = jax.random.fold_in(key, k)
        state, memory = sampler.step(system, state, memory, force_with(state.box, neighbors), key)
        if search is not None:
            wear = wear.and_of(state.positions, state.box, neighbors)
        return state, memory, neighbors, wear

    def one_round(carry, r):
        state, wear = carry
        round_key = jax.random.fold_in(key, done + r)
        neighbors = find(state)
        state, memory = sampler.start(system, state, force_with(state.box, neighbors))
        carry, before = (state, memory, neighbors, wear), state.positions
        state, _, _, wear = jax.lax.fori_loop(0, sampler.num_steps, lambda k, c: step(k, c, round_key), carry)
        time = sampler.num_steps * sampler.dt.astype(before.dtype)
        return (state, wear), (state, energy(state), reach_of(state.positions - before) / time)

    first = energy(state)
    (_, wear), (kept, energies, fastest) = jax.lax.scan(one_round, (state, Wear.none(state.positions.dtype)), rounds)
    return kept, energies, first, fastest, wear


def _refuse_explosions(system, samples, energies, fastest, *, guard, mesh):
    kinetic = jax.vmap(system.kinetic_energy)(samples.states.velocities)
    n = system.topology.num_atoms
    limit = explosion_limit(samples.ensemble.thermal_energy(kinetic) * n, n)
    reach = reach_of(samples.states.positions)
    bad = ~(kinetic <= limit) | ~jnp.isfinite(energies) | too_far_out(reach)
    if fastest is not None:
        # a thermostat hides what atoms that were thrown far away had as speed; at the limit, one atom with all of it
        bad = bad | ~(fastest <= jnp.sqrt(2 * limit / jnp.min(system.topology.masses)))
    return raise_if(bad, _describe_explosion, bad, energies, kinetic, reach, guard=guard, mesh=mesh)


def _describe_explosion(bad, energies, kinetic, reach):
    k = int(np.argmax(bad))
    return (
        f"{np.sum(bad)} of {bad.size} samples come from chains that exploded: sample {k} has a potential energy of"
        f" {energies[k]:.6g} kJ/mol, a kinetic energy of {kinetic[k]:.6g} and atoms as far out as {reach[k]:.6g} nm."
        " Chains explode when they start from overlapping atoms, when the time step is too long, or when parameters"
        f" have run away; in {reach.dtype} atoms may be less than {furthest(reach.dtype):.6g} nm out."
    )
