"""Spectra from series: windows, transforms, quantum corrections, filters."""

from ._observable import (
    AbstractQuantumCorrection as AbstractQuantumCorrection,
    HarmonicQuantumCorrection as HarmonicQuantumCorrection,
    MixedQuantumCorrection as MixedQuantumCorrection,
    NoQuantumCorrection as NoQuantumCorrection,
    RamanSpectra as RamanSpectra,
    SchofieldQuantumCorrection as SchofieldQuantumCorrection,
    StandardQuantumCorrection as StandardQuantumCorrection,
    filter_spectrum as filter_spectrum,
    wavenumber_grid as wavenumber_grid,
)
from ._series import Spectrum as Spectrum
from ._spectra import (
    AbstractQuadrature as AbstractQuadrature,
    AbstractWindow as AbstractWindow,
    BlackmanWindow as BlackmanWindow,
    CutoffWindow as CutoffWindow,
    Filon as Filon,
    GaussianWindow as GaussianWindow,
    HannWindow as HannWindow,
    Trapezoid as Trapezoid,
    WindowProduct as WindowProduct,
    correlation_of_density as correlation_of_density,
    spectral_density as spectral_density,
)
