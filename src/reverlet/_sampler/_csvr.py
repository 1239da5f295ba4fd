import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from .. import units
from .._batches import Batch, batch_rule
from .._ensemble import NVT
from .._fields import Parameter, checked, count, optional, positive
from .._state import State, relative_to_center_of_mass
from ._markov import DRIFT, KICK, AbstractFlowSampler


class CSVR(AbstractFlowSampler):
    """Canonical sampling through velocity rescaling: velocity Verlet, and after every step all velocities times one
    random factor, such that the kinetic energy is that of the canonical ensemble.

    The factor changes the kinetic energy alone, within a time `period`, and so disturbs dynamical properties less than
    friction on every atom. The directions of velocities mix by the dynamics only: systems that are nearly harmonic
    are sampled faster by `LangevinBAOAB`.

    The motion of the center of mass is removed where chains start, and 3N-3 velocities are free, which is right for
    potentials that conserve momentum. With an external field that holds the atoms, give `degrees_of_freedom=3 * N`:
    then nothing is removed.

    **Arguments:** `temperature` (K); `period` τ (ps), in which the kinetic energy forgets; `dt` (ps); `num_steps`
    between two samples of a chain; `degrees_of_freedom`, 3N-3 by default; `batch` and `mesh` as for `LangevinBAOAB`.

    **Errors:** `ValueError` for numbers that are not positive, and chains that are not a multiple of the devices.

    **Reference:** G. Bussi, D. Donadio and M. Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7.
    """

    temperature: Parameter = positive("K")
    period: Parameter = positive("ps")
    dt: Parameter = checked(positive("ps"), kw_only=True)
    num_steps: int = checked(count(), static=True, kw_only=True)
    degrees_of_freedom: int | None = checked(optional(count()), static=True, default=None, kw_only=True)
    batch: Batch = checked(batch_rule(), static=True, default=None, kw_only=True)
    mesh: Mesh | None = eqx.field(static=True, default=None, kw_only=True)

    @property
    def ensemble(self):
        return NVT(self.temperature)

    @property
    def at_rest(self):
        return self.degrees_of_freedom is None

    def start(self, system, state):
        if self.degrees_of_freedom is None and len(state.positions) < 2:
            raise ValueError(
                "`CSVR` got one atom, whose center of mass is all of it; wanted two or more, or `degrees_of_freedom=3`."
            )
        if self.degrees_of_freedom is None:
            at_rest = relative_to_center_of_mass(system.topology, state.velocities)
            state = state.with_velocities(at_rest)
        return state, KICK.acceleration(0.0, (state.positions,), (system, state.box))

    def step(self, system, state, memory, key):
        x, args = state.positions, (system, state.box)
        h = self.dt.astype(x.dtype)
        y = KICK.push((x, state.velocities), memory, 0.5 * h)
        y = DRIFT.apply(0.0, y, args, h)
        acceleration = KICK.acceleration(0.0, y, args)
        x, v = KICK.push(y, acceleration, 0.5 * h)
        v = v * self._factor(system.kinetic_energy(v), 3 * len(x) - 3, h, key)
        return State(x, v, state.box, state.bath), acceleration

    def _factor(self, kinetic, free, h, key):
        degrees = free if self.degrees_of_freedom is None else self.degrees_of_freedom
        mean = 0.5 * units.BOLTZMANN * self.temperature.astype(kinetic.dtype)  # of one degree of freedom
        kept = jnp.exp(-h / self.period.astype(kinetic.dtype))
        one_key, rest_key = jax.random.split(key)
        one = jax.random.normal(one_key, (), kinetic.dtype)
        # the sum of the squares of all other normal numbers
        rest = 2 * jax.random.gamma(rest_key, 0.5 * (degrees - 1), (), kinetic.dtype) if degrees > 1 else 0.0
        ratio = (1 - kept) * mean / jnp.maximum(kinetic, 1e-6 * mean)  # atoms at rest stay so
        root = jnp.sqrt(kept) + jnp.sqrt(ratio) * one
        # the root may change its sign, which turns all velocities around
        return jnp.sign(root) * jnp.sqrt(root**2 + ratio * rest)
