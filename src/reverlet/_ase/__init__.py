"""To and from ASE: configurations, our surfaces there, and its calculators here."""

from ._atoms import from_ase as from_ase, to_ase as to_ase
from ._calculator import ASECalculator as ASECalculator
from ._potential import ASEPotential as ASEPotential
