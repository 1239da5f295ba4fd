from ._angles import ADF as ADF, TetrahedralOrder as TetrahedralOrder
from ._base import AbstractObservable as AbstractObservable
from ._dielectric import Conductivity as Conductivity, DielectricConstant as DielectricConstant
from ._elastic import (
    AbstractElasticConstants as AbstractElasticConstants,
    CubicElasticConstants as CubicElasticConstants,
    ElasticConstants as ElasticConstants,
)
from ._fluctuations import (
    HeatCapacity as HeatCapacity,
    IsothermalCompressibility as IsothermalCompressibility,
    ThermalExpansion as ThermalExpansion,
)
from ._free_energies import (
    FreeEnergyDifference as FreeEnergyDifference,
    HeatOfVaporization as HeatOfVaporization,
    PhaseFreeEnergyDifference as PhaseFreeEnergyDifference,
)
from ._green_kubo import (
    AbstractTransportCoefficient as AbstractTransportCoefficient,
    ThermalConductivity as ThermalConductivity,
    Viscosity as Viscosity,
)
from ._joint import Joint as Joint, SquaredDistance as SquaredDistance
from ._losses import (
    AbstractLoss as AbstractLoss,
    JensenShannon as JensenShannon,
    MeanSquaredError as MeanSquaredError,
)
from ._mechanics import Pressure as Pressure, Stress as Stress
from ._phases import AbstractPhaseDifference as AbstractPhaseDifference
from ._profile import DensityProfile as DensityProfile
from ._quantum import (
    AbstractQuantumCorrection as AbstractQuantumCorrection,
    HarmonicQuantumCorrection as HarmonicQuantumCorrection,
    MixedQuantumCorrection as MixedQuantumCorrection,
    NoQuantumCorrection as NoQuantumCorrection,
    SchofieldQuantumCorrection as SchofieldQuantumCorrection,
    StandardQuantumCorrection as StandardQuantumCorrection,
)
from ._scattering import (
    AbstractScattering as AbstractScattering,
    Neutrons as Neutrons,
    Nuclei as Nuclei,
    StructureFactor as StructureFactor,
    XRays as XRays,
)
from ._spectroscopy import (
    InfraredSpectrum as InfraredSpectrum,
    filter_spectrum as filter_spectrum,
    mean_correlation as mean_correlation,
    require_equal_steps as require_equal_steps,
    require_wavenumbers as require_wavenumbers,
    step_of as step_of,
    wavenumber_grid as wavenumber_grid,
)
from ._structure import RDF as RDF, CoordinationNumber as CoordinationNumber
from ._thermodynamics import (
    Density as Density,
    Enthalpy as Enthalpy,
    Temperature as Temperature,
    TotalEnergy as TotalEnergy,
)
from ._transport import (
    MSD as MSD,
    VACF as VACF,
    AbstractDiffusionRoute as AbstractDiffusionRoute,
    Einstein as Einstein,
    GreenKubo as GreenKubo,
    SelfDiffusion as SelfDiffusion,
    YehHummer as YehHummer,
)
from ._vibrations import VDOS as VDOS, RamanSpectra as RamanSpectra, RamanSpectrum as RamanSpectrum
