"""Files that a fit can go on from: written in one piece by one process, read whole or not at all.

A first line in JSON has the format and the SHA-256 of all that follows: a header in JSON, of one line, which describes
every leaf of a tree, and the bytes of its arrays, one after the other.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

try:
    import fcntl
except ImportError:  # not on Windows: without a lock, but no file can be damaged
    fcntl = None

T = TypeVar("T", bound=PyTree)
_FORMAT = "reverlet-fit-2"
_Numbers = bool | int | float | complex


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, of another fit, in use, or cannot be written."""


class DamagedCheckpointError(CheckpointError):
    """One that is no whole file of reverlet's."""


def before(path: Path) -> Path:
    """Where the checkpoint that `save` replaced is kept."""
    return path.with_name(f"{path.name}.previous")


def kind_of(leaf: Any) -> list[Any]:
    """What a leaf is, but not which: its kind, type, shape."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return ["key", str(dtype), list(leaf.shape)]
    if dtype is not None and isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return ["array", np.dtype(dtype).name, list(leaf.shape)]
    return ["number", type(leaf).__name__, []] if isinstance(leaf, _Numbers) else ["other", type(leaf).__name__, []]


def kinds_of(tree: PyTree) -> dict[str, list[Any]]:
    """Of every leaf, by its name."""
    return {jax.tree_util.keystr(path): kind_of(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def first_difference(here: dict[str, list[Any]], there: dict[str, Any]) -> str | None:
    """Says how what `kinds_of` found differs, if it does."""
    tell = lambda kind: "missing" if kind is None else f"{kind[1]} of shape {tuple(kind[2])}"
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            return f"`{name}` is {tell(here.get(name))}, there {tell(there.get(name))}"
    return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on a checkpoint, as long as this process lives: no second fit may write it.

    **Errors:** `CheckpointError` where another one does, and where the folder cannot be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = _locked(lock)
    except BlockingIOError:
        owner = lock.read_text(errors="replace") if lock.exists() else "unknown"
        raise CheckpointError(
            f"The checkpoint {path} is being written by another fit ({owner}); wanted one at a time. Wait until it has"
            " ended or stop it, or use another file."
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be written ({error}); wanted a folder that exists and has room."
        ) from error
    try:
        if fcntl is not None:  # what killed writers left
            for part in path.parent.glob(f"{path.name}.*.part"):
                part.unlink(missing_ok=True)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the one that held it before may have removed it in the meantime
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def save(path: Path, header: dict[str, Any], tree: PyTree) -> None:
    """Writes a file in one piece, and keeps the one that it replaces as `before(path)`: whenever the process is killed,
    there is a whole file at `path`, the old one or the new one.

    **Errors:** `CheckpointError` where there is no room, and for leaves that no file can hold.
    """
    leaves, blocks = [], []
    for name, leaf in jax.tree_util.tree_leaves_with_path(tree):
        kind, block, value = kind_of(leaf), b"", None
        if kind[0] == "number":
            value = [leaf.real, leaf.imag] if isinstance(leaf, complex) else leaf
        elif kind[0] != "other":
            block = _bytes_of(jax.tree_util.keystr(name), leaf)
        leaves.append([jax.tree_util.keystr(name), *kind, len(block), value])
        blocks.append(block)
    body = b"".join([json.dumps({**header, "leaves": leaves}).encode(), b"\n", *blocks])
    first = json.dumps({"format": _FORMAT, "sha256": hashlib.sha256(body).hexdigest()}).encode()
    part = _part(path)
    try:
        with open(part, "xb") as file:
            file.write(first + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        _keep(path)
        os.replace(part, path)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be written ({error}); wanted room for {len(body)} bytes. What was there"
            " before is still there: make room, and go on from it."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """A name of one's own, so that two writers never write to one file."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def _keep(path: Path) -> None:
    part = _part(path)
    try:
        try:
            os.link(path, part)
        except FileNotFoundError:
            return
        except OSError:  # a file system without links
            shutil.copy2(path, part)
        os.replace(part, before(path))
    finally:
        part.unlink(missing_ok=True)  # where both were one file already, it has not been moved


def _bytes_of(name: str, leaf: Any) -> bytes:
    x = np.asarray(jax.random.key_data(leaf) if kind_of(leaf)[0] == "key" else leaf)
    if x.dtype.hasobject:
        raise CheckpointError(f"`{name}` is an array of objects, which no checkpoint can hold; wanted one of numbers.")
    return np.ascontiguousarray(x.astype(x.dtype.newbyteorder("<")) if x.dtype.byteorder == ">" else x).tobytes()


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a whole file, and the bytes of its arrays.

    **Errors:** `CheckpointError` where there is none, `DamagedCheckpointError` where it is not whole.
    """
    try:
        first, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise CheckpointError(
            f"There is no checkpoint at {path} ({error}); wanted a file that `fit(..., checkpoint=...)` wrote."
        ) from error
    try:
        sums = json.loads(first)
        if str(sums["format"]).startswith("reverlet-fit-") and sums["format"] != _FORMAT:
            raise CheckpointError(
                f"The checkpoint {path} has the format {str(sums['format'])[:40]}; wanted {_FORMAT}. Go on with the"
                " version of reverlet that wrote it, or start again without `resume`."
            )
        if sums["sha256"] != hashlib.sha256(body).hexdigest():
            raise ValueError
        line, _, blocks = body.partition(b"\n")
        header = json.loads(line)
        kinds = [len(leaf) == 6 and isinstance(leaf[0], str) for leaf in header["leaves"]]
        sizes = [leaf[4] for leaf in header["leaves"]]
        if not (all(kinds) and all(type(n) is int and n >= 0 for n in sizes) and sum(sizes) == len(blocks)):
            raise ValueError
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        other = "" if path.suffix == ".previous" else f"The one before it may be at {before(path).name}. "
        raise DamagedCheckpointError(
            f"The checkpoint {path} ({len(first) + len(body) + 1} bytes) is damaged or not one of reverlet's; wanted a"
            f" file as `fit(..., checkpoint=...)` wrote it. {other}Restore a copy, or start again without `resume`."
        ) from None
    return header, blocks


def tree_in(header: dict[str, Any], blocks: bytes, like: T) -> T:
    """The tree of a file, of the structure of `like`, whose leaves that no file can hold are kept.

    **Errors:** `ValueError` where the file holds another.
    """
    difference = first_difference(kinds_of(like), {leaf[0]: leaf[1:4] for leaf in header["leaves"]})
    if difference is not None:
        raise ValueError(difference)
    flat, treedef = jax.tree.flatten(like)
    leaves, start = [], 0
    for leaf, (name, *_, size, value) in zip(flat, header["leaves"], strict=True):
        leaves.append(_leaf_in(name, blocks[start : start + size], value, leaf))
        start += size
    return jax.tree.unflatten(treedef, leaves)


def stored_like(header: dict[str, Any], like: T) -> T:
    """`like` with every array of the shape that the file has under its name: of what grows from checkpoint to
    checkpoint. The number of axes must be the same."""
    shapes = {leaf[0]: leaf[3] for leaf in header["leaves"]}

    def of_file(path, leaf):
        shape = shapes.get(jax.tree_util.keystr(path))
        if kind_of(leaf)[0] != "array" or shape is None or len(shape) != np.ndim(leaf):
            return leaf
        return (jnp if isinstance(leaf, jax.Array) else np).zeros(tuple(shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(of_file, like)


def _leaf_in(name: str, block: bytes, value: Any, like: Any) -> Any:
    kind, _, shape = kind_of(like)
    if kind == "other":
        return like
    if kind == "number":
        return complex(*value) if isinstance(like, complex) else type(like)(value)
    if kind == "key":
        data = jax.eval_shape(jax.random.key_data, like)
        return jax.random.wrap_key_data(
            jnp.asarray(_array(name, block, data.dtype, data.shape)), impl=jax.random.key_impl(like)
        )
    x = _array(name, block, np.dtype(like.dtype), tuple(shape))
    return jnp.asarray(x) if isinstance(like, jax.Array) else x


def _array(name: str, block: bytes, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    if len(block) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"`{name}` has {len(block)} bytes, which do not make {dtype} of shape {shape}")
    stored = dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype
    return np.frombuffer(block, stored).reshape(shape).astype(dtype)  # a copy, which may be written to
