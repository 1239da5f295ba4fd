"""A cheap fit that goes on from its checkpoint, to be killed: `python tests/killed_program.py CHECKPOINT [BYTES]`.

Says `ready` before it begins and `done` after it. No file may have more than so many BYTES: the disk is full.
"""

import resource
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import reverlet as rv

UPDATES = 400


def loss_fn(model, carry, key):
    return jnp.sum((model - carry + 0.1 * jax.random.normal(key, (3,))) ** 2), (0.9 * carry + 0.1, model)


def fit(checkpoint: Path | None, num_steps: int = UPDATES) -> rv.FitState:
    resume = None if checkpoint is None else "auto"
    options = {"num_steps": num_steps, "key": jax.random.key(0), "carry": jnp.zeros(3)}
    return rv.fit(loss_fn, jnp.arange(3.0), optax.adam(0.01), **options, checkpoint=checkpoint, resume=resume)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        fit(Path(sys.argv[1]))
    except rv.CheckpointError as error:
        sys.exit(f"CheckpointError: {error}")
    sys.stdout.write("done\n")
