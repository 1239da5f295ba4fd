from ._forcefield import to_topology as to_topology, to_xml as to_xml
from ._python_force import python_force as python_force, tabulated_pair as tabulated_pair
from ._reader import default_box as default_box, from_state as from_state, from_system as from_system
from ._sampler import OpenMMSampler as OpenMMSampler
from ._writer import to_system as to_system
