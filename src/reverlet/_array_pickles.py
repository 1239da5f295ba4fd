"""Arrays from pickles that somebody else wrote. They are read, never run: nothing that a pickle names is imported."""

import io
import math
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from ._archives import MOST_BYTES, file_bytes

_MOST_STEPS = 10**6
"""Of the program that a pickle is; one of arrays has a hundred for each."""
_LITERALS = set(
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING"
    " UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


def read_pickle(path: str | Path) -> Any:
    """What is in a pickle of dictionaries, lists, tuples, texts, numbers and arrays of NumPy or JAX; `as_array` makes
    arrays of the latter. What else there is, is refused by its name.

    **Errors:** `ValueError` for a file that is no such pickle, or a damaged or larger one; `FileNotFoundError`.
    """
    data = file_bytes(path)
    try:
        return _Reader().read(data)
    except (ValueError, IndexError, OverflowError) as error:
        reason = error if isinstance(error, ValueError) else "it takes what it has not put"
        raise ValueError(f"{path} is no pickle of arrays, or a damaged one: {reason}.") from error


class _Name:
    """Something of a module, known by its name alone."""

    def __init__(self, module: Any, name: Any):
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("names that are no texts")
        # NumPy 2 has renamed what NumPy 1 wrote
        self.full = f"{module}.{name}".replace("numpy.core.", "numpy._core.")
        if self.full not in _ALLOWED:
            raise ValueError(f"it names `{module[:80]}.{name[:80]}`, which is no array; nothing of it was run")


class _Unfilled:
    """An array or a type of which only the state that follows says what it is."""

    def __init__(self, value: Any = None):
        self.value = value


class _Reader:
    """The machine that pickles are programs of, without whatever calls, imports or makes objects."""

    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, data):
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
            if count > _MOST_STEPS:
                raise ValueError(f"more than {_MOST_STEPS} steps")
            if opcode.name == "STOP":
                return self._pop()
            self._step(opcode.name, argument)
        raise ValueError("it does not end")

    def _step(self, name, argument):
        stack = self.stack
        if name in _LITERALS:
            stack.append(_CONSTANTS.get(name, argument))
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in _TUPLES:
            stack.append(tuple(self._pop() for _ in range(_TUPLES[name]))[::-1])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name == "LIST":
            stack.append(self._to_mark())
        elif name == "DICT":
            items = self._to_mark()
            stack.append({})
            self._set(items)
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._to_mark()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            self._set([self._pop(), self._pop()][::-1] if name == "SETITEM" else self._to_mark())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError("it takes what it has not put")
            stack.append(self.memo[argument])
        elif name == "POP":
            self._pop()
        elif name == "POP_MARK":
            self._to_mark()
        elif name == "GLOBAL":
            stack.append(_Name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            last, module = self._pop(), self._pop()
            stack.append(_Name(module, last))
        elif name == "REDUCE":
            arguments, function = self._pop(), self._pop()
            if not isinstance(function, _Name) or not isinstance(arguments, tuple):
                raise ValueError("it calls what is no function")
            stack.append(_call(function, arguments))
        elif name == "BUILD":
            state = self._pop()
            _fill(self._top(_Unfilled), state)
        else:
            raise ValueError(f"it has the step {name}, which makes other objects than arrays; nothing of it was run")

    def _pop(self):
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where there should be a value")
        return value

    def _to_mark(self):
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _top(self, kind):
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"it fills a `{type(self.stack[-1]).__name__}`")
        return self.stack[-1]

    def _set(self, items):
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # hashing nested tuples may take for ever
            if not isinstance(key, str | int):
                raise ValueError(f"a key of a dictionary that is a `{type(key).__name__}`")
            target[key] = value


_ALLOWED = {
    "collections.OrderedDict",
    "_codecs.encode",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "jax._src.array._reconstruct_array",
    "jax._src.device_array.reconstruct_device_array",
}


def _call(function, arguments):
    """What an allowed function would have made."""
    match function.full, *arguments:
        case ["collections.OrderedDict"]:
            return {}
        case ["_codecs.encode", str(text), "latin1"]:  # bytes in the older protocols
            return text.encode("latin-1")
        case ["numpy.dtype", str(name), *_]:
            return _Unfilled(_dtype(name))
        case ["numpy._core.multiarray._reconstruct", *_]:
            return _Unfilled()
        case ["numpy._core.multiarray.scalar", dtype, data]:
            return _array((), dtype, data)
        case ["numpy._core.numeric._frombuffer", data, dtype, shape, str(order), *axes]:
            array = _array(shape, dtype, data, order == "F")
            if order != "K" or axes in ([], [None]):
                return array
            if len(axes) == 1 and isinstance(axes[0], tuple) and sorted(axes[0]) == list(range(array.ndim)):
                return array.transpose(axes[0])
        case [
            "jax._src.array._reconstruct_array" | "jax._src.device_array.reconstruct_device_array",
            made,
            args,
            state,
            _,
        ]:
            if isinstance(made, _Name) and isinstance(args, tuple):
                array = _call(made, args)
                if isinstance(array, _Unfilled):
                    _fill(array, state)
                return array
    raise ValueError(f"it calls `{function.full}` with other arguments than arrays have")


def _fill(target, state):
    match state:
        # the version, and the order of bytes, of a type of numbers
        case (int(), ("<" | ">" | "=" | "|") as order, None, None, None, *_) if isinstance(target.value, np.dtype):
            target.value = target.value.newbyteorder(order)
        case (int(), tuple(shape), dtype, bool(fortran), data) if target.value is None:
            target.value = _array(shape, dtype, data, fortran)
        case _:
            raise ValueError("a state that is no array's")


def _dtype(name):
    if len(name) > 4 or name.lstrip("<>=|")[:1] not in set("fiub"):
        raise ValueError(f"numbers of the type `{name[:20]}`")
    try:
        return np.dtype(name)
    except TypeError as error:
        raise ValueError(f"numbers of the type `{name}`") from error


def _array(shape, dtype, data, fortran=False):
    data = data.encode("latin-1") if isinstance(data, str) else data
    dtype = dtype.value if isinstance(dtype, _Unfilled) else None
    sizes = isinstance(shape, tuple) and all(isinstance(n, int) and 0 <= n <= MOST_BYTES for n in shape)
    if not sizes or len(shape) > 8 or not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray):
        raise ValueError("an array of other than numbers")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and {dtype} in {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def as_array(value: Any) -> np.ndarray | None:
    """What a pickle has for an array, if it is one, or a number."""
    value = value.value if isinstance(value, _Unfilled) else value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return np.asarray(value, float)
    return value if isinstance(value, np.ndarray) else None
