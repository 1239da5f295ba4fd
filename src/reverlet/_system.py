from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from . import units
from ._box import AbstractBox
from ._dipole import AbstractDipole, AbstractPolarizability
from ._misc import cast_floats, is_concrete, raise_if
from ._neighbors import AbstractNeighborSearch, Neighbors, Wear
from ._potential import AbstractPotential, energy_of, require_atoms
from ._state import State
from ._topology import Topology

T = TypeVar("T")


class Surfaces(eqx.Module):
    """All functions of a configuration that a system has: what is trained, copied and differentiated."""

    potential: AbstractPotential
    dipole: AbstractDipole | None = None
    polarizability: AbstractPolarizability | None = None


class System(eqx.Module):
    """Atoms and the surfaces they move on and are seen by.

    **Arguments:** `topology`; `potential`; `dipole` and `polarizability`, for the observables that look at them;
    `search`, for neighbor lists.

    **Errors:** `ValueError` for surfaces of another number of atoms, and a search that finds pairs less far than the
    potential reaches.
    """

    topology: Topology
    potential: AbstractPotential
    dipole: AbstractDipole | None = None
    polarizability: AbstractPolarizability | None = None
    search: AbstractNeighborSearch | None = None
    """How to find the pairs of atoms that the surfaces look at; without it, they look at all."""
    neighbors: Neighbors | None = None
    """The list in use, where there is one: that of the step at which `record` is called."""

    @property
    def surfaces(self) -> Surfaces:
        """Potential, dipole and polarizability: one tree, of whose arrays gradients are taken."""
        return Surfaces(self.potential, self.dipole, self.polarizability)  # pyright: ignore[reportCallIssue]

    def with_surfaces(self, surfaces: Surfaces) -> "System":
        """The same atoms with other surfaces. Not checked again, so that a tree of tangents may be put in too."""
        here = lambda s: (s.potential, s.dipole, s.polarizability)
        return eqx.tree_at(here, self, here(surfaces), is_leaf=lambda x: x is None)

    def find_neighbors(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Neighbors | None:
        """The list for these positions (nm): the one in use, or a new one if the system has a search."""
        if self.neighbors is not None or self.search is None:
            return self.neighbors
        return jax.lax.stop_gradient(self.search.find(jax.lax.stop_gradient(positions), box))

    def potential_energy(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Float[Array, ""]:
        """kJ/mol, with a list made for these positions (nm) if the system has a search; NaN if that is too small."""
        return energy_of(self.potential, positions, box, self.find_neighbors(positions, box))

    def kinetic_energy(self, velocities: Float[Array, "atoms 3"]) -> Float[Array, ""]:
        """Σ m v²/2, kJ/mol."""
        masses = self.topology.masses.astype(velocities.dtype)
        return 0.5 * jnp.sum(masses[:, None] * velocities**2)

    def astype(self, dtype: Any) -> "System":
        """The system with its floating-point arrays in another precision."""
        return cast_floats(self, dtype)

    def __check_init__(self):
        require_atoms(self.surfaces, self.topology.num_atoms)
        if self.search is not None and self.potential.cutoff is not None:
            if self.search.cutoff < self.potential.cutoff:
                raise ValueError(
                    f"The neighbor search finds pairs up to {self.search.cutoff} nm, but the potential reaches"
                    f" {self.potential.cutoff} nm; wanted a search with at least its cutoff."
                )

    def check(self, states: State) -> State:
        """The states, unless this system cannot start from them: one configuration, or many with a leading axis.

        **Errors:** `ValueError` where the number of atoms differs or the cutoff is larger than half the smallest
        height of the box (`FloatingPointError` where the box is traced); `FloatingPointError` if an energy is not
        finite, with the nearest two atoms. At once where values are known, from the compiled program where they are
        traced.
        """
        states = self.check_shape_and_cutoff(states)
        lift = jax.vmap if states.positions.ndim == 3 else lambda f: f
        if self.search is not None:
            search, worst = self.search, Wear.none(states.positions.dtype)
            found = lambda s: jax.lax.stop_gradient(search.find(jax.lax.stop_gradient(s.positions), s.box))
            wear = lift(lambda s: worst.and_of(s.positions, found(s)))(states)
            states = check_wear(self, wear, guard=states)
        energies = lift(lambda s: self.potential_energy(s.positions, s.box))(states)
        return check_energies(states, energies, guard=states)

    def check_shape_and_cutoff(self, states: State, *, mesh: Mesh | None = None) -> State:
        """The first part of `check`, which needs no energies; traced, on all devices of the `mesh`."""
        n = self.topology.num_atoms
        shape = states.positions.shape
        if shape[-2:] != (n, 3) or len(shape) > 3:
            raise ValueError(
                f"`state` has positions of shape {shape}; wanted {(n, 3)} as the topology has {n} atoms."
                " For many configurations, `jax.vmap` over the states."
            )
        lift = jax.vmap if len(shape) == 3 else lambda f: f
        if self.search is not None:
            self.search.check(lift(lambda s: s.box.heights)(states))
        cutoff = self.potential.cutoff
        if cutoff is not None:
            half = 0.5 * jnp.min(lift(lambda s: s.box.heights)(states))
            too_long = cutoff > half * (1 + 1e-6)  # room for lengths rounded to float32
            if is_concrete(half):
                if too_long:
                    raise ValueError(_describe_cutoff(cutoff, half))
            else:
                states = raise_if(too_long, _describe_cutoff, jnp.asarray(cutoff), half, guard=states, mesh=mesh)
        return states


def check_energies(states: State, energies: Float[Array, "..."], *, guard: T, mesh: Mesh | None = None) -> T:
    """`guard`, unless one of the `energies` of the states is not finite: then a `FloatingPointError` says why."""
    lift = jax.vmap if states.positions.ndim == 3 else lambda f: f
    vectors = lift(lambda s: s.box.vectors)(states)
    values = (energies, states.positions, vectors)
    return raise_if(~jnp.isfinite(energies), _describe_overlap, *values, guard=guard, mesh=mesh)


def _describe_cutoff(cutoff, half):
    return (
        f"The cutoff is {float(cutoff):.6g} nm; wanted at most half the smallest height of the box, which is"
        f" {float(half):.6g} nm here. Use a cutoff up to that, or a larger box."
    )


def _describe_overlap(energies, positions, vectors):
    """Says which atoms overlap, of one configuration or of the first bad one of a batch."""
    bad = np.flatnonzero(~np.isfinite(energies))
    x = positions.reshape(-1, *positions.shape[-2:])[bad[0]].astype(float)
    box = np.broadcast_to(vectors, (*positions.shape[:-2], 3, 3)).reshape(-1, 3, 3)[bad[0]].astype(float)
    where = f" of configuration {bad[0]}" if energies.size > 1 else ""
    energy = energies.ravel()[bad[0]]
    if not np.all(np.isfinite(x)):
        return f"The positions{where} are not finite; wanted finite numbers, in nm."
    difference = x[:, None] - x
    if np.all(np.isfinite(box)):
        difference -= np.round(difference @ np.linalg.inv(box)) @ box
    distances = np.linalg.norm(difference, axis=-1) + np.diag(np.full(len(x), np.inf))
    i, j = np.unravel_index(np.argmin(distances), distances.shape)
    return (
        f"The potential energy{where} is {energy} kJ/mol; wanted a finite number. The nearest two atoms are {i} and"
        f" {j},"
        f" {distances[i, j]:.4g} nm apart: atoms that overlap must be moved apart first, and parameters must be finite."
        " A neighbor list that is too small, or was made for another box, gives NaN as well."
    )


def explosion_limit(kinetic: Float[Array, ""], num_atoms: int) -> Float[Array, ""]:
    """A kinetic energy (kJ/mol) that only an exploding simulation reaches, given a sane one to compare with.

    A thousand times that and the thermal energy at 1000 K. Asking for finite numbers is not enough: atoms thrown
    through one another's cores fly apart for good, at finite speed.
    """
    return 1e3 * (kinetic + units.BOLTZMANN * 1000 * num_atoms)


def check_wear(system: System, wear: Wear, *, guard: T, mesh: Mesh | None = None) -> T:
    """`guard`, unless neighbor lists of `system` may have missed pairs: then a `FloatingPointError` says what to raise.

    `wear` is of one trajectory, or of many with a leading axis.
    """
    search = system.search
    if search is None:
        return guard
    worst = Wear(jnp.nanmax(wear.moved), jnp.max(wear.needed.reshape(-1, 2), axis=0))
    values = (worst.moved, worst.needed, jnp.asarray(search.skin), jnp.asarray(search.every), search.room())
    return raise_if(worst.too_much(search), _describe_wear, *values, guard=guard, mesh=mesh)


def _describe_wear(moved, needed, skin, every, room):
    """What to raise, for a trajectory whose neighbor lists may have missed pairs."""
    room, needed = np.asarray(room), np.asarray(needed)
    if np.any(needed > room):
        return (
            f"A neighbor list was too small: it had room for {room[0]} neighbors of a block and windows of {room[1]}"
            f" atoms; wanted {needed[0]} and {needed[1]}. Use `search.enlarged(1.1 * jnp.array({needed.tolist()}))`, or"
            " `CellList.fit` with more `room`."
        )
    if float(moved) > 5 * float(skin):
        return (
            f"An atom moved by {float(moved):.4g} nm in at most {int(every)} steps: the trajectory exploded, or a"
            " neighbor list was used far too long. Wanted a shorter time step, better equilibrated positions, sane"
            " parameters, or lists for fewer steps."
        )
    return (
        f"An atom moved by {float(moved):.4g} nm in the {int(every)} steps that a neighbor list was used for; wanted at"
        f" most half the skin, which is {0.5 * float(skin):.4g} nm. Use a skin of {2.2 * float(moved):.2g} nm, or lists"
        f" for {max(1, int(0.45 * float(skin) / float(moved) * int(every)))} steps."
    )
