"""The figure of `cg_water_pair`, from the files of a folder: `python -m experiments._cg_pair_figures DIR`."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import TARGET, save_figures
from ._folder import read_arrays
from ._pairs_figures import STYLES


def draw(folder: Path) -> list[Path]:
    """Draws the figure into the folder of a run; returns its file."""
    runs, curves = read_arrays(folder / "structure.npz"), read_arrays(folder / "potentials.npz")
    return save_figures(folder, {"structure": lambda: _structure(runs, curves)})


def _structure(runs, curves):
    """g(r), how far it is from the target, and u(r)."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.1))
    r, names = runs["r"], [name for name in STYLES if name in curves]
    left.plot(r, runs["target"], color=TARGET, lw=4, alpha=0.45, label="target")
    for name in names:
        text, style = STYLES[name]
        left.plot(r, runs[name], label=text, **style)
        right.plot(curves["r"], curves[name] - curves[name][-1], **style)
        if name != "start":
            middle.plot(r, runs[name] - runs["target"], **style)
    noise = 2 * runs["target_error"]
    middle.fill_between(r, -noise, noise, color=TARGET, alpha=0.3, lw=0)
    shown = 1.1 * max(np.abs(runs[name] - runs["target"]).max() for name in names[1:])
    left.set(xlabel="r / nm", ylabel="g(r)", xlim=(0.22, None), ylim=(0, None))
    middle.set(xlabel="r / nm", ylabel="g - target", xlim=(0.22, None), ylim=(-shown, shown))
    right.set(xlabel="r / nm", ylabel="[u(r) - u($r_c$)] / (kJ/mol)", xlim=(0.24, None), ylim=(-4, 12))
    left.legend(fontsize=6.5)
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
