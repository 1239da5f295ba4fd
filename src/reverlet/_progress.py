"""A bar with the remaining time, on a terminal."""

import sys
import time
from typing import Any

from ._misc import is_concrete, require_flag

_WIDTH = 30


class Bar:
    """How much of so many steps is done, on the standard error; nothing where that is no terminal."""

    def __init__(self, name: str, total: int, progress: bool):
        require_flag("progress", progress)
        self.name, self.total, self.done = name, total, 0
        self.shown = progress and total > 0 and sys.stderr is not None and sys.stderr.isatty()
        self.began = time.monotonic()

    def parts(self, of: Any, number: int = 20) -> list[int]:
        """In how many steps at a time to work: all of them, unless the bar is shown and `of` has values by now."""
        if not self.shown or not is_concrete(of):
            return [self.total]
        size = max(1, -(-self.total // number))
        return [min(size, self.total - done) for done in range(0, self.total, size)]

    def update(self, done: int, told: str = "") -> None:
        """So many are done in all."""
        self.done = done
        if self.shown:
            passed = time.monotonic() - self.began
            left = f"{_clock(passed * (self.total - done) / done)} left" if done > 0 else "compiling"
            filled = _WIDTH * done // self.total
            bar = "█" * filled + "·" * (_WIDTH - filled)
            line = f"{self.name} {bar} {done}/{self.total}, {_clock(passed)}, {left} {told}"
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201

    def __enter__(self) -> "Bar":
        self.update(0)
        return self

    def __exit__(self, *error: object) -> None:
        if self.shown:
            print(file=sys.stderr, flush=True)  # noqa: T201


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
