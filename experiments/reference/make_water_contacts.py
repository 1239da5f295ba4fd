"""Makes the labels of water in `water_gfn1_contacts`: liquid in which some molecules are too near one another.

    pip install "tblite==0.8.0"  # LGPL, from PyPI; its results are ours
    OMP_NUM_THREADS=1 python -m experiments.reference.make_water_contacts

Molecules of the liquid turn back before they are near. A network that saw nothing else may have energies that fall
where they go on, and trajectories fall with them. Here pairs of neighbors of `water_gfn1` are moved toward one another,
half of them after one has been turned, until two atoms are at a distance drawn at random. What costs too much is left
out: no trajectory climbs there, and its forces would be all that a fit looks at.
"""

import functools
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from .make_water_labels import HERE, WATERS, label, write

FRAMES, PAIRS = 120, 2
"""Configurations, and pairs in each."""
NEAREST = {"OO": (2.05, 2.6), "OH": (1.15, 1.6), "HH": (1.0, 1.5)}
"""Å: where atoms of a pair are moved to."""
LEAST = {"OO": 1.9, "OH": 1.1, "HH": 0.95}
"""Å: what no atoms of different molecules are nearer than."""
PAIR_KINDS = ("OO", "OH", "HH")
OFTEN = (0.5, 0.25, 0.25)
MOST = 7.0
"""eV, above the mean of the liquid."""


def squeezed(positions: np.ndarray, length: float, pick: np.random.Generator) -> np.ndarray:
    """Positions (atoms, 3), Å, with `PAIRS` pairs of neighbors, far from one another, moved together."""
    x, moved = positions.copy().reshape(-1, 3, 3), []
    wrap = lambda d: d - length * np.round(d / length)
    for _ in range(PAIRS):
        for _ in range(100):
            a = int(pick.integers(len(x)))
            b = int(pick.choice(np.argsort(np.linalg.norm(wrap(x[:, 0] - x[a, 0]), axis=1))[1:9]))
            far = all(np.linalg.norm(wrap(x[a, 0] - x[c, 0])) > 4 for c in moved)
            if far and b not in moved:
                break
        else:
            break
        pair = _together(x[a], x[b], wrap, pick)
        if pair is not None:
            x[a], x[b] = pair
            moved += [a, b]
    return x.reshape(-1, 3)


def _together(a, b, wrap, pick):
    """Two molecules, whole and moved toward one another; None if they are nearer already."""
    one = a[0] + wrap(a - a[0])
    other = a[0] + wrap(b[0] - a[0]) + wrap(b - b[0])
    if pick.random() < 0.5:
        q, r = np.linalg.qr(pick.normal(size=(3, 3)))
        q *= np.sign(np.diag(r))
        other = (other - other[0]) @ (q * np.linalg.det(q)).T + other[0]
    apart = np.linalg.norm(one[:, None] - other, axis=-1)
    kind = int(pick.choice(3, p=OFTEN))
    i, j = min(((i, j) for i in range(3) for j in range(3) if (i > 0) + (j > 0) == kind), key=lambda at: apart[at])
    wanted = pick.uniform(*NEAREST[PAIR_KINDS[kind]])
    if apart[i, j] < wanted:
        return None
    move = 0.5 * (apart[i, j] - wanted) * (other[j] - one[i]) / apart[i, j]
    return one + move, other - move


def contacts(positions: np.ndarray, length: float) -> dict[str, float]:
    """The smallest distances between atoms of different molecules in a cube of edge `length`, by kind; as O, H, H."""
    d = positions[:, None] - positions
    r = np.linalg.norm(d - length * np.round(d / length), axis=-1)
    atom = np.arange(len(positions))
    hydrogens = (atom % 3 > 0)[:, None] + (atom % 3 > 0).astype(int)
    r = np.where(atom[:, None] // 3 == atom // 3, np.inf, r)
    return {kind: float(np.min(r[hydrogens == k])) for k, kind in enumerate(PAIR_KINDS)}


def main() -> int:
    """Writes the folder, over what is there."""
    data = HERE / "water_gfn1/set.000"
    liquid = np.load(data / "coord.npy").astype(float).reshape(-1, 3 * WATERS, 3)
    edge = float(np.load(data / "box.npy")[0, 0])
    pick, frames = np.random.default_rng(5), []
    while len(frames) < FRAMES:
        x = np.float32(squeezed(liquid[len(frames)], edge, pick)).astype(float)
        near = contacts(x, edge)
        if all(near[kind] > least for kind, least in LEAST.items()):
            frames.append(x)
    numbers = np.array([8, 1, 1] * WATERS)
    # new processes rather than copies of this one, in which JAX has threads
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        of = functools.partial(label, "GFN1-xTB", numbers, vectors=edge * np.eye(3))
        labels = list(pool.map(of, frames, chunksize=4))
    most = np.mean(np.load(data / "energy.npy")) + MOST
    kept = [k for k, one in enumerate(labels) if one.energy < most]
    write(HERE / "water_gfn1_contacts", [frames[k] for k in kept], [labels[k] for k in kept], edge)
    print(f"{len(kept)} configurations of {WATERS} waters; {FRAMES - len(kept)} others have more than {MOST} eV")
    return 0


if __name__ == "__main__":
    sys.exit(main())
