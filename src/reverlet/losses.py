"""How far means are from targets, as one number: for fits through trajectories and by reweighting."""

from ._observable import (
    AbstractLoss as AbstractLoss,
    JensenShannon as JensenShannon,
    MeanSquaredError as MeanSquaredError,
)
