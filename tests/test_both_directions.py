"""Trajectories from -T to T: against two single runs, closed forms, and another adjoint."""

import dataclasses

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MASS, SWITCHED, argon_state, argon_topology, assert_trees_close, well

import reverlet as rv

TOPOLOGY = rv.Topology.from_elements(["Ar"] * 3)
SYSTEM = rv.System(argon_topology(), SWITCHED)
ONE = rv.Dynamics(dt=0.004, num_steps=24, save_every=4)
BOTH = dataclasses.replace(ONE, both_directions=True)


def whole(system, state, initial):
    del system
    return state, initial


def flipped(state):
    return rv.State(state.positions, -state.velocities, state.box)


def test_it_is_two_runs_joined():
    state = argon_state()
    joined = eqx.filter_jit(BOTH.run)(SYSTEM, state, whole)
    run = eqx.filter_jit(ONE.run)
    future, past = (run(SYSTEM, s, whole) for s in (state, flipped(state)))
    np.testing.assert_array_equal(joined.times, np.concatenate([-future.times[:0:-1], future.times]))
    assert joined.times.shape == (13,)
    past = jax.tree.map(lambda x: x[:0:-1], past.records)
    past = tuple(s.with_velocities(-s.velocities) for s in past)
    wanted = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), past, future.records)
    assert_trees_close(joined.records, wanted, rtol=1e-12)  # a batch sums in another order
    assert_trees_close(joined.final, future.final, rtol=1e-12)
    middle = jax.tree.map(lambda x: x[6], joined.records[0])
    np.testing.assert_array_equal(middle.positions, state.positions)
    np.testing.assert_array_equal(middle.velocities, state.velocities)


def test_one_trajectory_through_the_start():
    """Newton's equations know no first instant: the run that starts where the past ends passes through the present."""
    joined = eqx.filter_jit(BOTH.run)(SYSTEM, argon_state(), whole).records[0]
    start = jax.tree.map(lambda x: x[0], joined)
    again = rv.nve(SYSTEM, start, dt=0.004, num_steps=48, save_every=4).records
    # rounding, grown over 0.2 ps
    np.testing.assert_allclose(again.positions, joined.positions, atol=1e-11)
    np.testing.assert_allclose(again.velocities, joined.velocities, atol=1e-10)


X, V = (np.asarray(jax.random.normal(jax.random.key(k), (5, 3, 3))) for k in (0, 1))
V = V - V.mean(1, keepdims=True)  # at rest as a whole, as the observables take it
X = X - X.mean(1, keepdims=True)


@eqx.filter_jit
def expect(observables, dynamics, k=0.0, velocities=V):
    """The mean of every observable over samples of equal weight."""
    system = rv.System(TOPOLOGY, well(k))
    states = jax.vmap(lambda x, v: rv.State(x, v, rv.OpenBox()))(jnp.asarray(X), jnp.asarray(velocities))
    samples = rv.Samples.of(system, rv.NVT(120.0), states)
    return [rv.expectation(o, system, samples, dynamics=dynamics, throw=False).value for o in observables]


def test_free_particles():
    """MSD = v² t², VACF = v², D by Green-Kubo v² T/3, by Einstein a sixth of the slope of v² t² over |t|."""
    square = np.mean(np.sum(V**2, -1))
    t = 0.016 * np.arange(-6, 7)
    starts = (0.0, 0.5)
    routes = [rv.SelfDiffusion(route) for route in (rv.GreenKubo(), *map(rv.Einstein, starts))]
    msd, vacf, green_kubo, *einstein = expect((rv.MSD(), rv.VACF(), *routes), BOTH)
    np.testing.assert_allclose(msd, square * t**2, rtol=1e-9, atol=1e-14)  # differences of positions near one
    np.testing.assert_allclose(vacf, np.full(13, square), rtol=1e-12)
    np.testing.assert_allclose(green_kubo, square * t[-1] / 3, rtol=1e-12)
    for start, got in zip(starts, einstein, strict=True):
        late = t[t >= start * t[-1]]
        np.testing.assert_allclose(got, np.polyfit(late, square * late**2, 1)[0] / 6, rtol=1e-9)


def test_diffusion_is_the_mean_of_both_directions():
    observables = tuple(rv.SelfDiffusion(route) for route in (rv.GreenKubo(), rv.Einstein(0.3)))
    k = 3000.0  # at which the correlation changes a lot within 0.1 ps
    single = np.array([expect(observables, ONE, k, velocities) for velocities in (V, -V)])
    assert np.all(abs(single[0] - single[1]) > 1e-3 * abs(single[0]))
    np.testing.assert_allclose(expect(observables, BOTH, k), np.mean(single, axis=0), rtol=1e-11)


def test_harmonic_oscillators():
    """x(n dt) = x cos(nφ) + v dt sin(nφ)/sin φ with cos φ = 1 - k dt²/2m, for all n: exact for velocity Verlet."""
    k, dt = 3000.0, 0.004
    n = 4 * np.arange(-6, 7)
    phi = np.arccos(1 - k / MASS * dt**2 / 2)
    x = X[:, None] * np.cos(n * phi)[:, None, None] + V[:, None] * dt * (np.sin(n * phi) / np.sin(phi))[:, None, None]
    msd = np.mean(np.sum((x - X[:, None]) ** 2, -1), (0, 2))
    np.testing.assert_allclose(expect((rv.MSD(),), BOTH, k)[0], msd, rtol=1e-10, atol=1e-13)


def test_gradient():
    state = argon_state()

    def diffusion(potential, dynamics, observable=rv.SelfDiffusion()):
        trajectory = dynamics.run(rv.System(argon_topology(), potential), state, observable.record)
        curve = trajectory.records
        return observable.reduce(trajectory.times, curve[None], jnp.ones(1, curve.dtype))

    slope = eqx.filter_jit(jax.grad(diffusion))
    got = slope(SWITCHED, BOTH)
    # both differentiate the same numbers, but for the last bits of the steps on Diffrax's own grid
    assert_trees_close(got, slope(SWITCHED, dataclasses.replace(BOTH, adjoint=diffrax.DirectAdjoint())), rtol=1e-9)
    tangent = eqx.tree_at(lambda p: (p.sigma, p.epsilon), SWITCHED, (jnp.array(0.3), jnp.array(-0.7)))
    forward = dataclasses.replace(BOTH, adjoint=rv.ForwardMode())
    along = jax.jit(lambda p: jax.jvp(lambda p: diffusion(p, forward), (p,), (tangent,))[1])(SWITCHED)
    np.testing.assert_allclose(along, 0.3 * got.sigma - 0.7 * got.epsilon, rtol=1e-9)


def test_default_record_in_single_precision():
    system, state = SYSTEM.astype(jnp.float32), argon_state(dtype=jnp.float32)
    trajectory = rv.nve(system, state, dt=0.004, num_steps=4, save_every=4, both_directions=True, throw=False)
    assert trajectory.records.positions.shape == (3, 32, 3)
    assert {x.dtype for x in jax.tree.leaves(trajectory)} == {jnp.dtype(jnp.float32)}


def test_explosion_in_the_past():
    """Two atoms that fly apart now have been in each other's cores."""
    topology = rv.Topology.from_elements(["Ar"] * 2)
    system = rv.System(topology, rv.LennardJones(0.338, 0.893795, cutoff=2.0))
    state = rv.State(jnp.array([[0.0, 0, 0], [1.0, 0, 0]]), jnp.array([[-20.0, 0, 0], [20.0, 0, 0]]), rv.OpenBox())
    arguments = {"dt": 0.004, "num_steps": 20, "save_every": 4}
    rv.nve(system, state, **arguments)
    with pytest.raises(FloatingPointError, match="The trajectory exploded by step"):
        rv.nve(system, state, **arguments, both_directions=True)


def test_in_batches():
    states = argon_state().repeat(3)
    many = rv.nve(SYSTEM, states, dt=0.004, num_steps=8, save_every=4, both_directions=True, batch=2)
    one = rv.nve(SYSTEM, argon_state(), dt=0.004, num_steps=8, save_every=4, both_directions=True)
    np.testing.assert_array_equal(many.times, one.times)
    for got, wanted in zip(jax.tree.leaves(many.records), jax.tree.leaves(one.records), strict=True):
        np.testing.assert_allclose(got[2], wanted, rtol=1e-10, atol=1e-10)  # vectorized otherwise
