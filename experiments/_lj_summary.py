"""What is told of a run of `lj_diffusion`: `summary.json`, its goals, and its closing lines."""

from typing import Any

import numpy as np

from . import _lj_figures
from ._argon import Liquid, diffusion_of
from ._chains import mean_over_chains
from ._goals import Goal, agrees
from ._refine import Outcome

UNITS = {
    "sigma": "nm",
    "epsilon": "kJ/mol",
    "diffusion": "m^2/s",
    "dynamical, thermodynamic": "dD/dsigma in m^2/s/nm, dD/depsilon in m^2/s per kJ/mol",
    "loss": "1e6 (D - D*)^2, D in nm^2/ps",
    "temperature": "K",
    "wall_time, seconds": "s",
}


def local_model(history: list[dict[str, Any]]) -> dict[str, float]:
    """ln D = intercept + slopes·(σ, ε): weighted least squares to every D and gradient of the history."""
    rows, values = [], []
    for line in history:
        d = line["diffusion"]
        rows.append(np.array([1, line["sigma"], line["epsilon"]]) * d / line["diffusion_error"])
        values.append(np.log(d) * d / line["diffusion_error"])
        for k, name in enumerate(("sigma", "epsilon")):
            parts = [line["dynamical"], line["thermodynamic"]]
            error = np.hypot(*(p[f"{name}_error"] for p in parts))
            row = np.zeros(3)
            row[1 + k] = d / error
            rows.append(row)
            values.append(sum(p[name] for p in parts) / error)
    scale = np.array([1, 0.3, 1.0])  # of the columns, for a well-conditioned problem
    solution = np.linalg.lstsq(np.array(rows) / scale, np.array(values), rcond=None)[0] / scale
    return dict(zip(("intercept", "sigma", "epsilon"), map(float, solution), strict=True))


def summarize(config: Any, liquid: Liquid, start, target, history, parameters, final) -> dict[str, Any]:
    """All numbers of `summary.json` but the timing: the same for a run left alone and one that was resumed."""
    before, before_error = diffusion_of(start)
    after, after_error = diffusion_of(final)
    combined = float(np.hypot(after_error, target["diffusion_error"]))
    last = np.array([line["diffusion"] for line in history[-config.average :]])
    model = local_model(history)
    temperature, temperature_error = mean_over_chains(final["temperature"])
    known = config.structure is None or config.target is None
    excess = after - target["diffusion"]
    return {
        "units": UNITS,
        "initial": {
            "sigma": config.sigma,
            "epsilon": config.epsilon,
            "diffusion": before,
            "diffusion_error": before_error,
        },
        "final": {
            "sigma": parameters[0],
            "epsilon": parameters[1],
            "diffusion": after,
            "diffusion_error": after_error,
            "samples": int(final["temperature"].size),
            "temperature": temperature,
            "temperature_error": temperature_error,
            "parameters_are": f"the mean of the last {len(last)} updates, and one Newton step from it to D*",
        },
        "target": {
            "sigma": config.target_sigma if known else None,
            "epsilon": config.target_epsilon if known else None,
            **{k: target[k] for k in ("diffusion", "diffusion_error", "source")},
        },
        "deviation": {
            "diffusion": excess,
            "combined_error": combined,
            "in_combined_errors": excess / combined if combined > 0 else None,
            "within_two_combined_errors": abs(excess) <= 2 * combined,
        },
        "last_updates": {
            "count": len(last),
            "diffusion": float(np.mean(last)),
            "diffusion_error": float(np.std(last, ddof=1) / np.sqrt(len(last))) if len(last) > 1 else None,
        },
        "log_linear_model": model,
        "distance_to_valley": {
            "meaning": "how far the final parameters are from the line D = D*, along one parameter alone",
            "sigma": -excess / after / model["sigma"],
            "sigma_error": abs(combined / after / model["sigma"]),
            "epsilon": -excess / after / model["epsilon"],
            "epsilon_error": abs(combined / after / model["epsilon"]),
        },
        "gradient": config.gradient,
        "updates": len(history),
        "atoms": liquid.topology.num_atoms,
        "element": liquid.topology.elements[0],
        "cutoff": liquid.potential.cutoff,
    }


def told(config: Any, summary: dict[str, Any]) -> Outcome:
    """What the run is judged by, and what its closing lines say."""
    a, b, t, dev = (summary[k] for k in ("initial", "final", "target", "deviation"))
    d = lambda x: f"{x['diffusion'] * 1e9:.3f} ± {x['diffusion_error'] * 1e9:.3f}"
    known = "" if t["sigma"] is None else f" (target {t['sigma'] * 10:.3f} Å, {t['epsilon']:.3f} kJ/mol)"
    times = (
        "" if dev["in_combined_errors"] is None else f", {abs(dev['in_combined_errors']):.1f} combined standard errors"
    )
    return Outcome(
        summary=summary,
        goals=goals(summary),
        minutes=5,
        fitted=f"Lennard-Jones sigma and epsilon of {summary['atoms']} {summary['element']} atoms at"
        f" {config.temperature:g} K to D* = {d(t)} 1e-9 m²/s ({t['source']})",
        moved=f"sigma {a['sigma'] * 10:.3f} -> {b['sigma'] * 10:.3f} Å, epsilon {a['epsilon']:.4f} ->"
        f" {b['epsilon']:.4f} kJ/mol{known}; D alone fixes a line of such pairs.",
        well=f"D {d(a)} -> {d(b)} 1e-9 m²/s; off the target by {dev['diffusion'] / t['diffusion']:+.1%}{times}.",
        trajectories=f"over {config.horizon:g} ps each",
        draw=_lj_figures.draw,
    )


def goals(summary: dict[str, Any]) -> list[Goal]:
    """What the paper's Figure 2 was judged by: D of an independent evaluation, and of the last updates."""
    after, target, last = (summary[k] for k in ("final", "target", "last_updates"))
    errors = [x["diffusion_error"] or np.nan for x in (after, last)]
    combined = np.hypot(errors, target["diffusion_error"])
    return [
        agrees("D after the fit, m²/s", after["diffusion"], target["diffusion"], combined[0]),
        agrees("mean D of the last updates, m²/s", last["diffusion"], target["diffusion"], combined[1]),
    ]
