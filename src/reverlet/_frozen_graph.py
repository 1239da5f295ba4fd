"""Constants of graphs that TensorFlow froze (`.pb`), by a reader of protocol buffers that believes nothing.

**Reference:** Protocol Buffers, Encoding; graph.proto, node_def.proto, attr_value.proto, tensor.proto of TensorFlow.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ._archives import MOST_BYTES, file_bytes, listed

_MOST_FIELDS = 10**6
"""Of a message: what takes longer to read is no model."""
_MOST_REPEATED = 2**20
"""Numbers that a file may say by saying the last of them once."""
_NUMBERS = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
"""By TensorFlow's types: float, double, int32, int64, half."""
_STRING = 7


class FrozenGraph:
    """The constants of a graph, by name, and the attributes that are numbers of its other nodes, by operation.

    **Errors:** `ValueError` for a file that is no graph, or a damaged one; `FileNotFoundError`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._constants: dict[str, memoryview] = {}
        self._numbers: dict[str, dict[str, float]] = {}
        try:
            for number, value in _fields(memoryview(file_bytes(path))):
                if number == 1:
                    self._add(_message(value))
        except ValueError as error:
            raise ValueError(f"{path} is no frozen graph, or a damaged one ({error}); wanted a `.pb` file.") from error
        if not self._constants:
            raise ValueError(f"{path} has no constants; wanted a frozen graph, a `.pb` file.")

    def __contains__(self, name: str) -> bool:
        return name in self._constants

    def numbers(self, *operations: str) -> dict[str, float]:
        """The attributes of the first node of one of these operations."""
        for operation in operations:
            if operation in self._numbers:
                return self._numbers[operation]
        raise ValueError(f"{self.path} has no node of the operation {' or '.join(operations)}.")

    def array(self, name: str) -> np.ndarray:
        """A constant of numbers, in the type it has."""
        array = self._decoded(name)
        if not isinstance(array, np.ndarray):
            raise ValueError(f"`{name}` in {self.path} is a text; wanted numbers.")
        return array

    def text(self, name: str) -> str:
        """A constant of one text."""
        text = self._decoded(name)
        if not isinstance(text, str):
            raise ValueError(f"`{name}` in {self.path} is of numbers; wanted a text.")
        return text

    def _decoded(self, name):
        if name not in self._constants:
            raise ValueError(f"{self.path} lacks `{name}`; it has {listed(sorted(self._constants))}.")
        try:
            return _tensor(self._constants[name])
        except ValueError as error:
            raise ValueError(f"`{name}` in {self.path} cannot be read: {error}") from error

    def _add(self, node):
        name, operation, attributes = "", "", []
        for number, value in _fields(node):
            if number == 1:
                name = _text(value)
            elif number == 2:
                operation = _text(value)
            elif number == 5:
                attributes.append(_message(value))
        if operation == "Const":
            if name in self._constants:
                raise ValueError(f"two nodes `{name}`")
            tensors = [v for entry in attributes for key, v in _attribute(entry, 8) if key == "value"]
            if tensors:
                self._constants[name] = _message(tensors[-1])
        elif operation not in self._numbers:
            found = dict(pair for entry in attributes for pair in _attribute(entry, 4))
            self._numbers[operation] = {
                key: float(np.frombuffer(v, "<f4")[0])
                for key, v in found.items()
                if isinstance(v, memoryview) and len(v) == 4
            }


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of the fields of a message: whole numbers, or bytes of a known length."""
    at = count = 0
    while at < len(data):
        count += 1
        if count > _MOST_FIELDS:
            raise ValueError(f"a message of more than {_MOST_FIELDS} fields")
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
        else:
            if wire == 2:
                size, at = _varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"a field of kind {wire} at byte {at}")
            if size > len(data) - at:
                raise ValueError(f"{size} bytes announced, {len(data) - at} there")
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data, at):
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value & (2**64 - 1), at
    raise ValueError(f"a number of more than 64 bits at byte {at}")


def _message(value):
    if not isinstance(value, memoryview):
        raise ValueError("a number where there should be a message")
    return value


def _text(value):
    return bytes(_message(value)).decode()  # whose error is a ValueError


def _attribute(entry, wanted):
    """The key of an entry of a node's attributes, and its value if it is of the wanted kind."""
    key, values = "", []
    for number, value in _fields(entry):
        if number == 1:
            key = _text(value)
        elif number == 2:
            values = [v for kind, v in _fields(_message(value)) if kind == wanted]
    return [(key, v) for v in values]


def _tensor(data) -> np.ndarray | str:
    kind, shape, content, found = 0, [], None, []
    for number, value in _fields(data):
        if number == 1:
            kind = value
        elif number == 2:
            shape = _shape(_message(value))
        elif number == 4:
            content = _message(value)
        elif number in (5, 6, 7, 8, 10, 13):
            found.append((number, value))
    if kind == _STRING:
        texts = [_text(value) for number, value in found if number == 8]
        if math.prod(shape) != 1 or len(texts) != 1:
            raise ValueError(f"{len(texts)} texts in the shape {tuple(shape)}; wanted one")
        return texts[0]
    if kind not in _NUMBERS:
        raise ValueError(f"numbers of TensorFlow's type {kind}; wanted one of {list(_NUMBERS)}")
    dtype, count = np.dtype(_NUMBERS[kind]), math.prod(shape)
    if count * 8 > MOST_BYTES:
        raise ValueError(f"{count} numbers, at most {MOST_BYTES // 8} are read")
    if content is not None and (len(content) or count == 0):
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"{len(content)} bytes for the shape {tuple(shape)} of {dtype}")
        return np.frombuffer(content, dtype).reshape(shape)
    values = _values(dtype, found)
    if len(values) > count:
        raise ValueError(f"{len(values)} numbers for the shape {tuple(shape)}")
    if len(values) < count:  # the last one, or zero, stands for the rest
        if count > _MOST_REPEATED:
            raise ValueError(f"{len(values)} numbers for the shape {tuple(shape)}")
        values = np.concatenate([values, np.full(count - len(values), values[-1] if len(values) else 0, dtype)])
    return values.reshape(shape)


def _shape(data):
    shape = []
    for number, value in _fields(data):
        if number == 2:
            sizes = [v for kind, v in _fields(_message(value)) if kind == 1]
            shape.append(sizes[-1] if sizes else 0)
        elif number == 3 and value:
            raise ValueError("an unknown shape")
    if len(shape) > 8 or any(not isinstance(n, int) or n >= 2**31 for n in shape):
        raise ValueError(f"the shape {shape[:9]}")
    return shape


def _values(dtype, found):
    """Those of the field that belongs to a type, one by one or packed."""
    field = {"<f4": 5, "<f8": 6, "<i4": 7, "<i8": 10, "<f2": 13}[dtype.str]
    parts = []
    for number, value in found:
        if number != field:
            continue
        if dtype.kind == "f" and dtype.itemsize > 2:
            if not isinstance(value, memoryview) or len(value) % dtype.itemsize:
                raise ValueError("numbers that are cut")
            parts.append(np.frombuffer(value, dtype))
        else:
            whole = [value] if isinstance(value, int) else list(_packed(value))
            # of 64 bits, the signed ones in complements of two; half numbers by their 16 bits
            wide = np.array(whole, np.uint64)
            parts.append(wide.astype(np.uint16).view(dtype) if dtype.kind == "f" else wide.view(np.int64).astype(dtype))
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _packed(data):
    at = count = 0
    while at < len(data):
        count += 1
        if count > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} numbers")
        value, at = _varint(data, at)
        yield value
