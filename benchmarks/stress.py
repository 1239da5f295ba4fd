"""What a stress costs: argon by all pairs and by lists, in an orthorhombic and a triclinic box, and water with Ewald.

`python -m benchmarks stress` measures milliseconds of forces and of stress, and how many forces a stress is. Medians of
several runs, taken in turns.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

import reverlet as rv

from . import _common
from .large_systems import CUTOFF, EPSILON, SIGMA, SKIN, crystal


def case(name: str, potential, positions, box, neighbors=None) -> tuple[str, dict]:
    """Programs of forces and of stress."""
    forces = jax.jit(lambda x, b, n: potential.forces(x, b, neighbors=n)).lower(positions, box, neighbors).compile()
    stress = jax.jit(lambda x, b, n: potential.stress(x, b, neighbors=n)).lower(positions, box, neighbors).compile()

    def times(program):  # several, since one is short
        def run():
            for _ in range(10):
                jax.block_until_ready(program(positions, box, neighbors))

        return run

    return name, {"forces": times(forces), "stress": times(stress)}


def argon(atoms: int, dtype: jnp.dtype, *, lists: bool, triclinic: bool) -> tuple[str, dict]:
    positions, length = crystal(atoms)
    positions = jnp.asarray(positions, dtype)
    potential = rv.LennardJones(jnp.asarray(SIGMA, dtype), jnp.asarray(EPSILON, dtype), cutoff=CUTOFF)
    box = rv.OrthorhombicBox(jnp.full(3, length, dtype))
    box = rv.TriclinicBox(box.vectors) if triclinic else box
    found = rv.CellList.fit(positions, box, cutoff=CUTOFF, skin=SKIN).find(positions, box) if lists else None
    name = f"argon, {atoms} atoms, {'lists' if lists else 'all pairs'}, {type(box).__name__}"
    return case(name, potential, positions, box, found)


def water(dtype: jnp.dtype, *, mesh: bool) -> tuple[str, dict]:
    box = rv.OrthorhombicBox(jnp.full(3, 1.2385, dtype))
    system = rv.qspcfw(64, box, truncation=rv.SmoothSwitch(0.52)).astype(dtype)
    molecule = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
    shape = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]], dtype)
    _, state = rv.pack(molecule, shape, 64, box=box, key=jax.random.key(0))
    potential = system.potential
    if mesh:
        ewald = potential.part(rv.Ewald)
        potential = rv.P3M.fit(ewald.charges, box, cutoff=ewald.cutoff, exclusions=ewald.exclusions)
    return case(f"64 waters, {'P3M alone' if mesh else 'Ewald and all'}", potential, state.positions, box)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks stress", description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "float64"], help="one precision instead of both")
    parser.add_argument("--repeats", type=int, default=15, help="how many runs the medians are of")
    parser.add_argument("--out", type=Path, default=Path("results/stress.json"), help="JSON file to write")
    args = parser.parse_args(argv)
    rows = []
    for dtype in [args.dtype] if args.dtype else ["float32", "float64"]:
        with jax.enable_x64(dtype == "float64"):
            kind = jnp.dtype(dtype)
            cases = [argon(n, kind, lists=False, triclinic=t) for n in (346, 864) for t in (False, True)]
            cases += [argon(5324, kind, lists=True, triclinic=t) for t in (False, True)]
            cases += [water(kind, mesh=False)]
            try:
                cases += [water(kind, mesh=True)]
            except ImportError as error:
                print(error)
            for name, turns in cases:
                ms = {key: 100 * seconds for key, seconds in _common.medians(turns, args.repeats).items()}
                rows.append({"case": name, "dtype": dtype, **ms, "ratio": ms["stress"] / ms["forces"]})
    _common.write(args.out, {"repeats": args.repeats, "rows": rows})
    print("| case | dtype | forces, ms | stress, ms | stress / forces |")
    print("|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['case']} | {r['dtype']} | {r['forces']:.3f} | {r['stress']:.3f} | {r['ratio']:.2f} |")
    print(f"Medians of {args.repeats} runs.")
