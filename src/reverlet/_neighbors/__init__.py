from ._base import AbstractNeighborSearch as AbstractNeighborSearch, Neighbors as Neighbors, Wear as Wear
from ._cell_list import CellList as CellList
from ._edges import Edges as Edges
