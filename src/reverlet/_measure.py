import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._box import OpenBox
from ._dynamics import Dynamics, Trajectory, recorded
from ._ensemble import AbstractEnsemble
from ._expectation import Estimate, Measurement, estimate_of
from ._misc import require_flag, require_instance, require_number, require_positive
from ._observable import AbstractObservable, Joint
from ._sampler import Samples
from ._state import State
from ._statistics import blocks_of
from ._system import System
from ._timeseries import require_times
from ._topology import Topology
from ._verdict import SimulationError
from .io import stream, unwrap as unwrapped

_CHUNK = 100
"""Frames at a time, or a little more where pieces are longer."""
Parts = Iterable[tuple[Topology, Trajectory]]


def measure(
    observables: PyTree[AbstractObservable],
    system: System,
    source: Samples | Trajectory | State | str | os.PathLike | Parts,
    *,
    piece: float | None = None,
    ensemble: AbstractEnsemble | None = None,
    dynamics: Dynamics | None = None,
    unwrap: bool = False,
) -> PyTree[Estimate]:
    """Several observables in one run over what one has: samples, a trajectory, or a file, of which a part at a time is
    in memory.

        found = rv.measure({"D": rv.SelfDiffusion(), "g": rv.RDF(0.8, 80)}, system, "run.h5", piece=2.0)
        print(found["D"])

    A trajectory is cut into pieces, one after the other, and each counts as one sample; errors are over blocks of them,
    with what neighbors have in common. Single frames are enough for what depends on configurations alone. What depends
    on how atoms move needs pieces as long as its correlations last, or a spectrum's window.

    **Arguments:**

    - `observables`: one, or any tree of them: a list, a tuple, your own dictionary.
    - `source`: samples; a trajectory of whole states, from `nve` without `record` or `rv.io.read`, or several at
      once; states alone, whose arrays have a leading axis; the name of a file, or `rv.io.stream(...)` where reading it
      needs more to be said.
    - `piece`: how long the pieces of a trajectory are, ps; by default, single frames.
    - `ensemble`: by default that of the samples; for trajectories it is needed where an observable depends on the
      temperature.
    - `dynamics`: as for `expectation`, for samples alone: how to run a trajectory from each.
    - `unwrap`: whether atoms of a file go on where its program has put them back into the box, by minimum motion; see
      `rv.io.unwrap`.

    **Returns:** an `Estimate` in the place of every observable.

    **Errors:** `TypeError` for what is no observable, and no source; `ValueError` for a trajectory shorter than a
    piece, frames that are not equally far apart within one, atoms that are not the system's, atoms that go more than
    half a box between two frames of a file (unless `unwrap`); `SimulationError` for records that are not finite; as for
    `expectation`, `rv.io.read` and the observables.
    """
    found, structure = jax.tree.flatten(observables, is_leaf=lambda x: isinstance(x, AbstractObservable))
    for observable in found:
        _require_observable(observable)
    if not found:
        raise ValueError(f"`observables` is {observables!r}; wanted at least one.")
    require_instance("system", system, System)
    require_flag("unwrap", unwrap)
    joint = Joint(tuple(found))
    if isinstance(source, Samples):
        if piece is not None:
            raise ValueError(
                "`piece` is of trajectories, and `source` are samples; wanted `dynamics=rv.Dynamics(...)`."
            )
        return jax.tree.unflatten(structure, _of_samples(joint, system, source, ensemble, dynamics))
    require_instance("ensemble", ensemble, AbstractEnsemble | None)
    if dynamics is not None:
        raise ValueError("`dynamics` starts from samples, and `source` is a trajectory; wanted `piece`, in ps.")
    if piece is not None:
        require_number("piece", piece)
        require_positive("piece", piece, "ps")
    kept = [_recorded(joint, system, one, piece) for one in _trajectories(source, system, unwrap)]
    numbers = [len(jax.tree.leaves(pieces.records)[0]) for pieces in kept]
    records = jax.tree.map(lambda *x: jnp.concatenate(x), *(pieces.records for pieces in kept))
    blocks = blocks_of(jnp.repeat(jnp.arange(len(kept)), jnp.array(numbers)))
    times, weights = jnp.asarray(kept[0].times), jnp.full(sum(numbers), 1 / sum(numbers))
    each = _estimates(joint, ensemble, times, records, weights, blocks, blocks.error)
    return jax.tree.unflatten(structure, each)


def _estimates(joint, ensemble, times, records, weights, blocks, error_of_sum):
    def one(observable, own):
        reduce = lambda w: observable.reduce(times, own, w, ensemble)
        return estimate_of(reduce, reduce(weights), times, own, weights, blocks, error_of_sum, observable.unit)

    return [one(o, own) for o, own in zip(joint.observables, records, strict=True)]


def _require_observable(x):
    if not isinstance(x, AbstractObservable):
        meant = isinstance(x, type) and issubclass(x, AbstractObservable)
        hint = f"`{x.__name__}(...)`, an instance" if meant else "such as `rv.SelfDiffusion()`"
        raise TypeError(f"`observables` has {x!r}, of type `{type(x).__name__}`; wanted observables, {hint}.")


def _of_samples(joint, system, samples, ensemble, dynamics):
    measurement = Measurement.of(joint, samples, ensemble, dynamics, None, None, True)
    weights = jax.nn.softmax(measurement.log_weights(system))
    times, records = measurement.run(system)
    weights = measurement.judged(weights, weights)
    return _estimates(joint, measurement.ensemble, times, records, weights, samples.blocks, samples.error_of_sum)


class _Pieces(NamedTuple):
    times: np.ndarray
    """Of the frames of a piece, from zero."""
    records: PyTree
    """Leaves lead with `pieces frames`."""


class _Run(NamedTuple):
    """One trajectory, in parts."""

    parts: Iterator[Trajectory]
    unwrap: bool
    """Whether to."""
    wrapped: bool
    """Whether it may be, and is to be looked at."""


def _trajectories(source, system, unwrap) -> list[_Run]:
    if isinstance(source, str | Path | os.PathLike):
        source = stream(Path(source), chunk=_CHUNK, topology=system.topology)
    if isinstance(source, State):
        if source.positions.ndim != 3:
            raise ValueError(f"`source` has positions of shape {source.positions.shape}; wanted (frames, atoms, 3).")
        source = Trajectory(np.full(len(source.positions), np.nan), source, source)
    if not isinstance(source, Trajectory):
        if not isinstance(source, Iterable):
            raise TypeError(
                f"`source` is {source!r:.80}, of type `{type(source).__name__}`; wanted samples, a trajectory, states,"
                " the name of a file, or `rv.io.stream(...)`."
            )
        return [_Run(_of_the_system(source, system), unwrap, not unwrap)]
    states = source.records
    if not isinstance(states, State):
        raise ValueError(
            f"The records of the trajectory are of type `{type(states).__name__}`; wanted whole states, as `nve` keeps"
            " without `record`. Of a series of dipoles: `rv.infrared`."
        )
    if states.positions.ndim == 3:
        return [_Run(iter([source]), unwrap, False)]
    one = lambda k: jax.tree.map(lambda x: x[k], (states, source.final))
    return [_Run(iter([Trajectory(source.times, *one(k))]), unwrap, False) for k in range(len(states.positions))]


def _of_the_system(parts, system) -> Iterator[Trajectory]:
    for part in parts:
        fine = isinstance(part, tuple) and len(part) == 2 and isinstance(part[1], Trajectory)
        if not fine:
            raise TypeError(
                f"`source` gives {type(part).__name__}; wanted a topology and a trajectory at a time, as"
                " `rv.io.stream(...)` does."
            )
        if part[0].elements != system.topology.elements:
            raise ValueError(f"`source` is of {part[0]}; wanted the atoms of the system, {system.topology}.")
        yield part[1]


def _recorded(joint, system, run, piece) -> _Pieces:
    """What is recorded of a trajectory, in whole pieces."""
    waiting, kept, times = None, [], None
    frames, longest = 1, 0
    for part in run.parts:
        if piece is not None and longest == 0:
            frames = _frames_in(piece, part.times)
        states = system.check_shape_and_cutoff(part.records)
        now = (np.asarray(part.times), states)
        waiting = now if waiting is None else jax.tree.map(_after, waiting, now)
        longest = max(longest, len(waiting[0]))
        number = len(waiting[0]) // frames
        if number > 0:
            (own, states), waiting = _cut(waiting, number, frames)
            if piece is not None:
                times = _require_even(own, times)
                states = _continuous(own, states, run)
            records = _record(joint, system, states)
            _require_finite(records)
            kept.append(records)
    if not kept:
        raise ValueError(
            f"The trajectory has {longest} frames, but a piece of {piece} ps has {frames}; wanted shorter pieces, or a"
            " longer trajectory."
        )
    records = jax.tree.map(lambda *parts: jnp.concatenate(parts), *kept)
    return _Pieces(np.zeros(1) if times is None else times, records)


def _cut(tree, number, frames):
    """So many pieces, and what is left."""
    whole = number * frames
    pieces = jax.tree.map(lambda x: x[:whole].reshape(number, frames, *x.shape[1:]), tree)
    return pieces, jax.tree.map(lambda x: x[whole:], tree)


def _after(before, now):
    join = np.concatenate if isinstance(now, np.ndarray) else jnp.concatenate
    return join([before, now])


def _frames_in(piece, times):
    require_times(times)
    if len(times) < 2:
        raise ValueError("`piece` needs two frames at least, to know how far apart they are.")
    step = float(times[1]) - float(times[0])
    return max(round(float(piece) / step), 1) + 1


def _require_even(times, before):
    """The times of a piece, from zero; refused where frames are missing."""
    from_zero = times - times[:, :1]
    like = from_zero[0] if before is None else before
    steps, away = np.diff(like), np.max(abs(from_zero - like), axis=1)
    rounding = 8 * np.finfo(np.float32).eps * np.max(abs(times))
    if steps.min() <= 0 or max(away.max(), np.ptp(steps)) > 1e-2 * steps.mean() + rounding:
        raise ValueError(
            f"Frames are not equally far apart in time: from {times[np.argmax(away), 0]:.9g} ps on up to"
            f" {max(away.max(), np.ptp(steps)):.3g} ps off steps of {steps.mean():.6g} ps; wanted a trajectory without"
            " gaps, or each part by itself."
        )
    return like


def _continuous(times, states, run):
    """The states of all pieces, of files refused or unwrapped where atoms are put back into the box."""
    if isinstance(states.box, OpenBox) or not (run.unwrap or run.wrapped):
        return states
    if run.unwrap:
        each = [jax.tree.map(lambda x, k=k: x[k], states) for k in range(len(times))]
        last = lambda states: jax.tree.map(lambda x: x[-1], states)
        whole = [unwrapped(Trajectory(t, one, last(one))).records for t, one in zip(times, each, strict=True)]
        return jax.tree.map(lambda *x: jnp.stack(x), *whole)
    vectors = np.asarray(jax.vmap(jax.vmap(lambda box: box.vectors))(states.box), float)
    inside = np.linalg.solve(np.swapaxes(vectors, 2, 3), np.swapaxes(np.asarray(states.positions, float), 2, 3))
    furthest = np.max(abs(np.diff(inside, axis=1)), initial=0)
    if furthest > 0.5:
        raise ValueError(
            f"Atoms of the file go up to {furthest:.2g} of the box between two frames, as where a program puts them"
            " back into it; wanted `unwrap=True`, or, if they do move that far, the trajectory of `rv.io.read`."
        )
    return states


@eqx.filter_jit
def _record(joint, system, states):
    def one(piece):
        initial = jax.tree.map(lambda x: x[0], piece)
        return jax.lax.map(lambda state: recorded(joint.record, system, state, initial), piece)

    return jax.lax.map(one, states)


def _require_finite(records):
    for leaf in jax.tree.leaves(eqx.filter(records, eqx.is_inexact_array)):
        bad = np.argwhere(~np.isfinite(np.asarray(leaf)))
        if len(bad) > 0:
            raise SimulationError(
                f"What was recorded of frame {bad[0, 1]} in piece {bad[0, 0]} of a part is not finite; wanted frames in"
                " which atoms do not overlap, and neighbor lists with room."
            )
