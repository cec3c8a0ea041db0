"""Shapes behind onnxruntime's own operators, of which ONNX's shape inference knows nothing and after which it stops."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import Dim

_OPERANDS_AND_RESULT = 3

Shape = tuple[Dim, ...]
Known = Callable[[ir.Value | None], Shape | None]
"""The shape of a value, None where it is not known."""

_AS_FIRST = frozenset(
    (
        *("Abs", "Cast", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
        *("Neg", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh", "Softmax", "LogSoftmax", "Reciprocal", "QuickGelu"),
        *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "LRN"),
        *("RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "RotaryEmbedding"),
        *("SkipSimplifiedLayerNormalization", "Dropout", "Mish", "Swish"),
    )
)
_BROADCASTING = frozenset(
    ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "PRelu", "Where", "BiasGelu", "FastGelu")
)


def learned(node: ir.Node, known: Known) -> list[Shape | None]:
    """The shapes of a node's outputs from those of its inputs, None for those that are not known."""
    first = known(node.inputs[0]) if node.inputs else None
    if first is None:
        return []
    if node.op_type in _AS_FIRST:
        return [first]
    if node.op_type in _BROADCASTING:
        return [_broadcast([known(value) for value in node.inputs])]
    rule = _RULES.get(node.op_type)
    try:
        return [] if rule is None else rule(node, first, known)
    except (IndexError, TypeError, ValueError):  # an odd model; what is not known stays so
        return []


def _broadcast(shapes: Sequence[Shape | None]) -> Shape | None:
    full = [shape for shape in shapes if shape is not None]
    if len(full) != len(shapes):
        return None
    rank = max(map(len, full))
    padded = [(1,) * (rank - len(shape)) + shape for shape in full]
    return tuple(next((dim for dim in dims if dim != 1), 1) for dims in zip(*padded, strict=True))


def _matmul(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    second = known(node.inputs[1])
    if second is None or len(first) < 2 or len(second) < 2:
        return [None]
    rows = first[-1 if graph.attribute_int(node, "transA", 0) else -2]
    columns = second[-2 if graph.attribute_int(node, "transB", 0) else -1]
    batch = _broadcast([first[:-2], second[:-2]])
    return [None if batch is None else (*batch, rows, columns)]


def _transpose(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    perm = graph.attribute_ints(node, "perm") or tuple(reversed(range(len(first))))
    return [tuple(first[axis] for axis in perm)]


def _reshape(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    target = graph.constant_ints(node.inputs[1])
    if target is None:
        return [None]
    sizes: list[Dim] = [first[axis] if size == 0 else size for axis, size in enumerate(target)]
    numbers = [size for size in first if isinstance(size, int)]
    if len(numbers) == len(first) and all(isinstance(size, int) for size in sizes):
        rest = math.prod(numbers) // max(1, math.prod(size for size in sizes if isinstance(size, int) and size > 0))
        return [tuple(rest if size == -1 else size for size in sizes)]
    return [tuple(None if size == -1 else size for size in sizes)]


def _axes(node: ir.Node, rank: int) -> list[int]:
    given = graph.attribute_ints(node, "axes")
    if given is None and len(node.inputs) > 1:
        given = graph.constant_ints(node.inputs[1])
    if given is None:
        raise ValueError("its axes are not known")
    return sorted(axis % rank for axis in given)


def _squeeze(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    gone = _axes(node, len(first))
    return [tuple(dim for axis, dim in enumerate(first) if axis not in gone)]


def _unsqueeze(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    given = graph.constant_ints(node.inputs[1]) if len(node.inputs) > 1 else graph.attribute_ints(node, "axes")
    made = list(first)
    for axis in sorted(axis % (len(first) + len(given or ())) for axis in given or ()):
        made.insert(axis, 1)
    return [tuple(made)]


def _reduced(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    over = _axes(node, len(first))
    if graph.attribute_int(node, "keepdims", 1):
        return [tuple(1 if axis in over else dim for axis, dim in enumerate(first))]
    return [tuple(dim for axis, dim in enumerate(first) if axis not in over)]


def _gather(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    indices = known(node.inputs[1])
    axis = graph.attribute_int(node, "axis", 0) % len(first)
    return [None if indices is None else (*first[:axis], *indices, *first[axis + 1 :])]


def _concat(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    axis = graph.attribute_int(node, "axis", 0) % len(first)
    shapes = [known(value) for value in node.inputs]
    sizes = [None if shape is None else shape[axis] for shape in shapes]
    numbers = [size for size in sizes if isinstance(size, int)]
    joined = sum(numbers) if len(numbers) == len(sizes) else None
    return [tuple(joined if each == axis else dim for each, dim in enumerate(first))]


def _split(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    axis = graph.attribute_int(node, "axis", 0) % len(first)
    sizes = graph.ints_of(node, 1, "split")
    if sizes is None or len(sizes) != len(node.outputs):
        return []
    return [(*first[:axis], size, *first[axis + 1 :]) for size in sizes]


def _slice(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    starts, ends = graph.ints_of(node, 1, "starts"), graph.ints_of(node, 2, "ends")
    axes, steps = graph.ints_of(node, 3, "axes"), graph.ints_of(node, 4, "steps")
    if starts is None or ends is None:
        return [None]
    made = list(first)
    for place, axis in enumerate(axes or range(len(starts))):
        size = made[axis]
        bounds = slice(starts[place], ends[place], steps[place] if steps else None)
        made[axis] = len(range(size)[bounds]) if isinstance(size, int) else None
    return [tuple(made)]


def _conv(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    """Sizes of images are left open."""
    weight = known(node.inputs[1])
    return [None if weight is None else (first[0], weight[0], *[None] * (len(first) - 2))]


def _pooled(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    return [(*first[:2], *[1 if node.op_type.startswith("Global") else None] * (len(first) - 2))]


def _packed_attention(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    if node.domain in graph.STANDARD_DOMAINS:
        return [None]
    weight, sizes = known(node.inputs[1]), graph.attribute_ints(node, "qkv_hidden_sizes")
    made = sizes[2] if sizes else weight[1] // 3 if weight is not None and isinstance(weight[1], int) else None
    return [(*first[:2], made)]


def _multi_head(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    value = known(node.inputs[2])
    return [None if value is None or len(value) != 3 else (*first[:2], value[2])]


def _einsum(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    """Of two operands without an ellipsis."""
    parts = re.split(r",|->", re.sub(r"\s", "", graph.attribute_string(node, "equation", "")))
    second = known(node.inputs[1])
    if second is None or len(parts) != _OPERANDS_AND_RESULT:
        return [None]
    sizes = dict([*zip(parts[0], first, strict=True), *zip(parts[1], second, strict=True)])
    return [tuple(sizes.get(letter) for letter in parts[2])]


def _recurrent(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    weight = known(node.inputs[2])
    if weight is None:
        return []
    state = (weight[0], first[1], weight[2])
    return [(first[0], weight[0], first[1], weight[2]), state, state]


_RULES: Mapping[str, Callable[[ir.Node, Shape, Known], list[Shape | None]]] = {
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "Gemm": _matmul,
    "FusedGemm": _matmul,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ReduceMean": _reduced,
    "ReduceSum": _reduced,
    "Gather": _gather,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Conv": _conv,
    "FusedConv": _conv,
    "MaxPool": _pooled,
    "AveragePool": _pooled,
    "GlobalAveragePool": _pooled,
    "Attention": _packed_attention,
    "MultiHeadAttention": _multi_head,
    "Einsum": _einsum,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "RNN": _recurrent,
}
