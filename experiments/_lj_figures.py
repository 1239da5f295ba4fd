"""The figures of `lj_diffusion`, from the files of its folder alone: `python -m experiments._lj_figures DIR`."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_arrays, read_json

BOLTZMANN = 8.31446261815324e-3  # kJ/mol/K
PARAMETERS = (("sigma", r"\sigma", "nm"), ("epsilon", r"\epsilon", "kJ mol$^{-1}$"))
# D is in 1e-9 m²/s in all figures, and its slopes are those of that
SLOPE_UNITS = {"sigma": r"$10^{-9}$ m$^2$s$^{-1}$ / nm", "epsilon": r"$10^{-9}$ m$^2$s$^{-1}$ / (kJ mol$^{-1}$)"}
SLOPE_SCALE = 1e3
"""Of nm²/ps, to 1e-9 m²/s."""


class Run:
    """The files of a run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config: dict[str, Any] = read_json(folder / "config.json")["config"]
        self.summary: dict[str, Any] = read_json(folder / "summary.json")
        self.history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        self.start = read_arrays(folder / "start.npz")
        self.final = read_arrays(folder / "final.npz")
        self.gradient = read_arrays(folder / "gradient.npz")

    def column(self, *names: str) -> np.ndarray:
        """A quantity of the history."""
        values: Any = self.history
        for name in names:
            values = [v[name] for v in values]
        return np.array(values)

    @property
    def what(self) -> str:
        s = self.summary
        return f"{s['atoms']} {s['element']}, {self.config['temperature']:g} K"


def draw(folder: Path) -> list[Path]:
    """Draws all figures into the folder of a run; returns their files."""
    run = Run(folder)
    figures = {
        "path": draw_path,
        "diffusion": draw_diffusion,
        "correlation": draw_correlation,
        "gradients": draw_gradients,
        "horizon": draw_horizon,
    }
    return save_figures(folder, {name: lambda f=function: f(run) for name, function in figures.items()})


def draw_path(run: Run):
    """The optimization path over the loss."""
    sigma, epsilon = run.column("sigma"), run.column("epsilon")
    model, target, final = (run.summary[k] for k in ("log_linear_model", "target", "final"))
    marks = [(final["sigma"], final["epsilon"])]
    if target["sigma"] is not None:
        marks.append((target["sigma"], target["epsilon"]))
    span = lambda v, least: (v.min() - 0.15 * max(np.ptp(v), least), v.max() + 0.15 * max(np.ptp(v), least))
    xs = span(np.append(sigma, [m[0] for m in marks]), 5e-4)
    ys = span(np.append(epsilon, [m[1] for m in marks]), 2e-2)
    x, y = np.meshgrid(np.linspace(*xs, 200), np.linspace(*ys, 200))
    d = np.exp(model["intercept"] + model["sigma"] * x + model["epsilon"] * y)
    loss = np.maximum(1e6 * ((d - target["diffusion"]) * 1e6) ** 2, 1e-6)
    levels = np.arange(-4, max(1.0, np.ceil(np.log10(loss.max()))) + 0.01, 0.5)
    figure, axes = plt.subplots(figsize=(5.6, 4.3))
    shades = axes.contourf(x, y, np.log10(loss), levels, cmap="Blues", extend="min")
    figure.colorbar(shades, label=r"$\log_{10}$ loss,  loss = $10^6\,(D-D^*)^2$, $D$ in nm$^2$ ps$^{-1}$")
    valley = (np.log(target["diffusion"]) - model["intercept"] - model["sigma"] * np.array(xs)) / model["epsilon"]
    error = 2 * target["diffusion_error"]
    band = [target["diffusion"] - error, target["diffusion"] + error]
    if error > 0:
        axes.contourf(x, y, d, band, colors=[TARGET], alpha=0.35)
    label = rf"$D = D^*${' ± 2 standard errors' if error > 0 else ''}"
    axes.plot(xs, valley, color=TARGET, lw=1.2, label=label)
    axes.plot(sigma, epsilon, "-", color=PATH, lw=0.8)
    axes.plot(sigma, epsilon, ".", color=PATH, ms=4, label=f"updates 1 to {len(sigma)}")
    axes.plot(sigma[0], epsilon[0], "s", color=PATH, ms=6, label="start")
    last = min(run.config["average"], len(sigma))
    mean = (np.mean(sigma[-last:]), np.mean(epsilon[-last:]))
    axes.plot(*mean, "o", mfc="white", mec=PATH, ms=5, label=f"mean of the last {last} updates")
    axes.plot(*zip(mean, marks[0], strict=True), color=THERMODYNAMIC, lw=1.8, label="Newton step from it to $D^*$")
    axes.plot(*marks[0], "*", color="#f0e442", mec=PATH, mew=0.8, ms=13, label="final parameters: its end")
    if len(marks) > 1:
        axes.plot(*marks[1], "D", color=TARGET, mec="white", ms=7, label="target parameters")
    axes.set(
        xlim=xs,
        ylim=ys,
        xlabel=r"$\sigma$ / nm",
        ylabel=r"$\epsilon$ / kJ mol$^{-1}$",
        title=f"{run.what}: loss by a model $\\ln D = a + b\\sigma + c\\epsilon$\nfitted to all $D$ and gradients",
    )
    axes.locator_params(axis="x", nbins=5)
    axes.legend(loc="best", frameon=True, framealpha=0.85)
    return figure


def draw_diffusion(run: Run):
    """D against the update."""
    d, error, summary = run.column("diffusion") * 1e9, run.column("diffusion_error") * 1e9, run.summary
    target, target_error = (summary["target"][k] * 1e9 for k in ("diffusion", "diffusion_error"))
    updates = run.column("update")
    figure, axes = plt.subplots(figsize=(5.6, 3.6))
    label = r"target $D^* \pm 2$ standard errors" if target_error > 0 else r"target $D^*$"
    axes.axhline(target, color=TARGET, lw=1, label=label)
    axes.axhspan(target - 2 * target_error, target + 2 * target_error, color=TARGET, alpha=0.2, lw=0)
    axes.errorbar(updates, d, 2 * error, fmt="o", ms=3, lw=0.8, color=PATH, label="updates, ± 2 standard errors")
    ends = [(-1.0, "initial", "s", "before", -1), (len(d) + 2.0, "final", "*", "after", 1)]
    for x, key, marker, word, _ in ends:
        value, sd = summary[key]["diffusion"] * 1e9, summary[key]["diffusion_error"] * 1e9
        axes.errorbar(
            x,
            value,
            2 * sd,
            fmt=marker,
            ms=10 if marker == "*" else 6,
            color=DYNAMICAL if key == "initial" else THERMODYNAMIC,
            capsize=3,
            label=f"{word}: {value:.3f} ± {sd:.3f} (bar: ± 2)",
        )
    count = min(run.config["average"], len(d))
    axes.axvspan(len(d) - count + 0.5, len(d) + 0.5, color="0.93", lw=0, zorder=0, label="updates that are averaged")
    axes.set(xlabel="update", ylabel=r"$D$ / $10^{-9}$ m$^2$s$^{-1}$", title=f"{run.what}: self-diffusion")
    axes.set_ylim(top=axes.get_ylim()[1] + 0.25 * np.ptp(axes.get_ylim()))
    axes.legend(loc="upper right", ncols=2)
    return figure


def draw_correlation(run: Run):
    """Correlation function and running integral, before and after."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.5))
    for arrays, color, word in ((run.start, "0.5", "before"), (run.final, DYNAMICAL, "after")):
        t = arrays["times"].astype(float)
        c = arrays["correlation"].astype(float)
        d = running(t, c)
        for axes, values, scale in ((left, c / c[..., :1].mean(), 1), (right, d, 1e3)):
            mean = scale * values.mean((0, 1))
            axes.plot(t, mean, color=color, label=f"{word} ({values[..., 0].size} trajectories)")
            error = 2 * scale * values.mean(0).std(0, ddof=1) / np.sqrt(values.shape[1])
            axes.fill_between(t, mean - error, mean + error, color=color, alpha=0.45, lw=0)
            if word == "after":
                spread = scale * values.std((0, 1))
                label = "spread over trajectories, ± 1 SD"
                axes.fill_between(t, mean - spread, mean + spread, color=color, alpha=0.13, lw=0, label=label)
    target = run.summary["target"]["diffusion"] * 1e9
    right.axhline(target, color=TARGET, lw=1, label=r"target $D^*$")
    left.axhline(0, color="0.7", lw=0.6, zorder=0)
    left.set(
        xlabel="$t$ / ps",
        ylabel=r"$\langle v(0)\cdot v(t)\rangle\ /\ \langle v(0)^2\rangle$",
        title=f"{run.what}: velocity autocorrelation",
    )
    right.set(
        xlabel="$t$ / ps",
        ylabel=r"$\frac{1}{3}\int_0^t\langle v(0)\cdot v(t')\rangle\,dt'$ / $10^{-9}$ m$^2$s$^{-1}$",
        title="running integral (inner bands: ± 2 standard errors)",
    )
    left.legend(loc="upper right")
    right.legend(loc="lower right")
    return figure


def draw_gradients(run: Run):
    """Both parts of the gradient against the number of samples they are estimated from."""
    rng = np.random.default_rng(0)
    final, gradient = run.final, run.gradient
    d = running(final["times"].astype(float), final["correlation"].astype(float))[..., -1].ravel()
    beta = 1 / (BOLTZMANN * run.config["temperature"])
    frame = int(np.argmin(abs(gradient["times"] - run.config["horizon"])))
    figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.5))
    for axes, (name, symbol, _) in zip(panels, PARAMETERS, strict=True):
        scale = SLOPE_SCALE
        dynamical = gradient[name][:, frame].astype(float)
        slopes = final[f"{name}_energy"].astype(float).ravel()
        sizes_from = min(8, len(dynamical))

        def thermodynamic(i, slopes=slopes):
            return -beta * np.mean((d[i] - d[i].mean()) * (slopes[i] - slopes[i].mean())) * len(i) / (len(i) - 1)

        cases = (
            (lambda i, x=dynamical: x[i].mean(), len(dynamical), DYNAMICAL, "dynamical (trajectories)", 0.97),
            (thermodynamic, len(d), THERMODYNAMIC, "thermodynamic (weights)", 1.03),
        )
        for estimate, n, color, label, shift in cases:
            sizes = np.unique(np.geomspace(sizes_from, n, 7).round().astype(int))
            draws = [[estimate(rng.integers(n, size=m)) for _ in range(400)] for m in sizes]
            center, error = scale * estimate(np.arange(n)), 2 * scale * np.std(draws, axis=1)
            axes.errorbar(
                sizes * shift, np.full(len(sizes), center), error, fmt="o", ms=3, capsize=2, color=color, label=label
            )
        axes.axhline(0, color="0.7", lw=0.6, zorder=0)
        axes.axvline(run.config["trajectories"], color="0.6", lw=0.8, ls=":", label="trajectories per update")
        axes.set(
            xscale="log",
            xlim=(0.75 * sizes_from, 1.35 * len(d)),
            xlabel="number of samples",
            ylabel=rf"$\partial D/\partial{symbol}$ / {SLOPE_UNITS[name]}",
            title=rf"{run.what}: $\partial D/\partial{symbol}$ at the final parameters",
        )
        ticks = [2**k for k in range(1, 13) if sizes_from <= 2**k <= 1.2 * len(d)]
        axes.set_xticks(ticks, [str(m) for m in ticks])
        axes.minorticks_off()
    panels[0].set_ylim(top=panels[0].get_ylim()[1] + 0.35 * np.ptp(panels[0].get_ylim()))
    panels[0].legend(loc="upper right")
    figure.suptitle("bars: ± 2 standard errors, by bootstrap, of a mean over so many samples", fontsize=8)
    return figure


def draw_horizon(run: Run):
    """The dynamical gradient and its spread against the integration time."""
    gradient = run.gradient
    t = gradient["times"].astype(float)[1:]
    n = len(gradient["sigma"])
    figure, panels = plt.subplots(2, 2, figsize=(8.2, 5.2), sharex=True)
    for column, (name, symbol, _) in zip(panels.T, PARAMETERS, strict=True):
        values = SLOPE_SCALE * gradient[name].astype(float)[:, 1:]
        mean, spread = values.mean(0), values.std(0, ddof=1)
        error = spread / np.sqrt(n)
        column[0].plot(t, mean, color=DYNAMICAL, label=f"mean of {n} trajectories")
        column[0].fill_between(
            t, mean - 2 * error, mean + 2 * error, color=DYNAMICAL, alpha=0.3, lw=0, label="± 2 standard errors"
        )
        column[0].axhline(0, color="0.7", lw=0.6, zorder=0)
        unit = SLOPE_UNITS[name]
        column[0].set(
            ylabel=rf"$\partial D(t)/\partial{symbol}$ / {unit}",
            title=rf"{run.what}: dynamical $\partial D/\partial{symbol}$",
        )
        column[1].semilogy(t, spread, color=PATH, label="SD over trajectories")
        column[1].semilogy(t, error, color=DYNAMICAL, label="standard error of the mean")
        column[1].semilogy(t, abs(mean), color=DYNAMICAL, ls="--", lw=0.9, label="|mean|")
        column[1].set(ylabel=f"spread / {unit}", xlabel="integration time $t$ / ps")
        shown = spread[t > 0.1 * t[-1]]
        column[1].set_ylim(bottom=max(1e-3 * shown.max(), 0.05 * error[t > 0.1 * t[-1]].min()))
        for axes in column:
            axes.axvline(run.config["horizon"], color="0.5", lw=0.8, ls=":", label="horizon of the fit")
    low, high = panels[0, 0].get_ylim()
    panels[0, 0].set_ylim(low - 0.35 * (high - low), high)
    panels[0, 0].legend(loc="lower left", frameon=True, framealpha=0.9)
    panels[1, 0].legend(loc="lower right", frameon=True, framealpha=0.9)
    return figure


def running(times: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """(1/3)∫ of correlation functions along the last axis, nm²/ps."""
    pieces = 0.5 * (correlation[..., 1:] + correlation[..., :-1]) * np.diff(times)
    return np.concatenate([np.zeros_like(correlation[..., :1]), np.cumsum(pieces, axis=-1)], axis=-1) / 3


if __name__ == "__main__":
    for file in draw(Path(sys.argv[1])):
        print(file)
