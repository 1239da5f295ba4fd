"""Several observables of samples, trajectories and files in one run; spectra of series."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SWITCHED, argon_box, argon_positions, argon_topology

import reverlet as rv

pytestmark = pytest.mark.usefixtures("without_type_checks")
SYSTEM = rv.System(argon_topology(), SWITCHED)
TIMES_OF_FRAMES, PIECE = 0.004 * np.arange(39), 0.02  # ps; six pieces of six frames, and three are left
OBSERVABLES = {"T": rv.Temperature(), "motion": [rv.MSD(), rv.VACF()], "g": rv.RDF(0.55, 5), "V": rv.Density()}


@pytest.fixture(scope="module")
def trajectory():
    """Atoms that swing about a lattice and drift, each at its own pace."""
    random = np.random.default_rng(0)
    rate, phase, drift = random.uniform(5, 9, (32, 3)), random.uniform(0, 6, (32, 3)), random.normal(size=(32, 3))
    angles = rate * TIMES_OF_FRAMES[:, None, None] + phase
    x = argon_positions(jitter=0) + 0.02 * np.sin(angles) + 0.1 * drift * TIMES_OF_FRAMES[:, None, None]
    v = 0.02 * rate * np.cos(angles) + 0.1 * drift
    states = jax.vmap(lambda x, v: rv.State(x, v, argon_box()))(jnp.asarray(x), jnp.asarray(v))
    return rv.Trajectory(TIMES_OF_FRAMES, states, jax.tree.map(lambda x: x[-1], states))


@pytest.fixture(scope="module")
def measured(trajectory):
    return rv.measure(OBSERVABLES, SYSTEM, trajectory, piece=PIECE)


def test_pieces_of_a_trajectory(trajectory, measured):
    """Against the definitions, in NumPy."""
    states = trajectory.records
    x, v = (np.asarray(a)[:36].reshape(6, 6, 32, 3) for a in (states.positions, states.velocities))
    v = v - v.mean(axis=2, keepdims=True)
    mass = float(SYSTEM.topology.masses[0])
    temperature = mass * np.sum(v**2, axis=(2, 3)) / (93 * rv.units.BOLTZMANN)
    np.testing.assert_allclose(measured["T"].value, temperature.mean(), rtol=1e-5)
    correlation = np.mean(np.sum(v * v[:, :1], axis=3), axis=2)
    moved = np.mean(np.sum((x - x[:, :1] - np.mean(x - x[:, :1], axis=2, keepdims=True)) ** 2, axis=3), axis=2)
    np.testing.assert_allclose(measured["motion"][1].value, correlation.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(measured["motion"][0].value, moved.mean(axis=0), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(measured["T"].times, 0.004 * np.arange(6), rtol=1e-5)
    assert measured["T"].blocks == 6
    assert measured["T"].error >= 0.9 * temperature.mean(axis=1).std(ddof=1) / np.sqrt(6)  # and what neighbors share
    assert str(measured["T"]).split(" (")[0].endswith(" K")
    assert set(measured) == set(OBSERVABLES)
    density = mass * 32 / argon_box().volume
    np.testing.assert_allclose((measured["V"].value, measured["V"].error / density), (density, 0), atol=1e-5 * density)


def test_a_file_is_measured_as_the_trajectory_is(trajectory, measured, tmp_path):
    path = tmp_path / "argon.h5"
    rv.io.write(path, SYSTEM.topology, trajectory)
    for source in (path, rv.io.stream(path, chunk=4)):
        streamed = rv.measure(OBSERVABLES, SYSTEM, source, piece=PIECE)
        for a, b in zip(jax.tree.leaves(streamed), jax.tree.leaves(measured), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_atoms_that_were_put_back_into_the_box(trajectory, measured):
    # all drift, so that some leave it
    x = trajectory.records.positions + jnp.linspace(0, 0.4, 39)[:, None, None]
    inside = jax.vmap(jax.vmap(argon_box().wrap))(x)
    states = jax.vmap(lambda x, v: rv.State(x, v, argon_box()))(inside, trajectory.records.velocities)
    parts = [(SYSTEM.topology, rv.Trajectory(trajectory.times, states, trajectory.final))]
    with pytest.raises(ValueError, match=r"(?s)of the box between two frames.*`unwrap=True`"):
        rv.measure(rv.MSD(), SYSTEM, parts, piece=PIECE)
    found = rv.measure(rv.MSD(), SYSTEM, parts, piece=PIECE, unwrap=True)
    np.testing.assert_allclose(found.value, measured["motion"][0].value, rtol=1e-3, atol=1e-8)


def test_samples_are_measured_as_by_expectation(trajectory):
    states = jax.tree.map(lambda x: x[::5], trajectory.records)
    samples = rv.Samples.of(SYSTEM, rv.NVT(94.4), states, jnp.zeros(8, int))
    (found,) = rv.measure((rv.Temperature(),), SYSTEM, samples, ensemble=rv.NVT(120.0))
    wanted = rv.expectation(rv.Temperature(), SYSTEM, samples, ensemble=rv.NVT(120.0))
    assert (found.value, found.error) == (wanted.value, wanted.error)


def test_several_trajectories_are_chains(trajectory):
    two = jax.tree.map(lambda x: jnp.stack([x, x]), (trajectory.records, trajectory.final))
    found = rv.measure(rv.Temperature(), SYSTEM, rv.Trajectory(trajectory.times, *two), piece=PIECE)
    assert len(found.weights) == 12


@pytest.mark.parametrize(
    ("observables", "options", "match"),
    [
        ({"D": rv.SelfDiffusion}, {}, r"(?s)`observables` has .*wanted observables, `SelfDiffusion\(\.\.\.\)`"),
        ({"D": 3.5}, {}, "`observables` has 3.5, of type `float`; wanted observables"),
        ({}, {}, "wanted at least one"),
        (rv.SelfDiffusion(), {}, "a single frame; wanted trajectories: .* in `rv.measure` a `piece`, in ps"),
        (rv.MSD(), {"piece": 1.0}, r"has 39 frames, but a piece of 1\.0 ps has 251; wanted shorter pieces"),
        (rv.MSD(), {"piece": -1.0}, r"`piece` is -1\.0"),
        (rv.MSD(), {"piece": PIECE, "dynamics": rv.Dynamics(1e-3, 8)}, "`dynamics` starts from samples"),
        (rv.HeatCapacity(), {}, "`HeatCapacity` needs the temperature of an ensemble"),
        (rv.MSD(), {"source": 3.5}, "`source` is 3.5, of type `float`; wanted samples, a trajectory"),
        (rv.MSD(), {"source": [3.5]}, "`source` gives float; wanted a topology and a trajectory at a time"),
        (rv.MSD(), {"source": "nowhere.h5"}, "There is no file nowhere.h5"),
    ],
)
def test_what_cannot_be_measured(trajectory, observables, options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        rv.measure(observables, **{"system": SYSTEM, "source": trajectory, **options})


def test_trajectories_that_cannot_be_measured(trajectory):
    of = lambda t: (t.records, t.final)
    gap = rv.Trajectory(np.asarray(trajectory.times) + 0.5 * (np.arange(39) > 8), *of(trajectory))
    with pytest.raises(ValueError, match=r"Frames are not equally far apart in time: from 0\.024 ps on"):
        rv.measure(rv.MSD(), SYSTEM, gap, piece=PIECE)
    bare = rv.Trajectory(trajectory.times, trajectory.records.positions, trajectory.final)
    with pytest.raises(ValueError, match=r"(?s)of type .*wanted whole states"):
        rv.measure(rv.MSD(), SYSTEM, bare, piece=PIECE)
    krypton = rv.Topology.from_elements(["Kr"] * 32)
    with pytest.raises(ValueError, match=r"`source` is of Topology\(32 atoms: Kr32"):
        rv.measure(rv.Temperature(), SYSTEM, [(krypton, trajectory)])


LINES = np.array([300.0, 1600.0, 3600.0])  # 1/cm
TIMES, WAVES = 0.002 * np.arange(1501), np.linspace(100, 4000, 79)  # ps, 1/cm
VOLUME = 8.0


def dipoles_and_currents():
    """Of three vibrations in two trajectories: e nm, e nm/ps."""
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, 1, 3, 3))
    frequencies = LINES * rv.units.WAVENUMBER
    angles = frequencies * TIMES[None, :, None, None] + phases
    amplitudes = np.array([0.05, 0.01, 0.004])
    return np.sum(amplitudes * np.cos(angles), axis=-1), -np.sum(amplitudes * frequencies * np.sin(angles), axis=-1)


def test_infrared_of_dipoles_is_that_of_their_exact_currents():
    dipoles, currents = dipoles_and_currents()
    found = rv.infrared(TIMES, dipoles, VOLUME, 300.0, wavenumbers=WAVES)
    observable = rv.InfraredSpectrum(found.wavenumbers, rv.spectra.HannWindow(1.0), num_lags=501)
    records = jnp.asarray(currents / np.sqrt(VOLUME))
    wanted = observable.reduce(jnp.asarray(TIMES), records, jnp.full(2, 0.5), rv.NVT(300.0))
    # the difference quotient alone loses 15 % at 3600 1/cm; what is left are other pieces of the trajectories
    np.testing.assert_allclose(found.value, wanted, atol=3e-3 * np.max(wanted))
    assert found.unit == "1/cm"
    assert "Spectrum(100 to 4000 1/cm: 79 numbers" in str(found)


def test_raman_of_polarizabilities():
    """One that is a dipole along every axis has the spectrum of that along one, but for constants."""
    dipoles, _ = dipoles_and_currents()
    infrared = rv.infrared(TIMES, dipoles[:, :, :1] * np.array([1.0, 0, 0]), VOLUME, 300.0, wavenumbers=WAVES)
    raman = rv.raman(TIMES, dipoles[:, :, :1, None] * np.eye(3), VOLUME, 300.0, wavenumbers=WAVES)
    # n α has 4π COULOMB / 6c before it in 1/nm, and the isotropic part nothing
    factor = 4 * np.pi * rv.units.COULOMB / (6 * rv.units.SPEED_OF_LIGHT) * 1e7
    np.testing.assert_allclose(raman.value.isotropic * factor, infrared.value, rtol=1e-3, atol=1e-6 * factor)
    np.testing.assert_allclose(raman.value.anisotropic, 0, atol=1e-6 * np.max(raman.value.isotropic))


def test_power_spectrum_of_white_noise_is_flat():
    noise = np.random.default_rng(1).normal(size=(2001, 5))
    found = rv.power_spectrum(0.01 * np.arange(2001), noise, window=rv.spectra.HannWindow(0.2))
    assert found.wavenumbers[-1] == pytest.approx(1667.8, abs=0.1)  # half a period per frame
    np.testing.assert_allclose(np.mean(found.value), 5 * 0.01, rtol=0.05)  # the variance times the step
    assert np.mean(abs(found.value - 0.05) < 3 * found.error) > 0.95


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, m: {"dipoles": m[:, :, 0]}, r"`dipoles` has shape \(2, 1501\); wanted \(frames, 3\)"),
        (lambda t, m: {"times": t[1:]}, r"`times` has shape \(1500,\); wanted \(1501\)"),
        (lambda t, m: {"dipoles": m + 0.8 * (t > 1)[:, None]}, "`dipoles` jump by 0.8.* after frame 500"),
        (lambda t, m: {"times": t**2}, "wanted equal steps"),
        (lambda t, m: {"window": rv.spectra.HannWindow(9.0)}, "The window is 9 ps long"),
        (lambda t, m: {"volume": 0.0}, "`volume` is 0.0"),
        (lambda t, m: {"temperature": -1.0}, "`temperature` is -1.0"),
    ],
)
def test_series_that_have_no_spectrum(change, match):
    dipoles, _ = dipoles_and_currents()
    good = {"times": TIMES, "dipoles": dipoles, "volume": VOLUME, "temperature": 300.0}
    with pytest.raises(ValueError, match=match):
        rv.infrared(**{**good, **change(TIMES, dipoles)})
