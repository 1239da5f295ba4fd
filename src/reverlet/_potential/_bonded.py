import abc
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._fields import (
    Indices,
    Kinds,
    Parameter,
    Rule,
    checked,
    finite,
    indices,
    optional,
    parameters_of,
    positive,
    positive_or_zero,
    positive_whole,
)
from .._misc import as_float_array, cast_floats, require_angle, require_finite, require_positive
from ._base import AbstractPotential
from ._terms import (
    AbstractAtomIndexed,
    Vector,
    cross,
    dot,
    length_of,
    of_kind,
    require_indices,
    require_kinds,
    steps_between,
    terms,
)

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


_IN_LINE = 1e-6
"""A torsion is not defined where its angles are this close to straight, rad."""

_COINCIDE = 1e-9
"""An angle is not defined where its sides are this short, nm."""


class AbstractBondedPotential(AbstractPotential, AbstractAtomIndexed):
    """A sum over terms of a few atoms each, which are named once and for all: bonds, angles, torsions.

    A subclass gives `term_energy`, the formula for one term. Every parameter is a scalar, shared by all terms, or one
    number per kind of term; then `kinds` has the kind of every term. A term is made of the shortest images of the steps
    from each of its atoms to the next, so that molecules may be broken by the boundary.
    """

    atoms: AbstractVar[Int[Array, "terms each"]]
    """The atoms of every term, in order."""
    kinds: AbstractVar[Int[Array, " terms"] | None]
    """The kind of every term; `None` if all are alike."""

    def __check_init__(self):
        require_kinds(self.kinds, len(self.atoms), *parameters_of(self))

    @abc.abstractmethod
    def term_energy(self, steps: tuple[Vector, ...], kind: Int[Array, ""] | None) -> Float[Array, ""]:
        """The energy (kJ/mol) of one term, of the steps (nm) from each of its atoms to the next."""

    @property
    def cutoff(self) -> None:
        return None

    def energy(self, positions, box, *, neighbors=None):
        del neighbors
        dtype = positions.dtype
        if len(self.atoms) == 0:
            return jnp.zeros((), dtype)  # there may be no parameters to index either
        this, box = cast_floats(self, dtype), box.astype(dtype)
        return jnp.sum(jax.vmap(this.term_energy)(steps_between(positions, self.atoms, box), self.kinds))

    def require_atoms(self, num_atoms):
        require_indices(self, self.atoms, num_atoms)


class HarmonicBond(AbstractBondedPotential):
    """Springs between pairs of atoms, E = k/2 (r - r₀)².

    Two atoms at one place have no direction between them and no force, whatever r₀; with r₀ = 0, as between core and
    shell, that is exact, and so are the second derivatives.

    **Arguments:** `bonds`, pairs of atoms; `stiffness` k (kJ/mol/nm²) and `length` r₀ (nm), scalars or one per kind;
    `kinds`, the kind of every bond. OpenMM's k is the same, Amber's is half of it.

    **Errors:** `ValueError` for stiffness and lengths that are not positive, atoms that are named twice in a bond,
    kinds without parameters.
    """

    bonds: Indices = terms(2)
    stiffness: Parameter = positive_or_zero("kJ/mol/nm²")
    length: Parameter = positive_or_zero("nm")
    kinds: Kinds = checked(optional(indices("One for every term.")), default=None, kw_only=True)

    @property
    def atoms(self) -> Int[Array, "bonds 2"]:
        return self.bonds

    def term_energy(self, steps, kind):
        stretch = length_of(steps[0]) - of_kind(self.length, kind)
        return 0.5 * of_kind(self.stiffness, kind) * stretch**2


class MorseBond(AbstractBondedPotential):
    """Bonds that can break, E = D (1 - exp(-a (r - r₀)))²: zero at r₀, and D far away.

    Not to be confused with `Morse`, a potential between all pairs of atoms, which is zero far away.

    **Arguments:** `bonds`, pairs of atoms; `depth` D (kJ/mol), `width` a (1/nm, a large one makes a narrow well) and
    `length` r₀ (nm), scalars or one per kind; `kinds`, the kind of every bond. Near r₀ it is a `HarmonicBond` of
    stiffness 2 D a².

    **Errors:** as for `HarmonicBond`.

    **Reference:** P. M. Morse, Phys. Rev. 34, 57 (1929).
    """

    bonds: Indices = terms(2)
    depth: Parameter = positive_or_zero("kJ/mol")
    width: Parameter = positive("1/nm")
    length: Parameter = positive_or_zero("nm")
    kinds: Kinds = checked(optional(indices("One for every term.")), default=None, kw_only=True)

    @property
    def atoms(self) -> Int[Array, "bonds 2"]:
        return self.bonds

    def term_energy(self, steps, kind):
        stretch = length_of(steps[0]) - of_kind(self.length, kind)
        # expm1 keeps the digits of small stretches
        return of_kind(self.depth, kind) * jnp.expm1(-of_kind(self.width, kind) * stretch) ** 2


def _bond_angle() -> Any:
    def require(name, x):
        require_positive(name, x, "rad", zero=True)
        require_angle(name, x, np.pi, "π")

    return Rule(as_float_array, require, is_parameter=True)


class HarmonicAngle(AbstractBondedPotential):
    """Springs on the angles at the middle of three atoms, E = k/2 (θ - θ₀)².

    Straight angles: the energy has a smooth bottom there if θ₀ is π, and the tip of a cone if it is not. Energy, forces
    and second derivatives are finite in both cases, since θ is computed as atan2(√(sin² + ε), cos), with ε the spacing
    of floating-point numbers at one, which rounds the tip within √ε and changes other angles by no more than rounding.
    Where an outer atom is at the place of the middle one, θ is not defined: it is taken to be π/2, without a force.

    **Arguments:** `angles`, three atoms each, the middle one second; `stiffness` k (kJ/mol/rad²) and `angle` θ₀ (rad),
    scalars or one per kind; `kinds`, the kind of every angle.

    **Errors:** `ValueError` for a stiffness that is negative, angles that are not between 0 and π (degrees?), atoms
    that are named twice in an angle, kinds without parameters.
    """

    angles: Indices = terms(3)
    stiffness: Parameter = positive_or_zero("kJ/mol/rad²")
    angle: Parameter = _bond_angle()
    kinds: Kinds = checked(optional(indices("One for every term.")), default=None, kw_only=True)

    @property
    def atoms(self) -> Int[Array, "angles 3"]:
        return self.angles

    def term_energy(self, steps, kind):
        a, b = steps
        normal = cross(a, b)
        squares = dot(a, a) * dot(b, b)
        coincide = squares <= _COINCIDE**4
        # not arccos, which has half the digits near π and no derivative there; the choice comes before square root and
        # atan2, whose derivatives at the origin are NaN
        tiny = jnp.finfo(a[0].dtype).eps * squares
        sine = jnp.sqrt(jnp.where(coincide, 1, dot(normal, normal) + tiny))
        bend = jnp.arctan2(sine, jnp.where(coincide, 0, -dot(a, b))) - of_kind(self.angle, kind)
        return 0.5 * of_kind(self.stiffness, kind) * bend**2


class UreyBradley(AbstractBondedPotential):
    """Springs between the ends of angles, E = k/2 (r₁₃ - r₀)², usually on top of a `HarmonicAngle`.

    **Arguments:** `angles`, three atoms each, the middle one second; `stiffness` k (kJ/mol/nm²) and `length` r₀ (nm),
    scalars or one per kind; `kinds`, the kind of every angle.

    **Errors:** as for `HarmonicBond`.

    **Reference:** H. C. Urey and C. A. Bradley, Phys. Rev. 38, 1969 (1931).
    """

    angles: Indices = terms(3)
    stiffness: Parameter = positive_or_zero("kJ/mol/nm²")
    length: Parameter = positive_or_zero("nm")
    kinds: Kinds = checked(optional(indices("One for every term.")), default=None, kw_only=True)

    @property
    def atoms(self) -> Int[Array, "angles 3"]:
        return self.angles

    def term_energy(self, steps, kind):
        across = tuple(a + b for a, b in zip(*steps, strict=True))
        stretch = length_of(across) - of_kind(self.length, kind)
        return 0.5 * of_kind(self.stiffness, kind) * stretch**2


def _phase() -> Any:
    def require(name, x):
        require_finite(name, x)
        require_angle(name, x, 2 * np.pi, "2π either way")

    return Rule(as_float_array, require, is_parameter=True)


class PeriodicTorsion(AbstractBondedPotential):
    """Torsions about the bond between the second and the third of four atoms, E = k (1 + cos(n φ - φ₀)).

    φ is zero where the first and the fourth atom are on the same side (cis) and positive where, seen along the bond
    from the second atom to the third, the fourth is clockwise of the first (IUPAC, OpenMM). Several multiplicities of
    the same torsion are several terms. Improper torsions as well, with the order of atoms that their force field means.

    Where three atoms are in line, φ is not defined and no derivative exists; forces grow without limit on the way
    there. Within 10⁻⁶ rad of it φ is taken to be zero, without a force, so that nothing becomes NaN.

    **Arguments:** `torsions`, four atoms each; `stiffness` k (kJ/mol, any sign), `multiplicity` n (whole numbers) and
    `phase` φ₀ (rad), scalars or one per kind; `kinds`, the kind of every torsion.

    **Errors:** `ValueError` for parameters that are not finite, multiplicities that are not positive, atoms that are
    named twice in a torsion, kinds without parameters; `TypeError` for multiplicities that are not integers.
    """

    torsions: Indices = terms(4)
    stiffness: Parameter = finite("kJ/mol")
    multiplicity: Parameter = positive_whole("turns")
    phase: Parameter = _phase()
    kinds: Kinds = checked(optional(indices("One for every term.")), default=None, kw_only=True)

    @property
    def atoms(self) -> Int[Array, "torsions 4"]:
        return self.torsions

    def term_energy(self, steps, kind):
        phi = _torsion_angle(steps)
        n = of_kind(self.multiplicity.astype(phi.dtype), kind)
        return of_kind(self.stiffness, kind) * (1 + jnp.cos(n * phi - of_kind(self.phase, kind)))


class RBTorsion(AbstractBondedPotential):
    """Torsions as powers of a cosine, E = Σ_n c_n cosⁿ(φ - π) from n = 0 to 5, with φ as in `PeriodicTorsion`.

    The form of Ryckaert and Bellemans, as in OPLS and in OpenMM's `RBTorsionForce`: φ - π is zero in trans.

    **Arguments:** `torsions`, four atoms each; `c0` to `c5` (kJ/mol, any sign), scalars or one per kind; `kinds`, the
    kind of every torsion.

    **Errors:** as for `PeriodicTorsion`.

    **Reference:** J.-P. Ryckaert and A. Bellemans, Faraday Discuss. Chem. Soc. 66, 95 (1978).
    """

    torsions: Indices = terms(4)
    c0: Parameter = finite("kJ/mol")
    c1: Parameter = finite("kJ/mol")
    c2: Parameter = finite("kJ/mol")
    c3: Parameter = finite("kJ/mol")
    c4: Parameter = finite("kJ/mol")
    c5: Parameter = finite("kJ/mol")
    kinds: Kinds = checked(optional(indices("One for every term.")), default=None, kw_only=True)

    @property
    def atoms(self) -> Int[Array, "torsions 4"]:
        return self.torsions

    def term_energy(self, steps, kind):
        cosine = -jnp.cos(_torsion_angle(steps))
        energy = of_kind(self.c5, kind)
        for c in (self.c4, self.c3, self.c2, self.c1, self.c0):
            energy = energy * cosine + of_kind(c, kind)
        return energy


def _torsion_angle(steps: tuple[Vector, ...]) -> Float[Array, ""]:
    """φ, rad; zero where three atoms are in line."""
    a, b, c = steps
    before, after = cross(a, b), cross(b, c)
    x, y = dot(before, after), length_of(b) * dot(a, after)
    scale = dot(a, a) * dot(b, b) * dot(c, c) * dot(b, b)
    in_line = x * x + y * y <= _IN_LINE**2 * scale
    # the choice comes before atan2, whose derivative at the origin is NaN
    return jnp.arctan2(jnp.where(in_line, 0, y), jnp.where(in_line, 1, x))
