import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._box import AbstractBox, OpenBox
from .._fields import AbstractChecked
from .._misc import is_concrete, require_instance, require_resolved
from .._neighbors import Neighbors

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


P = TypeVar("P", bound="AbstractPotential")


class AbstractPotential(AbstractChecked):
    """A potential energy surface: a function of a configuration, and of nothing else.

    Species, indices and trainable parameters are fields. A subclass gives `energy` and `cutoff`; forces and stress
    are its derivatives. A hand-written derivative belongs in a custom derivative rule inside `energy`.
    """

    cutoff: AbstractVar[float | None]
    """How far the potential sees in a periodic box, nm; `None` if it takes no images (bonds, external fields)."""

    @abc.abstractmethod
    def energy(
        self, positions: Float[Array, "atoms 3"], box: AbstractBox, *, neighbors: Neighbors | None = None
    ) -> Float[Array, ""]:
        """The potential energy, kJ/mol, in the dtype of `positions` (nm).

        `neighbors` has all pairs of atoms within the cutoff, and more; without it all pairs of the system are looked
        at. A potential that looks at no pairs leaves it unread.
        """

    def forces(
        self, positions: Float[Array, "atoms 3"], box: AbstractBox, *, neighbors: Neighbors | None = None
    ) -> Float[Array, "atoms 3"]:
        """-∂U/∂x, kJ/mol/nm.

        NaN where the energy is not finite, as with two atoms at one place; a compiled program leaves that to what looks
        at the energy, as all runs do.

        **Errors:** `ValueError` for positions so far out that their dtype cannot hold distances.
        """
        require_resolved("positions", positions)
        require_instance("box", box, AbstractBox)
        return -_slope(lambda x: energy_of(self, x, box, neighbors), positions)

    def strained_energy(
        self,
        strain: Float[Array, "3 3"],
        positions: Float[Array, "atoms 3"],
        box: AbstractBox,
        *,
        neighbors: Neighbors | None = None,
    ) -> Float[Array, ""]:
        """The energy, kJ/mol, where positions and lattice vectors are mapped by 1 + strain together."""
        deformation = jnp.eye(3, dtype=positions.dtype) + strain
        strained = jnp.matmul(positions, deformation.T, precision=jax.lax.Precision.HIGHEST)
        return energy_of(self, strained, box.deform(deformation), neighbors)

    def stress(
        self, positions: Float[Array, "atoms 3"], box: AbstractBox, *, neighbors: Neighbors | None = None
    ) -> Float[Array, "3 3"]:
        """The potential part of the stress, (1/V) ∂U/∂strain, kJ/mol/nm³ (see `units.BAR`).

        The strain maps positions and lattice vectors together. Tension is positive: the pressure is minus a third of
        its trace, plus the kinetic part N k T / V. NaN where forces are.
        """
        require_resolved("positions", positions)
        require_instance("box", box, AbstractBox)
        box = box.astype(positions.dtype)
        if isinstance(box, OpenBox):
            raise ValueError("`stress` got an `OpenBox`, which has no volume; wanted a periodic box.")
        strained = lambda strain: self.strained_energy(strain, positions, box, neighbors=neighbors)
        return _slope(strained, jnp.zeros((3, 3), positions.dtype)) / box.volume

    def __add__(self, other: "AbstractPotential") -> "Sum":
        return Sum(_parts(self) + _parts(other))  # pyright: ignore[reportCallIssue]

    def __sub__(self, other: "AbstractPotential") -> "Sum":
        return self + (-other)

    def __neg__(self) -> "Scaled":
        return Scaled(self, -1.0)

    def __mul__(self, factor: int | float) -> "Scaled":
        return Scaled(self, factor)

    __rmul__ = __mul__


class Sum(AbstractPotential):
    """The sum of several potentials, U = Σ U_k; what `a + b` makes, and `a - b` with `Scaled`."""

    parts: tuple[AbstractPotential, ...]

    def __check_init__(self):
        require_instance("parts", self.parts, tuple)
        for one in self.parts:
            require_instance("parts", one, AbstractPotential)

    def part(self, cls: type[P]) -> P:
        """The only part that is a `cls`, such as `water.part(rv.HarmonicBond)`.

        **Errors:** `ValueError` where there is none, or more than one.
        """
        found = [p for p in self.parts if isinstance(p, cls)]
        if len(found) != 1:
            parts = ", ".join(type(p).__name__ for p in self.parts)
            raise ValueError(f"There are {len(found)} parts of type `{cls.__name__}` among {parts}; wanted one.")
        return found[0]

    @property
    def cutoff(self) -> float | None:
        return max((p.cutoff for p in self.parts if p.cutoff is not None), default=None)

    def energy(self, positions, box, *, neighbors=None):
        energies = (energy_of(p, positions, box, neighbors) for p in self.parts)
        return sum(energies, jnp.zeros((), positions.dtype))


class Scaled(AbstractPotential):
    """A potential times a constant; what `factor * potential` and `-potential` make.

    The factor is no parameter: nothing trains it. A factor to be trained or differentiated is a field of a potential
    of one's own.

    **Errors:** `TypeError` for a factor that is an array, `ValueError` for one that is not finite.
    """

    potential: AbstractPotential
    factor: float = eqx.field(static=True)

    def __init__(self, potential: AbstractPotential, factor: int | float):
        # here and not in `__check_init__`: Equinox would already have warned of an array in a static field
        if isinstance(factor, bool) or not isinstance(factor, int | float | np.integer | np.floating):
            raise TypeError(
                f"`factor` is {factor!r}, of type `{type(factor).__name__}`; wanted a Python number such as 2.0: it is"
                " a constant. To differentiate with respect to it, write a potential with it as a field."
            )
        if not np.isfinite(factor):
            raise ValueError(f"`factor` is {factor}; wanted a finite number.")
        self.potential, self.factor = potential, float(factor)

    @property
    def cutoff(self) -> float | None:
        return self.potential.cutoff

    def energy(self, positions, box, *, neighbors=None):
        return self.factor * energy_of(self.potential, positions, box, neighbors)


def energy_of(potential: AbstractPotential, positions, box, neighbors: Neighbors | None) -> Float[Array, ""]:
    """The energy, of a potential that need not know of `neighbors` where there are none."""
    if neighbors is None:
        return potential.energy(positions, box)
    return potential.energy(positions, box, neighbors=neighbors)


def _parts(potential: AbstractPotential) -> tuple[AbstractPotential, ...]:
    return potential.parts if isinstance(potential, Sum) else (potential,)


def _slope(energy: Callable[[Array], Array], x: Array) -> Array:
    """The derivative of an energy, and NaN where that is not finite."""
    value, slope = jax.value_and_grad(energy)(x)
    # sums over pairs tell an atom from others by its distance of zero, and so have no force between atoms at one place
    return jnp.where(jnp.isfinite(value), slope, jnp.nan) if is_concrete(value) else slope
