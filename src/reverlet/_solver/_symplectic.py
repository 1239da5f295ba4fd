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
