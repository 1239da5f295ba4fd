"""Dynamics at constant temperature, deterministic and reversible."""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import units
from .._bath import Bath
from .._fields import AbstractChecked, OptionalParameter, Parameter, Rule, checked, count, optional, positive
from .._misc import as_count, require_shape
from ._flows import AbstractFlow, Drift, Kick
from ._roles import AbstractThermostattedSolver
from ._staged import AbstractStagedSolver, Stage
from ._terms import ConservativeTerm

_Y3 = 1 / (2 - 2 ** (1 / 3))
_Y5 = 1 / (4 - 4 ** (1 / 3))
_Y7 = (0.784513610477560, 0.235573213359357, -1.17767998417887)
_SUZUKI_YOSHIDA = {
    1: (1.0,),
    3: (_Y3, 1 - 2 * _Y3, _Y3),
    5: (_Y5, _Y5, 1 - 4 * _Y5, _Y5, _Y5),
    7: (*_Y7, 1 - 2 * math.fsum(_Y7), *reversed(_Y7)),
}


class ThermostatChain(AbstractFlow):
    """The thermostats of a `NoseHooverChain` and the velocities that they scale, at constant positions.

    Every part is a shift or a scaling by what it does not change, in an order that reads the same forward and backward:
    `-h` undoes it.
    """

    thermal_energy: Float[Array, ""]
    """kT, kJ/mol."""
    thermostats: Callable[[int, Any], Float[Array, " chain"]]
    """Their masses, kJ/mol ps², for so many degrees of freedom and a dtype."""
    masses: Callable[[PyTree], Array]
    """Of the atoms, u, from the args of the terms."""
    num_fixed: int = eqx.field(static=True)
    parts: tuple[float, ...] = eqx.field(static=True)
    """As which parts of it a time is gone through."""

    def apply(self, t, y, args, h):
        del t
        x, v, bath = y
        masses, dtype = self.masses(args), bath.velocities.dtype
        twice = functools.reduce(jnp.add, [jnp.sum(masses * leaf**2) for leaf in jax.tree.leaves(v)])
        freedom = sum(leaf.size for leaf in jax.tree.leaves(v)) - self.num_fixed
        kt, q = self.thermal_energy.astype(dtype), self.thermostats(freedom, dtype)
        # one number for every thermostat: scalars the compiler computes all in one go
        numbers = lambda a: [a[k] for k in range(len(q))]
        chain = (jnp.ones((), dtype), numbers(bath.positions), numbers(bath.velocities))
        go = functools.partial(_one_part, kt, numbers(q), freedom, twice)
        if len(self.parts) <= 7:
            for part in self.parts:
                chain = go(chain, part * h)
        else:
            chain, _ = jax.lax.scan(lambda c, d: (go(c, d), None), chain, jnp.asarray(self.parts, dtype) * h)
        scale, positions, velocities = chain
        return x, jax.tree.map(lambda v: scale * v, v), Bath(jnp.stack(positions), jnp.stack(velocities))


def _one_part(kt, q, freedom, twice, chain, h):
    """From the last thermostat to the first, which scales the velocities, and back. `twice` the kinetic energy is that
    of the velocities that `scale` is to multiply."""
    scale, eta, speed = chain
    speed, last = list(speed), len(q) - 1

    def pull(k, scale):
        driven = scale**2 * twice - freedom * kt if k == 0 else q[k - 1] * speed[k - 1] ** 2 - kt
        drag = jnp.exp(-0.25 * h * speed[k + 1]) if k < last else jnp.ones_like(h)
        speed[k] = drag * (drag * speed[k] + 0.5 * h * driven / q[k])

    for k in range(last, -1, -1):
        pull(k, scale)
    scale = scale * jnp.exp(-h * speed[0])
    eta = [e + h * s for e, s in zip(eta, speed, strict=True)]
    for k in range(last + 1):
        pull(k, scale)
    return scale, eta, speed


def _parts() -> Any:
    def require(name, parts):
        if isinstance(parts, bool) or not isinstance(parts, int) or parts not in _SUZUKI_YOSHIDA:
            raise ValueError(f"`{name}` is {parts!r}; wanted 1, 3, 5 or 7.")

    return Rule(as_count, require)


class NoseHooverChain(AbstractStagedSolver, AbstractThermostattedSolver, AbstractChecked):
    """Velocity Verlet with a chain of Nosé–Hoover thermostats: constant temperature, without noise.

    The first thermostat drags the atoms, each of the others the one before it:

        dv/dt = F/m - η̇₁ v;  Q₁ η̈₁ = Σ m v² - N_f kT - Q₁ η̇₁ η̇₂;
        Q_k η̈_k = Q_{k-1} η̇²_{k-1} - kT - Q_k η̇_k η̇_{k+1}

    A step is half a step of the thermostats, a step of velocity Verlet, and half a step of the thermostats. Positions
    are distributed as in the canonical ensemble, if the motion is ergodic: one thermostat alone is not enough for stiff
    or small systems. Second order, time-reversible, one evaluation of the force per step; not symplectic. Gradients
    reach `temperature`, `period` or `masses`, and the thermostats' variables, which are `state.bath`: at rest where a
    trajectory starts without, and in `Trajectory.final`, to go on from exactly.

    Not for time correlations, which the thermostats change: run those with `VelocityVerlet` from its samples.

    Under plain Diffrax `y0` is (positions, velocities, bath), with a term for each, (drift, `rv.ConservativeTerm`,
    `solver.bath_term()`).

    **Arguments:** `temperature`, K. `period` (ps), how fast the thermostats swing, or their `masses` (kJ/mol ps²), one
    for each: a period is Q₁ = N_f kT (period/2π)² and Q_k = kT (period/2π)². `length`, how many thermostats.
    `suzuki_yoshida`, 1, 3, 5 or 7, in how many parts their own step is made, and `num_substeps`, how often.
    `num_fixed`, the degrees of freedom that do not move: N_f = 3N - num_fixed. Three, as the center of mass is at
    rest with the forces of a liquid and velocities of `maxwell_boltzmann`; 0 in an external field.

    **Errors:** `ValueError` for what is not positive, for both or none of `period` and `masses`, and other numbers of
    parts; `TypeError` for a kick that is no `ConservativeTerm`, which knows the masses of the atoms.

    **Reference:** G. J. Martyna, M. E. Tuckerman, D. J. Tobias and M. L. Klein, Mol. Phys. 87, 1117 (1996).
    """

    temperature: Parameter = positive("K")
    period: OptionalParameter = checked(optional(positive("ps")), default=None)
    masses: OptionalParameter = checked(optional(positive("kJ/mol ps²")), default=None, kw_only=True)
    length: int = checked(count(), static=True, default=3, kw_only=True)
    suzuki_yoshida: int = checked(_parts(), static=True, default=3, kw_only=True)
    num_substeps: int = checked(count(), static=True, default=1, kw_only=True)
    num_fixed: int = checked(count(0), static=True, default=3, kw_only=True)

    term_structure: ClassVar = (diffrax.AbstractTerm, diffrax.AbstractTerm, diffrax.AbstractTerm)

    def __check_init__(self):
        require_shape("temperature", self.temperature, ())
        if (self.period is None) == (self.masses is None):
            raise ValueError(
                f"`period` is {self.period} and `masses` are {self.masses}; wanted one of them, such as"
                " `period=0.5` ps."
            )
        if self.period is not None:
            require_shape("period", self.period, ())
        if self.masses is not None:
            require_shape("masses", self.masses, (self.length,), "One for every thermostat of the chain.")

    def order(self, terms):
        del terms
        return 2

    def stages(self):
        return [Stage(2, 0.5), Stage(1, 0.5), Stage(0, 1.0), Stage(1, 0.5), Stage(2, 0.5)]

    def kick_flows(self):
        return frozenset({1})

    def flows(self, terms):
        drift, kick, _ = terms
        n = self.num_substeps
        parts = tuple(w / n for w in _SUZUKI_YOSHIDA[self.suzuki_yoshida]) * n
        kt = units.BOLTZMANN * self.temperature
        chain = ThermostatChain(kt, self._thermostats, _masses_of(kick), self.num_fixed, parts)
        return Drift(drift), Kick(kick), chain

    def bath(self, dtype):
        return Bath(jnp.zeros(self.length, dtype), jnp.zeros(self.length, dtype))

    def bath_term(self):
        return diffrax.ODETerm(_resting)

    def require_bath(self, bath):
        if bath.velocities.shape[-1] != self.length:
            raise ValueError(
                f"`state.bath` has {bath.velocities.shape[-1]} thermostats; wanted {self.length}, as `length` of the"
                " solver. Leave `bath` out to start with thermostats at rest."
            )

    def conserved(self, system: Any, state: Any) -> Float[Array, ""]:
        """The energy of atoms and thermostats, kJ/mol, of a `System` and a `State`: constant but for the time step.

        K + U + Σ Q η̇²/2 + N_f kT η₁ + kT (η₂ + η₃ + …)
        """
        dtype = state.velocities.dtype
        freedom = state.velocities.size - self.num_fixed
        bath = self.bath(dtype) if state.bath is None else state.bath
        kt = (units.BOLTZMANN * self.temperature).astype(dtype)
        own = 0.5 * jnp.sum(self._thermostats(freedom, dtype) * bath.velocities**2)
        drawn = kt * (freedom * bath.positions[0] + jnp.sum(bath.positions[1:]))
        atoms = system.kinetic_energy(state.velocities) + system.potential_energy(state.positions, state.box)
        return atoms + own + drawn

    def _thermostats(self, freedom, dtype):
        if self.masses is not None:
            return self.masses.astype(dtype)
        assert self.period is not None
        kt = (units.BOLTZMANN * self.temperature).astype(dtype)
        counts = jnp.asarray([freedom] + [1] * (self.length - 1), dtype)
        return counts * kt * (self.period.astype(dtype) / (2 * math.pi)) ** 2


def _resting(t, bath, args):
    del t, args
    return jax.tree.map(jnp.zeros_like, bath)


def _masses_of(kick: Any) -> Callable[[PyTree], Array]:
    """Of the atoms, from the kick inside what Diffrax wraps it in."""
    while not isinstance(kick, ConservativeTerm):
        if not hasattr(kick, "term"):
            raise TypeError(
                f"`rv.NoseHooverChain` got a kick that is a `{type(kick).__name__}`; wanted an `rv.ConservativeTerm`,"
                " which knows the masses that kinetic energy takes."
            )
        kick = kick.term
    return kick.masses
