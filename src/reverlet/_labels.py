"""Configurations with what somebody calculated for them: what a surface is trained on."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from . import units
from ._box import OpenBox, OrthorhombicBox, TriclinicBox
from ._misc import (
    is_concrete,
    require_array,
    require_count,
    require_finite,
    require_instance,
    require_key,
    require_number,
    require_shape,
)
from ._state import State
from ._topology import Topology

_FORCES = {
    "eV/Å": units.ELECTRONVOLT / units.ANGSTROM,
    "hartree/bohr": units.HARTREE / units.BOHR,
    "kcal/mol/Å": units.KILOCALORIE_PER_MOLE / units.ANGSTROM,
    "kJ/mol/Å": 1 / units.ANGSTROM,
}
_ENERGIES = {"eV": units.ELECTRONVOLT, "hartree": units.HARTREE, "kcal/mol": units.KILOCALORIE_PER_MOLE}
_BONDED = 0.18
"""Where nearest neighbors are nearer than this (nm), atoms are held by bonds, and forces are those of bonds."""


class Labels(eqx.Module):
    """Configurations of one system, and their energies, forces, stresses and dipoles as far as these are known.

    All of it NumPy's, in double precision: energies of whole systems have digits that float32 has not.

    `labels[:10]`, with a slice or an array of indices, are some of them.

    **Arguments:** `topology`; `positions` (frames, atoms, 3), nm; `vectors` of the box (frames, 3, 3), nm, rows, or
    (3, 3) where it is one for all; without them there is no box. `energies` (frames), kJ/mol; `forces` (frames, atoms,
    3), kJ/mol/nm; `stresses` (frames, 3, 3), kJ/mol/nm³, as `AbstractPotential.stress` has them, symmetric; `dipoles`
    (frames, 3), e nm.

    **Errors:** `ValueError` or `TypeError` for other shapes, NaN and infinities, no labels at all, stresses without a
    box or not symmetric, and boxes that are none.
    """

    topology: Topology
    positions: Float[np.ndarray, "frames atoms 3"]
    vectors: Float[np.ndarray, "frames 3 3"] | None
    energies: Float[np.ndarray, " frames"] | None
    forces: Float[np.ndarray, "frames atoms 3"] | None
    stresses: Float[np.ndarray, "frames 3 3"] | None
    dipoles: Float[np.ndarray, "frames 3"] | None

    def __init__(self, topology, positions, vectors=None, *, energies=None, forces=None, stresses=None, dipoles=None):
        require_instance("topology", topology, Topology)
        atoms = topology.num_atoms
        shape = (None, atoms, 3)
        positions = _array("positions", positions, shape, f"Frames of the topology's {atoms} atoms.")
        n = len(positions)
        require_count("the number of frames", n)
        one = "One for every frame."
        if vectors is not None and np.shape(vectors) == (3, 3):
            vectors = np.broadcast_to(vectors, (n, 3, 3))
        optional = lambda name, x, shape: None if x is None else _array(name, x, (n, *shape), one)
        self.topology, self.positions = topology, positions
        self.vectors = optional("vectors", vectors, (3, 3))
        self.energies = optional("energies", energies, ())
        self.forces = optional("forces", forces, (atoms, 3))
        self.stresses = optional("stresses", stresses, (3, 3))
        self.dipoles = optional("dipoles", dipoles, (3,))
        if not self.kinds:
            raise ValueError("There are no labels; wanted `energies`, `forces`, `stresses` or `dipoles`.")
        if self.vectors is not None:
            for one in np.unique(self.vectors, axis=0):
                TriclinicBox(one)  # refuses what is no box
        if self.stresses is not None:
            if self.vectors is None:
                raise ValueError("There are `stresses` and no `vectors`; wanted the box they are of.")
            skew = np.max(np.abs(self.stresses - np.swapaxes(self.stresses, 1, 2)))
            if skew > 1e-2 * np.max(np.abs(self.stresses)) + 1e-6:
                raise ValueError(f"`stresses` are not symmetric, by {skew:.3g} kJ/mol/nm³; wanted the Cauchy stress.")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which labels there are: some of energies, forces, stresses, dipoles."""
        names = ("energies", "forces", "stresses", "dipoles")
        return tuple(name for name in names if getattr(self, name) is not None)

    def __getitem__(self, which: slice | np.ndarray | Sequence[int]) -> "Labels":
        some = lambda x: x[which] if isinstance(which, slice) else x[np.asarray(which)]
        kept = {name: some(getattr(self, name)) for name in self.kinds}
        vectors = None if self.vectors is None else some(self.vectors)
        return Labels(self.topology, some(self.positions), vectors, **kept)

    def split(self, fraction: float, *, key: PRNGKeyArray) -> "tuple[Labels, Labels]":
        """Those that are left, and this fraction of them, drawn at random: to train on, and to look at.

        Neighboring frames of one trajectory are alike: what is drawn from among them is no test of others.

        **Errors:** `ValueError` where that leaves none on one side.
        """
        require_number("fraction", fraction)
        require_key("key", key)
        held = round(float(fraction) * len(self))
        if not 0 < held < len(self):
            raise ValueError(f"`fraction` is {fraction}, of {len(self)} frames; wanted some on both sides, as of 0.1.")
        order = np.asarray(jax.random.permutation(key, len(self)))
        return self[np.sort(order[held:])], self[np.sort(order[:held])]

    @staticmethod
    def concatenate(labels: "Sequence[Labels]") -> "Labels":
        """All frames of several, of one system and with the same kinds of labels.

        **Errors:** `ValueError` for none, and for those that are not alike.
        """
        if len(labels) == 0:
            raise ValueError("`concatenate` got no labels; wanted at least one.")
        first = labels[0]
        for one in labels:
            require_instance("labels", one, Labels)
            same = np.array_equal(one.topology.atomic_numbers, first.topology.atomic_numbers)
            if one.kinds != first.kinds or (one.vectors is None) != (first.vectors is None) or not same:
                raise ValueError(
                    f"`labels` are not alike: {first.topology.num_atoms} atoms with {', '.join(first.kinds)} and"
                    f" {one.topology.num_atoms} atoms with {', '.join(one.kinds)}; wanted the same atoms in one order,"
                    " with the same labels, all in boxes or none."
                )
        join = lambda name: np.concatenate([getattr(one, name) for one in labels])
        kept = {name: join(name) for name in first.kinds}
        return Labels(first.topology, join("positions"), None if first.vectors is None else join("vectors"), **kept)

    def states(self, dtype=None) -> State:
        """The configurations without velocities; leaves lead with `frames`. `dtype`: JAX's default, unless given."""
        positions = jnp.asarray(self.positions, dtype)
        if self.vectors is None:
            box = OpenBox()  # pyright: ignore[reportCallIssue]
            return jax.vmap(lambda x: State(x, None, box))(positions)
        vectors = jnp.asarray(self.vectors, positions.dtype)
        diagonals = np.diagonal(self.vectors, axis1=1, axis2=2)
        if np.all(self.vectors == diagonals[:, None] * np.eye(3)) and np.all(diagonals > 0):
            lengths = jnp.asarray(diagonals, positions.dtype)
            return jax.vmap(lambda x, v: State(x, None, OrthorhombicBox(v)))(positions, lengths)
        return jax.vmap(lambda x, v: State(x, None, TriclinicBox(v)))(positions, vectors)

    @property
    def volumes(self) -> Float[np.ndarray, " frames"]:
        """nm³; infinite without a box."""
        return np.full(len(self), np.inf) if self.vectors is None else np.abs(np.linalg.det(self.vectors))

    @property
    def smallest_height(self) -> float:
        """The smallest distance between opposite faces of any box, nm; infinite without a box."""
        if self.vectors is None:
            return np.inf
        return float(np.min(1 / np.linalg.norm(np.linalg.inv(self.vectors), axis=1)))

    def require_likely_units(self) -> None:
        """Refuses positions, forces and energies whose size is likely to be that of another unit.

        Nearest neighbors are 0.06 to 0.6 nm apart. At temperatures of interest bonds pull with 150 to 20,000 kJ/mol/nm
        a component (root mean square), and nothing with less than 5. The spread of energies squared is what forces
        squared over the curvature of the surface make of it, and curvatures are known within some powers of ten.
        Configurations that are all relaxed have no such forces.

        **Errors:** `ValueError` with the unit that would fit.
        """
        near = self._nearest()
        if not 0.06 < near < 0.6:
            other = "Å: times `units.ANGSTROM`" if near > 0.6 else "m or another unit"
            raise ValueError(
                f"`positions` have nearest neighbors {near:.3g} nm apart; wanted 0.06 to 0.6 nm. Are they in {other}?"
            )
        if self.forces is None:
            return
        size, least = float(np.sqrt(np.mean(self.forces**2))), 150.0 if near < _BONDED else 5.0
        if not least < size < 2e4:
            fitting = _fitting(_FORCES, size, np.sqrt(least * 2e4))
            raise ValueError(
                f"`forces` have a root mean square of {size:.3g} kJ/mol/nm a component; wanted {least:g} to 20,000,"
                f" where nearest neighbors are {near:.2g} nm apart. {fitting}"
            )
        if self.energies is None or len(self) < 10:
            return
        # of a harmonic system at a temperature: ⟨F²⟩ = k T ⟨curvature⟩, and var(E) = 3N/2 (k T)²
        spread = float(np.std(self.energies)) / np.sqrt(1.5 * self.topology.num_atoms)
        curvature = size**2 / max(spread, 1e-300)
        if not 1e2 < curvature < 1e7:
            raise ValueError(
                f"`energies` spread by {np.std(self.energies):.3g} kJ/mol and `forces` have a root mean square of"
                f" {size:.3g} kJ/mol/nm: springs of about {curvature:.1g} kJ/mol/nm², wanted 1e2 to 1e7."
                f" {_fitting(_ENERGIES, 1 / curvature, 1e-5)}"
            )

    def _nearest(self) -> float:
        """The typical distance of an atom's nearest neighbor in the first frames, nm."""
        found = []
        for k in range(min(4, len(self))):
            d = self.positions[k][:, None] - self.positions[k][None]
            if self.vectors is not None:
                v = self.vectors[k]
                d = d - np.round(d @ np.linalg.inv(v)) @ v
            r = np.linalg.norm(d, axis=-1)
            found.append(np.median(np.min(r + np.diag(np.full(len(r), np.inf)), axis=1)))
        return float(np.median(found)) if self.topology.num_atoms > 1 else 0.3


def _array(name, x, shape, hint):
    if not is_concrete(x):
        raise TypeError(f"`{name}` are traced; wanted numbers: labels are data.")
    require_array(name, x)
    require_shape(name, x, shape, hint)
    require_finite(name, x)
    return np.asarray(x, np.float64)


def _fitting(known: dict[str, float], size: float, wanted: float) -> str:
    """What to say of a quantity that is so large, and should be about `wanted`."""
    name = min(known, key=lambda name: abs(np.log(size * known[name] / wanted)))
    if abs(np.log(size * known[name] / wanted)) > abs(np.log(size / wanted)):
        return "No usual unit would fit: look at where they come from, or say `check_units=False`."
    return f"In {name} they would fit: multiply by {known[name]:.6g}. If they are right, say `check_units=False`."
