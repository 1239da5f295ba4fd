"""The same run with several seeds: what of it is the fit and what is chance."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import BadInput
from ._folder import free_folder, read_json, write_json


def several(name: str, command: Any, run: Callable[[Any], None]) -> None:
    """Runs a command so many times, each with the next seed and in a folder of its own, `seed0`, `seed1`, ...; writes
    `trials.json`, and prints what the goals came to.

    With `resume`, those that have ended are left as they are, and one that was stopped goes on.
    """
    out = command.out or free_folder(Path("results") / name)
    if command.resume and not out.is_dir():
        raise BadInput(
            f"--resume came with --out {out}, which is not there; wanted the folder of trials to go on with."
        )
    if not command.resume and out.exists() and any(out.iterdir()):
        raise BadInput(f"--out is {out}, which is not empty; wanted a new folder, or --resume to go on with these.")
    folders = []
    for seed in range(command.config.seed, command.config.seed + command.trials):
        folder = out / f"seed{seed}"
        if not (folder / "summary.json").exists():
            config = dataclasses.replace(command.config, seed=seed)
            run(dataclasses.replace(command, config=config, out=folder, trials=1, resume=folder.exists()))
        folders.append(folder)
    goals = [read_json(folder / "summary.json")["goals"] for folder in folders]
    rows = {g["name"]: [next(h for h in of if h["name"] == g["name"]) for of in goals] for g in goals[0]}
    write_json(out / "trials.json", {"folders": [f.name for f in folders], "goals": rows})
    print(f"{len(folders)} trials in {out}/:", *(_line(name, of) for name, of in rows.items()), sep="\n")


def _line(name: str, goals: list[dict[str, Any]]) -> str:
    values = [math.nan if g["value"] is None else g["value"] for g in goals]
    met = sum(g["met"] is True for g in goals)
    each = ", ".join(f"{v:.3g}" for v in values)
    scatter = f"; mean {np.mean(values):.3g}, scatter {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"- {name}: {each}{scatter}; wanted {goals[0]['wanted']}, met by {met} of {len(goals)}."
