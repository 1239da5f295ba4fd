from ._nve import Dynamics as Dynamics, nve as nve
from ._trajectory import Record as Record, Trajectory as Trajectory
