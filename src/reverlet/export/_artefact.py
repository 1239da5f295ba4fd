"""The compiled function alone, as StableHLO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._box import AbstractBox, OpenBox, OrthorhombicBox, TriclinicBox
from .._misc import is_concrete, require_count, require_instance
from .._potential import AbstractAtomIndexed, AbstractSpeciesPairPotential, parts_of
from .._state import State
from .._system import System
from ._card import ModelCard, write_file
from ._hosted import evaluate

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def save(
    path: str | Path,
    system: System,
    box: AbstractBox,
    *,
    vjp_order: int = 1,
    platforms: Sequence[str] = _PLATFORMS,
    card: ModelCard = ModelCard(),
) -> None:
    """Writes energy and forces as a function that JAX alone loads, without this library:

        exported = jax.export.deserialize(bytearray(open(path, "rb").read()))
        energy, forces = exported.call(positions, lengths)

    Of positions (batch, atoms, 3) in nm, and in an `OrthorhombicBox` lengths (batch, 3), in a `TriclinicBox` vectors
    (batch, 3, 3), in an `OpenBox` nothing more; to energies (batch,) in kJ/mol, forces (batch, atoms, 3) in kJ/mol/nm
    and, where the system has a dipole, moments (batch, 3) in e nm. Any batch; any number of atoms as well where these
    are all of one element and the potential is a formula for pairs or neighborhoods, otherwise that of the topology.
    The card beside it says which.

    Parameters are constants in it. The precision is JAX's default one here, and the program that loads it must allow
    it (`jax_enable_x64`). Nothing in it refuses a box smaller than twice the cutoff; with a search, the energy is NaN
    where its lists are too small. JAX keeps artefacts readable for at least six months; needs its optional package
    `flatbuffers` on both sides.

    **Arguments:** `box`, one of the kind that is meant; `vjp_order`, how often it can be differentiated by reverse
    mode; `platforms`, where it shall run.

    **Errors:** `ValueError` for a system or box that is traced, a system that does not fit the box, a folder that is
    not there, and an unknown platform; `ImportError` without `flatbuffers`.
    """
    require_instance("system", system, System)
    require_instance("box", box, AbstractBox)
    require_instance("card", card, ModelCard)
    require_count("vjp_order", vjp_order, least=0)
    if isinstance(platforms, str) or not platforms or not set(platforms) <= set(_PLATFORMS):
        raise ValueError(f"`platforms` is {platforms!r}; wanted some of {', '.join(_PLATFORMS)}, in a list.")
    if not is_concrete((system, box)):
        raise ValueError("`system` or `box` is traced; wanted known numbers: export it outside of `jax.jit`.")
    dtype = jnp.result_type(float)
    system.check_shape_and_cutoff(State(jnp.zeros((system.topology.num_atoms, 3), dtype), None, box))
    system, kind = system.astype(dtype), type(box)
    shapes = {OpenBox: [], OrthorhombicBox: ["3"], TriclinicBox: ["3, 3"]}
    if kind not in shapes:
        raise ValueError(f"`box` is a `{kind.__name__}`; wanted one of {', '.join(k.__name__ for k in shapes)}.")

    def one(positions, *walls):
        here = eqx.tree_at(lambda b: jax.tree.leaves(b), box, list(walls)) if walls else box
        out = evaluate(system, positions, here, False, system.dipole is not None)
        return tuple(x for x in (out.energy, out.forces, out.dipole) if x is not None)

    def exported(atoms: str) -> jax.export.Exported:
        sizes = ", ".join(["batch", atoms, "3"]), *(f"batch, {shape}" for shape in shapes[kind])
        scope = jax.export.SymbolicScope()
        arguments = [jax.ShapeDtypeStruct(jax.export.symbolic_shape(size, scope=scope), dtype) for size in sizes]
        return jax.export.export(jax.jit(jax.vmap(one)), platforms=tuple(platforms))(*arguments)

    num_atoms = str(system.topology.num_atoms)
    made: Any = None
    if _fits_any_number(system):
        try:
            made, atoms = exported("atoms"), "any number of"
        except Exception:  # of a function that wants to know the number; what else is wrong, the next lines say
            made = None
    if made is None:
        made, atoms = exported(num_atoms), num_atoms
    try:
        data = bytes(made.serialize(vjp_order=vjp_order))
    except ImportError as error:
        raise ImportError(
            "This needs the package `flatbuffers`, which is not installed; wanted `pip install flatbuffers`."
        ) from error
    write_file(Path(path), data)
    walls = {OpenBox: "", OrthorhombicBox: ", lengths (batch, 3) in nm", TriclinicBox: ", vectors (batch, 3, 3) in nm"}
    dipole = "" if system.dipole is None else ", dipoles (batch, 3) in e nm"
    card.write(
        path,
        system,
        export=f"a function of jax.export in {np.dtype(dtype)} for {', '.join(platforms)}: positions (batch, atoms, 3)"
        f" in nm{walls[kind]} to energies (batch,) in kJ/mol, forces (batch, atoms, 3) in kJ/mol/nm{dipole}, of {atoms}"
        f" atoms; reverse-mode derivatives up to order {vjp_order}",
    )


def _fits_any_number(system: System) -> bool:
    """Whether nothing in the system is of one number of atoms."""
    num = system.topology.num_atoms
    indexed = parts_of(system.potential, AbstractAtomIndexed)
    alike = all(isinstance(part, AbstractSpeciesPairPotential) and part.species is None for part in indexed)
    entries = any(num in np.shape(x) for x in jax.tree.leaves(system.potential))
    one_kind = len(set(system.topology.elements)) == 1
    return alike and one_kind and not entries and system.dipole is None and system.search is None
