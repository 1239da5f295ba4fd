from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from . import units
from ._bath import Bath
from ._box import AbstractBox
from ._fields import AbstractChecked
from ._misc import (
    as_array,
    as_float_array,
    require_count,
    require_finite,
    require_flag,
    require_float,
    require_instance,
    require_key,
    require_positive,
    require_resolved,
    require_shape,
)
from ._topology import Topology


class State(AbstractChecked):
    """One configuration: what moves.

    Many configurations are one `State` whose arrays have leading axes; make it with
    `jax.vmap(lambda x, v: State(x, v, box))(positions, velocities)`, or of one configuration with `repeat`.

    **Arguments:** `positions` (nm, not wrapped into the box along a trajectory); `velocities` (nm/ps), `None` where
    they are not known, as in most files; `box`; `bath`, the variables of the thermostats that move with the atoms,
    where there are some.

    **Errors:** `ValueError` or `TypeError` for wrong shapes, dtypes, NaN and infinities, and for positions so far from
    the origin that their dtype cannot hold distances (float32: 512 nm, where numbers are 6e-5 nm apart).
    """

    positions: Float[Array, "atoms 3"]
    _velocities: Float[Array, "atoms 3"] | None
    box: AbstractBox
    bath: Bath | None

    def __init__(self, positions: ArrayLike, velocities: ArrayLike | None, box: AbstractBox, bath: Bath | None = None):
        self.positions = as_array(positions)
        self._velocities = None if velocities is None else as_array(velocities)
        self.box = box
        self.bath = bath
        require_float("positions", self.positions)
        hint = "One configuration; lift with `jax.vmap(lambda x, v: State(x, v, box))` for many."
        require_shape("positions", self.positions, (None, 3), hint)
        require_finite("positions", self.positions)
        require_resolved("positions", self.positions)
        if self._velocities is None:
            return
        require_float("velocities", self._velocities)
        require_shape("velocities", self._velocities, self.positions.shape, "The same as `positions`.")
        if self.positions.dtype != self._velocities.dtype:
            raise TypeError(
                f"`positions` are {self.positions.dtype} but `velocities` are {self._velocities.dtype}; wanted one"
                f" dtype."
                " Convert one: `velocities.astype(positions.dtype)`."
            )
        require_finite("velocities", self._velocities)

    # asked for by whoever needs them, so that nobody takes absent ones for zero; of any type, since trees that are like
    # a state hold other things too: `eqx.tree_at(lambda s: s.velocities, ...)`
    @property
    def velocities(self) -> Any:
        """Of shape `(..., atoms, 3)`, nm/ps. `ValueError` where they are not known."""
        if self._velocities is None:
            raise ValueError(
                "The state has no velocities, since the file it comes from has none; wanted some, such as"
                " `state.with_velocities(rv.maxwell_boltzmann(topology, 300.0, key=key))`."
            )
        return self._velocities

    def __str__(self) -> str:
        *many, atoms, _ = jnp.shape(self.positions)
        number = f"{' × '.join(map(str, many))} of " if many else ""
        return f"State({number}{atoms} atoms, {'with' if self.has_velocities else 'without'} velocities, {self.box})"

    @property
    def has_velocities(self) -> bool:
        """Whether they are known."""
        return self._velocities is not None

    def with_velocities(self, velocities: Float[Array, "*many atoms 3"]) -> "State":
        """The same configuration with others, nm/ps; also of many, whose arrays have leading axes.

        **Errors:** `ValueError` or `TypeError` for another shape or dtype than that of the positions.
        """
        require_shape("velocities", velocities, self.positions.shape, "The same as `positions`.")
        if velocities.dtype != self.positions.dtype:
            raise TypeError(f"`velocities` are {velocities.dtype}; wanted {self.positions.dtype}, as `positions` are.")
        return eqx.tree_at(lambda s: s._velocities, self, velocities, is_leaf=lambda x: x is None)

    def repeat(self, num: int) -> "State":
        """`num` copies of this configuration along a new leading axis, to start as many chains from.

        **Errors:** `ValueError` for a number less than one.
        """
        require_count("num", num)
        return jax.tree.map(lambda x: jnp.repeat(x[None], num, axis=0), self)


def center_of_mass(masses: Float[Array, " atoms"], values: Float[Array, "atoms 3"]) -> Float[Array, "3"]:
    """The mass-weighted mean of positions (nm) or velocities (nm/ps)."""
    # written as an elementwise sum: a matrix product may run in lower precision on a GPU
    return jnp.sum(masses[:, None] * values, axis=0) / jnp.sum(masses)


def relative_to_center_of_mass(topology: Topology, values: Float[Array, "atoms 3"]) -> Float[Array, "atoms 3"]:
    """Positions (nm) or velocities (nm/ps) without those of the center of mass; of one atom, which nothing but an outer
    field could hold, as they are."""
    if topology.num_atoms == 1:
        return values
    return values - center_of_mass(topology.masses.astype(values.dtype), values)


def maxwell_boltzmann(
    topology: Topology, temperature: ArrayLike, *, remove_center_of_mass: bool = True, key: PRNGKeyArray
) -> Float[Array, "atoms 3"]:
    """Velocities drawn from the Maxwell–Boltzmann distribution, nm/ps, in the dtype of the masses.

    With the motion of the center of mass removed (the default) they are exactly the distribution of a system at rest,
    with 3N-3 degrees of freedom; no rescaling is done, so the kinetic temperature fluctuates as it should. One atom
    keeps its velocity.

    **Arguments:** `temperature` in K.

    **Errors:** `ValueError` for a negative or non-finite temperature.
    """
    require_instance("topology", topology, Topology)
    require_flag("remove_center_of_mass", remove_center_of_mass)
    require_key("key", key)
    require_positive("temperature", temperature, "K", zero=True)
    masses = topology.masses
    thermal = jnp.sqrt(units.BOLTZMANN * as_float_array(temperature).astype(masses.dtype) / masses)
    velocities = thermal[:, None] * jax.random.normal(key, (topology.num_atoms, 3), masses.dtype)
    if remove_center_of_mass:
        velocities = relative_to_center_of_mass(topology, velocities)
    return velocities
