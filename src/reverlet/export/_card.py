"""Where a surface comes from, in a file beside it."""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._fields import AbstractChecked, Rule, checked, instance, optional, positive_number
from .._misc import is_concrete, require_finite, require_instance, require_number
from .._potential import AbstractPotential
from .._system import System
from .._targets import Target

_UNKNOWN = "not stated"


def _text() -> Any:
    return optional(instance(str))


def _targets() -> Any:
    def require(name, x):
        if not isinstance(x, tuple) or not all(isinstance(t, Target) for t in x):
            raise TypeError(f"`{name}` is {x!r}; wanted a tuple of `rv.Target(...)`.")

    return Rule(lambda x: x, require)


def _residuals() -> Any:
    def require(name, x):
        if not isinstance(x, tuple):
            raise TypeError(f"`{name}` is {x!r}; wanted a tuple of numbers, one for each target.")
        for one in x:
            require_number(name, one)
            require_finite(name, one)

    return Rule(lambda x: x, require)


class ModelCard(AbstractChecked):
    """What anyone who gets a surface should know of its origin; what is not given is written as "not stated".

    Form, size, checksum of the parameters and versions are added where it is written, which is beside every file that
    is exported: `liquid.table` has its `liquid.table.card.json`.

    **Arguments:** `name`; `targets`, what it was fitted to; `residuals`, one for each of the targets: simulated minus
    measured, in standard errors of the target; `horizon`, up to which time trajectories were differentiated, ps;
    `training_data`, of labels, and where they are from; `license`, such as an SPDX identifier; `notes`, what it should
    not be used for.

    **Errors:** `TypeError` for other types, `ValueError` for other than one residual per target, and numbers that are
    not finite.
    """

    name: str | None = checked(_text(), static=True, default=None, kw_only=True)
    targets: tuple[Target, ...] = checked(_targets(), default=(), kw_only=True)
    residuals: tuple[float, ...] = checked(_residuals(), default=(), kw_only=True)
    horizon: float | None = checked(optional(positive_number("ps")), static=True, default=None, kw_only=True)
    training_data: str | None = checked(_text(), static=True, default=None, kw_only=True)
    license: str | None = checked(_text(), static=True, default=None, kw_only=True)
    notes: str | None = checked(_text(), static=True, default=None, kw_only=True)

    def __check_init__(self):
        if self.residuals and len(self.residuals) != len(self.targets):
            raise ValueError(
                f"`residuals` has {len(self.residuals)} numbers, but there are {len(self.targets)} targets; wanted one"
                " for each."
            )

    def contents(self, surface: System | AbstractPotential) -> dict[str, Any]:
        """What is written of a surface, as JSON has it."""
        require_instance("surface", surface, System | AbstractPotential)
        if not is_concrete(surface):
            raise ValueError("`surface` is traced; wanted known numbers: export it outside of `jax.jit`.")
        targets = [
            {
                "observable": type(target.observable).__name__,
                "value": np.asarray(target.value).tolist(),
                "standard_error": np.asarray(target.error).tolist(),
                "read_in": target.unit or _UNKNOWN,
                "citation": target.citation or _UNKNOWN,
                "residual_in_standard_errors": float(self.residuals[k]) if self.residuals else _UNKNOWN,
            }
            for k, target in enumerate(self.targets)
        ]
        said = {key: getattr(self, key) or _UNKNOWN for key in ("name", "training_data", "license", "notes")}
        return {
            **said,
            "targets": targets or _UNKNOWN,
            "gradient_horizon_ps": _UNKNOWN if self.horizon is None else self.horizon,
            "surface": _described(surface),
            "units": "nm, ps, u, kJ/mol, e, K",
            "versions": _versions(),
        }

    def write(self, path: str | Path, surface: System | AbstractPotential, *, export: str | None = None) -> Path:
        """Writes the card of a surface beside `path`, as `<path>.card.json`, and returns where it is.

        **Arguments:** `export`, what lies at `path`, in words.

        **Errors:** `ValueError` for a folder that is not there, and for a surface that is traced.
        """
        contents = self.contents(surface) | {"export": export or _UNKNOWN}
        beside = Path(path).with_name(Path(path).name + ".card.json")
        write_file(beside, json.dumps(contents, indent=2, ensure_ascii=False) + "\n")
        return beside


def write_file(path: Path, contents: str | bytes) -> None:
    """Writes a file that appears when it is complete."""
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} to; wanted one that exists.")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _described(surface):
    potential = surface.potential if isinstance(surface, System) else surface
    arrays = [np.asarray(x) for x in jax.tree.leaves(potential) if eqx.is_inexact_array(x)]
    found = {
        "potential": _form(potential),
        "cutoff_nm": potential.cutoff,
        "parameters": sum(x.size for x in arrays),
        "sha256_of_parameters": hashlib.sha256(b"".join(x.astype("<f8").tobytes() for x in arrays)).hexdigest(),
    }
    if isinstance(surface, System):
        found["atoms"] = dict(Counter(surface.topology.elements))
        found["dipole"] = None if surface.dipole is None else _form(surface.dipole)
    return found


def _form(node) -> str:
    """The classes of a surface and of the surfaces that it is made of."""
    parts = jax.tree.leaves(node, is_leaf=lambda x: x is not node and isinstance(x, AbstractPotential))
    inner = ", ".join(_form(part) for part in parts if isinstance(part, AbstractPotential))
    return f"{type(node).__name__}({inner})" if inner else type(node).__name__


def _versions():
    package = __name__.split(".")[0]
    others = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "equinox", "numpy")}
    return {package: sys.modules[package].__version__, "python": platform.python_version(), **others}
