"""Drop the initial states of recurrent operators where they are zeros."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import NOT_HERE, Mismatch
from modelopt.passes.base import RewritePass
from modelopt.patterns.rewriter import Rewrite

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Which inputs are initial states."""

_KEEP_ZERO = frozenset(
    {"Cast", "Expand", "Gather", "Identity", "Neg", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators whose output is all zeros when their first input is."""

_MOST_BYTES = 2**24
_MOST_VALUES = 100


class DropZeroStates(RewritePass):
    """Drop the initial states of LSTM, GRU and RNN where they are zeros.

    The operators start from zeros where the input is left out. Exporters compute them from the batch size, through
    Shape, Expand or ConstantOfShape, Slice and Unsqueeze; all of these nodes go.
    https://onnx.ai/onnx/operators/onnx__LSTM.html
    """

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """`node` is the LSTM, GRU or RNN."""
        states = _STATES.get(node.op_type, ()) if node.domain in graph.STANDARD_DOMAINS else ()
        given = [at for at in states if at < len(node.inputs) and node.inputs[at] is not None]
        if not given:
            return NOT_HERE
        zeros = [at for at in given if _is_zero(node.inputs[at])]
        return partial(_drop, node, zeros) if zeros else Mismatch("its initial state is not known to be zeros")


def _is_zero(value: ir.Value | None) -> bool:
    """Whether `value` holds nothing but zeros, whatever its shape."""
    waiting: list[ir.Value | None] = [value]
    seen: set[ir.Value] = set()
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        if each is None or len(seen) > _MOST_VALUES:
            return False
        seen.add(each)
        constant = graph.constant(each, max_bytes=_MOST_BYTES)
        if constant is not None:
            if constant.dtype.kind not in "fiu" or np.any(constant):
                return False
            continue
        sources = _made_of(each)
        if sources is None:
            return False
        waiting += sources
    return True


def _made_of(value: ir.Value) -> list[ir.Value | None] | None:
    """The values that make `value` all zeros when they are; None where no such values are known."""
    node = value.producer()
    if node is None or node.domain not in graph.STANDARD_DOMAINS:
        return None
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        return [] if fill is None or (not fill.is_ref() and not np.any(fill.as_tensor().numpy())) else None
    if node.op_type == "Concat":
        return list(node.inputs)
    return [node.inputs[0]] if node.op_type in _KEEP_ZERO and node.inputs else None


def _drop(node: ir.Node, at: list[int]) -> None:
    for index in at:
        node.replace_input_with(index, None)
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    node.resize_inputs(count)
