"""Weights in files of other programs: what they say, and what nobody should run."""

import collections
import json
import os
import pickle
import time

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHARED
from test_deep import DIPOLE, POLAR, WATERS, X, evaluated
from test_surfaces import archive, waters

import reverlet as rv

WATER = SHARED / "data" / "water"
published = pytest.mark.skipif(not WATER.exists(), reason="without the published weights")
pytestmark = pytest.mark.usefixtures("without_type_checks")


def refused(read, path, data, seconds=2.0):
    """Whether a file is refused, by a `ValueError` that says which, and within a time."""
    path.write_bytes(data)
    start, told = time.process_time(), None
    try:
        read(path)
    except ValueError as error:
        told = str(error)
    assert time.process_time() - start < seconds
    assert told is None or str(path) in told
    return told is not None


def damaged(data, number, seed=0):
    """Copies that are cut, or have some bytes changed, as many of each."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        yield data[: rng.integers(len(data))]
        changed = np.frombuffer(data, np.uint8).copy()
        # most of a file is numbers, which may be any; names and lengths are between them
        places = rng.integers(0, len(changed), size=rng.integers(1, 20))
        changed[places] = rng.integers(0, 256, size=len(places))
        yield changed.tobytes()


# --- EANN from pickles of DMFF -------------------------------------------------------------------------------------


def of_dmff(arrays, flat, convert=np.asarray, one_more_axis=False):
    """The dictionaries that DMFF keeps, of arrays as `from_npz` names them."""
    of = lambda name, x: convert(np.swapaxes(x, 1, 2) if flat and name in ("w0", "w3", "w6") else x)
    content = {f"density.{name}": convert(arrays[old]) for name, old in
               {"params": "c", "rs": "rs", "inta": "inta"}.items()} if flat else {
               name: convert(arrays[name]) for name in ("c", "rs", "inta")}  # fmt: skip
    content["nnmod.initpot" if flat else "initpot"] = convert(arrays["initpot"])
    for kind in "wb":
        if flat:
            content |= {f"{kind}.{k}": of(f"{kind}{k}", arrays[f"{kind}{k}"]) for k in range(7)}
        else:
            content[kind] = [of(f"{kind}{k}", arrays[f"{kind}{k}"]) for k in range(7)]
    return content if flat else {"energy": content, "others": (1, "two", None, True)}


def small_archive(tmp_path):
    rng = np.random.default_rng(0)
    with np.load(archive(tmp_path / "small.npz")) as shapes:
        # as many numbers in as out, so that only the order of axes tells which
        changes = {name: rng.normal(size=x.shape) for name, x in shapes.items()}
    return archive(tmp_path / "small.npz", **changes)


def eann_arrays(eann):
    return [np.asarray(x) for x in (*eann.layers[0].__dict__.values(), *eann.layers[1].__dict__.values(), *eann.last,
                                    eann.amplitudes, eann.widths, eann.shifts, eann.offset)]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_dmff(tmp_path, protocol):
    """By every protocol, of NumPy and of JAX, in both forms: the arrays of the archive."""
    known = small_archive(tmp_path)
    wanted = eann_arrays(rv.EANN.from_npz(known, waters(2)))
    ordered = lambda content: collections.OrderedDict(content) if protocol % 2 else content
    with np.load(known) as arrays:
        for flat in (True, False):
            for convert in (np.asarray, np.asfortranarray, jnp.asarray, lambda x: np.asarray(x, ">f8"),
                            lambda x: np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0)):  # fmt: skip
                data = pickle.dumps(ordered(of_dmff(arrays, flat, convert)), protocol)
                (tmp_path / "dmff.pickle").write_bytes(data)
                got = eann_arrays(rv.EANN.from_pickle(tmp_path / "dmff.pickle", waters(2)))
                for a, b in zip(got, wanted, strict=True):
                    np.testing.assert_array_equal(a, b)


def test_other_numbers_of_pickles(tmp_path):
    with np.load(small_archive(tmp_path)) as arrays:
        content = of_dmff(arrays, True)
    for offset, kept in ((2.5, 2.5), (np.float64(2.5), 2.5), (np.float32(2.5), 2.5), (3, 3.0), (np.array([7]), 7.0)):
        (tmp_path / "a.pickle").write_bytes(pickle.dumps(content | {"nnmod.initpot": offset}))
        assert rv.EANN.from_pickle(tmp_path / "a.pickle", waters(2)).offset == kept


@published
def test_published_eann_as_a_pickle(tmp_path):
    with np.load(WATER / "eann_pbe0.npz") as arrays:
        for flat in (True, False):
            (tmp_path / "dmff.pickle").write_bytes(pickle.dumps(of_dmff(arrays, flat, jnp.asarray)))
            got = rv.EANN.from_pickle(tmp_path / "dmff.pickle", waters(2))
            for a, b in zip(eann_arrays(got), eann_arrays(rv.EANN.from_npz(WATER / "eann_pbe0.npz", waters(2))),
                            strict=True):  # fmt: skip
                np.testing.assert_array_equal(a, b)


class Runs:
    """What a pickle can ask for: any function with any arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def nested(depth):
    """A tuple of which every part is the same tuple of the next: 2**depth parts, in as many steps as `depth`."""
    inner = ()
    for _ in range(depth):
        inner = (inner, inner)
    return inner


def test_pickles_that_would_run_something(tmp_path):
    read = lambda path: rv.EANN.from_pickle(path, waters(2))
    trace = tmp_path / "trace"
    hostile = {
        "posix.system": Runs(os.system, f"touch {trace}"),
        "builtins.eval": Runs(eval, f"open({str(trace)!r}, 'w')"),
        "builtins.getattr": Runs(getattr, os, "system"),
        "numpy.load": Runs(np.load, str(trace)),
        "numpy.frombuffer": Runs(np.frombuffer, b"abc"),
        "NEWOBJ": rv.OpenBox(),
    }
    for told, value in hostile.items():
        for protocol in (2, 4):
            for content in (value, {"w.0": value}, [np.ones(2), value]):
                try:
                    data = pickle.dumps(content, protocol)
                except (TypeError, pickle.PicklingError):  # modules have no pickles
                    continue
                (tmp_path / "hostile.pickle").write_bytes(data)
                with pytest.raises(ValueError, match=rf"{told}|names|nothing of it was run"):
                    read(tmp_path / "hostile.pickle")
    assert not trace.exists()


def test_pickles_that_are_large_or_absurd(tmp_path):
    """Quickly, and without the memory they ask for."""
    read = lambda path: rv.EANN.from_pickle(path, waters(2))
    array = pickle.dumps(np.ones((2, 3)))
    huge = array.replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")
    assert huge != array
    # as a key of a dictionary, whose hash takes 2**200 steps
    key = b"}" + pickle.dumps(nested(200), 4)[11:-1] + b"Ns."
    for data in (
        b"", b".", b"]", b"K", b"(((((.", b"(0.", b"}(K\x01u.", b"N}b.", b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
        b"r\xff\xff\xff\xff.", b"Nr\xff\xff\xff\xff.",
        b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x96" + b"\xff" * 7 + b"\x3f.",
        b"\x8b\xff\xff\xff\x7f", b"I" + b"9" * 100_000 + b"\n.", b"cos\nsystem\n(S'ls'\ntR.", b"N" * 1_100_000 + b".",
        b"(" * 50_000 + b"l" * 50_000 + b".", huge, key, pickle.dumps(nested(200)), pickle.dumps([]),
        pickle.dumps({"w.0": np.array(["text"])}), pickle.dumps({"w.0": np.array([object()])}),
        pickle.dumps({"w": 3.0}), b"\x80\x04}\x94(\x8c\x01w\x94h\x00u.",
    ):  # fmt: skip
        assert refused(read, tmp_path / "absurd.pickle", data, seconds=10.0), data[:40]
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.pickle")
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match="no file"):
            read(path)


def test_pickles_that_are_damaged(tmp_path):
    """Only clear errors come out, or networks of other numbers."""
    with np.load(small_archive(tmp_path)) as arrays:
        whole = pickle.dumps(of_dmff(arrays, True, jnp.asarray), 4)
    read = lambda path: rv.EANN.from_pickle(path, waters(2))
    outcomes = [refused(read, tmp_path / "damaged.pickle", data) for data in damaged(whole, 150)]
    assert sum(outcomes) > 200


def test_pickles_that_do_not_fit(tmp_path):
    with np.load(small_archive(tmp_path)) as arrays:
        content, lists = of_dmff(arrays, True), of_dmff(arrays, False)["energy"]
    read = lambda content: ((tmp_path / "a.pickle").write_bytes(pickle.dumps(content)),
                            rv.EANN.from_pickle(tmp_path / "a.pickle", waters(2)))  # fmt: skip
    wrong = {
        "lacks `w.3`": {name: x for name, x in content.items() if name != "w.3"},
        "lacks `density.rs`|lacks `rs`": {name: x for name, x in content.items() if name != "density.rs"},
        r"lacks `w\[6\]`": lists | {"w": lists["w"][:6]},
        r"`[wb]0` in .* has shape": content | {"w.0": np.swapaxes(content["w.0"], 1, 2)},
        "`w.3` in .* finite real": content | {"w.3": np.full((2, 4, 4), np.nan)},
        "`w.3` in .* real numbers": content | {"w.3": np.ones((2, 4, 4), bool)},
    }
    for told, changed in wrong.items():
        with pytest.raises(ValueError, match=told):
            read(changed)


# --- Deep Dipoles from DeePMD-kit's frozen graphs ------------------------------------------------------------------


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    """A whole number, or bytes, of a message of protocol buffers."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def constant(name, x, packed=False):
    """A node of a graph: its name and operation, and the tensor of its attribute `value`."""
    x = np.asarray(x)
    text = x.dtype.kind in "US"
    kinds = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9, "<f2": 19}
    shape = b"".join(field(2, field(1, n)) for n in x.shape)
    tensor = field(1, 7 if text else kinds[x.dtype.str]) + field(2, shape)
    if text:
        tensor += field(8, str(x).encode())
    elif packed:
        numbers = {"f": x.tobytes(), "i": b"".join(varint(int(n) % 2**64) for n in x.ravel())}[x.dtype.kind]
        tensor += field({"<f4": 5, "<f8": 6, "<i4": 7, "<i8": 10}[x.dtype.str], numbers)
    else:
        tensor += field(4, x.tobytes())
    return field(1, field(1, name.encode()) + field(2, b"Const") + attribute("value", field(8, tensor)))


def attribute(key, value):
    return field(5, field(1, key.encode()) + field(2, value))


def switch(onset, cutoff):
    """The node that makes rows."""
    of = lambda key, x: attribute(key, varint(4 << 3 | 5) + np.float32(x).tobytes())
    node = field(1, b"ProdEnvMatA") + field(2, b"ProdEnvMatA") + field(3, b"t_mesh")
    return field(1, node + of("rcut_r", cutoff) + of("rcut_r_smth", onset) + attribute("T", field(6, 2)))


def constants_of(dipole, elements):
    """What DeePMD-kit calls the parts of a dipole."""
    d, kinds = dipole.descriptor, len(elements)
    rows = lambda x: np.repeat(np.asarray(x), d.slots, axis=1).reshape(len(d.centers), -1)
    found = {"model_attr/tmap": " ".join(elements), "model_attr/model_type": "dipole"}
    found |= {"model_attr/sel_type": np.array(d.centers, "<i4"), "descrpt_attr/sel": np.array(d.slots, "<i4")}
    for name, x in {"descrpt_attr/t_avg": rows(d.mean), "descrpt_attr/t_std": rows(d.deviation)}.items():
        found[name] = np.ones((kinds, x.shape[1]))
        found[name][list(d.centers)] = x
    for place, c in enumerate(d.centers):
        for n, net in enumerate(d.embeddings[place]):
            for k, (w, b, step) in enumerate(zip(net.weights, net.biases, net.steps, strict=True), start=1):
                of = lambda kind, k=k, c=c, n=n: f"filter_type_{c}/{kind}_{k}_{n}"
                found |= {of("matrix"): w, of("bias"): b} | ({} if step is None else {of("idt"): step[None]})
        net = dipole.fittings[place]
        for k, (w, b, step) in enumerate(zip(net.weights, net.biases, net.steps, strict=True)):
            name = "final_layer" if k == len(net.weights) - 1 else f"layer_{k}"
            of = lambda kind, c=c, name=name: f"{name}_type_{c}/{kind}"
            found |= {of("matrix"): w, of("bias"): b} | ({} if step is None else {of("idt"): step})
    return found


def frozen(constants, onset=0.5, cutoff=3.0, packed=False):
    kept = {name: x for name, x in constants.items() if x is not None}
    return b"".join(constant(name, x, packed) for name, x in kept.items()) + switch(onset, cutoff)


CHARGED = {"elements": ("H", "O"), "charges": (1.0, -2.0)}


def read_frozen(path):
    return rv.DeepDipole.from_frozen(path, WATERS, **CHARGED, scale=DIPOLE.scale)


def test_frozen_graphs(tmp_path):
    """What is written as DeePMD-kit would is the same dipole again, whatever the form of numbers."""
    d = DIPOLE.descriptor
    means = jnp.array(np.random.default_rng(0).normal(size=d.mean.shape))
    full = eqx.tree_at(lambda m: m.descriptor.mean, DIPOLE, means)
    full = eqx.tree_at(lambda m: m.fittings[0].steps, full, (None, jnp.full(6, 0.3), None), is_leaf=lambda x: x is None)
    everything = constants_of(full, ("O", "H"))
    for packed in (False, True):
        (tmp_path / "a.pb").write_bytes(frozen(everything, packed=packed))
        got = read_frozen(tmp_path / "a.pb")
        np.testing.assert_allclose(evaluated(got, X), evaluated(full, X), rtol=1e-12)
        np.testing.assert_array_equal(got.descriptor.mean, means)
        assert (got.charges, got.descriptor.slots) == (full.charges, d.slots)
    # one network for all centers; a constant of which one number stands for all
    shared = {name.replace("filter_type_0", "filter_type_all"): x for name, x in everything.items()}
    (tmp_path / "a.pb").write_bytes(frozen(shared))
    np.testing.assert_allclose(evaluated(read_frozen(tmp_path / "a.pb"), X), evaluated(full, X), rtol=1e-12)
    name, tensor = (
        b"layer_0_type_0/bias",
        field(1, 2) + field(2, field(2, field(1, 6))) + field(6, np.float64(0.7).tobytes()),
    )
    whole = frozen(shared | {name.decode(): None})
    whole += field(1, field(1, name) + field(2, b"Const") + attribute("value", field(8, tensor)))
    (tmp_path / "a.pb").write_bytes(whole)
    np.testing.assert_array_equal(read_frozen(tmp_path / "a.pb").fittings[0].biases[0], np.full(6, 0.7))


@published
def test_published_dipole_as_a_frozen_graph(tmp_path):
    known = np.load(SHARED / "reference" / "deepdipole_water64.npz")
    topology = rv.Topology.from_elements([("O", "H")[k] for k in known["atype"]])
    wanted = rv.DeepDipole.from_npz(WATER / "deepdipole_weights.npz", WATER / "deepdipole_hyper.json", topology)
    (tmp_path / "a.pb").write_bytes(frozen(constants_of(wanted, ("O", "H")), onset=5.8, cutoff=6.0))
    got = rv.DeepDipole.from_frozen(tmp_path / "a.pb", topology, **CHARGED, scale=-0.02)
    x, box = jnp.asarray(known["positions_nm"]), rv.OrthorhombicBox(jnp.asarray(known["box_nm"]).diagonal())
    of = eqx.filter_jit(lambda dipole: dipole.displacements(x, box))
    np.testing.assert_allclose(of(got), of(wanted), rtol=0, atol=1e-12)


def test_frozen_graphs_that_do_not_fit(tmp_path):
    good = constants_of(DIPOLE, ("O", "H"))
    path = tmp_path / "a.pb"
    script = lambda **model: json.dumps({"model": model})
    wrong = {
        "lacks `filter_type_all/matrix_1_1`": {"filter_type_0/matrix_1_1": None},
        "lacks `layer_1_type_0/bias`": {"layer_1_type_0/bias": None},
        "wanted one of `dipole`": {"model_attr/model_type": "polar"},
        "real numbers": {"descrpt_attr/t_std": np.full((2, 4 * sum(DIPOLE.descriptor.slots)), np.nan)},
        "wanted numbers above zero": {"descrpt_attr/t_std": 0.0 * good["descrpt_attr/t_std"]},
        "t_avg` in .* has shape": {"descrpt_attr/t_avg": np.ones((2, 5))},
        "differs from place to place": {"descrpt_attr/t_avg": np.random.default_rng(0).normal(
            size=good["descrpt_attr/t_avg"].shape)},
        "layers of an embedding network": {"filter_type_0/bias_2_0": np.ones(7)},
        "layers of a fitting network": {"layer_1_type_0/matrix": np.ones((5, 6))},
        "wanted a multiple": {"layer_0_type_0/matrix": np.ones((25, 6))},
        "sel_type` in .* is": {"model_attr/sel_type": np.array([2], "<i4")},
        "wanted those of": {"model_attr/tmap": "O C"},
        "sel` of 3 kinds": {"descrpt_attr/sel": np.array([3, 3, 3], "<i4")},
        "'relu'; wanted 'tanh'": {"train_attr/training_script": script(descriptor={"activation_function": "relu"})},
        "wanted 'se_e2_a'": {"train_attr/training_script": script(descriptor={"type": "se_e2_r"})},
        "exclude_types": {"train_attr/training_script": script(descriptor={"exclude_types": [[0, 1]]})},
        "type_embedding": {"train_attr/training_script": script(type_embedding={"neuron": [2]})},
        "no JSON": {"train_attr/training_script": "["},
    }  # fmt: skip
    for told, changes in wrong.items():
        path.write_bytes(frozen(good | changes))
        with pytest.raises(ValueError, match=told):
            read_frozen(path)
    path.write_bytes(frozen(good, onset=3.0))
    with pytest.raises(ValueError, match="The switch in"):
        read_frozen(path)
    path.write_bytes(frozen(good)[: -len(switch(0.5, 3.0))])
    with pytest.raises(ValueError, match="no node of the operation ProdEnvMatA"):
        read_frozen(path)
    path.write_bytes(frozen(good))
    with pytest.raises(ValueError, match="`charges` has shape"):
        rv.DeepDipole.from_frozen(path, WATERS, elements=("H", "O"), charges=(1.0,), scale=1.0)
    with pytest.raises(ValueError, match="`scale` is 0"):
        rv.DeepDipole.from_frozen(path, WATERS, **CHARGED, scale=0.0)


def test_frozen_graphs_that_are_absurd(tmp_path):
    """Quickly, and without the memory they ask for."""
    good = constants_of(DIPOLE, ("O", "H"))
    node = lambda tensor: (
        frozen(good | {"descrpt_attr/t_std": None})
        + field(1, field(1, b"descrpt_attr/t_std") + field(2, b"Const") + attribute("value", field(8, tensor)))
    )
    shape = lambda *sizes: field(2, b"".join(field(2, field(1, n)) for n in sizes))
    deep = b""
    for _ in range(2000):
        deep = field(1, deep)
    for data in (
        b"", b"\n", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 40, b"\x0b", b"\x0a\x00" * 10, b"\x0a\x00" * 1_100_000, deep,
        b"text", node(b""), node(field(1, 2) + shape(2**31, 2**31)), node(field(1, 2) + shape(2**63 - 1)),
        node(field(1, 2) + shape(2**25) + field(6, b"")), node(field(1, 2) + shape(*[1] * 50)),
        node(field(1, 2) + shape(2, 4) + field(4, b"12345678")), node(field(1, 2) + field(6, b"1234567")),
        node(field(1, 99) + shape(2)), node(field(1, 7) + shape(1) + field(8, b"\xff")),
        node(field(1, 2) + field(2, 5)),
        frozen(good) + constant("model_attr/tmap", "O H"),
    ):  # fmt: skip
        assert refused(read_frozen, tmp_path / "a.pb", data, seconds=10.0), data[:40]
    with pytest.raises(FileNotFoundError):
        read_frozen(tmp_path / "none.pb")


def test_frozen_graphs_that_are_damaged(tmp_path):
    """Only clear errors come out, or dipoles of other numbers."""
    whole = frozen(constants_of(DIPOLE, ("O", "H")))
    outcomes = [refused(read_frozen, tmp_path / "a.pb", data) for data in damaged(whole, 150)]
    assert sum(outcomes) > 200


# --- DeePMD-kit's own format, of which test_deepmd has DeePMD-kit's word -------------------------------------------


def tree_of(model, file):
    """The JSON of a model, whose arrays are written into an HDF5 file."""
    count = iter(range(1000))
    put = lambda x: file.create_dataset(f"variable_{next(count):04d}", data=np.asarray(x)).name
    d = model.descriptor

    def network(net):
        last = len(net.weights) - 1
        layers = [
            {"activation_function": "none" if net.linear and k == last else "tanh", "resnet": net.residual[k],
             "@variables": {"w": put(w), "b": put(b), "idt": None}}
            for k, (w, b) in enumerate(zip(net.weights, net.biases, strict=True))
        ]  # fmt: skip
        return {"layers": layers}

    rows = lambda x: put(np.repeat(np.asarray(x), d.slots, axis=1))
    fitting = {"type": "polar", "mixed_types": False, "numb_fparam": 0, "numb_aparam": 0, "exclude_types": [],
               "nets": {"networks": [network(f) for f in model.fittings]}, "fit_diag": True}  # fmt: skip
    fitting["shift_diag"] = True
    fitting["@variables"] = {"scale": put(np.full((2, 1), 0.5)), "constant_matrix": put(2 * model.isotropic)}
    embeddings = [network(d.embeddings[c][n]) for n in range(2) for c in range(2)]
    descriptor = {"type": "se_e2_a", "rcut": d.cutoff * 10, "rcut_smth": d.onset * 10, "sel": list(d.slots),
                  "type_one_side": False, "exclude_types": [], "env_protection": 0.0,
                  "embeddings": {"networks": embeddings},
                  "@variables": {"davg": rows(d.mean), "dstd": rows(d.deviation)}}  # fmt: skip
    model = {"descriptor": descriptor, "fitting": fitting, "@variables": {"out_bias": put(np.zeros((1, 2, 9)))}}
    return model | {"type": "standard", "type_map": ["O", "H"], "pair_exclude_types": [], "atom_exclude_types": []}


def test_own_format_of_deepmd(tmp_path):
    """Twice the polarizability of networks, by a factor of a half and a unit of four, and what does not fit."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.dp"
    with h5py.File(path, "w") as file:
        whole = {"model": tree_of(POLAR, file)}
        file.attrs["json"] = json.dumps(whole)
    read = lambda: rv.io.read_deep_polarizability(path, WATERS, scale=4 * POLAR.scale)
    networks = eqx.tree_at(lambda p: p.isotropic, POLAR, jnp.zeros(2))
    wanted = 2 * evaluated(networks, X)
    isotropic = 4 * POLAR.scale * len(X) * POLAR.isotropic[0]
    np.testing.assert_allclose(evaluated(read(), X), wanted + isotropic * np.eye(3), rtol=1e-12)
    network = ("fitting", "nets", "networks", 0, "layers", 0)
    wrong = {
        "`fitting.type` in .* is 'dipole'": (("fitting", "type"), "dipole"),
        "`descriptor.exclude_types`": (("descriptor", "exclude_types"), [[0, 1]]),
        "'relu'; wanted 'tanh'": ((*network, "activation_function"), "relu"),
        "a.dp cannot be read .* no dataset `/variable_0999`": ((*network, "@variables", "w"), "/variable_0999"),
        "excludes all": (("fitting", "exclude_types"), [0, 1]),
        "`descriptor.rcut` in": (("descriptor", "rcut"), "6"),
    }
    for told, (names, value) in wrong.items():
        changed = json.loads(json.dumps(whole))
        here = changed["model"]
        for name in names[:-1]:
            here = here[name]
        here[names[-1]] = value
        with h5py.File(path, "a") as file:
            file.attrs["json"] = json.dumps(changed)
        with pytest.raises(ValueError, match=told):
            read()
    for text in ("[" * 100_000, "{}"):
        with h5py.File(path, "w") as file:
            file.attrs["json"] = text
        with pytest.raises(ValueError, match=r"no JSON|lacks"):
            read()
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="HDF5"):
        read()
