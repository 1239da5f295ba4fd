"""Bonds, angles and torsions: against OpenMM, finite differences, and where their formulas are singular."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, central_difference, few, random_like
from hypothesis import given

import reverlet as rv

ATOMS = 7
BONDS = np.stack([np.arange(6), np.arange(1, 7)], 1)
ANGLES = np.stack([np.arange(5), np.arange(1, 6), np.arange(2, 7)], 1)
TORSIONS = np.stack([np.arange(4), np.arange(1, 5), np.arange(2, 6), np.arange(3, 7)], 1)
KINDS = np.array([0, 1, 0, 1, 1, 0])
BONDED = {
    "bond": rv.HarmonicBond(BONDS, 3e5, 0.14),
    "bonds": rv.HarmonicBond(BONDS, np.array([3e5, 2e5]), np.array([0.14, 0.15]), kinds=KINDS),
    "morse": rv.MorseBond(BONDS, np.array([400.0, 350.0]), 20.0, 0.14, kinds=KINDS),
    "angle": rv.HarmonicAngle(ANGLES, 317.0, np.array([1.95, 1.7]), kinds=KINDS[:5]),
    "urey-bradley": rv.UreyBradley(ANGLES, 2e4, 0.25),
    "torsions": rv.PeriodicTorsion(
        TORSIONS, np.array([8.0, -5, 3]), np.array([3, 2, 1]), np.array([0.7, 0, np.pi]), kinds=np.array([0, 1, 2, 1])
    ),
    "rb": rv.RBTorsion(
        TORSIONS, np.array([9.3, 4.0]), 12.2, -13.1, np.array([-3.1, 2.0]), 26.2, -31.5, kinds=KINDS[:4]
    ),
}
BOX = rv.OrthorhombicBox(jnp.array([0.9, 0.8, 1.0]))
SKEWED = rv.TriclinicBox(jnp.array([[0.9, 0, 0], [0.1, 0.8, 0], [-0.1, 0.15, 1.0]]))
energy = eqx.filter_jit(lambda potential, x, box: potential.energy(x, box))
forces = eqx.filter_jit(lambda potential, x, box: potential.forces(x, box))


def chain(seed=0):
    """A zigzag with bonds of some 0.15 nm, no angle near straight, longer than the box."""
    k = np.arange(ATOMS)
    zigzag = np.stack([0.12 * k, 0.08 * (k % 2), 0.05 * (k // 2 % 2)], 1)
    return jnp.asarray(zigzag + 0.01 * np.random.default_rng(seed).normal(size=(ATOMS, 3)))


@pytest.mark.parametrize("name", BONDED)
@given(seed=SEEDS)
@few
def test_invariances(name, seed):
    potential, x, rng = BONDED[name], chain(seed), np.random.default_rng(seed)
    u, f = energy(potential, x, BOX), forces(potential, x, BOX)
    # rounding of distances, 1e-16 / 0.1, times slopes of 1e4
    same = lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    same(energy(potential, x + rng.normal(size=3), BOX), u)
    images = x + BOX.lengths * rng.integers(-2, 3, size=x.shape)  # molecules broken by the boundary
    same(energy(potential, images, BOX), u)
    same(forces(potential, images, BOX), f)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation = rotation * np.linalg.det(rotation)  # proper: a torsion with a phase has a handedness
    same(energy(potential, x @ rotation.T, rv.OpenBox()), u)
    same(forces(potential, x @ rotation.T, rv.OpenBox()), f @ rotation.T)
    size = float(jnp.sum(jnp.abs(f)))
    np.testing.assert_allclose(jnp.sum(f, axis=0), 0, atol=1e-12 * size)
    # no torque either, since no bond crosses the boundary of an open box
    np.testing.assert_allclose(jnp.sum(jnp.cross(x, forces(potential, x, rv.OpenBox())), axis=0), 0, atol=1e-12 * size)


@eqx.filter_jit
def derivatives(potential, x, box, w, along):
    """Of the forces along w; of their work along w by parameters, along `along`; and the stress."""
    parameters, rest = eqx.partition(potential, eqx.is_inexact_array)
    push = jax.jvp(lambda x: potential.forces(x, box), (x,), (w,))[1]
    slopes = jax.grad(lambda p: jnp.sum(eqx.combine(p, rest).forces(x, box) * w))(parameters)
    products = jax.tree.map(lambda slope, a: jnp.sum(slope * a), slopes, along)
    return push, sum(jax.tree.leaves(products)), potential.stress(x, box)


@pytest.mark.parametrize("name", BONDED)
def test_derivatives_against_finite_differences(name):
    potential, x, box = BONDED[name], chain(), SKEWED
    w, strain = random_like(x, 1), random_like(jnp.zeros((3, 3)), 2)
    parameters, rest = eqx.partition(potential, eqx.is_inexact_array)
    along = jax.tree.map(lambda p: 0.5 * p + 0.1, parameters)
    push, slope, stress = derivatives(potential, x, box, w, along)
    # truncation: step² times a third derivative; 1e-14 * 1e6 of the slope at most
    numeric = central_difference(lambda x: energy(potential, x, box), x, w, 1e-7)
    np.testing.assert_allclose(-jnp.sum(forces(potential, x, box) * w), numeric, rtol=1e-6)
    numeric = central_difference(lambda x: forces(potential, x, box), x, w, 1e-7)
    np.testing.assert_allclose(push, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max())
    # parameters, through the force; a step of 1e-6 of each
    work = lambda p: jnp.sum(forces(eqx.combine(p, rest), x, box) * w)
    np.testing.assert_allclose(slope, central_difference(work, parameters, along, 1e-6), rtol=1e-6)
    deformed = lambda s: energy(potential, x @ (jnp.eye(3) + s).T, box.deform(jnp.eye(3) + s))
    numeric = central_difference(deformed, jnp.zeros((3, 3)), strain, 1e-7)
    np.testing.assert_allclose(jnp.sum(stress * strain) * box.volume, numeric, rtol=1e-6)


def in_openmm(force, x, box):
    """Energy and forces of one OpenMM force, on its Reference platform, in double precision."""
    openmm = pytest.importorskip("openmm")
    force.setUsesPeriodicBoundaryConditions(True)
    system = openmm.System()
    for _ in range(len(x)):
        system.addParticle(1.0)
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*map(float, v)) for v in box.vectors))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(x))
    state = context.getState(getEnergy=True, getForces=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


def openmm_force(potential):
    """The same potential, written for OpenMM term by term."""
    openmm = pytest.importorskip("openmm")
    kinds = [0] * len(potential.atoms) if potential.kinds is None else np.asarray(potential.kinds)
    per_term = lambda p: np.broadcast_to(np.asarray(p), max(kinds) + 1)[kinds] if p.ndim == 0 else np.asarray(p)[kinds]
    atoms = np.asarray(potential.atoms).tolist()
    if isinstance(potential, rv.HarmonicBond | rv.UreyBradley):
        force = openmm.HarmonicBondForce()
        for term, r0, k in zip(atoms, per_term(potential.length), per_term(potential.stiffness), strict=True):
            force.addBond(term[0], term[-1], r0, k)
    elif isinstance(potential, rv.MorseBond):
        force = openmm.CustomBondForce("D*(1-exp(-a*(r-r0)))^2")
        for name in ("D", "a", "r0"):
            force.addPerBondParameter(name)
        parameters = (per_term(p) for p in (potential.depth, potential.width, potential.length))
        for term, *numbers in zip(atoms, *parameters, strict=True):
            force.addBond(*term, numbers)
    elif isinstance(potential, rv.HarmonicAngle):
        force = openmm.HarmonicAngleForce()
        for term, theta, k in zip(atoms, per_term(potential.angle), per_term(potential.stiffness), strict=True):
            force.addAngle(*term, theta, k)
    elif isinstance(potential, rv.RBTorsion):
        force = openmm.RBTorsionForce()
        parameters = (getattr(potential, f"c{n}") for n in range(6))
        for term, *numbers in zip(atoms, *map(per_term, parameters), strict=True):
            force.addTorsion(*term, *numbers)
    else:
        force = openmm.PeriodicTorsionForce()
        numbers = zip(
            *(per_term(p) for p in (potential.multiplicity, potential.phase, potential.stiffness)), strict=True
        )
        for term, (n, phase, k) in zip(atoms, numbers, strict=True):
            force.addTorsion(*term, int(n), phase, k)
    return force


@pytest.mark.parametrize("box", [BOX, SKEWED], ids=["orthorhombic", "triclinic"])
@pytest.mark.parametrize("name", BONDED)
def test_against_openmm(name, box):
    potential, x = BONDED[name], chain(3)
    u, f = in_openmm(openmm_force(potential), x, box)
    # both in double precision; OpenMM's angles come by arccos, which loses some digits
    np.testing.assert_allclose(energy(potential, x, box), u, rtol=1e-9)
    np.testing.assert_allclose(forces(potential, x, box), f, rtol=1e-8, atol=1e-8 * np.abs(f).max())


def bent(theta, dtype=float):
    """Three atoms 0.1 nm apart with an angle theta at the second."""
    return 0.1 * jnp.array([[1.0, 0, 0], [0, 0, 0], [np.cos(theta), np.sin(theta), 0]], dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_straight_angles_with_a_smooth_bottom(dtype):
    """With θ₀ = π the energy is k/2 (π - θ)², smooth: a stiffness k/r² for the ends across, 4 k/r² for the middle."""
    k, r, eps = 300.0, 0.1, float(jnp.finfo(dtype).eps)
    potential = rv.HarmonicAngle(np.array([[0, 1, 2]]), jnp.asarray(k, dtype), jnp.asarray(np.pi, dtype))
    u = jax.jit(lambda x: potential.energy(x, rv.OpenBox()))
    hessian = jax.jit(jax.hessian(u))
    for away in (0.0, 1e-8, 1e-5, 1e-3, 1e-2):
        x = bent(np.pi - away, dtype)
        # π - θ is known to 2 eps, and its square is larger by the rounded tip, eps
        np.testing.assert_allclose(u(x), k / 2 * away**2, rtol=1e-4, atol=k * eps * (1 + 4 * away))
        h = np.asarray(hessian(x))
        wanted = k / r**2 * np.outer([1, -2, 1], [1, -2, 1])
        # out of the plane the curvature is k (π - θ) / (sin θ r²), of the rounded sine: 2 eps / √eps at worst
        tolerance = 4 * eps**0.5 + 2e-4  # and 1e-2² / 6 of the largest angle
        np.testing.assert_allclose(h[:, 2, :, 2], wanted, atol=tolerance * k / r**2 * 4)
        if not 0 < away < 1e-3:  # in the plane the roundings are those of a second difference, 2 eps / away
            np.testing.assert_allclose(h[:, 1, :, 1], wanted, atol=tolerance * k / r**2 * 4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_tips_are_finite(dtype):
    """With another θ₀ the energy has a tip at π and at 0: finite all the same, with all derivatives we use."""
    potential = rv.HarmonicAngle(np.array([[0, 1, 2]]), jnp.asarray(300.0, dtype), jnp.asarray(1.9, dtype))
    u = lambda potential, x: potential.energy(x, rv.OpenBox())
    hessian = jax.jit(jax.hessian(u, 1))
    mixed = eqx.filter_jit(eqx.filter_grad(lambda p, x: jnp.sum(jnp.sin(p.forces(x, rv.OpenBox())))))
    for theta in (0.0, np.pi, np.pi - 1e-7, np.pi - 1e-4, 1e-7):
        x = bent(theta, dtype) + jnp.array([0.3, -0.2, 0.1], dtype)
        np.testing.assert_allclose(u(potential, x), 150 * (theta - 1.9) ** 2, rtol=1e-3)  # the tip of float32: 3e-4 rad
        f = forces(potential, x, rv.OpenBox())
        assert jnp.all(jnp.isfinite(f))
        assert jnp.max(jnp.abs(f)) < 1.01 * 2 * 300 * 1.9 / 0.1  # the middle feels both ends, each with k Δθ / r
        assert jnp.all(jnp.isfinite(hessian(potential, x)))
        assert all(jnp.isfinite(leaf) for leaf in jax.tree.leaves(mixed(potential, x)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_torsions_in_line_are_finite(dtype):
    potential = rv.PeriodicTorsion(np.array([[0, 1, 2, 3]]), jnp.asarray(5.0, dtype), 3, jnp.asarray(0.5, dtype))
    u = lambda x: potential.energy(x, rv.OpenBox())
    derivatives = jax.jit(lambda x: (jax.grad(u)(x), jax.hessian(u)(x)))
    for first, last in (([0, 0, -0.1], [0, 0.1, 0.2]), ([1e-9, 0, -0.1], [0, 0.1, 0.2]), ([0, 0, -0.1], [0, 0, 0.3])):
        x = jnp.array([first, [0, 0, 0], [0, 0, 0.15], last], dtype)
        assert 0 <= u(x) <= 10
        assert all(jnp.all(jnp.isfinite(d)) for d in derivatives(x))


def test_sign_of_a_torsion():
    # seen along z from the second atom: the first at 12 o'clock, the fourth a quarter turn on
    quarter = jnp.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]]) / 10
    for sign, x in ((1, quarter), (-1, quarter * jnp.array([1, -1, 1]))):
        potential = rv.PeriodicTorsion(np.array([[0, 1, 2, 3]]), 1.0, 1, sign * np.pi / 2)
        np.testing.assert_allclose(potential.energy(x, rv.OpenBox()), 2.0, rtol=1e-14)


def test_morse_bond_is_harmonic_at_first():
    x = jnp.array([[0.0, 0, 0], [0.1401, 0, 0]])
    morse, harmonic = (
        rv.MorseBond(np.array([[0, 1]]), 400.0, 20.0, 0.14),
        rv.HarmonicBond(np.array([[0, 1]]), 2 * 400.0 * 20**2, 0.14),
    )
    box = rv.OpenBox()
    np.testing.assert_allclose(morse.energy(x, box), harmonic.energy(x, box), rtol=3e-3)  # a (r - r₀) = 2e-3
    np.testing.assert_allclose(morse.energy(100 * x, box), 400, rtol=1e-12)


def test_no_terms():
    topology = rv.Topology.from_elements(["Ar"] * 2)
    potential = rv.HarmonicBond(topology.bonds, 1.0, 0.1)
    x = jnp.array([[0.0, 0, 0], [0.3, 0, 0]])
    assert rv.System(topology, potential).potential_energy(x, rv.OpenBox()) == 0
    np.testing.assert_array_equal(potential.forces(x, rv.OpenBox()), 0)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: rv.HarmonicBond([[0, 1, 2]], 1.0, 0.1), ValueError, r"`bonds` has shape \(1, 3\); wanted \(any, 2\)"),
        (lambda: rv.HarmonicBond([[0.0, 1.0]], 1.0, 0.1), TypeError, "`bonds` has dtype float64; wanted integers"),
        (lambda: rv.HarmonicBond([[0, -1]], 1.0, 0.1), ValueError, "`bonds` names atom -1; wanted indices from 0"),
        (lambda: rv.HarmonicBond([[0, 1], [3, 3]], 1.0, 0.1), ValueError, r"\[3, 3\] at index 1; wanted 2 different"),
        (lambda: rv.HarmonicAngle([[0, 1, 0]], 1.0, 1.9), ValueError, r"\[0, 1, 0\] at index 0; wanted 3 different"),
        (lambda: rv.HarmonicBond([[0, 1]], -1.0, 0.1), ValueError, "`stiffness` is -1.0; .*zero or more"),
        (lambda: rv.HarmonicBond([[0, 1]], np.nan, 0.1), ValueError, "`stiffness` is nan"),
        (lambda: rv.MorseBond([[0, 1]], 400.0, 0.0, 0.1), ValueError, "`width` is 0.0; .*more than zero, in 1/nm"),
        (lambda: rv.HarmonicAngle([[0, 1, 2]], 1.0, 112.0), ValueError, "`angle` is 112.*at most π, in rad. From deg"),
        (lambda: rv.HarmonicBond([[0, 1]], [1.0, 2.0], 0.1), ValueError, "`kinds` is missing.*kinds=jnp.arange"),
        (lambda: rv.HarmonicBond([[0, 1]], 1.0, 0.1, kinds=[0]), ValueError, "`kinds` is given"),
        (lambda: rv.HarmonicBond([[0, 1]], [1.0, 2.0], [0.1] * 3, kinds=[0]), ValueError, r"`length` \(3,\); wanted"),
        (lambda: rv.HarmonicBond([[0, 1]], [[1.0]], 0.1, kinds=[0]), ValueError, r"`stiffness` \(1, 1\).*scalars"),
        (lambda: rv.HarmonicBond([[0, 1]], [1.0, 2.0], 0.1, kinds=[2]), ValueError, "from 2 to 2; wanted from 0 to 1"),
        (lambda: rv.HarmonicBond([[0, 1]], [1.0, 2.0], 0.1, kinds=[0, 1]), ValueError, r"`kinds` has shape \(2,\)"),
        (lambda: rv.HarmonicBond([[0, 1]], [1.0, 2.0], 0.1, kinds=[0.0]), TypeError, "`kinds` has dtype float64"),
        (lambda: rv.PeriodicTorsion([[0, 1, 2, 3]], 1.0, 2.0, 0.0), TypeError, "`multiplicity` has dtype float64"),
        (lambda: rv.PeriodicTorsion([[0, 1, 2, 3]], 1.0, 0, 0.0), ValueError, "`multiplicity` is 0"),
        (lambda: rv.PeriodicTorsion([[0, 1, 2, 3]], 1.0, 1, np.inf), ValueError, "`phase` is inf"),
    ],
)  # fmt: skip
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("nested", [lambda p: p, lambda p: 2 * p, lambda p: p + p], ids=["itself", "scaled", "sum"])
def test_indices_exceed_the_atoms(nested):
    topology = rv.Topology.from_elements(["O", "H", "H"])
    potential = rv.HarmonicAngle(np.array([[1, 0, 3]]), 1.0, 1.9)
    with pytest.raises(ValueError, match="`HarmonicAngle` names atom 3; wanted indices from 0 to 2"):
        rv.System(topology, nested(potential))
    # without a system nobody knows in time, and the energy says so
    assert jnp.isnan(potential.energy(bent(1.9), rv.OpenBox()))


def test_named_terms_have_the_nearest_image():
    """In a skewed box rounding finds it within half the smallest height only: all images are tried here."""
    vectors = np.array([[1.0, 0, 0], [0.5, 0.9, 0], [-0.5, 0.3, 0.85]])
    ends = np.random.default_rng(0).uniform(size=(2, 50, 3)) @ vectors
    cells = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), -1).reshape(-1, 3) @ vectors
    r = np.min(np.linalg.norm((ends[1] - ends[0])[:, None] + cells, axis=-1), axis=1)
    assert r.max() > 0.5  # the smallest height is 0.85
    pairs, x, box = np.arange(100).reshape(2, 50).T, jnp.asarray(ends.reshape(-1, 3)), rv.TriclinicBox(vectors)
    np.testing.assert_allclose(rv.HarmonicBond(pairs, 2.0, 0.0).energy(x, box), np.sum(r**2), rtol=1e-12)
    listed = rv.ListedPairs(rv.LennardJones(0.3, 0.25, cutoff=0.4), pairs).energy(x, box)
    np.testing.assert_allclose(listed, np.sum((0.3 / r) ** 12 - (0.3 / r) ** 6), rtol=1e-11)


def test_precision_flows_from_positions():
    x = chain().astype(jnp.float32)
    potential = sum(BONDED.values(), rv.Sum(()))
    assert energy(potential, x, BOX).dtype == forces(potential, x, BOX).dtype == jnp.float32
    wanted = forces(potential, chain(), BOX)
    # positions of 1 nm are known to 6e-8 nm, and forces grow by 1e6 per nm of the 1e4 that they are
    np.testing.assert_allclose(forces(potential, x, BOX), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_atoms_at_one_place_have_finite_forces(dtype):
    """In closed form where there is one: a spring of no length is k/2 x², also at x = 0."""
    x = jnp.array([[0.0, 0, 0], [0.1, 0, 0], [0, 0, 0], [0.2, 0.1, 0]], dtype)
    terms = {
        "spring": rv.HarmonicBond([[0, 2]], 1000.0, 0.0),
        "bond": rv.HarmonicBond([[0, 2]], 1000.0, 0.1),
        "morse": rv.MorseBond([[0, 2]], 400.0, 20.0, 0.1),
        "urey-bradley": rv.UreyBradley([[0, 1, 2]], 1000.0, 0.1),
        "angle": rv.HarmonicAngle([[1, 0, 2]], 100.0, 1.9),
        "torsion": rv.PeriodicTorsion([[1, 0, 2, 3]], 10.0, 1, 0.0),
        "torsion of no length": rv.PeriodicTorsion([[0, 2, 1, 3]], 10.0, 2, 0.5),
        "rb": rv.RBTorsion([[1, 0, 2, 3]], 9.3, 12.2, -13.1, -3.1, 26.2, -31.5),
    }

    @jax.jit
    def derivatives(x):
        energies = lambda x: jnp.stack([term.energy(x, rv.OpenBox()) for term in terms.values()])
        curved = jax.hessian(lambda x: terms["spring"].energy(x, rv.OpenBox()))(x)
        return energies(x), jax.jacrev(energies)(x), curved

    energies, slopes, curved = derivatives(x)
    assert np.all(np.isfinite(energies))
    np.testing.assert_array_equal(slopes, 0)
    np.testing.assert_allclose(curved[0, :, 0], 1000 * np.eye(3), rtol=1e-6)
    np.testing.assert_allclose(curved[0, :, 2], -1000 * np.eye(3), rtol=1e-6)
