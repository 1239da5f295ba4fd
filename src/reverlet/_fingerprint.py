"""What makes a fit what it is, beside its arrays: so that one that goes on otherwise is noticed."""

import dataclasses
import hashlib
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree

_GRADIENTS = (1.0, -0.5, 0.25)
_UPDATES = (10, 100, 1_000, 10_000, 100_000)
"""At which an optimizer is looked at as well, for schedules."""
_STEEP = 1e4
"""A gradient with which it is looked at last, for limits. Its square is a number in half precision no more, and told
alike."""


_PROBES = [
    *(f"a gradient near one in update {k + 1}" for k in range(len(_GRADIENTS))),
    *(f"a gradient near one in update {k}" for k in _UPDATES),
    f"a gradient of {_STEEP:g}",
]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Of a fit: the model without its parameters, and data beside it, by the names of fields; which parameters are kept
    positive; how the optimizer moves each; the random key."""

    model: dict[str, str]
    positive: list[str]
    optimizer: dict[str, list[float]]
    key: str
    program: str = ""
    """Of the optimizer, which says the rest of it: what it does in updates that are not tried. Empty if unknown."""

    @classmethod
    def of(
        cls, model: PyTree, parameters: PyTree, positive: list[str], optimizer, key: PRNGKeyArray, beside: PyTree = None
    ) -> "Fingerprint":
        """Of a fit that begins; `beside`, what else must be the same, as data."""
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(key) if typed else key)
        moves, program = _moves(optimizer, parameters), _program(optimizer, parameters)
        described = {f"model{name}": text for name, text in _described(model, "").items()}
        described |= {name.removeprefix("."): text for name, text in _described(beside, "").items()}
        return cls(described, positive, moves, data.tobytes().hex(), program)

    def differences(self, there: "Fingerprint") -> list[str]:
        """What is other than in the fit of a file, by name."""
        found = []
        for name in sorted({*self.model, *there.model}):
            a, b = (side.get(name, "missing") for side in (self.model, there.model))
            if a != b:
                found.append(f"`{name}` is {a}, there {b}")
        if self.positive != there.positive:
            found.append(f"`positive` picks {self.positive}, there {there.positive}")
        others = len(found)
        for name, here in self.optimizer.items():
            a, b = np.array(here), np.array(there.optimizer.get(name, []))
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-5, atol=0, equal_nan=True):
                k = int(np.argmax(~np.isclose(a, b, rtol=1e-5, atol=0))) if a.shape == b.shape else 0
                other = f"{b[k]:.4g}" if k < len(b) else "not at all"
                found.append(f"the optimizer moves `{name}` otherwise ({_PROBES[k]} by {a[k]:.4g}, there {other})")
        if len(found) == others and _differ(self.program, there.program):
            found.append("the optimizer is another, though it moves alike in the few updates that were tried")
        if self.key != there.key:
            found.append("`key` is another")
        return found


def _moves(optimizer: optax.GradientTransformation, parameters: PyTree) -> dict[str, list[float]]:
    """By what a parameter is moved in some updates with known gradients, where that is furthest.

    An optimizer is two functions: its learning rates can only be seen in what it does.
    """
    ones = jax.tree.map(jnp.ones_like, parameters)
    state, moves = optimizer.init(ones), []

    def update(gradient, state):
        change, state = optimizer.update(jax.tree.map(lambda x: gradient * x, ones), state, ones)
        moves.append([_furthest(np.asarray(x, float).ravel()) for x in jax.tree.leaves(change)])
        return state

    for gradient in _GRADIENTS:
        state = update(gradient, state)
    is_count = lambda x: eqx.is_array(x) and x.shape == () and jnp.issubdtype(x.dtype, jnp.integer)
    for count in _UPDATES:
        later = jax.tree.map(lambda x, n=count: jnp.full_like(x, n) if is_count(x) else x, state)
        update(1.0, later)
    update(_STEEP, state)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(ones)]
    return {name: [m[k] for m in moves] for k, name in enumerate(names)}


def _program(optimizer: optax.GradientTransformation, parameters: PyTree) -> str:
    """The versions that made the program of an update, and its checksum: no number of updates tried could tell two
    schedules apart everywhere."""
    shapes = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    state, rest = eqx.partition(optimizer.init(parameters), eqx.is_array)
    update = lambda g, s, p: eqx.filter(optimizer.update(g, eqx.combine(s, rest), p), eqx.is_array)
    traced = jax.jit(update).trace(*shapes((parameters, state, parameters)))
    text = traced.lower(lowering_platforms=("cpu",)).as_text()  # wherever it runs
    if "callback" in text:  # and so the place of a function in memory
        return ""
    return f"{jax.__version__} {optax.__version__} {hashlib.sha256(text.encode()).hexdigest()}"


def _differ(here: str, there: str) -> bool:
    """Whether two programs of the same versions differ: others may write the same one otherwise."""
    return here != there and here.split()[:2] == there.split()[:2]


def _furthest(change):
    return float(change[np.argmax(np.abs(change))]) if change.size > 0 else 0.0


def _described(node: Any, name: str) -> dict[str, str]:
    """Static fields and arrays that are not fitted, of a model and all that it is made of."""
    if isinstance(node, eqx.Module):
        found = {name: type(node).__qualname__}
        for field in dataclasses.fields(node):
            value, here = getattr(node, field.name, None), f"{name}.{field.name}"
            found |= {here: _text(value)} if field.metadata.get("static", False) else _described(value, here)
        return found
    children = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda x: x is not node)
    if len(children) == 1 and children[0][0] == ():
        return {} if node is None else {name: _text(node)}
    found = {}
    for path, child in children:
        found |= _described(child, name + jax.tree_util.keystr(path))
    return found


def _text(value: Any) -> str:
    if isinstance(value, jax.Array) and eqx.is_inexact_array(value):  # a parameter; NumPy's are data
        return f"{value.dtype}{list(value.shape)}"
    if eqx.is_array(value) or isinstance(value, np.ndarray):
        data = jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value
        return f"{value.dtype}{list(value.shape)} {hashlib.sha256(np.asarray(data).tobytes()).hexdigest()[:16]}"
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # where in memory a function is
    return text if len(text) < 200 else f"{text[:60]}... {hashlib.sha256(text.encode()).hexdigest()[:16]}"
