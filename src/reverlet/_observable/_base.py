import abc
from typing import ClassVar

from jaxtyping import Array, Float, PyTree

from .._ensemble import AbstractEnsemble
from .._fields import AbstractChecked
from .._state import State
from .._system import System
from .._timeseries import Times


class AbstractObservable(AbstractChecked):
    """A property: what to keep of an instant, and how what was kept becomes a number or a curve."""

    unit: ClassVar[str] = ""
    """Of what it reduces to, for printing."""

    @abc.abstractmethod
    def record(self, system: System, state: State, initial: State) -> PyTree[Array]:
        """What to keep of one instant, given where its trajectory began. Runs inside the solve, so keep it small."""

    @abc.abstractmethod
    def reduce(
        self,
        times: Times,
        records: PyTree[Array],
        weights: Float[Array, " samples"],
        ensemble: AbstractEnsemble | None = None,
    ) -> PyTree[Array]:
        """The property, from records whose leaves lead with `samples frames`.

        Weights sum to one. Without dynamics there is one frame, at time zero; with both directions of time, equally
        spaced frames from -T to T. `ensemble` is what the weights stand for, and has the temperature.
        """
