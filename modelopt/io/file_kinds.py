"""What a file on the disk seems to be, told by its outermost fields."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from modelopt.core.errors import InputError
from modelopt.io import mmap_files, protobuf_wire

_WIRE_TYPES = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Of the fields of a ModelProto: 0 is a number, 2 is what has a length."""

_GRAPH = 7

_MAX_FIELDS = 100_000
"""How many outermost fields are looked at: a model has one for each function and each entry of its metadata."""


def is_model(path: Path) -> bool:
    """Whether a file is an ONNX model, as far as its outermost fields show it; False where it cannot be read."""
    try:
        fields = set(islice(protobuf_wire.outermost(mmap_files.open_map(path)), _MAX_FIELDS))
    except (OSError, ValueError, InputError):  # ValueError: it is empty
        return False
    known = all(_WIRE_TYPES.get(number, wire_type) == wire_type for number, wire_type in fields)
    return known and any(number == _GRAPH for number, _ in fields)  # later versions of ONNX may add fields


def may_be_model(path: Path) -> bool:
    """Whether a file begins as a model does; it may be one that is still being copied.

    Raises:
        OSError: It cannot be read.
    """
    try:
        number, wire_type = next(protobuf_wire.outermost(mmap_files.open_map(path), may_end=True))
    except (ValueError, InputError):
        return False
    return _WIRE_TYPES.get(number) == wire_type or is_model(path)
