"""The figures of `pair_temperatures` and `pair_mixture`, from the files of a folder:
`python -m experiments._pairs_transfer_figures DIR`."""

import functools
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import TARGET, save_figures
from ._folder import read_arrays, read_json
from ._pairs_figures import STYLES, potentials

SINGLE = ("a fit to each state point alone", {"color": "#cc79a7", "lw": 1.0, "ls": "-."})


def draw(folder: Path) -> list[Path]:
    """Draws the figures into the folder of a run; returns their files."""
    structure, curves = read_arrays(folder / "structure.npz"), read_arrays(folder / "potentials.npz")
    summary = read_json(folder / "summary.json")
    known = STYLES | {"single": SINGLE}
    styles = {name: known[name] for name in known if name in structure}
    figures = {
        "structure": lambda: _structure(structure, summary, styles),
        "transfer": lambda: _transfer(summary, styles),
    }
    pairs = len(curves["truth"])
    for p in range(pairs):
        of_pair = {name: x if name == "r" else x[p] for name, x in curves.items()}
        g = {"r": structure["r"], "target": structure["target"][:, p]}
        figures["potentials" + (f"-{p + 1}" if pairs > 1 else "")] = functools.partial(
            potentials, g, of_pair, known, errors=0.5
        )
    return save_figures(folder, figures)


def _structure(structure, summary, styles):
    """g(r) at every state point, and how far it is from the target; of several pairs of species, one above another."""
    order, pairs = np.argsort(summary["values"]), range(structure["target"].shape[1])
    figure, panels = plt.subplots(2, len(order), figsize=(2.4 * len(order), 4.4), squeeze=False, sharex=True,
                                  sharey="row", height_ratios=[2, 1])  # fmt: skip
    for (above, below), k in zip(panels.T, order, strict=True):
        for p in pairs:
            once = (lambda text: text) if p == 0 else (lambda text: None)
            r, target, noise = structure["r"], structure["target"][k, p], 2 * structure["target_error"][k, p]
            above.plot(r, target + 2 * p, color=TARGET, lw=4, alpha=0.45, label=once("target"))
            for name, (text, style) in styles.items():
                above.plot(r, structure[name][k, p] + 2 * p, label=once(text), **style)
                below.plot(r, structure[name][k, p] - target + 0.15 * p, **style)
            if len(pairs) > 1:
                above.text(
                    r[-1],
                    2 * p + 0.7,
                    "small–small small–large large–large".split()[p],
                    ha="right",
                    va="top",
                    fontsize=7,
                )
            below.fill_between(r, 0.15 * p - noise, 0.15 * p + noise, color=TARGET, alpha=0.3, lw=0)
        seen = "trained" if k < summary["trained"] else "not trained"
        above.set(title=f"{summary['told'].format(summary['values'][k])}, {seen}", xlim=(0.7, None), ylim=(0, None))
        above.title.set_fontsize(8)
        below.set(xlabel="r / σ")
    up = lambda step: f", each {step} above the last" if len(pairs) > 1 else ""
    panels[0, 0].set_ylabel("g(r)" + up(2))
    panels[1, 0].set_ylabel("g - target" + up(0.15).replace(", each", ",\neach"))
    panels[0, -1].legend(fontsize=6)
    return figure


def _transfer(summary, styles):
    """Errors at all state points; dots where it was trained."""
    figure, axes = plt.subplots(figsize=(4.6, 3.2))
    x, order = np.array(summary["values"]), np.argsort(summary["values"])
    for name, (text, style) in styles.items():
        mse = np.array(summary[name]["mse_g"])
        axes.plot(x[order], mse[order], label=text, **style)
        trained = np.arange(1 if name == "ibi" else summary["trained"]) if name != "single" else np.arange(len(x))
        axes.plot(x[trained], mse[trained], "o", color=style["color"], ms=4)
    noise = np.max([summary[name]["noise_g"] for name in styles], axis=0)
    axes.plot(x[order], noise[order], color=TARGET, lw=1, label="noise of two runs")
    axes.set(yscale="log", xlabel=summary["told"].replace(" = {:g}", " /").removesuffix("/").strip(),
             ylabel="mean squared error of g(r)", title="dots: state points of the fit")  # fmt: skip
    axes.set_ylim(top=3 * axes.get_ylim()[1])
    axes.legend(fontsize=6.5, loc="upper right")
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
