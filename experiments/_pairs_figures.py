"""The figures of the pair experiments, from the files of a folder: `python -m experiments._pairs_figures DIR`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_arrays, read_json

STYLES = {
    "start": ("potential of mean force, the start", {"color": "0.55", "lw": 1, "ls": "--"}),
    "diffsim": ("through the dynamics (diffsim)", {"color": DYNAMICAL, "lw": 1.2}),
    "difftre": ("by reweighting (difftre)", {"color": THERMODYNAMIC, "lw": 1.2}),
    "ibi": ("Boltzmann inversion (ibi)", {"color": PATH, "lw": 1.0, "ls": ":"}),
}


def draw(folder: Path) -> list[Path]:
    """Draws the figures into the folder of a run; returns their files."""
    structure, curves = read_arrays(folder / "structure.npz"), read_arrays(folder / "potentials.npz")
    config, summary = read_json(folder / "config.json")["config"], read_json(folder / "summary.json")
    names = [name for name in STYLES if name in structure]
    return save_figures(
        folder,
        {
            "structure": lambda: _structure(structure, config, names),
            "potentials": lambda: potentials(structure, curves, STYLES),
            "methods": lambda: _methods(folder, summary, names),
        },
    )


def _structure(structure, config, names):
    """g(r) of the target and of all potentials, and how far apart they are, for every state point."""
    points = len(structure["target"])
    figure, panels = plt.subplots(2, points, figsize=(max(4.2, 2.8 * points), 4.6), squeeze=False, sharex=True,
                                  height_ratios=[2, 1])  # fmt: skip
    label = lambda name, k: config[name][k if len(config[name]) > 1 else 0]
    for k in range(points):
        above, below = panels[:, k]
        above.plot(structure["r"], structure["target"][k], color=TARGET, lw=4, alpha=0.45, label="target")
        for name in names:
            text, style = STYLES[name]
            above.plot(structure["r"], structure[name][k], label=text, **style)
            if name != "start":
                below.plot(structure["r"], structure[name][k] - structure["target"][k], **style)
        noise = 2 * structure["target_error"][k]
        below.fill_between(structure["r"], -noise, noise, color=TARGET, alpha=0.3, lw=0)
        above.set(
            title=f"ρσ³ = {label('density', k):g}, kT = {label('temperature', k):g} ε", xlim=(0.7, None), ylim=(0, None)
        )
        below.set(xlabel="r / σ", ylim=(-0.06, 0.06))
    panels[0, 0].set_ylabel("g(r)")
    panels[1, 0].set_ylabel("g - target")
    panels[0, 0].legend(fontsize=6.5)
    return figure


def potentials(structure, curves, styles, errors=0.35):
    """u(r) and its error, up to `errors`, of all `curves` by the style that their name begins with; not where g is
    below 0.1."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2))
    r, level = curves["r"], lambda u: u - u[-1]
    seen = np.max([np.interp(r, structure["r"], g) for g in structure["target"]], axis=0) > 0.1
    from_here = r[np.argmax(seen)]
    left.plot(r, level(curves["truth"]), color=TARGET, lw=4, alpha=0.45, label="truth")
    for name in (name for name in curves if name not in ("r", "truth")):
        text, style = styles[name.split("-")[0]]
        told = left.get_legend_handles_labels()[1]
        left.plot(r, level(curves[name]), label=None if text in told else text, **style)
        right.plot(r, level(curves[name]) - level(curves["truth"]), **style)
    low = min(level(curves["truth"])[r >= from_here].min(), -0.5)
    left.set(xlabel="r / σ", ylabel="[u(r) - u($r_c$)] / ε", ylim=(1.4 * low, 4), xlim=(from_here - 0.1, r[-1]))
    left.legend(fontsize=6.5)
    right.axhspan(-0.05, 0.05, color=TARGET, alpha=0.2, lw=0, label="wanted")
    right.legend(fontsize=6.5)
    right.set(xlabel="r / σ", ylabel="error of u(r) / ε", ylim=(-errors, errors), xlim=(from_here - 0.02, r[-1]))
    return figure


def _methods(folder, summary, names):
    """Losses against updates, and the errors in the end."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.2, 2.9))
    for name in names[1:]:
        files = sorted(folder.glob(f"history-{name}*.jsonl"), key=lambda path: (len(path.name), path.name))
        history = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        style = STYLES[name][1]
        x = np.arange(1, len(history) + 1) / len(history)
        left.plot(x, [line["mse"] for line in history], label=f"{name}, {len(history)} updates", **style)
    left.set(yscale="log", xlabel="part of the updates", ylabel="mean squared error of g(r)", title="(a) while fitting")
    left.legend(fontsize=6.5)
    kinds = ((middle, "mse_g", 1e-4, "mean squared error of g(r)", "(b) in runs of their own"),
             (right, "u_max", 0.05, "largest error of u(r) / ε", "(c) where g > 0.1"))  # fmt: skip
    for axes, kind, goal, label, title in kinds:
        axes.bar(names, [summary[name][kind] for name in names], color=[STYLES[n][1]["color"] for n in names])
        axes.axhline(goal, color=TARGET, lw=1, label="wanted, at most")
        axes.set(yscale="log", ylabel=label, title=title)
    noise = [summary[name]["noise_g"] + summary["noise_of_target"] for name in names]
    middle.plot(names, noise, "_", color="#cc79a7", ms=16, mew=2, label="noise of both runs")
    middle.legend(fontsize=6.5)
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
