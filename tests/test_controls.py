"""The controls against a backward pass written out by hand, masked losses, and closed forms."""

import diffrax
import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    SOLVERS,
    SWITCHED,
    AsynchronousLeapfrog,
    argon_state,
    argon_topology,
    assert_trees_close,
    few,
)

import reverlet as rv

H, STEPS = 0.0625, 16  # exact in binary
X0 = jnp.array([[0.3, -0.2, 0.5], [0.1, 0.4, -0.6]])
V0 = jnp.array([[0.2, 0.1, -0.4], [-0.3, 0.5, 0.2]])
K = jnp.array(1.3)
WEIGHTS = jnp.cos(1.0 + jnp.arange(STEPS + 1))  # of the records at every step in the loss
RTOL = 1e-12  # rounding of some hundred operations


def drift(t, v, k):
    del t, k
    return v


def kick(t, x, k):
    del t
    return -k * x - 0.4 * x**3


def one_record(y, k):
    x, v = y
    return k * jnp.sum(x**2) + jnp.sum(x * v)


def solve(y0, k, controls, solver, steps=STEPS, fn=lambda t, y, k: one_record(y, k), **more):
    saveat = diffrax.SaveAt(t0=True, steps=1, fn=fn, **more)
    adjoint = rv.ReversibleAdjoint(controls=controls)
    if isinstance(solver, AsynchronousLeapfrog):
        terms = diffrax.ODETerm(lambda t, y, k: (drift(t, y[1], k), kick(t, y[0], k)))
    else:
        terms = (diffrax.ODETerm(drift), diffrax.ODETerm(kick))
    return diffrax.diffeqsolve(
        terms, solver, 0, H * steps, H, y0, k, saveat=saveat, adjoint=adjoint, max_steps=steps
    ).ys  # fmt: skip


@eqx.filter_jit
def gradient(controls, weights=WEIGHTS, solver=SOLVERS["VelocityVerlet"]):
    loss = lambda y0, k: jnp.sum(weights * solve(y0, k, controls, solver))
    return jax.grad(loss, (0, 1))((X0, V0), K)


# a step of velocity Verlet in two parts: controls act between them
def before_drift(y, k):
    x, v = y
    return x, v + 0.5 * H * kick(0, x, k)


def from_drift(y, k):
    x, v = y
    x = x + H * v
    return x, v + 0.5 * H * kick(0, x, k)


def by_hand(step_control, record_control=lambda i, bar: bar):
    """The backward pass over stored states, with `step_control(i, bar)` on what comes back to step i."""
    ys = [(X0, V0)]
    for _ in range(STEPS):
        ys.append(from_drift(before_drift(ys[-1], K), K))
    bar, k_bar = jax.tree.map(jnp.zeros_like, ys[-1]), 0.0
    for i in reversed(range(STEPS + 1)):
        if i < STEPS:
            middle = before_drift(ys[i], K)
            bar, dk = jax.vjp(from_drift, middle, K)[1](bar)
            k_bar += dk
            bar, dk = jax.vjp(before_drift, ys[i], K)[1](step_control(i, bar))
            k_bar += dk
        dy, dk = jax.vjp(one_record, ys[i], K)[1](record_control(i, WEIGHTS[i]))
        bar, k_bar = jax.tree.map(jnp.add, bar, dy), k_bar + dk
    return bar, k_bar


def scale(factor, bar):
    return jax.tree.map(lambda b: factor * b, bar)


def norm(bar):
    return np.sqrt(sum(np.sum(np.square(b)) for b in jax.tree.leaves(bar)))


def clip(most, bar):
    return scale(min(1.0, most / norm(bar)) if norm(bar) > 0 else 1.0, bar)


CASES = {
    "none": ((), lambda i, bar: bar, lambda i, bar: bar),
    "Damp": ((rv.controls.Damp(1.7),), lambda i, bar: scale(np.exp(-1.7 * H), bar), lambda i, bar: bar),
    "ClipNorm": ((rv.controls.ClipNorm(0.6),), lambda i, bar: clip(0.6, bar), lambda i, bar: bar),
    "DropAfter": ((rv.controls.DropAfter(5 * H),), lambda i, bar: bar, lambda i, bar: bar if i <= 5 else 0.0 * bar),
    "ResetEvery": ((rv.controls.ResetEvery(3 * H),), lambda i, bar: scale(0.0 if i in (3, 6, 9, 12, 15) else 1.0, bar),
               lambda i, bar: bar),
    "damped, then clipped": ((rv.controls.Damp(9.0), rv.controls.ClipNorm(0.6)),
                             lambda i, bar: clip(0.6, scale(np.exp(-9 * H), bar)), lambda i, bar: bar),
    "clipped, then damped": ((rv.controls.ClipNorm(0.6), rv.controls.Damp(9.0)),
                             lambda i, bar: scale(np.exp(-9 * H), clip(0.6, bar)), lambda i, bar: bar),
    "all": ((rv.controls.DropAfter(11 * H), rv.controls.ResetEvery(4 * H), rv.controls.Damp(0.5),
             rv.controls.ClipNorm(0.7)),
            lambda i, bar: clip(0.7, scale((i not in (4, 8, 12)) * np.exp(-0.5 * H), bar)),
            lambda i, bar: bar if i <= 11 else 0.0 * bar),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_against_a_backward_pass_by_hand(name):
    controls, step_control, record_control = CASES[name]
    got = gradient(controls)
    assert_trees_close(got, by_hand(step_control, record_control), rtol=RTOL)
    if name != "none":  # and each does something
        exact = gradient(())
        assert abs(got[1] - exact[1]) > 1e-3 * abs(exact[1])


ALL_SOLVERS = {name: SOLVERS[name] for name in ("VelocityVerlet", "PositionVerlet", "Yoshida4")}
ALL_SOLVERS["AsynchronousLeapfrog"] = AsynchronousLeapfrog()


@pytest.mark.parametrize("solver", ALL_SOLVERS)
@few
@hypothesis.given(rate=st.floats(0.01, 20), step=st.integers(0, STEPS))
def test_damped_influence_of_the_start_on_one_record(solver, rate, step):
    """d record(t)/dy0 passes through every step once: exp(-rate t) of the exact one."""
    weights = jnp.zeros(STEPS + 1).at[step].set(1.0)
    # the rate is an array, so that one program serves all
    got, exact = (gradient(c, weights, ALL_SOLVERS[solver])[0] for c in ((rv.controls.Damp(jnp.array(rate)),), ()))
    assert_trees_close(got, scale(np.exp(-rate * H * step), exact), rtol=RTOL)


@pytest.mark.parametrize(("solver", "last"), [("VelocityVerlet", 1), ("Yoshida4", 7), ("AsynchronousLeapfrog", 7)])
def test_truncate_is_the_gradient_of_a_loss_without_later_records(solver, last):
    masked = jnp.where(jnp.arange(STEPS + 1) <= last, WEIGHTS, 0)
    # horizons between steps are taken to the nearest
    got = gradient((rv.controls.DropAfter((last + 0.3) * H),), solver=ALL_SOLVERS[solver])
    assert_trees_close(got, gradient((), masked, ALL_SOLVERS[solver]), rtol=RTOL)


def test_truncate_reaches_every_output():
    def loss(y0, controls, weights):
        records, ends = diffrax.diffeqsolve(
            (diffrax.ODETerm(drift), diffrax.ODETerm(kick)), rv.VelocityVerlet(), 0, H * STEPS, H, y0, K,
            saveat=diffrax.SaveAt(subs=(diffrax.SubSaveAt(t0=True, steps=1), diffrax.SubSaveAt(t1=True))),
            adjoint=rv.ReversibleAdjoint(controls=controls), max_steps=STEPS,
        ).ys  # fmt: skip
        total = lambda tree, w: sum(jnp.tensordot(w, jnp.sum(x, (1, 2)), 1) for x in tree)
        return total(records, weights) + total(ends, jnp.where(weights[-1:] == 0, 0, 1.0))

    masked = WEIGHTS.at[4:].set(0)
    got = jax.grad(loss)((X0, V0), (rv.controls.DropAfter(3 * H),), WEIGHTS)
    assert_trees_close(got, jax.grad(loss)((X0, V0), (), masked), rtol=RTOL)


def test_window_is_a_stopped_gradient_at_every_border():
    def loss(y0, k):
        total, y = WEIGHTS[0] * one_record(y0, k), y0
        for i in range(STEPS):
            y = before_drift(y, k)
            if i > 0 and i % 5 == 0:
                y = jax.lax.stop_gradient(y)
            y = from_drift(y, k)
            total = total + WEIGHTS[i + 1] * one_record(y, k)
        return total

    assert_trees_close(gradient((rv.controls.ResetEvery(5 * H),)), jax.grad(loss, (0, 1))((X0, V0), K), rtol=RTOL)


def test_window_of_another_solver():
    """At a border everything is dropped, the solver's state too: the start sees the loss of the first block alone."""
    first = jnp.where(jnp.arange(STEPS + 1) <= 6, WEIGHTS, 0)
    solver = ALL_SOLVERS["AsynchronousLeapfrog"]
    got = gradient((rv.controls.ResetEvery(6 * H),), solver=solver)[0]
    assert_trees_close(got, gradient((), first, solver)[0], rtol=RTOL)


def test_window_longer_than_the_trajectory_changes_nothing():
    assert_trees_close(gradient((rv.controls.ResetEvery(STEPS * H),)), gradient(()), rtol=0)


# ClipNorm on x'' = +k x, whose gradients explode


def end_of_unstable(y0, k, controls, steps=64):
    solution = diffrax.diffeqsolve(
        (diffrax.ODETerm(drift), diffrax.ODETerm(lambda t, x, k: k * x)), rv.VelocityVerlet(), 0, H * steps, H, y0, k,
        adjoint=rv.ReversibleAdjoint(controls=controls), max_steps=steps,
    )  # fmt: skip
    x, v = solution.ys
    return jnp.sum(x) + jnp.sum(v)


@few
@hypothesis.given(most=st.floats(1e-6, 10), k=st.floats(1, 10))
def test_clipped_gradients_are_bounded(most, k):
    exact = unstable_gradient(k, 1e300)
    got = unstable_gradient(k, most)
    bound = most * (1 + 0.5 * H * k)  # after the last cut comes half a kick
    assert norm(exact) > 10 * bound
    # the two nonzero directions of a saddle stay: nothing is lost but length, up to the half kick
    assert 0.5 * most < norm(got) <= bound * (1 + RTOL)


@jax.jit
def unstable_gradient(k, most):
    return jax.grad(end_of_unstable)((X0, V0), k, (rv.controls.ClipNorm(most),))


def test_clipping_of_what_would_overflow_when_squared():
    long = (jnp.full(3, 1e30, jnp.float32), jnp.zeros(2, jnp.float32))
    short, _ = rv.controls.ClipNorm(3.0).step(0.0, 0.1, long)
    np.testing.assert_allclose(short, np.full(3, np.sqrt(3)), rtol=1e-6)  # rounding


def test_clipping_that_is_not_needed_is_exact():
    assert_trees_close(gradient((rv.controls.ClipNorm(1e6),)), gradient(()), rtol=0)


def test_clipping_is_of_every_trajectory_by_itself():
    ks = jnp.array([0.01, 4.0])  # only the second is unstable enough to be clipped
    slope = eqx.filter_jit(jax.grad(lambda k, controls: end_of_unstable((X0, V0), k, controls)))
    controls = (rv.controls.ClipNorm(20.0),)
    got = jax.vmap(lambda k: slope(k, controls))(ks)
    assert_trees_close(got, jnp.stack([slope(k, controls) for k in ks]), rtol=RTOL)
    np.testing.assert_allclose(got[0], slope(ks[0], ()), rtol=RTOL)
    assert abs(got[1]) < 0.5 * abs(slope(ks[1], ()))


# in molecular dynamics


@eqx.filter_jit
def argon_gradient(controls, dtype=jnp.float64, num_steps=40):
    system, state = rv.System(argon_topology(), SWITCHED).astype(dtype), argon_state(dtype=dtype)
    dynamics = rv.Dynamics(dt=0.005, num_steps=num_steps, save_every=4, adjoint=rv.ReversibleAdjoint(controls=controls))

    def diffusion(potential):
        moved = rv.System(system.topology, potential)
        trajectory = dynamics.run(moved, state, rv.VACF().record)
        return rv.statistics.running_integral(trajectory.times, trajectory.records)[-1] / 3

    return jax.value_and_grad(diffusion)(system.potential)


def test_argon_in_single_precision():
    """Controls are in ps, whatever the clock of the solve counts: those beyond the 0.2 ps change little."""
    value, exact = argon_gradient((), jnp.float32)
    controls = (
        rv.controls.DropAfter(0.21),
        rv.controls.ResetEvery(0.21),
        rv.controls.Damp(0.05),
        rv.controls.ClipNorm(1e6),
    )
    same, got = argon_gradient(controls, jnp.float32)
    assert value == same  # the trajectory is what it was
    for leaf, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, wanted, rtol=0.02)  # exp(-0.05 * 0.2), and less
    assert got.sigma != exact.sigma


@pytest.mark.slow
def test_argon_weak_controls_change_little():
    exact = argon_gradient(())[1]
    got = argon_gradient(
        (rv.controls.Damp(1e-6), rv.controls.ClipNorm(1e6), rv.controls.ResetEvery(1.0), rv.controls.DropAfter(1.0))
    )[1]
    # exp(-rate t) over 0.2 ps
    assert_trees_close(got, exact, rtol=1e-6)
    assert got.sigma != exact.sigma


class Reversed(rv.controls.AbstractCotangentControl):
    """A user's own, which changes the sign of what goes on."""

    def record(self, time, h, cotangent):
        del time, h
        return cotangent

    def step(self, time, h, cotangent):
        del time, h
        return scale(-1.0, cotangent)


def test_a_control_of_the_users_own():
    assert_trees_close(gradient((Reversed(),)), by_hand(lambda i, bar: scale(-1.0, bar)), rtol=RTOL)


@pytest.mark.parametrize(
    "control", [rv.controls.DropAfter, rv.controls.Damp, rv.controls.ClipNorm, rv.controls.ResetEvery]
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_that_are_not_positive(control, value):
    with pytest.raises(ValueError, match=rf"is {value}; wanted a finite number more than zero"):
        control(value)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("controls", [rv.controls.Damp(1.0), (2.0,), [rv.controls.Damp(1.0)], None])
def test_controls_that_are_no_tuple_of_controls(controls):
    with pytest.raises(TypeError, match=r"wanted a tuple of controls, such as `\(rv.controls.Damp\(2.0\),\)`"):
        rv.ReversibleAdjoint(controls=controls)
