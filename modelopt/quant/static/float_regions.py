"""Parts of a graph that stay in float whatever their ranges are: x · f(x), and what a logarithm reads.

GELU and hardswish in parts (x · Clip(x + 3) / 6) are of the form x · f(x). They consist of many cheap nodes: Q/DQ
between these costs more than integers save. Two forms are different, because the runtime would need a DequantizeLinear
of the whole of x for each of its readers:

- SiLU, x · Sigmoid(x), and hardswish, x · HardSigmoid(x), compute in int8 behind a convolution. There x is int8
  already, and both nodes have integer kernels. Behind Gemm and MatMul, which may write float, they stay in float.
- Squeeze-and-excite (Hu et al. 2018) reduces x before it computes the gate. The pool and the product, which read the
  whole of x, compute in int8. What is between them reads one pixel, and stays in float for its accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from modelopt import graph
from modelopt.graph.operators import LINEAR
from modelopt.quant.static import integer_operators

_REDUCING = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})
_POOLS = _REDUCING | {"AveragePool"}
_GATES = frozenset({"HardSigmoid", "Sigmoid"})
_MOST_NODES = 24  # of f(x): more are a branch of the network, not an activation function (a choice, not fitted)
_MAGNITUDE_STEPS = LINEAR | {
    *("Abs", "Add", "Cast", "Concat", "Div", "Flatten", "Gather", "Max", "Mul", "Neg", "Pad", "Pow", "ReduceL2"),
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "Reshape", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum"),
    *("Transpose", "Unsqueeze"),
}


@dataclass
class GateRegions:
    """What of the x · f(x) of a model computes in float.

    Attributes:
        floats: The nodes that stay in float.
        reduced: The gates of squeeze-and-excite: much smaller than what they are multiplied with, so that quantizing
            one for an int8 product pays.
        pools: The nodes that reduce x in squeeze-and-excite: in int8 even where a node in float reads the result.
    """

    floats: set[ir.Node] = field(default_factory=set)
    reduced: set[ir.Value] = field(default_factory=set)
    pools: set[ir.Node] = field(default_factory=set)


def gates(model: ir.Model, *, integers: bool) -> GateRegions:
    """The x · f(x) of all scopes.

    Args:
        model: The model.
        integers: The runtime has integer kernels for Sigmoid, pools and products. TensorRT has not: it fuses SiLU in
            float to the convolution. Then all of each stays in float.
    """
    found = GateRegions()
    for node in graph.all_nodes(model):
        if not graph.is_standard(node, "Mul") or len(node.inputs) != 2:
            continue
        left, right = node.inputs
        if left is None or right is None:
            continue
        for source, gate in ((left, right), (right, left)):
            region = _region(source, gate)
            if not region or (integers and _is_integer_activation(source, region)):
                continue
            pools = {use.node for use in source.uses() if use.node in region}
            if integers and all(graph.is_standard(pool, *_REDUCING) for pool in pools):
                found.floats |= region - pools
                found.reduced.add(gate)
                found.pools |= pools
            else:
                found.floats |= region | {node}
    return found


def _is_integer_activation(source: ir.Value, region: set[ir.Node]) -> bool:
    """Whether f(x) is one node with an integer kernel, and `source` is the result of convolutions."""
    return len(region) == 1 and {node.op_type for node in region} <= _GATES and behind_convolutions(source)


def behind_convolutions(value: ir.Value) -> bool:
    """Whether all that makes `value` is convolutions, and behind them operators that onnxruntime computes on integers.

    The result of a convolution in int8 is int8, so that int8 behind it adds the rounding of each further step only.
    """
    passed: set[ir.Node] = set()
    todo = [value]
    while todo:
        maker = todo.pop().producer()
        if maker is None or len(passed) >= _MOST_NODES:
            return False
        if graph.is_standard(maker, "Conv") or maker in passed:
            continue
        if not integer_operators.is_known(maker) or integer_operators.is_float(maker):
            return False
        passed.add(maker)
        todo.extend(integer_operators.activations(maker))
    return True


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
