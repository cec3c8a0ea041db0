"""Finds Q, K and V as thirds of x · W + b with constants, and joins the weights of three into one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.patterns.attention import Heads
from modelopt.patterns.slice import read_slice


@dataclass(frozen=True)
class Projection:
    """Q, K and V as ``x · W + b``: one packed weight for all three, or one weight for each.

    Attributes:
        x: The input, of three axes.
        weights: One of shape (inputs, 3 · outputs), or three of shape (inputs, outputs).
        biases: One for each weight, None where it has none.
        nodes: The products and additions.
    """

    x: ir.Value
    weights: tuple[ir.Value, ...]
    biases: tuple[ir.Value | None, ...]
    nodes: tuple[ir.Node, ...]


def find(parts: tuple[Heads, ...], opset: int) -> Projection | None:
    """What all three are thirds of: one packed product (in the order Q, K, V), or three of one input."""
    cut = _cut(parts, opset)
    if cut is not None:
        return cut
    found = [_product(one.source) for one in parts]
    packed = [one.part for one in parts]
    if packed == [0, 1, 2] and len({one.source for one in parts}) == 1 and found[0] is not None:
        x, weight, bias, nodes = found[0]
        return Projection(x, (weight,), (bias,), nodes)
    if packed != [None, None, None] or len({one.source for one in parts}) != 3:
        return None
    projections = [one for one in found if one is not None]
    if len(projections) != 3 or len({one[0] for one in projections}) != 1:
        return None
    nodes = tuple(node for one in projections for node in one[3])
    return Projection(
        projections[0][0], tuple(one[1] for one in projections), tuple(one[2] for one in projections), nodes
    )


def _cut(parts: tuple[Heads, ...], opset: int) -> Projection | None:
    """The product that one Split, or three Slices, of the last axis cut in Q, K, V."""
    cutters = [one.source.producer() for one in parts]
    first, width = cutters[0], parts[0].heads * parts[0].size
    if first is None or not first.inputs or first.inputs[0] is None or any(one.part is not None for one in parts):
        return None
    packed = first.inputs[0]
    found = _product(packed)
    if found is None or found[1].shape is None or found[1].shape[1] != 3 * width:
        return None
    for index, node in enumerate(cutters):
        if node is None or node.inputs[0] is not packed or not _cuts(node, parts[index].source, index, width, opset):
            return None
    nodes = tuple(dict.fromkeys(node for node in cutters if node is not None))
    return Projection(found[0], (found[1],), (found[2],), (*nodes, *found[3]))


def _cuts(node: ir.Node, output: ir.Value, index: int, width: int, opset: int) -> bool:
    """Whether `output` is third number `index` (from 0) of the last of three axes; `width` is the size of a third."""
    if graph.is_standard(node, "Split"):
        is_last = graph.attribute_int(node, "axis", 0) in {-1, 2}
        return is_last and len(node.outputs) == 3 and node.outputs[index] is output
    cuts = read_slice(node, opset) if graph.is_standard(node, "Slice") else ()
    if isinstance(cuts, Mismatch) or len(cuts) != 1:
        return False
    cut = cuts[0]
    ends = cut.end == (index + 1) * width or (index == 2 and cut.end > 2 * width)
    return cut.axis in {-1, 2} and cut.step == 1 and cut.start == index * width and ends


def _product(value: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value | None, tuple[ir.Node, ...]] | None:
    """``x``, ``W``, ``b`` or None, and the nodes, when `value` is ``x · W + b`` with constants."""
    add = match.producer(value, "Add")
    operands = None if add is None else match.split_constant(add)
    product = match.producer(value if operands is None else operands[0], "MatMul")
    if product is None or graph.rank(product.inputs[0]) != 3:
        return None
    x, weight = product.inputs
    matrix = graph.constant_tensor(weight)
    if x is None or weight is None or matrix is None or len(matrix.shape) != 2:
        return None
    if add is None or operands is None:
        return x, weight, None, (product,)
    bias = graph.constant_tensor(operands[1])
    if bias is None or tuple(bias.shape.numpy()) != (matrix.shape.numpy()[1],):
        return None
    return x, weight, operands[1], (add, product)


def joined(names: graph.NameSource, last: ir.Node, projection: Projection) -> tuple[ir.Value, ir.Value]:
    """The weight of shape (inputs, 3 · outputs) and the bias of shape (3 · outputs,)."""
    weights, biases = projection.weights, projection.biases
    if len(weights) == 1 and biases[0] is not None:
        return weights[0], biases[0]
    matrices = [graph.constant(value) for value in weights]
    arrays = [np.asarray(matrix) for matrix in matrices]
    offsets = [
        np.zeros(array.shape[1], array.dtype) if bias is None else np.asarray(graph.constant(bias))
        for array, bias in zip(arrays, biases, strict=True)
    ]
    stem = last.outputs[0].name
    like = weights[0]
    weight = like if len(weights) == 1 else None
    if weight is None:
        weight = graph.constant_beside(like, last, names(f"{stem}_qkv_weight"), np.concatenate(arrays, axis=1))
    return weight, graph.constant_beside(like, last, names(f"{stem}_qkv_bias"), np.concatenate(offsets))
