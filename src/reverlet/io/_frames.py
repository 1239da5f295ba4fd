"""What all formats have in common, in NumPy: from there to a trajectory and back."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._box import OpenBox, OrthorhombicBox, TriclinicBox
from .._dynamics import Trajectory
from .._elements import ISOTOPES, MASSES, SYMBOLS, atomic_number
from .._misc import is_concrete, require_finite, require_instance, require_resolved
from .._state import State
from .._topology import Topology

_LETTERS = re.compile(r"[^A-Za-z]*([A-Za-z]+)")
_ION_NAMES = {"Sod": "Na", "Pot": "K"}
"""Of CHARMM, which begin as other elements do."""


_OTHER_NAMES = (
    re.compile(
        r"^(?!.*ang(ular|_?vel)).*(veloc|(^|_)velo?(_|$))|^v$|^v(el)?_?[xyz]$|^(atom(ic)?_)?moment(um|a)(_?[xyz])?$"
    ),
    re.compile(r"^(atom(ic)?_?)?mass(es)?(_?(u|amu|da|daltons?))?$"),
    re.compile(r"^mol(ecules?)?_?(id|ids|index|indices|number|numbers)$"),
)
"""Of velocities, masses and molecules, which would be passed over."""


class Request(NamedTuple):
    """What of a file is wanted."""

    topology: Topology | None
    """What the atoms are; without it, the file has to say so."""
    stride: int
    """Every how many frames."""
    chunk: int
    """How many of these at a time."""
    time_unit: float | None
    """ps, of times whose unit the file does not say."""
    velocity_unit: float | None
    """nm/ps, of velocities whose unit the file does not say."""
    interval: float | None
    """ps between the frames of a file that has no times."""


class Frames(NamedTuple):
    """A trajectory in NumPy arrays; lengths in nm, times in ps."""

    topology: Topology
    positions: np.ndarray
    """(frames, atoms, 3)."""
    velocities: np.ndarray | None
    vectors: np.ndarray | None
    """Of the box, (frames, 3, 3); none for an open one."""
    times: np.ndarray | None

    @classmethod
    def from_trajectory(cls, topology: Topology, trajectory: Trajectory | State) -> "Frames":
        """From what a user has; refused unless it is one trajectory of whole, finite states."""
        require_instance("topology", topology, Topology)
        require_instance("trajectory", trajectory, Trajectory | State)
        if isinstance(trajectory, State):
            one = trajectory.positions.ndim == 2
            states = jax.tree.map(lambda x: x[None], trajectory) if one else trajectory
            times = None
        else:
            states, times = trajectory.records, np.asarray(trajectory.times)
            times = None if np.all(np.isnan(times)) else times  # as of a file without
        if not isinstance(states, State):
            raise ValueError(
                f"The records of the trajectory are of type `{type(states).__name__}`; wanted whole states, as `nve`"
                " keeps without `record`."
            )
        shape = states.positions.shape
        if len(shape) != 3 or shape[0] == 0:
            raise ValueError(
                f"The positions have shape {shape}; wanted (frames, {topology.num_atoms}, 3), one trajectory of at"
                " least one frame. Of many, write one after the other."
            )
        if shape[1] != topology.num_atoms:
            raise ValueError(f"The positions are of {shape[1]} atoms; wanted the topology's {topology.num_atoms}.")
        if not is_concrete((topology, states)):
            raise ValueError("`write` got traced arrays; wanted values: call it outside of `jax.jit`.")
        velocities = np.asarray(states.velocities) if states.has_velocities else None
        for name, values in (("positions", states.positions), ("velocities", velocities), ("times", times)):
            if values is not None:
                require_finite(name, values)
        vectors = None
        if not isinstance(states.box, OpenBox):
            vectors = np.asarray(jax.vmap(lambda box: box.vectors)(states.box))
        return cls(topology, np.asarray(states.positions), velocities, vectors, times)

    def trajectory(self) -> Trajectory:
        """What `read` returns; refused unless it is finite, with boxes that are."""
        positions = jnp.asarray(self.positions)
        if positions.ndim != 3 or 0 in positions.shape:
            raise ValueError(f"It has no atoms or no frames: its positions have shape {positions.shape}.")
        velocities = None if self.velocities is None else jnp.asarray(self.velocities, positions.dtype)
        for name, values in (("positions", positions), ("velocities", velocities), ("times", self.times)):
            if values is not None:
                require_finite(name, values)
        require_resolved("positions", positions)
        times = np.full(len(positions), np.nan) if self.times is None else np.asarray(self.times, float)
        boxes = self._boxes(positions.dtype)
        # not traced states, which would not be checked: their arrays have been
        states = jax.vmap(State)(positions, velocities, boxes)
        return Trajectory(times, states, jax.tree.map(lambda x: x[-1], states))

    def _boxes(self, dtype):
        if self.vectors is None:
            return OpenBox()  # pyright: ignore[reportCallIssue]
        with np.errstate(over="ignore"):  # of what is refused
            for one in np.unique(self.vectors, axis=0):
                TriclinicBox(one)  # refuses what is no box
        vectors = jnp.asarray(self.vectors, dtype)
        diagonal = self.vectors * np.eye(3)
        # in text, right angles come out of cosines that are zero to 1e-9
        if np.allclose(self.vectors, diagonal, rtol=0, atol=1e-8) and np.all(diagonal >= 0):
            return jax.vmap(OrthorhombicBox)(jnp.diagonal(vectors, axis1=1, axis2=2))
        return jax.vmap(TriclinicBox)(vectors)


class Snapshot(NamedTuple):
    """One frame of a text, in nm and ps."""

    line: int
    """The first of it, from 1 on."""
    positions: np.ndarray
    velocities: np.ndarray | None
    vectors: np.ndarray | None
    time: float | None


def gathered(topology: Topology, snapshots: Iterator[Snapshot], request: Request) -> Iterator[Frames]:
    """Chunks of what is wanted of the frames of a text; refused where some have what others lack."""
    optional = ("velocities", "vectors", "time")
    first, picked = None, []
    for k, snapshot in enumerate(snapshots):
        first = snapshot if first is None else first
        for name in optional:
            if (getattr(snapshot, name) is None) != (getattr(first, name) is None):
                have, lack = (0, k) if getattr(snapshot, name) is None else (k, 0)
                what = "a box" if name == "vectors" else "a time" if name == "time" else "velocities"
                raise ValueError(
                    f"Frame {have} has {what} and frame {lack} has not (frame {k} begins in line {snapshot.line});"
                    " wanted the same in all frames."
                )
        if k % request.stride == 0:
            _require_box(snapshot, picked[-1].vectors if picked else None)
            picked.append(snapshot)
        if len(picked) == request.chunk:
            yield _stacked(topology, picked)
            picked = []
    if picked:
        yield _stacked(topology, picked)


def _require_box(snapshot, before):
    """Refused where it is none, with its line; most are that of the frame before."""
    if snapshot.vectors is not None and not np.array_equal(snapshot.vectors, before):
        try:
            TriclinicBox(snapshot.vectors)
        except ValueError as error:
            raise ValueError(f"The frame that begins in line {snapshot.line}: {error}") from None


def _stacked(topology, snapshots):
    _, positions, velocities, vectors, times = zip(*snapshots, strict=True)
    optional = (None if c[0] is None else np.array(c, float) for c in (velocities, vectors, times))
    return Frames(topology, np.array(positions, float), *optional)


def merged(chunks: Sequence[Frames]) -> Frames:
    """All frames in one; refused where a file gives none."""
    if not chunks:
        raise ValueError("It has no frames.")
    first = chunks[0]
    if len(chunks) == 1:
        return first
    _, positions, *optional = zip(*chunks, strict=True)
    if any(len({x is None for x in c}) > 1 for c in optional):  # as in DCD
        raise ValueError("Some of its frames have a box and others have not.")
    return Frames(
        first.topology, np.concatenate(positions), *(None if c[0] is None else np.concatenate(c) for c in optional)
    )


def parts(num_frames: int, request: Request) -> Iterator[slice]:
    """The frames wanted of so many, in chunks."""
    width = request.stride * request.chunk
    for start in range(0, num_frames, width):
        yield slice(start, min(start + width, num_frames), request.stride)


def require_elements(topology: Topology, elements: Sequence[str | None]) -> Topology:
    """The topology, unless a file says that its atoms are others; `None` where it says nothing."""
    if len(elements) != topology.num_atoms:
        raise ValueError(f"It has {len(elements)} atoms, `topology` has {topology.num_atoms}.")
    for k, (got, wanted) in enumerate(zip(elements, topology.elements, strict=True)):
        if got in (None, wanted):
            continue
        element, mass = ISOTOPES.get(got, (got, None))
        if element != wanted:
            raise ValueError(f"Its atom {k} is {got}, that of `topology` {wanted}.")
        if mass is not None and abs(float(topology.masses[k]) - mass) > 0.01 * mass:
            raise ValueError(f"Its atom {k} is {got}, that of `topology` {wanted} of {topology.masses[k]:.6g} u.")
    return topology


def require_names(topology: Topology, names: Sequence[str | None], place: Callable[[int], str]) -> None:
    """Refused where names of atoms contradict the topology, with the place in the file; `None` where there is none.

    Names do not say elements (CA), but most begin as the symbol does: one that begins as another of the commonest
    elements, or is the symbol of another, is none of it. Not of beads, whose masses are no element's.
    """
    symbols, masses = topology.elements, np.asarray(topology.masses, float)
    for k, (name, symbol) in enumerate(zip(names, symbols, strict=True)):
        letters = _LETTERS.match(name or "")
        said = "" if letters is None else letters.group(1).capitalize()
        if said[:1] == symbol[0] or _ION_NAMES.get(said) == symbol:
            continue
        bead = symbol != "H" and abs(masses[k] - MASSES[symbol]) > 0.1 * MASSES[symbol]
        if not bead and said and (said[0] in "HCNOSPF" or said in MASSES):
            raise ValueError(f"{place(k)} is of an atom {name}, that of `topology` is {symbol}.")


def require_known_names(names: Iterable[str], known: tuple[tuple[str, ...], ...], place: str, request: Request) -> None:
    """Refused where a name of a file is like those of velocities, masses or molecules, whose known ones are not there:
    it would be passed over. With `topology`, masses and molecules are its."""
    names = [name.lower() for name in names]
    for pattern, good in list(zip(_OTHER_NAMES, known, strict=True))[: 3 if request.topology is None else 1]:
        other = next((name for name in names if pattern.search(name)), None)
        if other is not None and not set(good) & set(names):
            raise ValueError(
                f"{place} `{other}`, which is none of {', '.join(good)}, and would be passed over; wanted one of these,"
                " or a name that is nothing like it."
            )


def require_masses(topology: Topology, masses: np.ndarray, place: Callable[[int], str], most: float = 0.01) -> None:
    """Refused where a file says other masses, but for rounding to a part of them: which its velocities belong to is
    not known."""
    wanted = np.asarray(topology.masses, float)
    bad = np.flatnonzero(abs(masses - wanted) > most * wanted)
    if len(bad) > 0:
        k = bad[0]
        raise ValueError(f"{place(k)} has a mass of {masses[k]:.6g} u, `topology` one of {wanted[k]:.6g} u.")


def require_order(ids: np.ndarray, request: Request) -> None:
    """Refused where identifiers say that the atoms of a file may be in another order than those of `topology`."""
    back = np.flatnonzero(ids[1:] <= ids[:-1])  # differences of unsigned numbers wrap
    if request.topology is not None and len(back) > 0:
        raise ValueError(
            f"Its atoms {back[0]} and {back[0] + 1} have the `id` {ids[back[0]]} and {ids[back[0] + 1]}, and `topology`"
            " may be in the order of the file or of the `id`; wanted a file sorted by `id`."
        )


def topology_of(
    elements: Sequence[str],
    *,
    masses: np.ndarray | None = None,
    molecules: np.ndarray | None = None,
    bonds: np.ndarray | None = None,
) -> Topology:
    """From what a file says; molecules that are not given, or that bonds join, are those connected by bonds."""
    if len(elements) == 0:
        raise ValueError("It has no atoms.")
    bonds = np.zeros((0, 2), int) if bonds is None else np.asarray(bonds)
    return Topology.from_elements(
        list(elements),
        masses=masses,
        molecules=joined(np.arange(len(elements)) if molecules is None else molecules, bonds).tolist(),
        bonds=sorted({(int(min(b)), int(max(b))) for b in bonds}),  # some files have them in both directions
    )


def require_symbols(symbols: Sequence[str], place: Callable[[int], str]) -> None:
    """Refused where one is not of an element, with its place in the file."""
    for k, symbol in enumerate(symbols):
        try:
            atomic_number(symbol)
        except ValueError as error:
            raise ValueError(f"{place(k)}: {error}") from None


def symbols_of(atomic_numbers: np.ndarray) -> list[str]:
    """The symbols of elements; refused where there is none of a number."""
    bad = np.flatnonzero((atomic_numbers < 1) | (atomic_numbers > len(SYMBOLS)))
    if len(bad) > 0:
        raise ValueError(f"Atom {bad[0]} has atomic number {atomic_numbers[bad[0]]}, wanted 1 to {len(SYMBOLS)}.")
    return [SYMBOLS[int(z) - 1] for z in atomic_numbers]


def symbols_with_isotopes(topology: Topology) -> list[str]:
    """The symbol of every atom, D and T where masses are theirs: for formats that have no room for masses."""
    masses = np.asarray(topology.masses, float)

    def symbol(k, element):
        # closely: masses that are moved to hydrogens for longer steps are 3.024 u
        near = (s for s, (of, mass) in ISOTOPES.items() if of == element and abs(masses[k] - mass) < 1e-3)
        return next(near, element)

    return [symbol(k, element) for k, element in enumerate(topology.elements)]


def joined(molecules: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Molecules renumbered 0, 1, … in the order of their first atoms, those that a bond joins being one."""
    _, parent = np.unique(molecules, return_inverse=True)
    parent = parent.reshape(-1)
    root = np.arange(len(parent))

    def find(k):
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    for i, j in bonds:
        if not (0 <= i < len(parent) and 0 <= j < len(parent)):
            raise ValueError(f"A bond joins atoms {i} and {j}, wanted 0 to {len(parent) - 1}.")
        root[find(parent[i])] = find(parent[j])
    roots = np.array([find(k) for k in parent])
    _, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]
