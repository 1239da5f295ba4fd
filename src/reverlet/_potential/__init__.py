from ._among import Among as Among
from ._base import AbstractAtomIndexed as AbstractAtomIndexed
from ._base import AbstractPotential as AbstractPotential
from ._base import Scaled as Scaled
from ._base import Sum as Sum
from ._base import energy_of as energy_of
from ._base import require_atoms as require_atoms
from ._bonded import AbstractBondedPotential as AbstractBondedPotential
from ._bonded import HarmonicAngle as HarmonicAngle
from ._bonded import HarmonicBond as HarmonicBond
from ._bonded import MorseBond as MorseBond
from ._bonded import PeriodicTorsion as PeriodicTorsion
from ._bonded import UreyBradley as UreyBradley
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
from ._coulomb import (
    AbstractElectrostatics as AbstractElectrostatics,
)
from ._coulomb import (
    Coulomb as Coulomb,
)
from ._coulomb import (
    Ewald as Ewald,
)
from ._coulomb import (
    ReactionField as ReactionField,
)
from ._forms import AbstractSpeciesPairPotential as AbstractSpeciesPairPotential
from ._forms import Buckingham as Buckingham
from ._forms import LennardJones as LennardJones
from ._forms import Mie as Mie
from ._forms import Morse as Morse
from ._listed import Excluding as Excluding
from ._listed import ListedPairs as ListedPairs
from ._listed import Rescaling as Rescaling
from ._mesh import P3M as P3M
from ._pair import (
    AbstractPairPotential as AbstractPairPotential,
)
from ._pair import (
    AbstractTruncation as AbstractTruncation,
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
