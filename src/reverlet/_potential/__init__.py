from ._base import AbstractPotential as AbstractPotential
from ._base import Scaled as Scaled
from ._base import Sum as Sum
from ._base import energy_of as energy_of
from ._charges import (
    AbstractCharges as AbstractCharges,
)
from ._charges import (
    AtomCharges as AtomCharges,
)
from ._charges import (
    MolecularCharges as MolecularCharges,
)
from ._charges import as_charges as as_charges
from ._pair import (
    AbstractPairPotential as AbstractPairPotential,
)
from ._pair import (
    AbstractTruncation as AbstractTruncation,
)
from ._pair import (
    LennardJones as LennardJones,
)
from ._pair import (
    PlainCutoff as PlainCutoff,
)
from ._pair import (
    ShiftedCutoff as ShiftedCutoff,
)
from ._pair import (
    SmoothSwitch as SmoothSwitch,
)
from ._pair import (
    TailCorrected as TailCorrected,
)
from ._pair import heat_flow as heat_flow
