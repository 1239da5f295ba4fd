"""The reversible adjoint. Only this package touches Diffrax's private names (pinned to `diffrax>=0.7.2,<0.8`)."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from diffrax._adjoint import _nondiff_solver_controller_state, _only_transpose_ys
from diffrax._heuristics import is_sde
from diffrax._integrate import SaveState, State
from diffrax._term import WrapTerm

from .._controls import AbstractCotangentControl
from .._solver import AbstractReversibleSolver, AbstractStagedSolver, CountedTerm
from ._forward import Progress, solve_any, solve_staged
from ._functions import explicit
from ._grid import Grid, equal_steps, interval_of, slots_of
from ._walk import Walk, walk_any, walk_staged


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
    long that the exact gradient explodes, such as `(rv.controls.Damp(2.0), rv.controls.ClipNorm(10.0))`. By default
    none.

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
                f"`controls` is {controls!r}; wanted a tuple of controls, such as `(rv.controls.Damp(2.0),)` with"
                " its comma."
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
        wrapped, *_ = jax.tree.leaves(terms, is_leaf=lambda x: isinstance(x, WrapTerm))
        unit = wrapped.term.h if isinstance(wrapped.term, CountedTerm) else 1.0
        grid = Grid(t0, h, h * wrapped.direction * unit, taken, slots, [interval_of(sub) for sub in subs])

        y0, solver_state0 = init_state.y, init_state.solver_state
        functions = explicit(terms, solver, [sub.fn for sub in subs], t0, h, y0, args, solver_state0)
        empty = [save.ys for save in saves]
        progress = Progress(progress_meter, init_state.progress_meter_state)
        out = _solve(
            (y0, args, functions),
            # for its tables alone: what can be differentiated of it is in the functions
            solver=jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, solver),
            controls=self.controls,
            grid=grid,
            empty=empty,
            solver_state0=solver_state0,
            progress=progress,
        )

        save_states = []
        for sub_slots, save, sub_ys in zip(slots, saves, out.ys, strict=True):
            written = sub_slots <= taken
            ts = jnp.where(written, grid.time(sub_slots), save.ts)
            index = jnp.sum(written)
            save_states.append(SaveState(saveat_ts_index=index, ts=ts, ys=sub_ys, save_index=index))
        out_of_steps = (taken < num_steps) & (out.result == diffrax.RESULTS.successful)
        result = diffrax.RESULTS.where(out_of_steps, diffrax.RESULTS.max_steps_reached, out.result)
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
                out.y,
                tprev,
                t1,
                out.solver_state,
                out.progress,
                result,
                taken,
                taken,
                jax.tree.unflatten(subs_tree, save_states),
            ),
            is_leaf=lambda x: x is None,
        )
        assert isinstance(final_state, State)
        return _only_transpose_ys(final_state), {"wear": jax.lax.stop_gradient(out.wear)}


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


# Differentiable: y0, args, functions. Everything else is not.
@eqx.filter_custom_vjp
def _solve(y__args__functions, *, solver, controls, grid, empty, solver_state0, progress):
    del controls
    y, args, functions = y__args__functions
    if isinstance(solver, AbstractStagedSolver):
        return solve_staged(solver, functions, grid, y, args, empty, progress)
    return solve_any(functions, grid, y, args, empty, solver_state0, progress)


@_solve.def_fwd
def _solve_fwd(perturbed, y__args__functions, **kwargs):
    del perturbed
    out = _solve(y__args__functions, **kwargs)
    return out, (out.y, out.solver_state)


@_solve.def_bwd
def _solve_bwd(
    residuals, cotangents, perturbed, y__args__functions, *, solver, controls, grid, empty, solver_state0, progress
):
    del empty, solver_state0, progress
    y1, state1 = residuals
    y0, args, functions = y__args__functions
    _, args_perturbed, functions_perturbed = perturbed
    moving, fixed = eqx.partition((args, functions), (args_perturbed, functions_perturbed))
    walk = Walk(solver, controls, grid, cotangents.ys, moving, fixed)
    if isinstance(solver, AbstractStagedSolver):
        y_bar, moving_bar = walk_staged(walk, y0, y1)
    else:
        y_bar, moving_bar = walk_any(walk, y0, y1, state1)
    args_bar, functions_bar = moving_bar
    nothing = eqx.filter((args, functions), False)
    args_bar, functions_bar = eqx.combine((args_bar, functions_bar), nothing)
    return y_bar, args_bar, functions_bar
