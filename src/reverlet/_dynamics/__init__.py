from ._nve import Dynamics as Dynamics, nve as nve
from ._reporting import Reporter as Reporter
from ._trajectory import Record as Record, Trajectory as Trajectory, recorded as recorded
