"""What belongs to training from labels: weights and errors, predictions, results."""

from ._low_rank import LowRank as LowRank
from ._matching import (
    Comparison as Comparison,
    Epochs as Epochs,
    LabelErrors as LabelErrors,
    LabelWeights as LabelWeights,
    Matched as Matched,
    label_errors as label_errors,
    label_loss as label_loss,
    predict_labels as predict_labels,
)
