from ._base import AbstractObservable as AbstractObservable
from ._dielectric import Conductivity as Conductivity
from ._dielectric import DielectricConstant as DielectricConstant
from ._green_kubo import AbstractGreenKubo as AbstractGreenKubo
from ._green_kubo import ThermalConductivity as ThermalConductivity
from ._green_kubo import Viscosity as Viscosity
from ._quantum import AbstractQuantumCorrection as AbstractQuantumCorrection
from ._quantum import HarmonicCorrection as HarmonicCorrection
from ._quantum import MixedCorrection as MixedCorrection
from ._quantum import NoCorrection as NoCorrection
from ._quantum import SchofieldCorrection as SchofieldCorrection
from ._quantum import StandardCorrection as StandardCorrection
from ._spectroscopy import InfraredSpectrum as InfraredSpectrum
from ._spectroscopy import filter_spectrum as filter_spectrum
from ._spectroscopy import wavenumber_grid as wavenumber_grid
from ._structure import RDF as RDF
from ._thermodynamics import Temperature as Temperature
from ._thermodynamics import TotalEnergy as TotalEnergy
from ._transport import (
    MSD as MSD,
)
from ._transport import (
    VACF as VACF,
)
from ._transport import (
    AbstractDiffusionRoute as AbstractDiffusionRoute,
)
from ._transport import (
    Einstein as Einstein,
)
from ._transport import (
    GreenKubo as GreenKubo,
)
from ._transport import (
    SelfDiffusion as SelfDiffusion,
)
from ._transport import (
    YehHummer as YehHummer,
)
from ._vibrations import VDOS as VDOS
from ._vibrations import RamanSpectra as RamanSpectra
from ._vibrations import RamanSpectrum as RamanSpectrum
