import jax
import jax.numpy as jnp
import numpy as np

from .._misc import cast_floats
from ._base import AbstractPotential
from ._pair import AbstractPairPotential
from ._truncation import ShiftedCutoff, SmoothSwitch


class TailCorrected(AbstractPotential):
    """A pair potential and the mean energy of what its cutoff leaves out, if the liquid had no structure there.

    U_tail = (1/2V) Σ_{i≠j} ∫ (u - u_truncated) 4πr² dr, from the switch's onset (or the cutoff) to infinity. It acts on
    energy and pressure alone, never on forces. For a potential that falls faster than r⁻³; integrated by Gauss–Legendre
    quadrature in 1/r, which is exact for inverse powers.

    **Arguments:** `potential`, with a plain or a smoothly switched cutoff.

    **Errors:** `ValueError` for a shifted cutoff, whose shift acts at all distances and has no tail correction of
    this kind.

    **Reference:** M. P. Allen and D. J. Tildesley, Computer Simulation of Liquids, 2nd ed. (Oxford 2017), section 2.8;
    M. R. Shirts et al., J. Phys. Chem. B 111, 13052 (2007), for switched potentials.
    """

    potential: AbstractPairPotential

    def __check_init__(self):
        if isinstance(self.potential.truncation, ShiftedCutoff):
            raise ValueError(
                "`TailCorrected` got a potential with a `ShiftedCutoff`; wanted `PlainCutoff` or `SmoothSwitch`."
            )

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    def energy(self, positions, box, *, neighbors=None):
        dtype = positions.dtype
        potential, cutoff = cast_floats(self.potential, dtype), self.potential.cutoff
        truncation = potential.truncation
        onset = truncation.onset if isinstance(truncation, SmoothSwitch) else cutoff
        nodes, weights = (jnp.asarray(a, dtype) for a in np.polynomial.legendre.leggauss(24))

        def tail(i, j):
            u = lambda r: potential.pair_energy(r * r, i, j)

            def left_out(r):
                return u(r) - truncation.truncate(lambda s: potential.pair_energy(s, i, j), r * r, cutoff)

            r = onset + 0.5 * (nodes + 1) * (cutoff - onset)
            switched = 0.5 * (cutoff - onset) * jnp.sum(weights * r**2 * jax.vmap(left_out)(r))
            t = 0.5 * (nodes + 1)  # r = cutoff / t
            beyond = 0.5 * cutoff**3 * jnp.sum(weights * t**-4 * jax.vmap(u)(cutoff / t))
            return switched + beyond

        n = len(positions)
        atoms = jnp.arange(n)
        rows = jax.lax.map(lambda i: jnp.sum(jnp.where(atoms == i, 0, jax.vmap(lambda j: tail(i, j))(atoms))), atoms)
        return (
            potential.energy(positions, box, neighbors=neighbors)
            + 2 * jnp.pi * jnp.sum(rows) / box.astype(dtype).volume
        )
