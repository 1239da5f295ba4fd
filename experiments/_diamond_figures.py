"""The figures of `diamond`, from the files of its folder: `python -m experiments._diamond_figures DIR`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_json


def draw(folder: Path) -> list[Path]:
    """Draws both figures into the folder of a run; returns their files."""
    summary = read_json(folder / "summary.json")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return save_figures(
        folder, {"elasticity": lambda: _elasticity(summary, history), "updates": lambda: _updates(history)}
    )


def _elasticity(summary, history):
    """Constants and stress at every update, and before and after it in runs of their own."""
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.2), sharex=True)
    update = np.array([line["update"] for line in history])
    column = lambda name: np.array([line[name] for line in history])
    ends = (0, "before"), (update[-1] + 1, "after")

    def shown(panel, values, errors, k, color, label):
        panel.plot(update, values[:, k], color=color, lw=0.9, label=label)
        low, high = values[:, k] - errors[:, k], values[:, k] + errors[:, k]
        panel.fill_between(update, low, high, color=color, alpha=0.25, lw=0)

    panels = [*axes[0], axes[1, 0]]
    values, errors = column("constants"), column("constants_error")
    for k, (panel, name, letter) in enumerate(zip(panels, ("c₁₁", "c₁₂", "c₄₄"), "abc", strict=True)):
        shown(panel, values, errors, k, DYNAMICAL, "of the samples of an update, ± error")
        wanted = summary["targets"]["constants"][k]
        panel.axhline(wanted, color=TARGET, lw=1, label="target, ± 5 %")
        panel.axhspan(0.95 * wanted, 1.05 * wanted, color=TARGET, alpha=0.15, lw=0)
        for n, (x, when) in enumerate(ends):
            v, e = (summary[when][part][k] for part in ("constants", "constants_error"))
            label = None if n else "in a longer run, before and after"
            panel.errorbar(x, v, 2 * e, fmt="D", color=THERMODYNAMIC, ms=4, capsize=2, label=label, zorder=5)
        panel.set(title=f"({letter}) {name}", ylabel=f"{name} / GPa")
    axes[0, 0].legend(loc="best")

    panel, values, errors = axes[1, 1], column("stress"), column("stress_error")
    marks = zip(("σ₁₁", "σ₂₂", "σ₃₃", "σ₂₃", "σ₁₃", "σ₁₂"), ("-",) * 3 + ("--",) * 3, strict=True)
    for k, (name, style) in enumerate(marks):
        color = (DYNAMICAL, PATH, "#cc79a7")[k % 3]
        panel.plot(update, values[:, k], style, color=color, lw=0.7, label=name)
    for x, when in ends:
        for v, e in zip(summary[when]["stress"], summary[when]["stress_error"], strict=True):
            panel.errorbar(x, v, 2 * e, fmt="D", color=THERMODYNAMIC, ms=3, capsize=2, zorder=5)
    panel.axhline(0, color=TARGET, lw=1)
    panel.axhspan(-1, 1, color=TARGET, alpha=0.15, lw=0)
    panel.set(title="(d) stress; σ₁₁, σ₂₂ and σ₃₃ all but coincide", ylabel="stress / GPa")
    panel.legend(ncols=2, loc="best")
    for panel in axes[1]:
        panel.set(xlabel="update")
    return figure


def _updates(history):
    """The loss, and how many samples counted."""
    figure, (loss, samples) = plt.subplots(1, 2, figsize=(6.6, 2.6))
    update = np.array([line["update"] for line in history])
    loss.semilogy(update, [line["loss"] for line in history], color=PATH, lw=1)
    loss.set(xlabel="update", ylabel="loss", title="(a) loss before the update")
    counted, drawn = (np.array([line[name] for line in history]) for name in ("effective_samples", "drawn"))
    samples.plot(update, counted, color=THERMODYNAMIC, lw=0.8)
    samples.plot(update[drawn], counted[drawn], "o", color=THERMODYNAMIC, ms=2.5, label="then drawn anew")
    samples.set(xlabel="update", ylabel="1/Σw²", title="(b) samples that count", ylim=(0, None))
    samples.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
