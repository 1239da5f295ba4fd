"""One potential for a series of state points, learned at some of them and measured at all, beside potentials that were
learned at one each: what `pair_temperatures` and `pair_mixture` share."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import reverlet as rv

from ._folder import Folder
from ._goals import Goal, at_most
from ._pairs import Curves, Liquid, Point
from ._pairs_room import Pairs, learned, measured, prepared
from ._pairs_run import closed, opened, stages
from ._pairs_transfer_figures import draw


@dataclasses.dataclass(frozen=True)
class Series:
    """A series of state points that differ in one number.

    **Arguments:** `values` of that number, of which the first `trained` are trained; `at`, the liquid at some of them;
    `truth`, the potential that makes the target; `told`, how a value is told, such as `"kT = {:g} ε"`; `singles`, how
    many simulations a fit to one alone has, or 0.
    """

    values: tuple[float, ...]
    trained: int
    at: Callable[[tuple[float, ...]], Liquid]
    truth: Callable[[Point], rv.AbstractPotential]
    told: str
    singles: int

    def kind(self, k: int) -> str:
        """Of a value."""
        return "trained" if k < self.trained else "not trained"


def fitted(
    c: Pairs, series: Series, true: Callable[[np.ndarray], np.ndarray], folder: Folder
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Potentials (pairs, knots) and what all of them were measured to give (points, pairs, bins); of `true` energies
    (pairs, knots) beside them."""
    key = stages(c)
    everywhere = series.at(series.values)
    target = folder.array_stage(
        "target.npz", lambda: measured(c, everywhere, series.truth, c.reference, key(0), keep=True)
    )
    whole, _ = prepared(c, everywhere, target, key(1))

    def of(chosen: list[int], method: str, simulations: int, name: str, k: int) -> np.ndarray:
        """What a method makes of some of the state points."""
        task, states = prepared(c, series.at(tuple(series.values[i] for i in chosen)), target, key(1), chosen)
        sized = dataclasses.replace(c, simulations=simulations, settling=min(c.settling, simulations))
        return learned(sized, method, task, states, key(k), folder, name)

    found, trained = {}, list(range(series.trained))
    for k, method in enumerate(c.method):
        found[method] = of(trained[:1] if method == "ibi" else trained, method, c.simulations, method, 2 + k)
    for i, value in enumerate(series.values if series.singles else ()):
        found[f"single-{value:g}"] = of([i], "difftre", series.singles, f"single-{value:g}", 20 + i)
    curves = {"r": whole.r, "truth": true(whole.r), **found}
    curves = folder.array_stage("potentials.npz", lambda: curves)

    def structure():
        runs = {"r": everywhere.structure.centers, "target": target["g"], "target_error": target["error"]}
        curve = lambda name: Curves(jnp.asarray(curves[name], jnp.float32), whole.first, c.cutoff)
        for k, method in enumerate(c.method):
            one = measured(c, everywhere, curve(method), c.check, key(40 + k))
            runs |= {method: one["g"], f"{method}_error": one["error"]}
        if series.singles:
            singles = [
                measured(c, series.at((v,)), curve(f"single-{v:g}"), c.check, key(50 + i))
                for i, v in enumerate(series.values)
            ]
            runs["single"] = np.concatenate([one["g"] for one in singles])
            runs["single_error"] = np.concatenate([one["error"] for one in singles])
        return runs

    return curves, folder.array_stage("structure.npz", structure)


def summarized(c: Pairs, series: Series, curves: dict[str, np.ndarray], runs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Mean squared errors of g at all state points, and what noise of both runs makes of them; and the largest errors
    of u of all pairs of species, but for a constant at the cutoff, where any g is above 0.1."""
    noise = lambda name: np.mean(runs[f"{name}_error"] ** 2 + runs["target_error"] ** 2, axis=(1, 2))
    level = lambda u: u - u[:, -1:]
    seen = np.stack(
        [
            np.max([np.interp(curves["r"], runs["r"], g) for g in one], axis=0) > 0.1
            for one in np.swapaxes(runs["target"], 0, 1)
        ]
    )
    found = {}
    for name in (n for n in (*c.method, "single") if n in runs):
        mse = np.mean((runs[name] - runs["target"]) ** 2, axis=(1, 2))
        found[name] = {"mse_g": mse.tolist(), "noise_g": noise(name).tolist()}
        if name in curves:
            off = np.where(seen, np.abs(level(curves[name]) - level(curves["truth"])), 0)
            found[name]["u_max"] = np.max(off, axis=1).tolist()
    return {"values": list(series.values), "trained": series.trained, "told": series.told, **found}


def goals(c: Pairs, series: Series, summary: dict[str, Any]) -> list[Goal]:
    """One potential for all should be nearly as good as one for each, and better than one that is carried elsewhere."""
    found = []
    for method in (m for m in c.method if m != "ibi"):
        mse = np.array(summary[method]["mse_g"])
        for k, value in enumerate(series.values if "single" in summary else ()):
            name = f"{method}: error of g(r) over that of a fit to {series.told.format(value)} alone ({series.kind(k)})"
            found.append(at_most(name, mse[k] / summary["single"]["mse_g"][k], 3))
        if "ibi" in c.method:
            against = mse[1:] / np.array(summary["ibi"]["mse_g"])[1:]
            name = f"{method}: error of g(r) over that of ibi carried to other state points, worst"
            found.append(at_most(name, float(against.max()), 1))
    return found


def report(c: Pairs, series: Series, summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    show = lambda values: ", ".join(f"{x:.2g}" for x in values)
    lines = [", ".join(f"{series.told.format(v)} ({series.kind(k)})" for k, v in enumerate(series.values)) + "."]
    for name in (n for n in (*c.method, "single") if n in summary):
        of, noise = summary[name], max(summary[name]["noise_g"])
        told = f"; largest error of u(r) {show(of['u_max'])} ε" if "u_max" in of else ""
        lines.append(f"{name}: mean squared error of g(r) {show(of['mse_g'])} (noise up to {noise:.1g}){told}.")
    return lines


def transferred(command: Any, name: str, series: Series, true: Callable[[np.ndarray], np.ndarray]) -> None:
    """The whole of an experiment with this name; ends with a few lines on the standard output."""
    began, c = time.perf_counter(), command.config
    folder = opened(command, {"experiment": name, **dataclasses.asdict(c)})
    curves, runs = fitted(c, series, true, folder)
    summary = summarized(c, series, curves, runs)
    closed(folder, command, began, summary, goals(c, series, summary), report(c, series, summary), draw)
