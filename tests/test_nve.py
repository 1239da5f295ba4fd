import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    SWITCHED,
    argon_box,
    argon_length,
    argon_positions,
    argon_state,
    argon_topology,
    assert_trees_close,
)

import reverlet as rv

SYSTEM = rv.System(argon_topology(), SWITCHED)


def velocities(system, state, initial):
    del system, initial
    return state.velocities


def diffusion(potential, state, adjoint=rv.ReversibleAdjoint(), num_steps=20):
    trajectory = rv.nve(
        rv.System(argon_topology(), potential), state, dt=0.002, num_steps=num_steps, save_every=4, record=velocities,
        adjoint=adjoint,
    )  # fmt: skip
    vacf = jnp.mean(jnp.sum(trajectory.records * trajectory.records[0], -1), -1)
    return jnp.trapezoid(vacf, trajectory.times) / 3


def test_the_example():
    topology = rv.Topology.from_elements(["Ar"] * 108)
    potential = rv.LennardJones(sigma=0.338, epsilon=0.893795, cutoff=0.85)
    box = rv.OrthorhombicBox(jnp.full(3, argon_length(3)))
    state = rv.State(argon_positions(3), rv.maxwell_boltzmann(topology, 94.4, key=jax.random.key(0)), box)

    def diffusion(potential):
        system = rv.System(topology, potential)
        trajectory = rv.nve(system, state, dt=0.001, num_steps=20, save_every=2,
                            record=lambda system, state, initial: state.velocities)  # fmt: skip
        assert trajectory.records.shape == (11, 108, 3)
        vacf = jnp.mean(jnp.sum(trajectory.records * trajectory.records[0], -1), -1)
        return jnp.trapezoid(vacf, trajectory.times) / 3

    value, gradient = eqx.filter_value_and_grad(diffusion)(potential)
    assert value > 0
    assert gradient.sigma.shape == gradient.epsilon.shape == ()
    assert gradient.sigma != 0
    assert gradient.epsilon != 0


def test_default_record_is_the_state():
    state = argon_state()
    trajectory = rv.nve(SYSTEM, state, dt=0.002, num_steps=6, save_every=3)
    assert isinstance(trajectory.records, rv.State)
    assert trajectory.records.positions.shape == (3, 32, 3)
    np.testing.assert_allclose(trajectory.times, [0, 0.006, 0.012], rtol=1e-15)
    np.testing.assert_array_equal(trajectory.records.positions[0], state.positions)
    np.testing.assert_array_equal(trajectory.records.velocities[0], state.velocities)
    np.testing.assert_array_equal(trajectory.records.positions[-1], trajectory.final.positions)
    np.testing.assert_array_equal(trajectory.records.velocities[-1], trajectory.final.velocities)


def test_continues():
    state = argon_state()
    whole = rv.nve(SYSTEM, state, dt=0.002, num_steps=6).final
    half = rv.nve(SYSTEM, state, dt=0.002, num_steps=3).final
    assert_trees_close(rv.nve(SYSTEM, half, dt=0.002, num_steps=3).final, whole, rtol=1e-13)  # rounding


def test_against_a_plain_loop():
    state, dt, mass = argon_state(), 0.002, 39.948
    x, v = state.positions, state.velocities
    forces = jax.jit(lambda x: SWITCHED.forces(x, state.box))
    for _ in range(5):
        v = v + 0.5 * dt * forces(x) / mass
        x = x + dt * v
        v = v + 0.5 * dt * forces(x) / mass
    final = rv.nve(SYSTEM, state, dt=dt, num_steps=5).final
    np.testing.assert_allclose(final.positions, x, atol=1e-13)  # rounding
    np.testing.assert_allclose(final.velocities, v, atol=1e-12)


def test_under_jit_and_vmap():
    states = [argon_state(seed=s) for s in range(3)]
    batch = jax.tree.map(lambda *a: jnp.stack(a), *states)
    value_and_grad = lambda state: jax.value_and_grad(diffusion)(SWITCHED, state)
    each = list(map(jax.jit(value_and_grad), states))
    wanted = jax.tree.map(lambda *a: jnp.stack(a), *each)
    # batches sum in another order: rounding
    assert_trees_close(jax.jit(jax.vmap(value_and_grad))(batch), wanted, rtol=1e-10)
    mean = lambda p: jnp.mean(jax.vmap(lambda s: diffusion(p, s))(batch))
    assert_trees_close(jax.grad(mean)(SWITCHED), jax.tree.map(lambda a: jnp.mean(a, 0), wanted[1]), rtol=1e-10)


def test_forward_mode():
    state = argon_state()
    gradient = jax.grad(diffusion)(SWITCHED, state)
    tangent = eqx.tree_at(lambda p: (p.sigma, p.epsilon), SWITCHED, (jnp.array(0.3), jnp.array(-0.7)))
    got = jax.jvp(lambda p: diffusion(p, state, diffrax.ForwardMode()), (SWITCHED,), (tangent,))[1]
    # the same discrete derivative
    np.testing.assert_allclose(got, 0.3 * gradient.sigma - 0.7 * gradient.epsilon, rtol=1e-10)


def test_trained_record_and_masses():
    class Weighted(eqx.Module):
        weight: jax.Array

        def __call__(self, system, state, initial):
            return self.weight * jnp.sum(state.velocities * initial.velocities) + system.topology.masses[0]

    state = argon_state()

    @eqx.filter_jit
    @jax.grad
    def slopes(inputs, adjoint):
        record, masses, length = inputs
        system = eqx.tree_at(lambda s: s.topology.masses, SYSTEM, masses)
        moved = rv.State(state.positions, state.velocities, rv.OrthorhombicBox(length))
        return jnp.sum(rv.nve(system, moved, dt=0.002, num_steps=8, record=record, adjoint=adjoint).records ** 2)

    inputs = (Weighted(jnp.array(0.4)), SYSTEM.topology.masses, argon_box().lengths)
    got, wanted = slopes(inputs, rv.ReversibleAdjoint()), slopes(inputs, diffrax.DirectAdjoint())
    assert_trees_close(got, wanted, rtol=1e-9)  # rounding; steps on Diffrax's grid differ in the last bits


def test_single_precision_stays():
    state = argon_state(dtype=jnp.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(x):
        trajectory = rv.nve(SYSTEM, rv.State(x, state.velocities, state.box), dt=0.002, num_steps=4)
        return jnp.sum(trajectory.records.velocities[-1] ** 2), trajectory

    trajectory, gradient = run(state.positions)
    for leaf in (*jax.tree.leaves(trajectory), gradient):
        assert leaf.dtype == jnp.float32
    double = rv.nve(SYSTEM, argon_state(), dt=0.002, num_steps=4)
    np.testing.assert_allclose(trajectory[1].final.positions, double.final.positions, atol=1e-5)  # seven digits of 1 nm


def test_other_solvers():
    state = argon_state()
    verlet = rv.nve(SYSTEM, state, dt=0.001, num_steps=10).final
    for solver in (rv.Yoshida4(), rv.PositionVerlet()):
        final = rv.nve(SYSTEM, state, solver, dt=0.001, num_steps=10).final
        np.testing.assert_allclose(final.positions, verlet.positions, atol=1e-5)  # a local error of order dt² a
        assert not np.array_equal(final.positions, verlet.positions)
    final = rv.nve(
        SYSTEM, state, diffrax.SemiImplicitEuler(), dt=0.001, num_steps=10, adjoint=diffrax.DirectAdjoint()
    ).final
    np.testing.assert_allclose(final.positions, verlet.positions, atol=1e-3)  # of first order


def test_the_bundle_of_arguments():
    state = argon_state()
    run = rv.Dynamics(dt=0.002, num_steps=4, save_every=2).run(SYSTEM, state, velocities)
    wanted = rv.nve(SYSTEM, state, dt=0.002, num_steps=4, save_every=2, record=velocities)
    assert_trees_close(run, wanted, rtol=0)


BOND = rv.System(rv.Topology.from_elements(["Ar", "Ar"]), rv.HarmonicBond(np.array([[0, 1]]), 1000.0, 0.3))
STRETCHED = rv.State(jnp.array([[0, 0, 0], [0.33, 0, 0]], jnp.float32), jnp.zeros((2, 3), jnp.float32), rv.OpenBox())


def late(adjoint, num_steps):
    system = BOND.astype(jnp.float32)
    return rv.nve(system, STRETCHED, dt=0.005, num_steps=num_steps, save_every=num_steps // 4, adjoint=adjoint).records


@pytest.mark.parametrize("num_steps", [4000, pytest.param(8_000_000, marks=pytest.mark.slow)])
def test_steps_stay_equal_in_single_precision(num_steps):
    """To the last bit, by counting: differences of times near 20 ps would be longer and shorter by 0.04 %, and by more
    than a whole step in a run of 8,000,000; the last steps would be made in one."""
    wanted = late(rv.ReversibleAdjoint(), num_steps)
    for adjoint in (rv.ForwardMode(), diffrax.RecursiveCheckpointAdjoint()):
        np.testing.assert_array_equal(late(adjoint, num_steps).positions, wanted.positions)
    separation = wanted.positions[:, 1, 0] - wanted.positions[:, 0, 0]
    assert jnp.all(jnp.abs(separation - 0.3) < 0.0301)  # the amplitude of an oscillator


def test_more_steps_than_can_be_counted():
    with pytest.raises(ValueError, match=r"`num_steps` is 16777220; wanted at most 16777216, which float32 can count"):
        late(rv.ReversibleAdjoint(), 2**24 + 4)
