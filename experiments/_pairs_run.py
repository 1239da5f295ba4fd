"""How the pair experiments begin and end."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import reverlet as rv

from ._errors import BadInput
from ._folder import Folder, free_folder, write_json
from ._goals import Goal, in_time, judged, told
from ._pairs_fit import Task
from ._pairs_room import Pairs, learned


def opened(command: Any, described: dict[str, Any]) -> Folder:
    """The folder of a run that is described so, its name first."""
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    out = command.out or free_folder(Path("results") / described["experiment"])
    return Folder(out, described, resume=command.resume)


def by_all_methods(
    c: Pairs, task: Task, states: rv.State, folder: Folder, key: Callable[[int], Any]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What every method makes of one target, values of a table; and how many seconds each took."""
    found, seconds = {}, {}
    for k, method in enumerate(c.method):
        entered = time.perf_counter()
        found[method] = learned(c, method, task, states, key(2 + k), folder)[0]
        seconds[method] = time.perf_counter() - entered
    return found, seconds


def closed(
    folder: Folder,
    command: Any,
    began: float,
    summary: dict[str, Any],
    goals: Sequence[Goal],
    lines: Sequence[str],
    draw: Callable[[Path], list[Path]],
    seconds: dict[str, float] | None = None,
) -> None:
    """Writes summary.json, draws the figures, and prints a few lines."""
    c, total = command.config, time.perf_counter() - began
    summary["goals"] = judged([*goals, in_time(total, 15, resumed=command.resume)], c.preset)
    write_json(folder / "summary.json", {**summary, "timing": {"seconds": total, **(seconds or {})}})
    figures = draw(folder.path)
    for line in [*lines, told(summary["goals"], c.preset), f"How long: {total:.0f} s.",
                 f"Figures: {len(figures)} in {folder.path}/ ({', '.join(p.name for p in figures)})."]:  # fmt: skip
        print(line)


def stages(c: Pairs) -> Callable[[int], jax.Array]:
    """The keys of the stages of a run."""
    return lambda stage: jax.random.fold_in(jax.random.key(c.seed), stage)
