"""Fits to thermodynamic data by reweighting: pools of samples, verdicts on them, losses, steps, tables."""

from ._gauss_newton import GaussNewton as GaussNewton
from ._pool_verdict import (
    PoolVerdict as PoolVerdict,
    SeriesVerdict as SeriesVerdict,
    pool_verdict as pool_verdict,
    statistical_inefficiency as statistical_inefficiency,
)
from ._pools import Fitness as Fitness, SamplePool as SamplePool, SampleSet as SampleSet
from ._residuals import (
    AbstractLoss as AbstractLoss,
    CauchyLoss as CauchyLoss,
    HuberLoss as HuberLoss,
    LogPrior as LogPrior,
    Prior as Prior,
    SoftL1Loss as SoftL1Loss,
    SquaredLoss as SquaredLoss,
)
from ._sensitivity import SensitivityTable as SensitivityTable, sensitivities as sensitivities
from ._target_fit import fit_targets as fit_targets
from ._target_report import Prediction as Prediction, TargetFit as TargetFit, TargetUpdate as TargetUpdate
