from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from ._adjoint import ReversibleAdjoint
from ._batches import Batch, map_samples, replicate, require_batch
from ._misc import is_concrete, raise_if
from ._neighbors import AbstractNeighborSearch, Neighbors, Wear
from ._potential import AbstractPotential, Sum, energy_of
from ._solver import (
    AbstractPreparation,
    BitReversibleState,
    BitReversibleVerlet,
    ConservativeTerm,
    Respa,
    VelocityVerlet,
    describe_failure,
)
from ._state import State
from ._system import System, check_energies, check_wear, explosion_limit

Record = Callable[[System, State, State], PyTree[Array]]


class Trajectory(eqx.Module):
    """What `nve` returns."""

    times: Float[Array, " frames"]
    """ps, from zero, or from minus the length of the trajectory where both directions were run."""
    records: PyTree
    """What `record` returned at every frame, the initial one included: leaves lead with `frames`, and before that with
    `samples` where there are many trajectories."""
    final: State
    """The configuration at the last of the times, to go on from; of many, arrays lead with `samples`."""


def nve(
    system: System,
    state: State,
    solver: diffrax.AbstractSolver = VelocityVerlet(),
    *,
    dt: float,
    num_steps: int,
    save_every: int = 1,
    record: Record | None = None,
    adjoint: diffrax.AbstractAdjoint = ReversibleAdjoint(),
    both_directions: bool = False,
    batch: Batch = None,
    mesh: Mesh | None = None,
    progress_meter: diffrax.AbstractProgressMeter = diffrax.NoProgressMeter(),
    throw: bool = True,
) -> Trajectory:
    """Newton's equations at constant energy, from one configuration; from many with `batch` or `mesh`.

    Differentiable with respect to every array of `system`, `state` and `record`: exactly, and by default in memory
    that does not grow with `num_steps`, the records aside.

    **Arguments:**

    - `system`: with a neighbor search, a list of pairs is made every `search.every` steps.
    - `solver`: any Diffrax solver of two terms (positions, velocities), or `Respa` with a `Sum` of potentials.
    - `dt`: the time step, ps. `num_steps`: how many; `save_every` must divide it.
    - `record(system, state, initial)`: what to keep of an instant, given where the trajectory began; by default the
      whole `State`. It runs inside the solve, so that a correlation v(0)·v(t) costs one number per frame. If it has
      trainable parameters, make it an `eqx.Module`. Every new function is compiled anew: define it once, or put the
      whole computation under `eqx.filter_jit`.
    - `adjoint`: how to differentiate. With `rv.ForwardMode()`, `jax.jvp` works.
    - `both_directions`: run from `state` into the past as well, which is forward with the velocities flipped, and join
      both into one grid of times from -T to T, that of `state` in the middle. Twice the frames, with a gradient
      that has grown no more than over T. At negative times `record` sees velocities as they were then.
    - `batch`: for many states, whose arrays have a leading axis: how many trajectories run at a time, on each device;
      a number, or an `rv.MemoryBudget` that finds it. The result does not depend on it, but for rounding; the memory of
      a gradient is that of so many trajectories, and the records and ends of all.
    - `mesh`: devices to spread many states over, as `rv.device_mesh()`. Every device and every process gets the whole
      result.
    - `progress_meter`: of Diffrax, as `diffrax.TqdmProgressMeter()`: how much of the time has passed, or how many of
      the batches are done. On the way back it is silent.
    - `throw`: whether to check the initial energy, and raise when the trajectory explodes or a neighbor list fails,
      instead of going on with NaN or without some pairs. A list that is too small is enlarged and the trajectory
      run again, where values are known; inside `jax.jit` the error says what to raise.

    **Errors:** `ValueError` for steps that do not fit, states that do not fit the system, a potential that does not fit
    `Respa`, a batch below one, a memory budget too small for one trajectory (with what that takes) and more devices
    than states; `FloatingPointError` for overlapping atoms, for a trajectory that explodes, with step and energy, and
    for a neighbor list too small or used too long.
    """
    dynamics = Dynamics(dt, num_steps, save_every, solver, adjoint, both_directions, batch, mesh, progress_meter)
    if batch is not None or mesh is not None:
        return dynamics.run_many(system, state, record, throw=throw)
    return dynamics.run(system, state, record, throw=throw)


class Dynamics(eqx.Module):
    """How to run trajectories at constant energy from samples: the arguments of `nve`, for `expectation`.

    **Errors:** as of `nve`, when made.
    """

    dt: float
    num_steps: int = eqx.field(static=True)
    save_every: int = eqx.field(static=True, default=1)
    solver: diffrax.AbstractSolver = VelocityVerlet()
    adjoint: diffrax.AbstractAdjoint = ReversibleAdjoint()
    both_directions: bool = eqx.field(static=True, default=False)
    batch: Batch = eqx.field(static=True, default=None)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    progress_meter: diffrax.AbstractProgressMeter = diffrax.NoProgressMeter()

    def __check_init__(self):
        _check_steps(self.dt, self.num_steps, self.save_every)
        require_batch(self.batch)

    def run(self, system: System, state: State, record: Record | None, *, throw: bool = True) -> Trajectory:
        """The trajectory from one configuration."""
        if state.positions.ndim != 2:
            raise ValueError(
                f"`state` has positions of shape {state.positions.shape}; wanted (atoms, 3), one configuration. For"
                " many, `batch`, how many to run at a time, or `jax.vmap` over the states."
            )
        self._check_solver(system)
        if throw:
            system = _with_room(system, jax.tree.map(lambda x: x[None], state))
            state = system.check(state)
        system, (trajectory, health) = _with_lists_that_fit(
            system, lambda system: _run(self, system, state, record), _TRIES if throw else 0
        )
        if throw:
            guard = (trajectory.records, trajectory.final)  # not the times, which are the same for all of a batch
            guard = check_wear(system, health.wear, guard=guard)
            records, final = self._check_explosion(system, jax.tree.map(lambda x: x[None], health), guard=guard)
            trajectory = Trajectory(trajectory.times, records, final)
        return trajectory

    def run_many(
        self,
        system: System,
        states: State,
        record: Record | None,
        *,
        copies: PyTree | None = None,
        throw: bool = True,
    ) -> Trajectory:
        """The trajectories from many configurations, in micro-batches and over the devices of the mesh.

        **Arguments:** `states`, whose leaves lead with `samples`; `copies`, arrays to put in the place of those of the
        potential, one for each sample: a tree like the potential with `None` for what stays.
        """
        if states.positions.ndim != 3:
            raise ValueError(
                f"`state` has positions of shape {states.positions.shape}; with `batch` or `mesh` wanted (samples,"
                " atoms, 3), many configurations. For one, leave both out, or `state.repeat(1)`."
            )
        self._check_solver(system)
        if throw:
            states = system.check_shape_and_cutoff(states, mesh=self.mesh)
            system = _with_room(system, states)

        def run(system):
            records, final, energies, health = map_samples(
                _run_sample,
                (self, system, record),
                (states, copies),
                batch=self.batch,
                mesh=self.mesh,
                progress_meter=self.progress_meter,
                reverse=not isinstance(self.adjoint, diffrax.ForwardMode),
            )
            # small beside the work, and needed whole by whoever reduces, reports or checks them
            return replicate((records, final, energies, health), self.mesh)

        system, (records, final, energies, health) = _with_lists_that_fit(system, run, _TRIES if throw else 0)
        if throw:
            guard = check_wear(system, health.wear, guard=(records, final), mesh=self.mesh)
            guard = check_energies(states, energies, guard=guard, mesh=self.mesh)
            records, final = self._check_explosion(system, health, guard=guard, mesh=self.mesh)
        times = _times(self, states)
        return Trajectory(_both_ways(times) if self.both_directions else times, records, final)

    def _check_solver(self, system):
        if isinstance(self.solver, Respa):
            _check_parts(self.solver, system.potential)
        if isinstance(self.solver, BitReversibleVerlet) and system.search is not None:
            raise ValueError(
                "`BitReversibleVerlet` got a system with a neighbor search; wanted one without: lists made at other"
                " positions on the way back would add the same forces in another order, with other last bits."
            )

    def _check_explosion(self, system, health, *, guard, mesh=None):
        """`guard`, unless one of many trajectories exploded."""
        kinetic = health.kinetic
        limits = jax.vmap(lambda e: explosion_limit(e, system.topology.num_atoms))(kinetic[:, 0])
        bad = ~((kinetic <= limits[:, None]) & jnp.isfinite(kinetic))
        resolution = self.solver.resolution if isinstance(self.solver, BitReversibleVerlet) else 0.0
        values = (kinetic, bad, health.failure, *(jnp.asarray(x) for x in (self.dt, self.save_every, resolution)))
        return raise_if(bad, _describe_explosion, *values, guard=guard, mesh=mesh)


_TRIES = 4
"""How often a list that is too small is enlarged: one that has failed does not yet know all that it needs."""


def _with_room(system, states):
    """The system with neighbor lists large enough for where trajectories start, if that is known by now."""
    search = system.search
    if (
        search is None
        or not is_concrete((states, search))
        or states.positions.shape[1:]
        != (
            system.topology.num_atoms,
            3,
        )
    ):
        return system
    search.check(jax.vmap(lambda s: s.box.heights)(states))
    for _ in range(2):  # what a window too small has hidden is found the second time
        needed = np.max(np.asarray(_needed(system, states)), axis=0)
        if np.all(needed <= np.asarray(system.search.room())):
            break
        system = _enlarged(system, needed)
    return system


def _with_lists_that_fit(system, run, tries):
    """What `run(system)` returns, its last entry the health; run again with larger neighbor lists, if that is known by
    now, while they were too small. And the system it was run with."""
    out = run(system)
    for _ in range(tries):
        needed = out[-1].wear.needed
        if system.search is None or isinstance(needed, Tracer):
            break
        needed = np.max(np.asarray(needed).reshape(-1, 2), axis=0)
        if np.all(needed <= np.asarray(system.search.room())):
            break
        system = _enlarged(system, needed)
        out = run(system)
    return system, out


def _enlarged(system, needed):
    return eqx.tree_at(lambda s: s.search, system, system.search.enlarged(jnp.asarray(1.1 * needed)))


@eqx.filter_jit
def _needed(system, states):
    # one after the other, in the memory of one
    return jax.lax.map(lambda s: system.find_neighbors(s.positions, s.box).needed, states)


class _Health(eqx.Module):
    """What tells whether a trajectory went well."""

    kinetic: Float[Array, " frames"]
    """kJ/mol."""
    failure: Int[Array, ""]
    """What did not fit into fixed-point numbers, or zero."""
    wear: Wear
    """Of the neighbor lists."""


def _run_sample(shared, sample):
    dynamics, system, record = shared
    state, copy = sample
    if copy is not None:
        system = eqx.tree_at(lambda s: s.potential, system, eqx.combine(copy, system.potential))
    quiet = eqx.tree_at(lambda d: d.progress_meter, dynamics, diffrax.NoProgressMeter())
    trajectory, health = _run(quiet, system, state, record)
    energy = system.potential_energy(state.positions, state.box)
    return trajectory.records, trajectory.final, jax.lax.stop_gradient(energy), health


def _run(dynamics, system, state, record):
    record = _whole_state if record is None else record
    if not dynamics.both_directions:
        return _solve(dynamics, system, state, record)
    one = lambda sign: _solve(dynamics, system, _directed(state, sign), _Directed(record, sign))
    # of an array that is spread over the devices, as constants are not: on the way back the two would not match
    nothing = jax.lax.stop_gradient(0 * state.positions[0, 0])
    both, health = jax.vmap(one)(jnp.array([-1, 1], state.positions.dtype) + nothing)
    worse = jax.tree.map(lambda x: jnp.max(x, axis=0), health)  # NaN wins
    return _join(both), worse


def _whole_state(system, state, initial):
    del system, initial
    return state


def _directed(state, sign):
    """The state whose future is the past of `state`, if `sign` is -1; its own inverse."""
    return State(state.positions, sign * state.velocities, state.box)


class _Directed(eqx.Module):
    """Records along a trajectory with flipped velocities what `record` sees in the true ones."""

    record: Record
    sign: Float[Array, ""]

    def __call__(self, system, state, initial):
        return self.record(system, _directed(state, self.sign), _directed(initial, self.sign))


def _join(both: Trajectory) -> Trajectory:
    """One trajectory from those into the past and into the future, which are the two entries of all leading axes."""
    join = lambda x: jnp.concatenate([x[0, :0:-1], x[1]])
    return Trajectory(
        _both_ways(both.times[1]), jax.tree.map(join, both.records), jax.tree.map(lambda x: x[1], both.final)
    )


@eqx.filter_jit
def _solve(dynamics, system, state, record):
    adjoint, num_steps, save_every = dynamics.adjoint, dynamics.num_steps, dynamics.save_every
    # times in the dtype of the positions, as Diffrax would promote the positions to that of the times
    time = lambda t: jnp.asarray(t, state.positions.dtype)
    args = (system, state, record)
    by_step = isinstance(adjoint, ReversibleAdjoint)

    def frame(t, y, args):
        del t
        system, initial, record = args
        x, v = y
        return record(system, State(x, v, initial.box), initial)

    def watch(t, y, args):
        del t
        system, initial, _ = args
        kinetic = system.kinetic_energy(y[1])
        if system.search is None or by_step:
            return kinetic, None
        # lists of single evaluations; as floats, since Diffrax fills what it will save with infinity
        wear = Wear.none(y[0].dtype).and_of(y[0], system.find_neighbors(y[0], initial.box))
        return kinetic, wear.needed.astype(kinetic.dtype)

    frames = diffrax.SubSaveAt(t0=True, steps=save_every, fn=frame)
    watched = diffrax.SubSaveAt(t0=True, steps=save_every, fn=watch)
    length = num_steps * dynamics.dt
    if by_step:
        dt0, controller = time(dynamics.dt), diffrax.ConstantStepSize()
    else:  # Diffrax's own constant steps may be one too many, by rounding
        # by NumPy: the last fraction must be exactly one, and XLA may multiply by a rounded 1/num_steps
        grid = time(length) * jnp.asarray(np.arange(num_steps + 1) / num_steps, state.positions.dtype)
        dt0, controller = None, diffrax.StepTo(grid)
    solution = diffrax.diffeqsolve(
        _terms(dynamics.solver, system),
        dynamics.solver,
        time(0),
        time(length),
        dt0,
        (state.positions, state.velocities),
        args,
        saveat=diffrax.SaveAt(subs=(frames, watched, diffrax.SubSaveAt(t1=True)), solver_state=True),
        stepsize_controller=controller,
        adjoint=adjoint,
        max_steps=num_steps,
        progress_meter=dynamics.progress_meter,
        throw=False,
    )
    assert solution.ys is not None
    records, (kinetic, needed), (x, v) = solution.ys
    wear = Wear.none(x.dtype)
    if system.search is not None and by_step:
        wear = solution.stats["wear"]
    elif needed is not None:
        wear = Wear(wear.moved, jnp.max(needed, axis=0).astype(jnp.int32))
    last = solution.solver_state
    failure = last.failure if isinstance(last, BitReversibleState) else jnp.zeros((), jnp.int32)
    trajectory = Trajectory(_times(dynamics, state), records, State(x[-1], v[-1], state.box))
    return trajectory, jax.lax.stop_gradient(_Health(kinetic, failure, wear))


def _times(dynamics, state):
    dtype = state.positions.dtype
    steps = jnp.arange(0, dynamics.num_steps + 1, dynamics.save_every, dtype=dtype)
    return jnp.asarray(dynamics.dt, dtype) * steps


def _both_ways(times):
    return jnp.concatenate([-times[:0:-1], times])


def _terms(solver, system):
    lists = None if system.search is None else _Lists(system.search)  # pyright: ignore[reportCallIssue]
    if isinstance(solver, Respa):
        slow = tuple(k for k in range(len(system.potential.parts)) if k not in solver.fast)
        kicks = (ConservativeTerm(_PartsEnergy(k), _masses, lists) for k in (slow, solver.fast))
        kick = diffrax.MultiTerm(*kicks)
    else:
        kick = ConservativeTerm(_potential_energy, _masses, lists)
    return diffrax.ODETerm(_velocity), kick


class _Lists(AbstractPreparation):
    """Neighbor lists, for the potential in `args`."""

    search: AbstractNeighborSearch

    @property
    def every(self) -> int:
        return self.search.every

    def make(self, x, args):
        _, initial, _ = args
        return jax.lax.stop_gradient(self.search.find(x, initial.box))

    def unworn(self, x):
        return Wear.none(x.dtype)

    def wear(self, worst, x, prepared: Neighbors):
        return worst.and_of(x, prepared)

    def worn_out(self, worst):
        return worst.too_much(self.search)


class _PartsEnergy(eqx.Module):
    """The energy of some parts of a `Sum`, which is read from `args`, where cotangents reach it."""

    indices: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x, args, neighbors=None):
        system, initial, _ = args
        parts = tuple(system.potential.parts[k] for k in self.indices)
        return energy_of(Sum(parts), x, initial.box, neighbors)  # pyright: ignore[reportCallIssue]


def _check_parts(solver: Respa, potential: AbstractPotential) -> None:
    if not isinstance(potential, Sum):
        raise ValueError(
            f"`rv.Respa` got the potential `{type(potential).__name__}`; wanted a `rv.Sum`, of which some parts are"
            " fast and the others slow. Write `bonds + pairs`; or, to split a pair potential by distance,"
            " `near + (full - near)` with `near` ending at a shorter cutoff."
        )
    num = len(potential.parts)
    if max(solver.fast) >= num:
        raise ValueError(
            f"`fast` is {solver.fast}, but the potential is a `rv.Sum` of {num} parts; wanted indices from 0 to"
            f" {num - 1}."
        )
    if len(solver.fast) == num:
        raise ValueError(
            f"`fast` is {solver.fast}, all {num} parts of the potential, so that nothing is slow; wanted fewer, or"
            " `rv.VelocityVerlet()` with a shorter time step."
        )


def _velocity(t, v, args):
    del t, args
    return v


def _potential_energy(x, args, neighbors=None):
    system, initial, _ = args
    return energy_of(system.potential, x, initial.box, neighbors)


def _masses(args):
    system, initial, _ = args
    return system.topology.masses.astype(initial.positions.dtype)[:, None]


def _check_steps(dt: Any, num_steps: int, save_every: int) -> tuple[int, int]:
    if not isinstance(dt, Tracer) and not dt > 0:
        raise ValueError(f"`dt` is {dt}; wanted a time step longer than zero, in ps (1 fs is 0.001).")
    for name, value in (("num_steps", num_steps), ("save_every", save_every)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"`{name}` is {value!r}; wanted a whole number, at least 1.")
    if num_steps % save_every != 0:
        raise ValueError(
            f"`num_steps` is {num_steps}, which `save_every` {save_every} does not divide; wanted a multiple such as"
            f" {num_steps - num_steps % save_every or save_every} or {-(-num_steps // save_every) * save_every}."
        )
    return int(num_steps), int(save_every)


def _describe_explosion(kinetic, bad, failure, dt, save_every, resolution):
    """Of the first bad one of many trajectories."""
    k = int(np.argmax(np.any(bad, axis=1)))
    which = f"Of {len(bad)} trajectories, number {k}: " if len(bad) > 1 else ""
    kinetic, bad, failure = kinetic[k], bad[k], int(failure[k])
    frame = int(np.argmax(bad))
    step, before = frame * int(save_every), max(frame - 1, 0)
    if failure != 0 and not np.isfinite(kinetic[frame]):
        return f"{which}By step {step} ({step * float(dt):.6g} ps), {describe_failure(failure, float(resolution))}"
    return (
        f"{which}The trajectory exploded by step {step} ({step * float(dt):.6g} ps): its kinetic energy is"
        f" {kinetic[frame]:.6g} kJ/mol, after {kinetic[before]:.6g} at step {before * int(save_every)} and"
        f" {kinetic[0]:.6g} at the start. Wanted an energy that stays near its first value: try a shorter time step,"
        " better equilibrated positions, or look at what the parameters have become."
    )
