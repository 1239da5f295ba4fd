"""Surfaces trained from labels, bottom-up: energies, forces and stresses, or dipoles."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from ._batches import Batch, map_samples, require_batch
from ._box import AbstractBox
from ._dipole import AbstractDipole, moment_of
from ._fields import AbstractChecked, Rule, checked
from ._fit import Fine, FitState, Moved, descend, step
from ._labels import Labels
from ._misc import (
    as_number,
    require_callable,
    require_constant,
    require_count,
    require_finite,
    require_flag,
    require_instance,
    require_key,
    require_positive,
)
from ._neighbors import AbstractNeighborSearch
from ._per_parameter import Pick
from ._potential import AbstractPotential, energy_of, require_atoms

M = TypeVar("M", bound=AbstractPotential | AbstractDipole)


def _weight(unit: str, default: float) -> Any:
    def require(name, x):
        require_constant(name, x)
        require_positive(name, x, unit, zero=True)

    return checked(Rule(as_number, require), static=True, default=default)


class LabelWeights(AbstractChecked):
    """How much a squared error counts: Σ_k weight_k ⟨error_k²⟩, with the mean over frames, atoms and components.

    With the defaults an error of 1 kJ/mol/atom in the energy counts as much as one of 10 kJ/mol/Å in a force, of 100
    kJ/mol/nm³ (1.7 kbar) in a stress, of 0.001 e nm (0.05 D) in a dipole.
    """

    energies: float = _weight("(kJ/mol/atom)⁻²", 1.0)
    forces: float = _weight("(kJ/mol/nm)⁻²", 1e-4)
    stresses: float = _weight("(kJ/mol/nm³)⁻²", 1e-4)
    dipoles: float = _weight("(e nm)⁻²", 1e6)


class LabelErrors(eqx.Module):
    """Root mean square errors, over frames, atoms and components; `None` of what there are no labels of."""

    energies: Float[Array, "*frames"] | None = None
    """kJ/mol per atom."""
    forces: Float[Array, "*frames"] | None = None
    """kJ/mol/nm."""
    stresses: Float[Array, "*frames"] | None = None
    """kJ/mol/nm³."""
    dipoles: Float[Array, "*frames"] | None = None
    """e nm, of the whole system."""


class Comparison(eqx.Module):
    """Labels, and what a model makes of them: what a parity plot shows."""

    before: LabelErrors
    """Of the model that training began with."""
    after: LabelErrors
    labels: Labels
    predicted: Labels
    """Afterwards; energies with the constant between model and labels."""


class Epochs(eqx.Module):
    """The report of every epoch; leaves lead with `epochs`."""

    training: LabelErrors
    """Of the batches of this epoch, each before its step."""
    validation: LabelErrors
    """After the epoch."""
    validation_loss: Float[Array, "*epochs"]


class Matched(eqx.Module, Generic[M]):
    """What `force_matching` returns."""

    model: M
    """That with the least loss on the validation labels, of all epochs."""
    best: int
    """After how many epochs that was."""
    offset: float
    """What the energies of the training labels are more than those of the model, kJ/mol, in the mean."""
    validation: Comparison
    original: Comparison | None
    """What was forgotten: errors on the labels that the model was trained on before, then and now."""
    state: FitState
    """Of the last epoch; `state.history` is `Epochs`."""


class _Values(eqx.Module):
    """What there are labels of, of one configuration or many."""

    energies: Array | None = None
    forces: Array | None = None
    stresses: Array | None = None
    dipoles: Array | None = None


class _Frame(eqx.Module):
    """One configuration and its labels, or many with a leading axis, on the device."""

    positions: Array
    box: AbstractBox
    labels: _Values
    """Energies less the offset."""


class _Best(eqx.Module):
    """The best parameters so far, and what else is handed from epoch to epoch."""

    parameters: Any
    loss: Array
    shift: Array
    """Of these parameters; see `shifts`."""
    epoch: Array
    now: Array
    """How many epochs there have been."""
    shifts: dict[str, Array]
    """What the labels of each set are more than the energies of the model after the last epoch, in the mean, kJ/mol;
    less the offset at the start."""


class _Task(eqx.Module):
    """What else a fit from labels is: where it goes on from a checkpoint, it must be the same."""

    labels: Labels
    validation: Labels
    original: Labels | None
    weights: LabelWeights
    batch_size: int
    forgetting: float
    offset: float | None
    search: AbstractNeighborSearch | None


def force_matching(
    model: M,
    labels: Labels,
    optimizer: optax.GradientTransformation,
    *,
    validation: Labels,
    num_epochs: int,
    batch_size: int = 8,
    weights: LabelWeights = LabelWeights(),
    offset: float | None = None,
    patience: int | None = None,
    original: Labels | None = None,
    forgetting: float = 1.0,
    positive: Pick | None = None,
    trainable: Pick | None = None,
    search: AbstractNeighborSearch | None = None,
    batch: Batch = 1,
    mesh: Mesh | None = None,
    check_units: bool = True,
    callback: Callable[[FitState], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: str | os.PathLike | None = None,
    accept_changes: bool = False,
    key: PRNGKeyArray,
) -> Matched[M]:
    """Trains a potential on energies, forces and stresses, or a dipole surface on dipoles: the least sum of squares.

    Energies are compared up to a constant, since that of labels is of their method: the mean difference on `labels`,
    taken out in double precision at the start and followed from epoch to epoch. The training runs in the precision of
    the model's parameters. Every epoch goes through all frames, in batches drawn anew.

    **Arguments:**

    - `model`: a potential, or a dipole surface; for atoms in the order of the labels.
    - `labels`, `validation`: to train on, and to choose the best epoch by. `labels.split(0.1, key=key)` makes both.
    - `optimizer`: of Optax; its schedule counts batches, of which an epoch has `len(labels) // batch_size`.
    - `weights`: of energies against forces, and so on.
    - `offset`: what the energies of labels are more than the model's shall be, kJ/mol, such as the energies of free
      atoms, where the constant matters; 0 for none.
    - `patience`: after how many epochs without a smaller loss on `validation` to end; by default after all.
    - `original`: labels that the model was trained on before, which it shall not forget; `forgetting` times the loss on
      as many of them is added in every batch. With 0, the errors on them are only told.
    - `positive`, `trainable`, `checkpoint`, `resume`, `accept_changes`, and `callback`, which is called after every
      epoch: as for `fit`. Of a fit that goes on, labels, weights and batches must be the same.
    - `search`: for neighbor lists; without it all pairs are looked at.
    - `batch`: how many frames of a batch at a time, on each device: one by default, which is fastest on a CPU.
    - `mesh`: devices to spread every batch over.
    - `check_units`: whether to refuse labels whose size is likely that of another unit (`Labels.require_likely_units`).

    **Errors:** `ValueError` for labels of another system than the model's, without any that the model could learn, in
    boxes smaller than twice the cutoff, or of unlikely units; those of `fit`.
    """
    require_instance("model", model, AbstractPotential | AbstractDipole)
    require_instance("weights", weights, LabelWeights)
    require_instance("optimizer", optimizer, optax.GradientTransformation)
    require_instance("search", search, AbstractNeighborSearch | None)
    require_count("num_epochs", num_epochs)
    require_count("batch_size", batch_size)
    require_batch(batch)
    require_positive("forgetting", forgetting, "units of 1", zero=True)
    require_flag("check_units", check_units)
    require_flag("accept_changes", accept_changes)
    require_key("key", key)
    if patience is not None:
        require_count("patience", patience)
    if offset is not None:
        require_constant("offset", offset)
        require_finite("offset", offset)
    if callback is not None:
        require_callable("callback", callback, "`lambda state: print(state.step)`")
    sets = {"labels": labels, "validation": validation} | ({} if original is None else {"original": original})
    for name, one in sets.items():
        require_instance(name, one, Labels)
        _require_fitting(name, model, one)
        if check_units:
            one.require_likely_units()
    if _kinds(model, labels) != _kinds(model, validation):
        raise ValueError(
            f"`labels` has {', '.join(_kinds(model, labels))} and `validation` {', '.join(_kinds(model, validation))};"
            " wanted the same of both, as from `labels.split(0.1, key=key)`."
        )
    batch_size = min(batch_size, len(labels))
    optimizer = _placing(optimizer, mesh)
    moved = _everywhere(Moved.of(model, positive, trainable), mesh)
    task = _Task(labels, validation, original, weights, batch_size, float(forgetting), offset, search)
    at_first = {name: predict_labels(model, one, search=search, batch=batch, mesh=mesh) for name, one in sets.items()}
    follows = offset is None and "energies" in _kinds(model, labels)
    offset = _offset(at_first["labels"], labels) if offset is None else float(offset)
    offsets = {"labels": offset, "validation": offset}
    if original is not None:
        offsets["original"] = _offset(at_first["original"], original)
    data = _everywhere({name: _frames(model, one, offsets[name]) for name, one in sets.items()}, mesh)
    program = _Program(optimizer, weights, float(forgetting), batch_size, follows, batch, mesh, search)
    update = lambda *now: program.epoch(moved, data, *now)
    zero, none = jnp.zeros((), _dtype(model)), jnp.asarray(0)
    best = _Best(moved.parameters, zero + jnp.inf, zero, none, none, dict.fromkeys(program.trained(data), zero))
    best = _everywhere(best, mesh)
    report = eqx.filter_eval_shape(update, moved.parameters, optimizer.init(moved.parameters), best, key)[3]
    state = descend(
        update,
        moved,
        optimizer,
        best,
        report,
        num_steps=num_epochs,
        key=key,
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
        accept_changes=accept_changes,
        beside=task,
        ended=lambda state: patience is not None and int(state.carry.now - state.carry.epoch) >= patience,
    )
    found = moved.to_model(state.carry.parameters)
    offset = offset + float(state.carry.shift)

    def compared(name: str) -> Comparison:
        after = predict_labels(found, sets[name], search=search, batch=batch, mesh=mesh)
        constants = [_offset(x, sets[name]) for x in (at_first[name], after)]
        if name == "validation":
            constants = [offsets[name], offset]
        before, after = (_shifted(x, c) for x, c in zip((at_first[name], after), constants, strict=True))
        return Comparison(label_errors(before, sets[name]), label_errors(after, sets[name]), sets[name], after)

    forgotten = None if original is None else compared("original")
    return Matched(found, int(state.carry.epoch), offset, compared("validation"), forgotten, state)


def predict_labels(
    model: AbstractPotential | AbstractDipole,
    labels: Labels,
    *,
    offset: float = 0.0,
    search: AbstractNeighborSearch | None = None,
    batch: Batch = 1,
    mesh: Mesh | None = None,
) -> Labels:
    """What a model makes of the configurations: the labels that there are and that it has, in the model's precision.

    **Arguments:** `offset`, added to energies, kJ/mol; `search`, `batch` and `mesh` as for `force_matching`.

    **Errors:** `ValueError` for labels of another system, none of which the model has.
    """
    require_instance("model", model, AbstractPotential | AbstractDipole)
    require_instance("labels", labels, Labels)
    require_constant("offset", offset)
    require_finite("offset", offset)
    require_batch(batch)
    _require_fitting("labels", model, labels)
    found = map_samples(_values_of, (model, search), _frames(model, labels, 0.0), batch=batch, mesh=mesh)
    found = jax.tree.map(lambda x: np.asarray(x, float), found)
    kept = {name: getattr(found, name) for name in _kinds(model, labels)}
    return _shifted(Labels(labels.topology, labels.positions, labels.vectors, **kept), offset)


def label_errors(predicted: Labels, labels: Labels) -> LabelErrors:
    """How far predictions of the same configurations are from the labels; of what both have. Dipoles in a box, which
    have many values, are taken for the nearest."""
    require_instance("predicted", predicted, Labels)
    require_instance("labels", labels, Labels)
    rms = lambda x: jnp.asarray(np.sqrt(np.mean(x * x)))
    found = {}
    for name in predicted.kinds:
        if getattr(labels, name) is None:
            continue
        difference = getattr(predicted, name) - getattr(labels, name)
        if name == "energies":
            difference = difference / labels.topology.num_atoms
        if name == "dipoles" and labels.vectors is not None:
            fractions = np.einsum("fi,fij->fj", difference, np.linalg.inv(labels.vectors))
            difference = np.einsum("fi,fij->fj", fractions - np.round(fractions), labels.vectors)
        found[name] = rms(difference)
    return LabelErrors(**found)


def label_loss(
    model: AbstractPotential | AbstractDipole,
    labels: Labels,
    weights: LabelWeights = LabelWeights(),
    *,
    search: AbstractNeighborSearch | None = None,
    batch: Batch = 1,
    mesh: Mesh | None = None,
) -> Float[Array, ""]:
    """The loss that `force_matching` makes small, Σ weight ⟨error²⟩, of known labels: differentiable in the model.

    To be added to the loss of a fit to experiment, so that the model does not forget what it was trained on.

    **Arguments:** as for `force_matching`; the constant of energies is the mean difference.

    **Errors:** as for `predict_labels`.
    """
    require_instance("model", model, AbstractPotential | AbstractDipole)
    require_instance("labels", labels, Labels)
    require_instance("weights", weights, LabelWeights)
    require_batch(batch)
    _require_fitting("labels", model, labels)
    frames = _frames(model, labels, 0.0 if labels.energies is None else float(np.mean(labels.energies)))
    found = map_samples(_values_of, (model, search), frames, batch=batch, mesh=mesh)
    shift = jnp.zeros((), frames.positions.dtype)
    if found.energies is not None and frames.labels.energies is not None:
        shift = jnp.mean(frames.labels.energies - found.energies)
    return _loss(weights, _mean(jax.vmap(_squared_errors, (0, 0, None))(found, frames, shift)))


class _Program(eqx.Module):
    """How an epoch goes."""

    optimizer: optax.GradientTransformation = eqx.field(static=True)
    weights: LabelWeights
    forgetting: float = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    follows: bool = eqx.field(static=True)
    """Whether the constant of energies is that of the model of every epoch."""
    batch: Batch = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)
    search: AbstractNeighborSearch | None

    def trained(self, data) -> tuple[str, ...]:
        """The sets that have a part in the loss."""
        return ("labels", "original") if "original" in data and self.forgetting > 0 else ("labels",)

    @eqx.filter_jit
    def epoch(self, moved, data, parameters, optimizer_state, best, key):
        """An update as for `descend`."""
        shuffle, remember = jax.random.split(key)
        total, size = len(data["labels"].positions), self.batch_size
        num = total // size
        order = jax.random.permutation(shuffle, total)[: num * size].reshape(num, size)
        old = None
        if "original" in self.trained(data):
            old = jax.random.randint(remember, (num, size), 0, len(data["original"].positions))
        # what of an optimizer's state is no array cannot go around in a loop
        arrays, static = eqx.partition(optimizer_state, eqx.is_array)

        def one(now, which):
            parameters, arrays, steep = now
            new, before = which
            told, gradient = self._slope(moved, parameters, data["labels"], best.shifts["labels"], new)
            if before is not None:
                _, back = self._slope(moved, parameters, data["original"], best.shifts["original"], before)
                gradient = jax.tree.map(lambda g, b: g + self.forgetting * b, gradient, back)
            parameters, state = step(self.optimizer, gradient, eqx.combine(arrays, static), parameters)
            # a number that is finite where all gradients are
            steep = steep + sum(jnp.sum(jnp.abs(g)) for g in jax.tree.leaves(gradient))
            return (parameters, eqx.filter(state, eqx.is_array), steep), told

        start = (parameters, arrays, jnp.zeros((), best.loss.dtype))
        (after, arrays, steep), (losses, squares) = jax.lax.scan(one, start, (order, old))
        state = eqx.combine(arrays, static)
        model, lifted = moved.to_model(after), {"batch": self.batch, "mesh": self.mesh}
        shifts = best.shifts
        if self.follows:
            known = [name for name in shifts if data[name].labels.energies is not None]
            gaps = {name: _mean(map_samples(_gap_of, (model, self.search), data[name], **lifted)) for name in known}
            shifts = {**shifts, **gaps}
        shared = (model, shifts["labels"], self.search)
        validation = _mean(map_samples(_squares_of, shared, data["validation"], **lifted))
        value, now = _loss(self.weights, validation), best.now + 1
        found = _Best(after, value, shifts["labels"], now, now, shifts)
        kept = dataclasses.replace(best, now=now, shifts=shifts)
        new = jax.tree.map(lambda a, b: jnp.where(value < best.loss, a, b), found, kept)
        loss = jnp.mean(losses)
        fine = Fine.of(moved, loss, steep, after, (optimizer_state, best), (state, new))
        root = lambda tree: jax.tree.map(jnp.sqrt, tree)
        return after, state, new, Epochs(root(_mean(squares)), root(validation), value), loss, fine

    def _slope(self, moved, parameters, data: _Frame, shift, which):
        """Of the frames of these numbers: loss and squared errors, and the gradient, of their mean.

        The gradient is taken of one frame after another, whose arrays are small enough for the caches of a CPU: of 64
        waters that is three times as fast as of all at once.
        """
        frames = jax.tree.map(lambda x: x[which], data)
        shared = (moved, parameters, self.weights, shift, self.search)
        return _mean(map_samples(_slope_of, shared, frames, batch=self.batch, mesh=self.mesh))


def _slope_of(shared, frame: _Frame):
    moved, parameters, weights, shift, search = shared

    def loss(parameters):
        squares = _squared_errors(_evaluated(moved.to_model(parameters), frame, search), frame, shift)
        return _loss(weights, squares), squares

    return eqx.filter_value_and_grad(loss, has_aux=True)(parameters)


def _squares_of(shared, frame: _Frame) -> LabelErrors:
    model, shift, search = shared
    return _squared_errors(_evaluated(model, frame, search), frame, shift)


def _gap_of(shared, frame: _Frame) -> Array:
    """What an energy should be more than the model's."""
    model, search = shared
    wanted = frame.labels.energies
    found = _evaluated(model, dataclasses.replace(frame, labels=_Values(wanted)), search).energies
    assert wanted is not None
    assert found is not None
    return wanted - found


def _values_of(shared, frame: _Frame) -> _Values:
    model, search = shared
    return _evaluated(model, frame, search)


def _mean(tree):
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def _loss(weights: LabelWeights, squares: LabelErrors) -> Array:
    terms = [getattr(weights, name) * x for name, x in vars(squares).items() if x is not None]
    return jnp.sum(jnp.stack(terms))


def _squared_errors(found: _Values, frame: _Frame, shift) -> LabelErrors:
    squared = {}
    for name, value in vars(found).items():
        label = getattr(frame.labels, name)
        if label is None or value is None:
            continue
        difference = value - label
        if name == "energies":
            difference = (difference + shift) / len(frame.positions)
        if name == "dipoles":
            difference = jnp.stack(frame.box.nearest_image(*difference))
        squared[name] = jnp.mean(difference**2)
    return LabelErrors(**squared)


def _evaluated(model, frame: _Frame, search) -> _Values:
    """What a model makes of one configuration, as far as there are labels."""
    x, box = frame.positions, frame.box
    neighbors = None if search is None else jax.lax.stop_gradient(search.find(x, box))
    if isinstance(model, AbstractDipole):
        return _Values(dipoles=moment_of(model, x, box, neighbors))
    if frame.labels.stresses is not None:
        strained = lambda strain, x: model.strained_energy(strain, x, box, neighbors=neighbors)
        energy, (pull, slope) = jax.value_and_grad(strained, (0, 1))(jnp.zeros((3, 3), x.dtype), x)
        return _Values(energy, -slope, pull / box.volume)
    if frame.labels.forces is not None:
        energy, slope = jax.value_and_grad(lambda x: energy_of(model, x, box, neighbors))(x)
        return _Values(energy, -slope)
    return _Values(energy_of(model, x, box, neighbors))


def _everywhere(tree, mesh: Mesh | None):
    """On all devices, where epochs leave it: from elsewhere, the second one would be compiled anew."""
    if mesh is None:
        return tree
    place = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(x, place) if eqx.is_array(x) else x, tree)


def _placing(optimizer: optax.GradientTransformation, mesh: Mesh | None) -> optax.GradientTransformation:
    """The same, whose state begins on all devices."""
    if mesh is None:
        return optimizer
    return optax.GradientTransformation(lambda params: _everywhere(optimizer.init(params), mesh), optimizer.update)


def _dtype(model):
    return jnp.result_type(*(x.dtype for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))))


def _kinds(model, labels: Labels) -> tuple[str, ...]:
    """The labels that a model has values of."""
    own = ("dipoles",) if isinstance(model, AbstractDipole) else ("energies", "forces", "stresses")
    return tuple(name for name in own if name in labels.kinds)


def _frames(model, labels: Labels, offset: float) -> _Frame:
    """On the device, in the precision of the model."""
    dtype = _dtype(model)
    states = labels.states(dtype)
    values = {name: getattr(labels, name) for name in _kinds(model, labels)}
    if "energies" in values:
        values["energies"] = values["energies"] - offset
    on_device = {name: jnp.asarray(x, dtype) for name, x in values.items()}
    return _Frame(states.positions, states.box, _Values(**on_device))


def _offset(predicted: Labels, labels: Labels) -> float:
    if predicted.energies is None or labels.energies is None:
        return 0.0
    return float(np.mean(labels.energies - predicted.energies))


def _shifted(labels: Labels, offset: float) -> Labels:
    if labels.energies is None:
        return labels
    return eqx.tree_at(lambda x: x.energies, labels, labels.energies + offset)


def _require_fitting(name: str, model, labels: Labels) -> None:
    """Refuses labels that a model cannot be compared with."""
    if not _kinds(model, labels):
        wanted = "dipoles" if isinstance(model, AbstractDipole) else "energies, forces or stresses"
        raise ValueError(
            f"`{name}` has {', '.join(labels.kinds)}, of which `{type(model).__name__}` has none; wanted {wanted}."
        )
    require_atoms(model, labels.topology.num_atoms)
    cutoff, height = getattr(model, "cutoff", None), labels.smallest_height
    if cutoff is not None and cutoff > 0.5 * height * (1 + 1e-6):
        raise ValueError(
            f"The cutoff of the model is {cutoff:.6g} nm and a box of `{name}` is {height:.6g} nm high; wanted at most"
            " half of that: labels of larger boxes, or a model with a shorter cutoff."
        )
