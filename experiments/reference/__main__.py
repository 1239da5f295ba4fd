"""Prints how far measured infrared spectra of water are apart: those that come with the project, and one's own.

    python -m experiments.reference [FILE ...]

A FILE has two columns, wavenumber and n·α in 1/cm. The files of this folder are made by
`python -m experiments.reference.make` and its neighbors, see README.md there.
"""

import itertools
import sys
from pathlib import Path

from . import load, read_two_columns, relative_difference


def main(files: list[str]) -> None:
    """Prints a line for every two spectra."""
    names = ("hale_querry_1973", "segelstein_1981")
    spectra = {**{name: load(name) for name in names}, **{path: read_two_columns(Path(path)) for path in files}}
    for one, other in itertools.combinations(spectra, 2):
        print(f"{one} and {other}: {100 * relative_difference(spectra[one], spectra[other]):.1f} % apart")


if {"-h", "--help"} & set(sys.argv[1:]):
    print(__doc__)
else:
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
