"""Fuse multi-head attention into onnxruntime's Attention or MultiHeadAttention."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph, match
from modelopt.match import Mismatch
from modelopt.passes import _attention
from modelopt.passes._rewrite import CONTRIB, Rewrite, collapse, rewrite_nodes, why_not_private
from modelopt.passes.base import Changes, Context, Effect, Pass

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


class FuseAttention(Pass):
    """Fuse multi-head attention into Attention or MultiHeadAttention (onnxruntime only).

    ``softmax(scale · Q · Kᵀ + mask) · V`` for each head (Vaswani et al. 2017), with the Reshapes and Transposes that
    split and join the heads, in onnxruntime's ContribOperators.md:

    - where Q, K, V are ``x · W + b`` of one ``x``: Attention(x, [Wq Wk Wv], [bq bk bv]), one product for all three.
      One that the exporter packed (Reshape to five axes and three slices) keeps its weight as it is;
    - else: MultiHeadAttention(Q, K, V).

    The mask is any that is added: it stays a tensor, so -10000 and -3.4e38 mean what they meant. The operators do not
    repeat it over the queries, so a mask of shape (batch, 1, 1, length) is expanded, once for all layers.
    """

    name: ClassVar[str] = "fuse-attention"
    effect: ClassVar[Effect] = Effect.EXACT
    contrib: ClassVar[bool] = True

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Fuse every attention whose inner values nothing else uses."""
        return rewrite_nodes(model, partial(_rule, _Made(graph.NameSource(model))))


@dataclass
class _Made:
    names: graph.NameSource
    masks: dict[ir.Value, ir.Value] = field(default_factory=dict)


@dataclass(frozen=True)
class _Projection:
    """Three thirds of ``x · W + b``: one weight that holds all, or one for each."""

    x: ir.Value
    weights: tuple[ir.Value, ...]
    biases: tuple[ir.Value | None, ...]
    nodes: tuple[ir.Node, ...]


def _rule(made: _Made, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    found = _attention.find(node)
    if isinstance(found, Mismatch):
        return found
    parts = (found.query, found.key, found.value)
    projection = _projection(parts)
    if projection is None and any(one.part is not None for one in parts):
        return Mismatch("its queries, keys and values are not thirds of one product by a constant")
    inner = found.inner if projection is None else (*found.inner, *projection.nodes)
    if reason := _why_not(found, inner, opset):
        return Mismatch(reason)
    return partial(_rewrite, made, found, projection, inner)


def _why_not(found: _attention.Attention, inner: tuple[ir.Node, ...], opset: int) -> str | None:
    if reason := why_not_private(found.last, inner):
        return reason
    if opset < 11 or found.query.source.dtype not in _FLOATS:
        return "onnxruntime has the operator for float32 and float16 from opset 11 on"
    if any(graph.rank(one.source) != 3 for one in (found.query, found.key, found.value)):
        return "its queries, keys and values are not known to have three axes"
    if found.mask is not None and (found.mask.shape is None or len(found.mask.shape) != 4):
        return "its mask is not known to have four axes"
    if found.mask is None or found.mask.shape is None or found.key.source.shape is None:
        return None
    batch, heads, _, length = found.mask.shape
    if heads not in {1, found.query.heads}:
        return "its mask is not one for all heads, nor one for each"
    if length == 1 or _differ(length, found.key.source.shape[1]):
        return "its mask does not have a number for each key"
    if batch != 1 and _differ(batch, found.key.source.shape[0]):
        return "its mask has another batch size"
    return None


def _differ(left: int | ir.SymbolicDim, right: int | ir.SymbolicDim) -> bool:
    return isinstance(left, int) and isinstance(right, int) and left != right


def _projection(parts: tuple[_attention.Heads, ...]) -> _Projection | None:
    """What all three are thirds of: one packed product (in the order Q, K, V), or three of one input."""
    found = [_product(one.source) for one in parts]
    packed = [one.part for one in parts]
    if packed == [0, 1, 2] and len({one.source for one in parts}) == 1 and found[0] is not None:
        x, weight, bias, nodes = found[0]
        return _Projection(x, (weight,), (bias,), nodes)
    if packed != [None, None, None] or len({one.source for one in parts}) != 3:
        return None
    projections = [one for one in found if one is not None]
    if len(projections) != 3 or len({one[0] for one in projections}) != 1:
        return None
    nodes = tuple(node for one in projections for node in one[3])
    return _Projection(
        projections[0][0], tuple(one[1] for one in projections), tuple(one[2] for one in projections), nodes
    )


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


def _rewrite(
    made: _Made, found: _attention.Attention, projection: _Projection | None, inner: tuple[ir.Node, ...]
) -> None:
    mask = None if found.mask is None else _expanded(made, found.last, found.mask)
    attributes = [ir.AttrInt64("num_heads", found.query.heads), ir.AttrFloat32("scale", found.scale)]
    if projection is None:
        inputs = [one.source for one in (found.query, found.key, found.value)]
        rest = [None, None, mask] if mask is not None else []
        collapse(found.last, inner, "MultiHeadAttention", [*inputs, *rest], attributes, domain=CONTRIB)
        return
    weight, bias = _joined(made.names, found.last, projection)
    rest = [None, None, mask] if mask is not None else []
    collapse(found.last, inner, "Attention", [projection.x, weight, bias, *rest], attributes, domain=CONTRIB)


def _joined(names: graph.NameSource, last: ir.Node, projection: _Projection) -> tuple[ir.Value, ir.Value]:
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


def _expanded(made: _Made, last: ir.Node, mask: ir.Value) -> ir.Value:
    """The mask with a row for each query: as it is where it has them, else expanded, once for all who use it."""
    shape = mask.shape
    if shape is not None and shape[2] != 1 and shape[2] == shape[3]:
        return mask
    if mask not in made.masks or made.masks[mask].graph is not last.graph:
        made.masks[mask] = _expand(made.names, last, mask)
    return made.masks[mask]


def _expand(names: graph.NameSource, last: ir.Node, mask: ir.Value) -> ir.Value:
    """``Expand(mask, (1, 1, length, 1))``, before `last`, the first of its users."""
    numbers = {"ones": np.ones(2, np.int64), "three": np.array([3], np.int64), "one": np.ones(1, np.int64)}
    stem = f"{mask.name}_rows"
    values: dict[str, ir.Value] = {}
    nodes = []
    for name, array in numbers.items():
        values[name] = ir.Value(name=names(f"{stem}_{name}"))
        tensor = {"value": ir.tensor(array)}
        nodes.append(ir.node("Constant", [], tensor, outputs=[values[name]], name=values[name].name))

    def made(op_type: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
        output = ir.Value(name=names(f"{stem}_{op_type.lower()}"))
        nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=output.name))
        return output

    sizes = made("Shape", [mask])
    length = made("Gather", [sizes, values["three"]], axis=0)
    target = made("Concat", [values["ones"], length, values["one"]], axis=0)
    expanded = made("Expand", [mask, target])
    expanded.type = mask.type
    expanded.shape = ir.Shape([mask.shape[0], mask.shape[1], mask.shape[3], mask.shape[3]]) if mask.shape else None
    if last.graph is None:
        raise ValueError(f"{last!r} belongs to no graph")
    last.graph.insert_before(last, nodes)
    return expanded
