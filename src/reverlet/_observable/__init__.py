from ._base import AbstractObservable as AbstractObservable
from ._green_kubo import AbstractGreenKubo as AbstractGreenKubo
from ._green_kubo import ThermalConductivity as ThermalConductivity
from ._green_kubo import Viscosity as Viscosity
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
