"""Whether simulations went well, and what to say if they did not."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from . import units
from ._misc import furthest, too_far
from ._neighbors import AbstractNeighborSearch, Wear
from ._solver import AbstractFallibleSolver
from ._state import State
from ._verdict import raise_if

T = TypeVar("T")


class Health(eqx.Module):
    """What tells whether trajectories went well: of one, or of many with a leading axis."""

    potential: Float[Array, "..."]
    """The energy at the start, kJ/mol."""
    kinetic: Float[Array, "... frames"]
    """kJ/mol."""
    reach: Float[Array, "... frames"]
    """How far out positions are, nm."""
    failure: Int[Array, "..."]
    """What the solver's numbers did not hold, or zero."""
    wear: Wear
    """Of the neighbor lists."""

    def require(
        self,
        search: AbstractNeighborSearch | None,
        states: State,
        solver: diffrax.AbstractSolver,
        dt: ArrayLike,
        save_every: int,
        *,
        guard: T,
        mesh: Mesh | None = None,
    ) -> T:
        """`guard`, unless one of many trajectories from `states` went wrong: then a `SimulationError` says how."""
        guard = check_wear(search, self.wear, guard=guard, mesh=mesh)
        guard = check_energies(states, self.potential, guard=guard, mesh=mesh)
        num_atoms = states.positions.shape[-2]
        limits = jax.vmap(lambda e: explosion_limit(e, num_atoms))(self.kinetic[:, 0])
        hot = ~((self.kinetic <= limits[:, None]) & jnp.isfinite(self.kinetic))
        bad = hot | too_far_out(self.reach)
        reach = jnp.where(hot, 0, self.reach)  # told where nothing else is wrong
        fallible = isinstance(solver, AbstractFallibleSolver)
        describe = _Explosion(type(solver).describe if fallible else None)
        numbers = (jnp.asarray(x) for x in (dt, save_every, solver.scale() if fallible else 0.0))
        return raise_if(bad, describe, self.kinetic, reach, bad, self.failure, *numbers, guard=guard, mesh=mesh)


def check_energies(states: State, energies: Float[Array, "..."], *, guard: T, mesh: Mesh | None = None) -> T:
    """`guard`, unless one of the `energies` of the states is not finite, or positions are too far out for forces: then
    a `SimulationError` says why."""
    lift = jax.vmap if states.positions.ndim == 3 else lambda f: f
    vectors = lift(lambda s: s.box.vectors)(states)
    bad = ~jnp.isfinite(energies) | too_far_out(reach_of(states.positions))
    return raise_if(bad, _describe_start, energies, states.positions, vectors, guard=guard, mesh=mesh)


def reach_of(positions: Float[Array, "*batch atoms 3"]) -> Float[Array, "*batch"]:
    """How far from the origin the furthest coordinate is, nm."""
    return jnp.max(jnp.abs(jax.lax.stop_gradient(positions)), axis=(-2, -1))


def too_far_out(reach: Float[Array, "..."]) -> Bool[Array, "..."]:
    """Whether positions that reach so far (nm) are none, or too far out for forces in their dtype."""
    return ~(reach < furthest(reach.dtype))


def check_forces(state: State, forces: Float[Array, "atoms 3"], *, guard: T) -> T:
    """`guard`, unless a force on an atom of one state is not finite: then a `SimulationError` says on which."""
    return raise_if(~jnp.isfinite(forces), _describe_forces, forces, state.positions, state.box.vectors, guard=guard)


def _describe_forces(forces, positions, vectors):
    bad = np.flatnonzero(~np.all(np.isfinite(forces), axis=1))
    i, j, distance = _nearest(positions.astype(float), vectors.astype(float))
    return (
        f"The force on atom {bad[0]} is {forces[bad[0]].tolist()} kJ/mol/nm, and so on {len(bad)} atoms in all, where"
        f" the energy is finite; wanted finite forces. The nearest two atoms are {i} and {j}, {distance:.4g} nm apart:"
        " atoms in one place, or angles of atoms in one line, must be moved apart first."
    )


def _nearest(x, box):
    """The nearest two atoms and their distance, by the nearest images where the box is periodic."""
    difference = x[:, None] - x
    if np.all(np.isfinite(box)):
        difference -= np.round(difference @ np.linalg.inv(box)) @ box
    distances = np.linalg.norm(difference, axis=-1) + np.diag(np.full(len(x), np.inf))
    i, j = np.unravel_index(np.argmin(distances), distances.shape)
    return i, j, distances[i, j]


def _describe_start(energies, positions, vectors):
    """Says what is wrong with one configuration, or with the first bad one of a batch: which atoms overlap, mostly."""
    x = positions.reshape(-1, *positions.shape[-2:])
    reach = np.max(np.abs(x), axis=(1, 2))
    k = np.flatnonzero(~(np.isfinite(energies.ravel()) & (reach < furthest(positions.dtype))))[0]
    energy, where = energies.ravel()[k], f" of configuration {k}" if energies.size > 1 else ""
    if not np.isfinite(reach[k]):
        return f"The positions{where} are not finite; wanted finite numbers, in nm."
    if reach[k] >= furthest(positions.dtype):
        return f"The positions{where} {too_far(float(reach[k]), positions.dtype)}"
    box = np.broadcast_to(vectors, (*positions.shape[:-2], 3, 3)).reshape(-1, 3, 3)[k].astype(float)
    i, j, distance = _nearest(x[k].astype(float), box)
    return (
        f"The potential energy{where} is {energy} kJ/mol; wanted a finite number. The nearest two atoms are {i} and"
        f" {j}, {distance:.4g} nm apart: atoms that overlap must be moved apart first, and parameters must be finite."
        " A neighbor list that is too small, or was made for another box, gives NaN as well."
    )


def explosion_limit(kinetic: Float[Array, ""], num_atoms: int) -> Float[Array, ""]:
    """A kinetic energy (kJ/mol) that only an exploding simulation reaches, given a sane one to compare with.

    A thousand times that and the thermal energy at 1000 K. Asking for finite numbers is not enough: atoms thrown
    through one another's cores fly apart for good, at finite speed.
    """
    return 1e3 * (kinetic + units.BOLTZMANN * 1000 * num_atoms)


def check_wear(search: AbstractNeighborSearch | None, wear: Wear, *, guard: T, mesh: Mesh | None = None) -> T:
    """`guard`, unless neighbor lists of `search` may have missed pairs: then a `SimulationError` says what to raise.

    `wear` is of one trajectory, or of many with a leading axis.
    """
    if search is None:
        return guard
    worst = Wear(jnp.nanmax(wear.moved), jnp.max(wear.needed.reshape(-1, wear.needed.shape[-1]), axis=0))
    values = (worst.moved, worst.needed, jnp.asarray(search.skin), jnp.asarray(search.every), search.room())
    return raise_if(worst.too_much(search), _describe_wear, *values, guard=guard, mesh=mesh)


def _describe_wear(moved, needed, skin, every, room):
    """What to raise, for a trajectory whose neighbor lists may have missed pairs."""
    room, needed = np.asarray(room), np.asarray(needed)
    if np.any(needed > room):
        return (
            f"A neighbor list was too small: it had room for {room[0]} neighbors of a block, windows of {room[1]} atoms"
            f" and {room[2]} neighbors of an atom; wanted {needed[0]}, {needed[1]} and {needed[2]}. Use"
            f" `search.enlarged(1.1 * jnp.array({needed.tolist()}))`, or"
            " `CellList.fit` with more `room`."
        )
    if float(moved) > 5 * float(skin):
        return (
            f"An atom moved by {float(moved):.4g} nm in at most {int(every)} steps: the trajectory exploded, or a"
            " neighbor list was used far too long. Wanted a shorter time step, better equilibrated positions, sane"
            " parameters, or lists for fewer steps."
        )
    return (
        f"An atom moved by {float(moved):.4g} nm in the {int(every)} steps that a neighbor list was used for; wanted at"
        f" most half the skin, which is {0.5 * float(skin):.4g} nm. Use a skin of {2.2 * float(moved):.2g} nm, or lists"
        f" for {max(1, int(0.45 * float(skin) / float(moved) * int(every)))} steps."
    )


@dataclasses.dataclass(frozen=True)
class _Explosion:
    """Of the first bad one of many trajectories. Equal for equal solvers, so that nothing is compiled twice."""

    describe: Callable[[int, float], str] | None

    def __call__(self, kinetic, reach, bad, failure, dt, save_every, scale):
        return _describe_explosion(self.describe, kinetic, reach, bad, failure, dt, save_every, scale)


def _describe_explosion(describe, kinetic, reach, bad, failure, dt, save_every, scale):
    k = int(np.argmax(np.any(bad, axis=1)))
    which = f"Of {len(bad)} trajectories, number {k}: " if len(bad) > 1 else ""
    kinetic, reach, bad, failure = kinetic[k], reach[k], bad[k], int(failure[k])
    frame = int(np.argmax(bad))
    step, before = frame * int(save_every), max(frame - 1, 0)
    if describe is not None and failure != 0 and not np.isfinite(kinetic[frame]):
        return f"{which}By step {step} ({step * float(dt):.6g} ps), {describe(failure, float(scale))}"
    if furthest(reach.dtype) <= reach[frame] < np.inf:
        return (
            f"{which}By step {step} ({step * float(dt):.6g} ps), positions {too_far(float(reach[frame]), reach.dtype)}"
        )
    return (
        f"{which}The trajectory exploded by step {step} ({step * float(dt):.6g} ps): its kinetic energy is"
        f" {kinetic[frame]:.6g} kJ/mol, after {kinetic[before]:.6g} at step {before * int(save_every)} and"
        f" {kinetic[0]:.6g} at the start. Wanted an energy that stays near its first value: try a shorter time step,"
        " better equilibrated positions, or look at what the parameters have become."
        f"{'' if dt < 0.05 else f' Times are in ps: {float(dt):.6g} fs are {float(dt) / 1000:.6g}.'}"
    )
