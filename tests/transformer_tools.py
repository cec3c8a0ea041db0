"""What tests of the transformer fusions share: nodes from words, models with inferred shapes, attention and Gelu."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import NodeProto, TensorProto, helper, numpy_helper

from modelopt.graph import invariants
from modelopt.measure.tolerance import OutputMismatch, compare_outputs
from tests.fusion_tools import apply, run

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE

NUMPY: dict[int, type[np.floating]] = {FLOAT: np.float32, HALF: np.float16, DOUBLE: np.float64}

CONTRIB = "com.microsoft"
Shape = Sequence[int | str]


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), output.split(), **attributes)


def inferred_model(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, Shape],
    *,
    opset: int,
    dtype: int = FLOAT,
    outputs: Sequence[str] = ("y",),
    in_nodes: bool = False,
) -> onnx.ModelProto:
    """The nodes with inferred shapes, as the engine hands them to a pass."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    graph = helper.make_graph(
        [*(constants if in_nodes else []), *nodes],
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [] if in_nodes else tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def assert_becomes(
    model: onnx.ModelProto, name: str, feeds: Mapping[str, np.ndarray], expected: Sequence[str]
) -> ir.Model:
    """`name` leaves exactly these operators (Constant aside), does so once, and the outputs stay."""
    fused = ir.from_proto(model)
    assert apply(name, fused).rewrites > 0
    assert apply(name, fused).rewrites == 0
    assert invariants.check(fused) == []
    assert [one.op_type for one in fused.graph if one.op_type != "Constant"] == list(expected)
    outputs = [value.name for value in model.graph.output]
    found = compare_outputs(run(ir.from_proto(model), dict(feeds)), run(fused, dict(feeds)), outputs)
    assert not isinstance(found, OutputMismatch), found
    return fused


def assert_left_alone(model: onnx.ModelProto, name: str) -> None:
    fused = ir.from_proto(model)
    before = ir.to_proto(fused).SerializeToString()
    assert apply(name, fused).rewrites == 0
    assert ir.to_proto(fused).SerializeToString() == before


def attention(mask: str, scale: str, *, layers: int, biased: bool) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Layers of attention with 4 heads of 2 and a residual, x → y."""
    rng = np.random.default_rng(5)
    weights = {"split": np.array([0, 0, 4, 2]), "join": np.array([0, 0, 8]), "k": np.array(2**0.5, np.float32)}
    nodes = []
    x = "x"
    for layer in range(layers):
        own = f"l{layer}_"
        for part in "qkv":
            weights[f"{own}w{part}"] = rng.standard_normal((8, 8)).astype(np.float32)
            weights[f"{own}b{part}"] = rng.standard_normal(8).astype(np.float32)
            nodes.append(node("MatMul", f"{x} {own}w{part}", f"{own}m{part}"))
            if biased:
                nodes.append(node("Add", f"{own}m{part} {own}b{part}", f"{own}a{part}"))
            nodes.append(node("Reshape", f"{own}{'a' if biased else 'm'}{part} split", f"{own}r{part}"))
            perm = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            nodes.append(node("Transpose", f"{own}r{part}", f"{own}t{part}", perm=perm))
        query = f"{own}tq"
        if scale == "query":
            nodes.append(node("Div", f"{query} k", f"{own}qs"))
            query = f"{own}qs"
        nodes.append(node("MatMul", f"{query} {own}tk", f"{own}s"))
        scores = f"{own}s"
        if scale == "scores":
            nodes.append(node("Mul", f"k {scores}", f"{own}d"))
            scores = f"{own}d"
        if mask != "none":
            nodes.append(node("Add", f"{scores} mask", f"{own}a"))
            scores = f"{own}a"
        nodes += [node("Softmax", scores, f"{own}p", axis=-1), node("MatMul", f"{own}p {own}tv", f"{own}c")]
        nodes.append(node("Transpose", f"{own}c", f"{own}t", perm=[0, 2, 1, 3]))
        nodes += [node("Reshape", f"{own}t join", f"{own}o"), node("Add", f"{own}o {x}", f"{own}y")]
        x = f"{own}y"
    nodes[-1].output[0] = "y"
    if not biased:
        weights = {name: array for name, array in weights.items() if "_b" not in name}
    return nodes, weights


ERF = {
    "torch": ["Div x root d", "Erf d e", "Add e one a", "Mul x a m", "Mul m half y"],
    "half first": ["Mul x half h", "Div x root d", "Erf d e", "Add one e a", "Mul h a y"],
    "half inside": ["Div x root d", "Erf d e", "Add e one a", "Mul a half g", "Mul g x y"],
    "over two": ["Mul x inverse d", "Erf d e", "Add e one a", "Mul x a m", "Div m two y"],
}

_LAST = ["Mul x a m", "Mul m half y"]

_END = ["Mul x half h", "Mul h a y"]
TANH = {
    "pow": ["Pow x three q", "Mul q c w", "Add x w u", "Mul u k v", "Tanh v t", "Add t one a", *_END],
    "products": ["Mul x x q", "Mul q x q3", "Mul c q3 w", "Add w x u", "Mul k u v", "Tanh v t", "Add one t a", *_END],
    "factored": [
        "Mul x k xk",
        "Mul x c xc",
        "Mul xc x xx",
        "Add one xx f",
        "Mul xk f v",
        "Tanh v t",
        "Add t one a",
        *_LAST,
    ],
}

NUMBERS = {
    "root": 2**0.5,
    "inverse": 0.5**0.5,
    "one": 1,
    "half": 0.5,
    "two": 2,
    "three": 3,
    "c": 0.044715,
    "k": 0.7978845608,
}


def gelu(lines: Sequence[str], dtype: int, **changed: float) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    words = [line.split() for line in lines]
    used = {name for line in words for name in line[1:-1]}
    weights = {name: np.array(v, NUMPY[dtype]) for name, v in (NUMBERS | changed).items() if name in used}
    return [node(line[0], " ".join(line[1:-1]), line[-1]) for line in words], weights
