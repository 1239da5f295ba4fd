"""What is known from experiment, and how far a model is from it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from ._batches import Batch
from ._dynamics import Dynamics
from ._ensemble import AbstractEnsemble
from ._expectation import Estimate, expectation
from ._fields import AbstractChecked, Parameter, checked, finite, function, instance, positive, positive_number
from ._observable import AbstractObservable, AbstractPhaseDifference, SquaredDistance
from ._sampler import Samples
from ._system import System


class Target(AbstractChecked):
    """A value to be reached, with what it takes to compare.

    **Arguments:** `observable`, what reduces to it, or a difference of two phases, which only a fit of many state
    points can measure (`rv.reweighting`); `value`, of that shape, in internal units; `error`, its standard error: a
    scalar or of that shape, in which distances are counted; `unit`, in which people read it, as a string, and `scale`,
    how much that is in internal units, by which tables divide; `citation`, where it was measured; `name`, by which it
    is told, by default that of the class of the observable.

    **Errors:** `ValueError` for values that are not finite, and errors and scales that are not positive.
    """

    observable: AbstractObservable | AbstractPhaseDifference
    value: Parameter = finite("the unit of the observable")
    error: Parameter = positive("the unit of the value")
    unit: str = eqx.field(static=True, default="", kw_only=True)
    scale: float = checked(positive_number("internal units"), static=True, default=1.0, kw_only=True)
    citation: str = eqx.field(static=True, default="", kw_only=True)
    name: str = eqx.field(static=True, default="", kw_only=True)

    @property
    def distance(self) -> SquaredDistance:
        """χ² per entry of the value: the squared distance in units of the error, without the bias of noise.

        **Errors:** `ValueError` for a difference of two phases, of which one state point alone knows nothing.
        """
        if isinstance(self.observable, AbstractPhaseDifference):
            raise ValueError(
                f"The target {self.name or type(self.observable).__name__} is a difference to the state point"
                f" {self.observable.other!r}, of which one state point alone knows nothing; wanted a fit of both."
            )
        size = self.value.size**0.5
        return SquaredDistance(self.observable, self.value, self.error * size)


class StatePoint(AbstractChecked):
    """One state point of a fit: a system made from a model, an ensemble, and what is to be reached there.

    A loss over several state points is the sum of theirs.

    **Arguments:** `system`, from the model to a system, such as `lambda model: model.system(216, box)`; `ensemble`;
    `targets`, a tuple; `dynamics`, of trajectories from the samples, or none; `name`, by which it is told, and known to
    differences of two phases.

    **Errors:** `ValueError` with neither targets nor a name; of what is measured, for differences of two phases.
    """

    system: Callable[[Any], System] = function("`lambda model: model.system(216, box)`")
    ensemble: AbstractEnsemble = instance(AbstractEnsemble)
    targets: tuple[Target, ...] = instance(tuple)
    dynamics: Dynamics | None = None
    name: str = eqx.field(static=True, default="", kw_only=True)

    def __check_init__(self):
        targets = self.targets
        if (
            not isinstance(targets, tuple)
            or not all(isinstance(t, Target) for t in targets)
            or not (targets or self.name)
        ):
            raise ValueError(
                f"`targets` is {targets!r}; wanted a tuple of at least one `rv.Target(...)`; none only"
                " of a state point with a name, by which targets of others ask for it."
            )

    def measure(
        self, model: PyTree, samples: Samples, *, batch: Batch = None, mesh: Mesh | None = None, throw: bool = True
    ) -> Estimate:
        """The distances of all targets, and what their observables reduce to: `value` is a pair of tuples.

        One run for all. Arguments and errors as for `expectation`.
        """
        return expectation(
            _Compared(self.targets),
            self.system(model),
            samples,
            ensemble=self.ensemble,
            dynamics=self.dynamics,
            batch=batch,
            mesh=mesh,
            throw=throw,
        )

    def loss(
        self, model: PyTree, samples: Samples, *, batch: Batch = None, mesh: Mesh | None = None, throw: bool = True
    ) -> tuple[Float[Array, ""], Estimate]:
        """The sum over targets of χ² per entry, differentiable by the model, and the estimate it is made of."""
        estimate = self.measure(model, samples, batch=batch, mesh=mesh, throw=throw)
        return sum(estimate.value[0], jnp.zeros(())), estimate


class _Compared(AbstractObservable):
    """The distances of targets and the values of their observables, from the same records."""

    targets: tuple[Target, ...]

    def record(self, system, state, initial):
        return tuple(t.distance.record(system, state, initial) for t in self.targets)

    def reduce(self, times, records, weights, ensemble=None):
        reduce = lambda observables: tuple(
            o.reduce(times, own, weights, ensemble) for o, own in zip(observables, records, strict=True)
        )
        return reduce([t.distance for t in self.targets]), reduce([t.observable for t in self.targets])
