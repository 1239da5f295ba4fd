import abc
from typing import Any

import diffrax
from jaxtyping import Array, PyTree


class AbstractReversibleSolver(diffrax.AbstractSolver):
    """A solver whose every step can be undone exactly, up to rounding.

    The names and the signature follow Diffrax pull request 727, so that a solver written here works there and the other
    way round. `ReversibleAdjoint` needs nothing else.
    """

    @abc.abstractmethod
    def backward_step(
        self,
        terms: PyTree[diffrax.AbstractTerm],
        t0: Array,
        t1: Array,
        y1: PyTree[Array],
        args: PyTree,
        solver_state: PyTree[Array],
        made_jump: Any,
    ) -> tuple[PyTree[Array], dict[str, PyTree[Array]], PyTree[Array]]:
        """Undoes `step` from `t0` to `t1`.

        **Arguments:** as for `diffrax.AbstractSolver.step`, except that `y1` and `solver_state` are those at `t1`.

        **Returns:** `y0`, the same interpolation data as `step`, and the solver state at `t0`.
        """
