"""The experiment that fits water along an isobar, and the targets that come with it."""

import gc
import json

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
pytest.importorskip("openmm")
import reverlet as rv
from experiments import water_density
from experiments.__main__ import main
from reverlet import targets

TARGETS = targets.read(water_density.TARGETS)
ROOM = targets.TargetFile(tuple(r for r in TARGETS.targets if r.conditions == "liquid 298.15 K 1 bar"))


def refused(capsys, *arguments):
    assert main(["water_density", "--preset", "smoke", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_bad_input(capsys, tmp_path):
    out, file = tmp_path / "run", tmp_path / "targets.toml"
    assert "There is no file" in refused(capsys, "--targets", tmp_path / "nothing", "--out", out)
    assert "--samples is 50; wanted a multiple of --chains, 12" in refused(capsys, "--samples", 50, "--out", out)
    assert "--cutoff is 0.4; wanted at most 0.45 of the box" in refused(capsys, "--cutoff", 0.4, "--out", out)
    targets.write(file, targets.TargetFile(ROOM.targets[1:]))
    assert "no density of liquid 298.15 K 1 bar" in refused(capsys, "--targets", file, "--out", out)
    file.write_text(water_density.TARGETS.read_text().replace('"density"', '"enthalpy"').replace("g/cm^3", "kJ/mol"))
    assert "a target of enthalpy of liquid 277.15 K 1 bar" in refused(capsys, "--targets", file, "--out", out)
    assert not out.exists()


def test_targets_that_come_with_the_project():
    """Against the equations that they are cited from."""
    for record in TARGETS.targets:
        t, found = float(record.temperature.value) - 273.15, np.asarray(record.value.number)
        if record.kind == "density":  # Kell 1975, kg/m³
            a = (999.83952, 16.945176, -7.9870401e-3, -46.170461e-6, 105.56302e-9, -280.54253e-12)
            wanted = np.polyval(a[::-1], t) / (1 + 16.879850e-3 * t) / 1000
            assert found == pytest.approx(wanted, abs=6e-6)
        elif record.kind == "dielectric_constant":  # Malmberg and Maryott 1956
            assert found == pytest.approx(np.polyval((-1.410e-6, 9.398e-4, -0.40008, 87.740), t), abs=6e-3)
        else:  # enthalpies of formation of gas and liquid, CODATA
            assert found == pytest.approx(285.830 - 241.826, abs=6e-3)
    isobar = water_density.Isobar.of(water_density.PRESETS["smoke"])
    assert [point.name for point in isobar.points[-2:]] == ["liquid 358.15 K 1 bar", "gas 298.15 K"]
    liquid, gas = (isobar.points[k].system(rv.WaterModel.qspcfw()) for k in (0, -1))
    assert liquid.topology.num_atoms == gas.topology.num_atoms == 24
    steps = [s.num_steps for s in isobar.samplers if isinstance(s, rv.openmm.OpenMMSampler)]
    assert steps[0] > steps[1] == steps[2]


def test_mirrored_dielectric_constant():
    """Of many samples it is the other; of few the other is too small by what the mean of M happens to be."""
    moments = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 1, 3)))
    few, many = (
        [o.reduce(jnp.zeros(1), x, jnp.full(len(x), 1 / len(x)), rv.NVT(300.0))
         for o in (water_density.MirroredDielectricConstant(), rv.DielectricConstant())]
        for x in (moments[:10], moments)
    )  # fmt: skip
    assert float(many[0]) == pytest.approx(float(many[1]), rel=2e-3)
    wanted = 4 * np.pi * rv.units.COULOMB * np.mean(np.square(moments[:10]).sum(-1)) / (3 * rv.units.BOLTZMANN * 300)
    assert float(few[0]) == pytest.approx(1 + wanted, rel=1e-5)
    assert few[1] < few[0]


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path, capsys):
    """At one temperature; the fit is not begun anew where it has ended."""
    out, file = tmp_path / "run", tmp_path / "targets.toml"
    targets.write(file, ROOM)
    command = ["water_density", "--preset", "smoke", "--targets", str(file), "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "dielectric constant at 298.15 K: " in printed
    assert "has no physics" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert all(goal["met"] is None and goal["value"] is not None for goal in summary["goals"])
    kinds = [row["kind"] for row in summary["targets"]]
    assert kinds == ["density", "heat_of_vaporization", "dielectric_constant"]
    # the fit, which has samples of its own, and the run after it measure the same water
    for row in summary["targets"]:
        error = np.hypot(row["error"], row["after_error"])
        assert abs(row["value"] - row["after"]) < 6 * error + 0.05 * abs(row["value"])
    assert summary["energies_apart"] < 0.5
    for name in ("isobar", "updates"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (out / "summary.json").unlink()
    gc.collect()  # lets go of the folder
    assert main([*command, "--resume"]) == 0
    again = json.loads((out / "summary.json").read_text())
    for name in ("targets", "parameters", "energies_apart"):
        assert again[name] == summary[name]
