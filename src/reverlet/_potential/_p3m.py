"""Electrostatics on a mesh, with the splines of the optional package `jax-pme` (the extra `pme`)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from .._box import AbstractBox, reciprocal_vectors
from .._fields import checked, counts, finite_number, positive_number
from ._charges import AbstractCharges, Charges, charges_rule
from ._coulomb import (
    AbstractLatticeSum,
    Ewald,
    constants,
    named_energy,
    reduced,
    require_box,
    require_special_pairs,
    screened,
)
from ._partners import Named, NamedPairs, named_pairs
from ._waves import square

_NODES = 5
"""Of the interpolation: with fewer, second derivatives are not continuous enough to train on."""


class P3M(AbstractLatticeSum):
    """The sum of `Ewald`, its waves on a mesh: particle-particle particle-mesh with splines of five nodes.

    Its cost grows like N log N; from some thousand atoms on it is the faster one. Twice continuously differentiable, so
    that gradients through trajectories are right. The energy depends a little (as `accuracy` says) on where the atoms
    are relative to the mesh, and their forces do not sum to zero exactly.

    **Arguments:** as for `Ewald`; `mesh`, how many points along each lattice vector. Make it with `P3M.fit`.

    **Errors:** as for `Ewald`; `ImportError` without the package `jax-pme`, which the extra `pme` brings.

    **Reference:** R. W. Hockney and J. W. Eastwood, Computer Simulation Using Particles (McGraw-Hill 1981).
    """

    charges: Charges = charges_rule()
    exclusions: Named = checked(named_pairs(), default=None, kw_only=True)
    scaled: Named = checked(named_pairs(), default=None, kw_only=True)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    alpha: float = checked(positive_number("1/nm"), static=True, kw_only=True)
    mesh: tuple[int, int, int] = checked(counts(_NODES), static=True, kw_only=True)
    scale: float = checked(finite_number("units of 1"), static=True, default=1.0, kw_only=True)

    def __check_init__(self):
        _splines()
        require_special_pairs(self.exclusions, self.scaled)

    @classmethod
    def fit(
        cls,
        charges: ArrayLike | AbstractCharges,
        box: AbstractBox,
        *,
        cutoff: float,
        accuracy: float = 1e-4,
        exclusions: ArrayLike | NamedPairs | None = None,
        scaled: ArrayLike | NamedPairs | None = None,
        scale: float = 1.0,
    ) -> "P3M":
        """Finds α and the mesh for a box, with errors of forces as for `Ewald.fit`.

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

    def accuracy(self, box):
        spacings = jnp.sqrt(jnp.sum(box.vectors**2, axis=1)) / jnp.asarray(self.mesh)
        reciprocal = 4 * (self.alpha * jnp.max(spacings)) ** _NODES
        return jnp.maximum(reciprocal, math.exp(-((self.alpha * self.cutoff) ** 2)))

    def energy(self, positions, box, *, neighbors=None):
        require_box(self, self.cutoff, box)
        self.require_accuracy(box)
        box = box.astype(positions.dtype)
        q = reduced(self.charges, positions)
        pairs = screened(self, q, self.alpha, self.cutoff)
        return (
            pairs.energy(positions, box, neighbors=neighbors)
            + named_energy(self, q, self.alpha, positions, box)
            + self._waves(q, positions, box)
            + constants(q, self.alpha, box)
        )

    def _waves(self, q, positions, box):
        """(2π/V) Σ_{k≠0} exp(-k²/4α²)/k² |S(k)|²/B(k)², with S of the charges on the mesh and B of their splines."""
        dtype = positions.dtype
        reciprocal = reciprocal_vectors(box)  # over 2π
        weights_of, on_mesh, _ = _splines()
        mesh = on_mesh(q, weights_of(reciprocal.T, positions, np.ones(self.mesh)))
        structure = jnp.fft.rfftn(mesh)
        first, second, third = self.mesh
        multiples = np.fft.fftfreq(first, 1 / first), np.fft.fftfreq(second, 1 / second), np.arange(third // 2 + 1)
        m = np.stack(np.meshgrid(*multiples, indexing="ij"), axis=-1)
        spline = np.prod(np.sinc(m / np.array(self.mesh)), axis=-1) ** (2 * _NODES)
        # of the last index there is half, of which all but the ends stand for two waves
        count = np.where((2 * m[..., 2]) % self.mesh[2] == 0, 1, 2) * np.any(m != 0, axis=-1)
        k2 = (2 * math.pi) ** 2 * square(jnp.asarray(m, dtype), reciprocal)
        k2 = jnp.where(count > 0, k2, 1)
        influence = jnp.asarray(count / spline, dtype) * jnp.exp(-0.25 / self.alpha**2 * k2) / k2
        return 2 * math.pi / box.volume * jnp.sum(influence * (structure.real**2 + structure.imag**2))


def _splines():
    try:
        from jaxpme.mesh import bspline
    except ImportError as error:
        raise ImportError(
            "`P3M` needs the package `jax-pme`, which is not installed; wanted `pip install 'jax-pme<0.2'`. `Ewald`"
            " gives the same numbers without it."
        ) from error
    return bspline(_NODES)


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
