"""Constant pressure: laws of volumes and shapes in closed form, lists and boxes that change, and where cells stop."""

import functools

import equinox as eqx
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import (
    EPSILON,
    NEAR,
    SEEDS,
    SIGMA,
    SWITCHED,
    Dimers,
    argon_state,
    argon_topology,
    assert_trees_close,
    central_difference,
    lennard_jones,
    very_few,
)

import reverlet as rv
from reverlet._sampler._cell import Groups, energy_and_slope

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
SELDOM = ("rescaling, atoms", "rescaling, atoms of dumbbells", "Monte Carlo, atoms", "Monte Carlo, atoms of dumbbells")


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
        pytest.param("anisotropic", "triangle", marks=pytest.mark.slow),
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


ARGON = 94.4  # K
LIQUID = argon_state()
BAROSTATS = {
    "rescaling": lambda n: rv.StochasticCellRescaling(
        rv.CSVR(ARGON, 0.1, dt=0.004, num_steps=n), 30.0, period=0.2, every=5
    ),
    "Monte Carlo": lambda n: rv.MonteCarloBarostat(
        rv.LangevinBAOAB(ARGON, 1.0, dt=0.004, num_steps=n), 30.0, every=5, size=0.1, adapt=2
    ),
}


def searching(cutoff=0.45, skin=0.08):
    """Liquid argon by lists of a short cutoff, for so small a box."""
    potential = rv.LennardJones(SIGMA, EPSILON, cutoff=cutoff, truncation=rv.SmoothSwitch(0.9 * cutoff))
    search = rv.CellList.fit(
        LIQUID.positions, LIQUID.box, cutoff=cutoff, skin=skin, every=10, block=4, room=2.0, shrink=0.02
    )
    return rv.System(argon_topology(), potential, search=search)


@pytest.mark.parametrize("name", [pytest.param("rescaling", marks=pytest.mark.slow), "Monte Carlo"])
def test_going_on_is_not_having_stopped(name):
    """To the last bit, with the size of the moves and what is counted; and the density is that of `NPT`."""
    barostat, system, start = BAROSTATS[name](10), rv.System(argon_topology(), NEAR), LIQUID.repeat(2)
    key = jax.random.key(0)
    whole, ends = barostat.sample(system, start, 8, key=key)
    first, chains = barostat.sample(system, start, 4, key=key)
    second, again = barostat.sample(system, chains, 4, key=key)
    assert_trees_close(first, whole[:4], rtol=0)
    assert_trees_close(second, whole[4:], rtol=0)
    assert_trees_close(again, ends, rtol=0)
    assert np.all(volumes(whole)[-2:] != float(LIQUID.box.volume))
    u = lambda s: (NEAR.energy(s.positions, s.box) + 30.0 * s.box.volume) / (rv.units.BOLTZMANN * ARGON)
    np.testing.assert_allclose(-whole.log_density, jax.vmap(u)(whole.states), rtol=1e-12)
    assert whole.ensemble.pressure == 30.0
    # sizes were adapted after the first two rounds, and only then
    assert np.all(np.asarray(ends.cell.tried) == (4 if name == "Monte Carlo" else 8))
    # of chains that come from elsewhere, too
    other = BAROSTATS["rescaling" if name == "Monte Carlo" else "Monte Carlo"](10)
    assert jax.eval_shape(lambda c: other.sample(system, c, 4, key=key)[1].cell.rounds, ends).shape == (2,)
    assert np.all(np.asarray(ends.cell.rounds) == ends.rounds)


@pytest.mark.slow
@pytest.mark.parametrize("name", BAROSTATS)
def test_lists_that_cells_wear_out_change_nothing(name):
    """But rounding."""
    barostat, start, key = BAROSTATS[name](60), LIQUID.repeat(2), jax.random.key(0)
    system = searching(0.4)
    by_lists, _ = barostat.sample(system, start, 4, key=key)
    alone, _ = barostat.sample(rv.System(system.topology, system.potential), start, 4, key=key)
    np.testing.assert_allclose(by_lists.states.positions, alone.states.positions, atol=1e-7)
    assert np.max(np.abs(volumes(alone) / float(LIQUID.box.volume) - 1)) > 0.05


def test_a_cell_that_shrinks_below_its_cutoff_leaves_what_was_good():
    """With the samples up to then and the chains to go on from, which do so with a shorter cutoff."""
    barostat = rv.MonteCarloBarostat(
        rv.LangevinBAOAB(ARGON, 1.0, dt=0.004, num_steps=10), 3e3, every=5, size=0.05, adapt=0
    )
    system, start = rv.System(argon_topology(), SWITCHED), LIQUID.repeat(2)
    match = r"chain \d, half of whose smallest height was 0\.5\d* nm, shrank too far for the cutoff, 0.55 nm"
    with pytest.raises(rv.SimulationError, match=match) as caught:
        barostat.sample(system, start, 80, key=jax.random.key(0))
    samples, chains = caught.value.samples, caught.value.chains
    assert 0 < len(samples) < 80
    assert len(samples) == 2 * chains.rounds
    assert volumes(samples)[-1] < float(LIQUID.box.volume)
    assert_trees_close(chains.states, samples[-2:].states, rtol=0)
    shorter = rv.System(argon_topology(), rv.LennardJones(SIGMA, EPSILON, cutoff=0.4, truncation=rv.SmoothSwitch(0.35)))
    barostat.sample(shorter, chains, 2, key=jax.random.key(0))
    # compiled, by the message alone
    compiled = jax.jit(lambda s: barostat.sample(system, s, 80, key=jax.random.key(0))[0].log_density)
    with pytest.raises(rv.SimulationError, match=match), rv.SimulationError.unwrapped():
        jax.block_until_ready(compiled(start))


@pytest.mark.slow
def test_cells_that_are_too_small_for_lists_or_too_large_for_waves():
    barostat = BAROSTATS["Monte Carlo"](10)
    with pytest.raises(rv.SimulationError, match=r"for the neighbor lists, of 0.55\d* nm with their skin") as caught:
        eqx.tree_at(lambda b: b.pressure, barostat, jnp.asarray(3e3)).sample(
            searching(0.5, 0.057), LIQUID.repeat(2), 80, key=jax.random.key(0)
        )
    assert caught.value.chains is not None
    charges = np.where(np.arange(32) % 2 == 0, 0.1, -0.1)
    salty = SWITCHED + rv.Ewald.fit(charges, LIQUID.box, cutoff=0.4, accuracy=5e-3)
    with pytest.raises(rv.SimulationError, match="grew too large for the waves or the mesh"):
        eqx.tree_at(lambda b: b.pressure, barostat, jnp.asarray(-500.0)).sample(
            rv.System(argon_topology(), salty), LIQUID.repeat(2), 800, key=jax.random.key(0)
        )


@eqx.filter_jit
def slopes(topology, state, flow, molecular):
    """Of the energy along the flow, by what barostats take and by finite differences; all of it; and how far the flow
    there and back leads."""
    groups, y = Groups.of(topology, molecular, state.positions.dtype), (state.positions, state.velocities, state.box)
    _, slope = energy_and_slope(rv.System(topology, SWITCHED), state, groups, False)
    along = central_difference(lambda h: SWITCHED.energy(*flow.apply(0.0, y, groups, h)[::2]), 0.0, 1.0, 1e-5)
    back = flow.apply(0.0, flow.apply(0.0, y, groups, 0.3), groups, -0.3)
    away = jnp.stack([jnp.max(jnp.abs(a - b)) for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(y), strict=True)])
    return jnp.sum(slope * flow.rate), along, slope, away


@very_few
@hypothesis.given(SEEDS)
def test_the_slope_of_a_cell(seed):
    """By finite differences of what the flow does to it, and for atoms by the virial; and the flow goes back."""
    rng = np.random.default_rng(seed)
    molecules, masses = np.sort(rng.integers(0, 9, 32)).tolist(), rng.uniform(1, 9, 32)
    topology = rv.Topology.from_elements(["Ar"] * 32, molecules=molecules, masses=masses)
    state = argon_state(seed=seed, jitter=0.01)
    state = rv.State(state.positions, state.velocities, rv.TriclinicBox(state.box.vectors))
    rate = rng.uniform(-1, 1, size=(3, 3))
    flow = rv.flows.Deformation(jnp.asarray(rate + rate.T))
    found = []
    for molecular in (True, False):
        along, wanted, slope, away = slopes(topology, state, flow, molecular)
        np.testing.assert_allclose(along, wanted, rtol=1e-6, atol=1e-5)
        assert jnp.all(away < 1e-13)
        found.append(slope)
    stress = SWITCHED.stress(state.positions, state.box)
    np.testing.assert_allclose(found[1] / state.box.volume, stress, rtol=1e-9, atol=1e-9)
    assert not np.allclose(found[0], found[1])


def test_refused():
    thermostat = langevin(20, 0.01)
    system, start = gas(True)[0], rv.State(jnp.zeros((4, 3)).at[::2, 0].set(0.3), jnp.zeros((4, 3)), CUBE)
    draw = lambda state, **more: rv.MonteCarloBarostat(thermostat, 1.0, **more).sample(
        system, state.repeat(2), 2, key=jax.random.key(0)
    )
    with pytest.raises(TypeError, match=r"`thermostat` is of type `MonteCarloBarostat`; wanted a sampler at constant"):
        rv.StochasticCellRescaling(rv.MonteCarloBarostat(thermostat, 1.0), 1.0)
    openmm = pytest.importorskip("openmm") and rv.openmm.OpenMMSampler(T, 1.0, dt=0.01, num_steps=20)
    with pytest.raises(TypeError, match=r"`thermostat` is of type `OpenMMSampler`.*has a barostat of its own"):
        rv.MonteCarloBarostat(openmm, 1.0)
    with pytest.raises(ValueError, match="`coupling` is 'all'; wanted one of 'isotropic', 'semi-isotropic', 'anisot"):
        rv.StochasticCellRescaling(thermostat, 1.0, coupling="all")
    with pytest.raises(ValueError, match=r"`every` is 15, and `thermostat` has `num_steps=20`; wanted .* such as 30"):
        rv.MonteCarloBarostat(thermostat, 1.0, every=15)
    with pytest.raises(ValueError, match="`pressure` is nan"):
        rv.MonteCarloBarostat(thermostat, np.nan)
    with pytest.raises(ValueError, match="`MonteCarloBarostat` got an `OpenBox`, which has no volume"):
        draw(rv.State(start.positions, start.velocities, rv.OpenBox()))
    torn = rv.State(start.positions.at[3, 0].add(2.0), start.velocities, CUBE)
    with pytest.raises(rv.SimulationError, match=r'Atoms 2 and 3 are of one molecule.*`scaling="atoms"`'):
        draw(torn)


@pytest.mark.slow
def test_liquid_argon_as_openmm_has_it():
    """Mean and variance of the density by both barostats and by OpenMM's, within errors over chains."""
    pytest.importorskip("openmm")
    chains, rounds, hot, pressure = 16, 40, 120.0, 20.0
    system = rv.System(argon_topology(), lennard_jones(rv.SmoothSwitch(0.4), cutoff=0.5))
    settings = {"dt": 0.005, "num_steps": 400}
    thermostat = rv.LangevinBAOAB(hot, 2.0, **settings)
    samplers = (
        rv.openmm.OpenMMSampler(hot, 2.0, pressure=pressure, platform="Reference", **settings),
        rv.StochasticCellRescaling(thermostat, pressure, period=0.3, compressibility=2e-4 / rv.units.BAR),
        rv.MonteCarloBarostat(thermostat, pressure, size=0.1),
    )
    found = []
    for sampler in samplers:
        _, warm = sampler.sample(system, LIQUID.repeat(chains), 10 * chains, key=jax.random.key(0))
        samples, _ = sampler.sample(system, warm, rounds * chains, key=jax.random.key(1))
        density = 1 / volumes(samples).reshape(rounds, chains)
        squares = (density - density.mean()) ** 2
        error = lambda x: x.mean(axis=0).std(ddof=1) / np.sqrt(chains)
        found.append((density.mean(), error(density), squares.mean(), error(squares)))
    (mean, error, variance, its_error), *ours = found
    for found in ours:
        assert abs(found[0] - mean) < 3.5 * np.hypot(found[1], error)
        assert abs(found[2] - variance) < 3.5 * np.hypot(found[3], its_error)
        assert found[1] < 0.01 * mean  # and that says something
        assert found[3] < 0.2 * variance


@pytest.mark.slow
def test_a_network_at_constant_pressure():
    """By lists for every atom, remade for the cell: the same chain as without lists."""
    topology, start = argon_topology(), LIQUID.repeat(2)
    network = rv.MessagePassing.fresh(topology, cutoff=0.4, num_channels=4, num_rounds=1, key=jax.random.key(0))
    search = rv.CellList.fit(LIQUID.positions, LIQUID.box, cutoff=0.45, skin=0.1, every=10, room=2.0, per_atom=True)
    potential, barostat = network + NEAR, BAROSTATS["rescaling"](20)
    by_lists, chains = barostat.sample(rv.System(topology, potential, search=search), start, 4, key=jax.random.key(0))
    alone, _ = barostat.sample(rv.System(topology, potential), start, 4, key=jax.random.key(0))
    np.testing.assert_allclose(by_lists.states.positions, alone.states.positions, atol=1e-7)
    assert jnp.all(chains.cell.accepted > 0)
