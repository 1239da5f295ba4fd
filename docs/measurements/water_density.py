"""The density of 216 q-SPC/Fw waters at 298.15 K and 1 bar, by our own barostats and by OpenMM's.

    python docs/measurements/water_density.py ours --duration 200 --out densities
    python docs/measurements/water_density.py openmm --duration 200 --out densities
    python docs/measurements/water_density.py table --out densities

The engines are `ours` (stochastic cell rescaling), `monte-carlo` (our Monte Carlo barostat) and `openmm`; all have the
same cutoff, switch and correction for the tail, Langevin dynamics at 0.5 fs. Both run in pieces: what is killed goes on
from its last one, and `--duration` (ps of every chain, the first 20 of equilibration aside) may be made longer later.
`speed` measures the CPU time of a step of every engine instead.
"""
# ruff: noqa: T201

import argparse
import os
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import reverlet as rv

MOLECULES, CUTOFF, TEMPERATURE, DT, PIECE = 216, 0.8, 298.15, 0.0005, 1.0  # nm, K, ps, ps
EQUILIBRATION = 20  # pieces
MASS = MOLECULES * (15.999 + 2 * 1.008)  # u
ENGINES = ("ours", "monte-carlo", "openmm")


def start(chains: int) -> tuple[rv.System, rv.State]:
    """Water at 1 g/cm³, relaxed, as many times as there are chains."""
    length = (MASS / rv.units.GRAM_PER_CUBIC_CENTIMETER) ** (1 / 3)
    box = rv.OrthorhombicBox(jnp.full(3, length))
    system = rv.WaterModel.qspcfw().system(MOLECULES, box, cutoff=CUTOFF, tail=True)
    molecule = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
    shape = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]])
    _, packed = rv.pack(molecule, shape, MOLECULES, box=box, key=jax.random.key(0))
    relaxed = rv.minimize(system, packed, max_steps=500).state
    draw = lambda k: rv.maxwell_boltzmann(system.topology, TEMPERATURE, key=k)
    velocities = jax.vmap(draw)(jax.random.split(jax.random.key(1), chains))
    return system, relaxed.repeat(chains).with_velocities(velocities)


def sampler(engine: str, steps: int) -> rv.AbstractSampler:
    """One that gives a sample every so many steps."""
    settings = {"dt": DT, "num_steps": steps}
    if engine == "openmm":
        return rv.openmm.OpenMMSampler(TEMPERATURE, 5.0, pressure=1 * rv.units.BAR, platform="CPU", **settings)
    thermostat = rv.LangevinBAOAB(TEMPERATURE, 5.0, **settings)
    if engine == "ours":
        return rv.StochasticCellRescaling(thermostat, 1 * rv.units.BAR, period=0.5, every=25)
    return rv.MonteCarloBarostat(thermostat, 1 * rv.units.BAR, every=25)


def run(engine: str, chains: int, duration: float, folder: Path) -> None:
    """From the last piece that is there, or from the start."""
    system, states = start(chains)
    path, every = folder / f"{engine}.npz", round(0.1 / DT)
    ours, known, done = sampler(engine, every), rv.Chains(states), np.zeros((0, chains))
    if path.exists():
        with np.load(path) as file:
            known, done = restored(known, file), file["volumes"]
    per_piece, key = round(PIECE / 0.1), jax.random.key(ENGINES.index(engine))
    while len(done) < (EQUILIBRATION + round(duration / PIECE)) * per_piece:
        samples, known = ours.sample(system, known, per_piece * chains, key=key)
        done = np.concatenate([done, np.asarray(samples.states.box.volume).reshape(-1, chains)])
        part = path.with_suffix(".part.npz")
        np.savez(part, volumes=done, **as_arrays(known))
        os.replace(part, path)
        print(f"{engine}: {len(done) * 0.1:.0f} ps, {MASS / done[-per_piece:].mean() / GRAM:.4f} g/cm³", flush=True)


GRAM = rv.units.GRAM_PER_CUBIC_CENTIMETER


def as_arrays(chains: rv.Chains) -> dict[str, np.ndarray]:
    s, cell = chains.states, chains.cell
    arrays = {"positions": s.positions, "velocities": s.velocities, "lengths": s.box.lengths, "rounds": chains.rounds}
    if cell is not None:
        arrays |= {"moves": jnp.stack([cell.tried, cell.accepted, cell.rounds])}
        arrays |= {} if cell.size is None else {"size": cell.size}
    return {name: np.asarray(x) for name, x in arrays.items()}


def restored(like: rv.Chains, file) -> rv.Chains:
    array = lambda name: jnp.asarray(file[name])
    where = lambda c: (c.states.positions, c.states.velocities, c.states.box.lengths, c.rounds)
    chains = eqx.tree_at(where, like, tuple(map(array, ("positions", "velocities", "lengths", "rounds"))))
    if "moves" not in file:
        return chains
    size = array("size") if "size" in file else None
    return rv.Chains(chains.states, chains.rounds, rv.CellMoves(*array("moves"), size))


def table(folder: Path) -> None:
    """The mean of every engine with its standard error, over blocks of all chains."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            volumes = file["volumes"][EQUILIBRATION * round(PIECE / 0.1) :]
            acceptance = np.mean(file["moves"][1] / file["moves"][0]) if "moves" in file else np.nan
        chain = jnp.asarray(np.tile(np.arange(volumes.shape[1]), len(volumes)))
        density = MASS / volumes.ravel() / GRAM
        # ρ is the mass over the mean volume; its error that of the volume, relative
        blocks = rv.statistics.blocks_of(chain)
        mean = MASS / volumes.mean() / GRAM
        share = (volumes.ravel() / volumes.mean() - 1) / volumes.size
        error = mean * float(blocks.error(jnp.asarray(share)))
        print(
            f"{path.stem}: {mean:.5f} ± {error:.5f} g/cm³ of {volumes.shape[1]} chains of {len(volumes) * 0.1:.0f} ps,"
            f" spread {density.std():.4f}; moves accepted {acceptance:.3f}"
        )


def speed(chains: int) -> None:
    """CPU and wall time of a step of one chain."""
    system, states = start(chains)
    for engine in ("thermostat", *ENGINES):
        steps = 200
        settings = {"dt": DT, "num_steps": steps}
        ours = rv.LangevinBAOAB(TEMPERATURE, 5.0, **settings) if engine == "thermostat" else sampler(engine, steps)
        _, known = ours.sample(system, states, chains, key=jax.random.key(0))
        cpu, wall = time.process_time(), time.perf_counter()
        jax.block_until_ready(ours.sample(system, known, chains, key=jax.random.key(0)))
        cpu, wall = (1e3 * (now - was) / steps / chains for now, was in (
            (time.process_time(), cpu), (time.perf_counter(), wall)))  # fmt: skip
        print(f"{engine}: {cpu:.2f} ms of CPU time and {wall:.2f} ms for a step of one of {chains} chains", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*ENGINES, "table", "speed"))
    parser.add_argument("--duration", type=float, default=200.0, help="ps of every chain")
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("densities"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.what == "table":
        table(asked.out)
    elif asked.what == "speed":
        speed(asked.chains)
    else:
        run(asked.what, asked.chains, asked.duration, asked.out)


if __name__ == "__main__":
    main()
