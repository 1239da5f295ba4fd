import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .. import units
from .._misc import as_float_array, raise_if, require_positive
from .._neighbors import Wear
from .._state import State
from .._system import describe_wear, explosion_limit
from ._base import AbstractSampler, Samples


class LangevinBAOAB(AbstractSampler):
    """Langevin dynamics at constant temperature by the BAOAB splitting.

    Half a kick, half a drift, an exact Ornstein–Uhlenbeck step of the velocities, half a drift, half a kick; one
    evaluation of the force per step. Of the splittings of its kind it samples configurations best: for a harmonic
    well exactly, at any stable time step. Velocities are right to second order in the time step; for trajectories at
    constant energy draw new ones with `maxwell_boltzmann`.

    **Arguments:** `temperature` (K), `friction` (1/ps), `dt` (ps), `num_steps` between two samples of a chain.

    **Errors:** `ValueError` for a negative temperature or friction, or steps that are not positive.

    **Reference:** B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34 (2013).
    """

    temperature: Float[Array, ""]
    friction: Float[Array, ""]
    dt: Float[Array, ""]
    num_steps: int = eqx.field(static=True)

    def __init__(self, temperature: ArrayLike, friction: ArrayLike, *, dt: ArrayLike, num_steps: int):
        self.temperature = as_float_array(temperature)
        self.friction = as_float_array(friction)
        self.dt = as_float_array(dt)
        self.num_steps = num_steps

    def __check_init__(self):
        require_positive("temperature", self.temperature, "K", zero=True)
        require_positive("friction", self.friction, "1/ps", zero=True)
        require_positive("dt", self.dt, "ps")
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise ValueError(f"`num_steps` is {self.num_steps!r}; wanted a whole number of steps, at least 1.")

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
        states = system.check(states)
        samples, wear = _sample(self, system, states, num_samples // chains, key)
        if system.neighbors is not None:
            search = system.neighbors
            samples = raise_if(
                wear.too_much(search), describe_wear, wear.moved, wear.needed,
                jnp.asarray(search.skin), jnp.asarray(search.every), search.room(), guard=samples,
            )  # fmt: skip
        kinetic = jax.vmap(system.kinetic_energy)(samples.states.velocities)
        n = system.topology.num_atoms
        limit = explosion_limit(units.BOLTZMANN * self.temperature.astype(kinetic.dtype) * n, n)
        bad = ~(kinetic <= limit) | ~jnp.isfinite(samples.energies)
        return raise_if(bad, _describe_failure, bad, samples.energies, kinetic, guard=samples)


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
    box_axes = jax.tree.map(lambda _: 0, states.box)
    per_chain = lambda function: jax.vmap(function, in_axes=(0, box_axes))
    energy = per_chain(system.potential_energy)
    search = system.neighbors
    masses = system.topology.masses.astype(dtype)[:, None]

    def acceleration(x, neighbors):
        forces = lambda x, box, neighbors: system.potential.forces(x, box, neighbors=neighbors)
        return jax.vmap(forces, in_axes=(0, box_axes, 0))(x, states.box, neighbors) / masses

    find = per_chain(system.find_neighbors)
    h = sampler.dt.astype(dtype)
    decay = jnp.exp(-sampler.friction.astype(dtype) * h)
    thermal = jnp.sqrt(units.BOLTZMANN * sampler.temperature.astype(dtype) / masses)
    noise = thermal * jnp.sqrt(-jnp.expm1(-2 * sampler.friction.astype(dtype) * h))

    def step(k, carry, key):
        x, v, a, neighbors, wear = carry
        v = v + 0.5 * h * a
        x = x + 0.5 * h * v
        v = decay * v + noise * jax.random.normal(jax.random.fold_in(key, k), (chains, n, 3), dtype)
        x = x + 0.5 * h * v
        if search is not None:
            neighbors = jax.lax.cond(k % search.every == 0, lambda: find(x, states.box), lambda: neighbors)
            wear = jax.vmap(Wear.and_of)(wear, x, neighbors)
        a = acceleration(x, neighbors)
        return x, v + 0.5 * h * a, a, neighbors, wear

    def one_round(carry, key):
        carry = jax.lax.fori_loop(0, sampler.num_steps, lambda k, c: step(k, c, key), carry)
        x, v, *_ = carry
        return carry, (x, v, energy(x, states.box))

    x, v = states.positions, states.velocities
    neighbors = find(x, states.box)
    wear = jax.vmap(lambda _: Wear.none(dtype))(x)
    carry = (x, v, acceleration(x, neighbors), neighbors, wear)
    (x, v, _, _, wear), kept = jax.lax.scan(one_round, carry, jax.random.split(key, rounds))
    xs, vs, energies = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), kept)
    wear = jax.tree.map(lambda w: jnp.max(w, axis=0), wear)
    boxes = jax.tree.map(lambda b: jnp.tile(b, (rounds,) + (1,) * (b.ndim - 1)), states.box)
    make = jax.vmap(State)
    return Samples(make(xs, vs, boxes), energies, sampler.temperature, make(x, v, states.box)), wear
