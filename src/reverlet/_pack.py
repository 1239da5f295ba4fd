import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._box import AbstractBox, OpenBox, OrthorhombicBox, require_known
from ._lattices import require_dense
from ._minimize import minimize
from ._misc import (
    as_array,
    require_count,
    require_finite,
    require_float,
    require_instance,
    require_key,
    require_number,
    require_positive,
    require_shape,
)
from ._neighbors import CellList
from ._potential import AbstractPairPotential, AbstractTruncation, Excluding, HarmonicBond, PlainCutoff
from ._state import State
from ._system import System
from ._topology import Topology

_MANY_ATOMS = 2000
"""From so many atoms on a neighbor list is faster than all pairs, and takes less memory."""


class _Soft(AbstractPairPotential):
    """u(r) = 100 kJ/mol (1 - r²/d²)² at distances below d, and nothing beyond."""

    cutoff: float = eqx.field(static=True)
    truncation: AbstractTruncation = PlainCutoff()

    def pair_energy(self, r2, i, j):
        del i, j
        return 100.0 * (1 - r2 / self.cutoff**2) ** 2


def pack(
    molecule: Topology | Sequence[Topology],
    positions: Float[Array, "_ 3"] | Sequence[Float[Array, "_ 3"]],
    num: int | Sequence[int],
    *,
    density: float | None = None,
    box: AbstractBox | None = None,
    contact: float = 0.2,
    progress: bool = True,
    key: PRNGKeyArray,
) -> tuple[Topology, State]:
    """A box of molecules to start from: on a lattice, turned at random, then moved apart until none overlap.

    Molecules keep their shape exactly, and the order in which they are given; kinds of molecules are mixed at random.
    Bonds, angles and so on know nothing of the force field yet, so `minimize` with it before you start; velocities are
    zero: see `maxwell_boltzmann`.

    **Arguments:** `molecule` and its `positions` (nm), or several of both; `num`, how many of each; `density` (u/nm³,
    such as `1.0 * units.GRAM_PER_CUBIC_CENTIMETER`) for a cube, or a periodic `box` of any shape; `contact`, how far
    atoms of different molecules are moved apart (nm). A larger one helps large atoms, a smaller one high densities.
    `progress`, as for `minimize`.

    **Errors:** `ValueError` for numbers and shapes that do not fit together, unless exactly one of `density` and `box`
    is given, and where some atoms of different molecules stay nearer than 0.8 contacts, as at too high a density.
    """
    require_key("key", key)
    if box is not None:
        require_known(box)
    if not isinstance(molecule, Sequence):
        require_instance("molecule", molecule, Topology)
    topologies = [molecule] if isinstance(molecule, Topology) else list(molecule)
    shapes = [positions] if isinstance(molecule, Topology) else list(positions)
    numbers: list[Any] = list(num) if isinstance(num, list | tuple) else [num]
    if not len(topologies) == len(shapes) == len(numbers) > 0:
        raise ValueError(
            f"`pack` got {len(topologies)} molecules, {len(shapes)} arrays of positions and {len(numbers)} numbers;"
            " wanted one of each for every kind of molecule."
        )
    shapes = [as_array(x) for x in shapes]
    for one, x, n in zip(topologies, shapes, numbers, strict=True):
        require_count("num", n)
        require_float("positions", x)
        require_shape("positions", x, (one.num_atoms, 3), "Of one molecule.")
        require_finite("positions", x)
    require_number("contact", contact)
    require_positive("contact", contact, "nm")
    topology = Topology.concatenate([one.repeat(n) for one, n in zip(topologies, numbers, strict=True)])
    box = _box_for(topology, density, box).astype(shapes[0].dtype)
    height = float(jnp.min(box.heights))
    if 2 * contact > height:
        raise ValueError(
            f"The box is {height:.4g} nm high at its smallest; wanted at least two contacts, {2 * contact:.4g} nm: more"
            " molecules, or a lower density."
        )

    # what is done once is done in NumPy: JAX would compile every line of it
    placed, own, search = _placed(shapes, numbers, box, key), np.asarray(_unit_pairs(topologies, numbers)), None
    start, lengths = jnp.asarray(placed), np.linalg.norm(placed[own[:, 0]] - placed[own[:, 1]], axis=1)
    springs = HarmonicBond(own, np.full(len(own), 1e5, placed.dtype), lengths, kinds=np.arange(len(own)))
    soft = lambda distance: Excluding(_Soft(distance), own, topology.num_atoms)
    if topology.num_atoms >= _MANY_ATOMS:
        search = CellList.fit(start, box, cutoff=contact, room=2.0)
    state = State(start, jnp.zeros_like(start), box)
    system = System(topology, springs + soft(contact), search=search)
    relaxed = minimize(system, state, max_steps=2000, progress=progress).state.positions
    packed = jnp.asarray(_rigid(shapes, numbers, np.asarray(relaxed)))
    if not _energy(System(topology, soft(0.8 * contact), search=search), packed, box) == 0:
        raise ValueError(
            f"`pack` left atoms of different molecules nearer than {0.8 * contact:.3g} nm, 0.8 contacts. Wanted a lower"
            f" density than {float(jnp.sum(topology.masses) / box.volume):.4g} u/nm³, a larger box, or a smaller"
            " `contact`."
        )
    return topology, State(packed, jnp.zeros_like(packed), box)


@eqx.filter_jit
def _energy(system, positions, box):
    return system.potential_energy(positions, box)


def _placed(shapes: list[Array], numbers: list[int], box: AbstractBox, key: PRNGKeyArray) -> np.ndarray:
    """The molecules on a lattice, kinds mixed and turned at random."""
    lattice_key, turn_key = jax.random.split(key)
    centers = np.asarray(_lattice(sum(numbers), box, lattice_key))
    rotations = _rotations(sum(numbers), shapes[0].dtype, turn_key)
    places, first = [], 0
    for x, n in zip(shapes, numbers, strict=True):
        which = slice(first, first + n)
        x = np.asarray(x)
        turned = np.einsum("mij,aj->mai", rotations[which], x - np.mean(x, axis=0))
        places.append((turned + centers[which, None]).reshape(-1, 3))
        first += n
    return np.concatenate(places)


def _rigid(shapes: list[Array], numbers: list[int], relaxed: np.ndarray) -> np.ndarray:
    """The shapes that were given, where the springs have taken them."""
    places, first = [], 0
    for x, n in zip(shapes, numbers, strict=True):
        moved = relaxed[first : first + n * len(x)].reshape(n, len(x), 3)
        places.append(_superposed(np.asarray(x), moved).reshape(-1, 3))
        first += n * len(x)
    return np.concatenate(places)


def _box_for(topology: Topology, density: float | None, box: AbstractBox | None) -> AbstractBox:
    if isinstance(box, OpenBox):
        raise ValueError("`box` is an `OpenBox`, which has no density; wanted a periodic box.")
    if box is not None and density is None:
        return box
    if density is not None and box is None:
        require_positive("density", density, "u/nm³")
        require_dense(density, "a `box`")
        return OrthorhombicBox(jnp.full(3, (jnp.sum(topology.masses) / density) ** (1 / 3)))
    raise ValueError(
        f"`density` is {density} and `box` is {'missing' if box is None else 'given'}; wanted exactly one of them."
    )


def _lattice(num: int, box: AbstractBox, key: PRNGKeyArray) -> Float[Array, "molecules 3"]:
    """Sites of a lattice in the box, as many as there are molecules, in random order; some are left out at random."""
    heights = np.asarray(box.heights, dtype=float)
    spacing = float(np.prod(heights) / num) ** (1 / 3)
    cells = np.maximum(1, np.round(heights / spacing).astype(int))
    while math.prod(cells) < num:
        cells[np.argmax(heights / cells)] += 1
    sites = np.stack(np.meshgrid(*(np.arange(n) for n in cells), indexing="ij"), axis=-1).reshape(-1, 3)
    fractions = jnp.asarray((sites + 0.5) / cells, box.vectors.dtype)
    return jax.random.permutation(key, fractions)[:num] @ box.vectors


def _rotations(num: int, dtype, key: PRNGKeyArray) -> np.ndarray:
    """Uniformly distributed, from quaternions."""
    q = np.asarray(jax.random.normal(key, (num, 4), dtype))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _unit_pairs(topologies: list[Topology], numbers: list[int]) -> Int[Array, "pairs 2"]:
    """All pairs of atoms of the same thing packed, be it one molecule or several."""
    whole = [eqx.tree_at(lambda t: t.molecules, t, jnp.zeros_like(t.molecules)) for t in topologies]
    return Topology.concatenate([t.repeat(n) for t, n in zip(whole, numbers, strict=True)]).intramolecular_pairs()


def _superposed(shape: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """A rigid shape, moved and turned to be as near as it can to each of several (W. Kabsch, Acta Cryst. A 32, 922
    (1976))."""
    centered, center = shape - np.mean(shape, axis=0), np.mean(onto, axis=1, keepdims=True)
    u, _, v = np.linalg.svd(centered.T @ (onto - center))
    # no reflection: a molecule keeps its handedness
    u[:, :, 2] *= np.sign(np.linalg.det(u @ v))[:, None]
    return centered @ u @ v + center
