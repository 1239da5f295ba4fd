"""Measured spectra of water: what the files hold, that they agree as far as they do, and bad files."""

import numpy as np
import pytest
from helpers import SHARED

from experiments.reference import load, read_two_columns, relative_difference

NAMES = ("hale_querry_1973", "segelstein_1981")
EXPERIMENT = SHARED / "data" / "water" / "ir_experiment_n_alpha.txt"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_holds(name):
    spectrum = load(name)
    assert all(word in spectrum.source for word in ("Source: ", "CC0", "298 K", "1/cm", "Made by"))
    assert 0 < spectrum.wavenumbers[0] < spectrum.wavenumbers[-1] <= 5000
    # water's OH stretch and bend, where any textbook has them
    for low, high, peak in ((3000, 3700, 3395), (1500, 1800, 1645)):
        grid = np.arange(low, high)
        assert abs(grid[np.argmax(spectrum.at(grid))] - peak) < 15  # the tables' rows are up to 15 cm⁻¹ apart there


def test_a_row_against_the_published_optical_constants():
    # Hale & Querry 1973, table I: n = 1.218 and k = 0.0508 at 10 um (1000 cm⁻¹), n = 1.319 and k = 0.131 at 6.1 um
    spectrum = load("hale_querry_1973")
    for wavelength, n, k in ((10, 1.218, 0.0508), (6.1, 1.319, 0.131)):
        nu = 1e4 / wavelength
        # eight digits are written; where a wavenumber is rounded the interpolation differs by that
        np.testing.assert_allclose(spectrum.at(np.array([nu]))[0], 4 * np.pi * n * k * nu, rtol=1e-6)


def test_the_spread_between_sources():
    hale, segelstein = map(load, NAMES)
    assert relative_difference(hale, hale) == 0
    # what the README states: one continued the other
    assert relative_difference(hale, segelstein) == pytest.approx(0.035, abs=0.0005)
    # twice as much everywhere is 2/3 of the mean
    double = type(hale)(hale.wavenumbers, 2 * hale.intensities, "")
    assert relative_difference(hale, double) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("name", "wanted"), list(zip(NAMES, (0.108, 0.117), strict=True)))
def test_the_spread_against_an_independent_measurement(tmp_path, name, wanted):
    if not EXPERIMENT.exists():
        pytest.skip("the independent measurement may not be redistributed, and is not here")
    table = np.loadtxt(EXPERIMENT)
    np.savetxt(tmp_path / "sorted.txt", table[np.argsort(table[:, 0])])
    independent = read_two_columns(tmp_path / "sorted.txt")
    assert relative_difference(load(name), independent) == pytest.approx(wanted, abs=0.0005)


def test_two_columns(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("# my source\n# 300 K\n\n1, 2e2\n2.5\t3\n 4 0.0\n", "utf-8")
    spectrum = read_two_columns(path)
    assert spectrum.source == "my source\n300 K"
    np.testing.assert_array_equal(spectrum.wavenumbers, [1, 2.5, 4])
    np.testing.assert_array_equal(spectrum.at(np.array([1.75, 4])), [101.5, 0])
    with pytest.raises(ValueError, match=r"4\.5 cm⁻¹ is outside .* wanted 1\.0 to 4\.0"):
        spectrum.at(np.array([3, 4.5]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no spectrum"),
        (b"", "has no rows"),
        (b"# only a comment\n", "has no rows"),
        (b"1 2\n", "at least 2 rows"),
        (b"1 2\n2\n", "Line 2 .* '2'; wanted two numbers"),
        (b"1 2 3\n", "Line 1 .* wanted two numbers"),
        (b"wavenumber intensity\n1 2\n", "Line 1 .* wanted two numbers"),
        (b"1 2\n3 4\n2 5\n", r"do not ascend: row 2 has 3\.0 .* 2\.0"),
        (b"3 2\n2 4\n1 5\n", r"do not ascend: row 1 has 3\.0 .* `sort -g`"),
        (b"1 2\n3 4\n3 5\n", r"3\.0 cm⁻¹ is there twice, in row 2"),
        (b"1 2\n3 -4\n", r"intensity of row 2 is -4\.0; wanted .* baseline"),
        (b"-1 2\n3 4\n", r"wavenumber of row 1 is -1\.0"),
        (b"1 nan\n3 4\n", "intensity of row 1 is nan"),
        (b"1 2\ninf 4\n", "wavenumber of row 2 is inf"),
        (b"\xff\xfe\x00\x01", "cannot be read"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_two_columns(path)
    assert str(path) in str(error.value)


def test_unknown_names():
    with pytest.raises(ValueError, match="no reference spectrum 'bertie_lan_1996'; wanted one of 'hale"):
        load("bertie_lan_1996")  # pyright: ignore[reportArgumentType]
    hale = load("hale_querry_1973")
    with pytest.raises(ValueError, match="share no range"):
        relative_difference(hale, type(hale)(np.array([4500.0, 4600]), np.ones(2), ""))
