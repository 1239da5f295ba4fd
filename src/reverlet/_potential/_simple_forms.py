"""Formulas for pairs that models of liquids are made of: repulsion alone, screened charges, soft cores, other wells."""

import jax.numpy as jnp
import numpy as np

from .._fields import Kinds, Parameter, checked, finite, indices, optional, positive, positive_number
from .._misc import is_concrete
from ._forms import AbstractSpeciesPairPotential
from ._truncation import AbstractTruncation, truncation_rule


class InversePower(AbstractSpeciesPairPotential):
    """Soft spheres, u(r) = ε (σ/r)ⁿ.

    Only ε σⁿ matters for the energy; the power is a parameter like any other.

    **Arguments:** `sigma` (nm), `epsilon` (kJ/mol) and `power` n, all scalars or all symmetric matrices (species,
    species); `cutoff` (nm); `species`, the index of every atom's; `truncation`.

    **Errors:** `ValueError` for parameters that are not positive, shapes that do not fit, an asymmetric matrix, a
    cutoff that does not fit.

    **Reference:** W. G. Hoover et al., J. Chem. Phys. 52, 4931 (1970).
    """

    sigma: Parameter = positive("nm")
    epsilon: Parameter = positive("kJ/mol")
    power: Parameter = positive("powers")
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def pair_energy(self, r2, i, j):
        sigma, epsilon, power = (self.of_pair(p, i, j) for p in (self.sigma, self.epsilon, self.power))
        return epsilon * jnp.exp(0.5 * power * jnp.log(sigma * sigma / r2))


class Yukawa(AbstractSpeciesPairPotential):
    """A screened charge, u(r) = A exp(-κ r)/r, which attracts where A is negative.

    **Arguments:** `amplitude` A (kJ/mol nm) and `decay` κ (1/nm), both scalars or both symmetric matrices (species,
    species); `cutoff` (nm); `species`, the index of every atom's; `truncation`.

    **Errors:** `ValueError` for an amplitude that is not finite or a decay that is not positive, shapes that do not
    fit, an asymmetric matrix, a cutoff that does not fit.

    **Reference:** H. Yukawa, Proc. Phys.-Math. Soc. Jpn. 17, 48 (1935).
    """

    amplitude: Parameter = finite("kJ/mol nm")
    decay: Parameter = positive("1/nm")
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def pair_energy(self, r2, i, j):
        amplitude, decay = self.of_pair(self.amplitude, i, j), self.of_pair(self.decay, i, j)
        r = jnp.sqrt(r2)
        return amplitude * jnp.exp(-decay * r) / r


class GaussianCore(AbstractSpeciesPairPotential):
    """Cores that may overlap, such as polymer coils, u(r) = ε exp(-r²/σ²).

    **Arguments:** `sigma` (nm) and `epsilon` (kJ/mol), both scalars or both symmetric matrices (species, species);
    `cutoff` (nm); `species`, the index of every atom's; `truncation`.

    **Errors:** `ValueError` for parameters that are not positive, shapes that do not fit, an asymmetric matrix, a
    cutoff that does not fit.

    **Reference:** F. H. Stillinger, J. Chem. Phys. 65, 3968 (1976).
    """

    sigma: Parameter = positive("nm")
    epsilon: Parameter = positive("kJ/mol")
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def pair_energy(self, r2, i, j):
        sigma, epsilon = self.of_pair(self.sigma, i, j), self.of_pair(self.epsilon, i, j)
        return epsilon * jnp.exp(-r2 / (sigma * sigma))


class DoubleExponential(AbstractSpeciesPairPotential):
    """Two exponentials in the place of two powers, which stay finite at r = 0,

        u(r) = ε/(α - β) [β exp(α (1 - r/r₀)) - α exp(β (1 - r/r₀))]:    -ε at r₀, and zero far away.

    With α = 2β it is `Morse` of width β/r₀. With α = 16.766 and β = 4.427 it is near to a 12-6 Lennard-Jones potential.

    **Arguments:** `length` r₀ (nm), `epsilon` (kJ/mol), `repulsion` α and `attraction` β, all scalars or all symmetric
    matrices (species, species); `cutoff` (nm); `species`, the index of every atom's; `truncation`.

    **Errors:** `ValueError` for parameters that are not positive, α not above β, shapes that do not fit, an asymmetric
    matrix, a cutoff that does not fit.

    **Reference:** X. Wu and B. R. Brooks, AIP Adv. 9, 065304 (2019); J. T. Horton et al., Digital Discovery 2, 1178
    (2023).
    """

    length: Parameter = positive("nm")
    epsilon: Parameter = positive("kJ/mol")
    repulsion: Parameter = positive("units of 1")
    attraction: Parameter = positive("units of 1")
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def __check_init__(self):
        self.require_species()  # which Equinox would ask for later
        if is_concrete((self.repulsion, self.attraction)) and not np.all(self.repulsion > self.attraction):
            raise ValueError(
                f"`repulsion` is {self.repulsion} and `attraction` {self.attraction}; wanted a steeper repulsion, such"
                " as 16.766 and 4.427."
            )

    def pair_energy(self, r2, i, j):
        length, epsilon, alpha, beta = (
            self.of_pair(p, i, j) for p in (self.length, self.epsilon, self.repulsion, self.attraction)
        )
        inwards = 1 - jnp.sqrt(r2) / length
        return epsilon / (alpha - beta) * (beta * jnp.exp(alpha * inwards) - alpha * jnp.exp(beta * inwards))


class GeneralizedMorse(AbstractSpeciesPairPotential):
    """A Morse potential in a power of the distance, from a narrow well to a wide one,

        u(r) = ε (e^{2x} - 2e^x - A)/(1 + A),    x = a (1 - (r/r₀)^φ)/φ:    -ε at r₀, and zero far away

    where A is what e^{2x} - 2e^x becomes far away: zero for φ > 0. With φ = 1 it is `Morse` of width a/r₀; towards φ =
    0, `Mie` with exponents 2a and a. For φ < 0 its end falls as slowly as 2 a e^{a/φ} r^φ/|φ|, so that it has no tail
    correction.

    **Arguments:** `length` r₀ (nm), `epsilon` (kJ/mol), `steepness` a and `stretch` φ, all scalars or all symmetric
    matrices (species, species); `cutoff` (nm); `species`, the index of every atom's; `truncation`.

    **Errors:** `ValueError` for parameters that are not positive, a stretch that is zero, shapes that do not fit, an
    asymmetric matrix, a cutoff that does not fit.

    **Reference:** a target of W. Wang et al., J. Chem. Phys. 158, 044113 (2023), with A a constant there.
    """

    length: Parameter = positive("nm")
    epsilon: Parameter = positive("kJ/mol")
    steepness: Parameter = positive("units of 1")
    stretch: Parameter = finite("powers")
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def __check_init__(self):
        self.require_species()  # which Equinox would ask for later
        if is_concrete((self.steepness, self.stretch)) and np.any(self.stretch == 0):
            raise ValueError(
                f"`stretch` is {self.stretch}; wanted powers other than zero, where this is `Mie` with exponents of two"
                " times `steepness` and of `steepness`."
            )

    def pair_energy(self, r2, i, j):
        length, epsilon, a, phi = (
            self.of_pair(p, i, j) for p in (self.length, self.epsilon, self.steepness, self.stretch)
        )
        well = lambda x: jnp.exp(x) * (jnp.exp(x) - 2)
        # (1 - s^φ)/φ without a difference of numbers that are nearly one
        x = -a * jnp.expm1(0.5 * phi * jnp.log(r2 / (length * length))) / phi
        far = well(jnp.where(phi < 0, a / phi, -jnp.inf))
        return epsilon * (well(x) - far) / (1 + far)
