"""The experiment that refines a neural surface of water: its losses, their gradients, and what it refuses."""

import dataclasses
import json
import re
import subprocess
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, random_like
from jax.flatten_util import ravel_pytree
from test_water_experiment import ROOT, command, environment, numbers

import reverlet as rv

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import water_refine
from experiments.__main__ import main
from experiments._chains import Chains
from experiments._errors import BadInput
from experiments._measured_spectrum import measured
from experiments._neural_water import Grids, NeuralWater, all_whole
from experiments._refine_targets import (
    Aim,
    Evidence,
    Known,
    Residuals,
    blurred,
    cosine,
    pressure_along,
    pressure_part,
    principal,
    size_and_noise,
    spectrum_part,
    trajectories_along,
)
from experiments._trials import several
from experiments._water_refine_fit import Kept, moving
from experiments._water_refine_start import perturbed
from experiments._water_refine_summary import pull
from experiments._water_watch import Memory, Watch, first_peak, without_blanks

CHAINS, FRAMES = 2, 2
SMOKE = ("water_refine", "--preset", "smoke")


@pytest.fixture(scope="module")
def liquid():
    """Eight waters on a small network, and what an update measures."""
    box = rv.OrthorhombicBox(jnp.full(3, 0.62))
    topology = rv.qspcfw(8, box, cutoff=0.3).topology
    corners = 0.31 * jnp.stack(jnp.meshgrid(*[jnp.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    shape = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]])
    x = (corners + shape).reshape(-1, 3)
    keys = jax.random.split(jax.random.key(0), 5)
    network = rv.EANN.fresh(topology, key=keys[0], cutoff=0.3, num_radial=3, hidden=(4, 4))
    moment = rv.DeepDipole.fresh(
        topology, x, box, elements=["O", "H"], charges=[-2.0, 1.0], centers=["O"], cutoff=0.3, neurons=(2, 4), axis=2,
        hidden=(4,), key=keys[1],
    )  # fmt: skip
    sampling = Chains(topology, 298.15, 1.0, 0.0005, 0.002)
    water = NeuralWater(sampling, box, moment, Grids(4, 4000.0, 100.0, 0.1, 0.1, 0.1, FRAMES))
    shaken = jax.vmap(lambda k: rv.State(x + 0.002 * jax.random.normal(k, x.shape), jnp.zeros_like(x), box))
    chains = sampling.with_new_velocities(shaken(jax.random.split(keys[2], CHAINS)), keys[3])
    frames, starts, ends = water.draw(network, chains, keys[4])
    assert len(frames) == CHAINS * FRAMES
    np.testing.assert_array_equal(starts.states.positions, ends.positions)
    return water, network, frames, starts


def product(by_chain, direction):
    """A gradient of contributions along a direction."""
    pairs = zip(jax.tree.leaves(by_chain), jax.tree.leaves(direction), strict=True)
    return float(sum(jnp.sum(jnp.sum(g, axis=0) * d) for g, d in pairs))


def along_two(network, part):
    """The network moved by amounts of two directions, and what a gradient by all parameters is along them."""
    arrays, fixed = eqx.partition(network, eqx.is_inexact_array)
    directions = [random_like(arrays, seed) for seed in (5, 6)]

    def moved(amounts):
        step = jax.tree.map(lambda a, b: amounts[0] * a + amounts[1] * b, *directions)
        return eqx.combine(jax.tree.map(jnp.add, arrays, step), fixed)

    return moved, [product(part.by_chain, d) for d in directions]


@pytest.mark.slow
def test_gradient_of_the_spectral_loss_is_that_of_differences(liquid):
    """Through trajectories of 0.1 ps in both directions, by all parameters of the network; in reverse and, along a few
    directions, forward."""
    water, network, frames, starts = liquid
    nu = np.asarray(water.low.wavenumbers)
    aim = Aim(1e3 * np.exp(-(((nu - 1500) / 500) ** 2)), 10.0, 0.0, 1000.0)
    distance = aim.distance(water)
    part = eqx.filter_jit(lambda n: spectrum_part(distance, water, water.system(n), starts, "dynamical"))(network)
    arrays, fixed = eqx.partition(network, eqx.is_inexact_array)

    @jax.jit
    def loss(arrays):  # the weights stay those of the surface that the samples are of
        system = water.system(eqx.combine(arrays, fixed))
        run = water.short.run_many(system, starts.states, distance.record)
        return distance.reduce(run.times, run.records, jnp.full(CHAINS, 1 / CHAINS), water.ensemble)

    assert float(part.loss) == pytest.approx(float(loss(arrays)), rel=1e-9)
    for seed in range(2):
        direction = random_like(arrays, seed)
        found = product(part.by_chain, direction)
        assert found == pytest.approx(float(central_difference(loss, arrays, direction, 1e-7)), rel=1e-4)
    moved, wanted = along_two(network, part)
    # the same forward, and that of the diffusion coefficient from the same trajectories
    aim = dataclasses.replace(aim, diffusion=0.01, diffusion_scale=0.002)
    both = aim.distances(water, ["ir", "diffusion"])
    of_diffusion = eqx.filter_jit(
        lambda n: spectrum_part(both["diffusion"], water, water.system(n), starts, "dynamical")
    )(network)
    _, wanted_of_diffusion = along_two(network, of_diffusion)
    along = eqx.filter_jit(
        lambda starts, others: trajectories_along(both, water, moved, starts, 2, "dynamical", others)
    )
    forward, earlier = along(starts, None), along(frames[:CHAINS], None)
    for name, more in along(starts, frames[:CHAINS]).items():
        np.testing.assert_allclose(more.values, (forward[name].values + earlier[name].values) / 2, rtol=1e-6)
        np.testing.assert_allclose(more.slopes, forward[name].slopes, rtol=1e-6)
    for name, back, slopes in (("ir", part, wanted), ("diffusion", of_diffusion, wanted_of_diffusion)):
        assert float(forward[name].part.loss) == pytest.approx(float(back.loss), rel=1e-6)
        np.testing.assert_allclose(jnp.sum(forward[name].part.by_chain, axis=0), slopes, rtol=1e-4)


def test_gradient_of_the_pressure_is_that_of_the_reweighted_mean(liquid):
    """That of every chain, forward, and the mean, by differences; and its products with other chains' values."""
    water, network, frames, _ = liquid
    aim = Aim(np.ones(1), 1.0, 20000.0, 3000.0)
    arrays, fixed = eqx.partition(network, eqx.is_inexact_array)
    direction = random_like(arrays, 3)
    along = lambda gradient: ravel_pytree(direction)[0][None] @ ravel_pytree(gradient)[0]
    moved = lambda amount: eqx.combine(jax.tree.map(lambda x, d: x + amount * d, arrays, direction), fixed)

    @eqx.filter_jit
    def found(network):
        system = water.system(network)
        part = pressure_part(aim, water, system, frames, CHAINS)
        return part, pressure_along(aim, water, system, frames, CHAINS, along)

    @jax.jit
    def mean(arrays):
        return rv.expectation(water.pressure, water.system(eqx.combine(arrays, fixed)), frames).value

    def forward(state):
        def measured(amount):
            system = water.system(moved(amount))
            energy = system.potential.energy(state.positions, state.box)
            return water.pressure.record(system, state, state), energy

        return jax.jvp(measured, (0.0,), (1.0,))

    part, residuals = found(network)
    unit = rv.units.BAR * aim.pressure_scale
    wanted = float(central_difference(mean, arrays, direction, 1e-5)) / unit
    assert float(jnp.mean(residuals.slopes)) == pytest.approx(wanted, rel=1e-4)

    (pressures, _), (slopes, energies) = jax.tree.map(np.asarray, jax.jit(jax.vmap(forward))(frames.states))
    of_chains = lambda x: x.reshape(FRAMES, CHAINS).mean(0)
    away = of_chains(pressures) / unit - aim.pressure / aim.pressure_scale
    kt = rv.units.BOLTZMANN * 298.15
    each = of_chains(slopes - (pressures - pressures.mean()) * (energies - energies.mean()) / kt) / unit
    np.testing.assert_allclose(residuals.values[:, 0], away, rtol=1e-6)
    np.testing.assert_allclose(residuals.slopes[0, :, 0], each, rtol=1e-6)

    others = (away.sum() - away) / (CHAINS - 1)
    assert float(part.loss) == pytest.approx(np.mean(away * others), rel=1e-6)
    np.testing.assert_allclose(jax.vmap(along)(part.by_chain)[:, 0], 2 / CHAINS * others * each, rtol=1e-6)


@pytest.mark.slow  # smoke runs watch, too
def test_what_is_watched(liquid):
    """From the samples of an update, against plain formulas; only in every second update."""
    water, network, frames, starts = liquid
    r = np.asarray(water.structure["OO"].centers)
    watch = Watch(2, r, 1.5, {"OO": np.full(len(r), 0.25)})
    found, blank = eqx.filter_jit(lambda: [watch.after(water, network, frames, starts, jnp.array(d)) for d in (1, 2)])()
    assert all(np.isnan(x) for of in blank.values() for x in of.values())
    values = {name: float(of["value"]) for name, of in found.items()}
    system = water.system(network)
    g = np.asarray(rv.expectation(water.structure["OO"], system, frames).value)
    assert values["rms_OO"] == pytest.approx(np.sqrt(np.mean((g[r > 0.2] - 0.25) ** 2)), rel=1e-6)
    moment = lambda state: water.moment.moment(state.positions, state.box)
    squares = jnp.sum(jax.vmap(moment)(frames.states) ** 2, axis=1).reshape(-1, CHAINS).mean(0)
    kt = rv.units.BOLTZMANN * 298.15
    each = 1 + 4 * np.pi * rv.units.COULOMB * np.asarray(squares) / (3 * float(water.box.volume) * kt)
    assert values["dielectric_constant"] == pytest.approx(each.mean(), rel=1e-5)
    assert float(found["dielectric_constant"]["error"]) == pytest.approx(each.std(ddof=1) / np.sqrt(2), rel=1e-4)
    run = water.long.run_many(system, starts.states, rv.SelfDiffusion().record)
    diffusion = 1e3 / 3 * np.trapezoid(np.asarray(run.records).mean(0), np.asarray(run.times))
    assert values["diffusion"] == pytest.approx(1.5 * diffusion, rel=1e-5)


def test_the_first_peak_and_lines_of_what_is_watched():
    r = np.arange(0.2, 0.4, 0.005)
    g = 3 - 500 * (r - 0.2817) ** 2
    position, height = first_peak(r, jnp.asarray(g))
    assert float(position) == pytest.approx(0.2817, abs=1e-6)
    assert float(height) == pytest.approx(g.max())
    line = {"update": 1, "watched": {"diffusion": {"value": 1.0, "error": np.nan}}}
    assert without_blanks(line)["watched"] == {"diffusion": {"value": 1.0, "error": None}}
    line["watched"]["diffusion"]["value"] = np.nan
    assert without_blanks(line) == {"update": 1}


def test_forces_that_shall_not_be_forgotten(liquid):
    """Energies are linear in the last layer: ten percent more of it is ten percent of the forces."""
    water, network, frames, _ = liquid
    forces = jax.vmap(lambda s: water.system(network).forces(s.positions, s.box))(frames.states)
    memory = Memory(1.0, frames.states, forces, network.kinds)
    more = eqx.tree_at(lambda n: n.last, network, jax.tree.map(lambda x: 1.1 * x, network.last))
    losses = eqx.filter_jit(lambda: [memory.loss(n) for n in (network, more)])()
    assert float(losses[0]) < 1e-10
    assert float(losses[1]) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.slow
def test_the_pressure_between_molecules_is_that_of_differences(liquid):
    """Of the energy where a box grows and molecules in it move apart; wherever the atoms of one are wrapped to."""
    water, network, frames, _ = liquid
    x, masses = np.asarray(frames.states.positions[0]).reshape(-1, 3, 3), np.asarray(water.sampling.topology.masses[:3])
    centers = np.einsum("a,mak->mk", masses, x)[:, None] / masses.sum()

    def energy(scale):
        box = rv.OrthorhombicBox(scale * water.box.lengths)
        return float(network.energy(jnp.asarray(x + (scale - 1) * centers).reshape(-1, 3), box))

    volume, kt = float(water.box.volume), rv.units.BOLTZMANN * 298.15
    wanted = (len(x) * kt - (energy(1 + 1e-5) - energy(1 - 1e-5)) / 2e-5 / 3) / volume
    state = jax.tree.map(lambda y: y[0], frames.states)
    for s in (state, eqx.tree_at(lambda s: s.positions, state, state.positions.at[1].add(water.box.lengths))):
        assert float(water.pressure.record(water.system(network), s, s)) == pytest.approx(wanted, rel=1e-6)


def test_forces_by_motions_are_those_of_differences(liquid):
    """Of the energy where a molecule is moved, turned, its bonds are stretched, or bent; wrapped or not."""
    water, network, frames, _ = liquid
    state = jax.tree.map(lambda y: y[0], frames.states)
    x, masses = np.asarray(state.positions), np.asarray(water.sampling.topology.masses[:3])
    energy = jax.jit(lambda x: network.energy(x, water.box))
    forces = -jax.grad(lambda x: network.energy(x, water.box))(state.positions)
    wrapped = state.positions.at[4].add(water.box.lengths)
    found = [np.asarray(m) for m in water.motions(wrapped, forces)]
    of_molecule = x[3:6]
    arms = of_molecule - masses @ of_molecule / masses.sum()
    along = (of_molecule[1:] - of_molecule[0]) / np.linalg.norm(of_molecule[1:] - of_molecule[0], axis=1)[:, None]
    normal = np.cross(along[0], along[1])
    across = np.cross([-normal, normal], along) / np.linalg.norm(normal)
    still = np.zeros(3)
    ways = [
        (np.tile([1.0, 0.0, 0.0], (3, 1)), found[0][1, 0]),
        (np.cross([0.0, 0.0, 1.0], arms), found[1][1, 2]),
        (np.array([still, still, along[1]]), found[2][1, 1]),
        (np.array([still, *across]), found[3][1]),
    ]
    for way, wanted in ways:
        step = np.zeros_like(x)
        step[3:6] = 1e-6 * way
        assert float(energy(x - step) - energy(x + step)) / 2e-6 == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("chains", [3, 8])
def test_losses_have_no_bias_of_noise(chains):
    rng = np.random.default_rng(0)
    nu = np.arange(0, 2000.0, 500.0)
    aim = Aim(np.ones(4), 10.0, 100.0, 50.0)
    found = []
    for _ in range(4000):
        noise = rng.normal(size=(1, chains, 5))
        found.append(aim.losses({"wavenumbers": nu, "low": 1.5 + noise[..., :4], "pressure": 200 + 50 * noise[..., 4]}))
    for name, wanted in (("ir", 0.25), ("density", 4.0)):
        values = np.array([f[name] for f in found])
        assert abs(values.mean() - wanted) < 4 * values.std() / np.sqrt(len(values))


def test_size_noise_and_angle_of_gradients():
    rows = jnp.array([[3.0, 0.0], [1.0, 0.0]])
    size, noise, flat = size_and_noise({"w": rows})
    assert float(size) == 4
    assert float(noise) == pytest.approx(2.0)  # the scatter of a sum of two: sqrt(2) times that of one
    assert float(cosine(flat, jnp.array([1.0, 1.0]))) == pytest.approx(np.sqrt(0.5))


def test_the_most_likely_step():
    """Of residuals that are linear in the amounts, all the way where they are known far better than was expected, and
    never longer than the longest; nowhere, and back, where nothing is known."""
    rng = np.random.default_rng(0)
    slopes, off = jnp.asarray(1e4 * rng.normal(size=(3, 20))), jnp.array([0.03, -0.02, 0.05])
    nothing = Known.nothing(jnp.array([0.04, 0.04, 0.02]), {}, 8)
    told = [Evidence.exactly(-off @ slopes, slopes)]
    np.testing.assert_allclose(nothing.step(told, 1.0), off, rtol=1e-5)
    np.testing.assert_allclose(nothing.step(told, 0.01), 0.01 * off / jnp.linalg.norm(off), rtol=1e-5)
    little = [Evidence.exactly(-1e-6 * off @ slopes, 1e-6 * slopes)]
    assert float(jnp.linalg.norm(nothing.step(little, 1.0))) < 0.01
    # what was expected is expected of all steps together, so that nothing drifts
    away = jnp.array([0.02, 0.05, -0.01])
    np.testing.assert_allclose(nothing.after({}, away).step([], 1.0), -away, rtol=1e-6)


def same(x):
    return x


def chains_of(rng, slopes, amounts, sigma, count=8):
    """Residuals of chains and their slopes, whose noise is common to both: of the kind that moves a minimum."""
    noise = sigma * rng.normal(size=(count, slopes.shape[1]))
    return Residuals(
        jnp.asarray(amounts @ slopes + noise), jnp.asarray(slopes[:, None] * np.ones((count, 1)) + 10 * noise)
    )


def test_noise_does_not_move_the_minimum():
    """Where values and slopes of a chain have noise in common, the slope of the sum of squares has no bias, and its
    noise is the scatter of repetitions: of one update, and of means over several at different amounts."""
    rng = np.random.default_rng(2)
    slopes = 10 * rng.normal(size=(2, 30))
    places = np.array([[0.01, 0.0], [0.0, 0.02], [-0.01, 0.01], [0.0, 0.0]])

    @jax.jit
    def tell(all_residuals, at):
        known = Known.nothing(jnp.array([0.04, 0.04]), {"": 30}, 8)
        for residuals, amounts in zip(all_residuals, at, strict=True):
            known = known.after({"": residuals}, amounts)
        return known.told[""].evidence(same, same, 1.0)

    def repeated(*all_amounts):
        draws = ([chains_of(rng, slopes, a, 0.5) for a in all_amounts] for _ in range(400))
        return jax.tree.map(lambda *x: np.stack(x), *[tell(draw, jnp.asarray(all_amounts)) for draw in draws])

    for amounts in [np.zeros(2)], [np.array([0.05, -0.03])], places:
        found = repeated(*amounts)
        error = found.slope.std(0, ddof=1) / np.sqrt(400)
        np.testing.assert_array_less(np.abs(found.slope.mean(0) - found.curvature.mean(0) @ amounts[-1]), 4 * error)
        if not np.any(amounts[-1]):  # elsewhere the weights, which are noisy, scale what is found
            np.testing.assert_allclose(np.diag(found.noise.mean(0)), found.slope.var(0, ddof=1), rtol=0.4)


def test_updates_near_by_tell_the_same():
    """Several updates at different amounts come nearer than each alone, and one far away tells nothing any more."""
    rng = np.random.default_rng(1)
    slopes, end = 10 * rng.normal(size=(2, 30)), np.array([0.02, -0.01])

    @jax.jit
    def after(known, residuals, at):
        known = known.after({"": residuals}, at)
        return known, known.step([known.told[""].evidence(same, same, 1.0)], 1.0)

    def error(places):
        known, step = Known.nothing(jnp.array([0.04, 0.04]), {"": 30}, 8), None
        for at in places:
            known, step = after(known, chains_of(rng, slopes, at - end, 0.5), jnp.asarray(at))
        return float(jnp.linalg.norm(known.amounts + step - end))

    near = [0.003 * rng.normal(size=2) for _ in range(6)]
    mean = lambda places: np.mean([error(places) for _ in range(200)])
    alone = mean(near[:1])
    assert mean(near) < 0.7 * alone
    assert mean([np.array([1.0, 0.0]), near[0]]) == pytest.approx(alone, rel=0.2)


def test_residuals_in_units_of_their_noise():
    """Where noise is twice as large they count a quarter, and where there is none, by what is tolerated; a blur sees a
    band that is far off."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(4000, 1))
    values, ones = np.concatenate([1 + noise, 2 + 2 * noise], axis=1), jnp.ones((1, 4000, 2))
    found = Residuals(jnp.asarray(values), ones).evidence(same, same, 0.5)
    variance = np.array([1, 4]) * np.var(noise) / 4000
    weight = 0.5 / (variance + 0.3 * variance.mean() + 0.03**2 / 2)
    np.testing.assert_allclose(found.curvature, [[weight.sum()]], rtol=1e-3)
    np.testing.assert_allclose(found.slope, [weight @ np.mean(values, axis=0)], rtol=1e-3)
    quiet = Residuals(ones[0], ones).evidence(same, same, 1.0)
    np.testing.assert_allclose(quiet.curvature, [[4 / 0.03**2]], rtol=1e-3)
    nu = jnp.arange(0, 2000.0, 10.0)
    band = lambda center: jnp.exp(-0.5 * ((nu - center) / 50) ** 2)
    slope = jax.jacfwd(band)(1000.0)
    overlap = lambda width: jnp.vdot(blurred(nu, width)(band(1300.0) - band(1000.0)), blurred(nu, width)(slope))
    assert overlap(180.0) > 50 * abs(overlap(0.0))
    np.testing.assert_allclose(blurred(nu, 0.0)(slope), slope, atol=1e-12)


def test_what_is_not_fitted_has_no_gradient(liquid):
    """By the same names as in `rv.fit`, with `*` for anything."""
    network = eqx.filter(liquid[1], eqx.is_inexact_array)
    at = lambda path: jax.tree_util.keystr(path)[1:]
    moved = lambda *names: {at(p) for p, x in jax.tree_util.tree_leaves_with_path(moving(names, network)) if x}
    everything = {at(path) for path, _ in jax.tree_util.tree_leaves_with_path(network)}
    assert moved() == everything
    assert moved("layers[1]", "last") == {n for n in everything if n.startswith(("layers[1]", "last"))}
    assert moved("*widths", "layers*bias") == {n for n in everything if n == "widths" or n.endswith("bias")}
    with pytest.raises(ValueError, match="'first', which is nothing of the model"):
        moved("first")


def test_surfaces_that_are_kept():
    """After every second of five updates; a checkpoint has the same."""
    kept = Kept.places({"w": jnp.zeros(3)}, 2, 5)
    for update in range(1, 6):
        kept = eqx.filter_jit(lambda k, w: k.after({"w": w}))(kept, jnp.full(3, float(update)))
    found = kept.surfaces()
    assert {update: float(surface["w"][0]) for update, surface in found.items()} == {2: 2.0, 4: 4.0}
    assert Kept.places({"w": jnp.zeros(3)}, 0, 5).after({"w": jnp.ones(3)}).surfaces() == {}


def test_several_trials(tmp_path, capsys):
    """Each with its seed and folder; what ended is left, what was stopped goes on, and what they came to is told."""
    command = water_refine.Command(config=water_refine.PRESETS["smoke"], trials=3, out=tmp_path)
    ran = []

    def run(command):
        ran.append((command.config.seed, command.resume, command.trials))
        command.out.mkdir(exist_ok=True)
        if command.config.seed == 1 and not command.resume:
            raise KeyboardInterrupt
        goal = {
            "name": "loss",
            "value": 2.0 + command.config.seed,
            "wanted": "at least 3",
            "met": command.config.seed > 0,
        }
        (command.out / "summary.json").write_text(json.dumps({"goals": [goal]}))

    with pytest.raises(KeyboardInterrupt):
        several("water_refine", command, run)
    with pytest.raises(BadInput, match="not empty"):
        several("water_refine", command, run)
    several("water_refine", dataclasses.replace(command, resume=True), run)
    assert ran == [(0, False, 1), (1, False, 1), (1, True, 1), (2, False, 1)]
    assert "- loss: 2, 3, 4; mean 3, scatter 1; wanted at least 3, met by 2 of 3." in capsys.readouterr().out
    assert json.loads((tmp_path / "trials.json").read_text())["folders"] == ["seed0", "seed1", "seed2"]


def test_a_molecule_that_comes_apart(liquid):
    water, _, _, starts = liquid
    topology, x = water.sampling.topology, starts.states.positions[0]
    assert all_whole(topology, water.box, x)
    assert all_whole(topology, water.box, x.at[1].add(water.box.lengths))  # an image is as good
    assert not all_whole(topology, water.box, x.at[1].add(0.1))


def test_a_surface_that_blows_up(liquid, tmp_path):
    """It is said which chain does and when, and its atoms are there to be looked at."""
    water, network, _, starts = liquid
    wild = eqx.tree_at(lambda n: n.last, network, jax.tree.map(lambda x: 3e5 * x, network.last))
    says = water.look(wild, starts.states, jax.random.key(0), tmp_path / "blown_up.extxyz")
    found = re.search(r"Chain (\d) of 2 comes apart by step (\d+) of this interval, frame (\d) of 2; (\d) frames", says)
    assert found, says
    chain, step, frame, count = map(int, found.groups())
    assert step == 2 * frame
    _, written = rv.io.read(tmp_path / "blown_up.extxyz")
    assert len(written.times) == count
    np.testing.assert_allclose(written.records.positions[0], starts.states.positions[chain], atol=1e-7)


def test_targets_that_contradict_each_other():
    history = lambda cosines: [{"cosine": c, "ir": 0.1, "density": 0.2} for c in cosines]
    assert pull(history([-0.5, -0.3, -0.4, -0.6, -0.2]))["contradict"]
    assert not pull(history([-0.5, 0.5, -0.4, 0.3, -0.2]))["contradict"]
    assert pull(history([-0.5, -0.3, -0.4, -0.6])) is None
    assert pull([{**h, "ir": -0.1} for h in history(5 * [-0.5])]) is None
    assert pull([{"ir": 0.1}]) is None


def test_a_spectrum_of_another_quantity(tmp_path):
    file = tmp_path / "spectrum.txt"
    own = measured(None, "n_alpha")
    write = lambda y: np.savetxt(file, np.stack([own.wavenumbers, y], axis=1))
    write(own.intensities / (2 * np.pi * own.wavenumbers))
    np.testing.assert_allclose(measured(file, "epsilon2").intensities, own.intensities, rtol=1e-12)
    with pytest.raises(BadInput, match="--quantity epsilon2"):
        measured(file, "n_alpha")
    write(own.intensities)
    np.testing.assert_allclose(measured(file, "n_alpha").intensities, own.intensities)
    with pytest.raises(BadInput, match="--quantity n_alpha"):
        measured(file, "epsilon2")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path):
    """Killed after the first of two updates, in processes of their own."""
    folders = [tmp_path / name for name in ("whole", "killed")]
    commands = [command(*SMOKE, "--out", folder) for folder in folders]
    settings = {"cwd": ROOT, "env": environment(), "stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    assert subprocess.run(commands[0], **settings).returncode == 0
    process = subprocess.Popen(commands[1], **settings)
    while not (folders[1] / "checkpoint.eqx").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (folders[1] / "final.npz").exists()
    assert subprocess.run([*commands[1], "--resume"], **settings).returncode == 0
    assert numbers(folders[1]) == numbers(folders[0])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--potential", "nowhere.npz"), "--potential is nowhere.npz, which is not there"),
        (("--dipole", "nowhere.npz"), "--dipole is nowhere.npz, which is not there"),
        (("--perturbation", "0"), "--perturbation is 0.0; wanted a number above zero"),
        (("--watch", "0"), "--stop diffusion came with --watch 0"),
        (("--targets", "ir,diffusion"), "--stop diffusion came with --targets ir,diffusion, which fits it"),
        (("--targets", "ir,diffusion", "--stop", "last", "--perturbation", "0"), "came without --diffusion; wanted a"),
        (("--diffusion", "2.3"), "--diffusion is 2.3, and nothing is fitted to it"),
        (("--rdf", "nowhere.txt"), "--rdf is nowhere.txt, which is not there"),
        (("--interval", "0.0033"), "--interval is 0.0033; wanted a multiple of --frames time steps"),
        (("--correlation", "0.01"), "--correlation is 0.01; wanted at most twice --reach, the length of a trajectory"),
        (("--frames", "4", "--starts", "3"), "--starts is 3; wanted a divisor of --frames, which is 4"),
    ],
)
def test_refusals(flags, says, tmp_path, capsys):
    preset = "self" if flags[0] == "--perturbation" else "smoke"
    assert main(["water_refine", "--preset", preset, *flags, "--out", str(tmp_path / "run")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_surface_of_a_run_is_read_again(tmp_path, liquid):
    water, network, frames, _ = liquid
    water_refine.write_surface(tmp_path / "eann.npz", network)
    again = rv.EANN.from_npz(tmp_path / "eann.npz", water.sampling.topology, cutoff=0.3)
    assert max(water_refine.how_far(network, again).values()) < 1e-6
    off = perturbed(network, 0.1, frames.states, jax.random.key(0))
    force = jax.vmap(lambda p, s: rv.System(water.sampling.topology, p).forces(s.positions, s.box), (None, 0))
    right = force(network, frames.states)
    away = jnp.sqrt(jnp.mean((force(off, frames.states) - right) ** 2) / jnp.mean(right**2))
    assert float(away) == pytest.approx(0.1, rel=1e-5)
    changed = {name for name, size in water_refine.how_far(network, off).items() if size > 0}
    assert changed
    assert all(name.startswith("last") for name in changed)
    # combinations of the last layer that change forces by as much as they are, each in a way of its own
    of_last = moving(("last",), eqx.filter(network, eqx.is_inexact_array))
    steps, relative = principal(network, of_last, frames.states, 2)
    last, unravel = ravel_pytree(network.last)
    with_last = lambda flat: eqx.tree_at(lambda n: n.last, network, unravel(flat))
    changes = jnp.stack([(force(with_last(last + step), frames.states) - right).ravel() for step in steps])
    np.testing.assert_allclose(changes @ changes.T / jnp.sum(right**2), np.eye(2), atol=1e-6)
    # the first is the shortest that does
    any_way = random_like(last, 0)
    change = jnp.linalg.norm(force(with_last(last + any_way), frames.states) - right) / jnp.linalg.norm(right)
    assert np.linalg.norm(steps[0]) < np.linalg.norm(steps[1]) < jnp.linalg.norm(any_way) / change
    # others than the first are expected to be off as the root of what they change
    np.testing.assert_allclose(relative, np.sqrt(np.linalg.norm(steps[0]) / np.linalg.norm(steps, axis=1)))
    # the same of motions, each of which counts a fourth
    moved_by = lambda f: [m.reshape(len(f), -1) for m in jax.vmap(water.motions)(frames.states.positions, f)]
    steps, _ = principal(network, of_last, frames.states, 2, water.motions)
    total = 0
    for of_right, *of_steps in zip(
        moved_by(right), *[moved_by(force(with_last(last + step), frames.states)) for step in steps], strict=True
    ):
        changes = jnp.stack([(x - of_right).ravel() for x in of_steps])
        total += changes @ changes.T / jnp.sum(of_right**2) / 4
    np.testing.assert_allclose(total, np.eye(2), atol=1e-6)
