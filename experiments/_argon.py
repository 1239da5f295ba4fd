"""Where a simulation of a liquid of one kind of atoms starts: a crystal, or a file."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

import reverlet as rv

from ._errors import BadInput


def crystal(atoms: int, box_length: float, seed: int) -> tuple[rv.Topology, rv.State]:
    """Atoms on sites of a face-centered cubic lattice that fills the box; the sites that are too many stay empty."""
    cells = int(np.ceil((atoms / 4) ** (1 / 3) - 1e-9))
    corners = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = ((corners + basis).reshape(-1, 3) + 0.25) * box_length / cells
    kept = np.sort(np.random.default_rng(seed).permutation(len(sites))[:atoms])
    positions = jnp.asarray(sites[kept], jnp.float32)
    box = rv.OrthorhombicBox(jnp.full(3, box_length, jnp.float32))
    return rv.Topology.from_elements(["Ar"] * atoms), rv.State(positions, jnp.zeros_like(positions), box)


def read_structure(path: Path) -> tuple[rv.Topology, rv.State]:
    """The first configuration of a PDB or extxyz file, at rest and in single precision."""
    if not path.is_file():
        raise BadInput(f"There is no structure file {path}; wanted a PDB or extxyz file.")
    topology, state = rv.io.read_structure(path)
    counts = {e: topology.elements.count(e) for e in sorted(set(topology.elements))}
    if len(counts) != 1 or topology.num_atoms < 2:
        found = ", ".join(f"{n} {e}" for e, n in counts.items())
        raise BadInput(f"The structure file {path} has {found}; wanted at least two atoms of one element, as argon.")
    if isinstance(state.box, rv.OpenBox):
        raise BadInput(
            f'The structure file {path} has no periodic box; wanted one: CRYST1 in a PDB, Lattice="..." in an extxyz'
            " file."
        )
    positions = state.positions.astype(jnp.float32)
    box = state.box.astype(jnp.float32)
    return rv.Topology.from_elements(topology.elements), rv.State(positions, jnp.zeros_like(positions), box)
