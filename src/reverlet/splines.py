"""Curves through values at knots, which are trained."""

from ._splines import (
    AbstractInterpolation as AbstractInterpolation,
    CubicSpline as CubicSpline,
    NaturalSpline as NaturalSpline,
    SteffenSpline as SteffenSpline,
)
