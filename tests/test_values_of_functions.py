"""What no argument of a function may be, as of fields in test_values: nothing bad becomes a finite number."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_values import BOX, CHARGES, GOOD, KEY, LJ, STATE, SYSTEM, TOPOLOGY, WINDOW, X, bad_values, not_refused

import reverlet as rv

pytestmark = pytest.mark.usefixtures("without_type_checks")

SAMPLES = rv.Samples.of(SYSTEM, rv.NVT(300.0), STATE.repeat(4))
MEASURED = {"observable": rv.Temperature(), "system": SYSTEM, "samples": SAMPLES, "ensemble": rv.NVT(300.0),
            "dynamics": rv.Dynamics(1e-3, 8), "throw": True}  # fmt: skip
PATHS = {"observable": rv.Temperature(), "system": SYSTEM, "samples": SAMPLES, "throw": True,
         "paths": rv.langevin.LangevinPaths(300.0, 1.0, dt=1e-3, num_steps=2), "feedback": rv.langevin.Pathwise(),
         "credit": rv.langevin.AllNoise()}  # fmt: skip
WATER = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
WEIGHTS, SERIES = jnp.array([0.5, 0.25, 0.25]), jnp.arange(1.0, 13.0).reshape(4, 3)
DEEP = {"topology": WATER, "positions": X[:3], "box": BOX, "elements": ("O", "H"), "cutoff": 0.6, "onset": 0.1,
        "neurons": (2, 4), "axis": 2, "hidden": (3,)}  # fmt: skip
WATERS = {"num_molecules": 8, "box": BOX, "cutoff": 0.8, "truncation": rv.PlainCutoff(), "accuracy": 1e-4}
LABELS = rv.Labels(TOPOLOGY, X[None], 2.0 * np.eye(3), forces=np.ones((1, 4, 3)))
WAVE = np.cos(np.arange(20.0))
SPECTRUM = {"times": 0.01 * np.arange(20), "wavenumbers": np.array([0.0, 100.0]), "window": rv.spectra.HannWindow(0.05)}
CALLS = {  # arguments that are fine, of functions that run something
    rv.nve: {"system": SYSTEM, "state": STATE, "solver": rv.VelocityVerlet(), "dt": 1e-3, "num_steps": 2,
             "save_every": 1, "record": lambda *_: 0, "adjoint": rv.ReversibleAdjoint(), "both_directions": False,
             "throw": True},
    rv.minimize: {"system": SYSTEM, "state": STATE, "max_steps": 2, "tolerance": 10.0, "max_move": 0.01},
    rv.pack: {"molecule": WATER, "num": 4, "density": 600.0, "contact": 0.2, "positions": X[:3]},
    rv.qspcfw: WATERS,
    rv.EANN.fresh: {"topology": WATER, "cutoff": 0.6, "num_radial": 4, "max_degree": 2},
    rv.DeepDipole.fresh: {**DEEP, "charges": np.array([-2.0, 1.0]), "centers": ("O",), "scale": 0.01},
    rv.DeepPolarizability.fresh: {**DEEP, "isotropic": 1e-3, "scale": 1e-4},
    rv.MessagePassing.fresh: {"topology": WATER, "cutoff": 0.6, "num_radial": 4, "num_channels": 4, "num_rounds": 2},
    rv.fit: {"loss_fn": lambda m, c, k: (m["a"] ** 2, (c, None)), "model": {"a": jnp.array(1.0)},
             "optimizer": optax.adam(1e-3), "num_steps": 1, "positive": lambda m: m["a"], "callback": lambda s: None,
             "accept_changes": False},
    rv.force_matching: {"model": LJ, "labels": LABELS, "optimizer": optax.adam(1e-3), "validation": LABELS,
                        "num_epochs": 1, "batch_size": 1, "weights": rv.training.LabelWeights(), "offset": 1.0,
                        "patience": 2, "original": LABELS, "forgetting": 1.0, "batch": 1, "check_units": False,
                        "callback": lambda s: None, "accept_changes": False},
    rv.training.predict_labels: {"model": LJ, "labels": LABELS, "offset": 1.0, "batch": 1},
    rv.training.label_errors: {"predicted": LABELS, "labels": LABELS},
    rv.training.label_loss: {"model": LJ, "labels": LABELS, "weights": rv.training.LabelWeights(), "batch": 1},
    rv.low_rank: {"model": {"a": jnp.ones((5, 5))}, "rank": 1},
    rv.per_parameter: {"optimizer": optax.adam, "rates": {"a": 1e-3}},
    rv.measure: {"observables": rv.Temperature(), "system": SYSTEM, "source": SAMPLES, "ensemble": rv.NVT(300.0),
                 "unwrap": False},
    rv.infrared: {**SPECTRUM, "dipoles": WAVE[:, None] * np.ones(3), "volume": 8.0, "temperature": 300.0},
    rv.raman: {**SPECTRUM, "polarizabilities": WAVE[:, None, None] * np.eye(3), "volume": 8.0, "temperature": 300.0},
    rv.power_spectrum: {**SPECTRUM, "series": WAVE},
    rv.expectation: {**MEASURED, "thermodynamic": True, "dynamical": True},
    rv.expectation_gradients: {**MEASURED, "keep_samples": True},
    rv.gradient_horizon: {**MEASURED, "thermodynamic": False, "num_horizons": 4, "threshold": 2.0, "tail": 0.1,
                          "beyond": 1.0},
    rv.langevin.path_gradient: {**PATHS, "forward": True},
    rv.langevin.path_tangents: PATHS,
    rv.maxwell_boltzmann: {"topology": TOPOLOGY, "temperature": 300.0, "remove_center_of_mass": True},
    rv.statistics.blocks_of: {"chain": np.array([0, 0, 1])},
}  # fmt: skip
SERIES_OF = {  # of functions of series, whose good values cost no more than bad ones
    rv.statistics.effective_sample_size: {"weights": WEIGHTS},
    rv.statistics.entropy_sample_size: {"weights": WEIGHTS},
    rv.statistics.weighted_mean: {"weights": WEIGHTS, "values": SERIES[:3]},
    rv.statistics.weighted_mean_error: {"weights": WEIGHTS, "values": SERIES[:3]},
    rv.statistics.infinitesimal_jackknife: {"estimator": lambda w: w @ SERIES[:3], "weights": WEIGHTS},
    rv.statistics.correlation_all_origins: {"a": SERIES, "b": SERIES, "num_lags": 2},
    rv.statistics.correlation_first_origins: {"a": SERIES, "b": SERIES, "num_origins": 2},
    rv.statistics.correlation_fixed_origin: {"origin": SERIES[0], "series": SERIES},
    rv.statistics.running_integral: {"times": jnp.arange(4.0), "values": SERIES[:, 0]},
    rv.spectra.spectral_density: {"correlation": SERIES[:, 0], "step": 0.1, "frequencies": jnp.array([0.0, 1.0]),
                                  "window": WINDOW, "quadrature": rv.spectra.Trapezoid()},
    rv.spectra.correlation_of_density: {"frequencies": jnp.array([0.0, 1.0]), "density": jnp.ones(2), "step": 0.1,
                                        "num_lags": 3},
    rv.spectra.filter_spectrum: {"wavenumbers": jnp.linspace(0, 100.0, 51), "intensities": jnp.ones(51),
                                 "window": WINDOW, "step": 0.01, "num_lags": 101, "at": jnp.array([0.0, 50.0]),
                                 "quadrature": rv.spectra.Trapezoid()},
}  # fmt: skip
SIGNED = "values a b origin series times correlation frequencies density dipoles polarizabilities".split()
FINE = {  # legitimate, with the reason
    # series, constants, charges and parts that are fitted have signs
    "negative": [*SIGNED, "offset", "charges", "isotropic", "scale"],
    "zero": [
        *SIGNED,
        "charges",
        "forgetting",
        "offset",
        "isotropic",
        "weights",
        "wavenumbers",
        "intensities",
        "at",
        "temperature",
        "positions",
        "chain",
        "max_degree",
    ],
    "nan inf -inf": ["weights", *SIGNED],  # come out as NaN, which `test_series` sees
}


NEITHER = {  # public, but in none of the tables
    "made by the library": "BitReversibleState Blocks CellMoves Chains Comparison Edges Epochs Estimate FitState"
    " GradientHorizon Gradients LabelErrors LowRank Matched Minimum Neighbors Pool RamanSpectra Samples Surfaces"
    " Bath PathGradient PathTangents Spectrum Trajectory Edges.within SimulationError.within"
    " BitReversibleVerlet.describe",
    "of Diffrax's terms, which have no numbers": "ConservativeTerm Deformation Drift Kick OrnsteinUhlenbeck Stage",
    "of networks, and of weights in files; refused in test_surfaces, test_files_of_weights": "DeepDipole"
    " read_deep_dipole read_deep_polarizability"
    " DeepDipole.from_frozen DeepDipole.from_npz DeepPolarizability EANN EANN.from_npz EANN.from_pickle MessagePassing"
    " NeuralPair"
    " JaxMDPotential JaxMDPotential.allocate",
    "of files, which test_files and test_file_mutations do worse to": "read read_structure stream reporting write",
    "of files of targets; refused in test_target_files": "ForceBalanceData Phase Quantity Quantity.parse TargetFile"
    " TargetRecord observable_of read_forcebalance read_parameterized write_forcebalance BoundForceField"
    " ParameterizedForceField",
    "made by the fit": "Inversion InversionUpdate RelativeEntropyStep"
    " Fitness PoolVerdict Prediction SampleSet SensitivityTable SeriesVerdict TargetFit TargetUpdate",
    "of systems and curves; refused in test_coarse_graining": "boltzmann_inversion iterative_boltzmann_inversion"
    " relative_entropy_step",
    "refused in test_target_fits": "SamplePool fit_targets pool_verdict sensitivities statistical_inefficiency",
    "of kinds of atoms; refused in test_structure": "TetrahedralOrder",
    "refused in test_training": "AdaptedPotential Labels.concatenate read_labels write_labels",
    "of trees; refused where they are tested": "linearize mbar",
    "of OpenMM's objects; refused in test_openmm": "default_box from_state from_system",
    "of sockets and files; refused in test_exports": "LammpsTable ipi_driver read_lammps_table save write_lammps_table",
    "rules of fields, which all of test_values is about": "Indices Parameter Rule checked count finite finite_number"
    " function indices instance optional positive positive_number positive_or_zero positive_scalar positive_whole",
}
SPACES = [rv, rv.coarse_graining, rv.controls, rv.export, rv.fields, rv.flows, rv.io, rv.langevin, rv.lattices,
          rv.losses, rv.openmm, rv.pairs, rv.reweighting, rv.scattering, rv.spectra, rv.splines, rv.statistics,
          rv.targets, rv.training]  # fmt: skip


def public():
    """All classes and functions with arguments, and functions of classes, by name."""
    found = {n: v for space in SPACES for n, v in vars(space).items() if not n.startswith("_") and callable(v)}
    for n, v in list(found.items()):
        ways = [k for k, f in vars(v).items() if isinstance(f, classmethod | staticmethod) and not k.startswith("_")]
        found |= {f"{n}.{k}": getattr(v, k) for k in ways}
    errors = lambda v: inspect.isclass(v) and issubclass(v, Exception)
    return {
        n: v
        for n, v in found.items()
        if not n.startswith("Abstract") and not errors(v) and inspect.signature(v).parameters
    }


def test_everything_public_is_in_a_table_or_said_why_not():
    tables, exempt = [*GOOD, *CALLS, *SERIES_OF], " ".join(NEITHER.values()).split()
    assert [n for n, v in public().items() if v not in tables and n not in exempt] == []
    assert [n for n in exempt if n not in public() or public()[n] in tables] == []  # no longer an exception


def is_fine(kind, name):
    return any(kind in kinds.split() and name in names for kinds, names in FINE.items())


@pytest.mark.parametrize("call", [*CALLS, *SERIES_OF], ids=lambda f: f.__name__)
def test_bad_arguments_are_refused_by_name(call):
    good, wrong = {**CALLS, **SERIES_OF}[call], []
    key = {"key": KEY} if "key" in inspect.signature(call).parameters else {}
    for name, value in {**good, **key}.items():
        for kind, bad in bad_values(value).items():
            # where atoms of a molecule are is theirs; a molecule that is turned inside out is one
            if is_fine(kind, name) or (kind == "negative" and name == "positions"):
                continue
            wrong += not_refused(call, {**good, **key}, name, kind, bad)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("call", SERIES_OF, ids=lambda f: f.__name__)
def test_what_is_not_finite_in_a_series_is_not_finite_in_the_result(call):
    good = SERIES_OF[call]
    assert np.all(np.isfinite(call(**good)))
    for name, value in good.items():
        if name in FINE["nan inf -inf"]:
            assert not np.all(np.isfinite(call(**{**good, name: jnp.asarray(value).at[0].set(jnp.nan)}))), name


def test_samples_are_counted():
    sampler = rv.LangevinBAOAB(300.0, 1.0, dt=1e-3, num_steps=1)
    for bad in (np.nan, np.inf, -2, 0, 2.0, "wrong"):
        with pytest.raises(ValueError, match="`num_samples` is"):
            sampler.sample(SYSTEM, STATE.repeat(2), bad, key=KEY)
    for name, (system, chains) in {"system": (3.5, STATE.repeat(2)), "chains": (SYSTEM, 3.5)}.items():
        with pytest.raises(TypeError, match=f"`{name}` is 3.5"):
            sampler.sample(system, chains, 2, key=KEY)
    for bad in bad_values(KEY).values():
        for draw in (
            lambda key: sampler.sample(SYSTEM, STATE.repeat(2), 2, key=key),
            lambda key: SAMPLES.with_velocities(TOPOLOGY, key=key),
        ):
            with pytest.raises(TypeError, match=r"(?s)`key` is .*; wanted a single random key"):
                draw(bad)
    with pytest.raises(TypeError, match=r"`topology` is 3\.5"):
        SAMPLES.with_velocities(3.5, key=KEY)


def model_fit(**options):
    model = {"a": jnp.array(1.0), "b": jnp.ones(2)}
    loss = lambda m, c, k: (m["a"] ** 2, (c, None))
    return rv.fit(loss, model, optax.sgd(0.1), **{"num_steps": 1, "key": KEY, **options})


class Records(rv.AbstractObservable):
    what: object

    def record(self, system, state, initial):
        return self.what

    def reduce(self, times, records, weights, ensemble=None):
        return weights @ records[:, 0]


ATOM = rv.State(jnp.zeros((1, 3)), jnp.ones((1, 3)), rv.OpenBox())
ONE = rv.System(rv.Topology.from_elements(["Ar"]), rv.Sum(()))
NOT_COMPUTED = r"wanted arrays of the model as they are, .*There are \['a'\], \['b'\]"
TRACED = "`box` is a traced box; wanted known numbers"
CUBE = lambda length: rv.OrthorhombicBox(jnp.full(3, length))
SPC = rv.WaterModel.spcfw()
REFUSED = {  # what no table above has: the call, and what it is told
    "a part of an array": (lambda: model_fit(positive=lambda m: m["b"][0]), NOT_COMPUTED),
    "computed": (lambda: model_fit(positive=lambda m: m["a"] * 2), NOT_COMPUTED),
    "no field": (lambda: model_fit(positive=lambda m: m.sigma), NOT_COMPUTED),
    "resume": (lambda: model_fit(resume=True), '`resume` is True; wanted the name of a file, or "auto"'),
    "checkpoint": (lambda: model_fit(checkpoint=3.5), "`checkpoint` is 3.5; wanted the name of a file"),
    "text": (lambda: rv.nve(ONE, ATOM, dt=1e-3, num_steps=1, record=lambda *_: {"x": "text"}),
             r"`record` returns 'text' at \['x'\], of type `str`; wanted arrays and numbers"),
    "text of samples": (lambda: rv.expectation(Records("text"), SYSTEM, SAMPLES), "`record` returns 'text'"),
    "water": (lambda: jax.eval_shape(lambda l: SPC.system(8, CUBE(l)), 2.0), TRACED),
    "ewald": (lambda: jax.eval_shape(lambda l: rv.Ewald.fit(CHARGES, CUBE(l), cutoff=0.8), 2.0), TRACED),
    "p3m": (lambda: jax.eval_shape(lambda l: rv.P3M.fit(CHARGES, CUBE(l), cutoff=0.8), 2.0), TRACED),
    "lists": (lambda: jax.eval_shape(lambda l: rv.CellList.fit(X, CUBE(l), cutoff=0.5), 2.0), TRACED),
    "packed": (lambda: jax.eval_shape(lambda l: rv.pack(WATER, X[:3], 4, box=CUBE(l), key=KEY), 2.0), TRACED),
    "degrees of water": (lambda: rv.WaterModel(0.4, 0.3, 0.6, 1e5, 0.1, 300.0, 113.24),
                         "`angle` is 113.24; wanted at most π, in rad. From degrees"),
    "degrees of a torsion": (lambda: rv.PeriodicTorsion(np.array([[0, 1, 2, 3]]), 1.0, 2, 180.0),
                             "`phase` is 180.0; wanted at most 2π either way"),
    "atomic numbers": (lambda: rv.Topology.from_elements([8, 1]), r"`elements` is \[8, 1\]; wanted a list of symbols"),
    "a word": (lambda: rv.Topology.from_elements("OH"), "`elements` is 'OH'; wanted a list of symbols"),
    "atom -1": (lambda: rv.Topology.from_elements(["O", "H"], bonds=[(0, 1), (0, -1)]),
                r"`bonds` has \[0, -1\]; wanted atoms from 0 to 1"),
    "topology to read": (lambda: rv.io.read("any.xyz", topology=["O"]), r"`topology` is \['O'\], of type `list`"),
    "topology to write": (lambda: rv.io.write("any.xyz", ["O"], STATE), r"`topology` is \['O'\]"),
    "trajectory": (lambda: rv.io.write("any.xyz", TOPOLOGY, 3.5), "`trajectory` is 3.5"),
    "check": (lambda: SYSTEM.check(3.5), "`states` is 3.5, of type `float`; wanted an instance of `State`"),
    "pressure": (lambda: SYSTEM.pressure(3.5), "`state` is 3.5"),
    "kinetic energy": (lambda: SYSTEM.kinetic_energy(3.5), "`velocities` is 3.5.* wanted an array"),
    "energy of a number": (lambda: SYSTEM.potential_energy(3.5, BOX), "`positions` is 3.5.* wanted an array"),
    "energy in a number": (lambda: SYSTEM.potential_energy(X, 3.5), "`box` is 3.5"),
    "forces": (lambda: LJ.forces(3.5, BOX), "`positions` is 3.5"),
    "times of other frames": (lambda: OF_TIMES["VDOS"].reduce(jnp.arange(6.0), jnp.ones((1, 5, 3)), jnp.ones(1)),
                              r"`times` has shape \(6,\); wanted \(5\)"),
    "times of other values": (lambda: rv.statistics.running_integral(jnp.arange(2.0), jnp.ones(5)),
                              r"`times` has shape \(2,\); wanted \(5\)"),
    "series of two lengths": (lambda: rv.statistics.correlation_all_origins(SERIES, SERIES[:3]),
                              r"`b` has shape \(3, 3\); wanted \(4, 3\)"),
    "series of two shapes": (lambda: rv.statistics.correlation_first_origins(SERIES, SERIES[:, :1], 2),
                             r"`b` has shape \(4, 1\); wanted \(4, 3\)"),
    "stress": (lambda: LJ.stress(X, 3.5), "`box` is 3.5"),
    "surfaces": (lambda: SYSTEM.with_surfaces(3.5), "`surfaces` is 3.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    call, told = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=told):
        call()


def test_numbers_that_are_recorded_are_arrays():
    for number in (2, 2.5, np.float32(2.5)):
        assert rv.expectation(Records(number), SYSTEM, SAMPLES).value == number
    assert rv.nve(ONE, ATOM, dt=1e-3, num_steps=1, record=lambda *_: (2, 2.5)).records[1].tolist() == [2.5, 2.5]


def test_numbers_of_numpy_are_numbers_of_files(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nO 0 0 0\n" * 3)
    _, read = rv.io.read(tmp_path / "a.xyz", interval=np.float32(0.5))
    assert read.times.tolist() == [0.0, 0.5, 1.0]


OF_TIMES = {
    "Einstein": rv.SelfDiffusion(rv.Einstein()),
    "GreenKubo": rv.SelfDiffusion(rv.GreenKubo()),
    "VDOS": rv.VDOS(jnp.array([0.0, 100.0]), WINDOW),
    "InfraredSpectrum": rv.InfraredSpectrum(jnp.array([0.0, 100.0]), WINDOW),
    "Viscosity": rv.Viscosity(0.2),
    "Conductivity": rv.Conductivity(0.2),
}


@pytest.mark.parametrize("times", [[0.0, 1, 1, 2], [3.0, 2, 1, 0], [1.0, 1, 1, 1], [0.0, 2, 1, 3]])
def test_times_that_do_not_increase(times):
    times, records, weights = jnp.array(times), jnp.ones((3, 4)), jnp.ones(3) / 3
    for observable in OF_TIMES.values():
        with pytest.raises(ValueError, match=r"`times` do not increase: after|wanted equal steps"):
            observable.reduce(times, records, weights, rv.NVT(300.0))
    with pytest.raises(ValueError, match="`times` do not increase"):
        rv.statistics.running_integral(times, records)


FAR = jnp.asarray(np.asarray(X) + np.array([1e4, 0, 0]), jnp.float32)


@pytest.mark.parametrize("kind", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_positions_too_far_out_for_their_precision(kind):
    nearest = {jnp.float32: 512.0, jnp.float64: 2.0**38, jnp.bfloat16: 2.0**-7}[kind]
    for place in (nearest, -nearest, 1e3 * nearest):
        with pytest.raises(ValueError, match=r"`positions` reach .* nm, where numbers of "):
            rv.State(jnp.zeros((2, 3), kind).at[1, 2].set(place), None, rv.OpenBox())
    x = rv.State(jnp.zeros((2, 3), kind).at[1, 2].set(0.99 * nearest), None, rv.OpenBox()).positions
    assert float(jnp.nextafter(x[1, 2], jnp.array(jnp.inf, kind)) - x[1, 2]) < 5e-5


def test_positions_too_far_out_that_no_state_has_checked(tmp_path):
    states = jax.vmap(lambda x: rv.State(x, jnp.zeros_like(x), rv.OpenBox()))(jnp.stack([FAR - FAR[0], FAR]))
    with pytest.raises(rv.SimulationError, match=r"positions of configuration 1 reach 10000.5 nm, where .*float32"):
        rv.System(TOPOLOGY, rv.Sum(())).check(states)
    of_arrays = [LJ.forces, LJ.stress, SYSTEM.potential_energy, lambda x, box: rv.CellList.fit(x, box, cutoff=0.5)]
    for function in of_arrays:
        with pytest.raises(ValueError, match=r"`positions` reach 10000.5 nm"):
            function(FAR, BOX)
    (tmp_path / "far.xyz").write_text("1\n\nAr 1e13 0 0\n")
    with pytest.raises(ValueError, match=r"far.xyz cannot be read .*`positions` reach 1e\+12 nm"):
        rv.io.read(tmp_path / "far.xyz")


def test_positions_that_are_accepted_have_their_forces():
    """Against double precision, at the furthest place: numbers there are 3e-5 nm apart, and distances as wrong."""
    bond, box = rv.HarmonicBond(np.array([[0, 1]]), 1e5, 0.09), rv.OpenBox()
    state = rv.State(jnp.asarray(X[:2] + 511.0, jnp.float32), None, box)
    np.testing.assert_allclose(bond.forces(state.positions, box), bond.forces(X[:2], box), atol=1e5 * 3.1e-5)


@pytest.mark.parametrize("potential", [LJ, rv.ReactionField(CHARGES, cutoff=0.8)], ids=lambda p: type(p).__name__)
def test_atoms_at_one_place_have_no_finite_force(potential):
    together = X.at[1].set(X[0])
    assert not np.isfinite(potential.energy(together, BOX))
    assert np.all(np.isnan(potential.forces(together, BOX)))
    assert np.all(np.isnan(potential.stress(together, BOX)))


def test_a_cutoff_beyond_half_the_box_is_refused_without_dynamics():
    """Beyond it the nearest images are not all that are within the cutoff."""
    states = STATE.repeat(2)
    fits, too_long = (rv.System(TOPOLOGY, rv.LennardJones(0.3, 1.0, cutoff=c)) for c in (0.4, 100.0))
    samples = rv.Samples.of(fits, rv.NVT(300.0), states)
    assert np.isfinite(rv.expectation(rv.TotalEnergy(), fits, samples, throw=False).value)
    for call in (
        lambda: too_long.potential_energy(STATE.positions, STATE.box),
        lambda: too_long.pressure(STATE),
        lambda: rv.Samples.of(too_long, rv.NVT(300.0), states),
        lambda: rv.expectation(rv.TotalEnergy(), too_long, samples),
    ):
        with pytest.raises(ValueError, match="half the smallest height of the box"):
            call()
