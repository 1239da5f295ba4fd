from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .. import units
from .._box import OpenBox
from .._dipole import AbstractDipole
from .._ensemble import AbstractEnsemble, require_ensemble
from .._fields import Parameter, Rule, checked, count, instance, optional
from .._misc import (
    as_float_array,
    is_concrete,
    require_array,
    require_callable,
    require_constant,
    require_count,
    require_finite,
    require_instance,
    require_positive,
    require_shape,
)
from .._potential import AbstractPotential
from .._spectra import AbstractQuadrature, AbstractWindow, Trapezoid, correlation_of_density, spectral_density
from .._state import State, relative_to_center_of_mass
from .._statistics import weighted_mean
from .._system import System
from .._timeseries import Times, correlation_all_origins, correlation_first_origins, require_times
from .._verdict import raise_if
from ._base import AbstractObservable
from ._quantum import AbstractQuantumCorrection, HarmonicQuantumCorrection

PER_CENTIMETER = 0.01 * units.METER
"""1/nm, in 1/cm."""
DipoleOrRule = AbstractDipole | Callable[[AbstractPotential], AbstractDipole] | None


def dipole_or_rule() -> Any:
    """A field with a dipole, a function that finds one, or neither."""

    def require(name, x):
        if x is not None and not isinstance(x, AbstractDipole):
            require_callable(name, x, "`rv.PointCharges.of`, or an `AbstractDipole`")

    return Rule(lambda x: x, require)


def wavenumbers_rule() -> Any:
    """A field of increasing wavenumbers, 1/cm."""
    return Rule(as_float_array, lambda name, x: require_wavenumbers(x, name))


def dipole_of(dipole: DipoleOrRule, system: System) -> AbstractDipole:
    """A dipole as it is, what a function makes of the potential that is being recorded, or that of the system."""
    if dipole is None:
        if system.dipole is None:
            raise ValueError(
                "The system has no dipole, and the observable was given none; wanted one: `rv.System(topology,"
                " potential, dipole)`, or in the observable, such as `rv.PointCharges.of`, the charges of a potential."
            )
        return system.dipole
    return dipole if isinstance(dipole, AbstractDipole) else dipole(system.potential)


def current_density(dipole: DipoleOrRule, system: System, state: State) -> Float[Array, "3"]:
    """The current over the square root of the volume, e nm^-½/ps: all that a spectrum needs of an instant.

    Relative to the center of mass, which of a system with a net charge would carry a current of its own.
    """
    volume = require_volume(state)
    neighbors = system.find_neighbors(state.positions, state.box)
    velocities = relative_to_center_of_mass(system.topology, state.velocities)
    current = dipole_of(dipole, system).current(state.positions, velocities, state.box, neighbors=neighbors)
    return current / jnp.sqrt(volume)


def require_volume(state: State) -> Float[Array, ""]:
    """The volume of the box, nm³, in the dtype of the positions."""
    if isinstance(state.box, OpenBox):
        raise ValueError(
            "The box is an `OpenBox`, which has no volume; wanted a periodic box. A molecule in a large one is a dilute"
            " gas."
        )
    return state.box.volume.astype(state.positions.dtype)


class InfraredSpectrum(AbstractObservable):
    """The infrared absorption of a liquid: refractive index times absorption coefficient, n(ν) α(ν), in 1/cm.

    n α = 1/(6 ε₀ c V kT) · ∫ exp(-iωt) w(t) ⟨J(0)·J(t)⟩ dt over all times, times the factor of the quantum
    correction, with the current J = dM/dt summed over the three components, ω = 2πcν and the window w. α is that of
    the intensity to the base e. Correlations are averaged over all origins of each trajectory and then over samples.

    Frames must resolve the fastest vibration, whatever wavenumbers are asked for: one faster than half a period per
    frame appears at a lower wavenumber where nothing is, and only the wavenumbers are checked. With steps of
    0.5 fs, every second one resolves up to 16,700 1/cm, and every sixteenth up to 2,100.

    The current is the derivative of the dipole along the velocities, which does not see where molecules are wrapped.
    Velocities are those at the positions' times: in velocity Verlet they lose (ωh)²/4 of a line's intensity against
    those at half steps, and the line lies higher by (ωh)²/24 of its wavenumber, at a step of h.

    **Arguments:**

    - `dipole`: an `AbstractDipole`, a function from the potential of the system to one, such as
      `rv.PointCharges.of`, or `None` for that of the system.
    - `wavenumbers` (1/cm): any increasing ones; `wavenumber_grid` makes those of a Fourier transform with zero padding.
    - `window`: what ends the correlation function. It sets the resolution, and filters measured spectra alike: see
      `filtered`. A `GaussianWindow` is not checked: wider than the trajectory, it leaves a jump at the last lag.
    - `num_lags`: how many frames the correlation goes, all of a trajectory's by default.
    - `num_origins`: average over so many first frames as origins, the same for every lag; by default over all that a
      lag has.
    - `correction`: for quantum effects. `quadrature`: of the transform.

    **Errors:** `ValueError` for wavenumbers that are negative or do not increase; of `record`, for an open box; of
    `reduce`, for a single frame, correlations or windows longer than the trajectory, frames that are not equally far
    apart, frames too far apart for the highest wavenumber (`SimulationError` where times are traced), and samples
    without an ensemble.

    **Reference:** D. A. McQuarrie, Statistical Mechanics (1976), ch. 21; as in B. Han and K. Yu, Nat. Commun. 16
    (2025).
    """

    unit = "1/cm"

    wavenumbers: Parameter = wavenumbers_rule()
    window: AbstractWindow = instance(AbstractWindow)
    dipole: DipoleOrRule = checked(dipole_or_rule(), default=None, kw_only=True)
    num_lags: int | None = checked(optional(count(2)), static=True, default=None, kw_only=True)
    num_origins: int | None = checked(optional(count()), static=True, default=None, kw_only=True)
    correction: AbstractQuantumCorrection = eqx.field(default=HarmonicQuantumCorrection(), kw_only=True)
    quadrature: AbstractQuadrature = eqx.field(default=Trapezoid(), kw_only=True)

    def record(self, system, state, initial):
        del initial
        return current_density(self.dipole, system, state)

    def reduce(self, times, records, weights, ensemble=None):
        ensemble = require_ensemble(ensemble, "InfraredSpectrum")
        correlation = mean_correlation(times, records, weights, self.num_lags, self.num_origins)
        step = step_of(times, self.wavenumbers, self.window, len(correlation))
        density = spectral_density(correlation, step, self._frequencies(step), self.window, self.quadrature)
        scale = 4 * jnp.pi * units.COULOMB / (6 * units.SPEED_OF_LIGHT) * PER_CENTIMETER
        return scale / ensemble.thermal_energy(step) * density * self._factor(ensemble, step)

    def filtered(
        self, wavenumbers: ArrayLike, intensities: ArrayLike, ensemble: AbstractEnsemble, *, step: ArrayLike
    ) -> Float[Array, "..."]:
        """A tabulated spectrum as this observable would have it: through its window, at its wavenumbers.

        Transformed to a correlation function, multiplied by the window, and back, so that what a window does to a
        simulated spectrum and to its target is the same: filtering the unfiltered spectrum is computing the filtered
        one.

        **Arguments:** `wavenumbers` (1/cm) and `intensities` (1/cm) of the table, zero outside; `ensemble`, whose
        temperature the quantum correction takes; `step` between the frames of the trajectories, ps.

        **Errors:** `ValueError` without `num_lags`; as for `filter_spectrum`.
        """
        if self.num_lags is None:
            raise ValueError("`filtered` needs to know how many lags there are; wanted `num_lags` in the observable.")
        step = as_float_array(step)
        require_reference(wavenumbers, intensities)
        known, values = as_float_array(wavenumbers), as_float_array(intensities)
        values = values / self.correction.factor(_reduced(known, ensemble))
        values = filter_spectrum(
            known,
            values,
            self.window,
            step=step,
            num_lags=self.num_lags,
            at=self.wavenumbers,
            quadrature=self.quadrature,
        )
        return values * self._factor(ensemble, step)

    def _frequencies(self, like):
        return self.wavenumbers.astype(like.dtype) * units.WAVENUMBER

    def _factor(self, ensemble, like):
        return self.correction.factor(_reduced(self.wavenumbers.astype(like.dtype), ensemble))


def _reduced(wavenumbers, ensemble):
    """ħω/kT."""
    return units.HBAR * units.WAVENUMBER * wavenumbers / ensemble.thermal_energy(wavenumbers)


def filter_spectrum(
    wavenumbers: ArrayLike,
    intensities: ArrayLike,
    window: AbstractWindow,
    *,
    step: ArrayLike,
    num_lags: int,
    at: ArrayLike | None = None,
    quadrature: AbstractQuadrature = Trapezoid(),
) -> Float[Array, " frequencies"]:
    """A tabulated spectrum with its correlation function multiplied by a window: to the time domain and back.

    So a measured spectrum is filtered as a simulated one is. Of n α with the harmonic quantum correction, which is the
    transform of a correlation function; `InfraredSpectrum.filtered` takes care of other corrections.

    **Arguments:** `wavenumbers` (1/cm, increasing, not necessarily equally spaced) and `intensities` at them, which
    count as zero outside; `window`; the `step` (ps) and number of lags of the correlation function; `at`, the
    wavenumbers wanted, those of the table by default.

    **Errors:** `ValueError` for wavenumbers that are negative or do not increase, intensities that are negative or not
    finite, a table too coarse for lags as long as the window's, and one that goes higher than the step resolves.
    Wanted are spacings of at most 1/(2cT) if all are equal, as in a Fourier transform, which is then inverted exactly;
    else at most 1/(8cT), since the integral is a sum over the table: measured ones are best interpolated first, to a
    few 1/cm.
    """
    require_instance("window", window, AbstractWindow)
    require_instance("quadrature", quadrature, AbstractQuadrature)
    require_array("intensities", intensities)
    require_reference(wavenumbers, intensities)
    known, values = as_float_array(wavenumbers), as_float_array(intensities)
    at = known if at is None else as_float_array(at)
    require_wavenumbers(at, "at")
    require_positive("step", step, "ps")
    require_count("num_lags", num_lags, least=2)
    spacing = as_float_array(step).astype(values.dtype)
    longest = jnp.minimum(window.length, (num_lags - 1) * spacing)
    known = _refuse_long_window(window, (num_lags - 1) * spacing, guard=known)
    gaps = jnp.diff(known)
    # equal ones are those of a Fourier transform, which has two points in a period of its longest lag
    points = jnp.where(jnp.max(gaps) <= 1.001 * jnp.min(gaps), 2, 8)
    bad = jnp.max(gaps) * points * _PER_PICOSECOND * longest > 1 + 1e-5  # up to rounding
    known = _refuse_if(bad, _describe_coarse, jnp.max(gaps), longest, points, guard=known)
    known = _refuse_aliasing(known, spacing, guard=known)
    correlation = correlation_of_density(known * units.WAVENUMBER, values, spacing, num_lags)
    return spectral_density(correlation, spacing, at.astype(values.dtype) * units.WAVENUMBER, window, quadrature)


def wavenumber_grid(highest: float, *, step: float, num_lags: int, zero_padding: int = 1) -> Float[Array, " points"]:
    """The wavenumbers of a Fourier transform of a correlation function, 1/cm, from zero up to `highest`.

    Their spacing is 1/(2c(n-1)h p). Zero padding interpolates, and adds no information: the resolution stays that of
    the window.

    **Arguments:** `highest` (1/cm); `step` h (ps) and number `num_lags` n of the lags; `zero_padding` p, how many
    times as long as it is the correlation function is made by zeros.

    **Errors:** `ValueError` for a step, padding or highest wavenumber that is not positive, fewer than two lags, and
    a highest wavenumber above 1/(2ch).
    """
    require_constant("step", step)
    require_constant("highest", highest)
    require_positive("step", step, "ps")
    require_positive("highest", highest, "1/cm")
    require_count("num_lags", num_lags, least=2)
    require_count("zero_padding", zero_padding)
    nyquist = 1 / (2 * _PER_PICOSECOND * step)
    if highest > nyquist * (1 + 1e-5):
        raise ValueError(_describe_aliasing(highest, step))
    spacing = nyquist / ((num_lags - 1) * zero_padding)
    return as_float_array(spacing * np.arange(int(highest / spacing * (1 + 1e-9)) + 1))


_PER_PICOSECOND = units.WAVENUMBER / (2 * np.pi)
"""The speed of light, cm/ps: 1/cm as cycles in a picosecond."""


def mean_correlation(
    times: Times,
    records: Float[Array, "samples frames *shape"],
    weights: Float[Array, " samples"],
    num_lags: int | None,
    num_origins: int | None = None,
) -> Float[Array, " lags"]:
    """The autocorrelation over time origins within each trajectory, averaged over the samples."""
    frames = records.shape[1]
    require_shape("times", times, (frames,), "One for every frame of the records.")
    if frames < 2:
        raise ValueError(
            "A spectrum got a single frame; wanted trajectories: `dynamics=rv.Dynamics(...)` from samples, or in"
            " `rv.measure` a `piece`, in ps."
        )
    if num_origins is not None and not 1 <= num_origins < frames:
        raise ValueError(f"`num_origins` is {num_origins} of {frames} frames; wanted 1 to {frames - 1}.")
    most = frames if num_origins is None else frames - num_origins + 1
    lags = most if num_lags is None else num_lags
    if not 2 <= lags <= most:
        raise ValueError(
            f"The correlation function is to have {lags} lags, but there are {frames} frames"
            f"{'' if num_origins is None else f', of which {num_origins} are origins'}; wanted 2 to {most} lags, or"
            " longer trajectories."
        )
    if num_origins is None:
        one = lambda r: correlation_all_origins(r, r, lags)
    else:
        one = lambda r: correlation_first_origins(r, r, num_origins)[:lags]
    return weighted_mean(weights, jax.vmap(one)(records))


def step_of(times, wavenumbers, window, num_lags):
    """The time between frames, ps, unless it is too long for the wavenumbers or the lags too short for the window."""
    times = require_equal_steps(times)
    step = (times[-1] - times[0]) / (len(times) - 1)
    step = _refuse_aliasing(wavenumbers, step, guard=step)
    return _refuse_long_window(window, (num_lags - 1) * step, guard=step)


def require_equal_steps(times: Times) -> Times:
    """The times, from zero on, unless frames are not equally far apart, or so far from time zero that in the precision
    of the times this cannot be told: no correlation is made of these. (`FloatingPointError` where times are traced.)"""
    require_times(times)
    times = np.asarray(times) if is_concrete(times) else times
    from_zero, rounding = times - times[0], 4 * float(jnp.finfo(times.dtype).eps) * abs(times).max()
    if not isinstance(from_zero, np.ndarray):
        step = from_zero[-1] / (len(times) - 1)
        from_zero = raise_if(rounding > 0.5 * abs(step), _describe_rounding, rounding, step, guard=from_zero)
        steps = jnp.diff(from_zero)
        uneven = (step <= 0) | (jnp.max(abs(steps - step)) > 1e-2 * step + rounding)
        return raise_if(uneven, _describe_steps, jnp.min(steps), jnp.max(steps), guard=from_zero)
    steps = np.diff(from_zero)
    if steps.mean() <= 0 or np.max(abs(steps - steps.mean())) > 1e-2 * steps.mean() + rounding:
        raise ValueError(_describe_steps(steps.min(), steps.max()))
    if rounding > 0.5 * abs(steps.mean()):
        raise ValueError(_describe_rounding(rounding, steps.mean()))
    return jnp.asarray(from_zero)


def _describe_steps(smallest, largest):
    return f"The frames are from {float(smallest):.6g} to {float(largest):.6g} ps apart; wanted equal steps in time."


def _describe_rounding(rounding, step):
    return (
        f"The times of frames {float(step):.3g} ps apart are rounded to {float(rounding):.1g} ps; wanted times in"
        " double precision, as `rv.io.read` returns them (outside of `jax.jit`), or from zero on: `times - times[0]`."
    )


def _refuse_long_window(window, longest, *, guard):
    length = jnp.asarray(window.length)
    short = jnp.isfinite(length) & (length > longest * (1 + 1e-5))
    return _refuse_if(short, _describe_window, length, longest, guard=guard)


def require_wavenumbers(wavenumbers: ArrayLike, name: str = "wavenumbers") -> None:
    """Refuses what is no increasing series of wavenumbers (1/cm), zero or more."""
    require_shape(name, wavenumbers, (None,))
    require_finite(name, wavenumbers)
    require_positive(name, wavenumbers, "1/cm", zero=True)
    if is_concrete(wavenumbers):
        steps = np.diff(np.asarray(wavenumbers))
        if np.size(wavenumbers) == 0 or np.any(steps <= 0):
            where = int(np.argmax(steps <= 0)) if len(steps) else 0
            got = np.asarray(wavenumbers)[where : where + 2]
            raise ValueError(
                f"`{name}` has {np.size(wavenumbers)} entries, with {got} at index {where}; wanted increasing ones,"
                " none twice. `np.unique` sorts and removes what is there twice."
            )


def require_reference(wavenumbers: ArrayLike, intensities: ArrayLike) -> None:
    """Refuses what is no tabulated absorption spectrum: wavenumbers (1/cm) in order and intensities, zero or more."""
    require_wavenumbers(wavenumbers)
    wavenumbers, intensities = jnp.asarray(wavenumbers), jnp.asarray(intensities)
    require_shape("intensities", intensities, wavenumbers.shape, "One for every wavenumber.")
    require_finite("intensities", intensities)
    if is_concrete(intensities):
        values = np.asarray(intensities)
        if np.any(values < 0):
            where = int(np.argmax(values < 0))
            raise ValueError(
                f"`intensities` has {int(np.sum(values < 0))} negative values, the first {values[where]} at"
                f" {float(wavenumbers[where])} 1/cm; wanted zero or more: an absorption spectrum has no negative ones."
                " Noise around zero may be clipped."
            )


def _refuse_if(bad, describe, *values, guard):
    if is_concrete((bad, values)):
        if np.any(np.asarray(bad)):
            raise ValueError(describe(*(float(v) for v in values)))
        return guard
    return raise_if(bad, describe, *(jnp.asarray(v) for v in values), guard=guard)


def _refuse_aliasing(wavenumbers, step, *, guard):
    highest = wavenumbers[-1]
    bad = 2 * _PER_PICOSECOND * step * highest > 1 + 1e-5  # the very highest is welcome, up to rounding
    return _refuse_if(bad, _describe_aliasing, highest, step, guard=guard)


def _describe_aliasing(highest, step):
    return (
        f"Frames are {float(step):.6g} ps apart, which resolves up to"
        f" {1 / (2 * _PER_PICOSECOND * float(step)):.6g} 1/cm, but the highest wavenumber is {float(highest):.6g} 1/cm;"
        f" wanted frames at most {1 / (2 * _PER_PICOSECOND * float(highest)):.3g} ps apart (`save_every`), or lower"
        " wavenumbers."
    )


def _describe_window(length, longest):
    return (
        f"The window is {float(length):.6g} ps long, but the correlation function only {float(longest):.6g} ps; wanted"
        " a shorter window or longer trajectories (`num_steps`, `num_lags`)."
    )


def _describe_coarse(gap, longest, points):
    most = 1 / (float(points) * _PER_PICOSECOND * float(longest))
    return (
        f"The tabulated wavenumbers are up to {float(gap):.6g} 1/cm apart,"
        f" {'all equally' if points == 2 else 'unequally'}, and the window {float(longest):.6g} ps long; wanted at most"
        f" {most:.3g} 1/cm, as by interpolation of the table, or a shorter window."
    )
