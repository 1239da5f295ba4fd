"""Energies of jax-md, with its own neighbor lists."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._box import AbstractBox, OpenBox
from .._fields import checked, function, optional, positive_number
from .._misc import require_instance
from .._verdict import raise_if
from ._base import AbstractPotential
from ._function import require_energy


class JaxMDPotential(AbstractPotential):
    """An energy of jax-md with its neighbor list, `neighbor_fn, energy_fn`, as they are.

    Made by `JaxMDPotential.allocate`. jax-md's functions have no units: here they get nm and must return kJ/mol. The
    list is allocated once and belongs to the potential; wherever the energy is asked for, it is brought up to date
    from there, since an energy is a function of positions and of nothing else. That costs a search at every evaluation
    as soon as an atom is further than half of `dr_threshold` from where it was allocated. Lists that fill up, and cells
    that have become too small, end the run by a `SimulationError`. Atoms are wrapped into the box first, as jax-md's
    cells want.

    `neighbors` of reverlet's own are left unread.
    """

    energy_fn: Callable[..., Array] = checked(function("that of jax-md"), static=True)
    neighbor_fn: Any = eqx.field(static=True)
    parameters: dict[str, PyTree]
    """Given to `energy_fn` by name."""
    allocated: PyTree
    """The list of jax-md, as it was allocated."""
    box: AbstractBox
    """That for which `energy_fn` was made, where it takes real coordinates."""
    fractional: bool = eqx.field(static=True)
    cutoff: float | None = checked(optional(positive_number("nm")), static=True)

    @classmethod
    def allocate(
        cls,
        neighbor_fn: Any,
        energy_fn: Callable[..., Array],
        positions: Float[Array, "atoms 3"],
        box: AbstractBox,
        *,
        parameters: Mapping[str, PyTree] | None = None,
        fractional: bool = False,
        cutoff: float | None = None,
    ) -> "JaxMDPotential":
        """With a list that has room for these positions (nm).

        **Arguments:** `neighbor_fn` and `energy_fn`, as jax-md returns them; `parameters`, which `energy_fn` takes by
        name and which are trained, such as `{"sigma": 0.34}`; `fractional`, whether the functions were made for
        fractional coordinates: then they get the box as well, as columns, and any box will do, as will stress.
        Otherwise the energy is of this `box`, another is refused, and derivatives by the box are NaN; `cutoff`, nm, of
        the images that are taken, `None` in an open box.

        **Errors:** `TypeError` for what is not made as jax-md's functions are; `ValueError` for fractional coordinates
        in an open box, and where there is no cutoff in a periodic one.
        """
        require_instance("box", box, AbstractBox)
        for name in ("allocate", "update"):
            if not callable(getattr(neighbor_fn, name, None)):
                raise TypeError(
                    f"`neighbor_fn` has no `{name}`; wanted what jax-md returns beside an energy, in the order"
                    " `neighbor_fn, energy_fn = energy.lennard_jones_neighbor_list(…)`."
                )
        if isinstance(box, OpenBox) and fractional:
            raise ValueError("`fractional` is True in an `OpenBox`; wanted a periodic box, or real coordinates.")
        if not isinstance(box, OpenBox) and cutoff is None:
            raise ValueError("There is no `cutoff` in a periodic box; wanted the one of jax-md's functions, nm.")
        start, keywords = _in_box(positions, box, fractional)
        found = neighbor_fn.allocate(start, **keywords)
        parameters = {name: jax.tree.map(jnp.asarray, value) for name, value in (parameters or {}).items()}
        return cls(energy_fn, neighbor_fn, parameters, found, box, fractional, cutoff)

    def energy(self, positions, box, *, neighbors=None):
        if not self.fractional:
            positions = _only_in(self.box, positions, box)
        x, keywords = _in_box(positions, box, self.fractional)
        found = jax.lax.stop_gradient(self.allocated)
        found = self.neighbor_fn.update(*jax.lax.stop_gradient((x, found)), **jax.lax.stop_gradient(keywords))
        # `malformed_box` is set for boxes that are fine, in jax-md 0.2.29
        bad = jnp.asarray(found.did_buffer_overflow) != 0
        bad |= jnp.asarray(getattr(found, "cell_size_too_small", False)) != 0
        # of the positions, on which forces depend as well
        x = raise_if(bad, _describe_overflow, guard=x)
        energy = self.energy_fn(x, neighbor=found, **keywords, **self.parameters)
        require_energy("energy_fn", energy, positions.dtype)
        return energy


def _in_box(positions, box, fractional):
    """Positions as jax-md wants them, inside the box, and what is said of the box by name."""
    if isinstance(box, OpenBox):
        return positions, {}
    box = box.astype(positions.dtype)
    inside = box.wrap(positions)
    if not fractional:
        return inside, {}
    return _fractional(inside, box.vectors), {"box": box.vectors.T}


@jax.custom_jvp
def _fractional(positions, vectors):
    return jnp.matmul(positions, jnp.linalg.inv(vectors), precision=jax.lax.Precision.HIGHEST)


@_fractional.defjvp
def _fractional_jvp(primals, tangents):
    # jax-md takes derivatives by fractional coordinates for those by real ones
    positions, vectors = primals
    dx, dvectors = tangents
    fraction = jnp.matmul(positions, jnp.linalg.inv(vectors), precision=jax.lax.Precision.HIGHEST)
    return _fractional(positions, vectors), dx - jnp.matmul(fraction, dvectors, precision=jax.lax.Precision.HIGHEST)


def _only_in(made_for, positions, box):
    """The positions, in the one box that an energy was made for; their derivatives by the box are NaN."""
    wanted, vectors = made_for.vectors.astype(positions.dtype), box.vectors.astype(positions.dtype)
    other = jnp.any((vectors != wanted) & ~(jnp.isinf(vectors) & jnp.isinf(wanted)))
    return raise_if(other, _describe_box, vectors, wanted, guard=_without_slope(positions, vectors))


@jax.custom_jvp
def _without_slope(positions, vectors):
    del vectors
    return positions


def _without_slope_jvp(primals, tangents):
    dx, dvectors = tangents
    zero = jax.custom_derivatives.SymbolicZero
    slope = jnp.zeros_like(primals[0]) if isinstance(dx, zero) else dx
    if not isinstance(dvectors, zero):
        slope = slope + jnp.nan * jnp.sum(dvectors)
    return primals[0], slope


_without_slope.defjvp(_without_slope_jvp, symbolic_zeros=True)


def _describe_box(vectors, wanted):
    return (
        f"The box has the lattice vectors {vectors.tolist()} nm, but the functions of jax-md were made for"
        f" {wanted.tolist()} nm; wanted the same, or functions of fractional coordinates: `fractional=True`."
    )


def _describe_overflow():
    return (
        "The neighbor list of jax-md has no room for all neighbors, or its cells do not fit the box; wanted one that"
        " was allocated at denser positions, or with a larger `capacity_multiplier`."
    )
