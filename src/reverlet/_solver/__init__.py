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
from ._respa import Respa as Respa
from ._splitting import (
    AbstractPreparation as AbstractPreparation,
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
from ._symplectic import BlanesMoan4 as BlanesMoan4
from ._symplectic import McLachlan4 as McLachlan4
from ._symplectic import PositionVerlet as PositionVerlet
from ._symplectic import VelocityVerlet as VelocityVerlet
from ._symplectic import Yoshida4 as Yoshida4
from ._symplectic import Yoshida6 as Yoshida6
