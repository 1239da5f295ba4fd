"""Targets in files: what is written is read again, and what is wrong is refused with its place."""

import dataclasses

import numpy as np
import pytest

import reverlet as rv
from reverlet import targets

pytestmark = pytest.mark.usefixtures("without_type_checks")

LINES = {
    "property": '"density"',
    "value": "0.997",
    "unit": '"g/cm^3"',
    "uncertainty": "1.0",
    "uncertainty_unit": '"kg/m^3"',
    "temperature": '"298.15 K"',
    "pressure": '"1 bar"',
    "weight": "4.0",
    "citation": r'"W. Wagner and A. Pruß, \"IAPWS-95\""',
}
PHASES = (targets.Phase("liquid", lambda model: model), targets.Phase("ice", lambda model: model))


def toml(*changes):
    """A file with one target for each of these, changed from a good one; `None` leaves a line out."""
    rows = [{**LINES, **change} for change in changes]
    return "\n".join(["[[target]]\n" + "\n".join(f"{k} = {v}" for k, v in row.items() if v) for row in rows])


def read(folder, text):
    path = folder / "targets.toml"
    path.write_text(text, "utf-8")
    return targets.read(path)


def test_what_is_written_is_read_again(tmp_path):
    (tmp_path / "goo.dat").write_text("# r (nm), g\n0.1 0.0\n0.2 0.0\n0.3 2.5\n0.4 1.0\n")
    curve = {"property": '"rdf"', "value": None, "file": '"goo.dat"', "unit": '""', "uncertainty": "0.1",
             "uncertainty_unit": None, "axis_unit": '"nm"', "elements": '["O", "O"]', "phase": '"ice"',
             "pressure": None}  # fmt: skip
    tensor = {"property": '"elastic_constants"', "value": "[[151.0, 77.0], [77.0, 151.0]]", "unit": '"GPa"',
              "uncertainty_unit": None}  # fmt: skip
    found = read(tmp_path, 'title = "a\\\\b\\n"\n' + toml({}, curve, tensor, {"phase": '"gas"'}))
    assert found.title == "a\\b\n"
    targets.write(tmp_path / "again.toml", found)
    assert targets.read(tmp_path / "again.toml") == found
    density, rdf, elastic, _ = found.targets
    np.testing.assert_allclose(density.value.value, 0.997 * rv.units.GRAM_PER_CUBIC_CENTIMETER)
    np.testing.assert_allclose(density.uncertainty.value * 997, density.value.value)
    assert density.pressure == targets.Quantity(1, "bar")
    assert rdf.value.number == (0.0, 0.0, 2.5, 1.0)
    np.testing.assert_allclose(elastic.value.value, 1e4 * rv.units.BAR * np.array([[151, 77], [77, 151]]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1 g/cm^3", "1000 kg/m^3"),
        ("1 kcal/mol", "4.184 kJ/mol"),
        ("18 cal/mol/K", "75.312 J/mol/K"),
        ("1 atm", "101325 Pa"),
        ("1 GPa", "10 kbar"),
        ("45 1e-6/bar", "0.45 1/GPa"),
        ("1 1e-5 cm^2/s", "1e-3 nm^2/ps"),
        ("180 deg", f"{np.pi} rad"),
    ],
)
def test_the_same_in_other_units(one, other):
    parse = lambda text: targets.Quantity(float(text.split(" ", 1)[0]), text.split(" ", 1)[1])
    assert parse(one).dimension == parse(other).dimension
    np.testing.assert_allclose(parse(one).value, parse(other).value, rtol=1e-12)


def test_state_points_are_by_conditions(tmp_path):
    """1 atm and 1.01325 bar are one state point; weights divide squares of errors; what has none is left out."""
    pressure = {"property": '"pressure"', "unit": '"bar"', "uncertainty": "100", "uncertainty_unit": None,
                "pressure": None}  # fmt: skip
    dielectric = {"property": '"dielectric_constant"', "unit": '""', "uncertainty_unit": None}
    same = [{**dielectric, "pressure": p} for p in ('"1 atm"', '"1.01325 bar"')]
    text = toml(dielectric, pressure, *same, {"weight": "0.0"})
    points = read(tmp_path, text).state_points(PHASES)
    assert [len(p.targets) for p in points] == [1, 1, 2]
    assert [type(p.ensemble) for p in points] == [rv.NPT, rv.NVT, rv.NPT]
    assert isinstance(points[2].ensemble, rv.NPT)
    np.testing.assert_allclose(points[2].ensemble.pressure, 1.01325 * rv.units.BAR, rtol=1e-6)
    np.testing.assert_allclose(points[1].targets[0].error, 50 * rv.units.BAR, rtol=1e-6)  # the weight is four
    assert isinstance(points[1].targets[0].observable, rv.Pressure)


def test_a_curve_goes_into_the_bins_of_its_observable(tmp_path):
    r = np.linspace(0.01, 0.6, 60)
    g = 1 + np.sin(20 * r)
    curve = {"property": '"rdf"', "axis": str(r.tolist()), "axis_unit": '"nm"', "value": str(g.tolist()), "unit": '""',
             "uncertainty": "0.1", "uncertainty_unit": None, "weight": None}  # fmt: skip
    ((target,),) = [p.targets for p in read(tmp_path, toml(curve)).state_points(PHASES)]
    assert isinstance(target.observable, rv.RDF)
    centers = np.asarray(target.observable.centers)
    assert target.value.shape == (60,)
    np.testing.assert_allclose(target.value[2:], 1 + np.sin(20 * centers[2:]), atol=0.01)  # bins of 0.01 nm
    np.testing.assert_allclose(target.error, 0.1, rtol=1e-6)


WRONG = {
    "no TOML": ("density = = 1", "is no TOML"),
    "no targets": ("title = 'x'", "has no targets"),
    "an unknown key": (toml({"cite": '"x"'}), "target 1 has the key 'cite', which is not known"),
    "an unknown key of the file": ("targets = 1", "has the key 'targets', which is not known; did you mean 'target'"),
    "an unknown property": (toml({"property": '"densty"'}), "`property` is 'densty'; did you mean 'density'"),
    "no unit": (toml({}, {"unit": None}), "target 2 has no `unit`"),
    "no uncertainty": (toml({"uncertainty": None, "temperature": None}), "has no `uncertainty`, `temperature`"),
    "a unit that is none": (toml({"unit": '"g/cc"'}), r"\(density\): `value`: The unit 'g/cc' is not known"),
    "an impossible unit": (
        toml({"unit": '"kJ/mol"'}),
        "its unit is 'kJ/mol', which is one of molar energy; wanted",
    ),
    "an impossible uncertainty": (toml({"uncertainty_unit": '"K"'}), "`uncertainty` of `density`: its unit is 'K'"),
    "not finite": (toml({"value": "nan"}), r"`value`: The number is nan; wanted finite"),
    "a text": (toml({"value": '"1"'}), "`value`: The number is '1'; wanted a number"),
    "true": (toml({"value": "true"}), "`value`: The number is True"),
    "a certain value": (toml({"uncertainty": "0.0"}), "`uncertainty` is 0.0 kg/m.3; wanted more than zero"),
    "a temperature without unit": (toml({"temperature": "298.15"}), "`temperature`: it is 298.15; wanted a text"),
    "a pressure in kelvins": (toml({"pressure": '"1 K"'}), "`pressure`: its unit is 'K'"),
    "a cold one": (toml({"temperature": '"-1 K"'}), "`temperature` is -1.0 K; wanted more than zero"),
    "a negative weight": (toml({"weight": "-1.0"}), "`weight` is -1.0"),
    "a phase that is no text": (toml({"phase": "1"}), "`phase` is 1; wanted a text"),
    "an axis of a number": (toml({"axis": "[1.0]", "axis_unit": '"nm"'}), "`axis` is .*; wanted none"),
    "no file": (toml({"file": '"x"'}), "wanted either `value` .* or `file`"),
    "a gas of a density": (toml({"gas": '"gas"'}), "`gas` is 'gas' of `density`"),
    "rows of different lengths": (toml({"value": "[[1.0], [1.0, 2.0]]"}), "rows of as many numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused(tmp_path, name):
    text, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_heat_of_vaporization_makes_a_state_point_of_its_gas(tmp_path):
    heat = {"property": '"heat_of_vaporization"', "unit": '"kJ/mol"', "uncertainty_unit": None, "gas": '"ice"'}
    liquid, gas = read(tmp_path, toml(heat)).state_points(PHASES)
    assert (liquid.name, gas.name) == ("liquid 298.15 K 1 bar", "ice 298.15 K")
    assert isinstance(gas.ensemble, rv.NVT)
    assert gas.targets == ()
    observable = liquid.targets[0].observable
    assert isinstance(observable, rv.HeatOfVaporization)
    assert observable.other == gas.name


ONES = {"density": "g/cm^3", "enthalpy": "kJ/mol", "heat_capacity": "J/mol/K", "thermal_expansion": "1/K",
        "isothermal_compressibility": "1/bar", "dielectric_constant": "", "pressure": "bar",
        "self_diffusion": "m^2/s", "tetrahedral_order": "", "elastic_constants": "GPa"}  # fmt: skip


def test_every_property_has_its_observable(tmp_path):
    names = ["Density", "Enthalpy", "HeatCapacity", "ThermalExpansion", "IsothermalCompressibility",
             "DielectricConstant", "Pressure", "SelfDiffusion", "TetrahedralOrder",
             "CubicElasticConstants"]  # fmt: skip
    rows = [{"property": f'"{kind}"', "unit": f'"{unit}"', "uncertainty_unit": None} for kind, unit in ONES.items()]
    rows[-1]["value"] = "[1.0, 2.0, 3.0]"
    (point,) = read(tmp_path, toml(*rows)).state_points(PHASES)
    assert [type(t.observable).__name__ for t in point.targets] == names
    np.testing.assert_allclose(point.targets[0].value / point.targets[0].scale, 0.997, rtol=1e-6)


def test_angles_go_into_bins(tmp_path):
    """Per degree in the file, per radian in the observable; sin θ/2 of an ideal gas."""
    degrees = np.linspace(0.0, 180.0, 181)
    density = np.sin(np.radians(degrees)) / 2 * np.pi / 180
    curve = {"property": '"adf"', "axis": str(degrees.tolist()), "axis_unit": '"deg"', "value": str(density.tolist()),
             "unit": '"1/deg"', "uncertainty": "0.001", "uncertainty_unit": None}  # fmt: skip
    adf = rv.ADF(0.4, 30)
    (point,) = read(tmp_path, toml(curve)).state_points(PHASES, observable=lambda record: adf)
    np.testing.assert_allclose(point.targets[0].value, np.sin(adf.centers) / 2, atol=1e-3)  # of bins of 6 degrees


def test_wrong_state_points_are_refused(tmp_path):
    found = read(tmp_path, toml({"phase": '"lce"'}))
    with pytest.raises(ValueError, match="no phase 'lce' in `phases`; did you mean 'ice'"):
        found.state_points(PHASES)
    bare = dataclasses.replace(found.targets[0], weight=0.0, phase="ice")
    with pytest.raises(ValueError, match="No target has a weight"):
        targets.TargetFile((bare,)).state_points(PHASES)
    adf = dataclasses.replace(bare, kind="elastic_constants", weight=1.0, value=targets.Quantity(1, "GPa"),
                              uncertainty=targets.Quantity(1, "GPa"))  # fmt: skip
    with pytest.raises(ValueError, match="no observable of `elastic_constants` by default"):
        targets.TargetFile((adf,)).state_points(PHASES)
