"""The experiment on water end to end: what it writes, that a kill costs nothing, and that bad input is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments.__main__ import main
from experiments._goals import TIME
from experiments._water import NAMES, by_name, with_values

ROOT = Path(__file__).parent.parent
SMOKE = ("water_ir", "--preset", "smoke")


def environment():
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    # compiled quickly rather than well: most of the time of so small a run is compiling
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def command(*arguments):
    return [sys.executable, "-m", "experiments", *map(str, arguments)]


def launch(*arguments):
    """Runs the command line in a process of its own: single precision, and no type checks at run time."""
    return subprocess.run(command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True)


def numbers(folder):
    """What two equal runs agree on, bit for bit."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    del summary["timing"]
    summary["goals"] = [goal for goal in summary["goals"] if goal["name"] != TIME]
    for line in lines:
        del line["wall_time"]
    return summary, lines


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path):
    folder = tmp_path / "run"
    done = launch(*SMOKE, "--out", folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Fitted", "From, to", "How well", "How long", "Figures"]
    summary, history = numbers(folder)
    assert [line["update"] for line in history] == [1, 2]
    assert history[0]["charge"] == pytest.approx(0.45)
    # Adam's first step is a learning rate long, whatever the gradient; rates are relative
    for name, rate in (("charge", 0.004), ("sigma", 0.003), ("bond", 0.004), ("angle", 0.004)):
        assert abs(np.log(history[1][name] / history[0][name])) == pytest.approx(rate, rel=1e-2)
    parts = {f"{name}{e}" for name in NAMES for e in ("", "_error")}
    assert all(set(line[part]) == parts for line in history for part in ("dynamical", "thermodynamic"))
    assert set(summary["fits"]["all"]["recovered"]) == set(NAMES)
    for name in ("parameters", "loss", "spectra", "gradients"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("after", ["start.npz", "checkpoint.eqx", "final.npz"])
def test_killed_run_resumes_to_the_same_numbers(tmp_path, after):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert launch(*SMOKE, "--out", whole).returncode == 0
    process = subprocess.Popen(command(*SMOKE, "--out", folder), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    while not (folder / after).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = launch(*SMOKE, "--out", folder, "--resume")
    assert done.returncode == 0, done.stderr
    assert numbers(folder) == numbers(whole)


@pytest.mark.slow
def test_both_fits_own_structure_and_trajectory(tmp_path):
    pytest.importorskip("ase")
    topology, state = molecules(8)
    rv.io.write(tmp_path / "water.extxyz", topology, state)
    flags = ("--structure", tmp_path / "water.extxyz", "--fits", "both", "--gradient", "total", "--check", "0.008")
    done = launch(*SMOKE, *flags, "--out", tmp_path / "run", "--trajectory", tmp_path / "nve.extxyz")
    assert done.returncode == 0, done.stderr
    summary, _ = numbers(tmp_path / "run")
    assert set(summary["fits"]["pair"]["recovered"]) == {"charge", "sigma"}
    assert summary["fits"]["pair"]["final"]["bond"] == pytest.approx(summary["target"]["bond"], rel=1e-6)  # float32
    # differences of a step of 1e-5 are right to about 1e-6, where the derivative is not near zero
    assert all(entry[name] < 1e-4 for entry in summary["gradient_check"] for name in NAMES)
    assert (tmp_path / "run" / "check.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "run" / "history-pair.jsonl").read_text().splitlines()) == 2
    _, trajectory = rv.io.read(tmp_path / "nve.extxyz")
    assert trajectory.records.positions.shape == (501, 24, 3)


def molecules(num):
    """Water on a cubic lattice of 0.31 nm, not relaxed."""
    cells = round(num ** (1 / 3))
    sites = 0.31 * np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    shape = np.array([[0, 0, 0], [0.083, 0.056, 0], [-0.083, 0.056, 0]])
    box = rv.OrthorhombicBox(jnp.full(3, 0.31 * cells))
    x = jnp.asarray((sites + shape).reshape(-1, 3), float)
    return rv.qspcfw(num, box).topology, rv.State(x, jnp.zeros_like(x), box)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--charge", "0"), ("--charge is 0.0", "above zero")),
        (("--sigma", "nan"), ("--sigma is nan", "above zero")),
        (("--correlation", "0.0081"), ("--correlation is 0.0081", "a multiple of 0.002 ps", "0.008")),
        (("--highest", "9000"), ("--highest is 9000", "frames 0.002 ps apart", "8339")),
        (("--check", "0.5"), ("--check is (0.5,)", "at most --validation", "0.016")),
        (("--trajectories", "1"), ("--trajectories is 1", "at least 2")),
        (("--nvt", "0.01"), ("--nvt is 0.01", "for every trajectory", "0.02")),
        (("--preset", "huge"), ("--preset is 'huge'", "quick, paper, smoke")),
        (("--resume",), ("--resume came without --out",)),
        (("--structure", "missing.pdb"), ("no file missing.pdb",)),
    ],
)
def test_bad_input(capsys, tmp_path, flags, words):
    out = () if "--resume" in flags else ("--out", str(tmp_path / "run"))
    assert main([*SMOKE, *flags, *out]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def test_structure_of_something_else(capsys, tmp_path):
    pytest.importorskip("ase")
    file = tmp_path / "argon.extxyz"
    file.write_text('2\nLattice="20 0 0 0 20 0 0 0 20" Properties=species:S:1:pos:R:3\nAr 0 0 0\nAr 4 0 0\n')
    assert main([*SMOKE, "--structure", str(file), "--out", str(tmp_path / "run")]) == 2
    assert "wanted molecules of water" in capsys.readouterr().err


def test_parameters_go_in_and_out():
    values = {"charge": 0.5, "sigma": 0.3, "bond": 4e5, "angle": 300.0}
    changed = with_values(rv.WaterModel.qspcfw(), values)
    assert by_name(changed) == values
    assert (changed.stiffness, changed.angle_stiffness) == (4e5, 300.0)
    assert changed.length == rv.WaterModel.qspcfw().length
