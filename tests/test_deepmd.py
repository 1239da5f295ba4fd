"""DeePMD-kit's own files (`.dp`, `.pb`) against what DeePMD-kit makes of them: `nox -s deepmd`."""

import subprocess

import jax.numpy as jnp
import numpy as np
import pytest
from test_deep import BOX, WATERS, X

import reverlet as rv

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_type_checks")]
PLACES = [12, 20]  # of oxygen and hydrogen: more than there are, as DeePMD-kit leaves others out


def model(path, kind, one_side, excluded=(), masked=()):
    """Writes a model of random weights and statistics; what DeePMD-kit says of the configuration of the tests."""
    pytest.importorskip("deepmd.dpmodel")
    from deepmd.dpmodel.model.model import get_model
    from deepmd.dpmodel.utils.serialization import save_dp_model

    descriptor = {"type": "se_e2_a", "rcut": 3.0, "rcut_smth": 0.5, "sel": PLACES, "neuron": [4, 8]}
    descriptor |= {"axis_neuron": 3, "resnet_dt": True, "type_one_side": one_side, "seed": 1, "precision": "float64"}
    fitting = {"type": kind, "neuron": [6, 6], "resnet_dt": True, "seed": 2, "precision": "float64"}
    fitting |= {"fit_diag": True, "scale": [1.5, 0.5]} if kind == "polar" else {}
    content = {"type_map": ["O", "H"], "descriptor": descriptor, "fitting_net": fitting,
               "atom_exclude_types": list(masked)}  # fmt: skip
    made = get_model(content)
    parts, rng = made.atomic_model, np.random.default_rng(3)
    parts.fitting_net.reinit_exclude(list(excluded))
    parts.descriptor.davg = np.repeat(rng.normal(size=(2, 2, 4)) * [0.1, 0, 0, 0], PLACES, axis=1)
    parts.descriptor.dstd = np.repeat(0.3 + rng.random((2, 2, 4)), PLACES, axis=1)
    if kind == "polar":
        parts.fitting_net.constant_matrix = np.array([0.7, 0.3])
        parts.out_bias = rng.normal(size=parts.out_bias.shape)
    save_dp_model(str(path), {"model": made.serialize(), "backend": "dpmodel", "model_def_script": content})
    kinds = np.array([0, 1, 1] * (len(X) // 3))
    called = made.call(10 * np.asarray(X)[None], kinds[None], box=np.diag(10 * np.asarray(BOX.lengths))[None])
    return called[f"global_{kind}"][0]


DIPOLE = {"elements": ("H", "O"), "charges": (0.0, 0.0), "scale": 1.0}


@pytest.mark.parametrize("one_side", [False, True])
def test_own_format(tmp_path, one_side):
    path = tmp_path / "a.dp"
    for excluded, masked in (((), ()), ((1,), ()), ((), (1,))):
        known = model(path, "dipole", one_side, excluded, masked)
        got = rv.io.read_deep_dipole(path, WATERS, **DIPOLE).moment(X, BOX)
        np.testing.assert_allclose(got, known, rtol=0, atol=1e-13)
    for masked in ((), (1,)):
        known = model(path, "polar", one_side, masked=masked)
        got = rv.io.read_deep_polarizability(path, WATERS, scale=1e-3).polarizability(X, BOX)
        np.testing.assert_allclose(got, 1e-3 * known, rtol=0, atol=1e-14)
    model(path, "polar", one_side, excluded=(1,))
    with pytest.raises(ValueError, match="shifts elements that `fitting"):
        rv.io.read_deep_polarizability(path, WATERS, scale=1e-3)


@pytest.mark.parametrize("one_side", [False, True])
def test_frozen_graph(tmp_path, one_side):
    """Converted by DeePMD-kit and TensorFlow."""
    pytest.importorskip("tensorflow")
    known = model(tmp_path / "a.dp", "dipole", one_side)
    paths = [str(tmp_path / name) for name in ("a.dp", "a.pb")]
    subprocess.run(["dp", "convert-backend", *paths], check=True, capture_output=True)
    got = rv.DeepDipole.from_frozen(paths[1], WATERS, **DIPOLE).moment(jnp.asarray(X), BOX)
    np.testing.assert_allclose(got, known, rtol=0, atol=1e-13)
