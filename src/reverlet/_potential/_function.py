import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._fields import checked, function, optional, positive_number
from .._neighbors import Edges
from ._base import AbstractPotential


def require_energy(name: str, energy: Any, dtype: Any) -> None:
    """Refuses what a function of somebody else returned, if it is no scalar of the dtype of the positions."""
    if jnp.shape(energy) != () or jnp.result_type(energy) != dtype:
        raise ValueError(
            f"`{name}` returned {jnp.result_type(energy)} of shape {jnp.shape(energy)}; wanted a scalar of the dtype of"
            f" the positions, {dtype}: kJ/mol."
        )


class FunctionPotential(AbstractPotential):
    """Any energy function of JAX, `function(parameters, positions, box)`, as a potential.

    A function of four arguments gets the `rv.Edges` up to the cutoff as well, of the list where there is one:

        def energy(parameters, positions, box, edges):
            r2 = jnp.sum(edges.d**2, axis=-1)
            return 0.5 * jnp.sum(jnp.where(edges.mask, parameters["k"] * (1 - r2 / 0.36) ** 3, 0))

        potential = rv.FunctionPotential(energy, {"k": jnp.array(2.0)}, cutoff=0.6)

    All that is to be trained belongs in the parameters: arrays that the function has from elsewhere are constants, and
    copies of them are in every compiled program. The same function object must be given where a compiled program is to
    be used again.

    **Arguments:** `function`, of positions (nm) and an `AbstractBox` to a scalar, kJ/mol; `parameters`, any tree,
    passed in the dtype it has; `cutoff`, nm, up to which the function looks at images; `None` if it takes none.

    **Errors:** `TypeError` for what cannot be called with three or four arguments; `ValueError` for four arguments
    without a cutoff, and for an energy that is no scalar or has another dtype than the positions.
    """

    function: Callable[..., Array] = checked(function("lambda parameters, positions, box: …"), static=True)
    parameters: PyTree = None
    cutoff: float | None = checked(optional(positive_number("nm")), static=True, default=None)

    def __check_init__(self):
        if self._arguments() == 4 and self.cutoff is None:
            raise ValueError("`function` takes edges, but there is no `cutoff`; wanted one, nm.")

    def energy(self, positions, box, *, neighbors=None):
        arguments = [self.parameters, positions, box]
        if self.cutoff is not None and self._arguments() == 4:
            arguments.append(Edges.within(self.cutoff, positions, box, neighbors))
        energy = self.function(*arguments)
        require_energy("function", energy, positions.dtype)
        return energy

    def _arguments(self):
        """How many the function takes, 3 or 4."""
        signature = inspect.signature(self.function)
        for number in (4, 3):
            try:
                signature.bind(*range(number))
            except TypeError:
                continue
            return number
        raise TypeError(
            f"`function` has the arguments {signature}; wanted `(parameters, positions, box)`, or a fourth for edges."
        )
