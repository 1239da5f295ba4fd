"""The reversible adjoint. The only file that touches Diffrax's private names (pinned to `diffrax>=0.7.2,<0.8`)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from diffrax._adjoint import _nondiff_solver_controller_state, _only_transpose_ys
from diffrax._heuristics import is_sde
from diffrax._integrate import SaveState, State
from diffrax._term import WrapTerm
from jaxtyping import Array, Float, Int, PyTree

from ._controls import AbstractCotangentControl
from ._misc import tree_add
from ._solver import AbstractPreparation, AbstractReversibleSolver, AbstractSplittingSolver, ConservativeTerm, power

_NEVER = jnp.iinfo(jnp.int32).max


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
        num_steps, h = _equal_steps(t0, t1, dt0)
        taken = num_steps if max_steps is None else jnp.minimum(num_steps, max_steps)
        is_sub = lambda x: isinstance(x, diffrax.SubSaveAt)
        is_save = lambda x: isinstance(x, SaveState)
        subs, subs_tree = jax.tree.flatten(saveat.subs, is_leaf=is_sub)
        saves = jax.tree.leaves(init_state.save_state, is_leaf=is_save)
        slots = [_slots(sub, save.ts.shape[0], t0, h, taken) for sub, save in zip(subs, saves, strict=True)]
        grid = _Grid(t0, h, taken, slots)

        y0, solver_state0 = init_state.y, init_state.solver_state
        functions = _explicit(terms, solver, [sub.fn for sub in subs], t0, h, y0, args, solver_state0)
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


def _equal_steps(t0, t1, dt0):
    """The number of equal steps from `t0` to `t1`, and their length.

    As `diffrax.ConstantStepSize` does, a `dt0` that does not divide the time is made a little smaller.
    """
    ratio = (t1 - t0) / dt0
    nearest = jnp.round(ratio)
    tolerance = 1e-3 + 8 * jnp.finfo(ratio.dtype).eps * nearest
    num_steps = jnp.where(jnp.abs(ratio - nearest) < tolerance, nearest, jnp.ceil(ratio)).astype(jnp.int32)
    return num_steps, (t1 - t0) / jnp.maximum(num_steps, 1)


class _Grid(NamedTuple):
    """Where in time the steps are, and at which of them every slot of every output is filled (in increasing order)."""

    t0: Float[Array, ""]
    h: Float[Array, ""]
    num_steps: Int[Array, ""]
    slots: list[Int[Array, " slots"]]

    def time(self, i):
        return self.t0 + i * self.h


def _slots(sub: diffrax.SubSaveAt, num_slots: int, t0, h, num_steps) -> Int[Array, " slots"]:
    """The steps at which a `SubSaveAt` saves, in increasing order; a slot that stays empty has a step never reached."""
    steps = []
    if sub.t0:
        steps.append(jnp.zeros(1, jnp.int32))
    if sub.ts is not None:
        position = (sub.ts - t0) / h
        nearest = jnp.round(position)
        tolerance = 1e-3 + 8 * jnp.finfo(position.dtype).eps * nearest
        nearest = eqx.error_if(
            jnp.where(h == 0, 0, nearest).astype(jnp.int32),
            (h != 0) & (jnp.abs(position - nearest) > tolerance),
            "`rv.ReversibleAdjoint()` got a `SaveAt(ts=...)` with times between two steps, which it does not"
            " interpolate."
            " Wanted times t0 + k dt0. Round them to the grid, or save every k steps with `SaveAt(steps=k)`.",
        )
        steps.append(nearest)
    if sub.steps != 0:
        taken = num_slots - sum(len(s) for s in steps)
        multiples = sub.steps * jnp.arange(1, taken + 1, dtype=jnp.int32)
        if sub.t1:
            # the last slot, if there is one to spare, is for an end that is no multiple
            spare = (multiples > num_steps) & (multiples - sub.steps < num_steps)
            multiples = jnp.where(spare, num_steps, jnp.where(multiples > num_steps, _NEVER, multiples))
        steps.append(multiples)
    elif sub.t1:
        steps.append(jnp.broadcast_to(num_steps, (1,)))
    steps = jnp.sort(jnp.concatenate(steps))
    return jnp.where(steps > num_steps, _NEVER, steps)


class _EqualStep(diffrax.AbstractTerm):
    """A term on the solver's clock, whose control is the same for every step to the last bit.

    The difference of two times is not: 49 steps of one `dt0` have several different lengths in floating point.
    """

    term: diffrax.AbstractTerm
    direction: Any
    """1, or -1 where time runs backward."""
    h: Float[Array, ""]

    def vf(self, t, y, args):
        term, args = self.ready(args)
        return term.vf(t * self.direction, y, args)

    def ready(self, args):
        """The term with what was prepared for it, and its own args."""
        if isinstance(args, _Prepared):
            return _with_prepared(self.term, args.prepared), args.args
        return self.term, args

    def contr(self, t0, t1, **kwargs):
        del t0, t1, kwargs
        return self.h * self.direction

    def prod(self, vf, control):
        return self.term.prod(vf, control)


class _Prepared(NamedTuple):
    """How what a preparation made reaches the terms: with the args."""

    args: PyTree
    prepared: PyTree


def _with_prepared(term, prepared):
    if isinstance(term, ConservativeTerm) and term.preparation is not None:
        return dataclasses.replace(term, prepared=prepared)
    return term


def _preparation(terms) -> AbstractPreparation | None:
    """That of the terms; of several terms with one, the first, which then serves all."""
    terms = jax.tree.leaves(terms, is_leaf=lambda x: isinstance(x, ConservativeTerm))
    found = [t.preparation for t in terms if isinstance(t, ConservativeTerm) and t.preparation is not None]
    return found[0] if found else None


def _equal_step(wrapped: WrapTerm, h) -> diffrax.AbstractTerm:
    if isinstance(wrapped.term, diffrax.MultiTerm):
        return diffrax.MultiTerm(*(_equal_step(WrapTerm(part, wrapped.direction), h) for part in wrapped.term.terms))
    if not isinstance(wrapped.term, diffrax.ODETerm | ConservativeTerm):
        raise ValueError(
            f"`rv.ReversibleAdjoint()` got a `{type(wrapped.term).__name__}`; wanted `diffrax.ODETerm` or"
            " `rv.ConservativeTerm`, whose control is time."
        )
    return _EqualStep(wrapped.term, wrapped.direction, h)


class _Functions(NamedTuple):
    """What the solve calls, with every array they close over made explicit, so that cotangents can reach it.

    Splitting methods go backward by `drift`, and a kick and a power for every kick term; others by `init` and
    `backward_step`. Where there is a preparation, it is made `every` so many steps.
    """

    step: Callable
    saves: list[Callable]
    every: int | None = None
    prepare: Callable | None = None
    wear: Callable | None = None
    worn_out: Callable | None = None
    unworn: PyTree = None
    drift: Callable | None = None
    kicks: tuple[Callable, ...] = ()
    powers: tuple[Callable, ...] = ()
    init: Callable | None = None
    backward_step: Callable | None = None


def _explicit(terms, solver, fns, t, h, y, args, solver_state) -> _Functions:
    convert = eqx.filter_closure_convert
    terms = jax.tree.map(lambda term: _equal_step(term, h), terms, is_leaf=lambda x: isinstance(x, WrapTerm))

    def step(t, y, args, state):
        y, _, _, state, result = solver.step(terms, t, t + h, y, args, state, False)
        return y, state, result

    def backward_step(t, y, args, state):
        y, _, state = solver.backward_step(terms, t, t + h, y, args, state, False)
        return y, state

    def init(t, y, args):
        return solver.init(terms, t, t + h, y, args)

    preparation = _preparation(terms)
    functions = _Functions(None, [convert(fn, t, y, args) for fn in fns])  # pyright: ignore[reportArgumentType]
    if preparation is not None:
        x = y[0]
        unworn = preparation.unworn(x)
        prepare = convert(preparation.make, x, args)
        prepared = eqx.filter_eval_shape(prepare, x, args)
        functions = functions._replace(
            every=preparation.every,
            prepare=prepare,
            wear=convert(preparation.wear, unworn, x, prepared),
            worn_out=convert(preparation.worn_out, unworn),
            unworn=unworn,
        )
        args = _Prepared(args, prepared)
    functions = functions._replace(step=convert(step, t, y, args, solver_state))
    if isinstance(solver, AbstractSplittingSolver):
        drift, *kicks = solver.split(terms)
        x, v = y
        field = lambda term: lambda t, z, args: term.prod(term.vf(t, z, args), term.contr(t, t))

        def work(kick):
            def function(t, x, args, w):
                term, args = kick.ready(args)
                return power(term, t * kick.direction, x, args, kick.prod(w, kick.contr(t, t)))

            return function

        return functions._replace(
            drift=convert(field(drift), t, v, args),
            kicks=tuple(convert(field(kick), t, x, args) for kick in kicks),
            powers=tuple(convert(work(kick), t, x, args, v) for kick in kicks),
        )
    return functions._replace(
        init=convert(init, t, y, args), backward_step=convert(backward_step, t, y, args, solver_state)
    )


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
        prepared = _refreshed(functions, i > 0, i, y, args, prepared)
        y, state, step_result = functions.step(grid.time(i), y, _ready(args, prepared), state)
        wear = wear if functions.wear is None else functions.wear(wear, y[0], prepared)
        result = diffrax.RESULTS.where(result == diffrax.RESULTS.successful, step_result, result)  # the first failure
        pointers, buffers = save(i + 1, y, pointers, buffers)
        meter_state = progress.meter.step(meter_state, (i + 1) / grid.num_steps)
        return y, state, pointers, buffers, meter_state, result, prepared, wear

    pointers, buffers = save(0, y, [jnp.zeros((), jnp.int32)] * len(empty), empty)
    carry = (y, solver_state0, pointers, buffers, progress.state, diffrax.RESULTS.successful)
    carry = (*carry, _prepare(functions, y, args), functions.unworn)
    y, state, _, buffers, meter_state, result, _, wear = jax.lax.fori_loop(0, grid.num_steps, body, carry)
    if functions.wear is not None:
        # with the preparation that the way back will begin with
        wear = functions.wear(wear, y[0], _prepare(functions, y, args))
        bad = (result == diffrax.RESULTS.successful) & functions.worn_out(wear)
        failed = diffrax.RESULTS.nonfinite  # inherited from Optimistix's
        result = diffrax.RESULTS.where(bad, failed, result)  # pyright: ignore[reportArgumentType]
    return buffers, y, state, meter_state, result, wear


def _prepare(functions, y, args):
    return None if functions.prepare is None else jax.lax.stop_gradient(functions.prepare(y[0], args))


def _refreshed(functions, due, i, y, args, prepared):
    """What was prepared, or made anew at every so many steps."""
    if functions.prepare is None:
        return None
    # not batched by `jax.vmap` over trajectories, so that it stays a choice: steps are counted alike in all
    due = due & (i % functions.every == 0)
    return jax.lax.cond(due, lambda: _prepare(functions, y, args), lambda: prepared)


def _ready(args, prepared):
    return args if prepared is None else _Prepared(args, prepared)


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
    walk = _Walk(solver, controls, grid, cotangents[0], moving, fixed)
    if isinstance(solver, AbstractSplittingSolver):
        y_bar, moving_bar = _walk_splitting(walk, y0, y1)
    else:
        y_bar, moving_bar = _walk_any(walk, y0, y1, state1)
    args_bar, functions_bar = moving_bar
    nothing = eqx.filter((args, functions), False)
    args_bar, functions_bar = eqx.combine((args_bar, functions_bar), nothing)
    return y_bar, args_bar, functions_bar


class _Walk(NamedTuple):
    """What the walks backward share. `moving` are the arrays of (args, functions) whose derivatives are wanted."""

    solver: Any
    controls: tuple[AbstractCotangentControl, ...]
    grid: _Grid
    ys_bar: PyTree
    moving: PyTree
    fixed: PyTree

    def parts(self, moving):
        return eqx.combine(moving, self.fixed)

    def start(self, y):
        """Zero cotangents of y and of what moves, and the number of filled slots of each output."""
        zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
        return zeros(y), zeros(self.moving), [jnp.sum(s <= self.grid.num_steps) for s in self.grid.slots]

    def tied_to(self, x):
        """The same for one step, and `x`: parameters as if they changed with it.

        Otherwise the compiler takes what depends on parameters alone, such as σ² and 1/L, out of the loop, and once for
        every place where it is used; back in the loop it cannot know that these are the same, and computes the
        distances of all pairs four times instead of once.
        """
        arrays, rest = eqx.partition((self.moving, self.fixed), eqx.is_array)
        arrays, x = jax.lax.optimization_barrier((arrays, x))
        moving, fixed = eqx.combine(arrays, rest)
        return self._replace(moving=moving, fixed=fixed), x

    def prepare(self, y):
        return _prepare(self.parts(self.moving)[1], y, self.parts(self.moving)[0])

    def refreshed(self, due, i, y, prepared):
        args, functions = self.parts(self.moving)
        return _refreshed(functions, due, i, y, args, prepared)

    def control(self, i, state_bar):
        """What is left of the cotangent of the state when the step to `i` has been undone."""
        for control in self.controls:
            state_bar = control.step((i - 1) * self.grid.h, self.grid.h, state_bar)
        return state_bar

    def entering(self, i, ys_bar):
        """What is left of the cotangent of what was saved at step `i`."""
        for control in self.controls:
            ys_bar = control.record(i * self.grid.h, self.grid.h, ys_bar)
        return ys_bar

    def records(self, i, y, y_bar, moving_bar, pointers):
        """Adds the cotangents of what was saved at step `i`."""
        pointers = list(pointers)
        for k, (slots, ys_bar) in enumerate(zip(self.grid.slots, self.ys_bar, strict=True)):
            if len(jax.tree.leaves(ys_bar)) == 0:  # nobody asks for the derivative of this output
                continue

            def due(carry, slots=slots):
                p, _, _ = carry
                return (p > 0) & (slots[jnp.maximum(p, 1) - 1] == i)

            def pull(carry, k=k, ys_bar=ys_bar):
                p, y_bar, moving_bar = carry

                def saved(y, moving):
                    args, functions = self.parts(moving)
                    out = functions.saves[k](self.grid.time(i), y, args)
                    return jax.tree.map(lambda bar, o: None if bar is None else o, ys_bar, out, is_leaf=_is_none)

                _, pull_back = jax.vjp(saved, y, self.moving)
                dy, dmoving = pull_back(self.entering(i, jax.tree.map(lambda bar: bar[p - 1], ys_bar)))
                return p - 1, tree_add(y_bar, dy), tree_add(moving_bar, dmoving)

            pointers[k], y_bar, moving_bar = jax.lax.while_loop(due, pull, (pointers[k], y_bar, moving_bar))
        return y_bar, moving_bar, pointers


def _is_none(x):
    return x is None


def _walk_splitting(walk: _Walk, y0, y1):
    """Backward through a splitting method: at every position, one kick and one pullback per term that kicks there.

    At a grid point the last kick of the step before and the first of the step after act at the same positions: their
    pullbacks are one. `v` in the carry is the velocity after that first kick, where the walk comes from.
    """
    rows, drifts, grid = walk.solver.kick_rows, walk.solver.drifts, walk.grid
    # which terms kick at every position, and with what coefficients
    acting = [[(m, weight) for m, weight in enumerate(row) if weight != 0] for row in rows]
    axpy = lambda a, x, y: jax.tree.map(lambda x, y: y + a * x, x, y)

    def kick(walk, m, t, x, prepared):
        args, functions = walk.parts(walk.moving)
        return functions.kicks[m](t, x, _ready(args, prepared))

    def pull_kick(walk, m, t, x, w, prepared):
        def function(x, moving):
            args, functions = walk.parts(moving)
            return functions.powers[m](t, x, _ready(args, prepared), w)

        return jax.grad(function, argnums=(0, 1))(x, walk.moving)

    def drift_and_pull(walk, t, v, x_bar, prepared):
        def function(v, moving):
            args, functions = walk.parts(moving)
            return functions.drift(t, v, _ready(args, prepared))

        out, pull = jax.vjp(function, v, walk.moving)
        return out, pull(x_bar)

    def at_grid_point(walk, i, x, v, x_bar, v_bar, moving_bar, pointers, prepared, *, after):
        """Records and merged kicks at step `i`; `after` is one where a step comes after it, and zero at the end."""
        t = grid.time(i)
        pushed = {m: kick(walk, m, t, x, prepared) for m, _ in acting[0]}
        for m, weight in acting[0]:
            v = axpy(-after * weight, pushed[m], v)
        v_bar_after = v_bar
        (x_bar, v_bar), moving_bar, pointers = walk.records(i, (x, v), (x_bar, v_bar), moving_bar, pointers)
        w = jax.tree.map(lambda a, b: after * a + b, v_bar_after, v_bar)
        for m, weight in acting[0]:
            dx, dmoving = pull_kick(walk, m, t, x, jax.tree.map(lambda a: weight * a, w), prepared)  # noqa: B023
            x_bar, moving_bar = tree_add(x_bar, dx), tree_add(moving_bar, dmoving)
            v = axpy(-weight, pushed[m], v)
        return v, x_bar, v_bar, moving_bar, pointers

    def body(k, carry):
        i = grid.num_steps - k
        x, v, x_bar, v_bar, moving_bar, pointers, prepared = carry
        here, x = walk.tied_to(x)
        prepared = here.refreshed(k > 0, i, (x, v), prepared)
        after = jnp.where(k == 0, 0.0, 1.0).astype(grid.h.dtype)
        v, x_bar, v_bar, moving_bar, pointers = at_grid_point(
            here, i, x, v, x_bar, v_bar, moving_bar, pointers, prepared, after=after
        )
        times = here.solver.drift_times(grid.time(i - 1), grid.time(i))
        for j in reversed(range(len(drifts))):
            start, end = times[j]
            moved, (dv, dmoving) = drift_and_pull(here, 0.5 * (start + end), v, x_bar, prepared)
            x = axpy(-drifts[j], moved, x)
            v_bar = axpy(drifts[j], dv, v_bar)
            moving_bar = axpy(drifts[j], dmoving, moving_bar)
            for m, weight in acting[j] if j > 0 else ():
                pushed = kick(here, m, start, x, prepared)
                dx, dmoving = pull_kick(here, m, start, x, jax.tree.map(lambda b: weight * b, v_bar), prepared)  # noqa: B023
                x_bar, moving_bar = tree_add(x_bar, dx), tree_add(moving_bar, dmoving)
                v = axpy(-weight, pushed, v)
        x_bar, v_bar = here.control(i, (x_bar, v_bar))
        return x, v, x_bar, v_bar, moving_bar, pointers, prepared

    (x_bar, v_bar), moving_bar, pointers = walk.start(y1)
    carry = (*y1, x_bar, v_bar, moving_bar, pointers, walk.prepare(y1))
    *_, x_bar, v_bar, moving_bar, pointers, prepared = jax.lax.fori_loop(0, grid.num_steps, body, carry)
    # at the start the state is known exactly, and there is only the first kick, unless no step was taken
    x, v = y0
    after = jnp.where(grid.num_steps == 0, 0.0, 1.0).astype(grid.h.dtype)
    for m, weight in acting[0]:
        w = jax.tree.map(lambda b: after * weight * b, v_bar)  # noqa: B023
        dx, dmoving = pull_kick(walk, m, grid.t0, x, w, prepared)
        x_bar, moving_bar = tree_add(x_bar, dx), tree_add(moving_bar, dmoving)
    y_bar, moving_bar, _ = walk.records(0, (x, v), (x_bar, v_bar), moving_bar, pointers)
    return y_bar, moving_bar


def _walk_any(walk: _Walk, y0, y1, state1):
    """Backward through any reversible solver: undo a step, then differentiate it."""
    grid = walk.grid

    def body(k, carry):
        i = grid.num_steps - k
        y, state, y_bar, state_bar, moving_bar, pointers, prepared = carry
        here, y = walk.tied_to(y)
        y_bar, moving_bar, pointers = here.records(i, y, y_bar, moving_bar, pointers)
        args, functions = here.parts(here.moving)
        prepared = here.refreshed(k > 0, i, y, prepared)
        y, state = functions.backward_step(grid.time(i - 1), y, _ready(args, prepared), state)

        def step(y, state, moving):
            args, functions = here.parts(moving)
            y, state, _ = functions.step(grid.time(i - 1), y, _ready(args, prepared), state)
            return y, eqx.filter(state, eqx.is_inexact_array)

        exact, rest = eqx.partition(state, eqx.is_inexact_array)
        _, pull = jax.vjp(lambda y, s, m: step(y, eqx.combine(s, rest), m), y, exact, here.moving)
        y_bar, state_bar, dmoving = pull((y_bar, state_bar))
        y_bar, state_bar = here.control(i, (y_bar, state_bar))
        return y, state, y_bar, state_bar, tree_add(moving_bar, dmoving), pointers, prepared

    y_bar, moving_bar, pointers = walk.start(y1)
    state_bar = jax.tree.map(jnp.zeros_like, eqx.filter(state1, eqx.is_inexact_array))
    carry = (y1, state1, y_bar, state_bar, moving_bar, pointers, walk.prepare(y1))
    _, _, y_bar, state_bar, moving_bar, pointers, prepared = jax.lax.fori_loop(0, grid.num_steps, body, carry)

    def init(y, moving):
        args, functions = walk.parts(moving)
        return eqx.filter(functions.init(grid.t0, y, _ready(args, prepared)), eqx.is_inexact_array)

    dy, dmoving = jax.vjp(init, y0, walk.moving)[1](state_bar)
    y_bar, moving_bar, _ = walk.records(0, y0, tree_add(y_bar, dy), tree_add(moving_bar, dmoving), pointers)
    return y_bar, moving_bar
