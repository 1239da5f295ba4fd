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
THIRD = "right: a third of the reference"


def draw(folder: Path) -> Path:
    """Draws the figure into the folder of a run; returns its file."""
    cases = read_json(folder / "summary.json")["cases"]
    return save_figures(folder, {"gradient_methods": lambda: _panels(cases)})[0]


def _panels(cases):
    # a row for each case, so that a page shows the figure large enough to be read
    figure, panels = plt.subplots(len(cases), 2, figsize=(8, 3.1 * len(cases) + 1), sharex="row", squeeze=False)
    for (left, right), case, letter in zip(panels, cases.values(), "abcd", strict=False):
        t = np.array(case["horizons"])
        reference = np.array(case["reference"], float)
        scale = np.max(abs(reference))
        for name, row in case["estimators"].items():
            color, line, marker = STYLES[name]
            mean, error = (np.array(row[k], float) for k in ("gradient", "error"))
            shown = error < 0.7 * scale
            left.errorbar(t[shown], mean[shown], 2 * error[shown], color=color, ls=line or "none", marker=marker,
                          ms=3.5, lw=1, capsize=1.5, label=name)  # fmt: skip
            right.semilogy(t, error, color=color, ls=line or "none", marker=marker, ms=3.5, lw=1)
        if case["reference_by"][0] not in case["estimators"]:
            left.axhspan(*(reference[0] + 2 * case["reference_error"][0] * np.array([-1, 1])), color="0.88", zorder=0)
            left.set_xlim(right.get_xlim())
        left.plot([], [], color="0.75", lw=4, label=THIRD)
        right.plot(t, abs(reference) / 3, color="0.75", lw=4, zorder=0)
        left.axhline(0, color="0.8", lw=0.6, zorder=0)
        what = case["what"].replace("dimers at", "dimers\nat").replace("strength in", "strength\nin")
        left.set(title=f"({letter}) {what}", xlabel="horizon / ps", ylabel=f"gradient / {case['unit']}")
        right.set(title=f"({letter}) standard errors, {case['trajectories']} trajectories", xlabel="horizon / ps")
    handles = {}
    for axes in panels[:, 0]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    handles = {name: handles[name] for name in (*STYLES, THIRD) if name in handles}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
