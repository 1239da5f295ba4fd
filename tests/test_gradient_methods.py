"""The experiment `gradient_methods`: its sums are the observables, and its table says what numbers say."""

import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import _gradient_cases as cases, _gradient_table as tables
from experiments.__main__ import main

DIFFUSION, RDF = cases.CASES[:2]


def test_sums_over_frames_are_the_observables():
    times = 0.05 * np.arange(101)
    curves = np.random.default_rng(0).normal(size=(3, 101))
    got = DIFFUSION.at_horizons(times, curves)
    for k, t in enumerate(DIFFUSION.horizons):
        end = round(t / 0.05) + 1
        wanted = rv.SelfDiffusion().reduce(jnp.asarray(times[:end]), jnp.asarray(curves[:, :end]), jnp.full(3, 1 / 3))
        np.testing.assert_allclose(got[:, k].mean(), wanted, rtol=1e-12)
    np.testing.assert_array_equal(RDF.at_horizons(times, curves), curves[:, [10, 20, 40, 60]])


def test_table_of_known_numbers():
    """Of an estimator with the noise of a coin, and one that is off by one: bias, errors and what 3:1 takes."""
    coin = np.where(np.arange(100) % 2 == 0, 1.0, -1.0)[:, None] * np.ones(7)
    arrays = {
        "names": np.array(["forward mode", "damped, 2/ps"]),
        "exact": np.array([True, False]),
        "each": np.stack([2 + coin, 3 + 0 * coin]),
        "seconds": np.ones((2, 7)),
        "horizons": np.array(DIFFUSION.horizons),
        "reference": np.full(2, np.nan),
    }
    summary = tables.summarize(DIFFUSION, arrays)
    exact, off = summary["estimators"].values()
    error = 1 / np.sqrt(99)
    np.testing.assert_allclose([exact["error"][0], exact["trajectories_for_3"][0]], [error, 100 * 9 * error**2 / 4])
    np.testing.assert_allclose([off["bias"][0], off["bias_error"][0]], [1, error])
    assert summary["reference_by"] == ["forward mode"] * 7
    text = tables.table((DIFFUSION,), {"diffusion": summary})
    assert "| forward mode | 1 | 2.00 ± 0.10 | reference | 2.3 | 2.3 |" in text


def test_bad_flags(capsys):
    assert main(["gradient_methods", "--preset", "smoke", "--longest", "0.1"]) == 2
    assert "--longest is 0.1; wanted at least 0.5 ps" in capsys.readouterr().err
