import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float

from .. import units
from .._batches import Batch
from .._ensemble import NVT
from .._misc import as_float_array, require_positive
from .._solver import OrnsteinUhlenbeck
from .._state import State
from ._markov import DRIFT, KICK, AbstractFlowSampler, masses_of, require_steps


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

    temperature: Float[Array, ""]
    friction: Float[Array, ""]
    dt: Float[Array, ""]
    num_steps: int = eqx.field(static=True)
    batch: Batch = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

    def __init__(
        self,
        temperature: ArrayLike,
        friction: ArrayLike,
        *,
        dt: ArrayLike,
        num_steps: int,
        batch: Batch = None,
        mesh: Mesh | None = None,
    ):
        self.temperature = as_float_array(temperature)
        self.friction = as_float_array(friction)
        self.dt = as_float_array(dt)
        self.num_steps = num_steps
        self.batch = batch
        self.mesh = mesh

    def __check_init__(self):
        require_positive("temperature", self.temperature, "K")
        require_positive("friction", self.friction, "1/ps", zero=True)
        require_steps(self)

    @property
    def ensemble(self):
        return NVT(self.temperature)

    def start(self, system, state, force):
        return state, KICK.acceleration(0.0, (state.positions,), (force, masses_of(system, state)))

    def step(self, system, state, memory, force, key):
        x, masses = state.positions, masses_of(system, state)
        cast = lambda value: value.astype(x.dtype)
        h, args = cast(self.dt), (force, masses)
        noise = OrnsteinUhlenbeck(cast(self.friction), units.BOLTZMANN * cast(self.temperature))
        y = KICK.push((x, state.velocities), memory, 0.5 * h)
        y = DRIFT.apply(0.0, y, args, 0.5 * h)
        y = noise.apply(0.0, y, (masses, jax.random.normal(key, x.shape, x.dtype)), h)
        y = DRIFT.apply(0.0, y, args, 0.5 * h)
        acceleration = KICK.acceleration(0.0, y, args)
        x, v = KICK.push(y, acceleration, 0.5 * h)
        return State(x, v, state.box, state.bath), acceleration
