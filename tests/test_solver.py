import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, SOLVERS, SWITCHED, AsynchronousLeapfrog, argon_state, argon_topology, few
from hypothesis import given
from hypothesis import strategies as st

import reverlet as rv

K, CUBIC = 1.3, 0.4


def drift(t, v, args):
    del t, args
    return v


def kick(t, x, field):
    return -K * x - CUBIC * x**3 + field * jnp.cos(2 * t)


TERMS = (diffrax.ODETerm(drift), diffrax.ODETerm(kick))
ONE_TERM = diffrax.ODETerm(lambda t, y, args: (drift(t, y[1], args), kick(t, y[0], args)))
ALL = {**{name: (s, TERMS) for name, s in SOLVERS.items()}, "AsynchronousLeapfrog": (AsynchronousLeapfrog(), ONE_TERM)}


def start(seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, 3))), jnp.asarray(rng.normal(size=(2, 3)))


@eqx.filter_jit
def step(solver, terms, t, h, y, field, state):
    t, h = jnp.asarray(t), jnp.asarray(h)  # as Diffrax passes them
    y, _, dense, state, _ = solver.step(terms, t, t + h, y, field, state, False)
    return y, state, dense


@eqx.filter_jit
def step_back(solver, terms, t, h, y, field, state):
    t, h = jnp.asarray(t), jnp.asarray(h)
    y, dense, state = solver.backward_step(terms, t, t + h, y, field, state, False)
    return y, state, dense


@eqx.filter_jit
def init(solver, terms, t, y, field):
    t = jnp.asarray(t)
    return solver.init(terms, t, t, y, field)


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS, t=st.floats(-1, 1), h=st.sampled_from([-0.1, 0.05, 0.3]), field=st.sampled_from([0.0, 0.7]))
@few
def test_backward_step_undoes_step(name, seed, t, h, field):
    solver, terms = ALL[name]
    y0 = start(seed)
    state0 = init(solver, terms, t, y0, field)
    y1, state1, forward = step(solver, terms, t, h, y0, field, state0)
    y, state, backward = step_back(solver, terms, t, h, y1, field, state1)
    for got, wanted in zip(jax.tree.leaves((y, state)), jax.tree.leaves((y0, state0)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-12)  # rounding, of numbers up to 30
    assert set(forward) == set(backward) == {"y0", "y1"}
    np.testing.assert_array_equal(backward["y1"][0], forward["y1"][0])


@pytest.mark.parametrize("name", SOLVERS)
@given(seed=SEEDS)
@few
def test_time_reversal(name, seed):
    """Flip the velocities, and the same steps lead back."""
    solver = SOLVERS[name]
    x, v = y = start(seed)
    state = init(solver, TERMS, 0.0, y, 0.0)
    for _ in range(10):
        y, state, _ = step(solver, TERMS, 0.0, 0.1, y, 0.0, state)
    y = (y[0], -y[1])
    for _ in range(10):
        y, state, _ = step(solver, TERMS, 0.0, 0.1, y, 0.0, state)
    np.testing.assert_allclose(y[0], x, atol=1e-11)  # rounding, grown along twenty steps
    np.testing.assert_allclose(y[1], -v, atol=1e-11)


@pytest.mark.parametrize(("field", "name"), [(f, n) for f in (0.0, 0.7) for n in SOLVERS])
def test_order(name, field):
    """Also with a field that depends on time, for which drifts and kicks need times of their own."""
    solver = SOLVERS[name]

    @jax.jit
    def end(num_steps):
        y = start(0)
        h = 1.0 / num_steps
        carry = (y, init(solver, TERMS, 0.0, y, field))
        return jax.lax.fori_loop(
            0, num_steps, lambda k, c: step(solver, TERMS, k * h, h, c[0], field, c[1])[:2], carry
        )[0]

    exact = end(4096)
    counts = np.array([16, 24, 32, 48])
    errors = [max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(end(n), exact, strict=True)) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    order = solver.order(TERMS)
    assert abs(slope - order) < 0.15  # the next term of the error is h² smaller


@pytest.mark.parametrize("name", SOLVERS)
@given(seed=SEEDS)
@few
def test_symplectic(name, seed):
    jacobian = np.asarray(_jacobian(SOLVERS[name], jnp.concatenate([jnp.ravel(a) for a in start(seed)])))
    form = np.block([[np.zeros((6, 6)), np.eye(6)], [-np.eye(6), np.zeros((6, 6))]])
    np.testing.assert_allclose(jacobian.T @ form @ jacobian, form, atol=1e-12)  # rounding, of entries up to ten


@eqx.filter_jit
def _jacobian(solver, z):
    def once(z):
        y = (z[:6].reshape(2, 3), z[6:].reshape(2, 3))
        y, _, _ = step(solver, TERMS, 0.0, 0.2, y, 0.7, init(solver, TERMS, 0.0, y, 0.7))
        return jnp.concatenate([jnp.ravel(a) for a in y])

    return jax.jacfwd(once)(z)


@pytest.mark.parametrize("name", SOLVERS)
def test_bounded_energy_drift(name):
    solver, y = SOLVERS[name], start(0)
    energy = lambda y: jnp.sum(0.5 * y[1] ** 2 + 0.5 * K * y[0] ** 2 + 0.25 * CUBIC * y[0] ** 4)
    h, num_steps = 0.1, 4000

    @jax.jit
    def run():
        def body(carry, _):
            y, state, _ = step(solver, TERMS, 0.0, h, *carry[:1], 0.0, carry[1])
            return (y, state), energy(y)

        return jax.lax.scan(body, (y, init(solver, TERMS, 0.0, y, 0.0)), None, num_steps)[1]

    energies = np.asarray(run())
    first, last = energies[: num_steps // 4], energies[-num_steps // 4 :]
    fluctuation = np.ptp(first)
    assert fluctuation < 0.1 * energies[0]
    # no drift: what the energy oscillates by does not grow; its mean over many periods stays within a tenth of that
    assert np.ptp(last) < 1.2 * fluctuation
    assert abs(last.mean() - first.mean()) < 0.1 * fluctuation


def test_energy_of_argon_is_conserved():
    state = argon_state()
    system = rv.System(argon_topology(), SWITCHED)
    energy = rv.TotalEnergy()
    drifts = []
    for dt in (0.004, 0.002):
        trajectory = rv.nve(system, state, dt=dt, num_steps=round(2 / dt), save_every=1, record=energy.record)
        drifts.append(float(jnp.std(trajectory.records)))
    # of about 100 kJ/mol; the fluctuation is of second order in dt, the ratio four up to higher orders and chance
    assert drifts[0] < 0.3
    assert 3 < drifts[0] / drifts[1] < 5


def test_terms_of_the_step_are_the_vector_field():
    y = start(0)
    for solver in SOLVERS.values():
        got = solver.func(TERMS, 0.3, y, 0.7)
        np.testing.assert_array_equal(got[0], y[1])
        np.testing.assert_array_equal(got[1], kick(0.3, y[0], 0.7))


def test_positions_are_those_of_leap_frog():
    y, h = start(1), 0.1
    x, v = y
    v = v - 0.5 * h * kick(0.0, x, 0.0)
    solution = diffrax.diffeqsolve(
        TERMS, rv.VelocityVerlet(), 0.0, 1.0, h, y, 0.0, saveat=diffrax.SaveAt(steps=1), adjoint=rv.ReversibleAdjoint()
    )
    for k in range(10):
        v = v + h * kick(0.0, x, 0.0)
        x = x + h * v
        np.testing.assert_allclose(solution.ys[0][k], x, atol=1e-13)  # rounding
