from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int

from ._elements import SYMBOLS, atomic_number, standard_mass
from ._fields import AbstractChecked, Indices, Parameter, Rule, indices, positive
from ._misc import as_array, as_float_array, is_concrete, require_count, require_instance, require_shape, require_whole


def _bonds() -> Any:
    def require(name, x):
        require_shape(name, x, (None, 2), "One pair of atom indices per bond.")
        require_whole(name, x)

    return Rule(as_array, require)


class Topology(AbstractChecked):
    """What of a system does not move: which atoms there are, how heavy, and how they are connected.

    Usually made by `Topology.from_elements`.

    **Errors:** `ValueError` for arrays whose lengths differ, masses that are not positive, or bonds between atoms
    that do not exist.
    """

    atomic_numbers: Indices = indices(lowest=1)
    masses: Parameter = positive("u")
    """u."""
    molecules: Indices = indices()
    """The index of the molecule each atom belongs to."""
    bonds: Indices = _bonds()
    """Pairs of bonded atoms."""

    @classmethod
    def from_elements(
        cls,
        elements: Sequence[str],
        *,
        masses: ArrayLike | None = None,
        molecules: Sequence[int] | None = None,
        bonds: Sequence[tuple[int, int]] = (),
    ) -> "Topology":
        """A topology from symbols of elements such as `["O", "H", "H"]`; D and T are hydrogen with their own masses.

        **Arguments:** `masses` (u), standard atomic weights by default; `molecules`, the molecule of each atom, every
        atom its own by default; `bonds`, pairs of atom indices.

        **Errors:** `ValueError` for an unknown element, `TypeError` for other than symbols, and as for the class.
        """
        if isinstance(elements, str) or not all(isinstance(e, str) for e in elements):
            raise TypeError(
                f"`elements` is {elements!r}; wanted a list of symbols, such as `['O', 'H']`. Of atomic numbers and"
                " masses: `rv.Topology(atomic_numbers, masses, molecules, bonds)`."
            )
        n = len(elements)
        return cls(
            jnp.array([atomic_number(e) for e in elements], dtype=int),
            as_float_array(np.array([standard_mass(e) for e in elements]) if masses is None else masses),
            jnp.arange(n) if molecules is None else as_array(molecules),
            as_array(bonds) if np.size(bonds) > 0 else jnp.zeros((0, 2), dtype=int),
        )

    def __check_init__(self):
        n = len(self.atomic_numbers)
        require_shape("masses", self.masses, (n,), "One per atom.")
        require_shape("molecules", self.molecules, (n,), "One per atom.")
        if is_concrete(self.bonds):
            bonds = np.asarray(self.bonds)
            outside = np.any((bonds < 0) | (bonds >= n), axis=1)
            if np.any(outside):
                raise ValueError(f"`bonds` has {bonds[outside][0].tolist()}; wanted atoms from 0 to {n - 1}.")
            first, second = bonds.T
            if np.any(first == second):
                raise ValueError(
                    f"`bonds` bind atom {first[first == second][0]} to itself; wanted two different atoms."
                )
            unique, counts = np.unique(np.sort(bonds, axis=1), axis=0, return_counts=True)
            if np.any(counts > 1):
                raise ValueError(f"`bonds` has {unique[counts > 1][0].tolist()} more than once; wanted each bond once.")

    @staticmethod
    def concatenate(topologies: "Sequence[Topology]") -> "Topology":
        """All atoms of these topologies, one after the other; their molecules stay different ones.

        **Errors:** `ValueError` for none.
        """
        for one in topologies:
            require_instance("topologies", one, Topology)
        if len(topologies) == 0:
            raise ValueError("`concatenate` got no topologies; wanted at least one.")
        atoms = np.cumsum([0] + [t.num_atoms for t in topologies])
        molecules = np.cumsum([0] + [int(np.max(np.asarray(t.molecules), initial=-1)) + 1 for t in topologies])
        join = lambda parts: jnp.concatenate(list(parts))
        return Topology(
            join(t.atomic_numbers for t in topologies),
            join(t.masses for t in topologies),
            join(t.molecules + int(before) for t, before in zip(topologies, molecules, strict=False)),
            join(t.bonds + int(before) for t, before in zip(topologies, atoms, strict=False)),
        )

    def repeat(self, num: int) -> "Topology":
        """`num` copies of these atoms, one copy after the other, each of molecules of its own.

        **Errors:** `ValueError` for a number less than one.
        """
        require_count("num", num)
        copies = np.arange(num)
        molecules = copies * (int(np.max(np.asarray(self.molecules), initial=-1)) + 1)
        bonds = self.bonds[None] + jnp.asarray(copies * self.num_atoms)[:, None, None]
        return Topology(
            jnp.tile(self.atomic_numbers, num),
            jnp.tile(self.masses, num),
            (self.molecules[None] + jnp.asarray(molecules)[:, None]).reshape(-1),
            bonds.reshape(-1, 2),
        )

    def __str__(self) -> str:
        n = np.shape(self.atomic_numbers)
        if not is_concrete((self.atomic_numbers, self.molecules)) or len(n) != 1:
            return f"Topology({n} atoms)"
        formula = " ".join(f"{element}{count}" for element, count in sorted(Counter(self.elements).items()))
        molecules = len(np.unique(np.asarray(self.molecules)))
        bonds = f", {len(self.bonds)} bonds" if len(self.bonds) > 0 else ""
        return f"Topology({n[0]} atoms: {formula}; {molecules} molecules{bonds})"

    @property
    def num_atoms(self) -> int:
        """How many atoms there are."""
        return len(self.atomic_numbers)

    @property
    def elements(self) -> tuple[str, ...]:
        """The symbol of every atom."""
        return tuple(SYMBOLS[int(z) - 1] for z in self.atomic_numbers)

    @property
    def angles(self) -> Int[Array, "angles 3"]:
        """Every two bonds that share an atom, which is the second of the three. Not where bonds are traced."""
        paths = _extend(_directed(self.bonds), self.bonds)
        return jnp.asarray(paths[paths[:, 0] < paths[:, 2]])

    @property
    def torsions(self) -> Int[Array, "torsions 4"]:
        """Every three bonds in a row, of four different atoms (proper torsions). Not where bonds are traced."""
        paths = _extend(_extend(_directed(self.bonds), self.bonds), self.bonds)
        return jnp.asarray(paths[paths[:, 1] < paths[:, 2]])

    def pairs_within(self, num_bonds: int) -> Int[Array, "pairs 2"]:
        """All pairs of atoms, each once, that at most `num_bonds` bonds lead from one to the other of.

        With 2, the pairs that most force fields exclude from their interactions; what 3 has more are their 1-4 pairs.
        Not where bonds are traced.

        **Errors:** `ValueError` for a number less than one.
        """
        require_count("num_bonds", num_bonds)
        paths = _directed(self.bonds)
        ends = [paths]
        for _ in range(num_bonds - 1):
            paths = _extend(paths, self.bonds)
            ends.append(paths[:, [0, -1]])
        pairs = np.concatenate(ends)
        return jnp.asarray(np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0))

    def intramolecular_pairs(self) -> Int[Array, "pairs 2"]:
        """All pairs of atoms of the same molecule, each once. Not where molecules are traced."""
        molecules = np.asarray(self.molecules)
        order = np.argsort(molecules, kind="stable")  # atoms of a molecule stay in order
        ends = np.searchsorted(molecules[order], molecules[order], side="right")
        first, second = _ragged(np.arange(len(order)) + 1, ends)
        return jnp.asarray(np.stack([order[first], order[second]], axis=1))


def _directed(bonds: Int[Array, "bonds 2"]) -> np.ndarray:
    """Every bond once in both directions, sorted by the atoms they come from."""
    forth = np.asarray(bonds)
    return np.unique(np.concatenate([forth, forth[:, ::-1]]), axis=0)


def _extend(paths: np.ndarray, bonds: Int[Array, "bonds 2"]) -> np.ndarray:
    """Each path of atoms with every atom that its last one is bonded to, unless the path has been there."""
    origins, targets = _directed(bonds).T
    path, bond = _ragged(*(np.searchsorted(origins, paths[:, -1], side=side) for side in ("left", "right")))
    longer = np.concatenate([paths[path], targets[bond][:, None]], axis=1)
    return longer[np.all(longer[:, :-1] != longer[:, -1:], axis=1)]


def _ragged(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and value of everything in `range(start, end)` of every row."""
    counts = ends - starts
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts - starts, counts)
