import numpy as np

from .._fields import AbstractChecked, Rule, checked, count
from ._roles import AbstractPartwiseSolver
from ._splitting import AbstractSplittingSolver


def _require_parts(name, fast):
    whole = lambda k: isinstance(k, int | np.integer) and not isinstance(k, bool)
    fine = isinstance(fast, tuple) and all(whole(k) and k >= 0 for k in fast)
    if not fine or len(fast) == 0 or len(set(fast)) != len(fast):
        raise ValueError(
            f"`{name}` is {fast!r}; wanted a tuple of different indices from 0, at least one, of the parts of the"
            " potential that are fast, such as (0,)."
        )


class Respa(AbstractSplittingSolver, AbstractPartwiseSolver, AbstractChecked):
    """Multiple time steps: a slow force kicks at both ends of a step, a fast one `num_steps` times within it.

    With n = `num_steps`, a step of length h is half a kick of the slow force, n velocity Verlet steps of length h/n
    under the fast force, and half a kick of the slow force. Second order, symplectic, time-reversible. One evaluation
    of the slow force and n of the fast one per step.

    It pays where the fast part is cheap and stiff, as bonds are, and the slow part is expensive. The step is limited by
    resonance: the slow kicks must come more often than twice per period of the fastest motion, so that no n makes a
    step of half that period or more safe.

    In `nve` the potential is a `Sum`, of which `fast` says which parts are fast; all others are slow, so that the parts
    always add up. To split a pair potential by distance, take it once near and once in full,
    `near + (full - near)`. Under plain Diffrax the terms are (drift, MultiTerm(slow, fast)), and
    the field `fast` is not used.

    **Arguments:** `num_steps`, of the fast force per step. `fast`, indices of parts of the `Sum`.

    **Errors:** `ValueError` for `num_steps` below one and for `fast` that is empty, negative or repeated; in `nve`, for
    a potential that is not a `Sum`, an index out of range, and nothing left to be slow.

    **Reference:** M. Tuckerman, B. J. Berne and G. J. Martyna, J. Chem. Phys. 97, 1990 (1992).
    """

    num_steps: int = checked(count(), static=True)
    fast: tuple[int, ...] = checked(Rule(lambda fast: fast, _require_parts), static=True, default=(0,))

    @property
    def kicks(self) -> tuple[tuple[float, float], ...]:
        n = self.num_steps
        end, within = (0.5, 0.5 / n), (0.0, 1 / n)
        return (end, *[within] * (n - 1), end)

    @property
    def drifts(self) -> tuple[float, ...]:
        return (1 / int(self.num_steps),) * int(self.num_steps)

    def order(self, terms):
        del terms
        return 2

    def kick_parts(self, kind, num_parts):
        if num_parts is None:
            raise ValueError(
                f"`rv.Respa` got the potential `{kind}`; wanted a `rv.Sum`, of which some parts are"
                " fast and the others slow. Write `bonds + pairs`; or, to split a pair potential by distance,"
                " `near + (full - near)` with `near` ending at a shorter cutoff."
            )
        if max(self.fast) >= num_parts:
            raise ValueError(
                f"`fast` is {self.fast}, but the potential is a `rv.Sum` of {num_parts} parts; wanted indices from 0 to"
                f" {num_parts - 1}."
            )
        if len(self.fast) == num_parts:
            raise ValueError(
                f"`fast` is {self.fast}, all {num_parts} parts of the potential, so that nothing is slow; wanted fewer,"
                " or `rv.VelocityVerlet()` with a shorter time step."
            )
        return tuple(k for k in range(num_parts) if k not in self.fast), self.fast
