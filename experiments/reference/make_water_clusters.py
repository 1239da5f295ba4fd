"""Makes binding energies of clusters of water: `python -m experiments.reference.make_water_clusters`.

Dimers, trimers and tetramers are cut out of the configurations of `water_gfn1`, a molecule and those nearest to it, as
they are: no geometry is optimized. Energies are of PBE0 in def2-TZVPPD, by PySCF with density fitting, without
counterpoise and without dispersion. Of each cluster, the energy of every molecule alone is told too, which divides the
whole into what is between molecules and what deforms them. Needs NumPy and PySCF alone, and five minutes on one core.
"""

import json
import sys
from pathlib import Path

import numpy as np

from .make_water_labels import HARTREE, cluster

HERE = Path(__file__).parent
METHOD, BASIS = "PBE0", "def2-TZVPPD"
SIZES, EACH = (2, 3, 4), 4
"""Molecules of a cluster, and how many clusters of each size."""
KJ = 96.48533212331
"""kJ/mol in an eV."""
REFERENCE = [[0.0, 0.0, 0.0], [0.75695, 0.58588, 0.0], [-0.75695, 0.58588, 0.0]]
"""Å: a molecule of 0.9572 Å and 104.52°, from whose energy deformations are counted."""


def energy(positions: np.ndarray) -> float:
    """Of molecules at `positions` (Å) in the order O, H, H; kJ/mol."""
    from pyscf import dft, gto  # pyright: ignore[reportMissingImports]

    atoms = [("OHH"[k % 3], tuple(x)) for k, x in enumerate(positions)]
    found = dft.RKS(gto.M(atom=atoms, basis=BASIS, verbose=0), xc=METHOD).density_fit()
    value = found.kernel()
    if not found.converged:
        raise RuntimeError("no self-consistent field was found")
    return float(value) * HARTREE * KJ


def main() -> int:
    """Writes `water_clusters_pbe0.json`, over what is there."""
    frames = np.load(HERE / "water_gfn1/set.000/coord.npy").astype(float)
    length = float(np.load(HERE / "water_gfn1/set.000/box.npy")[0, 0])
    pick, found = np.random.default_rng(14), []
    for number, k in enumerate(pick.choice(len(frames), EACH * len(SIZES), replace=False)):
        size = SIZES[number % len(SIZES)]
        positions = cluster(frames[k].reshape(-1, 3), length, int(pick.integers(len(frames[k]) // 9)), size)
        positions = np.round(positions, 5)  # energies are of what is written
        molecules = [energy(x) for x in positions.reshape(-1, 3, 3)]
        found.append({"positions": positions.tolist(), "energy": energy(positions), "molecules": molecules})
        print(f"{number + 1}: {size} molecules, {found[-1]['energy'] - sum(molecules):.2f} kJ/mol", flush=True)
    told = {
        "method": f"{METHOD}/{BASIS}, density fitting, no counterpoise, no dispersion; PySCF",
        "units": {"positions": "Å", "energy": "kJ/mol", "molecules": "kJ/mol, each alone as it is in the cluster"},
        "reference": {"positions": REFERENCE, "energy": energy(np.array(REFERENCE))},
        "clusters": found,
    }
    (HERE / "water_clusters_pbe0.json").write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
