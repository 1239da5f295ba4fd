"""One pool of samples from several states: potentials, temperatures, pressures."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._ensemble import AbstractEnsemble, at_one_temperature
from ._misc import is_concrete
from ._sampler import Pool, Samples
from ._state import State
from ._statistics import blocks_of
from ._system import System

_CHUNK = 4096
"""Samples worked on at a time: with a hundred states a few megabytes."""
_MOST_STEPS = 200


def mbar(pool: Sequence[tuple[System, Samples]]) -> Samples:
    """All samples of several states as one `Samples`, each weighted by all states at once (MBAR).

    Sample i counts as drawn from the mixture of all states, log_density_i = ln Σ_k N_k exp(f_k - u_k(x_i)), whose
    dimensionless free energies f_k solve

        f_k = -ln Σ_i exp(-u_k(x_i) - log_density_i),

    by Newton's method in double precision whatever the default dtype, to 1e-10. `expectation` then reweights to any
    system and ensemble, and its errors contain the uncertainty of the f_k; of correlated chains as well. What was found
    is in `samples.pool`.

    **Arguments:** `pool`, for every state the system that was sampled and its samples, which know their ensemble: all
    at constant volume in the same box, or all at constant pressure. Memory beside the samples is 24 bytes for every
    sample and state.

    **Errors:** `ValueError` for an empty pool, samples that are a pool already or do not know their ensemble, ensembles
    or boxes that do not fit together, traced values, and states without overlap, with which ones and what would help.

    **Reference:** M. R. Shirts and J. D. Chodera, J. Chem. Phys. 129, 124105 (2008).
    """
    pool = list(pool)
    _check(pool)
    counts = np.array([len(samples) for _, samples in pool])
    states = jax.tree.map(lambda *x: jnp.concatenate(x), *(samples.states for _, samples in pool))
    u = _reduced_energies(pool, states)
    refuse_other_samples([samples for _, samples in pool], u, counts)
    most = np.cumsum([0] + [int(np.max(samples.chain)) + 1 for _, samples in pool])
    chain = np.concatenate([np.asarray(samples.chain) + most[k] for k, (_, samples) in enumerate(pool)])
    ensembles = tuple(e for _, samples in pool if (e := samples.ensemble) is not None)
    return combined(states, u, counts, chain, ensembles, solve(u, counts))


def combined(
    states: State,
    u: np.ndarray,
    counts: np.ndarray,
    chain: np.ndarray,
    ensembles: tuple[AbstractEnsemble, ...],
    f: np.ndarray,
) -> Samples:
    """The samples of several states, one state's after another's, with the density of their mixture: from their reduced
    energies u (samples, states), and the free energies that `solve` finds."""
    log_density, shares = mixture(u, counts, f)
    origin = np.repeat(np.arange(len(counts)), counts)
    errors = _free_energy_errors(shares, counts, chain, origin)
    weights = shares / counts  # those of each state's own mean
    overlap = (shares.T @ shares / counts).T  # rows sum to one
    _refuse_gaps(overlap, counts)
    dtype = states.positions.dtype
    found = Pool(
        free_energies=jnp.asarray(f, dtype),
        free_energy_errors=jnp.asarray(errors, dtype),
        overlap=jnp.asarray(overlap, dtype),
        effective_samples=jnp.asarray(1 / np.sum(weights**2, axis=0), dtype),
        counts=jnp.asarray(counts, dtype),
        shares=jnp.asarray(shares, dtype),
        state=jnp.asarray(origin),
        ensembles=ensembles,
    )
    same = all(eqx.tree_equal(ensembles[0], e) for e in ensembles)
    return Samples(states, jnp.asarray(log_density, dtype), jnp.asarray(chain), ensembles[0] if same else None, found)


def solve(u: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The f_k of MBAR, with f_0 = 0, from reduced energies u (samples, states) and the numbers of samples of each
    state: the minimum of a convex function, by Newton's method with a line search from a self-consistent start."""
    ends = np.cumsum(counts)
    # what each state's own mean energy is over that in the first state, so that none is out of reach of the others by
    # a constant of its energy alone
    own = (u[end - n : end] for end, n in zip(ends, counts, strict=True))
    f = np.array([np.mean(rows[:, k] - rows[:, 0]) for k, rows in enumerate(own)])
    for _ in range(20):  # downhill from anywhere, but slow near the end
        before, f = f, _self_consistent(u, counts, f)
        if np.max(np.abs(f - before)) < 1e-3:
            break
    value, slope, curvature = _objective(u, counts, f)
    size, step = 1.0, np.zeros_like(f)
    for _ in range(_MOST_STEPS):
        # f_0 stays: the function does not change where all f_k move together
        step = np.zeros_like(f)
        step[1:] = np.linalg.lstsq(curvature[1:, 1:], slope[1:], rcond=None)[0]
        size, new = 1.0, _objective(u, counts, f - step)
        while not new[0] <= value + 1e-9 * abs(value) and size > 1e-4:
            size /= 2
            new = _objective(u, counts, f - size * step)
        f = f - size * step
        value, slope, curvature = new
        if np.max(np.abs(size * step)) < 1e-12 * max(1.0, np.max(np.abs(f))):
            return f
    raise ValueError(
        f"The free energies of {len(counts)} states did not converge; the last step was"
        f" {np.max(np.abs(size * step)):.3g}. Wanted states that overlap: more of them between, or longer sampling."
    )


def _self_consistent(u, counts, f):
    """f_k = -ln Σ_i exp(-u_ik) / Σ_l N_l exp(f_l - u_il), without the overflow of either."""
    log_mixture = np.concatenate([log for log, _ in _chunks(u, counts, f)])
    exponent = u[:, :1] - u - log_mixture[:, None]
    top = np.max(exponent, axis=0)
    new = -(np.log(np.sum(np.exp(exponent - top), axis=0)) + top)
    return new - new[0]


def _objective(u, counts, f):
    """Σ_i ln Σ_k N_k exp(f_k - u_ik + u_i0) - Σ_k N_k f_k, its gradient and its Hessian."""
    value, expected, products = -float(counts @ f), np.zeros(len(f)), np.zeros((len(f), len(f)))
    for log_mixture, p in _chunks(u, counts, f):
        value += float(np.sum(log_mixture))
        expected += np.sum(p, axis=0)
        products += p.T @ p
    return value, expected - counts, np.diag(expected) - products


def _chunks(u, counts, f):
    """Logarithms of the mixture over the density of the first state, and the shares of the states, a part of the
    samples at a time. Energies of large systems are of tens of thousands of kT: only differences keep their digits."""
    for at in range(0, len(u), _CHUNK):
        exponent = f + np.log(counts) - (u[at : at + _CHUNK] - u[at : at + _CHUNK, :1])
        top = np.max(exponent, axis=1, keepdims=True)
        shares = np.exp(exponent - top)
        total = np.sum(shares, axis=1, keepdims=True)
        yield (np.log(total) + top)[:, 0], shares / total


def mixture(u: np.ndarray, counts: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln Σ_k N_k exp(f_k - u_ik) of every sample, and the shares of the states in it."""
    parts = list(_chunks(u, counts, f))
    return np.concatenate([log for log, _ in parts]) - u[:, 0], np.concatenate([shares for _, shares in parts])


def _free_energy_errors(shares, counts, chain, origin):
    """Of f_k - f_0. With M = diag(N) - pᵀp, sample i of state s contributes M⁺(e_s - p_i) - e_s/N_s."""
    information = np.diag(counts.astype(float)) - shares.T @ shares
    inverse = np.linalg.pinv(information, hermitian=True)
    own = np.eye(len(counts))
    moved = inverse[origin] - shares @ inverse - own[origin] / counts
    moved = moved - moved[:, :1]
    blocks = blocks_of(jnp.asarray(chain), jnp.asarray(origin))
    return np.asarray(blocks.error(jnp.asarray(moved)), float)


def _reduced_energies(pool, states):
    """Of all samples in all states, (samples, states), in double precision; energies once for every system."""
    known, columns = [], []
    for system, samples in pool:
        found = [energies for other, energies in known if other is system or eqx.tree_equal(other, system)]
        energies = found[0] if found else energies_of(system, states)
        if not found:
            known.append((system, energies))
        with jax.enable_x64(True):
            energies = at_one_temperature(samples.ensemble, system, jnp.asarray(energies))
            columns.append(np.asarray(jax.vmap(samples.ensemble.reduced)(energies, states.box)))
    return np.stack(columns, axis=1)


def energies_of(system: System, states: State) -> np.ndarray:
    """Potential energies of many configurations, kJ/mol, one after the other, in the memory of one."""
    return np.asarray(_energies(system, states), float)


@eqx.filter_jit
def _energies(system, states):
    return jax.lax.map(lambda state: system.potential_energy(state.positions, state.box), states)


def _check(pool):
    if len(pool) == 0:
        raise ValueError("`mbar` got an empty pool; wanted one or more pairs of a system and its samples.")
    if not is_concrete(pool):
        raise ValueError("`mbar` got traced values; wanted numbers: call it outside `jax.jit`.")
    for k, (_, samples) in enumerate(pool):
        if len(samples) == 0:
            raise ValueError(f"State {k} of the pool has no samples; wanted one or more, or the pool without it.")
        if samples.pool is not None:
            raise ValueError(f"State {k} of the pool is a pool itself; wanted the samples that it was made of.")
        if samples.ensemble is None:
            raise ValueError(
                f"The samples of state {k} do not know their ensemble; wanted those of a sampler, or"
                " `rv.Samples.of(system, ensemble, states)`."
            )
    require_alike([samples for _, samples in pool])


def require_alike(sets: Sequence[Samples]) -> None:
    """Refuses sets of samples whose densities are not over the same variables."""
    kinds = {type(samples.ensemble).__name__ for samples in sets}
    if len(kinds) > 1:
        raise ValueError(
            f"The pool has samples of {' and '.join(sorted(kinds))}, whose densities are over different variables;"
            " wanted one kind of ensemble."
        )
    if kinds == {"NVT"}:
        boxes = [jax.tree.leaves(samples.states.box) for samples in sets]
        other = lambda x, first: np.any(np.asarray(x) != np.asarray(first[0]))
        kinds_of_box = {type(samples.states.box) for samples in sets}
        if len(kinds_of_box) > 1 or any(other(x, first) for b in boxes for x, first in zip(b, boxes[0], strict=True)):
            raise ValueError(
                "The samples at constant volume come from different boxes; wanted one box for all, or samples of `NPT`."
            )


def refuse_other_samples(sets: Sequence[Samples], u: np.ndarray, counts: np.ndarray) -> None:
    """Refuses samples that were not drawn from the system they are paired with."""
    ends = np.cumsum(counts)
    for k, (samples, end, n) in enumerate(zip(sets, ends, counts, strict=True)):
        own = u[end - n : end, k]
        spread = np.ptp(own + np.asarray(samples.log_density, float))
        rounding = 100 * float(jnp.finfo(samples.log_density.dtype).eps) * max(1.0, float(np.max(np.abs(own))))
        if not spread <= rounding:
            raise ValueError(
                f"The samples of state {k} were drawn from another density: their reduced energies differ from those of"
                f" the system beside them by up to {spread:.3g}, beside a constant. Wanted each with the system, the"
                " parameters and the ensemble it was drawn with."
            )


def reached(overlap: np.ndarray, counts: np.ndarray, start: int) -> set[int]:
    """The states that have a sample in common with one of them, or with one that has, and so on."""
    common = np.sqrt(overlap * overlap.T) * np.sqrt(np.outer(counts, counts))
    found = {start}
    while new := {int(b) for a in found for b in np.flatnonzero(common[a] > 1)} - found:
        found |= new
    return found


def _refuse_gaps(overlap, counts):
    """Refuses states that have not even one sample in common with the others."""
    common = np.sqrt(overlap * overlap.T) * np.sqrt(np.outer(counts, counts))
    together = reached(overlap, counts, 0)
    rest = sorted(set(range(len(counts))) - together)
    if rest:
        best = np.max(common[np.ix_(sorted(together), rest)])
        raise ValueError(
            f"States {rest} of the pool do not overlap with {sorted(together)}: they have {best:.2g} samples in common,"
            " so that the free energy between them would rest on one sample. Wanted states closer together: more of"
            " them between, at parameters, temperatures or pressures half-way, or longer sampling."
        )
