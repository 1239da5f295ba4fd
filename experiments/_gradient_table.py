"""What `gradient_methods` found, as numbers and as a table."""

from typing import Any

import numpy as np

from ._gradient_cases import Case


def summarize(case: Case, a: dict[str, np.ndarray]) -> dict[str, Any]:
    """Gradients, errors, biases and costs of every estimator at every horizon; `None` where it was not run.

    The reference of a horizon is the estimator without bias by construction, but for locality, that has the smallest
    error there; of static properties, reweighting of many more samples.
    """
    n = a["each"].shape[1]
    mean, error = a["each"].mean(axis=1), a["each"].std(axis=1, ddof=1) / np.sqrt(n)
    at = np.arange(len(a["horizons"]))
    if case.static:
        by = ["reweighting of many samples"] * len(at)
        reference, reference_error = (np.full(len(at), x) for x in a["reference"])
        bias_error = np.hypot(error, reference_error)
    else:
        allowed = np.where(a["exact"][:, None] & np.isfinite(error), error, np.inf)
        best = np.argmin(allowed, axis=0)
        by = [str(a["names"][k]) for k in best]
        reference, reference_error = mean[best, at], error[best, at]
        # of the same starts: errors are of differences, trajectory by trajectory
        away = a["each"] - a["each"][best, :, at].T[None]
        bias_error = away.std(axis=1, ddof=1) / np.sqrt(n)
    bias = mean - reference
    needed = n * (3 * error / abs(reference)) ** 2
    numbers = lambda x: [float(v) if np.isfinite(v) else None for v in x]
    rows = {
        str(name): {
            "gradient": numbers(mean[k]),
            "error": numbers(error[k]),
            "bias": numbers(bias[k]),
            "bias_error": numbers(bias_error[k]),
            "seconds": numbers(a["seconds"][k]),
            "trajectories_for_3": numbers(needed[k]),
            "seconds_for_3": numbers(needed[k] * a["seconds"][k]),
        }
        for k, name in enumerate(a["names"])
    }
    return {
        "what": case.what,
        "unit": case.unit,
        "trajectories": n,
        "horizons": [float(t) for t in a["horizons"]],
        "reference": numbers(reference),
        "reference_error": numbers(reference_error),
        "reference_by": by,
        "estimators": rows,
    }


def table(cases: tuple[Case, ...], summary: dict[str, Any]) -> str:
    """In Markdown: every estimator at some horizons."""
    lines = []
    for case in cases:
        s = summary[case.name]
        chosen = sorted({0, len(s["horizons"]) // 2, len(s["horizons"]) - 1})
        scale, power = _scale(max(abs(x) for x in s["reference"] if x is not None))
        lines += [f"**{s['what']}**, {power}{s['unit']}; {s['trajectories']} trajectories", ""]
        if case.static:
            reference = _pair(s["reference"][0] / scale, s["reference_error"][0] / scale)
            lines += [f"Reference: {reference}, {s['reference_by'][0]}.", ""]
        lines += ["| estimator | horizon, ps | gradient | bias | trajectories for 3:1 | CPU s for 3:1 |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, row in s["estimators"].items():
            for k in chosen:
                if row["gradient"][k] is None:
                    continue
                own = s["reference_by"][k] == name
                gradient = _pair(row["gradient"][k] / scale, row["error"][k] / scale)
                bias = "reference" if own else _pair(row["bias"][k] / scale, row["bias_error"][k] / scale)
                needed, seconds = _two_digits(row["trajectories_for_3"][k]), _two_digits(row["seconds_for_3"][k])
                lines.append(f"| {name} | {s['horizons'][k]:g} | {gradient} | {bias} | {needed} | {seconds} |")
        lines.append("")
    return "\n".join(lines)


def _scale(size: float) -> tuple[float, str]:
    """The power of a thousand that numbers below a twentieth are told in, and how it is written before a unit."""
    exponent = 0 if size == 0 or size >= 0.05 else 3 * int(np.floor(np.log10(size) / 3))
    superscript = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return 10.0**exponent, f"10{superscript} " if exponent else ""


def _two_digits(value: float) -> str:
    """A number to two digits, without exponents: 0.0056, 31, 1,600."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _pair(value: float, error: float) -> str:
    """A value and its error to two digits of the error."""
    if not np.isfinite(error) or error <= 0:
        return f"{value:.2g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{round(value, digits) + 0.0:.{digits}f} ± {error:.{digits}f}"  # no minus before zero
