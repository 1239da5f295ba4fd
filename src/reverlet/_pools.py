"""Samples that are kept from one set of parameters to the next."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._checkpoint import CheckpointError, read, save, stored_like, tree_in
from ._ensemble import AbstractEnsemble
from ._fields import AbstractChecked, function
from ._mbar import combined, energies_of, mixture, reached, refuse_other_samples, require_alike, solve
from ._misc import require_instance
from ._sampler import Samples
from ._system import System


class Fitness(eqx.Module):
    """What the samples of a pool are worth for one model and ensemble."""

    effective_samples: float
    """Kish's, 1/Σw²."""
    effective_samples_by_entropy: float
    """exp(-Σ w ln w)."""
    samples: int
    """How many there are."""
    shares: np.ndarray
    """How much of the weight is on each set; they sum to one."""

    def __str__(self):
        return (
            f"{self.effective_samples:.0f} of {self.samples} samples count (by entropy"
            f" {self.effective_samples_by_entropy:.0f})"
        )


class SamplePool(AbstractChecked):
    """Sets of samples of one model at several parameters, temperatures and pressures, kept for parameters to come.

    A pool remembers the energies of all its samples at all parameters that matter: none is evaluated twice. It does not
    change; `add`, `at` and `keep` return another. `fit_targets` uses one for every state point; by hand:

        pool = rv.SamplePool(lambda model: model.system(216, box), model, samples)
        pool = pool.at(other)  # energies at other parameters
        print(pool.fitness(rv.NPT(300.0, 1 * rv.units.BAR)))  # are samples worth something there?
        pool = pool.add(other, more)  # samples drawn there
        samples = pool.samples()  # all of them, weighted by MBAR, for `expectation`

    **Arguments:** `system`, from a model to what is sampled, such as `lambda model: model.system(216, box)`; `model`
    and `samples`, what was drawn first, and with which parameters.

    **Errors:** `ValueError` for samples of other atoms, of another kind of ensemble or, at constant volume, in another
    box; for samples that were not drawn with the model beside them; as for `mbar`.
    """

    system: Callable[[Any], System] = eqx.field(converter=function("`lambda model: model.system(216, box)`"))
    models: PyTree
    """Every set of parameters for which there are energies: leaves lead with `models`. The last is that of `at`."""
    sets: tuple["SampleSet", ...]
    energies: np.ndarray
    """Of all samples at all models, kJ/mol, in double precision."""
    free_energies: np.ndarray
    """f_k of all sets, of MBAR."""
    rest: PyTree = eqx.field(repr=False)
    """What of a model is no parameter."""

    def __init__(self, system: Callable[[Any], System], model: PyTree, samples: Samples):
        grown = blank(system, model, ()).add(model, samples)
        for field in dataclasses.fields(grown):
            setattr(self, field.name, getattr(grown, field.name))

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def counts(self) -> np.ndarray:
        """How many samples are of each set."""
        return np.array([len(s.samples) for s in self.sets], int)

    def at(self, model: PyTree) -> "SamplePool":
        """The pool with the energies of all samples for a model, which are evaluated unless they are known. Those that
        no set and not this model needs are forgotten."""
        parameters = eqx.filter(model, eqx.is_inexact_array)
        column = self._column(parameters)
        models, energies = self.models, self.energies
        if column is None:
            system, column = self.system(model), energies.shape[1]
            new = [energies_of(system, s.samples.states) for s in self.sets]
            energies = np.concatenate([energies, np.concatenate([*new, np.zeros(0)])[:, None]], axis=1)
            models = jax.tree.map(lambda x, p: jnp.concatenate([x, jnp.asarray(p)[None]]), models, parameters)
        used = sorted({s.model for s in self.sets} - {column})
        order = np.array([*used, column])
        place = {old: new for new, old in enumerate(order)}
        sets = tuple(dataclasses.replace(s, model=place[s.model]) for s in self.sets)
        return self._with(jax.tree.map(lambda x: x[order], models), sets, energies[:, order], self.free_energies)

    def add(self, model: PyTree, samples: Samples) -> "SamplePool":
        """The pool with samples that were drawn with this model, in the ensemble that they know."""
        require_instance("samples", samples, Samples)
        self._check(samples)
        # of one dtype, as a file is read again
        samples = eqx.tree_at(lambda s: s.chain, samples, jnp.asarray(samples.chain, jnp.int32))
        pool = self.at(model)
        models = pool.energies.shape[1]
        rows = [energies_of(self.system(pool._model(k)), samples.states) for k in range(models)]
        own = SampleSet(samples, models - 1)
        u = np.asarray(_reduced(samples.ensemble, rows[-1], samples.states.box))
        refuse_other_samples([samples], u[:, None], np.array([len(samples)]))
        energies = np.concatenate([pool.energies, np.stack(rows, axis=1)])
        return pool._with(pool.models, (*pool.sets, own), energies, np.zeros(0))._solved()

    def keep(self, which: Sequence[bool] | np.ndarray) -> "SamplePool":
        """The pool with some of the sets."""
        which = np.asarray(which, bool)
        if which.shape != (len(self.sets),):
            raise ValueError(f"`which` has shape {which.shape}; wanted one truth for each of {len(self.sets)} sets.")
        if np.all(which):
            return self
        rows = np.repeat(which, self.counts)
        sets = tuple(s for s, kept in zip(self.sets, which, strict=True) if kept)
        return self._with(self.models, sets, self.energies[rows], np.zeros(0))._solved()

    def fitness(self, ensemble: AbstractEnsemble) -> Fitness:
        """What all samples are worth in an ensemble of the model of `at`."""
        w = self.weights(ensemble)
        shares = np.array([part.sum() for part in np.split(w, np.cumsum(self.counts)[:-1])])
        positive = w[w > 0]
        entropy = float(np.exp(-np.sum(positive * np.log(positive))))
        return Fitness(float(1 / np.sum(w**2)), entropy, len(w), shares)

    def weights(self, ensemble: AbstractEnsemble) -> np.ndarray:
        """Of all samples in an ensemble of the model of `at`; they sum to one."""
        boxes = jax.tree.map(lambda *x: jnp.concatenate(x), *(s.samples.states.box for s in self.sets))
        log = -_reduced(ensemble, self.energies[:, -1], boxes) - mixture(self._u(), self.counts, self.free_energies)[0]
        w = np.exp(log - np.max(log))
        return w / np.sum(w)

    def without_idle(self, ensembles: Sequence[AbstractEnsemble], least: float = 0.01, most: int = 4) -> "SamplePool":
        """The pool without the sets that no longer help the model of `at`: on which less than `least` of the weight is
        in each of these ensembles, and of more than `most` those with the least weight."""
        shares = np.max([self.fitness(e).shares for e in ensembles], axis=0)
        best = np.argsort(-shares, kind="stable")[:most]
        which = (shares >= least) & np.isin(np.arange(len(shares)), best)
        which[best[0]] = True
        return self.keep(which)

    def reachable(self) -> "SamplePool":
        """The pool without the sets that do not overlap with the last one, directly or through others."""
        counts = self.counts
        _, shares = mixture(self._u(), counts, self.free_energies)
        overlap = (shares.T @ shares / counts).T
        found = reached(overlap, counts, len(counts) - 1)
        return self.keep([k in found for k in range(len(counts))])

    def samples(self, ensemble: AbstractEnsemble | None = None) -> Samples:
        """All samples, each with the density of the mixture of all sets, as for `mbar`. Where an ensemble is given,
        velocities are scaled to its temperature, which makes them as if they were drawn there. A chain that is in
        several sets of one ensemble counts as one in errors: a sampler goes on from where its chains ended."""
        sets = [s.samples for s in self.sets]
        if ensemble is not None:
            sets = [_at_temperature(s, ensemble) for s in sets]
        states = jax.tree.map(lambda *x: jnp.concatenate(x), *(s.states for s in sets))
        ensembles = tuple(s.ensemble for s in sets if s.ensemble is not None)
        first = [next(j for j, other in enumerate(ensembles) if eqx.tree_equal(e, other)) for e in ensembles]
        most = 1 + max(int(np.max(s.chain)) for s in sets)
        chain = np.concatenate([np.asarray(s.chain) + most * k for k, s in zip(first, sets, strict=True)])
        return combined(states, self._u(), self.counts, chain, ensembles, self.free_energies)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the pool to a file, in one piece.

        **Errors:** `CheckpointError` where it cannot be written.
        """
        save(Path(path), {"sets": [s.model for s in self.sets]}, self._arrays())

    def load(self, path: str | os.PathLike) -> "SamplePool":
        """The pool of a file, for the system and of the kind of samples of this one.

        **Errors:** `CheckpointError` for a file that is missing, damaged, or of another kind of pool.
        """
        header, blocks = read(Path(path))
        try:
            models = [int(k) for k in header["sets"]]
            first = self.sets[0].samples
            pool = self._with(self.models, tuple(SampleSet(first, k) for k in models), self.energies, np.zeros(0))
            like = stored_like(header, pool._arrays())
            arrays = tree_in(header, blocks, like)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"The file {path} is no pool of such samples ({error}); wanted one that `SamplePool.save` wrote, of the"
                " same model, atoms and kind of ensemble."
            ) from error
        sets = tuple(SampleSet(samples, k) for samples, k in zip(arrays[1], models, strict=True))
        return self._with(arrays[0], sets, arrays[2], arrays[3])

    def _arrays(self):
        return self.models, tuple(s.samples for s in self.sets), self.energies, self.free_energies

    def _with(self, models, sets, energies, free_energies) -> "SamplePool":
        return _made(self.system, self.rest, models, sets, energies, free_energies)

    def _model(self, k):
        return eqx.combine(jax.tree.map(lambda x: x[k], self.models), self.rest)

    def _column(self, parameters):
        own, new = jax.tree.leaves(self.models), jax.tree.leaves(parameters)
        if jax.tree.structure(self.models) != jax.tree.structure(parameters):
            raise ValueError("The model has other parameters than those of the pool; wanted the same model throughout.")
        for k in range(self.energies.shape[1]):
            if all(np.array_equal(x[k], p) for x, p in zip(own, new, strict=True)):
                return k
        return None

    def _u(self):
        """Reduced energies of all samples in all sets' states."""
        boxes = jax.tree.map(lambda *x: jnp.concatenate(x), *(s.samples.states.box for s in self.sets))
        return np.stack([_reduced(s.samples.ensemble, self.energies[:, s.model], boxes) for s in self.sets], axis=1)

    def _solved(self):
        return self._with(self.models, self.sets, self.energies, solve(self._u(), self.counts))

    def _check(self, samples):
        if samples.pool is not None or samples.ensemble is None:
            raise ValueError(
                "`samples` are a pool themselves or do not know their ensemble; wanted those of a sampler, or"
                " `rv.Samples.of(system, ensemble, states)`."
            )
        if not self.sets:
            return
        first = self.sets[0].samples
        atoms = [s.states.positions.shape[1] for s in (first, samples)]
        if atoms[0] != atoms[1]:
            raise ValueError(
                f"`samples` are of {atoms[1]} atoms, and those of the pool of {atoms[0]}; wanted the same atoms."
            )
        require_alike([first, samples])


def blank(system: Callable[[Any], System], model: PyTree, sets: Sequence[Samples]) -> SamplePool:
    """The structure of a pool, for the arrays of a file."""
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    models = jax.tree.map(lambda x: jnp.asarray(x)[None][:0], parameters)
    return _made(system, rest, models, tuple(SampleSet(s, 0) for s in sets), np.zeros((0, 0)), np.zeros(0))


def _made(system, rest, models, sets, energies, free_energies) -> SamplePool:
    new = object.__new__(SamplePool)
    values = {"system": system, "rest": rest, "models": models, "sets": sets}
    for name, value in {**values, "energies": energies, "free_energies": free_energies}.items():
        object.__setattr__(new, name, value)  # `__init__` is for users, who begin with samples
    return new


class SampleSet(eqx.Module):
    """What was drawn at one state."""

    samples: Samples
    model: int
    """Which of the models of the pool it was drawn with."""


def _reduced(ensemble, energies, boxes) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(_reduced_all(ensemble, np.asarray(energies), boxes))


@eqx.filter_jit
def _reduced_all(ensemble, energies, boxes):
    return jax.vmap(ensemble.reduced)(energies, boxes)


def _at_temperature(samples: Samples, ensemble: AbstractEnsemble) -> Samples:
    drawn = samples.ensemble
    if not samples.states.has_velocities or drawn is None:
        return samples
    factor = jnp.sqrt(ensemble.temperature / drawn.temperature).astype(samples.states.positions.dtype)
    return eqx.tree_at(lambda s: s.states, samples, samples.states.with_velocities(factor * samples.states.velocities))
