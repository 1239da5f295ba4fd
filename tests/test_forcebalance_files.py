"""ForceBalance's data.csv: read, written, and refused."""

import dataclasses

import numpy as np
import pytest

from reverlet import targets

pytestmark = pytest.mark.usefixtures("without_type_checks")

TEXT = """# a comment,,,
"# another, with a comma",,,
,,,
Global,rho_denom,2.0,,
Global,hvap_denom,0.5,,
Global,cp_denom,2
Global,alpha_denom,1
Global,use_cvib_intra,TRUE
Global,use_cni,FALSE

t,P,mbar,Rho,Rho_wt,Hvap,Cvib_intra,Cni,Cp,Cp_wt,dEvib_inter,Alpha,Alpha_wt
298.15,1.0 atm,TRUE,997.045,1.0,43.989,3.542,-0.025,18.002,1.0,-2.231,2.572,0.0
#299.15,1.0 atm,TRUE,997.045,1.0,43.989,3.542,-0.025,18.002,1.0,-2.231,2.572,0.0
298.15,1000.0 bar,FALSE,1037.872,3.0,,3.542,-0.025,17.123,0.0,-2.231,3.502,0.0
"""


def read(folder, text):
    path = folder / "data.csv"
    path.write_text(text, "utf-8")
    return targets.read_forcebalance(path)


def test_read_and_written_back(tmp_path):
    data = read(tmp_path, TEXT)
    assert data.columns[:3] == ("T", "P", "MBAR")
    assert data.properties == ("Rho", "Hvap", "Cp")  # nothing of α has a weight
    targets.write_forcebalance(tmp_path / "again.csv", data)
    assert targets.read_forcebalance(tmp_path / "again.csv") == data


def test_the_objective_is_forcebalances(tmp_path):
    """Σ w/Σw ((A - A*)/denominator)² of each property, with what is added to a calculated one."""
    found = read(tmp_path, TEXT).target_file().targets
    assert [t.kind for t in found] == ["density", "density", "heat_of_vaporization", "heat_capacity"]
    assert [t.weight for t in found] == [0.25, 0.75, 1.0, 1.0]
    assert [t.conditions for t in found[:2]] == ["liquid 298.15 K 1.01325 bar", "liquid 298.15 K 1000 bar"]
    assert found[2].value.number == 43.989 - 3.542  # `use_cni` is off
    np.testing.assert_allclose(found[3].value.value, (18.002 + 2.231) * 4.184e-3)
    calculated = [997.045, 1039.872, 41.447, 20.0]
    distances = [
        (c - np.asarray(t.value.number)) / np.asarray(t.uncertainty.number)
        for c, t in zip(calculated, found, strict=True)
    ]
    objective = sum(t.weight * d**2 for t, d in zip(found, distances, strict=True))
    assert np.isclose(objective, 0.75 * (2 / 2) ** 2 + (1 / 0.5) ** 2 + ((20 - 18.002 - 2.231) / 2) ** 2)
    targets.write(tmp_path / "same.toml", targets.TargetFile(found))
    assert targets.read(tmp_path / "same.toml").targets == found


def with_line(old, new):
    assert old in TEXT
    return TEXT.replace(old, new)


WRONG = {
    "an unknown setting": (with_line("rho_denom", "rho_denon"), "line 4 has the setting 'rho_denon': did you"),
    "an unknown column": (with_line("Hvap,", "Hvop,"), "line 11 has the column 'Hvop': did you mean 'Hvap'"),
    "no temperature": (with_line("t,P,mbar", "Kappa,P,mbar"), "no column 'T'"),
    "no pressure and temperature": ("Global,rho_denom,1\nRho\n1\n", "no column 'T' and no column 'P'"),
    "no property": ("T,P\n298,1\n", "no column of a property; wanted one or more of Rho, Hvap"),
    "a weight of nothing": (with_line("Rho,", "Kappa,"), "no column 'Rho'"),
    "a correction that is not there": (with_line("use_cni,FALSE", "use_cvib_inter,TRUE"), "no column 'Cvib_inter'"),
    "no denominator": (with_line("Global,cp_denom,2", ""), "property 'Cp' with `cp_denom` None"),
    "a denominator of zero": (with_line("rho_denom,2.0", "rho_denom,0"), "`rho_denom` 0.0; wanted a number more"),
    "no columns": ("Global,rho_denom,1\n", "no line with the names of columns"),
    "no state points": (TEXT.split("298.15")[0], "wanted one row or more"),
    "a text": (with_line("997.045,1.0,43", "x,1.0,43"), "line 12, Rho has 'x' in the place of a finite number"),
    "not finite": (with_line("1037.872", "nan"), "line 14, Rho has 'nan'"),
    "a pressure in kelvins": (with_line("1000.0 bar", "1000.0 K"), "line 14, P: its unit is 'K'"),
    "no truth": (with_line("1000.0 bar,FALSE", "1000.0 bar,0"), "MBAR has '0'; wanted TRUE or FALSE"),
    "too many cells": (with_line("3.502,0.0", "3.502,0.0,1"), "line 14 has 14 cells; wanted 13"),
    "no pressure": (with_line("1000.0 bar", ""), "line 14 has no P"),
    "no weight": (with_line("1037.872,3.0", "1037.872,"), "row 2 of 2 has a value of 'Rho' without a weight; wanted"),
    "a setting without value": (with_line("rho_denom,2.0", "rho_denom"), "line 4 has 2 cells; wanted three"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused(tmp_path, name):
    text, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_wrong_data_are_refused():
    good = targets.ForceBalanceData(
        (("rho_denom", 1.0),), ("T", "P", "Rho"), ((90.0, targets.Quantity(1, "bar"), 1.0),)
    )
    with pytest.raises(ValueError, match="the setting 'rho'"):
        dataclasses.replace(good, settings=(("rho", 1.0),))
    with pytest.raises(ValueError, match="a column is there twice"):
        dataclasses.replace(good, columns=("T", "P", "Rho", "Rho"))
    with pytest.raises(ValueError, match="each of 3 cells"):
        dataclasses.replace(good, rows=((90.0,),))
    with pytest.raises(TypeError, match="`data` is 1"):
        targets.write_forcebalance("data.csv", 1)  # pyright: ignore[reportArgumentType]
