"""The figures of `argon_isobar`, from the files of its folder: `python -m experiments._isobar_figures DIR`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ._figures import DYNAMICAL, PATH, TARGET, THERMODYNAMIC, save_figures
from ._folder import read_json


def draw(folder: Path) -> list[Path]:
    """Draws both figures into the folder of a run; returns their files."""
    summary = read_json(folder / "summary.json")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    liquids = len(summary["points"]["temperature"])
    return save_figures(folder, {"isobar": lambda: _isobar(summary), "updates": lambda: updates(history, liquids)})


def _isobar(summary):
    """Densities and heats along the isobar, and below how far they are from what is measured."""
    figure, panels = plt.subplots(2, 2, figsize=(6.6, 4.6), height_ratios=(2, 1), sharex="col")
    wanted, t = summary["points"], np.array(summary["points"]["temperature"])
    kinds = (("density", "density / g cm⁻³"), ("hvap", "enthalpy of vaporization / kJ mol⁻¹"))
    for (top, bottom), (kind, label), letter in zip(panels.T, kinds, "ab", strict=True):
        top.plot(t, wanted[kind], "o-", color=TARGET, ms=4, lw=1, label="measured")
        for when, color, mark in (("before", THERMODYNAMIC, "s"), ("after", DYNAMICAL, "D")):
            x, e = (np.array(summary[when][name]) for name in (kind, f"{kind}_error"))
            style = {"fmt": f"{mark}--", "color": color, "ms": 3, "lw": 0.8, "capsize": 2}
            top.errorbar(t, x, 2 * e, label=f"{when} the fit", **style)
            share = 100 * (x / wanted[kind] - 1)
            bottom.errorbar(t, share, 200 * e / wanted[kind], **style)
            bottom.fill_between(
                t, share - 200 * e / wanted[kind], share + 200 * e / wanted[kind], color=color, alpha=0.2
            )
        bottom.axhline(0, color=TARGET, lw=0.8)
        top.set(ylabel=label, title=f"({letter}) bars and bands: two standard errors")
        bottom.set(xlabel="temperature / K", ylabel="deviation / %")
    panels[0, 0].legend(loc="lower left")
    return figure


def updates(history, liquids):
    """The loss, and how many samples counted of that many liquids, which come first."""
    figure, (loss, samples) = plt.subplots(1, 2, figsize=(6.6, 2.6))
    update = [line["update"] for line in history]
    loss.semilogy(update, [line["loss"] for line in history], "o-", color=PATH, ms=3, lw=1)
    loss.set(xlabel="update", ylabel="loss", title="(a) loss of the parameters before the update")
    drawn = np.array([line["drawn"] for line in history])
    counted = np.array([line["effective_samples"] for line in history])
    liquid = counted[:, :liquids]
    samples.plot(update, liquid, "o-", color=THERMODYNAMIC, ms=3, lw=0.8)
    when, which = np.nonzero(drawn[:, :liquids])
    samples.plot(np.array(update)[when], liquid[when, which], "k^", ms=4, label="samples drawn")
    samples.set(xlabel="update", ylabel="effective samples", title="(b) of every temperature", ylim=(0, None))
    samples.legend()
    for axes in (loss, samples):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


if __name__ == "__main__":
    print(*draw(Path(sys.argv[1])), sep="\n")
