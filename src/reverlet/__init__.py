"""Differentiable molecular dynamics: potentials refined until simulated properties agree with experiment."""

from diffrax import ForwardMode as ForwardMode

from . import (
    coarse_graining as coarse_graining,
    controls as controls,
    export as export,
    fields as fields,
    flows as flows,
    io as io,
    langevin as langevin,
    lattices as lattices,
    losses as losses,
    openmm as openmm,
    pairs as pairs,
    reweighting as reweighting,
    scattering as scattering,
    spectra as spectra,
    splines as splines,
    statistics as statistics,
    targets as targets,
    training as training,
    units as units,
)
from ._adjoint import ReversibleAdjoint as ReversibleAdjoint
from ._ase import (
    ASECalculator as ASECalculator,
    ASEPotential as ASEPotential,
    from_ase as from_ase,
    to_ase as to_ase,
)
from ._batches import (
    MemoryBudget as MemoryBudget,
    device_mesh as device_mesh,
)
from ._bath import Bath as Bath
from ._box import (
    AbstractBox as AbstractBox,
    OpenBox as OpenBox,
    OrthorhombicBox as OrthorhombicBox,
    TriclinicBox as TriclinicBox,
)
from ._checkpoint import CheckpointError as CheckpointError
from ._dipole import (
    AbstractDipole as AbstractDipole,
    AbstractPolarizability as AbstractPolarizability,
    BondPolarizability as BondPolarizability,
    DeepDipole as DeepDipole,
    DeepPolarizability as DeepPolarizability,
    PointCharges as PointCharges,
    PolarizableDipole as PolarizableDipole,
)
from ._dynamics import (
    Dynamics as Dynamics,
    Trajectory as Trajectory,
    nve as nve,
)
from ._ensemble import NPT as NPT, NVT as NVT, AbstractEnsemble as AbstractEnsemble
from ._expectation import Estimate as Estimate, expectation as expectation
from ._fit import (
    FitState as FitState,
    fit as fit,
)
from ._gradients import (
    Gradients as Gradients,
    expectation_gradients as expectation_gradients,
    linearize as linearize,
)
from ._horizon import (
    GradientHorizon as GradientHorizon,
    gradient_horizon as gradient_horizon,
)
from ._labels import Labels as Labels
from ._lattices import fcc as fcc
from ._low_rank import AdaptedPotential as AdaptedPotential, low_rank as low_rank
from ._matching import force_matching as force_matching
from ._mbar import mbar as mbar
from ._measure import measure as measure
from ._minimize import (
    Minimum as Minimum,
    minimize as minimize,
)
from ._neighbors import (
    AbstractNeighborSearch as AbstractNeighborSearch,
    CellList as CellList,
    Edges as Edges,
    Neighbors as Neighbors,
)
from ._observable import (
    ADF as ADF,
    MSD as MSD,
    RDF as RDF,
    VACF as VACF,
    VDOS as VDOS,
    AbstractDiffusionRoute as AbstractDiffusionRoute,
    AbstractElasticConstants as AbstractElasticConstants,
    AbstractObservable as AbstractObservable,
    AbstractPhaseDifference as AbstractPhaseDifference,
    AbstractTransportCoefficient as AbstractTransportCoefficient,
    Conductivity as Conductivity,
    CoordinationNumber as CoordinationNumber,
    CubicElasticConstants as CubicElasticConstants,
    Density as Density,
    DensityProfile as DensityProfile,
    DielectricConstant as DielectricConstant,
    Einstein as Einstein,
    ElasticConstants as ElasticConstants,
    Enthalpy as Enthalpy,
    FreeEnergyDifference as FreeEnergyDifference,
    GreenKubo as GreenKubo,
    HeatCapacity as HeatCapacity,
    HeatOfVaporization as HeatOfVaporization,
    InfraredSpectrum as InfraredSpectrum,
    IsothermalCompressibility as IsothermalCompressibility,
    Joint as Joint,
    PhaseFreeEnergyDifference as PhaseFreeEnergyDifference,
    Pressure as Pressure,
    RamanSpectrum as RamanSpectrum,
    SelfDiffusion as SelfDiffusion,
    SquaredDistance as SquaredDistance,
    Stress as Stress,
    StructureFactor as StructureFactor,
    Temperature as Temperature,
    TetrahedralOrder as TetrahedralOrder,
    ThermalConductivity as ThermalConductivity,
    ThermalExpansion as ThermalExpansion,
    TotalEnergy as TotalEnergy,
    Viscosity as Viscosity,
    YehHummer as YehHummer,
)
from ._pack import pack as pack
from ._per_parameter import per_parameter as per_parameter
from ._pools import SamplePool as SamplePool
from ._potential import (
    EANN as EANN,
    P3M as P3M,
    AbstractAtomIndexed as AbstractAtomIndexed,
    AbstractBondedPotential as AbstractBondedPotential,
    AbstractCharges as AbstractCharges,
    AbstractElectrostatics as AbstractElectrostatics,
    AbstractGraphPotential as AbstractGraphPotential,
    AbstractManyBody as AbstractManyBody,
    AbstractPairPotential as AbstractPairPotential,
    AbstractPotential as AbstractPotential,
    AbstractSpeciesPairPotential as AbstractSpeciesPairPotential,
    AbstractTruncation as AbstractTruncation,
    Among as Among,
    AtomCharges as AtomCharges,
    Buckingham as Buckingham,
    Coulomb as Coulomb,
    Ewald as Ewald,
    Excluding as Excluding,
    FunctionPotential as FunctionPotential,
    HarmonicAngle as HarmonicAngle,
    HarmonicBond as HarmonicBond,
    JaxMDPotential as JaxMDPotential,
    LennardJones as LennardJones,
    ListedPairs as ListedPairs,
    MessagePassing as MessagePassing,
    Mie as Mie,
    MolecularCharges as MolecularCharges,
    Morse as Morse,
    MorseBond as MorseBond,
    PeriodicTorsion as PeriodicTorsion,
    PlainCutoff as PlainCutoff,
    RBTorsion as RBTorsion,
    ReactionField as ReactionField,
    Rescaling as Rescaling,
    Scaled as Scaled,
    ShiftedCutoff as ShiftedCutoff,
    SmoothSwitch as SmoothSwitch,
    StillingerWeber as StillingerWeber,
    Sum as Sum,
    TabulatedPair as TabulatedPair,
    TailCorrected as TailCorrected,
    Tersoff as Tersoff,
    UreyBradley as UreyBradley,
)
from ._sampler import (
    CSVR as CSVR,
    AbstractBarostat as AbstractBarostat,
    AbstractFlowSampler as AbstractFlowSampler,
    AbstractMarkovSampler as AbstractMarkovSampler,
    AbstractSampler as AbstractSampler,
    CellMoves as CellMoves,
    Chains as Chains,
    LangevinBAOAB as LangevinBAOAB,
    MonteCarloBarostat as MonteCarloBarostat,
    Pool as Pool,
    Samples as Samples,
    StochasticCellRescaling as StochasticCellRescaling,
)
from ._series import infrared as infrared, power_spectrum as power_spectrum, raman as raman
from ._solver import (
    AbstractReversibleSolver as AbstractReversibleSolver,
    AbstractSplittingSolver as AbstractSplittingSolver,
    AbstractStagedSolver as AbstractStagedSolver,
    BitReversibleState as BitReversibleState,
    BitReversibleVerlet as BitReversibleVerlet,
    BlanesMoan4 as BlanesMoan4,
    ConservativeTerm as ConservativeTerm,
    McLachlan4 as McLachlan4,
    NoseHooverChain as NoseHooverChain,
    PositionVerlet as PositionVerlet,
    Respa as Respa,
    VelocityVerlet as VelocityVerlet,
    Yoshida4 as Yoshida4,
    Yoshida6 as Yoshida6,
)
from ._state import (
    State as State,
    maxwell_boltzmann as maxwell_boltzmann,
)
from ._system import Surfaces as Surfaces, System as System
from ._targets import StatePoint as StatePoint, Target as Target
from ._topology import Topology as Topology
from ._verdict import SimulationError as SimulationError
from ._water import AbstractModel as AbstractModel, WaterModel as WaterModel, qspcfw as qspcfw

__version__ = "0.1.0"
