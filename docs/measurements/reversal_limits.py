"""How far a trajectory of liquid argon can be walked back: `python docs/measurements/reversal_limits.py`.

108 atoms at 94.4 K and 1.374 g/cm³, eight trajectories, medians over them. The start is reconstructed by as many steps
with flipped velocities; the gradient is that of the Green–Kubo integral of each trajectory with respect to sigma.
"""
# ruff: noqa: T201

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

import reverlet as rv

jax.config.update("jax_enable_x64", True)
DT = 2**-10  # ps; a power of two, so that all adjoints take the very same steps

length = 2.5562 * (108 / 346) ** (1 / 3)
topology, crystal = rv.fcc("Ar", 3, spacing=length / 3)
system = rv.System(topology, rv.LennardJones(0.34, 0.993795, cutoff=0.85))
box = rv.OrthorhombicBox(jnp.full(3, length))
velocities = rv.maxwell_boltzmann(topology, 94.4, key=jax.random.key(0))
sampler = rv.LangevinBAOAB(94.4, 1.0, dt=0.002, num_steps=5000)
samples, _ = sampler.sample(system, rv.State(crystal.positions, velocities, box).repeat(8), 8, key=jax.random.key(1))
states = samples.states


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def gradient(num_steps, dtype, adjoint):
    def diffusion(potential, state):
        moving = eqx.tree_at(lambda s: s.potential, cast(system, dtype), potential)
        record = rv.SelfDiffusion().record
        run = rv.nve(
            moving, state, dt=DT, num_steps=num_steps, save_every=num_steps // 50, record=record, adjoint=adjoint
        )
        return jnp.trapezoid(run.records, run.times) / 3

    slopes = jax.vmap(lambda s: eqx.filter_grad(diffusion)(cast(system.potential, dtype), s))(cast(states, dtype))
    return slopes.sigma.astype(float)


def lost(num_steps, dtype):
    """The root mean square error of the reconstructed positions, nm."""

    def one(state):
        end = rv.nve(cast(system, dtype), state, dt=DT, num_steps=num_steps, save_every=num_steps).final
        back = rv.State(end.positions, -end.velocities, end.box)
        start = rv.nve(cast(system, dtype), back, dt=DT, num_steps=num_steps, save_every=num_steps).final
        return jnp.sqrt(jnp.mean(jnp.sum((start.positions - state.positions) ** 2, -1)))

    return jnp.median(jax.vmap(one)(cast(states, dtype)))


def off(a, b):
    return jnp.median(jnp.abs(a / b - 1))


reversible, stored = rv.ReversibleAdjoint(), diffrax.RecursiveCheckpointAdjoint()
for num_steps in (500, 1000, 2000, 4000):
    exact = gradient(num_steps, jnp.float64, stored)
    print(
        f"| {num_steps} | {lost(num_steps, jnp.float64):.0e} | {lost(num_steps, jnp.float32):.0e}"
        f" | {off(gradient(num_steps, jnp.float64, reversible), exact):.0e}"
        f" | {off(gradient(num_steps, jnp.float32, reversible), exact):.0e}"
        f" | {off(gradient(num_steps, jnp.float32, stored), exact):.0e} |",
        flush=True,
    )
for num_steps in (8000, 16000, 24000):
    print(f"| {num_steps} | {lost(num_steps, jnp.float64):.0e} | {lost(num_steps, jnp.float32):.0e} | | | |")
