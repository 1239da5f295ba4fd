"""Names of atoms and residues, of which PDB and GRO files have some and reverlet has none."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .._topology import Topology
from ._frames import symbols_with_isotopes

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Label(NamedTuple):
    """Of an atom."""

    residue: int
    """Counts from 0."""
    residue_name: str
    """HOH if it is water, MOL if not."""
    name: str
    """Up to four characters, its own in the residue."""
    symbol: str


def runs_of(molecules: np.ndarray) -> list[np.ndarray]:
    """The runs of neighboring atoms of one molecule: what other formats know as residues."""
    return np.split(np.arange(len(molecules)), np.flatnonzero(np.diff(molecules)) + 1)


def labels(topology: Topology) -> Iterator[Label]:
    """Of every atom. A run of atoms of one molecule is a residue."""
    elements, symbols = topology.elements, symbols_with_isotopes(topology)
    for number, run in enumerate(runs_of(np.asarray(topology.molecules))):
        water = sorted(elements[k] for k in run) == ["H", "H", "O"]
        seen: dict[str, int] = {}
        for k in run:
            symbol = symbols[k]
            seen[symbol] = seen.get(symbol, 0) + 1
            name = "O" if water and symbol == "O" else symbol + _short(seen[symbol], 4 - len(symbol))
            yield Label(number, "HOH" if water else "MOL", name, symbol)


def _short(number, width):
    """A number in so many characters, with letters for digits where there are many."""
    if number < 10**width:
        return str(number)
    number += 10 * 36 ** (width - 1) - 10**width  # behind the decimal ones, with a letter first
    if number >= 36**width:
        raise ValueError(
            "There are no names of four characters for so many atoms of one element in a molecule; wanted `.extxyz` or"
            " `.h5`."
        )
    return "".join(_DIGITS[number // 36**k % 36] for k in reversed(range(width)))
