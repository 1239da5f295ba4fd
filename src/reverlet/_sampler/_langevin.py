import equinox as eqx
import jax
from jax.sharding import Mesh

from .. import units
from .._batches import Batch, batch_rule
from .._ensemble import NVT
from .._fields import Parameter, checked, count, positive, positive_or_zero
from .._solver import OrnsteinUhlenbeck
from .._state import State
from ._markov import DRIFT, KICK, AbstractFlowSampler, masses_of


class LangevinBAOAB(AbstractFlowSampler):
    """Langevin dynamics at constant temperature by the BAOAB splitting.

    Half a kick, half a drift, an exact Ornstein–Uhlenbeck step of the velocities, half a drift, half a kick; one
    evaluation of the force per step. Of the splittings of its kind it samples configurations best: for a harmonic
    well exactly, at any stable time step. Velocities are right to second order in the time step; for trajectories at
    constant energy draw new ones with `Samples.with_velocities`.

    **Arguments:** `temperature` (K), `friction` (1/ps), `dt` (ps), `num_steps` between two samples of a chain; `batch`,
    how many chains run at a time, and `mesh`, devices to spread the chains over, as for `nve`. Samples do not depend
    on either, but for rounding; all devices get all of them. Without friction it is velocity Verlet at constant energy,
    whose samples are not of the ensemble they are said to be.

    **Errors:** `ValueError` for a temperature that is not positive, a negative friction, steps that are not positive,
    and chains that are not a multiple of the devices.

    **Reference:** B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34 (2013).
    """

    temperature: Parameter = positive("K")
    friction: Parameter = positive_or_zero("1/ps")
    dt: Parameter = checked(positive("ps"), kw_only=True)
    num_steps: int = checked(count(), static=True, kw_only=True)
    batch: Batch = checked(batch_rule(), static=True, default=None, kw_only=True)
    mesh: Mesh | None = eqx.field(static=True, default=None, kw_only=True)

    @property
    def ensemble(self):
        return NVT(self.temperature)

    @property
    def at_rest(self):
        return False

    def start(self, system, state):
        return state, KICK.acceleration(0.0, (state.positions,), (system, state.box))

    def step(self, system, state, memory, key):
        x, masses = state.positions, masses_of(system, state.positions.dtype)
        cast = lambda value: value.astype(x.dtype)
        h, args = cast(self.dt), (system, state.box)
        noise = OrnsteinUhlenbeck(cast(self.friction), units.BOLTZMANN * cast(self.temperature))
        y = KICK.push((x, state.velocities), memory, 0.5 * h)
        y = DRIFT.apply(0.0, y, args, 0.5 * h)
        y = noise.apply(0.0, y, (masses, jax.random.normal(key, x.shape, x.dtype)), h)
        y = DRIFT.apply(0.0, y, args, 0.5 * h)
        acceleration = KICK.acceleration(0.0, y, args)
        x, v = KICK.push(y, acceleration, 0.5 * h)
        return State(x, v, state.box, state.bath), acceleration
