"""Tables. `python -m benchmarks solvers` compares them; docs/solvers.md says which is for what."""

import itertools
from typing import ClassVar

from ._splitting import AbstractSplittingSolver


class VelocityVerlet(AbstractSplittingSolver):
    """Velocity Verlet: half a kick, a drift, half a kick. Second order, symplectic, time-reversible.

    v½ = v + (h/2) a(x);  x′ = x + h v½;  v′ = v½ + (h/2) a(x′). One evaluation of the force per step.

    Not leap-frog, whose velocities live half a step away from its positions: the positions are the same, the velocities
    are not.

    Use with two terms, `(diffrax.ODETerm(drift), diffrax.ODETerm(kick))`, and `y0 = (positions, velocities)`. Works
    under every Diffrax adjoint; under `ReversibleAdjoint` gradients are exact in memory that does not grow with the
    steps.

    **Reference:** L. Verlet, Phys. Rev. 159, 98 (1967); W. C. Swope et al., J. Chem. Phys. 76, 637 (1982).
    """

    kicks: ClassVar[tuple[float, ...]] = (0.5, 0.5)
    drifts: ClassVar[tuple[float, ...]] = (1.0,)

    def order(self, terms):
        del terms
        return 2


class PositionVerlet(AbstractSplittingSolver):
    """Position Verlet: half a drift, a kick, half a drift. Second order, symplectic, time-reversible.

    x½ = x + (h/2) v;  v′ = v + h a(x½);  x′ = x½ + (h/2) v′. One evaluation of the force per step, in its middle; no
    force is kept between steps. Terms as for `VelocityVerlet`.

    **Reference:** M. Tuckerman, B. J. Berne and G. J. Martyna, J. Chem. Phys. 97, 1990 (1992).
    """

    kicks: ClassVar[tuple[float, ...]] = (0.0, 1.0, 0.0)
    drifts: ClassVar[tuple[float, ...]] = (0.5, 0.5)

    def order(self, terms):
        del terms
        return 2


def _verlet_kicks(steps: tuple[float, ...]) -> tuple[float, ...]:
    """The kicks of velocity Verlet steps of these lengths in a row: where two steps meet, their half kicks are one."""
    return tuple(0.5 * (a + b) for a, b in itertools.pairwise((0.0, *steps, 0.0)))


_Y4 = 1 / (2 - 2 ** (1 / 3))


class Yoshida4(AbstractSplittingSolver):
    """Three velocity Verlet steps in a row, the middle one backward in time. Fourth order.

    Three evaluations of the force per step. Its middle step is long, 1.7 h, so that its error is large for its order:
    use `BlanesMoan4` or `McLachlan4`; this one is for comparison with the literature.

    **Reference:** H. Yoshida, Phys. Lett. A 150, 262 (1990); E. Forest and R. D. Ruth, Physica D 43, 105 (1990).
    """

    drifts: ClassVar[tuple[float, ...]] = (_Y4, 1 - 2 * _Y4, _Y4)
    kicks: ClassVar[tuple[float, ...]] = _verlet_kicks(drifts)

    def order(self, terms):
        del terms
        return 4


_Y6 = (0.78451361047755726381949763, 0.23557321335935813368479318, -1.17767998417887100694641568)


class Yoshida6(AbstractSplittingSolver):
    """Seven velocity Verlet steps in a row (solution A). Sixth order, seven evaluations of the force per step.

    For very smooth forces and errors near the rounding of float64. For a liquid with a switched cutoff, `BlanesMoan4`
    was the better one at every cost measured.

    **Reference:** H. Yoshida, Phys. Lett. A 150, 262 (1990).
    """

    drifts: ClassVar[tuple[float, ...]] = (*_Y6, 1 - 2 * sum(_Y6), *reversed(_Y6))
    kicks: ClassVar[tuple[float, ...]] = _verlet_kicks(drifts)

    def order(self, terms):
        del terms
        return 6


_MD1, _MD2 = (14 - 19**0.5) / 108, (20 - 7 * 19**0.5) / 108


class McLachlan4(AbstractSplittingSolver):
    """Five kicks and six drifts chosen for a small error. Fourth order, five evaluations of the force per step.

    Where `BlanesMoan4` makes steps too long for what is recorded; half as accurate at the same cost.

    **Reference:** R. I. McLachlan, SIAM J. Sci. Comput. 16, 151 (1995).
    """

    drifts: ClassVar[tuple[float, ...]] = (_MD1, _MD2, 0.5 - _MD1 - _MD2, 0.5 - _MD1 - _MD2, _MD2, _MD1)
    kicks: ClassVar[tuple[float, ...]] = (0.0, 0.4, -0.1, 0.4, -0.1, 0.4, 0.0)

    def order(self, terms):
        del terms
        return 4


_BA1, _BA2, _BA3 = 0.0792036964311957, 0.353172906049774, -0.0420650803577195
_BB1, _BB2 = 0.209515106613362, -0.143851773179818


class BlanesMoan4(AbstractSplittingSolver):
    """Seven kicks and six drifts with a very small error (their S6). Fourth order, six evaluations per step.

    Where energy must be kept better than velocity Verlet keeps it: of those compared, the most accurate at equal cost.

    **Reference:** S. Blanes and P. C. Moan, J. Comput. Appl. Math. 142, 313 (2002).
    """

    kicks: ClassVar[tuple[float, ...]] = (_BA1, _BA2, _BA3, 1 - 2 * (_BA1 + _BA2 + _BA3), _BA3, _BA2, _BA1)
    drifts: ClassVar[tuple[float, ...]] = (_BB1, _BB2, 0.5 - _BB1 - _BB2, 0.5 - _BB1 - _BB2, _BB2, _BB1)

    def order(self, terms):
        del terms
        return 4
