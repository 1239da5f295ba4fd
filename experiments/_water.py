"""Liquid water: its force field in a box, and where its simulation starts: a packed box, or a file."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

import reverlet as rv

from ._errors import BadInput


def water(num: int, box: rv.AbstractBox, accuracy: float = 1e-4) -> rv.System:
    """q-SPC/Fw water with a cutoff of 0.9 nm, or what fits the box."""
    cutoff = min(0.9, 0.4999 * float(jnp.min(box.heights)))
    return rv.qspcfw(num, box, cutoff=cutoff, accuracy=accuracy)


def packed(num: int, density: float, key: PRNGKeyArray) -> rv.State:
    """So many molecules packed into a cube at the density (g/cm³), and relaxed."""
    molecule = rv.Topology.from_elements(["O", "H", "H"], bonds=[(0, 1), (0, 2)])
    half = np.radians(112 / 2)
    shape = 0.1 * jnp.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]], float)
    _, state = rv.pack(molecule, shape, num, density=density * rv.units.GRAM_PER_CUBIC_CENTIMETER, key=key)
    return rv.minimize(water(num, state.box), state, max_steps=1000).state


def read_structure(path: Path) -> rv.State:
    """The first configuration of a file, which has to be of water."""
    topology, state = rv.io.read_structure(path)
    if topology.elements != ("O", "H", "H") * (len(topology.elements) // 3):
        raise BadInput(
            f"The structure file {path} has atoms {', '.join(topology.elements[:6])}, ...; wanted molecules of water,"
            " each as O, H, H."
        )
    return state
