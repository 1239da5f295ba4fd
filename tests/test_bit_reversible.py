"""Fixed-point trajectories are walked back to the last bit, in 32-bit mode as well, and overflow is an error."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    POTENTIALS,
    SEEDS,
    SWITCHED,
    argon_box,
    argon_length,
    argon_state,
    argon_topology,
    assert_trees_close,
    central_difference,
    few,
    random_like,
    very_few,
)
from hypothesis import given, strategies as st

import reverlet as rv
from reverlet._solver import _bit_reversible as fixed

SOLVER = rv.BitReversibleVerlet()
R = SOLVER.resolution
X64 = {"float32": False, "float64": True}
BOXES = {
    "open": rv.OpenBox(),
    "orthorhombic": argon_box(),
    # lattice vectors whose heights leave room for the cutoff
    "triclinic": rv.TriclinicBox(argon_length() * jnp.array([[1.0, 0.0, 0.0], [0.2, 1.02, 0.0], [-0.1, 0.15, 1.05]])),
}
STEPS = st.sampled_from([0.0005, 0.001, 0.002, 0.003])  # ps


def drift(t, v, args):
    del t, args
    return v


def energy(x, args):
    system, box = args
    return system.potential.energy(x, box)


def masses(args):
    return args[0].topology.masses[:, None]


TERMS = (diffrax.ODETerm(drift), rv.ConservativeTerm(energy, masses))


def setting(potential, box, seed):
    """Terms' arguments and the start; in the precision that is enabled."""
    state = argon_state(seed=seed)
    args = (rv.System(argon_topology(), POTENTIALS[potential]), BOXES[box])
    here = lambda tree: jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)
    return here((args, (state.positions, state.velocities)))


# `num_steps` is an array, so that nothing is compiled anew; every step is from 0 to `dt`, equal to the last bit


@eqx.filter_jit
def forward(solver, args, y, dt, num_steps, state=None):
    """The solver states at the start and after `num_steps` explicit steps."""
    zero = jnp.zeros_like(dt)
    start = solver.init(TERMS, zero, dt, y, args) if state is None else state
    step = lambda _, carry: solver.step(TERMS, zero, dt, carry[0], args, carry[1], False)[::3]
    return start, jax.lax.fori_loop(0, num_steps, step, (y, start))


@eqx.filter_jit
def backward(solver, args, y, dt, num_steps, state):
    zero = jnp.zeros_like(dt)
    step = lambda _, carry: solver.backward_step(TERMS, zero, dt, carry[0], args, carry[1], False)[::2]
    return jax.lax.fori_loop(0, num_steps, step, (y, state))


def assert_same_bits(got, wanted):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert g.dtype == w.dtype
        assert np.asarray(g).tobytes() == np.asarray(w).tobytes()


# Reversal


@pytest.mark.parametrize(
    ("precision", "potential", "box"),
    [
        ("float32", "plain", "open"),
        ("float32", "switched", "triclinic"),
        ("float64", "mixture", "orthorhombic"),
        pytest.param("float64", "plain", "open", marks=pytest.mark.slow),
        pytest.param("float64", "switched", "triclinic", marks=pytest.mark.slow),
        pytest.param("float32", "mixture", "orthorhombic", marks=pytest.mark.slow),
    ],
)
@given(seed=SEEDS, dt=STEPS, num_steps=st.integers(1, 400))
@very_few
def test_backward_undoes_forward_to_the_last_bit(potential, box, precision, seed, dt, num_steps):
    with jax.enable_x64(X64[precision]):
        args, y = setting(potential, box, seed)
        dt, num_steps = jnp.asarray(dt), jnp.asarray(num_steps)
        start, (y1, end) = forward(SOLVER, args, y, dt, num_steps)
        assert end.positions.high.dtype == jnp.int32
        assert y1[0].dtype == precision
        assert int(end.failure) == 0
        moved = np.asarray(end.positions.low) != np.asarray(start.positions.low)
        assert np.mean(moved) > 0.99
        _, back = backward(SOLVER, args, y1, dt, num_steps, end)
        assert_same_bits(back, start)  # the acceleration too


@pytest.mark.usefixtures("compiled_well")
@pytest.mark.parametrize(
    ("precision", "batched"),
    [*(pytest.param(x, False, marks=pytest.mark.slow) for x in ("float32", "float64")), ("float32", True)],
)
def test_the_adjoint_reconstructs_to_the_last_bit(precision, batched):
    """In the walk of `ReversibleAdjoint` itself, seen from outside.

    The derivative of w·y at step 1 with respect to w is the y that the walk finds there. In float64 it holds all bits
    of the numbers; in float32 the last ones are seen because 12 ps of a liquid multiply an error by about 1e9.
    """
    dt, num_steps = 2.0**-8, 3000

    def run(w, args, y):
        watch = lambda t, y, args: sum(jnp.sum(a * b) for a, b in zip(y, args[-1], strict=True))
        first = jnp.array([dt])
        saves = (diffrax.SubSaveAt(ts=first, fn=watch), diffrax.SubSaveAt(ts=first), diffrax.SubSaveAt(t1=True))
        ys = diffrax.diffeqsolve(
            TERMS_WITH_WEIGHTS, SOLVER, 0.0, dt * num_steps, dt, y, (args, w), max_steps=num_steps,
            saveat=diffrax.SaveAt(subs=saves), adjoint=rv.ReversibleAdjoint(),
        ).ys  # fmt: skip
        return ys[0][0], ys[1:]

    with jax.enable_x64(X64[precision]):
        args, y = setting("switched", "orthorhombic", 1)
        lift = lambda f: jax.vmap(f, in_axes=(None, None, 0)) if batched else f
        many = jax.tree.map(lambda x: jnp.stack([x, 1.001 * x]), y) if batched else y
        gradient = lift(jax.grad(run, has_aux=True))
        found, (first, last) = jax.jit(gradient)(random_like(y, 0), args, many)
        assert_same_bits(found, jax.tree.map(lambda x: jnp.squeeze(x, -3), first))
        assert not np.allclose(first[0], last[0], atol=0.05)


TERMS_WITH_WEIGHTS = (
    diffrax.ODETerm(drift),
    rv.ConservativeTerm(lambda x, args: energy(x, args[0]), lambda args: masses(args[0])),
)


@given(seed=SEEDS, dt=STEPS)
@very_few
def test_flipped_velocities_lead_back(seed, dt):
    num_steps = 500
    with jax.enable_x64(False):
        args, y = setting("switched", "orthorhombic", seed)
        dt, num_steps = jnp.asarray(dt), jnp.asarray(num_steps)
        start, (y1, end) = forward(SOLVER, args, y, dt, num_steps)
        flip = lambda state: eqx.tree_at(lambda s: s.velocities, state, fixed._negative(state.velocities))
        _, (_, back) = forward(SOLVER, args, (y1[0], -y1[1]), dt, num_steps, flip(end))
        assert_same_bits(flip(back), start)


def test_flipped_velocities_lead_back_in_nve():
    """Float64 holds the lattice's numbers up to 32 nm without loss: a trajectory can be flipped by its `final`."""
    system, start = rv.System(argon_topology(), SWITCHED), argon_state()
    run = lambda state: rv.nve(system, state, SOLVER, dt=0.002, num_steps=4000, save_every=4000).final
    flip = lambda state: rv.State(state.positions, -state.velocities, state.box)
    back = flip(run(flip(run(start))))
    np.testing.assert_allclose(back.positions, start.positions, rtol=0, atol=0.5 * R)  # to the lattice, once
    assert_same_bits(flip(run(flip(run(back)))), back)


@pytest.mark.slow
def test_a_million_steps():
    with jax.enable_x64(False):
        args, y = setting("switched", "orthorhombic", 0)
        dt, num_steps = jnp.asarray(0.002), jnp.asarray(10**6)
        start, (y1, end) = forward(SOLVER, args, y, dt, num_steps)
        assert int(end.failure) == 0
        _, back = backward(SOLVER, args, y1, dt, num_steps, end)
        assert_same_bits(back, start)


# Physics


@pytest.mark.parametrize("precision", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_it_is_velocity_verlet(precision):
    with jax.enable_x64(X64[precision]):
        args, y = setting("mixture", "triclinic", 0)
        dt = jnp.asarray(0.002)
        _, (got, _) = forward(SOLVER, args, y, dt, jnp.asarray(100))
        _, (wanted, _) = forward(rv.VelocityVerlet(), args, y, dt, jnp.asarray(100))
        # rounding of a hundred steps, and of velocities up to 0.5: to 24 bits, or to 2⁻⁴⁸ nm/ps
        assert_trees_close(got, wanted, rtol=3e-5 if precision == "float32" else 1e-11)


def test_energy_does_not_drift_in_single_precision():
    with jax.enable_x64(False):
        args, y = setting("switched", "orthorhombic", 0)
        system, box = args
        trajectory = rv.nve(
            system, rv.State(*y, box), SOLVER, dt=0.002, num_steps=20_000, save_every=10, record=rv.TotalEnergy().record
        )
        energies = np.asarray(trajectory.records, float)
    kinetic = 1.5 * 32 * 0.785  # kJ/mol, about
    quarters = energies[1:].reshape(4, -1).mean(1)
    assert np.max(np.abs(quarters - quarters[0])) < 1e-4 * kinetic


def test_momentum_is_conserved_to_the_lattice():
    args, y = setting("switched", "orthorhombic", 0)
    num_steps = 2000
    start, (_, end) = forward(SOLVER, args, y, jnp.asarray(0.002), jnp.asarray(num_steps))
    exact = lambda n: np.asarray(n.high).astype(object) * 2**32 + np.asarray(n.low).astype(object)
    gained = (exact(end.velocities) - exact(start.velocities)).sum(0).astype(float)
    # two roundings per step of the kick of each of 32 atoms, of variance 1/12; equal masses
    assert np.max(np.abs(gained)) < 6 * np.sqrt(2 * num_steps * 32 / 12)


def test_displacements_are_not_rounded_away():
    """A free particle in float32: a position of 20,000 nm has a last digit of 2 pm, a step moves it by less."""
    with jax.enable_x64(False):
        terms = (diffrax.ODETerm(drift), diffrax.ODETerm(lambda t, x, args: 0 * x))
        y, num_steps, dt = (jnp.array([2.0e4]), jnp.array([0.25])), 4096, 2.0**-12
        solve = lambda solver: diffrax.diffeqsolve(
            terms, solver, 0.0, num_steps * dt, dt, y, adjoint=rv.ReversibleAdjoint()
        )
        assert float(solve(SOLVER).ys[0][0, 0]) == 2.0e4 + 0.25
        assert float(solve(rv.VelocityVerlet()).ys[0][0, 0]) == 2.0e4


# Gradients


def kick(t, x, args):
    del t
    return jax.tree.map(lambda x: -args["k"] * x - args["cubic"] * x**3, x)


def damped_drift(t, v, args):
    del t
    return jax.tree.map(lambda v: v + args["cubic"] * v**3, v)  # not physics: a drift that is not linear


TREE_TERMS = (diffrax.ODETerm(damped_drift), diffrax.ODETerm(kick))
PARAMETERS = {"k": jnp.array(1.3), "cubic": jnp.array(0.4)}


def tree_start(seed):
    like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
    return random_like((like, like), seed)


def tree_loss(inputs, solver, adjoint, num_steps=16):
    y, args = inputs
    saveat = diffrax.SaveAt(
        t0=True, steps=3, fn=lambda t, y, args: args["k"] * sum(map(jnp.sum, jax.tree.leaves(y))) ** 2
    )
    ys = diffrax.diffeqsolve(
        TREE_TERMS, solver, 0.0, num_steps / 16, 1 / 16, y, args, saveat=saveat, adjoint=adjoint, max_steps=num_steps
    ).ys
    return jnp.sum(jnp.where(jnp.isfinite(ys), ys, 0))


tree_gradient = eqx.filter_jit(jax.value_and_grad(tree_loss))


@given(seed=SEEDS)
@few
def test_gradients_of_trees_and_of_a_nonlinear_drift(seed):
    inputs = (tree_start(seed), PARAMETERS)
    got = tree_gradient(inputs, SOLVER, rv.ReversibleAdjoint())
    assert_trees_close(
        got, tree_gradient(inputs, SOLVER, diffrax.DirectAdjoint()), rtol=1e-12
    )  # rounding: the same numbers
    # the lattice rounds to 2⁻⁴⁹, in sixteen steps of an error growing by less than ten
    assert_trees_close(got, tree_gradient(inputs, rv.VelocityVerlet(), diffrax.DirectAdjoint()), rtol=1e-11)


def argon_loss(inputs, solver, adjoint):
    potential, state = inputs
    system = rv.System(argon_topology(), potential)
    trajectory = rv.nve(
        system, state, solver, dt=0.002, num_steps=60, save_every=20, record=rv.VACF().record, adjoint=adjoint
    )
    return jnp.sum(trajectory.records[1:] * jnp.array([1.0, -2.0, 3.0]))


@pytest.fixture(scope="module")
def argon_gradient():
    inputs = (SWITCHED, argon_state())
    return inputs, eqx.filter_grad(argon_loss)(inputs, SOLVER, rv.ReversibleAdjoint())


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(SOLVER, id="the same numbers"),
        pytest.param(rv.VelocityVerlet(), id="velocity Verlet", marks=pytest.mark.slow),
    ],
)
def test_gradients_of_argon(solver, argon_gradient):
    inputs, got = argon_gradient
    wanted = eqx.filter_grad(argon_loss)(inputs, solver, diffrax.DirectAdjoint())
    # DirectAdjoint's steps differ in length by rounding, and the lattice rounds to 2⁻⁴⁹ nm: both grow in 60 steps
    assert_trees_close(got, wanted, rtol=1e-9)


@given(seed=SEEDS)
@very_few
def test_gradients_of_argon_by_finite_differences(seed, argon_gradient):
    inputs, gradient = argon_gradient
    moving = lambda i: (i[0].sigma, i[0].epsilon, i[1].positions, i[1].velocities)
    direction = random_like(moving(inputs), seed)
    slope = sum(jnp.sum(g * d) for g, d in zip(moving(gradient), direction, strict=True))
    function = lambda m: argon_loss(eqx.tree_at(moving, inputs, m), SOLVER, rv.ReversibleAdjoint())
    # the lattice is a staircase of 4e-15, seen through a growth of about 100 over 2e-5: 2e-8; and a third derivative
    # times 1e-10
    np.testing.assert_allclose(central_difference(function, moving(inputs), direction, 1e-5), slope, rtol=1e-5)


@pytest.mark.slow
def test_gradient_in_single_precision():
    with jax.enable_x64(False):
        args, y = setting("switched", "orthorhombic", 0)
        inputs = (args[0].potential, rv.State(*y, args[1]))
        got = eqx.filter_grad(argon_loss)(inputs, SOLVER, rv.ReversibleAdjoint())
        wanted = eqx.filter_grad(argon_loss)(inputs, SOLVER, diffrax.DirectAdjoint())
    assert got[0].sigma.dtype == jnp.float32
    assert_trees_close(got, wanted, rtol=1e-4)  # seven digits, and sums of 60 steps that cancel


def test_forward_mode():
    inputs = (tree_start(0), PARAMETERS)
    direction = random_like(inputs, 1)
    got = jax.jvp(lambda i: tree_loss(i, SOLVER, diffrax.ForwardMode()), (inputs,), (direction,))[1]
    gradient = jax.grad(tree_loss)(inputs, SOLVER, rv.ReversibleAdjoint())
    wanted = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)  # rounding


# Arithmetic

WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)


def halves(n):
    return fixed.FixedPoint(jnp.asarray((n >> 32), jnp.int32), jnp.asarray(n % 2**32, jnp.uint32))


def whole(number):
    return int(number.high) * 2**32 + int(number.low)


@given(a=WHOLE, b=WHOLE)
@few
def test_arithmetic_is_that_of_integers(a, b):
    with jax.enable_x64(False):
        x, y = halves(a), halves(b)
        total, difference = fixed._add(x, y), fixed._subtract(x, y)
        fits = fixed._fits_sum(x, y, total)
        assert whole(fixed._negative(x)) == -a
    wrapped = lambda n: (n + 2**63) % 2**64 - 2**63
    assert whole(total) == wrapped(a + b)
    assert whole(difference) == wrapped(a - b)
    assert bool(fits) == (wrapped(a + b) == a + b)


@pytest.mark.parametrize("precision", X64)
@given(mantissa=st.integers(-(2**24) + 1, 2**24 - 1), exponent=st.integers(-26, 39))
@few
def test_floats_are_encoded_exactly_or_to_nearest(precision, mantissa, exponent):
    with jax.enable_x64(X64[precision]):
        value = float(mantissa) * 2.0**exponent
        number = fixed._from_float(jnp.asarray(value))
        if abs(value) >= 2.0**63:
            assert whole(number) == 0  # and `_fit` says so
        else:
            assert whole(number) == round(value)  # Python's too rounds halves to even
        assert whole(fixed._from_float(jnp.asarray(-value))) == -whole(number)
        assert float(fixed._to_float(halves(whole(number)), jnp.dtype(precision))) == (
            whole(number) if exponent >= 0 else pytest.approx(whole(number), rel=2.0**-23)
        )


@given(a=WHOLE)
@few
def test_decoding_is_symmetric_and_close(a):
    for precision in X64:
        with jax.enable_x64(X64[precision]):
            value = fixed._to_float(halves(a), jnp.dtype(precision))
            assert float(value) == pytest.approx(
                a, rel=1.2 * float(np.finfo(precision).eps)
            )  # two roundings of half of that
            assert float(fixed._to_float(halves(-a), jnp.dtype(precision))) == -float(value)


# What does not fit

FALL = diffrax.ODETerm(lambda t, x, args: args * jnp.ones_like(x))


def fall(acceleration, x=0.0, v=0.0, resolution=2.0**-60, num_steps=8, adjoint=None, throw=True):
    """Free fall on a lattice that holds numbers up to 8."""
    return diffrax.diffeqsolve(
        (diffrax.ODETerm(drift), FALL), rv.BitReversibleVerlet(resolution), 0.0, num_steps / 8, 0.125,
        (jnp.array([x, x]), jnp.array([v, v])), jnp.asarray(acceleration), throw=throw,
        adjoint=rv.ReversibleAdjoint() if adjoint is None else adjoint,
        saveat=diffrax.SaveAt(steps=1, solver_state=True), max_steps=num_steps,
    )  # fmt: skip


CASES = {
    "position at the start": ({"acceleration": 0.0, "x": 8.5}, "position"),
    "velocity at the start": ({"acceleration": 0.0, "v": -8.5}, "velocity"),
    "not a number at the start": ({"acceleration": 0.0, "x": jnp.nan}, "position"),
    "position": ({"acceleration": 0.0, "x": 7.0, "v": 1.5}, "position"),
    "position below zero": ({"acceleration": 0.0, "x": -7.0, "v": -1.5}, "position"),
    "velocity": ({"acceleration": 12.0}, "velocity"),
    "force": ({"acceleration": jnp.inf}, "force"),
    "force not a number": ({"acceleration": jnp.nan}, "force"),
    "kick": ({"acceleration": 2.0**8}, "force"),
}


@pytest.mark.parametrize(
    "adjoint",
    [
        pytest.param(rv.ReversibleAdjoint(), id="reversible"),
        pytest.param(diffrax.DirectAdjoint(), id="direct", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_an_error(name, adjoint):
    case, what = CASES[name]
    with pytest.raises(RuntimeError, match="Nonfinite"):
        fall(**case, adjoint=adjoint)
    solution = fall(**case, adjoint=adjoint, throw=False)
    assert what in fixed._describe_failure(int(solution.solver_state.failure), 2.0**-60)
    assert not np.any(np.isfinite(solution.ys[0][-1]))


def test_what_just_fits_is_right():
    solution = fall(0.0, x=-7.0, v=14.9 / 2)  # to 0.45, through zero
    np.testing.assert_allclose(solution.ys[0][:, 0], -7 + 7.45 * np.arange(1, 9) / 8, rtol=1e-14, atol=1e-14)
    assert int(solution.solver_state.failure) == 0
    solution = fall(-15.0, v=7.5)  # the velocity goes through both signs
    np.testing.assert_allclose(solution.ys[1][-1, 0], -7.5, rtol=1e-14)


def test_nothing_returns_from_what_did_not_fit():
    values = np.asarray(fall(0.0, x=7.0, v=1.5, throw=False).ys[0])
    bad = np.isnan(values).all(1)
    np.testing.assert_array_equal(bad, np.arange(1, 9) * 1.5 / 8 + 7 >= 8)
    # a number that wraps would be back within the range at once
    gradient = jax.grad(lambda v: jnp.nansum(fall(0.0, x=7.0, v=v, throw=False).ys[0][-1]))(1.5)
    assert np.isnan(gradient) or gradient == 0  # `nansum` drops it


def test_gradient_of_what_did_not_fit_is_not_a_number():
    gradient = jax.grad(lambda a: jnp.sum(fall(a, x=7.0, v=1.5, throw=False).ys[0][-1]))(0.0)
    assert np.isnan(gradient)


@pytest.mark.parametrize(
    ("resolution", "dt", "match"),
    [
        (2.0**-64, 0.002, r"By step 10 \(0.02 ps\), a position outgrew .* ±0.5 nm at a `resolution` of 2\*\*-64"),
        pytest.param(
            2.0**-48,
            20.0,
            r"By step 10 \(200 ps\), a (velocity outgrew|position outgrew|force is not finite)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_nve_says_what_does_not_fit(resolution, dt, match):
    system, state = rv.System(argon_topology(), SWITCHED), argon_state()
    run = lambda state, throw=True: rv.nve(
        system, state, rv.BitReversibleVerlet(resolution), dt=dt, num_steps=20, save_every=10, throw=throw
    )
    with pytest.raises(FloatingPointError, match=match):
        run(state)
    with pytest.raises(jax.errors.JaxRuntimeError, match=match):
        jax.block_until_ready(jax.jit(run)(state))
    assert np.all(np.isnan(run(state, throw=False).final.positions))


def test_nve_says_that_a_force_is_not_finite():
    state = argon_state()
    broken = rv.System(argon_topology(), eqx.tree_at(lambda p: p.sigma, SWITCHED, jnp.asarray(jnp.nan)))
    trajectory = lambda: rv.nve(broken, state, SOLVER, dt=0.002, num_steps=4)
    with pytest.raises(FloatingPointError):  # its energy is checked first
        trajectory()


@pytest.mark.parametrize("resolution", [0.0, -1.0, 1e-12, 2.0, float("nan"), float("inf")])
def test_bad_resolutions(resolution):
    with pytest.raises(ValueError, match="wanted a power of two"):
        rv.BitReversibleVerlet(resolution)
