"""Fields that are checked by their declaration, for potentials, observables and other modules of one's own."""

from ._fields import (
    AbstractChecked as AbstractChecked,
    Indices as Indices,
    Kinds as Kinds,
    OptionalParameter as OptionalParameter,
    Parameter as Parameter,
    Rule as Rule,
    checked as checked,
    count as count,
    finite as finite,
    finite_number as finite_number,
    function as function,
    indices as indices,
    instance as instance,
    optional as optional,
    positive as positive,
    positive_number as positive_number,
    positive_or_zero as positive_or_zero,
    positive_scalar as positive_scalar,
    positive_whole as positive_whole,
)
from ._potential import truncation_rule as truncation_rule
