"""How far a model is from its targets and from what is known of its parameters: losses and priors."""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._fields import AbstractChecked, Parameter, Rule, checked, finite, positive, positive_number
from ._per_parameter import Pick, picked


class AbstractLoss(AbstractChecked):
    """What a squared deviation costs: Σ ρ(z²), z the deviation over its uncertainty."""

    @abc.abstractmethod
    def cost(self, squares: Float[Array, " targets"]) -> Float[Array, " targets"]:
        """ρ(z²), with ρ(s) ≈ s of small s."""


class SquaredLoss(AbstractLoss):
    """ρ(s) = s: χ², for deviations that are Gaussian."""

    def cost(self, squares):
        return squares


class HuberLoss(AbstractLoss):
    """ρ(s) = s up to s = c², then 2c√s - c²: a deviation beyond c uncertainties pulls no more than one of c.

    **Arguments:** `threshold` c, in uncertainties.

    **Reference:** P. J. Huber, Ann. Math. Stat. 35, 73 (1964).
    """

    threshold: float = checked(positive_number("uncertainties"), default=1.345)

    def cost(self, squares):
        c = self.threshold
        far = squares > c**2
        return jnp.where(far, 2 * c * jnp.sqrt(jnp.where(far, squares, 1)) - c**2, squares)


class CauchyLoss(AbstractLoss):
    """ρ(s) = c² ln(1 + s/c²): the further away, the less a deviation pulls.

    **Arguments:** `threshold` c, in uncertainties.
    """

    threshold: float = checked(positive_number("uncertainties"), default=2.385)

    def cost(self, squares):
        c = self.threshold**2
        return c * jnp.log1p(squares / c)


class SoftL1Loss(AbstractLoss):
    """ρ(s) = 2c² (√(1 + s/c²) - 1): a smooth `HuberLoss`.

    **Arguments:** `threshold` c, in uncertainties.
    """

    threshold: float = checked(positive_number("uncertainties"), default=1.0)

    def cost(self, squares):
        c = self.threshold**2
        return 2 * c * (jnp.sqrt(1 + squares / c) - 1)


def _pick_rule():
    def require(name, x):
        words = [x] if isinstance(x, str) else x
        if not callable(x) and not (isinstance(words, list | tuple) and all(isinstance(w, str) for w in words)):
            raise TypeError(f'`{name}` is {x!r}; wanted a name of the model such as "sigma", or `lambda m: m.sigma`.')

    return Rule(lambda x: tuple(x) if isinstance(x, list) else x, require)


class Prior(AbstractChecked):
    """What is known of parameters before the fit: a Gaussian, which costs ((p - mean)/width)².

    **Arguments:** `pick`, which arrays of the model, as `trainable` of `fit`; `mean` and `width`, in their unit; of
    several arrays the same for all.
    """

    pick: Any = checked(_pick_rule(), static=True)
    mean: Parameter = finite("the unit of the parameter")
    width: Parameter = positive("the unit of the parameter")

    def residuals(self, model: PyTree) -> Float[Array, " parameters"]:
        """(p - mean)/width of all parameters it is about."""
        return _flat([(x - self.mean) / self.width for x in _chosen(self.pick, model)])


class LogPrior(AbstractChecked):
    """The same of the logarithm of positive parameters: costs (ln(p/mean)/width)².

    **Arguments:** as for `Prior`; `width`, a relative one: 0.1 is ten percent.
    """

    pick: Any = checked(_pick_rule(), static=True)
    mean: Parameter = positive("the unit of the parameter")
    width: Parameter = positive("no unit")

    def residuals(self, model: PyTree) -> Float[Array, " parameters"]:
        """ln(p/mean)/width of all parameters it is about."""
        return _flat([jnp.log(x / self.mean) / self.width for x in _chosen(self.pick, model)])


def prior_residuals(priors: Sequence[Prior | LogPrior], model: PyTree) -> Float[Array, " parameters"]:
    """Of all priors, one after the other."""
    return _flat([prior.residuals(model) for prior in priors])


def _chosen(pick: Pick, model: PyTree) -> list[Array]:
    names = picked(pick, model, "a prior")
    return [x for path, x in jax.tree_util.tree_leaves_with_path(model) if jax.tree_util.keystr(path) in names]


def _flat(parts):
    return jnp.concatenate([jnp.zeros(0), *(jnp.ravel(p) for p in parts)])
