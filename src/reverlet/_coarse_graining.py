"""Potentials from structure: Boltzmann inversion, iterated, and relative entropy."""

import os
from collections.abc import Callable, Sequence
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from . import units
from ._dynamics import recorded
from ._ensemble import require_ensemble
from ._expectation import expectation
from ._fit import FitState, Moved, fit
from ._misc import as_float_array, require_count, require_finite, require_instance, require_positive, require_shape
from ._observable import RDF, AbstractObservable, Joint, Pressure
from ._per_parameter import Pick
from ._potential import AbstractPotential, Sum, TabulatedPair
from ._sampler import AbstractSampler, Chains, Samples
from ._state import State
from ._statistics import weighted_mean
from ._system import System

_RAMP = 0.1  # kT at contact: more pressure than that in one step would change the structure as well


class InversionUpdate(eqx.Module):
    """The report of every iteration of Boltzmann inversion; leaves lead with `iterations`."""

    rdfs: tuple[ArrayLike, ...]
    """g(r) of every pair of species, of the potential before the iteration."""
    squared_errors: ArrayLike
    """Mean squared deviations from the targets, of every pair."""
    pressure: ArrayLike
    """kJ/mol/nm³; NaN where none was asked for."""


class Inversion(eqx.Module):
    """What `iterative_boltzmann_inversion` returns."""

    potential: AbstractPotential
    """After the last iteration; no simulation has been made of it yet."""
    history: InversionUpdate
    simulations: int
    """How many were made: one per iteration."""
    chains: Chains
    """Where they stopped."""


class _Problem(eqx.Module):
    """All numbers that make it what it is, so that a checkpoint of another one is told from this."""

    potential: AbstractPotential
    targets: tuple[Array, ...]
    settings: Array
    sampler: AbstractSampler

    @property
    def table(self) -> TabulatedPair:
        return _table(self.potential)


def _table(potential: AbstractPotential) -> TabulatedPair:
    if isinstance(potential, Sum):
        return potential.part(TabulatedPair)
    require_instance("potential", potential, TabulatedPair)
    return cast(TabulatedPair, potential)


def boltzmann_inversion(
    rdf: RDF,
    g: ArrayLike,
    *,
    temperature: float,
    first: float,
    cutoff: float,
    num_knots: int,
    smoothing: float | None = None,
) -> Float[np.ndarray, " knots"]:
    """Values for a `TabulatedPair` by -kT ln g, kJ/mol: exact for a gas so dilute that only two ever meet; else the
    usual first guess of `iterative_boltzmann_inversion`.

    Less the value at the cutoff. Where g is less than a thousandth of its maximum, its logarithm is noise: inwards the
    potential goes on as a straight line through the last two knots that are known, or as a repulsion of at least 50 kT
    per nm.

    **Arguments:** `rdf`, for its bins, and `g` there; `temperature`, K; `first` and `cutoff`, nm, and `num_knots`, of
    the table; `smoothing`, nm, with which ln g is averaged about every knot, by default half their spacing.

    **Errors:** `ValueError` for a g that has another shape or is not finite, bins that end before the cutoff, and a g
    that is nowhere above zero before it.
    """
    require_instance("rdf", rdf, RDF)
    require_positive("temperature", temperature, "K")
    require_count("num_knots", num_knots, least=4)
    target = _target(rdf, g, "g")
    if not jnp.max(target) > 0:
        raise ValueError("`g` is nowhere above zero; wanted the g(r) of a pair of species that there is.")
    knots = np.linspace(first, cutoff, num_knots)
    _require_reach(rdf, cutoff)
    kt = units.BOLTZMANN * float(temperature)
    smoothing = 0.5 * (knots[1] - knots[0]) if smoothing is None else smoothing
    mean, known = _at_knots(jnp.log(jnp.maximum(target, 1e-30)), _is_known(target), rdf, knots, smoothing)
    values, start = -kt * np.asarray(mean, float), int(np.argmax(np.asarray(known)))
    slope = min((values[start + 1] - values[start]) / (knots[1] - knots[0]), -50 * kt) if start + 1 < num_knots else 0
    values[:start] = values[start] + slope * (knots[:start] - knots[start])
    return values - values[-1]


def iterative_boltzmann_inversion(
    system: System,
    rdfs: Sequence[RDF],
    targets: Sequence[ArrayLike],
    sampler: AbstractSampler,
    chains: State | Chains,
    *,
    num_iterations: int,
    num_samples: int,
    equilibration: int = 0,
    damping: float = 1.0,
    smoothing: float | None = None,
    most: float = 1.0,
    pressure: float | None = None,
    callback: Callable[[FitState], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: str | os.PathLike | None = None,
    key: PRNGKeyArray,
) -> Inversion:
    """Pair potentials that give radial distribution functions, by u ← u + kT ln(g/g*), again and again.

    Every iteration makes one simulation. At each knot the logarithm is averaged over bins nearby; further in than g and
    g* are known, the table moves along with its first knot that is; at the cutoff it stays zero. An iteration moves no
    knot by more than `most` kT. Only the table is changed: other parts of a sum, such as a prior that repels, stay.

    The potential reproduces g* and nothing else: neither angles nor, without `pressure`, the equation of state come
    with it. With `pressure`, a ramp A (1 - r/r_c) is added to all pairs, whose A makes up for
    the difference of pressures by the virial at this g, at most 0.1 kT; g hardly feels it.

    `relative_entropy_step` is the same with a metric: it knows how pairs work on each other. Gradients of losses, by
    `fit` with `expectation`, work for any observable and any potential.

    **Arguments:**

    - `system`: its potential is a `TabulatedPair`, alone or as the only one in a sum. For the first guess:
      `boltzmann_inversion`.
    - `rdfs`: one for every two species a ≤ b of the table, (0, 0), (0, 1), …, (1, 1), …, to the cutoff at least;
      `targets`, g at their centers.
    - `chains`: where the first simulation starts, as for `AbstractSampler.sample`; every other goes on.
    - `num_samples`: of all chains; before, `equilibration` samples of each are thrown away.
    - `damping`: the part of the correction that is made.
    - `smoothing`: nm, by default half the spacing of knots.
    - `pressure`: kJ/mol/nm³, such as `1 * units.BAR`.
    - `callback`, `checkpoint`, `resume`, as for `fit`, whose `state.model.potential` it is here.

    **Errors:** `ValueError` for other numbers of functions than pairs of species, targets that do not fit them, bins
    that end before the cutoff; as for `fit`.

    **Reference:** D. Reith, M. Pütz and F. Müller-Plathe, J. Comput. Chem. 24, 1624 (2003); H. Wang, C. Junghans and
    K. Kremer, Eur. Phys. J. E 28, 221 (2009), for the ramp.
    """
    require_instance("system", system, System)
    require_instance("sampler", sampler, AbstractSampler)
    table = _table(system.potential)
    rdfs, targets, num = tuple(rdfs), tuple(targets), table.num_species
    if not len(rdfs) == len(targets) == len(_pairs(num)):
        raise ValueError(
            f"There are {len(rdfs)} `rdfs` and {len(targets)} `targets` for a table of {num} species; wanted"
            f" {len(_pairs(num))} of each, one for every two species, in the order {_pairs(num)}."
        )
    targets = tuple(_target(rdf, g, "targets") for rdf, g in zip(rdfs, targets, strict=True))
    for rdf in rdfs:
        _require_reach(rdf, table.cutoff)
    require_count("equilibration", equilibration, least=0)
    for name, x, unit in (("damping", damping, "parts of the correction"), ("most", most, "kT")):
        require_positive(name, x, unit)
    if smoothing is not None:
        require_positive("smoothing", smoothing, "nm")
    if pressure is not None:
        require_finite("pressure", pressure)
    require_instance("chains", chains, State | Chains)
    start = Chains(chains) if isinstance(chains, State) else chains
    width = 0.5 * (table.knots[1] - table.knots[0]) if smoothing is None else smoothing
    settings = jnp.asarray(
        [damping, width, most, num_samples, equilibration, *(() if pressure is None else (pressure,))]
    )
    problem = _Problem(system.potential, targets, settings, sampler)
    observable = Joint(rdfs if pressure is None else (*rdfs, Pressure()))

    def loss_fn(problem, carry, key):
        fixed = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, problem)
        keys, now = jax.random.split(key), eqx.tree_at(lambda s: s.potential, system, fixed.potential)
        if equilibration:
            _, carry = sampler.sample(now, carry, len(carry) * equilibration, key=keys[0])
        samples, carry = sampler.sample(now, carry, num_samples, key=keys[1])
        found = expectation(observable, now, samples).value
        g, p = found[: len(rdfs)], jnp.asarray(jnp.nan) if pressure is None else found[-1]
        kt = require_ensemble(samples.ensemble, "iterative_boltzmann_inversion").thermal_energy(p)
        change = [
            damping * kt * _change(rdf, one, target, table.knots, width)
            for rdf, one, target in zip(rdfs, g, targets, strict=True)
        ]
        if pressure is not None:
            volume = jnp.mean(jax.vmap(lambda s: s.box.volume)(samples.states))
            height = _ramp(table, rdfs, g, len(samples.states.positions[0]), volume, pressure - p)
            ramp = jnp.clip(height, -_RAMP * kt, _RAMP * kt) * (1 - table.knots / table.cutoff)
            change = [d + ramp for d in change]
        change = [jnp.clip(d, -most * kt, most * kt).astype(fixed.table.values.dtype) for d in change]
        errors = jnp.stack([jnp.mean((a - b) ** 2) for a, b in zip(g, targets, strict=True)])
        # descent by one times the gradient of this adds the change
        loss = -jnp.sum(jax.lax.stop_gradient(_matrix(change, num)) * problem.table.values)
        return loss, (carry, InversionUpdate(g, errors, p))

    state = fit(
        loss_fn,
        problem,
        optax.sgd(1.0),
        num_steps=num_iterations,
        key=key,
        carry=start,
        trainable=lambda problem: problem.table.values,
        callback=callback,
        checkpoint=checkpoint,
        resume=resume,
    )
    return Inversion(state.model.potential, state.history, state.step, state.carry)


def _target(rdf: RDF, g: ArrayLike, name: str) -> Float[Array, " bins"]:
    require_instance("an entry of `rdfs`", rdf, RDF)
    g = as_float_array(g)
    require_shape(name, g, (rdf.num_bins,), "g at the centers of the bins.")
    require_positive(name, g, "units of one", zero=True)
    return g


def _require_reach(rdf: RDF, cutoff: float) -> None:
    if rdf.r_max < cutoff * (1 - 1e-9):
        raise ValueError(
            f"The bins of an `RDF` end at {rdf.r_max} nm, before the cutoff of {cutoff} nm; wanted all of it."
        )


def _is_known(g):
    """Where ln g is more than noise."""
    return g > 1e-3 * jnp.max(g)


def _at_knots(curve, known, rdf, knots, smoothing):
    """A curve in bins averaged about every knot, and whether it is known there; inwards of that, as at the first knot
    where it is."""
    r = rdf.centers
    knots = jnp.asarray(knots, r.dtype)
    # at least so wide that there is a bin
    width = max(smoothing, 0.5 * rdf.r_max / rdf.num_bins)
    weights = jnp.exp(-0.5 * ((r - knots[:, None]) / width) ** 2)
    total = jnp.sum(weights, axis=1)
    weights = weights * known
    here = jnp.sum(weights, axis=1)
    fine = here > 0.5 * total
    mean = weights @ jnp.where(known, curve, 0) / jnp.maximum(here, 1e-30)
    first = jnp.argmax(fine)
    nearest = jnp.maximum(jnp.arange(len(knots)), first)
    return mean[nearest], fine


def _change(rdf, g, target, knots, smoothing):
    """ln(g/g*) at the knots, zero at the last one."""
    known = _is_known(g) & _is_known(target)
    ratio = jnp.where(known, g, 1) / jnp.where(known, target, 1)
    change, _ = _at_knots(jnp.log(ratio), known, rdf, knots, smoothing)
    return change - change[-1]


def _ramp(table, rdfs, g, num_atoms, volume, missing):
    """A of A (1 - r/r_c), kJ/mol, whose virial is the `missing` pressure: (2π/3) Σ_ab ρ_a ρ_b (A/r_c) ∫ r³ g_ab dr."""
    num = table.num_species
    species = jnp.zeros(num_atoms, int) if table.species is None else table.species
    counts = jnp.zeros(num).at[species].add(1)
    total = 0.0
    for (a, b), rdf, one in zip(_pairs(num), rdfs, g, strict=True):
        r = rdf.centers
        moment = jnp.sum(jnp.where(r < table.cutoff, r**3 * one, 0)) * rdf.r_max / rdf.num_bins
        pairs = counts[a] * counts[b] * 2 if a != b else counts[a] * (counts[a] - 1)
        total = total + pairs / volume**2 * moment
    return missing * 3 * table.cutoff / (2 * jnp.pi * total)


def _pairs(num):
    return [(a, b) for a in range(num) for b in range(a, num)]


def _matrix(curves, num):
    """Curves of pairs of species as the table has them."""
    if num == 1:
        return curves[0]  # or, with `species`, broadcast to (1, 1, knots)
    place = {pair: k for k, pair in enumerate(_pairs(num))}
    return jnp.stack([jnp.stack([curves[place[min(a, b), max(a, b)]] for b in range(num)]) for a in range(num)])


# ---- relative entropy


class RelativeEntropyStep(eqx.Module):
    """What `relative_entropy_step` returns."""

    potential: AbstractPotential
    """After the step."""
    gradient: Float[Array, " parameters"]
    """∂S_rel/∂θ, of all parameters that move, in the order of their leaves."""
    gradient_error: Float[Array, " parameters"]
    """Its standard error, by the samples of the model."""
    curvature: Float[Array, "parameters parameters"]
    """β² times the covariance of ∂U/∂θ in the model."""
    decrease: Float[Array, ""]
    """By how much S_rel falls, if it were quadratic."""


def relative_entropy_step(
    system: System,
    target: State,
    samples: Samples,
    *,
    rate: float = 1.0,
    ridge: float = 1e-3,
    trainable: Pick | None = None,
) -> RelativeEntropyStep:
    """One Newton step of a potential towards the distribution of target configurations.

    S_rel = Σ p_target ln(p_target/p_model) is least where the model makes the target's configurations as probable as it
    can. With β = 1/kT and averages over both,

        ∂S/∂θ = β (⟨∂U/∂θ⟩_target - ⟨∂U/∂θ⟩_model)        ∂²S/∂θ² ≈ β² cov_model(∂U/∂θ, ∂U/∂θ)

    which is exact where U is linear in θ, as it is in the values of a `TabulatedPair` with a `NaturalSpline`; with
    values for all distances of pairs the minimum has the target's g(r), the goal of
    `iterative_boltzmann_inversion`. For few parameters: the curvature is a matrix of them.

    **Arguments:** `system`, of the model; `target`, configurations mapped to its sites, whose leaves lead with
    `samples`; `samples`, of the model or near it, to be reweighted; `rate`, the part of the step; `ridge`, added to the
    curvature as a part of the mean of its diagonal over an array of parameters, which holds those that change nothing;
    `trainable`, as for `fit`, of the potential.

    **Errors:** `ValueError` for a potential without parameters, and configurations of other atoms; as for
    `expectation`.

    **Reference:** M. S. Shell, J. Chem. Phys. 129, 144108 (2008); A. Chaimovich and M. S. Shell, J. Chem. Phys. 134,
    094112 (2011).
    """
    require_instance("system", system, System)
    require_instance("target", target, State)
    require_positive("rate", rate, "parts of a step")
    require_positive("ridge", ridge, "parts of the curvature", zero=True)
    moved = Moved.of(system.potential, None, trainable)
    target = system.check_shape_and_cutoff(target)
    slopes = _Slopes(moved)
    found = _measured(slopes, system, samples)
    wanted = jnp.mean(_slopes_of(slopes, system, target), axis=0)
    beta = 1 / require_ensemble(samples.ensemble, "relative_entropy_step").thermal_energy(wanted)
    gradient = beta * (wanted - found.value)
    away = found.records[:, 0] - found.value
    curvature = beta**2 * jnp.matmul((found.weights[:, None] * away).T, away, precision=jax.lax.Precision.HIGHEST)
    flat, unravel = ravel_pytree(moved.parameters)
    diagonal = jnp.diag(curvature)
    # of one array, since others have other units
    own = ravel_pytree(jax.tree.map(lambda x: jnp.full_like(x, jnp.mean(x)), unravel(diagonal.astype(flat.dtype))))[0]
    held = curvature + ridge * jnp.diag(jnp.where(own > 0, own, jnp.mean(diagonal)).astype(curvature.dtype))
    scale = jnp.sqrt(jnp.diag(held))
    step = -rate * jnp.linalg.solve(held / jnp.outer(scale, scale), gradient / scale) / scale
    potential = moved.to_model(unravel(flat + step.astype(flat.dtype)))
    decrease = -jnp.sum(gradient * step) - 0.5 * step @ curvature @ step
    return RelativeEntropyStep(potential, gradient, beta * found.error, curvature, decrease)


class _Slopes(AbstractObservable):
    """∂U/∂θ of one configuration, flat."""

    moved: Moved

    def record(self, system, state, initial):
        del initial
        neighbors = system.find_neighbors(state.positions, state.box)
        flat, unravel = ravel_pytree(self.moved.parameters)

        def energy(p):
            potential = self.moved.to_model(unravel(p))
            return eqx.tree_at(lambda s: (s.potential, s.neighbors), system, (potential, neighbors),
                               is_leaf=lambda x: x is None).potential_energy(state.positions, state.box)  # fmt: skip

        return jax.grad(energy)(flat)

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return weighted_mean(weights, jnp.mean(records, axis=1))


@eqx.filter_jit
def _measured(slopes, system, samples):
    return expectation(slopes, system, samples)


@eqx.filter_jit
def _slopes_of(slopes, system, states):
    return jax.lax.map(lambda state: recorded(slopes.record, system, state, state), states)
