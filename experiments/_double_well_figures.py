"""The figures of `double_well`, from the files of its folder: `python -m experiments._double_well_figures DIR`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_arrays


def draw(folder: Path) -> list[Path]:
    """Draws both figures into the folder of a run; returns their files."""
    profiles, gradients = read_arrays(folder / "profiles.npz"), read_arrays(folder / "gradients.npz")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return save_figures(
        folder, {"double_well": lambda: _well(profiles, history), "gradients": lambda: _gradients(gradients)}
    )


def _well(profiles, history):
    """Profile, potential, and the loss against the number of updates."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 2.9))
    left.plot(profiles["x"], profiles["target"], color=TARGET, lw=3, alpha=0.5, label="target")
    left.plot(profiles["x"], profiles["prior"], color="0.6", lw=1, label="prior")
    left.plot(profiles["x"], profiles["simulated"], color=DYNAMICAL, lw=1, label="fitted, another simulation")
    left.set(title="(a) density profile", xlabel="x", ylabel="density / mean", ylim=(0, 7))
    left.legend()

    shown = profiles["target_fine"] > 1e-3
    x, weight = profiles["x_fine"], profiles["target_fine"]
    level = lambda u: u - np.sum(weight * u) / np.sum(weight)
    for name, label, style in (
        ("truth", "true", {"color": TARGET, "lw": 3, "alpha": 0.5}),
        ("prior_potential", "prior", {"color": "0.6", "lw": 1}),
        ("potential", "fitted", {"color": DYNAMICAL, "lw": 1}),
    ):
        middle.plot(x[shown], level(profiles[name])[shown], label=label, **style)
    truth = level(profiles["truth"])[shown]
    middle.set(title="(b) potential", xlabel="x", ylabel="U / kT", ylim=(truth.min() - 1, truth.max() + 1))
    middle.legend()

    updates, losses = [h["update"] for h in history], [h["mse"] for h in history]
    right.semilogy(updates, losses, color=PATH, lw=1)
    drawn = [h["drawn"] for h in history]
    right.plot(np.array(updates)[drawn], np.array(losses)[drawn], "o", ms=2.5, color=THERMODYNAMIC, label="new samples")
    right.axhline(1.45e-4, color="0.6", lw=0.8, ls="--", label="published, after 200")
    right.set(title="(c) mean squared error", xlabel="update")
    right.legend()
    return figure


def _gradients(gradients):
    """Norms of the gradient against the length of what it is taken through."""
    figure, axes = plt.subplots(figsize=(4.2, 3.0))
    lengths = gradients["lengths"]
    for name, label, color in (
        ("fitted", "through the simulation, in the double well", DYNAMICAL),
        ("prior", "through the simulation, in the harmonic prior", "0.5"),
        ("reweighted", "by reweighting, in the double well", THERMODYNAMIC),
    ):
        axes.loglog(lengths, gradients[name], "o-", ms=3, lw=1, color=color, label=label)
    axes.set(xlabel="length of the trajectories / units of time", ylabel="norm of the gradient of the loss, 1/kT")
    axes.set_xticks(lengths, [f"{x:g}" for x in lengths])
    axes.minorticks_off()
    axes.legend(loc="upper left")
    return figure


if __name__ == "__main__":
    for file in draw(Path(sys.argv[1])):
        print(file)
