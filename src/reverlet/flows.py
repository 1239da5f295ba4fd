"""What solvers and samplers are made of: drifts, kicks, noise, each exact by itself."""

from ._sampler import Deformation as Deformation
from ._solver import (
    AbstractFlow as AbstractFlow,
    Drift as Drift,
    Kick as Kick,
    OrnsteinUhlenbeck as OrnsteinUhlenbeck,
    Stage as Stage,
)
