"""The labels of water that come with the project, and the experiment that trains on them."""

import gc
import json

import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import pretrain_water
from experiments.__main__ import main
from experiments.reference import make_water_contacts, make_water_labels


def refused(capsys, *arguments):
    assert main(["pretrain_water", "--preset", "smoke", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_bad_input(capsys, tmp_path):
    out = tmp_path / "run"
    assert "There is no" in refused(capsys, "--data", tmp_path / "nothing", "--out", out)
    assert "--frames is 300, of 240" in refused(capsys, "--frames", 300, "--out", out)
    assert "The cutoff of the model is 0.6 nm and a box of `labels` is 0.986" in refused(
        capsys, "--cutoff", 0.6, "--out", out
    )
    labels = rv.io.read_labels(pretrain_water.LIQUID)[:8]
    order = np.argsort(-np.asarray(labels.topology.atomic_numbers), kind="stable")
    np.save(tmp_path / "coord_0.npy", 10 * labels.positions[:, order].reshape(8, -1))
    np.save(tmp_path / "box_0.npy", 10 * labels.vectors.reshape(8, -1))
    np.save(tmp_path / "energy_0.npy", labels.energies / rv.units.ELECTRONVOLT)
    wrong = refused(capsys, "--data", tmp_path, "--order", "molecules", "--out", out)
    assert "are not of water: oxygens have" in wrong
    assert not out.exists()
    config = pretrain_water.Config(data=tmp_path, held_out=0.25)
    assert pretrain_water.labels_of(config).topology.elements == ("O",) * 32 + ("H",) * 64
    parts = pretrain_water.divided(config, labels, 0)
    assert [len(p) for p in parts] == [4, 2, 2]
    everything = np.sort(np.concatenate([p.energies for p in parts]))
    np.testing.assert_array_equal(everything, np.sort(labels.energies))


def test_weights_that_are_written_are_those_read(tmp_path):
    """The constant of the labels among them."""
    labels = rv.io.read_labels(pretrain_water.LIQUID)[:1]
    model = pretrain_water.rv.EANN.fresh(
        labels.topology, cutoff=0.4, num_radial=3, hidden=(5, 4), key=pretrain_water._key(pretrain_water.Config(), 0)
    )
    np.savez(tmp_path / "eann.npz", **pretrain_water.weights_of(model, 100.0))
    read = rv.EANN.from_npz(tmp_path / "eann.npz", labels.topology, cutoff=0.4)
    x, box = jnp.asarray(labels.positions[0]), rv.OrthorhombicBox(jnp.diagonal(jnp.asarray(labels.vectors[0])))
    np.testing.assert_allclose(read.energy(x, box), model.energy(x, box) + 100.0, rtol=1e-12)


def test_trained_surfaces_that_come_with_the_project():
    """They say what the labels say, some of which they have seen; whatever the number of waters."""
    liquid, clusters = (rv.io.read_labels(p)[:2] for p in (pretrain_water.LIQUID, pretrain_water.CLUSTERS))
    potential = rv.EANN.from_npz(pretrain_water.EANN, liquid.topology, cutoff=0.4922812)
    close = rv.io.read_labels(pretrain_water.CONTACTS)[:4]
    found = rv.training.predict_labels(potential, rv.Labels.concatenate([liquid, close]))
    errors = rv.training.label_errors(found[:2], liquid)
    assert errors.forces < 120  # kJ/mol/nm
    assert errors.energies < 0.4  # kJ/mol/atom, of energies with their constant
    # where molecules are too near, a surface that saw none has energies of the liquid, 100 kJ/mol too low and more
    assert rv.training.label_errors(found[2:], close).energies < 0.6
    dipole = pretrain_water.load_dipole(clusters.topology, clusters.positions[0])
    errors = rv.training.label_errors(rv.training.predict_labels(dipole, clusters), clusters)
    assert errors.dipoles < 0.3 * rv.units.DEBYE
    molecule = rv.Topology.from_elements(["O", "H", "H"])
    x = jnp.asarray(clusters.positions[0, :3])
    alone = pretrain_water.load_dipole(molecule, x).moment(x, rv.OpenBox())
    assert 1.5 < jnp.linalg.norm(alone) / rv.units.DEBYE < 3


def test_labels_that_come_with_the_project():
    liquid, clusters = (rv.io.read_labels(p) for p in (pretrain_water.LIQUID, pretrain_water.CLUSTERS))
    assert (len(liquid), liquid.kinds) == (240, ("energies", "forces", "stresses"))
    assert (len(clusters), clusters.kinds) == (720, ("dipoles",))
    liquid.require_likely_units()
    files = [p for folder in (pretrain_water.LIQUID, pretrain_water.CLUSTERS) for p in folder.rglob("*")]
    assert sum(p.stat().st_size for p in files if p.is_file()) < 1_000_000
    np.testing.assert_allclose(np.sum(liquid.forces, axis=1), 0, atol=0.1)  # kJ/mol/nm: as converged, in float32


def test_labels_are_derivatives():
    """Of tblite's energies: forces and virial of two waters in a box, and labels of a file made anew."""
    pytest.importorskip("tblite")
    numbers = np.array([8, 1, 1] * 2)
    molecule = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    x, box = np.concatenate([molecule, molecule[:, [2, 0, 1]] + [0.3, 2.9, 0.2]]), np.diag([6.5, 6.0, 6.2])
    of = lambda x, box: make_water_labels.label("GFN1-xTB", numbers, x, box)
    found, h = of(x, box), 1e-2
    way = np.random.default_rng(0).normal(size=x.shape)
    slope = lambda e: (8 * (e(h) - e(-h)) - (e(2 * h) - e(-2 * h))) / (12 * h)  # of fourth order
    # in a box energies jump by 1e-6 eV, where images cross the cutoffs of sums: 1e-6 / h of a slope of 0.5 eV/Å
    displaced = lambda t: of(x + t * way, box).energy
    np.testing.assert_allclose(np.sum(way * found.forces), -slope(displaced), rtol=1e-3)
    alone = lambda t: of(x + t * way, None).energy
    np.testing.assert_allclose(np.sum(way * of(x, None).forces), -slope(alone), rtol=1e-4)
    strain = np.random.default_rng(1).normal(size=(3, 3))
    strain = strain + strain.T
    strained = lambda t: of(x @ (np.eye(3) + t * strain), box @ (np.eye(3) + t * strain)).energy
    np.testing.assert_allclose(np.sum(strain * found.virial), -slope(strained), rtol=1e-3)
    np.testing.assert_allclose(found.virial, found.virial.T, atol=1e-6)

    clusters = rv.io.read_labels(pretrain_water.CLUSTERS)
    again = make_water_labels.label(
        "GFN2-xTB", np.asarray(clusters.topology.atomic_numbers), 10 * clusters.positions[0], None
    )
    np.testing.assert_allclose(again.dipole * rv.units.ANGSTROM, clusters.dipoles[0], rtol=1e-4, atol=1e-5)


def test_molecules_too_near_one_another():
    """Whole, as near as the file says and no nearer; and more energy than the liquid has, but not too much."""
    liquid, close = (rv.io.read_labels(p) for p in (pretrain_water.LIQUID, pretrain_water.CONTACTS))
    assert close.kinds == liquid.kinds
    close.require_likely_units()
    x, edge = 10 * close.positions, 10 * float(close.vectors[0, 0, 0])
    arms = x.reshape(-1, 32, 3, 3)[:, :, 1:] - x.reshape(-1, 32, 3, 3)[:, :, :1]
    assert np.all(np.linalg.norm(arms - edge * np.round(arms / edge), axis=-1) < 1.2)
    found = [make_water_contacts.contacts(one, edge) for one in x]
    nearest = {kind: np.array([one[kind] for one in found]) for kind in ("OO", "OH", "HH")}
    assert all(np.all(nearest[kind] > least) for kind, least in make_water_contacts.LEAST.items())
    usual = [make_water_contacts.contacts(10 * one, edge)["OO"] for one in liquid.positions]
    assert np.mean(nearest["OO"] < np.min(usual)) > 0.4
    excess = close.energies - np.mean(liquid.energies)
    assert np.mean(excess) > 100  # kJ/mol
    assert np.max(excess) < make_water_contacts.MOST * rv.units.ELECTRONVOLT


def test_clusters_are_whole_and_near():
    labels = rv.io.read_labels(pretrain_water.LIQUID)
    x = make_water_labels.cluster(10 * labels.positions[0] + 3.0, 10 * labels.vectors[0, 0, 0], 5, 4).reshape(4, 3, 3)
    np.testing.assert_allclose(x[0, 0], 0, atol=1e-12)
    assert np.all(np.linalg.norm(x[:, 1:] - x[:, :1], axis=-1) < 1.2)
    assert np.all(np.diff(np.linalg.norm(x[:, 0], axis=-1)) > 0)


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path, capsys):
    """In this process, in double precision; what was stopped goes on to the same numbers."""
    out = tmp_path / "run"
    assert main(["pretrain_water", "--preset", "smoke", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(" ")[0] for line in printed][:5] == ["Trained", "Errors", "Of", "Dipoles", "How"]
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary)[-1] == "goals"
    assert all(goal["met"] is None and goal["value"] is not None for goal in summary["goals"])
    assert summary["frames"] == summary["contacts"]["frames"] == {"training": 16, "validation": 2, "test": 2}
    for name in ("", "-dipole"):
        lines = [json.loads(line) for line in (out / f"history{name}.jsonl").read_text().splitlines()]
        assert [line["update"] for line in lines] == [1, 2]
    for name in ("parity", "learning"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (out / "summary.json").unlink()
    gc.collect()  # lets go of the folder
    assert main(["pretrain_water", "--preset", "smoke", "--out", str(out), "--resume"]) == 0
    again = json.loads((out / "summary.json").read_text())
    timed = ("seconds", "goals")
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in summary.items() if k not in timed}
