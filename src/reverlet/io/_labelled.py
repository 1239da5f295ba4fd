"""Files of labels: extended XYZ, the folders of DeePMD-kit, and HDF5."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import units
from .._labels import Labels
from .._misc import require_instance
from .._topology import Topology
from ._frames import Request, require_elements, require_symbols, symbols_of, topology_of
from ._hdf5 import opened
from ._numbers import numbers
from ._xyz import Table, blocks
from ._xyz_comment import comment_of, pairs_of

_FORCE = units.ELECTRONVOLT / units.ANGSTROM
_STRESS = units.ELECTRONVOLT / units.ANGSTROM**3


def read_labels(path: Path | str, *, topology: Topology | None = None, prefix: str = "") -> Labels:
    """Configurations with their labels: from extended XYZ, a folder of DeePMD-kit's, or an HDF5 file of `write_labels`.

    - Extended XYZ (`.extxyz`, `.xyz`), as ASE writes it: `energy` (eV), `stress` (nine numbers, eV/Å³) or `virial` (eV,
      minus the stress times the volume) and `dipole` (e Å) in the comments, columns `forces` or `force` (eV/Å).
    - A folder: `type.raw` and `type_map.raw`, or `topology`; `coord`, `box`, `energy`, `force`, `virial`, `dipole` as
      `.npy` in `set.000`, `set.001` …, or flat, as `coord_0.npy` …; Å, eV, eV/Å, e Å. Without boxes it has `nopbc`.
    - HDF5 (`.h5`): as `write_labels` writes it. Of another layout, read the arrays with h5py and make `rv.Labels` of
      them.

    Molecules and bonds are those of `topology`; no file but our own tells them.

    **Arguments:** `topology`, against which the file is checked; `prefix`, what stands before the names of labels in
    extended XYZ, such as `"REF_"`.

    **Errors:** `ValueError`, which names the file, for one that is missing, damaged, of another format, or does not fit
    `topology`, and for frames of which some have a label and others have not.
    """
    path = Path(path)
    require_instance("topology", topology, Topology | None)
    if not path.exists():
        raise ValueError(f"There is no {path}; wanted a file, or a folder of DeePMD-kit's.")
    with _naming(path):
        if path.is_dir():
            return _read_folder(path, topology)
        if path.suffix.lower() in (".extxyz", ".xyz"):
            return _read_xyz(path, topology, prefix)
        if path.suffix.lower() in (".h5", ".hdf5"):
            return _read_hdf5(path, topology)
        raise ValueError("Its suffix is none of .extxyz, .xyz, .h5, .hdf5.")


def write_labels(path: Path | str, labels: Labels) -> None:
    """Writes labels into an HDF5 file (`.h5`), in double precision and reverlet's units; whole or not at all.

    **Errors:** `ValueError` for another suffix or a folder that is not there; `ImportError` without h5py.
    """
    path = Path(path)
    require_instance("labels", labels, Labels)
    if path.suffix.lower() not in (".h5", ".hdf5") or not path.parent.is_dir():
        raise ValueError(f"`path` is {path}; wanted a name that ends in .h5, in a folder that exists.")
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{error}. `reverlet.io` needs the extra `io`: `pip install ase h5py mdtraj`.") from error
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with h5py.File(unfinished, "w", libver=("v110", "v110")) as file:
            for name, unit in _FIXED.items():
                _put(file, name, np.asarray(getattr(labels.topology, name)), unit)
            for name, unit in _UNITS.items():
                if getattr(labels, name) is not None:
                    _put(file, name, getattr(labels, name), unit)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


_FIXED = {"atomic_numbers": "1", "masses": "u", "molecules": "1", "bonds": "1"}
_UNITS = {
    "positions": "nm",
    "vectors": "nm",
    "energies": "kJ/mol",
    "forces": "kJ/mol/nm",
    "stresses": "kJ/mol/nm^3",
    "dipoles": "e nm",
}


def _put(file, name, values, unit):
    # checksums, as for H5MD: a damaged file is refused, not misread
    if values.size > 0:
        file.create_dataset(name, data=values, chunks=True, fletcher32=True).attrs["unit"] = np.array(unit, dtype="S")


def _read_hdf5(path, topology):
    with opened(path) as file:

        def values(name, unit, kinds):
            if f"/{name}" not in file:
                return None
            said = file.attribute(f"/{name}", "unit")
            if said != unit:
                raise ValueError(f"Its `{name}` has the unit {said!r}, wanted {unit!r}, as `write_labels` writes it.")
            return file.values(f"/{name}", kinds)

        found = {name: values(name, unit, "iuf") for name, unit in _UNITS.items()}
        fixed = {name: values(name, unit, "f" if name == "masses" else "iu") for name, unit in _FIXED.items()}
    bonds = fixed.pop("bonds")
    for name, x in {"positions": found["positions"], **fixed}.items():
        if x is None:
            raise ValueError(f"It has no `{name}`: it is of another layout. Wanted what `write_labels` writes.")
    if topology is not None:
        require_elements(topology, symbols_of(np.asarray(fixed["atomic_numbers"])))
    else:
        topology = Topology(**fixed, bonds=np.zeros((0, 2), int) if bonds is None else bonds)  # pyright: ignore
    return Labels(topology, found.pop("positions"), found.pop("vectors"), **found)


def _read_folder(path, topology):
    sets = sorted(p for p in path.glob("set.*") if p.is_dir())
    flat = sorted(path.glob("coord_*.npy"))
    if sets:
        names = [lambda kind, here=here: here / f"{kind}.npy" for here in sets]
    elif flat:
        ends = [p.name.removeprefix("coord_") for p in flat]
        names = [lambda kind, end=end: path / f"{kind}_{end}" for end in ends]
    else:
        raise ValueError("It has neither `set.000/coord.npy` nor `coord_0.npy`.")
    topology = _topology_of_folder(path, topology)
    return Labels.concatenate([_read_set(name, topology, (path / "nopbc").exists()) for name in names])


def _topology_of_folder(path, topology):
    if not (path / "type.raw").exists():
        if topology is None:
            raise ValueError("It has no `type.raw`: give `topology`.")
        return topology
    types = [int(word) for word in (path / "type.raw").read_text().split()]
    if not (path / "type_map.raw").exists():
        if topology is None:
            raise ValueError("It has no `type_map.raw`, which says what elements the types are: give `topology`.")
        if len(types) != topology.num_atoms:
            raise ValueError(f"It has {len(types)} atoms, `topology` has {topology.num_atoms}.")
        return topology
    elements = (path / "type_map.raw").read_text().split()
    if types and not 0 <= min(types) <= max(types) < len(elements):
        raise ValueError(f"`type.raw` has types from {min(types)} to {max(types)}, of {len(elements)} elements.")
    symbols = [elements[k] for k in types]
    if topology is not None:
        return require_elements(topology, symbols)
    require_symbols(symbols, lambda k: f"Atom {k}")
    return topology_of(symbols)


def _read_set(name, topology, is_open):
    atoms = topology.num_atoms
    coord = _array(name("coord"), 3 * atoms, 3 * atoms)
    n = len(coord)

    def optional(kind, width, shape, unit):
        if not name(kind).exists():
            return None
        rows = _array(name(kind), width, width)
        if len(rows) != n:
            raise ValueError(f"`{name(kind).name}` has {len(rows)} frames, the coordinates {n}.")
        return rows.reshape(n, *shape) * unit

    vectors = optional("box", 9, (3, 3), units.ANGSTROM)
    if (vectors is None) != is_open:
        raise ValueError(
            "It has boxes and says `nopbc`." if is_open else f"It has no `{name('box').name}`, and no file `nopbc`."
        )
    virial = optional("virial", 9, (3, 3), units.ELECTRONVOLT)
    stresses = None
    if virial is not None and vectors is not None:
        stresses = -virial / np.abs(np.linalg.det(vectors))[:, None, None]
    return Labels(
        topology,
        coord.reshape(n, atoms, 3) * units.ANGSTROM,
        vectors,
        energies=optional("energy", 1, (), units.ELECTRONVOLT),
        forces=optional("force", 3 * atoms, (atoms, 3), _FORCE),
        stresses=stresses,
        dipoles=optional("dipole", 3, (3,), units.ANGSTROM),
    )


def _array(path, width, wanted):
    """Rows of so many numbers, in double precision; what the header of the file claims is compared with its size."""
    if not path.exists():
        raise ValueError(f"It has no `{path.name}`.")
    x = np.load(path, mmap_mode="r", allow_pickle=False)
    if not (np.issubdtype(x.dtype, np.floating) and x.size and x.size == len(x) * width):
        raise ValueError(f"`{path.name}` is {x.dtype} of shape {x.shape}, wanted rows of {wanted} numbers.")
    return np.asarray(x, float).reshape(len(x), width)


class _Row(NamedTuple):
    """A frame of extended XYZ, in reverlet's units."""

    positions: np.ndarray
    vectors: np.ndarray | None
    energies: float | None
    forces: np.ndarray | None
    stresses: np.ndarray | None
    dipoles: np.ndarray | None


def _read_xyz(path, topology, prefix):
    # times and velocities are not looked at, so that their units do not matter
    request, rows, first = Request(topology, 1, 1, 1.0, 1.0, None), [], None
    with open(path, encoding="utf-8") as file:
        for block in blocks(file):
            comment = comment_of(block.comment, block.line + 1, request)
            table = Table.of(block, comment)
            if first is None:
                first = table.topology(request)
            symbols = table.topology(request).elements
            if symbols != first.elements:
                raise ValueError(f"The atoms of the frame at line {block.line} are not those of the first.")
            snapshot = table.snapshot(block, comment, first, request)
            rows.append(_row(block, table, snapshot, prefix))
    if not rows:
        raise ValueError("It has no frames.")
    found = {}
    for name, values in zip(_Row._fields, zip(*rows, strict=True), strict=True):
        lacking = [k for k, x in enumerate(values) if x is None]
        if 0 < len(lacking) < len(values):
            raise ValueError(f"Frame {lacking[0]} has no {name}, which others have; wanted the same in all frames.")
        found[name] = None if lacking else np.array(values)
    assert first is not None
    return Labels(first, found.pop("positions"), found.pop("vectors"), **found)


def _row(block, table, snapshot, prefix):
    place = lambda k: f"Line {block.line + 1}"
    pairs = pairs_of(block.comment, block.line + 1)
    here = prefix.lower()

    def said(name, count):
        if here + name not in pairs:
            return None
        found = numbers(pairs[here + name].split(), place)
        if len(found) != count:
            raise ValueError(f"Line {block.line + 1} has {len(found)} numbers in `{prefix}{name}`, wanted {count}.")
        return found

    energy, stress, virial, dipole = (said(*x) for x in (("energy", 1), ("stress", 9), ("virial", 9), ("dipole", 3)))
    forces = table.values((f"{here}forces", f"{here}force"), "R", 3)
    if stress is None and virial is not None and snapshot.vectors is not None:
        stress = -virial / abs(np.linalg.det(snapshot.vectors / units.ANGSTROM))
    return _Row(
        snapshot.positions,
        snapshot.vectors,
        None if energy is None else float(energy[0]) * units.ELECTRONVOLT,
        None if forces is None else forces * _FORCE,
        None if stress is None else stress.reshape(3, 3) * _STRESS,
        None if dipole is None else dipole * units.ANGSTROM,
    )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # readers raise whatever they stumble over
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be read as labels: {reason.strip() or 'no reason given'}") from None
