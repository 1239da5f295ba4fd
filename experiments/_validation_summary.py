"""What is told of a run of `validate_water`: its table, with errors and experiment, and tables of several runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import reverlet as rv

from ._errors import BadInput
from ._folder import read_arrays, read_json
from ._measured_water import KNOWN, VISCOSITY, Known
from .water_density import MirroredDielectricConstant

DIFFUSION = 1e3
"""nm²/ps, in 1e-9 m²/s."""
_BANDS = {"hindered_translation": (100, 320), "libration": (350, 1000), "bend": (1250, 1900), "stretch": (2600, 4200)}
"""1/cm, where the highest point of a spectrum is looked for."""


# ---- numbers with errors


def jackknife(statistic: Callable[[np.ndarray], float], chains: np.ndarray) -> tuple[float, float]:
    """A statistic of all chains, which come first, and its standard error by leaving out one after the other."""
    n = len(chains)
    left = np.array([statistic(np.delete(chains, k, axis=0)) for k in range(n)])
    return statistic(chains), float(np.sqrt((n - 1) / n * np.sum((left - left.mean()) ** 2)))


def mean(chains: np.ndarray) -> float:
    """Of everything."""
    return float(np.mean(chains))


def peak(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Where a curve is highest between two points, by a parabola through three; NaN if that is at one of them."""
    inside = np.flatnonzero((x >= low) & (x <= high))
    if len(inside) < 3:
        return np.nan
    k = inside[np.argmax(y[inside])]
    if k in (inside[0], inside[-1]):
        return np.nan
    a, b, c = y[k - 1 : k + 2]
    return float(x[k] + 0.5 * (a - c) / (a - 2 * b + c) * (x[k + 1] - x[k]))


def at_infinite_size(
    diffusion: float, length: float, temperature: float, viscosity: float | None, known: float
) -> float:
    """A diffusion coefficient (1e-9 m²/s) in a cube of edge `length` (nm), without the effect of its size.

    **Arguments:** `viscosity` (Pa s). None: that of experiment, times how much slower than `known`, that of experiment,
    the liquid diffuses in the end (Stokes and Einstein), which makes D∞ = D / (1 - Δ/D_exp) with Δ the correction at
    the viscosity of experiment.
    """
    eta = (VISCOSITY if viscosity is None else viscosity) * rv.units.PASCAL_SECOND
    correction = DIFFUSION * float(rv.YehHummer(eta, length).correction(rv.NVT(temperature)))
    return diffusion + correction if viscosity is not None else diffusion / (1 - correction / known)


# ---- the table


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. What is not finite is no figure."""

    name: str
    label: str
    value: float
    error: float

    def told(self) -> dict[str, Any]:
        """As `summary.json` has it."""
        finite = lambda x: float(x) if np.isfinite(x) else None
        return {"name": self.name, "label": self.label, "value": finite(self.value), "error": finite(self.error)}


@dataclasses.dataclass(frozen=True)
class Others:
    """The arrays of the other stages, some of which a run may be without."""

    clusters: dict[str, np.ndarray]
    gas: dict[str, np.ndarray] | None
    density: dict[str, np.ndarray] | None
    quantum: dict[str, np.ndarray] | None


def summarize(
    config: Any, liquid: Any, begun: np.ndarray, pieces: list[dict[str, np.ndarray]], others: Others, spectrum, rdfs
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The curves of a run, and all numbers of `summary.json` but its timing."""
    clusters, gas, density, quantum = (getattr(others, f.name) for f in dataclasses.fields(others))
    whole = np.all([begun, *(p["whole"] for p in pieces)], axis=0)
    if np.sum(whole) < 2:
        raise rv.SimulationError(
            f"In {np.sum(~whole)} of {len(whole)} trajectories molecules came apart before the end; wanted two that"
            " stay whole, for errors: a shorter --length, fewer --pieces, or another surface."
        )
    of = lambda name: np.mean([p[name][whole].astype(float) for p in pieces], axis=0)  # chains first
    box, waters = liquid.box, liquid.system.topology.num_atoms // 3
    nu, r = np.asarray(liquid.infrared.wavenumbers), np.asarray(liquid.rdfs["OO"].centers)
    rows, told = [], Row
    add = lambda name, label, value_error: rows.append(told(name, label, *value_error))
    add("whole", f"trajectories, of {len(whole)}, in which molecules stayed whole", (np.sum(whole), np.nan))
    add("temperature", "temperature, K", jackknife(mean, of("temperature")))
    add("pressure", f"pressure at {_density(liquid):.3f} g/cm³, bar", jackknife(mean, of("pressure")))
    if density is not None:
        late = density["density"][len(density["density"]) // 2 :, density["whole"]]
        add("density", f"density at {config.pressure:g} bar, g/cm³", jackknife(mean, late.mean(0)))
        change = lambda c: _slope(np.linspace(0, 1, len(late)), c)
        add("density_drift", "density, drift during that, g/cm³", jackknife(change, late.T))
    if gas is not None:
        add("heat_of_vaporization", "heat of vaporization, kJ/mol", _vaporization(config, of("potential"), gas, waters))
    small = jackknife(lambda c: _diffusion(config, c.mean(0)), of("msd"))
    length, known = float(box.volume) ** (1 / 3), KNOWN["diffusion"].experiment or 1.0
    large = at_infinite_size(1.0, length, config.temperature, config.viscosity, known)
    if config.viscosity is None:
        corrected = (small[0] * large, small[1] * large)
    else:
        corrected = (small[0] + large - 1, small[1])
    add("diffusion_in_box", "D in this box, 1e-9 m²/s", small)
    add("diffusion", "D, corrected for its size, 1e-9 m²/s", corrected)
    moments = np.concatenate([p["moments"][whole].astype(float) for p in pieces], axis=1)
    add("dielectric_constant", "dielectric constant", jackknife(lambda c: _dielectric(liquid, c), moments))
    rows += _structure(r, {name: of(f"g_{name}") for name in liquid.rdfs}, rdfs)
    rows += _spectrum(nu, of("infrared"), spectrum)
    for band in ("bend", "stretch"):
        at = jackknife(lambda c, band=band: peak(nu, c.mean(0), *_BANDS[band]), of("vdos"))
        add(f"vdos_{band}", f"VDOS, {band}, 1/cm", at)
        if quantum is not None:
            curves = quantum["vibrations"][quantum["whole"]].astype(float)
            classical = np.broadcast_to(of("vdos").mean(0), curves.shape)
            both = np.stack([curves, classical], axis=1)
            found = lambda c, b=band: _shift(nu, c.mean(0), *_BANDS[b])
            add(f"quantum_{band}", f"VDOS, {band}, shift by {config.beads} beads, 1/cm", jackknife(found, both))
    energy = np.concatenate([p["energy"][whole].astype(float) for p in pieces], axis=1) / (3 * waters)
    times = (1 + config.every * np.arange(energy.shape[1])) * liquid.frame
    add(
        "energy_drift",
        f"NVE drift in {times[-1]:.3g} ps, kJ/mol/atom/ns",
        jackknife(lambda c: 1e3 * _slope(times, c), energy),
    )
    rows += _clusters(clusters)

    curves = {
        "wavenumbers": nu, "infrared": of("infrared"), "vdos": of("vdos"), "experiment": spectrum, "r": r,
        **{f"g_{name}": of(f"g_{name}") for name in liquid.rdfs},
        "k": np.asarray(liquid.scattered.centers), "scattered": of("scattered"), "times": times, "energy": energy,
        **{f"clusters_{name}": x for name, x in clusters.items()},
        **({} if quantum is None else {"vdos_quantum": quantum["vibrations"][quantum["whole"]].astype(float)}),
        **({} if rdfs is None else {f"measured_{name}": x for name, x in rdfs.items()}),
    }  # fmt: skip
    alone = None if gas is None else bool(gas["whole"])
    summary = {"waters": waters, "rows": [row.told() for row in rows], "molecule_alone_stayed_whole": alone}
    return curves, {**summary, "experiment": {k: dataclasses.asdict(v) for k, v in KNOWN.items()}}


def _shift(nu: np.ndarray, both: np.ndarray, low: float, high: float) -> float:
    """How much lower than those of classical nuclei vibrations of ring polymers are, negative: 1/cm."""
    quantum, classical = (peak(nu, curve, low, high) for curve in both)
    return quantum - classical


def _density(liquid: Any) -> float:
    mass = float(jnp.sum(liquid.system.topology.masses))
    return mass / float(liquid.box.volume) / rv.units.GRAM_PER_CUBIC_CENTIMETER


def _vaporization(config, potential, gas, waters) -> tuple[float, float]:
    """U_gas - U_liquid + kT, with the liquid at the volume of experiment."""
    if not gas["whole"]:
        return np.nan, np.nan
    alone, error = jackknife(mean, gas["energy"].astype(float).mean(0))
    liquid, liquid_error = jackknife(mean, potential / waters)
    return alone - liquid + rv.units.BOLTZMANN * config.temperature, float(np.hypot(error, liquid_error))


def _diffusion(config, curve: np.ndarray) -> float:
    """1e-9 m²/s, from the mean squared displacement between a fifth and a half of a piece."""
    times = np.arange(len(curve)) * config.dt * config.save_every * config.every
    return DIFFUSION * float(rv.Einstein(0.4).diffusion(jnp.asarray(times), jnp.asarray(curve)))


def _dielectric(liquid, moments: np.ndarray) -> float:
    """Of a liquid whose mean dipole is zero."""
    records = jnp.asarray(moments)
    weights = jnp.full(len(records), 1 / len(records), records.dtype)
    times = jnp.arange(records.shape[1], dtype=records.dtype)
    return float(MirroredDielectricConstant().reduce(times, records, weights, liquid.ensemble))


def _structure(r, g, measured) -> list[Row]:
    first = lambda c: peak(r, c.mean(0), 0.25, 0.35)
    height = lambda c: float(np.max(c.mean(0)[(r > 0.25) & (r < 0.35)]))
    position, error = jackknife(first, g["OO"])
    rows = [
        Row("peak_OO", "g_OO, first peak, Å", 10 * position, 10 * error),
        Row("height_OO", "g_OO, height of it", *jackknife(height, g["OO"])),
    ]
    if measured is None:
        return rows
    for name in g:
        between = r > (0.2 if name == "OO" else 0.14)  # bonds are classical here
        known = np.interp(r[between], measured["r"], measured[name])
        off = lambda c, b=between, k=known: float(np.sqrt(np.mean((c.mean(0)[b] - k) ** 2)))
        rows.append(Row(f"rms_{name}", f"g_{name}, rms off the measured", *jackknife(off, g[name])))
    return rows


def _spectrum(nu, curves, measured) -> list[Row]:
    rows = []
    for band, edges in _BANDS.items():
        at = jackknife(lambda c, e=edges: peak(nu, c.mean(0), *e), curves)
        rows.append(Row(f"infrared_{band}", f"IR, {band.replace('_', ' ')}, 1/cm", *at))
    rms = lambda low, high: lambda c: float(np.sqrt(np.mean((c.mean(0) - measured)[(nu > low) & (nu < high)] ** 2)))
    rows.append(Row("infrared_rmse_low", "IR, rms off below 1000 1/cm, 1/cm", *jackknife(rms(0, 1000), curves)))
    rows.append(Row("infrared_rmse_high", "IR, rms off from 1000 to 4000 1/cm", *jackknife(rms(1000, 4000), curves)))
    inside = nu <= 4000
    size = np.sqrt(np.mean(measured[inside] ** 2))
    relative = lambda c: rms(-1, 4000.1)(c) / size
    rows.append(Row("infrared_l2", "IR, relative L2 to 4000 1/cm", *jackknife(relative, curves)))
    return rows


def _clusters(clusters) -> list[Row]:
    sizes, rows = clusters["sizes"], []
    off = {part: clusters[f"{part}_surface"] - clusters[f"{part}_reference"] for part in ("inter", "intra")}
    off["total"] = off["inter"] + off["intra"]
    for part, found in off.items():
        per_atom = found / (3 * sizes)
        rms = jackknife(lambda x: float(np.sqrt(np.mean(x**2))), per_atom)
        rows.append(Row(f"clusters_{part}", f"clusters, {part}, rms off PBE0, kJ/mol/atom", *rms))
    return rows


def _slope(times: np.ndarray, chains: np.ndarray) -> float:
    return float(np.polyfit(times, chains.mean(0), 1)[0])


# ---- tables


def number(value: float | None, error: float | None = None) -> str:
    """A number with as many digits as two of its error, or four of its own."""
    if value is None:
        return "-"
    if error is None or error <= 0:
        return f"{value:.4g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def lines_of(summary: dict[str, Any]) -> list[str]:
    """The table of one run."""
    return _table([""], [summary])


def compared(summaries: dict[str, dict[str, Any]]) -> list[str]:
    """One table of several runs; what some of them have not measured is a dash there."""
    return _table(list(summaries), list(summaries.values()))


def _table(names: list[str], summaries: list[dict[str, Any]]) -> list[str]:
    rows: dict[str, str] = {}
    for summary in summaries:
        rows |= {row["name"]: row["label"] for row in summary["rows"] if row["name"] not in rows}
    by_name = [{row["name"]: row for row in summary["rows"]} for summary in summaries]
    lines = [["", *[name or "this surface" for name in names], "experiment", "Han & Yu 2025"]]
    for name, label in rows.items():
        found = [number(r[name]["value"], r[name]["error"]) if name in r else "-" for r in by_name]
        known = KNOWN.get(name, Known())
        lines.append(
            [label, *found, number(known.experiment, known.uncertainty), number(known.paper, known.paper_error)]
        )
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a run that has ended."""

    summary: dict[str, Any]
    curves: dict[str, np.ndarray]


def read_run(folder: Path) -> Run:
    """Of a folder.

    **Errors:** `BadInput` for one that is not of a run that has ended.
    """
    for name in ("summary.json", "curves.npz"):
        if not (folder / name).is_file():
            raise BadInput(f"{folder} has no {name}; wanted the folder of a run of validate_water that has ended.")
    summary = read_json(folder / "summary.json")
    if not (isinstance(summary, dict) and isinstance(summary.get("rows"), list)):
        raise BadInput(f"{folder / 'summary.json'} has no table; wanted that of a run of validate_water.")
    return Run(summary, read_arrays(folder / "curves.npz"))
