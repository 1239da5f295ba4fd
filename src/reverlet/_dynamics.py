from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from ._adjoint import ReversibleAdjoint
from ._misc import raise_if
from ._solver import ConservativeTerm, VelocityVerlet
from ._state import State
from ._system import System, explosion_limit

Record = Callable[[System, State, State], PyTree[Array]]


class Trajectory(eqx.Module):
    """What `nve` returns."""

    times: Float[Array, " frames"]
    """ps, from zero, or from minus the length of the trajectory where both directions were run."""
    records: PyTree
    """What `record` returned at every frame, the initial one included: leaves lead with `frames`."""
    final: State
    """The configuration at the last of the times, to go on from."""


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
    throw: bool = True,
) -> Trajectory:
    """Newton's equations at constant energy, from one configuration; lift with `jax.vmap` over states.

    Differentiable with respect to every array of `system`, `state` and `record`: exactly, and by default in memory
    that does not grow with `num_steps`, the records aside.

    **Arguments:**

    - `solver`: any Diffrax solver of two terms (positions, velocities).
    - `dt`: the time step, ps. `num_steps`: how many; `save_every` must divide it.
    - `record(system, state, initial)`: what to keep of an instant, given where the trajectory began; by default the
      whole `State`. It runs inside the solve, so that a correlation v(0)·v(t) costs one number per frame. If it has
      trainable parameters, make it an `eqx.Module`. Every new function is compiled anew: define it once, or put the
      whole computation under `eqx.filter_jit`.
    - `adjoint`: how to differentiate. With `rv.ForwardMode()`, `jax.jvp` works.
    - `both_directions`: run from `state` into the past as well, which is forward with the velocities flipped, and join
      both into one grid of times from -T to T, that of `state` in the middle. Twice the frames, with a gradient
      that has grown no more than over T. At negative times `record` sees velocities as they were then.
    - `throw`: whether to check the initial energy, and raise when the trajectory explodes, instead of going on with
      NaN.

    **Errors:** `ValueError` for steps that do not fit and states that do not fit the system; `FloatingPointError` for
    overlapping atoms and for a trajectory that explodes, with step and energy.
    """
    num_steps, save_every = _check_steps(dt, num_steps, save_every)
    if state.positions.ndim != 2:
        raise ValueError(
            f"`state` has positions of shape {state.positions.shape}; wanted (atoms, 3), one configuration. For many,"
            " `jax.vmap` over the states."
        )
    if throw:
        state = system.check(state)
    record = _whole_state if record is None else record
    arguments = (solver, dt, num_steps, save_every)
    if both_directions:
        one = lambda sign: _solve(system, _directed(state, sign), *arguments, _Directed(record, sign), adjoint)
        both, kinetics = jax.vmap(one)(jnp.array([-1, 1], state.positions.dtype))
        trajectory = _join(both)
        kinetic = jnp.max(kinetics, axis=0)  # the worse direction; NaN wins
    else:
        trajectory, kinetic = _solve(system, state, *arguments, record, adjoint)
    if throw:
        limit = explosion_limit(kinetic[0], system.topology.num_atoms)
        bad = ~((kinetic <= limit) & jnp.isfinite(kinetic))
        values = (kinetic, bad, jnp.asarray(dt), jnp.asarray(save_every))
        # not the times, which are the same for all of a batch
        guarded = raise_if(bad, _describe_explosion, *values, guard=(trajectory.records, trajectory.final))
        trajectory = Trajectory(trajectory.times, *guarded)
    return trajectory


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
    times = jnp.concatenate([-both.times[0, :0:-1], both.times[1]])
    return Trajectory(times, jax.tree.map(join, both.records), jax.tree.map(lambda x: x[1], both.final))


@eqx.filter_jit
def _solve(system, state, solver, dt, num_steps, save_every, record, adjoint):
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
        throw=False,
    )
    assert solution.ys is not None
    records, energies, (x, v) = solution.ys
    times = time(dt) * jnp.arange(0, num_steps + 1, save_every, dtype=state.positions.dtype)
    return Trajectory(times, records, State(x[-1], v[-1], state.box)), energies


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


class NVE(eqx.Module):
    """How to run trajectories at constant energy from samples: the arguments of `nve`, for `expectation`.

    **Errors:** as of `nve`, when made.
    """

    dt: float
    num_steps: int = eqx.field(static=True)
    save_every: int = eqx.field(static=True, default=1)
    solver: diffrax.AbstractSolver = VelocityVerlet()
    adjoint: diffrax.AbstractAdjoint = ReversibleAdjoint()
    both_directions: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        _check_steps(self.dt, self.num_steps, self.save_every)

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
            both_directions=self.both_directions,
            throw=throw,
        )
