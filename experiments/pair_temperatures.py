"""One pair potential for many temperatures, from their radial distribution functions: how far does it carry?

The target is a Lennard-Jones liquid at one density and several temperatures. One potential is learned from all of them
at once, through the dynamics (`diffsim`) or by reweighting (`difftre`), and one from the first temperature alone by
iterative Boltzmann inversion (`ibi`). Separate runs measure both at the temperatures that were trained, and at others
in between, beside potentials that were each learned from a single temperature.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import _run
from ._errors import BadInput, refusing
from ._fields import at_least
from ._pairs import Everywhere, Liquid
from ._pairs_room import energies
from ._pairs_transfer import Series, transferred
from .pair_rdf import Config as OneState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(OneState):
    """Everything that makes a run what it is."""

    temperature: tuple[float, ...] = (0.8, 1.2, 1.6)
    """The temperatures that are trained: kT, ε."""
    unseen: tuple[float, ...] = (1.0, 1.4)
    """The temperatures that are only tested: kT, ε."""
    method: tuple[Literal["diffsim", "difftre", "ibi"], ...] = ("difftre", "ibi")
    """Through the dynamics (diffsim), by reweighting (difftre), by iterative Boltzmann inversion of the first
    temperature (ibi)."""
    every: Annotated[int, at_least(1, 20)] = 20
    """Time steps between two evaluations of g(r)."""
    melting: Annotated[int, at_least(10, 600)] = 600
    """Time steps of melting at three times the temperature; equilibration at the temperature takes as many."""
    reference: Annotated[int, at_least(10, 6000)] = 6000
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
    single_simulations: Annotated[int, at_least(0, 8)] = 8
    """How many simulations fits to a single temperature each have, for comparison; 0 leaves these fits out."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.density) != 1:
            raise BadInput(f"--density is {self.density}; wanted one for all temperatures.")
        outside = [t for t in self.unseen if not min(self.temperature) < t < max(self.temperature)]
        if outside:
            raise BadInput(f"--unseen has {outside[0]}; wanted temperatures between those of --temperature.")

    @property
    def all(self) -> tuple[float, ...]:
        """Trained temperatures, then the others."""
        return (*self.temperature, *self.unseen)

    def at(self, temperatures: tuple[float, ...]) -> Liquid:
        """The liquid at these temperatures."""
        return dataclasses.replace(self, temperature=temperatures, unseen=()).liquid()


PRESETS = {
    "quick": Config(),
    "paper": Config(preset="paper", method=("diffsim", "difftre", "ibi"), temperature=(0.6, 1.0, 1.4, 2.0),
                    unseen=(0.8, 1.2, 1.7), atoms=256, replicas=16, every=10, melting=1000, reference=100000,
                    check=20000, updates=2000, steps=4000, simulations=30, settling=10, single_simulations=30),
    "smoke": Config(preset="smoke", method=("difftre",), temperature=(1.0, 2.0), unseen=(1.5,), atoms=32, cutoff=1.7,
                    replicas=2, bins=30, melting=20, reference=40, check=40, steps=40, simulations=2, settling=1,
                    spacing=0.1, single_simulations=0),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One pair potential for many temperatures, from their radial distribution functions.

    Writes target.npz; history-METHOD.jsonl for every method and every fit to one temperature; potentials.npz;
    structure.npz, the g(r) that all potentials give at all temperatures; and summary.json.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """The output folder: new or empty. None: results/pair_temperatures, or the next free of -2, -3, ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in --out that was stopped; all other arguments as then."""


def main(arguments: list[str]) -> int:
    """Runs the experiment with the arguments of a command line; returns the exit status."""
    return _run.exit_status(lambda: run(_run.command_line("pair_temperatures", PRESETS, Command, arguments)))


def run(command: Command) -> None:
    """The whole experiment; ends with a few lines on the standard output."""
    c = command.config
    with refusing():
        truth = c.truth()
        series = Series(c.all, len(c.temperature), c.at, Everywhere(truth), "kT = {:g} ε", c.single_simulations)
        c.at(c.all)
    transferred(command, "pair_temperatures", series, lambda r: energies(truth, r)[None])
