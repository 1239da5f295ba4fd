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

    Made by `JaxMDPotential.allocate`. jax-md's functions have no units: here they get nm and must return kJ/mol. They
    know the box from elsewhere: the energy is of that one, another is refused, and derivatives by the box, so the
    stress, are NaN. They must take real coordinates: in jax-md's fractional ones, second derivatives, which gradients
    of trajectories are made of, are wrong (0.2.29).

    The list is allocated once and belongs to the potential; wherever the energy is asked for, it is brought up to date
    from there, since an energy is a function of positions and of nothing else. That costs a search at every evaluation
    as soon as an atom is further than half of `dr_threshold` from where it was allocated. Lists that fill up, and cells
    that have become too small, end the run by a `SimulationError`. Atoms are wrapped into the box first, as jax-md's
    cells want. Lists of reverlet are left unread.
    """

    neighbor_fn: Any = eqx.field(static=True)
    parameters: dict[str, PyTree]
    """Given to `energy_fn` by name."""
    allocated: PyTree
    """The list of jax-md, as it was allocated."""
    box: AbstractBox
    """That for which the functions were made."""
    energy_fn: Callable[..., Array] = checked(function("that of jax-md"), static=True)
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
        cutoff: float | None = None,
    ) -> "JaxMDPotential":
        """With a list that has room for these positions (nm).

        **Arguments:** `neighbor_fn` and `energy_fn`, as jax-md returns them; the `box` that they were made for;
        `parameters`, which `energy_fn` takes by name and which are trained, such as `{"sigma": 0.34}`; `cutoff`, nm, of
        the images that are taken, `None` in an open box.

        **Errors:** `TypeError` for what is not made as jax-md's functions are; `ValueError` where there is no cutoff in
        a periodic box, and for an energy that is no scalar of the dtype of the positions.
        """
        require_instance("box", box, AbstractBox)
        for name in ("allocate", "update"):
            if not callable(getattr(neighbor_fn, name, None)):
                raise TypeError(
                    f"`neighbor_fn` has no `{name}`; wanted what jax-md returns beside an energy, in the order"
                    " `neighbor_fn, energy_fn = energy.lennard_jones_neighbor_list(…)`."
                )
        if not isinstance(box, OpenBox) and cutoff is None:
            raise ValueError("There is no `cutoff` in a periodic box; wanted the one of jax-md's functions, nm.")
        values = {name: jax.tree.map(jnp.asarray, value) for name, value in (parameters or {}).items()}
        allocated = neighbor_fn.allocate(_wrapped(positions, box))
        return cls(neighbor_fn, values, allocated, box, energy_fn, cutoff)

    def energy(self, positions, box, *, neighbors=None):
        x = _wrapped(_only_in(self.box, positions, box), box)
        found = self.neighbor_fn.update(*jax.lax.stop_gradient((x, self.allocated)))
        # not `malformed_box`, which is set for boxes that are fine, in jax-md 0.2.29
        bad = jnp.asarray(found.did_buffer_overflow) != 0
        bad |= jnp.asarray(getattr(found, "cell_size_too_small", False)) != 0
        # of the positions, on which forces depend as well
        x = raise_if(bad, _describe_overflow, guard=x)
        energy = self.energy_fn(x, neighbor=found, **self.parameters)
        require_energy("energy_fn", energy, positions.dtype)
        return energy


def _wrapped(positions, box):
    return box.astype(positions.dtype).wrap(positions)


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
        f" {wanted.tolist()} nm; wanted the same."
    )


def _describe_overflow():
    return (
        "The neighbor list of jax-md has no room for all neighbors, or its cells do not fit the box; wanted one that"
        " was allocated at denser positions, or with a larger `capacity_multiplier`."
    )
