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
from ._pairs import KT, Curves, Learned, Liquid, Structure, hats

_PRECISE = jax.lax.Precision.HIGHEST
METHODS = ("diffsim", "difftre", "ibi")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be reached, and what it starts from.

    **Arguments:** the `liquid`; `target`, g of all its state points and pairs of species; `first` and `cutoff` of
    tables and how many `knots`; the `spacing` of what is learned, nm.
    """

    liquid: Liquid
    target: Float[np.ndarray, "points pairs bins"]
    first: float
    cutoff: float
    knots: int
    spacing: float

    @property
    def r(self) -> np.ndarray:
        """Where tables have values, nm."""
        return np.linspace(self.first, self.cutoff, self.knots)

    def sums(self, model: Learned) -> Float[np.ndarray, "points modes pairs bins"]:
        """What g is multiplied with for ∂U/∂coefficients: every curve, times the pairs that there are in a shell of an
        ideal gas. The mean energy knows no more of g than these, and so are they all that can tell of the potential."""
        structure, points = self.liquid.structure, self.liquid.points
        at = jnp.asarray(np.clip(structure.centers, self.first, self.cutoff))
        spline = lambda values: rv.splines.CubicSpline(
            values, first=self.first, last=self.cutoff, interpolation=rv.splines.NaturalSpline()
        )
        each = jax.vmap(jax.vmap(lambda values: spline(values)(at)))(jnp.moveaxis(model.modes, 2, 0))
        shells = np.asarray(structure.rdf._shells(structure.rdf.edges), float)
        number = np.stack([np.sum(np.asarray(points.species) == k, axis=1) for k in range(structure.kinds)])
        pairs = [number[k] * (number[l] - (k == l)) / (1 + (k == l)) for k, l in structure.pairs]
        density = np.stack(pairs, axis=1) / np.asarray(points.length, float)[:, None] ** 3
        return density[:, None, :, None] * np.asarray(each, float) * shells

    def base(self) -> Float[np.ndarray, "pairs knots"]:
        """The potentials of mean force of the first state point, kJ/mol: what all methods start from."""
        invert = lambda g: coarse_graining.boltzmann_inversion(
            self.liquid.structure.rdf,
            g,
            temperature=float(KT * self.liquid.points.kt[0]),
            first=self.first,
            cutoff=self.cutoff,
            num_knots=self.knots,
        )
        return np.stack([invert(g) for g in self.target[0]])

    def prior(self) -> Learned:
        """The base, and curves that may be added, from where g of any state point is 0.02, some way into the core."""
        centers, found = self.liquid.structure.centers, []
        for one in np.swapaxes(self.target, 0, 1):
            rises = [np.interp(0.02, g[: np.argmax(g)], centers[: np.argmax(g)]) for g in one]
            found.append(hats(self.r, max(self.first, float(min(rises))), self.cutoff, self.spacing))
        last = np.cumsum([curves.shape[1] for curves in found])
        modes = np.zeros((len(found), self.knots, last[-1]))
        for of_pair, curves, end in zip(modes, found, last, strict=True):
            of_pair[:, end - curves.shape[1] : end] = curves
        return Learned(jnp.zeros(last[-1], jnp.float32), _single(self.base()), _single(modes), self.first, self.cutoff)


def _single(x):
    return jnp.asarray(x, jnp.float32)


def responses(structure: Structure, model: Learned) -> Callable[[Any, rv.State], tuple[Array, Array, Array]]:
    """What is seen of a configuration for reweighting: g, the smallest distance, and ∂U/∂coefficients."""

    def see(point, state):
        g, near = structure(point, state.positions)
        curves = lambda values: Curves(values, model.first, model.cutoff)(point)
        slopes = jax.grad(lambda values: curves(values).energy(state.positions, state.box))(model.values())
        return g, near, jnp.einsum("pk,pkm->m", slopes, model.modes, precision=_PRECISE)

    return see


def metric(kt, slopes):
    """cov(∂U/∂coefficients)/kT² of samples (samples, modes): how far apart, in twice the relative entropy, liquids are
    whose coefficients differ by one; -1/kT times the response of the mean of ∂U/∂coefficients to them; and the inverse
    covariance of coefficients that are told from one independent sample."""
    slopes = slopes - jnp.mean(slopes, axis=0)
    return jnp.matmul(slopes.T, slopes, precision=_PRECISE) / (len(slopes) * kt**2)


class Compared(eqx.Module):
    """How far g is from the target, in what tells of the potential: the sums over g that are ∂U/∂coefficients."""

    target: Float[Array, "points pairs bins"]
    sums: Float[Array, "points modes pairs bins"]
    """Over kT."""
    roots: Float[Array, "points modes modes"]
    """Square roots of the inverse covariances of these sums."""

    def excess(self, g: Float[Array, "points pairs bins"]) -> Float[Array, "points modes"]:
        """Sums of g less those of the target."""
        return jnp.einsum("pmab,pab->pm", self.sums, g - self.target, precision=_PRECISE)

    def residual(self, g: Float[Array, "points pairs bins"]) -> Float[Array, "points modes"]:
        """The same in units of its noise, that of one independent sample."""
        return jnp.einsum("pmn,pn->pm", self.roots, self.excess(g), precision=_PRECISE)


@eqx.filter_jit
def _seen(liquid, model, states, steps):
    """g and ∂U/∂coefficients of a simulation but for its first quarter, (points, samples, ...); the smallest distance,
    and the ends."""
    record = responses(liquid.structure, model)
    (g, near, slopes), ends = liquid.run(model.table, states, steps, record=record)
    kept = lambda x: x[:, :, x.shape[2] // 4 :].reshape(len(x), -1, *x.shape[3:])
    return kept(g), kept(slopes), jnp.min(near), ends


def whitened(
    task: Task, model: Learned, states: rv.State, steps: int
) -> tuple[Learned, Compared, Float[np.ndarray, "points pairs bins"], rv.State]:
    """The model with its curves mixed so that noise hides each alike and their metric, in a simulation at the start, is
    one: descent of half the squared residual is then that of Gauss and Newton. Curves that this simulation alone could
    not tell within ε stay slower. Also how g is compared; g at the start; and where the simulation ended."""
    g, slopes, _, states = _seen(task.liquid, model, states, steps)
    kt = np.asarray(task.liquid.points.kt, float)
    each = np.stack([np.cov(x.T) for x in np.asarray(slopes, float)]) / kt[:, None, None] ** 2
    size, mixed = np.linalg.eigh(np.sum(each, axis=0))
    mixed = mixed / np.sqrt(np.maximum(size, len(size) / slopes.shape[1]))
    model = dataclasses.replace(model, modes=_single(np.asarray(model.modes, float) @ mixed))
    # of one state point alone: what it knows a hundred times less of than all together is not for it to tell
    size, axes = np.linalg.eigh(mixed.T @ each @ mixed)
    roots = np.swapaxes(axes / np.sqrt(np.maximum(size, 1e-2))[:, None], 1, 2)
    compared = Compared(_single(task.target), _single(task.sums(model) / kt[:, None, None, None]), _single(roots))
    return model, compared, np.mean(np.asarray(g, float), axis=1), states


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Learning through the dynamics: `updates` chunks of `steps`, each from where the last one ended and `between` time
    steps later, which cost a fifth of those that are differentiated and tell as much of g.

    The residual that weights the gradient of a chunk is of the chunks before: a running mean with a memory as long as
    the rate is small. The chunk's own would be correlated with its gradient, which then seeks potentials with less
    noise.
    """

    updates: int
    steps: int
    between: int
    rate: float
    memory: float = 4.0

    def fit(
        self,
        task: Task,
        model: Learned,
        compared: Compared,
        states: rv.State,
        g: np.ndarray,
        key: Any,
        folder: Folder,
        name: str = "diffsim",
    ) -> rv.FitState:
        """By `rv.fit`, the ends of all chunks in its carry, thermostats included. `name`, of the files."""
        rate = optax.cosine_decay_schedule(self.rate, self.updates, alpha=0.1)
        fixed = jax.lax.stop_gradient

        def loss_fn(model, carry, key):
            states, memory, k = carry
            potential = dataclasses.replace(model, base=fixed(model.base), modes=fixed(model.modes))
            before, states = task.liquid.run(fixed(potential).table, states, self.between, throw=False)
            (g, near), ends = task.liquid.run(potential.table, states, self.steps, throw=False)
            loss = jnp.sum(compared.residual(memory) * compared.residual(jnp.mean(g, axis=(1, 2))))
            # a collision may go a little beyond the first knot once in ten thousand steps; so far, atoms overlap
            nearest = jnp.minimum(jnp.min(near), jnp.min(before[1]))
            loss = jnp.where(nearest < 0.8 * task.first, jnp.nan, loss)
            g = jnp.mean(jnp.concatenate([before[0], g], axis=2), axis=(1, 2))
            memory = memory + jnp.minimum(1, self.memory * rate(k)) * (g - memory)
            report = {"mse": jnp.mean((memory - compared.target) ** 2), "nearest": nearest, "values": model.values()}
            return loss, fixed(((ends, memory, k + 1), report))

        return _fit(loss_fn, model, optax.chain(optax.clip_by_global_norm(4.0), optax.sgd(rate)),
                    (states, _single(g), jnp.zeros((), int)), self.updates, key, folder, name)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reweighted:
    """Learning by reweighting: `updates` simulations of `steps`, after each of which a step of Gauss and Newton, with
    the derivatives of reweighted means, no longer than `reach` nats; from `settling` on ever smaller ones.

    All bins of g in the inverse covariance of their noise: since ∂U/∂coefficients is a sum over g, that is inverse
    Monte Carlo (Lyubartsev and Laaksonen, Phys. Rev. E 52, 3730 (1995)), or Newton's descent of the relative entropy
    (Shell, J. Chem. Phys. 129, 144108 (2008)).
    """

    updates: int
    steps: int
    settling: int
    reach: float = 8.0

    def fit(
        self,
        task: Task,
        model: Learned,
        compared: Compared,
        states: rv.State,
        key: Any,
        folder: Folder,
        name: str = "difftre",
    ) -> rv.FitState:
        """By `rv.fit`; the first quarter of every simulation is left out. `name`, of the files."""
        kt = task.liquid.points.kt

        def loss_fn(model, carry, key):
            now = jax.lax.stop_gradient(model)
            g, slopes, near, ends = _seen(task.liquid, now, carry, self.steps)
            g = jnp.mean(g, axis=1)
            each = jax.vmap(metric)(kt, slopes)
            # as if as many samples as there are curves had been seen at the start, where the metric is one
            samples, curves = slopes.shape[1:]
            whole = (samples * jnp.sum(each, axis=0) + curves * jnp.eye(curves)) / (samples + curves)
            step = jnp.linalg.solve(whole, jnp.sum(compared.excess(g), axis=0))
            nats = 0.5 * jnp.einsum("m,mn,n", step, whole, step, precision=_PRECISE)
            step = step * jnp.minimum(1, jnp.sqrt(self.reach / nats))
            report = {"mse": jnp.mean((g - compared.target) ** 2), "nearest": near, "values": now.values()}
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
        liquid, point, shape = task.liquid, task.liquid.at(0), task.liquid.structure
        rdfs = [shape.rdf]
        if shape.kinds > 1:
            rdfs = rv.RDF.partials(point.species, shape.r_max, shape.bins, shape.width)
        chains = eqx.tree_at(lambda s: s.bath, jax.tree.map(lambda x: x[0], states), None)
        frames = self.steps // liquid.every
        file, bar = (
            History(folder / "history-ibi.jsonl"),
            tqdm(total=self.updates, desc="ibi", unit="", file=sys.stderr),
        )

        def lines(history):
            return [{"update": k + 1, "mse": float(e)} for k, e in enumerate(np.mean(history.squared_errors, axis=1))]

        def note(state):
            file.tick(state.step)
            file.write(lines(state.history))
            bar.update(state.step - bar.n)

        with bar:
            found = coarse_graining.iterative_boltzmann_inversion(
                rv.System(liquid.topology, Curves(_single(task.base()), task.first, task.cutoff)(point)),
                rdfs,
                list(task.target[0]),
                rv.LangevinBAOAB(float(KT * point.kt), 1.0, dt=liquid.dt, num_steps=liquid.every),
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
