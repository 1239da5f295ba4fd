"""Bars, on what says it is a terminal; the numbers are those without one."""

import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import SWITCHED, argon_state, argon_topology

import reverlet as rv

SYSTEM = rv.System(argon_topology(), SWITCHED)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(run, monkeypatch, **options):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    found = run(**options)
    monkeypatch.undo()
    return found, screen.getvalue()


def sample(**options):
    sampler = rv.LangevinBAOAB(94.4, 1.0, dt=0.002, num_steps=2)
    return sampler.sample(SYSTEM, argon_state().repeat(2), 6, key=jax.random.key(0), **options)


def fit(**options):
    loss = lambda model, carry, key: (model**2, (carry, model))
    return rv.fit(loss, jnp.asarray(1.0), optax.sgd(0.1), num_steps=3, key=jax.random.key(0), **options)


def minimize(**options):
    return rv.minimize(SYSTEM, argon_state(), max_steps=7, tolerance=1e-3, **options)


@pytest.mark.parametrize(("run", "told"), [(sample, "sample"), (fit, "fit"), (minimize, "minimize")])
def test_bars_change_no_number(run, told, monkeypatch):
    (with_bar, screen), (without, nothing) = shown(run, monkeypatch), shown(run, monkeypatch, progress=False)
    assert screen.startswith(f"\r{told} ·")
    assert " 0:0" in screen
    assert " left" in screen
    assert nothing == ""
    for a, b in zip(jax.tree.leaves(with_bar), jax.tree.leaves(without), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_nothing_is_shown_elsewhere(capsys):
    fit()
    assert capsys.readouterr().err == ""
