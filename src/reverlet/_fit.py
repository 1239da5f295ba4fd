"""Fits by gradient descent."""

import contextlib
import dataclasses
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

from ._checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    before,
    first_difference,
    kinds_of,
    locked,
    read,
    save,
    stored_like,
    tree_in,
)
from ._fingerprint import Fingerprint
from ._misc import require_callable, require_count, require_flag, require_instance, require_key
from ._per_parameter import Pick, mapped, picked, positive_leaves
from ._printing import described
from ._progress import Bar
from ._verdict import SimulationError

M = TypeVar("M", bound=PyTree)
LossFn = Callable[[M, PyTree, PRNGKeyArray], tuple[Array, tuple[PyTree, PyTree]]]


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
    last: PyTree = None
    """The parameters of one update before, where `retreats` may go back to them."""
    retreats: Any = None
    """How often the parameters went back before every update, (step,); `None` where they may not."""
    changes: tuple[str, ...] = eqx.field(static=True, default=())
    """What was changed where the fit went on from a checkpoint otherwise than it began, and after which update."""

    def __str__(self) -> str:
        return f"FitState after {self.step} updates: {described(self.model)}"


def fit(
    loss_fn: LossFn,
    model: M,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    carry: PyTree = None,
    positive: Pick | None = None,
    trainable: Pick | None = None,
    retreats: int = 0,
    callback: Callable[[FitState[M]], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: str | os.PathLike | None = None,
    accept_changes: bool = False,
    progress: bool = True,
) -> FitState[M]:
    """Minimizes a loss by gradient descent; measure, compare, adapt, repeat.

    **Arguments:**

    - `loss_fn(model, carry, key)` returns `loss, (carry, report)`: a scalar; what the next update starts from, of the
      same structure and shapes; and a pytree of arrays to keep in the history. It is compiled once, and differentiated
      with respect to the arrays of `model`.
    - `optimizer`: of Optax. For a learning rate per parameter, `per_parameter`.
    - `num_steps`: updates in total, those before a resume included.
    - `key`: every update gets a key of its own, made of `key` and its number, so that a resumed fit goes on the same.
    - `positive`: picks arrays of the model that must stay positive, such as `lambda m: m.sigma`, a tuple for several.
      Their logarithms are optimized; a learning rate is then a relative change.
    - `trainable`: picks what is fitted, in the same way; by default every array of floating-point numbers. All else
      stays as it is, whatever the optimizer does, and costs no gradient. Also by name, such as `"layers"` for all that
      is in `m.layers`, or `["layers[0].weights", "*.bias"]`; so can `positive`.
    - `retreats`: how often in a row the step before may be taken back by half, where an update fails: because of a
      `SimulationError`, such as one for atoms that overlap, or numbers that are not finite. The same update is then
      tried again, from the same carry with the same key; `FitState.retreats` tells how often. Nothing can be taken back
      before the first step.
    - `callback(state)`: called after every update, after the checkpoint was written.
    - `checkpoint`: a file to write after every update, in one piece, so that a kill leaves a whole one; the one that it
      replaces is kept beside it as `NAME.previous`. One that is there already is refused unless the fit goes on from
      it, or from the one before it. As long as the fit runs it is locked against other writers. Of several processes,
      the first writes it; all read it.
    - `resume`: a checkpoint to go on from; all other arguments as in the run that wrote it, but for a larger
      `num_steps`. With `"auto"`, `checkpoint` if it is there, or the one before it if it is damaged, or a new start.
    - `accept_changes`: whether to go on from a checkpoint with other learning rates, another key or other fields of the
      model than it was written with, which is refused otherwise. `FitState.changes` tells of it. So a fit that exploded
      goes on: with smaller learning rates, from the checkpoint or from the one before it.
    - `progress`: whether to show on a terminal how much is done, and how long the rest will take.

    **Returns:** the state after `num_steps` updates.

    **Errors:** `SimulationError` when loss, gradient, parameters, optimizer or carry stop being finite, with the update
    and what it was; the checkpoint of the update before stays. `CheckpointError` for a checkpoint that is missing,
    damaged, of another fit, in use by another one, that cannot be written, or that would be written over. `ValueError`
    for a model without arrays to fit, values that `positive` picks and that are not positive, and a loss function that
    returns something else; `TypeError` for a `key` that is none, and an optimizer that needs more than gradients, such
    as `optax.lbfgs`.
    """
    require_count("num_steps", num_steps)
    require_callable("loss_fn", loss_fn, "`lambda model, carry, key: (loss, (carry, report))`")
    require_instance("optimizer", optimizer, optax.GradientTransformation)
    require_flag("accept_changes", accept_changes)
    if callback is not None:
        require_callable("callback", callback, "`lambda state: print(state.step)`")
    require_key("key", key)
    require_count("retreats", retreats, least=0)
    moved = Moved.of(model, positive, trainable)
    carry = jax.tree.map(_strong, carry)
    report = _checked_report(loss_fn, model, carry, key)
    return descend(
        _update(loss_fn, optimizer, moved),
        moved,
        optimizer,
        carry,
        report,
        num_steps=num_steps,
        key=key,
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
        accept_changes=accept_changes,
        retreats=retreats,
        progress=progress,
    )


class Moved(eqx.Module):
    """What of a model an optimizer moves."""

    model: PyTree
    """As it was given."""
    parameters: PyTree
    """What is moved: those kept positive as logarithms, and nothing where nothing moves."""
    rest: PyTree
    positive: frozenset[str] = eqx.field(static=True)

    @staticmethod
    def of(model: PyTree, positive: Pick | None, trainable: Pick | None) -> "Moved":
        """**Errors:** `ValueError` where there is nothing to move."""
        kept_positive = positive_leaves(positive, model)
        names = None if trainable is None else picked(trainable, model, "`trainable`")
        moves = lambda path, x: eqx.is_inexact_array(x) and (names is None or jax.tree_util.keystr(path) in names)
        chosen = jax.tree_util.tree_map_with_path(moves, model)
        if not any(jax.tree.leaves(chosen)):
            raise ValueError(
                f"`model` has nothing to fit: of its leaves {_short(kinds_of(model))} none"
                f"{'' if names is None else ' that `trainable` picks'} is an array of floating-point numbers. Wanted"
                " one, such as `jnp.array(3.0)` in the place of a Python number or of integers."
            )
        names = {jax.tree_util.keystr(path) for path, moves in jax.tree_util.tree_leaves_with_path(chosen) if moves}
        kept_positive &= names
        parameters, rest = eqx.partition(mapped(jnp.log, kept_positive, model), chosen)
        return Moved(model, jax.tree.map(_strong, parameters), rest, frozenset(kept_positive))

    def to_model(self, parameters: PyTree) -> PyTree:
        """The model with others."""
        return mapped(jnp.exp, self.positive, eqx.combine(parameters, self.rest))

    def fingerprint(self, optimizer: optax.GradientTransformation, key: PRNGKeyArray, beside: PyTree) -> Fingerprint:
        """With the numbers of what does not move, and `beside`, of what else makes the fit what it is."""
        fixed = jax.tree.map(lambda x: np.asarray(x) if eqx.is_inexact_array(x) else x, self.rest)
        described = eqx.combine(jax.tree.map(jnp.asarray, self.parameters), fixed)
        return Fingerprint.of(described, self.parameters, sorted(self.positive), optimizer, key, beside)


def _strong(x):
    # weak types, which arrays made of Python floats have and updated ones do not, would compile the update twice
    return jax.lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x


def descend(
    update: Callable[[PyTree, PyTree, PyTree, PRNGKeyArray], Any],
    moved: Moved,
    optimizer: optax.GradientTransformation,
    carry: PyTree,
    report: PyTree,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    callback: Callable[[FitState], None] | None,
    checkpoint: str | os.PathLike | None,
    resume: str | os.PathLike | None,
    accept_changes: bool,
    retreats: int = 0,
    progress: bool = False,
    beside: PyTree = None,
    ended: Callable[[FitState], bool] = lambda state: False,
    grow: Callable[[set[str]], PyTree] | None = None,
) -> FitState:
    """Updates one after the other, each of which is in a checkpoint before the next; arguments and errors as for `fit`.

    **Arguments:** `update(parameters, optimizer_state, carry, key)` returns all these anew, a report, the loss, and a
    `Fine`; `report`, the shapes of one; `beside`, what else must be the same where the fit goes on; `ended`, whether no
    more updates are wanted; `grow`, of a carry that grows, its structure from the names of a checkpoint's leaves.
    """
    path, source = _path("checkpoint", checkpoint), "auto" if resume == "auto" else _path("resume", resume)
    _require_gradients_alone(optimizer, moved.parameters)
    state = FitState(moved.model, moved.parameters, optimizer.init(moved.parameters), carry, 0, None)
    if retreats:
        state = dataclasses.replace(state, last=moved.parameters, retreats=np.zeros(0, int))

    written = path if jax.process_index() == 0 else None
    with contextlib.nullcontext() if written is None else locked(written):
        if written is not None:
            _require_own(written, source)
        fingerprint = None
        if path is not None or source is not None:
            fingerprint = moved.fingerprint(optimizer, key, beside)
        source = _source(path) if source == "auto" else source
        if source is not None and fingerprint is not None:
            state = _load(source, state, report, fingerprint, accept_changes, grow)
            state = dataclasses.replace(state, model=moved.to_model(state.parameters))
            if state.step > num_steps:
                raise ValueError(
                    f"`num_steps` is {num_steps}, but {source} has {state.step} updates already; wanted at least as"
                    " many, those included."
                )
        first = state.step
        with Bar("fit", num_steps - first, progress) as bar:
            for step in range(first, num_steps):
                if ended(state):
                    break
                state = _next_of(state, update, moved.to_model, jax.random.fold_in(key, step), retreats)
                if written is not None:
                    _save(written, state, fingerprint)
                bar.update(state.step - first)
                if callback is not None:
                    callback(state)
    return state


def _update(loss_fn: LossFn, optimizer: optax.GradientTransformation, moved: Moved):
    @eqx.filter_jit
    def update(parameters, optimizer_state, carry, key):
        loss = lambda p: loss_fn(moved.to_model(p), carry, key)
        (value, (new, report)), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(parameters)
        after, moments = step(optimizer, gradient, optimizer_state, parameters)
        fine = Fine.of(moved, value, gradient, after, (optimizer_state, carry), (moments, new))
        return after, moments, new, report, value, fine

    return update


def step(optimizer: optax.GradientTransformation, gradient, optimizer_state, parameters):
    """The parameters after one step, and the optimizer's state."""
    gradient = jax.tree.map(jnp.conj, gradient)  # of a complex number, JAX's is the conjugate of the way up
    updates, moments = optimizer.update(gradient, optimizer_state, parameters)
    return optax.apply_updates(parameters, updates), moments


class Fine(eqx.Module):
    """Whether what an update made is finite, leaf by leaf."""

    loss: PyTree
    gradient: PyTree
    model: PyTree
    optimizer_state: PyTree
    carry: PyTree

    @staticmethod
    def of(moved: Moved, loss, gradient, parameters, before, after) -> "Fine":
        """All that the checkpoint would hold: one that cannot be gone on from must not replace one that can.

        Infinity may stand in what optimizers and users remember (`before` and `after`: the optimizer's state, the
        carry), as a best value so far; but not come there.
        """
        # a logarithm that has become too small makes zero
        above_zero = lambda x: jnp.where(x > 0, x, jnp.nan)
        model = mapped(above_zero, moved.positive, moved.to_model(parameters))
        return Fine(jnp.isfinite(loss), _finite(gradient), _finite(model), *map(_as_finite, before, after))


def _finite(tree):
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), eqx.filter(tree, eqx.is_inexact_array))


def _as_finite(old, new):
    """Whether everything is finite that was."""
    old, new = (eqx.filter(tree, eqx.is_inexact_array) for tree in (old, new))
    return jax.tree.map(lambda a, b: jnp.all(jnp.isfinite(b) | ~jnp.isfinite(a)), old, new)


def _next_of(state: FitState, update, to_model, key: PRNGKeyArray, retreats: int) -> FitState:
    """The state after one more update, before which the last step may be taken back by half, again and again."""
    if not retreats:
        return _next(state, update, to_model, key)
    again, made = state, 0
    while True:
        try:
            new = _next(again, update, to_model, key)
            told = np.append(state.retreats, made)
            return dataclasses.replace(new, last=again.parameters, retreats=told)
        except SimulationError as error:
            if made == retreats or state.step == 0:
                told = f" This was so after {made} `retreats` as well." if made else ""
                raise SimulationError(f"{error}{told}") from None
        made += 1
        halfway = jax.tree.map(lambda here, there: 0.5 * (here + there), again.parameters, state.last)
        again = dataclasses.replace(state, parameters=halfway, model=to_model(halfway))


def _next(state: FitState, update, to_model, key: PRNGKeyArray) -> FitState:
    """The state after one more update."""
    number = state.step + 1
    try:
        with SimulationError.unwrapped():
            parameters, optimizer_state, carry, report, value, fine = jax.block_until_ready(
                update(state.parameters, state.optimizer_state, state.carry, key)
            )
    except SimulationError as error:
        raise SimulationError(f"Update {number}: {error}") from None
    bad = [jax.tree_util.keystr(path) for path, is_fine in jax.tree_util.tree_leaves_with_path(fine) if not is_fine]
    if bad:
        names = ", ".join(f"`{name.removeprefix('.')}`" for name in bad[:4])
        raise SimulationError(
            f"Update {number}: loss {value}; {names}{' and more' if len(bad) > 4 else ''} is not finite, at"
            f" {eqx.tree_pformat(state.model, short_arrays=False)}; wanted finite numbers, and of what `positive` picks"
            " more than zero. Nothing of this update was kept. Try a shorter time of integration, or smaller learning"
            " rates, which with `accept_changes=True` may go on from a checkpoint."
        )
    report = jax.tree.map(lambda r: np.asarray(r)[None], report)
    join = lambda h, r: np.concatenate([h, r])
    history = report if state.history is None else jax.tree.map(join, state.history, report)
    return FitState(to_model(parameters), parameters, optimizer_state, carry, number, history, changes=state.changes)


def _checked_report(loss_fn: LossFn, model, carry, key):
    """The shapes of what is reported; refuses a loss function that returns something else than it should."""
    out = eqx.filter_eval_shape(loss_fn, model, carry, key)
    wanted = "wanted `loss, (carry, report)`"
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], tuple) and len(out[1]) == 2):
        raise ValueError(f"`loss_fn` returns {_short(kinds_of(out))}; {wanted}, such as `loss, (carry, {{}})`.")
    loss, (new, report) = out
    if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(
            f"`loss_fn` returns a loss of {_short(kinds_of(loss))}; {wanted} with a real scalar: sum or average it."
        )
    difference = first_difference(kinds_of(new), kinds_of(carry))
    if difference is not None:
        raise ValueError(
            f"`loss_fn` returns another kind of carry than it was given: {difference} where it was given; {wanted} with"
            " the same arrays, since the next update starts from it. Give `carry` as the loss function returns it."
        )
    for name, kind in kinds_of(report).items():
        if kind[0] == "key":
            raise ValueError(f"`loss_fn` reports a random key, `{name}`; wanted `jax.random.key_data` of it.")
        if kind[0] == "other":
            raise ValueError(f"`loss_fn` reports `{name}`, of type {kind[1]}; wanted arrays and numbers.")
    return jax.tree.map(lambda x: x if hasattr(x, "shape") else np.asarray(x), report)


def _short(kinds: dict[str, list[Any]]) -> str:
    told = [f"{name or 'one leaf'}: {kind[1]}{list(kind[2])}" for name, kind in kinds.items()]
    return "(" + ", ".join(told[:4]) + (", ..." if len(told) > 4 else "") + ")"


def _path(name: str, path: str | os.PathLike | None) -> Path | None:
    """Of a file, which need not be there."""
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"`{name}` is {path!r}; wanted the name of a file" + (', or "auto".' if name == "resume" else ".")
        )
    if Path(path).is_dir():
        raise CheckpointError(f"`{name}` is {path}, a folder; wanted a file, such as {Path(path) / 'fit.eqx'}.")
    return Path(path)


def _require_own(checkpoint: Path, source: Path | str | None) -> None:
    """Refuses to write over a checkpoint that the fit does not go on from."""
    own = [path for path in (checkpoint, before(checkpoint)) if path.exists()]
    goes_on = source == "auto" or (isinstance(source, Path) and source.exists() and any(map(source.samefile, own)))
    if own and not goes_on:
        raise CheckpointError(
            f'There is a checkpoint {own[0]} already, which this fit would write over; wanted `resume="auto"` to go on'
            " from it, another `checkpoint`, or that you delete it."
        )


def _require_gradients_alone(optimizer: optax.GradientTransformation, parameters: PyTree) -> None:
    """Refuses an optimizer that needs the loss as well."""
    try:
        eqx.filter_eval_shape(optimizer.update, parameters, optimizer.init(parameters), parameters)
    except TypeError as error:
        raise TypeError(
            f"`optimizer` cannot make an update of gradients, its state and the parameters alone ({error}); wanted one"
            " that needs no values of the loss, such as `optax.adam(1e-3)`."
        ) from error


def _source(checkpoint: Path | None) -> Path | None:
    """Where to go on from, if anywhere, where that is not said."""
    if checkpoint is None:
        raise ValueError('`resume` is "auto", without a `checkpoint`; wanted the file to go on from if it is there.')
    there = [path for path in (checkpoint, before(checkpoint)) if path.exists()]
    if not there:
        return None
    try:
        read(there[0])
    except DamagedCheckpointError:
        if len(there) == 1:
            raise
        read(there[1])  # where that is damaged too, both stay as they are
        # out of the way, or the next one would be kept in the place of the only good one
        with contextlib.suppress(FileNotFoundError):  # of several processes, another one has
            os.replace(there[0], there[0].with_name(f"{there[0].name}.damaged"))
        return there[1]
    return there[0]


def _save(path: str | os.PathLike, state: FitState, fingerprint: Fingerprint | None = None) -> None:
    described = None if fingerprint is None else dataclasses.asdict(fingerprint)
    header = {"step": state.step, "fingerprint": described, "changes": list(state.changes)}
    save(Path(path), header, _saved(state))


def _saved(state: FitState) -> dict[str, PyTree]:
    # not the model: it follows from the parameters, and what is no parameter is as it was given
    names = ("parameters", "optimizer_state", "carry", "history")
    return {name: getattr(state, name) for name in (names if state.retreats is None else (*names, "last", "retreats"))}


def _load(path: Path, like: FitState, report, here: Fingerprint, accept_changes: bool, grow=None) -> FitState:
    """The fit saved at `path`; `like` has its structure, `report` that of one update's report."""
    header, blocks = read(path)
    try:
        step, changes, there = int(header["step"]), header["changes"], Fingerprint(**header["fingerprint"])
        row = lambda s: jax.ShapeDtypeStruct((step, *s.shape), s.dtype)
        history = jax.tree.map(row, report)
        wanted = {**_saved(like), "history": history}
        if like.retreats is not None:
            wanted["retreats"] = jax.ShapeDtypeStruct((step,), like.retreats.dtype)
        if grow is not None:
            carry = grow({leaf[0] for leaf in header["leaves"]})
            wanted |= stored_like(header, {"carry": carry})
        tree = tree_in(header, blocks, wanted)
        different = here.differences(there)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"The checkpoint {path} is of another fit: its arrays are not those of this model, optimizer, carry and"
            f" report ({error}). Resume with the arguments of the run that wrote it."
        ) from error
    if here.positive != there.positive or (different and not accept_changes):
        raise CheckpointError(
            f"The checkpoint {path} is of another fit: {'; '.join(different)}. Resume with the arguments of the run"
            " that wrote it, or with `accept_changes=True`, which takes all but another `positive` and records it."
        )
    if different:
        tree["optimizer_state"] = _with_hyperparameters(like.optimizer_state, tree["optimizer_state"])
    changes = (*changes, *(f"after update {step}: {change}" for change in different))
    return dataclasses.replace(like, step=step, changes=changes, **tree)


def _with_hyperparameters(here: PyTree, there: PyTree) -> PyTree:
    """An optimizer's state of a file with the learning rates and such that are accepted now, where the state is what
    holds them: by `optax.inject_hyperparams`."""
    injected = lambda state: hasattr(state, "hyperparams")
    take = lambda old, new: old._replace(hyperparams=new.hyperparams) if injected(old) else old
    return jax.tree.map(take, there, here, is_leaf=injected)
