"""Which test systems of openmmtools convert, and how exactly: `nox -s test_systems -- table`.

Each force of a system is converted alone, and compared, energy and forces, with OpenMM's Reference platform in double
precision. Sums over waves are to be exact to 1e-9 on both sides. Corrections for dispersion are left out: for atoms
that are not all alike OpenMM means over other pairs. Wants openmmtools without what it depends on, as the nox
session installs it.
"""
# ruff: noqa: T201

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openmm

import reverlet as rv

MOST_ATOMS = 5000
"""Of more, the Reference platform takes minutes; only whether they convert is told."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a test system."""

    name: str
    num_atoms: int
    is_soft: bool
    """Whether bonds that are rigid by default were made springs, which the class has an option for."""
    errors: dict[str, float]
    """The largest relative error of energy and forces of each force, by its class; where it was compared."""
    refusals: dict[str, str]
    """The messages of what was refused, by its class."""

    @property
    def row(self) -> str:
        """Of the table."""
        name = self.name + (", without constraints" if self.is_soft else "")
        if self.refusals:
            outcome = "refused: " + "; ".join(dict.fromkeys(_short(m) for m in self.refusals.values()))
        elif self.num_atoms > MOST_ATOMS:
            outcome = "converts; not compared"
        elif max(self.errors.values(), default=0) < 1e-12:
            outcome = "converts, to rounding"
        else:
            outcome = f"converts, to {max(self.errors.values()):.0e}"
        return f"| `{name}` | {self.num_atoms} | {outcome} |"


def systems() -> ModuleType:
    """The module `openmmtools.testsystems`, without the rest of its package, which needs many more."""
    spec = importlib.util.find_spec("openmmtools")
    if spec is None:
        raise ImportError("wanted openmmtools: `nox -s test_systems` installs it")
    sys.modules.setdefault("openmmtools", importlib.util.module_from_spec(spec))
    return importlib.import_module("openmmtools.testsystems")


def names() -> list[str]:
    """Of all test systems."""
    module = systems()
    found = (v for v in vars(module).values() if inspect.isclass(v) and issubclass(v, module.TestSystem))
    return [cls.__name__ for cls in found if cls is not module.TestSystem]


def convert(name: str) -> Result:
    """One test system, force by force."""
    made, is_soft = _made(getattr(systems(), name))
    system, errors, refusals = made.system, {}, {}
    x = np.asarray(made.positions.value_in_unit(openmm.unit.nanometer), float)
    x = x + 0.003 * np.random.default_rng(0).normal(size=x.shape)  # out of minima, where forces vanish
    for force, alone in _alone(system):
        label = type(force).__name__
        try:
            ours = rv.openmm.from_system(alone, made.topology)
        except ValueError as error:
            refusals[label] = str(error)
            continue
        if len(x) <= MOST_ATOMS:
            errors[label] = max(_error(ours, alone, x), errors.get(label, 0.0))
    return Result(name, len(x), is_soft, errors, refusals)


def _made(cls: Any) -> tuple[Any, bool]:
    """With springs for rigid bonds, where the class has an option for them."""
    plain = cls()
    if plain.system.getNumConstraints() == 0:
        return plain, False
    soft = {"constraints": None, "rigidWater": False}
    for options in (soft, soft | {"rigid_water": False}, {"constrained": False}):
        with contextlib.suppress(TypeError):  # an option it has not
            made = cls(**options)
            if made.system.getNumConstraints() == 0:
                return made, True
    return plain, False


def _alone(system: Any) -> Iterator[tuple[Any, Any]]:
    """Every force, and the system with no other one."""
    for k, force in enumerate(system.getForces()):
        if isinstance(force, openmm.CMMotionRemover):
            continue
        if isinstance(force, openmm.NonbondedForce):
            force.setEwaldErrorTolerance(1e-9)
            force.setUseDispersionCorrection(False)
            if force.getNonbondedMethod() == force.PME:
                force.setNonbondedMethod(force.Ewald)  # exact waves
        if isinstance(force, openmm.CustomNonbondedForce):
            force.setUseLongRangeCorrection(False)
        copy = openmm.XmlSerializer.clone(system)
        for other in reversed(range(system.getNumForces())):
            if other != k:
                copy.removeForce(other)
        yield force, copy


def _error(ours: rv.System, alone: Any, x: np.ndarray) -> float:
    """The larger of the errors of the energy and of the forces, relative to the largest of each."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(alone, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(x)
    state = context.getState(getEnergy=True, getForces=True)
    energy, forces = state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)
    box = rv.openmm.default_box(alone)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: ours.potential.energy(x, box)))(jnp.asarray(x))
    off = lambda difference, wanted: np.max(np.abs(difference)) / max(np.max(np.abs(wanted)), 1e-12)
    return float(max(off(value - energy, energy), off(gradient + forces, forces)))


def _short(message: str) -> str:
    if "has the expression" in message:
        return "a `CustomNonbondedForce` that is not of Lennard-Jones form"
    for end in ("; wanted", ", which", ", such as"):
        message = message.split(end)[0]
    return message.removeprefix("The OpenMM system has ")


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_enable_x64", True)
    print("| test system | atoms | what becomes of it |\n|---|---|---|")
    for name in names():
        print(convert(name).row, flush=True)


if __name__ == "__main__":
    main()
