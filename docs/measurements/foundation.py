"""What compiling a foundation potential costs, CPU seconds of the process: `nox -s foundation -- measure WEIGHTS`."""
# ruff: noqa: T201

import re
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp

import reverlet as rv

PAGE = Path(__file__).parents[1] / "a-foundation-potential.md"
ADAPTER = re.search(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
WATER = jnp.array([[0.0, 0.0, 0.0], [0.0757, 0.0586, 0.0], [-0.0757, 0.0586, 0.0]])  # nm


def main(weights: str) -> None:
    names = {"__name__": "page"}
    exec(ADAPTER[1], names)
    for number in (1, 2):
        topology = rv.Topology.from_elements(["O", "H", "H"] * number)
        positions = jnp.concatenate([WATER + 0.29 * k * jnp.array([0.0, 0.0, 1.0]) for k in range(number)])
        state = rv.State(positions, rv.maxwell_boltzmann(topology, 300.0, key=jax.random.key(0)), rv.OpenBox())
        potential = names["Nequix"].load(weights, topology)

        def end(potential, topology=topology, state=state):
            final = rv.nve(rv.System(topology, potential), state, dt=0.0005, num_steps=10).final
            return jnp.sum((final.positions[1] - final.positions[0]) ** 2)

        programs = {
            "forces": lambda potential, state=state: potential.forces(state.positions, state.box),
            "`nve`": end,
            "`nve`, value and gradient": eqx.filter_value_and_grad(end),
        }
        for name, function in programs.items():
            jax.clear_caches()
            times = [time.process_time()]
            lowered = eqx.filter_jit(function).lower(potential)
            times.append(time.process_time())
            compiled = lowered.compile()
            times.append(time.process_time())
            jax.block_until_ready(compiled(potential))
            times.append(time.process_time())
            jax.block_until_ready(compiled(potential))
            tracing, compiling, running = times[1] - times[0], times[2] - times[1], time.process_time() - times[3]
            print(f"| {number} | {name} | {tracing:.1f} | {compiling:.1f} | {running:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
