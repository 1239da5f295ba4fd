import math
from typing import Any

import diffrax
import equinox as eqx
from equinox import AbstractVar

from ._flows import Drift, Kick
from ._staged import AbstractStagedSolver, Stage

_Kick = float | tuple[float, ...]
_ROUNDING = 1e-12  # of published coefficients, some of which have fourteen digits


class AbstractSplittingSolver(AbstractStagedSolver):
    """Drifts and kicks in turn: a concrete method is its table of coefficients.

    For y = (x, v) with the terms (drift, kick), dx/dt = drift(t, v) and dv/dt = kick(t, x), a step of length h is

        v += kicks[0] h kick(x);  then for every k:  x += drifts[k] h drift(v);  v += kicks[k+1] h kick(x)

    A force in several parts has a term for each, (drift, MultiTerm(kick_1, kick_2, ...)), and every entry of `kicks` is
    then a tuple of their coefficients.

    A coefficient of zero costs nothing. The vector fields of the kicks at the end of a step are kept as solver state
    for the next, so that no kick is evaluated twice at the same positions. Reversible and, where every part of the
    force has a potential, symplectic.

    **Errors:** `ValueError` for a table whose lengths do not fit, that is not consistent (the drifts and the kicks of
    every term sum to one), or that is not palindromic.
    """

    kicks: AbstractVar[tuple[_Kick, ...]]
    """One more than there are drifts. Each is a number, or a tuple with a number for every kick term."""
    drifts: AbstractVar[tuple[float, ...]]

    def __check_init__(self):
        name, rows = f"`{type(self).__name__}`", _rows(self.kicks)
        if len(self.drifts) == 0 or len(rows) != len(self.drifts) + 1:
            raise ValueError(
                f"{name} has {len(rows)} kicks and {len(self.drifts)} drifts; wanted at least one drift, and one kick"
                " more than drifts: before, between and after them. Where there is no kick, write 0.0."
            )
        lengths = sorted({len(row) for row in rows})
        if len(lengths) != 1 or lengths[0] == 0:
            raise ValueError(
                f"{name} has kicks of {' and '.join(map(str, lengths))} coefficients; wanted one for every kick term,"
                " the same number of them at every position. Where a term has no kick, write 0.0."
            )
        columns = zip(*rows, strict=True)
        for what, column in [("drifts", self.drifts), *((f"kicks of term {m}", c) for m, c in enumerate(columns, 1))]:
            total = math.fsum(column)
            if not abs(total - 1) <= _ROUNDING:
                raise ValueError(
                    f"The {what} of {name} sum to {total!r}; wanted 1, or a step would not be as long as it says."
                    " Compute one coefficient from the others, so that the sum is right to the last digit."
                )
            for k, (a, b) in enumerate(zip(column, reversed(column), strict=True)):
                if not abs(a - b) <= _ROUNDING:
                    even = tuple(0.5 * (p + q) for p, q in zip(column, reversed(column), strict=True))
                    raise ValueError(
                        f"The {what} of {name} are {tuple(column)}, not palindromic: number {k} is {a!r}, and number"
                        f" {k} from the end {b!r}; wanted the same forward and backward, for time reversal. {even}"
                        " would fit."
                    )

    @property
    def kick_rows(self) -> tuple[tuple[float, ...], ...]:
        """`kicks` with a tuple at every position: one coefficient for every kick term."""
        rows = _rows(self.kicks)
        # the second half is the first to the last bit, since the end of a step meets the start of the next
        return tuple(rows[min(k, len(rows) - 1 - k)] for k in range(len(rows)))

    @property
    def term_structure(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        kicks = (diffrax.AbstractTerm,) * len(self.kick_rows[0])
        several = diffrax.MultiTerm[tuple[kicks]]  # pyright: ignore[reportInvalidTypeArguments]
        return (diffrax.AbstractTerm, diffrax.AbstractTerm if len(kicks) == 1 else several)

    def split(self, terms: tuple[diffrax.AbstractTerm, diffrax.AbstractTerm]) -> tuple[diffrax.AbstractTerm, ...]:
        """Drift and kick terms, one after the other: (drift, kick_1, kick_2, ...)."""
        drift, kick = terms
        if len(self.kick_rows[0]) == 1:
            return drift, kick
        if isinstance(kick, diffrax.MultiTerm):
            return drift, *kick.terms
        # Diffrax wraps every term in another that knows the direction of time: here, wrap every part alike
        wrapper: Any = kick
        return drift, *(eqx.tree_at(lambda w: w.term, wrapper, part) for part in wrapper.term.terms)

    def stages(self):
        rows = self.kick_rows
        kicks = [[Stage(m, weight) for m, weight in enumerate(row, 1) if weight != 0] for row in rows]
        drifts = [[Stage(0, weight)] for weight in self.drifts]
        turns = [drift + kick for drift, kick in zip(drifts, kicks[1:], strict=True)]
        return sum(turns, kicks[0])

    def flows(self, terms):
        drift, *kicks = self.split(terms)
        return Drift(drift), *map(Kick, kicks)

    def kick_flows(self):
        return frozenset(range(1, len(self.kick_rows[0]) + 1))


def _rows(kicks):
    return tuple(row if isinstance(row, tuple) else (row,) for row in kicks)
