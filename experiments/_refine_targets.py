"""What `water_refine` descends along: the losses of spectrum and pressure, and what every chain contributes to their
gradients."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

import reverlet as rv

from ._neural_water import NeuralWater

EDGE = 1000.0
"""1/cm: below it wavenumbers weigh more."""
BANDS = (0.0, EDGE, 2500.0, np.inf)
"""1/cm: where intermolecular vibrations and librations, the bend and the stretch begin, and end."""


class Part(eqx.Module):
    """Losses, and what each chain contributes to their gradients: leaves lead with `losses chains`, sums over chains
    are the gradients."""

    loss: Float[Array, " losses"]
    by_chain: PyTree


@dataclasses.dataclass(frozen=True)
class Aim:
    """What the liquid shall be.

    **Arguments:** the cut `spectrum` (1/cm) at the wavenumbers of the loss, how much more those below 1000 1/cm weigh
    (`low_weight`), the `pressure` (bar) at this volume and the `pressure_scale` (bar), off by which counts as much as a
    spectrum off by all of its intensity.
    """

    spectrum: np.ndarray
    low_weight: float
    pressure: float
    pressure_scale: float

    def distance(self, water: NeuralWater) -> rv.SquaredDistance:
        """Σ w (I - I*)² / Σ w I*², without the bias of noise."""
        root, like = self._roots(np.asarray(water.low.wavenumbers)), water.low.wavenumbers.dtype
        scale = np.sqrt(np.sum((root * self.spectrum) ** 2)) / root
        return rv.SquaredDistance(water.low, jnp.asarray(self.spectrum, like), jnp.asarray(scale, like))

    def bands(self, distance: rv.SquaredDistance, wavenumbers: Float[Array, " k"]) -> Float[Array, "bands k"]:
        """What scales the deviations of every band in its part of the distance: those of others count nothing.

        One loss of the whole spectrum has one gradient, that of the band which is furthest off.
        """
        within = [(wavenumbers >= low) & (wavenumbers < high) for low, high in itertools.pairwise(BANDS)]
        return jnp.where(jnp.stack(within), distance.scale, 1e12 * distance.scale)

    def losses(self, arrays: dict[str, np.ndarray]) -> dict[str, float]:
        """Both losses of an evaluation, as they would be of many samples: without the bias of noise."""
        root = self._roots(arrays["wavenumbers"])
        spectra = root * (arrays["low"].astype(float).mean(0) - self.spectrum)
        pressures = (arrays["pressure"].astype(float).mean(0) - self.pressure) / self.pressure_scale
        size = np.sum((root * self.spectrum) ** 2)
        return {"ir": float(_products(spectra) / size), "density": float(_products(pressures[:, None]))}

    def _roots(self, wavenumbers):
        return np.where(wavenumbers < EDGE, np.sqrt(self.low_weight), 1.0)


def _products(rows: np.ndarray) -> float:
    """The mean product of different rows."""
    n = len(rows)
    return float((np.sum(rows.sum(0) ** 2) - np.sum(rows**2)) / (n * (n - 1)))


def spectrum_part(
    distance: rv.SquaredDistance,
    scales: Float[Array, "losses k"],
    water: NeuralWater,
    system: rv.System,
    starts: rv.Samples,
    gradient: str,
) -> Part:
    """Of the spectrum, for each of the scales of its deviations a loss, along trajectories from one sample of every
    chain; `gradient`, total or dynamical."""

    def of_band(scale):
        band = eqx.tree_at(lambda d: d.scale, distance, scale)
        estimate, found = rv.expectation_gradients(band, system, starts, dynamics=water.short, keep_samples=True)
        dynamical, thermodynamic = _of_samples(found)
        by_chain = jax.tree.map(jnp.add, dynamical, thermodynamic) if gradient == "total" else dynamical
        return Part(estimate.value, by_chain)

    return jax.vmap(of_band)(scales)


def pressure_part(aim: Aim, water: NeuralWater, system: rv.System, frames: rv.Samples, chains: int) -> Part:
    """Of the pressure of several samples of every chain, by reweighting: products of different chains alone, whose
    noise is independent."""
    estimate, found = rv.expectation_gradients(water.pressure, system, frames, keep_samples=True)
    of_chains = lambda x: x.reshape(-1, chains, *x.shape[1:])
    add = lambda a, b: jnp.sum(of_chains(a + b), axis=0)
    slopes = jax.tree.map(add, *_of_samples(found))
    away = (jnp.mean(of_chains(estimate.records[:, 0]), axis=0) / rv.units.BAR - aim.pressure) / aim.pressure_scale
    others = (jnp.sum(away) - away) / (chains - 1)
    factor = 2 * others / (rv.units.BAR * aim.pressure_scale)
    by_chain = jax.tree.map(lambda s: factor.reshape(-1, *[1] * (s.ndim - 1)) * s, slopes)
    return jax.tree.map(lambda x: x[None], Part(jnp.mean(away * others), by_chain))


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


def smallest_step(
    losses: Float[Array, " losses"], gradients: Float[Array, "losses parameters"]
) -> Float[Array, " parameters"]:
    """The smallest change of the parameters that, to first order, takes every loss to zero: with r = √loss as residuals
    and J their gradients, -J⁺r, the step of Gauss and Newton where there are fewer residuals than parameters. A loss
    that noise makes negative has no say.

    The noise of a gradient shortens the step: it adds to the size of J, and not to what the step does.
    """
    residuals = jnp.sqrt(jnp.maximum(losses, 0))
    half = jnp.where(residuals > 0, 0.5 / jnp.where(residuals > 0, residuals, 1), 0)
    return jnp.linalg.lstsq(half[:, None] * gradients, -residuals)[0]


def cosine(a: Float[Array, " parameters"], b: Float[Array, " parameters"]) -> Float[Array, ""]:
    """Of the angle between two gradients."""
    return jnp.sum(a * b) / jnp.maximum(jnp.linalg.norm(a) * jnp.linalg.norm(b), jnp.finfo(a.dtype).tiny)
