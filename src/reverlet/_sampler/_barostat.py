import abc
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .. import units
from .._box import AbstractBox, OpenBox, OrthorhombicBox
from .._ensemble import NPT
from .._fields import Parameter, Rule, checked, count, finite, positive
from .._neighbors import Neighbors
from .._state import State
from .._system import System
from ._base import CellMoves
from ._cell import Deformation, Groups, check_whole, energy_and_slope, out_of_cell, upright
from ._markov import AbstractCellMover, AbstractFlowSampler, AbstractMarkovSampler, advance_chains, using

_WATER = 4.5e-5 / units.BAR
"""The compressibility of water, nm³ mol/kJ."""


def _thermostat() -> Any:
    def require(name, x):
        if not isinstance(x, AbstractFlowSampler):
            raise TypeError(
                f"`{name}` is of type `{type(x).__name__}`; wanted a sampler at constant temperature that is made of"
                " flows, such as `rv.LangevinBAOAB` or `rv.CSVR`. `rv.openmm.OpenMMSampler` has a barostat of its own:"
                " its argument `pressure`."
            )

    return Rule(lambda x: x, require)


def one_of(*names: str) -> Any:
    """One of some words."""

    def require(name, x):
        if x not in names:
            raise ValueError(f"`{name}` is {x!r}; wanted one of {', '.join(map(repr, names))}.")

    return Rule(lambda x: x, require)


class Look(eqx.Module):
    """What a move of a cell depends on, before it and after it."""

    log_density: Float[Array, ""]
    """Of positions and, where they are scaled too, velocities, without what the volume has."""
    volume: Float[Array, ""]
    """nm³."""
    drift: Any = None
    """The mean strain of a move from here."""
    spread: Any = None
    """The standard deviation of each of its components."""


class AbstractBarostat(AbstractMarkovSampler, AbstractCellMover):
    """Chains at constant pressure: steps of a thermostat, and every so many of them a move of the cell.

    A move scales the centers of molecules together with the cell, or every atom by itself, and is accepted or not
    such that positions and volume have the density of `NPT` exactly; what is not exact is what the thermostat's time
    step costs. Lists that a move wears out are made anew. `Chains.cell` says how many moves were accepted.
    """

    thermostat: eqx.AbstractVar[AbstractFlowSampler]
    pressure: eqx.AbstractVar[Array]
    scaling: eqx.AbstractVar[str]

    @abc.abstractmethod
    def first_size(self) -> Float[Array, ""] | None:
        """How large the moves of new chains may be, of ln V, where that is adapted."""

    @abc.abstractmethod
    def look(self, system: System, state: State, groups: Groups) -> Look:
        """At a state, with the neighbor list in use."""

    @abc.abstractmethod
    def draw(self, before: Look, size: Any, box: AbstractBox, key: PRNGKeyArray) -> Float[Array, "3 3"]:
        """The strain of a move."""

    @abc.abstractmethod
    def strained(self, state: State, strain: Float[Array, "3 3"], groups: Groups) -> State:
        """The state after it."""

    @abc.abstractmethod
    def log_ratio(
        self, before: Look, after: Look, strain: Float[Array, "3 3"], groups: Groups, box: AbstractBox
    ) -> Float[Array, ""]:
        """How much more probable the way back is than the way there, and what the measure of volumes gives."""

    @property
    def num_steps(self):
        return self.thermostat.num_steps

    @property
    def mesh(self):
        return self.thermostat.mesh

    @property
    def ensemble(self):
        return NPT(self.thermostat.ensemble.temperature, self.pressure)

    def require_steps(self) -> None:
        """Refuses moves that do not come out even."""
        if self.num_steps % self.every != 0:
            raise ValueError(
                f"`every` is {self.every}, and `thermostat` has `num_steps={self.num_steps}`; wanted a number of steps"
                f" between samples that is a multiple, such as {-(-self.num_steps // self.every) * self.every}."
            )

    def advance(self, system, chains, rounds, key):
        states = chains.states
        if isinstance(states.box, OpenBox):
            raise ValueError(
                f"`{type(self).__name__}` got an `OpenBox`, which has no volume; wanted a periodic box, or the"
                " thermostat alone."
            )
        if self.scaling == "molecules":
            states = check_whole(system.topology, states, self.mesh)
        cell, size = chains.cell, self.first_size()
        if cell is None or (cell.size is None) != (size is None):  # from no barostat, or another one
            n, none = len(chains), jnp.zeros(len(chains), jnp.int32)
            size = None if size is None else jnp.full(n, size, states.positions.dtype)
            cell = CellMoves(none, none, none, size)
        chains = eqx.tree_at(lambda c: (c.states, c.cell), chains, (states, cell), is_leaf=lambda x: x is None)
        return advance_chains(self.thermostat, self, system, chains, rounds, key)

    def move(self, system, state, cell, wear, key):
        groups = Groups.of(system.topology, self.scaling == "molecules", state.positions.dtype)
        strain_key, accept_key = jax.random.split(key)
        before = self.look(system, state, groups)
        strain = self.draw(before, cell.size, state.box, strain_key)
        trial = self.strained(state, strain, groups)
        why = out_of_cell(system, trial.box)
        neighbors = system.neighbors
        if neighbors is not None:
            neighbors = _fresh(system, trial, neighbors)
            wear = wear.and_of(trial.positions, trial.box, neighbors)
        after = self.look(using(system, neighbors), trial, groups)
        ratio = after.log_density - before.log_density + self.log_ratio(before, after, strain, groups, state.box)
        # of what is not a number, no move is accepted
        accepted = (jnp.log(jax.random.uniform(accept_key, (), ratio.dtype)) < ratio) & (why == 0)
        choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)
        cell = CellMoves(cell.tried + 1, cell.accepted + accepted, cell.rounds, cell.size)
        state = upright(choose(trial, state), state.box)
        return state, cell, choose(neighbors, system.neighbors), wear, why


def _fresh(system: System, state: State, neighbors: Neighbors) -> Neighbors:
    """The list, or a new one where half of what it may move by is used up, since it has to last for some steps: in all
    chains of a batch together, which would otherwise all make one always."""
    worn = ~(neighbors.wear(state.positions, state.box) <= 0.25 * neighbors.skin)
    find = lambda: using(system, None).find_neighbors(state.positions, state.box)
    return jax.lax.cond(eqxi.unvmap_any(worn), find, lambda: neighbors)


class StochasticCellRescaling(AbstractBarostat):
    """Constant pressure by stochastic cell rescaling: the cell follows the difference of the pressures, with noise.

    With isotropic coupling, the compressibility κ, and the pressure P of the velocities and the virial at that instant,

        dε = -(κ/τ) (p - P) dt + √(2 kT κ/(V τ)) dW,    ε = ln V

    and positions of centers are scaled with the cell, their velocities inversely. The volume finds its mean within a
    time of about `period` (if κ is about that of the liquid) and then fluctuates as it should. Steps of this equation
    over `every` time steps are proposed, and accepted by the probabilities of there and back: so the volume has the
    right distribution for every τ, κ and `every`, also where a potential ends with a jump, of which the virial knows
    nothing. Where few moves are accepted (`Chains.cell`), take a longer period or fewer steps between moves.

    `coupling="semi-isotropic"` lets x and y, and z by itself, fluctuate; `"anisotropic"` all of the cell: of an
    `OrthorhombicBox` its three edges, of a `TriclinicBox` the angles too. The measure of cells is dA dL_z of the first,
    dL_x dL_y dL_z of right angles, and V^-2 dh of all; each has dV, as isotropic coupling has, times one of shapes that
    no choice of units changes. A liquid does not hold the shape of its cell: it goes wherever chance leads it.

    The virial of centers of molecules fluctuates much less than that of atoms, and the kinetic energy of their
    velocities knows nothing of stiff bonds, for which velocities of finite time steps are too slow: with
    `scaling="atoms"` and water at 0.5 fs that costs some 40 bar.

    **Arguments:** `thermostat`, `LangevinBAOAB`, `CSVR` or another `AbstractFlowSampler`; `pressure` (kJ/mol/nm³, such
    as `1 * units.BAR`); `period` τ (ps); `compressibility` κ (nm³ mol/kJ), by default that of water, 4.5e-5/bar, only
    the ratio κ/τ counts; `every`, time steps between two moves; `coupling`; `scaling`, of the centers of "molecules"
    (every atom by itself where the topology has none) or of "atoms".

    **Errors:** `TypeError` for another thermostat; `ValueError` for a pressure that is not finite, numbers that are not
    positive, other words, and a `num_steps` of the thermostat that is no multiple of `every`; when sampling, for an
    open box, and `SimulationError` for molecules that are not in one piece, and when a cell shrinks below twice the
    cutoff: with the `chains` to go on from.

    **Reference:** M. Bernetti and G. Bussi, J. Chem. Phys. 153, 114107 (2020); V. Del Tatto et al., Appl. Sci. 12, 1139
    (2022).
    """

    thermostat: AbstractFlowSampler = checked(_thermostat())
    pressure: Parameter = finite("kJ/mol/nm³")
    period: Parameter = checked(positive("ps"), kw_only=True, default=1.0)
    compressibility: Parameter = checked(positive("nm³ mol/kJ"), kw_only=True, default=_WATER)
    every: int = checked(count(), static=True, kw_only=True, default=20)
    coupling: str = checked(
        one_of("isotropic", "semi-isotropic", "anisotropic"), static=True, kw_only=True, default="isotropic"
    )
    scaling: str = checked(one_of("molecules", "atoms"), static=True, kw_only=True, default="molecules")

    def __check_init__(self):
        self.require_steps()

    def first_size(self):
        return None

    def after_round(self, cell):
        return cell

    def look(self, system, state, groups):
        x, volume = state.positions, state.box.volume.astype(state.positions.dtype)
        cast = lambda value: value.astype(x.dtype)
        kT = self.ensemble.thermal_energy(x)
        potential, slope = energy_and_slope(system, state, groups, self._diagonal(state.box))
        v, masses = groups.centers(state.velocities), groups.masses
        # written as a sum: a matrix product may run in lower precision on a GPU
        kinetic = jnp.sum(masses[:, None, None] * v[:, :, None] * v[:, None, :], axis=0)
        free = kT * jnp.eye(3, dtype=x.dtype) if self.thermostat.at_rest else 0.0
        excess = (kinetic - slope + free) / volume - cast(self.pressure) * jnp.eye(3, dtype=x.dtype)
        rate = cast(self.compressibility) / (3 * cast(self.period)) * self.every * cast(self.thermostat.dt)
        energy = 0.5 * jnp.trace(kinetic) + potential + cast(self.pressure) * volume
        drift = self._projected(rate * excess, state.box)
        return Look(-energy / kT, volume, drift, jnp.sqrt(2 * rate * kT / volume))

    def draw(self, before, size, box, key):
        del size
        noise = jax.random.normal(key, (3, 3), before.volume.dtype)
        return before.drift + before.spread * self._projected(noise, box)

    def strained(self, state, strain, groups):
        flow = Deformation(strain)
        x, v, box = flow.apply(0.0, (state.positions, state.velocities, state.box), groups, 1.0)
        return State(x, v, box, state.bath)

    def log_ratio(self, before, after, strain, groups, box):
        del groups
        # at fixed scaled positions and momenta the volume has dV exp(-H/kT), which is V d ln V; one V more where the
        # momenta of all together are none, and so have not shrunk as much as the positions have grown
        measure = (2 if self.thermostat.at_rest else 1) * jnp.log(after.volume / before.volume)
        there, back = ((before, strain), (after, -strain))
        return measure + self._log_probability(*back, box) - self._log_probability(*there, box)

    def _log_probability(self, look, strain, box):
        free = {"isotropic": 1, "semi-isotropic": 2, "anisotropic": 3 if self._diagonal(box) else 6}[self.coupling]
        return -0.5 * jnp.sum(((strain - look.drift) / look.spread) ** 2) - free * jnp.log(look.spread)

    def _diagonal(self, box):
        return self.coupling != "anisotropic" or isinstance(box, OrthorhombicBox)

    def _projected(self, strain, box):
        """What of a strain the coupling leaves: orthogonally, so that noise stays of the same variance in all that is
        free."""
        if not self._diagonal(box):
            return 0.5 * (strain + strain.T)
        d = jnp.diag(strain)
        if self.coupling == "isotropic":
            d = jnp.broadcast_to(jnp.mean(d), 3)
        elif self.coupling == "semi-isotropic":
            d = jnp.stack([jnp.mean(d[:2]), jnp.mean(d[:2]), d[2]])
        return jnp.diag(d)


class MonteCarloBarostat(AbstractBarostat):
    """Constant pressure by Monte Carlo of the volume.

    A change of ln V is tried, with the centers of M molecules scaled, and accepted with the probability
    min(1, exp(-(ΔU + p ΔV)/kT + (M + 1) ln(V'/V))).

    Changes are uniform within ± `size`, hence M + 1; were those of V uniform, it would be M. It needs no virial and
    leaves the velocities alone. Of the first `adapt` rounds of every chain (samples that it gives), the size is changed
    after each, to half of all moves accepted: take these as equilibration. From then on it stays, and so the
    distribution is right. It is in `Chains.cell`, with the acceptance, and so chains go on exactly.

    **Arguments:** `thermostat`, `pressure`, `every`, `scaling` as for `StochasticCellRescaling`; `size`, the largest
    change of ln V at first; `adapt`, for how many rounds it is adapted: 0 keeps what is given.

    **Errors:** as for `StochasticCellRescaling`.

    **Reference:** K.-H. Chow and D. M. Ferguson, Comput. Phys. Commun. 91, 283 (1995); J. Åqvist et al., Chem. Phys.
    Lett. 384, 288 (2004).
    """

    thermostat: AbstractFlowSampler = checked(_thermostat())
    pressure: Parameter = finite("kJ/mol/nm³")
    every: int = checked(count(), static=True, kw_only=True, default=20)
    size: Parameter = checked(positive("of ln V"), kw_only=True, default=0.02)
    adapt: int = checked(count(0), static=True, kw_only=True, default=10)
    scaling: str = checked(one_of("molecules", "atoms"), static=True, kw_only=True, default="molecules")

    def __check_init__(self):
        self.require_steps()

    def first_size(self):
        return self.size

    def after_round(self, cell):
        due = cell.rounds < self.adapt
        # twice as many accepted as wanted, twice the size
        size = cell.size * jnp.clip(2 * cell.acceptance, 0.5, 2.0).astype(cell.size.dtype)
        none = jnp.zeros_like(cell.tried)
        anew = CellMoves(none, none, cell.rounds, jnp.minimum(size, 1.0))
        return jax.tree.map(lambda a, b: jnp.where(due, a, b), anew, cell)

    def look(self, system, state, groups):
        del groups
        energy = system.potential_energy(state.positions, state.box)
        return Look(-self.ensemble.reduced(energy, state.box), state.box.volume.astype(state.positions.dtype))

    def draw(self, before, size, box, key):
        del box
        dtype = before.volume.dtype
        change = size * jax.random.uniform(key, (), dtype, -1.0, 1.0)
        return change / 3 * jnp.eye(3, dtype=dtype)

    def strained(self, state, strain, groups):
        x, _, box = Deformation(strain).apply(0.0, (state.positions, state.velocities, state.box), groups, 1.0)
        return State(x, state.velocities, box, state.bath)

    def log_ratio(self, before, after, strain, groups, box):
        del before, after, box
        return (groups.number + 1) * jnp.trace(strain)
