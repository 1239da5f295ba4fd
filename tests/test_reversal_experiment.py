"""The experiment on reversal errors, end to end."""

import json

import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from test_experiment import launch

from experiments.__main__ import main


def test_smoke(tmp_path):
    folder = tmp_path / "run"
    done = launch("reversal_error", "--preset", "smoke", "--out", folder)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["bitwise_equal"] == {"float32": False, "float64": False, "bit_reversible": True}
    assert [row["steps"] for row in summary["table"]] == [10, 40, 80]
    for row in summary["table"]:
        assert row["bit_reversible"] == 0
    assert summary["table"][1]["float32"] > 1e3 * summary["table"][1]["float64"] > 0
    assert all(cost > 0 for solver in summary["cost"].values() for cost in solver.values())
    assert (folder / "reversal_error.png").read_bytes().startswith(b"\x89PNG")
    again = launch("reversal_error", "--preset", "smoke", "--out", folder)
    assert again.returncode == 2
    assert "holds another run" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--steps", "0"), "numbers above 0"),
        (("--preset", "big"), "wanted one of quick"),
        (("--cells", "0"), "at least 1"),
    ],
)
def test_bad_input(arguments, match, capsys, tmp_path):
    try:
        status = main(["reversal_error", *arguments, "--out", str(tmp_path / "run")])
    except SystemExit as stop:  # from the parser of the command line
        status = stop.code
    assert status == 2
    assert match in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
