"""From a `System` of OpenMM to ours."""

from typing import Any

import numpy as np

from .._box import AbstractBox, OpenBox, OrthorhombicBox, TriclinicBox
from .._elements import MASSES, SYMBOLS
from .._misc import as_float_array, require_instance
from .._potential import AbstractPotential, HarmonicAngle, HarmonicBond, PeriodicTorsion, RBTorsion, Sum
from .._state import State
from .._system import System
from .._topology import Topology
from ._nonbonded import custom, grouped, nonbonded
from ._optional import number, require_openmm


def default_box(system: Any) -> AbstractBox:
    """The default box of an `openmm.System`: an `OpenBox` where none of its forces is periodic."""
    require_instance("system", system, require_openmm().System)
    return _box(system, system.getDefaultPeriodicBoxVectors())


def _box(system, vectors) -> AbstractBox:
    if not system.usesPeriodicBoundaryConditions():
        return OpenBox()  # pyright: ignore[reportCallIssue]
    vectors = np.array([[float(number(x)) for x in v] for v in vectors])
    if np.count_nonzero(vectors - np.diag(np.diag(vectors))) == 0:
        return OrthorhombicBox(np.diag(vectors))
    return TriclinicBox(vectors)


def from_state(state: Any, system: Any) -> State:
    """Positions, velocities and box of an `openmm.State`, in JAX's default precision.

    **Arguments:** `state`, such as `context.getState(getPositions=True, getVelocities=True)`: without velocities ours
    has none; `system`, the `openmm.System`, which knows whether there is a box.

    **Errors:** `ValueError` for a state without positions, and as for `State`; `ImportError` without OpenMM.
    """
    openmm = require_openmm()
    require_instance("state", state, openmm.State)
    require_instance("system", system, openmm.System)
    kinds = state.getDataTypes()
    if not kinds & openmm.State.Positions:
        raise ValueError("`state` has no positions; wanted one of `context.getState(getPositions=True)`.")
    positions = as_float_array(number(state.getPositions(asNumpy=True)))
    known = kinds & openmm.State.Velocities
    velocities = as_float_array(number(state.getVelocities(asNumpy=True))) if known else None
    return State(positions, velocities, _box(system, state.getPeriodicBoxVectors()))


def from_system(system: Any, topology: Any = None, *, box: AbstractBox | None = None) -> System:
    """The same atoms and forces as an `openmm.System`, with parameters ready to be trained.

    Equal parameters become one: two bonds with the same length and the same stiffness are of one kind, which a fit
    moves together. Charges become a `MolecularCharges` where all molecules have whole charges, in which molecules of
    equal atoms and charges share their parameters and the largest charge of a molecule follows from the others;
    otherwise an `AtomCharges`. Atoms without a Lennard-Jones interaction are left out of that part, by `Among`.

    - `HarmonicBondForce`, `HarmonicAngleForce`, `PeriodicTorsionForce`, `RBTorsionForce`: `HarmonicBond`,
      `HarmonicAngle`, `PeriodicTorsion`, `RBTorsion`, with the nearest images of their steps whether or not OpenMM
      takes them.
    - `NonbondedForce`: `LennardJones`, and `Coulomb` without a cutoff, `ReactionField` with one, `Ewald` for Ewald and
      PME (and LJPME of charges alone), with the tolerance as its accuracy. 1-4 pairs, which have no cutoff, share the
      parameters of all others (`Rescaling`) where one factor relates them; otherwise their Lennard-Jones parameters are
      their own (`ListedPairs`). They are meant in their nearest images, whether or not OpenMM takes them.
    - `CustomNonbondedForce`, whatever its expression, where its numbers are those of a Lennard-Jones potential.
    - A dispersion correction: `TailCorrected`, the same for atoms that are all alike; otherwise OpenMM, which means
      over N(N+1)/2 pairs, differs by a share of order 1/N.
    - Thermostats, barostats and `CMMotionRemover` are left out: they are no part of the surface.

    **Arguments:** `system`, an `openmm.System`; `topology`, its `openmm.app.Topology`, without which elements are told
    by masses and bonds are those of the `HarmonicBondForce`; `box`, to fit Ewald's sum to, `default_box(system)` by
    default.

    **Errors:** `ValueError` for what is not named above (other forces by the names of their classes; constraints,
    virtual sites, atoms without mass, LJPME of dispersion, parameter offsets, interaction groups, a force without its
    direct space, pairs without periodic images beside forces with them, charges of 1-4 pairs that no common factor
    explains); `ImportError` without OpenMM.
    """
    openmm = require_openmm()
    require_instance("system", system, openmm.System)
    num = system.getNumParticles()
    if system.getNumConstraints() > 0:
        raise ValueError(
            f"The OpenMM system has {system.getNumConstraints()} constraints; wanted none, since rigid bonds are not"
            " supported. Create it with `constraints=None, rigidWater=False`."
        )
    virtual = [k for k in range(num) if system.isVirtualSite(k)]
    if virtual:
        raise ValueError(f"Atom {virtual[0]} is a virtual site; wanted atoms only, such as a three-site water has.")
    box = default_box(system) if box is None else box
    topology = _topology(system, topology)
    ignored = (
        openmm.CMMotionRemover,
        openmm.AndersenThermostat,
        openmm.MonteCarloBarostat,
        openmm.MonteCarloAnisotropicBarostat,
        openmm.MonteCarloFlexibleBarostat,
        openmm.MonteCarloMembraneBarostat,
    )
    parts: list[AbstractPotential] = []
    for force in system.getForces():
        pairs = isinstance(force, openmm.NonbondedForce | openmm.CustomNonbondedForce)
        if pairs and system.usesPeriodicBoundaryConditions() and not force.usesPeriodicBoundaryConditions():
            raise ValueError(
                f"The `{type(force).__name__}` takes no periodic images, but other forces of the system do; wanted"
                " all, or none."
            )
        if isinstance(force, openmm.HarmonicBondForce):
            parts += _bonds(force)
        elif isinstance(force, openmm.HarmonicAngleForce):
            parts += _angles(force)
        elif isinstance(force, openmm.PeriodicTorsionForce):
            parts += _torsions(force)
        elif isinstance(force, openmm.RBTorsionForce):
            parts += _rb_torsions(force)
        elif isinstance(force, openmm.NonbondedForce):
            parts += nonbonded(force, topology, box)
        elif isinstance(force, openmm.CustomNonbondedForce):
            parts += custom(force)
        elif not isinstance(force, ignored):
            raise ValueError(
                f"The OpenMM system has a `{type(force).__name__}`, which has no counterpart here; wanted"
                " `HarmonicBondForce`, `HarmonicAngleForce`, `PeriodicTorsionForce`, `RBTorsionForce`,"
                " `NonbondedForce`, and `CustomNonbondedForce` of Lennard-Jones form."
            )
    return System(topology, Sum(tuple(parts)))  # pyright: ignore[reportCallIssue]


def _topology(system, topology) -> Topology:
    openmm = require_openmm()
    masses = np.array([number(system.getParticleMass(k)) for k in range(system.getNumParticles())], float)
    if np.any(masses <= 0):
        raise ValueError(f"Atom {np.argmin(masses)} has no mass; wanted atoms that move.")
    if topology is None:
        elements = [_element(k, mass) for k, mass in enumerate(masses)]
        bonds = [
            tuple(force.getBondParameters(k)[:2])
            for force in system.getForces()
            if isinstance(force, openmm.HarmonicBondForce)
            for k in range(force.getNumBonds())
        ]
    else:
        if topology.getNumAtoms() != len(masses):
            raise ValueError(
                f"`topology` has {topology.getNumAtoms()} atoms but the system {len(masses)}; wanted the one that the"
                " system was created from."
            )
        for atom in topology.atoms():
            if atom.element is None:
                raise ValueError(f"Atom {atom.index} ({atom.name}) of `topology` has no element; wanted one.")
        elements = [atom.element.symbol for atom in topology.atoms()]
        bonds = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
    bonds = sorted({(min(i, j), max(i, j)) for i, j in bonds})  # there may be two springs on one pair
    return Topology.from_elements(elements, masses=masses, molecules=_molecules(len(masses), bonds), bonds=bonds)


def _element(k: int, mass: float) -> str:
    nearest = min(SYMBOLS, key=lambda symbol: abs(MASSES[symbol] - mass))
    if abs(MASSES[nearest] - mass) > 0.1:
        raise ValueError(f"Atom {k} has a mass of {mass} u, which is of no element; wanted a `topology` to tell it.")
    return nearest


def _molecules(num: int, bonds) -> list[int]:
    """The index of each atom's molecule, in the order of their first atoms."""
    parent = list(range(num))

    def root(k):
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for i, j in bonds:
        i, j = sorted((root(i), root(j)))
        parent[j] = i
    order = {}
    return [order.setdefault(root(k), len(order)) for k in range(num)]


def _bonds(force):
    terms = [force.getBondParameters(k) for k in range(force.getNumBonds())]
    if not terms:
        return []
    (length, stiffness), kinds = grouped([[number(r), number(k)] for *_, r, k in terms])
    return [HarmonicBond(np.array([term[:2] for term in terms]), stiffness, length, kinds=kinds)]


def _angles(force):
    terms = [force.getAngleParameters(k) for k in range(force.getNumAngles())]
    if not terms:
        return []
    (angle, stiffness), kinds = grouped([[number(t), number(k)] for *_, t, k in terms])
    return [HarmonicAngle(np.array([term[:3] for term in terms]), stiffness, angle, kinds=kinds)]


def _torsions(force):
    terms = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
    if not terms:
        return []
    (n, phase, stiffness), kinds = grouped([[n, number(p), number(k)] for *_, n, p, k in terms])
    return [PeriodicTorsion(np.array([term[:4] for term in terms]), stiffness, n.astype(int), phase, kinds=kinds)]


def _rb_torsions(force):
    terms = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
    if not terms:
        return []
    coefficients, kinds = grouped([[number(c) for c in term[4:]] for term in terms])
    return [RBTorsion(np.array([term[:4] for term in terms]), *coefficients, kinds=kinds)]
