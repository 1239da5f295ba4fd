"""Pairs of atoms that are named: left out of a pair potential, or the only ones in it."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int

from .._fields import Indices, Kinds, Parameter, checked, finite, finite_number, indices, optional
from .._misc import cast_floats, is_concrete, require_shape
from ._base import AbstractPotential
from ._charges import AbstractCharges
from ._forms import AbstractSpeciesPairPotential
from ._pair import AbstractPairPotential
from ._partners import NamedPairs, each_once, is_partner
from ._terms import (
    AbstractAtomIndexed,
    require_atoms,
    require_indices,
    steps_between,
    terms,
)
from ._truncation import AbstractTruncation

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


class AbstractExcepting(AbstractAtomIndexed):
    """What makes an exception of some pairs of a pair potential."""

    potential: AbstractVar[AbstractPairPotential]
    named: AbstractVar[NamedPairs]

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    @property
    def truncation(self) -> AbstractTruncation:
        return self.potential.truncation

    @property
    def pairs(self) -> Int[Array, "pairs 2"]:
        """The exceptions, each once."""
        return self.named.pairs

    def require_atoms(self, num_atoms):
        require_atoms(self.potential, num_atoms)
        require_indices(self, self.pairs, num_atoms)


class Excluding(AbstractExcepting, AbstractPairPotential):
    """A pair potential without some pairs, such as those of a molecule (`Topology.pairs_within`).

    An excluded pair contributes nothing, however near its atoms. Costs one comparison per pair and excluded partner of
    an atom; where a potential is among some of the atoms only, no two of one molecule, `Among` is cheaper.

    **Arguments:** `potential`; `pairs`, atoms i and j, in any order; `num_atoms`, up to which atoms are named, by
    default what `pairs` need.

    **Errors:** `ValueError` for pairs of an atom with itself, for indices from `num_atoms` on, and for pairs that are
    traced: they are no parameters.
    """

    potential: AbstractPairPotential
    named: NamedPairs

    def __init__(self, potential: AbstractPairPotential, pairs: ArrayLike | NamedPairs, num_atoms: int | None = None):
        self.potential = potential
        self.named = pairs if isinstance(pairs, NamedPairs) else each_once(pairs, num_atoms)

    def pair_energy(self, r2, i, j):
        excluded = is_partner(self.named.partners, i, j)
        # first a harmless distance: the atoms may be so near that the formula overflows
        energy = self.potential.pair_energy(jnp.where(excluded, self.cutoff**2, r2), i, j)
        return jnp.where(excluded, 0, energy)


class Rescaling(AbstractExcepting, AbstractPotential):
    """A pair potential in which the interaction of some pairs is multiplied by a constant, such as 1-4 pairs.

    The named pairs interact by the plain formula at any distance, without the cutoff and the truncation of all others,
    as force fields mean it (and OpenMM its exceptions); in a periodic box by their nearest images.

    These pairs share the parameters of all others. As `ListedPairs` with `Excluding` they would have a copy of their
    own, for a fit to move apart, which is right only where a force field says so. The potential may be an
    `Excluding`. Costs as much as `Excluding`.

    **Arguments:** `potential`; `pairs`, atoms i and j, in any order; `factor`, a constant; `num_atoms`, as for
    `Excluding`.

    **Errors:** as for `Excluding`; `ValueError` for a factor that is not finite.
    """

    potential: AbstractPairPotential
    named: NamedPairs
    factor: float = checked(finite_number("units of 1"), static=True)

    def __init__(self, potential: AbstractPairPotential, pairs: ArrayLike, factor: float, num_atoms: int | None = None):
        self.potential = potential
        self.named = each_once(pairs, num_atoms)
        self.factor = factor

    def energy(self, positions, box, *, neighbors=None):
        others = Excluding(self.potential, self.named)
        named = _listed(self.potential, self.pairs, positions, box, jnp.asarray(self.factor), None)
        return others.energy(positions, box, neighbors=neighbors) + named


class ListedPairs(AbstractPotential, AbstractAtomIndexed):
    """The sum of a pair potential's formula over named pairs only, without cutoff, U = Σ_p f_p u(r_p).

    For scaled 1-4 interactions, together with `Excluding`; `-1 * ListedPairs(...)` takes pairs out again.

    **Arguments:** `potential`, whose `pair_energy` is used, without truncation; `pairs`, atoms i and j; `factor`, a
    scalar or one number per pair; `kinds`, for pairs that have parameters of their own: then pair p interacts as two
    atoms with index `kinds[p]` would, as in

        species = jnp.arange(len(sigma))
        ListedPairs(LennardJones(sigma, epsilon, cutoff=1.0, species=species), pairs, kinds=kinds)

    **Errors:** `ValueError` for pairs of an atom with itself, shapes that do not fit, factors that are not finite,
    kinds that the potential does not have.
    """

    potential: AbstractPairPotential
    pairs: Indices = terms(2)
    factor: Parameter = checked(finite("units of 1"), default=1.0)
    kinds: Kinds = checked(optional(indices("One per pair.")), default=None, kw_only=True)

    def __check_init__(self):
        if self.factor.ndim > 0:
            require_shape("factor", self.factor, (len(self.pairs),), "A scalar, or one number per pair.")
        if self.kinds is not None:
            require_shape("kinds", self.kinds, (len(self.pairs),), "One per pair.")
            if is_concrete(self.kinds) and self.kinds.size:
                low, high = int(np.min(np.asarray(self.kinds))), int(np.max(np.asarray(self.kinds)))
                num = _num_entries(self.potential, default=high + 1)
                if low < 0 or high >= num:
                    raise ValueError(f"`kinds` has indices from {low} to {high}; wanted from 0 to {num - 1}.")

    @property
    def cutoff(self) -> None:
        return None

    def require_atoms(self, num_atoms):
        if self.kinds is None:
            require_atoms(self.potential, num_atoms)
        require_indices(self, self.pairs, num_atoms)

    def energy(self, positions, box, *, neighbors=None):
        del neighbors
        return _listed(self.potential, self.pairs, positions, box, self.factor, self.kinds)


def _listed(potential, pairs, positions, box, factor, kinds):
    """The sum of a formula over pairs."""
    dtype = positions.dtype
    if len(pairs) == 0:
        return jnp.zeros((), dtype)
    potential, factor, box = cast_floats((potential, factor, box), dtype)
    i, j = pairs[:, 0], pairs[:, 1]
    ((x, y, z),) = steps_between(positions, pairs, box)
    if kinds is not None:
        i = j = kinds
    energies = jax.vmap(potential.pair_energy)(x * x + y * y + z * z, i, j)
    if kinds is not None:
        energies = jnp.where((kinds >= 0) & (kinds < _num_entries(potential, default=2**31)), energies, jnp.nan)
    return jnp.sum(factor * energies)


def _num_entries(potential: AbstractPairPotential, *, default: int) -> int:
    """For how many atoms a potential, or the one it wraps, has parameters; `default` if all are alike."""
    has_entries = lambda x: isinstance(x, AbstractSpeciesPairPotential | AbstractCharges)
    parts = [x for x in jax.tree.leaves(potential, is_leaf=has_entries) if has_entries(x)]
    arrays = [x.species if isinstance(x, AbstractSpeciesPairPotential) else x.values for x in parts]
    return min((len(x) for x in arrays if x is not None), default=default)
