"""The unit system and conversions from and to it.

Inside reverlet: length nm, time ps, mass u (dalton), energy kJ/mol, charge e, temperature K. Then 1 u nm²/ps² is
1 kJ/mol (to 1e-9, the molar mass constant), velocities are nm/ps, forces kJ/mol/nm, diffusion coefficients nm²/ps,
and no factor appears in the equations of motion.

A constant named after a unit is that unit in reverlet's: multiply to come in (`3.4 * units.ANGSTROM`), divide to go out
(`diffusion / units.SQUARE_METER_PER_SECOND`).

All values: CODATA 2022 (Mohr, Newell, Taylor & Tiesinga, Rev. Mod. Phys. 97, 025002, 2025).
"""

# Constants in SI units; the first four and Planck's are exact by definition of the SI.
_BOLTZMANN_SI = 1.380649e-23  # J/K
_AVOGADRO = 6.02214076e23  # 1/mol
_ELEMENTARY_CHARGE_SI = 1.602176634e-19  # C
_SPEED_OF_LIGHT_SI = 299792458.0  # m/s
_DALTON_SI = 1.66053906892e-27  # kg
_VACUUM_PERMITTIVITY_SI = 8.8541878188e-12  # F/m
_HARTREE_SI = 4.3597447222060e-18  # J
_BOHR_SI = 5.29177210544e-11  # m
_PLANCK_SI = 6.62607015e-34  # J s
_PI = 3.141592653589793

BOLTZMANN = _BOLTZMANN_SI * _AVOGADRO / 1e3
"""Boltzmann's constant, kJ/mol/K."""
COULOMB = _ELEMENTARY_CHARGE_SI**2 / (4 * _PI * _VACUUM_PERMITTIVITY_SI) * _AVOGADRO / 1e3 * 1e9
"""Coulomb's constant 1/(4πε₀), kJ/mol nm/e²."""
SPEED_OF_LIGHT = _SPEED_OF_LIGHT_SI * 1e9 / 1e12
"""The speed of light, nm/ps."""
HBAR = _PLANCK_SI / (2 * _PI) * _AVOGADRO / 1e3 * 1e12
"""Planck's constant over 2π, kJ/mol ps."""

# Length
ANGSTROM = 0.1
BOHR = _BOHR_SI * 1e9
METER = 1e9
# Time
FEMTOSECOND = 1e-3
SECOND = 1e12
# Energy
JOULE_PER_MOLE = 1e-3
KILOCALORIE_PER_MOLE = 4.184
ELECTRONVOLT = _ELEMENTARY_CHARGE_SI * _AVOGADRO / 1e3
HARTREE = _HARTREE_SI * _AVOGADRO / 1e3
# Pressure, in kJ/mol/nm³
BAR = 1e5 * 1e-27 * _AVOGADRO / 1e3
PASCAL = BAR / 1e5
PASCAL_SECOND = PASCAL * SECOND
"""Viscosity, in kJ/mol ps/nm³."""
WATT_PER_METER_KELVIN = 1e-3 * _AVOGADRO / METER / SECOND
"""Thermal conductivity, in kJ/mol/nm/ps/K."""
# Density, in u/nm³
GRAM_PER_CUBIC_CENTIMETER = 1e-3 / 1e-6 * 1e-27 / _DALTON_SI
# Diffusion, in nm²/ps
SQUARE_METER_PER_SECOND = METER**2 / SECOND
# Wavenumber: an angular frequency in rad/ps
WAVENUMBER = 2 * _PI * _SPEED_OF_LIGHT_SI * 100 / 1e12
"""1 cm⁻¹ as an angular frequency, rad/ps."""
# Dipole, in e nm
DEBYE = 1e-21 / _SPEED_OF_LIGHT_SI / _ELEMENTARY_CHARGE_SI * 1e9
# Conductivity, in e² mol/kJ/ps/nm
SIEMENS_PER_METER = 1 / _ELEMENTARY_CHARGE_SI**2 / (_AVOGADRO / 1e3) / 1e9 / 1e12
