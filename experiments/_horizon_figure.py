"""The figure of `gradient_horizon`, from the files of its folder alone: `python -m experiments._horizon_figure DIR`."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_arrays, read_json
from ._lj_figures import PARAMETERS, SLOPE_SCALE, SLOPE_UNITS


def draw(folder: Path) -> Path:
    """Draws the figure into the folder of a run; returns its file."""
    a = {k: v if v.dtype.kind == "U" else v.astype(float) for k, v in read_arrays(folder / "horizon.npz").items()}
    config, summary = read_json(folder / "config.json")["config"], read_json(folder / "summary.json")
    return save_figures(folder, {"gradient_horizon": lambda: _panels(a, config, summary)})[0]


def _panels(a, config, summary):
    t = a["horizons"]
    figure, panels = plt.subplots(3, 2, figsize=(8.2, 7.6), sharex=True)
    (value, correlation), (sigma, epsilon), (ratio, growth) = panels

    _band(value, t, 1e3 * a["value"], 1e3 * a["value_error"], PATH, None)
    value.set(ylabel=r"$D(T)$ / $10^{-9}$ m$^2$s$^{-1}$", title=r"(a) $D$ from trajectories of length $T$")

    _band(correlation, a["times"], a["correlation"], a["correlation_error"], PATH, None)
    correlation.axhline(0, color="0.7", lw=0.6, zorder=0)
    correlation.set(
        ylabel=r"$\langle v(0)\cdot v(T)\rangle\ /\ \langle v(0)^2\rangle$", title="(b) velocity autocorrelation"
    )

    colors = (DYNAMICAL, THERMODYNAMIC)
    for k, (axes, letter) in enumerate(((sigma, "c"), (epsilon, "d"))):
        name, symbol, _ = PARAMETERS[k]
        scale = SLOPE_SCALE
        mean, error = scale * a["gradient"][:, k], scale * a["gradient_error"][:, k]
        _band(axes, t, mean, error, colors[k], None)
        axes.axhline(0, color="0.7", lw=0.6, zorder=0)
        # beyond, the noise would hide everything else
        shown = error <= max(0.5 * np.max(np.abs(mean[a["signal_to_noise"][:, k] >= 3]), initial=0), 1.01 * error.min())
        low, high = np.min((mean - 2 * error)[shown]), np.max((mean + 2 * error)[shown])
        axes.set_ylim(low - 0.15 * (high - low), high + 0.3 * (high - low))
        axes.set(
            ylabel=rf"$\partial D/\partial{symbol}$ / {SLOPE_UNITS[name]}",
            title=rf"({letter}) dynamical gradient $\partial D(T)/\partial{symbol}$",
        )
        ratio.semilogy(t, a["signal_to_noise"][:, k], color=colors[k], label=rf"$\partial D/\partial{symbol}$")
        scaled = a["gradient_error"][:, k] / a["gradient_error"][-1, k]
        label = rf"error of $\partial D/\partial{symbol}$, shifted"
        growth.plot(t, np.log(scaled) + a["growth"][-1], color=colors[k], lw=0.9, ls=("--", "-.")[k], label=label)

    ratio.axhline(config["threshold"], color="0.5", lw=0.8, ls="-.")
    ratio.annotate(f"threshold {config['threshold']:g}", (t[-1], config["threshold"]), (0, 3), ha="right", fontsize=7.5,
                   textcoords="offset points")  # fmt: skip
    ratio.axhline(1, color="0.7", lw=0.6, zorder=0)
    ratio.set(
        ylabel="signal-to-noise ratio", xlabel="length of the trajectories $T$ / ps",
        title=f"(e) |mean| / standard error, {config['trajectories']} trajectories",
    )  # fmt: skip
    ratio.set_ylim(bottom=max(ratio.get_ylim()[0], 0.02))

    _band(growth, t, a["growth"], a["growth_error"], PATH, r"$\langle\ln|\delta(T)|/|\delta(0)|\rangle$")
    rate, late = float(a["lyapunov"]), t >= 0.5 * t[-1]
    line = np.mean(a["growth"][late]) + rate * (t[late] - np.mean(t[late]))
    label = rf"$\lambda$ = {rate:.2f} $\pm$ {float(a['lyapunov_error']):.2f} ps$^{{-1}}$"
    growth.plot(t[late], line, color="#cc79a7", lw=5, alpha=0.5, zorder=0, label=label)
    growth.set(
        ylabel="logarithm of growth",
        xlabel="length of the trajectories $T$ / ps",
        title="(f) growth of perturbations and of noise",
    )
    growth.set_ylim(bottom=min(0, a["growth"].min()) - 1)

    for axes in panels.flat:
        axes.set_xlim(0, t[-1])
        if np.isfinite(a["decay"]):
            axes.axvline(a["decay"], color="0.6", lw=0.8, ls=":", label="decay of the correlation")
        if "settled" in a:  # not in runs of old
            axes.axvline(a["settled"], color="0.3", lw=0.9, ls="--", label="$D$ has settled")
        if np.isfinite(a["proposed"]):
            axes.axvline(a["proposed"], color=TARGET, lw=1.1, ls="-", label="proposed horizon")
    value.legend(loc="lower right")
    ratio.legend(*(x[:2] for x in ratio.get_legend_handles_labels()), loc="upper right")
    growth.legend(*(x[:4] for x in growth.get_legend_handles_labels()), loc="lower right")
    figure.suptitle(
        f"{summary['atoms']} argon atoms, {config['temperature']:g} K; bands: ± 2 standard errors", fontsize=9
    )
    return figure


def _band(axes, t, mean, error, color, label):
    axes.plot(t, mean, color=color, lw=1.2, label=label)
    axes.fill_between(t, mean - 2 * error, mean + 2 * error, color=color, alpha=0.25, lw=0)


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
