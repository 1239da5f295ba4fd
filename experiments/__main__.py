"""`python -m experiments NAME ...` runs an experiment; `python -m experiments NAME --help` explains it."""

import importlib
import sys

from . import _help

EXPERIMENTS = {
    "argon_isobar": "fit a Lennard-Jones potential to densities and enthalpies of argon along an isobar",
    "cg_water": "water of one bead per molecule, from structure and pressure, by reweighting",
    "cg_water_pair": "a pair potential of such water from g(r), through the dynamics, by reweighting and by inversion",
    "diamond": "learn stress and elastic constants of diamond by a neural potential, by reweighting",
    "double_well": "recover a double well from the density of an ideal gas in it, by reweighting",
    "gradient_horizon": "how long trajectories may be before the gradient of the diffusion coefficient is noise",
    "gradient_methods": "bias, noise and cost of every estimator of a gradient, side by side on small liquids",
    "lj_diffusion": "refine a Lennard-Jones potential until the liquid diffuses as it should",
    "pair_mixture": "pair potentials of a mixture from partial g(r), at compositions that were and were not trained",
    "pair_rdf": "learn a pair potential from g(r), through the dynamics, by reweighting and by inversion",
    "pair_temperatures": "one pair potential for many temperatures, and how far each method's carries",
    "pretrain_water": "train a neural potential and a dipole surface of water on labels",
    "refine_foundation": "refine a published potential of many elements by the Raman line of diamond",
    "reversal_error": "how far back a trajectory can be walked, in floating point and on a lattice",
    "validate_water": "measure what a neural surface makes of liquid water, beside experiment",
    "water_density": "fit a flexible water to its densities at five temperatures, and more, by reweighting",
    "water_ir": "recover a force field of water from its infrared spectrum",
    "water_refine": "refine a neural potential of water by its infrared spectrum and its pressure",
    "slurm": "submit another experiment to SLURM, on many nodes",
    "report": "write the report of a run again, or compare several runs",
}


def main(arguments: list[str]) -> int:
    """Runs the experiment that is named first; returns the exit status."""
    listing = "\n".join(f"  {name}: {what}" for name, what in EXPERIMENTS.items())
    usage = (
        f"Usage: python -m experiments NAME [--help] ...\n\nExperiments:\n{listing}\n\nAll take --preset: quick (two"
        " cores, minutes), paper (as published, on a GPU) or smoke (seconds, no physics), and write into --out."
    )
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in EXPERIMENTS:
        print(f"Error: there is no experiment {name!r}; wanted one of {', '.join(EXPERIMENTS)}.", file=sys.stderr)
        return 2
    if name not in ("slurm", "report") and {"-h", "--help"} & set(rest):
        print(_help.help_of(name))
        return 0
    return importlib.import_module(f"experiments.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
