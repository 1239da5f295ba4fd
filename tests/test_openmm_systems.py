"""openmmtools' test systems: what the table in the documentation says of each is so."""

import importlib.util
import runpy
from pathlib import Path

import pytest

pytest.importorskip("openmm")
ROOT = Path(__file__).parents[1]
HINT = "needs openmmtools: nox -s test_systems"


def rows():
    """Of the table, by the name of the system."""
    text = (ROOT / "docs/openmm-test-systems.md").read_text()
    return {line.split("`")[1].split(",")[0]: line for line in text.splitlines() if line.startswith("| `")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(importlib.util.find_spec("openmmtools") is None, reason=HINT)
def test_every_system_is_as_the_table_says():
    measurement = runpy.run_path(str(ROOT / "docs/measurements/openmm_systems.py"))
    assert measurement["names"]() == list(rows())
    for name, row in rows().items():
        result = measurement["convert"](name)
        assert all(error < 1e-5 for error in result.errors.values()), result
        # errors in the last places are those of one processor
        outcome = lambda line: line if "refused" in line else line.split(", to")[0]
        assert outcome(result.row) == outcome(row)
