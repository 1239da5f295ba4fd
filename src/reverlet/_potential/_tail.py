import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._misc import cast_floats, is_concrete
from ._base import AbstractPotential
from ._forms import AbstractSpeciesPairPotential
from ._listed import AbstractExcepting, Rescaling
from ._pair import AbstractPairPotential


class TailCorrected(AbstractPotential):
    """A pair potential and the mean energy of what its cutoff leaves out, if the liquid had no structure there.

    U_tail = (1/2V) Σ_{i,j} ∫ (u - u_truncated) 4πr² dr over all N² pairs of atoms, from where the truncation starts to
    infinity. It acts on energy and pressure alone, never on forces. For a potential that falls at least like r⁻⁴, since
    with r⁻³ there is no such energy; integrated by Gauss–Legendre quadrature in 1/r, which is exact for powers that
    are whole numbers. Atoms of a species are alike, so that it costs as many integrals as there are pairs of species; a
    potential of one's own with a parameter for every atom, one for every pair of atoms. Excluded pairs count like all
    others.

    The pressure is -(2π/3)ρ² ∫ r³ (u - u_truncated)′ dr. If the truncated energy jumps at the cutoff r_c, that is not
    -∂U_tail/∂V at a fixed cutoff, since pairs cross it as the box is strained: the derivative with respect to the box
    has (2π/3)ρ² r_c³ u_truncated(r_c) more of pressure, which no difference of energies shows.

    **Arguments:** `potential`, with a truncation that leaves short distances as they are.

    **Errors:** `ValueError` for a truncation that starts at zero, such as a shifted cutoff, which has no tail
    correction of this kind, and for a potential that falls too slowly, such as a `ReactionField`, or a `Mie` with an
    attraction of 3; where its parameters became so later, the energy is NaN.

    **Reference:** M. P. Allen and D. J. Tildesley, Computer Simulation of Liquids, 2nd ed. (Oxford 2017), section 2.8;
    M. R. Shirts et al., J. Phys. Chem. B 111, 13052 (2007), for switched potentials.
    """

    potential: AbstractPairPotential | Rescaling

    def __check_init__(self):
        truncation = self.potential.truncation
        if not truncation.start(self.potential.cutoff) > 0:
            raise ValueError(
                f"`TailCorrected` got a potential with a `{type(truncation).__name__}`, which changes it at all"
                " distances; wanted a truncation that starts further out, such as `PlainCutoff` or `SmoothSwitch`."
            )
        if is_concrete(self.potential):
            with jax.ensure_compile_time_eval():
                slow = _slowest(cast_floats(self.potential, jnp.result_type(float)))
            if slow is not None:
                raise ValueError(
                    f"`TailCorrected` got a `{type(slow).__name__}` whose energy falls more slowly than 1/r⁴; from"
                    " 1/r³ on its tail has none that is finite. Wanted one that falls faster, such as `LennardJones`;"
                    " charges have `Ewald`."
                )

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    def energy(self, positions, box, *, neighbors=None):
        dtype = positions.dtype
        volume = box.astype(dtype).volume
        tail, jump = _integrals(cast_floats(self.potential, dtype), len(positions), dtype)
        return (
            self.potential.energy(positions, box, neighbors=neighbors)
            + 2 * jnp.pi / volume * tail
            + _crossing(2 * jnp.pi / (3 * volume) * jump, volume)
        )


@jax.custom_jvp
def _crossing(work, volume):
    """Zero, whose derivative with respect to the logarithm of the volume is -`work`."""
    del volume
    return jnp.zeros_like(work)


@_crossing.defjvp
def _crossing_jvp(primals, tangents):
    work, volume = primals
    return jnp.zeros_like(work), -work / volume * tangents[1]


def _integrals(potential, num_atoms, dtype):
    """Σ_{i,j} ∫ (u - u_truncated) r² dr, and Σ_{i,j} r_c³ u_truncated(r_c)."""
    potential, counts = _kinds(potential, num_atoms, dtype)
    kinds = jnp.arange(len(counts))
    cutoff, truncation = potential.cutoff, potential.truncation
    start = truncation.start(cutoff)
    nodes, weights = (jnp.asarray(a, dtype) for a in np.polynomial.legendre.leggauss(24))

    def of_pair(i, j):
        u = lambda r: potential.pair_energy(r * r, i, j)
        truncated = lambda r: truncation.truncate(lambda s: potential.pair_energy(s, i, j), r * r, cutoff)
        r = start + 0.5 * (nodes + 1) * (cutoff - start)
        switched = 0.5 * (cutoff - start) * jnp.sum(weights * r**2 * jax.vmap(lambda r: u(r) - truncated(r))(r))
        t = 0.5 * (nodes + 1)  # r = cutoff / t
        beyond = 0.5 * cutoff**3 * jnp.sum(weights * t**-4 * jax.vmap(u)(cutoff / t))
        beyond = jnp.where(_lasts(potential, i, j, dtype), jnp.nan, beyond)
        return jnp.stack([switched + beyond, cutoff**3 * truncated(jnp.asarray(cutoff, dtype))])

    def row(i):
        each = jax.vmap(lambda j: of_pair(i, j))(kinds)
        # a kind without atoms may have no sensible parameters
        return counts[i] * jnp.sum(jnp.where(counts[:, None] > 0, counts[:, None] * each, 0), axis=0)

    return jnp.sum(jax.lax.map(lambda i: jnp.where(counts[i] > 0, row(i), 0), kinds), axis=0)


def _lasts(potential, i, j, dtype):
    """Whether the energy of a pair falls more slowly than 1/r⁴."""
    far = 16 * potential.cutoff
    near, further = (jnp.abs(potential.pair_energy(jnp.asarray(r * r, dtype), i, j)) for r in (far, 2 * far))
    return (2**4 * further > 1.001 * near) & (further > 0)  # room for rounding


def _slowest(potential) -> AbstractPairPotential | None:
    """The potential that has the formula, if some pair's energy falls too slowly."""
    arrays = [x for x in jax.tree.leaves(potential) if eqx.is_array(x) and x.ndim > 0]
    potential, counts = _kinds(potential, max((len(x) for x in arrays), default=1), jnp.result_type(float))
    kinds = jnp.asarray(np.flatnonzero(counts)[:100])  # of atoms that are all different some will do
    of_row = lambda i: jax.vmap(lambda j: _lasts(potential, i, j, counts.dtype))(kinds)
    return potential if bool(jnp.any(jax.vmap(of_row)(kinds))) else None


def _kinds(potential, num_atoms, dtype):
    """The potential, as one of which each index stands for a kind of atoms, and how many atoms there are of each."""
    while isinstance(potential, AbstractExcepting):
        potential = potential.potential
    if isinstance(potential, AbstractSpeciesPairPotential) and potential.species is not None:
        num = potential.num_species
        counts = jnp.zeros(num, dtype).at[potential.species].add(1)
        return eqx.tree_at(lambda p: p.species, potential, jnp.arange(num)), counts
    if not looks_at_indices(potential, dtype):
        return potential, jnp.full(1, num_atoms, dtype)
    return potential, jnp.ones(num_atoms, dtype)


def looks_at_indices(potential, dtype):
    """Whether the formula reads which atoms it is given."""
    index = jax.ShapeDtypeStruct((), jnp.int32)
    r2 = jax.ShapeDtypeStruct((), dtype)
    jaxpr = jax.make_jaxpr(lambda i, j, r2: potential.pair_energy(r2, i, j))(index, index, r2).jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    return any(id(v) in read for v in jaxpr.invars[:2])
