"""The dipole of Wannier centers that a network places, in the descriptor of Deep Potentials (se_e2_a)."""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import units
from .._archives import read_archive
from .._misc import as_float_array, cast_floats, require_shape
from .._neighbors import Edges
from .._potential._kinds import SortedKinds
from .._potential._terms import AbstractAtomIndexed
from .._topology import Topology
from ._base import AbstractDipole


class DeepDipole(AbstractDipole, AbstractAtomIndexed):
    """A Deep Dipole: charges at the atoms, and what a network displaces from some of them,

        M = Σ_a q_a x_a + scale Σ_i W_i,    W_i = Σ_m f_m(D_i) A_i[1:4, m],    D_i = A_iᵀ A_i[:, :axis]
        A_i = Σ_j row_ij ⊗ G(row_ij[0]) / slots,    row_ij = ((s, s x/r, s y/r, s z/r) - mean) / deviation

    with s = 1/r up to `onset`, going to zero at the `cutoff` with two continuous derivatives, G the embedding network
    of two elements and f the fitting network of the center's. Of water, the charges are +1 on hydrogen and -2 on
    oxygen, its core and four Wannier centers, and W is the sum of these centers' displacements.

    A place without neighbor has a part in the sum too, the row's of s = 0, as in training; so the number of places is a
    parameter of the model, and atoms beyond their number count, which DeePMD-kit leaves out.

    **Reference:** L. Zhang et al., Phys. Rev. B 102, 041121 (2020).
    """

    embeddings: tuple[tuple["_Network", ...], ...]
    """Of every kind of center, and every kind of neighbor."""
    fittings: tuple["_Network", ...]
    mean: Float[Array, "centers kinds 4"]
    deviation: Float[Array, "centers kinds 4"]
    kinds: SortedKinds
    charges: tuple[float, ...] = eqx.field(static=True)
    """Of every kind, e."""
    centers: tuple[int, ...] = eqx.field(static=True)
    """The kinds that have a displacement."""
    slots: tuple[int, ...] = eqx.field(static=True)
    """How many neighbors of every kind the descriptor has places for."""
    axis: int = eqx.field(static=True)
    onset: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    """e nm of one unit of W."""

    @classmethod
    def from_npz(cls, weights: str | Path, hyperparameters: str | Path, topology: Topology) -> "DeepDipole":
        """A published model, for the atoms of a topology.

        **Arguments:** `weights`, a NumPy archive of `davg` and `dstd` (kinds, slots, 4), the embedding networks
        `emb_c0_n0_W1`, `emb_c0_n0_b1` … (center, neighbor, layer from 1) and the fitting network `fit_W0`, `fit_b0`,
        `fit_idt1` …; `hyperparameters`, a JSON file of `type_map`, `sel_type`, `rcut` and `rcut_smth` (Å), `sel`,
        `neuron`, `axis_neuron` and `fitting_neuron`, as DeePMD-kit names them.

        **Errors:** `ValueError` for files that are none, damaged, lack something or do not fit together, and atoms of
        an element that the model does not know.
        """
        hyper = _read_hyperparameters(hyperparameters)
        elements, slots = hyper.type_map, hyper.sel
        names = [
            f"emb_c{c}_n{n}_{kind}{k + 1}"
            for c in hyper.sel_type for n in range(len(elements)) for k in range(len(hyper.neuron)) for kind in "Wb"
        ]  # fmt: skip
        depth = len(hyper.fitting_neuron)
        steps = [f"fit_idt{k}" for k in range(1, depth)]
        names += [f"fit_{kind}{k}" for k in range(depth + 1) for kind in "Wb"] + steps + ["davg", "dstd"]
        arrays = {name: as_float_array(x) for name, x in read_archive(weights, names).items()}

        _require_shapes(weights, arrays, hyper)

        def embedding(c, n):
            layers = range(1, len(hyper.neuron) + 1)
            of = lambda kind: tuple(arrays[f"emb_c{c}_n{n}_{kind}{k}"] for k in layers)
            return _Network(of("W"), of("b"), (None,) * len(hyper.neuron), linear=False)

        of = lambda kind: tuple(arrays[f"fit_{kind}{k}"] for k in range(depth + 1))
        fitting = _Network(of("W"), of("b"), (None, *(arrays[name] for name in steps), None), linear=True)
        first = np.cumsum((0, *slots))[:-1]  # the statistics are the same for all places of a kind
        rows = lambda x: x[jnp.asarray(hyper.sel_type)][:, first]
        return cls(
            tuple(tuple(embedding(c, n) for n in range(len(elements))) for c in hyper.sel_type),
            (fitting,) * len(hyper.sel_type),
            rows(arrays["davg"]),
            rows(arrays["dstd"]),
            SortedKinds.of_elements(topology, elements, cls.__name__),
            charges=tuple(_CHARGES[e] for e in elements),
            centers=tuple(hyper.sel_type),
            slots=tuple(slots),
            axis=hyper.axis_neuron,
            onset=hyper.rcut_smth * units.ANGSTROM,
            cutoff=hyper.rcut * units.ANGSTROM,
            scale=-0.02,
        )

    def require_atoms(self, num_atoms):
        self.kinds.require_atoms("DeepDipole", num_atoms)

    def moment(self, positions, box, *, neighbors=None):
        model = cast_floats(self, positions.dtype)
        charges = jnp.asarray(self.charges, positions.dtype)[self.kinds.of_atom]
        displaced = model.displacements(positions, box, neighbors=neighbors)
        return jnp.sum(charges[:, None] * positions, axis=0) + self.scale * jnp.sum(displaced, axis=0)

    def displacements(self, positions, box, *, neighbors=None) -> Float[Array, "centers 3"]:
        """W of every center, kind by kind, in the unit of the network."""
        self.require_atoms(len(positions))
        listed = neighbors is not None and neighbors.of_atom is not None
        edges = Edges.within(self.cutoff, positions, box, neighbors if listed else None)
        starts = np.cumsum((0, *self.kinds.counts))
        found = []
        for place, kind in enumerate(self.centers):
            rows = self.kinds.order[starts[kind] : starts[kind + 1]]
            of_rows = Edges(*(x[rows] for x in edges))
            found.append(self._of_centers(place, of_rows, None if listed else starts))
        return jnp.concatenate(found)

    def _of_centers(self, place, edges, starts):
        """W of all centers of a kind."""
        d = [edges.d[..., k] / units.ANGSTROM for k in range(3)]
        r = jnp.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        s = jnp.where(edges.mask, _switch(r, self.onset / units.ANGSTROM, self.cutoff / units.ANGSTROM) / r, 0)
        rows = [s, *(s * x / r for x in d)]
        total = jnp.zeros((), r.dtype)
        for kind, slots in enumerate(self.slots):
            net = self.embeddings[place][kind]
            mean, deviation = self.mean[place, kind], self.deviation[place, kind]
            if starts is None:
                here = self.kinds.of_atom[edges.j] == kind
                of_kind = [jnp.where(here, row, 0) for row in rows]
            else:
                columns = self.kinds.order[starts[kind] : starts[kind + 1]]
                of_kind = [row[:, columns] for row in rows]
            scaled = jnp.stack([(row - mean[k]) / deviation[k] for k, row in enumerate(of_kind)], axis=1)
            total = total + jnp.einsum("ikj,ijm->ikm", scaled, net(scaled[:, 0, :, None]), precision="highest")
            empty = -mean / deviation
            total = total + (slots - scaled.shape[2]) * empty[:, None] * net(empty[:1])
        a = total / sum(self.slots)
        descriptor = jnp.einsum("ikm,ikn->imn", a, a[:, :, : self.axis], precision="highest")
        f = self.fittings[place](descriptor.reshape(len(a), -1))
        return jnp.einsum("im,ikm->ik", f, a[:, 1:], precision="highest")


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


def _read_hyperparameters(path):
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}); wanted a file of hyperparameters.") from error
    missing = [name for name in _Hyperparameters._fields if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f"{path} lacks `{'`, `'.join(missing)}`; wanted the hyperparameters of a Deep Dipole.")
    foreign = [element for element in content["type_map"] if element not in _CHARGES]
    if foreign:
        raise ValueError(f"`type_map` in {path} has {foreign[0]}; wanted H and O, whose charges are known here.")
    # the inner cutoff as the program that trained it rounded it, where it is told
    content = {**content, "rcut_smth": content.get("rcut_smth_as_used", content["rcut_smth"])}
    return _Hyperparameters(**{name: content[name] for name in _Hyperparameters._fields})


def _require_shapes(path, arrays, hyper):
    """Refuses arrays that the hyperparameters do not describe."""
    num, width = len(hyper.type_map), hyper.neuron[-1]
    shapes = dict.fromkeys(("davg", "dstd"), (num, sum(hyper.sel), 4))
    sizes = [1, *hyper.neuron]
    for c in hyper.sel_type:
        for n in range(num):
            for k, (a, b) in enumerate(itertools.pairwise(sizes), start=1):
                shapes |= {f"emb_c{c}_n{n}_W{k}": (a, b), f"emb_c{c}_n{n}_b{k}": (b,)}
    for k, (a, b) in enumerate(itertools.pairwise([width * hyper.axis_neuron, *hyper.fitting_neuron, width])):
        shapes |= {f"fit_W{k}": (a, b), f"fit_b{k}": (b,), f"fit_idt{k}": (b,)}
    for name, x in arrays.items():
        require_shape(f"{name}` in `{path}", x, shapes[name], "As the hyperparameters say.")


_CHARGES = {"H": 1.0, "O": -2.0}
"""Of the core and the Wannier centers that a displacement is of, e."""


class _Network(eqx.Module):
    """Layers of tanh, times a step where there is one; those that keep or double the width add their input."""

    weights: tuple[Float[Array, "_ _"], ...]
    biases: tuple[Float[Array, " _"], ...]
    steps: tuple[Float[Array, " _"] | None, ...]
    linear: bool = eqx.field(static=True)
    """Whether the last layer has no tanh."""

    def __call__(self, x):
        for k, (w, b, step) in enumerate(zip(self.weights, self.biases, self.steps, strict=True)):
            y = jnp.matmul(x, w, precision=jax.lax.Precision.HIGHEST) + b
            if self.linear and k == len(self.weights) - 1:
                return y
            y = jnp.tanh(y)
            y = y if step is None else y * step
            if w.shape[1] == w.shape[0]:
                y = y + x
            elif w.shape[1] == 2 * w.shape[0]:
                y = y + jnp.concatenate([x, x], axis=-1)
            x = y
        return x


def _switch(r, onset, cutoff):
    u = jnp.clip((r - onset) / (cutoff - onset), 0, 1)
    return u**3 * (-6 * u**2 + 15 * u - 10) + 1
