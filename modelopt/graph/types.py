"""Types: sets of floating-point types, and the types of sequences, optionals and maps (onnx_ir has none for maps)."""

from __future__ import annotations

import functools
import re

import onnx_ir as ir

FLOAT16_FLOAT32 = frozenset({ir.DataType.FLOAT16, ir.DataType.FLOAT})
"""The types for which onnxruntime has most of its fused operators."""

FLOAT32_FLOAT64 = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})

IEEE_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})
"""The floating-point types of IEEE 754, which are numpy's own too."""

HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

FLOATS = IEEE_FLOATS | HALVES

FLOAT8 = frozenset(
    {
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
    }
)

MAP_MARK = "modelopt:map:"
"""The denotation of a sequence type that stands for a map from keys to such elements begins with this text.

The number of the keys' element type follows, then a colon and the denotation of the map itself. `io.model_proto` makes
such types when a model is read, and maps of them again when it is written.
"""

_MAP = re.compile(re.escape(MAP_MARK) + r"([0-9]{1,4}):(.*)", re.DOTALL)


def read_map_mark(denotation: str) -> tuple[ir.DataType, str] | None:
    """The type of the keys and the map's own denotation; None where the denotation is no such mark."""
    found = _MAP.fullmatch(denotation)
    if found is None or int(found[1]) not in {dtype.value for dtype in ir.DataType}:
        return None
    return ir.DataType(int(found[1])), found[2]


def map_key(type_: ir.TypeProtocol | None) -> ir.DataType | None:
    """The type of the keys of a map; None where the type is no map."""
    found = read_map_mark(type_.denotation or "") if isinstance(type_, ir.SequenceType) else None
    return None if found is None else found[0]


def is_plain_tensor(value: ir.Value) -> bool:
    """Whether a value is a tensor as far as the model says: one of no stated type may be one."""
    return value.type is None or isinstance(value.type, ir.TensorType)


@functools.cache
def dtype_name(dtype: ir.DataType) -> str:
    """An element type as signatures name it: numpy's name, that of ml_dtypes, or ``string``."""
    return "string" if dtype == ir.DataType.STRING else str(dtype.numpy().name)


def type_text(type_: ir.TypeProtocol) -> str:
    """A type as onnxruntime writes it: ``tensor(float)``, ``seq(map(int64,tensor(float)))``."""
    key = map_key(type_)
    if isinstance(type_, ir.SequenceType):
        inner = type_text(type_.elem_type)
        return f"seq({inner})" if key is None else f"map({key.name.lower()},{inner})"
    if isinstance(type_, ir.OptionalType):
        return f"optional({type_text(type_.elem_type)})"
    kind = "sparse_tensor" if isinstance(type_, ir.SparseTensorType) else "tensor"
    return f"{kind}({type_.dtype.name.lower()})"
