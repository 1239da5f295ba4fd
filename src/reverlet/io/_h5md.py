"""Reading HDF5 in the layout of H5MD 1.1, as its units module and many programs have it.

P. de Buyl, P. H. Colberg and F. Höfling, Comput. Phys. Commun. 185, 1546 (2014); https://www.nongnu.org/h5md/h5md.html
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import units
from .._elements import ISOTOPES, MASSES
from .._topology import Topology
from ._frames import (
    Frames,
    Request,
    parts,
    require_elements,
    require_known_names,
    require_masses,
    require_order,
    symbols_of,
    topology_of,
)
from ._hdf5 import HDF5File, opened
from ._mdtraj_h5 import frames_of_mdtraj

_LENGTHS = {"nm": 1.0, "Angstrom": units.ANGSTROM}
_TIMES = {"ps": 1.0, "fs": units.FEMTOSECOND}
_VELOCITIES = {f"{x} {t}-1": a / b for x, a in _LENGTHS.items() for t, b in _TIMES.items()}
_MASSES = {"u": 1.0, "amu": 1.0}


def read_h5md(path: Path, request: Request) -> Iterator[Frames]:
    with opened(path) as file:
        yield from frames_of(file, request)


def frames_of(file: HDF5File, request: Request) -> Iterator[Frames]:
    """Of an open file."""
    if "/particles" not in file and "/coordinates" in file:
        yield from frames_of_mdtraj(file, request)
        return
    groups = file.children("/particles") if "/particles" in file else []
    if len(groups) != 1:
        raise ValueError(f"It has {len(groups)} groups of particles ({', '.join(groups)}), wanted one.")
    atoms = f"/particles/{groups[0]}"
    shape = file.shape(f"{atoms}/position/value")
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"Its positions have shape {shape}, wanted (frames, atoms, 3), none of them zero.")
    require_known_names(file.children(atoms), (("velocity",), ("mass",), ("molecule",)), f"Its `{atoms}` has", request)
    topology = _topology(file, atoms, shape[1], request)
    times = _times(file, f"{atoms}/position", shape[0], request)
    for name in ("velocity", "image"):
        if f"{atoms}/{name}" in file:
            if file.shape(f"{atoms}/{name}/value") != shape:
                raise ValueError(
                    f"Its `{atoms}/{name}` has shape {file.shape(f'{atoms}/{name}/value')}, its positions {shape}."
                )
            _require_same_frames(file, atoms, name, shape[0], request)
    if f"{atoms}/box/edges/value" in file:
        _require_same_frames(file, atoms, "box/edges", shape[0], request)
    _require_same_order(file, f"{atoms}/id/value", shape, request)
    if f"{atoms}/id" in file:
        require_order(_ids(file, f"{atoms}/id"), request)
    for part in parts(shape[0], request):
        positions = _values(file, f"{atoms}/position/value", _LENGTHS, part)
        vectors = _vectors(file, f"{atoms}/box", shape[0], part)
        velocities = None
        if f"{atoms}/velocity" in file:
            velocities = _values(file, f"{atoms}/velocity/value", _VELOCITIES, part)
        if f"{atoms}/image" in file and vectors is not None:  # how many boxes an atom has gone
            positions = positions + file.values(f"{atoms}/image/value", "iu", part).astype(float) @ vectors
        yield Frames(topology, positions, velocities, vectors, None if times is None else times[part])


def _require_same_order(file, name, shape, request):
    """Refused where identifiers of particles change their places from frame to frame, as some parallel programs leave
    them: an atom would go on as another one."""
    if name not in file:
        return
    if file.shape(name) != shape[:2]:
        raise ValueError(f"Its `{name}` has shape {file.shape(name)}, its positions {shape}.")
    first = file.values(name, "iu", slice(0, 1))
    for part in parts(shape[0], request):
        if np.any(file.values(name, "iu", part) != first):
            raise ValueError(f"Its atoms are in another order in some frames (`{name}`); wanted one order in all.")


def _ids(file, name):
    """Of the first frame."""
    series = f"{name}/value"
    return file.values(series, "iu", slice(0, 1))[0] if series in file else file.values(name, "iu")


def _places(bonds, ids):
    """Of atoms that bonds name by their identifiers, as H5MD has it where there are any."""
    places = {int(identifier): k for k, identifier in enumerate(ids)}
    if len(places) < len(ids):
        raise ValueError("Some of its atoms have one `id`: its bonds may be of any of these.")
    missing = [i for i in bonds.reshape(-1).tolist() if i not in places]
    if missing:
        raise ValueError(f"Its bonds name atom {missing[0]}, which is no `id` of one.")
    return np.array([places[i] for i in bonds.reshape(-1).tolist()], int).reshape(-1, 2)


def _require_same_frames(file, atoms, name, num_frames, request):
    """Refused where an element is of other frames than the positions, as far as steps and times say."""
    one, other = f"{atoms}/position", f"{atoms}/{name}"
    said = [{what for what in ("step", "time") if file.is_dataset(f"{x}/{what}")} for x in (one, other)]
    if all(said) and not said[0] & said[1]:
        raise ValueError(
            f"Its `{other}` says its {' and '.join(said[1])}, its positions {' and '.join(said[0])}: whether these are"
            " of the same frames cannot be told; wanted the same of both."
        )
    for what in sorted(said[0] & said[1]):
        both = [f"{x}/{what}" for x in (one, other)]
        here, there = (_in_time(file, x, num_frames) for x in both)
        if what == "time" and file.attribute(both[0], "unit") != file.attribute(both[1], "unit"):
            here, there = (values * _time_unit(file, x, request) for values, x in zip((here, there), both, strict=True))
        single = any("f4" in file.object(x)["dtype"] for x in both)
        # of rounding alone: velocities half a step later may be a thousandth of what is between frames away
        most = 4 * np.finfo("f4" if single else "f8").eps * np.max(abs(here), initial=0)
        if here.shape != there.shape or not np.all(abs(here - there) <= most):
            raise ValueError(f"Its `{other}` is of other steps than the positions (`{what}`).")


def _in_time(file, name, num_frames):
    """The steps or times of all frames, or, where there is one number, of that many apart from the offset on."""
    values = file.values(name, "iuf").astype(float)
    if values.ndim > 0:
        return values
    offset = file.attribute(name, "offset")
    if not isinstance(offset, (int, float, type(None))):
        raise ValueError(f"The offset of `{name}` is {offset!r}, wanted a number.")
    return (offset or 0.0) + values * np.arange(num_frames)


def _time_unit(file, name, request):
    unit = file.attribute(name, "unit")
    return request.time_unit if unit is None and request.time_unit is not None else _factor(unit, name, _TIMES)


def _constant(file: HDF5File, name: str, kinds: str, known: Mapping[str, float] | None = None) -> np.ndarray:
    """One value for every atom, which may stand in a series of them, all alike."""
    series = f"{name}/value"
    values = _values(file, series if series in file else name, known, kinds=kinds)
    if series in file:
        if len(values) == 0 or np.any(values != values[0]):
            raise ValueError(f"Its `{name}` changes from frame to frame; wanted one system.")
        values = values[0]
    return values


def _topology(file: HDF5File, atoms: str, num_atoms: int, request: Request) -> Topology:
    here = lambda name: f"{atoms}/{name}" in file
    masses = _constant(file, f"{atoms}/mass", "iuf", _MASSES) if here("mass") else None
    molecules = _constant(file, f"{atoms}/molecule", "iu") if here("molecule") else None
    for name, values in (("mass", masses), ("molecule", molecules)):
        if values is not None and values.shape != (num_atoms,):
            raise ValueError(f"Its `{name}` has shape {values.shape}, wanted ({num_atoms},).")
    elements: Any = _elements(file, atoms, num_atoms, masses, request)
    if request.topology is not None:
        topology = require_elements(request.topology, elements)
        if masses is not None:
            require_masses(topology, masses, lambda k: f"Its atom {k}")
        return topology
    bonds = None
    for name in file.children("/connectivity"):
        pairs = f"/connectivity/{name}/value" if f"/connectivity/{name}/value" in file else f"/connectivity/{name}"
        if name != "bonds" and file.is_dataset(pairs) and file.shape(pairs)[-1:] == (2,):
            raise ValueError(f"Its `{pairs}` may be bonds; wanted these in `/connectivity/bonds`, or `topology`.")
    if "/connectivity/bonds" in file:
        bonds = file.values("/connectivity/bonds", "iu")
        if bonds.ndim != 2 or bonds.shape[1] != 2:
            raise ValueError(f"Its bonds have shape {bonds.shape}, wanted (bonds, 2).")
        if here("id"):
            bonds = _places(bonds, _ids(file, f"{atoms}/id"))
    return topology_of(elements, masses=masses, molecules=molecules, bonds=bonds)


def _elements(file, atoms, num_atoms, masses, request):
    """By their symbols, or by atomic numbers, of which H5MD does not say whether they are any: most programs write the
    numbers of their types of atoms."""
    for name in (f"{atoms}/element", f"{atoms}/species"):
        if name not in file:
            continue
        data = f"{name}/value" if f"{name}/value" in file else name
        names = {number: symbol for symbol, number in file.object(data).get("names", {}).items()}
        values = _constant(file, name, "iuS")
        if values.shape != (num_atoms,):
            raise ValueError(f"Its `{name}` has shape {values.shape}, wanted ({num_atoms},).")
        if values.dtype.kind == "S":
            return [v.decode(errors="replace").strip().capitalize() for v in values]
        if names:
            return [str(names.get(int(v), v)).strip().capitalize() for v in values]
        if _are_atomic_numbers(file, values, masses):
            return symbols_of(values)
        if request.topology is None:
            raise ValueError(
                f"Its `{name}` is {values[:6].tolist()}, which may be atomic numbers or types of atoms; wanted masses"
                " that fit atomic numbers, symbols of elements in `element`, or `topology`."
            )
        return [None] * num_atoms
    if request.topology is None:
        raise ValueError("It has no `species`: give `topology`.")
    return [None] * num_atoms


def _are_atomic_numbers(file, values, masses):
    if "/h5md/creator" in file and file.attribute("/h5md/creator", "name") == "reverlet":
        return True
    if masses is None or np.any(values < 1) or np.any(values > len(MASSES)):
        return False
    standard = np.array(list(MASSES.values()))[values - 1]
    isotopes = np.array([mass for _, mass in ISOTOPES.values()])
    isotope = (values == 1) & np.any(np.abs(masses[:, None] - isotopes) < 0.01, axis=1)
    return bool(np.all((np.abs(masses - standard) < 0.01 * standard) | isotope))


def _vectors(file, box, num_frames, part):
    boundary = file.attribute(box, "boundary")
    if not isinstance(boundary, list) or len(boundary) != 3:
        raise ValueError(f"Its box has the boundary {boundary}, wanted three of 'periodic' or 'none'.")
    if all(b == "none" for b in boundary):
        return None
    if any(b != "periodic" for b in boundary):
        raise ValueError(f"Its box is {boundary}, wanted periodic along all directions or none.")
    changes = f"{box}/edges/value" in file
    name = f"{box}/edges/value" if changes else f"{box}/edges"
    shape = file.shape(name)[1:] if changes else file.shape(name)
    if shape not in ((3,), (3, 3)) or (changes and file.shape(name)[0] != num_frames):
        raise ValueError(f"Its box has edges of shape {file.shape(name)} for {num_frames} frames.")
    edges = _values(file, name, _LENGTHS, part) if changes else _values(file, name, _LENGTHS)[None]
    if edges.shape[1:] == (3,):
        edges = edges[:, :, None] * np.eye(3, dtype=edges.dtype)
    return np.broadcast_to(edges, (len(range(num_frames)[part]), 3, 3))


def _times(file, position, num_frames, request):
    name = f"{position}/time"
    if name not in file:
        return None
    times = _in_time(file, name, num_frames) * _time_unit(file, name, request)
    if times.shape != (num_frames,):
        raise ValueError(f"It has {times.shape} times for {num_frames} frames.")
    return times


def _values(file, name, known, rows=None, kinds="iuf"):
    values = file.values(name, kinds, rows)
    if known is None:
        return values
    values = values if values.dtype.kind == "f" else values.astype(float)
    return values * np.asarray(_factor(file.attribute(name, "unit"), name, known), values.dtype)


def _factor(unit, name, known):
    if not isinstance(unit, str) or unit not in known:
        raise ValueError(f"The unit of `{name}` is {unit!r}, wanted one of {list(known)}.")
    return known[unit]
