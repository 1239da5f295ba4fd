"""What can be learned from a spectrum: `python docs/measurements/identifiability.py`.

Of a neural surface of water, for every band of the cut infrared spectrum, for the diffusion coefficient (its velocity
correlation cut alike) and for the pressure, the gradient by all parameters. Prints

- the signal: by how many of the errors of experiment a number moves when every parameter is off by one percent of the
  root mean square of its array, at random; all parameters, and each group of them alone. The noise of the gradients is
  taken out of the squares; a dash is a signal that is below it;
- the cosines between the gradients of different numbers, in these units;
- how many directions of the space of parameters the numbers tell apart: singular values of the matrix of signals.

Spectrum and diffusion by the gradient through the trajectories alone, as in the fit; the pressure by reweighting.
"""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import reverlet as rv

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments._chains import Chains
from experiments._neural_water import Grids, NeuralWater, load_moment, load_surface
from experiments._water import cutoff_in, packed

BANDS = {"0-300": (0, 300), "300-1000": (300, 1000), "bend": (1200, 2000), "stretch, low": (2900, 3400),
         "stretch, high": (3400, 4000)}  # fmt: skip
ERRORS = {"spectrum": 0.1, "diffusion": 0.02, "pressure": 200.0}
"""Relative, of the spectrum what experiments differ by; and bar, of a density known to 1 %."""
GROUPS = {"embedding": ("amplitudes", "widths", "shifts"), "first layer": ("layers[0]",),
          "second layer": ("layers[1]",), "last": ("last",)}  # fmt: skip
WATERS, CHAINS, ROUNDS, FRAMES = 32, 8, 2, 24


class Band(rv.AbstractObservable):
    """The mean intensity of a spectrum where `weights` say."""

    spectrum: rv.InfraredSpectrum
    weights: jax.Array

    def record(self, system, state, initial):
        return self.spectrum.record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        return jnp.sum(self.weights * self.spectrum.reduce(times, records, weights, ensemble))


@eqx.filter_jit
def along(observable, water, surface, starts):
    """Value, and what each trajectory contributes to the gradient."""
    estimate, found = rv.expectation_gradients(
        observable, water.system(surface), starts, dynamics=water.short, keep_samples=True
    )
    return estimate.value, jax.vmap(lambda tree: ravel_pytree(tree)[0])(found.dynamical_samples.potential)


@eqx.filter_jit
def pressures(water, surface, frames):
    """The mean pressure (bar), and what each chain contributes to its gradient."""
    estimate, found = rv.expectation_gradients(rv.Pressure(), water.system(surface), frames, keep_samples=True)
    parts = jax.tree.map(jnp.add, found.dynamical_samples.potential, found.thermodynamic_samples.potential)
    rows = jax.vmap(lambda tree: ravel_pytree(tree)[0])(parts)
    return estimate.value / rv.units.BAR, rows.reshape(-1, CHAINS, rows.shape[1]).sum(0) / rv.units.BAR


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 5)
    state = packed(WATERS, 0.997, keys[0])
    topology = rv.qspcfw(WATERS, state.box).topology
    surface = load_surface(None, topology, None)
    sampling = Chains(topology, 298.15, 5.0, 0.0005, 0.3)
    moment = load_moment(None, None, topology, state.positions)
    water = NeuralWater(sampling, state.box, moment, Grids(4, 4500.0, 10.0, 0.1, 0.5, FRAMES))
    classical = rv.qspcfw(WATERS, state.box, cutoff=cutoff_in(state.box)).potential
    chains = sampling.with_new_velocities(state.repeat(CHAINS), keys[1])
    chains = sampling.equilibrate(classical, chains, 6.0, keys[2], "classical")
    chains = sampling.equilibrate(surface, chains, 1.2, keys[3], "the surface")

    nu = np.asarray(water.low.wavenumbers)
    inside = {name: (nu >= a) & (nu < b) for name, (a, b) in BANDS.items()}
    observables = {name: Band(water.low, jnp.asarray(m / m.sum(), water.low.wavenumbers.dtype))
                   for name, m in inside.items()}  # fmt: skip
    observables["diffusion"] = rv.SelfDiffusion()
    values, rows = {name: [] for name in (*observables, "pressure")}, {name: [] for name in (*observables, "pressure")}
    for round_ in range(ROUNDS):
        frames, starts, chains = water.draw(surface, chains, jax.random.fold_in(keys[4], round_))
        for name, observable in observables.items():
            value, found = along(observable, water, surface, starts)
            values[name].append(float(value))
            rows[name].append(np.asarray(found, float))
        value, found = pressures(water, surface, frames)
        values["pressure"].append(float(value))
        rows["pressure"].append(np.asarray(found, float))
        sys.stderr.write(f"round {round_ + 1} of {ROUNDS}\n")

    arrays = eqx.filter(surface, eqx.is_inexact_array)
    rms = lambda x: jnp.full_like(x, jnp.sqrt(jnp.mean(x**2)))
    scale = 0.01 * np.asarray(ravel_pytree(jax.tree.map(rms, arrays))[0], float)
    report(values, rows, scale, group_of(arrays))


def group_of(arrays) -> np.ndarray:
    """The group of every number, as an index; -1 of none."""

    def index(path, x):
        name = jax.tree_util.keystr(path)[1:]
        return np.full(x.shape, next((k for k, v in enumerate(GROUPS.values()) if name.startswith(v)), -1))

    return np.concatenate([x.ravel() for x in jax.tree.leaves(jax.tree_util.tree_map_with_path(index, arrays))])


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def report(values, rows, scale, groups) -> None:
    """The tables."""
    means, signals = {}, []
    for name, of_rounds in rows.items():
        # the contributions of a round add up to its gradient; those of a chain to the gradient of its rounds
        parts = len(of_rounds[0]) * np.mean(of_rounds, axis=0)
        value = float(np.mean(values[name]))
        error = ERRORS["pressure"] if name == "pressure" else abs(value) * ERRORS.get(name, ERRORS["spectrum"])
        signals.append(parts * scale / error)
        means[name] = value
    signals = np.stack(signals)  # (numbers, chains, parameters)
    n = signals.shape[1]
    mean, variance = signals.mean(1), signals.var(1, ddof=1) / n

    def told(square: float, noise: float) -> str:
        left = square - noise
        return f"{np.sqrt(left):.2g}" if left > noise / np.sqrt(n) else "-"

    say("| number | value | all parameters | " + " | ".join(GROUPS) + " |")
    say("|---" * (3 + len(GROUPS)) + "|")
    for k, name in enumerate(means):
        cells = [told(np.sum(mean[k] ** 2), np.sum(variance[k]))]
        for g in range(len(GROUPS)):
            own = groups == g
            cells.append(told(np.sum(mean[k][own] ** 2), np.sum(variance[k][own])))
        say(f"| {name} | {means[name]:.4g} | " + " | ".join(cells) + " |")
    size = np.array([np.sqrt(max(np.sum(m**2) - np.sum(v), 1e-30)) for m, v in zip(mean, variance, strict=True)])
    say("\nCosines, of products of different halves of the chains:\n")
    say("| | " + " | ".join(means) + " |")
    say("|---" * (1 + len(means)) + "|")
    halves = signals[:, : n // 2].mean(1), signals[:, n // 2 :].mean(1)
    gram = 0.5 * (halves[0] @ halves[1].T + halves[1] @ halves[0].T)
    for k, name in enumerate(means):
        cells = [
            f"{gram[k, j] / size[k] / size[j]:.2f}" if size[k] * size[j] > 1e-20 else "-" for j in range(len(means))
        ]
        say(f"| {name} | " + " | ".join(cells) + " |")
    found = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))
    say("\nSingular values of the signals: " + ", ".join(f"{x:.2g}" for x in found))
    say(f"Parameters: {len(scale)}; numbers: {len(means)}; directions with a signal above 1: {np.sum(found > 1)}")


if __name__ == "__main__":
    main()
