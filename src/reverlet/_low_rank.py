"""Low-rank adapters: large matrices that move by few numbers."""

import math
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ._misc import require_count, require_instance, require_key
from ._per_parameter import Pick, picked
from ._potential import AbstractPotential, energy_of

M = TypeVar("M", bound=PyTree)


class Adapter(eqx.Module):
    """What is added to a matrix, or to each of a stack: the product of a tall one and a flat one."""

    tall: Float[Array, "*stack rows rank"]
    flat: Float[Array, "*stack rank columns"]

    def product(self) -> Float[Array, "*stack rows columns"]:
        return jnp.matmul(self.tall, self.flat, precision=jax.lax.Precision.HIGHEST)


class LowRank(eqx.Module, Generic[M]):
    """A model some of whose matrices are W + A B, with A of few columns and B of few rows; what `low_rank` makes.

    W and all else of the model get no gradient. An optimizer that moves what has none (weight decay) is to be told so:
    `rv.fit(..., trainable="adapters")`, or `"*.adapters"` where this is part of something.
    """

    model: M
    """As it was given."""
    adapters: tuple[Adapter, ...]
    names: tuple[str, ...] = eqx.field(static=True)
    """Of the matrices that have adapters."""

    def merged(self) -> M:
        """The model with the products added to its matrices: of the kind that it was, without adapters."""
        added = dict(zip(self.names, self.adapters, strict=True))

        def add(path, x):
            if not eqx.is_inexact_array(x):
                return x
            name, x = jax.tree_util.keystr(path), jax.lax.stop_gradient(x)
            return x + added[name].product() if name in added else x

        return jax.tree_util.tree_map_with_path(add, self.model)


def low_rank(model: M, rank: int, *, where: Pick | None = None, key: PRNGKeyArray) -> LowRank[M]:
    """Adapters for the matrices of a model: A random, B zero, so that the model is what it was until they are trained.

    `rv.AdaptedPotential(rv.low_rank(potential, 4, key=key))` is a potential to be fitted; `merged()` of the result is
    one without adapters.

    **Arguments:** `rank`, how many columns A has; `where`, which matrices, by a function or by name as in `fit`; by
    default all with more than twice as many rows and columns, which may be stacked: the last two axes count.

    **Errors:** `ValueError` where there are none, and for a rank larger than a matrix that `where` picks has rows or
    columns.

    **Reference:** E. J. Hu et al., LoRA, International Conference on Learning Representations (2022).
    """
    require_count("rank", rank)
    require_key("key", key)
    leaves = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(model)}
    size = lambda x: min(x.shape[-2:]) if eqx.is_inexact_array(x) and x.ndim >= 2 else 0
    if where is None:
        names = [name for name, x in leaves.items() if size(x) > 2 * rank]
    else:
        chosen = picked(where, model, "`where`")
        names = [name for name, x in leaves.items() if name in chosen and size(x) > 0]
        for name in names:
            if size(leaves[name]) < rank:
                raise ValueError(
                    f"`rank` is {rank}, and `{name}` has shape {leaves[name].shape}; wanted a smaller one."
                )
    if not names:
        arrays = {name.removeprefix("."): x.shape for name, x in leaves.items() if eqx.is_inexact_array(x)}
        shapes = ", ".join(f"{name} {shape}" for name, shape in arrays.items())
        raise ValueError(f"`model` has no matrices of more than {2 * rank} rows and columns among {shapes}.")

    def adapter(name: str, key: PRNGKeyArray) -> Adapter:
        *stack, rows, columns = leaves[name].shape
        tall = jax.random.normal(key, (*stack, rows, rank), leaves[name].dtype) / math.sqrt(rows)
        return Adapter(tall, jnp.zeros((*stack, rank, columns), leaves[name].dtype))

    keys = jax.random.split(key, len(names))
    return LowRank(model, tuple(adapter(*pair) for pair in zip(names, keys, strict=True)), tuple(names))


class AdaptedPotential(AbstractPotential):
    """A potential some of whose matrices have adapters, which alone are trained."""

    adapted: LowRank[Any]

    def __check_init__(self):
        require_instance("adapted", self.adapted, LowRank)
        require_instance("adapted.model", self.adapted.model, AbstractPotential)

    @property
    def cutoff(self) -> float | None:
        return self.adapted.model.cutoff

    def energy(self, positions, box, *, neighbors=None):
        return energy_of(self.adapted.merged(), positions, box, neighbors)
