import jax.numpy as jnp

from .. import units
from .._fields import Parameter, checked, parameters_of, positive, positive_number, positive_or_zero
from .._misc import require_shape
from ._many_body import AbstractGraphPotential


class StillingerWeber(AbstractGraphPotential):
    """The three-body potential of Stillinger and Weber, for atoms that are all alike:

        U = Σ_{i<j} A ε [B (σ/r)⁴ - 1] e^{σ/(r - r_c)}
            + Σ_i Σ_{j<k} λ ε (cos θ_jik + 1/3)² e^{γσ/(r_ij - r_c)} e^{γσ/(r_ik - r_c)}

    A sum over triples that costs as much as one over pairs: (cos θ + 1/3)² is a polynomial of degree two in the
    directions of the neighbors, so that the ten moments Σ g, Σ g u and Σ g u⊗u of each atom are all of it.

    All derivatives are continuous, the cutoff's included. It stays where it is when σ is trained: in publications
    r_c = a σ.

    **Arguments:** `epsilon` (kJ/mol), `sigma` and `cutoff` (nm); `strength` λ, `decay` γ, `pair_strength` A and
    `repulsion` B, without unit.

    **Errors:** `ValueError` for parameters that are not positive single numbers.

    **Reference:** F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985).
    """

    epsilon: Parameter = positive("kJ/mol")
    sigma: Parameter = positive("nm")
    strength: Parameter = checked(positive_or_zero("units of 1"), default=21.0)
    decay: Parameter = checked(positive("units of 1"), default=1.2)
    pair_strength: Parameter = checked(positive("units of 1"), default=7.049556277)
    repulsion: Parameter = checked(positive("units of 1"), default=0.6022245584)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)

    def __check_init__(self):
        for name, x in parameters_of(self):
            require_shape(name, x, (), "One of each.")

    @classmethod
    def silicon(cls) -> "StillingerWeber":
        """Silicon, with its lattice energy of the publication: ε = 50 kcal/mol, σ = 0.20951 nm, r_c = 1.8 σ."""
        return cls(50 * units.KILOCALORIE_PER_MOLE, 0.20951, cutoff=1.8 * 0.20951)

    @classmethod
    def water(cls) -> "StillingerWeber":
        """mW, water as one site without hydrogen: ε = 6.189 kcal/mol, σ = 0.23925 nm, λ = 23.15.

        **Reference:** V. Molinero and E. B. Moore, J. Phys. Chem. B 113, 4008 (2009).
        """
        return cls(6.189 * units.KILOCALORIE_PER_MOLE, 0.23925, 23.15, cutoff=1.8 * 0.23925)

    def atom_energies(self, edges):
        d = [edges.d[..., k] for k in range(3)]
        r = jnp.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        # at the cutoff the exponents would be infinite, and just below it exponentials are zero in any precision
        near = edges.mask & (r < self.cutoff - 1e-4 * self.sigma)
        gap = jnp.where(near, r - self.cutoff, -self.cutoff)
        ratio = self.sigma / r
        pair = jnp.exp(self.sigma / gap) * (self.repulsion * ratio**4 - 1)
        pairs = 0.5 * self.pair_strength * jnp.sum(jnp.where(near, pair, 0), axis=1)
        g = jnp.where(near, jnp.exp(self.decay * self.sigma / gap), 0)
        u = [x / r for x in d]
        gu = [g * x for x in u]
        total = lambda x: jnp.sum(x, axis=1)
        first = sum(total(x) ** 2 for x in gu)
        second = sum((1 if k == l else 2) * total(gu[k] * u[l]) ** 2 for k in range(3) for l in range(k, 3))
        # over all j, k, from which j = k is taken away, where the cosine is one
        both = second + 2 / 3 * first + total(g) ** 2 / 9 - 16 / 9 * total(g * g)
        return self.epsilon * (pairs + 0.5 * self.strength * both)
