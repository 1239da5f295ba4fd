from ._base import AbstractSampler as AbstractSampler
from ._base import Samples as Samples
from ._langevin import LangevinBAOAB as LangevinBAOAB
