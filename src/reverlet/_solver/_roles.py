"""What some solvers have to say about molecules, so that nobody needs to know them by name."""

import abc
from typing import Any

import diffrax
import equinox as eqx
from jaxtyping import Array, Int, PyTree

from .._bath import Bath


class AbstractPartwiseSolver(eqx.Module):
    """A solver with several kicks, each of other parts of the potential."""

    @abc.abstractmethod
    def kick_parts(self, kind: str, num_parts: int | None) -> tuple[tuple[int, ...], ...]:
        """For every kick the indices of its parts of a sum of `num_parts`; refuses a sum that does not fit, and a
        potential that is none, of the class named `kind`."""


class AbstractFallibleSolver(eqx.Module):
    """A solver whose numbers may not hold what it computes."""

    @abc.abstractmethod
    def require_lists(self, lists: bool) -> None:
        """Refuses neighbor lists, or to do without."""

    @abc.abstractmethod
    def failure(self, solver_state: PyTree[Array]) -> Int[Array, ""]:
        """What went wrong first, as a code; zero if nothing did."""

    @abc.abstractmethod
    def scale(self) -> float:
        """What `describe` needs to know of the solver."""

    @staticmethod
    @abc.abstractmethod
    def describe(failure: int, scale: float) -> str:
        """What a code other than zero says."""


class AbstractThermostattedSolver(eqx.Module):
    """A solver whose thermostats move with the atoms: its state is (positions, velocities, bath)."""

    @abc.abstractmethod
    def bath(self, dtype: Any) -> Bath:
        """Thermostats at rest."""

    @abc.abstractmethod
    def bath_term(self) -> diffrax.AbstractTerm:
        """What Diffrax wants to have of them beside drift and kick: by themselves they are at rest."""

    @abc.abstractmethod
    def require_bath(self, bath: Bath) -> None:
        """Refuses thermostats of another kind."""
