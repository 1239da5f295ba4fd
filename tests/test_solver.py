import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    SEEDS,
    SOLVERS,
    SWITCHED,
    AsynchronousLeapfrog,
    argon_state,
    argon_topology,
    count_primitive,
    few,
    num_kicks,
)
from hypothesis import given, strategies as st

import reverlet as rv

K, CUBIC = 1.3, 0.4


def drift(t, v, args):
    del t, args
    return v


def linear(t, x, field):
    del t, field
    return -K * x


def cubic(t, x, field):
    del t, field
    return -CUBIC * x**3


def driven(t, x, field):
    return field * jnp.cos(2 * t) * jnp.ones_like(x)


def kick(t, x, field):
    return linear(t, x, field) + cubic(t, x, field) + driven(t, x, field)


def in_terms(*functions):
    kicks = [diffrax.ODETerm(f) for f in functions]
    return diffrax.ODETerm(drift), kicks[0] if len(kicks) == 1 else diffrax.MultiTerm(*kicks)


# the same equations, by as many kick terms as a solver has
TERMS = {
    1: in_terms(kick),
    2: in_terms(linear, lambda t, x, field: cubic(t, x, field) + driven(t, x, field)),
    3: in_terms(linear, cubic, driven),
}
ONE_TERM = diffrax.ODETerm(lambda t, y, args: (drift(t, y[1], args), kick(t, y[0], args)))
TABLES = {name: (solver, TERMS[num_kicks(solver)]) for name, solver in SOLVERS.items()}
ALL = {**TABLES, "AsynchronousLeapfrog": (AsynchronousLeapfrog(), ONE_TERM)}


def start(seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, 3))), jnp.asarray(rng.normal(size=(2, 3)))


def step(solver, terms, t, h, y, field, state):
    y, _, dense, state, _ = _step(solver, terms, *map(jnp.asarray, (t, t + h)), y, jnp.asarray(field), state, False)
    return y, state, dense


def step_back(solver, terms, t, h, y, field, state):
    y, dense, state = _step_back(solver, terms, *map(jnp.asarray, (t, t + h)), y, jnp.asarray(field), state, False)
    return y, state, dense


def init(solver, terms, t, y, field):
    t = jnp.asarray(t)
    return _init(solver, terms, t, t, y, jnp.asarray(field))


# of arrays alone, as Diffrax passes them: a Python number would be compiled in, each one anew
_step = eqx.filter_jit(lambda solver, *args: solver.step(*args))
_step_back = eqx.filter_jit(lambda solver, *args: solver.backward_step(*args))
_init = eqx.filter_jit(lambda solver, *args: solver.init(*args))


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


@pytest.mark.parametrize("name", TABLES)
@given(seed=SEEDS)
@few
def test_time_reversal(name, seed):
    """Flip the velocities, and the same steps lead back."""
    solver, terms = TABLES[name]
    x, v = y = start(seed)
    state = init(solver, terms, 0.0, y, 0.0)
    for _ in range(10):
        y, state, _ = step(solver, terms, 0.0, 0.1, y, 0.0, state)
    y = (y[0], -y[1])
    for _ in range(10):
        y, state, _ = step(solver, terms, 0.0, 0.1, y, 0.0, state)
    np.testing.assert_allclose(y[0], x, atol=1e-11)  # rounding, grown along twenty steps
    np.testing.assert_allclose(y[1], -v, atol=1e-11)


@pytest.mark.parametrize(("field", "name"), [(f, n) for f in (0.0, 0.7) for n in TABLES])
def test_order(name, field):
    """Also with a field that depends on time, for which drifts and kicks need times of their own."""
    solver, terms = TABLES[name]

    @jax.jit
    def end(num_steps):
        y = start(0)
        h = 1.0 / num_steps
        carry = (y, init(solver, terms, 0.0, y, field))
        return jax.lax.fori_loop(
            0, num_steps, lambda k, c: step(solver, terms, k * h, h, c[0], field, c[1])[:2], carry
        )[0]

    # by a method that has nothing to do with splitting
    exact = diffrax.diffeqsolve(
        ONE_TERM, diffrax.Dopri8(), 0.0, 1.0, 0.01, start(0), field,
        stepsize_controller=diffrax.PIDController(rtol=1e-14, atol=1e-14),
    ).ys  # fmt: skip
    exact = [y[0] for y in exact]
    counts = np.array([8, 12, 16, 24])
    errors = [max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(end(n), exact, strict=True)) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    order = solver.order(terms)
    assert errors[-1] > 1e-11  # above the rounding of both solutions
    assert abs(slope - order) < 0.15  # the next term of the error is h² smaller


@pytest.mark.parametrize("name", TABLES)
@given(seed=SEEDS)
@few
def test_symplectic(name, seed):
    jacobian = np.asarray(_jacobian(*TABLES[name], jnp.concatenate([jnp.ravel(a) for a in start(seed)])))
    form = np.block([[np.zeros((6, 6)), np.eye(6)], [-np.eye(6), np.zeros((6, 6))]])
    np.testing.assert_allclose(jacobian.T @ form @ jacobian, form, atol=1e-12)  # rounding, of entries up to ten


@eqx.filter_jit
def _jacobian(solver, terms, z):
    def once(z):
        y = (z[:6].reshape(2, 3), z[6:].reshape(2, 3))
        y, _, _ = step(solver, terms, 0.0, 0.2, y, 0.7, init(solver, terms, 0.0, y, 0.7))
        return jnp.concatenate([jnp.ravel(a) for a in y])

    return jax.jacfwd(once)(z)


@pytest.mark.parametrize("name", TABLES)
def test_bounded_energy_drift(name):
    (solver, terms), y = TABLES[name], start(0)
    energy = lambda y: jnp.sum(0.5 * y[1] ** 2 + 0.5 * K * y[0] ** 2 + 0.25 * CUBIC * y[0] ** 4)
    h, num_steps = 0.1, 4000

    @jax.jit
    def run():
        def body(carry, _):
            y, state, _ = step(solver, terms, 0.0, h, *carry[:1], 0.0, carry[1])
            return (y, state), energy(y)

        return jax.lax.scan(body, (y, init(solver, terms, 0.0, y, 0.0)), None, num_steps)[1]

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
    for solver, terms in TABLES.values():
        got = solver.func(terms, 0.3, y, 0.7)
        np.testing.assert_array_equal(got[0], y[1])
        np.testing.assert_allclose(got[1], kick(0.3, y[0], 0.7), rtol=1e-14)  # summed in another order


# Evaluations: of every kick term per step, and before the first step, to keep for it.

EVALUATIONS = {
    "VelocityVerlet": ((1,), (1,)),
    "PositionVerlet": ((1,), (0,)),
    "Yoshida4": ((3,), (1,)),
    "Yoshida6": ((7,), (1,)),
    "McLachlan4": ((5,), (0,)),
    "BlanesMoan4": ((6,), (1,)),
    "Respa": ((1, 3), (1, 1)),
    "ThreeTerms": ((1, 2, 3), (1, 0, 1)),
}


@pytest.mark.parametrize("name", TABLES)
def test_evaluations(name):
    solver = SOLVERS[name]
    functions = {"sin": jnp.sin, "tanh": jnp.tanh, "exp": jnp.exp}
    names = list(functions)[: num_kicks(solver)]
    terms = in_terms(*(lambda t, x, args, f=functions[n]: -f(x) for n in names))
    y, t, h = start(0), jnp.array(0.0), jnp.array(0.1)
    state = solver.init(terms, t, h, y, None)
    per_step, before = EVALUATIONS[name]
    assert tuple(count_primitive(lambda y: solver.init(terms, t, h, y, None), n, y) for n in names) == before
    for function in (solver.step, solver.backward_step):
        advance = lambda y, state, f=function: f(terms, t, t + h, y, None, state, False)[0]
        assert tuple(count_primitive(advance, n, y, state) for n in names) == per_step
    assert len(jax.tree.leaves(state)) == sum(before)


@pytest.mark.parametrize("name", TABLES)
def test_evaluations_of_a_whole_trajectory(name):
    """Counted where they happen, by a call to the host; Diffrax's own start of the solver, which nobody reads, is not
    compiled."""
    solver, num_steps, counts = SOLVERS[name], 5, []

    def counted(m):
        def field(t, x, args):
            del t, args
            return jax.pure_callback(lambda x: (counts.append(m), -x)[1], x, x)

        return field

    terms = in_terms(*(counted(m) for m in range(num_kicks(solver))))
    # compiled first: Diffrax evaluates the terms once before it starts, only to look at their shapes
    solve = lambda y: diffrax.diffeqsolve(terms, solver, 0, 1, 1 / num_steps, y, adjoint=rv.ReversibleAdjoint())
    run = jax.jit(lambda y: solve(y).ys)
    jax.block_until_ready(run(start(0)))
    per_step, before = EVALUATIONS[name]
    for m in range(num_kicks(solver)):
        assert counts.count(m) == num_steps * per_step[m] + before[m]


# Tables that are refused


def table(kicks, drifts):
    cls = type(
        "Mine", (rv.AbstractSplittingSolver,), {"kicks": kicks, "drifts": drifts, "order": lambda self, terms: 2}
    )
    return cls()


@pytest.mark.parametrize(
    ("kicks", "drifts", "match"),
    [
        ((1.0,), (1.0,), "1 kicks and 1 drifts; wanted at least one drift, and one kick more"),
        ((1.0,), (), "1 kicks and 0 drifts; wanted at least one drift"),
        ((0.5, (0.5, 0.5)), (1.0,), "kicks of 1 and 2 coefficients; wanted one for every kick term"),
        (((), ()), (1.0,), "kicks of 0 coefficients"),
        ((0.5, 0.4), (1.0,), "kicks of term 1 of `Mine` sum to 0.9; wanted 1"),
        ((0.5, 0.5), (1.1,), "drifts of `Mine` sum to 1.1; wanted 1"),
        ((0.5, float("nan")), (1.0,), "sum to nan"),
        (((0.5, 0.5), (0.5, 0.6)), (1.0,), r"kicks of term 2 of `Mine` sum to 1\.1"),
        (
            (0.4, 0.6),
            (1.0,),
            r"number 0 is 0\.4, and number 0 from the end 0\.6.*\(0\.5, 0\.5\) would fit",
        ),
        ((0.25, 0.5, 0.25), (0.4, 0.6), r"drifts of `Mine` are \(0\.4, 0\.6\), not palindromic"),
        ((0.0, 1.0), (1.0,), "not palindromic"),  # the symplectic Euler method
        (
            ((0.5, 0.0), (0.0, 1.0), (0.5, 0.0), (0.0, 0.0)),
            (0.25, 0.5, 0.25),
            "term 1 of `Mine` .* not palindromic",
        ),
    ],
)
def test_tables_that_are_refused(kicks, drifts, match):
    with pytest.raises(ValueError, match=match):
        table(kicks, drifts)


def test_tables_may_be_rounded():
    third = (0.1 + 0.2) / 0.9  # not quite 1/3
    rounded = table((0.5 * third, third, 1 / 3, 0.5 / 3), (1 / 3, 1 - 2 / 3, third))
    assert rounded.kick_rows[0] == rounded.kick_rows[-1]
    assert rv.Respa(7).kick_rows == rv.Respa(7).kick_rows[::-1]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0,), "`num_steps` is 0; wanted a whole number, at least 1"),
        ((-2,), "`num_steps` is -2"),
        ((2.0,), "`num_steps` is 2.0; wanted a whole number"),
        ((True,), "`num_steps` is True"),
        ((2, ()), r"`fast` is \(\); wanted a tuple of different indices"),
        ((2, (0, 0)), r"`fast` is \(0, 0\); wanted a tuple of different"),
        ((2, (-1,)), r"`fast` is \(-1,\)"),
        ((2, 0), "`fast` is 0; wanted a tuple"),
    ],
)
def test_respa_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        rv.Respa(*arguments)


def test_positions_are_those_of_leap_frog():
    y, h = start(1), 0.1
    x, v = y
    v = v - 0.5 * h * kick(0.0, x, 0.0)
    solution = diffrax.diffeqsolve(
        TERMS[1],
        rv.VelocityVerlet(),
        0.0,
        1.0,
        h,
        y,
        0.0,
        saveat=diffrax.SaveAt(steps=1),
        adjoint=rv.ReversibleAdjoint(),
    )
    for k in range(10):
        v = v + h * kick(0.0, x, 0.0)
        x = x + h * v
        np.testing.assert_allclose(solution.ys[0][k], x, atol=1e-13)  # rounding
