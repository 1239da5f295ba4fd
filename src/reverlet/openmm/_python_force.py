"""Any potential of ours in OpenMM: called by it, or as a table."""

from pathlib import Path
from typing import Any

import numpy as np

from .._misc import require_count, require_flag, require_instance
from .._potential import AbstractPotential, Excluding, require_atoms
from .._system import System
from ..export._card import ModelCard
from ..export._hosted import Hosted
from ..export._pair_tables import grid, pair_tables, require_tabulable, warn_of_jump
from ._optional import number, require_openmm

_MARGIN = 16
"""Points of a table below its nearest distance: a natural spline is wrong at its ends, by a factor of 0.27 less with
every point."""


def python_force(
    system: System,
    *,
    periodic: bool = True,
    card: ModelCard = ModelCard(),
    card_beside: str | Path | None = None,
) -> Any:
    """The potential of a system, whatever it is, as an `openmm.PythonForce`.

    OpenMM calls it back at every step, on whatever platform; it is computed where JAX computes, in its default
    precision. Positions may come wrapped into the box, which the potential must not mind. OpenMM cannot write it to
    XML.

    **Arguments:** `periodic`, whether the box of OpenMM's context is meant, or none; `card`, which is written as
    `<card_beside>.card.json` if that is given.

    **Errors:** `ValueError` for a system that is traced; `ImportError` without OpenMM. While OpenMM runs: another
    number of atoms, boxes too small or too skewed, and energies that are not finite.
    """
    openmm = require_openmm()
    require_flag("periodic", periodic)
    require_instance("card", card, ModelCard)
    hosted = Hosted(system)
    if card_beside is not None:
        card.write(card_beside, system, export="called by OpenMM's PythonForce")

    def compute(state):
        positions = np.asarray(number(state.getPositions(asNumpy=True)), float)
        vectors = np.asarray(number(state.getPeriodicBoxVectors(asNumpy=True)), float) if periodic else None
        out = hosted(positions, vectors)
        return float(out.energy), np.asarray(out.forces, np.float64)

    force = openmm.PythonForce(compute)
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setName(f"reverlet {type(system.potential).__name__}")
    return force


def tabulated_pair(
    potential: AbstractPotential,
    num_atoms: int,
    *,
    nearest: float,
    num_points: int = 2000,
    periodic: bool = True,
    card: ModelCard = ModelCard(),
    card_beside: str | Path | None = None,
) -> Any:
    """A pair potential or a sum of them, whatever formulas and truncations, as an `openmm.CustomNonbondedForce` with a
    table for every two species.

    OpenMM goes from point to point by cubic splines, natural ones, with an error of at most 5/384 h⁴ max|u⁗| for a
    spacing h, and at the cutoff of h²|u″| / 15 in the last intervals. Below `nearest` the energy goes on along its
    tangent, so that atoms are still pushed apart. Pairs of an `Excluding` are excluded.

    **Arguments:** `num_atoms` of the system; `nearest`, where the table begins, nm; `num_points` from there to the
    cutoff; `periodic`, whether images count; `card` and `card_beside` as for `python_force`.

    **Warns:** (`UserWarning`) where the energy jumps at the cutoff, as at a plain one.

    **Errors:** `ValueError` for what is no pair potential of a few kinds of atoms, another number of atoms, a `nearest`
    where the energy is not finite or so near to zero that too few points lie below it; `ImportError` without OpenMM.
    """
    openmm = require_openmm()
    require_flag("periodic", periodic)
    require_count("num_atoms", num_atoms)
    require_instance("card", card, ModelCard)
    excluded = potential.pairs if isinstance(potential, Excluding) else ()
    pair = require_tabulable(potential.potential if isinstance(potential, Excluding) else potential, "OpenMM")
    require_atoms(potential, num_atoms)
    r = grid(pair, nearest, num_points)
    step = r[1] - r[0]
    if nearest <= _MARGIN * step:
        raise ValueError(
            f"`nearest` is {nearest} nm, less than {_MARGIN} steps of {step:.3g} nm; wanted more `num_points`."
        )
    below = nearest - step * np.arange(_MARGIN, 0, -1)
    tables = pair_tables(pair, np.concatenate([below, r]))
    warn_of_jump(tables, "OpenMM")
    of_table = [
        f"table{k}(max(r,{nearest!r}))-({float(table.force[_MARGIN])!r})*min(r-{nearest!r},0)"
        for k, table in enumerate(tables)
    ]
    expression = of_table[-1]
    for k in reversed(range(len(tables) - 1)):
        expression = f"select(kind-{k},{expression},{of_table[k]})"
    num = pair.num_kinds
    force = openmm.CustomNonbondedForce(expression + (";kind=pair(species1,species2)" if num > 1 else ""))
    for k, table in enumerate(tables):
        force.addTabulatedFunction(
            f"table{k}", openmm.Continuous1DFunction(table.energy.tolist(), float(table.r[0]), pair.cutoff)
        )
    species: Any = np.zeros(num_atoms, int)
    if num > 1:
        which = {table.kinds: k for k, table in enumerate(tables)}
        entries = [which[min(a, b), max(a, b)] for b in range(num) for a in range(num)]
        force.addTabulatedFunction("pair", openmm.Discrete2DFunction(num, num, entries))
        force.addPerParticleParameter("species")
        species = species if pair.species is None else pair.species
    for k in species.tolist():
        force.addParticle([k] if num > 1 else [])
    for i, j in np.asarray(excluded).tolist():
        force.addExclusion(i, j)
    kinds = openmm.CustomNonbondedForce
    force.setNonbondedMethod(kinds.CutoffPeriodic if periodic else kinds.CutoffNonPeriodic)
    force.setCutoffDistance(pair.cutoff)
    if card_beside is not None:
        card.write(card_beside, potential, export="a table in OpenMM's CustomNonbondedForce")
    force.setName(f"table of reverlet {pair.name}")
    return force
