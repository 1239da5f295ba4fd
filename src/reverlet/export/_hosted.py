"""A system as other programs call it: numbers in, numbers out, and an error where there is no answer."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._box import AbstractBox, OpenBox, OrthorhombicBox, TriclinicBox
from .._dipole import moment_of
from .._dynamics._lists import with_room
from .._misc import is_concrete, require_instance
from .._potential import energy_of
from .._state import State
from .._system import System
from .._verdict import SimulationError

_RIGHT = 1e-12
"""Of the longest vector: what a program that works with angles leaves of zero."""


class Evaluated(NamedTuple):
    """Of one configuration, in our units."""

    energy: Float[Array, ""]
    forces: Float[Array, "atoms 3"]
    stress: Float[Array, "3 3"] | None
    dipole: Float[Array, "3"] | None


def box_of(vectors: Float[np.ndarray, "3 3"] | None) -> AbstractBox:
    """The box of these lattice vectors (rows, nm), with right angles where they have them; an open one of none."""
    if vectors is None:
        return OpenBox()  # pyright: ignore[reportCallIssue]
    lengths = np.diag(vectors)
    beside = np.max(np.abs(vectors - np.diag(lengths)))
    if np.all(lengths > 0) and beside <= _RIGHT * np.max(lengths):
        return OrthorhombicBox(lengths)
    return TriclinicBox(vectors)


class Hosted:
    """Evaluates a system, with a neighbor list where it has a search, which is enlarged where it is too small.

    Compiled once, and again for another number of atoms, another kind of box, and another choice of what is wanted.
    """

    def __init__(self, system: System):
        require_instance("system", system, System)
        if not is_concrete(system):
            raise ValueError("`system` is traced; wanted known numbers: export it outside of `jax.jit`.")
        self.system = system
        self._box: AbstractBox | None = None
        self._bytes: bytes | None = None

    def __call__(
        self, positions: np.ndarray, vectors: np.ndarray | None, *, stress: bool = False, dipole: bool = False
    ) -> Evaluated:
        """**Arguments:** `positions` and `vectors` in nm; `vectors` is none in open space; what else is wanted.

        **Errors:** `ValueError` for another number of atoms, and boxes too small or too skewed; `SimulationError` where
        the energy is not finite.
        """
        key = None if vectors is None else vectors.tobytes()
        known = self._box if key == self._bytes else None
        box = box_of(vectors) if known is None else known
        state = State(jnp.asarray(positions, jnp.result_type(float)), None, box)
        if known is None or len(positions) != self.system.topology.num_atoms:
            self.system.check_shape_and_cutoff(state)
            self.system = with_room(self.system, state.repeat(1))
            self._box, self._bytes = box, key
        out = _evaluate(self.system, state, stress, dipole)
        if np.isfinite(out.energy):
            return out
        larger = with_room(self.system, state.repeat(1))
        out = _evaluate(larger, state, stress, dipole)
        if not np.isfinite(out.energy):
            larger.check(state)
            raise SimulationError(f"The energy is {out.energy} kJ/mol; wanted a finite number.")
        self.system = larger
        return out


@eqx.filter_jit
def _evaluate(system, state, with_stress, with_dipole):
    return evaluate(system, state.positions, state.box, with_stress, with_dipole)


def evaluate(
    system: System, positions: Float[Array, "atoms 3"], box: AbstractBox, with_stress: bool, with_dipole: bool
) -> Evaluated:
    """What is wanted of one configuration, by one derivative."""
    neighbors = system.find_neighbors(positions, box)
    stress = dipole = None
    if with_stress:
        strained = lambda x, strain: system.potential.strained_energy(strain, x, box, neighbors=neighbors)
        energy, (slope, virial) = jax.value_and_grad(strained, (0, 1))(positions, jnp.zeros((3, 3), positions.dtype))
        stress = virial / box.volume
    else:
        energy, slope = jax.value_and_grad(lambda x: energy_of(system.potential, x, box, neighbors))(positions)
    if with_dipole and system.dipole is not None:
        dipole = moment_of(system.dipole, positions, box, neighbors)
    return Evaluated(energy, -slope, stress, dipole)
