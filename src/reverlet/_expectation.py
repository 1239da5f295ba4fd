import dataclasses
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from ._batches import Batch, batch_rule, map_samples, replicate
from ._dynamics import Dynamics, recorded
from ._ensemble import AbstractEnsemble
from ._fields import AbstractChecked, checked
from ._misc import is_concrete, require_flag, require_instance
from ._observable import AbstractObservable
from ._printing import described, uncertain
from ._sampler import Samples
from ._statistics import Blocks, effective_sample_size, entropy_sample_size, infinitesimal_jackknife
from ._system import System
from ._timeseries import Times
from ._verdict import raise_if

T = TypeVar("T")


class Estimate(eqx.Module):
    """An ensemble mean with its error.

    `print(estimate)` shows both with their unit, and how many samples stand behind them; `f"{estimate:.3f}"` is value ±
    error, each formatted so.
    """

    value: PyTree[Array]
    """What the observable reduces to."""
    error: PyTree[Array]
    """Its standard error by the infinitesimal jackknife, over `blocks`; of a pool with the uncertainty of the free
    energies. Too small where `effective_samples` are few of many: it knows nothing of what no sample shows."""
    blocks: Int[Array, ""]
    """How many independent runs of samples, chains or parts of them, stand behind the error; with few it is itself
    uncertain, to about one part in sqrt(2 · blocks)."""
    effective_samples: Float[Array, ""]
    """Kish's effective sample size of the weights, 1/Σw²."""
    effective_samples_by_entropy: Float[Array, ""]
    """exp(-Σ w ln w)."""
    times: Float[Array, " frames"]
    """Of the frames, ps."""
    records: PyTree[Array]
    """What was recorded: leaves lead with `samples frames`."""
    weights: Float[Array, " samples"]
    """They sum to one."""
    unit: str = eqx.field(static=True, default="")
    """Of the value, where it has one."""

    def __format__(self, spec: str) -> str:
        return uncertain(self.value, self.error, spec=spec) if spec else str(self)

    def __str__(self) -> str:
        size, number = described(self.effective_samples), len(self.weights)
        behind = f"{described(self.blocks)} blocks, {size} of {number} samples effective"
        # reweighted this far, a mean is off by more than samples that hardly reach there can show
        far = is_concrete(self.effective_samples) and np.any(self.effective_samples < min(100, number / 5))
        return f"{uncertain(self.value, self.error, self.unit)} ({behind}{': the error is too small' if far else ''})"


def expectation(
    observable: AbstractObservable,
    system: System,
    samples: Samples,
    *,
    ensemble: AbstractEnsemble | None = None,
    dynamics: Dynamics | None = None,
    batch: Batch = None,
    mesh: Mesh | None = None,
    thermodynamic: bool = True,
    dynamical: bool = True,
    throw: bool = True,
) -> Estimate:
    """The mean of an observable in an ensemble of `system`, from samples of one or many nearby ones.

    ⟨A⟩ = Σ_i w_i(θ) A(trajectory from x_i; θ). Its gradient with respect to `system` has two parts: the thermodynamic
    one, through the weights, and the dynamical one, through the trajectories (or, without dynamics, through what is
    recorded); each is left out by setting its argument to `False`, which does not change the value.

    The weights are those of Boltzmann reweighting, w_i ∝ exp(-u(x_i)) over the density sample i was drawn from: of
    samples of one ensemble Zwanzig's perturbation, whose derivative at equal parameters is -cov(A, ∂u/∂θ) (known as
    DiffTRe where it trains); of a pool made by `mbar`, MBAR's. Trust them while the effective sample size is most of
    the samples; draw new ones otherwise.

    **Arguments:** `ensemble`, by default that of the samples. `dynamics`, how to run trajectories from the samples'
    positions and velocities; without it, the samples themselves are single frames. Velocities are not reweighted: for
    another temperature draw them first, by `samples.with_velocities(topology, key=..., ensemble=...)`. `batch` and
    `mesh`, as for `nve`, by default those of the dynamics: everything in the result is then on every device and
    process. `throw`, as for `nve`.

    **Errors:** `ValueError` for an ensemble that is not given and not known, or of another kind than that of the
    samples; as for `nve`; `SimulationError` where nearly all the weight is on one of ten or more
    samples, or a sample has no finite energy.

    **Reference:** R. W. Zwanzig, J. Chem. Phys. 22, 1420 (1954); S. Thaler and J. Zavadlav, Nat. Commun. 12, 6884
    (2021); M. R. Shirts and J. D. Chodera, J. Chem. Phys. 129, 124105 (2008).
    """
    require_instance("system", system, System)
    require_flag("thermodynamic", thermodynamic)
    require_flag("dynamical", dynamical)
    measurement = Measurement.of(observable, samples, ensemble, dynamics, batch, mesh, throw)
    weights = jax.nn.softmax(measurement.log_weights(system))
    if not thermodynamic:
        weights = jax.lax.stop_gradient(weights)
    times, records = measurement.run(system if dynamical else _frozen(system))
    value = measurement.reduce(times, records, weights)
    estimate = measurement.estimate(value, times, records, weights)
    return replicate(measurement.judged(weights, estimate), measurement.mesh)


def estimate_of(
    reduce: Callable[[Float[Array, " samples"]], PyTree[Array]],
    value: PyTree[Array],
    times: Float[Array, " frames"],
    records: PyTree[Array],
    weights: Float[Array, " samples"],
    blocks: Blocks,
    error_of_sum: Callable[[Float[Array, "samples *shape"]], Float[Array, "*shape"]],
    unit: str,
) -> Estimate:
    """A value with its error, from how it follows from the weights, and how the contributions of samples add up."""
    error = infinitesimal_jackknife(reduce, jax.lax.stop_gradient(weights), error_of_sum)
    size, entropy = effective_sample_size(weights), entropy_sample_size(weights)
    return Estimate(value, error, blocks.number, size, entropy, times, records, weights, unit)


class Measurement(AbstractChecked):
    """What is measured, on what, and how."""

    observable: AbstractObservable
    samples: Samples
    ensemble: AbstractEnsemble
    dynamics: Dynamics | None
    batch: Batch = checked(batch_rule(), static=True, default=None)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    throw: bool = eqx.field(static=True, default=True)

    @classmethod
    def of(cls, observable, samples, ensemble, dynamics, batch, mesh, throw) -> "Measurement":
        """With defaults from the samples and the dynamics."""
        require_instance("samples", samples, Samples)
        require_instance("dynamics", dynamics, Dynamics | None)
        ensemble = _fitting(ensemble, samples)
        if dynamics is not None:
            batch = dynamics.batch if batch is None else batch
            mesh = dynamics.mesh if mesh is None else mesh
            dynamics = dataclasses.replace(dynamics, batch=batch, mesh=mesh)
        return cls(observable, samples, ensemble, dynamics, batch, mesh, throw)

    def log_weights(self, system: System, copies: PyTree = None) -> Float[Array, " samples"]:
        """Of all samples, up to a constant; each with its own `copies` of the parameters if there are."""
        shared = (self.ensemble, system)
        own = (self.samples.states, self.samples.log_density, copies)
        found = replicate(map_samples(_log_weight, shared, own, batch=self.batch, mesh=self.mesh), self.mesh)
        if not self.throw:
            return found
        # minus infinity is a weight of zero
        return raise_if(~(found < jnp.inf), _describe_log_weights, found, guard=found, mesh=self.mesh)

    def run(self, system: System, copies: PyTree = None) -> tuple[Times, PyTree[Array]]:
        """Times and records of the trajectories from all samples; without dynamics, each sample as its only frame."""
        states = self.samples.states
        if self.dynamics is not None:
            record = self.observable.record
            trajectory = self.dynamics.run_many(system, states, record, copies=copies, throw=self.throw)
            return trajectory.times, trajectory.records
        if self.throw:
            states = system.check_shape_and_cutoff(states, mesh=self.mesh)
        shared = (self.observable, system)
        records = map_samples(_record_one, shared, (states, copies), batch=self.batch, mesh=self.mesh)
        return jnp.zeros(1, states.positions.dtype), replicate(records, self.mesh)

    def run_all(self, system: System):
        """Logarithms of the weights and records of all samples, and the times of the frames."""
        times, records = self.run(system)
        return (self.log_weights(system), records), times

    def reduce(self, times, records, weights) -> PyTree[Array]:
        """The property."""
        return self.observable.reduce(times, records, weights, self.ensemble)

    def estimate(self, value, times, records, weights) -> Estimate:
        """The value with its error."""
        known = jax.lax.stop_gradient((times, records))
        reduce = lambda w: self.reduce(*known, w)
        blocks, error_of_sum = self.samples.blocks, self.samples.error_of_sum
        return estimate_of(reduce, value, times, records, weights, blocks, error_of_sum, self.observable.unit)

    def judged(self, weights: Float[Array, " samples"], guard: T) -> T:
        """`guard`, unless nearly all the weight is on one sample."""
        if not self.throw:
            return guard
        size = effective_sample_size(weights)
        least = 2 if len(weights) >= 10 else 0
        return raise_if(~(size >= least), _describe_one_sample, size, weights, guard=guard, mesh=self.mesh)


def _fitting(ensemble: AbstractEnsemble | None, samples: Samples) -> AbstractEnsemble:
    """The ensemble asked for, or that of the samples; refuses one over other variables."""
    drawn = samples.ensemble if samples.pool is None else samples.pool.ensembles[0]
    ensemble = samples.ensemble if ensemble is None else ensemble
    if ensemble is None:
        known = "were drawn from several" if samples.pool is not None else "do not say from which they were drawn"
        raise ValueError(
            f"No `ensemble` is given, and the samples {known}; wanted one, such as `ensemble=rv.NVT(300.0)`."
        )
    if drawn is not None and type(drawn) is not type(ensemble):
        raise ValueError(
            f"`ensemble` is {type(ensemble).__name__}, but the samples are of {type(drawn).__name__}, whose density is"
            f" over other variables; wanted `rv.{type(drawn).__name__}(...)`, or samples of the ensemble asked for."
        )
    return ensemble


def _log_weight(shared, sample):
    ensemble, system = shared
    state, log_density, copy = sample
    return -ensemble.reduced_energy(with_parameters(system, copy), state) - log_density


def _record_one(shared, sample):
    observable, system = shared
    state, copy = sample
    moved = with_parameters(system, copy)
    if moved.search is not None:
        neighbors = moved.find_neighbors(state.positions, state.box)
        moved = eqx.tree_at(lambda s: s.neighbors, moved, neighbors, is_leaf=lambda x: x is None)
    return jax.tree.map(lambda r: r[None], recorded(observable.record, moved, state, state))


def with_parameters(system: System, copy: PyTree) -> System:
    """The system with arrays of another tree in the place of those of its surfaces."""
    return system if copy is None else system.with_surfaces(eqx.combine(copy, system.surfaces))


def _frozen(system):
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, system)


def _describe_log_weights(log_weights):
    bad = np.flatnonzero(~(log_weights < np.inf))
    return (
        f"The logarithm of the weight of sample {bad[0]} is {log_weights[bad[0]]}, and so of {len(bad)} of"
        f" {len(log_weights)} samples; wanted finite energies in the system and ensemble asked for. Atoms that overlap,"
        " parameters that are not finite and neighbor lists that are too small make such energies."
    )


def _describe_one_sample(size, weights):
    return (
        f"The effective sample size is {float(size):.3g} of {len(weights)}: nearly all the weight is on one sample, and"
        " a mean says nothing. Wanted samples of an ensemble nearer to the one asked for: draw new ones at these"
        " parameters, or add states between to the pool of `rv.mbar`."
    )
