"""Parts of a graph that stay in float whatever their ranges are: x · f(x), and what a logarithm reads.

Hardswish (HardSigmoid(x) · x, or x · Clip(x + 3) / 6), SiLU, GELU and squeeze-and-excite blocks are of the form
x · f(x). They consist of many cheap nodes: Q/DQ between these costs more than integers save. The convolutions of a
squeeze-and-excite block read one pixel only.
"""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph
from modelopt.graph.operators import LINEAR

_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "AveragePool"})
_MOST_NODES = 24  # of f(x): more are a branch of the network, not an activation function (a choice, not fitted)
_MAGNITUDE_STEPS = LINEAR | {
    *("Abs", "Add", "Cast", "Concat", "Div", "Flatten", "Gather", "Max", "Mul", "Neg", "Pad", "Pow", "ReduceL2"),
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "Reshape", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum"),
    *("Transpose", "Unsqueeze"),
}


def gate_nodes(model: ir.Model) -> set[ir.Node]:
    """The nodes of all scopes that compute x · f(x), the Mul included."""
    found: set[ir.Node] = set()
    for node in graph.all_nodes(model):
        if not graph.is_standard(node, "Mul") or len(node.inputs) != 2:
            continue
        left, right = node.inputs
        if left is None or right is None:
            continue
        for source, gate in ((left, right), (right, left)):
            region = _region(source, gate)
            if region:
                found |= region | {node}
    return found


def _region(source: ir.Value, gate: ir.Value) -> set[ir.Node]:
    """The nodes that make `gate` out of `source` and constants alone; empty when it needs anything else."""
    region: set[ir.Node] = set()
    todo = [gate]
    reached = False
    while todo:
        value = todo.pop()
        if value is source:
            reached = True
            continue
        if graph.constant_tensor(value) is not None:
            continue
        producer = value.producer()
        if producer is None or len(region) >= _MOST_NODES or graph.bodies(producer):
            return set()
        if producer not in region:
            region.add(producer)
            todo.extend(read for read in producer.inputs if read is not None)
    return region if reached and not _has_heavy_work(source, region) else set()


def _has_heavy_work(source: ir.Value, region: set[ir.Node]) -> bool:
    """Whether the region convolves more than one pixel: then int8 may save more time than Q/DQ costs."""
    if not any(node.op_type in LINEAR for node in region):
        return False
    return any(use.node in region and use.node.op_type not in _POOLS for use in source.uses())


def before_logarithm(model: ir.Model) -> set[ir.Node]:
    """The nodes of all scopes that a Log reads through linear steps, absolute values, squares and roots alone.

    The error of int8 is absolute, and a logarithm makes it relative to the value: a spectrogram in decibels becomes
    wrong where it is quiet. The search ends at operators that saturate (Relu, Clip, Sigmoid, Softmax …).
    """
    found: set[ir.Node] = set()
    todo = [node for node in graph.all_nodes(model) if graph.is_standard(node, "Log")]
    while todo:
        for value in todo.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer.op_type in _MAGNITUDE_STEPS and producer not in found:
                found.add(producer)
                todo.append(producer)
    return found
