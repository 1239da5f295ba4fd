"""Neighbor lists along trajectories."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._misc import is_concrete
from .._neighbors import AbstractNeighborSearch, Neighbors, Wear
from .._solver import AbstractPreparation

TRIES = 4
"""How often a list that is too small is enlarged: one that has failed does not yet know all that it needs."""


def with_room(system, states):
    """The system with neighbor lists large enough for where trajectories start, if that is known by now."""
    search = system.search
    if (
        search is None
        or not is_concrete((states, search))
        or states.positions.shape[1:]
        != (
            system.topology.num_atoms,
            3,
        )
    ):
        return system
    search.check(jax.vmap(lambda s: s.box.heights)(states))
    for _ in range(2):  # what a window too small has hidden is found the second time
        needed = np.max(np.asarray(_needed(system, states)), axis=0)
        if np.all(needed <= np.asarray(system.search.room())):
            break
        system = _enlarged(system, needed)
    return system


def with_lists_that_fit(system, run, tries):
    """What `run(system)` returns, its last entry the health; run again with larger neighbor lists, if that is known by
    now, while they were too small. And the system it was run with."""
    out = run(system)
    for _ in range(tries):
        needed = out[-1].wear.needed
        if system.search is None or isinstance(needed, Tracer):
            break
        needed = np.max(np.asarray(needed).reshape(-1, needed.shape[-1]), axis=0)
        if np.all(needed <= np.asarray(system.search.room())):
            break
        system = _enlarged(system, needed)
        out = run(system)
    return system, out


def _enlarged(system, needed):
    return eqx.tree_at(lambda s: s.search, system, system.search.enlarged(jnp.asarray(1.1 * needed)))


@eqx.filter_jit
def _needed(system, states):
    # one after the other, in the memory of one
    return jax.lax.map(lambda s: system.find_neighbors(s.positions, s.box).needed, states)


class Lists(AbstractPreparation):
    """Neighbor lists, for the potential in `args`."""

    search: AbstractNeighborSearch

    @property
    def every(self) -> int:
        return self.search.every

    def make(self, x, args):
        _, initial, _ = args
        return jax.lax.stop_gradient(self.search.find(x, initial.box))

    def given(self, args, prepared):
        system, initial, record = args
        return eqx.tree_at(lambda s: s.neighbors, system, prepared, is_leaf=lambda x: x is None), initial, record

    def unworn(self, x):
        return Wear.none(x.dtype)

    def wear(self, worst, x, prepared: Neighbors):
        return worst.and_of(x, prepared.box, prepared)  # the box stays as it is

    def worn_out(self, worst):
        return worst.too_much(self.search)
