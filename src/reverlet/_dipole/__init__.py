from ._base import AbstractDipole as AbstractDipole, AbstractPolarizability as AbstractPolarizability
from ._bond_polarizability import BondPolarizability as BondPolarizability
from ._point_charges import PointCharges as PointCharges
from ._polarizable import PolarizableDipole as PolarizableDipole
