"""Finds multi-head attention: softmax(scale · Q · Kᵀ + mask) · V, with heads split off and joined again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.patterns.rewriter import number

_TO_HEADS, _TRANSPOSED = (0, 2, 1, 3), (0, 2, 3, 1)
_LOWEST_THAT_ABSORBS = -1e30  # float32 numbers there are 7e22 apart; of float16 only -inf is as low


@dataclass(frozen=True)
class Heads:
    """One of Q, K, V with its heads split off.

    Attributes:
        source: What is split, of shape (batch, length, packed · heads · size).
        part: Which third of `source` it is where all three are packed there, else None.
        heads: The number of heads.
        size: The size of one head.
        scale: The number that it is multiplied by.
        nodes: The nodes between `source` and the product that uses it, the last one first.
    """

    source: ir.Value
    part: int | None
    heads: int
    size: int
    scale: float
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True)
class Attention:
    """Attention in parts.

    Attributes:
        last: The Reshape that joins the heads.
        inner: The other nodes.
        query: Q.
        key: K.
        value: V.
        scale: The product of all numbers that the scores are multiplied by.
        mask: A tensor that is added to them, or a condition that says where they are replaced, or None.
        fill: The number that replaces them and where it does so, or None where the mask is added.
    """

    last: ir.Node
    inner: tuple[ir.Node, ...]
    query: Heads
    key: Heads
    value: Heads
    scale: float
    mask: ir.Value | None
    fill: Fill | None = None


@dataclass(frozen=True)
class Fill:
    """``Where(mask, scores, number)`` or ``Where(mask, number, scores)``.

    Attributes:
        number: -inf, or so low that adding a score to it gives the number itself.
        where: The truth value that puts it there.
    """

    number: float
    where: bool


@dataclass
class _Scores:
    product: ir.Node
    scale: float = 1.0
    mask: ir.Value | None = None
    nodes: list[ir.Node] = field(default_factory=list)
    fill: Fill | None = None


def find(last: ir.Node, opset: int) -> Attention | Mismatch:
    """The attention that `last` ends."""
    joined = match.producer(last.inputs[0], "Transpose") if graph.is_standard(last, "Reshape") else None
    context = None if joined is None else match.producer(joined.inputs[0], "MatMul")
    softmax = None if context is None else match.producer(context.inputs[0], "Softmax")
    if joined is None or context is None or softmax is None or _perm(joined) != _TO_HEADS:
        return match.NOT_HERE
    if graph.attribute_int(softmax, "axis", -1 if opset >= 13 else 1) not in {-1, 3}:
        return Mismatch("its softmax is not over the last axis")
    scores = _scores(softmax.inputs[0])
    if scores is None:
        return Mismatch("its scores are not a scaled product and a mask")
    query = _heads(scores.product.inputs[0], _TO_HEADS)
    key = _heads(scores.product.inputs[1], _TRANSPOSED)
    value = _heads(context.inputs[1], _TO_HEADS)
    if query is None or key is None or value is None or value.scale != 1:
        return Mismatch("its heads are not split by Reshape and Transpose")
    if len({(one.heads, one.size) for one in (query, key, value)}) != 1:
        return Mismatch("its queries, keys and values have heads of different sizes")
    width = query.heads * query.size
    if _kept(last.inputs[1], joined.outputs[0], width, 1) is None:
        return Mismatch("its heads are not joined by a Reshape that is known to keep batch and length")
    inner = (joined, context, softmax, *scores.nodes, scores.product, *query.nodes, *key.nodes, *value.nodes)
    scale = scores.scale * query.scale * key.scale
    return Attention(last, tuple(dict.fromkeys(inner)), query, key, value, scale, scores.mask, scores.fill)


def _scores(value: ir.Value | None) -> _Scores | None:
    """Scale and mask around the product of queries and keys: the mask is added or chosen by last."""
    where = match.producer(value, "Where")
    if where is not None:
        return _filled(where)
    nodes: list[ir.Node] = []
    mask = None
    add = match.producer(value, "Add")
    if add is not None:
        found = [_scaled(operand) for operand in add.inputs]
        if (found[0] is None) == (found[1] is None):
            return None
        mask = add.inputs[1 if found[1] is None else 0]
        nodes.append(add)
        scaled = found[0] or found[1]
    else:
        scaled = _scaled(value)
    if scaled is None:
        return None
    product, scale, between = scaled
    return _Scores(product, scale, mask, [*nodes, *between])


def _filled(where: ir.Node) -> _Scores | None:
    """Scores that Where replaces by a number so low that adding it to a score gives that number."""
    for score, other in ((1, 2), (2, 1)):
        fill, scaled = number(where.inputs[other]), _scaled(where.inputs[score])
        if fill is not None and fill <= _LOWEST_THAT_ABSORBS and scaled is not None:
            product, scale, between = scaled
            return _Scores(product, scale, where.inputs[0], [where, *between], Fill(fill, where=other == 1))
    return None


def _scaled(value: ir.Value | None) -> tuple[ir.Node, float, list[ir.Node]] | None:
    """The product behind `value`, the number it is multiplied by, and the nodes that do."""
    scale, inner, nodes = _unscaled(value)
    product = match.producer(inner, "MatMul")
    return None if product is None else (product, scale, nodes)


def _unscaled(value: ir.Value | None) -> tuple[float, ir.Value | None, list[ir.Node]]:
    scale = 1.0
    nodes: list[ir.Node] = []
    while True:
        node = match.producer(value, "Mul") or match.producer(value, "Div")
        operands = None if node is None else match.split_constant(node)
        factor = None if operands is None else number(operands[1])
        if node is None or operands is None or not factor:
            return scale, value, nodes
        if node.op_type == "Div" and node.inputs[0] is not operands[0]:
            return scale, value, nodes
        scale = scale * factor if node.op_type == "Mul" else scale / factor
        value = operands[0]
        nodes.append(node)


def _heads(value: ir.Value | None, expected: tuple[int, ...]) -> Heads | None:
    """How `value` is split off: Reshape to (batch, length, heads, size) and Transpose, or a third of a packed one."""
    scale, inner, nodes = _unscaled(value)
    perm: tuple[int, ...] = (0, 1, 2, 3)
    while (transpose := match.producer(inner, "Transpose")) is not None and len(_perm(transpose) or ()) == 4:
        outer = _perm(transpose) or ()
        perm = tuple(outer[axis] for axis in perm)
        nodes.append(transpose)
        factor, inner, more = _unscaled(transpose.inputs[0])
        scale *= factor
        nodes += more
    reshape = match.producer(inner, "Reshape")
    if reshape is None or reshape.inputs[0] is None:
        return _packed(inner, perm, expected, scale, nodes)
    sizes = _kept(reshape.inputs[1], reshape.inputs[0], _width(reshape.inputs[0]), 2)
    if sizes is None or perm != expected:
        return None
    return Heads(reshape.inputs[0], None, sizes[0], sizes[1], scale, (*nodes, reshape))


def _packed(
    value: ir.Value | None, perm: tuple[int, ...], expected: tuple[int, ...], scale: float, nodes: list[ir.Node]
) -> Heads | None:
    """A third of (3, batch, heads, length, size), cut off by Gather, or by Slice and Squeeze."""
    cut = match.producer(value, "Gather")
    if cut is not None and graph.attribute_int(cut, "axis", 0) == 0 and graph.rank(cut.inputs[1]) == 0:
        part, between = graph.scalar(cut.inputs[1]), [cut]
    else:
        squeeze = match.producer(value, "Squeeze")
        cut = None if squeeze is None else match.producer(squeeze.inputs[0], "Slice")
        if (
            squeeze is None
            or cut is None
            or graph.ints_of(squeeze, 1, "axes") != (0,)
            or graph.ints_of(cut, 3, "axes") != (0,)
        ):
            return None
        starts, ends = graph.ints_of(cut, 1, "starts"), graph.ints_of(cut, 2, "ends")
        part, between = (starts[0] if starts and ends == (starts[0] + 1,) else None), [squeeze, cut]
    split = match.producer(cut.inputs[0], "Transpose")
    reshape = None if split is None else match.producer(split.inputs[0], "Reshape")
    if split is None or reshape is None or _perm(split) != (2, 0, 3, 1, 4) or reshape.inputs[0] is None:
        return None
    sizes = _kept(reshape.inputs[1], reshape.inputs[0], _width(reshape.inputs[0]), 3)
    # The value has the axes (batch, heads, length, size): what `expected` is of (batch, length, heads, size).
    wanted = tuple(_TO_HEADS.index(axis) for axis in expected)
    if sizes is None or sizes[0] != 3 or part not in {0, 1, 2} or perm != wanted:
        return None
    return Heads(reshape.inputs[0], int(part), sizes[1], sizes[2], scale, (*nodes, *between, split, reshape))


def _perm(node: ir.Node) -> tuple[int, ...] | None:
    return graph.attribute_ints(node, "perm")


def _width(source: ir.Value) -> int | None:
    """The size of the last axis: the declared one, else the number of columns of the constant weight that makes it."""
    dim = source.shape[-1] if source.shape else None
    if isinstance(dim, int):
        return dim
    add = match.producer(source, "Add")
    operands = None if add is None else match.split_constant(add)
    product = match.producer(source if operands is None else operands[0], "MatMul")
    weight = None if product is None else graph.constant_tensor(product.inputs[1])
    return None if weight is None or len(weight.shape) != 2 else int(weight.shape.numpy()[1])


def _kept(target: ir.Value | None, source: ir.Value, width: int | None, trailing: int) -> tuple[int, ...] | None:
    """The last `trailing` sizes of a Reshape to (batch, length, *sizes), where it keeps batch and length.

    The sizes multiply to `width`, the product of the further axes of `source`, so that it is enough to know that one
    of the two is kept.
    """
    items = _items(target, trailing + 2)
    if items is None or width is None:
        return None
    sizes = tuple(size for size in items[2:] if isinstance(size, int) and (size > 0 or (trailing == 1 and size == -1)))
    if len(sizes) != trailing or (sizes != (-1,) and math.prod(sizes) != width):
        return None
    kept = [_is_dim(items[axis], source, axis) for axis in (0, 1)]
    return sizes if any(kept) and (sizes != (-1,) or all(kept)) else None


def _is_dim(item: int | None, source: ir.Value, axis: int) -> bool:
    if item == 0:
        return True
    dim = source.shape[axis] if source.shape is not None and axis < len(source.shape) else None
    return item is not None and isinstance(dim, int) and item == dim


def _items(target: ir.Value | None, count: int) -> list[int | None] | None:
    """The sizes in a Reshape's target, where it is known to hold `count`; one may be unknown, and is None then.

    Sizes that are computed from the tensor's own shape are for simplify-reshape, which runs first.
    """
    sizes = graph.constant_ints(target)
    if sizes is not None:
        return list(sizes) if len(sizes) == count else None
    concat = match.producer(target, "Concat")
    parts = [] if concat is None else [graph.constant_ints(value) for value in concat.inputs]
    items: list[int | None] = []
    for part in parts:
        items += [None] if part is None else part
    return items if len(items) == count and items.count(None) == 1 else None
