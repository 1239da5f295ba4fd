from ._base import AbstractReversibleSolver as AbstractReversibleSolver
from ._splitting import (
    AbstractSplittingSolver as AbstractSplittingSolver,
)
from ._splitting import (
    ConservativeTerm as ConservativeTerm,
)
from ._splitting import (
    power as power,
)
from ._symplectic import VelocityVerlet as VelocityVerlet
