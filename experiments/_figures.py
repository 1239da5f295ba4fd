"""What all figures look like, and how they come into the folder of a run.

Bars and bands of all of them are ± 2 standard errors, unless a legend says that they are a spread.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ._folder import write_atomically

DYNAMICAL, THERMODYNAMIC, TARGET, PATH = "#0072b2", "#d55e00", "#009e73", "#222222"  # told apart by the color-blind
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def save_figures(folder: Path, figures: dict[str, Callable[[], Any]]) -> list[Path]:
    """Draws each figure into a PNG of its name, in one piece; returns the files."""
    files = []
    with plt.rc_context(STYLE):
        for name, function in figures.items():
            figure = function()
            save_figure(folder / f"{name}.png", figure)
            files.append(folder / f"{name}.png")
    return files


def save_figure(path: Path, figure: Any) -> None:
    """Writes one figure in one piece, and closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    write_atomically(path, buffer.getvalue())
