import abc
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, ArrayLike, Float, Int

from .._box import AbstractBox
from .._misc import as_float_array, cast_floats, is_concrete, require_finite, require_positive, require_shape
from ._base import AbstractAtomIndexed, AbstractPotential, require_indices

_Vector = tuple[Float[Array, "*terms"], Float[Array, "*terms"], Float[Array, "*terms"]]

_IN_LINE = 1e-6
"""A torsion is not defined where its angles are this close to straight, rad."""


def as_kinds(kinds: ArrayLike | None) -> Int[Array, " terms"] | None:
    """Indices as an array, if there are any."""
    return None if kinds is None else jnp.asarray(kinds)


def as_pairs(pairs: ArrayLike | None) -> Int[Array, "pairs 2"]:
    """Pairs of atoms, none by default."""
    return jnp.zeros((0, 2), int) if pairs is None or np.size(pairs) == 0 else jnp.asarray(pairs)


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

    @abc.abstractmethod
    def term_energy(self, steps: tuple[_Vector, ...], kind: Int[Array, ""] | None) -> Float[Array, ""]:
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


def steps_between(
    positions: Float[Array, "atoms 3"], atoms: Int[Array, "terms each"], box: AbstractBox
) -> tuple[_Vector, ...]:
    """The nearest images of the steps (nm) from each atom of a term to the next, of all terms."""
    # components travel separately: the derivative of gathering rows of three is three times slower on a CPU. An atom
    # that does not exist is at NaN
    gather = lambda x, k: x.at[k].get(mode="fill", wrap_negative_indices=False)
    places = [[gather(positions[:, k], atoms[:, m]) for k in range(3)] for m in range(atoms.shape[1])]
    return tuple(
        box.minimum_image(*(b - a for a, b in zip(here, there, strict=True)))
        for here, there in itertools.pairwise(places)
    )


def of_kind(parameter: Array, kind: Int[Array, ""] | None) -> Array:
    """The parameter of one kind of term."""
    return parameter if parameter.ndim == 0 or kind is None else parameter[kind]


class HarmonicBond(AbstractBondedPotential):
    """Springs between pairs of atoms, E = k/2 (r - r₀)².

    **Arguments:** `bonds`, pairs of atoms; `stiffness` k (kJ/mol/nm²) and `length` r₀ (nm), scalars or one per kind;
    `kinds`, the kind of every bond. OpenMM's k is the same, Amber's is half of it.

    **Errors:** `ValueError` for stiffness and lengths that are not positive, atoms that are named twice in a bond,
    kinds without parameters.
    """

    bonds: Int[Array, "bonds 2"]
    stiffness: Float[Array, "..."]
    length: Float[Array, "..."]
    kinds: Int[Array, " bonds"] | None

    def __init__(self, bonds: ArrayLike, stiffness: ArrayLike, length: ArrayLike, *, kinds: ArrayLike | None = None):
        self.bonds = jnp.asarray(bonds)
        self.stiffness = as_float_array(stiffness)
        self.length = as_float_array(length)
        self.kinds = as_kinds(kinds)

    def __check_init__(self):
        require_terms("bonds", self.bonds, 2)
        require_positive("stiffness", self.stiffness, "kJ/mol/nm²", zero=True)
        require_positive("length", self.length, "nm", zero=True)
        require_kinds(self.kinds, len(self.atoms), ("stiffness", self.stiffness), ("length", self.length))

    @property
    def atoms(self) -> Int[Array, "bonds 2"]:
        return self.bonds

    def term_energy(self, steps, kind):
        stretch = jnp.sqrt(_dot(steps[0], steps[0])) - of_kind(self.length, kind)
        return 0.5 * of_kind(self.stiffness, kind) * stretch**2


class MorseBond(AbstractBondedPotential):
    """Bonds that can break, E = D (1 - exp(-a (r - r₀)))²: zero at r₀, and D far away.

    Not to be confused with `Morse`, a potential between all pairs of atoms, which is zero far away.

    **Arguments:** `bonds`, pairs of atoms; `depth` D (kJ/mol), `width` a (1/nm, a large one makes a narrow well) and
    `length` r₀ (nm), scalars or one per kind; `kinds`, the kind of every bond. Near r₀ it is a `HarmonicBond` of
    stiffness 2 D a².

    **Errors:** as of `HarmonicBond`.

    **Reference:** P. M. Morse, Phys. Rev. 34, 57 (1929).
    """

    bonds: Int[Array, "bonds 2"]
    depth: Float[Array, "..."]
    width: Float[Array, "..."]
    length: Float[Array, "..."]
    kinds: Int[Array, " bonds"] | None

    def __init__(
        self, bonds: ArrayLike, depth: ArrayLike, width: ArrayLike, length: ArrayLike, *, kinds: ArrayLike | None = None
    ):
        self.bonds = jnp.asarray(bonds)
        self.depth = as_float_array(depth)
        self.width = as_float_array(width)
        self.length = as_float_array(length)
        self.kinds = as_kinds(kinds)

    def __check_init__(self):
        require_terms("bonds", self.bonds, 2)
        require_positive("depth", self.depth, "kJ/mol", zero=True)
        require_positive("width", self.width, "1/nm")
        require_positive("length", self.length, "nm", zero=True)
        require_kinds(
            self.kinds, len(self.atoms), ("depth", self.depth), ("width", self.width), ("length", self.length)
        )

    @property
    def atoms(self) -> Int[Array, "bonds 2"]:
        return self.bonds

    def term_energy(self, steps, kind):
        stretch = jnp.sqrt(_dot(steps[0], steps[0])) - of_kind(self.length, kind)
        # expm1 keeps the digits of small stretches
        return of_kind(self.depth, kind) * jnp.expm1(-of_kind(self.width, kind) * stretch) ** 2


class HarmonicAngle(AbstractBondedPotential):
    """Springs on the angles at the middle of three atoms, E = k/2 (θ - θ₀)².

    Straight angles: the energy has a smooth bottom there if θ₀ is π, and the tip of a cone if it is not. Energy, forces
    and second derivatives are finite in both cases, since θ is computed as atan2(√(sin² + ε), cos), with ε the spacing
    of floating-point numbers at one, which rounds the tip within √ε and changes other angles by no more than rounding.

    **Arguments:** `angles`, three atoms each, the middle one second; `stiffness` k (kJ/mol/rad²) and `angle` θ₀ (rad),
    scalars or one per kind; `kinds`, the kind of every angle.

    **Errors:** `ValueError` for a stiffness that is negative, angles that are not between 0 and π (degrees?), atoms
    that are named twice in an angle, kinds without parameters.
    """

    angles: Int[Array, "angles 3"]
    stiffness: Float[Array, "..."]
    angle: Float[Array, "..."]
    kinds: Int[Array, " angles"] | None

    def __init__(self, angles: ArrayLike, stiffness: ArrayLike, angle: ArrayLike, *, kinds: ArrayLike | None = None):
        self.angles = jnp.asarray(angles)
        self.stiffness = as_float_array(stiffness)
        self.angle = as_float_array(angle)
        self.kinds = as_kinds(kinds)

    def __check_init__(self):
        require_terms("angles", self.angles, 3)
        require_positive("stiffness", self.stiffness, "kJ/mol/rad²", zero=True)
        require_positive("angle", self.angle, "rad", zero=True)
        if is_concrete(self.angle) and np.any(np.asarray(self.angle) > np.pi + 1e-6):  # π rounded to float32
            raise ValueError(
                f"`angle` is {np.max(np.asarray(self.angle))}; wanted at most π, in rad. From degrees: `jnp.radians`."
            )
        require_kinds(self.kinds, len(self.atoms), ("stiffness", self.stiffness), ("angle", self.angle))

    @property
    def atoms(self) -> Int[Array, "angles 3"]:
        return self.angles

    def term_energy(self, steps, kind):
        a, b = steps
        normal = _cross(a, b)
        # not arccos, which has half the digits near π and no derivative there
        tiny = jnp.finfo(a[0].dtype).eps * (_dot(a, a) * _dot(b, b))
        sine = jnp.sqrt(_dot(normal, normal) + tiny)
        bend = jnp.arctan2(sine, -_dot(a, b)) - of_kind(self.angle, kind)
        return 0.5 * of_kind(self.stiffness, kind) * bend**2


class UreyBradley(AbstractBondedPotential):
    """Springs between the ends of angles, E = k/2 (r₁₃ - r₀)², usually on top of a `HarmonicAngle`.

    **Arguments:** `angles`, three atoms each, the middle one second; `stiffness` k (kJ/mol/nm²) and `length` r₀ (nm),
    scalars or one per kind; `kinds`, the kind of every angle.

    **Errors:** as of `HarmonicBond`.

    **Reference:** H. C. Urey and C. A. Bradley, Phys. Rev. 38, 1969 (1931).
    """

    angles: Int[Array, "angles 3"]
    stiffness: Float[Array, "..."]
    length: Float[Array, "..."]
    kinds: Int[Array, " angles"] | None

    def __init__(self, angles: ArrayLike, stiffness: ArrayLike, length: ArrayLike, *, kinds: ArrayLike | None = None):
        self.angles = jnp.asarray(angles)
        self.stiffness = as_float_array(stiffness)
        self.length = as_float_array(length)
        self.kinds = as_kinds(kinds)

    def __check_init__(self):
        require_terms("angles", self.angles, 3)
        require_positive("stiffness", self.stiffness, "kJ/mol/nm²", zero=True)
        require_positive("length", self.length, "nm", zero=True)
        require_kinds(self.kinds, len(self.atoms), ("stiffness", self.stiffness), ("length", self.length))

    @property
    def atoms(self) -> Int[Array, "angles 3"]:
        return self.angles

    def term_energy(self, steps, kind):
        across = tuple(a + b for a, b in zip(*steps, strict=True))
        stretch = jnp.sqrt(_dot(across, across)) - of_kind(self.length, kind)
        return 0.5 * of_kind(self.stiffness, kind) * stretch**2


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

    torsions: Int[Array, "torsions 4"]
    stiffness: Float[Array, "..."]
    multiplicity: Int[Array, "..."]
    phase: Float[Array, "..."]
    kinds: Int[Array, " torsions"] | None

    def __init__(
        self,
        torsions: ArrayLike,
        stiffness: ArrayLike,
        multiplicity: ArrayLike,
        phase: ArrayLike,
        *,
        kinds: ArrayLike | None = None,
    ):
        self.torsions = jnp.asarray(torsions)
        self.stiffness = as_float_array(stiffness)
        self.multiplicity = jnp.asarray(multiplicity)
        self.phase = as_float_array(phase)
        self.kinds = as_kinds(kinds)

    def __check_init__(self):
        require_terms("torsions", self.torsions, 4)
        require_finite("stiffness", self.stiffness)
        require_finite("phase", self.phase)
        if not jnp.issubdtype(self.multiplicity.dtype, jnp.integer):
            raise TypeError(f"`multiplicity` has dtype {self.multiplicity.dtype}; wanted integers.")
        require_positive("multiplicity", self.multiplicity, "turns")
        require_kinds(
            self.kinds,
            len(self.atoms),
            ("stiffness", self.stiffness),
            ("multiplicity", self.multiplicity),
            ("phase", self.phase),
        )

    @property
    def atoms(self) -> Int[Array, "torsions 4"]:
        return self.torsions

    def term_energy(self, steps, kind):
        a, b, c = steps
        before, after = _cross(a, b), _cross(b, c)
        x, y = _dot(before, after), jnp.sqrt(_dot(b, b)) * _dot(a, after)
        scale = _dot(a, a) * _dot(b, b) * _dot(c, c) * _dot(b, b)
        in_line = x * x + y * y <= _IN_LINE**2 * scale
        # the choice comes before atan2, whose derivative at the origin is NaN
        phi = jnp.arctan2(jnp.where(in_line, 0, y), jnp.where(in_line, 1, x))
        n = of_kind(self.multiplicity, kind).astype(phi.dtype)
        return of_kind(self.stiffness, kind) * (1 + jnp.cos(n * phi - of_kind(self.phase, kind)))


def require_terms(name: str, atoms: Array, each: int) -> None:
    """Refuses index arrays of the wrong shape, negative indices, and terms that name an atom twice."""
    require_shape(name, atoms, (None, each), f"{each} atom indices per term.")
    if not jnp.issubdtype(atoms.dtype, jnp.integer):
        raise TypeError(f"`{name}` has dtype {atoms.dtype}; wanted integers, the indices of atoms.")
    if not is_concrete(atoms) or not atoms.size:
        return
    rows = np.asarray(atoms)
    if rows.min() < 0:
        raise ValueError(f"`{name}` names atom {rows.min()}; wanted indices from 0.")
    ordered = np.sort(rows, axis=1)
    twice = np.flatnonzero(np.any(ordered[:, 1:] == ordered[:, :-1], axis=1))
    if len(twice) > 0:
        raise ValueError(
            f"`{name}` has {rows[twice[0]].tolist()} at index {twice[0]}; wanted {each} different atoms in every term."
        )


def require_kinds(kinds: Int[Array, " terms"] | None, num_terms: int, *parameters: tuple[str, Array]) -> None:
    """Refuses parameters that are neither scalars nor one per kind, and kinds that have no parameters."""
    lengths = {len(x) for _, x in parameters if x.ndim == 1}
    shapes = ", ".join(f"`{name}` {x.shape}" for name, x in parameters)
    if any(x.ndim > 1 for _, x in parameters) or len(lengths) > 1:
        raise ValueError(f"The parameters have shapes {shapes}; wanted scalars, or one number per kind of all.")
    if (kinds is None) != (not lengths):
        raise ValueError(
            f"The parameters have shapes {shapes} but `kinds` is {'missing' if kinds is None else 'given'}; wanted"
            " `kinds` (one index per term) exactly when there are parameters per kind. If every term has its own:"
            " `kinds=jnp.arange(len(stiffness))`."
        )
    if kinds is None:
        return
    require_shape("kinds", kinds, (num_terms,), "One per term.")
    if not jnp.issubdtype(kinds.dtype, jnp.integer):
        raise TypeError(f"`kinds` has dtype {kinds.dtype}; wanted integers.")
    if is_concrete(kinds) and kinds.size:
        low, high, num = int(np.min(np.asarray(kinds))), int(np.max(np.asarray(kinds))), max(lengths)
        if low < 0 or high >= num:
            raise ValueError(f"`kinds` has indices from {low} to {high}; wanted from 0 to {num - 1}.")


def _dot(a: _Vector, b: _Vector) -> Float[Array, ""]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: _Vector, b: _Vector) -> _Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
