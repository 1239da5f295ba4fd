from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from .._fields import Rule
from .._misc import as_array, as_float_array, is_concrete, require_finite, require_shape, require_whole
from ._terms import AbstractAtomIndexed, entry

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar

    class Charges:
        """A field of charges: what it is set to, and what it then is."""

        def __get__(self, instance: object, owner: Any) -> "AbstractCharges": ...

        def __set__(self, instance: object, value: "ArrayLike | AbstractCharges") -> None: ...

else:
    from equinox import AbstractVar

    Charges = Any


class AbstractCharges(AbstractAtomIndexed):
    """The charges of all atoms, made of parameters in which the constraints on them are built in.

    A potential and a dipole that are given the same one share its parameters.
    """

    values: AbstractVar[Float[Array, " atoms"]]
    """The charge of every atom, e."""

    def require_atoms(self, num_atoms):
        num = eqx.filter_eval_shape(lambda charges: charges.values, self).shape[0]
        if num != num_atoms:
            raise ValueError(f"`{type(self).__name__}` has {num} charges; wanted one for each of {num_atoms} atoms.")


class AtomCharges(AbstractCharges):
    """A charge for every kind of atom, free to change: nothing keeps molecules neutral; see `MolecularCharges`.

    **Arguments:** `charges` (e), one for every kind; `kinds`, the kind of every atom; without it every atom is one of
    its own.

    **Errors:** `ValueError` for charges that are not finite and kinds that have no charge.
    """

    charges: Float[Array, " kinds"]
    kinds: Int[Array, " atoms"]

    def __init__(self, charges: ArrayLike, kinds: ArrayLike | None = None):
        self.charges = as_float_array(charges)
        require_shape("charges", self.charges, (None,), "One for every kind, or for every atom.")
        self.kinds = jnp.arange(len(self.charges)) if kinds is None else as_array(kinds)

    def __check_init__(self):
        require_finite("charges", self.charges)
        require_shape("kinds", self.kinds, (None,), "One for every atom.")
        _require_kinds(self.kinds, len(self.charges), lowest=0)

    @property
    def values(self) -> Float[Array, " atoms"]:
        return entry(self.charges, self.kinds)


class MolecularCharges(AbstractCharges):
    """A charge for every kind of atom but one in each molecule, which takes what the molecule's net charge leaves.

    So molecules stay neutral (or ions singly charged) and equivalent atoms alike, whatever the parameters become. A
    molecule's atoms of kind -1 share what is left equally. For one molecule of water

        MolecularCharges(jnp.array([0.42]), jnp.array([-1, 0, 0]), jnp.array([0, 0, 0]))

    has the charge of a hydrogen as its only parameter, and oxygen gets minus twice that.

    **Arguments:** `charges` (e), one for every kind; `kinds`, the kind of every atom, or -1; `molecules`, the molecule
    of every atom, as in `Topology`; `net`, the charge of every molecule (e, whole numbers), zero by default.

    **Errors:** `ValueError` for charges that are not finite, kinds that have no charge, and molecules without an atom
    of kind -1.
    """

    charges: Float[Array, " kinds"]
    kinds: Int[Array, " atoms"]
    molecules: Int[Array, " atoms"]
    net: Int[Array, " molecules"]

    def __init__(self, charges: ArrayLike, kinds: ArrayLike, molecules: ArrayLike, net: ArrayLike | None = None):
        self.charges = as_float_array(charges)
        self.kinds = as_array(kinds)
        self.molecules = as_array(molecules)
        require_shape("molecules", self.molecules, (None,), "One for every atom.")
        require_whole("molecules", self.molecules)
        num = int(np.max(np.asarray(molecules), initial=-1)) + 1 if is_concrete(molecules) else None
        if net is None and num is None:
            raise ValueError(
                "`molecules` is traced and `net` missing; wanted either to say how many molecules there are."
            )
        self.net = jnp.zeros(num or 0, int) if net is None else as_array(net)

    def __check_init__(self):
        require_shape("charges", self.charges, (None,), "One for every kind.")
        require_finite("charges", self.charges)
        require_shape("kinds", self.kinds, (None,), "One for every atom.")
        require_shape("molecules", self.molecules, self.kinds.shape, "One for every atom.")
        require_shape("net", self.net, (None,), "One for every molecule.")
        _require_kinds(self.kinds, len(self.charges), lowest=-1)
        if is_concrete((self.kinds, self.molecules)):
            molecules = np.asarray(self.molecules)
            if molecules.min(initial=0) < 0 or molecules.max(initial=-1) >= len(self.net):
                raise ValueError(
                    f"`molecules` has indices from {molecules.min()} to {molecules.max()}; wanted from 0 to"
                    f" {len(self.net) - 1}, as `net` is of {len(self.net)} molecules."
                )
            without = np.setdiff1d(molecules, molecules[np.asarray(self.kinds) < 0])
            if len(without) > 0:
                raise ValueError(
                    f"Molecule {without[0]} has no atom of kind -1 in `kinds`; wanted one in every molecule, to take"
                    " what the others leave of its net charge. For charges without that constraint use `AtomCharges`."
                )

    @property
    def values(self) -> Float[Array, " atoms"]:
        given = self.kinds >= 0
        own = jnp.where(given, entry(self.charges, jnp.maximum(self.kinds, 0)), 0)
        total = lambda x: jax.ops.segment_sum(x, self.molecules, len(self.net))
        left = (self.net - total(own)) / jnp.maximum(total((~given).astype(own.dtype)), 1)
        return jnp.where(given, own, entry(left.astype(own.dtype), self.molecules))


def charges_rule() -> Any:
    """Charges, from an array or as they are."""
    return Rule(as_charges, lambda name, x: None)


def as_charges(charges: ArrayLike | AbstractCharges) -> AbstractCharges:
    """Charges as they are, or of an array with one for every atom (e)."""
    return charges if isinstance(charges, AbstractCharges) else AtomCharges(charges)


def _require_kinds(kinds, num, *, lowest):
    require_whole("kinds", kinds)
    if is_concrete(kinds) and kinds.size:
        low, high = int(np.min(np.asarray(kinds))), int(np.max(np.asarray(kinds)))
        if low < lowest or high >= num:
            raise ValueError(
                f"`kinds` has indices from {low} to {high}; wanted from {lowest} to {num - 1}, as there are charges of"
                f" {num} kinds."
            )
