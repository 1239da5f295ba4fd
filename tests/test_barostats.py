"""Constant pressure: laws of volumes and shapes in closed form, lists and boxes that change, and where cells stop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import (
    Dimers,
)

import reverlet as rv

T = 100.0
KT = rv.units.BOLTZMANN * T
CHAINS = 1000
PRESSURE = 0.5 * KT  # per nm³
CUBE = rv.OrthorhombicBox(jnp.full(3, 2.0))


def shape_energy(stiffness, positions, box):
    """Holds the shape of a cell and not its size: k (|h|²/V^⅔ - 3)/2."""
    del positions
    return 0.5 * stiffness * (jnp.sum(box.vectors**2) / box.volume ** (2 / 3) - 3)


def gas(molecular, box_stiffness=None):
    """Four atoms that do not know of one another, or two dumbbells; and their number."""
    topology = rv.Topology.from_elements(["Ar"] * 4, molecules=[0, 0, 7, 7] if molecular else None)
    stiffness = 400 * KT if molecular else 0.0  # 0.3 nm long, ± 0.05
    potential = Dimers(jnp.asarray(stiffness), jnp.asarray(0.3))
    if box_stiffness is not None:
        potential = potential + rv.FunctionPotential(shape_energy, jnp.asarray(box_stiffness))
    return rv.System(topology, potential), 2 if molecular else 4


def langevin(num_steps, dt):
    return rv.LangevinBAOAB(T, 2.0, dt=dt, num_steps=num_steps)


def csvr(num_steps, dt):
    return rv.CSVR(T, 0.1, dt=dt, num_steps=num_steps)


def rescaling(thermostat, coupling="isotropic", scaling="molecules"):
    # the compressibility of the gas
    return rv.StochasticCellRescaling(
        thermostat, PRESSURE, period=1.0, compressibility=1 / PRESSURE, every=5, coupling=coupling, scaling=scaling
    )


def monte_carlo(thermostat, scaling="molecules"):
    return rv.MonteCarloBarostat(thermostat, PRESSURE, every=5, size=1.5, adapt=0, scaling=scaling)


def draw(barostat, system, box, chains=CHAINS):
    key, x_key, v_key = jax.random.split(jax.random.key(2), 3)
    x = 0.3 * jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 1], [0, 2, 1]]) + jax.random.normal(x_key, (chains, 1, 3))
    free = lambda k: rv.maxwell_boltzmann(system.topology, T, remove_center_of_mass=False, key=k)
    v = jax.vmap(free)(jax.random.split(v_key, chains))
    states = jax.vmap(lambda x, v: rv.State(x, v, box))(x, v)
    return barostat.sample(system, states, chains, key=key)


def volumes(samples):
    return np.asarray(jax.vmap(lambda b: b.volume)(samples.states.box))


GASES = {
    # one factor for all velocities mixes nothing between the springs and the centers of free dumbbells
    "rescaling, atoms": (rescaling, csvr, False),
    "rescaling, dumbbells": (rescaling, langevin, True),
    "rescaling, atoms of dumbbells": (lambda t: rescaling(t, scaling="atoms"), langevin, True),
    "Monte Carlo, atoms": (monte_carlo, csvr, False),
    "Monte Carlo, dumbbells": (monte_carlo, langevin, True),
    "Monte Carlo, atoms of dumbbells": (lambda t: monte_carlo(t, scaling="atoms"), csvr, True),
}
SELDOM = ("rescaling, atoms of dumbbells", "Monte Carlo, atoms", "Monte Carlo, atoms of dumbbells")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SELDOM else n for n in GASES]
)  # fmt: skip
def test_the_volume_of_an_ideal_gas(name):
    """p(V) ∝ V^M exp(-pV/kT) of M molecules, whatever is scaled and however: a gamma distribution, at two time steps,
    by the test of Kolmogorov and Smirnov on independent chains."""
    make, thermostat, molecular = GASES[name]
    system, number = gas(molecular)
    for dt in (0.01, 0.03):
        # springs hold on to atoms that are scaled by themselves
        steps = 3000 if "atoms of" in name else 600
        samples, ends = draw(make(thermostat(steps, dt)), system, CUBE)
        acceptance = float(jnp.mean(ends.cell.acceptance))
        law = scipy.stats.gamma(number + 1, scale=KT / PRESSURE)
        p = scipy.stats.kstest(volumes(samples), law.cdf).pvalue
        assert p > 2e-3
        assert 0.2 < acceptance < 0.999  # and so would be wrong without
        # by what one molecule more would give, the test can tell
        wrong = scipy.stats.gamma(number + 2, scale=KT / PRESSURE)
        assert scipy.stats.kstest(volumes(samples), wrong.cdf).pvalue < 1e-6


BOX_STIFFNESS = 10.0
TRIANGLE = rv.TriclinicBox(jnp.array([[2.0, 0, 0], [0.3, 2.1, 0], [-0.2, 0.4, 1.9]]))


@functools.cache
def shapes(coupling, kind):
    box = CUBE if kind == "cube" else TRIANGLE
    system, _ = gas(False, BOX_STIFFNESS * KT)
    samples, ends = draw(rescaling(langevin(600, 0.01), coupling), system, box)
    assert 0.3 < float(jnp.mean(ends.cell.acceptance)) < 0.999
    return volumes(samples), np.asarray(jax.vmap(lambda b: b.vectors)(samples.states.box))


@pytest.mark.parametrize(
    ("coupling", "kind"),
    [
        pytest.param("semi-isotropic", "cube", marks=pytest.mark.slow),
        pytest.param("anisotropic", "cube", marks=pytest.mark.slow),
        ("anisotropic", "triangle"),
    ],
)
def test_the_shape_of_a_cell(coupling, kind):
    """The shape has the measure that the docstring names, and the volume that of isotropic coupling: of a cell whose
    shape is held, the volume, ratios of lengths and tilts have laws in closed form."""
    v, h = shapes(coupling, kind)
    assert scipy.stats.kstest(v, scipy.stats.gamma(5, scale=KT / PRESSURE).cdf).pvalue > 2e-3
    u = h / v[:, None, None] ** (1 / 3)
    # of lengths u of a cell of volume 1, its energy over kT, and the density of ln u
    energy = lambda u1, u2, u3: 0.5 * BOX_STIFFNESS * (u1**2 + u2**2 + u3**2)
    s = np.linspace(-2, 2, 401)
    a, b = np.meshgrid(s, s, indexing="ij")  # ln of the first and the second
    if coupling == "semi-isotropic":
        density = np.exp(-energy(np.exp(s), np.exp(s), np.exp(-2 * s)))
        np.testing.assert_allclose(h[:, 0, 0], h[:, 1, 1], rtol=1e-12)
    else:
        power = 2 * a + b if kind == "triangle" else 0 * a  # of lower triangles: V^-2 dh is V^-2 L₁₁² L₂₂ dL
        density = np.sum(np.exp(power - energy(np.exp(a), np.exp(b), np.exp(-a - b))), axis=1)
    law = np.cumsum(density) / np.sum(density)
    first = np.log(u[:, 0, 0])
    assert scipy.stats.kstest(first, lambda x: np.interp(x, s + 0.005, law)).pvalue > 2e-3
    if kind == "triangle":
        assert np.all(np.triu(h, 1) == 0)  # stays one
        for i, j in ((1, 0), (2, 0), (2, 1)):
            assert scipy.stats.kstest(u[:, i, j] * np.sqrt(BOX_STIFFNESS), "norm").pvalue > 2e-3
