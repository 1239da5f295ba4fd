"""What the pair experiments share: their settings, how liquids are measured, and how potentials are learned."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import reverlet as rv

from ._errors import BadInput
from ._fields import above_zero, at_least, check_fields, not_negative
from ._folder import Folder
from ._pairs import Liquid, Point, Structure, lattice
from ._pairs_fit import METHODS, Chunks, Inversion, Reweighted, Task, whitened


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """The settings that all pair experiments share, whatever their target."""

    preset: Literal["quick", "paper", "smoke"] = "quick"
    """Where all other defaults come from: quick (two cores, minutes), paper (one GPU), smoke (seconds)."""
    seed: Annotated[int, not_negative(0)] = 0
    """The seed of all random numbers."""
    method: tuple[Literal["diffsim", "difftre", "ibi"], ...] = METHODS
    """Through the dynamics, by reweighting, by iterative Boltzmann inversion of the first state point."""
    density: tuple[float, ...] = (0.7,)
    """The densities of all state points, 1/σ³."""
    temperature: tuple[float, ...] = (1.0,)
    """kT of all state points, ε; or one for all."""
    cutoff: Annotated[float, above_zero(2.5)] = 2.5
    """Where the target and the learned potentials end, σ."""
    atoms: Annotated[int, at_least(32, 108)] = 108
    """The number of atoms in every simulation; 4n³ of them start as a perfect crystal."""
    replicas: Annotated[int, at_least(1, 8)] = 8
    """How many simulations of every state point run side by side."""
    dt: Annotated[float, above_zero(0.01)] = 0.01
    """Time step, τ."""
    every: Annotated[int, at_least(1, 10)] = 10
    """Time steps between two evaluations of g(r)."""
    bins: Annotated[int, at_least(10, 130)] = 130
    """The bins of g(r), up to half the smallest box."""
    width: Annotated[float, above_zero(0.01)] = 0.01
    """The width of the Gaussian that smears distances, of the target, too, σ."""
    melting: Annotated[int, at_least(10, 1000)] = 1000
    """Time steps of melting at three times the temperature; equilibration at the temperature takes as many."""
    reference: Annotated[int, at_least(10, 30000)] = 30000
    """Time steps of the simulation of the target."""
    check: Annotated[int, at_least(10, 4000)] = 4000
    """Time steps of every final measurement."""
    chunk: Annotated[int, at_least(1, 20)] = 20
    """Time steps of a chunk of diffsim, which is differentiated."""
    between: Annotated[int, at_least(1, 40)] = 40
    """Time steps between two chunks of diffsim, which are not differentiated."""
    updates: Annotated[int, at_least(1, 400)] = 400
    """Updates of diffsim: one for each chunk."""
    metrics: Annotated[int, at_least(1, 1)] = 1
    """How often diffsim measures the metric that it descends in: at the start, and after equal parts of its updates."""
    rate: Annotated[float, above_zero(0.1)] = 0.1
    """The learning rate of diffsim, in units in which all changes are equally noisy."""
    steps: Annotated[int, at_least(40, 1500)] = 1500
    """Time steps of each simulation of difftre and ibi."""
    simulations: Annotated[int, at_least(1, 20)] = 20
    """How many simulations difftre and ibi have."""
    settling: Annotated[int, at_least(1, 6)] = 6
    """The update of difftre after which its steps become ever smaller, so that they end at the mean over all later
    ones."""
    spacing: Annotated[float, above_zero(0.05)] = 0.05
    """The distance between knots of the learned potentials, σ."""

    def __post_init__(self):
        check_fields(self)
        if not self.method or len(set(self.method)) < len(self.method):
            raise BadInput(f"--method is {self.method}; wanted one or more of {', '.join(METHODS)}.")
        points = self.points()
        for name in ("density", "temperature"):
            values = getattr(self, name)
            if len(values) not in (1, points) or not all(x > 0 for x in values):
                raise BadInput(f"--{name} is {values}; wanted one number above zero, or one for each state point.")
        for name in ("chunk", "between", "steps", "melting", "reference", "check"):
            if getattr(self, name) % self.every:
                raise BadInput(f"--{name} is {getattr(self, name)}; wanted a multiple of --every, {self.every}.")
        if self.updates % self.metrics:
            raise BadInput(f"--metrics is {self.metrics}; wanted a divisor of --updates, {self.updates}.")
        half = 0.5 * (self.atoms / max(self.density)) ** (1 / 3)
        if self.cutoff > half:
            raise BadInput(f"--cutoff is {self.cutoff}; wanted at most {half:.4g}, half the smallest box.")

    def points(self) -> int:
        """How many state points there are."""
        return max(len(self.density), len(self.temperature))

    def species(self) -> np.ndarray:
        """Of all atoms at all state points, (points, atoms)."""
        return np.zeros((self.points(), self.atoms), np.int32)

    def liquid(self) -> Liquid:
        """All state points."""
        points = self.points()
        spread = lambda x: np.broadcast_to(np.asarray(x, np.float32), points)
        length = (self.atoms / spread(self.density)) ** (1 / 3)
        species = self.species()
        positions = np.stack([lattice(self.atoms, x) for x in length])
        point = Point(jnp.asarray(spread(self.temperature)), jnp.asarray(length, jnp.float32), jnp.asarray(species))
        structure = Structure(float(0.4999 * length.min()), self.bins, self.width, int(species.max()) + 1)
        return Liquid(point, jnp.asarray(positions, jnp.float32), structure, self.dt, 0.5, self.every)


def melted(c: Pairs, liquid: Liquid, potential: Callable[[Point], rv.AbstractPotential], key: Any) -> rv.State:
    """Replicas that came from a lattice, at three times the temperature and then at it."""
    states = liquid.start(c.replicas, key)
    for factor in (3.0, 1.0):
        _, states = _run_on(liquid, potential, states, c.melting, jnp.asarray(factor), False)
    return states


def measured(
    c: Pairs,
    liquid: Liquid,
    potential: Callable[[Point], rv.AbstractPotential],
    steps: int,
    key: Any,
    keep: bool = False,
) -> dict[str, np.ndarray]:
    """g (points, pairs, bins) and its error in so many steps, by replicas that start from a lattice; to `keep`, also
    the smallest distance and where they end."""
    states = melted(c, liquid, potential, key)
    (g, near), states = _run_on(liquid, potential, states, steps, jnp.asarray(1.0), True)
    means = np.mean(np.asarray(g, float), axis=2)
    spread = np.std(means, axis=1, ddof=1) if c.replicas > 1 else np.full_like(means[:, 0], np.nan)
    found = {"g": np.mean(means, axis=1), "error": spread / c.replicas**0.5}
    if not keep:
        return found
    ends = {"x": np.asarray(states.positions), "v": np.asarray(states.velocities)}
    return {**found, **ends, "nearest": np.min(np.asarray(near))}


@eqx.filter_jit
def _run_on(liquid, potential, states, steps, factor, see):
    record = None if see else lambda point, state: jnp.zeros(())
    return liquid.run(potential, states, steps, factor=factor, record=record)


def prepared(
    c: Pairs, liquid: Liquid, target: dict[str, np.ndarray], key: Any, chosen: Sequence[int] | None = None
) -> tuple[Task, rv.State]:
    """What is to be reached, that was measured and kept, and where the simulations of all methods begin: at its ends.
    `chosen` of its state points are those of the liquid."""
    pick = slice(None) if chosen is None else np.array(chosen)
    first = 0.9 * float(target["nearest"])
    task = Task(liquid, target["g"][pick], first, c.cutoff, round((c.cutoff - first) / 0.02) + 1, c.spacing)
    ends = (jnp.asarray(target["x"][pick]), jnp.asarray(target["v"][pick]))
    return task, eqx.tree_at(lambda s: (s.positions, s.velocities), liquid.start(c.replicas, key), ends)


def learned(
    c: Pairs, method: str, task: Task, states: rv.State, key: Any, folder: Folder, name: str | None = None
) -> Float[np.ndarray, "pairs knots"]:
    """What a method makes of the target: values of its table, kJ/mol. `name`, of its files, by default the method's."""
    name = name or method
    if method == "ibi":
        values = np.asarray(Inversion(c.simulations, c.steps).fit(task, states, key, folder).potential.values, float)
        return values[None] if values.ndim == 1 else values[np.triu_indices(len(values))]
    model = task.prior()
    curves = model.modes
    if method == "difftre":
        model, compared, g, states = whitened(task, model, states, c.steps)
        fitted = Reweighted(c.simulations, c.steps, c.settling).fit(task, model, compared, states, key, folder, name)
        return np.asarray(fitted.model.values(), float)
    for k in range(c.metrics):
        model, compared, g, states = whitened(task, model.from_here(curves), states, c.steps)
        chunks = Chunks(c.updates // c.metrics, c.chunk, c.between, c.rate)
        of_this = f"{name}-{k + 1}" if c.metrics > 1 else name
        fitted = chunks.fit(task, model, compared, states, g, jax.random.fold_in(key, k), folder, of_this)
        model, states = fitted.model, fitted.carry[0]
    return np.asarray(model.values(), float)


def energies(potential: Any, r: np.ndarray) -> np.ndarray:
    """Of two atoms alone, kJ/mol, before the cutoff."""
    at = lambda r: jnp.zeros((2, 3)).at[1, 0].set(r)
    far: Any = rv.OpenBox()  # pyright: ignore[reportCallIssue]
    return np.asarray(jax.vmap(lambda r: potential.energy(at(r), far))(jnp.asarray(np.minimum(r, r[-1] * (1 - 1e-6)))))
