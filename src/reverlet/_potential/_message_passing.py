"""A small graph network with scalars and vectors on every atom."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._elements import atomic_number
from .._fields import Parameter, checked, finite, positive_number
from .._misc import require_constant, require_count, require_instance, require_key, require_positive
from .._topology import Topology
from ._kinds import SortedKinds
from ._many_body import AbstractGraphPotential
from ._terms import AbstractAtomIndexed


class MessagePassing(AbstractGraphPotential, AbstractAtomIndexed):
    """An equivariant message-passing network. Every atom has scalars s and vectors v, zero at first; in each round

        s_i += Σ_j f⁰(r_ij) p⁰_j,    v_i += Σ_j f¹(r_ij) p¹_j d_ij/r_c + Σ_j f²(r_ij) p²_j v_j
        f(r) = Σ_n w_n T_n(2r²/r_c² - 1) (1 - r²/r_c²)³
        s_i += W σ(W' (s_i, |v_i M|²)),    σ(x) = SiLU(x + b) - SiLU(b)

    with Chebyshev polynomials T, what an atom sends, p, from its element alone in the first round and from its scalars
    after that, and b of its element. In the last round W gives the energy instead, to which the offset of the element
    is added: that is all the energy of an atom without neighbors.

    An atom's energy depends on all that is as many cutoffs away as there are rounds. Energies do not change with
    rotations, reflections and the order of atoms of an element. Polynomials of d and SiLU alone are smooth everywhere,
    and (1 - r²/r_c²)³ ends with two continuous derivatives.

    Made by `MessagePassing.fresh`. All arrays are parameters.

    **Reference:** the scalars and vectors of PaiNN, K. Schütt, O. Unke and M. Gastegger, Proc. Mach. Learn. Res. 139,
    9377 (2021), with other radial functions, squares in place of norms, and vectors that are mixed in messages only.
    """

    first: Parameter = finite("units of 1")
    """What atoms of each element send in the first round, (elements, 2, channels)."""
    offset: Parameter = finite("kJ/mol")
    """Of each element, (elements,)."""
    rounds: tuple["_Round", ...] = eqx.field(kw_only=True)
    senders: tuple["_Sender", ...] = eqx.field(kw_only=True)
    """Of all rounds but the first."""
    kinds: SortedKinds = eqx.field(kw_only=True)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)

    @classmethod
    def fresh(
        cls,
        topology: Topology,
        *,
        key: PRNGKeyArray,
        cutoff: float = 0.5,
        num_radial: int = 8,
        num_channels: int = 16,
        num_rounds: int = 2,
        elements: Sequence[str] | None = None,
    ) -> "MessagePassing":
        """A network to be trained, none of whose gradients vanish, for the atoms of a topology.

        Sums over neighbors are of order one where there are 100 atoms in a nm³, as in water.

        **Arguments:** `key`; `cutoff`, nm; `num_radial`, how many radial functions; `num_channels`, how many scalars
        and vectors an atom has; `num_rounds` of messages; `elements`, by default those of the topology.

        **Errors:** `ValueError` for atoms of an element that is not among `elements`, and numbers that are not
        positive.
        """
        require_instance("topology", topology, Topology)
        require_key("key", key)
        require_constant("cutoff", cutoff)
        require_positive("cutoff", cutoff, "nm")
        require_count("num_radial", num_radial)
        require_count("num_channels", num_channels)
        require_count("num_rounds", num_rounds)
        elements = sorted(set(topology.elements), key=atomic_number) if elements is None else elements
        num, c = len(elements), num_channels
        keys = iter(jax.random.split(key, 7 * num_rounds))
        normal = lambda *shape, inputs=1.0: jax.random.normal(next(keys), shape) / math.sqrt(inputs)
        # 0.068 is the mean square of the envelope over the sphere
        terms = num_radial * max(1.0, 0.068 * 100 * 4 / 3 * math.pi * cutoff**3)
        rounds, senders = [], []
        for k in range(num_rounds):
            if k > 0:
                senders.append(_Sender(normal(c, c, inputs=c), normal(num, c), normal(c, 3, c, inputs=c)))
            rounds.append(
                _Round(
                    normal(2 if k == 0 else 3, num_radial, c, inputs=terms),
                    normal(c, c, inputs=c),
                    normal(2 * c, c, inputs=2 * c),
                    normal(num, c),
                    normal(c, c if k < num_rounds - 1 else 1, inputs=c),
                )
            )
        return cls(
            normal(num, 2, c),
            jnp.zeros(num),
            rounds=tuple(rounds),
            senders=tuple(senders),
            kinds=SortedKinds.of_elements(topology, elements, cls.__name__),
            cutoff=cutoff,
        )

    def require_atoms(self, num_atoms):
        self.kinds.require_atoms("MessagePassing", num_atoms)

    def atom_energies(self, edges):
        kind, x = self.kinds.of_atom, edges.d / self.cutoff
        x2 = jnp.sum(x * x, axis=-1)
        radial = _chebyshev(2 * x2 - 1, self.rounds[0].filters.shape[1])
        radial = radial * jnp.where(edges.mask, (1 - x2) ** 3, 0)[:, None]
        directed = radial[:, None] * jnp.moveaxis(x, 2, 1)[:, :, None]
        # once: the compiler would compute them again in every product
        radial, directed = jax.lax.optimization_barrier((radial, directed))
        sent, s, v = self.first[kind], jnp.zeros(()), jnp.zeros(())
        for k, each in enumerate(self.rounds):
            if k > 0:
                sent = self.senders[k - 1](kind, s)
            scalars, vectors = sent[:, 0], sent[:, 1]
            s = s + _sum("inj,ijc,nc->ic", radial, edges.of_neighbors(scalars), each.filters[0])
            more = _sum("ianj,ijc,nc->iac", directed, edges.of_neighbors(vectors), each.filters[1])
            if k > 0:
                carried = sent[:, 2, None] * v
                more = more + _sum("inj,ijac,nc->iac", radial, edges.of_neighbors(carried), each.filters[2])
            v = v + more
            new = each.mixed(kind, s, v)
            s = s + new if k < len(self.rounds) - 1 else new
        return s[:, 0] + self.offset[kind]


class _Sender(eqx.Module):
    """What atoms send, of their scalars and element."""

    weights: Float[Array, "channels channels"]
    bias: Float[Array, "elements channels"]
    out: Float[Array, "channels 3 channels"]

    def __call__(self, kind, s):
        return _sum("ic,cpd->ipd", jax.nn.silu(_sum("ic,cd->id", s, self.weights) + self.bias[kind]), self.out)


class _Round(eqx.Module):
    """How messages are summed, and what an atom makes of the sums."""

    filters: Float[Array, "parts radial channels"]
    mix: Float[Array, "channels channels"]
    weights: Float[Array, "inputs channels"]
    bias: Float[Array, "elements channels"]
    out: Float[Array, "channels outputs"]

    def mixed(self, kind, s, v):
        mixed = _sum("iac,cd->iad", v, self.mix)
        inputs = jnp.concatenate([s, jnp.sum(mixed * mixed, axis=1)], axis=1)
        bias = self.bias[kind]
        # zero for an atom without neighbors
        hidden = jax.nn.silu(_sum("ic,cd->id", inputs, self.weights) + bias) - jax.nn.silu(bias)
        return _sum("ic,cd->id", hidden, self.out)


def _sum(subscripts, *arrays):
    # neighbors are summed over first, so that filters are applied once per atom and not once per neighbor
    return jnp.einsum(subscripts, *arrays, optimize="optimal", precision=jax.lax.Precision.HIGHEST)


def _chebyshev(x, num):
    """T_1 to T_num, along a new second axis."""
    terms = [jnp.ones_like(x), x]
    for _ in range(num - 1):
        terms.append(2 * x * terms[-1] - terms[-2])
    return jnp.stack(terms[1:], axis=1)
