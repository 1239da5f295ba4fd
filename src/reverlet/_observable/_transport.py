import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import units
from .._ensemble import AbstractEnsemble, require_ensemble
from .._fields import AbstractChecked, Rule, checked, positive_scalar
from .._misc import as_number, require_constant
from .._state import State, relative_to_center_of_mass
from .._statistics import weighted_mean
from .._system import System
from .._timeseries import Times, require_increasing, require_times, running_integral
from ._base import AbstractObservable


def _velocity_correlation(system: System, state: State, initial: State) -> Float[Array, ""]:
    """The mean over atoms of v(0)·v(t), nm²/ps², without the motion of the center of mass, which would add 3kT/M."""
    return jnp.mean(
        jnp.sum(
            relative_to_center_of_mass(system.topology, state.velocities)
            * relative_to_center_of_mass(system.topology, initial.velocities),
            axis=1,
        )
    )


def _squared_displacement(system: System, state: State, initial: State) -> Float[Array, ""]:
    """The mean over atoms of |x(t) - x(0)|², nm², without the motion of the center of mass. Positions are unwrapped."""
    moved = relative_to_center_of_mass(system.topology, state.positions - initial.positions)
    return jnp.mean(jnp.sum(moved**2, axis=1))


class VACF(AbstractObservable):
    """The velocity autocorrelation function ⟨v(0)·v(t)⟩ per atom, nm²/ps², with a fixed time origin; one value per
    frame.

    The motion of the center of mass is removed, except for a single atom.
    """

    unit = "nm²/ps²"

    def record(self, system, state, initial):
        return _velocity_correlation(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, records)


class MSD(AbstractObservable):
    """The mean squared displacement ⟨|x(t) - x(0)|²⟩ per atom, nm², with a fixed time origin; one value per frame.

    The motion of the center of mass is removed, except for a single atom.
    """

    unit = "nm²"

    def record(self, system, state, initial):
        return _squared_displacement(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, records)


class AbstractDiffusionRoute(AbstractChecked):
    """A way from trajectories to a diffusion coefficient."""

    @abc.abstractmethod
    def record(self, system: System, state: State, initial: State) -> Float[Array, ""]:
        """The mean over atoms to keep of an instant."""

    @abc.abstractmethod
    def diffusion(self, times: Times, curve: Float[Array, " frames"]) -> Float[Array, ""]:
        """D, nm²/ps, from the curve of ensemble means."""


def _of_both_directions(times):
    """Whether time zero is in the middle; those of files may begin anywhere."""
    return abs(times[0] + times[-1]) < 1e-3 * (times[-1] - times[0])


class GreenKubo(AbstractDiffusionRoute):
    """D = (1/3) ∫ ⟨v(0)·v(t)⟩ dt from 0 to T, by the trapezoid rule; with both directions half the integral from -T."""

    def record(self, system, state, initial):
        return _velocity_correlation(system, state, initial)

    def diffusion(self, times, curve):
        require_times(times)
        return running_integral(times, curve)[-1] / jnp.where(_of_both_directions(times), 6, 3)


def _part() -> Any:
    def require(name, x):
        require_constant(name, x)
        if not 0 <= x < 1:
            raise ValueError(f"`{name}` is {x}; wanted a part of the trajectory, from 0 to less than 1.")

    return Rule(as_number, require)


class Einstein(AbstractDiffusionRoute):
    """D is a sixth of the slope of ⟨|x(t) - x(0)|²⟩ over |t|, by least squares over the frames after `start`.

    **Arguments:** `start`, the part of the trajectory to leave out at its beginning, from 0 to 1: atoms do not
    diffuse yet while they still move freely. With both directions it is left out of each.
    """

    start: float = checked(_part(), static=True, default=0.5)

    def record(self, system, state, initial):
        return _squared_displacement(system, state, initial)

    def diffusion(self, times, curve):
        require_times(times)
        require_increasing(times)

        def slope(times, curve):
            first = min(int(self.start * len(times)), len(times) - 2)
            t = times[first:] - times[first:].mean()
            return jnp.sum(t * curve[first:]) / jnp.sum(t**2)

        one = slope(times, curve)
        if len(times) % 2 == 0:  # both directions have an odd number of frames
            return one / 6
        middle = len(times) // 2  # time zero, with both directions
        both = slope(times[middle:], 0.5 * (curve[middle:] + curve[middle::-1]))
        return jnp.where(_of_both_directions(times), both, one) / 6


class YehHummer(AbstractChecked):
    """The finite-size correction of a diffusion coefficient in a cubic periodic box, k T ξ / (6π η L), ξ = 2.837297.

    **Arguments:** `viscosity` (kJ/mol ps/nm³; from SI by `units.PASCAL_SECOND`), `length` of the box (nm).

    **Reference:** I.-C. Yeh and G. Hummer, J. Phys. Chem. B 108, 15873 (2004).
    """

    viscosity: float = positive_scalar("kJ/mol ps/nm³")
    length: float = positive_scalar("nm")

    def correction(self, ensemble: AbstractEnsemble | None) -> Float[Array, ""]:
        """What to add to D at the temperature of an ensemble, nm²/ps."""
        temperature = require_ensemble(ensemble, "YehHummer").temperature
        return units.BOLTZMANN * temperature * 2.837297 / (6 * jnp.pi * self.viscosity * self.length)


class SelfDiffusion(AbstractObservable):
    """The self-diffusion coefficient D, nm²/ps (1 nm²/ps is 1e-6 m²/s), averaged over all atoms.

    **Arguments:** `route`, `GreenKubo()` or `Einstein()`; `finite_size`, a `YehHummer` correction or none.
    """

    unit = "nm²/ps"

    route: AbstractDiffusionRoute = GreenKubo()
    finite_size: YehHummer | None = None

    def record(self, system, state, initial):
        return self.route.record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        if len(times) < 2:
            raise ValueError(
                "`SelfDiffusion` got a single frame; wanted trajectories: `dynamics=rv.Dynamics(...)` from"
                " samples, or in `rv.measure` a `piece`, in ps."
            )
        diffusion = self.route.diffusion(times, weighted_mean(weights, records))
        if self.finite_size is None:
            return diffusion
        return diffusion + self.finite_size.correction(ensemble).astype(diffusion.dtype)
