from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._fields import checked, function, positive_number
from ._function import require_energy
from ._pair import AbstractPairPotential
from ._truncation import AbstractTruncation, truncation_rule


class FunctionPair(AbstractPairPotential):
    """A pair potential of any function of the distance, u(r) = `function(parameters, r)`.

        soft = rv.pairs.FunctionPair(lambda sigma, r: (sigma / r) ** 9, jnp.array(0.33), cutoff=0.8)

    All pairs are alike; for parameters per species derive from `AbstractSpeciesPairPotential`. What is to be trained
    belongs in the parameters, and the same function object must be given where a compiled program is to be used again,
    as for `FunctionPotential`.

    **Arguments:** `function`, of the parameters and one distance (nm) to a scalar, kJ/mol, finite for every distance
    above zero; `parameters`, any tree, passed in the dtype of the positions; `cutoff`, nm; `truncation`, a plain cutoff
    by default.

    **Errors:** `TypeError` for what cannot be called; `ValueError` for a cutoff that is not positive, and for an energy
    that is no scalar or of another dtype than the distance.
    """

    function: Callable[..., Array] = checked(function("lambda parameters, r: …"), static=True)
    parameters: PyTree = None
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    truncation: AbstractTruncation = checked(truncation_rule(), default=None, kw_only=True)

    def pair_energy(self, r2, i, j):
        energy = self.function(self.parameters, jnp.sqrt(r2))
        require_energy("function", energy, r2.dtype)
        return energy
