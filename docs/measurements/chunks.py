"""How long a chunk of `diffsim` may be: `python docs/measurements/chunks.py DIR`, of a run of `pair_rdf`.

Eight liquids at the potential that made the target, from where it ended, in chunks of 80 time steps. Curves of u(r) are
mixed so that noise hides each alike, as in the fits: in the end, the response of the mean of each to itself is minus
one. By the derivative in forward mode, for every length of a chunk whose g is the mean over looks every ten steps: that
response, and the standard deviation of the whole response from chunk to chunk, of one liquid.
"""

# ruff: noqa: T201

import dataclasses
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import reverlet as rv

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments._folder import read_arrays, read_json
from experiments._pairs_fit import whitened
from experiments._pairs_room import energies, prepared
from experiments.pair_rdf import Config

STEPS, CHUNKS = 80, 6


def main(folder: Path) -> None:
    told = read_json(folder / "config.json")["config"]
    fields = {f.name for f in dataclasses.fields(Config)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in fields}
    c = Config(**values)
    liquid = c.liquid()
    task, states = prepared(c, liquid, read_arrays(folder / "target.npz"), jax.random.key(1))
    truth = jnp.asarray(energies(c.truth(), task.r)[None], jnp.float32)
    model, compared, _, states = whitened(task, dataclasses.replace(task.prior(), base=truth), states, 4 * c.steps)
    states, point = jax.tree.map(lambda x: x[0], states), liquid.at(0)

    @eqx.filter_jit
    def responses(states, curve):
        def run(coefficients):
            system = rv.System(liquid.topology, dataclasses.replace(model, coefficients=coefficients).table(point))
            see = lambda system, state, initial: jnp.einsum(
                "mab,ab->m", compared.sums[0], liquid.structure(point, state.positions)[0]
            )
            run = rv.nve(
                system,
                states,
                liquid.thermostats(point.kt),
                dt=c.dt,
                num_steps=STEPS,
                save_every=c.every,
                record=see,
                adjoint=rv.ForwardMode(),
                batch=c.replicas,
            )
            return run.records[:, 1:], run.final

        (_, states_then), (found, _) = jax.jvp(run, (model.coefficients,), (curve,))
        return found, states_then

    number = len(model.coefficients)
    lengths = c.every * np.arange(1, STEPS // c.every + 1)
    print("curve, of", number, *(f"{n:>16d}" for n in lengths))
    for k in (0, 1, 2, number // 4, number // 2, 3 * number // 4, number - 1):
        found = []
        for _ in range(CHUNKS):
            one, states = responses(states, jnp.eye(number, dtype=jnp.float32)[k])
            found.append(np.asarray(one, float))
        mean = np.cumsum(np.concatenate(found), axis=1) / np.arange(1, len(lengths) + 1)[:, None]
        own, noise = np.mean(mean, axis=0)[:, k], np.sqrt(np.sum(np.var(mean, axis=0), axis=1))
        print(f"{k + 1:12d}", *(f"{a:7.2f} ± {b:6.2f}" for a, b in zip(own, noise, strict=True)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
