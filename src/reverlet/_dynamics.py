from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from ._adjoint import ReversibleAdjoint
from ._batches import Batch, map_samples, replicate, require_batch
from ._misc import raise_if
from ._solver import ConservativeTerm, VelocityVerlet
from ._state import State
from ._system import System, check_energies, explosion_limit

Record = Callable[[System, State, State], PyTree[Array]]


class Trajectory(eqx.Module):
    """What `nve` returns."""

    times: Float[Array, " frames"]
    """ps, from zero."""
    records: PyTree
    """What `record` returned at every frame, the initial one included: leaves lead with `frames`, and before that with
    `samples` where there are many trajectories."""
    final: State
    """The configuration at the end, to go on from; of many, arrays lead with `samples`."""


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
    batch: Batch = None,
    mesh: Mesh | None = None,
    progress_meter: diffrax.AbstractProgressMeter = diffrax.NoProgressMeter(),
    throw: bool = True,
) -> Trajectory:
    """Newton's equations at constant energy, from one configuration; from many with `batch` or `mesh`.

    Differentiable with respect to every array of `system`, `state` and `record`: exactly, and by default in memory
    that does not grow with `num_steps`, the records aside.

    **Arguments:**

    - `solver`: any Diffrax solver of two terms (positions, velocities).
    - `dt`: the time step, ps. `num_steps`: how many; `save_every` must divide it.
    - `record(system, state, initial)`: what to keep of an instant, given where the trajectory began; by default the
      whole `State`. It runs inside the solve, so that a correlation v(0)·v(t) costs one number per frame. If it has
      trainable parameters, make it an `eqx.Module`. Every new function is compiled anew: define it once, or put the
      whole computation under `eqx.filter_jit`.
    - `adjoint`: how to differentiate. With `diffrax.ForwardMode()`, `jax.jvp` works.
    - `batch`: for many states, whose arrays have a leading axis: how many trajectories run at a time, on each device;
      a number, or an `rv.MemoryBudget` that finds it. The result does not depend on it, but for rounding; the memory of
      a gradient is that of so many trajectories, and the records and ends of all.
    - `mesh`: devices to spread many states over, as `rv.device_mesh()`. Every device and every process gets the whole
      result.
    - `progress_meter`: of Diffrax, as `diffrax.TqdmProgressMeter()`: how much of the time has passed, or how many of
      the batches are done. On the way back it is silent.
    - `throw`: whether to check the initial energy, and raise when the trajectory explodes, instead of going on with
      NaN.

    **Errors:** `ValueError` for steps that do not fit, states that do not fit the system, a batch below one, a memory
    budget too small for one trajectory (with what that takes) and more devices than states; `FloatingPointError` for
    overlapping atoms and for a trajectory that explodes, with step and energy.
    """
    num_steps, save_every = _check_steps(dt, num_steps, save_every)
    if batch is not None or mesh is not None:
        many = NVE(dt, num_steps, save_every, solver, adjoint, batch, mesh, progress_meter)
        return many.run_many(system, state, record, throw=throw)
    if state.positions.ndim != 2:
        raise ValueError(
            f"`state` has positions of shape {state.positions.shape}; wanted (atoms, 3), one configuration. For many,"
            " `batch`, how many to run at a time, or `jax.vmap` over the states."
        )
    if throw:
        state = system.check(state)
    trajectory, kinetic = _solve(system, state, solver, dt, num_steps, save_every, record, adjoint, progress_meter)
    if throw:
        limit = explosion_limit(kinetic[0], system.topology.num_atoms)
        bad = ~((kinetic <= limit) & jnp.isfinite(kinetic))
        values = (kinetic, bad, jnp.asarray(dt), jnp.asarray(save_every))
        # not the times, which are the same for all of a batch
        guarded = raise_if(bad, _describe_explosion, *values, guard=(trajectory.records, trajectory.final))
        trajectory = Trajectory(trajectory.times, *guarded)
    return trajectory


@eqx.filter_jit
def _solve(system, state, solver, dt, num_steps, save_every, record, adjoint, progress_meter):
    record = (lambda system, state, initial: state) if record is None else record
    # times in the dtype of the positions, as Diffrax would promote the positions to that of the times
    time = lambda t: jnp.asarray(t, state.positions.dtype)
    args = (system, state, record)

    def frame(t, y, args):
        del t
        system, initial, record = args
        x, v = y
        return record(system, State(x, v, initial.box), initial)

    def kinetic(t, y, args):
        del t
        return args[0].kinetic_energy(y[1])

    frames = diffrax.SubSaveAt(t0=True, steps=save_every, fn=frame)
    energies = diffrax.SubSaveAt(t0=True, steps=save_every, fn=kinetic)
    if isinstance(adjoint, ReversibleAdjoint):
        dt0, controller = time(dt), diffrax.ConstantStepSize()
    else:  # Diffrax's own constant steps may be one too many, by rounding
        # by NumPy: the last fraction must be exactly one, and XLA may multiply by a rounded 1/num_steps
        grid = time(num_steps * dt) * jnp.asarray(np.arange(num_steps + 1) / num_steps, state.positions.dtype)
        dt0, controller = None, diffrax.StepTo(grid)
    solution = diffrax.diffeqsolve(
        (diffrax.ODETerm(_velocity), ConservativeTerm(_potential_energy, _masses)),
        solver,
        time(0),
        time(num_steps * dt),
        dt0,
        (state.positions, state.velocities),
        args,
        saveat=diffrax.SaveAt(subs=(frames, energies, diffrax.SubSaveAt(t1=True))),
        stepsize_controller=controller,
        adjoint=adjoint,
        max_steps=num_steps,
        progress_meter=progress_meter,
        throw=False,
    )
    assert solution.ys is not None
    records, energies, (x, v) = solution.ys
    times = _times(dt, num_steps, save_every, state)
    return Trajectory(times, records, State(x[-1], v[-1], state.box)), energies


def _times(dt, num_steps, save_every, state):
    dtype = state.positions.dtype
    return jnp.asarray(dt, dtype) * jnp.arange(0, num_steps + 1, save_every, dtype=dtype)


def _velocity(t, v, args):
    del t, args
    return v


def _potential_energy(x, args):
    system, initial, _ = args
    return system.potential.energy(x, initial.box)


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


def _describe_explosion(kinetic, bad, dt, save_every):
    frame = int(np.argmax(bad))
    step, before = frame * int(save_every), max(frame - 1, 0)
    return (
        f"The trajectory exploded by step {step} ({step * float(dt):.6g} ps): its kinetic energy is"
        f" {kinetic[frame]:.6g} kJ/mol, after {kinetic[before]:.6g} at step {before * int(save_every)} and"
        f" {kinetic[0]:.6g} at the start. Wanted an energy that stays near its first value: try a shorter time step,"
        " better equilibrated positions, or look at what the parameters have become."
    )


def _describe_explosions(kinetic, bad, dt, save_every):
    k = int(np.argmax(np.any(bad, axis=1)))
    return f"Of {len(bad)} trajectories, number {k}: {_describe_explosion(kinetic[k], bad[k], dt, save_every)}"


class NVE(eqx.Module):
    """How to run trajectories at constant energy from samples: the arguments of `nve`, for `expectation`.

    **Errors:** as of `nve`, when made.
    """

    dt: float
    num_steps: int = eqx.field(static=True)
    save_every: int = eqx.field(static=True, default=1)
    solver: diffrax.AbstractSolver = VelocityVerlet()
    adjoint: diffrax.AbstractAdjoint = ReversibleAdjoint()
    batch: Batch = eqx.field(static=True, default=None)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    progress_meter: diffrax.AbstractProgressMeter = diffrax.NoProgressMeter()

    def __check_init__(self):
        _check_steps(self.dt, self.num_steps, self.save_every)
        require_batch(self.batch)

    def run(self, system: System, state: State, record: Record, *, throw: bool = True) -> Trajectory:
        """The trajectory from one configuration."""
        return nve(
            system,
            state,
            self.solver,
            dt=self.dt,
            num_steps=self.num_steps,
            save_every=self.save_every,
            record=record,
            adjoint=self.adjoint,
            throw=throw,
        )

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
        if throw:
            states = system.check_shape_and_cutoff(states, mesh=self.mesh)
        records, final, kinetic, energies = map_samples(
            _run_sample,
            (self, system, record),
            (states, copies),
            batch=self.batch,
            mesh=self.mesh,
            progress_meter=self.progress_meter,
            reverse=not isinstance(self.adjoint, diffrax.ForwardMode),
        )
        # small beside the work, and needed whole by whoever reduces, reports or checks them
        records, final, kinetic, energies = replicate((records, final, kinetic, energies), self.mesh)
        if throw:
            records, final = check_energies(states, energies, guard=(records, final), mesh=self.mesh)
            limits = jax.vmap(lambda e: explosion_limit(e, system.topology.num_atoms))(kinetic[:, 0])
            bad = ~((kinetic <= limits[:, None]) & jnp.isfinite(kinetic))
            values = (kinetic, bad, jnp.asarray(self.dt), jnp.asarray(self.save_every))
            records, final = raise_if(bad, _describe_explosions, *values, guard=(records, final), mesh=self.mesh)
        return Trajectory(_times(self.dt, self.num_steps, self.save_every, states), records, final)


def _run_sample(shared, sample):
    dynamics, system, record = shared
    state, copy = sample
    if copy is not None:
        system = eqx.tree_at(lambda s: s.potential, system, eqx.combine(copy, system.potential))
    d = dynamics
    trajectory, kinetic = _solve(
        system, state, d.solver, d.dt, d.num_steps, d.save_every, record, d.adjoint, diffrax.NoProgressMeter()
    )
    energy = system.potential.energy(state.positions, state.box)
    return trajectory.records, trajectory.final, kinetic, jax.lax.stop_gradient(energy)
