"""The experiment that fits argon along an isobar, and the data that come with it."""

import gc
import json
import re

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import argon_isobar
from experiments.__main__ import main


def refused(capsys, *arguments):
    assert main(["argon_isobar", "--preset", "smoke", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_bad_input(capsys, tmp_path):
    out = tmp_path / "run"
    assert "There is no file" in refused(capsys, "--data", tmp_path / "nothing", "--out", out)
    assert "--samples is 50; wanted a multiple of --chains, 24" in refused(capsys, "--samples", 50, "--out", out)
    assert "--interval is 30; wanted a multiple of 20" in refused(capsys, "--interval", 30, "--out", out)
    (tmp_path / "data.csv").write_text("Global,rho_denom,1\nT,P,Rho\n90,20 bar,1384\n")
    assert "has targets of density; wanted Rho and Hvap" in refused(
        capsys, "--data", tmp_path / "data.csv", "--out", out
    )
    (tmp_path / "data.csv").write_text("T,P,Roh\n90,20 bar,1384\n")
    assert "the column 'Roh': did you mean 'Rho'" in refused(capsys, "--data", tmp_path / "data.csv", "--out", out)
    assert not out.exists()


def test_data_that_come_with_the_project():
    isobar = argon_isobar.Isobar.of(argon_isobar.PRESETS["smoke"])
    known = isobar.described()
    assert known["temperature"] == [90.0, 100.0, 110.0, 120.0]
    # between those of the saturated liquid at 90 K (1.378) and at 120 K (1.163)
    assert 1.163 < known["density"][3] < known["density"][0] < 1.39
    slopes = np.diff(known["density"]) / np.diff(known["temperature"])
    assert np.all(np.diff(slopes) < 0)  # it expands faster and faster
    assert [point.name for point in isobar.points[-4:]] == [f"gas {t} K" for t in (90, 100, 110, 120)]


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path, capsys):
    """In this process, in double precision; what was stopped goes on to the same numbers."""
    out = tmp_path / "run"
    assert main(["argon_isobar", "--preset", "smoke", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in printed][:3] == ["Start:", "Fitted", "How"]
    summary = json.loads((out / "summary.json").read_text())
    assert all(goal["met"] is None and goal["value"] is not None for goal in summary["goals"])
    assert re.search(r"Density \(liquid 90 K 20 bar\) +1384.4 .* kg/m\^3", (out / "fit.txt").read_text())
    assert [json.loads(line)["update"] for line in (out / "history.jsonl").read_text().splitlines()] == [1]
    for name in ("isobar", "updates"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for name in ("summary.json", "after.json"):
        (out / name).unlink()
    gc.collect()  # lets go of the folder
    sums = json.loads((out / "checksums.json").read_text())
    del sums["after.json"]
    (out / "checksums.json").write_text(json.dumps(sums))
    assert main(["argon_isobar", "--preset", "smoke", "--out", str(out), "--resume"]) == 0
    again = json.loads((out / "summary.json").read_text())
    timed = ("seconds", "goals")
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in summary.items() if k not in timed}
