"""Configurations from and to ASE's `Atoms`."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import units
from .._box import OpenBox
from .._misc import as_float_array, require_instance
from .._state import State
from .._topology import Topology
from ..export._hosted import box_of

_MOMENTUM = units.ELECTRONVOLT**0.5
"""ASE's unit of momentum, √(u eV), in u nm/ps."""


def from_ase(atoms: Any) -> tuple[Topology, State]:
    """Topology and configuration of an `ase.Atoms`, in JAX's default precision.

    Masses are those that ASE moves the atoms by. Velocities are known where the atoms have momenta. Molecules are those
    of an array `molecules`, as `to_ase` and extended XYZ have it; without one every atom is its own. ASE knows no
    bonds. Atoms without periodic directions are in an `OpenBox`.

    **Errors:** `ImportError` without ASE; `ValueError` for atoms periodic in some directions only, cells that are none,
    constraints, which would be lost, and elements that there are not.
    """
    require_instance("atoms", atoms, require_ase().Atoms)
    if atoms.constraints:
        kinds = ", ".join(sorted({type(c).__name__ for c in atoms.constraints}))
        raise ValueError(
            f"`atoms` has constraints ({kinds}), which reverlet does not keep; wanted none: `del atoms.constraints`."
        )
    unknown = np.flatnonzero(atoms.numbers < 1)
    if len(unknown) > 0:
        raise ValueError(f"Atom {unknown[0]} of `atoms` is X; wanted elements.")
    masses = atoms.get_masses()
    topology = Topology(
        jnp.asarray(atoms.numbers, int),
        as_float_array(masses),
        jnp.asarray(atoms.arrays.get("molecules", np.arange(len(atoms))), int),
        jnp.zeros((0, 2), int),
    )
    velocities = None
    if atoms.has("momenta"):
        velocities = as_float_array(atoms.get_momenta() * _MOMENTUM / masses[:, None])
    vectors = np.asarray(atoms.cell) * units.ANGSTROM if is_periodic(atoms.pbc) else None
    return topology, State(as_float_array(atoms.positions * units.ANGSTROM), velocities, box_of(vectors))


def to_ase(topology: Topology, state: State) -> Any:
    """An `ase.Atoms` of one configuration, in its units: Å, u, and momenta in √(u eV) where velocities are known.

    Molecules go along, as an array `molecules`; ASE knows no bonds. Of frame `k` of a trajectory:
    `to_ase(topology, jax.tree.map(lambda x: x[k], trajectory.records))`.

    **Errors:** `ImportError` without ASE; `ValueError` for a state of other atoms, and of many configurations.
    """
    ase = require_ase()
    require_instance("topology", topology, Topology)
    require_instance("state", state, State)
    if state.positions.shape != (topology.num_atoms, 3):
        raise ValueError(
            f"`state` has positions of shape {state.positions.shape}; wanted one configuration of the topology's"
            f" {topology.num_atoms} atoms. Of many: `jax.tree.map(lambda x: x[k], states)` is that with index k."
        )
    number = lambda x: np.asarray(x, float)
    masses, periodic = number(topology.masses), not isinstance(state.box, OpenBox)
    atoms = ase.Atoms(
        numbers=np.asarray(topology.atomic_numbers),
        positions=number(state.positions) / units.ANGSTROM,
        masses=masses,
        cell=number(state.box.vectors) / units.ANGSTROM if periodic else None,
        pbc=periodic,
    )
    if state.has_velocities:
        atoms.set_momenta(number(state.velocities) * masses[:, None] / _MOMENTUM)
    atoms.set_array("molecules", np.asarray(topology.molecules))
    return atoms


def is_periodic(pbc: Any) -> bool:
    """Of `atoms.pbc`: all directions or none; others are refused."""
    if np.any(pbc) != np.all(pbc):
        raise ValueError(
            f"`atoms.pbc` is {np.asarray(pbc).tolist()}; wanted all of them or none: there are no boxes that are open"
            " on some sides. A slab has `pbc = True` and a cell with a gap in it."
        )
    return bool(np.all(pbc))


def require_ase() -> Any:
    """The module `ase`.

    **Errors:** `ImportError` where it is not installed.
    """
    try:
        import ase
    except ImportError as error:
        raise ImportError("This needs the package `ase`, which is not installed; wanted `pip install ase`.") from error
    return ase
