import math

import jax.numpy as jnp

from .. import units
from .._dipole import moment_of
from .._ensemble import require_ensemble
from .._fields import checked, positive_number
from .._state import relative_to_center_of_mass
from .._statistics import weighted_mean
from ._base import AbstractObservable
from ._green_kubo import AbstractTransportCoefficient
from ._spectroscopy import DipoleOrRule, current_density, dipole_of, dipole_or_rule, require_volume


class DielectricConstant(AbstractObservable):
    """The static dielectric constant of a neutral liquid, from the fluctuations of its dipole.

    ε = 1 + (⟨M²⟩ - ⟨M⟩²)/(3 ε₀ V kT), in conducting surroundings, which an Ewald sum without a surface term
    simulates. For fixed electrons; of a polarizable dipole it lacks what electrons alone contribute (ε∞ - 1).

    M is that of positions relative to the center of mass: the dipole of a system with a net charge depends on the
    origin, and would grow as the system drifts.

    Molecules must be whole and stay so: atoms wrapped into the box one by one change M by charge times the box. Long
    runs are wanted (ns for water): the error is that of the fluctuations of M, and samples are correlated.

    **Arguments:** `dipole`, an `AbstractDipole`, a function from the potential of the system to one, such as
    `rv.PointCharges.of`, or `None` for that of the system.

    **Errors:** `ValueError`, of `record`, for an open box; of `reduce`, without an ensemble.

    **Reference:** M. Neumann, Mol. Phys. 50, 841 (1983).
    """

    dipole: DipoleOrRule = checked(dipole_or_rule(), default=None)

    def record(self, system, state, initial):
        del initial
        volume = require_volume(state)
        neighbors = system.find_neighbors(state.positions, state.box)
        positions = relative_to_center_of_mass(system.topology, state.positions)
        return moment_of(dipole_of(self.dipole, system), positions, state.box, neighbors) / jnp.sqrt(volume)

    def reduce(self, times, records, weights, ensemble=None):
        del times
        ensemble = require_ensemble(ensemble, "DielectricConstant")
        mean = lambda x: weighted_mean(weights, jnp.mean(x, axis=1))
        # around a constant near the mean, which changes nothing but the rounding
        centered = records - records[0, 0]
        fluctuation = jnp.sum(mean(centered**2) - mean(centered) ** 2)
        return 1 + 4 * jnp.pi * units.COULOMB * fluctuation / (3 * ensemble.thermal_energy(records))


class Conductivity(AbstractTransportCoefficient):
    """The static electrical conductivity of a liquid, σ = 1/(3 V kT) ∫ ⟨J(0)·J(t)⟩ dt from zero to `max_time`.

    By Green and Kubo, with the current J = dM/dt. In e² mol/kJ/ps/nm; divide by `units.SIEMENS_PER_METER`.

    **Arguments:** `dipole`, an `AbstractDipole`, a function from the potential of the system to one, such as
    `rv.PointCharges.of`, or `None` for that of the system; `max_time` (ps), where the integral ends.

    **Errors:** as for `Viscosity`.

    **Reference:** R. Kubo, J. Phys. Soc. Jpn. 12, 570 (1957).
    """

    unit = "e² mol/kJ/ps/nm"

    max_time: float = checked(positive_number("ps"), static=True)
    dipole: DipoleOrRule = checked(dipole_or_rule(), default=None, kw_only=True)

    def flux(self, system, state):
        current = current_density(self.dipole, system, state)
        return current / math.sqrt(3)

    def factor(self, ensemble):
        return 1 / ensemble.thermal_energy(ensemble.temperature)
