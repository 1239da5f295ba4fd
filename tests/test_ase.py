"""Configurations to and from ASE, and its calculators as potentials."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from helpers import CUTOFF, EPSILON, SAMPLERS, SIGMA, SKEWED, argon_state, argon_topology, lennard_jones

import reverlet as rv

ANGSTROM, EV = rv.units.ANGSTROM, rv.units.ELECTRONVOLT
OURS = rv.System(argon_topology(), lennard_jones(rv.ShiftedCutoff()))


def argon_atoms(state=None):
    """32 atoms with ASE's own Lennard-Jones potential, which it shifts to zero at the cutoff."""
    atoms = rv.to_ase(argon_topology(), argon_state() if state is None else state)
    atoms.calc = LennardJones(sigma=SIGMA / ANGSTROM, epsilon=EPSILON / EV, rc=CUTOFF / ANGSTROM)
    return atoms


@eqx.filter_jit
def evaluate(system, x, box):
    """Energy, forces and stress."""
    strained = lambda x, strain: system.potential.strained_energy(strain, x, box)
    energy, slopes = jax.value_and_grad(strained, (0, 1))(x, jnp.zeros((3, 3)))
    return energy, -slopes[0], slopes[1] / box.volume


@pytest.mark.parametrize("box", [rv.OrthorhombicBox(jnp.ones(3)), rv.TriclinicBox(SKEWED), rv.OpenBox()], ids=type)
def test_there_and_back(box):
    topology = rv.Topology.from_elements(["O", "H", "D"], molecules=[0, 0, 1])
    x, v = np.random.default_rng(0).normal(size=(2, 3, 3))
    state = rv.State(x, v, box)
    atoms = rv.to_ase(topology, state)
    assert atoms.get_chemical_symbols() == ["O", "H", "H"]
    # ASE's constants are of CODATA 2014
    np.testing.assert_allclose(atoms.get_velocities(), v / ANGSTROM / (1e3 * units.fs), 1e-7)
    kinetic = float(rv.System(topology, rv.Sum(())).kinetic_energy(state.velocities))
    np.testing.assert_allclose(atoms.get_kinetic_energy() * EV, kinetic, rtol=1e-12)
    again, back = rv.from_ase(atoms)
    for name in ("atomic_numbers", "masses", "molecules"):
        np.testing.assert_array_equal(getattr(again, name), getattr(topology, name))
    assert type(back.box) is type(box)
    np.testing.assert_allclose(back.box.vectors, box.vectors, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(back.positions, x, rtol=1e-14)
    np.testing.assert_allclose(back.velocities, v, rtol=1e-14)
    del atoms.arrays["momenta"]
    assert not rv.from_ase(atoms)[1].has_velocities


def test_a_calculator_of_ase_is_a_potential():
    """Energies, forces and stresses of ASE's own Lennard-Jones potential are ours, and so are samples."""
    state = argon_state()
    box = rv.TriclinicBox(state.box.vectors @ jnp.array([[1.1, 0.1, 0.05], [0.0, 1.1, 0.1], [0.0, 0.0, 1.1]]))
    topology, _ = rv.from_ase(argon_atoms(state))
    system = rv.System(topology, rv.ASEPotential(argon_atoms(state)))
    here, there = (evaluate(s, state.positions + 3 * box.vectors[0], box) for s in (OURS, system))
    for ours, theirs in zip(here, there, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-10 * np.abs(ours).max())
    chains, key = jax.tree.map(lambda *x: jnp.stack(x), argon_state(seed=1), argon_state(seed=2)), jax.random.key(0)
    here, there = (SAMPLERS["LangevinBAOAB"].sample(s, chains, 4, key=key)[0] for s in (OURS, system))
    np.testing.assert_allclose(there.states.positions, here.states.positions, rtol=1e-9)
    np.testing.assert_allclose(there.log_density, here.log_density, rtol=1e-9)


def test_gradients_through_a_calculator_are_refused():
    state, potential = argon_state(), rv.ASEPotential(argon_atoms())
    system = rv.System(argon_topology(), potential)
    final = lambda x: rv.nve(system, rv.State(x, state.velocities, state.box), dt=0.002, num_steps=2).final.positions
    with pytest.raises(ValueError, match=r"cannot be differentiated.* LennardJones of Ar32 .* `rv.force_matching`"):
        jax.grad(lambda x: jnp.sum(final(x)))(state.positions)


class Failing(Calculator):
    implemented_properties = ("energy", "forces")  # pyright: ignore

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        raise RuntimeError("no convergence")


def test_refused():
    state, atoms = argon_state(), argon_atoms()
    with pytest.raises(ValueError, match="`ASEPotential` is of 32 atoms; wanted 3"):
        rv.System(rv.Topology.from_elements(["Ar"] * 3), rv.ASEPotential(atoms))
    with pytest.raises(ValueError, match="`box` is OpenBox, but the atoms of `ASEPotential` are periodic"):
        rv.ASEPotential(atoms).energy(state.positions, rv.OpenBox())
    with pytest.raises(ValueError, match=r"wanted one configuration .*`jax\.tree\.map"):
        rv.to_ase(argon_topology(), state.repeat(2))
    atoms.calc = Failing()
    with pytest.raises(rv.SimulationError, match="Failing of Ar32 failed: RuntimeError: no convergence"):
        with rv.SimulationError.unwrapped():
            rv.ASEPotential(atoms).energy(state.positions, state.box)
    with pytest.raises(ValueError, match="Failing of Ar32 has no stress; wanted a calculator that has"):
        rv.ASEPotential(atoms).stress(state.positions, state.box)
    atoms.calc = None
    with pytest.raises(ValueError, match=r"no calculator; wanted one: `atoms\.calc"):
        rv.ASEPotential(atoms)
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match=r"constraints \(FixAtoms\).*`del atoms\.constraints`"):
        rv.from_ase(atoms)
    del atoms.constraints
    atoms.pbc = [True, False, False]
    with pytest.raises(ValueError, match="wanted all of them or none"):
        rv.from_ase(atoms)
    atoms.symbols[1] = "X"
    with pytest.raises(ValueError, match="Atom 1 of `atoms` is X; wanted elements"):
        rv.from_ase(atoms)
