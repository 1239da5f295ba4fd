"""The second line of a frame in XYZ files: programs put boxes, times, and what the columns are there, each its way."""

import re
from typing import NamedTuple

import numpy as np

from .. import units
from ._cell import vectors_of
from ._frames import Request
from ._numbers import numbers

_BOXES = ("cell", "box", "unitcell", "unit_cell")
_LENGTHS = {"angstrom": units.ANGSTROM, "atomic_unit": units.BOHR, "bohr": units.BOHR, "nanometer": 1.0}
_TIMES = {"ps": 1.0, "fs": units.FEMTOSECOND}
_CP2K = re.compile(r"\s*i\s*=\s*\d+\s*,(?:\s*time\s*=\s*([^\s,]+)\s*,)?", re.ASCII)
_IPI = re.compile(r"CELL\s*[\[({](\w+)[\])}]:((?:\s+[^\sA-Za-z{}]+)*)|\b\w+\{(?:atomic_unit|angstrom)\}", re.ASCII)
_IPI_UNIT = re.compile(r"(\w+)\{(\w+)\}", re.ASCII)
_EXTENDED = re.compile(r"\b((lattice|properties|pbc)\s*=|time=)", re.ASCII | re.IGNORECASE)
_NOT_ANGSTROM = r"(?:bohrs?|nm|nanomet(?:er|re)s?|(?-i:pm)|picomet(?:er|re)s?)\b(?![-/^*])"  # Pm is a space group
_ATOMIC = r"(?:(?-i:au|AU)\b|a\.u\b\.?|atomic[ _-]?units?\b)"  # Au is gold
_UNITS = r"\b(?:(?:length|distance|position|coordinate|pos|box|cell|lattice)s?_)?units?\b"
_PLACES = r"(?<![a-z])(?:coord(?:inate)?s?|positions?|geometry|xyz|distances?|lengths?)\b"
_TO = r"""[\s=:,"'(\[{]{0,5}(?:(?:is|are|given|all|in|ev|hartree|units?)\b[\s=:,"'(\[{]{0,5}){0,3}"""
_LENGTH = re.compile(
    rf"(?:{_UNITS}|{_PLACES}){_TO}(?:{_NOT_ANGSTROM}|{_ATOMIC})"
    r"|\bunits?[\s=:\"'(]{1,4}atomic\b|\bunits?\s?[=:]\s?[\"']?(?:lj|reduced|si|cgs|electron|nano|micro)\b"  # LAMMPS's
    rf"|(?:\bin\b\s?|[(\[{{]){_NOT_ANGSTROM}(?![)\]}}]?\s?[=:]?\s?[+-]?\.?\d)"  # a number there is of something else
    rf"|(?<![\d.]\s)\b(?:{_NOT_ANGSTROM}|{_ATOMIC})\s{_PLACES}"
    rf"|^\W*(?:{_NOT_ANGSTROM}|{_ATOMIC})\W*$",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""\b(?!\w*units?\s?=)\w+\s?=\s?(?:"[^"]*"|'[^']*')""", re.IGNORECASE)
"""Of a key that says no unit."""
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?"
_THREE = rf"{_NUMBER}(?:[\s,x]{{1,3}}{_NUMBER}){{2}}"
_EDGE = rf"\s?[=:]\s?{_NUMBER}[^=:\d]{{1,15}}"
_BOX = re.compile(
    r"(?:(?<![a-z])(?:sim)?box|\b(?:cell|unit[ _-]?cell|lattice|pbc|periodic|cryst1))"
    r"(?:[ _-]?(?:(?:size|length|side|edge|vector|param|parameter|dim|dimension|constant|boundary|l?[abcxyz])s?|of|is"
    r"|are)\b)*"
    r"(?:\s?[(\[{][^\d()\[\]{}]{0,30}[)\]}]|\s?\bin\s[^\W\d]{1,12}\b)?"  # a unit
    # a word and a number, as in "box, 64 molecules" or "cell: 2", are no claim: an equals sign, a decimal, a colon and
    # two digits, or three numbers are
    r"(?:\s?[=:][\s\"'(\[{]{0,4}(?:t|true|yes)\b"
    rf"|\s?=[\s\"'(\[{{]{{0,4}}(?=[^a-z]*[1-9]){_NUMBER}"
    rf"|(?:\s?:[\s\"'(\[{{]{{0,4}}|[\s\"'(\[{{]{{1,4}})(?=[^a-z]*[1-9])(?:\d*\.\d|{_THREE})|\s?:\s?\d\d)"
    rf"|\bdimensions?[\s=:\"'(\[{{]{{1,4}}{_THREE}|\bcrystal[\s=:]{{1,3}}{_NUMBER}(?:[\s,]{{1,2}}{_NUMBER}){{5}}"
    rf"|\bl?a{_EDGE}\bl?b{_EDGE}\bl?c\s?[=:]|\blx{_EDGE}\bly{_EDGE}\blz\s?[=:]",
    re.IGNORECASE,
)
_NUMBERS_ALONE = re.compile(rf"{_NUMBER}(?:[\s,]+{_NUMBER})*", re.IGNORECASE)
_ROW = re.compile(rf"[A-Z][a-z]?(?i:\s+{_NUMBER}){{3}}", re.ASCII)
_TIME_UNIT = re.compile(r"\btime\s*=\s*[^\s=]+\s+(ps|fs)\b", re.IGNORECASE)
_PAIR = re.compile(
    r"""\s*([^\s="']+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|\{([^}]*)\}|\[([^\]]*)\]|([^\s"'{\[]\S*)))?(?=\s|$)"""
)


class Column(NamedTuple):
    """Neighboring columns of one name, in lower case."""

    name: str
    kind: str
    """S, I, R or L, as extended XYZ has it."""
    width: int


PLAIN = (Column("species", "S", 1), Column("pos", "R", 3))


class Comment(NamedTuple):
    """What a comment line says."""

    columns: tuple[Column, ...] = PLAIN
    length: float = units.ANGSTROM
    """The unit of positions, nm."""
    vectors: np.ndarray | None = None
    """Of the box, nm."""
    time: float | None = None
    """ps."""


def comment_of(text: str, line: int, request: Request) -> Comment:
    """Of i-PI, CP2K or extended XYZ; anything else is only words, unless these say a unit or a box."""
    if match := _IPI.search(text):
        return _ipi(text, match, line)
    _require_angstrom(text, line)
    if match := _CP2K.match(text):
        time = match.group(1)
        found = Comment(time=None if time is None else units.FEMTOSECOND * float(numbers([time], _place(line))[0]))
    elif _EXTENDED.search(text):
        pairs = pairs_of(text, line)
        if unit := _TIME_UNIT.search(text):  # a word of its own
            pairs.setdefault("time_unit", unit.group(1).lower())
        found = _extended(pairs, line, request)
        if "lattice" in pairs:
            return found
    elif _ROW.fullmatch(text):
        raise ValueError(f"Line {line} is {text[:60]!r}, an atom in the place of the comment: is that line missing?")
    else:
        found = Comment()
    _require_no_box(text, line)
    return found


def _require_angstrom(text, line):
    """Refused where positions are in another unit, as far as the usual words say."""
    words = " ".join(text.split())
    said = _LENGTH.search(_QUOTED.sub("", words) if _EXTENDED.search(words) else words)
    if said is not None:
        raise ValueError(
            f"Line {line} says {said.group()!r}; XYZ is in Å: wanted positions in Å, or a comment in other words."
        )


def _require_no_box(text, line):
    """Refused where a box is said in the usual words of other programs: an open one would be read."""
    words = " ".join(text.split())
    box = _BOX.search(words)
    if box is None and not _is_box_of_numbers(words):
        return
    said = repr(text[:60]) + ", as PLUMED writes boxes, in nm" if box is None else repr(box.group())
    raise ValueError(
        f"Line {line} says {said}, which may be a box; wanted it as extended XYZ has it, in Å:"
        f' `Lattice="ax ay az bx by bz cx cy cz" Properties=species:S:1:pos:R:3`, or a comment in other words.'
    )


def _is_box_of_numbers(words):
    """Three, six or nine alone; three edges are positive."""
    if _NUMBERS_ALONE.fullmatch(words) is None:
        return False
    found = [float(word) for word in re.split(r"[\s,]+", words)]
    return len(found) in (6, 9) or (len(found) == 3 and min(found) > 0)


def _place(line):
    return lambda k: f"Line {line}"


def _ipi(text, match, line):
    if match.group(1) != "abcABC":
        raise ValueError(
            f"Line {line} is {text[:60]!r}, of i-PI with a CELL of {match.group(1) or 'nothing'}; wanted CELL(abcABC)."
        )
    cell = numbers(match.group(2).split(), _place(line))
    quantities = dict(_IPI_UNIT.findall(text, match.end()))
    positions = {"positions", "x_centroid"} & quantities.keys()
    if len(cell) != 6 or len(positions) != 1 or "cell" not in quantities:
        raise ValueError(
            f"Line {line} is {text[:100]!r}, wanted six numbers of a cell, and `positions{{unit}} cell{{unit}}`."
        )
    for name, unit in quantities.items():
        if unit not in _LENGTHS:
            raise ValueError(f"Line {line} has {name} in {unit}, wanted one of {', '.join(_LENGTHS)}.")
    vectors = vectors_of(cell[:3] * _LENGTHS[quantities["cell"]], cell[3:])
    return Comment(length=_LENGTHS[quantities[positions.pop()]], vectors=vectors)


def pairs_of(text, line):
    """Keys in lower case with their values; those without a value are left out."""
    found, at = {}, 0
    while text[at:].strip():
        match = _PAIR.match(text, at)
        if match is None:
            raise ValueError(f'Line {line} has {text[at : at + 40]!r}, wanted key=value or key="value".')
        key, value = match.group(1).lower(), next((g for g in match.groups()[1:] if g is not None), None)
        if value is not None:
            if key in found and key in ("lattice", "properties", "pbc", "time", "time_unit"):
                raise ValueError(f"Line {line} has `{match.group(1)}` twice.")
            found[key] = value
        at = match.end()
    return found


def _extended(pairs, line, request):
    for key in _BOXES:
        if key in pairs and "lattice" not in pairs:
            raise ValueError(f"Line {line} has `{key}` and no `Lattice`, which is what extended XYZ calls a box.")
    vectors = None
    if "lattice" in pairs:
        vectors = numbers(pairs["lattice"].split(), _place(line)) * units.ANGSTROM
        if len(vectors) != 9:
            raise ValueError(f"Line {line} has a Lattice of {len(vectors)} numbers, wanted 9.")
        vectors = vectors.reshape(3, 3)
    periodic = pairs.get("pbc", "F F F" if vectors is None else "T T T").split()
    flags = {"T": True, "True": True, "1": True, "F": False, "False": False, "0": False}
    if len(periodic) != 3 or not flags.keys() >= set(periodic) or len({flags[p] for p in periodic}) != 1:
        raise ValueError(f"Line {line} has pbc={pairs['pbc']!r}; wanted all T or all F.")
    if not flags[periodic[0]]:
        vectors = None
    elif vectors is None:
        raise ValueError(f'Line {line} has pbc="T T T" and no Lattice.')
    columns = _columns(pairs["properties"], line) if "properties" in pairs else PLAIN
    for key in pairs:
        if re.search("mom.*unit|unit.*mom", key) and any(c.name == "momenta" for c in columns):
            raise ValueError(f"Line {line} has {key}={pairs[key]}; momenta are in √(u eV), as ASE has them.")
    return Comment(columns, vectors=vectors, time=_time(pairs, line, request))


def _time(pairs, line, request):
    if "time" not in pairs:
        return None
    said = pairs.get("time_unit", pairs.get("time_units"))
    unit = request.time_unit if said is None else _TIMES.get(said)
    if unit is None:
        raise ValueError(
            f"Line {line} has a time of unknown unit (QUIP and GPUMD write fs, others ps); wanted `time_unit=ps` or"
            " `time_unit=fs` in the line, or `read(..., time_unit=...)`, in ps."
        )
    return unit * float(numbers([pairs["time"]], _place(line))[0])


def _columns(text, line):
    words = text.split(":")
    triples = [words[k : k + 3] for k in range(0, len(words), 3)]
    for triple in triples:
        fine = len(triple) == 3 and triple[0] and triple[1] in ("S", "I", "R", "L")
        if not (fine and re.fullmatch(r"[1-9]\d{0,5}", triple[2], re.ASCII)):
            raise ValueError(
                f"Line {line} has {':'.join(triple)!r} among its Properties, wanted name:S, I, R or L:number."
            )
    columns = tuple(Column(name.lower(), kind, int(width)) for name, kind, width in triples)
    names = [c.name for c in columns]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise ValueError(f"Line {line} has `{twice[0]}` twice among its Properties.")
    if Column("pos", "R", 3) not in columns:
        raise ValueError(f"Line {line} has Properties={text!r}, wanted `pos:R:3` among them.")
    return columns
