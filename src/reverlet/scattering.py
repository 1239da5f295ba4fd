"""What `StructureFactor` weighs atoms with."""

from ._observable import (
    AbstractScattering as AbstractScattering,
    Neutrons as Neutrons,
    Nuclei as Nuclei,
    XRays as XRays,
)
