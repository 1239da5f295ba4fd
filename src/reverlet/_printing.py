"""What `print` shows: values, units, errors and sizes, in short."""

import dataclasses
import math
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import units
from ._misc import is_concrete

_WIDTH = 100
_FEW = 8
"""So many numbers are shown one by one."""
CHEMISTS = {
    "u/nm³": ("g/cm³", units.GRAM_PER_CUBIC_CENTIMETER),
    "kJ/mol/nm³": ("bar", units.BAR),
    "nm²/ps": ("1e-9 m²/s", 1e-9 * units.SQUARE_METER_PER_SECOND),
    "kJ/mol ps/nm³": ("mPa s", 1e-3 * units.PASCAL_SECOND),
    "kJ/mol/nm/ps/K": ("W/m/K", units.WATT_PER_METER_KELVIN),
    "nm³ mol/kJ": ("1/bar", 1 / units.BAR),
    "kJ/mol/K": ("J/mol/K", units.JOULE_PER_MOLE),
    "e² mol/kJ/ps/nm": ("S/m", units.SIEMENS_PER_METER),
}
"""Of units inside, those that chemists use beside them, and what these are inside."""


def described(x: Any, unit: str = "") -> str:
    """Anything in short. A module is its name and its fields, on one line where there is room."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return fields_of(x) if type(x).__str__ is object.__str__ else str(x)
    if isinstance(x, list | tuple):
        return _joined("", [described(each, unit) for each in x])
    if isinstance(x, dict):
        return _joined("", [f"{key!r}: {described(value, unit)}" for key, value in x.items()], "{}")
    if isinstance(x, float | Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return _numbers(x, unit)
    if callable(x):
        return getattr(x, "__qualname__", type(x).__name__).removeprefix("<locals>.")
    return textwrap.shorten(repr(x), 60, placeholder="…")


def fields_of(module: Any) -> str:
    """Its name and fields, but for those that are `None`; units are those that fields declare."""
    parts = []
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        if value is not None:
            unit = getattr(field.metadata.get("converter"), "unit", "") or field.metadata.get("unit", "")
            parts.append(f"{field.name.lstrip('_')}={described(value, unit)}")
    return _joined(type(module).__name__, parts)


def _joined(name, parts, brackets="()"):
    line = f"{name}{brackets[0]}{', '.join(parts)}{brackets[1]}"
    if len(line) <= _WIDTH and "\n" not in line:
        return line
    return "\n".join([name + brackets[0], *(textwrap.indent(part, "  ") + "," for part in parts), brackets[1]])


def _numbers(x, unit):
    behind = f" {unit}" if unit else ""
    if isinstance(x, float):
        return f"{x:.6g}{behind}"
    if not is_concrete(x) or isinstance(x, jax.ShapeDtypeStruct):
        return f"{x.dtype}{list(x.shape)}"
    if jnp.issubdtype(x.dtype, jax.dtypes.extended) or x.dtype == object:
        return f"{x.dtype}{list(x.shape)}"
    values = np.asarray(x)
    if values.ndim == 0:
        return f"{_number(values[()])}{behind}"
    if values.size <= _FEW:
        return f"{_listed(values)}{behind}"
    size = f"{' × '.join(map(str, values.shape))} numbers"
    if values.dtype == bool:
        return f"{values.sum()} of {size}"
    if np.iscomplexobj(values):
        return size
    return f"{size} from {_number(values.min())} to {_number(values.max())}{behind}"


def _number(x):
    return f"{x:.6g}" if isinstance(x, np.inexact) else str(x)


def _listed(values):
    if values.ndim == 0:
        return _number(values[()])
    return f"[{', '.join(_listed(v) for v in values)}]"


def uncertain(value: PyTree[Array], error: PyTree[Array], unit: str = "", spec: str = "") -> str:
    """Values ± their errors, by default with two digits of the error, else as `spec` formats both.

    Of a scalar in a unit that chemists have another one for, both; of many numbers, how many, and from where to where.
    """
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1:
        named = jax.tree_util.tree_leaves_with_path(value)
        each = [uncertain(v, e, unit, spec) for (_, v), e in zip(named, jax.tree.leaves(error), strict=True)]
        names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in named]
        return "; ".join(f"{name}: {text}" for name, text in zip(names, each, strict=True))
    (v,), (e,) = leaves, jax.tree.leaves(error)
    if not is_concrete((v, e)):
        return f"{v.dtype}{list(v.shape)}"
    v, e = np.asarray(v, float), np.asarray(e, float)
    behind = f" {unit}" if unit else ""
    if v.ndim == 0:
        text = _with_error(v, e, spec) + behind
        if unit in CHEMISTS and not spec:
            theirs, factor = CHEMISTS[unit]
            text += f" = {_with_error(v / factor, e / factor, spec)} {theirs}"
        return text
    if v.size <= _FEW or spec:
        return f"[{', '.join(_with_error(*pair, spec) for pair in zip(v.ravel(), e.ravel(), strict=True))}]{behind}"
    return (
        f"{' × '.join(map(str, v.shape))} numbers from {v.min():.4g} to {v.max():.4g}{behind},"
        f" errors {'unknown' if np.all(np.isnan(e)) else f'from {np.nanmin(e):.2g} to {np.nanmax(e):.2g}'}"
    )


def _with_error(v, e, spec):
    if spec:
        return f"{v:{spec}} ± {e:{spec}}"
    if not (np.isfinite(e) and e > 0 and np.isfinite(v)):
        return f"{v:.6g} ± {e:.2g}"
    digits = 1 - math.floor(math.log10(e))
    if digits <= 6 and abs(v) < 1e7:
        return f"{v:.{max(digits, 0)}f} ± {e:.{max(digits, 0)}f}"
    power = math.floor(math.log10(max(abs(v), e)))
    digits = max(digits + power, 0)
    return f"({v / 10.0**power:.{digits}f} ± {e / 10.0**power:.{digits}f})e{power:+03d}"
