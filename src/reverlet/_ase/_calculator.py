"""A calculator for ASE."""

import functools
from typing import Any

import numpy as np

from .. import units
from .._elements import SYMBOLS
from .._misc import require_instance
from .._system import System
from ..export._card import ModelCard
from ..export._hosted import Hosted
from ._atoms import is_periodic, require_ase


def ASECalculator(system: System, *, card: ModelCard = ModelCard()) -> Any:
    """A calculator of ASE (`atoms.calc`): energy, free energy and forces; in periodic boxes the stress; where the
    system has a dipole, that. In ASE's units: eV, Å, e.

    An `Atoms` without periodic directions is in open space, one that is periodic in all three in the box of its cell.
    Its atoms must be those of the topology, in their order; ASE moves them by its own masses. Computed in JAX's default
    precision: with `jax.config.update("jax_enable_x64", True)` in double. Compiled once, and anew for another number
    of atoms or kind of box. The dipole is of the positions as they are, and so wants molecules whole.

    **Arguments:** `card`, which ASE writes into its trajectories and databases, as a parameter of the calculator.

    **Errors:** `ImportError` without ASE; `ValueError` for other atoms, atoms periodic in some directions only, and
    cells too small or too skewed; `SimulationError` where the energy is not finite; ASE's own
    `PropertyNotImplementedError` for what there is not, as the stress in open space.

    **Reference:** A. H. Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017).
    """
    require_instance("card", card, ModelCard)
    return _class()(Hosted(system), card)


@functools.cache
def _class() -> Any:
    require_ase()
    from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress

    base: Any = Calculator

    class Reverlet(base):
        name = "reverlet"

        def __init__(self, hosted: Hosted, card: ModelCard):
            self._hosted, self._card = hosted, card
            system = hosted.system
            moment = [] if system.dipole is None else ["dipole"]
            self.implemented_properties = ["energy", "free_energy", "forces", "stress", *moment]
            super().__init__()

        def todict(self, skip_default=True):
            return {"card": self._card.contents(self._hosted.system)}

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            atoms = self.atoms
            _require_atoms(self._hosted.system, atoms.numbers)
            periodic = is_periodic(atoms.pbc)
            if "stress" in properties and not periodic:
                raise PropertyNotImplementedError("There is no stress in open space; wanted `atoms.pbc = True`.")
            out = self._hosted(
                atoms.positions * units.ANGSTROM,
                np.asarray(atoms.cell) * units.ANGSTROM if periodic else None,
                stress="stress" in properties,
                dipole="dipole" in properties,
            )
            energy = float(out.energy) / units.ELECTRONVOLT
            self.results: dict[str, Any] = {"energy": energy, "free_energy": energy}
            self.results["forces"] = _in(out.forces, units.ELECTRONVOLT / units.ANGSTROM)
            if out.stress is not None:
                stress = _in(out.stress, units.ELECTRONVOLT / units.ANGSTROM**3)
                self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
            if out.dipole is not None:
                self.results["dipole"] = _in(out.dipole, units.ANGSTROM)

    return Reverlet


def _in(x, unit):
    return np.asarray(x, np.float64) / unit


def _require_atoms(system: System, numbers: np.ndarray) -> None:
    wanted = np.asarray(system.topology.atomic_numbers)
    if len(numbers) != len(wanted):
        raise ValueError(f"`atoms` has {len(numbers)} atoms; wanted the {len(wanted)} of the system's topology.")
    other = np.flatnonzero(numbers != wanted)
    if len(other) > 0:
        k = int(other[0])
        name = lambda z: SYMBOLS[z - 1] if 0 < z <= len(SYMBOLS) else "X"
        same = sorted(numbers) == sorted(wanted)
        raise ValueError(
            f"Atom {k} of `atoms` is {name(numbers[k])}, but {name(wanted[k])} in the system's topology; wanted the"
            f" same elements in the same order{': sort the atoms' if same else ''}."
        )
