import abc
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, ArrayLike, Float

from ._fields import AbstractChecked
from ._misc import as_float_array, is_concrete, require_finite, require_shape


class AbstractBox(AbstractChecked):
    """The region the atoms live in, and which of its periodic images is meant.

    A box is a differentiable pytree: its lengths may be traced, batched and differentiated.
    """

    vectors: AbstractVar[Float[Array, "3 3"]]
    """The lattice vectors as rows, nm."""
    volume: AbstractVar[Float[Array, "*many"]]
    """nm³; infinite for a box without walls. Of many boxes with leading axes, that of each."""
    heights: AbstractVar[Float[Array, "3"]]
    """The distances between opposite faces, nm. A cutoff must not be larger than half the smallest."""

    @abc.abstractmethod
    def minimum_image(
        self, x: Float[Array, "*pairs"], y: Float[Array, "*pairs"], z: Float[Array, "*pairs"]
    ) -> tuple[Float[Array, "*pairs"], Float[Array, "*pairs"], Float[Array, "*pairs"]]:
        """The nearest periodic image of separations (nm), for the inner loop over pairs.

        Components travel separately, since an array of (pairs, 3) is several times slower. The image is the nearest
        whenever that is shorter than half the smallest height, which is all that a pair potential within its cutoff
        needs; see `nearest_image` for separations of any length.
        """

    @abc.abstractmethod
    def nearest_image(
        self, x: Float[Array, "*pairs"], y: Float[Array, "*pairs"], z: Float[Array, "*pairs"]
    ) -> tuple[Float[Array, "*pairs"], Float[Array, "*pairs"], Float[Array, "*pairs"]]:
        """The nearest periodic image of separations (nm) however long, as bonds and all pairs that are named need."""

    def displacement(self, origin: Float[Array, "3"], target: Float[Array, "3"]) -> Float[Array, "3"]:
        """The shortest vector from `origin` to any periodic image of `target`, nm."""
        return jnp.stack(self.nearest_image(*(target - origin)))

    @abc.abstractmethod
    def wrap(self, position: Float[Array, "3"]) -> Float[Array, "3"]:
        """The periodic image of `position` (nm) inside the box. For output: trajectories stay unwrapped."""

    @abc.abstractmethod
    def fractions(self, position: Float[Array, "3"]) -> Float[Array, "3"]:
        """Where `position` (nm), wrapped into the box, is along each lattice vector: from 0 to 1."""

    @abc.abstractmethod
    def deform(self, deformation: Float[Array, "3 3"]) -> "AbstractBox":
        """The box whose lattice vectors are those of this one, each mapped by the matrix `deformation`."""

    @abc.abstractmethod
    def astype(self, dtype: Any) -> "AbstractBox":
        """The box in another floating-point precision."""


class OpenBox(AbstractBox):
    """No walls and no images: a molecule or cluster in free space."""

    @property
    def vectors(self) -> Float[Array, "3 3"]:
        return jnp.diag(self.heights)

    @property
    def volume(self) -> Float[Array, ""]:
        return jnp.asarray(jnp.inf)

    @property
    def heights(self) -> Float[Array, "3"]:
        return jnp.full(3, jnp.inf)

    def minimum_image(self, x, y, z):
        return x, y, z

    def nearest_image(self, x, y, z):
        return x, y, z

    def wrap(self, position):
        return position

    def fractions(self, position):
        raise ValueError("`fractions` is of no use in an `OpenBox`, which has no lattice vectors.")

    def deform(self, deformation):
        del deformation
        return self

    def astype(self, dtype):
        del dtype
        return self


class OrthorhombicBox(AbstractBox):
    """A periodic box with right angles.

    **Arguments:** `lengths`, its three edges, nm.

    **Errors:** `ValueError` unless there are three positive, finite lengths.
    """

    lengths: Float[Array, "3"] = eqx.field(metadata={"unit": "nm"})

    def __init__(self, lengths: ArrayLike):
        self.lengths = as_float_array(lengths)

    def __check_init__(self):
        require_shape("lengths", self.lengths, (3,), "For a cube of edge L: `jnp.full(3, L)`.")
        require_finite("lengths", self.lengths)
        if is_concrete(self.lengths) and np.any(np.asarray(self.lengths) <= 0):
            raise ValueError(f"`lengths` is {np.asarray(self.lengths)}; wanted three edges longer than zero, in nm.")

    @property
    def vectors(self) -> Float[Array, "3 3"]:
        return jnp.diag(self.lengths)

    @property
    def volume(self) -> Float[Array, "*many"]:
        return jnp.prod(self.lengths, axis=-1)

    @property
    def heights(self) -> Float[Array, "3"]:
        return self.lengths

    def minimum_image(self, x, y, z):
        lengths = self.lengths
        # multiply by the inverse: vectorized division is several times slower
        return tuple(d - lengths[k] * jnp.round(d * (1 / lengths[k])) for k, d in enumerate((x, y, z)))

    def nearest_image(self, x, y, z):
        return self.minimum_image(x, y, z)

    def wrap(self, position):
        wrapped = position - self.lengths * jnp.floor(position / self.lengths)
        # a tiny negative coordinate rounds to the upper edge, which is outside
        return jnp.where(wrapped >= self.lengths, 0, wrapped)

    def fractions(self, position):
        return self.wrap(position) / self.lengths

    def deform(self, deformation):
        # off-diagonal deformations leave the right angles, hence the general box
        return _raw_triclinic(self.vectors @ deformation.T)

    def astype(self, dtype):
        return OrthorhombicBox(self.lengths.astype(dtype))


_CELLS = np.array(sorted(itertools.product((-1, 0, 1), repeat=3), key=np.linalg.norm))
"""The cells about one, itself first."""


class TriclinicBox(AbstractBox):
    """A periodic box of any shape.

    **Arguments:** `vectors`, the lattice vectors as rows, nm. They must be reduced: no two of them so skewed that
    adding one to the other makes it much shorter (|a·b| at most 0.55 of the shorter one squared), since images are
    searched among the 27 nearest cells.

    **Errors:** `ValueError` for vectors of the wrong shape, without volume, or not reduced (the message has reduced
    ones).
    """

    vectors: Float[Array, "3 3"] = eqx.field(metadata={"unit": "nm"})  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, vectors: ArrayLike):
        self.vectors = as_float_array(vectors)

    def __check_init__(self):
        require_shape("vectors", self.vectors, (3, 3), "One lattice vector per row.")
        require_finite("vectors", self.vectors)
        if is_concrete(self.vectors):
            _require_reduced(np.asarray(self.vectors, dtype=float))

    @property
    def volume(self) -> Float[Array, "*many"]:
        return jnp.abs(jnp.linalg.det(self.vectors))

    @property
    def heights(self) -> Float[Array, "3"]:
        return 1 / jnp.linalg.norm(self._inverse, axis=0)

    @property
    def _inverse(self):
        return reciprocal_vectors(self).T

    def minimum_image(self, x, y, z):
        m, inverse = self.vectors, self._inverse
        shifts = [jnp.round(x * inverse[0, k] + y * inverse[1, k] + z * inverse[2, k]) for k in range(3)]
        return tuple(
            d - (shifts[0] * m[0, k] + shifts[1] * m[1, k] + shifts[2] * m[2, k]) for k, d in enumerate((x, y, z))
        )

    def nearest_image(self, x, y, z):
        m = self.vectors
        # written out: a matrix product may run in lower precision on a GPU
        along = lambda cells, k: cells[..., 0] * m[0, k] + cells[..., 1] * m[1, k] + cells[..., 2] * m[2, k]
        rounded = self.minimum_image(x, y, z)
        known, inverse = jax.lax.stop_gradient((rounded, self._inverse))  # a choice has no derivative

        def search(known):
            cells = jnp.asarray(_CELLS, m.dtype)
            squares = sum((d[..., None] + along(cells, k)) ** 2 for k, d in enumerate(known))
            return cells[jnp.argmin(squares, axis=-1)]

        # most bonds are shorter than half the smallest height, and then the nearest image is the one there is
        short = 4 * jnp.max(sum(d * d for d in known), initial=0) * jnp.max(jnp.sum(inverse**2, axis=0)) < 1
        none = lambda known: jnp.zeros((*known[0].shape, 3), m.dtype)
        nearest = jax.lax.cond(short, none, search, known)
        return tuple(d + along(nearest, k) for k, d in enumerate(rounded))

    def wrap(self, position):
        return self.fractions(position) @ self.vectors

    def fractions(self, position):
        fractional = position @ self._inverse
        fractional = fractional - jnp.floor(fractional)
        # what rounding has put on the upper face belongs to the lower one
        almost_one = 1 - 8 * jnp.finfo(fractional.dtype).eps
        return jnp.where(fractional >= almost_one, 0, fractional)

    def deform(self, deformation):
        return _raw_triclinic(self.vectors @ deformation.T)

    def astype(self, dtype):
        return _raw_triclinic(self.vectors.astype(dtype))


def _raw_triclinic(vectors: Float[Array, "3 3"]) -> TriclinicBox:
    # a strained box is not checked again: a small strain of a box on the border of being reduced is welcome
    box = object.__new__(TriclinicBox)
    object.__setattr__(box, "vectors", vectors)
    return box


def _require_reduced(vectors: np.ndarray) -> None:
    volume = abs(np.linalg.det(vectors))
    lengths = np.linalg.norm(vectors, axis=1)
    if volume <= 1e-6 * np.prod(lengths):
        raise ValueError(
            f"`vectors` span a volume of {volume:.3g} nm³; wanted three vectors that do not lie in a plane."
        )
    reduced = vectors.copy()
    for _ in range(100):
        order = np.argsort(np.linalg.norm(reduced, axis=1))
        previous = reduced.copy()
        for k, long in enumerate(order):
            for short in order[:k]:
                reduced[long] -= (
                    np.round(reduced[long] @ reduced[short] / (reduced[short] @ reduced[short])) * reduced[short]
                )
        if np.array_equal(previous, reduced):
            break
    overlaps = np.abs(vectors @ vectors.T) / np.minimum.outer(lengths, lengths) ** 2
    if np.max(overlaps[~np.eye(3, dtype=bool)]) > 0.55:
        raise ValueError(
            f"`vectors` are too skewed for a search among neighboring cells: got\n{vectors}\nwanted a reduced basis"
            f" of the"
            f" same lattice, such as\n{reduced}"
        )


def reciprocal_vectors(box: AbstractBox) -> Float[Array, "3 3"]:
    """The reciprocal lattice vectors over 2π, 1/nm; rows, like the lattice vectors."""
    a, b, c = box.vectors
    # written out: a general inverse is a library call in an inner loop
    return jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)]) / jnp.dot(a, jnp.cross(b, c))


def require_known(box: AbstractBox) -> None:
    """Refuses a box that is traced."""
    if not is_concrete(box):
        raise ValueError(
            "`box` is a traced box; wanted known numbers, which cutoffs, meshes and lists follow: do this outside of"
            " `jax.jit`, `jax.grad` and `jax.vmap`."
        )


def half_height(box: AbstractBox) -> float:
    """Half the smallest height of a box that is known, nm: the longest cutoff with one image of every atom."""
    require_known(box)
    with jax.ensure_compile_time_eval():  # in a function that is compiled
        return 0.5 * float(np.min(np.asarray(box.heights)))


def require_one_image(name: str, cutoff: float, box: AbstractBox) -> None:
    """Refuses a cutoff (nm) within which an atom has two images; a traced box is let through."""
    if is_concrete(box) and cutoff > half_height(box) * (1 + 1e-6):  # room for lengths rounded to float32
        raise ValueError(
            f"{name} is {cutoff:.6g} nm; wanted at most half the smallest height of the box, which is"
            f" {half_height(box):.6g} nm."
        )
