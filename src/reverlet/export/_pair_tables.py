"""Pair potentials as numbers."""

import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._misc import cast_floats, is_concrete, require_constant, require_count, require_instance, require_positive
from .._potential import (
    AbstractCharges,
    AbstractPairPotential,
    AbstractPotential,
    AbstractSpeciesPairPotential,
    Excluding,
    Scaled,
    Sum,
    TailCorrected,
    parts_of,
)
from .._potential._tail import looks_at_indices

_MOST_KINDS = 8


class PairTable(NamedTuple):
    """Of two kinds of atoms, at equally spaced distances."""

    kinds: tuple[int, int]
    r: Float[np.ndarray, " points"]
    """nm."""
    energy: Float[np.ndarray, " points"]
    """kJ/mol, truncated."""
    force: Float[np.ndarray, " points"]
    """-du/dr, kJ/mol/nm."""
    curvature: Float[np.ndarray, " points"]
    """d²u/dr², kJ/mol/nm²."""


def require_tabulable(potential: AbstractPotential, host: str) -> AbstractPairPotential:
    """Refuses what is no formula for one pair of a few kinds of atoms, with what to do instead."""
    require_instance("potential", potential, AbstractPotential)
    wanted = "wanted a pair potential, such as `LennardJones`"
    name = type(potential).__name__
    if parts_of(potential, AbstractCharges):
        raise ValueError(f"`{name}` has charges, which no table of pairs holds; {wanted}. {host} sums charges itself.")
    if isinstance(potential, Sum | Scaled):
        raise ValueError(f"A `{name}` has no table; {wanted}: write its parts one by one.")
    if isinstance(potential, TailCorrected):
        raise ValueError(f"A table ends at the cutoff; {wanted}: give `.potential`. {host} has tail corrections.")
    if isinstance(potential, Excluding):
        raise ValueError(f"A table does not know which pairs are excluded; {wanted}: give `.potential`, and name them.")
    if not isinstance(potential, AbstractPairPotential):
        raise ValueError(
            f"`{name}` is no sum over pairs, of which a table could be made; {wanted}. Any potential runs in ASE"
            " (`rv.ASECalculator`), in i-PI (`rv.export.ipi_driver`) and in OpenMM (`rv.openmm.python_force`)."
        )
    if not is_concrete(potential):
        raise ValueError("`potential` is traced; wanted known numbers: export it outside of `jax.jit`.")
    species = isinstance(potential, AbstractSpeciesPairPotential)
    if not species and looks_at_indices(potential, jnp.result_type(float)):
        raise ValueError(f"`{name}` has parameters for every atom; wanted a few kinds of atoms, by `species`.")
    return potential


def num_kinds(potential: AbstractPairPotential) -> int:
    """How many kinds of atoms a potential tells apart."""
    if not isinstance(potential, AbstractSpeciesPairPotential) or potential.species is None:
        return 1
    num = potential.num_species
    if num > _MOST_KINDS:
        raise ValueError(
            f"`{type(potential).__name__}` has {num} species; wanted at most {_MOST_KINDS}, since every two of them"
            " have a table."
        )
    return num


def grid(potential: AbstractPairPotential, nearest: float, num_points: int) -> Float[np.ndarray, " points"]:
    """Distances from `nearest` to the cutoff, nm."""
    require_constant("nearest", nearest)
    require_positive("nearest", nearest, "nm")
    require_count("num_points", num_points, least=100)
    if nearest >= potential.cutoff:
        raise ValueError(f"`nearest` is {nearest} nm; wanted less than the cutoff, {potential.cutoff} nm.")
    return np.linspace(nearest, potential.cutoff, num_points)


def pair_tables(potential: AbstractPairPotential, r: Float[np.ndarray, " points"]) -> list[PairTable]:
    """Of every two kinds, in double precision."""
    num = num_kinds(potential)
    pairs = [(a, b) for a in range(num) for b in range(a, num)]
    with jax.enable_x64(True):
        exact = cast_floats(potential, jnp.float64)
        if isinstance(exact, AbstractSpeciesPairPotential) and exact.species is not None:
            exact = eqx.tree_at(lambda p: p.species, exact, jnp.arange(num))

        def of_pair(i, j):
            formula = lambda s: exact.pair_energy(s, i, j)
            u = lambda r: exact.truncation.truncate(formula, r * r, exact.cutoff)
            slope = jax.grad(u)
            return jax.vmap(lambda r: (u(r), -slope(r), jax.grad(slope)(r)))(jnp.asarray(r))

        first, second = jnp.asarray(pairs).T
        numbers = [np.asarray(x) for x in jax.jit(jax.vmap(of_pair))(first, second)]
    for x in numbers[:2]:
        if not np.all(np.isfinite(x)):
            where = r[np.argmax(~np.all(np.isfinite(x), axis=0))]
            raise ValueError(f"The energy is not finite at {where:.4g} nm; wanted a larger `nearest`.")
    return [PairTable(kinds, r, *(x[k] for x in numbers)) for k, kinds in enumerate(pairs)]


def warn_of_jump(tables: list[PairTable], host: str) -> None:
    """Says what a plain cutoff means in a table."""
    jump = max(abs(float(table.energy[-1])) for table in tables)
    if jump > 0:
        warnings.warn(
            f"The energy jumps by {jump:.3g} kJ/mol at the cutoff, as it does here: dynamics in {host} will not"
            " conserve it either, and what the cutoff leaves out (`TailCorrected`) is not in the table. A"
            " `SmoothSwitch` has no jump.",
            stacklevel=3,
        )
