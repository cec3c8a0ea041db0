"""When an operator hands on its first input unchanged: one rule for each, for `eliminate-identity`.

A rule takes a node and the opset. https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from modelopt import graph
from modelopt.graph.operators import TO_THE_END


def _keeps_static_shape(node: ir.Node) -> bool:
    shape = graph.static_shape(graph.input_at(node, 0))
    return shape is not None and shape == graph.static_shape(node.outputs[0])


def _always(_node: ir.Node, _opset: int) -> bool:
    return True


def _dropout(node: ir.Node, opset: int) -> bool:
    """Before opset 7 an attribute, and since 12 the third input, may turn training on."""
    mode = graph.input_at(node, 2)
    return opset >= 7 and (mode is None or graph.scalar(mode) is False)


def _cast(node: ir.Node, _opset: int) -> bool:
    source = graph.input_at(node, 0)
    return source is not None and source.dtype is not None and source.dtype == graph.attribute_int(node, "to", 0)


def _cast_like(node: ir.Node, _opset: int) -> bool:
    source, like = graph.input_at(node, 0), graph.input_at(node, 1)
    return source is not None and like is not None and source.dtype is not None and source.dtype == like.dtype


def _transpose(node: ir.Node, _opset: int) -> bool:
    permutation, rank = graph.attribute_ints(node, "perm"), graph.rank(graph.input_at(node, 0))
    if permutation is None:  # reverses the axes
        return rank is not None and rank < 2
    return permutation == tuple(range(len(permutation)))


def _reshape(node: ir.Node, _opset: int) -> bool:
    if _keeps_static_shape(node):
        return True
    dims, wanted = graph.known_dims(graph.input_at(node, 0)), graph.constant_ints(graph.input_at(node, 1))
    if dims is None or wanted is None or len(dims) != len(wanted) or wanted.count(-1) > 1:
        return False
    copies = not graph.attribute_int(node, "allowzero", 0)
    # When every other dimension is kept, so is the one that -1 takes: it is what is left.
    return all(want == -1 or (want == 0 and copies) or want == dim for dim, want in zip(dims, wanted, strict=True))


def _flatten(node: ir.Node, _opset: int) -> bool:
    return graph.rank(graph.input_at(node, 0)) == 2 and graph.attribute_int(node, "axis", 1) in {1, -1}


def _slice(node: ir.Node, opset: int) -> bool:
    starts = graph.ints_by_opset(node, opset, "starts", 1, since=10)
    ends = graph.ints_by_opset(node, opset, "ends", 2, since=10)
    if starts is None or ends is None or any(starts) or not _steps_by_one(node, opset):
        return False
    if all(end >= TO_THE_END for end in ends):
        return True
    axes, dims = _slice_axes(node, opset, len(ends)), graph.known_dims(graph.input_at(node, 0))
    if (
        axes is None
        or dims is None
        or len(axes) != len(ends)
        or not all(-len(dims) <= axis < len(dims) for axis in axes)
    ):
        return False
    return all(_reaches(end, dims[axis]) for end, axis in zip(ends, axes, strict=True))


def _reaches(end: int, dim: int | None) -> bool:
    return end >= TO_THE_END if dim is None else end >= dim


def _steps_by_one(node: ir.Node, opset: int) -> bool:
    if opset < 10 or graph.input_at(node, 4) is None:
        return True
    steps = graph.constant_ints(graph.input_at(node, 4))
    return steps is not None and all(step == 1 for step in steps)


def _slice_axes(node: ir.Node, opset: int, count: int) -> tuple[int, ...] | None:
    given = "axes" in node.attributes if opset < 10 else graph.input_at(node, 3) is not None
    return graph.ints_by_opset(node, opset, "axes", 3, since=10) if given else tuple(range(count))


def _pad(node: ir.Node, opset: int) -> bool:
    pads = graph.ints_by_opset(node, opset, "pads", 1, since=11)
    return pads is not None and not any(pads)


def _expand(node: ir.Node, _opset: int) -> bool:
    if _keeps_static_shape(node):
        return True
    dims, wanted = graph.known_dims(graph.input_at(node, 0)), graph.constant_ints(graph.input_at(node, 1))
    if dims is None or wanted is None or len(wanted) > len(dims):
        return False
    kept = dims[len(dims) - len(wanted) :]
    return all(want in {1, dim} for dim, want in zip(kept, wanted, strict=True))


def _one_input(node: ir.Node, _opset: int) -> bool:
    return len(node.inputs) == 1


def _one_output(node: ir.Node, _opset: int) -> bool:
    return len(node.outputs) == 1


def _squeeze(node: ir.Node, opset: int) -> bool:
    """Without axes it removes every dimension of 1."""
    given = "axes" in node.attributes if opset < 13 else graph.input_at(node, 1) is not None
    shape = graph.static_shape(graph.input_at(node, 0))
    return not given and shape is not None and 1 not in shape


def _unsqueeze(node: ir.Node, opset: int) -> bool:
    return graph.ints_by_opset(node, opset, "axes", 1, since=13) == ()


_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_REDUCES = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"})
"""Reductions that return a single number unchanged."""


def same_in_another_shape(node: ir.Node) -> ir.Value | None:
    """The value further up that has the elements and the shape of the output of `node`; else None.

    Squeeze, Reshape and the like move no element, so a value before them that has the output's shape equals it.
    """
    wanted, value = graph.static_shape(node.outputs[0]), node.outputs[0]
    maker: ir.Node | None = node
    while wanted is not None and maker is not None and _only_reshapes(maker):
        source = maker.inputs[0]
        if source is None or source.graph is not value.graph:
            return None
        if graph.static_shape(source) == wanted:
            return source
        maker = source.producer()
    return None


def _only_reshapes(node: ir.Node) -> bool:
    """Whether a node changes the shape alone: a reduction does where all that it reduces has the size 1."""
    if node.domain not in graph.STANDARD_DOMAINS or not node.inputs or node.op_type not in _RESHAPES | _REDUCES:
        return False
    if node.op_type in _RESHAPES:
        return True
    before, after = graph.static_shape(node.inputs[0]), graph.static_shape(node.outputs[0])
    return before is not None and after is not None and 0 < math.prod(before) == math.prod(after)


HANDS_ON: dict[str, Callable[[ir.Node, int], bool]] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _one_input,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Identity": _always,
    "Max": _one_input,
    "Mean": _one_input,
    "Min": _one_input,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _one_output,
    "Squeeze": _squeeze,
    "Sum": _one_input,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
