"""Deep Dipoles and Deep Polarizabilities: laws, on networks of random weights; files, against one another."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, well

import reverlet as rv

COUNT = 4
WATERS = rv.Topology.from_elements(["O", "H", "H"] * COUNT)
BOX = rv.OrthorhombicBox(jnp.array([0.65, 0.7, 0.75]))
SMALL = {"elements": ("O", "H"), "cutoff": 0.3, "neurons": (4, 8), "axis": 3, "hidden": (6, 6)}


def _waters():
    """Molecules that are turned and bent at random, on a lattice."""
    rng = np.random.default_rng(0)
    shape = np.array([[0.0, 0, 0], [0.096, 0, 0], [-0.024, 0.093, 0]])
    turned = np.stack([shape @ np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(COUNT)])
    places = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 0.19
    return jnp.asarray((turned + places[:, None] + 0.01 * rng.normal(size=(COUNT, 3, 3))).reshape(-1, 3))


X = _waters()
V, W = jax.random.normal(jax.random.key(1), (2, *X.shape))
DIPOLE = rv.DeepDipole.fresh(WATERS, X, BOX, charges=(-2.0, 1.0), centers=("O",), key=jax.random.key(2), **SMALL)
POLAR = rv.DeepPolarizability.fresh(WATERS, X, BOX, key=jax.random.key(3), **SMALL)
MODELS = {"dipole": DIPOLE, "polarizability": POLAR}
models = pytest.mark.parametrize("name", MODELS)


def value(model, x, box=BOX, neighbors=None):
    of = model.moment if isinstance(model, rv.DeepDipole) else model.polarizability
    return of(x, box, neighbors=neighbors)


@eqx.filter_jit
def evaluated(model, x, box=BOX, neighbors=None):
    return value(model, x, box, neighbors)


@models
def test_turns_with_the_atoms(name):
    """In an open box, so that the whole can be turned; and is no constant."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    model = MODELS[name]
    here, there = (evaluated(model, x, rv.OpenBox()) for x in (X, X @ turn.T))
    wanted = turn @ here if name == "dipole" else turn @ here @ turn.T
    np.testing.assert_allclose(there, wanted, rtol=0, atol=1e-12 * np.abs(here).max())
    moved = evaluated(model, X + 0.01 * V, rv.OpenBox())
    assert np.abs(moved - here).max() > 1e-3 * np.abs(here).max()
    if name == "polarizability":
        np.testing.assert_array_equal(here, here.T)


@models
def test_atoms_alike_are_exchanged(name):
    """Also those of other molecules: there is nothing but elements."""
    order = np.arange(3 * COUNT)
    order[[0, 3]], order[[1, 8]] = order[[3, 0]], order[[8, 1]]
    here, there = evaluated(MODELS[name], X), evaluated(MODELS[name], X[order])
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-13 * np.abs(here).max())


@models
def test_lists_change_nothing(name):
    search = rv.CellList.fit(X, BOX, cutoff=0.3, skin=0.02, per_atom=True)
    neighbors = search.find(X, BOX)
    moved = X + 1e-3 * V
    wanted = evaluated(MODELS[name], moved)
    np.testing.assert_allclose(evaluated(MODELS[name], moved, BOX, neighbors), wanted, rtol=1e-11, atol=1e-14)


@models
def test_derivatives(name):
    """The first and the second in the positions, and those in every parameter, against finite differences."""
    parameters, static = eqx.partition(MODELS[name], eqx.is_inexact_array)
    along = jax.tree.map(lambda a: jnp.cos(1.0 + jnp.arange(a.size, dtype=float)).reshape(a.shape), parameters)
    leaves = jax.tree.leaves(parameters)

    def observable(t, s):
        moved = jax.tree.map(lambda a, b: a + 0.01 * t * b, parameters, along)
        out = value(eqx.combine(moved, static), X + 1e-3 * (t * V + s * W))
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=float)).reshape(out.shape)) / 1e-3

    first, second = jax.jit(jax.grad(observable)), jax.jit(jax.grad(jax.grad(observable), 1))
    h, e = 1e-3, jax.jit(observable)
    slope = lambda f: (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
    assert min(abs(first(0.0, 0.0)), abs(second(0.0, 0.0))) > 1e-4
    np.testing.assert_allclose(first(0.0, 0.0), slope(lambda t: e(t, 0.0)), rtol=1e-8)
    np.testing.assert_allclose(second(0.0, 0.0), slope(lambda s: first(0.0, s)), rtol=1e-8)
    # "live": nothing is without influence but the means of rows, which are parameters of published models
    slopes = jax.tree.leaves(jax.jit(jax.grad(lambda p: jnp.sum(value(eqx.combine(p, static), X) ** 2)))(parameters))
    assert all(np.any(g != 0) for g in slopes)
    assert len(slopes) == len(leaves)


def test_charges_and_currents():
    """Born charges add up to the charge, and the current is what finite differences of the moment say."""
    charged = rv.DeepDipole(DIPOLE.descriptor, DIPOLE.fittings, charges=(-2.0, 1.5), scale=0.01)
    of = eqx.filter_jit(lambda dipole: dipole.born_charges(X, BOX))
    neutral, born = of(DIPOLE), of(charged)
    np.testing.assert_allclose(jnp.sum(neutral, axis=0), np.zeros((3, 3)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(born, axis=0), COUNT * np.eye(3), rtol=0, atol=1e-12)
    current = eqx.filter_jit(DIPOLE.current)(X, V, BOX)
    np.testing.assert_allclose(current, jnp.einsum("abc,ac->b", neutral, V), rtol=1e-12)
    known = central_difference(lambda x: evaluated(DIPOLE, x), X, V, 1e-6)
    np.testing.assert_allclose(current, known, rtol=1e-8)
    rate = eqx.filter_jit(POLAR.rate)(X, V, BOX)
    np.testing.assert_allclose(rate, central_difference(lambda x: evaluated(POLAR, x), X, V, 1e-6), rtol=1e-7)


@pytest.mark.slow
def test_adjoint():
    """The current of a dipole as the record, with respect to every parameter and the start."""

    def loss(both, adjoint):
        dipole, potential, x = both
        system = rv.System(WATERS, potential, dipole)

        def record(system, state, initial):
            return system.dipole.current(state.positions, state.velocities, state.box)

        start = rv.State(x, V, BOX)
        currents = rv.nve(system, start, dt=0.001, num_steps=4, save_every=2, adjoint=adjoint, record=record).records
        return jnp.sum(currents[1:] * currents[:-1])

    small = SMALL | {"neurons": (2,), "axis": 1, "hidden": (3,)}
    dipole = rv.DeepDipole.fresh(WATERS, X, BOX, charges=(-2.0, 1.0), centers=("O",), key=jax.random.key(4), **small)
    both = dipole, well(), X
    slopes = [
        eqx.filter_jit(eqx.filter_grad(loss))(both, adjoint)
        for adjoint in (rv.ReversibleAdjoint(), diffrax.DirectAdjoint())
    ]
    for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())
    assert all(np.any(x != 0) for x in jax.tree.leaves(slopes[0][0]))  # the dipole's


def test_rows_are_scaled_to_the_configuration():
    """Of every center and neighbor: mean squares of one of s, and of s x/r, s y/r and s z/r together of three."""
    d, box = DIPOLE.descriptor, np.asarray(BOX.lengths)
    step = np.asarray(X)[None] - np.asarray(X)[:, None]
    step -= box * np.round(step / box)
    r = np.linalg.norm(step, axis=-1) * 10
    u = np.clip((r - 0.5) / 2.5, 0, 1)
    with np.errstate(divide="ignore"):
        s = np.where((r > 0) & (r < 3), (1 - 10 * u**3 + 15 * u**4 - 6 * u**5) / r, 0)
    hydrogen = np.arange(3 * COUNT) % 3 > 0
    for kind, of_kind in enumerate((~hydrogen, hydrogen)):
        found = s[~hydrogen][:, of_kind]
        mean = np.mean(found[found > 0] ** 2)
        np.testing.assert_allclose(d.deviation[0, kind] ** 2, mean * np.array([1, 1 / 3, 1 / 3, 1 / 3]), rtol=1e-12)
        assert d.slots[kind] == np.ceil(np.sum(found > 0) / COUNT)


@pytest.mark.usefixtures("without_type_checks")
def test_what_is_not_fresh():
    make = lambda **changes: rv.DeepDipole.fresh(
        **{"topology": WATERS, "positions": X, "box": BOX, "charges": (-2.0, 1.0), "key": jax.random.key(0), **SMALL}
        | changes
    )
    wrong = {
        "parameters of O, C": {"elements": ("O", "C")},
        "`charges` has shape": {"charges": (1.0,)},
        "`charges` holds 1 values that are not finite": {"charges": (1.0, np.nan)},
        "`centers` is": {"centers": ("C",)},
        "`centers` is 'O'": {"centers": "O"},
        "`onset` is 0.3 nm; wanted a distance below": {"onset": 0.3},
        "`cutoff` is 0.5": {"cutoff": 0.5},
        "`axis` is 9; wanted at most the width": {"axis": 9},
        "`neurons` is 0": {"neurons": (0,)},
        "`scale` is 0": {"scale": 0.0},
        "`positions` has shape": {"positions": X[:3]},
        "`key` is 0": {"key": 0},
        "`hidden` is": {"hidden": ()},
    }
    for told, changes in wrong.items():
        with pytest.raises((ValueError, TypeError), match=told):
            make(**changes)
    with pytest.raises(ValueError, match="`DeepDipole` is of 12 atoms"):
        DIPOLE.moment(X[:3], BOX)
    with pytest.raises(ValueError, match="`DeepPolarizability` is of 12 atoms"):
        POLAR.polarizability(X[:3], BOX)
