import abc
from typing import TYPE_CHECKING, Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._batches import Batch, map_samples, replicate, require_samples
from .._ensemble import AbstractEnsemble
from .._fields import AbstractChecked
from .._health import check_energies, check_wear, explosion_limit, reach_of, too_far_out
from .._misc import furthest, is_concrete, require_instance, require_key
from .._neighbors import Neighbors, Wear
from .._progress import Bar
from .._solver import Drift, Kick
from .._state import State
from .._system import System
from .._verdict import SimulationError, raise_if
from ._base import AbstractSampler, CellMoves, Chains, Samples, as_chains
from ._cell import describe_cell, of_cell

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


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
    cell: CellMoves | None = None
    """How the cells moved up to the end of every round, where they do."""
    stopped: Int[Array, "chains rounds"] | None = None
    """Why a cell could not move on, or zero: see `out_of_cell`."""

    def until(self, rounds: int) -> "Advanced":
        """Of the first so many rounds."""
        cut = lambda tree: jax.tree.map(lambda x: x[:, :rounds], tree)
        of_rounds = lambda out: (out.states, out.energies, out.fastest, out.cell, out.stopped)
        return eqx.tree_at(of_rounds, self, cut(of_rounds(self)), is_leaf=lambda x: x is None)


class AbstractMarkovSampler(AbstractSampler):
    """Chains that run side by side, and keep what they come to. What all of them share is here: starts and their
    checks, explosions, samples that know their density. A subclass says how its chains advance."""

    num_steps: AbstractVar[int]
    """Between two samples of a chain."""
    mesh: AbstractVar[Mesh | None]
    goes_on_exactly: ClassVar[bool] = True
    """Whether rounds in parts are the same as at once."""

    @property
    @abc.abstractmethod
    def ensemble(self) -> AbstractEnsemble:
        """What it draws from."""

    @abc.abstractmethod
    def advance(self, system: System, chains: Chains, rounds: int, key: PRNGKeyArray) -> Advanced:
        """Runs all chains for so many rounds of `num_steps`. Nothing of it carries a derivative."""

    def sample(self, system, chains, num_samples, *, progress=True, key):
        require_instance("system", system, System)
        require_key("key", key)
        chains, rounds = as_chains(chains, num_samples)
        parts = []
        with Bar("sample", rounds, progress and self.goes_on_exactly) as bar:
            for number in bar.parts((self, system, chains, key)):
                try:
                    samples, chains = self._sample(system, chains, number, key)
                except SimulationError as error:
                    if error.samples is not None:
                        error.samples = _joined([*parts, error.samples])
                    elif parts and error.chains is not None:
                        error.samples = _joined(parts)
                    raise
                parts.append(samples)
                bar.update(bar.done + number)
        return _joined(parts), chains

    def _sample(self, system, chains, rounds, key):
        if self.mesh is not None and require_samples(chains.states, self.mesh) % self.mesh.size != 0:
            size = self.mesh.size
            raise ValueError(
                f"There are {len(chains)} chains for {size} devices; wanted a multiple of the devices, such as"
                f" {len(chains) // size * size} or {-(-len(chains) // size) * size} chains."
            )
        states = system.check_shape_and_cutoff(chains.states, mesh=self.mesh)
        chains = eqx.tree_at(lambda c: c.states, chains, states)
        out = self.advance(system, chains, rounds, key)
        if out.stopped is None:
            return self._checked(system, chains, out)
        if is_concrete(out.stopped) and np.any(np.asarray(out.stopped)):
            good = int(np.argmax(np.any(np.asarray(out.stopped) != 0, axis=0)))
            samples, ends = None, chains
            if good > 0:
                samples, ends = self._checked(system, chains, out.until(good))
            raise SimulationError(
                describe_cell(*of_cell(system, out.stopped, out.states)), samples=samples, chains=ends
            )
        out = raise_if(
            out.stopped != 0, describe_cell, *of_cell(system, out.stopped, out.states), guard=out, mesh=self.mesh
        )
        return self._checked(system, chains, out)

    def _checked(self, system, chains, out):
        states, rounds = chains.states, out.energies.shape[1]
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
        last = lambda tree: jax.tree.map(lambda x: x[:, -1], tree)
        ends = Chains(last(kept), chains.rounds + rounds, last(out.cell))
        fastest = None if out.fastest is None else in_time(out.fastest)
        fine = _refuse_explosions(system, samples, energies, fastest, guard=(samples, ends), mesh=self.mesh)
        # once more: the compiler may spread what was cut out of arrays that every device has, and a loop that goes on
        # from there is compiled twice; of several processes none could write it
        return replicate(fine, self.mesh)


def _joined(parts):
    if len(parts) == 1:
        return parts[0]
    own = [(s.states, s.log_density, s.chain) for s in parts]
    states, density, chain = jax.tree.map(lambda *x: jnp.concatenate(x), *own)
    return Samples(states, density, chain, parts[0].ensemble)


class AbstractFlowSampler(AbstractMarkovSampler):
    """Chains of time steps that are made of forces and random numbers. A subclass gives one step of one chain.

    `system.neighbors` is the neighbor list in use there, where there is one: `system.forces` takes it.
    """

    dt: AbstractVar[Float[Array, ""]]
    batch: AbstractVar[Batch]

    @property
    @abc.abstractmethod
    def at_rest(self) -> bool:
        """Whether the center of mass stays at rest, so that 3N-3 velocities are free."""

    @abc.abstractmethod
    def start(self, system: System, state: State) -> tuple[State, PyTree[Array]]:
        """Where a round of a chain starts, or goes on in another box, and what it carries from step to step beside its
        state: no more than follows from the state, so that chains go on exactly, and with another potential rightly."""

    @abc.abstractmethod
    def step(
        self, system: System, state: State, memory: PyTree[Array], key: PRNGKeyArray
    ) -> tuple[State, PyTree[Array]]:
        """One time step."""

    def advance(self, system, chains, rounds, key):
        return advance_chains(self, None, system, chains, rounds, key)


class AbstractCellMover(AbstractChecked):
    """What moves the cell of a chain between the steps of a thermostat."""

    every: AbstractVar[int]
    """Steps between two moves."""

    @abc.abstractmethod
    def move(
        self, system: System, state: State, cell: CellMoves, wear: Wear, key: PRNGKeyArray
    ) -> tuple[State, CellMoves, Neighbors | None, Wear, Int[Array, ""]]:
        """One move of the cell of one chain: the state, what is known of its moves, the neighbor list in use from
        there, its wear, and why the cell could not move on, or zero."""

    @abc.abstractmethod
    def after_round(self, cell: CellMoves) -> CellMoves:
        """What is known of the moves of a cell, to begin another round with."""


def advance_chains(
    thermostat: AbstractFlowSampler,
    mover: AbstractCellMover | None,
    system: System,
    chains: Chains,
    rounds: int,
    key: PRNGKeyArray,
) -> Advanced:
    """All chains for so many rounds of a thermostat, with what moves their cells, if they move."""
    # samples are constants of whatever they are used for
    fixed = lambda tree: jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, tree)
    keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(jnp.arange(len(chains)))
    shared = fixed((thermostat, mover, system, chains.rounds, jnp.arange(rounds)))
    own = fixed((chains.states, None if mover is None else chains.cell, keys))
    out = map_samples(_run_chain, shared, own, batch=thermostat.batch, mesh=thermostat.mesh, reverse=False)
    return Advanced(*replicate(out, thermostat.mesh))


def masses_of(system: System, dtype: Any) -> Float[Array, "atoms 1"]:
    """Of all atoms, u, broadcasting with their velocities."""
    return system.topology.masses.astype(dtype)[:, None]


def _velocity(t, v, args):
    del t, args
    return v


def _acceleration(t, x, args):
    del t
    system, box = args
    return system.forces(x, box) / masses_of(system, x.dtype)


DRIFT, KICK = Drift(diffrax.ODETerm(_velocity)), Kick(diffrax.ODETerm(_acceleration))
"""What samplers move atoms by; their args are (system, box)."""


def using(system: System, neighbors: Neighbors | None) -> System:
    """The system with this list in use."""
    return eqx.tree_at(lambda s: s.neighbors, system, neighbors, is_leaf=lambda x: x is None)


def _run_chain(shared, own):
    sampler, mover, system, done, rounds = shared
    state, cell, key = own
    search, every = system.search, None if system.search is None else system.search.every
    energy = lambda state: system.potential_energy(state.positions, state.box)
    find = lambda state: system.find_neighbors(state.positions, state.box)

    def step(k, carry, key):
        state, memory, neighbors, wear, *rest = carry
        if search is not None:
            due = (k > 0) & (k % every == 0)
            neighbors = jax.lax.cond(due, lambda: find(state), lambda: neighbors)
        key = jax.random.fold_in(key, k)
        state, memory = sampler.step(using(system, neighbors), state, memory, key)
        if search is not None:
            wear = wear.and_of(state.positions, state.box, neighbors)
        return state, memory, neighbors, wear, *rest

    def steps_and_move(b, carry, key):
        carry = jax.lax.fori_loop(0, mover.every, lambda k, c: step(b * mover.every + k, c, key), carry)
        state, _, neighbors, wear, cell, stopped = carry
        key = jax.random.fold_in(key, sampler.num_steps + b)
        state, cell, neighbors, wear, why = mover.move(using(system, neighbors), state, cell, wear, key)
        state, memory = sampler.start(using(system, neighbors), state)
        return state, memory, neighbors, wear, cell, jnp.where(stopped == 0, why, stopped)

    def one_round(carry, r):
        state, wear, cell, stopped = carry
        round_key = jax.random.fold_in(key, done + r)
        neighbors = find(state)
        state, memory = sampler.start(using(system, neighbors), state)
        carry, before = (state, memory, neighbors, wear, cell, stopped), state.positions
        body, num = (step, sampler.num_steps) if mover is None else (steps_and_move, sampler.num_steps // mover.every)
        carry = jax.lax.fori_loop(0, num, lambda k, c: body(k, c, round_key), carry)
        state, _, _, wear, cell, stopped = carry
        if mover is not None:
            cell = mover.after_round(cell)
            cell = CellMoves(cell.tried, cell.accepted, cell.rounds + 1, cell.size)
        time = sampler.num_steps * sampler.dt.astype(before.dtype)
        kept = (state, energy(state), reach_of(state.positions - before) / time, cell, stopped)
        return (state, wear, cell, stopped), kept

    first = energy(state)
    stopped = None if mover is None else jnp.zeros((), jnp.int32)
    (_, wear, _, _), kept = jax.lax.scan(one_round, (state, Wear.none(state.positions.dtype), cell, stopped), rounds)
    state, energies, fastest, cell, stopped = kept
    return state, energies, first, fastest, wear, cell, stopped


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
        " Chains explode when they start from overlapping atoms, when the time step is too long (times are in ps: 2 fs"
        " are 0.002), or when parameters have run away;"
        f" in {reach.dtype} atoms may be less than {furthest(reach.dtype):.6g} nm out."
    )
