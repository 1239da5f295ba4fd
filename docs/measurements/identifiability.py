"""What can be learned from a spectrum: `python docs/measurements/identifiability.py FOLDER`.

Of a neural surface of water, for every band of the cut infrared spectrum, for the diffusion coefficient (its velocity
correlation cut alike) and for the pressure, the gradient by all parameters. Prints

- the signal: by how many of the errors of experiment a number moves when every parameter is off by one percent of the
  root mean square of its array, at random; all parameters, and each group of them alone. The noise of the gradients is
  taken out of the squares; a dash is a signal that is below it;
- the cosines between the gradients of different numbers, in these units;
- how many directions of the space of parameters the numbers tell apart: eigenvalues of the Fisher information, which is
  the sum over the numbers of the products of their signals;
- the same along the twelve combinations of parameters that change forces most, where each is off by as much as makes
  forces off by one percent.

Spectrum and diffusion by the gradient through the trajectories alone, as in the fit; the pressure by reweighting.
Writes `identifiability.npz`, from which a second run tells the same without sampling, `identifiability.json` and
`identifiability.png` into the folder.
"""

import json
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.flatten_util import ravel_pytree

import reverlet as rv

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments._chains import Chains
from experiments._neural_water import Grids, NeuralWater, load_moment, load_surface
from experiments._refine_targets import principal
from experiments._water import cutoff_in, packed

BANDS = {"0-300": (0, 300), "300-1000": (300, 1000), "bend": (1200, 2000), "stretch, low": (2900, 3400),
         "stretch, high": (3400, 4000)}  # fmt: skip
ERRORS = {"spectrum": 0.1, "diffusion": 0.02, "pressure": 200.0}
"""Relative, of the spectrum what experiments differ by; and bar, of a density known to 1 %."""
GROUPS = {"embedding": ("amplitudes", "widths", "shifts"), "first layer": ("layers[0]",),
          "second layer": ("layers[1]",), "last": ("last",)}  # fmt: skip
WATERS, CHAINS, ROUNDS, FRAMES, DIRECTIONS = 32, 8, 1, 24, 12


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
    estimate, found = rv.expectation_gradients(water.pressure, water.system(surface), frames, keep_samples=True)
    parts = jax.tree.map(jnp.add, found.dynamical_samples.potential, found.thermodynamic_samples.potential)
    rows = jax.vmap(lambda tree: ravel_pytree(tree)[0])(parts)
    return estimate.value / rv.units.BAR, rows.reshape(-1, CHAINS, rows.shape[1]).sum(0) / rv.units.BAR


def main(folder: Path) -> None:
    file = folder / "identifiability.npz"
    if not file.exists():
        np.savez(file, **measured())
    report(folder, dict(np.load(file)))


def measured() -> dict[str, np.ndarray]:
    """Of every round, the values of the numbers and what each chain contributes to their gradients; besides, what one
    percent is of every parameter, its group, and the combinations that change forces by as much as they are."""
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
    return {
        "names": np.array(list(rows)),
        "values": np.array([np.mean(of_rounds) for of_rounds in values.values()]),
        # the contributions of a round add up to its gradient; those of a chain to the gradient of its rounds
        "rows": np.stack([CHAINS * np.mean(of_rounds, axis=0) for of_rounds in rows.values()]),
        "scale": 0.01 * np.asarray(ravel_pytree(jax.tree.map(rms, arrays))[0], float),
        "groups": group_of(arrays),
        "directions": principal(surface, jax.tree.map(lambda _: True, arrays),
                                jax.tree.map(lambda x: x[:2], chains), DIRECTIONS),
    }  # fmt: skip


def group_of(arrays) -> np.ndarray:
    """The group of every number, as an index; -1 of none."""

    def index(path, x):
        name = jax.tree_util.keystr(path)[1:]
        return np.full(x.shape, next((k for k, v in enumerate(GROUPS.values()) if name.startswith(v)), -1))

    return np.concatenate([x.ravel() for x in jax.tree.leaves(jax.tree_util.tree_map_with_path(index, arrays))])


def say(line: str = "") -> None:
    sys.stdout.write(line + "\n")


def size(signals: np.ndarray) -> tuple[float, float]:
    """How long the mean over chains of signals (chains, k) is, without what noise adds to its square, and its error."""
    n = len(signals)
    mean, variance = signals.mean(0), signals.var(0, ddof=1) / n
    square = np.sum(mean**2) - np.sum(variance)
    left = [np.sum(x.mean(0) ** 2) - np.sum(x.var(0, ddof=1)) / (n - 1)
            for x in (np.delete(signals, k, axis=0) for k in range(n))]  # fmt: skip
    error = np.sqrt((n - 1) / n * np.sum((np.array(left) - np.mean(left)) ** 2))
    found = np.sqrt(max(square, 0.0))
    return float(found), float(error / (2 * found) if found else np.sqrt(error))


def told(signals: np.ndarray) -> str:
    found, error = size(signals)
    return f"{found:.2g} ± {error:.1g}" if found > error else f"below {found + 2 * error:.1g}"


def information(signals: np.ndarray) -> np.ndarray:
    """Products of the signals (numbers, chains, k) of all pairs of numbers, of different chains alone."""
    n = signals.shape[1]
    total = signals.sum(1)
    return (total @ total.T - np.einsum("iak,jak->ij", signals, signals)) / (n * (n - 1))


def report(folder: Path, found: dict[str, np.ndarray]) -> None:
    """The tables, and the figure."""
    names = [str(name) for name in found["names"]]
    error = [ERRORS["pressure"] if name == "pressure" else abs(v) * ERRORS.get(name, ERRORS["spectrum"])
             for name, v in zip(names, found["values"], strict=True)]  # fmt: skip
    in_errors = found["rows"] / np.array(error)[:, None, None]
    by_size, by_force = in_errors * found["scale"], 0.01 * in_errors @ found["directions"].T

    say("| | value | all parameters | " + " | ".join(GROUPS) + " | the twelve |")
    say("|---" * (4 + len(GROUPS)) + "|")
    for k, name in enumerate(names):
        of_groups = [told(by_size[k][:, found["groups"] == g]) for g in range(len(GROUPS))]
        cells = [f"{found['values'][k]:.4g}", told(by_size[k]), *of_groups, told(by_force[k])]
        say(f"| {name} | " + " | ".join(cells) + " |")
    summary = {"names": names, "values": found["values"].tolist(), "errors": error}
    for label, signals in (("every parameter off by 1 %", by_size), ("the twelve, forces off by 1 %", by_force)):
        gram = information(signals)
        sizes = np.array([size(s)[0] for s in signals])
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = gram / np.outer(sizes, sizes)
        n = signals.shape[1]
        eigenvalues = lambda x: np.sort(np.linalg.eigvalsh(information(x)))[::-1]
        left = np.stack([eigenvalues(np.delete(signals, k, axis=1)) for k in range(n)])
        errors = np.sqrt((n - 1) / n * np.sum((left - left.mean(0)) ** 2, axis=0))
        say(f"\nCosines, {label}:\n")
        say("| | " + " | ".join(names) + " |")
        say("|---" * (1 + len(names)) + "|")
        for name, row in zip(names, cosines, strict=True):
            say(f"| {name} | " + " | ".join(f"{c:.2f}" if np.isfinite(c) else "-" for c in row) + " |")
        pairs = zip(eigenvalues(signals), errors, strict=True)
        say("\nEigenvalues of the information: " + ", ".join(f"{x:.2g} ± {e:.1g}" for x, e in pairs))
        of_both = {"sizes": sizes, "cosines": np.nan_to_num(cosines)}
        of_both |= {"eigenvalues": eigenvalues(signals), "errors_of_eigenvalues": errors}
        summary[label] = {name: x.tolist() for name, x in of_both.items()}
    say(f"\nParameters: {len(found['scale'])}; numbers: {len(names)}.")
    (folder / "identifiability.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(folder / "identifiability.png", names, by_force, by_size)


def draw(file: Path, names: list[str], by_force: np.ndarray, by_size: np.ndarray) -> None:
    """Signals along the combinations, and eigenvalues."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8), width_ratios=(3, 2), layout="constrained")
    mean = by_force.mean(1)
    noise = by_force.std(1, ddof=1) / np.sqrt(by_force.shape[1])
    top = np.quantile(np.abs(mean), 0.95)
    image = left.imshow(mean, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    for (i, j), value in np.ndenumerate(mean):
        if abs(value) > 2 * noise[i, j]:
            left.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7)
    left.set(yticks=range(len(names)), yticklabels=names, xticks=range(mean.shape[1]),
             xticklabels=range(1, mean.shape[1] + 1), xlabel="combination of parameters, by its effect on forces",
             title="signal, where forces are off by 1 %\n(numbers: beyond two standard errors)")  # fmt: skip
    figure.colorbar(image, ax=left)
    for signals, label in ((by_force, "twelve combinations"), (by_size, "all parameters")):
        values = np.sort(np.linalg.eigvalsh(information(signals)))[::-1]
        right.plot(range(1, len(values) + 1), np.where(values > 0, values, np.nan), "o-", ms=4, lw=0.8, label=label)
    right.axhline(1, color="0.5", lw=0.8)
    right.set(yscale="log", xlabel="direction", ylabel="Fisher information", title="what the numbers tell apart")
    right.legend()
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
