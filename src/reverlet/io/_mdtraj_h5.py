"""Reading HDF5 as MDTraj and OpenMM's reporters write it (convention "Pande" 1.1): nm, ps, degrees, single precision.

https://www.mdtraj.org/1.9.8.dev0/hdf5_format.html
"""

import json
from collections.abc import Iterator

import numpy as np

from .._topology import Topology
from ._cell import vectors_of
from ._frames import Frames, Request, parts, require_elements, require_symbols, topology_of
from ._hdf5 import HDF5File

_UNITS = {
    "/coordinates": "nanometers",
    "/time": "picoseconds",
    "/cell_lengths": "nanometers",
    "/cell_angles": "degrees",
    "/velocities": "nanometers/picosecond",
}


def frames_of_mdtraj(file: HDF5File, request: Request) -> Iterator[Frames]:
    """Of an open file."""
    num_frames, num_atoms, *rest = (*file.shape("/coordinates"), 0, 0)[:3]
    if rest != [3] or 0 in (num_frames, num_atoms):
        raise ValueError(f"Its coordinates have shape {file.shape('/coordinates')}, wanted (frames, atoms, 3).")
    shapes = {"/coordinates": (num_atoms, 3), "/velocities": (num_atoms, 3), "/time": ()}
    for name, unit in _UNITS.items():
        if name in file:
            if file.shape(name) != (num_frames, *shapes.get(name, (3,))):
                raise ValueError(f"Its `{name}` has shape {file.shape(name)} for {num_frames} frames.")
            if file.attribute(name, "units") != unit:
                raise ValueError(f"The units of `{name}` are {file.attribute(name, 'units')!r}, wanted {unit!r}.")
    if ("/cell_lengths" in file) != ("/cell_angles" in file):
        raise ValueError("It has only one of `cell_lengths` and `cell_angles`, wanted both or none.")
    topology = _topology(file, num_atoms, request)
    for part in parts(num_frames, request):
        of = lambda name, part=part: file.values(name, "f", part) if name in file else None
        lengths, angles = of("/cell_lengths"), of("/cell_angles")
        vectors = None if lengths is None or angles is None else vectors_of(lengths, angles)
        positions, times = file.values("/coordinates", "f", part), of("/time")
        yield Frames(topology, positions, of("/velocities"), vectors, times)


def _topology(file, num_atoms, request: Request) -> Topology:
    if "/topology" not in file:
        if request.topology is None:
            raise ValueError("It has no `topology`: give one.")
        return require_elements(request.topology, [None] * num_atoms)
    [text] = file.values("/topology", "S").reshape(-1)
    found = json.loads(text)
    residues = [residue for chain in found["chains"] for residue in chain["residues"]]
    atoms = [
        (int(atom["index"]), atom["element"], k) for k, residue in enumerate(residues) for atom in residue["atoms"]
    ]
    indices, elements, molecules = zip(*sorted(atoms), strict=True)
    if indices != tuple(range(num_atoms)):
        raise ValueError(f"Its topology numbers {len(indices)} atoms, its coordinates are of {num_atoms}.")
    if request.topology is not None:
        return require_elements(request.topology, elements)
    require_symbols(elements, lambda k: f"Atom {k} of its topology")
    bonds = np.array([bond[:2] for bond in found["bonds"]], int).reshape(-1, 2)
    return topology_of(elements, molecules=np.array(molecules), bonds=bonds)
