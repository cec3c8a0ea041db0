"""Shapes behind onnxruntime's own operators, of which ONNX's shape inference knows nothing and after which it stops."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import Dim

_OPERANDS_AND_RESULT = 3
_MOST_AXES = 64
_WITH_STEPS = 4
_PICKING = frozenset({"Gather", "Slice", "Unsqueeze", "Squeeze", "Cast", "Identity"})

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
    except (ArithmeticError, IndexError, TypeError, ValueError):  # an odd model; what is not known stays so
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


def _reshape(node: ir.Node, first: Shape, known: Known) -> list[Shape | None]:
    target = _numbers(node.inputs[1], known)
    if target is None:
        return [None]
    copies = not graph.attribute_int(node, "allowzero", 0)
    sizes = [first[axis] if size == 0 and copies else size for axis, size in enumerate(target)]
    if -1 in sizes:
        before, after = Counter(first), Counter(size for size in sizes if size != -1)
        named = [size for size in (before - after) + (after - before) if not isinstance(size, int)]
        factors = [math.prod(size for size in side if isinstance(size, int)) for side in (first, sizes)]
        total, written = factors[0], abs(factors[1])
        rest = total // written if not named and written and total % written == 0 else None
        sizes = [rest if size == -1 else size for size in sizes]
    return [tuple(sizes)]


def _numbers(value: ir.Value | None, known: Known) -> list[Dim] | None:
    """The integers of a vector that is made of constants and of sizes that Shape reads; None for each that is not."""
    numbers = _followed(value, known)
    shape = known(value)
    if numbers is None and shape is not None and len(shape) == 1 and isinstance(shape[0], int):
        return [None] * min(shape[0], _MOST_AXES)
    return numbers


def _followed(value: ir.Value | None, known: Known) -> list[Dim] | None:
    written = graph.constant_ints(value)
    if written is not None:
        return list(written)
    node = None if value is None else value.producer()
    if node is None or node.domain not in graph.STANDARD_DOMAINS:
        return None
    if node.op_type == "Shape":
        shape = known(node.inputs[0])
        first, last = graph.attribute_int(node, "start", 0), graph.attribute_int(node, "end", _MOST_AXES)
        return None if shape is None else list(shape[first:last])
    if node.op_type == "Concat":
        parts = [_numbers(part, known) for part in node.inputs]
        return None if None in parts else [size for part in parts if part is not None for size in part]
    numbers = _numbers(node.inputs[0], known) if node.op_type in _PICKING else None
    if numbers is None or node.op_type not in {"Gather", "Slice"}:
        return numbers
    if node.op_type == "Gather":
        places = graph.constant_ints(node.inputs[1])
        return None if places is None else [numbers[place] for place in places]
    starts, ends = graph.ints_of(node, 1, "starts"), graph.ints_of(node, 2, "ends")
    return None if starts is None or ends is None or len(node.inputs) > _WITH_STEPS else numbers[starts[0] : ends[0]]


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
    weight = known(node.inputs[1])
    return [None if weight is None else (first[0], weight[0], *_windows(node, first[2:], weight[2:]))]


def _pooled(node: ir.Node, first: Shape, _: Known) -> list[Shape | None]:
    if node.op_type.startswith("Global"):
        return [(*first[:2], *[1] * (len(first) - 2))]
    return [(*first[:2], *_windows(node, first[2:], graph.attribute_ints(node, "kernel_shape") or ()))]


def _windows(node: ir.Node, sizes: Shape, kernel: Sequence[Dim]) -> Shape:
    """How many windows there are along each axis; open where padding is not written."""
    rank = len(sizes)
    if graph.attribute_string(node, "auto_pad", "NOTSET") != "NOTSET" or graph.attribute_int(node, "ceil_mode", 0):
        return (None,) * rank
    pads = graph.attribute_ints(node, "pads") or (0,) * 2 * rank
    strides, dilations = (graph.attribute_ints(node, name) or (1,) * rank for name in ("strides", "dilations"))
    made: list[Dim] = []
    for axis, (size, width) in enumerate(zip(sizes, kernel, strict=True)):
        if isinstance(size, int) and isinstance(width, int):
            room = size + pads[axis] + pads[rank + axis] - dilations[axis] * (width - 1) - 1
            made.append(room // strides[axis] + 1)
        else:
            made.append(None)
    return tuple(made)


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
