"""Electrostatics on a mesh, by the optional package `jax-pme` (the extra `pme`)."""

import math
from collections.abc import Iterable
from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int

from .._box import AbstractBox, TriclinicBox
from .._misc import require_positive
from ._bonded import as_pairs
from ._charges import AbstractCharges, as_charges
from ._coulomb import (
    AbstractElectrostatics,
    Ewald,
    Screened,
    as_counts,
    corrections,
    reduced,
    require_box,
    require_special_pairs,
)

_NODES = 5
"""Of the interpolation: with fewer, second derivatives are not continuous enough to train on."""


class P3M(AbstractElectrostatics):
    """The sum of `Ewald`, its waves on a mesh: particle-particle particle-mesh with splines of five nodes.

    Its cost grows like N log N; from some thousand atoms on it is the faster one. Twice continuously differentiable, so
    that gradients through trajectories are right. The energy depends a little (as `accuracy` says) on where the atoms
    are relative to the mesh, and their forces do not sum to zero exactly.

    Derivatives with respect to a `TriclinicBox`, as in its stress, are NaN: compiled in reverse mode for a CPU, jaxlib
    0.10.1 gets them wrong. Those with respect to positions and charges, and those of right-angled boxes, are right.

    **Arguments:** as of `Ewald`; `mesh`, how many points along each lattice vector. Make it with `P3M.fit`.

    **Errors:** as of `Ewald`; `ImportError` without the package `jax-pme`, which `pip install reverlet[pme]` brings.

    **Reference:** R. W. Hockney and J. W. Eastwood, Computer Simulation Using Particles (McGraw-Hill 1981).
    """

    charges: AbstractCharges
    exclusions: Int[Array, "exclusions 2"]
    scaled: Int[Array, "scaled 2"]
    cutoff: float = eqx.field(static=True)
    alpha: float = eqx.field(static=True)
    mesh: tuple[int, int, int] = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        charges: ArrayLike | AbstractCharges,
        *,
        cutoff: float,
        alpha: float,
        mesh: Iterable[SupportsIndex],
        exclusions: ArrayLike | None = None,
        scaled: ArrayLike | None = None,
        scale: float = 1.0,
    ):
        self.charges = as_charges(charges)
        self.cutoff, self.alpha, self.mesh = float(cutoff), float(alpha), as_counts("mesh", mesh, _NODES)
        self.exclusions, self.scaled, self.scale = as_pairs(exclusions), as_pairs(scaled), float(scale)

    def __check_init__(self):
        _solver()
        require_positive("cutoff", self.cutoff, "nm")
        require_positive("alpha", self.alpha, "1/nm")
        require_special_pairs(self.exclusions, self.scaled)

    @classmethod
    def fit(
        cls,
        charges: ArrayLike | AbstractCharges,
        box: AbstractBox,
        *,
        cutoff: float,
        accuracy: float = 1e-4,
        exclusions: ArrayLike | None = None,
        scaled: ArrayLike | None = None,
        scale: float = 1.0,
    ) -> "P3M":
        """Finds α and the mesh for a box, with errors of forces as of `Ewald.fit`.

        The spacing h is such that (αh)⁵ is a quarter of the `accuracy`, a factor found by trial on liquid water; the
        mesh is then rounded up to sizes whose only factors are 2, 3 and 5.
        """
        ewald = Ewald.fit(
            charges, box, cutoff=cutoff, accuracy=accuracy, exclusions=exclusions, scaled=scaled, scale=scale
        )
        spacing = (accuracy / 4) ** (1 / _NODES) / ewald.alpha
        with jax.ensure_compile_time_eval():
            edges = np.linalg.norm(np.asarray(box.vectors, float), axis=1)
        n1, n2, n3 = (_smooth(max(_NODES, math.ceil(edge / spacing))) for edge in edges)
        return cls(
            ewald.charges,
            cutoff=cutoff,
            alpha=ewald.alpha,
            mesh=(n1, n2, n3),
            exclusions=exclusions,
            scaled=scaled,
            scale=scale,
        )

    def energy(self, positions, box, *, neighbors=None):
        require_box(self, self.cutoff, box)
        box = box.astype(positions.dtype)
        if isinstance(box, TriclinicBox):
            box = jax.tree.map(_nan_derivative, box)
        q = reduced(self.charges, positions)
        pairs = Screened(charges=q, alpha=self.alpha, cutoff=self.cutoff)
        from jaxpme.kspace import generate_kvectors, get_reciprocal

        vectors = box.vectors
        reciprocal = get_reciprocal(vectors)
        waves = generate_kvectors(reciprocal, self.mesh, for_ewald=False, dtype=positions.dtype)
        # with the self-interaction and a background for a net charge; the smearing is that of the charges
        potential = _solver().kspace(
            1 / (math.sqrt(2) * self.alpha),
            q,
            reciprocal,
            np.ones(self.mesh),
            waves,
            positions,
            box.volume,
            vectors,
            None,
        )
        return (
            pairs.energy(positions, box, neighbors=neighbors)
            + corrections(pairs, self, positions, box)
            + jnp.sum(q * potential).astype(positions.dtype)
        )


@jax.custom_jvp
def _nan_derivative(x):
    """`x`, with derivatives of NaN."""
    return x


@_nan_derivative.defjvp
def _nan_derivative_jvp(primals, tangents):
    return primals[0], jnp.nan * tangents[0]


def _solver():
    try:
        from jaxpme.potentials import potential
        from jaxpme.solvers import p3m
    except ImportError as error:
        raise ImportError(
            "`P3M` needs the package `jax-pme`, which is not installed; wanted `pip install reverlet[pme]`. `Ewald`"
            " gives the same numbers without it."
        ) from error
    return p3m(potential(), _NODES)


def _smooth(n: int) -> int:
    """The next number from `n` on whose only prime factors are 2, 3 and 5."""
    while True:
        rest = n
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 1
