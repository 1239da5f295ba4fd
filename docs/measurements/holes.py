"""Whether molecules of water stay whole on a neural surface: `python docs/measurements/holes.py [FILE [PS [K [N]]]]`.

Eight chains of N = 64 waters at 0.997 g/cm³ and K = 298.15, Langevin dynamics with a time step of 0.5 fs, from q-SPC/Fw
water; by default for 10 ps on the surface that comes with the project. Prints for every 0.5 ps how many chains are
whole, in how many two oxygens came within 0.23 nm (never in water), and the smallest distances (Å) of atoms
of different molecules so far, looked at every 5 fs. Chains that came apart run on, and stay counted as such.
"""

# ruff: noqa: T201

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import reverlet as rv

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments._chains import Chains
from experiments._neural_water import all_whole, load_surface
from experiments._water import cutoff_in, packed

CHAINS, LOOK, REPORT = 8, 10, 100
"""Chains; steps between looks; looks between lines."""
NEAR = 0.23
"""nm."""


def contacts(topology, box, x):
    """The smallest O-O, O-H and H-H distances of different molecules, nm."""
    of_oxygen = jnp.asarray(topology.atomic_numbers) == 8
    molecule = jnp.arange(len(x)) // 3
    d = jax.vmap(jax.vmap(box.displacement, (None, 0)), (0, None))(x, x)
    r = jnp.where(molecule[:, None] == molecule, jnp.inf, jnp.linalg.norm(d, axis=-1))
    oxygens = of_oxygen[:, None].astype(int) + of_oxygen
    return jnp.stack([jnp.min(jnp.where(oxygens == k, r, jnp.inf)) for k in (2, 1, 0)])


def main(file=None, duration="10", temperature="298.15", waters="64"):
    jax.config.update("jax_num_cpu_devices", 2)
    mesh = rv.device_mesh()
    key = jax.random.split(jax.random.key(0), 3)
    start = packed(int(waters), 0.997, key[0])
    model = rv.qspcfw(int(waters), start.box, cutoff=cutoff_in(start.box))
    topology, dt = model.topology, 5e-4
    sampling = Chains(topology, float(temperature), 2.0, dt, 0.1, mesh)
    chains = sampling.with_new_velocities(start.repeat(CHAINS), key[1])
    chains = sampling.equilibrate(model.potential, chains, 1.0, key[2], "starting")
    surface = load_surface(Path(file) if file else None, topology, None if file is None else 0.4922812)
    # on each core one chain after another, which is fastest
    sampler = rv.LangevinBAOAB(float(temperature), 2.0, dt=dt, num_steps=LOOK, batch=1, mesh=mesh)
    system, box = rv.System(topology, surface), start.box
    look = jax.jit(jax.vmap(lambda x: (all_whole(topology, box, x), contacts(topology, box, x))))
    apart, near, least = np.zeros(CHAINS, bool), np.zeros(CHAINS, bool), np.full(3, np.inf)
    for k in range(round(float(duration) / dt / LOOK / REPORT)):
        samples, ends = sampler.sample(system, chains, CHAINS * REPORT, key=jax.random.key(k))
        chains = ends.states
        whole, close = (np.asarray(x).reshape(REPORT, CHAINS, -1) for x in look(samples.states.positions))
        apart |= ~whole.all((0, 2))
        near |= close[..., 0].min(0) < NEAR
        least = np.minimum(least, close.min((0, 1)))
        told = f"{(k + 1) * REPORT * LOOK * dt:5.1f} ps: {np.sum(~apart)} of {CHAINS} whole, near in {np.sum(near)};"
        print(told, "O-O, O-H, H-H", *(f"{10 * x:.2f}" for x in least), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
