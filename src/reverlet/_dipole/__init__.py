from ._base import (
    AbstractDipole as AbstractDipole,
    AbstractPolarizability as AbstractPolarizability,
    moment_of as moment_of,
    polarizability_of as polarizability_of,
)
from ._bond_polarizability import BondPolarizability as BondPolarizability
from ._deep_dipole import DeepDipole as DeepDipole
from ._deep_polarizability import DeepPolarizability as DeepPolarizability
from ._point_charges import PointCharges as PointCharges
from ._polarizable import PolarizableDipole as PolarizableDipole
