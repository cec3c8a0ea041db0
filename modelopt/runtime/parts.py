"""Outputs that are no tensors, as tensors: the numbers that a sequence or a map holds, and the shapes or keys of these.

Outputs are compared as arrays, so a sequence or a map becomes two arrays. The first has the output's name and holds its
values, which are compared like those of any output. The second holds its shapes or keys, which must be equal.

===========================  ====================================  ==========================================
output                       values                                shapes or keys
===========================  ====================================  ==========================================
sequence of n tensors        stacked along a new first axis where  ``NAME (shapes)``: the shape of each, text
                             their shapes agree, else end to end
optional tensor              the tensor                            ``NAME (shapes)``: its shape; empty without
map                          one for each key, by ascending key    ``NAME (keys)``: the keys
sequence of maps             a table, rows × keys, where all rows  ``NAME (keys)``: the keys; ``row: key``, text,
                             have the same keys, else end to end   where rows differ in them
===========================  ====================================  ==========================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from modelopt.runtime import protocol
from modelopt.runtime.session import IoSpec

SHAPES, KEYS = " (shapes)", " (keys)"

_LEAF = re.compile(r"\btensor\((\w+)\)")
_MAP = re.compile(r"map\((\w+),")
_NUMPY = {"float": "float32", "double": "float64"}


class NoArray(Exception):
    """A value that is not in the table above."""


def outputs_of(declared: Iterable[IoSpec]) -> tuple[tuple[IoSpec, ...], tuple[int, ...]]:
    """What a session's outputs are seen as, and of which of its outputs each of these is a part."""
    found = [(part, position) for position, output in enumerate(declared) for part in _parts(output)]
    return tuple(part for part, _ in found), tuple(position for _, position in found)


def _parts(output: IoSpec) -> tuple[IoSpec, ...]:
    if output.type.startswith("tensor("):
        return (output,)
    leaf = _LEAF.search(output.type)
    values = IoSpec(output.name, leaf[0] if leaf else output.type, ())
    keys = _MAP.search(output.type)
    if keys is None:
        return values, IoSpec(output.name + SHAPES, "tensor(string)", ())
    return values, IoSpec(output.name + KEYS, f"tensor({keys[1]})", ())


def arrays_of(value: Any, type_: str) -> tuple[np.ndarray, ...]:
    """The arrays of one output, as many as `outputs_of` lists for it.

    Args:
        value: As onnxruntime returns it.
        type_: The output's type, as onnxruntime writes it.

    Raises:
        NoArray: It is a sparse tensor, or something else that no array holds.
    """
    if type_.startswith("tensor("):
        return (_checked(value),)
    leaf = _LEAF.search(type_)
    if leaf is None:
        raise NoArray
    dtype = np.dtype(object) if leaf[1] == "string" else protocol.numpy_dtype(_NUMPY.get(leaf[1], leaf[1]))
    if "map(" in type_:
        keys = np.dtype(np.int64) if "map(int64," in type_ else np.dtype(object)
        return _table(value, dtype, keys)
    if type_.startswith("optional(tensor("):
        tensors = [] if value is None else [_checked(value)]
        return (tensors[0] if tensors else np.zeros(0, dtype)), _shapes(tensors)
    tensors = [_checked(each) for each in value or ()]
    return _joined(tensors, dtype), _shapes(tensors)


def _checked(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise NoArray
    return value


def _joined(tensors: Sequence[np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    if not tensors:
        return np.zeros(0, dtype)
    if len({tensor.shape for tensor in tensors}) == 1:
        return np.stack(tensors)
    return np.concatenate([tensor.reshape(-1) for tensor in tensors])


def _shapes(tensors: Sequence[np.ndarray]) -> np.ndarray:
    return _strings([str(list(tensor.shape)) for tensor in tensors])


def _table(value: Any, dtype: np.dtype[Any], key_dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    rows: Sequence[Mapping[Any, Any]] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise NoArray
    ordered = [sorted(row) for row in rows]
    values = [row[key] for row, keys in zip(rows, ordered, strict=True) for key in keys]
    held = np.empty(len(values), dtype)
    held[:] = values
    if all(keys == ordered[0] for keys in ordered):
        names = np.empty(len(ordered[0]) if ordered else 0, key_dtype)
        names[:] = ordered[0] if ordered else []
        shape = (len(rows), len(names)) if isinstance(value, list) else (len(names),)
        return held.reshape(shape if rows else (0,)), names
    return held, _strings([f"{number}: {key}" for number, keys in enumerate(ordered) for key in keys])


def _strings(texts: Sequence[str]) -> np.ndarray:
    found = np.empty(len(texts), object)
    found[:] = texts
    return found
