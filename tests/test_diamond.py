"""The experiment `diamond`: its crystal against what is known of it, its gradient against differences, its run."""

import gc
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import _diamond as crystals, diamond
from experiments.__main__ import main


def crystal():
    return crystals.Diamond.of(2, rv.LangevinBAOAB(crystals.TEMPERATURE, 100.0, dt=1e-3, num_steps=2), 8)


def trained(scale):
    """A network whose last weights are not zero."""
    network = crystals.fresh(4, jax.random.key(0))
    last = lambda n: n.network.layers[-1].weight
    return eqx.tree_at(last, network, scale * jax.random.normal(jax.random.key(1), last(network).shape))


def test_bad_input(capsys):
    for flags, match in ((("--cells", "1"), "--cells is 1"), (("--samples", "12"), "wanted a multiple of --chains, 8")):
        assert main(["diamond", "--preset", "smoke", *flags]) == 2
        assert match in capsys.readouterr().err


def test_lists_have_all_that_is_near():
    """Bonds for the network, and what may come within the cutoff of the prior: energies are those of all pairs."""
    diamond, network = crystal(), trained(0.1)
    assert [diamond.bonds.of_atom.shape, diamond.near.of_atom.shape] == [(64, 4), (64, 28)]
    x, box = diamond.sites.positions, diamond.sites.box
    x = x + jax.random.uniform(jax.random.key(2), x.shape, x.dtype, -0.012, 0.012)  # within half the skin
    energy = eqx.filter_jit(lambda potential: potential.energy(x, box))
    prior, added = energy(crystals.PRIOR), energy(network)
    listed = eqx.filter_jit(lambda system: system.potential_energy(x, box))(diamond.system(network))
    np.testing.assert_allclose(listed, prior + added, rtol=1e-5)
    assert abs(added) > 1e-3 * abs(prior)  # the network does count


@pytest.mark.slow
def test_gradient_of_the_loss():
    """Through weights and second derivatives in strain, against central differences of the reweighted loss."""
    double = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, tree)
    at, network = double((crystal(), trained(0.05)))
    x = at.sites.positions
    x = x + 0.004 * jax.random.normal(jax.random.key(3), (4, *x.shape), x.dtype)
    states = jax.vmap(lambda x: rv.State(x, jnp.zeros_like(x), at.sites.box))(x)
    samples = rv.Samples.of(at.system(network), rv.NVT(crystals.TEMPERATURE), states)
    value = eqx.filter_jit(lambda network: diamond.loss_of(crystals.elasticity(at, network, samples)))
    gradient = eqx.filter_jit(eqx.filter_grad(value))(network)
    leaves = [g for g in jax.tree.leaves(gradient) if g is not None]
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in leaves))
    moved = lambda t: eqx.apply_updates(network, jax.tree.map(lambda g: t * g / norm, gradient))
    # this far apart, rounding and curvature are both of a part in a million
    np.testing.assert_allclose((value(moved(1e-6)) - value(moved(-1e-6))) / 2e-6, norm, rtol=1e-5)


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path, capsys):
    """In this process; what was stopped goes on to the same numbers."""
    out = tmp_path / "run"
    assert main(["diamond", "--preset", "smoke", "--out", str(out)]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()][::4] == ["Prior", "Figures"]
    summary = json.loads((out / "summary.json").read_text())
    assert all(goal["met"] is None for goal in summary["goals"])
    # what the original has of its prior; of c44, so few samples know little
    np.testing.assert_allclose(summary["before"]["constants"][:2], [541, 290], rtol=0.05)
    assert [json.loads(line)["update"] for line in (out / "history.jsonl").read_text().splitlines()] == [1, 2]
    (out / "after.npz").unlink()
    (out / "summary.json").unlink()
    gc.collect()  # lets go of the folder
    assert main(["diamond", "--preset", "smoke", "--out", str(out), "--resume"]) == 0
    again = json.loads((out / "summary.json").read_text())
    timed = ("timing", "goals")
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in summary.items() if k not in timed}
