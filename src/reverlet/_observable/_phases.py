import abc
from typing import TYPE_CHECKING

from jaxtyping import Array, PyTree

from .._ensemble import AbstractEnsemble
from .._fields import AbstractChecked
from ._base import AbstractObservable

if TYPE_CHECKING:
    # type checkers take an abstract variable for a field, and so for an argument
    from typing import ClassVar as AbstractVar
else:
    from equinox import AbstractVar


class AbstractPhaseDifference(AbstractChecked):
    """A property of two state points at once, such as a liquid and its gas: what is measured at each, and what the two
    are together.

    A `Target` of one state point may hold it in the place of an observable; the other state point is known by its name.
    """

    other: AbstractVar[str]
    """The name of the other state point (`StatePoint.name`)."""

    @property
    @abc.abstractmethod
    def observables(self) -> tuple[AbstractObservable, AbstractObservable]:
        """What is measured here, and there."""

    @abc.abstractmethod
    def combine(
        self,
        here: PyTree[Array],
        there: PyTree[Array],
        ensemble_here: AbstractEnsemble,
        ensemble_there: AbstractEnsemble,
    ) -> PyTree[Array]:
        """The property, from what the two observables reduce to."""
