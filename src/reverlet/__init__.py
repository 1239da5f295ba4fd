"""Differentiable molecular dynamics: potentials refined until simulated properties agree with experiment."""

from diffrax import ForwardMode as ForwardMode

from . import io as io
from . import units as units
from ._adjoint import ReversibleAdjoint as ReversibleAdjoint
from ._batches import MemoryBudget as MemoryBudget
from ._batches import device_mesh as device_mesh
from ._box import (
    AbstractBox as AbstractBox,
)
from ._box import (
    OpenBox as OpenBox,
)
from ._box import (
    OrthorhombicBox as OrthorhombicBox,
)
from ._box import (
    TriclinicBox as TriclinicBox,
)
from ._controls import (
    AbstractCotangentControl as AbstractCotangentControl,
)
from ._controls import (
    ClipNorm as ClipNorm,
)
from ._controls import (
    Damp as Damp,
)
from ._controls import (
    Truncate as Truncate,
)
from ._controls import (
    Window as Window,
)
from ._dipole import AbstractDipole as AbstractDipole
from ._dipole import AbstractPolarizability as AbstractPolarizability
from ._dipole import BondPolarizability as BondPolarizability
from ._dipole import PointCharges as PointCharges
from ._dipole import PolarizableDipole as PolarizableDipole
from ._dynamics import NVE as NVE
from ._dynamics import Trajectory as Trajectory
from ._dynamics import nve as nve
from ._expectation import (
    Estimate as Estimate,
)
from ._expectation import (
    Gradients as Gradients,
)
from ._expectation import (
    expectation as expectation,
)
from ._expectation import (
    expectation_gradients as expectation_gradients,
)
from ._expectation import (
    linearize as linearize,
)
from ._fit import (
    CheckpointError as CheckpointError,
)
from ._fit import (
    FitState as FitState,
)
from ._fit import (
    fit as fit,
)
from ._fit import (
    per_parameter as per_parameter,
)
from ._horizon import GradientHorizon as GradientHorizon
from ._horizon import gradient_horizon as gradient_horizon
from ._minimize import Minimum as Minimum
from ._minimize import minimize as minimize
from ._neighbors import (
    AbstractNeighborSearch as AbstractNeighborSearch,
)
from ._neighbors import (
    CellList as CellList,
)
from ._neighbors import (
    Neighbors as Neighbors,
)
from ._observable import (
    MSD as MSD,
)
from ._observable import (
    RDF as RDF,
)
from ._observable import (
    VACF as VACF,
)
from ._observable import VDOS as VDOS
from ._observable import (
    AbstractDiffusionRoute as AbstractDiffusionRoute,
)
from ._observable import AbstractGreenKubo as AbstractGreenKubo
from ._observable import (
    AbstractObservable as AbstractObservable,
)
from ._observable import AbstractQuantumCorrection as AbstractQuantumCorrection
from ._observable import Conductivity as Conductivity
from ._observable import DielectricConstant as DielectricConstant
from ._observable import (
    Einstein as Einstein,
)
from ._observable import (
    GreenKubo as GreenKubo,
)
from ._observable import HarmonicCorrection as HarmonicCorrection
from ._observable import InfraredSpectrum as InfraredSpectrum
from ._observable import MixedCorrection as MixedCorrection
from ._observable import NoCorrection as NoCorrection
from ._observable import RamanSpectra as RamanSpectra
from ._observable import RamanSpectrum as RamanSpectrum
from ._observable import SchofieldCorrection as SchofieldCorrection
from ._observable import (
    SelfDiffusion as SelfDiffusion,
)
from ._observable import StandardCorrection as StandardCorrection
from ._observable import (
    Temperature as Temperature,
)
from ._observable import ThermalConductivity as ThermalConductivity
from ._observable import (
    TotalEnergy as TotalEnergy,
)
from ._observable import Viscosity as Viscosity
from ._observable import (
    YehHummer as YehHummer,
)
from ._observable import filter_spectrum as filter_spectrum
from ._observable import wavenumber_grid as wavenumber_grid
from ._openmm import OpenMMSampler as OpenMMSampler
from ._openmm import from_openmm as from_openmm
from ._openmm import openmm_box as openmm_box
from ._openmm import to_openmm as to_openmm
from ._openmm import to_openmm_topology as to_openmm_topology
from ._openmm import to_openmm_xml as to_openmm_xml
from ._pack import pack as pack
from ._potential import (
    P3M as P3M,
)
from ._potential import AbstractAtomIndexed as AbstractAtomIndexed
from ._potential import AbstractBondedPotential as AbstractBondedPotential
from ._potential import (
    AbstractCharges as AbstractCharges,
)
from ._potential import (
    AbstractElectrostatics as AbstractElectrostatics,
)
from ._potential import (
    AbstractPairPotential as AbstractPairPotential,
)
from ._potential import (
    AbstractPotential as AbstractPotential,
)
from ._potential import AbstractSpeciesPairPotential as AbstractSpeciesPairPotential
from ._potential import (
    AbstractTruncation as AbstractTruncation,
)
from ._potential import Among as Among
from ._potential import (
    AtomCharges as AtomCharges,
)
from ._potential import Buckingham as Buckingham
from ._potential import (
    Coulomb as Coulomb,
)
from ._potential import (
    Ewald as Ewald,
)
from ._potential import Excluding as Excluding
from ._potential import HarmonicAngle as HarmonicAngle
from ._potential import HarmonicBond as HarmonicBond
from ._potential import (
    LennardJones as LennardJones,
)
from ._potential import ListedPairs as ListedPairs
from ._potential import Mie as Mie
from ._potential import (
    MolecularCharges as MolecularCharges,
)
from ._potential import Morse as Morse
from ._potential import MorseBond as MorseBond
from ._potential import PeriodicTorsion as PeriodicTorsion
from ._potential import (
    PlainCutoff as PlainCutoff,
)
from ._potential import (
    ReactionField as ReactionField,
)
from ._potential import Rescaling as Rescaling
from ._potential import (
    Scaled as Scaled,
)
from ._potential import (
    ShiftedCutoff as ShiftedCutoff,
)
from ._potential import (
    SmoothSwitch as SmoothSwitch,
)
from ._potential import (
    Sum as Sum,
)
from ._potential import (
    TailCorrected as TailCorrected,
)
from ._potential import UreyBradley as UreyBradley
from ._reweighting import AbstractReweighting as AbstractReweighting
from ._reweighting import Boltzmann as Boltzmann
from ._sampler import (
    AbstractSampler as AbstractSampler,
)
from ._sampler import (
    LangevinBAOAB as LangevinBAOAB,
)
from ._sampler import (
    Samples as Samples,
)
from ._solver import (
    AbstractReversibleSolver as AbstractReversibleSolver,
)
from ._solver import (
    AbstractSplittingSolver as AbstractSplittingSolver,
)
from ._solver import (
    BitReversibleState as BitReversibleState,
)
from ._solver import (
    BitReversibleVerlet as BitReversibleVerlet,
)
from ._solver import (
    BlanesMoan4 as BlanesMoan4,
)
from ._solver import (
    ConservativeTerm as ConservativeTerm,
)
from ._solver import (
    McLachlan4 as McLachlan4,
)
from ._solver import (
    PositionVerlet as PositionVerlet,
)
from ._solver import (
    Respa as Respa,
)
from ._solver import (
    VelocityVerlet as VelocityVerlet,
)
from ._solver import (
    Yoshida4 as Yoshida4,
)
from ._solver import (
    Yoshida6 as Yoshida6,
)
from ._spectra import AbstractQuadrature as AbstractQuadrature
from ._spectra import AbstractWindow as AbstractWindow
from ._spectra import BlackmanWindow as BlackmanWindow
from ._spectra import CutoffWindow as CutoffWindow
from ._spectra import Filon as Filon
from ._spectra import GaussianWindow as GaussianWindow
from ._spectra import HannWindow as HannWindow
from ._spectra import Trapezoid as Trapezoid
from ._spectra import WindowProduct as WindowProduct
from ._spectra import correlation_of_density as correlation_of_density
from ._spectra import spectral_density as spectral_density
from ._state import State as State
from ._state import maxwell_boltzmann as maxwell_boltzmann
from ._statistics import (
    effective_sample_size as effective_sample_size,
)
from ._statistics import (
    infinitesimal_jackknife as infinitesimal_jackknife,
)
from ._statistics import (
    weighted_mean as weighted_mean,
)
from ._statistics import (
    weighted_mean_error as weighted_mean_error,
)
from ._system import System as System
from ._timeseries import (
    correlation_all_origins as correlation_all_origins,
)
from ._timeseries import correlation_first_origins as correlation_first_origins
from ._timeseries import (
    correlation_fixed_origin as correlation_fixed_origin,
)
from ._timeseries import (
    running_integral as running_integral,
)
from ._topology import Topology as Topology
from ._water import flexible_tip3p as flexible_tip3p
from ._water import qspcfw as qspcfw
from ._water import spcfw as spcfw

__version__ = "0.1.0"
