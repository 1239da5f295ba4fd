"""What can be learned from a spectrum: `python docs/measurements/identifiability.py FOLDER`.

Of the project's neural potential of water, the derivatives of its infrared spectrum, of its diffusion coefficient (both
with correlation functions cut at 0.1 ps, as in a fit) and of its pressure: of bands of the spectrum by all parameters,
in reverse, and of every wavenumber along the twelve combinations of parameters that change forces most, forward. Prints

- the signal: by how many of the errors of experiment a number moves when every parameter is off by one percent of the
  root mean square of its array, at random; all parameters, and each group of them alone. The noise of the gradients is
  taken out of the squares;
- the cosines between the gradients of different numbers, in these units, and the eigenvalues of the information that
  the numbers have of all parameters: the sum over them of the products of their signals;
- how well a spectrum, a density and a diffusion coefficient determine the twelve combinations: each alone, where all
  others are known, and the directions among them, by the inverse square roots of the eigenvalues of the information. An
  amount of one changes forces by as much as they are; a dash is what is not above its noise.

Spectrum and diffusion by the gradient through the trajectories alone, as in the fit; the pressure by reweighting.
Errors are by leaving out one of the chains after the other. Writes `identifiability.npz`, from which a second run tells
the same without sampling, `identifiability.json` and `identifiability.png` into the folder.
"""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.flatten_util import ravel_pytree

import reverlet as rv

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments import _processes
from experiments._chains import Chains
from experiments._figures import DYNAMICAL, PATH, STYLE, TARGET, THERMODYNAMIC
from experiments._neural_water import Grids, NeuralWater, load_moment, load_surface
from experiments._refine_targets import Aim, pressure_along, principal, trajectories_along
from experiments._water import cutoff_in, packed

BANDS = {"0-300": (0, 300), "300-1000": (300, 1000), "bend": (1200, 1700), "stretch, low": (3200, 3600),
         "stretch, high": (3600, 4000)}  # fmt: skip
NUMBERS = (*BANDS, "diffusion", "pressure")
SPECTRUM, DIFFUSION, PRESSURE = 0.1, 0.02, 200.0
"""Errors of experiment: of the spectrum what experiments differ by, and of diffusion, both relative; bar, of a density
known to 1 %."""
RESOLVED = 167.0
"""1/cm: how far apart two numbers of a spectrum cut at 0.1 ps are that are independent."""
GROUPS = {"embedding": ("amplitudes", "widths", "shifts"), "first layer": ("layers[0]",),
          "second layer": ("layers[1]",), "last": ("last",)}  # fmt: skip
WATERS, CHAINS, ROUNDS, FRAMES, DIRECTIONS = 32, 8, 2, 20, 12
CORRELATION, INTERVAL, CLASSICAL, EQUILIBRATION = 0.1, 0.5, 6.0, 1.0  # ps
SPACING = 10.0  # 1/cm


class Band(rv.AbstractObservable):
    """The mean intensity of a spectrum where `weights` say."""

    spectrum: rv.InfraredSpectrum
    weights: jax.Array

    def record(self, system, state, initial):
        return self.spectrum.record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        return jnp.sum(self.weights * self.spectrum.reduce(times, records, weights, ensemble))


@eqx.filter_jit
def by_parameters(observable, water, surface, starts):
    """Value, and what each trajectory has as gradient."""
    estimate, found = rv.expectation_gradients(
        observable, water.system(surface), starts, dynamics=water.short, keep_samples=True
    )
    return estimate.value, CHAINS * flat(found.dynamical_samples.potential)


@eqx.filter_jit
def pressure_by_parameters(water, surface, frames):
    """The mean pressure (bar), and what each chain has as gradient."""
    estimate, found = rv.expectation_gradients(water.pressure, water.system(surface), frames, keep_samples=True)
    rows = flat(jax.tree.map(jnp.add, found.dynamical_samples.potential, found.thermodynamic_samples.potential))
    return estimate.value / rv.units.BAR, CHAINS / rv.units.BAR * rows.reshape(-1, CHAINS, rows.shape[1]).sum(0)


@eqx.filter_jit
def by_combinations(water, surface, starts, frames, directions):
    """Spectrum (1/cm), diffusion coefficient (nm²/ps) and pressure (bar) of each chain, and their derivatives by the
    amounts of the combinations: `chains k` and `combinations chains k` of each."""
    _, unravel = ravel_pytree(eqx.filter(surface, eqx.is_inexact_array))
    moved = lambda amounts: eqx.apply_updates(surface, unravel(amounts @ directions))
    count, one = len(directions), jnp.ones((), directions.dtype)
    plain = {"spectrum": rv.SquaredDistance(water.low, 0 * water.low.wavenumbers, jnp.ones_like(water.low.wavenumbers)),
             "diffusion": rv.SquaredDistance(rv.SelfDiffusion(), 0 * one, one)}  # fmt: skip
    found = trajectories_along(plain, water, moved, starts, count, "dynamical")
    along = lambda gradient: directions @ ravel_pytree(gradient)[0]
    aim, system = Aim(np.zeros(1), 1.0, 0.0, 1.0), water.system(surface)
    found["pressure"] = pressure_along(aim, water, system, frames, CHAINS, along)
    return {name: (residuals.values, residuals.slopes) for name, residuals in found.items()}


def flat(tree) -> jax.Array:
    return jax.vmap(lambda one: ravel_pytree(one)[0])(tree)


def main(folder: Path) -> None:
    file = folder / "identifiability.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, **measured())
    report(folder, dict(np.load(file)))


def measured() -> dict[str, np.ndarray]:
    """Of every number what each chain has of value and gradient, means over rounds; besides, what one percent is of
    every parameter, and its group."""
    mesh = _processes.mesh_for(types.SimpleNamespace(devices=None, distributed=None, resume=False), CHAINS, cores=True)
    keys = jax.random.split(jax.random.key(0), 5)
    state = packed(WATERS, 0.997, keys[0])
    topology = rv.qspcfw(WATERS, state.box).topology
    surface = _processes.on_all(load_surface(None, topology, None), mesh)
    sampling = Chains(topology, 298.15, 5.0, 0.001, INTERVAL, mesh)
    moment = load_moment(None, None, topology, state.positions)
    water = NeuralWater(sampling, state.box, moment, Grids(4, 4000.0, SPACING, CORRELATION, 0.5, CORRELATION, FRAMES))
    classical = rv.qspcfw(WATERS, state.box, cutoff=cutoff_in(state.box)).potential
    chains = _processes.on_all(sampling.with_new_velocities(state.repeat(CHAINS), keys[1]), mesh)
    chains = sampling.equilibrate(classical, chains, CLASSICAL, keys[2], "classical")
    chains = sampling.equilibrate(surface, chains, EQUILIBRATION, keys[3], "the surface")

    arrays, like = eqx.filter(surface, eqx.is_inexact_array), water.low.wavenumbers.dtype
    some = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[:2]), chains)
    directions, _ = principal(surface, jax.tree.map(lambda _: True, arrays), some, DIRECTIONS)
    observables: dict[str, rv.AbstractObservable] = {
        name: Band(water.low, jnp.asarray(w, like)) for name, w in band_weights(water.low.wavenumbers)
    }
    observables["diffusion"] = rv.SelfDiffusion()
    rounds = []
    for k in range(ROUNDS):
        frames, starts, chains = water.draw(surface, chains, jax.random.fold_in(keys[4], k))
        of_round = {f"rows {name}": by_parameters(o, water, surface, starts)[1] for name, o in observables.items()}
        of_round["rows pressure"] = pressure_by_parameters(water, surface, frames)[1]
        along = by_combinations(water, surface, starts, frames, jnp.asarray(directions, like))
        for name, (values, slopes) in along.items():
            of_round |= {f"values {name}": values, f"slopes {name}": slopes}
        rounds.append({name: np.asarray(x, float) for name, x in of_round.items()})
        sys.stderr.write(f"round {k + 1} of {ROUNDS}\n")

    rms = lambda x: jnp.full_like(x, jnp.sqrt(jnp.mean(x**2)))
    return {
        **{name: np.mean([of_round[name] for of_round in rounds], axis=0) for name in rounds[0]},
        "scale": 0.01 * np.asarray(ravel_pytree(jax.tree.map(rms, arrays))[0], float),
        "groups": group_of(arrays),
        "directions": directions,
        "wavenumbers": np.asarray(water.low.wavenumbers),
    }


def band_weights(wavenumbers) -> list[tuple[str, np.ndarray]]:
    """By which a spectrum is multiplied, for the mean over a band."""
    nu = np.asarray(wavenumbers)
    inside = {name: (nu >= low) & (nu < high) for name, (low, high) in BANDS.items()}
    return [(name, m / m.sum()) for name, m in inside.items()]


def group_of(arrays) -> np.ndarray:
    """The group of every parameter, as an index; -1 of none."""

    def index(path, x):
        name = jax.tree_util.keystr(path)[1:]
        return np.full(x.shape, next((k for k, v in enumerate(GROUPS.values()) if name.startswith(v)), -1))

    return np.concatenate([x.ravel() for x in jax.tree.leaves(jax.tree_util.tree_map_with_path(index, arrays))])


# ---- what is told


def without_one(function: Callable, signals: np.ndarray):
    """A function of signals, whose second axis is that of the chains, and its error by leaving out one chain after the
    other."""
    n = signals.shape[1]
    left = np.array([function(np.delete(signals, k, axis=1)) for k in range(n)])
    return function(signals), np.sqrt((n - 1) / n * np.sum((left - left.mean(0)) ** 2, axis=0))


def information(signals: np.ndarray) -> np.ndarray:
    """Products of the signals (a, chains, b) of all pairs of the first axis, of different chains alone."""
    n = signals.shape[1]
    total = signals.sum(1)
    return (total @ total.T - np.einsum("iak,jak->ij", signals, signals)) / (n * (n - 1))


def eigenvalues(signals: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(information(signals))[::-1]


def cosines_of(signals: np.ndarray) -> list[list[float | None]]:
    """Between the gradients of all pairs; nothing where one of them is not above its noise."""
    squares, errors = without_one(lambda x: np.diag(information(x)), signals)
    sizes = np.sqrt(np.where(squares > 2 * errors, squares, np.nan))
    gram = information(signals)
    of = lambda i, j: gram[i, j] / (sizes[i] * sizes[j])
    return [[None if np.isnan(of(i, j)) else float(of(i, j)) for j in range(len(gram))] for i in range(len(gram))]


def told(signals: np.ndarray) -> str:
    """How long the mean over chains of signals (chains, k) is, without what noise adds to its square."""
    square, error = without_one(lambda x: information(x)[0, 0], signals[None])
    if square < 2 * error:
        return f"below {np.sqrt(max(square, 0) + 2 * error):.1g}"
    return f"{np.sqrt(square):.2g} ± {error / (2 * np.sqrt(square)):.1g}"


def report(folder: Path, found: dict[str, np.ndarray]) -> None:
    """The tables, and the figure."""
    say = lambda line="": sys.stdout.write(line + "\n")
    nu = found["wavenumbers"]
    spectrum, diffusion, pressure = (found[f"values {name}"].mean(0) for name in ("spectrum", "diffusion", "pressure"))
    weights = dict(band_weights(nu))
    values = {name: w @ spectrum for name, w in weights.items()}
    values |= {"diffusion": diffusion[0], "pressure": pressure[0]}
    relative = lambda name: DIFFUSION if name == "diffusion" else SPECTRUM
    errors = {name: PRESSURE if name == "pressure" else relative(name) * abs(v) for name, v in values.items()}
    by_size = np.stack([found[f"rows {name}"] * found["scale"] / errors[name] for name in NUMBERS])

    say("| | value | all parameters | " + " | ".join(GROUPS) + " |")
    say("|---" * (3 + len(GROUPS)) + "|")
    for name, signals in zip(NUMBERS, by_size, strict=True):
        of_groups = [told(signals[:, found["groups"] == g]) for g in range(len(GROUPS))]
        say(f"| {name} | " + " | ".join([f"{values[name]:.4g}", told(signals), *of_groups]) + " |")
    cosines = cosines_of(by_size)
    say("\nCosines:\n\n| | " + " | ".join(NUMBERS) + " |\n" + "|---" * (1 + len(NUMBERS)) + "|")
    for name, row in zip(NUMBERS, cosines, strict=True):
        say(f"| {name} | " + " | ".join("-" if c is None else f"{c:.2f}" for c in row) + " |")
    of_all = without_one(eigenvalues, by_size)
    pairs = zip(*of_all, strict=True)
    say("\nInformation of all parameters, eigenvalues: " + ", ".join(f"{x:.2g} ± {e:.1g}" for x, e in pairs))

    unit = SPECTRUM * np.sqrt(np.mean(spectrum**2)) / np.sqrt(SPACING / RESOLVED)
    signals = {
        "spectrum": found["slopes spectrum"] / unit,
        "density": found["slopes pressure"] / PRESSURE,
        "diffusion": found["slopes diffusion"] / errors["diffusion"],
    }
    sets = [list(signals)[:k] for k in (1, 2, 3)]
    known, alone = {}, {}
    say("\n| error of one alone, % | " + " | ".join(f"{k + 1}" for k in range(DIRECTIONS)) + " |")
    say("|---" * (1 + DIRECTIONS) + "|")
    for name, of_name in signals.items():
        alone[name] = without_one(lambda x: np.diag(information(x)), of_name)
        say(f"| {name} | " + " | ".join(in_percent(x, e) for x, e in zip(*alone[name], strict=True)) + " |")
    say("\n| error, % of the forces | " + " | ".join(f"{k + 1}" for k in range(DIRECTIONS)) + " |")
    say("|---" * (1 + DIRECTIONS) + "|")
    for names in (["density"], ["diffusion"], *sets):
        of_set = np.concatenate([signals[name] for name in names], axis=2)
        known[", ".join(names)] = tuple(x[: of_set.shape[2]] for x in without_one(eigenvalues, of_set))
        cells = [in_percent(x, e) for x, e in zip(*known[", ".join(names)], strict=True)]
        say(f"| {', '.join(names)} | " + " | ".join(cells + ["-"] * (DIRECTIONS - len(cells))) + " |")
    forward = {name: found["slopes spectrum"].mean(1) @ w for name, w in weights.items()}
    back = {name: found["directions"] @ found[f"rows {name}"].mean(0) for name in weights}
    off = max(np.abs(forward[n] - back[n]).max() / np.abs(back[n]).max() for n in weights)
    say(f"\nParameters: {len(found['scale'])}. Forward and reverse derivatives of bands differ by at most {off:.1g}.")
    listed = lambda pair: {"eigenvalues": pair[0].tolist(), "errors": pair[1].tolist()}
    summary = {
        "numbers": list(NUMBERS), "values": [float(values[n]) for n in NUMBERS], "errors": [errors[n] for n in NUMBERS],
        "cosines": cosines, "all_parameters": listed(of_all),
        "combinations": {name: listed(pair) for name, pair in known.items()},
        "alone": {name: listed(pair) for name, pair in alone.items()},
        "forward_and_reverse": float(off),
    }  # fmt: skip
    (folder / "identifiability.json").write_text(json.dumps(summary, indent=1) + "\n")
    with plt.rc_context(STYLE):
        draw(folder / "identifiability.png", found, {", ".join(names): known[", ".join(names)] for names in sets})


def told_apart(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Which of the eigenvalues are above their noise, and stand for less than all of the forces."""
    return (values > 2 * errors) & (values > 1)


def in_percent(eigenvalue: float, error: float) -> str:
    """The error that a direction of this information is known with; a dash where that is not known."""
    if not told_apart(np.array(eigenvalue), np.array(error)):
        return "-"
    return f"{100 / np.sqrt(eigenvalue):.2g} ± {50 * error / eigenvalue**1.5:.1g}"


def draw(file: Path, found: dict[str, np.ndarray], known: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """What combinations do to the spectrum, and how well each direction is known."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.6), width_ratios=(3, 2))
    nu, slopes = found["wavenumbers"], 3e-5 * found["slopes spectrum"]
    left.plot(nu, 1e-3 * found["values spectrum"].mean(0), color="0.6", lw=3, label="spectrum", zorder=0)
    for k, color in enumerate((DYNAMICAL, THERMODYNAMIC, TARGET)):
        mean, error = slopes[k].mean(0), slopes[k].std(0, ddof=1) / np.sqrt(CHAINS)
        left.plot(nu, mean, color=color, lw=1, label=f"change by combination {k + 1}")
        left.fill_between(nu, mean - 2 * error, mean + 2 * error, color=color, alpha=0.2, lw=0)
    left.axhline(0, color="0.6", lw=0.6)
    left.set(xlabel="wavenumber / cm$^{-1}$   (bands: ± 2 standard errors)", ylabel=r"$n\alpha$ / $10^3$ cm$^{-1}$",
             xlim=(0, nu[-1]), title="what a change of the forces by 3 % does to the cut spectrum")  # fmt: skip
    left.legend()
    markers = zip(known.items(), (DYNAMICAL, THERMODYNAMIC, PATH), "osD", strict=True)
    for shift, ((name, (values, errors)), color, marker) in enumerate(markers):
        fine = told_apart(values, errors)
        at = np.arange(1, len(values) + 1)[fine] + 0.15 * (shift - 1)
        error = 50 * errors[fine] / values[fine] ** 1.5
        right.errorbar(at, 100 / np.sqrt(values[fine]), 2 * error, fmt=marker, ms=4, lw=0.8, capsize=2, color=color,
                       label=name)  # fmt: skip
    right.set(yscale="log", xlim=(0.5, DIRECTIONS + 0.5), xlabel="direction, from the best known",
              ylabel="error / % of the forces",
              title="how well experiment determines\nwhat changes forces most")  # fmt: skip
    right.set_yticks([0.1, 0.2, 0.5, 1.0, 2.0], ["0.1", "0.2", "0.5", "1", "2"])
    right.yaxis.set_minor_formatter("")
    right.set_xticks(range(1, DIRECTIONS + 1))
    right.legend()
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
