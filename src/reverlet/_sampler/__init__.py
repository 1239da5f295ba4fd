from ._barostat import (
    AbstractBarostat as AbstractBarostat,
    MonteCarloBarostat as MonteCarloBarostat,
    StochasticCellRescaling as StochasticCellRescaling,
)
from ._base import (
    AbstractSampler as AbstractSampler,
    CellMoves as CellMoves,
    Chains as Chains,
    Pool as Pool,
    Samples as Samples,
)
from ._cell import Deformation as Deformation
from ._csvr import CSVR as CSVR
from ._langevin import LangevinBAOAB as LangevinBAOAB
from ._markov import AbstractFlowSampler as AbstractFlowSampler, AbstractMarkovSampler as AbstractMarkovSampler
