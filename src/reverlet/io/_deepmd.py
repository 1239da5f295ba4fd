"""Dipoles and polarizabilities in DeePMD-kit's own format (`.dp`): HDF5, of a JSON that names the arrays in it."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._archives import as_weights
from .._dipole import DeepDipole, DeepPolarizability
from .._dipole._deep_dipole import of_published
from .._dipole._deepmd import Published
from .._dipole._descriptor import Network, require_scale
from .._misc import as_float_array
from .._topology import Topology
from ._hdf5 import HDF5File, opened


def read_deep_dipole(
    path: str | Path, topology: Topology, *, elements: Sequence[str], charges: Sequence[float], scale: float
) -> DeepDipole:
    """A dipole of DeePMD-kit 3 (`.dp`), for the atoms of a topology; the package is not needed.

    Of the descriptor se_e2_a with layers of tanh, without excluded pairs.

    **Arguments:** as for `DeepDipole.from_frozen`.

    **Errors:** as for `DeepDipole.from_frozen`.
    """
    with _model(path, "dipole") as read:
        model = read.published()
    return of_published(model, topology, elements, charges, scale)


def read_deep_polarizability(path: str | Path, topology: Topology, *, scale: float) -> DeepPolarizability:
    """A polarizability of DeePMD-kit 3 (`.dp`), for the atoms of a topology; the package is not needed.

    Of the descriptor se_e2_a with layers of tanh, without excluded pairs, and a diagonal that is fitted (`fit_diag`).

    **Arguments:** `scale`, nm³ of one unit of the model's output: 1e-3 of Å³.

    **Errors:** `ValueError` for a file that is none, damaged, of another model or lacks something, and atoms of an
    element that the model does not know.
    """
    require_scale(scale, "nm³")
    with _model(path, "polar") as read:
        model = read.published()
        factors, shifts = read.of_centers(model.centers, len(model.elements))
    fittings = tuple(
        Network((*f.weights[:-1], f.weights[-1] * s), (*f.biases[:-1], f.biases[-1] * s), f.steps, f.residual, True)
        for f, s in zip(model.fittings, factors, strict=True)
    )
    descriptor = model.descriptor("DeepPolarizability", topology)
    isotropic = as_float_array(scale * factors * shifts)
    return DeepPolarizability(descriptor, fittings, isotropic, scale=scale)


_WANTED = {
    ("type",): "standard",
    ("pair_exclude_types",): [],
    ("descriptor", "type"): "se_e2_a",
    ("descriptor", "exclude_types"): [],
    ("descriptor", "env_protection"): 0,
    ("fitting", "mixed_types"): False,
    ("fitting", "numb_fparam"): 0,
    ("fitting", "numb_aparam"): 0,
}
"""What is so in every model that is understood here."""


@contextlib.contextmanager
def _model(path, kind):
    """A model, for as long as it is read; all errors say of which file."""
    try:
        with opened(Path(path)) as file:
            yield _Model(Path(path), file, kind)
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:
        told = f"{path} cannot be read as a model of DeePMD-kit ({error})."
        raise ValueError(str(error) if str(path) in str(error) else told) from error


class _Model:
    """The JSON of a file, with what it says where something is missing or else than wanted."""

    def __init__(self, path: Path, file: HDF5File, kind: str):
        self.path, self.file = path, file
        try:
            content = json.loads(str(file.attribute("/", "json")))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is no model of DeePMD-kit: it has no JSON that could be read.") from error
        self.tree = content.get("model") if isinstance(content, dict) else None
        self.require("fitting", "type", wanted=kind)
        for names, wanted in _WANTED.items():
            self.require(*names, wanted=wanted)

    def at(self, *names: str | int, kind: Any = object) -> Any:
        """What stands somewhere in it, if it is of a kind."""
        here: Any = self.tree
        for name in names:
            if isinstance(here, dict) and name in here:
                here = here[name]
            elif isinstance(here, list) and isinstance(name, int) and name < len(here):
                here = here[name]
            else:
                raise ValueError(f"{self.path} lacks `{'.'.join(map(str, names))}`; wanted a model of DeePMD-kit 3.")
        if not isinstance(here, kind) or (isinstance(here, bool) and kind is not object):
            raise ValueError(f"`{'.'.join(map(str, names))}` in {self.path} is {str(here)[:60]!r}.")
        return here

    def require(self, *names: str | int, wanted: Any) -> None:
        """Refuses a model of which something is else than it must be."""
        if (got := self.at(*names)) != wanted:
            where = ".".join(map(str, names))
            raise ValueError(f"`{where}` in {self.path} is {str(got)[:60]!r}; wanted {wanted!r}.")

    def array(self, *names: str | int) -> np.ndarray:
        """The array whose name stands somewhere in it."""
        name = self.at(*names, kind=str)
        return as_weights(self.path, name, self.file.values(name, "f"))

    def wholes(self, *names: str | int, least: int) -> tuple[int, ...]:
        """A list of whole numbers."""
        found = self.at(*names, kind=list)
        if not all(isinstance(n, int) and not isinstance(n, bool) and least <= n < 10**6 for n in found):
            raise ValueError(f"`{'.'.join(map(str, names))}` in {self.path} is {str(found)[:60]}.")
        return tuple(found)

    def published(self) -> Published:
        elements = tuple(map(str, self.at("type_map", kind=list)))
        slots = self.wholes("descriptor", "sel", least=1)
        if not 0 < len(elements) == len(set(elements)) == len(slots):
            raise ValueError(f"{self.path} has {len(elements)} elements and `descriptor.sel` of {len(slots)}.")
        excluded = self.wholes("fitting", "exclude_types", least=0) + self.wholes("atom_exclude_types", least=0)
        centers = tuple(k for k in range(len(elements)) if k not in excluded)
        if not centers:
            raise ValueError(f"{self.path} excludes all elements; wanted some.")
        one_side = self.at("descriptor", "type_one_side")
        nets = "descriptor", "embeddings", "networks"
        # of two sides the center comes first, and goes fastest
        place = lambda c, n: n if one_side else c + n * len(elements)
        return Published(
            self.path,
            elements,
            centers,
            slots,
            float(self.at("descriptor", "rcut_smth", kind=int | float)),
            float(self.at("descriptor", "rcut", kind=int | float)),
            tuple(tuple(self.network(*nets, place(c, n)) for n in range(len(elements))) for c in centers),
            tuple(self.network("fitting", "nets", "networks", c, linear=True) for c in centers),
            self.array("descriptor", "@variables", "davg"),
            self.array("descriptor", "@variables", "dstd"),
        )

    def network(self, *names: str | int, linear: bool = False) -> Network:
        weights, biases, steps, residual = [], [], [], []
        count = len(self.at(*names, "layers", kind=list))
        for k in range(count):
            layer = (*names, "layers", k)
            last = linear and k == count - 1
            self.require(*layer, "activation_function", wanted="none" if last else "tanh")
            w, b = (self.array(*layer, "@variables", name) for name in "wb")
            if w.ndim != 2 or b.ndim != 1:
                raise ValueError(
                    f"A layer in {self.path} has shapes {w.shape} and {b.shape}; wanted a matrix and a row."
                )
            step = None if self.at(*layer, "@variables", "idt") is None else self.array(*layer, "@variables", "idt")
            weights.append(as_float_array(w))
            biases.append(as_float_array(b))
            steps.append(None if step is None else as_float_array(step.reshape(-1)))
            residual.append(bool(self.at(*layer, "resnet")) and w.shape[1] in (w.shape[0], 2 * w.shape[0]))
        if not weights:
            raise ValueError(f"`{'.'.join(map(str, names))}` in {self.path} has no layers.")
        return Network(tuple(weights), tuple(biases), tuple(steps), tuple(residual), linear)

    def of_centers(self, centers: tuple[int, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a polarizability: the factor of every center's output, and what is added before to its diagonal."""
        self.require("fitting", "fit_diag", wanted=True)
        factors, constants, bias = (
            self.array("fitting", "@variables", "scale"),
            self.array("fitting", "@variables", "constant_matrix"),
            self.array("@variables", "out_bias"),
        )
        if (factors.size, constants.size, bias.size) != (count, count, 9 * count):
            raise ValueError(
                f"{self.path} has {factors.size} factors, {constants.size} constants and {bias.size} numbers of bias;"
                f" wanted {count}, {count} and {9 * count}."
            )
        trace = np.trace(bias.reshape(count, 3, 3), axis1=1, axis2=2) / 3
        shift = (constants.reshape(-1) + trace) * bool(self.at("fitting", "shift_diag"))
        of = lambda *names: set(self.wholes(*names, least=0)) & set(range(count))
        ignored = of("fitting", "exclude_types") - of("atom_exclude_types")
        if np.any(shift[list(ignored)] != 0):  # which DeePMD-kit adds all the same
            raise ValueError(
                f"{self.path} shifts elements that `fitting.exclude_types` excludes; wanted no such shift."
            )
        return factors.reshape(-1)[list(centers)], shift[list(centers)]
