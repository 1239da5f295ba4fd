"""What Deep Dipoles and Deep Polarizabilities see of an atom's neighborhood: the descriptor se_e2_a, and networks."""

import itertools
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .. import units
from .._box import AbstractBox, OpenBox, require_one_image
from .._misc import (
    as_float_array,
    is_concrete,
    require_constant,
    require_count,
    require_finite,
    require_instance,
    require_key,
    require_positive,
    require_shape,
    smooth_step,
)
from .._neighbors import Edges
from .._potential._kinds import SortedKinds
from .._topology import Topology


class Descriptor(eqx.Module):
    """The environments of some kinds of atoms, which turn with them, and their products, which do not:

        A_i = Σ_j row_ij ⊗ G(row_ij[0]) / slots,    row_ij = ((s, s x/r, s y/r, s z/r) - mean) / deviation
        D_i = A_iᵀ A_i[:, :axis]

    with s = 1/r (1/Å) up to `onset`, going to zero at the `cutoff` with two continuous derivatives, and G the embedding
    network of two elements. A place without neighbor has a part in the sum too, the row's of s = 0, as in training; so
    the number of places is a parameter of the model, and atoms beyond their number count, which DeePMD-kit leaves out.

    **Reference:** L. Zhang et al., NeurIPS 31, 4441 (2018).
    """

    embeddings: tuple[tuple["Network", ...], ...]
    """Of every kind of center, and every kind of neighbor."""
    mean: Float[Array, "centers kinds 4"]
    deviation: Float[Array, "centers kinds 4"]
    kinds: SortedKinds
    centers: tuple[int, ...] = eqx.field(static=True)
    """The kinds whose environments are wanted."""
    slots: tuple[int, ...] = eqx.field(static=True)
    """How many neighbors of every kind there are places for."""
    axis: int = eqx.field(static=True)
    onset: float = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    def environments(
        self, positions, box, neighbors
    ) -> list[tuple[Float[Array, "some 4 width"], Float[Array, "some products"]]]:
        """A and D of the centers, kind by kind."""
        listed = neighbors is not None and neighbors.of_atom is not None
        edges = Edges.within(self.cutoff, positions, box, neighbors if listed else None)
        starts = np.cumsum((0, *self.kinds.counts))
        found = []
        for place, kind in enumerate(self.centers):
            rows = self.kinds.order[starts[kind] : starts[kind + 1]]
            of_rows = jax.tree.map(lambda x, rows=rows: x[rows], edges)
            a = self._of_centers(place, of_rows, starts)
            products = jnp.einsum("ikm,ikn->imn", a, a[:, :, : self.axis], precision="highest")
            found.append((a, products.reshape(len(a), -1)))
        return found

    def _of_centers(self, place, edges, starts):
        """A of all centers of a kind."""
        d = [edges.d[..., k] for k in range(3)]
        r = jnp.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        s = jnp.where(edges.mask, _inverse(r, self.onset, self.cutoff), 0)
        rows = [s, *(s * x / r for x in d)]
        total = jnp.zeros((), r.dtype)
        for kind, slots in enumerate(self.slots):
            net = self.embeddings[place][kind]
            mean, deviation = self.mean[place, kind], self.deviation[place, kind]
            if edges.listed:
                here = self.kinds.of_atom[edges.j] == kind
                of_kind = [jnp.where(here, row, 0) for row in rows]
            else:
                columns = self.kinds.order[starts[kind] : starts[kind + 1]]
                of_kind = [row[:, columns] for row in rows]
            scaled = jnp.stack([(row - mean[k]) / deviation[k] for k, row in enumerate(of_kind)], axis=1)
            total = total + jnp.einsum("ikj,ijm->ikm", scaled, net(scaled[:, 0, :, None]), precision="highest")
            empty = -mean / deviation
            total = total + (slots - scaled.shape[2]) * empty[:, None] * net(empty[:1])
        return total / sum(self.slots)


def _inverse(r, onset, cutoff):
    """s, 1/Å, of a distance in nm."""
    return smooth_step((r - onset) / (cutoff - onset)) / (r / units.ANGSTROM)


class Network(eqx.Module):
    """Layers of tanh, times a step where there is one; residual ones add their input, or twice it side by side."""

    weights: tuple[Float[Array, "_ _"], ...]
    biases: tuple[Float[Array, " _"], ...]
    steps: tuple[Float[Array, " _"] | None, ...]
    residual: tuple[bool, ...] = eqx.field(static=True)
    linear: bool = eqx.field(static=True)
    """Whether the last layer has no tanh."""

    @staticmethod
    def embedding(weights: Sequence[Array], biases: Sequence[Array], steps: Sequence[Array | None]) -> "Network":
        """As DeePMD-kit has it: residual where a layer keeps or doubles the width."""
        residual = tuple(w.shape[1] in (w.shape[0], 2 * w.shape[0]) for w in weights)
        return Network(tuple(weights), tuple(biases), tuple(steps), residual, linear=False)

    @staticmethod
    def fitting(weights: Sequence[Array], biases: Sequence[Array], steps: Sequence[Array | None]) -> "Network":
        """As DeePMD-kit has it: residual where a hidden layer behind the first keeps the width; the last is linear."""
        residual = tuple(0 < k < len(weights) - 1 and w.shape[1] == w.shape[0] for k, w in enumerate(weights))
        return Network(tuple(weights), tuple(biases), tuple(steps), residual, linear=True)

    @staticmethod
    def fresh(sizes: Sequence[int], *, linear: bool, key: PRNGKeyArray) -> "Network":
        """Random weights that keep the size of what goes through them."""
        pairs = list(itertools.pairwise(sizes))
        keys = jax.random.split(key, (len(pairs), 2))
        weights = [jax.random.normal(k[0], p) / math.sqrt(p[0]) for k, p in zip(keys, pairs, strict=True)]
        # without biases, what is odd in s would stay so through every layer of an embedding
        biases = [jax.random.normal(k[1], p[1:]) for k, p in zip(keys, pairs, strict=True)]
        if linear:
            biases[-1] = jnp.zeros_like(biases[-1])
        make = Network.fitting if linear else Network.embedding
        return make(weights, biases, [None] * len(pairs))

    def __call__(self, x):
        for k, (w, b, step) in enumerate(zip(self.weights, self.biases, self.steps, strict=True)):
            y = jnp.matmul(x, w, precision=jax.lax.Precision.HIGHEST) + b
            if self.linear and k == len(self.weights) - 1:
                return y
            y = jnp.tanh(y)
            y = y if step is None else y * step
            if self.residual[k]:
                y = y + (x if w.shape[1] == w.shape[0] else jnp.concatenate([x, x], axis=-1))
            x = y
        return x


def fresh(
    owner: str,
    topology: Topology,
    positions: Float[Array, "atoms 3"],
    box: AbstractBox,
    *,
    elements: Sequence[str],
    centers: Sequence[str] | None,
    cutoff: float,
    onset: float,
    neurons: Sequence[int],
    axis: int,
    hidden: Sequence[int],
    key: PRNGKeyArray,
) -> tuple[Descriptor, tuple[Network, ...]]:
    """A descriptor whose rows have mean squares of one in the configuration given, and the fitting networks of its
    centers, all of random weights; see `DeepDipole.fresh`."""
    require_instance("topology", topology, Topology)
    require_shape("positions", positions, (len(topology.masses), 3), "As many atoms as the topology has.")
    require_instance("box", box, AbstractBox)
    if not is_concrete((positions, box)):
        raise ValueError("`positions` and `box` are traced; wanted a known configuration.")
    require_finite("positions", positions)
    if isinstance(elements, str) or len(set(elements)) != len(elements):
        raise ValueError(f"`elements` is {elements!r}; wanted a list of different symbols, such as ('O', 'H').")
    for name, value in {"cutoff": cutoff, "onset": onset}.items():
        require_constant(name, value)
        require_positive(name, value, "nm")
    if onset >= cutoff:
        raise ValueError(f"`onset` is {onset} nm; wanted a distance below the cutoff, {cutoff} nm.")
    if not isinstance(box, OpenBox):
        require_one_image("`cutoff`", cutoff, box)
    _require_sizes("neurons", neurons)
    _require_sizes("hidden", hidden)
    require_count("axis", axis)
    if axis > neurons[-1]:
        raise ValueError(f"`axis` is {axis}; wanted at most the width of the last layer, {neurons[-1]}.")
    require_key("key", key)
    kinds = SortedKinds.of_elements(topology, elements, owner)
    chosen = _indices_of("centers", elements if centers is None else centers, elements)
    deviation, slots = _statistics(
        kinds, chosen, Edges.within(cutoff, as_float_array(positions), box, None), onset, cutoff
    )
    keys = jax.random.split(key, (len(chosen), len(elements) + 1))
    sizes = (neurons[-1] * axis, *hidden, neurons[-1])
    descriptor = Descriptor(
        tuple(tuple(Network.fresh([1, *neurons], linear=False, key=k) for k in row[1:]) for row in keys),
        jnp.zeros_like(deviation),
        deviation,
        kinds,
        centers=chosen,
        slots=slots,
        axis=axis,
        onset=onset,
        cutoff=cutoff,
    )
    return descriptor, tuple(Network.fresh(sizes, linear=True, key=row[0]) for row in keys)


def _statistics(kinds, centers, edges, onset, cutoff):
    """Roots of mean squares of the entries of rows, by center and neighbor, and the most neighbors of each kind."""
    s = np.asarray(_inverse(jnp.linalg.norm(edges.d, axis=-1), onset, cutoff))
    of_atom, mask = np.asarray(kinds.of_atom), np.asarray(edges.mask)
    neighbor = of_atom[np.asarray(edges.j)]
    root, slots = np.ones((len(centers), len(kinds.counts))), np.ones(len(kinds.counts), int)
    for place, center in enumerate(centers):
        for n in range(len(kinds.counts)):
            found = mask & (of_atom == center)[:, None] & (neighbor == n)
            if np.any(found):
                root[place, n] = np.sqrt(np.mean(s[found] ** 2))
                slots[n] = max(slots[n], math.ceil(np.sum(found) / kinds.counts[center]))
    # the square of s is shared by three directions
    return as_float_array(root[:, :, None] * np.array([1.0, *[3**-0.5] * 3])), tuple(slots.tolist())


def require_scale(scale: float, unit: str) -> None:
    """Refuses what is no unit of a network's output; it may have either sign."""
    require_constant("scale", scale)
    require_positive("scale", abs(scale), unit)


def _require_sizes(name, sizes):
    if not isinstance(sizes, tuple | list) or not sizes:
        raise TypeError(f"`{name}` is {sizes!r}; wanted the widths of layers, such as (25, 50, 100).")
    for size in sizes:
        require_count(name, size)


def _indices_of(name, chosen, elements):
    """The places of some elements among all, in the order of all."""
    if isinstance(chosen, str) or not chosen or any(e not in elements for e in chosen):
        raise ValueError(f"`{name}` is {chosen!r}; wanted some of the elements {', '.join(elements)}.")
    return tuple(k for k, e in enumerate(elements) if e in chosen)
