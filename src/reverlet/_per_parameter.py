"""Parameters of a model by name: which are kept positive, and how fast each moves."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ._misc import require_callable

M = TypeVar("M", bound=PyTree)
_STAYS = -1
"""The label of parameters without a rate."""


class _Place:
    """Stands for an array, while it is looked where a function picks."""


def picked(pick: Callable[[Any], Any], tree: PyTree, what: str) -> set[str]:
    """The names of the leaves of a tree that a function picks, or that are in what it picks."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    places = [_Place() for _ in flat]
    found = jax.tree.leaves(pick(jax.tree.unflatten(treedef, places)))
    names = {id(place): jax.tree_util.keystr(path) for place, (path, _) in zip(places, flat, strict=True)}
    if not found or any(id(place) not in names for place in found):
        raise ValueError(
            f"{what} picks {found or 'nothing'}; wanted arrays of the model, such as `lambda m: m.sigma`, or a tuple of"
            f" several. There are {', '.join(names.values())}."
        )
    return {names[id(place)] for place in found}


def mapped(function: Callable[[Array], Array], names: set[str], tree: M) -> M:
    """A tree with a function applied to some of its leaves."""
    apply = lambda path, x: function(x) if jax.tree_util.keystr(path) in names else x
    return jax.tree_util.tree_map_with_path(apply, tree)


def positive_leaves(positive: Callable[[Any], Any] | None, model: PyTree) -> set[str]:
    if positive is None:
        return set()
    require_callable("positive", positive, "`lambda model: model.sigma`")
    names = picked(positive, model, "`positive`")
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        name = jax.tree_util.keystr(path)
        if name not in names:
            continue
        if not (eqx.is_inexact_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise ValueError(
                f"`positive` picks `{name}`, which is {leaf!r}; wanted an array of floating-point numbers, which alone"
                " are fitted."
            )
        values = np.asarray(leaf, float)
        if not np.all((values > 0) & np.isfinite(values)):
            worst = values[~((values > 0) & np.isfinite(values))].ravel()[0]
            raise ValueError(
                f"`positive` picks `{name}`, which holds {worst}; wanted finite values more than zero to start from,"
                " since their logarithms are moved."
            )
    return names


def per_parameter(
    optimizer: Callable[[float], optax.GradientTransformation],
    rates: PyTree | Sequence[tuple[Callable[[Any], Any], float]],
) -> optax.GradientTransformation:
    """One optimizer for every parameter, each with its own learning rate.

    **Arguments:** `optimizer`, from a learning rate, such as `optax.adam`; `rates`, which parameters move and how fast:
    pairs such as `[(lambda m: m.sigma, 2e-4), (lambda m: m.epsilon, 1e-2)]`. What no pair picks stays as it is, and
    what has a rate of zero. Or a tree like the model, with a number in the place of every array, or `None` where it
    stays.

    **Errors:** `ValueError` for an array among the rates, which would be no rate but a parameter without one, for rates
    that are negative or not finite, and for pairs that pick nothing or one parameter twice.
    """
    require_callable("optimizer", optimizer, "`optax.adam`")
    pairs = isinstance(rates, list | tuple) and all(isinstance(r, tuple) and callable(r[0]) for r in rates)
    speeds = [rate for _, rate in rates] if pairs else list(_rates_of(rates).values())  # pyright: ignore
    for rate in speeds:
        if not (isinstance(rate, int | float | np.number) and not isinstance(rate, bool) and 0 <= rate < np.inf):
            raise ValueError(f"`rates` has {rate!r}; wanted finite numbers, zero or more.")
    if not speeds:
        raise ValueError("`rates` has no learning rate; wanted at least one, such as `[(lambda m: m.sigma, 2e-4)]`.")

    def labels(parameters):
        if not pairs:
            numbers = {name: k for k, name in enumerate(_rates_of(rates))}
        else:
            numbers = {}
            for k, (pick, _) in enumerate(rates):
                for name in picked(pick, parameters, f"Pair {k} of `rates`"):
                    if name in numbers:
                        raise ValueError(f"Pairs {numbers[name]} and {k} of `rates` both pick `{name}`; wanted one.")
                    numbers[name] = k
        label = lambda path, _: numbers.get(jax.tree_util.keystr(path), _STAYS)
        return jax.tree_util.tree_map_with_path(label, parameters)

    moving = {k: optimizer(float(rate)) if rate > 0 else optax.set_to_zero() for k, rate in enumerate(speeds)}
    return optax.partition({**moving, _STAYS: optax.set_to_zero()}, labels)


def _rates_of(rates: PyTree) -> dict[str, Any]:
    """The numbers in a tree like a model, by their names."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(rates):
        name = jax.tree_util.keystr(path)
        if eqx.is_inexact_array(leaf) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"):
            raise ValueError(
                f"`rates` has an array at `{name}`, {leaf}: a parameter without a learning rate; wanted a number there,"
                " or None to keep it. To name only what moves: `[(lambda m: m.sigma, 2e-4)]`."
            )
        if isinstance(leaf, int | float | np.number) and not isinstance(leaf, bool):
            found[name] = leaf
    return found
