"""Whether samples may be trusted: equilibrated, enough of them independent, and of what overlaps."""

from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from ._misc import require_array
from ._sampler import Samples

_DRIFT = 4.0
"""Standard errors: beyond, chance makes a drift once in ten thousand series."""
FEWEST = 20
"""Independent samples: with fewer, errors are known to worse than a sixth."""


def statistical_inefficiency(series: Float[np.ndarray, "chains times"]) -> float:
    """g = 1 + 2 Σ_t (1 - t/n) C(t), how many samples of a chain count as one independent.

    C is the normalized autocorrelation of all chains together, summed until it first is not positive. At least one.

    **Arguments:** `series`, of one chain or of several of equal length.

    **Reference:** J. D. Chodera, W. C. Swope, J. W. Pitera, C. Seok and K. A. Dill, J. Chem. Theory Comput. 3, 26
    (2007).
    """
    require_array("series", series)
    x = np.atleast_2d(np.asarray(series, float))
    n = x.shape[1]
    x = x - np.mean(x)
    variance = np.mean(x**2)
    # of constants, all are one: but for rounding
    if n < 3 or not variance > (1e-12 * max(1e-300, np.max(np.abs(series)))) ** 2:
        return 1.0
    g = 1.0
    for t in range(1, n - 1):
        c = np.sum(x[:, :-t] * x[:, t:]) / (len(x) * (n - t) * variance)
        if c <= 0 and t > 3:
            break
        g += 2 * c * (1 - t / n)
    return float(max(g, 1.0))


class SeriesVerdict(eqx.Module):
    """Of one quantity along the chains."""

    name: str
    mean: float
    drift: float
    """The mean of the second halves of the chains less that of the first; NaN of chains of a single sample."""
    drift_error: float
    inefficiency: float
    """g: so many samples of a chain count as one."""

    @property
    def is_stationary(self) -> bool:
        """Whether the drift may be chance."""
        return not abs(self.drift) > _DRIFT * self.drift_error


class PoolVerdict(eqx.Module):
    """Whether the samples of a state point may be trusted; printed, what a reader wants to know."""

    name: str
    """Of the state point."""
    series: tuple[SeriesVerdict, ...]
    """Of energy and, where it changes, volume."""
    independent: float
    """How many of the samples count as independent."""
    blocks: int
    """How many runs of samples errors are over."""
    effective_samples: float
    """Kish's, of the weights at the parameters asked for."""
    samples: int

    @property
    def is_equilibrated(self) -> bool:
        """Whether neither energy nor volume drifts."""
        return all(s.is_stationary for s in self.series)

    @property
    def is_overlapping(self) -> bool:
        """Whether more than a few samples have the weight."""
        return self.effective_samples >= min(FEWEST, self.samples)

    @property
    def is_enough(self) -> bool:
        """Whether there are enough independent samples and blocks for an error."""
        return self.independent >= FEWEST and self.blocks >= 4

    @property
    def is_good(self) -> bool:
        """All of them."""
        return self.is_equilibrated and self.is_overlapping and self.is_enough

    def __str__(self):
        told = [f"State point {self.name!r}: {'to be trusted' if self.is_good else 'NOT to be trusted'}."]
        for s in self.series:
            if not np.isfinite(s.drift):
                told.append(f"  {s.name}: {s.mean:.6g}; chains of one sample show no drift.")
                continue
            told.append(
                f"  {s.name}: {s.mean:.6g}, drift {s.drift:+.3g} ± {s.drift_error:.2g}"
                f" ({'stationary' if s.is_stationary else 'NOT equilibrated'}); {s.inefficiency:.3g} samples of a"
                " chain count as one."
            )
        told.append(
            f"  {self.independent:.0f} independent samples in {self.blocks} blocks"
            f" ({'enough' if self.is_enough else 'TOO FEW'}); {self.effective_samples:.0f} of {self.samples} count at"
            f" these parameters ({'overlapping' if self.is_overlapping else 'NO OVERLAP'})."
        )
        return "\n".join([*told, *(f"  What would help: {h}." for h in self.help)])

    @property
    def help(self) -> tuple[str, ...]:
        """What to do where it is not good."""
        told = []
        if not self.is_equilibrated:
            told.append("a longer `equilibration`, or starts nearer to equilibrium, such as the last chains")
        if not self.is_enough:
            told.append("more samples (`num_samples`), more chains, or more time steps between two samples")
        if not self.is_overlapping:
            told.append("samples of parameters, temperatures or pressures nearer to those asked for")
        return tuple(told)


def pool_verdict(
    samples: Samples,
    energies: Float[np.ndarray, " samples"],
    *,
    name: str = "",
    effective_samples: float | None = None,
    of: int | None = None,
) -> PoolVerdict:
    """The verdict on samples of one ensemble, from their potential energies (kJ/mol) and volumes.

    **Arguments:** `name`, of the state point; `effective_samples`, at the parameters asked for, `of` so many, by
    default all of these samples.
    """
    require_array("energies", energies)
    n, chain = len(samples), np.asarray(samples.chain)
    quantities: list[tuple[str, np.ndarray]] = [("energy, kJ/mol", np.asarray(energies, float))]
    if jax.tree.leaves(samples.states.box):
        volumes = np.asarray(samples.states.box.volume, float)
        if np.ptp(volumes) > 1e-6 * np.mean(volumes):
            quantities.append(("volume, nm³", volumes))
    series = tuple(_series_verdict(label, values, chain) for label, values in quantities)
    independent = n / max(s.inefficiency for s in series)
    count = n if effective_samples is None else effective_samples
    blocks = int(samples.blocks.number)
    return PoolVerdict(name, series, float(independent), blocks, float(count), n if of is None else of)


def require_good(verdicts: Sequence[PoolVerdict]) -> None:
    """Refuses samples that are not to be trusted.

    **Errors:** `ValueError`, with the state point and what would help.
    """
    bad = [v for v in verdicts if not v.is_good]
    if bad:
        raise ValueError("There are samples that no gradient should be made of.\n" + "\n".join(map(str, bad)))


def _series_verdict(name, values, chain):
    own = [values[chain == c] for c in np.unique(chain)]
    n = min(map(len, own))
    x = np.stack([v[len(v) - n :] for v in own])
    mean, g = float(np.mean(values)), statistical_inefficiency(x)
    if n < 2:
        return SeriesVerdict(name, mean, float("nan"), float("nan"), g)
    first, second = x[:, : n // 2], x[:, n - n // 2 :]
    # each about its own mean: a drift would hide itself in the variance
    g_half = max(statistical_inefficiency(first), statistical_inefficiency(second))
    variance = (np.var(first) + np.var(second)) / 2
    error = np.sqrt(2 * variance * g_half / first.size)
    drift = np.mean(second) - np.mean(first)
    rounding = 1e-6 * abs(mean)
    return SeriesVerdict(name, mean, float(drift), float(error + rounding), g)
