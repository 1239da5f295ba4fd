"""The figures of `refine_foundation`, from the files of its folder: `python -m experiments._refine_foundation_figures
DIR`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import reverlet as rv

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_arrays, read_json

COLORS = {"before": THERMODYNAMIC, "after": DYNAMICAL}


def draw(folder: Path) -> list[Path]:
    """Draws all figures into the folder of a run; returns their files."""
    summary = read_json(folder / "summary.json")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    runs = {name: read_arrays(folder / f"{name}.npz") for name in COLORS}
    return save_figures(
        folder,
        {
            "updates": lambda: _updates(summary, history),
            "vibrations": lambda: _vibrations(summary, runs),
            "forgetting": lambda: _forgetting(summary["crystals"]["of"]),
        },
    )


def _updates(summary, history):
    """The line at every update, and before and after in runs of their own."""
    figure, panel = plt.subplots(figsize=(4.6, 3))
    update, line, error = (np.array([h[name] for h in history]) for name in ("update", "line", "line_error"))
    panel.axhline(summary["target"], color=TARGET, lw=1, label="experiment")
    panel.errorbar(update - 1, line, 2 * error, color=PATH, marker="o", ms=3, lw=1, capsize=2, label="at an update")
    for x, (name, color) in zip((-0.4, len(history) + 0.2), COLORS.items(), strict=True):
        found = summary[name]
        panel.errorbar(
            x,
            found["line"],
            2 * found["line_error"],
            fmt="D",
            color=color,
            ms=5,
            capsize=2,
            label=f"{name}, longer run",
        )
    panel.set(
        xlabel="updates made", ylabel="line / cm⁻¹", title="Raman line of diamond at 300 K (bars: ± 2 standard errors)"
    )
    panel.legend(loc="lower right")
    return figure


def _vibrations(summary, runs):
    """What the sublattices' motion has at each wavenumber, and the harmonic vibrations."""
    figure, (spectrum, bars) = plt.subplots(1, 2, figsize=(8.4, 3), width_ratios=(3, 4))
    target = summary["target"]
    nu = np.linspace(0, 1.4 * target, 700)
    for name, run in runs.items():
        t, u = run["times"], run["records"]
        damped = np.sin(np.pi * (np.arange(len(t)) + 0.5) / len(t))[:, None] * u
        waves = np.exp(-1j * rv.units.WAVENUMBER * nu[:, None] * (t - t[0]))
        power = np.sum(np.abs(np.einsum("wt,std->swd", waves, damped)) ** 2, axis=(0, 2))
        spectrum.plot(nu, power / power.max(), color=COLORS[name], lw=1.2, label=name)
    spectrum.axvline(target, color=TARGET, lw=1, label="experiment")
    spectrum.set(xlabel="wavenumber / cm⁻¹", ylabel="power / largest", title="(a) motion of the sublattices, 300 K")
    spectrum.legend(loc="upper left")
    wanted = {"Γ": target, **summary["boundary"]}
    x = np.arange(len(wanted))
    for k, (name, color) in enumerate(COLORS.items()):
        of = summary["crystals"][name]
        found = (of["gamma"], *(of[mode] for mode in summary["boundary"]))
        off = [100 * (a / b - 1) for a, b in zip(found, wanted.values(), strict=True)]
        bars.bar(x + 0.38 * (k - 0.5), off, 0.36, color=color, label=name)
    bars.axhline(0, color=TARGET, lw=1)
    bars.set(ylabel="apart from experiment / %", title="(b) harmonic vibrations; only Γ was fitted")
    bars.set_xticks(x, [f"{name}\n{v:g} cm⁻¹" for name, v in wanted.items()])
    bars.legend(loc="best")
    return figure


def _forgetting(crystals):
    """What became of the predictions for all crystals."""
    figure, panels = plt.subplots(1, 3, figsize=(9, 3))
    x, names = np.arange(len(crystals)), list(crystals)
    of = lambda key: np.array([crystals[name][key] for name in names])
    colors = [DYNAMICAL if name == "diamond" else PATH for name in names]
    shown = (
        (100 * of("forces"), "forces / %", "(a) change of forces, over their size"),
        (100 * of("relative") / of("relative_before"), "relative energies / %", "(b) of energies within a crystal"),
        (of("energy"), "energy / kJ mol⁻¹ per atom", "(c) change of the energy at the sites"),
    )
    for panel, (values, label, title) in zip(panels, shown, strict=True):
        panel.bar(x, values, color=colors)
        panel.set(ylabel=label, title=title)
        panel.set_xticks(x, names, rotation=60)
        panel.axhline(0, color=PATH, lw=0.6)
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
