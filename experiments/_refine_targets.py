"""What `water_refine` descends along: spectrum and pressure, how far they are off, and what every chain contributes to
their derivatives."""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

import reverlet as rv

from ._neural_water import NeuralWater
from ._water import spectra_of

EDGE = 1000.0
"""1/cm: below it wavenumbers weigh more."""
NEAR = 0.8
"""After a step so long, in units of what is expected of the first combination, what was known before counts less."""
KEPT = 0.9
"""By this what is known counts less from update to update, however near they are: chains lag behind the surface."""
TOLERATED = 0.03
"""Deviations that would add up to a loss of which this is the root count as one standard error of each number: what is
fitted cannot make all of them vanish together."""


class Part(eqx.Module):
    """A loss, and what each chain contributes to its gradient: leaves lead with `chains`, sums over them are the
    gradient."""

    loss: Float[Array, ""]
    by_chain: PyTree


class Residuals(eqx.Module):
    """How far every chain is from the target, in numbers whose squares add up to a loss, and the derivatives by what is
    fitted."""

    values: Float[Array, "chains k"]
    slopes: Float[Array, "directions chains k"]

    @property
    def part(self) -> Part:
        """Their loss and its gradient: products of different chains alone, whose noise is independent."""
        n = len(self.values)
        others = (jnp.sum(self.values, axis=0) - self.values) / (n - 1)
        by_chain = 2 / n * jnp.einsum("ik,dik->id", others, self.slopes)
        return Part(jnp.mean(jnp.sum(self.values * others, axis=1)), by_chain)

    def after(self, away: Float[Array, " directions"]) -> "Residuals":
        """What they are, as far as the derivatives tell, where amounts have changed."""
        return Residuals(self.values + jnp.einsum("d,dnk->nk", away, self.slopes), self.slopes)

    def evidence(
        self, blur: Callable[[Array], Array], smooth: Callable[[Array], Array], independent: float
    ) -> "Evidence":
        """What these numbers tell of the amounts. Numbers are blurred and in units of the noise of their means, which
        is known smoothly, and of what is tolerated; they are worth as many that are `independent` as this part of
        them."""
        values, slopes = blur(self.values), blur(self.slopes)
        n, k = values.shape
        variance = smooth(jnp.var(values, axis=0, ddof=1)) / n
        # a noise from so few chains may be far too small
        weight = independent / (variance + 0.3 * jnp.mean(variance) + TOLERATED**2 / k)
        # products of the values and slopes of every chain with those of the others
        weighted, total, value = weight * slopes, jnp.sum(slopes, axis=1), jnp.sum(values, axis=0)
        own = jnp.einsum("dnk,nk->dn", weighted, values)
        all_products = (weight * total) @ value - jnp.sum(own, axis=1)
        curvature = (weight * total) @ total.T - jnp.einsum("dnk,enk->de", weighted, slopes)
        # without one chain after the other: the scatter is the noise of the slope (of two chains nothing is left)
        with_it = weighted @ value + jnp.einsum("dk,nk->dn", weight * total, values) - 2 * own
        without = (all_products[:, None] - with_it) / ((n - 1) * max(n - 2, 1))
        scatter = without - jnp.mean(without, axis=1, keepdims=True)
        pairs = n * (n - 1)
        return Evidence(all_products / pairs, curvature / pairs, (n - 1) / n * scatter @ scatter.T)


class Evidence(eqx.Module):
    """Half the `slope` and half the `curvature` of a sum of squares by the amounts that are fitted, and the covariance
    of the slope that is its `noise`."""

    slope: Float[Array, " d"]
    curvature: Float[Array, "d d"]
    noise: Float[Array, "d d"]

    @staticmethod
    def exactly(values: Float[Array, " k"], slopes: Float[Array, "d k"]) -> "Evidence":
        """What numbers in units of their errors tell, which are those of a measurement."""
        curvature = slopes @ slopes.T
        return Evidence(slopes @ values, curvature, curvature)


@dataclasses.dataclass(frozen=True)
class Aim:
    """What the liquid shall be.

    **Arguments:** the cut `spectrum` (1/cm) at the wavenumbers of the loss, how much more those below 1000 1/cm weigh
    (`low_weight`), the `pressure` (bar) at this volume and the `pressure_scale` (bar), off by which counts as much as a
    spectrum off by all of its intensity; where it is fitted, the same of the `diffusion` coefficient (nm²/ps), by a
    velocity correlation that ends where trajectories do.
    """

    spectrum: np.ndarray
    low_weight: float
    pressure: float
    pressure_scale: float
    diffusion: float | None = None
    diffusion_scale: float = 1.0

    def distances(self, water: NeuralWater, targets: Sequence[str]) -> dict[str, rv.SquaredDistance]:
        """Of those targets that are measured along trajectories, by name."""
        found = {"ir": self.distance(water)} if "ir" in targets else {}
        if self.diffusion is not None:
            like = water.low.wavenumbers.dtype
            goal, scale = (jnp.asarray(x, like) for x in (self.diffusion, self.diffusion_scale))
            found["diffusion"] = rv.SquaredDistance(rv.SelfDiffusion(), goal, scale)
        return found

    def distance(self, water: NeuralWater) -> rv.SquaredDistance:
        """Σ w (I - I*)² / Σ w I*², without the bias of noise."""
        root, like = self._roots(np.asarray(water.low.wavenumbers)), water.low.wavenumbers.dtype
        scale = np.sqrt(np.sum((root * self.spectrum) ** 2)) / root
        return rv.SquaredDistance(water.low, jnp.asarray(self.spectrum, like), jnp.asarray(scale, like))

    def losses(self, arrays: dict[str, np.ndarray]) -> dict[str, float]:
        """All losses of an evaluation, as they would be of many samples: without the bias of noise."""
        root = self._roots(arrays["wavenumbers"])
        spectra = root * (arrays["low"].astype(float).mean(0) - self.spectrum)
        pressures = (arrays["pressure"].astype(float).mean(0) - self.pressure) / self.pressure_scale
        size = np.sum((root * self.spectrum) ** 2)
        found = {"ir": float(_products(spectra) / size), "density": float(_products(pressures[:, None]))}
        if self.diffusion is not None:
            off = (arrays["diffusion_cut"].astype(float).mean(0) - self.diffusion) / self.diffusion_scale
            found["diffusion"] = float(_products(off[:, None]))
        return found

    def _roots(self, wavenumbers):
        return np.where(wavenumbers < EDGE, np.sqrt(self.low_weight), 1.0)


def _products(rows: np.ndarray) -> float:
    """The mean product of different rows."""
    n = len(rows)
    return float((np.sum(rows.sum(0) ** 2) - np.sum(rows**2)) / (n * (n - 1)))


def spectrum_part(
    distance: rv.SquaredDistance, water: NeuralWater, system: rv.System, starts: rv.Samples, gradient: str
) -> Part:
    """Of what is measured along trajectories from one sample of every chain; `gradient`, total or dynamical."""
    estimate, found = rv.expectation_gradients(distance, system, starts, dynamics=water.short, keep_samples=True)
    dynamical, thermodynamic = _of_samples(found)
    by_chain = jax.tree.map(jnp.add, dynamical, thermodynamic) if gradient == "total" else dynamical
    return Part(estimate.value, by_chain)


def pressure_part(aim: Aim, water: NeuralWater, system: rv.System, frames: rv.Samples, chains: int) -> Part:
    """Of the pressure of several samples of every chain, by reweighting: products of different chains alone."""
    away, slopes = _pressures(aim, water, system, frames, chains)
    factor = 2 / chains * (jnp.sum(away) - away) / (chains - 1)
    by_chain = jax.tree.map(lambda s: factor.reshape(-1, *[1] * (s.ndim - 1)) * s, slopes)
    return Part(jnp.sum(factor * away) / 2, by_chain)


def pressure_along(
    aim: Aim, water: NeuralWater, system: rv.System, frames: rv.Samples, chains: int, along: Callable[[PyTree], Array]
) -> Residuals:
    """Of the pressure of several samples of every chain, by reweighting; `along` takes a gradient by the potential and
    tells the derivatives by amounts."""
    away, slopes = _pressures(aim, water, system, frames, chains)
    return Residuals(away[:, None], jax.vmap(along)(slopes).T[..., None])


def _pressures(aim, water, system, frames, chains):
    """How far every chain is off, as a part of the scale, and its gradients by the potential."""
    estimate, found = rv.expectation_gradients(water.pressure, system, frames, keep_samples=True)
    unit = rv.units.BAR * aim.pressure_scale
    of_chains = lambda x: x.reshape(-1, chains, *x.shape[1:])
    # samples contribute to the gradient of the mean over all
    slope = lambda a, b: jnp.sum(of_chains(a + b), axis=0) * (chains / unit)
    away = (jnp.mean(of_chains(estimate.records[:, 0]), axis=0) / rv.units.BAR - aim.pressure) / aim.pressure_scale
    return away, jax.tree.map(slope, *_of_samples(found))


def trajectories_along(
    distances: dict[str, rv.SquaredDistance],
    water: NeuralWater,
    moved: Callable,
    starts: rv.Samples,
    count: int,
    gradient: str,
    others: rv.Samples | None = None,
) -> dict[str, Residuals]:
    """Of what is measured along the same trajectories, by the amounts `moved` takes of `count` directions: a tangent of
    all trajectories for each. Trajectories from `others`, more samples of all chains, one after another, have no
    tangents and cost little; values are means over them as well."""
    joint, short = rv.Joint(tuple(d.observable for d in distances.values())), water.short
    forward = dataclasses.replace(short, adjoint=rv.ForwardMode())

    def measured(system, samples, dynamics):
        run = dynamics.run_many(system, samples.states, joint.record)
        times, pairs = jnp.asarray(run.times), zip(joint.observables, run.records, strict=True)
        return [spectra_of(o, times, r, water.ensemble).reshape(len(samples), -1) for o, r in pairs]

    def of_amounts(amounts):
        system = water.system(moved(amounts))
        energies = jax.vmap(lambda s: system.potential.energy(s.positions, s.box))(starts.states)
        return measured(system, starts, forward), energies

    (values, _), (slopes, energies) = tangents(of_amounts, count, starts.states.positions.dtype)
    means = values
    if others is not None:
        system = water.system(moved(jnp.zeros(count, starts.states.positions.dtype)))
        more = measured(system, others, short)
        means = [jnp.mean(jnp.concatenate([v, m]).reshape(-1, *v.shape), axis=0)
                 for v, m in zip(values, more, strict=True)]  # fmt: skip
    found = {}
    for (name, distance), value, mean, slope in zip(distances.items(), values, means, slopes, strict=True):
        by_amounts = _reweighted(value, slope, energies, water) if gradient == "total" else slope
        found[name] = Residuals((mean - distance.target) / distance.scale, by_amounts / distance.scale)
    return found


def tangents(function: Callable, count: int, dtype) -> tuple[PyTree, PyTree]:
    """A function of `count` amounts where they are zero, and its derivatives, whose leaves lead with the amounts."""
    one = lambda direction: jax.jvp(function, (jnp.zeros(count, dtype),), (direction,))
    return jax.vmap(one, out_axes=(None, 0))(jnp.eye(count, dtype=dtype))


def _reweighted(values, slopes, energies, water):
    """With the covariance of values `samples k` and the slopes of energies (kJ/mol), through the weights."""
    away = lambda x, axis: x - jnp.mean(x, axis=axis, keepdims=True)
    return slopes - away(values, 0) * away(energies, 1)[..., None] / (rv.units.BOLTZMANN * water.sampling.temperature)


def _of_samples(found: rv.Gradients) -> tuple[PyTree, PyTree]:
    """What every sample contributes to both parts, by the parameters of the potential."""
    dynamical, thermodynamic = found.dynamical_samples, found.thermodynamic_samples
    assert dynamical is not None
    assert thermodynamic is not None
    return dynamical.potential, thermodynamic.potential


def size_and_noise(by_chain: PyTree) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " parameters"]]:
    """The norm of a gradient, that of its noise as the scatter between chains tells it, and the gradient, flat."""
    rows = jax.vmap(lambda tree: ravel_pytree(tree)[0])(by_chain)
    n = len(rows)
    gradient = jnp.sum(rows, axis=0)
    noise = jnp.sqrt(n / (n - 1) * jnp.sum((rows - jnp.mean(rows, axis=0)) ** 2))
    return jnp.linalg.norm(gradient), noise, gradient


def principal(
    surface: rv.EANN, moves: PyTree, states: rv.State, count: int, parts: Callable | None = None
) -> tuple[Float[np.ndarray, "count parameters"], Float[np.ndarray, " count"]]:
    """The combinations of the parameters that `moves` picks which change the forces of the states most; or what
    `parts` makes of positions and forces, several arrays that count the same, each relative to its own size.

    **Returns:** one of them in each row, by the size of the change: each row changes forces by as much as they are, as
    root mean squares (with `parts`, of the relative changes of all parts), and different rows change different ones;
    and how far the amount of each is expected to be off,
    in units of the first: as the root of what they change.
    """
    arrays, static = eqx.partition(surface, eqx.is_inexact_array)
    trained, others = eqx.partition(arrays, moves)
    flat, unravel = ravel_pytree(trained)

    def seen(flat, state):
        potential = eqx.combine(unravel(flat), others, static)
        forces = -jax.grad(lambda x: potential.energy(x, state.box))(state.positions)
        return [forces] if parts is None else parts(state.positions, forces)

    @jax.jit
    def values_and_slopes(state):
        found, pull = jax.vjp(lambda flat: ravel_pytree(seen(flat, state))[0], flat)
        return found, jax.lax.map(lambda row: pull(row)[0], jnp.eye(len(found), dtype=found.dtype), batch_size=16)

    rows = [values_and_slopes(jax.tree.map(lambda x, k=k: x[k], states)) for k in range(len(states.positions))]
    values, slopes = (np.stack([np.asarray(x[i], float) for x in rows]) for i in range(2))
    shapes = eqx.filter_eval_shape(seen, flat, jax.tree.map(lambda x: x[0], states))
    part = np.repeat(np.arange(len(shapes)), [x.size for x in shapes])
    sizes = np.sqrt(np.stack([np.sum(values[:, part == k] ** 2) for k in range(len(shapes))]))
    slopes = (slopes / (sizes * np.sqrt(len(sizes)))[part][:, None]).reshape(-1, flat.size)
    squares, left = np.linalg.eigh(slopes @ slopes.T)
    # parameters of one kind of atom, its offset, change no force
    best = np.argsort(squares)[::-1][: min(count, flat.size)]
    return (left[:, best] / squares[best]).T @ slopes, (squares[best] / squares[best[0]]) ** 0.25


class Known(eqx.Module):
    """What updates have told. Each is noisy, and what those near by told is as good: so these are means over them, of
    values and derivatives of every chain, the values as the derivatives say they would be at the latest amounts.

    **Arguments:** `told`, for each target; as many `updates` as this counts; `amounts`, which were `expected` to be
    about so large, the start being zero.
    """

    told: dict[str, Residuals]
    updates: Float[Array, ""]
    amounts: Float[Array, " d"]
    expected: Float[Array, " d"]

    @staticmethod
    def nothing(expected: Float[Array, " d"], numbers: dict[str, int], chains: int) -> "Known":
        """Before the first update, of targets with so many numbers."""
        zeros = lambda *shape: jnp.zeros(shape, expected.dtype)
        d = len(expected)
        told = {name: Residuals(zeros(chains, k), zeros(d, chains, k)) for name, k in numbers.items()}
        return Known(told, zeros(), zeros(d), expected)

    def after(self, told: dict[str, Residuals], amounts: Float[Array, " d"]) -> "Known":
        """With what another update told at its amounts: what was known before counts less, the more the surface has
        moved since."""
        away = amounts - self.amounts
        before = KEPT * jnp.exp(-0.5 * jnp.sum(away**2) / (NEAR * self.expected[0]) ** 2) * self.updates
        mean = lambda then, now: (before * then + now) / (before + 1)
        known = {name: jax.tree.map(mean, self.told[name].after(away), now) for name, now in told.items()}
        return Known(known, before + 1, amounts, self.expected)

    def step(self, evidence: Sequence[Evidence], longest: float) -> Float[Array, " d"]:
        """To the amounts that this evidence at the latest ones makes most likely; at most `longest` together."""
        one = jnp.eye(len(self.expected), dtype=self.expected.dtype)
        curvature = _not_negative(self._by_expected(sum((e.curvature for e in evidence), 0 * one)))
        noise = self._by_expected(sum((e.noise for e in evidence), 0 * one))
        # a slope is worth what its noise leaves of it
        worth = jnp.linalg.solve(noise + curvature + one, curvature).T
        slope = self.expected * sum((e.slope for e in evidence), 0 * self.expected)
        slope = worth @ slope + self.amounts / self.expected
        step = -self.expected * jnp.linalg.solve(one + worth @ curvature, slope)
        return step * jnp.minimum(1, longest / jnp.maximum(jnp.linalg.norm(step), 1e-30))

    def _by_expected(self, matrix):
        return self.expected[:, None] * matrix * self.expected


def _not_negative(matrix):
    """Without what noise made negative."""
    squares, axes = jnp.linalg.eigh(matrix)
    return (axes * jnp.maximum(squares, 0)) @ axes.T


def blurred(wavenumbers: Float[Array, " k"], width: Float[Array, ""] | float) -> Callable[[Array], Array]:
    """Means over neighbors along the last axis, in a Gaussian of this width (1/cm), which a spectrum below zero
    mirrors: so broad that a band and where it shall be overlap, deviations tell where it has to go."""
    gaussian = lambda x: jnp.exp(-0.5 * (x / jnp.maximum(width, 1e-3)) ** 2)
    nu = jnp.asarray(wavenumbers)
    kernel = gaussian(nu[:, None] - nu) + gaussian(nu[:, None] + nu)
    kernel = kernel / jnp.sum(kernel, axis=1, keepdims=True)
    return lambda x: x @ kernel.T


def cosine(a: Float[Array, " parameters"], b: Float[Array, " parameters"]) -> Float[Array, ""]:
    """Of the angle between two gradients."""
    return jnp.sum(a * b) / jnp.maximum(jnp.linalg.norm(a) * jnp.linalg.norm(b), jnp.finfo(a.dtype).tiny)
