"""What each kind of bad input gets: an error of its own. Constructors are tested beside what they construct."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    CUTOFF,
    SWITCHED,
    argon_box,
    argon_length,
    argon_positions,
    argon_state,
    argon_topology,
    lennard_jones,
)

import reverlet as rv

pytestmark = pytest.mark.usefixtures("without_type_checks")
SYSTEM = rv.System(argon_topology(), SWITCHED)
STATE = argon_state()


def run(state=STATE, system=SYSTEM, **options):  # no library function: a test may pick what to change
    return rv.nve(system, state, **{"dt": 0.001, "num_steps": 2, **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_steps": 10, "save_every": 4}, r"`num_steps` is 10, which `save_every` 4 does not divide.* 8 or 12"),
        ({"num_steps": 0}, "`num_steps` is 0"),
        ({"num_steps": -1}, "`num_steps` is -1"),
        ({"num_steps": 2.0}, "`num_steps` is 2.0; wanted a whole number"),
        ({"save_every": 0}, "`save_every` is 0"),
        ({"dt": 0.0}, "`dt` is 0.0"),
        ({"dt": -0.001}, "`dt` is -0.001"),
        ({"dt": float("nan")}, "`dt` is nan"),
    ],
)
def test_steps(options, match):
    with pytest.raises(ValueError, match=match):
        run(**options)
    if "dt" not in options or options["dt"] != options["dt"]:
        return
    with pytest.raises(ValueError, match=match):
        rv.Dynamics(**{"num_steps": 2, **options})


@pytest.mark.parametrize(
    ("fast", "potential", "match"),
    [
        ((0,), SWITCHED, r"got the potential `LennardJones`; wanted a `rv\.Sum`.*`near \+ \(full - near\)`"),
        ((2,), SWITCHED + SWITCHED, r"`fast` is \(2,\), but the potential is a `rv\.Sum` of 2 parts.*from 0 to 1"),
        ((0, 7), SWITCHED + SWITCHED, r"`fast` is \(0, 7\), but"),
        ((1, 0), SWITCHED + SWITCHED, r"`fast` is \(1, 0\), all 2 parts of the potential, so that nothing is slow"),
    ],
)
def test_respa_with_parts_that_do_not_fit(fast, potential, match):
    with pytest.raises(ValueError, match=match):
        run(system=rv.System(argon_topology(), potential), solver=rv.Respa(2, fast))


def test_another_number_of_atoms():
    with pytest.raises(ValueError, match=r"positions of shape \(32, 3\); wanted \(108, 3\)"):
        run(system=rv.System(argon_topology(3), SWITCHED))


def test_a_batch_that_is_not_lifted():
    with pytest.raises(ValueError, match=r"shape \(2, 32, 3\).*`jax.vmap` over the states"):
        run(STATE.repeat(2))


TOO_LONG = rv.System(argon_topology(), lennard_jones(cutoff=0.6))


def test_cutoff_above_half_the_box():
    with pytest.raises(ValueError, match=r"The cutoff is 0.6 nm; wanted at most half .* 0.57799"):
        run(system=TOO_LONG)
    # heights, not lengths, of a skewed box
    skewed = rv.TriclinicBox(jnp.array([[1.2, 0, 0], [0.5, 1.2, 0], [0, 0, 1.2]]))
    with pytest.raises(ValueError, match=f"wanted at most half .* {float(jnp.min(skewed.heights)) / 2:.6g}"):
        run(
            rv.State(STATE.positions, STATE.velocities, skewed), rv.System(argon_topology(), lennard_jones(cutoff=0.58))
        )
    run(rv.State(STATE.positions, STATE.velocities, rv.OpenBox()), TOO_LONG)  # no images, no limit


def test_cutoff_above_half_the_box_under_jit():
    with pytest.raises(Exception, match=r"The cutoff is 0.6 nm"):
        jax.block_until_ready(
            jax.jit(lambda b: run(rv.State(STATE.positions, STATE.velocities, b), TOO_LONG))(argon_box())
        )


OVERLAPPING = STATE.positions.at[7].set(STATE.positions[3])


def test_overlapping_atoms():
    bad = rv.State(OVERLAPPING, STATE.velocities, STATE.box)
    match = r"energy is \w+ kJ/mol; wanted a finite number. The nearest two atoms are 3 and 7, 0 nm apart"
    with pytest.raises(FloatingPointError, match=match):
        run(bad)
    with pytest.raises(Exception, match=match):
        jax.block_until_ready(eqx.filter_jit(lambda s: run(s))(bad))
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), STATE, bad)
    with pytest.raises(Exception, match=r"atoms are 3 and 7"):
        jax.block_until_ready(jax.vmap(lambda s: run(s))(both))
    # across a face of the box
    image = rv.State(OVERLAPPING.at[7, 0].add(argon_length()), STATE.velocities, STATE.box)
    with pytest.raises(FloatingPointError, match=r"atoms are 3 and 7"):
        run(image)


def test_parameters_that_are_not_finite():
    potential = eqx.tree_at(lambda p: p.sigma, SWITCHED, jnp.array(jnp.nan))
    with pytest.raises(FloatingPointError, match=r"energy is nan.*parameters must be finite"):
        run(system=rv.System(argon_topology(), potential))


def test_positions_that_are_not_finite_under_jit():
    with pytest.raises(Exception, match="The positions are not finite"):
        jax.block_until_ready(
            jax.jit(lambda x: run(rv.State(x, STATE.velocities, STATE.box)))(STATE.positions.at[0, 0].set(jnp.nan))
        )


MATCH = r"exploded by step \d+ .*: its kinetic energy is .* kJ/mol, after .* at step \d+ and .* at the start"
FAST = rv.State(STATE.positions, 1e160 * STATE.velocities, STATE.box)  # whose square overflows soon


def test_exploding_trajectory():
    with pytest.raises(FloatingPointError, match=MATCH):
        run(FAST, num_steps=4)
    with pytest.raises(Exception, match=MATCH):
        jax.block_until_ready(eqx.filter_jit(lambda s: run(s, num_steps=4))(FAST))
    with pytest.raises(Exception, match=MATCH):
        jax.block_until_ready(eqx.filter_jit(jax.vmap(lambda s: run(s, num_steps=4)))(
            jax.tree.map(lambda a, b: jnp.stack([a, b]), STATE, FAST)
        ))  # fmt: skip
    assert not jnp.all(jnp.isfinite(run(FAST, num_steps=4, throw=False).final.velocities ** 2))


@pytest.mark.parametrize("dt", [0.1, 0.5])
def test_time_step_that_is_far_too_long(dt):
    """Atoms then overlap and are thrown out of the box, with energies that are finite but absurd."""
    with pytest.raises(FloatingPointError, match="exploded by step"):
        run(dt=dt, num_steps=400, save_every=100)


def test_sampler():
    sampler = rv.LangevinBAOAB(94.4, 1.0, dt=0.002, num_steps=2)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"wanted \(chains, atoms, 3\).*state.repeat"):
        sampler.sample(SYSTEM, STATE, 2, key=key)
    with pytest.raises(ValueError, match="`num_samples` is 3 of 2 chains; wanted a multiple"):
        sampler.sample(SYSTEM, STATE.repeat(2), 3, key=key)
    with pytest.raises(ValueError, match="`num_samples` is 0"):
        sampler.sample(SYSTEM, STATE.repeat(2), 0, key=key)
    with pytest.raises(ValueError, match="The cutoff is"):
        sampler.sample(TOO_LONG, STATE.repeat(2), 2, key=key)
    with pytest.raises(FloatingPointError, match=r"atoms are 3 and 7"):
        sampler.sample(SYSTEM, rv.State(OVERLAPPING, STATE.velocities, STATE.box).repeat(2), 2, key=key)


def test_one_bad_chain():
    sampler = rv.LangevinBAOAB(94.4, 1.0, dt=0.002, num_steps=2)
    bad = rv.State(OVERLAPPING, STATE.velocities, STATE.box)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), STATE, bad)
    with pytest.raises(FloatingPointError, match=r"of configuration 1 is .*atoms are 3 and 7"):
        sampler.sample(SYSTEM, both, 2, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.LangevinBAOAB(-1.0, 1.0, dt=0.1, num_steps=1), "`temperature` is -1.0"),
        (lambda: rv.LangevinBAOAB(np.nan, 1.0, dt=0.1, num_steps=1), "`temperature` is nan"),
        (lambda: rv.LangevinBAOAB(1.0, -1.0, dt=0.1, num_steps=1), "`friction` is -1.0"),
        (lambda: rv.LangevinBAOAB(1.0, 1.0, dt=0.0, num_steps=1), "`dt` is 0.0"),
        (lambda: rv.LangevinBAOAB(1.0, 1.0, dt=0.1, num_steps=0), "`num_steps` is 0"),
        (lambda: rv.RDF(0.0, 10), "`r_max` is 0.0"),
        (lambda: rv.RDF(1.0, 0), "`num_bins` is 0"),
        (lambda: rv.Einstein(1.0), "`start` is 1.0"),
        (lambda: rv.Einstein(-0.1), "`start` is -0.1"),
    ],
)
def test_impossible_objects(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_diffusion_needs_trajectories():
    samples, _ = rv.LangevinBAOAB(94.4, 1.0, dt=0.002, num_steps=1).sample(
        SYSTEM, STATE.repeat(2), 2, key=jax.random.key(0)
    )
    with pytest.raises(ValueError, match=r"wanted trajectories: `dynamics=rv\.Dynamics"):
        rv.expectation(rv.SelfDiffusion(), SYSTEM, samples)
    with pytest.raises(ValueError, match="wanted a scalar"):
        rv.expectation_gradients(rv.VACF(), SYSTEM, samples, dynamics=rv.Dynamics(dt=0.001, num_steps=1))


def test_nothing_is_wrong_with_good_input():
    assert jnp.all(jnp.isfinite(run().final.positions))
    assert jnp.all(jnp.isfinite(argon_positions()))
    assert CUTOFF < 0.5 * argon_length()


def test_exploded_chain():
    """Chains that blow up at a finite energy are refused as well."""
    sampler = rv.LangevinBAOAB(94.4, 1.0, dt=0.2, num_steps=100)
    with pytest.raises(FloatingPointError, match=r"\d of 2 samples come from chains that exploded: sample \d"):
        sampler.sample(SYSTEM, STATE.repeat(2), 2, key=jax.random.key(0))


def other_units():
    """Calls with units that are not ours, or arguments in another order, and what they are told."""
    argon = {"sigma": 0.338, "epsilon": 0.893795, "cutoff": 1.0}
    box = rv.OrthorhombicBox(jnp.full(3, 2.0))
    water = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0])
    times, dipoles = 0.5 * np.arange(400), np.cos(np.arange(1200.0)).reshape(400, 3)
    key = jax.random.key(0)
    return [
        (lambda: rv.System(SWITCHED, argon_topology()), r"a potential, `LennardJones`; .* `rv\.System\(topology, pot"),
        (
            lambda: rv.System(argon_topology(), rv.LennardJones),
            r"`potential` is .*such as `LennardJones\(\.\.\.\)`|wanted",
        ),
        (lambda: rv.LennardJones(**{**argon, "sigma": 3.38}), "Lengths are in nm: 3.38 Å are 0.338"),
        (lambda: run(system=rv.System(argon_topology(), rv.LennardJones(3.4, 1.0, cutoff=10.0))), "10 Å are 1"),
        (lambda: rv.fcc("Ar", 3, density=1.374), r"`1\.374 \* rv\.units\.GRAM_PER_CUBIC_CENTIMETER`, and of a gas `sp"),
        (
            lambda: rv.pack(water, np.zeros((3, 3)), 8, density=1.0, key=key),
            r"`1 \* rv\.units\.GRAM.* of a gas a `box`",
        ),
        (lambda: run(dt=1.0, num_steps=20), "Times are in ps: 1 fs are 0.001"),
        (lambda: rv.infrared(times, dipoles, 8.0, 300.0), r"resolves no more than 33\.36 1/cm; .*0\.5 fs are 0\.0005"),
        (lambda: rv.expectation(rv.Temperature, SYSTEM, None), r"`samples` is None"),
        (lambda: rv.pack(water, np.zeros((3, 3)), 8, box=box, key=0), r"such as `jax\.random\.key\(0\)`"),
    ]


@pytest.mark.parametrize("number", range(len(other_units())))
def test_other_units_and_orders(number):
    call, match = other_units()[number]
    with pytest.raises((TypeError, ValueError, rv.SimulationError), match=f"(?s){match}"):
        call()
