"""Formulas for pairs, and pairs that are named: against closed forms, plain sums and OpenMM."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CUTOFF, EPSILON, SIGMA, argon_box, argon_positions, central_difference, lennard_jones, random_like

import reverlet as rv

BOX, X = argon_box(), jnp.asarray(argon_positions(jitter=0.015))
SPECIES = np.arange(32) % 3 // 2  # two of three are alike
matrix = lambda a, b, c: np.array([[a, b], [b, c]])
MIE = rv.Mie(matrix(0.338, 0.32, 0.3), matrix(0.9, 0.7, 0.5), matrix(14.0, 12.5, 12.0), matrix(6.0, 6.5, 7.0),
             cutoff=CUTOFF, species=SPECIES)  # fmt: skip
MORSE = rv.Morse(matrix(0.9, 0.6, 0.5), matrix(16.0, 15.0, 14.0), matrix(0.38, 0.36, 0.34), cutoff=CUTOFF,
                 species=SPECIES)  # fmt: skip
BUCKINGHAM = rv.Buckingham(matrix(6e5, 5e5, 4e5), matrix(36.0, 36.5, 37.0), matrix(3.7e-3, 3e-3, 0.0), core=0.2,
                           cutoff=CUTOFF, species=SPECIES)  # fmt: skip
OF_SPECIES = {"cutoff": CUTOFF, "species": SPECIES}
SOFT = rv.pairs.InversePower(matrix(0.338, 0.32, 0.3), matrix(0.9, 0.7, 0.5), matrix(12.0, 10.5, 9.0), **OF_SPECIES)
YUKAWA = rv.pairs.Yukawa(matrix(90.0, -20.0, 50.0), matrix(5.0, 6.0, 7.0), **OF_SPECIES)
CORES = rv.pairs.GaussianCore(matrix(0.338, 0.32, 0.3), matrix(0.9, 0.7, 0.5), **OF_SPECIES)
DOUBLE = rv.pairs.DoubleExponential(matrix(0.38, 0.36, 0.34), matrix(0.9, 0.7, 0.5), matrix(16.8, 15.0, 14.0),
                                    matrix(4.4, 5.0, 6.0), **OF_SPECIES)  # fmt: skip
PHI_MORSE = rv.pairs.GeneralizedMorse(matrix(0.38, 0.36, 0.34), matrix(0.9, 0.7, 0.5), matrix(4.5, 5.5, 6.5),
                                      matrix(1.52, 0.44, -2.45), **OF_SPECIES)  # fmt: skip
FORMS = {
    "soft": (SOFT, "e*(s/r)^n", ("s", "e", "n")),
    "yukawa": (YUKAWA, "A*exp(-k*r)/r", ("A", "k")),
    "cores": (CORES, "e*exp(-(r/s)^2)", ("s", "e")),
    "double": (DOUBLE, "e*(b*exp(a)/(a-b)*exp(-a*r/l)-a*exp(b)/(a-b)*exp(-b*r/l))", ("l", "e", "a", "b")),
    "phi-morse": (PHI_MORSE, "e*(exp(2*x)-2*exp(x)-A)/(1+A);x=a*(1-(r/l)^p)/p;A=step(-p)*(exp(2*a/p)-2*exp(a/p))",
                  ("l", "e", "a", "p")),
    "mie": (MIE, "n/(n-m)*(n/m)^(m/(n-m))*e*((s/r)^n-(s/r)^m)", ("s", "e", "n", "m")),
    "morse": (MORSE, "D*((1-exp(-a*(r-r0)))^2-1)", ("D", "a", "r0")),
    "buckingham": (BUCKINGHAM, "A*exp(-b*r)-C/r^6", ("A", "b", "C")),
}  # fmt: skip
BONDED = np.concatenate([[[k, k + 1], [k, k + 2], [k + 2, k + 1]] for k in range(0, 27, 3)])  # triples, as of molecules
energy = eqx.filter_jit(lambda potential, x, box: potential.energy(x, box))
forces = eqx.filter_jit(lambda potential, x, box: potential.forces(x, box))


def in_openmm(force, x=X):
    openmm = pytest.importorskip("openmm")
    system = openmm.System()
    for _ in x:
        system.addParticle(1.0)
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(CUTOFF)
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*map(float, v)) for v in BOX.vectors))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(x))
    state = context.getState(getEnergy=True, getForces=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


@pytest.mark.parametrize("name", FORMS)
def test_forms_with_exclusions_against_openmm(name):
    openmm = pytest.importorskip("openmm")
    potential, formula, names = FORMS[name]
    expression = formula + "".join(f"; {p}={p}_table(species1,species2)" for p in names)
    force = openmm.CustomNonbondedForce(expression)
    for p, field in zip(names, jax.tree.leaves(potential), strict=False):  # parameters are its first fields
        force.addTabulatedFunction(f"{p}_table", openmm.Discrete2DFunction(2, 2, np.asarray(field).T.ravel().tolist()))
    force.addPerParticleParameter("species")
    for s in SPECIES:
        force.addParticle([float(s)])
    for i, j in BONDED.tolist():
        force.addExclusion(i, j)
    u, f = in_openmm(force)
    excluding = rv.Excluding(potential, BONDED)
    assert abs(energy(potential, X, BOX) - u) > 1  # the exclusions matter
    # double precision on both sides; powers and exponentials are computed in other ways
    np.testing.assert_allclose(energy(excluding, X, BOX), u, rtol=1e-10)
    np.testing.assert_allclose(forces(excluding, X, BOX), f, atol=1e-9 * np.abs(f).max())


def test_scaled_pairs_against_openmm():
    """Exceptions of a `NonbondedForce`, which have parameters of their own and no cutoff."""
    openmm = pytest.importorskip("openmm")
    force = openmm.NonbondedForce()
    force.setUseDispersionCorrection(False)
    force.setExceptionsUsePeriodicBoundaryConditions(True)
    for _ in X:
        force.addParticle(0.0, SIGMA, EPSILON)
    sigmas, epsilons, kinds = np.array([0.3, 0.25]), np.array([0.4, 0.2]), np.arange(len(BONDED)) % 2
    for (i, j), kind in zip(BONDED.tolist(), kinds, strict=True):
        force.addException(i, j, 0.0, sigmas[kind], epsilons[kind])
    u, f = in_openmm(force)
    own = rv.LennardJones(sigmas, epsilons, cutoff=CUTOFF, species=np.arange(2))
    potential = rv.Excluding(lennard_jones(), BONDED, 32) + rv.ListedPairs(own, BONDED, kinds=kinds)
    np.testing.assert_allclose(energy(potential, X, BOX), u, rtol=1e-10)
    np.testing.assert_allclose(forces(potential, X, BOX), f, atol=1e-9 * np.abs(f).max())


@pytest.mark.parametrize("name", FORMS)
def test_derivatives_by_parameters(name):
    potential, x = FORMS[name][0], X[:9]
    potential = eqx.tree_at(lambda p: p.species, potential, jnp.asarray(SPECIES[:9]))
    parameters, rest = eqx.partition(rv.Excluding(potential, BONDED[:9]), eqx.is_inexact_array)
    w = random_like(x, 0)
    work = jax.jit(lambda p: jnp.sum(eqx.combine(p, rest).forces(x, BOX) * w))
    # pairs have no order: a derivative is shared by both halves of a matrix, along any direction
    along = jax.tree.map(lambda p: p * random_like(p, 1), parameters)
    got = sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (jax.grad(work)(parameters), along)), strict=True))
    # a relative step of 1e-6 to the power 14 · 2: truncation 1e-9, rounding 1e-10
    np.testing.assert_allclose(got, central_difference(work, parameters, along, 1e-6), rtol=1e-7)
    # the same by automatic differentiation of the plain sum over pairs that are named
    i, j = np.triu_indices(9, 1)
    named = [(a, b) for a, b in zip(i, j, strict=True) if not {(a, b), (b, a)} & set(map(tuple, BONDED.tolist()))]
    near = np.array([p for p in named if np.linalg.norm(jnp.stack(BOX.minimum_image(*(x[p[0]] - x[p[1]])))) < CUTOFF])

    def listed(parameters):
        listed = rv.ListedPairs(eqx.combine(parameters, rest).potential, near)
        return jnp.sum(listed.forces(x, BOX) * w)

    for a, b in zip(*map(jax.tree.leaves, (jax.grad(work)(parameters), jax.grad(listed)(parameters))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


def u(potential, r):
    """Of one pair of atoms of the first species, as a function of distance."""
    return potential.pair_energy(jnp.asarray(r) ** 2, jnp.asarray(0), jnp.asarray(1))


def test_closed_forms():
    mie, morse = rv.Mie(0.34, 0.9, 12.0, 6.0, cutoff=1.0), rv.Morse(0.9, 16.0, 0.38, cutoff=1.0)
    for r in (0.3, 0.4, 0.7):
        np.testing.assert_allclose(u(mie, r), u(rv.LennardJones(0.34, 0.9, cutoff=1.0), r), rtol=1e-13)
    # every Mie potential has its minimum -ε at σ (n/m)^{1/(n - m)}
    steep = rv.Mie(0.34, 0.9, 23.0, 6.7, cutoff=1.0)
    bottom = 0.34 * (23 / 6.7) ** (1 / (23 - 6.7))
    np.testing.assert_allclose(u(steep, bottom), -0.9, rtol=1e-13)
    np.testing.assert_allclose(jax.grad(lambda r: u(steep, r))(bottom), 0, atol=1e-11)
    np.testing.assert_allclose(u(morse, 0.38), -0.9, rtol=1e-14)
    np.testing.assert_allclose(jax.grad(jax.grad(lambda r: u(morse, r)))(0.38), 2 * 0.9 * 16.0**2, rtol=1e-12)


def test_wells_against_each_other():
    """Each has its depth at its distance, and is another one's special case."""
    r = jnp.linspace(0.3, 0.9, 7)
    of = lambda potential: jax.vmap(lambda r: u(potential, r))(r)
    close = lambda a, b, rtol: np.testing.assert_allclose(of(a), of(b), rtol=rtol, atol=1e-14)
    morse = rv.Morse(0.9, 12.0, 0.38, cutoff=1.0)
    close(rv.pairs.GeneralizedMorse(0.38, 0.9, 12.0 * 0.38, 1.0, cutoff=1.0), morse, 1e-11)
    close(rv.pairs.DoubleExponential(0.38, 0.9, 24.0 * 0.38, 12.0 * 0.38, cutoff=1.0), morse, 1e-11)
    # the exponents 12 and 6, whose minimum is at 2^{1/6} σ; the first power of φ is left
    mie = rv.Mie(0.38 / 2 ** (1 / 6), 0.9, 12.0, 6.0, cutoff=1.0)
    close(rv.pairs.GeneralizedMorse(0.38, 0.9, 6.0, 1e-9, cutoff=1.0), mie, 1e-7)
    close(rv.pairs.GeneralizedMorse(0.38, 0.9, 6.0, -1e-9, cutoff=1.0), mie, 1e-7)
    for phi in (1.52, 0.44, -0.45, -8.0):
        well = rv.pairs.GeneralizedMorse(0.38, 0.9, 5.5, phi, cutoff=1.0)
        np.testing.assert_allclose(u(well, 0.38), -0.9, rtol=1e-12)
        np.testing.assert_allclose(jax.grad(lambda r, well=well: u(well, r))(0.38), 0, atol=1e-11)
        assert abs(u(well, 1e9)) < 1e-4
    # soft spheres of two powers are Lennard-Jones
    powers = [4 * rv.pairs.InversePower(0.34, 0.9, n, cutoff=CUTOFF) for n in (12.0, 6.0)]
    lj = rv.LennardJones(0.34, 0.9, cutoff=CUTOFF)
    np.testing.assert_allclose(energy(powers[0] - powers[1], X, BOX), energy(lj, X, BOX), rtol=1e-12)


def test_the_core_of_buckingham():
    a, b, c, core = 6e5, 36.0, 3.7e-3, 0.2
    potential = rv.Buckingham(a, b, c, core=core, cutoff=1.0)
    for r in (0.2001, 0.3, 0.6):
        np.testing.assert_allclose(u(potential, r), a * np.exp(-b * r) - c / r**6, rtol=1e-12)
    # energy, force and curvature are continuous there: their jumps shrink with the distance, by third derivatives
    derivatives = [lambda r: u(potential, r)]
    for _ in range(2):
        derivatives.append(jax.grad(derivatives[-1]))
    for f in derivatives:
        inside, outside = f(core * (1 - 1e-9)), f(core * (1 + 1e-9))
        np.testing.assert_allclose(inside, outside, rtol=1e-6)
    # it repels all the way, where the formula falls to -∞
    r = np.linspace(1e-3, core, 50)
    assert np.all(np.array([derivatives[1](x) for x in r]) < 0)
    assert a * np.exp(-b * 0.02) - c / 0.02**6 < -1e7 < 0 < u(potential, 1e-9) < 1e5
    # floats of either precision, and derivatives of parameters, stay finite at distances where the formula overflows
    single = jax.grad(lambda r: u(potential, r))(jnp.asarray(1e-6, jnp.float32))
    assert jnp.isfinite(single)
    slopes = eqx.filter_grad(lambda p: u(p, 1e-60))(potential)
    assert all(jnp.isfinite(leaf) for leaf in jax.tree.leaves(slopes))


def test_excluded_pairs_may_overlap():
    """Atoms of a molecule, so near that the formula overflows, contribute nothing, in no derivative."""
    x = jnp.array([[0.0, 0, 0], [1e-5, 0, 0], [0.4, 0, 0]], jnp.float32)
    potential = rv.Excluding(rv.LennardJones(jnp.float32(0.34), jnp.float32(0.9), cutoff=0.55), BONDED[:1])
    alone = rv.LennardJones(jnp.float32(0.34), jnp.float32(0.9), cutoff=0.55)
    box = rv.OpenBox()
    wanted = alone.energy(x[1:], box) + alone.energy(x[::2], box)
    np.testing.assert_allclose(potential.energy(x, box), wanted, rtol=1e-6)
    derivative = eqx.filter_jit(eqx.filter_grad(lambda z: jnp.sum(z[0].forces(z[1], box) ** 2)))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(derivative((potential, x))))


def test_among_is_the_potential_of_the_others_left_out():
    chosen = np.array([5, 2, 17, 30, 8, 11])
    among = rv.Among(eqx.tree_at(lambda p: p.species, MIE, jnp.asarray(SPECIES[chosen])), chosen)
    others = np.setdiff1d(np.arange(32), chosen)
    np.testing.assert_allclose(energy(among, X, BOX), energy(among.potential, X[chosen], BOX), rtol=1e-13)
    f = forces(among, X, BOX)
    np.testing.assert_allclose(f[chosen], forces(among.potential, X[chosen], BOX), rtol=1e-12)
    np.testing.assert_array_equal(f[others], 0)
    # the same as leaving pairs out
    pairs = [(i, j) for i in range(32) for j in range(i) if i in others or j in others]
    excluding = rv.Excluding(MIE, np.array(pairs), 32)
    np.testing.assert_allclose(forces(excluding, X, BOX), f, atol=1e-11 * np.abs(f).max())


def test_excluding_remembers_its_pairs():
    pairs = np.array([[3, 1], [0, 2], [1, 3], [4, 0]])
    np.testing.assert_array_equal(rv.Excluding(lennard_jones(), pairs).pairs, [[0, 2], [0, 4], [1, 3]])
    none = rv.Excluding(lennard_jones(), np.zeros((0, 2), int), 32)
    assert none.pairs.shape == (0, 2)
    np.testing.assert_allclose(energy(none, X, BOX), energy(lennard_jones(), X, BOX), rtol=1e-14)


ONE = lambda: lennard_jones()
TWO = lambda: rv.LennardJones(np.ones(2), np.ones(2), cutoff=0.5, species=np.array([0, 1, 0]))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: rv.Mie(0.3, 1.0, 6.0, 6.0, cutoff=1.0), ValueError, "wanted a larger exponent of the repulsion"),
        (lambda: rv.Mie(0.3, 1.0, 12.0, 0.0, cutoff=1.0), ValueError, "`attraction` is 0.0"),
        (lambda: rv.Mie(np.ones(2), np.ones(2), np.full(2, 12.0), np.full(2, 6.0), cutoff=1.0, species=[0]), ValueError,
         r"`sigma` \(2,\), .*; wanted all scalar or all \(species, species\)"),
        (lambda: rv.Morse(1.0, -1.0, 0.3, cutoff=1.0), ValueError, "`width` is -1.0"),
        (lambda: rv.Morse(1.0, 1.0, 0.3, cutoff=0.0), ValueError, "`cutoff` is 0.0"),
        (lambda: rv.Morse(np.ones((2, 2)), 1.0, 0.3, cutoff=1.0), ValueError, r"`depth` \(2, 2\), `width` \(\)"),
        (lambda: rv.Morse(np.array([[1, 2], [3, 4.0]]), *np.ones((2, 2, 2)), cutoff=1.0, species=np.array([0, 1])),
         ValueError, "wanted a symmetric matrix"),
        (lambda: rv.Buckingham(6e5, 36.0, 3.7e-3, core=0.02, cutoff=1.0), ValueError, "does not repel.*such as 0.095"),
        (lambda: rv.Buckingham(6e5, 36.0, 3.7e-3, core=0.5, cutoff=1.0), ValueError, "`core` is 0.5 nm"),
        (lambda: rv.Buckingham(1.0, 36.0, 3.7e-3, core=0.2, cutoff=1.0), ValueError, "have none: A is too small"),
        (lambda: rv.Excluding(ONE(), np.array([[0, 40]]), 32), ValueError, "name atom 40; wanted .* 0 to 31"),
        (lambda: rv.Excluding(ONE(), np.array([[2, 2]])), ValueError, r"\[2, 2\] at index 0; wanted 2 different"),
        (lambda: jax.jit(lambda p: rv.Excluding(ONE(), p).partners)(np.array([[0, 1]])), ValueError, "are traced"),
        (lambda: rv.ListedPairs(ONE(), np.array([[0, 1]]), np.ones(2)), ValueError, r"`factor` has shape \(2,\)"),
        (lambda: rv.ListedPairs(ONE(), np.array([[0, 1]]), np.nan), ValueError, "`factor` is nan"),
        (lambda: rv.ListedPairs(ONE(), np.array([[0, 1]]), kinds=np.array([0, 1])), ValueError, "`kinds` has shape"),
        (lambda: rv.ListedPairs(TWO(), np.array([[0, 1]]), kinds=np.array([3])), ValueError, "wanted from 0 to 2"),
        (
            lambda: rv.ListedPairs(rv.Excluding(TWO(), np.array([[0, 1]])), np.array([[0, 1]]), kinds=np.array([7])),
            ValueError,
            "wanted from 0 to 2",
        ),
        (lambda: rv.Among(ONE(), np.array([0, 1, 0])), ValueError, "names atom 0 more than once"),
        (lambda: rv.Among(ONE(), np.array([0, -1])), ValueError, "`atoms` has -1; wanted indices from 0"),
        (lambda: rv.Among(ONE(), np.array([0.0])), TypeError, "`atoms` has dtype float64"),
        (lambda: rv.Among(TWO(), np.array([0, 1])), ValueError, "has 3 entries; wanted one for each of 2 atoms"),
    ],
)  # fmt: skip
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.Excluding(ONE(), np.array([[0, 4]])), "`Excluding` names atom 4; wanted indices from 0 to 3"),
        (
            lambda: rv.Excluding(TWO(), np.array([[0, 1]])),
            "`LennardJones` has 3 entries; wanted one for each of 4",
        ),
        (lambda: rv.ListedPairs(ONE(), np.array([[0, 4]])), "`ListedPairs` names atom 4"),
        (lambda: rv.ListedPairs(TWO(), np.array([[0, 3]])), "`LennardJones` has 3 entries"),
        (lambda: rv.Among(ONE(), np.array([0, 4])), "`Among` names atom 4"),
        (lambda: MORSE, "`species` of `Morse` has 32 entries; wanted one for each of 4 atoms"),
    ],
)
def test_a_system_refuses_what_does_not_fit(make, match):
    topology = rv.Topology.from_elements(["Ar"] * 4)
    with pytest.raises(ValueError, match=match):
        rv.System(topology, 2 * make() + rv.Among(ONE(), np.array([0])))
    rv.System(topology, rv.Among(TWO(), np.array([3, 0, 1])))
    rv.System(topology, rv.ListedPairs(TWO(), np.array([[0, 3]]), kinds=np.array([2])))
