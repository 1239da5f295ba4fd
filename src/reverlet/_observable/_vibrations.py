from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .. import units
from .._dipole import AbstractPolarizability
from .._elements import atomic_number
from .._ensemble import AbstractEnsemble, require_ensemble
from .._fields import Parameter, Rule, checked, count, instance, optional
from .._misc import is_concrete, require_instance, require_positive
from .._spectra import AbstractQuadrature, AbstractWindow, Trapezoid, spectral_density
from .._state import relative_to_center_of_mass
from ._base import AbstractObservable
from ._spectroscopy import mean_correlation, require_volume, step_of, wavenumbers_rule


def _element() -> Any:
    def require(name, x):
        require_instance(name, x, str)
        atomic_number(x)

    return Rule(lambda x: x, require)


class VDOS(AbstractObservable):
    """The vibrational density of states g(ν), per 1/cm, with an integral of one over all wavenumbers.

    g = 2c ∫ exp(-iωt) w(t) C(t) dt / C(0) over all times, ω = 2πcν, of the correlation C = ⟨Σ m v(0)·v(t)⟩ of the
    mass-weighted velocities without those of the center of mass. Times 3N-3 it counts the modes of N atoms.

    What is recorded are the velocities of all atoms: large, so record few trajectories at a time. Frames must resolve
    the fastest vibration: see `InfraredSpectrum`.

    **Arguments:** `wavenumbers` (1/cm), `window`, `num_lags` and `quadrature` as for `InfraredSpectrum`; `element`, the
    symbol of the one whose atoms count, all by default.

    **Errors:** as for `InfraredSpectrum`; `ValueError` for an unknown element. NaN if the system has none of it.

    **Reference:** J. M. Dickey and A. Paskin, Phys. Rev. 188, 1407 (1969).
    """

    unit = "cm"

    wavenumbers: Parameter = wavenumbers_rule()
    window: AbstractWindow = instance(AbstractWindow)
    element: str | None = checked(optional(_element()), static=True, default=None, kw_only=True)
    num_lags: int | None = checked(optional(count(2)), static=True, default=None, kw_only=True)
    quadrature: AbstractQuadrature = eqx.field(default=Trapezoid(), kw_only=True)

    def record(self, system, state, initial):
        del initial
        topology, v = system.topology, relative_to_center_of_mass(system.topology, state.velocities)
        scale = jnp.sqrt(topology.masses.astype(v.dtype))
        if self.element is not None:
            # zeros and not fewer atoms: which they are is not known while tracing
            scale = jnp.where(topology.atomic_numbers == atomic_number(self.element), scale, 0)
        return scale[:, None] * v

    def reduce(self, times, records, weights, ensemble=None):
        del ensemble
        correlation = mean_correlation(times, records, weights, self.num_lags)
        step = step_of(times, self.wavenumbers, self.window, len(correlation))
        frequencies = self.wavenumbers.astype(step.dtype) * units.WAVENUMBER
        density = spectral_density(correlation, step, frequencies, self.window, self.quadrature)
        return units.WAVENUMBER / jnp.pi * density / correlation[0]


class RamanSpectra(eqx.Module):
    """What `RamanSpectrum` reduces to: two spectra, in nm³ mol/kJ/ps."""

    isotropic: Float[Array, " frequencies"]
    """Of the mean polarizability."""
    anisotropic: Float[Array, " frequencies"]
    """What is scattered with the polarization turned (the depolarized or VH spectrum)."""

    @property
    def parallel(self) -> Float[Array, " frequencies"]:
        """What is scattered with the polarization kept (the polarized or VV spectrum)."""
        return self.isotropic + 4 / 3 * self.anisotropic

    def scattered(
        self, wavenumbers: Float[Array, " frequencies"], ensemble: AbstractEnsemble, laser: ArrayLike
    ) -> "RamanSpectra":
        """The intensities that a spectrometer counts (Stokes), times the same constant for all.

        The reduced ones times (ν₀ - ν)⁴/(ν₀³ ν (1 - exp(-hcν/kT))): with the harmonic quantum correction.

        **Arguments:** `wavenumbers` (1/cm) of the spectra; `ensemble`, for its temperature; `laser` ν₀ (1/cm).

        **Errors:** `ValueError` for wavenumbers that are not between zero and the laser's.
        """
        require_positive("wavenumbers", wavenumbers, "1/cm")
        if is_concrete((wavenumbers, laser)) and np.any(np.asarray(wavenumbers) >= np.asarray(laser)):
            raise ValueError(
                f"`wavenumbers` go up to {np.max(np.asarray(wavenumbers)):.6g} 1/cm; wanted less than the laser's,"
                f" {float(jnp.asarray(laser)):.6g} 1/cm."
            )
        x = units.HBAR * units.WAVENUMBER * wavenumbers / ensemble.thermal_energy(jnp.asarray(wavenumbers))
        light = jnp.asarray(laser)
        factor = (light - wavenumbers) ** 4 / (light**3 * wavenumbers * -jnp.expm1(-x))
        return RamanSpectra(factor * self.isotropic, factor * self.anisotropic)  # pyright: ignore[reportCallIssue]


class RamanSpectrum(AbstractObservable):
    """The reduced Raman spectrum of a liquid: what its fluctuating polarizability scatters, without the factors of
    laser and temperature that `RamanSpectra.scattered` has.

    isotropic = 1/(V kT) ∫ exp(-iωt) w(t) ⟨ȧ(0) ȧ(t)⟩ dt, anisotropic = 1/(10 V kT) ∫ exp(-iωt) w(t) ⟨ḃ(0):ḃ(t)⟩ dt,
    with the mean polarizability a = tr α/3 and the rest b = α - a. Frames must resolve the fastest vibration: see
    `InfraredSpectrum`.

    **Arguments:** `polarizability`, an `AbstractPolarizability`, or `None` for that of the system; the others as for
    `InfraredSpectrum`.

    **Errors:** as for `InfraredSpectrum`; `ValueError`, of `record`, where neither has a polarizability.

    **Reference:** B. J. Berne and R. Pecora, Dynamic Light Scattering (1976), ch. 3; M. Thomas et al., Phys. Chem.
    Chem. Phys. 15, 6608 (2013).
    """

    unit = "nm³ mol/kJ/ps"

    wavenumbers: Parameter = wavenumbers_rule()
    window: AbstractWindow = instance(AbstractWindow)
    polarizability: AbstractPolarizability | None = eqx.field(default=None, kw_only=True)
    num_lags: int | None = checked(optional(count(2)), static=True, default=None, kw_only=True)
    quadrature: AbstractQuadrature = eqx.field(default=Trapezoid(), kw_only=True)

    def record(self, system, state, initial):
        del initial
        volume = require_volume(state)
        surface = system.polarizability if self.polarizability is None else self.polarizability
        if surface is None:
            raise ValueError(
                "The system has no polarizability, and `RamanSpectrum` was given none; wanted one:"
                " `rv.System(topology, potential, polarizability=...)`, or in the observable."
            )
        neighbors = system.find_neighbors(state.positions, state.box)
        rate = surface.rate(state.positions, state.velocities, state.box, neighbors=neighbors)
        return rate / jnp.sqrt(volume)

    def reduce(self, times, records, weights, ensemble=None):
        thermal = require_ensemble(ensemble, "RamanSpectrum").thermal_energy(records)
        mean = jnp.trace(records, axis1=-2, axis2=-1) / 3
        rest = records - mean[..., None, None] * jnp.eye(3, dtype=records.dtype)
        return RamanSpectra(  # pyright: ignore[reportCallIssue]
            self._spectrum(times, mean, weights) / thermal, self._spectrum(times, rest, weights) / (10 * thermal)
        )

    def _spectrum(self, times, records, weights):
        correlation = mean_correlation(times, records, weights, self.num_lags)
        step = step_of(times, self.wavenumbers, self.window, len(correlation))
        frequencies = self.wavenumbers.astype(step.dtype) * units.WAVENUMBER
        return spectral_density(correlation, step, frequencies, self.window, self.quadrature)
