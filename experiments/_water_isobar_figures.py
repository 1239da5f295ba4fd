"""The figures of `water_density`, from the files of its folder: `python -m experiments._water_isobar_figures DIR`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_json
from ._isobar_figures import updates

_WHEN = (("before", THERMODYNAMIC, "s"), ("after", DYNAMICAL, "D"))


def draw(folder: Path) -> list[Path]:
    """Draws both figures into the folder of a run; returns their files."""
    rows = read_json(folder / "summary.json")["targets"]
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    liquids = len({row["temperature"] for row in rows})
    return save_figures(folder, {"isobar": lambda: _isobar(rows), "updates": lambda: updates(history, liquids)})


def _isobar(rows):
    """The density along the isobar, and all targets in what counts as one."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.2))
    isobar = sorted((row for row in rows if row["kind"] == "density"), key=lambda row: row["temperature"])
    of = lambda name: np.array([row[name] for row in isobar])
    t = of("temperature")
    left.plot(t, of("target"), "o-", color=TARGET, ms=4, lw=1, label="measured")
    for when, color, mark in _WHEN:
        left.errorbar(
            t, of(when), 2 * of(f"{when}_error"), fmt=f"{mark}--", color=color, ms=3, lw=0.8, capsize=2,
            label=f"{when} the fit",
        )  # fmt: skip
    unit = isobar[0]["unit"].replace("^3", "³")
    left.set(xlabel="temperature / K", ylabel=f"density / {unit}", title="(a) bars: two standard errors")
    left.legend()

    places = np.arange(len(rows))[::-1]
    for (when, color, mark), shift in zip(_WHEN, (0.12, -0.12), strict=True):
        away = np.array([(row[when] - row["target"]) / row["uncertainty"] for row in rows])
        bars = np.array([2 * row[f"{when}_error"] / row["uncertainty"] for row in rows])
        right.errorbar(away, places + shift, xerr=bars, fmt=mark, color=color, ms=3, lw=0.8, capsize=2)
    right.axvspan(-1, 1, color=TARGET, alpha=0.15, lw=0)
    right.axvline(0, color=TARGET, lw=0.8)
    labels = {"density": "density", "heat_of_vaporization": "heat of vap.", "dielectric_constant": "dielectric c."}
    right.set_yticks(places, [f"{labels[row['kind']]}, {row['temperature']:g} K" for row in rows])
    right.set(xlabel="deviation / uncertainty in the fit", title="(b) all targets")
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
