import diffrax
import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from .._adjoint import ReversibleAdjoint
from .._batches import Batch, batch_rule, map_samples, replicate
from .._fields import AbstractChecked, checked, count, positive_scalar
from .._misc import require_callable, require_flag, require_instance
from .._solver import AbstractFallibleSolver, VelocityVerlet
from .._state import State
from .._system import System
from ._directions import both_ways
from ._lists import TRIES, with_lists_that_fit, with_room
from ._reporting import Reporter, run_reported
from ._solve import frame_times, kick_parts, run_one, run_sample
from ._trajectory import Record, Trajectory


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
    reporter: Reporter | None = None,
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
    - `mesh`: devices to spread many states over, such as `rv.device_mesh()`. Every device and every process gets the
      whole result.
    - `progress_meter`: of Diffrax, such as `diffrax.TqdmProgressMeter()`: how much of the time has passed, or how many
      of the batches are done. On the way back it is silent.
    - `reporter(times, states)`: what takes the frames, whole states, while the trajectory runs, such as
      `rv.io.reporting` makes to write a file. The trajectory is then run in pieces of 100 frames, which differ from
      one run by rounding, and of which one at a time is in memory: without `record`, only the two ends come back. Not
      differentiable. Steps in messages count from the piece's beginning.
    - `throw`: whether to check the initial energy, and raise when the trajectory explodes or a neighbor list fails,
      instead of going on with NaN or without some pairs. A list that is too small is enlarged and the trajectory
      run again, where values are known; inside `jax.jit` the error says what to raise.

    **Errors:** `ValueError` for steps that do not fit, states that do not fit the system, a potential that does not fit
    `Respa`, a batch below one, a memory budget too small for one trajectory (with what that takes) and more devices
    than states, a reporter of many trajectories or inside of `jax.jit`; `SimulationError` for overlapping atoms, for a
    trajectory that explodes, with step and energy, and for a neighbor list too small or used too long.
    """
    dynamics = Dynamics(dt, num_steps, save_every, solver, adjoint, both_directions, batch, mesh, progress_meter)
    if reporter is not None:
        return run_reported(dynamics, system, state, record, reporter, throw)
    if batch is not None or mesh is not None:
        return dynamics.run_many(system, state, record, throw=throw)
    return dynamics.run(system, state, record, throw=throw)


class Dynamics(AbstractChecked):
    """How to run trajectories at constant energy from samples: the arguments of `nve`, for `expectation`.

    **Errors:** as for `nve`, when made.
    """

    dt: float = positive_scalar("ps")
    num_steps: int = checked(count(), static=True)
    save_every: int = checked(count(), static=True, default=1)
    solver: diffrax.AbstractSolver = VelocityVerlet()
    adjoint: diffrax.AbstractAdjoint = ReversibleAdjoint()
    both_directions: bool = eqx.field(static=True, default=False)
    batch: Batch = checked(batch_rule(), static=True, default=None)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    progress_meter: diffrax.AbstractProgressMeter = diffrax.NoProgressMeter()

    def __check_init__(self):
        steps, every = self.num_steps, self.save_every
        if steps % every != 0:
            raise ValueError(
                f"`num_steps` is {steps}, which `save_every` {every} does not divide; wanted a multiple such as"
                f" {steps - steps % every or every} or {-(-steps // every) * every}."
            )

    def run(self, system: System, state: State, record: Record | None, *, throw: bool = True) -> Trajectory:
        """The trajectory from one configuration."""
        _require(system, state, record, throw)
        if state.positions.ndim != 2:
            raise ValueError(
                f"`state` has positions of shape {state.positions.shape}; wanted (atoms, 3), one configuration. For"
                " many, `batch`, how many to run at a time, or `jax.vmap` over the states."
            )
        if throw:
            state = system.check_shape_and_cutoff(state)
        one = lambda tree: jax.tree.map(lambda x: x[None], tree)
        first = lambda tree: jax.tree.map(lambda x: x[0], tree)
        run = lambda system, states: one(run_one(self, system, first(states), record))
        trajectory = self._run(system, one(state), run, throw)
        return Trajectory(trajectory.times, *first((trajectory.records, trajectory.final)))

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
        _require(system, states, record, throw)
        if states.positions.ndim != 3:
            raise ValueError(
                f"`state` has positions of shape {states.positions.shape}; with `batch` or `mesh` wanted (samples,"
                " atoms, 3), many configurations. For one, leave both out, or `state.repeat(1)`."
            )
        if throw:
            states = system.check_shape_and_cutoff(states, mesh=self.mesh)

        def run(system, states):
            out = map_samples(
                run_sample,
                (self, system, record),
                (states, copies),
                batch=self.batch,
                mesh=self.mesh,
                progress_meter=self.progress_meter,
                reverse=not isinstance(self.adjoint, diffrax.ForwardMode),
            )
            # small beside the work, and needed whole by whoever reduces, reports or checks them
            return replicate(out, self.mesh)

        return self._run(system, states, run, throw)

    def _run(self, system, states, run, throw):
        """Of one trajectory and of many: `run(system, states)`, with lists that fit, and the verdict."""
        kick_parts(self.solver, system.potential)
        if isinstance(self.solver, AbstractFallibleSolver):
            self.solver.require_lists(system.search is not None)
        if throw:
            system = with_room(system, states)
        system, (records, final, health) = with_lists_that_fit(
            system, lambda system: run(system, states), TRIES if throw else 0
        )
        times = frame_times(self, states)
        out = Trajectory(both_ways(times) if self.both_directions else times, records, final)
        if throw:
            out = health.require(
                system.search, states, self.solver, self.dt, self.save_every, guard=out, mesh=self.mesh
            )
        return out


def _require(system, state, record, throw):
    require_instance("system", system, System)
    require_instance("state", state, State)
    require_flag("throw", throw)
    if record is not None:
        require_callable("record", record, "`lambda system, state, initial: state`")
