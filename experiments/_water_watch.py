"""What `water_refine` looks at while it fits, and fits nothing to: diffusion, structure, the dielectric constant, and
the forces that the surface was trained on."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import reverlet as rv

from ._measured_water import KNOWN
from ._neural_water import PAIRS, NeuralWater, load_surface
from ._validation_summary import DIFFUSION, at_infinite_size, peak
from .pretrain_water import LIQUID

PEAK = (0.25, 0.35)
"""nm, where the first peak of g_OO is looked for."""
INSIDE = {"OO": 0.2, "OH": 0.14, "HH": 0.14}
"""nm: up to here g(r) is that of bonds, or nothing."""
REMEMBERED = 4
"""Configurations of the labels whose forces are looked at."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Measures what is not fitted from the samples of an update: D by Green and Kubo along trajectories from them, g(r)
    and the dipoles' fluctuation from all frames of the interval, around zero, which their mean is.

    **Arguments:** `every`, so many updates; the `radii` of the liquid's g(r) (nm); what D is multiplied by for the size
    of the box, `correction`; `known`, g(r) of `OO`, `OH` and `HH` to compare with, or nothing.
    """

    every: int
    radii: np.ndarray
    correction: float
    known: dict[str, np.ndarray]

    def after(
        self, water: NeuralWater, potential: rv.AbstractPotential, frames: rv.Samples, starts: rv.Samples, done: Array
    ) -> dict[str, Any]:
        """Values and errors of every number where `done` updates and this one make it time to look; NaN otherwise."""
        look = lambda: self.measured(water, potential, frames, starts)
        blank = lambda: jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(look))
        return jax.lax.cond((done + 1) % self.every == 0, look, blank)

    def measured(
        self, water: NeuralWater, potential: rv.AbstractPotential, frames: rv.Samples, starts: rv.Samples
    ) -> dict[str, Any]:
        """Value and standard error, by leaving out one chain after the other, of every number: `diffusion` (1e-9 m²/s,
        corrected for the size of the box), `peak_OO` (Å) and `height_OO`, `rms_OO`, `rms_OH` and `rms_HH` where `known`
        has them, and `dielectric_constant`."""
        system, n, route = water.system(potential), len(starts), rv.SelfDiffusion()
        moment = rv.DielectricConstant(water.moment)
        along = rv.expectation(route, system, starts, dynamics=water.long)
        still = rv.expectation(rv.Joint((moment, *water.structure.values())), system, frames).records
        of_chains = lambda x: jnp.mean(x[:, 0].reshape(-1, n, *x.shape[2:]), axis=0)
        squares, *curves = of_chains(jnp.sum(still[0] ** 2, axis=-1)), *(of_chains(x) for x in still[1:])
        r = self.radii
        polarizability = 4 * jnp.pi * rv.units.COULOMB / (3 * water.ensemble.thermal_energy(squares))

        def numbers(weights):
            g = {name: weights @ curve for name, curve in zip(PAIRS, curves, strict=True)}
            position, height = first_peak(r, g["OO"])
            off = lambda name: jnp.sqrt(jnp.mean((g[name] - self.known[name])[r > INSIDE[name]] ** 2))
            return {
                "diffusion": DIFFUSION * self.correction * route.reduce(along.times, along.records, weights),
                "peak_OO": 10 * position,
                "height_OO": height,
                **{f"rms_{name}": off(name) for name in self.known},
                "dielectric_constant": 1 + polarizability * (weights @ squares),
            }

        of_all = numbers(jnp.full(n, 1 / n, squares.dtype))
        left = jax.vmap(numbers)((1 - jnp.eye(n, dtype=squares.dtype)) / (n - 1))
        error = lambda x: jnp.sqrt((n - 1) * jnp.var(x, axis=0))
        return {name: {"value": of_all[name], "error": error(left[name])} for name in of_all}


def first_peak(r: Float[np.ndarray, " radii"], g: Float[Array, " radii"]) -> tuple[Array, Array]:
    """Where g_OO is highest between 0.25 and 0.35 nm, by a parabola through three points, and how high the highest of
    these is."""
    inside = np.flatnonzero((r >= PEAK[0]) & (r <= PEAK[1]))
    k = inside[0] + jnp.argmax(g[inside])
    a, b, c = g[k - 1], g[k], g[k + 1]
    return jnp.asarray(r, g.dtype)[k] + 0.5 * (a - c) / (a - 2 * b + c) * (r[1] - r[0]), b


def size_correction(water: NeuralWater) -> float:
    """By which a diffusion coefficient in this box is to be multiplied."""
    length, known = float(water.box.volume) ** (1 / 3), KNOWN["diffusion"].experiment or 1.0
    return at_infinite_size(1.0, length, water.sampling.temperature, None, known)


def watch_of(
    every: int, water: NeuralWater, target: dict[str, np.ndarray], measured: dict[str, np.ndarray] | None
) -> Watch | None:
    """Compares with what was `measured`, or with the structure of the target where that has one."""
    r = np.asarray(water.structure["OO"].centers)
    known: dict[str, np.ndarray] = {}
    if measured is not None:
        known = {name: np.interp(r, measured["r"], measured[name]) for name in PAIRS}
    elif "g_OO" in target:
        known = {name: target[f"g_{name}"].astype(float).mean((0, 1)) for name in PAIRS}
    known = {name: g.astype(water.low.wavenumbers.dtype) for name, g in known.items()}
    return Watch(every, r, size_correction(water), known) if every else None


def wanted_of(water: NeuralWater, target: dict[str, np.ndarray]) -> dict[str, float]:
    """What the watched numbers are of the target, where it is known, or of experiment."""
    if "diffusion" not in target:
        names = ("diffusion", "peak_OO", "height_OO", "dielectric_constant")
        return {name: value for name in names if (value := KNOWN[name].experiment) is not None}
    r, g = target["r"], target["g_OO"].astype(float).mean((0, 1))
    return {
        "diffusion": DIFFUSION * size_correction(water) * float(target["diffusion"].mean()),
        "peak_OO": 10 * peak(r, g, *PEAK),
        "height_OO": float(np.max(g[(r >= PEAK[0]) & (r <= PEAK[1])])),
    }


def without_blanks(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the history without what was not looked at in its update; JSON has no NaN."""
    if "watched" not in line:
        return line
    numbers = {
        name: {k: x if math.isfinite(x) else None for k, x in of.items()} for name, of in line["watched"].items()
    }
    seen = any(of["value"] is not None for of in numbers.values())
    return {**line, "watched": numbers} if seen else {k: x for k, x in line.items() if k != "watched"}


class Memory(eqx.Module):
    """Forces of configurations that a surface was trained on.

    **Arguments:** `weight` of their mean squared error in the fit; `states`; their `forces` (kJ/mol/nm); `kinds`, of
    the atoms of these configurations, as a surface has them.
    """

    weight: float
    states: rv.State
    forces: Float[Array, "frames atoms 3"]
    kinds: Any

    def errors(self, surface: rv.EANN) -> Float[Array, " components"]:
        """How far every component of every force is off, over the root mean square of the forces."""
        potential = eqx.tree_at(lambda s: s.kinds, surface, self.kinds)
        found = jax.lax.map(lambda s: _forces(potential, s), self.states)
        return ((found - self.forces) / jnp.sqrt(jnp.mean(self.forces**2))).ravel()

    def loss(self, surface: rv.EANN) -> Float[Array, ""]:
        """The mean square of these."""
        return jnp.mean(self.errors(surface) ** 2)


def _forces(potential: rv.AbstractPotential, state: rv.State) -> Array:
    return -jax.grad(lambda x: potential.energy(x, state.box))(state.positions)


def memory_of(config: Any, start: rv.EANN) -> Memory | None:
    """Of some of the project's labels; for a surface from elsewhere, the forces that itself has there, since its own
    labels are not known. `None` where nothing forbids to forget."""
    if not config.forgetting:
        return None
    labels = rv.io.read_labels(LIQUID)
    some = labels[np.linspace(0, len(labels) - 1, REMEMBERED).astype(int)]
    assert some.forces is not None
    kinds, like = load_surface(config.potential, labels.topology, config.cutoff).kinds, start.widths.dtype
    states, forces = some.states(like), jnp.asarray(some.forces, like)
    if config.potential is not None:
        potential = eqx.tree_at(lambda s: s.kinds, start, kinds)
        forces = jax.jit(lambda all_states: jax.lax.map(lambda s: _forces(potential, s), all_states))(states)
    return Memory(config.forgetting, states, forces, kinds)
