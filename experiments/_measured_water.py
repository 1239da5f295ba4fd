"""Liquid water as it is measured at 298 K and 1 bar, and as the published refined surface has it."""

import dataclasses
from pathlib import Path

import numpy as np

from ._errors import BadInput


@dataclasses.dataclass(frozen=True)
class Known:
    """Of one property: what experiment says, with its uncertainty where one is stated, and what Han & Yu (2025) found
    for the surface that they refined by density and infrared spectrum."""

    experiment: float | None = None
    uncertainty: float | None = None
    paper: float | None = None
    paper_error: float | None = None
    source: str = ""


KNOWN = {
    "pressure": Known(1.0, source="by definition"),
    "density": Known(
        0.99705, None, 1.005, 0.015, "G. S. Kell, J. Chem. Eng. Data 20, 97 (1975); their error is a spread"
    ),
    "heat_of_vaporization": Known(44.00, 0.06, source="J. D. Cox et al., CODATA Key Values for Thermodynamics (1989)"),
    "diffusion": Known(
        2.299, 0.02, 1.99, 0.07, "M. Holz, S. R. Heil and A. Sacco, Phys. Chem. Chem. Phys. 2, 4740 (2000)"
    ),
    "dielectric_constant": Known(
        78.30, 0.05, 96.1, 3.2, "C. G. Malmberg and A. A. Maryott, J. Res. Natl. Bur. Stand. 56, 1 (1956)"
    ),
    "peak_OO": Known(2.80, 0.01, source="L. B. Skinner et al., J. Chem. Phys. 138, 074506 (2013), 295 K"),
    "height_OO": Known(2.57, 0.05, source="L. B. Skinner et al., J. Chem. Phys. 138, 074506 (2013), 295 K"),
    "infrared_hindered_translation": Known(183, None, 200, None, "experiment as quoted by Han & Yu (2025)"),
    "infrared_libration": Known(617, None, 617, None, "experiment as quoted by Han & Yu (2025)"),
    "infrared_bend": Known(1643, None, 1634, None, "experiment as quoted by Han & Yu (2025)"),
    "infrared_stretch": Known(3394, None, 3369, None, "experiment as quoted by Han & Yu (2025)"),
    "infrared_rmse_low": Known(None, None, 154, None, "Han & Yu (2025), against another measurement"),
    "infrared_rmse_high": Known(None, None, 546, None, "Han & Yu (2025), against another measurement"),
    "clusters_inter": Known(None, None, 0.49, 0.02, "Han & Yu (2025): octamers against CCSD(T)"),
    "clusters_intra": Known(None, None, 0.36, 0.03, "Han & Yu (2025): octamers against CCSD(T)"),
    "clusters_total": Known(None, None, 0.62, 0.02, "Han & Yu (2025): octamers against CCSD(T)"),
}
"""In the units of the table."""
VISCOSITY = 0.890e-3
"""Pa s, at 298.15 K: J. Kestin, M. Sokolov and W. A. Wakeham, J. Phys. Chem. Ref. Data 7, 941 (1978)."""
RDFS = ("OO", "OH", "HH")


def read_rdfs(path: Path) -> dict[str, np.ndarray]:
    """Measured radial distribution functions: `r` (nm), `OO`, `OH` and `HH`.

    Of a file of seven columns, r (Å), g_OO, its error, g_OH, its error, g_HH, its error, as in A. K. Soper, ISRN Phys.
    Chem. 2013, 279463.

    **Errors:** `BadInput` for another file.
    """
    wanted = "seven columns: r in Å, then g_OO, g_OH and g_HH, each with its error"
    try:
        columns = np.loadtxt(path, ndmin=2).T
    except (ValueError, OSError) as error:
        raise BadInput(f"--rdf {path} cannot be read ({error}); wanted {wanted}.") from error
    if len(columns) != 7 or columns.shape[1] < 2 or not np.all(np.isfinite(columns)):
        raise BadInput(f"--rdf {path} has {len(columns)} columns of {columns.shape[1]} numbers; wanted {wanted}.")
    r = columns[0]
    if not (np.all(np.diff(r) > 0) and r[-1] > 4):
        raise BadInput(f"--rdf {path} has distances from {r[0]:g} to {r[-1]:g}; wanted rising ones, in Å, beyond 4.")
    return {"r": 0.1 * r, **{pair: columns[1 + 2 * k] for k, pair in enumerate(RDFS)}}
