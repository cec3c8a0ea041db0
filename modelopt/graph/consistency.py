"""What the specification of an operator asks of a node beyond its schema: lists and bodies that fit each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import onnx_ir as ir

from modelopt.graph.values import attribute_ints, constant_tensor
from modelopt.graph.walking import bodies

_WINDOWED = frozenset({"Conv", "ConvInteger", "QLinearConv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool"})
_WEIGHT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""By operator the input that holds the filters, which have as many spatial axes as the input."""


def why_inconsistent(node: ir.Node, opset: int) -> str | None:
    """What does not fit in a standard operator that `schemas.why_malformed` has let through; None where all does.

    Passes read lists of a convolution by axis, permutations and the bodies' outputs by position. A node that breaks
    these rules loads nowhere: they are those of the operator specification.

    Args:
        node: A node of the standard domain.
        opset: The version of the standard operator set that it is written in.
    """
    if node.op_type in _WINDOWED:
        return _window_problem(node)
    if node.op_type in {"MatMul", "Gemm"}:
        return _product_problem(node)
    if node.op_type == "Transpose":
        perm = attribute_ints(node, "perm")
        if perm is not None and sorted(perm) != list(range(len(perm))):
            return "the attribute 'perm' of Transpose is no permutation"
    return next(_body_problems(node, opset), None)


def _window_problem(node: ir.Node) -> str | None:
    """One entry an axis in each list, two in the padding, and at least 1 where nothing less has a meaning."""
    lists = {name: attribute_ints(node, name) or () for name in ("kernel_shape", "strides", "dilations", "pads")}
    rank = _stored_rank(node.inputs[_WEIGHT[node.op_type]]) if node.op_type in _WEIGHT else None
    if rank is not None and rank < 3:
        return f"{node.op_type} has filters of {rank} dimensions, and needs 3 or more"
    axes = {len(lists[name]) for name in ("kernel_shape", "strides", "dilations") if lists[name]}
    axes |= {rank - 2} if rank is not None else set()
    if len(axes) > 1:
        return f"the attributes of {node.op_type} are for {' and for '.join(map(str, sorted(axes)))} axes"
    if lists["pads"] and any(len(lists["pads"]) != 2 * count for count in axes):
        return f"the attribute 'pads' of {node.op_type} has {len(lists['pads'])} numbers, two for each axis are needed"
    if len(lists["pads"]) % 2:
        return f"the attribute 'pads' of {node.op_type} has an odd number of entries"
    for name in ("kernel_shape", "strides", "dilations"):
        if any(size < 1 for size in lists[name]):
            return f"the attribute '{name}' of {node.op_type} holds {min(lists[name])}"
    return None


def _product_problem(node: ir.Node) -> str | None:
    """A stored factor that is no matrix; MatMul takes a vector too."""
    least, most = (2, 2) if node.op_type == "Gemm" else (1, sys.maxsize)
    ranks = [rank for value in node.inputs[:2] if (rank := _stored_rank(value)) is not None]
    wrong = next((rank for rank in ranks if not least <= rank <= most), None)
    return None if wrong is None else f"{node.op_type} has a factor of {wrong} dimensions"


def _stored_rank(value: ir.Value | None) -> int | None:
    """Of a tensor in the file; what the file says of other shapes may be wrong without harm."""
    tensor = constant_tensor(value)
    return None if tensor is None else len(tensor.shape)


def _body_problems(node: ir.Node, opset: int) -> Iterator[str]:
    """Bodies that take or give another number of values than the node says."""
    if node.op_type not in {"If", "Loop", "Scan"}:
        return
    given = 0 if node.op_type == "If" else len(node.inputs)
    if node.op_type == "Scan" and opset < 9:
        given -= 1  # its first input then is the lengths of the sequences
    made = len(node.outputs) + (node.op_type == "Loop")  # a body of Loop says first whether to go on
    for body in bodies(node):
        if len(body.inputs) != given:
            yield f"a body of {node.op_type} takes {len(body.inputs)} values, and is given {given}"
        if len(body.outputs) != made:
            yield f"a body of {node.op_type} makes {len(body.outputs)} values, and {made} are needed"
