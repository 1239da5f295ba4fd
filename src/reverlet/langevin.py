"""Gradients of means over Langevin trajectories that do not explode: likelihood ratio, path kernel, pathwise."""

from ._langevin_paths import (
    AbstractCredit as AbstractCredit,
    AbstractFeedback as AbstractFeedback,
    AllNoise as AllNoise,
    LangevinPaths as LangevinPaths,
    LikelihoodRatio as LikelihoodRatio,
    NoiseWithin as NoiseWithin,
    OwnNoise as OwnNoise,
    PathKernel as PathKernel,
    Pathwise as Pathwise,
)
from ._path_gradients import (
    Atomwise as Atomwise,
    PathGradient as PathGradient,
    PathTangents as PathTangents,
    VelocityProducts as VelocityProducts,
    path_gradient as path_gradient,
    path_tangents as path_tangents,
)
