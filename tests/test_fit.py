import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_trees_close, well

import reverlet as rv

KEY = jax.random.key(0)


class Model(eqx.Module):
    a: jax.Array
    b: jax.Array
    name: str = eqx.field(static=True, default="model")


def model(a=0.5, b=0.3):
    return Model(jnp.array([a, 2 * a]), jnp.array(b))


def loss_fn(model, carry, key):
    """Least at a = (1, 2), b = 1.5, with a little noise that depends on the key, and a carry that counts."""
    noise = 1e-3 * jax.random.normal(key)
    loss = jnp.sum((model.a - jnp.array([1.0, 2.0])) ** 2) + (model.b - 1.5 + noise) ** 2
    return loss, (carry + 1, {"loss": loss, "a": model.a})


def fit(num_steps=6, start=None, loss=loss_fn, optimizer=None, **options):
    optimizer = optax.adam(0.05) if optimizer is None else optimizer
    start = model() if start is None else start
    return rv.fit(loss, start, optimizer, num_steps=num_steps, key=KEY, carry=jnp.array(0), **options)


def test_converges():
    seen = []
    state = fit(300, callback=lambda s: seen.append(s.step))
    np.testing.assert_allclose(state.model.a, [1, 2], atol=1e-2)  # Adam ends near the minimum, not at it
    np.testing.assert_allclose(state.model.b, 1.5, atol=1e-2)
    assert seen == list(range(1, 301))
    assert state.step == state.carry == 300
    assert state.history["loss"].shape == (300,)
    assert state.history["a"].shape == (300, 2)
    np.testing.assert_array_equal(state.history["a"][0], model().a)  # of before the first update
    assert state.history["loss"][-1] < 1e-3 * state.history["loss"][0]


def test_updates_are_compiled_once():
    """With chains that go on from update to update, and with numbers whose type is weak."""
    sampler = rv.LangevinBAOAB(300.0, 1.0, dt=0.001, num_steps=1)
    start, traced = rv.State(jnp.ones((1, 3)), jnp.ones((1, 3)), rv.OpenBox()).repeat(2), []

    def loss(potential, carry, key):
        traced.append(key)
        chains, number = carry
        _, chains = sampler.sample(rv.System(rv.Topology.from_elements(["Ar"]), potential), chains, 2, key=key)
        return (potential.k - 1) ** 2, ((chains, number + 1), {})

    carry = rv.Chains(start), jnp.asarray(0.0)
    state = rv.fit(loss, well(), optax.adam(0.05), num_steps=3, key=KEY, carry=carry)
    assert state.carry[0].rounds == state.carry[1] == 3
    assert len(traced) == 2  # once for the shapes of what it returns


def test_positive_parameters_move_as_logarithms():
    toward_negative = lambda m, carry, key: ((m.b + 1.0) ** 2 + jnp.sum(m.a**2), (carry, m.b))
    state = fit(100, loss=toward_negative, optimizer=optax.sgd(0.2), positive=lambda m: (m.a, m.b))
    assert np.all(np.asarray(state.model.a) > 0)
    assert 0 < state.model.b < 0.05
    assert fit(100, loss=toward_negative, optimizer=optax.sgd(0.2)).model.b < 0
    with pytest.raises(
        rv.SimulationError, match=r"(?s)Update 1: .*`model\.b` is not finite.* `positive` picks more than"
    ):
        fit(1, loss=toward_negative, optimizer=optax.sgd(1e4), positive=lambda m: m.b)  # which made zero
    # one step of plain descent: log b' = log b - rate * b * slope
    one = fit(1, loss=toward_negative, optimizer=optax.sgd(0.2), positive=lambda m: m.b)
    np.testing.assert_allclose(one.model.b, 0.3 * np.exp(-0.2 * 0.3 * 2 * 1.3), rtol=1e-12)
    np.testing.assert_allclose(one.model.a, np.array([0.5, 1.0]) * (1 - 0.4), rtol=1e-12)
    np.testing.assert_allclose(one.parameters.b, np.log(one.model.b), rtol=1e-12)


def test_complex_parameters_go_down():
    """Of |z|², whose way down leads to zero: z is shortened by twice the rate."""
    squared = lambda m, c, k: (jnp.abs(m) ** 2, (c, None))
    z = rv.fit(squared, jnp.array(1 + 1j), optax.sgd(0.1), num_steps=1, key=KEY).model
    np.testing.assert_allclose(z, 0.8 + 0.8j, rtol=1e-12)


def test_a_learning_rate_per_parameter():
    rates = eqx.tree_at(lambda m: (m.a, m.b), model(), (0.0, 0.1))
    start, state = model(), fit(1, optimizer=rv.per_parameter(optax.sgd, rates))
    np.testing.assert_array_equal(state.model.a, start.a)
    slope = jax.grad(lambda m: loss_fn(m, 0, jax.random.fold_in(KEY, 0))[0])(start)
    np.testing.assert_allclose(state.model.b, start.b - 0.1 * slope.b, rtol=1e-12)


def test_every_update_has_a_key_of_its_own():
    keyed = lambda m, carry, key: (jnp.sum(m.b**2), (carry, jax.random.uniform(key)))
    history = fit(20, loss=keyed).history
    assert len(np.unique(history)) == 20
    np.testing.assert_array_equal(fit(20, loss=keyed).history, history)


def test_resume_is_bit_identical(tmp_path):
    """After some updates, and after all. For kills see `test_kills.py`."""
    whole, path = fit(6, positive=lambda m: m.b), tmp_path / "checkpoint"
    fit(4, positive=lambda m: m.b, checkpoint=path)
    for _ in range(2):
        resumed = fit(6, positive=lambda m: m.b, checkpoint=path, resume=path)
        assert_trees_close(resumed, whole, rtol=0)
        assert resumed.step == 6


def test_missing_checkpoint(tmp_path):
    with pytest.raises(rv.CheckpointError, match=r"There is no checkpoint at .*nothing"):
        fit(resume=tmp_path / "nothing")
    for options in ({"resume": tmp_path}, {"checkpoint": tmp_path}):
        with pytest.raises(rv.CheckpointError, match=r"is .*, a folder; wanted a file, such as .*fit\.eqx"):
            fit(**options)


@pytest.mark.parametrize("kind", ["model", "optimizer", "carry", "report", "less"])
def test_checkpoint_of_another_fit(tmp_path, kind):
    path = tmp_path / "checkpoint"
    fit(2, checkpoint=path)
    before = path.read_bytes()
    options = {"num_steps": 4, "resume": path, "checkpoint": path}
    with pytest.raises(rv.CheckpointError, match="is of another fit"):  # noqa: PT012
        if kind == "model":
            fit(start=Model(jnp.zeros(3), jnp.array(1.0)), loss=lambda m, c, k: (jnp.sum(m.a**2), (c, m.b)), **options)
        elif kind == "optimizer":
            fit(optimizer=optax.sgd(0.1), **options)
        elif kind == "carry":
            rv.fit(
                lambda m, c, k: (m.b**2, (c, m.b)), model(), optax.adam(0.05), key=KEY, carry=jnp.zeros(4), **options
            )
        elif kind == "report":
            fit(loss=lambda m, c, k: (jnp.sum(m.a**2) + m.b**2, (c + 1, {"a": m.a, "loss": m.a})), **options)
        else:  # the last arrays of the file would be left over
            fit(loss=lambda m, c, k: (jnp.sum(m.a**2) + m.b**2, (c + 1, {"a": m.a})), **options)
    assert path.read_bytes() == before


def test_loss_that_is_not_finite(tmp_path):
    path = tmp_path / "checkpoint"

    def breaks(m, carry, key):
        loss, out = loss_fn(m, carry, key)
        return jnp.where(carry == 3, jnp.nan, 1.0) * loss, out

    with pytest.raises(FloatingPointError, match=r"Update 4: loss nan.* is not finite, at Model"):
        fit(6, loss=breaks, checkpoint=path)
    kept = fit(3, loss=breaks, resume=path)  # nothing to do: what the file has
    assert kept.step == 3
    assert_trees_close(kept.model, fit(3, loss=breaks).model, rtol=0)


def test_gradient_that_is_not_finite():
    root = lambda m, carry, key: (jnp.sqrt(jnp.abs(m.b - 0.3)), (carry, m.b))  # at its kink
    with pytest.raises(FloatingPointError, match=r"Update 1: loss 0.0.* is not finite"):
        fit(2, loss=root)


def test_an_explosion_names_the_update():
    from helpers import argon_state, argon_topology, lennard_jones

    state = argon_state()

    def simulate(potential, carry, key):
        hot = rv.State(state.positions, jnp.where(carry == 1, 1e160, 1.0) * state.velocities, state.box)
        trajectory = rv.nve(rv.System(argon_topology(), potential), hot, dt=0.001, num_steps=2)
        return 1e-9 * jnp.sum(trajectory.final.positions), (carry + 1, carry)

    # JAX reports what a program finds when it runs again by another type than at first
    with pytest.raises(rv.SimulationError, match=r"^Update 2: .*exploded by step \d+ .*kinetic energy"):
        fit(3, start=lennard_jones(), loss=simulate)


def test_a_step_that_leads_too_far_is_taken_back(tmp_path):
    """By half and half again: of a loss that is NaN there, and of atoms that overlap there."""
    topology = rv.Topology.from_elements(["Ar", "Ar"])

    def loss(x, carry, key):
        # steps of -1.9 x, as long as that is fine: 1, 1 - 1.9 / 2, ...
        apart = rv.State(
            jnp.array([[0.0, 0, 0], [0.5, 0, 0]]) * jnp.where(x < -0.3, 0, 1), jnp.zeros((2, 3)), rv.OpenBox()
        )
        end = rv.nve(rv.System(topology, rv.LennardJones(0.3, 1.0, cutoff=1.0)), apart, dt=0.001, num_steps=1).final
        value = jnp.where(x > 0.9, x**2, jnp.where(x > -0.9, 0.5 * x**2, jnp.nan))
        return value + 0 * jnp.sum(jax.lax.stop_gradient(end.positions)), (carry + 1, x)

    options = {"loss": loss, "start": jnp.array(1.0), "optimizer": optax.sgd(0.95), "retreats": 2}
    whole = fit(4, **options)
    np.testing.assert_array_equal(whole.retreats, [0, 1, 0, 0])
    np.testing.assert_allclose(whole.history[:3], [1, 0.05, 0.0025])
    assert whole.carry == 4
    path = tmp_path / "checkpoint"
    fit(1, checkpoint=path, **options)  # the next one needs what was before
    assert_trees_close(fit(4, checkpoint=path, resume=path, **options), whole, rtol=0)
    with pytest.raises(rv.CheckpointError, match="is of another fit"):
        fit(4, resume=path, **{**options, "retreats": 0})
    with pytest.raises(rv.SimulationError, match=r"Update 2: .*This was so after 1 `retreats` as well"):
        fit(4, **{**options, "optimizer": optax.sgd(4.0), "retreats": 1})
    with pytest.raises(rv.SimulationError, match=r"^Update 1: [^`]*overlap"):
        fit(4, **{**options, "start": jnp.array(-0.5)})


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda m, c, k: m.b**2, r"returns \(one leaf: float64\[\]\); wanted `loss, \(carry, report\)`"),
        (lambda m, c, k: (m.b**2, c), r"wanted `loss, \(carry, report\)`"),
        (lambda m, c, k: (m.a**2, (c, m.b)), r"a loss of \(one leaf: float64\[2\]\).*with a real scalar"),
        (lambda m, c, k: (m.b[None], (c, m.b)), r"float64\[1\]"),
        (lambda m, c, k: (c, (c, m.b)), r"int64\[\]"),
        (lambda m, c, k: (1j * m.b, (c, m.b)), r"complex128\[\]"),
        (lambda m, c, k: (m.b, (1.0 * c, m.b)), r"another kind of carry .*is float64 of shape \(\), there int64"),
        (lambda m, c, k: (m.b, ((c, c), m.b)), r"`\[0\]` is int64 of shape \(\), there missing"),
        (lambda m, c, k: (m.b, (c, {"k": k})), r"reports a random key, `\['k'\]`"),
        (lambda m, c, k: (m.b, (c, {"k": "text"})), r"reports `\['k'\]`, of type str; wanted arrays and numbers"),
    ],
)
def test_a_loss_function_that_returns_something_else(loss, match):
    with pytest.raises(ValueError, match=match):
        fit(2, loss=loss)


@pytest.mark.parametrize(
    ("positive", "start", "match"),
    [
        (lambda m: m.a, model(a=-0.5), r"picks `\.a`, which holds -0\.5; wanted finite values more than zero"),
        (lambda m: (m.b, m.a), model(a=0.0), r"picks `\.a`, which holds 0\.0"),
        (lambda m: m, model(b=np.nan), r"picks `\.b`, which holds nan"),
        (lambda m: m.b, model(b=1e-310), r"picks `\.b`, which holds 1e-310"),  # whose logarithm is that of zero
        (lambda m: m.name, model(), r"`positive` picks \['model'\]; wanted arrays of the model.* There are \.a, \.b"),
        (lambda m: m.a, Model(jnp.array([1, 2]), jnp.array(1.0)), r"picks `\.a`, which is .*array of floating-point"),
    ],
)
def test_positive_of_what_is_not(positive, start, match):
    with pytest.raises(ValueError, match=match):
        fit(2, start=start, positive=positive)


@pytest.mark.parametrize("start", [Model(jnp.array([1, 2]), jnp.array(True)), {"a": 3.0}, jnp.array(3), None])
def test_nothing_to_fit(start):
    with pytest.raises(ValueError, match="`model` has nothing to fit: of its leaves"):
        rv.fit(lambda m, c, k: (0.0, (c, None)), start, optax.sgd(0.1), num_steps=2, key=KEY)


@pytest.mark.parametrize("optimizer", [optax.lbfgs(), optax.contrib.reduce_on_plateau()])
def test_optimizers_that_need_the_loss(optimizer):
    with pytest.raises(TypeError, match=r"`optimizer` cannot make an update of gradients.*'value'.*optax\.adam"):
        fit(2, optimizer=optimizer)


def moved(rates):
    """How plain descent with these rates moves every parameter of a model, for a gradient of one."""
    parameters = eqx.filter(model(), eqx.is_inexact_array)
    optimizer = rv.per_parameter(optax.sgd, rates)
    return optimizer.update(jax.tree.map(jnp.ones_like, parameters), optimizer.init(parameters), parameters)[0]


def test_rates_by_name():
    """What is not named stays; a tree says the same."""
    for rates in ([(lambda m: m.a, 0.25)], Model(0.25, None), Model(np.float32(0.25), 0.0)):
        got = moved(rates)
        np.testing.assert_array_equal(got.a, [-0.25, -0.25])
        assert got.b == 0
    everything = moved([(lambda m: m, 0.25)])
    assert everything.b == -0.25


@pytest.mark.parametrize(
    ("rates", "match"),
    [
        (eqx.tree_at(lambda m: m.a, model(), 1e-4), r"has Array\(0\.3.* at `\.b`: a parameter without a learning rate"),
        (Model(np.array([0.1]), 0.1), r"`rates` has array\(\[0\.1\]\) at `\.a`"),
        (Model(jnp.array([1, 2]), 0.1), r"`rates` has Array\(\[1, 2\].* at `\.a`"),
        (Model(True, 0.1), r"`rates` has True at `\.a`"),
        ({"a": 0.1}, r"has 0\.1 at `\['a'\]`, where the model has no parameter; .* there are \.a, \.b"),
        ([(lambda m: m.a, -0.1)], "`rates` has -0.1; wanted finite numbers, zero or more"),
        ([(lambda m: m.a, np.nan)], "`rates` has nan"),
        ([(lambda m: m.a, jnp.array(0.1))], "`rates` has Array"),
        (Model(0.1, np.inf), "`rates` has inf"),
        ([(lambda m: m.name, 0.1)], r"Pair 0 of `rates` picks .* There are \.a, \.b"),
        ([(lambda m: m.a, 0.1), (lambda m: (m.b, m.a), 0.2)], r"Pairs 0 and 1 of `rates` both pick `\.a`"),
        ([], "`rates` has no learning rate"),
        (Model(None, None), "`rates` has no learning rate"),
    ],
)
def test_rates_that_are_none(rates, match):
    with pytest.raises(ValueError, match=match):
        moved(rates)
