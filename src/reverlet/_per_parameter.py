"""Parameters of a model by name: which are kept positive, and how fast each moves."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ._misc import require_callable

M = TypeVar("M", bound=PyTree)
Pick = Callable[[Any], Any] | str | Sequence[str]
"""Arrays of a model: as a function picks them, such as `lambda m: m.sigma`, or by name, such as `"sigma"`."""
_STAYS = -1
"""The label of parameters without a rate."""


class _Place:
    """Stands for an array, while it is looked where a function picks."""

    def __repr__(self):
        return "an array"


def picked(pick: Pick, tree: PyTree, what: str) -> set[str]:
    """The names of the leaves of a tree that a function picks, or that are in what it picks; or that have these names.

    A name is that of a leaf or of what it is in, as `layers[0].weights` or `layers`; `*` stands for anything.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    words = [pick] if isinstance(pick, str) else pick
    if isinstance(words, list | tuple) and words and all(isinstance(word, str) for word in words):
        return _named(words, [jax.tree_util.keystr(path) for path, _ in flat], what)
    choose: Any = pick
    require_callable(what.strip("`"), choose, '`lambda model: model.sigma`, or a name such as "sigma"')
    places = [_Place() for _ in flat]
    try:
        found = jax.tree.leaves(choose(jax.tree.unflatten(treedef, places)))
    except Exception as error:  # it may do anything with what it is given
        raise ValueError(
            f"{what} picks nothing ({type(error).__name__}: {error}); wanted arrays of the model as they are, not parts"
            " of them and not what is computed of them, such as `lambda m: m.sigma`. There are"
            f" {', '.join(jax.tree_util.keystr(path) for path, _ in flat)}."
        ) from error
    names = {id(place): jax.tree_util.keystr(path) for place, (path, _) in zip(places, flat, strict=True)}
    if not found or any(id(place) not in names for place in found):
        raise ValueError(
            f"{what} picks {found or 'nothing'}; wanted arrays of the model, such as `lambda m: m.sigma`, or a tuple of"
            f" several. There are {', '.join(names.values())}."
        )
    return {names[id(place)] for place in found}


def _named(words: Sequence[str], names: list[str], what: str) -> set[str]:
    found = set()
    for word in words:
        anything = ".*".join(map(re.escape, word.split("*")))
        here = {name for name in names if re.fullmatch(rf"\.?{anything}([.\[].*)?", name)}
        if not here:
            raise ValueError(
                f"{what} names {word!r}, which is nothing of the model; there are"
                f" {', '.join(name.removeprefix('.') for name in names)}."
            )
        found |= here
    return found


def mapped(function: Callable[[Array], Array], names: Collection[str], tree: M) -> M:
    """A tree with a function applied to some of its leaves."""
    apply = lambda path, x: function(x) if jax.tree_util.keystr(path) in names else x
    return jax.tree_util.tree_map_with_path(apply, tree)


def positive_leaves(positive: Pick | None, model: PyTree) -> set[str]:
    if positive is None:
        return set()
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
        # the compiler takes numbers that are too small for all digits for zero
        fine = (values >= float(jnp.finfo(leaf.dtype).tiny)) & np.isfinite(values)
        if not np.all(fine):
            raise ValueError(
                f"`positive` picks `{name}`, which holds {values[~fine].ravel()[0]}; wanted finite values more than"
                " zero to start from, since their logarithms are moved."
            )
    return names


def per_parameter(
    optimizer: Callable[[float], optax.GradientTransformation],
    rates: PyTree | Sequence[tuple[Pick, float]],
) -> optax.GradientTransformation:
    """One optimizer for every parameter, each with its own learning rate.

    **Arguments:** `optimizer`, from a learning rate, such as `optax.adam`; `rates`, which parameters move and how fast:
    pairs such as `[(lambda m: m.sigma, 2e-4), ("layers", 1e-3)]`. What no pair picks stays as it is, and
    what has a rate of zero. Or a tree like the model, with a number in the place of every array, or `None` where it
    stays.

    **Errors:** `ValueError` for an array or anything else but a number among the rates, which would be no rate but a
    parameter without one; for rates that are negative, not finite, or of nothing that is a parameter; and for pairs
    that pick nothing or one parameter twice.
    """
    require_callable("optimizer", optimizer, "`optax.adam`")
    pairs = isinstance(rates, list | tuple) and all(
        isinstance(r, tuple) and (callable(r[0]) or isinstance(r[0], str)) for r in rates
    )
    tree = {} if pairs else _by_name(rates)
    speeds = [rate for _, rate in rates] if pairs else [rate for rate in tree.values() if _is_number(rate)]
    for rate in speeds:
        if not (_is_number(rate) and 0 <= rate < np.inf):
            raise ValueError(f"`rates` has {rate!r}; wanted finite numbers, zero or more.")
    if not speeds:
        raise ValueError("`rates` has no learning rate; wanted at least one, such as `[(lambda m: m.sigma, 2e-4)]`.")

    def labels(parameters):
        numbers = _numbers_of_pairs(rates, parameters) if pairs else _numbers_of_tree(tree, parameters)
        label = lambda path, _: numbers.get(jax.tree_util.keystr(path), _STAYS)
        return jax.tree_util.tree_map_with_path(label, parameters)

    moving = {k: optimizer(float(rate)) if rate > 0 else optax.set_to_zero() for k, rate in enumerate(speeds)}
    return optax.partition({**moving, _STAYS: optax.set_to_zero()}, labels)


def _numbers_of_pairs(rates, parameters) -> dict[str, int]:
    """Which pair each parameter is in, if in any."""
    numbers = {}
    for k, (pick, _) in enumerate(rates):
        for name in picked(pick, parameters, f"Pair {k} of `rates`"):
            if name in numbers:
                raise ValueError(f"Pairs {numbers[name]} and {k} of `rates` both pick `{name}`; wanted one.")
            numbers[name] = k
    return numbers


def _numbers_of_tree(rates: dict[str, Any], parameters) -> dict[str, int]:
    """Which rate each parameter has, if it has one: the how manieth of the numbers."""
    names = set(_by_name(parameters))
    for name in names:
        if not _is_number(rates.get(name, 0.0)):
            raise ValueError(
                f"`rates` has {rates[name]!r} at `{name}`: a parameter without a learning rate; wanted a number there,"
                " or None to keep it. To name only what moves: `[(lambda m: m.sigma, 2e-4)]`."
            )
    found = [name for name, rate in rates.items() if _is_number(rate)]
    for name in found:
        if name not in names:
            raise ValueError(
                f"`rates` has {rates[name]} at `{name}`, where the model has no parameter; wanted None there, or the"
                f" place of a parameter: there are {', '.join(sorted(names))}. To name only what moves:"
                " `[(lambda m: m.sigma, 2e-4)]`."
            )
    return {name: k for k, name in enumerate(found)}


def _by_name(tree: PyTree) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.integer | np.floating) and not isinstance(x, bool)
