"""The figures of `pair_temperatures`, from the files of a folder: `python -m experiments._temperatures_figures DIR`."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import TARGET, save_figures
from ._folder import read_arrays, read_json
from ._pairs_figures import STYLES, potentials

SINGLE = ("a fit to each temperature alone", {"color": "0.25", "lw": 0.9, "ls": "-."})


def draw(folder: Path) -> list[Path]:
    """Draws the figures into the folder of a run; returns their files."""
    structure, curves = read_arrays(folder / "structure.npz"), read_arrays(folder / "potentials.npz")
    summary = read_json(folder / "summary.json")
    known = STYLES | {"single": SINGLE}
    styles = {name: known[name] for name in known if name in structure}
    return save_figures(
        folder,
        {
            "structure": lambda: _structure(structure, summary, styles),
            "temperatures": lambda: _temperatures(summary, styles),
            "potentials": lambda: potentials(structure, curves, known, errors=0.5),
        },
    )


def _structure(structure, summary, styles):
    """g(r) at every temperature, and how far it is from the target."""
    order = np.argsort(summary["temperatures"])
    figure, panels = plt.subplots(2, len(order), figsize=(2.4 * len(order), 4.4), squeeze=False, sharex=True,
                                  sharey="row", height_ratios=[2, 1])  # fmt: skip
    for (above, below), k in zip(panels.T, order, strict=True):
        above.plot(structure["r"], structure["target"][k], color=TARGET, lw=4, alpha=0.45, label="target")
        for name, (text, style) in styles.items():
            above.plot(structure["r"], structure[name][k], label=text, **style)
            below.plot(structure["r"], structure[name][k] - structure["target"][k], **style)
        noise = 2 * structure["target_error"][k]
        below.fill_between(structure["r"], -noise, noise, color=TARGET, alpha=0.3, lw=0)
        seen = "trained" if k < summary["trained"] else "not trained"
        above.set(title=f"kT = {summary['temperatures'][k]:g} ε, {seen}", xlim=(0.7, None), ylim=(0, None))
        above.title.set_fontsize(8)
        below.set(xlabel="r / σ")
    panels[0, 0].set_ylabel("g(r)")
    panels[1, 0].set_ylabel("g - target")
    panels[0, -1].legend(fontsize=6)
    return figure


def _temperatures(summary, styles):
    """Errors against the temperature; rings where it was trained."""
    figure, axes = plt.subplots(figsize=(4.6, 3.2))
    t, order = np.array(summary["temperatures"]), np.argsort(summary["temperatures"])
    for name, (text, style) in styles.items():
        mse = np.array(summary[name]["mse_g"])
        axes.plot(t[order], mse[order], label=text, **style)
        trained = np.arange(1 if name == "ibi" else summary["trained"]) if name != "single" else np.arange(len(t))
        axes.plot(t[trained], mse[trained], "o", color=style["color"], ms=4)
    noise = np.max([summary[name]["noise_g"] for name in styles], axis=0)
    axes.plot(t[order], noise[order], color=TARGET, lw=1, label="noise of two runs")
    axes.set(yscale="log", xlabel="kT / ε", ylabel="mean squared error of g(r)", title="dots: temperatures of the fit")
    axes.legend(fontsize=6.5)
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
