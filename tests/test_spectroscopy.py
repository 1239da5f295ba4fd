"""Spectra, dielectric constant and conductivity against closed forms, an independent pipeline, finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.constants as sc
from helpers import SHARED, Dimers, well
from scipy.interpolate import PchipInterpolator

import reverlet as rv
from experiments import reference
from reverlet import units

T = 298.15
KT = units.BOLTZMANN * T
ENSEMBLE = rv.NVT(T)
BOX = rv.OrthorhombicBox(jnp.full(3, 2.0))
ONE = jnp.ones(1)
FLAT = rv.spectra.GaussianWindow(1e9)  # no window at all
CHARGES = rv.PointCharges(np.array([0.4, -0.4]))
# SI, written out: β/(6 ε₀ c V) ∫ ⟨J·J⟩ exp(-iωt) dt of e²nm²/ps²/nm³·ps, in 1/cm
PREFACTOR = (sc.e * 1e-9) ** 2 * 1e-12 / (1e-24 * 1e-27) / (6 * sc.epsilon_0 * sc.c * sc.k * T) / 100


def spectrum_of(window, wavenumbers, **settings):
    return rv.InfraredSpectrum(wavenumbers, window, **settings, dipole=CHARGES)


# The published pipeline


def test_published_pipeline():
    path = SHARED / "reference" / "ir_pipeline.npz"
    if not path.exists():
        pytest.skip("reference values are not at hand")
    data = np.load(path)
    step, volume = float(data["dt"]), float(data["volume_nm3"])
    dipole = jnp.asarray(data["dipole"]).transpose(1, 0, 2)
    currents = jnp.diff(dipole, axis=1) / step
    # theirs: without each series' mean, over the first 401 of 801 origins, per volume once more
    records = (currents - jnp.mean(currents, axis=1, keepdims=True)) / np.sqrt(volume)
    each = jax.vmap(lambda r: rv.statistics.correlation_first_origins(r, r, 401))(records)
    np.testing.assert_allclose(each, data["corr_each"], atol=1e-12 * np.max(data["corr_each"]))
    grid = rv.spectra.wavenumber_grid(33356.0, step=step, num_lags=401, zero_padding=10)
    np.testing.assert_allclose(grid, data["wavenumber"][: len(grid)], rtol=1e-9)  # their speed of light
    observable = rv.InfraredSpectrum(
        grid,
        rv.spectra.GaussianWindow(1 / 3),
        dipole=CHARGES,
        num_lags=401,
        num_origins=401,
        quadrature=rv.spectra.Filon(),
    )
    times = step * jnp.arange(801)
    got = observable.reduce(times, records, jnp.full(4, 0.25), ENSEMBLE)
    # theirs has e of CODATA 2010, k of 2014 and ε₀ of eight digits: together 2.6e-7
    constants = (1.602176565e-19 / sc.e) ** 2 * (sc.k / 1.38064852e-23) * (8.8541878188e-12 / 8.8541878e-12)
    wanted = data["lineshape"][: len(grid)] / constants
    np.testing.assert_allclose(got, wanted, atol=1e-8 * np.max(np.abs(wanted)))
    np.testing.assert_allclose(got[:500], wanted[:500], rtol=1e-8, atol=1e-8)


# Closed forms


def test_ornstein_uhlenbeck_current():
    """⟨J·J⟩ = C exp(-γ|t|) has a Lorentzian spectrum, and a conductivity C/(3kTγ)."""
    gamma, c, step, n = 40.0, 7.0, 5e-4, 1201
    lags = step * jnp.arange(n)
    nu = np.array([0.0, 10.0, 200.0, 1000.0])
    omega = 2 * np.pi * sc.c * 100 * 1e-12 * nu
    density = rv.spectra.spectral_density(c * jnp.exp(-gamma * lags), jnp.asarray(step), jnp.asarray(omega), FLAT)
    # the trapezoid rule at the kink at zero costs (γh)²/12 = 3.3e-5 of the peak; e^{-24} is cut off
    np.testing.assert_allclose(density, 2 * c * gamma / (gamma**2 + omega**2), atol=1e-4 * 2 * c / gamma)


def ornstein_uhlenbeck(gamma, c, step, num, samples, seed):
    """Stationary series of three components with ⟨J·J⟩ = c exp(-γt)."""
    rng = np.random.default_rng(seed)
    decay = np.exp(-gamma * step)
    noise = rng.normal(size=(num, samples, 3)) * np.sqrt(c / 3)
    series = [noise[0]]
    for k in range(1, num):
        series.append(decay * series[-1] + np.sqrt(1 - decay**2) * noise[k])
    return jnp.asarray(np.stack(series, axis=1))


def test_conductivity_of_an_ornstein_uhlenbeck_current():
    gamma, c, step, samples = 40.0, 7.0, 2e-3, 400
    records = ornstein_uhlenbeck(gamma, c, step, 600, samples, 0)
    times, weights = step * jnp.arange(600), jnp.full(samples, 1 / samples)
    state = oscillator_state()
    observable = rv.Conductivity(dipole=CHARGES, max_time=100 * step)
    current = CHARGES.charges.values @ state.velocities
    flux = current / np.sqrt(3 * float(state.box.volume))
    np.testing.assert_allclose(observable.record(OSCILLATORS, state, state), flux, rtol=1e-12)
    fluxes = records / np.sqrt(3)  # 1/kT comes from the ensemble
    got = observable.reduce(times, fluxes, weights, ENSEMBLE)
    error = rv.statistics.infinitesimal_jackknife(lambda w: observable.reduce(times, fluxes, w, ENSEMBLE), weights)
    wanted = c / (3 * KT * gamma)
    assert 0 < float(error) < 0.03 * wanted
    # four standard errors, the tail e^{-8} and the trapezoid rule's (γh)²/12 = 5e-4
    assert abs(float(got) - wanted) < 4 * float(error) + 1e-3 * wanted
    # 1 S/m in SI: J²·s/(V kT) of (e nm/ps)² ps/(nm³ kJ/mol)
    si = (sc.e * 1e-9 / 1e-12) ** 2 * 1e-12 / 1e-27 / (1e3 / sc.N_A)
    np.testing.assert_allclose(1 / units.SIEMENS_PER_METER, si, rtol=1e-12)
    spectrum = rv.InfraredSpectrum(np.array([0.0, 100.0]), FLAT, dipole=CHARGES, num_lags=101)
    value = spectrum.reduce(times, records, weights, ENSEMBLE)
    omega = 100 * units.WAVENUMBER
    lorentz = np.array([2 * c / gamma, 2 * c * gamma / (gamma**2 + omega**2)])
    bars = rv.statistics.infinitesimal_jackknife(lambda w: spectrum.reduce(times, records, w, ENSEMBLE), weights)
    assert np.all(np.abs(value - PREFACTOR * lorentz) < 4 * np.asarray(bars) + 2e-3 * PREFACTOR * lorentz)


def test_langevin_dipoles():
    """Independent dipoles of fixed length: ε - 1 = N μ²/(3 ε₀ V kT)."""
    n, mu, samples, frames, volume = 20, 0.05, 300, 10, 8.0
    d = np.random.default_rng(0).normal(size=(samples, frames, n, 3))
    d = mu * d / np.linalg.norm(d, axis=-1, keepdims=True)
    q = 0.5
    charges = rv.PointCharges(np.tile([q, -q], n))
    system = rv.System(rv.Topology.from_elements(["Ar"] * (2 * n)), well(0.0))
    observable = rv.DielectricConstant(charges)
    centers = np.random.default_rng(1).uniform(size=(samples, frames, n, 3))
    x = np.stack([centers + d / q, centers], axis=-2).reshape(samples, frames, 2 * n, 3)

    def record(x):
        state = rv.State(x, jnp.zeros_like(x), BOX)
        return observable.record(system, state, state)

    records = jax.vmap(jax.vmap(record))(jnp.asarray(x))
    weights = jnp.full(samples, 1 / samples)
    got = observable.reduce(jnp.zeros(frames), records, weights, ENSEMBLE)
    debye = n * (mu * 1e-9 * sc.e) ** 2 / (3 * sc.epsilon_0 * volume * 1e-27 * sc.k * T)
    error = rv.statistics.infinitesimal_jackknife(
        lambda w: observable.reduce(jnp.zeros(frames), records, w, ENSEMBLE), weights
    )
    assert float(error) < 0.05 * debye
    assert abs(float(got) - 1 - debye) < 4 * float(error)
    # it is exactly the variance, wherever the mean is
    shifted = observable.reduce(jnp.zeros(frames), records + 100.0, weights, ENSEMBLE)
    np.testing.assert_allclose(shifted, got, rtol=1e-9)


@pytest.mark.parametrize("charges", [[2.0, -0.5], [1.0, -1.0]])
def test_dipoles_do_not_depend_on_the_origin(charges):
    """Of a net charge: about their center of mass, q₁ and q₂ have the dipole (q₁ m₂ - q₂ m₁) d/(m₁ + m₂)."""
    topology = rv.Topology.from_elements(["Ar", "Ne"])
    (m, n), (q, p), d = np.asarray(topology.masses), charges, np.array([0.1, -0.2, 0.3])
    wanted = (q * n - p * m) / (m + n) * d / 8.0**0.5
    charged = rv.System(topology, rv.Sum(()), dipole=rv.PointCharges(np.array(charges)))
    for origin in (0.0, 5.0):
        state = rv.State(jnp.array([d, [0, 0, 0]]) + origin, None, BOX)
        record = rv.DielectricConstant().record(charged, state, state)
        np.testing.assert_allclose(record, wanted, rtol=1e-12)


# One oscillator


K, MASS, Q, STEP, FRAMES = 4.0e5, 8.0, 0.4, 2.5e-4, 2401
OMEGA = np.sqrt(K / MASS)
LINE = OMEGA / units.WAVENUMBER


def oscillator_state(seed=0):
    """Two atoms in opposite phase in wells: ⟨J²⟩ = Σ q² v²."""
    v = np.sqrt(KT / MASS) * np.random.default_rng(seed).normal(size=3)
    return rv.State(jnp.zeros((2, 3)), jnp.asarray([v, -v]), BOX)


OSCILLATORS = rv.System(rv.Topology.from_elements(["Ar"] * 2, masses=np.full(2, MASS)), well(K))


def test_one_oscillator():
    """The line lies at the frequency of velocity Verlet, and its integral is that of the current squared."""
    width = 0.05
    grid = rv.spectra.wavenumber_grid(1 / (2 * STEP * sc.c * 1e-10), step=STEP, num_lags=1201, zero_padding=4)
    observable = spectrum_of(rv.spectra.GaussianWindow(width), grid, num_lags=1201)
    state = oscillator_state()
    trajectory = rv.nve(OSCILLATORS, state, dt=STEP, num_steps=FRAMES - 1, record=observable.record)
    value = np.asarray(observable.reduce(trajectory.times, trajectory.records[None], ONE, ENSEMBLE))
    phase = np.arccos(1 - (OMEGA * STEP) ** 2 / 2)
    line = phase / STEP / units.WAVENUMBER
    # a mean over a finite time has cross terms of 1/(2ωT) = 4e-3, and the peak is 75 1/cm wide
    assert abs(float(grid[np.argmax(value)]) - line) < 7  # half the grid's spacing
    # of cos², half is at the difference frequency, and of that half at ν and half at -ν
    amplitude = np.sum((2 * Q * np.asarray(state.velocities[0])) ** 2) / 8.0
    shape = (
        0.25
        * amplitude
        * width
        * np.sqrt(2 * np.pi)
        * np.exp(-0.5 * (width * units.WAVENUMBER * (np.asarray(grid) - line)) ** 2)
    )
    np.testing.assert_allclose(value, PREFACTOR * shape, atol=6e-3 * PREFACTOR * np.max(shape))
    # ∫ dν of the transform is C(0)/(2c): the mean of J², whatever the window; the rule is exact on this grid
    integral = np.trapezoid(value, np.asarray(grid))
    mean = float(jnp.mean(jnp.sum(trajectory.records**2, axis=1)))
    np.testing.assert_allclose(integral, PREFACTOR * mean * np.pi / units.WAVENUMBER, rtol=1e-9)


def test_sum_rule_of_fixed_charges():
    """∫ n α dν = (π/2πc) β/(6 ε₀ c V) · 3kT Σ q²/m, with velocities of Maxwell and Boltzmann."""
    topology = rv.Topology.from_elements(["O", "H", "H"])
    q = np.array([-0.84, 0.42, 0.42])
    system = rv.System(topology, well(0.0))
    samples = 4000
    grid = rv.spectra.wavenumber_grid(1 / (2 * STEP * sc.c * 1e-10), step=STEP, num_lags=9)
    observable = rv.InfraredSpectrum(grid, rv.spectra.HannWindow(8 * STEP), dipole=rv.PointCharges(q), num_lags=9)

    def record(key):
        v = rv.maxwell_boltzmann(topology, T, remove_center_of_mass=False, key=key)
        state = rv.State(jnp.zeros((3, 3)), v, BOX)
        return jnp.tile(observable.record(system, state, state), (9, 1))  # free flight

    records = jax.vmap(record)(jax.random.split(jax.random.key(0), samples))
    value = observable.reduce(STEP * jnp.arange(9), records, jnp.full(samples, 1 / samples), ENSEMBLE)
    integral = np.trapezoid(np.asarray(value), np.asarray(grid))
    current = 3 * KT * np.sum(q**2 / np.asarray(topology.masses)) / 8.0
    wanted = PREFACTOR * current * np.pi / units.WAVENUMBER
    np.testing.assert_allclose(integral, wanted, rtol=4 * np.sqrt(2 / (3 * samples)))  # four standard errors


def test_vdos_and_raman_of_one_oscillator():
    grid = rv.spectra.wavenumber_grid(1 / (2 * STEP * sc.c * 1e-10), step=STEP, num_lags=1201, zero_padding=4)
    window, state = rv.spectra.GaussianWindow(0.05), oscillator_state()
    line = np.arccos(1 - (OMEGA * STEP) ** 2 / 2) / STEP / units.WAVENUMBER
    run = lambda o: rv.nve(OSCILLATORS, state, dt=STEP, num_steps=FRAMES - 1, record=o.record)
    vdos = rv.VDOS(grid, window, element="Ar", num_lags=1201)
    got = run(vdos)
    g = np.asarray(vdos.reduce(got.times, got.records[None], ONE, ENSEMBLE))
    assert abs(float(grid[np.argmax(g)]) - line) < 7
    np.testing.assert_allclose(np.trapezoid(g, np.asarray(grid)), 1, rtol=1e-9)
    assert np.all(np.asarray(rv.VDOS(grid, window, element="O").record(OSCILLATORS, state, state)) == 0)

    bond = rv.BondPolarizability(np.array([[0, 1]]), 1.2e-3, 0.5e-3, 1.5e-2, 0.4e-2, 0.3)
    system = rv.System(OSCILLATORS.topology, Dimers(jnp.asarray(K), jnp.asarray(0.3)))
    x = jnp.array([[0.0, 0, 0], [0.3, 0, 0]])
    still = rv.State(x, jnp.array([[0.05, 0, 0], [-0.05, 0, 0]]), BOX)  # along the bond: it does not turn
    raman = rv.RamanSpectrum(grid, window, polarizability=bond, num_lags=1201)
    run = rv.nve(system, still, dt=STEP, num_steps=FRAMES - 1, record=raman.record)
    value = raman.reduce(run.times, run.records[None], ONE, ENSEMBLE)
    stretch = np.sqrt(2 * K / MASS)  # reduced mass
    line = np.arccos(1 - (stretch * STEP) ** 2 / 2) / STEP / units.WAVENUMBER
    iso, aniso = np.asarray(value.isotropic), np.asarray(value.anisotropic)
    assert abs(float(grid[np.argmax(iso)]) - line) < 7
    # the slopes along x: (∥' + 2⊥')/3 of the mean, (∥' - ⊥')(2, -1, -1)/3 of the rest, whose square is 2/3
    ratio = (1.5e-2 - 0.4e-2) ** 2 * 2 / 3 / 10 / ((1.5e-2 + 0.8e-2) / 3) ** 2
    np.testing.assert_allclose(aniso, ratio * iso, rtol=1e-9, atol=1e-12 * np.max(iso))
    mean = ((1.5e-2 + 0.8e-2) / 3 * 0.1) ** 2 / 2 / 8.0  # of the squared rate over a period, per volume
    peak = mean * 0.05 * np.sqrt(np.pi / 2) * 2 / 2 / KT
    np.testing.assert_allclose(np.trapezoid(iso, np.asarray(grid)), mean * np.pi / units.WAVENUMBER / KT, rtol=5e-3)
    np.testing.assert_allclose(np.max(iso), peak, rtol=0.02)  # the grid misses the top by up to 7 of 106 1/cm's σ
    np.testing.assert_allclose(value.parallel, iso + 4 / 3 * aniso)
    # at high temperature the factors are (ν₀-ν)⁴/ν₀³ · kT/(hcν²)
    hot = value.scattered(jnp.maximum(grid, 1.0), rv.NVT(1e7), 1e5)
    nu = np.maximum(np.asarray(grid), 1.0)
    hc = sc.h * sc.c * 100
    np.testing.assert_allclose(
        hot.isotropic, iso * (1e5 - nu) ** 4 / 1e5**3 * sc.k * 1e7 / (hc * nu**2), rtol=5e-3
    )  # x/2 of the highest wavenumber


# Quantum corrections


def test_quantum_corrections():
    """(1 - e^{-x}) Q/x with Q as published, and one at zero, in the first bins too."""
    x = np.array([1e-3, 0.3, 2.0, 16.0])
    published = {
        rv.spectra.HarmonicQuantumCorrection(): x / (1 - np.exp(-x)),
        rv.spectra.StandardQuantumCorrection(): 2 / (1 + np.exp(-x)),
        rv.spectra.SchofieldQuantumCorrection(): np.exp(x / 2),
        rv.spectra.MixedQuantumCorrection(): np.sqrt(x / (1 - np.exp(-x))) * np.exp(x / 4),
        rv.spectra.NoQuantumCorrection(): np.ones(4),
    }
    for correction, q in published.items():
        np.testing.assert_allclose(correction.factor(jnp.asarray(x)), (1 - np.exp(-x)) / x * q, rtol=1e-12)
        np.testing.assert_allclose(correction.factor(jnp.array([0.0, 1e-9])), 1, rtol=1e-8)
    # at room temperature kT is 207.2 1/cm
    nu = 207.2245
    records = ornstein_uhlenbeck(40.0, 7.0, 2e-3, 50, 1, 0)
    of = lambda c: spectrum_of(FLAT, np.array([nu]), correction=c).reduce(2e-3 * jnp.arange(50), records, ONE, ENSEMBLE)
    np.testing.assert_allclose(
        of(rv.spectra.NoQuantumCorrection()) / of(rv.spectra.HarmonicQuantumCorrection()), 1 - np.exp(-1), rtol=1e-6
    )


# Filters


@pytest.mark.parametrize(
    "correction",
    [rv.spectra.HarmonicQuantumCorrection(), rv.spectra.StandardQuantumCorrection()],
    ids=["harmonic", "standard"],
)
def test_filtering_the_spectrum_is_computing_the_filtered_one(correction):
    step, n = 1e-3, 201
    rng = np.random.default_rng(0)
    records = jnp.asarray(rng.normal(size=(2, n, 3)))
    times = step * jnp.arange(n)
    weights = jnp.array([0.3, 0.7])
    full = rv.spectra.wavenumber_grid(1 / (2 * step * sc.c * 1e-10), step=step, num_lags=n)
    low = rv.spectra.CutoffWindow(0.1)
    wanted = spectrum_of(low, full, num_lags=n, correction=correction)
    whole = spectrum_of(rv.spectra.HannWindow(0.2), full, num_lags=n, correction=correction)
    both = spectrum_of(rv.spectra.HannWindow(0.2) * low, full, num_lags=n, correction=correction)
    # made positive by a constant, which is a correlation at lag zero only, of weight one in any window
    offset = 1.1 * jnp.max(jnp.abs(whole.reduce(times, records, weights, ENSEMBLE) / whole._factor(ENSEMBLE, times)))
    known = whole.reduce(times, records, weights, ENSEMBLE) + offset * whole._factor(ENSEMBLE, times)
    got = wanted.filtered(full, known, ENSEMBLE, step=step) - offset * whole._factor(ENSEMBLE, times)
    reference = both.reduce(times, records, weights, ENSEMBLE)
    np.testing.assert_allclose(got, reference, atol=1e-9 * float(jnp.max(jnp.abs(reference))))
    assert float(jnp.max(jnp.abs(got - whole.reduce(times, records, weights, ENSEMBLE)))) > 0.1 * float(
        jnp.max(reference)
    )


def test_filter_spectrum_convolves():
    """A Gaussian line through a Gaussian window is a wider one, on a table that is not equally spaced."""
    nu = np.sort(np.concatenate([np.arange(0, 4000, 10.0), np.arange(1003, 2000, 10.0)]))
    line = np.exp(-0.5 * ((nu - 1500) / 60) ** 2)
    sigma = 0.1
    blur = 1 / (units.WAVENUMBER * sigma)
    at = np.array([1300.0, 1500.0, 1600.0])
    got = rv.spectra.filter_spectrum(nu, line, rv.spectra.GaussianWindow(sigma), step=0.001, num_lags=401, at=at)
    wide = np.hypot(60, blur)
    np.testing.assert_allclose(got, 60 / wide * np.exp(-0.5 * ((at - 1500) / wide) ** 2), atol=1e-3)


# Gradients


def test_gradient_of_a_spectral_loss_through_a_trajectory():
    """Through the forces, the current and the charges, which are one parameter with two uses."""

    class Springs(rv.AbstractPotential):
        spring: Dimers
        charges: rv.AbstractCharges
        cutoff: None = eqx.field(static=True, default=None)

        def energy(self, positions, box, *, neighbors=None):
            q = self.charges.values.astype(positions.dtype)
            r = jnp.linalg.norm(box.displacement(positions[0], positions[1]))
            return self.spring.energy(positions, box) + units.COULOMB * q[0] * q[1] / r

    charges = rv.MolecularCharges(np.array([0.4]), np.array([0, -1]), np.array([0, 0]))
    potential = Springs(Dimers(jnp.asarray(K), jnp.asarray(0.1)), charges)
    topology = rv.Topology.from_elements(["Cl", "H"])
    rng = np.random.default_rng(0)
    x = jnp.asarray([[0.0, 0, 0], [0.102, 0.0, 0.01]])
    states = jax.vmap(lambda v: rv.State(x, v, BOX))(jnp.asarray(rng.normal(size=(2, 2, 3))))
    samples = rv.Samples(states, jnp.zeros(2), jnp.arange(2), ENSEMBLE)
    grid = np.arange(0, 4000, 100.0)
    observable = rv.InfraredSpectrum(grid, rv.spectra.HannWindow(0.015), dipole=rv.PointCharges.of, num_lags=41)
    dynamics = rv.Dynamics(dt=5e-4, num_steps=20, both_directions=True)

    def loss(parameters):
        k, q = parameters
        u = eqx.tree_at(lambda u: (u.spring.k, u.charges.charges), potential, (k, q[None]))
        estimate = rv.expectation(observable, rv.System(topology, u), samples, dynamics=dynamics, thermodynamic=False)
        return jnp.sum((estimate.value - 50) ** 2), estimate

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))  # compiled once, for the finite differences too
    at = np.array([K, 0.4])
    (_, estimate), got = both(tuple(at))
    for k in range(2):
        h = 1e-5 * at[k] * np.eye(2)[k]
        (up, _), _ = both(tuple(at + h))
        (down, _), _ = both(tuple(at - h))
        # relative steps of 1e-5: third derivatives times 1e-10 · (ωt)², rounding 1e-16/1e-5
        np.testing.assert_allclose(got[k], (up - down) / (2 * np.sum(h)), rtol=1e-6)
    assert estimate.value.shape == estimate.error.shape == grid.shape
    assert np.all(np.asarray(estimate.error) > 0)
    assert estimate.records.shape == (2, 41, 3)  # three numbers a frame


@pytest.mark.parametrize("name", ["dielectric", "conductivity", "vdos", "raman"])
def test_gradients_of_the_others(name):
    """With respect to the records, and so to whatever they depend on."""
    rng = np.random.default_rng(0)
    bond = rv.BondPolarizability(np.array([[0, 1]]), 1.2e-3, 0.5e-3, 1.5e-2, 0.4e-2, 0.3)
    grid = np.array([0.0, 500.0])
    observable = {
        "dielectric": rv.DielectricConstant(CHARGES),
        "conductivity": rv.Conductivity(0.009, dipole=CHARGES),
        "vdos": rv.VDOS(grid, rv.spectra.HannWindow(0.008)),
        "raman": rv.RamanSpectrum(grid, rv.spectra.HannWindow(0.008), polarizability=bond),
    }[name]
    shape = {"vdos": (2, 10, 4, 3), "raman": (2, 10, 3, 3)}.get(name, (2, 10, 3))
    records, direction = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=shape))
    times, weights = 1e-3 * jnp.arange(10), jnp.array([0.4, 0.6])

    @jax.jit
    def loss(r):
        return sum(
            jnp.sum(jnp.sin(1e2 * leaf)) for leaf in jax.tree.leaves(observable.reduce(times, r, weights, ENSEMBLE))
        )

    wanted = (loss(records + 1e-7 * direction) - loss(records - 1e-7 * direction)) / 2e-7
    # steps of 1e-7 of order one: rounding 1e-16/1e-7, times the steep sine
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(records) * direction), wanted, rtol=2e-5)


def test_single_precision():
    records = ornstein_uhlenbeck(40.0, 7.0, 2e-3, 200, 4, 0)
    grid, weights = np.array([0.0, 5.0, 10.0, 1000.0]), jnp.full(4, 0.25)
    times = 2e-3 * jnp.arange(200)
    for quadrature in (rv.spectra.Trapezoid(), rv.spectra.Filon()):
        observable = spectrum_of(rv.spectra.HannWindow(0.2), grid, num_lags=101, quadrature=quadrature)
        wanted = observable.reduce(times, records, weights, ENSEMBLE)
        got = observable.reduce(*(a.astype(jnp.float32) for a in (times, records, weights)), ENSEMBLE)
        assert got.dtype == jnp.float32
        # rounding of phases up to 40 radians, in sums of a hundred
        np.testing.assert_allclose(got, wanted, atol=1e-5 * float(jnp.max(wanted)))


# Bad input


def test_bad_input():
    good = np.array([0.0, 100.0])
    for bad, message in (
        (np.array([100.0, 0.0]), "wanted increasing"),
        (np.array([0.0, 100.0, 100.0]), "none twice"),
        (np.array([-1.0, 100.0]), "`wavenumbers` is -1"),
        (np.array([0.0, np.nan]), "not finite"),
        (np.zeros(0), "0 entries"),
    ):
        with pytest.raises(ValueError, match=message):
            spectrum_of(FLAT, bad)
        with pytest.raises(ValueError, match=message):
            rv.VDOS(bad, FLAT)
    for t in (0.0, -3.0):
        with pytest.raises(ValueError, match="`temperature` is"):
            rv.NVT(t)
    records, times = jnp.ones((1, 20, 3)), 0.001 * jnp.arange(20)
    for observable in (spectrum_of(FLAT, good), rv.DielectricConstant(CHARGES), rv.Conductivity(0.01, dipole=CHARGES)):
        with pytest.raises(ValueError, match=f"`{type(observable).__name__}` needs the temperature of an ensemble"):
            observable.reduce(times, records, ONE)
    with pytest.raises(ValueError, match="21 lags, but there are 20 frames; wanted 2 to 20"):
        spectrum_of(FLAT, good, num_lags=21).reduce(times, records, ONE, ENSEMBLE)
    with pytest.raises(ValueError, match=r"window is 0\.5 ps long.*only 0\.019 ps"):
        spectrum_of(rv.spectra.HannWindow(0.5), good).reduce(times, records, ONE, ENSEMBLE)
    with pytest.raises(ValueError, match=r"resolves up to 16678.* at most 0\.000834 ps apart"):
        spectrum_of(FLAT, np.array([0.0, 20000.0])).reduce(times, records, ONE, ENSEMBLE)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"SimulationError: Frames.* resolves up to"):
        jax.block_until_ready(
            eqx.filter_jit(spectrum_of(FLAT, np.array([0.0, 20000.0])).reduce)(times, records, ONE, ENSEMBLE)
        )
    with pytest.raises(ValueError, match="single frame"):
        spectrum_of(FLAT, good).reduce(times[:1], records[:, :1], ONE, ENSEMBLE)
    state = oscillator_state()
    away = rv.State(state.positions, state.velocities, rv.OpenBox())
    for observable in (spectrum_of(FLAT, good), rv.DielectricConstant(CHARGES), rv.Conductivity(0.01, dipole=CHARGES)):
        with pytest.raises(ValueError, match="OpenBox"):
            observable.record(OSCILLATORS, away, away)
    with pytest.raises(ValueError, match="not the symbol"):
        rv.VDOS(good, FLAT, element="Xx")


def test_bad_references():
    nu, values = np.arange(0, 4000, 50.0), np.ones(80)
    low = rv.spectra.CutoffWindow(0.2)
    with pytest.raises(ValueError, match=r"`intensities` has 1 negative values, the first -0\.5 at 100"):
        rv.spectra.filter_spectrum(nu, np.where(nu == 100, -0.5, values), low, step=0.0005, num_lags=401)
    with pytest.raises(ValueError, match="One for every wavenumber"):
        rv.spectra.filter_spectrum(nu, values[:-1], low, step=0.0005, num_lags=401)
    with pytest.raises(ValueError, match="wanted increasing"):
        rv.spectra.filter_spectrum(nu[::-1], values, low, step=0.0005, num_lags=401)
    coarse = np.arange(0, 4000, 100.0)
    with pytest.raises(ValueError, match=r"100 1/cm apart.*wanted at most 83"):
        rv.spectra.filter_spectrum(coarse, np.ones(40), low, step=0.0005, num_lags=401)
    with pytest.raises(ValueError, match="wanted `num_lags`"):
        spectrum_of(low, nu).filtered(nu, values, ENSEMBLE, step=0.0005)
    with pytest.raises(ValueError, match="resolves up to"):
        rv.spectra.wavenumber_grid(40000.0, step=0.0005, num_lags=401)
    with pytest.raises(ValueError, match="`num_lags` is 1; wanted a whole number, at least 2"):
        rv.spectra.wavenumber_grid(4000.0, step=0.0005, num_lags=1)


def test_filters_are_refused_alike():
    nu = jnp.linspace(0.0, 4000.0, 401)
    intensities, window = jnp.ones(401), rv.spectra.HannWindow(0.5)
    for step, lags, match in ((0.001, 20, "window"), (-0.001, 20, "step"), (0.001, 1, "num_lags")):
        with pytest.raises(ValueError, match=match):
            rv.spectra.filter_spectrum(nu, intensities, window, step=step, num_lags=lags)
    spectrum = rv.InfraredSpectrum(nu, rv.spectra.HannWindow(0.01), dipole=rv.PointCharges(jnp.ones(1)))
    times, records, weights = 1e-5 * jnp.arange(40.0) ** 2, jnp.ones((2, 40, 3)), jnp.full(2, 0.5)
    for observable in (spectrum, rv.Conductivity(0.01, dipole=CHARGES), rv.Viscosity(0.01)):
        with pytest.raises(ValueError, match="wanted equal steps"):
            observable.reduce(times, records, weights, ENSEMBLE)
    with pytest.raises(ValueError, match="`num_origins` is 41 of 40 frames"):
        rv.InfraredSpectrum(nu, spectrum.window, dipole=spectrum.dipole, num_origins=41).reduce(
            0.001 * jnp.arange(40.0), records, weights, ENSEMBLE
        )


def test_a_product_of_windows_may_be_traced():
    times, records, weights = 0.001 * jnp.arange(40.0), jnp.ones((2, 40, 3)), jnp.full(2, 0.5)
    nu = jnp.array([0.0, 100.0])
    window = rv.spectra.HannWindow(0.02) * rv.spectra.GaussianWindow(0.05)
    spectrum = rv.InfraredSpectrum(nu, window, dipole=rv.PointCharges(jnp.ones(1)))
    traced = jax.jit(lambda s: s.reduce(times, records, weights, ENSEMBLE))(spectrum)
    np.testing.assert_allclose(traced, spectrum.reduce(times, records, weights, ENSEMBLE), rtol=1e-12)


@pytest.mark.parametrize("name", ["hale_querry_1973", "segelstein_1981"])
def test_measured_spectra_are_filtered(name):
    """By linear interpolation, within what it differs from a smooth one; as they are, their gaps are too wide."""
    table, window = reference.load(name), rv.spectra.CutoffWindow(0.2)
    nu = np.arange(100.0, 4000.0, 5.0)
    filtered = lambda x: rv.spectra.filter_spectrum(nu, x, window, step=0.001, num_lags=201)
    got, smooth = filtered(table.at(nu)), PchipInterpolator(table.wavenumbers, table.intensities)(nu)
    wanted = filtered(smooth)
    # the data themselves are 3.5 % apart
    assert np.linalg.norm(got - wanted) < 0.015 * np.linalg.norm(wanted)
    with pytest.raises(ValueError, match=r"apart, unequally.*wanted at most 20\.8 1/cm, as by interp"):
        rv.spectra.filter_spectrum(table.wavenumbers, table.intensities, window, step=0.001, num_lags=201)


def test_scattered_wavenumbers_are_between_zero_and_the_laser():
    spectra = rv.spectra.RamanSpectra(jnp.ones(1), jnp.ones(1))
    for bad, match in ((0.0, "`wavenumbers` is 0"), (100.0, "less than the laser"), (120.0, "go up to 120")):
        with pytest.raises(ValueError, match=match):
            spectra.scattered(jnp.array([bad]), ENSEMBLE, 100.0)
