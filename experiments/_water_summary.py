"""What is told of a run of `water_ir`: `summary.json`, its goals, and its closing lines."""

from typing import Any

import numpy as np

from . import _water_figures
from ._goals import Goal, at_least, at_most
from ._refine import Outcome
from ._water import NAMES

FITS = {"pair": ("charge", "sigma"), "all": NAMES}
"""What each fit is free to move; all else is as in the target."""

UNITS = {
    "charge": "e",
    "sigma": "nm",
    "bond": "kJ/mol/nm^2",
    "angle": "kJ/mol/rad^2",
    "loss": "sum (I - I*)^2 / sum I*^2 of the spectrum cut at the correlation time, without the bias of its noise",
    "dynamical, thermodynamic": "dL/d ln(parameter)",
    "seconds, wall_time": "s",
}


def mean_parameters(lines: list[dict[str, Any]]) -> dict[str, float]:
    """The geometric mean of the parameters of some updates."""
    return {n: float(np.exp(np.mean([np.log(line[n]) for line in lines]))) for n in NAMES}


def distance(curves: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The relative L2 distance of two mean spectra, of all trajectories `rounds chains frequencies`, and the part of it
    that is noise, from the scatter between chains."""
    mean = lambda x: x.astype(float).mean(0)
    squared = lambda x: float(np.sum(x**2))
    noise = sum(squared(mean(x).std(0, ddof=1)) / x.shape[1] for x in (curves, target))
    away, size = squared(mean(curves).mean(0) - mean(target).mean(0)), squared(mean(target).mean(0))
    return {"relative_l2": float(np.sqrt(away / size)), "noise": float(np.sqrt(noise / size))}


def improvement(target: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """How many times less a spectrum is off after a fit than before, and the standard error by a jackknife over the
    chains of each of the three simulations in turn."""

    def ratio(curves: list[np.ndarray]) -> float:
        t, b, a = curves
        return distance(b, t)["relative_l2"] / distance(a, t)["relative_l2"]

    curves, variance = [target, before, after], 0.0
    for k, c in enumerate(curves):
        n = c.shape[1]
        if n < 3:  # one chain that is left has no scatter
            return ratio(curves), np.nan
        left = [ratio([*curves[:k], np.delete(c, i, axis=1), *curves[k + 1 :]]) for i in range(n)]
        variance += (n - 1) * float(np.var(left))
    return ratio(curves), float(np.sqrt(variance))


def summarize(config: Any, waters: int, true: dict[str, float], fits, runs, check) -> dict[str, Any]:
    """All numbers of `summary.json` but timing and goals: the same for a run left alone and one that was resumed.

    **Arguments:** how many molecules there are; the parameters of the target; of every fit the first parameters and
    the lines of its history; the arrays of the evaluations and of the check.
    """
    told_of = {}
    for name, (start, history) in fits.items():
        last = mean_parameters(history[-config.average :])
        told_of[name] = {
            "initial": start,
            "final": last,
            "recovered": {n: 1 - (last[n] - true[n]) / (start[n] - true[n]) for n in FITS[name]},
            "updates": len(history),
        }
    target, before, final = (runs[name] for name in ("target", "before", "final"))
    times, error = improvement(target["full"], before["full"], final["full"])
    spectra = {
        kind: {"before": distance(before[kind], target[kind]), "after": distance(final[kind], target[kind])}
        for kind in ("low", "full")
    }
    summary = {
        "units": UNITS,
        "waters": waters,
        "target": true,
        "fits": told_of,
        "parameters_are": f"the geometric mean of the last {config.average} updates",
        "spectra": spectra,
        "improvement": {"times": times, "error": error if np.isfinite(error) else None},
        "temperature": {name: float(arrays["temperature"].mean()) for name, arrays in runs.items()},
        "gradient": config.gradient,
    }
    if check:
        deviation = np.abs(check["adjoint"] / check["difference"] - 1)
        summary["gradient_check"] = [
            {"time": float(t), **dict(zip(NAMES, map(float, e), strict=True))}
            for t, e in zip(check["times"], deviation, strict=True)
        ]
    return summary


def told(config: Any, summary: dict[str, Any]) -> Outcome:
    """What the run is judged by, and what its closing lines say."""
    fits, spectra = summary["fits"], summary["spectra"]
    last = fits["all" if "all" in fits else "pair"]
    moves = ", ".join(f"{n} {last['initial'][n]:.4g} -> {last['final'][n]:.4g}" for n in last["recovered"])
    back = ", ".join(f"{n} {r:.0%}" for n, r in last["recovered"].items())
    aims = ", ".join(f"{summary['target'][n]:.4g}" for n in last["recovered"])
    a, b = spectra["full"]["before"], spectra["full"]["after"]
    return Outcome(
        summary=summary,
        goals=goals(config, summary, last["recovered"]),
        minutes=15,
        fitted=f"{', '.join(last['recovered'])} of {summary['waters']} q-SPC/Fw waters at {config.temperature:g} K to"
        f" their infrared spectrum cut at {config.correlation:g} ps",
        moved=f"{moves} (target {aims}).",
        well=f"of the way back {back}; relative L2 of the uncut spectrum {a['relative_l2']:.3f} ->"
        f" {b['relative_l2']:.3f} (noise {b['noise']:.3f}), {summary['improvement']['times']:.1f} times less.",
        trajectories=f"of {config.correlation:g} ps each way",
        draw=_water_figures.draw,
    )


def goals(config: Any, summary: dict[str, Any], recovered: dict[str, float]) -> list[Goal]:
    """The way back of every parameter that moved, the spectrum that was not fitted, and the gradient of the loss."""
    spectrum = summary["improvement"]
    found = [at_least(f"{n}, part of the way back", value, 0.8) for n, value in recovered.items()]
    found.append(at_least("error of the uncut spectrum, times less", spectrum["times"], 5, spectrum["error"]))
    for entry in summary.get("gradient_check", []):
        if np.isclose(entry["time"], config.correlation):
            worst = max(entry[n] for n in NAMES)
            found.append(at_most(f"dL/dθ against differences at {entry['time']:g} ps, relative", worst, 1e-3))
    return found
