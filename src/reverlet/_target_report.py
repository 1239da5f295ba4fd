"""What there is to tell of a fit to many targets."""

from typing import Generic, TypeVar

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from ._fit import FitState
from ._pool_verdict import PoolVerdict
from ._sampler import Samples
from ._sensitivity import SensitivityTable, table

M = TypeVar("M", bound=PyTree)

MOST_DERIVATIVES = 2000
"""How many derivatives of entries of targets by parameters a fit makes at its end, for errors and sensitivities: each
takes a pass over the samples."""
_MOST_ROWS = 100
"""Of a table that is printed."""


class TargetUpdate(eqx.Module):
    """The report of every update; leaves lead with `updates`."""

    loss: np.ndarray
    """Of the parameters before it."""
    values: tuple[np.ndarray, ...]
    """What the observables of all targets were."""
    effective_samples: np.ndarray
    """Kish's, of every state point."""
    effective_samples_by_entropy: np.ndarray
    samples: np.ndarray
    """How many there were in the pool of every state point."""
    drawn: np.ndarray
    """How many of them were drawn in this update."""
    step_over_noise: np.ndarray
    """The size of the step over that of its own error; see `fit_targets`."""
    ended: np.ndarray
    """Whether it was the last, since its step was less than its noise."""


class Prediction(eqx.Module):
    """What a fitted model makes of a target."""

    name: str
    unit: str
    scale: float
    """How much the unit is in internal ones, in which all numbers are; printed ones are in the unit."""
    target: np.ndarray
    uncertainty: np.ndarray
    value: np.ndarray
    error: np.ndarray
    """Of the estimate, by the samples."""
    predicted_error: np.ndarray
    """By the covariance of the parameters; NaN where that is not known."""


class TargetFit(eqx.Module, Generic[M]):
    """What `fit_targets` returns; printed, tables of targets and parameters."""

    model: M
    state: FitState[M]
    """`state.history` is `TargetUpdate`."""
    predictions: tuple[Prediction, ...]
    """Of all targets."""
    parameters: tuple[str, ...]
    """Names of all parameters that were fitted."""
    values: np.ndarray
    """Values of the parameters, in internal units."""
    covariance: np.ndarray | None
    """Covariance of the parameters, (parameters, parameters), in their units: by uncertainties of the targets, priors,
    and errors of the estimates. `None` for more entries of targets times parameters than 2000, whose errors would cost
    more than the fit."""
    sensitivities: SensitivityTable | None
    verdicts: tuple[PoolVerdict, ...]
    """Of all state points, of the samples drawn last."""
    samples: tuple[Samples, ...]
    """Those behind it, of every state point."""

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of the parameters, in their units; NaN where there is no covariance."""
        if self.covariance is None:
            return np.full(len(self.values), np.nan)
        return np.sqrt(np.maximum(np.diag(self.covariance), 0))

    def __str__(self):
        one = lambda x: f"{float(x):.5g}"
        rows = []
        for p in self.predictions:
            if p.target.size == 1:
                away = (p.value - p.target) / p.uncertainty
                cells = (*(one(x / p.scale) for x in (p.target, p.uncertainty, p.value)),
                         *(f"{float(x / p.scale):.2g}" for x in (p.error, p.predicted_error)),
                         f"{float(away):+.2f}", p.unit)  # fmt: skip
            else:
                away = np.sqrt(np.mean(((p.value - p.target) / p.uncertainty) ** 2))
                cells = (f"{p.target.size} entries", "", "", "", "", f"{away:.2f} (rms)", p.unit)
            rows.append((p.name, *cells))
        head = ("target", "wanted", "±", "found", "± samples", "± parameters", "in uncertainties", "unit")
        own = [(n, one(v), one(e)) for n, v, e in zip(self.parameters, self.values, self.errors, strict=True)]
        parts = [table(head, rows)]
        if len(own) <= _MOST_ROWS:
            parts.append(table(("parameter", "value", "±"), own))
        return "\n\n".join(parts)
