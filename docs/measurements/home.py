"""The pictures of the home page, from numbers of the results.

    python docs/measurements/home.py            draws docs/home-*.png from docs/results/home.json
    python docs/measurements/home.py spectra    computes the spectra of home.json anew, some CPU minutes
    python docs/measurements/home.py horizon RUN    takes the gradients of home.json from a run of `gradient_horizon`

The spectra are those of water with the parameters in docs/results/water_ir/summary.json, before and after the fit and
of the target, from trajectories of their own.
"""
# ruff: noqa: T201

import json
import sys
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parents[1]
NUMBERS = DOCS / "results/home.json"
DYNAMICAL, BEFORE, TARGET, AFTER = "#0072b2", "#d55e00", "#009e73", "#222222"  # told apart by the color-blind


def spectra(chains: int = 8) -> dict:
    """n α of 32 waters for three sets of parameters, from 1 ps of as many chains, in both directions of time."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    import reverlet as rv

    found = json.loads((DOCS / "results/water_ir/summary.json").read_text())
    fit = found["fits"]["all"]
    sets = {"before": fit["initial"], "after": fit["final"], "target": found["target"]}
    box = rv.OrthorhombicBox(jnp.full(3, 0.985))
    water = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
    shape = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]])
    _, packed = rv.pack(water, shape, 32, box=box, key=jax.random.key(0))
    start = rv.minimize(rv.WaterModel.qspcfw().system(32, box), packed).state.repeat(chains)
    thermostat = rv.LangevinBAOAB(298.15, 5.0, dt=0.0005, num_steps=4000)
    dynamics = rv.Dynamics(dt=0.0005, num_steps=2000, save_every=2, batch=1, both_directions=True)
    wavenumbers = jnp.arange(0.0, 4500.0, 8.0)
    observable = rv.InfraredSpectrum(wavenumbers, rv.spectra.GaussianWindow(0.25), num_lags=1001)
    curves = {}
    for name, parameters in sets.items():
        model = dataclasses.replace(
            rv.WaterModel.qspcfw(),
            charge=jnp.asarray(parameters["charge"]),
            sigma=jnp.asarray(parameters["sigma"]),
            stiffness=jnp.asarray(parameters["bond"]),
            angle_stiffness=jnp.asarray(parameters["angle"]),
        )
        system = model.system(32, box)
        samples, _ = thermostat.sample(system, start, chains, key=jax.random.key(1))
        samples = samples.with_velocities(system.topology, key=jax.random.key(2))
        estimate = rv.expectation(observable, system, samples, dynamics=dynamics)
        curves[name] = {"value": rounded(estimate.value), "error": rounded(estimate.error)}
        print(name, "done", flush=True)
    return {"wavenumbers": rounded(wavenumbers), **curves}


def horizon(run: str) -> dict:
    """The dynamical gradient of D of argon by σ against the length of its trajectories."""
    arrays = np.load(Path(run) / "horizon.npz")
    index = list(arrays["names"]).index("potential.sigma")
    summary = json.loads((Path(run) / "summary.json").read_text())
    return {
        "times": rounded(arrays["horizons"]),
        "gradient": rounded(arrays["gradient"][:, index], 5),
        "error": rounded(arrays["gradient_error"][:, index], 5),
        "proposed": summary["proposed_horizon"],
        "trajectories": summary["trajectories"],
    }


def rounded(values, digits: int = 4) -> list[float]:
    return [float(f"{x:.{digits}g}") for x in np.asarray(values, float)]


def draw(numbers: dict) -> None:
    import matplotlib.pyplot as plt

    style = {"font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False}
    style |= {"legend.frameon": False, "legend.fontsize": 8, "figure.constrained_layout.use": True}
    panels = {"spectra": draw_spectra, "horizon": draw_horizon}
    for name, panel in panels.items():
        with plt.rc_context(style):
            figure, axes = plt.subplots(figsize=(4.5, 3.2))
            panel(axes, numbers[name])
            figure.savefig(DOCS / f"home-{name}.png", dpi=180)


def draw_spectra(axes, curves: dict) -> None:
    nu = np.asarray(curves["wavenumbers"])
    for name, color, width, label in (
        ("target", TARGET, 4, "target"),
        ("before", BEFORE, 1.2, "before the fit"),
        ("after", AFTER, 1.2, "after the fit"),
    ):
        band(axes, nu, curves[name], 1e-3, color)
        mean = 1e-3 * np.asarray(curves[name]["value"])
        axes.plot(nu, mean, color=color, lw=width, alpha=0.5 if name == "target" else 1, label=label)
    axes.set(xlim=(0, 4500), ylim=(0, None), xlabel="wavenumber / cm⁻¹", ylabel=r"$n\alpha$ / $10^3$ cm⁻¹")
    axes.set_title("water: infrared spectrum before and after a fit")
    axes.legend(loc="upper left", bbox_to_anchor=(0.36, 1))


def draw_horizon(axes, slopes: dict) -> None:
    times, mean = np.asarray(slopes["times"]), np.asarray(slopes["gradient"])
    band(axes, times, {"value": mean, "error": slopes["error"]}, 1, DYNAMICAL)
    axes.plot(times, mean, color=DYNAMICAL, label=f"{slopes['trajectories']} trajectories, ± 2 standard errors")
    axes.axhline(0, color="0.7", lw=0.6, zorder=0)
    axes.axvline(slopes["proposed"], color="0.5", ls=":", label="proposed length")
    axes.set(xlim=(0, 3.4), ylim=(-0.2, 0.1), xlabel="length of trajectories / ps")
    axes.set_ylabel(r"$\partial D/\partial\sigma$ / nm ps⁻¹")
    axes.set_title("argon: gradient of the diffusion coefficient")
    axes.legend(loc="upper left", frameon=True, framealpha=1, edgecolor="none")  # hides the line behind it


def band(axes, x, curve: dict, scale: float, color: str) -> None:
    mean, error = scale * np.asarray(curve["value"]), 2 * scale * np.asarray(curve["error"])
    axes.fill_between(x, mean - error, mean + error, color=color, alpha=0.2, lw=0)


def main(arguments: list[str]) -> None:
    numbers = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    if arguments[:1] == ["spectra"]:
        numbers["spectra"] = spectra()
    elif arguments[:1] == ["horizon"]:
        numbers["horizon"] = horizon(arguments[1])
    else:
        draw(numbers)
        return
    NUMBERS.write_text(json.dumps(numbers) + "\n")


main(sys.argv[1:])
