"""Fields whose declaration says what they may be: of a Python annotation, and of a rule for numbers."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Int, Shaped

from ._misc import (
    as_array,
    as_count,
    as_float_array,
    as_number,
    is_concrete,
    require_callable,
    require_constant,
    require_count,
    require_finite,
    require_instance,
    require_number,
    require_positive,
    require_shape,
    require_whole,
)
from ._printing import fields_of

if TYPE_CHECKING:

    class Parameter:
        """A field that becomes an array: what it is set to, and what it then is."""

        def __get__(self, instance: object, owner: Any) -> Array: ...

        def __set__(self, instance: object, value: ArrayLike) -> None: ...

    Indices = Parameter

    class Kinds:
        """The same of a field that may be left out."""

        def __get__(self, instance: object, owner: Any) -> Array | None: ...

        def __set__(self, instance: object, value: ArrayLike | None) -> None: ...

    OptionalParameter = Kinds

else:
    Parameter = Shaped[Array, "..."]
    OptionalParameter = Shaped[Array, "..."] | None
    Indices = Int[Array, "..."]
    Kinds = Int[Array, "..."] | None


@dataclasses.dataclass(frozen=True)
class Rule:
    """The converter of a field that also checks it, and refuses it by its name."""

    convert: Callable[[Any], Any]
    """To what is kept. What it cannot convert, it leaves as it is."""
    require: Callable[[str, Any], None]
    """Refuses what has been converted, given the name of the field."""
    is_parameter: bool = False
    """Whether it is a number for all, or one per species or kind."""
    name: str = "a field"
    unit: str = ""
    """For printing."""

    def __call__(self, x: Any) -> Any:
        x = self.convert(x)
        self.require(self.name, x)
        return x


class AbstractChecked(eqx.Module):
    """What says in the declaration of every field what it may be, and refuses everything else by name.

    A field is annotated with a class, or given a `Rule`, alone or with options:

        sigma: Parameter = positive("nm")
        cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
        truncation: AbstractTruncation = PlainCutoff()

    Rules are converters of Equinox, and so come before any `__check_init__`, which can rely on them. `print` shows it
    in short: the numbers with their units, of large arrays their sizes.
    """

    def __str__(self) -> str:
        return fields_of(self)

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        for name, annotation in inspect.get_annotations(cls).items():
            declared = cls.__dict__.get(name, dataclasses.MISSING)
            if isinstance(declared, Rule):
                declared = checked(declared)
            elif _is_checkable(annotation) and not isinstance(declared, dataclasses.Field):
                declared = eqx.field(default=declared)
            if isinstance(declared, dataclasses.Field):
                rule = declared.metadata.get("converter", instance(annotation) if _is_checkable(annotation) else None)
                if isinstance(rule, Rule):
                    named = dataclasses.replace(rule, name=name)
                    declared.metadata = types.MappingProxyType({**declared.metadata, "converter": named})
                setattr(cls, name, declared)


def checked(rule: Any, *, static: bool = False, kw_only: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field with a rule and the options of `equinox.field`."""
    return eqx.field(converter=rule, static=static, kw_only=kw_only, default=default)


def _is_checkable(annotation: Any) -> bool:
    """Whether `isinstance` alone says if a value is as annotated. Numbers have rules instead."""
    parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    plain = lambda part: isinstance(part, type) and not typing.get_args(part)
    own = lambda part: issubclass(part, eqx.Module | Mesh | str | bool | types.NoneType)
    return all(plain(part) and own(part) for part in parts) and parts != (types.NoneType,)


def parameters_of(module: eqx.Module) -> list[tuple[str, Array]]:
    """Names and values of the fields that are declared as parameters."""
    rules = {f.name: f.metadata.get("converter") for f in dataclasses.fields(module)}
    return [(name, getattr(module, name)) for name, r in rules.items() if isinstance(r, Rule) and r.is_parameter]


def printable(unit: str) -> str:
    """A unit as it stands behind a number: none of "the unit of the observable", "units of 1" and the like."""
    words = ("the", "no", "of", "units", "internal", "powers", "uncertainties")
    return "" if unit.split(" ")[0] in words else unit


def positive(unit: str) -> Any:
    """A parameter: an array of finite numbers more than zero."""
    require = lambda name, x: require_positive(name, x, unit)
    return Rule(as_float_array, require, is_parameter=True, unit=printable(unit))


def positive_or_zero(unit: str) -> Any:
    """A parameter: an array of finite numbers, zero or more."""
    require = lambda name, x: require_positive(name, x, unit, zero=True)
    return Rule(as_float_array, require, is_parameter=True, unit=printable(unit))


def finite(unit: str) -> Any:
    """A parameter: an array of finite numbers of either sign."""
    return Rule(as_float_array, require_finite, is_parameter=True, unit=printable(unit))


def positive_whole(unit: str) -> Any:
    """A parameter that nothing trains: an array of whole numbers, at least one."""

    def require(name, x):
        require_whole(name, x)
        require_positive(name, x, unit)

    return Rule(as_array, require, is_parameter=True)


def indices(hint: str = "One for every atom.", lowest: int = 0) -> Any:
    """A list of whole numbers from `lowest`."""

    def require(name, x):
        require_shape(name, x, (None,), hint)
        require_whole(name, x)
        if is_concrete(x) and np.min(np.asarray(x), initial=lowest) < lowest:
            raise ValueError(f"`{name}` has {np.min(np.asarray(x))}; wanted indices from {lowest}.")

    return Rule(as_array, require)


def positive_number(unit: str) -> Any:
    """A constant: a single finite number more than zero, as one of Python's own."""
    require = lambda name, x: _require(name, x, require_constant, require_positive, unit)
    return Rule(as_number, require, unit=printable(unit))


def finite_number(unit: str) -> Any:
    """A constant: a single finite number of either sign, as one of Python's own."""
    require = lambda name, x: _require(name, x, require_constant, require_finite)
    return Rule(as_number, require, unit=printable(unit))


def positive_scalar(unit: str) -> Any:
    """A single finite number more than zero, which may be an array, and traced."""
    require = lambda name, x: _require(name, x, require_number, require_positive, unit)
    return Rule(lambda x: x, require, unit=printable(unit))


def _require(name, x, kind, check, *unit):
    kind(name, x)
    check(name, x, *unit)


def count(least: int = 1) -> Any:
    """A whole number, as one of Python's own."""
    return Rule(as_count, lambda name, x: require_count(name, x, least=least))


def counts(least: int, length: int = 3) -> Any:
    """Whole numbers, one for each of the first lattice vectors, as Python's own, which a static field wants."""

    def convert(x):
        try:
            return tuple(as_count(k) for k in np.asarray(tuple(x)))
        except (TypeError, ValueError):
            return x

    def require(name, x):
        fine = isinstance(x, tuple) and len(x) == length and all(isinstance(k, int) and k >= least for k in x)
        if not fine:
            raise ValueError(f"`{name}` is {x!r}; wanted {length} whole numbers, at least {least}.")

    return Rule(convert, require)


def function(example: str) -> Any:
    """Something that can be called."""
    return Rule(lambda x: x, lambda name, x: require_callable(name, x, example))


def instance(classes: Any) -> Any:
    """An instance of a class, or of a union of classes."""
    return Rule(lambda x: x, lambda name, x: require_instance(name, x, classes))


def optional(rule: Any) -> Any:
    """What obeys the rule, or `None`."""
    convert = lambda x: None if x is None else rule.convert(x)
    require = lambda name, x: None if x is None else rule.require(name, x)
    return Rule(convert, require, rule.is_parameter, unit=rule.unit)
