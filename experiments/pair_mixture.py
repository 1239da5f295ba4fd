"""One set of pair potentials for mixtures of all compositions, from their partial radial distribution functions.

The target is a mixture of two kinds of Lennard-Jones atoms, small and large. Three potentials, one for each pair of
kinds, are learned from several compositions at once, through the dynamics (`diffsim`) or by reweighting (`difftre`),
and from the first composition alone by iterative Boltzmann inversion (`ibi`). Separate runs measure all of them at the
compositions that were trained, and at others in between.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float

import reverlet as rv

from . import _run
from ._errors import BadInput, refusing
from ._fields import above_zero, at_least
from ._pairs import Liquid, Point
from ._pairs_room import Pairs, energies
from ._pairs_transfer import Series, transferred


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Pairs):
    """Everything that makes a run what it is."""

    composition: tuple[float, ...] = (0.5, 0.25, 0.75)
    """The compositions that are trained: fractions of small atoms."""
    unseen: tuple[float, ...] = (0.375, 0.625)
    """The compositions that are only tested: fractions of small atoms."""
    diameters: tuple[float, float, float] = (0.9, 1.0, 1.1)
    """Diameters for two small atoms, for a small and a large one, and for two large ones, σ."""
    method: tuple[Literal["diffsim", "difftre", "ibi"], ...] = ("difftre", "ibi")
    """Through the dynamics (diffsim), by reweighting (difftre), by iterative Boltzmann inversion of the first
    composition (ibi)."""
    density: tuple[float, ...] = (0.8,)
    """The density of all mixtures, 1/σ³."""
    temperature: tuple[float, ...] = (1.2,)
    """kT of all mixtures, ε."""
    cutoff: Annotated[float, above_zero(2.5)] = 2.5
    """Where the target and the learned potentials end, σ, whatever the diameters."""
    reference: Annotated[int, at_least(10, 10000)] = 10000
    """Time steps of the simulation of the target."""
    check: Annotated[int, at_least(10, 3000)] = 3000
    """Time steps of every final measurement."""
    steps: Annotated[int, at_least(40, 1000)] = 1000
    """Time steps of each simulation of difftre and ibi."""
    simulations: Annotated[int, at_least(1, 10)] = 10
    """How many simulations difftre and ibi have."""
    settling: Annotated[int, at_least(1, 4)] = 4
    """The update of difftre after which its steps become ever smaller, so that they end at the mean over all later
    ones."""
    single_simulations: Annotated[int, at_least(0, 0)] = 0
    """How many simulations fits to a single composition each have, for comparison; 0 leaves these fits out."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("density", "temperature"):
            if len(getattr(self, name)) != 1:
                raise BadInput(f"--{name} is {getattr(self, name)}; wanted one for all compositions.")
        for x in (*self.composition, *self.unseen):
            if not 2 <= round(x * self.atoms) <= self.atoms - 2:
                raise BadInput(
                    f"A composition is {x}; wanted fractions of {self.atoms} atoms with at least two of each kind."
                )
        outside = [x for x in self.unseen if not min(self.composition) < x < max(self.composition)]
        if outside:
            raise BadInput(f"--unseen has {outside[0]}; wanted compositions between those of --composition.")
        if not all(x > 0 for x in self.diameters):
            raise BadInput(f"--diameters is {self.diameters}; wanted three numbers above zero.")

    @property
    def all(self) -> tuple[float, ...]:
        """Trained compositions, then the others."""
        return (*self.composition, *self.unseen)

    def points(self) -> int:
        return len(self.composition)

    def species(self) -> np.ndarray:
        """0 for small atoms and 1 for large ones, on sites at random."""
        order = np.random.default_rng(self.seed).permutation(self.atoms)
        return np.stack([(order >= round(x * self.atoms)).astype(np.int32) for x in self.composition])

    def at(self, compositions: tuple[float, ...]) -> Liquid:
        """The mixtures at these compositions."""
        return dataclasses.replace(self, composition=compositions, unseen=()).liquid()

    def truth(self) -> "Mixed":
        """The potential that makes the target."""
        small, between, large = self.diameters
        return Mixed(jnp.asarray([[small, between], [between, large]]), self.cutoff)


class Mixed(eqx.Module):
    """Lennard-Jones atoms of two diameters, of equal strength."""

    sigma: Float[Array, "2 2"]
    """nm."""
    cutoff: float = eqx.field(static=True)

    def __call__(self, point: Point) -> rv.LennardJones:
        return rv.LennardJones(self.sigma, jnp.ones((2, 2)), cutoff=self.cutoff, species=point.species)

    def energies(self, r: np.ndarray) -> np.ndarray:
        """The energy of two atoms alone, kJ/mol, for all pairs of kinds."""
        each = (self.sigma[0, 0], self.sigma[0, 1], self.sigma[1, 1])
        return np.stack([energies(rv.LennardJones(s, 1.0, cutoff=self.cutoff), r) for s in each])


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", method=("diffsim", "difftre", "ibi"), atoms=256, replicas=16, reference=100000,
                    check=20000, updates=2000, steps=4000, simulations=30, settling=10, single_simulations=30),
    "smoke": Config(preset="smoke", method=("difftre",), composition=(0.25, 0.75), unseen=(0.5,), atoms=32,
                    cutoff=1.7, replicas=2, bins=30, melting=20, reference=40, check=40, steps=40, simulations=2,
                    settling=1, spacing=0.2),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One set of pair potentials for mixtures of all compositions, from their partial radial distribution functions.

    Writes target.npz; history-METHOD.jsonl for every method and every fit to one composition; potentials.npz;
    structure.npz, the g(r) that all potentials give at all compositions; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/pair_mixture, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("pair_mixture", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    c = command.config
    with refusing():
        truth = c.truth()
        series = Series(c.all, len(c.composition), c.at, truth, "x = {:g}", c.single_simulations)
        c.at(c.all)
    transferred(command, "pair_mixture", series, truth.energies)
