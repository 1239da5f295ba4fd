"""What targets are at given parameters, how they change with them, and with which errors."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ._expectation import Measurement
from ._fields import AbstractChecked
from ._fit import Moved
from ._gradients import along
from ._misc import require_instance
from ._observable import AbstractObservable, AbstractPhaseDifference, Joint
from ._per_parameter import Pick
from ._sampler import Samples
from ._statistics import infinitesimal_jackknife
from ._targets import StatePoint
from ._verdict import SimulationError


class Wanted(AbstractChecked):
    """The targets of many state points: what is measured at each, and how far that is from what is wanted."""

    points: tuple[StatePoint, ...]
    joints: tuple[Joint, ...]
    """What is measured at every point."""
    places: tuple[tuple[int, int, int, int], ...] = eqx.field(static=True)
    """Of every target: its point, where in the joint its observable is; and of differences the same of the other."""

    @staticmethod
    def of(points: Sequence[StatePoint]) -> "Wanted":
        """**Errors:** `ValueError` for names that are not known or not unique, and points that measure nothing."""
        points = tuple(points)
        for point in points:
            require_instance("points", point, StatePoint)
        names = [p.name for p in points]
        twice = sorted({n for n in names if n and names.count(n) > 1})
        if not points or twice:
            raise ValueError(f"`points` are {len(points)}, of which several have the names {twice}; wanted one or more,"
                             " each with a name of its own.")  # fmt: skip
        observed: list[list[AbstractObservable]] = [[] for _ in points]
        places = []
        for p, point in enumerate(points):
            for target in point.targets:
                here, q, there = target.observable, -1, -1
                if isinstance(here, AbstractPhaseDifference):
                    if here.other not in names or here.other == point.name:
                        known = ", ".join(repr(n) for n in names if n and n != point.name) or "none"
                        raise ValueError(
                            f"The target {target_name(target)} of {point_name(point, p)} is a difference to the state"
                            f" point {here.other!r}, which there is not; wanted one of {known}: give it by"
                            " `rv.StatePoint(..., name=...)`."
                        )
                    q = names.index(here.other)
                    here, other = here.observables
                    there = len(observed[q])
                    observed[q].append(other)
                places.append((p, len(observed[p]), q, there))
                observed[p].append(here)
        idle = [point_name(point, p) for p, point in enumerate(points) if not observed[p]]
        if idle:
            raise ValueError(f"Nothing is measured at {', '.join(idle)}; wanted targets there, or of others to it.")
        return Wanted(points, tuple(Joint(tuple(o)) for o in observed), tuple(places))  # pyright: ignore[reportCallIssue]

    @property
    def targets(self):
        """All of them, one point's after another's."""
        return [t for point in self.points for t in point.targets]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all targets, with those of their points where there are several."""
        several = len(self.points) > 1
        return tuple(
            target_name(t) + (f" ({point.name or point_name(point, p)})" if several else "")
            for p, point in enumerate(self.points)
            for t in point.targets
        )

    def values(self, measured: Sequence[tuple]) -> list[Array]:
        """What the targets' observables are, from what was measured at all points."""
        found = []
        for target, (p, a, q, b) in zip(self.targets, self.places, strict=True):
            value = measured[p][a]
            if isinstance(target.observable, AbstractPhaseDifference):
                value = target.observable.combine(
                    value, measured[q][b], self.points[p].ensemble, self.points[q].ensemble
                )
            if jnp.shape(value) != target.value.shape:
                raise ValueError(
                    f"The target {target_name(target)} has a value of shape {target.value.shape}, and its observable"
                    f" reduces to shape {jnp.shape(value)}; wanted the same."
                )
            found.append(value)
        return found

    def residuals(self, measured: Sequence[tuple]) -> Float[Array, " entries"]:
        """(value - target)/error of all entries; those of a target of many entries count together as one."""
        parts = [
            jnp.ravel((value - t.value) / (t.error * t.value.size**0.5))
            for t, value in zip(self.targets, self.values(measured), strict=True)
        ]
        return jnp.concatenate([jnp.zeros(0), *parts])


def target_name(target) -> str:
    """By which it is told."""
    return target.name or type(target.observable).__name__


def point_name(point: StatePoint, index: int) -> str:
    """By which it is told."""
    return repr(point.name) if point.name else f"state point {index}"


class Slopes(eqx.Module):
    """What was measured at one state point, and its derivatives by all parameters."""

    values: tuple
    flat: Float[Array, " values"]
    jacobian: Float[Array, "parameters values"]
    value_parts: Float[Array, "samples values"]
    """What every sample contributes to the deviation of the values."""
    jacobian_parts: Float[Array, "samples parameters values"]


def slopes_at(point: StatePoint, joint: Joint, moved: Moved, parameters: PyTree, samples: Samples) -> Slopes:
    """From one pass over the samples, in forward mode: of few parameters."""
    # without name and targets: points that differ by these and by temperature alone share one program
    return _slopes_at(point.system, point.ensemble, point.dynamics, joint, moved, parameters, samples)


@eqx.filter_jit
def _slopes_at(system, ensemble, dynamics, joint, moved, parameters, samples):
    flat, unravel = ravel_pytree(parameters)
    measurement = Measurement.of(joint, samples, ensemble, dynamics, None, None, True)
    run = lambda p: measurement.run_all(system(moved.to_model(unravel(p))))
    (log_weights, records), (slopes, tangents), times = along(run, flat, jnp.eye(flat.size, dtype=flat.dtype))
    weights = jax.nn.softmax(log_weights)
    weights = measurement.judged(weights, weights)

    def estimates(w):
        reduce = lambda r, w: ravel_pytree(measurement.reduce(times, r, w))[0]
        one = lambda tangent, s: jax.jvp(reduce, (records, w), (tangent, w * (s - w @ s)))[1]
        return reduce(records, w), jax.vmap(one)(tangents, slopes)

    values = measurement.reduce(times, records, weights)
    found, jacobian = estimates(weights)
    parts = infinitesimal_jackknife(estimates, weights, lambda contributions: contributions)
    return Slopes(values, found, jacobian, *parts)


@eqx.filter_jit
def _error_of_sum(samples: Samples, contributions: Array) -> Array:
    return samples.error_of_sum(contributions)


class Linearized(eqx.Module):
    """Residuals of all targets near given parameters, in NumPy's double precision."""

    residuals: np.ndarray
    jacobian: np.ndarray
    """(entries, parameters)."""
    groups: tuple[tuple[Samples, np.ndarray, np.ndarray], ...]
    """For every pool its samples and what each contributes to residuals and jacobian."""
    values: tuple
    """What was measured at every point."""

    def error(self, of: Any) -> np.ndarray:
        """The standard error of what `of(residual deviations, jacobian deviations)` makes of them, linearly, for all
        samples at once."""
        squares = [np.asarray(_error_of_sum(s, of(r, j)), float) ** 2 for s, r, j in self.groups]
        return np.sqrt(np.sum(squares, axis=0))

    def covariance(self, of: Any) -> np.ndarray:
        """The covariance of a vector that `of` makes, in the same way."""
        return np.sum([samples.covariance_of_sum(of(r, j)) for samples, r, j in self.groups], axis=0)


def linearized(
    wanted: Wanted, moved: Moved, parameters: PyTree, samples: Sequence[Samples], pools: Sequence[int]
) -> Linearized:
    """Residuals and their derivatives; `pools` says which points have their samples in common."""
    points = zip(wanted.points, wanted.joints, samples, strict=True)
    slopes = [slopes_at(point, joint, moved, parameters, own) for point, joint, own in points]
    measured = tuple(s.values for s in slopes)
    residuals, by_value = _outer(wanted, measured)
    jacobian, groups = 0.0, {}
    for q, (s, own) in enumerate(zip(slopes, samples, strict=True)):
        d = np.asarray(by_value[q], float)  # (entries, values)
        jacobian = jacobian + d @ np.asarray(s.jacobian, float).T
        r = np.asarray(s.value_parts, float) @ d.T
        j = np.einsum("spv,ev->sep", np.asarray(s.jacobian_parts, float), d)
        if pools[q] in groups:
            _, r0, j0 = groups[pools[q]]
            r, j = r + r0, j + j0
        groups[pools[q]] = (own, r, j)
    residuals, jacobian = np.asarray(residuals, float), np.asarray(jacobian)
    _require_finite(wanted, residuals, jacobian)
    return Linearized(residuals, jacobian, tuple(groups.values()), measured)


def _require_finite(wanted, residuals, jacobian):
    entries = np.repeat(wanted.names, [t.value.size for t in wanted.targets])
    for what, fine in (("value", np.isfinite(residuals)), ("derivatives", np.all(np.isfinite(jacobian), axis=1))):
        if not np.all(fine):
            names = ", ".join(dict.fromkeys(entries[~fine]))
            raise SimulationError(
                f"The {what} of {names} are not finite at these parameters; wanted numbers: look at the samples of"
                " that state point, and at what the observable makes of them."
            )


@eqx.filter_jit
def _outer(wanted, measured):
    flats = [ravel_pytree(v) for v in measured]
    of = lambda xs: wanted.residuals([unravel(x) for x, (_, unravel) in zip(xs, flats, strict=True)])
    xs = [x for x, _ in flats]
    return of(xs), jax.jacrev(of)(xs)


class SensitivityTable(eqx.Module):
    """How every target changes with every parameter; printed, a table of changes in uncertainties of the targets."""

    targets: tuple[str, ...]
    """Names of all entries of all targets."""
    parameters: tuple[str, ...]
    units: tuple[str, ...]
    """Units of the entries, as people read them."""
    values: np.ndarray
    """Values of the parameters, in internal units."""
    derivatives: np.ndarray
    """∂ entry / ∂ parameter, (entries, parameters), in internal units."""
    errors: np.ndarray
    """Their standard errors."""
    scaled: np.ndarray
    """By how many uncertainties of the target an entry changes where the parameter grows by one percent."""
    scaled_errors: np.ndarray

    @property
    def without_influence(self) -> tuple[str, ...]:
        """The parameters that change nothing at all."""
        return tuple(n for n, column in zip(self.parameters, self.derivatives.T, strict=True) if not np.any(column))

    @property
    def within_noise(self) -> tuple[str, ...]:
        """The parameters of which no derivative is more than two of its errors."""
        small = np.all(np.abs(self.derivatives) <= 2 * self.errors, axis=0)
        return tuple(n for n, is_small in zip(self.parameters, small, strict=True) if is_small)

    def __str__(self):
        cells = [[f"{x:+.3g} ± {e:.1g}" for x, e in zip(*row, strict=True)]
                 for row in zip(self.scaled, self.scaled_errors, strict=True)]  # fmt: skip
        told = "Change of each target, in its uncertainties, where a parameter grows by 1 %:\n"
        told += table(("target", *self.parameters), [[n, *row] for n, row in zip(self.targets, cells, strict=True)])
        if self.without_influence:
            told += f"\nWithout influence: {', '.join(self.without_influence)}."
        if rest := [n for n in self.within_noise if n not in self.without_influence]:
            told += f"\nNot told from zero: {', '.join(rest)}."
        return told


def sensitivities(
    model: PyTree,
    points: Sequence[StatePoint],
    samples: Sequence[Samples],
    *,
    positive: Pick | None = None,
    trainable: Pick | None = None,
) -> SensitivityTable:
    """The derivatives of all targets by all parameters, with errors, before any fit: which parameters can be told from
    which targets?

    **Arguments:** `samples`, of every point; `positive` and `trainable`, as for `fit`.

    **Errors:** as for `fit_targets`.
    """
    wanted, moved = Wanted.of(points), Moved.of(model, positive, trainable)
    samples = tuple(samples)
    if len(samples) != len(wanted.points):
        raise ValueError(f"`samples` are {len(samples)}, and `points` {len(wanted.points)}; wanted some of each.")
    found = linearized(wanted, moved, moved.parameters, samples, range(len(samples)))
    return sensitivity_table(wanted, moved, moved.parameters, found)


def sensitivity_table(wanted: Wanted, moved: Moved, parameters: PyTree, found: Linearized) -> SensitivityTable:
    """From what was measured already."""
    scale, units, names = [], [], []
    for name, t in zip(wanted.names, wanted.targets, strict=True):
        scale += list(np.broadcast_to(np.asarray(t.error, float), t.value.shape).ravel() * t.value.size**0.5)
        units += [t.unit] * t.value.size
        names += [name] if t.value.size == 1 else [f"{name}[{k}]" for k in range(t.value.size)]
    values, chain = parameter_values(moved, parameters)
    scale = np.array(scale)[:, None]
    errors = found.error(lambda r, j: j)
    percent, sizes = 0.01 * np.abs(values), np.array([s for t in wanted.targets for s in [t.value.size] * t.value.size])
    by_value, by_value_error = found.jacobian * chain, errors * chain
    weight = percent * np.sqrt(sizes)[:, None]
    return SensitivityTable(
        tuple(names),
        parameter_names(parameters),
        tuple(units),
        values,
        by_value * scale,
        by_value_error * scale,
        by_value * weight,
        by_value_error * weight,
    )


def parameter_names(parameters: PyTree) -> tuple[str, ...]:
    """Of every number that is moved."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        name = jax.tree_util.keystr(path).removeprefix(".") or "model"
        indices = [",".join(map(str, i)) for i in np.ndindex(leaf.shape)]
        found += [name if not index else f"{name}[{index}]" for index in indices]
    return tuple(found)


def parameter_values(moved: Moved, parameters: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """The parameters as they are in the model, and the derivative of what is moved by each: 1, or 1/p of logarithms."""
    is_moved = jax.tree.map(lambda x: x is not None, parameters, is_leaf=lambda x: x is None)
    model = moved.to_model(parameters)
    own = eqx.filter(model, is_moved)
    log = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full(x.shape, jax.tree_util.keystr(path) in moved.positive), own
    )
    values = np.asarray(ravel_pytree(own)[0], float)
    is_log = np.asarray(ravel_pytree(log)[0], bool)
    return values, np.where(is_log, 1 / np.where(values == 0, 1, values), 1.0)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text, in columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
