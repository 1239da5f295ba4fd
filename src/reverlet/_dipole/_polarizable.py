import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._box import OpenBox, require_one_image
from .._fields import Kinds, Parameter, checked, indices, optional, positive, positive_number
from .._misc import require_shape, smooth_step
from .._neighbors import Edges
from .._potential._charges import Charges, charges_rule
from ._base import AbstractDipole


class PolarizableDipole(AbstractDipole):
    """Charges and the point dipoles they induce in polarizable atoms, M = Σ q_a x_a + Σ μ_a.

    The induced dipoles polarize one another, (α⁻¹ - T) μ = E, with E the field of the charges and T that of unit
    dipoles, both of the nearest images and damped at short range: r is measured in (α_a α_b)^(1/6), the field of a
    charge is times 1 - e, of a dipole times 1 - e and 1 - (1 + a u³) e for its two parts, with e = exp(-a u³).

    Solved directly, at a cost that grows as the cube of the number of atoms; with a neighbor list that has a view per
    atom (`CellList.fit(..., per_atom=True)`) in turns, at a cost that grows as the number of atoms. The dipole is one
    of linear response to a given configuration: no energy goes with it here, so forces do not feel it. There is no
    Ewald sum: what is beyond the cutoff is left out, and of a liquid that is a dielectric's reaction field.

    **Arguments:** `charges` of the atoms (e); `polarizabilities`, one for every atom, nm³ (volumes, α/4πε₀; 1.45e-3
    for a water molecule's); `molecules`, as in `Topology`: charges do not polarize atoms of their own molecule, as
    fixed charges already account for that (without it, every other charge does); `cutoff` (nm), to which interactions
    go to zero from 0.8 of it with two continuous derivatives, needed in a periodic box; `damping`, Thole's a, `None`
    for none.

    **Errors:** `ValueError` for polarizabilities that are not positive, lengths that differ, and a periodic box without
    a cutoff or with one larger than half its smallest height. The moment is NaN where atoms are so close that they
    polarize one another without bound.

    **Reference:** B. T. Thole, Chem. Phys. 59, 341 (1981); P. Ren and J. W. Ponder, J. Phys. Chem. B 107, 5933 (2003),
    for this form of the damping, with a = 0.39.
    """

    charges: Charges = charges_rule()
    polarizabilities: Parameter = positive("nm³")
    molecules: Kinds = checked(optional(indices()), default=None, kw_only=True)
    cutoff: float | None = checked(optional(positive_number("nm")), static=True, default=None, kw_only=True)
    damping: float | None = checked(optional(positive_number("units of 1")), default=0.39, kw_only=True)

    def __check_init__(self):
        require_shape("polarizabilities", self.polarizabilities, self.charges.values.shape, "One for every atom.")
        if self.molecules is not None:
            require_shape("molecules", self.molecules, self.polarizabilities.shape, "One for every atom.")

    def moment(self, positions, box, *, neighbors=None):
        self._check_box(box)
        dtype, n = positions.dtype, len(positions)
        charges, alpha = self.charges.values.astype(dtype), self.polarizabilities.astype(dtype)
        require_shape("positions", positions, (len(alpha), 3), "As many atoms as charges.")
        listed = neighbors is not None and neighbors.of_atom is not None and self.cutoff is not None
        reach = math.inf if self.cutoff is None else self.cutoff
        edges = Edges.within(reach, positions, box, neighbors if listed else None)
        pairs = self._pairs(edges, charges, alpha)
        if listed:
            induced = _solved_in_turns(pairs, edges, alpha)
        else:
            d, identity = edges.d, jnp.eye(3, dtype=dtype)
            outer = d[..., :, None] * d[..., None, :]
            tensor = pairs.along[..., None, None] * outer - pairs.across[..., None, None] * identity
            matrix = -jnp.swapaxes(tensor, 1, 2).reshape(3 * n, 3 * n) + jnp.diag(jnp.repeat(1 / alpha, 3))
            induced = jax.scipy.linalg.solve(matrix, pairs.field.reshape(-1), assume_a="pos").reshape(n, 3)
        return jnp.sum(charges[:, None] * positions + induced, axis=0)

    def _pairs(self, edges, charges, alpha):
        r = jnp.sqrt(jnp.sum(edges.d**2, axis=-1))
        near = jnp.where(edges.mask, self._switch(r), 0)
        damp3, damp5 = self._damp(r, alpha[:, None] * alpha[edges.j])
        across, along = near * damp3 / r**3, 3 * near * damp5 / r**5
        strength = charges[edges.j] * across
        if self.molecules is not None:
            strength = jnp.where(self.molecules[:, None] != self.molecules[edges.j], strength, 0)
        return _Pairs(jnp.sum(-strength[..., None] * edges.d, axis=1), along, across)

    def _check_box(self, box):
        if isinstance(box, OpenBox):
            return
        if self.cutoff is None:
            raise ValueError(
                "`PolarizableDipole` got a periodic box and no `cutoff`; wanted one of at most half the smallest"
                " height of the box."
            )
        require_one_image("`cutoff`", self.cutoff, box)

    def _switch(self, r):
        if self.cutoff is None:
            return jnp.ones_like(r)
        return smooth_step((r / self.cutoff - 0.8) / 0.2)

    def _damp(self, r, product):
        if self.damping is None:
            return jnp.ones_like(r), jnp.ones_like(r)
        x = self.damping * r**3 / jnp.sqrt(product)
        return -jnp.expm1(-x), 1 - (1 + x) * jnp.exp(-x)


class _Pairs(NamedTuple):
    """What the charges do to every atom, and the tensors T = along d dᵀ - across 1 of every pair."""

    field: Float[Array, "atoms 3"]
    along: Float[Array, "atoms near"]
    across: Float[Array, "atoms near"]


def _solved_in_turns(pairs, edges, alpha):
    """The induced dipoles by conjugate gradients, whose every turn is a sum over the list."""

    def apply(mu):
        other = mu[edges.j]
        projected = pairs.along * jnp.sum(edges.d * other, axis=-1)
        from_others = projected[..., None] * edges.d - pairs.across[..., None] * other
        return mu / alpha[:, None] - jnp.sum(from_others, axis=1)

    solve = lambda apply, field: _conjugate_gradients(apply, field, alpha[:, None])
    return jax.lax.custom_linear_solve(apply, pairs.field, solve, symmetric=True)


def _conjugate_gradients(apply, b, preconditioner):
    """x of A x = b, up to rounding; NaN where A is not positive definite, or it does not converge."""
    dot = lambda x, y: jnp.sum(x * y)
    # rounding of a sum over all turns
    enough = (16 * jnp.finfo(b.dtype).eps) ** 2 * dot(b, preconditioner * b)

    def body(carry):
        k, x, r, p, rz = carry
        product = apply(p)
        curvature = dot(p, product)
        step = jnp.where(curvature > 0, rz / curvature, jnp.nan)
        x, r = x + step * p, r - step * product
        z = preconditioner * r
        new = dot(r, z)
        return k + 1, x, r, z + new / rz * p, new

    z = preconditioner * b
    start = (jnp.array(0), jnp.zeros_like(b), b, z, dot(b, z))
    # a comparison with NaN is false, and ends the loop
    _, x, _, _, rz = jax.lax.while_loop(lambda c: (c[4] > enough) & (c[0] < b.size), body, start)
    return jnp.where(rz <= enough, x, jnp.nan)
