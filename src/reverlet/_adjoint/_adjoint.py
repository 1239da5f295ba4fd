"""The reversible adjoint. Only this package touches Diffrax's private names (pinned to `diffrax>=0.7.2,<0.8`)."""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from diffrax._adjoint import _nondiff_solver_controller_state, _only_transpose_ys
from diffrax._heuristics import is_sde
from diffrax._integrate import SaveState, State
from jaxtyping import PyTree

from .._controls import AbstractCotangentControl
from .._solver import AbstractReversibleSolver, AbstractSplittingSolver
from ._functions import explicit, prepare, ready, refreshed
from ._grid import Grid, equal_steps, slots_of
from ._walk import Walk, walk_any, walk_splitting


class ReversibleAdjoint(diffrax.AbstractAdjoint):
    """Exact gradients through a reversible solver, in memory that does not grow with the number of steps.

    The trajectory is not stored: the backward pass walks it from its end, reconstructing every state, and accumulates
    the derivative of the discrete solution. It equals `diffrax.DirectAdjoint` up to rounding; it is not the
    continuous adjoint of `diffrax.BacksolveAdjoint`. For splitting methods a step back costs one evaluation of the
    vector field and its pullback; for any other `AbstractReversibleSolver`, its `backward_step` and one `jax.vjp` of
    its `step`.

    Gradients reach `y0`, `args`, `terms`, what `SaveAt(fn=...)` and the vector fields close over, through every value
    saved by any `SaveAt` of `t0`, `t1`, `ts` (on the step grid), `steps`, `fn` and `subs`. Steps are equal to the
    last bit.

    Do not use it where a trajectory is so long that rounding grows to the size of the solution on the way back (some 35
    Lyapunov times in float64, 15 in float32: for liquid argon about 20 ps and 7 ps), with dissipation or with noise.

    Reverse mode only; for `jax.jvp`, use `rv.ForwardMode` or `diffrax.DirectAdjoint`.

    **Arguments:** `controls`, what is done to the cotangent on its way back, one after the other: for trajectories so
    long that the exact gradient explodes, such as `(rv.Damp(2.0), rv.ClipNorm(10.0))`. None by default.

    **Errors:** `ValueError` at once for solvers that cannot step backward, adaptive steps, events, dense output and
    noise; `RuntimeError` from the compiled program for `ts` off the step grid.

    **Reference:** the discrete adjoint of a time-reversible integrator, as in B. Han and K. Yu, "Refining potential
    energy surface through dynamical properties via differentiable molecular simulation" (2025).
    """

    controls: tuple[AbstractCotangentControl, ...] = ()

    def __check_init__(self):
        controls = self.controls
        if not (isinstance(controls, tuple) and all(isinstance(c, AbstractCotangentControl) for c in controls)):
            raise TypeError(
                f"`controls` is {controls!r}; wanted a tuple of controls, such as `(rv.Damp(2.0),)` with its comma."
            )

    def loop(
        self,
        *,
        args,
        terms,
        solver,
        stepsize_controller,
        event,
        saveat,
        t0,
        t1,
        dt0,
        max_steps,
        throw,
        init_state,
        passed_solver_state,
        passed_controller_state,
        progress_meter,
    ):
        del throw
        _refuse_unsupported(terms, solver, stepsize_controller, event, saveat)
        init_state = _nondiff_solver_controller_state(self, init_state, passed_solver_state, passed_controller_state)
        num_steps, h = equal_steps(t0, t1, dt0)
        taken = num_steps if max_steps is None else jnp.minimum(num_steps, max_steps)
        is_sub = lambda x: isinstance(x, diffrax.SubSaveAt)
        is_save = lambda x: isinstance(x, SaveState)
        subs, subs_tree = jax.tree.flatten(saveat.subs, is_leaf=is_sub)
        saves = jax.tree.leaves(init_state.save_state, is_leaf=is_save)
        slots = [slots_of(sub, save.ts.shape[0], t0, h, taken) for sub, save in zip(subs, saves, strict=True)]
        grid = Grid(t0, h, taken, slots)

        y0, solver_state0 = init_state.y, init_state.solver_state
        functions = explicit(terms, solver, [sub.fn for sub in subs], t0, h, y0, args, solver_state0)
        empty = [save.ys for save in saves]
        progress = _Progress(progress_meter, init_state.progress_meter_state)
        ys, y1, solver_state1, progress_state, result, wear = _solve(
            (y0, args, functions),
            solver=solver,
            controls=self.controls,
            grid=grid,
            empty=empty,
            solver_state0=solver_state0,
            progress=progress,
        )

        save_states = []
        for sub_slots, save, sub_ys in zip(slots, saves, ys, strict=True):
            written = sub_slots <= taken
            ts = jnp.where(written, grid.time(sub_slots), save.ts)
            index = jnp.sum(written)
            save_states.append(SaveState(saveat_ts_index=index, ts=ts, ys=sub_ys, save_index=index))
        out_of_steps = (taken < num_steps) & (result == diffrax.RESULTS.successful)
        result = diffrax.RESULTS.where(out_of_steps, diffrax.RESULTS.max_steps_reached, result)
        tprev = jnp.where(taken < num_steps, grid.time(taken), t1)
        final_state = eqx.tree_at(
            lambda s: (
                s.y,
                s.tprev,
                s.tnext,
                s.solver_state,
                s.progress_meter_state,
                s.result,
                s.num_steps,
                s.num_accepted_steps,
                s.save_state,
            ),
            init_state,
            (
                y1,
                tprev,
                t1,
                solver_state1,
                progress_state,
                result,
                taken,
                taken,
                jax.tree.unflatten(subs_tree, save_states),
            ),
            is_leaf=lambda x: x is None,
        )
        assert isinstance(final_state, State)
        return _only_transpose_ys(final_state), {"wear": jax.lax.stop_gradient(wear)}


def _refuse_unsupported(terms, solver, stepsize_controller, event, saveat):
    name = "`rv.ReversibleAdjoint()`"
    if not isinstance(solver, AbstractReversibleSolver):
        raise ValueError(
            f"{name} got the solver `{type(solver).__name__}`, which has no `backward_step`; wanted a reversible one"
            f" such as"
            " `rv.VelocityVerlet()`. For other solvers use `adjoint=diffrax.DirectAdjoint()`."
        )
    if not isinstance(stepsize_controller, diffrax.ConstantStepSize):
        raise ValueError(
            f"{name} got the step size controller `{type(stepsize_controller).__name__}`; wanted"
            " `diffrax.ConstantStepSize()`: reversing a trajectory takes equal steps. Use a smaller `dt0`, or"
            " `adjoint=diffrax.RecursiveCheckpointAdjoint()` with adaptive steps."
        )
    if event is not None:
        raise ValueError(
            f"{name} does not stop at events; wanted `event=None`. Save what the event looks at with"
            " `diffrax.SaveAt(steps=..., fn=...)` and decide afterwards, or use another adjoint."
        )
    if saveat.dense:
        raise ValueError(
            f"{name} makes no dense output, which would store the whole trajectory; wanted"
            " `diffrax.SaveAt(ts=...)` on the step grid, or `diffrax.SaveAt(steps=...)`."
        )
    if is_sde(terms):
        raise ValueError(f"{name} cannot undo noise; wanted ordinary differential equations, `diffrax.ODETerm`.")


class _Progress(NamedTuple):
    meter: diffrax.AbstractProgressMeter
    state: PyTree


# Differentiable: y0, args, functions. Everything else is not.
@eqx.filter_custom_vjp
def _solve(y__args__functions, *, solver, controls, grid, empty, solver_state0, progress):
    del solver, controls
    y, args, functions = y__args__functions

    def save(i, y, pointers, buffers):
        pointers, buffers = list(pointers), list(buffers)
        for k, (fn, slots) in enumerate(zip(functions.saves, grid.slots, strict=True)):
            # `while`, since several slots may want the same step
            def due(carry, slots=slots):
                p, _ = carry
                return (p < len(slots)) & (slots[jnp.minimum(p, len(slots) - 1)] == i)

            def write(carry, fn=fn):
                p, buffer = carry
                value = fn(grid.time(i), y, args)
                return p + 1, jax.tree.map(lambda b, v: b.at[p].set(v), buffer, value)

            pointers[k], buffers[k] = jax.lax.while_loop(due, write, (pointers[k], buffers[k]))
        return pointers, buffers

    def body(i, carry):
        y, state, pointers, buffers, meter_state, result, prepared, wear = carry
        prepared = refreshed(functions, i > 0, i, y, args, prepared)
        y, state, step_result = functions.step(grid.time(i), y, ready(args, prepared), state)
        wear = wear if functions.wear is None else functions.wear(wear, y[0], prepared)
        result = diffrax.RESULTS.where(result == diffrax.RESULTS.successful, step_result, result)  # the first failure
        pointers, buffers = save(i + 1, y, pointers, buffers)
        meter_state = progress.meter.step(meter_state, (i + 1) / grid.num_steps)
        return y, state, pointers, buffers, meter_state, result, prepared, wear

    pointers, buffers = save(0, y, [jnp.zeros((), jnp.int32)] * len(empty), empty)
    carry = (y, solver_state0, pointers, buffers, progress.state, diffrax.RESULTS.successful)
    carry = (*carry, prepare(functions, y, args), functions.unworn)
    y, state, _, buffers, meter_state, result, _, wear = jax.lax.fori_loop(0, grid.num_steps, body, carry)
    if functions.wear is not None:
        # with the preparation that the way back will begin with
        wear = functions.wear(wear, y[0], prepare(functions, y, args))
        bad = (result == diffrax.RESULTS.successful) & functions.worn_out(wear)
        failed = diffrax.RESULTS.nonfinite  # inherited from Optimistix's
        result = diffrax.RESULTS.where(bad, failed, result)  # pyright: ignore[reportArgumentType]
    return buffers, y, state, meter_state, result, wear


@_solve.def_fwd
def _solve_fwd(perturbed, y__args__functions, **kwargs):
    del perturbed
    out = _solve(y__args__functions, **kwargs)
    _, y1, state1, *_ = out
    return out, (y1, state1)


@_solve.def_bwd
def _solve_bwd(
    residuals, cotangents, perturbed, y__args__functions, *, solver, controls, grid, empty, solver_state0, progress
):
    del empty, solver_state0, progress
    y1, state1 = residuals
    y0, args, functions = y__args__functions
    _, args_perturbed, functions_perturbed = perturbed
    moving, fixed = eqx.partition((args, functions), (args_perturbed, functions_perturbed))
    walk = Walk(solver, controls, grid, cotangents[0], moving, fixed)
    if isinstance(solver, AbstractSplittingSolver):
        y_bar, moving_bar = walk_splitting(walk, y0, y1)
    else:
        y_bar, moving_bar = walk_any(walk, y0, y1, state1)
    args_bar, functions_bar = moving_bar
    nothing = eqx.filter((args, functions), False)
    args_bar, functions_bar = eqx.combine((args_bar, functions_bar), nothing)
    return y_bar, args_bar, functions_bar
