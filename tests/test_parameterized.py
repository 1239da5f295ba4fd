"""OpenMM force fields with marks of what is to be trained."""

import io

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv
from reverlet import targets

openmm = pytest.importorskip("openmm")

XML = """<ForceField>
 <AtomTypes>
  <Type name="O" class="OW" element="O" mass="15.99943"/>
  <Type name="H" class="HW" element="H" mass="1.007947"/>
 </AtomTypes>
 <Residues>
  <Residue name="HOH">
   <Atom name="O" type="O"/><Atom name="H1" type="H"/><Atom name="H2" type="H"/>
   <Bond atomName1="O" atomName2="H1"/><Bond atomName1="O" atomName2="H2"/>
  </Residue>
 </Residues>
 <HarmonicBondForce>
  <Bond class1="OW" class2="HW" length="0.09572" k="462750.4" parameterize="k, length"/>
 </HarmonicBondForce>
 <HarmonicAngleForce>
  <Angle class1="HW" class2="OW" class3="HW" angle="1.82421813418" k="836.8" parameterize="angle"/>
 </HarmonicAngleForce>
 <!-- of TIP3P -->
 <NonbondedForce coulomb14scale="0.833333" lj14scale="0.5">
  <Atom type="O" charge="-0.834" sigma="0.315" epsilon="0.6" parameterize="sigma,epsilon"
        parameter_eval="charge=-2*PARM['NonbondedForce.Atom/charge/H']"/>
  <Atom type="H" charge="0.417" sigma="0.1" epsilon="0.1" parameterize="charge"
        parameter_repeat="sigma=HarmonicBondForce.Bond/length/OW.HW"/>
 </NonbondedForce>
</ForceField>
"""
WATER = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
TOPOLOGY = rv.Topology.concatenate([WATER] * 2)
X = jnp.array([[0.0, 0, 0], [0.09, 0.03, 0], [-0.03, 0.09, 0], [0.3, 0, 0], [0.38, 0.05, 0], [0.26, 0.08, 0.02]])
CHARGE, LENGTH = "NonbondedForce.Atom/charge/H", "HarmonicBondForce.Bond/length/OW.HW"


def read(folder, text=XML):
    path = folder / "water.xml"
    path.write_text(text, "utf-8")
    return targets.read_parameterized(path)


def system(xml):
    theirs = rv.openmm.to_topology(TOPOLOGY)
    made = openmm.app.ForceField(io.StringIO(xml)).createSystem(theirs, constraints=None, rigidWater=False)
    return rv.openmm.from_system(made, theirs)


@eqx.filter_jit
def energy(made):
    return made.potential_energy(X, rv.OpenBox())  # pyright: ignore[reportCallIssue]


def test_values_are_where_they_belong(tmp_path):
    """Energies at other values are those of a file with them, and derivatives are those of finite differences."""
    field = read(tmp_path)
    assert len(field.values) == 6
    bound = field.bind(system)
    np.testing.assert_allclose(energy(bound(field)), energy(system(field.xml())), rtol=1e-10)
    names = sorted(field.values)
    other = eqx.tree_at(lambda f: [f.values[n] for n in names], field, [1.05 * field.values[n] for n in names])
    np.testing.assert_allclose(energy(bound(other)), energy(system(other.xml())), rtol=1e-10)
    value, slope = eqx.filter_jit(eqx.filter_value_and_grad(lambda f: energy(bound(f))))(other)
    np.testing.assert_allclose(value, energy(bound(other)), rtol=1e-10)
    for name in names:
        h = 1e-5 * float(other.values[name])
        at = lambda x, name=name: energy(system(eqx.tree_at(lambda f: f.values[name], other, x).xml()))
        numerical = (at(other.values[name] + h) - at(other.values[name] - h)) / (2 * h)
        np.testing.assert_allclose(slope.values[name], numerical, rtol=1e-5)  # of differences of second order


def test_the_file_keeps_all_else(tmp_path):
    field = read(tmp_path)
    changed = eqx.tree_at(lambda f: f.values[CHARGE], field, jnp.asarray(0.4))
    text = changed.xml()
    for kept in ('parameterize="k, length"', "<!-- of TIP3P -->", "parameter_eval=", 'lj14scale="0.5"'):
        assert kept in text
    assert 'charge="-0.8"' in text
    again = read(tmp_path, text)
    assert set(again.values) == set(field.values)
    assert float(again.values[CHARGE]) == 0.4
    assert again.xml() == text


def test_in_single_precision(tmp_path):
    field = jax.tree.map(lambda x: x.astype(jnp.float32), read(tmp_path))
    numbers = jax.tree.leaves(eqx.filter(field.bind(system)(field), eqx.is_inexact_array))
    assert {x.dtype for x in numbers} == {jnp.dtype("float32")}


def changed(old, new):
    assert old in XML
    return XML.replace(old, new)


WRONG = {
    "no XML": ("<ForceField>", "no element found"),
    "nothing": ("<ForceField/>", "nothing is marked to be trained"),
    "an attribute that is not there": (changed('"sigma,epsilon"', '"sigmma"'),
                                       "names 'sigmma', which it does not have; did you mean 'sigma'"),
    "a text": (changed('length="0.09572"', 'length="long"'), "'length', which is 'long'; wanted a finite number"),
    "not finite": (changed('epsilon="0.6"', 'epsilon="inf"'), "'epsilon', which is 'inf'"),
    "a parameter twice": (changed('"charge"', '"charge,charge"'), "charge/H is marked by `parameterize` twice"),
    "a repeat of nothing": (changed("=HarmonicBondForce.Bond/length/OW.HW", "=HarmonicBondForce.Bond/lenght/OW.HW"),
                            "sigma/H follows from 'HarmonicBondForce.Bond/lenght/OW.HW', which is no parameter; did"),
    "a repeat of no attribute": (changed('"sigma=Harm', '"radius=Harm'), "names 'radius'"),
    "a repeat without =": (changed('"sigma=HarmonicBondForce.Bond/length/OW.HW"', '"sigma"'), "is 'sigma'; wanted an"),
    "a program": (changed("-2*PARM['NonbondedForce.Atom/charge/H']", "__import__('os').getpid()"), "is no arithmetic"),
    "a power": (changed("-2*PARM", "-2**PARM"), "is no arithmetic"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused(tmp_path, name):
    text, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_what_cannot_be_bound(tmp_path):
    product = changed("-2*PARM['NonbondedForce.Atom/charge/H']", f"-2*PARM['{CHARGE}']*PARM['{LENGTH}']")
    with pytest.raises(ValueError, match="potential does not follow the parameters"):
        read(tmp_path, product).bind(system)
    bound = read(tmp_path).bind(system)
    with pytest.raises(ValueError, match="The force field has the values"):
        bound(read(tmp_path, changed('parameterize="k, length"', 'parameterize="length"')))
