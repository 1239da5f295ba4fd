"""`python -m benchmarks [NAME] [--help]`: one benchmark, or all of them with their defaults."""

import sys

from benchmarks import batches, gradient_cost, large_systems, solvers, stress, surfaces, water

BENCHMARKS = {
    "gradient_cost": gradient_cost.main,
    "batches": batches.main,
    "large_systems": large_systems.main,
    "solvers": solvers.main,
    "stress": stress.main,
    "surfaces": surfaces.main,
    "water": water.main,
}


def main() -> int:
    if len(sys.argv) < 2:
        for name, run in BENCHMARKS.items():
            print(f"\n{name}", flush=True)
            run([])
        return 0
    if sys.argv[1] not in BENCHMARKS:
        print(f"usage: python -m benchmarks [{{{','.join(BENCHMARKS)}}}] [--help]", file=sys.stderr)
        return 2
    BENCHMARKS[sys.argv[1]](sys.argv[2:])
    return 0


sys.exit(main())
