"""The operators between kernels that onnxruntime computes on integers, in releases since 1.24 and opsets since 13.

*Movers* keep the scale of their input: onnxruntime removes Q/DQ around them where both sides have the same. *Glue* are
operators with integer kernels of their own (QLinearAdd, QLinearConcat …); `hard_sigmoid` makes HardSigmoid one of them.
The lists were found by experiment: what its optimizer leaves of Q → DQ → operator → Q → DQ, for u8 and s8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from modelopt import graph
from modelopt.quant.static import hard_sigmoid, scalar_operands
from modelopt.quant.static.plan import QuantizationPlan

MOVERS = frozenset(
    {
        *("DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "MaxPool", "ReduceMax", "ReduceMin"),
        *("Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
GLUE = frozenset(
    {
        *("Add", "AveragePool", "Concat", "GlobalAveragePool", "HardSigmoid", "LeakyRelu", "Mul", "Sigmoid"),
        *("Softmax", "Where"),
    }
)
_IN_FLOAT = frozenset(
    {
        *("BatchNormalization", "Clip", "Div", "Elu", "Gelu", "GlobalMaxPool", "HardSwish"),
        *("InstanceNormalization", "LayerNormalization", "LogSoftmax", "Max", "Min", "Mish", "PRelu", "Pad"),
        *("ReduceMean", "ReduceSum", "Relu", "Softplus", "SpaceToDepth", "Sub", "Sum", "Tanh"),
    }
)
_MOST_SOFTMAX_SCALE = 0.07
"""The largest scale for the input of Softmax: rounding, by half a step, changes each result by up to 3.5 %."""


def is_known(node: ir.Node) -> bool:
    """Whether it is known if onnxruntime has an integer kernel for this operator."""
    return node.op_type in MOVERS | GLUE | _IN_FLOAT and node.domain in graph.STANDARD_DOMAINS


def activations(node: ir.Node) -> tuple[ir.Value, ...]:
    """The inputs of a known operator that would be quantized; shapes, indices and conditions are not."""
    if node.op_type in MOVERS:
        listed = node.inputs[:1]
    elif node.op_type == "Where":
        listed = node.inputs[1:3]
    elif (number := scalar_operands.constant_of(node)) is not None:
        listed = [value for value in node.inputs if value is not number]
    else:
        listed = [value for value in node.inputs if not (is_float(node) and graph.constant_tensor(value) is not None)]
    return tuple(value for value in listed if value is not None)


def is_float(node: ir.Node) -> bool:
    """Whether onnxruntime computes the operator in float only."""
    return node.op_type in _IN_FLOAT


def why_not(node: ir.Node) -> str | None:
    """Why a known operator has no integer kernel in the form that it has here, else None."""
    if is_float(node):
        return f"onnxruntime has no integer kernel for {node.op_type}"
    if node.op_type == "Resize" and graph.attribute_string(node, "mode", "nearest") != "nearest":
        return "onnxruntime interpolates in float"
    if node.op_type == "Resize" and _extrapolates(node):
        return "what it reads outside of its input is a float"
    if node.op_type == "HardSigmoid":
        return hard_sigmoid.why_not(node)
    if any(not output.name for output in node.outputs):
        return "one of its results is not there"
    if len(node.outputs) > 1 and node.op_type != "Split":
        return "it has more than one result"
    return None


def _extrapolates(node: ir.Node) -> bool:
    return graph.attribute_string(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"


def unfit(plan: QuantizationPlan, step: Callable[[ir.Value], float]) -> dict[ir.Node, str]:
    """The nodes of `plan` that lose too much accuracy in int8 with the observed ranges, with the reason.

    Args:
        plan: What would compute in int8.
        step: The scale of an activation of the plan.
    """
    softmaxes = {choice.node: step(choice.inputs[0]) for choice in plan.choices if choice.node.op_type == "Softmax"}
    return {
        node: f"a step of its input would change its results by {math.expm1(min(size, 10)):.0%}"
        for node, size in softmaxes.items()
        if size > _MOST_SOFTMAX_SCALE
    }
