"""Rules for operators that compute each element by itself, and for those that leave the channel axis alone."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.axis_sizes import copied_constant, moving
from modelopt.pruning.constant_chains import why_foldable
from modelopt.pruning.dependencies import OPEN_SIZE, Dependencies, Labels, Rule
from modelopt.pruning.unproven import Unproven, axis_in

_UNARY = (
    *("Abs", "Ceil", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Cos", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh"),
    *("ThresholdedRelu",),
)
_BROADCASTING = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu", "Where", "Mod"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"),
)
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
_REDUCTIONS = (
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin"),
)

_FIRST_SOFTMAX_OF_ONE_AXIS = 13


def unary(node: ir.Node, found: Dependencies) -> None:
    """The first output has the labels of the first input; further inputs are single numbers."""
    for value in node.inputs[1:]:
        found.keep(value, f"{node.op_type} reads it as an option")
    for axis, labels in found.axes(node.inputs[0]).items():
        for output in node.outputs:
            found.put(output, axis, labels)


def broadcasting(node: ir.Node, found: Dependencies) -> None:
    """Axes are aligned from the last; those of size 1 are stretched (ONNX: multidirectional broadcasting)."""
    inputs = [value for value in node.inputs if value is not None]
    shapes = [found.shape(value) for value in inputs]
    rank = max(map(len, shapes))
    output = node.outputs[0]
    for axis in range(rank):
        sizes = {
            (value, axis - rank + len(shape)): shape[axis - rank + len(shape)]
            for value, shape in zip(inputs, shapes, strict=True)
            if axis - rank + len(shape) >= 0 and shape[axis - rank + len(shape)] != 1
        }
        meeting = list(sizes)
        if meeting and _is_labelled(meeting, found):
            if max(sizes.values()) > OPEN_SIZE:
                raise Unproven("it meets an axis whose size is not known")
            found.put(output, axis, _united(meeting, node, found))


def _is_labelled(meeting: list[tuple[ir.Value, int]], found: Dependencies) -> bool:
    """Whether a value that is computed has labels there: constants alone make no axis that could shrink."""
    return any(axis in found.axes(value) for value, axis in meeting if graph.constant_tensor(value) is None)


def _united(meeting: list[tuple[ir.Value, int]], node: ir.Node, found: Dependencies) -> Labels | None:
    labels = found.of(*meeting[0])
    for value, axis in meeting[1:]:
        foldable = why_foldable(value) or why_foldable(meeting[0][0])
        why = f"{node.op_type}: {foldable}" if foldable else f"{node.op_type} combines it with what cannot shrink"
        labels = found.unite(labels, found.of(value, axis), why)
    return labels


def pooled(node: ir.Node, found: Dependencies) -> None:
    """Batch and channels stay as they are; spatial axes are computed over."""
    _passed(node, found, {0, 1})


def reduced(node: ir.Node, found: Dependencies) -> None:
    """Axes that are not reduced pass; over a labelled one nothing can be said, because all positions count."""
    rank = len(found.shape(node.inputs[0]))
    given = graph.attribute_ints(node, "axes")
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        given = graph.constant_ints(node.inputs[1])
        if given is None:
            raise Unproven("the axes to reduce are not constant")
    if node.op_type in {"ArgMax", "ArgMin"}:
        given = (graph.attribute_int(node, "axis", 0),)
    if not given:
        if graph.attribute_int(node, "noop_with_empty_axes", 0):
            raise Unproven("it reduces nothing")
        given = tuple(range(rank))
    axes = {axis_in(axis, rank) for axis in given}
    keeps = graph.attribute_int(node, "keepdims", 1)
    for axis, labels in found.axes(node.inputs[0]).items():
        if axis in axes:
            found.atoms.keep(labels, f"{node.op_type} takes one number of all positions")
        else:
            found.put(node.outputs[0], axis if keeps else axis - sum(each < axis for each in axes), labels)


def softmax(node: ir.Node, found: Dependencies) -> None:
    """Over its own axis all positions count and stay; others pass. Before opset 13 those after it count too."""
    rank = len(found.shape(node.inputs[0]))
    old = found.opset < _FIRST_SOFTMAX_OF_ONE_AXIS
    axis = axis_in(graph.attribute_int(node, "axis", 1 if old else -1), rank)
    over = set(range(axis, rank)) if old else {axis}
    for each in over:
        found.keep(node.inputs[0], f"{node.op_type} normalizes over it", each)
    _passed(node, found, set(range(rank)) - over)


def per_channel(node: ir.Node, found: Dependencies) -> None:
    """Each channel has its own numbers: BatchNormalization and InstanceNormalization."""
    if len(node.outputs) > 1 or graph.attribute_int(node, "training_mode", 0):
        raise Unproven("it is in training mode")
    if not graph.attribute_int(node, "spatial", 1):
        raise Unproven("it has statistics for each pixel")
    labels = found.axes(node.inputs[0]).get(1)
    if labels is not None:
        for parameter in node.inputs[1:]:
            together = found.unite(labels, found.of(parameter, 0), f"{node.op_type} has numbers that cannot shrink")
            labels = labels if together is None else together
    _passed(node, found, {0, 1})


def _passed(node: ir.Node, found: Dependencies, axes: set[int]) -> None:
    for axis, labels in found.axes(node.inputs[0]).items():
        if axis in axes:
            found.put(node.outputs[0], axis, labels)
        else:
            found.atoms.keep(labels, f"{node.op_type} computes over it")


RULES: Mapping[tuple[str, str], Rule] = {
    **{("", op_type): unary for op_type in _UNARY},
    **{("", op_type): moving(unary) for op_type in ("Cast",)},
    ("", "Identity"): moving(copied_constant(unary)),
    **{("", op_type): broadcasting for op_type in _BROADCASTING},
    **{("", op_type): pooled for op_type in _POOLS},
    **{("", op_type): reduced for op_type in _REDUCTIONS},
    **{("", op_type): softmax for op_type in ("Softmax", "LogSoftmax", "Hardmax")},
    **{("", op_type): per_channel for op_type in ("BatchNormalization", "InstanceNormalization")},
    **{(graph.CONTRIB_DOMAIN, op_type): unary for op_type in ("Gelu", "QuickGelu")},
    **{(graph.CONTRIB_DOMAIN, op_type): broadcasting for op_type in ("BiasGelu", "FastGelu")},
}
