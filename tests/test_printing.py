"""What `print` shows of potentials, systems, samples and estimates."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SWITCHED, argon_state, argon_topology

import reverlet as rv

SYSTEM = rv.System(argon_topology(), SWITCHED)
SAMPLES = rv.Samples.of(SYSTEM, rv.NVT(94.4), argon_state().repeat(4), jnp.array([0, 1, 0, 1]))


def estimate(value, error, unit=""):
    sizes = jnp.asarray(4), jnp.asarray(3.5), jnp.asarray(3.6)
    return rv.Estimate(value, error, *sizes, jnp.zeros(1), None, jnp.full(4, 0.25), unit)


@pytest.mark.parametrize(
    ("value", "error", "unit", "text"),
    [
        (94.437, 1.234, "K", "94.4 ± 1.2 K"),
        (2.4e-3, 5.1e-5, "nm²/ps", "0.002400 ± 0.000051 nm²/ps = 2.400 ± 0.051 1e-9 m²/s"),
        (600.0, 6.0, "u/nm³", "600.0 ± 6.0 u/nm³ = 0.9963 ± 0.0100 g/cm³"),
        (1.2345e-9, 3.2e-11, "", "(1.234 ± 0.032)e-09"),
        (12345.6, 320.0, "kJ/mol", "12346 ± 320 kJ/mol"),
        (1.5, np.nan, "", "1.5 ± nan"),
        (np.arange(3.0), np.full(3, 0.25), "nm", "[0.00 ± 0.25, 1.00 ± 0.25, 2.00 ± 0.25] nm"),
        (np.linspace(0, 3, 20), np.linspace(0.1, 0.2, 20), "", "20 numbers from 0 to 3, errors from 0.1 to 0.2"),
    ],
)
def test_estimates(value, error, unit, text):
    shown = estimate(jnp.asarray(value), jnp.asarray(error), unit)
    assert str(shown) == f"{text} (4 blocks, 3.5 of 4 samples effective)" == f"{shown}"


@pytest.mark.parametrize(("effective", "number", "far"), [(52.0, 1000, True), (52.0, 100, False), (110.0, 1000, False)])
def test_an_estimate_says_where_its_error_is_too_small(effective, number, far):
    """Of 1000 draws of a normal number, weighted to one that is 2 widths away, half the time fewer than 52 count; their
    mean is off by 0.29, and stated errors are 0.20 (20,000 repetitions)."""
    found = estimate(jnp.asarray(1.0), jnp.asarray(0.1))
    found = eqx.tree_at(lambda e: (e.effective_samples, e.weights), found, (jnp.asarray(effective), jnp.ones(number)))
    assert str(found).endswith(": the error is too small)") == far


def test_estimates_are_formatted():
    assert f"{estimate(jnp.asarray(1.23456), jnp.asarray(0.0123)):.3f}" == "1.235 ± 0.012"
    assert f"{estimate((jnp.asarray(1.0), jnp.ones(2)), (jnp.asarray(0.1), jnp.ones(2))):.1f}" == (
        "0: 1.0 ± 0.1; 1: [1.0 ± 1.0, 1.0 ± 1.0]"
    )


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (rv.LennardJones(0.338, 0.9, cutoff=1.0),
         "LennardJones(sigma=0.338 nm, epsilon=0.9 kJ/mol, cutoff=1 nm, truncation=PlainCutoff())"),
        (rv.NVT(300), "NVT(temperature=300 K)"),
        (rv.qspcfw(8, rv.OrthorhombicBox(jnp.full(3, 2.0))).topology,
         "Topology(24 atoms: H16 O8; 8 molecules, 16 bonds)"),
        (rv.State(jnp.zeros((5, 3)), None, rv.OrthorhombicBox(jnp.arange(1.0, 4.0))),
         "State(5 atoms, without velocities, OrthorhombicBox(lengths=[1, 2, 3] nm))"),
        (SAMPLES, "Samples(4 of 2 chains, 32 atoms, NVT(temperature=94.4 K))"),
        (rv.Trajectory(np.arange(3.0), jnp.ones((3, 2)), argon_state()),
         "Trajectory(3 frames, 0 to 2 ps, records: (3, 2))"),
        (rv.FitState(rv.NVT(300.0), None, None, None, 7, None), "FitState after 7 updates: NVT(temperature=300 K)"),
        (rv.minimize(SYSTEM, argon_state(), max_steps=1), " kJ/mol/nm, 1 steps, not converged)"),
    ],
)  # fmt: skip
def test_what_is_printed(shown, text):
    assert text in str(shown)


def test_systems_are_shown_whole_and_in_few_lines():
    lines = str(rv.qspcfw(32, rv.OrthorhombicBox(jnp.full(3, 2.0)))).splitlines()
    assert len(lines) < 50
    assert max(map(len, lines)) < 130
    for told in ("stiffness=443153 kJ/mol/nm²", "atoms=32 numbers from 0 to 93", "Topology(96 atoms"):
        assert any(told in line for line in lines)


def test_what_is_traced_or_has_no_numbers_is_printed_too():
    traced = []
    jax.make_jaxpr(lambda p, e: traced.append((f"{p}", f"{e}")) or 0)(SWITCHED, estimate(jnp.ones(()), jnp.ones(())))
    assert "sigma=float" in traced[0][0]
    assert "± " not in traced[0][1]
    assert str(eqx.filter(SWITCHED, lambda x: False)).startswith("LennardJones(")
