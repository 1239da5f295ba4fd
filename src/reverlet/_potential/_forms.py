"""Formulas for pairs of atoms, whose parameters depend on the species of the two."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._fields import (
    Kinds,
    Parameter,
    checked,
    indices,
    optional,
    parameters_of,
    positive,
    positive_number,
    positive_or_zero,
)
from .._misc import is_concrete
from ._pair import AbstractPairPotential
from ._terms import AbstractAtomIndexed, entry
from ._truncation import AbstractTruncation, truncation_rule

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


_SHAPES = ("scalar", "(species,)", "(species, species)")


class AbstractSpeciesPairPotential(AbstractPairPotential, AbstractAtomIndexed):
    """A pair potential whose parameters are scalars, for atoms that are all alike, or symmetric matrices (species,
    species); then `species` has the index of every atom's.

    A subclass declares its parameters, and these three:

        cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
        species: Kinds = checked(optional(indices()), default=None, kw_only=True)
        truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)
    """

    species: AbstractVar[Int[Array, " atoms"] | None]
    has_mixing_rule: ClassVar[bool] = False
    """Whether there may be one of each parameter per species, because `pair_energy` gives `of_pair` a rule for two."""
    has_curves: ClassVar[bool] = False
    """Whether a parameter is a row of numbers, such as values at knots, where others have a single one."""

    def __check_init__(self):
        self.require_species()

    def require_atoms(self, num_atoms):
        if self.species is not None and len(self.species) != num_atoms:
            raise ValueError(
                f"`species` of `{type(self).__name__}` has {len(self.species)} entries; wanted one for each of"
                f" {num_atoms} atoms."
            )

    @property
    def num_species(self) -> int:
        """How many kinds of atoms have parameters of their own."""
        parameters = parameters_of(self)
        return parameters[0][1].shape[0] if self.species is not None and parameters else 1

    def of_pair(
        self,
        parameter: Float[Array, "..."],
        i: Int[Array, ""],
        j: Int[Array, ""],
        mean: Callable[[Array, Array], Array] = lambda a, b: 0.5 * (a + b),
    ) -> Float[Array, ""]:
        """The scalar, the entry of the matrix for atoms `i` and `j`, or the `mean` of their species' two."""
        if self.species is None:
            return parameter
        a, b = self.species[i], self.species[j]
        if parameter.ndim == 1:
            return mean(entry(parameter, a), entry(parameter, b))
        # symmetrized, so that an update moves both halves alike
        return 0.5 * (entry(parameter, a, b) + entry(parameter, b, a))

    def require_species(self) -> None:
        """Refuses parameters whose shapes differ or that are not symmetric, and species that they do not fit."""
        parameters = parameters_of(self)
        if not parameters:
            return
        dims = (0, 1, 2) if self.has_mixing_rule else (0, 2)
        # of the parameters of two species, without the length of a curve
        shape = parameters[0][1].shape[: -1 if self.has_curves else None]
        if (
            any(x.shape != parameters[0][1].shape for _, x in parameters)
            or len(shape) not in dims
            or len(set(shape)) > 1
        ):
            got = ", ".join(f"`{name}` {x.shape}" for name, x in parameters)
            names = ("(knots,)", "", "(species, species, knots)") if self.has_curves else _SHAPES
            wanted = " or ".join(f"all {names[k]}" for k in dims)
            raise ValueError(f"The parameters have shapes {got}; wanted {wanted}.")
        if (len(shape) > 0) != (self.species is not None):
            raise ValueError(
                f"`{parameters[0][0]}` has shape {parameters[0][1].shape} but `species` is"
                f" {'missing' if self.species is None else 'given'}; wanted `species` (one index per atom) exactly when"
                " there are parameters per species."
            )
        if self.species is None or not is_concrete((self.species, parameters)):
            return
        species, num = np.asarray(self.species), shape[0]
        if species.max(initial=-1) >= num:
            raise ValueError(f"`species` is {species}; wanted one integer from 0 to {num - 1} for every atom.")
        for name, x in parameters:
            matrix = np.asarray(x)
            if not np.array_equal(matrix, np.moveaxis(matrix, 0, len(shape) - 1)):
                raise ValueError(f"`{name}` is\n{matrix}\nwanted a symmetric matrix: a pair has no order.")


@jax.custom_jvp
def _inverse(x):
    """1/x, whose derivatives of all orders are products: division's own rule divides again, which is slow."""
    return 1 / x


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    y = _inverse(primals[0])
    return y, -y * y * tangents[0]


class LennardJones(AbstractSpeciesPairPotential):
    """The 12-6 Lennard-Jones potential, u(r) = 4ε[(σ/r)¹² - (σ/r)⁶].

    One species: scalars `sigma` and `epsilon`. Several: one of each per species, combined by the Lorentz–Berthelot
    rules σ_ij = (σ_i + σ_j)/2, ε_ij = √(ε_i ε_j); or symmetric matrices (species, species) of explicit pair
    parameters. Then `species` has the index of every atom's. For atoms without such an interaction see `Among`.

    The default is a plain cutoff without a tail correction; see `truncation` and `TailCorrected`.

    **Arguments:** `sigma` (nm), `epsilon` (kJ/mol), `cutoff` (nm).

    **Errors:** `ValueError` for parameters that are not positive, shapes that do not fit, an asymmetric matrix, a
    cutoff that is not positive or below the switch's onset.

    **Reference:** J. E. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931); D. Berthelot, C. R. Acad. Sci. 126, 1703
    (1898).
    """

    sigma: Parameter = positive("nm")
    epsilon: Parameter = positive("kJ/mol")
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)
    has_mixing_rule: ClassVar[bool] = True

    def __check_init__(self):
        # a slip of units; tiny boxes and ideal gases have cutoffs below sigma
        # of one species: among several are dummies that have any
        if is_concrete(self.sigma) and self.sigma.ndim == 0 and float(self.sigma) > max(1.0, 2 * self.cutoff):
            raise ValueError(
                f"`sigma` is {float(self.sigma):.6g} nm, more than twice the cutoff, {self.cutoff:.6g} nm; wanted a"
                f" shorter one, or a longer cutoff. Lengths are in nm: {float(self.sigma):.6g} Å are"
                f" {float(self.sigma) / 10:.6g}."
            )

    def pair_energy(self, r2, i, j):
        sigma = self.of_pair(self.sigma, i, j)
        epsilon = self.of_pair(self.epsilon, i, j, lambda a, b: jnp.sqrt(a * b))
        s6 = (sigma * sigma * _inverse(r2)) ** 3
        return 4 * epsilon * (s6**2 - s6)


class Mie(AbstractSpeciesPairPotential):
    """The Mie potential, u(r) = C ε [(σ/r)ⁿ - (σ/r)ᵐ] with C = n/(n - m) (n/m)^{m/(n - m)}, so that its depth is ε.

    With n = 12 and m = 6 it is `LennardJones`, which is faster. The exponents are parameters like any other.

    **Arguments:** `sigma` (nm), `epsilon` (kJ/mol), `repulsion` n and `attraction` m, all scalars or all symmetric
    matrices (species, species); `cutoff` (nm); `species`, the index of every atom's; `truncation`.

    **Errors:** `ValueError` for parameters that are not positive, n not above m, shapes that do not fit, an asymmetric
    matrix, a cutoff that does not fit.

    **Reference:** G. Mie, Ann. Phys. 316, 657 (1903); C. Avendaño et al., J. Phys. Chem. B 115, 11154 (2011).
    """

    sigma: Parameter = positive("nm")
    epsilon: Parameter = positive("kJ/mol")
    repulsion: Parameter = positive("powers")
    attraction: Parameter = positive("powers")
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def __check_init__(self):
        self.require_species()  # which Equinox would ask for later
        if is_concrete((self.repulsion, self.attraction)) and not np.all(self.repulsion > self.attraction):
            raise ValueError(
                f"`repulsion` is {self.repulsion} and `attraction` {self.attraction}; wanted a larger exponent of the"
                " repulsion, such as 12 and 6."
            )

    def pair_energy(self, r2, i, j):
        sigma, epsilon, n, m = (
            self.of_pair(p, i, j) for p in (self.sigma, self.epsilon, self.repulsion, self.attraction)
        )
        prefactor = n / (n - m) * jnp.exp(m / (n - m) * jnp.log(n / m))
        log = 0.5 * jnp.log(sigma * sigma / r2)
        return prefactor * epsilon * (jnp.exp(n * log) - jnp.exp(m * log))


class Morse(AbstractSpeciesPairPotential):
    """The Morse potential between all pairs, u(r) = D [(1 - exp(-a (r - r₀)))² - 1]: -D at r₀, and zero far away.

    Not to be confused with `MorseBond`, for named pairs, which is zero at r₀.

    **Arguments:** `depth` D (kJ/mol), `width` a (1/nm) and `length` r₀ (nm), all scalars or all symmetric matrices
    (species, species); `cutoff` (nm); `species`, the index of every atom's; `truncation`.

    **Errors:** `ValueError` for parameters that are not positive, shapes that do not fit, an asymmetric matrix, a
    cutoff that does not fit.

    **Reference:** P. M. Morse, Phys. Rev. 34, 57 (1929).
    """

    depth: Parameter = positive("kJ/mol")
    width: Parameter = positive("1/nm")
    length: Parameter = positive("nm")
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def pair_energy(self, r2, i, j):
        depth, width, length = (self.of_pair(p, i, j) for p in (self.depth, self.width, self.length))
        decay = jnp.exp(-width * (jnp.sqrt(r2) - length))
        return depth * decay * (decay - 2)


class Buckingham(AbstractSpeciesPairPotential):
    """The exp-6 potential, u(r) = A exp(-b r) - C/r⁶, with a core that repels.

    The formula falls to -∞ at small distances. So below `core` it is replaced by its expansion to second order in r²
    about the core's radius, which repels down to r = 0 with an energy that stays finite; energy, force and curvature
    are continuous. Only a distance at which the formula itself repels, ever more so inwards, is taken for a core;
    choose one that no pair of the liquid comes near. The parameters are checked at construction, and not while
    they are trained.

    **Arguments:** `amplitude` A (kJ/mol), `decay` b (1/nm), `dispersion` C (kJ/mol nm⁶), all scalars or all symmetric
    matrices (species, species); `core` and `cutoff` (nm); `species`, the index of every atom's; `truncation`.

    **Errors:** `ValueError` for parameters that are not positive (C may be zero), a core at which the formula does not
    repel so, shapes that do not fit, an asymmetric matrix, a cutoff that does not fit.

    **Reference:** R. A. Buckingham, Proc. R. Soc. A 168, 264 (1938).
    """

    amplitude: Parameter = positive("kJ/mol")
    decay: Parameter = positive("1/nm")
    dispersion: Parameter = positive_or_zero("kJ/mol nm⁶")
    core: float = checked(positive_number("nm"), static=True, kw_only=True)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def __check_init__(self):
        self.require_species()  # which Equinox would ask for later
        parameters = (self.amplitude, self.decay, self.dispersion)
        if is_concrete(parameters):
            a, b, c = (np.asarray(p)[..., None] for p in parameters)
            repels = lambda r: _repels(a, b, c, r)
            if not np.all(repels(np.array([self.core]))):
                candidates = np.linspace(0, self.cutoff, 201)[1:]
                fine = candidates[np.all(repels(candidates).reshape(-1, 200), axis=0)]
                would_do = f"such as {fine[0]:.3g} nm" if len(fine) else "but the parameters have none: A is too small"
                raise ValueError(
                    f"`core` is {self.core} nm, where exp-6 does not repel ever more inwards; wanted a distance"
                    f" at which it does, {would_do}."
                )

    def pair_energy(self, r2, i, j):
        amplitude, decay, dispersion = (self.of_pair(p, i, j) for p in (self.amplitude, self.decay, self.dispersion))
        formula = lambda s: amplitude * jnp.exp(-decay * jnp.sqrt(s)) - dispersion * _inverse(s) ** 3
        core2 = jnp.asarray(self.core**2, r2.dtype)
        value, slope, curvature = _expansion(formula, core2)
        x = r2 - core2
        # both branches are computed: the outer one must not see distances where it overflows
        return jnp.where(x < 0, value + x * (slope + 0.5 * curvature * x), formula(jnp.maximum(r2, core2)))


def _expansion(f: Callable[[Float[Array, ""]], Float[Array, ""]], s: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
    """Value, first and second derivative."""
    one = jnp.ones_like(s)
    first = lambda s: jax.jvp(f, (s,), (one,))[1]
    slope, curvature = jax.jvp(first, (s,), (one,))
    return f(s), slope, curvature


def _repels(amplitude: np.ndarray, decay: np.ndarray, dispersion: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Whether exp-6 as a function of r² falls with a positive curvature."""
    repulsion = amplitude * np.exp(-decay * r)
    slope = -decay * repulsion + 6 * dispersion / r**7
    curvature = decay**2 * repulsion - 42 * dispersion / r**8
    return (slope < 0) & (curvature > slope / r)
