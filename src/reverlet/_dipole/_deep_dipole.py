"""The dipole of Wannier centers that a network places, in the descriptor of Deep Potentials (se_e2_a)."""

from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._box import AbstractBox
from .._misc import as_array, cast_floats, require_finite, require_shape
from .._potential._terms import AbstractAtomIndexed
from .._topology import Topology
from ._base import AbstractDipole
from ._deepmd import Published, read_frozen, read_npz
from ._descriptor import Descriptor, Network, fresh, require_scale


class DeepDipole(AbstractDipole, AbstractAtomIndexed):
    """A Deep Dipole: charges at the atoms, and what a network displaces from some of them,

        M = Σ_a q_a x_a + scale Σ_i W_i,    W_i = Σ_m f_m(D_i) A_i[1:4, m],    D_i = A_iᵀ A_i[:, :axis]
        A_i = Σ_j row_ij ⊗ G(row_ij[0]) / slots,    row_ij = ((s, s x/r, s y/r, s z/r) - mean) / deviation

    with s = 1/r up to an onset, going to zero at the cutoff with two continuous derivatives, G the embedding network
    of two elements and f the fitting network of the center's. Of water, the charges are +1 on hydrogen and -2 on
    oxygen, its core and four Wannier centers, and W is the sum of these centers' displacements.

    A place without neighbor has a part in the sum too, the row's of s = 0, as in training; so the number of places is a
    parameter of the model, and atoms beyond their number count, which DeePMD-kit leaves out.

    Made by `DeepDipole.from_npz` or `DeepDipole.from_frozen` of published weights, or by `DeepDipole.fresh` to be
    trained.

    **Reference:** L. Zhang et al., Phys. Rev. B 102, 041121 (2020).
    """

    descriptor: Descriptor
    fittings: tuple[Network, ...]
    """Of every kind of center."""
    charges: tuple[float, ...] = eqx.field(static=True)
    """Of every kind, e."""
    scale: float = eqx.field(static=True)
    """e nm of one unit of W."""

    @classmethod
    def from_npz(cls, weights: str | Path, hyperparameters: str | Path, topology: Topology) -> "DeepDipole":
        """A published model of water, for the atoms of a topology.

        **Arguments:** `weights`, a NumPy archive of `davg` and `dstd` (kinds, slots, 4), the embedding networks
        `emb_c0_n0_W1`, `emb_c0_n0_b1` … (center, neighbor, layer from 1) and the fitting network `fit_W0`, `fit_b0`,
        `fit_idt1` …; `hyperparameters`, a JSON file of `type_map`, `sel_type`, `rcut` and `rcut_smth` (Å), `sel`,
        `neuron`, `axis_neuron` and `fitting_neuron`, as DeePMD-kit names them. W is the sum of the displacements of an
        oxygen's four Wannier centers, of two electrons each, in units of 0.1 Å.

        **Errors:** `ValueError` for files that are none, damaged, lack something or do not fit together, and atoms of
        an element that the model does not know.
        """
        model = read_npz(weights, hyperparameters, tuple(_CHARGES))
        charges = tuple(_CHARGES[e] for e in model.elements)
        return cls(model.descriptor(cls.__name__, topology), model.fittings, charges=charges, scale=-0.02)

    @classmethod
    def from_frozen(
        cls,
        path: str | Path,
        topology: Topology,
        *,
        elements: Sequence[str],
        charges: Sequence[float],
        scale: float,
    ) -> "DeepDipole":
        """A model that DeePMD-kit froze with TensorFlow (`.pb`), for the atoms of a topology; TensorFlow is not needed.

        Of the descriptor se_e2_a, of one side or two, without type embedding, compression or excluded pairs, as
        DeePMD-kit 2 and 3 name its constants.

        **Arguments:** `path`; `elements`, those of the model, in any order, and the `charges` (e) of each, which models
        do not tell: zero where the network's output is the dipole itself; `scale`, e nm of one unit of that output. Of
        a dipole in e Å, 0.1; of the mean displacement in Å of a water's four Wannier centers from its oxygen, -0.8,
        with charges of +1 on hydrogen and -2 on oxygen.

        **Errors:** `ValueError` for a file that is none, damaged, of another model or lacks something, and atoms of an
        element that the model does not know.
        """
        return of_published(read_frozen(path, "dipole"), topology, elements, charges, scale)

    @classmethod
    def fresh(
        cls,
        topology: Topology,
        positions: Float[Array, "atoms 3"],
        box: AbstractBox,
        *,
        elements: Sequence[str],
        charges: Sequence[float],
        centers: Sequence[str] | None = None,
        cutoff: float = 0.6,
        onset: float = 0.05,
        neurons: Sequence[int] = (25, 50, 100),
        axis: int = 6,
        hidden: Sequence[int] = (100, 100, 100),
        scale: float = 0.01,
        key: PRNGKeyArray,
    ) -> "DeepDipole":
        """Networks to be trained, none of whose gradients vanish, for the atoms of a topology.

        **Arguments:** a configuration as the model will see, `positions` (nm) and `box`, which says how large rows are
        and how many neighbors; `elements`, and the `charges` (e) of each; `centers`, the elements from which something
        is displaced, all by default; `onset` and `cutoff` (nm), from which s is less than 1/r, and zero; the widths of
        the embedding networks' layers, `neurons`, and of the fitting networks' `hidden` ones; `axis`, how many columns
        of A all are multiplied with; `scale`, e nm of one unit of W, which is about what comes at first.

        **Errors:** `ValueError` for atoms of an element that is not among `elements`, centers that are not, charges
        that are not one for each, a cutoff of more than half the box, and numbers that are not positive.
        """
        require_scale(scale, "e nm")
        descriptor, fittings = fresh(
            cls.__name__, topology, positions, box, elements=elements, centers=centers, cutoff=cutoff, onset=onset,
            neurons=neurons, axis=axis, hidden=hidden, key=key,
        )  # fmt: skip
        return cls(descriptor, fittings, charges=_of_elements("charges", charges, elements), scale=scale)

    def require_atoms(self, num_atoms):
        self.descriptor.kinds.require_atoms("DeepDipole", num_atoms)

    def moment(self, positions, box, *, neighbors=None):
        charges = jnp.asarray(self.charges, positions.dtype)[self.descriptor.kinds.of_atom]
        displaced = self.displacements(positions, box, neighbors=neighbors)
        return jnp.sum(charges[:, None] * positions, axis=0) + self.scale * jnp.sum(displaced, axis=0)

    def displacements(self, positions, box, *, neighbors=None) -> Float[Array, "centers 3"]:
        """W of every center, kind by kind, in the unit of the network."""
        self.require_atoms(len(positions))
        model = cast_floats(self, positions.dtype)
        seen = model.descriptor.environments(positions, box, neighbors)
        found = [
            jnp.einsum("im,ikm->ik", f(products), a[:, 1:], precision="highest")
            for f, (a, products) in zip(model.fittings, seen, strict=True)
        ]
        return jnp.concatenate(found)


_CHARGES = {"H": 1.0, "O": -2.0}
"""Of the core and the Wannier centers that a displacement is of, e."""


def of_published(
    model: Published, topology: Topology, elements: Sequence[str], charges: Sequence[float], scale: float
) -> DeepDipole:
    """See `DeepDipole.from_frozen`."""
    require_scale(scale, "e nm")
    if isinstance(elements, str) or sorted(elements) != sorted(model.elements):
        raise ValueError(f"`elements` is {elements!r}; wanted those of {model.path}, {', '.join(model.elements)[:80]}.")
    known = dict(zip(elements, _of_elements("charges", charges, elements), strict=True))
    descriptor = model.descriptor("DeepDipole", topology)
    return DeepDipole(descriptor, model.fittings, charges=tuple(known[e] for e in model.elements), scale=scale)


def _of_elements(name, values, elements):
    """One number for every element, as Python's own."""
    values = as_array(values)
    require_shape(name, values, (len(elements),), "One for every element.")
    require_finite(name, values)
    return tuple(float(q) for q in values)
