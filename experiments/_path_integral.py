"""Nuclei as ring polymers: what their quantum motion does to vibrations, which a classical fit must not absorb."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import reverlet as rv

Beads = Float[Array, "beads atoms 3"]


@dataclasses.dataclass(frozen=True)
class RingPolymers:
    """Thermostatted ring-polymer dynamics, in normal modes of the free ring polymer.

    Every mode but the centroid has a Langevin thermostat of friction ω_k, half of what damps it critically, whose
    spurious resonances with vibrations are smallest; the centroid has one of `friction` (1/ps), or none. At most `dt`
    (ps).

    **Reference:** M. Ceriotti, M. Parrinello, T. E. Markland and D. E. Manolopoulos, J. Chem. Phys. 133, 124104 (2010);
    M. Rossi, M. Ceriotti and D. E. Manolopoulos, J. Chem. Phys. 140, 234116 (2014).
    """

    masses: Float[Array, " atoms"]
    temperature: float
    beads: int
    dt: float
    friction: float = 0.0

    @functools.cached_property
    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies (1/ps) of the free ring polymer, and its modes as columns; the centroid is the first."""
        ring = 2 * np.eye(self.beads) - np.roll(np.eye(self.beads), 1, 0) - np.roll(np.eye(self.beads), -1, 0)
        values, vectors = np.linalg.eigh(ring)
        highest = self.beads * rv.units.BOLTZMANN * self.temperature / rv.units.HBAR
        return highest * np.sqrt(np.maximum(values, 0) * (np.arange(self.beads) > 0)), vectors

    def at_rest_in(self, positions: Float[Array, "atoms 3"], key: PRNGKeyArray) -> tuple[Beads, Beads]:
        """Ring polymers without extension about a configuration, with velocities of their temperature."""
        x = jnp.broadcast_to(positions, (self.beads, *positions.shape))
        return x, self._thermal(x) * jax.random.normal(key, x.shape, x.dtype)

    def _thermal(self, like):
        """How fast beads are, at the temperature times their number."""
        spread = self.beads * rv.units.BOLTZMANN * self.temperature / self.masses.astype(like.dtype)
        return jnp.sqrt(spread)[:, None]

    def follow(
        self, forces: Callable[[Beads], Beads], x: Beads, v: Beads, steps: int, save_every: int, key: PRNGKeyArray
    ) -> tuple[Beads, Beads, Beads, Beads]:
        """So many steps of OBABO.

        **Returns:** positions and velocities at the end, and of every `save_every` steps positions of all beads and
        velocities of the centroids.
        """
        omega, vectors = self.modes
        column = lambda y: jnp.asarray(y, x.dtype)[:, None, None]
        to_modes = lambda y: jnp.einsum("bk,bai->kai", jnp.asarray(vectors, x.dtype), y, precision="highest")
        to_beads = lambda y: jnp.einsum("bk,kai->bai", jnp.asarray(vectors, x.dtype), y, precision="highest")
        cos, sin = column(np.cos(omega * self.dt)), np.sin(omega * self.dt)
        over = column(np.where(omega > 0, sin / np.where(omega > 0, omega, 1), self.dt))
        keep = np.exp(-0.5 * self.dt * np.where(np.arange(self.beads) > 0, omega, self.friction))
        stay, noise = column(keep), column(np.sqrt(1 - keep**2))
        inverse = 1 / self.masses.astype(x.dtype)[:, None]

        def thermostat(v, key):
            return stay * v + noise * self._thermal(x) * jax.random.normal(key, v.shape, v.dtype)

        def step(carry, key):
            q, v, force = carry  # in normal modes
            keys = jax.random.split(key)
            v = thermostat(v, keys[0]) + 0.5 * self.dt * inverse * force
            q, v = cos * q + over * v, cos * v - column(omega * sin) * q
            force = to_modes(forces(to_beads(q)))
            v = thermostat(v + 0.5 * self.dt * inverse * force, keys[1])
            return (q, v, force), None

        def frame(carry, key):
            carry, _ = jax.lax.scan(step, carry, jax.random.split(key, save_every))
            q, v, _ = carry
            return carry, (to_beads(q), v[0] * float(np.sign(vectors[0, 0])) / np.sqrt(self.beads))

        start = to_modes(x), to_modes(v), to_modes(forces(x))
        (q, v, _), (positions, centroids) = jax.lax.scan(frame, start, jax.random.split(key, steps // save_every))
        return to_beads(q), to_beads(v), positions, centroids
