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
EXPECTED = 0.05
"""How far the combination of parameters that changes forces most is expected to be off, as the part of them that
changes; others less, as the root of what they change."""
NEAR = 0.04
"""Moved so far, as the part of the forces that changes, a surface is told less of by what was known before."""
KEPT = 0.9
"""By this what is known counts less from update to update, however near they are: chains lag behind the surface."""


class Part(eqx.Module):
    """A loss, and what each chain contributes to its gradient: leaves lead with `chains`, sums over them are the
    gradient."""

    loss: Float[Array, ""]
    by_chain: PyTree


class Residuals(eqx.Module):
    """How far every chain is from the target, in numbers whose squares add up to a loss, and the derivatives by what is
    fitted. `independent`: which part of these numbers would be as many that are independent."""

    values: Float[Array, "chains k"]
    slopes: Float[Array, "directions chains k"]
    independent: float

    @property
    def part(self) -> Part:
        """Their loss and its gradient: products of different chains alone, whose noise is independent."""
        n = len(self.values)
        others = (jnp.sum(self.values, axis=0) - self.values) / (n - 1)
        by_chain = 2 / n * jnp.einsum("ik,dik->id", others, self.slopes)
        return Part(jnp.mean(jnp.sum(self.values * others, axis=1)), by_chain)

    def evidence(
        self, blur: Callable[[Array], Array], smooth: Callable[[Array], Array], spread: Float[Array, "d d"]
    ) -> "Evidence":
        """What these numbers tell of the amounts, whose covariance so far is `spread`. Numbers are blurred and in units
        of the noise of their means, which is known smoothly; what slopes do not tell of amounts that are still off is
        noise as well."""
        values, slopes = blur(self.values), blur(self.slopes)
        n = len(values)
        still_off = jnp.einsum("de,dnk->enk", jnp.linalg.cholesky(spread), slopes)
        unknown = jnp.sum(jnp.var(still_off, axis=1, ddof=1), axis=0)
        variance = smooth((jnp.var(values, axis=0, ddof=1) + unknown) / n)
        # a noise from so few chains may be far too small
        weight = self.independent / (variance + 0.3 * jnp.mean(variance) + 1e-30)
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
    estimate, found = rv.expectation_gradients(water.pressure, system, frames, keep_samples=True)
    of_chains = lambda x: x.reshape(-1, chains, *x.shape[1:])
    add = lambda a, b: jnp.sum(of_chains(a + b), axis=0)
    slopes = jax.tree.map(add, *_of_samples(found))
    away = (jnp.mean(of_chains(estimate.records[:, 0]), axis=0) / rv.units.BAR - aim.pressure) / aim.pressure_scale
    others = (jnp.sum(away) - away) / (chains - 1)
    factor = 2 * others / (rv.units.BAR * aim.pressure_scale)
    by_chain = jax.tree.map(lambda s: factor.reshape(-1, *[1] * (s.ndim - 1)) * s, slopes)
    return Part(jnp.mean(away * others), by_chain)


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
        resolved = np.pi / (rv.units.WAVENUMBER * water.grids.correlation)  # 1/cm
        independent = min(1, water.grids.spacing / resolved) if name == "ir" else 1.0
        found[name] = Residuals((mean - distance.target) / distance.scale, by_amounts / distance.scale, independent)
    return found


def pressure_along(
    aim: Aim, water: NeuralWater, moved: Callable, frames: rv.Samples, chains: int, count: int
) -> Residuals:
    """Of the pressure of several samples of every chain, by reweighting."""
    joint, mesh = rv.Joint((water.pressure, rv.TotalEnergy())), water.sampling.mesh

    def measured(amounts):
        records = rv.expectation(joint, water.system(moved(amounts)), frames, batch=4, mesh=mesh).records
        return records[0][:, 0], records[1][:, 0]

    (pressures, _), (slopes, energies) = tangents(measured, count, frames.states.positions.dtype)
    slopes = _reweighted(pressures[:, None], slopes[..., None], energies, water)
    of_chains = lambda x: jnp.mean(x.reshape(*x.shape[:-1], -1, chains), axis=-2)[..., None]
    unit = rv.units.BAR * aim.pressure_scale
    values = (of_chains(pressures) / rv.units.BAR - aim.pressure) / aim.pressure_scale
    return Residuals(values, of_chains(slopes[..., 0]) / unit, 1.0)


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
    surface: rv.EANN, moves: PyTree, states: rv.State, count: int
) -> tuple[Float[np.ndarray, "count parameters"], Float[np.ndarray, " count"]]:
    """The combinations of the parameters that `moves` picks which change the forces of the states most.

    **Returns:** one of them in each row, by the size of the change: each row changes forces by as much as they are, as
    root mean squares, and different rows change different ones; and how far the amount of each is expected to be off:
    `EXPECTED` for the first, the others as the root of what they change.
    """
    arrays, static = eqx.partition(surface, eqx.is_inexact_array)
    trained, others = eqx.partition(arrays, moves)
    flat, unravel = ravel_pytree(trained)

    @jax.jit
    def forces_and_slopes(state):
        def forces(flat):
            potential = eqx.combine(unravel(flat), others, static)
            return -jax.grad(lambda x: potential.energy(x, state.box))(state.positions).ravel()

        found, pull = jax.vjp(forces, flat)
        return found, jax.lax.map(lambda row: pull(row)[0], jnp.eye(len(found), dtype=found.dtype), batch_size=16)

    rows = [forces_and_slopes(jax.tree.map(lambda x, k=k: x[k], states)) for k in range(len(states.positions))]
    forces, slopes = (np.concatenate([np.asarray(x[i], float) for x in rows]) for i in range(2))
    squares, left = np.linalg.eigh(slopes @ slopes.T)
    # parameters of one kind of atom, its offset, change no force
    best = np.argsort(squares)[::-1][: min(count, flat.size)]
    expected = EXPECTED * (squares[best] / squares[best[0]]) ** 0.25
    return np.linalg.norm(forces) * (left[:, best] / squares[best]).T @ slopes, expected


class Known(eqx.Module):
    """What updates have told of the sum of squares of all residuals at these `amounts`. Each is noisy, and what updates
    near by told is as good.

    **Arguments:** `evidence`, of all updates, each weighed by how near it was; `amounts`, which were `expected` to be
    about so large, the start being zero.
    """

    evidence: Evidence
    amounts: Float[Array, " d"]
    expected: Float[Array, " d"]

    @staticmethod
    def nothing(expected: Float[Array, " d"]) -> "Known":
        """Before the first update."""
        zeros = jnp.zeros((len(expected), len(expected)), expected.dtype)
        return Known(Evidence(zeros[0], zeros, zeros), zeros[0], expected)

    def after(self, evidence: Sequence[Evidence], amounts: Float[Array, " d"]) -> "Known":
        """With what another update told at its amounts: what was known before counts less, the more the surface has
        moved since."""
        away, before = amounts - self.amounts, self.evidence
        kept = KEPT * jnp.exp(-0.5 * jnp.sum(away**2) / NEAR**2)
        slope = kept * (before.slope + before.curvature @ away) + sum(t.slope for t in evidence)
        curvature = kept * before.curvature + sum(t.curvature for t in evidence)
        noise = kept**2 * before.noise + sum(t.noise for t in evidence)
        return Known(Evidence(slope, curvature, noise), amounts, self.expected)

    @property
    def spread(self) -> Float[Array, "d d"]:
        """The covariance of amounts at the minimum, were the curvature exact."""
        likely = jnp.linalg.inv(self._one + self._curvature())
        return self._by_expected(likely)

    def step(self, longest: float) -> Float[Array, " d"]:
        """To the most likely amounts; at most `longest` together."""
        one, curvature = self._one, self._curvature()
        # a slope is worth what its noise leaves of it
        worth = jnp.linalg.solve(self._by_expected(self.evidence.noise) + curvature + one, curvature).T
        slope = worth @ (self.expected * self.evidence.slope) + self.amounts / self.expected
        step = -self.expected * jnp.linalg.solve(one + worth @ curvature, slope)
        return step * jnp.minimum(1, longest / jnp.maximum(jnp.linalg.norm(step), 1e-30))

    @property
    def _one(self):
        return jnp.eye(len(self.expected), dtype=self.expected.dtype)

    def _curvature(self):
        """In units of what was expected, without what noise made negative."""
        squares, axes = jnp.linalg.eigh(self._by_expected(self.evidence.curvature))
        return (axes * jnp.maximum(squares, 0)) @ axes.T

    def _by_expected(self, matrix):
        return self.expected[:, None] * matrix * self.expected


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
