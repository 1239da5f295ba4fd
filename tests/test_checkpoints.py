"""Checkpoints: what they hold, who may write them, and what a kill, a full disk or a wrong byte leaves."""

import dataclasses
import hashlib
import json
import random
import re
import resource
import shutil
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import reverlet as rv
from reverlet import _checkpoint as checkpoint
from reverlet._fingerprint import Fingerprint
from reverlet._fit import _load, _save

KEY = jax.random.key(0)


class Model(eqx.Module):
    a: jax.Array
    pairs: jax.Array
    cutoff: float = eqx.field(static=True, default=0.9)
    truncation: object = None


def model(a=2.0, **fields):
    return Model(**{"a": jnp.array(a), "pairs": jnp.arange(4), **fields})


def loss_fn(m, carry, key):
    return (m.a - 1 + 0.1 * jax.random.normal(key)) ** 2, (carry + 1, m.a)


def fit(num_steps, start=None, loss=loss_fn, optimizer=None, key=KEY, carry=0.0, **options):
    start, optimizer = model() if start is None else start, optax.adam(0.1) if optimizer is None else optimizer
    return rv.fit(loss, start, optimizer, num_steps=num_steps, key=key, carry=jnp.asarray(carry), **options)


# ---- what they hold

TREE = {
    "bfloat16": jnp.arange(3, dtype=jnp.bfloat16),
    "float8": jnp.ones((2, 1), jnp.float8_e4m3fn),
    "float64": jnp.array([1.0, -0.0, jnp.inf]),
    "complex": jnp.array(1 + 2j),
    "int": jnp.arange(2),
    "bool": jnp.array([True, False]),
    "empty": jnp.zeros((0, 3)),
    "key": jax.random.split(jax.random.key(1), 3),
    "key of another kind": jax.random.key(1, impl="rbg"),
    "old key": jax.random.PRNGKey(1),
    "numpy": np.arange(3.0, dtype=">f4"),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "numbers": (True, 3, 0.1, 1j),
    "text": "text",
    "nothing": None,
}


def test_leaves_of_all_kinds(tmp_path):
    checkpoint.save(tmp_path / "c", {"step": 1}, TREE)
    header, blocks = checkpoint.read(tmp_path / "c")
    back = checkpoint.tree_in(header, blocks, TREE)
    assert header["step"] == 1
    assert checkpoint.kinds_of(back) == checkpoint.kinds_of(TREE)
    raw = lambda x: jax.random.key_data(x) if checkpoint.kind_of(x)[0] == "key" else x
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(TREE), strict=True):
        np.testing.assert_array_equal(np.asarray(raw(a)), np.asarray(raw(b)))
    with pytest.raises(rv.CheckpointError, match=r"\['x'\]` is an array of objects"):
        checkpoint.save(tmp_path / "c", {}, {"x": np.array([{}])})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_fit_in_half_precision_goes_on(tmp_path, dtype):
    options = {
        "start": model(jnp.array(2.0, dtype)),
        "loss": lambda m, c, k: ((m.a - 1) ** 2, (c, jax.random.key_data(k))),
    }
    whole = fit(3, **options)
    fit(2, checkpoint=tmp_path / "c", **options)
    assert fit(3, resume=tmp_path / "c", **options).model.a == whole.model.a


# ---- what must be finite


def test_an_optimizer_that_stops_being_finite(tmp_path):
    """The square of 4e20 is no number in single precision: Adam would never move again."""
    steep = lambda m, c, k: (jnp.where(c == 1, 1e20, 1.0).astype(jnp.float32) * (m.a - 1) ** 2, (c + 1, m.a))
    start = model(jnp.array(3.0, jnp.float32))
    with pytest.raises(rv.SimulationError, match=r"Update 2: loss 3\.6.*`optimizer_state\[0\]\.nu\.a` is not finite"):
        fit(6, start, steep, checkpoint=tmp_path / "c")
    assert checkpoint.read(tmp_path / "c")[0]["step"] == 1


def test_infinity_may_stand_in_a_carry_but_not_come_there():
    best = lambda m, c, k: ((m.a - 1) ** 2, (jnp.minimum(c, (m.a - 1) ** 2), m.a))
    assert fit(2, loss=best, carry=jnp.inf).carry < 1
    with pytest.raises(rv.SimulationError, match=r"Update 2.*`carry` is not finite"):
        fit(2, loss=lambda m, c, k: ((m.a - 1) ** 2, (1 / (1 - c) - 1, m.a)), carry=0.5)


# ---- of which fit they are


def described(start=None, optimizer=None, positive=(), key=KEY):
    start = model() if start is None else start
    parameters = eqx.filter(start, eqx.is_inexact_array)
    return Fingerprint.of(start, parameters, list(positive), optax.adam(0.1) if optimizer is None else optimizer, key)


SCHEDULE = optax.piecewise_constant_schedule(0.1, {50: 0.5})
OTHERS = {
    "rate": ({"optimizer": optax.adam(0.2)}, r"moves `\.a` .* in update 1 by -0\.2, there -0\.1\)"),
    "sign": ({"optimizer": optax.adam(-0.1)}, r"moves `\.a` .* in update 1 by 0\.1, there -0\.1\)"),
    "momentum": ({"optimizer": optax.adam(0.1, b1=0.8)}, r"moves `\.a` .* in update 2 by"),
    "schedule": ({"optimizer": optax.adam(SCHEDULE)}, r"moves `\.a` .* in update 100 by -0\.04997, there -0\.09994"),
    "schedule elsewhere": (
        {"optimizer": optax.adam(optax.piecewise_constant_schedule(0.1, {20: 0.5, 30: 2.0}))},
        "the optimizer is another, though it moves alike in the few",
    ),
    "limit elsewhere": (
        {"optimizer": optax.chain(optax.clip(1e5), optax.adam(0.1))},
        "the optimizer is another, though it moves alike in the few",
    ),
    "limit": ({"optimizer": optax.chain(optax.clip(5.0), optax.adam(0.1))}, r"moves `\.a` .* gradient of 10000 by"),
    "static field": ({"start": model(cutoff=1.0)}, r"`model\.cutoff` is 1\.0, there 0\.9"),
    "integers": ({"start": model(pairs=jnp.arange(4)[::-1])}, r"`model\.pairs` is int64\[4\] \w+, there int64\[4\] "),
    "another part": ({"start": model(truncation=rv.PlainCutoff())}, r"`model\.truncation` is PlainCutoff, there"),
    "positive": ({"positive": [".a"]}, r"`positive` picks \['\.a'\], there \[\]"),
    "key": ({"key": jax.random.key(1)}, "`key` is another"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_fit_is_told_by_name(name):
    options, match = OTHERS[name]
    there = Fingerprint(**json.loads(json.dumps(described().__dict__)))
    assert described().differences(there) == []
    (difference,) = described(**options).differences(there)
    assert re.search(match, difference), difference


def test_changes_are_refused_or_recorded(tmp_path):
    """A fit that explodes goes on from the checkpoint before with a smaller rate."""
    path = tmp_path / "c"
    wall = lambda m, c, k: (jnp.where(m.a > 2.35, jnp.nan, 1) * -m.a, (c, m.a))
    with pytest.raises(rv.SimulationError, match="Update 5: loss nan"):
        fit(9, loss=wall, checkpoint=path)
    assert [checkpoint.read(p)[0]["step"] for p in (path, checkpoint.before(path))] == [4, 3]
    slower = {"loss": wall, "optimizer": optax.adam(1e-3), "resume": checkpoint.before(path), "checkpoint": path}
    with pytest.raises(rv.CheckpointError, match=r"moves `\.a` otherwise .* there -0\.1"):
        fit(5, **slower)
    state = fit(5, **slower, accept_changes=True)
    assert 2.3 < state.model.a < 2.31
    (change,) = state.changes
    assert change.startswith("after update 3: the optimizer moves `.a` otherwise")
    # the change is in the file: the new rate is now that of the fit
    again = fit(5, loss=wall, optimizer=optax.adam(1e-3), resume=path)
    assert again.changes == state.changes
    with pytest.raises(rv.CheckpointError, match=r"`positive` picks \['\.a'\]"):
        fit(5, resume=path, loss=wall, positive=lambda m: m.a, accept_changes=True)
    with pytest.raises(ValueError, match=r"`num_steps` is 4, but .* has 5 updates already"):
        fit(4, loss=wall, optimizer=optax.adam(1e-3), resume=path)


def test_learning_rates_in_the_state_of_the_optimizer(tmp_path):
    """What is accepted is what is done: plain descent by the new rate, though the file has the old one."""
    slope = lambda m, c, k: (m.a, (c, m.a))
    injected = lambda rate: optax.inject_hyperparams(optax.sgd)(rate)
    fit(1, loss=slope, optimizer=injected(0.5), checkpoint=tmp_path / "c")
    state = fit(2, loss=slope, optimizer=injected(0.25), resume=tmp_path / "c", accept_changes=True)
    assert state.model.a == 2.0 - 0.5 - 0.25


def test_another_version_may_write_the_same_optimizer_otherwise():
    here = described()
    jax_, optax_, text = here.program.split()
    assert here.differences(dataclasses.replace(here, program=f"{jax_}.1 {optax_} {text[::-1]}")) == []
    assert here.differences(dataclasses.replace(here, program="")) == []
    called = lambda count: jax.pure_callback(lambda c: 0.1 + 0.0 * c, jax.ShapeDtypeStruct((), float), count)
    assert described(optimizer=optax.adam(called)).program == ""


@pytest.mark.parametrize("resume", [None, "another file"])
def test_a_checkpoint_is_not_written_over(tmp_path, resume):
    """By a fit that does not go on from it: neither the file nor the one before it."""
    path, other = tmp_path / "c", tmp_path / "another file"
    for file in (path, other):
        fit(2, checkpoint=file)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for kept in (path, checkpoint.before(path)):
        with pytest.raises(rv.CheckpointError, match=r'There is a checkpoint .* already.*`resume="auto"`.*delete it'):
            fit(3, checkpoint=path, resume=resume and other)
        assert all(file.read_bytes() == before[file] for file in tmp_path.iterdir())
        kept.unlink()  # the one before is refused where it is alone, too


def test_auto(tmp_path):
    path = tmp_path / "c"
    with pytest.raises(ValueError, match="without a `checkpoint`"):
        fit(1, resume="auto")
    whole = fit(3)
    fit(2, checkpoint=path, resume="auto")  # there is none yet
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(rv.CheckpointError, match=r"damaged.*The one before it may be at c\.previous"):
        fit(3, resume=path)
    resumed = fit(3, checkpoint=path, resume="auto")  # from the one before
    assert resumed.model.a == whole.model.a
    assert (resumed.step, resumed.changes) == (3, ())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.damaged", "c.previous"]
    for p in (path, checkpoint.before(path)):
        p.write_bytes(b"")
    with pytest.raises(rv.CheckpointError, match="damaged"):
        fit(3, checkpoint=path, resume="auto")


# ---- who may write them


def test_two_writers(tmp_path):
    path, errors = tmp_path / "c", []

    def write(value):
        for _ in range(30):
            try:
                checkpoint.save(path, {"step": value}, {"x": np.full(1000, float(value))})
                header, blocks = checkpoint.read(path)
                checkpoint.tree_in(header, blocks, {"x": np.zeros(1000)})
            except Exception as error:
                errors.append(error)

    writers = [threading.Thread(target=write, args=(k,)) for k in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.previous"]


def test_a_lock(tmp_path):
    path = tmp_path / "c"
    (tmp_path / "c.123-abc.part").write_bytes(b"what a kill left")
    with checkpoint.locked(path):
        with pytest.raises(rv.CheckpointError, match=r"is being written by another fit \(process \d+ on"):
            fit(1, checkpoint=path)
    assert list(tmp_path.iterdir()) == []
    with checkpoint.locked(path):  # free again
        pass
    with pytest.raises(rv.CheckpointError, match=r"cannot be written.*wanted a folder that exists"):
        fit(1, checkpoint=tmp_path / "nowhere" / "c")


def test_a_full_disk(tmp_path):
    path, tree = tmp_path / "c", {"x": np.zeros(1000)}
    checkpoint.save(path, {"step": 1}, tree)
    good, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file may grow beyond
    try:
        with pytest.raises(rv.CheckpointError, match=r"cannot be written .*What was there before is still there"):
            checkpoint.save(path, {"step": 2}, tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


# ---- what a kill or a wrong byte leaves


def states_of_the_disk(tmp_path, monkeypatch, write):
    """Copies of the folder after every call that changes it: what a kill may leave."""
    states = []

    def watched(function):
        def call(*arguments, **options):
            out = function(*arguments, **options)
            states.append(tmp_path.parent / f"{tmp_path.name}-{len(states)}")
            shutil.copytree(tmp_path, states[-1])
            return out

        return call

    for name in ("open", "write", "fsync", "link", "replace", "unlink"):
        monkeypatch.setattr(checkpoint.os, name, watched(getattr(checkpoint.os, name)))
    monkeypatch.setattr(checkpoint, "open", watched(open), raising=False)
    try:
        write()
    finally:
        monkeypatch.undo()
    return states


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path, monkeypatch):
    """Between any two calls of the system while three updates are written; and killed again while going on."""
    path = tmp_path / "c"

    def write(first, last, folder=tmp_path):
        with checkpoint.locked(folder / "c"):
            for step in range(first, last):
                checkpoint.save(folder / "c", {"step": step}, {"x": np.full(3, float(step))})

    def newest(folder):
        if not (folder / "c").exists():
            return 0
        header, blocks = checkpoint.read(folder / "c")
        tree = checkpoint.tree_in(header, blocks, {"x": np.zeros(3)})
        np.testing.assert_array_equal(tree["x"], header["step"])
        return header["step"]

    states = states_of_the_disk(tmp_path, monkeypatch, lambda: write(1, 4))
    assert len(states) >= 15
    found = [newest(state) for state in states]
    assert found == sorted(found)
    assert set(found) == {0, 1, 2, 3}
    for state in states[::5]:
        for again in states_of_the_disk(state, monkeypatch, lambda s=state: write(newest(s) + 1, 5, s))[::4]:
            assert newest(again) >= newest(tmp_path) - 3
            write(newest(again) + 1, 5, again)
            assert newest(again) == 4
            assert sorted(p.name for p in again.iterdir()) == ["c", "c.previous"]
    assert newest(tmp_path) == 3
    assert checkpoint.read(checkpoint.before(path))[0]["step"] == 2


def test_a_fit_killed_at_any_moment_ends_in_the_same_bits(tmp_path, monkeypatch):
    """Between any two calls of the system, of which some are tried; for kills of processes see `test_kills.py`."""
    whole = fit(3)
    states = states_of_the_disk(tmp_path, monkeypatch, lambda: fit(2, checkpoint=tmp_path / "c"))
    for state in states[:: len(states) // 3]:
        assert eqx.tree_equal(fit(3, checkpoint=state / "c", resume="auto"), whole)
        assert sorted(p.name for p in state.iterdir()) == ["c", "c.previous"]


NONSENSE = (b"9", b"9" * 40, b"[", b"[" * 5000, b"-1", b"null", b"1e999", b"\n", b"\xff")


def mutated(good, rng):
    """A file with something wrong, half of the time with a checksum that fits."""
    first, _, body = good.partition(b"\n")
    data = bytearray(body if rng.random() < 0.5 else good)
    signed = len(data) == len(body)
    for _ in range(rng.choice([1, 1, 3])):
        at, length = rng.randrange(len(data)), rng.choice([1, 4, 40])
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = rng.randbytes(length)
            case 3:
                data[at : at + length] = rng.choice(NONSENSE)
            case 4:
                del data[at:]
            case _:
                other = rng.randrange(len(data))
                data[at : at + length] = data[other : other + length]
        data = data or bytearray(b"x")
    if not signed:
        return bytes(data)
    return json.dumps({**json.loads(first), "sha256": hashlib.sha256(data).hexdigest()}).encode() + b"\n" + bytes(data)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_right(tmp_path, count):
    """Each ends in a `CheckpointError`, or in the right data; those with a false checksum never in other data."""
    path, here = tmp_path / "c", described()
    parameters = eqx.filter(model(), eqx.is_inexact_array)
    like = rv.FitState(model(), parameters, optax.adam(0.1).init(parameters), {"key": KEY, "n": 3}, 0, None)
    report = {"loss": jax.ShapeDtypeStruct((), float), "a": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}
    history = jax.tree.map(lambda s: np.ones((2, *s.shape), s.dtype), report)
    _save(path, eqx.tree_at(lambda s: (s.step, s.history), like, (2, history), is_leaf=lambda x: x is None), here)
    good = path.read_bytes()
    wanted = _load(path, like, report, here, False)
    assert wanted.step == 2
    rng, ends, start = random.Random(0), {"refused": 0, "right": 0, "other": 0}, time.perf_counter()
    for _ in range(count):
        bad = mutated(good, rng)
        path.write_bytes(bad)
        try:
            state = _load(path, like, report, here, False)
        except rv.CheckpointError:
            ends["refused"] += 1
            continue
        ends["right" if eqx.tree_equal(state, wanted) else "other"] += 1
        same_body = bad.partition(b"\n")[2] == good.partition(b"\n")[2]
        resigned = hashlib.sha256(bad.partition(b"\n")[2]).hexdigest() in bad.partition(b"\n")[0].decode()
        assert same_body or resigned
    assert ends["refused"] > 0.7 * count
    assert time.perf_counter() - start < 0.05 * count
