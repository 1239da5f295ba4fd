import abc
import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ._box import AbstractBox
from ._misc import is_concrete


class Neighbors(eqx.Module):
    """Which atoms may be near which: blocks of atoms, each with all atoms near any of its own.

    A dense layout: what is summed over a row is gathered, nothing is scattered, so that a sum has the same order
    whenever the list is the same. Atoms are their own neighbors here, as their distance is zero.

    A potential that is given a list in which pairs may be missing returns NaN, and so do its derivatives.
    """

    rows: Int[Array, "blocks block"]
    """The atoms of every block; the number of atoms where there is none."""
    columns: Int[Array, "blocks capacity"]
    """The atoms near any of them; the number of atoms where there is none."""
    slots: Int[Array, " atoms"]
    """Where each atom is in `rows`, read as one long row."""
    positions: Float[Array, "atoms 3"]
    """Where the atoms were when this was made, nm."""
    needed: Int[Array, "2"]
    """How large `capacity` and `window` of the search would have to be. Pairs are missing where one was less."""
    complete: Bool[Array, ""]
    """Whether no pairs were missing when this was made."""
    cutoff: float = eqx.field(static=True)
    """Up to where all pairs are there, nm."""
    skin: float = eqx.field(static=True)
    """nm."""

    def moved(self, positions: Float[Array, "atoms 3"]) -> Float[Array, ""]:
        """How far the atom that moved most has moved since, nm."""
        return jnp.max(jnp.sum((positions - self.positions) ** 2, axis=1)) ** 0.5

    def usable(self, positions: Float[Array, "atoms 3"]) -> Bool[Array, ""]:
        """Whether no pairs within the cutoff can be missing at these positions (nm)."""
        return self.complete & (self.moved(positions) <= 0.5 * self.skin)


class AbstractNeighborSearch(eqx.Module):
    """Finds the pairs of atoms nearer than a cutoff and a skin; a pure function of positions and box.

    A list stays right until an atom has moved by half the skin.
    """

    cutoff: AbstractVar[float]
    """nm."""
    skin: AbstractVar[float]
    """nm."""
    every: AbstractVar[int]
    """How many time steps a list is used for."""

    @abc.abstractmethod
    def find(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Neighbors:
        """The list for these positions (nm)."""

    @abc.abstractmethod
    def check(self, heights: Float[Array, "*boxes 3"]) -> None:
        """Refuses boxes (by their heights, nm) that the search does not work in; traced ones are let through."""

    @abc.abstractmethod
    def room(self) -> Int[Array, "2"]:
        """What `Neighbors.needed` must not exceed."""

    @abc.abstractmethod
    def enlarged(self, needed: Int[Array, "2"] | Float[Array, "2"]) -> "AbstractNeighborSearch":
        """A search with room for what a list `needed`."""


class CellList(AbstractNeighborSearch):
    """A search whose cost grows like the number of atoms: columns of cells, each sorted along the third axis.

    Atoms are sorted into columns of the box, and along each column; every `block` atoms that follow one another are a
    block. A block looks at the columns within reach, and in each at the atoms from its lower end less the reach to its
    upper end plus the reach, at most `window` of them, and keeps those nearer than the reach to any of its atoms, at
    most `capacity`. The reach is cutoff and skin. Use `CellList.fit` for numbers that suit a configuration.

    Blocks are there for speed: a processor with vector units works on 8 atoms against one list, at three times the
    pairs, much faster than on 8 lists. With `block=1` it is the usual list of each atom's own neighbors.

    **Arguments:** `cutoff` and `skin` (nm); `every`, how many time steps a list is used for; `cells`, the numbers of
    columns along the first and second lattice vector, and of cells along the third; `reach`, how many columns away to
    look along both; `window` and `capacity` as above; `block`.

    **Errors:** `ValueError` for numbers that are not positive.

    **Reference:** the layout follows S. Páll and B. Hess, Comput. Phys. Commun. 184, 2641 (2013).
    """

    cutoff: float = eqx.field(static=True)
    skin: float = eqx.field(static=True)
    every: int = eqx.field(static=True)
    cells: tuple[int, int, int] = eqx.field(static=True)
    reach: tuple[int, int] = eqx.field(static=True)
    window: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    block: int = eqx.field(static=True, default=8)

    def __check_init__(self):
        for name, value in (("cutoff", self.cutoff), ("skin", self.skin)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` is {value}; wanted a finite number more than zero, in nm.")
        numbers = [("every", self.every), ("window", self.window), ("capacity", self.capacity), ("block", self.block)]
        numbers += [(f"cells[{k}]", n) for k, n in enumerate(self.cells)]
        numbers += [(f"reach[{k}]", n) for k, n in enumerate(self.reach)]
        for name, value in numbers:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}; wanted a whole number, at least 1.")

    @classmethod
    def fit(
        cls,
        positions: ArrayLike,
        box: AbstractBox,
        *,
        cutoff: float,
        skin: float = 0.1,
        every: int = 20,
        block: int = 8,
        room: float = 1.2,
    ) -> "CellList":
        """A search that suits a configuration, found by trying it there.

        **Arguments:** `positions` (atoms, 3) or (samples, atoms, 3), nm; `room`, how many times larger than needed now
        `window` and `capacity` are made, since the liquid fluctuates.

        **Errors:** `ValueError` for a box without volume or smaller than twice the cutoff and skin, and where positions
        are traced.
        """
        positions = jnp.asarray(positions)
        if isinstance(positions, Tracer):
            raise ValueError("`CellList.fit` got traced positions; wanted numbers: call it outside `jax.jit`.")
        if not room >= 1:
            raise ValueError(f"`room` is {room}; wanted at least 1, such as 1.2.")
        _require_room(box.heights, cutoff, skin)
        cls(cutoff, skin, every, (1, 1, 1), (1, 1), window=1, capacity=1, block=block)  # refuses what is no number
        configurations = positions.reshape(-1, *positions.shape[-2:])
        atoms = configurations.shape[1]
        heights = [float(h) for h in box.heights]
        edge = (block * float(box.volume) / atoms) ** (1 / 3)  # of a cube with so many atoms
        columns = [max(1, round(h / edge)) for h in heights[:2]]
        cells = (columns[0], columns[1], max(1, round(10 * heights[2] / edge)))
        reach = [math.ceil((cutoff + skin) * n / h) for n, h in zip(columns, heights[:2], strict=True)]
        search = cls(cutoff, skin, every, cells, (reach[0], reach[1]), window=1, capacity=1, block=block)
        for _ in range(2):  # what a window too small has hidden is found the second time
            needed = np.max([_needed(search, configuration, box) for configuration in configurations], axis=0)
            search = search.enlarged(jnp.asarray(needed))
        return search.enlarged(room * jnp.array([search.capacity, search.window]))

    def check(self, heights):
        _require_room(heights, self.cutoff, self.skin)
        if is_concrete(heights):
            smallest = np.min(np.asarray(heights).reshape(-1, 3), axis=0)
            for n, away, height in zip(self.cells, self.reach, smallest, strict=False):
                if 2 * away + 1 < n and away * height < n * (self.cutoff + self.skin) * (1 - 1e-6):
                    raise ValueError(
                        f"`reach` is {self.reach} of {self.cells[:2]} columns, which in a box {height:.6g} nm high is"
                        f" less than cutoff and skin, {self.cutoff + self.skin:.6g} nm. Was the search made for a"
                        " larger box? Make one for this box with `CellList.fit`."
                    )

    def room(self):
        return jnp.array([self.capacity, self.window], jnp.int32)

    def enlarged(self, needed):
        capacity, window = (math.ceil(float(n)) for n in needed)
        return dataclasses.replace(self, capacity=max(self.capacity, capacity), window=max(self.window, window))

    def find(self, positions, box):
        n, b = len(positions), self.block
        nx, ny, nz = self.cells
        box = box.astype(positions.dtype)
        fractions = jax.vmap(box.fractions)(positions)
        cell = lambda k: jnp.clip((fractions[:, k] * self.cells[k]).astype(jnp.int32), 0, self.cells[k] - 1)
        keys = (cell(0) * ny + cell(1)) * nz + cell(2)
        order = jnp.argsort(keys, stable=True).astype(jnp.int32)
        keys = keys[order]
        before = lambda key: jnp.searchsorted(keys, key).astype(jnp.int32)

        # atoms of a column follow one another, padded to whole blocks
        starts = before(nz * jnp.arange(nx * ny + 1, dtype=jnp.int32))
        starts, counts = starts[:-1], jnp.diff(starts)
        ends = jnp.cumsum(-(-counts // b))  # in blocks
        first_block = ends - (-(-counts // b))
        column = keys // nz
        slot = first_block[column] * b + jnp.arange(n, dtype=jnp.int32) - starts[column]
        blocks = (n + nx * ny * (b - 1)) // b
        rows = jnp.full(blocks * b, n, jnp.int32).at[slot].set(order, unique_indices=True).reshape(blocks, b)
        slots = jnp.zeros(n, jnp.int32).at[order].set(slot, unique_indices=True)

        # the columns that every block looks at, and from where to where in them
        home = jnp.searchsorted(ends, jnp.arange(blocks), side="right").astype(jnp.int32)
        used = home < nx * ny
        home = jnp.where(used, home, 0)
        height = jnp.full(blocks * b, -1, jnp.int32).at[slot].set(keys % nz, unique_indices=True).reshape(blocks, b)
        low, high = height[:, 0], jnp.max(height, axis=1)
        away = jnp.ceil((self.cutoff + self.skin) / box.heights[2] * nz).astype(jnp.int32)
        looked_at = jnp.stack(
            [
                (home // ny + dx) % nx * ny + (home + dy) % ny
                for dx in _offsets(self.reach[0], nx)
                for dy in _offsets(self.reach[1], ny)
            ],
            axis=1,
        )

        def rank(cell):  # of the first atom at or after a cell of the endless column
            turns = cell // nz
            return turns * counts[looked_at] + before(looked_at * nz + cell - turns * nz) - starts[looked_at]

        from_ = rank(jnp.broadcast_to((low - away)[:, None], looked_at.shape))
        to = rank(jnp.broadcast_to((high + away + 1)[:, None], looked_at.shape))
        many = jnp.where(used[:, None], jnp.minimum(to - from_, counts[looked_at]), 0)

        def columns_of(block):
            row, columns, from_, many = block
            k = jnp.arange(self.window, dtype=jnp.int32)
            place = starts[columns][:, None] + (from_[:, None] + k) % jnp.maximum(counts[columns], 1)[:, None]
            candidates = jnp.where(k < many[:, None], order.at[place].get(mode="clip"), n).ravel()
            near = self._near(positions, box, row, candidates)
            to = jnp.where(near, jnp.cumsum(near) - 1, self.capacity)
            kept = jnp.full(self.capacity, n, jnp.int32).at[to].set(candidates, mode="drop")
            return kept, jnp.sum(near)

        columns, found = jax.lax.map(columns_of, (rows, looked_at, from_, many), batch_size=min(64, blocks))
        needed = jnp.stack([jnp.max(found), jnp.max(many)]).astype(jnp.int32)
        complete = jnp.all(needed <= self.room()) & self._fits(box.heights)
        return Neighbors(rows, columns, slots, positions, needed, complete, self.cutoff, self.skin)

    def _fits(self, heights):
        """Whether the columns looked at are enough, for a box whose heights `check` could not see."""
        far = self.cutoff + self.skin
        fits = far <= 0.5 * jnp.min(heights) * (1 + 1e-6)
        for k in range(2):
            if 2 * self.reach[k] + 1 < self.cells[k]:
                fits &= self.reach[k] * heights[k] >= self.cells[k] * far * (1 - 1e-6)
        return fits

    def _near(self, positions, box, row, candidates):
        n = len(positions)
        a, b = ([positions.at[k, axis].get(mode="clip") for axis in range(3)] for k in (row, candidates))
        d = box.minimum_image(*(p[:, None] - q for p, q in zip(a, b, strict=True)))
        near = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < (self.cutoff + self.skin) ** 2
        return jnp.any(near & (row != n)[:, None], axis=0) & (candidates != n)


@eqx.filter_jit
def _needed(search, positions, box):
    return search.find(positions, box).needed


def _offsets(reach: int, columns: int) -> list[int]:
    """How far away the columns within reach are, each once."""
    return list(range(-reach, reach + 1)) if 2 * reach + 1 < columns else list(range(columns))


def _require_room(heights: Float[Array, "*boxes 3"], cutoff: float, skin: float) -> None:
    if not is_concrete(heights):
        return
    smallest = float(np.min(np.asarray(heights)))  # by NumPy: JAX would trace it inside a compiled function
    if math.isinf(smallest):
        raise ValueError(
            "A `CellList` got an open box, which it has no cells for; wanted a periodic box. Leave the search out, or"
            " put the molecules into a box so large that their images are beyond the cutoff."
        )
    if cutoff + skin > 0.5 * smallest * (1 + 1e-6):
        raise ValueError(
            f"Cutoff and skin are {cutoff + skin:.6g} nm together; wanted at most half the smallest height of the box,"
            f" which is {0.5 * smallest:.6g} nm here. Leave the search out: a system this small has no use for one."
        )


class Wear(eqx.Module):
    """The worst that happened to the lists of a trajectory."""

    moved: Float[Array, ""]
    """How far an atom moved while a list was in use, nm."""
    needed: Int[Array, "2"]
    """The most that a list needed."""

    @staticmethod
    def none(dtype: Any) -> "Wear":
        """Of no list."""
        return Wear(jnp.zeros((), dtype), jnp.zeros(2, jnp.int32))

    def and_of(self, positions: Float[Array, "atoms 3"], neighbors: Neighbors) -> "Wear":
        """With a list in use at `positions` (nm)."""
        # what comes after a failure is NaN, and tells nothing of its cause
        needed = jnp.where(jnp.all(jnp.isfinite(neighbors.positions)), neighbors.needed, 0)
        return Wear(jnp.fmax(self.moved, neighbors.moved(positions)), jnp.maximum(self.needed, needed))

    def too_much(self, search: AbstractNeighborSearch) -> Bool[Array, ""]:
        """Whether pairs may have been missed."""
        return (self.moved > 0.5 * search.skin) | jnp.any(self.needed > search.room())
