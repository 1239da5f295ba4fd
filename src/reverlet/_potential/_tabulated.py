from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._fields import Kinds, Parameter, checked, finite, indices, instance, optional, positive_number
from .._splines import AbstractInterpolation, SteffenSpline, piecewise, require_knots
from ._forms import AbstractSpeciesPairPotential
from ._truncation import AbstractTruncation, truncation_rule


class TabulatedPair(AbstractSpeciesPairPotential):
    """A pair potential that is a cubic spline through energies at equally spaced distances, which are its parameters.

    Knots are at `np.linspace(first, cutoff, knots)`, see `knots`. Below the first one the energy goes on as a straight
    line, or with a `core` of 12, say, as a + b r⁻¹² of the same energy and force; a core that repels whatever the
    values come to is best a potential of its own, to which the table is added:

        correction = rv.TabulatedPair(np.zeros(60), first=0.2, cutoff=0.9)
        potential = rv.Mie(0.3, 1.0, 12.0, 6.0, cutoff=0.9) + correction

    The last value is the energy at the cutoff. To end smoothly whatever it is: `truncation=rv.SmoothSwitch(0.8)`.

    With a `SteffenSpline`, the default, the curve never overshoots the values, but u″ jumps at knots: forces are
    continuous, stiffness is not. A `NaturalSpline` has a continuous u″.

    **Arguments:** `values`, kJ/mol: (knots,), or symmetric (species, species, knots) with `species`, the index of every
    atom's; `first`, the distance of the first knot, and `cutoff`, nm; `core`, a power, or none; `interpolation`;
    `truncation`.

    **Errors:** `ValueError` for fewer than four knots, values that are not finite, shapes that do not fit, values that
    are not symmetric, a first knot that is not before the cutoff.
    """

    values: Parameter = finite("kJ/mol")
    first: float = checked(positive_number("nm"), static=True, kw_only=True)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    core: float | None = checked(optional(positive_number("powers")), static=True, default=None, kw_only=True)
    interpolation: AbstractInterpolation = checked(
        instance(AbstractInterpolation), kw_only=True, default=SteffenSpline()
    )
    species: Kinds = checked(optional(indices()), default=None, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)
    has_curves: ClassVar[bool] = True

    def __check_init__(self):
        require_knots("values", self.values, self.first, "cutoff", self.cutoff)

    @property
    def knots(self) -> Float[np.ndarray, " knots"]:
        """Their distances, nm."""
        return np.linspace(self.first, self.cutoff, self.values.shape[-1])

    def pair_energy(self, r2, i, j):
        num = self.values.shape[-1]
        spacing = (self.cutoff - self.first) / (num - 1)
        # symmetrized, so that an update moves both halves alike
        values = self.values if self.species is None else 0.5 * (self.values + jnp.swapaxes(self.values, 0, 1))
        slopes = self.interpolation.slopes(values, spacing)  # of all tables, once for all pairs
        # an atom without a species is at NaN
        pair = () if self.species is None else (self.species[i], self.species[j])
        at = lambda table: (
            lambda k: table.at[(*pair, k)].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        )
        r = jnp.sqrt(r2)
        curve = piecewise(at(values), at(slopes), r, self.first, spacing, num)
        # below the first knot, where x < 1, with the slope of the spline there
        x, slope = jnp.where(r < self.first, r / self.first, 1), self.first * at(slopes)(0)
        return curve + slope * (x - 1 if self.core is None else (1 - x**-self.core) / self.core)
