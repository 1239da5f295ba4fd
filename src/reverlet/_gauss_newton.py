"""Steps of least squares, for few parameters and many targets."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._fields import AbstractChecked, checked, count, positive_number
from ._residuals import AbstractLoss
from ._sensitivity import Linearized


class GaussNewton(AbstractChecked):
    """Steps by Gauss and Newton in a region of trust, as Levenberg and Marquardt do.

    (H + λ diag H) δ = -g, with H = Jᵀ ρ' J of all residuals and priors and g half the gradient of the loss. A step is
    tried on the samples that are there, reweighted: taken if the loss falls and enough of them still count; otherwise
    λ grows and a shorter one is tried.

    **Arguments:** `damping` λ, at first; `attempts`, how many steps are tried in an update.

    **Reference:** D. W. Marquardt, J. Soc. Ind. Appl. Math. 11, 431 (1963).
    """

    damping: float = checked(positive_number("no unit"), default=1e-3)
    attempts: int = checked(count(), default=10, static=True)

    @property
    def transformation(self) -> optax.GradientTransformation:
        """What keeps λ from update to update."""

        def init(params):
            return (jnp.asarray(self.damping, jax.tree.leaves(params)[0].dtype),)

        def update(updates, state, params=None):
            del params
            return jax.tree.map(jnp.negative, updates), state

        return optax.GradientTransformation(init, update)


class Curvature(eqx.Module):
    """Half the gradient of a loss and half of its curvature, in NumPy's double precision."""

    gradient: np.ndarray
    hessian: np.ndarray
    weights: np.ndarray
    """ρ' of the targets."""

    @staticmethod
    def of(found: Linearized, loss: AbstractLoss, priors: np.ndarray, prior_jacobian: np.ndarray) -> "Curvature":
        """With the residuals of priors and their derivatives."""
        weights = slope_of(loss, found.residuals)
        weighted = found.jacobian * weights[:, None]
        gradient = weighted.T @ found.residuals + prior_jacobian.T @ priors
        return Curvature(gradient, weighted.T @ found.jacobian + prior_jacobian.T @ prior_jacobian, weights)

    def step(self, damping: float) -> np.ndarray:
        """δ."""
        scaled, scale = self._scaled()
        damped = scaled + damping * np.diag(np.diag(scaled))
        return -np.linalg.lstsq(damped, self.gradient / scale, rcond=None)[0] / scale

    def _scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """The curvature in units of the parameters in which its diagonal is one, and their inverses: what counts as
        zero must not depend on units."""
        scale = np.sqrt(np.diag(self.hessian))
        scale = np.where(scale == 0, 1.0, scale)
        return self.hessian / np.outer(scale, scale), scale

    def _inverse(self) -> np.ndarray:
        scaled, scale = self._scaled()
        return np.linalg.pinv(scaled, hermitian=True) / np.outer(scale, scale)

    def gradient_parts(self, found: Linearized):
        """Contributions to the gradient from those to residuals and jacobian."""
        weighted = found.jacobian * self.weights[:, None]
        pull = self.weights * found.residuals
        return lambda r, j: r @ weighted + np.einsum("sep,e->sp", j, pull)

    def step_over_noise(self, found: Linearized) -> float:
        """The undamped step in units of its noise, that of residuals and of the jacobian propagated: √(δᵀ C⁻¹ δ / p),
        with the covariance C of the noise of p parameters.

        One on average where there is nothing but noise, and large where any combination of parameters is known to be
        off, however badly each of them is known. A thousandth of what targets tell counts as noise too.
        """
        inverse, parts = self._inverse(), self.gradient_parts(found)
        noise = found.covariance(lambda r, j: parts(r, j) @ inverse) + 1e-6 * inverse
        step = self.step(0.0)
        scale = np.sqrt(np.diag(noise))  # parameters have units
        scale = np.where(scale == 0, 1.0, scale)
        scaled = step / scale
        known = np.linalg.lstsq(noise / np.outer(scale, scale), scaled, rcond=None)[0]
        return float(np.sqrt(np.maximum(scaled @ known, 0.0) / len(step)))

    def covariance(self, found: Linearized) -> np.ndarray:
        """Of the parameters at the minimum: by the uncertainties of the targets and the priors, and by the errors of
        the estimates."""
        inverse = self._inverse()
        weighted = found.jacobian * self.weights[:, None]
        prior = self.hessian - weighted.T @ found.jacobian
        of_targets = weighted.T @ weighted + prior
        return inverse @ of_targets @ inverse + found.covariance(lambda r, j: r @ weighted @ inverse)


def slope_of(loss: AbstractLoss, residuals: np.ndarray) -> np.ndarray:
    """ρ' at the squares of residuals."""
    squares = jnp.asarray(residuals) ** 2
    return np.asarray(jax.vmap(jax.grad(lambda s: loss.cost(s[None])[0]))(squares), float)
