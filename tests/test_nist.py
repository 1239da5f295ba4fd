"""Against the configurations and energies of NIST's Standard Reference Simulation Website."""

import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHARED

import reverlet as rv
from reverlet import units
from reverlet._potential._coulomb import constants, named_energy, reduced, screened
from reverlet._potential._waves import waves_energy

FOLDER = SHARED / "reference" / "nist"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason=f"NIST's configurations are not there: {FOLDER}")
energy = eqx.filter_jit(lambda potential, x, box: potential.energy(x, box))
ANGSTROM = 0.1
SIGMA, EPSILON = 0.316555789, 78.19743111 * units.BOLTZMANN  # SPC/E's oxygen: nm, kJ/mol


def read(name):
    lines = (FOLDER / name).read_text().splitlines()
    shape = np.array([float(x) for x in lines[1].split()[1:]])
    x = np.array([[float(x) for x in line.split()[1:4]] for line in lines[2:] if line.strip()])
    assert len(x) == int(lines[0])
    return jnp.asarray(x), shape


def assert_digits(got, printed):
    """That `got` is the number that was printed, to all of its digits."""
    digits = printed.lower().split("e")[0].lstrip("-").partition(".")[2]
    exponent = int(printed.lower().partition("e")[2] or 0)
    # half a unit of the last digit, and 1e-9 for constants of nature of another year
    near = 0.5 * 10.0 ** (exponent - len(digits)) + 1e-9 * abs(float(printed))
    assert abs(float(got) - float(printed)) <= near, (float(got), printed)


@pytest.mark.parametrize(
    ("cutoff", "wanted", "virial", "tail"),
    [(3.0, "-16.790321304625856", "-46.249", "-0.5451660014945704"), (4.0, "-17.060", "-47.869", "-0.23008")],
)
def test_lennard_jones(cutoff, wanted, virial, tail):
    x, edges = read("lj_sample_config_periodic4.xyz")
    box = rv.OrthorhombicBox(edges)
    potential = rv.LennardJones(1.0, 1.0, cutoff=cutoff)
    u = energy(potential, x, box)
    np.testing.assert_allclose(u, float(wanted), rtol=1e-14 if cutoff == 3 else 3e-5)  # as many digits as are printed
    assert_digits(energy(rv.TailCorrected(potential), x, box) - u, tail)
    assert_digits(-jnp.trace(potential.stress(x, box)) * box.volume, virial)


def water_parts(name, box, alpha, waves, within_cut, cutoff=10.0):
    """Dispersion, its tail, and what Ewald's sum is made of, kJ/mol.

    The references have fewer waves than a box of multiples has. Those that are more are taken away by a plain sum.
    """
    x, alpha, cutoff = read(name)[0] * ANGSTROM, alpha / ANGSTROM, cutoff * ANGSTROM
    molecules = len(x) // 3
    within = (3 * np.arange(molecules)[:, None, None] + np.array([[0, 1], [0, 2], [1, 2]])).reshape(-1, 2)
    oxygens = 3 * np.arange(molecules)
    charges = np.tile([-0.8476, 0.4238, 0.4238], molecules)
    dispersion = rv.LennardJones(SIGMA, EPSILON, cutoff=cutoff)
    ewald = rv.Ewald(charges, cutoff=cutoff, alpha=alpha, waves=waves, exclusions=within)
    q = reduced(ewald.charges, x)
    lj = energy(rv.Among(dispersion, oxygens), x, box)
    parts = {
        "dispersion": lj,
        "tail": energy(rv.Among(rv.TailCorrected(dispersion), oxygens), x, box) - lj,
        "real": energy(screened(ewald, q, alpha, cutoff), x, box),
        "Fourier": waves_energy(q, x, box, alpha, waves),
        "self": constants(q, alpha, box),
        "intra": named_energy(ewald, q, alpha, x, box),
    }
    total = energy(ewald, x, box)
    np.testing.assert_allclose(sum(parts[k] for k in ("real", "Fourier", "self", "intra")), total, rtol=1e-12)
    n = np.array(list(itertools.product(*(range(-m, m + 1) for m in waves))))
    k = 2 * np.pi * n @ np.linalg.inv(np.asarray(box.vectors)).T
    k = k[~within_cut(n, k)]
    k2 = np.sum(k**2, axis=1)
    structure = np.exp(1j * k @ np.asarray(x).T) @ np.asarray(q)
    more = 2 * np.pi / box.volume * np.sum(np.exp(-k2 / 4 / alpha**2) / k2 * np.abs(structure) ** 2)
    assert more > 0
    return parts | {"Fourier": parts["Fourier"] - more}


def test_water():
    edge = 20.0
    box = rv.OrthorhombicBox(jnp.full(3, edge * ANGSTROM))
    within_cut = lambda n, _: np.sum(n**2, axis=1) < 27
    parts = water_parts("spce_sample_config_periodic1.xyz", box, 5.6 / edge, (5, 5, 5), within_cut)
    wanted = {
        "dispersion": "9.95387e4", "tail": "-8.23715e2", "real": "-5.58889e5", "Fourier": "6.27009e3",
        "self": "-2.84469e6", "intra": "2.80999e6",
    }  # fmt: skip
    for name, printed in wanted.items():
        assert_digits(parts[name] / units.BOLTZMANN, printed)


def test_triclinic_water():
    lx, ly, lz, xy, xz, yz = read("spce_triclinic_sample_periodic1.xyz")[1]
    box = rv.TriclinicBox(ANGSTROM * jnp.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]]))
    # up to seven waves along an edge, and none that is shorter than the seventh of the shortest edge
    within_cut = lambda n, k: (
        np.all(np.abs(n) <= 7, axis=1) & (np.linalg.norm(k, axis=1) <= 2 * np.pi * 7 / (ly * ANGSTROM))
    )
    parts = water_parts("spce_triclinic_sample_periodic1.xyz", box, 0.285, (7, 7, 7), within_cut)
    wanted = {
        "dispersion": "931.15451", "tail": "-34.16569", "real": "-6046.43627", "Fourier": "371.46525",
        "self": "-96297.75579", "intra": "95078.89447",
    }  # fmt: skip
    for name, printed in wanted.items():
        assert_digits(parts[name], printed)
