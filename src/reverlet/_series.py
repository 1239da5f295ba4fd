"""Spectra of series that one has: dipoles, polarizabilities, or anything else at equal times."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from . import units
from ._ensemble import NVT
from ._expectation import estimate_of
from ._misc import require_array, require_finite, require_instance, require_number, require_positive, require_shape
from ._observable import (
    AbstractQuantumCorrection,
    HarmonicQuantumCorrection,
    InfraredSpectrum,
    RamanSpectrum,
    mean_correlation,
    require_equal_steps,
    require_wavenumbers,
    step_of,
    wavenumber_grid,
)
from ._printing import uncertain
from ._spectra import AbstractWindow, HannWindow, spectral_density
from ._statistics import blocks_of

_HIGHEST = 4500.0
"""1/cm, above which no molecule vibrates."""
_PIECES = 32
"""A series is cut into so many, where they stay longer than twice the window."""


class Spectrum(eqx.Module):
    """A spectrum of a series, with its error."""

    wavenumbers: Float[Array, " frequencies"]
    """1/cm."""
    value: PyTree[Array]
    error: PyTree[Array]
    """Its standard error, over pieces of the series."""
    unit: str = eqx.field(static=True, default="")

    def __str__(self) -> str:
        ends = f"{float(self.wavenumbers[0]):.6g} to {float(self.wavenumbers[-1]):.6g} 1/cm"
        return f"Spectrum({ends}: {uncertain(self.value, self.error, self.unit)})"


def infrared(
    times: ArrayLike,
    dipoles: ArrayLike,
    volume: ArrayLike,
    temperature: ArrayLike,
    *,
    wavenumbers: ArrayLike | None = None,
    window: AbstractWindow = HannWindow(1.0),
    correction: AbstractQuantumCorrection = HarmonicQuantumCorrection(),
) -> Spectrum:
    """The infrared absorption n(ν) α(ν), 1/cm, of a liquid whose dipole is known along a trajectory.

    By the differences of the dipole from frame to frame. What they lack, sin²(ωh/2)/(ωh/2)² at h between frames, is
    divided out, so that lines have their intensity up to π/h. The formula, and what frames must resolve: see
    `InfraredSpectrum`, which computes the same from a surface along our own trajectories.

    **Arguments:** `times` (ps), equally far apart; `dipoles` (e nm; from debye `* units.DEBYE`) of the whole box, of
    shape (frames, 3) or (trajectories, frames, 3); `volume` of the box, nm³; `temperature`, K; `wavenumbers` (1/cm),
    by default up to 4500 or what the frames resolve; `window`, which sets the resolution: 33 1/cm by default;
    `correction` for quantum effects.

    **Errors:** `ValueError` for shapes that do not fit, numbers that are not finite, unequal times, a series shorter
    than the window, and dipoles that jump, as where molecules are wrapped into the box atom by atom.
    """
    series = _series("dipoles", times, dipoles, (3,))
    _require_no_jumps(series)
    require_instance("correction", correction, AbstractQuantumCorrection)
    observable = lambda waves, lags: InfraredSpectrum(waves, window, num_lags=lags, correction=correction)
    return _of_changes(observable, times, series, volume, temperature, wavenumbers, window)


def raman(
    times: ArrayLike,
    polarizabilities: ArrayLike,
    volume: ArrayLike,
    temperature: ArrayLike,
    *,
    wavenumbers: ArrayLike | None = None,
    window: AbstractWindow = HannWindow(1.0),
) -> Spectrum:
    """The reduced Raman spectra of a liquid whose polarizability is known along a trajectory; see `RamanSpectrum`.

    **Arguments:** `polarizabilities` (nm³) of the whole box, of shape (frames, 3, 3) or (trajectories, frames, 3, 3);
    the others, and how, as for `infrared`.

    **Returns:** a spectrum whose `value` and `error` are `spectra.RamanSpectra`.

    **Errors:** as for `infrared`, and `ValueError` for tensors that are not symmetric.
    """
    series = _series("polarizabilities", times, polarizabilities, (3, 3))
    away = np.max(abs(series - np.swapaxes(series, -1, -2)))
    if away > 1e-3 * np.max(abs(series)):
        raise ValueError(f"`polarizabilities` are not symmetric, by up to {away:.3g} nm³; wanted symmetric tensors.")
    observable = lambda waves, lags: RamanSpectrum(waves, window, num_lags=lags)
    return _of_changes(observable, times, series, volume, temperature, wavenumbers, window)


def power_spectrum(
    times: ArrayLike,
    series: ArrayLike,
    *,
    wavenumbers: ArrayLike | None = None,
    window: AbstractWindow = HannWindow(1.0),
) -> Spectrum:
    """S(ν) = ∫ exp(-iωt) w(t) ⟨A(0)·A(t)⟩ dt over all times of any series A, in the square of its unit times ps.

    Summed over all components. No mean is subtracted: one that is not zero makes a line at zero, as wide as the window.
    Of velocities times the roots of the masses it is the vibrational density of states but for a factor: see `VDOS`.

    **Arguments:** `series`, of shape (frames, ...); the others as for `infrared`.

    **Errors:** as for `infrared`.
    """
    require_array("times", times)
    require_array("series", series)
    values = np.asarray(series, float)
    require_shape("times", times, values.shape[:1], "One for every frame of the series.")
    require_finite("series", series)
    make = lambda waves, lags: lambda *of_pieces: _density(waves, window, lags, *of_pieces)
    return _spectrum(make, _even(times), values[None], wavenumbers, window, "")


def _density(wavenumbers, window, lags, times, pieces, weights):
    correlation = mean_correlation(times, pieces, weights, lags)
    step = step_of(times, wavenumbers, window, lags)
    return spectral_density(correlation, step, wavenumbers.astype(step.dtype) * units.WAVENUMBER, window)


def _series(name, times, series, shape):
    """In double precision, of shape (trajectories, frames, …)."""
    require_array("times", times)
    require_array(name, series)
    require_finite(name, series)
    values = np.asarray(series, float)
    fine = values.shape[-len(shape) :] == shape and values.ndim - len(shape) in (1, 2)
    if not fine:
        many = ", ".join(map(str, shape))
        raise ValueError(
            f"`{name}` has shape {values.shape}; wanted (frames, {many}), of the whole box, or of several trajectories"
            f" (trajectories, frames, {many})."
        )
    values = values if values.ndim == len(shape) + 2 else values[None]
    require_shape("times", times, values.shape[1:2], f"One for every frame of `{name}`.")
    return values


def _even(times):
    require_finite("times", times)
    return np.asarray(require_equal_steps(np.asarray(times, float)))


def _require_no_jumps(dipoles):
    steps = abs(np.diff(dipoles, axis=1))
    typical = np.median(steps) / 0.6745  # the standard deviation of what is Gaussian, whatever jumps there are
    if typical > 0 and np.max(steps) > 12 * typical:
        where = np.unravel_index(np.argmax(steps), steps.shape)[1]
        raise ValueError(
            f"`dipoles` jump by {np.max(steps):.4g} e nm after frame {where}, where frames differ by"
            f" {typical:.2g} e nm; wanted those of molecules that stay whole: programs that wrap atoms into the box one"
            " by one change it by charge times the box."
        )


def _of_changes(observable, times, series, volume, temperature, wavenumbers, window) -> Spectrum:
    """What an observable, made of wavenumbers and a number of lags, makes of the rate of a series."""
    require_number("volume", volume)
    require_positive("volume", volume, "nm³")
    require_number("temperature", temperature)
    ensemble = NVT(temperature)
    times = _even(times)
    step = times[-1] / (len(times) - 1)
    rates = np.diff(series, axis=1) / step / math.sqrt(float(np.asarray(volume)))
    make = lambda waves, lags: lambda *of_pieces: observable(waves, lags).reduce(*of_pieces, ensemble)
    found = _spectrum(make, times[:-1], rates, wavenumbers, window, observable(jnp.ones(1), 2).unit)
    lost = jnp.sinc(found.wavenumbers * (units.WAVENUMBER * step / (2 * math.pi))) ** 2
    divided = lambda tree: jax.tree.map(lambda x: x / lost, tree)
    return Spectrum(found.wavenumbers, divided(found.value), divided(found.error), found.unit)


def _spectrum(make, times, series, wavenumbers, window, unit) -> Spectrum:
    """Of pieces of a series, by a function of times, pieces and weights that is made of wavenumbers and lags."""
    require_instance("window", window, AbstractWindow)
    frames, step = len(times), (times[-1] - times[0]) / (len(times) - 1)
    length = float(window.length)
    # a window without an end: as long as there are origins for
    lags = frames // 4 if math.isinf(length) else math.ceil(length / step - 1e-6) + 1
    lags = min(max(lags, 2), frames)
    number = max(1, min(_PIECES, frames // (2 * lags)))
    own = frames // number
    pieces = jnp.asarray(series[:, : number * own].reshape(-1, own, *series.shape[2:]), float)
    if wavenumbers is None:
        resolved = math.pi / step / units.WAVENUMBER
        if resolved < 100:
            raise ValueError(
                f"`times` are {step:.6g} ps apart, which resolves no more than {resolved:.4g} 1/cm; wanted them in ps:"
                f" {step:.6g} fs are {step / 1000:.6g}. If they are, say which `wavenumbers`."
            )
        highest = min(_HIGHEST, resolved)
        wavenumbers = wavenumber_grid(highest, step=step, num_lags=lags, zero_padding=2)
    require_wavenumbers(wavenumbers)
    waves = jnp.asarray(wavenumbers, float)
    weights, at = jnp.full(len(pieces), 1 / len(pieces)), jnp.asarray(times[:own] - times[0], float)
    blocks = blocks_of(jnp.repeat(jnp.arange(len(series)), number))
    reduce = lambda w: make(waves, lags)(at, pieces, w)
    found = estimate_of(reduce, reduce(weights), at, pieces, weights, blocks, blocks.error, unit)
    return Spectrum(waves, found.value, found.error, unit)
