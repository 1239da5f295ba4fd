"""XYZ and extended XYZ, by ASE: Å, and velocities as momenta in ASE's units."""

from pathlib import Path
from typing import Any

import numpy as np

from .. import units
from .._topology import Topology
from ._frames import Frames, topology_of


def read_xyz(path: Path, topology: Topology | None) -> Frames:
    import ase.io
    import ase.units

    del topology
    _check_counts(path)
    images: Any = ase.io.read(path, index=":", format="extxyz")
    first = images[0]
    for k, atoms in enumerate(images):
        if list(atoms.numbers) != list(first.numbers):
            raise ValueError(f"The atoms of frame {k} are not those of frame 0; wanted one system.")
        if any(atoms.pbc) != all(first.pbc) or any(atoms.pbc) != all(atoms.pbc):
            raise ValueError(f"Frame {k} has pbc={atoms.pbc.tolist()}; wanted all or none, and the same in all frames.")
    vectors = np.array([np.asarray(a.cell) for a in images]) * units.ANGSTROM if all(first.pbc) else None
    velocities = None
    if all(a.has("momenta") for a in images):
        velocities = np.array([a.get_velocities() for a in images]) * (units.ANGSTROM * ase.units.fs / 1e-3)
    times = [a.info.get("time") for a in images]
    known = all(isinstance(t, int | float | np.number) for t in times)
    return Frames(
        topology_of(
            first.numbers,
            masses=first.get_masses() if first.has("masses") else None,
            molecules=first.arrays.get("molecules"),
        ),
        np.array([a.positions for a in images]) * units.ANGSTROM,
        velocities,
        vectors,
        np.array(times, float) if known else None,
    )


def write_extxyz(path: Path, frames: Frames) -> None:
    import ase.io
    import ase.units

    images = _images(frames)
    for k, atoms in enumerate(images):
        atoms.set_array("molecules", np.asarray(frames.topology.molecules, int))
        atoms.set_masses(np.asarray(frames.topology.masses, float))
        if frames.velocities is not None:
            atoms.set_velocities(frames.velocities[k].astype(float) / (units.ANGSTROM * ase.units.fs / 1e-3))
        if frames.times is not None:
            atoms.info["time"] = float(frames.times[k])
    ase.io.write(path, images, format="extxyz")


def write_xyz(path: Path, frames: Frames) -> None:
    import ase.io

    ase.io.write(path, _images(frames), format="xyz", fmt="%16.8f")


def _images(frames):
    import ase

    numbers = np.asarray(frames.topology.atomic_numbers)
    images = []
    for k, positions in enumerate(frames.positions):
        cell = None if frames.vectors is None else frames.vectors[k].astype(float) / units.ANGSTROM
        images.append(ase.Atoms(numbers, positions.astype(float) / units.ANGSTROM, cell=cell, pbc=cell is not None))
    return images


def _check_counts(path):
    """Refuses a file whose frames are not as long as they say: ASE would look for a billion atoms line by line."""
    lines = path.read_text("utf-8").rstrip().split("\n")
    at = 0
    while at < len(lines):
        count = lines[at].strip()
        if not (count.isascii() and count.isdigit() and 0 < int(count[:12])):
            raise ValueError(f"Line {at + 1} is {lines[at][:40]!r}, wanted the number of atoms of a frame.")
        if at + 2 + int(count) > len(lines):
            raise ValueError(
                f"Line {at + 1} says that a frame of {count} atoms follows, but the file ends"
                f" {max(0, len(lines) - at - 2)} atoms later."
            )
        at += 2 + int(count)
