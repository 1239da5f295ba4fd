from ._base import AbstractSampler as AbstractSampler, Chains as Chains, Pool as Pool, Samples as Samples
from ._csvr import CSVR as CSVR
from ._langevin import LangevinBAOAB as LangevinBAOAB
from ._markov import AbstractFlowSampler as AbstractFlowSampler, AbstractMarkovSampler as AbstractMarkovSampler
