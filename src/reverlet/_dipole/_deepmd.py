"""Models as DeePMD-kit keeps them, whatever the file, to descriptors and networks."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import units
from .._archives import as_weights, read_archive
from .._frozen_graph import FrozenGraph
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


def read_frozen(path: str | Path, model_type: str) -> Published:
    """See `DeepDipole.from_frozen`."""
    graph = FrozenGraph(path)
    told = graph.text("model_attr/model_type")
    if told != model_type:
        raise ValueError(f"{path} is a model of `{told[:60]}`; wanted one of `{model_type}`.")
    _require_script(graph)
    elements = tuple(graph.text("model_attr/tmap").split())
    centers, slots = (_wholes(graph, name) for name in ("model_attr/sel_type", "descrpt_attr/sel"))
    if not 0 < len(slots) == len(elements) == len(set(elements)) < 1000 or min(slots) < 1 or sum(slots) > 10**6:
        raise ValueError(f"{path} has `descrpt_attr/sel` of {len(slots)} kinds and {len(elements)} elements.")
    if not centers or len(set(centers)) != len(centers) or not all(0 <= c < len(elements) for c in centers):
        raise ValueError(f"`model_attr/sel_type` in {path} is {centers[:9]}; wanted some of {len(elements)} elements.")
    numbers = graph.numbers("ProdEnvMatA", "DescrptSeA")
    if not {"rcut_r", "rcut_r_smth"} <= set(numbers):
        raise ValueError(f"{path} does not say from where to where its switch is (`rcut_r_smth`, `rcut_r`).")
    shape = (len(elements), sum(slots), 4)
    mean, deviation = (
        as_weights(path, name, graph.array(name)) for name in ("descrpt_attr/t_avg", "descrpt_attr/t_std")
    )
    for name, x in {"descrpt_attr/t_avg": mean, "descrpt_attr/t_std": deviation}.items():
        require_shape(f"{name}` in `{path}", x, (shape[0], shape[1] * shape[2]), "Of elements and places.")

    def embedding(c, n):
        of_center = f"filter_type_{c}" if f"filter_type_{c}/matrix_1_{n}" in graph else "filter_type_all"
        depth = next(k for k in itertools.count(1) if f"{of_center}/matrix_{k}_{n}" not in graph)
        return Network.embedding(*_layers(graph, [f"{of_center}/{{}}_{k}_{n}" for k in range(1, max(depth, 2))]))

    def fitting(c):
        depth = next(k for k in itertools.count() if f"layer_{k}_type_{c}/matrix" not in graph)
        names = [f"layer_{k}_type_{c}" for k in range(max(depth, 1))] + [f"final_layer_type_{c}"]
        return Network.fitting(*_layers(graph, [f"{name}/{{}}" for name in names]))

    return Published(
        Path(path),
        elements,
        centers,
        slots,
        numbers["rcut_r_smth"],
        numbers["rcut_r"],
        tuple(tuple(embedding(c, n) for n in range(len(elements))) for c in centers),
        tuple(map(fitting, centers)),
        mean.reshape(shape),
        deviation.reshape(shape),
    )


def _layers(graph, names):
    """Weights, biases and steps (`idt`) of layers, of which only the last may be absent."""

    def read(name, ndim):
        x = as_weights(graph.path, name, graph.array(name))
        x = x.reshape(-1) if ndim == 1 else x
        require_shape(f"{name}` in `{graph.path}", x, (None,) * ndim, "Of a layer.")
        return as_float_array(x)

    steps = [read(name.format("idt"), 1) if name.format("idt") in graph else None for name in names]
    return [read(n.format("matrix"), 2) for n in names], [read(n.format("bias"), 1) for n in names], steps


def _wholes(graph, name):
    x = graph.array(name)
    if x.dtype.kind != "i" or x.ndim != 1:
        raise ValueError(f"`{name}` in {graph.path} has shape {x.shape} and dtype {x.dtype}; wanted whole numbers.")
    return tuple(x.tolist())


def _require_script(graph):
    """Refuses what the input of the training, where it is kept, says that is not so here."""
    name = "train_attr/training_script"
    if name not in graph:
        return
    try:
        content = json.loads(graph.text(name))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"`{name}` in {graph.path} is no JSON ({error}).") from error
    of = lambda x, key: x.get(key, {}) if isinstance(x, dict) else {}
    model = of(content, "model")
    parts = {key: of(model, key) for key in ("descriptor", "fitting_net")}
    wanted = {
        "descriptor": {"type": ("se_e2_a", "se_a"), "activation_function": ("tanh",), "exclude_types": ([],)},
        "fitting_net": {"activation_function": ("tanh",)},
    }
    for part, names in wanted.items():
        for key, known in names.items():
            got = of(parts[part], key)
            if got not in ({}, None, *known):
                raise ValueError(f"`{key}` of the {part} in {graph.path} is {str(got)[:60]!r}; wanted {known[0]!r}.")
    if of(model, "type_embedding"):
        raise ValueError(f"{graph.path} has a `type_embedding`; wanted a network for every pair of elements.")


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
