import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float

from .. import units
from .._batches import Batch, map_samples, replicate, require_batch, require_samples, shard
from .._health import check_energies, check_wear, explosion_limit
from .._misc import as_float_array, raise_if, require_positive
from .._neighbors import Wear
from .._state import State
from ._base import AbstractSampler, Samples


class LangevinBAOAB(AbstractSampler):
    """Langevin dynamics at constant temperature by the BAOAB splitting.

    Half a kick, half a drift, an exact Ornstein–Uhlenbeck step of the velocities, half a drift, half a kick; one
    evaluation of the force per step. Of the splittings of its kind it samples configurations best: for a harmonic
    well exactly, at any stable time step. Velocities are right to second order in the time step; for trajectories at
    constant energy draw new ones with `maxwell_boltzmann`.

    **Arguments:** `temperature` (K), `friction` (1/ps), `dt` (ps), `num_steps` between two samples of a chain; `batch`,
    the forces of how many chains are computed at a time, and `mesh`, devices to spread the chains over, as for `nve`.
    Samples do not depend on either, but for rounding; all devices get all of them.

    **Errors:** `ValueError` for a negative temperature or friction, steps that are not positive, and chains that are
    not a multiple of the devices.

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
        require_positive("temperature", self.temperature, "K", zero=True)
        require_positive("friction", self.friction, "1/ps", zero=True)
        require_positive("dt", self.dt, "ps")
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise ValueError(f"`num_steps` is {self.num_steps!r}; wanted a whole number of steps, at least 1.")
        require_batch(self.batch)

    def sample(self, system, states, num_samples, *, key):
        if states.positions.ndim != 3:
            raise ValueError(
                f"`states` has positions of shape {states.positions.shape}; wanted (chains, atoms, 3). For chains"
                f" that all"
                " start from one configuration: `state.repeat(chains)`."
            )
        chains = states.positions.shape[0]
        if num_samples < 1 or num_samples % chains != 0:
            raise ValueError(
                f"`num_samples` is {num_samples} of {chains} chains; wanted a multiple of the chains, such as"
                f" {max(1, round(num_samples / chains)) * chains}."
            )
        if self.mesh is not None and require_samples(states, self.mesh) % self.mesh.size != 0:
            size = self.mesh.size
            raise ValueError(
                f"There are {chains} chains for {size} devices; wanted a multiple of the devices, such as"
                f" {chains // size * size} or {-(-chains // size) * size} chains."
            )
        states = system.check_shape_and_cutoff(states, mesh=self.mesh)
        energies = jax.lax.stop_gradient(_energies(self, system, states))
        states = check_energies(states, energies, guard=states, mesh=self.mesh)
        samples, wear = _sample(self, system, states, num_samples // chains, key)
        samples = check_wear(system.search, wear, guard=samples, mesh=self.mesh)
        kinetic = jax.vmap(system.kinetic_energy)(samples.states.velocities)
        n = system.topology.num_atoms
        limit = explosion_limit(units.BOLTZMANN * self.temperature.astype(kinetic.dtype) * n, n)
        bad = ~(kinetic <= limit) | ~jnp.isfinite(samples.energies)
        return raise_if(bad, _describe_failure, bad, samples.energies, kinetic, guard=samples, mesh=self.mesh)


def _energies(sampler, system, states):
    own = (states.positions, states.box)
    energies = map_samples(_energy, system, own, batch=sampler.batch, mesh=sampler.mesh, reverse=False)
    return replicate(energies, sampler.mesh)


def _energy(system, own):
    return system.potential_energy(*own)


def _find(system, own):
    return system.find_neighbors(*own)


def _forces(system, own):
    positions, neighbors, box = own
    return system.potential.forces(positions, box, neighbors=neighbors)


def _describe_failure(bad, energies, kinetic):
    k = int(np.argmax(bad))
    return (
        f"{np.sum(bad)} of {bad.size} samples come from chains that exploded: sample {k} has a potential energy of"
        f" {energies[k]:.6g} kJ/mol and a kinetic energy of {kinetic[k]:.6g}. Chains explode when they start from"
        " overlapping atoms, when the time step is too long, or when parameters have run away."
    )


@eqx.filter_jit
def _sample(sampler, system, states, rounds, key):
    # samples are constants of whatever they are used for
    system, states = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, (system, states))
    dtype = states.positions.dtype
    chains, n = states.positions.shape[:2]
    masses = system.topology.masses.astype(dtype)[:, None]
    spread = lambda tree: shard(tree, sampler.mesh)
    lift = lambda function, *own: map_samples(
        function, system, (*own, states.box), batch=sampler.batch, mesh=sampler.mesh, reverse=False
    )
    search = system.search
    h = sampler.dt.astype(dtype)
    decay = jnp.exp(-sampler.friction.astype(dtype) * h)
    thermal = jnp.sqrt(units.BOLTZMANN * sampler.temperature.astype(dtype) / masses)
    noise = thermal * jnp.sqrt(-jnp.expm1(-2 * sampler.friction.astype(dtype) * h))

    def step(k, carry, key):
        x, v, a, neighbors, wear = carry
        v = v + 0.5 * h * a
        x = x + 0.5 * h * v
        v = decay * v + noise * spread(jax.random.normal(jax.random.fold_in(key, k), (chains, n, 3), dtype))
        x = x + 0.5 * h * v
        if search is not None:
            neighbors = jax.lax.cond(k % search.every == 0, lambda: lift(_find, x), lambda: neighbors)
            wear = jax.vmap(Wear.and_of)(wear, x, states.box, neighbors)
        a = lift(_forces, x, neighbors) / masses
        return x, v + 0.5 * h * a, a, neighbors, wear

    def one_round(carry, key):
        carry = jax.lax.fori_loop(0, sampler.num_steps, lambda k, c: step(k, c, key), carry)
        x, v, *_ = carry
        return carry, (x, v, lift(_energy, x))

    x, v = spread((states.positions, states.velocities))
    neighbors = lift(_find, x)
    wear = jax.vmap(lambda _: Wear.none(dtype))(x)
    carry = (x, v, lift(_forces, x, neighbors) / masses, neighbors, wear)
    (x, v, _, _, wear), kept = jax.lax.scan(one_round, carry, jax.random.split(key, rounds))
    xs, vs, energies = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), kept)
    boxes = jax.tree.map(lambda b: jnp.tile(b, (rounds,) + (1,) * (b.ndim - 1)), states.box)
    make = jax.vmap(State)
    samples = Samples(make(xs, vs, boxes), energies, sampler.temperature, make(x, v, states.box))
    return replicate((samples, wear), sampler.mesh)
