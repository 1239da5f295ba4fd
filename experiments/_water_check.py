"""The gradient of the spectral loss of `water_ir` against finite differences."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

import reverlet as rv

from ._water import NAMES, Water, by_name, spectral_loss, with_values


def gradient_check(
    water: Water, model: rv.WaterModel, chains: rv.State, targets: np.ndarray, key: PRNGKeyArray
) -> dict[str, np.ndarray]:
    """The dynamical gradient of the loss against central differences, from the same samples, in double precision.

    **Arguments:** `chains`, one for every trajectory; `targets`, a spectrum for every correlation time of the check.

    **Returns:** `times` (ps), and arrays (times, parameters): `adjoint` and `difference`, dL/d ln θ.
    """
    check = water.grids.check
    values = [float(x) for x in by_name(model).values()]
    states = jax.tree.map(lambda x: np.asarray(x, float), chains)
    with jax.enable_x64(True):
        states = jax.tree.map(jnp.asarray, water.sampling.with_new_velocities(states, key))
        states = jax.tree.map(lambda x: jnp.asarray(x, float), states)
        box = jax.tree.map(lambda x: x[0], states.box)
        # the force of Ewald's sum jumps at its cutoff by its accuracy: at 1e-4 differences are off by some percent
        exact = Water(dataclasses.replace(water.sampling, mesh=None), box, water.grids, accuracy=1e-10)
        losses = [spectral_loss(s, cut) for s, cut in zip(exact.cut, targets, strict=True)]
        lengths = [water.frames(t) for t in check]
        arguments = losses, lengths, rv.NVT(water.sampling.temperature), exact, states, exact.trajectories(max(check))
        adjoint = _adjoint_gradients(jnp.array(values), *arguments)
        step = 1e-5  # relative: truncation and rounding then are both below 1e-6
        moved = np.array(
            [[v * np.exp(s * step * (j == k)) for j, v in enumerate(values)] for k in range(4) for s in (1, -1)]
        )
        found = np.asarray(_losses_at(jnp.asarray(moved), *arguments)).reshape(4, 2, -1)
        difference = ((found[:, 0] - found[:, 1]) / (2 * step)).T
        return {"times": np.array(check), "adjoint": np.asarray(adjoint) * values, "difference": difference}


def _records(values, losses, water, states, dynamics):
    system = water.system(with_values(water.target, dict(zip(NAMES, values, strict=True))))
    trajectory = jax.vmap(lambda s: dynamics.run(system, s, losses[0].record, throw=False))(states)
    return trajectory.records, trajectory.times[0]


def _all_losses(records, times, losses, lengths, ensemble):
    """Of the parts of trajectories that are as long as each check asks for."""
    middle, weights = records.shape[1] // 2, jnp.full(len(records), 1 / len(records))
    parts = (slice(middle - n, middle + n + 1) for n in lengths)
    each = zip(losses, parts, strict=True)
    return jnp.stack([loss.reduce(times[p], records[:, p], weights, ensemble) for loss, p in each])


@eqx.filter_jit
def _adjoint_gradients(values, losses, lengths, ensemble, water, states, dynamics):
    records, pull, times = jax.vjp(lambda v: _records(v, losses, water, states, dynamics), values, has_aux=True)
    found, pull_losses = jax.vjp(lambda r: _all_losses(r, times, losses, lengths, ensemble), records)
    cotangents = jax.vmap(lambda row: pull_losses(row)[0])(jnp.eye(len(found)))
    return jax.lax.map(lambda cotangent: pull(cotangent)[0], cotangents)


@eqx.filter_jit
def _losses_at(values, losses, lengths, ensemble, water, states, dynamics):
    one = lambda v: _all_losses(*_records(v, losses, water, states, dynamics), losses, lengths, ensemble)
    return jax.lax.map(one, values)
