"""`python -m benchmarks NAME [--help]`."""

import sys

from benchmarks import gradient_cost, solvers

BENCHMARKS = {"gradient_cost": gradient_cost.main, "solvers": solvers.main}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        print(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [--help]", file=sys.stderr)
        return 2
    BENCHMARKS[sys.argv[1]](sys.argv[2:])
    return 0


sys.exit(main())
