"""The figures of `water_refine`, from the files of its folder: `python -m experiments._water_refine_figures DIR`."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_arrays, read_json
from ._water_figures import draw_spectra, fill_errors

COLORS = {"target": TARGET, "before": THERMODYNAMIC, "after": PATH}
NAMES = {"ir": "spectrum", "density": "pressure", "diffusion": "diffusion"}
ALONG = {
    "diffusion": "D, corrected for the box / 10$^{-9}$ m$^2$/s",
    "dielectric_constant": "dielectric constant",
    "height_OO": "height of the first peak of $g_\\mathrm{OO}$",
    "rms": "rms of $g$ off the target",
}


class Run:
    """The files of a run."""

    def __init__(self, folder: Path):
        self.config: dict[str, Any] = read_json(folder / "config.json")["config"]
        self.summary: dict[str, Any] = read_json(folder / "summary.json")
        self.history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        files = {"target": "reference", "before": "before", "after": "final"}
        self.spectra = {name: read_arrays(folder / f"{file}.npz") for name, file in files.items()}

    @property
    def what(self) -> str:
        return f"{self.summary['waters']} H$_2$O, {self.config['temperature']:g} K"

    @property
    def aim(self) -> str:
        return "target" if self.summary["known"] else "experiment"


def draw(folder: Path) -> list[Path]:
    """Draws all figures into the folder of a run; returns their files."""
    run = Run(folder)
    figures = {"spectra": draw_spectra, "updates": draw_updates, "structure": draw_structure, "moved": draw_moved}
    if len(run.summary["watched"]) > 1:
        figures["watched"] = draw_watched
    if run.summary["watched_along"]:
        figures["along"] = draw_along
    return save_figures(folder, {name: lambda f=function: f(run) for name, function in figures.items()})


def draw_updates(run: Run):
    """Losses, and how far the gradients stand out of their noise, along the fit."""
    names = run.config["targets"].split(",")
    updates = np.array([line["update"] for line in run.history])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    for name, color in zip(names, (DYNAMICAL, THERMODYNAMIC), strict=False):
        left.plot(updates, [line[name] for line in run.history], "o-", ms=3, lw=0.8, color=color, label=NAMES[name])
        held_out = [run.summary["losses_held_out"][when][name] for when in ("before", "after")]
        left.plot([0, updates[-1] + 1], held_out, "*", ms=10, color=color)
        ratio = [line["norms"][name] / line["noises"][name] for line in run.history]
        right.plot(updates, ratio, "o-", ms=3, lw=0.8, color=color, label=f"{NAMES[name]}: size over noise")
    if len(names) == 2:
        right.plot(updates, [line["cosine"] for line in run.history], "s", ms=3, color=PATH, label="cosine of both")
    left.plot([], [], "*", ms=10, color="0.5", label="held out, before and after")
    left.axhline(0, color="0.5", lw=0.8)
    first = max(max(line[name] for name in names) for line in run.history)
    highest = max([first, *(run.summary["losses_held_out"]["before"][name] for name in names)])
    left.set_yscale("symlog", linthresh=10 ** np.ceil(np.log10(max(3e-3 * first, 1e-9))))
    left.set(xlabel="update", ylabel="loss", title=f"{run.what}: losses without the bias of noise")
    left.set_ylim(top=50 * max(highest, 1e-9))  # room for the legends
    right.axhline(0, color="0.5", lw=0.8)
    right.set_ylim(top=1.4 * right.get_ylim()[1])
    right.set(xlabel="update", title="gradients by what is fitted")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return figure


def draw_structure(run: Run):
    """Radial distribution functions, which were not fitted."""
    figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.2))
    highest = max(4, *(1.05 * x["g_OO"].mean((0, 1)).max() for x in run.spectra.values() if "g_OO" in x))
    for axes, pair in zip(panels, ("OO", "OH", "HH"), strict=True):
        for name, color in COLORS.items():
            arrays = run.spectra[name]
            if f"g_{pair}" not in arrays:
                continue
            chains = arrays[f"g_{pair}"].astype(float).mean(0)
            r = 10 * arrays["r"]
            axes.plot(r, chains.mean(0), color=color, lw=1, label=run.aim if name == "target" else name)
            fill_errors(axes, r, chains, color)
        axes.axhline(1, color="0.7", lw=0.6, zorder=0)
        axes.set(xlabel="r / Å", ylabel=f"$g_\\mathrm{{{pair}}}$")
        axes.set(xlim=(0.7 if pair != "OO" else 2, None), ylim=(0, highest))
        axes.set_title(f"{run.what}: not fitted")
    panels[0].legend()
    return figure


def draw_watched(run: Run):
    """What happened to properties while the fit went on; diffusion was never fitted."""
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.4))
    measured = {0: run.summary["measured"]["before"]}
    measured |= {int(u): m for u, m in sorted(run.summary["watched"].items(), key=lambda item: int(item[0]))}
    wanted = {"pressure": run.summary["target_pressure"], "diffusion": run.summary["wanted_diffusion"]}
    labels = {"pressure": "pressure / bar", "diffusion": "D of this box / 10$^{-9}$ m$^2$/s"}
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        values, errors = ([m[name][key] for m in measured.values()] for key in ("value", "error"))
        axes.errorbar(list(measured), values, 2 * np.array(errors), fmt="o-", ms=4, lw=0.8, capsize=2, color=PATH)
        axes.axhline(wanted[name], color=TARGET, lw=2, zorder=0, label=run.aim)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axvline(run.summary["chosen"], color="0.6", lw=0.8, ls=":", label="judged")
        axes.set(xlabel="update", ylabel=label, title=f"{run.what} (bars: ± 2 standard errors)")
        axes.legend()
    return figure


def draw_along(run: Run):
    """What is not fitted, from the samples of updates."""
    seen = {int(u): numbers for u, numbers in run.summary["watched_along"].items()}
    figure, panels = plt.subplots(2, 2, figsize=(8.6, 6.2), sharex=True)
    for axes, (name, label) in zip(panels.flat, ALONG.items(), strict=True):
        names = [name] if name != "rms" else [n for n in next(iter(seen.values())) if n.startswith("rms_")]
        for one, color in zip(names, (PATH, DYNAMICAL, THERMODYNAMIC), strict=False):
            number = lambda key, one=one: np.array(
                [np.nan if s[one][key] is None else s[one][key] for s in seen.values()]
            )
            told = one.removeprefix("rms_") if name == "rms" else "from the samples of the update"
            axes.errorbar(list(seen), number("value"), 2 * number("error"), fmt="o-", ms=4, lw=0.8, capsize=2,
                          color=color, label=told)  # fmt: skip
        if name in run.summary["wanted_along"]:
            axes.axhline(run.summary["wanted_along"][name], color=TARGET, lw=2, zorder=0, label=run.aim)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(ylabel=label)
        if axes.has_data():
            axes.legend()
        else:
            axes.set(yticks=[], ylabel="")
            axes.text(0.5, 0.5, "no g(r) to compare with (--rdf)", ha="center", transform=axes.transAxes)
    for axes in panels[1]:
        axes.set_xlabel("update")
    figure.suptitle(f"{run.what}: not fitted (bars: ± 2 standard errors)")
    return figure


def draw_moved(run: Run):
    """Which weights moved; those held fixed are left out."""
    moved = {name: size for name, size in run.summary["moved"].items() if size}
    figure, axes = plt.subplots(figsize=(5.6, 0.22 * len(moved) + 1.2))
    axes.barh(list(moved)[::-1], 100 * np.array(list(moved.values()))[::-1], color=DYNAMICAL)
    axes.set(xlabel="change, % of the size at the start (root mean squares)", title="which parameters moved")
    return figure


if __name__ == "__main__":
    for file in draw(Path(sys.argv[1])):
        print(file)
