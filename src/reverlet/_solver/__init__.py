from ._base import AbstractReversibleSolver as AbstractReversibleSolver
from ._bit_reversible import (
    BitReversibleState as BitReversibleState,
    BitReversibleVerlet as BitReversibleVerlet,
    describe_failure as describe_failure,
)
from ._respa import Respa as Respa
from ._splitting import (
    AbstractPreparation as AbstractPreparation,
    AbstractSplittingSolver as AbstractSplittingSolver,
    ConservativeTerm as ConservativeTerm,
    power as power,
)
from ._symplectic import (
    BlanesMoan4 as BlanesMoan4,
    McLachlan4 as McLachlan4,
    PositionVerlet as PositionVerlet,
    VelocityVerlet as VelocityVerlet,
    Yoshida4 as Yoshida4,
    Yoshida6 as Yoshida6,
)
