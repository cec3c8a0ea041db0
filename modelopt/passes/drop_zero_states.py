"""Drop the initial states of recurrent operators where they are zeros."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.graph.match import NOT_HERE, Mismatch
from modelopt.passes.base import Pass
from modelopt.patterns.rewriter import Rewrite, rewrite_nodes

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Which inputs are initial states."""

_KEEP_ZERO = frozenset(
    {"Cast", "Expand", "Gather", "Identity", "Neg", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators that make zeros of a first input that holds zeros alone."""

_MOST_BYTES = 2**24
_MOST_VALUES = 100


class DropZeroStates(Pass):
    """Drop the initial states of LSTM, GRU and RNN where they are zeros.

    The operators start from zeros where the input is left out. Exporters compute them from the batch size, through
    Shape, Expand or ConstantOfShape, Slice and Unsqueeze; all of these nodes go.
    https://onnx.ai/onnx/operators/onnx__LSTM.html
    """

    name: ClassVar[str] = "drop-zero-states"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Drop them in all scopes."""
        return rewrite_nodes(model, _rule)


def _rule(node: ir.Node, _opset: int) -> Rewrite | Mismatch:
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
    """The values that must be zeros for `value` to be; None where that does not follow from any."""
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
    makers = [value.producer() for value in (node.inputs[index] for index in at) if value is not None]
    old = [node.inputs[index] for index in at]
    for index in at:
        node.replace_input_with(index, None)
    graph.drop_unused_constants(old)
    for maker in dict.fromkeys(makers):
        if maker is not None:
            _remove_unused(maker)
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    node.resize_inputs(count)


def _remove_unused(node: ir.Node) -> None:
    """Remove a node whose outputs nothing reads, and what then is not read either."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each.graph is None or any(out.uses() or out.is_graph_output() for out in each.outputs):
            continue
        makers = [value.producer() for value in each.inputs if value is not None]
        graph.remove_with_constants(each)
        waiting += [maker for maker in makers if maker is not None]
