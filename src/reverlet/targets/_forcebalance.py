"""ForceBalance's files of a liquid, `data.csv`."""

import csv
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from .._misc import require_instance
from ..io._numbers import numbers
from ._file import TargetFile
from ._records import TargetRecord
from ._units import Quantity, nearest

_PROPERTIES = {
    "Rho": ("density", "kg/m^3"),
    "Hvap": ("heat_of_vaporization", "kJ/mol"),
    "Alpha": ("thermal_expansion", "1e-4/K"),
    "Kappa": ("isothermal_compressibility", "1e-6/bar"),
    # comments in such files say kJ/mol/K, and the numbers are those of cal/mol/K
    "Cp": ("heat_capacity", "cal/mol/K"),
    "Eps0": ("dielectric_constant", ""),
}
_ADDED = {  # what is to be added to a calculated property, and which setting says that it is
    "Cvib_intra": ("Hvap", "use_cvib_intra"),
    "Cvib_inter": ("Hvap", "use_cvib_inter"),
    "Cni": ("Hvap", "use_cni"),
    "dEvib_intra": ("Cp", ""),
    "dEvib_inter": ("Cp", ""),
}
_COLUMNS = ("T", "P", "MBAR", *_PROPERTIES, *(f"{name}_wt" for name in _PROPERTIES), *_ADDED, "n_ic")
_SETTINGS = (*(f"{name.lower()}_denom" for name in _PROPERTIES), "use_cvib_intra", "use_cvib_inter", "use_cni", "n_ic")

Cell = float | bool | Quantity | None


@dataclasses.dataclass(frozen=True)
class ForceBalanceData:
    """What a `data.csv` says: settings, the names of columns, and a row of cells for each state point.

    **Arguments:** `settings`, pairs of a name and a number or a truth, such as `("rho_denom", 30.0)`; `columns`, such
    as `("T", "P", "Rho")`; `rows`, as many cells each: numbers in the units of such files (K, kg/m³, kJ/mol, 1e-4/K,
    1e-6/bar, cal/mol/K), `Quantity` for pressures, truths for `MBAR`, `None` for cells without a value.

    **Errors:** `ValueError` for names that are not known, columns and denominators that are missing, and values whose
    weight is blank.
    """

    settings: tuple[tuple[str, float | bool], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self):
        for name, _ in self.settings:
            if name not in _SETTINGS:
                raise ValueError(f"there is the setting {name!r}, which is not known; {nearest(name, _SETTINGS)}")
        for name in self.columns:
            if name not in _COLUMNS:
                raise ValueError(f"there is the column {name!r}, which is not known; {nearest(name, _COLUMNS)}")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"a column is there twice: {', '.join(self.columns)}.")
        if missing := self._missing():
            raise ValueError(f"there is no column {' and no column '.join(repr(name) for name in missing)}.")
        if not set(_PROPERTIES) & set(self.columns):
            raise ValueError(f"there is no column of a property; wanted one or more of {', '.join(_PROPERTIES)}.")
        if not self.rows or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"wanted one row or more, each of {len(self.columns)} cells.")
        for name in (name for name in _PROPERTIES if f"{name}_wt" in self.columns):
            cells = zip(self._cells(name), self._cells(f"{name}_wt"), strict=True)
            if blank := [k for k, (value, weight) in enumerate(cells, 1) if value is not None and weight is None]:
                raise ValueError(
                    f"row {blank[0]} of {len(self.rows)} has a value of {name!r} without a weight; wanted a number, 0"
                    f" to leave the value out, or no column '{name}_wt' for equal weights."
                )
        for name in self.properties:
            if (size := self.setting(f"{name.lower()}_denom")) is None or isinstance(size, bool) or size <= 0:
                raise ValueError(
                    f"there is the property {name!r} with `{name.lower()}_denom` {size}; wanted a number more than"
                    f" zero, as in a line `Global,{name.lower()}_denom,2.0`: the deviation that counts as one, in the"
                    " unit of the column."
                )

    def _missing(self) -> list[str]:
        """Columns that others, or settings, ask for."""
        wanted = ["T", "P", *(name.removesuffix("_wt") for name in self.columns if name.endswith("_wt"))]
        wanted += [name for name, (_, switch) in _ADDED.items() if self.setting(switch) is True]
        wanted += [_ADDED[name][0] for name in self.columns if name in _ADDED and not _ADDED[name][1]]
        return [name for name in dict.fromkeys(wanted) if name not in self.columns]

    @property
    def properties(self) -> tuple[str, ...]:
        """The names of columns with values and weights."""
        return tuple(name for name in _PROPERTIES if name in self.columns and any(self._weights(name)))

    def setting(self, name: str) -> float | bool | None:
        """Of that name, where there is one."""
        return dict(self.settings).get(name)

    def _cells(self, name: str, default: Cell = None) -> list[Cell]:
        if name not in self.columns:
            return [default] * len(self.rows)
        k = self.columns.index(name)
        return [default if row[k] is None else row[k] for row in self.rows]

    def _weights(self, name: str) -> list[float]:
        """Of the values of a property, which sum to one; zero where there is no value."""
        pairs = zip(self._cells(name), self._cells(f"{name}_wt", 1.0), strict=True)
        weights = [0.0 if value is None else _number(weight) for value, weight in pairs]
        total = sum(weights)
        return [weight / total for weight in weights] if total > 0 else weights

    def target_file(self, *, phase: str = "liquid", gas: str = "gas") -> TargetFile:
        """The same as records.

        The uncertainty is the denominator, and the weights of a property sum to one over all state points: so the sum
        of w χ² is ForceBalance's objective, of which properties have equal weights. What ForceBalance adds to a
        calculated property (`Cvib_intra`, …) is taken from the value. `MBAR` and `n_ic` say how to simulate, and have
        no part in this.

        **Arguments:** `phase` and `gas`, the names of what is simulated.
        """
        records = []
        pressures = self._cells("P")
        for name in self.properties:
            kind, unit = _PROPERTIES[name]
            denominator = Quantity(_number(self.setting(f"{name.lower()}_denom")), unit)
            added = [self._cells(key, 0.0) for key, (of, use) in _ADDED.items() if of == name and self._is_used(use)]
            rows = zip(self._cells(name), self._weights(name), self._cells("T"), pressures, *added, strict=True)
            for value, weight, temperature, pressure, *corrections in rows:
                if weight > 0 and isinstance(pressure, Quantity):
                    records.append(
                        TargetRecord(
                            kind=kind,
                            value=Quantity(_number(value) - sum(map(_number, corrections)), unit),
                            uncertainty=denominator,
                            temperature=Quantity(_number(temperature), "K"),
                            pressure=pressure,
                            phase=phase,
                            gas=gas if kind == "heat_of_vaporization" else "",
                            weight=weight,
                        )
                    )
        return TargetFile(tuple(records))

    def _is_used(self, switch: str) -> bool:
        return not switch or self.setting(switch) is True


def _number(cell: Cell) -> float:
    assert isinstance(cell, float | int)
    return float(cell)


def read_forcebalance(path: str | os.PathLike) -> ForceBalanceData:
    """ForceBalance's `data.csv` of a liquid.

    Lines that start with # are comments; those that start with `Global` are settings; one names the columns, and all
    others are state points. Names of columns are not case sensitive, and pressures are in `atm` where they do not say.

    **Errors:** `FileNotFoundError`; `ValueError`, which names the line, for settings and columns that are not known
    (with the nearest that is), columns and denominators that are missing, lines with too many cells, values whose
    weight is blank, and what is no number or not finite.
    """
    path = Path(path)
    settings: list[tuple[str, float | bool]] = []
    columns: tuple[str, ...] | None = None
    rows: list[tuple[Cell, ...]] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for words in (lines := csv.reader(file)):
            place = f"{path}, line {lines.line_num}"
            while words and not words[-1].strip():
                words.pop()
            words = [word.strip() for word in words]
            if not words or words[0].startswith("#"):
                continue
            if words[0].lower() == "global":
                if len(words) != 3:
                    raise ValueError(f"{place} has {len(words)} cells; wanted three: Global, a name and a value.")
                if words[1] not in _SETTINGS:
                    raise ValueError(f"{place} has the setting {words[1]!r}: {nearest(words[1], _SETTINGS)}")
                settings.append((words[1], _value(words[2], place)))
            elif columns is None:
                columns = tuple(_column(word, place) for word in words)
                readers = [_READERS.get(name, _value_of_number) for name in columns]
            else:
                if len(words) > len(columns):
                    raise ValueError(f"{place} has {len(words)} cells; wanted {len(columns)}: {', '.join(columns)}.")
                words += [""] * (len(columns) - len(words))
                cells = zip(words, readers, columns, strict=True)
                rows.append(tuple(read(w, f"{place}, {c}") if w else None for w, read, c in cells))
                for name in ("T", "P"):
                    if name in columns and rows[-1][columns.index(name)] is None:
                        raise ValueError(f"{place} has no {name}; wanted a number.")
    if columns is None:
        raise ValueError(f"{path} has no line with the names of columns; wanted one such as `T,P,MBAR,Rho,Rho_wt`.")
    try:
        return ForceBalanceData(tuple(settings), columns, tuple(rows))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _column(word: str, place: str) -> str:
    known = {name.lower(): name for name in _COLUMNS}
    if word.lower() not in known:
        raise ValueError(f"{place} has the column {word!r}: {nearest(word, _COLUMNS)}")
    return known[word.lower()]


def _value_of_number(word: str, place: str) -> float:
    return float(numbers([word], lambda _: place)[0])


def _value(word: str, place: str) -> float | bool:
    return word.lower() == "true" if word.lower() in ("true", "false") else _value_of_number(word, place)


def _truth(word: str, place: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise ValueError(f"{place} has {word!r}; wanted TRUE or FALSE.")
    return word.lower() == "true"


def _pressure(word: str, place: str) -> Quantity:
    try:
        return Quantity.parse(word if " " in word else f"{word} atm", "pressure")
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


_READERS: dict[str, Callable[[str, str], Cell]] = {"P": _pressure, "MBAR": _truth}


def write_forcebalance(path: str | os.PathLike, data: ForceBalanceData) -> None:
    """The same as `data.csv`, of which `read_forcebalance` makes the same; comments are not kept."""
    require_instance("data", data, ForceBalanceData)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("Global", name, _cell(value)) for name, value in data.settings])
        writer.writerow(data.columns)
        writer.writerows([[_cell(cell) for cell in row] for row in data.rows])


def _cell(cell: Cell) -> str:
    if isinstance(cell, bool):
        return str(cell).upper()
    return "" if cell is None else str(cell)
