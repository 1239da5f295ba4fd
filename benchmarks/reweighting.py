"""What an update costs that uses its samples again, as a part of one that draws new ones.

`python -m benchmarks reweighting` fits σ and ε of argon to its energy and pressure by `fit_targets`, by Gauss-Newton
steps and by Adam, with more and more time steps between two samples. Medians of processor seconds over the updates of a
fit, without those that compile for a larger pool.
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import optax

import reverlet as rv

from . import _common

STEPS = {"Gauss-Newton": rv.reweighting.GaussNewton(), "Adam": optax.adam(4e-3)}


def seconds(step, interval: int, atoms: int, num_updates: int) -> tuple[list[float], list[float]]:
    """Processor seconds of updates that draw samples, and of those that do not."""
    topology, start = rv.fcc("Ar", round((atoms / 4) ** (1 / 3)), density=830.0)  # u/nm³
    spheres = rv.LennardJones(0.33, 1.1, cutoff=0.5, truncation=rv.SmoothSwitch(0.45))
    targets = (
        rv.Target(rv.TotalEnergy(), -470.0, 5.0, unit="kJ/mol"),
        rv.Target(rv.Pressure(), 60.0, 10.0, unit="kJ/mol/nm³"),
    )
    point = rv.StatePoint(lambda potential: rv.System(topology, potential), rv.NVT(150.0), targets)
    found: tuple[list[float], list[float]] = ([], [])
    known, before = set(), time.process_time()

    def note(state):
        nonlocal before
        now = time.process_time()
        history = state.history
        drawn, size = int(history.drawn[-1][0]), int(history.samples[-1][0])
        if (drawn > 0, size) in known:
            found[0 if drawn else 1].append(now - before)
        known.add((drawn > 0, size))
        before = time.process_time()

    rv.reweighting.fit_targets(
        spheres,
        [point],
        lambda ensemble: rv.LangevinBAOAB(ensemble.temperature, 5.0, dt=0.005, num_steps=interval),
        [start.repeat(8)],
        num_updates=num_updates,
        num_samples=160,
        step=step,
        trainable=("sigma", "epsilon"),
        positive=("sigma", "epsilon"),
        callback=note,
        key=jax.random.key(0),
    )
    return found


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks reweighting", description=__doc__)
    parser.add_argument("--intervals", type=int, nargs="+", default=[50, 400], help="time steps between samples")
    parser.add_argument("--atoms", type=int, default=108, help="of the liquid, 4 n³")
    parser.add_argument("--updates", type=int, default=16, help="of every fit")
    parser.add_argument("--out", type=Path, default=Path("results/reweighting.json"), help="JSON file to write")
    args = parser.parse_args(argv)
    rows = []
    print("| step | time steps between samples | drawn anew, s | used again, s | again / anew |")
    print("|---|---|---|---|---|", flush=True)
    for name, step in STEPS.items():
        for interval in args.intervals:
            anew, again = seconds(step, interval, args.atoms, args.updates)
            if not anew or not again:
                print(
                    f"{name}, {interval}: {len(anew)} updates drew samples, {len(again)} did not; wanted some of each."
                )
                continue
            a, b = statistics.median(anew), statistics.median(again)
            row = {"step": name, "interval": interval, "anew": a, "again": b, "updates": [len(anew), len(again)]}
            rows.append(row)
            print(f"| {name} | {interval} | {a:.2f} | {b:.2f} | {b / a:.3f} |", flush=True)
    _common.write(args.out, {"atoms": args.atoms, "rows": rows})
