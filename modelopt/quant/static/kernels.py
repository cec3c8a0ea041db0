"""Which Conv, Gemm and MatMul can be computed in int8, by their constants and attributes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant.static import existing_qdq, gemm_scale
from modelopt.quant.static.plan import NodeChoice, Role

KERNELS = frozenset({"Conv", "Gemm", "MatMul"})


def candidate(node: ir.Node) -> NodeChoice | str:
    """The choice for a kernel, or why its constants or attributes rule int8 out."""
    activation = node.inputs[0]
    weight = graph.input_at(node, 1)
    bias = graph.input_at(node, 2)
    if activation is None or weight is None:
        return "an input is missing"
    if graph.constant_tensor(activation) is not None:
        return "its first input is a constant"
    if existing_qdq.has_integer_weight(node):
        return existing_qdq.ALREADY
    problem = _weight_problem(weight) or _bias_problem(bias, node, weight) or _gemm_problem(node)
    if problem is not None:
        return problem
    return NodeChoice(node, Role.KERNEL, (activation,), weight, channel_axis(node, weight), bias)


def why_not(node: ir.Node) -> str | None:
    """Why the constants or attributes of a Conv, Gemm or MatMul rule int8 out, else None."""
    choice = candidate(node)
    if isinstance(choice, str):
        return choice
    return None if gemm_scale.factors(node) == (1.0, 1.0) else "alpha or beta is not 1"


def _weight_problem(weight: ir.Value) -> str | None:
    tensor = graph.constant_tensor(weight)
    if tensor is None and weight.const_value is not None and graph.is_overridable(weight):
        return "a caller may replace its weight, which is an input as well (freeze-weights makes it a constant)"
    if tensor is None:
        return "its second input is an activation, not a constant weight"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}, not float32"
    if tensor.size == 0:
        return "its weight is empty"
    if not np.isfinite(tensor.numpy()).all():
        return "its weight holds NaN or Inf"
    return None


def _bias_problem(bias: ir.Value | None, node: ir.Node, weight: ir.Value) -> str | None:
    if bias is None:
        return None
    array = graph.constant(bias)
    if array is None:
        return "its bias is not a constant"
    axis = channel_axis(node, weight)
    channels = None if axis is None else graph.constant_tensor(weight).shape[axis]  # type: ignore[union-attr]
    if array.ndim != 1 or array.shape[0] != channels:
        return f"its bias has shape {array.shape}, not one number per output channel"
    if not np.isfinite(array).all():
        return "its bias holds NaN or Inf"
    return None


def _gemm_problem(node: ir.Node) -> str | None:
    if node.op_type != "Gemm":
        return None
    if graph.attribute_int(node, "transA", 0):
        return "its activation is transposed (transA)"
    return gemm_scale.why_not_folded(node)


def channel_axis(node: ir.Node, weight: ir.Value) -> int | None:
    """The axis of a constant weight with one index for each output channel; None where a MatMul has a stack of them."""
    rank = len(graph.constant_tensor(weight).shape)  # type: ignore[union-attr]
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if graph.attribute_int(node, "transB", 0) else 1
    return 1 if rank == 2 else None


def fused_output(node: ir.Node) -> ir.Value:
    """What the integer kernel of `node` writes: its output, or that of a Relu or Clip that runtimes fuse with it.

    A QuantizeLinear saturates. So with the range of its output it does the work of a Relu, and of a Clip whose bounds
    have 0 between them.
    """
    output = node.outputs[0]
    follower = graph.sole_consumer(output)
    if follower is None or follower.graph is not node.graph:
        return output
    if graph.is_standard(follower, "Relu"):
        return follower.outputs[0]
    if graph.is_standard(follower, "Clip") and follower.inputs[0] is output and _clip_holds_zero(follower):
        return follower.outputs[0]
    return output


def _clip_holds_zero(node: ir.Node) -> bool:
    low, high = (_clip_bound(node, i, name) for i, name in ((1, "min"), (2, "max")))
    return (low is None or low <= 0) and (high is None or high >= 0)


def _clip_bound(node: ir.Node, position: int, name: str) -> float | None:
    if graph.input_at(node, position) is not None:
        bound = graph.scalar(node.inputs[position])
        return float("nan") if bound is None else float(bound)
    return graph.attribute_float(node, name, 0.0) if name in node.attributes else None
