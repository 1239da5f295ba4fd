"""The page of figures of `validate_water`, from the folders of runs: `python -m experiments._validation_figures DIR
...`."""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, PATH, STYLE, TARGET, THERMODYNAMIC, save_figure
from ._validation_summary import Run, read_run
from ._water_figures import fill_errors

COLORS = (PATH, THERMODYNAMIC, DYNAMICAL, "#cc79a7", "#e69f00", "#56b4e9")


def draw(path: Path, runs: dict[str, Run]) -> None:
    """Draws eight panels of one or several runs into one file."""
    with plt.rc_context(STYLE):
        save_figure(path, page(runs))


def page(runs: dict[str, Run]) -> Any:
    """Spectra, structure, energies along trajectories, and clusters."""
    figure, panels = plt.subplots(2, 4, figsize=(14, 6.4))
    infrared, vibrations, *structure = panels.ravel()
    *pairs, scattered, drift, clusters = structure
    for (name, run), color in zip(runs.items(), COLORS, strict=False):
        curves = run.curves
        nu = curves["wavenumbers"]
        _curve(infrared, nu, 1e-3 * curves["infrared"], color, name)
        _curve(vibrations, nu, 1e3 * curves["vdos"], color, name)
        if "vdos_quantum" in curves:
            vibrations.plot(nu, 1e3 * curves["vdos_quantum"].mean(0), "--", color=color, lw=0.8, label="ring polymers")
        for axes, pair in zip(pairs, ("OO", "OH", "HH"), strict=True):
            _curve(axes, 10 * curves["r"], curves[f"g_{pair}"], color, name)
        _curve(scattered, 0.1 * curves["k"], curves["scattered"], color, name)
        energy = curves["energy"] - curves["energy"][:, :1]
        drift.plot(curves["times"], 1e3 * energy.T, color=color, lw=0.6, alpha=0.6)
        if "clusters_sizes" not in curves:
            continue
        atoms = 3 * curves["clusters_sizes"]
        for part, mark in (("inter", "o"), ("intra", "^")):
            x, y = (curves[f"clusters_{part}_{which}"] / atoms for which in ("reference", "surface"))
            clusters.plot(
                x, y, mark, ms=4, mfc="none", color=color, label=f"{part}molecular" if len(runs) == 1 else None
            )
    first = next(iter(runs.values())).curves
    infrared.plot(
        first["wavenumbers"], 1e-3 * first["experiment"], color=TARGET, lw=2.4, alpha=0.5, zorder=0, label="measured"
    )
    _measured_structure(pairs, runs)
    infrared.set(
        xlabel="wavenumber / cm$^{-1}$", ylabel=r"$n\alpha$ / $10^3$ cm$^{-1}$", title="infrared", xlim=(0, 4200)
    )
    vibrations.set(xlabel="wavenumber / cm$^{-1}$", ylabel="density / $10^{-3}$ cm", title="vibrations", xlim=(0, 4200))
    for axes, pair in zip(pairs, ("OO", "OH", "HH"), strict=True):
        axes.axhline(1, color="0.7", lw=0.6, zorder=0)
        axes.set(xlabel="r / Å", ylabel=f"$g_\\mathrm{{{pair}}}$", xlim=(2 if pair == "OO" else 0.7, None), ylim=(0, 4))
    scattered.set(xlabel="k / Å$^{-1}$", ylabel="S(k)", title="X-ray structure factor (Faber-Ziman)")
    drift.set(xlabel="t / ps", ylabel="E(t) - E(0) / J mol$^{-1}$ per atom", title="conserved energy, every trajectory")
    low, high = np.array(clusters.get_xlim()), np.array(clusters.get_ylim())
    ends = [min(low[0], high[0]), max(low[1], high[1])]
    clusters.plot(ends, ends, color=TARGET, lw=0.8, zorder=0)
    clusters.set(xlabel="PBE0 / kJ mol$^{-1}$ per atom", ylabel="surface", title="clusters of 2 to 4")
    for axes in (infrared, vibrations, pairs[0], clusters):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return figure


def _curve(axes: Any, x: np.ndarray, chains: np.ndarray, color: str, label: str) -> None:
    axes.plot(x, chains.mean(0), color=color, lw=1, label=label)
    fill_errors(axes, x, chains, color)


def _measured_structure(pairs: Any, runs: dict[str, Run]) -> None:
    """Of the first run that was given some."""
    for run in runs.values():
        if "measured_r" not in run.curves:
            continue
        for axes, pair in zip(pairs, ("OO", "OH", "HH"), strict=True):
            r, longest = 10 * run.curves["measured_r"], 10 * run.curves["r"][-1]
            near = r <= longest
            measured = run.curves[f"measured_{pair}"][near]
            axes.plot(r[near], measured, color=TARGET, lw=2.4, alpha=0.5, zorder=0, label="measured")
        return


if __name__ == "__main__":
    folders = [Path(argument) for argument in sys.argv[1:]]
    name = "validation.png" if len(folders) == 1 else "comparison.png"
    draw(folders[0] / name, {folder.resolve().name: read_run(folder) for folder in folders})
    print(folders[0] / name)
