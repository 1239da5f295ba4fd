"""The experiment `cg_water`: the target that comes with it, bad input, its run."""

import gc
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHARED, central_difference
from jax.flatten_util import ravel_pytree

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import cg_water
from experiments.__main__ import main


def test_target_that_comes_with_the_project():
    """Water as it is known: about four neighbors, angles near those of a tetrahedron, and near to what is measured."""
    water = cg_water.Water.of(cg_water.Config(beads=125))
    g, error = water.radial
    r = np.asarray(water.rdf.centers)
    assert np.sqrt(np.mean(error**2)) < 0.02
    assert abs(np.mean(g[r > 0.5]) - 1) < 0.02  # about a wave
    density = 125 / float(water.state.box.volume)
    assert 33.2 < density < 33.4  # 0.997 g/cm³
    near = float(water.rdf.running_coordination(jnp.asarray(g), density)[np.searchsorted(r, 0.335)])
    assert 4 < near < 5.2
    angles, found = np.asarray(water.adf.centers), water.angular[0]
    assert np.isclose(np.sum(found) * np.pi / len(found), 1, atol=1e-4)
    assert 95 < np.degrees(angles[np.argmax(found)]) < 110
    if not (measured := SHARED / "data/difftre").exists():
        pytest.skip("Structures of DiffTRe are not there.")
    known = np.loadtxt(measured / "O_O_RDF.csv")
    assert np.sqrt(np.mean((g - np.asarray(water.rdf.smeared(*known.T))) ** 2)) < 0.2
    known = np.loadtxt(measured / "O_O_O_ADF.csv")
    assert np.sqrt(np.mean((found - np.interp(angles, *known.T)) ** 2)) < 0.1


def test_derivatives_of_reweighted_averages():
    """Against central differences of them; the step is within its reach."""
    water = cg_water.Water.of(cg_water.PRESETS["smoke"])
    step, rng = water.step(), np.random.default_rng(0)
    beads = eqx.tree_at(lambda b: b.triples, jax.tree.map(jnp.float64, water.prior()), jnp.array([-1.0, 0.5]))
    way = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), beads)
    crystal = jax.tree.map(jnp.float64, water.state)
    x = crystal.positions + 0.02 * rng.normal(size=(3, 32, 3))
    states = jax.vmap(lambda x: eqx.tree_at(lambda s: s.positions, crystal, x))(x)
    energies = jax.vmap(lambda s: rv.NVT(300.0).reduced_energy(water.system(beads.potential), s))(states)
    samples = rv.Samples(states, -energies, jnp.arange(3), rv.NVT(300.0))
    moved = lambda t: jax.tree.map(lambda x, d: x + t * d, beads, way)
    linear = jax.jit(lambda t: step.linearized(moved(t), samples)[1:])
    distances, jacobian, metric = linear(0.0)
    slope = central_difference(lambda t: linear(t)[0], 0.0, 1.0, 1e-5)
    along = ravel_pytree(way)[0]
    np.testing.assert_allclose(jacobian @ along, slope, atol=1e-6 * np.max(np.abs(slope)))
    change = step._step(ravel_pytree(beads)[0], distances, jacobian, metric)
    assert 0 < change @ metric @ change <= step.reach


def test_bad_input(capsys, tmp_path):
    def refused(*flags):
        assert main(["cg_water", "--preset", "smoke", "--out", str(tmp_path / "run"), *map(str, flags)]) == 2
        return capsys.readouterr().err

    assert "is no structure of water" in refused("--data", tmp_path / "nothing")
    (tmp_path / "other.json").write_text("{}")
    assert "make_water_structure" in refused("--data", tmp_path / "other.json")
    assert "--samples is 50; wanted a multiple of --chains, 4" in refused("--samples", 50)
    assert "half the box of 32 beads" in refused("--cutoff", 0.6)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path, capsys):
    """In this process; what was stopped goes on to the same numbers."""
    out = tmp_path / "run"
    assert main(["cg_water", "--preset", "smoke", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in printed[:4]] == ["Water", "Prior,", "Boltzmann", "Fitted:"]
    summary = json.loads((out / "summary.json").read_text())
    assert all(goal["met"] is None and goal["value"] is not None for goal in summary["goals"])
    for name in ("history", "history-inversion"):
        lines = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        assert [line["update"] for line in lines] == [1, 2, 3]
    sums = json.loads((out / "checksums.json").read_text())
    del sums["structure.npz"]
    (out / "checksums.json").write_text(json.dumps(sums))
    for name in ("summary.json", "structure.npz"):
        (out / name).unlink()
    gc.collect()  # lets go of the folder
    assert main(["cg_water", "--preset", "smoke", "--out", str(out), "--resume"]) == 0
    again = json.loads((out / "summary.json").read_text())
    timed = ("timing", "goals")
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in summary.items() if k not in timed}
