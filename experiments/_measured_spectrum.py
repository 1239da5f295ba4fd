"""A measured infrared spectrum of a liquid as n·α, whatever it was written as."""

from pathlib import Path
from typing import Literal

import numpy as np

from ._errors import BadInput
from .reference import ReferenceSpectrum, load, read_two_columns

Quantity = Literal["n_alpha", "epsilon2"]
SMALLEST, LARGEST = 2e3, 1e5
"""1/cm: between these is the strongest band of a hydrogen-bonded liquid; that of water is 1.5e4."""


def measured(path: Path | None, quantity: Quantity) -> ReferenceSpectrum:
    """The spectrum of a file with two columns, wavenumber (1/cm) and n·α (1/cm) or ε″; by default, that of water which
    comes with the project (Segelstein 1981).

    n·α = 2πν ε″ holds exactly. Of α or k alone it cannot be told without n, nor of an absorbance without the path of
    the light.

    **Errors:** `BadInput` for files that cannot be read, and numbers that are not of the quantity that is named.
    """
    if path is None:
        return load("segelstein_1981")
    try:
        found = read_two_columns(path)
    except ValueError as error:
        raise BadInput(f"--spectrum: {error}") from error
    peak = float(np.max(found.intensities))
    if quantity == "epsilon2":
        if peak > 100:
            raise BadInput(
                f"--spectrum {path} has numbers up to {peak:.4g}, which is no ε″ of a liquid; wanted --quantity n_alpha"
                " for n·α in 1/cm."
            )
        return ReferenceSpectrum(
            found.wavenumbers, 2 * np.pi * found.wavenumbers * found.intensities, found.source + "\nfrom ε″"
        )
    if not SMALLEST <= peak <= LARGEST:
        raise BadInput(
            f"--spectrum {path} has numbers up to {peak:.4g}; wanted n·α in 1/cm, whose largest of a liquid is between"
            f" {SMALLEST:g} and {LARGEST:g}. ε″ is converted with --quantity epsilon2; of k or α multiply by 4πνn or n"
            " first, with the index of refraction n at every wavenumber ν; of an absorbance, by ln 10 over the path of"
            " the light besides. In 1/m it is a hundred times as large."
        )
    return found
