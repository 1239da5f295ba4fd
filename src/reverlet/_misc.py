"""What every floor needs: knowing whether a value is concrete, and refusing it when it is not usable."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

T = TypeVar("T")


def is_concrete(tree: PyTree) -> bool:
    """Whether every leaf has a value now, rather than standing for one while JAX traces."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def as_float_array(x: ArrayLike) -> Array:
    """`x` as a floating-point array: integers and Python numbers get JAX's default precision."""
    x = jnp.asarray(x)
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.result_type(float)
    # never weakly typed: an updated parameter is not, and what was compiled for one would be compiled again
    return jax.lax.convert_element_type(x, dtype)


def cast_floats(tree: T, dtype: Any) -> T:
    """`tree` with its floating-point arrays in `dtype`; everything else untouched."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def require_shape(name: str, x: Array, shape: tuple[int | None, ...], hint: str = "") -> None:
    """Refuses an array of the wrong shape; `None` in `shape` stands for any length."""
    if x.ndim != len(shape) or any(b not in (None, a) for a, b in zip(x.shape, shape, strict=True)):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"`{name}` has shape {x.shape}; wanted {wanted}." + (f" {hint}" if hint else ""))


def require_float(name: str, x: Array) -> None:
    """Refuses an array that is not floating-point."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` has dtype {x.dtype}; wanted a floating-point dtype such as float32 or float64."
            f" Convert it first: `{name}.astype(float)`."
        )


def require_finite(name: str, x: ArrayLike) -> None:
    """Refuses NaN and infinities, naming the first; a traced array is let through."""
    if is_concrete(x):
        bad = np.argwhere(~np.isfinite(np.asarray(x)))
        if len(bad) > 0:
            index = tuple(int(k) for k in bad[0])
            raise ValueError(
                f"`{name}` holds {len(bad)} values that are not finite, the first at index {index}"
                f" ({np.asarray(x)[index]}); wanted finite numbers. Look at the file or run it came from."
            )


def require_positive(name: str, x: ArrayLike, unit: str, *, zero: bool = False) -> None:
    """Refuses values that are not positive (or negative ones only, where `zero` is welcome)."""
    if is_concrete(x):
        value = np.asarray(x)
        fine = value >= 0 if zero else value > 0
        if not np.all(fine & np.isfinite(value)):
            worst = value[~(fine & np.isfinite(value))].ravel()[0]
            wanted = "zero or more" if zero else "more than zero"
            raise ValueError(f"`{name}` is {worst}; wanted a finite number {wanted}, in {unit}.")


def require_count(name: str, value: int) -> None:
    """Refuses what is not a whole number, at least one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` is {value!r}; wanted a whole number, at least 1.")


def tree_add(a: PyTree, b: PyTree) -> PyTree:
    """The leafwise sum of two trees of arrays."""
    return jax.tree.map(jnp.add, a, b)


def tree_dot(a: PyTree[Float[Array, "..."]], b: PyTree[Float[Array, "..."]]) -> Float[Array, ""]:
    """The sum over all elements of the product of two trees of arrays."""
    # not `jnp.vdot`: a matrix product may run in lower precision on a GPU
    products = [jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    return sum(products[1:], products[0])
