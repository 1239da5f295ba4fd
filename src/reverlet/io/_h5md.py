"""HDF5 in the layout of H5MD 1.1, by h5py: nm, ps and u, exact in both precisions.

P. de Buyl, P. H. Colberg and F. Höfling, Comput. Phys. Commun. 185, 1546 (2014); https://www.nongnu.org/h5md/h5md.html
"""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .. import units
from .._topology import Topology
from ._frames import Frames, topology_of

_LENGTHS = {"nm": 1.0, "Angstrom": units.ANGSTROM}
_TIMES = {"ps": 1.0, "fs": units.FEMTOSECOND}
_VELOCITIES = {f"{x} {t}-1": a / b for x, a in _LENGTHS.items() for t, b in _TIMES.items()}
_MASSES = {"u": 1.0, "amu": 1.0}


def write_h5md(path: Path, frames: Frames) -> None:
    import h5py

    # this version's metadata have checksums, as the arrays have below: a damaged file is refused, not misread
    with h5py.File(path, "w", libver="latest") as file:
        root: Any = file.create_group("h5md")
        root.attrs["version"] = np.array([1, 1])
        root.create_group("author").attrs["name"] = "unknown"
        creator = root.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "reverlet", metadata.version("reverlet")
        root.create_group("modules/units").attrs["version"] = np.array([1, 0])

        particles: Any = file.create_group("particles/all")
        box = particles.create_group("box")
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = ["none" if frames.vectors is None else "periodic"] * 3
        position = _series(particles, "position", frames.positions, "nm")
        _put(position, "step", np.arange(len(frames.positions)))
        times = np.arange(len(frames.positions)) if frames.times is None else frames.times
        _put(position, "time", np.asarray(times, float), "ps")
        elements = [position]
        if frames.velocities is not None:
            elements.append(_series(particles, "velocity", frames.velocities, "nm ps-1"))
        if frames.vectors is not None:
            upright = not np.any(frames.vectors * (1 - np.eye(3)))
            edges = np.diagonal(frames.vectors, axis1=1, axis2=2) if upright else frames.vectors
            elements.append(_series(box, "edges", edges, "nm"))
        for element in elements[1:]:  # one and the same for all, as H5MD wants it
            element["step"], element["time"] = position["step"], position["time"]

        _put(particles, "species", np.asarray(frames.topology.atomic_numbers))
        _put(particles, "mass", np.asarray(frames.topology.masses), "u")
        _put(particles, "molecule", np.asarray(frames.topology.molecules))
        bonds = np.asarray(frames.topology.bonds)
        if len(bonds) > 0:
            _put(file.create_group("connectivity"), "bonds", bonds)
            file["connectivity/bonds"].attrs["particles_group"] = particles.ref


def _put(group, name, values, unit=None):
    dataset = group.create_dataset(name, data=values, chunks=True, fletcher32=True)
    if unit is not None:
        dataset.attrs["unit"] = unit


def _series(group, name, values, unit):
    element = group.create_group(name)
    _put(element, "value", values, unit)
    return element


def read_h5md(path: Path, topology: Topology | None) -> Frames:
    import h5py

    with h5py.File(path, "r") as file:
        particles = _only_group(file)
        position = _get(particles, "position")
        positions = _values(position, "value", _LENGTHS)
        if positions.ndim != 3 or positions.shape[2] != 3:
            raise ValueError(f"Its positions have shape {positions.shape}, wanted (frames, atoms, 3).")
        velocities = None
        if "velocity" in particles:
            velocities = _values(_get(particles, "velocity"), "value", _VELOCITIES)
            if velocities.shape != positions.shape:
                raise ValueError(f"Its velocities have shape {velocities.shape}, its positions {positions.shape}.")
        frames = Frames(
            _topology(file, particles, positions.shape[1], topology),
            positions,
            velocities,
            _vectors(_get(particles, "box"), len(positions)),
            _times(position, len(positions)),
        )
    return frames


def _only_group(file):
    groups = list(_get(file, "particles"))
    if len(groups) != 1:
        raise ValueError(f"It has {len(groups)} groups of particles ({', '.join(groups)}), wanted one.")
    return _get(file["particles"], groups[0])


def _topology(file, particles, num_atoms, given):
    if "species" not in particles:
        if given is None:
            raise ValueError("It has no `species`: give `topology`.")
        if given.num_atoms != num_atoms:
            raise ValueError(f"It has {num_atoms} atoms, `topology` has {given.num_atoms}.")
        return given
    fixed = {name: _values(particles, name) for name in ("species", "molecule") if name in particles}
    for name, values in fixed.items():
        if values.shape != (num_atoms,) or values.dtype.kind not in "iu":
            raise ValueError(f"Its `{name}` is {values.dtype} {values.shape}, wanted integers ({num_atoms},).")
    return topology_of(
        fixed["species"],
        masses=_values(particles, "mass", _MASSES) if "mass" in particles else None,
        molecules=fixed.get("molecule"),
        bonds=_values(file["connectivity"], "bonds") if "connectivity/bonds" in file else None,
    )


def _vectors(box, num_frames):
    boundary = [b.decode() if isinstance(b, bytes) else b for b in box.attrs["boundary"]]
    if all(b == "none" for b in boundary):
        return None
    if any(b != "periodic" for b in boundary):
        raise ValueError(f"Its box is {boundary}, wanted periodic along all directions or none.")
    edges = _get(box, "edges")
    edges = _values(edges, "value", _LENGTHS) if "value" in edges else _values(box, "edges", _LENGTHS)[None]
    if edges.shape[1:] == (3,):
        edges = edges[:, :, None] * np.eye(3)
    if edges.shape[1:] != (3, 3) or edges.shape[0] not in (1, num_frames):
        raise ValueError(f"Its box has edges of shape {edges.shape} for {num_frames} frames.")
    return np.broadcast_to(edges, (num_frames, 3, 3))


def _times(position, num_frames):
    if "time" not in position:
        return None
    times = _values(position, "time", _TIMES)
    if times.ndim == 0:  # the interval between frames
        offset = float(position["time"].attrs.get("offset", 0))
        return offset * _factor(position["time"], "time", _TIMES) + times * np.arange(num_frames)
    if times.shape != (num_frames,):
        raise ValueError(f"It has {times.shape} times for {num_frames} frames.")
    return times


def _get(group, name) -> Any:
    if name not in group:
        raise ValueError(f"It has no `{name}` in `{group.name}`.")
    return group[name]


def _values(group, name, known=None):
    dataset = _get(group, name)
    values = np.asarray(dataset[()])
    return values if known is None else values * np.asarray(_factor(dataset, name, known), values.dtype)


def _factor(dataset, name, known):
    unit = dataset.attrs.get("unit")
    unit = unit.decode() if isinstance(unit, bytes) else unit
    if unit not in known:
        raise ValueError(f"The unit of `{name}` in `{dataset.parent.name}` is {unit!r}, wanted one of {list(known)}.")
    return known[unit]
