"""Files of structures and trajectories. It needs the extra `io`: `pip install 'reverlet[io]'`."""

from ._files import read as read
from ._files import read_structure as read_structure
from ._files import write as write
