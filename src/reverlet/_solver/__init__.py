from ._base import AbstractReversibleSolver as AbstractReversibleSolver
from ._bit_reversible import (
    BitReversibleState as BitReversibleState,
    BitReversibleVerlet as BitReversibleVerlet,
)
from ._flows import (
    AbstractFlow as AbstractFlow,
    Drift as Drift,
    Kick as Kick,
    OrnsteinUhlenbeck as OrnsteinUhlenbeck,
    power as power,
)
from ._nose_hoover import NoseHooverChain as NoseHooverChain, ThermostatChain as ThermostatChain
from ._respa import Respa as Respa
from ._roles import (
    AbstractFallibleSolver as AbstractFallibleSolver,
    AbstractPartwiseSolver as AbstractPartwiseSolver,
    AbstractThermostattedSolver as AbstractThermostattedSolver,
)
from ._splitting import AbstractSplittingSolver as AbstractSplittingSolver
from ._staged import (
    AbstractStagedSolver as AbstractStagedSolver,
    Layout as Layout,
    Stage as Stage,
    TimedStage as TimedStage,
)
from ._symplectic import (
    BlanesMoan4 as BlanesMoan4,
    McLachlan4 as McLachlan4,
    PositionVerlet as PositionVerlet,
    VelocityVerlet as VelocityVerlet,
    Yoshida4 as Yoshida4,
    Yoshida6 as Yoshida6,
)
from ._terms import (
    AbstractPreparation as AbstractPreparation,
    ConservativeTerm as ConservativeTerm,
    CountedTerm as CountedTerm,
)
