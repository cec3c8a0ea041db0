"""Reading Mul, Add, Sub, Div by constants and BatchNormalization as an affine map ``a · x + s``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.patterns import runtime_kernels as protected

_OPERATORS = ("Mul", "Add", "Sub", "Div")

_LOST = 1e-5
"""The largest accepted rounding error, as a share of the output: half of `measure.tolerance.FLOOR`."""

Affine = tuple[np.ndarray, np.ndarray]
"""(a, s), both float64 with one number per channel."""


def is_affine(node: ir.Node) -> bool:
    """Whether `node` is Mul, Add, Sub or Div of a variable and a constant."""
    return any(graph.is_standard(node, op_type) for op_type in _OPERATORS) and match.split_constant(node) is not None


def variable(node: ir.Node) -> ir.Value:
    """The operand of `node` that is not constant."""
    operands = match.split_constant(node)
    if operands is None:
        raise ValueError(f"{graph.label(node)} has no constant operand")
    return operands[0]


def constant_of(node: ir.Node, opset: int) -> ir.TensorProtocol | Mismatch:
    """The constant operand of `node`, when it broadcasts by shape and no pattern needs the node as it is."""
    operands = match.split_constant(node)
    tensor = None if operands is None else graph.constant_tensor(operands[1])
    if tensor is None:
        return match.NOT_HERE
    if opset < 7:
        return Mismatch(f"{node.op_type} of opset {opset} broadcasts by attributes")
    if reason := protected.why_not_alter(node, opset):
        return Mismatch(reason)
    return tensor


def per_channel(node: ir.Node, opset: int, channels: int, rank: int, *, axis: int = 1) -> Affine | Mismatch:
    """`node` as a map of an ``x`` with `rank` axes, of which `axis` holds `channels`.

    The constant is one number, or its shape with ones put before it is 1 everywhere but at `axis`.
    """
    tensor = constant_of(node, opset)
    if isinstance(tensor, Mismatch):
        return tensor
    shape = tuple(tensor.shape.numpy())
    if len(shape) > rank:
        return Mismatch(f"the constant of shape {shape} raises the rank")
    wanted = tuple(channels if position == axis else 1 for position in range(rank))
    if tensor.size != 1 and (1,) * (rank - len(shape)) + shape != wanted:
        return Mismatch(f"the constant of shape {shape} is not one number per channel")
    c = np.broadcast_to(tensor.numpy().astype(np.float64).reshape(-1), channels)
    return coefficients(node, c)


def coefficients(node: ir.Node, c: np.ndarray) -> Affine | Mismatch:
    """(a, s) of `node` whose constant operand is `c`."""
    constant_first = node.inputs[0] is not variable(node)
    one, zero = np.ones_like(c), np.zeros_like(c)
    if node.op_type == "Mul":
        return c, zero
    if node.op_type == "Add":
        return one, c
    if node.op_type == "Sub":
        return (-one, c) if constant_first else (one, -c)
    if constant_first:
        return Mismatch("the variable is the divisor")
    return (1 / c, zero) if c.all() else Mismatch("it divides by zero")


def normalization(node: ir.Node, opset: int, channels: int) -> Affine | Mismatch:
    """A BatchNormalization in inference mode as ``a = scale / sqrt(var + epsilon)``, ``s = bias - a · mean``.

    A channel without variance, of which trained mobile networks have many, gives ``a · (x - mean)`` with a large ``a``:
    rounding ``a · x`` and ``a · mean`` costs up to ``|a · mean| · 2^-24``, in this form as in the other one. It is
    refused where that would show beside what the other channels give, about ``|scale| + |bias|``.
    """
    if reason := _why_not_inference(node, opset):
        return Mismatch(reason)
    arrays = [graph.constant(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        return Mismatch("its parameters are not constant")
    scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    if any(array.shape != (channels,) for array in (scale, bias, mean, variance)):
        return Mismatch(f"its parameters are not one number for each of {channels} channels")
    spread = variance + graph.attribute_float(node, "epsilon", 1e-5)
    if not np.all(spread > 0):
        return Mismatch(f"{np.count_nonzero(~(spread > 0))} channels have no variance, and nothing is added to it")
    factor = scale / np.sqrt(spread)
    rounding = np.abs(factor * mean)[~(variance > 0)] * 2.0**-24
    size = float(np.max(np.abs(scale) + np.abs(bias), initial=0.0))
    lost = np.count_nonzero(rounding > _LOST * size)
    if lost:
        return Mismatch(f"{lost} channels have no variance and a mean so large that rounding would show")
    return factor, bias - factor * mean


def _why_not_inference(node: ir.Node, opset: int) -> str | None:
    if opset >= 14:
        return "it is in training mode" if graph.attribute_int(node, "training_mode", 0) else None
    if any(output.name or output.uses() for output in node.outputs[1:]):
        return "its training outputs are present: it is in training mode"
    if opset < 7 and not graph.attribute_int(node, "is_test", 0):
        return "it is in training mode: is_test is 0"
    if opset < 9 and not graph.attribute_int(node, "spatial", 1):
        return "it normalizes each position apart: spatial is 0"
    return None
