"""Where an output is a sigmoid: onnxruntime computes it to an absolute precision, so its small values are rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph

ROUNDING = 2.0**-22
"""What the kernel in MLAS is off by, at most, twice: a ratio of polynomials near -1/2 to which 1/2 is added. A sigmoid
below 1e-6 keeps one or two digits, where a scale taken from the output's largest value asks for five."""

_HANDS_ON = graph.DATA_MOVEMENT | {"Clip", "Max", "Min", "ReduceMax", "MaxPool"}
_MOST_NODES = 1000


def positions(model: ir.Model) -> frozenset[int]:
    """Which of the outputs hold values of a Sigmoid, moved or chosen from but not computed with."""
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
    waiting: list[ir.Value | None] = [value]
    seen: set[ir.Node] = set()
    while waiting and len(seen) < _MOST_NODES:
        node = None if (each := waiting.pop()) is None else each.producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if graph.is_standard(node, "Sigmoid"):
            return True
        if node.op_type in _HANDS_ON and node.domain in graph.STANDARD_DOMAINS:
            waiting += node.inputs
    return False
