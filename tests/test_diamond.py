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
from experiments import diamond
from experiments.__main__ import main

CONFIG = diamond.PRESETS["smoke"]


def trained(scale):
    """A network whose last weights are not zero."""
    crystal = diamond.Diamond.of(CONFIG)
    network = crystal.network(CONFIG, jax.random.key(0))
    weights = scale * jax.random.normal(jax.random.key(1), network.last[0].shape)
    return crystal, eqx.tree_at(lambda n: n.last[0], network, weights)


def test_bad_input(capsys):
    for flags, match in ((("--cells", "1"), "--cells is 1"), (("--samples", "12"), "wanted a multiple of --chains, 8")):
        assert main(["diamond", "--preset", "smoke", *flags]) == 2
        assert match in capsys.readouterr().err


def test_lists_have_all_that_is_near():
    """Bonds for the network, and what may come within the cutoff of the prior: energies are those of all pairs."""
    crystal, network = trained(0.1)
    assert [crystal.bonds.of_atom.shape, crystal.near.of_atom.shape] == [(64, 4), (64, 28)]
    x, box = crystal.sites.positions, crystal.sites.box
    x = x + jax.random.uniform(jax.random.key(2), x.shape, x.dtype, -0.012, 0.012)  # within half the skin
    energy = eqx.filter_jit(lambda potential: potential.energy(x, box))
    prior, added = energy(diamond.PRIOR), 200 * energy(network)
    listed = eqx.filter_jit(lambda system: system.potential_energy(x, box))(crystal.system(network))
    np.testing.assert_allclose(listed, prior + added, rtol=1e-5)
    assert abs(added) > 1e-3 * abs(prior)  # the network does count


@pytest.mark.slow
def test_gradient_of_the_loss():
    """Through weights and strain derivatives, against central differences of the reweighted loss, in float64."""
    crystal, network = trained(1e-3)
    double = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, tree)
    crystal, network = double((crystal, network))
    x = crystal.sites.positions
    x = x + 0.004 * jax.random.normal(jax.random.key(3), (6, *x.shape), x.dtype)
    states = jax.vmap(lambda x: rv.State(x, jnp.zeros_like(x), crystal.sites.box))(x)
    samples = rv.Samples.of(crystal.system(network), rv.NVT(diamond.TEMPERATURE), states)
    loss = eqx.filter_jit(lambda network: diamond.loss_of(diamond.elasticity(crystal, network, samples)))
    gradient = eqx.filter_jit(eqx.filter_grad(loss))(network)
    way = jax.tree.map(lambda g: g / jnp.linalg.norm(gradient.last[0]), gradient)
    moved = lambda t: eqx.apply_updates(network, jax.tree.map(lambda w: t * w, way))
    h = 1e-6
    slope = sum(jnp.sum(g * w) for g, w in zip(*map(jax.tree.leaves, (gradient, way)), strict=True))
    np.testing.assert_allclose((loss(moved(h)) - loss(moved(-h))) / (2 * h), slope, rtol=1e-5)


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
