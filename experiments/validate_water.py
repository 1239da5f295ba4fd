"""Measure the properties of liquid water with a neural potential, beside experiment: one table, one page of figures.

Trajectories at constant energy start from samples at constant temperature, at the experimental density. They give
pressure, structure, diffusion, dielectric constant, infrared spectrum, vibrational density of states, and how well
energy is conserved. Further simulations give the density at 1 bar, and one molecule alone for the heat of vaporization;
energies of clusters are compared with PBE0. With --beads, ring-polymer dynamics tells by how much quantum nuclei lower
vibrations: a shift that is absorbed when a potential is fitted to a measured spectrum with classical nuclei.

`quick` is limited to what two cores do in ten minutes: 64 waters, 8 trajectories of 2.5 ps after 1.5 ps of
equilibration,
and 2.5 ps at constant pressure. Slow properties (dielectric constant, density, diffusion) then have large errors, which
are estimated from the scatter of eight chains; energy conservation is watched for 2.5 ps only; and there are no ring
polymers. `paper`, for a GPU, has 216 waters, 16 trajectories of 100 ps, in pieces that can be resumed, and 100 ps at
constant pressure.

Networks have holes where they have seen no labels, and trajectories fall into them. Chains in which a molecule came
apart do not count, and the table says how many there were; if they are more than half, the run ends, and writes the
atoms to be looked at.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import reverlet as rv

from . import _processes, _run, _validation_figures
from ._chains import Chains, states_of
from ._errors import BadInput, refusing
from ._fields import above_zero, at_least, check_fields, nm, not_negative, ps, require, require_frames, step_fs
from ._folder import Folder, digest, free_folder, write_json
from ._goals import at_most, in_time, judged, told
from ._measured_spectrum import Quantity, measured
from ._measured_water import read_rdfs
from ._neural_water import load_moment, load_surface
from ._validation import Grids, Liquid, cluster_energies, one_molecule
from ._validation_summary import Others, compared, lines_of, read_run, summarize
from ._water import packed, read_structure

ONE = rv.Topology.from_elements(["O", "H", "H"], bonds=[(0, 1), (0, 2)])
"""A molecule."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a run what it is."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, ten minutes), paper (one GPU), smoke (seconds, no
    physics)."""
    seed: Annotated[int, not_negative(0)] = 0
    """The seed of all random numbers."""
    potential: Path | None = None
    """The potential, an archive that `rv.EANN.from_npz` reads. None: the one that comes with the project."""
    cutoff: Annotated[float | None, nm(0.6)] = None
    """The cutoff of the potential, nm, which archives do not hold. None: that of the project's potential; 0.6 for
    others."""
    dipole: Path | None = None
    """The dipole surface: what `pretrain_water` writes, or the archive of a published model. None: the one that comes
    with the project."""
    hyperparameters: Path | None = None
    """The JSON file beside the archive of a published dipole model."""
    spectrum: Path | None = None
    """The infrared spectrum to compare with: wavenumber (1/cm) and --quantity. None: that of Segelstein (1981)."""
    quantity: Quantity = "n_alpha"
    """What the second column is: n·α (1/cm) or ε″."""
    rdf: Path | None = None
    """Radial distribution functions to compare with, in seven columns: r (Å), g_OO, g_OH and g_HH with their errors."""
    structure: Path | None = None
    """Start from the liquid in this file (PDB or extxyz, with a periodic box) instead of one that is packed."""
    waters: Annotated[int, at_least(8, 64)] = 64
    """How many molecules, without --structure."""
    density: Annotated[float, above_zero(0.997)] = 0.997
    """The density (g/cm³) of all simulations but that at constant pressure, without --structure."""
    temperature: Annotated[float, above_zero(298.15)] = 298.15
    """The temperature, K."""

    trajectories: Annotated[int, at_least(2, 8, "since errors are told from the scatter of them")] = 8
    """How many trajectories, all run as one batch."""
    time_step: Annotated[float, step_fs(0.5)] = 0.5
    """fs."""
    save_every: Annotated[int, at_least(1, 4)] = 4
    """Time steps between two frames."""
    every: Annotated[int, at_least(1, 25)] = 25
    """Structure, pressure and energies are evaluated once in this many frames."""
    friction: Annotated[float, not_negative(2)] = 2.0
    """The friction of the Langevin chains, 1/ps."""
    nvt: Annotated[float, ps(3, zero=True)] = 3.0
    """How long chains of q-SPC/Fw water run first, from packed molecules, ps."""
    equilibration: Annotated[float, ps(1.5, zero=True)] = 1.5
    """How long the chains then run with the neural potential before anything is measured, ps."""
    pieces: Annotated[int, at_least(1, 1)] = 1
    """How many pieces every trajectory has; each is saved by itself."""
    length: Annotated[float, ps(2.5)] = 2.5
    """The length of a piece, ps."""
    correlation: Annotated[float, ps(2)] = 2.0
    """Where the correlation functions of spectra end, ps; the Gaussian window is a third as wide."""
    highest: Annotated[float, above_zero(4500)] = 4500.0
    """Where the spectra end, 1/cm."""
    spacing: Annotated[float, above_zero(5)] = 5.0
    """The spacing of wavenumbers, 1/cm."""
    k_max: Annotated[float, above_zero(60)] = 60.0
    """Where the structure factor ends, 1/nm."""
    viscosity: Annotated[float | None, above_zero(0.89e-3)] = None
    """The viscosity of the liquid (Pa s), for the finite-size correction of the diffusion coefficient. None: that of
    experiment, divided by how much faster than in experiment molecules diffuse (Stokes and Einstein)."""
    npt: Annotated[float, ps(2.5, zero=True)] = 2.5
    """How long the chains run at constant pressure, ps; the first half is thrown away. 0: not at all."""
    pressure: float = 1.0
    """The pressure of that simulation, bar."""
    gas: Annotated[float, ps(4, zero=True)] = 4.0
    """How long 64 chains of one molecule run, ps; the first half is thrown away. 0: not at all."""
    beads: Annotated[int, not_negative(16)] = 0
    """Beads of ring polymers, whose vibrations are compared with those of classical nuclei. 0: no ring polymers. With
    16
    beads, every ps costs 16 times as much."""
    paths: Annotated[int, at_least(2, 4, "since errors are told from the scatter of them")] = 2
    """How many of the chains go on as ring polymers: after --equilibration, for a piece of the same length."""

    def __post_init__(self):
        check_fields(self)
        for name in ("structure", "potential", "dipole", "hyperparameters", "spectrum", "rdf"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise BadInput(f"--{name} is {path}, which is not there; wanted a file.")
        frame = self.dt * self.save_every
        require_frames("correlation", self.correlation, self.correlation, frame)
        require_frames("length", self.length, self.length, frame * self.every)
        fine = self.length >= self.correlation
        require(fine, "length", self.length, "at least --correlation", 2 * self.correlation)

        require(self.paths <= self.trajectories, "paths", self.paths, "at most --trajectories", self.trajectories)

    @property
    def dt(self) -> float:
        """ps."""
        return self.time_step * rv.units.FEMTOSECOND


PRESETS = {
    "quick": Config(),
    "paper": Config(
        preset="paper", waters=216, trajectories=16, pieces=20, length=5.0, nvt=10.0, equilibration=10.0,
        npt=100.0, gas=40.0,
    ),
    "smoke": Config(
        preset="smoke", waters=32, trajectories=2, pieces=1, length=0.016, correlation=0.016, every=1, nvt=0.01,
        equilibration=0.01, npt=0.0, gas=0.04, spacing=50.0, k_max=20.0,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Measure the properties of liquid water with a neural potential, beside experiment.

    Writes the files of its stages, summary.json and validation.png. With --compare, nothing is simulated: it makes one
    table and one figure of earlier runs.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/validate_water, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""
    devices: str | None = None
    """Spread trajectories over this many devices, or "all". None: as many cores of a CPU as divide their number."""
    compare: tuple[Path, ...] = ()
    """Folders of earlier runs to compare."""

    @property
    def distributed(self) -> None:
        """Always in one process."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("validate_water", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with the table on the standard output."""
    if command.compare:
        return compare(command)
    started, processor = time.perf_counter(), time.process_time()
    config = command.config
    mesh = _processes.mesh_for(command, config.trajectories, cores=True)
    out = command.out or free_folder(Path("results/validate_water"))
    with refusing():
        reference = measured(config.spectrum, config.quantity)
        rdfs = read_rdfs(config.rdf) if config.rdf else None
        surface_of(config, ONE)  # refused before molecules are packed, which takes longer
        make = lambda: packed(config.waters, config.density, _key(config, 0))
        state = in_one_piece(read_structure(config.structure)) if config.structure else make()
        liquid = liquid_of(config, state, mesh, out)
        spectrum = _filtered(liquid, reference)
    folder = Folder(out, described(config), resume=command.resume)

    start = folder.array_stage(
        "start.npz", lambda: liquid.started(state, config.trajectories, config.nvt, _key(config, 1))
    )
    ready = folder.array_stage(
        "equilibrated.npz",
        lambda: liquid.equilibrated(_states(start, state, mesh), config.equilibration, _key(config, 2)),
    )
    last, pieces = ready, []
    for k in range(config.pieces):
        compute = lambda last=last: liquid.piece(_states(last, state, mesh))
        last = folder.array_stage(f"piece-{k + 1}.npz", compute)
        pieces.append(last)
    load = lambda topology: surface_of(config, topology)
    clusters = folder.array_stage("clusters.npz", lambda: cluster_energies(load))
    gas = density = quantum = None
    if config.gas:
        alone = lambda: one_molecule(load(ONE), ONE, config.temperature, config.dt, config.gas, _key(config, 3))
        gas = folder.array_stage("gas.npz", alone)
    if config.npt:
        breathe = lambda: liquid.breathing(_states(last, state, mesh), config.npt, config.pressure, _key(config, 4))
        density = folder.array_stage("npt.npz", breathe)
    if config.beads:
        few = {name: last[name][: config.paths] for name in ("positions", "velocities")}
        lengths = config.beads, config.equilibration, config.length
        wavy = lambda: liquid.quantum(states_of(few, state.box), *lengths, _key(config, 5))
        quantum = folder.array_stage("beads.npz", wavy)

    others = Others(clusters, gas, density, quantum)
    curves, summary = summarize(config, liquid, ready["whole"], pieces, others, spectrum, rdfs)
    np.savez(folder / "curves.npz", **curves)  # pyright: ignore[reportArgumentType]
    seconds = time.perf_counter() - started
    apart = config.trajectories - summary["rows"][0]["value"]
    goals = [at_most("trajectories in which molecules came apart", apart, 0)]
    if config.preset != "paper":
        goals.append(in_time(seconds, 10, resumed=command.resume))
    summary["timing"] = {"seconds": seconds, "processor_seconds": time.process_time() - processor}
    summary["goals"] = judged(goals, config.preset)
    write_json(folder / "summary.json", summary)
    _validation_figures.draw(folder / "validation.png", {folder.path.name: read_run(folder.path)})
    print(*lines_of(summary), sep="\n")
    print(f"{told(summary['goals'], config.preset)} {seconds:.0f} s. Figures: {folder / 'validation.png'}")


def compare(command: Command) -> None:
    """One table and one figure of earlier runs."""
    runs = {path.resolve().name: read_run(path) for path in command.compare}
    if len(runs) < len(command.compare):
        raise BadInput("Two of the folders of --compare have the same name; wanted another name for each.")
    out = command.out or free_folder(Path("results/validate_water_compare"))
    folder = Folder(out, {"experiment": "validate_water", "compare": [str(p) for p in command.compare]}, resume=False)
    table = compared({name: run.summary for name, run in runs.items()})
    (folder / "comparison.txt").write_text("\n".join(table) + "\n")
    _validation_figures.draw(folder / "comparison.png", runs)
    print(*table, sep="\n")
    print(f"Figures: {folder / 'comparison.png'}")


# ---- what a run is made of


def surface_of(config: Config, topology: rv.Topology) -> rv.EANN:
    """The surface for the atoms of a topology, but for its constant per atom: single precision has no digits for
    both."""
    surface = load_surface(config.potential, topology, config.cutoff)
    return eqx.tree_at(lambda s: s.offset, surface, jnp.zeros_like(jnp.asarray(surface.offset)))


def in_one_piece(state: rv.State) -> rv.State:
    """Molecules of water whose hydrogens are where their oxygens are, and not on the other side of the box: a dipole
    needs that."""
    molecules = state.positions.reshape(-1, 3, 3)
    away = jax.vmap(jax.vmap(state.box.displacement, (None, 0)))(molecules[:, 0], molecules)
    whole = (molecules[:, :1] + away).reshape(-1, 3)
    return rv.State(whole, state.velocities, state.box)


def liquid_of(config: Config, state: rv.State, mesh: Any, path: Path) -> Liquid:
    """The liquid in the box of a state, which is checked."""
    topology = rv.qspcfw(len(state.positions) // 3, state.box).topology
    surface = surface_of(config, topology)
    moment = load_moment(config.dipole, config.hyperparameters, topology, state.positions)
    interval = 0.1 if config.equilibration >= 0.1 else config.equilibration
    # barostats try the volume every 20 steps
    interval = max(1, round(interval / config.dt / 20)) * 20 * config.dt
    sampling = Chains(topology, config.temperature, config.friction, config.dt, interval, mesh)
    lengths = config.length, config.correlation, config.highest, config.spacing, config.k_max
    liquid = Liquid(sampling, state.box, surface, moment, Grids(config.save_every, config.every, *lengths), path)
    liquid.system.check(state)
    return liquid


def described(config: Config) -> dict[str, Any]:
    """The configuration, with the digests of its files."""
    found = {"experiment": "validate_water", **dataclasses.asdict(config)}
    for field, value in dataclasses.asdict(config).items():
        if isinstance(value, Path):
            found |= {field: str(value), f"{field}_sha256": digest(value)}
    return found


def _filtered(liquid: Liquid, reference: Any) -> np.ndarray:
    """A measured spectrum through the window of the simulated one."""
    highest = float(liquid.infrared.wavenumbers[-1])
    grid = np.arange(max(1.0, np.ceil(reference.wavenumbers[0])), min(highest, reference.wavenumbers[-1]) + 1e-9)
    known = reference.at(grid)
    return np.asarray(liquid.infrared.filtered(grid, known, liquid.ensemble, step=liquid.frame), float)


def _states(arrays: dict[str, np.ndarray], state: rv.State, mesh: Any) -> rv.State:
    return _processes.on_all(states_of(arrays, state.box), mesh)


def _key(config: Config, stage: int) -> Any:
    return jax.random.fold_in(jax.random.key(config.seed), stage)
