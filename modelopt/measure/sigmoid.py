"""Outputs that are sigmoids: onnxruntime rounds a sigmoid to an absolute precision, so small values may differ.

A tolerance relative to the largest value of the output would refuse such differences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.measure.producers import producers

ROUNDING = 2.0**-22
"""Twice the largest error of the kernel in MLAS, which adds 1/2 to a ratio of polynomials near -1/2.

A sigmoid below 1e-6 therefore keeps one or two digits, where a tolerance relative to the output's scale asks for five.
"""

_KEEP_VALUES = graph.DATA_MOVEMENT | {"Clip", "Max", "Min", "ReduceMax", "MaxPool"}
_MOST_NODES = 1000


def positions(model: ir.Model) -> frozenset[int]:
    """The positions of outputs that hold values of a Sigmoid, moved or selected but not computed with."""
    return frozenset(at for at, value in enumerate(model.graph.outputs) if _is_sigmoid(value))


def settled(expected: Sequence[np.ndarray], found: Sequence[np.ndarray], where: frozenset[int]) -> list[np.ndarray]:
    """`found`, with the expected value wherever a sigmoid differs from it by no more than `ROUNDING`.

    Args:
        expected: The outputs of the original.
        found: The outputs of the result, in the same order.
        where: Positions of sigmoids.
    """
    outputs = list(found)
    for at in where:
        if at < len(expected) and expected[at].shape == outputs[at].shape and expected[at].dtype == np.float32:
            close = np.abs(expected[at] - outputs[at]) <= ROUNDING
            outputs[at] = np.where(close, expected[at], outputs[at])
    return outputs


def _is_sigmoid(value: ir.Value) -> bool:
    return any(graph.is_standard(node, "Sigmoid") for node in producers(value, _keeps_values, _MOST_NODES))


def _keeps_values(node: ir.Node) -> bool:
    return node.op_type in _KEEP_VALUES and node.domain in graph.STANDARD_DOMAINS
