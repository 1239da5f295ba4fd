"""GRO (GROMACS): nm, nm/ps and ps in text, by fixed columns as wide as the first atom's decimals say; no elements."""

import contextlib
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from .._topology import Topology
from ._frames import Frames, Request, Snapshot, gathered, require_names
from ._gromacs import boxes_to_write, require_num_atoms, require_topology
from ._labels import labels
from ._numbers import numbers

_AHEAD = 20
"""Columns before the positions: number and name of the residue, name and number of the atom."""
_TIME = re.compile(r".*\bt=\s*([^\s,]+)(?:\s+ps\b)?[\s,]*(?:step=\s*\S+\s*)?", re.ASCII)
"""Where GROMACS has it: at the end of the title, or before the step. Elsewhere it may be a temperature."""
_COUNT = re.compile(r"\s*[1-9]\d{0,9}\s*", re.ASCII)
_ORDER = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
"""The numbers of a box, by vector and component."""


def read_gro(path: Path, request: Request) -> Iterator[Frames]:
    topology = require_topology(request)
    with open(path, encoding="utf-8") as file:
        yield from gathered(topology, _snapshots(file, topology), request)


def _snapshots(file, topology) -> Iterator[Snapshot]:
    lines = enumerate((line.rstrip("\r\n") for line in file), 1)
    number, names = 0, None
    for number, title in lines:
        if not title.strip() and number > 1:
            rest = next(((n, x) for n, x in lines if x.strip()), None)
            if rest is None:
                return
            raise ValueError(f"Line {number} is empty, and line {rest[0]} is not; wanted the title of a frame.")
        at, count = next(lines, (number + 1, ""))
        if not _COUNT.fullmatch(count):
            raise ValueError(f"Line {at} is {count[:40]!r}, wanted the number of atoms of a frame.")
        require_num_atoms(int(count), topology)
        rows = [row for _, row in islice(lines, int(count))]
        last, box = next(lines, (0, None))
        if box is None:
            raise ValueError(f"The frame of line {number} is cut off.")
        names, before = [row[:_AHEAD] for row in rows], names
        if before is None and len(rows) == topology.num_atoms:
            require_names(topology, [name[10:15].strip() for name in names], lambda k, at=at: f"Line {at + 1 + k}")
        if before is not None and names != before:
            k = next(k for k, (here, there) in enumerate(zip(names, before, strict=True)) if here != there)
            raise ValueError(f"Line {at + 1 + k} is of {names[k]!r}, in the frame before of {before[k]!r}.")
        yield _snapshot(number, title, rows, last, box)
    if number == 0:
        raise ValueError("It is empty.")


def _snapshot(number, title, rows, last, box):
    first = number + 2
    width, columns = _columns(rows[0], first)
    for k, row in enumerate(rows):
        if len(row.rstrip()) != _AHEAD + width * columns:
            raise ValueError(
                f"Line {first + k} is {len(row.rstrip())} wide, wanted {_AHEAD + width * columns}: {columns} numbers of"
                f" {width} columns behind the first {_AHEAD}."
            )
    words = [row[_AHEAD + width * j : _AHEAD + width * (j + 1)] for row in rows for j in range(columns)]
    for k, word in enumerate(words):
        if word.find(".") != words[k % columns].find(".") or word.endswith(" "):
            raise ValueError(f"Line {first + k // columns} has {word!r}, whose decimals are not below the others.")
    values = numbers(words, lambda k: f"Line {first + k // columns}").reshape(len(rows), -1, 3)
    time = _TIME.fullmatch(title)
    return Snapshot(
        number,
        values[:, 0],
        values[:, 1] if columns == 6 else None,
        _vectors(box, last),
        None if time is None else float(numbers([time.group(1)], lambda k: f"Line {number}, t=,")[0]),
    )


def _columns(row, line):
    """How wide numbers are, and how many there are of an atom."""
    points = [k for k, character in enumerate(row) if character == "." and k >= _AHEAD]
    width = points[1] - points[0] if len(points) > 1 else 0
    if len(points) not in (3, 6) or points[2] - points[1] != width:
        raise ValueError(f"Line {line} is {row[:80]!r}, wanted three positions behind 20 columns, or velocities, too.")
    return width, len(points)


def _vectors(text, line):
    found = numbers(text.split(), lambda k: f"Line {line}, the box,")
    if len(found) not in (3, 9):
        raise ValueError(f"Line {line} is {text[:60]!r}, wanted 3 or 9 numbers of the box.")
    vectors = np.zeros((3, 3))
    for (i, j), value in zip(_ORDER, found, strict=False):
        vectors[i, j] = value
    return vectors if np.any(found != 0) else None  # programs without a box write zeros


@contextlib.contextmanager
def gro_writer(path: Path, topology: Topology):
    before = [
        f"{(label.residue + 1) % 100_000:5d}{label.residue_name:<5}{label.name:>5}{(k + 1) % 100_000:5d}"
        for k, label in enumerate(labels(topology))
    ]
    with open(path, "w", encoding="ascii") as file:

        def append(frames: Frames) -> None:
            for k, vectors in enumerate(boxes_to_write(frames)):
                title = "reverlet" if frames.times is None else f"reverlet t= {float(frames.times[k])!r}"
                values = frames.positions[k].astype(float)
                _require_room("positions", values, 999.9)
                rows = ["".join(f"{x:8.3f}" for x in row) for row in values]
                if frames.velocities is not None:
                    _require_room("velocities", frames.velocities[k], 99.9)
                    rows = [
                        r + "".join(f"{x:8.4f}" for x in v) for r, v in zip(rows, frames.velocities[k], strict=True)
                    ]
                upright = np.all(vectors == vectors * np.eye(3))
                box = "".join(f"{vectors[i, j]:15.9f}" for i, j in _ORDER[: 3 if upright else 9])
                file.write(f"{title}\n{topology.num_atoms:5d}\n")
                file.writelines(f"{b}{row}\n" for b, row in zip(before, rows, strict=True))
                file.write(box + "\n")
            file.flush()

        yield append


def _require_room(name, values, most):
    if np.max(abs(values)) > most:
        raise ValueError(f"GRO has room for {name} up to {most} nm or nm/ps; wanted `.trr` or `.h5`.")
