import abc
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import Parameter, checked, finite, positive_or_zero
from .._misc import is_concrete
from ._base import AbstractObservable

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


class AbstractLoss(AbstractObservable):
    """How far the mean of an observable is from a target, as one number: what is recorded is the observable's.

    Of the mean over all trajectories and frames, so that its noise makes a square larger on average; `SquaredDistance`
    has no such bias, but wants independent trajectories. For a curve, such as a g(r), the target is at the same places:
    `RDF.smeared` brings one that is elsewhere to the bins, and smears it alike.
    """

    observable: AbstractVar[AbstractObservable]
    target: AbstractVar[Array]
    weights: AbstractVar[Array]

    @abc.abstractmethod
    def distance(self, value: Float[Array, "*shape"]) -> Float[Array, ""]:
        """The loss of a value of the observable, of the shape of the target."""

    def record(self, system, state, initial):
        return self.observable.record(system, state, initial)

    def reduce(self, times, records, weights, ensemble=None):
        value = self.observable.reduce(times, records, weights, ensemble)
        name = type(self).__name__
        if not isinstance(value, Array):
            raise ValueError(
                f"`{name}` got a `{type(self.observable).__name__}`, which reduces to a `{type(value).__name__}`;"
                f" wanted one array. Of several: `rv.Joint((rv.losses.{name}(a, ...), ...))`, and their sum."
            )
        if self.target.shape != value.shape or self.weights.shape not in ((), value.shape):
            raise ValueError(
                f"`{name}` got an observable that reduces to shape {value.shape}, a target of shape {self.target.shape}"
                f" and weights of shape {self.weights.shape}; wanted a target on the grid of the observable, and"
                " weights of that shape or a single number. A g(r) from elsewhere: `rdf.smeared(r, g)`."
            )
        return self.distance(value)


class MeanSquaredError(AbstractLoss):
    """The weighted mean of squared differences, Σ w (A - A*)² / Σ w.

    **Arguments:** `observable`, which reduces to an array; `target` A*, of that shape; `weights` w, of that shape, or
    the same for all.

    **Errors:** `ValueError` for a target that is not finite, weights that are negative or all zero; of `reduce`, for
    shapes that do not fit, and an observable that reduces to several arrays.
    """

    observable: AbstractObservable
    target: Parameter = finite("the unit of the observable")
    weights: Parameter = checked(positive_or_zero("units of 1"), default=1.0)

    def __check_init__(self):
        _require_some("weights", self.weights)

    def distance(self, value):
        w = jnp.broadcast_to(self.weights, value.shape)
        return jnp.sum(w * (value - self.target) ** 2) / jnp.sum(w)


class JensenShannon(AbstractLoss):
    """The Jensen–Shannon divergence of two distributions p ∝ w A and q ∝ w A*: ½ Σ p ln(p/m) + ½ Σ q ln(q/m), where
    m = (p + q)/2; from zero, where they are alike, to ln 2.

    Only shapes count: a constant factor of A does not. For a g(r) over all shells, `weights=rdf.centers**2` makes p the
    distribution of distances. Where A and A* are zero nothing is added, and no derivative taken. NaN for an A that is
    negative somewhere, or zero everywhere.

    **Arguments:** `observable`, which reduces to an array; `target` A*, of that shape, not negative; `weights` w, of
    that shape, or the same for all.

    **Errors:** `ValueError` for a target or weights that are negative, or zero everywhere; as for `MeanSquaredError`.

    **Reference:** J. Lin, IEEE Trans. Inf. Theory 37, 145 (1991).
    """

    observable: AbstractObservable
    target: Parameter = positive_or_zero("the unit of the observable")
    weights: Parameter = checked(positive_or_zero("units of 1"), default=1.0)

    def __check_init__(self):
        _require_some("weights", self.weights)
        _require_some("target", self.target)

    def distance(self, value):
        p, q = self._distribution(value), self._distribution(self.target.astype(value.dtype))
        middle = 0.5 * (p + q)
        return 0.5 * jnp.sum(_relative_entropy(p, middle) + _relative_entropy(q, middle))

    def _distribution(self, a):
        weighted = jnp.broadcast_to(self.weights, a.shape) * a
        return weighted / jnp.sum(weighted)


def _require_some(name, x):
    if is_concrete(x) and not np.any(np.asarray(x) > 0):
        raise ValueError(f"`{name}` is zero everywhere; wanted one or more that are positive.")


def _relative_entropy(p, q):
    """p ln(p/q), and zero with no derivative where p is zero; p ≥ 0 needs no q > 0 there."""
    counts = p != 0
    return jnp.where(counts, p * jnp.log(jnp.where(counts, p, 1) / jnp.where(counts, q, 1)), 0)
