"""Models of one node with a weight, and their pruning by magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from modelopt.core.changes import Changes
from modelopt.passes.prune_magnitude import PruneMagnitude
from tests.helpers import WITHOUT_RUNNER


def prune(model: ir.Model, **options: Any) -> Changes:
    return PruneMagnitude(**{"min_elements": 1, **options}).apply(model, WITHOUT_RUNNER)


def value(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def model_of(op_type: str, weight: np.ndarray, *, index: int = 1, inputs: int = 2, **attributes: Any) -> ir.Model:
    """One node whose input `index` is the initializer ``w``; its other inputs are graph inputs."""
    w = value("w", weight)
    others = [ir.Value(name=f"x{i}", type=ir.TensorType(w.dtype or ir.DataType.FLOAT)) for i in range(inputs)]
    operands = [w if i == index else others[i] for i in range(inputs)]
    node = ir.node(op_type, operands, attributes, name="node")
    node.outputs[0].name = "y"
    rest = [other for other in others if other in operands]
    body = ir.Graph(rest, [node.outputs[0]], nodes=[node], initializers=[w], opset_imports={"": 20}, name="g")
    return ir.Model(body, ir_version=10)
