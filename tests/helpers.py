"""Tables of instances, to hold every law against, and what judges them: finite differences and plain formulas."""

from pathlib import Path
from typing import ClassVar

import diffrax
import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import reverlet as rv

SHARED = Path(__file__).parents[1].parent / "shared"
SEEDS = st.integers(0, 2**31 - 1)
few = hypothesis.settings(deadline=None, max_examples=12, derandomize=True)
very_few = hypothesis.settings(deadline=None, max_examples=4, derandomize=True)

SIGMA, EPSILON, TEMPERATURE = 0.338, 0.893795, 94.4  # liquid argon: nm, kJ/mol, K
DENSITY = 346 / 2.5562**3  # 1/nm³
MASS = 39.948  # u


def argon_length(cells=2):
    return (4 * cells**3 / DENSITY) ** (1 / 3)


def argon_positions(cells=2, seed=0, jitter=0.02):
    """4 cells³ atoms near a face-centered lattice at the density of the liquid, nm."""
    basis = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    corners = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    lattice = (corners + basis).reshape(-1, 3) * argon_length(cells) / cells
    return lattice + jitter * np.random.default_rng(seed).normal(size=lattice.shape)


def argon_topology(cells=2):
    return rv.Topology.from_elements(["Ar"] * (4 * cells**3))


def argon_state(cells=2, seed=0, jitter=0.02, dtype=None):
    dtype = jnp.result_type(float) if dtype is None else dtype
    velocities = rv.maxwell_boltzmann(argon_topology(cells), TEMPERATURE, key=jax.random.key(seed))
    positions = jnp.asarray(argon_positions(cells, seed, jitter), dtype)
    return rv.State(positions, velocities.astype(dtype), argon_box(cells, dtype))


def argon_box(cells=2, dtype=None):
    return rv.OrthorhombicBox(jnp.full(3, argon_length(cells), dtype))


class Well(rv.AbstractPotential):
    """Independent atoms, each in a harmonic well: U = Σ k |x - center|²/2."""

    k: Array
    center: Array
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        del box, neighbors
        return 0.5 * self.k.astype(positions.dtype) * jnp.sum((positions - self.center.astype(positions.dtype)) ** 2)


def well(k=100.0, center=0.0):
    return Well(jnp.asarray(k), jnp.asarray(center))


class Position(rv.AbstractObservable):
    """The mean of x and of x² over all components."""

    def record(self, system, state, initial):
        del system, initial
        return jnp.stack([jnp.mean(state.positions), jnp.mean(state.positions**2)])

    def reduce(self, times, records, weights, ensemble=None):
        del times, ensemble
        return rv.statistics.weighted_mean(weights, records[:, 0])


def gaussian_samples(seed, n, k, temperature, center=0.0, atoms=1):
    """Exact, independent draws of atoms in a harmonic well in open space."""
    width = jnp.sqrt(rv.units.BOLTZMANN * temperature / k)
    x = center + width * jax.random.normal(jax.random.key(seed), (n, atoms, 3))
    states = jax.vmap(lambda x: rv.State(x, jnp.zeros_like(x), rv.OpenBox()))(x)
    density = -0.5 * jnp.sum(((x - center) / width) ** 2, axis=(1, 2))
    return rv.Samples(states, density, jnp.arange(n), rv.NVT(temperature))


class Dimers(rv.AbstractPotential):
    """A spring between every two consecutive atoms, U = Σ k (r - r0)²/2 over (0, 1), (2, 3), …"""

    k: Array
    r0: Array
    cutoff: None = eqx.field(static=True, default=None)

    def energy(self, positions, box, *, neighbors=None):
        d = jax.vmap(box.displacement)(positions[::2], positions[1::2])
        r = jnp.sqrt(jnp.sum(d**2, axis=1))
        return 0.5 * self.k.astype(r.dtype) * jnp.sum((r - self.r0.astype(r.dtype)) ** 2)


SKEWED = np.array([[1.2, 0.0, 0.0], [0.45, 1.3, 0.0], [-0.35, 0.4, 1.25]])
BOXES = {
    "open": rv.OpenBox(),
    "orthorhombic": rv.OrthorhombicBox(jnp.array([1.0, 1.4, 2.3])),
    "triclinic, right angles": rv.TriclinicBox(jnp.diag(jnp.array([1.0, 1.4, 2.3]))),
    "triclinic": rv.TriclinicBox(jnp.asarray(SKEWED)),
    "hexagonal": rv.TriclinicBox(jnp.array([[1.0, 0.0, 0.0], [-0.5, 0.75**0.5, 0.0], [0.0, 0.0, 1.6]])),
    "left-handed": rv.TriclinicBox(jnp.asarray(SKEWED[[1, 0, 2]])),
}

CUTOFF = 0.55  # below half the box of 32 atoms, 0.578 nm
_ONSET = 0.4
_SPECIES = np.arange(32) % 2
_SIGMAS, _EPSILONS = jnp.array([0.338, 0.30]), jnp.array([0.893795, 0.5])


def lennard_jones(truncation=None, cutoff=CUTOFF):
    return rv.LennardJones(SIGMA, EPSILON, cutoff=cutoff, truncation=truncation)


SWITCHED = lennard_jones(rv.SmoothSwitch(_ONSET))
POTENTIALS = {
    "plain": lennard_jones(),
    "shifted": lennard_jones(rv.ShiftedCutoff()),
    "switched": SWITCHED,
    "mixture": rv.LennardJones(
        _SIGMAS, _EPSILONS, cutoff=CUTOFF, species=_SPECIES, truncation=rv.SmoothSwitch(_ONSET)
    ),
    "pairs": rv.LennardJones(
        jnp.array([[0.338, 0.31], [0.31, 0.30]]), jnp.array([[0.9, 0.6], [0.6, 0.5]]), cutoff=CUTOFF,
        species=_SPECIES, truncation=rv.SmoothSwitch(_ONSET),
    ),
    "tail": rv.TailCorrected(SWITCHED),
    "difference": 2 * SWITCHED - rv.LennardJones(0.3, 0.1, cutoff=0.5, truncation=rv.SmoothSwitch(0.45)),
    "sum": SWITCHED + rv.LennardJones(0.3, 0.1, cutoff=0.5, truncation=rv.SmoothSwitch(0.45)),
}  # fmt: skip
_NEXT = np.arange(32).reshape(16, 2)  # pairs that stay pairs where the laws let atoms change places
POTENTIALS |= {
    "excluding": rv.Excluding(
        rv.Mie(
            jnp.array([[0.338, 0.31], [0.31, 0.30]]), jnp.array([[0.9, 0.6], [0.6, 0.5]]),
            jnp.array([[13.0, 12.5], [12.5, 12.0]]), jnp.array([[6.0, 6.5], [6.5, 7.0]]),
            cutoff=CUTOFF, species=_SPECIES, truncation=rv.SmoothSwitch(_ONSET),
        ),
        _NEXT,
    ),
    "named": rv.Among(rv.Morse(0.9, 16.0, 0.38, cutoff=CUTOFF, truncation=rv.SmoothSwitch(_ONSET)), _NEXT[:, 0])
    + rv.ListedPairs(rv.Buckingham(6e5, 36.0, 3.7e-3, core=0.2, cutoff=CUTOFF), _NEXT, 0.5),
}  # fmt: skip
NEAR = lennard_jones(rv.SmoothSwitch(0.36), cutoff=0.45)
SMOOTH = tuple(name for name in POTENTIALS if name not in ("plain", "shifted"))


class AsynchronousLeapfrog(rv.AbstractReversibleSolver):
    """Reversible, of one term, no splitting, and with a solver state that carries derivatives.

    A. Mutze, arXiv:1311.6602.
    """

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms):
        del terms
        return 2

    def init(self, terms, t0, t1, y0, args):
        del t1
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        y1, state = _leapfrog(terms, t0, t1, y0, args, solver_state, terms.contr(t0, t1))
        return y1, None, {"y0": y0, "y1": y1}, state, diffrax.RESULTS.successful

    def backward_step(self, terms, t0, t1, y1, args, solver_state, made_jump):
        del made_jump
        y0, state = _leapfrog(terms, t0, t1, y1, args, solver_state, -terms.contr(t0, t1))
        return y0, {"y0": y0, "y1": y1}, state

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)


def _leapfrog(terms, t0, t1, y, args, slope, h):
    half = jax.tree.map(lambda y, s: y + 0.5 * h * s, y, slope)
    field = terms.vf(0.5 * (t0 + t1), half, args)
    slope = jax.tree.map(lambda f, s: 2 * f - s, field, slope)
    return jax.tree.map(lambda y, s: y + 0.5 * h * s, half, slope), slope


class ThreeTerms(rv.AbstractSplittingSolver):
    """A table as a user may write it: three kick terms, each with zeros elsewhere."""

    kicks: ClassVar = ((0.5, 0.0, 1 / 6), (0.0, 0.5, 1 / 3), (0.0, 0.5, 1 / 3), (0.5, 0.0, 1 / 6))
    drifts: ClassVar = (0.25, 0.5, 0.25)

    def order(self, terms):
        del terms
        return 2


SOLVERS = {
    "VelocityVerlet": rv.VelocityVerlet(),
    "PositionVerlet": rv.PositionVerlet(),
    "Yoshida4": rv.Yoshida4(),
    "Yoshida6": rv.Yoshida6(),
    "McLachlan4": rv.McLachlan4(),
    "BlanesMoan4": rv.BlanesMoan4(),
    "Respa": rv.Respa(3),
    "ThreeTerms": ThreeTerms(),
}
"""Splitting methods. How many kick terms each has: `num_kicks`."""


def num_kicks(solver):
    return len(solver.kick_rows[0])


def count_primitive(function, name, *args):
    """How often a primitive occurs in what `function` compiles to; what is in a loop counts once."""

    def count(jaxpr):
        total = 0
        for equation in jaxpr.eqns:
            total += equation.primitive.name == name
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(value, "jaxpr", value)
                total += count(inner) if hasattr(inner, "eqns") else 0
        return total

    return count(jax.make_jaxpr(function)(*args).jaxpr)


def central_difference(function, x, direction, step):
    """The derivative of `function` at `x` along `direction`; the error is step² times a third derivative."""
    shifted = lambda s: jax.tree.map(lambda a, d: a + s * d, x, direction)
    return (function(shifted(step)) - function(shifted(-step))) / (2 * step)


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)


def assert_trees_close(got, wanted, *, rtol, atol=0.0):
    """Every leaf, relative to the largest entry of that leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        g, w = np.asarray(g), np.asarray(w)
        assert g.shape == w.shape
        assert np.max(np.abs(g - w), initial=0) <= rtol * np.max(np.abs(w), initial=0) + atol, (g, w)


def pair_sum(positions, lengths, sigma, epsilon, cutoff, onset=None, shift=False):
    """The Lennard-Jones energy by a plain sum over i < j, to be differentiated automatically."""
    i, j = np.triu_indices(len(positions), 1)
    d = positions[i] - positions[j]
    if lengths is not None and jnp.ndim(lengths) == 2:
        d = d - jnp.round(d @ jnp.linalg.inv(lengths)) @ lengths
    elif lengths is not None:
        d = d - lengths * jnp.round(d / lengths)
    r = jnp.sqrt(jnp.sum(d**2, axis=1))
    s, e = (p if jnp.ndim(p) == 0 else p[i, j] for p in (sigma, epsilon))
    u = lambda r: 4 * e * ((s / r) ** 12 - (s / r) ** 6)
    energy = u(r) - u(cutoff) if shift else u(r)
    if onset is not None:
        t = jnp.clip((r - onset) / (cutoff - onset), 0, 1)
        energy = energy * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5)
    return jnp.sum(jnp.where(r < cutoff, energy, 0))


SAMPLERS = {
    "LangevinBAOAB": rv.LangevinBAOAB(TEMPERATURE, 1.0, dt=0.002, num_steps=5),
    "CSVR": rv.CSVR(TEMPERATURE, 0.1, dt=0.002, num_steps=5),
}

_WAVENUMBERS = np.array([0.0, 500.0, 2000.0])
_CHARGES = rv.PointCharges(jnp.asarray(np.where(np.arange(32) % 2 == 0, 0.1, -0.1)))
OBSERVABLES = {
    "RDF": rv.RDF(0.55, 11, 0.05),
    "VACF": rv.VACF(),
    "MSD": rv.MSD(),
    "Green-Kubo": rv.SelfDiffusion(),
    "Einstein": rv.SelfDiffusion(rv.Einstein()),
    "finite size": rv.SelfDiffusion(finite_size=rv.YehHummer(0.2, 1.0)),
    "Temperature": rv.Temperature(),
    "TotalEnergy": rv.TotalEnergy(),
    "Pressure": rv.Pressure(),
    "Stress": rv.Stress(),
    "Density": rv.Density(),
    "HeatCapacity": rv.HeatCapacity(),
    "FreeEnergyDifference": rv.FreeEnergyDifference(ensemble=rv.NVT(0.9 * TEMPERATURE)),
    "Viscosity": rv.Viscosity(0.01),
    "ThermalConductivity": rv.ThermalConductivity(0.01),
    "Conductivity": rv.Conductivity(0.01, dipole=_CHARGES),
    "DielectricConstant": rv.DielectricConstant(_CHARGES),
    "InfraredSpectrum": rv.InfraredSpectrum(_WAVENUMBERS, rv.spectra.HannWindow(0.01), dipole=_CHARGES),
    "VDOS": rv.VDOS(_WAVENUMBERS, rv.spectra.HannWindow(0.01)),
    "Joint": rv.Joint((rv.VACF(), rv.Viscosity(0.01))),
}
WITH_A_TEMPERATURE = {
    *(
        "finite size",
        "HeatCapacity",
        "FreeEnergyDifference",
        "Viscosity",
        "ThermalConductivity",
        "Conductivity",
        "DielectricConstant",
        "InfraredSpectrum",
        "Joint",
    )
}
"""Observables that take one from the ensemble."""
