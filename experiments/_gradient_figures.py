"""The figure of `gradient_methods`, from the files of its folder: `python -m experiments._gradient_figures DIR`."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import save_figures
from ._folder import read_json

STYLES = {
    "reweighting": ("#222222", "-", ""),
    "forward mode": ("#0072b2", "-", "o"),
    "reversible adjoint": ("#56b4e9", "", "s"),
    "dropped after 1 ps": ("#999999", "", "v"),
    "windows of 0.5 ps": ("#999999", "", "^"),
    "damped, 2/ps": ("#999999", "", "D"),
    "finite differences": ("#cc79a7", "-", "x"),
    "pathwise, Langevin": ("#0072b2", "--", "o"),
    "kernel, all noise": ("#e69f00", ":", "."),
    "kernel, near noise": ("#009e73", "-", "o"),
    "kernel, near noise of late": ("#009e73", "--", "."),
    "likelihood ratio, all noise": ("#d55e00", ":", "."),
    "likelihood ratio, near noise": ("#d55e00", "-", "."),
}


def draw(folder: Path) -> Path:
    """Draws the figure into the folder of a run; returns its file."""
    cases = read_json(folder / "summary.json")["cases"]
    return save_figures(folder, {"gradient_methods": lambda: _panels(cases)})[0]


def _panels(cases):
    figure, panels = plt.subplots(2, len(cases), figsize=(max(3.4 * len(cases), 7), 6.4), sharex="col", squeeze=False)
    for column, (case, letter) in enumerate(zip(cases.values(), "abcd", strict=False)):
        upper, lower = panels[:, column]
        t = np.array(case["horizons"])
        reference = np.array(case["reference"], float)
        scale = np.max(abs(reference))
        for name, row in case["estimators"].items():
            color, line, marker = STYLES[name]
            mean, error = (np.array(row[k], float) for k in ("gradient", "error"))
            shown = error < 0.7 * scale
            upper.errorbar(t[shown], mean[shown], error[shown], color=color, ls=line or "none", marker=marker, ms=3.5,
                           lw=1, capsize=1.5, label=name)  # fmt: skip
            lower.semilogy(t, error, color=color, ls=line or "none", marker=marker, ms=3.5, lw=1)
        lower.plot(t, abs(reference) / 3, color="0.75", lw=4, zorder=0)
        upper.axhline(0, color="0.8", lw=0.6, zorder=0)
        what = case["what"].replace("dimers at", "dimers\nat").replace("strength in", "strength\nin")
        upper.set(title=f"({letter}) {what}", ylabel=f"gradient / {case['unit']}")
        lower.set(xlabel="horizon / ps", ylabel=f"standard error, {case['trajectories']} trajectories")
    handles = {}
    for axes in panels[0]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    handles = {name: handles[name] for name in STYLES if name in handles}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
