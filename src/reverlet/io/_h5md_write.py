"""Writing HDF5 in the layout of H5MD 1.1, by h5py: nm, ps and u, exact in both precisions."""

import contextlib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .._topology import Topology
from ._frames import Frames


@contextlib.contextmanager
def h5md_writer(path: Path, topology: Topology):
    import h5py

    # metadata of 1.10 are the first with checksums, as the arrays have below: a damaged file is refused, not misread;
    # those of later versions cannot be read by programs with an earlier one
    opened = lambda mode: h5py.File(path, mode, libver=("v110", "v110"))
    with opened("w") as file:
        _fixed(file, topology)
    count = 0

    def append(frames: Frames) -> None:
        nonlocal count
        with opened("r+") as file:  # and closed: one that stays open when a run is killed cannot be opened again
            _append(file["particles/all"], frames, count)
        count += len(frames.positions)

    yield append


def _append(particles, frames, count):
    if count == 0:
        _begin(particles, frames)
    here = {
        "position/value": frames.positions,
        "velocity/value": frames.velocities,
        "box/edges/value": frames.vectors,
        "position/step": np.arange(count, count + len(frames.positions)),
        "position/time": frames.times,
    }
    for name, values in here.items():
        if (values is None) != (name not in particles):
            raise ValueError(f"`{name.split('/')[0]}` is in some frames only; wanted the same in all.")
        if values is not None:
            dataset = particles[name]
            dataset.resize(count + len(values), axis=0)
            dataset[count:] = values


def _fixed(file, topology):
    root: Any = file.create_group("h5md")
    root.attrs["version"] = np.array([1, 1])
    _text(root.create_group("author"), "name", "unknown")
    creator = root.create_group("creator")
    _text(creator, "name", "reverlet")
    _text(creator, "version", metadata.version("reverlet"))
    root.create_group("modules/units").attrs["version"] = np.array([1, 0])
    particles: Any = file.create_group("particles/all")
    _put(particles, "species", np.asarray(topology.atomic_numbers))
    _put(particles, "mass", np.asarray(topology.masses), "u")
    _put(particles, "molecule", np.asarray(topology.molecules))
    bonds = np.asarray(topology.bonds)
    if len(bonds) > 0:
        _put(file.create_group("connectivity"), "bonds", bonds)
        file["connectivity/bonds"].attrs["particles_group"] = particles.ref


def _begin(particles, frames):
    """Empty arrays of the first frames' shapes and types."""
    box = particles.create_group("box")
    box.attrs["dimension"] = 3
    _text(box, "boundary", ["none" if frames.vectors is None else "periodic"] * 3)
    position = _series(particles, "position", frames.positions, "nm")
    _grow(position, "step", np.zeros(0, int))
    if frames.times is not None:
        _grow(position, "time", np.zeros(0), "ps")
    elements = []
    if frames.velocities is not None:
        elements.append(_series(particles, "velocity", frames.velocities, "nm ps-1"))
    if frames.vectors is not None:
        elements.append(_series(box, "edges", frames.vectors, "nm"))
    for element in elements:  # one and the same for all, as H5MD wants it
        for name in ("step", "time"):
            if name in position:
                element[name] = position[name]


def _text(thing, name, text):
    """Of fixed length: what HDF5 keeps elsewhere in the file has no checksum, and hangs its readers when damaged."""
    thing.attrs[name] = np.array(text, dtype="S")


def _put(group, name, values, unit=None):
    dataset = group.create_dataset(name, data=values, chunks=True, fletcher32=True)
    if unit is not None:
        _text(dataset, "unit", unit)


def _grow(group, name, like, unit=None):
    """An empty array that grows along its first axis."""
    maxshape = (None, *like.shape[1:])
    shape = (0, *like.shape[1:])
    dataset = group.create_dataset(name, shape, like.dtype, chunks=True, fletcher32=True, maxshape=maxshape)
    if unit is not None:
        _text(dataset, "unit", unit)


def _series(group, name, values, unit):
    element = group.create_group(name)
    _grow(element, "value", values, unit)
    return element
