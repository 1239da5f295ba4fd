"""Makes the labels of water in this folder: energies, forces and virials of the liquid, dipoles of clusters.

    pip install "tblite==0.8.0"  # LGPL, from PyPI; its results are ours
    OMP_NUM_THREADS=1 python -m experiments.reference.make_water_labels

Configurations are drawn by molecular dynamics with a force field of water whose bonds and angle are those of the method
that labels them, at two temperatures, so that there are distorted molecules among them. Clusters are cut out of them: a
molecule and those nearest to it. Two folders in the layout of DeePMD-kit: `water_gfn1` (Å, eV, eV/Å) and
`water_clusters_gfn2` (Å, e Å). Ten minutes on two cores.
"""

import dataclasses
import functools
import math
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
WATERS = 32
DENSITY = 0.997
"""g/cm³."""
TEMPERATURES = (300.0, 400.0)
"""K."""
CHAINS, PER_CHAIN = 8, 15
"""At each temperature, and how many configurations of each chain, 1 ps apart."""
CLUSTER = 8
"""Molecules."""
CLUSTERS_PER_FRAME = 3
BOHR = 0.529177210544
"""Å."""
HARTREE = 27.211386245981
"""eV."""


class Label(NamedTuple):
    """Of one configuration."""

    energy: float
    """eV."""
    forces: np.ndarray
    """(atoms, 3), eV/Å."""
    virial: np.ndarray
    """-∂E/∂strain, (3, 3), eV; zeros without a box."""
    dipole: np.ndarray
    """(3,), e Å; of no meaning in a box."""


def label(method: str, numbers: np.ndarray, positions: np.ndarray, vectors: np.ndarray | None) -> Label:
    """What tblite's `method` says of atoms at `positions` (Å), in a box of lattice `vectors` (Å) or without one."""
    from tblite.interface import Calculator  # pyright: ignore[reportMissingImports]

    lattice, periodic = (None, None) if vectors is None else (vectors / BOHR, np.full(3, True))
    calculator = Calculator(method, numbers, positions / BOHR, lattice=lattice, periodic=periodic)
    calculator.set("verbosity", 0)
    calculator.set("accuracy", 0.1)
    found = calculator.singlepoint()
    forces = -np.asarray(found.get("gradient")) * HARTREE / BOHR
    virial = -np.asarray(found.get("virial")) * HARTREE
    return Label(float(found.get("energy")) * HARTREE, forces, virial, np.asarray(found.get("dipole")) * BOHR)


def cluster(positions: np.ndarray, length: float, center: int, size: int) -> np.ndarray:
    """A molecule and those nearest to it, whole, about its oxygen at the origin; molecules in the order O, H, H, in a
    cube of edge `length`."""
    molecules = positions.reshape(-1, 3, 3)
    oxygens = molecules[:, 0] - molecules[center, 0]
    nearest = oxygens - length * np.round(oxygens / length)
    chosen = np.argsort(np.linalg.norm(nearest, axis=1))[:size]
    arms = molecules - molecules[:, :1]
    arms = arms - length * np.round(arms / length)
    return (nearest[chosen, None] + arms[chosen]).reshape(-1, 3)


def configurations() -> tuple[np.ndarray, float]:
    """Positions (frames, atoms, 3) and the edge of the cube, nm."""
    import jax
    import jax.numpy as jnp

    import reverlet as rv

    from .._water import packed

    # a molecule in the gas phase by GFN1-xTB: 0.0958 nm, 107.1°, 464,000 kJ/mol/nm² and 319 kJ/mol/rad²
    shape = {"length": 0.0958, "angle": math.radians(107.1), "stiffness": 464e3, "angle_stiffness": 319.0}
    water = dataclasses.replace(rv.WaterModel.qspcfw(), **shape)
    key, found = jax.random.key(12), []
    start = packed(WATERS, DENSITY, key)
    system = water.system(WATERS, start.box)
    for k, temperature in enumerate(TEMPERATURES):
        keys = jax.random.split(jax.random.fold_in(key, k), 3)
        velocities = rv.maxwell_boltzmann(system.topology, temperature, key=keys[0]).astype(start.positions.dtype)
        chains = start.with_velocities(velocities).repeat(CHAINS)
        sampler = rv.LangevinBAOAB(temperature, 2.0, dt=5e-4, num_steps=20_000)
        _, chains = sampler.sample(system, chains, CHAINS, key=keys[1])
        sampler = rv.LangevinBAOAB(temperature, 2.0, dt=5e-4, num_steps=2000)
        samples, _ = sampler.sample(system, chains.states, CHAINS * PER_CHAIN, key=keys[2])
        found.append(np.asarray(samples.states.positions))
    return np.concatenate(found), float(jnp.min(start.box.heights))


def write(folder: Path, frames: Sequence[np.ndarray], labels: Sequence[Label], length: float | None) -> None:
    """A folder in the layout of DeePMD-kit, in single precision but for energies."""
    data = folder / "set.000"
    data.mkdir(parents=True, exist_ok=True)
    save = lambda name, rows, dtype: np.save(data / f"{name}.npy", np.array(rows).astype(dtype))
    save("coord", [x.ravel() for x in frames], np.float32)
    atoms = len(frames[0])
    (folder / "type.raw").write_text("\n".join("011" * (atoms // 3)) + "\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    if length is None:
        (folder / "nopbc").write_text("")
        save("dipole", [x.dipole for x in labels], np.float32)
        return
    save("box", [(length * np.eye(3)).ravel() for _ in frames], np.float32)
    save("energy", [x.energy for x in labels], np.float64)
    save("force", [x.forces.ravel() for x in labels], np.float32)
    save("virial", [x.virial.ravel() for x in labels], np.float32)


def main() -> int:
    """Writes both folders, over what is there."""
    positions, length = configurations()
    # labels are of the positions as they are written
    frames, edge = [np.float32(10 * x).astype(float) for x in positions], float(np.float32(10 * length))
    numbers = np.array([8, 1, 1] * WATERS)
    pick = np.random.default_rng(12)
    cut = [
        np.float32(cluster(x, edge, int(k), CLUSTER)).astype(float)
        for x in frames
        for k in pick.choice(WATERS, CLUSTERS_PER_FRAME, replace=False)
    ]
    # new processes rather than copies of this one, in which JAX has threads
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        liquid = functools.partial(label, "GFN1-xTB", numbers, vectors=edge * np.eye(3))
        labels = list(pool.map(liquid, frames, chunksize=4))
        gas = functools.partial(label, "GFN2-xTB", numbers[: 3 * CLUSTER], vectors=None)
        dipoles = list(pool.map(gas, cut, chunksize=16))
    order = np.random.default_rng(13).permutation(len(frames))
    write(HERE / "water_gfn1", [frames[k] for k in order], [labels[k] for k in order], edge)
    write(HERE / "water_clusters_gfn2", cut, dipoles, None)
    print(f"{len(frames)} configurations of {WATERS} waters, {len(cut)} clusters of {CLUSTER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
