import jax.numpy as jnp

from .._fields import Indices, Kinds, Parameter, checked, finite, indices, optional, parameters_of, positive_or_zero
from .._potential._terms import AbstractAtomIndexed, entry, require_indices, require_kinds, steps_between, terms
from ._base import AbstractPolarizability


class BondPolarizability(AbstractPolarizability, AbstractAtomIndexed):
    """The sum of polarizabilities of bonds, each linear in the stretch of its bond.

    α = Σ α⊥(r) 1 + [α∥(r) - α⊥(r)] û ûᵀ over the bonds, û along the bond, α∥(r) = α∥ + α∥' (r - r₀), and α⊥(r)
    alike.

    **Arguments:** `bonds`, pairs of atoms; `parallel` and `perpendicular` (nm³, volumes), their slopes (nm²) and
    `length` r₀ (nm), each a scalar, shared by all bonds, or one for every kind, with `kinds`, the kind of every bond.

    **Errors:** `ValueError` for bonds that are not pairs and parameters that are not finite or of the wrong shape.

    **Reference:** M. V. Wolkenstein, C. R. Acad. Sci. URSS 32, 185 (1941); P. Umari, X. Gonze and A. Pasquarello,
    Phys. Rev. Lett. 90, 027401 (2003).
    """

    bonds: Indices = terms(2)
    parallel: Parameter = finite("nm³")
    perpendicular: Parameter = finite("nm³")
    parallel_slope: Parameter = finite("nm²")
    perpendicular_slope: Parameter = finite("nm²")
    length: Parameter = positive_or_zero("nm")
    kinds: Kinds = checked(optional(indices("One for every bond.")), default=None, kw_only=True)

    def __check_init__(self):
        require_kinds(self.kinds, len(self.bonds), *parameters_of(self))

    def require_atoms(self, num_atoms):
        require_indices(self, self.bonds, num_atoms)

    def polarizability(self, positions, box, *, neighbors=None):
        del neighbors
        dtype = positions.dtype
        (steps,) = steps_between(positions, self.bonds, box.astype(dtype))
        d = jnp.stack(steps, axis=1)
        r = jnp.sqrt(jnp.sum(d**2, axis=1))
        of_bond = lambda p: (p if self.kinds is None or p.ndim == 0 else entry(p, self.kinds)).astype(dtype)
        stretch = r - of_bond(self.length)
        along = of_bond(self.parallel) + of_bond(self.parallel_slope) * stretch
        across = of_bond(self.perpendicular) + of_bond(self.perpendicular_slope) * stretch
        unit = d / r[:, None]
        outer = unit[:, :, None] * unit[:, None, :]
        return jnp.sum((along - across)[:, None, None] * outer, axis=0) + jnp.sum(across) * jnp.eye(3, dtype=dtype)
