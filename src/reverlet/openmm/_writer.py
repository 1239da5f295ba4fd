"""From our potentials to forces of OpenMM."""

import dataclasses
import math
from typing import Any

import numpy as np

from .._box import AbstractBox, OpenBox
from .._misc import is_concrete, require_instance
from .._potential import (
    P3M,
    AbstractBondedPotential,
    AbstractElectrostatics,
    AbstractPotential,
    Among,
    Coulomb,
    Ewald,
    Excluding,
    HarmonicAngle,
    HarmonicBond,
    LennardJones,
    ListedPairs,
    MorseBond,
    PeriodicTorsion,
    PlainCutoff,
    RBTorsion,
    ReactionField,
    Rescaling,
    SmoothSwitch,
    Sum,
    TailCorrected,
    UreyBradley,
)
from .._system import System
from ._optional import NO_CUTOFF, require_openmm

_Pair = tuple[int, int]


def to_system(system: System, box: AbstractBox) -> Any:
    """The same atoms and forces as an `openmm.System`, with the same numbers.

    The parts of the potential may be `HarmonicBond`, `MorseBond`, `HarmonicAngle`, `UreyBradley`, `PeriodicTorsion`,
    `RBTorsion`; a `LennardJones`, also within `Among`, `Excluding`, `Rescaling` and `TailCorrected`; `ListedPairs` of
    it for pairs with parameters of their own; `Coulomb`, `ReactionField` or `Ewald` and `P3M`, which both become
    OpenMM's PME, with their accuracy as its tolerance. The non-bonded parts become one `NonbondedForce`.

    **Arguments:** `box`, the default box of the new system; a triclinic one as OpenMM wants it, with the first lattice
    vector along x and the second in the plane of x and y.

    **Errors:** `ValueError` for other potentials, by their names; two non-bonded parts of one kind, or with different
    cutoffs; Lennard-Jones parameters of pairs of species; a shifted cutoff; traced parameters; a triclinic box that is
    turned in space. `ImportError` without OpenMM.
    """
    openmm = require_openmm()
    require_instance("system", system, System)
    require_instance("box", box, AbstractBox)
    if not is_concrete((system, box)):
        raise ValueError("The system or the box is traced; wanted numbers: call OpenMM outside `jax.jit`.")
    result = openmm.System()
    for mass in np.asarray(system.topology.masses, float):
        result.addParticle(mass)
    periodic = not isinstance(box, OpenBox)
    if periodic:
        result.setDefaultPeriodicBoxVectors(*box_vectors(box))
    for part in parts_of(system.potential):
        if isinstance(part, AbstractBondedPotential):
            result.addForce(_bonded(part, periodic))
    nonbonded = Nonbonded.of(system)
    if nonbonded.cutoff is not None or nonbonded.method is not None:
        result.addForce(_nonbonded_force(nonbonded, periodic))
    return result


def parts_of(potential: AbstractPotential) -> tuple[AbstractPotential, ...]:
    """The parts of a sum, of sums in it too."""
    if not isinstance(potential, Sum):
        return (potential,)
    return tuple(part for whole in potential.parts for part in parts_of(whole))


def box_vectors(box: AbstractBox) -> list[list[float]]:
    """The lattice vectors, as OpenMM wants them."""
    vectors = np.asarray(box.vectors, float)
    if np.any(np.triu(vectors, 1) != 0) or np.any(np.diag(vectors) <= 0):
        raise ValueError(
            f"`box` has lattice vectors\n{vectors}\nwanted the first along x and the second in the plane of x and y, as"
            " OpenMM does: turn the box and the positions in it."
        )
    return vectors.tolist()


def per_term(potential: AbstractBondedPotential, parameter: Any) -> np.ndarray:
    """A parameter of every term."""
    values = np.asarray(parameter)
    if values.ndim == 0:
        return np.full(len(potential.atoms), values)
    return values[np.asarray(potential.kinds)]


def rb_coefficients(part: RBTorsion) -> tuple[Any, ...]:
    """Of the powers of the cosine, from 0 to 5."""
    return part.c0, part.c1, part.c2, part.c3, part.c4, part.c5


def _bonded(part, periodic):
    openmm = require_openmm()
    atoms = np.asarray(part.atoms).tolist()
    numbers = lambda *parameters: zip(*(per_term(part, p).tolist() for p in parameters), strict=True)
    if isinstance(part, HarmonicBond | UreyBradley):
        force = openmm.HarmonicBondForce()
        for term, (r, k) in zip(atoms, numbers(part.length, part.stiffness), strict=True):
            force.addBond(term[0], term[-1], r, k)
    elif isinstance(part, MorseBond):
        force = openmm.CustomBondForce("depth*(1-exp(-width*(r-length)))^2")
        for name in ("depth", "width", "length"):
            force.addPerBondParameter(name)
        for term, values in zip(atoms, numbers(part.depth, part.width, part.length), strict=True):
            force.addBond(*term, values)
    elif isinstance(part, HarmonicAngle):
        force = openmm.HarmonicAngleForce()
        for term, (angle, k) in zip(atoms, numbers(part.angle, part.stiffness), strict=True):
            force.addAngle(*term, angle, k)
    elif isinstance(part, PeriodicTorsion):
        force = openmm.PeriodicTorsionForce()
        for term, (n, phase, k) in zip(atoms, numbers(part.multiplicity, part.phase, part.stiffness), strict=True):
            force.addTorsion(*term, n, phase, k)
    elif isinstance(part, RBTorsion):
        force = openmm.RBTorsionForce()
        for term, coefficients in zip(atoms, numbers(*rb_coefficients(part)), strict=True):
            force.addTorsion(*term, *coefficients)
    else:
        raise _refusal(part)
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force


def _refusal(part):
    return ValueError(
        f"The potential has a `{type(part).__name__}`, which has no counterpart in OpenMM; wanted bonds, angles,"
        " torsions, `LennardJones`, and `Coulomb`, `ReactionField`, `Ewald` or `P3M`."
    )


@dataclasses.dataclass
class Nonbonded:
    """The non-bonded parts of a potential, atom by atom."""

    charges: np.ndarray
    sigma: np.ndarray
    epsilon: np.ndarray
    charge_factors: dict[_Pair, float] = dataclasses.field(default_factory=dict)
    """By what the products of the charges of pairs are multiplied, where not by one."""
    factors: dict[_Pair, float] = dataclasses.field(default_factory=dict)
    """The same of Lennard-Jones energies."""
    own: dict[_Pair, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """σ and ε of pairs that have their own."""
    cutoff: float | None = None
    """Of the Lennard-Jones part; `None` without one."""
    onset: float | None = None
    tail: bool = False
    method: AbstractElectrostatics | ReactionField | None = None

    @classmethod
    def of(cls, system: System) -> "Nonbonded":
        num = system.topology.num_atoms
        self = cls(np.zeros(num), np.ones(num), np.zeros(num))
        for part in parts_of(system.potential):
            if isinstance(part, AbstractElectrostatics):
                excluded = dict.fromkeys(_pairs(part.exclusions.pairs), 0.0)
                self._charged(part, excluded | dict.fromkeys(_pairs(part.scaled.pairs), part.scale))
            elif isinstance(part, ListedPairs) and isinstance(part.potential, LennardJones):
                self._listed(part)
            elif not isinstance(part, AbstractBondedPotential):
                inner, atoms, factors, tail = _unwrapped(part, num)
                if isinstance(inner, ReactionField) and len(atoms) == num and not tail:
                    self._charged(inner, factors)
                elif isinstance(inner, LennardJones):
                    self._lennard_jones(inner, atoms, factors, tail)
                else:
                    raise _refusal(inner)
        return self

    def _charged(self, part, factors):
        if self.method is not None:
            raise ValueError("The potential has more than one part with charges; wanted one.")
        self.method, self.charges, self.charge_factors = part, np.asarray(part.charges.values, float), factors

    def _lennard_jones(self, part, atoms, factors, tail):
        if self.cutoff is not None:
            raise ValueError("The potential has more than one `LennardJones` part; wanted one, with several species.")
        if part.sigma.ndim == 2:
            raise ValueError(
                "`LennardJones` has parameters for pairs of species; wanted one of each per species, as OpenMM's"
                " `NonbondedForce` combines them."
            )
        if not isinstance(part.truncation, PlainCutoff | SmoothSwitch):
            raise ValueError(
                f"`LennardJones` has a `{type(part.truncation).__name__}`; wanted `PlainCutoff` or `SmoothSwitch`."
            )
        species = slice(None) if part.species is None else np.asarray(part.species)
        spread = lambda x: np.broadcast_to(np.asarray(x, float), len(atoms)) if x.ndim == 0 else np.asarray(x)[species]
        self.sigma[atoms], self.epsilon[atoms] = spread(part.sigma), spread(part.epsilon)
        self.cutoff, self.factors, self.tail = part.cutoff, factors, tail
        self.onset = part.truncation.onset if isinstance(part.truncation, SmoothSwitch) else None

    def _listed(self, part):
        sigma, epsilon = np.asarray(part.potential.sigma, float), np.asarray(part.potential.epsilon, float)
        if sigma.ndim == 2 or (part.kinds is None and sigma.ndim == 1):
            raise ValueError("`ListedPairs` has parameters by species; wanted `kinds`, and parameters per kind.")
        kinds = np.zeros(len(part.pairs), int) if part.kinds is None else np.asarray(part.kinds)
        species = np.arange(max(sigma.size, 1)) if part.potential.species is None else part.potential.species
        kinds = np.asarray(species)[kinds] if sigma.ndim == 1 else np.zeros_like(kinds)
        factor = np.broadcast_to(np.asarray(part.factor, float), len(kinds))
        for pair, kind, f in zip(_pairs(part.pairs), kinds, factor, strict=True):
            if pair in self.own:
                raise ValueError(f"`ListedPairs` name the pair {list(pair)} twice; wanted each once.")
            self.own[pair] = float(sigma.ravel()[kind]), float(f * epsilon.ravel()[kind])

    def exceptions(self) -> dict[_Pair, tuple[float, float, float]]:
        """The product of charges, σ and ε of every pair that is not as its atoms say."""
        result = {}
        for i, j in {**self.charge_factors, **self.factors, **self.own}:
            product = self.charge_factors.get((i, j), 1.0) * self.charges[i] * self.charges[j]
            sigma = 0.5 * (self.sigma[i] + self.sigma[j])
            epsilon = self.factors.get((i, j), 1.0) * math.sqrt(self.epsilon[i] * self.epsilon[j])
            if (i, j) in self.own:
                if epsilon != 0:
                    raise ValueError(
                        f"The pair {[i, j]} is in `ListedPairs`, and interacts as its atoms say as well; wanted it"
                        " excluded from the latter."
                    )
                sigma, epsilon = self.own[i, j]
            result[i, j] = float(product), float(sigma), float(epsilon)
        return result


def _unwrapped(part, num):
    """What is inside, for which atoms, with which pairs scaled, and whether with a tail."""
    atoms, tail, factors = np.arange(num), False, {}
    if isinstance(part, Among):
        atoms, part = np.asarray(part.atoms), part.potential
    if isinstance(part, TailCorrected):
        tail, part = True, part.potential
    while isinstance(part, Excluding | Rescaling):
        factor = part.factor if isinstance(part, Rescaling) else 0.0
        for pair in _pairs(atoms[np.asarray(part.pairs)]):
            factors[pair] = factor * factors.get(pair, 1.0)
        part = part.potential
    return part, atoms, factors, tail


def _pairs(pairs) -> list[_Pair]:
    return [(int(i), int(j)) for i, j in np.sort(np.asarray(pairs).reshape(-1, 2), axis=1)]


def _nonbonded_force(nonbonded, periodic):
    openmm = require_openmm()
    force = openmm.NonbondedForce()
    cutoff = _set_method(force, nonbonded, periodic)
    force.setCutoffDistance(cutoff)
    force.setUseDispersionCorrection(nonbonded.tail)
    if nonbonded.onset is not None:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(nonbonded.onset)
    force.setExceptionsUsePeriodicBoundaryConditions(periodic)
    for q, sigma, epsilon in zip(nonbonded.charges, nonbonded.sigma, nonbonded.epsilon, strict=True):
        force.addParticle(float(q), float(sigma), float(epsilon))
    for pair, numbers in nonbonded.exceptions().items():
        force.addException(*pair, *numbers)
    return force


def _set_method(force, nonbonded, periodic) -> float:
    """Chooses OpenMM's method, and says the cutoff."""
    method, cutoff = nonbonded.method, nonbonded.cutoff
    kind = type(force)
    if isinstance(method, Coulomb) or (method is None and not periodic and cutoff >= NO_CUTOFF):
        if cutoff is not None and cutoff < NO_CUTOFF:
            raise ValueError(
                f"`LennardJones` has a cutoff of {cutoff} nm beside `Coulomb`, which has none; wanted none of either,"
                f" which is a cutoff of {NO_CUTOFF:g} nm."
            )
        force.setNonbondedMethod(kind.NoCutoff)
        return 1.0  # not used
    own = cutoff if method is None else method.cutoff
    if cutoff is not None and own != cutoff:
        raise ValueError(f"`LennardJones` has a cutoff of {cutoff} nm and the charges one of {own} nm; wanted one.")
    if isinstance(method, Ewald | P3M):
        force.setNonbondedMethod(kind.PME)
        force.setEwaldErrorTolerance(math.exp(-((method.alpha * own) ** 2)))
        return own
    force.setNonbondedMethod(kind.CutoffPeriodic if periodic else kind.CutoffNonPeriodic)
    if isinstance(method, ReactionField):
        if not isinstance(method.truncation, PlainCutoff):
            raise ValueError(
                f"`ReactionField` has a `{type(method.truncation).__name__}`; wanted `PlainCutoff`, as in OpenMM."
            )
        if any(factor != 0 for factor in nonbonded.charge_factors.values()):
            raise ValueError("`ReactionField` has scaled pairs, to which OpenMM gives no reaction field; wanted none.")
        force.setReactionFieldDielectric(min(method.dielectric, 1e12))
    elif method is not None:
        raise _refusal(method)
    return own
