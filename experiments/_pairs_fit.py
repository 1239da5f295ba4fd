"""Three ways to a pair potential from radial distribution functions: through the dynamics, by reweighting, and by
iterative Boltzmann inversion."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

import reverlet as rv
from reverlet import coarse_graining

from ._folder import Folder, History
from ._pairs import KT, Learned, Liquid, Structure, hats, table

_PRECISE = jax.lax.Precision.HIGHEST
METHODS = ("diffsim", "difftre", "ibi")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be reached, and what it starts from.

    **Arguments:** the `liquid`; `target`, g of all its state points, (points, bins); `first` and `cutoff` of tables and
    how many `knots`; the `spacing` of what is learned, nm.
    """

    liquid: Liquid
    target: Float[np.ndarray, "points bins"]
    first: float
    cutoff: float
    knots: int
    spacing: float

    @property
    def r(self) -> np.ndarray:
        """Where tables have values, nm."""
        return np.linspace(self.first, self.cutoff, self.knots)

    @property
    def weights(self) -> Float[np.ndarray, "points bins"]:
        """About the inverse variances of g: so many pairs there are on a sphere; their mean is one."""
        centers = self.liquid.structure.centers
        w = centers / (self.target + 0.05) * (self.target > 1e-3 * self.target.max())
        return w / np.mean(w)

    def base(self) -> np.ndarray:
        """The potential of mean force of the first state point, kJ/mol: what all methods start from."""
        return coarse_graining.boltzmann_inversion(
            self.liquid.structure.rdf,
            self.target[0],
            temperature=float(KT * self.liquid.points.kt[0]),
            first=self.first,
            cutoff=self.cutoff,
            num_knots=self.knots,
        )

    def prior(self) -> Learned:
        """The base, and curves that may be added."""
        centers = self.liquid.structure.centers
        rises = [np.interp(0.1, g[: np.argmax(g)], centers[: np.argmax(g)]) for g in self.target]
        start = max(self.first, float(min(rises)))
        curves = hats(self.r, start, self.cutoff, self.spacing)
        number = jnp.zeros(curves.shape[1], jnp.float32)
        return Learned(number, _single(self.base()), _single(curves), self.first, self.cutoff)


def _single(x):
    return jnp.asarray(x, jnp.float32)


def responses(structure: Structure, model: Learned) -> Callable[[Any, rv.State], tuple[Array, Array, Array]]:
    """What is seen of a configuration for reweighting: g, the smallest distance, and ∂U/∂coefficients."""

    def see(point, state):
        g, near = structure(point, state.positions)
        energy = lambda values: table(values, model.first, model.cutoff).energy(state.positions, state.box)
        slopes = jax.grad(energy)(model.values())
        return g[0], near, jnp.matmul(slopes, model.modes, precision=_PRECISE)

    return see


def response(kt, g, slopes):
    """∂⟨g⟩/∂coefficients = -cov(g, ∂U/∂coefficients)/kT of samples (samples, bins), (samples, modes); and cov/kT² of
    the slopes."""
    g, slopes = g - jnp.mean(g, axis=0), slopes - jnp.mean(slopes, axis=0)
    over = lambda a, b: jnp.matmul(a.T, b, precision=_PRECISE) / len(b)
    return -over(g, slopes) / kt, over(slopes, slopes) / kt**2


def whitened(task: Task, model: Learned, states: rv.State, steps: int) -> tuple[Learned, np.ndarray, rv.State]:
    """The model with its curves mixed so that g feels each alike: singular vectors of its response at the start, each
    over its singular value. Gradient descent of a plain table is slow otherwise: g feels some curves a hundred times
    less than others. Those that it feels least stay slower: their gradients are mostly noise. Also g at the start, and
    where the simulation ended."""

    @eqx.filter_jit
    def run(model, states):
        return task.liquid.run(
            lambda point: model.table(), states, steps, record=responses(task.liquid.structure, model)
        )

    (g, _, slopes), states = run(model, states)
    flat = lambda x: np.asarray(x, float)[:, :, x.shape[2] // 4 :].reshape(len(x), -1, x.shape[-1])
    g, slopes = flat(g), flat(slopes)
    rows = [
        np.sqrt(w)[:, None] * np.asarray(response(float(kt), a, b)[0], float)
        for w, kt, a, b in zip(task.weights, task.liquid.points.kt, g, slopes, strict=True)
    ]
    _, s, v = np.linalg.svd(np.concatenate(rows), full_matrices=False)
    modes = np.asarray(model.modes, float) @ v.T / np.maximum(s, 0.3 * s[0])
    return dataclasses.replace(model, modes=_single(modes)), np.mean(g, axis=1), states


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Learning through the dynamics: `updates` chunks of `steps`, each from where the last one ended.

    The residual g - g* that weights the gradient of a chunk is of the chunks before: a running mean with a memory as
    long as the rate is small. The chunk's own would be correlated with its gradient, which then seeks potentials with
    less noise.
    """

    updates: int
    steps: int
    rate: float

    def fit(self, task: Task, model: Learned, states: rv.State, g: np.ndarray, key: Any, folder: Folder) -> rv.FitState:
        """By `rv.fit`, the ends of all chunks in its carry, thermostats included."""
        liquid, target, weights = task.liquid, _single(task.target), _single(task.weights)
        rate = optax.cosine_decay_schedule(self.rate, self.updates, alpha=0.05)
        fixed = jax.lax.stop_gradient

        def loss_fn(model, carry, key):
            states, memory, k = carry
            potential = dataclasses.replace(model, base=fixed(model.base), modes=fixed(model.modes)).table()
            (g, near), ends = liquid.run(lambda point: potential, states, self.steps, throw=False)
            g = jnp.mean(g[:, :, :, 0], axis=(1, 2))
            loss = jnp.sum(weights * (memory + g - fixed(g) - target) ** 2)
            # nearer than the table goes, atoms overlap
            loss = jnp.where(jnp.min(near) < task.first, jnp.nan, loss)
            memory = memory + jnp.minimum(1, 6 * rate(k)) * (g - memory)
            report = {"mse": jnp.mean((memory - target) ** 2), "nearest": jnp.min(near), "values": model.values()}
            return loss, fixed(((ends, memory, k + 1), report))

        return _fit(loss_fn, model, optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate)),
                    (states, _single(g), jnp.zeros((), int)), self.updates, key, folder, "diffsim")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reweighted:
    """Learning by reweighting: `updates` simulations of `steps`, after each of which a step of Gauss and Newton, with
    the derivatives of reweighted means, no longer than `reach` nats; from `settling` on ever smaller ones."""

    updates: int
    steps: int
    settling: int
    reach: float = 2.0

    def fit(
        self, task: Task, model: Learned, states: rv.State, key: Any, folder: Folder, name: str = "difftre"
    ) -> rv.FitState:
        """By `rv.fit`; the first quarter of every simulation is left out. `name`, of the files."""
        liquid, target, weights = task.liquid, _single(task.target), _single(task.weights)

        def loss_fn(model, carry, key):
            now = jax.lax.stop_gradient(model)
            see = responses(liquid.structure, now)
            (g, near, slopes), ends = liquid.run(lambda point: now.table(), carry, self.steps, record=see)
            kept = lambda x: x[:, :, x.shape[2] // 4 :].reshape(len(x), -1, x.shape[-1])
            g, slopes = kept(g), kept(slopes)
            jacobian, metric = jax.vmap(response)(liquid.points.kt, g, slopes)
            g = jnp.mean(g, axis=1)
            rows = jnp.sqrt(weights)[..., None] * jacobian
            a = jnp.einsum("pbm,pbn->mn", rows, rows, precision=_PRECISE)
            b = jnp.einsum("pbm,pb->m", rows, jnp.sqrt(weights) * (target - g), precision=_PRECISE)
            a = a + 1e-3 * jnp.mean(jnp.diag(a)) * jnp.eye(len(a), dtype=a.dtype)
            step = jnp.linalg.solve(a, b)
            nats = jnp.max(jnp.einsum("m,pmn,n->p", step, metric, step, precision=_PRECISE))
            step = step * jnp.minimum(1, jnp.sqrt(self.reach / nats))
            report = {"mse": jnp.mean((g - target) ** 2), "nearest": jnp.min(near), "values": now.values()}
            # descent by one times the gradient of this adds the step
            return -jnp.sum(jax.lax.stop_gradient(step) * model.coefficients), (ends, report)

        rate = lambda k: 1 / jnp.maximum(1, k - self.settling + 1)
        return _fit(loss_fn, model, optax.sgd(rate), states, self.updates, key, folder, name)


def _fit(loss_fn, model, optimizer, carry, updates, key, folder, name) -> rv.FitState:
    file, bar = History(folder / f"history-{name}.jsonl"), tqdm(total=updates, desc=name, unit="", file=sys.stderr)

    def lines(state):
        h = state.history
        rows = zip(h["mse"], h["nearest"], state.retreats, strict=True)
        return [
            {"update": k + 1, "mse": float(m), "nearest": float(n), "retreats": int(t)}
            for k, (m, n, t) in enumerate(rows)
        ]

    def note(state):
        file.tick(state.step)
        file.write(lines(state))
        bar.update(state.step - bar.n)

    with bar:
        state = rv.fit(
            loss_fn,
            model,
            optimizer,
            num_steps=updates,
            key=key,
            carry=carry,
            callback=note,
            retreats=8,
            trainable=lambda m: m.coefficients,
            checkpoint=folder / f"checkpoint-{name}.eqx",
            resume="auto",
        )
    file.write(lines(state))
    return state


@dataclasses.dataclass(frozen=True)
class Inversion:
    """Iterative Boltzmann inversion of the first state point: `updates` simulations of `steps`."""

    updates: int
    steps: int

    def fit(self, task: Task, states: rv.State, key: Any, folder: Folder) -> Any:
        """By `rv.coarse_graining.iterative_boltzmann_inversion`, with Langevin dynamics."""
        liquid = task.liquid
        chains = eqx.tree_at(lambda s: s.bath, jax.tree.map(lambda x: x[0], states), None)
        frames = self.steps // liquid.every
        file, bar = (
            History(folder / "history-ibi.jsonl"),
            tqdm(total=self.updates, desc="ibi", unit="", file=sys.stderr),
        )

        def lines(history):
            return [{"update": k + 1, "mse": float(e)} for k, e in enumerate(np.asarray(history.squared_errors)[:, 0])]

        def note(state):
            file.tick(state.step)
            file.write(lines(state.history))
            bar.update(state.step - bar.n)

        with bar:
            found = coarse_graining.iterative_boltzmann_inversion(
                rv.System(liquid.topology, table(_single(task.base()), task.first, task.cutoff)),
                [liquid.structure.rdf],
                [task.target[0]],
                rv.LangevinBAOAB(float(KT * liquid.points.kt[0]), 1.0, dt=liquid.dt, num_steps=liquid.every),
                chains,
                num_iterations=self.updates,
                num_samples=len(chains.positions) * (frames - frames // 4),
                equilibration=frames // 4,
                callback=note,
                checkpoint=folder / "checkpoint-ibi.eqx",
                resume="auto",
                key=key,
            )
        file.write(lines(found.history))
        return found
