"""Serves what is in HDF5 files to another process (`_hdf5`), which may end it: HDF5 never comes back from some damaged
files, and takes memory without bound for others. A program, never imported; of h5py and NumPy alone, to start quickly.

It reads a line of JSON and writes one: `{"open": path}` gives all objects by name, `{"read": name, "rows": [start,
stop, step]}` a header, behind which the bytes of the array follow. Whatever fails is `{"error": message}`.
"""

import json
import sys
from typing import Any

import numpy as np

_MOST_OBJECTS = 10_000
_MOST_SECONDS = 1
_MOST_BYTES = 1 << 30
_DEFLATE = 1032
"""No compression in HDF5 makes more bytes than so many of one."""


def main():
    import h5py

    file: Any = None
    out = sys.stdout.buffer
    allow = limits()
    out.write(b"{}\n")
    out.flush()
    for line in sys.stdin:
        request, data = json.loads(line), b""
        try:
            allow()
            if "open" in request:
                if file is not None:
                    file.close()
                file = h5py.File(request["open"], "r")
                answer = _objects(file)
            elif file is None:
                raise ValueError("No file is open.")
            else:
                answer, data = _rows(file[request["read"]], request["rows"])
        except Exception as error:  # h5py raises whatever it stumbles over
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            answer, data = {"error": reason}, b""
        out.write(json.dumps(answer).encode() + b"\n" + data)
        out.flush()


def limits():
    """Memory once, and processor time (waiting for a slow disk is no fault) for every request."""
    try:
        import resource
    except ImportError:  # not on Windows
        return lambda: None
    try:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_BYTES, used + _MOST_BYTES))
    except (OSError, ValueError):  # not on macOS
        pass

    def allow():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 1 + _MOST_SECONDS, most))

    return allow


def _objects(file):
    import h5py

    found = {}

    def visit(group: Any) -> None:
        for name in group:
            path = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"Its `{path}` is a link to somewhere else; wanted all data in the file itself.")
            if len(found) >= _MOST_OBJECTS:
                raise ValueError(f"It has more than {_MOST_OBJECTS} objects.")
            thing = group[name]
            found[path] = {"attributes": _attributes(thing)}
            if isinstance(thing, h5py.Dataset):
                found[path].update(_dataset(thing, path))
            elif path.count("/") < 20:  # groups may hold themselves
                visit(thing)

    found["/"] = {"attributes": _attributes(file)}
    visit(file)
    return found


def _attributes(thing):
    """Texts and numbers; what else there is means nothing to the reader."""
    import h5py

    found = {}
    for name in thing.attrs:
        attribute = thing.attrs.get_id(name)
        if attribute.dtype.kind in "biufSO" and np.prod(attribute.shape, dtype=float) <= 1000:
            if attribute.dtype.kind != "O" or h5py.check_string_dtype(attribute.dtype) is not None:
                found[name] = _plain(thing.attrs[name])
    return found


def _plain(value):
    """Of JSON."""
    import h5py

    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()] if value.ndim else _plain(value.item())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _dataset(dataset, path):
    import h5py

    if dataset.external or dataset.is_virtual:
        raise ValueError(f"Its `{path}` is stored in another file; wanted all data in the file itself.")
    if dataset.shape is None:
        return {"shape": [0], "dtype": "empty"}
    stored = dataset.id.get_storage_size()
    packed = dataset.id.get_create_plist().get_nfilters() > (dataset.fletcher32 + dataset.shuffle)
    if dataset.nbytes > stored * (_DEFLATE if packed else 1):
        raise ValueError(f"Its `{path}` has {dataset.nbytes} bytes by its shape, of which {stored} are in the file.")
    names = h5py.check_enum_dtype(dataset.dtype)
    text = h5py.check_string_dtype(dataset.dtype) is not None
    what = "text" if text else dataset.dtype.str if dataset.dtype.kind in "iuf" else str(dataset.dtype)
    return {"shape": list(dataset.shape), "dtype": what, "names": names or {}}


def _rows(dataset, rows):
    """Some along the first axis; everything of a scalar."""
    import h5py

    values = dataset[slice(*rows)] if dataset.shape else dataset[()]
    if h5py.check_string_dtype(dataset.dtype) is not None:
        values = np.char.encode(np.array(_plain(np.asarray(values)), dtype=str), "utf-8")
    values = np.asarray(values, order="C")
    return {"shape": list(np.shape(values)), "dtype": values.dtype.str, "bytes": values.nbytes}, values.tobytes()


if __name__ == "__main__":
    main()
