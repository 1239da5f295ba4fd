"""Correlation functions and running integrals of series sampled at equal times. No physics here."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._misc import is_concrete, require_array, require_count, require_shape

Times = Float[Array | np.ndarray, " frames"]
"""ps. Of files they are NumPy's, in double precision: in JAX's default one, 1 µs and 1 fs do not go together.
Not a number where a file has none."""


def require_times(times: Times) -> None:
    """Refused where there are none."""
    if is_concrete(times) and np.any(np.isnan(np.asarray(times))):
        raise ValueError(
            "The frames have no times, since the file they come from has none; wanted `rv.io.read(..., interval=...)`,"
            " in ps between its frames."
        )


def require_increasing(times: Times) -> None:
    """Refused where they do not increase; traced ones are let through."""
    steps = np.diff(np.asarray(times)) if is_concrete(times) else np.ones(1)
    if np.any(steps <= 0):
        k = int(np.argmax(steps <= 0))
        raise ValueError(
            f"`times` do not increase: after {times[k]:.9g} comes {times[k + 1]:.9g} ps; wanted those of frames one"
            " after the other, none twice. Of late frames, times in single precision may be rounded to the same."
        )


def correlation_fixed_origin(
    origin: Float[Array, "*shape"], series: Float[Array, "frames *shape"]
) -> Float[Array, " frames"]:
    """The correlation A(0)·B(t) with one time origin, summed over all components.

    **Arguments:** `origin`, the value A at time zero; `series`, B at every frame.

    **Returns:** one number per frame, in the product of the two units.
    """
    require_array("origin", origin)
    require_array("series", series)
    return jnp.sum(series * origin, axis=tuple(range(1, series.ndim)))


def correlation_all_origins(
    a: Float[Array, " frames *shape"], b: Float[Array, " frames *shape"], num_lags: int | None = None
) -> Float[Array, " lags"]:
    """The correlation ⟨A(τ)·B(τ+t)⟩ averaged over every time origin τ, by fast Fourier transform.

    C_k = 1/(n-k) Σ_τ A_τ·B_{τ+k}, summed over all components: each lag is divided by the number of origins it has
    (the unbiased estimate), so the last lags are noisy.

    **Arguments:** two series of `frames` equally spaced values, and how many lags to return (all by default).

    **Errors:** `ValueError` if more lags are asked for than there are frames, and for series of two shapes.
    """
    require_array("a", a)
    require_shape("b", b, a.shape, "The same as `a`.")
    n = a.shape[0]
    lags = n if num_lags is None else num_lags
    require_count("num_lags", lags)
    if lags > n:
        raise ValueError(f"`num_lags` is {lags}; wanted 1 to {n}, the number of frames.")
    return (_lagged_sums(a, b)[:lags] / (n - jnp.arange(lags))).astype(a.dtype)


def correlation_first_origins(
    a: Float[Array, " frames *shape"], b: Float[Array, " frames *shape"], num_origins: int
) -> Float[Array, " lags"]:
    """The correlation ⟨A(τ)·B(τ+t)⟩ averaged over the first time origins, the same for every lag.

    C_k = 1/m Σ_{τ<m} A_τ·B_{τ+k} for k = 0 … n-m: every lag is as noisy as the others, at the price of origins that are
    not used.

    **Arguments:** two series of n equally spaced values; `num_origins` m.

    **Errors:** `ValueError` for more origins than frames, and for series of two shapes.
    """
    require_array("a", a)
    require_shape("b", b, a.shape, "The same as `a`.")
    require_count("num_origins", num_origins)
    n = a.shape[0]
    if num_origins > n:
        raise ValueError(f"`num_origins` is {num_origins}; wanted 1 to {n}, the number of frames.")
    sums = _lagged_sums(jnp.asarray(a).at[num_origins:].set(0), b)
    return (sums[: n - num_origins + 1] / num_origins).astype(a.dtype)


def _lagged_sums(a, b):
    n = a.shape[0]
    # zero-padding to 2n makes the circular correlation a plain one
    spectrum = jnp.conj(jnp.fft.rfft(a, 2 * n, axis=0)) * jnp.fft.rfft(b, 2 * n, axis=0)
    return jnp.fft.irfft(jnp.sum(spectrum.reshape(spectrum.shape[0], -1), axis=1), 2 * n)[:n]


def running_integral(times: Times, values: Float[Array, "*batch frames"]) -> Float[Array, "*batch frames"]:
    """The cumulative integral of `values` from `times[0]`, by the trapezoid rule; its first entry is zero.

    **Errors:** `ValueError` for times that do not increase, and that are not as many as the values.
    """
    require_array("times", times)
    require_array("values", values)
    require_shape("times", times, np.shape(values)[-1:], "One for every value.")
    require_increasing(times)
    pieces = 0.5 * (values[..., 1:] + values[..., :-1]) * jnp.diff(times - times[0])
    return jnp.concatenate([jnp.zeros_like(values[..., :1]), jnp.cumsum(pieces, axis=-1)], axis=-1)
