"""The embedded-atom neural network of Zhang, Hu and Jiang."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .. import units
from .._archives import MOST_BYTES, as_weights, listed, read_archive
from .._array_pickles import as_array, read_pickle
from .._elements import atomic_number
from .._fields import Parameter, checked, finite, positive_number
from .._misc import as_float_array, require_constant, require_count, require_instance, require_key, require_positive
from .._topology import Topology
from ._kinds import SortedKinds
from ._many_body import AbstractGraphPotential
from ._terms import AbstractAtomIndexed


class EANN(AbstractGraphPotential, AbstractAtomIndexed):
    """An embedded-atom neural network: a network of each atom's embedded densities,

        φ_n(ij) = c exp(-α (r - r_s)²) f(r),    f(r) = [½ cos(πr/r_c) + ½]²
        ρ_{L,n}(i) = Σ_{abc… of L letters} (Σ_j φ_n(ij) r_a r_b …)²,    L = 0, 1, 2 …
        E = Σ_i network_{Z_i}(ρ(i)) + offset

    with c, α and r_s of the neighbor's element, and r⃗ from an atom to its neighbor, not normalized. A network is
    linear – normalize – SiLU – linear – normalize – SiLU – linear, each SiLU as aβx/(1 + exp(-βx)).

    Lengths inside are in Å and energies in kJ/mol, as published, so that parameters and rates of learning mean what
    they mean there; everything around is in nm, as everywhere.

    Made by `EANN.from_npz` or `EANN.from_pickle` of published weights, or by `EANN.fresh` to be trained. All arrays are
    parameters; the first axis is the element.

    **Reference:** Y. Zhang, C. Hu and B. Jiang, J. Phys. Chem. Lett. 10, 4962 (2019).
    """

    amplitudes: Parameter = finite("units of 1")
    """c, (elements, radial)."""
    widths: Parameter = finite("1/Å²")
    """α."""
    shifts: Parameter = finite("Å")
    """r_s."""
    offset: Parameter = finite("kJ/mol")
    """Of every atom."""
    layers: tuple["_Layer", ...] = eqx.field(kw_only=True)
    last: tuple[Array, Array] = eqx.field(kw_only=True)
    kinds: SortedKinds = eqx.field(kw_only=True)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)
    max_degree: int = eqx.field(static=True, kw_only=True)
    """The largest L."""

    @classmethod
    def from_npz(
        cls,
        path: str | Path,
        topology: Topology,
        *,
        elements: Sequence[str] = ("H", "O"),
        cutoff: float = 0.6,
        max_degree: int = 2,
    ) -> "EANN":
        """Weights from a NumPy archive, for the atoms of a topology.

        **Arguments:** `path`, of arrays `c`, `inta`, `rs` (elements, radial); `w0`, `b0`, `w3`, `b3`, `w6`, `b6` of the
        linear layers (elements, inputs, outputs) and (elements, outputs); `w1`, `b1`, `w4`, `b4`, the scales and shifts
        of normalizations; `w2`, `b2`, `w5`, `b5`, the heights and steepnesses of SiLU; `initpot`, one number.
        `elements` in the order of the first axis; `cutoff` (nm) and `max_degree`, the largest L, which archives do not
        tell.

        **Errors:** `ValueError` for a file that is none or damaged, arrays that are missing or do not fit, and atoms of
        an element that is not among `elements`.
        """
        names = [f"{kind}{k}" for k in range(7) for kind in "wb"]
        arrays = read_archive(path, [*names, "c", "inta", "rs", "initpot"])
        return cls._of_arrays(path, arrays, topology, elements, cutoff, max_degree)

    @classmethod
    def from_pickle(
        cls,
        path: str | Path,
        topology: Topology,
        *,
        elements: Sequence[str] = ("H", "O"),
        cutoff: float = 0.6,
        max_degree: int = 2,
    ) -> "EANN":
        """Weights from a pickle of parameters, as DMFF's `EANNForce` has them. It is read and not run: what it names
        besides arrays is refused.

        **Arguments:** `path`, of a dictionary of arrays `w.0` … `b.6`, `density.params`, `density.rs`, `density.inta`
        and `nnmod.initpot`, with linear layers (elements, outputs, inputs), as PyTorch keeps them; or of lists `w` and
        `b`, and `c`, `rs`, `inta` and `initpot`, with linear layers (elements, inputs, outputs), alone or under
        `energy`. The others as for `from_npz`: `elements` by rising mass, as DMFF sorts them.

        **Errors:** as for `from_npz`.
        """
        return cls._of_arrays(path, _of_dmff(path, read_pickle(path)), topology, elements, cutoff, max_degree)

    @classmethod
    def _of_arrays(cls, path, arrays, topology, elements, cutoff, max_degree):
        require_count("max_degree", max_degree, least=0)
        num, radial = len(elements), arrays["c"].shape[-1] if arrays["c"].ndim else 0
        first, second = (arrays[name].shape[-1] if arrays[name].ndim else 0 for name in ("w0", "w3"))
        inputs = {0: radial * (max_degree + 1), 3: first, 6: second}
        outputs = {0: first, 1: first, 2: first, 3: second, 4: second, 5: second, 6: 1}
        shapes = dict.fromkeys(("c", "inta", "rs"), (num, radial)) | {"initpot": ()}
        shapes |= {f"b{k}": (num, size) for k, size in outputs.items()}
        shapes |= {f"w{k}": (num, inputs[k], size) if k in inputs else (num, size) for k, size in outputs.items()}
        for name, shape in shapes.items():
            # the same but for axes of length one
            if [n for n in arrays[name].shape if n != 1] != [n for n in shape if n != 1]:
                raise ValueError(
                    f"`{name}` in {path} has shape {arrays[name].shape}; wanted {shape} for {num} elements, {radial}"
                    f" radial functions and a `max_degree` of {max_degree}."
                )
        of = lambda name: as_float_array(arrays[name].reshape(shapes[name]))
        layer = lambda k: _Layer(*(of(f"{kind}{n}") for n in (k, k + 1, k + 2) for kind in "wb"))
        return cls(
            of("c"),
            of("inta"),
            of("rs"),
            of("initpot"),
            layers=(layer(0), layer(3)),
            last=(of("w6"), of("b6")),
            kinds=SortedKinds.of_elements(topology, elements, cls.__name__),
            cutoff=cutoff,
            max_degree=max_degree,
        )

    @classmethod
    def fresh(
        cls,
        topology: Topology,
        *,
        key: PRNGKeyArray,
        cutoff: float = 0.6,
        num_radial: int = 12,
        max_degree: int = 2,
        hidden: Sequence[int] = (64, 64),
        elements: Sequence[str] | None = None,
    ) -> "EANN":
        """A network to be trained, none of whose gradients vanish, for the atoms of a topology.

        **Arguments:** `key`; `cutoff`, nm; `num_radial`, how many radial functions: centers from 0 to the cutoff, as
        wide as they are apart; `max_degree`, the largest L; `hidden`, the widths of the hidden layers; `elements`, by
        default those of the topology.

        **Errors:** `ValueError` for atoms of an element that is not among `elements`, and numbers that are not
        positive.
        """
        require_instance("topology", topology, Topology)
        require_key("key", key)
        require_constant("cutoff", cutoff)
        require_positive("cutoff", cutoff, "nm")
        require_count("num_radial", num_radial)
        require_count("max_degree", max_degree, least=0)
        for size in hidden:
            require_count("hidden", size)
        elements = sorted(set(topology.elements), key=atomic_number) if elements is None else elements
        num, reach = len(elements), cutoff / units.ANGSTROM
        spacing = reach / num_radial
        shifts = jnp.broadcast_to(spacing * jnp.arange(num_radial), (num, num_radial))
        sizes = [num_radial * (max_degree + 1), *hidden, 1]
        keys = jax.random.split(key, len(sizes))
        dense = [
            jax.random.normal(k, (num, a, b)) / math.sqrt(a)
            for k, a, b in zip(keys[1:], sizes[:-1], sizes[1:], strict=True)
        ]
        rows = lambda value, size: jnp.full((num, size), value)
        layers = [_Layer(w, *(rows(v, w.shape[2]) for v in (0.0, 1.0, 0.0, 1.0, 1.0))) for w in dense[:-1]]
        return cls(
            jax.random.normal(keys[0], (num, num_radial)),
            jnp.full((num, num_radial), 1 / spacing**2),
            shifts,
            0.0,
            layers=tuple(layers),
            last=(dense[-1], rows(0.0, 1)),
            kinds=SortedKinds.of_elements(topology, elements, cls.__name__),
            cutoff=cutoff,
            max_degree=max_degree,
        )

    def require_atoms(self, num_atoms):
        self.kinds.require_atoms("EANN", num_atoms)

    def densities(self, edges) -> Float[Array, "atoms features"]:
        """ρ of every atom, all n of L = 0 first."""
        d = [edges.d[..., k] / units.ANGSTROM for k in range(3)]
        r = jnp.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        cut = jnp.where(edges.mask, _cosine_cutoff(r * (units.ANGSTROM / self.cutoff)), 0)
        kind = edges.of_neighbors(self.kinds.of_atom)
        c, alpha, shift = (_of_kind(x, kind) for x in (self.amplitudes, self.widths, self.shifts))
        radial = c * jnp.exp(-alpha * (r[:, None] - shift) ** 2) * cut[:, None]
        # one product of matrices for all L
        products, degrees = [], []
        for degree in range(self.max_degree + 1):
            for axes, w in _monomials(degree):
                products.append(w * math.prod((d[a] for a in axes), start=jnp.ones_like(r)))
                degrees.append(degree)
        sums = jnp.einsum("icj,inj->icn", jnp.stack(products, axis=1), radial, precision=jax.lax.Precision.HIGHEST)
        ends = np.cumsum(np.bincount(degrees))
        blocks = jnp.split(sums * sums, ends[:-1], axis=1)
        return jnp.concatenate([jnp.sum(block, axis=1) for block in blocks], axis=1)

    def atom_energies(self, edges):
        return self.kinds.map(self._network, self.densities(edges)) + self.offset

    def _network(self, kind, x):
        for layer in self.layers:
            x = layer(kind, x)
        weights, bias = self.last
        return (_times(x, weights[kind]) + bias[kind])[:, 0]


class _Layer(eqx.Module):
    """Linear, normalized, SiLU; of all elements."""

    weights: Float[Array, "elements inputs outputs"]
    bias: Float[Array, "elements outputs"]
    scale: Float[Array, "elements outputs"]
    shift: Float[Array, "elements outputs"]
    height: Float[Array, "elements outputs"]
    steepness: Float[Array, "elements outputs"]

    def __call__(self, kind, x):
        x = _times(x, self.weights[kind]) + self.bias[kind]
        x = x - jnp.mean(x, axis=1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + 1e-5)
        x = x * self.scale[kind] + self.shift[kind]
        return self.height[kind] * jax.nn.silu(self.steepness[kind] * x)


def _times(x, weights):
    return jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST)


def _of_kind(values, kind):
    """Those of every neighbor (1 or atoms, radial, near), by its kind: choices, which fuse, where a gather would be an
    array of its own."""
    out = jnp.broadcast_to(values[0][:, None], (len(kind), values.shape[1], kind.shape[1]))
    for k in range(1, len(values)):
        out = jnp.where(kind[:, None] == k, values[k][:, None], out)
    return out


def _monomials(degree):
    """The distinct products of so many components, and the root of how often each comes in all of them."""
    for letters in itertools.combinations_with_replacement(range(3), degree):
        times = math.factorial(degree) / math.prod(math.factorial(letters.count(a)) for a in range(3))
        yield letters, math.sqrt(times)


def _cosine_cutoff(x):
    """[½ cos(πx) + ½]² = cos⁴(πx/2) for 0 <= x <= 1, by a series exact to rounding; XLA's cosine is slow."""
    terms = 8 if x.dtype.itemsize <= 4 else 12
    y = (0.5 * math.pi * x) ** 2
    cosine = jnp.zeros_like(x)
    for k in reversed(range(terms)):
        cosine = cosine * y + (-1) ** k / math.factorial(2 * k)
    return cosine**4


def _of_dmff(path, content):
    """The arrays of a pickle by the names that `from_npz` has for them."""
    if isinstance(content, dict) and isinstance(content.get("energy"), dict):
        content = content["energy"]
    if not isinstance(content, dict):
        raise ValueError(f"{path} has a `{type(content).__name__}`; wanted a dictionary of arrays.")
    flat = "w.0" in content
    found = {}
    for kind, k in itertools.product("wb", range(7)):
        layers = content.get(kind)
        layers = layers if isinstance(layers, list | tuple) else ()
        x = content.get(f"{kind}.{k}") if flat else layers[k] if k < len(layers) else None
        found[f"{kind}{k}"] = (f"{kind}.{k}" if flat else f"{kind}[{k}]", as_array(x))
    for name, other in {"c": "params", "rs": "rs", "inta": "inta", "initpot": "initpot"}.items():
        full = f"nnmod.{other}" if name == "initpot" else f"density.{other}"
        full = full if full in content else name
        found[name] = (full, as_array(content.get(full)))
    missing = [theirs for theirs, x in found.values() if x is None]
    if missing:
        raise ValueError(f"{path} lacks {listed(missing)}; it has {listed(list(map(str, content)))}. Wanted arrays.")
    present = {name: (theirs, x) for name, (theirs, x) in found.items() if x is not None}
    size = sum(8 * x.size for _, x in present.values())  # one array may stand in many places
    if size > MOST_BYTES:
        raise ValueError(f"{path} has arrays of {size} bytes, at most {MOST_BYTES} are read.")
    arrays = {name: as_weights(path, theirs, x) for name, (theirs, x) in present.items()}
    if flat:
        arrays |= {name: arrays[name].swapaxes(1, 2) for name in ("w0", "w3", "w6") if arrays[name].ndim == 3}
    return arrays
