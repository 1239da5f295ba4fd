import numpy as np
import pytest
import scipy.constants as sc

from reverlet import units

# SciPy's constants are of another CODATA year than ours in some releases: adjustments move the measured ones by
# less than 1e-8; those exact by definition of the SI agree to rounding.
MEASURED, EXACT = 1e-8, 1e-14


@pytest.mark.parametrize(
    ("got", "wanted", "rtol"),
    [
        (units.BOLTZMANN, sc.R / 1e3, EXACT),
        (units.COULOMB, sc.e**2 / (4 * np.pi * sc.epsilon_0) * sc.N_A / 1e3 * 1e9, MEASURED),
        (units.SPEED_OF_LIGHT, sc.c * 1e9 / 1e12, EXACT),
        (units.ANGSTROM, sc.angstrom * 1e9, EXACT),
        (units.BOHR, sc.value("Bohr radius") * 1e9, MEASURED),
        (units.METER, 1e9, EXACT),
        (units.FEMTOSECOND, sc.femto / sc.pico, EXACT),
        (units.SECOND, 1e12, EXACT),
        (units.JOULE_PER_MOLE, 1e-3, EXACT),
        (units.KILOCALORIE_PER_MOLE, sc.calorie, EXACT),
        (units.ELECTRONVOLT, sc.eV * sc.N_A / 1e3, EXACT),
        (units.HARTREE, sc.value("Hartree energy") * sc.N_A / 1e3, MEASURED),
        (units.BAR, sc.bar * 1e-27 * sc.N_A / 1e3, EXACT),
        (units.PASCAL, 1e-27 * sc.N_A / 1e3, EXACT),
        (units.PASCAL_SECOND, 1e-27 * sc.N_A / 1e3 * 1e12, EXACT),
        (units.WATT_PER_METER_KELVIN, sc.N_A / 1e3 / 1e9 / 1e12, EXACT),
        (units.GRAM_PER_CUBIC_CENTIMETER, 1e3 / sc.u * 1e-27, MEASURED),
        (units.SQUARE_METER_PER_SECOND, 1e18 / 1e12, EXACT),
        (units.WAVENUMBER, 2 * np.pi * sc.c * 100 / 1e12, EXACT),
        (units.HBAR, sc.hbar * sc.N_A / 1e3 * 1e12, EXACT),
        (units.SIEMENS_PER_METER, 1 / sc.e / sc.eV / sc.N_A * 1e3 * 1e-9 * 1e-12, EXACT),
        (units.DEBYE, 1e-21 / sc.c / sc.e * 1e9, EXACT),
    ],
)
def test_against_scipy(got, wanted, rtol):
    assert isinstance(got, float)
    np.testing.assert_allclose(got, wanted, rtol=rtol)


def test_every_constant_is_tested_above():
    public = {name for name in vars(units) if name.isupper() and not name.startswith("_")}
    assert len(public) == 22


def test_no_factor_in_the_equations_of_motion():
    # 1 u nm²/ps² is 1 kJ/mol up to the molar mass constant, which differs from 1 g/mol by about 1e-10
    np.testing.assert_allclose(sc.u * 1e-18 / 1e-24 * sc.N_A / 1e3, 1, rtol=2e-9)
