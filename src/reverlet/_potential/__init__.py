from ._among import Among as Among
from ._base import (
    AbstractPotential as AbstractPotential,
    Scaled as Scaled,
    Sum as Sum,
    energy_of as energy_of,
)
from ._bonded import (
    AbstractBondedPotential as AbstractBondedPotential,
    HarmonicAngle as HarmonicAngle,
    HarmonicBond as HarmonicBond,
    MorseBond as MorseBond,
    PeriodicTorsion as PeriodicTorsion,
    RBTorsion as RBTorsion,
    UreyBradley as UreyBradley,
)
from ._charges import (
    AbstractCharges as AbstractCharges,
    AtomCharges as AtomCharges,
    MolecularCharges as MolecularCharges,
    as_charges as as_charges,
)
from ._coulomb import (
    AbstractElectrostatics as AbstractElectrostatics,
    AbstractLatticeSum as AbstractLatticeSum,
    Coulomb as Coulomb,
    Ewald as Ewald,
    ReactionField as ReactionField,
)
from ._eann import EANN as EANN
from ._forms import (
    AbstractSpeciesPairPotential as AbstractSpeciesPairPotential,
    Buckingham as Buckingham,
    LennardJones as LennardJones,
    Mie as Mie,
    Morse as Morse,
)
from ._function import FunctionPotential as FunctionPotential
from ._function_pair import FunctionPair as FunctionPair
from ._jax_md import JaxMDPotential as JaxMDPotential
from ._listed import Excluding as Excluding, ListedPairs as ListedPairs, Rescaling as Rescaling
from ._many_body import AbstractGraphPotential as AbstractGraphPotential, AbstractManyBody as AbstractManyBody
from ._message_passing import MessagePassing as MessagePassing
from ._neural_pair import NeuralPair as NeuralPair
from ._p3m import P3M as P3M
from ._pair import AbstractPairPotential as AbstractPairPotential, heat_flow as heat_flow
from ._simple_forms import (
    DoubleExponential as DoubleExponential,
    GaussianCore as GaussianCore,
    GeneralizedMorse as GeneralizedMorse,
    InversePower as InversePower,
    Yukawa as Yukawa,
)
from ._stillinger_weber import StillingerWeber as StillingerWeber
from ._tabulated import TabulatedPair as TabulatedPair
from ._tail import TailCorrected as TailCorrected
from ._temperature import TemperatureDependent as TemperatureDependent, at_temperature as at_temperature
from ._terms import (
    AbstractAtomIndexed as AbstractAtomIndexed,
    parts_of as parts_of,
    require_atoms as require_atoms,
)
from ._tersoff import Tersoff as Tersoff
from ._truncation import (
    AbstractTruncation as AbstractTruncation,
    PlainCutoff as PlainCutoff,
    ShiftedCutoff as ShiftedCutoff,
    SmoothSwitch as SmoothSwitch,
    truncation_rule as truncation_rule,
)
