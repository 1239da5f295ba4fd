"""How `water_refine` steps its surface, and what it keeps of the way."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

import reverlet as rv

from . import _refine
from ._folder import Folder
from ._neural_water import NeuralWater, all_whole
from ._refine_targets import (
    Aim,
    Evidence,
    Known,
    Part,
    blurred,
    cosine,
    pressure_along,
    pressure_part,
    principal,
    size_and_noise,
    spectrum_part,
    tangents,
    trajectories_along,
)
from ._water_watch import Memory, Watch, without_blanks

FALLS = 0.86
"""By this the width of the blur falls from update to update."""


FORGOTTEN = 0.04
"""Forces that are off by this part of them on labels count as one error."""


class Kept(eqx.Module):
    """Surfaces of every so many updates.

    **Arguments:** `done`, how many updates there were; `stack`, arrays of the surfaces, one place for each.
    """

    done: Int[Array, ""]
    stack: PyTree
    every: int = eqx.field(static=True)

    @staticmethod
    def places(surface: PyTree, every: int, updates: int) -> "Kept":
        """Room for those of so many updates; for none, where `every` is 0."""
        count = updates // every if every else 0
        return Kept(jnp.array(0), jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), surface), every)

    def after(self, surface: PyTree) -> "Kept":
        """With the surface of another update, where that is one to keep."""
        done = self.done + 1
        if not self.every:
            return Kept(done, self.stack, 0)
        put = lambda x, new: x.at[jnp.where(done % self.every, len(x), done // self.every - 1)].set(new, mode="drop")
        return Kept(done, jax.tree.map(put, self.stack, surface), self.every)

    def surfaces(self) -> dict[int, PyTree]:
        """By the update that they are of."""
        count = len(jax.tree.leaves(self.stack)[0])
        return {self.every * (k + 1): jax.tree.map(lambda x, k=k: x[k], self.stack) for k in range(count)}


class Carry(eqx.Module):
    """What goes on from update to update: the chains, the exponential mean of the parameters, what is kept of it, and
    with `--method newton` what is known."""

    chains: rv.State
    mean: PyTree
    kept: Kept
    known: Known | None


def fit(
    config: Any,
    water: NeuralWater,
    aim: Aim,
    start: rv.EANN,
    chains: rv.State,
    whole_chains: rv.State,
    folder: Folder,
    key: PRNGKeyArray,
    watch: Watch | None = None,
    memory: Memory | None = None,
) -> rv.FitState:
    """Steps the surface; `carry` of what is returned is a `Carry`.

    A chain in which a molecule came apart begins again from those of `whole_chains`. What `watch` measures is told and
    has no part in the steps; forces that `memory` has do.

    **Errors:** `SimulationError` where the surface holds no liquid any more; `blown_up.extxyz` has the atoms then.
    """
    arrays = lambda model: eqx.filter(model, eqx.is_inexact_array)
    adam, moves = config.method == "adam", moving(config.trainable, arrays(start))
    unravel = ravel_pytree(eqx.filter(arrays(start), moves))[1]
    known, step_of = (by_adam if adam else by_newton)(config, water, aim, moves, start, chains, memory)

    def loss_fn(model, carry, key):
        # all of this is measured, not traced: its derivative is put in by `linearize`
        surface = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, model)
        frames, starts, chains = water.draw(surface, carry.chains, key)
        parts, away, known = step_of(surface, frames, starts, carry)
        norms, noises, gradients = zip(*(size_and_noise(part.by_chain) for part in parts.values()), strict=True)
        losses = {name: part.loss for name, part in parts.items()}
        whole = jax.vmap(lambda x: all_whole(water.sampling.topology, water.box, x))(chains.positions)
        report: dict[str, Any] = {
            "loss": sum(losses.values()),
            **losses,
            "norms": dict(zip(parts, norms, strict=True)),
            "noises": dict(zip(parts, noises, strict=True)),
            "whole": jnp.mean(whole.astype(chains.positions.dtype)),
        }
        if len(parts) == 2:
            report["cosine"] = cosine(*gradients)
        if memory is not None:
            report["forgetting"] = memory.loss(surface)
        if watch is not None:
            report["watched"] = watch.after(water, surface, frames, starts, carry.kept.done)
        back = lambda now, then: jnp.where(whole.reshape(-1, *[1] * (now.ndim - 1)), now, then)
        mean = jax.tree.map(lambda m, x: m + (x - m) / config.average, carry.mean, arrays(surface))
        carry = Carry(jax.tree.map(back, chains, whole_chains), mean, carry.kept.after(mean), known)
        return rv.linearize(report["loss"], unravel(away), model), (carry, report)

    schedule = optax.cosine_decay_schedule(config.rate, config.updates, config.final_rate)
    optimizer = optax.adam(schedule, b1=config.momentum) if adam else optax.sgd(schedule)
    files = _refine.Files(folder.checkpoint, folder / "history.jsonl", folder.changed)
    carry = Carry(chains, arrays(start), Kept.places(arrays(start), config.watch, config.updates), known)
    mesh, trainable = water.sampling.mesh, list(config.trainable) or None

    def descend(updates):
        until = dataclasses.replace(config, updates=updates)
        return _refine.descend(
            loss_fn, Updates(), until, mesh, optimizer, start, carry, key, files, trainable=trainable
        )

    try:
        return descend(config.updates)
    except rv.SimulationError as error:
        # again from what was kept, to see and show the atoms
        done = len(files.history.read_text().splitlines()) if files.checkpoint.exists() else 0
        surface, before = start, chains
        if done:
            kept = descend(done)
            surface, before = kept.model, kept.carry.chains
        seen = water.look(surface, before, jax.random.fold_in(key, done), folder / "blown_up.extxyz")
        raise rv.SimulationError(
            f"{error} {seen} The surface after {done} updates stays: --resume goes on from it, with --accept-changes at"
            " a smaller --rate."
        ) from None


def by_adam(
    config: Any, water: NeuralWater, aim: Aim, moves: PyTree, start: rv.EANN, chains: rv.State, memory: Memory | None
):
    """Nothing that is known, and what measures the targets of an update, by all parameters that move, and the sum of
    their gradients, flat, with that of what was forgotten."""
    del start, chains
    targets = config.targets.split(",")
    distances = aim.distances(water, targets)

    def step(surface, frames, starts, carry):
        del carry
        system = water.system(surface)
        parts = {name: spectrum_part(d, water, system, starts, config.gradient) for name, d in distances.items()}
        if "density" in targets:
            parts["density"] = pressure_part(aim, water, system, frames, config.trajectories)
        parts = {name: Part(p.loss, eqx.filter(p.by_chain, moves)) for name, p in parts.items()}
        away = jnp.sum(jnp.stack([size_and_noise(p.by_chain)[2] for p in parts.values()]), axis=0)
        if memory is not None:
            back = eqx.filter(eqx.filter_grad(memory.loss)(surface), moves)
            away = away + memory.weight * ravel_pytree(back)[0]
        return parts, away, None

    return None, step


def by_newton(
    config: Any, water: NeuralWater, aim: Aim, moves: PyTree, start: rv.EANN, chains: rv.State, memory: Memory | None
):
    """What is known before the first update, and what measures the targets of an update, along the combinations of
    parameters that change forces of the first chains most, and the step back from the next parameters, flat."""
    targets, nu = config.targets.split(","), water.low.wavenumbers
    distances = aim.distances(water, targets)
    two = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[:2]), chains)
    parts = water.motions if config.combinations == "motions" else None
    found, relative = principal(start, moves, two, config.directions, parts)
    directions, expected = (jnp.asarray(x, two.positions.dtype) for x in (found, config.expected * relative))
    count, n = len(directions), config.trajectories
    trained = lambda model: ravel_pytree(eqx.filter(eqx.filter(model, eqx.is_inexact_array), moves))
    first, unravel = trained(start)
    inverse = jnp.asarray(np.linalg.pinv(np.asarray(directions, float)), directions.dtype)
    along = lambda gradient: directions @ ravel_pytree(eqx.filter(gradient, moves))[0]
    numbers = {name: int(np.size(distance.target)) for name, distance in distances.items()}
    numbers |= {"density": 1} if "density" in targets else {}
    resolved = np.pi / (rv.units.WAVENUMBER * water.grids.correlation)  # 1/cm
    independent = min(1.0, water.grids.spacing / resolved)

    def evidence(known, done):
        for name, residuals in known.told.items():
            if name == "ir":
                yield residuals.evidence(blurred(nu, config.blur * FALLS**done), blurred(nu, 200.0), independent)
            else:
                yield residuals.evidence(lambda x: x, lambda x: x, 1.0)

    def step(surface, frames, starts, carry):
        done, so_far = carry.kept.done, (trained(surface)[0] - first) @ inverse
        moved = lambda amounts: eqx.apply_updates(surface, unravel(amounts @ directions))
        found = {}
        if distances:
            # the last of every chain are the starts
            apart = config.frames // config.starts
            by_frame = np.arange(len(frames)).reshape(-1, n)
            others = frames[by_frame[apart - 1 : -1 : apart].ravel()] if config.starts > 1 else None
            found |= trajectories_along(distances, water, moved, starts, count, config.gradient, others)
        if "density" in targets:
            found["density"] = pressure_along(aim, water, water.system(surface), frames, n, along)
        known = carry.known.after(found, so_far)
        told = list(evidence(known, done))
        if memory is not None:
            errors = memory.errors
            off, by_amounts = tangents(lambda amounts: errors(moved(amounts)), count, directions.dtype)
            unit = jnp.sqrt(memory.weight / off.size) / FORGOTTEN
            told.append(Evidence.exactly(unit * off, unit * by_amounts))
        away = -known.step(told, config.longest) @ directions
        return {name: residuals.part for name, residuals in found.items()}, away, known

    return Known.nothing(expected, numbers, n), step


def moving(names: tuple[str, ...], surface: PyTree) -> PyTree:
    """Whether each array of a surface is of these names, as `rv.fit` knows them; all are, where there are no names."""
    if not names:
        return jax.tree.map(lambda x: True, surface)
    steps = rv.per_parameter(optax.scale, [(name, 1.0) for name in names])
    ones = jax.tree.map(lambda x: jnp.ones((), x.dtype), surface)
    return jax.tree.map(bool, steps.update(ones, steps.init(ones))[0])


class Updates:
    """What is told of the updates."""

    def lines(self, history: Any) -> list[dict[str, Any]]:
        return [without_blanks(line) for line in _refine.lines_of(history)]

    def show(self, line: dict[str, Any]) -> str:
        return ", ".join(f"{name} {line[name]:.3g}" for name in ("loss", "ir", "density", "diffusion") if name in line)

    def check(self, state: rv.FitState) -> None:
        whole = float(state.history["whole"][-1])
        if whole <= 0.5:
            raise rv.SimulationError(
                f"In update {state.step} of the fit, molecules came apart in {1 - whole:.0%} of the chains: a hydrogen"
                " is farther than 0.15 nm from its oxygen. Wanted liquid water: a smaller --rate, a shorter --interval,"
                " or a surface trained on more labels."
            )
