"""The polarizability that networks find in the descriptor of Deep Potentials (se_e2_a)."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._box import AbstractBox
from .._misc import as_float_array, cast_floats, require_finite
from .._potential._terms import AbstractAtomIndexed
from .._topology import Topology
from ._base import AbstractPolarizability
from ._descriptor import Descriptor, Network, fresh, require_scale


class DeepPolarizability(AbstractPolarizability, AbstractAtomIndexed):
    """The sum of polarizabilities of atoms, each a network's, in directions that its neighborhood gives,

        α = Σ_i scale Σ_m f_m(D_i) A_i[1:4, m] A_i[1:4, m]ᵀ + isotropic 1

    with the environments A, their products D and networks f of a `DeepDipole`, and a constant of every kind of center.

    Made by `DeepPolarizability.fresh`, to be trained.

    **Reference:** G. M. Sommers, M. F. Calegari Andrade, L. Zhang, H. Wang and R. Car, Phys. Chem. Chem. Phys. 22,
    10592 (2020).
    """

    descriptor: Descriptor
    fittings: tuple[Network, ...]
    """Of every kind of center."""
    isotropic: Float[Array, " centers"]
    """Of every kind of center, nm³."""
    scale: float = eqx.field(static=True)
    """nm³ of one unit of the networks."""

    @classmethod
    def fresh(
        cls,
        topology: Topology,
        positions: Float[Array, "atoms 3"],
        box: AbstractBox,
        *,
        elements: Sequence[str],
        centers: Sequence[str] | None = None,
        cutoff: float = 0.6,
        onset: float = 0.05,
        neurons: Sequence[int] = (25, 50, 100),
        axis: int = 6,
        hidden: Sequence[int] = (100, 100, 100),
        isotropic: float = 1e-3,
        scale: float = 1e-4,
        key: PRNGKeyArray,
    ) -> "DeepPolarizability":
        """Networks to be trained, none of whose gradients vanish, for the atoms of a topology.

        **Arguments:** as for `DeepDipole.fresh`; `centers`, the elements that are polarizable; `isotropic` (nm³), what
        each of them has at first besides its network's; `scale`, nm³ of one unit of the networks.

        **Errors:** as for `DeepDipole.fresh`.
        """
        require_scale(scale, "nm³")
        require_finite("isotropic", isotropic)
        descriptor, fittings = fresh(
            cls.__name__, topology, positions, box, elements=elements, centers=centers, cutoff=cutoff, onset=onset,
            neurons=neurons, axis=axis, hidden=hidden, key=key,
        )  # fmt: skip
        start = as_float_array(jnp.full(len(fittings), isotropic))
        return cls(descriptor, fittings, start, scale=scale)

    def require_atoms(self, num_atoms):
        self.descriptor.kinds.require_atoms("DeepPolarizability", num_atoms)

    def polarizability(self, positions, box, *, neighbors=None):
        self.require_atoms(len(positions))
        model = cast_floats(self, positions.dtype)
        total = jnp.zeros((3, 3), positions.dtype)
        environments = model.descriptor.environments(positions, box, neighbors)
        for f, constant, (a, products) in zip(model.fittings, model.isotropic, environments, strict=True):
            axes = a[:, 1:]
            matrix = jnp.einsum("im,ikm,ilm->kl", f(products), axes, axes, precision="highest")
            total = total + self.scale * matrix + len(a) * constant * jnp.eye(3, dtype=positions.dtype)
        return 0.5 * (total + total.T)  # symmetric to the last bit
