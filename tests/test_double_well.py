"""The experiment `double_well`: its gradients against finite differences, its run."""

import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import double_well
from experiments.__main__ import main


def test_gradient_through_the_simulation():
    config = double_well.PRESETS["smoke"]
    spline = rv.splines.CubicSpline(np.linspace(-0.9, 1, 8) ** 2, first=0.0, last=1.0)
    state = jax.tree.map(lambda x: x[0], double_well.start(4, 1, jax.random.key(0), jnp.float64))
    target = jnp.asarray(double_well.exact_profile(double_well.truth(double_well._GRID)))
    arguments = state, target, 2, 50, double_well._sampler(config), jax.random.key(1)
    way = jnp.asarray(np.random.default_rng(0).normal(size=8))
    moved = lambda t: rv.splines.CubicSpline(spline.values + t * way, first=0.0, last=1.0)
    slope = jnp.sum(way * double_well._through(spline, *arguments).values)
    loss = jax.jit(lambda t: double_well._loss_through(moved(t), *arguments))
    np.testing.assert_allclose(slope, central_difference(loss, 0.0, 1.0, 1e-5), rtol=1e-6)


def test_bad_input(capsys):
    for flags, match in ((("--least", "2"), "--least is 2.0"), (("--lengths", "2", "1"), "wanted increasing times")):
        assert main(["double_well", "--preset", "smoke", *flags]) == 2
        assert match in capsys.readouterr().err


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path, capsys):
    """In this process; what was stopped goes on to the same numbers."""
    out = tmp_path / "run"
    assert main(["double_well", "--preset", "smoke", "--out", str(out)]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()][::5] == ["Fitted", "Figures"]
    summary = json.loads((out / "summary.json").read_text())
    assert all(goal["met"] is None for goal in summary["goals"])
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [1, 2, 3]
    (out / "gradients.npz").unlink()
    (out / "summary.json").unlink()
    gc.collect()  # lets go of the folder
    assert main(["double_well", "--preset", "smoke", "--out", str(out), "--resume"]) == 0
    again = json.loads((out / "summary.json").read_text())
    timed = ("timing", "goals")
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in summary.items() if k not in timed}
