"""Trajectories of Langevin dynamics whose noise is known, and what keeps their derivatives from exploding."""

import abc
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from . import units
from ._batches import Batch, batch_rule
from ._dynamics import recorded
from ._fields import AbstractChecked, Parameter, checked, count, optional, positive, positive_number, positive_or_zero
from ._health import Health, reach_of
from ._neighbors import Wear
from ._sampler._markov import DRIFT, KICK, masses_of, using
from ._solver import OrnsteinUhlenbeck
from ._state import State
from ._timeseries import Times

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


class AbstractFeedback(AbstractChecked):
    """What is subtracted from the derivative of the velocities wherever noise comes in, so that it stays small.

    With δx and δv the derivatives of the state before the noise of a step, and c = exp(-γh),

        u = a c δv + b h δx,        δv after the noise = c δv - u.

    Subtracting u from the trajectory is the same as shifting its noise ξ by -u/s, s its amplitude. What that does to a
    mean is known from the density of ξ: the weights Σ u·ξ/s put it back. So the mean of the gradient is the same for
    every feedback, and its noise is not.

    **Reference:** A. Ni, arXiv:2503.00718 and arXiv:2507.21497 (2025), there called path kernel; for the weights of
    Langevin integrators, S. Kieninger and B. G. Keller, J. Chem. Phys. 154, 094102 (2021).
    """

    @abc.abstractmethod
    def gains(self, time: Float[Array, ""], h: Float[Array, ""]) -> tuple[ArrayLike, ArrayLike]:
        """a, without unit, and b, 1/ps², of the step of length `h` (ps) that begins at `time` (ps)."""


class Pathwise(AbstractFeedback):
    """None: the derivative of the trajectory itself, which explodes like exp(λt) and needs no weights."""

    def gains(self, time, h):
        del time, h
        return 0.0, 0.0


class PathKernel(AbstractFeedback):
    """Derivatives of velocities decay by exp(-rate h) per step more than they would, from `onset` on.

    A rate near the largest Lyapunov exponent balances the growth; a larger one trades what the trajectory says for
    the noise of the weights, which grows with it.

    **Arguments:** `rate`, 1/ps; `spring`, what also pulls the derivatives of positions to zero, 1/ps²; `onset` since
    the start, ps.

    **Errors:** `ValueError` for a rate that is not positive, and others that are negative.
    """

    rate: Parameter = positive("1/ps")
    spring: Parameter = checked(positive_or_zero("1/ps²"), default=0.0)
    onset: Parameter = checked(positive_or_zero("ps"), default=0.0)

    def gains(self, time, h):
        on = lambda gain: jnp.where(time + 0.5 * h > self.onset.astype(h.dtype), gain.astype(h.dtype), 0)
        return on(-jnp.expm1(-self.rate.astype(h.dtype) * h)), on(self.spring)


class LikelihoodRatio(AbstractFeedback):
    """All that can be: the derivative of positions is gone after two steps, and the weights say everything.

    a = 1 and b = 1/h² take what a force did in one step out in the next. What is left of the derivative is that of one
    kick. Known as Girsanov's weights, or the score function. It never explodes; its noise grows with the square root
    of time and of the number of atoms.
    """

    def gains(self, time, h):
        del time
        return 1.0, 1 / h**2


class AbstractCredit(AbstractChecked):
    """Which noise counts for which record.

    A record owes nothing to noise that comes later, which never counts. Of what came before, noise far away or long
    ago changes its mean little and makes most of the variance: to leave it out is a bias, to be measured.
    """

    window: AbstractVar[float | None]
    """ps; noise older than that is left out. `None` for none."""

    @abc.abstractmethod
    def gather(self, state: State, terms: Float[Array, " atoms"]) -> Float[Array, "*slots"]:
        """What of a step's u·ξ/s of all atoms counts: one number for all, or one for every atom."""

    def windowed(self, scores: Float[Array, "frames *slots"], every: ArrayLike) -> Float[Array, "frames *slots"]:
        """Without what is older than the window, of frames `every` ps apart."""
        if self.window is None:
            return scores
        frames = jnp.maximum(jnp.round(self.window / every), 1).astype(int)
        old = jnp.arange(len(scores)) - frames  # the first frame has nothing before it
        return scores - scores[jnp.maximum(old, 0)]


class AllNoise(AbstractCredit):
    """That of all atoms: for any record, without bias.

    **Arguments:** `window`, ps.
    """

    window: float | None = checked(optional(positive_number("ps")), static=True, default=None)

    def gather(self, state, terms):
        del state
        return jnp.sum(terms)


class OwnNoise(AbstractCredit):
    """For the record of an atom, its own: of records whose arrays lead with `atoms`, such as those of `Atomwise`.

    **Arguments:** `window`, ps.
    """

    window: float | None = checked(optional(positive_number("ps")), static=True, default=None)

    def gather(self, state, terms):
        del state
        return terms


class NoiseWithin(AbstractCredit):
    """For the record of an atom, that of all atoms that are near it when it acts; of records that lead with `atoms`.

    **Arguments:** `radius`, nm; `window`, ps.

    **Errors:** `ValueError` for a radius that is not positive.
    """

    radius: float = checked(positive_number("nm"), static=True)
    window: float | None = checked(optional(positive_number("ps")), static=True, default=None)

    def gather(self, state, terms):
        x = jax.lax.stop_gradient(state.positions)
        displacement = jax.vmap(jax.vmap(state.box.displacement, (None, 0)), (0, None))(x, x)
        near = jnp.sum(displacement**2, axis=-1) < self.radius**2
        return jnp.sum(jnp.where(near, terms, 0), axis=1)


class LangevinPaths(AbstractChecked):
    """How to run trajectories of Langevin dynamics: those of `LangevinBAOAB`, kept whole.

    Without much friction their correlations are nearly those at constant energy. How nearly is to be measured: the
    weights of noise fall like 1/sqrt(friction).

    **Arguments:** `temperature` (K), `friction` (1/ps), `dt` (ps), `num_steps`, of which `save_every` is a divisor;
    `batch`, how many run at a time, as for `nve`.

    **Errors:** `ValueError` for numbers that are not positive and steps that do not fit.
    """

    temperature: Parameter = positive("K")
    friction: Parameter = positive("1/ps")
    dt: Parameter = checked(positive("ps"), kw_only=True)
    num_steps: int = checked(count(), static=True, kw_only=True)
    save_every: int = checked(count(), static=True, default=1, kw_only=True)
    batch: Batch = checked(batch_rule(), static=True, default=None, kw_only=True)

    def __check_init__(self):
        if self.num_steps % self.save_every != 0:
            raise ValueError(
                f"`num_steps` is {self.num_steps}, which `save_every` {self.save_every} does not divide; wanted a"
                " multiple of it."
            )

    def times(self, dtype: Any) -> Times:
        """Of the frames, ps."""
        return self.dt.astype(dtype) * jnp.arange(0, self.num_steps + 1, self.save_every, dtype=dtype)


def run_path(shared: PyTree, sample: PyTree) -> tuple[PyTree, Float[Array, "frames *slots"], Health]:
    """Records and weights of one path, at every frame, and what tells whether it went well.

    The weights have the value zero, and the derivative that counts: those of u. On the way back, only states at frames
    are in memory; what is between is run again, with the same noise.
    """
    paths, feedback, credit, system, record = shared
    initial, copy, key = sample
    if copy is not None:
        system = system.with_surfaces(eqx.combine(copy, system.surfaces))
    search = system.search
    find = lambda state: system.find_neighbors(state.positions, state.box)
    kinetic = lambda state: jax.lax.stop_gradient(system.kinetic_energy(state.velocities))

    def step(carry, k):
        state, acceleration, score, neighbors, wear = carry
        if search is not None:
            due = (k > 0) & (k % search.every == 0)
            neighbors = jax.lax.cond(due, lambda: find(state), lambda: neighbors)
        moved = using(system, neighbors)
        state, acceleration, terms = _step(paths, feedback, moved, state, acceleration, k, jax.random.fold_in(key, k))
        if search is not None:
            wear = wear.and_of(state.positions, state.box, neighbors)
        return (state, acceleration, score + credit.gather(state, terms), neighbors, wear), None

    def frame(carry, first):
        carry, _ = jax.lax.scan(step, carry, first + jnp.arange(paths.save_every))
        state, _, score, neighbors, _ = carry
        found = recorded(record, using(system, neighbors), state, initial)
        return carry, (found, score, kinetic(state), reach_of(state.positions))

    neighbors, x = find(initial), initial.positions
    start = using(system, neighbors)
    acceleration = KICK.acceleration(0.0, (x,), (start, initial.box))
    score = credit.gather(initial, jnp.zeros(x.shape[0], x.dtype))
    carry = (initial, acceleration, score, neighbors, Wear.none(x.dtype))
    firsts = jnp.arange(0, paths.num_steps, paths.save_every)
    (*_, wear), rest = jax.lax.scan(jax.checkpoint(frame, prevent_cse=False), carry, firsts)  # pyright: ignore[reportPrivateImportUsage]
    zeroth = (recorded(record, start, initial, initial), score, kinetic(initial), reach_of(x))
    records, scores, kinetics, reach = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), zeroth, rest)
    energy = start.potential_energy(x, initial.box)
    health = Health(energy, kinetics, reach, jnp.zeros((), jnp.int32), wear)
    return records, scores, jax.lax.stop_gradient(health)


def _step(paths, feedback, system, state, acceleration, k, key):
    """One step of BAOAB, as for `LangevinBAOAB`, its derivative less u, and u·ξ/s of every atom."""
    x, masses = state.positions, masses_of(system, state.positions.dtype)
    cast = lambda value: value.astype(x.dtype)
    h, args = cast(paths.dt), (system, state.box)
    friction, thermal_energy = cast(paths.friction), units.BOLTZMANN * cast(paths.temperature)
    xi = jax.random.normal(key, x.shape, x.dtype)
    y = KICK.push((x, state.velocities), acceleration, 0.5 * h)
    x, v = DRIFT.apply(0.0, y, args, 0.5 * h)
    _, noisy = OrnsteinUhlenbeck(friction, thermal_energy).apply(0.0, (x, v), (masses, xi), h)
    a, b = feedback.gains(k * h, h)
    u = a * jnp.exp(-friction * h) * _derivative_of(v) + b * h * _derivative_of(x)
    amplitude = jnp.sqrt(thermal_energy / masses * -jnp.expm1(-2 * friction * h))
    terms = jnp.sum(u * xi / amplitude, axis=1)
    y = DRIFT.apply(0.0, (x, noisy - u), args, 0.5 * h)
    acceleration = KICK.acceleration(0.0, y, args)
    x, v = KICK.push(y, acceleration, 0.5 * h)
    return State(x, v, state.box, state.bath), acceleration, terms


def _derivative_of(x):
    """Zero, with the derivative of `x`."""
    return x - jax.lax.stop_gradient(x)
