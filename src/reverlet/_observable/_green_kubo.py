import abc

import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float

from .._ensemble import AbstractEnsemble, require_ensemble
from .._fields import checked, positive_number
from .._potential import AbstractPairPotential, heat_flow
from .._state import State, relative_to_center_of_mass
from .._statistics import weighted_mean
from .._system import System
from .._timeseries import Times, correlation_all_origins, running_integral
from .._verdict import raise_if
from ._base import AbstractObservable
from ._spectroscopy import require_equal_steps, require_volume


class AbstractTransportCoefficient(AbstractObservable):
    """A transport coefficient ∫ ⟨J(0)·J(t)⟩ dt of a flux J, from zero to `max_time`.

    Averaged over all time origins; by the trapezoid rule between frames. A subclass gives the flux, which is recorded,
    and the factor before the integral.
    """

    max_time: AbstractVar[float]
    """Where the integral ends, ps: after the correlation has decayed, and long before the trajectory ends, since few
    origins are left at its last lags, which are mostly noise. `running` shows where it has its plateau."""

    @abc.abstractmethod
    def flux(self, system: System, state: State) -> Float[Array, " *components"]:
        """J of an instant; products are summed over all components."""

    @abc.abstractmethod
    def factor(self, ensemble: AbstractEnsemble) -> Float[Array, ""]:
        """What the integral is multiplied by: the part of it that depends on the temperature."""

    def record(self, system, state, initial):
        del initial
        require_volume(state)
        return self.flux(system, state)

    def running(
        self,
        times: Times,
        records: Float[Array, "samples frames *components"],
        weights: Float[Array, " samples"],
        ensemble: AbstractEnsemble | None = None,
    ) -> Float[Array, " frames"]:
        """The integral up to every lag `times - times[0]`, to look for its plateau; from records as in `reduce`."""
        if len(times) < 2:
            raise ValueError(
                f"`{type(self).__name__}` got a single frame; wanted trajectories: `dynamics=rv.Dynamics(...)` from"
                " samples, or in `rv.measure` a `piece`, in ps."
            )
        times = require_equal_steps(times)
        correlations = jax.vmap(lambda flux: correlation_all_origins(flux, flux))(records)
        factor = self.factor(require_ensemble(ensemble, type(self).__name__)).astype(correlations.dtype)
        return factor * running_integral(times, weighted_mean(weights, correlations))

    def reduce(self, times, records, weights, ensemble=None):
        integral = self.running(times, records, weights, ensemble)
        lags = times - times[0]
        # half a step in a thousand for rounding in the times; the integral goes on as it is there
        bad = self.max_time > lags[-1] + 1e-3 * (lags[-1] - lags[-2])
        integral = raise_if(bad, _describe_too_short, jnp.asarray(self.max_time), lags[-1], guard=integral)
        return jnp.interp(jnp.asarray(self.max_time, lags.dtype), lags, integral)


def _describe_too_short(max_time, length):
    return (
        f"`max_time` is {float(max_time):.6g} ps, but trajectories are {float(length):.6g} ps long; wanted a"
        " correlation shorter than these, better by several times."
    )


class Viscosity(AbstractTransportCoefficient):
    """The shear viscosity η = V/(10 k T) ∫ ⟨P(0):P(t)⟩ dt, kJ/mol ps/nm³ (divide by `units.PASCAL_SECOND`).

    P is the symmetric traceless part of the pressure tensor, whose nine products are those of five independent
    components; the kinetic part is without the motion of the center of mass. Each evaluation costs a force.

    **Arguments:** `max_time` (ps), where the integral ends.

    **Errors:** `ValueError` for a time that is not positive, an open box, a single frame, frames that are not equally
    far apart, or samples without an ensemble; `SimulationError` for a `max_time` longer than the trajectories.

    **Reference:** P. J. Daivis and D. J. Evans, J. Chem. Phys. 100, 541 (1994).
    """

    unit = "kJ/mol ps/nm³"

    max_time: float = checked(positive_number("ps"), static=True)

    def flux(self, system, state):
        v = relative_to_center_of_mass(system.topology, state.velocities)
        volume = state.box.volume.astype(v.dtype)
        pressure = system.pressure_tensor(State(state.positions, v, state.box))
        symmetric = 0.5 * (pressure + pressure.T)
        traceless = symmetric - jnp.trace(symmetric) / 3 * jnp.eye(3, dtype=v.dtype)
        return traceless * jnp.sqrt(volume / 10)

    def factor(self, ensemble):
        return 1 / ensemble.thermal_energy(ensemble.temperature)


class ThermalConductivity(AbstractTransportCoefficient):
    """The thermal conductivity κ = 1/(3 V k T²) ∫ ⟨J(0)·J(t)⟩ dt, kJ/mol/nm/ps/K, of one kind of atoms.

    J = Σ_i e_i v_i + ½ Σ_{i<j} F_ij·(v_i + v_j) r_ij, with e_i the kinetic energy of an atom and half of its pair
    energies: the time derivative of Σ e_i r_i. For pair potentials alone, since others do not say whose their energy
    is. Velocities are relative to the center of mass, so that J is the same in every moving frame; otherwise a drift
    would carry the enthalpy along. A mixture also conducts by diffusion of its partial enthalpies, which are not
    subtracted: κ is too large there. Divide by `units.WATT_PER_METER_KELVIN`.

    **Arguments:** `max_time` (ps), where the integral ends.

    **Errors:** as for `Viscosity`, and `TypeError` for potentials other than pair potentials.

    **Reference:** J. H. Irving and J. G. Kirkwood, J. Chem. Phys. 18, 817 (1950); M. P. Allen and D. J. Tildesley,
    Computer Simulation of Liquids, 2nd ed. (Oxford 2017), section 2.7.
    """

    unit = "kJ/mol/nm/ps/K"

    max_time: float = checked(positive_number("ps"), static=True)

    def flux(self, system, state):
        volume = state.box.volume.astype(state.positions.dtype)
        return heat_current(system, state) / jnp.sqrt(3 * volume)

    def factor(self, ensemble):
        return 1 / (ensemble.thermal_energy(ensemble.temperature) * ensemble.temperature)


def heat_current(system: System, state: State) -> Float[Array, "3"]:
    """J of `ThermalConductivity`, kJ/mol nm/ps, in a box of any kind."""
    potential = system.potential
    if not isinstance(potential, AbstractPairPotential):
        raise TypeError(
            f"`ThermalConductivity` got a `{type(potential).__name__}`; wanted an `AbstractPairPotential`, such as"
            " `LennardJones`: of others it is not known which atom has which part of the energy."
        )
    v = relative_to_center_of_mass(system.topology, state.velocities)
    neighbors = system.find_neighbors(state.positions, state.box)
    energies, flow = heat_flow(potential, state.positions, v, state.box, neighbors)
    energies = energies + 0.5 * system.topology.masses.astype(v.dtype) * jnp.sum(v**2, axis=1)
    return jnp.sum(energies[:, None] * v, axis=0) + flow
