from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from . import units
from ._box import OrthorhombicBox
from ._misc import is_concrete, require_count, require_instance, require_number, require_positive
from ._state import State
from ._topology import Topology

_FCC = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2


def simple_cubic(
    element: str, cells: int | Sequence[int], *, density: ArrayLike | None = None, spacing: ArrayLike | None = None
) -> tuple[Topology, State]:
    """Atoms at the corners of cubes; arguments and errors as for `fcc`."""
    return _crystal(element, cells, np.zeros((1, 3)), density, spacing)


def bcc(
    element: str, cells: int | Sequence[int], *, density: ArrayLike | None = None, spacing: ArrayLike | None = None
) -> tuple[Topology, State]:
    """Atoms at the corners and centers of cubes (body-centered cubic); arguments and errors as for `fcc`."""
    return _crystal(element, cells, np.array([[0, 0, 0], [1, 1, 1]]) / 2, density, spacing)


def fcc(
    element: str, cells: int | Sequence[int], *, density: ArrayLike | None = None, spacing: ArrayLike | None = None
) -> tuple[Topology, State]:
    """A box of atoms on a lattice, four in every cubic cell: face-centered cubic. A crystal, or a liquid once melted.

    `rv.fcc("Ar", 3, density=1.374 * rv.units.GRAM_PER_CUBIC_CENTIMETER)` are 108 atoms of argon. Other lattices are in
    `rv.lattices`. Velocities are zero: a thermostat warms them, or see `maxwell_boltzmann`.

    **Arguments:** `element`, its symbol; `cells`, how many along each edge of the box, one number or three; either
    `density` (u/nm³) or `spacing`, the edge of a cell (nm).

    **Errors:** `ValueError` for an unknown element, numbers that are not positive, and unless exactly one of `density`
    and `spacing` is given.
    """
    return _crystal(element, cells, _FCC, density, spacing)


def diamond(
    element: str, cells: int | Sequence[int], *, density: ArrayLike | None = None, spacing: ArrayLike | None = None
) -> tuple[Topology, State]:
    """Two face-centered lattices, a quarter of the diagonal apart, eight atoms in a cell; arguments and errors as for
    `fcc`."""
    return _crystal(element, cells, np.concatenate([_FCC, _FCC + 0.25]), density, spacing)


def require_dense(density: ArrayLike, instead: str) -> None:
    """Refuses a density (u/nm³) that is a gas's, but a liquid's if it were in g/cm³."""
    if is_concrete(density) and float(np.asarray(density)) < 0.05 * units.GRAM_PER_CUBIC_CENTIMETER:
        raise ValueError(
            f"`density` is {float(np.asarray(density)):.6g} u/nm³, that of a gas; if it is in g/cm³, wanted"
            f" `{float(np.asarray(density)):.6g} * rv.units.GRAM_PER_CUBIC_CENTIMETER`, and of a gas {instead}."
        )


def _crystal(element, cells, sites, density, spacing):
    require_instance("element", element, str)
    numbers = (cells,) * 3 if not isinstance(cells, Sequence) or isinstance(cells, str) else tuple(cells)
    for number in numbers:
        require_count("cells", number)
    if len(numbers) != 3:
        raise ValueError(f"`cells` is {cells}; wanted one number, or three.")
    if (density is None) == (spacing is None):
        raise ValueError(
            f"`density` is {density} and `spacing` is {spacing}; wanted exactly one of them, in u/nm³ or in nm."
        )
    name, given, unit = ("spacing", spacing, "nm") if density is None else ("density", density, "u/nm³")
    require_number(name, given)
    require_positive(name, given, unit)
    if density is not None:
        require_dense(density, "`spacing`")
    corners = np.stack(np.meshgrid(*map(np.arange, numbers), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    inside = (corners + sites).reshape(-1, 3)
    topology = Topology.from_elements([element] * len(inside))
    edge = jnp.asarray(given, float) if density is None else (len(sites) * topology.masses[0] / density) ** (1 / 3)
    positions = jnp.asarray(inside, edge.dtype) * edge
    return topology, State(positions, jnp.zeros_like(positions), OrthorhombicBox(edge * jnp.array(numbers)))
