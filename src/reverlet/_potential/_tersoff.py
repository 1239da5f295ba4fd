import jax.numpy as jnp

from .. import units
from .._fields import Parameter, checked, finite, parameters_of, positive, positive_number, positive_or_zero
from .._misc import require_shape
from ._many_body import AbstractManyBody

_EV = units.ELECTRONVOLT
_PER_ANGSTROM = 1 / units.ANGSTROM


class Tersoff(AbstractManyBody):
    """Tersoff's bond order potential, for atoms that are all alike:

        U = ½ Σ_{i≠j} f(r_ij) [A e^{-λr} - b_ij B e^{-μr}],    b_ij = (1 + (β ζ_ij)ⁿ)^(-1/2n)
        ζ_ij = Σ_{k≠i,j} f(r_ik) [1 + c²/d² - c²/(d² + (h - cos θ_ijk)²)]

    with f going from one at `onset` to zero at the `cutoff` as a sine: forces are continuous, but their derivatives
    jump at both.

    **Arguments:** `repulsion` A and `attraction` B (kJ/mol); `repulsion_decay` λ and `attraction_decay` μ (1/nm);
    `order_strength` β, `order_power` n, and `c`, `d` and `h` of the angles, without unit; `onset` and `cutoff`, nm.

    **Errors:** `ValueError` for parameters that are not single numbers or have the wrong sign, and for an onset beyond
    the cutoff.

    **Reference:** J. Tersoff, Phys. Rev. B 39, 5566 (1989), table I.
    """

    repulsion: Parameter = positive("kJ/mol")
    attraction: Parameter = positive("kJ/mol")
    repulsion_decay: Parameter = positive("1/nm")
    attraction_decay: Parameter = positive("1/nm")
    order_strength: Parameter = positive_or_zero("units of 1")
    order_power: Parameter = positive("units of 1")
    c: Parameter = positive_or_zero("units of 1")
    d: Parameter = positive("units of 1")
    h: Parameter = finite("units of 1")
    onset: float = checked(positive_number("nm"), static=True, kw_only=True)
    cutoff: float = checked(positive_number("nm"), static=True, kw_only=True)

    def __check_init__(self):
        for name, x in parameters_of(self):
            require_shape(name, x, (), "One of each.")
        if self.onset >= self.cutoff:
            raise ValueError(f"`onset` is {self.onset} nm; wanted less than the cutoff, {self.cutoff} nm.")

    @classmethod
    def silicon(cls) -> "Tersoff":
        """Silicon, with 4.63 eV per atom in the diamond structure, of 0.5432 nm."""
        return cls(
            1830.8 * _EV, 471.18 * _EV, 2.4799 * _PER_ANGSTROM, 1.7322 * _PER_ANGSTROM,
            1.1e-6, 0.78734, 1.0039e5, 16.217, -0.59825, onset=0.27, cutoff=0.30,
        )  # fmt: skip

    @classmethod
    def carbon(cls) -> "Tersoff":
        """Carbon, with 7.37 eV per atom in diamond, of 0.3566 nm. With d = 4.384 in place of 4.3484 it has 7.42 eV.

        **Reference:** J. Tersoff, Phys. Rev. Lett. 61, 2879 (1988).
        """
        return cls(
            1393.6 * _EV, 346.74 * _EV, 3.4879 * _PER_ANGSTROM, 2.2119 * _PER_ANGSTROM,
            1.5724e-7, 0.72751, 3.8049e4, 4.3484, -0.57058, onset=0.18, cutoff=0.21,
        )  # fmt: skip

    def atom_energy(self, i, d, j, mask):
        del i, j
        r = jnp.sqrt(jnp.sum(d * d, axis=1))
        f = jnp.where(mask, self._switch(r), 0)
        u = d / r[:, None]
        cosine = u[:, None, 0] * u[:, 0] + u[:, None, 1] * u[:, 1] + u[:, None, 2] * u[:, 2]
        # c²/d² - c²/(d² + x) as one quotient: their difference is a millionth of either
        x = (self.h - cosine) ** 2
        g = 1 + (self.c / self.d) ** 2 * x / (self.d**2 + x)
        other = ~jnp.eye(len(r), dtype=bool)
        zeta = jnp.sum(jnp.where(other, f * g, 0), axis=1)
        alone = zeta <= 0  # where the power has no derivative
        power = (self.order_strength * jnp.where(alone, 1, zeta)) ** self.order_power
        order = jnp.where(alone, 1, (1 + power) ** (-0.5 / self.order_power))
        repulsion = self.repulsion * jnp.exp(-self.repulsion_decay * r)
        attraction = self.attraction * jnp.exp(-self.attraction_decay * r)
        return 0.5 * jnp.sum(f * (repulsion - order * attraction))

    def _switch(self, r):
        x = jnp.clip((r - self.onset) / (self.cutoff - self.onset), 0, 1)
        return 0.5 + 0.5 * jnp.cos(jnp.pi * x)
