"""The figures of `water_ir`, from the files of its folder alone: `python -m experiments._water_figures DIR`."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_arrays, read_json

PARAMETERS = (
    ("charge", r"$q_\mathrm{H}$", "e"),
    ("sigma", r"$\sigma_\mathrm{O}$", "nm"),
    ("bond", r"$k_b$", r"kJ mol$^{-1}$ nm$^{-2}$"),
    ("angle", r"$k_a$", r"kJ mol$^{-1}$ rad$^{-2}$"),
)
COLORS = (DYNAMICAL, THERMODYNAMIC, TARGET, "#cc79a7")
ABSORPTION = r"$n\alpha$ / $10^3$ cm$^{-1}$"


class Run:
    """The files of a run."""

    def __init__(self, folder: Path):
        self.config: dict[str, Any] = read_json(folder / "config.json")["config"]
        self.summary: dict[str, Any] = read_json(folder / "summary.json")
        files = {"pair": "history-pair.jsonl", "all": "history.jsonl"}
        self.histories = {
            name: [json.loads(line) for line in (folder / files[name]).read_text().splitlines()]
            for name in self.summary["fits"]
        }
        self.spectra = {
            name: read_arrays(folder / f"{file}.npz")
            for name, file in (("target", "reference"), ("before", "before"), ("after", "final"))
        }
        self.check = read_arrays(folder / "check.npz") if "gradient_check" in self.summary else {}

    aim = "target"
    """What the target is called."""

    @property
    def what(self) -> str:
        return f"{self.summary['waters']} H$_2$O, {self.config['temperature']:g} K"


def draw(folder: Path) -> list[Path]:
    """Draws all figures into the folder of a run; returns their files."""
    run = Run(folder)
    figures = {
        "parameters": draw_parameters,
        "loss": draw_loss,
        "spectra": draw_spectra,
        "gradients": draw_gradients,
        **({"check": draw_check} if run.check else {}),
    }
    return save_figures(folder, {name: lambda f=function: f(run) for name, function in figures.items()})


def draw_parameters(run: Run):
    """The parameters along each fit, as deviations from the target."""
    figure, panels = plt.subplots(1, len(run.histories), figsize=(7.2 * len(run.histories), 3.6), squeeze=False)
    for axes, (name, history) in zip(panels[0], run.histories.items(), strict=True):
        fit, updates = run.summary["fits"][name], np.array([line["update"] for line in history])
        for (key, symbol, _), color in zip(PARAMETERS, COLORS, strict=True):
            if key not in fit["recovered"]:
                continue
            away = lambda value, key=key: 100 * (np.asarray(value) / run.summary["target"][key] - 1)
            axes.plot(updates, away([line[key] for line in history]), color=color, lw=1.2)
            label = f"{symbol}: {fit['recovered'][key]:.0%} of the way back"
            axes.plot(len(history) + 1, away(fit["final"][key]), "*", color=color, ms=9, label=label)
        axes.axhline(0, color="0.5", lw=0.8)
        count = min(run.config["average"], len(history))
        axes.axvspan(len(history) - count + 0.5, len(history) + 0.5, color="0.93", lw=0, zorder=0)
        axes.set(
            xlabel="update",
            ylabel="deviation from the target / %",
            title=f"{run.what}: along the {run.config['gradient']} gradient",
        )
        axes.legend(
            title="stars: mean of the shaded updates", title_fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1)
        )
    return figure


def draw_loss(run: Run):
    """The loss along each fit."""
    figure, axes = plt.subplots(figsize=(5.6, 3.6))
    for (name, history), color in zip(run.histories.items(), (PATH, DYNAMICAL), strict=False):
        column = lambda key, history=history: np.array([line[key] for line in history])
        label = {"pair": "charge and size", "all": "all four parameters"}[name]
        axes.errorbar(
            column("update"), column("loss"), 2 * column("loss_error"), fmt="o", ms=3, lw=0.8, color=color, label=label
        )
    axes.axhline(0, color="0.5", lw=0.8)
    first = max(history[0]["loss"] for history in run.histories.values())
    axes.set_yscale("symlog", linthresh=_decade(max(1e-2 * first, 1e-12)))
    axes.set(
        xlabel="update",
        ylabel=r"$\sum(I-I^*)^2 / \sum I^{*2}$",
        title=f"{run.what}: loss, correlation cut at {run.config['correlation']:g} ps\n"
        "(without the bias of noise: may be negative; bars: ± 2 standard errors)",
    )
    axes.legend()
    return figure


def draw_spectra(run: Any):
    """Spectra before, after, and the target: cut as in the loss, and not."""
    figure, panels = plt.subplots(2, 1, figsize=(6.4, 6.2), sharex=True)
    length = run.config["validation"]
    titles = {
        "low": f"cut at {run.config['correlation']:g} ps, as fitted",
        "full": f"correlation to {length:g} ps, Gaussian window of {1e3 * length / 3:.0f} fs, not fitted",
    }
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        away = run.summary["spectra"][kind]
        axes.axhline(0, color="0.7", lw=0.6, zorder=0)
        for name, color, width in (("target", TARGET, 2.6), ("before", THERMODYNAMIC, 1.0), ("after", PATH, 1.0)):
            arrays = run.spectra[name]
            nu, curves = arrays["wavenumbers"], 1e-3 * arrays[kind].astype(float)
            chains = curves.mean(0)
            label = run.aim if name == "target" else f"{name}: relative L2 {away[name]['relative_l2']:.3f}"
            axes.plot(nu, chains.mean(0), color=color, lw=width, label=label, alpha=0.6 if name == "target" else 1)
            if len(chains) > 1:  # an experiment has none
                fill_errors(axes, nu, chains, color)
        highest = min(4500, run.config["highest"])
        axes.set(ylabel=ABSORPTION, title=f"{run.what}: {title}", xlim=(0, highest))
        axes.legend(loc="upper left", bbox_to_anchor=(min(0.5, 1750 / highest), 1))  # between bend and stretch
    panels[1].set_xlabel("wavenumber / cm$^{-1}$   (bands: ± 2 standard errors)")
    return figure


def fill_errors(axes: Any, x: np.ndarray, chains: np.ndarray, color: str) -> None:
    """A band of two standard errors about the mean over chains."""
    mean, error = chains.mean(0), 2 * chains.std(0, ddof=1) / np.sqrt(len(chains))
    axes.fill_between(x, mean - error, mean + error, color=color, alpha=0.2, lw=0)


def draw_gradients(run: Run):
    """Both parts of the gradient along the last fit."""
    history = list(run.histories.values())[-1]
    updates = np.array([line["update"] for line in history])
    figure, panels = plt.subplots(2, 2, figsize=(8.2, 5.4), sharex=True)
    cases = (("thermodynamic", THERMODYNAMIC, 0.15), ("dynamical", DYNAMICAL, -0.15))
    for axes, (key, symbol, _) in zip(panels.flat, PARAMETERS, strict=True):
        for part, color, shift in cases:
            value = np.array([line[part][key] for line in history])
            stated = f"{key}_error" in history[0][part]
            error = 2 * np.array([line[part][f"{key}_error"] for line in history]) if stated else None
            label = f"{part}, ± 2 standard errors" if stated else part
            axes.errorbar(updates + shift, value, error, fmt="o", ms=2.5, lw=0.7, color=color, label=label)
        axes.axhline(0, color="0.5", lw=0.8)
        axes.set(ylabel=rf"$\partial L/\partial\ln$ {symbol}", title=f"{run.what}: {symbol}")
    for axes in panels[1]:
        axes.set_xlabel("update")
    panels[1, 0].legend()  # where the curve leaves room
    return figure


def draw_check(run: Run):
    """The gradient and its agreement with finite differences against the correlation time."""
    check = run.check
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.5))
    for k, ((_, symbol, _), color) in enumerate(zip(PARAMETERS, COLORS, strict=True)):
        adjoint, difference = check["adjoint"][:, k], check["difference"][:, k]
        left.plot(check["times"], adjoint, "-", color=color, label=symbol)
        left.plot(check["times"], difference, "x", color=color, ms=6)
        right.semilogy(check["times"], abs(adjoint / difference - 1), "o-", color=color, ms=4, label=symbol)
    left.set_yscale("symlog", linthresh=_decade(0.1 * float(np.min(abs(check["difference"]).max(1)))))
    left.set(xlabel="correlation time / ps", ylabel=r"$\partial L/\partial\ln\theta$")
    left.set_title(
        f"{run.what}, {run.config['check_trajectories']} trajectories:\nadjoint (lines), differences (crosses)"
    )
    right.axhline(1e-3, color="0.6", lw=0.8, ls=":")
    right.set(xlabel="correlation time / ps", ylabel="relative deviation", title="adjoint against central differences")
    left.legend(ncols=2)
    right.legend(ncols=2)
    return figure


if __name__ == "__main__":
    for file in draw(Path(sys.argv[1])):
        print(file)


def _decade(x: float) -> float:
    """The power of ten from `x` on: between others, ticks of a symmetric logarithmic axis overlap around zero."""
    return 10.0 ** np.ceil(np.log10(x))
