"""Target files in TOML."""

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from ..io._numbers import numbers
from ._file import TargetFile
from ._records import TargetRecord
from ._units import Quantity, nearest

_REQUIRED = ("property", "unit", "uncertainty", "temperature")
_KEYS = (
    *_REQUIRED,
    "value",
    "file",
    "uncertainty_unit",
    "axis",
    "axis_unit",
    "pressure",
    "phase",
    "gas",
    "elements",
    "weight",
    "citation",
)
_TEXTS = ("property", "unit", "uncertainty_unit", "axis_unit", "phase", "gas", "citation", "file")


def read(path: str | os.PathLike) -> TargetFile:
    """A file of targets in TOML:

        [[target]]
        property = "density"
        value = 0.997
        unit = "g/cm^3"
        uncertainty = 0.001
        temperature = "298.15 K"
        pressure = "1 bar"
        citation = "W. Wagner and A. Pruß, J. Phys. Chem. Ref. Data 31, 387 (2002)"

    `property`, `value`, `unit`, `uncertainty` and `temperature` are wanted; `uncertainty_unit` where it is another one;
    `pressure`, without which the volume is constant; `phase`, `liquid` by default; `gas`, the phase that a heat of
    vaporization goes to; `elements` of a pair or an angle; `weight`; `citation`. A quantity without unit has `unit =
    ""`. Curves have `axis` and `axis_unit`, or in place of axis and values `file`, the path of a text of two columns
    from the folder of the TOML file.

    **Errors:** `FileNotFoundError`; `ValueError` for what is no TOML, keys and properties that are not known, what is
    missing, units that are missing or not of the property, and numbers that are not finite; each says where.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    _require_keys(content, ("title", "target"), (), str(path))
    rows = content.get("target", [])
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} has no targets; wanted `[[target]]` with its keys, at least once.")
    title = content.get("title", "")
    if not isinstance(title, str):
        raise ValueError(f"{path} has the title {title!r}; wanted a text.")
    return TargetFile(tuple(_target(path, k, row) for k, row in enumerate(rows, 1)), title=title)


def _require_keys(row: dict, known: tuple[str, ...], required: tuple[str, ...], place: str) -> None:
    for key in row:
        if key not in known:
            raise ValueError(f"{place} has the key {key!r}, which is not known; {nearest(key, known)}")
    if missing := [key for key in required if key not in row]:
        hint = ' A quantity without unit has `unit = ""`.' if "unit" in missing else ""
        raise ValueError(f"{place} has no {', '.join(f'`{key}`' for key in missing)}.{hint}")


def _target(path: Path, number: int, row: dict[str, Any]) -> TargetRecord:
    place = f"{path}, target {number}"
    _require_keys(row, _KEYS, _REQUIRED, place)
    place = f"{place} ({row['property']})"
    for key in _TEXTS:
        if not isinstance(row.get(key, ""), str):
            raise ValueError(f"{place}: `{key}` is {row[key]!r}; wanted a text.")
    if ("file" in row) == ("value" in row) or ("file" in row and "axis" in row):
        raise ValueError(f"{place}: wanted either `value` (of a curve with `axis`), or `file`.")
    axis, value = _columns(path.parent / row["file"]) if "file" in row else (row.get("axis"), row["value"])
    if axis is not None and "axis_unit" not in row:
        raise ValueError(f'{place} has no `axis_unit`; wanted such as "nm".')
    elements = row.get("elements", [])
    if not isinstance(elements, list) or not all(isinstance(e, str) for e in elements):
        raise ValueError(f'{place}: `elements` is {elements!r}; wanted symbols, such as ["O", "H"].')

    def quantity(key, make):
        try:
            return make()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: `{key}`: {error}") from None

    make = {
        "value": quantity("value", lambda: Quantity(value, row["unit"])),
        "uncertainty": quantity(
            "uncertainty", lambda: Quantity(row["uncertainty"], row.get("uncertainty_unit", row["unit"]))
        ),
        "temperature": quantity("temperature", lambda: Quantity.parse(row["temperature"], "temperature")),
    }
    if "pressure" in row:
        make["pressure"] = quantity("pressure", lambda: Quantity.parse(row["pressure"], "pressure"))
    if axis is not None:
        make["axis"] = quantity("axis", lambda: Quantity(axis, row["axis_unit"]))
    other = {key: row[key] for key in ("phase", "gas", "weight", "citation") if key in row}
    try:
        return TargetRecord(kind=row["property"], elements=tuple(elements), **make, **other)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None


def _columns(path: Path) -> tuple[list[float], list[float]]:
    """Two columns of numbers; lines that start with # are comments."""
    lines = path.read_text("utf-8").splitlines()
    rows = [(k, line.split()) for k, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    for k, words in rows:
        if len(words) != 2:
            raise ValueError(f"{path}, line {k} has {len(words)} columns; wanted two: the axis and the value.")
    if not rows:
        raise ValueError(f"{path} has no numbers; wanted two columns: the axis and the value.")
    found = numbers([w for _, words in rows for w in words], lambda n: f"{path}, line {rows[n // 2][0]}")
    axis, value = np.reshape(found, (-1, 2)).T.tolist()
    return axis, value


def write(path: str | os.PathLike, targets: TargetFile) -> None:
    """The same as TOML, of which `read` makes the same records; curves are written into the file itself."""
    lines = [f"title = {_toml(targets.title)}"] if targets.title else []
    for target in targets.targets:
        row: dict[str, Any] = {"property": target.kind}
        if target.axis is not None:
            row |= {"axis": target.axis.number, "axis_unit": target.axis.unit}
        row |= {"value": target.value.number, "unit": target.value.unit, "uncertainty": target.uncertainty.number}
        if target.uncertainty.unit != target.value.unit:
            row["uncertainty_unit"] = target.uncertainty.unit
        row["temperature"] = str(target.temperature)
        if target.pressure is not None:
            row["pressure"] = str(target.pressure)
        defaults = {f.name: f.default for f in dataclasses.fields(TargetRecord)}
        row |= {
            key: getattr(target, key)
            for key in ("phase", "gas", "elements", "weight", "citation")
            if getattr(target, key) != defaults[key]
        }
        lines += ["", "[[target]]", *(f"{key} = {_toml(x)}" for key, x in row.items())]
    Path(path).write_text("\n".join(lines).lstrip() + "\n", "utf-8")


def _toml(x: Any) -> str:
    if isinstance(x, tuple):
        return f"[{', '.join(map(_toml, x))}]"
    if isinstance(x, str):  # what TOML wants escaped: quotes, backslashes and control characters
        plain = x.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in plain) + '"'
    return repr(float(x))
