"""One trajectory, by Diffrax."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from .._adjoint import ReversibleAdjoint
from .._health import Health, reach_of
from .._neighbors import Wear
from .._potential import AbstractPotential, Sum, energy_of
from .._solver import (
    AbstractFallibleSolver,
    AbstractPartwiseSolver,
    AbstractThermostattedSolver,
    ConservativeTerm,
    CountedTerm,
)
from .._state import State
from ._directions import Directed, directed, join
from ._lists import Lists
from ._trajectory import recorded


def run_sample(shared, sample):
    dynamics, system, record = shared
    state, copy = sample
    if copy is not None:
        system = system.with_surfaces(eqx.combine(copy, system.surfaces))
    quiet = eqx.tree_at(lambda d: d.progress_meter, dynamics, diffrax.NoProgressMeter())
    return run_one(quiet, system, state, record)


def run_one(dynamics, system, state, record):
    """Records, the end and the health of one trajectory."""
    record = _whole_state if record is None else record
    if not dynamics.both_directions:
        return _solve(dynamics, system, state, record)
    one = lambda sign: _solve(dynamics, system, directed(state, sign), Directed(record, sign))
    # of an array that is spread over the devices, as constants are not: on the way back the two would not match
    nothing = jax.lax.stop_gradient(0 * state.positions[0, 0])
    records, final, health = jax.vmap(one)(jnp.array([-1, 1], state.positions.dtype) + nothing)
    worse = jax.tree.map(lambda x: jnp.max(x, axis=0), health)  # NaN wins
    return jax.tree.map(join, records), jax.tree.map(lambda x: x[1], final), worse


def _whole_state(system, state, initial):
    del system, initial
    return state


_SINGLE = diffrax.ODETerm | ConservativeTerm


@eqx.filter_jit
def _solve(dynamics, system, state, record):
    adjoint, num_steps, save_every = dynamics.adjoint, dynamics.num_steps, dynamics.save_every
    # in the dtype of the positions, as Diffrax would promote the positions to that of the times
    time = lambda t: jnp.asarray(t, state.positions.dtype)
    args = (system, state, record)
    by_step = isinstance(adjoint, ReversibleAdjoint)

    def frame(t, y, args):
        del t
        system, initial, record = args
        x, v, *bath = y
        # in a list: where nothing is recorded, it is that which Diffrax saves
        return [recorded(record, system, State(x, v, initial.box, *bath), initial)]

    def watch(t, y, args):
        del t
        system, initial, _ = args
        seen = system.kinetic_energy(y[1]), reach_of(y[0])
        if system.search is None or by_step:
            return *seen, None
        # lists of single evaluations; as floats, since Diffrax fills what it will save with infinity
        wear = Wear.none(y[0].dtype).and_of(y[0], initial.box, system.find_neighbors(y[0], initial.box))
        return *seen, wear.needed.astype(y[0].dtype)

    frames = diffrax.SubSaveAt(t0=True, steps=save_every, fn=frame)
    watched = diffrax.SubSaveAt(t0=True, steps=save_every, fn=watch)
    most = round(2 / jnp.finfo(state.positions.dtype).eps)
    if num_steps > most:
        raise ValueError(
            f"`num_steps` is {num_steps}; wanted at most {most}, which {state.positions.dtype} can count. Run the"
            " trajectory in parts, each from the end of the one before: `trajectory.final`."
        )
    terms = _terms(dynamics.solver, system)
    # the clock counts steps. Diffrax's own adjoints jump to an end that is nearer than 100 units of rounding, a dozen
    # steps after two million in single precision: so it is put further off, and not reached for `max_steps`
    end = num_steps if by_step else num_steps + 1 + num_steps // 10_000
    solution = diffrax.diffeqsolve(
        jax.tree.map(lambda t: CountedTerm(t, time(dynamics.dt)), terms, is_leaf=lambda t: isinstance(t, _SINGLE)),
        dynamics.solver,
        time(0),
        time(end),
        time(1),
        (state.positions, state.velocities, *_bath(dynamics.solver, state)),
        args,
        saveat=diffrax.SaveAt(subs=(frames, watched, diffrax.SubSaveAt(t1=True)), solver_state=True),
        adjoint=adjoint,
        max_steps=num_steps,
        progress_meter=dynamics.progress_meter,
        throw=False,
    )
    assert solution.ys is not None
    [records], (kinetic, reach, needed), (x, v, *bath) = jax.tree.map(lambda x: x, solution.ys)
    wear = Wear.none(x.dtype)
    if system.search is not None and by_step:
        wear = solution.stats["wear"]
    elif needed is not None:
        wear = Wear(wear.moved, jnp.max(needed, axis=0).astype(jnp.int32))
    failure = jnp.zeros((), jnp.int32)
    if isinstance(dynamics.solver, AbstractFallibleSolver):
        failure = dynamics.solver.failure(solution.solver_state)
    start = energy_at(system.potential, state.positions, state.box, system.find_neighbors(state.positions, state.box))
    final = State(x[-1], v[-1], state.box, *jax.tree.map(lambda b: b[-1], bath))
    return records, final, jax.lax.stop_gradient(Health(start, kinetic, reach, failure, wear))


def _bath(solver, state):
    """The thermostats that move with the atoms, if any do."""
    if not isinstance(solver, AbstractThermostattedSolver):
        return ()
    if state.bath is None:
        return (solver.bath(state.velocities.dtype),)
    solver.require_bath(state.bath)
    return (state.bath,)


def frame_times(dynamics, state):
    dtype = state.positions.dtype
    steps = jnp.arange(0, dynamics.num_steps + 1, dynamics.save_every, dtype=dtype)
    return jnp.asarray(dynamics.dt, dtype) * steps


def _velocity(t, v, args):
    del t, args
    return v


def _potential_energy(x, args, neighbors=None):
    system, initial, _ = args
    return energy_at(system.potential, x, initial.box, neighbors)


def _masses(args):
    system, initial, _ = args
    return system.topology.masses.astype(initial.positions.dtype)[:, None]


def _terms(solver, system):
    lists = None if system.search is None else Lists(system.search)  # pyright: ignore[reportCallIssue]
    parts = kick_parts(solver, system.potential)
    if parts is None:
        kick = ConservativeTerm(_potential_energy, _masses, lists)
    else:
        kick = diffrax.MultiTerm(*(ConservativeTerm(_PartsEnergy(k), _masses, lists) for k in parts))
    bath = (solver.bath_term(),) if isinstance(solver, AbstractThermostattedSolver) else ()
    return diffrax.ODETerm(_velocity), kick, *bath


def kick_parts(solver: diffrax.AbstractSolver, potential: AbstractPotential) -> tuple[tuple[int, ...], ...] | None:
    """Which parts of the potential every kick of the solver has; `None` where there is one kick of all."""
    if not isinstance(solver, AbstractPartwiseSolver):
        return None
    return solver.kick_parts(type(potential).__name__, len(potential.parts) if isinstance(potential, Sum) else None)


class _PartsEnergy(eqx.Module):
    """The energy of some parts of a `Sum`, which is read from `args`, where cotangents reach it."""

    indices: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x, args, neighbors=None):
        system, initial, _ = args
        parts = tuple(system.potential.parts[k] for k in self.indices)
        return energy_at(Sum(parts), x, initial.box, neighbors)  # pyright: ignore[reportCallIssue]


@eqx.filter_jit
def energy_at(potential, positions, box, neighbors):
    """The energy. Compiled by itself, so that a potential is traced once, however often a program asks for it."""
    return energy_of(potential, positions, box, neighbors)
