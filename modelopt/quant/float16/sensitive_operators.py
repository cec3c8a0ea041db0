"""Operators and parts of a graph that half precision makes wrong, whatever their numbers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from modelopt import graph
from modelopt.quant.float16.operator_types import Elements, HalfType, any_input, outside_functions

MOVERS = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Gather"}
    | {"Expand", "Tile", "Cast"}
)
_ARITHMETIC = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Abs", "Floor", "Ceil", "Round", "Sqrt", "Pow", "Min", "Max", "Clip", "Mod"}
    | {"Reciprocal", "Sign", "Where", "Sum"}
)
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_TO_SOFTMAX = MOVERS | {"Add", "Sub", "Mul", "Where", "Max", "Min", "Sum"}
_SUMS_BEFORE_LOG = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin"}
    | {"Softmax", "Sigmoid", "Exp", "Relu"}
)
_SQUARES = frozenset({"ReduceSumSquare", "ReduceL1", "ReduceL2", "Softmax", "Sigmoid", "Exp", "Relu"})
_SOFTMAX = frozenset({"Softmax", "LogSoftmax", "Attention", "MultiHeadAttention", "BiasSoftmax", "GroupQueryAttention"})
_COUNTS = frozenset(
    {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT32, ir.DataType.UINT64}
    | {ir.DataType.INT16, ir.DataType.UINT16}
)

_TRAINING_MODE = 2
STATISTICS = "in training mode onnxruntime carries the statistics of half precision from run to run"
_CRASHES = "onnxruntime may crash when it loads a Transpose, a Cast and a MatMul in this order"
_PRODUCTS = frozenset({"MatMul", "FusedMatMul"})
_RANDOM = "other random numbers would come out of it"
_SUMS = "it sums over many elements with the precision of its type"
_ANGLE = "an error of its argument is an error of the angle"
SENSITIVE = {
    "CumSum": _SUMS,
    "CumProd": "it multiplies many elements with the precision of its type",
    "ReduceProd": "it multiplies many elements with the precision of its type",
    "MeanVarianceNormalization": _SUMS,
    "InstanceNormalization": _SUMS,
    "LpNormalization": _SUMS,
    "LpPool": _SUMS,
    "GlobalLpPool": _SUMS,
    "DFT": _SUMS,
    "STFT": _SUMS,
    "Det": _SUMS,
    "Range": "it counts, and half precision holds few whole numbers",
    "Mod": "the remainder of a rounded number is another one",
    "Sin": _ANGLE,
    "Cos": _ANGLE,
    "Tan": _ANGLE,
    "RoiAlign": "its boxes are coordinates, which need more bits",
    "NonMaxSuppression": "its boxes are coordinates, which need more bits",
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "Multinomial": _RANDOM,
    "Bernoulli": _RANDOM,
    "BitCast": "it reads the bits of float32",
    "EyeLike": "its type is an attribute",
    "MelWeightMatrix": "its type is an attribute",
    "HannWindow": "its type is an attribute",
    "HammingWindow": "its type is an attribute",
    "BlackmanWindow": "its type is an attribute",
}
"""Operators that stay in float32 in any case, with the reason."""

_OVERFLOWS = "it leaves the range of float16 easily; calibration data (--calib) would show whether it does"
RISKY = frozenset(
    {"Exp", "Pow", "square", "Log", "Reciprocal", "Softplus", "Sinh", "Cosh", "ReduceSum", "ReduceL1", "ReduceL2"}
    | {"ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"}
)
"""Operators that stay in float32 unless samples show that they keep within the range; "square" is x · x by Mul."""


def why_sensitive(node: ir.Node, half: HalfType, *, observed: bool) -> str | None:
    """Why an operator stays in float32 by default.

    Args:
        node: The node.
        half: The type that is asked for.
        observed: Whether samples showed all that it reads and makes.
    """
    if node.domain not in graph.STANDARD_DOMAINS:
        return None
    if node.op_type in SENSITIVE:
        return SENSITIVE[node.op_type]
    if is_training(node):
        return STATISTICS
    if node.op_type.startswith("Scatter") and graph.attribute_string(node, "reduction", "none") != "none":
        return "onnxruntime adds up what is scattered in float32 only"
    if node.op_type == "Dropout" and graph.input_at(node, _TRAINING_MODE) is not None:
        return _RANDOM
    operator = "square" if is_square(node) else node.op_type
    if operator not in RISKY:
        return None
    if half is HalfType.BF16:
        return f"its result is much less precise in {half.title}"
    return None if observed else _OVERFLOWS


def counted(model: ir.Model, elements: Elements, half: HalfType) -> dict[ir.Node, str]:
    """Float arithmetic on integers (sizes, positions) whose result becomes an integer, an angle or a comparison."""
    positions = _positions(model, elements)
    carriers = MOVERS | _ARITHMETIC | {"MatMul", "Range"}
    reason = f"it computes a size or a position, and {half.title} holds whole numbers only up to {half.whole}"
    found: dict[ir.Node, str] = {}
    for node in outside_functions(model):
        becomes_whole = node.op_type == "Cast" and elements.of(node.outputs[0]) in _COUNTS
        if node.op_type in _COMPARISONS | {"Sin", "Cos", "Tan"} or becomes_whole:
            found |= dict.fromkeys(_upstream(node, lambda value: value in positions, carriers), reason)
        if becomes_whole:
            found |= dict.fromkeys(_upstream(node, _has_one_reader, MOVERS | _ARITHMETIC), reason)
    return found


def crashing(model: ir.Model) -> dict[ir.Node, str]:
    """The Transposes that must not be half before a MatMul: onnxruntime up to 1.32 would crash when it loads them.

    A Cast stands between the two where the MatMul stays in float32, and where onnxruntime has no half kernel for it.
    The fusion of MatMul and Transpose then swaps Cast and Transpose, before it tests whether both factors have the
    same rank. Where they do not, it leaves a graph whose nodes are not connected. It makes this test only where the
    Transpose moves the first axis behind the batch axes.
    """
    found: dict[ir.Node, str] = {}
    for node in outside_functions(model):
        if graph.is_standard(node, "Transpose") and _moves_first_axis(node):
            readers = (user for user, _ in node.outputs[0].uses() if user.op_type in _PRODUCTS)
            if not all(_has_equal_ranks(user) for user in readers):
                found[node] = _CRASHES
    return found


def is_training(node: ir.Node) -> bool:
    """Whether it is a BatchNormalization that also gives the statistics of the batch."""
    if not graph.is_standard(node, "BatchNormalization"):
        return False
    return bool(graph.attribute_int(node, "training_mode", 0)) or any(out.name for out in node.outputs[1:])


def _moves_first_axis(node: ir.Node) -> bool:
    """Whether a Transpose makes [M, b0, …, bn, K] to [b0, …, bn, M, K], the last two perhaps swapped."""
    perm = graph.attribute_ints(node, "perm")
    if perm is None or len(perm) < 3:
        return False
    last = len(perm) - 1
    batch = perm[: last - 1]
    return batch == tuple(range(1, last)) and last in perm[last - 1 :]


def _has_equal_ranks(product: ir.Node) -> bool:
    ranks = [_rank(value) for value in product.inputs[:2]]
    return None not in ranks and ranks[0] == ranks[1]


def _rank(value: ir.Value | None) -> int | None:
    producer = None if value is None else value.producer()
    perm = graph.attribute_ints(producer, "perm") if producer is not None else None
    return graph.rank(value) if perm is None else len(perm)


def logarithms(model: ir.Model) -> dict[ir.Node, str]:
    """The nodes that make the argument of a logarithm: what float16 rounds to 0 would become -inf."""
    reason = "a logarithm reads its result, and what float16 rounds to 0 would become -inf"
    found: dict[ir.Node, str] = {}
    for node in outside_functions(model):
        if graph.is_standard(node, "Log"):
            chain = _upstream(node, _has_one_reader, MOVERS | _ARITHMETIC | _SUMS_BEFORE_LOG)
            found |= dict.fromkeys(chain, reason)
    return found


def reaches_softmax(node: ir.Node) -> bool:
    """Whether a softmax reads the result through additions, selections and movers: then it may be an attention mask."""
    seen: set[ir.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op_type in _SOFTMAX:
            return True
        if current.op_type in _TO_SOFTMAX:
            waiting += [use.node for out in current.outputs for use in out.uses()]
    return False


def _positions(model: ir.Model, elements: Elements) -> set[ir.Value]:
    """float32 values computed from whole numbers and constants alone."""
    found: set[ir.Value] = set()
    for node in outside_functions(model):
        if node.domain not in graph.STANDARD_DOMAINS or not any(elements.is_float(out) for out in node.outputs):
            continue
        floats = [value for value in node.inputs if elements.is_float(value) and graph.constant_tensor(value) is None]
        whole = node.op_type == "Cast" and node.inputs[0] is not None and elements.of(node.inputs[0]) in _COUNTS
        carries = node.op_type in MOVERS | _ARITHMETIC | {"MatMul"} and floats
        if whole or node.op_type == "Range" or (carries and all(value in found for value in floats)):
            found.update(out for out in node.outputs if elements.is_float(out))
    return found


def _upstream(node: ir.Node, follows: Callable[[ir.Value], bool], through: frozenset[str]) -> Iterator[ir.Node]:
    """The nodes of some operators before `node`, along values that `follows` accepts."""
    seen: set[ir.Node] = set()
    waiting = [value for value in node.inputs if value is not None and follows(value)]
    while waiting:
        producer = waiting.pop().producer()
        if producer is None or producer in seen or producer.op_type not in through:
            continue
        seen.add(producer)
        yield producer
        if not _begins(producer):
            waiting += [value for value in producer.inputs if value is not None and follows(value)]


def _begins(node: ir.Node) -> bool:
    """Whether the node makes small numbers of ordinary ones: the nodes before it may be half."""
    return node.op_type in _SQUARES or is_square(node)


def is_square(node: ir.Node) -> bool:
    """Whether a Mul multiplies a value by itself."""
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _has_one_reader(value: ir.Value) -> bool:
    """Whether a single node reads the numbers of an activation (twice, if it squares them)."""
    readers = {user for user, index in value.uses() if index not in any_input(user)}
    readers |= {user for user, _ in value.uses() if graph.is_standard(user, "Cast")}
    return graph.constant_tensor(value) is None and len(readers) == 1 and not value.is_graph_output()
