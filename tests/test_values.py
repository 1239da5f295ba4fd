"""What no field and no argument may be: NaN, infinite, negative, zero or of the wrong type, unless a table says why."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lennard_jones

import reverlet as rv

pytestmark = pytest.mark.usefixtures("without_type_checks")

BOX = rv.OrthorhombicBox(jnp.full(3, 2.0))
TOPOLOGY = rv.Topology.from_elements(["O", "H", "H", "Ar"], molecules=[0, 0, 0, 1], bonds=[(0, 1), (0, 2)])
X = jnp.array([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0.5, 0.5, 0.5]])
LJ, WINDOW, WAVES = lennard_jones(cutoff=0.8), rv.spectra.HannWindow(1.0), jnp.array([0.0, 100.0])
SYSTEM = rv.System(TOPOLOGY, LJ)
STATE = rv.State(X, 0.1 * X, BOX)
ATOMS = rv.to_ase(TOPOLOGY, STATE)
ATOMS.calc = rv.ASECalculator(SYSTEM)
KEY = jax.random.key(0)
CHARGES, NEAR = np.array([-0.8, 0.4, 0.4, 0.1]), np.array([[0, 1], [0, 2], [1, 2]])

GOOD = {  # every public class and function with values: arguments that are fine
    rv.OrthorhombicBox: {"lengths": jnp.full(3, 2.0)},
    rv.TriclinicBox: {"vectors": 2.0 * jnp.eye(3)},
    rv.Topology: {"atomic_numbers": np.array([8, 1]), "masses": np.array([16.0, 1.0]), "molecules": np.array([0, 0]),
                  "bonds": np.array([[0, 1]])},
    rv.Topology.from_elements: {"elements": ["O", "H"], "masses": np.array([16.0, 1.0]), "molecules": np.array([0, 0]),
                                "bonds": np.array([[0, 1]])},
    rv.Topology.concatenate: {"topologies": (TOPOLOGY,)},
    rv.Labels: {"topology": TOPOLOGY, "positions": X[None], "vectors": 2.0 * np.eye(3), "energies": np.array([1.0]),
                "forces": np.ones((1, 4, 3)), "stresses": np.ones((1, 3, 3)), "dipoles": np.ones((1, 3))},
    rv.training.LabelWeights: {"energies": 1.0, "forces": 1.0, "stresses": 1.0, "dipoles": 1.0},
    rv.fcc: {"element": "Ar", "cells": 2, "density": 1000.0},
    rv.lattices.bcc: {"element": "Fe", "cells": 2, "spacing": 0.28},
    rv.lattices.diamond: {"element": "C", "cells": 1, "spacing": 0.36},
    rv.lattices.simple_cubic: {"element": "Po", "cells": 2, "density": 9000.0},
    rv.State: {"positions": X, "velocities": X, "box": BOX},
    rv.System: {"topology": TOPOLOGY, "potential": LJ},
    rv.LennardJones: {"sigma": 0.3, "epsilon": 1.0, "cutoff": 0.8, "truncation": rv.PlainCutoff()},
    rv.Mie: {"sigma": 0.3, "epsilon": 1.0, "repulsion": 12.0, "attraction": 6.0, "cutoff": 0.8},
    rv.Morse: {"depth": 1.0, "width": 10.0, "length": 0.3, "cutoff": 0.8},
    rv.Buckingham: {"amplitude": 6e5, "decay": 36.0, "dispersion": 3.7e-3, "core": 0.2, "cutoff": 0.8},
    rv.TabulatedPair: {"values": np.full((2, 2, 4), 0.1), "first": 0.2, "cutoff": 0.8, "core": 12.0,
                       "species": np.array([0, 1, 0])},
    rv.pairs.InversePower: {"sigma": 0.3, "epsilon": 1.0, "power": 12.0, "cutoff": 0.8},
    rv.pairs.Yukawa: {"amplitude": 1.0, "decay": 5.0, "cutoff": 0.8},
    rv.pairs.GaussianCore: {"sigma": 0.3, "epsilon": 1.0, "cutoff": 0.8},
    rv.pairs.DoubleExponential: {"length": 0.3, "epsilon": 1.0, "repulsion": 16.8, "attraction": 4.4, "cutoff": 0.8},
    rv.pairs.GeneralizedMorse: {"length": 0.3, "epsilon": 1.0, "steepness": 4.5, "stretch": 1.5, "cutoff": 0.8},
    rv.pairs.FunctionPair: {"function": lambda parameters, r: r, "cutoff": 0.8},
    rv.pairs.TemperatureDependent: {"energy_part": LJ, "entropy_part": LJ, "temperature": 300.0},
    rv.pairs.at_temperature: {"temperature": 300.0, "surfaces": LJ},
    rv.pairs.NeuralPair.fresh: {"key": KEY, "cutoff": 0.8, "species": np.array([0, 1]), "num_basis": 3,
                                "neurons": (3, 2), "scale": 0.1, "truncation": rv.PlainCutoff()},
    rv.splines.CubicSpline: {"values": np.arange(4.0), "first": 0.1, "last": 1.0},
    rv.SmoothSwitch: {"onset": 0.5},
    rv.TailCorrected: {"potential": LJ},
    rv.Excluding: {"potential": LJ, "pairs": np.array([[0, 1]]), "num_atoms": 4},
    rv.Rescaling: {"potential": LJ, "pairs": np.array([[0, 1]]), "factor": 0.5, "num_atoms": 4},
    rv.ListedPairs: {"potential": LJ, "pairs": np.array([[0, 1]]), "factor": 0.5},
    rv.Among: {"potential": LJ, "atoms": np.array([0, 2])},
    rv.Scaled: {"potential": LJ, "factor": 2.0},
    rv.HarmonicBond: {"bonds": np.array([[0, 1]]), "stiffness": np.array([1e5]), "length": np.array([0.1]),
                      "kinds": np.array([0])},
    rv.MorseBond: {"bonds": np.array([[0, 1]]), "depth": 400.0, "width": 20.0, "length": 0.1},
    rv.HarmonicAngle: {"angles": np.array([[0, 1, 2]]), "stiffness": 300.0, "angle": 1.9},
    rv.UreyBradley: {"angles": np.array([[0, 1, 2]]), "stiffness": 300.0, "length": 0.2},
    rv.PeriodicTorsion: {"torsions": np.array([[0, 1, 2, 3]]), "stiffness": 1.0, "multiplicity": 2, "phase": 0.5},
    rv.RBTorsion: {"torsions": np.array([[0, 1, 2, 3]]), "c0": 1.0, "c1": 1.0, "c2": 1.0, "c3": 1.0, "c4": 1.0,
                   "c5": 1.0},
    rv.AtomCharges: {"charges": np.array([0.4, -0.4]), "kinds": np.array([0, 1])},
    rv.MolecularCharges: {"charges": np.array([0.4]), "kinds": np.array([-1, 0, 0]), "molecules": np.array([0, 0, 0])},
    rv.Coulomb: {"charges": CHARGES, "exclusions": np.array([[0, 1]]), "scaled": np.array([[0, 2]]), "scale": 0.5},
    rv.ReactionField: {"charges": CHARGES, "cutoff": 0.8, "dielectric": 78.3},
    rv.Ewald: {"charges": CHARGES, "cutoff": 0.8, "alpha": 3.0, "waves": (3, 3, 3), "scale": 0.5},
    rv.Ewald.fit: {"charges": CHARGES, "box": BOX, "cutoff": 0.8, "accuracy": 1e-4},
    rv.WaterModel: {"charge": 0.4, "sigma": 0.3, "epsilon": 0.6, "stiffness": 1e5, "length": 0.1,
                    "angle_stiffness": 300.0, "angle": 1.9},
    rv.P3M: {"charges": CHARGES, "cutoff": 0.8, "alpha": 3.0, "mesh": (9, 9, 9), "scale": 0.5},
    rv.P3M.fit: {"charges": CHARGES, "box": BOX, "cutoff": 0.8, "accuracy": 1e-4},
    rv.StillingerWeber: {"epsilon": 200.0, "sigma": 0.2, "strength": 21.0, "decay": 1.2, "pair_strength": 7.0,
                         "repulsion": 0.6, "cutoff": 0.36},
    rv.Tersoff: {"repulsion": 1e5, "attraction": 5e4, "repulsion_decay": 25.0, "attraction_decay": 17.0,
                 "order_strength": 1e-6, "order_power": 0.8, "c": 1e5, "d": 16.0, "h": -0.6, "onset": 0.27,
                 "cutoff": 0.3},
    rv.FunctionPotential: {"function": lambda parameters, positions, box: 0.0, "cutoff": 0.6},
    rv.Sum: {"parts": (LJ,)},
    rv.PointCharges: {"charges": CHARGES},
    rv.PointCharges.of: {"potential": rv.Coulomb(CHARGES)},
    rv.PolarizableDipole: {"charges": CHARGES, "polarizabilities": np.full(4, 1e-3), "cutoff": 0.8, "damping": 0.4},
    rv.BondPolarizability: {"bonds": np.array([[0, 1]]), "parallel": 1e-3, "perpendicular": 1e-3,
                            "parallel_slope": 1e-2, "perpendicular_slope": 1e-2, "length": 0.1},
    rv.NVT: {"temperature": 300.0},
    rv.NPT: {"temperature": 300.0, "pressure": 1.0},
    rv.LangevinBAOAB: {"temperature": 300.0, "friction": 1.0, "dt": 1e-3, "num_steps": 10, "batch": 2},
    rv.CSVR: {"temperature": 300.0, "period": 1.0, "dt": 1e-3, "num_steps": 10, "degrees_of_freedom": 9},
    rv.StochasticCellRescaling: {"thermostat": rv.CSVR(300.0, 1.0, dt=1e-3, num_steps=20), "pressure": 0.06,
                                 "period": 1.0, "compressibility": 7.5e-4, "every": 10, "coupling": "isotropic",
                                 "scaling": "atoms"},
    rv.MonteCarloBarostat: {"thermostat": rv.CSVR(300.0, 1.0, dt=1e-3, num_steps=20), "pressure": 0.06, "every": 10,
                            "size": 0.02, "adapt": 10, "scaling": "atoms"},
    rv.NoseHooverChain: {"temperature": 300.0, "period": 1.0, "length": 3, "num_substeps": 1, "num_fixed": 3,
                         "suzuki_yoshida": 3},
    rv.Dynamics: {"dt": 1e-3, "num_steps": 10, "save_every": 2, "both_directions": True, "batch": 2,
                  "solver": rv.VelocityVerlet()},
    rv.Respa: {"num_steps": 2, "fast": (0,)},
    rv.BitReversibleVerlet: {"resolution": 2.0**-40},
    rv.MemoryBudget: {"bytes": 1000},
    rv.CellList: {"cutoff": 0.8, "skin": 0.1, "every": 10, "cells": (2, 2, 2), "reach": (1, 1), "window": 8,
                  "capacity": 8, "block": 8, "near": 8},
    rv.CellList.fit: {"positions": X, "box": BOX, "cutoff": 0.8, "skin": 0.1, "every": 10, "block": 1, "room": 1.2,
                      "shrink": 0.05, "per_atom": False},
    rv.RDF: {"r_max": 0.8, "num_bins": 10, "width": 0.1},
    rv.DensityProfile: {"num_bins": 10, "width": 0.1, "per_atom": CHARGES},
    rv.StructureFactor: {"k_min": 1.0, "k_max": 20.0, "num_bins": 4, "waves": (3, 3, 3),
                         "scattering": rv.scattering.XRays()},
    rv.StructureFactor.fit: {"box": BOX, "k_max": 20.0, "num_bins": 4, "scattering": rv.scattering.Neutrons()},
    rv.CoordinationNumber: {"radius": 0.4, "width": 0.1},
    rv.ADF: {"r_max": 0.4, "num_bins": 10, "width": 0.1, "onset": 0.3, "max_neighbors": 12},
    rv.Einstein: {"start": 0.5},
    rv.YehHummer: {"viscosity": 1.0, "length": 2.0},
    rv.SelfDiffusion: {"route": rv.Einstein(), "finite_size": rv.YehHummer(1.0, 2.0)},
    rv.Viscosity: {"max_time": 1.0},
    rv.ThermalConductivity: {"max_time": 1.0},
    rv.Conductivity: {"max_time": 1.0, "dipole": rv.PointCharges.of},
    rv.DielectricConstant: {"dipole": rv.PointCharges.of},
    rv.Enthalpy: {"kinetic": True, "per_molecule": False},
    rv.HeatCapacity: {"per_molecule": True},
    rv.HeatOfVaporization: {"gas": "gas", "correction": 0.5},
    rv.FreeEnergyDifference: {"system": SYSTEM, "ensemble": rv.NVT(300.0)},
    rv.PhaseFreeEnergyDifference: {"other": "liquid", "here": SYSTEM, "there": SYSTEM, "reference": 0.1},
    rv.InfraredSpectrum: {"wavenumbers": WAVES, "window": WINDOW, "num_lags": 10, "num_origins": 3},
    rv.RamanSpectrum: {"wavenumbers": WAVES, "window": WINDOW, "num_lags": 10},
    rv.VDOS: {"wavenumbers": WAVES, "window": WINDOW, "element": "H", "num_lags": 10},
    rv.Joint: {"observables": (rv.VACF(),)},
    rv.SquaredDistance: {"observable": rv.VACF(), "target": 1.0, "scale": 1.0},
    rv.RDF.partials: {"species": np.array([0, 1, 0, 1]), "r_max": 0.8, "num_bins": 10, "width": 0.1},
    rv.losses.MeanSquaredError: {"observable": rv.VACF(), "target": np.ones(3), "weights": np.ones(3)},
    rv.losses.JensenShannon: {"observable": rv.VACF(), "target": np.ones(3), "weights": np.ones(3)},
    rv.Target: {"observable": rv.VACF(), "value": 1.0, "error": 0.1, "unit": "nm", "citation": "here",
                "name": "D", "scale": 1.0},
    rv.StatePoint: {"system": lambda model: model, "ensemble": rv.NVT(300.0),
                    "targets": (rv.Target(rv.VACF(), 1.0, 0.1),), "name": "liquid"},
    rv.reweighting.HuberLoss: {"threshold": 1.3},
    rv.reweighting.CauchyLoss: {"threshold": 2.4},
    rv.reweighting.SoftL1Loss: {"threshold": 1.0},
    rv.reweighting.Prior: {"pick": "sigma", "mean": 0.3, "width": 0.1},
    rv.reweighting.LogPrior: {"pick": "sigma", "mean": 0.3, "width": 0.1},
    rv.reweighting.GaussNewton: {"damping": 1e-3, "attempts": 10},
    rv.ReversibleAdjoint: {"controls": (rv.controls.Damp(1.0),)},
    rv.controls.ClipNorm: {"max_norm": 1.0},
    rv.controls.Damp: {"rate": 1.0},
    rv.controls.DropAfter: {"horizon": 1.0},
    rv.controls.ResetEvery: {"length": 1.0},
    rv.langevin.PathKernel: {"rate": 1.0, "spring": 1.0, "onset": 0.5},
    rv.langevin.AllNoise: {"window": 1.0},
    rv.langevin.OwnNoise: {"window": 1.0},
    rv.langevin.NoiseWithin: {"radius": 0.5, "window": 1.0},
    rv.langevin.LangevinPaths: {"temperature": 300.0, "friction": 1.0, "dt": 1e-3, "num_steps": 10, "save_every": 2,
                                "batch": 2},
    rv.langevin.Atomwise: {"observable": rv.VACF(), "of_atoms": rv.langevin.VelocityProducts()},
    rv.spectra.BlackmanWindow: {"length": 1.0},
    rv.spectra.CutoffWindow: {"length": 1.0},
    rv.spectra.GaussianWindow: {"width": 1.0},
    rv.spectra.HannWindow: {"length": 1.0},
    rv.spectra.WindowProduct: {"first": WINDOW, "second": WINDOW},
    rv.spectra.wavenumber_grid: {"highest": 100.0, "step": 0.01, "num_lags": 10, "zero_padding": 1},
    rv.maxwell_boltzmann: {"topology": TOPOLOGY, "temperature": 300.0, "key": KEY},
    rv.device_mesh: {"num_devices": 1},
    rv.Samples.of: {"system": SYSTEM, "ensemble": rv.NVT(300.0), "states": STATE.repeat(2), "chain": np.array([0, 1])},
    rv.openmm.OpenMMSampler: {"temperature": 300.0, "friction": 1.0, "dt": 1e-3, "num_steps": 10, "pressure": 1.0},
    rv.openmm.to_system: {"system": SYSTEM, "box": BOX},
    rv.openmm.to_topology: {"topology": TOPOLOGY},
    rv.openmm.to_xml: {"system": rv.System(TOPOLOGY, rv.Coulomb(CHARGES, exclusions=NEAR))},
    rv.ASECalculator: {"system": SYSTEM},
    rv.ASEPotential: {"atoms": ATOMS},
    rv.from_ase: {"atoms": ATOMS},
    rv.to_ase: {"topology": TOPOLOGY, "state": STATE},
    rv.export.ModelCard: {"name": "argon", "targets": (rv.Target(rv.VACF(), 1.0, 0.1),), "residuals": (0.5,),
                          "horizon": 0.5, "training_data": "none", "license": "CC0-1.0", "notes": "none"},
    rv.openmm.python_force: {"system": SYSTEM, "periodic": True},
    rv.openmm.tabulated_pair: {"potential": lennard_jones(rv.SmoothSwitch(0.5), cutoff=0.8), "num_atoms": 4,
                               "nearest": 0.2, "num_points": 200, "periodic": True},
    rv.io.unwrap: {"trajectory": rv.Trajectory(np.arange(2.0), STATE.repeat(2), STATE)},
}  # fmt: skip
FINE = {  # legitimate values, with the reason
    ("negative zero", rv.State, "positions velocities"): "any place, at any speed",
    ("negative", rv.TriclinicBox, "vectors"): "left-handed and skewed boxes are boxes",
    ("negative", rv.Labels, "vectors"): "as of TriclinicBox",
    ("negative zero", rv.Labels, "positions energies forces stresses dipoles"): "any place, labels of either sign",
    ("zero", rv.training.LabelWeights, "energies forces stresses dipoles"): "labels that do not count",
    ("zero", rv.Topology, "molecules bonds"): "the first one",
    ("zero", rv.Topology.from_elements, "molecules bonds"): "the first one",
    ("negative zero", rv.CellList.fit, "positions"): "any place",
    ("zero", rv.CellList.fit, "shrink"): "constant volume",
    ("zero", rv.Samples.of, "chain"): "the first chain",
    ("zero", rv.openmm.OpenMMSampler, "friction"): "without a thermostat",
    ("negative zero", rv.openmm.OpenMMSampler, "pressure"): "a stretched liquid",
    ("zero", rv.Buckingham, "dispersion"): "exp alone repels",
    ("negative zero", rv.splines.CubicSpline, "values"): "curves have signs",
    ("negative zero", rv.splines.CubicSpline, "first"): "and begin anywhere",
    ("negative zero", rv.TabulatedPair, "values"): "energies have signs",
    ("negative zero", rv.pairs.Yukawa, "amplitude"): "charges attract or repel, or there are none",
    ("negative", rv.pairs.GeneralizedMorse, "stretch"): "wells are wide or narrow",
    ("zero", rv.pairs.NeuralPair.fresh, "species"): "the first species",
    ("type", rv.pairs.at_temperature, "surfaces"): "any tree",
    ("zero", rv.TabulatedPair, "species"): "the first species",
    ("zero", rv.Excluding, "pairs"): "the first atom",
    ("zero", rv.Rescaling, "pairs"): "the first atom",
    ("negative zero", rv.Rescaling, "factor"): "a constant of either sign",
    ("zero", rv.ListedPairs, "pairs"): "the first atom",
    ("negative zero", rv.ListedPairs, "factor"): "-1 takes pairs out again",
    ("zero", rv.Among, "atoms"): "the first atom",
    ("negative zero", rv.WaterModel, "charge"): "charges have signs",
    ("zero", rv.WaterModel, "epsilon stiffness angle_stiffness"): "no force",
    ("negative zero", rv.Scaled, "factor"): "-potential",
    ("zero", rv.StillingerWeber, "strength"): "pairs alone",
    ("zero", rv.Tersoff, "order_strength c h"): "pairs alone; no angles; right ones",
    ("negative", rv.Tersoff, "h"): "cosines have signs",
    ("zero", rv.HarmonicBond, "bonds stiffness length kinds"): "no spring; springs of no length; the first atom, kind",
    ("zero", rv.MorseBond, "bonds depth length"): "as of HarmonicBond",
    ("zero", rv.HarmonicAngle, "angles stiffness angle"): "as of HarmonicBond",
    ("zero", rv.UreyBradley, "angles stiffness length"): "as of HarmonicBond",
    ("negative zero", rv.PeriodicTorsion, "stiffness phase"): "barriers of either sign, angles of any",
    ("zero", rv.PeriodicTorsion, "torsions"): "the first atom",
    ("zero", rv.RBTorsion, "torsions"): "the first atom",
    ("negative zero", rv.RBTorsion, "c0 c1 c2 c3 c4 c5"): "coefficients of a polynomial",
    ("negative zero", rv.AtomCharges, "charges"): "charges have signs",
    ("zero", rv.AtomCharges, "kinds"): "the first kind",
    ("negative zero", rv.MolecularCharges, "charges"): "charges have signs",
    ("negative", rv.MolecularCharges, "kinds"): "-1 takes what is left",
    ("zero", rv.MolecularCharges, "molecules"): "the first molecule",
    ("negative zero", rv.Coulomb, "charges scale"): "charges have signs, and so may factors",
    ("zero", rv.Coulomb, "exclusions scaled"): "the first atom",
    ("negative zero", rv.ReactionField, "charges"): "charges have signs",
    ("inf", rv.ReactionField, "dielectric"): "a conductor",
    ("negative zero", rv.Ewald, "charges scale"): "charges have signs",
    ("negative zero", rv.Ewald.fit, "charges"): "charges have signs",
    ("negative zero", rv.P3M, "charges scale"): "charges have signs",
    ("negative zero", rv.P3M.fit, "charges"): "charges have signs",
    ("negative zero", rv.PointCharges, "charges"): "charges have signs",
    ("negative zero", rv.PolarizableDipole, "charges"): "charges have signs",
    ("negative zero", rv.BondPolarizability, "parallel perpendicular parallel_slope perpendicular_slope"):
        "parts of a tensor that is fitted",
    ("zero", rv.BondPolarizability, "bonds length"): "the first atom; a stretch measured from zero",
    ("negative zero", rv.NPT, "pressure"): "a stretched liquid",
    ("zero", rv.LangevinBAOAB, "friction"): "velocity Verlet, as documented",
    ("negative zero", rv.StochasticCellRescaling, "pressure"): "a stretched liquid",
    ("negative zero", rv.MonteCarloBarostat, "pressure"): "a stretched liquid",
    ("zero", rv.MonteCarloBarostat, "adapt"): "a size that stays",
    ("zero", rv.NoseHooverChain, "num_fixed"): "an external field",
    ("zero", rv.Einstein, "start"): "all of the trajectory",
    ("zero", rv.InfraredSpectrum, "wavenumbers"): "a spectrum begins there",
    ("zero", rv.RamanSpectrum, "wavenumbers"): "a spectrum begins there",
    ("zero", rv.VDOS, "wavenumbers"): "a spectrum begins there",
    ("negative zero", rv.DensityProfile, "per_atom"): "charges have signs",
    ("negative zero", rv.SquaredDistance, "target"): "observables have signs",
    ("negative zero", rv.losses.MeanSquaredError, "target"): "observables have signs",
    ("zero", rv.losses.MeanSquaredError, "weights"): "an entry that does not count",
    ("zero", rv.losses.JensenShannon, "target weights"): "nothing is there; an entry that does not count",
    ("zero", rv.RDF.partials, "species"): "the first species",
    ("negative zero", rv.HeatOfVaporization, "correction"): "of either sign, or none",
    ("negative zero", rv.PhaseFreeEnergyDifference, "reference"): "either phase is the stable one",
    ("negative zero", rv.Target, "value"): "observables have signs",
    ("zero", rv.langevin.PathKernel, "spring onset"): "no spring; from the start",
    ("zero", rv.maxwell_boltzmann, "temperature"): "atoms at rest",
    ("negative zero", rv.reweighting.Prior, "mean"): "parameters have signs",
}  # fmt: skip


def is_fine(kind, make, name):
    return any(kind in kinds.split() and m == make and name in names.split() for kinds, m, names in FINE)


def bad_values(value):
    """Of the kind of a good value: what should not be accepted, by name."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return {"type": "wrong", "a seed": 0, "none": None, "several": jax.random.split(value), "floats": jnp.ones(2)}
    if isinstance(value, eqx.Module | str | bool) or callable(value):
        return {"type": 3.5}
    if isinstance(value, tuple):
        return {"type": "wrong"}
    if not np.issubdtype(np.asarray(value).dtype, np.number):
        return {}
    first = lambda bad, dtype=None: np.where(np.arange(np.size(value)).reshape(np.shape(value)) == 0, bad, value) \
        if np.ndim(value) else (bad if dtype is None else dtype(bad))  # fmt: skip
    whole = np.issubdtype(np.asarray(value).dtype, np.integer)
    numbers = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "negative": -1 if whole else -1.0,
               "zero": 0 if whole else 0.0}  # fmt: skip
    bad = {kind: first(number) for kind, number in numbers.items()} | {"type": "wrong"}
    return bad | ({"fraction": first(0.5)} if whole else {})


def not_refused(call, good, name, kind, bad):
    """What comes instead, if a bad argument is not refused by its name: a line or none."""
    try:
        call(**{**good, name: bad})
    except (TypeError, ValueError) as error:
        if f"`{name}`" in str(error):
            return []
        return [f"{name}={kind}: unnamed {type(error).__name__}: {str(error)[:90]}"]
    except Exception as error:
        return [f"{name}={kind}: {type(error).__name__}: {str(error)[:90]}"]
    return [f"{name}={kind}: accepted"]


@pytest.mark.parametrize("make", GOOD, ids=lambda m: m.__qualname__)
def test_good_values_are_accepted_and_bad_ones_refused_by_name(make):
    good = GOOD[make]
    make(**good)
    wrong = []
    for name, value in good.items():
        for kind, bad in bad_values(value).items():
            if is_fine(kind, make, name):
                continue
            wrong += not_refused(make, good, name, kind, bad)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", FINE, ids=lambda c: f"{c[1].__qualname__} {c[2]} {c[0]}")
def test_legitimate_values_are_accepted(case):
    kinds, make, names = case
    for name in names.split():
        for kind in kinds.split():
            make(**{**GOOD[make], name: bad_values(GOOD[make][name])[kind]})


@pytest.mark.parametrize("make", GOOD, ids=lambda m: m.__qualname__)
def test_counts_of_numpy_are_counts(make):
    counts = {k: np.int64(v) for k, v in GOOD[make].items() if isinstance(v, int) and not isinstance(v, bool)}
    make(**{**GOOD[make], **counts})


@pytest.mark.filterwarnings("error:A JAX array is being set as static")
@pytest.mark.parametrize("make", GOOD, ids=lambda m: m.__qualname__)
def test_constants_are_not_differentiated(make):
    """What is compiled for each of its values is refused by name where it is traced; all other numbers are arrays."""
    numbers = {k: v for k, v in GOOD[make].items() if isinstance(v, int | float) and not isinstance(v, bool)}
    for name, value in numbers.items():

        def traced(x, name=name):
            try:
                make(**{**GOOD[make], name: x})
            except (TypeError, ValueError) as error:
                if f"`{name}` is" not in str(error):
                    raise

        jax.eval_shape(traced, jnp.asarray(value))
