"""What of a model is trained, and training from labels: against finite differences, known parameters, and kills."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import SHARED, argon_length, argon_positions, argon_topology, assert_trees_close

import reverlet as rv

KEY = jax.random.key(0)
WATERS = rv.Topology.from_elements(["O", "H", "H"] * 4)


def eann(**options):
    return rv.EANN.fresh(WATERS, key=KEY, cutoff=0.5, num_radial=3, hidden=(8, 6), **options)


def names_of(tree):
    return {jax.tree_util.keystr(path).removeprefix(".") for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


# --- what is trained ------------------------------------------------------------------------------------------------


def squares(model, carry, key):
    del key
    return sum(jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))), (carry, None)


def moved(before, after):
    """The names of arrays that are others now."""
    flat = jax.tree_util.tree_leaves_with_path
    pairs = zip(flat(before), flat(after), strict=True)
    return {jax.tree_util.keystr(p).removeprefix(".") for (p, a), (_, b) in pairs if not np.array_equal(a, b)}


PICKS = {
    "function": (lambda m: m.amplitudes, {"amplitudes"}),
    "functions": (lambda m: (m.amplitudes, m.layers[1]), {"amplitudes", *(f"layers[1].{n}" for n in
                  ("weights", "bias", "scale", "shift", "height", "steepness"))}),
    "name": ("widths", {"widths"}),
    "part of a list": ("last[0]", {"last[0]"}),
    "pattern": (["*.bias", "offset"], {"layers[0].bias", "layers[1].bias", "offset"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKS)
def test_only_what_is_picked_moves(name):
    """Whatever the optimizer does: this one moves what has no gradient."""
    pick, wanted = PICKS[name]
    model = eann()
    fitted = rv.fit(squares, model, optax.adamw(0.1), num_steps=1, trainable=pick, positive="widths", key=KEY)
    assert moved(model, fitted.model) == wanted
    assert len(jax.tree.leaves(fitted.parameters)) == len(wanted)


def test_picks_that_are_none():
    fit = lambda pick: rv.fit(squares, eann(), optax.adam(0.1), num_steps=1, trainable=pick, key=KEY)
    with pytest.raises(ValueError, match=r"`trainable` names 'layer', which is nothing .* there are .*layers\[0\]"):
        fit("layer")
    with pytest.raises(ValueError, match="`trainable` picks nothing"):
        fit(lambda m: m.networks)
    with pytest.raises(ValueError, match=r"none that `trainable` picks is an array of floating-point numbers"):
        fit("kinds")
    rates = rv.per_parameter(optax.sgd, [("layers[0]", 0.1), (lambda m: m.offset, 1e-3)])
    after = rv.fit(squares, eann(), rates, num_steps=1, key=KEY).model
    assert {name.split(".")[0] for name in moved(eann(), after)} == {"layers[0]", "offset"}


def test_frozen_numbers_belong_to_a_fit(tmp_path):
    fit = lambda model, **options: rv.fit(squares, model, optax.adam(0.1), trainable="['a']", key=KEY, **options)
    model = {"a": jnp.ones(2), "b": jnp.array(2.0)}
    fit(model, num_steps=1, checkpoint=tmp_path / "fit")
    resume = {"num_steps": 2, "checkpoint": tmp_path / "fit", "resume": "auto"}
    with pytest.raises(rv.CheckpointError, match=r"`model\['b'\]` is float64\[\] "):
        fit({**model, "b": jnp.array(3.0)}, **resume)
    with pytest.raises(rv.CheckpointError, match="arrays are not those of this model"):
        rv.fit(squares, model, optax.adam(0.1), key=KEY, **resume)
    assert fit(model, **resume).step == 2


# --- low rank -------------------------------------------------------------------------------------------------------


def water_frames(num, scale=1.0):
    """Four waters in a cube of 1.2 nm, shaken; nm."""
    molecule = scale * np.array([[0, 0, 0], [0.096, 0, 0], [-0.024, 0.093, 0]])
    sites = np.array([[0.0, 0, 0], [0.31, 0, 0.05], [0, 0.32, 0], [0.3, 0.3, 0.3]])
    whole = (sites[:, None] + molecule).reshape(-1, 3)
    return whole + 0.004 * np.random.default_rng(0).normal(size=(num, 12, 3))


BOX = rv.OrthorhombicBox(jnp.full(3, 1.2))


def test_low_rank():
    """Nothing is changed at first; the slopes of energies and forces in the adapters, against differences."""
    potential, x = eann(), jnp.asarray(water_frames(1)[0])
    of = eqx.filter_jit(lambda p: (p.energy(x, BOX), p.forces(x, BOX)))
    adapted = rv.AdaptedPotential(rv.low_rank(potential, 2, key=KEY))
    assert adapted.adapted.names == (".layers[0].weights", ".layers[1].weights")  # stacks of elements
    assert_trees_close(adapted.adapted.merged(), potential, rtol=0)
    np.testing.assert_allclose(of(adapted)[0], of(potential)[0], rtol=1e-14)
    fitted = rv.fit(squares, adapted, optax.adamw(0.05), num_steps=2, trainable="*.adapters", key=KEY).model
    assert all(name.startswith("adapted.adapters") for name in moved(adapted, fitted))
    adapted, merged = fitted, fitted.adapted.merged()
    assert jax.tree.structure(merged) == jax.tree.structure(potential)
    assert moved(potential, merged) == {"layers[0].weights", "layers[1].weights"}
    tall, flat = jax.tree.leaves(adapted.adapted.adapters[0])
    product = np.einsum("eij,ejk->eik", tall, flat)
    np.testing.assert_allclose(merged.layers[0].weights, potential.layers[0].weights + product, rtol=1e-12)
    np.testing.assert_allclose(of(adapted)[1], of(merged)[1], rtol=1e-12)

    way = jax.random.normal(KEY, x.shape)
    weigh = lambda energy, forces: energy + jnp.sum(way * forces)
    slope = eqx.filter_jit(eqx.filter_grad(lambda p: weigh(p.energy(x, BOX), p.forces(x, BOX))))(adapted)
    assert not any(np.any(g) for g in jax.tree.leaves(slope.adapted.model))
    arrays, rest = eqx.partition(adapted.adapted.adapters, eqx.is_array)
    along = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=float)).reshape(a.shape), arrays)
    shifted = lambda h: eqx.tree_at(
        lambda p: p.adapted.adapters, adapted, eqx.combine(jax.tree.map(lambda a, b: a + h * b, arrays, along), rest)
    )
    f, h = (lambda h: weigh(*of(shifted(h)))), 1e-4
    difference = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
    told = sum(
        jnp.sum(a * b) for a, b in zip(jax.tree.leaves(slope.adapted.adapters), jax.tree.leaves(along), strict=True)
    )
    np.testing.assert_allclose(told, difference, rtol=1e-7)


def test_low_rank_of_any_module():
    layer = eqx.nn.MLP(9, 1, 12, 2, key=KEY)
    adapted = rv.low_rank(layer, 3, where="layers[1]", key=KEY)
    assert names_of(adapted.adapters) == {"[0].tall", "[0].flat"}
    assert adapted.merged()(jnp.ones(9)) == layer(jnp.ones(9))
    assert len(rv.low_rank(layer, 3, key=KEY).adapters) == 2  # the last has one row
    with pytest.raises(ValueError, match=r"no matrices of more than 200 rows"):
        rv.low_rank(layer, 100, key=KEY)
    with pytest.raises(ValueError, match=r"`rank` is 10, and `\.layers\[0\]\.weight` has shape \(12, 9\)"):
        rv.low_rank(layer, 10, where=lambda m: m.layers[0], key=KEY)


# --- labels ---------------------------------------------------------------------------------------------------------


def labels_of(potential, topology, positions, vectors, shift=0.0):
    """What the potential says, one frame after the other."""
    box = rv.OrthorhombicBox(jnp.diagonal(jnp.asarray(vectors)))
    x = jnp.asarray(positions)
    of = jax.jit(lambda x: (potential.energy(x, box), potential.forces(x, box), potential.stress(x, box)))
    energies, forces, stresses = (np.array(a) for a in zip(*map(of, x), strict=True))
    return rv.Labels(topology, positions, vectors, energies=energies + shift, forces=forces, stresses=stresses)


ARGON = argon_topology()
VECTORS = argon_length() * np.eye(3)
TRUE, GUESS = (
    rv.LennardJones(s, e, cutoff=0.55, truncation=rv.SmoothSwitch(0.4)) for s, e in ((0.34, 1.0), (0.33, 0.8))
)


@pytest.fixture(scope="module")
def argon():
    """Labels far from zero, as of electrons: in single precision their differences would be lost."""
    frames = np.stack([argon_positions(seed=k, jitter=0.03) for k in range(12)])
    return labels_of(TRUE, ARGON, frames, VECTORS, shift=-1e7).split(1 / 3, key=KEY)


def match(argon, epochs=4, **options):
    labels, validation = argon
    arguments = {"optimizer": optax.adam(2e-3), "batch_size": 4, "positive": "epsilon", "key": KEY, **options}
    return rv.force_matching(GUESS, labels, validation=validation, num_epochs=epochs, **arguments)


def test_parameters_are_found_again(argon):
    """From energies, forces and stresses; the constant of the energies as well."""
    weights = rv.training.LabelWeights(1.0, 1e-2, 1e-2)
    schedule = optax.exponential_decay(0.02, 2, 0.98)
    found = match(argon, 400, weights=weights, optimizer=optax.adam(schedule), patience=30)
    np.testing.assert_allclose(found.model.sigma, TRUE.sigma, rtol=1e-4)
    np.testing.assert_allclose(found.model.epsilon, TRUE.epsilon, rtol=2e-3)
    after, before = found.validation.after, found.validation.before
    assert after.forces < 5e-3 * before.forces
    assert after.stresses < 5e-3 * before.stresses
    assert abs(found.offset + 1e7) < 0.1
    history = found.state.history
    assert history.validation.forces.shape == (found.state.step,)
    np.testing.assert_allclose(history.validation.forces[found.best - 1], after.forces, rtol=1e-6)
    assert found.best == np.argmin(history.validation_loss) + 1
    assert found.state.step in (400, found.best + 30)


def test_a_step_is_that_of_finite_differences(argon):
    """One batch of all frames by plain descent, against differences of what `label_errors` tells."""
    labels = argon[1]
    rate, weights = 1e-7, rv.training.LabelWeights(2.0, 1e-3, 5e-3)
    found = rv.force_matching(
        GUESS, labels, optax.sgd(rate), validation=labels, num_epochs=1, batch_size=4, weights=weights, key=KEY
    )
    offset = float(np.mean(labels.energies - rv.training.predict_labels(GUESS, labels).energies))

    def loss(sigma, epsilon):
        model = eqx.tree_at(lambda m: (m.sigma, m.epsilon), GUESS, (jnp.asarray(sigma), jnp.asarray(epsilon)))
        errors = rv.training.label_errors(rv.training.predict_labels(model, labels, offset=offset), labels)
        return float(2 * errors.energies**2 + 1e-3 * errors.forces**2 + 5e-3 * errors.stresses**2)

    s, e, h = float(GUESS.sigma), float(GUESS.epsilon), 1e-5
    slopes = (loss(s + h, e) - loss(s - h, e)) / (2 * h), (loss(s, e + h) - loss(s, e - h)) / (2 * h)
    steps = found.state.model.sigma - GUESS.sigma, found.state.model.epsilon - GUESS.epsilon
    np.testing.assert_allclose(np.array(steps) / -rate, slopes, rtol=1e-5)


def test_a_loss_to_be_added_to_others(argon):
    """That of `label_errors` with the constant taken out, and its slope."""
    labels, weights = argon[1], rv.training.LabelWeights(2.0, 1e-3, 5e-3)
    loss = eqx.filter_jit(lambda model: rv.training.label_loss(model, labels, weights))
    value, slope = eqx.filter_value_and_grad(loss)(GUESS)
    predicted = rv.training.predict_labels(GUESS, labels)
    errors = rv.training.label_errors(predicted, labels)
    energy = np.std(predicted.energies - labels.energies) / 32
    np.testing.assert_allclose(value, 2 * energy**2 + 1e-3 * errors.forces**2 + 5e-3 * errors.stresses**2, rtol=1e-8)
    moved = lambda h: loss(eqx.tree_at(lambda m: m.sigma, GUESS, GUESS.sigma + h))
    np.testing.assert_allclose(slope.sigma, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-6)


def test_a_killed_training_goes_on_to_the_same_numbers(argon, tmp_path):
    def stop(state):
        if state.step == 2:
            raise KeyboardInterrupt

    whole = match(argon)
    kept = {"checkpoint": tmp_path / "fit", "resume": "auto"}
    with pytest.raises(KeyboardInterrupt):
        match(argon, callback=stop, **kept)
    resumed = match(argon, **kept)
    assert_trees_close(resumed.state, whole.state, rtol=0)
    assert_trees_close(resumed.model, whole.model, rtol=0)
    for options in ({"weights": rv.training.LabelWeights(2.0)}, {"batch_size": 3}):
        with pytest.raises(rv.CheckpointError, match=r"is of another fit: .*there"):
            match(argon, epochs=5, **{**kept, **options})
    with pytest.raises(rv.CheckpointError, match=r"`validation\.forces` is float64"):
        match((argon[0], argon[1][::-1]), epochs=5, **kept)


def test_forgetting_is_told_and_held_back(argon):
    """Trained from one potential's labels to another's, with and without the first ones beside."""
    old = labels_of(GUESS, ARGON, argon[1].positions, VECTORS, shift=50.0)
    options = {"original": old, "optimizer": optax.adam(5e-3), "epochs": 8}
    free, held = match(argon, forgetting=0.0, **options), match(argon, forgetting=30.0, **options)
    of_forces = rv.Labels(ARGON, old.positions, VECTORS, forces=old.forces)
    options["epochs"] = 1
    assert match(argon, **{**options, "original": of_forces}).original.after.energies is None
    assert free.original.before.forces < 1e-9  # a constant is no error
    assert free.original.before.energies < 1e-9
    assert free.original.after.forces > 3 * held.original.after.forces > 0
    assert free.validation.after.forces < held.validation.after.forces


def test_dipoles_are_learned():
    """Charges from dipoles of clusters; in a box, where a dipole has many values, from those too."""
    charges = lambda q: rv.PointCharges(
        rv.MolecularCharges(jnp.array([q]), jnp.array([-1, 0, 0] * 4), np.repeat(range(4), 3))
    )
    x = water_frames(6)
    dipoles = np.array([charges(0.4).moment(jnp.asarray(one), BOX) for one in x])
    for vectors, shift in ((None, 0.0), (1.2 * np.eye(3), np.array([1.2, -2.4, 0.0]))):
        labels = rv.Labels(WATERS, x, vectors, dipoles=dipoles + shift)
        found = rv.force_matching(
            charges(0.39), labels, optax.adam(1e-3), validation=labels, num_epochs=20, batch_size=3, key=KEY
        )
        np.testing.assert_allclose(found.model.charges.charges, 0.4, atol=2e-3)
        assert found.validation.after.dipoles < 0.2 * found.validation.before.dipoles
        with pytest.raises(ValueError, match="`labels` has dipoles, of which `LennardJones` has none; wanted energies"):
            rv.training.predict_labels(GUESS, labels)


def test_labels_of_another_model_are_refused(argon):
    with pytest.raises(ValueError, match="`EANN` is of 12 atoms, but there are 32"):
        rv.training.predict_labels(eann(), argon[0])
    fewer = rv.Labels(ARGON, argon[1].positions, VECTORS, forces=argon[1].forces)
    with pytest.raises(ValueError, match=r"`labels` has energies, forces, stresses and `validation` forces; wanted"):
        match((argon[0], fewer))
    with pytest.raises(ValueError, match=r"The cutoff of the model is 0\.6 nm and a box of `labels` is 1\.15"):
        rv.training.predict_labels(rv.LennardJones(0.34, 1.0, cutoff=0.6), argon[0])


def test_labels_that_are_none():
    x = water_frames(3)
    good = {"topology": WATERS, "positions": x, "vectors": 1.2 * np.eye(3), "energies": np.zeros(3), "forces": 0 * x}
    with pytest.raises(ValueError, match=r"`forces` has shape \(3, 11, 3\); wanted \(3, 12, 3\)"):
        rv.Labels(**{**good, "forces": x[:, 1:]})
    with pytest.raises(ValueError, match=r"`energies` holds 1 values that are not finite"):
        rv.Labels(**{**good, "energies": np.array([0, np.nan, 0])})
    with pytest.raises(ValueError, match="There are no labels"):
        rv.Labels(WATERS, x)
    with pytest.raises(ValueError, match="There are `stresses` and no `vectors`"):
        rv.Labels(WATERS, x, stresses=np.zeros((3, 3, 3)))
    with pytest.raises(ValueError, match="`stresses` are not symmetric"):
        rv.Labels(WATERS, x, 1.2 * np.eye(3), stresses=np.arange(27.0).reshape(3, 3, 3))
    labels = rv.Labels(**good)
    with pytest.raises(ValueError, match=r"`fraction` is 0\.1, of 3 frames; wanted some on both sides"):
        labels.split(0.1, key=KEY)
    with pytest.raises(ValueError, match=r"`labels` are not alike: .* energies, forces and .* with energies"):
        rv.Labels.concatenate([labels, rv.Labels(WATERS, x, 1.2 * np.eye(3), energies=np.zeros(3))])
    both = rv.Labels.concatenate([labels[:1], labels[[1, 2]]])
    assert_trees_close(both, labels, rtol=0)


def test_units_that_are_unlikely():
    """Springs between the atoms of waters, at 300 K or so, and what other units make of their labels."""
    x, rng = water_frames(40), np.random.default_rng(1)
    good = {"energies": 12 * rng.normal(size=40), "forces": 900 * rng.normal(size=x.shape)}
    rv.Labels(WATERS, x, **good).require_likely_units()
    units = rv.units
    wrong = {
        "Å: times `units.ANGSTROM`": (x / units.ANGSTROM, good),
        r"In eV/Å they .* by 964\.85": (x, {"forces": good["forces"] / (units.ELECTRONVOLT / units.ANGSTROM)}),
        "In hartree/bohr they": (x, {"forces": good["forces"] / (units.HARTREE / units.BOHR)}),
        "In kcal/mol/Å they": (x, {"forces": good["forces"] / (units.KILOCALORIE_PER_MOLE / units.ANGSTROM)}),
        "In kJ/mol/Å they": (x, {"forces": good["forces"] * units.ANGSTROM}),
        r"`energies` spread .* In eV they": (x, {**good, "energies": good["energies"] / units.ELECTRONVOLT}),
        r"`energies` spread .* In hartree they": (x, {**good, "energies": good["energies"] / units.HARTREE}),
    }
    for told, (positions, labels) in wrong.items():
        with pytest.raises(ValueError, match=told):
            rv.Labels(WATERS, positions, **labels).require_likely_units()


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waters():
    x, rng = water_frames(5), np.random.default_rng(2)
    stresses = rng.normal(size=(5, 3, 3))
    return rv.Labels(
        WATERS,
        x,
        1.2 * np.eye(3),
        energies=-1e5 + rng.normal(size=5),
        forces=900 * rng.normal(size=x.shape),
        stresses=stresses + np.swapaxes(stresses, 1, 2),
        dipoles=0.1 * rng.normal(size=(5, 3)),
    )


def folder_of(path, labels, flat=False):
    """As DeePMD-kit has it: Å, eV, and the virial as minus the derivative in the strain."""
    A, E = rv.units.ANGSTROM, rv.units.ELECTRONVOLT
    path.mkdir()
    arrays = {
        "coord": labels.positions / A,
        "box": labels.vectors / A,
        "energy": labels.energies / E,
        "force": labels.forces / (E / A),
        "virial": -labels.stresses * labels.volumes[:, None, None] / E,
        "dipole": labels.dipoles / A,
    }
    for k, part in enumerate((slice(0, 3), slice(3, None))):
        (path / f"set.00{k}").mkdir()
        for name, x in arrays.items():
            where = path / f"{name}_{k}.npy" if flat else path / f"set.00{k}" / f"{name}.npy"
            np.save(where, x[part].reshape(len(x[part]), -1) if x.ndim > 1 else x[part])
    if not flat:
        (path / "type.raw").write_text(" ".join("0" if e == "O" else "1" for e in WATERS.elements))
        (path / "type_map.raw").write_text("O\nH\n")
    else:
        for k in range(2):
            (path / f"set.00{k}").rmdir()
    return path


def test_folders_of_deepmd(waters, tmp_path):
    assert_trees_close(rv.io.read_labels(folder_of(tmp_path / "sets", waters)), waters, rtol=1e-12)
    flat = folder_of(tmp_path / "flat", waters, flat=True)
    assert_trees_close(rv.io.read_labels(flat, topology=WATERS), waters, rtol=1e-12)
    with pytest.raises(ValueError, match=r"flat cannot be read as labels: It has no `type\.raw`: give `topology`"):
        rv.io.read_labels(flat)
    with pytest.raises(ValueError, match=r"Its atom 1 is H, that of `topology` O"):
        rv.io.read_labels(tmp_path / "sets", topology=rv.Topology.from_elements(["O"] * 4 + ["H"] * 8))


def test_hostile_folders(waters, tmp_path):
    path = folder_of(tmp_path / "sets", waters)
    force = path / "set.000" / "force.npy"
    good = force.read_bytes()

    def refused(told):
        with pytest.raises(ValueError, match=told):
            rv.io.read_labels(path)

    np.save(force, np.array([{"__reduce__": print}] * 3, object), allow_pickle=True)
    refused("sets cannot be read as labels: .*allow_pickle|array of Python objects|memory-mapped")
    for cut in (10, 200, len(good) - 8):
        force.write_bytes(good[:cut])
        refused("cannot be read as labels")
    force.write_bytes(good.replace(b"(3, 36)", b"(9999999999, 36)"))
    refused("cannot be read as labels")
    np.save(force, np.zeros((2, 36)))
    refused(r"`force\.npy` has 2 frames, the coordinates 3")
    np.save(force, np.full((3, 36), np.nan))
    refused("`forces` holds 108 values that are not finite")
    force.write_bytes(good)
    (path / "type.raw").write_text("0 1 7 " + "0 1 1 " * 3)
    refused(r"`type\.raw` has types from 0 to 7, of 2 elements")
    (path / "set.000" / "box.npy").unlink()
    (path / "type.raw").write_text("0 1 1 " * 4)
    refused(r"It has no `box\.npy`, and no file `nopbc`")


def test_labels_of_ase(waters, tmp_path):
    """As ASE writes them, with its units and its sign of the stress."""
    ase = pytest.importorskip("ase")
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    A, E = rv.units.ANGSTROM, rv.units.ELECTRONVOLT
    frames = []
    for k in range(len(waters)):
        atoms = ase.Atoms(WATERS.elements, waters.positions[k] / A, cell=waters.vectors[k] / A, pbc=True)
        s = waters.stresses[k] / (E / A**3)
        known = {
            "energy": waters.energies[k] / E,
            "forces": waters.forces[k] / (E / A),
            "dipole": waters.dipoles[k] / A,
        }
        atoms.calc = SinglePointCalculator(atoms, stress=s[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], **known)
        frames.append(atoms)
    write(tmp_path / "labels.extxyz", frames)
    # text has 8 decimals
    read = rv.io.read_labels(tmp_path / "labels.extxyz")
    assert_trees_close(read, waters, rtol=1e-6, atol=1e-5)
    text = (tmp_path / "labels.extxyz").read_text()
    (tmp_path / "other.extxyz").write_text(text.replace(" energy=", " REF_energy=").replace(":forces:", ":REF_forces:"))
    other = rv.io.read_labels(tmp_path / "other.extxyz", prefix="REF_")
    np.testing.assert_array_equal(other.forces, read.forces)
    assert other.kinds == ("energies", "forces")
    (tmp_path / "torn.extxyz").write_text(text.replace(" energy=", " e=", 1))
    with pytest.raises(
        ValueError, match=r"torn\.extxyz cannot be read as labels: Frame 0 has no energies, which others"
    ):
        rv.io.read_labels(tmp_path / "torn.extxyz")


def test_labels_in_hdf5(waters, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "labels.h5"
    rv.io.write_labels(path, waters)
    assert_trees_close(rv.io.read_labels(path), waters, rtol=0)
    with h5py.File(path, "r+") as file:
        file["energies"].attrs["unit"] = np.array("eV", dtype="S")
    with pytest.raises(
        ValueError, match=r"labels\.h5 cannot be read as labels: Its `energies` has the unit 'eV', wanted"
    ):
        rv.io.read_labels(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"labels\.h5 cannot be read as labels"):
        rv.io.read_labels(path)


AIMD = SHARED / "data" / "water_aimd"


@pytest.mark.skipif(not AIMD.exists(), reason="without the labels of somebody else's first principles")
def test_published_potential_on_published_labels():
    """The network has been fitted to this functional, or one very near: units, signs and order of atoms are right."""
    topology = rv.Topology.from_elements(["O"] * 64 + ["H"] * 128)
    labels = rv.io.read_labels(AIMD, topology=topology)
    assert len(labels) == 400
    labels.require_likely_units()
    potential = rv.EANN.from_npz(SHARED / "data" / "water" / "eann_pbe0.npz", topology)
    predicted = rv.training.predict_labels(potential, labels[[0, 200]])
    forces, wanted = predicted.forces.ravel(), labels[[0, 200]].forces.ravel()
    assert np.corrcoef(forces, wanted)[0, 1] > 0.985
    assert np.sqrt(np.mean((forces - wanted) ** 2)) < 0.2 * np.std(wanted)
