"""Tables for LAMMPS' `pair_style table`."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from .. import units
from .._misc import require_instance
from .._potential import AbstractPotential
from ._card import ModelCard, write_file
from ._pair_tables import grid, pair_tables, require_tabulable, warn_of_jump

_ENERGIES = {"real": units.KILOCALORIE_PER_MOLE, "metal": units.ELECTRONVOLT}
"""LAMMPS' units of energy, whose lengths are both in Å, in kJ/mol."""
_MOST = 2**28
"""Bytes of a file that is read."""


class LammpsTable(NamedTuple):
    """One section of a file, in our units."""

    keyword: str
    r: Float[np.ndarray, " points"]
    """nm."""
    energy: Float[np.ndarray, " points"]
    """kJ/mol."""
    force: Float[np.ndarray, " points"]
    """kJ/mol/nm."""


def write_lammps_table(
    path: str | Path,
    potential: AbstractPotential,
    *,
    nearest: float,
    num_points: int = 2000,
    style: Literal["real", "metal"] = "real",
    keyword: str = "PAIR",
    card: ModelCard = ModelCard(),
) -> tuple[str, ...]:
    """Writes a pair potential, or a sum of them, as LAMMPS' `pair_style table` reads it, and a card beside it; returns
    the keywords.

        pair_style table spline 2000
        pair_coeff * * liquid.table PAIR

    With parameters per species there is one section for every two of them, `PAIR_1_1`, `PAIR_1_2`, …, whose numbers are
    LAMMPS' types of atoms. A table has no parameters to train, no tail, and nothing below `nearest`, where LAMMPS
    stops.

    **Arguments:** `nearest`, the smallest distance, nm; `num_points`, equally spaced up to the cutoff; `style`, LAMMPS'
    units: "real" (kcal/mol, Å) or "metal" (eV, Å).

    **Warns:** (`UserWarning`) where the energy jumps at the cutoff, as at a plain one: LAMMPS conserves no energy then
    either.

    **Errors:** `ValueError` for what is no pair potential of a few kinds of atoms (many bodies, charges, exclusions),
    by its name, nor a sum of them that tell atoms apart alike and end without a jump inside of the table; for a
    `nearest` where the energy is not finite, keywords that are no word, and folders that are not there.
    """
    if style not in _ENERGIES:
        raise ValueError(f"`style` is {style!r}; wanted 'real' (kcal/mol, Å) or 'metal' (eV, Å).")
    if not isinstance(keyword, str) or not re.fullmatch(r"[A-Za-z]\w*", keyword, re.ASCII):
        raise ValueError(f"`keyword` is {keyword!r}; wanted a word, such as 'PAIR'.")
    require_instance("card", card, ModelCard)
    pair = require_tabulable(potential, "LAMMPS")
    tables = pair_tables(pair, grid(pair, nearest, num_points))
    warn_of_jump(tables, "LAMMPS")
    many = pair.num_kinds > 1
    energy, length = _ENERGIES[style], units.ANGSTROM
    lines, keywords = [f"# UNITS: {style}", f"# {pair.name}, cutoff {pair.cutoff} nm"], []
    for table in tables:
        keywords.append("_".join([keyword, *(str(k + 1) for k in table.kinds)]) if many else keyword)
        r, u, f = table.r / length, table.energy / energy, table.force * (length / energy)
        ends = -table.curvature[[0, -1]] * (length**2 / energy)
        lines += ["", keywords[-1], f"N {len(r)} R {r[0]:.17g} {r[-1]:.17g} FPRIME {ends[0]:.17g} {ends[1]:.17g}", ""]
        lines += [f"{k + 1} {a:.17g} {b:.17g} {c:.17g}" for k, (a, b, c) in enumerate(zip(r, u, f, strict=True))]
    write_file(Path(path), "\n".join(lines) + "\n")
    card.write(path, potential, export=f"a table for LAMMPS' pair_style table, units {style}: {', '.join(keywords)}")
    return tuple(keywords)


def read_lammps_table(path: str | Path) -> tuple[LammpsTable, ...]:
    """The sections of a file of `pair_style table`, in nm, kJ/mol and kJ/mol/nm.

    **Errors:** `ValueError`, with the line, for a file without `UNITS: real` or `metal` in its first line, without a
    section, and with sections that are not as announced: N numbered rows of three finite numbers, at increasing
    distances, which are those of `R` where that is given.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size > _MOST:
        raise ValueError(f"There is no file {path} of at most {_MOST} bytes; wanted a table of LAMMPS.")
    lines = path.read_text("utf-8", errors="replace").splitlines()
    units_said = re.search(r"UNITS:\s*(real|metal)\b", lines[0]) if lines else None
    if units_said is None:
        raise ValueError(f"The first line of {path} does not say its units; wanted `# UNITS: real` or `metal`.")
    energy, length = _ENERGIES[units_said[1]], units.ANGSTROM
    words = [(k + 1, line.split("#")[0].split()) for k, line in enumerate(lines)]
    rows = iter([(k, w) for k, w in words if w])
    tables = []
    for number, (keyword, *_) in rows:
        number, header = next(rows, (number, []))
        if len(header) < 2 or header[0] != "N" or not re.fullmatch(r"[0-9]{1,9}", header[1]):
            raise _wrong(path, number, f"announces no number of rows for {keyword}; wanted `N 2000 R 2.0 10.0`")
        values = []
        for k in range(int(header[1])):
            number, row = next(rows, (number, []))
            try:
                index, *numbers = row
                values.append([float(x) for x in numbers])
                fine = int(index) == k + 1 and len(numbers) == 3 and bool(np.all(np.isfinite(values[-1])))
            except ValueError:
                fine = False
            if not fine:
                raise _wrong(path, number, f"is not row {k + 1} of {keyword}; wanted its number, r, energy and force")
        r, u, f = np.array(values).reshape(-1, 3).T
        if len(r) < 2 or np.any(np.diff(r) <= 0) or r[0] <= 0:
            raise _wrong(path, number, f"ends {keyword}, whose distances do not increase from above zero")
        if "R" in header and not _spans(header[header.index("R") + 1 :], r):
            raise _wrong(path, number, f"ends {keyword}, whose distances are not those that LAMMPS makes of its R")
        tables.append(LammpsTable(keyword, r * length, u * energy, f * (energy / length)))
    if not tables:
        raise ValueError(f"{path} has no section; wanted a table of LAMMPS.")
    return tuple(tables)


def _spans(words, r):
    """Whether distances are equally spaced from one number to another, as LAMMPS takes them to be whatever they are."""
    try:
        low, high = float(words[0]), float(words[1])
    except (ValueError, IndexError):
        return False
    return np.allclose(r, np.linspace(low, high, len(r)), rtol=1e-5, atol=0)


def _wrong(path, number, what):
    return ValueError(f"Line {number} of {path} {what}.")
