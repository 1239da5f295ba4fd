"""XYZ and extended XYZ: Å, and velocities as momenta in ASE's units, √(u eV)."""

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import units
from .._elements import ISOTOPES, MASSES
from .._topology import Topology
from ._frames import (
    Frames,
    Request,
    Snapshot,
    gathered,
    require_elements,
    require_known_names,
    require_masses,
    require_order,
    require_symbols,
    symbols_of,
    symbols_with_isotopes,
    topology_of,
)
from ._numbers import numbers, whole_numbers
from ._xyz_comment import Column, Comment, comment_of

_MOMENTUM = units.ELECTRONVOLT**0.5
"""√(u eV) in u nm/ps."""
_VELOCITIES = ("velocities", "velocity", "velo", "vel")
_MASSES = ("masses", "mass")
_MOLECULES = ("molecules", "molecule")
_SYMBOLS = ("species", "element", "elements", "symbol", "symbols")
_NUMBERS = ("z", "numbers", "atomic_numbers", "atomic_number")


class _Block(NamedTuple):
    """A frame as it stands in the file."""

    line: int
    comment: str
    rows: list[str]


def read_xyz(path: Path, request: Request) -> Iterator[Frames]:
    with open(path, encoding="utf-8") as file:
        frames = blocks(file)
        first = next(frames, None)
        if first is None:
            raise ValueError("Line 1 is '', wanted the number of atoms of a frame.")
        comment = comment_of(first.comment, first.line + 1, request)
        table = Table.of(first, comment)
        topology = table.topology(request)
        rest = _snapshots(frames, table, topology, request)
        yield from gathered(topology, _with(table.snapshot(first, comment, topology, request), rest), request)


def _with(first, rest):
    yield first
    yield from rest


def _snapshots(frames, first, topology, request):
    for k, block in enumerate(frames, 1):
        comment = comment_of(block.comment, block.line + 1, request)
        table = Table.of(block, comment)
        for name in ("id", *_SYMBOLS, *_NUMBERS, *_MASSES, *_MOLECULES):
            here, there = table.column(name), first.column(name)
            if here != there:
                raise ValueError(
                    f"The atoms of frame {k} are not those of frame 0 (line {block.line}: `{name}`); wanted one system."
                )
        yield table.snapshot(block, comment, topology, request)


def blocks(file):
    """The frames of the file, line by line: however many atoms a frame claims, no more is read than is there."""
    lines = enumerate(file, 1)
    for number, line in lines:
        count = line.strip()
        if not count:
            rest = next(((n, x) for n, x in lines if x.strip()), None)
            if rest is None and number > 1:
                return
            raise ValueError(f"Line {number} is {line[:40].rstrip()!r}, wanted the number of atoms of a frame.")
        if not (count.isascii() and count.isdigit() and len(count) < 12 and int(count) > 0):
            raise ValueError(f"Line {number} is {line[:40].rstrip()!r}, wanted the number of atoms of a frame.")
        _, comment = next(lines, (0, None))
        rows = [row for _, row in islice(lines, int(count))]
        if comment is None or len(rows) < int(count):
            raise ValueError(
                f"Line {number} says that a frame of {count} atoms follows, but the file ends {len(rows)} atoms later."
            )
        yield _Block(number, comment.strip(), rows)


class Table(NamedTuple):
    """The words of a frame by column."""

    columns: dict[str, tuple[Column, list[str]]]
    line: int
    """Of the first row."""
    num_atoms: int

    @classmethod
    def of(cls, block: _Block, comment: Comment) -> "Table":
        """Refused where a row has a word too many or too few: all behind it would be shifted."""
        rows, line = [row.split() for row in block.rows], block.line + 2
        width = sum(c.width for c in comment.columns)
        for k, row in enumerate(rows):
            if len(row) != width:
                names = ", ".join(f"{c.name} ({c.width})" for c in comment.columns)
                raise ValueError(
                    f"Line {line + k} has {len(row)} columns, wanted {width}: {names}. Say what others are in"
                    " `Properties=...` of the comment line."
                )
        found, at = {}, 0
        for column in comment.columns:
            words = [row[at + j] for row in rows for j in range(column.width)]
            found[column.name] = (column, words)
            at += column.width
        return cls(found, line, len(rows))

    def column(self, name: str) -> list[str] | None:
        """Its words."""
        return self.columns[name][1] if name in self.columns else None

    def values(self, names: tuple[str, ...], kind: str, width: int) -> np.ndarray | None:
        """Numbers of the one of these columns that is there."""
        there = [n for n in names if n in self.columns]
        if not there:
            return None
        if len(there) > 1:
            raise ValueError(
                f"Line {self.line - 1} has {' and '.join(there)} among its Properties, wanted one of them."
            )
        column, words = self.columns[there[0]]
        if column.width != width or column.kind not in (kind, "I"):
            raise ValueError(
                f"Line {self.line - 1} has {':'.join(map(str, column))}, wanted {there[0]}:{kind}:{width}."
            )
        place = lambda k: f"Line {self.line + k // width}, column `{there[0]}`,"
        found = whole_numbers(words, place) if kind == "I" else numbers(words, place)
        return found if width == 1 else found.reshape(-1, width)

    def topology(self, request: Request) -> Topology:
        """What the atoms are."""
        symbols = self._symbols()
        if request.topology is not None:
            ids = self.values(("id",), "I", 1)
            if ids is not None:
                require_order(ids, request)
            require_elements(request.topology, [None] * self.num_atoms if symbols is None else symbols)
            masses = self._masses()
            if masses is not None:  # momenta are divided by them
                most = 1e-3 if "momenta" in self.columns else 1e-2
                require_masses(request.topology, masses, lambda k: f"Line {self.line + k}", most)
            return request.topology
        if symbols is None:
            raise ValueError(f"Line {self.line - 1} has no `species:S:1` among its Properties: give `topology`.")
        require_symbols(symbols, lambda k: f"Line {self.line + k}")
        return topology_of(symbols, masses=self._masses(), molecules=self.values(_MOLECULES, "I", 1))

    def _symbols(self):
        """Of every atom; refused where columns that say them differ."""
        said = {name: self.columns[name][1] for name in _SYMBOLS if name in self.columns}
        for name in said:
            if self.columns[name][0].width != 1:
                raise ValueError(f"Line {self.line - 1} has {name} of several words, wanted {name}:S:1.")
        atomic_numbers = self.values(_NUMBERS, "I", 1)
        if atomic_numbers is not None:
            said["atomic numbers"] = symbols_of(atomic_numbers)
        if not said:
            return None
        (first, symbols), *others = said.items()
        for name, words in others:
            for k, (one, other) in enumerate(zip(symbols, words, strict=True)):
                if other not in (one, *ISOTOPES.get(one, ())):
                    if label := next((n for n, s in ((first, one), (name, other)) if s not in MASSES | ISOTOPES), None):
                        raise ValueError(
                            f"Line {self.line + k} is of {one} by its {first} and of {other} by its {name}: `{label}`"
                            " are labels, no elements; wanted this column under another name, such as `label`."
                        )
                    raise ValueError(f"Line {self.line + k} is of {one} by its {first} and of {other} by its {name}.")
        return symbols

    def _masses(self):
        masses = self.values(_MASSES, "R", 1)
        if masses is not None and np.any(masses <= 0):
            bad = int(np.argmax(masses <= 0))
            raise ValueError(f"Line {self.line + bad} has a mass of {masses[bad]} u, wanted a positive one.")
        return masses

    def snapshot(self, block: _Block, comment: Comment, topology: Topology, request: Request) -> Snapshot:
        """The frame in nm and ps."""
        known = ("momenta", *_VELOCITIES), _MASSES, _MOLECULES
        # `v` of one number is a volume or the like
        names = [c.name for c, _ in self.columns.values() if c.name != "v" or c.width == 3]
        require_known_names(names, known, f"Line {self.line - 1} has", request)
        positions = self.values(("pos",), "R", 3)
        assert positions is not None
        return Snapshot(
            block.line, positions * comment.length, self._velocities(topology, request), comment.vectors, comment.time
        )

    def _velocities(self, topology, request):
        momenta, velocities = self.values(("momenta",), "R", 3), self.values(_VELOCITIES, "R", 3)
        if momenta is not None and velocities is not None:
            raise ValueError(
                f"Line {self.line - 1} has momenta and velocities among its Properties, wanted one of them."
            )
        if momenta is not None:
            return momenta * _MOMENTUM / np.asarray(topology.masses, float)[:, None]
        if velocities is None:
            return None
        if request.velocity_unit is None:
            raise ValueError(
                f"Line {self.line - 1} has velocities of unknown unit (QUIP and GPUMD write Å/fs, others Å/ps); wanted"
                " `read(..., velocity_unit=...)`, in nm/ps: `rv.units.ANGSTROM / rv.units.FEMTOSECOND` for Å/fs."
            )
        return velocities * request.velocity_unit


@contextlib.contextmanager
def extxyz_writer(path: Path, topology: Topology):
    names = "species:S:1:pos:R:3:molecules:I:1:masses:R:1"
    fixed = [f"{m:8d} {u:16.8f}" for m, u in zip(np.asarray(topology.molecules), _masses(topology), strict=True)]

    with open(path, "w", encoding="utf-8") as file:

        def append(frames: Frames) -> None:
            for k, positions in enumerate(_rows(frames, topology.elements)):
                comment, rows = f"Properties={names}", [f"{p} {f}" for p, f in zip(positions, fixed, strict=True)]
                if frames.velocities is not None:
                    momenta = frames.velocities[k].astype(float) * _masses(topology)[:, None] / _MOMENTUM
                    comment += ":momenta:R:3"
                    rows = [f"{r} {x:16.8f} {y:16.8f} {z:16.8f}" for r, (x, y, z) in zip(rows, momenta, strict=True)]
                if frames.times is not None:
                    comment += f" time={float(frames.times[k])!r} time_unit=ps"
                if frames.vectors is None:
                    comment += ' pbc="F F F"'
                else:
                    vectors = (frames.vectors[k].astype(float) / units.ANGSTROM).ravel()
                    comment = f'Lattice="{" ".join(map(repr, vectors.tolist()))}" {comment} pbc="T T T"'
                file.write("\n".join([str(len(rows)), comment, *rows, ""]))
            file.flush()

        yield append


@contextlib.contextmanager
def xyz_writer(path: Path, topology: Topology):
    symbols = symbols_with_isotopes(topology)
    with open(path, "w", encoding="utf-8") as file:

        def append(frames: Frames) -> None:
            for rows in _rows(frames, symbols):
                file.write("\n".join([str(len(rows)), "", *rows, ""]))
            file.flush()

        yield append


def _masses(topology):
    return np.asarray(topology.masses, float)


def _rows(frames, symbols):
    """Symbols and positions of all atoms of every frame."""
    for positions in frames.positions:
        scaled = positions.astype(float) / units.ANGSTROM
        yield [f"{s:<2} {x:16.8f} {y:16.8f} {z:16.8f}" for s, (x, y, z) in zip(symbols, scaled, strict=True)]
