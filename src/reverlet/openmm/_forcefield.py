"""A force field as text, for other systems of the same molecules."""

import io
import itertools
import math
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from .._misc import require_instance
from .._potential import AbstractBondedPotential, HarmonicAngle, HarmonicBond, PeriodicTorsion, RBTorsion
from .._system import System
from .._topology import Topology
from ._optional import require_openmm
from ._reader import from_system
from ._writer import Nonbonded, parts_of, per_term, rb_coefficients


class _Molecule(NamedTuple):
    """What a residue of the file is made of."""

    first: int
    elements: tuple[str, ...]
    bonds: tuple[tuple[int, int], ...]
    atoms: list[tuple[float, ...]]
    """Mass, charge, σ and ε of each."""
    terms: dict
    """Rows of parameters, by class and atoms, which count from the first."""


def to_topology(topology: Topology) -> Any:
    """An `openmm.app.Topology` with one residue per molecule, named by its composition as in `to_xml`.

    **Errors:** `ValueError` where the atoms of a molecule do not follow one another; `ImportError` without OpenMM.
    """
    openmm = require_openmm()
    require_instance("topology", topology, Topology)
    result = openmm.app.Topology()
    chain, atoms = result.addChain(), []
    for members in _molecules(topology):
        elements = [topology.elements[k] for k in members]
        residue = result.addResidue(_formula(elements), chain)
        for symbol, name in zip(elements, _names(elements), strict=True):
            atoms.append(result.addAtom(name, openmm.app.Element.getBySymbol(symbol), residue))
    for i, j in np.asarray(topology.bonds).tolist():
        result.addBond(atoms[i], atoms[j])
    return result


def to_xml(system: System) -> str:
    """The force field as XML that `openmm.app.ForceField` reads, with a residue for each kind of molecule.

    Each atom of a residue is a type of its own, so that every number of the potential is there, to its last digit.
    A `System` is then created for any topology that has one residue per molecule, such as `to_topology` makes.
    Molecules that differ by the order of their atoms only are of one kind. OpenMM tells atoms by elements and bonds;
    that it finds those of all molecules here is tried.

    How forces are cut off is not part of such a file but of `ForceField.createSystem`: give it the method (PME for
    `Ewald`), the cutoff, and `switchDistance`; and `constraints=None, rigidWater=False, removeCMMotion=False`. A
    dispersion correction is on unless `useDispersionCorrection=False`.

    **Errors:** `ValueError` for what the format cannot say: other parts than `HarmonicBond`, `HarmonicAngle`,
    `PeriodicTorsion`, `RBTorsion` and those non-bonded ones of `to_system`; terms that do not follow the bonds of the
    topology; exclusions other than of atoms one or two bonds apart, and 1-4 pairs without one common factor; molecules
    of the same elements and bonds with different parameters. `ImportError` without OpenMM.
    """
    require_openmm()
    require_instance("system", system, System)
    topology = system.topology
    sections = {name: ElementTree.Element(name) for name in ("AtomTypes", "Residues")}
    forces = {
        HarmonicBond: ElementTree.Element("HarmonicBondForce"),
        HarmonicAngle: ElementTree.Element("HarmonicAngleForce"),
        PeriodicTorsion: ElementTree.Element("PeriodicTorsionForce", ordering="amber"),
        RBTorsion: ElementTree.Element("RBTorsionForce"),
    }
    nonbonded = Nonbonded.of(system)
    _require_sums_over_bonds(system, nonbonded)
    coulomb, lennard_jones = _factors(topology, nonbonded)
    pairs = ElementTree.Element("NonbondedForce", coulomb14scale=repr(coulomb), lj14scale=repr(lennard_jones))
    known, names, written = {}, set(), set()
    for molecule in _contents(system, nonbonded):
        elements, bonds = molecule.elements, molecule.bonds
        if (same := known.setdefault((elements, bonds), molecule)) is not molecule:
            if not _alike(same, molecule):
                raise _other_parameters(molecule.first)
            continue
        kind = _unordered(elements, bonds)
        if kind in written:
            continue
        written.add(kind)
        name = _formula(elements)
        name = name if name not in names else f"{name}-{len(names)}"
        names.add(name)
        residue = ElementTree.SubElement(sections["Residues"], "Residue", name=name)
        types = [f"{name}-{atom}" for atom in _names(elements)]
        rows = zip(_names(elements), types, elements, molecule.atoms, strict=True)
        for atom, kind, symbol, (mass, q, sigma, epsilon) in rows:
            ElementTree.SubElement(
                sections["AtomTypes"], "Type", {"name": kind, "class": kind, "element": symbol, "mass": repr(mass)}
            )
            ElementTree.SubElement(residue, "Atom", name=atom, type=kind)
            ElementTree.SubElement(pairs, "Atom", type=kind, charge=repr(q), sigma=repr(sigma), epsilon=repr(epsilon))
        for i, j in bonds:
            ElementTree.SubElement(residue, "Bond", {"from": str(i), "to": str(j)})
        for (cls, atoms_of_term), parameters in molecule.terms.items():
            _write_term(forces[cls], cls, [types[k] for k in atoms_of_term], parameters, bonds, atoms_of_term)
    root = ElementTree.Element("ForceField")
    root.extend([*sections.values(), *(force for force in forces.values() if len(force) > 0), pairs])
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode") + "\n"
    _require_found_again(text, list(known.values()))
    return text


def _molecules(topology: Topology) -> list[np.ndarray]:
    """The atoms of every molecule, in order of the atoms."""
    molecules = np.asarray(topology.molecules)
    starts = np.flatnonzero(np.diff(molecules, prepend=-1) != 0)
    if len(np.unique(molecules)) != len(starts):
        raise ValueError("The atoms of some molecules are scattered; wanted those of a molecule one after the other.")
    return np.split(np.arange(len(molecules)), starts[1:])


def _formula(elements) -> str:
    return "".join(f"{e}{elements.count(e) if elements.count(e) > 1 else ''}" for e in dict.fromkeys(elements))


def _names(elements) -> list[str]:
    return [f"{e}{k + 1}" for k, e in enumerate(elements)]


def _contents(system: System, nonbonded: Nonbonded) -> list[_Molecule]:
    """All molecules."""
    elements = system.topology.elements
    masses = np.asarray(system.topology.masses, float)
    numbers = np.stack([masses, nonbonded.charges, nonbonded.sigma, nonbonded.epsilon], axis=1).tolist()
    return [
        _Molecule(
            first=int(members[0]),
            elements=tuple(elements[k] for k in members),
            bonds=tuple(sorted(bonds)),
            atoms=[tuple(numbers[k]) for k in members],
            terms=terms,
        )
        for members, (bonds, terms) in zip(_molecules(system.topology), _terms_by_molecule(system), strict=True)
    ]


def _alike(one: _Molecule, other: _Molecule) -> bool:
    """Whether two molecules of the same elements and bonds have the same numbers, where they matter."""

    def numbers(molecule):
        atoms = np.array(molecule.atoms)
        atoms[atoms[:, 3] == 0, 2] = 0  # σ says nothing without ε
        # the last number of a row is a stiffness, without which OpenMM leaves the term out
        acting = lambda key, rows: [row for row in rows if key[0] is RBTorsion or row[-1] != 0]
        return atoms, {key: found for key, rows in molecule.terms.items() if (found := acting(key, rows))}

    (atoms, terms), (others, wanted) = numbers(one), numbers(other)
    same = lambda a, b: np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-9, atol=1e-12)
    return same(atoms, others) and terms.keys() == wanted.keys() and all(same(terms[k], wanted[k]) for k in terms)


def _unordered(elements: tuple[str, ...], bonds: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """What molecules have in common that differ by the order of their atoms: atoms by elements, neighbors, and theirs
    (B. Weisfeiler and A. A. Leman, 1968)."""
    near = [[] for _ in elements]
    for i, j in bonds:
        near[i].append(j)
        near[j].append(i)
    colors, count = [hash(e) for e in elements], 0
    while len(set(colors)) > count:
        count = len(set(colors))
        colors = [hash((colors[k], *sorted(colors[m] for m in near[k]))) for k in range(len(colors))]
    return tuple(sorted(colors))


def _other_parameters(first: int) -> ValueError:
    return ValueError(
        f"The molecule of atom {first} has the elements and bonds of another one, or of itself in another order, but"
        " other parameters; wanted the same, since OpenMM tells atoms by their elements and bonds."
    )


def _require_found_again(text: str, molecules: list[_Molecule]) -> None:
    """Refuses a file in which OpenMM does not find the atoms of these molecules."""
    openmm = require_openmm()
    topology = Topology.concatenate(
        [Topology.from_elements(m.elements, molecules=[0] * len(m.elements), bonds=m.bonds) for m in molecules]
    )
    theirs = to_topology(topology)
    made = openmm.app.ForceField(io.StringIO(text)).createSystem(theirs, constraints=None, rigidWater=False)
    read = from_system(made, theirs)
    for molecule, found in zip(molecules, _contents(read, Nonbonded.of(read)), strict=True):
        if not _alike(molecule, found):
            raise _other_parameters(molecule.first)


def _terms_by_molecule(system):
    """The bonds of every molecule, and its terms: numbers by class and atoms, which count from its first one."""
    topology = system.topology
    members = _molecules(topology)
    number = {int(k): n for n, atoms in enumerate(members) for k in atoms}
    result = [(set(), {}) for _ in members]

    def local(atoms):
        n = number[atoms[0]]
        if any(number[k] != n for k in atoms):
            raise ValueError(f"Atoms {list(atoms)} are bound but in different molecules; wanted them in one.")
        return n, tuple(int(k - members[n][0]) for k in atoms)

    for bond in np.asarray(topology.bonds).tolist():
        n, atoms = local(bond)
        result[n][0].add(tuple(sorted(atoms)))
    for part in parts_of(system.potential):
        if not isinstance(part, AbstractBondedPotential):
            continue
        if isinstance(part, HarmonicBond):
            parameters = (part.length, part.stiffness)
        elif isinstance(part, HarmonicAngle):
            parameters = (part.angle, part.stiffness)
        elif isinstance(part, PeriodicTorsion):
            parameters = (part.multiplicity, part.phase, part.stiffness)
        elif isinstance(part, RBTorsion):
            parameters = rb_coefficients(part)
        else:
            raise ValueError(
                f"The potential has a `{type(part).__name__}`, which such a file cannot have; wanted `HarmonicBond`,"
                " `HarmonicAngle`, `PeriodicTorsion` and `RBTorsion`."
            )
        columns = [per_term(part, p).tolist() for p in parameters]
        for atoms, *numbers in zip(np.asarray(part.atoms).tolist(), *columns, strict=True):
            n, atoms = local(atoms)
            if isinstance(part, PeriodicTorsion):
                forward = [k for k in ((type(part), atoms), (type(part), atoms[::-1])) if k in result[n][1]]
                result[n][1].setdefault(forward[0] if forward else (type(part), atoms), []).append(tuple(numbers))
            else:
                key = (type(part), min(atoms, atoms[::-1]))
                if key in result[n][1]:
                    raise ValueError(f"Atoms {list(atoms)} have two terms of `{type(part).__name__}`; wanted one.")
                result[n][1][key] = [tuple(numbers)]
    for _, terms in result:
        for numbers in terms.values():
            numbers.sort()
    return result


def _write_term(force, cls, types, parameters, bonds, atoms):
    """One line, of the types of its atoms."""
    linked = lambda i, j: tuple(sorted((i, j))) in bonds
    names = {f"type{k + 1}": name for k, name in enumerate(types)}
    if cls is PeriodicTorsion:
        tag = "Proper"
        if not all(linked(i, j) for i, j in itertools.pairwise(atoms)):
            center = atoms[2]
            if not all(linked(center, k) for k in atoms if k != center):
                raise ValueError(
                    f"The torsion of atoms {list(atoms)} of a molecule is neither along three bonds nor about the third"
                    " atom with three; wanted one of the two."
                )
            tag = "Improper"  # the file names the atom in the middle first, and OpenMM puts it third again
            names = {f"type{k + 1}": types[m] for k, m in enumerate((2, 0, 1, 3))}
        numbers = {}
        for k, (n, phase, stiffness) in enumerate(parameters, 1):
            numbers |= {f"periodicity{k}": repr(n), f"phase{k}": repr(phase), f"k{k}": repr(stiffness)}
        ElementTree.SubElement(force, tag, names | numbers)
        return
    if not all(linked(i, j) for i, j in itertools.pairwise(atoms)):
        raise ValueError(
            f"`{cls.__name__}` has a term of atoms {list(atoms)} of a molecule, which the topology does not bond;"
            " wanted terms along bonds."
        )
    if cls is RBTorsion:
        ElementTree.SubElement(force, "Proper", names | {f"c{n}": repr(c) for n, c in enumerate(parameters[0])})
        return
    ((size, stiffness),) = parameters
    tag, key = ("Bond", "length") if cls is HarmonicBond else ("Angle", "angle")
    ElementTree.SubElement(force, tag, {**names, key: repr(size), "k": repr(stiffness)})


def _require_sums_over_bonds(system, nonbonded):
    """Refuses pairs that have parameters of their own."""
    if nonbonded.own:
        pair = next(iter(nonbonded.own))
        raise ValueError(
            f"The pair {list(pair)} has Lennard-Jones parameters of its own, which such a file cannot have; wanted"
            " 1-4 pairs that share those of all atoms, as `Rescaling` has them."
        )


def _factors(topology: Topology, nonbonded: Nonbonded) -> tuple[float, float]:
    """By what the charges and the Lennard-Jones energies of 1-4 pairs are multiplied."""
    pairs = lambda num: {tuple(pair) for pair in np.asarray(topology.pairs_within(num)).tolist()}
    near = pairs(2)
    far = pairs(3) - near
    scales = []
    strengths = (
        ("charges", nonbonded.charges, nonbonded.charge_factors),
        ("Lennard-Jones interactions", nonbonded.epsilon, nonbonded.factors),
    )
    for name, strength, factors in strengths:
        acting = lambda p, strength=strength: strength[p[0]] * strength[p[1]] != 0
        for pair, wanted in itertools.chain(((p, 0.0) for p in near), ((p, 1.0) for p in set(factors) - near - far)):
            got = factors.get(pair, 1.0)
            if got != wanted and acting(pair):
                raise ValueError(
                    f"The {name} of the pair {list(pair)} are multiplied by {got}; wanted {wanted}, since such a file"
                    " excludes all pairs that are one or two bonds apart, and scales none but those three bonds apart."
                )
        found = [factors.get(pair, 1.0) for pair in far if acting(pair)]
        if found and not math.isclose(min(found), max(found), rel_tol=1e-9):
            raise ValueError(
                f"The {name} of pairs three bonds apart are multiplied by {min(found)} and by {max(found)}; wanted one"
                " factor for all."
            )
        scales.append(float(found[0]) if found else 1.0)
    return scales[0], scales[1]
