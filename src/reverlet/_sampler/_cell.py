"""What happens to atoms when their cell changes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int

from .._box import AbstractBox, OrthorhombicBox, TriclinicBox
from .._potential import AbstractLatticeSum, energy_of, parts_of
from .._solver import AbstractFlow
from .._state import State
from .._system import System
from .._topology import Topology
from .._verdict import raise_if


class Groups(eqx.Module):
    """Which atoms move as one when the cell changes: molecules, by their centers of mass, or every atom by itself."""

    molecule: Int[Array, " atoms"] | None
    """From zero on, without gaps; none where every atom moves by itself."""
    masses: Float[Array, " atoms"]
    """u."""

    @staticmethod
    def of(topology: Topology, molecular: bool, dtype: Any) -> "Groups":
        """Of the molecules of a topology, or of its atoms."""
        molecule = None
        if molecular:
            _, molecule = jnp.unique(topology.molecules, return_inverse=True, size=topology.num_atoms)
        return Groups(molecule, topology.masses.astype(dtype))

    @property
    def number(self) -> Float[Array, ""]:
        """How many there are."""
        number = len(self.masses) if self.molecule is None else jnp.max(self.molecule) + 1
        return jnp.asarray(number, self.masses.dtype)

    def centers(self, values: Float[Array, "atoms 3"]) -> Float[Array, "atoms 3"]:
        """For every atom, the position or velocity of the center of mass of its group."""
        if self.molecule is None:
            return values
        molecule, n = self.molecule, len(self.masses)
        total = lambda x: jax.ops.segment_sum(x, molecule, n)[molecule]
        return total(self.masses[:, None] * values) / total(self.masses)[:, None]


class Deformation(AbstractFlow):
    """Centers and box along a constant symmetric strain rate, by exp(h rate), their velocities by its inverse.

    What a group is beside its center stays as it is. `y` is (positions, velocities, box), `args` are the `Groups`. No
    volume of phase space is lost or gained.
    """

    rate: Float[Array, "3 3"]

    def apply(self, t, y, args, h):
        del t
        x, v, box = y
        forth, back = _expm1(h * self.rate), _expm1(-h * self.rate)
        x = x + _product(args.centers(x), forth)
        v = v + _product(args.centers(v), back)
        return x, v, deformed(box, forth)


def _expm1(e):
    """exp(e) - 1 of a matrix no larger than one, to all digits, by its series: a library call for every cell of many
    chains costs more than their forces."""
    total = jnp.eye(3, dtype=e.dtype)
    for k in range(17, 1, -1):
        total = jnp.eye(3, dtype=e.dtype) + _product(e, total) / k
    return _product(e, total)


def _product(a, b):
    # written out: a matrix product may run in lower precision on a GPU
    return a[:, 0, None] * b[0] + a[:, 1, None] * b[1] + a[:, 2, None] * b[2]


def deformed(box: AbstractBox, strain: Float[Array, "3 3"]) -> AbstractBox:
    """The box of the same kind with its vectors mapped by 1 + strain: of right angles, by its diagonal."""
    if isinstance(box, OrthorhombicBox):
        return OrthorhombicBox(box.lengths + box.lengths * jnp.diag(strain))
    return box.deform(jnp.eye(3, dtype=strain.dtype) + strain)


def upright(state: State, before: AbstractBox) -> State:
    """The state turned such that its lattice vectors are a lower triangle again, as many files want them, if they were
    `before`."""
    if not isinstance(state.box, TriclinicBox):
        return state
    vectors = state.box.vectors
    turn, triangle = jnp.linalg.qr(vectors.T)
    turn = turn * jnp.sign(jnp.diag(triangle) * jnp.diag(before.vectors))  # no mirror
    was = jnp.all(jnp.triu(before.vectors, 1) == 0)
    turned = State(_product(state.positions, turn), _product(state.velocities, turn), TriclinicBox(
        jnp.tril(_product(vectors, turn))), state.bath)  # fmt: skip
    return jax.tree.map(lambda a, b: jnp.where(was, a, b), turned, state)


def energy_and_slope(
    system: System, state: State, groups: Groups, diagonal: bool
) -> tuple[Float[Array, ""], Float[Array, "3 3"]]:
    """The potential energy with the list in use, kJ/mol, and its derivative by a symmetric strain of centers and box:
    of its diagonal alone, or of all of it."""
    x = state.positions
    centers = groups.centers(x)

    def energy(e):
        strain = jnp.diag(e) if diagonal else 0.5 * (e + e.T)
        moved = x + (centers * e if diagonal else _product(centers, strain))
        return energy_of(system.potential, moved, deformed(state.box, strain), system.neighbors)

    value, slope = jax.value_and_grad(energy)(jnp.zeros(3 if diagonal else (3, 3), x.dtype))
    return value, jnp.diag(slope) if diagonal else slope


def check_whole(topology: Topology, states: State, mesh: Mesh | None) -> State:
    """The states, of many chains, unless an image of an atom is not next to the atom that it is bonded to: a molecule
    that is scaled by its center must be in one piece."""
    n = topology.num_atoms
    if len(topology.bonds) > 0:
        i, j = topology.bonds.T
    else:
        i, j = jnp.arange(n - 1), jnp.arange(1, n)
    together = topology.molecules[i] == topology.molecules[j]

    def away(state):
        d = (state.positions[i] - state.positions[j]).T
        lattice = d - jnp.stack(state.box.astype(d.dtype).nearest_image(*d))
        return (jnp.sum(lattice**2, axis=0) > 0.25 * jnp.min(state.box.heights) ** 2) & together

    broken = jax.vmap(away)(states)
    return raise_if(broken, _describe_broken, broken, jnp.stack([i, j]), guard=states, mesh=mesh)


def _describe_broken(broken, pairs):
    i, j = pairs[:, int(np.argmax(np.any(broken, axis=0)))]
    return (
        f"Atoms {i} and {j} are of one molecule, and nearer to images of one another than to themselves; wanted"
        " molecules in one piece, since a barostat scales them by their centers. Move their atoms by whole lattice"
        ' vectors first; for crystals, networks and molecules that break up: `scaling="atoms"`.'
    )


def out_of_cell(system: System, box: AbstractBox) -> Int[Array, ""]:
    """Why a system cannot be simulated in a box that it came to, or zero: 1 where it is too small for
    cutoff or lists, 2 where it is too large for lattice sums."""
    small = jnp.zeros((), bool)
    if system.potential.cutoff is not None:
        small |= jnp.min(box.heights) < 2 * system.potential.cutoff * (1 - 1e-6)
    if system.search is not None:
        small |= ~system.search.fits(box.heights)
    large = jnp.zeros((), bool)
    for part in parts_of(system.surfaces, AbstractLatticeSum):
        large |= part.is_too_coarse(box)
    return jnp.where(small, 1, jnp.where(large, 2, 0)).astype(jnp.int32)


def of_cell(system: System, stopped: Int[Array, "chains rounds"], states: State) -> tuple[Array, ...]:
    """What `describe_cell` takes."""
    heights = jnp.min(jax.vmap(jax.vmap(lambda s: s.box.heights))(states), axis=-1)
    cutoff = 0.0 if system.potential.cutoff is None else system.potential.cutoff
    reach = cutoff if system.search is None else system.search.cutoff + system.search.skin
    return stopped, heights, jnp.asarray(cutoff), jnp.asarray(reach)


def describe_cell(stopped: ArrayLike, heights: ArrayLike, cutoff: ArrayLike, reach: ArrayLike) -> str:
    """Why the first cell stopped, and what is left."""
    stopped, heights = np.asarray(stopped), np.asarray(heights)
    round = int(np.argmax(np.any(stopped != 0, axis=0)))
    chain = int(np.argmax(stopped[:, round] != 0))
    which = f"The cell of chain {chain}, half of whose smallest height was {0.5 * heights[chain, round]:.6g} nm,"
    if stopped[chain, round] == 2:
        why = (
            f"{which} grew too large for the waves or the mesh of a lattice sum; wanted one that is fitted to a larger"
            " box."
        )
    else:
        why = (
            f"{which} shrank too far for the cutoff, {float(np.asarray(cutoff)):.6g} nm, or for the neighbor lists, of"
            f" {float(np.asarray(reach)):.6g} nm with their skin; wanted more atoms, a shorter cutoff"
            " or skin, or `CellList.fit` with a `shrink`."
        )
    return (
        f"{why} {round} rounds of all chains went well: outside of `jax.jit` they are `samples` and `chains` of this"
        " error."
    )
