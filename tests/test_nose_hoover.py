"""Nosé–Hoover chains: the adjoint against another and finite differences; what is conserved; the canonical ensemble."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    SWITCHED,
    TEMPERATURE,
    argon_state,
    argon_topology,
    assert_trees_close,
    central_difference,
    random_like,
    well,
)

import reverlet as rv

SYSTEM = rv.System(argon_topology(), SWITCHED)
BATH = rv.Bath(jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, -0.3, 0.2]))
SOLVER = rv.NoseHooverChain(TEMPERATURE, 0.3)


def everything(system, state, initial):
    kinetic = system.kinetic_energy(state.velocities)
    return kinetic, state.bath, jnp.sum(state.velocities * initial.velocities)


def loss(inputs, adjoint):
    potential, x, v, bath, solver = inputs
    state = rv.State(x, v, argon_state().box, bath)
    options = {"dt": 0.004, "num_steps": 6, "save_every": 2, "adjoint": adjoint, "throw": False}
    trajectory = rv.nve(rv.System(argon_topology(), potential), state, solver, record=everything, **options)
    leaves = jax.tree.leaves((trajectory.records, trajectory.final))
    return sum(jnp.sum(jnp.cos(0.1 * k + leaf)) for k, leaf in enumerate(leaves))


def start(solver):
    state = argon_state()
    return SWITCHED, state.positions, state.velocities, BATH, solver


value_and_grad = eqx.filter_jit(lambda inputs, adjoint: jax.value_and_grad(lambda i: loss(i, adjoint))(inputs))


@pytest.mark.parametrize(
    "solver",
    [
        SOLVER,
        pytest.param(
            rv.NoseHooverChain(94.0, masses=jnp.array([0.5, 0.02, 0.03]), num_substeps=2, suzuki_yoshida=5),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["period", "masses"],
)
def test_gradient(solver):
    """With respect to the potential, positions, velocities, thermostats, temperature, and period or masses."""
    inputs = start(solver)
    got = value_and_grad(inputs, rv.ReversibleAdjoint())
    # the same numbers, but for the last bits of the steps on Diffrax's own grid
    assert_trees_close(got, value_and_grad(inputs, diffrax.DirectAdjoint()), rtol=1e-10)
    gradient = got[1]
    assert all(np.any(np.abs(leaf) > 0) for leaf in jax.tree.leaves(gradient))
    direction = jax.tree.map(lambda x, r: r * 0.1 * jnp.maximum(jnp.abs(x), 0.1), inputs, random_like(inputs, 1))
    numeric = central_difference(lambda i: value_and_grad(i, rv.ReversibleAdjoint())[0], inputs, direction, 1e-6)
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), gradient, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), numeric, rtol=1e-6)


def test_forward_mode():
    inputs = start(SOLVER)
    direction = random_like(inputs, 2)
    along = jax.jit(lambda i: jax.jvp(lambda i: loss(i, rv.ForwardMode()), (i,), (direction,))[1])(inputs)
    gradient = value_and_grad(inputs, rv.ReversibleAdjoint())[1]
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), gradient, direction)
    np.testing.assert_allclose(along, sum(jax.tree.leaves(products)), rtol=1e-9)


run = eqx.filter_jit(lambda state, solver, n: rv.nve(SYSTEM, state, solver, dt=0.004, num_steps=n, save_every=n).final)


def test_a_run_goes_on_and_back():
    state = argon_state()
    final = run(state, SOLVER, 20)
    half = run(state, SOLVER, 10)
    assert_trees_close(run(half, SOLVER, 10), final, rtol=1e-12)  # the same numbers
    flip = lambda s: rv.State(s.positions, -s.velocities, s.box, s.bath.directed(-1.0))
    back = flip(run(flip(final), SOLVER, 20))
    # rounding, grown along the way
    assert_trees_close((back.positions, back.velocities), (state.positions, state.velocities), rtol=1e-11)
    np.testing.assert_allclose(back.bath.velocities, 0, atol=1e-11)
    np.testing.assert_allclose(back.bath.positions, 0, atol=1e-11)


@pytest.mark.parametrize("length", [1, 3])
def test_a_step_is_undone(length):
    solver = rv.NoseHooverChain(300.0, 0.1, length=length, suzuki_yoshida=7, num_fixed=0)
    potential = lambda x, args: jnp.sum(x**4)
    kick = rv.ConservativeTerm(potential, lambda args: args)
    terms = (diffrax.ODETerm(lambda t, v, args: v), kick, solver.bath_term())
    masses, t, h = jnp.array([[1.0], [2.0]]), jnp.array(0.0), jnp.array(0.01)
    bath = rv.Bath(jnp.zeros(length), jnp.linspace(-1.0, 2.0, length))
    y = (jnp.arange(6.0).reshape(2, 3) / 3, jnp.cos(jnp.arange(6.0)).reshape(2, 3), bath)
    state = solver.init(terms, t, h, y, masses)
    y1, _, _, state1, _ = solver.step(terms, t, h, y, masses, state, False)
    y0, _, state0 = solver.backward_step(terms, t, h, y1, masses, state1, False)
    assert_trees_close((y0, state0), (y, state), rtol=1e-13, atol=1e-14)
    # the vector field is what short steps do
    field = solver.func(terms, t, y, masses)
    step = lambda h: solver.step(terms, t, h, y, masses, state, False)[0]
    short = jax.jvp(step, (jnp.zeros(()),), (jnp.ones(()),))[1]
    assert_trees_close(field, short, rtol=1e-13)


def test_what_is_conserved():
    """Up to second order in the time step, where velocity Verlet's energy and temperature would be anything."""
    conserved = lambda system, state, initial: SOLVER.conserved(system, state)
    spread = []
    for dt in (0.008, 0.004):
        records = rv.nve(SYSTEM, argon_state(), SOLVER, dt=dt, num_steps=round(1.6 / dt), record=conserved).records
        spread.append(np.std(records))
    # of 36 kJ/mol of kinetic energy; the ratio is four up to higher orders and chance
    assert spread[0] < 0.03
    assert 3 < spread[0] / spread[1] < 6


@pytest.mark.slow
def test_both_directions():
    options = {"dt": 0.004, "num_steps": 8, "save_every": 8, "record": lambda system, state, initial: state}
    state = argon_state()
    state = rv.State(state.positions, state.velocities, state.box, BATH)
    past, middle, future = (
        jax.tree.map(lambda x, k=k: x[k], rv.nve(SYSTEM, state, SOLVER, both_directions=True, **options).records)
        for k in range(3)
    )
    assert_trees_close(middle, state, rtol=1e-14)
    assert_trees_close(rv.nve(SYSTEM, past, SOLVER, **options).final, middle, rtol=1e-10, atol=1e-12)
    assert_trees_close(rv.nve(SYSTEM, middle, SOLVER, **options).final, future, rtol=1e-10, atol=1e-12)


def test_canonical_ensemble():
    """Harmonic oscillators, which one thermostat alone does not make ergodic: ⟨x²⟩ = kT/k, ⟨v²⟩ = kT/m."""
    k, temperature, samples = 500.0, 300.0, 64
    system = rv.System(rv.Topology.from_elements(["Ar"]), well(k))
    solver = rv.NoseHooverChain(temperature, 1.8, length=4, num_fixed=0)
    keys = jax.random.split(jax.random.key(0), 2)
    kt, mass = rv.units.BOLTZMANN * temperature, system.topology.masses[0]
    # half of the right spread, so that the thermostats have something to do
    x = 0.5 * jnp.sqrt(kt / k) * jax.random.normal(keys[0], (samples, 1, 3))
    v = 0.5 * jnp.sqrt(kt / mass) * jax.random.normal(keys[1], (samples, 1, 3))
    states = jax.vmap(lambda x, v: rv.State(x, v, rv.OpenBox()))(x, v)
    squares = lambda system, state, initial: jnp.stack([state.positions**2 * k / kt, state.velocities**2 * mass / kt])
    records = rv.nve(
        system, states, solver, dt=0.04, num_steps=12000, save_every=10, record=squares, batch=samples
    ).records
    late = records[:, 200:]  # (samples, frames, 2, 1, 3)
    means = jnp.mean(late, axis=(1, 3, 4))
    value, error = jnp.mean(means, axis=0), jnp.std(means, axis=0) / samples**0.5
    assert np.all(error < 0.02)
    assert np.all(abs(value - 1) < 4 * error + 0.01)  # 1 % for the time step: (ω dt)²/8 = 0.3 %
    # of a Gaussian ⟨u²⟩ of u = x²/⟨x²⟩ is three
    fourth = jnp.mean(late**2, axis=(0, 1, 3, 4))
    assert np.all(abs(fourth - 3) < 0.25)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((0.0, 0.5), {}, "`temperature` is 0"),
        ((300.0, 0.0), {}, "`period` is 0"),
        ((300.0,), {}, "wanted one of them"),
        ((300.0, 0.5), {"masses": [1.0, 1.0, 1.0]}, "wanted one of them"),
        ((300.0,), {"masses": [1.0, -1.0, 1.0]}, r"`masses` is -1\.0"),
        ((300.0,), {"masses": [1.0]}, r"`masses` has shape \(1,\); wanted \(3\)"),
        ((300.0, 0.5), {"length": 0}, "`length` is 0"),
        ((300.0, 0.5), {"suzuki_yoshida": 4}, "wanted 1, 3, 5 or 7"),
        ((300.0, 0.5), {"num_substeps": 0}, "`num_substeps` is 0"),
        ((300.0, 0.5), {"num_fixed": -1}, "`num_fixed` is -1"),
    ],
)
def test_refuses(arguments, options, match):
    with pytest.raises(ValueError, match=match):
        rv.NoseHooverChain(*arguments, **options)


def test_refuses_other_baths_and_kicks():
    state = argon_state()
    state = rv.State(state.positions, state.velocities, state.box, rv.Bath(jnp.zeros(2), jnp.zeros(2)))
    with pytest.raises(ValueError, match="has 2 thermostats; wanted 3"):
        rv.nve(SYSTEM, state, SOLVER, dt=0.004, num_steps=2)
    field = diffrax.ODETerm(lambda t, y, args: -y)
    with pytest.raises(TypeError, match="which knows the masses"):
        SOLVER.flows((field, field, SOLVER.bath_term()))
