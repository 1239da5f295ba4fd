"""Pair potentials from structure, and potentials from configurations: inversion and relative entropy."""

from ._coarse_graining import (
    Inversion as Inversion,
    InversionUpdate as InversionUpdate,
    RelativeEntropyStep as RelativeEntropyStep,
    boltzmann_inversion as boltzmann_inversion,
    iterative_boltzmann_inversion as iterative_boltzmann_inversion,
    relative_entropy_step as relative_entropy_step,
)
