"""Many-body surfaces: against published numbers, other engines, finite differences, and one another."""

import json
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CUTOFF, SHARED, argon_state
from jaxtyping import Array

import reverlet as rv

REFERENCE, WATER = SHARED / "reference", SHARED / "data" / "water"
published = pytest.mark.skipif(not WATER.exists(), reason="without the published weights")


energy_of = eqx.filter_jit(lambda potential, x, box: potential.energy(x, box))


def waters(n):
    return rv.Topology.from_elements(["O", "H", "H"] * n)


@published
def test_published_eann():
    known = np.load(REFERENCE / "eann_water64.npz")
    topology = rv.Topology.from_elements([("H", "O")[k] for k in known["species"]])
    potential = rv.EANN.from_npz(WATER / "eann_pbe0.npz", topology)
    positions = jnp.asarray(known["positions_A"] * 0.1)
    box = rv.OrthorhombicBox(jnp.asarray(known["box_A"]).diagonal() * 0.1)
    calculate = eqx.filter_jit(lambda p, x, box: (p.energies(x, box), p.energy(x, box), p.forces(x, box)))
    energies, energy, forces = calculate(potential, positions, box)
    np.testing.assert_allclose(energies, known["atomic_energy"], rtol=1e-9)
    np.testing.assert_allclose(energy, known["energy"], rtol=1e-9)
    np.testing.assert_allclose(forces * 0.1, known["forces"], atol=1e-8 * np.abs(known["forces"]).max())


@published
def test_published_deep_dipole():
    known = np.load(REFERENCE / "deepdipole_water64.npz")
    topology = rv.Topology.from_elements([("O", "H")[k] for k in known["atype"]])
    dipole = rv.DeepDipole.from_npz(WATER / "deepdipole_weights.npz", WATER / "deepdipole_hyper.json", topology)
    positions, box = jnp.asarray(known["positions_nm"]), rv.OrthorhombicBox(jnp.asarray(known["box_nm"]).diagonal())
    calculate = eqx.filter_jit(lambda dipole, x, box: (dipole.displacements(x, box), dipole.born_charges(x, box)))
    displacements, charges = calculate(dipole, positions, box)
    np.testing.assert_allclose(displacements, known["wannier_per_molecule"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(charges, np.moveaxis(known["dipole_gradient"], 1, 0), rtol=0, atol=1e-11)
    np.testing.assert_allclose(jnp.sum(charges, axis=0), np.zeros((3, 3)), atol=1e-11)


def diamond(constant, cells=2):
    """Positions of both sublattices of diamond's structure, nm; every second atom is of the second."""
    basis = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    both = np.stack([basis, basis + 0.25], axis=1).reshape(-1, 3)
    corners = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    return jnp.asarray(((corners + both) * constant).reshape(-1, 3)), rv.OrthorhombicBox(jnp.full(3, cells * constant))


def elastic_constants(potential, constant):
    """C11, C12, C44 and C44 with clamped sublattices, GPa, from derivatives in strain and the sublattices' shift."""
    positions, box = diamond(constant)
    second = jnp.arange(len(positions)) % 2

    def energy(y):
        xx, yy, yz = y[:3]
        strain = jnp.diag(jnp.array([1.0, 0, 0])) * xx + jnp.diag(jnp.array([0, 1.0, 0])) * yy
        strain = strain + yz * jnp.zeros((3, 3)).at[1, 2].set(0.5).at[2, 1].set(0.5)
        return potential.strained_energy(strain, positions + second[:, None] * y[3:], box)

    h = jax.jit(jax.hessian(energy))(jnp.zeros(6)) / box.volume / (1e4 * rv.units.BAR)
    clamped, mixed, inner = h[:3, :3], h[:3, 3:], h[3:, 3:]
    relaxed = clamped - mixed @ jnp.linalg.solve(inner, mixed.T)
    return np.array([relaxed[0, 0], relaxed[0, 1], relaxed[2, 2], clamped[2, 2]])


def test_silicon_of_stillinger_and_weber():
    """Lattice energy of the publication; elastic constants as of H. Balamane et al., Phys. Rev. B 46, 2250 (1992)."""
    silicon = rv.StillingerWeber.silicon()
    np.testing.assert_allclose(elastic_constants(silicon, 0.5431), [151.4, 76.4, 56.4, 109.7], rtol=2e-3)
    positions, box = diamond(0.54310)
    energy = energy_of(silicon, positions, box) / len(positions)
    np.testing.assert_allclose(energy, -2 * silicon.epsilon, rtol=1e-5)


def test_cubic_ice_of_molinero_and_moore():
    """No angle of a perfect tetrahedron costs energy, so that a molecule has two of the least pair energies, 6.189
    kcal/mol each at 2^(1/6) 2.3925 Å as published; and a wrong angle costs λ ε."""
    kcal = 4.184
    positions, box = diamond(4 / np.sqrt(3) * 2 ** (1 / 6) * 0.23925)
    energy = energy_of(rv.StillingerWeber.water(), positions, box) / len(positions)
    np.testing.assert_allclose(energy, -2 * 6.189 * kcal, rtol=1e-5)
    r = 2 ** (1 / 6) * 0.23925
    three = jnp.array([[0.0, 0.0, 0.0], [r, 0.0, 0.0], [-r, 0.0, 0.0]])
    decay = np.exp(2 * 1.2 / (2 ** (1 / 6) - 1.8))  # γ = 1.2, a = 1.8
    bent = (23.15 * decay * (-1 + 1 / 3) ** 2 - 2) * 6.189 * kcal
    np.testing.assert_allclose(energy_of(rv.StillingerWeber.water(), three, rv.OpenBox()), bent, rtol=1e-5)


def test_silicon_of_tersoff():
    """Lattice energy and elastic constants of the publication: -4.63 eV; 142, 75, 69 and 119 GPa."""
    silicon = rv.Tersoff.silicon()
    positions, box = diamond(0.5432)
    assert abs(energy_of(silicon, positions, box) / len(positions) / rv.units.ELECTRONVOLT + 4.63) < 0.005
    np.testing.assert_allclose(elastic_constants(silicon, 0.5432), [142, 75, 69, 119], atol=1)
    positions, box = diamond(0.3566)
    assert abs(energy_of(rv.Tersoff.carbon(), positions, box) / len(positions) / rv.units.ELECTRONVOLT + 7.37) < 0.005


# --- laws of all surfaces that look at neighborhoods, on the 32 atoms of the tables --------------------------------


KEY = jax.random.key(0)
MIXED = rv.Topology.from_elements(["C", "H"] * 16)


def squares(parameters, positions, box, edges):
    del positions, box
    near = jnp.where(edges.mask, (1 - jnp.sum(edges.d**2, axis=-1) / CUTOFF**2) ** 3, 0)
    return parameters["k"] * jnp.sum(jnp.sum(near, axis=1) ** 2)


NETWORKS = {
    "EANN": lambda topology: rv.EANN.fresh(topology, key=KEY, cutoff=CUTOFF, num_radial=4, hidden=(8, 8)),
    "message passing": lambda topology: rv.MessagePassing.fresh(
        topology, key=KEY, cutoff=CUTOFF, num_radial=3, num_channels=4
    ),
}
SURFACES = {
    "Stillinger-Weber": rv.StillingerWeber(2.0, 0.27, cutoff=CUTOFF),
    "Tersoff": rv.Tersoff(9e3, 3e3, 18.0, 12.0, 0.1, 0.8, 2.0, 1.0, -0.4, onset=0.2, cutoff=CUTOFF),
    "function": rv.FunctionPotential(squares, {"k": jnp.array(1.5)}, cutoff=CUTOFF),
    **{name: make(MIXED) for name, make in NETWORKS.items()},
}
surfaces = pytest.mark.parametrize("name", SURFACES)
PARAMETERS = {"s": jnp.array(0.3), "e": jnp.array(1.2)}


@surfaces
def test_derivatives(name):
    """Forces, and the derivative of a force along a motion, with respect to positions and every parameter."""
    potential, state = SURFACES[name], argon_state()
    box, x = state.box, state.positions
    v, w = jax.random.normal(jax.random.key(1), (2, *x.shape))
    parameters, static = eqx.partition(potential, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(parameters)
    along = jax.tree.unflatten(
        treedef, [jnp.cos(1.0 + jnp.arange(a.size, dtype=float)).reshape(a.shape) * abs(a).max() for a in leaves]
    )

    def energy(t, s):
        moved = jax.tree.map(lambda a, b: a + 0.01 * t * b, parameters, along)
        return eqx.combine(moved, static).energy(x + 1e-2 * (t * v + s * w), box)

    both, second = jax.jit(jax.value_and_grad(energy)), jax.jit(jax.grad(jax.grad(energy), 1))
    e, first = (lambda t, s: both(t, s)[0]), (lambda t, s: both(t, s)[1])
    assert min(abs(first(0.0, 0.0)), abs(second(0.0, 0.0))) > 1e-4  # there is something to compare
    h = 1e-3  # of motions of 1e-2 nm
    slope = lambda f: (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
    # the second derivative of Tersoff's switch jumps at both its ends
    rtol = 1e-6 if name == "Tersoff" else 1e-8
    np.testing.assert_allclose(first(0.0, 0.0), slope(lambda t: e(t, 0.0)), rtol=rtol)
    # a difference of slopes is rounded to as much as they are, over h
    atol = 20 * np.finfo(float).eps / h * abs(first(0.0, 0.0))
    np.testing.assert_allclose(second(0.0, 0.0), slope(lambda s: first(0.0, s)), rtol=rtol, atol=atol)


@surfaces
def test_lists_change_nothing(name):
    potential, state = SURFACES[name], argon_state(3)
    if name in NETWORKS:
        potential = NETWORKS[name](rv.Topology.from_elements(["C", "H"] * 54))
    search = rv.CellList.fit(state.positions, state.box, cutoff=CUTOFF, skin=0.05, per_atom=True)
    neighbors = search.find(state.positions, state.box)
    of = jax.jit(
        lambda x, neighbors: (
            potential.energy(x, state.box, neighbors=neighbors),
            potential.forces(x, state.box, neighbors=neighbors),
        )
    )
    moved = state.positions + 0.01 * jax.random.normal(jax.random.key(2), state.positions.shape) / 3
    for a, b in zip(of(moved, neighbors), of(moved, None), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@surfaces
def test_symmetries(name):
    """Rotations, reflections and translations change no energy, nor does another order of atoms of an element."""
    potential, state = SURFACES[name], argon_state()
    x, energy = state.positions, eqx.filter_jit(potential.energy)
    turned = x @ jnp.linalg.qr(jax.random.normal(KEY, (3, 3)))[0]
    others = jnp.arange(len(x)).reshape(-1, 2)[::-1].reshape(-1)
    for box, variants in ((rv.OpenBox(), [turned, x + 5, x[others]]), (state.box, [x + 0.7, x[others]])):
        for y in variants:
            np.testing.assert_allclose(energy(y, box), energy(x, box), rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in SURFACES if name != "Tersoff"])  # whose second derivatives jump
def test_smooth_to_second_order(name):
    """The second derivative has no jump where an atom leaves another's neighborhood."""
    lonely = 10.0 * jnp.arange(32.0)[:, None] * jnp.ones(3)

    def energy(r):
        near = jnp.array([[0, 0, 0], [0.3, 0, 0], [0, 1.0, 0]]).at[2, 1].set(r)
        return SURFACES[name].energy(lonely.at[:3].set(near), rv.OpenBox())

    second = jax.jit(jax.vmap(jax.grad(jax.grad(energy))))
    near = jnp.append(jnp.linspace(0.7, 1.0, 9), jnp.array([1 - 1e-6, 1 + 1e-6]))
    *before, inside, outside = second(CUTOFF * near)
    assert abs(inside - outside) < 1e-4 * max(map(abs, before))


def test_messages():
    """Reach as many cutoffs as there are rounds, and none where there is no neighbor."""
    potential = eqx.tree_at(lambda p: p.offset, SURFACES["message passing"], jnp.array([-1.0, -38.0]))
    lonely = 10.0 * jnp.arange(32.0)[:, None] * jnp.ones(3)
    energies = eqx.filter_jit(potential.energies)
    np.testing.assert_array_equal(energies(lonely, rv.OpenBox()), [-38.0, -1.0] * 16)
    chain = lambda last: lonely.at[:4].set(jnp.zeros((4, 3)).at[:, 0].set(CUTOFF * jnp.array([0, 0.9, 1.8, last])))
    near, far = (energies(chain(last), rv.OpenBox()) for last in (2.3, 2.6))
    assert np.array_equal(near == far, [True, False, False, False] + [True] * 28)  # three atoms away is out of reach
    np.testing.assert_array_equal(near[4:], [-38.0, -1.0] * 14)


def test_networks_that_do_not_fit():
    with pytest.raises(ValueError, match="`MessagePassing` is of 32 atoms, but there are 108"):
        rv.System(rv.Topology.from_elements(["C", "H"] * 54), SURFACES["message passing"])
    with pytest.raises(ValueError, match="parameters of H, O, but the topology has C"):
        rv.MessagePassing.fresh(MIXED, key=KEY, elements=["H", "O"])
    state = argon_state()
    small = rv.State(state.positions, state.velocities, rv.OrthorhombicBox(jnp.full(3, 1.9 * CUTOFF)))
    with pytest.raises(ValueError, match="cutoff"):
        rv.System(MIXED, SURFACES["message passing"]).check(small)


@pytest.mark.slow  # `test_deep.py` has one of a network that is fast
@pytest.mark.parametrize("name", ["message passing", "EANN"])
def test_adjoint(name):
    """Through trajectories, with respect to every parameter and to the start, as Diffrax's own adjoint; on a prior."""
    prior = rv.LennardJones(0.3, 0.5, cutoff=CUTOFF, truncation=rv.ShiftedCutoff())
    potential, state = prior + SURFACES[name], argon_state()

    def loss(potential, x, adjoint):
        system = rv.System(MIXED, potential)
        final = rv.nve(system, rv.State(x, state.velocities, state.box), dt=0.002, num_steps=3, adjoint=adjoint).final
        return jnp.sum(final.positions**2) + jnp.sum(final.velocities**3)

    slopes = lambda adjoint: eqx.filter_jit(eqx.filter_grad(lambda both: loss(*both, adjoint)))(
        (potential, state.positions)
    )
    for a, b in zip(*map(jax.tree.leaves, map(slopes, (rv.ReversibleAdjoint(), diffrax.DirectAdjoint()))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


def test_stillinger_weber_at_its_cutoff():
    """In single precision a distance may round to the cutoff and its square to less."""
    potential = rv.StillingerWeber(200.0, 0.14, cutoff=0.252)
    away = np.random.default_rng(0).normal(size=(20000, 3))
    away = jnp.asarray(away * (0.252 / np.linalg.norm(away, axis=1, keepdims=True)), jnp.float32)
    pair = lambda x: potential.energy(jnp.stack([jnp.zeros_like(x), x]), rv.OpenBox())
    energies, slopes = jax.jit(jax.vmap(jax.value_and_grad(pair)))(away)
    np.testing.assert_array_equal(energies, 0)
    np.testing.assert_array_equal(slopes, 0)


def test_atoms_at_one_place():
    state = argon_state()
    together = state.positions.at[1].set(state.positions[0])
    for potential in SURFACES.values():
        if isinstance(potential, rv.AbstractGraphPotential):
            assert jnp.isnan(energy_of(potential, together, state.box))
    with pytest.raises(rv.SimulationError, match="nearest two atoms are 0 and 1"):
        rv.System(MIXED, SURFACES["EANN"]).check(rv.State(together, state.velocities, state.box))


@pytest.mark.usefixtures("without_type_checks")
def test_functions_that_do_not_fit():
    x, box = argon_state().positions, argon_state().box
    for function in (lambda parameters, positions: 0.0, lambda a, b, c, d, e: 0.0):
        with pytest.raises(TypeError, match="parameters, positions, box"):
            rv.FunctionPotential(function, None)
    with pytest.raises(ValueError, match="there is no `cutoff`"):
        rv.FunctionPotential(squares, {"k": 1.0})
    with pytest.raises(ValueError, match="scalar of the dtype"):
        rv.FunctionPotential(lambda p, x, box: x, None).energy(x, box)
    with pytest.raises(ValueError, match="scalar of the dtype"):
        rv.FunctionPotential(lambda p, x, box: jnp.sum(x).astype(jnp.float32), None).energy(x, box)
    with pytest.raises(TypeError, match="function"):
        rv.FunctionPotential(3.0, None)
    with pytest.raises(ValueError, match="scalar of the dtype"):
        rv.pairs.FunctionPair(lambda p, r: r[None], cutoff=CUTOFF).energy(x, box)


def test_a_function_of_the_distance_is_a_pair_potential():
    box, x = argon_state().box, argon_state().positions
    values = lambda p: eqx.filter_value_and_grad(lambda p: p.energy(x, box))(p)
    own, own_slope = values(rv.pairs.FunctionPair(lambda p, r: p["e"] * (p["s"] / r) ** 9, PARAMETERS, cutoff=CUTOFF))
    form, slope = values(rv.pairs.InversePower(PARAMETERS["s"], PARAMETERS["e"], 9.0, cutoff=CUTOFF))
    np.testing.assert_allclose(own, form, rtol=1e-12)
    np.testing.assert_allclose(own_slope.parameters["s"], slope.sigma, rtol=1e-12)
    np.testing.assert_allclose(own_slope.parameters["e"], slope.epsilon, rtol=1e-12)


class Listed(NamedTuple):
    """A neighbor list as jax-md has it: what fills it up is the number of atoms."""

    idx: Array
    reference_position: Array
    did_buffer_overflow: Array
    cell_size_too_small: Array = False


class Finder(NamedTuple):
    """`neighbor_fn` of jax-md: up to a cutoff, of a displacement function; dense, or sparse as (receivers, senders)."""

    displacement: Callable
    sparse: bool

    def found(self, x, room):
        d = jax.vmap(jax.vmap(self.displacement, (None, 0)), (0, None))(x, x)
        near = (jnp.sum(d**2, -1) < CUTOFF**2) & ~jnp.eye(len(x), dtype=bool)
        if self.sparse:
            idx, most = jnp.stack(jnp.nonzero(near, size=room, fill_value=len(x))), jnp.sum(near)
        else:
            rows = jax.vmap(lambda row: jnp.nonzero(row, size=room, fill_value=len(x))[0])
            idx, most = rows(near), jnp.max(jnp.sum(near, axis=1))
        return Listed(idx, x, most > room)

    def allocate(self, x):
        return self.found(x, 900 if self.sparse else 28)

    def update(self, x, neighbors):
        return self.found(x, neighbors.idx.shape[1])


def of_jax_md(box, sparse):
    """`neighbor_fn, energy_fn` of the pairs of `squares`, in real coordinates of a box."""
    displacement = lambda a, b: jnp.stack(box.minimum_image(*(a - b)))

    def energy_fn(position, neighbor, k=1.0):
        n, padded = len(position), jnp.concatenate([position, jnp.full((1, 3), 1e3)])
        i, j = neighbor.idx if sparse else (jnp.arange(n)[:, None], neighbor.idx)
        i, j = jnp.broadcast_arrays(i, j)
        r2 = jnp.sum(jax.vmap(displacement)(padded[i.ravel()], padded[j.ravel()]) ** 2, -1)
        near = jnp.where((j.ravel() < n) & (r2 < CUTOFF**2), (1 - r2 / CUTOFF**2) ** 3, 0)
        return k * jnp.sum(jnp.zeros(n + 1).at[i.ravel()].add(near) ** 2)

    return Finder(displacement, sparse), energy_fn


@pytest.mark.parametrize("sparse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_functions_of_jax_md(sparse):
    """As the same formula with neighbors of our own; atoms anywhere, a list that follows them, and one that is full."""
    state, wanted = argon_state(), SURFACES["function"]
    x, box = state.positions, state.box
    away = x + box.lengths * (jnp.arange(32)[:, None] % 3 - 1)
    functions = of_jax_md(box, sparse)
    potential = rv.JaxMDPotential.allocate(*functions, away, box, parameters={"k": 1.5}, cutoff=CUTOFF)
    value = eqx.filter_jit(lambda p, x: (p.energy(x, box), p.forces(x, box)))
    moved = away + 0.05 * jax.random.normal(KEY, x.shape)
    for y in (away, moved):
        for a, b in zip(value(potential, y), value(wanted, y), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    slope = eqx.filter_grad(lambda p: p.energy(moved, box))(potential).parameters["k"]
    np.testing.assert_allclose(slope, wanted.energy(moved, box) / 1.5, rtol=1e-9)
    assert jnp.all(jnp.isnan(potential.stress(x, box)))  # of one box alone
    with pytest.raises(rv.SimulationError, match="were made for"):
        potential.energy(x, rv.OrthorhombicBox(1.01 * box.lengths))
    crowd = 0.1 * x
    with pytest.raises(rv.SimulationError, match="jax-md has no room"):
        potential.energy(crowd, box)
    with pytest.raises(rv.SimulationError, match="jax-md has no room"), rv.SimulationError.unwrapped():
        jax.block_until_ready(value(potential, crowd))


@pytest.mark.usefixtures("without_type_checks")
def test_functions_of_jax_md_that_do_not_fit():
    x, box = argon_state().positions, argon_state().box
    neighbor_fn, energy_fn = of_jax_md(box, False)
    make = rv.JaxMDPotential.allocate
    with pytest.raises(TypeError, match="`neighbor_fn` has no `allocate`"):
        make(energy_fn, neighbor_fn, x, box, cutoff=CUTOFF)
    with pytest.raises(ValueError, match="no `cutoff` in a periodic box"):
        make(neighbor_fn, energy_fn, x, box)
    with pytest.raises(ValueError, match="`energy_fn` returned float64 of shape"):
        make(neighbor_fn, lambda x, neighbor: x, x, box, cutoff=CUTOFF).energy(x, box)


def archive(path, **changes):
    """An archive of a small network, with some arrays changed, or left out where they are `None`."""
    shapes = {"c": (2, 3), "inta": (2, 3), "rs": (2, 3), "initpot": (1,)}
    shapes |= {"w0": (2, 9, 4), "w3": (2, 4, 4), "w6": (2, 4, 1), "b0": (2, 4), "b3": (2, 4), "b6": (2, 1)}
    shapes |= {f"{kind}{k}": (2, 4) for k in (1, 2, 4, 5) for kind in "wb"}
    arrays = {name: np.ones(shape) for name, shape in shapes.items()} | changes
    np.savez(path, **{name: x for name, x in arrays.items() if x is not None})
    return path


@pytest.mark.usefixtures("without_type_checks")
def test_archives_that_do_not_fit(tmp_path):
    read = lambda path, **options: rv.EANN.from_npz(path, waters(2), **options)
    assert read(archive(tmp_path / "fine.npz")).offset == 1
    wrong = {
        "lacks `w3`": {"w3": None},
        "finite real numbers": {"w3": np.full((2, 4, 4), np.nan)},
        "`w3`": {"w3": np.ones((2, 5, 4))},
        "`c`": {"c": np.ones((3, 3))},
        "damaged": {"w3": np.array([object()])},  # a pickle, which is not opened
    }
    for told, changes in wrong.items():
        with pytest.raises(ValueError, match=told):
            read(archive(tmp_path / "wrong.npz", **changes))
    with pytest.raises(ValueError, match="parameters of H, C"):
        read(tmp_path / "fine.npz", elements=("H", "C"))
    with pytest.raises(ValueError, match="`max_degree` is -1"):
        read(tmp_path / "fine.npz", max_degree=-1)
    with pytest.raises(ValueError, match="`cutoff` is 0"):
        read(tmp_path / "fine.npz", cutoff=0.0)
    with pytest.raises(TypeError, match="`topology` is 3"):
        rv.EANN.from_npz(tmp_path / "fine.npz", 3)
    whole = (tmp_path / "fine.npz").read_bytes()
    for part in (b"", b"PK", whole[:300], whole[: len(whole) // 2], whole[:-40]):
        (tmp_path / "cut.npz").write_bytes(part)
        with pytest.raises(ValueError, match="no NumPy archive"):
            read(tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.npz")


@published
@pytest.mark.usefixtures("without_type_checks")
def test_hyperparameters_that_do_not_fit(tmp_path):
    known, path = json.loads((WATER / "deepdipole_hyper.json").read_text()), tmp_path / "hyper.json"
    read = lambda: rv.DeepDipole.from_npz(WATER / "deepdipole_weights.npz", path, waters(2))
    wrong = {"sel": [40, 92], "neuron": [25, 50, 90], "axis_neuron": 5, "fitting_neuron": [100, 90, 100]}
    for name, value in wrong.items():
        path.write_text(json.dumps({**known, name: value}))
        with pytest.raises(ValueError, match="As the hyperparameters say"):
            read()
    path.write_text(json.dumps({**known, "type_map": ["O", "C"]}))
    with pytest.raises(ValueError, match=r"`type_map` in .* has C"):
        read()
    for text, told in (("{", "no JSON"), ("[]", "lacks `type_map`"), ('{"sel": [1]}', "lacks `type_map`")):
        path.write_text(text)
        with pytest.raises(ValueError, match=told):
            read()
