"""A surface for other programs."""

from ._artefact import save as save
from ._card import ModelCard as ModelCard
from ._ipi import ipi_driver as ipi_driver
from ._lammps import (
    LammpsTable as LammpsTable,
    read_lammps_table as read_lammps_table,
    write_lammps_table as write_lammps_table,
)
