"""A file of targets, and the state points of a fit that it makes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .._ensemble import NPT, NVT
from .._misc import require_callable, require_instance
from .._observable import RDF, AbstractObservable, DielectricConstant, Pressure, SelfDiffusion, Stress
from .._system import System
from .._targets import StatePoint, Target
from ._records import TargetRecord
from ._units import nearest

_BY_DEFAULT: dict[str, Callable[[], AbstractObservable]] = {
    "dielectric_constant": DielectricConstant,
    "pressure": Pressure,
    "self_diffusion": SelfDiffusion,
    "stress": Stress,
}


def observable_of(target: TargetRecord) -> AbstractObservable:
    """What a record is measured by, as its class is by default; an `rdf` in bins as wide as the steps of its axis.

    **Errors:** `ValueError` for a property that needs to be told more.
    """
    require_instance("target", target, TargetRecord)
    if target.kind in _BY_DEFAULT:
        return _BY_DEFAULT[target.kind]()
    if target.kind == "rdf" and target.axis is not None:
        r = target.axis.value
        pair = (target.elements[0], target.elements[1]) if target.elements else None
        return RDF(float(r[-1]), round(float(r[-1] / np.median(np.diff(r)))), pair=pair)
    raise ValueError(
        f"There is no observable of `{target.kind}` by default; wanted `observable`, a function from a record to"
        " one, as the argument of `state_points`."
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    """What is simulated of a phase: its `name`, as a file has it, and from a model to its `system`."""

    name: str
    system: Callable[[Any], System]

    def __post_init__(self):
        require_instance("name", self.name, str)
        require_callable("system", self.system, "`lambda model: model.system(216, box)`")


@dataclasses.dataclass(frozen=True)
class TargetFile:
    """What a file of targets says: records, in order, and a title.

    **Errors:** `TypeError` for what are no records.
    """

    targets: tuple[TargetRecord, ...]
    title: str = dataclasses.field(default="", kw_only=True)

    def __post_init__(self):
        require_instance("targets", self.targets, tuple)
        for target in self.targets:
            require_instance("one of `targets`", target, TargetRecord)
        require_instance("title", self.title, str)

    def state_points(
        self, phases: tuple[Phase, ...], *, observable: Callable[[TargetRecord], Any] = observable_of
    ) -> tuple[StatePoint, ...]:
        """One `StatePoint` for all targets of a phase at a temperature and pressure, in the order of the file.

        Where a record has a pressure it is constant (`NPT`), and the volume otherwise (`NVT`). The error of a target is
        its uncertainty over the root of its weight, so that χ² is multiplied by the weight; what has none is left out.

        **Arguments:** `phases`, one for each name in the file; `observable`, from a record to what it is measured by,
        for what needs to be told more than `observable_of` does.

        **Errors:** `ValueError` for phases that are not given, and targets without a weight only.
        """
        names = [phase.name for phase in phases]
        groups: dict[str, list[TargetRecord]] = {}
        for target in self.targets:
            if target.phase not in names:
                raise ValueError(f"There is no phase {target.phase!r} in `phases`; {nearest(target.phase, names)}")
            if target.weight > 0:
                groups.setdefault(target.conditions, []).append(target)
        if not groups:
            raise ValueError("No target has a weight; wanted one that is more than zero.")
        made = []
        for records in groups.values():
            at = records[0]
            t = at.temperature.value
            ensemble = NVT(t) if at.pressure is None else NPT(t, at.pressure.value)
            system = phases[names.index(at.phase)].system
            made.append(StatePoint(system, ensemble, tuple(_target(r, observable(r)) for r in records)))
        return tuple(made)


def _target(record: TargetRecord, observable: AbstractObservable) -> Target:
    value = record.value.value
    error = np.broadcast_to(record.uncertainty.value, np.shape(value))
    if isinstance(observable, RDF) and record.axis is not None:  # into its bins
        error = np.interp(np.asarray(observable.centers), record.axis.value, error)
        value = observable.smeared(record.axis.value, value)
    return Target(observable, value, error / record.weight**0.5, unit=record.value.unit, citation=record.citation)
