"""Structure factors and density profiles: of lattices and gases in closed form, against plain sums, ASE and tables."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.utils.xrdebye import XrDebye
from helpers import SKEWED, argon_box, argon_length, argon_positions, argon_topology, central_difference

import reverlet as rv

LENGTH = argon_length(3)
FCC = rv.State(jnp.asarray(argon_positions(3, jitter=0.0)), None, argon_box(3))
LJ = rv.LennardJones(0.3, 1.0, cutoff=0.5)
ARGON = rv.System(argon_topology(3), LJ)
MIXTURE = rv.System(rv.Topology.from_elements(["O", "H", "D", "Si"] * 5), LJ)
TRICLINIC = rv.TriclinicBox(1.2 * jnp.asarray(SKEWED))
ANYWHERE = rv.State(
    jnp.asarray(np.random.default_rng(0).uniform(size=(20, 3)) @ np.asarray(TRICLINIC.vectors)), None, TRICLINIC
)


def of(observable, system, state):
    records = jax.tree.map(lambda x: x[None, None], observable.record(system, state, state))
    return observable.reduce(jnp.zeros(1), records, jnp.ones(1))


def test_bragg_peaks():
    """Of 3³ face-centered cells: N where all indices are odd or all even multiples of 3, zero elsewhere."""
    step = 2 * np.pi / LENGTH
    triples = np.array(list(itertools.product(range(-7, 8), repeat=3)))
    n2 = np.sum(triples**2, axis=1)
    cell = triples // 3
    peak = np.all(triples % 3 == 0, axis=1) & np.all(cell % 2 == cell[:, :1] % 2, axis=1)
    for square in (12, 27, 36, 48):
        edge = step * np.sqrt(square + np.array([-0.4, 0.4]))
        found = of(rv.StructureFactor(edge[0], edge[1], 1, (7, 7, 7)), ARGON, FCC)
        np.testing.assert_allclose(found, 108 * np.mean(peak[n2 == square]), atol=1e-9)
    assert peak[n2 == 27].any()
    assert not peak[n2 == 12].any()


@pytest.mark.parametrize("scattering", [rv.scattering.Nuclei(), rv.scattering.XRays(), rv.scattering.Neutrons()])
def test_against_a_plain_sum(scattering):
    """In a triclinic box, over all vectors in both directions."""
    observable = rv.StructureFactor.fit(TRICLINIC, 24.0, 4, scattering=scattering)
    found = of(observable, MIXTURE, ANYWHERE)
    reciprocal = 2 * np.pi * np.linalg.inv(np.asarray(TRICLINIC.vectors)).T
    k = np.array(list(itertools.product(range(-6, 7), repeat=3))) @ reciprocal
    length = np.linalg.norm(k, axis=1)
    f = np.asarray(jax.jit(jax.vmap(lambda q: scattering.amplitudes(MIXTURE.topology, q)))(jnp.asarray(length)))
    waves = np.exp(1j * k @ np.asarray(ANYWHERE.positions).T)
    s = 1 + (np.abs(np.sum(f * waves, axis=1)) ** 2 - np.sum(f**2, axis=1)) / (20 * np.mean(f, axis=1) ** 2)
    edges = np.asarray(observable.edges)
    wanted = [np.mean(s[(length >= a) & (length < b)]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_form_factors_and_scattering_lengths_against_tables():
    """ASE has the coefficients of some elements, as functions of sin θ/λ (those of Cu, with 28.5 electrons, not)."""
    elements = ["C", "N", "P", "S", "Cl", "Ni", "Pd", "Ag", "Pt", "Au"]
    ase = XrDebye(Atoms("C"), 0.5)
    for k in (0.0, 10.0, 40.0, 80.0):  # 1/nm
        found = rv.scattering.XRays().amplitudes(rv.Topology.from_elements(elements), jnp.asarray(k))
        np.testing.assert_allclose(found, [ase.get_waasmaier(e, k / 40 / np.pi) for e in elements], rtol=1e-6)
    # International Tables C (1992), table 6.1.1.1: carbon at sin θ/λ = 0.5 1/Å
    carbon = rv.scattering.XRays().amplitudes(rv.Topology.from_elements(["C"]), jnp.asarray(20 * np.pi))
    np.testing.assert_allclose(carbon, 1.685, atol=0.005)
    every = rv.Topology(jnp.arange(1, 99), jnp.ones(98), jnp.arange(98), jnp.zeros((0, 2), int))
    still = rv.scattering.XRays().amplitudes(every, jnp.asarray(0.0))
    np.testing.assert_allclose(still, np.arange(1, 99), atol=0.04)  # electrons; what the fits are off
    found = rv.scattering.Neutrons().amplitudes(MIXTURE.topology, jnp.asarray(1.0))[:4]
    np.testing.assert_allclose(found, [5.803, -3.739, 6.671, 4.149], rtol=1e-3)  # Sears (1992), fm


def test_an_ideal_gas():
    """S is one and profiles are flat, within five standard errors; charges and masses count where they are given."""
    states = jax.vmap(lambda x: rv.State(x, None, FCC.box))(
        LENGTH * jax.random.uniform(jax.random.key(0), (60, 108, 3))
    )
    ask = rv.StructureFactor.fit(FCC.box, 16.0, 4)
    profile = rv.DensityProfile(8, axis=1)
    smooth = rv.DensityProfile(8, LENGTH / 8, axis=1, per_atom=jnp.full(108, 2.0))
    joint = rv.Joint((ask, profile, smooth))
    records = jax.jit(lambda s: jax.lax.map(lambda one: joint.record(ARGON, one, one), s))(states)
    records = jax.tree.map(lambda x: x[:, None], records)
    s, flat, twice = joint.reduce(jnp.zeros(1), records, jnp.full(60, 1 / 60))
    vectors = 60 * np.asarray(records[0][1][0, 0])
    assert np.all(np.abs(s - 1) < 5 / np.sqrt(vectors))  # |ρ|² is exponentially distributed
    density = 108 / LENGTH**3
    np.testing.assert_allclose(flat, density, rtol=5 * np.sqrt(8 / 108 / 60))
    np.testing.assert_allclose(jnp.mean(flat), density, rtol=1e-12)
    np.testing.assert_allclose(twice, 2 * density, rtol=5 * np.sqrt(8 / 108 / 60))


def test_a_profile_is_a_histogram_or_a_sum_of_gaussians():
    fractions = np.asarray(ANYWHERE.positions) @ np.linalg.inv(np.asarray(TRICLINIC.vectors)) % 1
    silicon = np.arange(20) % 4 == 3
    wanted = np.histogram(fractions[silicon, 0], 6, (0, 1))[0] * 6 / float(TRICLINIC.volume)
    np.testing.assert_allclose(of(rv.DensityProfile(6, axis=0, species="Si"), MIXTURE, ANYWHERE), wanted, rtol=1e-12)
    height = float(TRICLINIC.heights[2])
    away = (fractions[:, 2][:, None] - (np.arange(6) + 0.5) / 6)[..., None] + np.arange(-3, 4)
    gauss = np.exp(-0.5 * (away * height / 0.05) ** 2) / (0.05 * np.sqrt(2 * np.pi))
    wanted = np.sum(gauss, axis=(0, 2)) * height / float(TRICLINIC.volume)
    np.testing.assert_allclose(of(rv.DensityProfile(6, 0.05), MIXTURE, ANYWHERE), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    "observable",
    [rv.DensityProfile(5, 0.1, axis=1), rv.StructureFactor.fit(TRICLINIC, 18.0, 2, scattering=rv.scattering.XRays())],
    ids=["profile", "structure factor"],
)
def test_derivatives(observable):
    way = jax.random.normal(jax.random.key(0), (20, 3))
    value = jax.jit(lambda x: jnp.sum(jnp.sin(of(observable, MIXTURE, rv.State(x, None, TRICLINIC)))))
    slope = jnp.sum(jax.grad(value)(ANYWHERE.positions) * way)
    np.testing.assert_allclose(slope, central_difference(value, ANYWHERE.positions, way, 1e-6), rtol=1e-6)


@pytest.mark.usefixtures("without_type_checks")
def test_refusals():
    free = rv.State(FCC.positions, None, rv.OpenBox())
    larger = rv.State(FCC.positions, None, rv.OrthorhombicBox(jnp.full(3, 2 * LENGTH)))
    ask = rv.StructureFactor.fit(FCC.box, 16.0, 4)
    for observable in (ask, rv.DensityProfile(4)):
        with pytest.raises(ValueError, match="OpenBox"):
            observable.record(ARGON, free, free)
    with pytest.raises(ValueError, match="histogram, which has no derivative"):
        jax.grad(lambda x: jnp.sum(rv.DensityProfile(4).record(ARGON, rv.State(x, None, FCC.box), None)))(FCC.positions)
    with pytest.raises(rv.SimulationError, match=r"`waves` of `StructureFactor` is .* wanted at least"):
        ask.record(ARGON, larger, larger)
    with pytest.raises(rv.SimulationError, match=r"No reciprocal lattice vector .* bin 0"):
        of(rv.StructureFactor(0.1, 16.0, 20, (7, 7, 7)), ARGON, FCC)
    with pytest.raises(rv.SimulationError, match="wanted at most an eighth"):
        rv.DensityProfile(4, 0.3 * LENGTH).record(ARGON, FCC, FCC)
    for make, words in (
        (lambda: rv.StructureFactor.fit(rv.OpenBox(), 16.0, 4), "no reciprocal lattice"),
        (lambda: rv.StructureFactor.fit(FCC.box, 1.0, 4), "more than the smallest of this box"),
        (lambda: rv.StructureFactor(5.0, 4.0, 4, (3, 3, 3)), "`k_min` is 5.0 1/nm; wanted less"),
        (lambda: rv.DensityProfile(4, axis=3), "`axis` is 3; wanted 0, 1 or 2"),
        (lambda: rv.DensityProfile(4, per_atom=jnp.ones(3)).record(ARGON, FCC, FCC), "`per_atom` has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
