"""A trajectory that is reported while it runs: in pieces, each from where the last one ended."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._misc import is_concrete
from .._state import State
from .._timeseries import Times
from ._solve import frame_times
from ._trajectory import Record, Trajectory

Reporter = Callable[[Times, State], None]
"""What takes some frames: their times in ps, and one `State` whose arrays lead with `frames`."""

_FRAMES = 100
"""In a piece: a compiled run costs as much as some of these."""


class _Recording(eqx.Module):
    """Whole states beside the records, given where the whole trajectory began and not only this piece."""

    record: Record | None
    beginning: State

    def __call__(self, system, state, initial):
        del initial
        return state if self.record is None else (state, self.record(system, state, self.beginning))


def run_reported(dynamics, system, state, record: Record | None, reporter: Reporter, throw: bool) -> Trajectory:
    """As for `dynamics.run`. Without `record`, only the two ends are kept."""
    _require_one_way(dynamics, (system, state))
    times, recording = frame_times(dynamics, state), _Recording(record, state)
    num_frames, kept, ends, final, at = len(times) - 1, [], [], state, 0
    while at < num_frames:
        count = min(_FRAMES, num_frames - at)
        piece = dataclasses.replace(dynamics, num_steps=count * dynamics.save_every)
        found = piece.run(system, final, recording, throw=throw)
        states, records = (found.records, None) if record is None else found.records
        if at > 0:  # later pieces begin with a frame that has been reported
            states, records = _rows((states, records), slice(1, None))
        reporter(times[at + (at > 0) : at + count + 1], states)
        kept.append(records)
        ends = [ends[0] if ends else _rows(states, 0), _rows(states, -1)]
        final, at = found.final, at + count
    if record is None:
        return Trajectory(times[jnp.array([0, num_frames])], jax.tree.map(lambda *x: jnp.stack(x), *ends), final)
    return Trajectory(times, jax.tree.map(lambda *x: jnp.concatenate(x), *kept), final)


def _rows(tree, rows):
    return jax.tree.map(lambda x: x[rows], tree)


def _require_one_way(dynamics, arrays):
    if dynamics.both_directions or dynamics.batch is not None or dynamics.mesh is not None:
        raise ValueError(
            "`reporter` got a trajectory in both directions, or many; wanted one in one direction: write the records"
            " of others when they are there."
        )
    if not is_concrete(arrays):
        raise ValueError("`reporter` got traced arrays; wanted values: call `nve` outside of `jax.jit` and `jax.grad`.")
