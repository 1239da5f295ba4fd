"""The experiment that measures a surface of water: its statistics, tables and comparisons, and what it refuses."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import _validation, validate_water
from experiments.__main__ import main
from experiments._chains import Chains
from experiments._errors import BadInput
from experiments._measured_water import KNOWN, VISCOSITY, read_rdfs
from experiments._path_integral import RingPolymers
from experiments._validation_summary import Row, at_infinite_size, compared, jackknife, lines_of, number, peak


def test_diffusion_without_the_effect_of_the_box():
    """Yeh and Hummer's formula in SI; where the viscosity is not told, it is that of Stokes and Einstein in the end."""
    temperature, length = 298.15, 1.24
    correction = lambda eta: 1e9 * 1.380649e-23 * temperature * 2.837297 / (6 * np.pi * eta * 1e-9 * length)
    assert at_infinite_size(1.5, length, temperature, 1e-3, 2.3) == pytest.approx(1.5 + correction(1e-3), rel=1e-5)
    found = at_infinite_size(1.5, length, temperature, None, 2.3)
    assert found == pytest.approx(1.5 + correction(VISCOSITY * 2.3 / found), rel=1e-5)


def test_errors_and_peaks():
    chains = np.random.default_rng(0).normal(size=(9, 5))
    value, error = jackknife(lambda c: float(c.mean()), chains)
    assert value == pytest.approx(chains.mean())
    assert error == pytest.approx(np.std(chains.mean(1), ddof=1) / 3)
    x = np.linspace(0, 10, 41)
    assert peak(x, 5 - (x - 3.1) ** 2, 1, 9) == pytest.approx(3.1)
    assert np.isnan(peak(x, x, 1, 9))


def test_mean_squared_displacement():
    """Of atoms at constant velocities, without that of all together."""
    t, v = np.arange(9.0)[:, None, None], np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 2.0, 0], [0, -2.0, 0]])
    found = _validation.msd(0.5 + (v + 7.0) * t)
    np.testing.assert_allclose(found, 2.5 * np.arange(5.0) ** 2, atol=1e-12)


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (None, None, "-"),
        (0.99705, None, "0.997"),
        (2.345, 0.067, "2.345 ± 0.067"),
        (14739.0, 1016.0, "14739 ± 1016"),
        (3369.2, 12.0, "3369 ± 12"),
    ],
)
def test_numbers_as_they_are_told(value, error, told):
    assert number(value, error) == told


def of_a_run(folder, shift):
    """The files of a run that has ended, as far as tables and figures go."""
    rows = [Row("diffusion", "D, 1e-9 m²/s", 2.0 + shift, 0.1), Row("density", "density, g/cm³", np.nan, np.nan)]
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"rows": [row.told() for row in rows]}))
    x, chains = np.linspace(1, 10, 5), np.ones((2, 5)) + shift
    curves = dict.fromkeys(("wavenumbers", "r", "k", "times", "experiment"), x)
    curves |= dict.fromkeys(("infrared", "vdos", "g_OO", "g_OH", "g_HH", "scattered", "energy"), chains)
    np.savez(folder / "curves.npz", **curves)
    return folder


def test_compare(tmp_path, capsys):
    first, second = of_a_run(tmp_path / "first", 0.0), of_a_run(tmp_path / "second", 1.0)
    command = ["validate_water", "--out", str(tmp_path / "both"), "--compare"]
    assert main([*command, str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith((tmp_path / "both/comparison.txt").read_text())
    head, diffusion, density = (line.split("  ") for line in printed.splitlines()[:3])
    cells = lambda line: [cell.strip() for cell in line if cell.strip()]
    assert cells(head) == ["first", "second", "experiment", "Han & Yu 2025"]
    assert cells(diffusion) == ["D, 1e-9 m²/s", "2.00 ± 0.10", "3.00 ± 0.10", "2.299 ± 0.020", "1.990 ± 0.070"]
    assert cells(density)[1:4] == ["-", "-", "0.997"]
    assert (tmp_path / "both/comparison.png").stat().st_size > 10_000
    assert main([*command, str(first), str(tmp_path)]) == 2
    assert "has no summary.json" in capsys.readouterr().err
    assert main([*command, str(first), str(of_a_run(tmp_path / "both/first", 0.0))]) == 2
    assert "the same name" in capsys.readouterr().err


def test_rows_of_one_run_alone():
    """A row that only one run has is a dash in the others'."""
    one, other = ({"rows": [Row(name, name, 1.0, 0.0).told()]} for name in ("pressure", "density"))
    assert lines_of(one)[1].split() == ["pressure", "1", "1", "-"]
    assert [line.split()[1:3] for line in compared({"a": one, "b": other})[1:]] == [["1", "-"], ["-", "1"]]
    assert all(known.source for known in KNOWN.values())


def test_molecules_that_come_apart_are_kept_to_look_at(tmp_path):
    box = rv.OrthorhombicBox(jnp.full(3, 1.0))
    water = rv.qspcfw(2, box, cutoff=0.4)
    x = jnp.array([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0.4, 0, 0], [0.5, 0, 0], [0.4, 0.1, 0]])
    liquid = _validation.Liquid(
        Chains(water.topology, 298.15, 1.0, 0.0005, 0.01), box, water.potential, rv.PointCharges.of(water.potential),
        _validation.Grids(4, 1, 0.02, 0.02, 4000.0, 50.0, 20.0), tmp_path,
    )  # fmt: skip
    states = rv.State(x, jnp.zeros_like(x), box).repeat(4)
    assert np.all(liquid.mended(states)[1])
    broken = states.positions.at[1, 1, 0].set(0.16).at[2, 1, 0].set(0.17)
    mended, whole = liquid.mended(eqx.tree_at(lambda s: s.positions, states, broken))
    np.testing.assert_array_equal(whole, [True, False, False, True])
    np.testing.assert_array_equal(mended.positions, states.positions)
    broken = broken.at[0, 1, 0].set(0.16)
    with pytest.raises(rv.SimulationError, match="equilibrating: molecules came apart in 3 of 4 chains"):
        with liquid.watched(states, "equilibrating"):
            liquid.mended(eqx.tree_at(lambda s: s.positions, states, broken))
    _, kept = rv.io.read(tmp_path / "blown_up.extxyz")
    np.testing.assert_allclose(kept.records.positions, broken, atol=1e-6)


def test_molecules_across_the_box_are_put_together():
    box = rv.OrthorhombicBox(jnp.full(3, 1.0))
    one = [[0.05, 0.2, 0.3], [0.97, 0.2, 0.3], [0.05, 0.3, 0.3]]
    other = [[0.5, 0.98, 0.5], [0.5, 0.06, 0.5], [0.5, 0.9, 0.5]]
    x = jnp.array([*one, *other])
    found = validate_water.in_one_piece(rv.State(x, jnp.zeros_like(x), box)).positions
    np.testing.assert_allclose(found, x.at[1, 0].add(-1).at[4, 1].add(1), atol=1e-6)


def test_clusters(tmp_path, monkeypatch):
    """Of a surface of bonds alone nothing is between molecules, and deformations are those of the bonds."""
    known = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    stretched = known * 1.1
    file = tmp_path / "clusters.json"
    cluster = {"positions": [*known.tolist(), *(stretched + 3).tolist()], "energy": -9.0, "molecules": [1.0, 2.0]}
    file.write_text(json.dumps({"reference": {"positions": known.tolist(), "energy": 0.5}, "clusters": [cluster]}))
    monkeypatch.setattr(_validation, "CLUSTERS", file)

    def bonds(topology):
        pairs = [(k, k + n) for k in range(0, topology.num_atoms, 3) for n in (1, 2)]
        return rv.HarmonicBond(jnp.array(pairs), 1000.0, 0.1)

    found = {name: float(x[0]) for name, x in _validation.cluster_energies(bonds).items()}
    assert found["inter_surface"] == pytest.approx(0, abs=1e-4)
    assert found["intra_surface"] == pytest.approx(2 * 0.5 * 1000 * 0.01**2, rel=1e-4)
    assert (found["inter_reference"], found["intra_reference"], found["sizes"]) == (-12.0, 2.0, 2)


def test_bad_input(tmp_path, capsys):
    out = tmp_path / "run"

    def refused(*arguments):
        assert main(["validate_water", "--preset", "smoke", *map(str, arguments), "--out", str(out)]) == 2
        return capsys.readouterr().err

    file = tmp_path / "file.npz"
    np.savez(file, w0=np.zeros(3))
    assert "wanted a file" in refused("--potential", tmp_path / "nothing")
    assert "file.npz" in refused("--potential", file)
    assert "--length is 0.01; wanted at least --correlation" in refused("--length", 0.01)
    assert "a multiple of" in refused("--correlation", 0.0157)
    text = tmp_path / "rdf.txt"
    np.savetxt(text, np.ones((5, 3)))
    assert "has 3 columns of 5 numbers; wanted seven columns" in refused("--rdf", text)
    argon = tmp_path / "argon.xyz"
    argon.write_text('2\nLattice="9.8 0 0 0 9.8 0 0 0 9.8"\nAr 0 0 0\nAr 4 0 0\n')
    assert "wanted molecules of water" in refused("--structure", argon.rename(tmp_path / "argon.extxyz"))
    assert not out.exists()


def test_measured_structure(tmp_path):
    path = tmp_path / "rdf.txt"
    rows = np.arange(35.0).reshape(5, 7)
    np.savetxt(path, rows)
    found = read_rdfs(path)
    np.testing.assert_allclose(found["r"], 0.1 * rows[:, 0])
    np.testing.assert_array_equal(found["HH"], rows[:, 5])
    np.savetxt(path, rows / 1e3)
    with pytest.raises(BadInput, match="in Å, beyond 4"):
        read_rdfs(path)


def test_ring_polymers():
    """Of a harmonic oscillator: how far the beads are out is the sum over modes, and centroids have classical
    velocities."""
    temperature, beads, omega, mass = 300.0, 4, 300.0, 2.0
    masses = jnp.full(2000, mass)
    polymers = RingPolymers(masses, temperature, beads, 0.0005, friction=2 * omega)
    keys = jax.random.split(jax.random.key(0))
    x, v = polymers.at_rest_in(jnp.zeros((2000, 3)), keys[0])
    _, _, positions, centroids = polymers.follow(lambda x: -mass * omega**2 * x, x, v, 400, 20, keys[1])
    thermal = rv.units.BOLTZMANN * temperature / mass
    modes = 2 * beads * rv.units.BOLTZMANN * temperature / rv.units.HBAR * np.sin(np.pi * np.arange(beads) / beads)
    np.testing.assert_allclose(np.sort(polymers.modes[0]), np.sort(modes), rtol=1e-6, atol=1e-3)
    late = slice(10, None)
    # 6000 coordinates, some of whose ten frames are independent: errors are near one percent
    assert float(jnp.mean(positions[late] ** 2)) == pytest.approx(thermal * np.sum(1 / (modes**2 + omega**2)), rel=0.03)
    assert float(jnp.mean(centroids[late] ** 2)) == pytest.approx(thermal, rel=0.03)
