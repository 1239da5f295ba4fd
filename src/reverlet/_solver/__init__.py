from ._base import AbstractReversibleSolver as AbstractReversibleSolver
from ._bit_reversible import (
    BitReversibleState as BitReversibleState,
)
from ._bit_reversible import (
    BitReversibleVerlet as BitReversibleVerlet,
)
from ._bit_reversible import (
    describe_failure as describe_failure,
)
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
