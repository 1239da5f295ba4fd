import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    BOXES,
    CUTOFF,
    EPSILON,
    POTENTIALS,
    SEEDS,
    SIGMA,
    SMOOTH,
    SWITCHED,
    argon_box,
    argon_length,
    argon_positions,
    assert_trees_close,
    central_difference,
    few,
    lennard_jones,
    pair_sum,
    random_like,
)
from hypothesis import given, strategies as st
from jaxtyping import Array

import reverlet as rv

BOX = argon_box()
LENGTH = argon_length()
SHEARED = rv.TriclinicBox(jnp.array([[1.16, 0, 0], [0.1, 1.17, 0], [-0.1, 0.15, 1.18]]))  # heights above two cutoffs
energy = eqx.filter_jit(lambda potential, x, box: potential.energy(x, box))
forces = eqx.filter_jit(lambda potential, x, box: potential.forces(x, box))
stress = eqx.filter_jit(lambda potential, x, box: potential.stress(x, box))


def positions(seed):
    return jnp.asarray(argon_positions(seed=seed, jitter=0.015))


# Energies are some -100 kJ/mol from terms of either sign of that size: 1e-9 is a thousand times rounding.
ATOL = 1e-9


@pytest.mark.parametrize("name", POTENTIALS)
@given(seed=SEEDS)
@few
def test_invariances(name, seed):
    potential, x = POTENTIALS[name], positions(seed)
    rng = np.random.default_rng(seed)
    u, f = energy(potential, x, BOX), forces(potential, x, BOX)
    shift = jnp.asarray(rng.normal(size=3))
    np.testing.assert_allclose(energy(potential, x + shift, BOX), u, atol=ATOL)
    images = x + LENGTH * rng.integers(-2, 3, size=x.shape)
    np.testing.assert_allclose(energy(potential, images, BOX), u, atol=ATOL)
    np.testing.assert_allclose(forces(potential, images, BOX), f, rtol=1e-9, atol=1e-7)
    # like atoms change places: species alternate
    order = np.arange(32).reshape(16, 2)[rng.permutation(16)].ravel()
    np.testing.assert_allclose(energy(potential, x[order], BOX), u, atol=ATOL)
    np.testing.assert_allclose(forces(potential, x[order], BOX), f[order], rtol=1e-9, atol=1e-7)
    # Newton's third law
    np.testing.assert_allclose(jnp.sum(f, axis=0), 0, atol=1e-11 * float(jnp.sum(jnp.abs(f))))


@pytest.mark.parametrize("name", [name for name in POTENTIALS if name != "tail"])
@given(seed=SEEDS)
@few
def test_rotation_in_an_open_box(name, seed):
    potential, x = POTENTIALS[name], positions(seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]  # improper ones as well
    box = rv.OpenBox()
    np.testing.assert_allclose(energy(potential, x @ rotation.T, box), energy(potential, x, box), atol=ATOL)
    f = forces(potential, x, box)
    np.testing.assert_allclose(forces(potential, x @ rotation.T, box), f @ rotation.T, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("box", [BOX, SHEARED, rv.OpenBox()], ids=["orthorhombic", "triclinic", "open"])
@pytest.mark.parametrize("name", SMOOTH)
def test_forces_against_finite_differences(name, box):
    if name == "tail" and isinstance(box, rv.OpenBox):
        pytest.skip("a tail correction is zero without a density")
    potential, x = POTENTIALS[name], positions(0)
    w = random_like(x, 1)
    numeric = central_difference(lambda x: energy(potential, x, box), x, w, 1e-6)
    # truncation: step² times a third derivative, 1e-12 * 1e6 of the slope; rounding: 1e-13 / 1e-6
    np.testing.assert_allclose(-jnp.sum(forces(potential, x, box) * w), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("box", [BOX, SHEARED], ids=["orthorhombic", "triclinic"])
@pytest.mark.parametrize("name", SMOOTH)
def test_stress_against_finite_differences(name, box):
    potential, x = POTENTIALS[name], positions(0)
    got = np.asarray(stress(potential, x, box))
    deformed = lambda strain: energy(potential, x @ (jnp.eye(3) + strain).T, box.deform(jnp.eye(3) + strain))
    for k in range(3):
        for l in range(3):
            unit = jnp.zeros((3, 3)).at[k, l].set(1.0)
            numeric = central_difference(deformed, jnp.zeros((3, 3)), unit, 1e-6) / box.volume
            np.testing.assert_allclose(got[k, l], numeric, rtol=1e-6, atol=1e-6)  # as for forces
    # a rotation does no work
    np.testing.assert_allclose(got, got.T, atol=1e-9 * np.abs(got).max())


def pair(r):
    return jnp.array([[0.0, 0, 0], [r, 0, 0]])


def test_behaviour_at_the_cutoff():
    at = lambda truncation, r: float(energy(lennard_jones(truncation), pair(r), rv.OpenBox()))
    pull = lambda truncation, r: float(forces(lennard_jones(truncation), pair(r), rv.OpenBox())[1, 0])
    below, above = CUTOFF * (1 - 1e-9), CUTOFF * (1 + 1e-9)
    s6 = (SIGMA / CUTOFF) ** 6
    u_cutoff = 4 * EPSILON * (s6**2 - s6)
    for truncation in (rv.PlainCutoff(), rv.ShiftedCutoff(), rv.SmoothSwitch(0.4)):
        assert at(truncation, above) == pull(truncation, above) == 0
    np.testing.assert_allclose(at(rv.PlainCutoff(), below), u_cutoff, rtol=1e-7)  # 6e-9 from the distance
    np.testing.assert_allclose(at(rv.ShiftedCutoff(), below), 0, atol=1e-8)
    np.testing.assert_allclose(pull(rv.ShiftedCutoff(), below), pull(rv.PlainCutoff(), below), rtol=1e-12)
    # the switch takes energy, force and their slope to zero: t = 1 - δ leaves 10 δ³, 30 δ² and 60 δ
    delta = 1e-3
    r = CUTOFF - delta * (CUTOFF - 0.4)
    scale = abs(u_cutoff)
    switch = rv.SmoothSwitch(0.4)
    assert 0 < abs(at(switch, r)) < 11 * delta**3 * scale
    assert 0 < abs(pull(switch, r)) < 31 * delta**2 * scale / (CUTOFF - 0.4)
    # nothing happens below the onset, and the energy is smooth there
    np.testing.assert_allclose(at(switch, 0.399), at(rv.PlainCutoff(), 0.399), rtol=1e-14)
    np.testing.assert_allclose(pull(switch, 0.4 + 1e-9), pull(switch, 0.4 - 1e-9), rtol=1e-6)


@pytest.mark.parametrize(("truncation", "onset", "shift"), [(None, None, False), (rv.ShiftedCutoff(), None, True),
                                                            (rv.SmoothSwitch(0.4), 0.4, False)])  # fmt: skip
@given(seed=SEEDS)
@few
def test_against_a_plain_sum(truncation, onset, shift, seed):
    x = positions(seed)
    potential = lennard_jones(truncation)
    wanted = pair_sum(x, LENGTH, SIGMA, EPSILON, CUTOFF, onset, shift)
    np.testing.assert_allclose(energy(potential, x, BOX), wanted, rtol=1e-12)


def test_ways_to_say_the_same_parameters():
    x = positions(0)
    one = lennard_jones()
    species = np.arange(32) % 2
    same = rv.LennardJones(jnp.full(2, SIGMA), jnp.full(2, EPSILON), cutoff=CUTOFF, species=species)
    np.testing.assert_allclose(energy(same, x, BOX), energy(one, x, BOX), rtol=1e-14)
    sigma, epsilon = np.array([0.338, 0.30]), np.array([0.9, 0.5])
    sigmas, epsilons = 0.5 * (sigma[:, None] + sigma), np.sqrt(np.outer(epsilon, epsilon))
    mixed = rv.LennardJones(sigma, epsilon, cutoff=CUTOFF, species=species)
    explicit = rv.LennardJones(sigmas, epsilons, cutoff=CUTOFF, species=species)
    wanted = pair_sum(x, LENGTH, sigmas[np.ix_(species, species)], epsilons[np.ix_(species, species)], CUTOFF)
    np.testing.assert_allclose(energy(mixed, x, BOX), wanted, rtol=1e-12)
    np.testing.assert_allclose(energy(explicit, x, BOX), wanted, rtol=1e-12)
    np.testing.assert_allclose(forces(mixed, x, BOX), forces(explicit, x, BOX), rtol=1e-10, atol=1e-9)


def test_boxes_agree():
    x = positions(0)
    right = rv.TriclinicBox(BOX.vectors)
    for potential in (SWITCHED, rv.TailCorrected(SWITCHED)):
        np.testing.assert_allclose(energy(potential, x, right), energy(potential, x, BOX), rtol=1e-12)
        np.testing.assert_allclose(forces(potential, x, right), forces(potential, x, BOX), rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(stress(potential, x, right), stress(potential, x, BOX), rtol=1e-10, atol=1e-10)
    with jax.numpy_dtype_promotion("standard"):
        assert BOXES["open"].volume == jnp.inf


def test_tail_correction_in_closed_form():
    x, n, volume, s3 = positions(0), 32, LENGTH**3, (SIGMA / CUTOFF) ** 3
    plain = lennard_jones()
    tail = rv.TailCorrected(plain)
    density = n / volume
    wanted = 8 / 3 * np.pi * n * density * EPSILON * SIGMA**3 * (s3**3 / 3 - s3)
    # the quadrature is exact for inverse powers; what is left is rounding of the plain energy
    np.testing.assert_allclose(energy(tail, x, BOX) - energy(plain, x, BOX), wanted, rtol=1e-11)
    np.testing.assert_array_equal(forces(tail, x, BOX), forces(plain, x, BOX))
    # -(2π/3)ρ² ∫ r³ u′ dr (Allen & Tildesley), twice U_tail/V of the attraction
    wanted = 16 / 3 * np.pi * density**2 * EPSILON * SIGMA**3 * (2 / 3 * s3**3 - s3)
    pressure = lambda box: -jnp.trace(tail.stress(x, box) - plain.stress(x, box)) / 3
    np.testing.assert_allclose(eqx.filter_jit(pressure)(BOX), wanted, rtol=1e-10)
    # its derivatives are right as well: it goes like V⁻²
    scaled = lambda factor: pressure(rv.OrthorhombicBox(factor ** (1 / 3) * BOX.lengths))
    np.testing.assert_allclose(jax.jit(jax.grad(scaled))(1.0), -2 * wanted, rtol=1e-9)


class Cosine(rv.AbstractTruncation):
    """A user's own: u(r) (1 + cos(π t))/2 from 80 % of the cutoff on, or half of that, which jumps."""

    jumps: bool = eqx.field(static=True)

    def truncate(self, u, r2, cutoff):
        t = jnp.maximum(jnp.sqrt(jnp.maximum(r2, 0.1 * cutoff**2)) / cutoff - 0.8, 0) / 0.2
        return u(r2) * (1 + jnp.cos((0.5 if self.jumps else 1.0) * np.pi * t)) / 2

    def start(self, cutoff):
        return 0.8 * cutoff

    def check(self, cutoff):
        del cutoff


@pytest.mark.parametrize("truncation", [rv.SmoothSwitch(0.4), Cosine(False), Cosine(True)], ids=repr)
def test_tail_correction_of_a_switch_by_quadrature(truncation):
    x, n = positions(0), 32
    potential = lennard_jones(truncation)
    tail = rv.TailCorrected(potential)
    r = np.linspace(truncation.start(CUTOFF), CUTOFF, 200_001)
    formula = lambda r2: 4 * EPSILON * ((SIGMA**2 / r2) ** 6 - (SIGMA**2 / r2) ** 3)
    left_out = formula(r**2) - np.asarray(jax.vmap(lambda s: truncation.truncate(formula, s, CUTOFF))(r**2))
    s3 = (SIGMA / CUTOFF) ** 3
    beyond = 4 * EPSILON * SIGMA**3 * (s3**3 / 9 - s3 / 3)
    density = n / LENGTH**3
    wanted = 2 * np.pi * n * density * (np.trapezoid(left_out * r**2, r) + beyond)
    got = energy(tail, x, BOX) - energy(potential, x, BOX)
    np.testing.assert_allclose(got, wanted, rtol=1e-8)  # trapezoid rule with 2e5 intervals
    # the virial of what is left out, without the impulse at a jump
    virial = np.sum((0.5 * (r[1:] + r[:-1])) ** 3 * np.diff(left_out))
    virial += 4 * EPSILON * SIGMA**3 * (-12 * s3**3 / 9 + 6 * s3 / 3)
    pressure = -np.trace(stress(tail, x, BOX) - stress(potential, x, BOX)) / 3
    np.testing.assert_allclose(pressure, -2 / 3 * np.pi * density**2 * virial, rtol=1e-8)


@pytest.mark.parametrize("attraction", [4.0, 5.0, 3.5])
def test_tail_correction_of_slow_powers(attraction):
    """(2π/V) N² ∫ u r² dr of -C ε (σ/r)^m, less a repulsion, from r_c on; none where that hardly ends."""
    x, (n, m) = positions(0), (12.0, attraction)
    made = rv.TailCorrected(rv.Mie(SIGMA, EPSILON, n, 6.0, cutoff=CUTOFF))
    tail = eqx.tree_at(lambda t: t.potential.attraction, made, jnp.asarray(m))  # as a fit does
    prefactor = n / (n - m) * (n / m) ** (m / (n - m)) * EPSILON
    power = lambda k: SIGMA**k * CUTOFF ** (3 - k) / (k - 3) if k >= 4 else np.nan
    wanted = 2 * np.pi / LENGTH**3 * 32**2 * prefactor * (power(n) - power(m))
    np.testing.assert_allclose(energy(tail, x, BOX) - energy(tail.potential, x, BOX), wanted, rtol=1e-9)


def test_tail_correction_by_species():
    """The same whether parameters are per species, per pair of species or per atom, whatever is excluded."""
    x, species = positions(0), np.arange(32) % 3
    sigma, epsilon = np.array([0.338, 0.30, 0.32]), np.array([0.9, 0.5, 0.7])
    mixed = rv.LennardJones(sigma, epsilon, cutoff=CUTOFF, species=species)
    every_atom = rv.LennardJones(sigma[species], epsilon[species], cutoff=CUTOFF, species=np.arange(32))
    tail = lambda potential: energy(rv.TailCorrected(potential), x, BOX) - energy(potential, x, BOX)
    sigmas, epsilons = 0.5 * (sigma[:, None] + sigma), np.sqrt(np.outer(epsilon, epsilon))
    s3 = (sigmas / CUTOFF) ** 3
    each = 8 / 3 * np.pi / LENGTH**3 * epsilons * sigmas**3 * (s3**3 / 3 - s3)
    counts = np.bincount(species)
    own = Indexed(jnp.asarray(sigma[species]), jnp.asarray(epsilon[species]))
    for potential in (mixed, every_atom, rv.Excluding(mixed, np.array([[0, 1]])), own):
        np.testing.assert_allclose(tail(potential), counts @ each @ counts, rtol=1e-10)


class Indexed(rv.AbstractPairPotential):
    """A user's own mixture, with a parameter for every atom."""

    sigma: Array
    epsilon: Array
    cutoff: float = eqx.field(static=True, default=CUTOFF)
    truncation: rv.AbstractTruncation = rv.PlainCutoff()

    def pair_energy(self, r2, i, j):
        s6 = (0.25 * (self.sigma[i] + self.sigma[j]) ** 2 / r2) ** 3
        return 4 * jnp.sqrt(self.epsilon[i] * self.epsilon[j]) * (s6**2 - s6)


def test_sums():
    x, (a, b, c) = positions(0), (SWITCHED, lennard_jones(cutoff=0.5), rv.TailCorrected(lennard_jones()))
    total = a + b + c
    assert isinstance(total, rv.Sum)
    assert len(total.parts) == len((a + (b + c)).parts) == 3
    assert total.cutoff == CUTOFF
    parts = sum(energy(p, x, BOX) for p in (a, b, c))
    np.testing.assert_allclose(energy(total, x, BOX), parts, rtol=1e-13)


def test_scaled():
    x, (a, b) = positions(0), (SWITCHED, lennard_jones(cutoff=0.5))
    np.testing.assert_allclose(energy(-a, x, BOX), -energy(a, x, BOX), rtol=1e-14)
    for scaled in (1.5 * a, a * 1.5):
        np.testing.assert_allclose(forces(scaled, x, BOX), 1.5 * forces(a, x, BOX), rtol=1e-12)
        assert scaled.cutoff == a.cutoff
    np.testing.assert_allclose(energy(a - b, x, BOX), energy(a, x, BOX) - energy(b, x, BOX), rtol=1e-12)
    split = b + (a - b)
    assert len(split.parts) == 3
    # what was added is taken away again: rounding of the parts, which are as large as the whole
    np.testing.assert_allclose(energy(split, x, BOX), energy(a, x, BOX), rtol=1e-13)
    np.testing.assert_allclose(forces(split, x, BOX), forces(a, x, BOX), rtol=1e-11, atol=1e-10)
    assert len(jax.tree.leaves(2 * a)) == len(jax.tree.leaves(a))  # the factor is no parameter


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("factor", "error", "match"),
    [
        (jnp.array(2.0), TypeError, "wanted a Python number such as 2.0.*a potential with it as a field"),
        ("2", TypeError, "`factor` is '2', of type `str`"),
        (True, TypeError, "`factor` is True, of type `bool`"),
        (float("nan"), ValueError, "`factor` is nan; wanted a finite number"),
    ],
)
def test_scaled_refuses(factor, error, match):
    with pytest.raises(error, match=match):
        SWITCHED * factor


# The custom derivative rules, for a box of any shape as well, against automatic differentiation of the plain sum. Both
# are exact: 1e-12 of the largest entry is some thousand roundings.

RTOL = 1e-12


def ours(parameters, x):
    sigma, epsilon, vectors = parameters
    potential = eqx.tree_at(lambda p: (p.sigma, p.epsilon), SWITCHED, (sigma, epsilon))
    return potential.energy(x, rv.TriclinicBox(vectors))


def plain(parameters, x):
    sigma, epsilon, vectors = parameters
    return pair_sum(x, vectors, sigma, epsilon, CUTOFF, 0.4)


PARAMETERS = (jnp.array(SIGMA), jnp.array(EPSILON), SHEARED.vectors)
FEW_ATOMS = jnp.asarray(argon_positions(seed=5)[:9])
ALONG = (random_like(PARAMETERS, 1), random_like(FEW_ATOMS, 2))
ACROSS = (random_like(PARAMETERS, 3), random_like(FEW_ATOMS, 4))
POINT = (PARAMETERS, FEW_ATOMS)


def jvp(f, along):
    return lambda *point: jax.jvp(f, point, along)[1]


DERIVATIVES = {
    "value": lambda f: f,
    "gradient": lambda f: jax.grad(f, (0, 1)),
    "vjp": lambda f: lambda *point: jax.vjp(f, *point)[1](2.5),
    "jvp": lambda f: jvp(f, ALONG),
    "jvp of parameters alone": lambda f: lambda p, x: jax.jvp(lambda p: f(p, x), (p,), ALONG[:1])[1],
    "jvp of positions alone": lambda f: lambda p, x: jax.jvp(lambda x: f(p, x), (x,), ALONG[1:])[1],
    "jvp of gradient": lambda f: jvp(jax.grad(f, (0, 1)), ALONG),
    "gradient of jvp": lambda f: jax.grad(jvp(f, ALONG), (0, 1)),
    "jvp of jvp": lambda f: jvp(jvp(f, ALONG), ACROSS),
    "gradient of gradient": lambda f: jax.grad(
        lambda *point: sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(jax.grad(f, (0, 1))(*point)),
                                                          jax.tree.leaves(ALONG), strict=True)), (0, 1)),
    "hessian": lambda f: jax.hessian(f, 1),
    "hessian of parameters": lambda f: jax.hessian(f, 0),
    "hessian, reverse over reverse": lambda f: jax.jacrev(jax.grad(f, 1), 1),
    "third, jvp of gradient of jvp": lambda f: jvp(jax.grad(jvp(f, ALONG), (0, 1)), ACROSS),
    "third, gradient of jvp of jvp": lambda f: jax.grad(jvp(jvp(f, ALONG), ACROSS), (0, 1)),
    "third, gradient of jvp of gradient": lambda f: jax.grad(
        lambda p, x: jnp.sum(jnp.sin(jax.jvp(lambda x: jax.grad(f, 1)(p, x), (x,), ALONG[1:])[1])), (0, 1)),
}  # fmt: skip


# the same orders as others have, by rules that those go through as well
_SLOW = ("gradient of gradient", "hessian, reverse over reverse", "third, gradient of jvp of jvp")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in DERIVATIVES]
)
def test_derivatives(name):
    derive = DERIVATIVES[name]
    got, wanted = jax.jit(derive(ours))(*POINT), jax.jit(derive(plain))(*POINT)
    assert_trees_close(got, wanted, rtol=RTOL, atol=1e-12)


def test_derivatives_under_vmap():
    batch = jnp.stack([FEW_ATOMS, FEW_ATOMS * 1.01, FEW_ATOMS[::-1]])
    sigmas = SIGMA * jnp.array([1.0, 0.99, 1.01])
    derive = lambda f: jax.jit(
        jax.vmap(
            lambda s, x: jax.grad(jvp(lambda p, x: f((s * p[0], *PARAMETERS[1:]), x), ((1.0,), ALONG[1])), 1)((1.0,), x)
        )
    )
    assert_trees_close(derive(ours)(sigmas, batch), derive(plain)(sigmas, batch), rtol=RTOL)
    # over directions alone, as a Jacobian does
    pushed = lambda f: jax.jit(jax.vmap(lambda w: jax.jvp(jax.grad(lambda x: f(PARAMETERS, x)), (FEW_ATOMS,), (w,))[1]))
    ws = random_like(batch, 7)
    assert_trees_close(pushed(ours)(ws), pushed(plain)(ws), rtol=RTOL)


def test_derivatives_of_pair_parameters():
    species = np.arange(9) % 2

    def mixture(parameters, x):
        return rv.LennardJones(*parameters, cutoff=CUTOFF, species=species, truncation=rv.SmoothSwitch(0.4)).energy(
            x, BOX
        )

    def by_hand(parameters, x):
        sigma, epsilon = (p[species] for p in parameters)
        sigmas, epsilons = 0.5 * (sigma[:, None] + sigma), jnp.sqrt(epsilon[:, None] * epsilon)
        return pair_sum(x, LENGTH, sigmas, epsilons, CUTOFF, 0.4)

    point = ((jnp.array([0.338, 0.3]), jnp.array([0.9, 0.5])), FEW_ATOMS)
    for derive in (lambda f: jax.grad(f, (0, 1)), lambda f: jax.grad(jvp(f, random_like(point, 0)), (0, 1))):
        assert_trees_close(jax.jit(derive(mixture))(*point), jax.jit(derive(by_hand))(*point), rtol=RTOL)


class Buckingham(rv.AbstractPairPotential):
    """A user's own formula, with parameters of its own."""

    a: Array
    b: Array
    c: Array
    cutoff: float = eqx.field(static=True, default=CUTOFF)
    truncation: rv.AbstractTruncation = rv.SmoothSwitch(0.4)

    def pair_energy(self, r2, i, j):
        del i, j
        r = jnp.sqrt(r2)
        return self.a * jnp.exp(-self.b * r) - self.c / r2**3


def test_a_potential_of_ones_own():
    potential = Buckingham(jnp.array(1e5), jnp.array(33.0), jnp.array(5e-3))

    def by_hand(potential, x):
        i, j = np.triu_indices(len(x), 1)
        d = x[i] - x[j]
        r = jnp.sqrt(jnp.sum((d - LENGTH * jnp.round(d / LENGTH)) ** 2, axis=1))
        t = jnp.clip((r - 0.4) / (CUTOFF - 0.4), 0, 1)
        u = potential.a * jnp.exp(-potential.b * r) - potential.c / r**6
        return jnp.sum(jnp.where(r < CUTOFF, u * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5), 0))

    library = lambda p, x: p.energy(x, BOX)
    for derive in (
        lambda f: jax.value_and_grad(f, (0, 1)),
        lambda f: jax.grad(lambda p, x: jnp.sum(jax.grad(f, 1)(p, x) ** 2), (0, 1)),
    ):
        assert_trees_close(
            jax.tree.leaves(jax.jit(derive(library))(potential, FEW_ATOMS)),
            jax.tree.leaves(jax.jit(derive(by_hand))(potential, FEW_ATOMS)),
            rtol=1e-11,  # exponentials of 33 r and their cancellation cost a digit
        )


@pytest.mark.parametrize("name", POTENTIALS)
def test_precision_follows_the_positions(name):
    potential, x = POTENTIALS[name], positions(0)
    single = x.astype(jnp.float32)
    assert energy(potential, single, BOX).dtype == jnp.float32
    assert forces(potential, single, BOX).dtype == jnp.float32
    assert stress(potential, single, BOX).dtype == jnp.float32
    # float32 has seven digits; steep repulsion costs some
    assert_trees_close(forces(potential, single, BOX).astype(float), forces(potential, x, BOX), rtol=2e-4)
    gradient = eqx.filter_grad(lambda p: p.energy(single, BOX))(potential)
    for g, p in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(eqx.filter(potential, eqx.is_inexact_array)), strict=True
    ):
        assert g.dtype == p.dtype


def test_atoms_do_not_see_themselves():
    for potential in (lennard_jones(), SWITCHED):
        single = jnp.zeros((1, 3))
        assert energy(potential, single, BOX) == 0
        assert jnp.all(forces(potential, single, BOX) == 0)
    assert not jnp.isfinite(energy(lennard_jones(), jnp.zeros((2, 3)), BOX))


@given(scale=st.floats(0.5, 2.0))
@few
def test_energy_is_linear_in_epsilon(scale):
    x = positions(3)
    scaled = eqx.tree_at(lambda p: p.epsilon, SWITCHED, SWITCHED.epsilon * scale)
    np.testing.assert_allclose(energy(scaled, x, BOX), scale * energy(SWITCHED, x, BOX), rtol=1e-12)


def test_against_openmm():
    openmm = pytest.importorskip("openmm")
    x = np.asarray(positions(0))
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(LENGTH * np.eye(3)).tolist())
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(CUTOFF)
    force.setUseDispersionCorrection(False)
    for _ in x:
        system.addParticle(39.948)
        force.addParticle(0.0, SIGMA, EPSILON)
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    state = context.getState(getEnergy=True, getForces=True)
    wanted = state.getPotentialEnergy()._value
    np.testing.assert_allclose(energy(lennard_jones(), x, BOX), wanted, rtol=1e-10)  # double precision on both sides
    f = np.array([list(f) for f in state.getForces()._value])
    np.testing.assert_allclose(forces(lennard_jones(), x, BOX), f, atol=1e-10 * np.abs(f).max())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.LennardJones(0.0, 1.0, cutoff=1.0), "`sigma` is 0.0"),
        (lambda: rv.LennardJones(0.3, -1.0, cutoff=1.0), "`epsilon` is -1.0"),
        (lambda: rv.LennardJones(jnp.nan, 1.0, cutoff=1.0), "`sigma` is nan"),
        (lambda: rv.LennardJones(0.3, 1.0, cutoff=0.0), "`cutoff` is 0.0"),
        (lambda: rv.LennardJones(0.3, 1.0, cutoff=np.inf), "`cutoff` is inf"),
        (lambda: rv.LennardJones(np.ones(2), 1.0, cutoff=1.0), "wanted all scalar"),
        (lambda: rv.LennardJones(np.ones((2, 3)), np.ones((2, 3)), cutoff=1.0, species=[0]), "wanted all scalar"),
        (lambda: rv.LennardJones(np.ones(2), np.ones(2), cutoff=1.0), "`species` is missing"),
        (lambda: rv.LennardJones(0.3, 1.0, cutoff=1.0, species=np.zeros(3, int)), "`species` is given"),
        (lambda: rv.LennardJones(np.ones(2), np.ones(2), cutoff=1.0, species=np.array([0, 2])), "from 0 to 1"),
        (lambda: rv.LennardJones(np.ones(2), np.ones(2), cutoff=1.0, species=np.array([0, -1])), "`species` has -1"),
        (lambda: rv.LennardJones(np.ones(2), np.ones(2), cutoff=1.0, species=np.ones(2)), "`species` has dtype"),
        (lambda: rv.LennardJones(np.array([[1.0, 2], [3, 4]]), np.ones((2, 2)), cutoff=1.0, species=np.array([0, 1])), "symmetric"),  # noqa: E501
        (lambda: lennard_jones(rv.SmoothSwitch(0.6)), "`onset` is 0.6 nm"),
        (lambda: lennard_jones(rv.SmoothSwitch(0.0)), "`onset` is 0.0;"),
        (lambda: rv.TailCorrected(lennard_jones(rv.ShiftedCutoff())), "got a potential with a `ShiftedCutoff`"),
        (lambda: rv.TailCorrected(rv.ReactionField(np.ones(3), cutoff=0.5)), "`ReactionField` whose energy falls more"),
        (lambda: rv.TailCorrected(rv.Mie(0.3, 1.0, 12.0, 3.0, cutoff=0.5)), "`Mie` whose energy falls more slowly"),
    ],
)  # fmt: skip
def test_refusals(make, match, without_type_checks):
    with pytest.raises((TypeError, ValueError), match=match):
        make()


def test_species_must_fit_the_atoms():
    potential = rv.LennardJones(np.full(2, 0.3), np.ones(2), cutoff=0.5, species=np.array([0, 1, 0]))
    topology = rv.Topology.from_elements(["Ar"] * 4)
    for whole in (potential, potential + potential, rv.TailCorrected(potential)):
        with pytest.raises(
            ValueError, match="`species` of `LennardJones` has 3 entries; wanted one for each of 4 atoms"
        ):
            rv.System(topology, whole)
