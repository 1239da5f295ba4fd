"""Files of targets: what is to be reached, as people who fit force fields write it."""

from ._file import Phase as Phase, TargetFile as TargetFile, observable_of as observable_of
from ._forcebalance import (
    ForceBalanceData as ForceBalanceData,
    read_forcebalance as read_forcebalance,
    write_forcebalance as write_forcebalance,
)
from ._parameterized import (
    BoundForceField as BoundForceField,
    ParameterizedForceField as ParameterizedForceField,
    read_parameterized as read_parameterized,
)
from ._records import TargetRecord as TargetRecord
from ._toml import read as read, write as write
from ._units import Quantity as Quantity
