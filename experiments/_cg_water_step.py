"""The beads of `cg_water`: their potential, and a step of it towards many targets by reweighting."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import reverlet as rv

FIRST = 0.24
"""nm, where tables begin: nearer than that no two beads come."""
_PRECISE = jax.lax.Precision.HIGHEST


class Beads(eqx.Module):
    """What is fitted: a table, and strength and decay of the triples, in units in which they are alike."""

    table: Float[Array, " knots"]
    """0.5 kJ/mol, at knots from `FIRST` to the cutoff."""
    triples: Float[Array, "2"]
    """ln λ and ln γ over those of mW, in fifths and twentieths."""
    cutoff: float = eqx.field(static=True)

    @property
    def potential(self) -> rv.AbstractPotential:
        """mW and the table, which is switched off before its cutoff, whatever its last value becomes."""
        mw = rv.StillingerWeber.water()
        strength, decay = mw.strength * jnp.exp(0.2 * self.triples[0]), mw.decay * jnp.exp(0.05 * self.triples[1])
        table = rv.TabulatedPair(
            0.5 * self.table,
            first=FIRST,
            cutoff=self.cutoff,
            interpolation=rv.splines.NaturalSpline(),
            truncation=rv.SmoothSwitch(self.cutoff - 0.1),
        )
        return dataclasses.replace(mw, strength=strength, decay=decay) + table


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of Gauss and Newton towards targets, in a region of trust that reweighting gives.

    The derivative of an average is -β cov(O, ∂U/∂θ) + ⟨∂O/∂θ⟩. A step δ makes samples worth less by δ F δ nats, with
    F = β² cov(∂U/∂θ, ∂U/∂θ): the metric of relative entropy. That is what limits its length, for a parameter says
    nothing of how far is far: in some directions of θ the liquid hardly changes, in others it becomes another one.

    **Arguments:** `topology`; `observables`, of which only the last has derivatives of its own, and is a number;
    `targets`, and `errors` in which distances are counted, the entries of a target of many together as one; `reach`,
    the largest δ F δ; `looseness`, the width of a prior about zero.
    """

    topology: rv.Topology
    observables: tuple[rv.AbstractObservable, ...]
    targets: tuple[np.ndarray, ...]
    errors: tuple[float, ...]
    reach: float
    looseness: float

    def __call__(self, beads: Beads, samples: rv.Samples) -> tuple[Beads, tuple[Array, ...]]:
        """The step, and what the observables are before it."""
        flat, unravel = ravel_pytree(beads)
        found, *linear = self.linearized(beads, samples)
        return jax.lax.stop_gradient((unravel(self._step(flat, *linear)), found))

    def linearized(self, beads: Beads, samples: rv.Samples) -> tuple[tuple[Array, ...], Array, Array, Array]:
        """What the observables are, their distances from the targets, the derivatives of these, and the metric."""
        flat, unravel = ravel_pytree(beads)
        ensemble = samples.ensemble
        assert ensemble is not None  # as those of samplers have
        system = lambda p: rv.System(self.topology, unravel(p).potential)
        *fixed, last = self.observables
        reduced = lambda p, s: ensemble.reduced_energy(system(p), s)
        record = lambda p, s: last.record(system(p), s, s)

        def one(s):
            records = [o.record(system(flat), s, s) for o in fixed]
            return records, jax.value_and_grad(reduced)(flat, s), jax.value_and_grad(record)(flat, s)

        records, (u, forces), (own, slopes) = jax.lax.map(one, samples.states, batch_size=16)
        weights = jax.nn.softmax(-u - samples.log_density)
        away = forces - weights @ forces
        distances = lambda w: self._distances([*records, own], w)
        jacobian = jax.vmap(lambda g: jax.jvp(distances, (weights,), (-weights * g,))[1], 1, 1)(away)
        jacobian = jacobian.at[-1].add(weights @ slopes / self.errors[-1])
        metric = jnp.matmul((weights[:, None] * away).T, away, precision=_PRECISE)
        return self._values([*records, own], weights), distances(weights), jacobian, metric

    def _values(self, records, weights):
        one = lambda o, r: o.reduce(jnp.zeros(1), r[:, None], weights)
        return tuple(one(o, r) for o, r in zip(self.observables, records, strict=True))

    def _distances(self, records, weights):
        """In errors, of all entries of all targets."""
        parts = [
            jnp.ravel(v - jnp.asarray(t, v.dtype)) / (e * np.sqrt(t.size))
            for v, t, e in zip(self._values(records, weights), self.targets, self.errors, strict=True)
        ]
        return jnp.concatenate(parts)

    def _step(self, flat, distances, jacobian, metric):
        """The longest of damped steps that is within reach."""
        own = jnp.eye(len(flat), dtype=flat.dtype)
        square = lambda a, b: jnp.matmul(a.T, b, precision=_PRECISE)
        curvature = square(jacobian, jacobian) + own / self.looseness**2
        gradient = square(jacobian, distances) + flat / self.looseness**2
        # what hardly changes the liquid is held where it is
        held = metric + 0.05 * own

        def damped(damping):
            step = -jnp.linalg.solve(curvature + damping * held, gradient)
            return step, step @ metric @ step

        steps, lengths = jax.vmap(damped)(jnp.asarray(np.geomspace(1e-2, 1e5, 71), flat.dtype))
        fine = (lengths <= self.reach) & jnp.all(jnp.isfinite(steps), axis=1)
        return jnp.where(jnp.any(fine), steps[jnp.argmax(fine)], 0)
