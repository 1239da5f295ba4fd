"""Models as DeePMD-kit keeps them, whatever the file, to descriptors and networks."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import units
from .._archives import read_archive
from .._misc import as_float_array, require_shape
from .._potential._kinds import SortedKinds
from .._topology import Topology
from ._descriptor import Descriptor, Network


class Published(NamedTuple):
    """A model of the descriptor se_e2_a; lengths in Å."""

    path: Path
    elements: tuple[str, ...]
    centers: tuple[int, ...]
    slots: tuple[int, ...]
    onset: float
    cutoff: float
    embeddings: tuple[tuple[Network, ...], ...]
    """Of every center and every neighbor."""
    fittings: tuple[Network, ...]
    """Of every center."""
    mean: np.ndarray
    """Of all kinds and places, (kinds, slots, 4)."""
    deviation: np.ndarray

    def descriptor(self, owner: str, topology: Topology) -> Descriptor:
        """For the atoms of a topology.

        **Errors:** `ValueError` for an atom of an element that the model does not know, and parts that do not fit
        together.
        """
        width = self.embeddings[0][0].weights[-1].shape[1]
        for row in self.embeddings:
            for net in row:
                self._require_widths("an embedding network", net, 1, width)
        products = self.fittings[0].weights[0].shape[0]
        if products % width or not 0 < products // width <= width:
            raise ValueError(
                f"A fitting network in {self.path} takes {products} numbers; wanted a multiple of the width of the"
                f" embedding networks, {width}."
            )
        for net in self.fittings:
            self._require_widths("a fitting network", net, products, width)
        if not 0 < self.onset < self.cutoff:
            raise ValueError(
                f"The switch in {self.path} is from {self.onset} Å to {self.cutoff} Å; wanted the first below the"
                " second, and above zero."
            )
        mean, deviation = (self._of_kinds(name) for name in ("mean", "deviation"))
        if np.any(deviation <= 0):
            raise ValueError(f"`deviation` in {self.path} has {np.min(deviation)}; wanted numbers above zero.")
        return Descriptor(
            self.embeddings,
            as_float_array(mean),
            as_float_array(deviation),
            SortedKinds.of_elements(topology, self.elements, owner),
            centers=self.centers,
            slots=self.slots,
            axis=products // width,
            onset=self.onset * units.ANGSTROM,
            cutoff=self.cutoff * units.ANGSTROM,
        )

    def _of_kinds(self, name):
        """One row for every kind of center and of neighbor, which all places of a kind share."""
        x, kinds = getattr(self, name), len(self.elements)
        require_shape(f"{name}` in `{self.path}", x, (kinds, sum(self.slots), 4), "Of elements and places.")
        ends = np.cumsum(self.slots)
        parts = [x[:, end - n : end] for n, end in zip(self.slots, ends, strict=True)]
        if any(np.ptp(part, axis=1).max() > 1e-6 * np.abs(x).max() for part in parts):
            raise ValueError(f"`{name}` in {self.path} differs from place to place of an element; wanted one for all.")
        return np.stack([part[:, 0] for part in parts], axis=1)[list(self.centers)]

    def _require_widths(self, what, net, first, last):
        shapes = [w.shape for w in net.weights]
        chain = [first, *(shape[1] for shape in shapes)]
        fits = chain[-1] == last and shapes == list(itertools.pairwise(chain))
        rows = [(w.shape[1:], x.shape) for w, b, s in zip(net.weights, net.biases, net.steps, strict=True)
                for x in (b, s) if x is not None]  # fmt: skip
        if not fits or any(a != b for a, b in rows):
            raise ValueError(
                f"The layers of {what} in {self.path} have shapes {', '.join(map(str, shapes))} and biases"
                f" {', '.join(str(b.shape) for b in net.biases)}; wanted {first} to {last} numbers, each layer fitting"
                " the one before."
            )


def read_npz(weights: str | Path, hyperparameters: str | Path, known: Sequence[str]) -> Published:
    """See `DeepDipole.from_npz`; elements other than the `known` ones are refused."""
    hyper = _read_hyperparameters(hyperparameters, known)
    count, depth = len(hyper.type_map), len(hyper.fitting_neuron)
    sizes = [1, *hyper.neuron]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("davg", "dstd"), (count, sum(hyper.sel), 4))
    for c, n in itertools.product(hyper.sel_type, range(count)):
        for k, (a, b) in enumerate(itertools.pairwise(sizes), start=1):
            shapes |= {f"emb_c{c}_n{n}_W{k}": (a, b), f"emb_c{c}_n{n}_b{k}": (b,)}
    fitting = [sizes[-1] * hyper.axis_neuron, *hyper.fitting_neuron, sizes[-1]]
    for k, (a, b) in enumerate(itertools.pairwise(fitting)):
        shapes |= {f"fit_W{k}": (a, b), f"fit_b{k}": (b,)} | ({f"fit_idt{k}": (b,)} if 0 < k < depth else {})
    arrays = read_archive(weights, list(shapes))
    for name, shape in shapes.items():
        require_shape(f"{name}` in `{weights}", arrays[name], shape, "As the hyperparameters say.")

    def network(make, kind, first, last, steps):
        of = lambda letter: [as_float_array(arrays[kind.format(letter, k)]) for k in range(first, last)]
        return make(of("W"), of("b"), steps)

    none = [None] * len(hyper.neuron)
    embedding = lambda c, n: network(Network.embedding, f"emb_c{c}_n{n}_{{}}{{}}", 1, len(sizes), none)
    steps = [None, *(as_float_array(arrays[f"fit_idt{k}"]) for k in range(1, depth)), None]
    return Published(
        Path(weights),
        tuple(hyper.type_map),
        tuple(hyper.sel_type),
        tuple(hyper.sel),
        hyper.rcut_smth,
        hyper.rcut,
        tuple(tuple(embedding(c, n) for n in range(count)) for c in hyper.sel_type),
        (network(Network.fitting, "fit_{}{}", 0, depth + 1, steps),) * len(hyper.sel_type),
        arrays["davg"],
        arrays["dstd"],
    )


class _Hyperparameters(NamedTuple):
    """What DeePMD-kit calls them; lengths in Å."""

    type_map: list[str]
    sel_type: list[int]
    sel: list[int]
    neuron: list[int]
    axis_neuron: int
    fitting_neuron: list[int]
    rcut: float
    rcut_smth: float


def _read_hyperparameters(path, known):
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); wanted a file of hyperparameters.") from error
    missing = [name for name in _Hyperparameters._fields if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f"{path} lacks `{'`, `'.join(missing)}`; wanted the hyperparameters of a Deep Dipole.")
    hyper = _Hyperparameters(**{name: content[name] for name in _Hyperparameters._fields})
    # the inner cutoff as the program that trained it rounded it, where it is told
    hyper = hyper._replace(rcut_smth=content.get("rcut_smth_as_used", hyper.rcut_smth))
    whole = lambda x: isinstance(x, int) and not isinstance(x, bool) and 0 < x < 10**6
    wholes = lambda x: isinstance(x, list) and 0 < len(x) < 100 and all(map(whole, x))
    number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
    texts = isinstance(hyper.type_map, list) and all(isinstance(e, str) for e in hyper.type_map)
    foreign = [e for e in hyper.type_map if e not in known] if texts else []
    if foreign:
        raise ValueError(
            f"`type_map` in {path} has {foreign[0]}; wanted {' and '.join(known)}, whose charges are known."
        )
    count = len(hyper.type_map) if texts else 0
    fine = {
        "type_map": texts and 0 < count == len(set(hyper.type_map)),
        "sel_type": isinstance(hyper.sel_type, list) and hyper.sel_type
        and all(c in range(count) for c in hyper.sel_type) and len(set(hyper.sel_type)) == len(hyper.sel_type),
        "sel": wholes(hyper.sel) and len(hyper.sel) == count,
        "neuron": wholes(hyper.neuron),
        "axis_neuron": whole(hyper.axis_neuron),
        "fitting_neuron": wholes(hyper.fitting_neuron),
        "rcut": number(hyper.rcut),
        "rcut_smth": number(hyper.rcut_smth),
    }  # fmt: skip
    for name, good in fine.items():
        if not good:
            raise ValueError(f"`{name}` in {path} is {getattr(hyper, name)!r}; wanted what DeePMD-kit has there.")
    return hyper
