from ._base import AbstractSampler as AbstractSampler, Samples as Samples
from ._langevin import LangevinBAOAB as LangevinBAOAB
