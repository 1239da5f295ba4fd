import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_trees_close

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


def test_positive_parameters_move_as_logarithms():
    toward_negative = lambda m, carry, key: ((m.b + 1.0) ** 2 + jnp.sum(m.a**2), (carry, m.b))
    state = fit(100, loss=toward_negative, optimizer=optax.sgd(0.2), positive=lambda m: (m.a, m.b))
    assert np.all(np.asarray(state.model.a) > 0)
    assert 0 < state.model.b < 0.05
    assert fit(100, loss=toward_negative, optimizer=optax.sgd(0.2)).model.b < 0
    # one step of plain descent: log b' = log b - rate * b * slope
    one = fit(1, loss=toward_negative, optimizer=optax.sgd(0.2), positive=lambda m: m.b)
    np.testing.assert_allclose(one.model.b, 0.3 * np.exp(-0.2 * 0.3 * 2 * 1.3), rtol=1e-12)
    np.testing.assert_allclose(one.model.a, np.array([0.5, 1.0]) * (1 - 0.4), rtol=1e-12)
    np.testing.assert_allclose(one.parameters.b, np.log(one.model.b), rtol=1e-12)


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


@pytest.mark.parametrize("positive", [None, lambda m: m.b])
def test_resume_is_bit_identical(tmp_path, positive):
    whole = fit(6, positive=positive)
    for stop in (1, 4, 6):
        path = tmp_path / f"checkpoint-{stop}"
        fit(stop, positive=positive, checkpoint=path)
        resumed = fit(6, positive=positive, checkpoint=path, resume=path)
        assert_trees_close(resumed, whole, rtol=0)
        assert resumed.step == 6
        assert not list(tmp_path.glob("*.part"))


def test_interrupted_between_updates(tmp_path):
    path, other = tmp_path / "checkpoint", tmp_path / "other"

    def stop(state):
        if state.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(6, checkpoint=path, callback=stop)
    other.with_name("checkpoint.part").write_bytes(b"half a file that a kill left")
    assert_trees_close(fit(6, resume=path, checkpoint=path), fit(6), rtol=0)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(rv.CheckpointError, match=r"There is no checkpoint at .*nothing"):
        fit(resume=tmp_path / "nothing")
    with pytest.raises(rv.CheckpointError, match="There is no checkpoint"):
        fit(resume=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "tail"])
def test_corrupt_checkpoint(tmp_path, damage):
    path = tmp_path / "checkpoint"
    fit(2, checkpoint=path)
    good = path.read_bytes()
    middle = len(good) // 2
    bad = {
        "cut": good[:-7],
        "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "empty": b"",
        "text": b"[1, 2]\n" + good,
        "tail": good + b"x",
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(rv.CheckpointError, match="damaged or not one of reverlet's"):
        fit(3, resume=path)
    assert path.read_bytes() == bad


class Other(eqx.Module):
    a: jax.Array


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
        hot = rv.State(state.positions, 1e160 * state.velocities, state.box)
        trajectory = rv.nve(rv.System(argon_topology(), potential), hot, dt=0.001, num_steps=2)
        return jnp.sum(trajectory.final.positions), (carry, carry)

    with pytest.raises(FloatingPointError, match=r"Update 1: .*exploded by step \d+ .*kinetic energy"):
        fit(2, start=lennard_jones(), loss=simulate)
