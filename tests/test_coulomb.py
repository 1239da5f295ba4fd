"""Electrostatics: against OpenMM, closed forms, explicit sums, finite differences, and what the accuracy promises."""

import functools
import itertools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SEEDS, assert_trees_close, central_difference, random_like, very_few
from hypothesis import given

import reverlet as rv
from reverlet._potential._waves import waves_energy

NUM = 24
BOX = rv.OrthorhombicBox(jnp.array([1.3, 1.4, 1.5]))
SKEWED = rv.TriclinicBox(jnp.array([[1.4, 0.0, 0.0], [0.45, 1.35, 0.0], [-0.35, 0.4, 1.3]]))
CUTOFF = 0.6
EXCLUDED, SCALED = np.array([[0, 1], [2, 3], [5, 4]]), np.array([[1, 2], [6, 7]])
MOLECULES = np.arange(NUM) // 2

energy = eqx.filter_jit(lambda potential, x, box: potential.energy(x, box))
forces = eqx.filter_jit(lambda potential, x, box: potential.forces(x, box))


def positions(seed=0, box=BOX):
    """Points of a lattice, shaken, so that none are very near."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(2), np.arange(3), np.arange(4), indexing="ij"), -1).reshape(-1, 3)
    return jnp.asarray((grid + 0.5 + 0.15 * rng.uniform(-1, 1, size=(NUM, 3))) / [2, 3, 4] @ np.asarray(box.vectors))


def charges(seed=0, net=0.0):
    q = np.random.default_rng(seed).normal(size=NUM)
    return q - q.mean() + net / NUM


def ewald(box=BOX, accuracy=1e-12, q=None, **special):
    q = charges() if q is None else q
    return rv.Ewald.fit(q, box, cutoff=CUTOFF, accuracy=accuracy, **special)


def p3m(box=BOX, accuracy=1e-4, q=None, **special):
    pytest.importorskip("jaxpme")
    q = charges() if q is None else q
    return rv.P3M.fit(q, box, cutoff=CUTOFF, accuracy=accuracy, **special)


SPECIAL = {"exclusions": EXCLUDED, "scaled": SCALED, "scale": 0.4}
INSTANCES = {
    "Coulomb": (lambda: rv.Coulomb(charges(), **SPECIAL), rv.OpenBox()),
    "ReactionField": (
        lambda: rv.Excluding(rv.ReactionField(charges(), cutoff=CUTOFF, dielectric=np.inf), EXCLUDED, NUM),
        BOX,
    ),
    "Ewald": (lambda: ewald(**SPECIAL), BOX),
    "Ewald, triclinic": (lambda: ewald(SKEWED, **SPECIAL), SKEWED),
    "P3M": (lambda: p3m(**SPECIAL), BOX),
    "P3M, triclinic": (lambda: p3m(SKEWED, **SPECIAL), SKEWED),
}

# compiling is what takes the time: one box and one of each kind is enough for a start
ALSO_SLOW = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("Ewald", "ReactionField", "P3M, triclinic") else name
    for name in INSTANCES
]


def in_openmm(method, box, q, x, tolerance=1e-6):
    """Energy and forces of the charges with their special pairs, on the Reference platform."""
    openmm = pytest.importorskip("openmm")
    system, force = openmm.System(), openmm.NonbondedForce()
    for charge in q:
        system.addParticle(1.0)
        force.addParticle(float(charge), 1.0, 0.0)
    if method != "CutoffPeriodic":
        for i, j in SCALED.tolist():
            force.addException(i, j, float(0.4 * q[i] * q[j]), 1.0, 0.0)
    for i, j in EXCLUDED.tolist():
        force.addException(i, j, 0.0, 1.0, 0.0)
    force.setNonbondedMethod(getattr(force, method))
    force.setExceptionsUsePeriodicBoundaryConditions(method != "NoCutoff")
    force.setCutoffDistance(CUTOFF)
    force.setReactionFieldDielectric(20.0)
    force.setEwaldErrorTolerance(tolerance)
    if method != "NoCutoff":
        system.setDefaultPeriodicBoxVectors(*np.asarray(box.vectors).tolist())
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(x))
    state = context.getState(getEnergy=True, getForces=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


@pytest.mark.parametrize(
    ("method", "box", "rtol"),
    [
        # both sum everything in double precision; the Coulomb constants differ by 7e-10
        ("NoCutoff", rv.OpenBox(), 1e-8),
        ("CutoffPeriodic", BOX, 1e-8),
        # OpenMM's own sum at its tolerance of 1e-6, which is about what it misses
        ("Ewald", BOX, 1e-5),
        # its mesh, which a triclinic box needs, at a tolerance of 1e-6: forces differ by 1.6e-6 of the largest
        ("PME", SKEWED, 1e-5),
    ],
)
def test_against_openmm(method, box, rtol):
    x, q = positions(1, BOX if method == "NoCutoff" else box), charges(1)
    u, f = in_openmm(method, box, q, x)
    if method == "NoCutoff":
        potential = rv.Coulomb(q, **SPECIAL)
    elif method == "CutoffPeriodic":
        potential = rv.Excluding(rv.ReactionField(q, cutoff=CUTOFF, dielectric=20.0), EXCLUDED, NUM)
    else:
        potential = ewald(box, q=q, **SPECIAL)
    np.testing.assert_allclose(energy(potential, x, box), u, rtol=rtol)
    np.testing.assert_allclose(forces(potential, x, box), f, atol=rtol * np.abs(f).max())


def test_madelung_constant_of_rock_salt():
    """1.747564594633 (OEIS A085469), of eight ions in a cube with nearest neighbors at 0.28 nm."""
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)
    q, d = (-1.0) ** grid.sum(1), 0.28
    box = rv.OrthorhombicBox(jnp.full(3, 2 * d))
    potential = rv.Ewald.fit(q, box, accuracy=1e-10)
    madelung = -energy(potential, jnp.asarray(d * grid), box) * d / rv.units.COULOMB / 4
    # 1e-10 of either sum, which are some times larger than their difference
    np.testing.assert_allclose(madelung, 1.747564594633, rtol=1e-8)


def test_one_ion_in_its_background():
    """A charged box: the energy of a simple cubic one-component plasma, -1.4186487 q²/L (Wigner's constant)."""
    box = rv.OrthorhombicBox(jnp.full(3, 1.1))
    potential = rv.Ewald.fit(np.ones(1), box, accuracy=1e-10)
    got = energy(potential, jnp.array([[0.3, 0.1, 0.2]]), box) * 1.1 / rv.units.COULOMB
    np.testing.assert_allclose(2 * got, -2.837297479, rtol=1e-8)  # ξ, as in finite-size corrections of diffusion
    # with charges on the mesh the same, to its accuracy; here there is nothing but waves
    pytest.importorskip("jaxpme")
    mesh = rv.P3M.fit(np.ones(1), box, cutoff=0.5, accuracy=1e-6)
    np.testing.assert_allclose(energy(mesh, jnp.array([[0.3, 0.1, 0.2]]), box) * 1.1 / rv.units.COULOMB, got, rtol=1e-5)


@pytest.mark.parametrize("net", [0.0, 2.0])
def test_alpha_is_free(net):
    """Another splitting of the sum, the same sum: for a charged box too, thanks to its background."""
    x, q = positions(2, SKEWED), charges(2, net)
    one = ewald(SKEWED, q=q, **SPECIAL)
    other = rv.Ewald(q, cutoff=CUTOFF, alpha=1.3 * one.alpha, waves=tuple(2 * m for m in one.waves), **SPECIAL)
    # 1e-12 of either sum, and rounding of waves and distances
    np.testing.assert_allclose(energy(other, x, SKEWED), energy(one, x, SKEWED), rtol=1e-9)
    size = float(jnp.abs(forces(one, x, SKEWED)).max())
    np.testing.assert_allclose(forces(other, x, SKEWED), forces(one, x, SKEWED), atol=1e-9 * size)
    assert abs(other.accuracy(SKEWED) - one.accuracy(SKEWED)) > 0  # another one, but at least as good
    assert one.accuracy(SKEWED) < 1.01e-12


def test_another_choice_of_lattice_vectors():
    """The same crystal by other vectors: a + b in place of b, which turns a skewed box into a less skewed one."""
    a, b, c = np.array([1.5, 0, 0]), np.array([-0.75, 1.5, 0]), np.array([0.2, -0.3, 1.4])
    first, second = rv.TriclinicBox(jnp.array([a, b, c])), rv.TriclinicBox(jnp.array([a, a + b, c]))
    x = positions(3, first)
    # 1e-12 of either sum, and rounding
    np.testing.assert_allclose(energy(ewald(first), x, first), energy(ewald(second), x, second), rtol=1e-10)


@given(seed=SEEDS)
@very_few
def test_images_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    x, potential = positions(seed, SKEWED), INSTANCES["Ewald, triclinic"][0]()
    moved = x + rng.integers(-2, 3, size=x.shape) @ SKEWED.vectors + rng.normal(size=3)
    # rounding of phases and of distances
    np.testing.assert_allclose(energy(potential, moved, SKEWED), energy(potential, x, SKEWED), rtol=1e-10)
    f = forces(potential, x, SKEWED)
    np.testing.assert_allclose(forces(potential, moved, SKEWED), f, atol=1e-10 * float(jnp.abs(f).max()))
    np.testing.assert_allclose(jnp.sum(f, axis=0), 0, atol=1e-10 * float(jnp.abs(f).sum()))


@pytest.mark.parametrize("box", [BOX, SKEWED], ids=["orthorhombic", "triclinic"])
@pytest.mark.parametrize("accuracy", [1e-3, pytest.param(1e-5, marks=pytest.mark.slow)])
def test_promised_accuracy(accuracy, box):
    """The error of the forces, root mean square, relative to the forces, is about `accuracy`."""
    x = positions(4, box)
    wanted = forces(ewald(box), x, box)
    rms = lambda f: float(jnp.sqrt(jnp.mean(f**2)))
    error = rms(forces(ewald(box, accuracy), x, box) - wanted) / rms(wanted)
    # random charges without order; three times either side of the promise is still that number
    assert accuracy / 100 < error < 3 * accuracy
    on_mesh = rms(forces(p3m(box, accuracy), x, box) - wanted) / rms(wanted)
    assert accuracy / 100 < on_mesh < 5 * accuracy


@pytest.mark.parametrize("name", ALSO_SLOW)
def test_derivatives_against_finite_differences(name):
    make, box = INSTANCES[name]
    potential, x = make(), positions(5, BOX if name == "Coulomb" else box)
    w = random_like(x, 1)
    parameters, rest = eqx.partition(potential, eqx.is_inexact_array)
    where, along = (parameters, x), (random_like(parameters, 2), w)
    value = lambda p: eqx.combine(p[0], rest).energy(p[1], box)
    gradient = jax.grad(value)  # by charges, and minus the forces
    both = jax.jit(jax.value_and_grad(value))
    pairing = lambda a, b: sum(jnp.sum(x * y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    once, twice = jax.jit(lambda p: jax.jvp(gradient, (p,), (along,)))(where)
    # steps of 1e-5 nm and e: truncation 1e-10 of third derivatives, 1e3 times the first; rounding 1e-14/1e-5
    shifted = lambda s: both(jax.tree.map(lambda a, d: a + s * d, where, along))
    (before, slopes_before), (after, slopes_after) = shifted(-1e-5), shifted(1e-5)
    np.testing.assert_allclose(pairing(once, along), (after - before) / 2e-5, rtol=1e-6)
    numeric = jax.tree.map(lambda a, b: (a - b) / 2e-5, slopes_after, slopes_before)
    assert_trees_close(twice, numeric, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "Ewald, triclinic",
        pytest.param("ReactionField", marks=pytest.mark.slow),
        pytest.param("P3M", marks=pytest.mark.slow),
        "P3M, triclinic",
    ],
)
def test_stress_against_finite_differences(name):
    make, box = INSTANCES[name]
    potential, x = make(), positions(6, box)
    strain = random_like(jnp.zeros((3, 3)), 2)
    strained = lambda s: energy(potential, x @ (jnp.eye(3) + s).T, box.deform(jnp.eye(3) + s))
    numeric = central_difference(strained, jnp.zeros((3, 3)), strain, 1e-5)
    got = jax.jit(lambda x: potential.stress(x, box))(x)
    # truncation: 1e-10 of a third derivative, 1e3 times the first
    np.testing.assert_allclose(jnp.sum(got * strain) * box.volume, numeric, rtol=1e-6)
    if "Ewald" in name:  # Σ r·∂U/∂r + L·∂U/∂L = -U for a function that is homogeneous of degree -1
        np.testing.assert_allclose(jnp.trace(got) * box.volume, -energy(potential, x, box), rtol=1e-8)


def test_derivatives_of_waves_against_a_plain_sum():
    """First and second ones, by charges, positions and lattice vectors together, and by positions alone."""
    alpha, waves = 2.3, (2, 4, 3)
    m = np.array([n for n in itertools.product(*(range(-k, k + 1) for k in waves)) if any(n)])

    def plain(q, x, vectors):
        k = 2 * np.pi * m @ jnp.linalg.inv(vectors).T
        k2 = jnp.sum(k**2, axis=1)
        structure = jnp.exp(1j * k @ x.T) @ q
        factor = 2 * np.pi / jnp.linalg.det(vectors)
        return factor * jnp.sum(jnp.exp(-k2 / (4 * alpha**2)) / k2 * (structure.real**2 + structure.imag**2))

    ours = lambda q, x, vectors: waves_energy(q, x, rv.TriclinicBox(vectors), alpha, waves)
    at = (jnp.asarray(charges(net=0.3)), positions(box=SKEWED), SKEWED.vectors)
    w = random_like(at, 1)

    @jax.jit
    def derivatives():
        def of(function):
            along = lambda *at: jax.jvp(function, at, w)[1]
            alone = lambda x: jax.jvp(lambda x: function(at[0], x, at[2]), (x,), (w[1],))[1]
            return (
                jax.grad(function, argnums=(0, 1, 2))(*at),
                jax.grad(along, argnums=(0, 1, 2))(*at),
                jax.grad(alone)(at[1]),
            )

        return of(ours), of(plain)

    assert_trees_close(*derivatives(), rtol=1e-10)


def test_special_pairs_against_explicit_sums():
    x, q = positions(7), charges(7)
    d = x[:, None] - x + jnp.eye(NUM)[..., None]
    each = rv.units.COULOMB * np.outer(q, q) / jnp.sqrt(jnp.sum(d**2, axis=-1))
    factors = np.triu(np.ones((NUM, NUM)), 1)
    for pairs, factor in ((EXCLUDED, 0.0), (SCALED, 0.4)):
        factors[np.minimum(*pairs.T), np.maximum(*pairs.T)] = factor
    np.testing.assert_allclose(energy(rv.Coulomb(q, **SPECIAL), x, rv.OpenBox()), jnp.sum(factors * each), rtol=1e-12)
    # with Ewald's sum they are taken out in their nearest image
    d = jnp.stack(BOX.minimum_image(*jnp.moveaxis(d - jnp.eye(NUM)[..., None], -1, 0)), -1) + jnp.eye(NUM)[..., None]
    each = rv.units.COULOMB * np.outer(q, q) / jnp.sqrt(jnp.sum(d**2, axis=-1))
    missing = jnp.sum((np.triu(np.ones((NUM, NUM)), 1) - factors) * each)
    np.testing.assert_allclose(energy(ewald(q=q), x, BOX) - energy(ewald(q=q, **SPECIAL), x, BOX), missing, rtol=1e-10)


def test_special_pairs_beyond_the_cutoff():
    """A pair that is excluded is excluded at any distance, and without a jump at the cutoff."""
    q = jnp.array([1.0, -1.0])
    potential = rv.Ewald.fit(q, BOX, cutoff=0.4, accuracy=1e-12, exclusions=np.array([[0, 1]]))
    along = lambda r: energy(potential, jnp.array([[0.0, 0, 0], [r, 0, 0]]), BOX)
    values = [float(along(r)) for r in (0.3999999, 0.4000001)]
    # a slope of some 300 kJ/mol/nm over 2e-7 nm
    np.testing.assert_allclose(*values, atol=1e-3)
    free = rv.Ewald.fit(q, BOX, cutoff=0.4, accuracy=1e-12)
    pair = lambda r: energy(free, jnp.array([[0.0, 0, 0], [r, 0, 0]]), BOX) + rv.units.COULOMB / r
    np.testing.assert_allclose([along(0.35), along(0.5)], [pair(0.35), pair(0.5)], rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "scale"), [(ewald, 0.0), *(pytest.param(*x, marks=pytest.mark.slow) for x in [(ewald, 0.5), (p3m, 0.0)])]
)
def test_special_pairs_at_one_place(make, scale):
    """Charges ±1 near one another: with the pair left out they feel their images only, a field 4π/3V times the dipole.

    The lattice of dipoles: H. A. Lorentz's field, which conducting surroundings leave alone in a cubic crystal.
    """
    box = rv.OrthorhombicBox(jnp.full(3, 2.0))
    pair = {"scaled": np.array([[0, 1]]), "scale": scale} if scale else {"exclusions": np.array([[0, 1]])}
    potential = make(box, accuracy=1e-6, q=jnp.array([1.0, -1.0]), **pair)

    along = lambda r: energy(potential, jnp.outer(jnp.array([0.0, r]), jnp.array([1.0, 0, 0])).astype(r.dtype), box)
    slopes = jax.jit(lambda r: (jax.grad(along)(r), jax.grad(jax.grad(along))(r)))
    unit = rv.units.COULOMB
    for r in (1e-6, 1e-4, 0.01, 0.1):
        lorentz = -4 * np.pi / 3 / 8 * unit
        expected = scale * unit / r**2 + lorentz * r, -2 * scale * unit / r**3 + lorentz
        # what single precision keeps of the waves; the next term of the lattice's field, by the distance cubed
        allowed = 0.01 + 100 * r**3, 1.0 + 300 * r**2
        for got, wanted, most in zip(slopes(jnp.float32(r)), expected, allowed, strict=True):
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=most)


@pytest.mark.parametrize(
    "name", ["ReactionField", *(pytest.param(n, marks=pytest.mark.slow) for n in ("Ewald, triclinic", "P3M"))]
)
def test_neighbor_lists_change_nothing(name):
    make, box = INSTANCES[name]
    x, potential = positions(8, box), make()
    found = rv.CellList.fit(x, box, cutoff=CUTOFF, skin=0.02).find(x, box)
    both = jax.jit(jax.value_and_grad(lambda x, n: potential.energy(x, box, neighbors=n)))
    (u, f), (wanted, g) = both(x, found), both(x, None)
    # sums in another order
    np.testing.assert_allclose(u, wanted, rtol=1e-11)
    np.testing.assert_allclose(f, g, atol=1e-11 * float(jnp.abs(g).max()))


@pytest.mark.parametrize("name", ALSO_SLOW)
def test_float32(name):
    """Forces of single precision, root mean square, to 1e-5 of those of double."""
    make, box = INSTANCES[name]
    x, potential = positions(9, BOX if name == "Coulomb" else box), make()
    wanted = forces(potential, x, box)
    got = forces(potential, x.astype(jnp.float32), box)
    assert got.dtype == jnp.float32
    assert jnp.sqrt(jnp.mean((got - wanted) ** 2) / jnp.mean(wanted**2)) < 1e-5


@given(seed=SEEDS)
@very_few
def test_charges_of_molecules(seed):
    """Neutral, or with a whole charge, whatever the parameters; atoms of a kind alike."""
    rng = np.random.default_rng(seed)
    kinds, molecules = np.array([0, 1, 1, -1, -1, 0, -1]), np.array([0, 0, 0, 0, 0, 1, 1])
    charges = rv.MolecularCharges(jnp.asarray(rng.normal(size=2)), kinds, molecules, np.array([0, -1]))
    q = np.asarray(charges.values)
    np.testing.assert_allclose([q[:5].sum(), q[5:].sum()], [0, -1], atol=1e-14)
    assert q[1] == q[2] == charges.charges[1]
    assert q[3] == q[4]
    np.testing.assert_array_equal(rv.AtomCharges(charges.charges, kinds[[0, 1, 2]]).values, q[:3])


def test_derivatives_by_charges_of_molecules():
    """One parameter, which moves two kinds of atoms."""
    kinds = np.arange(NUM) % 2 - 1
    x = positions(10)
    u = jax.jit(lambda q: ewald(q=rv.MolecularCharges(q[None], kinds, MOLECULES)).energy(x, BOX))
    q = jnp.asarray(0.42)
    np.testing.assert_allclose(jax.grad(u)(q), 2 * u(q) / q, rtol=1e-12)  # quadratic in the only charge
    np.testing.assert_allclose(jax.grad(u)(q), (u(q + 1e-3) - u(q - 1e-3)) / 2e-3, rtol=1e-9)


@pytest.mark.parametrize("name", ["qspcfw", "spcfw", "flexible_tip3p"])
def test_waters(name):
    """Neutral; at rest in the geometry of its table, where bonds and angles have no energy."""
    box = rv.OrthorhombicBox(jnp.full(3, 1.6))
    system = getattr(rv.WaterModel, name)().system(2, box)
    bonds, angles, among, charges = system.potential.parts
    r, theta = float(bonds.length), float(angles.angle)
    one = np.array([[0, 0, 0], [r, 0, 0], [r * np.cos(theta), r * np.sin(theta), 0]])
    x = jnp.asarray(np.concatenate([one, one + np.array([0.3, 0, 0])]))
    np.testing.assert_allclose(energy(bonds, x, box) + energy(angles, x, box), 0, atol=1e-12)
    np.testing.assert_allclose(charges.charges.values.reshape(2, 3).sum(1), 0, atol=1e-15)
    s6 = (float(among.potential.sigma) / 0.3) ** 6
    np.testing.assert_allclose(energy(among, x, box), 4 * among.potential.epsilon * (s6**2 - s6), rtol=1e-12)
    # the dipole of one molecule in debye, of the gas phase in these rigid geometries
    dipole = float(charges.charges.values[1]) * 2 * r * np.cos(theta / 2) / rv.units.DEBYE
    np.testing.assert_allclose(dipole, {"qspcfw": 2.256, "spcfw": 2.192, "flexible_tip3p": 2.347}[name], rtol=2e-3)


def test_without_jax_pme(monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "jaxpme"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "jaxpme", None)
    with pytest.raises(ImportError, match=r"pip install 'jax-pme"):
        rv.P3M(charges(), cutoff=0.5, alpha=3.0, mesh=(10, 10, 10))


PAIR = np.array([[0, 1]])


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: rv.Coulomb(np.ones(2), exclusions=np.array([[1, 1]])), ValueError, "wanted 2 different atoms"),
        (lambda: rv.Coulomb(np.ones(2), exclusions=PAIR, scaled=PAIR[:, ::-1]), ValueError, "more than once"),
        (lambda: rv.Coulomb(np.ones(2), exclusions=np.array([0, 1])), ValueError, "`exclusions` has shape"),
        (lambda: rv.Coulomb(np.ones(2), scaled=np.array([[0.0, 1.0]])), TypeError, "`scaled` has dtype"),
        (lambda: rv.Coulomb(np.ones(2)).energy(jnp.zeros((2, 3)), BOX), ValueError, "wanted an `OpenBox`"),
        (lambda: rv.ReactionField(np.ones(2), cutoff=0.5, dielectric=0.5), ValueError, "`dielectric` is 0.5"),
        (lambda: rv.ReactionField(np.ones(2), cutoff=-0.5), ValueError, "`cutoff` is -0.5"),
        (lambda: rv.Ewald(np.ones(2), cutoff=0.0, alpha=1.0, waves=(1, 1, 1)), ValueError, "`cutoff` is 0.0"),
        (lambda: rv.Ewald(np.ones(2), cutoff=0.5, alpha=np.nan, waves=(1, 1, 1)), ValueError, "`alpha` is nan"),
        (lambda: rv.Ewald(np.ones(2), cutoff=0.5, alpha=1.0, waves=(1, 0, 1)), ValueError, "`waves` is"),
        (lambda: rv.Ewald.fit(np.ones(2), rv.OpenBox()), ValueError, "In open space use `Coulomb`"),
        (lambda: ewald().energy(positions(), rv.OpenBox()), ValueError, "In open space use `Coulomb`"),
        (lambda: rv.Ewald.fit(np.ones(2), BOX, accuracy=0.5), ValueError, "`accuracy` is 0.5"),
        (
            lambda: rv.Ewald.fit(np.ones(2), BOX, cutoff=0.7),
            ValueError,
            "half the smallest height of the box, which is 0.65",
        ),
        (
            lambda: jax.jit(lambda lengths: rv.Ewald.fit(np.ones(2), rv.OrthorhombicBox(lengths)).alpha)(jnp.ones(3)),
            ValueError,
            "traced box",
        ),
        (lambda: rv.Ewald(np.ones(2), cutoff=0.5, alpha=1.0, waves=(1, 1)), ValueError, "`waves` is"),
        (lambda: rv.Ewald(np.ones(2), cutoff=0.5, alpha=1.0, waves=(1, 1.5, 1)), ValueError, "`waves` is"),
        (lambda: rv.Coulomb(0.4), ValueError, r"`charges` has shape \(\)"),
        (lambda: rv.Coulomb(np.ones(3)).energy(jnp.eye(2, 3), rv.OpenBox()), ValueError, "3 charges; wanted.* 2 atoms"),
        (
            lambda: rv.Ewald(charges(), cutoff=0.7, alpha=1.0, waves=(1, 1, 1)).energy(positions(), BOX),
            ValueError,
            "`Ewald` is 0.7 nm; wanted at most half the smallest height of the box, which is 0.65",
        ),
        (
            lambda: rv.P3M(charges(), cutoff=0.7, alpha=1.0, mesh=(5, 5, 5)).energy(positions(), BOX),
            ValueError,
            "`P3M` is 0.7 nm",
        ),
        (lambda: rv.P3M(np.ones(2), cutoff=0.5, alpha=1.0, mesh=(4, 8, 8)), ValueError, "at least 5"),
        (lambda: rv.P3M(np.ones(2), cutoff=0.0, alpha=1.0, mesh=(8, 8, 8)), ValueError, "`cutoff` is 0.0"),
        (lambda: rv.P3M(np.ones(2), cutoff=0.5, alpha=0.0, mesh=(8, 8, 8)), ValueError, "`alpha` is 0.0"),
        (lambda: p3m().energy(positions(), rv.OpenBox()), ValueError, "In open space use `Coulomb`"),
        (lambda: rv.AtomCharges(np.array([np.inf])), ValueError, "`charges` holds 1 values"),
        (lambda: rv.AtomCharges(np.ones(2), np.array([0, 2])), ValueError, "indices from 0 to 2; wanted from 0 to 1"),
        (lambda: rv.AtomCharges(np.ones(2), np.array([0, -1])), ValueError, "indices from -1 to 0"),
        (lambda: rv.AtomCharges(np.ones(2), np.array([0.0, 1.0])), TypeError, "`kinds` has dtype"),
        (lambda: rv.AtomCharges(np.ones((2, 2))), ValueError, "`charges` has shape"),
        (lambda: rv.MolecularCharges(np.ones(1), np.array([0, 0]), np.zeros(2, int)), ValueError, "no atom of kind -1"),
        (lambda: rv.MolecularCharges(np.ones(1), np.array([0, -2]), np.zeros(2, int)), ValueError, "from -2 to 0"),
        (
            lambda: rv.MolecularCharges(np.ones(1), np.array([0, -1]), np.zeros(3, int)),
            ValueError,
            "`molecules` has shape",
        ),
        (
            lambda: rv.MolecularCharges(np.ones(1), np.array([0, -1]), np.array([0, 1]), np.zeros(1, int)),
            ValueError,
            "`net` is of 1 molecules",
        ),
        (
            lambda: jax.jit(lambda m: rv.MolecularCharges(np.ones(1), np.array([0, -1]), m).values)(np.zeros(2, int)),
            ValueError,
            "`net` missing",
        ),
        (
            lambda: rv.System(rv.Topology.from_elements(["H"] * 3), rv.Coulomb(np.ones(2))),
            ValueError,
            "2 charges; wanted one for each of 3 atoms",
        ),
        (
            lambda: rv.System(rv.Topology.from_elements(["H"] * 2), rv.Coulomb(np.ones(2), exclusions=2 * PAIR)),
            ValueError,
            "names atom 2",
        ),
        (lambda: rv.qspcfw(0, BOX), ValueError, "`num_molecules` is 0"),
        (lambda: rv.qspcfw(1, BOX, cutoff=0.9), ValueError, "half the smallest height"),
    ],
)
def test_refused(make, error, match, without_type_checks):
    with pytest.raises(error, match=match):
        make()


def test_a_box_that_has_grown_is_told():
    """The waves are those of the box that was fitted."""
    potential = rv.Ewald.fit(charges(), BOX, accuracy=1e-5)
    assert potential.accuracy(BOX) <= 1.01e-5
    for fitted in (potential, rv.P3M.fit(charges(), BOX, cutoff=0.6, accuracy=1e-3)):
        grown = rv.OrthorhombicBox(2.5 * BOX.lengths)
        match = r"too large for this lattice sum.*; wanted the waves or the mesh that the box needs"
        with pytest.raises(ValueError, match=match):
            fitted.energy(positions(), grown)
        x = positions()
        system = rv.System(rv.Topology.from_elements(["Ar"] * len(x)), fitted + fitted)
        state = rv.State(x, jnp.zeros_like(x), grown)
        with pytest.raises(ValueError, match=match):  # before anything is compiled
            rv.nve(system, state, dt=0.001, num_steps=1, record=lambda system, state, initial: state.positions)
        with pytest.raises(ValueError, match=match):
            rv.minimize(system, state)
        with pytest.raises(ValueError, match=match):
            system.check(state.repeat(2))
    larger = rv.OrthorhombicBox(1.3 * BOX.lengths)
    np.testing.assert_allclose(potential.accuracy(larger), 1e-5 ** (1 / 1.69), rtol=0.3)  # waves are whole numbers


def test_rescaled_pairs():
    """The same as a sum without them and a sum over them alone, but with one set of parameters."""
    q, x = charges(11), positions(11)
    pairs = np.array(list(itertools.combinations(range(4), 2)))
    field = rv.ReactionField(q, cutoff=0.649)
    both = rv.Rescaling(rv.Excluding(field, EXCLUDED[2:], NUM), pairs, 0.3)
    parts = lambda f: rv.Excluding(f, np.concatenate([EXCLUDED[2:], pairs])) + rv.ListedPairs(f, pairs, 0.3)
    np.testing.assert_allclose(energy(both, x, BOX), energy(parts(field), x, BOX), rtol=1e-12)
    work = lambda p, q: jnp.sum(jnp.sin(x) * p(rv.ReactionField(q, cutoff=0.649)).forces(x, BOX))
    rescaled = lambda f: rv.Rescaling(rv.Excluding(f, EXCLUDED[2:], NUM), pairs, 0.3)
    one, two = (jax.jit(jax.grad(functools.partial(work, p)))(q) for p in (rescaled, parts))
    np.testing.assert_allclose(one, two, atol=1e-10 * float(jnp.abs(two).max()))
    np.testing.assert_array_equal(both.pairs, pairs)
    with pytest.raises(ValueError, match="`factor` is nan"):
        rv.Rescaling(field, pairs, np.nan)
    with pytest.raises(ValueError, match="`pairs` are traced"):
        jax.jit(lambda pairs: rv.Rescaling(field, pairs, 0.5).energy(x, BOX))(pairs)
    with pytest.raises(ValueError, match="names atom 24"):
        rv.System(rv.Topology.from_elements(["H"] * NUM), rv.Rescaling(field, np.array([[0, NUM]]), 0.5))
