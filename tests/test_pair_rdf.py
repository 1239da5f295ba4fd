"""The experiment `pair_rdf`: what it sees against the library's own, its derivatives, bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import pair_mixture, pair_rdf
from experiments.__main__ import main
from experiments._pairs import Learned, Point, Structure, hats, lattice
from experiments._pairs_fit import Task, responses
from experiments._pairs_room import energies

LENGTH = 2.0
X = jnp.asarray(lattice(20, LENGTH) + 0.05 * np.random.default_rng(0).normal(size=(20, 3)))
SPECIES = jnp.asarray(np.arange(20) % 3 // 2)


def test_structure_is_that_of_the_library():
    """Of a mixture, whose species are data here."""
    structure = Structure(0.99, 12, 0.03, kinds=2)
    found, nearest = jax.jit(structure)(Point(jnp.asarray(1.0), jnp.asarray(LENGTH), SPECIES), X)
    box = rv.OrthorhombicBox(jnp.full(3, LENGTH))
    system = rv.System(rv.Topology.from_elements(["Ar"] * 20), rv.LennardJones(0.5, 1.0, cutoff=0.9))
    state = rv.State(X, jnp.zeros_like(X), box)
    wanted = [rdf.record(system, state, state) for rdf in rv.RDF.partials(SPECIES, 0.99, 12, 0.03)]
    np.testing.assert_allclose(found, jnp.stack(wanted), rtol=1e-9, atol=1e-12)
    d = np.asarray(X)[:, None] - np.asarray(X)
    d -= LENGTH * np.round(d / LENGTH)
    assert np.isclose(nearest, np.min(np.linalg.norm(d, axis=-1) + 9 * np.eye(20)))


def test_curves_go_on_inwards():
    knots = np.linspace(0.5, 2.0, 31)
    curves = hats(knots, 0.8, 2.0, 0.3)
    np.testing.assert_array_equal(curves[-1], 0)
    np.testing.assert_allclose(curves[knots < 0.8], np.broadcast_to([1, 0, 0, 0], (6, 4)), atol=1e-14)
    np.testing.assert_allclose(curves @ (2.0 - np.array([0.8, 1.1, 1.4, 1.7])), 2.0 - np.maximum(knots, 0.8), atol=0.2)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--cutoff", "2.9"), "--cutoff is 2.9; wanted at most 2.682, half the smallest box"),
        (("--density", "0.3", "0.5", "--temperature", "1", "2", "3"), r"--density is \(0.3, 0.5\)"),
        (("--method", "ibi", "ibi"), "--method is"),
        (("--metrics", "3"), "--metrics is 3; wanted a divisor of --updates, 400"),
        (("--chunk", "25"), "--chunk is 25; wanted a multiple of --every, 10"),
    ],
)
def test_bad_input(flags, told, tmp_path, capsys):
    assert main(["pair_rdf", *flags, "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()
    assert re.search(told, capsys.readouterr().err)


@pytest.mark.parametrize("flag", [("--density", "33"), ("--atoms", "216"), ("--bins", "50")])
def test_water_is_as_its_target(flag, tmp_path, capsys):
    assert main(["cg_water_pair", *flag, "--out", str(tmp_path / "run")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "wanted those of the target, 125, 33.3282 1/nm³, 2.47896 kJ/mol, 150 and 0.005 nm" in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pair_temperatures", "--unseen has 3.0; wanted temperatures between those of --temperature"),
        ("pair_mixture", "A composition is 3.0; wanted fractions of 108 atoms with at least two of each kind"),
    ],
)
def test_what_is_not_trained_lies_between(name, told, tmp_path, capsys):
    assert main([name, "--unseen", "3", "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("target", ["lj", "family", "morse", "soft", "yukawa"])
def test_targets(target):
    """The family has the strength of Lennard-Jones: 12-6 is that."""
    config = pair_rdf.Config(target=target, exponents=(12.0, 6.0))
    r = np.linspace(0.9, 2.5, 9)
    u = energies(config.truth(), r)
    lj = 4 * (r**-12 - r**-6)
    known = {"lj": lj, "family": lj, "soft": r**-12.0, "yukawa": 20 * np.exp(-3 * r) / r}
    if target in known:
        np.testing.assert_allclose(u, known[target], rtol=3e-5)  # at the cutoff, of a little before it
    assert np.all(np.isfinite(u))


def test_sums_over_g_are_slopes_of_the_energy():
    """∂U/∂coefficients of a configuration of a mixture, by automatic differentiation and as sums over its g(r): all
    that can tell of the potentials. Smearing and bins blur the curves a little."""
    liquid = pair_mixture.Config(atoms=32, cutoff=1.6, bins=400, width=0.002).at((0.25,))
    r = np.linspace(0.8, 1.6, 46)
    modes = np.zeros((3, 46, 8))
    modes[0, :, :5], modes[2, :, 5:] = hats(r, 0.9, 1.6, 0.14), hats(r, 1.0, 1.6, 0.2)
    model = Learned(jnp.zeros(8), jnp.asarray(np.tile(4 * (r**-12 - r**-6), (3, 1))), jnp.asarray(modes), 0.8, 1.6)
    x = liquid.positions[0] + 0.05 * np.random.default_rng(1).normal(size=(32, 3))
    point = liquid.at(0)
    assert np.sum(point.species) == 24
    state = rv.State(x, jnp.zeros_like(x), rv.OrthorhombicBox(jnp.broadcast_to(point.length, 3)))
    g, nearest, slopes = jax.jit(responses(liquid.structure, model))(point, state)
    assert 0.8 < nearest < 1.1
    task = Task(liquid, np.zeros((1, 3, 400)), 0.8, 1.6, 46, 0.2)
    np.testing.assert_allclose(np.einsum("mpb,pb->m", task.sums(model)[0], g), slopes, rtol=1e-3, atol=0.05)
