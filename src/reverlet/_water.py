"""Flexible models of water, composed of the parts of the library."""

import math

import jax.numpy as jnp
import numpy as np

from . import units
from ._box import AbstractBox, half_height
from ._misc import require_count
from ._potential import (
    AbstractTruncation,
    Among,
    Ewald,
    HarmonicAngle,
    HarmonicBond,
    LennardJones,
    MolecularCharges,
    SmoothSwitch,
)
from ._system import System
from ._topology import Topology

_STIFFNESS = units.KILOCALORIE_PER_MOLE / units.ANGSTROM**2


def qspcfw(
    num_molecules: int,
    box: AbstractBox,
    *,
    cutoff: float | None = None,
    truncation: AbstractTruncation | None = None,
    accuracy: float = 1e-4,
) -> System:
    """q-SPC/Fw water: harmonic bonds and angles, a Lennard-Jones site on oxygen, three charges, Ewald's sum.

    Molecules are neutral whatever the charge of hydrogen, the only parameter of the charges, becomes. Atoms come
    molecule by molecule, O, H, H. The parts of the potential: `HarmonicBond`, `HarmonicAngle`, `Among` (the
    Lennard-Jones sites), `Ewald`; `system.potential.part(rv.HarmonicBond).stiffness` is a parameter.

    Made for path integral simulations, which soften it. The classical spectrum has its stretch near 3600 cm⁻¹.

    **Arguments:** `num_molecules`; `box`, periodic; `cutoff` of both non-bonded parts (nm), by default half the
    smallest height of the box, at most 0.9; `truncation` of the Lennard-Jones part, by default a `SmoothSwitch` over
    the last 15 % of the cutoff, so that energy is conserved (in the publication, a plain cutoff: `rv.PlainCutoff()`);
    `accuracy` of the forces of the charges, as of `Ewald.fit`.

    **Errors:** as of `Ewald.fit`; `ValueError` without molecules.

    **Reference:** F. Paesani et al., J. Chem. Phys. 125, 184507 (2006), table I.
    """
    return _three_sites(
        num_molecules,
        box,
        cutoff,
        truncation,
        accuracy,
        stiffness=1059.162 * _STIFFNESS,
        length=0.1,
        angle_stiffness=75.90 * units.KILOCALORIE_PER_MOLE,
        angle=math.radians(112.0),
        charge=0.42,
        sigma=0.3165492,
        epsilon=0.1554252 * units.KILOCALORIE_PER_MOLE,
    )


def spcfw(
    num_molecules: int,
    box: AbstractBox,
    *,
    cutoff: float | None = None,
    truncation: AbstractTruncation | None = None,
    accuracy: float = 1e-4,
) -> System:
    """SPC/Fw water, for classical simulations; otherwise as `qspcfw`.

    **Reference:** Y. Wu, H. L. Tepper and G. A. Voth, J. Chem. Phys. 124, 024503 (2006).
    """
    return _three_sites(
        num_molecules,
        box,
        cutoff,
        truncation,
        accuracy,
        stiffness=1059.162 * _STIFFNESS,
        length=0.1012,
        angle_stiffness=75.90 * units.KILOCALORIE_PER_MOLE,
        angle=math.radians(113.24),
        charge=0.41,
        sigma=0.3165492,
        epsilon=0.1554253 * units.KILOCALORIE_PER_MOLE,
    )


def flexible_tip3p(
    num_molecules: int,
    box: AbstractBox,
    *,
    cutoff: float | None = None,
    truncation: AbstractTruncation | None = None,
    accuracy: float = 1e-4,
) -> System:
    """TIP3P water with the springs of the CHARMM force field in place of its rigid bonds; otherwise as `qspcfw`.

    With the Lennard-Jones site of the original, on oxygen alone.

    **Reference:** W. L. Jorgensen et al., J. Chem. Phys. 79, 926 (1983); springs: A. D. MacKerell et al., J. Phys.
    Chem. B 102, 3586 (1998), where k is half of ours.
    """
    return _three_sites(
        num_molecules,
        box,
        cutoff,
        truncation,
        accuracy,
        stiffness=2 * 450 * _STIFFNESS,
        length=0.09572,
        angle_stiffness=2 * 55 * units.KILOCALORIE_PER_MOLE,
        angle=math.radians(104.52),
        charge=0.417,
        sigma=0.315061,
        epsilon=0.1521 * units.KILOCALORIE_PER_MOLE,
    )


def _three_sites(
    num_molecules,
    box,
    cutoff,
    truncation,
    accuracy,
    *,
    stiffness,
    length,
    angle_stiffness,
    angle,
    charge,
    sigma,
    epsilon,
):
    require_count("num_molecules", num_molecules)
    if cutoff is None:
        cutoff = min(0.9, half_height(box))
    truncation = SmoothSwitch(0.85 * cutoff) if truncation is None else truncation
    one = Topology.from_elements(
        ["O", "H", "H"],
        masses=np.array([15.99943, 1.007947, 1.007947]),
        molecules=[0, 0, 0],
        bonds=[(0, 1), (0, 2)],
    )
    topology = one.repeat(num_molecules)
    kinds = jnp.tile(jnp.array([-1, 0, 0]), num_molecules)
    charges = MolecularCharges(jnp.array([charge]), kinds, topology.molecules)
    potential = (
        HarmonicBond(topology.bonds, stiffness, length)
        + HarmonicAngle(topology.angles, angle_stiffness, angle)
        + Among(LennardJones(sigma, epsilon, cutoff=cutoff, truncation=truncation), 3 * jnp.arange(num_molecules))
        + Ewald.fit(charges, box, cutoff=cutoff, accuracy=accuracy, exclusions=topology.pairs_within(2))
    )
    return System(topology, potential)
