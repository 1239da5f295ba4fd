from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._box import AbstractBox
from ._health import check_energies, check_forces, check_wear
from ._misc import is_concrete, require_count, require_instance, require_number, require_positive
from ._neighbors import Neighbors, Wear
from ._potential import energy_of
from ._printing import described
from ._progress import Bar
from ._state import State
from ._system import System

# The numbers of FIRE as published, but for the time step, that of atoms which all weigh 1 u. With a longer one bonds
# with hydrogen (5e5 kJ/mol/nm²) overshoot whenever the step has grown so far, which stops all atoms, again and again.
_START, _SHORTEST, _LONGEST = 5e-4, 1e-5, 1.2e-3  # ps
_GROWTH, _SHRINKAGE, _PATIENCE = 1.1, 0.5, 5
_MIXING, _FADING = 0.1, 0.99


class Minimum(eqx.Module):
    """Where a minimization ended."""

    state: State
    """With the velocities that were given, if there were some."""
    energy: Float[Array, ""]
    """The potential energy, kJ/mol."""
    largest_force: Float[Array, ""]
    """On any atom, kJ/mol/nm."""
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]
    """Whether the largest force is within the tolerance."""

    def __str__(self) -> str:
        energy, force = described(self.energy, "kJ/mol"), described(self.largest_force, "kJ/mol/nm")
        ended = "converged" if is_concrete(self.converged) and self.converged else "not converged"
        return f"Minimum({energy}, largest force {force}, {described(self.num_steps)} steps, {ended})"


class _Walk(NamedTuple):
    positions: Float[Array, "atoms 3"]
    velocities: Float[Array, "atoms 3"]
    forces: Float[Array, "atoms 3"]
    neighbors: Neighbors | None
    wear: Wear
    dt: Float[Array, ""]
    mixing: Float[Array, ""]
    downhill: Int[Array, ""]
    num_steps: Int[Array, ""]
    nudged: Bool[Array, ""]
    fresh: Bool[Array, ""]
    """Whether forces have not been evaluated yet: they are in the loop alone, where they are compiled once."""


def minimize(
    system: System,
    state: State,
    *,
    max_steps: int = 10_000,
    tolerance: float = 10.0,
    max_move: float = 0.01,
    progress: bool = True,
) -> Minimum:
    """Moves atoms downhill in energy until all forces are small (FIRE), in the box that is given.

    Atoms may overlap at the start: none moves further than `max_move` in a step, however large the force. Every step
    evaluates the forces once, in one compiled loop. Of atoms at the very same place all but one are moved by `max_move`
    before the first. Where all forces are small, atoms are moved by a hundredth of `max_move` on trial, always in the
    same directions, and go on from there if forces point further away: so a straight angle is left, which has no force
    whatever its energy. Of a flatter saddle the forces may be small enough all the same. The result has no derivative.

    **Arguments:** `tolerance`, the largest force on an atom that is small enough, kJ/mol/nm; `max_move`, nm;
    `progress`, whether to show on a terminal how many of `max_steps` are done.

    **Errors:** `ValueError` for numbers that are not positive, and a state that does not fit the system;
    `SimulationError` where energy or forces are not finite in the end, with the nearest two atoms, and for neighbor
    lists that are too small. Running out of steps is no error: see `Minimum.converged`.

    **Reference:** E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006).
    """
    require_count("max_steps", max_steps)
    require_instance("system", system, System)
    require_instance("state", state, State)
    require_number("tolerance", tolerance)
    require_number("max_move", max_move)
    require_positive("tolerance", tolerance, "kJ/mol/nm")
    require_positive("max_move", max_move, "nm")
    state = system.check_shape_and_cutoff(state)
    dtype = state.positions.dtype
    numbers = (jnp.asarray(tolerance, dtype), jnp.asarray(max_move, dtype))
    system, state, *numbers = jax.lax.stop_gradient((system, state, *numbers))
    with Bar("minimize", int(max_steps), progress) as bar:
        end = _begin(system, state, numbers[1])
        for number in bar.parts((system, state, *numbers)):
            end, energy, largest = _descend(system, state.box, end, jnp.asarray(bar.done + number), *numbers)
            bar.update(bar.done + number, f"{float(largest):.3g} kJ/mol/nm" if bar.shown else "")
            if bar.shown and (float(largest) <= tolerance or not jnp.isfinite(largest)):
                break
    relaxed = eqx.tree_at(lambda s: s.positions, state, end.positions)  # unchecked: the next line tells why it fails
    minimum = Minimum(relaxed, energy, largest, end.num_steps, jnp.asarray(largest <= tolerance))
    minimum = check_wear(system.search, end.wear, guard=minimum)
    minimum = check_energies(relaxed, energy, guard=minimum)
    return check_forces(relaxed, end.forces, guard=minimum)


@eqx.filter_jit
def _begin(system, state, max_move):
    """Where the walk begins."""
    box, dtype = state.box, state.positions.dtype
    x = _apart(state.positions, box, max_move)
    neighbors = system.find_neighbors(x, box)
    number = lambda value: jnp.asarray(value, dtype)
    wear = Wear.none(dtype) if neighbors is None else Wear.none(dtype).and_of(x, box, neighbors)
    still, no = jnp.zeros_like(x), jnp.array(False)
    return _Walk(
        x, still, still, neighbors, wear, number(_START), number(_MIXING), jnp.array(0), jnp.array(0), no, ~no
    )  # fmt: skip


@eqx.filter_jit
def _descend(system, box, walk, max_steps, tolerance, max_move):
    """The last step up to so many, its energy, and the largest force there."""
    forces = lambda x, neighbors: system.potential.forces(x, box, neighbors=neighbors)

    def goes_on(walk):
        # a force that is not a number ends it as well
        largest = _largest(walk.forces)
        return walk.fresh | (walk.num_steps < max_steps) & (
            (largest > tolerance) | ((largest <= tolerance) & ~walk.nudged)
        )

    def step(walk):
        # limited before it is squared: where atoms overlap a force has no square in float32
        f = _limited(walk.forces, max_move / walk.dt**2)
        slope = jnp.sum(f * walk.velocities)
        downhill = jnp.where(slope > 0, walk.downhill + 1, 0)
        faster = downhill > _PATIENCE
        dt = jnp.where(slope > 0, jnp.where(faster, walk.dt * _GROWTH, walk.dt), walk.dt * _SHRINKAGE)
        dt = jnp.clip(dt, _SHORTEST, _LONGEST)
        mixing = jnp.where(slope > 0, jnp.where(faster, walk.mixing * _FADING, walk.mixing), _MIXING)
        v = jnp.where(slope > 0, walk.velocities, 0) + dt * f
        v = (1 - mixing) * v + mixing * f * jnp.sqrt(jnp.sum(v**2) / jnp.maximum(jnp.sum(f**2), 1e-30))
        v = _limited(v, max_move / dt)
        dt, mixing = jnp.where(walk.fresh, walk.dt, dt), jnp.where(walk.fresh, walk.mixing, mixing)
        rests = (_largest(walk.forces) <= tolerance) & ~walk.fresh  # once only: see `goes_on`
        moves = jnp.where(rests, 0.01 * max_move * _directions(v), dt * v)  # none at first, since forces are zero
        x = walk.positions + moves
        neighbors = walk.neighbors
        if neighbors is not None:
            neighbors = jax.lax.cond(neighbors.usable(x, box), lambda: neighbors, lambda: system.find_neighbors(x, box))
        wear = walk.wear if neighbors is None else walk.wear.and_of(x, box, neighbors)
        f = forces(x, neighbors)
        stays = rests & ~(jnp.sum(f * moves) > 0)
        x, f = jnp.where(stays, walk.positions, x), jnp.where(stays, walk.forces, f)
        num_steps = walk.num_steps + jnp.where(stays | walk.fresh, 0, 1)
        v = jnp.where(rests, 0, v)
        return _Walk(x, v, f, neighbors, wear, dt, mixing, downhill, num_steps, walk.nudged | rests, jnp.array(False))

    end = jax.lax.while_loop(goes_on, step, walk)
    return end, energy_of(system.potential, end.positions, box, end.neighbors), _largest(end.forces)


def _apart(x: Float[Array, "atoms 3"], box: AbstractBox, distance: Float[Array, ""]) -> Float[Array, "atoms 3"]:
    """Moves atoms that are at the place of another one, or of its image, so far, each in a direction of its own: there
    they would stay, since springs of no length do not pull, whatever their energy, and other forces have no direction.
    """
    inside = jax.vmap(box.wrap)(x)
    order = jnp.lexsort(inside.T)
    same = jnp.all(inside[order][1:] == inside[order][:-1], axis=1)
    doubled = jnp.zeros(len(x), bool).at[order[1:]].set(same)
    return jnp.where(doubled[:, None], x + distance * _directions(x), x)


def _directions(x: Float[Array, "atoms 3"]) -> Float[Array, "atoms 3"]:
    """A direction for every atom, always the same."""
    directions = jax.random.normal(jax.random.key(0), x.shape, x.dtype)
    return directions / jnp.linalg.norm(directions, axis=1, keepdims=True)


def _largest(vectors: Float[Array, "atoms 3"]) -> Float[Array, ""]:
    """The longest, without overflow."""
    scale = jnp.maximum(jnp.max(jnp.abs(vectors)), 1e-30)
    return scale * jnp.sqrt(jnp.max(jnp.sum((vectors / scale) ** 2, axis=1)))


def _limited(vectors: Float[Array, "atoms 3"], limit: Float[Array, ""]) -> Float[Array, "atoms 3"]:
    """Each vector in its own direction, no longer than the limit."""
    component = jnp.max(jnp.abs(vectors), axis=1, keepdims=True)
    vectors = vectors / jnp.maximum(component / limit, 1)  # whose squares do not overflow
    return vectors / jnp.maximum(jnp.sqrt(jnp.sum(vectors**2, axis=1, keepdims=True)) / limit, 1)
