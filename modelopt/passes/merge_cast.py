"""Merge two type conversions in a row into one, or into none, where the first loses nothing."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite

# (signed, bits of magnitude) of integers, (significand bits with the hidden one, exponent bits) of floats.
_INTEGERS = {
    ir.DataType.BOOL: (0, 1),
    ir.DataType.UINT8: (0, 8),
    ir.DataType.UINT16: (0, 16),
    ir.DataType.UINT32: (0, 32),
    ir.DataType.UINT64: (0, 64),
    ir.DataType.INT8: (1, 7),
    ir.DataType.INT16: (1, 15),
    ir.DataType.INT32: (1, 31),
    ir.DataType.INT64: (1, 63),
}
_FLOATS = {
    ir.DataType.BFLOAT16: (8, 8),
    ir.DataType.FLOAT16: (11, 5),
    ir.DataType.FLOAT: (24, 8),
    ir.DataType.DOUBLE: (53, 11),
}


class MergeCast(RewritePass):
    """Merge Cast after Cast into one where the first is lossless, and remove both when the type returns.

    For types A → B → C (Cast-13), when B holds every number of A, the second Cast meets the very numbers of A, so A → C
    gives the same. To an integer C that is true only where Cast is defined: between integers it keeps the low bits, but
    a float out of C's range becomes anything. So with a float on the way C must hold every number of A, or be a float
    or bool. Strings and 8-bit floats are left alone.
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the second Cast; longer chains fold from the front."""
        first = match.producer(node.inputs[0], "Cast") if graph.is_standard(node, "Cast") else None
        if first is None or first.inputs[0] is None:
            return match.NOT_HERE
        source = first.inputs[0]
        if source.dtype is None:
            return Mismatch("the type before the first conversion is not known")
        middle, target = (ir.DataType(graph.attribute_int(cast, "to", 0)) for cast in (first, node))
        if reason := _why_not(source.dtype, middle, target):
            return Mismatch(reason)
        if source.dtype == target and graph.can_replace(node.outputs[0], source) is None:
            return partial(graph.replace_value, node.outputs[0], source)
        return partial(node.replace_input_with, 0, source)


def _why_not(source: ir.DataType, middle: ir.DataType, target: ir.DataType) -> str | None:
    types = {source, middle, target}
    if not types <= _INTEGERS.keys() | _FLOATS.keys():
        return "strings and other types are left alone"
    if not _holds(middle, source):
        return f"the first conversion loses: {_name(middle)} does not hold every {_name(source)}"
    by_float = bool(types - {target} & _FLOATS.keys())
    if by_float and target in _INTEGERS and target != ir.DataType.BOOL and not _holds(target, source):
        return f"a float beyond the range of {_name(target)} becomes anything"
    return None


def _holds(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """Whether `wide` represents every number of `narrow`."""
    if wide == narrow:
        return True
    if wide in _FLOATS and narrow in _FLOATS:
        return all(a >= b for a, b in zip(_FLOATS[wide], _FLOATS[narrow], strict=True))
    if wide in _FLOATS:
        return _FLOATS[wide][0] >= _INTEGERS[narrow][1]
    return narrow in _INTEGERS and all(a >= b for a, b in zip(_INTEGERS[wide], _INTEGERS[narrow], strict=True))


def _name(dtype: ir.DataType) -> str:
    return dtype.name.lower()
