from ._forcefield import to_openmm_topology as to_openmm_topology
from ._forcefield import to_openmm_xml as to_openmm_xml
from ._reader import from_openmm as from_openmm
from ._reader import openmm_box as openmm_box
from ._sampler import OpenMMSampler as OpenMMSampler
from ._writer import to_openmm as to_openmm
