"""`python -m benchmarks [NAME] [--help]`: one benchmark, or all of them with their defaults."""

import ast
import importlib
import sys
from pathlib import Path

BENCHMARKS = ("gradient_cost", "batches", "large_systems", "reweighting", "solvers", "stress", "surfaces", "water")


def main(arguments: list[str]) -> int:
    """Runs the benchmark that is named first, or all; returns the exit status."""
    if arguments and arguments[0] in ("-h", "--help"):
        # read, since importing them would wait for JAX
        source = lambda name: ast.parse(Path(__file__).with_name(f"{name}.py").read_text("utf-8"))
        listing = "\n".join(
            f"  {name}: {(ast.get_docstring(source(name)) or '').splitlines()[0]}" for name in BENCHMARKS
        )
        print(f"Usage: python -m benchmarks [NAME [--help] ...]\n\nWithout a name, all with their defaults:\n{listing}")
        return 0
    if arguments and arguments[0] not in BENCHMARKS:
        print(f"Error: there is no benchmark {arguments[0]!r}; wanted one of {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    for name in arguments[:1] or BENCHMARKS:
        print(f"\n{name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main(arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
