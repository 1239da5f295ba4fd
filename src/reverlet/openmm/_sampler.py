import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._box import AbstractBox, OpenBox, OrthorhombicBox, TriclinicBox
from .._ensemble import NPT, NVT
from .._fields import OptionalParameter, Parameter, checked, count, finite, optional, positive, positive_or_zero
from .._misc import is_concrete
from .._sampler import AbstractMarkovSampler
from .._sampler._markov import Advanced
from .._state import State
from .._verdict import SimulationError
from ._optional import number, require_openmm
from ._writer import box_vectors, to_system


class OpenMMSampler(AbstractMarkovSampler):
    """Langevin dynamics run by OpenMM, at constant volume or constant pressure, of what `to_system` can express.

    The integrator is its `LangevinMiddleIntegrator`, which takes the steps of `LangevinBAOAB` but keeps velocities half
    a step behind positions; samples have both of one time. With a `pressure`, a `MonteCarloBarostat` tries `every` so
    many steps to scale the box, all directions alike; each sample has a box of its own, and molecules may come back as
    other images.

    The energies of the samples are those of our own potential, so that they can be reweighted. OpenMM's forces differ
    from ours by what mesh and precision cost there: `Ewald` and `P3M` are its PME with their accuracy.

    On the CPU platform as many chains run at a time as there are cores, each on one; elsewhere one after the other.
    Samples follow from the key on OpenMM's Reference platform; others, which add up forces in any order, give different
    trajectories with the same distribution.

    **Arguments:** `temperature` (K), `friction` (1/ps), `dt` (ps), `num_steps` between two samples of a chain;
    `pressure` (kJ/mol/nm³, such as `1 * units.BAR`); `platform`, the name of one, by default what OpenMM takes for
    the fastest; `every`, after how many steps the volume is tried, by default 25 as in OpenMM.

    **Errors:** `ValueError` for numbers that are not positive and for a platform that does not exist; when sampling, as
    for `to_system`, for a pressure in an open box, and inside `jax.jit`.

    **Reference:** Z. Zhang et al., J. Phys. Chem. A 123, 6056 (2019).
    """

    temperature: Parameter = positive("K")
    friction: Parameter = positive_or_zero("1/ps")
    dt: Parameter = checked(positive("ps"), kw_only=True)
    num_steps: int = checked(count(), static=True, kw_only=True)
    pressure: OptionalParameter = checked(optional(finite("kJ/mol/nm³")), default=None, kw_only=True)
    platform: str | None = eqx.field(static=True, default=None, kw_only=True)
    every: int = checked(count(), static=True, default=25, kw_only=True)

    def __check_init__(self):
        if self.platform is not None:
            openmm = require_openmm()
            known = [openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())]
            if self.platform not in known:
                raise ValueError(f"`platform` is {self.platform!r}; wanted one of {', '.join(known)}.")

    goes_on_exactly = False

    @property
    def ensemble(self):
        return NVT(self.temperature) if self.pressure is None else NPT(self.temperature, self.pressure)

    @property
    def mesh(self):
        return None

    def advance(self, system, chains, rounds, key):
        if not is_concrete((self, system, chains, key)):
            raise ValueError("`OpenMMSampler` got traced values; wanted numbers: call it outside `jax.jit`.")
        if self.pressure is not None and isinstance(chains.states.box, OpenBox):
            raise ValueError("`pressure` is given for an `OpenBox`, which has no volume; wanted a periodic box.")
        key = jax.random.fold_in(key, chains.rounds)
        seeds = np.asarray(jax.random.randint(key, (len(chains), 2), 1, 2**31 - 1)).tolist()
        # [chain][round]
        one = lambda c: jax.tree.map(lambda x: x[c], chains.states)
        platform = self._platform()
        # all of Reference draws from one source of random numbers
        with ThreadPoolExecutor((os.cpu_count() or 1) if platform.getName() == "CPU" else 1) as threads:
            run = lambda c: self._run(system, one(c), rounds, seeds[c], platform, alone=len(chains) == 1)
            runs = list(threads.map(run, range(len(chains))))
        stack = lambda kept: jax.tree.map(lambda *x: jnp.stack(x), *kept)
        kept = stack([state for run in runs for state in run])
        energies = _energies(system, kept).reshape(len(chains), rounds)
        kept = jax.tree.map(lambda x: x.reshape(len(chains), rounds, *x.shape[1:]), kept)
        return Advanced(kept, energies, _energies(system, chains.states))

    def _platform(self) -> Any:
        """The one asked for, or what OpenMM takes by itself."""
        openmm = require_openmm()
        if self.platform is not None:
            return openmm.Platform.getPlatformByName(self.platform)
        nothing = openmm.System()
        nothing.addParticle(1.0)
        return openmm.Context(nothing, openmm.VerletIntegrator(0.001)).getPlatform()

    def _run(self, system, state, rounds, seeds, platform, *, alone: bool) -> list[State]:
        openmm = require_openmm()
        simulated = to_system(system, state.box)
        temperature = float(self.temperature)
        if self.pressure is not None:
            # at least once a round: every call begins to count anew
            frequency = min(self.every, self.num_steps)
            barostat = openmm.MonteCarloBarostat(float(self.pressure) / units.BAR, temperature, frequency)
            barostat.setRandomNumberSeed(seeds[1])
            simulated.addForce(barostat)
        integrator = openmm.LangevinMiddleIntegrator(temperature, float(self.friction), float(self.dt))
        integrator.setRandomNumberSeed(seeds[0])
        # many chains share the cores better than the threads of one do
        properties = {"Threads": "1"} if platform.getName() == "CPU" and not alone else {}
        context = openmm.Context(simulated, integrator, platform, properties)
        if not isinstance(state.box, OpenBox):
            context.setPeriodicBoxVectors(*box_vectors(state.box))
        half = 0.5 * float(self.dt) / np.asarray(system.topology.masses, float)[:, None]
        kicked = lambda now: half * number(now.getForces(asNumpy=True))
        context.setPositions(np.asarray(state.positions, float))
        context.setVelocities(np.asarray(state.velocities, float) - kicked(context.getState(getForces=True)))
        kept, dtype = [], state.positions.dtype
        for _ in range(rounds):
            try:
                integrator.step(self.num_steps)
                now = context.getState(getPositions=True, getVelocities=True, getForces=True)
            except openmm.OpenMMException as error:
                raise SimulationError(f"{_EXPLODED} OpenMM says: {error}") from error
            x, v = number(now.getPositions(asNumpy=True)), number(now.getVelocities(asNumpy=True)) + kicked(now)
            if not np.all(np.isfinite(x) & np.isfinite(v)):
                raise SimulationError(_EXPLODED)
            box = state.box if self.pressure is None else _box_of(now, state.box)
            kept.append(State(jnp.asarray(x, dtype), jnp.asarray(v, dtype), box))
        return kept


_EXPLODED = (
    "A chain of `OpenMMSampler` exploded. Chains explode when they start from overlapping atoms, when the time step is"
    " too long, or when parameters have run away."
)


def _box_of(now: Any, like: AbstractBox) -> AbstractBox:
    vectors = np.asarray(number(now.getPeriodicBoxVectors(asNumpy=True)), float)
    dtype = like.vectors.dtype
    if isinstance(like, OrthorhombicBox):
        return OrthorhombicBox(jnp.asarray(np.diag(vectors), dtype))
    return TriclinicBox(jnp.asarray(vectors, dtype))


@eqx.filter_jit
def _energies(system, states):
    # one at a time: nothing is gained on a CPU by more, and memory is saved
    return jax.lax.map(lambda state: system.potential_energy(state.positions, state.box), states)
