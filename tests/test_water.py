"""The models of water: what they are made of, and that they keep their energy."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv

MODELS = {make.__name__: make for make in (rv.WaterModel.qspcfw, rv.WaterModel.spcfw, rv.WaterModel.flexible_tip3p)}
BOX = rv.OrthorhombicBox(jnp.full(3, 1.2385))
WATER = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
SHAPE = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]])


@pytest.mark.parametrize("name", MODELS)
def test_parts(name):
    system = MODELS[name]().system(8, BOX)
    potential = system.potential
    charges = potential.part(rv.Ewald).charges
    np.testing.assert_allclose(jax.ops.segment_sum(charges.values, system.topology.molecules), 0, atol=1e-15)
    assert potential.part(rv.HarmonicBond).bonds.shape == (16, 2)
    assert potential.part(rv.HarmonicAngle).angles.shape == (8, 3)
    np.testing.assert_array_equal(potential.part(rv.Among).atoms, 3 * np.arange(8))
    # a molecule by itself, in its own geometry, in a large box: the energy is that of its images' dipoles only
    large = rv.OrthorhombicBox(jnp.full(3, 6.0))
    one = MODELS[name]().system(1, large, accuracy=1e-7)
    length, angle = one.potential.part(rv.HarmonicBond).length, one.potential.part(rv.HarmonicAngle).angle
    x = length * jnp.array([[0, 0, 0], [1, 0, 0], [jnp.cos(angle), jnp.sin(angle), 0]])
    moment = one.dipole.moment(x, large)
    # Makov and Payne: -2π/3 M²/V for conducting surroundings; higher multipoles fall with the fifth power of the edge
    wanted = -2 * math.pi / 3 * rv.units.COULOMB * jnp.sum(moment**2) / 6**3
    np.testing.assert_allclose(one.potential_energy(x, large), wanted, rtol=1e-2)


def test_in_an_open_box():
    """A dimer: as in a large periodic box but for its images; without a cutoff."""
    x = jnp.concatenate([SHAPE, SHAPE + jnp.array([0.28, 0.05, 0.02])])
    large, model = rv.OrthorhombicBox(jnp.full(3, 8.0)), rv.WaterModel.qspcfw()
    alone = model.system(2, rv.OpenBox()).potential_energy(x, rv.OpenBox())
    system = model.system(2, large, cutoff=3.9, accuracy=1e-7)
    moment = system.dipole.moment(x, large)
    images = -2 * math.pi / 3 * rv.units.COULOMB * jnp.sum(moment**2) / 8**3
    np.testing.assert_allclose(alone, system.potential_energy(x, large) - images, atol=3e-4)
    with pytest.raises(ValueError, match="where all pairs interact"):
        model.system(2, rv.OpenBox(), cutoff=0.9)


def test_constants_of_the_literature():
    potential = rv.qspcfw(2, BOX).potential
    # as in the table of Paesani et al., converted by hand
    np.testing.assert_allclose(potential.part(rv.HarmonicBond).stiffness, 443153.3808, rtol=1e-9)
    np.testing.assert_allclose(potential.part(rv.HarmonicAngle).stiffness, 317.5656, rtol=1e-9)
    np.testing.assert_allclose(potential.part(rv.HarmonicAngle).angle, 1.9547687622336491, rtol=1e-12)
    np.testing.assert_allclose(potential.part(rv.Among).potential.epsilon, 0.6502990368, rtol=1e-6)
    np.testing.assert_allclose(potential.part(rv.Ewald).charges.values[:3], [-0.84, 0.42, 0.42], rtol=1e-12)


def test_one_model_for_boxes_of_two_sizes():
    """The gradient with respect to the model is that of the potentials and dipoles of all systems made of it."""
    model = rv.WaterModel.spcfw()
    boxes = {2: rv.OrthorhombicBox(jnp.full(3, 0.9)), 3: BOX}
    positions = {n: (SHAPE + 0.3 * jnp.arange(n)[:, None, None]).reshape(-1, 3) for n in boxes}

    @jax.jit
    def loss(model):
        total = 0.0
        for n, box in boxes.items():
            system = model.system(n, box)
            total += system.potential_energy(positions[n], box) * jnp.sum(system.dipole.moment(positions[n], box))
        return total

    slopes = jax.jit(jax.grad(loss))(model)
    for name in ("charge", "sigma", "epsilon", "stiffness", "length", "angle_stiffness", "angle"):
        value = getattr(model, name)
        moved = lambda h, name=name, value=value: loss(eqx.tree_at(lambda m: getattr(m, name), model, value * (1 + h)))
        numeric = (moved(1e-5) - moved(-1e-5)) / (2e-5 * value)
        # relative steps: their square times powers of 12 and 6 at most, 1e-8; rounding 1e-16/1e-5
        np.testing.assert_allclose(getattr(slopes, name), numeric, rtol=1e-6, atol=1e-6 * abs(float(loss(model))))


def test_bad_input(without_type_checks):
    model = rv.WaterModel.qspcfw()
    for topology in (
        rv.Topology.from_elements(["Ar"] * 3),
        rv.Topology.from_elements(["O", "H", "H"]),
        rv.Topology.from_elements(["H", "O", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (1, 2)]),
        rv.Topology.from_elements(["O", "H", "H", "O"], molecules=[0, 0, 0, 1], bonds=[(0, 1), (0, 2)]),
    ):
        with pytest.raises(ValueError, match="no water as it knows it"):
            model.bind(topology, BOX)
    assert model.bind(WATER, BOX).topology.num_atoms == 3
    with pytest.raises(ValueError, match="A model has one of each"):
        rv.WaterModel(0.4, jnp.ones(2), 0.6, 1.0, 0.1, 1.0, 1.9)
    with pytest.raises(ValueError, match="wanted a whole number, at least 1"):
        rv.qspcfw(0, BOX)
    with pytest.raises(ValueError, match="half the smallest height"):
        rv.qspcfw(2, BOX, cutoff=0.7)
    with pytest.raises(ValueError, match="There are 0 parts of type `MorseBond` among HarmonicBond, HarmonicAngle"):
        rv.qspcfw(2, BOX).potential.part(rv.MorseBond)


@pytest.mark.slow
def test_one_parameter_has_two_uses_and_one_gradient():
    """The charge of hydrogen moves atoms and makes the dipole; its gradient has both."""
    box = rv.OrthorhombicBox(jnp.full(3, 0.9))
    system = rv.qspcfw(2, box, accuracy=1e-5, truncation=rv.SmoothSwitch(0.4))
    x = jnp.concatenate([SHAPE, SHAPE + jnp.array([0.3, 0.1, 0.05])])
    v = rv.maxwell_boltzmann(system.topology, 300.0, key=jax.random.key(0))
    state, charge = rv.State(x, v, box), lambda s: s.potential.part(rv.Ewald).charges.charges
    spectrum = rv.InfraredSpectrum(jnp.array([0.0]), rv.spectra.CutoffWindow(0.001), dipole=rv.PointCharges.of)

    @jax.jit
    def loss(q):
        changed = eqx.tree_at(charge, system, q[None])
        records = rv.nve(changed, state, dt=0.0005, num_steps=20, record=spectrum.record, throw=False).records
        return jnp.sum(records[-1] ** 2)

    slope = jax.grad(loss)(jnp.asarray(0.42))
    numeric = (loss(jnp.asarray(0.42 + 1e-5)) - loss(jnp.asarray(0.42 - 1e-5))) / 2e-5
    # truncation: step² times a third derivative, 1e-8 of the slope; rounding 1e-16/1e-5
    np.testing.assert_allclose(slope, numeric, rtol=1e-7)


def test_gradient_of_a_spectral_loss_by_finite_differences():
    """A melting crystal, 0.03 ps: all four parameters of the fit, through the forces and through the dipole."""
    box, corners = rv.OrthorhombicBox(jnp.full(3, 0.62)), 0.31 * np.indices((2, 2, 2)).reshape(3, 8).T
    base = rv.qspcfw(8, box, accuracy=1e-8)
    v = rv.maxwell_boltzmann(base.topology, 298.15, key=jax.random.key(1))
    start = rv.State((corners[:, None] + SHAPE).reshape(24, 3), v, box)
    spectrum = rv.InfraredSpectrum(
        np.arange(0.0, 4001.0, 50.0), rv.spectra.CutoffWindow(0.03), dipole=rv.PointCharges.of
    )
    places = lambda s: (
        s.potential.part(rv.Ewald).charges.charges,
        s.potential.part(rv.Among).potential.sigma,
        s.potential.part(rv.HarmonicBond).stiffness,
        s.potential.part(rv.HarmonicAngle).stiffness,
    )
    values = jnp.array([jnp.squeeze(x) for x in places(base)])

    @jax.jit
    def loss(logarithms):
        charge, *others = jnp.exp(logarithms)
        system = eqx.tree_at(places, base, (charge[None], *others))
        trajectory = rv.nve(system, start, dt=0.0005, num_steps=60, record=spectrum.record, throw=False)
        value = spectrum.reduce(trajectory.times, trajectory.records[None], jnp.ones(1), rv.NVT(298.15))
        return jnp.sum((value / 1e4 - 0.3) ** 2)

    at = jnp.log(values)
    got = jax.jit(jax.grad(loss))(at)
    step = 1e-5  # truncation and rounding below 1e-5; so are the jumps of Ewald's force
    wanted = [(loss(at + step * e) - loss(at - step * e)) / (2 * step) for e in jnp.eye(4)]
    np.testing.assert_allclose(got, wanted, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("accuracy", "most"), [(1e-4, 1e-3), (1e-6, 1e-4)])
def test_energy_is_conserved(accuracy, most):
    """64 waters, 10 ps at 0.5 fs: the drift in kJ/mol per atom is that of Ewald's jumps at the cutoff."""
    system = rv.qspcfw(64, BOX, accuracy=accuracy)
    _, packed = rv.pack(WATER, SHAPE, 64, box=BOX, key=jax.random.key(0))
    start = rv.minimize(system, packed).state.repeat(1)
    samples, _ = rv.LangevinBAOAB(298.15, 5.0, dt=0.0005, num_steps=4000).sample(
        system, start, 1, key=jax.random.key(1)
    )
    state = jax.tree.map(lambda a: a[0], samples.states)
    record = rv.TotalEnergy().record
    trajectory = rv.nve(system, state, dt=0.0005, num_steps=20_000, save_every=2, record=record)
    energies = np.asarray(trajectory.records) / 192
    # velocity Verlet's energy fluctuates by 2e-3 with the vibrations; ten thousand values leave 7e-5 of that in a slope
    drift = np.polyfit(np.asarray(trajectory.times), energies, 1)[0] * 10
    assert abs(drift) < most
