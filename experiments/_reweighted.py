"""What the experiments share that fit by reweighting: samples used again as long as they are worth it (DiffTRe)."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm import tqdm

import reverlet as rv

from ._folder import History


@dataclasses.dataclass(frozen=True)
class Redrawn:
    """How samples are drawn: `num_samples` at a time, after `equilibration` of each chain are thrown away; anew where
    fewer than a part `least` of them count, or after `uses` updates, since a fit follows the noise of its samples."""

    sampler: Any
    num_samples: int
    equilibration: int
    least: float
    uses: int

    def draw(self, system: rv.System, chains: rv.Chains, key: PRNGKeyArray) -> tuple[rv.Samples, rv.Chains]:
        """New ones, from where the chains are."""
        keys = jax.random.split(key)
        if self.equilibration:
            _, chains = self.sampler.sample(system, chains, len(chains) * self.equilibration, key=keys[0])
        return self.sampler.sample(system, chains, self.num_samples, key=keys[1])

    def used_again(
        self, system: rv.System, samples: rv.Samples, chains: rv.Chains, used: Array, key: PRNGKeyArray
    ) -> tuple[rv.Samples, rv.Chains, Array, Float[Array, ""]]:
        """The samples where they are worth something for the system, or new ones; how many updates then have used them,
        and how many of those there were counted (1/Σw²)."""
        counting = effective_samples(system, samples)
        poor = (counting < self.least * self.num_samples) | (used >= self.uses)
        samples, chains = jax.lax.cond(poor, lambda: self.draw(system, chains, key), lambda: (samples, chains))
        return samples, chains, jnp.where(poor, 1, used + 1), counting


def effective_samples(system: rv.System, samples: rv.Samples) -> Float[Array, ""]:
    """1/Σw² of samples of one ensemble for a system of the same ensemble with other parameters."""
    ensemble = samples.ensemble
    assert ensemble is not None  # as those of samplers have
    u = jax.lax.map(lambda state: ensemble.reduced_energy(system, state), samples.states, batch_size=64)
    return rv.statistics.effective_sample_size(jax.nn.softmax(-u - samples.log_density))


def descended(
    loss: Callable[[Any, rv.Samples], tuple[Float[Array, ""], Any]],
    system_of: Callable[[Any], rv.System],
    redrawn: Redrawn,
    model: Any,
    optimizer: optax.GradientTransformation,
    chains: rv.State,
    *,
    updates: int,
    key: PRNGKeyArray,
    checkpoint: Path,
    history: Path,
    lines: Callable[[Any], dict[str, Any]],
) -> rv.FitState:
    """Steps a model along the gradient of a loss of reweighted samples; `lines` makes a line of the history of what the
    loss reports. The report of an update has `report`, `effective_samples` and `drawn`."""
    start, own = eqx.filter_jit(redrawn.draw)(system_of(model), rv.Chains(chains), jax.random.fold_in(key, 2**31))

    def loss_fn(model, carry, key):
        fixed = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, model)
        samples, chains, used = carry
        samples, chains, used, counting = redrawn.used_again(system_of(fixed), samples, chains, used, key)
        value, report = loss(model, samples)
        drawn = used == 1
        return value, ((samples, chains, used), {"report": report, "effective_samples": counting, "drawn": drawn})

    file = History(history)
    bar = tqdm(total=updates, desc="update", unit="", file=sys.stderr)

    def written(history):
        if history is None:
            return []
        pick = lambda k: jax.tree.map(lambda h: h[k], history)
        one = lambda h: {"effective_samples": float(h["effective_samples"]), "drawn": bool(h["drawn"])}
        each = map(pick, range(len(history["drawn"])))
        return [{"update": k + 1, **lines(h["report"]), **one(h)} for k, h in enumerate(each)]

    def note(state):
        file.tick(state.step)
        told = written(state.history)
        file.write(told)
        bar.initial = bar.initial or state.step - 1
        shown = {k: f"{v:.3g}" for k, v in told[-1].items() if isinstance(v, float)}
        bar.set_postfix_str(", ".join(f"{k} {v}" for k, v in shown.items()), refresh=False)
        bar.update(state.step - bar.n)

    with bar:
        carry = (start, own, jnp.zeros((), int))
        state = rv.fit(
            loss_fn, model, optimizer, num_steps=updates, key=key, carry=carry, callback=note, checkpoint=checkpoint,
            resume="auto",
        )  # fmt: skip
    file.write(written(state.history))
    return state
