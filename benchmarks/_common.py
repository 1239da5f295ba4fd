"""What all benchmarks do alike: time programs in turns, say on what machine, write JSON."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def seconds(program: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program())
    return time.perf_counter() - start


def medians(programs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of every program, after a first run of each; taken in turns, so that a busy machine is busy for
    all."""
    for program in programs.values():
        seconds(program)
    times = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(seconds(program))
    return {name: statistics.median(t) for name, t in times.items()}


def machine() -> dict[str, Any]:
    return {
        "device": str(jax.devices()[0]),
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "diffrax", "equinox")},
    }


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **content}, indent=1) + "\n")
    print(f"Written to {path}.")
