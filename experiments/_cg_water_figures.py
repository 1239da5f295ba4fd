"""The figures of `cg_water`, from the files of its folder: `python -m experiments._cg_water_figures DIR`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_arrays, read_json

STYLES = {
    "prior": ("mW, the prior", {"color": "0.55", "lw": 1, "ls": "--"}),
    "inversion": ("Boltzmann inversion, pairs", {"color": THERMODYNAMIC, "lw": 1}),
    "fitted": ("fitted by reweighting", {"color": DYNAMICAL, "lw": 1.2}),
}


def draw(folder: Path) -> list[Path]:
    """Draws both figures into the folder of a run; returns their files."""
    structure, potentials = read_arrays(folder / "structure.npz"), read_arrays(folder / "potentials.npz")
    summary = read_json(folder / "summary.json")
    rows = lambda name: [json.loads(line) for line in (folder / name).read_text().splitlines()]
    fitted, inversion = rows("history.jsonl"), rows("history-inversion.jsonl")
    return save_figures(
        folder,
        {"structure": lambda: _structure(structure, potentials), "errors": lambda: _errors(fitted, inversion, summary)},
    )


def _structure(structure, potentials):
    """Both functions of the target and of all potentials, and the energies of pairs."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.5, 3.0))
    for axes, part, x in ((left, "rdf", structure["r"]), (middle, "adf", np.degrees(structure["angles"]))):
        axes.plot(x, structure[f"{part}_target"], color=TARGET, lw=4, alpha=0.45, label="target, q-SPC/Fw")
        for name, (label, style) in STYLES.items():
            axes.plot(x, structure[f"{part}_{name}"], label=label, **style)
    left.set(
        title="(a) radial distribution of oxygens", xlabel="r / nm", ylabel="g(r)", xlim=(0.2, None), ylim=(0, None)
    )
    left.legend(loc="upper right")
    middle.set(title="(b) angles O-O-O, sides below 0.318 nm", xlabel="angle / °", ylabel="density / rad⁻¹",
               xlim=(0, 180), ylim=(0, None), xticks=range(0, 181, 30))  # fmt: skip
    for name, (_, style) in STYLES.items():
        right.plot(potentials["r"], potentials[name], **style)
    low = min(potentials[name].min() for name in STYLES)
    right.set(title="(c) energy of two beads alone", xlabel="r / nm", ylabel="kJ mol⁻¹", ylim=(1.15 * low, -0.6 * low))
    right.axhline(0, color="0.8", lw=0.6, zorder=0)
    return figure


def _errors(fitted, inversion, summary):
    """Mean squared errors and pressure against how many simulations were made; at the right, of the final runs."""
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.8))
    most = summary["simulations"]
    kinds = (("mse_rdf", "(a) mean squared error of g(r)"), ("mse_adf", "(b) mean squared error of angles / rad⁻²"),
             ("pressure", "(c) pressure / bar"))  # fmt: skip
    for axes, (kind, title) in zip(panels, kinds, strict=True):
        for name, history in (("fitted", fitted), ("inversion", inversion)):
            label, style = STYLES[name]
            if kind in history[0]:
                x, y = ([line[key] for line in history] for key in ("update", kind))
                axes.plot(x, y, "o-", ms=2, label=label, **style)
        for name, (label, style) in STYLES.items():
            error = summary[name].get(f"{kind}_error", 0)
            axes.errorbar(most + 1.5, summary[name][kind], 2 * error, fmt="D", ms=5, capsize=2, mfc="none",
                          color=style["color"], label=f"{label.split(',')[0]}, run of its own")  # fmt: skip
        axes.set(title=title, xlabel="simulations")
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in panels[:2]:
        axes.axhline(2e-3, color="0.7", lw=0.8, ls=":")
        axes.set_yscale("log")
    panels[2].axhspan(summary["pressure"] - 100, summary["pressure"] + 100, color=TARGET, alpha=0.2, lw=0)
    panels[2].set_ylim(-600, 1500)  # what is beyond are the first steps
    panels[0].legend(fontsize=6)
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
