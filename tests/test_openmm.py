"""OpenMM both ways: energies and forces of every term, round trips, refusals, and samples drawn there."""

import io
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import argon_state, argon_topology

import reverlet as rv

openmm = pytest.importorskip("openmm")
app = pytest.importorskip("openmm.app")
nm = openmm.unit.nanometer
energy = eqx.filter_jit(lambda potential, x, box: potential.energy(x, box))
value_and_gradient = eqx.filter_jit(
    lambda parts, x, box: jax.value_and_grad(lambda x: rv.Sum(tuple(parts)).energy(x, box))(x)
)

SAME = 1e-9  # the same formulas in double precision on both sides; OpenMM's Coulomb constant differs by 7e-10
GOAL = 1e-5  # with Ewald's sum, whose real-space part ends at 1e-7 of itself on both sides, at different places

WATERS = 27
LENGTH = (WATERS * 0.0299) ** (1 / 3)  # nm; a liquid's density
BOX = rv.OrthorhombicBox(jnp.full(3, LENGTH))
CUTOFF = 0.46


def water_positions(seed=0):
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 1, 3) * LENGTH / 3
    one = np.array([[0, 0, 0], [0.1, 0, 0], [-0.04, 0.09, 0.01]])
    return (grid + one + 0.006 * np.random.default_rng(seed).normal(size=(WATERS, 3, 3))).reshape(-1, 3)


def in_openmm(system, x, k):
    """Energy and forces of the force with index k, on OpenMM's Reference platform."""
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(np.asarray(x))
    state = context.getState(getEnergy=True, getForces=True, groups={k})
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


def assert_same(parts, box, x, wanted, rtol):
    u, f = wanted
    value, gradient = value_and_gradient(parts, jnp.asarray(x), box)
    np.testing.assert_allclose(value, u, rtol=rtol)
    np.testing.assert_allclose(-gradient, f, atol=rtol * np.abs(f).max())


def water_in_openmm(method, cutoff=CUTOFF):
    """q-SPC/Fw from its table, written for OpenMM by hand: bonds, angles, Lennard-Jones, charges."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*np.diag([LENGTH] * 3).tolist())
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    oxygens, charges = openmm.NonbondedForce(), openmm.NonbondedForce()
    for k in range(0, 3 * WATERS, 3):
        for mass, q, epsilon in ((15.99943, -0.84, 0.6502990368), (1.007947, 0.42, 0), (1.007947, 0.42, 0)):
            system.addParticle(mass)
            oxygens.addParticle(0, 0.3165492, epsilon)
            charges.addParticle(q, 1, 0)
        bonds.addBond(k, k + 1, 0.1, 443153.3808)
        bonds.addBond(k, k + 2, 0.1, 443153.3808)
        angles.addAngle(k + 1, k, k + 2, 1.9547687622336491, 317.5656)
        for force in (oxygens, charges):
            for i, j in ((k, k + 1), (k, k + 2), (k + 1, k + 2)):
                force.addException(i, j, 0, 1, 0)
    for force in (oxygens, charges):
        force.setNonbondedMethod(method if force is charges else openmm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(cutoff)
        force.setEwaldErrorTolerance(1e-7)
        force.setUseDispersionCorrection(False)
    for force in (bonds, angles, oxygens, charges):
        system.addForce(force)
    return system


def test_water_against_openmm():
    """The goal: energy and forces of every term to 1e-5."""
    system, x = water_in_openmm(openmm.NonbondedForce.Ewald), water_positions()
    potential = rv.qspcfw(WATERS, BOX, cutoff=CUTOFF, truncation=rv.PlainCutoff(), accuracy=1e-7).potential
    read = rv.openmm.from_system(system)
    assert [type(p) for p in read.potential.parts] == [rv.HarmonicBond, rv.HarmonicAngle, rv.Among, rv.Ewald]
    for k in range(4):
        wanted = in_openmm(system, x, k)
        assert_same([potential.parts[k]], BOX, x, wanted, GOAL if k == 3 else SAME)
        assert_same([read.potential.parts[k]], BOX, x, wanted, GOAL if k == 3 else SAME)
    # every parameter once: what is equal is one
    sizes = [leaf.size for leaf in jax.tree.leaves(eqx.filter(read.potential, eqx.is_inexact_array))]
    assert sizes == [1] * 7
    assert list(read.topology.elements[:3]) == ["O", "H", "H"]
    np.testing.assert_array_equal(read.topology.molecules, np.repeat(np.arange(WATERS), 3))
    np.testing.assert_array_equal(rv.openmm.default_box(system).lengths, BOX.lengths)


def test_reaction_field_and_switch():
    system, x = water_in_openmm(openmm.NonbondedForce.CutoffPeriodic), water_positions(1)
    system.getForce(2).setUseSwitchingFunction(True)
    system.getForce(2).setSwitchingDistance(0.35)
    system.getForce(3).setReactionFieldDielectric(30.0)
    potential = rv.openmm.from_system(system).potential
    for k in range(4):
        assert_same([potential.parts[k]], BOX, x, in_openmm(system, x, k), SAME)
    back = rv.openmm.to_system(rv.openmm.from_system(system), BOX)
    wanted = [sum(u) for u in zip(in_openmm(system, x, 2), in_openmm(system, x, 3), strict=True)]
    assert_same(potential.parts[2:], BOX, x, in_openmm(back, x, 2), SAME)
    np.testing.assert_allclose(in_openmm(back, x, 2)[0], wanted[0], rtol=SAME)


@pytest.mark.parametrize("switch", [None, 0.35])
def test_dispersion_correction(switch):
    """For atoms that are all alike."""
    num = 27
    system, force = openmm.System(), openmm.NonbondedForce()
    system.setDefaultPeriodicBoxVectors(*np.diag([1.1] * 3).tolist())
    for _ in range(num):
        system.addParticle(39.948)
        force.addParticle(0, 0.33, 0.9)
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(0.5)
    if switch is not None:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(switch)
    system.addForce(force)
    x = jnp.asarray(np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3) * 1.1 / 3)
    read = rv.openmm.from_system(system).potential.parts[0]
    box = rv.openmm.default_box(system)
    assert isinstance(read, rv.TailCorrected)
    plain = energy(read.potential, x, box)
    tail = in_openmm(system, x, 0)[0] - plain
    # OpenMM integrates the switched part numerically to a relative 1e-6 or so
    np.testing.assert_allclose(energy(read, x, box) - plain, tail, rtol=1e-5)


PEPTIDE = {  # alanine dipeptide: names and places in angstrom
    "ACE": "H1 2.000 1.000 0 CH3 2.000 2.090 0 H2 1.486 2.454 .890 H3 1.486 2.454 -.890"
    " C 3.427 2.641 0 O 4.391 1.877 0",
    "ALA": "N 3.555 3.970 0 H 2.733 4.556 0 CA 4.853 4.614 0 HA 5.408 4.316 .890 CB 5.661 4.221 -1.232"
    " HB1 5.123 4.521 -2.131 HB2 6.630 4.719 -1.206 HB3 5.809 3.141 -1.241 C 4.713 6.129 0 O 3.601 6.653 0",
    "NME": "N 5.846 6.835 0 H 6.737 6.359 0 C 5.846 8.284 0 H1 4.819 8.648 0 H2 6.360 8.648 .890 H3 6.360 8.648 -.890",
}


def peptide(periodic):
    """Alanine dipeptide, its positions, and its Amber force field as OpenMM makes it."""
    topology, x = app.Topology(), []
    chain = topology.addChain()
    for name, text in PEPTIDE.items():
        residue, words = topology.addResidue(name, chain), text.split()
        for k in range(0, len(words), 4):
            topology.addAtom(words[k], app.Element.getBySymbol(words[k][0]), residue)
            x.append([float(word) / 10 for word in words[k + 1 : k + 4]])
    topology.createStandardBonds()
    x = np.array(x) + 0.003 * np.random.default_rng(0).normal(size=(22, 3))  # not flat: torsions have forces
    if periodic:
        topology.setPeriodicBoxVectors(np.diag([2.2] * 3).tolist() * nm)
    return topology, x, created(app.ForceField("amber14-all.xml"), topology, periodic)


def created(field, topology, periodic):
    kind = {"nonbondedMethod": app.NoCutoff}
    if periodic:
        kind = {"nonbondedMethod": app.Ewald, "nonbondedCutoff": 1 * nm, "ewaldErrorTolerance": 1e-7}
        kind["switchDistance"] = 0.8 * nm
    return field.createSystem(topology, constraints=None, rigidWater=False, useDispersionCorrection=False, **kind)


@pytest.mark.parametrize("periodic", [False, True], ids=["vacuum", "ewald"])
def test_peptide_both_ways(periodic):
    topology, x, system = peptide(periodic)
    read = rv.openmm.from_system(system, topology)
    box = rv.openmm.default_box(system)
    assert isinstance(box, rv.OrthorhombicBox if periodic else rv.OpenBox)
    counterparts = {
        "HarmonicBondForce": [rv.HarmonicBond],
        "HarmonicAngleForce": [rv.HarmonicAngle],
        "PeriodicTorsionForce": [rv.PeriodicTorsion],
        "NonbondedForce": [rv.Rescaling, rv.Ewald if periodic else rv.Coulomb],
    }
    assert sum(map(len, counterparts.values())) == len(read.potential.parts)
    written = rv.openmm.to_system(read, box)
    if periodic:
        force = next(f for f in written.getForces() if isinstance(f, openmm.NonbondedForce))
        force.setNonbondedMethod(force.Ewald)  # rather than PME
    text = rv.openmm.to_xml(read)
    residues = rv.openmm.to_topology(read.topology)
    residues.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    from_text = created(app.ForceField(io.StringIO(text)), residues, periodic)
    for name, classes in counterparts.items():
        tolerance = GOAL if name == "NonbondedForce" and periodic else SAME
        parts = [read.potential.part(cls) for cls in classes]
        for other in (system, written, from_text):
            (k,) = [k for k, force in enumerate(other.getForces()) if type(force).__name__ == name]
            assert_same(parts, box, x, in_openmm(other, x, k), tolerance)
    # one charge follows from the others; a change keeps the molecule neutral
    charges = read.potential.part(counterparts["NonbondedForce"][1]).charges
    assert isinstance(charges, rv.MolecularCharges)
    assert len(charges.charges) < 22
    changed = eqx.tree_at(lambda c: c.charges, charges, charges.charges + 0.1)
    np.testing.assert_allclose(jnp.sum(changed.values), 0, atol=1e-12)
    assert read.topology.elements == tuple(atom.element.symbol for atom in topology.atoms())


def test_xml_of_trained_parameters():
    """What was refined is what is written, and read again it is the same potential."""
    system = rv.qspcfw(2, rv.OrthorhombicBox(jnp.full(3, 2.0)))
    where = lambda s: (s.potential.part(rv.HarmonicBond).length, s.potential.part(rv.Ewald).charges.charges)
    system = eqx.tree_at(where, system, (jnp.asarray(0.0987654321), jnp.asarray([0.4321])))
    topology = rv.openmm.to_topology(system.topology)
    made = app.ForceField(io.StringIO(rv.openmm.to_xml(system))).createSystem(topology, rigidWater=False)
    assert made.getForce(0).getBondParameters(0)[2]._value == 0.0987654321
    charges = rv.openmm.from_system(made, topology).potential.part(rv.Coulomb).charges
    np.testing.assert_allclose(charges.values, system.potential.part(rv.Ewald).charges.values, rtol=1e-15)
    assert [r.name for r in topology.residues()] == ["OH2", "OH2"]


def chain_in_openmm(exceptions, sigma=(0.3, 0.25, 0.3, 0.25), epsilon=(0.5, 0.3, 0.5, 0.3), q=(0.2, -0.2, 0.3, -0.3)):
    """Four atoms in a row, with exceptions of one's own."""
    system, bonds, force = openmm.System(), openmm.HarmonicBondForce(), openmm.NonbondedForce()
    for k in range(4):
        system.addParticle(12.0)
        force.addParticle(q[k], sigma[k], epsilon[k])
        if k > 0:
            bonds.addBond(k - 1, k, 0.15, 1e5)
    for i, j, *numbers in exceptions:
        force.addException(i, j, *numbers)
    system.addForce(bonds)
    system.addForce(force)
    return system


X4 = jnp.array([[0.0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.35, 0.15, 0.05]])


@pytest.mark.parametrize(
    ("pair", "classes"),
    [
        ((0, 3, -0.03, 0.275, 0.5 * np.sqrt(0.15)), [rv.Rescaling, rv.Coulomb]),  # as the atoms, times a half
        ((0, 3, -0.06, 0.275, np.sqrt(0.15)), [rv.Excluding, rv.Coulomb]),  # as the atoms
        ((0, 3, -0.03, 0.31, 0.2), [rv.Excluding, rv.ListedPairs, rv.Coulomb]),  # parameters of its own
    ],
)
def test_exceptions(pair, classes):
    excluded = [(i, j, 0, 1, 0) for i, j in ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3))]
    system = chain_in_openmm([*excluded, pair])
    read = rv.openmm.from_system(system)
    assert [type(p) for p in read.potential.parts[1:]] == classes
    wanted = in_openmm(system, X4, 1)
    assert_same(read.potential.parts[1:], rv.OpenBox(), X4, wanted, SAME)
    assert_same(
        read.potential.parts[1:], rv.OpenBox(), X4, in_openmm(rv.openmm.to_system(read, rv.OpenBox()), X4, 1), SAME
    )


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_exceptions_are_neither_cut_nor_switched(factor):
    system, force = openmm.System(), openmm.NonbondedForce()
    system.setDefaultPeriodicBoxVectors(*np.diag([2.0] * 3).tolist())
    for _ in range(3):
        system.addParticle(12.0)
        force.addParticle(0, 0.3, 0.5)
    force.addException(0, 1, 0, 0.3, 0.5 * factor)
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(0.6)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.4)
    force.setExceptionsUsePeriodicBoundaryConditions(True)
    system.addForce(force)
    box = rv.openmm.default_box(system)
    read = rv.openmm.from_system(system)
    written = rv.openmm.to_system(read, box)
    for distance in (0.35, 0.5, 0.7, 1.65):  # below the switch, within it, beyond the cutoff, and an image
        x = np.array([[0, 0, 0], [distance, 0, 0], [0.1, 0.45, 0]])
        for other in (system, written):
            # OpenMM integrates the tail of the switched part numerically
            assert_same(read.potential.parts, box, x, in_openmm(other, x, 0), 1e-8)


def test_rb_torsions_both_ways():
    system = chain_in_openmm([(i, j, 0, 1, 0) for i in range(4) for j in range(i)])
    force = openmm.RBTorsionForce()
    force.addTorsion(0, 1, 2, 3, 9.28, 12.16, -13.12, -3.06, 26.24, 0.0)
    system.addForce(force)
    read = rv.openmm.from_system(system)
    part = read.potential.part(rv.RBTorsion)
    made = app.ForceField(io.StringIO(rv.openmm.to_xml(read))).createSystem(rv.openmm.to_topology(read.topology))
    for other in (system, rv.openmm.to_system(read, rv.OpenBox()), made):
        (k,) = [k for k, f in enumerate(other.getForces()) if isinstance(f, openmm.RBTorsionForce)]
        assert_same([part], rv.OpenBox(), X4, in_openmm(other, X4, k), SAME)


def test_waves_of_dispersion_without_dispersion():
    """LJPME is PME where there are charges only."""
    system, x = water_in_openmm(openmm.NonbondedForce.LJPME), water_positions()
    read = rv.openmm.from_system(system).potential.parts[3]
    system.getForce(3).setNonbondedMethod(openmm.NonbondedForce.Ewald)
    assert_same([read], BOX, x, in_openmm(system, x, 3), GOAL)


def two_orders(charges=(-0.8, 0.4, 0.4), stiffness=300.0, second=(1, 0, 2)):
    """Two waters, the second of which has its atoms in another order."""
    where = np.array([(0, 1, 2), 3 + np.argsort(second)])  # of O, H and H
    elements, q = np.empty(6, object), np.empty(6)
    elements[where], q[where] = ["O", "H", "H"], charges
    bonds = [tuple(sorted((o, h))) for o, *hs in where.tolist() for h in hs]
    topology = rv.Topology.from_elements(list(elements), molecules=[0, 0, 0, 1, 1, 1], bonds=bonds)
    angles = rv.HarmonicAngle(where[:, [1, 0, 2]], np.array([300.0, stiffness]), 1.9, kinds=np.array([0, 1]))
    oxygens = rv.Among(rv.LennardJones(0.3, 0.6, cutoff=1e6), where[:, 0])
    charged = rv.Coulomb(q, exclusions=topology.pairs_within(2))
    return rv.System(topology, rv.HarmonicBond(topology.bonds, 4e5, 0.1) + angles + oxygens + charged)


@pytest.mark.parametrize("second", [(1, 0, 2), (2, 1, 0), (0, 2, 1)])
def test_molecules_in_two_orders_of_atoms(second):
    system = two_orders(second=second)
    field = app.ForceField(io.StringIO(rv.openmm.to_xml(system)))
    made = created(field, rv.openmm.to_topology(system.topology), False)
    x = np.random.default_rng(0).uniform(size=(6, 3))
    u = sum(in_openmm(made, x, k)[0] for k in range(made.getNumForces()))
    np.testing.assert_allclose(system.potential.energy(jnp.asarray(x), rv.OpenBox()), u, rtol=SAME)


def test_improper_torsions_in_two_orders_of_atoms():
    bonds = [(0, 1), (0, 2), (0, 3), (4, 7), (5, 7), (6, 7)]
    elements = ["C", "O", "H", "F", "F", "H", "O", "C"]
    topology = rv.Topology.from_elements(elements, molecules=[0] * 4 + [1] * 4, bonds=bonds)
    improper = rv.PeriodicTorsion(np.array([[1, 2, 0, 3], [6, 5, 7, 4]]), 40.0, 2, 2.5)
    system = rv.System(topology, rv.HarmonicBond(topology.bonds, 4e5, 0.1) + improper)
    field = app.ForceField(io.StringIO(rv.openmm.to_xml(system)))
    made = created(field, rv.openmm.to_topology(topology), False)
    (k,) = [k for k, f in enumerate(made.getForces()) if isinstance(f, openmm.PeriodicTorsionForce)]
    x = np.random.default_rng(0).uniform(size=(8, 3))
    assert_same([improper], rv.OpenBox(), x, in_openmm(made, x, k), SAME)


@pytest.mark.parametrize("changes", [{"charges": (-0.8, 0.3, 0.5)}, {"stiffness": 299.0}])
def test_molecules_that_openmm_cannot_tell_apart(changes):
    with pytest.raises(ValueError, match="other parameters; wanted the same, since OpenMM"):
        rv.openmm.to_xml(two_orders(second=(2, 1, 0), **changes))


def test_charges_that_are_no_whole_molecule():
    system = chain_in_openmm([], q=(0.2, -0.2, 0.3, 0.3))
    charges = rv.openmm.from_system(system).potential.part(rv.Coulomb).charges
    assert isinstance(charges, rv.AtomCharges)
    np.testing.assert_allclose(charges.values, [0.2, -0.2, 0.3, 0.3], rtol=1e-15)
    ion = chain_in_openmm([], q=(0.2, -0.2, 0.3, 0.7))
    charges = rv.openmm.from_system(ion).potential.part(rv.Coulomb).charges
    assert isinstance(charges, rv.MolecularCharges)
    assert charges.net.tolist() == [1]
    np.testing.assert_allclose(charges.values, [0.2, -0.2, 0.3, 0.7], rtol=1e-15)
    assert charges.charges.tolist() == [0.2, -0.2, 0.3]


FORMS = {
    "berthelot": "4*eps*(x^12-x^6); x=sig/r; eps=sqrt(eps1*eps2); sig=(sig1+sig2)/2",
    "other form": "e*((d/r)^12-2*(d/r)^6); e=sqrt(eps1*eps2); d=1.122462048309373*(sig1+sig2)/2",
    "geometric": "4*sqrt(eps1*eps2)*((sig1*sig2/r^2)^6-(sig1*sig2/r^2)^3)",
}


def custom(expression, epsilon=(0.9, 0.9, 0.4, 0.0)):
    system, force = openmm.System(), openmm.CustomNonbondedForce(expression)
    system.setDefaultPeriodicBoxVectors(*np.diag([1.2] * 3).tolist())
    for name in ("sig", "eps"):
        force.addPerParticleParameter(name)
    for k in range(4):
        system.addParticle(39.948)
        force.addParticle([(0.33, 0.33, 0.25, 0.1)[k], epsilon[k]])
    force.addExclusion(1, 2)
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(0.55)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.4)
    system.addForce(force)
    return system


@pytest.mark.parametrize("name", FORMS)
def test_custom_forces_of_lennard_jones_form(name):
    """Told by their numbers; an atom without an interaction is left out."""
    system = custom(FORMS[name])
    read = rv.openmm.from_system(system)
    (among,) = read.potential.parts
    assert isinstance(among, rv.Among)
    assert among.atoms.tolist() == [0, 1, 2]
    assert among.potential.potential.sigma.ndim == (2 if name == "geometric" else 1)
    x = 2.5 * X4  # 0.2 to 0.55 nm apart or so, and images
    # σ and ε come from two distances, with powers that cost some digits
    assert_same([among], rv.openmm.default_box(system), x, in_openmm(system, x, 0), 1e-7)


def with_offset(force):
    force.addGlobalParameter("a", 1)
    force.addParticleParameterOffset("a", 0, 1, 0, 0)


def scaled_charges_with_reaction_field(system):
    force = system.getForce(1)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.addException(0, 3, -0.03, 1, 0)


def nonbonded(change):
    system = chain_in_openmm([])
    change(system.getForce(1))
    return system


def changed(change):
    system = chain_in_openmm([])
    change(system)
    return system


def with_groups():
    system = custom(FORMS["berthelot"])
    system.getForce(0).addInteractionGroup([0], [1])
    return system


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: changed(lambda s: s.addConstraint(0, 1, 0.1)), "1 constraints"),
        (lambda: changed(lambda s: s.setVirtualSite(3, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))), "virtual site"),
        (lambda: changed(lambda s: s.setParticleMass(2, 0)), "Atom 2 has no mass"),
        (lambda: changed(lambda s: s.setParticleMass(2, 300)), "mass of 300"),
        (lambda: changed(lambda s: s.addForce(openmm.CMAPTorsionForce())), "CMAPTorsionForce"),
        (lambda: changed(lambda s: s.addForce(openmm.CustomTorsionForce("theta"))), "CustomTorsionForce"),
        (lambda: changed(lambda s: s.addForce(openmm.GBSAOBCForce())), "GBSAOBCForce"),
        (lambda: changed(lambda s: s.addForce(openmm.CustomBondForce("r"))), "CustomBondForce"),
        (lambda: nonbonded(lambda f: f.setNonbondedMethod(f.LJPME)), "LJPME"),
        (lambda: nonbonded(with_offset), "1 parameter offsets"),
        (lambda: nonbonded(lambda f: f.setIncludeDirectSpace(False)), "without its direct space"),
        (lambda: changed(lambda s: s.getForce(0).setUsesPeriodicBoundaryConditions(True)), "`NonbondedForce` takes no"),
        (lambda: custom("eps1*eps2*exp(-r/sig1)*exp(-r/sig2)"), "not of Lennard-Jones form"),
        (lambda: custom("-4*sqrt(eps1*eps2)*((0.3/r)^12-(0.3/r)^6)"), "not of Lennard-Jones form"),
        # another core, something between, something just within the cutoff
        (lambda: custom(FORMS["berthelot"].replace("6);", "6)+step(0.06-r)*1e20;", 1)), "not of Lennard-Jones form"),
        (lambda: custom(FORMS["berthelot"].replace("6);", "6)+1e3*step(0.2-r);", 1)), "not of Lennard-Jones form"),
        (lambda: custom(FORMS["berthelot"].replace("6);", "6)+1e-4*step(r-0.5);", 1)), "not of Lennard-Jones form"),
        (lambda: custom("4*eps1*eps2*((0.3/r)^12-(0.3/r)^6)*(1-delta(eps1-eps2))"), "with some types and not"),
        (with_groups, "interaction groups"),
        (lambda: chain_in_openmm([(0, 1, -0.02, 1, 0), (1, 2, -0.06, 1, 0)]), "one factor for all 1-4 pairs"),
        (lambda: chain_in_openmm([(0, 1, 0.1, 1, 0)], q=(0, 1, 0, -1)), "one of the atoms has none"),
        (lambda: changed(scaled_charges_with_reaction_field), "1-4 pairs with charges"),
    ],
)  # fmt: skip
def test_refused_systems(make, match):
    with pytest.raises(ValueError, match=match):
        rv.openmm.from_system(make())


def test_refused_topologies():
    topology, _, _ = peptide(False)
    with pytest.raises(ValueError, match="`topology` has 22 atoms but the system 4"):
        rv.openmm.from_system(chain_in_openmm([]), topology)
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for _ in range(4):
        topology.addAtom("X", None, residue)
    with pytest.raises(ValueError, match="has no element"):
        rv.openmm.from_system(chain_in_openmm([]), topology)


def test_states_of_openmm(without_type_checks):
    system = chain_in_openmm([])
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    x = np.random.default_rng(0).uniform(size=(system.getNumParticles(), 3))
    context.setPositions(x)
    context.setVelocities(2 * x)
    state = rv.openmm.from_state(context.getState(getPositions=True, getVelocities=True), system)
    np.testing.assert_array_equal(state.positions, x)
    np.testing.assert_array_equal(state.velocities, 2 * x)
    assert type(state.box) is type(rv.openmm.default_box(system))
    assert not rv.openmm.from_state(context.getState(getPositions=True), system).has_velocities
    with pytest.raises(ValueError, match="`state` has no positions"):
        rv.openmm.from_state(context.getState(getEnergy=True), system)
    for refused in (rv.openmm.default_box, rv.openmm.from_system, lambda system: rv.openmm.from_state(state, system)):
        with pytest.raises(TypeError, match=r"`(system|state)` is .*wanted an instance of `(System|State)`"):
            refused(3.5)
    context.setPositions(x + 1e12)
    with pytest.raises(ValueError, match="`positions` reach 1e\\+12 nm"):
        rv.openmm.from_state(context.getState(getPositions=True), system)


def test_what_is_no_surface_is_left_out():
    system = chain_in_openmm([])
    system.addForce(openmm.CMMotionRemover())
    system.addForce(openmm.AndersenThermostat(300, 1))
    system.addForce(openmm.MonteCarloBarostat(1, 300))
    assert len(rv.openmm.from_system(system).potential.parts) == 3


def of_chain(potential, num=4):
    bonds = [(k, k + 1) for k in range(num - 1)]
    return rv.System(rv.Topology.from_elements(["C"] * num, bonds=bonds, molecules=[0] * num), potential)


LJ = rv.LennardJones(0.3, 0.5, cutoff=0.5)
BONDS = rv.HarmonicBond(np.array([[0, 1], [1, 2], [2, 3]]), 1e5, 0.15)
BIG = rv.OrthorhombicBox(jnp.full(3, 2.0))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.openmm.to_system(of_chain(rv.Mie(0.3, 0.5, 14.0, 6.0, cutoff=0.5)), BIG), "`Mie`, which has no counterpart"),  # noqa: E501
        (lambda: rv.openmm.to_system(of_chain(-1 * LJ), BIG), "`Scaled`"),
        (lambda: rv.openmm.to_system(of_chain(LJ + LJ), BIG), "more than one `LennardJones`"),
        (lambda: rv.openmm.to_system(of_chain(rv.ReactionField(np.ones(4), cutoff=0.5) + rv.ReactionField(np.ones(4), cutoff=0.5)), BIG), "more than one part with charges"),  # noqa: E501
        (lambda: rv.openmm.to_system(of_chain(LJ + rv.ReactionField(np.ones(4), cutoff=0.6)), BIG), "wanted one"),
        (lambda: rv.openmm.to_system(of_chain(rv.ReactionField(np.ones(4), cutoff=0.6, truncation=rv.SmoothSwitch(0.5))), BIG), "wanted `PlainCutoff`"),  # noqa: E501
        (lambda: rv.openmm.to_system(of_chain(rv.Rescaling(rv.ReactionField(np.ones(4), cutoff=0.6), np.array([[0, 1]]), 0.5)), BIG), "scaled pairs"),  # noqa: E501
        (lambda: rv.openmm.to_system(of_chain(LJ + rv.Coulomb(np.ones(4))), rv.OpenBox()), "beside `Coulomb`"),
        (lambda: rv.openmm.to_system(of_chain(rv.LennardJones(np.full((1, 1), 0.3), np.ones((1, 1)), cutoff=1.0, species=np.zeros(4, int))), BIG), "pairs of species"),  # noqa: E501
        (lambda: rv.openmm.to_system(of_chain(rv.LennardJones(0.3, 0.5, cutoff=1.0, truncation=rv.ShiftedCutoff())), BIG), "ShiftedCutoff"),  # noqa: E501
        (lambda: rv.openmm.to_system(of_chain(LJ + rv.ListedPairs(LJ, np.array([[0, 1]]))), BIG), "wanted it excluded"),
        (lambda: rv.openmm.to_system(of_chain(rv.ListedPairs(LJ, np.array([[0, 1], [1, 0]]))), BIG), "the pair .0, 1. twice"),  # noqa: E501
        (lambda: rv.openmm.to_system(of_chain(LJ), rv.TriclinicBox(jnp.array([[2.0, 0.1, 0], [0, 2, 0], [0, 0, 2]]))), "turn the box"),  # noqa: E501
        (lambda: jax.jit(lambda s: rv.openmm.to_system(of_chain(rv.LennardJones(s, 0.5, cutoff=0.5)), BIG))(0.3), "traced"),  # noqa: E501
        (lambda: rv.openmm.to_xml(of_chain(rv.MorseBond(np.array([[0, 1]]), 1.0, 1.0, 0.1))), "`MorseBond`, which such a file"),  # noqa: E501
        (lambda: rv.openmm.to_xml(of_chain(rv.HarmonicBond(np.array([[0, 2]]), 1e5, 0.15))), "does not bond"),
        (lambda: rv.openmm.to_xml(of_chain(BONDS + BONDS)), "two terms of `HarmonicBond`"),
        (lambda: rv.openmm.to_xml(of_chain(BONDS + LJ)), "multiplied by 1.0; wanted 0.0"),
        (lambda: rv.openmm.to_xml(of_chain(rv.Coulomb(np.ones(4)))), "multiplied by 1.0; wanted 0.0"),
        (lambda: rv.openmm.to_xml(of_chain(rv.PeriodicTorsion(np.array([[1, 0, 2, 3]]), 1.0, 2, 0.0))), "neither along three bonds"),  # noqa: E501
        (lambda: rv.openmm.to_xml(of_chain(rv.ListedPairs(LJ, np.array([[0, 3]])))), "parameters of its own"),
        (lambda: rv.openmm.to_xml(rv.System(rv.Topology.from_elements(["C", "C"], bonds=[(0, 1)]), rv.HarmonicBond(np.array([[0, 1]]), 1.0, 0.1))), "different molecules"),  # noqa: E501
        (lambda: rv.openmm.to_topology(rv.Topology.from_elements(["C"] * 3, molecules=[0, 1, 0])), "scattered"),
        (lambda: rv.openmm.to_xml(rv.System(rv.Topology.from_elements(["C"] * 2), rv.Coulomb(np.array([1.0, -1.0])))), "other parameters"),  # noqa: E501
        (lambda: rv.openmm.to_xml(of_chain(rv.Coulomb(np.ones(5), exclusions=np.array([[i, j] for i in range(5) for j in range(i) if i - j < 3]), scaled=np.array([[0, 3]]), scale=0.5), 5)), "by 0.5 and by 1.0"),  # noqa: E501
    ],
)  # fmt: skip
def test_refused_potentials(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_without_openmm(monkeypatch):
    system = of_chain(LJ)
    monkeypatch.setitem(sys.modules, "openmm", None)
    for call in (
        lambda: rv.openmm.from_system(None),
        lambda: rv.openmm.to_system(system, BIG),
        lambda: rv.openmm.to_xml(system),
        lambda: rv.openmm.to_topology(system.topology),
        lambda: rv.openmm.OpenMMSampler(300, 1.0, dt=0.001, num_steps=1, platform="CPU"),
    ):
        with pytest.raises(ImportError, match=r"pip install openmm"):
            call()


def test_morse_and_urey_bradley_and_sums():
    bonds = rv.MorseBond(
        np.array([[0, 1], [1, 2], [2, 3]]), np.array([300.0, 200]), 20.0, 0.15, kinds=np.array([0, 1, 0])
    )
    potential = (bonds + rv.UreyBradley(np.array([[0, 1, 2]]), 1e4, 0.24)) + rv.ReactionField(
        np.array([1.0, -1, 1, -1]), cutoff=0.9
    )
    nested = rv.Sum((rv.Sum(potential.parts[:2]), potential.parts[2]))
    written = rv.openmm.to_system(of_chain(nested), BIG)
    for k, part in enumerate(potential.parts):
        assert_same([part], BIG, X4, in_openmm(written, X4, k), SAME)


def dimers(num=40):
    """Weak springs between pairs of atoms in open space, whose energies have a closed distribution."""
    bonds = np.arange(2 * num).reshape(num, 2)
    topology = rv.Topology.from_elements(["O", "H"], bonds=[(0, 1)], molecules=[0, 0]).repeat(num)
    x = np.random.default_rng(0).normal(size=(2 * num, 3))
    x[1::2] = x[::2] + np.array([0.3, 0, 0])
    return rv.System(topology, rv.HarmonicBond(bonds, 2000.0, 0.3)), rv.State(x, np.zeros_like(x), rv.OpenBox())


def test_samples_are_of_the_ensemble():
    system, state = dimers()
    sampler = rv.openmm.OpenMMSampler(300.0, 5.0, dt=0.002, num_steps=100, platform="Reference")
    samples, chains = sampler.sample(system, state.repeat(2), 240, key=jax.random.key(0))
    assert samples.states.positions.shape == (240, 80, 3)
    late = samples[20:]  # of 24 ps, the first 2 to forget where they started
    states, energies = late.states, -late.log_density * (rv.units.BOLTZMANN * 300)
    r = np.linspace(1e-3, 0.8, 4001)
    beta = 1 / (rv.units.BOLTZMANN * 300)
    u = 1000 * (r - 0.3) ** 2
    weights = r**2 * np.exp(-beta * u)
    mean = 40 * np.sum(u * weights) / np.sum(weights)
    # 8800 energies of single dimers, correlated over fewer than 4 samples: each spreads by √2 times half of kT
    error = np.sqrt(2 * 4 / 8800)
    np.testing.assert_allclose(jnp.mean(energies), mean, rtol=4 * error)
    kinetic = jnp.mean(jax.vmap(system.kinetic_energy)(states.velocities))
    # (ωh)²/4 less in the springs, whose (ωh)² is 0.01
    np.testing.assert_allclose(kinetic * 2 / 240 * beta, 1, rtol=4 * np.sqrt(2 * 4 / (220 * 240)) + 0.01)
    wanted = -beta * energy(system.potential, samples.states.positions[7], state.box)
    np.testing.assert_allclose(samples.log_density[7], wanted, rtol=1e-12)
    last = jax.tree.map(lambda x: x[-2:], samples.states)
    assert eqx.tree_equal(chains.states, last)


def test_velocities_are_of_the_time_of_the_positions():
    """Without friction the steps are those of velocity Verlet, also over the border between two samples."""
    system, state = dimers(3)
    state = rv.State(state.positions * 1.01, state.velocities, state.box)
    sampler = rv.openmm.OpenMMSampler(300.0, 0.0, dt=0.005, num_steps=4, platform="Reference")
    samples, chains = sampler.sample(system, state.repeat(1), 1, key=jax.random.key(0))
    samples, _ = sampler.sample(system, chains, 1, key=jax.random.key(0))
    half, x, v = 0.0025 / np.asarray(system.topology.masses)[:, None], np.asarray(state.positions), 0.0

    def forces(x):
        d = x[1::2] - x[::2]
        f = 2000 * (1 - 0.3 / np.linalg.norm(d, axis=1, keepdims=True)) * d
        return np.stack([f, -f], axis=1).reshape(-1, 3)

    for _ in range(8):
        v = v + half * forces(x)
        x = x + 0.005 * v
        v = v + half * forces(x)
    np.testing.assert_allclose(samples.states.velocities[0], v, atol=1e-10)
    np.testing.assert_allclose(samples.states.positions[0], x, atol=1e-10)


def test_same_key_same_samples():
    system, state = dimers(3)
    sampler = rv.openmm.OpenMMSampler(300.0, 5.0, dt=0.002, num_steps=10, platform="Reference")
    draw = lambda seed: sampler.sample(system, state.repeat(2), 4, key=jax.random.key(seed))[0].states.positions
    np.testing.assert_array_equal(draw(1), draw(1))
    assert np.all(np.abs(draw(1) - draw(2)).max(axis=(1, 2)) > 1e-3)
    assert np.abs(draw(1)[0] - draw(1)[1]).max() > 1e-3  # chains differ


def test_water_at_constant_pressure():
    system = rv.qspcfw(WATERS, BOX, cutoff=0.4)  # room to shrink
    state = rv.State(jnp.asarray(water_positions()), jnp.zeros((3 * WATERS, 3)), BOX)
    sampler = lambda pressure: rv.openmm.OpenMMSampler(
        298.15, 5.0, dt=0.0005, num_steps=200, pressure=pressure, platform="CPU"
    )
    samples, _ = sampler(rv.units.BAR).sample(system, state.repeat(2), 4, key=jax.random.key(0))
    lengths = np.asarray(samples.states.box.lengths)
    assert len(np.unique(lengths[:, 0])) == 4  # each sample has its own
    np.testing.assert_array_equal(lengths, lengths[:, :1].repeat(3, axis=1))
    high, _ = sampler(2e4 * rv.units.BAR).sample(system, state.repeat(2), 4, key=jax.random.key(0))
    assert np.mean(high.states.box.lengths[2:]) < np.mean(lengths[2:])  # units: pressed, it shrinks
    k = 3
    box = jax.tree.map(lambda x: x[k], samples.states.box)
    x = samples.states.positions[k]
    kt = rv.units.BOLTZMANN * 298.15
    found = -kt * samples.log_density[k] - rv.units.BAR * box.volume  # u = (U + pV)/kT
    np.testing.assert_allclose(found, energy(system.potential, x, box), rtol=1e-10)
    written = rv.openmm.to_system(system, box)
    wanted = sum(in_openmm(written, x, force)[0] for force in range(3))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)  # `accuracy` 1e-4 of parts that cancel


@pytest.mark.parametrize(("every", "num_steps", "tried"), [(4, 12, 4), (30, 12, 12)])
def test_how_often_the_volume_is_tried(every, num_steps, tried, monkeypatch):
    """At least once a round: every call begins to count anew."""
    frequencies, barostat = [], openmm.MonteCarloBarostat

    def made(pressure, temperature, frequency):
        frequencies.append(frequency)
        return barostat(pressure, temperature, frequency)

    monkeypatch.setattr(openmm, "MonteCarloBarostat", made)
    system, state = rv.System(argon_topology(), rv.LennardJones(0.34, 1.0, cutoff=0.4)), argon_state()
    sampler = rv.openmm.OpenMMSampler(
        94.4, 5.0, dt=0.002, num_steps=num_steps, pressure=1 * rv.units.BAR, platform="Reference", every=every
    )
    sampler.sample(system, state.repeat(1), 1, key=jax.random.key(0))
    assert set(frequencies) == {tried}


def test_explosions_are_told():
    system, state = dimers(3)
    sampler = rv.openmm.OpenMMSampler(300.0, 0.0, dt=0.1, num_steps=1000, platform="Reference")
    stretched = rv.State(state.positions * 1.3, state.velocities, state.box)
    with pytest.raises(FloatingPointError, match="exploded"):
        sampler.sample(system, stretched.repeat(1), 1, key=jax.random.key(0))


def test_refused_platform():
    with pytest.raises(ValueError, match="`platform` is 'Abacus'; wanted one of Reference"):
        rv.openmm.OpenMMSampler(300.0, 1.0, dt=0.001, num_steps=1, platform="Abacus")


def test_refused_states():
    system, state = dimers(3)
    key = jax.random.key(0)
    sampler = rv.openmm.OpenMMSampler(300.0, 1.0, dt=0.001, num_steps=1, platform="Reference")
    with pytest.raises(ValueError, match=r"`state.repeat\(chains\)`"):
        sampler.sample(system, state, 1, key=key)
    with pytest.raises(ValueError, match="wanted a multiple of the chains"):
        sampler.sample(system, state.repeat(2), 3, key=key)
    with pytest.raises(ValueError, match=r"outside `jax\.jit`"):
        jax.jit(lambda key: sampler.sample(system, state.repeat(1), 1, key=key)[0].log_density)(key)
    pressed = rv.openmm.OpenMMSampler(300.0, 1.0, dt=0.001, num_steps=1, pressure=1.0)
    with pytest.raises(ValueError, match="`OpenBox`, which has no volume"):
        pressed.sample(system, state.repeat(1), 1, key=key)
