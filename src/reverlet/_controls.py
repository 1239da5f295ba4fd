import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._fields import AbstractChecked, positive_scalar
from ._misc import tree_dot


class AbstractCotangentControl(AbstractChecked):
    """What is done to the cotangent on its way back through a trajectory, where the exact gradient explodes.

    `ReversibleAdjoint(controls=(...))` applies its controls one after the other, to every trajectory by itself. The
    trajectory and its records stay what they are; the gradient is then no longer exact but biased, in exchange for less
    noise. Cotangents contain every factor of the loss: 1/n for a mean over n samples.
    """

    @abc.abstractmethod
    def record(
        self, time: Float[Array, ""], h: Float[Array, ""], cotangent: PyTree[Float[Array, "..."]]
    ) -> PyTree[Float[Array, "..."]]:
        """The part of the cotangent of something saved that enters.

        **Arguments:** `time` since the start, `h` the length of a step (ps), and the derivative of the loss with
        respect to what was saved at that time.
        """

    @abc.abstractmethod
    def step(
        self, time: Float[Array, ""], h: Float[Array, ""], cotangent: PyTree[Float[Array, "..."]]
    ) -> PyTree[Float[Array, "..."]]:
        """The part of the cotangent of the state that goes on, once per step back.

        It comes from later times only: what was saved at `time` enters afterwards. With splitting methods it is the
        cotangent of the state between the first kick of a step and its first drift, with others that of the
        state at the beginning of the step together with the solver's own.

        **Arguments:** `time` of the beginning of the step just undone, since the start; `h`, its length (ps).
        """


class DropAfter(AbstractCotangentControl):
    """Records later than `horizon` do not enter: the gradient of a loss without them, whose value still has them.

    **Arguments:** `horizon` since the start, ps; to the nearest step.

    **Errors:** `ValueError` unless it is more than zero.
    """

    horizon: float | Float[Array, ""] = positive_scalar("ps")

    def record(self, time, h, cotangent):
        return _kept(time < self.horizon + 0.5 * h, cotangent)

    def step(self, time, h, cotangent):
        del time, h
        return cotangent


class Damp(AbstractCotangentControl):
    """The cotangent of the state decays on its way back: by exp(-rate h) per step.

    A rate near the largest Lyapunov exponent balances the growth. Influences over a time t count exp(-rate t) of what
    they should: the bias is small where the correlations measured decay faster.

    **Arguments:** `rate`, 1/ps.

    **Errors:** `ValueError` unless it is more than zero.
    """

    rate: float | Float[Array, ""] = positive_scalar("1/ps")

    def record(self, time, h, cotangent):
        del time, h
        return cotangent

    def step(self, time, h, cotangent):
        del time
        return _scaled(jnp.exp(-self.rate * h), cotangent)


class ClipNorm(AbstractCotangentControl):
    """The cotangent of the state is shortened to `max_norm` wherever it is longer, at every step.

    Its direction stays. Trajectories whose cotangent stays short keep their exact gradient.

    **Arguments:** `max_norm`, of all components together: with respect to positions in nm and velocities in nm/ps.

    **Errors:** `ValueError` unless it is more than zero.

    **Reference:** R. Pascanu, T. Mikolov and Y. Bengio, ICML (2013), there for the gradient of the parameters.
    """

    max_norm: float | Float[Array, ""] = positive_scalar("units of the loss per nm and per nm/ps")

    def record(self, time, h, cotangent):
        del time, h
        return cotangent

    def step(self, time, h, cotangent):
        del time, h
        # relative to the largest component or the bound, since squares would overflow long before the norm does
        largest = jnp.stack([jnp.max(jnp.abs(c), initial=0) for c in jax.tree.leaves(cotangent)]).max()
        unit = jnp.maximum(largest, self.max_norm)
        relative = _scaled(1 / unit, cotangent)
        norm, bound = jnp.sqrt(tree_dot(relative, relative)), self.max_norm / unit
        # not a division by the norm alone, which may be zero
        return _scaled(bound / jnp.maximum(norm, bound), cotangent)


class ResetEvery(AbstractCotangentControl):
    """Truncated propagation: the cotangent of the state is dropped at every multiple of `length`.

    A record sees what happened since the last multiple before it, up to `length` ago: half of that on average. (A
    window of the same length for every record would take a cotangent for each.) The dependence of records on where
    the trajectory began, as that of v(0)·v(t) on v(0), is no propagation, and stays.

    **Arguments:** `length`, ps; multiples to the nearest step.

    **Errors:** `ValueError` unless it is more than zero.
    """

    length: float | Float[Array, ""] = positive_scalar("ps")

    def record(self, time, h, cotangent):
        del time, h
        return cotangent

    def step(self, time, h, cotangent):
        blocks = lambda t: jnp.floor(t / self.length)
        # the start is no border: nothing is older
        border = (time > 0.5 * h) & (blocks(time + 0.5 * h) > blocks(time - 0.5 * h))
        return _kept(~border, cotangent)


def _kept(where, cotangent):
    # not a product with zero, which leaves NaN where a cotangent has overflown
    return jax.tree.map(lambda c: jnp.where(where, c, jnp.zeros_like(c)), cotangent)


def _scaled(factor, cotangent):
    return jax.tree.map(lambda c: factor.astype(c.dtype) * c, cotangent)
