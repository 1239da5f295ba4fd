"""Weights in files of other programs: what they say, and what nobody should run."""

import collections
import os
import pickle
import time

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SHARED
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
