"""Train a neural potential and a dipole surface of water on labels: bottom-up, before any experiment is looked at.

An `EANN` learns energies, forces and stresses of the liquid, a `DeepDipole` the dipoles of clusters. By default the
labels are those that come with the project (GFN1-xTB and GFN2-xTB, see experiments/reference): of the liquid as it is,
and with molecules too close to one another, since a network that has never seen that lets them fall together. With
`--data`, the potential is trained on other labels, such as those of a first-principles trajectory. Frames are divided
at random into those for training, those that choose the best epoch, and those that errors are measured on.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from tqdm import tqdm

import reverlet as rv

from . import _processes, _run
from ._errors import BadInput, refusing
from ._fields import Check, above_zero, at_least, check_fields, nm, not_negative
from ._folder import Folder, History, digest, free_folder, write_json
from ._goals import Goal, at_most, in_time, judged, told
from ._pretrain_figures import draw

HERE = Path(__file__).parent / "reference"
LIQUID, CONTACTS, CLUSTERS = HERE / "water_gfn1", HERE / "water_gfn1_contacts", HERE / "water_clusters_gfn2"
EANN, DIPOLE = HERE / "water_gfn1_eann.npz", HERE / "water_gfn2_dipole.npz"
"""Trained on these by `--preset quick`; the cutoff of the first is 0.4922812 nm."""
_PUBLISHED = {"energies": 0.0668, "forces": 7.35}
"""The errors of the published network of this kind on its own labels, kJ/mol/atom and kJ/mol/Å (Han & Yu 2025)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, ten minutes), paper (one GPU), smoke (seconds)."""
    seed: Annotated[int, not_negative(0)] = 0
    """The seed of all random numbers."""
    data: Path | None = None
    """Labels of water to train the potential on: a folder of DeePMD-kit, extended XYZ or HDF5."""
    order: Literal["oxygens-first", "molecules"] = "oxygens-first"
    """The order of atoms in a folder that does not say it: O…H…, or O, H, H, O, H, H…"""
    held_out: Annotated[float, Check(lambda x: 0 < x < 0.5, "a part of less than one half", 0.1)] = 0.1
    """The fraction of frames that choose the best epoch; as many again are for measuring errors."""
    frames: Annotated[int | None, at_least(8, 100)] = None
    """How many of the frames to use, chosen at random. None: all."""
    contacts: bool = True
    """Train on molecules too close to one another as well; never with --data, whose labels may be of another method."""

    cutoff: Annotated[float | None, nm(0.6)] = None
    """The cutoff of the potential, nm. None: 0.6, or what fits the smallest box."""
    num_radial: Annotated[int, at_least(1, 12)] = 12
    """How many radial functions there are for each element."""
    hidden: tuple[int, ...] = (64, 64)
    """The widths of the hidden layers."""
    epochs: Annotated[int, at_least(1, 160)] = 160
    """How many times the potential sees all frames."""
    batch_size: Annotated[int, at_least(1, 4)] = 4
    """Frames per step of Adam."""
    rate: Annotated[float, above_zero(5e-3)] = 5e-3
    """The initial learning rate; it falls to a thousandth of that along a cosine."""
    force_weight: Annotated[float, not_negative(1e-4)] = 1e-4
    """The weight of forces, (kJ/mol/nm)⁻², where energies have 1 (kJ/mol/atom)⁻²."""
    stress_weight: Annotated[float, not_negative(1e-5)] = 1e-5
    """The weight of stresses, (kJ/mol/nm³)⁻², if there are any."""

    dipole_epochs: Annotated[int, not_negative(120)] = 120
    """How many times the dipole surface sees all clusters. 0: none is trained."""
    dipole_rate: Annotated[float, above_zero(3e-3)] = 3e-3
    """The initial learning rate of the dipole surface."""

    def __post_init__(self):
        check_fields(self)


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", epochs=1000, rate=3e-3, dipole_epochs=1000),
    "smoke": Config(
        preset="smoke", frames=20, num_radial=3, hidden=(8,), epochs=2, dipole_epochs=2, cutoff=0.3, batch_size=2
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Train a neural potential and a dipole surface of water on labels.

    Writes eann.npz, which `rv.EANN.from_npz` reads, dipole.npz, which `load_dipole` reads, parity.npz with labels and
    predictions of the frames held out, and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/pretrain_water, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""
    devices: str | None = None
    """Spread batches over this many devices, or "all". None: as many cores of a CPU as divide the batch size."""

    @property
    def distributed(self) -> None:
        """Always in one process."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("pretrain_water", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    started = time.perf_counter()
    config = command.config
    mesh = _processes.mesh_for(command, config.batch_size, cores=True)
    with refusing():
        liquid = labels_of(config)
        parts = divided(config, liquid, 0)
        close = contacts_of(config)
        both = lambda k: parts[k] if close is None else rv.Labels.concatenate([parts[k], close[k]])
        cutoff = min(0.6, 0.499 * liquid.smallest_height) if config.cutoff is None else config.cutoff
        start = rv.EANN.fresh(
            liquid.topology, key=_key(config, 1), cutoff=cutoff, num_radial=config.num_radial, hidden=config.hidden
        )
        rv.training.predict_labels(start, liquid[:1])  # refuses a cutoff that does not fit
    described = {**dataclasses.asdict(config), "data": config.data and str(config.data)}
    described["data_sha256"] = _digest(config.data or LIQUID)
    described["contacts_sha256"] = _digest(CONTACTS) if close else None
    out = command.out or free_folder(Path("results/pretrain_water"))
    folder = Folder(out, {"experiment": "pretrain_water", **described}, resume=command.resume)

    weights = rv.training.LabelWeights(1.0, config.force_weight, config.stress_weight)
    matched = trained(config, start, (both(0), both(1)), weights, config.epochs, config.rate, folder, "", mesh)
    tested = rv.training.predict_labels(matched.model, parts[2], offset=matched.offset, mesh=mesh)
    np.savez(folder / "eann.npz", **weights_of(matched.model, matched.offset))  # pyright: ignore[reportArgumentType]
    arrays = _parity("", tested, parts[2])
    summary: dict[str, Any] = {
        "labels": (config.data or LIQUID).name,
        "atoms": liquid.topology.num_atoms,
        "cutoff": cutoff,
        "frames": _sizes(parts),
        "best_epoch": matched.best,
        "validation_before": in_units(matched.validation.before),
        "validation_after": in_units(matched.validation.after),
        "test": in_units(rv.training.label_errors(tested, parts[2])),
        "test_spread": in_units(spread(parts[2])),
        "published": _PUBLISHED,
    }
    if close is not None:
        found = rv.training.predict_labels(matched.model, close[2], offset=matched.offset, mesh=mesh)
        summary["contacts"] = {
            "frames": _sizes(close),
            "test": in_units(rv.training.label_errors(found, close[2])),
            "test_spread": in_units(spread(close[2])),
        }
    if config.dipole_epochs:
        clusters = rv.io.read_labels(CLUSTERS)
        cut = divided(config, clusters, 2)
        dipole = fresh_dipole(clusters, _key(config, 3), small=config.preset == "smoke")
        learned = trained(
            config, dipole, cut[:2], weights, config.dipole_epochs, config.dipole_rate, folder, "-dipole", mesh
        )
        np.savez(folder / "dipole.npz", **numbers_of(learned.model))  # pyright: ignore[reportArgumentType]
        found = rv.training.predict_labels(learned.model, cut[2], mesh=mesh)
        arrays |= _parity("cluster_", found, cut[2])
        summary["dipole"] = {
            "waters": clusters.topology.num_atoms // 3,
            "frames": _sizes(cut),
            "best_epoch": learned.best,
            "test": in_units(rv.training.label_errors(found, cut[2])),
            "test_point_charges": in_units(point_charges(cut[0], cut[2])),
        }
    folder.array_stage("parity.npz", lambda: arrays)
    summary["seconds"] = time.perf_counter() - started
    summary["goals"] = judged(goals(summary, resumed=command.resume), config.preset)
    write_json(folder / "summary.json", summary)
    figures = draw(folder.path)
    for line in [*report(summary), told(summary["goals"], config.preset), f"{len(figures)} figures in {folder.path}"]:
        print(line)


# ---- labels


def labels_of(config: Config) -> rv.Labels:
    """Those to train the potential on; of water, every oxygen with its two hydrogens."""
    path = config.data or LIQUID
    topology = None
    if path.is_dir() and not (path / "type.raw").exists() and (flat := sorted(path.glob("coord_*.npy"))):
        atoms = int(np.prod(np.load(flat[0], mmap_mode="r").shape[1:])) // 3
        n = atoms // 3
        molecules = config.order == "molecules"
        topology = rv.Topology.from_elements(["O", "H", "H"] * n if molecules else ["O"] * n + ["H"] * (2 * n))
    labels = rv.io.read_labels(path, topology=topology)
    _require_water(path, labels)
    return labels if config.frames is None else _some(labels, config.frames, _key(config, 4))


def contacts_of(config: Config) -> tuple[rv.Labels, rv.Labels, rv.Labels] | None:
    """The same of molecules too near one another, if there are any to train on."""
    if config.data is not None or not config.contacts:
        return None
    labels = rv.io.read_labels(CONTACTS)
    if config.frames is not None:
        labels = _some(labels, min(config.frames, len(labels)), _key(config, 6))
    return divided(config, labels, 7)


def _require_water(path: Path, labels: rv.Labels) -> None:
    oxygen = np.asarray(labels.topology.atomic_numbers) == 8
    x = labels.positions[0]
    d = x[oxygen][:, None] - x[~oxygen][None]
    if labels.vectors is not None:
        d = d - np.round(d @ np.linalg.inv(labels.vectors[0])) @ labels.vectors[0]
    near = np.sum(np.linalg.norm(d, axis=-1) < 0.13, axis=1)
    if not (set(labels.topology.elements) == {"H", "O"} and np.all(near == 2)):
        raise BadInput(
            f"The labels {path} are not of water: oxygens have {sorted(set(near.tolist()))} hydrogens within 0.13 nm;"
            " wanted two each. In a folder that does not say which atom is what, look at --order."
        )


def _some(labels: rv.Labels, num: int, key: Any) -> rv.Labels:
    if num > len(labels):
        raise BadInput(f"--frames is {num}, of {len(labels)}; wanted fewer, such as {len(labels)}.")
    return labels[np.asarray(jax.random.permutation(key, len(labels))[:num])]


def divided(config: Config, labels: rv.Labels, stage: int) -> tuple[rv.Labels, rv.Labels, rv.Labels]:
    """Labels to train on, to choose the best epoch by, and to measure errors on."""
    keys = jax.random.split(_key(config, stage))
    rest, test = labels.split(config.held_out, key=keys[0])
    training, validation = rest.split(config.held_out / (1 - config.held_out), key=keys[1])
    return training, validation, test


def _sizes(parts: tuple[rv.Labels, ...]) -> dict[str, int]:
    return dict(zip(("training", "validation", "test"), map(len, parts), strict=True))


def _key(config: Config, stage: int) -> Any:
    return jax.random.fold_in(jax.random.key(config.seed), stage)


def _digest(path: Path) -> Any:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return {str(p.relative_to(path)) or p.name: digest(p) for p in files}


# ---- training


def trained(
    config: Config,
    model: Any,
    parts: tuple[rv.Labels, rv.Labels],
    weights: rv.training.LabelWeights,
    epochs: int,
    rate: float,
    folder: Folder,
    name: str,
    mesh: Any,
) -> Any:
    """What `force_matching` makes of it, with a checkpoint and a line of the history for every epoch."""
    file = History(folder / f"history{name}.jsonl")
    training, validation = parts
    steps = max(1, len(training) // config.batch_size) * epochs
    bar = tqdm(total=epochs, desc="epoch", unit="")

    def note(state: rv.FitState) -> None:
        file.tick(state.step)
        lines = _lines(state.history)
        file.write(lines)
        bar.initial = bar.initial or state.step - 1
        shown = lines[-1]["validation"]
        bar.set_postfix_str(", ".join(f"{k} {v:.3g}" for k, v in shown.items()), refresh=False)
        bar.update(state.step - bar.n)

    with bar:
        matched = rv.force_matching(
            model,
            training,
            optax.adam(optax.cosine_decay_schedule(rate, steps, 1e-3)),
            validation=validation,
            num_epochs=epochs,
            batch_size=config.batch_size,
            weights=weights,
            mesh=mesh,
            callback=note,
            checkpoint=folder / f"checkpoint{name}.eqx",
            resume="auto",
            key=_key(config, 5),
        )
    file.write(_lines(matched.state.history))
    return matched


def _lines(history: rv.training.Epochs) -> list[dict[str, Any]]:
    of = lambda errors, k: in_units(jax.tree.map(lambda x: x[k], errors))
    return [
        {"update": k + 1, "training": of(history.training, k), "validation": of(history.validation, k)}
        for k in range(len(history.validation_loss))
    ]


def in_units(errors: rv.training.LabelErrors) -> dict[str, float]:
    """kJ/mol/atom, kJ/mol/Å, kbar and debye."""
    scales = {
        "energies": 1.0, "forces": 1 / rv.units.ANGSTROM, "stresses": 1e3 * rv.units.BAR, "dipoles": rv.units.DEBYE
    }  # fmt: skip
    return {name: float(x) / scales[name] for name, x in vars(errors).items() if x is not None}


def spread(labels: rv.Labels) -> rv.training.LabelErrors:
    """The errors of a model that always predicts the mean."""
    flat = {name: np.mean(getattr(labels, name), axis=0, keepdims=True) for name in labels.kinds if name != "forces"}
    flat |= {"forces": np.zeros((1, 1, 1))} if "forces" in labels.kinds else {}
    wide = {name: np.broadcast_to(x, getattr(labels, name).shape) for name, x in flat.items()}
    mean = rv.Labels(labels.topology, labels.positions, labels.vectors, **wide)
    return rv.training.label_errors(mean, labels)


def point_charges(training: rv.Labels, test: rv.Labels) -> rv.training.LabelErrors:
    """The errors in dipoles of the best fixed charges, neutral on every molecule, as force fields have them."""
    sign = np.where(np.asarray(training.topology.atomic_numbers) == 8, -2.0, 1.0)
    of = lambda labels: np.einsum("a,fax->fx", sign, labels.positions)
    x, y = of(training), training.dipoles
    charge = np.sum(x * y) / np.sum(x * x)
    fixed = rv.Labels(test.topology, test.positions, dipoles=charge * of(test))
    return rv.training.label_errors(fixed, test)


def weights_of(model: rv.EANN, offset: float) -> dict[str, np.ndarray]:
    """The arrays that `rv.EANN.from_npz` reads, with the constant of the labels in that of every atom."""
    arrays: dict[str, Any] = {"c": model.amplitudes, "inta": model.widths, "rs": model.shifts}
    arrays["initpot"] = np.asarray(float(model.offset) + offset / len(model.kinds.of_atom))
    fields = ("weights", "bias", "scale", "shift", "height", "steepness")
    for k, layer in enumerate(model.layers):
        names = [f"{kind}{3 * k + n}" for n in range(3) for kind in "wb"]
        arrays |= {name: getattr(layer, field) for name, field in zip(names, fields, strict=True)}
    last = 3 * len(model.layers)
    arrays |= {f"w{last}": model.last[0], f"b{last}": model.last[1]}
    return {name: np.asarray(x) for name, x in arrays.items()}


def fresh_dipole(labels: rv.Labels, key: Any, *, small: bool = False) -> rv.DeepDipole:
    """A dipole surface of water to be trained, of charges -2 and 1 e and a displacement at every oxygen."""
    neurons, axis, hidden = ((4, 8), 2, (8,)) if small else ((8, 16, 32), 4, (32, 32))
    box = rv.OpenBox()  # pyright: ignore[reportCallIssue]
    return rv.DeepDipole.fresh(
        labels.topology, jnp.asarray(labels.positions[0]), box, elements=("O", "H"), charges=(-2.0, 1.0),
        centers=("O",), cutoff=0.45, neurons=neurons, axis=axis, hidden=hidden, key=key,
    )  # fmt: skip


def numbers_of(model: rv.DeepDipole) -> dict[str, np.ndarray]:
    """What is trained of a dipole surface, by the names of fields."""
    flat = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_inexact_array))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in flat}


def load_dipole(topology: rv.Topology, positions: Any, path: Path = DIPOLE) -> rv.DeepDipole:
    """The dipole surface that a run wrote, by default the one that comes with the project, for the atoms of a topology.

    **Arguments:** `positions`, any configuration of them, nm.
    """
    clusters = rv.io.read_labels(CLUSTERS)
    like = fresh_dipole(clusters, jax.random.key(0))
    with np.load(path) as arrays:
        take = lambda at, x: jnp.asarray(arrays[jax.tree_util.keystr(at)], x.dtype) if eqx.is_inexact_array(x) else x
        model = jax.tree_util.tree_map_with_path(take, like)
    here = fresh_dipole(rv.Labels(topology, np.asarray(positions)[None], dipoles=np.zeros((1, 3))), jax.random.key(0))
    return eqx.tree_at(lambda d: d.descriptor.kinds, model, here.descriptor.kinds)


# ---- what is told


def _parity(prefix: str, predicted: rv.Labels, labels: rv.Labels) -> dict[str, np.ndarray]:
    found = {}
    for name in predicted.kinds:
        found[f"{prefix}{name}_label"] = getattr(labels, name)
        found[f"{prefix}{name}"] = getattr(predicted, name)
    return found


def goals(summary: dict[str, Any], *, resumed: bool) -> list[Goal]:
    """What the potential should reach on frames that it has not seen, and the dipole on clusters."""
    test = summary["test"]
    found = [
        at_most("error of forces on frames held out, kJ/mol/Å", test["forces"], 12),
        at_most("error of energies on frames held out, kJ/mol/atom", test["energies"], 0.15),
    ]
    if "dipole" in summary:
        dipole = summary["dipole"]
        ratio = dipole["test"]["dipoles"] / dipole["test_point_charges"]["dipoles"]
        found.append(at_most("error of dipoles of clusters held out, over that of point charges", ratio, 0.25))
    return [*found, in_time(summary["seconds"], 10, resumed=resumed)]


def report(summary: dict[str, Any]) -> list[str]:
    """What is printed."""
    units = {"energies": "kJ/mol/atom", "forces": "kJ/mol/Å", "stresses": "kbar", "dipoles": "D"}
    line = lambda d: ", ".join(f"{k} {v:.4g} {units[k]}" for k, v in d.items())
    frames = summary["frames"]
    lines = [
        f"Trained: {frames['training']} frames of {summary['atoms']} atoms ({summary['labels']}), best epoch"
        f" {summary['best_epoch']}.",
        f"Errors on {frames['test']} frames held out: {line(summary['test'])}; of a model that predicts the mean,"
        f" {line(summary['test_spread'])}. Published, on other labels: {line(summary['published'])}.",
    ]
    if "contacts" in summary:
        close = summary["contacts"]
        lines.append(
            f"Of {close['frames']['test']} with molecules too near one another ({close['frames']['training']} trained"
            f" on): {line(close['test'])}; of the mean, {line(close['test_spread'])}."
        )
    if "dipole" in summary:
        dipole = summary["dipole"]
        lines.append(
            f"Dipoles of {dipole['frames']['test']} clusters of {dipole['waters']} waters:"
            f" {line(dipole['test'])}; of the best fixed charges, {line(dipole['test_point_charges'])}."
        )
    return [*lines, f"How long: {summary['seconds']:.0f} s."]
