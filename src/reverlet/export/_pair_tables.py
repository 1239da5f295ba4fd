"""Pair potentials as numbers."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .. import units
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
    TemperatureDependent,
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


class PairSum(NamedTuple):
    """What a potential is a sum of: factors, and formulas for pairs."""

    terms: tuple[tuple[float, AbstractPairPotential], ...]
    species: Int[np.ndarray, " atoms"] | None
    num_kinds: int
    """How many kinds of atoms are told apart."""

    @property
    def name(self) -> str:
        return " + ".join(type(p).__name__ for _, p in self.terms)

    @property
    def cutoff(self) -> float:
        return max(p.cutoff for _, p in self.terms)


def require_tabulable(potential: AbstractPotential, host: str) -> PairSum:
    """Refuses what is no formula for one pair of a few kinds of atoms, nor a sum of such, with what to do instead."""
    require_instance("potential", potential, AbstractPotential)
    if not is_concrete(potential):
        raise ValueError("`potential` is traced; wanted known numbers: export it outside of `jax.jit`.")
    if parts_of(potential, AbstractCharges):
        name = type(potential).__name__
        raise ValueError(f"`{name}` has charges, which no table of pairs holds; {_WANTED}. {host} sums charges itself.")
    terms = tuple(_terms(potential, host))
    if not terms:
        raise ValueError(f"The sum has no part; {_WANTED}.")
    kinds = [p for _, p in terms if isinstance(p, AbstractSpeciesPairPotential) and p.species is not None]
    species = [np.asarray(p.species) for p in kinds]
    if any(not np.array_equal(own, species[0]) for own in species):
        raise ValueError(
            f"Parts of the sum have other `species` of the same atoms; {_WANTED} that tell atoms apart alike."
        )
    num = min((p.num_species for p in kinds), default=1)
    if num > _MOST_KINDS:
        raise ValueError(
            f"`{type(kinds[0]).__name__}` has {num} species; wanted at most {_MOST_KINDS}, since every two of them have"
            " a table."
        )
    found = PairSum(terms, species[0] if kinds else None, num)
    for _, part in terms:
        if part.cutoff < found.cutoff:
            ends = pair_tables(PairSum(((1.0, part),), found.species, num), np.array([part.cutoff]))
            jump = max(abs(float(table.energy[0])) for table in ends)
            if jump > 1e-9:
                raise ValueError(
                    f"The energy of `{type(part).__name__}` jumps by {jump:.3g} kJ/mol at its cutoff of {part.cutoff}"
                    f" nm, inside of a table that ends at {found.cutoff} nm; wanted the same cutoff for all parts, or"
                    " a `SmoothSwitch`."
                )
    return found


_WANTED = "wanted a pair potential, such as `LennardJones`, or a sum of them"


def _terms(potential: AbstractPotential, host: str) -> Iterator[tuple[float, AbstractPairPotential]]:
    name = type(potential).__name__
    if isinstance(potential, Sum):
        for part in potential.parts:
            yield from _terms(part, host)
    elif isinstance(potential, Scaled):
        for factor, part in _terms(potential.potential, host):
            yield potential.factor * factor, part
    elif isinstance(potential, TemperatureDependent):
        yield from _terms(potential.energy_part, host)
        for factor, part in _terms(potential.entropy_part, host):
            yield -units.BOLTZMANN * float(potential.temperature) * factor, part
    elif isinstance(potential, TailCorrected):
        raise ValueError(f"A table ends at the cutoff; {_WANTED}: give `.potential`. {host} has tail corrections.")
    elif isinstance(potential, Excluding):
        raise ValueError(
            f"A table does not know which pairs are excluded; {_WANTED}: give `.potential`, and name them."
        )
    elif not isinstance(potential, AbstractPairPotential):
        raise ValueError(
            f"`{name}` is no sum over pairs, of which a table could be made; {_WANTED}. Any potential runs in ASE"
            " (`rv.ASECalculator`), in i-PI (`rv.export.ipi_driver`) and in OpenMM (`rv.openmm.python_force`)."
        )
    else:
        species = isinstance(potential, AbstractSpeciesPairPotential)
        if not species and looks_at_indices(potential, jnp.result_type(float)):
            raise ValueError(f"`{name}` has parameters for every atom; wanted a few kinds of atoms, by `species`.")
        yield 1.0, potential


def grid(potential: PairSum, nearest: float, num_points: int) -> Float[np.ndarray, " points"]:
    """Distances from `nearest` to the cutoff, nm."""
    require_constant("nearest", nearest)
    require_positive("nearest", nearest, "nm")
    require_count("num_points", num_points, least=100)
    if nearest >= potential.cutoff:
        raise ValueError(f"`nearest` is {nearest} nm; wanted less than the cutoff, {potential.cutoff} nm.")
    return np.linspace(nearest, potential.cutoff, num_points)


def pair_tables(potential: PairSum, r: Float[np.ndarray, " points"]) -> list[PairTable]:
    """Of every two kinds, in double precision."""
    num = potential.num_kinds
    pairs = [(a, b) for a in range(num) for b in range(a, num)]
    with jax.enable_x64(True):
        terms = [(factor, _of_kinds(cast_floats(part, jnp.float64), num)) for factor, part in potential.terms]

        def of_pair(i, j):
            def u(r):
                total = jnp.zeros(())
                for factor, part in terms:
                    formula = lambda s, part=part: part.pair_energy(s, i, j)
                    within = r <= part.cutoff
                    x = jnp.where(within, r, part.cutoff)  # `minimum` would have half a slope at the cutoff
                    energy = part.truncation.truncate(formula, x * x, part.cutoff)
                    total = total + jnp.where(within, factor * energy, 0)
                return total

            slope = jax.grad(u)
            return jax.vmap(lambda r: (u(r), -slope(r), jax.grad(slope)(r)))(jnp.asarray(r))

        first, second = jnp.asarray(pairs).T
        numbers = [np.asarray(x) for x in jax.jit(jax.vmap(of_pair))(first, second)]
    for x in numbers[:2]:
        if not np.all(np.isfinite(x)):
            where = r[np.argmax(~np.all(np.isfinite(x), axis=0))]
            raise ValueError(f"The energy is not finite at {where:.4g} nm; wanted a larger `nearest`.")
    return [PairTable(kinds, r, *(x[k] for x in numbers)) for k, kinds in enumerate(pairs)]


def _of_kinds(potential: AbstractPairPotential, num: int) -> AbstractPairPotential:
    """The same, of one atom of each kind."""
    if isinstance(potential, AbstractSpeciesPairPotential) and potential.species is not None:
        return eqx.tree_at(lambda p: p.species, potential, jnp.arange(num))
    return potential


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
