"""What is told of a run of `water_refine`: `summary.json`, its goals, and its closing lines."""

from typing import Any

import numpy as np

from . import _water_refine_figures
from ._chains import mean_over_chains
from ._goals import Goal, at_least
from ._refine import Outcome
from ._refine_targets import Aim
from ._water_summary import distance

UNITS = {
    "ir": "sum w (I - I*)^2 / sum w I*^2 of the spectrum cut at the correlation time, without the bias of its noise",
    "density": "((p - p*) / pressure_scale)^2 at the volume of the box, without the bias of its noise",
    "pressure": "bar",
    "diffusion": "1e-9 m^2/s, of this box, not corrected for its size; among losses_held_out, ((D - D*) /"
    " diffusion_scale)^2 of diffusion_cut, without the bias of its noise",
    "diffusion_cut": "the same, by velocity correlations that end where the trajectories of the loss do",
    "watched_along": "diffusion, 1e-9 m^2/s, corrected for the size of the box; peak_OO, angstrom",
    "forgetting": "mean squared error of forces on labels over the mean square of these forces",
    "temperature": "K",
    "moved": "root mean square of the change over that of the start",
    "seconds, wall_time": "s",
}
DIFFUSION = 1e3  # nm²/ps, in 1e-9 m²/s


def summarize(
    config: Any, aim: Aim, waters: int, history: list[dict[str, Any]], moved: dict[str, float], target, before, final
) -> dict[str, Any]:
    """All numbers of `summary.json` but timing and goals: the same for a run left alone and one that was resumed."""
    runs = {"before": before, "after": final}
    if "diffusion" in target:
        runs["target"] = target
    measured = {name: measured_of(arrays) for name, arrays in runs.items()}
    losses = {name: aim.losses(arrays) for name, arrays in (("before", before), ("after", final))}
    for found in losses.values():
        found["total"] = sum(found[name] for name in config.targets.split(","))
    curves = lambda arrays, kind: arrays[kind][..., arrays["wavenumbers"] <= 4000]
    spectra = {}
    for kind in ("low", "full"):
        spectra[kind] = {name: _away(curves(runs[name], kind), curves(target, kind)) for name in ("before", "after")}
    return {
        "units": UNITS,
        "waters": waters,
        "targets": config.targets,
        "known": bool(config.perturbation),
        "updates": len(history),
        "losses_held_out": losses,
        "spectra": spectra,
        "measured": measured,
        "target_pressure": aim.pressure,
        "pull": pull(history),
        "watched_along": {line["update"]: line["watched"] for line in history if "watched" in line},
        "forgetting": [line["forgetting"] for line in history if "forgetting" in line],
        "moved": moved,
        "gradient": config.gradient,
    }


def pull(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The mean cosine between the gradients of both targets, over the updates in which neither was reached, with its
    standard error, and whether the targets contradict each other: whether it is negative by more than three of these.
    `None` with fewer than five such updates."""
    names = ("ir", "density", "diffusion")
    both = [x["cosine"] for x in history if "cosine" in x and all(x.get(name, 1) > 0 for name in names)]
    if len(both) < 5:
        return None
    value, error = float(np.mean(both)), float(np.std(both, ddof=1) / np.sqrt(len(both)))
    return {"cosine": value, "error": error, "updates": len(both), "contradict": value + 3 * error < 0}


def _contradiction(pull: dict[str, Any] | None) -> str:
    if pull is None or not pull["contradict"]:
        return ""
    return (
        " The targets contradict each other beyond their errors: the cosine between their gradients is"
        f" {pull['cosine']:.2f}±{pull['error']:.2g}."
    )


def _away(curves: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """As `distance`; an experiment has no chains."""
    if target.shape[1] > 1:
        return distance(curves, target)
    both = np.concatenate([target, target], axis=1)
    return distance(curves, both)


def measured_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of an evaluation, with errors."""
    found = {name: mean_over_chains(arrays[name]) for name in ("pressure", "temperature")}
    for name in ("diffusion", "diffusion_cut"):
        value, error = mean_over_chains(arrays[name])
        found[name] = (DIFFUSION * value, DIFFUSION * error)
    told = {name: {"value": value, "error": error} for name, (value, error) in found.items()}
    return {**told, "whole": float(arrays["whole"].mean())}


def told(config: Any, summary: dict[str, Any]) -> Outcome:
    """What the run is judged by, and what its closing lines say."""
    losses, measured, full = summary["losses_held_out"], summary["measured"], summary["spectra"]["full"]
    a, b = measured["before"], measured["after"]
    change = lambda name: f"{losses['before'][name]:.3g} -> {losses['after'][name]:.3g}"
    value = lambda m, name: f"{m[name]['value']:.3g}±{m[name]['error']:.2g}"
    off = lambda found: f"{found['relative_l2']:.3f}"
    aimed = "its own spectrum and pressure" if summary["known"] else "experiment"
    free = "" if "diffusion" in summary["targets"] else "not fitted, "
    return Outcome(
        summary=summary,
        goals=goals(config, summary),
        minutes=20 if config.preset == "self" else 30,
        fitted=f"a surface of {summary['waters']} waters to {aimed} ({summary['targets']})",
        moved=f"loss on samples held out {change('total')} (spectrum {change('ir')}, pressure {change('density')}).",
        well=f"relative L2 of the uncut spectrum {off(full['before'])} -> {off(full['after'])}, noise"
        f" {full['after']['noise']:.3f}; pressure {value(a, 'pressure')} -> {value(b, 'pressure')} bar, aim"
        f" {summary['target_pressure']:.0f}; {free}D {value(a, 'diffusion')} -> {value(b, 'diffusion')} 1e-9"
        " m²/s.",
        trajectories=f"of {config.reach:g} ps each way",
        draw=_water_refine_figures.draw,
    )


def goals(config: Any, summary: dict[str, Any]) -> list[Goal]:
    """The loss on samples that no update saw and, where the answer is known, the uncut spectrum."""
    losses, full = summary["losses_held_out"], summary["spectra"]["full"]
    times = lambda name: losses["before"][name] / max(losses["after"][name], 1e-9)
    if summary["known"]:
        ratio = full["before"]["relative_l2"] / full["after"]["relative_l2"]
        return [
            at_least("loss on samples held out, times less", times("total"), 5),
            at_least("error of the uncut spectrum, times less", ratio, 3),
        ]
    return [at_least(f"loss of {name} on samples held out, times less", times(name), 2)
            for name in config.targets.split(",")]  # fmt: skip
