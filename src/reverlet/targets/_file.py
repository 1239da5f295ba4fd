"""A file of targets, and the state points of a fit that it makes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .._ensemble import NPT, NVT
from .._misc import require_callable, require_instance
from .._observable import (
    ADF,
    RDF,
    AbstractObservable,
    AbstractPhaseDifference,
    CubicElasticConstants,
    Density,
    DielectricConstant,
    ElasticConstants,
    Enthalpy,
    HeatCapacity,
    HeatOfVaporization,
    IsothermalCompressibility,
    Pressure,
    SelfDiffusion,
    Stress,
    TetrahedralOrder,
    ThermalExpansion,
)
from .._system import System
from .._targets import StatePoint, Target
from ._records import TargetRecord
from ._units import Quantity, nearest

_BY_DEFAULT: dict[str, Callable[[], AbstractObservable]] = {
    "density": Density,
    "enthalpy": lambda: Enthalpy(per_molecule=True),
    "heat_capacity": lambda: HeatCapacity(per_molecule=True),
    "thermal_expansion": ThermalExpansion,
    "isothermal_compressibility": IsothermalCompressibility,
    "dielectric_constant": DielectricConstant,
    "pressure": Pressure,
    "self_diffusion": SelfDiffusion,
    "stress": Stress,
}
_ELASTIC = {(6, 6): ElasticConstants, (3,): CubicElasticConstants}


def observable_of(target: TargetRecord) -> AbstractObservable | AbstractPhaseDifference:
    """What a record is measured by, as its class is by default. Energies and heat capacities are those of a mole of
    molecules; an `rdf` is in bins as wide as the steps of its axis; elastic constants are Voigt's matrix, or three.

    **Errors:** `ValueError` for a property that needs to be told more.
    """
    require_instance("target", target, TargetRecord)
    if target.kind in _BY_DEFAULT:
        return _BY_DEFAULT[target.kind]()
    if target.kind == "heat_of_vaporization":
        return HeatOfVaporization(gas=target.gas_conditions)
    if target.kind == "tetrahedral_order":
        return TetrahedralOrder(*target.elements)
    if target.kind == "elastic_constants" and np.shape(target.value.value) in _ELASTIC:
        return _ELASTIC[np.shape(target.value.value)]()
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

        Its name is that of `TargetRecord.conditions`. Where a record has a pressure it is constant (`NPT`), and the
        volume otherwise (`NVT`). The error of a target is its uncertainty over the root of its weight, so that χ² is
        multiplied by the weight; what has none is left out. A heat of vaporization asks for a state point of its `gas`
        too, at constant volume and the same temperature: it comes last and without targets, where none has made it.

        **Arguments:** `phases`, one for each name in the file; `observable`, from a record to what it is measured by,
        for what needs to be told more than `observable_of` does.

        **Errors:** `ValueError` for phases that are not given, and targets without a weight only.
        """
        weighted = [target for target in self.targets if target.weight > 0]
        if not weighted:
            raise ValueError("No target has a weight; wanted one that is more than zero.")
        groups: dict[str, tuple[str, Quantity, Quantity | None]] = {}  # of what, at what temperature and pressure
        for r in weighted:
            groups.setdefault(r.conditions, (r.phase, r.temperature, r.pressure))
        for r in weighted:
            if r.gas:
                groups.setdefault(r.gas_conditions, (r.gas, r.temperature, None))
        made = []
        for name, (phase, temperature, pressure) in groups.items():
            system, t = _system_of(phase, phases), temperature.value
            ensemble = NVT(t) if pressure is None else NPT(t, pressure.value)
            records = [r for r in weighted if r.conditions == name]
            made.append(StatePoint(system, ensemble, tuple(_target(r, observable(r)) for r in records), name=name))
        return tuple(made)


def _system_of(name: str, phases: tuple[Phase, ...]) -> Callable[[Any], System]:
    for phase in phases:
        if phase.name == name:
            return phase.system
    raise ValueError(f"There is no phase {name!r} in `phases`; {nearest(name, [p.name for p in phases])}")


def _target(record: TargetRecord, observable: AbstractObservable | AbstractPhaseDifference) -> Target:
    value = record.value.value
    error = np.broadcast_to(record.uncertainty.value, np.shape(value))
    if isinstance(observable, RDF | ADF) and record.axis is not None:  # into its bins
        axis, centers = record.axis.value, np.asarray(observable.centers)
        error = np.interp(centers, axis, error)
        smeared = isinstance(observable, RDF)
        value = observable.smeared(axis, value) if smeared else np.interp(centers, axis, value)
    unit = record.value.unit
    scale = float(Quantity(1, unit).value)
    return Target(observable, value, error / record.weight**0.5, unit=unit, scale=scale, citation=record.citation)
