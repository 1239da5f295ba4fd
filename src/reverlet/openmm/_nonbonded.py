"""From a `NonbondedForce` or a `CustomNonbondedForce` of OpenMM to our potentials."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._box import AbstractBox
from .._potential import (
    AbstractCharges,
    AbstractPotential,
    Among,
    AtomCharges,
    Coulomb,
    Ewald,
    Excluding,
    LennardJones,
    ListedPairs,
    MolecularCharges,
    PlainCutoff,
    ReactionField,
    Rescaling,
    SmoothSwitch,
    TailCorrected,
)
from .._topology import Topology
from ._optional import NO_CUTOFF, number, require_openmm

_SAME = 1e-6
"""Numbers that differ by less than this, relatively, were meant to be equal."""


def grouped(rows) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The columns of the rows that differ, and of each row which it is; of a single one the numbers, and nothing."""
    unique, kinds = np.unique(np.asarray(rows, float), axis=0, return_inverse=True)
    if len(unique) == 1:
        return [np.asarray(x) for x in unique[0]], None
    return list(unique.T), kinds.reshape(-1)


def nonbonded(force: Any, topology: Topology, box: AbstractBox) -> list[AbstractPotential]:
    """Of a `NonbondedForce`: a part for Lennard-Jones, one for pairs of their own, one for charges, where there are."""
    openmm = require_openmm()
    method = force.getNonbondedMethod()
    offsets = force.getNumParticleParameterOffsets() + force.getNumExceptionParameterOffsets()
    if offsets > 0:
        raise ValueError(f"The `NonbondedForce` has {offsets} parameter offsets; wanted plain parameters.")
    if not force.getIncludeDirectSpace():
        raise ValueError("The `NonbondedForce` is without its direct space; wanted all of its sum in one force.")
    particles = [force.getParticleParameters(k) for k in range(force.getNumParticles())]
    q, sigma, epsilon = np.array([[number(x) for x in p] for p in particles], float).reshape(-1, 3).T
    if method == openmm.NonbondedForce.LJPME and np.any(epsilon != 0):
        raise ValueError(
            "The `NonbondedForce` uses LJPME, and so waves of dispersion; wanted PME, Ewald, a cutoff, or none."
        )
    points = np.flatnonzero((sigma == 0) & (epsilon != 0))
    if len(points) > 0:
        raise ValueError(
            f"Particle {points[0]} of the `NonbondedForce` has σ = 0 and ε = {epsilon[points[0]]:.6g} kJ/mol, and so"
            " interacts with others by half of their σ; wanted σ above zero, or ε = 0 where there is no interaction."
        )
    special = [force.getExceptionParameters(k) for k in range(force.getNumExceptions())]
    pairs = np.array([e[:2] for e in special], int).reshape(-1, 2)
    products, sigmas, epsilons = np.array([[number(x) for x in e[2:]] for e in special], float).reshape(-1, 3).T

    parts = []
    cutoff = NO_CUTOFF if method == openmm.NonbondedForce.NoCutoff else number(force.getCutoffDistance())
    switched = method != openmm.NonbondedForce.NoCutoff and force.getUseSwitchingFunction()
    onset = number(force.getSwitchingDistance()) if switched else None
    tail = force.getUseDispersionCorrection() and force.usesPeriodicBoundaryConditions()
    i, j = pairs.T
    mean, geometric = 0.5 * (sigma[i] + sigma[j]), np.sqrt(epsilon[i] * epsilon[j])
    interacting = (epsilons != 0) & (sigmas != 0)
    alike = interacting & np.isclose(sigmas, mean, rtol=_SAME, atol=0) & (geometric != 0)
    factors = epsilons[alike] / geometric[alike]
    own = None
    if np.array_equal(alike, interacting) and _equal(factors):
        excluded, scaled, factor = pairs[~alike], pairs[alike], np.max(factors, initial=0)
    else:
        scaled, factor, excluded = pairs[:0], 1.0, pairs
        own = interacting
    active = np.flatnonzero(epsilon != 0)
    if len(active) > 0:
        (s, e), species = grouped(np.stack([sigma[active], epsilon[active]], axis=1))
        plain = LennardJones(s, e, cutoff=cutoff, species=species, truncation=_truncation(onset))
        parts.append(_among(plain, active, len(q), excluded, scaled, factor, tail))
    if own is not None:
        (s, e), kinds = grouped(np.stack([sigmas[own], epsilons[own]], axis=1))
        species = None if kinds is None else np.arange(len(s))
        parts.append(ListedPairs(LennardJones(s, e, cutoff=cutoff, species=species), pairs[own], kinds=kinds))
    if np.any(q != 0):
        charges = _charges(q, topology)
        excluded, scaled, scale = _charge_exceptions(pairs, products, q, interacting)
        parts.append(_electrostatics(force, method, charges, cutoff, box, excluded, scaled, scale))
    return parts


def _truncation(onset):
    return PlainCutoff() if onset is None else SmoothSwitch(onset)


def _among(potential, active, num, excluded, scaled, factor, tail) -> AbstractPotential:
    """A pair potential of the active atoms, in whose numbers it counts, without some pairs and with others scaled."""
    new = np.full(num, -1)
    new[active] = np.arange(len(active))
    inside = lambda pairs: new[pairs][np.all(new[pairs] >= 0, axis=1)]
    excluded, scaled = inside(excluded), inside(scaled)
    if len(excluded) > 0:
        potential = Excluding(potential, excluded, len(active))
    # OpenMM neither cuts nor switches exceptions, whatever their factor
    if len(scaled) > 0 and (abs(factor - 1) > _SAME or potential.cutoff < NO_CUTOFF):
        potential = Rescaling(potential, scaled, factor, len(active))
    if tail:
        potential = TailCorrected(potential)  # pyright: ignore[reportCallIssue]
    return potential if len(active) == num else Among(potential, active)


def _charge_exceptions(pairs, products, q, interacting):
    """Which pairs are excluded, which scaled, and by what."""
    full = q[pairs[:, 0]] * q[pairs[:, 1]]
    known = (full != 0) & (products != 0)
    if np.any((full == 0) & (products != 0)):
        k = np.argmax((full == 0) & (products != 0))
        raise ValueError(
            f"The exception of atoms {pairs[k].tolist()} has charges, though one of the atoms has none; wanted all"
            " such products to be those of the atoms' charges, times one factor."
        )
    factors = products[known] / full[known]
    if len(factors) == 0:
        return pairs, pairs[:0], 1.0
    if not _equal(factors):
        low, high = np.argmin(factors), np.argmax(factors)
        raise ValueError(
            f"The exceptions of atoms {pairs[known][low].tolist()} and {pairs[known][high].tolist()} have the products"
            f" of their charges times {factors[low]:.6g} and {factors[high]:.6g}; wanted one factor for all 1-4 pairs."
        )
    # where an atom has no charge now, but may get one, the Lennard-Jones part tells a 1-4 pair
    scaled = known | ((full == 0) & interacting)
    return pairs[~scaled], pairs[scaled], float(factors[0])


def _electrostatics(force, method, charges, cutoff, box, excluded, scaled, scale) -> AbstractPotential:
    kind = type(force)
    if abs(scale - 1) <= _SAME:
        scaled, scale = scaled[:0], 1.0
    if method == kind.NoCutoff:
        return Coulomb(charges, exclusions=excluded, scaled=scaled, scale=scale)
    if method in (kind.CutoffPeriodic, kind.CutoffNonPeriodic):
        if len(scaled) > 0 or len(excluded) < force.getNumExceptions():
            raise ValueError(
                f"The `NonbondedForce` has a reaction field and 1-4 pairs with charges, such as {scaled[:1].tolist()};"
                " wanted PME, Ewald or no cutoff: OpenMM gives such pairs no reaction field, which `ReactionField`"
                " cannot express."
            )
        field = ReactionField(charges, cutoff=cutoff, dielectric=force.getReactionFieldDielectric())
        return Excluding(field, excluded, len(charges.values)) if len(excluded) > 0 else field
    alpha = number(force.getPMEParameters()[0])
    accuracy = np.exp(-((alpha * cutoff) ** 2)) if alpha > 0 else force.getEwaldErrorTolerance()
    return Ewald.fit(
        charges, box, cutoff=cutoff, accuracy=float(accuracy), exclusions=excluded, scaled=scaled, scale=scale
    )


def _charges(q: np.ndarray, topology: Topology) -> AbstractCharges:
    """Charges of which molecules of the same atoms and charges share the parameters, and neutral ones stay so."""
    molecules, numbers = np.asarray(topology.molecules), np.asarray(topology.atomic_numbers)
    order = np.argsort(molecules, kind="stable")
    atoms_of = np.split(order, np.cumsum(np.bincount(molecules))[:-1])
    kinds, free, known = np.zeros(len(q), int), [], {}
    net = np.array([round(q[atoms].sum()) for atoms in atoms_of])
    left = np.array([q[atoms].sum() for atoms in atoms_of]) - net
    if np.all(np.abs(left) < 1e-5):  # tables of force fields are rounded
        for atoms in atoms_of:
            species = (*numbers[atoms], *q[atoms])
            if species not in known:
                values = list(dict.fromkeys(q[atoms]))
                values.remove(max(values, key=abs))
                known[species] = {value: len(free) + k for k, value in enumerate(values)}
                free += values
            kinds[atoms] = [known[species].get(value, -1) for value in q[atoms]]
        if free:
            return MolecularCharges(np.array(free), kinds, molecules, net)
    values, kinds = np.unique(q, return_inverse=True)
    return AtomCharges(values, kinds)


def custom(force: Any) -> list[AbstractPotential]:
    """Of a `CustomNonbondedForce`: a Lennard-Jones potential, where the numbers of the force are those of one."""
    openmm = require_openmm()
    if force.getNumInteractionGroups() > 0:
        raise ValueError("A `CustomNonbondedForce` has interaction groups; wanted all pairs, but for exclusions.")
    num = force.getNumParticles()
    rows = np.array([force.getParticleParameters(k) for k in range(num)], float).reshape(num, -1)
    types, kinds = np.unique(rows, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    sixth = _sixth_powers(force, types)  # A, B of u = A/r¹² - B/r⁶, for all pairs of types
    active_types = np.flatnonzero(np.any(sixth[..., 1] > 0, axis=1))
    if len(active_types) == 0:
        return []
    a, b = sixth[np.ix_(active_types, active_types)].transpose(2, 0, 1)
    if np.any(b <= 0):
        raise ValueError(
            "A `CustomNonbondedForce` of Lennard-Jones form has types that interact with some types and not with"
            " others; wanted types that interact with all that do, or with none."
        )
    sigma, epsilon = (a / b) ** (1 / 6), b**2 / (4 * a)
    s, e = np.diag(sigma), np.diag(epsilon)
    berthelot = np.allclose(sigma, 0.5 * (s[:, None] + s), rtol=_SAME, atol=0) and np.allclose(
        epsilon, np.sqrt(np.outer(e, e)), rtol=_SAME, atol=0
    )
    active = np.flatnonzero(np.isin(kinds, active_types))
    species = np.searchsorted(active_types, kinds[active])
    if len(s) == 1:
        s, e, species = s[0], e[0], None
    elif not berthelot:
        s, e = 0.5 * (sigma + sigma.T), 0.5 * (epsilon + epsilon.T)
    cut = force.getNonbondedMethod() != openmm.CustomNonbondedForce.NoCutoff
    cutoff = number(force.getCutoffDistance()) if cut else NO_CUTOFF
    onset = number(force.getSwitchingDistance()) if cut and force.getUseSwitchingFunction() else None
    plain = LennardJones(jnp.asarray(s), jnp.asarray(e), cutoff=cutoff, species=species, truncation=_truncation(onset))
    excluded = np.array([force.getExclusionParticles(k) for k in range(force.getNumExclusions())], int).reshape(-1, 2)
    periodic = force.getNonbondedMethod() == openmm.CustomNonbondedForce.CutoffPeriodic
    tail = force.getUseLongRangeCorrection() and periodic
    return [_among(plain, active, num, excluded, excluded[:0], 1.0, tail)]


_NEAREST, _FURTHEST = 0.02, 50.0  # nm; no atoms come nearer in a liquid, and no cluster is larger


def _distances(force) -> np.ndarray:
    """Where to look at a force, nm: where it acts, and where its dispersion correction integrates it."""
    cut = force.getNonbondedMethod() != type(force).NoCutoff
    furthest = 0.999 * number(force.getCutoffDistance()) if cut else _FURTHEST
    furthest = _FURTHEST if cut and force.getUseLongRangeCorrection() else furthest
    # two at which both powers have digits, and steps of a tenth
    steps = int(np.log(furthest / _NEAREST) / np.log(1.1)) + 2
    return np.concatenate([[0.25, 0.3], np.geomspace(_NEAREST, furthest, steps)])


def _sixth_powers(force, types: np.ndarray) -> np.ndarray:
    """A and B of u(r) = A/r¹² - B/r⁶ for all pairs of types, where that is what the force has wherever it acts."""
    openmm = require_openmm()
    alone = openmm.CustomNonbondedForce(force.getEnergyFunction())
    for k in range(force.getNumGlobalParameters()):
        alone.addGlobalParameter(force.getGlobalParameterName(k), force.getGlobalParameterDefaultValue(k))
    for k in range(force.getNumPerParticleParameters()):
        alone.addPerParticleParameter(force.getPerParticleParameterName(k))
    for k in range(force.getNumComputedValues()):
        alone.addComputedValue(*force.getComputedValueParameters(k))
    for k in range(force.getNumTabulatedFunctions()):
        function = openmm.XmlSerializer.clone(force.getTabulatedFunction(k))
        alone.addTabulatedFunction(force.getTabulatedFunctionName(k), function)
    system = openmm.System()
    for _ in range(2):
        system.addParticle(1.0)
        alone.addParticle(types[0])
    system.addForce(alone)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))

    def energy(r):
        context.setPositions([[0.0, 0, 0], [float(r), 0, 0]])
        return number(context.getState(getEnergy=True).getPotentialEnergy())

    result = np.zeros((len(types), len(types), 2))
    distances = _distances(force)
    powers = np.stack([distances**-12.0, -(distances**-6.0)], axis=1)
    for m, first in enumerate(types):
        for n, second in enumerate(types):
            alone.setParticleParameters(0, first)
            alone.setParticleParameters(1, second)
            alone.updateParametersInContext(context)
            u = np.array([energy(r) for r in distances])
            # two distances give A and B, and the others judge
            a, b = np.linalg.solve(powers[:2], u[:2])
            # of each by the size of its two terms, which cancel near r = σ
            fits = np.all(np.abs(powers @ [a, b] - u) <= 1e-7 * np.abs(powers) @ np.abs([a, b]))
            if not fits or (np.any(u) and not (a > 0 and b > 0)):
                raise ValueError(
                    f"A `CustomNonbondedForce` has the expression {force.getEnergyFunction()!r}, which is not of"
                    " Lennard-Jones form, 4ε[(σ/r)¹² - (σ/r)⁶], for all of its parameters; wanted one that is."
                )
            result[m, n] = a, b
    return result


def _equal(numbers: np.ndarray) -> bool:
    return len(numbers) == 0 or bool(np.allclose(numbers, numbers[0], rtol=_SAME, atol=0))
