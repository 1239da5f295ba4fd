"""Prints how far the reference spectra are apart, and from the two-column files named on the command line."""

import itertools
import sys
from pathlib import Path

from . import load, read_two_columns, relative_difference

names = ("hale_querry_1973", "segelstein_1981")
try:
    spectra = {**{name: load(name) for name in names}, **{path: read_two_columns(Path(path)) for path in sys.argv[1:]}}
    for one, other in itertools.combinations(spectra, 2):
        print(f"{one} and {other}: {100 * relative_difference(spectra[one], spectra[other]):.1f} % apart")
except ValueError as error:
    sys.exit(str(error))
