import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from .._box import AbstractBox, require_known
from .._fields import checked, count, counts, optional, positive_number
from .._misc import (
    as_array,
    is_concrete,
    require_constant,
    require_finite,
    require_flag,
    require_float,
    require_instance,
    require_resolved,
)
from ._base import AbstractNeighborSearch, Neighbors


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
    look along both; `window` and `capacity` as above; `block`; `near`, the most neighbors of an atom, for lists with a
    view per atom (`Neighbors.of_atom`), without which potentials of an atom and its neighbors take no list.

    **Errors:** `ValueError` for numbers that are not positive.

    **Reference:** the layout follows S. Páll and B. Hess, Comput. Phys. Commun. 184, 2641 (2013).
    """

    cutoff: float = checked(positive_number("nm"), static=True)
    skin: float = checked(positive_number("nm"), static=True)
    every: int = checked(count(), static=True)
    cells: tuple[int, int, int] = checked(counts(1), static=True)
    reach: tuple[int, int] = checked(counts(1, 2), static=True)
    window: int = checked(count(), static=True)
    capacity: int = checked(count(), static=True)
    block: int = checked(count(), static=True, default=8)
    near: int | None = checked(optional(count()), static=True, default=None)

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
        shrink: float = 0.0,
        per_atom: bool = False,
    ) -> "CellList":
        """A search that suits a configuration, found by trying it there.

        **Arguments:** `positions` (atoms, 3) or (samples, atoms, 3), nm; `room`, how many times larger than needed now
        `window`, `capacity` and `near` are made, since the liquid fluctuates; `shrink`, by which part of it a height of
        the box may shrink at constant pressure, such as 0.05; `per_atom`, whether lists have the view per atom.

        **Errors:** `ValueError` for a box without volume or smaller than twice the cutoff and skin, and for positions
        that are traced, not finite, or as far out as `State` refuses them.
        """
        positions = as_array(positions)
        if isinstance(positions, Tracer):
            raise ValueError("`CellList.fit` got traced positions; wanted numbers: call it outside `jax.jit`.")
        require_float("positions", positions)
        require_finite("positions", positions)
        require_resolved("positions", positions)
        require_instance("box", box, AbstractBox)
        require_known(box)
        require_constant("room", room)
        if not 1 <= room < math.inf:
            raise ValueError(f"`room` is {room}; wanted at least 1, such as 1.2.")
        require_constant("shrink", shrink)
        if not 0 <= shrink < 1:
            raise ValueError(f"`shrink` is {shrink}; wanted a part of the heights of the box, such as 0.05.")
        require_flag("per_atom", per_atom)
        cls(cutoff, skin, every, (1, 1, 1), (1, 1), window=1, capacity=1, block=block)  # refuses what is no number
        smallest = (1 - shrink) * np.asarray(box.heights, float)
        _require_room(jnp.asarray(smallest), cutoff, skin)
        configurations = positions.reshape(-1, *positions.shape[-2:])
        atoms = configurations.shape[1]
        heights = [float(h) for h in box.heights]
        edge = (block * float(box.volume) / atoms) ** (1 / 3)  # of a cube with so many atoms
        columns = [max(1, round(h / edge)) for h in heights[:2]]
        cells = (columns[0], columns[1], max(1, round(10 * heights[2] / edge)))
        reach = [math.ceil((cutoff + skin) * n / h) for n, h in zip(columns, smallest[:2], strict=True)]
        search = cls(cutoff, skin, every, cells, (reach[0], reach[1]), 1, 1, block, 1 if per_atom else None)
        for _ in range(2):  # what a window too small has hidden is found the second time
            needed = np.max([_needed(search, configuration, box) for configuration in configurations], axis=0)
            search = search.enlarged(jnp.asarray(needed))
        return search.enlarged(room * search.room())

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
        return jnp.array([self.capacity, self.window, self.near or 0], jnp.int32)

    def enlarged(self, needed):
        capacity, window, near = (math.ceil(float(n)) for n in needed)
        return dataclasses.replace(
            self,
            capacity=max(self.capacity, capacity),
            window=max(self.window, window),
            near=None if self.near is None else max(self.near, near),
        )

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
            kept, found = _compressed(candidates, jnp.any(near, axis=0), self.capacity, n)
            if self.near is None:
                return kept, found, None, jnp.zeros((), found.dtype)
            near &= candidates != row[:, None]
            of_atom, most = jax.vmap(lambda near: _compressed(candidates, near, self.near, n))(near)
            return kept, found, of_atom, jnp.max(most)

        blocks_of = (rows, looked_at, from_, many)
        columns, found, of_atom, most = jax.lax.map(columns_of, blocks_of, batch_size=min(64, blocks))
        needed = jnp.stack([jnp.max(found), jnp.max(many), jnp.max(most)]).astype(jnp.int32)
        complete = jnp.all(needed <= self.room()) & self.fits(box.heights)
        if of_atom is not None:
            of_atom = of_atom.reshape(blocks * b, -1)[slots]
        made = (rows, columns, slots, positions, box, needed, complete)
        return Neighbors(*made, self.cutoff, self.skin, of_atom)

    def fits(self, heights):
        far = self.cutoff + self.skin
        fits = far <= 0.5 * jnp.min(heights) * (1 + 1e-6)
        for k in range(2):
            if 2 * self.reach[k] + 1 < self.cells[k]:
                fits &= self.reach[k] * heights[k] >= self.cells[k] * far * (1 - 1e-6)
        return fits

    def _near(self, positions, box, row, candidates):
        """Whether an atom of the row and a candidate are within the reach of one another; nothing is near no atom."""
        n = len(positions)
        a, b = ([positions.at[k, axis].get(mode="clip") for axis in range(3)] for k in (row, candidates))
        d = box.minimum_image(*(p[:, None] - q for p, q in zip(a, b, strict=True)))
        near = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < (self.cutoff + self.skin) ** 2
        return near & (row != n)[:, None] & (candidates != n)


def _compressed(values, kept, room, nothing):
    """Those that are kept, in order, the first `room` of them, with `nothing` behind; and how many there are."""
    to = jnp.where(kept, jnp.cumsum(kept) - 1, room)
    return jnp.full(room, nothing, values.dtype).at[to].set(values, mode="drop"), jnp.sum(kept)


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
