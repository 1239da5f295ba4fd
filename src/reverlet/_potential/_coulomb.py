"""Electrostatics of point charges: in open space, with a reaction field, and by Ewald's sum."""

import abc
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .. import units
from .._box import AbstractBox, OpenBox, half_height, require_known, require_one_image
from .._fields import Rule, checked, counts, finite_number, positive_number
from .._misc import as_number, cast_floats, is_concrete, require_constant, require_instance, require_positive
from .._verdict import raise_if
from ._base import AbstractPotential
from ._charges import AbstractCharges, Charges, charges_rule
from ._pair import AbstractPairPotential
from ._pair_sum import one_if_usable, pair_sum
from ._partners import AbstractSparing, Named, NamedPairs, as_named, named_pairs
from ._terms import AbstractAtomIndexed, require_indices, steps_between
from ._truncation import AbstractTruncation, PlainCutoff, truncation_rule
from ._waves import waves_energy

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar

T = TypeVar("T")


class AbstractElectrostatics(AbstractPotential, AbstractAtomIndexed):
    """Point charges that all interact, but for some pairs of atoms."""

    charges: AbstractVar[AbstractCharges]
    exclusions: AbstractVar[NamedPairs]
    """Pairs that do not interact."""
    scaled: AbstractVar[NamedPairs]
    """Pairs whose interaction is multiplied by `scale`."""
    scale: AbstractVar[float]

    @property
    def named(self) -> tuple[NamedPairs, NamedPairs]:
        """The exclusions and the scaled pairs, laid out also where arrays were put in their places."""
        return as_named("exclusions", self.exclusions), as_named("scaled", self.scaled)

    def require_atoms(self, num_atoms):
        self.charges.require_atoms(num_atoms)
        for named in self.named:
            require_indices(self, named.pairs, num_atoms)


class Coulomb(AbstractElectrostatics):
    """Point charges in open space, U = Σ_{i<j} f_ij q_i q_j / (4πε₀ r_ij), with f = 1 but for the pairs named.

    For molecules and clusters in an `OpenBox`. In a periodic box the sum does not converge: use `Ewald`, or
    `ReactionField` for a cheap approximation.

    **Arguments:** `charges` (e), an array with one for every atom or an `AbstractCharges`; `exclusions`, pairs of atoms
    that do not interact; `scaled`, pairs whose interaction is multiplied by `scale`.

    **Errors:** `ValueError` for pairs that are not pairs of different atoms, or named twice; at `energy` for a
    periodic box.
    """

    charges: Charges = charges_rule()
    exclusions: Named = checked(named_pairs(), default=None, kw_only=True)
    scaled: Named = checked(named_pairs(), default=None, kw_only=True)
    scale: float = checked(finite_number("units of 1"), static=True, default=1.0, kw_only=True)

    def __check_init__(self):
        require_special_pairs(self.exclusions, self.scaled)

    @property
    def cutoff(self) -> None:
        return None

    def energy(self, positions, box, *, neighbors=None):
        del neighbors
        if not isinstance(box, OpenBox):
            raise ValueError(
                f"`Coulomb` got a periodic box, `{type(box).__name__}`; wanted an `OpenBox`. For periodic boxes use"
                " `Ewald.fit(charges, box, cutoff=...)`, or `ReactionField`."
            )
        q = reduced(self.charges, positions)
        pairs = screened(self, q, 0.0, _EVERYTHING)
        return pairs.energy(positions, box) + named_energy(self, q, 0.0, positions, box)


def _dielectric() -> Any:
    def require(name, x):
        require_constant(name, x)
        if not x >= 1:
            raise ValueError(f"`{name}` is {x}; wanted at least 1, such as 78.3 for water.")

    return Rule(as_number, require)


class ReactionField(AbstractPairPotential):
    """Point charges in a dielectric continuum beyond the cutoff, u(r) = q_i q_j / (4πε₀) (1/r + k r² - c).

    k = (ε - 1)/((2ε + 1) r_c³) and c = 1/r_c + k r_c², so that the energy ends at zero; the force is continuous in the
    limit of a conductor, ε → ∞ (`math.inf` is welcome). Much cheaper than `Ewald` in large systems, and an
    approximation. Excluded pairs: `Excluding(ReactionField(...), pairs)`.

    **Arguments:** `charges` (e); `cutoff` (nm); `dielectric`, ε of the continuum.

    **Errors:** `ValueError` for a cutoff that is not positive and a dielectric constant below one.

    **Reference:** I. G. Tironi et al., J. Chem. Phys. 102, 5451 (1995).
    """

    charges: Charges = charges_rule()
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    dielectric: float = checked(_dielectric(), static=True, default=78.3, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def pair_energy(self, r2, i, j):
        q = self.charges.values
        inverse = 1 / self.dielectric
        k = (1 - inverse) / (2 + inverse) / self.cutoff**3
        c = 1 / self.cutoff + k * self.cutoff**2
        return units.COULOMB * q[i] * q[j] * (jax.lax.rsqrt(r2) + k * r2 - c)


class AbstractLatticeSum(AbstractElectrostatics):
    """Point charges and all their periodic images, by sums that were fitted to a box."""

    cutoff: AbstractVar[float]
    alpha: AbstractVar[float]

    @abc.abstractmethod
    def accuracy(self, box: AbstractBox) -> Float[Array, ""]:
        """What the sums leave out in a `box`, as in `fit`: one that has grown needs more than they were given."""

    def is_too_coarse(self, box: AbstractBox) -> Bool[Array, ""]:
        """Whether the sums leave out more in a `box` than anybody would want."""
        # no more than what pairs leave out by themselves, whatever they do
        return self.accuracy(box) > max(0.01, 3 * math.exp(-((self.alpha * self.cutoff) ** 2)))

    def require_accuracy(self, box: AbstractBox) -> None:
        """Refuses a box for which the sums were not made; a traced one is let through."""
        if is_concrete(box):
            with jax.ensure_compile_time_eval():
                bad, error = bool(self.is_too_coarse(box)), float(self.accuracy(box))
            if bad:
                raise ValueError(describe_coarse(error))

    def check_accuracy(self, states: T, boxes: AbstractBox, lift: Callable, mesh: Mesh | None) -> T:
        """The states, unless the sums were not made for their boxes, one or many with `jax.vmap` as `lift`: then a
        `ValueError`, or a `SimulationError` where they are traced."""
        bad, error = lift(lambda box: (self.is_too_coarse(box), self.accuracy(box)))(boxes)
        if is_concrete(bad):
            if np.any(np.asarray(bad)):
                raise ValueError(describe_coarse(np.asarray(error)))
            return states
        return raise_if(bad, describe_coarse, error, guard=states, mesh=mesh)


def describe_coarse(error: ArrayLike) -> str:
    """What a lattice sum leaves out in boxes for which it was not made."""
    return (
        f"The box is too large for this lattice sum, which would leave out {np.max(np.asarray(error)):.2g} of the"
        " forces; wanted the waves or the mesh that the box needs, of `rv.Ewald.fit(charges, box, ...)` or"
        " `rv.P3M.fit`."
    )


class Ewald(AbstractLatticeSum):
    """Point charges and all their periodic images, by Ewald's sum with conducting surroundings.

    With f = 1 but for the pairs named, k the reciprocal lattice vectors and S(k) = Σ q_i exp(ik·x_i),

        4πε₀ U = Σ_{i<j, r<r_c} q_i q_j erfc(αr)/r + (2π/V) Σ_{k≠0} exp(-k²/4α²)/k² |S(k)|²
                 - (α/√π) Σ q_i² - (π/2α²V) (Σ q_i)² - Σ_{named} (1 - f) q_i q_j /r

    The reciprocal part is a sum over all wave vectors, by products of matrices: smooth to all orders, for any
    triclinic box, and fast up to some thousand atoms; its cost grows like N². A box with a net charge gets a uniform
    background of the opposite charge (the fourth term), as is usual; pressures are then of that jellium.

    The real-space part ends at the cutoff with a jump of about `accuracy`. Make it with `Ewald.fit`, which finds α and
    the number of waves; they are fitted to one box, and as the box grows they lose accuracy: see `accuracy`. A known
    box in which that is above 0.01 is refused.

    **Arguments:** `charges` (e), an array with one for every atom or an `AbstractCharges`; `cutoff` (nm); `alpha`
    (1/nm); `waves`, the largest multiple of each reciprocal lattice vector; `exclusions`, `scaled` and `scale` as for
    `Coulomb`: these pairs are meant in their nearest image only.

    **Errors:** `ValueError` for numbers that are not positive and for pairs as for `Coulomb`; at `energy` for an open
    box, for one smaller than twice the cutoff, and for another number of charges than of atoms.

    **Reference:** P. P. Ewald, Ann. Phys. 369, 253 (1921); M. P. Allen and D. J. Tildesley, Computer Simulation of
    Liquids, 2nd ed. (Oxford 2017), section 6.2.
    """

    charges: Charges = charges_rule()
    exclusions: Named = checked(named_pairs(), default=None, kw_only=True)
    scaled: Named = checked(named_pairs(), default=None, kw_only=True)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    alpha: float = checked(positive_number("1/nm"), static=True, kw_only=True)
    waves: tuple[int, int, int] = checked(counts(1), static=True, kw_only=True)
    scale: float = checked(finite_number("units of 1"), static=True, default=1.0, kw_only=True)

    def __check_init__(self):
        require_special_pairs(self.exclusions, self.scaled)

    @classmethod
    def fit(
        cls,
        charges: ArrayLike | AbstractCharges,
        box: AbstractBox,
        *,
        cutoff: float | None = None,
        accuracy: float = 1e-5,
        exclusions: ArrayLike | NamedPairs | None = None,
        scaled: ArrayLike | NamedPairs | None = None,
        scale: float = 1.0,
    ) -> "Ewald":
        """Finds α and the number of waves for a box, such that both sums leave out less than `accuracy`.

        With `exp(-x²) = accuracy`, α is x / cutoff and the largest wave number 2αx. The root mean square error of the
        forces, relative to that of the forces of the charges, is then about `accuracy`. A long cutoff means few waves;
        in a system small enough to look at all pairs half the smallest height of the box, the default, is best.

        **Errors:** `ValueError` for an open box, a cutoff larger than half its smallest height, and an accuracy not
        between 0 and 0.1.
        """
        require_instance("box", box, AbstractBox)
        require_constant("accuracy", accuracy)
        if isinstance(box, OpenBox):
            raise ValueError("`Ewald.fit` got an `OpenBox`; wanted a periodic box. In open space use `Coulomb`.")
        require_known(box)
        if not 0 < accuracy < 0.1:
            raise ValueError(f"`accuracy` is {accuracy}; wanted a number between 0 and 0.1, such as 1e-5.")
        with jax.ensure_compile_time_eval():  # charges may be traced, in a loss that is compiled
            edges = np.linalg.norm(np.asarray(box.vectors, float), axis=1)
        cutoff = half_height(box) if cutoff is None else cutoff
        require_constant("cutoff", cutoff)
        require_positive("cutoff", cutoff, "nm")
        require_one_image("`cutoff`", cutoff, box)
        x = math.sqrt(-math.log(accuracy))
        alpha = x / cutoff
        n1, n2, n3 = (max(1, math.ceil(alpha * x * edge / math.pi - 1e-6)) for edge in edges)
        return cls(
            charges, cutoff=cutoff, alpha=alpha, waves=(n1, n2, n3), exclusions=exclusions, scaled=scaled, scale=scale
        )

    def accuracy(self, box: AbstractBox) -> Float[Array, ""]:
        edges = jnp.sqrt(jnp.sum(box.vectors**2, axis=1))
        reciprocal = jnp.exp(-jnp.min((math.pi * jnp.asarray(self.waves) / edges / self.alpha) ** 2))
        return jnp.maximum(reciprocal, math.exp(-((self.alpha * self.cutoff) ** 2)))

    def energy(self, positions, box, *, neighbors=None):
        require_box(self, self.cutoff, box)
        self.require_accuracy(box)
        box = box.astype(positions.dtype)
        q = reduced(self.charges, positions)
        pairs = screened(self, q, self.alpha, self.cutoff)
        return (
            pairs.energy(positions, box, neighbors=neighbors)
            + named_energy(self, q, self.alpha, positions, box)
            + waves_energy(q, positions, box, self.alpha, self.waves)
            + constants(q, self.alpha, box)
        )


def require_box(potential: AbstractElectrostatics, cutoff: float, box: AbstractBox) -> None:
    """Refuses an open box, and one in which an atom has two images within the cutoff; a traced one is let through."""
    name = type(potential).__name__
    if isinstance(box, OpenBox):
        raise ValueError(f"`{name}` got an `OpenBox`; wanted a periodic box. In open space use `Coulomb`.")
    require_one_image(f"The cutoff of `{name}`", cutoff, box)


def reduced(charges: AbstractCharges, positions: Float[Array, "atoms 3"]) -> Float[Array, " atoms"]:
    """Charges in units in which two of them a distance r apart have the energy q q′/r, √(kJ/mol nm)."""
    charges.require_atoms(len(positions))
    dtype = positions.dtype
    return math.sqrt(units.COULOMB) * cast_floats(charges, dtype).values.astype(dtype)


def constants(q: Float[Array, " atoms"], alpha: float, box: AbstractBox) -> Float[Array, ""]:
    """What charges have with their own screening clouds, and with the background that makes the box neutral, kJ/mol."""
    return -alpha / math.sqrt(math.pi) * jnp.sum(q**2) - 0.5 * math.pi / alpha**2 * jnp.sum(q) ** 2 / box.volume


def require_special_pairs(exclusions: NamedPairs, scaled: NamedPairs) -> None:
    """Refuses pairs that are named twice."""
    if is_concrete((exclusions, scaled)):
        both = np.sort(np.concatenate([np.asarray(exclusions.pairs), np.asarray(scaled.pairs)]), axis=1)
        unique, counts = np.unique(both, axis=0, return_counts=True)
        if np.any(counts > 1):
            raise ValueError(
                f"The pair {unique[counts > 1][0].tolist()} is excluded or scaled more than once; wanted each pair"
                " once, in one of the lists."
            )


def screened(
    potential: AbstractElectrostatics, charges: Float[Array, " atoms"], alpha: float, cutoff: float
) -> "Screened":
    """The sum over pairs of a potential, without those that it names."""
    exclusions, scaled = potential.named
    left_out = (exclusions.partners, scaled.partners)
    return Screened(charges, left_out, alpha=alpha, cutoff=cutoff)


def named_energy(
    potential: AbstractElectrostatics,
    q: Float[Array, " atoms"],
    alpha: float,
    positions: Float[Array, "atoms 3"],
    box: AbstractBox,
) -> Float[Array, ""]:
    """What the pairs that do not interact fully have, kJ/mol: f/r, less the erf(αr)/r that the waves have of all pairs.

    Not erfc(αr)/r of the sum over pairs taken away from it: of atoms near one another both are large, and nothing but
    rounding would be left.
    """
    total = jnp.zeros((), positions.dtype)
    for pairs, factor in zip(potential.named, (0.0, potential.scale), strict=True):
        if len(pairs) > 0:
            named = pairs.pairs
            ((x, y, z),) = steps_between(positions, named, box)
            r2 = x * x + y * y + z * z
            # NaN for an atom that there is not
            products = jnp.prod(q.at[named].get(mode="fill", fill_value=jnp.nan), axis=1)
            direct = factor * jax.lax.rsqrt(r2) if factor != 0 else 0.0
            clouds = _within_clouds(r2, alpha, 0) if alpha > 0 else 0.0
            total = total + jnp.sum(products * (direct - clouds))
    return total


_EVERYTHING = 1e6
"""A cutoff (nm) that no cluster reaches, and whose square is a number in float32."""


class Screened(AbstractPotential):
    """Σ_{i<j} q_i q_j erfc(αr)/r of reduced charges, up to a cutoff, without pairs of partners."""

    charges: Float[Array, " atoms"]
    left_out: tuple[Int[Array, "_ _"], ...]
    alpha: float = eqx.field(static=True, kw_only=True)
    cutoff: float = eqx.field(static=True, kw_only=True)

    def energy(self, positions, box, *, neighbors=None):
        formula = _ScreenedPair(self.left_out, alpha=self.alpha, cutoff=self.cutoff)
        energy = pair_sum(formula, self.charges, positions, box, neighbors)
        return energy * one_if_usable(self, positions, box, neighbors)


class _ScreenedPair(AbstractSparing):
    """erfc(αr)/r, what a unit of charge has with another."""

    left_out: tuple[Int[Array, "_ _"], ...]
    alpha: float = eqx.field(static=True, kw_only=True)
    cutoff: float = eqx.field(static=True, kw_only=True)
    truncation: AbstractTruncation = PlainCutoff()

    def pair_energy(self, r2, i, j):
        del i, j
        return _inverse_distance(r2, self.alpha, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _within_clouds(r2, alpha, order):
    """E_n(r²), where E_0 = erf(αr)/r: finite and with all its digits from r = 0 on.

    E_n = (2α/√π) (2α²)ⁿ F_n(α²r²) by Boys' functions F_n(t) = ∫ u²ⁿ exp(-tu²) du from 0 to 1: by their series for
    t < 1, and by recurrence from there. The derivative of E_n with respect to r² is -E_{n+1}/2.

    **Reference:** S. F. Boys, Proc. R. Soc. A 200, 542 (1950).
    """
    t = alpha**2 * r2
    small, large = jnp.minimum(t, 1), jnp.maximum(t, 1)
    series = jnp.ones_like(t)
    for k in range(20, 0, -1):  # to 1e-19 at t = 1
        series = 1 + 2 * small / (2 * order + 1 + 2 * k) * series
    series = jnp.exp(-small) / (2 * order + 1) * series
    root = jnp.sqrt(large)
    boys = 0.5 * math.sqrt(math.pi) * jax.lax.erf(root) / root
    for n in range(1, order + 1):
        boys = ((2 * n - 1) * boys - jnp.exp(-large)) / (2 * large)
    return 2 * alpha / math.sqrt(math.pi) * (2 * alpha**2) ** order * jnp.where(t < 1, series, boys)


@_within_clouds.defjvp
def _within_clouds_jvp(alpha, order, primals, tangents):
    (r2,), (dot,) = primals, tangents
    return _within_clouds(r2, alpha, order), -0.5 * _within_clouds(r2, alpha, order + 1) * dot


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _inverse_distance(r2, alpha, order):
    """B_n(r²), where B_0 = erfc(αr)/r and B_n = ((2n-1) B_{n-1} + (2α²)ⁿ exp(-α²r²)/(α√π)) / r².

    The derivative of B_n with respect to r² is -B_{n+1}/2, so that all orders share one erfc and one exponential.
    """
    b = jax.lax.rsqrt(r2)
    if alpha == 0:
        for n in range(1, order + 1):
            b = (2 * n - 1) * b / r2
        return b
    b = jax.lax.erfc(alpha * r2 * b) * b
    if order > 0:
        inverse, gauss = 1 / r2, jnp.exp(-(alpha**2) * r2) / (alpha * math.sqrt(math.pi))
        for n in range(1, order + 1):
            b = ((2 * n - 1) * b + (2 * alpha**2) ** n * gauss) * inverse
    return b


@_inverse_distance.defjvp
def _inverse_distance_jvp(alpha, order, primals, tangents):
    (r2,), (dot,) = primals, tangents
    return _inverse_distance(r2, alpha, order), -0.5 * _inverse_distance(r2, alpha, order + 1) * dot
