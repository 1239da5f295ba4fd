"""Dipole and polarizability surfaces: equivariance, derivatives, sum rules, closed forms."""

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, central_difference, few, very_few
from hypothesis import given
from jaxtyping import Array

import reverlet as rv
from reverlet._observable._spectroscopy import current_density

N = 6
CHARGES = np.array([-0.84, 0.42, 0.42, -0.5, 0.2, 0.3])
MOLECULES = np.array([0, 0, 0, 1, 1, 1])
ALPHAS = jnp.array([1.0e-3, 0.4e-3, 0.5e-3, 0.8e-3, 0.3e-3, 0.6e-3])
OPEN = rv.OpenBox()
BOX = rv.OrthorhombicBox(jnp.array([1.3, 1.2, 1.5]))
BONDS = np.array([[0, 1], [0, 2], [3, 4], [3, 5]])


class Bent(rv.AbstractDipole):
    """Charges that depend on the distances between atoms: a dipole that is not linear in the positions."""

    strength: Array

    def moment(self, positions, box):
        d = positions[:, None] - positions[None]
        r2 = jnp.sum(d**2, axis=-1)
        labels = jnp.arange(len(positions), dtype=positions.dtype)
        weights = self.strength.astype(positions.dtype) * labels[:, None] * jnp.exp(-r2)
        return jnp.sum(weights[..., None] * d, axis=(0, 1))


DIPOLES = {
    "point charges": rv.PointCharges(CHARGES),
    "molecular charges": rv.PointCharges(
        rv.MolecularCharges(np.array([0.42, 0.3]), np.array([-1, 0, 0, -1, 1, 1]), MOLECULES)
    ),
    "bent": Bent(jnp.asarray(0.7)),
    "polarizable": rv.PolarizableDipole(CHARGES, ALPHAS),
    "polarizable molecules": rv.PolarizableDipole(CHARGES, ALPHAS, molecules=MOLECULES, cutoff=0.59),
    "undamped": rv.PolarizableDipole(CHARGES, ALPHAS, damping=None, cutoff=0.55),
}
KINDS = jnp.array([0, 1, 1, 0])
POLARIZABILITIES = {
    "bonds": rv.BondPolarizability(BONDS, 1.2e-3, 0.5e-3, 1.5e-2, 0.4e-2, 0.25),
    "kinds": rv.BondPolarizability(
        BONDS, np.array([1.2e-3, 1.0e-3]), 0.5e-3, 1.5e-2, np.array([0.4e-2, 0.2e-2]), 0.25, kinds=KINDS
    ),
}


def positions_of(seed):
    """Two groups of three atoms, none closer than 0.1 nm, in the middle of the box."""
    rng = np.random.default_rng(seed)
    base = np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.22, 0], [0.1, 0.1, 0.4], [0.3, 0.1, 0.45], [0, 0.25, 0.5]]) + 0.4
    return jnp.asarray(base + 0.02 * rng.uniform(-1, 1, size=(N, 3)))


def rotation_of(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return jnp.asarray(q * np.sign(np.linalg.det(q)))


# compiled once for each surface, not for each example
moment_of = eqx.filter_jit(lambda surface, x, box: surface.moment(x, box))
current_of = eqx.filter_jit(lambda surface, x, v, box: surface.current(x, v, box))
born_of = eqx.filter_jit(lambda surface, x, box: surface.born_charges(x, box))

all_dipoles = pytest.mark.parametrize("dipole", DIPOLES.values(), ids=DIPOLES)
all_polarizabilities = pytest.mark.parametrize("surface", POLARIZABILITIES.values(), ids=POLARIZABILITIES)


@all_dipoles
@given(seed=SEEDS)
@very_few
def test_moments_turn_with_the_atoms_and_do_not_move_with_them(dipole, seed):
    x, turn = positions_of(seed), rotation_of(seed)
    moment = lambda x: moment_of(dipole, x, OPEN)
    # 1e-12: rounding; the charges of every molecule sum to zero
    np.testing.assert_allclose(moment(x @ turn.T), turn @ moment(x), atol=1e-12)
    np.testing.assert_allclose(moment(x + jnp.array([0.3, -2.0, 1.0])), moment(x), atol=1e-12)


@all_dipoles
@pytest.mark.parametrize("box", [OPEN, BOX], ids=["open", "periodic"])
@given(seed=SEEDS)
@very_few
def test_current_and_born_charges_against_finite_differences(dipole, box, seed):
    if isinstance(dipole, rv.PolarizableDipole) and dipole.cutoff is None and box is BOX:
        pytest.skip("needs a cutoff in a periodic box")
    x = positions_of(seed)
    v = jnp.asarray(np.random.default_rng(seed).normal(size=(N, 3)))
    current, born = current_of(dipole, x, v, box), born_of(dipole, x, box)
    wanted = central_difference(lambda x: moment_of(dipole, x, box), x, v, 1e-5)
    # the difference has an error of step² times a third derivative, 1e-10 · 1/(0.2 nm)² and rounding 1e-16/1e-5
    np.testing.assert_allclose(current, wanted, atol=1e-7)
    # an independent path: reverse instead of forward mode
    np.testing.assert_allclose(np.einsum("abc,ac->b", born, v), current, atol=1e-12)


@all_dipoles
@given(seed=SEEDS)
@very_few
def test_born_charges_sum_to_the_total_charge(dipole, seed):
    box = BOX if getattr(dipole, "cutoff", None) else OPEN
    total = jnp.sum(born_of(dipole, positions_of(seed), box), axis=0)
    np.testing.assert_allclose(total, np.zeros((3, 3)), atol=1e-6)
    charged = rv.PointCharges(CHARGES + 0.1)
    np.testing.assert_allclose(jnp.sum(born_of(charged, positions_of(seed), OPEN), axis=0), 0.6 * np.eye(3), atol=1e-12)


def test_index_order_of_born_charges():
    # the third component of the dipole reacts to the first coordinate of atom 1, and to nothing else
    class Crossed(rv.AbstractDipole):
        def moment(self, positions, box):
            del box
            return jnp.zeros(3, positions.dtype).at[2].set(5 * positions[1, 0])

    wanted = np.zeros((N, 3, 3))
    wanted[1, 2, 0] = 5
    np.testing.assert_array_equal(Crossed().born_charges(positions_of(0), OPEN), wanted)


def test_point_charges_are_a_plain_sum():
    x = positions_of(0)
    np.testing.assert_allclose(DIPOLES["point charges"].moment(x, BOX), CHARGES @ np.asarray(x), rtol=1e-13)


def test_the_current_does_not_see_wrapping():
    dipole = DIPOLES["polarizable molecules"]
    x = positions_of(1)
    v = jnp.asarray(np.random.default_rng(1).normal(size=(N, 3)))
    wrapped = x.at[2].add(BOX.lengths).at[4].add(-2 * BOX.lengths)
    np.testing.assert_allclose(current_of(dipole, wrapped, v, BOX), current_of(dipole, x, v, BOX), atol=1e-12)


class Charged(rv.AbstractPotential):
    """Something with charges: no physics."""

    charges: rv.AbstractCharges
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        del box, neighbors
        return jnp.sum(self.charges.values.astype(positions.dtype) ** 2 * jnp.sum(positions**2, axis=1))


def test_one_parameter_two_uses_one_gradient():
    charges = rv.MolecularCharges(np.array([0.42, 0.3]), np.array([-1, 0, 0, -1, 1, 1]), MOLECULES)
    potential = 2.0 * Charged(charges) + rv.LennardJones(0.3, 0.1, cutoff=0.5)
    assert rv.PointCharges.of(potential).charges is charges
    x = positions_of(0)

    def both(potential):
        return potential.energy(x, OPEN) + jnp.sum(jnp.sin(rv.PointCharges.of(potential).moment(x, OPEN)))

    got = eqx.filter_jit(eqx.filter_grad(both))(potential).parts[0].potential.charges.charges
    direction = jnp.array([1.0, -0.5])
    moved = lambda s: both(2.0 * Charged(eqx.tree_at(lambda c: c.charges, charges, charges.charges + s * direction)))
    wanted = (moved(1e-5) - moved(-1e-5)) / 2e-5
    # a quadratic and a sine: the error is 1e-10 of third derivatives, below those of rounding, 1e-16/1e-5
    np.testing.assert_allclose(jnp.sum(got * direction), wanted, rtol=1e-8)


def test_of_refuses_none_and_several():
    with pytest.raises(ValueError, match="found 0 sets of charges"):
        rv.PointCharges.of(rv.LennardJones(0.3, 0.1, cutoff=0.5))
    with pytest.raises(ValueError, match=r"found 2 sets of charges.*function that picks"):
        rv.PointCharges.of(Charged(rv.AtomCharges(CHARGES)) + Charged(rv.AtomCharges(2 * CHARGES)))


# Two polarizable atoms on an axis


@given(
    r=st.floats(0.2, 0.5), a=st.floats(2e-4, 1.5e-3), b=st.floats(2e-4, 1.5e-3), damping=st.sampled_from([None, 0.39])
)
@few
def test_polarizability_of_two_atoms(r, a, b, damping):
    """Along and across the axis of two atoms; L. Silberstein, Phil. Mag. 33, 92 (1917), with Thole's factors."""
    x = jnp.zeros((4, 3)).at[1, 2].set(r)
    u = 0.0 if damping is None else float(np.exp(-damping * r**3 / np.sqrt(a * b)))
    v = 0.0 if damping is None else (1 + damping * r**3 / np.sqrt(a * b)) * u
    # the energies of unit dipoles side by side, and in line
    side, line = (1 - u) / r**3, (3 * (1 - v) - (1 - u)) / r**3
    far, q = 1e3, 1e5  # two opposite charges at ±far: a field of 0.2 e/nm², uniform to (r/far)² = 2.5e-7
    for axis, coupling in ((2, line), (0, -side)):
        placed = x.at[2, axis].set(-far).at[3, axis].set(far)
        dipole = rv.PolarizableDipole(np.array([0.0, 0.0, q, -q]), jnp.array([a, b, 1e-20, 1e-20]), damping=damping)
        induced = moment_of(dipole, placed, OPEN)[axis] + 2 * q * far
        wanted = (a + b + 2 * a * b * coupling) / (1 - a * b * coupling**2) * 2 * q / far**2
        # rounding: M itself is 2e8 e nm, so 1e-16 of it is 3e-8 e nm, of 1e-4 e nm
        np.testing.assert_allclose(induced, wanted, rtol=1e-3)


def test_isolated_atoms_do_not_polarize_themselves():
    # one charge, one atom: μ = α q/r², away from a positive charge
    x = jnp.array([[0.0, 0, 0], [0.3, 0, 0]])
    dipole = rv.PolarizableDipole(np.array([0.8, 0.0]), np.array([1e-12, 1e-3]), damping=None)
    np.testing.assert_allclose(dipole.moment(x, OPEN)[0], 1e-3 * 0.8 / 0.3**2, rtol=1e-9)  # the other's 1e-12
    same = rv.PolarizableDipole(np.array([0.8, 0.0]), np.array([1e-12, 1e-3]), damping=None, molecules=np.array([0, 0]))
    np.testing.assert_array_equal(same.moment(x, OPEN), 0)


def test_the_polarizable_dipole_is_smooth_at_its_cutoff():
    dipole = rv.PolarizableDipole(np.array([0.8, 0.0]), np.array([1e-3, 1e-3]), cutoff=0.5)
    moment = lambda r: dipole.moment(jnp.zeros((2, 3)).at[1, 0].set(r), BOX)[0]
    np.testing.assert_allclose(moment(0.5 - 1e-4), 0, atol=1e-9)  # (1e-4/0.1)³ · 10 of 3e-3
    assert float(moment(0.5 + 1e-9)) == 0.0
    np.testing.assert_allclose(
        moment(0.4),
        rv.PolarizableDipole(np.array([0.8, 0.0]), np.array([1e-3, 1e-3])).moment(
            jnp.zeros((2, 3)).at[1, 0].set(0.4), OPEN
        )[0],
        rtol=1e-12,
    )


def test_gradient_of_the_polarizable_dipole_with_respect_to_its_parameters():
    dipole = DIPOLES["polarizable molecules"]
    x = positions_of(3)
    loss = eqx.filter_jit(lambda d: jnp.sum(jnp.sin(30 * d.moment(x, BOX))))
    arrays = eqx.filter(dipole, eqx.is_inexact_array)
    grad = eqx.filter_grad(loss)(dipole)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: jnp.asarray(p * rng.normal(size=p.shape)), arrays)
    moved = lambda a: loss(eqx.combine(a, dipole))
    got = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(grad), jax.tree.leaves(direction), strict=True))
    # relative steps of 1e-5: their square is far below 1e-7, and rounding 1e-16/1e-5
    np.testing.assert_allclose(got, central_difference(moved, arrays, direction, 1e-5), rtol=1e-7)


# Polarizabilities


@all_polarizabilities
@given(seed=SEEDS)
@very_few
def test_polarizabilities_turn_with_the_atoms(surface, seed):
    x, turn = positions_of(seed), rotation_of(seed)
    alpha = surface.polarizability(x, OPEN)
    np.testing.assert_allclose(alpha, alpha.T, atol=1e-16)
    moved = x @ turn.T + jnp.array([1.0, 2.0, -3.0])
    np.testing.assert_allclose(surface.polarizability(moved, OPEN), turn @ alpha @ turn.T, atol=1e-14)  # rounding


@all_polarizabilities
@given(seed=SEEDS)
@very_few
def test_rate_against_finite_differences(surface, seed):
    x = positions_of(seed)
    v = jnp.asarray(np.random.default_rng(seed).normal(size=(N, 3)))
    wanted = central_difference(lambda x: surface.polarizability(x, BOX), x, v, 1e-5)
    # step² times a third derivative, 1e-10 · 1e-3 nm³/(0.2 nm)³, and rounding 1e-19/1e-5
    np.testing.assert_allclose(surface.rate(x, v, BOX), wanted, atol=1e-10)


def test_one_bond_along_an_axis_and_across_the_box():
    surface = rv.BondPolarizability(np.array([[0, 1]]), 1.2e-3, 0.5e-3, 1.5e-2, 0.4e-2, 0.1)
    x = jnp.array([[0.02, 0.3, 0.3], [1.21, 0.3, 0.3]])  # 0.11 nm apart by the nearest image
    wanted = np.diag([1.2e-3 + 1.5e-4, 0.5e-3 + 0.4e-4, 0.5e-3 + 0.4e-4])
    np.testing.assert_allclose(surface.polarizability(x, BOX), wanted, atol=1e-15)


def test_single_precision_stays():
    x = positions_of(0).astype(jnp.float32)
    for dipole in DIPOLES.values():
        got = moment_of(dipole, x, OPEN)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, moment_of(dipole, x.astype(float), OPEN), atol=1e-5)  # rounding
    for surface in POLARIZABILITIES.values():
        assert surface.polarizability(x, OPEN).dtype == jnp.float32


def test_bad_input():
    x = positions_of(0)
    with pytest.raises(ValueError, match="charges` are of 6 atoms, but there are 5"):
        DIPOLES["point charges"].moment(x[:5], OPEN)
    with pytest.raises(ValueError, match="no `cutoff`"):
        DIPOLES["polarizable"].moment(x, BOX)
    with pytest.raises(ValueError, match=r"at most half the smallest height of the box, which is 0\.6 nm"):
        rv.PolarizableDipole(CHARGES, ALPHAS, cutoff=0.7).moment(x, BOX)
    with pytest.raises(ValueError, match="`polarizabilities` is 0"):
        rv.PolarizableDipole(CHARGES, ALPHAS.at[2].set(0.0))
    with pytest.raises(ValueError, match="One for every atom"):
        rv.PolarizableDipole(CHARGES, ALPHAS[:3])
    with pytest.raises(ValueError, match="`kinds` is missing"):
        rv.BondPolarizability(BONDS, np.array([1.0, 2.0]), 1.0, 1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="2 atom indices per term"):
        rv.BondPolarizability(np.array([0, 1, 2]), 1.0, 1.0, 1.0, 1.0, 0.1)


def crowd(seed, n=60):
    """Atoms near a lattice of 0.5 nm, in a box of 2 nm."""
    rng = np.random.default_rng(seed)
    sites = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n]
    return jnp.asarray(0.5 * sites + 0.08 * rng.uniform(-1, 1, size=(n, 3)))


CROWDED = rv.OrthorhombicBox(jnp.full(3, 2.0))
SEARCH = rv.CellList.fit(crowd(0), CROWDED, cutoff=0.7, skin=0.1, room=1.5, per_atom=True)


@eqx.filter_jit
def moment_and_slopes(dipole, x, neighbors):
    moment = lambda dipole, x: dipole.moment(x, CROWDED, neighbors=neighbors)
    loss = lambda both: jnp.sum(jnp.sin(3 * moment(*both)))
    return moment(dipole, x), eqx.filter_grad(loss)((dipole, x)), dipole.current(x, jnp.sin(x), CROWDED)


@given(seed=SEEDS)
@very_few
def test_polarizable_dipole_with_a_list_as_without(seed):
    rng = np.random.default_rng(seed)
    charges, alphas = rng.normal(size=60), rng.uniform(0.4e-3, 1.5e-3, size=60)
    dipole = rv.PolarizableDipole(charges, alphas, molecules=np.arange(60) // 3, cutoff=0.7)
    x = crowd(seed)
    got, wanted = (moment_and_slopes(dipole, x, list_) for list_ in (SEARCH.find(x, CROWDED), None))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        # conjugate gradients stop at some ten roundings
        np.testing.assert_allclose(a, b, atol=1e-11 * float(jnp.max(jnp.abs(b))))


def test_atoms_that_polarize_without_bound_are_nan_with_a_list_too():
    x = crowd(0).at[1].set(crowd(0)[0] + jnp.array([0.05, 0.0, 0.0]))
    dipole = rv.PolarizableDipole(np.ones(60), np.full(60, 1e-3), cutoff=0.7, damping=None)
    for list_ in (None, SEARCH.find(x, CROWDED)):
        assert np.all(np.isnan(dipole.moment(x, CROWDED, neighbors=list_)))


def test_observables_take_the_dipole_of_the_system():
    topology, x = rv.Topology.from_elements(["H"] * N), positions_of(0)
    state = rv.State(x, jnp.sin(x), BOX)
    system = rv.System(topology, rv.LennardJones(0.1, 0.1, cutoff=0.5), DIPOLES["point charges"])
    got = current_density(None, system, state)
    np.testing.assert_array_equal(got, current_density(DIPOLES["point charges"], system, state))
    np.testing.assert_allclose(got, CHARGES @ np.sin(x) / BOX.volume**0.5, rtol=1e-12)
    with pytest.raises(ValueError, match="The system has no dipole"):
        current_density(None, rv.System(topology, system.potential), state)


def test_raman_takes_the_polarizability_of_the_system():
    topology, x = rv.Topology.from_elements(["H"] * N), positions_of(0)
    state, surface = rv.State(x, jnp.sin(x), BOX), POLARIZABILITIES["bonds"]
    spectrum = rv.RamanSpectrum(np.array([100.0]), rv.spectra.HannWindow(0.1))
    system = rv.System(topology, rv.LennardJones(0.1, 0.1, cutoff=0.5), polarizability=surface)
    wanted = surface.rate(x, jnp.sin(x), BOX) / BOX.volume**0.5
    np.testing.assert_allclose(spectrum.record(system, state, state), wanted, rtol=1e-12)
    with pytest.raises(ValueError, match="no polarizability"):
        spectrum.record(rv.System(topology, system.potential), state, state)
    dielectric = rv.DielectricConstant()
    moment = dielectric.record(rv.System(topology, system.potential, DIPOLES["bent"]), state, state)
    np.testing.assert_allclose(moment, DIPOLES["bent"].moment(x, BOX) / BOX.volume**0.5, rtol=1e-12)
