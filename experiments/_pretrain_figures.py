"""The figures of `pretrain_water`, from the files of its folder: `python -m experiments._pretrain_figures DIR`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import reverlet as rv

from ._figures import DYNAMICAL, PATH, THERMODYNAMIC, save_figures
from ._folder import read_arrays, read_json

_KINDS = {  # title, unit, and what of reverlet's units it is
    "energies": ("energy per atom, less the mean", "kJ/mol", 1.0),
    "forces": ("forces", "kJ/mol/Å", 1 / rv.units.ANGSTROM),
    "stresses": ("stress", "kbar", 1e3 * rv.units.BAR),
    "cluster_dipoles": ("dipoles of clusters", "D", rv.units.DEBYE),
}


def draw(folder: Path) -> list[Path]:
    """Draws both figures into the folder of a run; returns their files."""
    arrays, summary = read_arrays(folder / "parity.npz"), read_json(folder / "summary.json")
    histories = {name: _history(folder / f"history{name}.jsonl") for name in ("", "-dipole")}
    return save_figures(
        folder, {"parity": lambda: _parity(arrays, summary), "learning": lambda: _learning(histories, summary)}
    )


def _history(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _parity(arrays, summary):
    """Predicted against label; below, the errors."""
    kinds = [name for name in _KINDS if name in arrays]
    figure, panels = plt.subplots(
        2, len(kinds), figsize=(2.6 * len(kinds), 4.4), squeeze=False, height_ratios=(3, 1), sharex="col"
    )
    for k, name in enumerate(kinds):
        title, unit, scale = _KINDS[name]
        label, found = arrays[f"{name}_label"] / scale, arrays[name] / scale
        if name == "energies":
            label, found = (x / summary["atoms"] for x in (label - label.mean(), found - label.mean()))
        label, found = label.ravel(), found.ravel()
        top, bottom = panels[:, k]
        few = len(label) < 300
        style = {"s": 8 if few else 2, "alpha": 0.8 if few else 0.25, "linewidths": 0, "rasterized": True}
        ends = np.array([min(label.min(), found.min()), max(label.max(), found.max())])
        ends = ends + 0.04 * np.array([-1, 1]) * np.ptp(ends)
        top.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
        top.scatter(label, found, color=DYNAMICAL, **style)
        error = found - label
        top.set(title=f"({'abcd'[k]}) {title}", ylabel=f"predicted / {unit}", xlim=ends, ylim=ends)
        rms = np.sqrt(np.mean(error**2))
        top.text(0.05, 0.95, f"RMSE {rms:.3g} {unit}", transform=top.transAxes, va="top", fontsize=8)
        bottom.scatter(label, error, color=THERMODYNAMIC, **style)
        bottom.axhline(0, color="0.6", lw=0.8, zorder=0)
        bottom.set(xlabel=f"label / {unit}", ylabel="error")
    return figure


def _plain(value, position):
    """Numbers on a logarithmic axis: 1, 2, 5 of every decade, without powers of ten."""
    del position
    return f"{value:g}" if round(value / 10 ** np.floor(np.log10(value))) in (1, 2, 5) else ""


def _learning(histories, summary):
    """Errors along the epochs."""
    kinds = [(kind, "") for kind in ("energies", "forces", "stresses")] + [("dipoles", "-dipole")]
    kinds = [(kind, name) for kind, name in kinds if histories[name] and kind in histories[name][0]["validation"]]
    figure, panels = plt.subplots(1, len(kinds), figsize=(2.6 * len(kinds), 2.6), squeeze=False)
    for k, (kind, name) in enumerate(kinds):
        axes, history = panels[0, k], histories[name]
        title, unit, _ = _KINDS["cluster_dipoles" if kind == "dipoles" else kind]
        epochs = np.arange(1, len(history) + 1)
        for part, color in (("training", "0.6"), ("validation", PATH)):
            axes.plot(epochs, [line[part][kind] for line in history], color=color, lw=1, label=part)
        if kind in summary["published"] and name == "":
            axes.axhline(
                summary["published"][kind], color=THERMODYNAMIC, lw=0.8, ls="--", label="published, other labels"
            )
        unit = "kJ/mol/atom" if kind == "energies" else unit
        title = "energies" if kind == "energies" else title
        axes.set(yscale="log", xlabel="epoch", ylabel=f"RMSE / {unit}", title=f"({'abcd'[k]}) {title}")
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(_plain)
        if k == 0:
            axes.legend()
    return figure


if __name__ == "__main__":
    for directory in sys.argv[1:]:
        print(*draw(Path(directory)), sep="\n")
