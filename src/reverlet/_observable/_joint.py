import jax
import jax.numpy as jnp

from .._fields import Parameter, checked, finite, positive
from ._base import AbstractObservable


class Joint(AbstractObservable):
    """Several observables of the same trajectories: one run, and a tuple of what each reduces to.

    **Arguments:** `observables`, a tuple.

    **Errors:** `TypeError` for what is no tuple of observables.
    """

    observables: tuple[AbstractObservable, ...]

    def __check_init__(self):
        fine = isinstance(self.observables, tuple) and all(isinstance(o, AbstractObservable) for o in self.observables)
        if not fine:
            raise TypeError(
                f"`observables` of `Joint` are {self.observables!r}; wanted a tuple of observables, such as"
                " `rv.Joint((rv.SelfDiffusion(), rv.Temperature()))`."
            )

    def record(self, system, state, initial):
        return tuple(o.record(system, state, initial) for o in self.observables)

    def reduce(self, times, records, weights, ensemble=None):
        pairs = zip(self.observables, records, strict=True)
        return tuple(o.reduce(times, own, weights, ensemble) for o, own in pairs)


class SquaredDistance(AbstractObservable):
    """How far a mean is from a target, Σ (A - A*)²/s², without what noise adds to a square.

    A mean over trajectories i has noise, and the square of noise is not zero on average: it would draw a fit to
    parameters where there is less of it. So only products of different trajectories count,

        Σ_{i≠j} w_i w_j (A_i - A*)·(A_j - A*) / (1 - Σ w_i²),

    which has no such bias and may be negative. Right where the observable is a mean over trajectories; of others, such
    as a fluctuation, each trajectory's own is taken. Samples must be independent, one of every chain: products of
    correlated ones keep their noise.

    **Arguments:** `observable`; `target` A*, of the shape it reduces to; `scale` s, which makes a number of the
    differences: a scalar or of that shape too, such as the errors of the target.

    **Errors:** `ValueError` for a target that is not finite; of `reduce`, for a single trajectory.
    """

    observable: AbstractObservable
    target: Parameter = finite("the unit of the observable")
    scale: Parameter = checked(positive("the unit of the observable"), default=1.0)

    def record(self, system, state, initial):
        return self.observable.record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        if len(weights) < 2:
            raise ValueError("`SquaredDistance` got one sample; wanted two or more, of which products are taken.")
        one = jnp.ones(1, weights.dtype)
        alone = lambda r: self.observable.reduce(times, jax.tree.map(lambda x: x[None], r), one, ensemble)
        values = jax.vmap(alone)(records)
        if self.target.shape != values.shape[1:] or self.scale.shape not in ((), self.target.shape):
            raise ValueError(
                f"`SquaredDistance` got an observable that reduces to shape {values.shape[1:]}, a target of shape"
                f" {self.target.shape} and a scale of shape {self.scale.shape}; wanted a target of the observable's"
                " shape, and a scale of that or a single number."
            )
        away = (values - self.target) / self.scale
        w = jnp.expand_dims(weights, tuple(range(1, away.ndim)))
        products = jnp.sum(w * away, axis=0) ** 2 - jnp.sum(w**2 * away**2, axis=0)
        return jnp.sum(products) / (1 - jnp.sum(weights**2))
