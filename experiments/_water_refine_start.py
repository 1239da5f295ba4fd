"""Where a run of `water_refine` begins, and the experiment that it aims at."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

import reverlet as rv

from ._chains import arrays_of
from ._neural_water import NeuralWater
from ._water import cutoff_in


def perturbed(surface: rv.EANN, size: float, states: rv.State, key: PRNGKeyArray) -> rv.EANN:
    """The surface with random changes to its last layer, which change the forces of these states by the fraction
    `size`, as root mean squares."""
    leaves, tree = jax.tree.flatten(surface.last)
    keys = jax.random.split(key, len(leaves))
    deviates = [x * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    with_last = lambda last: eqx.tree_at(lambda model: model.last, surface, jax.tree.unflatten(tree, last))
    moved = lambda s: with_last([x + s * d for x, d in zip(leaves, deviates, strict=True)])

    @eqx.filter_jit
    def forces(potential):
        energy = lambda state: lambda x: potential.energy(x, state.box)
        return jax.vmap(lambda state: -jax.grad(energy(state))(state.positions))(states)

    right, rms = forces(surface), lambda x: jnp.sqrt(jnp.mean(x**2))
    # energies are linear in the last layer
    return moved(size * rms(right) / rms(forces(moved(1.0)) - right)) if size else surface


def start_stage(config: Any, water: NeuralWater, state: rv.State, key: PRNGKeyArray) -> dict[str, np.ndarray]:
    """Chains from one long one of q-SPC/Fw water, which costs little."""
    keys = jax.random.split(key, 3)
    single = dataclasses.replace(water.sampling, mesh=None, interval=min(0.1, config.nvt / 4))
    potential = rv.qspcfw(len(state.positions) // 3, state.box, cutoff=cutoff_in(state.box)).potential
    one = single.with_new_velocities(state.repeat(1), keys[0])
    one = single.equilibrate(potential, one, config.nvt / 2, keys[1], "equilibrating")
    parts = []
    for k in range(config.trajectories):
        part_key = jax.random.fold_in(keys[2], k)
        one = single.equilibrate(potential, one, config.nvt / 2 / config.trajectories, part_key, f"start {k + 1}")
        parts.append(one)
    return arrays_of(jax.tree.map(lambda *x: jnp.concatenate(x), *parts))


def experimental(water: NeuralWater, reference: Any, pressure: float) -> dict[str, np.ndarray]:
    """The arrays of an evaluation, of experiment: one chain that has no noise."""
    nu = np.asarray(water.low.wavenumbers)
    grid = np.arange(max(1.0, np.ceil(reference.wavenumbers[0])), min(nu[-1], reference.wavenumbers[-1]) + 1e-9)
    cut = lambda s: np.asarray(s.filtered(grid, reference.at(grid), water.ensemble, step=water.frame))
    spectra = {"low": cut(water.low)[None, None], "full": cut(water.full)[None, None]}
    return {**spectra, "pressure": np.full((1, 1), pressure), "wavenumbers": nu}
