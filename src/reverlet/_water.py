"""Flexible models of water, composed of the parts of the library."""

import abc
import math

import jax
import jax.numpy as jnp
import numpy as np

from . import units
from ._box import AbstractBox, OpenBox, half_height
from ._dipole import PointCharges
from ._fields import AbstractChecked, Parameter, finite, parameters_of, positive, positive_or_zero
from ._misc import is_concrete, require_angle, require_count, require_shape
from ._potential import (
    AbstractTruncation,
    Among,
    Coulomb,
    Ewald,
    HarmonicAngle,
    HarmonicBond,
    LennardJones,
    MolecularCharges,
    PlainCutoff,
    SmoothSwitch,
    TailCorrected,
)
from ._system import System
from ._topology import Topology

_STIFFNESS = units.KILOCALORIE_PER_MOLE / units.ANGSTROM**2
_MOLE = units.KILOCALORIE_PER_MOLE
_EVERYWHERE = 1e6
"""nm: a cutoff that leaves nothing out."""


class AbstractModel(AbstractChecked):
    """Parameters of a kind of matter, by element or name, before there are atoms: bound to a topology they make its
    surfaces.

    One model serves systems of different sizes. A gradient with respect to the model is one with respect to the
    parameters of all surfaces of all systems made of it: `fit` trains it, where the loss makes its systems.
    """

    @abc.abstractmethod
    def bind(self, topology: Topology, box: AbstractBox) -> System:
        """The system of these atoms, in a box of about this size.

        **Errors:** `ValueError` for a topology that is not of what the model describes.
        """


class WaterModel(AbstractModel):
    """Flexible water of three sites: harmonic bonds and angles, a Lennard-Jones site on oxygen, charges, Ewald's sum.

    Molecules are neutral whatever the charge of hydrogen, the only parameter of the charges, becomes. Atoms come
    molecule by molecule, O, H, H. The parts of a system's potential: `HarmonicBond`, `HarmonicAngle`, `Among` (the
    Lennard-Jones sites), `Ewald`; its dipole: `PointCharges` of the same charges.

        model = rv.WaterModel.qspcfw()
        small, large = model.system(32, box), model.system(216, larger_box)

    To change a parameter, change the model and make the system anew, also inside `jax.jit`, as long as the box is known
    there: a charge that is changed in a system's potential alone is not changed in its dipole.

    **Arguments:** `charge` of a hydrogen (e); `sigma` (nm) and `epsilon` (kJ/mol) of an oxygen; `stiffness`
    (kJ/mol/nm²) and `length` (nm) of a bond; `angle_stiffness` (kJ/mol/rad²) and `angle` (rad) of the two bonds.

    **Errors:** `ValueError` for parameters that are not finite, or negative where they must not be, and for an angle
    in degrees.
    """

    charge: Parameter = finite("e")
    sigma: Parameter = positive("nm")
    epsilon: Parameter = positive_or_zero("kJ/mol")
    stiffness: Parameter = positive_or_zero("kJ/mol/nm²")
    length: Parameter = positive("nm")
    angle_stiffness: Parameter = positive_or_zero("kJ/mol/rad²")
    angle: Parameter = positive("rad")

    def __check_init__(self):
        for name, x in parameters_of(self):
            require_shape(name, x, (), "A model has one of each.")
        require_angle("angle", self.angle, np.pi, "π")

    @classmethod
    def qspcfw(cls) -> "WaterModel":
        """q-SPC/Fw. Made for path integral simulations, which soften it: the classical spectrum has its stretch near
        3600 cm⁻¹.

        **Reference:** F. Paesani et al., J. Chem. Phys. 125, 184507 (2006), table I.
        """
        stiffness, angle_stiffness = 1059.162 * _STIFFNESS, 75.90 * _MOLE
        return cls(0.42, 0.3165492, 0.1554252 * _MOLE, stiffness, 0.1, angle_stiffness, math.radians(112.0))

    @classmethod
    def spcfw(cls) -> "WaterModel":
        """SPC/Fw, for classical simulations.

        **Reference:** Y. Wu, H. L. Tepper and G. A. Voth, J. Chem. Phys. 124, 024503 (2006).
        """
        stiffness, angle_stiffness = 1059.162 * _STIFFNESS, 75.90 * _MOLE
        return cls(0.41, 0.3165492, 0.1554253 * _MOLE, stiffness, 0.1012, angle_stiffness, math.radians(113.24))

    @classmethod
    def flexible_tip3p(cls) -> "WaterModel":
        """TIP3P with the springs of the CHARMM force field in place of its rigid bonds, and the Lennard-Jones site of
        the original, on oxygen alone.

        **Reference:** W. L. Jorgensen et al., J. Chem. Phys. 79, 926 (1983); springs: A. D. MacKerell et al., J. Phys.
        Chem. B 102, 3586 (1998), where k is half of ours.
        """
        stiffness, angle_stiffness = 2 * 450 * _STIFFNESS, 2 * 55 * _MOLE
        return cls(0.417, 0.315061, 0.1521 * _MOLE, stiffness, 0.09572, angle_stiffness, math.radians(104.52))

    def system(
        self,
        num_molecules: int,
        box: AbstractBox,
        *,
        cutoff: float | None = None,
        truncation: AbstractTruncation | None = None,
        accuracy: float = 1e-4,
        tail: bool = False,
    ) -> System:
        """`num_molecules` molecules of this water.

        In an open box, such as that of a gas or a cluster, all pairs interact in full: `Coulomb` in the place of
        `Ewald`.

        **Arguments:** `num_molecules`; `box`; `cutoff` of both non-bonded parts (nm), by default half the
        smallest height of the box, at most 0.9; `truncation` of the Lennard-Jones part, by default a `SmoothSwitch`
        over the last 15 % of the cutoff, so that energy is conserved (in the publication of q-SPC/Fw, a plain cutoff:
        `rv.PlainCutoff()`); `accuracy` of the forces of the charges, as for `Ewald.fit`; `tail`, whether the energy of
        what the cutoff leaves out of the Lennard-Jones part is added (`TailCorrected`), as densities need it.

        **Errors:** as for `Ewald.fit`; `ValueError` without molecules, for a box that is traced, and for a cutoff,
        truncation or tail in an open box.
        """
        require_count("num_molecules", num_molecules)
        with jax.ensure_compile_time_eval():  # in a loss that is compiled
            topology = _molecule().repeat(num_molecules)
        return self.bind(topology, box, cutoff=cutoff, truncation=truncation, accuracy=accuracy, tail=tail)

    def bind(
        self,
        topology: Topology,
        box: AbstractBox,
        *,
        cutoff: float | None = None,
        truncation: AbstractTruncation | None = None,
        accuracy: float = 1e-4,
        tail: bool = False,
    ) -> System:
        _require_water(topology)
        alone = isinstance(box, OpenBox)
        if alone and (cutoff is not None or truncation is not None or tail):
            raise ValueError("`WaterModel` got a cutoff in an `OpenBox`, where all pairs interact; wanted none.")
        if cutoff is None:
            cutoff = _EVERYWHERE if alone else min(0.9, half_height(box))
        if truncation is None:
            truncation = PlainCutoff() if alone else SmoothSwitch(0.85 * cutoff)
        with jax.ensure_compile_time_eval():  # what is known stays known, whatever is traced
            kinds = jnp.where(topology.atomic_numbers == 8, -1, 0)
            charges = MolecularCharges(self.charge[None], kinds, topology.molecules)
            sites = LennardJones(self.sigma, self.epsilon, cutoff=cutoff, truncation=truncation)
            sites = TailCorrected(sites) if tail else sites  # pyright: ignore[reportCallIssue]
            bonded = topology.pairs_within(2)
            electrostatics = (
                Coulomb(charges, exclusions=bonded)
                if alone
                else Ewald.fit(charges, box, cutoff=cutoff, accuracy=accuracy, exclusions=bonded)
            )
            potential = (
                HarmonicBond(topology.bonds, self.stiffness, self.length)
                + HarmonicAngle(topology.angles, self.angle_stiffness, self.angle)
                + Among(sites, 3 * jnp.arange(topology.num_atoms // 3))
                + electrostatics
            )
            return System(topology, potential, PointCharges(charges))


def _molecule() -> Topology:
    return Topology.from_elements(
        ["O", "H", "H"],
        masses=np.array([15.99943, 1.007947, 1.007947]),
        molecules=[0, 0, 0],
        bonds=[(0, 1), (0, 2)],
    )


def _require_water(topology: Topology) -> None:
    if not is_concrete(topology):
        raise ValueError("`WaterModel` got a traced topology; wanted known atoms and bonds, since arrays follow them.")
    waters = -(-topology.num_atoms // 3)
    with jax.ensure_compile_time_eval():
        wanted = _molecule().repeat(waters)
        order = lambda bonds: np.unique(np.sort(np.asarray(bonds), axis=1), axis=0)
        same = (
            np.array_equal(topology.atomic_numbers, wanted.atomic_numbers)
            and np.array_equal(topology.molecules, wanted.molecules)
            and np.array_equal(order(topology.bonds), order(wanted.bonds))
        )
    if not same:
        elements, counts = np.unique(np.asarray(topology.elements), return_counts=True)
        got = ", ".join(f"{count} {element}" for element, count in zip(elements, counts, strict=True))
        raise ValueError(
            f"`WaterModel` got a topology of {got} atoms with {len(topology.bonds)} bonds, no water as it knows it;"
            " wanted whole molecules one after the other, each O, H, H with bonds from O to both H, and numbered"
            " from 0. `model.system(num_molecules, box)` makes such a topology itself."
        )


def qspcfw(
    num_molecules: int,
    box: AbstractBox,
    *,
    cutoff: float | None = None,
    truncation: AbstractTruncation | None = None,
    accuracy: float = 1e-4,
) -> System:
    """q-SPC/Fw water: `WaterModel.qspcfw().system(...)`, whose arguments and errors these are, without its dipole.

    So parameters can be changed in the potential: `system.potential.part(rv.HarmonicBond).stiffness` is one. Where a
    dipole is wanted, `rv.PointCharges.of` makes it of the charges that are there.
    """
    system = WaterModel.qspcfw().system(num_molecules, box, cutoff=cutoff, truncation=truncation, accuracy=accuracy)
    return System(system.topology, system.potential)
