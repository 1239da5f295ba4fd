"""What every floor needs: knowing whether a value is concrete, and refusing it when it is not usable."""

from types import NoneType
from typing import Any, TypeVar, get_args

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


def as_float_array(x: Any) -> Array:
    """`x` as a floating-point array: integers and Python numbers get JAX's default precision.

    What is no number stays what it is, for a check to refuse it by its name.
    """
    x = as_array(x)
    if not isinstance(x, Array) or x.dtype == bool:
        return x
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.result_type(float)
    # never weakly typed: an updated parameter is not, and what was compiled for one would be compiled again
    return jax.lax.convert_element_type(x, dtype)


def as_array(x: Any) -> Array:
    """`x` as an array; what cannot become one stays what it is, for a check to refuse it by its name."""
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        return x


def as_number(x: Any) -> Any:
    """A single known number as one of Python's, which a static field wants; anything else as it is."""
    known = isinstance(x, np.integer | np.floating) or (
        isinstance(x, np.ndarray | Array) and is_concrete(x) and x.ndim == 0 and jnp.issubdtype(x.dtype, np.floating)
    )
    return float(x) if known or (isinstance(x, int) and not isinstance(x, bool)) else x


def as_count(x: Any) -> Any:
    """A whole number of NumPy as one of Python's; anything else as it is."""
    return int(x) if isinstance(x, np.integer) else x


def cast_floats(tree: T, dtype: Any) -> T:
    """`tree` with its floating-point arrays in `dtype`; everything else untouched."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def require_instance(name: str, x: Any, classes: Any) -> None:
    """Refuses what is of no class of these: one, or a union."""
    if not isinstance(x, classes):
        wanted = " or ".join("None" if c is NoneType else f"`{c.__name__}`" for c in get_args(classes) or (classes,))
        meant = f", such as `{x.__name__}(...)`" if isinstance(x, type) and issubclass(x, classes) else ""
        raise TypeError(f"`{name}` is {_described(x)}; wanted an instance of {wanted}{meant}.")


def require_callable(name: str, x: Any, example: str) -> None:
    """Refuses what is no function."""
    if not callable(x):
        raise TypeError(f"`{name}` is {_described(x)}; wanted a function, such as {example}.")


def require_flag(name: str, x: Any) -> None:
    """Refuses what is neither true nor false, such as the word "no"."""
    if not isinstance(x, bool | np.bool):
        raise TypeError(f"`{name}` is {_described(x)}; wanted True or False.")


def require_key(name: str, x: Any) -> None:
    """Refuses what is not a single random key, of either kind that JAX has."""
    typed = isinstance(x, Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key) and x.ndim == 0
    old = isinstance(x, Array | np.ndarray) and x.dtype == np.uint32 and x.ndim == 1
    if not (typed or old):
        raise TypeError(f"`{name}` is {_described(x)}; wanted a single random key, such as `jax.random.key(0)`.")


def require_array(name: str, x: Any) -> None:
    """Refuses what is no array of numbers, nor would become one."""
    try:
        dtype = x.dtype if isinstance(x, Array) else np.asarray(x).dtype
    except ValueError:  # rows of different lengths
        dtype = np.dtype(object)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        what = f"has dtype {dtype}" if isinstance(x, Array) else f"is {_described(x)}"
        raise TypeError(f"`{name}` {what}; wanted real numbers.")


def require_shape(name: str, x: ArrayLike, shape: tuple[int | None, ...], hint: str = "") -> None:
    """Refuses what is no array, and one of the wrong shape; `None` in `shape` stands for any length."""
    require_array(name, x)
    got = np.shape(x)
    if len(got) != len(shape) or any(b not in (None, a) for a, b in zip(got, shape, strict=True)):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"`{name}` has shape {got}; wanted {wanted}." + (f" {hint}" if hint else ""))


def require_float(name: str, x: Array) -> None:
    """Refuses an array that is not floating-point."""
    require_array(name, x)
    if not isinstance(x, Array | np.ndarray):
        raise TypeError(f"`{name}` is {_described(x)}; wanted an array, such as `jnp.asarray` makes.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` has dtype {x.dtype}; wanted a floating-point dtype such as float32 or float64."
            f" Convert it first: `{name}.astype(float)`."
        )


def require_whole(name: str, x: Array, hint: str = "") -> None:
    """Refuses an array that is not of integers."""
    require_array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"`{name}` has dtype {x.dtype}; wanted integers{f', {hint}' if hint else ''}.")


def require_finite(name: str, x: ArrayLike) -> None:
    """Refuses NaN and infinities, naming the first; a traced array is let through."""
    require_array(name, x)
    if is_concrete(x):
        value = np.asarray(x)
        if value.ndim == 0 and not np.isfinite(value):
            raise ValueError(f"`{name}` is {value}; wanted a finite number.")
        bad = np.argwhere(~np.isfinite(value))
        if len(bad) > 0:
            index = tuple(int(k) for k in bad[0])
            raise ValueError(
                f"`{name}` holds {len(bad)} values that are not finite, the first at index {index}"
                f" ({value[index]}); wanted finite numbers. Look at the file or run it came from."
            )


_COARSE = 5e-5
"""Where neighboring numbers are further apart than this (nm), bonds of 1e5 kJ/mol/nm² have forces wrong by percents."""


def furthest(dtype: Any) -> float:
    """How far from the origin (nm) positions of this dtype resolve distances well enough for forces: float32 512 nm."""
    return 2.0 ** (np.floor(np.log2(_COARSE / float(jnp.finfo(dtype).eps))) + 1)


def require_resolved(name: str, x: Array) -> None:
    """Refuses what are no positions, and those so far out that numbers of their dtype cannot hold distances; lets
    traced ones through."""
    require_float(name, x)
    if is_concrete(x):
        reach = np.max(np.abs(np.asarray(x)), initial=0)
        if reach >= furthest(x.dtype):
            raise ValueError(f"`{name}` {too_far(reach, x.dtype)}")


def too_far(reach: float, dtype: Any) -> str:
    """What is wrong with positions that reach so far (nm)."""
    return (
        f"reach {reach:.6g} nm, where numbers of {np.dtype(dtype)} are too far apart for forces; wanted less than"
        f" {furthest(dtype):.6g} nm. Wrap molecules into the box or subtract their mean, before they are made"
        f" {np.dtype(dtype)} and between shorter runs; or use float64."
    )


def require_positive(name: str, x: ArrayLike, unit: str, *, zero: bool = False) -> None:
    """Refuses values that are not positive (or negative ones only, where `zero` is welcome)."""
    require_array(name, x)
    if is_concrete(x):
        value = np.asarray(x)
        fine = value >= 0 if zero else value > 0
        if not np.all(fine & np.isfinite(value)):
            worst = value[~(fine & np.isfinite(value))].ravel()[0]
            wanted = "zero or more" if zero else "more than zero"
            raise ValueError(f"`{name}` is {worst}; wanted a finite number {wanted}, in {unit}.")


def require_angle(name: str, x: ArrayLike, largest: float, told: str) -> None:
    """Refuses angles beyond the largest that there is (rad), which are degrees; a traced one is let through."""
    if is_concrete(x):
        furthest = np.max(np.abs(np.asarray(x)), initial=0)
        if furthest > largest + 1e-6:  # rounded to float32
            raise ValueError(f"`{name}` is {furthest}; wanted at most {told}, in rad. From degrees: `jnp.radians`.")


def require_number(name: str, x: Any) -> None:
    """Refuses what is not a single real number; one that is traced is let through."""
    require_array(name, x)
    if isinstance(x, bool) or np.ndim(x) != 0:
        raise TypeError(f"`{name}` is {_described(x)}; wanted a single number.")


def require_constant(name: str, x: Any) -> None:
    """Refuses what is not a single real number that is known."""
    require_number(name, x)
    if not is_concrete(x):
        raise TypeError(
            f"`{name}` is traced; wanted a known number: programs are compiled for each of its values, and nothing is"
            " differentiated with respect to it. Give a Python number, or do this outside of `jax.jit`, `jax.grad` and"
            " `jax.vmap`."
        )


def require_weights(name: str, x: Any) -> None:
    """Refuses what are no weights: one number for every sample, none of them negative. NaN goes through, as NaN."""
    require_shape(name, x, (None,), "One for every sample.")
    if is_concrete(x) and np.any(np.asarray(x) < 0):
        raise ValueError(f"`{name}` has {np.min(np.asarray(x))}; wanted numbers that are not negative.")


def require_count(name: str, value: Any, *, least: int = 1) -> None:
    """Refuses what is not a whole number, at least one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` is {value!r}; wanted a whole number, at least {least}.")


def _described(x):
    text = repr(x)
    return f"{text if len(text) < 80 else text[:80] + '…'}, of type `{type(x).__name__}`"


def smooth_step(t: Array) -> Array:
    """1 - 10 t³ + 15 t⁴ - 6 t⁵: one up to t = 0 and zero from t = 1 on, with two continuous derivatives."""
    t = jnp.clip(t, 0, 1)
    return 1 - t**3 * (10 - t * (15 - 6 * t))


def tied_to(x: PyTree, tree: PyTree) -> tuple[PyTree, PyTree]:
    """`x` and `tree`, the arrays of `tree` as if they changed with `x`.

    Inside of a loop over `x` the compiler otherwise takes what depends on `tree` alone out of it: the square of a
    radius, but also the broadcast of a parameter to all pairs, which then is read from memory, where it was a number in
    the middle of a fused program. Steps of a network took twice as long.
    """
    arrays, rest = eqx.partition(tree, eqx.is_array)
    x, arrays = jax.lax.optimization_barrier((x, arrays))
    return x, eqx.combine(arrays, rest)


def tree_add(a: PyTree, b: PyTree) -> PyTree:
    """The leafwise sum of two trees of arrays."""
    return jax.tree.map(jnp.add, a, b)


def tree_dot(a: PyTree[Float[Array, "..."]], b: PyTree[Float[Array, "..."]]) -> Float[Array, ""]:
    """The sum over all elements of the product of two trees of arrays."""
    # not `jnp.vdot`: a matrix product may run in lower precision on a GPU
    products = [jnp.sum(x * y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    return sum(products[1:], products[0])
