from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ._box import AbstractBox, require_one_image
from ._dipole import AbstractDipole, AbstractPolarizability
from ._fields import AbstractChecked, Rule, instance
from ._health import check_energies, check_wear
from ._misc import cast_floats, is_concrete, require_float, require_instance, require_resolved
from ._neighbors import AbstractNeighborSearch, Neighbors, Wear
from ._potential import AbstractLatticeSum, AbstractPotential, energy_of, parts_of, require_atoms
from ._state import State
from ._topology import Topology
from ._verdict import raise_if


class Surfaces(AbstractChecked):
    """All functions of a configuration that a system has: what is trained, copied and differentiated."""

    potential: AbstractPotential
    dipole: AbstractDipole | None = None
    polarizability: AbstractPolarizability | None = None


def _topology() -> Any:
    def require(name, x):
        if isinstance(x, AbstractPotential):
            raise TypeError(
                f"`{name}` of `System` is a potential, `{type(x).__name__}`; wanted the topology first:"
                " `rv.System(topology, potential)`."
            )
        require_instance(name, x, Topology)

    return Rule(lambda x: x, require)


class System(AbstractChecked):
    """Atoms and the surfaces they move on and are seen by.

    **Arguments:** `topology`; `potential`; `dipole` and `polarizability`, for the observables that look at them;
    `search`, for neighbor lists.

    **Errors:** `ValueError` for surfaces of another number of atoms, and a search that finds pairs less far than the
    potential reaches.
    """

    topology: Topology = _topology()
    potential: AbstractPotential = instance(AbstractPotential)
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
        require_instance("surfaces", surfaces, Surfaces)
        here = lambda s: (s.potential, s.dipole, s.polarizability)
        return eqx.tree_at(here, self, here(surfaces), is_leaf=lambda x: x is None)

    def find_neighbors(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Neighbors | None:
        """The list for these positions (nm): the one in use, or a new one if the system has a search."""
        if self.neighbors is not None or self.search is None:
            return self.neighbors
        return jax.lax.stop_gradient(self.search.find(jax.lax.stop_gradient(positions), box))

    def potential_energy(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Float[Array, ""]:
        """kJ/mol, with a list made for these positions (nm) if the system has a search; NaN if that is too small.

        **Errors:** `ValueError` for positions so far out that their dtype cannot hold distances, and for a box smaller
        than twice the cutoff.
        """
        require_resolved("positions", positions)
        require_instance("box", box, AbstractBox)
        self._require_one_image(box)
        return energy_of(self.potential, positions, box, self.find_neighbors(positions, box))

    def forces(self, positions: Float[Array, "atoms 3"], box: AbstractBox) -> Float[Array, "atoms 3"]:
        """-∂U/∂x, kJ/mol/nm, with the list in use, or one made for these positions (nm) if the system has a search; NaN
        if that is too small.

        **Errors:** as for `AbstractPotential.forces`.
        """
        return self.potential.forces(positions, box, neighbors=self.find_neighbors(positions, box))

    def kinetic_energy(self, velocities: Float[Array, "atoms 3"]) -> Float[Array, ""]:
        """Σ m v²/2, kJ/mol."""
        require_float("velocities", velocities)
        masses = self.topology.masses.astype(velocities.dtype)
        return 0.5 * jnp.sum(masses[:, None] * velocities**2)

    def pressure_tensor(self, state: State) -> Float[Array, "3 3"]:
        """(1/V) (Σ m v⊗v - ∂U/∂strain) of an instant, kJ/mol/nm³, of the velocities as they are.

        **Errors:** `ValueError` for an open box, and one smaller than twice the cutoff.
        """
        require_instance("state", state, State)
        self._require_one_image(state.box)
        v = state.velocities
        masses = self.topology.masses.astype(v.dtype)
        # written as a sum: a matrix product may run in lower precision on a GPU
        kinetic = jnp.sum(masses[:, None, None] * v[:, :, None] * v[:, None, :], axis=0)
        neighbors = self.find_neighbors(state.positions, state.box)
        stress = self.potential.stress(state.positions, state.box, neighbors=neighbors)
        return kinetic / state.box.volume.astype(v.dtype) - stress

    def pressure(self, state: State) -> Float[Array, ""]:
        """A third of the trace of `pressure_tensor`, kJ/mol/nm³; divide by `units.BAR`.

        From the velocities as they are: on average N k T/V and the virial's part where these are of all 3N degrees of
        freedom, and (N-1) k T/V where the center of mass is at rest.

        **Errors:** as for `pressure_tensor`.
        """
        return jnp.trace(self.pressure_tensor(state)) / 3

    def _require_one_image(self, box):
        if self.potential.cutoff is not None:
            require_one_image("The cutoff", self.potential.cutoff, box)

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
        height of the box (`SimulationError` where the box is traced); `SimulationError` if an energy is not
        finite, with the nearest two atoms. At once where values are known, from the compiled program where they are
        traced.
        """
        states = self.check_shape_and_cutoff(states)
        lift = jax.vmap if states.positions.ndim == 3 else lambda f: f
        if self.search is not None:
            search, worst = self.search, Wear.none(states.positions.dtype)
            found = lambda s: jax.lax.stop_gradient(search.find(jax.lax.stop_gradient(s.positions), s.box))
            wear = lift(lambda s: worst.and_of(s.positions, s.box, found(s)))(states)
            states = check_wear(self.search, wear, guard=states)
        energies = lift(lambda s: self.potential_energy(s.positions, s.box))(states)
        return check_energies(states, energies, guard=states)

    def check_shape_and_cutoff(self, states: State, *, mesh: Mesh | None = None) -> State:
        """The first part of `check`, which needs no energies; traced, on all devices of the `mesh`."""
        require_instance("states", states, State)
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
        for part in parts_of(self.surfaces, AbstractLatticeSum):
            states = part.check_accuracy(states, states.box, lift, mesh)
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


def _describe_cutoff(cutoff, half):
    return (
        f"The cutoff is {float(cutoff):.6g} nm; wanted at most half the smallest height of the box, which is"
        f" {float(half):.6g} nm here. Use a cutoff up to that, or a larger box."
        f"{'' if cutoff < 3 else f' Lengths are in nm: {float(cutoff):.6g} Å are {float(cutoff) / 10:.6g}.'}"
    )
