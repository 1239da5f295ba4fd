"""The experiment that refines a foundation potential: its crystals, its line, and what it refuses."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHARED

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import refine_foundation
from experiments.__main__ import main
from experiments._crystals import (
    Line,
    Nequix,
    StandIn,
    doubled_diamond,
    hessian,
    labels,
    neighbors,
    vibrations_of_diamond,
    wavenumbers,
    zincblende,
)
from experiments._errors import BadInput

EDGE = 0.35668
WEIGHTS = SHARED / "data" / "foundation" / "nequix-oam-1-pft.nqx"


@pytest.fixture(scope="module")
def model():
    return StandIn.fresh(("C", "C"), jax.random.key(0))


def test_line_and_its_derivative_are_those_of_a_spring():
    """Whatever the phase, in half a period; dν/dk = ν/2k, through the trajectory."""
    topology = rv.Topology.from_elements(["C", "C"], bonds=[(0, 1)])
    wanted = 1332.5

    @jax.value_and_grad
    def line_of(k):
        potential = rv.HarmonicBond(topology.bonds, k, 0.15)
        x = jnp.array([[0.0, 0.0, 0.0], [0.1543, 0.0, 0.0]])
        v = jnp.array([[0.2, 0.0, 0.0], [-0.3, 0.0, 0.0]])
        line = Line(6)
        run = rv.nve(
            rv.System(topology, potential), rv.State(x, v, rv.OpenBox()), dt=1e-3, num_steps=14, record=line.record
        )
        return line.reduce(run.times, run.records[None], jnp.ones(1))

    mass = float(topology.masses[0]) / 2
    k = mass * (wanted * rv.units.WAVENUMBER) ** 2
    value, slope = line_of(jnp.asarray(k))
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(slope, wanted / (2 * k), rtol=1e-6)


def test_a_crystal_of_images_is_one_of_many_atoms(model):
    """Energy and forces of the cell of two atoms, and stress, as of 64 atoms in a box that has room for the cutoff."""
    cell = zincblende(EDGE, "C", "C")
    x = jnp.asarray(cell.sites + np.array([[0.004, -0.003, 0.002], [0, 0, 0]]))
    box = rv.TriclinicBox(jnp.asarray(cell.vectors))
    energy, forces, stress = labels(cell.crystal(model, room=60), rv.State(x, jnp.zeros_like(x), box))

    n = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    away = n @ cell.vectors
    within = np.all((away > -1e-6) & (away < 2 * EDGE - 1e-6), axis=1)
    many = jnp.asarray((away[within][:, None] + np.asarray(x)).reshape(-1, 3))
    assert len(many) == 64
    large, room = model.of(["C"] * 64), rv.OrthorhombicBox(jnp.full(3, 2 * EDGE))
    known = labels(large, rv.State(many, jnp.zeros_like(many), room))
    np.testing.assert_allclose(energy, known[0] / 32, rtol=1e-6)
    np.testing.assert_allclose(forces, known[1][:2], atol=1e-5 * np.abs(known[1]).max())
    np.testing.assert_allclose(stress, known[2], atol=1e-5 * np.abs(stress).max())


def test_neighbors_of_diamond():
    """4, 12, 12 and 6 in its first shells."""
    for cell in (zincblende(EDGE, "C", "C"), doubled_diamond(EDGE)):
        j, _ = neighbors(cell, EDGE * 1.001)
        assert [len(x) for x in j] == [34] * len(cell.sites)


def test_line_is_the_harmonic_one_of_small_motions(model):
    """Of trajectories near 0 K, by differences of forces, in both cells; three vibrations are translations."""
    cell = zincblende(EDGE, "C", "C")
    doubled = doubled_diamond(EDGE)
    small = wavenumbers(hessian(cell.crystal(model), cell))
    matrix = hessian(doubled.crystal(model), doubled)
    parts = vibrations_of_diamond(matrix)
    np.testing.assert_allclose(parts["gamma"], small[3:], atol=1.0)
    assert np.max(np.abs(small[:3])) < 20  # 1/cm: rounding of forces
    np.testing.assert_allclose(np.sort(np.concatenate(list(parts.values()))), wavenumbers(matrix)[3:], atol=1.0)
    for pair in ("TA(X)", "TO(X)", "L(X)"):  # by symmetry
        assert np.ptp(parts[pair]) < 1
    system, line = rv.System(cell.topology, cell.crystal(model)), Line(6)
    v = jnp.array([[0.01, -0.02, 0.03], [-0.01, 0.02, -0.03]], jnp.float32)
    state = rv.State(cell.state.positions, v, cell.box)
    run = rv.nve(system, state, dt=1e-3, num_steps=40, record=line.record)
    found = float(line.reduce(run.times, run.records[None], jnp.ones(1, jnp.float32)))
    assert abs(found - float(np.mean(small[3:]))) < 2  # 1/cm


def test_changes_are_none_of_the_same(model):
    cell = zincblende(EDGE, "C", "C")
    one = [tuple(np.asarray(x) for x in labels(cell.crystal(model, 60), s)) for _, s in
           refine_foundation.configurations(cell, 0)[:2]]  # fmt: skip
    found = refine_foundation.changes(one, one)
    assert found["energy"] == found["forces"] == found["relative"] == found["stress"] == 0
    assert found["relative_before"] > 0
    assert found["pressure_before"] == found["pressure_after"]
    twice = [(2 * e, 2 * f, 2 * s) for e, f, s in one]
    assert math.isclose(refine_foundation.changes(one, twice)["forces"], 1)


def test_what_is_refused(tmp_path, capsys):
    def refused(*arguments):
        assert main(["refine_foundation", "--out", str(tmp_path / "run"), *arguments]) == 2
        return capsys.readouterr().err

    assert "--weights is missing" in refused()
    assert "which is no file" in refused("--weights", str(tmp_path / "none.nqx"))
    assert "--lag is 20" in refused("--preset", "smoke", "--lag", "20")
    assert "--rate is 2" in refused("--preset", "smoke", "--rate", "2")
    assert not (tmp_path / "run").exists()


def test_a_file_of_something_else(tmp_path):
    pytest.importorskip("nequix")
    (tmp_path / "other.nqx").write_text("not JSON\n")
    with pytest.raises(BadInput, match="cannot read"):
        Nequix.load(tmp_path / "other.nqx", ("C", "C"))


@pytest.mark.slow
def test_going_on(tmp_path, capsys):
    """A run that was stopped before its first update ends as one that was not."""
    smoke = ["refine_foundation", "--preset", "smoke", "--out"]
    assert main([*smoke, str(tmp_path / "whole")]) == 0
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for name in ("config.json", "checksums.json", "before.npz"):
        (stopped / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    assert main([*smoke, str(stopped), "--resume"]) == 0
    read = lambda folder: json.loads((tmp_path / folder / "summary.json").read_text())
    drop = lambda s: {k: v for k, v in s.items() if k not in ("timing", "goals")}
    assert drop(read("whole")) == drop(read("stopped"))
    assert "This smoke run has no physics" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="without the published weights")
def test_diamond_is_that_of_the_package(tmp_path):
    """Energy, forces and stress of two atoms with all their images, as of the package's calculator in single precision;
    and weights that are written are read again."""
    pytest.importorskip("nequix")
    ase = pytest.importorskip("ase")
    from nequix.calculator import NequixCalculator

    cell = zincblende(EDGE, "C", "C")
    x = cell.sites + np.array([[0.004, -0.003, 0.002], [0, 0, 0]])
    atoms = ase.Atoms("CC", positions=10 * x, cell=10 * cell.vectors, pbc=True)
    with jax.enable_x64(False):
        atoms.calc = NequixCalculator(model_path=str(WEIGHTS), use_kernel=False)
        known = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    Nequix.load(WEIGHTS, ("C", "C")).write(tmp_path / "copy.nqx")
    model = Nequix.load(tmp_path / "copy.nqx", ("C", "C"))
    state = rv.State(jnp.asarray(x, jnp.float32), jnp.zeros((2, 3), jnp.float32), cell.box)
    energy, forces, stress = labels(cell.crystal(model), state)
    ev, a = rv.units.ELECTRONVOLT, rv.units.ANGSTROM
    np.testing.assert_allclose(energy / ev, known[0], rtol=1e-6)
    np.testing.assert_allclose(forces * a / ev, known[1], atol=1e-4 * np.abs(known[1]).max())
    np.testing.assert_allclose(stress * a**3 / ev, known[2], atol=1e-4 * np.abs(known[2]).max())
