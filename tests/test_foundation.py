"""The foundation potential of docs/a-foundation-potential.md, against its own package; run by `nox -s foundation`."""

import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHARED

import reverlet as rv

pytest.importorskip("nequix", reason="without the package nequix; `nox -s foundation` has it")
WEIGHTS = SHARED / "data" / "foundation" / "nequix-oam-1-pft.nqx"
PAGE = Path(__file__).parents[1] / "docs" / "a-foundation-potential.md"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WEIGHTS.exists(), reason="without the published weights"),
]
WATER = np.array([[0.0, 0.0, 0.0], [0.0757, 0.0586, 0.0], [-0.0757, 0.0586, 0.0]])  # nm


BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page():
    """What the first block of the page defines."""
    names = {"__name__": "page"}
    exec(compile(BLOCKS[0], str(PAGE), "exec"), names)
    return names


def test_energies_forces_and_stress(page):
    """Of two waters across the border of a box, as of the package's calculator: eV and Å, in single precision."""
    ase = pytest.importorskip("ase")
    from nequix.calculator import NequixCalculator

    x = np.concatenate([WATER, WATER[:, [1, 2, 0]] + np.array([0.1, -0.28, 0.05])])
    atoms = ase.Atoms("OHHOHH", positions=10 * x, cell=np.full(3, 12.5), pbc=True)
    with jax.enable_x64(False):  # or the package does not read its weights
        atoms.calc = NequixCalculator(model_path=str(WEIGHTS), use_kernel=False)
        atoms.get_stress()
    topology = rv.Topology.from_elements(["O", "H", "H"] * 2)
    potential, box = page["Nequix"].load(str(WEIGHTS), topology), rv.OrthorhombicBox(jnp.full(3, 1.25))
    of = eqx.filter_jit(lambda p, x: (p.energy(x, box), p.forces(x, box), p.stress(x, box)))
    energy, forces, stress = of(potential, jnp.asarray(x))
    ev, a = rv.units.ELECTRONVOLT, rv.units.ANGSTROM
    np.testing.assert_allclose(energy / ev, atoms.get_potential_energy(), rtol=1e-6)
    known = atoms.get_forces()
    np.testing.assert_allclose(forces * a / ev, known, atol=2e-5 * np.abs(known).max())
    known = atoms.get_stress(voigt=False)
    np.testing.assert_allclose(stress * a**3 / ev, known, atol=2e-5 * np.abs(known).max())


def test_gradient_by_all_weights(page):
    """Through a trajectory, against finite differences along a direction, in double precision."""
    assert len(BLOCKS) == 2
    exec(compile(BLOCKS[1].replace("nequix-oam-1-pft.nqx", WEIGHTS.as_posix()), str(PAGE), "exec"), page)
    potential, key = page["potential"], jax.random.key(1)
    arrays, static = eqx.partition(potential, eqx.is_inexact_array)
    arrays = jax.tree.map(lambda w: w.astype(float), arrays)
    leaves, treedef = jax.tree.flatten(arrays)
    along = [w * jax.random.normal(jax.random.fold_in(key, k), w.shape) for k, w in enumerate(leaves)]
    along = jax.tree.unflatten(treedef, along)
    moved = lambda t: eqx.combine(jax.tree.map(lambda w, v: w + t * v, arrays, along), static)
    slopes = jax.tree.leaves(page["stretched"](moved(0.0))[1])
    assert sum(s.size for s in slopes) == 707_658
    slope, h = sum(jnp.sum(s * v) for s, v in zip(slopes, jax.tree.leaves(along), strict=True)), 1e-4
    value = lambda t: page["stretched"](moved(t))[0]
    expected = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    assert abs(slope) > 1e-6  # there is something to compare
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_what_does_not_fit(page):
    with pytest.raises(ValueError, match="no elements of the numbers"):
        page["Nequix"].load(str(WEIGHTS), rv.Topology.from_elements(["Po"]))
    topology, box = rv.Topology.from_elements(["O", "H", "H"]), rv.OrthorhombicBox(jnp.full(3, 1.0))
    potential = page["Nequix"].load(str(WEIGHTS), topology)
    with pytest.raises(ValueError, match="cutoff"):
        rv.System(topology, potential).check(rv.State(jnp.asarray(WATER), jnp.zeros((3, 3)), box))
