"""The shape that a node gives, from the shapes of its inputs and the numbers in small ones: nothing is allocated.

Only operators whose output may be larger than their inputs, and those that stand between them, have a rule here.
https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.call import NotEvaluable
from modelopt.consteval.known_inputs import KnownInputs
from modelopt.consteval.run_windows import conv, conv_transpose, pool
from modelopt.consteval.sizes import Shape, broadcast


def shape_of(known: KnownInputs) -> Shape | None:
    """The shape of the first output; None where it is not known."""
    rule = RULES.get(known.node.op_type)
    if rule is None or known.node.domain not in graph.STANDARD_DOMAINS:
        return None
    try:
        shape = rule(known)
    except (NotEvaluable, IndexError, ValueError, TypeError, OverflowError, ZeroDivisionError):
        return None
    return None if any(dim < 0 for dim in shape) else tuple(int(dim) for dim in shape)


def _first(known: KnownInputs) -> Shape:
    return known.shape(0)


def _broadcast(known: KnownInputs) -> Shape:
    """Of the inputs that are known: others can only make it larger."""
    return broadcast(*(shape for shape in known.shapes if shape is not None))


def _concat(known: KnownInputs) -> Shape:
    shapes = [shape for shape in known.shapes if shape is not None]
    axis = known.int("axis", 1)
    made = list(shapes[0])
    made[axis] = sum(shape[axis] for shape in shapes)
    return tuple(made)


def _tile(known: KnownInputs) -> Shape:
    return tuple(dim * times for dim, times in zip(known.shape(0), known.known_ints(1), strict=True))


def _expand(known: KnownInputs) -> Shape:
    target = tuple(known.known_ints(1))
    return target if known.shapes[0] is None else broadcast(known.shape(0), target)


def _constant_of_shape(known: KnownInputs) -> Shape:
    return tuple(known.known_ints(0))


def _range(known: KnownInputs) -> Shape:
    start, limit, step = (numbers[0] if numbers else math.nan for numbers in map(known.floats, range(3)))
    return (max(math.ceil((limit - start) / step), 0),)


def _reshape(known: KnownInputs) -> Shape:
    target = known.known_ints(1, "shape")
    given = known.shapes[0]
    if 0 in target and not known.int("allowzero", 0):
        target = [dim or known.shape(0)[axis] for axis, dim in enumerate(target)]
    if -1 in target:
        total = math.prod(known.shape(0)) if given is not None else 0
        rest = math.prod(dim for dim in target if dim != -1)
        target = [total // rest if dim == -1 else dim for dim in target]
    return tuple(target)


def _pad(known: KnownInputs) -> Shape:
    shape = list(known.shape(0))
    pads = known.known_ints(1, "pads")
    axes = known.ints(3) or list(range(len(shape)))
    for place, axis in enumerate(axes):
        shape[axis] += pads[place] + pads[place + len(axes)]
    return tuple(shape)


def _one_hot(known: KnownInputs) -> Shape:
    indices, axis = list(known.shape(0)), known.int("axis", -1)
    indices.insert(axis if axis >= 0 else len(indices) + 1 + axis, known.known_ints(1)[0])
    return tuple(indices)


def _of_attribute(known: KnownInputs) -> Shape:
    return tuple(graph.attribute_ints(known.node, "shape") or ())


def _gather(known: KnownInputs) -> Shape:
    data, indices = known.shape(0), known.shape(1)
    axis = known.int("axis", 0) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _matmul(known: KnownInputs) -> Shape:
    left, right = known.shape(0), known.shape(1)
    outer = broadcast(left[:-2], right[:-2])
    return (*outer, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))


def _gemm(known: KnownInputs) -> Shape:
    rows = known.shape(0)[1 if known.int("transA", 0) else 0]
    return rows, known.shape(1)[0 if known.int("transB", 0) else 1]


def _einsum(known: KnownInputs) -> Shape:
    terms, arrow, result = graph.attribute_string(known.node, "equation", "").replace(" ", "").partition("->")
    if not arrow or "." in terms:
        raise NotEvaluable("its result is not written out")
    sizes: dict[str, int] = {}
    for letters, shape in zip(terms.split(","), known.shapes, strict=True):
        sizes.update(zip(letters, shape or (), strict=False))
    return tuple(sizes.get(letter, 1) for letter in result)


def _resize(known: KnownInputs) -> Shape:
    shape = known.shape(0)
    sizes = known.ints(3)
    scales = known.floats(2 if known.opset >= 11 else 1)
    axes = graph.attribute_ints(known.node, "axes") or tuple(range(len(shape)))
    made = list(shape)
    for place, axis in enumerate(axes):
        made[axis] = sizes[place] if sizes else math.floor(shape[axis] * (scales or [])[place])
    return tuple(made)


def _upsample(known: KnownInputs) -> Shape:
    attribute = known.node.attributes.get("scales")
    scales = known.floats(1) or (list(attribute.as_floats()) if attribute is not None else [])
    return tuple(math.floor(dim * scale) for dim, scale in zip(known.shape(0), scales, strict=True))


def _transpose(known: KnownInputs) -> Shape:
    shape = known.shape(0)
    order = graph.attribute_ints(known.node, "perm") or tuple(reversed(range(len(shape))))
    return tuple(shape[axis] for axis in order)


def _unsqueeze(known: KnownInputs) -> Shape:
    axes = known.known_ints(1, "axes")
    rank = len(known.shape(0)) + len(axes)
    shape = list(known.shape(0))
    for axis in sorted({axis % rank for axis in axes}):
        shape.insert(axis, 1)
    if len(shape) != rank:
        raise NotEvaluable("an axis is given twice")
    return tuple(shape)


def _squeeze(known: KnownInputs) -> Shape:
    shape = known.shape(0)
    axes = known.ints(1, "axes")
    gone = {axis % len(shape) for axis in axes} if axes else {axis for axis, dim in enumerate(shape) if dim == 1}
    return tuple(dim for axis, dim in enumerate(shape) if axis not in gone)


def _flatten(known: KnownInputs) -> Shape:
    shape, axis = known.shape(0), known.int("axis", 1)
    return math.prod(shape[:axis]), math.prod(shape[axis:])


def _global_pool(known: KnownInputs) -> Shape:
    return (*known.shape(0)[:2], *(1 for _ in known.shape(0)[2:]))


_SAME = (
    "Abs BatchNormalization Cast Ceil Clip CumSum Dropout Elu Erf Exp EyeLike Floor Gelu HardSigmoid HardSwish "
    "Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LRN Mish "
    "Neg Not RandomNormalLike RandomUniformLike Reciprocal Relu Round ScatterElements ScatterND Selu Sigmoid "
    "Sign Sin Cos Softmax Softplus Sqrt Tan Tanh ThresholdedRelu Trilu QuantizeLinear DequantizeLinear "
    "GroupNormalization"
)
_PAIRWISE = (
    "Add And BitShift Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow PRelu StringConcat "
    "Sub Sum Where Xor"
)

RULES: Mapping[str, Callable[[KnownInputs], Shape]] = {
    **dict.fromkeys(_SAME.split(), _first),
    **dict.fromkeys(_PAIRWISE.split(), _broadcast),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("RandomNormal", "RandomUniform"), _of_attribute),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _upsample,
}
"""By operator the shape of its first output; other operators take the shape that the model declares."""


def element_bytes(dtype: ir.DataType | None) -> int:
    """Bytes of an element; 1 at least for a string, and the most usual 4 where the type is not known."""
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return 4
    return 1 if dtype == ir.DataType.STRING else max(dtype.bitwidth // 8, 1)
