"""The strings that a graph compares its inputs with: categories, keys of encoders, operands of Equal.

A random word is in no table of categories, so it reaches only the default of an encoder, or is an error. Random inputs
and constructed feeds are drawn from the words that the graph knows, for each column where the graph splits columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from modelopt import graph
from modelopt.data.synthetic import NUMERALS, Words

_KNOWN = frozenset(
    {
        *("keys_strings", "keys_tensor", "classes_strings", "cats_strings", "pool_strings", "stopwords"),
        "string_vocabulary",
    }
)
"""Attributes that hold strings which an operator looks for in its input."""

_FOLLOWED = graph.DATA_MOVEMENT | {"StringNormalizer", "StringSplit", "Tokenizer", "ArrayFeatureExtractor", "Cast"}
_MAX_COLUMNS = 1024
_MAX_WORDS = 4096
_MAX_STEPS = 1000
_OTHER = -1

_Columns = tuple[int, ...] | None
"""The column of the input at each place of a value's last axis, `_OTHER` where there is none; None where not known."""


def words_of(model: ir.Model) -> dict[str, Words]:
    """For each input of strings the words that the graph compares it with: one tuple a column, or one for all.

    Inputs that the graph compares with nothing have an empty tuple.
    """
    strings = (each for each in model.graph.inputs if each.dtype == ir.DataType.STRING)
    return {value.name: _words(value) for value in strings if value.name and graph.is_plain_tensor(value)}


def _words(value: ir.Value) -> Words:
    dims = graph.dims(value)
    width = dims[-1] if dims and len(dims) > 1 else None
    columns = tuple(range(width)) if isinstance(width, int) and 0 < width <= _MAX_COLUMNS else None
    for_all: dict[str, None] = {}
    each: list[dict[str, None]] = [{} for _ in columns or ()]
    waiting: deque[tuple[ir.Value, _Columns]] = deque([(value, columns)])
    seen = {(value, columns)}
    for _ in range(_MAX_STEPS):
        if not waiting:
            break
        at, columns = waiting.popleft()
        for use in at.uses():
            asked = dict.fromkeys(_asked(use.node, use.idx))
            for found in [for_all] if columns is None else [each[column] for column in columns if column != _OTHER]:
                found |= asked
            for after in _onward(use.node, use.idx, columns):
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
    if not any(each):
        return (tuple(for_all)[:_MAX_WORDS],) if for_all else ()
    return tuple(tuple({**column, **for_all})[:_MAX_WORDS] for column in each)


def _asked(node: ir.Node, index: int) -> Iterator[str]:
    """The strings that a node looks for in one of its inputs."""
    if index == 0:
        for key, attribute in node.attributes.items():
            if key in _KNOWN and not attribute.is_ref():
                yield from _strings(attribute)
    if graph.is_standard(node, "Cast") and graph.attribute_int(node, "to", 0) != ir.DataType.STRING:
        yield from NUMERALS[0]
    if graph.is_standard(node, "Equal"):
        tensor = graph.constant_tensor(node.inputs[1 - index])
        if tensor is not None and tensor.dtype == ir.DataType.STRING:
            yield from _texts(tensor)


def _strings(attribute: ir.Attr) -> Iterator[str]:
    if attribute.type == ir.AttributeType.STRINGS:
        yield from attribute.as_strings()
    elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == ir.DataType.STRING:
        yield from _texts(attribute.value)


def _texts(tensor: ir.TensorProtocol) -> Iterator[str]:
    for item in tensor.numpy().reshape(-1).tolist():
        yield item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def _onward(node: ir.Node, index: int, columns: _Columns) -> Iterator[tuple[ir.Value, _Columns]]:
    """The values that hold strings of one input behind a node, and the columns of these."""
    if node.op_type not in _FOLLOWED or (index > 0 and node.op_type != "Concat"):
        return
    after = _columns_after(node, index, columns)
    if after is None or set(after) != {_OTHER}:
        yield from ((out, after) for out in node.outputs)


def _columns_after(node: ir.Node, index: int, columns: _Columns) -> _Columns:
    if columns is None:
        return None
    if node.op_type in {"Identity", "StringNormalizer", "Cast", "Dropout"}:
        return columns
    if node.op_type == "Concat":
        return _joined(node, index, columns)
    if node.op_type == "ArrayFeatureExtractor" or _takes_columns(node):
        chosen = graph.constant(node.inputs[1], max_bytes=8 * _MAX_COLUMNS)
        if chosen is None or any(not -len(columns) <= item < len(columns) for item in chosen.reshape(-1).tolist()):
            return None
        return tuple(columns[item] for item in chosen.reshape(-1).tolist())
    return columns[:1] if len(set(columns)) == 1 else None


def _takes_columns(node: ir.Node) -> bool:
    rank = graph.rank(node.inputs[0])
    return node.op_type == "Gather" and graph.attribute_int(node, "axis", 0) in {-1, (rank or 0) - 1}


def _joined(node: ir.Node, index: int, columns: Sequence[int]) -> _Columns:
    """The columns among those of the other parts."""
    rank = graph.rank(node.inputs[index])
    if graph.attribute_int(node, "axis", 0) not in {-1, (rank or 2) - 1}:
        return None
    made: list[int] = []
    for position, part in enumerate(node.inputs):
        dims = graph.dims(part)
        width = len(columns) if position == index else dims[-1] if dims else None
        if not isinstance(width, int) or width < 0:
            return None
        made += columns if position == index else [_OTHER] * width
    return tuple(made)
