import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._ensemble import NVT, require_ensemble
from .._state import State
from .._statistics import weighted_mean
from .._system import System
from .._verdict import raise_if
from ._base import AbstractObservable
from ._spectroscopy import require_volume

_KINETIC = (2.0, 2.0, 2.0, 1.0, 1.0, 1.0)
"""δ_il δ_jk + δ_ik δ_jl along the diagonal of Voigt's matrix, which is all of it."""


class StrainDerivatives(NamedTuple):
    """Of the potential energy of a configuration, over the volume, in Voigt's order xx, yy, zz, yz, xz, xy."""

    stress: Float[Array, "*many 6"]
    """kJ/mol/nm³."""
    born: Float[Array, "*many 6 6"]
    """kJ/mol/nm³."""
    volume: Float[Array, "*many"]
    """nm³."""
    atoms: Float[Array, "*many"]


class AbstractElasticConstants(AbstractObservable):
    """The isothermal elastic constants of a crystal, C_ijkl = (1/V) ∂²F/∂η_ij ∂η_kl with the strain η of Lagrange,
    kJ/mol/nm³ (divide by `1e4 * units.BAR` for GPa).

        C = ⟨C^B⟩ - V/kT (⟨σ^B σ^B⟩ - ⟨σ^B⟩⟨σ^B⟩) + N k T/V (δ_il δ_jk + δ_ik δ_jl)

    with σ^B = (1/V) ∂U/∂η and C^B = (1/V) ∂²U/∂η², by automatic differentiation of whatever potential there is. The
    first part is that of all atoms moving with the strain (Born), the second what their relaxing takes from it, the
    last that of the velocities. Under stress these are not yet the slopes of stress against strain, from which they
    differ by terms of the stress. Constant volume only. A record costs some ten to forty forces.

    A subclass says what of the matrix is kept.

    **Errors:** `ValueError` for an open box; of `reduce`, without an ensemble of constant volume.

    **Reference:** D. R. Squire, A. C. Holt and W. G. Hoover, Physica 42, 388 (1969); J. F. Lutsko, J. Appl. Phys. 65,
    2991 (1989).
    """

    @abc.abstractmethod
    def of(self, matrix: Float[Array, "6 6"]) -> Float[Array, "..."]:
        """What is kept of the matrix in Voigt's notation."""

    def record(self, system: System, state: State, initial: State) -> StrainDerivatives:
        del initial
        volume = require_volume(state)
        energy = lambda strain: _strained(system, state, strain)
        strain = jnp.zeros(6, volume.dtype)
        slope, push = jax.linearize(jax.grad(energy), strain)
        born = jax.vmap(push)(jnp.eye(6, dtype=volume.dtype))
        atoms = jnp.asarray(system.topology.num_atoms, volume.dtype)
        return StrainDerivatives(slope / volume, born / volume, volume, atoms)

    def reduce(self, times, records, weights, ensemble=None):
        del times
        ensemble = require_ensemble(ensemble, type(self).__name__)
        if not isinstance(ensemble, NVT):
            raise ValueError(
                f"`{type(self).__name__}` got an ensemble of {type(ensemble).__name__}; wanted constant volume,"
                " `rv.NVT(temperature)`, and samples of it."
            )
        stress, born, volume, atoms = records
        mean = lambda x: weighted_mean(weights, jnp.mean(x, axis=1))
        away = stress - jax.lax.stop_gradient(stress[0, 0])
        center = mean(away)
        fluctuation = mean(away[..., :, None] * away[..., None, :]) - center[:, None] * center
        kT, volume = ensemble.thermal_energy(stress), volume[0, 0]
        kinetic = atoms[0, 0] * kT / volume * jnp.diag(jnp.asarray(_KINETIC, stress.dtype))
        return self.of(mean(born) - volume / kT * fluctuation + kinetic)

    def athermal(self, system: System, state: State) -> Float[Array, "..."]:
        """Those at 0 K without quantum mechanics, kJ/mol/nm³: all atoms relax as the crystal is strained.

        (1/V) [∂²U/∂η² - ∂²U/∂η∂x (∂²U/∂x²)⁻¹ ∂²U/∂x∂η] at the minimum. Differentiable by everything in the system and
        by the box; the minimum moves with them, which is part of the derivative. Memory and time are of a matrix of
        3N × 3N: for a thousand atoms or so.

        **Arguments:** `state`, at a minimum of the energy in its box, as `minimize` finds it.

        **Errors:** `ValueError` for an open box; `SimulationError` for a state that is no minimum, or further than
        1e-3 nm from it.
        """
        return self.of(_athermal(system, state))


class ElasticConstants(AbstractElasticConstants):
    """All elastic constants of a crystal, kJ/mol/nm³: the symmetric matrix of 6 × 6 in Voigt's notation, in the order
    xx, yy, zz, yz, xz, xy. Formula, conditions, errors and reference: `AbstractElasticConstants`."""

    unit = "kJ/mol/nm³"

    def of(self, matrix):
        return matrix


class CubicElasticConstants(AbstractElasticConstants):
    """The three elastic constants c11, c12, c44 of a cubic crystal whose axes are those of the box, kJ/mol/nm³: each is
    the mean of the three entries of the matrix of `ElasticConstants` that are equal by symmetry. Formula, conditions,
    errors and reference: `AbstractElasticConstants`."""

    unit = "kJ/mol/nm³"

    def of(self, matrix):
        along, shear = matrix[:3, :3], jnp.diagonal(matrix)[3:]
        c11 = jnp.trace(along) / 3
        return jnp.stack([c11, (jnp.sum(along) - jnp.trace(along)) / 6, jnp.mean(shear)])


@eqx.filter_jit
def _athermal(system: System, state: State) -> Float[Array, "6 6"]:
    volume = require_volume(state)
    x = state.positions
    neighbors = system.find_neighbors(x, state.box)
    listed = eqx.tree_at(lambda s: s.neighbors, system, neighbors, is_leaf=lambda n: n is None)
    none, flat = jnp.zeros(6, x.dtype), x.reshape(-1)
    energy = lambda x, strain: _strained(listed, eqx.tree_at(lambda s: s.positions, state, x.reshape(-1, 3)), strain)
    slopes = jax.grad(energy, argnums=(0, 1))
    # the energy does not care where the lattice is as a whole: three directions without stiffness, which get one
    shift = jnp.tile(jnp.eye(3, dtype=x.dtype), (len(x), 1)) / len(x) ** 0.5
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    def curvatures(flat):
        """∂²U/∂x², stiffened, as Cholesky's factor, NaN at a saddle; and ∂²U/∂x∂η."""
        push = lambda v: jax.jvp(lambda x: slopes(x, none), (flat,), (v,))[1]
        atoms, strains = jax.lax.map(push, jnp.eye(x.size, dtype=x.dtype), batch_size=min(32, x.size))
        stiffness = jax.lax.stop_gradient(jnp.trace(atoms)) / x.size
        return jnp.linalg.cholesky(atoms + stiffness * product(shift, shift.T)), strains

    solve = lambda factor, b: jax.scipy.linalg.cho_solve((factor, True), b)
    # one step of Newton's method changes next to nothing, and carries how the minimum moves
    step = solve(jax.lax.stop_gradient(curvatures(flat)[0]), slopes(flat, none)[0])
    furthest = jnp.max(jnp.abs(jax.lax.stop_gradient(step)))
    step = raise_if(~(furthest < 1e-3), _describe_no_minimum, furthest, guard=step)
    flat = flat - step
    factor, strains = curvatures(flat)
    relaxing = product(strains.T, solve(factor, strains))
    born = jax.jacfwd(lambda strain: slopes(flat, strain)[1])(none)
    return (born - relaxing) / volume


def _strained(system: System, state: State, strain: Float[Array, "6"]) -> Float[Array, ""]:
    """The energy at a strain of Lagrange, in Voigt's order with shears counted twice."""
    xx, yy, zz, yz, xz, xy = strain * jnp.asarray([1, 1, 1, 0.5, 0.5, 0.5], strain.dtype)
    e = jnp.stack([jnp.stack([xx, xy, xz]), jnp.stack([xy, yy, yz]), jnp.stack([xz, yz, zz])])
    # the square root of 1 + 2e, to the second order, of which derivatives are taken
    stretch = e - 0.5 * jnp.matmul(e, e, precision=jax.lax.Precision.HIGHEST)
    x, box = state.positions, state.box.astype(state.positions.dtype)
    return system.potential.strained_energy(stretch, x, box, neighbors=system.find_neighbors(x, box))


def _describe_no_minimum(furthest):
    return (
        f"`athermal` got a state that is {float(furthest):.3g} nm from a minimum by Newton's method, or at none; wanted"
        " one where forces are next to zero, such as `rv.minimize(system, state, tolerance=1e-3).state`."
    )
