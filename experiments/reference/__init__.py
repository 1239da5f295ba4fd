"""Measured infrared spectra of liquid water that may be redistributed, and a reader for one's own.

`python -m experiments.reference` prints how far the sources are apart.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

Source = Literal["hale_querry_1973", "segelstein_1981"]
_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class ReferenceSpectrum:
    """A measured spectrum n(ν)α(ν).

    **Errors:** `ValueError` for wavenumbers that do not ascend or are negative, intensities that are negative, numbers
    that are not finite, and fewer than two rows.
    """

    wavenumbers: np.ndarray
    """cm⁻¹, ascending."""
    intensities: np.ndarray
    """n·α, cm⁻¹."""
    source: str
    """Where it is from: the comment lines at the beginning of the file."""

    def __post_init__(self):
        nu, intensity = self.wavenumbers, self.intensities
        if nu.ndim != 1 or nu.shape != intensity.shape or len(nu) < 2:
            raise ValueError(
                f"Got {nu.shape} wavenumbers and {intensity.shape} intensities; wanted two columns of at least 2 rows."
            )
        for name, column in (("wavenumber", nu), ("intensity", intensity)):
            bad = np.flatnonzero(~(np.isfinite(column) & (column >= 0)))
            if len(bad) > 0:
                raise ValueError(
                    f"The {name} of row {bad[0] + 1} is {column[bad[0]]}; wanted a finite number of cm⁻¹, zero or more."
                    + (" A baseline below zero must be removed or cut off first." if name == "intensity" else "")
                )
        steps = np.diff(nu)
        if np.any(steps == 0):
            row = np.flatnonzero(steps == 0)[0]
            raise ValueError(
                f"The wavenumber {nu[row]} cm⁻¹ is there twice, in row {row + 1} and the next; wanted once."
            )
        if np.any(steps < 0):
            row = np.flatnonzero(steps < 0)[0]
            raise ValueError(
                f"The wavenumbers do not ascend: row {row + 1} has {nu[row]} cm⁻¹, the next one {nu[row + 1]}; wanted"
                " ascending ones, as of `sort -g`."
            )

    def at(self, wavenumbers: np.ndarray) -> np.ndarray:
        """n·α (cm⁻¹) at other wavenumbers (cm⁻¹), by linear interpolation.

        **Errors:** `ValueError` for wavenumbers outside the measured range: nothing is extrapolated.
        """
        first, last = self.wavenumbers[[0, -1]]
        outside = np.flatnonzero(~((wavenumbers >= first) & (wavenumbers <= last)))
        if len(outside) > 0:
            raise ValueError(
                f"The wavenumber {wavenumbers[outside[0]]} cm⁻¹ is outside the spectrum; wanted {first} to {last} cm⁻¹."
            )
        return np.interp(wavenumbers, self.wavenumbers, self.intensities)


def load(name: Source) -> ReferenceSpectrum:
    """One of the spectra in this folder, liquid water at 298 K; see its README.

    **Errors:** `ValueError` for a name that is not there.
    """
    names = sorted(path.stem for path in _HERE.glob("*.txt"))
    if name not in names:
        raise ValueError(f"There is no reference spectrum {name!r}; wanted one of {', '.join(map(repr, names))}.")
    return read_two_columns(_HERE / f"{name}.txt")


def read_two_columns(path: Path | str) -> ReferenceSpectrum:
    """A spectrum from a text file with two columns, wavenumber and n·α in cm⁻¹, ascending.

    Columns are separated by blanks, tabs or commas; lines that begin with `#` are comments.

    **Errors:** `ValueError`, which names the file, for one that is missing, has no numbers, has rows that are not two
    numbers, and as of `ReferenceSpectrum`.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"There is no spectrum {path}; wanted a text file of two columns.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The spectrum {path} cannot be read ({error}); wanted a text file of two columns.") from None
    source, rows = [], []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line.startswith("#"):
            source.append(line.lstrip("# "))
        elif line:
            words = line.replace(",", " ").split()
            try:
                rows.append([float(word) for word in words])
            except ValueError:
                words = []
            if len(words) != 2:
                raise ValueError(f"Line {number} of {path} is {line[:60]!r}; wanted two numbers, as '1643.5 412.0'.")
    if not rows:
        raise ValueError(f"The spectrum {path} has no rows; wanted two columns, wavenumber and n·α in cm⁻¹.")
    wavenumbers, intensities = np.array(rows, dtype=float).T
    try:
        return ReferenceSpectrum(wavenumbers, intensities, "\n".join(source))
    except ValueError as error:
        raise ValueError(f"The spectrum {path} cannot be used. {error}") from None


def relative_difference(a: ReferenceSpectrum, b: ReferenceSpectrum) -> float:
    """‖a - b‖ / ‖(a + b)/2‖ on a grid of 1 cm⁻¹ from 1 to 4000 cm⁻¹, or what of it both were measured at."""
    first = max(1.0, a.wavenumbers[0], b.wavenumbers[0])
    last = min(4000.0, a.wavenumbers[-1], b.wavenumbers[-1])
    if not first < last:
        raise ValueError(f"Two spectra share no range ({first} to {last} cm⁻¹); wanted some below 4000 cm⁻¹.")
    grid = np.arange(np.ceil(first), np.floor(last) + 1)
    x, y = a.at(grid), b.at(grid)
    return float(np.linalg.norm(x - y) / np.linalg.norm(0.5 * (x + y)))
