import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

M = TypeVar("M", bound=PyTree)
_FORMAT = "reverlet-fit-1"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another fit."""


class FitState(eqx.Module, Generic[M]):
    """Where a fit is."""

    model: M
    """With the parameters of after `step` updates."""
    parameters: PyTree
    """What the optimizer moves: the arrays of `model`, those kept positive as logarithms."""
    optimizer_state: PyTree
    carry: PyTree
    """What the loss function hands from update to update, such as the last states of the chains."""
    step: int
    """How many updates have been made."""
    history: PyTree
    """The reports of all updates: leaves lead with `step`; `None` before the first."""


def fit(
    loss_fn: Callable[[M, PyTree, PRNGKeyArray], tuple[Array, tuple[PyTree, PyTree]]],
    model: M,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    carry: PyTree = None,
    positive: Callable[[M], Any] | None = None,
    callback: Callable[[FitState[M]], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: str | os.PathLike | None = None,
) -> FitState[M]:
    """Minimizes a loss by gradient descent; measure, compare, adapt, repeat.

    **Arguments:**

    - `loss_fn(model, carry, key)` returns `loss, (carry, report)`: a scalar; what the next update starts from; and a
      pytree of arrays to keep in the history. It is compiled once, and differentiated with respect to the arrays of
      `model`.
    - `optimizer`: of Optax. For a learning rate per parameter, `per_parameter`.
    - `num_steps`: updates in total, those before a resume included.
    - `key`: every update gets a key of its own, made of `key` and its number, so that a resumed fit goes on the same.
    - `positive`: picks arrays of the model that must stay positive, as `lambda m: m.sigma`, a tuple for several. Their
      logarithms are optimized; a learning rate is then a relative change.
    - `callback(state)`: called after every update, after the checkpoint was written.
    - `checkpoint`: a file to write after every update, replaced in one piece, so that a kill leaves the previous one.
      Of several processes, the first writes it; all read it.
    - `resume`: a checkpoint to go on from; all other arguments as in the run that wrote it.

    **Returns:** the state after `num_steps` updates.

    **Errors:** `FloatingPointError` when loss or gradient are not finite, with the update and the parameters; the
    checkpoint of the update before stays. `CheckpointError` for a checkpoint that is missing, damaged or does not
    fit.
    """

    def to_model(parameters, rest):
        model = eqx.combine(parameters, rest)
        return model if positive is None else eqx.tree_at(positive, model, replace_fn=jnp.exp)

    free = model if positive is None else eqx.tree_at(positive, model, replace_fn=jnp.log)
    parameters, rest = eqx.partition(free, eqx.is_inexact_array)

    @eqx.filter_jit
    def update(parameters, optimizer_state, carry, key):
        loss = lambda p: loss_fn(to_model(p, rest), carry, key)
        (value, (carry, report)), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(parameters)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, parameters)
        moved = optax.apply_updates(parameters, updates)
        # all that the checkpoint would hold: one that cannot be gone on from must not replace one that can
        leaves = jax.tree.leaves(eqx.filter((value, gradient, to_model(moved, rest), carry), eqx.is_inexact_array))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
        return moved, optimizer_state, carry, report, value, finite

    report = eqx.filter_eval_shape(loss_fn, model, carry, key)[1][1]
    # weak types, which arrays made of Python floats have and updated ones do not, would compile the update twice
    strong = lambda x: jax.lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x
    parameters, carry = jax.tree.map(strong, (parameters, carry))
    state = FitState(model, parameters, optimizer.init(parameters), carry, 0, None)
    if resume is not None:
        state = _load(resume, state, report)

    for step in range(state.step, num_steps):
        try:
            parameters, optimizer_state, carry, report, value, finite = jax.block_until_ready(
                update(state.parameters, state.optimizer_state, state.carry, jax.random.fold_in(key, step))
            )
        except jax.errors.JaxRuntimeError as error:
            _, found, message = str(error).rpartition("FloatingPointError: ")
            if not found:
                raise
            raise FloatingPointError(f"Update {step + 1}: {message.strip()}") from None
        if not finite:
            where = eqx.tree_pformat(state.model, short_arrays=False)
            raise FloatingPointError(
                f"Update {step + 1}: loss {value}, its gradient or what follows from it is not finite, at"
                f" {where}; wanted finite numbers."
                " Nothing of this update was kept. Try smaller learning rates, or a shorter time of integration."
            )
        report = jax.tree.map(lambda r: np.asarray(r)[None], report)
        history = (
            report
            if state.history is None
            else jax.tree.map(lambda h, r: np.concatenate([h, r]), state.history, report)
        )
        state = FitState(to_model(parameters, rest), parameters, optimizer_state, carry, step + 1, history)
        if checkpoint is not None and jax.process_index() == 0:
            _save(checkpoint, state)
        if callback is not None:
            callback(state)
    return state


def per_parameter(
    optimizer: Callable[[float], optax.GradientTransformation], rates: PyTree
) -> optax.GradientTransformation:
    """One optimizer for every parameter, each with its own learning rate.

    **Arguments:** `optimizer`, from a learning rate, such as `optax.adam`; `rates`, a tree like the model with a
    learning rate in the place of every array: `eqx.tree_at(lambda m: (m.sigma, m.epsilon), model, (2e-4, 1e-2))`. A
    zero keeps a parameter as it is.
    """
    is_rate = lambda x: eqx.is_inexact_array(x) or (isinstance(x, float | int) and not isinstance(x, bool))
    leaves, treedef = jax.tree.flatten(eqx.filter(rates, is_rate))
    labels = jax.tree.unflatten(treedef, range(len(leaves)))
    return optax.partition({k: optimizer(float(rate)) for k, rate in enumerate(leaves)}, labels)


def _save(path, state: FitState) -> None:
    buffer = io.BytesIO()
    eqx.tree_serialise_leaves(buffer, _saved(state))
    body = buffer.getvalue()
    header = {"format": _FORMAT, "step": state.step, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _saved(state: FitState):
    return state.model, state.parameters, state.optimizer_state, state.carry, state.history


def _load(path, like: FitState, report) -> FitState:
    """The fit saved at `path`; `like` has its structure, `report` that of one update's report."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}; wanted a file that `fit(..., checkpoint=...)` wrote.")
    first, _, body = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(first)
        fine = header["format"] == _FORMAT and header["sha256"] == hashlib.sha256(body).hexdigest()
        step = int(header["step"])
    except (ValueError, KeyError, TypeError):
        fine, step = False, 0
    if not fine:
        raise CheckpointError(
            f"The checkpoint {path} ({path.stat().st_size} bytes) is damaged or not one of reverlet's; wanted a file as"
            " `fit(..., checkpoint=...)` wrote it. Restore a copy, or start again without `resume`."
        )
    if step > 0:
        history = jax.tree.map(lambda s: np.zeros((step, *s.shape), s.dtype), report)
        like = eqx.tree_at(lambda s: s.history, like, history, is_leaf=lambda x: x is None)
    try:
        stream = io.BytesIO(body)
        model, parameters, optimizer_state, carry, history = eqx.tree_deserialise_leaves(stream, _saved(like))
        if stream.read(1):
            raise ValueError("it holds more arrays")
    except (RuntimeError, ValueError, TypeError, EOFError) as error:
        raise CheckpointError(
            f"The checkpoint {path} is of another fit: its arrays do not have the shapes or dtypes of this model,"
            f" optimizer and"
            f" carry ({error}). Resume with the arguments of the run that wrote it."
        ) from error
    return FitState(model, parameters, optimizer_state, carry, step, history)
