"""Weighted means with errors, and correlation functions of series."""

from ._statistics import (
    Blocks as Blocks,
    blocks_of as blocks_of,
    effective_sample_size as effective_sample_size,
    entropy_sample_size as entropy_sample_size,
    infinitesimal_jackknife as infinitesimal_jackknife,
    weighted_mean as weighted_mean,
    weighted_mean_error as weighted_mean_error,
)
from ._timeseries import (
    correlation_all_origins as correlation_all_origins,
    correlation_first_origins as correlation_first_origins,
    correlation_fixed_origin as correlation_fixed_origin,
    running_integral as running_integral,
)
