"""Files of structures and trajectories. It needs the extra `io`: `pip install ase h5py mdtraj`."""

from ._deepmd import (
    read_deep_dipole as read_deep_dipole,
    read_deep_polarizability as read_deep_polarizability,
)
from ._files import (
    read as read,
    read_structure as read_structure,
    reporting as reporting,
    stream as stream,
    write as write,
)
from ._labelled import read_labels as read_labels, write_labels as write_labels
from ._unwrap import unwrap as unwrap
